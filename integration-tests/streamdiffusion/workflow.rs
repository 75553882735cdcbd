//! The nodes of ComfyUI-StreamDiffusion against the pipeline that they stand for, on the same models and frames.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weir::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use weir::inference::Config;
use weir::pipeline::{Applied, Checked, FrameProcessor, LoadContext, PipelineError, registry};

use super::folders::{self, Line};
use super::picture;

const SIZE: usize = 64;

fn small(pipeline: &str, params: &Value) -> Checked {
    let pipeline = registry::find(pipeline).expect("registered");
    let checked = pipeline.check(params.as_object().expect("an object")).unwrap_or_else(|error| panic!("{error}"));
    Checked { size: Size::new(SIZE as u32, SIZE as u32), ..checked }
}

fn load(
    pipeline: &str,
    models: &Path,
    model: Option<PathBuf>,
    checked: &Checked,
) -> Result<Box<dyn FrameProcessor>, PipelineError> {
    let inference = Config { threads: 1, ..Config::default() };
    let pool = FramePool::new(4);
    let cx = LoadContext { inference: &inference, models: models.into(), model, pool, progress: &|_| {} };
    registry::find(pipeline).expect("registered").load(&cx, checked)
}

fn show(processor: &mut dyn FrameProcessor, picture: &[u8]) -> Vec<u8> {
    let pool = FramePool::new(1);
    let size = Size::new(SIZE as u32, SIZE as u32);
    let mut frame = VideoFrame::take(&pool, size, PixelFormat::Rgb24, Timestamp(9)).expect("a buffer");
    frame.data.copy_from_slice(picture);
    let out = processor.process(frame).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(out.pts, Timestamp(9));
    out.data.to_vec()
}

fn workflow(nodes: &Value) -> Checked {
    small("comfyui", &json!({"prompt": nodes}))
}

/// The camera through a sampler of `checkpoint`.
fn nodes(checkpoint: &str) -> Value {
    json!({
        "camera": {"class_type": "LoadImage", "inputs": {"image": "camera.png"}},
        "model": {"class_type": "StreamDiffusionCheckpointLoader", "inputs": {"checkpoint": checkpoint}},
        "config": {"class_type": "StreamDiffusionConfig", "inputs": {
            "model": ["model", 0], "t_index_list": "20, 32", "mode": "img2img", "width": SIZE, "height": SIZE,
            "acceleration": "tensorrt", "frame_buffer_size": 1, "use_tiny_vae": true, "cfg_type": "self",
            "use_lcm_lora": false, "seed": 7}},
        "sampler": {"class_type": "StreamDiffusionSampler", "inputs": {
            "stream_model": ["config", 0], "prompt": "a photo of a cat", "negative_prompt": "blurry",
            "num_inference_steps": 50, "guidance_scale": 1.4, "delta": 0.7, "image": ["camera", 0]}},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["sampler", 0]}}
    })
}

/// The same as parameters.
fn params(model: &str) -> Value {
    json!({
        "model_id": model, "prompt": "a photo of a cat", "negative_prompt": "blurry", "num_inference_steps": 50,
        "guidance_scale": 1.4, "delta": 0.7, "t_index_list": [20, 32], "cfg_type": "self", "use_lcm_lora": false, "seed": 7,
    })
}

fn models() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("folder");
    folders::model(&place.path().join("checkpoints/dream"), Line::Sd15, true);
    folders::lora(&place.path().join("loras/style.safetensors"), "style");
    place
}

#[test]
fn frames_are_those_of_the_pipeline_with_every_widget_live() {
    let place = models();
    let root = place.path();
    let mut nodes = nodes("dream.safetensors");
    nodes["lora"] = json!({"class_type": "StreamDiffusionLoraLoader", "inputs": {"lora_name": "style.safetensors", "strength": 0.8}});
    nodes["config"]["inputs"]["opt_lora_dict"] = json!(["lora", 0]);
    nodes["more"] = json!({"class_type": "StreamDiffusionAdvancedConfig", "inputs": {"do_add_noise": false}});
    nodes["config"]["inputs"]["opt_advanced_config"] = json!(["more", 0]);
    let mut params = params("Lykon/dreamshaper-8");
    params["lora_dict"] = json!({"loras/style.safetensors": 0.8});
    params["do_add_noise"] = json!(false);
    let direct = small("streamdiffusion", &params);
    let mut direct =
        load("streamdiffusion", root, Some(root.join("checkpoints/dream")), &direct).unwrap_or_else(|e| panic!("{e}"));
    let mut stream = load("comfyui", root, None, &workflow(&nodes)).unwrap_or_else(|error| panic!("{error}"));
    let mut seen = vec![show(stream.as_mut(), &picture(0, SIZE))];
    assert_eq!(seen[0], show(direct.as_mut(), &picture(0, SIZE)));
    // One widget after the other: each is seen on the next frame, as by the pipeline.
    for (index, (node, widget, value, param, same)) in [
        ("sampler", "prompt", json!("a dog in the city"), "prompt", json!("a dog in the city")),
        ("sampler", "guidance_scale", json!(2.5), "guidance_scale", json!(2.5)),
        ("sampler", "delta", json!(1.5), "delta", json!(1.5)),
        ("config", "seed", json!(8), "seed", json!(8)),
        ("config", "t_index_list", json!("12,30"), "t_index_list", json!([12, 30])),
        ("sampler", "num_inference_steps", json!(40), "num_inference_steps", json!(40)),
        ("more", "do_add_noise", json!(true), "do_add_noise", json!(true)),
    ]
    .into_iter()
    .enumerate()
    {
        nodes[node]["inputs"][widget] = value;
        params[param] = same;
        assert_eq!(stream.apply(&workflow(&nodes)).expect(widget), Applied::Now, "{widget}");
        assert_eq!(direct.apply(&small("streamdiffusion", &params)).expect(param), Applied::Now, "{param}");
        for next in 0..3 {
            let camera = picture(3 * index + next + 1, SIZE);
            let got = show(stream.as_mut(), &camera);
            assert_eq!(got, show(direct.as_mut(), &camera), "{widget}, frame {next}");
            // Behind an update the first picture is of its own frame, and the second of that frame too.
            assert!(next > 0 || !seen.contains(&got), "{widget}");
            seen.push(got);
        }
    }
    // The widget alone is seen, not only the frame.
    let camera = picture(0, SIZE);
    let before = show(stream.as_mut(), &camera);
    nodes["sampler"]["inputs"]["guidance_scale"] = json!(4.0);
    assert_eq!(stream.apply(&workflow(&nodes)).expect("guidance"), Applied::Now);
    assert_ne!(show(stream.as_mut(), &camera), before);

    // Wrong settings change nothing.
    let before = {
        stream.reset();
        show(stream.as_mut(), &camera)
    };
    let mut wrong = nodes.clone();
    wrong["config"]["inputs"]["t_index_list"] = json!("12,49");
    let error = stream.apply(&workflow(&wrong)).expect_err("40 steps are there").to_string();
    assert!(error.contains("node sampler (StreamDiffusionSampler): t_index_list"), "{error}");
    wrong["config"]["inputs"] = nodes["config"]["inputs"].clone();
    wrong["config"]["inputs"]["seed"] = json!(-1);
    let error = stream.apply(&workflow(&wrong)).expect_err("no seed").to_string();
    assert!(error.contains("type one in"), "{error}");
    stream.reset();
    assert_eq!(show(stream.as_mut(), &camera), before);

    // Another number of steps is another graph, and so is another strength of a LoRA.
    let mut other = nodes.clone();
    other["config"]["inputs"]["t_index_list"] = json!("12");
    assert_eq!(stream.apply(&workflow(&other)).expect("steps"), Applied::NeedsReload);
    let mut other = nodes.clone();
    other["lora"]["inputs"]["strength"] = json!(0.3);
    assert_eq!(stream.apply(&workflow(&other)).expect("strength"), Applied::NeedsReload);
    let mut other = load("comfyui", root, None, &workflow(&other)).unwrap_or_else(|error| panic!("{error}"));
    assert_ne!(show(other.as_mut(), &camera), before);
}

#[test]
fn other_nodes_stand_before_and_behind_it() {
    // ImageInvert between bytes: ⌊255 · (1 − x / 255)⌋ in f32.
    let turned = |byte: &u8| ((1.0 - f32::from(*byte) / 255.0) * 255.0) as u8;
    let invert = |picture: &[u8]| picture.iter().map(turned).collect::<Vec<u8>>();
    let mut nodes = nodes("weir/tiny");
    let nowhere = Path::new("/nowhere");
    let direct = small("streamdiffusion", &params("weir/tiny"));
    let mut direct = load("streamdiffusion", nowhere, None, &direct).unwrap_or_else(|error| panic!("{error}"));
    nodes["before"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["camera", 0]}});
    nodes["sampler"]["inputs"]["image"] = json!(["before", 0]);
    nodes["behind"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["sampler", 0]}});
    nodes["shown"]["inputs"]["images"] = json!(["behind", 0]);
    let mut stream = load("comfyui", nowhere, None, &workflow(&nodes)).unwrap_or_else(|error| panic!("{error}"));
    let camera: Vec<u8> = picture(1, SIZE);
    let got = show(stream.as_mut(), &camera);
    assert_eq!(got, invert(&show(direct.as_mut(), &invert(&camera))));
    direct.reset();
    assert_ne!(got, show(direct.as_mut(), &camera));

    // A function on the host takes the picture too, beside the one that is shown.
    nodes["edges"] = json!({"class_type": "Canny", "inputs": {"image": ["sampler", 0]}});
    nodes["mixed"] = json!({"class_type": "ImageBlend", "inputs": {
        "image1": ["behind", 0], "image2": ["edges", 0], "blend_factor": 0.0}});
    nodes["shown"]["inputs"]["images"] = json!(["mixed", 0]);
    let mut both = load("comfyui", nowhere, None, &workflow(&nodes)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(show(both.as_mut(), &camera), got);
    // And before it.
    nodes["edges"]["inputs"]["image"] = json!(["camera", 0]);
    nodes["sampler"]["inputs"]["image"] = json!(["edges", 0]);
    nodes["shown"]["inputs"]["images"] = json!(["sampler", 0]);
    let mut edges = load("comfyui", nowhere, None, &workflow(&nodes)).unwrap_or_else(|error| panic!("{error}"));
    assert_ne!(show(edges.as_mut(), &camera), got);
}

#[test]
fn several_frames_are_painted_at_once() {
    let mut nodes = nodes("weir/tiny");
    nodes["config"]["inputs"]["frame_buffer_size"] = json!(2);
    let mut params = params("weir/tiny");
    params["frame_buffer_size"] = json!(2);
    let nowhere = Path::new("/nowhere");
    let direct = small("streamdiffusion", &params);
    let mut direct = load("streamdiffusion", nowhere, None, &direct).unwrap_or_else(|error| panic!("{error}"));
    let mut stream = load("comfyui", nowhere, None, &workflow(&nodes)).unwrap_or_else(|error| panic!("{error}"));
    for index in 0..7 {
        let camera = picture(index, SIZE);
        assert_eq!(show(stream.as_mut(), &camera), show(direct.as_mut(), &camera), "frame {index}");
    }
}

/// The pack's own default goes from late steps to early ones, which the pipeline's own door refuses.
#[test]
fn steps_may_come_in_any_order() {
    let mut nodes = nodes("weir/tiny");
    nodes["config"]["inputs"].as_object_mut().expect("an object").remove("t_index_list");
    let mut stream =
        load("comfyui", Path::new("/nowhere"), None, &workflow(&nodes)).unwrap_or_else(|error| panic!("{error}"));
    let first = show(stream.as_mut(), &picture(0, SIZE));
    nodes["config"]["inputs"]["t_index_list"] = json!("30,35,39");
    assert_eq!(stream.apply(&workflow(&nodes)).expect("steps"), Applied::Now);
    stream.reset();
    assert_ne!(show(stream.as_mut(), &picture(0, SIZE)), first);
}

#[test]
fn what_is_not_built_is_refused_with_its_input() {
    for (node, input, value, says) in [
        ("config", "mode", json!("txt2img"), "input mode: pictures from the text alone are not built"),
        ("config", "use_tiny_vae", json!(false), "input use_tiny_vae: only the tiny autoencoder"),
        ("config", "width", json!(68), "input width: 68 is no multiple of 8"),
        ("config", "t_index_list", json!("1;2"), "t_index_list: \"1;2\" is no whole number"),
        ("config", "seed", json!(-1), "seed: -1 would draw"),
    ] {
        let mut nodes = nodes("weir/tiny");
        nodes[node]["inputs"][input] = value;
        let checked = workflow(&nodes);
        let pipeline = registry::find("comfyui").expect("registered");
        let error = pipeline.ready(&checked, Path::new("/nowhere")).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    }
    let mut none = nodes("weir/tiny");
    none["sampler"]["inputs"].as_object_mut().expect("an object").remove("image");
    let pipeline = registry::find("comfyui").expect("registered");
    let error = pipeline.ready(&workflow(&none), Path::new("/nowhere")).expect_err("no picture").to_string();
    assert!(error.contains("input image: pictures from the text alone"), "{error}");
    let mut loras = nodes("weir/tiny");
    loras["lora"] = json!({"class_type": "StreamDiffusionLoraLoader", "inputs": {"lora_name": "style.safetensors"}});
    loras["config"]["inputs"]["opt_lora_dict"] = json!(["lora", 0]);
    let place = models();
    let Err(error) = load("comfyui", place.path(), None, &workflow(&loras)) else { panic!("no LoRA is for it") };
    assert!(error.to_string().contains("input opt_lora_dict: weir/tiny is made up"), "{error}");
    // A model that is not there is named with the place.
    let error = pipeline.ready(&workflow(&nodes("dream.safetensors")), Path::new("/nowhere")).expect_err("no model");
    assert!(error.to_string().contains("/nowhere/checkpoints/dream.safetensors"), "{error}");
    // So are what stands beside it: the tiny autoencoder, and the LCM-LoRA where it is merged.
    let bare = tempfile::tempdir().expect("folder");
    folders::model(&bare.path().join("checkpoints/dream"), Line::Sd15, false);
    let mut wanting = nodes("dream");
    wanting["config"]["inputs"]["use_lcm_lora"] = json!(true);
    let examined = weir::workflow::examine::examine(&wanting, bare.path(), [SIZE as u32; 2]);
    assert_eq!(examined.verdict(), weir::workflow::examine::Verdict::ModelsMissing);
    let text = examined.text();
    for part in [
        "model: tiny autoencoder madebyollin/taesd (node config), missing; `weir models pull madebyollin/taesd`",
        "model: LCM-LoRA latent-consistency/lcm-lora-sdv1-5 (node config), missing;",
        "It runs once its models are there.",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let error = pipeline.ready(&workflow(&wanting), bare.path()).expect_err("no autoencoder").to_string();
    assert!(error.contains("lcm-lora-sdv1-5") && error.contains("madebyollin/taesd"), "{error}");
    let whole = weir::workflow::examine::examine(&nodes("dream"), models().path(), [SIZE as u32; 2]);
    assert!(whole.needs.iter().all(|(.., at)| at.is_some()), "{}", whole.text());
    let tiny = weir::workflow::examine::examine(&nodes("weir/tiny"), Path::new("/nowhere"), [SIZE as u32; 2]);
    assert!(tiny.needs.is_empty(), "{}", tiny.text());
    let mut large = nodes("sdxl-turbo");
    large["config"]["inputs"]["use_lcm_lora"] = json!(true);
    let large = weir::workflow::examine::examine(&large, Path::new("/nowhere"), [SIZE as u32; 2]);
    let names: Vec<_> = large.needs.iter().map(|(_, need, _)| need.name.as_str()).collect();
    assert_eq!(names, ["sdxl-turbo", "madebyollin/taesdxl"]);
    let place = tempfile::tempdir().expect("folder");
    folders::model(&place.path().join("checkpoints/base"), Line::Sdxl, true);
    let mut large = nodes("base");
    large["config"]["inputs"]["use_lcm_lora"] = json!(true);
    let Err(error) = load("comfyui", place.path(), None, &workflow(&large)) else { panic!("no such LoRA") };
    assert!(error.to_string().contains("input use_lcm_lora: the LCM-LoRA is merged into"), "{error}");
}
