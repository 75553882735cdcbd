//! Gaussian blurs, and what is made of them.

use super::area;
use crate::graph::{Conv, DType, GraphBuilder, GraphError, Padding, Tensor};
use crate::workflow::class::input::{choice, float, image, int};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, Data, EncodeError, LowerError, Value};
use crate::workflow::value::{Setting, Type};

/// Blurs and the sharpening that comes from one. Radii shape the graph; how strong they are does not.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[image("image"), int("blur_radius", 1, 1, 31), float("sigma", 1.0, 0.1, 10.0, 0.1).live()],
        outputs: &[out(Type::Image)],
        note: "Sigma is relative to the kernel, as in ComfyUI.",
        ..Class::graph("ImageBlur", image_blur)
    },
    Class {
        inputs: &[
            image("image"),
            int("sharpen_radius", 1, 1, 31),
            float("sigma", 1.0, 0.1, 10.0, 0.01).live(),
            float("alpha", 1.0, 0.0, 5.0, 0.01).live(),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageSharpen", sharpen)
    },
    Class {
        pack: "ComfyUI-Background-Edit",
        inputs: &[
            image("images"),
            int("kernel_size", 61, 1, 501),
            float("sigma", 5.0, 1.0, 1000.0, 1.0).live(),
            choice("mode", "cuda", &["cuda", "cpu"]).ignored(),
        ],
        outputs: &[out(Type::Image)],
        note: "Sigma is in pixels.",
        ..Class::graph("GaussianBlur", gaussian_blur)
    },
];

/// `e^(−x²/2σ²)`, normalised, at `taps` points from `−reach` to `reach`.
fn gauss(taps: u64, reach: f64, sigma: f64) -> Vec<f32> {
    let step = if taps > 1 { 2.0 * reach / (taps - 1) as f64 } else { 0.0 };
    let bell: Vec<f64> = (0..taps).map(|i| (-0.5 * ((i as f64 * step - reach) / sigma).powi(2)).exp()).collect();
    let sum: f64 = bell.iter().sum();
    bell.into_iter().map(|x| (x / sum) as f32).collect()
}

/// The kernel of `taps` from `−reach` to `reach`, following the widget `sigma`.
fn kernel(cx: &mut Cx<'_>, taps: u64, reach: f64) -> Result<Tensor, LowerError> {
    cx.live(&["sigma"], DType::F32, &[1, 1, taps, 1], move |settings| {
        let sigma = settings.first().and_then(Setting::number).filter(|sigma| *sigma > 0.0);
        let sigma = sigma.ok_or_else(|| EncodeError::Wrong("sigma is no number above 0".to_owned()))?;
        Ok(Data::F32(gauss(taps, reach, sigma)))
    })
}

/// A picture (B, H, W, C) blurred down and across by one kernel (1, 1, k, 1), edges reflected. A row of pixels is taken as a row
/// of W·C numbers, in which the next pixel's number of the same channel is C further on, so nothing is transposed.
fn blurred(g: &mut GraphBuilder, x: &Tensor, kernel: &Tensor, shape: [u64; 4]) -> Result<Tensor, GraphError> {
    let [b, h, w, c] = shape;
    let taps = kernel.shape().fixed().map_or(1, |dims| dims[2]);
    let radius = taps / 2;
    let edge = [0, radius, radius, 0];
    let x = g.pad_with(x, &edge, &edge, Padding::Reflect)?;
    let x = g.reshape(&x, &[b as i64, 1, (h + 2 * radius) as i64, ((w + 2 * radius) * c) as i64])?;
    let x = g.conv(&x, kernel, None, Conv::padded(0))?;
    let across = g.transpose(kernel, &[0, 1, 3, 2])?;
    let x = g.conv(&x, &across, None, Conv { dilation: [1, c], ..Conv::padded(0) })?;
    g.reshape(&x, &[b as i64, h as i64, w as i64, c as i64])
}

/// The picture that is linked to `input`, and its blur with `2r + 1` taps on −1 to 1.
fn relative(cx: &mut Cx<'_>, radius: &str) -> Result<(Tensor, Tensor), LowerError> {
    let x = cx.tensor("image")?;
    let shape = area::picture(cx, "image", &x)?;
    let r = area::count(cx, radius)?;
    let kernel = kernel(cx, 2 * r + 1, 1.0)?;
    let y = blurred(cx.g()?, &x, &kernel, shape)?;
    Ok((x, y))
}

/// A Gaussian sampled on −1 to 1.
fn image_blur(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let (_, y) = relative(cx, "blur_radius")?;
    cx.one(&y)
}

/// `clamp((1 + 10α)·x − 10α·blur(x), 0, 1)`: the kernel `−10α·G` with its centre raised until it sums to 1.
fn sharpen(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let (x, y) = relative(cx, "sharpen_radius")?;
    let alpha = cx.float("alpha")?;
    let g = cx.g()?;
    let ten = g.mul_scalar(&alpha, 10.0)?;
    let away = g.sub(&x, &y)?;
    let away = g.mul(&away, &ten)?;
    let y = g.add(&x, &away)?;
    let y = g.clip(&y, 0.0, 1.0)?;
    cx.one(&y)
}

/// torchvision's Gaussian blur.
fn gaussian_blur(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("images")?;
    let shape = area::picture(cx, "images", &x)?;
    let taps = area::count(cx, "kernel_size")?;
    if taps % 2 == 0 {
        return Err(cx.refuse("kernel_size", format!("{taps} is even"), "take an odd number"));
    }
    let kernel = kernel(cx, taps, (taps - 1) as f64 / 2.0)?;
    let y = blurred(cx.g()?, &x, &kernel, shape)?;
    cx.one(&y)
}
