//! Who is in a frame: the detector in front of the frame's graph, which draws what it finds.
//!
//! It is a file that somebody else wrote, with shapes that depend on the picture, so it is no part of the graph and its work on
//! a GPU is not captured. What goes to it is a small picture, what comes back a few kilobytes.

use std::path::Path;
use std::time::Duration;

use super::params::Shape;
use super::place::Place;
use crate::frame::Size;
use crate::inference::{InferenceError, Input, Output, Session};
use crate::models::pose::detector::Ports;
use crate::models::pose::{self, NUMBERS, SIDE};
use crate::pipeline::PipelineError;

/// Numbers of the people in a frame.
pub(super) const PEOPLE: usize = (pose::PEOPLE * NUMBERS) as usize;
/// Side of the detector's picture.
const PIXELS: usize = SIDE as usize;
/// Numbers of a person's joints.
const JOINTS: usize = NUMBERS as usize - 1;
/// Places are cut off at so many pixels from the picture's corner, so that sums of their squares stay exact.
const FAR: f32 = 4096.0;

/// The input `people` of a graph of `frames` frames, where it has one.
pub(super) fn people_port(session: &mut Session, frames: i64) -> Result<Option<Input<f32>>, InferenceError> {
    let there = session.inputs().any(|port| port.name == "people");
    match there {
        true => session.input("people", &[frames, pose::PEOPLE as i64, NUMBERS as i64]).map(Some),
        false => Ok(None),
    }
}

/// How many people there are.
enum Count {
    Wide(Output<i64>),
    Narrow(Output<i32>),
}

/// The loaded detector.
pub(super) struct Detector {
    /// Whether anybody asks who is in the frame.
    pub wanted: bool,
    session: Session,
    input: Input<u8>,
    count: Count,
    scores: Output<f32>,
    joints: Output<f32>,
    smaller: Smaller,
    picture: Vec<u8>,
    found_scores: Vec<f32>,
    found_joints: Vec<f32>,
}

fn failed(error: impl std::fmt::Display) -> PipelineError {
    PipelineError::Load(error.to_string())
}

impl Detector {
    /// The detector that `shape` asks for, of its file below `models`; `None` where it asks for none.
    pub fn load(place: &Place<'_>, models: &Path, shape: &Shape) -> Result<Option<Self>, PipelineError> {
        let Some(file) = shape.detector() else { return Ok(None) };
        let path = file.find(models).map_err(failed)?;
        let ports = Ports::read(&path).map_err(failed)?;
        place.say(&format!("loading {}", path.display()));
        let session = place.file("pose", &path)?;
        let refused = |error: InferenceError| failed(format!("{}: {error}", path.display()));
        Self::new(session, &ports, shape.size).map(Some).map_err(refused)
    }

    fn new(mut session: Session, ports: &Ports, size: Size) -> Result<Self, InferenceError> {
        let (side, most) = (SIDE as i64, ports.most as i64);
        let input = session.input(&ports.picture, &[1, 3, side, side])?;
        let count = match ports.wide {
            true => Count::Wide(session.output(&ports.count, &[1, 1])?),
            false => Count::Narrow(session.output(&ports.count, &[1, 1])?),
        };
        let scores = session.output(&ports.scores, &[1, most])?;
        let joints = session.output(&ports.joints, &[1, most, pose::JOINTS as i64, 3])?;
        Ok(Self {
            wanted: true,
            session,
            input,
            count,
            scores,
            joints,
            smaller: Smaller::new(size),
            picture: vec![0; 3 * PIXELS * PIXELS],
            found_scores: vec![0.0; ports.most as usize],
            found_joints: vec![0.0; ports.most as usize * JOINTS],
        })
    }

    /// Writes those who are in `frame` to `people`, zeros behind them; nobody where nobody is asked for.
    pub fn find(&mut self, frame: &[u8], people: &mut [f32]) -> Result<(), InferenceError> {
        people.fill(0.0);
        if !self.wanted {
            return Ok(());
        }
        let Self { session, input, count, scores, joints, smaller, picture, found_scores, found_joints, .. } = self;
        smaller.run(frame, picture);
        let feeds = [input.feed(picture)];
        let (scores, joints) = (scores.fetch(found_scores), joints.fetch(found_joints));
        let count = match count {
            Count::Wide(output) => {
                let mut count = [0];
                session.run(&feeds, &mut [output.fetch(&mut count), scores, joints])?;
                count[0]
            }
            Count::Narrow(output) => {
                let mut count = [0];
                session.run(&feeds, &mut [output.fetch(&mut count), scores, joints])?;
                i64::from(count[0])
            }
        };
        let there = usize::try_from(count).unwrap_or(0).min(found_scores.len());
        take(&found_scores[..there], found_joints, people);
        Ok(())
    }

    /// Time that the GPU worked in the last run, told once.
    pub fn gpu_time(&mut self) -> Option<Duration> {
        self.session.gpu_time()
    }
}

/// Writes the first people of those with `scores` and `joints` to `people`. What is no number is not seen.
fn take(scores: &[f32], joints: &[f32], people: &mut [f32]) {
    let rows = people.chunks_exact_mut(JOINTS + 1).zip(scores).zip(joints.chunks_exact(JOINTS));
    for ((person, &score), joints) in rows {
        person[0] = if score.is_nan() { 0.0 } else { score };
        for (to, from) in person[1..].chunks_exact_mut(3).zip(joints.chunks_exact(3)) {
            if from.iter().all(|n| n.is_finite()) {
                to.copy_from_slice(&[from[0].clamp(-FAR, FAR), from[1].clamp(-FAR, FAR), from[2]]);
            }
        }
    }
}

/// Where a number of the smaller picture is in the larger: two neighbours, and the second one's share in units of 2⁻¹¹.
#[derive(Clone, Copy)]
struct Tap {
    at: [usize; 2],
    share: u32,
}

/// One in the units of [`Tap`].
const ONE: u32 = 1 << 11;

/// Makes the detector's picture of a frame: bilinear without a filter, pixels taken at their middles, cut off to bytes, as torch's
/// `interpolate` and a cast.
struct Smaller {
    columns: Vec<Tap>,
    rows: Vec<Tap>,
    /// A row of the frame's width, between two rows of it.
    row: Vec<u32>,
}

impl Smaller {
    fn new(size: Size) -> Self {
        let taps = |n: u32| -> Vec<Tap> {
            let last = n as usize - 1;
            let tap = |i: usize| {
                let at = ((i as f64 + 0.5) * f64::from(n) / PIXELS as f64 - 0.5).max(0.0);
                let low = (at as usize).min(last);
                let share = ((at - low as f64) * f64::from(ONE)).round() as u32;
                Tap { at: [low, (low + 1).min(last)], share: share.min(ONE) }
            };
            (0..PIXELS).map(tap).collect()
        };
        Self { columns: taps(size.width), rows: taps(size.height), row: vec![0; 3 * size.width as usize] }
    }

    /// `frame` (H, W, 3) as `to` (3, [`SIDE`], [`SIDE`]).
    fn run(&mut self, frame: &[u8], to: &mut [u8]) {
        let Self { columns, rows, row } = self;
        let bytes = row.len();
        for (y, tap) in rows.iter().enumerate() {
            let [above, below] = tap.at.map(|at| &frame[at * bytes..][..bytes]);
            for ((between, &above), &below) in row.iter_mut().zip(above).zip(below) {
                *between = u32::from(above) * (ONE - tap.share) + u32::from(below) * tap.share;
            }
            let pixels = row.as_chunks::<3>().0;
            for (c, plane) in to.chunks_exact_mut(PIXELS * PIXELS).enumerate() {
                for (out, tap) in plane[y * PIXELS..][..PIXELS].iter_mut().zip(columns.iter()) {
                    let [left, right] = tap.at.map(|at| pixels[at][c]);
                    *out = ((left * (ONE - tap.share) + right * tap.share) >> 22) as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As `frame` in `make_pose.py`, the upper left part.
    fn frame(index: usize, width: usize, height: usize) -> Vec<u8> {
        let size = width.max(height);
        let (left, top) = ((index * 7) % (size - 16), (index * 5) % (size - 16));
        let pixel = |i: usize| {
            let (c, x, y) = (i % 3, i / 3 % width, i / 3 / width);
            let wave = (x * 6 + y * 4 + c * 90 + index * 23) % 512;
            let inside = (left..left + 16).contains(&x) && (top..top + 16).contains(&y);
            (if inside { 230 - 60 * c } else { wave.min(511 - wave) }) as u8
        };
        (0..3 * width * height).map(pixel).collect()
    }

    #[test]
    fn the_detectors_picture_is_bilinear() {
        let path: std::path::PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "integration-tests/golden/streamdiffusion/pose.safetensors"].iter().collect();
        let bytes = std::fs::read(path).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut made = vec![0; 3 * PIXELS * PIXELS];
        for (width, height) in [(64, 64), (512, 512), (1024, 576)] {
            Smaller::new(Size::new(width, height)).run(&frame(3, width as usize, height as usize), &mut made);
            let want = golden.tensor(&format!("small-{width}-{height}")).unwrap();
            assert_eq!(want.shape(), [40, 40, 3]);
            for (i, &want) in want.data().iter().enumerate() {
                let (c, x, y) = (i % 3, i / 3 % 40 * 16, i / 120 * 16);
                let got = made[(c * PIXELS + y) * PIXELS + x];
                assert!(got.abs_diff(want) <= 1, "{width}×{height}, {x}, {y}, {c}: {got}, not {want}");
            }
        }
        // One colour stays what it is.
        Smaller::new(Size::new(512, 512)).run(&vec![200; 3 << 18], &mut made);
        assert!(made.iter().all(|&byte| byte == 200));
    }

    #[test]
    fn more_people_than_are_drawn_are_left_out_and_what_is_no_number_is_not_seen() {
        let most = pose::PEOPLE as usize + 3;
        let scores: Vec<f32> = (0..most).map(|i| 0.9 - i as f32 / 100.0).collect();
        let mut joints: Vec<f32> = vec![0.7; most * JOINTS];
        joints[..6].copy_from_slice(&[f32::NAN, 1.0, 0.9, 1e9, -1e9, 0.9]);
        let mut people = vec![0.0; PEOPLE];
        take(&scores, &joints, &mut people);
        assert_eq!(people[..8], [0.9, 0.0, 0.0, 0.0, FAR, -FAR, 0.9, 0.7]);
        assert_eq!(people[PEOPLE - JOINTS - 1], scores[pose::PEOPLE as usize - 1]);
        people.fill(0.0);
        take(&scores[..1], &joints, &mut people);
        assert!(people[JOINTS + 1..].iter().all(|n| *n == 0.0));
    }
}
