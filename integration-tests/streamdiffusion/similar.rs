//! The similar-image filter against StreamDiffusion's.

use serde_json::json;
use weir::metering::ledger::{Body, Summary, read, verify};
use weir::models::stream::similar;

use super::live::{apart, counters, pictures};
use super::{Graph, json, picture};
use crate::support::clips::Clip;
use crate::support::{LONG, Orchestrator, Runner, seconds, ts};

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

/// A picture that stands still, then another one: each is painted once, and the frames between show what was painted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_live_path_a_still_picture_is_painted_once() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let params = json!({
        "model_id": "weir/tiny", "width": 384, "height": 384, "t_index_list": [20], "cfg_type": "none",
        "use_safety_checker": false, "enable_similar_image_filter": true, "similar_image_filter_max_skip_frame": 1000,
    });
    let start = params.to_string();
    let settings = [
        ("engine-models", folder.path().to_str().unwrap()),
        ("engine-initial-params", &start),
        ("engine-freshness", "10s"),
        ("ledger-path", ledger.to_str().unwrap()),
        ("metering-interval", "1s"),
        ("media-video-crf", "4"),
        ("media-video-kbps", "20000"),
        ("media-segment-seconds", "2"),
        ("inference-threads", "1"),
    ];
    let mut runner = Runner::idle("streamdiffusion", &settings).await;
    let orchestrator = Orchestrator::new().await;
    let clip = Clip {
        source: "smptebars",
        then: "rgbtestsrc",
        size: "384x384",
        fps: 4,
        seconds: 16,
        audio: "",
        ..Clip::default()
    };
    let segments = clip.segments();
    let mut stream = orchestrator.run(&runner, "streamdiffusion", Some(params)).await;
    for segment in &*segments {
        stream.feed(segment, seconds(2.0)).await;
    }
    // The way is empty once nothing comes out any more.
    let mut seen = counters(&runner, "weir_frames_published_total").await;
    loop {
        tokio::time::sleep(seconds(1.5)).await;
        let now = counters(&runner, "weir_frames_published_total").await;
        if std::mem::replace(&mut seen, now.clone()) == now {
            break;
        }
    }
    stream.close().await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();

    // What was shown: one picture for each half, and the change at the first frame of the other. A frame may have given way
    // on a busy machine.
    let times = |segments: &[ts::Segment]| -> Vec<i64> {
        segments.iter().flat_map(|segment| segment.video.iter().map(|unit| unit.pts)).collect()
    };
    let input = times(&segments.iter().map(ts::read).collect::<Vec<_>>());
    let (shown, output) = (pictures(&stream.output_bytes()), times(&stream.output()));
    assert_eq!((input.len(), shown.len()), (64, output.len()));
    assert!(shown.len() >= 30, "{} of 64 frames came out", shown.len());
    let turns: Vec<usize> = (1..shown.len()).filter(|&i| apart(&shown[i - 1], &shown[i]) > 2.0).collect();
    let first = output.iter().position(|&pts| pts >= input[32]).expect("frames of the second half");
    assert_eq!(turns, [first], "the picture changes with the input and at no other frame");

    // How it is counted: in the metrics, and to the frame in the ledger.
    let count = |kind: &str| seen[&format!("weir_frames_published_total{{kind=\"{kind}\"}}")];
    assert!(count("processed") >= 2.0 && count("similar") > 3.0 * count("processed"), "{seen:?}");
    let status = runner.end(nix::sys::signal::Signal::SIGTERM, LONG).await;
    assert!(status.success(), "{status}");
    let mut sum: Option<Summary> = None;
    read(&ledger, |found| {
        if let Body::Interval { stream, interval, gpu } = found.entry.unwrap().body {
            sum.get_or_insert_with(|| Summary::new(&stream, &interval)).add(&interval, gpu.as_ref());
        }
        true
    })
    .unwrap();
    verify(&ledger).unwrap().unwrap();
    let totals = sum.expect("intervals").totals;
    let of = |kind: &str| totals.frames_out.get(kind).copied().unwrap_or(0);
    // Chance lets a frame pass now and then that is all but the same.
    assert!((2..=8).contains(&of("processed")), "{totals:?}");
    assert_eq!(of("processed") + of("similar"), shown.len() as u64, "{totals:?}");
    assert_eq!(
        (totals.processed(), totals.frames_in),
        (shown.len() as u64, totals.out() + totals.lost()),
        "{totals:?}"
    );
}
