//! How unsafe a picture is, by a classifier whose first class is the harmless one.

use super::eva::{self, EvaConfig};
use super::hint::planes;
use super::{ModelError, Net, Source};
use crate::graph::{DType, GraphBuilder, Model};

/// A graph from `frame` u8 (1, `height`, `width`, 3), RGB, to `unsafe` f32 (1): 1 less the share of the first class.
///
/// The picture in 0…1 is brought to the classifier's size by a cubic resize that takes every pixel into account, normalised,
/// and classified by weights and activations of `precision`.
///
/// # Errors
/// [`ModelError`] when a weight is missing or does not fit.
pub fn build(
    config: &EvaConfig,
    source: &mut dyn Source,
    [height, width]: [u64; 2],
    precision: DType,
) -> Result<Model, ModelError> {
    let mut builder = GraphBuilder::new("safety");
    let g = &mut builder;
    let frame = g.input("frame", DType::U8, [1, height, width, 3])?;
    let x = planes(g, &frame)?;
    let rows = g.floats(DType::F32, [config.size, height], &cubic(height, config.size))?;
    let columns = g.floats(DType::F32, [config.size, width], &cubic(width, config.size))?;
    let columns = g.transpose(&columns, &[1, 0])?;
    let x = g.matmul(&x, &columns)?;
    let x = g.matmul(&rows, &x)?;
    let [mean, deviation] = config.normal;
    let mean = g.floats(DType::F32, [1, 3, 1, 1], &mean)?;
    let deviation = g.floats(DType::F32, [1, 3, 1, 1], &deviation)?;
    let x = g.sub(&x, &mean)?;
    let x = g.div(&x, &deviation)?;
    let logits = eva::build(&mut Net::new(g, source, precision), config, &x)?;
    let logits = g.cast(&logits, DType::F32)?;
    let shares = g.softmax(&logits, -1)?;
    let rest = g.slice(&shares, 1, 1, config.classes as i64)?;
    // The others' sum: as exact where it is small.
    let sum = g.reduce_sum(&rest, &[1], false)?;
    g.output("unsafe", &sum)?;
    Ok(builder.finish()?)
}

/// The rows that make `from` numbers `to` of them: Keys' cubic kernel with a = −½ around each new number's place, as wide as
/// the step where that is more than 1 (PyTorch's `bicubic` with `antialias`).
fn cubic(from: u64, to: u64) -> Vec<f32> {
    let step = from as f64 / to as f64;
    let wide = step.max(1.0);
    let kernel = |x: f64| match x.abs() {
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    };
    let mut all = vec![0.0; (from * to) as usize];
    for i in 0..to {
        let centre = (i as f64 + 0.5) * step;
        let first = ((centre - 2.0 * wide + 0.5) as i64).max(0) as u64;
        let end = ((centre + 2.0 * wide + 0.5) as u64).min(from);
        let weights: Vec<f64> = (first..end).map(|j| kernel((j as f64 - centre + 0.5) / wide)).collect();
        let sum: f64 = weights.iter().sum();
        for (j, weight) in (first..end).zip(weights) {
            all[(i * from + j) as usize] = (weight / sum) as f32;
        }
    }
    all
}
