//! The list of ControlNets.

use serde_json::{Value, json};

use super::params::{TINY, refused};
use super::processors::{self, Processor};
use crate::models::weights::Family;
use crate::pipeline::ParamError;
use crate::pipeline::params::Kind;

/// One ControlNet that is switched on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Control {
    pub model: String,
    pub scale: f32,
    pub preprocessor: Processor,
}

/// The weights that stand for the engine of `depth_tensorrt`.
pub(super) const DEPTH_MODEL: &str = "depth-anything/Depth-Anything-V2-Small-hf";

/// The ControlNets of each family, in the order of the presets.
pub(super) fn known(family: Family) -> &'static [&'static str] {
    match family {
        Family::Sd2 => &[
            "thibaud/controlnet-sd21-openpose-diffusers",
            "thibaud/controlnet-sd21-hed-diffusers",
            "thibaud/controlnet-sd21-canny-diffusers",
            "thibaud/controlnet-sd21-depth-diffusers",
            "thibaud/controlnet-sd21-color-diffusers",
            "daydreamlive/TemporalNet2-stable-diffusion-2-1",
        ],
        Family::Sd1 => &[
            "lllyasviel/control_v11f1p_sd15_depth",
            "lllyasviel/control_v11f1e_sd15_tile",
            "lllyasviel/control_v11p_sd15_canny",
            "daydreamlive/TemporalNet2-stable-diffusion-v1-5",
        ],
        Family::Sdxl => &[
            "xinsir/controlnet-depth-sdxl-1.0",
            "xinsir/controlnet-canny-sdxl-1.0",
            "xinsir/controlnet-tile-sdxl-1.0",
            "daydreamlive/TemporalNet2-stable-diffusion-xl-base-1.0",
        ],
    }
}

/// The ControlNets of the made-up model.
pub(super) const TINY_CONTROLS: &[&str] = &["weir/tiny-control-0", "weir/tiny-control-1"];

const KEYS: &[&str] = &[
    "model_id",
    "conditioning_scale",
    "conditioning_channels",
    "preprocessor",
    "preprocessor_params",
    "enabled",
    "control_guidance_start",
    "control_guidance_end",
];

/// Reads the list. Entries that are switched off are checked and left out.
pub(super) fn read(given: &Value, family: Family, model: &str) -> Result<Vec<Control>, ParamError> {
    let Value::Array(list) = given else { return Err(refused("controlnets", "Input should be a valid list")) };
    let mut controls: Vec<Control> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, entry) in list.iter().enumerate() {
        let at = |key: &str| format!("controlnets.{i}.{key}");
        let Value::Object(object) = entry else {
            return Err(refused(&format!("controlnets.{i}"), "Input should be a valid dictionary"));
        };
        if let Some(extra) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(refused(&at(extra), "Extra inputs are not permitted"));
        }
        let Some(id) = object.get("model_id") else { return Err(refused(&at("model_id"), "Field required")) };
        let Some(id) = id.as_str() else { return Err(refused(&at("model_id"), "Input should be a valid string")) };
        let there = if model == TINY { TINY_CONTROLS } else { known(family) };
        if !there.contains(&id) {
            return Err(refused(
                "controlnets",
                format!("Value error, Invalid ControlNets for model {model}: ['{id}']"),
            ));
        }
        if seen.contains(&id) {
            return Err(refused("controlnets", format!("Value error, Duplicate controlnet model_id: {id}")));
        }
        seen.push(id);
        let name = object.get("preprocessor");
        if !name.is_none_or(Value::is_string) {
            return Err(refused(&at("preprocessor"), "Input should be the name of a preprocessor"));
        }
        let number = |key: &str, default: f64| match object.get(key) {
            None => Ok(default),
            Some(given) => match (Kind::Float { default, min: -1e6, max: 1e6 }).take(given) {
                Ok(value) => Ok(value.as_f64().unwrap_or(default)),
                Err(reason) => Err(refused(&at(key), reason)),
            },
        };
        let scale = number("conditioning_scale", 1.0)?;
        let enabled = match object.get("enabled") {
            None => true,
            Some(given) => match (Kind::Bool { default: true }).take(given) {
                Ok(value) => value.as_bool().unwrap_or(true),
                Err(reason) => return Err(refused(&at("enabled"), reason)),
            },
        };
        if !enabled {
            continue;
        }
        let params = object.get("preprocessor_params");
        let preprocessor = Processor::read(name, params, &at("preprocessor"), &at("preprocessor_params"))?;
        if number("control_guidance_start", 0.0)? != 0.0 || number("control_guidance_end", 1.0)? != 1.0 {
            return Err(refused(&at("control_guidance_start"), "guidance for a part of the steps is not built here"));
        }
        if !matches!(object.get("conditioning_channels").map(Value::as_u64), None | Some(Some(3))) {
            return Err(refused(&at("conditioning_channels"), "only pictures of 3 channels are built here"));
        }
        controls.push(Control { model: id.to_owned(), scale: scale as f32, preprocessor });
    }
    if family == Family::Sdxl && controls.len() > 3 {
        let reason =
            format!("Value error, SDXL models support a maximum of 3 enabled ControlNets, found {}.", controls.len());
        return Err(refused("controlnets", reason));
    }
    Ok(controls)
}

/// The JSON Schema of the list.
pub(super) fn schema() -> Value {
    let all: Vec<&str> =
        [Family::Sd2, Family::Sd1, Family::Sdxl].into_iter().flat_map(known).chain(TINY_CONTROLS).copied().collect();
    let [preprocessor, params] = processors::schema_of_one("Makes its picture of the frame.");
    json!({
        "title": "ControlNets",
        "description": "Networks that hold the picture to its input. A change of the models reloads, one of the scales does not.",
        "type": "array",
        "default": [],
        "items": {
            "type": "object",
            "required": ["model_id"],
            "additionalProperties": false,
            "properties": {
                "model_id": {"type": "string", "enum": all},
                "conditioning_scale": {"type": "number", "default": 1.0},
                "conditioning_channels": {"type": ["integer", "null"], "default": null},
                "preprocessor": preprocessor,
                "preprocessor_params": params,
                "enabled": {"type": "boolean", "default": true},
                "control_guidance_start": {"type": "number", "default": 0.0},
                "control_guidance_end": {"type": "number", "default": 1.0},
            },
        },
    })
}
