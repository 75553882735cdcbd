//! The safety checker: its classifier by itself, behind a stream, and on the whole path.

use std::path::Path;

use serde_json::{Value, json};
use weir::graph::DType;
use weir::models::eva::EvaConfig;
use weir::models::synthetic::Synthetic;
use weir::models::{ModelError, Source, Stored, safety};
use weir::pipeline::Applied;

use super::live::{apart as distance, counters, models, pictures};
use super::pipeline::{check, library, load, show};
use super::{Golden, Graph, apart, close, config, folders, picture};
use crate::support::clips::Clip;
use crate::support::{LONG, Orchestrator, Runner, seconds};

/// Weights by the names of timm.
struct Plain(Synthetic);

impl Source for Plain {
    fn has(&self, name: &str) -> bool {
        !name.starts_with("timm_model.")
    }

    fn tensor(&mut self, name: &str, shape: &[u64], dtype: DType) -> Result<Stored, ModelError> {
        self.0.tensor(name, shape, dtype)
    }
}

fn judge(source: &mut dyn Source, [height, width]: [usize; 2], bytes: Vec<u8>) -> f32 {
    let shape = EvaConfig::from_json(&config("eva")).expect("config");
    let model = safety::build(&shape, source, [height as u64, width as u64], DType::F32).expect("graph");
    let mut graph = Graph::new(&model);
    graph.set("frame", bytes);
    graph.run()["unsafe"].floats()[0]
}

fn cut(index: usize, [height, width]: [usize; 2]) -> Vec<u8> {
    let side = height.max(width);
    picture(index, side).chunks_exact(3 * side).take(height).flat_map(|row| row[..3 * width].to_vec()).collect()
}

#[test]
fn pictures_are_judged_as_by_timm() {
    let golden = Golden::read("safety");
    let mut all = Vec::new();
    for (name, size) in [("small", [40, 48]), ("same", [56, 56]), ("large", [160, 128])] {
        for index in [0, 3] {
            let name = format!("{name}-{index}");
            let got = judge(&mut Plain(Synthetic::new("eva", 2.0)), size, cut(index, size));
            close(&name, &[got], golden.get(&name), 2e-4);
            all.push(got);
        }
    }
    assert!(all.iter().any(|&x| x < 0.2) && all.iter().any(|&x| x > 0.9), "{all:?}");
    let error = EvaConfig::from_json(&json!({"architecture": "vit_base_patch16_224"})).expect_err("refused");
    assert!(error.to_string().contains("eva02_base_patch14_448 is built here"), "{error}");
}

fn bytes(picture: &[f32]) -> Vec<u8> {
    picture.iter().map(|&x| x as u8).collect()
}

#[test]
fn a_picture_that_does_not_pass_is_the_last_that_did() {
    const FRAMES: usize = 8;
    let root = tempfile::tempdir().expect("folder");
    folders::safety(root.path());
    let with = |more: Value| {
        let mut params = library(json!({"t_index_list": [20], "cfg_type": "none"}));
        params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        check(params)
    };
    let open = |models: &Path, more: Value| load(models, &with(more)).unwrap_or_else(|error| panic!("{error}"));
    let off = json!({"use_safety_checker": false});
    let mut plain = open(root.path(), off.clone());
    let painted: Vec<Vec<f32>> = (0..FRAMES).map(|index| show(&mut *plain, index)).collect();
    let scores: Vec<f32> =
        painted.iter().map(|made| judge(&mut Synthetic::new("eva", 2.0), [64, 64], bytes(made))).collect();
    let mut sorted = scores.clone();
    sorted.sort_by(f32::total_cmp);
    // Between the two in the middle; the first picture is among the bad ones when the threshold is just at it.
    for threshold in [f64::from(sorted[3] + sorted[4]) / 2.0, f64::from(scores[0]) - 1e-6] {
        let mut stream = open(root.path(), json!({"safety_checker_threshold": threshold}));
        assert!(stream.notes().is_empty(), "{:?}", stream.notes());
        for turn in 0..2 {
            let mut last = vec![0.0; painted[0].len()];
            let mut withheld = 0;
            for (index, made) in painted.iter().enumerate() {
                let got = show(&mut *stream, index);
                let bad = f64::from(scores[index]) >= threshold;
                assert_eq!(stream.withheld(), bad, "frame {index}, turn {turn}");
                if !bad {
                    last.clone_from(made);
                }
                assert_eq!(got, last, "frame {index}, turn {turn}");
                withheld += usize::from(bad);
            }
            assert!((1..FRAMES).contains(&withheld), "{scores:?}");
            // The next stream sees nothing of this one.
            stream.reset();
        }
    }
    // The threshold is hot, and so is switching off; switching on loads what was not asked for.
    let mut stream = open(root.path(), json!({"safety_checker_threshold": 0.0}));
    assert_eq!(show(&mut *stream, 0), vec![0.0; painted[0].len()]);
    assert_eq!(stream.apply(&with(json!({"safety_checker_threshold": 1.0}))).expect("hot"), Applied::Now);
    assert_eq!(show(&mut *stream, 0), painted[0]);
    assert_eq!(stream.apply(&with(off.clone())).expect("hot"), Applied::Now);
    assert_eq!(plain.apply(&with(json!({}))).expect("checked"), Applied::NeedsReload);
    // Where there is no model, that is said, and pictures pass.
    let empty = tempfile::tempdir().expect("folder");
    let mut bare = open(empty.path(), json!({"safety_checker_threshold": 0.0}));
    assert!(bare.notes()[0].contains("Freepik/nsfw_image_detector is not among the models: no picture is checked"));
    assert_eq!(show(&mut *bare, 0), painted[0]);
    assert_eq!(bare.apply(&with(off)).expect("hot"), Applied::Now);
    assert!(bare.notes().is_empty());
    // One that is there and broken is not taken for none.
    let weights = root.path().join("models--Freepik--nsfw_image_detector/snapshots/1f/model.safetensors");
    std::fs::write(&weights, "no weights").expect("written");
    let error = load(root.path(), &with(json!({}))).err().expect("refused").to_string();
    assert!(error.contains("the safety checker") && error.contains("model.safetensors"), "{error}");
    apart("two frames", &painted[0], &painted[4], 10.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_that_are_withheld_are_not_seen_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    folders::safety(folder.path());
    let with = |threshold: f64| {
        json!({"model_id": "stabilityai/sdxl-turbo", "width": 384, "height": 384, "cfg_type": "none", "t_index_list": [20],
               "safety_checker_threshold": threshold})
    };
    let start = with(0.0).to_string();
    let settings = [
        ("engine-models", folder.path().to_str().unwrap()),
        ("engine-initial-params", &start),
        ("engine-status", "500ms"),
        ("engine-freshness", "10s"),
        ("media-video-crf", "4"),
        ("media-video-kbps", "20000"),
        ("inference-threads", "1"),
        ("restart-hang", "30s"),
    ];
    let runner = Runner::idle("streamdiffusion-sdxl", &settings).await;
    let orchestrator = Orchestrator::new().await;
    let clip = Clip { source: "testsrc2", size: "384x384", fps: 2, seconds: 60, audio: "", ..Clip::default() };
    let mut stream = orchestrator.run(&runner, "streamdiffusion-sdxl", Some(with(0.0))).await;
    let feeding = stream.feed_behind(clip.segments(), seconds(2.0));
    stream.online().await;
    let status = async || -> Value { runner.get("/api/status").await.json() };
    // All are bad, then none, then all again: each for some pictures.
    for threshold in [0.0, 1.0, 0.0] {
        let params = with(threshold);
        stream.control(params.to_string()).await;
        let began = std::time::Instant::now();
        let mut since = None;
        loop {
            let now = status().await;
            let out = now["weir"]["frames_out"].as_u64().unwrap();
            if now["inference_status"]["last_params"] == params {
                let since = *since.get_or_insert(out);
                if out >= since + 4 {
                    break;
                }
            }
            assert!(began.elapsed() < LONG, "{threshold}: {now:#}\n{}", runner.log());
            tokio::time::sleep(seconds(0.05)).await;
        }
    }
    drop(feeding);
    stream.close().await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();
    let counted = counters(&runner, "weir_frames_published_total").await;
    let of = |kind: &str| -> usize {
        counted.iter().filter(|(key, _)| key.contains(&format!("\"{kind}\""))).map(|(_, &n)| n as usize).sum()
    };
    let shown = pictures(&stream.output_bytes());
    let units: usize = stream.output().iter().map(|segment| segment.video.len()).sum();
    assert_eq!((units, of("withheld") + of("processed")), (shown.len(), shown.len()), "{counted:?}");
    // Black at first; at last the same picture on and on, which is one that passed.
    let black = shown.iter().take_while(|picture| picture.iter().all(|&byte| byte < 8)).count();
    let last = shown.last().unwrap();
    let frozen = shown.iter().rev().take_while(|picture| distance(picture, last) < 0.3).count() - 1;
    assert!(black >= 3 && frozen >= 3, "{black} {frozen} of {}", shown.len());
    assert_eq!(of("withheld"), black + frozen, "{counted:?}");
    let told = stream.events_of("status").iter().filter_map(|event| event["weir"]["withheld"].as_u64()).max();
    assert!(told.is_some_and(|n| n as usize >= black), "{told:?}");
}
