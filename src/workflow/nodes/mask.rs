//! Operations on masks, f32 (B, H, W).

use super::area::{self, Area, count};
use super::image::one_minus;
use super::morphology::{Edge, spread};
use super::scale::MAX_SIDE;
use crate::graph::{DType, GraphBuilder, GraphError, Tensor};
use crate::workflow::class::input::{choice, file, flag, float, image, int, mask};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, Data, EncodeError, LowerError, Value};
use crate::workflow::value::{Setting, Type};

/// Steps of a growth with tapered corners: each is an operator of its own.
const STEPS: u64 = 64;

/// Masks.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[image("image"), choice("channel", "red", &["red", "green", "blue", "alpha"])],
        outputs: &[out(Type::Mask)],
        ..Class::graph("ImageToMask", image_to_mask)
    },
    Class { inputs: &[mask("mask")], outputs: &[out(Type::Image)], ..Class::graph("MaskToImage", mask_to_image) },
    Class {
        inputs: &[image("image"), int("color", 0, 0, 0xFF_FFFF).live()],
        outputs: &[out(Type::Mask)],
        ..Class::graph("ImageColorToMask", colour_to_mask)
    },
    Class {
        inputs: &[mask("mask"), float("value", 0.5, 0.0, 1.0, 0.01).live()],
        outputs: &[out(Type::Mask)],
        ..Class::graph("ThresholdMask", threshold)
    },
    Class { inputs: &[mask("mask")], outputs: &[out(Type::Mask)], ..Class::graph("InvertMask", invert) },
    Class {
        inputs: &[file("image"), choice("channel", "alpha", &["alpha", "red", "green", "blue"])],
        outputs: &[out(Type::Mask)],
        note: "A file of the input folder.",
        ..Class::graph("LoadImageMask", load)
    },
    Class {
        inputs: &[
            mask("destination"),
            mask("source"),
            int("x", 0, 0, MAX_SIDE),
            int("y", 0, 0, MAX_SIDE),
            choice("operation", "multiply", &["multiply", "add", "subtract", "and", "or", "xor"]),
        ],
        outputs: &[out(Type::Mask)],
        ..Class::graph("MaskComposite", composite)
    },
    Class {
        inputs: &[mask("mask"), int("expand", 0, -MAX_SIDE, MAX_SIDE), flag("tapered_corners", true)],
        outputs: &[out(Type::Mask)],
        note: "With tapered corners at most 64 steps.",
        ..Class::graph("GrowMask", grow)
    },
    Class {
        inputs: &[
            mask("mask"),
            int("left", 0, 0, MAX_SIDE).live(),
            int("top", 0, 0, MAX_SIDE).live(),
            int("right", 0, 0, MAX_SIDE).live(),
            int("bottom", 0, 0, MAX_SIDE).live(),
        ],
        outputs: &[out(Type::Mask)],
        ..Class::graph("FeatherMask", feather)
    },
    Class {
        inputs: &[
            mask("mask"),
            int("x", 0, 0, MAX_SIDE),
            int("y", 0, 0, MAX_SIDE),
            int("width", 512, 1, MAX_SIDE),
            int("height", 512, 1, MAX_SIDE),
        ],
        outputs: &[out(Type::Mask)],
        ..Class::graph("CropMask", crop)
    },
    Class {
        inputs: &[
            float("value", 1.0, 0.0, 1.0, 0.01).live(),
            int("width", 512, 1, MAX_SIDE),
            int("height", 512, 1, MAX_SIDE),
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

/// 1 where `round(255·x)` is the colour `0xRRGGBB`, else 0.
fn colour_to_mask(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [.., channels] = area::picture(cx, "image", &x)?;
    if channels < 3 {
        return Err(cx.refuse("image", format!("the picture has {channels} channels"), "give it three"));
    }
    let colour = cx.live(&["color"], DType::F32, &[1, 1, 1, 3], |settings| {
        let colour = settings.first().and_then(Setting::number);
        let colour = colour.ok_or_else(|| EncodeError::Wrong("a colour is a number".to_owned()))? as u32;
        Ok(Data::F32([16, 8, 0].map(|shift| f32::from((colour >> shift) as u8)).to_vec()))
    })?;
    let g = cx.g()?;
    let x = g.slice(&x, 3, 0, 3)?;
    let x = g.clip(&x, 0.0, 1.0)?;
    let x = g.mul_scalar(&x, 255.0)?;
    let x = g.round(&x)?;
    let away = g.sub(&x, &colour)?;
    let away = g.abs(&away)?;
    let away = g.reduce_max(&away, &[3], false)?;
    let near = g.clip(&away, 0.0, 1.0)?;
    let y = one_minus(g, &near)?;
    cx.one(&y)
}

/// 1 above `value`, else 0.
fn threshold(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("mask")?;
    let value = cx.float("value")?;
    let g = cx.g()?;
    let above = g.greater(&x, &value)?;
    let y = g.cast(&above, DType::F32)?;
    cx.one(&y)
}

/// `1 − x`
fn invert(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("mask")?;
    let y = one_minus(cx.g()?, &x)?;
    cx.one(&y)
}

/// One channel of a file; alpha is turned round, and 0 throughout where the file has none.
fn load(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let name = cx.text("image")?;
    let channel = cx.text("channel")?;
    let picture = super::picture::read(cx, "image", &name)?;
    let shape = [1, u64::from(picture.height), u64::from(picture.width)];
    let colour = |place: usize| picture.rgb.iter().skip(place).step_by(3).copied().collect();
    let mask = match channel.as_str() {
        "red" => colour(0),
        "green" => colour(1),
        "blue" => colour(2),
        _ => match &picture.alpha {
            Some(alpha) => alpha.iter().map(|a| 1.0 - a).collect(),
            None => vec![0.0; picture.rgb.len() / 3],
        },
    };
    let y = cx.fixed(&shape, Data::F32(mask))?;
    cx.one(&y)
}

/// The source over the destination at (x, y), by arithmetic, or by logic on values rounded to 0 or 1; clamped to 0…1.
fn composite(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let (under, over) = (cx.tensor("destination")?, cx.tensor("source")?);
    let [b, h, w] = area::mask(cx, "destination", &under)?;
    let [b2, h2, w2] = area::mask(cx, "source", &over)?;
    let (left, top, operation) = (count(cx, "x")?, count(cx, "y")?, cx.text("operation")?);
    if b2 != b && b2 != 1 {
        return Err(cx.refuse("source", format!("it holds {b2} masks, the destination {b}"), "give it one"));
    }
    let (height, width) = (h2.min(h.saturating_sub(top)), w2.min(w.saturating_sub(left)));
    let g = cx.g()?;
    if height == 0 || width == 0 {
        let y = g.clip(&under, 0.0, 1.0)?;
        return cx.one(&y);
    }
    let at = Area { top, left, height, width };
    let a = area::cut(g, &under, at)?;
    let b = area::cut(g, &over, Area { top: 0, left: 0, height, width })?;
    let new = match operation.as_str() {
        "multiply" => g.mul(&a, &b)?,
        "add" => g.add(&a, &b)?,
        "subtract" => g.sub(&a, &b)?,
        logic => {
            let (a, b) = (truth(g, &a)?, truth(g, &b)?);
            match logic {
                "and" => g.mul(&a, &b)?,
                "or" => g.max(&a, &b)?,
                _ => {
                    let away = g.sub(&a, &b)?;
                    g.abs(&away)?
                }
            }
        }
    };
    let y = area::paste(g, &under, &new, at)?;
    let y = g.clip(&y, 0.0, 1.0)?;
    cx.one(&y)
}

/// 1 where `round(x)` is not 0, else 0.
fn truth(g: &mut GraphBuilder, x: &Tensor) -> Result<Tensor, GraphError> {
    let x = g.round(x)?;
    let x = g.abs(&x)?;
    g.clip(&x, 0.0, 1.0)
}

/// The largest (or with a negative number the smallest) within so many steps: to eight neighbours, or with tapered corners
/// to four.
fn grow(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("mask")?;
    let [b, h, w] = area::mask(cx, "mask", &x)?;
    let (expand, tapered) = (cx.int("expand")?, cx.flag("tapered_corners")?);
    let steps = expand.unsigned_abs();
    if tapered && steps > STEPS {
        let help = "take fewer, or turn tapered_corners off";
        return Err(cx.refuse("expand", format!("{steps} steps with tapered corners; at most {STEPS}"), help));
    }
    let g = cx.g()?;
    if steps == 0 {
        return cx.one(&x);
    }
    let x = g.reshape(&x, &[b as i64, 1, h as i64, w as i64])?;
    let mut y = if expand < 0 { g.neg(&x)? } else { x };
    if tapered {
        for _ in 0..steps {
            let down = spread(g, &y, Edge::around(3), Edge::NONE)?;
            let across = spread(g, &y, Edge::NONE, Edge::around(3))?;
            y = g.max(&down, &across)?;
        }
    } else {
        // More steps than pixels reach no further.
        let reach = |side: u64| Edge::around(2 * steps.min(side) + 1);
        y = spread(g, &y, reach(h), reach(w))?;
    }
    let y = if expand < 0 { g.neg(&y)? } else { y };
    let y = g.reshape(&y, &[b as i64, h as i64, w as i64])?;
    cx.one(&y)
}

/// Fades towards the edges: `(i + 1) / n` at the i-th of n rows or columns. From the right and from below ComfyUI counts
/// the first one as the one on the other side, and so does this.
fn feather(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("mask")?;
    let [_, h, w] = area::mask(cx, "mask", &x)?;
    let across = cx.live(&["left", "right"], DType::F32, &[1, 1, w], move |widgets| fade(w, widgets))?;
    let down = cx.live(&["top", "bottom"], DType::F32, &[1, h, 1], move |widgets| fade(h, widgets))?;
    let g = cx.g()?;
    let y = g.mul(&x, &across)?;
    let y = g.mul(&y, &down)?;
    cx.one(&y)
}

fn fade(length: u64, widgets: &[Setting]) -> Result<Data, EncodeError> {
    let length = length as usize;
    let count = |at: usize| {
        let number = widgets.get(at).and_then(Setting::number).filter(|number| *number >= 0.0);
        number.map(|number| (number as usize).min(length))
    };
    let (Some(near), Some(far)) = (count(0), count(1)) else {
        return Err(EncodeError::Wrong("widths are whole numbers from 0".to_owned()));
    };
    let mut factors = vec![1.0_f32; length];
    for (i, factor) in factors.iter_mut().take(near).enumerate() {
        *factor *= (i + 1) as f32 / near as f32;
    }
    for i in 0..far {
        factors[(length - i) % length] *= (i + 1) as f32 / far as f32;
    }
    Ok(Data::F32(factors))
}

/// What of the rectangle lies in the mask.
fn crop(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("mask")?;
    let [_, h, w] = area::mask(cx, "mask", &x)?;
    let (left, top) = (count(cx, "x")?, count(cx, "y")?);
    let (width, height) =
        (count(cx, "width")?.min(w.saturating_sub(left)), count(cx, "height")?.min(h.saturating_sub(top)));
    if width == 0 || height == 0 {
        return Err(cx.refuse("x", format!("nothing of the mask of {w}×{h} lies there"), "begin inside of it"));
    }
    let y = area::cut(cx.g()?, &x, Area { top, left, height, width })?;
    cx.one(&y)
}
