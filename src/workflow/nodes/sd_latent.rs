//! Latents, f32 (B, 4, H / 8, W / 8), in the scale of the full autoencoder.

use super::sd_find::Opened;
use super::sd_model::Vae;
use crate::graph::{DType, GraphBuilder, GraphError, Interpolation, Tensor};
use crate::models::kl::{self, KlConfig};
use crate::models::taesd::{self, TaesdConfig};
use crate::workflow::class::input::{choice, float, image, int, link};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, LowerError, Value};
use crate::workflow::value::Type;

/// Pixels of a picture for one of its latent, on each side.
pub(super) const REDUCTION: u64 = 8;

const METHODS: &[&str] = &["nearest-exact", "bilinear"];

/// Latents and pictures.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[int("width", 512, 16, 16384), int("height", 512, 16, 16384), int("batch_size", 1, 1, 4096)],
        outputs: &[out(Type::Latent)],
        ..Class::graph("EmptyLatentImage", empty)
    },
    Class {
        inputs: &[image("pixels"), link("vae", Type::Vae)],
        outputs: &[out(Type::Latent)],
        note: "The mean of the distribution, which draws no noise.",
        ..Class::alone("VAEEncode", encode)
    },
    Class {
        inputs: &[link("samples", Type::Latent), link("vae", Type::Vae)],
        outputs: &[out(Type::Image)],
        ..Class::alone("VAEDecode", decode)
    },
    Class {
        inputs: &[
            link("samples", Type::Latent),
            choice("upscale_method", "nearest-exact", METHODS),
            int("width", 512, 0, 16384),
            int("height", 512, 0, 16384),
            choice("crop", "disabled", &["disabled", "center"]),
        ],
        outputs: &[out(Type::Latent)],
        note: "By nearest-exact and bilinear.",
        ..Class::graph("LatentUpscale", upscale)
    },
    Class {
        inputs: &[
            link("samples", Type::Latent),
            choice("upscale_method", "nearest-exact", METHODS),
            float("scale_by", 1.5, 0.01, 8.0, 0.01),
        ],
        outputs: &[out(Type::Latent)],
        note: "By nearest-exact and bilinear.",
        ..Class::graph("LatentUpscaleBy", upscale_by)
    },
    Class {
        inputs: &[link("samples", Type::Latent), int("amount", 1, 1, 64)],
        outputs: &[out(Type::Latent)],
        ..Class::graph("RepeatLatentBatch", repeat)
    },
];

/// The four dimensions of what is linked to `input`.
pub(super) fn dims(cx: &Cx<'_>, input: &str, x: &Tensor) -> Result<[u64; 4], LowerError> {
    let dims = x.shape().fixed().and_then(|shape| shape.try_into().ok());
    dims.ok_or_else(|| cx.refuse(input, format!("4 dimensions are needed, not {}", x.shape()), ""))
}

/// Zeros.
fn empty(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let [batch, height, width] = ["batch_size", "height", "width"].map(|name| cx.int(name));
    let [batch, height, width] = [batch?, height?, width?].map(i64::unsigned_abs);
    let zero = cx.g()?.scalar(DType::F32, 0.0)?;
    let y = cx.g()?.expand(&zero, &[batch, 4, height / REDUCTION, width / REDUCTION])?;
    cx.one(&y)
}

fn precision(cx: &Cx<'_>, kl: &KlConfig) -> DType {
    if kl.force_upcast { DType::F32 } else { cx.env().precision }
}

/// The middle of a side that is no multiple of 8 is taken.
fn encode(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("pixels")?;
    let vae: Vae = cx.held("vae")?;
    let [_, height, width, _] = dims(cx, "pixels", &x)?;
    if height < REDUCTION || width < REDUCTION {
        return Err(cx.refuse("pixels", format!("a picture of {width}×{height} has no latent"), "take a larger one"));
    }
    let g = cx.g()?;
    let middle = |g: &mut GraphBuilder, x: &Tensor, axis: i64, side: u64| {
        let from = (side % REDUCTION / 2) as i64;
        g.slice(x, axis, from, from + (side / REDUCTION * REDUCTION) as i64)
    };
    let x = middle(g, &x, 1, height)?;
    let x = middle(g, &x, 2, width)?;
    let x = g.slice(&x, 3, 0, 3)?;
    let x = g.transpose(&x, &[0, 3, 1, 2])?;
    let y = match vae {
        Vae::Tiny(stored, scale) => {
            let config = TaesdConfig::from_json(&stored.config)?;
            let precision = cx.env().precision;
            let mut opened = Opened::new(cx, &stored, precision, "vae")?;
            let g = cx.g()?;
            let y = opened.build(g, |net| taesd::encode(net, &config, &x))?;
            opened.finish()?;
            let y = g.cast(&y, DType::F32)?;
            g.mul_scalar(&y, 1.0 / scale)?
        }
        Vae::Kl(stored) => {
            let config = KlConfig::from_json(&stored.config)?;
            let mut opened = Opened::new(cx, &stored, precision(cx, &config), "vae")?;
            let g = cx.g()?;
            let x = g.mul_scalar(&x, 2.0)?;
            let x = g.sub_scalar(&x, 1.0)?;
            let [rows, _, height, width] = x.shape().fixed().and_then(|s| s.try_into().ok()).unwrap_or_default();
            let zero = g.scalar(DType::F32, 0.0)?;
            let side = config.reduction();
            let none = g.expand(&zero, &[rows, config.latent_channels, height / side, width / side])?;
            let y = opened.build(g, |net| kl::encode(net, &config, &x, &none))?;
            opened.finish()?;
            y
        }
    };
    cx.one(&y)
}

/// `clamp(picture, 0, 1)`.
fn decode(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("samples")?;
    dims(cx, "samples", &x)?;
    let y = match cx.held("vae")? {
        Vae::Tiny(stored, scale) => {
            let config = TaesdConfig::from_json(&stored.config)?;
            let precision = cx.env().precision;
            let mut opened = Opened::new(cx, &stored, precision, "vae")?;
            let g = cx.g()?;
            let x = g.mul_scalar(&x, scale)?;
            let y = opened.build(g, |net| taesd::decode(net, &config, &x))?;
            opened.finish()?;
            g.cast(&y, DType::F32)?
        }
        Vae::Kl(stored) => {
            let config = KlConfig::from_json(&stored.config)?;
            let mut opened = Opened::new(cx, &stored, precision(cx, &config), "vae")?;
            let g = cx.g()?;
            let y = opened.build(g, |net| kl::decode(net, &config, &x))?;
            opened.finish()?;
            let y = g.cast(&y, DType::F32)?;
            let y = g.add_scalar(&y, 1.0)?;
            g.div_scalar(&y, 2.0)?
        }
    };
    let g = cx.g()?;
    let y = g.clip(&y, 0.0, 1.0)?;
    let y = g.transpose(&y, &[0, 2, 3, 1])?;
    cx.one(&y)
}

/// `x` (N, C, H, W) with the pixel at `⌊(i + ½) · old / new⌋`: `nearest-exact`.
pub(super) fn nearest_exact(g: &mut GraphBuilder, x: &Tensor, height: u64, width: u64) -> Result<Tensor, GraphError> {
    let mut y = x.clone();
    for (axis, new) in [(2, height), (3, width)] {
        let old = x.shape().fixed().and_then(|shape| shape.get(axis).copied()).unwrap_or(0);
        if old != new {
            let scale = old as f32 / new as f32;
            let places: Vec<i64> = (0..new).map(|i| (((i as f32 + 0.5) * scale) as i64).min(old as i64 - 1)).collect();
            let places = g.ints([new], &places)?;
            y = g.gather(&y, &places, axis as i64)?;
        }
    }
    Ok(y)
}

/// Cuts `x` (N, C, H, W) to the middle part that has the proportions of the new size.
pub(super) fn center(g: &mut GraphBuilder, x: &Tensor, height: u64, width: u64) -> Result<Tensor, GraphError> {
    let shape = x.shape().fixed().unwrap_or_default();
    let (old_height, old_width) = (*shape.get(2).unwrap_or(&0), *shape.get(3).unwrap_or(&0));
    let (old, new) = (old_width as f64 / old_height as f64, width as f64 / height as f64);
    let cut = |side: u64, share: f64| ((side as f64 - side as f64 * share) / 2.0).round_ties_even() as i64;
    let (mut left, mut top) = (0, 0);
    if old > new {
        left = cut(old_width, new / old);
    } else if old < new {
        top = cut(old_height, old / new);
    }
    let y = g.slice(x, 2, top, old_height as i64 - top)?;
    g.slice(&y, 3, left, old_width as i64 - left)
}

fn scaled(cx: &mut Cx<'_>, x: &Tensor, height: u64, width: u64) -> Result<Vec<Value>, LowerError> {
    let method = cx.text("upscale_method")?;
    let g = cx.g()?;
    let y = match method.as_str() {
        "bilinear" => g.resize(x, height, width, Interpolation::Linear)?,
        _ => nearest_exact(g, x, height, width)?,
    };
    cx.one(&y)
}

/// A side of 0 keeps the proportions.
fn upscale(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("samples")?;
    let [_, _, h, w] = dims(cx, "samples", &x)?;
    let [width, height] = ["width", "height"].map(|name| cx.int(name));
    let (width, height) = (width?.unsigned_abs(), height?.unsigned_abs());
    let least = 8 * REDUCTION;
    let kept = |side: u64, from: u64, to: u64| (from as f64 * side as f64 / to as f64).round_ties_even() as u64;
    let (width, height) = match (width, height) {
        (0, 0) => return Ok(vec![cx.value("samples")?]),
        (0, height) => (kept(height.max(least), w, h).max(least), height.max(least)),
        (width, 0) => (width.max(least), kept(width.max(least), h, w).max(least)),
        (width, height) => (width.max(least), height.max(least)),
    };
    let (height, width) = (height / REDUCTION, width / REDUCTION);
    let x = match cx.text("crop")?.as_str() {
        "center" => center(cx.g()?, &x, height, width)?,
        _ => x,
    };
    scaled(cx, &x, height, width)
}

fn upscale_by(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("samples")?;
    let [_, _, h, w] = dims(cx, "samples", &x)?;
    let factor = cx.number("scale_by")?;
    let by = |side: u64| ((side as f64 * factor).round_ties_even() as u64).max(1);
    scaled(cx, &x, by(h), by(w))
}

fn repeat(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("samples")?;
    let amount = cx.int("amount")?.unsigned_abs() as usize;
    let y = cx.g()?.concat(&vec![&x; amount], 0)?;
    cx.one(&y)
}
