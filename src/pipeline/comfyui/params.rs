//! Parameters: a workflow beside what every pipeline has.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::pipeline::params::{Table, Unknown};
use crate::pipeline::{Checked, ParamError, Params};
use crate::workflow::{self, DEFAULT, Plan, Refused};

const TABLE: Table = Table { title: "comfyui", fields: &[], unknown: Unknown::Refuse };

/// The workflow, by either of its names.
const FIELDS: [&str; 2] = ["prompt", "prompts"];

fn default_workflow() -> Value {
    serde_json::from_str(DEFAULT).unwrap_or_default()
}

pub fn schema() -> Value {
    let mut schema = TABLE.schema();
    schema["properties"]["prompt"] = json!({
        "type": ["object", "string", "array"],
        "title": "Workflow",
        "description": "A ComfyUI workflow: API format as an object, a list of one, or either as text; or a file that \
                        the editor saved. Pictures pass through when it is left out.",
        "default": default_workflow(),
    });
    schema
}

/// Checks everything that can be checked without a file.
pub fn check(params: &Params) -> Result<Checked, ParamError> {
    let mut rest = params.clone();
    let given: Vec<(&str, Value)> = FIELDS.into_iter().filter_map(|field| Some((field, rest.remove(field)?))).collect();
    let checked = TABLE.check(&rest)?;
    let (field, plan) = match given.as_slice() {
        [] => ("prompt", plan(&Value::Null)),
        [(field, value)] => (*field, plan(value)),
        _ => {
            let reason = "prompt and prompts are given; one of them is enough".to_owned();
            return Err(ParamError { field: "prompts".to_owned(), reason });
        }
    };
    let plan = plan.map_err(|refused| wrong(field, &refused))?;
    let mut values = (*checked.values).clone();
    values.insert("prompt".to_owned(), plan.document.to_json());
    Ok(Checked { values: Arc::new(values), given: Arc::new(params.clone()), ..checked })
}

pub fn wrong(field: &str, refused: &Refused) -> ParamError {
    ParamError { field: field.to_owned(), reason: refused.to_string() }
}

/// The plan of a workflow in any form; nothing and the empty text are the default.
fn plan(value: &Value) -> Result<Plan, Refused> {
    match value {
        Value::Null => workflow::plan(&default_workflow()),
        Value::String(text) if text.trim().is_empty() => workflow::plan(&default_workflow()),
        given => workflow::plan(given),
    }
}

/// The plan of checked parameters.
pub fn plan_of(checked: &Checked) -> Result<Plan, ParamError> {
    plan(checked.values.get("prompt").unwrap_or(&Value::Null)).map_err(|refused| wrong("prompt", &refused))
}
