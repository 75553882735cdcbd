//! The pipeline `streamdiffusion` over small models, from parameters to pictures.

use std::path::Path;

use serde_json::{Value, json};
use weir::frame::{FrameBuf, FramePool, PixelFormat, Size, Stamps, Timestamp, VideoFrame};
use weir::inference::Config;
use weir::pipeline::{Applied, Checked, FrameProcessor, LoadContext, NoFetch, PipelineError, registry};

use super::folders::{self, Line};
use super::{Golden, apart, close, picture};

const SIZE: usize = 64;

/// Parameters for frames smaller than requests may ask for.
pub(super) fn check(json: Value) -> Checked {
    let params = json.as_object().expect("an object").clone();
    let checked = registry::find("streamdiffusion").expect("registered").check(&params).expect("good parameters");
    Checked { size: Size::new(SIZE as u32, SIZE as u32), ..checked }
}

pub(super) fn load(models: &Path, checked: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError> {
    let inference = Config { threads: 2, ..Config::default() };
    let cx = LoadContext {
        inference: &inference,
        models: models.into(),
        model: None,
        pool: FramePool::new(4),
        progress: &|_| {},
        fetch: &NoFetch,
    };
    registry::find("streamdiffusion").expect("registered").load(&cx, checked)
}

pub(super) fn tiny_stream(json: Value) -> Box<dyn FrameProcessor> {
    load(Path::new("/nowhere"), &check(json)).unwrap_or_else(|error| panic!("{error}"))
}

fn frame(index: usize) -> VideoFrame {
    VideoFrame {
        seq: index as u64,
        pts: Timestamp(3000 * index as i64),
        size: Size::new(SIZE as u32, SIZE as u32),
        format: PixelFormat::Rgb24,
        color: Default::default(),
        stamps: Stamps::default(),
        data: FrameBuf::owned(picture(index, SIZE)),
    }
}

pub(super) fn show(stream: &mut dyn FrameProcessor, index: usize) -> Vec<f32> {
    let out = stream.process(frame(index)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((out.seq, out.pts), (index as u64, Timestamp(3000 * index as i64)));
    out.data.iter().map(|&byte| f32::from(byte)).collect()
}

/// As the library runs: its own generator and seed, and no filling.
pub(super) fn library(more: Value) -> Value {
    let mut params = json!({
        "model_id": "weir/tiny", "prompt": "a", "negative_prompt": "b", "seed": 2, "seed_generator": "cpu",
        "refill": false, "guidance_scale": 1.4, "delta": 0.7,
    });
    let more = more.as_object().expect("an object").clone();
    params.as_object_mut().expect("an object").extend(more);
    params
}

#[test]
fn every_mode_shows_what_the_library_shows() {
    for (steps, list) in [json!([20]), json!([15, 32]), json!([12, 20, 32]), json!([5, 15, 25, 35])].iter().enumerate()
    {
        for kind in ["none", "self", "initialize", "full"] {
            let golden = Golden::read(&format!("stream-{}-{kind}", steps + 1));
            let mut stream = tiny_stream(library(json!({"t_index_list": list, "cfg_type": kind})));
            for add_noise in [true, false] {
                let other = check(library(json!({"t_index_list": list, "cfg_type": kind, "do_add_noise": add_noise})));
                assert_eq!(stream.apply(&other).expect("hot"), Applied::Now);
                stream.reset();
                let mut last = Vec::new();
                for index in 0..8 {
                    last = show(&mut *stream, index);
                }
                let what = format!("{kind}, {} steps, noise {add_noise}", steps + 1);
                close(&what, &last, golden.get(&format!("{}/frame", u8::from(add_noise))), 1.0);
            }
        }
    }
    let golden = Golden::read("stream-2-self");
    let mut stream = tiny_stream(library(json!({"t_index_list": [15, 32], "seed": 3})));
    let last = (0..8).map(|index| show(&mut *stream, index)).last().expect("frames");
    apart("another seed", &last, golden.get("1/frame"), 5.0);
}

#[test]
fn updates_are_seen_on_the_next_frame() {
    let start =
        json!({"model_id": "weir/tiny", "guidance_scale": 1.5, "controlnets": [{"model_id": "weir/tiny-control-0"}]});
    let mut stream = tiny_stream(start.clone());
    let with = |key: &str, value: Value| {
        let mut params = start.clone();
        params[key] = value;
        params
    };
    for (key, value) in [
        ("prompt", json!("a cat")),
        ("prompt", json!([["a cat", 1], ["a dog", 2]])),
        ("seed", json!(5)),
        ("seed", json!([[5, 1], [6, 1]])),
        ("t_index_list", json!([4, 30, 45])),
        ("guidance_scale", json!(2.5)),
        ("delta", json!(0.2)),
        ("controlnets", json!([{"model_id": "weir/tiny-control-0", "conditioning_scale": 0.1}])),
    ] {
        stream.apply(&check(start.clone())).expect("apply");
        stream.reset();
        let before = show(&mut *stream, 0);
        stream.reset();
        assert_eq!(show(&mut *stream, 0), before, "a stream begins the same again");
        stream.reset();
        assert_eq!(stream.apply(&check(with(key, value.clone()))).expect("hot"), Applied::Now, "{key}");
        apart(&format!("{key} {value}"), &show(&mut *stream, 0), &before, 2.0);
    }
    for (key, value) in [("t_index_list", json!([4])), ("cfg_type", json!("full")), ("controlnets", json!([]))] {
        assert_eq!(stream.apply(&check(with(key, value))).expect("checked"), Applied::NeedsReload, "{key}");
    }
}

#[test]
fn a_filled_stream_shows_its_first_frame_at_once() {
    let list = json!({"t_index_list": [15, 32], "cfg_type": "none", "refill": true});
    let mut stream = tiny_stream(library(list));
    let first = show(&mut *stream, 7);
    stream.reset();
    // Two frames the same: the second shows what the first began.
    let mut slow = tiny_stream(library(json!({"t_index_list": [15, 32], "cfg_type": "none"})));
    apart("not there yet", &show(&mut *slow, 7), &first, 5.0);
    close("there", &show(&mut *slow, 7), &first, 1.0);
}

#[test]
fn similar_frames_are_not_painted_again() {
    let mut stream = tiny_stream(json!({
        "model_id": "weir/tiny", "enable_similar_image_filter": true, "similar_image_filter_threshold": 0.9,
        "similar_image_filter_max_skip_frame": 3, "t_index_list": [20],
    }));
    let first = show(&mut *stream, 0);
    let skips = (0..4).take_while(|_| show(&mut *stream, 0) == first).count();
    assert!(skips > 0, "the same frame is skipped");
    apart("another frame", &show(&mut *stream, 5), &first, 5.0);
}

#[test]
fn frames_of_another_size_are_refused() {
    let mut stream = tiny_stream(json!({"model_id": "weir/tiny"}));
    let mut wrong = frame(0);
    wrong.size = Size::new(32, 96);
    assert!(matches!(stream.process(wrong), Err(PipelineError::Frame(_))));
    show(&mut *stream, 0);
}

/// A folder of models with one of `line`, two ControlNets and a LoRA in it, and parameters that use them.
pub(super) fn whole_folder(root: &Path, line: Line) -> Value {
    let (model, taesd, controls) = match line {
        Line::Sd15 => {
            let controls = ["lllyasviel/control_v11p_sd15_canny", "lllyasviel/control_v11f1e_sd15_tile"];
            ("Lykon/dreamshaper-8", "madebyollin/taesd", controls)
        }
        Line::Sd21 => {
            let controls = ["thibaud/controlnet-sd21-canny-diffusers", "thibaud/controlnet-sd21-depth-diffusers"];
            ("stabilityai/sd-turbo", "madebyollin/taesd", controls)
        }
        Line::Sdxl => {
            let controls = ["xinsir/controlnet-canny-sdxl-1.0", "xinsir/controlnet-depth-sdxl-1.0"];
            ("stabilityai/sdxl-turbo", "madebyollin/taesdxl", controls)
        }
    };
    folders::model(&root.join(format!("models--{}/snapshots/1f", model.replace('/', "--"))), line, false);
    folders::taesd(&root.join(taesd));
    for (number, name) in controls.iter().enumerate() {
        folders::controlnet(&root.join(name), line, number);
    }
    folders::lora(&root.join("style.safetensors"), "style");
    json!({
        "model_id": model, "use_lcm_lora": false, "prompt": "a photo of a cat", "negative_prompt": "blurry",
        "cfg_type": "full", "guidance_scale": 3, "t_index_list": [20], "seed": 789,
        "controlnets": [{"model_id": controls[0], "conditioning_scale": 0.5}, {"model_id": controls[1], "conditioning_scale": 1}],
        "lora_dict": {"style.safetensors": 8.0},
    })
}

fn changed(start: &Value, path: &str, value: Value) -> Value {
    let mut params = start.clone();
    *params.pointer_mut(path).expect(path) = value;
    params
}

#[test]
fn folders_of_every_line_stream_and_everything_in_them_counts() {
    for line in [Line::Sd15, Line::Sd21, Line::Sdxl] {
        let root = tempfile::tempdir().expect("folder");
        let start = whole_folder(root.path(), line);
        let mut stream = load(root.path(), &check(start.clone())).unwrap_or_else(|error| panic!("{error}"));
        let first = show(&mut *stream, 0);
        for (path, value) in [
            ("/prompt", json!("flowers in the city, neon lights, masterpiece, anime girl with blue hair")),
            ("/prompt", json!([["a photo of a cat", 0.4], ["the city at night, neon lights, 8k", 0.6]])),
            ("/prompt", json!([["a photo of a cat", 1], ["the city at night", 1], ["a dog", 5]])),
            ("/negative_prompt", json!("the city at night, anime girl with blue hair, neon lights, masterpiece")),
            ("/seed", json!([[789, 0.5], [790, 0.5]])),
            ("/seed", json!([[789, 0.2], [790, 0.5], [3, 0.3]])),
            ("/controlnets/0/conditioning_scale", json!(3)),
            ("/controlnets/1/conditioning_scale", json!(0)),
        ] {
            assert_eq!(
                stream.apply(&check(changed(&start, path, value.clone()))).expect("hot"),
                Applied::Now,
                "{path}"
            );
            stream.reset();
            apart(&format!("{line:?} {path} {value}"), &show(&mut *stream, 0), &first, 2.0);
        }
        stream.apply(&check(start.clone())).expect("hot");
        stream.reset();
        assert_eq!(show(&mut *stream, 0), first, "{line:?}: what is set back is as before");
        // What is merged or built in is loaded anew, and shows.
        let other = |path: &str, value: Value| {
            let params = check(changed(&start, path, value));
            let mut stream = load(root.path(), &params).unwrap_or_else(|error| panic!("{error}"));
            show(&mut *stream, 0)
        };
        let plain = other("/lora_dict", Value::Null);
        apart(&format!("{line:?} LoRA"), &plain, &first, 2.0);
        assert_eq!(other("/lora_dict", json!({"style.safetensors": 0})), plain, "a LoRA of weight 0 is none");
        apart(&format!("{line:?} ControlNets"), &other("/controlnets", json!([])), &first, 2.0);
        // The graphs' folder is gone, the session is not.
        assert!(!root.path().join("weir--graphs").exists());
        show(&mut *stream, 1);
    }
}

#[test]
fn what_is_missing_is_named_before_loading() {
    let root = tempfile::tempdir().expect("folder");
    let params = check(json!({"model_id": "Lykon/dreamshaper-8", "use_lcm_lora": false}));
    let missing = |part: &str, params: &Checked| match load(root.path(), params) {
        Err(PipelineError::Load(text)) => assert!(text.contains(part), "{text}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it loads without {part}"),
    };
    missing("Lykon/dreamshaper-8", &params);
    folders::model(root.path(), Line::Sd15, false);
    missing("madebyollin/taesd", &params);
    missing("lcm-lora-sdv1-5", &check(json!({"model_id": "Lykon/dreamshaper-8"})));
    std::fs::remove_dir_all(root.path().join("tokenizer")).expect("remove");
    folders::model(root.path(), Line::Sd15, true);
    std::fs::remove_dir_all(root.path().join("tokenizer")).expect("remove");
    missing("tokenizer", &params);
}
