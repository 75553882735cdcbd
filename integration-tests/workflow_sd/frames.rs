//! Whole workflows of the shape of those that ComfyStream ships, through the pipeline, and depth.

use serde_json::{Value, json};
use weir::frame::{FrameBuf, FramePool, PixelFormat, Size, Stamps, Timestamp, VideoFrame};
use weir::graph::{DType, GraphBuilder};
use weir::inference::{Config, Runtime, Session};
use weir::models::Net;
use weir::models::depth::{self, DepthConfig};
use weir::models::synthetic::Synthetic;
use weir::pipeline::{Applied, Checked, FrameProcessor, LoadContext, NoFetch, PipelineError, registry};

use super::fixture::models;
use super::nodes::frame;
use super::{Golden, apart, close};

const SIZE: u32 = 64;

/// A workflow of this repository, with latents of the size of the test's frames and ten times the strength of ControlNets.
pub(super) fn workflow(name: &str) -> Value {
    let path: std::path::PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "integration-tests", "workflows", &format!("{name}.json")].iter().collect();
    let mut nodes: Value = serde_json::from_slice(&std::fs::read(path).expect("file")).expect("JSON");
    nodes["10"]["inputs"]["width"] = json!(SIZE);
    nodes["10"]["inputs"]["height"] = json!(SIZE);
    // Half of the noise leaves latents of made-up weights where the decoder tells them apart.
    nodes["11"]["inputs"]["scheduler"] = json!("sgm_uniform");
    nodes["11"]["inputs"]["denoise"] = json!(0.5);
    // ControlNets of made-up weights say little.
    for id in ["9", "27"] {
        if let Some(strength) = nodes[id]["inputs"]["strength"].as_f64() {
            nodes[id]["inputs"]["strength"] = json!((strength * 100.0).round() / 10.0);
        }
    }
    nodes
}

pub(super) fn check(nodes: Value) -> Checked {
    let params = json!({"prompt": nodes});
    let checked = registry::find("comfyui").expect("registered").check(params.as_object().expect("an object"));
    let checked = checked.unwrap_or_else(|error| panic!("{error:?}"));
    Checked { size: Size::new(SIZE, SIZE), ..checked }
}

fn load(checked: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError> {
    let inference = Config { threads: 2, ..Config::default() };
    let (models, pool) = (models().to_path_buf(), FramePool::new(4));
    let cx = LoadContext { inference: &inference, models, model: None, pool, progress: &|_: &str| {}, fetch: &NoFetch };
    registry::find("comfyui").expect("registered").load(&cx, checked)
}

pub(super) fn show(stream: &mut dyn FrameProcessor, index: usize) -> Vec<f32> {
    let size = Size::new(SIZE, SIZE);
    let frame = VideoFrame {
        seq: 1,
        pts: Timestamp(3000),
        size,
        format: PixelFormat::Rgb24,
        color: Default::default(),
        stamps: Stamps::default(),
        data: FrameBuf::owned(frame(index, SIZE as usize)),
    };
    let out = stream.process(frame).unwrap_or_else(|error| panic!("{error}"));
    out.data.iter().map(|&byte| f32::from(byte)).collect()
}

/// Up to a step of a byte, and that seldom: a share of a hundredth of the bytes.
#[track_caller]
pub(super) fn same_picture(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let off = |least: f32| got.iter().zip(want).filter(|(a, b)| (*a - *b).abs() > least).count();
    assert!(
        off(1.0) == 0 && off(0.0) * 100 <= got.len(),
        "{what}: {} bytes differ, {} by more than 1",
        off(0.0),
        off(1.0)
    );
}

#[track_caller]
pub(super) fn another_picture(what: &str, got: &[f32], want: &[f32]) {
    let mean = got.iter().zip(want).map(|(a, b)| (a - b).abs()).sum::<f32>() / got.len() as f32;
    assert!(mean > 0.2, "{what}: off by {mean} in the mean only; the comparison would not notice");
}

#[test]
fn depth_agrees_with_transformers() {
    let golden = Golden::read("sd-frames");
    let json: Value = serde_json::from_str(include_str!("../../src/models/tiny/depth.json")).expect("config");
    let config = DepthConfig::from_json(&json).expect("config");
    let mut g = GraphBuilder::new("depth");
    let x = g.input("x", DType::F32, [1, 3, 70, 70]).expect("input");
    let mut source = Synthetic::new("depth-1", 1.0);
    let y = depth::build(&mut Net::new(&mut g, &mut source, DType::F32), &config, &x).expect("depth model");
    g.output("y", &y).expect("output");
    let inference = Config { threads: 2, ..Config::default() };
    let runtime = Runtime::load(&inference).unwrap_or_else(|error| panic!("{error}"));
    let bytes = g.finish().expect("a graph").to_bytes().expect("ONNX");
    let mut session = Session::from_bytes(runtime, &inference, &bytes).expect("a session");
    let mut ask = |picture: &[u8]| {
        let input = session.input::<f32>("x", &[1, 3, 70, 70]).expect("input");
        session.hold(&input, &normalised(picture)).expect("hold");
        let output = session.output::<f32>("y", &[1, 1, 70, 70]).expect("output");
        let mut out = vec![0.0; 70 * 70];
        session.run(&[], &mut [output.fetch(&mut out)]).expect("runs");
        out
    };
    let want = golden.get("predicted");
    close("depth", &ask(&frame(3, SIZE as usize)), want, 5e-5);
    apart("another picture", &ask(&frame(4, SIZE as usize)), want, 1e-3);
    assert!(want.iter().any(|&d| d > 0.0), "there is some depth");
}

/// (64, 64, 3) to (3, 70, 70), bilinear, by the mean and deviation of ImageNet.
fn normalised(picture: &[u8]) -> Vec<f32> {
    let side = SIZE as usize;
    let place = |i: usize| {
        let at = ((i as f32 + 0.5) * side as f32 / 70.0 - 0.5).max(0.0);
        let low = (at as usize).min(side - 1);
        (low, (low + 1).min(side - 1), at - low as f32)
    };
    let mut out = Vec::with_capacity(3 * 70 * 70);
    for (c, (mean, deviation)) in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)].into_iter().enumerate() {
        let pixel = |y: usize, x: usize| f32::from(picture[(y * side + x) * 3 + c]) / 255.0;
        for i in 0..70 {
            let (top, below, down) = place(i);
            for j in 0..70 {
                let (left, right, along) = place(j);
                let row = |y| pixel(y, left) * (1.0 - along) + pixel(y, right) * along;
                out.push((row(top) * (1.0 - down) + row(below) * down - mean) / deviation);
            }
        }
    }
    out
}

#[test]
fn the_depth_node_shows_what_torch_shows() {
    let golden = Golden::read("sd-frames");
    let nodes = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "2": {"class_type": "DepthAnythingTensorrt", "inputs": {"images": ["1", 0], "engine": "depth_anything_vitl14-fp16.engine"}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    });
    let mut stream = load(&check(nodes)).unwrap_or_else(|error| panic!("{error}"));
    let made: Vec<f32> = show(&mut *stream, 3).chunks(3).map(|pixel| pixel[0]).collect();
    let want: Vec<f32> = golden.get("depth").iter().map(|d| (d * 255.0).floor()).collect();
    same_picture("depth", &made, &want);
    another_picture(
        "another picture",
        &show(&mut *stream, 5).chunks(3).map(|pixel| pixel[0]).collect::<Vec<_>>(),
        &want,
    );
}

/// The workflow shows the golden picture, and another one for other settings, without another graph.
fn agrees(name: &str, golden_name: &str, id: &str) {
    let golden = Golden::read("sd-frames");
    let nodes = workflow(name);
    let mut stream = load(&check(nodes.clone())).unwrap_or_else(|error| panic!("{name}: {error}"));
    let want = golden.get(golden_name);
    same_picture(name, &show(&mut *stream, 3), want);
    let mut other = nodes.clone();
    other[id]["inputs"]["text"] = json!("flowers in the city, neon lights");
    other["11"]["inputs"]["seed"] = json!(1);
    assert_eq!(stream.apply(&check(other)).expect("applies"), Applied::Now, "{name}");
    another_picture(&format!("{name}, another prompt"), &show(&mut *stream, 3), want);
    assert_eq!(stream.apply(&check(nodes)).expect("applies"), Applied::Now, "{name}");
    same_picture(name, &show(&mut *stream, 3), want);
}

/// What the sampler gives for a picture from a file is the golden latent, and for another picture it is not: bytes of the
/// stream's pictures would not tell the one from the other, so little do made-up ControlNets say.
fn latent_agrees(name: &str, golden_name: &str) {
    let golden = Golden::read("sd-frames");
    let of = |file: &str| {
        let mut nodes = workflow(name);
        nodes["1"]["inputs"]["image"] = json!(file);
        nodes["camera"] = json!({"class_type": "PrimaryInputLoadImage", "inputs": {"image": "camera.png"}});
        super::run(&nodes, &frame(3, SIZE as usize), SIZE, "11")
    };
    let want = golden.get(&format!("{golden_name}-latent"));
    close(name, &of("frame-3.png"), want, 2e-5);
    apart(&format!("{name}, another picture"), &of("frame-1.png"), want, 1e-4);
}

#[test]
fn latents_depend_on_the_picture() {
    latent_agrees("sd15-tensorrt", "tensorrt");
    latent_agrees("sd15-multi-cnet-depthanything-o2o", "o2o");
}

#[test]
fn sd15_tensorrt() {
    agrees("sd15-tensorrt", "tensorrt", "5");
    agrees("sd15-tensorrt-depthanything-large", "tensorrt", "5");
}

#[test]
fn sd15_two_controlnets() {
    agrees("sd15-multi-cnet-depthanything-o2o", "o2o", "5");
}

#[test]
fn sd15_with_a_mask_of_depth() {
    let golden = Golden::read("sd-frames");
    let nodes = workflow("sd15-tensorrt-w-depthmask");
    let mut stream = load(&check(nodes.clone())).unwrap_or_else(|error| panic!("{error}"));
    let want = golden.get("depthmask");
    same_picture("inside and outside", &show(&mut *stream, 3), want);
    another_picture("another frame", &show(&mut *stream, 6), want);
    let mut other = nodes;
    other["17"]["inputs"]["value"] = json!(0.9);
    assert_eq!(stream.apply(&check(other)).expect("applies"), Applied::Now);
    another_picture("a smaller mask", &show(&mut *stream, 3), want);
}

#[test]
fn sd15_with_a_lora_for_each_region() {
    agrees("sd15-regional-lora", "regional", "5");
    latent_agrees("sd15-regional-lora", "regional");
}

#[test]
fn sd15_with_a_face() {
    let golden = Golden::read("sd-frames");
    for name in ["sd15-multi-cnet-depthanything-face", "sd15-multi-cnet-depthanything-face-dynamic"] {
        let nodes = workflow(name);
        let mut stream = load(&check(nodes.clone())).unwrap_or_else(|error| panic!("{name}: {error}"));
        // The first picture is one in which the face is looked for, the next one is one in which it is followed.
        same_picture(name, &show(&mut *stream, 3), golden.get("face"));
        same_picture(&format!("{name}, followed"), &show(&mut *stream, 3), golden.get("face-followed"));
        let mut other = nodes.clone();
        other["5"]["inputs"]["text"] = json!("flowers in the city, neon lights");
        other["29"]["inputs"]["mesh_thickness"] = json!(1.0);
        assert_eq!(stream.apply(&check(other)).expect("applies"), Applied::Now, "{name}");
        another_picture(&format!("{name}, another prompt"), &show(&mut *stream, 3), golden.get("face"));
        // Another stream begins anew.
        stream.reset();
        assert_eq!(stream.apply(&check(nodes)).expect("applies"), Applied::Now, "{name}");
        same_picture(name, &show(&mut *stream, 3), golden.get("face"));
    }
    latent_agrees("sd15-multi-cnet-depthanything-face", "face");
}
