//! A span of a stream, with everything that was counted in it.

use std::collections::BTreeMap;
use std::ops::{AddAssign, Sub};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::record::{Kind, Percentiles, Place};

/// Counts of a stream, or of a part of it. They add up: the intervals of a stream sum to the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Pictures found in the input, those that were dropped before they were decoded included.
    pub frames_in: u64,
    /// Frames handed to the output, by what they show: `processed`, `similar`, `withheld`, `repeated`,
    /// `overlay`.
    pub frames_out: BTreeMap<String, u64>,
    /// Frames that were not handed to the output, by place.
    pub dropped: BTreeMap<String, u64>,
    /// Pixels of the input's pictures, as they came in.
    pub pixels_in: u64,
    /// Pixels handed to the output.
    pub pixels_out: u64,
    /// Bytes of input.
    pub bytes_in: u64,
    /// Bytes of output, audio and tables included.
    pub bytes_out: u64,
    /// Input segments that began.
    pub segments_in: u64,
    /// Output segments that ended whole.
    pub segments_out: u64,
    /// Microseconds that the model worked on frames of the stream.
    pub model_busy_us: u64,
    /// Microseconds that a GPU worked on frames of the stream, by CUDA's events; 0 without one.
    pub gpu_busy_us: u64,
    /// Pixels that the network's rule debits: see [`super::Debit`].
    pub billable_pixels: u64,
    /// Debits that these come to.
    pub debits: u64,
    /// Parameter updates that were put in force.
    pub updates_applied: u64,
    /// Parameter updates that were refused.
    pub updates_refused: u64,
    /// Faults.
    pub faults: u64,
}

impl Totals {
    /// Frames handed to the output, whatever they show.
    pub fn out(&self) -> u64 {
        self.frames_out.values().sum()
    }

    /// Frames that show the model's own answer to them, those that its similar-image filter passed
    /// by or its safety checker withheld included.
    pub fn processed(&self) -> u64 {
        let answers = Kind::ALL.into_iter().filter(|kind| kind.is_answer());
        answers.filter_map(|kind| self.frames_out.get(kind.label())).sum()
    }

    /// Frames that were not handed to the output.
    pub fn lost(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Frames lost at one place.
    pub fn lost_at(&self, place: Place) -> u64 {
        self.dropped.get(place.label()).copied().unwrap_or(0)
    }

    fn numbers(&self) -> [u64; 13] {
        [
            self.frames_in,
            self.pixels_in,
            self.pixels_out,
            self.bytes_in,
            self.bytes_out,
            self.segments_in,
            self.segments_out,
            self.model_busy_us,
            self.gpu_busy_us,
            self.billable_pixels,
            self.debits,
            self.updates_applied + self.updates_refused,
            self.faults,
        ]
    }

    /// True when nothing was counted.
    pub fn is_zero(&self) -> bool {
        self.numbers().iter().all(|&number| number == 0) && self.out() == 0 && self.lost() == 0
    }
}

fn each(ours: &mut Totals, theirs: &Totals, with: impl Fn(u64, u64) -> u64) {
    let map = |ours: &mut BTreeMap<String, u64>, theirs: &BTreeMap<String, u64>| {
        for (key, &value) in theirs {
            match ours.get_mut(key) {
                Some(have) => *have = with(*have, value),
                None => drop(ours.insert(key.clone(), with(0, value))),
            }
        }
        ours.retain(|_, value| *value != 0);
    };
    map(&mut ours.frames_out, &theirs.frames_out);
    map(&mut ours.dropped, &theirs.dropped);
    for (have, value) in [
        (&mut ours.frames_in, theirs.frames_in),
        (&mut ours.pixels_in, theirs.pixels_in),
        (&mut ours.pixels_out, theirs.pixels_out),
        (&mut ours.bytes_in, theirs.bytes_in),
        (&mut ours.bytes_out, theirs.bytes_out),
        (&mut ours.segments_in, theirs.segments_in),
        (&mut ours.segments_out, theirs.segments_out),
        (&mut ours.model_busy_us, theirs.model_busy_us),
        (&mut ours.gpu_busy_us, theirs.gpu_busy_us),
        (&mut ours.billable_pixels, theirs.billable_pixels),
        (&mut ours.debits, theirs.debits),
        (&mut ours.updates_applied, theirs.updates_applied),
        (&mut ours.updates_refused, theirs.updates_refused),
        (&mut ours.faults, theirs.faults),
    ] {
        *have = with(*have, value);
    }
}

impl AddAssign<&Totals> for Totals {
    fn add_assign(&mut self, other: &Totals) {
        each(self, other, u64::saturating_add);
    }
}

impl Sub<&Totals> for Totals {
    type Output = Totals;

    /// What came on top of `before`, counts that only ever grow.
    fn sub(mut self, before: &Totals) -> Totals {
        each(&mut self, before, u64::saturating_sub);
        self
    }
}

/// The last fault of an interval. Addresses are left out of its message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultNote {
    /// Which part: `decode`, `model`, `encode`, `trickle` or `params`.
    pub stage: String,
    /// What happened.
    pub message: String,
}

/// A span of a stream. The spans of a stream follow each other without a gap, over engines that were replaced too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interval {
    /// The supervisor's number for the session.
    pub session: u64,
    /// Counts the intervals of the stream from 0. A number that is missing is an interval that was lost.
    pub number: u64,
    /// How often the engine had been replaced.
    pub restarts: u32,
    /// Unix milliseconds at which it began, which is where the one before ended.
    pub from_ms: u64,
    /// Unix milliseconds at which it ended.
    pub to_ms: u64,
    /// True for the last one of the stream.
    pub last: bool,
    /// What was counted.
    #[serde(flatten)]
    pub totals: Totals,
    /// Frames that are still on their way: arrived, neither handed on nor dropped.
    pub in_flight: i64,
    /// Frames a second that show the model's own answer to them.
    pub fps: f64,
    /// Times of the frames handed to the output, in milliseconds, by stage.
    pub latency_ms: BTreeMap<String, Percentiles>,
    /// In the last interval of a stream: the same for all frames since the engine began with it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stream_latency_ms: BTreeMap<String, Percentiles>,
    /// The model or pipeline.
    pub model: String,
    /// The graph that the model ran at the end, 32 hex digits of the SHA-256 of its ONNX bytes; empty for a model without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub graph: String,
    /// Hash of the parameters in force at the end.
    pub params_hash: String,
    /// Counts the parameters in force at the end, from 0 at the session's start in this engine.
    pub revision: u32,
    /// Width and height of the input's pictures at the end, in pixels; 0 before the first.
    pub input_size: [u32; 2],
    /// Width and height of the output's pictures, in pixels.
    pub output_size: [u32; 2],
    /// FFmpeg's name of the decoder; empty before there is one.
    pub decoder: String,
    /// FFmpeg's name of the encoder; empty before there is one.
    pub encoder: String,
    /// The last fault, when there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultNote>,
    /// Unix nanoseconds up to which was billed.
    pub billed_until_ns: i64,
}

impl Interval {
    /// Its length in seconds of wall-clock time.
    pub fn seconds(&self) -> f64 {
        self.to_ms.saturating_sub(self.from_ms) as f64 / 1000.0
    }

    /// What the next engine needs to go on with the stream after this interval.
    pub fn carry(&self) -> Carry {
        Carry { number: self.number + 1, from_ms: self.to_ms, billed_until_ns: self.billed_until_ns }
    }

    /// The small object, `"type": "metering"`, that the network and the data channel hear of it.
    pub fn summary(&self) -> Map<String, Value> {
        let totals = &self.totals;
        let value = json!({
            "type": "metering",
            "interval": self.number,
            "from": self.from_ms,
            "to": self.to_ms,
            "frames_in": totals.frames_in,
            "frames_out": totals.out(),
            "frames_processed": totals.processed(),
            "frames_dropped": totals.lost(),
            "fps": self.fps,
            "latency_p99_ms": self.latency_ms.get("total").map(|total| total.p99),
            "billable_pixels": totals.billable_pixels,
            "model": self.model,
            "params_hash": self.params_hash,
        });
        match value {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }
}

/// Where the account of a stream was when its engine went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carry {
    /// Number of the next interval.
    pub number: u64,
    /// Unix milliseconds at which it begins.
    pub from_ms: u64,
    /// Unix nanoseconds up to which was billed.
    pub billed_until_ns: i64,
}
