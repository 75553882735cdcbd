//! The nodes of ComfyUI-StreamDiffusion: a front end of the pipeline `streamdiffusion`. Loaders and configurations are handles;
//! the sampler is the pipeline as a stage, with their numbers as its live parameters.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::sd_find::{find, known, need};
use super::sd_model::{lora, text};
use crate::graph::DType;
use crate::models::weights::{Family, Repository};
use crate::workflow::class::input::{choice, file, flag, float, image, int, link, text as words};
use crate::workflow::class::{Class, Input, out};
use crate::workflow::lower::{Cx, LowerError, Param, Value};
use crate::workflow::need::Need;
use crate::workflow::value::{Setting, Type};

const PACK: &str = "ComfyUI-StreamDiffusion";
const MODEL: Type = Type::Other("SDMODEL");
const LORAS: Type = Type::Other("LORA_DICT");
const ADVANCED: Type = Type::Other("ADVANCED_CONFIG");
const STREAM: Type = Type::Other("STREAM_MODEL");

/// The small model with made-up weights, which needs no file.
const TINY: &str = "weir/tiny";

const T_INDEX: Input = words("t_index_list", "39,35,30").live();
const MODE: Input = choice("mode", "img2img", &["img2img", "txt2img"]);
const WIDTH: Input = int("width", 512, 64, 2048);
const HEIGHT: Input = int("height", 512, 64, 2048);
const BUFFER: Input = int("frame_buffer_size", 1, 1, 16);
const OPT_LORAS: Input = link("opt_lora_dict", LORAS).optional();
const OPT_ADVANCED: Input = link("opt_advanced_config", ADVANCED).optional();

/// StreamDiffusion.
pub const CLASSES: &[Class] = &[
    Class {
        pack: PACK,
        inputs: &[file("checkpoint")],
        outputs: &[out(MODEL)],
        needs: |widgets| needed(&text(widgets, "checkpoint")),
        note: "weir/tiny is a small made-up model that needs no file.",
        ..Class::held("StreamDiffusionCheckpointLoader", |cx| load(cx, "checkpoint"))
    },
    Class {
        pack: PACK,
        inputs: &[file("model_name")],
        outputs: &[out(MODEL)],
        needs: |widgets| needed(&text(widgets, "model_name")),
        ..Class::held("StreamDiffusionLPCheckpointLoader", |cx| load(cx, "model_name"))
    },
    Class {
        pack: PACK,
        inputs: &[file("engine_name")],
        outputs: &[out(MODEL)],
        needs: |widgets| needed(weights_of(&text(widgets, "engine_name"))),
        note: "What stands before the first -- of the name is the checkpoint that the engines were made of; they are not read.",
        ..Class::held("StreamDiffusionTensorRTEngineLoader", |cx| load(cx, "engine_name"))
    },
    Class {
        pack: PACK,
        inputs: &[
            file("lora_name"),
            float("strength", 0.5, -10.0, 10.0, 0.01),
            link("previous_loras", LORAS).optional(),
        ],
        outputs: &[out(LORAS)],
        needs: |widgets| vec![lora(&text(widgets, "lora_name"))],
        note: "Merged into the weights; another strength is another graph.",
        ..Class::held("StreamDiffusionLoraLoader", load_lora)
    },
    Class {
        pack: PACK,
        inputs: &[
            int("warmup", 10, 0, 100).ignored(),
            flag("do_add_noise", true).live(),
            flag("use_denoising_batch", true),
            flag("enable_similar_image_filter", false),
            float("similar_image_filter_threshold", 0.98, 0.0, 1.0, 0.01).live(),
            int("similar_image_filter_max_skip_frame", 10, 0, 100).live(),
            choice("device", "cuda", &["cuda", "cpu"]).ignored(),
            choice("dtype", "float16", &["float16", "float32"]).ignored(),
            words("device_ids", "").ignored(),
            flag("use_safety_checker", false),
            words("engine_dir", "").ignored(),
        ],
        outputs: &[out(ADVANCED)],
        note: "Only with the denoising batch, and without a safety checker: workflows have none.",
        ..Class::held("StreamDiffusionAdvancedConfig", advanced)
    },
    Class {
        pack: PACK,
        inputs: &[
            link("model", MODEL),
            T_INDEX,
            MODE,
            WIDTH,
            HEIGHT,
            choice("acceleration", "none", &["none", "xformers", "tensorrt"]).ignored(),
            BUFFER,
            flag("use_tiny_vae", true),
            choice("cfg_type", "self", &["none", "full", "self", "initialize"]),
            flag("use_lcm_lora", true),
            int("seed", 2, -1, 100_000_000).live(),
            OPT_LORAS,
            OPT_ADVANCED,
        ],
        outputs: &[out(STREAM)],
        needs_with: |widgets, linked, models| {
            let flag = |name| widgets(name).and_then(|flag| flag.number()).is_some_and(|n| n != 0.0);
            let (tiny, lcm) = (flag("use_tiny_vae"), flag("use_lcm_lora"));
            linked("model").map_or_else(Vec::new, |model| parts(model.first(), tiny, lcm, models))
        },
        note: "txt2img with cfg_type none alone; another number of steps is another graph. The seed -1 is drawn when the workflow \
               is loaded, and told in the log.",
        ..Class::held("StreamDiffusionConfig", config)
    },
    Class {
        pack: PACK,
        inputs: &[
            file("engine_config"),
            T_INDEX,
            MODE,
            BUFFER,
            WIDTH,
            HEIGHT,
            link("model", MODEL).optional(),
            OPT_LORAS,
            OPT_ADVANCED,
        ],
        outputs: &[out(STREAM)],
        needs_with: |widgets, linked, models| {
            let name = text(widgets, "engine_config");
            let (tiny, lcm) = (with_tiny(&name), with_lcm(&name));
            match linked("model") {
                Some(model) => parts(model.first(), tiny, lcm, models),
                None => {
                    let mut all = needed(weights_of(&name));
                    all.extend(parts(all.first(), tiny, lcm, models));
                    all
                }
            }
        },
        note: "As StreamDiffusionConfig, with the model and the LCM-LoRA that the name says where no model is linked.",
        ..Class::held("StreamDiffusionPrebuiltConfig", prebuilt)
    },
    Class {
        pack: PACK,
        inputs: &[
            link("stream_model", STREAM),
            words("prompt", "").live(),
            words("negative_prompt", "").live(),
            int("num_inference_steps", 50, 1, 100).live(),
            float("guidance_scale", 1.2, 0.1, 20.0, 0.01).live(),
            float("delta", 1.0, 0.0, 3.0, 0.1).live(),
            image("image").optional(),
        ],
        outputs: &[out(Type::Image)],
        note: "The pipeline streamdiffusion as a stage, between pictures of bytes. With txt2img it looks at no picture, and the \
               camera sets the pace.",
        beat: true,
        ..Class::stage("StreamDiffusionSampler", sampler)
    },
];

/// A model on disk and its line; nothing for the made-up one.
#[derive(Clone)]
struct Weights(Option<(PathBuf, Family)>);

/// LoRAs below the models' folder, and their strengths.
#[derive(Clone)]
struct Loras(Vec<(String, f64)>);

/// Parameters of the pipeline: those that shape the graph, and those that follow widgets.
#[derive(Clone, Default)]
struct Params {
    fixed: Map<String, Json>,
    live: Vec<Param>,
}

/// A stream that is configured.
#[derive(Clone)]
struct Stream {
    model: Weights,
    size: [u32; 2],
    /// Whether pictures begin with text alone.
    from_text: bool,
    params: Params,
}

/// The checkpoint that engines called `name` were made of: `NAME--lcm_lora-True--…`.
fn weights_of(name: &str) -> &str {
    name.split("--").next().unwrap_or(name)
}

fn checkpoint(name: &str) -> Need {
    need("checkpoint", name, &["checkpoints"], known(name))
}

fn needed(name: &str) -> Vec<Need> {
    if name == TINY { Vec::new() } else { vec![checkpoint(name)] }
}

/// Whether the name of engines asks for the LCM-LoRA.
fn with_lcm(name: &str) -> bool {
    !name.contains("--lcm_lora-False")
}

/// Whether the name of engines asks for the tiny autoencoder.
fn with_tiny(name: &str) -> bool {
    !name.contains("--tiny_vae-False")
}

/// What a stream with `model` needs beside it: the tiny autoencoder of its line unless its own is used, and the LCM-LoRA where that is merged. Nothing
/// for the made-up model. The line is seen in the weights; while they are missing, in their name.
fn parts(model: Option<&Need>, tiny: bool, lcm: bool, models: &Path) -> Vec<Need> {
    let Some(model) = model else { return Vec::new() };
    let path = model.find(models);
    let seen = path.as_ref().and_then(|path| Repository::at(path).ok()?.family().ok());
    let name = format!("{} {}", model.name, model.repository).to_lowercase();
    let family = seen.unwrap_or(match name.as_str() {
        name if name.contains("xl") => Family::Sdxl,
        name if name.contains("turbo") || name.contains("-2-1") => Family::Sd2,
        _ => Family::Sd1,
    });
    let published = |what, id: &str, files| Need {
        what,
        name: id.to_owned(),
        repository: id.to_owned(),
        files,
        from: format!("`weir models pull {id}` fetches it"),
    };
    let (taesd, lora) = match family {
        Family::Sdxl => ("madebyollin/taesdxl", Some("latent-consistency/lcm-lora-sdxl")),
        Family::Sd2 => ("madebyollin/taesd", None),
        Family::Sd1 => ("madebyollin/taesd", Some("latent-consistency/lcm-lora-sdv1-5")),
    };
    // Turbo models take none.
    let fast = path.as_deref().map_or(name.contains("turbo"), turbo);
    let inside = path.map(|path| path.join("taesd").join("config.json"));
    let tiny = tiny.then(|| published("tiny autoencoder", taesd, inside.into_iter().collect()));
    let lora =
        lora.filter(|_| lcm && !(family == Family::Sdxl && fast)).map(|lora| published("LCM-LoRA", lora, Vec::new()));
    tiny.into_iter().chain(lora).collect()
}

fn load(cx: &mut Cx<'_>, input: &str) -> Result<Vec<Value>, LowerError> {
    let name = cx.text(input)?;
    Ok(vec![Value::held(open(cx, input, weights_of(&name))?)])
}

fn open(cx: &mut Cx<'_>, input: &str, name: &str) -> Result<Weights, LowerError> {
    if name == TINY {
        return Ok(Weights(None));
    }
    let path = find(cx, input, &checkpoint(name))?;
    let family = Repository::at(&path).and_then(|model| model.family());
    let family = family.map_err(|error| cx.refuse_model(input, error.to_string(), ""))?;
    Ok(Weights(Some((path, family))))
}

fn load_lora(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let name = cx.text("lora_name")?;
    let path = find(cx, "lora_name", &lora(&name))?;
    let below = path.strip_prefix(&cx.env().models).unwrap_or(&path).display().to_string();
    let strength = cx.number("strength")?;
    let mut all = if cx.linked("previous_loras") { cx.held::<Loras>("previous_loras")? } else { Loras(Vec::new()) };
    // The same file once more takes the place of the one before.
    all.0.retain(|(path, _)| *path != below);
    all.0.push((below, strength));
    Ok(vec![Value::held(all)])
}

fn plain(setting: &Setting) -> Result<Json, String> {
    Ok(setting.json())
}

/// `39,35,30` as a list.
fn steps(setting: &Setting) -> Result<Json, String> {
    let text = setting.text().unwrap_or_default();
    let one = |part: &str| part.trim().parse::<u32>().map_err(|_| format!("{:?} is no whole number", part.trim()));
    text.split(',').map(one).collect::<Result<Vec<u32>, _>>().map(Json::from)
}

fn advanced(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    if !cx.flag("use_denoising_batch")? {
        return Err(cx.refuse("use_denoising_batch", "steps one by one are not built", "switch it on"));
    }
    if cx.flag("use_safety_checker")? {
        return Err(cx.refuse("use_safety_checker", "workflows have no safety checker", "switch it off"));
    }
    let mut params = Params::default();
    let similar = cx.flag("enable_similar_image_filter")?;
    params.fixed.insert("enable_similar_image_filter".to_owned(), similar.into());
    for name in ["do_add_noise", "similar_image_filter_threshold", "similar_image_filter_max_skip_frame"] {
        params.live.push((name, cx.pass(name)?, plain));
    }
    Ok(vec![Value::held(params)])
}

fn config(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let model: Weights = cx.held("model")?;
    let lcm = cx.flag("use_lcm_lora")?;
    let guidance = cx.text("cfg_type")?;
    let tiny = cx.flag("use_tiny_vae")?;
    let seed_of = cx.pass("seed")?;
    let mut stream = configured(cx, model, lcm, "use_lcm_lora")?;
    if stream.from_text && guidance != "none" {
        return Err(cx.refuse("cfg_type", format!("txt2img takes no guidance, {guidance} is one"), "take none"));
    }
    stream.params.fixed.insert("use_tiny_vae".to_owned(), tiny.into());
    stream.params.fixed.insert("cfg_type".to_owned(), guidance.into());
    stream.params.live.push(("seed", seed_of, plain));
    Ok(vec![Value::held(stream)])
}

fn prebuilt(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let name = cx.text("engine_config")?;
    let model = match cx.linked("model") {
        true => cx.held("model")?,
        false => open(cx, "engine_config", weights_of(&name))?,
    };
    let lcm = with_lcm(&name);
    let mut stream = configured(cx, model, lcm, "engine_config")?;
    // What the node does not ask for, as StreamDiffusionConfig has it; with txt2img there is but one.
    let guidance = if stream.from_text { "none" } else { "self" };
    stream.params.fixed.insert("cfg_type".to_owned(), guidance.into());
    stream.params.fixed.insert("use_tiny_vae".to_owned(), with_tiny(&name).into());
    stream.params.fixed.insert("seed".to_owned(), 2.into());
    Ok(vec![Value::held(stream)])
}

/// What both configurations have. `asks` is the input that asks for the LCM-LoRA.
fn configured(cx: &mut Cx<'_>, model: Weights, lcm: bool, asks: &str) -> Result<Stream, LowerError> {
    let mode = cx.text("mode")?;
    let frames = cx.int("frame_buffer_size")?;
    let mut size = [0; 2];
    for (side, input) in size.iter_mut().zip(["width", "height"]) {
        let pixels = cx.int(input)?;
        if pixels % 8 != 0 {
            return Err(cx.refuse(input, format!("{pixels} is no multiple of 8"), "take one"));
        }
        *side = pixels.unsigned_abs() as u32;
    }
    let turbo = matches!(&model, Weights(Some((path, Family::Sd2 | Family::Sdxl))) if turbo(path));
    if let (true, false, Weights(Some((_, Family::Sd2)))) = (lcm, turbo, &model) {
        let reason = "nobody has published an LCM-LoRA for the line SD 2.x";
        return Err(cx.refuse(asks, reason, "go without it, or take a turbo model"));
    }
    let mut params = Params::default();
    params.fixed.insert("mode".to_owned(), mode.as_str().into());
    params.fixed.insert("use_lcm_lora".to_owned(), (lcm && !turbo).into());
    params.fixed.insert("frame_buffer_size".to_owned(), frames.into());
    let half = cx.env().precision == DType::F16;
    params.fixed.insert("precision".to_owned(), if half { "fp16" } else { "fp32" }.into());
    // The pack's default; the pipeline's own is true, for a checker that neither has.
    params.fixed.insert("use_safety_checker".to_owned(), false.into());
    if cx.linked("opt_lora_dict") {
        let loras: Loras = cx.held("opt_lora_dict")?;
        if model.0.is_none() && !loras.0.is_empty() {
            let help = "take another checkpoint";
            return Err(cx.refuse("opt_lora_dict", format!("{TINY} is made up, no LoRA is for it"), help));
        }
        let loras: Map<String, Json> = loras.0.into_iter().map(|(path, strength)| (path, strength.into())).collect();
        params.fixed.insert("lora_dict".to_owned(), Json::Object(loras));
    }
    params.live.push(("t_index_list", cx.pass("t_index_list")?, steps));
    if cx.linked("opt_advanced_config") {
        let more: Params = cx.held("opt_advanced_config")?;
        params.fixed.extend(more.fixed);
        params.live.extend(more.live);
    }
    Ok(Stream { model, size, from_text: mode == "txt2img", params })
}

fn turbo(path: &Path) -> bool {
    path.to_string_lossy().to_lowercase().contains("turbo")
}

fn sampler(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let stream: Stream = cx.held("stream_model")?;
    let input = match (stream.from_text, cx.linked("image")) {
        (true, linked) => {
            if linked {
                cx.note("with txt2img the picture is not looked at");
            }
            None
        }
        (false, false) => {
            let help = "link the camera to it, or take txt2img in the configuration";
            return Err(cx.refuse("image", "no picture is linked, and img2img needs one", help));
        }
        (false, true) if !cx.moves("image") => {
            return Err(cx.refuse("image", "it is the same in every frame", "link the camera to it"));
        }
        (false, true) => Some("image"),
    };
    let mut params = stream.params;
    for name in ["prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "delta"] {
        params.live.push((name, cx.pass(name)?, plain));
    }
    let picture = cx.pipeline(input, stream.size, stream.model.0, params.fixed, params.live)?;
    Ok(vec![picture])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_of_steps_are_read() {
        let text = |text: &str| Setting::Text(text.to_owned());
        assert_eq!(steps(&text("39,35, 30")), Ok(json!([39, 35, 30])));
        assert!(steps(&text("39,")).is_err() && steps(&text("-1")).is_err());
        assert_eq!(weights_of("dream--lcm_lora-True--tiny_vae-True"), "dream");
    }
}
