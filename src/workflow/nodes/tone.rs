//! Brightness and colour, pixel by pixel.

use super::area;
use crate::graph::{DType, GraphBuilder, GraphError, Tensor};
use crate::workflow::class::input::{flag, float, image};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, Data, EncodeError, LowerError, Value};
use crate::workflow::value::{Setting, Type};

/// Levels and luminance.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[
            image("image"),
            float("black_level", 0.0, 0.0, 1.0, 0.01).live(),
            float("mid_level", 0.5, 0.01, 0.99, 0.01).live(),
            float("white_level", 1.0, 0.0, 1.0, 0.01).live(),
            flag("clip", true),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageLevels", levels)
    },
    Class { inputs: &[image("image")], outputs: &[out(Type::Image)], ..Class::graph("ImageLuminance", luminance) },
];

/// In linear light: `y = (x − black) / (white − black)`, where it is above 0 raised to `ln ½ / ln mid`.
fn levels(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let names = ["black_level", "mid_level", "white_level"];
    let numbers = cx.live(&names, DType::F32, &[3], |settings| {
        let numbers: Vec<f64> = settings.iter().filter_map(Setting::number).collect();
        match numbers[..] {
            [black, mid, white] if black < mid && mid < white => {
                Ok(Data::F32([black, white - black, 0.5_f64.ln() / mid.ln()].map(|x| x as f32).to_vec()))
            }
            _ => Err(EncodeError::Wrong("black_level must be below mid_level, and that below white_level".to_owned())),
        }
    })?;
    let clip = cx.flag("clip")?;
    let g = cx.g()?;
    let parts = g.split(&numbers, 0, &[1, 1, 1])?;
    let [black, range, power] = &parts[..] else { return Ok(Vec::new()) };
    let linear = to_linear(g, &x)?;
    let moved = g.sub(&linear, black)?;
    let moved = g.div(&moved, range)?;
    let floor = g.scalar(DType::F32, 1e-8)?;
    let base = g.max(&moved, &floor)?;
    let raised = g.pow(&base, power)?;
    let zero = g.scalar(DType::F32, 0.0)?;
    let above = g.greater(&moved, &zero)?;
    let y = g.select(&above, &raised, &moved)?;
    let y = from_linear(g, &y)?;
    let y = if clip { g.clip(&y, 0.0, 1.0)? } else { y };
    cx.one(&y)
}

/// sRGB to linear light: `x / 12.92` up to 0.04045, else `((x + 0.055) / 1.055)^2.4` (IEC 61966-2-1).
fn to_linear(g: &mut GraphBuilder, x: &Tensor) -> Result<Tensor, GraphError> {
    let low = g.div_scalar(x, 12.92)?;
    let high = g.add_scalar(x, 0.055)?;
    let high = g.div_scalar(&high, 1.055)?;
    let zero = g.scalar(DType::F32, 0.0)?;
    // Below the bend the power is not taken, so its base may be anything that gives a number.
    let high = g.max(&high, &zero)?;
    let high = g.pow_scalar(&high, 2.4)?;
    bend(g, x, 0.04045, &high, &low)
}

/// The inverse: `12.92·x` up to 0.0031308, else `1.055·x^(1/2.4) − 0.055`.
fn from_linear(g: &mut GraphBuilder, x: &Tensor) -> Result<Tensor, GraphError> {
    let low = g.mul_scalar(x, 12.92)?;
    let zero = g.scalar(DType::F32, 0.0)?;
    let high = g.max(x, &zero)?;
    let high = g.pow_scalar(&high, 1.0 / 2.4)?;
    let high = g.mul_scalar(&high, 1.055)?;
    let high = g.add_scalar(&high, -0.055)?;
    bend(g, x, 0.0031308, &high, &low)
}

fn bend(g: &mut GraphBuilder, x: &Tensor, at: f64, high: &Tensor, low: &Tensor) -> Result<Tensor, GraphError> {
    let at = g.scalar(DType::F32, at)?;
    let above = g.greater(x, &at)?;
    g.select(&above, high, low)
}

/// `0.2126 R + 0.7152 G + 0.0722 B` in every channel.
fn luminance(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [.., channels] = area::picture(cx, "image", &x)?;
    if channels != 3 {
        return Err(cx.refuse("image", format!("the picture has {channels} channels"), "give it three"));
    }
    let g = cx.g()?;
    let weights = g.floats(DType::F32, [1, 1, 1, 3], &[0.2126, 0.7152, 0.0722])?;
    let parts = g.mul(&x, &weights)?;
    let sum = g.reduce_sum(&parts, &[3], true)?;
    let y = g.expand(&sum, &[1, 1, 1, 3])?;
    cx.one(&y)
}
