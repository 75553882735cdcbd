//! IP-Adapters of the regular kind: a picture beside the prompt. Its embedding becomes a few tokens, and every layer that
//! looks at the prompt looks at them too, by matrices of its own; what it sees there is multiplied by a live scale and added.

mod files;
mod strength;

use serde_json::Value;

pub use files::{Files, REPOSITORY};
pub use strength::WeightType;

use super::net::{Net, fixed};
use super::unet::UnetConfig;
use super::vision::{self, VisionConfig};
use super::weights::Weights;
use super::{ModelError, Source};
use crate::graph::{DType, GraphBuilder, Model, Tensor};

/// Epsilon of the normalisation behind the projection.
const EPSILON: f32 = 1e-5;

/// An adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterConfig {
    /// Tokens that a picture becomes, T.
    pub tokens: u64,
    /// Features of each, those of the prompt's tokens, D.
    pub width: u64,
    /// Features of the picture's embedding.
    pub embedding: u64,
}

impl AdapterConfig {
    /// What the weights of an adapter say of it.
    ///
    /// # Errors
    /// [`ModelError::Config`] for an adapter of another kind, or none.
    pub fn of(weights: &Weights) -> Result<Self, ModelError> {
        let wrong = |reason: &str| ModelError::config("ip_adapter", format!("{}: {reason}", weights.place().display()));
        if weights.has("ip_adapter.0.to_q_lora.down.weight") {
            return Err(wrong("an adapter of the kind FaceID, which is not built here"));
        }
        if weights.has("image_proj.latents") {
            return Err(wrong("an adapter of the kind plus, which is not built here; the regular one is"));
        }
        let (proj, norm) = (weights.shape("image_proj.proj.weight"), weights.shape("image_proj.norm.weight"));
        match (proj.as_deref(), norm.as_deref()) {
            (Some(&[all, embedding]), Some(&[width]))
                if width > 0 && all > 0 && all % width == 0 && all / width <= 64 =>
            {
                Ok(Self { tokens: all / width, width, embedding })
            }
            _ => Err(wrong("no IP-Adapter: image_proj.proj.weight and image_proj.norm.weight are expected")),
        }
    }
}

/// The tokens (B, T, D) of `embeddings` (B, E).
///
/// # Errors
/// [`ModelError`] when a weight is missing.
pub fn project(net: &mut Net<'_>, config: &AdapterConfig, embeddings: &Tensor) -> Result<Tensor, ModelError> {
    let AdapterConfig { tokens, width, embedding } = *config;
    if fixed(embeddings, 1)? != embedding {
        let reason =
            format!("the adapter takes {embedding} features of a picture, not those of {}", embeddings.shape());
        return Err(ModelError::config("projection_dim", reason));
    }
    net.within("image_proj", |net| {
        let wide = net.linear("proj", embeddings, tokens * width, true)?;
        let wide = net.g.reshape(&wide, &[-1, tokens as i64, width as i64])?;
        net.layer_norm("norm", &wide, EPSILON)
    })
}

/// The graph from a picture to its tokens: `picture` f32 (1, 3, size, size) in, `tokens` f32 (2, T, D) out. Row 0 stands for
/// no picture: it is made of an embedding of zeros, and goes with the negative prompt. Row 1 is the picture's.
///
/// # Errors
/// [`ModelError`] when encoder and adapter do not fit, or a weight is missing.
pub fn graph(
    vision: &VisionConfig,
    encoder: &mut dyn Source,
    config: &AdapterConfig,
    adapter: &mut dyn Source,
    dtype: DType,
) -> Result<Model, ModelError> {
    let mut g = GraphBuilder::new("image_encoder");
    let picture = g.input("picture", DType::F32, [1, 3, vision.size, vision.size])?;
    let embedding = vision::build(&mut Net::new(&mut g, encoder, dtype), vision, &picture)?;
    let nothing = g.mul_scalar(&embedding, 0.0)?;
    let both = g.concat(&[&nothing, &embedding], 0)?;
    let tokens = project(&mut Net::new(&mut g, adapter, dtype), config, &both)?;
    let tokens = g.cast(&tokens, DType::F32)?;
    g.output("tokens", &tokens)?;
    Ok(g.finish()?)
}

/// A layer of a UNet that looks at the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its width.
    pub width: u64,
    /// The transformer that it belongs to, counted in the order in which they run: down, middle, up.
    pub transformer: usize,
}

/// The layers of a UNet in the order of an adapter's file, which is that of diffusers: down, up, middle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    all: Vec<Layer>,
    /// Those of the middle, which run before those of the way up and stand behind them.
    middle: usize,
    /// Those of the way down.
    down: usize,
    transformers: usize,
}

impl Layers {
    /// The layers of the UNet of `config`.
    pub fn of(config: &UnetConfig) -> Self {
        let trunk = &config.trunk;
        let mut transformers = 0;
        let mut push = |all: &mut Vec<Layer>, level: usize, depth: Option<u64>, count: u64| {
            let Some(depth) = depth else { return };
            for _ in 0..count {
                let layer = Layer { width: trunk.channels[level], transformer: transformers };
                all.extend(std::iter::repeat_n(layer, depth as usize));
                transformers += 1;
            }
        };
        let (mut all, mut middle) = (Vec::new(), Vec::new());
        for (level, depth) in trunk.down_attention.iter().enumerate() {
            push(&mut all, level, *depth, trunk.layers[level]);
        }
        let (down, last) = (all.len(), trunk.channels.len() - 1);
        push(&mut middle, last, trunk.mid_attention.filter(|_| trunk.has_mid), 1);
        for (step, depth) in config.up_attention.iter().enumerate() {
            let level = last - step;
            push(&mut all, level, *depth, trunk.layers[level] + 1);
        }
        let count = middle.len();
        all.extend(middle);
        Self { all, middle: count, down, transformers }
    }

    /// How many there are, L.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Places in the file, in the order in which the layers run.
    fn running(&self) -> impl Iterator<Item = usize> {
        let behind = self.all.len() - self.middle;
        (0..self.down).chain(behind..self.all.len()).chain(self.down..behind)
    }
}

/// What the layers of a UNet look at beside the prompt, each when its turn comes.
pub struct Images {
    pub(super) layers: std::collections::VecDeque<Image>,
    /// Tokens of each row.
    pub(super) length: u64,
}

/// What one layer looks at.
pub(super) struct Image {
    /// (R · T, width).
    pub key: Tensor,
    /// (R · T, width).
    pub value: Tensor,
    /// (R, 1, 1, 1).
    pub scale: Tensor,
}

/// What the layers of the UNet of `config` look at: `tokens` (R, T, D), by the adapter's matrices, times `scales` (R, L).
///
/// # Errors
/// [`ModelError`] when a weight is missing or the shapes do not fit.
pub fn images(net: &mut Net<'_>, config: &UnetConfig, tokens: &Tensor, scales: &Tensor) -> Result<Images, ModelError> {
    let layers = Layers::of(config);
    let (rows, length, width) = (fixed(tokens, 0)?, fixed(tokens, 1)?, fixed(tokens, 2)?);
    if width != config.trunk.context_dim {
        let reason = format!("{} features, the picture's tokens are {}", config.trunk.context_dim, tokens.shape());
        return Err(ModelError::config("cross_attention_dim", reason));
    }
    if [fixed(scales, 0)?, fixed(scales, 1)?] != [rows, layers.count() as u64] {
        let reason = format!("({rows}, {}) is needed, not {}", layers.count(), scales.shape());
        return Err(ModelError::config("ipadapter_scale", reason));
    }
    let tokens = net.g.cast(tokens, net.dtype())?;
    let flat = net.g.reshape(&tokens, &[-1, width as i64])?;
    let scales = net.g.cast(scales, net.dtype())?;
    let each = layers.running().map(|i| {
        let scale = net.g.slice(&scales, 1, i as i64, i as i64 + 1)?;
        let scale = net.g.reshape(&scale, &[rows as i64, 1, 1, 1])?;
        let width = layers.all[i].width;
        // Layers that look at pictures and at themselves are counted together; the former have the odd numbers.
        net.within(&format!("ip_adapter.{}", 2 * i + 1), |net| {
            let key = net.linear("to_k_ip", &flat, width, false)?;
            let value = net.linear("to_v_ip", &flat, width, false)?;
            Ok(Image { key, value, scale })
        })
    });
    let layers = each.collect::<Result<_, ModelError>>()?;
    Ok(Images { layers, length })
}

/// Checks that adapter and encoder belong together, and to a UNet with prompts of `width` features.
///
/// # Errors
/// [`ModelError::Config`].
pub fn check(adapter: &AdapterConfig, encoder: &Value, width: u64) -> Result<VisionConfig, ModelError> {
    let vision = VisionConfig::from_json(encoder)?;
    if vision.projection != adapter.embedding {
        let reason =
            format!("the encoder gives {} features, the adapter takes {}", vision.projection, adapter.embedding);
        return Err(ModelError::config("projection_dim", reason));
    }
    if width != adapter.width {
        let reason = format!("the adapter is for prompts of {} features, the model has {width}", adapter.width);
        return Err(ModelError::config("cross_attention_dim", reason));
    }
    Ok(vision)
}
