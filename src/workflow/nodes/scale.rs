//! Pictures in other sizes.

use super::area::{self, Area};
use crate::graph::{DType, GraphBuilder, GraphError, Interpolation, Pool, Tensor};
use crate::workflow::class::input::{choice, float, image, int};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, LowerError, Value};
use crate::workflow::value::Type;

const METHODS: &[&str] = &["nearest-exact", "bilinear", "area", "bicubic", "lanczos"];
/// ComfyUI's bound of a side.
pub(super) const MAX_SIDE: i128 = 16384;

/// Sizes by width and height, by a factor, by pixels.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[
            image("image"),
            choice("upscale_method", "nearest-exact", METHODS),
            int("width", 512, 0, MAX_SIDE),
            int("height", 512, 0, MAX_SIDE),
            choice("crop", "disabled", &["disabled", "center"]),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageScale", scale)
    },
    Class {
        inputs: &[
            image("image"),
            choice("upscale_method", "nearest-exact", METHODS),
            float("scale_by", 1.0, 0.01, 8.0, 0.01),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageScaleBy", scale_by)
    },
    Class {
        inputs: &[
            image("image"),
            choice("upscale_method", "nearest-exact", METHODS),
            float("megapixels", 1.0, 0.01, 16.0, 0.01),
            int("resolution_steps", 1, 1, 256),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageScaleToTotalPixels", scale_to_pixels)
    },
];

/// As Python rounds: halves to the even number.
fn round(x: f64) -> u64 {
    x.round_ties_even() as u64
}

/// Width and height; one of them 0 follows the other, both 0 leave the picture as it is.
fn scale(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [_, h, w, _] = area::picture(cx, "image", &x)?;
    let (method, crop) = (cx.text("upscale_method")?, cx.text("crop")? == "center");
    let (width, height) = match (area::count(cx, "width")?, area::count(cx, "height")?) {
        (0, 0) => return cx.one(&x),
        (0, height) => (round(w as f64 * height as f64 / h as f64).max(1), height),
        (width, 0) => (width, round(h as f64 * width as f64 / w as f64).max(1)),
        both => both,
    };
    let y = resized(cx, &x, [height, width], &method, crop)?;
    cx.one(&y)
}

/// `round(side · scale_by)`
fn scale_by(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [_, h, w, _] = area::picture(cx, "image", &x)?;
    let (method, by) = (cx.text("upscale_method")?, cx.number("scale_by")?);
    let [height, width] = [h, w].map(|side| round(side as f64 * by));
    if height == 0 || width == 0 {
        return Err(cx.refuse("scale_by", format!("{w}×{h} becomes {width}×{height}"), "take a larger factor"));
    }
    let y = resized(cx, &x, [height, width], &method, false)?;
    cx.one(&y)
}

/// `round(side · √(megapixels · 2²⁰ / (W·H)) / steps) · steps`
fn scale_to_pixels(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [_, h, w, _] = area::picture(cx, "image", &x)?;
    let (method, total) = (cx.text("upscale_method")?, cx.number("megapixels")? * 1024.0 * 1024.0);
    let steps = area::count(cx, "resolution_steps")?;
    let by = (total / (w * h) as f64).sqrt();
    let [height, width] = [h, w].map(|side| round(side as f64 * by / steps as f64) * steps);
    if height == 0 || width == 0 {
        return Err(cx.refuse("resolution_steps", format!("{width}×{height} is no size"), "take smaller steps"));
    }
    let y = resized(cx, &x, [height, width], &method, false)?;
    cx.one(&y)
}

/// A picture (B, H, W, C) in `size`, height and width, by one of ComfyUI's methods; with `centre` it is first cropped to
/// the new proportions.
pub(super) fn resized(
    cx: &mut Cx<'_>,
    x: &Tensor,
    size: [u64; 2],
    method: &str,
    centre: bool,
) -> Result<Tensor, LowerError> {
    let [_, h, w, _] = area::picture(cx, "", x)?;
    let g = cx.g()?;
    let x = if centre { area::cut(g, x, cropped([h, w], size))? } else { x.clone() };
    let x = g.transpose(&x, &[0, 3, 1, 2])?;
    let y = match method {
        "nearest-exact" => g.resize(&x, size[0], size[1], Interpolation::NearestExact)?,
        "bilinear" => g.resize(&x, size[0], size[1], Interpolation::Linear)?,
        "bicubic" => g.resize(&x, size[0], size[1], Interpolation::Cubic)?,
        "area" => by_area(g, &x, size)?,
        _ => lanczos(g, &x, size)?,
    };
    Ok(g.transpose(&y, &[0, 2, 3, 1])?)
}

/// The middle of a picture of `old` height and width with the proportions of `new`.
fn cropped(old: [u64; 2], new: [u64; 2]) -> Area {
    let [h, w] = old.map(|side| side as f64);
    let (was, is) = (w / h, new[1] as f64 / new[0] as f64);
    let (mut left, mut top) = (0, 0);
    if was > is {
        left = round((w - w * (is / was)) / 2.0);
    } else if was < is {
        top = round((h - h * (was / is)) / 2.0);
    }
    Area { top, left, height: old[0] - 2 * top, width: old[1] - 2 * left }
}

/// Means over what lies under each new pixel, from `⌊i·H/h⌋` to `⌈(i + 1)·H/h⌉`: PyTorch's adaptive average pool.
fn by_area(g: &mut GraphBuilder, x: &Tensor, size: [u64; 2]) -> Result<Tensor, GraphError> {
    let dims = x.shape().fixed().unwrap_or_default();
    let old = [dims[2], dims[3]];
    if old[0].is_multiple_of(size[0]) && old[1].is_multiple_of(size[1]) {
        let window = [old[0] / size[0], old[1] / size[1]];
        return g.average_pool(x, Pool { window, stride: window });
    }
    let weights = |old: u64, new: u64| {
        let mut matrix = vec![0.0; (old * new) as usize];
        for i in 0..new {
            let (from, to) = (i * old / new, ((i + 1) * old).div_ceil(new));
            for j in from..to {
                matrix[(i * old + j) as usize] = 1.0 / (to - from) as f32;
            }
        }
        matrix
    };
    let y = along_width(g, x, size[1], &weights(old[1], size[1]))?;
    along_height(g, &y, size[0], &weights(old[0], size[0]))
}

/// As Pillow resizes 8-bit pictures: across, then down, each rounded to 8 bits; `sinc(x)·sinc(x/3)` below 3, stretched when
/// the picture shrinks.
fn lanczos(g: &mut GraphBuilder, x: &Tensor, size: [u64; 2]) -> Result<Tensor, GraphError> {
    let dims = x.shape().fixed().unwrap_or_default();
    let x = g.mul_scalar(x, 255.0)?;
    let x = g.clip(&x, 0.0, 255.0)?;
    let mut y = g.floor(&x)?;
    if dims[3] != size[1] {
        y = along_width(g, &y, size[1], &lanczos_weights(dims[3], size[1]))?;
        y = to_byte(g, &y)?;
    }
    if dims[2] != size[0] {
        y = along_height(g, &y, size[0], &lanczos_weights(dims[2], size[0]))?;
        y = to_byte(g, &y)?;
    }
    g.div_scalar(&y, 255.0)
}

fn to_byte(g: &mut GraphBuilder, x: &Tensor) -> Result<Tensor, GraphError> {
    let x = g.add_scalar(x, 0.5)?;
    let x = g.floor(&x)?;
    g.clip(&x, 0.0, 255.0)
}

fn lanczos_weights(old: u64, new: u64) -> Vec<f32> {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    let filter = |x: f64| if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 };
    let scale = old as f64 / new as f64;
    let stretch = scale.max(1.0);
    let support = 3.0 * stretch;
    let mut matrix = vec![0.0; (old * new) as usize];
    for i in 0..new {
        let centre = (i as f64 + 0.5) * scale;
        let from = (centre - support + 0.5).max(0.0) as u64;
        let to = ((centre + support + 0.5) as u64).min(old);
        let taps: Vec<f64> = (from..to).map(|j| filter((j as f64 - centre + 0.5) / stretch)).collect();
        let sum: f64 = taps.iter().sum();
        for (j, tap) in (from..to).zip(taps) {
            matrix[(i * old + j) as usize] = (tap / sum) as f32;
        }
    }
    matrix
}

/// (B, C, H, W) times the transpose of a (new, W) matrix.
fn along_width(g: &mut GraphBuilder, x: &Tensor, new: u64, matrix: &[f32]) -> Result<Tensor, GraphError> {
    let old = matrix.len() as u64 / new;
    let matrix = g.floats(DType::F32, [new, old], matrix)?;
    let matrix = g.transpose(&matrix, &[1, 0])?;
    g.matmul(x, &matrix)
}

/// A (new, H) matrix times (B, C, H, W).
fn along_height(g: &mut GraphBuilder, x: &Tensor, new: u64, matrix: &[f32]) -> Result<Tensor, GraphError> {
    let old = matrix.len() as u64 / new;
    let matrix = g.floats(DType::F32, [new, old], matrix)?;
    g.matmul(&matrix, x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_keeps_the_middle_in_the_new_proportions() {
        assert_eq!(cropped([480, 640], [512, 512]), Area { top: 0, left: 80, height: 480, width: 480 });
        assert_eq!(cropped([640, 480], [512, 512]), Area { top: 80, left: 0, height: 480, width: 480 });
        assert_eq!(cropped([512, 512], [100, 100]), Area { top: 0, left: 0, height: 512, width: 512 });
    }

    #[test]
    fn every_row_of_weights_sums_to_one() {
        for (old, new) in [(512, 100), (100, 512), (7, 3), (3, 7), (1, 4)] {
            for row in lanczos_weights(old, new).chunks(old as usize) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{old} to {new}");
            }
        }
    }
}
