//! Parts of pictures and masks: what several families cut out, join and write over.

use crate::graph::{DType, GraphBuilder, GraphError, Tensor};
use crate::workflow::lower::{Cx, LowerError};

/// The dimensions of a picture (B, H, W, C).
pub(super) fn picture(cx: &Cx<'_>, input: &str, x: &Tensor) -> Result<[u64; 4], LowerError> {
    let fixed = x.shape().fixed().and_then(|dims| <[u64; 4]>::try_from(dims).ok());
    fixed.ok_or_else(|| cx.refuse(input, format!("a picture has 4 dimensions, not {}", x.shape()), ""))
}

/// The dimensions of a mask (B, H, W).
pub(super) fn mask(cx: &Cx<'_>, input: &str, x: &Tensor) -> Result<[u64; 3], LowerError> {
    let fixed = x.shape().fixed().and_then(|dims| <[u64; 3]>::try_from(dims).ok());
    fixed.ok_or_else(|| cx.refuse(input, format!("a mask has 3 dimensions, not {}", x.shape()), ""))
}

/// A rectangle of rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub top: u64,
    pub left: u64,
    pub height: u64,
    pub width: u64,
}

/// Rows and columns lie behind the batch in pictures and masks alike.
const ROWS: i64 = 1;
const COLUMNS: i64 = 2;

/// `area` of `x`, which it must not leave.
pub(super) fn cut(g: &mut GraphBuilder, x: &Tensor, area: Area) -> Result<Tensor, GraphError> {
    let x = part(g, x, ROWS, area.top, area.height)?;
    part(g, &x, COLUMNS, area.left, area.width)
}

fn part(g: &mut GraphBuilder, x: &Tensor, axis: i64, start: u64, length: u64) -> Result<Tensor, GraphError> {
    if start == 0 && x.shape().fixed().is_some_and(|dims| dims[axis as usize] == length) {
        return Ok(x.clone());
    }
    g.slice(x, axis, start as i64, (start + length) as i64)
}

/// `x` with `new` in the place of `area`.
pub(super) fn paste(g: &mut GraphBuilder, x: &Tensor, new: &Tensor, area: Area) -> Result<Tensor, GraphError> {
    let rows = part(g, x, ROWS, area.top, area.height)?;
    let rows = between(g, &rows, new, COLUMNS, area.left, area.width)?;
    between(g, x, &rows, ROWS, area.top, area.height)
}

/// `x` with `new` in the place of `length` positions from `start` on along `axis`.
fn between(
    g: &mut GraphBuilder,
    x: &Tensor,
    new: &Tensor,
    axis: i64,
    start: u64,
    length: u64,
) -> Result<Tensor, GraphError> {
    let total = x.shape().fixed().map_or(0, |dims| dims[axis as usize]);
    let before = if start > 0 { Some(g.slice(x, axis, 0, start as i64)?) } else { None };
    let end = start + length;
    let after = if end < total { Some(g.slice(x, axis, end as i64, total as i64)?) } else { None };
    let parts: Vec<&Tensor> = before.iter().chain([new]).chain(after.iter()).collect();
    if parts.len() == 1 { Ok(new.clone()) } else { g.concat(&parts, axis) }
}

/// Picks positions of `axis` in the given order.
pub(super) fn pick(g: &mut GraphBuilder, x: &Tensor, axis: i64, order: &[i64]) -> Result<Tensor, GraphError> {
    let indices = g.ints([order.len() as u64], order)?;
    g.gather(x, &indices, axis)
}

/// The colours that nodes know by name.
pub(super) fn colour(name: &str) -> [f32; 3] {
    match name {
        "white" => [1.0, 1.0, 1.0],
        "red" => [1.0, 0.0, 0.0],
        "green" => [0.0, 1.0, 0.0],
        "blue" => [0.0, 0.0, 1.0],
        _ => [0.0; 3],
    }
}

/// A picture (B, H, W, C) of one colour; a fourth channel is 1.
pub(super) fn plain(g: &mut GraphBuilder, colour: [f32; 3], shape: [u64; 4]) -> Result<Tensor, GraphError> {
    let channels: Vec<f32> = (0..shape[3] as usize).map(|i| colour.get(i).copied().unwrap_or(1.0)).collect();
    let x = g.floats(DType::F32, [1, 1, 1, shape[3]], &channels)?;
    g.expand(&x, &shape)
}

/// A whole number as a dimension or a position.
pub(super) fn count(cx: &mut Cx<'_>, input: &str) -> Result<u64, LowerError> {
    let number = cx.int(input)?;
    u64::try_from(number).map_err(|_| cx.refuse(input, format!("{number} is below 0"), "take 0 or more"))
}
