//! Pictures that are made of the frame, inside its graph: condition pictures of ControlNets, and what goes through the
//! processors before and behind the model.

use super::depth::{self, DepthConfig};
use super::filter::Filter;
use super::net::fixed;
use super::pose;
use super::{ModelError, Net, Source};
use crate::graph::{Conv, DType, GraphBuilder, GraphError, Interpolation, Tensor};

/// Where a picture comes from that a model is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Hint {
    /// From outside, as an input of the graph.
    #[default]
    Given,
    /// The frame's soft edges, see [`soft_edges`].
    SoftEdges,
    /// The frame's depth, see [`depth_map`].
    Depth(DepthConfig),
    /// The skeletons of people, see [`pose::draw`]. Its number: the least score of a person.
    Pose,
    /// What a filter makes of the frame. A ControlNet is given it in the frame's own size.
    Filter(Filter),
}

impl Hint {
    /// How many numbers it takes.
    pub fn numbers(&self) -> u64 {
        match self {
            Hint::Filter(filter) => filter.numbers(),
            Hint::Pose => 1,
            _ => 0,
        }
    }

    /// What it makes of `picture`, `f32` (F, 3, H, W) in 0…1, which stays as it is for [`Hint::Given`]. The numbers of a filter
    /// are the input `numbers`, the weights of a depth model come from `depth`, `people` (F, P, [`pose::NUMBERS`]) are those in
    /// the picture.
    ///
    /// # Errors
    /// [`ModelError`] when a weight is missing or `picture` is something else.
    pub fn build(
        &self,
        g: &mut GraphBuilder,
        numbers: &str,
        depth: Option<&mut (dyn Source + '_)>,
        precision: DType,
        people: Option<&Tensor>,
        picture: &Tensor,
    ) -> Result<Tensor, ModelError> {
        Ok(match self {
            Hint::Given => picture.clone(),
            Hint::SoftEdges => g.scope("soft_edges", |g| soft_edges(g, picture))?,
            Hint::Depth(config) => {
                let source =
                    depth.ok_or_else(|| ModelError::config("controlnets", "no weights of a depth model are given"))?;
                g.scope("depth", |g| Ok(depth_map(g, config, source, precision, picture)))??
            }
            Hint::Pose => {
                let people = people.ok_or_else(|| ModelError::config("controlnets", "no people are given"))?;
                let threshold = g.input(numbers, DType::F32, [1])?;
                let drawn = g.scope("pose", |g| pose::draw(g, people, &threshold))?;
                match [fixed(picture, 2)?, fixed(picture, 3)?] {
                    [pose::SIDE, pose::SIDE] => drawn,
                    [height, width] => g.resize(&drawn, height, width, Interpolation::Linear)?,
                }
            }
            Hint::Filter(filter) => {
                let numbers = match filter.numbers() {
                    0 => None,
                    n => Some(g.input(numbers, DType::F32, [n])?),
                };
                filter.build(g, picture, numbers.as_ref())?
            }
        })
    }
}

/// Weights of red, green and blue in grey, by ITU-R BT.601.
const GREY: [f32; 3] = [0.299, 0.587, 0.114];
/// What the edges of the three scales count.
const SCALES: [f32; 3] = [0.5, 0.3, 0.2];
/// Right halves of the middle and lower rows of the second scale's kernel, in sixteenths.
const FIVE: [[f32; 2]; 3] = [[5.0, 3.0], [3.0, 2.0], [2.0, 1.0]];
/// The binomial kernel, in sixteenths.
const BELL: [f32; 5] = [1.0, 4.0, 6.0, 4.0, 1.0];

/// Soft edges of `x`, `f32` (F, 3, H, W) in 0…1, as another such picture of three equal channels: the preprocessor `soft_edge`
/// of the live runner's StreamDiffusion.
///
/// Grey, the size √(x² + y²) of its gradients at three scales (kernels of 3, 5 and 7 pixels, zeros beyond the edge), their sum
/// with the weights 0.5, 0.3 and 0.2, a binomial blur of 5 pixels, each picture divided by its largest number, and
/// 1 / (1 + e^(3 − 6e)) of that.
///
/// # Errors
/// When `x` is something else.
pub fn soft_edges(g: &mut GraphBuilder, x: &Tensor) -> Result<Tensor, GraphError> {
    let grey = g.floats(DType::F32, [1, 3, 1, 1], &GREY)?;
    let x = g.conv(x, &grey, None, Conv::padded(0))?;
    let kernels = g.floats(DType::F32, [6, 1, 7, 7], &gradients())?;
    let x = g.conv(&x, &kernels, None, Conv::padded(3))?;
    let x = g.mul(&x, &x)?;
    let [across, down] = [g.slice(&x, 1, 0, 3)?, g.slice(&x, 1, 3, 6)?];
    let x = g.add(&across, &down)?;
    let x = g.sqrt(&x)?;
    let kernel: Vec<f32> = SCALES
        .iter()
        .flat_map(|scale| BELL.iter().flat_map(move |a| BELL.iter().map(move |b| scale * a * b / 256.0)))
        .collect();
    let kernel = g.floats(DType::F32, [1, 3, 5, 5], &kernel)?;
    let x = g.conv(&x, &kernel, None, Conv::padded(2))?;
    let most = g.reduce_max(&x, &[1, 2, 3], true)?;
    let most = g.add_scalar(&most, 1e-8)?;
    let x = g.div(&x, &most)?;
    let x = g.mul_scalar(&x, 6.0)?;
    let x = g.sub_scalar(&x, 3.0)?;
    let x = g.sigmoid(&x)?;
    g.concat(&[&x, &x, &x], 1)
}

/// The kernels across at the three scales, each in the middle of 7×7, then the same turned to go down.
fn gradients() -> Vec<f32> {
    let weight = |scale: usize, row: usize, right: usize| match scale {
        0 => [[2.0], [1.0]].get(row).and_then(|row| row.get(right - 1)).copied().unwrap_or(0.0),
        1 => FIVE.get(row).and_then(|row| row.get(right - 1)).map_or(0.0, |n| n / 16.0),
        _ => (7 - row - right) as f32 / 32.0,
    };
    let at = |scale: usize, row: usize, column: usize| {
        let (row, column) = (row.abs_diff(3), column as isize - 3);
        if column == 0 { 0.0 } else { column.signum() as f32 * weight(scale, row, column.unsigned_abs()) }
    };
    let mut all = Vec::with_capacity(6 * 49);
    for turned in [false, true] {
        for scale in 0..3 {
            for i in 0..7 {
                all.extend((0..7).map(|j| if turned { at(scale, j, i) } else { at(scale, i, j) }));
            }
        }
    }
    all
}

/// The depth of `x`, `f32` (F, 3, H, W) in 0…1, as another such picture, near is 1, three equal channels: the preprocessor
/// `depth_tensorrt` of the live runner's StreamDiffusion, which gives the model colours in 0…1 as they are.
///
/// Bilinear to the model's size, the model, (d − min) / (max − min) of each picture, bilinear back.
///
/// # Errors
/// [`ModelError`] when a weight is missing or `x` is something else.
pub fn depth_map(
    g: &mut GraphBuilder,
    config: &DepthConfig,
    source: &mut dyn Source,
    precision: DType,
    x: &Tensor,
) -> Result<Tensor, ModelError> {
    let (height, width) = (fixed(x, 2)?, fixed(x, 3)?);
    let x = g.resize(x, config.size, config.size, Interpolation::Linear)?;
    let depth = depth::build(&mut Net::new(g, source, precision), config, &x)?;
    let depth = g.cast(&depth, DType::F32)?;
    let most = g.reduce_max(&depth, &[1, 2, 3], true)?;
    let turned = g.mul_scalar(&depth, -1.0)?;
    let least = g.reduce_max(&turned, &[1, 2, 3], true)?;
    let range = g.add(&most, &least)?;
    // One depth throughout is 0.
    let floor = g.scalar(DType::F32, 1e-12)?;
    let range = g.max(&range, &floor)?;
    let depth = g.add(&depth, &least)?;
    let depth = g.div(&depth, &range)?;
    let depth = g.resize(&depth, height, width, Interpolation::Linear)?;
    Ok(g.concat(&[&depth, &depth, &depth], 1)?)
}

/// Bytes (F, H, W, C) as `f32` (F, C, H, W) in 0…1.
///
/// # Errors
/// When `frame` is something else.
pub fn planes(g: &mut GraphBuilder, frame: &Tensor) -> Result<Tensor, GraphError> {
    let x = g.cast(frame, DType::F32)?;
    let x = g.transpose(&x, &[0, 3, 1, 2])?;
    g.div_scalar(&x, 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_are_those_of_the_runner() {
        let all = gradients();
        let row = |kernel: usize, i: usize| &all[kernel * 49 + i * 7..][..7];
        assert_eq!(row(0, 3), [0.0, 0.0, -2.0, 0.0, 2.0, 0.0, 0.0]);
        assert_eq!(row(0, 2), [0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(row(0, 1), [0.0; 7]);
        let sixteenths = |numbers: [f32; 7]| numbers.map(|n| n / 16.0);
        assert_eq!(row(1, 3), sixteenths([0.0, -3.0, -5.0, 0.0, 5.0, 3.0, 0.0]));
        assert_eq!(row(1, 5), sixteenths([0.0, -1.0, -2.0, 0.0, 2.0, 1.0, 0.0]));
        let half = |numbers: [f32; 7]| numbers.map(|n| n / 32.0);
        assert_eq!(row(2, 3), half([-4.0, -5.0, -6.0, 0.0, 6.0, 5.0, 4.0]));
        assert_eq!(row(2, 6), half([-1.0, -2.0, -3.0, 0.0, 3.0, 2.0, 1.0]));
        for kernel in 0..3 {
            for i in 0..7 {
                for j in 0..7 {
                    assert_eq!(row(kernel, i)[j], row(kernel + 3, j)[i]);
                }
            }
        }
    }
}
