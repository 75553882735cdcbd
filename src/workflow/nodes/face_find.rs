//! Where faces are, as MediaPipe's graphs `face_detection_short_range` and `face_landmark_front_cpu` tell it: anchors and boxes of
//! the detector, weighted non-maximum suppression, the tilted square in which landmarks are looked for, and the way back.
//!
//! Places are shares of the picture's width and height; angles are in radians, clockwise.

use super::face_lines::{CORNERS, POINTS};

/// Side of the detector's picture in pixels.
pub const DETECTOR_SIDE: usize = 128;
/// Boxes that the detector gives.
pub const BOXES: usize = 896;
/// Numbers of a box: its centre, its size, six points.
pub const BOX_NUMBERS: usize = 16;
/// Side of the landmark model's picture in pixels.
pub const LANDMARK_SIDE: usize = 192;

/// Boxes that overlap more than this, as a share of what they cover together, are one face.
const SAME_FACE: f32 = 0.3;
/// The same for the squares of faces that are tracked.
const SAME_SQUARE: f32 = 0.5;
/// The square around a face is so much larger than what encloses it.
const MARGIN: f32 = 1.5;

/// A box from its left upper corner to its right lower one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    pub min: [f32; 2],
    pub max: [f32; 2],
}

impl Rect {
    fn area(&self) -> f32 {
        (self.max[0] - self.min[0]) * (self.max[1] - self.min[1])
    }

    /// What both cover, as a share of what they cover together.
    fn overlap(&self, other: &Rect) -> f32 {
        let side = |i: usize| self.max[i].min(other.max[i]) - self.min[i].max(other.min[i]);
        let both = side(0).max(0.0) * side(1).max(0.0);
        let all = self.area() + other.area() - both;
        if all > 0.0 { both / all } else { 0.0 }
    }
}

/// A face that the detector sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub score: f32,
    /// Place among the detector's boxes.
    pub index: usize,
    pub rect: Rect,
    /// The eyes first.
    pub points: [[f32; 2]; 6],
}

/// A tilted rectangle in which landmarks are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Square {
    pub centre: [f32; 2],
    /// Share of the picture's width and height.
    pub size: [f32; 2],
    pub tilt: f32,
}

/// Centres of the detector's boxes: two at each of 16×16 places, six at each of 8×8.
pub fn anchors() -> Vec<[f32; 2]> {
    let grid = |cells: usize, each: usize| {
        (0..cells * cells * each).map(move |i| {
            let cell = i / each;
            [cell % cells, cell / cells].map(|n| (n as f32 + 0.5) / cells as f32)
        })
    };
    grid(16, 2).chain(grid(8, 6)).collect()
}

/// The boxes whose score, the sigmoid of `scores`, is at least `least`, into `found`. `boxes` has [`BOX_NUMBERS`] for each.
pub fn decode(boxes: &[f32], scores: &[f32], anchors: &[[f32; 2]], least: f32, found: &mut Vec<Found>) {
    found.clear();
    let rows = boxes.as_chunks::<BOX_NUMBERS>().0.iter().zip(scores).zip(anchors);
    for (index, ((numbers, score), anchor)) in rows.enumerate() {
        let score = 1.0 / (1.0 + (-score.clamp(-100.0, 100.0)).exp());
        let side = DETECTOR_SIDE as f32;
        let place = |i: usize| [numbers[i] / side + anchor[0], numbers[i + 1] / side + anchor[1]];
        let (centre, size) = (place(0), [numbers[2] / side, numbers[3] / side]);
        // A box turned inside out, or of no numbers, is none.
        if score >= least && size[0] >= 0.0 && size[1] >= 0.0 {
            let at = |sign: f32| std::array::from_fn(|i| centre[i] + sign * size[i] / 2.0);
            let rect = Rect { min: at(-1.0), max: at(1.0) };
            found.push(Found { score, index, rect, points: std::array::from_fn(|k| place(4 + 2 * k)) });
        }
    }
}

/// Joins boxes of one face to their mean, weighted by score, best first, up to `most` into `kept`. Of equal scores, which MediaPipe
/// leaves in any order, the first box comes first. `found` is used up.
pub fn suppress(found: &mut Vec<Found>, most: usize, kept: &mut Vec<Found>) {
    kept.clear();
    found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.index.cmp(&b.index)));
    while kept.len() < most
        && let Some(&best) = found.first()
    {
        let before = found.len();
        let mut total = 0.0;
        let mut sum = Found {
            score: best.score,
            index: best.index,
            rect: Rect { min: [0.0; 2], max: [0.0; 2] },
            points: [[0.0; 2]; 6],
        };
        found.retain(|one| {
            let same = one.rect.overlap(&best.rect) > SAME_FACE;
            if same {
                total += one.score;
                for i in 0..2 {
                    sum.rect.min[i] += one.rect.min[i] * one.score;
                    sum.rect.max[i] += one.rect.max[i] * one.score;
                    for (sum, point) in sum.points.iter_mut().zip(&one.points) {
                        sum[i] += point[i] * one.score;
                    }
                }
            }
            !same
        });
        if found.len() == before {
            // It does not even overlap itself: a box of no size.
            kept.push(best);
            break;
        }
        for number in [&mut sum.rect.min, &mut sum.rect.max].into_iter().chain(&mut sum.points) {
            *number = number.map(|n| n / total);
        }
        kept.push(sum);
    }
}

/// The whole picture of `size` (width, height) in the middle of a square.
pub fn whole([width, height]: [f32; 2]) -> Square {
    let side = width.max(height);
    Square { centre: [0.5; 2], size: [side / width, side / height], tilt: 0.0 }
}

/// `found`, in shares of the square `from` which is not tilted, in shares of the picture.
pub fn out_of(from: &Square, found: &Found) -> Found {
    let place = |p: [f32; 2]| std::array::from_fn(|i| p[i] * from.size[i] + (from.centre[i] - 0.5 * from.size[i]));
    let rect = Rect { min: place(found.rect.min), max: place(found.rect.max) };
    Found { rect, points: found.points.map(place), ..*found }
}

/// The square around `rect` with a margin, upright where the line from `from` to `to` is level.
pub fn around(rect: &Rect, from: [f32; 2], to: [f32; 2], picture: [f32; 2]) -> Square {
    let [dx, dy] = std::array::from_fn(|i| to[i] * picture[i] - from[i] * picture[i]);
    let extent: [f32; 2] = std::array::from_fn(|i| rect.max[i] - rect.min[i]);
    let side = (extent[0] * picture[0]).max(extent[1] * picture[1]);
    Square {
        centre: std::array::from_fn(|i| rect.min[i] + extent[i] / 2.0),
        size: picture.map(|n| side / n * MARGIN),
        tilt: turn(-(-dy).atan2(dx)),
    }
}

/// An angle from −π to π.
fn turn(angle: f32) -> f32 {
    use std::f64::consts::{PI, TAU};
    (f64::from(angle) - TAU * ((f64::from(angle) + PI) / TAU).floor()) as f32
}

impl Square {
    /// Whether it is a place that can be looked at.
    pub fn is_sound(&self) -> bool {
        let numbers = [self.centre[0], self.centre[1], self.size[0], self.size[1], self.tilt];
        numbers.iter().all(|n| n.is_finite() && n.abs() < 1e4) && self.size.iter().all(|n| *n > 0.0)
    }

    fn rect(&self) -> Rect {
        Rect {
            min: std::array::from_fn(|i| self.centre[i] - self.size[i] / 2.0),
            max: std::array::from_fn(|i| self.centre[i] + self.size[i] / 2.0),
        }
    }
}

/// Puts `new` behind `squares`, in the place of those that it overlaps.
pub fn join(squares: &mut Vec<Square>, new: Square) {
    squares.retain(|old| new.rect().overlap(&old.rect()) <= SAME_SQUARE);
    squares.push(new);
}

/// Landmarks in pixels of the model's picture, three numbers each, to shares of the picture; the depth in shares of its width.
pub fn place_landmarks(raw: &[f32], square: &Square, landmarks: &mut [f32]) {
    let (sin, cos) = square.tilt.sin_cos();
    let side = LANDMARK_SIDE as f32;
    for (raw, to) in raw.as_chunks::<3>().0.iter().zip(landmarks.as_chunks_mut::<3>().0) {
        let (x, y) = (raw[0] / side - 0.5, raw[1] / side - 0.5);
        to[0] = (cos * x - sin * y) * square.size[0] + square.centre[0];
        to[1] = (sin * x + cos * y) * square.size[1] + square.centre[1];
        to[2] = raw[2] / side * square.size[0];
    }
}

/// Where to look for a face in the next picture.
pub fn follow(landmarks: &[f32], picture: [f32; 2]) -> Square {
    let places = &landmarks.as_chunks::<3>().0[..POINTS];
    let mut rect = Rect { min: [f32::MAX; 2], max: [f32::MIN; 2] };
    for place in places {
        rect.min = std::array::from_fn(|i| rect.min[i].min(place[i]));
        rect.max = std::array::from_fn(|i| rect.max[i].max(place[i]));
    }
    let [from, to] = CORNERS.map(|i| [places[i][0], places[i][1]]);
    around(&rect, from, to, picture)
}

/// What lies beyond the picture.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    Black,
    /// The nearest pixel.
    Edge,
}

/// Cuts `square` out of `picture`, f32 (H, W, 3) from 0 to 1, to `out`, (side, side, 3) from `range[0]` to `range[1]`.
///
/// Bilinear between bytes, in steps of a 32nd of a pixel, without a filter, as OpenCV's `warpPerspective` does.
pub fn cut(
    picture: &[f32],
    size: [usize; 2],
    square: &Square,
    beyond: Beyond,
    range: [f32; 2],
    out: &mut [f32],
    side: usize,
) {
    let pixels = picture.as_chunks::<3>().0;
    let [width, height] = size.map(|n| n as i64);
    let [w, h] = size.map(|n| n as f32);
    let (cx, cy) = (square.centre[0] * w, square.centre[1] * h);
    let (wide, high) = (square.size[0] * w, square.size[1] * h);
    let (sin, cos) = f64::from(square.tilt).sin_cos();
    let (a, b) = (sin as f32 * 0.5, cos as f32 * 0.5);
    // Three corners; a step along each side leads from pixel to pixel.
    let below = [cx - a * high - b * wide, cy + b * high - a * wide];
    let first = [cx + a * high - b * wide, cy - b * high - a * wide];
    let right = [2.0 * cx - below[0], 2.0 * cy - below[1]];
    let step = |to: [f32; 2], i: usize| (f64::from(to[i]) - f64::from(first[i])) / side as f64;
    let scale = (range[1] - range[0]) / 255.0;
    let tap = |x: i64, y: i64| -> [i64; 3] {
        let (x, y) = match beyond {
            Beyond::Edge => (x.clamp(0, width - 1), y.clamp(0, height - 1)),
            Beyond::Black if x < 0 || y < 0 || x >= width || y >= height => return [0; 3],
            Beyond::Black => (x, y),
        };
        // A cast cuts off, as a picture becomes bytes in ComfyUI.
        pixels[(y * width + x) as usize].map(|n| i64::from((n * 255.0) as u8))
    };
    for (i, pixel) in out.as_chunks_mut::<3>().0.iter_mut().take(side * side).enumerate() {
        let (across, down) = ((i % side) as f64, (i / side) as f64);
        let [x, y] = std::array::from_fn(|k| {
            let at = f64::from(first[k]) + step(right, k) * across + step(below, k) * down;
            (at * 32.0).round_ties_even() as i64
        });
        let (fx, fy) = (x & 31, y & 31);
        let (x, y) = (x >> 5, y >> 5);
        let corners = [tap(x, y), tap(x + 1, y), tap(x, y + 1), tap(x + 1, y + 1)];
        let weights = [(32 - fx) * (32 - fy), fx * (32 - fy), (32 - fx) * fy, fx * fy];
        *pixel = std::array::from_fn(|c| {
            let sum: i64 = corners.iter().zip(weights).map(|(corner, weight)| corner[c] * weight).sum();
            ((sum + 512) >> 10) as f32 * scale + range[0]
        });
    }
}
