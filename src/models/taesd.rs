//! `AutoencoderTiny` of diffusers: TAESD for SD 1.x and 2.x, TAESDXL for SDXL.

use serde_json::{Value, json};

use super::ModelError;
use super::fields::Fields;
use super::net::{Net, fixed};
use crate::graph::{Conv, Interpolation, Tensor};

/// A tiny autoencoder.
#[derive(Clone, Debug, PartialEq)]
pub struct TaesdConfig {
    /// Channels of each of the encoder's levels, finest first.
    pub encoder_channels: Vec<u64>,
    /// Residual blocks of each.
    pub encoder_blocks: Vec<u64>,
    /// Channels of each of the decoder's levels, coarsest first.
    pub decoder_channels: Vec<u64>,
    /// Residual blocks of each.
    pub decoder_blocks: Vec<u64>,
    /// Channels of the latent.
    pub latent_channels: u64,
    /// Factor from the encoder's result to the UNet's latent.
    pub scaling: f64,
}

impl TaesdConfig {
    /// Reads the `config.json` of an `AutoencoderTiny`.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first key that is wrong or asks for what is not built here.
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields(config);
        fields.only("act_fn", &[json!("relu")])?;
        fields.only("upsampling_scaling_factor", &[json!(2)])?;
        fields.only("upsample_fn", &[json!("nearest")])?;
        fields.only("in_channels", &[json!(3)])?;
        fields.only("out_channels", &[json!(3)])?;
        let list = |key: &str, default: &[u64]| match fields.has(key) {
            true => fields.list(key),
            false => Ok(default.to_vec()),
        };
        let layers = |key: &str, default: &[u64]| match fields.has(key) {
            true => fields.layers_or(key, fields.list(key)?.len(), 1),
            false => Ok(default.to_vec()),
        };
        let tiny = Self {
            encoder_channels: list("encoder_block_out_channels", &[64; 4])?,
            encoder_blocks: layers("num_encoder_blocks", &[1, 3, 3, 3])?,
            decoder_channels: list("decoder_block_out_channels", &[64; 4])?,
            decoder_blocks: layers("num_decoder_blocks", &[3, 3, 3, 1])?,
            latent_channels: fields.count_or("latent_channels", 4)?,
            scaling: fields.number_or("scaling_factor", 1.0)?,
        };
        if tiny.encoder_blocks.len() != tiny.encoder_channels.len() {
            return Err(ModelError::config("num_encoder_blocks", "another number of levels than the channels"));
        }
        if tiny.decoder_blocks.len() != tiny.decoder_channels.len() {
            return Err(ModelError::config("num_decoder_blocks", "another number of levels than the channels"));
        }
        Ok(tiny)
    }

    /// Pixels of the picture for one of the latent, on each side.
    pub fn reduction(&self) -> u64 {
        1 << (self.encoder_channels.len() - 1)
    }
}

/// The latent (N, 4, H / 8, W / 8) of `picture` (N, 3, H, W) in 0…1, not scaled.
///
/// # Errors
/// [`ModelError`] when a weight is missing or the picture does not fit.
pub fn encode(net: &mut Net<'_>, config: &TaesdConfig, picture: &Tensor) -> Result<Tensor, ModelError> {
    let mut x = net.g.cast(picture, net.dtype())?;
    net.within("encoder.layers", |net| {
        let mut at = Layer(0);
        for (level, (&width, &blocks)) in config.encoder_channels.iter().zip(&config.encoder_blocks).enumerate() {
            x = match level {
                0 => net.conv3(&at.next(), &x, width)?,
                _ => net.conv(&at.next(), &x, width, 3, false, Conv::padded(1).stride(2))?,
            };
            for _ in 0..blocks {
                x = net.within(&at.next(), |net| block(net, &x, width))?;
            }
        }
        net.conv3(&at.next(), &x, config.latent_channels)
    })
}

/// The picture (N, 3, 8 h, 8 w) of `latent` (N, 4, h, w), nominally in 0…1 and not clipped.
///
/// # Errors
/// [`ModelError`] when a weight is missing or the latent does not fit.
pub fn decode(net: &mut Net<'_>, config: &TaesdConfig, latent: &Tensor) -> Result<Tensor, ModelError> {
    let bounded = net.g.div_scalar(latent, 3.0)?;
    let bounded = net.g.tanh(&bounded)?;
    let bounded = net.g.mul_scalar(&bounded, 3.0)?;
    let mut x = net.g.cast(&bounded, net.dtype())?;
    net.within("decoder.layers", |net| {
        let mut at = Layer(0);
        x = net.conv3(&at.next(), &x, config.decoder_channels[0])?;
        x = net.g.relu(&x)?;
        at.next();
        let last = config.decoder_channels.len() - 1;
        for (level, (&width, &blocks)) in config.decoder_channels.iter().zip(&config.decoder_blocks).enumerate() {
            for _ in 0..blocks {
                x = net.within(&at.next(), |net| block(net, &x, width))?;
            }
            if level == last {
                return net.conv3(&at.next(), &x, 3);
            }
            at.next();
            let (height, across) = (2 * fixed(&x, 2)?, 2 * fixed(&x, 3)?);
            x = net.g.resize(&x, height, across, Interpolation::Nearest)?;
            x = net.conv(&at.next(), &x, width, 3, false, Conv::padded(1))?;
        }
        Ok(x)
    })
}

fn block(net: &mut Net<'_>, x: &Tensor, width: u64) -> Result<Tensor, ModelError> {
    let mut hidden = x.clone();
    for layer in ["conv.0", "conv.2", "conv.4"] {
        if layer != "conv.0" {
            hidden = net.g.relu(&hidden)?;
        }
        hidden = net.conv3(layer, &hidden, width)?;
    }
    let skip = match fixed(x, 1)? == width {
        true => x.clone(),
        false => net.conv("skip", x, width, 1, false, Conv::padded(0))?,
    };
    let both = net.g.add(&hidden, &skip)?;
    Ok(net.g.relu(&both)?)
}

/// Counts the layers of a sequence, those without weights too.
struct Layer(u32);

impl Layer {
    fn next(&mut self) -> String {
        let name = self.0.to_string();
        self.0 += 1;
        name
    }
}
