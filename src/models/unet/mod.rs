//! `UNet2DConditionModel` of diffusers: the families of SD 1.x, SD 2.x (sd-turbo) and SDXL (sdxl-turbo).

mod attention;
mod blocks;
mod config;

use super::ip_adapter::Images;
use super::net::{Net, channels, fixed};
use super::{ModelError, controlnet};
use crate::graph::{DType, Tensor};

pub use attention::Context;
pub use blocks::Features;
pub(super) use blocks::{Conditions, down};
pub use config::{Addition, Trunk, UnetConfig};

/// SDXL's further conditioning, for every row.
pub struct Added<'a> {
    /// Pooled text, (R, [`Trunk::pooled_dim`]).
    pub text_embeds: &'a Tensor,
    /// Original height and width, top and left of the crop, target height and width, in pixels: (R, 6).
    pub time_ids: &'a Tensor,
}

/// What a UNet or a ControlNet is asked.
pub struct Question<'a> {
    /// Noisy latents, (R, 4, H / 8, W / 8).
    pub sample: &'a Tensor,
    /// Timesteps of the rows, 0–999, `f32` (R).
    pub timestep: &'a Tensor,
    /// Prompt embeddings, (R, 77, D).
    pub encoder_hidden_states: &'a Tensor,
    /// For models with an [`Addition`].
    pub added: Option<Added<'a>>,
}

/// The prediction for `question`, of the sample's shape, in the type of the activations. `residuals` come from
/// ControlNets.
///
/// # Errors
/// [`ModelError`] when a weight is missing or an input does not fit.
pub fn build(
    net: &mut Net<'_>,
    config: &UnetConfig,
    question: &Question<'_>,
    residuals: Option<&controlnet::Residuals>,
) -> Result<Tensor, ModelError> {
    build_beside(net, config, question, residuals, None)
}

/// As [`build`], with an IP-Adapter's pictures beside the prompt.
///
/// # Errors
/// As there.
pub fn build_beside(
    net: &mut Net<'_>,
    config: &UnetConfig,
    question: &Question<'_>,
    residuals: Option<&controlnet::Residuals>,
    images: Option<Images>,
) -> Result<Tensor, ModelError> {
    let trunk = &config.trunk;
    let mut conditions = conditions(net, trunk, question)?;
    if let Some(images) = images {
        conditions.context = conditions.context.beside(images);
    }
    let sample = enter(net, trunk, question)?;
    let sample = net.conv3("conv_in", &sample, trunk.channels[0])?;
    let mut features = down(net, trunk, sample, &conditions)?;
    if let Some(residuals) = residuals {
        if residuals.down.len() != features.skips.len() {
            let reason = format!("{} residuals for {} layers", residuals.down.len(), features.skips.len());
            return Err(ModelError::config("controlnet", reason));
        }
        for (skip, residual) in features.skips.iter_mut().zip(&residuals.down) {
            *skip = net.g.add(skip, residual)?;
        }
        features.middle = net.g.add(&features.middle, &residuals.middle)?;
    }
    let x = blocks::up(net, config, features, &conditions)?;
    conditions.context.finish()?;
    let x = net.group_norm("conv_norm_out", &x, trunk.groups, trunk.epsilon)?;
    let x = net.g.silu(&x)?;
    net.conv3("conv_out", &x, config.out_channels)
}

/// The sample in the type of the activations, checked against the configuration.
pub(super) fn enter(net: &mut Net<'_>, trunk: &Trunk, question: &Question<'_>) -> Result<Tensor, ModelError> {
    if channels(question.sample)? != trunk.in_channels {
        let reason = format!("{} channels are needed, the sample is {}", trunk.in_channels, question.sample.shape());
        return Err(ModelError::config("in_channels", reason));
    }
    Ok(net.g.cast(question.sample, net.dtype())?)
}

/// Time, size and prompt as the layers want them.
pub(super) fn conditions(net: &mut Net<'_>, trunk: &Trunk, question: &Question<'_>) -> Result<Conditions, ModelError> {
    let time = net.within("time_proj", |net| {
        sinusoids(net, question.timestep, trunk.channels[0], trunk.flip_sin_to_cos, trunk.freq_shift)
    })?;
    let mut time = net.within("time_embedding", |net| embedding(net, &time, trunk.time_dim()))?;
    match (&trunk.addition, &question.added) {
        (None, None) => {}
        (Some(addition), Some(added)) => {
            let size = net.within("add_time_proj", |net| {
                let rows = fixed(added.time_ids, 0)? as i64;
                let flat = net.g.reshape(added.time_ids, &[-1])?;
                let waves = sinusoids(net, &flat, addition.time_dim, trunk.flip_sin_to_cos, trunk.freq_shift)?;
                Ok(net.g.reshape(&waves, &[rows, -1])?)
            })?;
            let text = net.g.cast(added.text_embeds, net.dtype())?;
            let both = net.g.concat(&[&text, &size], 1)?;
            if fixed(&both, 1)? != addition.input_dim {
                let reason = format!("{} features, not those of {}", addition.input_dim, both.shape());
                return Err(ModelError::config("projection_class_embeddings_input_dim", reason));
            }
            let both = net.within("add_embedding", |net| embedding(net, &both, trunk.time_dim()))?;
            time = net.g.add(&time, &both)?;
        }
        (Some(_), None) => return Err(ModelError::config("addition_embed_type", "pooled text and sizes are missing")),
        (None, Some(_)) => return Err(ModelError::config("addition_embed_type", "the model takes no pooled text")),
    }
    let time = net.g.silu(&time)?;
    if fixed(question.encoder_hidden_states, 2)? != trunk.context_dim {
        let reason =
            format!("{} features, the prompt is {}", trunk.context_dim, question.encoder_hidden_states.shape());
        return Err(ModelError::config("cross_attention_dim", reason));
    }
    let context = Context::new(net, question.encoder_hidden_states)?;
    Ok(Conditions { time, context })
}

/// Sines and cosines of `numbers` (n) at `features` / 2 frequencies, (n, `features`); computed in `f32`.
fn sinusoids(
    net: &mut Net<'_>,
    numbers: &Tensor,
    features: u64,
    cosines_first: bool,
    shift: f32,
) -> Result<Tensor, ModelError> {
    let half = features / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|i| (-(10_000_f64.ln() as f32) * i as f32 / (half as f32 - shift)).exp()).collect();
    let frequencies = net.g.floats(DType::F32, [1, half], &frequencies)?;
    let numbers = net.g.cast(numbers, DType::F32)?;
    let numbers = net.g.unsqueeze(&numbers, &[1])?;
    let angles = net.g.mul(&numbers, &frequencies)?;
    let (sines, cosines) = (net.g.sin(&angles)?, net.g.cos(&angles)?);
    let waves = match cosines_first {
        true => net.g.concat(&[&cosines, &sines], 1)?,
        false => net.g.concat(&[&sines, &cosines], 1)?,
    };
    Ok(net.g.cast(&waves, net.dtype())?)
}

fn embedding(net: &mut Net<'_>, x: &Tensor, width: u64) -> Result<Tensor, ModelError> {
    let x = net.linear("linear_1", x, width, true)?;
    let x = net.g.silu(&x)?;
    net.linear("linear_2", &x, width, true)
}
