//! Picture and mask nodes against torch, torchvision, kornia, scipy and Pillow: golden/workflow/make_images.py.

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use weir::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use weir::inference::Config;
use weir::pipeline::{LoadContext, NoFetch, registry};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("integration-tests/golden/workflow").join(name))
        .unwrap()
}

/// What comes out of a workflow for a camera's picture of `size`.
fn run(workflow: &Value, camera: &[u8], size: Size) -> Vec<u8> {
    let pipeline = registry::find("comfyui").unwrap();
    let params = json!({"width": 384, "height": 384, "prompt": workflow});
    let mut checked = pipeline.check(params.as_object().unwrap()).unwrap();
    // Streams are larger; the arithmetic is the same.
    checked.size = size;
    let (pool, inference) = (FramePool::new(4), Config::default());
    let models = std::env::temp_dir();
    let cx = LoadContext {
        inference: &inference,
        models,
        model: None,
        pool: pool.clone(),
        progress: &|_| {},
        fetch: &NoFetch,
    };
    let mut processor = pipeline.load(&cx, &checked).unwrap();
    let mut frame = VideoFrame::take(&pool, size, PixelFormat::Rgb24, Timestamp(0)).unwrap();
    frame.data.copy_from_slice(camera);
    processor.process(frame).unwrap().data.to_vec()
}

/// Differences by more than a level, and the largest.
fn away(got: &[u8], want: &[u8]) -> (usize, u8) {
    assert_eq!(got.len(), want.len());
    let each = || got.iter().zip(want).map(|(a, b)| a.abs_diff(*b));
    (each().filter(|n| *n > 1).count(), each().max().unwrap_or(0))
}

#[test]
fn every_picture_and_mask_node_gives_what_the_libraries_give() {
    let workflows: Map<String, Value> = serde_json::from_slice(&golden("images.json")).unwrap();
    let bytes = golden("images.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let camera = tensors.tensor("camera").unwrap();
    let [height, width, 3] = camera.shape()[..] else { panic!("{:?}", camera.shape()) };
    let size = Size::new(width as u32, height as u32);
    assert!(workflows.len() > 60, "{}", workflows.len());
    let mut wrong = Vec::new();
    for (name, workflow) in &workflows {
        let want = tensors.tensor(name).unwrap();
        let got = run(workflow, camera.data(), size);
        let (pixels, most) = away(&got, want.data());
        if pixels > 0 {
            wrong.push(format!("{name}: {pixels} of {} values, by up to {most}", got.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A palette in the middle of a graph: the camera's picture, turned over twice, in nine colours.
#[test]
fn a_palette_is_that_of_pillow() {
    let golden_of: Value = serde_json::from_slice(&golden("quantize.json")).unwrap();
    let bytes = golden("images.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let camera = tensors.tensor("camera").unwrap();
    let size = Size::new(camera.shape()[1] as u32, camera.shape()[0] as u32);
    let workflow = |colours: u32, dither: &str| {
        let settings = json!({"image": ["2", 0], "colors": colours, "dither": dither});
        json!({
            "0": {"class_type": "LoadTensor", "inputs": {}},
            "1": {"class_type": "ImageFlip", "inputs": {"image": ["0", 0], "flip_method": "y-axis: horizontally"}},
            "2": {"class_type": "ImageFlip", "inputs": {"image": ["1", 0], "flip_method": "y-axis: horizontally"}},
            "3": {"class_type": "ImageQuantize", "inputs": settings},
            "4": {"class_type": "ImageInvert", "inputs": {"image": ["3", 0]}},
            "5": {"class_type": "ImageInvert", "inputs": {"image": ["4", 0]}},
            "6": {"class_type": "SaveTensor", "inputs": {"images": ["5", 0]}}
        })
    };
    let want = golden_of["camera"].as_str().unwrap();
    let want: Vec<u8> = (0..want.len()).step_by(2).map(|i| u8::from_str_radix(&want[i..i + 2], 16).unwrap()).collect();
    // Turning over twice may lose the last bit of a level.
    let (away_by_more, most) = away(&run(&workflow(9, "floyd-steinberg"), camera.data(), size), &want);
    assert_eq!(away_by_more, 0, "by up to {most}");
    assert!(away(&run(&workflow(9, "bayer-4"), camera.data(), size), &want).0 > 0);
    assert!(away(&run(&workflow(8, "floyd-steinberg"), camera.data(), size), &want).0 > 0);
}

#[test]
fn another_setting_is_seen() {
    let workflows: Map<String, Value> = serde_json::from_slice(&golden("images.json")).unwrap();
    let bytes = golden("images.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let camera = tensors.tensor("camera").unwrap();
    let size = Size::new(camera.shape()[1] as u32, camera.shape()[0] as u32);
    for (name, node, input, value) in [
        ("blur-5", "1", "sigma", json!(0.5)),
        ("blend-normal", "2", "blend_factor", json!(0.72)),
        ("grow3-True", "2", "expand", json!(2)),
        ("levels", "1", "mid_level", json!(0.42)),
        ("canny-0.2", "1", "low_threshold", json!(0.3)),
    ] {
        let mut workflow = workflows[name].clone();
        workflow[node]["inputs"][input] = value;
        let got = run(&workflow, camera.data(), size);
        let want = tensors.tensor(name).unwrap();
        assert!(away(&got, want.data()).0 > 0, "{name} does not follow {input}");
    }
}
