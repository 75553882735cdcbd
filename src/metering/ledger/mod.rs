//! The ledger: what every interval of every stream came to, as lines that cannot be changed or lost unseen.
//!
//! A ledger is a folder of files, `ledger-000000000001.jsonl` and so on, each named after the number of its first line.
//! A line is one JSON object. It carries the version of its shape, its number, which is one more than the line's
//! before, and the SHA-256 of the line before without its end. Whoever changes, removes or inserts a line breaks the
//! chain there; only the newest lines can be cut off unseen, so keep the newest hash elsewhere if that matters.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::interval::Interval;

mod read;

pub use read::{Broken, Chain, Found, LedgerError, Summary, Verified, files, read, verify};

/// Version of the shape of a line.
pub const VERSION: u32 = 1;

/// What the first line of a ledger has in place of a hash.
pub const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Longest line that is read, in bytes.
pub const LONGEST: usize = 64 * 1024;

/// Who a stream is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Stream {
    /// The client's id; may be empty.
    pub stream_id: String,
    /// The orchestrator's manifest id, by which it keeps its balance.
    pub manifest_id: String,
    /// The gateway's request id.
    pub request_id: String,
    /// Unix milliseconds at which the start request arrived.
    pub started_ms: u64,
}

/// What a GPU did during an interval. Shared by everything that ran on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuUse {
    /// Its name.
    pub name: String,
    /// Bytes in use at the end.
    pub memory_bytes: u64,
    /// Joules since the end of the interval before; nothing where the driver does not count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// Seconds since the end of the interval before in which a kernel ran, by the driver's own measure of its use at every
    /// look, once a second; nothing where it does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy_seconds: Option<f64>,
}

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// A runner began to write.
    Opened {
        /// Its version.
        version: String,
        /// Bytes of a torn last line that were removed.
        torn: u64,
    },
    /// An interval of a stream.
    Interval {
        /// The stream.
        stream: Stream,
        /// What happened in it.
        interval: Box<Interval>,
        /// What the GPU did, where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        gpu: Option<GpuUse>,
    },
    /// A stream was over.
    Ended {
        /// The stream.
        stream: Stream,
        /// The supervisor's number for the session.
        session: u64,
        /// Why.
        reason: String,
        /// True when it ended because of a fault on our side.
        fault: bool,
    },
    /// Lines could not be written, because the disk was full for too long.
    Lost {
        /// How many.
        count: u64,
    },
    /// A runner stopped writing.
    Closed {},
    /// Something that a newer version tells.
    #[serde(other)]
    Other,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// [`VERSION`].
    pub v: u32,
    /// Its number, from 1.
    pub seq: u64,
    /// SHA-256 of the line before, in hex.
    pub prev: String,
    /// Unix milliseconds at which it was made.
    pub at_ms: u64,
    /// What it tells.
    #[serde(flatten)]
    pub body: Body,
}

/// The end of a chain: what the next line must join on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Number of the next line.
    pub seq: u64,
    /// Hash of the last line.
    pub hash: String,
}

impl Default for Tip {
    fn default() -> Self {
        Self { seq: 1, hash: NOTHING.into() }
    }
}

impl Tip {
    /// The next line, with its end, and the tip after it.
    pub fn line(&self, at_ms: u64, body: Body) -> (String, Tip) {
        let entry = Entry { v: VERSION, seq: self.seq, prev: self.hash.clone(), at_ms, body };
        // Plain data of texts and numbers: writing it to memory does not fail.
        let mut line = serde_json::to_string(&entry).unwrap_or_default();
        let tip = Tip { seq: self.seq + 1, hash: hash(line.as_bytes()) };
        line.push('\n');
        (line, tip)
    }
}

/// SHA-256 in hex.
pub fn hash(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Name of the file whose first line has the number `seq`.
pub fn file_name(seq: u64) -> String {
    format!("ledger-{seq:012}.jsonl")
}

/// Feeds any bytes to the reader of lines; no bytes make it panic.
#[doc(hidden)]
pub fn fuzz_ledger(data: &[u8]) {
    let mut chain = Chain::new();
    for line in data.split(|&byte| byte == b'\n') {
        let _ = chain.push(line);
    }
}

#[cfg(test)]
mod tests;
