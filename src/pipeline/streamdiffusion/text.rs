//! Prompts to embeddings.

use std::collections::VecDeque;

use super::params::{Mixture, refused};
use super::place::Place;
use crate::inference::{Input, Output, Session};
use crate::models::clip::{self, ClipConfig, Hidden};
use crate::models::synthetic::uniform;
use crate::models::tokenizer::ClipTokenizer;
use crate::models::weights::{Component, Family, Lora, Part, Repository};
use crate::models::{ModelError, blend, tiny};
use crate::pipeline::PipelineError;

/// Tokens of a prompt.
pub(super) const TOKENS: usize = 77;

/// Prompts whose embeddings are kept.
const KEPT: usize = 64;

/// What a text encoder makes of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Embedding {
    /// (77, D), row-major.
    pub tokens: Vec<f32>,
    /// (P), for SDXL.
    pub pooled: Vec<f32>,
}

/// A model's text encoders.
pub(super) trait Encoder: Send {
    /// The embedding of `text`.
    fn encode(&mut self, text: &str) -> Result<Embedding, PipelineError>;
}

/// Made-up embeddings, different for every text.
pub(super) struct Tiny;

impl Encoder for Tiny {
    fn encode(&mut self, text: &str) -> Result<Embedding, PipelineError> {
        let numbers = uniform(&format!("prompt/{text}"), (TOKENS * tiny::CONTEXT) as u64);
        Ok(Embedding { tokens: numbers.map(|u| (u * 3_f64.sqrt()) as f32).collect(), pooled: Vec::new() })
    }
}

/// An encoder that remembers, and blends.
pub(super) struct Prompts {
    encoder: Box<dyn Encoder>,
    kept: VecDeque<(String, Embedding)>,
}

impl Prompts {
    pub fn new(encoder: Box<dyn Encoder>) -> Self {
        Self { encoder, kept: VecDeque::new() }
    }

    /// The embedding of one text.
    pub fn one(&mut self, text: &str) -> Result<Embedding, PipelineError> {
        if let Some((_, known)) = self.kept.iter().find(|(known, _)| known == text) {
            return Ok(known.clone());
        }
        let made = self.encoder.encode(text)?;
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((text.to_owned(), made.clone()));
        Ok(made)
    }

    /// The embedding of a mixture of texts; that of the empty text for none.
    pub fn mixed(&mut self, mixture: &Mixture<String>) -> Result<Embedding, PipelineError> {
        if let [] | [_] = mixture.items.as_slice() {
            // One text stands for itself, whatever its weight, unless weights are taken as they are.
            let (text, weight) = mixture.items.first().map_or(("", 1.0), |(text, weight)| (text.as_str(), *weight));
            let mut made = self.one(text)?;
            if !mixture.normalize && weight != 1.0 {
                made.tokens.iter_mut().chain(&mut made.pooled).for_each(|x| *x *= weight);
            }
            return Ok(made);
        }
        let mut parts = Vec::with_capacity(mixture.items.len());
        for (text, weight) in &mixture.items {
            parts.push((self.one(text)?, *weight));
        }
        let mix = |part: fn(&Embedding) -> &[f32]| {
            let items: Vec<(&[f32], f32)> = parts.iter().map(|(made, weight)| (part(made), *weight)).collect();
            blend::prompts(&items, mixture.how, mixture.normalize)
                .ok_or_else(|| PipelineError::Frame("embeddings of different lengths".to_owned()))
        };
        Ok(Embedding { tokens: mix(|made| &made.tokens)?, pooled: mix(|made| &made.pooled)? })
    }
}

/// One text encoder with its tokenizer.
struct Clip {
    tokenizer: ClipTokenizer,
    session: Session,
    ids: Input<i64>,
    end: Option<Input<i64>>,
    states: Output<f32>,
    pooled: Option<Output<f32>>,
    /// Numbers of the states and of the pooled embedding.
    sizes: [usize; 2],
}

/// The text encoders of a model: one, or SDXL's two side by side.
pub(super) struct Clips(Vec<Clip>);

fn failed(error: impl std::fmt::Display) -> PipelineError {
    PipelineError::Load(error.to_string())
}

impl Clips {
    /// Loads the encoders of `model`, LoRAs merged.
    pub fn load(place: &Place<'_>, model: &Repository, loras: &[(Lora, f32)]) -> Result<Self, PipelineError> {
        let two = model.family().map_err(failed)? == Family::Sdxl;
        let mut parts = vec![(Component::TextEncoder, Part::TextEncoder, 1)];
        if two {
            parts.push((Component::TextEncoder2, Part::TextEncoder2, 2));
        }
        let hidden = if two { Hidden::Penultimate } else { Hidden::Last };
        let mut clips = Vec::with_capacity(parts.len());
        for (component, part, number) in parts {
            let folder = model.tokenizer(number).ok_or_else(|| {
                failed(format!("{}: no tokenizer; expected a folder tokenizer there", model.root().display()))
            })?;
            let tokenizer = ClipTokenizer::open(&folder).map_err(failed)?;
            let config = ClipConfig::from_json(&model.config(component).map_err(failed)?).map_err(failed)?;
            let mut weights = model.weights(component, place.precision).map_err(failed)?;
            for (lora, scale) in loras {
                weights.merge(lora, part, *scale).map_err(failed)?;
            }
            let name = format!("text_encoder_{number}");
            let session = place.session(&name, false, &[&weights], |sources| {
                let [source] = sources else { return Err(ModelError::config("text_encoder", "one source is needed")) };
                clip::graph(&config, &mut **source, place.precision, hidden)
            })?;
            clips.push(Clip::new(tokenizer, session, &config).map_err(failed)?);
        }
        Ok(Self(clips))
    }
}

impl Clip {
    fn new(tokenizer: ClipTokenizer, mut session: Session, config: &ClipConfig) -> Result<Self, PipelineError> {
        if config.positions as usize != TOKENS {
            return Err(failed(format!("a text encoder for {} tokens, {TOKENS} are needed", config.positions)));
        }
        if tokenizer.size() as u64 > config.vocabulary {
            let reason =
                format!("the tokenizer has {} tokens, the text encoder {}", tokenizer.size(), config.vocabulary);
            return Err(failed(reason));
        }
        let end = match config.projection {
            None => None,
            Some(_) => Some(session.input("end", &[1]).map_err(failed)?),
        };
        let pooled = match config.projection {
            None => None,
            Some(width) => Some(session.output("pooled", &[1, width as i64]).map_err(failed)?),
        };
        Ok(Self {
            tokenizer,
            ids: session.input("input_ids", &[1, TOKENS as i64]).map_err(failed)?,
            end,
            states: session.output("states", &[1, TOKENS as i64, config.hidden as i64]).map_err(failed)?,
            pooled,
            sizes: [TOKENS * config.hidden as usize, config.projection.unwrap_or(0) as usize],
            session,
        })
    }

    fn encode(&mut self, text: &str) -> Result<Embedding, PipelineError> {
        let tokens =
            self.tokenizer.encode(text).map_err(|error| PipelineError::Params(refused("prompt", error.to_string())))?;
        let [states, pooled] = self.sizes;
        let mut made = Embedding { tokens: vec![0.0; states], pooled: vec![0.0; pooled] };
        let end = [tokens.end as i64];
        let mut feeds = vec![self.ids.feed(&tokens.ids)];
        feeds.extend(self.end.iter().map(|input| input.feed(&end)));
        let mut fetches = vec![self.states.fetch(&mut made.tokens)];
        if let Some(output) = &self.pooled {
            fetches.push(output.fetch(&mut made.pooled));
        }
        self.session.run(&feeds, &mut fetches).map_err(|error| PipelineError::Frame(error.to_string()))?;
        drop(fetches);
        Ok(made)
    }
}

impl Encoder for Clips {
    fn encode(&mut self, text: &str) -> Result<Embedding, PipelineError> {
        let mut parts = Vec::with_capacity(self.0.len());
        for clip in &mut self.0 {
            parts.push(clip.encode(text)?);
        }
        Ok(match parts.as_slice() {
            [first, second] => {
                let tokens = clip::join(&first.tokens, &second.tokens, TOKENS);
                // The pooled embedding is the second encoder's; the first has none that is used.
                Embedding { tokens, pooled: second.pooled.clone() }
            }
            _ => parts.pop().ok_or_else(|| PipelineError::Frame("no text encoder".to_owned()))?,
        })
    }
}
