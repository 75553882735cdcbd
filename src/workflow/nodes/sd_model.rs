//! Loaders: what other nodes of Stable Diffusion are handed. Nothing is read here but configurations and headers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use super::sd_find::{Stored, find, known, need};
use super::sd_hooks::Hook;
use super::sd_schedule::{Levels, Prediction};
use crate::models::check::lora_file;
use crate::models::clip::ClipConfig;
use crate::models::tokenizer::ClipTokenizer;
use crate::models::weights::{Component, Family, Lora, Part};
use crate::workflow::class::input::{choice, file, flag, float, int, link};
use crate::workflow::class::{Class, Input, Widgets, out};
use crate::workflow::lower::{Cx, LowerError, Value};
use crate::workflow::need::Need;
use crate::workflow::value::{Setting, Type};

/// Loaders, and nodes that would compile what is compiled anyway.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[file("ckpt_name")],
        outputs: &[out(Type::Model), out(Type::Clip), out(Type::Vae)],
        needs: |widgets| vec![checkpoint(&text(widgets, "ckpt_name"))],
        ..Class::held("CheckpointLoaderSimple", load_checkpoint)
    },
    Class {
        inputs: &[file("unet_name"), choice("weight_dtype", "default", WEIGHT_DTYPES).ignored()],
        outputs: &[out(Type::Model)],
        needs: |widgets| vec![unet(&text(widgets, "unet_name"))],
        note: "Weights have the precision of the device, whatever weight_dtype says.",
        ..Class::held("UNETLoader", load_unet)
    },
    Class {
        pack: "ComfyUI_TensorRT",
        inputs: &[file("unet_name"), choice("model_type", "SDXL_base", MODEL_TYPES).ignored()],
        outputs: &[out(Type::Model)],
        needs: |widgets| vec![engine(&text(widgets, "unet_name")).need],
        note: "The name of the engine stands for the weights that it was made of; the engine itself is not read.",
        ..Class::held("TensorRTLoader", load_engine)
    },
    Class {
        inputs: &[
            file("clip_name"),
            choice("type", "stable_diffusion", &["stable_diffusion", "sdxl"]).ignored(),
            choice("device", "default", &["default", "cpu"]).ignored(),
        ],
        outputs: &[out(Type::Clip)],
        needs: |widgets| vec![clip(&text(widgets, "clip_name"))],
        note: "One text encoder of CLIP. Its kind is seen in its shape.",
        ..Class::held("CLIPLoader", load_clip)
    },
    Class {
        inputs: &[file("vae_name")],
        outputs: &[out(Type::Vae)],
        needs: |widgets| vec![vae(&text(widgets, "vae_name"))],
        note: "taesd, taesdxl, or a KL autoencoder.",
        ..Class::held("VAELoader", load_vae)
    },
    Class {
        inputs: &[file("control_net_name")],
        outputs: &[out(Type::ControlNet)],
        needs: |widgets| vec![controlnet(&text(widgets, "control_net_name"))],
        ..Class::held("ControlNetLoader", load_controlnet)
    },
    Class {
        inputs: &[
            link("model", Type::Model),
            link("clip", Type::Clip),
            file("lora_name"),
            float("strength_model", 1.0, -100.0, 100.0, 0.01),
            float("strength_clip", 1.0, -100.0, 100.0, 0.01),
        ],
        outputs: &[out(Type::Model), out(Type::Clip)],
        needs: |widgets| vec![lora(&text(widgets, "lora_name"))],
        note: "Merged into the weights; another strength is another graph.",
        ..Class::held("LoraLoader", load_lora)
    },
    Class {
        inputs: &[link("model", Type::Model), file("lora_name"), float("strength_model", 1.0, -100.0, 100.0, 0.01)],
        outputs: &[out(Type::Model)],
        needs: |widgets| vec![lora(&text(widgets, "lora_name"))],
        note: "Merged into the weights; another strength is another graph.",
        ..Class::held("LoraLoaderModelOnly", load_lora_model)
    },
    Class {
        pack: "ComfyUI-Torch-Compile",
        inputs: &[link("controlnet", Type::ControlNet), BACKEND, flag("fullgraph", false).ignored(), MODE],
        outputs: &[out(Type::ControlNet)],
        note: "Nothing to do: everything is compiled.",
        ..Class::held("TorchCompileLoadControlNet", |cx| hand_on(cx, "controlnet"))
    },
    Class {
        pack: "ComfyUI-Torch-Compile",
        inputs: &[
            link("vae", Type::Vae),
            BACKEND,
            flag("fullgraph", false).ignored(),
            MODE,
            flag("compile_encoder", true).ignored(),
            flag("compile_decoder", true).ignored(),
        ],
        outputs: &[out(Type::Vae)],
        note: "Nothing to do: everything is compiled.",
        ..Class::held("TorchCompileLoadVAE", |cx| hand_on(cx, "vae"))
    },
    Class {
        inputs: &[link("model", Type::Model), BACKEND],
        outputs: &[out(Type::Model)],
        note: "Nothing to do: everything is compiled.",
        ..Class::held("TorchCompileModel", |cx| hand_on(cx, "model"))
    },
    Class {
        pack: "ComfyUI-Stream-Pack",
        inputs: &[
            link("model", Type::Model),
            flag("use_feature_injection", true).ignored(),
            float("feature_injection_strength", 0.8, 0.0, 1.0, 0.01).ignored(),
            float("feature_similarity_threshold", 0.98, 0.0, 1.0, 0.001).ignored(),
            int("feature_cache_interval", 4, 1, 64).ignored(),
            int("feature_bank_max_frames", 4, 1, 16).ignored(),
        ],
        outputs: &[out(Type::Model)],
        note: "The model passes unchanged; the plan says so. What frames share is not mixed in.",
        ..Class::held("FeatureBankAttentionProcessor", |cx| {
            cx.note("the model passes unchanged: features of earlier frames are not mixed in");
            hand_on(cx, "model")
        })
    },
];

const WEIGHT_DTYPES: &[&str] = &["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"];
const MODEL_TYPES: &[&str] =
    &["SDXL_base", "SDXL", "SDXLRefiner", "SD1.x", "SD15", "SD2.x-768v", "SD20", "SD21UnclipL", "SD21UnclipH"];
const BACKEND: Input = choice("backend", "inductor", &["inductor", "cudagraphs"]).ignored();
const MODE: Input =
    choice("mode", "default", &["default", "max-autotune", "max-autotune-no-cudagraphs", "reduce-overhead"]).ignored();

/// A MODEL.
#[derive(Clone)]
pub(super) struct Diffusion {
    pub unet: Stored,
    pub family: Family,
    pub levels: Arc<Levels>,
    pub prediction: Prediction,
}

impl Diffusion {
    /// From latents of the VAE to those of the model: 0.18215, of SDXL 0.13025.
    pub(super) fn scale(&self) -> f64 {
        latent_scale(self.family == Family::Sdxl)
    }
}

fn latent_scale(xl: bool) -> f64 {
    if xl { 0.13025 } else { 0.18215 }
}

/// A CLIP.
#[derive(Clone)]
pub(super) struct TextEncoders {
    pub family: Family,
    /// One, or SDXL's two.
    pub all: Vec<(Stored, Arc<ClipTokenizer>)>,
    /// What `CLIPSetLastLayer` says, −1 for the last.
    pub last_layer: Option<i64>,
    /// LoRAs that the model has for prompts of this encoder alone.
    pub hooks: Vec<Hook>,
}

/// A VAE.
#[derive(Clone)]
pub(super) enum Vae {
    /// TAESD, and the factor between its latents and those of the full autoencoder.
    Tiny(Stored, f64),
    Kl(Stored),
}

/// A CONTROL_NET.
#[derive(Clone)]
pub(super) struct ControlNet {
    pub stored: Stored,
}

/// The file that a widget names.
pub(super) fn text(widgets: Widgets<'_>, name: &str) -> String {
    widgets(name).and_then(|setting| setting.text().map(str::to_owned)).unwrap_or_default()
}

fn checkpoint(name: &str) -> Need {
    need("checkpoint", name, &["checkpoints"], known(name))
}

fn unet(name: &str) -> Need {
    need("UNet", name, &["unet", "diffusion_models"], known(name))
}

fn clip(name: &str) -> Need {
    need("text encoder", name, &["clip", "text_encoders"], known(name))
}

fn vae(name: &str) -> Need {
    match name {
        "taesd" => need("tiny autoencoder", name, &["vae_approx", "vae"], "madebyollin/taesd"),
        "taesdxl" => need("tiny autoencoder", name, &["vae_approx", "vae"], "madebyollin/taesdxl"),
        _ => need("autoencoder", name, &["vae"], known(name)),
    }
}

fn controlnet(name: &str) -> Need {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let stem = stem.trim_end_matches("_fp16");
    // Names of the 1.1 series are those of their repositories.
    let repository = if stem.starts_with("control_v11") { format!("lllyasviel/{stem}") } else { String::new() };
    let mut need = need("ControlNet", name, &["controlnet"], &repository);
    if stem.starts_with("control_v2p_sd15_mediapipe_face") {
        need.from =
            "take control_v2p_sd15_mediapipe_face.safetensors of CrucibleAI/ControlNetMediaPipeFace; put it into \
                     the folder controlnet of the models' folder"
                .to_owned();
    }
    need
}

pub(super) fn lora(name: &str) -> Need {
    need("LoRA", name, &["loras"], "")
}

/// What the name of a TensorRT engine says.
struct Engine {
    need: Need,
    /// Heights and widths, lowest and highest, where the name has them.
    sizes: Option<[[u64; 2]; 2]>,
}

/// `KIND-MODEL_FAMILY_$stat-b-B-h-H-w-W_00001_.engine`, or `$dyn-b-MIN-MAX-OPT-h-…-w-…`.
fn engine(name: &str) -> Engine {
    let (model, profile) = name.split_once("_$").unwrap_or((name, ""));
    let model = model.trim_start_matches("static-").trim_start_matches("dynamic-");
    // Engines of that name are made of the weights that were distilled to one step.
    let repository = match known(model) {
        "Lykon/dreamshaper-8" => "aaronb/dreamshaper-8-dmd-1kstep",
        other => other,
    };
    let mut need = need("UNet", model, &["unet", "diffusion_models"], repository);
    if let Some((_, bare)) = repository.split_once('/') {
        need.files.push(Path::new("unet").join(format!("{bare}.safetensors")));
    }
    need.name = name.to_owned();
    let of = |side: &str| {
        let (_, rest) = profile.split_once(&format!("-{side}-"))?;
        let numbers: Vec<u64> = rest.split(['-', '_']).map_while(|part| part.parse().ok()).collect();
        match (profile.starts_with("dyn"), numbers.as_slice()) {
            (false, [one, ..]) => Some([*one, *one]),
            (true, [low, high, ..]) => Some([*low, *high]),
            _ => None,
        }
    };
    Engine { need, sizes: of("h").zip(of("w")).map(|(h, w)| [h, w]) }
}

fn load_checkpoint(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let name = cx.text("ckpt_name")?;
    let path = find(cx, "ckpt_name", &checkpoint(&name))?;
    let model = diffusion(&path)?;
    let mut all = vec![encoder(cx, "ckpt_name", &path, Component::TextEncoder)?];
    if model.family == Family::Sdxl {
        all.push(encoder(cx, "ckpt_name", &path, Component::TextEncoder2)?);
    }
    let encoders = TextEncoders { family: model.family, all, last_layer: None, hooks: Vec::new() };
    let vae = Vae::Kl(Stored::open(&path, Component::Vae)?);
    Ok(vec![Value::held(model), Value::held(encoders), Value::held(vae)])
}

fn load_unet(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let name = cx.text("unet_name")?;
    let path = find(cx, "unet_name", &unet(&name))?;
    Ok(vec![Value::held(diffusion(&path)?)])
}

fn load_engine(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let name = cx.text("unet_name")?;
    let engine = engine(&name);
    let path = find(cx, "unet_name", &engine.need)?;
    let model = diffusion(&path)?;
    let sizes = engine.sizes.map_or(String::new(), |[[low, high], [narrow, wide]]| {
        format!("; the engine was made for {narrow}–{wide} × {low}–{high} pixels, which binds nobody here")
    });
    cx.note(format!("the engine stands for the weights in {}{sizes}", path.display()));
    Ok(vec![Value::held(model)])
}

/// The UNet at `path` with the noise levels beside it.
fn diffusion(path: &Path) -> Result<Diffusion, LowerError> {
    let unet = Stored::open(path, Component::Unet)?;
    let family = family_of(&unet.config);
    let scheduler = path.join("scheduler").join("scheduler_config.json");
    let prediction = match std::fs::metadata(&scheduler).is_ok_and(|about| about.len() < 1 << 20) {
        true => std::fs::read(&scheduler).ok().and_then(|text| serde_json::from_slice::<Json>(&text).ok()),
        false => None,
    };
    let velocity =
        prediction.is_some_and(|json| json.get("prediction_type").and_then(Json::as_str) == Some("v_prediction"));
    let prediction = if velocity { Prediction::Velocity } else { Prediction::Noise };
    Ok(Diffusion { unet, family, levels: Arc::new(Levels::new()), prediction })
}

/// By what the UNet is told of the prompt.
fn family_of(unet: &Json) -> Family {
    let width = unet.get("cross_attention_dim").and_then(Json::as_u64);
    match (unet.get("addition_embed_type").and_then(Json::as_str), width) {
        (Some("text_time"), _) => Family::Sdxl,
        (_, Some(1024)) => Family::Sd2,
        _ => Family::Sd1,
    }
}

fn load_clip(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let name = cx.text("clip_name")?;
    let path = find(cx, "clip_name", &clip(&name))?;
    let (mut stored, tokenizer) = encoder(cx, "clip_name", &path, Component::TextEncoder)?;
    let family = match ClipConfig::from_json(&stored.config)?.hidden {
        1024 => {
            // OpenCLIP ViT-H; a file without a configuration does not tell.
            stored.config["hidden_act"] = "gelu".into();
            Family::Sd2
        }
        _ => Family::Sd1,
    };
    let encoders = TextEncoders { family, all: vec![(stored, tokenizer)], last_layer: None, hooks: Vec::new() };
    Ok(vec![Value::held(encoders)])
}

/// A text encoder at `path` and its tokenizer.
fn encoder(
    cx: &Cx<'_>,
    input: &str,
    path: &Path,
    component: Component,
) -> Result<(Stored, Arc<ClipTokenizer>), LowerError> {
    let stored = Stored::open(path, component)?;
    let folder = tokenizer(&cx.env().models, path, component).ok_or_else(|| {
        cx.refuse_model(
            input,
            format!("there is no tokenizer for {}", path.display()),
            "put vocab.json and merges.txt of CLIP into clip/tokenizer of the models' folder; `weir models pull \
             openai/clip-vit-large-patch14` fetches them too",
        )
    })?;
    let tokenizer = ClipTokenizer::open(&folder).map_err(|error| cx.refuse_model(input, error.to_string(), ""))?;
    let vocabulary = ClipConfig::from_json(&stored.config)?.vocabulary;
    if tokenizer.size() as u64 > vocabulary {
        let reason = format!("the tokenizer has {} tokens, the text encoder {vocabulary}", tokenizer.size());
        return Err(cx.refuse_model(input, reason, format!("look at {}", folder.display())));
    }
    Ok((stored, Arc::new(tokenizer)))
}

/// The tokenizer of the text encoder at `path`: inside of the model, beside the file, or the one that all of them share.
fn tokenizer(models: &Path, path: &Path, component: Component) -> Option<PathBuf> {
    let name = if component == Component::TextEncoder2 { "tokenizer_2" } else { "tokenizer" };
    let above = path.parent().unwrap_or(path);
    let near = [path.join(name), above.join(name), above.parent().unwrap_or(above).join(name)];
    let shared = ["clip/tokenizer", "text_encoders/tokenizer", "tokenizer"].map(|place| models.join(place));
    let there = |folder: &PathBuf| folder.join("vocab.json").exists() || folder.join("tokenizer.json").exists();
    near.into_iter().chain(shared).find(there).or_else(|| {
        let published = ["openai/clip-vit-large-patch14", "Lykon/dreamshaper-8"].into_iter();
        let roots = published.filter_map(|id| crate::models::weights::Repository::find(models, id).ok());
        roots.flat_map(|found| [found.root().to_path_buf(), found.root().join("tokenizer")]).find(there)
    })
}

fn load_vae(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let name = cx.text("vae_name")?;
    let path = find(cx, "vae_name", &vae(&name))?;
    Ok(vec![Value::held(match name.as_str() {
        "taesd" | "taesdxl" => Vae::Tiny(Stored::open(&path, Component::TinyVae)?, latent_scale(name == "taesdxl")),
        _ => Vae::Kl(Stored::open(&path, Component::Vae)?),
    })])
}

fn load_controlnet(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let name = cx.text("control_net_name")?;
    let path = find(cx, "control_net_name", &controlnet(&name))?;
    Ok(vec![Value::held(ControlNet { stored: Stored::open(&path, Component::ControlNet)? })])
}

/// The LoRA that `lora_name` names.
pub(super) fn open_lora(cx: &mut Cx<'_>) -> Result<Arc<Lora>, LowerError> {
    let name = cx.text("lora_name")?;
    let path = find(cx, "lora_name", &lora(&name))?;
    let file = lora_file(&path).unwrap_or(path);
    let lora = Lora::open(&file).map_err(|error| cx.refuse_model("lora_name", error.to_string(), ""))?;
    Ok(Arc::new(lora))
}

fn load_lora(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let lora = open_lora(cx)?;
    let mut model: Diffusion = cx.held("model")?;
    let mut clip: TextEncoders = cx.held("clip")?;
    model.unet = model.unet.with(&lora, Part::Unet, cx.number("strength_model")? as f32);
    let strength = cx.number("strength_clip")? as f32;
    merge_text(&mut clip, &lora, strength);
    Ok(vec![Value::held(model), Value::held(clip)])
}

/// What a LoRA has for text encoders.
pub(super) fn merge_text(clip: &mut TextEncoders, lora: &Arc<Lora>, strength: f32) {
    for ((stored, _), part) in clip.all.iter_mut().zip([Part::TextEncoder, Part::TextEncoder2]) {
        *stored = stored.with(lora, part, strength);
    }
}

fn load_lora_model(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let lora = open_lora(cx)?;
    let mut model: Diffusion = cx.held("model")?;
    model.unet = model.unet.with(&lora, Part::Unet, cx.number("strength_model")? as f32);
    Ok(vec![Value::held(model)])
}

fn hand_on(cx: &mut Cx<'_>, input: &str) -> Result<Vec<Value>, LowerError> {
    Ok(vec![cx.value(input)?])
}

/// A setting as a number.
pub(super) fn number(settings: &[Setting], i: usize) -> f64 {
    settings.get(i).and_then(Setting::number).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_engines_say_what_they_are_made_of() {
        let fixed = engine("static-dreamshaper8_SD15_$stat-b-1-h-512-w-448_00001_.engine");
        assert_eq!(fixed.need.repository, "aaronb/dreamshaper-8-dmd-1kstep");
        assert!(fixed.need.files.contains(&PathBuf::from("unet/dreamshaper-8-dmd-1kstep.safetensors")));
        assert_eq!(fixed.sizes, Some([[512, 512], [448, 448]]));
        let free = engine("dynamic-dreamshaper8_SD15_$dyn-b-1-4-2-h-448-704-512-w-384-768-512_00001_.engine");
        assert_eq!(free.sizes, Some([[448, 704], [384, 768]]));
        let own = engine("static-mine_SD15_$stat-b-1-h-512-w-512_00001_.engine");
        assert_eq!((own.need.repository.as_str(), &own.need.files[0]), ("", &PathBuf::from("unet/mine_SD15")));
        assert_eq!(engine("x.engine").sizes, None);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_found_nowhere() {
        assert!(checkpoint("../secret.safetensors").files.is_empty());
        assert!(lora("/etc/passwd").files.is_empty());
    }
}
