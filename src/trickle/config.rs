//! Settings of the trickle client.

use serde::{Deserialize, Serialize};

use crate::tls::TlsPolicy;

/// Settings of the trickle client.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// How certificates are judged.
    pub tls: TlsPolicy,
    /// Where channels may be: the words of [`Policy::parse`](super::Policy::parse).
    pub allow: String,
    /// Milliseconds to reach a server.
    pub connect_timeout_ms: u64,
    /// Milliseconds after which a GET without an answer is given up, with its connection, and asked again.
    pub silent_get_ms: u64,
    /// Milliseconds without progress after which a write, or the wait for its answer, breaks a segment. Also the
    /// longest that a request without a stream (DELETE, `/next`, create) may take.
    pub write_stall_ms: u64,
    /// Milliseconds that closing a publisher may take, answers of the last segments and the DELETE together.
    pub close_ms: u64,
    /// Failures in a row, without one success between, that end a channel.
    pub max_failures: u32,
    /// Milliseconds between two tries.
    pub retry_delay_ms: u64,
    /// Longest accepted JSON document on a control channel, in bytes.
    pub max_document: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tls: TlsPolicy::Skip,
            allow: "public,private,loopback".into(),
            connect_timeout_ms: 5_000,
            silent_get_ms: 20_000,
            write_stall_ms: 10_000,
            close_ms: 2_000,
            max_failures: 7,
            retry_delay_ms: 300,
            max_document: 1024 * 1024,
        }
    }
}

impl Config {
    /// The same for channels of this program's own server, which listens on loopback without TLS.
    #[must_use]
    pub fn own(&self) -> Self {
        Self { allow: "loopback".into(), tls: TlsPolicy::Skip, ..self.clone() }
    }

    /// A text for [`Self::allow`], if it is one.
    ///
    /// # Errors
    /// See [`Policy::parse`](super::Policy::parse).
    pub fn allowing(text: String) -> Result<String, String> {
        super::Policy::parse(&text).map(|_| text)
    }
}
