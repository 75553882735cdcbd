//! The safety checker behind the stream.

use std::path::Path;

use super::place::Place;
use crate::frame::Size;
use crate::inference::{InferenceError, Input, Output, Session};
use crate::models::ModelError;
use crate::models::eva::EvaConfig;
use crate::models::safety;
use crate::models::weights::{Repository, Weights, WeightsError};
use crate::pipeline::PipelineError;

/// The classifier of the live runner.
pub(super) const MODEL: &str = "Freepik/nsfw_image_detector";

/// The loaded checker and the picture that is shown in place of one that does not pass: the last that did, black before.
pub(super) struct Guard {
    session: Session,
    frame: Input<u8>,
    out: Output<f32>,
    last: Vec<u8>,
}

fn failed(error: impl std::fmt::Display) -> PipelineError {
    PipelineError::Load(format!("the safety checker: {error}"))
}

/// Where the checker's weights lie below `models`; `None` where there are none.
fn find(models: &Path) -> Result<Option<Repository>, PipelineError> {
    match Repository::find(models, MODEL) {
        Ok(found) => Ok(Some(found)),
        Err(WeightsError::NoModel { .. }) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// The classifier at `repository`.
pub(super) fn open(repository: &Repository) -> Result<(EvaConfig, Weights), PipelineError> {
    let json = repository.json(Path::new("config.json")).map_err(failed)?;
    let config = EvaConfig::from_json(&json).map_err(failed)?;
    if config.first.as_deref().is_some_and(|first| first != "neutral") {
        return Err(failed(ModelError::config("label_names", "the first class is not `neutral`")));
    }
    let weights = Weights::open(&repository.root().join("model.safetensors")).map_err(failed)?;
    Ok((config, weights))
}

impl Guard {
    /// The checker for pictures of `size`; `None` where its model does not lie among the models.
    pub fn load(place: &Place<'_>, models: &Path, size: Size) -> Result<Option<Self>, PipelineError> {
        let Some(found) = find(models)? else { return Ok(None) };
        let (config, weights) = open(&found)?;
        let sides = [size.height.into(), size.width.into()];
        let session = place.session("safety", true, &[&weights], |sources| match sources {
            [source, ..] => safety::build(&config, &mut **source, sides, place.precision),
            [] => Err(ModelError::config("model", "the weights of the classifier are needed")),
        })?;
        let mut guard = Self::new(session, size).map_err(failed)?;
        // Once over black, so that the first picture is as fast as the next.
        for _ in 0..guard.session.warm_runs() {
            let black = guard.last.clone();
            guard.score(&black).map_err(failed)?;
        }
        Ok(Some(guard))
    }

    fn new(mut session: Session, size: Size) -> Result<Self, InferenceError> {
        let frame = session.input("frame", &[1, i64::from(size.height), i64::from(size.width), 3])?;
        let out = session.output("unsafe", &[1])?;
        Ok(Self { session, frame, out, last: vec![0; 3 * size.pixels() as usize] })
    }

    /// How unsafe `picture` is, 0 to 1.
    fn score(&mut self, picture: &[u8]) -> Result<f32, InferenceError> {
        let mut score = [0.0];
        self.session.run(&[self.frame.feed(picture)], &mut [self.out.fetch(&mut score)])?;
        Ok(score[0])
    }

    /// Puts the last good picture in the place of `picture` when that is as unsafe as `threshold` or more. True when it did. A
    /// picture that could not be judged is none that passed.
    pub fn check(&mut self, picture: &mut [u8], threshold: f32) -> Result<bool, InferenceError> {
        let score = self.score(picture)?;
        let passes = score < threshold;
        match passes {
            true => self.last.copy_from_slice(picture),
            false => picture.copy_from_slice(&self.last),
        }
        Ok(!passes)
    }

    /// Forgets the pictures that passed.
    pub fn reset(&mut self) {
        self.last.fill(0);
    }
}
