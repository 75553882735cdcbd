//! A workflow as it was sent: every wrapping of the API format, and the editor's save format, to one list of nodes.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::editor;
use super::refusal::{Refusal, Refused, Why};

/// Most nodes of a workflow.
pub const MAX_NODES: usize = 4096;
/// Most inputs of a node.
pub const MAX_INPUTS: usize = 256;
/// Most bytes of a workflow that is sent as text, and of one text in it.
pub const MAX_TEXT: usize = 4 << 20;

/// A node's id. Decimal numbers come in their order, then everything else by its letters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id(pub String);

impl Ord for Id {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |id: &Id| (id.0.parse::<u64>().is_err(), id.0.parse::<u64>().unwrap_or(0));
        key(self).cmp(&key(other)).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What stands in an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// A value that was typed in.
    Value(Json),
    /// The output `output` of the node `node`.
    Link {
        /// The source's id.
        node: Id,
        /// Counted from 0.
        output: usize,
    },
}

/// One node as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// `class_type`
    pub class: String,
    /// `_meta.title`, or empty.
    pub title: String,
    /// Its inputs by name.
    pub inputs: BTreeMap<String, Given>,
}

/// A workflow as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Every node by its id.
    pub nodes: BTreeMap<Id, Raw>,
    /// What was passed over while reading, in words.
    pub notes: Vec<String>,
}

fn wrong(reason: impl Into<String>, help: &str) -> Refused {
    Refusal::document(Why::Document, reason, help).into()
}

/// What every workflow looks like, for people.
const SHAPE: &str = "a workflow in API format is an object of nodes, each with class_type and inputs \
                     (in ComfyUI: Workflow, Export (API))";

impl Document {
    /// Reads `value`: an object of nodes, a list of such objects (the first is taken), either as text, or any of these under
    /// `prompt` or `prompts`; or the editor's save format, which is converted.
    ///
    /// # Errors
    /// Every reason at once.
    pub fn read(value: &Json) -> Result<Self, Refused> {
        let mut notes = Vec::new();
        let object = unwrap(value, &mut notes, 0)?;
        if editor::is_saved(&object) {
            return editor::convert(&object, notes);
        }
        Self::of_nodes(&object, notes)
    }

    fn of_nodes(object: &Map<String, Json>, notes: Vec<String>) -> Result<Self, Refused> {
        if object.len() > MAX_NODES {
            let reason = format!("{} nodes, at most {MAX_NODES} are planned", object.len());
            return Err(Refusal::document(Why::Limit, reason, "").into());
        }
        let mut nodes = BTreeMap::new();
        let mut refused = Vec::new();
        for (id, node) in object {
            match raw(id, node) {
                Ok(raw) => drop(nodes.insert(Id(id.clone()), raw)),
                Err(Refused(reasons)) => refused.extend(reasons),
            }
        }
        match refused.is_empty() {
            true => Ok(Self { nodes, notes }),
            false => Err(Refused(refused)),
        }
    }

    /// The document in the API format.
    pub fn to_json(&self) -> Json {
        let node = |raw: &Raw| {
            let inputs: Map<String, Json> =
                raw.inputs.iter().map(|(name, given)| (name.clone(), given.json())).collect();
            let mut node = json!({"class_type": raw.class, "inputs": inputs});
            if !raw.title.is_empty() {
                node["_meta"] = json!({"title": raw.title});
            }
            node
        };
        Json::Object(self.nodes.iter().map(|(id, raw)| (id.0.clone(), node(raw))).collect())
    }
}

impl Given {
    /// As it stands in a document.
    pub fn json(&self) -> Json {
        match self {
            Given::Value(value) => value.clone(),
            Given::Link { node, output } => json!([node.0, output]),
        }
    }
}

/// Takes every wrapping off.
fn unwrap(value: &Json, notes: &mut Vec<String>, depth: usize) -> Result<Map<String, Json>, Refused> {
    // A list in a text under `prompt` in a text is as deep as anyone nests.
    if depth > 6 {
        return Err(wrong("the workflow is wrapped too often", SHAPE));
    }
    match value {
        Json::String(text) if text.len() > MAX_TEXT => {
            Err(Refusal::document(Why::Limit, format!("{} bytes, at most {MAX_TEXT} are read", text.len()), "").into())
        }
        Json::String(text) => {
            let parsed: Json = serde_json::from_str(text)
                .map_err(|error| wrong(format!("Provided prompt string must be valid JSON ({error})"), SHAPE))?;
            unwrap(&parsed, notes, depth + 1)
        }
        Json::Array(list) => match list.as_slice() {
            [] => Err(wrong("the list of prompts is empty", SHAPE)),
            [first, rest @ ..] => {
                if !rest.is_empty() {
                    notes.push(format!("only the first of {} prompts runs", list.len()));
                }
                unwrap(first, notes, depth + 1)
            }
        },
        Json::Object(object) => {
            let inner = ["prompt", "prompts"].into_iter().find_map(|key| object.get(key));
            match inner {
                // A node may be called `prompt`, however unlikely.
                Some(inner) if inner.get("class_type").is_none() => unwrap(inner, notes, depth + 1),
                _ => Ok(object.clone()),
            }
        }
        other => Err(wrong(format!("Parsed prompt JSON must be a dictionary/object, not {}", kind(other)), SHAPE)),
    }
}

/// What a value is, for people.
pub fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

fn raw(id: &str, node: &Json) -> Result<Raw, Refused> {
    let title = node.pointer("/_meta/title").and_then(Json::as_str).unwrap_or("").to_owned();
    let class = node.get("class_type").and_then(Json::as_str).unwrap_or("").to_owned();
    let refuse = |why: Why, input: &str, reason: String, help: &str| {
        Refused::from(Refusal {
            why,
            node: id.to_owned(),
            title: title.clone(),
            class: class.clone(),
            input: input.to_owned(),
            reason,
            help: help.to_owned(),
        })
    };
    if !node.is_object() {
        return Err(refuse(Why::Document, "", format!("it is {}, not a node", kind(node)), SHAPE));
    }
    if class.is_empty() {
        return Err(refuse(Why::Document, "", "it has no class_type".to_owned(), SHAPE));
    }
    let Some(inputs) = node.get("inputs").and_then(Json::as_object) else {
        return Err(refuse(Why::Document, "", "it has no object inputs".to_owned(), SHAPE));
    };
    if inputs.len() > MAX_INPUTS {
        let reason = format!("it has {} inputs, at most {MAX_INPUTS} are read", inputs.len());
        return Err(refuse(Why::Limit, "", reason, ""));
    }
    let mut read = BTreeMap::new();
    for (name, value) in inputs {
        let given = given(value).map_err(|(why, reason, help)| refuse(why, name, reason, help))?;
        read.insert(name.clone(), given);
    }
    Ok(Raw { class, title, inputs: read })
}

/// What stands in an input; or why it cannot, and what would work.
pub(super) fn given(value: &Json) -> Result<Given, (Why, String, &'static str)> {
    match value {
        Json::Array(pair) => link(pair).ok_or_else(|| {
            let help = "a link is a list of a node's id and the number of its output";
            (Why::Document, format!("{value} is no link"), help)
        }),
        Json::Object(_) | Json::Null => {
            let reason = format!("it is {}, not a value or a link", kind(value));
            Err((Why::Document, reason, "leave out what is not connected"))
        }
        Json::String(text) if text.len() > MAX_TEXT => {
            Err((Why::Limit, format!("a text of {} bytes, at most {MAX_TEXT} are read", text.len()), ""))
        }
        plain => Ok(Given::Value(plain.clone())),
    }
}

fn link(pair: &[Json]) -> Option<Given> {
    let [node, output] = pair else { return None };
    let node = match node {
        Json::String(id) => id.clone(),
        Json::Number(id) if id.is_u64() => id.to_string(),
        _ => return None,
    };
    Some(Given::Link { node: Id(node), output: usize::try_from(output.as_u64()?).ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn passing() -> Json {
        json!({"1": {"class_type": "SaveTensor", "inputs": {"images": ["2", 0]}}, "2": {"class_type": "LoadTensor", "inputs": {}}})
    }

    #[test]
    fn every_wrapping_is_the_same_document() {
        let bare = Document::read(&passing()).unwrap();
        assert_eq!(bare.nodes.len(), 2);
        let text = Json::String(passing().to_string());
        for wrapped in [
            json!([passing()]),
            json!({"prompt": passing()}),
            json!({"prompts": passing()}),
            json!({"prompts": [passing()]}),
            json!({"prompts": text}),
            json!([text]),
            Json::String(json!({"prompt": [text]}).to_string()),
            text.clone(),
        ] {
            assert_eq!(Document::read(&wrapped).unwrap().nodes, bare.nodes, "{wrapped}");
        }
        let two = Document::read(&json!([passing(), passing()])).unwrap();
        assert_eq!(two.notes, ["only the first of 2 prompts runs"]);
        assert_eq!(Document::read(&bare.to_json()).unwrap(), bare);
    }

    #[test]
    fn what_is_no_workflow_says_where_and_why() {
        for (value, says) in [
            (json!({"bad": "schema"}), "node bad: it is a text, not a node"),
            (json!({"1": {"inputs": {}}}), "node 1: it has no class_type"),
            (json!({"1": {"class_type": "A"}}), "node 1 (A): it has no object inputs"),
            (json!({"1": {"class_type": "A", "inputs": {"x": {}}}}), "node 1 (A), input x: it is an object"),
            (json!({"1": {"class_type": "A", "inputs": {"x": [1]}}}), "node 1 (A), input x: [1] is no link"),
            (json!("{"), "Provided prompt string must be valid JSON"),
            (json!("[3]"), "Parsed prompt JSON must be a dictionary/object, not a number"),
            (json!([]), "the list of prompts is empty"),
            (json!(null), "Parsed prompt JSON must be a dictionary/object, not null"),
        ] {
            let refused = Document::read(&value).unwrap_err().to_string();
            assert!(refused.contains(says), "{value}: {refused}");
        }
        let both = json!({"1": {"inputs": {}}, "2": 5});
        assert_eq!(Document::read(&both).unwrap_err().0.len(), 2);
    }

    #[test]
    fn ids_are_in_the_order_of_their_numbers() {
        let mut ids = ["10", "2", "a", "57:3", "1"].map(|id| Id(id.to_owned()));
        ids.sort();
        assert_eq!(ids.map(|id| id.0), ["1", "2", "10", "57:3", "a"]);
    }
}
