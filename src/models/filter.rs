//! What pictures go through before and behind a model: tensor functions without weights, those of the live runner's
//! StreamDiffusion.
//!
//! Pictures are `f32` (F, C, H, W) in 0…1. Numbers that may change from frame to frame are an input of the graph.

use super::ModelError;
use super::net::fixed;
use crate::graph::{Conv, DType, GraphBuilder, GraphError, Interpolation, Padding, Tensor};

/// A filter, with the numbers that are part of its graph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Filter {
    /// A Gaussian blur, black beyond the edge.
    Blur {
        /// Side of the kernel in pixels, odd.
        kernel: u64,
        /// The Gaussian's standard deviation in pixels.
        sigma: f32,
    },
    /// See `sharpen`. Its numbers: strength of the unsharp mask, of the edges, of the details, share of noise reduction.
    Sharpen {
        /// Standard deviation of the unsharp mask's Gaussian in pixels.
        radius: f32,
        /// Whether masks of half and twice the radius take part.
        several: bool,
    },
    /// Larger by a factor.
    Upscale {
        /// The factor, at least 1.
        factor: f64,
        /// How.
        how: Interpolation,
    },
    /// See `lineart`. Its number: the least darkness of a line, 0 to 255.
    Lineart {
        /// What its kernel's width is made of.
        sigma: f32,
    },
}

impl Filter {
    /// How many numbers it takes.
    pub fn numbers(&self) -> u64 {
        match self {
            Filter::Blur { .. } | Filter::Upscale { .. } => 0,
            Filter::Sharpen { .. } => 4,
            Filter::Lineart { .. } => 1,
        }
    }

    /// Height and width behind it, of a picture of `size`: ⌊n · factor⌋ each where it makes pictures larger.
    pub fn size(&self, size: [u64; 2]) -> [u64; 2] {
        match self {
            Filter::Upscale { factor, .. } => size.map(|n| (n as f64 * factor) as u64),
            _ => size,
        }
    }

    /// `picture` (F, C, H, W) behind it, by its `numbers` ([`Self::numbers`]), `None` where there are none.
    ///
    /// # Errors
    /// [`ModelError`] when the picture is something else or the numbers are missing.
    pub fn build(
        &self,
        g: &mut GraphBuilder,
        picture: &Tensor,
        numbers: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        let missing = || ModelError::config("numbers", "a filter is not given its numbers");
        Ok(match *self {
            Filter::Blur { kernel, sigma } => g.scope("blur", |g| gaussian(g, picture, &bell(kernel, sigma)))?,
            Filter::Sharpen { radius, several } => {
                let numbers = numbers.ok_or_else(missing)?;
                g.scope("sharpen", |g| sharpen(g, picture, numbers, radius, several))?
            }
            Filter::Upscale { how, .. } => {
                let [height, width] = self.size([fixed(picture, 2)?, fixed(picture, 3)?]);
                g.scope("upscale", |g| g.resize(picture, height, width, how))?
            }
            Filter::Lineart { sigma } => {
                let numbers = numbers.ok_or_else(missing)?;
                g.scope("lineart", |g| Ok(lineart(g, picture, numbers, sigma)))??
            }
        })
    }
}

/// A Gaussian of `size` pixels and the standard deviation `sigma`, of sum 1.
fn bell(size: u64, sigma: f32) -> Vec<f32> {
    let middle = (size - 1) as f64 / 2.0;
    normal(size, |i| (i as f64 - middle) / f64::from(sigma))
}

/// e^(−x²/2) at the `size` places `x`, divided by their sum.
fn normal(size: u64, x: impl Fn(u64) -> f64) -> Vec<f32> {
    let all: Vec<f64> = (0..size).map(|i| (-x(i) * x(i) / 2.0).exp()).collect();
    let sum: f64 = all.iter().sum();
    all.iter().map(|a| (a / sum) as f32).collect()
}

/// Every channel of `x` under the kernel that is `row` times itself, turned; black beyond the edge.
fn gaussian(g: &mut GraphBuilder, x: &Tensor, row: &[f32]) -> Result<Tensor, GraphError> {
    let pad = row.len() as u64 / 2;
    let across = separate(g, x, row, [0, pad, 0, pad], false)?;
    separate(g, &across, row, [pad, 0, pad, 0], true)
}

/// Every channel of `x` under the kernel `row`, across or down.
fn separate(
    g: &mut GraphBuilder,
    x: &Tensor,
    row: &[f32],
    padding: [u64; 4],
    down: bool,
) -> Result<Tensor, GraphError> {
    let size = row.len() as u64;
    let shape = if down { [size, 1] } else { [1, size] };
    kernel(g, x, row, shape, padding)
}

/// Every channel of `x` under the kernel `weights` of `shape`.
fn kernel(
    g: &mut GraphBuilder,
    x: &Tensor,
    weights: &[f32],
    shape: [u64; 2],
    padding: [u64; 4],
) -> Result<Tensor, GraphError> {
    let channels = x.shape().fixed().and_then(|dims| dims.get(1).copied()).unwrap_or(3);
    let weight = g.floats(DType::F32, [channels, 1, shape[0], shape[1]], &weights.repeat(channels as usize))?;
    g.conv(x, &weight, None, Conv { padding, groups: channels, ..Conv::default() })
}

/// Number `i` of `numbers` (n), as (1).
fn number(g: &mut GraphBuilder, numbers: &Tensor, i: i64) -> Result<Tensor, GraphError> {
    g.slice(numbers, 0, i, i + 1)
}

/// `a + share · b`
fn add_share(g: &mut GraphBuilder, a: &Tensor, share: &Tensor, b: &Tensor) -> Result<Tensor, GraphError> {
    let b = g.mul(share, b)?;
    g.add(a, &b)
}

/// The preprocessor `sharpen` of the live runner. With `numbers` s, e, d, n, and G(σ) a Gaussian blur whose kernel is
/// ⌊6σ + 1⌋ pixels wide, the next odd number and at least 3, all but the first step cut off at 0 and 1:
///
/// 1. x ← (1 − n) x + n G(0.3) x
/// 2. x ← x + Σ w (min(1, max(0, x + s w (x − G(r) x))) − x) for r half, once and twice the radius and w 0.3, 0.5, 0.2; without
///    `several` x + s (x − G(r) x) for the radius alone
/// 3. x ← x + e √(a² + b²), a and b Sobel's gradients
/// 4. x ← x + d L x, L Laplace's kernel of four neighbours
fn sharpen(
    g: &mut GraphBuilder,
    x: &Tensor,
    numbers: &Tensor,
    radius: f32,
    several: bool,
) -> Result<Tensor, GraphError> {
    let blurred = |g: &mut GraphBuilder, x: &Tensor, sigma: f32| {
        let size = ((6.0 * f64::from(sigma) + 1.0) as u64).max(3);
        gaussian(g, x, &bell(size + 1 - size % 2, sigma))
    };
    let [strength, edge, detail, noise] =
        [number(g, numbers, 0)?, number(g, numbers, 1)?, number(g, numbers, 2)?, number(g, numbers, 3)?];
    let soft = blurred(g, x, 0.3)?;
    let change = g.sub(&soft, x)?;
    let x = add_share(g, x, &noise, &change)?;
    let mask = |g: &mut GraphBuilder, sigma: f32, weight: f64| {
        let soft = blurred(g, &x, sigma)?;
        let fine = g.sub(&x, &soft)?;
        let strength = g.mul_scalar(&strength, weight)?;
        let sharp = add_share(g, &x, &strength, &fine)?;
        g.clip(&sharp, 0.0, 1.0)
    };
    let mut sharp = x.clone();
    if several {
        for (part, weight) in [(0.5, 0.3), (1.0, 0.5), (2.0, 0.2)] {
            let one = mask(g, radius * part, weight)?;
            let change = g.sub(&one, &x)?;
            let change = g.mul_scalar(&change, weight)?;
            sharp = g.add(&sharp, &change)?;
        }
        sharp = g.clip(&sharp, 0.0, 1.0)?;
    } else {
        sharp = mask(g, radius, 1.0)?;
    }
    let across = kernel(g, &sharp, &[-1.0, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0], [3, 3], [1; 4])?;
    let down = kernel(g, &sharp, &[-1.0, -2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 1.0], [3, 3], [1; 4])?;
    let [across, down] = [g.mul(&across, &across)?, g.mul(&down, &down)?];
    let size = g.add(&across, &down)?;
    let size = g.sqrt(&size)?;
    let x = add_share(g, &sharp, &edge, &size)?;
    let x = g.clip(&x, 0.0, 1.0)?;
    let details = kernel(g, &x, &[0.0, -1.0, 0.0, -1.0, 4.0, -1.0, 0.0, -1.0, 0.0], [3, 3], [1; 4])?;
    let x = add_share(g, &x, &detail, &details)?;
    g.clip(&x, 0.0, 1.0)
}

/// The shorter side of a picture in which lines are looked for.
const LINES: u64 = 512;
/// Halvings of 0…255 in search of a median: behind them 2⁻¹⁸ is left.
const HALVINGS: usize = 26;

/// The preprocessor `standard_lineart` of the live runner: what is darker than around it, as light lines, three equal
/// channels.
///
/// In bytes, the shorter side brought to 512 pixels and both filled up to multiples of 64 by the last pixel: the least of the
/// channels' (around − pixel), cut off at 0 and 255, where around is the picture under a kernel of 2 ⌈3σ⌉ + 1 pixels with the
/// weights e^(−(x² + y²) / (2σ²)), x and y from −1 to 1 whatever its width, mirrored at the edge. Divided by the median of
/// those above the threshold, or 16 where that is more, times 127, cut off to whole numbers up to 255.
fn lineart(g: &mut GraphBuilder, picture: &Tensor, threshold: &Tensor, sigma: f32) -> Result<Tensor, ModelError> {
    let (height, width) = (fixed(picture, 2)?, fixed(picture, 3)?);
    // What was a byte is that byte again.
    let x = g.mul_scalar(picture, 255.0)?;
    let x = g.add_scalar(&x, 1e-3)?;
    let x = g.floor(&x)?;
    let shorter = height.min(width);
    let [h, w] = [height, width].map(|n| (n as f64 * LINES as f64 / shorter as f64).round_ties_even() as u64);
    let x = match shorter.cmp(&LINES) {
        std::cmp::Ordering::Less => g.resize(&x, h, w, Interpolation::Cubic)?,
        std::cmp::Ordering::Equal => x,
        std::cmp::Ordering::Greater => {
            let columns = averages(width, w);
            let columns = g.floats(DType::F32, [w, width], &columns)?;
            let columns = g.transpose(&columns, &[1, 0])?;
            let rows = g.floats(DType::F32, [h, height], &averages(height, h))?;
            let narrow = g.matmul(&x, &columns)?;
            g.matmul(&rows, &narrow)?
        }
    };
    let [below, right] = [h, w].map(|n| n.next_multiple_of(64) - n);
    let x = match [below, right] {
        [0, 0] => x,
        _ => g.pad_with(&x, &[0; 4], &[0, 0, below, right], Padding::Edge)?,
    };
    let reach = (3.0 * f64::from(sigma)).ceil() as u64;
    let row = normal(2 * reach + 1, |i| (i as f64 / reach as f64 - 1.0) / f64::from(sigma));
    let around = g.pad_with(&x, &[0, 0, reach, reach], &[0, 0, reach, reach], Padding::Reflect)?;
    let around = separate(g, &around, &row, [0; 4], false)?;
    let around = separate(g, &around, &row, [0; 4], true)?;
    let brighter = g.sub(&x, &around)?;
    let most = g.reduce_max(&brighter, &[1], true)?;
    let darkness = g.neg(&most)?;
    let darkness = g.clip(&darkness, 0.0, 255.0)?;
    let norm = median_above(g, &darkness, threshold)?;
    let sixteen = g.scalar(DType::F32, 16.0)?;
    let norm = g.max(&norm, &sixteen)?;
    let lines = g.div(&darkness, &norm)?;
    let lines = g.mul_scalar(&lines, 127.0)?;
    let lines = g.clip(&lines, 0.0, 255.0)?;
    let lines = g.floor(&lines)?;
    let lines = g.slice(&lines, 2, 0, h as i64)?;
    let lines = g.slice(&lines, 3, 0, w as i64)?;
    let lines = g.div_scalar(&lines, 255.0)?;
    let lines = match [h, w] == [height, width] {
        true => lines,
        false => g.resize(&lines, height, width, Interpolation::Linear)?,
    };
    Ok(g.concat(&[&lines, &lines, &lines], 1)?)
}

/// The rows that make `from` numbers `to` of them, each the average of those that it lies over.
fn averages(from: u64, to: u64) -> Vec<f32> {
    let mut all = vec![0.0; (from * to) as usize];
    for i in 0..to {
        let (first, end) = (i * from / to, ((i + 1) * from).div_ceil(to));
        all[(i * from + first) as usize..(i * from + end) as usize].fill(1.0 / (end - first) as f32);
    }
    all
}

/// For each picture of `x` (F, 1, H, W), the lower median of its numbers above `threshold` (1), 0 where there are none, as
/// (F, 1, 1, 1). Found by halving 0…255, since sorting a picture takes longer.
fn median_above(g: &mut GraphBuilder, x: &Tensor, threshold: &Tensor) -> Result<Tensor, GraphError> {
    let above = |g: &mut GraphBuilder, limit: &Tensor| {
        let more = g.greater(x, limit)?;
        let more = g.cast(&more, DType::F32)?;
        g.reduce_sum(&more, &[1, 2, 3], true)
    };
    let count = above(g, threshold)?;
    // As many of them are above the median: all, less the lower half and the middle.
    let half = g.mul_scalar(&count, 0.5)?;
    let left = g.floor(&half)?;
    let least = g.sub_scalar(&count, 0.5)?;
    let zero = g.scalar(DType::F32, 0.0)?;
    let any = g.greater(&least, &zero)?;
    let nothing = g.mul_scalar(&count, 0.0)?;
    let mut low = g.add(&nothing, threshold)?;
    let mut high = g.add_scalar(&nothing, 255.0)?;
    for _ in 0..HALVINGS {
        let middle = g.add(&low, &high)?;
        let middle = g.mul_scalar(&middle, 0.5)?;
        let more = above(g, &middle)?;
        let too_low = g.greater(&more, &left)?;
        low = g.select(&too_low, &middle, &low)?;
        high = g.select(&too_low, &high, &middle)?;
    }
    g.select(&any, &high, &nothing)
}
