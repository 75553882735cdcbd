//! The flags `--model` and `--precision` as parameters of a pipeline.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::ProcessError;
use crate::models::weights::Repository;
use crate::pipeline::streamdiffusion::name_of;
use crate::pipeline::{Params, Pipeline};

/// Puts `value` in the place of the parameter `key`.
///
/// # Errors
/// The pipeline has no such parameter, or another value is given.
pub fn set(pipeline: &dyn Pipeline, params: &mut Params, key: &str, value: &str) -> Result<(), ProcessError> {
    if pipeline.schema()["properties"].get(key).is_none() {
        return Err(ProcessError::Usage(format!("the pipeline {} has no parameter {key}", pipeline.name())));
    }
    match params.get(key) {
        Some(given) if given != value => {
            Err(ProcessError::Usage(format!("the flags say {value}, the parameters say that {key} is {given}")))
        }
        _ => {
            params.insert(key.to_owned(), value.into());
            Ok(())
        }
    }
}

/// Chooses the model that `model` names: a path, or a name below `models`. Sets `model_id` unless the parameters do. Returns
/// where the weights are; `None` for a name that the pipeline finds by itself.
///
/// # Errors
/// The pipeline has no model, or there is none of that name.
pub fn choose(
    pipeline: &dyn Pipeline,
    params: &mut Params,
    model: &str,
    models: &Path,
) -> Result<Option<PathBuf>, ProcessError> {
    let schema = pipeline.schema();
    let known = schema["properties"]["model_id"]["enum"].as_array();
    if known.is_some_and(|known| known.contains(&Value::from(model))) {
        return set(pipeline, params, "model_id", model).map(|()| None);
    }
    if known.is_none() {
        return Err(ProcessError::Usage(format!("the pipeline {} has no model", pipeline.name())));
    }
    let load = |reason: String| ProcessError::Load { name: pipeline.name().into(), reason };
    let path = Path::new(model);
    let found = if path.exists() { Repository::at(path) } else { Repository::find(models, model) };
    let found = found.map_err(|error| load(error.to_string()))?;
    if !params.contains_key("model_id") {
        let family = found.family().map_err(|error| load(error.to_string()))?;
        params.insert("model_id".to_owned(), name_of(family).into());
    }
    Ok(Some(found.root().to_path_buf()))
}
