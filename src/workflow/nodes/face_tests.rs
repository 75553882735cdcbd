#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::face_canvas::{Canvas, hull};
use super::face_find::{
    BOX_NUMBERS, Beyond, Found, Rect, Square, anchors, around, cut, decode, follow, join, suppress, whole,
};
use super::face_lines::{MAX_CORNERS, REGION_NAMES, REGIONS};
use super::face_mask::FaceMask;
use super::face_mesh::{FACE_NUMBERS, FACES, draw};
use crate::workflow::lower::{Data, HostStage};

/// The golden drawings are so large: width and height.
const SIZE: [usize; 2] = [97, 71];

/// `golden/workflow/make_face.py` made it.
fn golden() -> Vec<u8> {
    let path = [env!("CARGO_MANIFEST_DIR"), "integration-tests/golden/workflow/face.safetensors"].join("/");
    std::fs::read(path).unwrap()
}

fn faces(file: &safetensors::SafeTensors<'_>) -> Vec<f32> {
    let data = file.tensor("drawing/faces").unwrap().data().to_vec();
    data.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

/// As bits, eight to a byte, the first the highest.
fn packed(bits: impl Iterator<Item = bool>) -> Vec<u8> {
    let bits: Vec<u8> = bits.map(u8::from).collect();
    bits.chunks(8).map(|eight| eight.iter().enumerate().map(|(i, bit)| bit << (7 - i)).sum()).collect()
}

#[test]
fn contours_are_drawn_as_mediapipe_draws_them() {
    let bytes = golden();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let faces = faces(&file);
    let mut drawing = vec![0.5; 3 * SIZE[0] * SIZE[1]];
    for thickness in [1, 2, 3, 5] {
        draw(&faces, SIZE, thickness, &mut drawing);
        let want = file.tensor(&format!("drawing/{thickness}")).unwrap().data().to_vec();
        if thickness == 2 {
            let made: Vec<u8> = drawing.iter().map(|n| (n * 255.0).round() as u8).collect();
            assert!(made == want, "{} bytes differ", made.iter().zip(&want).filter(|(a, b)| a != b).count());
        } else {
            let made = packed(drawing.as_chunks::<3>().0.iter().map(|pixel| pixel.iter().any(|n| *n > 0.0)));
            assert!(made == want, "thickness {thickness}");
        }
    }
    // Nothing of 0 pixels is drawn: it is one pixel wide.
    let mut thin = drawing.clone();
    draw(&faces, SIZE, 0, &mut thin);
    draw(&faces, SIZE, 1, &mut drawing);
    assert_eq!(thin, drawing);
}

#[test]
fn regions_are_filled_grown_and_blurred_as_opencv_does() {
    let bytes = golden();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let faces = faces(&file);
    let mut landmarks = vec![0.0; FACES * FACE_NUMBERS];
    landmarks[..faces.len()].copy_from_slice(&faces);
    let (landmarks, counts) = (Data::F32(landmarks), Data::F32(vec![2.0]));
    let mut stage = FaceMask::new([SIZE[1], SIZE[0]]);
    let mut ask = |face: f32, region: usize, filled: f32, value: f32, growth: f32, blur: f32| {
        let settings = Data::F32(vec![face, region as f32, filled, value, growth, blur]);
        let mut outputs = [Data::F32(vec![0.5; SIZE[0] * SIZE[1]])];
        stage.run(&[&landmarks, &counts, &settings], &mut outputs).unwrap();
        let [Data::F32(mask)] = outputs else { panic!("no floats") };
        mask
    };
    let mut seen = 0;
    for name in file.names().into_iter().filter(|name| name.starts_with("mask/")) {
        let [face, region, filled, growth, blur] = name.split('/').skip(1).collect::<Vec<_>>()[..] else {
            panic!("{name}")
        };
        let region = REGION_NAMES.iter().position(|name| *name == region).unwrap();
        let [face, filled, growth, blur] = [face, filled, growth, blur].map(|n| n.parse::<f32>().unwrap());
        let mask = ask(face, region, filled, 1.0, growth, blur);
        let want = file.tensor(name).unwrap().data().to_vec();
        if blur > 0.0 {
            let made: Vec<u8> = mask.iter().map(|n| (n * 255.0).round() as u8).collect();
            assert!(made == want, "{name}: {} bytes differ", made.iter().zip(&want).filter(|(a, b)| a != b).count());
            assert!(want.iter().any(|n| (1..255).contains(n)), "{name}: nothing is blurred");
        } else {
            let made = packed(mask.iter().map(|n| *n == 1.0));
            assert!(made == want, "{name}: {} bytes differ", made.iter().zip(&want).filter(|(a, b)| a != b).count());
        }
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
    let full = ask(0.0, 1, 1.0, 1.0, 0.0, 0.0);
    let half: Vec<f32> = full.iter().map(|n| n * 0.25).collect();
    assert_eq!(ask(0.0, 1, 1.0, 0.25, 0.0, 0.0), half);
    assert!(ask(2.0, 1, 1.0, 1.0, 0.0, 0.0).iter().all(|n| *n == 0.0), "there is no third face");
}

#[test]
fn places_of_any_kind_are_drawn_without_end() {
    for wild in [f32::NAN, f32::INFINITY, -1e30, 1e30, -3.0, 40.0] {
        let mut landmarks = vec![0.5; FACES * FACE_NUMBERS];
        landmarks.iter_mut().step_by(7).for_each(|n| *n = wild);
        let mut drawing = vec![0.0; 3 * SIZE[0] * SIZE[1]];
        draw(&landmarks, SIZE, 5, &mut drawing);
        let (landmarks, counts) = (Data::F32(landmarks), Data::F32(vec![1.0]));
        let mut stage = FaceMask::new([SIZE[1], SIZE[0]]);
        for region in 0..REGIONS.len() {
            for filled in [0.0, 1.0] {
                let settings = Data::F32(vec![0.0, region as f32, filled, 1.0, 50.0, 20.0]);
                stage.run(&[&landmarks, &counts, &settings], &mut [Data::F32(vec![0.0; SIZE[0] * SIZE[1]])]).unwrap();
            }
        }
    }
    assert!(REGIONS.iter().all(|(corners, _)| corners.len() <= MAX_CORNERS));
    assert_eq!(REGIONS.len(), REGION_NAMES.len());
}

#[test]
fn the_smallest_canvas_is_drawn_on() {
    let mut pixel = [0_u8];
    let mut canvas = Canvas::new(&mut pixel, [1, 1]);
    canvas.line([-5, -5], [5, 5], 1, [true; 2], 7);
    assert_eq!(pixel, [7]);
    let mut nothing: [u8; 0] = [];
    Canvas::new(&mut nothing, [0, 0]).convex(&[[0, 0], [3, 0], [0, 3]], false, 1);
    let mut out = Vec::new();
    for places in [vec![], vec![[2, 3]], vec![[1, 1], [1, 1], [1, 1]]] {
        hull(&mut places.clone(), &mut out);
        assert!(out.len() <= 2, "{out:?}");
    }
    hull(&mut [[0, 0], [4, 0], [2, 1], [4, 4], [0, 4], [2, 0]], &mut out);
    assert_eq!(out.len(), 4, "{out:?}");
}

#[test]
fn anchors_stand_in_the_middle_of_their_cells() {
    let anchors = anchors();
    assert_eq!(anchors.len(), 896);
    assert_eq!([anchors[0], anchors[1], anchors[2]], [[1.0 / 32.0; 2], [1.0 / 32.0; 2], [3.0 / 32.0, 1.0 / 32.0]]);
    assert_eq!(
        [anchors[511], anchors[512], anchors[518], anchors[895]],
        [[31.0 / 32.0; 2], [1.0 / 16.0; 2], [3.0 / 16.0, 1.0 / 16.0], [15.0 / 16.0; 2]]
    );
}

fn found(score: f32, index: usize, min: [f32; 2], size: f32) -> Found {
    Found { score, index, rect: Rect { min, max: min.map(|n| n + size) }, points: [min; 6] }
}

#[test]
fn boxes_are_decoded_about_their_anchors() {
    let mut boxes = vec![0.0; 3 * BOX_NUMBERS];
    boxes[..6].copy_from_slice(&[12.8, -12.8, 64.0, 32.0, 6.4, 0.0]);
    boxes[BOX_NUMBERS + 2] = -1.0;
    let scores = [0.0, 9.0, -200.0];
    let mut out = Vec::new();
    decode(&boxes, &scores, &[[0.5; 2]; 3], 0.5, &mut out);
    let [one] = out[..] else { panic!("{out:?}") };
    assert_eq!((one.score, one.index), (0.5, 0));
    let near = |a: [f32; 2], b: [f32; 2]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(near(one.rect.min, [0.35, 0.275]) && near(one.rect.max, [0.85, 0.525]), "{one:?}");
    assert!(near(one.points[0], [0.55, 0.5]), "{one:?}");
}

#[test]
fn boxes_of_one_face_become_their_weighted_mean() {
    let mut kept = Vec::new();
    let three = vec![found(0.5, 0, [0.12, 0.1], 0.4), found(0.9, 1, [0.6, 0.6], 0.2), found(1.0, 2, [0.1, 0.1], 0.4)];
    suppress(&mut three.clone(), 10, &mut kept);
    assert_eq!(kept.iter().map(|one| one.index).collect::<Vec<_>>(), [2, 1]);
    assert!((kept[0].rect.min[0] - (0.1 + 0.06) / 1.5).abs() < 1e-6, "{kept:?}");
    assert!((kept[0].points[3][0] - (0.1 + 0.06) / 1.5).abs() < 1e-6, "{kept:?}");
    suppress(&mut three.clone(), 1, &mut kept);
    assert_eq!(kept.len(), 1);
    // A box of no size does not go on for ever.
    suppress(&mut vec![found(0.9, 0, [0.5; 2], 0.0), found(0.8, 1, [0.5; 2], 0.0)], 10, &mut kept);
    assert_eq!(kept.len(), 1);
}

#[test]
fn squares_have_a_margin_and_turn_with_the_eyes() {
    let rect = Rect { min: [0.25, 0.4], max: [0.75, 0.6] };
    let square = around(&rect, [0.4, 0.5], [0.6, 0.5], [200.0, 100.0]);
    assert_eq!(square, Square { centre: [0.5, 0.5], size: [0.75, 1.5], tilt: square.tilt });
    assert!(square.tilt.abs() < 1e-6, "{square:?}");
    let down = around(&rect, [0.5, 0.4], [0.5, 0.6], [200.0, 100.0]);
    assert!((down.tilt - std::f32::consts::FRAC_PI_2).abs() < 1e-6, "{down:?}");
    assert!(square.is_sound() && !Square { tilt: f32::NAN, ..square }.is_sound());
    assert!(!follow(&vec![f32::INFINITY; FACE_NUMBERS], [200.0, 100.0]).is_sound());
    // A square takes the place of one that it covers, and stands behind one beside it.
    let mut squares = vec![square, Square { centre: [5.0, 0.5], ..square }];
    join(&mut squares, Square { centre: [0.55, 0.5], ..square });
    assert_eq!(squares.iter().map(|one| one.centre[0]).collect::<Vec<_>>(), [5.0, 0.55]);
}

#[test]
fn beyond_a_picture_is_black_or_its_edge() {
    let picture: Vec<f32> = (0..4 * 2 * 3).map(|i| (10 * (i / 3)) as f32 / 255.0).collect();
    let square = whole([4.0, 2.0]);
    let mut out = vec![0.0; 4 * 4 * 3];
    let reds = |out: &[f32]| out.iter().step_by(3).map(|n| n.round() as u8).collect::<Vec<_>>();
    cut(&picture, [4, 2], &square, Beyond::Black, [0.0, 255.0], &mut out, 4);
    assert_eq!(reds(&out), [0, 0, 0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 0, 0, 0, 0]);
    cut(&picture, [4, 2], &square, Beyond::Edge, [0.0, 255.0], &mut out, 4);
    assert_eq!(reds(&out), [0, 10, 20, 30, 0, 10, 20, 30, 40, 50, 60, 70, 40, 50, 60, 70]);
    // Half a pixel to the right is the mean of two.
    let half = Square { centre: [0.625, 0.5], ..square };
    cut(&picture, [4, 2], &half, Beyond::Edge, [0.0, 255.0], &mut out, 4);
    assert_eq!(reds(&out)[4..7], [5, 15, 25]);
}
