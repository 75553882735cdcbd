//! The preprocessor `pose_tensorrt`: skeletons against OpenCV, and in the pipeline.

use std::collections::BTreeMap;

use weir::graph::{DType, GraphBuilder};
use weir::models::pose::{self, NUMBERS, PEOPLE, SIDE};

use super::{Golden, Graph};

const PIXELS: usize = (SIDE * SIDE) as usize;

/// The graph that draws up to `people` people.
fn drawing(people: u64) -> Graph {
    let mut g = GraphBuilder::new("pose");
    let input = g.input("people", DType::F32, [1, people, NUMBERS]).expect("input");
    let threshold = g.input("threshold", DType::F32, [1]).expect("input");
    let out = pose::draw(&mut g, &input, &threshold).expect("graph");
    g.output("out", &out).expect("output");
    Graph::new(&g.finish().expect("model"))
}

/// The picture of `people`, with nobody behind them, pixel by pixel in bytes.
fn drawn(graph: &mut Graph, people: &[f32], threshold: f32) -> Vec<[u8; 3]> {
    let mut all = people.to_vec();
    all.resize(graph.elements("people"), 0.0);
    graph.set("people", all);
    graph.set("threshold", vec![threshold]);
    let planes = graph.run()["out"].floats();
    assert_eq!(planes.len(), 3 * PIXELS);
    (0..PIXELS).map(|i| [0, 1, 2].map(|c| (planes[c * PIXELS + i] * 255.0).round() as u8)).collect()
}

fn golden_picture(golden: &Golden, name: &str) -> Vec<[u8; 3]> {
    let png: Vec<u8> = golden.get(&format!("picture-{name}")).iter().map(|&byte| byte as u8).collect();
    let picture = image::load_from_memory(&png).expect("PNG").to_rgb8();
    assert_eq!(picture.dimensions(), (SIDE as u32, SIDE as u32));
    picture.pixels().map(|pixel| pixel.0).collect()
}

/// How many pixels of `got` differ from `want`, and how many of them have no equal beside them there.
fn differ(got: &[[u8; 3]], want: &[[u8; 3]]) -> [usize; 2] {
    let side = SIDE as i64;
    let beside = |i: usize| {
        let (x, y) = (i as i64 % side, i as i64 / side);
        let near = (-1..=1).flat_map(move |dy| (-1..=1).map(move |dx| (x + dx, y + dy)));
        near.filter(|(x, y)| (0..side).contains(x) && (0..side).contains(y)).map(|(x, y)| want[(y * side + x) as usize])
    };
    let wrong: Vec<usize> = (0..got.len()).filter(|&i| got[i] != want[i]).collect();
    let far = wrong.iter().filter(|&&i| !beside(i).any(|pixel| pixel == got[i])).count();
    [wrong.len(), far]
}

#[test]
fn skeletons_are_those_of_opencv() {
    let golden = Golden::read("pose");
    let mut graph = drawing(PEOPLE);
    let mut pictures = BTreeMap::new();
    for (name, threshold) in
        [("none", 0.5), ("one", 0.5), ("many", 0.5), ("sure", 0.6), ("unsure", 0.5), ("off", 0.5), ("same", 0.5)]
    {
        let got = drawn(&mut graph, golden.get(&format!("people-{name}")), threshold);
        let want = golden_picture(&golden, name);
        let painted = want.iter().filter(|pixel| **pixel != [0; 3]).count();
        let [wrong, far] = differ(&got, &want);
        // OpenCV rounds a limb's corners and edges to whole pixels.
        assert!(
            50 * wrong <= painted && far <= 8,
            "{name}: {wrong} of {painted} pixels differ, {far} by more than one"
        );
        pictures.insert(name, got);
    }
    assert!(pictures["none"].iter().all(|pixel| *pixel == [0; 3]));
    // The comparison would notice a limb that is missing, a person that is, and colours turned round.
    let one = golden.get("people-one");
    let mut elbow = one.to_vec();
    elbow[1 + 3 * 7 + 2] = 0.4;
    let turned: Vec<[u8; 3]> = pictures["one"].iter().map(|&[r, g, b]| [b, g, r]).collect();
    let want = golden_picture(&golden, "one");
    for other in [&drawn(&mut graph, &elbow, 0.5), &turned] {
        assert!(differ(other, &want)[1] > 500);
    }
    assert!(differ(&pictures["sure"], &golden_picture(&golden, "many"))[1] > 500);
    // A score that is the threshold is enough; one below is not.
    assert_eq!(drawn(&mut graph, one, one[0]), pictures["one"]);
    assert_eq!(drawn(&mut graph, one, one[0] + 1e-3), pictures["none"]);
}
