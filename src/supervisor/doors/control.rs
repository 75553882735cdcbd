//! The messages of the data channel `control`, as ComfyStream's pages send them, with an id of the request where they
//! have one.
//!
//! | request | reply |
//! | --- | --- |
//! | `get_nodes` | `nodes_info` |
//! | `update_prompts` `prompts` | `prompts_updated` |
//! | `update_params` `params` (ours) | `params_updated` |
//! | `update_resolution` `width` `height` | `resolution_updated` |
//! | `pause_prompts`, `resume_prompts`, `stop_prompts` | `prompts_paused`, `prompts_resumed`, `prompts_stopped` |
//!
//! All but the first say `success` and, where that is false, `error`. A message that is none of these has no reply, unless
//! it has a `request_id`: then it is `error`.

use serde_json::{Map, Value, json};

use crate::link::Outcome;
use crate::supervisor::hub::{Hub, HubError};

/// What is to be done after the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    None,
    /// Pictures and sound stop, or go on.
    Pause(bool),
    /// The stream ends.
    Stop,
}

/// Answers one message about `session`; without a session, as for an echo, everything succeeds and nothing happens.
pub(super) async fn reply(hub: &Hub, session: Option<u64>, text: &str) -> (Option<String>, Action) {
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    let kind = message.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut action = Action::None;
    let reply = match kind {
        "get_nodes" => Some(json!({ "type": "nodes_info", "nodes": nodes(hub, session).await })),
        "update_prompts" => Some(told("prompts_updated", update_prompts(hub, session, &message).await)),
        "update_params" => Some(told("params_updated", update_params(hub, session, &message).await)),
        "update_resolution" => Some(told("resolution_updated", update_resolution(hub, session, &message).await)),
        "pause_prompts" | "resume_prompts" => {
            action = Action::Pause(kind == "pause_prompts");
            Some(told(if kind == "pause_prompts" { "prompts_paused" } else { "prompts_resumed" }, Ok(())))
        }
        "stop_prompts" => {
            action = Action::Stop;
            Some(told("prompts_stopped", Ok(())))
        }
        other => {
            tracing::debug!(kind = other, "A control message is of no known type.");
            let known = message.get("request_id").is_some();
            known.then(|| json!({ "type": "error", "error": format!("`{other}` is no known type of message") }))
        }
    };
    let reply = reply.map(|mut reply| {
        if let (Some(id), Value::Object(reply)) = (message.get("request_id"), &mut reply) {
            reply.insert("request_id".into(), id.clone());
        }
        reply.to_string()
    });
    (reply, action)
}

fn told(kind: &str, result: Result<(), String>) -> Value {
    match result {
        Ok(()) => json!({ "type": kind, "success": true }),
        Err(error) => json!({ "type": kind, "success": false, "error": error }),
    }
}

/// The parameters in force.
fn params(hub: &Hub, session: u64) -> Map<String, Value> {
    let views = hub.book().views();
    views.into_iter().find(|view| view.session == session).map(|view| view.params).unwrap_or_default()
}

/// The workflows among the parameters, whichever way they were given.
fn prompts(params: &Map<String, Value>) -> Vec<Value> {
    match params.get("prompts").or_else(|| params.get("prompt")) {
        Some(Value::Array(prompts)) if prompts.iter().all(Value::is_object) => prompts.clone(),
        Some(prompt @ Value::Object(_)) => vec![prompt.clone()],
        _ => Vec::new(),
    }
}

async fn put(hub: &Hub, session: u64, params: Map<String, Value>) -> Result<(), String> {
    hub.update(Some(session), params).await.map_err(|error| match error {
        HubError::Engine(Outcome::BadParams { field, reason }) if field.is_empty() => reason,
        HubError::Engine(Outcome::BadParams { field, reason }) => format!("{field}: {reason}"),
        other => other.to_string(),
    })
}

/// Puts the workflows of `message.prompts` in the place of those that run. Without a session nothing happens.
///
/// # Errors
/// Why not, for people; the old ones stay.
pub(in crate::supervisor) async fn update_prompts(
    hub: &Hub,
    session: Option<u64>,
    message: &Value,
) -> Result<(), String> {
    let Some(given) = message.get("prompts") else { return Err("Missing 'prompts' in control message".into()) };
    let Some(session) = session else { return Ok(()) };
    let mut params = params(hub, session);
    let running = prompts(&params).len();
    let given = match given {
        Value::Array(given) => given.clone(),
        one => vec![one.clone()],
    };
    if running > 0 && given.len() != running {
        return Err("Number of updated prompts must match the number of currently running prompts.".into());
    }
    params.remove("prompt");
    params.insert("prompts".into(), given.into());
    put(hub, session, params).await.map_err(|error| format!("Prompt update failed: {error}"))
}

async fn update_params(hub: &Hub, session: Option<u64>, message: &Value) -> Result<(), String> {
    let Some(Value::Object(given)) = message.get("params") else {
        return Err("Missing 'params' in control message".into());
    };
    match session {
        Some(session) => put(hub, session, given.clone()).await,
        None => Ok(()),
    }
}

async fn update_resolution(hub: &Hub, session: Option<u64>, message: &Value) -> Result<(), String> {
    let (Some(width), Some(height)) = (message.get("width"), message.get("height")) else {
        return Err("Missing 'width' or 'height' in control message".into());
    };
    let Some(session) = session else { return Ok(()) };
    let mut params = params(hub, session);
    params.insert("width".into(), width.clone());
    params.insert("height".into(), height.clone());
    put(hub, session, params).await
}

/// What can be turned, in ComfyStream's shape: workflow by workflow, node by node. A pipeline without workflows shows its
/// own parameters as one node.
async fn nodes(hub: &Hub, session: Option<u64>) -> Value {
    let Some(session) = session else { return json!({}) };
    let params = params(hub, session);
    let prompts = prompts(&params);
    if !prompts.is_empty() {
        let mut all = Map::new();
        for (at, prompt) in prompts.iter().enumerate() {
            // With ranges and choices where the engine knows the classes.
            let known = hub.examine(prompt.clone(), false).await.ok().and_then(|mut examined| widgets(&mut examined));
            all.insert(at.to_string(), known.unwrap_or_else(|| workflow(prompt)));
        }
        return Value::Object(all);
    }
    let about = hub.describe().await.unwrap_or_default();
    let name = about.get("name").and_then(Value::as_str).unwrap_or("pipeline");
    let schema = about.pointer("/schema/properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let input = |(field, schema): (&String, &Value)| {
        let value = params.get(field).or_else(|| schema.get("default")).cloned().unwrap_or_default();
        let mut input = json!({ "value": value, "type": of_schema(schema), "widget": widget(schema) });
        for (ours, theirs) in [("minimum", "min"), ("maximum", "max"), ("enum", "options")] {
            if let Some(bound) = schema.get(ours) {
                input[theirs] = bound.clone();
            }
        }
        (field.clone(), input)
    };
    let inputs: Map<String, Value> = schema.iter().map(input).collect();
    json!({ "0": { name: { "class_type": name, "inputs": inputs } } })
}

/// What the engine knows of the inputs of the one workflow that was examined, without links to other nodes, which are no values that could be turned.
fn widgets(examined: &mut Value) -> Option<Value> {
    let Some(Value::Object(mut nodes)) = examined.pointer_mut("/nodes/0").map(Value::take) else { return None };
    for node in nodes.values_mut() {
        if let Some(inputs) = node.get_mut("inputs").and_then(Value::as_object_mut) {
            inputs.retain(|_, input| input.get("widget").is_some_and(|widget| !widget.is_null()));
        }
    }
    (!nodes.is_empty()).then_some(Value::Object(nodes))
}

fn of_schema(schema: &Value) -> &'static str {
    match schema.get("type").and_then(Value::as_str) {
        _ if schema.get("enum").is_some() => "combo",
        Some("integer") => "INT",
        Some("number") => "FLOAT",
        Some("boolean") => "BOOLEAN",
        Some("string") => "STRING",
        _ => "unknown",
    }
}

fn widget(schema: &Value) -> &'static str {
    match of_schema(schema) {
        "combo" => "combo",
        "INT" | "FLOAT" => "number",
        "BOOLEAN" => "toggle",
        _ => "text",
    }
}

fn workflow(prompt: &Value) -> Value {
    let node = |(id, node): (&String, &Value)| {
        let class = node.get("class_type").cloned().unwrap_or_default();
        let inputs = node.get("inputs").and_then(Value::as_object).cloned().unwrap_or_default();
        // A link to another node is no value that could be turned.
        let values = inputs.into_iter().filter(|(_, value)| !value.is_array());
        let inputs: Map<String, Value> =
            values.map(|(name, value)| (name, json!({ "type": of_value(&value), "value": value }))).collect();
        (id.clone(), json!({ "class_type": class, "inputs": inputs }))
    };
    prompt.as_object().map(|prompt| prompt.iter().map(node).collect()).unwrap_or_default()
}

fn of_value(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "BOOLEAN",
        Value::Number(number) if number.is_f64() => "FLOAT",
        Value::Number(_) => "INT",
        Value::String(_) => "STRING",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_knows_is_shown_without_links() {
        let seed = json!({"value": 7, "type": "INT", "widget": "number", "min": 0});
        let mut examined = json!({"nodes": {"0": {"3": {"class_type": "K", "title": "", "inputs": {
            "seed": seed, "model": {"value": ["1", 0], "type": "MODEL", "widget": null},
        }}}}});
        let shown = widgets(&mut examined);
        assert_eq!(shown, Some(json!({"3": {"class_type": "K", "title": "", "inputs": {"seed": seed}}})));
        assert_eq!(widgets(&mut json!({"nodes": null})), None);
        assert_eq!(widgets(&mut json!({})), None);
    }

    #[test]
    fn workflows_show_what_can_be_turned() {
        let prompt = json!({"3": {"class_type": "KSampler", "inputs": {
            "seed": 7, "cfg": 1.5, "sampler_name": "lcm", "add_noise": true, "model": ["1", 0],
        }}});
        let params = json!({ "prompt": prompt }).as_object().cloned().unwrap_or_default();
        assert_eq!(prompts(&params), std::slice::from_ref(&prompt));
        assert_eq!(
            workflow(&prompt),
            json!({"3": {"class_type": "KSampler", "inputs": {
                "seed": {"type": "INT", "value": 7},
                "cfg": {"type": "FLOAT", "value": 1.5},
                "sampler_name": {"type": "STRING", "value": "lcm"},
                "add_noise": {"type": "BOOLEAN", "value": true},
            }}})
        );
        // A prompt that is a text is StreamDiffusion's.
        let text = json!({ "prompt": "a cat" }).as_object().cloned().unwrap_or_default();
        assert!(prompts(&text).is_empty());
    }
}
