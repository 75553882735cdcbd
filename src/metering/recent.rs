//! The last frames of a stream one by one, for those who watch it live.

use std::collections::VecDeque;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::meter::Clock;
use super::record::{FrameRecord, Place, Stage};
use crate::frame::Fingerprint;

/// Frames and drops that are kept: eight seconds of 60 frames a second.
const KEPT: usize = 480;

/// What happened to one frame, or to several at once.
#[derive(Clone, Copy)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation a frame")]
enum What {
    Out(FrameRecord),
    Dropped(Place, u64),
}

/// A frame that was handed to the output, or frames that were dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Happened {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// What the picture shows; empty for a drop.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub picture: String,
    /// Its number within the session.
    pub frame: u64,
    /// Microseconds in `decode`, `queue`, `model`, `encode` and `publish`; 0 for a stage that it did not pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages_us: Vec<u32>,
    /// Hash of the parameters that the model had for it; empty where it had none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub params_hash: String,
    /// The model's graph; empty for a model without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub graph: String,
    /// Microseconds that the GPU worked on it; nothing without a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_us: Option<u64>,
    /// Where frames were dropped; empty for a frame that was handed to the output.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dropped: String,
    /// How many.
    pub count: u64,
}

/// What happened after some point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Since {
    /// The point to ask from next.
    pub next: u64,
    /// Oldest first; what is older than is kept is missing.
    pub frames: Vec<Happened>,
}

/// The last frames and drops of a stream.
#[derive(Default)]
pub(super) struct Recent {
    /// The number of the next one.
    next: u64,
    kept: VecDeque<(Instant, What)>,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self { next: 0, kept: VecDeque::with_capacity(KEPT + 1) }
    }

    pub(super) fn out(&mut self, frame: &FrameRecord) {
        if let Some(at) = frame.stamps.published {
            self.add(at, What::Out(*frame));
        }
    }

    pub(super) fn dropped(&mut self, place: Place, count: u64, at: Instant) {
        self.add(at, What::Dropped(place, count));
    }

    fn add(&mut self, at: Instant, what: What) {
        self.next += 1;
        self.kept.push_back((at, what));
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }

    /// What came from the number `after` on. A number that is still to come belongs to an engine that is gone: all is told.
    pub(super) fn since(&self, after: u64, clock: &Clock) -> Since {
        let first = self.next - self.kept.len() as u64;
        let after = if after > self.next { 0 } else { after };
        let new = self.kept.iter().skip(after.saturating_sub(first) as usize);
        Since { next: self.next, frames: new.map(|(at, what)| told(clock.ms(*at), what)).collect() }
    }
}

fn told(at_ms: u64, what: &What) -> Happened {
    match what {
        What::Out(frame) => {
            let micros = |stage: &Stage| stage.span(&frame.stamps).map_or(0, |span| span.as_micros() as u32);
            let stages_us = Stage::ALL.iter().filter(|stage| **stage != Stage::Total).map(micros).collect();
            let picture = frame.kind.label().to_owned();
            let hash = |hash: Option<Fingerprint>| hash.map_or_else(String::new, |hash| hash.to_string());
            let (params_hash, graph) = (hash(frame.stamps.params), hash(frame.stamps.graph));
            let gpu_us = frame.stamps.gpu.map(|time| time.as_micros() as u64);
            let (frame, count) = (frame.seq, 1);
            Happened { at_ms, picture, frame, stages_us, params_hash, graph, gpu_us, count, ..Happened::default() }
        }
        What::Dropped(place, count) => {
            Happened { at_ms, dropped: place.label().to_owned(), count: *count, ..Happened::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::record::Kind;
    use super::*;
    use crate::frame::{Stamps, Timestamp};

    #[test]
    fn frames_and_drops_are_told_once_and_bounded() {
        let start = Instant::now();
        let clock = Clock { at: start, unix_ns: 5_000_000_000 };
        let at = |ms| Some(start + Duration::from_millis(ms));
        let mut recent = Recent::new();
        let times = Stamps { received: at(0), decoded: at(2), encoded: at(7), published: at(9), ..Stamps::default() };
        let (params, gpu) = (Some(Fingerprint([0x2a; 16])), Some(Duration::from_micros(5)));
        let stamps = Stamps { params, gpu, ..times };
        let frame = FrameRecord {
            session: 1,
            seq: 8,
            pts: Timestamp(0),
            stamps,
            kind: Kind::Overlay,
            pixels: 1,
            bytes: 1,
            model: "noop",
        };
        recent.out(&frame);
        recent.dropped(Place::Input, 3, start + Duration::from_millis(20));
        let told = recent.since(0, &clock);
        let out = Happened {
            at_ms: 5_009,
            picture: "overlay".into(),
            frame: 8,
            stages_us: vec![2_000, 0, 0, 0, 2_000],
            params_hash: "2a".repeat(16),
            gpu_us: Some(5),
            count: 1,
            ..Happened::default()
        };
        let lost = Happened { at_ms: 5_020, dropped: "input".into(), count: 3, ..Happened::default() };
        assert_eq!(told, Since { next: 2, frames: vec![out, lost.clone()] });
        assert_eq!(recent.since(1, &clock).frames, [lost]);
        assert_eq!(recent.since(2, &clock), Since { next: 2, frames: Vec::new() });
        // Another engine counts anew.
        assert_eq!(recent.since(99, &clock).frames.len(), 2);
        (0..2 * KEPT).for_each(|_| recent.out(&frame));
        assert_eq!(recent.since(0, &clock).frames.len(), KEPT);
        assert_eq!(recent.since(recent.next - 5, &clock).frames.len(), 5);
    }
}
