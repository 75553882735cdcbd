//! The trickle protocol: a client that reads and writes segments over HTTP/1.1, and a server.
//!
//! A channel is a run of segments numbered from 0. A publisher POSTs each one while it is being made, a subscriber
//! GETs each one while it is being written. [`Subscriber`] keeps one GET ahead, [`Publisher`] one POST; both recover
//! from broken connections and say why a channel ended. What to do after an answer is decided in [`protocol`], which
//! does no IO. Channel URLs are credentials: nothing here prints more of one than its host.

mod client;
mod config;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod policy;
mod post;
pub mod protocol;
mod publisher;
mod server;
mod subscriber;

pub use client::Client;
pub use config::Config;
pub use error::TrickleError;
pub use policy::Policy;
pub use protocol::{EndReason, Position as Start};
pub use publisher::{Begin, Done, Publisher, PublisherStats, SegmentWriter};
pub use server::{ChannelSnapshot, Server, ServerConfig};
pub use subscriber::{Segment, Subscriber, SubscriberStats};

pub use crate::tls::TlsPolicy;
