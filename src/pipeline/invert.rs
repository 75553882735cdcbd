//! Inverts colours: the smallest pipeline that runs a graph.

use std::time::Duration;

use super::params::{Field, Kind, Table, Unknown, number};
use super::{Applied, Checked, FrameProcessor, LoadContext, ParamError, Params, Pipeline, PipelineError};
use crate::frame::{Fingerprint, FramePool, PixelFormat, Size, VideoFrame};
use crate::graph::{DType, GraphBuilder, GraphError, Model};
use crate::inference::{Graph, InferenceError, Input, Load, Output, Provider, Runtime, Session};

/// Inverts colours by a strength: `out = round(x + (255 − 2x) · strength)` for every byte, halves to the even number.
pub struct Invert;

const TABLE: Table = Table {
    title: "invert",
    fields: &[Field {
        name: "strength",
        title: "Strength",
        about: "0 leaves the picture as it is, 1 inverts it, 0.5 is grey throughout.",
        kind: Kind::Float { default: 1.0, min: 0.0, max: 1.0 },
    }],
    unknown: Unknown::Refuse,
};

/// The graph for frames of `size`: `frame` u8 (1, H, W, 3) and `strength` f32 (1) to `frame_out` u8 (1, H, W, 3).
///
/// # Errors
/// None for sizes that parameters allow.
pub fn graph(size: Size) -> Result<Model, GraphError> {
    let mut g = GraphBuilder::new("invert");
    let frame = g.input("frame", DType::U8, [1, size.height.into(), size.width.into(), 3])?;
    let strength = g.input("strength", DType::F32, [1])?;
    let out = g.scope("invert", |g| {
        let x = g.cast(&frame, DType::F32)?;
        let twice = g.mul_scalar(&x, 2.0)?;
        let white = g.scalar(DType::F32, 255.0)?;
        let way = g.sub(&white, &twice)?;
        let step = g.mul(&way, &strength)?;
        let out = g.add(&x, &step)?;
        // With a strength of 0 to 1 the sum is between x and 255 − x, so it needs no clip.
        let out = g.round(&out)?;
        g.cast(&out, DType::U8)
    })?;
    g.output("frame_out", &out)?;
    g.finish()
}

impl Pipeline for Invert {
    fn name(&self) -> &'static str {
        "invert"
    }

    fn about(&self) -> &'static str {
        "Inverts colours by a strength, as one graph."
    }

    fn schema(&self) -> serde_json::Value {
        TABLE.schema()
    }

    fn check(&self, params: &Params) -> Result<Checked, ParamError> {
        TABLE.check(params)
    }

    fn load(&self, cx: &LoadContext<'_>, params: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError> {
        let size = params.size;
        (cx.progress)("loading ONNX Runtime");
        let runtime = Runtime::load(cx.inference).map_err(failed)?;
        (cx.progress)("building the graph");
        let model = graph(size).and_then(|model| model.to_bytes()).map_err(|e| PipelineError::Load(e.to_string()))?;
        (cx.progress)("loading the graph");
        let engines = cx.engines();
        let how = Load {
            name: "invert",
            frames: true,
            engines: Some(&engines),
            progress: Some(cx.progress),
            ..Load::new(cx.inference)
        };
        let mut session = Session::load(runtime, &how, Graph::Bytes(&model)).map_err(failed)?;
        let shape = [1, i64::from(size.height), i64::from(size.width), 3];
        let frame = session.input("frame", &shape).map_err(failed)?;
        let strength = session.input("strength", &[1]).map_err(failed)?;
        let out = session.output("frame_out", &shape).map_err(failed)?;
        let mut inverter = Inverter { session, frame, strength, out, size, pool: cx.pool.clone() };
        inverter.hold(params).map_err(failed)?;
        (cx.progress)("running it once");
        let bytes = PixelFormat::Rgb24.bytes(size);
        inverter.run(&vec![0; bytes], &mut vec![0; bytes]).map_err(failed)?;
        Ok(Box::new(inverter))
    }
}

fn failed(error: InferenceError) -> PipelineError {
    PipelineError::Load(error.to_string())
}

struct Inverter {
    session: Session,
    frame: Input<u8>,
    strength: Input<f32>,
    out: Output<u8>,
    size: Size,
    pool: FramePool,
}

impl Inverter {
    fn hold(&mut self, params: &Checked) -> Result<(), InferenceError> {
        self.session.hold(&self.strength, &[number(params, "strength") as f32])
    }

    fn run(&mut self, from: &[u8], to: &mut [u8]) -> Result<(), InferenceError> {
        self.session.run(&[self.frame.feed(from)], &mut [self.out.fetch(to)])
    }
}

impl FrameProcessor for Inverter {
    fn format(&self) -> PixelFormat {
        PixelFormat::Rgb24
    }

    fn apply(&mut self, params: &Checked) -> Result<Applied, PipelineError> {
        if params.size != self.size {
            return Ok(Applied::NeedsReload);
        }
        self.hold(params).map_err(|error| PipelineError::Frame(error.to_string()))?;
        Ok(Applied::Now)
    }

    fn process(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError> {
        if frame.size != self.size || frame.format != PixelFormat::Rgb24 {
            let reason = format!("a frame of {} {:?} came, {} RGB is needed", frame.size, frame.format, self.size);
            return Err(PipelineError::Frame(reason));
        }
        let mut out = output(&self.pool, &frame)?;
        self.run(&frame.data, &mut out.data).map_err(|error| PipelineError::Frame(error.to_string()))?;
        Ok(out)
    }

    fn provider(&self) -> Option<Provider> {
        Some(self.session.provider())
    }

    fn graph(&self) -> Option<Fingerprint> {
        Some(self.session.graph())
    }

    fn gpu_time(&mut self) -> Option<Duration> {
        self.session.gpu_time()
    }

    fn reset(&mut self) {}
}

/// A buffer for the result of `frame`, with its identity and times.
fn output(pool: &FramePool, frame: &VideoFrame) -> Result<VideoFrame, PipelineError> {
    let mut out = VideoFrame::take(pool, frame.size, frame.format, frame.pts)
        .ok_or_else(|| PipelineError::Frame("every picture buffer is in use".to_owned()))?;
    out.seq = frame.seq;
    out.color = frame.color;
    out.stamps = frame.stamps;
    Ok(out)
}
