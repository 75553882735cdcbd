//! The parts of a frame as graphs of their own, to see what each of them costs.

use super::{Asked, Mode, Predictors, Sources, StreamConfig, bytes, decode, encode, predict};
use crate::graph::{DType, GraphBuilder, Model};
use crate::models::ModelError;
use crate::models::hint::{self, Hint};

/// A part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// `frame` u8 (F, H, W, 3) to `latent` f32 (F, 4, h, w).
    Encode,
    /// `sample` f32 (R, 4, h, w) with the prompt to `prediction` f32 (R, 4, h, w): the UNet and the ControlNets, whose
    /// condition pictures are made of `frame` where it has to be there.
    Predict,
    /// `x0` f32 (F, 4, h, w) to `frame_out` u8 (F, H, W, 3).
    Decode,
}

impl Stage {
    /// All, in the order of a frame.
    pub const ALL: [Self; 3] = [Self::Encode, Self::Predict, Self::Decode];

    /// The part's output.
    pub fn output(self) -> &'static str {
        match self {
            Stage::Encode => "latent",
            Stage::Predict => "prediction",
            Stage::Decode => "frame_out",
        }
    }
}

/// The graph of one part of the frame that `config` describes.
///
/// # Errors
/// As [`super::build`].
pub fn stage(config: &StreamConfig, sources: Sources<'_>, stage: Stage) -> Result<Model, ModelError> {
    config.check()?;
    let mut builder = GraphBuilder::new("stage");
    let g = &mut builder;
    let [h, w] = config.latent();
    let (frames, rows, channels) = (config.frame_buffer, config.rows(), config.unet.out_channels);
    let out = match stage {
        Stage::Encode if config.mode == Mode::Text => return Err(ModelError::config("mode", "no picture goes in")),
        Stage::Encode => {
            let frame = g.input("frame", DType::U8, [frames, config.height, config.width, 3])?;
            let x = g.scope("frame", |g| hint::planes(g, &frame))?;
            encode(g, config, sources.vae, &x)?
        }
        Stage::Predict => {
            let sample = g.input("sample", DType::F32, [rows, channels, h, w])?;
            let asked = Asked::inputs(g, config)?;
            let hinted = config.controls.iter().any(|control| control.hint != Hint::Given);
            let frame = match hinted {
                true => Some(g.input("frame", DType::U8, [frames, config.height, config.width, 3])?),
                false => None,
            };
            let Sources { unet, controls, depth, adapter, .. } = sources;
            let people = if config.has_people() { Some(super::people(g, config.frame_buffer)?) } else { None };
            let predictors = Predictors { unet, controls, depth, adapter };
            predict(g, config, predictors, [frame.as_ref(), people.as_ref()], &asked, &sample)?
        }
        Stage::Decode => {
            let x0 = g.input("x0", DType::F32, [frames, channels, h, w])?;
            let image = decode(g, config, sources.vae, &x0)?;
            g.scope("frame_out", |g| bytes(g, &image))?
        }
    };
    g.output(stage.output(), &out)?;
    Ok(builder.finish()?)
}
