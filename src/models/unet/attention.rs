//! Transformers over the pixels of a level.

use std::cell::RefCell;

use super::super::ip_adapter::{Image, Images};
use super::super::net::{Net, channels, fixed};
use super::super::{ModelError, unet::Trunk};
use crate::graph::Tensor;

/// Epsilon of the group normalisation in front of a transformer, whatever the configuration says elsewhere.
const NORM_EPSILON: f32 = 1e-6;
/// Epsilon of the layer normalisations.
const LAYER_EPSILON: f32 = 1e-5;

/// The prompt for every row, flat: `tokens` (R · T, D) of `rows` rows and `length` tokens each.
pub struct Context {
    tokens: Tensor,
    rows: u64,
    length: u64,
    /// What the layers look at beside the prompt, in the order in which they are built.
    images: Option<RefCell<Images>>,
}

impl Context {
    /// The context of `embedding` (R, T, D), in the type of the activations.
    ///
    /// # Errors
    /// [`ModelError`] when the shape is not that.
    pub fn new(net: &mut Net<'_>, embedding: &Tensor) -> Result<Self, ModelError> {
        let (rows, length, features) = (fixed(embedding, 0)?, fixed(embedding, 1)?, fixed(embedding, 2)?);
        let embedding = net.g.cast(embedding, net.dtype())?;
        let tokens = net.g.reshape(&embedding, &[-1, features as i64])?;
        Ok(Self { tokens, rows, length, images: None })
    }

    /// With an adapter's pictures beside the prompt.
    pub(super) fn beside(mut self, images: Images) -> Self {
        self.images = Some(RefCell::new(images));
        self
    }

    /// What the next layer looks at beside the prompt, and its tokens.
    fn image(&self) -> Option<(Image, u64)> {
        let images = &mut *self.images.as_ref()?.borrow_mut();
        Some((images.layers.pop_front()?, images.length))
    }

    /// Checks that every layer had its picture.
    pub(super) fn finish(&self) -> Result<(), ModelError> {
        match &self.images {
            Some(images) if !images.borrow().layers.is_empty() => {
                Err(ModelError::config("ip_adapter", "it has more layers than the UNet"))
            }
            _ => Ok(()),
        }
    }
}

/// `x` (R, C, H, W) through `layers` transformer layers, added to itself.
///
/// Tokens stay flat, (R · H · W, C), so that every projection is one matrix product with its bias; only the attention
/// itself sees rows and heads.
pub(super) fn transformer(
    net: &mut Net<'_>,
    trunk: &Trunk,
    x: &Tensor,
    context: &Context,
    heads: u64,
    layers: u64,
) -> Result<Tensor, ModelError> {
    let (rows, width) = (fixed(x, 0)?, channels(x)?);
    let (height, length) = (fixed(x, 2)?, fixed(x, 2)? * fixed(x, 3)?);
    if rows != context.rows {
        let reason = format!("{} rows of prompt for {rows} rows of picture", context.rows);
        return Err(ModelError::config("encoder_hidden_states", reason));
    }
    let mut hidden = net.group_norm("norm", x, trunk.groups, NORM_EPSILON)?;
    if !trunk.linear_projection {
        hidden = net.conv1("proj_in", &hidden, width)?;
    }
    hidden = net.g.transpose(&hidden, &[0, 2, 3, 1])?;
    hidden = net.g.reshape(&hidden, &[-1, width as i64])?;
    if trunk.linear_projection {
        hidden = net.linear("proj_in", &hidden, width, true)?;
    }
    let shape = Heads { rows, length, heads, size: width / heads };
    for layer in 0..layers {
        hidden = net.within(&format!("transformer_blocks.{layer}"), |net| block(net, &hidden, context, shape))?;
    }
    if trunk.linear_projection {
        hidden = net.linear("proj_out", &hidden, width, true)?;
    }
    hidden = net.g.reshape(&hidden, &[rows as i64, height as i64, -1, width as i64])?;
    hidden = net.g.transpose(&hidden, &[0, 3, 1, 2])?;
    if !trunk.linear_projection {
        hidden = net.conv1("proj_out", &hidden, width)?;
    }
    Ok(net.g.add(&hidden, x)?)
}

#[derive(Clone, Copy)]
struct Heads {
    rows: u64,
    length: u64,
    heads: u64,
    size: u64,
}

fn block(net: &mut Net<'_>, x: &Tensor, context: &Context, shape: Heads) -> Result<Tensor, ModelError> {
    let normal = net.layer_norm("norm1", x, LAYER_EPSILON)?;
    let own = net.within("attn1", |net| attention(net, &normal, &normal, shape.length, shape, None))?;
    let x = net.g.add(&own, x)?;
    let normal = net.layer_norm("norm2", &x, LAYER_EPSILON)?;
    let image = context.image();
    if context.images.is_some() && image.is_none() {
        return Err(ModelError::config("ip_adapter", "it has fewer layers than the UNet"));
    }
    let prompt =
        net.within("attn2", |net| attention(net, &normal, &context.tokens, context.length, shape, image.as_ref()))?;
    let x = net.g.add(&prompt, &x)?;
    let normal = net.layer_norm("norm3", &x, LAYER_EPSILON)?;
    let fed = net.within("ff", |net| feed_forward(net, &normal, shape.heads * shape.size))?;
    Ok(net.g.add(&fed, &x)?)
}

/// `x` (R · S, C) looks at `seen` (R · T, D), T = `seen_length`, and at `image` with its tokens beside it.
fn attention(
    net: &mut Net<'_>,
    x: &Tensor,
    seen: &Tensor,
    seen_length: u64,
    shape: Heads,
    image: Option<&(Image, u64)>,
) -> Result<Tensor, ModelError> {
    let Heads { rows, length, heads, size } = shape;
    let width = heads * size;
    let query = net.linear("to_q", x, width, false)?;
    let key = net.linear("to_k", seen, width, false)?;
    let value = net.linear("to_v", seen, width, false)?;
    let query = net.g.reshape(&query, &[rows as i64, length as i64, heads as i64, size as i64])?;
    let query = net.g.transpose(&query, &[0, 2, 1, 3])?;
    let key = keys(net, &key, seen_length, shape)?;
    let value = values(net, &value, seen_length, shape)?;
    // Scaled before the product, where half precision has the room.
    let query = net.g.mul_scalar(&query, 1.0 / (size as f64).sqrt())?;
    let mut mixed = look(net, &query, &key, &value)?;
    if let Some((image, tokens)) = image {
        mixed = net.place("image", |net| {
            let key = keys(net, &image.key, *tokens, shape)?;
            let value = values(net, &image.value, *tokens, shape)?;
            let more = look(net, &query, &key, &value)?;
            let more = net.g.mul(&more, &image.scale)?;
            Ok(net.g.add(&mixed, &more)?)
        })?;
    }
    let mixed = net.g.transpose(&mixed, &[0, 2, 1, 3])?;
    let mixed = net.g.reshape(&mixed, &[-1, width as i64])?;
    net.within("to_out", |net| net.linear("0", &mixed, width, true))
}

/// `x` (R · T, C) as (R, heads, size, T).
fn keys(net: &mut Net<'_>, x: &Tensor, tokens: u64, shape: Heads) -> Result<Tensor, ModelError> {
    let split = [shape.rows as i64, tokens as i64, shape.heads as i64, shape.size as i64];
    let x = net.g.reshape(x, &split)?;
    Ok(net.g.transpose(&x, &[0, 2, 3, 1])?)
}

/// `x` (R · T, C) as (R, heads, T, size).
fn values(net: &mut Net<'_>, x: &Tensor, tokens: u64, shape: Heads) -> Result<Tensor, ModelError> {
    let split = [shape.rows as i64, tokens as i64, shape.heads as i64, shape.size as i64];
    let x = net.g.reshape(x, &split)?;
    Ok(net.g.transpose(&x, &[0, 2, 1, 3])?)
}

/// The values as far as the queries (R, heads, S, size) like their keys: (R, heads, S, size).
fn look(net: &mut Net<'_>, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor, ModelError> {
    let scores = net.g.matmul(query, key)?;
    let weights = net.g.softmax(&scores, -1)?;
    Ok(net.g.matmul(&weights, value)?)
}

/// The gated feed-forward layer (GEGLU).
fn feed_forward(net: &mut Net<'_>, x: &Tensor, width: u64) -> Result<Tensor, ModelError> {
    let inner = 4 * width;
    let both = net.within("net.0", |net| net.linear("proj", x, 2 * inner, true))?;
    let halves = net.g.split(&both, 1, &[inner, inner])?;
    let [hidden, gate] = halves.as_slice() else {
        return Err(ModelError::config("ff", "two halves are needed"));
    };
    let gate = net.g.gelu(gate)?;
    let gated = net.g.mul(hidden, &gate)?;
    net.linear("net.2", &gated, width, true)
}
