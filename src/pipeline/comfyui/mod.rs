//! ComfyUI workflows: one graph a frame, made by [`crate::workflow`], with every live widget an input of it.
//!
//! An update that changes widgets is a tensor write before the next frame; what those widgets feed outside of the frame's graph,
//! such as a text encoder, runs again at that moment. An update that needs other graphs is loaded beside the stream.

mod params;
mod processor;
mod run;

#[cfg(test)]
mod tests;

use serde_json::Value;

use super::{Checked, FrameProcessor, LoadContext, ParamError, Params, Pipeline, PipelineError};

/// The pipeline `comfyui`.
pub struct ComfyUi;

impl Pipeline for ComfyUi {
    fn name(&self) -> &'static str {
        "comfyui"
    }

    fn about(&self) -> &'static str {
        "Runs a ComfyUI workflow, compiled to one graph a frame."
    }

    fn schema(&self) -> Value {
        params::schema()
    }

    fn check(&self, params: &Params) -> Result<Checked, ParamError> {
        params::check(params)
    }

    fn load(&self, cx: &LoadContext<'_>, params: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError> {
        Ok(Box::new(processor::Workflow::load(cx, params)?))
    }
}
