//! KSampler on models of other lines: SDXL with its two text encoders, and one that predicts velocity.

use serde_json::{Value, json};

use super::nodes::{base, frame, with};
use super::{Golden, Loaded, apart, close, shown};

const TOLERANCE: f32 = 3e-5;

/// [`base`] with model and text encoder of a checkpoint.
fn of(checkpoint: &str) -> Value {
    let mut nodes = base();
    nodes["model"] = json!({"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}});
    let clip = json!(["model", 1]);
    with(nodes, &[("good", "clip", clip.clone()), ("bad", "clip", clip)])
}

#[test]
fn sdxl_agrees() {
    let golden = Golden::read("sd-lines");
    let nodes =
        with(of("xl"), &[("empty", "width", json!(80)), ("empty", "height", json!(48)), ("k", "steps", json!(3))]);
    let mut loaded = Loaded::new(&shown(nodes.clone(), "k"), 64);
    let picture = frame(3, 64);
    for sampler in ["lcm", "euler_ancestral", "dpmpp_2m"] {
        let nodes = with(nodes.clone(), &[("k", "sampler_name", json!(sampler))]);
        let made = loaded.give(&shown(nodes.clone(), "k"), &picture, "k");
        let want = golden.get(&format!("sdxl/{sampler}"));
        close(sampler, &made, want, TOLERANCE);
        let other = with(nodes, &[("good", "text", json!("a photo of a dog"))]);
        apart("another prompt", &loaded.give(&shown(other, "k"), &picture, "k"), want, 1e-3);
    }
}

#[test]
fn a_model_that_predicts_velocity_agrees() {
    let golden = Golden::read("sd-lines");
    let picture = frame(3, 64);
    let nodes = with(of("velocity"), &[("k", "scheduler", json!("karras"))]);
    let mut loaded = Loaded::new(&shown(nodes.clone(), "k"), 64);
    let noise = with(nodes.clone(), &[("model", "ckpt_name", json!("noise"))]);
    let mut noise_model = Loaded::new(&shown(noise.clone(), "k"), 64);
    for sampler in ["euler", "euler_ancestral", "lcm", "ddim", "dpmpp_2m"] {
        let change = [("k", "sampler_name", json!(sampler))];
        let made = loaded.give(&shown(with(nodes.clone(), &change), "k"), &picture, "k");
        let want = golden.get(&format!("velocity/{sampler}"));
        close(sampler, &made, want, TOLERANCE);
        let other = noise_model.give(&shown(with(noise.clone(), &change), "k"), &picture, "k");
        apart("one that predicts noise", &other, want, 1e-2);
    }
    let mut real = with(
        of("velocity"),
        &[
            ("k", "sampler_name", json!("euler")),
            ("k", "steps", json!(3)),
            ("k", "cfg", json!(1.8)),
            ("k", "seed", json!((1_u64 << 40) + 5)),
            ("k", "denoise", json!(0.6)),
            ("k", "latent_image", json!(["encoded", 0])),
        ],
    );
    real["vae"] = json!({"class_type": "VAELoader", "inputs": {"vae_name": "taesd"}});
    real["picture"] = json!({"class_type": "LoadImage", "inputs": {"image": "frame-3.png"}});
    real["encoded"] = json!({"class_type": "VAEEncode", "inputs": {"pixels": ["picture", 0], "vae": ["vae", 0]}});
    let made = Loaded::new(&shown(real.clone(), "k"), 64).give(&shown(real, "k"), &picture, "k");
    close("denoise", &made, golden.get("velocity/denoise"), TOLERANCE);
}
