//! The parameter `ip_adapter`.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::params::{MODELS, TINY, refused};
use super::picture;
use crate::graph::DType;
use crate::models::ip_adapter::{Files, REPOSITORY, WeightType};
use crate::models::weights::{Family, Repository, WeightsError};
use crate::pipeline::params::Kind;
use crate::pipeline::{ParamError, Params};

pub(super) const KEY: &str = "ip_adapter";
/// The picture whose style is taken.
pub(super) const PICTURE: &str = "ip_adapter_style_image_url";
/// Longest text of a picture, in characters.
pub(super) const LONGEST: usize = 4_000_000;

/// An adapter that is switched on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Adapter {
    pub scale: f32,
    pub weight_type: WeightType,
    /// Its picture: an http(s) URL, a data URI, or base64.
    pub picture: Arc<str>,
}

const KEYS: &[&str] = &[
    "type",
    "ipadapter_model_path",
    "image_encoder_path",
    "insightface_model_name",
    "scale",
    "weight_type",
    "enabled",
];

/// The value when it is left out.
pub(super) fn off() -> Value {
    json!({"enabled": false})
}

/// Reads the object and the picture that goes with it. One that is switched off is checked and left out.
pub(super) fn read(given: &Value, text: &str, family: Family, model: &str) -> Result<Option<Adapter>, ParamError> {
    let Value::Object(object) = given else { return Err(refused(KEY, "Input should be a valid dictionary")) };
    let at = |key: &str| format!("{KEY}.{key}");
    if let Some(extra) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(refused(&at(extra), "Extra inputs are not permitted"));
    }
    let choice = |key: &str, of: &[&str], default: &'static str, nullable: bool| match object.get(key) {
        None => Ok(default.to_owned()),
        Some(Value::Null) if nullable => Ok(String::new()),
        Some(Value::String(name)) if of.contains(&name.as_str()) => Ok(name.clone()),
        Some(_) => Err(refused(&at(key), format!("Input should be '{}'", of.join("', '")))),
    };
    let kind = choice("type", &["regular", "faceid"], "regular", false)?;
    let types = WeightType::NAMES.map(|(name, _)| name);
    let weight_type = choice("weight_type", &types, "linear", true)?;
    choice("insightface_model_name", &["buffalo_l"], "buffalo_l", true)?;
    let regular = paths(family);
    for (key, own, all) in
        [("ipadapter_model_path", regular[0], &ADAPTERS[..]), ("image_encoder_path", regular[1], &ENCODERS[..])]
    {
        let path = choice(key, all, "", true)?;
        if !path.is_empty() && path != own {
            return Err(refused(&at(key), format!("it does not go with {model}; leave it out")));
        }
    }
    let scale = match object.get("scale") {
        None => 1.0,
        Some(given) => match (Kind::Float { default: 1.0, min: -1e6, max: 1e6 }).take(given) {
            Ok(value) => value.as_f64().unwrap_or(1.0) as f32,
            Err(reason) => return Err(refused(&at("scale"), reason)),
        },
    };
    let enabled = match object.get("enabled") {
        None => true,
        Some(given) => match (Kind::Bool { default: true }).take(given) {
            Ok(value) => value.as_bool().unwrap_or(true),
            Err(reason) => return Err(refused(&at("enabled"), reason)),
        },
    };
    // Also where nothing looks at it, so that a slip is told when it is made.
    if !text.is_empty() {
        picture::check(text).map_err(|reason| refused(PICTURE, reason))?;
    }
    if !enabled {
        return Ok(None);
    }
    if family == Family::Sd2 {
        return Err(refused(KEY, format!("Value error, IPAdapter is not supported for {model}")));
    }
    if kind == "faceid" {
        return Err(refused(&at("type"), "faceid is not built here; regular is"));
    }
    if text.is_empty() {
        return Err(refused(PICTURE, "Image URL or base64 string cannot be empty"));
    }
    // None is linear too.
    let weight_type = WeightType::named(&weight_type).unwrap_or(WeightType::Linear);
    Ok(Some(Adapter { scale, weight_type, picture: text.into() }))
}

/// Switches the adapter of a preset off where `models` does not have its files, and says so.
pub(super) fn leave_out(params: &mut Params, models: &Path) -> Option<String> {
    let model = params.get("model_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (_, family) = MODELS.iter().find(|(name, _)| *name == model)?;
    if !params.contains_key(KEY) {
        return None;
    }
    let there = || {
        let found = Repository::find(models, REPOSITORY)?;
        if let Some(files) = Files::of(found.root(), *family) {
            files.adapter()?;
            files.encoder(DType::F16)?;
        }
        Ok::<_, WeightsError>(())
    };
    let error = there().err()?;
    params.insert(KEY.to_owned(), off());
    Some(format!(
        "The preset is loaded without its IP-Adapter: {error}. `weir models pull {REPOSITORY}` fetches what it takes; until \
         the next start a stream that asks for it loads it when it begins"
    ))
}

const ADAPTERS: [&str; 4] = [
    "h94/IP-Adapter/models/ip-adapter_sd15.bin",
    "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl.bin",
    "h94/IP-Adapter-FaceID/ip-adapter-faceid_sd15.bin",
    "h94/IP-Adapter-FaceID/ip-adapter-faceid_sdxl.bin",
];
const ENCODERS: [&str; 2] = ["h94/IP-Adapter/models/image_encoder", "h94/IP-Adapter/sdxl_models/image_encoder"];

/// Adapter and encoder of a family, as requests may name them.
fn paths(family: Family) -> [&'static str; 2] {
    let i = usize::from(family == Family::Sdxl);
    [ADAPTERS[i], ENCODERS[i]]
}

/// The JSON Schema of the object.
pub(super) fn schema() -> Value {
    let types: Vec<Value> = WeightType::NAMES.iter().map(|(name, _)| Value::from(*name)).chain([Value::Null]).collect();
    json!({
        "title": "IP-Adapter",
        "description": format!("Gives the picture the style of another one. Not for models of the line SD 2.x; {TINY} has one \
            of made-up weights. scale, weight_type and the style picture change without a reload, switching it on the first \
            time reloads."),
        "type": "object",
        "additionalProperties": false,
        "default": off(),
        "properties": {
            "type": {"type": "string", "enum": ["regular", "faceid"], "default": "regular",
                "description": "Built here: regular."},
            "scale": {"type": "number", "default": 1.0},
            "weight_type": {"type": ["string", "null"], "enum": types,
                "default": "linear", "description": "How the strength is spread over layers or steps."},
            "enabled": {"type": "boolean", "default": true},
            "insightface_model_name": {"type": ["string", "null"], "enum": ["buffalo_l", null], "default": "buffalo_l"},
            "ipadapter_model_path": {"type": ["string", "null"], "default": null, "description": "Deprecated: follows the model."},
            "image_encoder_path": {"type": ["string", "null"], "default": null, "description": "Deprecated: follows the model."},
        },
    })
}
