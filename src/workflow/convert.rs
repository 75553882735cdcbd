//! The rules by which a prompt becomes one that runs on a stream: which node is the camera, which node is shown. They and
//! their texts are those of ComfyStream's `convert_prompt`.

use std::collections::BTreeMap;

use super::document::{Document, Given, Raw};
use super::refusal::{Refusal, Refused, Why};

const INPUTS: [&str; 3] = ["LoadTensor", "LoadImage", "LoadAudioTensor"];
/// Classes that give something to the stream.
pub(super) const OUTPUTS: [&str; 5] = ["SaveTensor", "PreviewImage", "SaveImage", "SaveAudioTensor", "SaveTextTensor"];

/// Applies the rules. A converted document passes again unchanged, unless a `PrimaryInputLoadImage` was what allowed its inputs.
///
/// # Errors
/// Every rule that is broken: first the one that ComfyStream stops at, in its words.
pub fn convert(document: Document) -> Result<Document, Refused> {
    match converted(document) {
        (document, broken) if broken.is_empty() => Ok(document),
        (_, broken) => Err(Refused(broken)),
    }
}

/// Applies the rules as far as they go, and tells every one that is broken: first the one that ComfyStream stops at, in its
/// words. Two `LoadImage` without anything that tells which of them is the camera, which ComfyStream accepts and never feeds,
/// are one more.
pub(super) fn converted(mut document: Document) -> (Document, Vec<Refusal>) {
    let mut broken = Vec::new();
    let count = |names: &[&str]| document.nodes.values().filter(|node| names.contains(&node.class.as_str())).count();
    let (primary, inputs, outputs) = (count(&["PrimaryInputLoadImage"]), count(&INPUTS), count(&OUTPUTS));
    let pictures = count(&["LoadImage"]);
    let mut refuse = |reason: &str, help: &str| broken.push(Refusal::document(Why::Document, reason, help));
    if primary > 1 {
        refuse("too many primary inputs in prompt", "keep one PrimaryInputLoadImage");
    }
    if primary == 0 && inputs > 2 {
        refuse("too many inputs in prompt", "make the camera's node a PrimaryInputLoadImage");
    }
    if outputs > 3 {
        refuse(
            "too many outputs in prompt",
            "keep at most three of SaveTensor, PreviewImage, SaveImage, SaveAudioTensor, SaveTextTensor",
        );
    }
    if primary + inputs == 0 {
        refuse("missing input", "add a LoadTensor, a LoadImage or a LoadAudioTensor");
    }
    if outputs == 0 {
        refuse("missing output", "add a SaveTensor, a PreviewImage or a SaveAudioTensor");
    }
    if primary == 0 && pictures == 2 && inputs == 2 {
        refuse(
            "two LoadImage nodes, and nothing tells which of them is the camera",
            "make the camera's node a PrimaryInputLoadImage",
        );
    }
    let camera = if primary == 0 && pictures == 1 { "LoadImage" } else { "PrimaryInputLoadImage" };
    for raw in document.nodes.values_mut() {
        match raw.class.as_str() {
            class if class == camera || class == "PrimaryInputLoadImage" => {
                *raw = Raw { class: "LoadTensor".into(), title: "LoadTensor".into(), inputs: BTreeMap::new() };
            }
            "PreviewImage" | "SaveImage" => {
                raw.class = "SaveTensor".into();
                raw.title = "SaveTensor".into();
                // Literals of the old class, such as filename_prefix, mean nothing to the new one.
                raw.inputs.retain(|_, given| matches!(given, Given::Link { .. }));
            }
            _ => {}
        }
    }
    (document, broken)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn of(classes: &[&str]) -> Document {
        let nodes: serde_json::Map<_, _> = classes
            .iter()
            .enumerate()
            .map(|(i, class)| {
                (i.to_string(), json!({"class_type": class, "inputs": {"images": ["0", 0], "filename_prefix": "x"}}))
            })
            .collect();
        Document::read(&nodes.into()).unwrap()
    }

    #[test]
    fn broken_rules_are_named_comfystreams_first() {
        for (classes, says) in [
            (vec!["PrimaryInputLoadImage", "PrimaryInputLoadImage"], "too many primary inputs in prompt"),
            (vec!["LoadImage", "LoadImage", "LoadTensor"], "too many inputs in prompt"),
            (vec!["LoadImage", "SaveImage", "SaveImage", "PreviewImage", "SaveTensor"], "too many outputs in prompt"),
            (vec!["SaveImage"], "missing input"),
            (vec!["LoadImage"], "missing output"),
            (vec!["LoadImage", "LoadImage", "SaveImage"], "two LoadImage nodes"),
        ] {
            let refused = convert(of(&classes)).unwrap_err().to_string();
            assert!(refused.starts_with(says), "{classes:?}: {refused}");
        }
        let both = convert(of(&["PrimaryInputLoadImage", "PrimaryInputLoadImage"])).unwrap_err();
        let reasons: Vec<_> = both.0.iter().map(|refusal| refusal.reason.as_str()).collect();
        assert_eq!(reasons, ["too many primary inputs in prompt", "missing output"]);
    }

    #[test]
    fn the_camera_and_the_shown_node_are_found() {
        for (before, after) in [
            (vec!["LoadImage", "PreviewImage"], vec!["LoadTensor", "SaveTensor"]),
            (
                vec!["PrimaryInputLoadImage", "LoadImage", "LoadImage", "LoadImage", "SaveImage"],
                vec!["LoadTensor", "LoadImage", "LoadImage", "LoadImage", "SaveTensor"],
            ),
            (vec!["LoadImage", "LoadAudioTensor", "SaveTensor"], vec!["LoadTensor", "LoadAudioTensor", "SaveTensor"]),
        ] {
            let converted = convert(of(&before)).unwrap();
            let classes: Vec<_> = converted.nodes.values().map(|node| node.class.as_str()).collect();
            assert_eq!(classes, after);
            // With a primary there may be more inputs than without, which the rules do not see a second time.
            if !before.contains(&"PrimaryInputLoadImage") {
                assert_eq!(convert(converted.clone()).unwrap(), converted);
            }
        }
        let saved = convert(of(&["LoadImage", "SaveImage"])).unwrap();
        let node = saved.nodes.values().nth(1).unwrap();
        assert_eq!((node.title.as_str(), node.inputs.len()), ("SaveTensor", 1));
    }
}
