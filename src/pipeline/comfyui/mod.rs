//! ComfyUI workflows: one graph a frame, made by [`crate::workflow`], with every live widget an input of it.
//!
//! An update that changes widgets is a tensor write before the next frame; what those widgets feed outside of the frame's graph,
//! such as a text encoder, runs again at that moment. An update that needs other graphs is loaded beside the stream.

mod kept;
mod params;
mod piped;
mod processor;
mod run;
mod sound;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::{Value, json};

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

    fn follow(&self, current: &Params, update: Params, models: &Path) -> Result<Params, ParamError> {
        params::follow(current, update, models)
    }

    fn ready(&self, checked: &Checked, models: &Path) -> Result<(), ParamError> {
        params::ready(checked, models)
    }

    fn takes_audio(&self, params: &Checked) -> bool {
        params::plan_of(params).is_ok_and(|plan| plan.media.audio_out)
    }

    fn load(&self, cx: &LoadContext<'_>, params: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError> {
        Ok(Box::new(processor::Workflow::load(cx, params)?))
    }
}

/// What a workflow is, for pages: see [`crate::workflow::examine::Examined::json`]; with `svg` also its picture. `workflow` may
/// be the parameters of a stream, whose `width` and `height` count then.
pub fn examine(workflow: &Value, models: &Path, svg: bool) -> Value {
    let side = |name| match workflow.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()) {
        Some(n) if (1..=16384).contains(&n) => n,
        _ => 512,
    };
    let examined = crate::workflow::examine::examine(workflow, models, [side("width"), side("height")]);
    let mut value = examined.json();
    if svg {
        value["svg"] = json!(examined.plan.as_ref().map(crate::workflow::svg));
    }
    value
}
