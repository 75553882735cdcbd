//! Models to loaded streams.

use super::params::{Settings, TINY};
use super::processor::{Parts, Stream, Through};
use super::similar::Filter;
use super::text::{Prompts, TOKENS, Tiny};
use crate::graph::{DType, Model};
use crate::inference::{Provider, Runtime, Session};
use crate::models::controlnet::ControlNetConfig;
use crate::models::schedule::Schedule;
use crate::models::stream::{self, Mode, Sources, StreamConfig, Vae};
use crate::models::taesd::TaesdConfig;
use crate::models::tiny;
use crate::models::unet::UnetConfig;
use crate::models::{ModelError, Source};
use crate::pipeline::{FrameProcessor, LoadContext, PipelineError};

fn failed(error: impl std::fmt::Display) -> PipelineError {
    PipelineError::Load(error.to_string())
}

/// Loads the stream that `settings` ask for.
pub(super) fn load(cx: &LoadContext<'_>, settings: Settings) -> Result<Box<dyn FrameProcessor>, PipelineError> {
    if settings.shape.skip_diffusion {
        return Ok(Box::new(Through { settings }));
    }
    (cx.progress)("loading ONNX Runtime");
    let runtime = Runtime::load(cx.inference).map_err(failed)?;
    let precision = match settings.shape.half {
        Some(true) => DType::F16,
        Some(false) => DType::F32,
        None if cx.inference.provider == Provider::Cpu => DType::F32,
        None => DType::F16,
    };
    if settings.shape.model != TINY {
        return Err(PipelineError::Load(format!("no weights of {} can be read", settings.shape.model)));
    }
    (cx.progress)("building the graph of the made-up model");
    let (config, model) = tiny_stream(&settings, precision).map_err(failed)?;
    let bytes = model.to_bytes().map_err(failed)?;
    (cx.progress)("loading the graph");
    let session = Session::from_bytes(runtime, cx.inference, &bytes).map_err(failed)?;
    let filter = match settings.shape.similar {
        true => Some(Filter::load(runtime, cx.inference, settings.shape.size)?),
        false => None,
    };
    let parts = Parts { session, config, schedule: Schedule::default(), prompts: Prompts::new(Box::new(Tiny)), filter };
    (cx.progress)("running it once");
    Ok(Box::new(Stream::new(parts, settings, cx.pool.clone())?))
}

fn tiny_stream(settings: &Settings, precision: DType) -> Result<(StreamConfig, Model), ModelError> {
    let shape = &settings.shape;
    let names: Vec<String> =
        shape.controls.iter().map(|id| id.replace("weir/tiny-control-", "controlnet-sd15-")).collect();
    let config = StreamConfig {
        steps: shape.steps as u64,
        frame_buffer: 1,
        guidance: shape.guidance,
        mode: Mode::Image,
        height: shape.size.height.into(),
        width: shape.size.width.into(),
        tokens: TOKENS as u64,
        precision,
        unet: UnetConfig::from_json(&tiny::config("unet-sd15")?)?,
        vae: Vae::Tiny(TaesdConfig::from_json(&tiny::config("taesd")?)?),
        controls: names
            .iter()
            .map(|name| ControlNetConfig::from_json(&tiny::config(name)?))
            .collect::<Result<_, _>>()?,
        float_image: false,
    };
    let mut controls = names.iter().map(|name| tiny::weights(name)).collect::<Result<Vec<_>, _>>()?;
    let sources = Sources {
        unet: &mut tiny::weights("unet-sd15")?,
        vae: &mut tiny::weights("taesd")?,
        controls: controls.iter_mut().map(|source| source as &mut dyn Source).collect(),
    };
    let model = stream::build(&config, sources)?;
    Ok((config, model))
}
