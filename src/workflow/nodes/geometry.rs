//! Where the pixels of a picture lie: cuts, turns, batches.

use super::area::{self, Area, count};
use super::scale::{MAX_SIDE, resized};
use crate::workflow::class::input::{choice, image, int};
use crate::workflow::class::{Class, named, out};
use crate::workflow::lower::{Cx, LowerError, Value};
use crate::workflow::value::Type;

/// Pixels moved, none changed.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[
            image("image"),
            int("width", 512, 1, MAX_SIDE),
            int("height", 512, 1, MAX_SIDE),
            int("x", 0, 0, MAX_SIDE),
            int("y", 0, 0, MAX_SIDE),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageCrop", crop)
    },
    Class {
        inputs: &[
            image("image"),
            choice("flip_method", "x-axis: vertically", &["x-axis: vertically", "y-axis: horizontally"]),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageFlip", flip)
    },
    Class {
        inputs: &[image("image"), choice("rotation", "none", &["none", "90 degrees", "180 degrees", "270 degrees"])],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageRotate", rotate)
    },
    Class {
        inputs: &[image("image1"), image("image2")],
        outputs: &[out(Type::Image)],
        note: "Of several pictures the first is the stream's.",
        ..Class::graph("ImageBatch", batch)
    },
    Class {
        inputs: &[image("image"), int("amount", 1, 1, 4096)],
        outputs: &[out(Type::Image)],
        ..Class::graph("RepeatImageBatch", repeat)
    },
    Class {
        inputs: &[image("image"), int("batch_index", 0, 0, 4095), int("length", 1, 1, 4096)],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageFromBatch", from_batch)
    },
    Class {
        inputs: &[image("image")],
        outputs: &[named("width", Type::Int), named("height", Type::Int), named("batch_size", Type::Int)],
        ..Class::graph("GetImageSize", size)
    },
];

/// What of the rectangle lies in the picture.
fn crop(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [_, h, w, _] = area::picture(cx, "image", &x)?;
    let left = count(cx, "x")?.min(w - 1);
    let top = count(cx, "y")?.min(h - 1);
    let width = count(cx, "width")?.min(w - left);
    let height = count(cx, "height")?.min(h - top);
    let y = area::cut(cx.g()?, &x, Area { top, left, height, width })?;
    cx.one(&y)
}

fn backwards(length: u64) -> Vec<i64> {
    (0..length as i64).rev().collect()
}

/// Upside down, or left for right.
fn flip(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [_, h, w, _] = area::picture(cx, "image", &x)?;
    let (axis, length) = if cx.text("flip_method")?.starts_with('x') { (1, h) } else { (2, w) };
    let y = area::pick(cx.g()?, &x, axis, &backwards(length))?;
    cx.one(&y)
}

/// Clockwise by quarters of a turn.
fn rotate(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [_, h, w, _] = area::picture(cx, "image", &x)?;
    let rotation = cx.text("rotation")?;
    let g = cx.g()?;
    let y = match rotation.as_str() {
        "90 degrees" => {
            let turned = g.transpose(&x, &[0, 2, 1, 3])?;
            area::pick(g, &turned, 2, &backwards(h))?
        }
        "180 degrees" => {
            let down = area::pick(g, &x, 1, &backwards(h))?;
            area::pick(g, &down, 2, &backwards(w))?
        }
        "270 degrees" => {
            let turned = g.transpose(&x, &[0, 2, 1, 3])?;
            area::pick(g, &turned, 1, &backwards(w))?
        }
        _ => x,
    };
    cx.one(&y)
}

/// One behind the other, the second in the size of the first: bilinear, cropped to its proportions.
fn batch(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let (a, b) = (cx.tensor("image1")?, cx.tensor("image2")?);
    let [_, h, w, c] = area::picture(cx, "image1", &a)?;
    let [_, h2, w2, c2] = area::picture(cx, "image2", &b)?;
    if c != c2 {
        return Err(cx.refuse("image2", format!("it has {c2} channels, the first has {c}"), ""));
    }
    let b = if (h, w) == (h2, w2) { b } else { resized(cx, &b, [h, w], "bilinear", true)? };
    let y = cx.g()?.concat(&[&a, &b], 0)?;
    cx.one(&y)
}

fn repeat(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let amount = count(cx, "amount")?;
    let [b, ..] = area::picture(cx, "image", &x)?;
    let order: Vec<i64> = (0..amount).flat_map(|_| 0..b as i64).collect();
    let y = area::pick(cx.g()?, &x, 0, &order)?;
    cx.one(&y)
}

fn from_batch(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [b, ..] = area::picture(cx, "image", &x)?;
    let from = count(cx, "batch_index")?.min(b - 1);
    let length = count(cx, "length")?.min(b - from);
    let y = cx.g()?.slice(&x, 0, from as i64, (from + length) as i64)?;
    cx.one(&y)
}

/// Known when the graph is built.
fn size(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [b, h, w, _] = area::picture(cx, "image", &x)?;
    Ok([w, h, b].map(|number| Value::Int(number as i64)).to_vec())
}
