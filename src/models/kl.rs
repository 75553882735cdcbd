//! `AutoencoderKL` of diffusers: the full autoencoder of every family.

use serde_json::{Value, json};

use super::ModelError;
use super::fields::Fields;
use super::net::{Net, channels, fixed};
use crate::graph::{Conv, Interpolation, Tensor};

/// Epsilon of every normalisation.
const EPSILON: f32 = 1e-6;

/// A KL autoencoder.
#[derive(Clone, Debug, PartialEq)]
pub struct KlConfig {
    /// Channels of each level, finest first.
    pub channels: Vec<u64>,
    /// Residual layers of each level on the way down; one more on the way up.
    pub layers: u64,
    /// Channels of the latent.
    pub latent_channels: u64,
    /// Groups of the group normalisations.
    pub groups: u64,
    /// Factor from the encoder's result to the UNet's latent.
    pub scaling: f64,
    /// Whether half precision overflows in it.
    pub force_upcast: bool,
    quant: bool,
    post_quant: bool,
    attention: bool,
}

impl KlConfig {
    /// Reads the `config.json` of an `AutoencoderKL`.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first key that is wrong or asks for what is not built here.
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields(config);
        fields.only("act_fn", &[json!("silu"), json!("swish")])?;
        fields.only("in_channels", &[json!(3)])?;
        fields.only("out_channels", &[json!(3)])?;
        fields.only("shift_factor", &[json!(0), json!(0.0)])?;
        fields.only("latents_mean", &[])?;
        fields.only("latents_std", &[])?;
        let channels = fields.list("block_out_channels")?;
        for (key, kind) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            let kinds = fields.texts(key)?;
            if kinds.len() != channels.len() || kinds.iter().any(|&other| other != kind) {
                return Err(ModelError::config(key, format!("{} of {kind} are needed", channels.len())));
            }
        }
        let groups = fields.count_or("norm_num_groups", 32)?;
        if groups == 0 || channels.iter().any(|channels| channels % groups != 0) {
            return Err(ModelError::config("norm_num_groups", format!("{groups} groups do not divide {channels:?}")));
        }
        Ok(Self {
            channels,
            layers: fields.layers_or("layers_per_block", 1, 1)?[0],
            latent_channels: fields.count_or("latent_channels", 4)?,
            groups,
            scaling: fields.number_or("scaling_factor", 0.18215)?,
            force_upcast: fields.flag_or("force_upcast", true)?,
            quant: fields.flag_or("use_quant_conv", true)?,
            post_quant: fields.flag_or("use_post_quant_conv", true)?,
            attention: fields.flag_or("mid_block_add_attention", true)?,
        })
    }

    /// Pixels of the picture for one of the latent, on each side.
    pub fn reduction(&self) -> u64 {
        1 << (self.channels.len() - 1)
    }
}

/// The latent (N, 4, H / 8, W / 8) of `picture` (N, 3, H, W) in −1…1, not scaled: the distribution's mean plus its
/// deviation times `noise` (N, 4, H / 8, W / 8).
///
/// # Errors
/// [`ModelError`] when a weight is missing or the picture does not fit.
pub fn encode(net: &mut Net<'_>, config: &KlConfig, picture: &Tensor, noise: &Tensor) -> Result<Tensor, ModelError> {
    let picture = net.g.cast(picture, net.dtype())?;
    let moments = net.within("encoder", |net| {
        let mut x = net.conv3("conv_in", &picture, config.channels[0])?;
        for (level, &out) in config.channels.iter().enumerate() {
            net.within(&format!("down_blocks.{level}"), |net| {
                for layer in 0..config.layers {
                    x = net.within(&format!("resnets.{layer}"), |net| residual(net, config, &x, out))?;
                }
                if level + 1 < config.channels.len() {
                    // A row and a column of zeros at the far ends alone.
                    let how = Conv { stride: [2, 2], padding: [0, 0, 1, 1], ..Conv::default() };
                    x = net.within("downsamplers.0", |net| net.conv("conv", &x, out, 3, true, how))?;
                }
                Ok(())
            })?;
        }
        x = net.within("mid_block", |net| middle(net, config, &x))?;
        x = net.group_norm("conv_norm_out", &x, config.groups, EPSILON)?;
        x = net.g.silu(&x)?;
        net.conv3("conv_out", &x, 2 * config.latent_channels)
    })?;
    let moments = match config.quant {
        true => net.conv1("quant_conv", &moments, 2 * config.latent_channels)?,
        false => moments,
    };
    let halves = net.g.split(&moments, 1, &[config.latent_channels, config.latent_channels])?;
    let [mean, log_variance] = halves.as_slice() else {
        return Err(ModelError::config("latent_channels", "two halves are needed"));
    };
    let mean = net.g.cast(mean, noise.dtype())?;
    let log_variance = net.g.cast(log_variance, noise.dtype())?;
    let log_variance = net.g.clip(&log_variance, -30.0, 20.0)?;
    let half = net.g.mul_scalar(&log_variance, 0.5)?;
    let deviation = net.g.exp(&half)?;
    let spread = net.g.mul(&deviation, noise)?;
    Ok(net.g.add(&mean, &spread)?)
}

/// The picture (N, 3, 8 h, 8 w) of `latent` (N, 4, h, w), nominally in −1…1 and not clipped.
///
/// # Errors
/// [`ModelError`] when a weight is missing or the latent does not fit.
pub fn decode(net: &mut Net<'_>, config: &KlConfig, latent: &Tensor) -> Result<Tensor, ModelError> {
    let latent = net.g.cast(latent, net.dtype())?;
    let latent = match config.post_quant {
        true => net.conv1("post_quant_conv", &latent, config.latent_channels)?,
        false => latent,
    };
    net.within("decoder", |net| {
        let coarsest = config.channels.len() - 1;
        let mut x = net.conv3("conv_in", &latent, config.channels[coarsest])?;
        x = net.within("mid_block", |net| middle(net, config, &x))?;
        for (step, &out) in config.channels.iter().rev().enumerate() {
            net.within(&format!("up_blocks.{step}"), |net| {
                for layer in 0..=config.layers {
                    x = net.within(&format!("resnets.{layer}"), |net| residual(net, config, &x, out))?;
                }
                if step < coarsest {
                    let (height, width) = (2 * fixed(&x, 2)?, 2 * fixed(&x, 3)?);
                    let large = net.g.resize(&x, height, width, Interpolation::Nearest)?;
                    x = net.within("upsamplers.0", |net| net.conv3("conv", &large, out))?;
                }
                Ok(())
            })?;
        }
        x = net.group_norm("conv_norm_out", &x, config.groups, EPSILON)?;
        x = net.g.silu(&x)?;
        net.conv3("conv_out", &x, 3)
    })
}

fn residual(net: &mut Net<'_>, config: &KlConfig, x: &Tensor, out: u64) -> Result<Tensor, ModelError> {
    let hidden = net.group_norm("norm1", x, config.groups, EPSILON)?;
    let hidden = net.g.silu(&hidden)?;
    let hidden = net.conv3("conv1", &hidden, out)?;
    let hidden = net.group_norm("norm2", &hidden, config.groups, EPSILON)?;
    let hidden = net.g.silu(&hidden)?;
    let hidden = net.conv3("conv2", &hidden, out)?;
    let short = match channels(x)? == out {
        true => x.clone(),
        false => net.conv1("conv_shortcut", x, out)?,
    };
    Ok(net.g.add(&short, &hidden)?)
}

fn middle(net: &mut Net<'_>, config: &KlConfig, x: &Tensor) -> Result<Tensor, ModelError> {
    let out = channels(x)?;
    let mut x = net.within("resnets.0", |net| residual(net, config, x, out))?;
    if config.attention {
        x = net.within("attentions.0", |net| attention(net, config, &x))?;
    }
    net.within("resnets.1", |net| residual(net, config, &x, out))
}

/// Every pixel looks at every other, with one head.
fn attention(net: &mut Net<'_>, config: &KlConfig, x: &Tensor) -> Result<Tensor, ModelError> {
    let (rows, width, height) = (fixed(x, 0)? as i64, channels(x)?, fixed(x, 2)? as i64);
    let hidden = net.group_norm("group_norm", x, config.groups, EPSILON)?;
    let tokens = net.g.transpose(&hidden, &[0, 2, 3, 1])?;
    let tokens = net.g.reshape(&tokens, &[-1, width as i64])?;
    // Files from before diffusers 0.18 have other names for the same.
    let [to_q, to_k, to_v, to_out] = match net.has("query.weight") {
        true => ["query", "key", "value", "proj_attn"],
        false => ["to_q", "to_k", "to_v", "to_out.0"],
    };
    let query = net.linear(to_q, &tokens, width, true)?;
    let key = net.linear(to_k, &tokens, width, true)?;
    let value = net.linear(to_v, &tokens, width, true)?;
    let query = net.g.reshape(&query, &[rows, -1, width as i64])?;
    let key = net.g.reshape(&key, &[rows, -1, width as i64])?;
    let key = net.g.transpose(&key, &[0, 2, 1])?;
    let value = net.g.reshape(&value, &[rows, -1, width as i64])?;
    let query = net.g.mul_scalar(&query, 1.0 / (width as f64).sqrt())?;
    let scores = net.g.matmul(&query, &key)?;
    let weights = net.g.softmax(&scores, -1)?;
    let mixed = net.g.matmul(&weights, &value)?;
    let mixed = net.g.reshape(&mixed, &[-1, width as i64])?;
    let mixed = net.linear(to_out, &mixed, width, true)?;
    let mixed = net.g.reshape(&mixed, &[rows, height, -1, width as i64])?;
    let mixed = net.g.transpose(&mixed, &[0, 3, 1, 2])?;
    Ok(net.g.add(&mixed, x)?)
}
