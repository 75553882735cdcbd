//! What can go wrong with a channel.

use super::protocol::EndReason;

/// An error of the trickle client. No text holds more of a URL than its host.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TrickleError {
    /// The text given as a channel URL is none.
    #[error("not a trickle URL: {0}; give http://host/path or https://host/path")]
    Url(&'static str),
    /// The channel is where none may be, or the setting that says where cannot be read.
    #[error("{0}")]
    Forbidden(String),
    /// The TLS settings cannot be used.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The server could not be reached or broke off.
    #[error("no answer from {host}: {reason}; check that the orchestrator runs and can be reached from here")]
    Unreachable {
        /// Host and port.
        host: Box<str>,
        /// The innermost cause.
        reason: String,
    },
    /// The server's certificate is not accepted.
    #[error(
        "the certificate of {host} is refused: {reason}; orchestrators sign their own, so pin it or set trickle.tls to skip"
    )]
    Certificate {
        /// Host and port.
        host: Box<str>,
        /// What TLS says.
        reason: String,
    },
    /// The server knows no such channel.
    #[error("{host} knows no such channel: it was never created, or it is closed")]
    NotFound {
        /// Host and port.
        host: Box<str>,
    },
    /// The server answered with a status that says nothing to a client.
    #[error("{host} answered {status}")]
    Status {
        /// Host and port.
        host: Box<str>,
        /// HTTP status.
        status: u16,
    },
    /// The channel has ended.
    #[error("the channel has ended: {0}")]
    Ended(EndReason),
    /// A segment was cut short; the channel goes on with the next one.
    #[error("segment {seq} broke: {reason}; the next one may follow")]
    Broken {
        /// Number of the segment.
        seq: u64,
        /// What happened.
        reason: Box<str>,
    },
    /// A document is longer than the caller allows; the rest was skipped.
    #[error("segment {seq} is longer than {limit} bytes")]
    TooLong {
        /// Number of the segment.
        seq: u64,
        /// Bytes allowed.
        limit: usize,
    },
    /// The work behind the channel was stopped, by the end of its owner or of the runtime.
    #[error("the channel's work was stopped")]
    Stopped,
}

impl TrickleError {
    /// True when the channel itself is over: nothing more can be read from it or written to it.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::NotFound { .. })
    }
}
