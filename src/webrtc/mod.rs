//! WebRTC without media: peers on one port, what they send as access units and packets, and the way back.
//!
//! ICE, DTLS, SRTP, RTP and SCTP are `str0m`'s. This module gives it sockets and time ([`Gate`]), checks offers, and
//! turns what peers send into a transport stream on a channel ([`feed`]) and a channel into what peers receive
//! ([`play`]). It calls no codec.

mod config;
mod crypto;
pub mod feed;
mod gate;
mod ice;
mod metrics;
mod peer;
pub mod play;
mod port;
mod sdp;

pub use crate::media::VideoCodec;
pub use config::Config;
pub use crypto::provider;
pub use gate::{Answered, Gate, Remote};
pub use ice::{IceServer, links, servers};
pub use metrics::Metrics;
pub use peer::{Command, MAX_SAID, MAX_TEXT, PeerEvent, Sample, SampleKind};
pub use port::{Port, PortCounters};
pub use sdp::{MAX_SDP, Refused, Role, candidates, restarted, restarts};
