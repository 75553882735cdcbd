//! Each family of nodes by itself.

use serde_json::{Value, json};

use weir::workflow::lower::EncodeError;

use super::{Golden, Loaded, apart, close, run, shown};

/// Of latents and text states, relative to the largest.
const TOLERANCE: f32 = 3e-5;
const SIZE: u32 = 64;

/// The moving picture of `synthetic.frame`, (size, size, 3).
pub fn frame(index: usize, size: usize) -> Vec<u8> {
    let (left, top) = ((index * 7) % (size - 16), (index * 5) % (size - 16));
    let pixel = |i: usize| {
        let (c, x, y) = (i % 3, i / 3 % size, i / 3 / size);
        let wave = (x * 6 + y * 4 + c * 90 + index * 23) % 512;
        let inside = (left..left + 16).contains(&x) && (top..top + 16).contains(&y);
        (if inside { 230 - 60 * c } else { wave.min(511 - wave) }) as u8
    };
    (0..size * size * 3).map(pixel).collect()
}

/// A model, a text encoder, two prompts and an empty latent.
pub(super) fn base() -> Value {
    json!({
        "model": {"class_type": "TensorRTLoader", "inputs": {
            "unet_name": "static-dreamshaper8_SD15_$stat-b-1-h-512-w-512_00001_.engine", "model_type": "SD15"}},
        "clip": {"class_type": "CLIPLoader", "inputs": {"clip_name": "CLIPText/model.fp16.safetensors", "type": "stable_diffusion"}},
        "good": {"class_type": "CLIPTextEncode", "inputs": {"text": "a photo of a cat", "clip": ["clip", 0]}},
        "bad": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry, low quality", "clip": ["clip", 0]}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "k": {"class_type": "KSampler", "inputs": {"model": ["model", 0], "seed": 7, "steps": 4, "cfg": 2.5, "sampler_name": "lcm",
            "scheduler": "normal", "positive": ["good", 0], "negative": ["bad", 0], "latent_image": ["empty", 0], "denoise": 1}}
    })
}

pub(super) fn with(mut nodes: Value, changes: &[(&str, &str, Value)]) -> Value {
    for (id, input, value) in changes {
        nodes[*id]["inputs"][*input] = value.clone();
    }
    nodes
}

fn latent(nodes: Value) -> Vec<f32> {
    run(&shown(nodes, "k"), &frame(3, SIZE as usize), SIZE, "k")
}

#[test]
fn prompts_are_encoded_as_comfyui_does() {
    let golden = Golden::read("sd-text");
    let states = |changes: &[(&str, &str, Value)], extra: Value, id: &str| {
        let mut nodes = with(base(), changes);
        for (id, node) in extra.as_object().expect("nodes") {
            nodes[id] = node.clone();
        }
        nodes["k"]["inputs"]["positive"] = json!([id, 0]);
        nodes["k"]["inputs"]["steps"] = json!(1);
        run(&shown(nodes, "k"), &frame(3, SIZE as usize), SIZE, id)
    };
    let one = |prompt: &str| states(&[("good", "text", json!(prompt))], json!({}), "good");
    let plain = one("a photo of a cat");
    close("plain", &plain, golden.get("plain"), TOLERANCE);
    close("empty", &one(""), golden.get("empty"), TOLERANCE);
    let weighted = one("a (photo:1.3) of a (cat)");
    close("weights", &weighted, golden.get("weights"), TOLERANCE);
    apart("no weights", &plain, golden.get("weights"), 1e-2);
    let thin: Vec<f32> = one(&"word ".repeat(100)).chunks(32).step_by(7).flatten().copied().collect();
    close("long", &thin, golden.get("long"), TOLERANCE);
    for skip in [2, 3] {
        let layer =
            json!({"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["clip", 0], "stop_at_clip_layer": -skip}});
        let made = states(&[("good", "clip", json!(["layer", 0]))], json!({"layer": layer}), "good");
        close(&format!("skip {skip}"), &made, golden.get(&format!("skip-{skip}")), TOLERANCE);
        apart("no skip", &plain, golden.get(&format!("skip-{skip}")), 1e-2);
    }
    let layer = json!({"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["clip", 0], "stop_at_clip_layer": -2}});
    let concat = json!({"class_type": "ConditioningConcat", "inputs": {"conditioning_to": ["good", 0], "conditioning_from": ["bad", 0]}});
    let made = states(&[("bad", "clip", json!(["layer", 0]))], json!({"layer": layer, "concat": concat}), "concat");
    let thin: Vec<f32> = made.chunks(32).step_by(2).flatten().copied().collect();
    close("concat", &thin, golden.get("concat"), TOLERANCE);
    let average = json!({"class_type": "ConditioningAverage", "inputs": {
        "conditioning_to": ["good", 0], "conditioning_from": ["bad", 0], "conditioning_to_strength": 0.7}});
    close("average", &states(&[], json!({"average": average}), "average"), golden.get("average"), TOLERANCE);
    let zero = json!({"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["good", 0]}});
    assert!(states(&[], json!({"zero": zero}), "zero").iter().all(|&x| x == 0.0));
}

const SAMPLERS: [&str; 5] = ["euler", "euler_ancestral", "lcm", "ddim", "dpmpp_2m"];

#[test]
fn every_sampler_with_every_scheduler_agrees() {
    let golden = Golden::read("sd-samplers");
    let picture = frame(3, SIZE as usize);
    // One graph for all of them: samplers and schedulers are numbers in it.
    let mut loaded = Loaded::new(&shown(base(), "k"), SIZE);
    for sampler in SAMPLERS {
        for scheduler in ["normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform"] {
            let name = format!("{sampler}/{scheduler}");
            let changes = [("k", "sampler_name", json!(sampler)), ("k", "scheduler", json!(scheduler))];
            let made = loaded.give(&shown(with(base(), &changes), "k"), &picture, "k");
            close(&name, &made, golden.get(&name), TOLERANCE);
            // Another sampler gives another picture, ddim aside, which is euler.
            let alias = |name: &str| if name == "ddim" { "euler" } else { name }.to_owned();
            for other in SAMPLERS.iter().filter(|other| alias(other) != alias(sampler)) {
                apart(&format!("{name} for {other}"), &made, golden.get(&format!("{other}/{scheduler}")), 1e-3);
            }
        }
    }
    // Numbers that do not fit this graph ask for another one.
    let wrong = [("cfg", json!(1)), ("denoise", json!(0))];
    for (input, value) in wrong {
        let made = loaded.try_give(&shown(with(base(), &[("k", input, value)]), "k"), &picture, "k");
        assert_eq!(made, Err(EncodeError::Graph), "{input}");
    }
    let [seed, cfg] = [("seed", json!(8)), ("cfg", json!(2.6))].map(|(input, value)| {
        let changed = with(base(), &[("k", input, value), ("k", "sampler_name", json!("lcm"))]);
        loaded.give(&shown(changed, "k"), &picture, "k")
    });
    apart("another seed", &seed, golden.get("lcm/normal"), 1e-2);
    apart("another cfg", &cfg, golden.get("lcm/normal"), 1e-3);
}

/// The latent of a picture in a file, three steps of sixty hundredths.
fn part_of_the_way() -> Value {
    let mut nodes = base();
    nodes["vae"] = json!({"class_type": "VAELoader", "inputs": {"vae_name": "taesd"}});
    nodes["file"] = json!({"class_type": "LoadImage", "inputs": {"image": "frame-3.png"}});
    nodes["real"] = json!({"class_type": "VAEEncode", "inputs": {"pixels": ["file", 0], "vae": ["vae", 0]}});
    let inputs = [
        ("latent_image", json!(["real", 0])),
        ("denoise", json!(0.6)),
        ("steps", json!(3)),
        ("cfg", json!(1.8)),
        ("seed", json!((1_u64 << 40) + 5)),
    ];
    for (input, value) in inputs {
        nodes["k"]["inputs"][input] = value;
    }
    nodes
}

#[test]
fn a_share_of_the_noise_one_step_and_batches() {
    let golden = Golden::read("sd-samplers");
    let picture = frame(3, SIZE as usize);
    let mut loaded = Loaded::new(&shown(part_of_the_way(), "k"), SIZE);
    for sampler in SAMPLERS {
        for scheduler in ["normal", "karras"] {
            let name = format!("{sampler}/{scheduler}/denoise");
            let changes = [("k", "sampler_name", json!(sampler)), ("k", "scheduler", json!(scheduler))];
            let made = loaded.give(&shown(with(part_of_the_way(), &changes), "k"), &picture, "k");
            close(&name, &made, golden.get(&name), TOLERANCE);
        }
    }
    let more = loaded.give(&shown(with(part_of_the_way(), &[("k", "denoise", json!(0.7))]), "k"), &picture, "k");
    apart("another denoise", &more, golden.get("euler/normal/denoise"), 1e-2);
    let one = latent(with(base(), &[("k", "steps", json!(1)), ("k", "cfg", json!(1))]));
    close("one step", &one, golden.get("one"), TOLERANCE);
    let wide = [
        ("empty", "width", json!(80)),
        ("empty", "height", json!(48)),
        ("empty", "batch_size", json!(2)),
        ("k", "steps", json!(2)),
        ("k", "cfg", json!(2)),
        ("k", "seed", json!(3)),
        ("k", "scheduler", json!("simple")),
    ];
    close("batch", &latent(with(base(), &wide)), golden.get("batch"), TOLERANCE);
    // Nothing to do leaves the latent as it is.
    let mut still = with(part_of_the_way(), &[("k", "denoise", json!(0))]);
    let none = run(&shown(still.clone(), "k"), &picture, SIZE, "decoded");
    still["decoded"] = json!({"class_type": "VAEDecode", "inputs": {"samples": ["real", 0], "vae": ["tiny", 0]}});
    assert_eq!(none, run(&shown(still, "real"), &picture, SIZE, "decoded"));
}

fn control(name: &str, positive: Value, negative: Value, image: &str, strength: f64, range: [f64; 2]) -> Value {
    json!({"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": positive, "negative": negative,
        "control_net": [name, 0], "image": [image, 0], "strength": strength, "start_percent": range[0], "end_percent": range[1]}})
}

fn controlled() -> Value {
    let mut nodes = with(base(), &[("k", "seed", json!(11)), ("k", "cfg", json!(1.7))]);
    nodes["depth"] = json!({"class_type": "ControlNetLoader", "inputs": {"control_net_name": "control_v11f1p_sd15_depth_fp16.safetensors"}});
    nodes["other"] = json!({"class_type": "ControlNetLoader", "inputs": {"control_net_name": "other.safetensors"}});
    nodes["compiled"] = json!({"class_type": "TorchCompileLoadControlNet", "inputs": {"controlnet": ["depth", 0], "backend": "inductor",
        "fullgraph": false, "mode": "reduce-overhead"}});
    nodes["wide"] = json!({"class_type": "LoadImage", "inputs": {"image": "frame-5.png"}});
    nodes["square"] = json!({"class_type": "LoadImage", "inputs": {"image": "frame-1.png"}});
    nodes["dog"] = json!({"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "clip": ["clip", 0]}});
    nodes["one"] = control("compiled", json!(["good", 0]), json!(["bad", 0]), "wide", 0.8, [0.0, 1.0]);
    nodes["ranged"] = control("compiled", json!(["good", 0]), json!(["bad", 0]), "wide", 0.8, [0.2, 0.6]);
    nodes["two"] = control("other", json!(["one", 0]), json!(["one", 1]), "square", 0.5, [0.0, 1.0]);
    nodes["old"] = json!({"class_type": "ControlNetApply", "inputs": {"conditioning": ["good", 0], "control_net": ["depth", 0],
        "image": ["wide", 0], "strength": 0.8}});
    nodes["combine"] = json!({"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["good", 0], "conditioning_2": ["dog", 0]}});
    let range = |from: &str, start: f64, end: f64| json!({"class_type": "ConditioningSetTimestepRange", "inputs": {"conditioning": [from, 0], "start": start, "end": end}});
    nodes["begin"] = range("good", 0.0, 0.4);
    nodes["rest"] = range("dog", 0.4, 1.0);
    nodes["turns"] = json!({"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["begin", 0], "conditioning_2": ["rest", 0]}});
    nodes["lengths"] = json!({"class_type": "ConditioningConcat", "inputs": {"conditioning_to": ["good", 0], "conditioning_from": ["bad", 0]}});
    nodes
}

#[test]
fn prompts_and_controlnets_take_part_when_they_should() {
    let golden = Golden::read("sd-conditions");
    let cases = [
        ("none", ["good", "bad"]),
        ("one", ["one", "one"]),
        ("ranged", ["ranged", "ranged"]),
        ("two", ["two", "two"]),
        ("old", ["old", "bad"]),
        ("combine", ["combine", "bad"]),
        ("turns", ["turns", "bad"]),
        ("lengths", ["lengths", "bad"]),
    ];
    for (name, [positive, negative]) in cases {
        let second = if positive == negative { 1 } else { 0 };
        let changes = [("k", "positive", json!([positive, 0])), ("k", "negative", json!([negative, second]))];
        let made = latent(with(controlled(), &changes));
        close(name, &made, golden.get(name), TOLERANCE);
        for (other, _) in cases
            .iter()
            .filter(|(other, _)| *other != name && [*other, name] != ["one", "old"] && [*other, name] != ["old", "one"])
        {
            apart(&format!("{name} for {other}"), &made, golden.get(other), 1e-4);
        }
    }
    // Strength is a number in the graph.
    let nodes = with(controlled(), &[("k", "positive", json!(["one", 0])), ("k", "negative", json!(["one", 1]))]);
    let mut loaded = Loaded::new(&shown(nodes.clone(), "k"), SIZE);
    let off = loaded.give(&shown(with(nodes, &[("one", "strength", json!(0))]), "k"), &frame(3, 64), "k");
    close("strength 0", &off, golden.get("none"), TOLERANCE);
}

#[test]
fn loras_are_merged_for_all_or_for_a_region() {
    let golden = Golden::read("sd-conditions");
    let mut nodes = with(base(), &[("k", "seed", json!(11)), ("k", "cfg", json!(1.7)), ("k", "steps", json!(2))]);
    nodes["lora"] = json!({"class_type": "LoraLoader", "inputs": {"model": ["model", 0], "clip": ["clip", 0], "lora_name": "a.safetensors",
        "strength_model": 0.9, "strength_clip": 0.5}});
    let changes =
        [("k", "model", json!(["lora", 0])), ("good", "clip", json!(["lora", 1])), ("bad", "clip", json!(["lora", 1]))];
    let made = latent(with(nodes.clone(), &changes));
    close("lora", &made, golden.get("lora"), TOLERANCE);
    apart("no lora", &latent(nodes.clone()), golden.get("lora"), 1e-3);

    nodes["file"] = json!({"class_type": "LoadImage", "inputs": {"image": "mask.png"}});
    nodes["turned"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["file", 0]}});
    for (mask, image) in [("mask", "file"), ("rest", "turned")] {
        nodes[mask] = json!({"class_type": "ImageToMask", "inputs": {"image": [image, 0], "channel": "red"}});
    }
    let hook = |name: &str, model: f64, clip: f64| json!({"class_type": "CreateHookLora", "inputs": {"lora_name": name, "strength_model": model, "strength_clip": clip}});
    let hooked = |hook: &str| json!({"class_type": "SetClipHooks", "inputs": {"clip": ["clip", 0], "hooks": [hook, 0], "apply_to_conds": true, "schedule_clip": false}});
    let text =
        |text: &str, clip: &str| json!({"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": [clip, 0]}});
    for (hooks, clip, name, model, weight, [good, bad]) in [
        ("hook-a", "clip-a", "a.safetensors", 0.9, 0.5, ["good-a", "bad-a"]),
        ("hook-b", "clip-b", "b.safetensors", -1.2, 1.0, ["good-b", "bad-b"]),
    ] {
        nodes[hooks] = hook(name, model, weight);
        nodes[clip] = hooked(hooks);
        nodes[good] = text("a photo of a cat", clip);
        nodes[bad] = text("blurry, low quality", clip);
    }
    nodes["first"] = json!({"class_type": "PairConditioningSetProperties", "inputs": {"positive_NEW": ["good-a", 0], "negative_NEW": ["bad-a", 0],
        "strength": 1.0, "set_cond_area": "default", "mask": ["mask", 0]}});
    nodes["both"] = json!({"class_type": "PairConditioningSetPropertiesAndCombine", "inputs": {"positive": ["first", 0], "negative": ["first", 1],
        "positive_NEW": ["good-b", 0], "negative_NEW": ["bad-b", 0], "strength": 0.7, "set_cond_area": "default", "mask": ["rest", 0]}});
    let nodes = with(nodes, &[("k", "positive", json!(["both", 0])), ("k", "negative", json!(["both", 1]))]);
    let made = latent(nodes.clone());
    close("regions", &made, golden.get("regions"), TOLERANCE);
    apart(
        "without the second LoRA",
        &latent(with(nodes, &[("hook-b", "strength_model", json!(0))])),
        golden.get("regions"),
        1e-3,
    );
}

#[test]
fn autoencoders_agree_both_ways() {
    let golden = Golden::read("sd-pictures");
    let picture = frame(3, SIZE as usize);
    for (kind, vae) in [("taesd", "taesd"), ("kl", "full.safetensors")] {
        let nodes = json!({
            "file": {"class_type": "LoadImage", "inputs": {"image": "frame-2.png"}},
            "vae": {"class_type": "VAELoader", "inputs": {"vae_name": vae}},
            "compiled": {"class_type": "TorchCompileLoadVAE", "inputs": {"vae": ["vae", 0], "backend": "inductor", "fullgraph": true,
                "mode": "reduce-overhead", "compile_encoder": true, "compile_decoder": true}},
            "encoded": {"class_type": "VAEEncode", "inputs": {"pixels": ["file", 0], "vae": ["compiled", 0]}}
        });
        let name = format!("{kind}-encode");
        let made = run(&shown(nodes.clone(), "encoded"), &picture, SIZE, "encoded");
        close(&name, &made, golden.get(&name), TOLERANCE);
        let mut nodes = with(nodes, &[("file", "image", json!("frame-3.png"))]);
        nodes["picture"] = json!({"class_type": "VAEDecode", "inputs": {"samples": ["encoded", 0], "vae": ["vae", 0]}});
        let mut nodes = shown(nodes, "encoded");
        nodes["shown"]["inputs"]["images"] = json!(["picture", 0]);
        let made = run(&nodes, &picture, SIZE, "picture");
        let thin: Vec<f32> = (0..32)
            .flat_map(|y| (0..96).map(move |i| (y, i)))
            .map(|(y, i)| made[(2 * y * 64 + 2 * (i / 3)) * 3 + i % 3])
            .collect();
        let name = format!("{kind}-decode");
        close(&name, &thin, golden.get(&name), TOLERANCE);
        let other: Vec<f32> = thin.iter().rev().copied().collect();
        apart(&name, &other, golden.get(&name), 1e-2);
    }
}
