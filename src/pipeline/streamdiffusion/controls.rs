//! The list of ControlNets.

use serde_json::{Map, Value, json};

use super::params::{TINY, refused};
use crate::models::weights::Family;
use crate::pipeline::ParamError;
use crate::pipeline::params::Kind;

/// One ControlNet that is switched on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Control {
    pub model: String,
    pub scale: f32,
    pub preprocessor: Preprocessor,
}

/// What makes a ControlNet's picture of the frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Preprocessor {
    /// The frame itself.
    Passthrough,
    /// Canny's edges, by the lower and the upper threshold of the gradient, 0 to 2040. On the host.
    Canny([f32; 2]),
    /// The frame mixed with the model's last picture, which has this share of it. On the host.
    Feedback(f32),
    /// Soft edges, in the graph.
    SoftEdge,
    /// Depth, in the graph.
    Depth,
}

/// What the graph is to make of the frame for a ControlNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// Nothing; a picture is given with every frame.
    Outside,
    SoftEdge,
    Depth,
}

impl Preprocessor {
    /// The part of it that is in the graph.
    pub fn made(self) -> Made {
        match self {
            Preprocessor::SoftEdge => Made::SoftEdge,
            Preprocessor::Depth => Made::Depth,
            Preprocessor::Passthrough | Preprocessor::Canny(_) | Preprocessor::Feedback(_) => Made::Outside,
        }
    }

    /// Reads `preprocessor_params` of the preprocessor `name`; the reason is about the key that it gives.
    fn read(name: &str, params: Option<&Value>) -> Result<Self, (String, String)> {
        let empty = Map::new();
        let params = match params {
            None | Some(Value::Null) => &empty,
            Some(Value::Object(params)) => params,
            Some(_) => return Err((String::new(), "Input should be a valid dictionary".to_owned())),
        };
        let knows = |keys: &[&str]| match params.keys().find(|key| !keys.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) if keys.is_empty() => Err((format!(".{key}"), format!("{name} takes no parameters here"))),
            Some(key) => Err((format!(".{key}"), format!("{name} takes {} here", keys.join(" and ")))),
        };
        let number = |key: &str, default: f64, max: f64| match params.get(key) {
            None => Ok(default as f32),
            Some(given) => match (Kind::Float { default, min: 0.0, max }).take(given) {
                Ok(value) => Ok(value.as_f64().unwrap_or(default) as f32),
                Err(reason) => Err((format!(".{key}"), reason)),
            },
        };
        match name {
            "passthrough" | "external" => knows(&[]).map(|()| Preprocessor::Passthrough),
            "soft_edge" => knows(&[]).map(|()| Preprocessor::SoftEdge),
            "depth_tensorrt" => knows(&[]).map(|()| Preprocessor::Depth),
            "canny" => {
                knows(&["low_threshold", "high_threshold"])?;
                // No gradient is larger: 4 · 255 right, and as much down.
                let threshold = |key, default| number(key, default, 2040.0);
                Ok(Preprocessor::Canny([threshold("low_threshold", 100.0)?, threshold("high_threshold", 200.0)?]))
            }
            "feedback" => {
                knows(&["feedback_strength"])?;
                Ok(Preprocessor::Feedback(number("feedback_strength", 0.5, 1.0)?))
            }
            _ => Err((NAME.to_owned(), format!("{name} is not built here; {} are", BUILT.join(", ")))),
        }
    }
}

/// Stands for the name itself among what is wrong with a preprocessor.
const NAME: &str = "name";

/// The preprocessors that are built.
pub(super) const BUILT: &[&str] = &["passthrough", "external", "canny", "soft_edge", "depth_tensorrt", "feedback"];

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

const PREPROCESSORS: &[&str] = &[
    "blur",
    "canny",
    "depth",
    "depth_tensorrt",
    "external",
    "feedback",
    "hed",
    "lineart",
    "mediapipe_pose",
    "mediapipe_segmentation",
    "openpose",
    "passthrough",
    "pose_tensorrt",
    "realesrgan_trt",
    "sharpen",
    "soft_edge",
    "standard_lineart",
    "temporal_net_tensorrt",
    "upscale",
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
        let preprocessor = match object.get("preprocessor") {
            None => "passthrough",
            Some(Value::String(name)) if PREPROCESSORS.contains(&name.as_str()) => name,
            Some(_) => return Err(refused(&at("preprocessor"), "Input should be the name of a preprocessor")),
        };
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
        let preprocessor = Preprocessor::read(preprocessor, object.get("preprocessor_params")).map_err(
            |(key, reason)| match &*key {
                NAME => refused(&at("preprocessor"), reason),
                key => refused(&at(&format!("preprocessor_params{key}")), reason),
            },
        )?;
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
                "preprocessor": {"type": "string", "enum": PREPROCESSORS, "default": "passthrough",
                    "description": format!("Makes its picture of the frame. Built here: {}.", BUILT.join(", "))},
                "preprocessor_params": {"type": "object", "default": {},
                    "description": "canny: low_threshold, high_threshold; feedback: feedback_strength."},
                "enabled": {"type": "boolean", "default": true},
                "control_guidance_start": {"type": "number", "default": 0.0},
                "control_guidance_end": {"type": "number", "default": 1.0},
            },
        },
    })
}
