//! Weir runs live AI video: video comes in over trickle, every frame goes through a model, video goes out,
//! and each frame is measured.
//!
//! # The map
//!
//! | module | what it holds | may use |
//! | --- | --- | --- |
//! | [`cli`] | subcommands: flags in, words and tables out | everything |
//! | [`config`] | flags, variables and file to one checked configuration | the modules' own `Config` structs |
//! | [`supervisor`] | the process that answers: HTTP API, admission, the engine child and its restarts | `link`, `health`, `metering`, `tls`, `webrtc`, `trickle` |
//! | [`engine`] | the process that works: sessions and their stage threads | `link`, `pipeline`, `trickle`, `tls`, `media`, `metering`, `health`, `frame` |
//! | [`link`] | the messages between the two and their framing | nothing of ours |
//! | [`pipeline`] | the `FrameProcessor` trait, parameters, the registry, the overlay | `workflow`, `models`, `graph`, `inference`, `frame` |
//! | [`workflow`] | ComfyUI workflows: documents to checked plans to graphs; knows no stream | `models`, `graph` |
//! | [`models`] | CLIP, UNet, TAESD, ControlNet as graph builders; weights and LoRA reading | `graph` |
//! | [`graph`] | a typed ONNX builder; knows no model | nothing of ours |
//! | [`inference`] | ONNX Runtime sessions and providers | `frame` |
//! | [`media`] | transport stream, H.264, audio, scaling, time stamps | `frame` |
//! | [`trickle`] | protocol, subscriber, publisher, server | `tls` |
//! | [`webrtc`] | peers, their offers and media; calls no codec | `trickle`, `media`, `frame` |
//! | [`tls`] | how certificates are judged | nothing of ours |
//! | [`health`] | stream and process states as functions of observations and time | nothing of ours |
//! | [`metering`] | frame stamps to histograms and counters | `frame` |
//! | [`frame`] | frames, time stamps, pixel formats; plain data | nothing of ours |
//!
//! `integration-tests/layers.rs` checks these arrows. The settings in a module's `config.rs` may hold those of another.
//!
//! # The life of a frame
//!
//! `trickle` subscriber, chunk channel, decode thread (`media`), fresh queue A, model thread (`pipeline`), fresh
//! queue B, encode thread (`media`), byte channel, `trickle` publisher. The table of channels stands at the top of
//! [`engine`].

pub mod cli;
pub mod config;
pub mod engine;
pub mod frame;
pub mod graph;
pub mod health;
pub mod inference;
pub mod link;
pub mod media;
pub mod metering;
pub mod models;
pub mod pipeline;
pub mod supervisor;
pub mod tls;
pub mod trickle;
pub mod webrtc;
pub mod workflow;
