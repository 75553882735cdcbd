//! StreamDiffusion: a diffusion model over live video, one graph a frame.
//!
//! What decides the graph (model, size, number of steps, guidance type, ControlNets, LoRAs) is loaded; everything else is a
//! tensor that [`FrameProcessor::apply`] writes between two frames. Behind an update, and at the first frame of a stream,
//! the rows of the stream batch are filled from that one frame, so that the update is seen at once.

mod controls;
mod load;
mod noise;
mod params;
mod place;
mod processor;
mod similar;
mod text;

#[cfg(test)]
mod tests;

use serde_json::Value;

use super::{Checked, FrameProcessor, LoadContext, ParamError, Params, Pipeline, PipelineError};

/// The pipeline `streamdiffusion`.
pub struct StreamDiffusion;

impl Pipeline for StreamDiffusion {
    fn name(&self) -> &'static str {
        "streamdiffusion"
    }

    fn about(&self) -> &'static str {
        "Paints every frame anew by a prompt: a diffusion model as one graph a frame."
    }

    fn schema(&self) -> Value {
        params::schema(self.name())
    }

    fn check(&self, params: &Params) -> Result<Checked, ParamError> {
        params::check(params)
    }

    fn load(&self, cx: &LoadContext<'_>, params: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError> {
        load::load(cx, params::Settings::of(params)?)
    }
}
