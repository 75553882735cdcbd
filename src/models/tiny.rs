//! Small models with the topology of the real ones and made-up weights: what tests run, and what runs where no weights are.
//!
//! The configurations are those of SD 1.5, SD 2.1 and SDXL with few channels. The autoencoders' last layers are set right so
//! that latents and pictures have the spread of real ones; `integration-tests/golden/streamdiffusion` says how.

use std::collections::HashMap;

use serde_json::Value;

use super::ModelError;
use super::synthetic::{Calibration, Synthetic};

/// Features of a prompt's tokens.
pub const CONTEXT: usize = 32;

/// The `config.json` of the model called `name`: `unet-sd15`, `unet-sd21`, `unet-sdxl`, `controlnet-sd15-0` and the like,
/// `taesd`, `kl`, `depth-1`, `eva`, `vision`.
///
/// # Errors
/// [`ModelError::Config`] when there is no such model.
pub fn config(name: &str) -> Result<Value, ModelError> {
    let text = match name {
        "unet-sd15" => include_str!("tiny/unet-sd15.json"),
        "unet-sd21" => include_str!("tiny/unet-sd21.json"),
        "unet-sdxl" => include_str!("tiny/unet-sdxl.json"),
        "controlnet-sd15-0" => include_str!("tiny/controlnet-sd15-0.json"),
        "controlnet-sd15-1" => include_str!("tiny/controlnet-sd15-1.json"),
        "controlnet-sd21-0" => include_str!("tiny/controlnet-sd21-0.json"),
        "controlnet-sd21-1" => include_str!("tiny/controlnet-sd21-1.json"),
        "controlnet-sdxl-0" => include_str!("tiny/controlnet-sdxl-0.json"),
        "controlnet-sdxl-1" => include_str!("tiny/controlnet-sdxl-1.json"),
        "taesd" => include_str!("tiny/taesd.json"),
        "kl" => include_str!("tiny/kl.json"),
        "depth-1" => include_str!("tiny/depth.json"),
        "eva" => include_str!("tiny/eva.json"),
        "vision" => include_str!("tiny/vision.json"),
        _ => return Err(ModelError::config("model", format!("{name} is no small model"))),
    };
    serde_json::from_str(text).map_err(|error| ModelError::config(name, error.to_string()))
}

/// The weights of the model called `name`.
///
/// # Errors
/// [`ModelError::Config`] when the calibration cannot be read.
pub fn weights(name: &str) -> Result<Synthetic, ModelError> {
    let mut all: HashMap<String, HashMap<String, Calibration>> =
        serde_json::from_str(include_str!("tiny/calibration.json"))
            .map_err(|error| ModelError::config("calibration", error.to_string()))?;
    let gain = match name {
        "taesd" => 1.2,
        "eva" => 2.0,
        _ => 1.0,
    };
    Ok(Synthetic::new(name, gain).calibrated(all.remove(name).unwrap_or_default()))
}
