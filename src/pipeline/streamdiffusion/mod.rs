//! StreamDiffusion: a diffusion model over live video, one graph a frame.
//!
//! What decides the graph (model, size, number of steps, guidance type, ControlNets, LoRAs) is loaded; everything else is a
//! tensor that [`FrameProcessor::apply`] writes between two frames. Behind an update, and at the first frame of a stream,
//! the rows of the stream batch are filled from that one frame, so that the update is seen at once.

mod adapter;
mod canny;
mod controls;
mod folder;
mod gather;
mod load;
mod noise;
mod params;
mod picture;
mod place;
mod pose;
mod preset;
mod processor;
mod processors;
mod safety;
mod similar;
mod style;
mod text;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::{Value, json};

use crate::inference::Provider;
use crate::models::weights::Family;

use super::{Checked, FrameProcessor, LoadContext, ModelUse, ParamError, Params, Pipeline, PipelineError};

/// The pipeline `streamdiffusion` and its variants, which differ in what they load before the first stream.
pub struct StreamDiffusion {
    name: &'static str,
    model: &'static str,
    prompt: &'static str,
    t_index: &'static [u32],
    /// The preset's ControlNets.
    controls: &'static [preset::Control],
    /// Strength of the IP-Adapter, where there is one.
    adapter: Option<f64>,
}

impl StreamDiffusion {
    /// `streamdiffusion`: sd-turbo.
    pub const PLAIN: Self = Self { name: "streamdiffusion", ..Self::SDTURBO };
    /// `streamdiffusion-sdturbo`
    pub const SDTURBO: Self = Self {
        name: "streamdiffusion-sdturbo",
        model: "stabilityai/sd-turbo",
        prompt: "flowers",
        t_index: &[12, 20, 32],
        controls: preset::SDTURBO,
        adapter: None,
    };
    /// `streamdiffusion-sd15`
    pub const SD15: Self = Self {
        name: "streamdiffusion-sd15",
        model: "Lykon/dreamshaper-8",
        prompt: "cyberpunk desert structures, masterpiece",
        t_index: &[5, 15, 32],
        controls: preset::SD15,
        adapter: Some(0.5),
    };
    /// `streamdiffusion-sdxl`
    pub const SDXL: Self = Self {
        name: "streamdiffusion-sdxl",
        model: "stabilityai/sdxl-turbo",
        prompt: "flowers",
        t_index: &[36],
        controls: preset::SDXL,
        adapter: Some(0.6),
    };
}

/// The `model_id` that stands for any model of `family`, for weights that are given by their path.
pub fn name_of(family: Family) -> &'static str {
    match family {
        Family::Sd1 => "Lykon/dreamshaper-8",
        Family::Sd2 => "stabilityai/sd-turbo",
        Family::Sdxl => "stabilityai/sdxl-turbo",
    }
}

/// As [`name_of`], for a model that may take an LCM-LoRA, where there is one of its family.
pub fn name_with_lora_of(family: Family) -> &'static str {
    if family == Family::Sdxl { params::SDXL_BASE } else { name_of(family) }
}

/// As [`Pipeline::check`], with the steps of `t_index_list` in any order, as the nodes of ComfyUI take them.
///
/// # Errors
/// As there.
pub fn check_in_any_order(params: &Params) -> Result<Checked, ParamError> {
    params::check_in_any_order(params)
}

/// The `model_id` of the small model with made-up weights.
pub const MADE_UP: &str = params::TINY;

impl Pipeline for StreamDiffusion {
    fn name(&self) -> &'static str {
        self.name
    }

    /// The preset without its ControlNets, which are taken as far as their models are there.
    fn initial(&self) -> Params {
        let mut params = Params::new();
        params.insert("model_id".to_owned(), self.model.into());
        params.insert("prompt".to_owned(), self.prompt.into());
        params.insert("t_index_list".to_owned(), self.t_index.into());
        if let Some(scale) = self.adapter {
            params.insert(adapter::KEY.to_owned(), json!({"scale": scale, "enabled": true}));
        }
        params
    }

    fn preset(&self, models: &Path) -> (Params, Vec<String>) {
        self.preset_from(models)
    }

    fn models(&self) -> Vec<ModelUse> {
        self.used()
    }

    /// TensorRT takes minutes to build an engine, and each number of steps has its own: all of 1 to 4 are prepared there.
    fn preparations(&self, params: &Params, provider: Provider) -> Vec<Params> {
        let steps = self.check(params).ok().and_then(|checked| checked.values.get("t_index_list")?.as_array().cloned());
        let Some(steps) = steps.filter(|_| provider == Provider::Tensorrt) else { return vec![params.clone()] };
        let others = (1..=params::MOST_STEPS).filter(|&count| count != steps.len()).map(|count| {
            // Which steps they are is no part of the graph.
            let list: Vec<Value> = (0..count).filter_map(|i| steps.get(i).or(steps.last()).cloned()).collect();
            let mut other = params.clone();
            other.insert("t_index_list".to_owned(), list.into());
            other
        });
        std::iter::once(params.clone()).chain(others).collect()
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
