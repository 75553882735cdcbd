//! Frame buffers and preprocessors: by themselves, and in the pipeline.

use serde_json::{Value, json};
use weir::graph::{DType, GraphBuilder, Tensor};
use weir::models::depth::DepthConfig;
use weir::models::synthetic::Synthetic;
use weir::models::{ModelError, hint};
use weir::pipeline::{Applied, FrameProcessor, PipelineError};

use super::folders::{self, Line};
use super::pipeline::{check, library, load, show, tiny_stream, whole_folder};
use super::{Golden, Graph, apart, close, config, picture};

const SIZE: usize = 64;
/// Numbers of a golden picture: every fourth pixel, down and right.
const FEW: usize = 16 * 16 * 3;

/// Scales at which ControlNets of made-up weights say something.
const SCALES: [f32; 2] = [6.0, 12.0];

fn few(frame: &[f32]) -> Vec<f32> {
    (0..FEW).map(|i| frame[(i / 48 * 4 * SIZE + i % 48 / 3 * 4) * 3 + i % 3]).collect()
}

fn made(build: impl FnOnce(&mut GraphBuilder, &Tensor) -> Result<Tensor, ModelError>, index: usize) -> Vec<f32> {
    let mut g = GraphBuilder::new("hint");
    let frame = g.input("frame", DType::U8, [1, SIZE as u64, SIZE as u64, 3]).expect("input");
    let x = hint::planes(&mut g, &frame).expect("planes");
    let out = build(&mut g, &x).expect("graph");
    g.output("out", &out).expect("output");
    let mut graph = Graph::new(&g.finish().expect("model"));
    graph.set("frame", picture(index, SIZE));
    let all = graph.run()["out"].floats();
    let plane = SIZE * SIZE;
    assert_eq!(all.len(), 3 * plane);
    assert!(all[..plane] == all[plane..2 * plane] && all[..plane] == all[2 * plane..], "three equal channels");
    (0..plane / 4).map(|i| all[i / 32 * 2 * SIZE + i % 32 * 2]).collect()
}

#[test]
fn soft_edges_and_depth_are_those_of_torch() {
    let golden = Golden::read("conditions");
    for index in [0, 3, 5] {
        let got = made(|g, frame| Ok(hint::soft_edges(g, frame)?), index);
        close(&format!("soft edges {index}"), &got, golden.get(&format!("soft-{index}")), 1e-5);
        let spread = got.iter().fold([1.0_f32, 0.0], |[low, high], &x| [low.min(x), high.max(x)]);
        assert!(spread[1] - spread[0] > 0.3, "{spread:?}");
    }
    apart("of another frame", &made(|g, frame| Ok(hint::soft_edges(g, frame)?), 4), golden.get("soft-3"), 0.05);
    let depth = DepthConfig::from_json(&config("depth")).expect("config");
    let of = |index| {
        let mut source = Synthetic::new("depth-1", 1.0);
        made(|g, frame| hint::depth_map(g, &depth, &mut source, DType::F32, frame), index)
    };
    close("depth", &of(3), golden.get("depth"), 2e-4);
    apart("depth of another frame", &of(5), golden.get("depth"), 0.05);
}

/// The pictures that are shown for the first frames.
fn shown(stream: &mut dyn FrameProcessor, count: usize) -> Vec<Vec<f32>> {
    (0..count).map(|index| show(stream, index)).collect()
}

#[test]
fn a_buffer_of_two_frames_shows_what_the_reference_shows_one_frame_later() {
    let golden = Golden::read("buffers");
    for (name, list, kind) in [
        ("1-none", json!([20]), "none"),
        ("1-full", json!([20]), "full"),
        ("1-self", json!([20]), "self"),
        ("1-initialize", json!([20]), "initialize"),
        ("2-none", json!([15, 32]), "none"),
        ("2-self", json!([15, 32]), "self"),
        ("2-initialize", json!([15, 32]), "initialize"),
        ("2-full", json!([15, 32]), "full"),
    ] {
        let params = library(json!({"t_index_list": list, "cfg_type": kind, "frame_buffer_size": 2}));
        let mut stream = tiny_stream(params);
        // Once more after a reset: nothing is left of the frames before, the one that waits included.
        for turn in 0..2 {
            let pictures = shown(&mut *stream, 9);
            for (index, want) in golden.get(name).chunks_exact(FEW).enumerate() {
                close(&format!("{name}, frame {index}, turn {turn}"), &few(&pictures[index + 1]), want, 1.0);
            }
            apart(&format!("{name}: one frame earlier"), &few(&pictures[7]), &golden.get(name)[7 * FEW..], 5.0);
            stream.reset();
        }
    }
}

#[test]
fn a_buffer_is_filled_at_once_by_the_first_frame_and_behind_an_update() {
    for frames in [2, 3] {
        let with = |more: Value| {
            let mut params = json!({"model_id": "weir/tiny", "guidance_scale": 1.5, "frame_buffer_size": frames});
            params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            params
        };
        let mut buffered = tiny_stream(with(json!({})));
        let mut plain = tiny_stream(with(json!({"frame_buffer_size": 1})));
        let first = show(&mut *plain, 0);
        for turn in 0..frames {
            close(&format!("{frames} frames, {turn} later"), &show(&mut *buffered, turn * 4), &first, 1.0);
        }
        // An update in the middle of a call is seen on the next frame.
        let other = check(with(json!({"prompt": "a dog"})));
        assert_eq!(buffered.apply(&other).expect("hot"), Applied::Now);
        plain.apply(&check(with(json!({"prompt": "a dog", "frame_buffer_size": 1})))).expect("hot");
        plain.reset();
        let (painted, want) = (show(&mut *buffered, 2), show(&mut *plain, 2));
        close(&format!("{frames} frames, the update"), &painted, &want, 1.0);
        apart("before the update", &painted, &first, 3.0);
        assert_eq!(
            buffered.apply(&check(with(json!({"frame_buffer_size": 1})))).expect("checked"),
            Applied::NeedsReload
        );
    }
}

fn controlled(preprocessors: [(&str, Value); 2]) -> Value {
    let entry = |(j, (name, params)): (usize, (&str, Value))| {
        json!({"model_id": format!("weir/tiny-control-{j}"), "conditioning_scale": SCALES[j],
               "preprocessor": name, "preprocessor_params": params})
    };
    let list: Vec<Value> = preprocessors.into_iter().enumerate().map(entry).collect();
    library(json!({"t_index_list": [15, 32], "cfg_type": "self", "controlnets": list}))
}

#[test]
fn a_preprocessor_of_the_host_changes_between_two_frames() {
    let (soft, plain) = (("soft_edge", json!({})), ("passthrough", json!({})));
    let canny = |low: u32, high: u32| ("canny", json!({"low_threshold": low, "high_threshold": high}));
    let mut stream = tiny_stream(controlled([plain.clone(), plain.clone()]));
    let base = show(&mut *stream, 3);
    for pair in [[canny(40, 90), plain.clone()], [canny(300, 600), plain.clone()], [plain.clone(), canny(40, 90)]] {
        stream.reset();
        assert_eq!(stream.apply(&check(controlled(pair.clone()))).expect("hot"), Applied::Now);
        let mut alone = tiny_stream(controlled(pair));
        assert_eq!(show(&mut *stream, 3), show(&mut *alone, 3));
    }
    stream.reset();
    stream.apply(&check(controlled([plain.clone(), plain.clone()]))).expect("hot");
    assert_eq!(show(&mut *stream, 3), base, "and back");
    assert_eq!(stream.apply(&check(controlled([soft, plain]))).expect("checked"), Applied::NeedsReload);
}

#[test]
fn frames_of_a_buffer_have_pictures_of_their_own() {
    let with = |frames: u64| {
        let mut params =
            controlled([("canny", json!({"low_threshold": 40, "high_threshold": 90})), ("soft_edge", json!({}))]);
        params["frame_buffer_size"] = json!(frames);
        params["t_index_list"] = json!([20]);
        params["cfg_type"] = json!("none");
        params
    };
    // With one step and no guidance nothing is carried, so every frame is by itself.
    let single = shown(&mut *tiny_stream(with(1)), 6);
    let double = shown(&mut *tiny_stream(with(2)), 7);
    for index in 0..6 {
        close(&format!("frame {index}"), &double[index + 1], &single[index], 1.0);
    }
    apart("neighbours", &single[4], &single[5], 5.0);
}

#[test]
fn the_depth_model_lies_among_the_models_or_is_named() {
    let root = tempfile::tempdir().expect("folder");
    let mut params = whole_folder(root.path(), Line::Sd15);
    let plain = show(&mut *load(root.path(), &check(params.clone())).unwrap_or_else(|error| panic!("{error}")), 3);
    for entry in params["controlnets"].as_array_mut().expect("a list") {
        entry["preprocessor"] = json!("depth_tensorrt");
    }
    match load(root.path(), &check(params.clone())) {
        Err(PipelineError::Load(text)) => assert!(text.contains("depth-anything/Depth-Anything-V2-Small-hf"), "{text}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it loads without a depth model"),
    }
    folders::depth(&root.path().join("models--depth-anything--Depth-Anything-V2-Small-hf/snapshots/1f"));
    let mut deep = load(root.path(), &check(params)).unwrap_or_else(|error| panic!("{error}"));
    assert_ne!(show(&mut *deep, 3), plain, "what the ControlNets are given is another picture");
}
