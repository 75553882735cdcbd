//! The text encoders of CLIP: `CLIPTextModel` and `CLIPTextModelWithProjection` of transformers.

use serde_json::{Value, json};

use super::fields::Fields;
use super::net::{Net, fixed};
use super::{ModelError, Source};
use crate::graph::{DType, GraphBuilder, Model, Tensor};

/// A text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Width of a token's state.
    pub hidden: u64,
    /// Width inside the feed-forward layers.
    pub intermediate: u64,
    /// Transformer layers.
    pub layers: u64,
    /// Heads of the attention.
    pub heads: u64,
    /// Between the feed-forward layers.
    pub activation: Activation,
    /// In the normalisations.
    pub epsilon: f32,
    /// The longest text in tokens.
    pub positions: u64,
    /// Size of the vocabulary.
    pub vocabulary: u64,
    /// Width of the pooled embedding, where there is one.
    pub projection: Option<u64>,
}

/// What stands between the feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(1.702 x)`, of CLIP ViT-L.
    QuickGelu,
    /// The exact one, of OpenCLIP.
    Gelu,
}

impl Activation {
    pub(super) fn from_fields(fields: Fields<'_>) -> Result<Self, ModelError> {
        match fields.text("hidden_act").unwrap_or("quick_gelu") {
            "quick_gelu" => Ok(Self::QuickGelu),
            "gelu" => Ok(Self::Gelu),
            other => Err(ModelError::config("hidden_act", format!("{other} is not built here"))),
        }
    }
}

/// Which states are the embedding of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// Those behind the last layer, normalised: SD 1.x and 2.x. (The encoder of SD 2.x as diffusers keeps it ends one layer
    /// early.)
    Last,
    /// Those before the last layer, not normalised: SDXL.
    Penultimate,
    /// Those before the last so many layers, normalised as the last ones are, or not.
    Early {
        /// Layers that are left out, 0 for none.
        skip: u64,
        /// Whether the final normalisation is applied.
        normalised: bool,
    },
}

/// What a text encoder makes of a text.
pub struct Encoded {
    /// (B, T, hidden).
    pub states: Tensor,
    /// (B, projection), of encoders that have a projection.
    pub pooled: Option<Tensor>,
}

impl ClipConfig {
    /// Reads the `config.json` of a `CLIPTextModel` or a `CLIPTextModelWithProjection`.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first key that is wrong or asks for what is not built here.
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields(config);
        let activation = Activation::from_fields(fields)?;
        let with_projection = config
            .get("architectures")
            .and_then(Value::as_array)
            .is_some_and(|all| all.contains(&json!("CLIPTextModelWithProjection")));
        let clip = Self {
            hidden: fields.count_or("hidden_size", 512)?,
            intermediate: fields.count_or("intermediate_size", 2048)?,
            layers: fields.count_or("num_hidden_layers", 12)?,
            heads: fields.count_or("num_attention_heads", 8)?,
            activation,
            epsilon: fields.number_or("layer_norm_eps", 1e-5)? as f32,
            positions: fields.count_or("max_position_embeddings", 77)?,
            vocabulary: fields.count_or("vocab_size", 49408)?,
            projection: if with_projection { Some(fields.count_or("projection_dim", 512)?) } else { None },
        };
        clip.check()?;
        Ok(clip)
    }

    pub(super) fn check(&self) -> Result<(), ModelError> {
        if self.heads == 0 || !self.hidden.is_multiple_of(self.heads) {
            let reason = format!("{} heads do not divide a width of {}", self.heads, self.hidden);
            return Err(ModelError::config("num_attention_heads", reason));
        }
        if !(1..=256).contains(&self.layers) {
            return Err(ModelError::config("num_hidden_layers", format!("{} layers", self.layers)));
        }
        Ok(())
    }
}

/// The embedding of `ids`, i64 (B, T). The pooled one is made where the encoder has a projection and `ends`, i64 (B), say
/// where the texts' first end marks stand.
///
/// # Errors
/// [`ModelError`] when a weight is missing or the text is longer than the model's longest.
pub fn build(
    net: &mut Net<'_>,
    config: &ClipConfig,
    ids: &Tensor,
    ends: Option<&Tensor>,
    hidden: Hidden,
) -> Result<Encoded, ModelError> {
    let size = Size { batch: fixed(ids, 0)?, tokens: fixed(ids, 1)? };
    if size.tokens > config.positions {
        let reason = format!("{} tokens, the model has {}", size.tokens, config.positions);
        return Err(ModelError::config("max_position_embeddings", reason));
    }
    let (skip, normalised) = match hidden {
        Hidden::Last => (0, true),
        Hidden::Penultimate => (1, false),
        Hidden::Early { skip, normalised } => (skip, normalised),
    };
    let Some(kept) = config.layers.checked_sub(skip).filter(|&kept| kept > 0) else {
        let reason = format!("{} layers, of which the last {skip} would be left out", config.layers);
        return Err(ModelError::config("num_hidden_layers", reason));
    };
    let (states, last) = net.within("text_model", |net| {
        let mut x = net.within("embeddings", |net| embed(net, config, size, ids))?;
        let mask = mask(net, size.tokens)?;
        // Nothing but the pooled embedding needs the layers behind the state that is asked for.
        let pools = config.projection.is_some() && ends.is_some();
        let mut state = x.clone();
        for i in 0..if pools { config.layers } else { kept } {
            x = net.within(&format!("encoder.layers.{i}"), |net| layer(net, config, size, &x, Some(&mask)))?;
            if i + 1 == kept {
                state = x.clone();
            }
        }
        if !pools && !normalised {
            return Ok((state, None));
        }
        net.within("final_layer_norm", |net| {
            // One set of weights for both.
            let scale = net.weight("weight", &[config.hidden])?;
            let bias = net.weight("bias", &[config.hidden])?;
            let last = if pools { Some(net.g.layer_norm(&x, &scale, &bias, config.epsilon)?) } else { None };
            let state = match (normalised, skip, &last) {
                (false, ..) => state,
                (true, 0, Some(last)) => last.clone(),
                _ => net.g.layer_norm(&state, &scale, &bias, config.epsilon)?,
            };
            Ok((state, last))
        })
    })?;
    let pooled = match (config.projection, last, ends) {
        (Some(width), Some(last), Some(ends)) => {
            // Rows of all texts lie one behind another.
            let starts: Vec<i64> = (0..size.batch).map(|i| (i * size.tokens) as i64).collect();
            let starts = net.g.ints([size.batch], &starts)?;
            let rows = net.g.add(&starts, ends)?;
            let end = net.g.gather(&last, &rows, 0)?;
            Some(net.linear("text_projection", &end, width, false)?)
        }
        _ => None,
    };
    let states = net.g.reshape(&states, &[size.batch as i64, size.tokens as i64, config.hidden as i64])?;
    Ok(Encoded { states, pooled })
}

/// A whole graph: `input_ids` i64 (1, T) in, `states` f32 (1, T, hidden) out; with a projection also `end` i64 (1) in and
/// `pooled` f32 (1, projection) out. T is the model's longest text.
///
/// # Errors
/// As [`build`].
pub fn graph(config: &ClipConfig, source: &mut dyn Source, dtype: DType, hidden: Hidden) -> Result<Model, ModelError> {
    let mut g = GraphBuilder::new("text_encoder");
    let ids = g.input("input_ids", DType::I64, [1, config.positions])?;
    let ends = config.projection.map(|_| g.input("end", DType::I64, [1])).transpose()?;
    let encoded = build(&mut Net::new(&mut g, source, dtype), config, &ids, ends.as_ref(), hidden)?;
    let states = g.cast(&encoded.states, DType::F32)?;
    g.output("states", &states)?;
    if let Some(pooled) = &encoded.pooled {
        let pooled = g.cast(pooled, DType::F32)?;
        g.output("pooled", &pooled)?;
    }
    Ok(g.finish()?)
}

/// The two embeddings of an SDXL prompt side by side: (T, a) and (T, b) to (T, a + b).
pub fn join(first: &[f32], second: &[f32], tokens: usize) -> Vec<f32> {
    let (a, b) = (first.len() / tokens.max(1), second.len() / tokens.max(1));
    let rows = first.chunks_exact(a.max(1)).zip(second.chunks_exact(b.max(1)));
    rows.flat_map(|(first, second)| first.iter().chain(second)).copied().collect()
}

/// Sequences and the tokens of each.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub batch: u64,
    pub tokens: u64,
}

/// The tokens' and the places' vectors, (B · T, hidden).
fn embed(net: &mut Net<'_>, config: &ClipConfig, size: Size, ids: &Tensor) -> Result<Tensor, ModelError> {
    let table = net.within("token_embedding", |net| net.weight("weight", &[config.vocabulary, config.hidden]))?;
    let places = net.within("position_embedding", |net| net.weight("weight", &[config.positions, config.hidden]))?;
    let tokens = net.g.gather(&table, ids, 0)?;
    let places = net.g.slice(&places, 0, 0, size.tokens as i64)?;
    let sum = net.g.add(&tokens, &places)?;
    Ok(net.g.reshape(&sum, &[(size.batch * size.tokens) as i64, config.hidden as i64])?)
}

/// What keeps a token from seeing later ones: 0 on and below the diagonal, −∞ above, (T, T) of `f32`.
fn mask(net: &mut Net<'_>, tokens: u64) -> Result<Tensor, ModelError> {
    let cell = |i: u64| if i % tokens > i / tokens { f32::NEG_INFINITY } else { 0.0 };
    let cells: Vec<f32> = (0..tokens * tokens).map(cell).collect();
    Ok(net.g.floats(DType::F32, [tokens, tokens], &cells)?)
}

/// One transformer layer over `x` (B · T, hidden); with `mask` (T, T), which is added, only some tokens see each other.
pub(super) fn layer(
    net: &mut Net<'_>,
    config: &ClipConfig,
    size: Size,
    x: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor, ModelError> {
    let normal = net.layer_norm("layer_norm1", x, config.epsilon)?;
    let attended = net.within("self_attn", |net| attend(net, config, size, &normal, mask))?;
    let x = net.g.add(x, &attended)?;
    let normal = net.layer_norm("layer_norm2", &x, config.epsilon)?;
    let fed = net.within("mlp", |net| {
        let wide = net.linear("fc1", &normal, config.intermediate, true)?;
        let wide = match config.activation {
            Activation::QuickGelu => net.g.quick_gelu(&wide)?,
            Activation::Gelu => net.g.gelu(&wide)?,
        };
        net.linear("fc2", &wide, config.hidden, true)
    })?;
    Ok(net.g.add(&x, &fed)?)
}

/// Attention among the tokens of each text; the softmax is of `f32`.
fn attend(
    net: &mut Net<'_>,
    config: &ClipConfig,
    size: Size,
    x: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor, ModelError> {
    let each = config.hidden / config.heads;
    let split = [size.batch as i64, size.tokens as i64, config.heads as i64, each as i64];
    let mut heads = |name: &str, order: [usize; 4]| {
        let y = net.linear(name, x, config.hidden, true)?;
        let y = net.g.reshape(&y, &split)?;
        Ok::<_, ModelError>(net.g.transpose(&y, &order)?)
    };
    let query = heads("q_proj", [0, 2, 1, 3])?;
    let key = heads("k_proj", [0, 2, 3, 1])?;
    let value = heads("v_proj", [0, 2, 1, 3])?;
    let query = net.g.mul_scalar(&query, 1.0 / (each as f64).sqrt())?;
    let scores = net.g.matmul(&query, &key)?;
    let scores = net.g.cast(&scores, DType::F32)?;
    let scores = match mask {
        Some(mask) => net.g.add(&scores, mask)?,
        None => scores,
    };
    let shares = net.g.softmax(&scores, -1)?;
    let shares = net.g.cast(&shares, net.dtype())?;
    let mixed = net.g.matmul(&shares, &value)?;
    let mixed = net.g.transpose(&mixed, &[0, 2, 1, 3])?;
    let mixed = net.g.reshape(&mixed, &[(size.batch * size.tokens) as i64, config.hidden as i64])?;
    net.linear("out_proj", &mixed, config.hidden, true)
}
