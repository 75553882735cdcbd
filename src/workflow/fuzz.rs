//! Entry points for fuzzing. None may panic, whatever the bytes.

use std::path::Path;

use serde_json::Value as Json;

use super::examine::examine;
use super::{Document, overrides, svg};

/// Most nodes of a workflow whose graphs are built here.
const BUILT: usize = 40;

/// Reads `data` as a workflow; plans, lowers and draws what can be; and reads what was read a second time.
pub fn fuzz_workflow(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Json>(data) else { return };
    if let Ok(document) = Document::read(&value) {
        let again = Document::read(&document.to_json()).map(|again| again.nodes);
        assert_eq!(again.as_ref(), Ok(&document.nodes));
        if document.nodes.len() > BUILT {
            return;
        }
        if let Some(object) = value.as_object() {
            let _ = overrides::apply(&document, object);
        }
    }
    let examined = examine(&value, Path::new("/nonexistent"), [64, 48]);
    assert!(examined.plan.is_some() || !examined.refused.0.is_empty());
    examined.json();
    if let Some(plan) = &examined.plan {
        svg(plan);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A workflow that has everything, as text to be broken.
    fn whole() -> String {
        json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "x.png", "upload": "image"}},
            "2": {"class_type": "ImageBlend", "_meta": {"title": "Mix"}, "inputs":
                  {"image1": ["1", 0], "image2": ["4", 0], "blend_factor": 0.25, "blend_mode": "overlay"}},
            "3": {"class_type": "SolidMask", "inputs": {"width": 64, "height": 48, "value": 0.5}},
            "4": {"class_type": "MaskToImage", "inputs": {"mask": ["3", 0]}},
            "5": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
        })
        .to_string()
    }

    proptest! {
        #[test]
        fn any_bytes(data in any::<Vec<u8>>()) {
            fuzz_workflow(&data);
        }

        #[test]
        fn a_broken_workflow_is_refused_without_a_panic(
            cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
        ) {
            // Pieces between commas change places, so that most of what comes out is still JSON.
            let text = whole();
            let mut pieces: Vec<&str> = text.split(',').collect();
            for (a, b) in cuts {
                let (a, b) = (a.index(pieces.len()), b.index(pieces.len()));
                pieces.swap(a, b);
            }
            fuzz_workflow(pieces.join(",").as_bytes());
        }

        #[test]
        fn any_value_in_any_place(
            path in prop_oneof![
                Just("/1/class_type"), Just("/2/inputs/image1"), Just("/2/inputs/blend_factor"), Just("/2/inputs/blend_mode"),
                Just("/3/inputs/width"), Just("/3/inputs/value"), Just("/4/inputs/mask"), Just("/5/inputs"), Just("/5"), Just("/2/_meta"),
            ],
            value in prop_oneof![
                Just(json!(null)), Just(json!({})), Just(json!([])), any::<i64>().prop_map(Json::from), any::<f64>().prop_map(Json::from),
                "[a-zA-Z0-9 ]{0,12}".prop_map(Json::from), (0_u64..8, 0_u64..3).prop_map(|(node, output)| json!([node.to_string(), output])),
                (0_u64..8).prop_map(|node| json!([node, -1])), any::<bool>().prop_map(Json::from),
            ],
        ) {
            let mut value_of: Json = serde_json::from_str(&whole()).expect("json");
            *value_of.pointer_mut(path).expect("a place") = value;
            fuzz_workflow(value_of.to_string().as_bytes());
        }
    }
}
