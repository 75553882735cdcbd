//! The similar-image filter against StreamDiffusion's.

use weir::models::stream::similar;

use super::{Graph, json, picture};

#[test]
fn frames_are_skipped_as_by_the_reference() {
    let golden = json("similar");
    let list = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().expect("list").iter().map(|n| n.as_f64().expect("number")).collect()
    };
    let (shown, draws) = (list(&golden["shown"]), list(&golden["draws"]));
    let mut graph = Graph::new(&similar::build(1, 64, 64).expect("graph"));
    for run in golden["runs"].as_array().expect("runs") {
        let (skips, counts) = (list(&run["skips"]), list(&run["counts"]));
        graph.set("threshold", vec![run["threshold"].as_f64().expect("number") as f32]);
        graph.set("max_skip", vec![run["max_skip"].as_f64().expect("number") as f32]);
        graph.set("reference", vec![0_u8; 64 * 64 * 3]);
        graph.set("skip_count", vec![-1.0]);
        for i in 0..shown.len() {
            graph.set("frame", picture(shown[i] as usize, 64));
            graph.set("draw", vec![draws[i] as f32]);
            let out = graph.run();
            assert_eq!(f64::from(out["skip"].floats()[0]), skips[i], "frame {i} of {run}");
            assert_eq!(f64::from(out["skip_count_out"].floats()[0]), counts[i], "count at {i} of {run}");
            graph.set("reference", out["reference_out"].clone());
            graph.set("skip_count", out["skip_count_out"].clone());
        }
    }
}

#[test]
fn the_reference_is_the_last_frame_that_passed() {
    let mut graph = Graph::new(&similar::build(1, 64, 64).expect("graph"));
    for (name, value) in [("threshold", 0.98), ("max_skip", 10.0), ("skip_count", 0.0), ("draw", 0.5)] {
        graph.set(name, vec![value]);
    }
    graph.set("reference", picture(0, 64));
    graph.set("frame", picture(0, 64));
    let out = graph.run();
    assert_eq!(out["skip"].floats(), [1.0]);
    assert!((out["similarity"].floats()[0] - 1.0).abs() < 1e-5);
    graph.set("frame", picture(9, 64));
    let out = graph.run();
    assert_eq!(out["skip"].floats(), [0.0]);
    assert!(out["similarity"].floats()[0] < 0.9);
    assert_eq!(out["reference_out"], picture(9, 64).into());
}
