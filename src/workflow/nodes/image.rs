//! Operations on pictures, f32 (B, H, W, C).

use super::{area, scale};
use crate::graph::{DType, GraphBuilder, GraphError, Interpolation, Tensor};
use crate::workflow::class::input::{choice, float, image, int};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, Data, EncodeError, LowerError, Value};
use crate::workflow::value::{Setting, Type};

/// Pictures to pictures.
pub const CLASSES: &[Class] = &[
    Class { inputs: &[image("image")], outputs: &[out(Type::Image)], ..Class::graph("ImageInvert", invert) },
    Class {
        inputs: &[
            image("image1"),
            image("image2"),
            float("blend_factor", 0.5, 0.0, 1.0, 0.01).live(),
            choice("blend_mode", "normal", &["normal", "multiply", "screen", "overlay", "soft_light", "difference"]),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageBlend", blend)
    },
    Class {
        inputs: &[
            int("width", 512, 1, 16384),
            int("height", 512, 1, 16384),
            int("batch_size", 1, 1, 4096),
            int("color", 0, 0, 0xFF_FFFF).live(),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("EmptyImage", empty)
    },
];

/// `1 − x`
fn invert(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let y = one_minus(cx.g()?, &x)?;
    cx.one(&y)
}

/// `clamp(a·(1 − f) + mode(a, b)·f, 0, 1)`; a second picture of another size is scaled bicubically and cropped.
fn blend(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let (a, mut b) = (cx.tensor("image1")?, cx.tensor("image2")?);
    let [_, h, w, _] = area::picture(cx, "image1", &a)?;
    let [_, h2, w2, _] = area::picture(cx, "image2", &b)?;
    if [h, w] != [h2, w2] {
        b = scale::resized(cx, &b, [h, w], "bicubic", true)?;
    }
    let factor = cx.float("blend_factor")?;
    let mode = cx.text("blend_mode")?;
    let g = cx.g()?;
    let mixed = match mode.as_str() {
        "normal" => b,
        "multiply" => g.mul(&a, &b)?,
        "screen" => screen(g, &a, &b, 1.0)?,
        "overlay" => {
            let dark = g.mul(&a, &b)?;
            let dark = g.mul_scalar(&dark, 2.0)?;
            let light = screen(g, &a, &b, 2.0)?;
            let half = g.scalar(DType::F32, 0.5)?;
            let bright = g.greater(&a, &half)?;
            g.select(&bright, &light, &dark)?
        }
        "soft_light" => soft_light(g, &a, &b)?,
        _ => g.sub(&a, &b)?,
    };
    let g = cx.g()?;
    let rest = one_minus(g, &factor)?;
    let kept = g.mul(&a, &rest)?;
    let added = g.mul(&mixed, &factor)?;
    let y = g.add(&kept, &added)?;
    let y = g.clip(&y, 0.0, 1.0)?;
    cx.one(&y)
}

/// `1 − factor·(1 − a)·(1 − b)`
fn screen(g: &mut GraphBuilder, a: &Tensor, b: &Tensor, factor: f64) -> Result<Tensor, GraphError> {
    let (a, b) = (one_minus(g, a)?, one_minus(g, b)?);
    let product = g.mul(&a, &b)?;
    let product = g.mul_scalar(&product, factor)?;
    one_minus(g, &product)
}

/// `a − (1 − 2b)·a·(1 − a)` where `b ≤ 0.5`, else `a + (2b − 1)·(g(a) − a)` with `g(a) = ((16a − 12)·a + 4)·a` up to 0.25
/// and `√a` above.
fn soft_light(g: &mut GraphBuilder, a: &Tensor, b: &Tensor) -> Result<Tensor, GraphError> {
    let twice = g.mul_scalar(b, 2.0)?;
    let less = one_minus(g, &twice)?;
    let away = one_minus(g, a)?;
    let dark = g.mul(&less, a)?;
    let dark = g.mul(&dark, &away)?;
    let dark = g.sub(a, &dark)?;
    let curve = g.mul_scalar(a, 16.0)?;
    let curve = g.add_scalar(&curve, -12.0)?;
    let curve = g.mul(&curve, a)?;
    let curve = g.add_scalar(&curve, 4.0)?;
    let curve = g.mul(&curve, a)?;
    let root = g.sqrt(a)?;
    let quarter = g.scalar(DType::F32, 0.25)?;
    let above = g.greater(a, &quarter)?;
    let curve = g.select(&above, &root, &curve)?;
    let step = g.sub(&curve, a)?;
    let more = g.add_scalar(&twice, -1.0)?;
    let step = g.mul(&more, &step)?;
    let light = g.add(a, &step)?;
    let half = g.scalar(DType::F32, 0.5)?;
    let bright = g.greater(b, &half)?;
    g.select(&bright, &light, &dark)
}

/// `1 − x`
pub(super) fn one_minus(g: &mut GraphBuilder, x: &Tensor) -> Result<Tensor, GraphError> {
    let one = g.scalar(DType::F32, 1.0)?;
    g.sub(&one, x)
}

/// One colour: `0xRRGGBB / 255`.
fn empty(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let [batch, height, width] = ["batch_size", "height", "width"].map(|name| cx.int(name));
    let shape = [batch?, height?, width?].map(i64::unsigned_abs);
    let color = cx.live(&["color"], DType::F32, &[1, 1, 1, 3], |settings| {
        let color = settings.first().and_then(Setting::number);
        let color = color.ok_or_else(|| EncodeError::Wrong("a colour is a number".to_owned()))? as u32;
        Ok(Data::F32([16, 8, 0].map(|shift| f32::from((color >> shift) as u8) / 255.0).to_vec()))
    })?;
    let y = cx.g()?.expand(&color, &[shape[0], shape[1], shape[2], 3])?;
    cx.one(&y)
}

/// A picture (B, H, W, C) in another size, bilinear without antialiasing.
pub(super) fn resize(cx: &mut Cx<'_>, x: &Tensor, height: u64, width: u64) -> Result<Tensor, LowerError> {
    let g = cx.g()?;
    let x = g.transpose(x, &[0, 3, 1, 2])?;
    let x = g.resize(&x, height, width, Interpolation::Linear)?;
    Ok(g.transpose(&x, &[0, 2, 3, 1])?)
}
