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

/// Tables of a file, put together by hand: every table names its fields as places of four bytes.
struct Writer(Vec<u8>);

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> usize {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let at = self.0.len();
        self.0.extend_from_slice(bytes);
        at
    }

    /// A vector of whole numbers.
    fn ints(&mut self, ints: &[i32]) -> usize {
        let at = self.put(&(ints.len() as u32).to_le_bytes());
        ints.iter().for_each(|n| self.0.extend_from_slice(&n.to_le_bytes()));
        at
    }

    /// A table of `fields`: four bytes each, or none. Offsets lead forwards, so [`Self::point`] fills them in later.
    fn table(&mut self, fields: &[Option<[u8; 4]>]) -> usize {
        let mut names = vec![(4 + 2 * fields.len()) as u16, (4 + 4 * fields.len()) as u16];
        names.extend(fields.iter().enumerate().map(|(i, field)| if field.is_some() { 4 + 4 * i as u16 } else { 0 }));
        let names: Vec<u8> = names.iter().flat_map(|n| n.to_le_bytes()).collect();
        let at = self.put(&names);
        let table = self.put(&[]);
        self.0.extend_from_slice(&((table - at) as i32).to_le_bytes());
        fields.iter().for_each(|field| self.0.extend_from_slice(&field.unwrap_or_default()));
        table
    }

    /// Lets the four bytes at `at` lead to `to`.
    fn point(&mut self, at: usize, to: usize) {
        self.0[at..at + 4].copy_from_slice(&((to - at) as u32).to_le_bytes());
    }
}

/// A network of `operators` PReLUs with one input, whose tensors have the shapes `picture` and `slope`; the slope has
/// `numbers`.
fn prelus(operators: usize, picture: &[i32], slope: &[i32], numbers: usize) -> Vec<u8> {
    const LATER: Option<[u8; 4]> = Some([0; 4]);
    let mut w = Writer(b"\0\0\0\0TFL3".to_vec());
    // version, codes, graphs, description, buffers
    let model = w.table(&[Some(3_u32.to_le_bytes()), LATER, LATER, None, LATER]);
    w.point(0, model);
    let codes = w.ints(&[0]);
    w.point(model + 8, codes);
    let code = w.table(&[None, None, None, Some(54_i32.to_le_bytes())]);
    w.point(codes + 4, code);
    let buffers = w.ints(&[0, 0]);
    w.point(model + 20, buffers);
    let empty = w.table(&[]);
    w.point(buffers + 4, empty);
    let full = w.table(&[LATER]);
    w.point(buffers + 8, full);
    let data = w.ints(&vec![0; numbers]);
    w.0[data..data + 4].copy_from_slice(&(4 * numbers as u32).to_le_bytes());
    w.point(full + 4, data);
    let graphs = w.ints(&[0]);
    w.point(model + 12, graphs);
    // tensors, inputs, outputs, operators
    let graph = w.table(&[LATER, LATER, LATER, LATER]);
    w.point(graphs + 4, graph);
    let tensors = w.ints(&vec![0; operators + 2]);
    w.point(graph + 4, tensors);
    for i in 0..operators + 2 {
        let (shape, buffer) = if i == 1 { (slope, 1_u32) } else { (picture, 0) };
        let tensor = w.table(&[LATER, None, Some(buffer.to_le_bytes())]);
        w.point(tensors + 4 + 4 * i, tensor);
        let shape = w.ints(shape);
        w.point(tensor + 4, shape);
    }
    let last = operators as i32 + 1;
    for (field, places) in [(1, vec![0]), (2, vec![last])] {
        let places = w.ints(&places);
        w.point(graph + 4 + 4 * field, places);
    }
    let steps = w.ints(&vec![0; operators]);
    w.point(graph + 16, steps);
    for i in 0..operators {
        let step = w.table(&[None, LATER, LATER]);
        w.point(steps + 4 + 4 * i, step);
        let from = if i == 0 { 0 } else { i as i32 + 1 };
        let inputs = w.ints(&[from, 1]);
        w.point(step + 8, inputs);
        let outputs = w.ints(&[i as i32 + 2]);
        w.point(step + 12, outputs);
    }
    w.0
}

#[test]
fn a_shape_whose_product_is_too_large_is_refused() {
    let network = Network::parse(prelus(1, &[1, 4, 4, 3], &[3], 3)).unwrap();
    assert_eq!(built(&network).unwrap(), [[1, 4, 4, 3]]);
    let network = Network::parse(prelus(1, &[1, 4, 4, 3], &[i32::MAX; 4], 3)).unwrap();
    assert!(matches!(built(&network), Err(TfliteError::Broken(_))));
}

#[test]
fn what_many_share_is_not_copied_without_end() {
    // Each operator would have the whole file's weights in the graph once more.
    let network = Network::parse(prelus(1000, &[1, 1, 1, 4096], &[4096], 4096)).unwrap();
    let error = built(&network).unwrap_err().to_string();
    assert!(error.contains("more than 8 times"), "{error}");
    let long = Network::parse(prelus(1, &[1, 4, 4, 3], &[1; 7], 3)).unwrap_err().to_string();
    assert!(long.contains("7 numbers where 6 are the most"), "{long}");
}
