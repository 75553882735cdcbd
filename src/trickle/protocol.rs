//! The protocol without IO: header names, numbers, and what follows from each answer.
//!
//! [`Subscribing`] and [`Publishing`] hold a client's whole knowledge of a channel. They are fed what happened and
//! say what to do next and after which wait; they read no clock and open no connection.

mod publish;
mod reread;
mod subscribe;

use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HeaderName};

pub use publish::{Outcome, PostStep, Progress, Publishing};
pub use reread::Reread;
pub use subscribe::{Event, Get, Step, Subscribing};

/// Number of the segment that an answer is about.
pub const SEQ: HeaderName = HeaderName::from_static("lp-trickle-seq");
/// The channel's next number.
pub const LATEST: HeaderName = HeaderName::from_static("lp-trickle-latest");
/// Present once the channel is closed.
pub const CLOSED: HeaderName = HeaderName::from_static("lp-trickle-closed");
/// On a POST: close every lower segment.
pub const RESET: HeaderName = HeaderName::from_static("lp-trickle-reset");
/// MIME type of the channel, on its creation.
pub const EXPECT_CONTENT: HeaderName = HeaderName::from_static("expect-content");
/// Status of a GET for a segment that a living channel does not hold.
pub const NO_SEGMENT: u16 = 470;
/// Segments that a server keeps.
pub const SLOTS: u64 = 5;
/// Highest number that is accepted from a server; its successor still fits a signed 64-bit number.
pub const MAX_SEQ: u64 = i64::MAX as u64 - 1;

/// What to read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The segment of this number.
    Seq(u64),
    /// The segment being written, or the last one written (`-2`).
    Current,
    /// The next one that will be written (`-1`).
    Next,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seq(seq) => write!(f, "{seq}"),
            Self::Current => f.write_str("-2"),
            Self::Next => f.write_str("-1"),
        }
    }
}

/// Why a channel ended. Final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The server says so in the closed header.
    Closed,
    /// 404 after the channel had worked: it was closed before this request.
    Gone,
    /// 404 to the first request: the channel was never there.
    NotFound,
    /// Too many failures in a row.
    Failures,
    /// The server's certificate is refused.
    Certificate,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed by its server",
            Self::Gone => "gone from its server",
            Self::NotFound => "unknown to its server",
            Self::Failures => "too many failures in a row",
            Self::Certificate => "the server's certificate is refused",
        })
    }
}

/// When to give up, and how long to wait between two tries.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Failures in a row that end a channel; 0 counts as 1.
    pub max_failures: u32,
    /// Wait between two tries.
    pub retry_delay: Duration,
}

/// The head of an answer, as far as trickle cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Lp-Trickle-Seq`, if it is a usable number.
    pub seq: Option<u64>,
    /// `Lp-Trickle-Latest`, if it is a usable number.
    pub latest: Option<u64>,
    /// `Lp-Trickle-Closed` is present, with any value.
    pub closed: bool,
    /// The body is known to be empty.
    pub empty: bool,
}

impl Answer {
    /// Reads the head of an answer.
    pub fn read(status: u16, headers: &HeaderMap) -> Self {
        let number = |name| headers.get(name).and_then(|value: &http::HeaderValue| parse_seq(value.as_bytes()));
        Self {
            status,
            seq: number(SEQ),
            latest: number(LATEST),
            closed: headers.contains_key(CLOSED),
            empty: headers.get(CONTENT_LENGTH).is_some_and(|value| value.as_bytes() == b"0"),
        }
    }
}

/// Reads a segment number: decimal digits, at most [`MAX_SEQ`]. A sign, a fraction or anything else makes it `None`.
pub fn parse_seq(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    let mut seq: u64 = 0;
    for digit in text {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Nineteen digits fit 64 bits.
        seq = seq * 10 + u64::from(digit - b'0');
    }
    (seq <= MAX_SEQ).then_some(seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn numbers_are_plain_decimals() {
        assert_eq!(parse_seq(b"0"), Some(0));
        assert_eq!(parse_seq(b"007"), Some(7));
        assert_eq!(parse_seq(b"9223372036854775806"), Some(MAX_SEQ));
        for bad in ["", "-1", "+1", " 1", "1 ", "1.0", "9223372036854775807", "9999999999999999999", "0x1", "١"] {
            assert_eq!(parse_seq(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn closed_counts_by_presence_and_length_by_value() {
        let mut headers = HeaderMap::new();
        headers.insert(CLOSED, HeaderValue::from_static(""));
        headers.insert(SEQ, HeaderValue::from_static("-98"));
        headers.insert(LATEST, HeaderValue::from_static("12"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let answer = Answer::read(200, &headers);
        assert_eq!(answer, Answer { status: 200, seq: None, latest: Some(12), closed: true, empty: true });
    }

    #[test]
    fn positions_never_read_below_minus_two() {
        assert_eq!(Position::Current.to_string(), "-2");
        assert_eq!(Position::Next.to_string(), "-1");
        assert_eq!(Position::Seq(MAX_SEQ + 1).to_string(), "9223372036854775807");
    }
}
