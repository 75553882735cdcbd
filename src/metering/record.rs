//! One frame as it is measured: where it can end, what its picture shows, the times between its stamps.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::frame::{Stamps, Timestamp};

/// What is written down of a frame that was handed to the output. Plain data: making one allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct FrameRecord {
    /// The session.
    pub session: u64,
    /// The frame's number within the session.
    pub seq: u64,
    /// The input's presentation time.
    pub pts: Timestamp,
    /// When it passed each stage, what it came in as, and what it was made with.
    pub stamps: Stamps,
    /// What its picture shows.
    pub kind: Kind,
    /// Pixels of the output picture.
    pub pixels: u64,
    /// Bytes of the output picture, containers included.
    pub bytes: u64,
    /// The pipeline. Graph and parameters stand in `stamps`.
    pub model: &'static str,
}

/// Where a frame can end before it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Every picture buffer was in use.
    Decode,
    /// It was damaged, and the decoder could not make a picture of it.
    Damaged,
    /// Before the first picture that can be decoded alone.
    KeyFrame,
    /// Above the frame rate that the operator set.
    RateCap,
    /// The model was busy and a newer frame came.
    Input,
    /// The model failed on it and there was nothing to repeat.
    Model,
    /// The encoder was busy and a newer frame came.
    Output,
    /// Its time stamp was not after the one before.
    Order,
    /// It had already been published by an engine that is gone.
    Resume,
    /// Its output segment was lost.
    Publish,
    /// The session ended first.
    End,
}

impl Place {
    /// Every place.
    pub const ALL: [Place; 11] = [
        Place::Decode,
        Place::Damaged,
        Place::KeyFrame,
        Place::RateCap,
        Place::Input,
        Place::Model,
        Place::Output,
        Place::Order,
        Place::Resume,
        Place::Publish,
        Place::End,
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Place::Decode => "decode",
            Place::Damaged => "damaged",
            Place::KeyFrame => "key_frame",
            Place::RateCap => "rate_cap",
            Place::Input => "input",
            Place::Model => "model",
            Place::Output => "output",
            Place::Order => "order",
            Place::Resume => "resume",
            Place::Publish => "publish",
            Place::End => "end",
        }
    }
}

/// What an output picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The model's picture of this frame.
    Processed,
    /// The model's last picture once more, because the similar-image filter took this frame for the one before.
    Similar,
    /// The last picture that passed the safety checker, or black, because the model's picture of this frame did not.
    Withheld,
    /// The last good picture once more, because the model failed on this frame.
    Repeated,
    /// The overlay.
    Overlay,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 5] = [Kind::Processed, Kind::Similar, Kind::Withheld, Kind::Repeated, Kind::Overlay];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Processed => "processed",
            Kind::Similar => "similar",
            Kind::Withheld => "withheld",
            Kind::Repeated => "repeated",
            Kind::Overlay => "overlay",
        }
    }
}

impl Kind {
    /// True for the answer to this very frame: the model ran, or one of the filters that were asked for said what to show.
    pub fn is_answer(self) -> bool {
        matches!(self, Kind::Processed | Kind::Similar | Kind::Withheld)
    }
}

/// The time between two stamps of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Received to decoded.
    Decode,
    /// Decoded to started: the wait for the model.
    Queue,
    /// Started to done.
    Model,
    /// Done to encoded, the wait for the encoder included.
    Encode,
    /// Encoded to published.
    Publish,
    /// Received to published.
    Total,
}

impl Stage {
    /// Every stage, in a frame's order.
    pub const ALL: [Stage; 6] =
        [Stage::Decode, Stage::Queue, Stage::Model, Stage::Encode, Stage::Publish, Stage::Total];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Decode => "decode",
            Stage::Queue => "queue",
            Stage::Model => "model",
            Stage::Encode => "encode",
            Stage::Publish => "publish",
            Stage::Total => "total",
        }
    }

    /// The time that a frame with these stamps spent here; `None` for a stage that it did not reach.
    pub fn span(self, stamps: &Stamps) -> Option<Duration> {
        let (from, to) = self.ends(stamps);
        Some(to?.saturating_duration_since(from?))
    }

    /// When a frame with these stamps began and ended this stage.
    pub fn ends(self, stamps: &Stamps) -> (Option<Instant>, Option<Instant>) {
        match self {
            Stage::Decode => (stamps.received, stamps.decoded),
            Stage::Queue => (stamps.decoded, stamps.started),
            Stage::Model => (stamps.started, stamps.done),
            Stage::Encode => (stamps.done, stamps.encoded),
            Stage::Publish => (stamps.encoded, stamps.published),
            Stage::Total => (stamps.received, stamps.published),
        }
    }
}

/// Latency figures of one stage in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Frames that were measured.
    #[serde(default)]
    pub count: u64,
    /// Half of the frames were faster.
    pub p50: f64,
    /// 95 of 100 frames were faster.
    pub p95: f64,
    /// 99 of 100 frames were faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

impl Percentiles {
    /// The figures of times in microseconds.
    pub(super) fn of(times: &hdrhistogram::Histogram<u32>) -> Self {
        let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        let (count, max) = (times.len(), times.max() as f64 / 1000.0);
        Self { count, p50: ms(0.50), p95: ms(0.95), p99: ms(0.99), max }
    }
}
