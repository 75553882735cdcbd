//! Operations on masks, f32 (B, H, W).

use crate::workflow::class::input::{choice, float, image, int, mask};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, LowerError, Value};
use crate::workflow::value::Type;

/// Masks.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[image("image"), choice("channel", "red", &["red", "green", "blue", "alpha"])],
        outputs: &[out(Type::Mask)],
        ..Class::graph("ImageToMask", image_to_mask)
    },
    Class { inputs: &[mask("mask")], outputs: &[out(Type::Image)], ..Class::graph("MaskToImage", mask_to_image) },
    Class {
        inputs: &[
            float("value", 1.0, 0.0, 1.0, 0.01).live(),
            int("width", 512, 1, 16384),
            int("height", 512, 1, 16384),
        ],
        outputs: &[out(Type::Mask)],
        ..Class::graph("SolidMask", solid)
    },
];

/// One channel.
fn image_to_mask(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let channel = match cx.text("channel")?.as_str() {
        "red" => 0,
        "green" => 1,
        "blue" => 2,
        _ => 3,
    };
    let channels = x.shape().fixed().and_then(|shape| shape.get(3).copied()).unwrap_or(0);
    if channel >= channels as i64 {
        let reason = format!("the picture has {channels} channels");
        return Err(cx.refuse("channel", reason, "take red, green or blue"));
    }
    let g = cx.g()?;
    let y = g.slice(&x, 3, channel, channel + 1)?;
    let y = g.squeeze(&y, &[3])?;
    cx.one(&y)
}

/// The mask in every channel.
fn mask_to_image(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("mask")?;
    let g = cx.g()?;
    let x = g.unsqueeze(&x, &[3])?;
    let y = g.expand(&x, &[1, 1, 1, 3])?;
    cx.one(&y)
}

/// One value throughout.
fn solid(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let (width, height) = (cx.int("width")?, cx.int("height")?);
    let value = cx.float("value")?;
    let y = cx.g()?.expand(&value, &[1, height.unsigned_abs(), width.unsigned_abs()])?;
    cx.one(&y)
}
