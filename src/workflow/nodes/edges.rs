//! Canny's edges: on the host, because the last step follows edges as far as they go.

use crate::graph::DType;
use crate::workflow::class::input::{float, image};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, Data, EncodeError, Follow, HostStage, LowerError, Value};
use crate::workflow::value::{Setting, Type};

/// kornia's Canny.
pub const CLASSES: &[Class] = &[Class {
    inputs: &[
        image("image"),
        float("low_threshold", 0.4, 0.01, 0.99, 0.01).live(),
        float("high_threshold", 0.8, 0.01, 0.99, 0.01).live(),
    ],
    outputs: &[out(Type::Image)],
    note: "Runs on the host.",
    ..Class::host("Canny", canny)
}];

fn canny(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.sym("image")?;
    let (dtype, shape) = cx.shape(x)?;
    let [b, h, w, c] = shape[..] else {
        return Err(cx.refuse("image", format!("a picture has 4 dimensions, not {shape:?}"), ""));
    };
    if dtype != DType::F32 || !matches!(c, 1 | 3) || h < 3 || w < 3 {
        return Err(cx.refuse(
            "image",
            format!("{dtype} {shape:?}"),
            "give it a picture of 1 or 3 channels, 3×3 or more",
        ));
    }
    let thresholds: Follow = cx.follow(&["low_threshold", "high_threshold"], DType::F32, &[2], |settings| {
        match settings.iter().filter_map(Setting::number).collect::<Vec<_>>()[..] {
            [low, high] if low <= high => Ok(Data::F32(vec![low as f32, high as f32])),
            _ => Err(EncodeError::Wrong("low_threshold must not be above high_threshold".to_owned())),
        }
    })?;
    let stage = Canny::new([b, h, w, c].map(|n| n as usize));
    let made = cx.host(&[x], vec![thresholds], &[(DType::F32, vec![b, h, w, 3])], Box::new(stage))?;
    Ok(made.into_iter().map(Value::Tensor).collect())
}

/// Rows and columns to the neighbour in each of eight directions, from the right by way of below.
const AROUND: [(isize, isize); 8] = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)];
/// Keeps the magnitude of a flat pixel above 0.
const EPSILON: f32 = 1e-6;

/// Grey, a Gaussian of 5×5 with sigma 1, Sobel, the largest along the gradient, two thresholds, and weak edges that touch
/// strong ones.
struct Canny {
    shape: [usize; 4],
    /// `e^(−x²/2)` at −2 to 2, normalised.
    kernel: [f32; 5],
    grey: Vec<f32>,
    soft: Vec<f32>,
    /// One pixel larger on every side, where there is no gradient.
    magnitude: Vec<f32>,
    direction: Vec<u8>,
    strong: Vec<u8>,
    walk: Vec<usize>,
}

impl Canny {
    fn new(shape: [usize; 4]) -> Self {
        let [_, h, w, _] = shape;
        let bell = [2.0_f32, 1.0, 0.0, 1.0, 2.0].map(|x| (-x * x / 2.0).exp());
        let sum: f32 = bell.iter().sum();
        Self {
            shape,
            kernel: bell.map(|x| x / sum),
            grey: vec![0.0; h * w],
            soft: vec![0.0; h * w],
            magnitude: vec![EPSILON.sqrt(); (h + 2) * (w + 2)],
            direction: vec![0; h * w],
            strong: vec![0; h * w],
            walk: Vec::with_capacity(h * w),
        }
    }

    fn one(&mut self, picture: &[f32], low: f32, high: f32, edges: &mut [f32]) {
        let [_, h, w, c] = self.shape;
        for (grey, pixel) in self.grey.iter_mut().zip(picture.chunks_exact(c)) {
            *grey = match pixel {
                [r, g, b] => 0.299 * r + 0.587 * g + 0.114 * b,
                _ => pixel[0],
            };
        }
        // Beyond the edge the picture is reflected, the last pixel not twice.
        let mirror = |at: isize, length: usize| {
            let last = length as isize - 1;
            let at = at.abs();
            (if at > last { 2 * last - at } else { at }).max(0) as usize
        };
        let taps = |at: usize, length: usize| {
            std::array::from_fn::<usize, 5, _>(|k| mirror(at as isize + k as isize - 2, length))
        };
        for i in 0..h {
            let row = &self.grey[i * w..(i + 1) * w];
            for j in 0..w {
                self.soft[i * w + j] = taps(j, w).iter().zip(self.kernel).map(|(&at, k)| row[at] * k).sum();
            }
        }
        for i in 0..h {
            let rows = taps(i, h);
            for j in 0..w {
                self.grey[i * w + j] = rows.iter().zip(self.kernel).map(|(&at, k)| self.soft[at * w + j] * k).sum();
            }
        }
        let x = &self.grey;
        for i in 0..h {
            let (up, down) = (i.saturating_sub(1) * w, (i + 1).min(h - 1) * w);
            for j in 0..w {
                let (left, right) = (j.saturating_sub(1), (j + 1).min(w - 1));
                let gx = (x[up + right] - x[up + left])
                    + 2.0 * (x[i * w + right] - x[i * w + left])
                    + (x[down + right] - x[down + left]);
                let gy = (x[down + left] - x[up + left])
                    + 2.0 * (x[down + j] - x[up + j])
                    + (x[down + right] - x[up + right]);
                self.magnitude[(i + 1) * (w + 2) + j + 1] = (gx * gx + gy * gy + EPSILON).sqrt();
                let eighths = (gy.atan2(gx) * (4.0 / std::f32::consts::PI)).round_ties_even() as i32;
                self.direction[i * w + j] = eighths.rem_euclid(8) as u8;
            }
        }
        self.walk.clear();
        for i in 0..h {
            for j in 0..w {
                let at = i * w + j;
                let size = self.largest(i, j);
                // 0: no edge, 1: a weak one, 2: a strong one.
                self.strong[at] = u8::from(size > low) + u8::from(size > high);
                if self.strong[at] == 2 {
                    self.walk.push(at);
                }
            }
        }
        while let Some(at) = self.walk.pop() {
            let (i, j) = ((at / w) as isize, (at % w) as isize);
            for (di, dj) in AROUND {
                let (i, j) = (i + di, j + dj);
                if i < 0 || j < 0 || i >= h as isize || j >= w as isize {
                    continue;
                }
                let next = i as usize * w + j as usize;
                if self.strong[next] == 1 {
                    self.strong[next] = 2;
                    self.walk.push(next);
                }
            }
        }
        for (pixel, strong) in edges.chunks_exact_mut(3).zip(&self.strong) {
            pixel.fill(if *strong == 2 { 1.0 } else { 0.0 });
        }
    }

    /// The magnitude at a pixel that its neighbours along the gradient do not reach, else 0. Of two equal ones side by side
    /// the left or upper one stays.
    fn largest(&self, i: usize, j: usize) -> f32 {
        let wide = self.shape[2] + 2;
        let at = (i + 1) * wide + j + 1;
        let size = self.magnitude[at];
        let direction = self.direction[i * self.shape[2] + j];
        let beats = |direction: u8| {
            let (di, dj) = AROUND[usize::from(direction)];
            let other = self.magnitude[(at as isize + di * wide as isize + dj) as usize];
            if matches!(direction, 0 | 2) { size >= other } else { size > other }
        };
        let most = beats(direction) && beats((direction + 4) % 8) && size > EPSILON.sqrt();
        if most { size } else { 0.0 }
    }
}

impl HostStage for Canny {
    fn run(&mut self, inputs: &[&Data], outputs: &mut [Data]) -> Result<(), String> {
        let ([Data::F32(pictures), Data::F32(thresholds)], [Data::F32(edges)]) = (inputs, outputs) else {
            return Err("Canny is given other tensors than it was built for".to_owned());
        };
        let [_, h, w, c] = self.shape;
        for (picture, edges) in pictures.chunks_exact(h * w * c).zip(edges.chunks_exact_mut(h * w * 3)) {
            self.one(picture, thresholds[0], thresholds[1], edges);
        }
        Ok(())
    }
}
