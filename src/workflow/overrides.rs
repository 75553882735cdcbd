//! Partial overrides: `{"<node id>": {"<input>": value}}`, also with an inner `inputs`.

use serde_json::{Map, Value as Json};

use super::document::{self, Document, Id, kind};
use super::refusal::{Refusal, Refused, Why};
use super::registry;

/// Whether `value` is what an override has for a node: an object that is no node itself.
pub fn is_override(value: &Json) -> bool {
    value.as_object().is_some_and(|node| !node.contains_key("class_type"))
}

/// `document` with `overrides` put in. Whether the values are in range is told by the plan of the result.
///
/// # Errors
/// Every node and input that is not there, and every value that no input can hold.
pub fn apply(document: &Document, overrides: &Map<String, Json>) -> Result<Document, Refused> {
    let mut document = document.clone();
    let mut refused = Vec::new();
    for (id, inputs) in overrides {
        let refuse = |class: &str, title: &str, input: &str, why: Why, reason: String, help: String| Refusal {
            why,
            node: id.clone(),
            title: title.to_owned(),
            class: class.to_owned(),
            input: input.to_owned(),
            reason,
            help,
        };
        let Some(raw) = document.nodes.get_mut(&Id(id.clone())) else {
            let ids: Vec<&str> = document.nodes.keys().take(20).map(|id| id.0.as_str()).collect();
            let help = format!("the nodes are {}", ids.join(", "));
            refused.push(refuse("", "", "", Why::Document, "there is no such node".to_owned(), help));
            continue;
        };
        let (class, title) = (raw.class.clone(), raw.title.clone());
        let inner = inputs.get("inputs").filter(|inner| inner.is_object()).unwrap_or(inputs);
        let Some(inputs) = inner.as_object() else {
            let reason = format!("it is {}, not an object of inputs", kind(inner));
            refused.push(refuse(&class, &title, "", Why::Document, reason, String::new()));
            continue;
        };
        for (input, value) in inputs {
            // What the class does not know may still be replaced where the document has it.
            let known = registry::find(&class).is_none_or(|class| class.input(input).is_some());
            if !known && !raw.inputs.contains_key(input) {
                let names = registry::find(&class).map(|class| class.inputs.iter().map(|input| input.name).collect());
                let names: Vec<&str> = names.unwrap_or_default();
                let help = if names.is_empty() { String::new() } else { format!("there are {}", names.join(", ")) };
                refused.push(refuse(&class, &title, input, Why::Value, "there is no such input".to_owned(), help));
                continue;
            }
            match document::given(value) {
                Ok(given) => drop(raw.inputs.insert(input.clone(), given)),
                Err((why, reason, help)) => refused.push(refuse(&class, &title, input, why, reason, help.to_owned())),
            }
        }
    }
    match refused.is_empty() {
        true => Ok(document),
        false => Err(Refused(refused)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn document() -> Document {
        Document::read(&json!({
            "1": {"class_type": "LoadTensor", "inputs": {}},
            "2": {"class_type": "ImageBlend", "inputs": {"image1": ["1", 0], "image2": ["1", 0], "blend_factor": 0.5}},
            "3": {"class_type": "SaveTensor", "inputs": {"images": ["2", 0]}}
        }))
        .unwrap()
    }

    #[test]
    fn inputs_change_with_and_without_an_inner_object() {
        for overrides in [json!({"2": {"blend_factor": 0.75}}), json!({"2": {"inputs": {"blend_factor": 0.75}}})] {
            let new = apply(&document(), overrides.as_object().unwrap()).unwrap();
            let mut expected = document().to_json();
            expected["2"]["inputs"]["blend_factor"] = json!(0.75);
            assert_eq!(new.to_json(), expected);
        }
        let linked = apply(&document(), json!({"3": {"images": ["1", 0]}}).as_object().unwrap()).unwrap();
        assert_eq!(linked.to_json()["3"]["inputs"]["images"], json!(["1", 0]));
    }

    #[test]
    fn what_is_not_there_is_named_all_at_once() {
        let overrides = json!({"7": {"x": 1}, "2": {"factor": 1, "blend_mode": {}}});
        let refused = apply(&document(), overrides.as_object().unwrap()).unwrap_err();
        let lines: Vec<String> = refused.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "node 2 (ImageBlend), input blend_mode: it is an object, not a value or a link; leave out what is not connected",
                "node 2 (ImageBlend), input factor: there is no such input; there are image1, image2, blend_factor, blend_mode",
                "node 7: there is no such node; the nodes are 1, 2, 3",
            ]
        );
    }
}
