//! What the variants load before the first stream asks for anything: the presets of the live runner, as far as their models
//! are there.

use std::path::Path;

use serde_json::{Value, json};

use super::StreamDiffusion;
use super::adapter;
use super::controls::DEPTH_MODEL;
use super::processors::BUILT;
use super::safety;
use crate::graph::DType;
use crate::models::ip_adapter::REPOSITORY;
use crate::models::pose::detector::{self, File};
use crate::models::weights::{Component, Repository};
use crate::pipeline::{ModelUse, Params, Pipeline};

/// A ControlNet of a preset.
pub(super) struct Control {
    pub model: &'static str,
    pub scale: f64,
    pub preprocessor: &'static str,
}

const fn control(model: &'static str, scale: f64, preprocessor: &'static str) -> Control {
    Control { model, scale, preprocessor }
}

/// Of `streamdiffusion` and `streamdiffusion-sdturbo`.
pub(super) const SDTURBO: &[Control] = &[
    control("thibaud/controlnet-sd21-openpose-diffusers", 0.711, "pose_tensorrt"),
    control("thibaud/controlnet-sd21-hed-diffusers", 0.2, "soft_edge"),
    control("thibaud/controlnet-sd21-canny-diffusers", 0.2, "canny"),
    control("thibaud/controlnet-sd21-depth-diffusers", 0.5, "depth_tensorrt"),
    control("thibaud/controlnet-sd21-color-diffusers", 0.2, "passthrough"),
    control("daydreamlive/TemporalNet2-stable-diffusion-2-1", 0.0, "temporal_net_tensorrt"),
];
/// Of `streamdiffusion-sd15`.
pub(super) const SD15: &[Control] = &[
    control("lllyasviel/control_v11f1p_sd15_depth", 1.0, "depth_tensorrt"),
    control("lllyasviel/control_v11f1e_sd15_tile", 0.0, "feedback"),
    control("lllyasviel/control_v11p_sd15_canny", 0.0, "canny"),
    control("daydreamlive/TemporalNet2-stable-diffusion-v1-5", 0.0, "temporal_net_tensorrt"),
];
/// Of `streamdiffusion-sdxl`.
pub(super) const SDXL: &[Control] = &[
    control("xinsir/controlnet-depth-sdxl-1.0", 0.7, "depth_tensorrt"),
    control("xinsir/controlnet-canny-sdxl-1.0", 0.2, "canny"),
    control("xinsir/controlnet-tile-sdxl-1.0", 0.15, "feedback"),
];

impl Control {
    /// Why it is left out whatever models are there.
    fn never(&self) -> Option<String> {
        if self.scale == 0.0 {
            return Some("its scale there is 0, so it would cost time and change nothing".to_owned());
        }
        (!BUILT.contains(&self.preprocessor))
            .then(|| format!("its preprocessor {} is not built here", self.preprocessor))
    }

    /// Why it is left out with the models below `models`.
    fn missing(&self, models: &Path) -> Option<String> {
        if let Some(reason) = self.never() {
            return Some(reason);
        }
        let weights = Repository::find(models, self.model)
            .and_then(|found| found.weights(Component::ControlNet, DType::F16).map(|_| ()));
        if let Err(error) = weights {
            return Some(error.to_string());
        }
        match self.preprocessor {
            "depth_tensorrt" => Repository::find(models, DEPTH_MODEL).err().map(|error| error.to_string()),
            "pose_tensorrt" => File::Half.find(models).err().map(|error| error.to_string()),
            _ => None,
        }
    }

    fn entry(&self) -> Value {
        json!({"model_id": self.model, "conditioning_scale": self.scale, "preprocessor": self.preprocessor})
    }
}

impl StreamDiffusion {
    /// The preset with those of its ControlNets that can be loaded from `models`, and a sentence for each other.
    pub(super) fn preset_from(&self, models: &Path) -> (Params, Vec<String>) {
        let mut params = self.initial();
        let mut there: Vec<Value> = Vec::new();
        let mut left_out: Vec<String> = adapter::leave_out(&mut params, models).into_iter().collect();
        for control in self.controls {
            match control.missing(models) {
                None => there.push(control.entry()),
                Some(reason) => left_out.push(format!("{} of the preset is left out: {reason}", control.model)),
            }
        }
        if !there.is_empty() {
            params.insert("controlnets".to_owned(), there.into());
        }
        (params, left_out)
    }

    /// All models of the preset.
    pub(super) fn used(&self) -> Vec<ModelUse> {
        let need = |id: &'static str, what: &str| ModelUse { id, what: what.to_owned(), required: true };
        let mut all = vec![need(self.model, "the model")];
        let tiny = if self.model.contains("xl") { "madebyollin/taesdxl" } else { "madebyollin/taesd" };
        all.push(need(tiny, "its tiny autoencoder"));
        if !self.model.contains("turbo") {
            all.push(need("latent-consistency/lcm-lora-sdv1-5", "use_lcm_lora"));
        }
        let more = |id, what: String| ModelUse { id, what, required: false };
        all.push(more(safety::MODEL, "use_safety_checker".to_owned()));
        if let Some(scale) = self.adapter {
            all.push(more(REPOSITORY, format!("IP-Adapter, {scale}")));
        }
        let used: Vec<&Control> = self.controls.iter().filter(|control| control.never().is_none()).collect();
        for control in &used {
            all.push(more(control.model, format!("ControlNet, {} with {}", control.scale, control.preprocessor)));
        }
        if used.iter().any(|control| control.preprocessor == "depth_tensorrt") {
            all.push(more(DEPTH_MODEL, "depth_tensorrt".to_owned()));
        }
        if used.iter().any(|control| control.preprocessor == "pose_tensorrt") {
            all.push(more(detector::REPOSITORY, "pose_tensorrt".to_owned()));
        }
        all
    }
}
