//! Face nodes against MediaPipe on small networks with made-up weights: `golden/workflow/make_face.py` made the vectors.

use serde_json::{Value, json};
use weir::workflow::lower::{Data, Env, lower};
use weir::workflow::{Refused, plan};

use super::{Golden, Loaded, apart, worst};

const WIDTH: usize = 160;
const HEIGHT: usize = 120;
/// x, y and depth of 468 landmarks.
const NUMBERS: usize = 3 * 468;

/// The pictures of `make_face.picture`.
fn picture(index: usize, second: bool) -> Vec<u8> {
    let (i, mut places) = (index as i64, Vec::new());
    if index != 4 {
        places.push((40 + 5 * i, 50 + 3 * i));
        places.extend(second.then_some((118 - 2 * i, 60)));
    }
    let pixel = |at: usize| {
        let (c, x, y) = (at % 3, (at / 3 % WIDTH) as i64, (at / 3 / WIDTH) as i64);
        let mut out = 40 + (x * 3 + y * 2 + i * 11) % 256 / 4;
        for (left, top) in &places {
            let (dx, dy) = (x - left, y - top);
            if dx.abs() < 18 && dy.abs() < 22 {
                out = [225, 80, 60][c] + dx - if c == 1 { 2 * dy } else { 0 };
            }
        }
        out as u8
    };
    (0..WIDTH * HEIGHT * 3).map(pixel).collect()
}

/// The camera's faces, and a region of the first.
fn workflow(settings: Value) -> Value {
    let mut nodes = json!({
        "camera": {"class_type": "LoadTensor", "inputs": {}},
        "mesh": {"class_type": "FaceMeshNode", "inputs": settings},
        "mask": {"class_type": "FaceMeshMaskNode", "inputs": {"facemesh_data": ["mesh", 0], "region": "whole_face", "mask_value": 0.5}},
        "shown": {"class_type": "MaskToImage", "inputs": {"mask": ["mask", 0]}},
        "out": {"class_type": "SaveTensor", "inputs": {"images": ["shown", 0]}}
    });
    nodes["mesh"]["inputs"]["image"] = json!(["camera", 0]);
    nodes
}

/// Landmarks of the faces of a picture, and the drawing.
fn ask(loaded: &mut Loaded, nodes: &Value, picture: &[u8]) -> (Vec<f32>, Vec<f32>) {
    let outputs = loaded.try_outputs(nodes, picture, "mesh").expect("settings of the same graph");
    let [Data::F32(landmarks), Data::F32(count), Data::F32(drawing)] = outputs.as_slice() else {
        panic!("three outputs")
    };
    (landmarks[..count[0] as usize * NUMBERS].to_vec(), drawing.clone())
}

#[test]
fn faces_are_found_and_followed_as_mediapipe_does() {
    let golden = Golden::read("face");
    let size = [WIDTH as u32, HEIGHT as u32];
    let first = workflow(json!({}));
    let mut loaded = Loaded::of(&first, size);
    // The same stage for all: another setting begins anew.
    for (name, settings, indices, second) in [
        ("one", json!({}), [0, 1, 2, 3, 4, 5, 6, 7].as_slice(), false),
        ("still", json!({"static_image_mode": true}), &[1, 4, 6], false),
        ("two", json!({"max_num_faces": 2}), &[0, 2, 3, 5], true),
    ] {
        let nodes = workflow(settings);
        let (mut faces, mut counts) = (Vec::new(), Vec::new());
        for &index in indices {
            let picture = picture(index, second);
            let (landmarks, drawing) = ask(&mut loaded, &nodes, &picture);
            counts.push((landmarks.len() / NUMBERS) as f32);
            let own: Vec<f32> = picture.iter().map(|&byte| f32::from(byte) / 255.0).collect();
            match landmarks.is_empty() {
                true => assert_eq!(drawing, own, "{name} {index}: without a face the picture is shown"),
                false => assert!(worst(&drawing, &own) > 0.1 && drawing.iter().any(|n| *n > 0.0), "{name} {index}"),
            }
            faces.extend(landmarks);
        }
        assert_eq!(counts, golden.get(&format!("{name}/counts")), "{name}");
        let want = golden.get(&format!("{name}/faces"));
        let off = worst(&faces, want);
        assert!(off < 1e-5, "{name}: off by {off} of the picture");
        // Faces of one picture are not those of the next.
        apart(name, &want[..NUMBERS], &want[NUMBERS..2 * NUMBERS], 2e-3);
    }
    // What is asked of a face decides whether it is one.
    let strict = workflow(json!({"min_tracking_confidence": 1.0}));
    assert!(ask(&mut loaded, &strict, &picture(1, false)).0.is_empty());
    let strict = workflow(json!({"min_detection_confidence": 1.0}));
    assert!(ask(&mut loaded, &strict, &picture(1, false)).0.is_empty());
    // Nothing is drawn where nothing is to be drawn.
    let (found, shown) = ask(&mut loaded, &workflow(json!({"draw_mesh": false})), &picture(1, false));
    assert!(!found.is_empty());
    assert_eq!(shown, picture(1, false).iter().map(|&byte| f32::from(byte) / 255.0).collect::<Vec<_>>());
}

#[test]
fn a_mask_covers_the_face() {
    let nodes = workflow(json!({}));
    let mut loaded = Loaded::of(&nodes, [WIDTH as u32, HEIGHT as u32]);
    let mut ask = |nodes: &Value, index: usize| {
        let outputs = loaded.try_outputs(nodes, &picture(index, false), "mask").expect("settings of the same graph");
        let [Data::F32(mask)] = outputs.as_slice() else { panic!("one output") };
        mask.clone()
    };
    let golden = Golden::read("face");
    let face = &golden.get("one/faces")[..NUMBERS];
    let mask = ask(&nodes, 0);
    assert!(mask.iter().all(|n| [0.0, 0.5].contains(n)));
    let middle = |axis: usize| face.iter().skip(axis).step_by(3).sum::<f32>() / 468.0;
    assert_eq!(mask[(middle(1) * HEIGHT as f32) as usize * WIDTH + (middle(0) * WIDTH as f32) as usize], 0.5);
    let mut other = nodes.clone();
    other["mask"]["inputs"]["face_index"] = json!(1);
    assert!(ask(&other, 0).iter().all(|n| *n == 0.0), "there is one face");
    assert!(ask(&nodes, 4).iter().all(|n| *n == 0.0), "there is none");
}

fn refused(models: &std::path::Path, settings: Value) -> Refused {
    let plan = plan(&workflow(settings)).expect("a plan");
    let folder = models.to_path_buf();
    let env = Env {
        size: [64, 64],
        models: folder.clone(),
        input: folder.clone(),
        precision: weir::graph::DType::F32,
        inline: weir::workflow::lower::INLINE,
        weights: folder.clone(),
        scratch: folder,
        progress: &|_| {},
    };
    lower(&plan, &env).err().expect("refused")
}

#[test]
fn what_is_missing_or_is_another_model_is_told() {
    let folder = tempfile::tempdir().expect("folder");
    let missing = refused(folder.path(), json!({}));
    assert!(missing.only_models(), "{missing}");
    let text = missing.to_string();
    assert!(text.contains("face_detection_short_range.tflite") && text.contains("mediapipe 0.10.21"), "{text}");
    // Each in the other's place.
    let own = folder.path().join("mediapipe");
    std::fs::create_dir(&own).expect("folder");
    let (detector, landmarks) = ("face_detection_short_range.tflite", "face_landmark.tflite");
    for (from, to) in [(landmarks, detector), (detector, landmarks)] {
        std::fs::copy(super::models().join("mediapipe").join(from), own.join(to)).expect("copy");
    }
    let text = refused(folder.path(), json!({})).to_string();
    assert!(text.contains("is the face detector") && text.contains("192"), "{text}");
    std::fs::write(own.join(detector), b"no model").expect("written");
    let text = refused(folder.path(), json!({})).to_string();
    assert!(text.contains("no whole file of TensorFlow Lite"), "{text}");
    let text = refused(super::models(), json!({"refine_landmarks": true})).to_string();
    assert!(text.contains("refine_landmarks") && text.contains("irises"), "{text}");
}

/// How far from MediaPipe, in pixels, with its own models on a photograph: `golden/workflow/make_face_real.py` says how.
#[test]
#[ignore = "needs MediaPipe's own models, which are not kept here"]
fn real_face_models_agree_with_mediapipe() {
    let folder = std::path::PathBuf::from(std::env::var_os("WEIR_FACE_REAL").expect("WEIR_FACE_REAL names the folder"));
    let bytes = std::fs::read(folder.join("real.safetensors")).expect("make_face_real.py writes it");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let pictures = file.tensor("pictures").expect("pictures");
    let [_, height, width, 3] = pictures.shape()[..] else { panic!("pictures (N, H, W, 3)") };
    for (name, still) in [("followed", false), ("still", true)] {
        let nodes = workflow(json!({"static_image_mode": still}));
        let mut loaded = Loaded::below(&folder, &nodes, [width as u32, height as u32]);
        let want = file.tensor(name).expect("landmarks").data().to_vec();
        let want: Vec<f32> = want.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        let mut offs = Vec::new();
        for (picture, want) in pictures.data().chunks_exact(width * height * 3).zip(want.chunks_exact(NUMBERS)) {
            let (made, _) = ask(&mut loaded, &nodes, picture);
            assert_eq!(made.len(), NUMBERS, "{name}: one face");
            for (a, b) in made.as_chunks::<3>().0.iter().zip(want.as_chunks::<3>().0) {
                offs.push(((a[0] - b[0]) * width as f32).hypot((a[1] - b[1]) * height as f32));
            }
        }
        let worst = offs.iter().copied().fold(0.0, f32::max);
        let mean = offs.iter().sum::<f32>() / offs.len() as f32;
        eprintln!("{name}: {mean:.4} pixels in the mean, {worst:.4} at most, of {width}×{height}");
        assert!(worst < 0.5, "{name}: {worst} pixels");
    }
}
