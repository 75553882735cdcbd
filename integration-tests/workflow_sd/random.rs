//! Random workflows of every class that takes or gives a model, a prompt, a latent: what fits by its types is planned, and is
//! lowered and runs or is refused with the node named; what is broken is refused or runs, and nothing panics.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use weir::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use weir::graph::DType;
use weir::inference::Config;
use weir::pipeline::{LoadContext, NoFetch, registry as pipelines};
use weir::workflow::class::{Class, Kind, Runs};
use weir::workflow::lower::{Env, lower};
use weir::workflow::{Refused, Type, plan, registry};

use super::fixture::models;
use super::nodes::frame;

const SIZE: u32 = 64;

/// Numbers from a seed (Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides.max(1)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }
}

/// Files that are there, by the input that names them.
fn files(input: &str) -> &'static [&'static str] {
    match input {
        "ckpt_name" => &["noise", "velocity", "xl"],
        "unet_name" => &["dreamshaper8_dmd", "static-dreamshaper8_SD15_$stat-b-1-h-512-w-512_00001_.engine"],
        "clip_name" => &["CLIPText/model.fp16.safetensors"],
        "vae_name" => &["taesd", "full"],
        "control_net_name" => &["other", "outfitToOutfit_v20"],
        "lora_name" => &["a.safetensors", "b.safetensors"],
        "engine" => &["depth_anything_vitl14-fp16.engine"],
        "checkpoint" | "model_name" | "engine_name" | "engine_config" => &["weir/tiny", "weir/tiny--lcm_lora-False"],
        "image" => &["frame-3.png", "mask.png"],
        _ => &[],
    }
}

/// Classes that have to do with more than pictures and masks.
fn classes() -> Vec<&'static Class> {
    let plain =
        |ty: Type| matches!(ty, Type::Image | Type::Mask | Type::Int | Type::Float | Type::String | Type::Boolean);
    let more = |class: &Class| {
        let given = class.outputs.iter().map(|output| output.ty);
        let taken = class.inputs.iter().filter(|input| !input.is_widget()).map(|input| input.link_type());
        let all: Vec<Type> = given.chain(taken).collect();
        all.iter().any(|&ty| !plain(ty)) && !all.contains(&Type::Audio)
    };
    let named =
        |class: &Class| class.inputs.iter().all(|input| input.kind != Kind::File || !files(input.name).is_empty());
    let runs =
        |class: &Class| !matches!(class.runs, Runs::Refused(_)) && class.source.is_none() && class.sink.is_none();
    registry::all().filter(|class| runs(class) && named(class) && more(class)).collect()
}

/// A workflow of one node for each pick, each fed by nodes before it.
fn document(picks: &[(usize, u64)]) -> Value {
    let mut nodes = json!({
        "camera": {"class_type": "PrimaryInputLoadImage", "inputs": {"image": "camera.png"}},
        "mask": {"class_type": "ImageToMask", "inputs": {"image": ["camera", 0]}},
        "model": {"class_type": "TensorRTLoader", "inputs": {"unet_name": files("unet_name")[1], "model_type": "SD15"}},
        "clip": {"class_type": "CLIPLoader", "inputs": {"clip_name": files("clip_name")[0]}},
        "vae": {"class_type": "VAELoader", "inputs": {"vae_name": "taesd"}},
        "net": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "other"}},
        "prompt": {"class_type": "CLIPTextEncode", "inputs": {"text": "a photo of a cat", "clip": ["clip", 0]}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": SIZE, "height": SIZE}}
    });
    let mut made: Vec<(Type, Value)> = [
        (Type::Image, "camera"),
        (Type::Mask, "mask"),
        (Type::Model, "model"),
        (Type::Clip, "clip"),
        (Type::Vae, "vae"),
        (Type::ControlNet, "net"),
        (Type::Conditioning, "prompt"),
        (Type::Latent, "empty"),
    ]
    .map(|(ty, id)| (ty, json!([id, 0])))
    .to_vec();
    let all = classes();
    for (i, &(pick, seed)) in picks.iter().enumerate() {
        let (class, mut dice) = (all[pick % all.len()], Dice(seed));
        let mut inputs = Map::new();
        let mut whole = true;
        for input in class.inputs {
            let value = match input.kind {
                Kind::Link(ty) => {
                    let fits: Vec<&Value> = made.iter().filter(|(made, _)| made.fits(ty)).map(|(_, at)| at).collect();
                    match (fits.last(), dice.roll(2)) {
                        (None, _) => {
                            whole &= input.optional;
                            continue;
                        }
                        // The newest one in half of the cases, so that chains come about.
                        (Some(last), 0) => (*last).clone(),
                        _ => (*dice.of(&fits)).clone(),
                    }
                }
                Kind::Int { .. } if ["width", "height"].contains(&input.name) => json!(SIZE),
                Kind::Int { .. } if input.name == "steps" => json!(1 + dice.roll(2)),
                Kind::Int { default, .. } if ["batch_size", "frame_buffer_size"].contains(&input.name) => {
                    json!(default as i64)
                }
                Kind::Int { min, max, .. } => json!(min as i64 + dice.roll((max - min).min(7) as usize + 1) as i64),
                Kind::Float { min, max, .. } => json!(min + (max - min) * dice.roll(101) as f64 / 100.0),
                Kind::Bool { .. } => json!(dice.roll(2) == 1),
                Kind::Choice { of, .. } => json!(dice.of(of)),
                Kind::Text { default: "" } => json!(dice.of(&["", "a (cat:1.3)", "the city at night"])),
                Kind::Text { default } => json!(default),
                Kind::File => json!(dice.of(files(input.name))),
            };
            inputs.insert(input.name.to_owned(), value);
        }
        if whole {
            let id = i.to_string();
            nodes[&id] = json!({"class_type": class.name, "inputs": inputs});
            made.extend(class.outputs.iter().enumerate().map(|(output, of)| (of.ty, json!([id, output]))));
        }
    }
    // The newest latent is decoded and the newest picture mixed in, so that both count.
    let last = |wanted: Type| made.iter().rev().find(|(ty, _)| *ty == wanted).map(|(_, at)| at.clone());
    nodes["decoded"] =
        json!({"class_type": "VAEDecode", "inputs": {"samples": last(Type::Latent), "vae": last(Type::Vae)}});
    nodes["mixed"] = json!({"class_type": "ImageBlend", "inputs": {
        "image1": ["decoded", 0], "image2": last(Type::Image), "blend_factor": 0.5}});
    nodes["shown"] = json!({"class_type": "SaveTensor", "inputs": {"images": ["mixed", 0]}});
    nodes
}

/// Up to three inputs are taken out, or hold something else.
fn broken(mut nodes: Value, seed: u64) -> Value {
    let mut dice = Dice(seed);
    let ids: Vec<String> = nodes.as_object().expect("nodes").keys().cloned().collect();
    for _ in 0..1 + dice.roll(3) {
        let id = dice.of(&ids).clone();
        let Some(inputs) = nodes[&id]["inputs"].as_object_mut() else { continue };
        let names: Vec<String> = inputs.keys().cloned().collect();
        if names.is_empty() {
            continue;
        }
        let name = dice.of(&names).clone();
        match dice.roll(6) {
            0 => drop(inputs.remove(&name)),
            1 => drop(inputs.insert(name, json!([dice.of(&ids), dice.roll(3)]))),
            2 => drop(inputs.insert(name, json!([dice.of(&ids), 0]))),
            3 => drop(inputs.insert(name, json!(dice.roll(100_000) as f64 - 50_000.0))),
            4 => drop(inputs.insert(name, json!("no such thing"))),
            _ => drop(inputs.insert(name, json!(null))),
        }
    }
    nodes
}

/// Whether it is planned and lowered; a refusal names a node.
fn lowers(nodes: &Value) -> Result<bool, Refused> {
    let plan = plan(nodes)?;
    let scratch = tempfile::tempdir().expect("folder");
    let env = Env {
        size: [SIZE, SIZE],
        models: models().to_path_buf(),
        input: models().join("input"),
        precision: DType::F32,
        inline: weir::workflow::lower::INLINE,
        weights: scratch.path().to_path_buf(),
        scratch: scratch.path().to_path_buf(),
        progress: &|_| {},
    };
    match lower(&plan, &env) {
        Ok(lowered) => Ok(lowered.shown.is_some()),
        Err(refused) if refused.0.iter().all(|refusal| !refusal.node.is_empty()) => Ok(false),
        Err(refused) => Err(refused),
    }
}

/// Whether what the pipeline makes of one frame twice is the same.
fn runs(nodes: &Value) -> Result<(), String> {
    let pipeline = pipelines::find("comfyui").expect("registered");
    let params = json!({"prompt": nodes});
    let mut checked = pipeline.check(params.as_object().expect("an object")).map_err(|error| error.to_string())?;
    checked.size = Size::new(SIZE, SIZE);
    let inference = Config { threads: 1, ..Config::default() };
    let pool = FramePool::new(4);
    let cx = LoadContext {
        inference: &inference,
        models: models().to_path_buf(),
        model: None,
        pool: pool.clone(),
        progress: &|_| {},
        fetch: &NoFetch,
    };
    let mut stream = pipeline.load(&cx, &checked).map_err(|error| error.to_string())?;
    let mut show = || {
        stream.reset();
        let mut camera = VideoFrame::take(&pool, checked.size, PixelFormat::Rgb24, Timestamp(0)).expect("a buffer");
        camera.data.copy_from_slice(&frame(3, SIZE as usize));
        stream.process(camera).map(|out| out.data.to_vec()).map_err(|error| error.to_string())
    };
    match show()? == show()? {
        true => Ok(()),
        false => Err("the same frame gives another picture".to_owned()),
    }
}

fn picks(i: u64) -> Vec<(usize, u64)> {
    let mut dice = Dice(i + 1);
    (0..3 + dice.roll(8)).map(|_| (dice.roll(1 << 20), dice.roll(1 << 30) as u64)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_fits_by_its_types_is_lowered_and_runs(picks in proptest::collection::vec((any::<usize>(), any::<u64>()), 2..10)) {
        let nodes = document(&picks);
        match lowers(&nodes) {
            Ok(true) => prop_assert_eq!(runs(&nodes), Ok(()), "{:#}", nodes),
            Ok(false) => {}
            Err(refused) => prop_assert!(false, "{refused}\n{nodes:#}"),
        }
    }

    #[test]
    fn what_is_broken_is_refused_or_lowered_without_a_panic(
        picks in proptest::collection::vec((any::<usize>(), any::<u64>()), 2..10), seed in any::<u64>(),
    ) {
        let nodes = broken(document(&picks), seed);
        if let Err(refused) = lowers(&nodes) {
            prop_assert!(!refused.0.is_empty() && refused.0.iter().all(|refusal| !refusal.reason.is_empty()));
        }
    }
}

/// The tests above are of something: many workflows are lowered, and every family takes part.
#[test]
fn many_random_workflows_are_lowered_and_many_broken_ones_refused() {
    assert!(classes().len() > 35, "{}", classes().len());
    let sound = (0..12).filter(|&i| lowers(&document(&picks(i))).unwrap_or_else(|refused| panic!("{refused}"))).count();
    let refused = (0..12).filter(|&i| lowers(&broken(document(&picks(i)), i)).is_err()).count();
    assert!(sound >= 3 && refused >= 3, "{sound} lowered, {refused} refused");
}
