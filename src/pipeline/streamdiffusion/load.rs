//! Models to loaded streams.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::controls::DEPTH_MODEL;
use super::params::{Settings, Shape, TINY};
use super::place::Place;
use super::pose::Detector;
use super::processor::{Parts, Stream, Through};
use super::processors::Made;
use super::safety::Guard;
use super::similar::Filter;
use super::style::Styles;
use super::text::{Clips, Prompts, TOKENS, Tiny};
use crate::frame::Size;
use crate::graph::{DType, Model};
use crate::inference::{Graph, Provider, Runtime, Session};
use crate::models::controlnet::ControlNetConfig;
use crate::models::depth::DepthConfig;
use crate::models::hint::Hint;
use crate::models::ip_adapter::{AdapterConfig, Files, REPOSITORY};
use crate::models::kl::KlConfig;
use crate::models::schedule::Schedule;
use crate::models::stream::{self, Mode, Sources, StreamConfig, Vae};
use crate::models::taesd::TaesdConfig;
use crate::models::tiny;
use crate::models::unet::UnetConfig;
use crate::models::weights::{Component, Family, Lora, Part, Repository, Weights};
use crate::models::{ModelError, Source};
use crate::pipeline::{FrameProcessor, LoadContext, PipelineError};

fn failed(error: impl std::fmt::Display) -> PipelineError {
    PipelineError::Load(error.to_string())
}

/// Loads the stream that `settings` ask for.
pub(super) fn load(cx: &LoadContext<'_>, settings: Settings) -> Result<Box<dyn FrameProcessor>, PipelineError> {
    let shape = &settings.shape;
    if shape.skip_diffusion && shape.before.is_empty() && shape.after.is_empty() {
        return Ok(Box::new(Through::new(settings, None, None, cx.pool.clone())?));
    }
    (cx.progress)("loading ONNX Runtime");
    let runtime = Runtime::load(cx.inference).map_err(failed)?;
    let place = Place::new(runtime, cx, precision(cx, settings.shape.half));
    if settings.shape.skip_diffusion {
        (cx.progress)("building the graph of the processors");
        let session = filters(cx, &place, &settings.shape)?;
        let detector = Detector::load(&place, &cx.models, &settings.shape)?;
        return Ok(Box::new(Through::new(settings, Some(session), detector, cx.pool.clone())?));
    }
    let mut parts = match settings.shape.model == TINY {
        true => made_up(cx, &place, &settings)?,
        false => real(cx, &place, &settings)?,
    };
    parts.detector = Detector::load(&place, &cx.models, &settings.shape)?;
    if settings.shape.similar {
        parts.filter = Some(Filter::load(runtime, cx.inference, settings.shape.size)?);
    }
    if settings.live.safety.is_some() {
        (cx.progress)("loading the safety checker");
        let [height, width] = parts.config.output().map(|side| side as u32);
        parts.guard = Guard::load(&place, &cx.models, Size::new(width, height))?;
    }
    (cx.progress)("running the graph once");
    Ok(Box::new(Stream::new(parts, settings, cx.pool.clone())?))
}

/// The type that `half` asks for, where it is not left to the provider.
fn precision(cx: &LoadContext<'_>, half: Option<bool>) -> DType {
    match half {
        Some(true) => DType::F16,
        Some(false) => DType::F32,
        None if cx.inference.provider == Provider::Cpu => DType::F32,
        None => DType::F16,
    }
}

/// Makes the tokens of `picture`. The encoder runs once, so TensorRT, which takes minutes to build an engine, is not asked.
pub(super) fn prepare(
    cx: &LoadContext<'_>,
    styles: &Styles,
    half: Option<bool>,
    picture: &Arc<str>,
) -> Result<(), PipelineError> {
    let provider = match cx.inference.provider {
        Provider::Tensorrt => Provider::Cuda,
        other => other,
    };
    let inference = crate::inference::Config { provider, ..cx.inference.clone() };
    let once = LoadContext {
        inference: &inference,
        models: cx.models.clone(),
        model: cx.model.clone(),
        pool: cx.pool.clone(),
        progress: cx.progress,
        fetch: cx.fetch,
    };
    let runtime = Runtime::load(&inference).map_err(failed)?;
    styles.make(&Place::new(runtime, &once, precision(cx, half)), cx.fetch, picture)
}

fn stream_config(
    shape: &Shape,
    precision: DType,
    unet: UnetConfig,
    vae: Vae,
    controls: Vec<ControlNetConfig>,
    depth: Option<&DepthConfig>,
) -> StreamConfig {
    let hints = |made: &[Made]| made.iter().map(|made| hint(*made, depth)).collect();
    StreamConfig {
        steps: shape.steps as u64,
        frame_buffer: shape.frame_buffer as u64,
        guidance: shape.guidance,
        mode: if shape.from_text { Mode::Text } else { Mode::Image },
        height: shape.size.height.into(),
        width: shape.size.width.into(),
        tokens: TOKENS as u64,
        precision,
        unet,
        vae,
        controls,
        before: hints(&shape.before),
        after: hints(&shape.after),
        apart: shape.host,
        latent_before: shape.latents[0] as u64,
        latent_after: shape.latents[1] as u64,
        image_tokens: 0,
        float_image: false,
    }
}

fn real(cx: &LoadContext<'_>, place: &Place<'_>, settings: &Settings) -> Result<Parts, PipelineError> {
    let shape = &settings.shape;
    let model = match &cx.model {
        Some(path) => Repository::at(path).map_err(failed)?,
        None => find_model(&cx.models, &shape.model)?,
    };
    let family = model.family().map_err(failed)?;
    if family != shape.family {
        let reason = format!(
            "{} holds a model of the line {family}, but {} is of the line {}; name a model_id of its line",
            model.root().display(),
            shape.model,
            shape.family
        );
        return Err(failed(reason));
    }
    (cx.progress)(&format!("reading {}", model.root().display()));
    let loras = loras(&cx.models, shape, family)?;
    let schedule = match model.json(Path::new("scheduler/scheduler_config.json")) {
        Ok(json) => Schedule::from_json(&json).map_err(failed)?,
        // A single file has none, and all models of these families have the same.
        Err(_) => Schedule::default(),
    };
    let unet = UnetConfig::from_json(&model.config(Component::Unet).map_err(failed)?).map_err(failed)?;
    let mut unet_weights = model.weights(Component::Unet, place.precision).map_err(failed)?;
    for (lora, scale) in &loras {
        unet_weights.merge(lora, Part::Unet, *scale).map_err(failed)?;
    }
    let (vae, vae_weights) = match shape.tiny_vae {
        true => {
            let tiny = find_taesd(&cx.models, &model, family)?;
            let config = TaesdConfig::from_json(&tiny.config(Component::TinyVae).map_err(failed)?).map_err(failed)?;
            (Vae::Tiny(config), tiny.weights(Component::TinyVae, place.precision).map_err(failed)?)
        }
        false => {
            let config = KlConfig::from_json(&model.config(Component::Vae).map_err(failed)?).map_err(failed)?;
            // Half precision overflows in some of them.
            let precision = if config.force_upcast { DType::F32 } else { place.precision };
            (Vae::Kl(config), model.weights(Component::Vae, precision).map_err(failed)?)
        }
    };
    let mut controls = Vec::with_capacity(shape.controls.len());
    let mut control_weights = Vec::with_capacity(shape.controls.len());
    let depth = if shape.needs_depth() { Some(depth_model(&cx.models)?) } else { None };
    for (id, made) in &shape.controls {
        let control = Repository::find(&cx.models, id).map_err(failed)?;
        let json = control.config(Component::ControlNet).map_err(failed)?;
        let hint = hint(*made, depth.as_ref().map(|(config, _)| config));
        controls.push(ControlNetConfig { hint, ..ControlNetConfig::from_json(&json).map_err(failed)? });
        control_weights.push(control.weights(Component::ControlNet, place.precision).map_err(failed)?);
    }
    // The picture encoder is gone before the graph is built.
    let adapter = match shape.adapter {
        true => Some(adapter(cx, settings)?),
        false => None,
    };
    (cx.progress)("loading the text encoder");
    let clips = Clips::load(place, &model, &loras)?;
    (cx.progress)("building the graph");
    let depth_config = depth.as_ref().map(|(config, _)| config);
    let mut config = stream_config(shape, place.precision, unet, vae, controls, depth_config);
    config.image_tokens = adapter.as_ref().map_or(0, |(styles, _)| styles.config.tokens);
    let adapter_weights = adapter.as_ref().map(|(_, weights)| weights);
    let depth_weights = depth.as_ref().map(|(_, weights)| weights);
    let all: Vec<&Weights> = [&unet_weights, &vae_weights]
        .into_iter()
        .chain(&control_weights)
        .chain(depth_weights)
        .chain(adapter_weights)
        .collect();
    let session = place.session("stream", true, &all, |sources| {
        let [unet, vae, others @ ..] = sources else {
            return Err(ModelError::config("model", "weights of two models are needed"));
        };
        let (controls, others) = others.split_at_mut(control_weights.len());
        let (depth, adapter) = others.split_at_mut(usize::from(depth_weights.is_some()));
        let controls = controls.iter_mut().map(|source| &mut **source as &mut dyn Source).collect();
        let depth = depth.first_mut().map(|source| &mut **source as &mut dyn Source);
        let adapter = adapter.first_mut().map(|source| &mut **source as &mut dyn Source);
        let sources = Sources { unet: &mut **unet, vae: &mut **vae, controls, depth, adapter };
        let model = stream::build(&config, sources)?;
        (cx.progress)("loading the graph");
        Ok(model)
    })?;
    let styles = adapter.map(|(styles, _)| Arc::new(styles));
    Ok(Parts {
        session,
        config,
        schedule,
        prompts: Prompts::new(Box::new(clips)),
        styles,
        filter: None,
        guard: None,
        detector: None,
    })
}

/// The IP-Adapter of the family, with the tokens of its picture made.
fn adapter(cx: &LoadContext<'_>, settings: &Settings) -> Result<(Styles, Weights), PipelineError> {
    let family = settings.shape.family;
    let found = Repository::find(&cx.models, REPOSITORY)
        .map_err(|error| failed(format!("{error}; `weir models pull {REPOSITORY}` fetches it")))?;
    let files = Files::of(found.root(), family).ok_or_else(|| failed(format!("{family} has no IP-Adapter")))?;
    let weights = files.adapter().map_err(failed)?;
    let config = AdapterConfig::of(&weights).map_err(failed)?;
    let styles = Styles::of(files, family, config);
    if let Some(adapter) = &settings.live.adapter {
        prepare(cx, &styles, settings.shape.half, &adapter.picture)?;
    }
    Ok((styles, weights))
}

/// What the graph makes of the frame for a ControlNet.
fn hint(made: Made, depth: Option<&DepthConfig>) -> Hint {
    match (made, depth) {
        (Made::SoftEdge, _) => Hint::SoftEdges,
        (Made::Depth, Some(config)) => Hint::Depth(config.clone()),
        (Made::Pose(_), _) => Hint::Pose,
        (Made::Filter(filter), _) => Hint::Filter(filter),
        _ => Hint::Given,
    }
}

/// The graph of the processors alone.
fn filters(cx: &LoadContext<'_>, place: &Place<'_>, shape: &Shape) -> Result<Session, PipelineError> {
    let depth = if shape.needs_depth() { Some(depth_model(&cx.models)?) } else { None };
    let hints = |made: &[Made]| -> Vec<Hint> {
        made.iter().map(|made| hint(*made, depth.as_ref().map(|(config, _)| config))).collect()
    };
    let (before, after) = (hints(&shape.before), hints(&shape.after));
    let size = [shape.size.height.into(), shape.size.width.into()];
    let weights: Vec<&Weights> = depth.iter().map(|(_, weights)| weights).collect();
    place.session("filters", true, &weights, |sources| {
        let depth = sources.first_mut().map(|source| &mut **source as &mut dyn Source);
        stream::filters([&before, &after], size, place.precision, depth)
    })
}

/// The depth model that stands for the engine of the preprocessor.
fn depth_model(models: &Path) -> Result<(DepthConfig, Weights), PipelineError> {
    let found = Repository::find(models, DEPTH_MODEL).map_err(failed)?;
    let json = found.json(Path::new("config.json")).map_err(failed)?;
    let weights = Weights::open(&found.root().join("model.safetensors")).map_err(failed)?;
    Ok((DepthConfig::from_json(&json).map_err(failed)?, weights))
}

/// The model called `id`; or the one that `models` itself is, whatever it is called.
fn find_model(models: &Path, id: &str) -> Result<Repository, PipelineError> {
    let itself = models.is_file() || models.join("unet").join("config.json").exists();
    if itself { Repository::at(models) } else { Repository::find(models, id) }.map_err(failed)
}

/// The tiny autoencoder of a family: `taesd` inside the model, or the published one.
fn find_taesd(models: &Path, model: &Repository, family: Family) -> Result<Repository, PipelineError> {
    let inside = model.root().join("taesd");
    if inside.join("config.json").exists() {
        return Repository::at(&inside).map_err(failed);
    }
    let id = if family == Family::Sdxl { "madebyollin/taesdxl" } else { "madebyollin/taesd" };
    Repository::find(models, id).map_err(failed)
}

/// The LoRAs that are asked for, and the LCM-LoRA of the family.
fn loras(models: &Path, shape: &Shape, family: Family) -> Result<Vec<(Lora, f32)>, PipelineError> {
    let mut wanted: Vec<(&str, f32)> =
        shape.loras.iter().map(|(path, weight)| (path.as_str(), *weight as f32)).collect();
    if shape.lcm_lora {
        wanted.push(match family {
            Family::Sdxl => ("latent-consistency/lcm-lora-sdxl", 1.0),
            Family::Sd1 | Family::Sd2 => ("latent-consistency/lcm-lora-sdv1-5", 1.0),
        });
    }
    wanted
        .into_iter()
        .map(|(id, weight)| {
            let found = Repository::find(models, id).map_err(failed)?;
            let lora = Lora::open(&lora_file(found.root())).map_err(failed)?;
            Ok((lora, weight))
        })
        .collect()
}

/// The file of a LoRA's repository: that of the usual name, or the only one there is.
fn lora_file(root: &Path) -> PathBuf {
    let usual = root.join("pytorch_lora_weights.safetensors");
    if root.is_file() || usual.exists() {
        return if root.is_file() { root.to_path_buf() } else { usual };
    }
    let files = std::fs::read_dir(root).map(|entries| {
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect::<Vec<_>>()
    });
    match files.as_deref() {
        Ok([only]) => only.clone(),
        _ => usual,
    }
}

/// The model of made-up weights.
fn made_up(cx: &LoadContext<'_>, place: &Place<'_>, settings: &Settings) -> Result<Parts, PipelineError> {
    let styles = settings.shape.adapter.then(Styles::made_up).map(Arc::new);
    if let (Some(styles), Some(adapter)) = (&styles, &settings.live.adapter) {
        prepare(cx, styles, settings.shape.half, &adapter.picture)?;
    }
    (cx.progress)("building the graph of a small model with made-up weights");
    let (config, model) = tiny_stream(&settings.shape, place.precision).map_err(failed)?;
    let onnx = model.to_bytes().map_err(failed)?;
    (cx.progress)("loading the graph");
    let session = place.load("stream", true, &model, Graph::Bytes(&onnx))?;
    let prompts = Prompts::new(Box::new(Tiny));
    Ok(Parts {
        session,
        config,
        schedule: Schedule::default(),
        prompts,
        styles,
        filter: None,
        guard: None,
        detector: None,
    })
}

fn tiny_stream(shape: &Shape, precision: DType) -> Result<(StreamConfig, Model), ModelError> {
    let names: Vec<String> =
        shape.controls.iter().map(|(id, _)| id.replace("weir/tiny-control-", "controlnet-sd15-")).collect();
    let depth = DepthConfig::from_json(&tiny::config("depth-1")?)?;
    let unet = UnetConfig::from_json(&tiny::config("unet-sd15")?)?;
    let vae_name = if shape.tiny_vae { "taesd" } else { "kl" };
    let vae = tiny::config(vae_name)?;
    let vae = match shape.tiny_vae {
        true => Vae::Tiny(TaesdConfig::from_json(&vae)?),
        false => Vae::Kl(KlConfig::from_json(&vae)?),
    };
    let control = |(name, (_, made)): (&String, &(String, Made))| {
        let config = ControlNetConfig::from_json(&tiny::config(name)?)?;
        Ok(ControlNetConfig { hint: hint(*made, Some(&depth)), ..config })
    };
    let controls: Result<_, ModelError> = names.iter().zip(&shape.controls).map(control).collect();
    let mut config = stream_config(shape, precision, unet, vae, controls?, Some(&depth));
    config.image_tokens = if shape.adapter { Styles::made_up().config.tokens } else { 0 };
    let mut controls = names.iter().map(|name| tiny::weights(name)).collect::<Result<Vec<_>, _>>()?;
    let mut depth_weights = tiny::weights("depth-1")?;
    let sources = Sources {
        unet: &mut tiny::weights("unet-sd15")?,
        vae: &mut tiny::weights(vae_name)?,
        controls: controls.iter_mut().map(|source| source as &mut dyn Source).collect(),
        depth: Some(&mut depth_weights),
        adapter: Some(&mut tiny::weights("ip-adapter-sd15")?),
    };
    let model = stream::build(&config, sources)?;
    Ok((config, model))
}
