//! `ControlNetModel` of diffusers: a copy of a UNet's way down that turns a condition picture into residuals.

use serde_json::{Value, json};

use super::ModelError;
use super::fields::Fields;
use super::hint::Hint;
use super::net::{Net, fixed};
use super::unet::{self, Question, Trunk};
use crate::graph::{Conv, DType, Tensor};

/// A ControlNet.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlNetConfig {
    /// The way down and the middle.
    pub trunk: Trunk,
    /// Channels of the condition picture.
    pub conditioning_channels: u64,
    /// Channels of the condition's own layers.
    pub embedding: Vec<u64>,
    /// Whether the condition picture is wanted blue first.
    pub bgr: bool,
    /// Where its condition picture comes from, which is no part of its `config.json`.
    pub hint: Hint,
}

/// What ControlNets add to a UNet.
pub struct Residuals {
    /// For every tensor that the way up takes from the way down, finest first.
    pub down: Vec<Tensor>,
    /// For the middle.
    pub middle: Tensor,
}

impl ControlNetConfig {
    /// Reads the `config.json` of a `ControlNetModel`.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first key that is wrong or asks for what is not built here.
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields(config);
        fields.only("global_pool_conditions", &[json!(false)])?;
        fields.only("controlnet_conditioning_channel_order", &[json!("rgb"), json!("bgr")])?;
        let trunk = Trunk::from_json(config)?;
        if !trunk.has_mid {
            return Err(ModelError::config("mid_block_type", "a ControlNet without a middle is not built here"));
        }
        Ok(Self {
            trunk,
            conditioning_channels: fields.count_or("conditioning_channels", 3)?,
            embedding: match fields.has("conditioning_embedding_out_channels") {
                true => fields.list("conditioning_embedding_out_channels")?,
                false => vec![16, 32, 96, 256],
            },
            bgr: fields.text("controlnet_conditioning_channel_order") == Some("bgr"),
            hint: Hint::Given,
        })
    }
}

/// The residuals for `question` under the condition pictures `condition` (F, C, H, W) in 0…1, each multiplied by `scale`
/// (1). Row i is under picture i mod F.
///
/// # Errors
/// [`ModelError`] when a weight is missing or an input does not fit.
pub fn build(
    net: &mut Net<'_>,
    config: &ControlNetConfig,
    question: &Question<'_>,
    condition: &Tensor,
    scale: &Tensor,
) -> Result<Residuals, ModelError> {
    let trunk = &config.trunk;
    if fixed(condition, 1)? != config.conditioning_channels {
        let reason = format!("{} channels, the picture is {}", config.conditioning_channels, condition.shape());
        return Err(ModelError::config("conditioning_channels", reason));
    }
    let conditions = unet::conditions(net, trunk, question)?;
    let sample = unet::enter(net, trunk, question)?;
    let sample = net.conv3("conv_in", &sample, trunk.channels[0])?;
    let hint = net.within("controlnet_cond_embedding", |net| embed(net, config, condition))?;
    let (rows, pictures) = (fixed(&sample, 0)?, fixed(&hint, 0)?);
    if pictures == 0 || rows % pictures != 0 {
        return Err(ModelError::config("controlnets", format!("{pictures} pictures for {rows} rows")));
    }
    let hint = match pictures {
        1 => hint,
        _ => net.g.concat(&vec![&hint; (rows / pictures) as usize], 0)?,
    };
    let sample = net.g.add(&sample, &hint)?;
    let features = unet::down(net, trunk, sample, &conditions)?;
    let scale = net.g.cast(scale, net.dtype())?;
    let mut down = Vec::with_capacity(features.skips.len());
    for (i, skip) in features.skips.iter().enumerate() {
        let width = fixed(skip, 1)?;
        let residual = net.within("controlnet_down_blocks", |net| net.conv1(&i.to_string(), skip, width))?;
        down.push(net.g.mul(&residual, &scale)?);
    }
    let width = fixed(&features.middle, 1)?;
    let middle = net.conv1("controlnet_mid_block", &features.middle, width)?;
    let middle = net.g.mul(&middle, &scale)?;
    Ok(Residuals { down, middle })
}

/// The residuals of several ControlNets, summed; `None` for none.
///
/// # Errors
/// [`ModelError`] when they belong to UNets of different shapes.
pub fn sum(net: &mut Net<'_>, all: Vec<Residuals>) -> Result<Option<Residuals>, ModelError> {
    let mut all = all.into_iter();
    let Some(mut total) = all.next() else { return Ok(None) };
    for next in all {
        if next.down.len() != total.down.len() {
            return Err(ModelError::config("controlnet", "ControlNets of different families"));
        }
        for (sum, residual) in total.down.iter_mut().zip(&next.down) {
            *sum = net.g.add(sum, residual)?;
        }
        total.middle = net.g.add(&total.middle, &next.middle)?;
    }
    Ok(Some(total))
}

/// The condition picture as features of the latent's size.
fn embed(net: &mut Net<'_>, config: &ControlNetConfig, condition: &Tensor) -> Result<Tensor, ModelError> {
    let mut x = condition.clone();
    if config.bgr {
        let order: Vec<i64> = (0..config.conditioning_channels as i64).rev().collect();
        let order = net.g.ints([config.conditioning_channels], &order)?;
        x = net.g.gather(&x, &order, 1)?;
    }
    x = net.g.cast(&x, net.dtype())?;
    x = net.conv3("conv_in", &x, config.embedding[0])?;
    x = net.g.silu(&x)?;
    for (i, pair) in config.embedding.windows(2).enumerate() {
        let &[from, to] = pair else { continue };
        x = net.within("blocks", |net| {
            let same = net.conv3(&(2 * i).to_string(), &x, from)?;
            let same = net.g.silu(&same)?;
            let half = net.conv(&(2 * i + 1).to_string(), &same, to, 3, true, Conv::padded(1).stride(2))?;
            Ok(net.g.silu(&half)?)
        })?;
    }
    net.conv3("conv_out", &x, config.trunk.channels[0])
}

/// A condition picture of bytes (F, H, W, C) as (F, C, H, W) in 0…1, `f32`.
///
/// # Errors
/// [`ModelError`] when the shape is not that.
pub fn condition(net: &mut Net<'_>, picture: &Tensor) -> Result<Tensor, ModelError> {
    let x = net.g.cast(picture, DType::F32)?;
    let x = net.g.transpose(&x, &[0, 3, 1, 2])?;
    Ok(net.g.div_scalar(&x, 255.0)?)
}
