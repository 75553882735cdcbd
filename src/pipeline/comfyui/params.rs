//! Parameters: a workflow beside what every pipeline has.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::pipeline::params::{Field, Kind, Table, Unknown};
use crate::pipeline::{Checked, ParamError, Params};
use crate::workflow::overrides::{self, is_override};
use crate::workflow::{self, Change, DEFAULT, Document, Plan, Refused, change};

const TABLE: Table = Table {
    title: "comfyui",
    fields: &[Field {
        name: "fallback",
        title: "When a frame fails",
        about: "What is shown in its place: the last good picture and after a while the overlay (hold), the overlay, black, \
                or the camera (passthrough).",
        kind: Kind::Choice { default: "hold", of: &["hold", "overlay", "black", "passthrough"] },
    }],
    unknown: Unknown::Refuse,
};

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
    let folded = folded(params)?;
    let checked = TABLE.check(&folded.rest)?;
    let plan = plan(&folded.workflow).map_err(|refused| wrong(folded.field, &refused))?;
    let mut values = (*checked.values).clone();
    values.insert("prompt".to_owned(), plan.document.to_json());
    Ok(Checked { values: Arc::new(values), given: Arc::new(params.clone()), ..checked })
}

/// Parameters with every way to name a workflow folded into one.
struct Folded {
    /// What is no workflow.
    rest: Params,
    /// The workflow, overrides put in.
    workflow: Value,
    /// The field that named it.
    field: &'static str,
    /// Whether there are overrides.
    overridden: bool,
    /// Whether it is a workflow by itself, and not overrides of another.
    whole: bool,
}

fn folded(params: &Params) -> Result<Folded, ParamError> {
    fold(params, || Ok(default_workflow()))
}

/// As [`folded`], with overrides put into what `base` gives where no workflow is named.
fn fold(params: &Params, base: impl FnOnce() -> Result<Value, ParamError>) -> Result<Folded, ParamError> {
    let mut rest = params.clone();
    let mut given: Vec<(&'static str, Value)> =
        FIELDS.into_iter().filter_map(|field| Some((field, rest.remove(field)?))).collect();
    // Nodes and overrides stand beside the other parameters, by their ids.
    let ids: Vec<String> = rest.iter().filter(|(_, value)| value.is_object()).map(|(id, _)| id.clone()).collect();
    let mut nodes = Params::new();
    let mut overrides = Params::new();
    for id in ids {
        let Some(value) = rest.remove(&id) else { continue };
        if is_override(&value) { &mut overrides } else { &mut nodes }.insert(id, value);
    }
    if !nodes.is_empty() {
        given.push(("prompt", Value::Object(nodes)));
    }
    if given.len() > 1 {
        let reason = "more than one workflow is given: prompt, prompts, or nodes; one is enough".to_owned();
        return Err(ParamError { field: "prompts".to_owned(), reason });
    }
    let (field, named) = given.pop().unwrap_or(("prompt", Value::Null));
    // Overrides under `prompt`.
    let named = match named {
        Value::Object(object) if !object.is_empty() && object.values().all(is_override) && !is_wrapped(&object) => {
            overrides.extend(object);
            Value::Null
        }
        other => other,
    };
    let whole = !is_default(&named);
    let mut workflow = if whole { named } else { base()? };
    if !overrides.is_empty() {
        let document = Document::read(&workflow).map_err(|refused| wrong(field, &refused))?;
        let document = overrides::apply(&document, &overrides).map_err(|refused| wrong("", &refused))?;
        workflow = document.to_json();
    }
    let overridden = !overrides.is_empty();
    Ok(Folded { rest, workflow, field, overridden, whole: whole || !overridden })
}

/// A saved file or a wrapping, whose values are objects too.
fn is_wrapped(object: &Params) -> bool {
    ["prompt", "prompts", "nodes"].iter().any(|key| object.contains_key(*key))
}

/// Nothing and the empty text are the default.
fn is_default(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

/// What an update makes of the parameters in force: overrides of single widgets go into the workflow that runs, anything else
/// takes the place of what was. What asks for other graphs is looked at as at a start, so that it is refused while the old
/// graphs still run.
pub fn follow(current: &Params, update: Params, models: &Path) -> Result<Params, ParamError> {
    let now = folded(current)?;
    let new = fold(&update, || Ok(now.workflow.clone()))?;
    let mut params = match (new.whole, new.overridden) {
        // As it was sent.
        (true, false) => update,
        (true, true) => new.rest,
        (false, _) => {
            let mut params = now.rest;
            params.extend(new.rest);
            params
        }
    };
    if new.overridden {
        params.insert("prompt".to_owned(), new.workflow);
    }
    let checked = check(&params)?;
    let old = plan(&now.workflow).map_err(|refused| wrong("", &refused))?;
    let graph = match change(&old, &plan_of(&checked)?) {
        Change::Graph => true,
        Change::Widgets(widgets) => widgets.iter().any(|at| !old.nodes[at.node].class.inputs[at.input].live),
    };
    if graph {
        ready(&checked, models)?;
    }
    Ok(params)
}

/// Whether the models are there; and, where none is needed, whether the graph can be built.
pub fn ready(checked: &Checked, models: &Path) -> Result<(), ParamError> {
    let size = [checked.size.width, checked.size.height];
    let workflow = checked.values.get("prompt").unwrap_or(&Value::Null);
    let examined = workflow::examine::examine(workflow, models, size);
    match examined.refused.0.is_empty() {
        true => Ok(()),
        false => Err(wrong("prompt", &examined.refused)),
    }
}

pub fn wrong(field: &str, refused: &Refused) -> ParamError {
    ParamError { field: field.to_owned(), reason: refused.to_string() }
}

/// The plan of a workflow in any form; nothing and the empty text are the default.
fn plan(value: &Value) -> Result<Plan, Refused> {
    match is_default(value) {
        true => workflow::plan(&default_workflow()),
        false => workflow::plan(value),
    }
}

/// What is shown in place of a frame that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The last good picture, after a while the overlay.
    Hold,
    /// The overlay.
    Overlay,
    /// Black.
    Black,
    /// The camera.
    Passthrough,
}

/// The fallback of checked parameters.
pub fn fallback_of(checked: &Checked) -> Fallback {
    match checked.values.get("fallback").and_then(Value::as_str) {
        Some("overlay") => Fallback::Overlay,
        Some("black") => Fallback::Black,
        Some("passthrough") => Fallback::Passthrough,
        _ => Fallback::Hold,
    }
}

/// The plan of checked parameters.
pub fn plan_of(checked: &Checked) -> Result<Plan, ParamError> {
    plan(checked.values.get("prompt").unwrap_or(&Value::Null)).map_err(|refused| wrong("prompt", &refused))
}
