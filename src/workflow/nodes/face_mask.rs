//! FaceMeshMaskNode: regions of a face as a mask.

use super::face_canvas::{Canvas, FAR, Place, Room, hull};
use super::face_lines::{MAX_CORNERS, REGIONS};
use super::face_mesh::{FACE_NUMBERS, FACES};
use crate::workflow::lower::{Data, HostStage};

/// Most pixels by which a mask grows, and most pixels of its blur.
pub const MAX_GROWTH: usize = 50;
pub const MAX_BLUR: usize = 20;
const MAX_KERNEL: usize = 2 * MAX_BLUR + 1;

/// Fills, grows and blurs. Inputs: landmarks f32 (B, [`FACES`], 468, 3), the number of faces f32 (B), settings f32 (6): face,
/// region, whether it is filled, value, growth, blur. Output: f32 (B, H, W), 0 without such a face.
pub struct FaceMask {
    /// Height and width.
    size: [usize; 2],
    mask: Vec<u8>,
    other: Vec<u8>,
    blurred: Vec<u32>,
    corners: Vec<Place>,
    hull: Vec<Place>,
    room: Room,
}

impl FaceMask {
    /// For pictures of `size` (height, width).
    pub fn new(size: [usize; 2]) -> Self {
        let pixels = size[0] * size[1];
        Self {
            size,
            mask: vec![0; pixels],
            other: vec![0; pixels],
            blurred: vec![0; pixels],
            corners: Vec::with_capacity(MAX_CORNERS),
            hull: Vec::with_capacity(2 * MAX_CORNERS),
            room: Room::new(MAX_CORNERS),
        }
    }

    fn fill(&mut self, face: &[f32], region: usize, filled: bool) {
        let [height, width] = self.size;
        let size = [width, height];
        let places = face.as_chunks::<3>().0;
        let (corners, convex) = REGIONS[region.min(REGIONS.len() - 1)];
        self.corners.clear();
        self.corners.extend(corners.iter().map(|&i| {
            // A cast cuts off toward 0.
            std::array::from_fn(|k| ((f64::from(places[i][k]) * size[k] as f64) as i64).clamp(-FAR, FAR))
        }));
        self.mask.fill(0);
        let mut canvas = Canvas::new(&mut self.mask, size);
        match (filled, convex) {
            (true, true) => {
                hull(&mut self.corners, &mut self.hull);
                canvas.convex(&self.hull, false, 255);
            }
            (true, false) => canvas.polygon(&self.corners, &mut self.room, 255),
            (false, _) => canvas.outline(&self.corners, 2, 255),
        }
    }

    /// As OpenCV's `dilate` with its ellipse of `length` pixels: every run of a row is stamped by every row of the ellipse.
    fn grow(&mut self, length: usize) {
        let [height, width] = self.size;
        self.other.fill(0);
        let mut spread = Canvas::new(&mut self.other, [width, height]);
        let anchor = (length / 2) as i64;
        for (y, row) in self.mask.chunks_exact(width.max(1)).enumerate() {
            let mut x = 0;
            while let Some(start) = row[x..].iter().position(|&n| n != 0).map(|n| x + n) {
                let end = row[start..].iter().position(|&n| n == 0).map_or(width, |n| start + n);
                for (i, [from, to]) in ellipse(length) {
                    let y = y as i64 - i + anchor;
                    spread.span(y, start as i64 - (to - 1) + anchor, end as i64 - 1 - from + anchor, 255);
                }
                x = end;
            }
        }
        std::mem::swap(&mut self.mask, &mut self.other);
    }

    /// As OpenCV's `GaussianBlur` of `2·radius + 1` pixels whose sigma is told by the size, in its whole numbers.
    fn blur(&mut self, radius: usize) {
        let [height, width] = self.size;
        let mut room = [0; MAX_KERNEL];
        let kernel = gauss(radius, &mut room);
        // Beyond the edge the picture is reflected, the last pixel not twice.
        let mirror = |at: usize, length: usize| {
            let last = length - 1;
            let at = at.abs_diff(radius).checked_rem(2 * last).unwrap_or(0);
            if at > last { 2 * last - at } else { at }
        };
        for y in 0..height {
            let row = &self.mask[y * width..(y + 1) * width];
            for x in 0..width {
                let taps = kernel.iter().enumerate().map(|(i, k)| k * u32::from(row[mirror(x + i, width)]));
                self.blurred[y * width + x] = taps.sum();
            }
        }
        for y in 0..height {
            for x in 0..width {
                let taps = kernel.iter().enumerate();
                let taps = taps.map(|(i, k)| k * self.blurred[mirror(y + i, height) * width + x]);
                self.mask[y * width + x] = ((taps.sum::<u32>() + (1 << 15)) >> 16) as u8;
            }
        }
    }
}

/// The rows of OpenCV's ellipse in a square of `length` pixels: each with its first pixel and the one behind its last.
fn ellipse(length: usize) -> impl Iterator<Item = (i64, [i64; 2])> {
    let (radius, length) = ((length / 2) as i64, length as i64);
    (0..length).filter_map(move |i| {
        let down = i - radius;
        if length == 1 {
            return Some((i, [0, 1]));
        }
        let inverse = if radius > 0 { 1.0 / (radius * radius) as f64 } else { 0.0 };
        let reach =
            (radius as f64 * (((radius * radius - down * down) as f64) * inverse).sqrt()).round_ties_even() as i64;
        (down.abs() <= radius).then(|| (i, [(radius - reach).max(0), (radius + reach + 1).min(length)]))
    })
}

/// OpenCV's Gaussian of `2·radius + 1` numbers, in 256ths, whose sum is 1: a table up to 9 numbers, else with a sigma of
/// `0.15·length + 0.35`. What rounding leaves over goes to the next number, and in the end to the middle.
fn gauss(radius: usize, room: &mut [u32; MAX_KERNEL]) -> &[u32] {
    let length = 2 * radius + 1;
    let sigma = 0.3 * ((length - 1) as f64 * 0.5 - 1.0) + 0.8;
    let bell = |i: usize| (-0.5 * (i as f64 / sigma).powi(2)).exp();
    let sum: f64 = bell(0) + 2.0 * (1..=radius).map(bell).sum::<f64>();
    // At a distance from the middle.
    let at = |i: usize| match radius {
        0 => 256.0,
        1 => [128.0, 64.0][i],
        2 => [96.0, 64.0, 16.0][i],
        3 => [72.0, 56.0, 28.0, 8.0][i],
        4 => [60.0, 51.0, 30.0, 13.0, 4.0][i],
        _ => 256.0 * bell(i) / sum,
    };
    let (mut over, mut half) = (0.0, 0);
    for i in 0..radius {
        let number = at(radius - i) + over;
        let whole = number.round_ties_even();
        over = number - whole;
        (room[i], room[length - 1 - i]) = (whole as u32, whole as u32);
        half += whole as u32;
    }
    room[radius] = 256 - 2 * half;
    &room[..length]
}

fn mixed() -> String {
    "FaceMeshMaskNode is given other tensors than it was built for".to_owned()
}

impl HostStage for FaceMask {
    fn run(&mut self, inputs: &[&Data], outputs: &mut [Data]) -> Result<(), String> {
        let [Data::F32(landmarks), Data::F32(counts), Data::F32(settings)] = inputs else { return Err(mixed()) };
        let [Data::F32(masks)] = outputs else { return Err(mixed()) };
        let &[face, region, filled, value, growth, blur] = settings.as_slice() else { return Err(mixed()) };
        let face = face as usize;
        let each = landmarks.chunks_exact(FACES * FACE_NUMBERS).zip(counts);
        for ((landmarks, &count), mask) in each.zip(masks.chunks_exact_mut(self.size[0] * self.size[1])) {
            if face as f32 >= count {
                mask.fill(0.0);
                continue;
            }
            self.fill(&landmarks[face * FACE_NUMBERS..(face + 1) * FACE_NUMBERS], region as usize, filled != 0.0);
            if growth > 0.0 {
                self.grow((growth as usize).min(MAX_GROWTH));
            }
            if blur > 0.0 {
                self.blur((blur as usize).min(MAX_BLUR));
            }
            for (to, from) in mask.iter_mut().zip(&self.mask) {
                *to = f32::from(*from) / 255.0 * value;
            }
        }
        Ok(())
    }
}
