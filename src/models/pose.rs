//! Skeletons of people, drawn in the graph of the frame, and the detector that finds them: an ONNX file of YOLO-NAS-Pose that
//! ends with its own suppression of doubles.

pub mod detector;

use crate::graph::{DType, GraphBuilder, GraphError, Tensor};

/// Side of the detector's picture, and of the one that is drawn in, in pixels.
pub const SIDE: u64 = 640;
/// Joints of a person, in the order of COCO: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left first.
pub const JOINTS: u64 = 17;
/// As many people are drawn in a picture; those that the detector tells behind them are not.
pub const PEOPLE: u64 = 5;
/// Numbers of a person: the score, then x and y in pixels and the confidence of each joint.
pub const NUMBERS: u64 = 1 + 3 * JOINTS;

/// A joint counts from this confidence on.
const SEEN: f64 = 0.5;
/// Half of a limb's width in pixels.
const LIMB: f64 = 5.0;
/// The joints of each limb, 17 being the middle of the shoulders, and its colour in red, green and blue. Later ones lie over
/// earlier ones.
const LIMBS: [([i64; 2], [u8; 3]); 16] = [
    ([0, 17], [0, 0, 255]),
    ([13, 15], [0, 85, 255]),
    ([14, 16], [0, 255, 170]),
    ([12, 14], [0, 255, 85]),
    ([12, 17], [0, 255, 85]),
    ([5, 6], [255, 0, 85]),
    ([11, 13], [0, 170, 255]),
    ([7, 9], [58, 177, 0]),
    ([5, 7], [119, 179, 0]),
    ([17, 11], [0, 179, 179]),
    ([6, 8], [179, 119, 0]),
    ([8, 10], [179, 179, 0]),
    ([1, 3], [179, 0, 119]),
    ([0, 1], [179, 0, 179]),
    ([0, 2], [118, 0, 178]),
    ([2, 4], [118, 0, 178]),
];
/// Joints lie over the limbs.
const GREEN: [u8; 3] = [0, 255, 0];
/// Share of a person's colour where it lies over another's.
const OVER: f64 = 0.75;
/// Half widths of the rows of OpenCV's filled circles, from the middle row on.
const CAP: [f32; 6] = [5.0, 4.0, 4.0, 4.0, 3.0, 0.0];
const JOINT: [f32; 11] = [10.0, 9.0, 9.0, 9.0, 9.0, 8.0, 8.0, 7.0, 6.0, 4.0, 0.0];
/// Beyond every picture.
const FAR: f64 = 16_000.0;

/// The skeletons of `people`, `f32` (F, P, [`NUMBERS`]), on black, as `f32` (F, 3, [`SIDE`], [`SIDE`]) in 0…1. People with a
/// score below `threshold` (1) are left out.
///
/// As `pose_tensorrt` of the live runner's StreamDiffusion draws with OpenCV: places cut off to whole pixels, limbs 10 pixels
/// wide with round ends where both joints are seen, then joints as circles of radius 10; a person over those before, three
/// parts of its colours to one of what was there; cut off to bytes at the end. Circles are OpenCV's to the pixel. A limb is
/// where |across| ≤ 5 + m/2, between its ends, m the larger of the direction's cosines: OpenCV rounds corners and edges to
/// pixels, so an edge may lie a pixel aside.
///
/// Each row of a limb is one run of pixels; only whether a pixel is in it is asked at every pixel.
///
/// # Errors
/// [`GraphError`] when `people` or `threshold` is something else.
pub fn draw(g: &mut GraphBuilder, people: &Tensor, threshold: &Tensor) -> Result<Tensor, GraphError> {
    let [frames, each] = match people.shape().fixed().as_deref() {
        Some(&[frames, each, NUMBERS]) if each > 0 => [frames, each],
        _ => {
            let reason = format!("people (F, P, {NUMBERS}) are needed, not {}", people.shape());
            return Err(GraphError::Shape { at: "pose".to_owned(), reason });
        }
    };
    let all = g.reshape(people, &[(frames * each) as i64, NUMBERS as i64])?;
    let points = Points::of(g, &all, threshold)?;
    let runs = limbs(g, &points)?;
    let (first, last) = (g.split(&runs[0], 1, &[1; LIMBS.len()])?, g.split(&runs[1], 1, &[1; LIMBS.len()])?);
    let across = numbers(g, &[1, 1, SIDE])?;
    let shape = [(frames * each) as i64, SIDE as i64, 1];
    // A stroke is one number, the later the larger, with its colour in the lower bytes: the largest is the one that is seen.
    let mut paint: Option<Tensor> = None;
    for (i, ((first, last), (_, colour))) in first.iter().zip(&last).zip(LIMBS).enumerate() {
        let [first, last] = [g.reshape(first, &shape)?, g.reshape(last, &shape)?];
        let [from, to] = [g.less(&first, &across)?, g.greater(&last, &across)?];
        let inside = g.and(&from, &to)?;
        paint = Some(over(g, paint, &inside, stroke(i, colour))?);
    }
    let joint = circles(g, &points)?;
    let paint = over(g, paint, &joint, stroke(LIMBS.len(), GREEN))?;
    let people = [frames as i64, each as i64, SIDE as i64, SIDE as i64];
    let paint = g.reshape(&paint, &people)?;

    let nothing = g.scalar(DType::I32, 0.0)?;
    let there = g.greater(&paint, &nothing)?;
    let there = g.cast(&there, DType::F32)?;
    let left = g.mul_scalar(&there, -OVER)?;
    let left = g.add_scalar(&left, 1.0)?;
    let left = g.split(&left, 1, &vec![1; each as usize])?;
    let mut planes = Vec::with_capacity(3);
    let mut rest = paint;
    // Blue is the lowest byte.
    for _ in 0..3 {
        let upper = g.div_scalar(&rest, 256.0)?;
        let above = g.mul_scalar(&upper, 256.0)?;
        let plane = g.sub(&rest, &above)?;
        rest = upper;
        let plane = g.cast(&plane, DType::F32)?;
        let plane = g.mul_scalar(&plane, OVER)?;
        let plane = g.split(&plane, 1, &vec![1; each as usize])?;
        let mut people = plane.into_iter().zip(&left);
        let (mut picture, _) = people.next().ok_or_else(|| GraphError::Invalid("nobody is drawn".to_owned()))?;
        for (person, left) in people {
            let below = g.mul(&picture, left)?;
            picture = g.add(&person, &below)?;
        }
        planes.push(picture);
    }
    let picture = g.concat(&[&planes[2], &planes[1], &planes[0]], 1)?;
    let picture = g.floor(&picture)?;
    g.div_scalar(&picture, 255.0)
}

/// Stroke `i` with its colour, as one number.
fn stroke(i: usize, [red, green, blue]: [u8; 3]) -> f64 {
    f64::from(u32::from_be_bytes([i as u8 + 1, red, green, blue]))
}

/// `paint` with `stroke` where `inside` is true. Choosing between the two would take twice the time on the CPU.
fn over(g: &mut GraphBuilder, paint: Option<Tensor>, inside: &Tensor, stroke: f64) -> Result<Tensor, GraphError> {
    let inside = g.cast(inside, DType::I32)?;
    let inside = g.mul_scalar(&inside, stroke)?;
    match paint {
        None => Ok(inside),
        Some(paint) => g.max(&paint, &inside),
    }
}

/// 0, 1, 2… along the only dimension of `shape` that is not 1.
fn numbers(g: &mut GraphBuilder, shape: &[u64]) -> Result<Tensor, GraphError> {
    let all: Vec<f32> = (0..shape.iter().product()).map(|n: u64| n as f32).collect();
    g.floats(DType::F32, shape.to_vec(), &all)
}

/// The joints of R people, the middle of the shoulders with them, each (R, 18, 1).
struct Points {
    x: Tensor,
    y: Tensor,
    /// 1 where it is to be seen, 0 where it is not.
    seen: Tensor,
}

impl Points {
    fn of(g: &mut GraphBuilder, people: &Tensor, threshold: &Tensor) -> Result<Self, GraphError> {
        let score = g.slice(people, 1, 0, 1)?;
        let joints = g.slice(people, 1, 1, NUMBERS as i64)?;
        let joints = g.reshape(&joints, &[-1, JOINTS as i64, 3])?;
        let [left, right] = [g.slice(&joints, 1, 5, 6)?, g.slice(&joints, 1, 6, 7)?];
        let middle = g.add(&left, &right)?;
        let middle = g.mul_scalar(&middle, 0.5)?;
        let all = g.concat(&[&joints, &middle], 1)?;
        // A cast cuts off, as `int` does.
        let places = g.slice(&all, 2, 0, 2)?;
        let places = g.cast(&places, DType::I32)?;
        let places = g.cast(&places, DType::F32)?;
        let certainty = g.slice(&all, 2, 2, 3)?;
        let least = g.scalar(DType::F32, SEEN)?;
        let certain = g.greater(&certainty, &least)?;
        let below = g.less(&score, threshold)?;
        let person = g.not(&below)?;
        let person = g.unsqueeze(&person, &[2])?;
        let seen = g.and(&certain, &person)?;
        Ok(Self { x: g.slice(&places, 2, 0, 1)?, y: g.slice(&places, 2, 1, 2)?, seen: g.cast(&seen, DType::F32)? })
    }
}

/// The limbs' pixels in each row: the number before the first and the one behind the last, (R, 16, [`SIDE`]) each.
fn limbs(g: &mut GraphBuilder, points: &Points) -> Result<[Tensor; 2], GraphError> {
    let ends = [0, 1].map(|end| LIMBS.map(|(joints, _)| joints[end]));
    let [from, to] = [g.ints([LIMBS.len() as u64], &ends[0])?, g.ints([LIMBS.len() as u64], &ends[1])?];
    let [x0, x1] = [g.gather(&points.x, &from, 1)?, g.gather(&points.x, &to, 1)?];
    let [y0, y1] = [g.gather(&points.y, &from, 1)?, g.gather(&points.y, &to, 1)?];
    let [seen0, seen1] = [g.gather(&points.seen, &from, 1)?, g.gather(&points.seen, &to, 1)?];
    let seen = g.mul(&seen0, &seen1)?;

    // Places are whole numbers, so a length is 0 or at least 1.
    let [dx, dy] = [g.sub(&x1, &x0)?, g.sub(&y1, &y0)?];
    let one = g.scalar(DType::F32, 1.0)?;
    let [ax, ay] = [g.abs(&dx)?, g.abs(&dy)?];
    let most = g.max(&ax, &ay)?;
    let divisor = g.max(&most, &one)?;
    let [ux, uy] = [g.div(&dx, &divisor)?, g.div(&dy, &divisor)?];
    let [ux2, uy2] = [g.mul(&ux, &ux)?, g.mul(&uy, &uy)?];
    let length = g.add(&ux2, &uy2)?;
    let length = g.sqrt(&length)?;
    let divisor = g.max(&length, &one)?;
    let length = g.mul(&length, &most)?;
    let [ux, uy] = [g.div(&ux, &divisor)?, g.div(&uy, &divisor)?];
    let [ax, ay] = [g.abs(&ux)?, g.abs(&uy)?];
    let edge = g.max(&ax, &ay)?;
    let edge = g.mul_scalar(&edge, 0.5)?;
    let wide = g.add_scalar(&edge, LIMB)?;
    let half = g.mul_scalar(&length, 0.5)?;
    // Without a length there is nothing between the circles.
    let there = g.min(&length, &one)?;
    let long = g.add(&half, &edge)?;
    let long = g.add(&long, &there)?;
    let long = g.sub_scalar(&long, 1.0)?;

    let rows = numbers(g, &[1, 1, SIDE])?;
    let down = g.sub(&rows, &y0)?;
    let zero = g.scalar(DType::F32, 0.0)?;
    let turned = g.neg(&uy)?;
    let side = strip(g, [&turned, &ux], &down, &zero, &wide)?;
    let along = strip(g, [&ux, &uy], &down, &half, &long)?;
    let [first, last] = [g.max(&side[0], &along[0])?, g.min(&side[1], &along[1])?];
    let nothing = g.greater(&first, &last)?;
    let [first, last] = [g.add(&first, &x0)?, g.add(&last, &x0)?];
    let [far, near] = [g.scalar(DType::F32, FAR)?, g.scalar(DType::F32, -FAR)?];
    let mut first = g.select(&nothing, &far, &first)?;
    let mut last = g.select(&nothing, &near, &last)?;
    let table: Vec<f32> = CAP.into_iter().chain([-FAR as f32]).collect();
    let table = g.floats(DType::F32, [table.len() as u64], &table)?;
    for (x, y) in [(&x0, &y0), (&x1, &y1)] {
        let away = distance(g, &rows, y, CAP.len() as u64)?;
        let half = g.gather(&table, &away, 0)?;
        let [left, right] = [g.sub(x, &half)?, g.add(x, &half)?];
        first = g.min(&first, &left)?;
        last = g.max(&last, &right)?;
    }
    // What is not seen lies beyond the picture.
    let gone = g.sub(&one, &seen)?;
    let gone = g.mul_scalar(&gone, 4.0 * FAR)?;
    let [first, last] = [g.add(&first, &gone)?, g.sub(&last, &gone)?];
    let most = SIDE as f64 + 8.0;
    let [first, last] = [g.clip(&first, -8.0, most)?, g.clip(&last, -8.0, most)?];
    let [first, last] = [g.ceil(&first)?, g.floor(&last)?];
    Ok([g.sub_scalar(&first, 0.5)?, g.add_scalar(&last, 0.5)?])
}

/// From where to where x is in |a x + b y − middle| ≤ half, by rows.
fn strip(
    g: &mut GraphBuilder,
    [a, b]: [&Tensor; 2],
    y: &Tensor,
    middle: &Tensor,
    half: &Tensor,
) -> Result<[Tensor; 2], GraphError> {
    let size = g.abs(a)?;
    let least = g.scalar(DType::F32, 1e-3)?;
    let level = g.less(&size, &least)?;
    let a = g.select(&level, &least, a)?;
    let size = g.max(&size, &least)?;
    let lean = g.mul(b, y)?;
    let centre = g.sub(middle, &lean)?;
    let centre = g.div(&centre, &a)?;
    let reach = g.div(half, &size)?;
    Ok([g.sub(&centre, &reach)?, g.add(&centre, &reach)?])
}

/// How many rows lie between `rows` and `y`, `most` at most, as an index.
fn distance(g: &mut GraphBuilder, rows: &Tensor, y: &Tensor, most: u64) -> Result<Tensor, GraphError> {
    let away = g.sub(rows, y)?;
    let away = g.abs(&away)?;
    let most = g.scalar(DType::F32, most as f64)?;
    let away = g.min(&away, &most)?;
    g.cast(&away, DType::I32)
}

/// Where a joint's circle is, `bool` (R, [`SIDE`], [`SIDE`]).
///
/// A circle's rows have a few widths only: for each width, the rows that have it times the columns that it reaches, all summed
/// up by one product of matrices.
fn circles(g: &mut GraphBuilder, points: &Points) -> Result<Tensor, GraphError> {
    let mut widths = JOINT.to_vec();
    widths.dedup();
    let (count, joints) = (widths.len(), JOINTS as usize + 1);
    let mut table: Vec<f32> =
        JOINT.iter().flat_map(|have| widths.iter().map(move |width| f32::from(u8::from(have == width)))).collect();
    table.resize(table.len() + count, 0.0);
    let table = g.floats(DType::F32, [JOINT.len() as u64 + 1, count as u64], &table)?;
    let numbers = numbers(g, &[1, 1, SIDE])?;
    let away = distance(g, &numbers, &points.y, JOINT.len() as u64)?;
    let rows = g.gather(&table, &away, 0)?;
    let seen = g.unsqueeze(&points.seen, &[3])?;
    let rows = g.mul(&rows, &seen)?;
    let rows = g.transpose(&rows, &[0, 2, 1, 3])?;
    let rows = g.reshape(&rows, &[-1, SIDE as i64, (joints * count) as i64])?;
    let away = g.sub(&numbers, &points.x)?;
    let away = g.abs(&away)?;
    let away = g.unsqueeze(&away, &[2])?;
    let reach: Vec<f32> = widths.iter().map(|width| width + 0.5).collect();
    let reach = g.floats(DType::F32, [1, 1, count as u64, 1], &reach)?;
    let columns = g.less(&away, &reach)?;
    let columns = g.cast(&columns, DType::F32)?;
    let columns = g.reshape(&columns, &[-1, (joints * count) as i64, SIDE as i64])?;
    let sum = g.matmul(&rows, &columns)?;
    let least = g.scalar(DType::F32, 0.5)?;
    g.greater(&sum, &least)
}
