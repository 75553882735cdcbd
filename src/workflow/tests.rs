#![allow(clippy::unwrap_used)]

use serde_json::{Value as Json, json};

use super::class::{Class, Kind, Runs};
use super::lower::{Body, Env, Feed, Lowered};
use super::*;
use crate::graph::DType;

fn lowered(plan: &Plan) -> Result<Lowered, Refused> {
    let folder = std::env::temp_dir();
    lower(
        plan,
        &Env {
            size: [64, 48],
            models: folder.clone(),
            input: folder.clone(),
            precision: DType::F32,
            inline: lower::INLINE,
            weights: folder.clone(),
            scratch: folder,
            progress: &|_| {},
        },
    )
}

/// The camera, mixed with its inverse and with a colour that depends on no frame.
fn mix() -> Json {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "color": 255}},
        "4": {"class_type": "ImageInvert", "inputs": {"image": ["3", 0]}},
        "5": {"class_type": "ImageBlend", "inputs": {"image1": ["2", 0], "image2": ["4", 0], "blend_factor": 0.25}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
        "7": {"class_type": "NoSuchClass", "inputs": {"image": ["1", 0]}}
    })
}

#[test]
fn what_depends_on_no_frame_is_a_graph_of_its_own() {
    let plan = plan(&mix()).unwrap();
    let ids: Vec<&str> = plan.nodes.iter().filter(|node| node.live).map(|node| node.id.as_str()).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    assert!(plan.media.video_in && plan.media.video_out && !plan.media.audio_in);
    let lowered = lowered(&plan).unwrap();
    let names: Vec<(&str, bool)> = lowered.stages.iter().map(|stage| (stage.name.as_str(), stage.live)).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[0], ("EmptyImage, ImageInvert", false));
    assert!(names[1].1);
    let feeds = &lowered.stages[1].inputs;
    assert_eq!(feeds.len(), 3, "the frame, the factor, the folded picture");
    assert!(feeds.iter().any(|port| matches!(port.feed, Feed::Bridge { stage: 0, output: 0 })));
    assert_eq!(lowered.shown, Some((1, 0)));
    assert!(lowered.stages.iter().all(|stage| matches!(&stage.body, Body::Graph(graph) if graph.nodes() > 0)));
    // The factor and the colour are tensors; sizes and the mode shape the graph.
    assert_eq!(lowered.live().count(), 2);
    assert_eq!(lowered.shaping.len(), 4);
}

#[test]
fn every_reason_is_given_at_once_with_its_place() {
    let workflow = json!({
        "1": {"class_type": "LoadTensor", "inputs": {}},
        "2": {"class_type": "ImageInvrt", "_meta": {"title": "Turn"}, "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "ImageBlend", "inputs": {"image1": ["2", 0], "blend_factor": 3}},
        "4": {"class_type": "ImageToMask", "inputs": {"image": ["9", 0], "channel": "infrared"}},
        "5": {"class_type": "ImageInvert", "inputs": {"image": ["4", 0]}},
        "6": {"class_type": "ImageBlend", "inputs": {"image1": ["3", 0], "image2": ["5", 1]}},
        "7": {"class_type": "SaveTensor", "inputs": {"images": ["6", 0]}}
    });
    let refused = plan(&workflow).unwrap_err();
    let lines: Vec<String> = refused.0.iter().map(ToString::to_string).collect();
    let all = lines.join("\n");
    for says in [
        "node 2 \"Turn\" (ImageInvrt): the class ImageInvrt is not known; there is ImageInvert",
        "node 3 (ImageBlend), input image2: it is not linked; link it to a node that gives IMAGE",
        "node 3 (ImageBlend), input blend_factor: 3 is out of range; from 0 to 1 is allowed",
        "node 4 (ImageToMask), input image: it is linked to node 9, which is not there",
        "node 4 (ImageToMask), input channel: \"infrared\" is not among the choices; there are red, green, blue, alpha",
        "node 5 (ImageInvert), input image: it takes IMAGE, and output 0 of node 4 (ImageToMask) is MASK",
        "node 6 (ImageBlend), input image2: it is linked to output 1 of node 5 (ImageInvert), which has 1 outputs",
    ] {
        assert!(all.contains(says), "{says}\n is not in\n{all}");
    }
    assert_eq!(lines.len(), 7, "{all}");
    assert!(!refused.only_models());
}

#[test]
fn a_circle_is_named() {
    let workflow = json!({
        "1": {"class_type": "LoadTensor", "inputs": {}},
        "2": {"class_type": "ImageBlend", "inputs": {"image1": ["1", 0], "image2": ["3", 0]}},
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "4": {"class_type": "SaveTensor", "inputs": {"images": ["3", 0]}}
    });
    let refused = plan(&workflow).unwrap_err();
    assert_eq!(refused.0.len(), 1);
    assert_eq!(refused.0[0].why, Why::Cycle);
    assert!(refused.0[0].reason.contains("feed each other"), "{refused}");
}

#[test]
#[allow(clippy::print_stdout, reason = "the figures of docs/performance.md")]
fn two_thousand_nodes_are_planned_in_under_a_second_and_too_many_are_refused() {
    let chain = |count: usize| {
        let mut nodes = serde_json::Map::new();
        nodes.insert("0".into(), json!({"class_type": "LoadTensor", "inputs": {}}));
        for i in 1..count {
            let from = (i - 1).to_string();
            nodes.insert(i.to_string(), json!({"class_type": "ImageInvert", "inputs": {"image": [from, 0]}}));
        }
        nodes.insert(
            "end".into(),
            json!({"class_type": "SaveTensor", "inputs": {"images": [(count - 1).to_string(), 0]}}),
        );
        Json::Object(nodes)
    };
    let document = chain(2000);
    let began = std::time::Instant::now();
    let plan = super::plan(&document).unwrap();
    let planned = began.elapsed();
    let lowered = lowered(&plan).unwrap();
    let took = began.elapsed();
    println!("2000 nodes: planned in {planned:?}, planned and lowered in {took:?}");
    assert_eq!((plan.nodes.len(), lowered.stages.len()), (2001, 1));
    // Under a second where nothing else runs; the machine of the tests is shared.
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    let refused = super::plan(&chain(MAX_NODES + 1)).unwrap_err();
    assert_eq!(refused.0[0].why, Why::Limit);
}

#[test]
fn the_default_passes_pictures_through() {
    let plan = plan(&serde_json::from_str(DEFAULT).unwrap()).unwrap();
    assert_eq!(plan.classes().into_keys().collect::<Vec<_>>(), ["LoadTensor", "SaveTensor"]);
}

/// A document that runs one node of `class` with `widgets` between the camera and the picture. `None` for classes that need more
/// than pictures and masks, or give neither.
fn around(class: &Class, widgets: &serde_json::Map<String, Json>) -> Option<Json> {
    let mut inputs = widgets.clone();
    for input in class.inputs {
        match input.kind {
            Kind::Link(Type::Image) => drop(inputs.insert(input.name.into(), json!(["camera", 0]))),
            Kind::Link(Type::Mask) => drop(inputs.insert(input.name.into(), json!(["mask", 0]))),
            Kind::Link(_) if input.optional => {}
            Kind::Link(_) | Kind::File => return None,
            _ => {}
        }
    }
    let mut document = json!({
        "camera": {"class_type": "LoadTensor", "inputs": {}},
        "mask": {"class_type": "ImageToMask", "inputs": {"image": ["camera", 0]}},
        "it": {"class_type": class.name, "inputs": inputs},
        "shown": {"class_type": "MaskToImage", "inputs": {"mask": ["it", 0]}},
        "out": {"class_type": "SaveTensor", "inputs": {"images": ["shown", 0]}}
    });
    match class.outputs.first().map(|output| output.ty) {
        Some(Type::Mask) => {}
        Some(Type::Image) => document["out"]["inputs"]["images"] = json!(["it", 0]),
        _ => return None,
    }
    Some(document)
}

/// The default widgets, and one set more for each choice of each widget.
fn variants(class: &Class) -> Vec<serde_json::Map<String, Json>> {
    let mut variants = vec![serde_json::Map::new()];
    for input in class.inputs {
        match input.kind {
            Kind::Choice { of, .. } => {
                variants.extend(
                    of.iter().map(|choice| serde_json::Map::from_iter([(input.name.to_owned(), json!(choice))])),
                );
            }
            Kind::Bool { default } => {
                variants.push(serde_json::Map::from_iter([(input.name.to_owned(), json!(!default))]));
            }
            _ => {}
        }
    }
    variants
}

#[test]
fn what_is_declared_live_is_a_tensor_write_and_what_is_not_shapes_the_graph() {
    let mut tried = 0;
    for class in registry::all().filter(|class| !matches!(class.runs, Runs::Refused(_))) {
        for widgets in variants(class) {
            let Some(document) = around(class, &widgets) else { continue };
            let plan = plan(&document).unwrap_or_else(|refused| panic!("{}: {refused}", class.name));
            let Some(node) = plan.find("it") else { continue };
            // Some settings do not go with pictures of this size, which is not the question here.
            let Ok(lowered) = lowered(&plan) else { continue };
            tried += 1;
            for (i, input) in class.inputs.iter().enumerate() {
                let at = super::lower::WidgetRef { node, input: i };
                let shapes = lowered.shaping.contains(&at);
                let follows = lowered.live().any(|(_, _, live)| live.widgets.contains(&at));
                let place = format!("{}.{} of {widgets:?}", class.name, input.name);
                assert!(!(input.live && shapes), "{place} is declared live and shapes the graph");
                assert!(!follows || input.live, "{place} is a tensor write and is not declared live");
                assert!(!(input.ignored && (shapes || follows)), "{place} is declared to have no effect and has one");
            }
        }
    }
    assert!(tried > 10, "{tried}");
}
