//! The process that works: it loads the pipeline, runs sessions, and tells the supervisor how they are.
//!
//! # Threads
//!
//! | thread | life | does |
//! | --- | --- | --- |
//! | main | engine | the tokio runtime: link, trickle, control, events, timers |
//! | `weir-model` | engine, one a slot | loads an instance of the pipeline, owns it, processes frames |
//! | `weir-load` | one load | loads another graph beside a running stream |
//! | `weir-trace` | engine | writes the trace of every frame, where one is wanted |
//! | `weir-sound` | session, once a pipeline works on sound | audio decoding, the pipeline's part of sound, audio encoding |
//! | `weir-decode` | session | transport stream, H.264, scale and crop |
//! | `weir-encode` | session | overlay, H.264, audio, transport stream |
//!
//! # Channels
//!
//! | from → to | holds | when full |
//! | --- | --- | --- |
//! | socket → decode ([`ingest::PIECES`]) | pieces of input | the socket is not read |
//! | decode → model ([`fresh::Fresh`]) | 24 pictures | the oldest is dropped, counted as `input`; a slow model takes the newest |
//! | decode → sound ([`sound::PACKETS`]) | 256 audio packets | the newest is dropped and counted |
//! | model → encode ([`outbox::Outbox`]) | 24 pictures, 256 audio packets | the oldest is dropped, counted as `output` |
//! | encode → socket ([`egress::PIECES`]) | pieces of output | the encoder waits, so pictures are dropped before it |
//! | session → events ([`events::Events`]) | 64 events | the newest is dropped and counted |
//! | session → data (`data::Data`) | 1000 items, 4 MiB | the oldest is dropped and counted |
//! | encoder → recording ([`record::Recording`]) | 256 pieces | the rest of the segment is left out, and the segment counted |
//! | engine → supervisor | 256 messages | progress messages are dropped, texts too and counted, intervals go on, others wait |

mod abandon;
mod config;
pub mod control;
mod current;
mod data;
pub mod egress;
pub mod events;
mod faults;
pub mod fetch;
pub mod fresh;
mod host;
mod image;
pub mod ingest;
pub mod model;
pub mod outbox;
mod process;
pub mod record;
pub mod refusal;
mod report;
mod session;
mod shared;
pub mod sound;
mod tap;
mod trace;

pub use config::{Config, UpdateMode};
pub use host::{EngineError, serve};
pub use process::run;
