//! Prompts to embeddings.

use std::collections::VecDeque;

use super::params::Mixture;
use crate::models::blend;
use crate::models::synthetic::uniform;
use crate::models::tiny;
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
