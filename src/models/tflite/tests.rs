#![allow(clippy::unwrap_used)]

use super::*;

/// `golden/workflow/make_face_models.py` made it.
fn file(name: &str) -> Vec<u8> {
    let path = [env!("CARGO_MANIFEST_DIR"), "integration-tests/golden/workflow/mediapipe", name].join("/");
    std::fs::read(path).unwrap()
}

fn built(network: &Network) -> Result<Vec<Vec<u64>>, TfliteError> {
    let mut g = GraphBuilder::new("net");
    let input = g.input("x", DType::F32, network.inputs()[0]).unwrap();
    let outputs = network.build(&mut g, &input)?;
    Ok(outputs.iter().map(|tensor| tensor.shape().fixed().unwrap()).collect())
}

#[test]
fn networks_of_mediapipes_kind_are_read() {
    let detector = Network::parse(file("face_detection_short_range.tflite")).unwrap();
    assert_eq!(detector.inputs(), [[1, 128, 128, 3]]);
    assert_eq!(built(&detector).unwrap(), [vec![1, 896, 16], vec![1, 896, 1]]);
    let landmarks = Network::parse(file("face_landmark.tflite")).unwrap();
    assert_eq!(landmarks.outputs(), [[1, 1, 1, 1404], [1, 1, 1, 1]]);
    assert_eq!(built(&landmarks).unwrap(), [[1, 1, 1, 1404], [1, 1, 1, 1]]);
}

#[test]
fn another_picture_is_refused() {
    let detector = Network::parse(file("face_detection_short_range.tflite")).unwrap();
    let mut g = GraphBuilder::new("net");
    let input = g.input("x", DType::F32, [1, 128, 127, 3]).unwrap();
    assert!(matches!(detector.build(&mut g, &input), Err(TfliteError::Broken(_))));
}

#[test]
fn a_file_that_ends_early_or_is_garbled_is_refused_without_panic() {
    let whole = file("face_detection_short_range.tflite");
    for length in (0..whole.len()).step_by(97) {
        if let Ok(network) = Network::parse(whole[..length].to_vec()) {
            // The tables may stand before what is cut off; then the weights lead nowhere.
            let _ = built(&network);
        }
    }
    let mut refused = 0;
    for at in (8..whole.len()).step_by(41) {
        let mut garbled = whole.clone();
        garbled[at] ^= 0xff;
        refused += usize::from(Network::parse(garbled).and_then(|network| built(&network)).is_err());
    }
    assert!(refused > 20, "{refused}");
    assert!(matches!(Network::parse(b"{}".to_vec()), Err(TfliteError::Broken(_))));
    assert!(matches!(Network::parse(vec![0; MAX_BYTES as usize + 1]), Err(TfliteError::Large(_))));
}

#[test]
fn what_is_put_around_leaves_a_place_for_every_stride() {
    assert_eq!(around(false, [128, 128], [5, 5], [2, 2]), [1, 1, 2, 2]);
    assert_eq!(around(false, [64, 63], [3, 3], [1, 2]), [1, 1, 1, 1]);
    assert_eq!(around(false, [64, 64], [2, 2], [2, 2]), [0; 4]);
    assert_eq!(around(true, [3, 3], [3, 3], [1, 1]), [0; 4]);
}
