//! Largest and smallest values around each pixel.

use super::area;
use crate::graph::{GraphBuilder, GraphError, Padding, Pool, Tensor};
use crate::workflow::class::input::{choice, image, int};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, LowerError, Value};
use crate::workflow::value::Type;

/// kornia's morphology with a square of ones.
pub const CLASSES: &[Class] = &[Class {
    inputs: &[
        image("image"),
        choice("operation", "erode", &["erode", "dilate", "open", "close", "gradient", "bottom_hat", "top_hat"]),
        int("kernel_size", 3, 3, 999),
    ],
    outputs: &[out(Type::Image)],
    ..Class::graph("Morphology", morphology)
}];

/// A window along one axis: so many pixels before the middle one, so many behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    before: u64,
    after: u64,
}

impl Edge {
    /// The pixel alone.
    pub(super) const NONE: Self = Self { before: 0, after: 0 };

    /// `size` pixels; of an even number the larger half lies before the middle.
    pub(super) fn around(size: u64) -> Self {
        Self { before: size / 2, after: size - size / 2 - 1 }
    }

    /// The other way round.
    fn turned(self) -> Self {
        Self { before: self.after, after: self.before }
    }
}

/// The largest value of each window of `x` (N, C, H, W). Beyond the edges nothing counts.
pub(super) fn spread(g: &mut GraphBuilder, x: &Tensor, rows: Edge, columns: Edge) -> Result<Tensor, GraphError> {
    let mut y = x.clone();
    for (axis, window) in [(2, rows), (3, columns)] {
        let length = window.before + window.after + 1;
        if length == 1 {
            continue;
        }
        let (mut before, mut after, mut shape) = ([0; 4], [0; 4], [1; 2]);
        (before[axis], after[axis], shape[axis - 2]) = (window.before, window.after, length);
        // The outermost pixel repeated changes no maximum: it is in every window that reaches beyond it.
        y = g.pad_with(&y, &before, &after, Padding::Edge)?;
        y = g.max_pool(&y, Pool { window: shape, stride: [1, 1] })?;
    }
    Ok(y)
}

/// A dilation turns its window round, as the definition says; only one of even size shows it.
fn dilate(g: &mut GraphBuilder, x: &Tensor, window: Edge) -> Result<Tensor, GraphError> {
    spread(g, x, window.turned(), window.turned())
}

fn erode(g: &mut GraphBuilder, x: &Tensor, window: Edge) -> Result<Tensor, GraphError> {
    let x = g.neg(x)?;
    let x = spread(g, &x, window, window)?;
    g.neg(&x)
}

/// Erosion is the smallest, dilation the largest of the window; opening is erosion then dilation, closing the reverse; the
/// gradient is dilation − erosion, the hats are `x − opening` and `closing − x`.
fn morphology(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    area::picture(cx, "image", &x)?;
    let operation = cx.text("operation")?;
    let window = Edge::around(area::count(cx, "kernel_size")?);
    let g = cx.g()?;
    let x = g.transpose(&x, &[0, 3, 1, 2])?;
    let y = match operation.as_str() {
        "erode" => erode(g, &x, window)?,
        "dilate" => dilate(g, &x, window)?,
        "gradient" => {
            let (large, small) = (dilate(g, &x, window)?, erode(g, &x, window)?);
            g.sub(&large, &small)?
        }
        "open" | "top_hat" => {
            let y = erode(g, &x, window)?;
            let y = dilate(g, &y, window)?;
            if operation == "open" { y } else { g.sub(&x, &y)? }
        }
        _ => {
            let y = dilate(g, &x, window)?;
            let y = erode(g, &y, window)?;
            if operation == "close" { y } else { g.sub(&y, &x)? }
        }
    };
    let y = g.transpose(&y, &[0, 2, 3, 1])?;
    cx.one(&y)
}
