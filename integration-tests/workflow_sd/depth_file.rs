//! Depth from an ONNX file, a stage of its own. The file is made here, of the small estimator whose depth transformers gave.

use std::path::Path;

use serde_json::{Value, json};
use weir::frame::{FrameBuf, FramePool, PixelFormat, Size, Stamps, Timestamp, VideoFrame};
use weir::graph::{DType, GraphBuilder, Tensor};
use weir::inference::Config;
use weir::models::Net;
use weir::models::depth::{self, DepthConfig};
use weir::models::synthetic::Synthetic;
use weir::pipeline::{FrameProcessor, LoadContext, NoFetch, PipelineError, registry};

use super::Golden;
use super::fixture::models;
use super::nodes::frame;

const SIZE: u32 = 64;

/// Writes a graph with one input of `dtype` and `shape`.
fn write(path: &Path, dtype: DType, shape: &[u64], build: impl FnOnce(&mut GraphBuilder, &Tensor) -> Tensor) {
    let mut g = GraphBuilder::new("depth");
    let x = g.input("pixel_values", dtype, shape).expect("input");
    let y = build(&mut g, &x);
    g.output("predicted_depth", &y).expect("output");
    std::fs::create_dir_all(path.parent().expect("folder")).expect("folder");
    g.finish().expect("graph").write(path).expect("file");
}

/// The estimator of golden/workflow/make_sd_frames.py; with `flat` its depth has no dimension for the channel.
fn estimator(path: &Path, flat: bool) {
    let json: Value = serde_json::from_str(include_str!("../../src/models/tiny/depth.json")).expect("config");
    let config = DepthConfig::from_json(&json).expect("config");
    write(path, DType::F32, &[1, 3, 70, 70], |g, x| {
        let mut source = Synthetic::new("depth-1", 1.0);
        let y = depth::build(&mut Net::new(g, &mut source, DType::F32), &config, x).expect("depth model");
        if flat { g.reshape(&y, &[1, 70, 70]).expect("flat") } else { y }
    });
}

fn load(models: &Path, nodes: &Value) -> Result<Box<dyn FrameProcessor>, PipelineError> {
    let pipeline = registry::find("comfyui").expect("registered");
    let params = json!({"prompt": nodes});
    let mut checked = pipeline.check(params.as_object().expect("an object")).unwrap_or_else(|error| panic!("{error}"));
    checked.size = Size::new(SIZE, SIZE);
    let inference = Config { threads: 1, ..Config::default() };
    let (models, pool) = (models.to_path_buf(), FramePool::new(4));
    let cx = LoadContext { inference: &inference, models, model: None, pool, progress: &|_: &str| {}, fetch: &NoFetch };
    pipeline.load(&cx, &checked)
}

/// The first channel of what comes out.
fn show(stream: &mut dyn FrameProcessor, index: usize) -> Vec<f32> {
    let frame = VideoFrame {
        seq: 1,
        pts: Timestamp(3000),
        size: Size::new(SIZE, SIZE),
        format: PixelFormat::Rgb24,
        color: Default::default(),
        stamps: Stamps::default(),
        data: FrameBuf::owned(frame(index, SIZE as usize)),
    };
    let out = stream.process(frame).unwrap_or_else(|error| panic!("{error}"));
    out.data.chunks(3).map(|pixel| f32::from(pixel[0])).collect()
}

/// Up to a step of a byte, and one byte in a hundred.
#[track_caller]
fn same(got: &[f32], want: &[f32]) {
    let off = |least: f32| got.iter().zip(want).filter(|(a, b)| (*a - *b).abs() > least).count();
    assert!(got.len() == want.len() && off(1.0) == 0 && off(0.0) * 100 <= got.len(), "{} of {}", off(0.0), got.len());
}

fn depth_of_the_camera() -> Value {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "2": {"class_type": "DepthAnythingTensorrt", "inputs": {"images": ["1", 0], "engine": "depth_anything_vitl14-fp16.engine"}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    })
}

#[test]
fn an_onnx_file_shows_what_torch_shows() {
    let golden = Golden::read("sd-frames");
    let want: Vec<f32> = golden.get("depth").iter().map(|d| (d * 255.0).floor()).collect();
    for (name, flat) in [("depth_anything_vitl14.onnx", false), ("depth_anything_vitl14-fp16.onnx", true)] {
        let place = tempfile::tempdir().expect("folder");
        estimator(&place.path().join("depth_anything").join(name), flat);
        let mut stream = load(place.path(), &depth_of_the_camera()).unwrap_or_else(|error| panic!("{error}"));
        same(&show(&mut *stream, 3), &want);
        assert_ne!(show(&mut *stream, 5), want, "another picture");
        // Other nodes behind it, and the picture itself beside it.
        let mut nodes = depth_of_the_camera();
        nodes["4"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}});
        nodes["5"] = json!({"class_type": "ImageBlend", "inputs": {"image1": ["1", 0], "image2": ["4", 0], "blend_factor": 1.0}});
        nodes["3"]["inputs"]["images"] = json!(["5", 0]);
        let mut stream = load(place.path(), &nodes).unwrap_or_else(|error| panic!("{error}"));
        let turned: Vec<f32> = golden.get("depth").iter().map(|d| ((1.0 - d) * 255.0).floor()).collect();
        same(&show(&mut *stream, 3), &turned);
    }
}

/// `weir workflow check` tells the stage, which only the file makes.
#[test]
fn the_plan_names_the_stage() {
    let place = tempfile::tempdir().expect("folder");
    estimator(&place.path().join("depth_anything/depth_anything_vitl14.onnx"), false);
    let examined = weir::workflow::examine::examine(&depth_of_the_camera(), place.path(), [SIZE, SIZE]);
    let text = examined.text();
    let stage = "every frame, a stage of its own behind graph 0\n        2  DepthAnythingTensorrt";
    assert!(text.contains(stage) && text.ends_with("It runs.\n"), "{text}");
    let without = weir::workflow::examine::examine(&depth_of_the_camera(), models(), [SIZE, SIZE]).text();
    assert!(without.contains("every frame, graph 0") && !without.contains("of its own"), "{without}");
}

#[test]
fn of_a_still_picture_it_runs_once() {
    let golden = Golden::read("sd-frames");
    let want: Vec<f32> = golden.get("depth").iter().map(|d| (d * 255.0).floor()).collect();
    let place = tempfile::tempdir().expect("folder");
    estimator(&place.path().join("depth_anything/depth_anything_vitl14.onnx"), false);
    std::fs::create_dir_all(place.path().join("input")).expect("folder");
    let picture = image::RgbImage::from_raw(SIZE, SIZE, frame(3, SIZE as usize)).expect("a picture");
    picture.save(place.path().join("input/still.png")).expect("PNG");
    let mut nodes = depth_of_the_camera();
    nodes["0"] = json!({"class_type": "PrimaryInputLoadImage", "inputs": {"image": "x.png"}});
    nodes["1"]["inputs"]["image"] = json!("still.png");
    nodes["4"] =
        json!({"class_type": "ImageBlend", "inputs": {"image1": ["0", 0], "image2": ["2", 0], "blend_factor": 1.0}});
    nodes["3"]["inputs"]["images"] = json!(["4", 0]);
    let mut stream = load(place.path(), &nodes).unwrap_or_else(|error| panic!("{error}"));
    for index in [5, 1] {
        same(&show(&mut *stream, index), &want);
    }
}

#[test]
fn a_file_that_does_not_fit_is_refused_with_what_it_has() {
    let place = tempfile::tempdir().expect("folder");
    let path = place.path().join("depth_anything/depth_anything_vitl14.onnx");
    let refused = |says: &str| {
        let Err(error) = load(place.path(), &depth_of_the_camera()) else { panic!("{says}: it is loaded") };
        let error = error.to_string();
        assert!(error.contains("node 2 (DepthAnythingTensorrt), input engine"), "{error}");
        assert!(error.contains("depth_anything_vitl14.onnx") && error.contains(says), "{says}: {error}");
    };
    let mean = |g: &mut GraphBuilder, x: &Tensor| g.reduce_mean(x, &[1], false).expect("mean");
    write(&path, DType::F32, &[1, 4, 70, 70], mean);
    refused("the input pixel_values is Some(F32) Some([Some(1), Some(4), Some(70), Some(70)])");
    write(&path, DType::F32, &[2, 3, 70, 70], mean);
    refused("the input pixel_values is");
    write(&path, DType::F16, &[1, 3, 70, 70], mean);
    refused("the input pixel_values is Some(F16)");
    write(&path, DType::F32, &[1, 3, 70, 70], |g, x| g.reduce_mean(x, &[1, 2], false).expect("mean"));
    refused("the output predicted_depth is Some(F32) Some([Some(1), Some(70)])");
    write(&path, DType::F32, &[1, 3, 70, 70], |g, x| {
        let more = g.input("more", DType::F32, [1, 3, 70, 70]).expect("input");
        let x = g.add(x, &more).expect("sum");
        mean(g, &x)
    });
    refused("it has 2 inputs and 1 outputs");
    std::fs::write(&path, b"no graph at all").expect("file");
    refused("it cannot be read as ONNX");
    estimator(&path, false);
    let bytes = std::fs::read(&path).expect("file");
    std::fs::write(&path, &bytes[..bytes.len() - 100]).expect("file");
    refused("it cannot be read as ONNX");
}
