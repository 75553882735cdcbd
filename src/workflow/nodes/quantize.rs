//! Pictures in few colours: a palette by median cut ([`super::quantize_cut`]) and every pixel mapped to it, on the host.

use super::quantize_cut::Cutter;
use crate::graph::DType;
use crate::workflow::class::input::{choice, image, int};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, Data, EncodeError, HostStage, LowerError, Value};
use crate::workflow::value::{Setting, Type};

/// As the node lists them; behind `bayer-` the side of the pattern.
const DITHERS: &[&str] = &["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"];

/// Pillow's quantisation.
pub const CLASSES: &[Class] = &[Class {
    inputs: &[image("image"), int("colors", 256, 1, 256).live(), choice("dither", "none", DITHERS).live()],
    outputs: &[out(Type::Image)],
    note: "Runs on the host. A palette for each picture, by median cut.",
    ..Class::host("ImageQuantize", quantize)
}];

fn quantize(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.sym("image")?;
    let (dtype, shape) = cx.shape(x)?;
    let [_, h, w, 3] = shape[..] else {
        return Err(cx.refuse("image", format!("{shape:?} is no picture of three channels"), "give it three"));
    };
    if dtype != DType::F32 {
        return Err(cx.refuse("image", format!("{dtype} in place of a picture"), ""));
    }
    let settings = cx.follow(&["colors", "dither"], DType::I64, &[2], |settings| match settings {
        [colours, Setting::Text(dither)] => {
            let place = DITHERS.iter().position(|known| known == dither);
            let colours = colours.number().filter(|n| (1.0..=256.0).contains(n));
            let (Some(place), Some(colours)) = (place, colours) else {
                return Err(EncodeError::Wrong("colors are from 1 to 256, and dither is one of the list".to_owned()));
            };
            Ok(Data::I64(vec![colours as i64, place as i64]))
        }
        _ => Err(EncodeError::Wrong("a number and a dither are needed".to_owned())),
    })?;
    let stage = Quantize::new([h as usize, w as usize]);
    let made = cx.host(&[x], vec![settings], &[(DType::F32, shape)], Box::new(stage))?;
    Ok(made.into_iter().map(Value::Tensor).collect())
}

/// How pixels between two colours are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dither {
    /// To the nearest.
    None,
    /// What is left over goes to the pixels right and below.
    FloydSteinberg,
    /// A pattern of this side, a power of 2, is added first.
    Bayer(usize),
}

impl Dither {
    pub fn at(place: usize) -> Option<Self> {
        Some(match *DITHERS.get(place)? {
            "none" => Dither::None,
            "floyd-steinberg" => Dither::FloydSteinberg,
            other => Dither::Bayer(other.strip_prefix("bayer-")?.parse().ok()?),
        })
    }
}

/// A byte of a box of the mapping: how many of them a side has, and so many values of a byte are one.
const SIDE: usize = 8;
const STEP: usize = 4;
/// Boxes along a side of the cube.
const BOXES: usize = 256 / SIDE / STEP;
const VOLUME: usize = SIDE * SIDE * SIDE;

/// The nearest colour of a palette for every 64th part of red, green, blue, the lowest of four values counting for them; found a
/// box at a time. The first of several as near.
struct Nearest {
    palette: Vec<[u8; 3]>,
    known: [bool; BOXES * BOXES * BOXES],
    slots: Vec<u8>,
}

impl Nearest {
    fn new() -> Self {
        Self { palette: Vec::new(), known: [false; _], slots: vec![0; BOXES * BOXES * BOXES * VOLUME] }
    }

    fn take(&mut self, palette: Vec<[u8; 3]>) {
        self.palette = palette;
        self.known.fill(false);
    }

    fn of(&mut self, colour: [u8; 3]) -> [u8; 3] {
        let place = |side: usize, values: [usize; 3]| (values[0] * side + values[1]) * side + values[2];
        let at = colour.map(|byte| usize::from(byte) / STEP);
        let inside = place(BOXES, at.map(|n| n / SIDE));
        if !self.known[inside] {
            self.fill(inside, at.map(|n| (n / SIDE * SIDE * STEP) as i32));
        }
        self.palette[usize::from(self.slots[inside * VOLUME + place(SIDE, at.map(|n| n % SIDE))])]
    }

    /// Fills the box at `place`, which begins at `low`.
    fn fill(&mut self, place: usize, low: [i32; 3]) {
        let last = (SIDE * STEP) as i32 - 1;
        // The squares of the distances to the nearest and the farthest point of the box.
        let range = |colour: &[u8; 3]| {
            let (mut near, mut far) = (0, 0);
            for (&byte, low) in colour.iter().zip(low) {
                let (below, above) = (low - i32::from(byte), i32::from(byte) - (low + last));
                near += below.max(above).max(0).pow(2);
                far += below.abs().max(above.abs()).pow(2);
            }
            (near, far)
        };
        let most = self.palette.iter().map(|colour| range(colour).1).min().unwrap_or(0);
        let slots = &mut self.slots[place * VOLUME..(place + 1) * VOLUME];
        let mut nearest = [i32::MAX; VOLUME];
        for (i, colour) in self.palette.iter().enumerate().filter(|(_, colour)| range(colour).0 <= most) {
            let square = |axis: usize, step: usize| (low[axis] + (step * STEP) as i32 - i32::from(colour[axis])).pow(2);
            let mut slot = 0;
            for r in 0..SIDE {
                for g in 0..SIDE {
                    let two = square(0, r) + square(1, g);
                    for b in 0..SIDE {
                        let away = two + square(2, b);
                        if away < nearest[slot] {
                            (nearest[slot], slots[slot]) = (away, i as u8);
                        }
                        slot += 1;
                    }
                }
            }
        }
        self.known[place] = true;
    }
}

/// The stage. Its buffers stay from picture to picture.
pub(super) struct Quantize {
    size: [usize; 2],
    cutter: Cutter,
    nearest: Nearest,
    bytes: Vec<u8>,
    errors: Vec<i32>,
    pattern: (usize, Vec<f32>),
}

impl Quantize {
    /// For pictures of height and width.
    pub fn new(size: [usize; 2]) -> Self {
        Self {
            size,
            cutter: Cutter::default(),
            nearest: Nearest::new(),
            bytes: Vec::new(),
            errors: Vec::new(),
            pattern: (1, vec![0.0]),
        }
    }

    /// Turns `bytes` (H, W, 3) into at most `colours` colours.
    pub fn picture(&mut self, bytes: &mut [u8], colours: usize, dither: Dither) {
        let palette = self.cutter.palette(bytes, colours);
        if palette.is_empty() {
            return;
        }
        let count = palette.len();
        self.nearest.take(palette);
        match dither {
            Dither::None => self.map(bytes),
            Dither::FloydSteinberg => self.diffuse(bytes),
            Dither::Bayer(side) => {
                self.add_pattern(bytes, side, count);
                self.map(bytes);
            }
        }
    }

    fn map(&mut self, bytes: &mut [u8]) {
        for pixel in bytes.as_chunks_mut::<3>().0 {
            *pixel = self.nearest.of(*pixel);
        }
    }

    /// 7 of 16 parts of what is left over go right, 3, 5 and 1 below, each of them after all others on a place; a division by 16
    /// cuts off. What the last pixel of a row gives to the right goes, as blue's alone, to the row below.
    fn diffuse(&mut self, bytes: &mut [u8]) {
        let [_, w] = self.size;
        self.errors.clear();
        self.errors.resize(3 * (w + 1), 0);
        for row in bytes.chunks_exact_mut(3 * w) {
            let (mut right, mut below, mut corner, mut over) = ([0; 3], [0; 3], [0; 3], [0; 3]);
            for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let wanted: [i32; 3] = std::array::from_fn(|c| {
                    (i32::from(pixel[c]) + (right[c] + self.errors[3 * (x + 1) + c]) / 16).clamp(0, 255)
                });
                let chosen = self.nearest.of(wanted.map(|n| n as u8));
                for c in 0..3 {
                    over[c] = wanted[c] - i32::from(chosen[c]);
                    self.errors[3 * x + c] = 3 * over[c] + below[c];
                    below[c] = 5 * over[c] + corner[c];
                    corner[c] = over[c];
                    right[c] = 7 * over[c];
                }
                *pixel = chosen;
            }
            let last = self.errors.len() - 3;
            self.errors[last..].copy_from_slice(&[below[2], corner[2], over[2]]);
        }
    }

    /// Adds `2·256/count · m + ½` for Bayer's matrix m of `side`, and cuts off to a byte.
    fn add_pattern(&mut self, bytes: &mut [u8], side: usize, count: usize) {
        if self.pattern.0 != side {
            self.pattern = (side, bayer(side));
        }
        let [_, w] = self.size;
        let spread = (512.0 / count as f64) as f32;
        for (y, row) in bytes.chunks_exact_mut(3 * w).enumerate() {
            for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let more = spread * self.pattern.1[(y % side) * side + x % side] + 0.5;
                *pixel = pixel.map(|byte| (f32::from(byte) + more).clamp(0.0, 255.0) as u8);
            }
        }
    }
}

/// Bayer's matrix of `side` = 2ⁿ, from −½ to ½: four of half the side, less and more by parts of 4ⁿ.
fn bayer(side: usize) -> Vec<f32> {
    if side <= 1 {
        return vec![0.0];
    }
    let half = side / 2;
    let inner = bayer(half);
    let parts = (side * side) as f32;
    let at = |i: usize| {
        let (y, x) = (i / side, i % side);
        let quarter = [[-1.5, 0.5], [1.5, -0.5]][y / half][x / half];
        (parts * inner[(y % half) * half + x % half] + quarter) / parts
    };
    (0..side * side).map(at).collect()
}

impl HostStage for Quantize {
    fn run(&mut self, inputs: &[&Data], outputs: &mut [Data]) -> Result<(), String> {
        let ([Data::F32(pictures), Data::I64(settings)], [Data::F32(made)]) = (inputs, outputs) else {
            return Err("a picture, its settings and room for a picture are needed".to_owned());
        };
        let &[colours, dither] = settings.as_slice() else { return Err("two settings are needed".to_owned()) };
        let dither = usize::try_from(dither).ok().and_then(Dither::at).ok_or("this dither is not known")?;
        let one = 3 * self.size[0] * self.size[1];
        let mut bytes = std::mem::take(&mut self.bytes);
        for (picture, made) in pictures.chunks_exact(one).zip(made.chunks_exact_mut(one)) {
            bytes.clear();
            // A cast cuts off, and clamps.
            bytes.extend(picture.iter().map(|x| (x * 255.0) as u8));
            self.picture(&mut bytes, colours.clamp(1, 256) as usize, dither);
            made.iter_mut().zip(&bytes).for_each(|(x, byte)| *x = f32::from(*byte) / 255.0);
        }
        self.bytes = bytes;
        Ok(())
    }
}
