//! The similar-image filter as a graph of its own, small enough to run on every frame, the skipped ones too.
//!
//! With c the cosine similarity of the frame and of the last frame that was not skipped, both in −1…1, and η the
//! threshold, a frame is skipped with probability max(0, 1 − (1 − c) / (1 − η)), and never at η ≥ 1. After more than
//! `max_skip` skips the next similar frame passes and the count begins again. Sums are `f32`.
//!
//! | input | type and shape | |
//! | --- | --- | --- |
//! | `frame` | u8 (F, H, W, 3) | |
//! | `reference` | u8 (F, H, W, 3) | state |
//! | `skip_count` | f32 (1) | state; −1 before the first frame, which always passes |
//! | `threshold`, `max_skip` | f32 (1) | η and the most skips in a row |
//! | `draw` | f32 (1) | evenly distributed in 0…1, fresh for every frame |
//!
//! Outputs: `skip` u8 (1), 1 for a frame to skip; `similarity` f32 (1), c; `reference_out`, `skip_count_out`. On a device
//! `skip` is read one frame late: nothing waits for it.

use super::super::ModelError;
use crate::graph::{DType, GraphBuilder, GraphError, Model, Tensor};

/// The filter for F = `frames` frames of `height` × `width` pixels.
///
/// # Errors
/// [`ModelError`] when a dimension is 0.
pub fn build(frames: u64, height: u64, width: u64) -> Result<Model, ModelError> {
    if [frames, height, width].contains(&0) {
        return Err(ModelError::config("frame", "no pixels"));
    }
    let mut builder = GraphBuilder::new("similar");
    let g = &mut builder;
    let shape = [frames, height, width, 3];
    let frame = g.input("frame", DType::U8, shape)?;
    let reference = g.input("reference", DType::U8, shape)?;
    let count = g.input("skip_count", DType::F32, [1])?;
    let threshold = g.input("threshold", DType::F32, [1])?;
    let max_skip = g.input("max_skip", DType::F32, [1])?;
    let draw = g.input("draw", DType::F32, [1])?;

    let similarity = cosine(g, &frame, &reference)?;
    let one = g.floats(DType::F32, [1], &[1.0])?;
    let zero = g.floats(DType::F32, [1], &[0.0])?;
    let range = g.sub(&one, &threshold)?;
    let open = g.greater(&range, &zero)?;
    let safe = g.select(&open, &range, &one)?;
    let away = g.sub(&one, &similarity)?;
    let away = g.div(&away, &safe)?;
    let probability = g.sub(&one, &away)?;
    let probability = g.max(&probability, &zero)?;
    let probability = g.select(&open, &probability, &zero)?;
    let different = g.less(&probability, &draw)?;
    let first = g.less(&count, &zero)?;
    let worn = g.greater(&count, &max_skip)?;
    // Skipped when similar, not the first, and not one too many.
    let skip = g.select(&worn, &zero, &one)?;
    let skip = g.select(&different, &zero, &skip)?;
    let skip = g.select(&first, &zero, &skip)?;
    let skipped = g.greater(&skip, &zero)?;
    let skip = g.cast(&skip, DType::U8)?;
    // An ordinary pass leaves the count, a forced one clears it.
    let more = g.add(&count, &one)?;
    let passed = g.max(&count, &zero)?;
    let cleared = g.select(&worn, &zero, &more)?;
    let after = g.select(&different, &passed, &cleared)?;
    let after = g.select(&first, &zero, &after)?;
    let kept = g.select(&skipped, &reference, &frame)?;
    g.output("skip", &skip)?;
    g.output("similarity", &similarity)?;
    g.output("skip_count_out", &after)?;
    g.output("reference_out", &kept)?;
    Ok(builder.finish()?)
}

/// a · b / max(|a| |b|, 10⁻⁶) of two pictures of bytes, taken to −1…1.
fn cosine(g: &mut GraphBuilder, a: &Tensor, b: &Tensor) -> Result<Tensor, GraphError> {
    let [a, b] = [signed(g, a)?, signed(g, b)?];
    let mut product = |x: &Tensor, y: &Tensor| {
        let each = g.mul(x, y)?;
        // In two stages, so that no sum of a million terms loses the small ones.
        let rows = g.reduce_mean(&each, &[2, 3], false)?;
        let all = g.reduce_mean(&rows, &[0, 1], false)?;
        g.reshape(&all, &[1])
    };
    let [ab, aa, bb] = [product(&a, &b)?, product(&a, &a)?, product(&b, &b)?];
    let norms = g.mul(&aa, &bb)?;
    let norms = g.sqrt(&norms)?;
    let least = g.floats(DType::F32, [1], &[1e-6])?;
    let norms = g.max(&norms, &least)?;
    g.div(&ab, &norms)
}

fn signed(g: &mut GraphBuilder, picture: &Tensor) -> Result<Tensor, GraphError> {
    let x = g.cast(picture, DType::F32)?;
    let x = g.mul_scalar(&x, 2.0 / 255.0)?;
    g.sub_scalar(&x, 1.0)
}
