//! The editor's save format to the API format. Links, muted and bypassed nodes, reroutes and primitives are resolved as
//! ComfyUI's editor resolves them when it queues a prompt.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value as Json};

use super::document::{Document, Given, Id, MAX_INPUTS, MAX_NODES, Raw};
use super::refusal::{Refusal, Refused, Why};
use super::{class::Class, registry};

/// Whether `object` is a saved file rather than a prompt.
pub fn is_saved(object: &Map<String, Json>) -> bool {
    object.get("nodes").is_some_and(Json::is_array) && object.get("links").is_some_and(Json::is_array)
}

/// A node's mode in saved files.
const MUTED: u64 = 2;
const BYPASSED: u64 = 4;

/// Nodes that are only seen in the editor.
const NOTES: [&str; 2] = ["Note", "MarkdownNote"];

struct Saved<'a> {
    id: String,
    class: &'a str,
    node: &'a Json,
    mode: u64,
}

/// Where a link begins: node and output.
type Start = (String, usize);

/// Converts a saved file.
///
/// # Errors
/// What the format does not say, or says in a way that is not understood.
pub fn convert(object: &Map<String, Json>, mut notes: Vec<String>) -> Result<Document, Refused> {
    let list = |key: &str| object.get(key).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    if list("nodes").len() > MAX_NODES {
        let reason = format!("{} nodes, at most {MAX_NODES} are planned", list("nodes").len());
        return Err(Refusal::document(Why::Limit, reason, "").into());
    }
    let subgraphs = object.get("definitions").and_then(|d| d.get("subgraphs")).and_then(Json::as_array);
    let subgraphs: HashSet<&str> =
        subgraphs.into_iter().flatten().filter_map(|graph| graph.get("id").and_then(Json::as_str)).collect();
    let mut saved: HashMap<String, Saved<'_>> = HashMap::new();
    let mut refused = Vec::new();
    for node in list("nodes") {
        let (Some(id), Some(class)) = (node.get("id").and_then(id), node.get("type").and_then(Json::as_str)) else {
            refused.push(Refusal::document(Why::Document, "a saved node has no id or no type", "save the file again"));
            continue;
        };
        if subgraphs.contains(class) {
            let help = "unpack it in the editor, or export the workflow with Export (API)";
            refused.push(Refusal {
                node: id.clone(),
                ..Refusal::document(Why::Class, "a subgraph is not taken apart", help)
            });
        }
        let mode = node.get("mode").and_then(Json::as_u64).unwrap_or(0);
        saved.insert(id.clone(), Saved { id, class, node, mode });
    }
    if !refused.is_empty() {
        return Err(Refused(refused));
    }
    let links = links(list("links"));
    let resolve = Resolve { saved: &saved, links: &links };
    let mut nodes = BTreeMap::new();
    for node in saved.values() {
        if node.mode == MUTED || node.mode == BYPASSED || NOTES.contains(&node.class) || passes_on(node.class) {
            continue;
        }
        let raw = resolve.raw(node, &mut notes);
        nodes.insert(Id(node.id.clone()), raw);
    }
    notes.sort();
    Ok(Document { nodes, notes })
}

/// Nodes that hand on what they are fed, or a value of their own.
fn passes_on(class: &str) -> bool {
    matches!(class, "Reroute" | "PrimitiveNode")
}

fn id(value: &Json) -> Option<String> {
    match value {
        Json::Number(n) => n.as_i64().map(|n| n.to_string()),
        Json::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// Links by their number, in either of the two forms they are saved in.
fn links(list: &[Json]) -> HashMap<u64, Start> {
    let read = |link: &Json| {
        let (number, node, output) = match link {
            Json::Array(parts) => (parts.first()?, parts.get(1)?, parts.get(2)?),
            _ => (link.get("id")?, link.get("origin_id")?, link.get("origin_slot")?),
        };
        Some((number.as_u64()?, (id(node)?, usize::try_from(output.as_u64()?).ok()?)))
    };
    list.iter().filter_map(read).collect()
}

struct Resolve<'a> {
    saved: &'a HashMap<String, Saved<'a>>,
    links: &'a HashMap<u64, Start>,
}

impl Resolve<'_> {
    fn raw(&self, node: &Saved<'_>, notes: &mut Vec<String>) -> Raw {
        let mut inputs = BTreeMap::new();
        let class = registry::find(node.class);
        for (name, value) in widgets(node, class) {
            if !value.is_null() && !value.is_object() && !value.is_array() {
                inputs.insert(name, Given::Value(value));
            }
        }
        let slots = node.node.get("inputs").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        for slot in slots.iter().take(MAX_INPUTS) {
            let Some(name) = slot.get("name").and_then(Json::as_str) else { continue };
            let Some(link) = slot.get("link").and_then(Json::as_u64) else { continue };
            match self.source(link) {
                Some(given) => drop(inputs.insert(name.to_owned(), given)),
                // A link from a muted node is cut, as in the editor.
                None => notes
                    .push(format!("node {} ({}): what fed its input {name} is muted or missing", node.id, node.class)),
            }
        }
        let title = node.node.get("title").and_then(Json::as_str).unwrap_or("").to_owned();
        Raw { class: node.class.to_owned(), title, inputs }
    }

    /// What a link carries, through reroutes and bypassed nodes.
    fn source(&self, link: u64) -> Option<Given> {
        let mut link = link;
        // A chain of nodes that pass on is no longer than there are nodes.
        for _ in 0..=self.saved.len() {
            let (id, output) = self.links.get(&link)?;
            let node = self.saved.get(id)?;
            let slots = node.node.get("inputs").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
            let linked = |slot: &Json| slot.get("link").and_then(Json::as_u64);
            match (node.mode, node.class) {
                (MUTED, _) => return None,
                (_, "PrimitiveNode") => {
                    let value = node.node.get("widgets_values")?.as_array()?.first()?;
                    return Some(Given::Value(value.clone()));
                }
                (_, "Reroute") => link = slots.first().and_then(linked)?,
                (BYPASSED, _) => {
                    // The input of the same place if it has the type, else the first that has.
                    let outputs = node.node.get("outputs")?.as_array()?;
                    let ty = outputs.get(*output)?.get("type")?;
                    let fits = |slot: &&Json| slot.get("type") == Some(ty);
                    let slot = slots.get(*output).filter(fits).or_else(|| slots.iter().find(fits))?;
                    link = linked(slot)?;
                }
                _ => return Some(Given::Link { node: Id(id.clone()), output: *output }),
            }
        }
        None
    }
}

/// What stood in the widgets, by name. A file has a list without names; the names are those of the saved slots where they
/// tell, else those of the class.
fn widgets(node: &Saved<'_>, class: Option<&'static Class>) -> Vec<(String, Json)> {
    let values = match node.node.get("widgets_values") {
        Some(Json::Object(named)) => return named.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        Some(Json::Array(list)) => list.as_slice(),
        _ => return Vec::new(),
    };
    let names: Vec<String> = match class {
        Some(class) => {
            class.inputs.iter().filter(|input| input.is_widget()).map(|input| input.name.to_owned()).collect()
        }
        None => {
            let slots = node.node.get("inputs").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
            let widget = |slot: &Json| Some(slot.get("widget")?.get("name")?.as_str()?.to_owned());
            slots.iter().filter_map(widget).collect()
        }
    };
    let mut values = values.iter().peekable();
    let mut named = Vec::new();
    for name in names {
        let Some(value) = values.next() else { break };
        named.push((name.clone(), value.clone()));
        // Behind a seed stands what becomes of it after a run.
        if matches!(name.as_str(), "seed" | "noise_seed")
            && values
                .peek()
                .and_then(|next| next.as_str())
                .is_some_and(|next| matches!(next, "fixed" | "increment" | "decrement" | "randomize"))
        {
            values.next();
        }
    }
    named
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn saved() -> Json {
        json!({
            "last_node_id": 6,
            "nodes": [
                {"id": 1, "type": "LoadImage", "inputs": [], "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
                 "widgets_values": ["a.png", "image"]},
                {"id": 2, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 1}]},
                {"id": 3, "type": "ImageInvert", "mode": 4,
                 "inputs": [{"name": "image", "type": "IMAGE", "link": 2}], "outputs": [{"type": "IMAGE"}]},
                {"id": 4, "type": "ImageBlend", "title": "Mix",
                 "inputs": [{"name": "image1", "type": "IMAGE", "link": 3}, {"name": "image2", "type": "IMAGE", "link": 2},
                            {"name": "blend_factor", "type": "FLOAT", "link": 6, "widget": {"name": "blend_factor"}}],
                 "outputs": [{"type": "IMAGE"}], "widgets_values": [0.5, "screen"]},
                {"id": 5, "type": "PreviewImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 4}]},
                {"id": 6, "type": "PrimitiveNode", "widgets_values": [0.25, "fixed"]},
                {"id": 7, "type": "Note", "widgets_values": ["hello"]},
                {"id": 8, "type": "ImageInvert", "mode": 2, "inputs": [{"name": "image", "type": "IMAGE", "link": 2}]}
            ],
            "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"], [3, 3, 0, 4, 0, "IMAGE"],
                      {"id": 4, "origin_id": 4, "origin_slot": 0, "target_id": 5, "target_slot": 0},
                      [6, 6, 0, 4, 2, "FLOAT"]],
            "version": 0.4
        })
    }

    #[test]
    fn a_saved_file_becomes_the_prompt_that_the_editor_would_queue() {
        let document = Document::read(&saved()).unwrap();
        assert_eq!(
            document.to_json(),
            json!({
                "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
                "4": {"class_type": "ImageBlend", "_meta": {"title": "Mix"},
                      "inputs": {"image1": ["1", 0], "image2": ["1", 0], "blend_factor": 0.25, "blend_mode": "screen"}},
                "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
            })
        );
        assert_eq!(document.notes, [""; 0]);
    }

    #[test]
    fn links_in_a_circle_of_reroutes_end() {
        let value = json!({
            "nodes": [
                {"id": 1, "type": "Reroute", "inputs": [{"name": "", "link": 2}]},
                {"id": 2, "type": "Reroute", "inputs": [{"name": "", "link": 1}]},
                {"id": 3, "type": "PreviewImage", "inputs": [{"name": "images", "link": 2}]}
            ],
            "links": [[1, 1, 0, 2, 0], [2, 2, 0, 1, 0]]
        });
        let document = Document::read(&value).unwrap();
        assert_eq!(document.notes, ["node 3 (PreviewImage): what fed its input images is muted or missing"]);
    }
}
