//! Frames pass through untouched.

use super::params::{Table, Unknown};
use super::{Applied, Checked, FrameProcessor, LoadContext, ParamError, Params, Pipeline, PipelineError};
use crate::frame::{PixelFormat, VideoFrame};

/// Frames pass through untouched, buffer and all. Unknown parameters are accepted; no update needs a reload.
pub struct Noop;

const TABLE: Table = Table { title: "noop", fields: &[], unknown: Unknown::Accept };

impl Pipeline for Noop {
    fn name(&self) -> &'static str {
        "noop"
    }

    fn about(&self) -> &'static str {
        "Passes every frame through untouched."
    }

    fn schema(&self) -> serde_json::Value {
        TABLE.schema()
    }

    fn check(&self, params: &Params) -> Result<Checked, ParamError> {
        TABLE.check(params)
    }

    fn load(&self, _: &LoadContext<'_>, _: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError> {
        Ok(Box::new(PassThrough))
    }
}

struct PassThrough;

impl FrameProcessor for PassThrough {
    fn format(&self) -> PixelFormat {
        PixelFormat::I420
    }

    fn apply(&mut self, _: &Checked) -> Result<Applied, PipelineError> {
        Ok(Applied::Now)
    }

    fn process(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError> {
        Ok(frame)
    }

    fn reset(&mut self) {}
}
