//! The nodes of ComfyUI-StreamDiffusion against the pipeline that they stand for, on the same models and frames.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weir::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use weir::inference::Config;
use weir::pipeline::{Applied, Checked, FrameProcessor, LoadContext, NoFetch, PipelineError, registry};

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
    let cx =
        LoadContext { inference: &inference, models: models.into(), model, pool, progress: &|_| {}, fetch: &NoFetch };
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
        ("config", "mode", json!("txt2img"), "input cfg_type: txt2img takes no guidance, self is one"),
        ("config", "width", json!(68), "input width: 68 is no multiple of 8"),
        ("config", "t_index_list", json!("1;2"), "t_index_list: \"1;2\" is no whole number"),
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
    assert!(error.contains("input image: no picture is linked, and img2img needs one"), "{error}");
    // Nothing moves in a picture from a file.
    let place = models();
    std::fs::create_dir_all(place.path().join("input")).expect("folder");
    image::RgbImage::new(8, 8).save(place.path().join("input/still.png")).expect("a picture");
    let mut still = nodes("weir/tiny");
    still["live"] = json!({"class_type": "PrimaryInputLoadImage", "inputs": {"image": "camera.png"}});
    still["camera"]["inputs"]["image"] = json!("still.png");
    let error = pipeline.ready(&workflow(&still), place.path()).expect_err("no camera").to_string();
    assert!(error.contains("input image: it is the same in every frame"), "{error}");
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
    folders::model(&place.path().join("checkpoints/base"), Line::Sd21, true);
    let mut large = nodes("base");
    large["config"]["inputs"]["use_lcm_lora"] = json!(true);
    let Err(error) = load("comfyui", place.path(), None, &workflow(&large)) else { panic!("no such LoRA") };
    assert!(error.to_string().contains("input use_lcm_lora: nobody has published an LCM-LoRA"), "{error}");
}

#[test]
fn sdxl_takes_its_lcm_lora() {
    let place = tempfile::tempdir().expect("folder");
    let root = place.path();
    folders::model(&root.join("checkpoints/base"), Line::Sdxl, true);
    folders::model(&root.join("checkpoints/small-turbo"), Line::Sdxl, true);
    let mut nodes = nodes("base");
    let camera = picture(0, SIZE);
    let shows = |nodes: &Value| {
        let loaded = load("comfyui", root, None, &workflow(nodes));
        show(loaded.unwrap_or_else(|error| panic!("{error}")).as_mut(), &camera)
    };
    let without = shows(&nodes);
    nodes["config"]["inputs"]["use_lcm_lora"] = json!(true);
    let Err(error) = load("comfyui", root, None, &workflow(&nodes)) else { panic!("it is not there") };
    assert!(error.to_string().contains("latent-consistency/lcm-lora-sdxl"), "{error}");
    folders::lora(&root.join("latent-consistency/lcm-lora-sdxl/pytorch_lora_weights.safetensors"), "style");
    let with = shows(&nodes);
    assert_ne!(with, without);
    // As the pipeline with the same file under its own name.
    let mut params = params("stabilityai/stable-diffusion-xl-base-1.0");
    params["use_lcm_lora"] = json!(true);
    let direct = load("streamdiffusion", root, Some(root.join("checkpoints/base")), &small("streamdiffusion", &params));
    assert_eq!(with, show(direct.unwrap_or_else(|error| panic!("{error}")).as_mut(), &camera));
    // A turbo model goes without, whatever is asked.
    nodes["model"]["inputs"]["checkpoint"] = json!("small-turbo");
    assert_eq!(shows(&nodes), without);
}

#[test]
fn texts_alone_become_pictures_at_the_cameras_pace() {
    let nowhere = Path::new("/nowhere");
    let mut params = params("weir/tiny");
    (params["mode"], params["cfg_type"]) = (json!("txt2img"), json!("none"));
    let direct = small("streamdiffusion", &params);
    let mut direct = load("streamdiffusion", nowhere, None, &direct).unwrap_or_else(|error| panic!("{error}"));
    let mut nodes = nodes("weir/tiny");
    (nodes["config"]["inputs"]["mode"], nodes["config"]["inputs"]["cfg_type"]) = (json!("txt2img"), json!("none"));
    let linked = nodes.clone();
    nodes["sampler"]["inputs"].as_object_mut().expect("an object").remove("image");
    let mut stream = load("comfyui", nowhere, None, &workflow(&nodes)).unwrap_or_else(|error| panic!("{error}"));
    // A picture that is linked all the same is not looked at, whatever stands between.
    let mut inverted = linked.clone();
    inverted["before"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["camera", 0]}});
    inverted["sampler"]["inputs"]["image"] = json!(["before", 0]);
    let mut others = [linked, inverted]
        .map(|nodes| load("comfyui", nowhere, None, &workflow(&nodes)).unwrap_or_else(|error| panic!("{error}")));
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for index in 0..5 {
        let got = show(stream.as_mut(), &picture(0, SIZE));
        assert_eq!(got, show(direct.as_mut(), &picture(index, SIZE)), "frame {index}");
        for other in &mut others {
            assert_eq!(got, show(other.as_mut(), &picture(index + 1, SIZE)), "frame {index}");
        }
        // Behind a start both rows are of the first noise; then each picture has its own.
        assert_eq!(seen.contains(&got), index == 1, "frame {index}");
        seen.push(got);
    }
    // The next stream begins as this one did; a prompt is seen on the next picture.
    stream.reset();
    assert_eq!(show(stream.as_mut(), &picture(3, SIZE)), seen[0]);
    nodes["sampler"]["inputs"]["prompt"] = json!("a dog in the city");
    assert_eq!(stream.apply(&workflow(&nodes)).expect("a prompt"), Applied::Now);
    assert_ne!(show(stream.as_mut(), &picture(3, SIZE)), seen[1]);
    // Other nodes may stand behind it.
    nodes["behind"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["sampler", 0]}});
    nodes["shown"]["inputs"]["images"] = json!(["behind", 0]);
    assert_eq!(stream.apply(&workflow(&nodes)).expect("another graph"), Applied::NeedsReload);
    load("comfyui", nowhere, None, &workflow(&nodes)).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_full_autoencoder_is_that_of_the_pipeline() {
    let place = models();
    let root = place.path();
    folders::vae(&root.join("checkpoints/dream/vae"));
    let mut nodes = nodes("dream");
    let mut params = params("Lykon/dreamshaper-8");
    let model = || Some(root.join("checkpoints/dream"));
    let shows = |params: &Value, nodes: &Value| {
        let direct = load("streamdiffusion", root, model(), &small("streamdiffusion", params));
        let mut direct = direct.unwrap_or_else(|error| panic!("{error}"));
        let stream = load("comfyui", root, None, &workflow(nodes));
        let mut stream = stream.unwrap_or_else(|error| panic!("{error}"));
        let pictures = [0, 1, 2].map(|index| show(stream.as_mut(), &picture(index, SIZE)));
        assert_eq!(pictures, [0, 1, 2].map(|index| show(direct.as_mut(), &picture(index, SIZE))));
        pictures
    };
    let tiny = shows(&params, &nodes);
    (params["use_tiny_vae"], nodes["config"]["inputs"]["use_tiny_vae"]) = (json!(false), json!(false));
    assert_ne!(shows(&params, &nodes), tiny);
}

#[test]
fn a_seed_of_minus_one_is_drawn_once_a_load() {
    let nowhere = Path::new("/nowhere");
    let camera = picture(0, SIZE);
    let mut nodes = nodes("weir/tiny");
    nodes["config"]["inputs"]["seed"] = json!(-1);
    let load = |nodes: &Value| load("comfyui", nowhere, None, &workflow(nodes)).unwrap_or_else(|e| panic!("{e}"));
    let mut stream = load(&nodes);
    let first = show(stream.as_mut(), &camera);
    // Another widget, another seed, and back: the same noise.
    for (node, widget, value) in [
        ("sampler", "prompt", json!("a dog in the city")),
        ("config", "seed", json!(7)),
        ("config", "seed", json!(-1)),
        ("sampler", "prompt", json!("a photo of a cat")),
    ] {
        nodes[node]["inputs"][widget] = value;
        assert_eq!(stream.apply(&workflow(&nodes)).expect(widget), Applied::Now, "{widget}");
        stream.reset();
        let again = show(stream.as_mut(), &camera);
        assert_eq!(
            again == first,
            (node, widget) == ("sampler", "prompt") && nodes["sampler"]["inputs"]["prompt"] == "a photo of a cat"
        );
    }
    assert_ne!(show(load(&nodes).as_mut(), &camera), first, "another load draws another one");
}
