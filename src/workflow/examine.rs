//! What a workflow is, for people and pages: whether it runs, its plan, what it needs, its widgets.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::class::{Input, Kind, Runs};
use super::document::{Document, Given};
use super::lower::{Env, INLINE, Lowered, lower};
use super::plan::{Node, Place, Plan};
use super::refusal::Refused;
use super::{planned, registry};
use crate::graph::DType;

/// How an examined workflow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs.
    Runs,
    /// It would, were its models there.
    ModelsMissing,
    /// It cannot.
    Refused,
}

/// A workflow that was looked at.
pub struct Examined {
    /// The document, if it could be read.
    pub document: Option<Document>,
    /// The plan, if there is one.
    pub plan: Option<Plan>,
    /// Its stages, where no model is needed to know them.
    pub lowered: Option<Lowered>,
    /// Every reason why it cannot run, missing models included.
    pub refused: Refused,
    /// Models that are needed: the node's id, and where the model is if it is there.
    pub needs: Vec<(String, super::need::Need, Option<std::path::PathBuf>)>,
}

/// Looks at a workflow for pictures of `size` (width, height) with the models below `models`. Graphs are built only where no
/// model is needed.
pub fn examine(value: &Json, models: &Path, size: [u32; 2]) -> Examined {
    let mut examined =
        Examined { document: None, plan: None, lowered: None, refused: Refused(Vec::new()), needs: Vec::new() };
    let document = match Document::read(value) {
        Ok(document) => document,
        Err(refused) => return Examined { refused, ..examined },
    };
    examined.document = Some(document.clone());
    let plan = match planned(document) {
        Ok(plan) => plan.with_files(models).unwrap_or(plan),
        Err(refused) => return Examined { refused, ..examined },
    };
    examined.refused.0 = plan.missing(models);
    examined.needs =
        plan.needs(models).into_iter().map(|(node, need)| (node.id.clone(), need.clone(), need.find(models))).collect();
    if examined.needs.is_empty() {
        match lower(&plan, &env(models, size)) {
            Ok(lowered) => examined.lowered = Some(lowered),
            Err(Refused(reasons)) => examined.refused.0.extend(reasons),
        }
    }
    examined.plan = Some(plan);
    examined
}

fn env(models: &Path, size: [u32; 2]) -> Env<'static> {
    Env {
        size,
        models: models.to_path_buf(),
        input: models.join("input"),
        precision: DType::F32,
        inline: INLINE,
        weights: models.join("weir--graphs"),
        scratch: models.join("weir--graphs"),
        progress: &|_| {},
    }
}

impl Examined {
    /// How it stands.
    pub fn verdict(&self) -> Verdict {
        match (self.refused.0.is_empty(), self.refused.only_models()) {
            (true, _) => Verdict::Runs,
            (false, true) => Verdict::ModelsMissing,
            (false, false) => Verdict::Refused,
        }
    }

    /// For pages and programs.
    pub fn json(&self) -> Json {
        let plan = self.plan.as_ref().map(|plan| {
            let node = |i: usize| {
                let node = &plan.nodes[i];
                json!({"id": node.id, "title": node.title, "class": node.class.name, "place": words(node)})
            };
            json!({
                "nodes": (0..plan.nodes.len()).map(node).collect::<Vec<_>>(),
                "notes": self.notes(),
            })
        });
        let needs: Vec<Json> = self
            .needs
            .iter()
            .map(|(node, need, at)| {
                json!({"node": node, "what": need.what, "name": need.name, "repository": need.repository,
                       "files": need.files, "from": need.from, "there": at.is_some()})
            })
            .collect();
        json!({
            "runs": self.verdict() == Verdict::Runs,
            "only_models_missing": self.verdict() == Verdict::ModelsMissing,
            "refused": self.refused.0,
            "message": if self.refused.0.is_empty() { String::new() } else { self.refused.to_string() },
            "models": needs,
            "plan": plan,
            "nodes": {"0": self.document.as_ref().map(widgets)},
        })
    }

    fn notes(&self) -> Vec<&String> {
        let lowered = self.lowered.iter().flat_map(|lowered| &lowered.notes);
        self.plan.iter().flat_map(|plan| &plan.notes).chain(lowered).collect()
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(plan) = &self.plan {
            let _ = writeln!(text, "{} of {} nodes run:", plan.nodes.len(), plan.document.nodes.len());
            let mut order: Vec<usize> = (0..plan.nodes.len()).collect();
            order.sort_by_key(|&i| (plan.nodes[i].live, plan.nodes[i].place));
            let mut last = None;
            for i in order {
                let node = &plan.nodes[i];
                let heading = words(node);
                if last.as_ref() != Some(&heading) {
                    let _ = writeln!(text, "  {heading}");
                    last = Some(heading);
                }
                let title = match node.title.is_empty() || node.title == node.class.name {
                    true => String::new(),
                    false => format!("  \"{}\"", node.title),
                };
                let _ = writeln!(text, "    {:>5}  {}{title}", node.id, node.class.name);
            }
        }
        for note in self.notes() {
            let _ = writeln!(text, "note: {note}");
        }
        for (node, need, at) in &self.needs {
            let state = match at {
                Some(path) => format!("there: {}", path.display()),
                None => format!("missing; {}", need.from),
            };
            let _ = writeln!(text, "model: {} {} (node {node}), {state}", need.what, need.name);
        }
        for refusal in &self.refused.0 {
            let _ = writeln!(text, "refused: {refusal}");
        }
        text.push_str(match self.verdict() {
            Verdict::Runs => "It runs.\n",
            Verdict::ModelsMissing => "It runs once its models are there.\n",
            Verdict::Refused => "It cannot run.\n",
        });
        text
    }
}

/// Where a node runs, in words.
pub(super) fn words(node: &Node) -> String {
    match (node.place, node.live) {
        (Place::Held, _) => "loaded, runs nowhere by itself".to_owned(),
        (Place::Once { level, .. }, _) => format!("once, and when what feeds it changes (level {level})"),
        (Place::Frame { level }, _) => format!("every frame, graph {level}"),
        (Place::Host { level }, _) if node.runs() == Runs::Stage => {
            format!("every frame, a stage of its own behind graph {level}")
        }
        (Place::Host { level }, _) => format!("every frame, on the host behind graph {level}"),
        (Place::Sound, _) => "every block of sound, on the host".to_owned(),
        (Place::Text, _) => "whenever its text is another one, on the host".to_owned(),
    }
}

/// Every widget and link of a document: `{"<node id>": {"class_type", "title", "inputs": {"<name>": {…}}}}`. An input has its
/// current `value`, its `type`, and for a widget `min`, `max`, `step`, `choices`, `default`, and whether it is `live`: whether a
/// change takes effect on the next frame without another graph.
pub fn widgets(document: &Document) -> Json {
    let mut nodes = Map::new();
    for (id, raw) in &document.nodes {
        let class = registry::find(&raw.class);
        let mut inputs = Map::new();
        for input in class.into_iter().flat_map(|class| class.inputs) {
            inputs.insert(input.name.to_owned(), widget(input, raw.inputs.get(input.name)));
        }
        for (name, given) in &raw.inputs {
            let unknown = || json!({"value": given.json(), "type": "unknown", "widget": null});
            inputs.entry(name.clone()).or_insert_with(unknown);
        }
        nodes.insert(id.0.clone(), json!({"class_type": raw.class, "title": raw.title, "inputs": inputs}));
    }
    Json::Object(nodes)
}

fn widget(input: &Input, given: Option<&Given>) -> Json {
    let default = input.default().map(|default| default.json());
    let value = given.map(Given::json).or_else(|| default.clone()).unwrap_or(Json::Null);
    let (ty, shown) = match input.kind {
        Kind::Link(ty) => (ty.name(), Json::Null),
        Kind::Int { .. } => ("INT", "number".into()),
        Kind::Float { .. } => ("FLOAT", "number".into()),
        Kind::Bool { .. } => ("BOOLEAN", "toggle".into()),
        Kind::Text { .. } => ("STRING", "text".into()),
        Kind::File => ("STRING", "file".into()),
        Kind::Choice { .. } => ("combo", "combo".into()),
    };
    let linked = matches!(given, Some(Given::Link { .. }));
    let mut widget = json!({
        "value": value,
        "type": ty,
        "widget": if linked { Json::Null } else { shown },
        "live": input.live && !linked,
        "ignored": input.ignored,
    });
    if let Some(default) = default {
        widget["default"] = default;
    }
    match input.kind {
        Kind::Int { min, max, step, .. } => {
            for (name, n) in [("min", min), ("max", max), ("step", step)] {
                widget[name] = super::Setting::Int(n).json();
            }
        }
        Kind::Float { min, max, step, .. } => {
            for (name, n) in [("min", min), ("max", max), ("step", step)] {
                widget[name] = n.into();
            }
        }
        Kind::Choice { of, .. } => widget["choices"] = of.into(),
        _ => {}
    }
    widget
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn look(value: &Json) -> Examined {
        examine(value, Path::new("/nonexistent"), [64, 64])
    }

    #[test]
    fn a_workflow_is_told_whole() {
        let examined = look(&json!({
            "1": {"class_type": "LoadTensor", "inputs": {}},
            "2": {"class_type": "EmptyImage", "_meta": {"title": "Ground"}, "inputs": {"width": 64, "height": 64, "colour": 1}},
            "3": {"class_type": "ImageBlend", "inputs": {"image1": ["1", 0], "image2": ["2", 0], "blend_mode": "screen"}},
            "4": {"class_type": "SaveTensor", "inputs": {"images": ["3", 0]}},
            "5": {"class_type": "Unknown", "inputs": {"a": 1}}
        }));
        assert_eq!(examined.verdict(), Verdict::Runs);
        let text = examined.text();
        for part in [
            "4 of 5 nodes run:",
            "once, and when what feeds it changes (level 0)\n        2  EmptyImage  \"Ground\"",
            "every frame, graph 0",
            "note: node 2 (EmptyImage): input colour is not known and has no effect",
            "It runs.",
        ] {
            assert!(text.contains(part), "{part}\n is not in\n{text}");
        }
        let nodes = &examined.json()["nodes"]["0"];
        let mode = &nodes["3"]["inputs"]["blend_mode"];
        assert_eq!(
            (&mode["value"], &mode["type"], mode["choices"].as_array().unwrap().len()),
            (&json!("screen"), &json!("combo"), 6)
        );
        let factor = &nodes["3"]["inputs"]["blend_factor"];
        assert_eq!(
            factor,
            &json!({"value": 0.5, "default": 0.5, "type": "FLOAT", "widget": "number", "min": 0.0, "max": 1.0, "step": 0.01, "live": true, "ignored": false})
        );
        assert_eq!(nodes["3"]["inputs"]["image1"]["value"], json!(["1", 0]));
        assert_eq!(nodes["5"]["inputs"]["a"]["type"], "unknown");
    }

    #[test]
    fn what_only_the_graph_tells_is_told_too() {
        let examined = look(&json!({
            "1": {"class_type": "LoadTensor", "inputs": {}},
            "2": {"class_type": "SolidMask", "inputs": {"width": 10, "height": 10}},
            "3": {"class_type": "MaskToImage", "inputs": {"mask": ["2", 0]}},
            "4": {"class_type": "ImageToMask", "inputs": {"image": ["3", 0], "channel": "alpha"}},
            "5": {"class_type": "MaskToImage", "inputs": {"mask": ["4", 0]}},
            "6": {"class_type": "SaveTensor", "inputs": {"images": ["5", 0]}}
        }));
        assert_eq!(examined.verdict(), Verdict::Refused);
        assert!(
            examined.text().contains("node 4 (ImageToMask), input channel: the picture has 3 channels"),
            "{}",
            examined.text()
        );
        assert!(look(&json!(7)).text().starts_with("refused: Parsed prompt JSON"));
    }
}
