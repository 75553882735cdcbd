//! The pipeline `streamdiffusion` over small models, from parameters to pictures.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use weir::frame::{FrameBuf, FramePool, PixelFormat, Size, Stamps, Timestamp, VideoFrame};
use weir::graph::{DType, GraphBuilder};
use weir::inference::Config;
use weir::models::clip::{self, ClipConfig, Hidden};
use weir::models::synthetic::Synthetic;
use weir::models::taesd::{self, TaesdConfig};
use weir::models::unet::{self, Question, UnetConfig};
use weir::models::{ModelError, Net, Source, Stored, tiny};
use weir::pipeline::{Applied, Checked, FrameProcessor, LoadContext, PipelineError, registry};

use super::{Golden, apart, close, config, picture};

const SIZE: usize = 64;

/// Parameters for frames smaller than requests may ask for.
fn check(json: Value) -> Checked {
    let params = json.as_object().expect("an object").clone();
    let checked = registry::find("streamdiffusion").expect("registered").check(&params).expect("good parameters");
    Checked { size: Size::new(SIZE as u32, SIZE as u32), ..checked }
}

fn load(models: &Path, checked: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError> {
    let inference = Config { threads: 2, ..Config::default() };
    let cx =
        LoadContext { inference: &inference, models: models.into(), pool: FramePool::new(4), progress: &|_: &str| {} };
    registry::find("streamdiffusion").expect("registered").load(&cx, checked)
}

fn tiny_stream(json: Value) -> Box<dyn FrameProcessor> {
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

fn show(stream: &mut dyn FrameProcessor, index: usize) -> Vec<f32> {
    let out = stream.process(frame(index)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((out.seq, out.pts), (index as u64, Timestamp(3000 * index as i64)));
    out.data.iter().map(|&byte| f32::from(byte)).collect()
}

/// As the library runs: its own generator and seed, and no filling.
fn library(more: Value) -> Value {
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

/// Keeps what passes through.
struct Recorder {
    inner: Synthetic,
    seen: HashMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Source for Recorder {
    fn has(&self, name: &str) -> bool {
        self.inner.has(name)
    }

    fn tensor(&mut self, name: &str, shape: &[u64], _: DType) -> Result<Stored, ModelError> {
        let stored = self.inner.tensor(name, shape, DType::F32)?;
        if let Stored::Inline(bytes) = &stored {
            self.seen.insert(name.to_owned(), (shape.iter().map(|&n| n as usize).collect(), bytes.clone()));
        }
        Ok(stored)
    }
}

/// Writes the weights that `build` asks for, and the configuration, into `folder`.
fn store(folder: &Path, file: &str, json: &Value, inner: Synthetic, build: impl FnOnce(&mut Net<'_>)) {
    let mut recorder = Recorder { inner, seen: HashMap::new() };
    let mut g = GraphBuilder::new("recorded");
    build(&mut Net::new(&mut g, &mut recorder, DType::F32));
    std::fs::create_dir_all(folder).expect("folder");
    std::fs::write(folder.join("config.json"), json.to_string()).expect("config");
    let views = recorder.seen.iter().map(|(name, (shape, bytes))| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).expect("tensor"))
    });
    let bytes = safetensors::serialize(views, None).expect("safetensors");
    std::fs::write(folder.join(format!("{file}.safetensors")), bytes).expect("weights");
}

fn write_model(root: &Path, with_taesd: bool) {
    let weights = "diffusion_pytorch_model";
    store(&root.join("unet"), weights, &config("unet-sd15"), tiny::weights("unet-sd15").expect("weights"), |net| {
        let shape = UnetConfig::from_json(&config("unet-sd15")).expect("config");
        let sample = net.g.input("sample", DType::F32, [1, 4, 8, 8]).expect("input");
        let timestep = net.g.input("timestep", DType::F32, [1]).expect("input");
        let context = net.g.input("context", DType::F32, [1, 77, 32]).expect("input");
        let question = Question { sample: &sample, timestep: &timestep, encoder_hidden_states: &context, added: None };
        unet::build(net, &shape, &question, None).expect("UNet");
    });
    if with_taesd {
        store(&root.join("taesd"), weights, &config("taesd"), tiny::weights("taesd").expect("weights"), |net| {
            let shape = TaesdConfig::from_json(&config("taesd")).expect("config");
            let x = net.g.input("x", DType::F32, [1, 3, 64, 64]).expect("input");
            let latent = taesd::encode(net, &shape, &x).expect("encoder");
            taesd::decode(net, &shape, &latent).expect("decoder");
        });
    }
    // Letters alone and at the ends of words, and the two marks.
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let ends = letters.iter().map(|letter| format!("{letter}</w>"));
    let marks = ["<|startoftext|>", "<|endoftext|>"].map(String::from);
    let all: Vec<String> = letters.iter().cloned().chain(ends).chain(marks).collect();
    let vocabulary: serde_json::Map<String, Value> =
        all.iter().enumerate().map(|(i, token)| (token.clone(), json!(i))).collect();
    let tokenizer = root.join("tokenizer");
    std::fs::create_dir_all(&tokenizer).expect("folder");
    std::fs::write(tokenizer.join("vocab.json"), Value::Object(vocabulary).to_string()).expect("vocabulary");
    std::fs::write(tokenizer.join("merges.txt"), "#version: 0.2\n").expect("merges");
    let text = json!({
        "architectures": ["CLIPTextModel"], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "hidden_act": "quick_gelu", "max_position_embeddings": 77, "vocab_size": all.len(),
    });
    store(&root.join("text_encoder"), "model", &text, Synthetic::new("clip", 1.0), |net| {
        let shape = ClipConfig::from_json(&text).expect("config");
        let ids = net.g.input("ids", DType::I64, [1, 77]).expect("input");
        clip::build(net, &shape, &ids, None, Hidden::Last).expect("text encoder");
    });
}

#[test]
fn a_folder_of_weights_streams() {
    let root = tempfile::tempdir().expect("folder");
    write_model(root.path(), true);
    let params = |prompt: &str| {
        check(json!({"model_id": "Lykon/dreamshaper-8", "use_lcm_lora": false, "prompt": prompt, "t_index_list": [20]}))
    };
    let mut stream = load(root.path(), &params("a cat")).unwrap_or_else(|error| panic!("{error}"));
    let cat = show(&mut *stream, 0);
    stream.apply(&params("a dog on the moon")).expect("hot");
    apart("prompt", &show(&mut *stream, 0), &cat, 1.0);
    stream.apply(&params("a cat")).expect("hot");
    stream.reset();
    assert_eq!(show(&mut *stream, 0), cat);
    // The graphs' folder is gone, the session is not.
    assert!(!root.path().join("weir--graphs").exists());
    show(&mut *stream, 1);
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
    write_model(root.path(), false);
    missing("madebyollin/taesd", &params);
    missing("lcm-lora-sdv1-5", &check(json!({"model_id": "Lykon/dreamshaper-8"})));
    std::fs::remove_dir_all(root.path().join("tokenizer")).expect("remove");
    write_model(root.path(), true);
    std::fs::remove_dir_all(root.path().join("tokenizer")).expect("remove");
    missing("tokenizer", &params);
}
