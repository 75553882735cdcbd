//! Residual layers, the way down, the middle, the way up.

use super::super::ModelError;
use super::super::net::{Net, channels, fixed};
use super::{Context, Trunk, UnetConfig, attention};
use crate::graph::{Conv, Interpolation, Tensor};

/// What every layer of a row looks at.
pub(in super::super) struct Conditions {
    /// The time embedding behind its activation, (R, [`Trunk::time_dim`]).
    pub time: Tensor,
    /// The prompt.
    pub context: Context,
}

/// The results of the way down: what the way up takes from it, finest first, and the middle.
pub struct Features {
    /// One for `conv_in`, each layer and each reduction.
    pub skips: Vec<Tensor>,
    /// The middle's result.
    pub middle: Tensor,
}

fn residual(net: &mut Net<'_>, trunk: &Trunk, x: &Tensor, time: &Tensor, out: u64) -> Result<Tensor, ModelError> {
    let hidden = net.group_norm("norm1", x, trunk.groups, trunk.epsilon)?;
    let hidden = net.g.silu(&hidden)?;
    let hidden = net.conv3("conv1", &hidden, out)?;
    let time = net.linear("time_emb_proj", time, out, true)?;
    let time = net.g.unsqueeze(&time, &[2, 3])?;
    let hidden = net.g.add(&hidden, &time)?;
    let hidden = net.group_norm("norm2", &hidden, trunk.groups, trunk.epsilon)?;
    let hidden = net.g.silu(&hidden)?;
    let hidden = net.conv3("conv2", &hidden, out)?;
    if channels(x)? == out {
        return Ok(net.g.add(x, &hidden)?);
    }
    let short = net.conv1("conv_shortcut", x, out)?;
    Ok(net.g.add(&short, &hidden)?)
}

/// The way down and the middle, from `x` (R, C₀, H, W) behind `conv_in`.
pub(in super::super) fn down(
    net: &mut Net<'_>,
    trunk: &Trunk,
    x: Tensor,
    conditions: &Conditions,
) -> Result<Features, ModelError> {
    let Conditions { time, context } = conditions;
    let mut skips = vec![x.clone()];
    let mut x = x;
    for (level, &out) in trunk.channels.iter().enumerate() {
        net.within(&format!("down_blocks.{level}"), |net| {
            for layer in 0..trunk.layers[level] {
                x = net.within(&format!("resnets.{layer}"), |net| residual(net, trunk, &x, time, out))?;
                if let Some(depth) = trunk.down_attention[level] {
                    x = net.within(&format!("attentions.{layer}"), |net| {
                        attention::transformer(net, trunk, &x, context, trunk.heads[level], depth)
                    })?;
                }
                skips.push(x.clone());
            }
            if level + 1 < trunk.channels.len() {
                x =
                    net.within("downsamplers.0", |net| net.conv("conv", &x, out, 3, true, Conv::padded(1).stride(2)))?;
                skips.push(x.clone());
            }
            Ok(())
        })?;
    }
    let middle = match trunk.has_mid {
        true => net.within("mid_block", |net| middle(net, trunk, &x, conditions))?,
        false => x,
    };
    Ok(Features { skips, middle })
}

fn middle(net: &mut Net<'_>, trunk: &Trunk, x: &Tensor, conditions: &Conditions) -> Result<Tensor, ModelError> {
    let Conditions { time, context } = conditions;
    let last = trunk.channels.len() - 1;
    let (out, heads) = (trunk.channels[last], trunk.heads[last]);
    let mut x = net.within("resnets.0", |net| residual(net, trunk, x, time, out))?;
    if let Some(depth) = trunk.mid_attention {
        x = net.within("attentions.0", |net| attention::transformer(net, trunk, &x, context, heads, depth))?;
    }
    net.within("resnets.1", |net| residual(net, trunk, &x, time, out))
}

/// The way up, to `x` (R, C₀, H, W) in front of `conv_norm_out`.
pub(super) fn up(
    net: &mut Net<'_>,
    config: &UnetConfig,
    features: Features,
    conditions: &Conditions,
) -> Result<Tensor, ModelError> {
    let trunk = &config.trunk;
    let Conditions { time, context } = conditions;
    let Features { mut skips, middle: mut x } = features;
    let levels = trunk.channels.len();
    for (step, depth) in config.up_attention.iter().enumerate() {
        let level = levels - 1 - step;
        let out = trunk.channels[level];
        net.within(&format!("up_blocks.{step}"), |net| {
            for layer in 0..=trunk.layers[level] {
                let Some(skip) = skips.pop() else {
                    return Err(ModelError::config("up_block_types", "more layers up than down"));
                };
                let both = net.g.concat(&[&x, &skip], 1)?;
                x = net.within(&format!("resnets.{layer}"), |net| residual(net, trunk, &both, time, out))?;
                if let Some(depth) = *depth {
                    x = net.within(&format!("attentions.{layer}"), |net| {
                        attention::transformer(net, trunk, &x, context, trunk.heads[level], depth)
                    })?;
                }
            }
            // The next level's size is that of what it takes from the way down, also where halving lost a pixel.
            if level > 0
                && let Some(next) = skips.last()
            {
                let (height, width) = (fixed(next, 2)?, fixed(next, 3)?);
                let large = net.g.resize(&x, height, width, Interpolation::Nearest)?;
                x = net.within("upsamplers.0", |net| net.conv3("conv", &large, out))?;
            }
            Ok(())
        })?;
    }
    Ok(x)
}
