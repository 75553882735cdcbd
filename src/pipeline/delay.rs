//! A stand-in for slow models: frames pass through late, loading takes long, and frames fail on request. For trying
//! drops, restarts and the overlay without a model.

use std::thread::sleep;
use std::time::Duration;

use super::params::{Field, Kind, Table, Unknown, count};
use super::{Applied, Checked, FrameProcessor, LoadContext, ParamError, Params, Pipeline, PipelineError};
use crate::frame::{PixelFormat, VideoFrame};

/// Frames pass through untouched after `frame_ms` of sleep each. Loading sleeps for `load_ms`, then fails with `fail_load`;
/// an update that changes either asks for a reload. With `fail_every` of N every Nth frame of a stream is an error.
pub struct Delay;

const fn milliseconds(name: &'static str, title: &'static str, about: &'static str, default: i64, max: i64) -> Field {
    Field { name, title, about, kind: Kind::Int { default, min: 0, max, multiple_of: 1 } }
}

const TABLE: Table = Table {
    title: "delay",
    fields: &[
        milliseconds("frame_ms", "Time a frame", "Milliseconds that each frame takes.", 40, 10_000),
        milliseconds("load_ms", "Time to load", "Milliseconds that loading takes; a change reloads.", 1_000, 600_000),
        Field {
            name: "fail_load",
            title: "Fail to load",
            about: "Loading fails at its end; a change reloads.",
            kind: Kind::Bool { default: false },
        },
        Field {
            name: "fail_every",
            title: "Fail every Nth frame",
            about: "Every Nth frame fails; 0 for none.",
            kind: Kind::Int { default: 0, min: 0, max: 1_000_000, multiple_of: 1 },
        },
        Field {
            name: "say_every",
            title: "Say something every Nth frame",
            about: "Every Nth frame says its number on the data channel; 0 for none.",
            kind: Kind::Int { default: 0, min: 0, max: 1_000_000, multiple_of: 1 },
        },
    ],
    unknown: Unknown::Refuse,
};

impl Pipeline for Delay {
    fn name(&self) -> &'static str {
        "delay"
    }

    fn about(&self) -> &'static str {
        "Passes frames through late, for trying slow models, drops and the overlay."
    }

    fn schema(&self) -> serde_json::Value {
        TABLE.schema()
    }

    fn check(&self, params: &Params) -> Result<Checked, ParamError> {
        TABLE.check(params)
    }

    fn load(&self, cx: &LoadContext<'_>, params: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError> {
        let load_ms = count(params, "load_ms");
        (cx.progress)(&format!("waiting for {load_ms} ms"));
        sleep(Duration::from_millis(load_ms));
        if fails(params) {
            return Err(PipelineError::Load("loading fails as asked by fail_load".into()));
        }
        Ok(Box::new(Sleeper::new(params)))
    }
}

fn fails(params: &Checked) -> bool {
    params.values.get("fail_load").and_then(serde_json::Value::as_bool).unwrap_or_default()
}

struct Sleeper {
    frame: Duration,
    load_ms: u64,
    fail_every: u64,
    say_every: u64,
    seen: u64,
    words: Vec<String>,
}

impl Sleeper {
    fn new(params: &Checked) -> Self {
        Self {
            frame: Duration::from_millis(count(params, "frame_ms")),
            load_ms: count(params, "load_ms"),
            fail_every: count(params, "fail_every"),
            say_every: count(params, "say_every"),
            seen: 0,
            words: Vec::new(),
        }
    }
}

impl FrameProcessor for Sleeper {
    fn format(&self) -> PixelFormat {
        PixelFormat::I420
    }

    fn apply(&mut self, params: &Checked) -> Result<Applied, PipelineError> {
        if count(params, "load_ms") != self.load_ms || fails(params) {
            return Ok(Applied::NeedsReload);
        }
        *self = Self { seen: self.seen, words: std::mem::take(&mut self.words), ..Self::new(params) };
        Ok(Applied::Now)
    }

    fn process(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError> {
        sleep(self.frame);
        self.seen += 1;
        if self.say_every > 0 && self.seen.is_multiple_of(self.say_every) {
            self.words.push(format!("frame {}", self.seen));
        }
        if self.fail_every > 0 && self.seen.is_multiple_of(self.fail_every) {
            return Err(PipelineError::Frame(format!("frame {} fails as asked by fail_every", self.seen)));
        }
        Ok(frame)
    }

    fn texts(&mut self) -> Vec<String> {
        std::mem::take(&mut self.words)
    }

    fn reset(&mut self) {
        self.seen = 0;
        self.words.clear();
    }
}
