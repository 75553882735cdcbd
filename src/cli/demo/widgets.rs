//! The controls of a workflow: one for each widget that has an effect, by the name `<node id>.<input>`.

use serde_json::{Map, Value, json};

use crate::workflow::examine::widgets;
use crate::workflow::{Document, Plan, convert};

/// The schema of the page's controls, and their values.
pub struct Controls {
    /// JSON Schema: one property for each widget.
    pub schema: Value,
    /// The values in force.
    pub values: Map<String, Value>,
}

/// The controls of `prompt`; `None` for what is no workflow.
pub fn controls(prompt: &Value) -> Option<Controls> {
    let document = Document::read(prompt).ok()?;
    let plan = convert(document.clone()).and_then(Plan::new).ok()?;
    let nodes = widgets(&document);
    let mut properties = Map::new();
    let mut values = Map::new();
    for node in &plan.nodes {
        let Some(described) = nodes.get(&node.id) else { continue };
        let inputs = described["inputs"].as_object().into_iter().flatten();
        for (input, widget) in inputs.filter(|(_, widget)| !widget["widget"].is_null() && widget["ignored"] != true) {
            // The camera's file means nothing to a stream.
            if node.class.source.is_some() {
                continue;
            }
            let name = format!("{}.{input}", node.id);
            let heading = if node.title.is_empty() { node.class.name } else { &node.title };
            let mut property = json!({
                "title": format!("{heading} · {input}"),
                "description": match widget["live"] == true {
                    true => "Takes effect on the next frame.",
                    false => "Needs another graph, which is built beside the stream.",
                },
            });
            let kind = match widget["type"].as_str().unwrap_or_default() {
                "INT" => "integer",
                "FLOAT" => "number",
                "BOOLEAN" => "boolean",
                _ => "string",
            };
            property["type"] = kind.into();
            for (from, to) in [
                ("min", "minimum"),
                ("max", "maximum"),
                ("step", "multipleOf"),
                ("choices", "enum"),
                ("default", "default"),
            ] {
                if let Some(value) = widget.get(from) {
                    property[to] = value.clone();
                }
            }
            values.insert(name.clone(), widget["value"].clone());
            properties.insert(name, property);
        }
    }
    Some(Controls { schema: json!({"type": "object", "properties": properties}), values })
}

/// What the page sends, as overrides of single widgets: those that differ from `known`.
pub fn overrides(set: &Map<String, Value>, known: &Map<String, Value>) -> Map<String, Value> {
    let mut nodes: Map<String, Value> = Map::new();
    for (name, value) in set.iter().filter(|(name, value)| known.get(*name) != Some(*value)) {
        // An id may hold dots, an input does not.
        let Some((node, input)) = name.rsplit_once('.') else { continue };
        nodes.entry(node).or_insert_with(|| json!({}))[input] = value.clone();
    }
    nodes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_widget_has_a_control_and_what_moved_is_an_override() {
        let controls = controls(&json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "camera.png"}},
            "2": {"class_type": "EmptyImage", "inputs": {"width": 512, "height": 512}},
            "4": {"class_type": "ImageBlend", "_meta": {"title": "Mix"},
                  "inputs": {"image1": ["1", 0], "image2": ["2", 0], "blend_factor": 0.25}},
            "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
            "6": {"class_type": "SolidMask", "inputs": {}}
        }))
        .unwrap();
        let names: Vec<&String> = controls.values.keys().collect();
        assert_eq!(names, ["2.batch_size", "2.color", "2.height", "2.width", "4.blend_factor", "4.blend_mode"]);
        let properties = &controls.schema["properties"];
        let factor = &properties["4.blend_factor"];
        assert_eq!((&factor["title"], &factor["type"]), (&json!("Mix · blend_factor"), &json!("number")));
        assert_eq!(
            (&factor["minimum"], &factor["maximum"], &factor["multipleOf"]),
            (&json!(0.0), &json!(1.0), &json!(0.01))
        );
        assert_eq!(properties["4.blend_mode"]["enum"].as_array().unwrap().len(), 6);
        let mut set = controls.values.clone();
        assert_eq!(overrides(&set, &controls.values), Map::new());
        set.insert("4.blend_factor".into(), json!(0.75));
        set.insert("2.color".into(), json!(7));
        assert_eq!(
            Value::Object(overrides(&set, &controls.values)),
            json!({"2": {"color": 7}, "4": {"blend_factor": 0.75}})
        );
    }
}
