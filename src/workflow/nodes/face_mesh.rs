//! FaceMeshNode: landmarks of faces, followed from frame to frame, and their drawing.

use super::face_canvas::{Canvas, Place};
use super::face_find::{
    BOX_NUMBERS, BOXES, Beyond, DETECTOR_SIDE, Found, LANDMARK_SIDE, Square, anchors, around, cut, decode, follow,
    join, out_of, place_landmarks, suppress, whole,
};
use super::face_lines::{LINES, POINTS};
use crate::workflow::lower::{Data, HostStage, OwnGraph, RunGraph};

/// Faces that a picture may have: ten that are asked for, and nine that are followed beside them for one picture.
pub const FACES: usize = 19;
/// Numbers of a face: x, y and depth of each landmark.
pub const FACE_NUMBERS: usize = 3 * POINTS;
/// Numbers of the landmark model's picture, and of the detector's.
const LANDMARK_PICTURE: usize = 3 * LANDMARK_SIDE * LANDMARK_SIDE;
const DETECTOR_PICTURE: usize = 3 * DETECTOR_SIDE * DETECTOR_SIDE;

/// What a user may set, in the order in which the stage is given it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Settings {
    /// Whether every picture stands for itself.
    still: bool,
    faces: usize,
    detection: f32,
    tracking: f32,
}

/// Finds, follows and draws. Inputs: pictures f32 (B, H, W, 3), settings f32 (6). Outputs: landmarks f32 (B, [`FACES`], 468, 3) in
/// shares of the picture, the number of faces f32 (B), drawings f32 (B, H, W, 3). Without a face, or where none is to be drawn, a
/// drawing is the picture itself.
pub struct FaceMesh {
    /// Height and width.
    size: [usize; 2],
    /// The detector, then the landmark model, until they are handed over.
    own: Vec<OwnGraph>,
    run: Vec<Box<dyn RunGraph>>,
    /// Which output of the graph is which: boxes and scores, landmarks and score.
    boxes_at: usize,
    landmarks_at: usize,
    anchors: Vec<[f32; 2]>,
    detector: (Data, [Data; 2]),
    landmarks: (Data, [Data; 2]),
    found: Vec<Found>,
    kept: Vec<Found>,
    /// Where to look in this picture, and in the next one.
    look: Vec<Square>,
    next: Vec<Square>,
    settings: Option<Settings>,
}

impl FaceMesh {
    /// For pictures of `size` (height, width). The detector's output `boxes_at` has the boxes, the other one the scores; the
    /// landmark model's output `landmarks_at` has the landmarks.
    pub fn new(
        size: [usize; 2],
        detector: OwnGraph,
        boxes_at: usize,
        landmarks: OwnGraph,
        landmarks_at: usize,
    ) -> Self {
        let pair = |first: usize, place: usize, rest: usize| {
            let mut lengths = [rest; 2];
            lengths[place] = first;
            lengths.map(|n| Data::F32(vec![0.0; n]))
        };
        Self {
            size,
            own: vec![detector, landmarks],
            run: Vec::new(),
            boxes_at,
            landmarks_at,
            anchors: anchors(),
            detector: (Data::F32(vec![0.0; DETECTOR_PICTURE]), pair(BOXES * BOX_NUMBERS, boxes_at, BOXES)),
            landmarks: (Data::F32(vec![0.0; LANDMARK_PICTURE]), pair(FACE_NUMBERS, landmarks_at, 1)),
            found: Vec::with_capacity(BOXES),
            kept: Vec::with_capacity(FACES),
            look: Vec::with_capacity(2 * FACES),
            next: Vec::with_capacity(FACES),
            settings: None,
        }
    }

    /// The faces of one picture; their number.
    fn find(&mut self, picture: &[f32], settings: Settings, landmarks: &mut [f32]) -> Result<usize, String> {
        let [height, width] = self.size;
        let (size, extent) = ([width, height], [width as f32, height as f32]);
        let [detector, model] = self.run.as_mut_slice() else {
            return Err("the models of FaceMeshNode are not loaded".to_owned());
        };
        self.look.clear();
        if settings.still || self.next.len() < settings.faces {
            let square = whole(extent);
            let (input, outputs) = &mut self.detector;
            let Data::F32(room) = input else { return Err(mixed()) };
            cut(picture, size, &square, Beyond::Black, [-1.0, 1.0], room, DETECTOR_SIDE);
            detector.run(&[&*input], outputs)?;
            let [Data::F32(boxes), Data::F32(scores)] = pick(outputs, self.boxes_at) else { return Err(mixed()) };
            decode(boxes, scores, &self.anchors, settings.detection, &mut self.found);
            suppress(&mut self.found, settings.faces, &mut self.kept);
            for found in &self.kept {
                let found = out_of(&square, found);
                join(&mut self.look, around(&found.rect, found.points[0], found.points[1], extent));
            }
        }
        if !settings.still {
            for square in self.next.drain(..) {
                join(&mut self.look, square);
            }
        }
        self.next.clear();
        let mut count = 0;
        for square in self.look.iter().filter(|square| square.is_sound()).take(FACES) {
            let (input, outputs) = &mut self.landmarks;
            let Data::F32(room) = input else { return Err(mixed()) };
            cut(picture, size, square, Beyond::Edge, [0.0, 1.0], room, LANDMARK_SIDE);
            model.run(&[&*input], outputs)?;
            let [Data::F32(raw), Data::F32(score)] = pick(outputs, self.landmarks_at) else { return Err(mixed()) };
            let score = 1.0 / (1.0 + (-score[0]).exp());
            if score > settings.tracking {
                let face = &mut landmarks[count * FACE_NUMBERS..(count + 1) * FACE_NUMBERS];
                place_landmarks(raw, square, face);
                self.next.push(follow(face, extent));
                count += 1;
            }
        }
        Ok(count)
    }
}

fn mixed() -> String {
    "FaceMeshNode is given other tensors than it was built for".to_owned()
}

/// The output at `first`, then the other one.
fn pick(outputs: &[Data; 2], first: usize) -> [&Data; 2] {
    if first == 0 { [&outputs[0], &outputs[1]] } else { [&outputs[1], &outputs[0]] }
}

/// A landmark in pixels, if it lies in the picture, as MediaPipe's drawing utilities place it.
fn pixel(place: [f32; 3], size: [usize; 2]) -> Option<Place> {
    let mut out = [0; 2];
    for ((out, share), length) in out.iter_mut().zip(place).zip(size) {
        let share = f64::from(share);
        if !(0.0..=1.0).contains(&share) {
            return None;
        }
        *out = ((share * length as f64).floor() as i64).min(length as i64 - 1);
    }
    Some(out)
}

/// Draws the contours of each face on black: `drawing` is (height, width, 3), `size` width and height.
pub fn draw(faces: &[f32], size: [usize; 2], thickness: i64, drawing: &mut [f32]) {
    drawing.fill(0.0);
    let mut canvas = Canvas::new(drawing.as_chunks_mut::<3>().0, size);
    for face in faces.chunks_exact(FACE_NUMBERS) {
        let places = face.as_chunks::<3>().0;
        for lines in &LINES {
            let colour = lines.colour.map(|n| f32::from(n) / 255.0);
            for &[from, to] in lines.joins {
                if let (Some(from), Some(to)) = (pixel(places[from], size), pixel(places[to], size)) {
                    canvas.line(from, to, thickness, [true, true], colour);
                }
            }
        }
    }
}

impl HostStage for FaceMesh {
    fn run(&mut self, inputs: &[&Data], outputs: &mut [Data]) -> Result<(), String> {
        let [Data::F32(pictures), Data::F32(settings)] = inputs else { return Err(mixed()) };
        let [Data::F32(landmarks), Data::F32(counts), Data::F32(drawings)] = outputs else { return Err(mixed()) };
        let &[still, faces, detection, tracking, show, thickness] = settings.as_slice() else { return Err(mixed()) };
        let settings = Settings { still: still != 0.0, faces: faces as usize, detection, tracking };
        // Another setting begins anew, as in the node.
        if self.settings.replace(settings) != Some(settings) {
            self.next.clear();
        }
        let [height, width] = self.size;
        let numbers = 3 * height * width;
        let each = pictures.chunks_exact(numbers).zip(drawings.chunks_exact_mut(numbers));
        let each = each.zip(landmarks.chunks_exact_mut(FACES * FACE_NUMBERS)).zip(counts);
        for (((picture, drawing), landmarks), total) in each {
            let count = self.find(picture, settings, landmarks)?;
            *total = count as f32;
            if count > 0 && show != 0.0 {
                draw(&landmarks[..count * FACE_NUMBERS], [width, height], thickness as i64, drawing);
            } else {
                drawing.copy_from_slice(picture);
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.next.clear();
    }

    fn graphs(&mut self) -> Vec<OwnGraph> {
        std::mem::take(&mut self.own)
    }

    fn equip(&mut self, graphs: Vec<Box<dyn RunGraph>>) {
        self.run = graphs;
    }
}
