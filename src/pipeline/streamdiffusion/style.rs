//! Style pictures: from their text in a request to the tokens that the graph is given.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::adapter::PICTURE;
use super::params::refused;
use super::picture::{Pixels, bytes, decode};
use super::place::Place;
use crate::inference::{Graph, Session};
use crate::models::ip_adapter::{self, AdapterConfig, Files};
use crate::models::vision::VisionConfig;
use crate::models::weights::Family;
use crate::models::{ModelError, tiny};
use crate::pipeline::{Fetch, PipelineError};

/// Pictures whose tokens are kept.
const KEPT: usize = 8;

/// What a picture becomes, each of (T, D).
#[derive(Debug, PartialEq)]
pub(super) struct Tokens {
    /// For rows of the negative prompt.
    pub nothing: Vec<f32>,
    /// For all others.
    pub picture: Vec<f32>,
}

/// Makes the tokens of pictures and keeps them. Shared with the thread that makes them.
pub(super) struct Styles {
    maker: Maker,
    pub config: AdapterConfig,
    kept: Mutex<VecDeque<(Arc<str>, Arc<Tokens>)>>,
}

enum Maker {
    Files { files: Files, family: Family },
    MadeUp,
}

fn failed(error: impl std::fmt::Display) -> PipelineError {
    PipelineError::Load(error.to_string())
}

fn wrong(reason: impl Into<String>) -> PipelineError {
    PipelineError::Params(refused(PICTURE, reason))
}

impl Styles {
    /// By the encoder among `files`.
    pub fn of(files: Files, family: Family, config: AdapterConfig) -> Self {
        Self { maker: Maker::Files { files, family }, config, kept: Mutex::default() }
    }

    /// By an encoder of made-up weights.
    pub fn made_up() -> Self {
        let config = AdapterConfig { tokens: 4, width: tiny::CONTEXT as u64, embedding: 24 };
        Self { maker: Maker::MadeUp, config, kept: Mutex::default() }
    }

    /// The tokens of `picture`, if they are there.
    pub fn get(&self, picture: &str) -> Option<Arc<Tokens>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(known, _)| **known == *picture).map(|(_, tokens)| tokens.clone())
    }

    /// Makes the tokens of `picture` unless they are there, or it is to be done without.
    ///
    /// # Errors
    /// [`PipelineError::Params`] when there is no such picture, [`PipelineError::Load`] when the encoder cannot be loaded.
    pub fn make(&self, place: &Place<'_>, fetch: &dyn Fetch, picture: &Arc<str>) -> Result<(), PipelineError> {
        if self.get(picture).is_some() {
            return Ok(());
        }
        place.say("reading the style picture");
        let Some(bytes) = bytes(picture, fetch).map_err(wrong)? else { return Ok(()) };
        let pixels = decode(&bytes).map_err(wrong)?;
        let tokens = self.encode(place, &pixels)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((picture.clone(), Arc::new(tokens)));
        Ok(())
    }

    /// Loads the encoder, runs it once and drops it.
    fn encode(&self, place: &Place<'_>, picture: &Pixels) -> Result<Tokens, PipelineError> {
        place.say("loading the picture encoder");
        let (vision, mut session) = match &self.maker {
            Maker::Files { files, family } => {
                let (json, encoder) = files.encoder(place.precision).map_err(failed)?;
                let adapter = files.adapter().map_err(failed)?;
                let vision = ip_adapter::check(&self.config, &json, self.config.width).map_err(failed)?;
                let name = if *family == Family::Sdxl { "image_encoder_sdxl" } else { "image_encoder" };
                let session = place.session(name, false, &[&encoder, &adapter], |sources| {
                    let [encoder, adapter] = sources else {
                        return Err(ModelError::config("image_encoder", "two sources are needed"));
                    };
                    ip_adapter::graph(&vision, &mut **encoder, &self.config, &mut **adapter, place.precision)
                })?;
                (vision, session)
            }
            Maker::MadeUp => {
                let vision = tiny::config("vision").and_then(|json| VisionConfig::from_json(&json)).map_err(failed)?;
                let mut encoder = tiny::weights("vision").map_err(failed)?;
                let mut adapter = tiny::weights("ip-adapter-sd15").map_err(failed)?;
                let model = ip_adapter::graph(&vision, &mut encoder, &self.config, &mut adapter, place.precision);
                let model = model.map_err(failed)?;
                let onnx = model.to_bytes().map_err(failed)?;
                let session = place.load("image_encoder", false, &model, Graph::Bytes(&onnx))?;
                (vision, session)
            }
        };
        run(&mut session, &self.config, vision.size, picture)
    }
}

fn run(session: &mut Session, config: &AdapterConfig, side: u64, picture: &Pixels) -> Result<Tokens, PipelineError> {
    let count = (config.tokens * config.width) as usize;
    let side = side as i64;
    let input = session.input::<f32>("picture", &[1, 3, side, side]).map_err(failed)?;
    let output = session.output::<f32>("tokens", &[2, config.tokens as i64, config.width as i64]).map_err(failed)?;
    let mut tokens = vec![0.0; 2 * count];
    let seen = picture.seen(side as u32);
    session.run(&[input.feed(&seen)], &mut [output.fetch(&mut tokens)]).map_err(failed)?;
    let picture = tokens.split_off(count);
    Ok(Tokens { nothing: tokens, picture })
}
