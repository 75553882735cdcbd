//! What runs once is kept by content: the next workflow neither loads nor runs it again, unless anything in it changed.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use weir::frame::FramePool;
use weir::graph::DType;
use weir::inference::Config;
use weir::models::clip::{self, ClipConfig, Hidden};
use weir::models::{ModelError, Source, Stored};
use weir::pipeline::{Applied, FrameProcessor, LoadContext, NoFetch, registry};

use super::fixture::{models, store_from};
use super::frames::{another_picture, check, same_picture, show, workflow};

/// Numbers of both signs around zero, quickly made: there are millions.
struct Noise(u32);

impl Source for Noise {
    fn has(&self, _: &str) -> bool {
        true
    }

    fn tensor(&mut self, _: &str, shape: &[u64], _: DType) -> Result<Stored, ModelError> {
        let mut state = self.0;
        let block: Vec<u8> = (0..4096)
            .flat_map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) as f32 / 8_388_608.0 - 1.0).to_le_bytes()
            })
            .collect();
        let bytes = shape.iter().product::<u64>() as usize * 4;
        Ok(Stored::Inline(block.iter().copied().cycle().take(bytes).collect()))
    }
}

/// A text encoder whose weights are too many for the graph itself, so that they go into a file beside it.
fn encoder(root: &Path, seed: u32) {
    let mut json: Value = serde_json::from_str(include_str!("../../src/models/tiny/clip-l.json")).expect("config");
    json["vocab_size"] = json!(540_000);
    store_from(&root.join("clip/CLIPText"), "model.fp16", &json, Noise(seed), |net| {
        let config = ClipConfig::from_json(&json).expect("config");
        let ids = net.g.input("ids", DType::I64, [1, 77]).expect("input");
        clip::build(net, &config, &ids, None, Hidden::Last).expect("text encoder");
    });
    // Until the times of the file are told from those of a further change.
    std::thread::sleep(Duration::from_millis(200));
}

/// A copy of `from` with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("folder").map(|entry| entry.expect("entry")) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).expect("copy")),
        }
    }
}

/// Graphs and results that were made, all results, and the seconds that both took. What no prompt is part of, such as an empty
/// latent, may be known from other tests of this process.
fn told(stream: &mut dyn FrameProcessor) -> (u64, u64, u64, f64) {
    let folded = stream.folded();
    (folded.graphs_made, folded.results_made, folded.results_kept + folded.results_made, folded.seconds)
}

#[test]
fn the_next_workflow_does_not_encode_the_same_prompt_again() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path();
    copy(models(), root);
    encoder(root, 1);
    let load = |nodes: &Value, folded_size: usize| {
        let inference = Config { threads: 2, folded_size, ..Config::default() };
        let pool = FramePool::new(4);
        let cx = LoadContext {
            inference: &inference,
            models: root.into(),
            model: None,
            pool,
            progress: &|_: &str| {},
            fetch: &NoFetch,
        };
        let loaded = registry::find("comfyui").expect("registered").load(&cx, &check(nodes.clone()));
        loaded.unwrap_or_else(|error| panic!("{error}"))
    };
    const SIZE: usize = 2 << 30;
    let mut nodes = workflow("sd15-tensorrt");
    nodes["5"]["inputs"]["text"] = json!("a cat that is folded");
    nodes["11"]["inputs"]["cfg"] = json!(2.0);
    let mut first = load(&nodes, SIZE);
    // Both prompts, by one text encoder.
    let (graphs, made, all, first_seconds) = told(&mut *first);
    assert!((1..=2).contains(&graphs) && (2..=3).contains(&made) && all == 3, "{graphs} {made} {all}");
    let picture = show(&mut *first, 3);

    // Another workflow with the same prompts: nodes stand in front of them in the plan and behind them in the graph.
    let shown = nodes.as_object().expect("nodes").iter().find(|(_, node)| node["class_type"] == "PreviewImage");
    let shown = shown.map(|(id, _)| id.clone()).expect("a picture is shown");
    let mut other = nodes.clone();
    let white = json!({"width": 64, "height": 64, "batch_size": 1, "color": 0xffffff});
    other["0"] = json!({"class_type": "EmptyImage", "inputs": white});
    other["90"] = json!({"class_type": "ImageInvert", "inputs": {"image": nodes[&shown]["inputs"]["images"]}});
    let blend = json!({"image1": ["90", 0], "image2": ["0", 0], "blend_factor": 0.0});
    other["91"] = json!({"class_type": "ImageBlend", "inputs": blend});
    other[&shown]["inputs"]["images"] = json!(["91", 0]);
    let mut second = load(&other, SIZE);
    let (graphs, made, all, seconds) = told(&mut *second);
    // The white picture is new.
    assert!(graphs <= 1 && made <= 1 && all == 4, "{graphs} {made} {all}");
    eprintln!("what runs once: {first_seconds:.3} s at first, {seconds:.3} s in the next workflow");
    assert!(seconds < first_seconds, "{seconds} s, and {first_seconds} s at first");
    let inverted: Vec<f32> = show(&mut *second, 3).into_iter().map(|byte| 255.0 - byte).collect();
    // Both are cut off to bytes.
    assert!(inverted.iter().zip(&picture).all(|(a, b)| (a - b).abs() <= 1.0), "another picture than before");

    // A prompt that came as an override is known to the next workflow too, also when nothing runs any more.
    nodes["5"]["inputs"]["text"] = json!("a dog that is folded");
    assert_eq!(first.apply(&check(nodes.clone())).expect("applies"), Applied::Now);
    let (graphs, made, all, _) = told(&mut *first);
    assert_eq!((graphs, made, all), (0, 1, 1));
    let dog = show(&mut *first, 3);
    drop((first, second));
    let mut third = load(&nodes, SIZE);
    let (graphs, made, all, _) = told(&mut *third);
    assert_eq!((graphs, made, all), (0, 0, 3));
    same_picture("kept", &show(&mut *third, 3), &dog);

    // Other weights in the same file, of the same size and with the same time.
    let file = root.join("clip/CLIPText/model.fp16.safetensors");
    let modified = std::fs::metadata(&file).and_then(|about| about.modified()).expect("time");
    encoder(root, 2);
    std::fs::File::options().append(true).open(&file).and_then(|file| file.set_modified(modified)).expect("time");
    std::thread::sleep(Duration::from_millis(200));
    let mut changed = load(&nodes, SIZE);
    let (graphs, made, all, _) = told(&mut *changed);
    assert_eq!((graphs, made, all), (1, 2, 3));
    another_picture("other weights", &show(&mut *changed, 3), &dog);

    // With no room, what is in use is found, and nothing else.
    drop((third, changed));
    nodes["5"]["inputs"]["text"] = json!("a fish that is folded");
    let mut alone = load(&nodes, 0);
    assert!(told(&mut *alone).1 >= 1, "the prompt is new");
    let mut beside = load(&nodes, 0);
    assert_eq!(told(&mut *beside).0, 0, "the text encoder is in use");
    drop((alone, beside));
    let mut later = load(&nodes, 0);
    let (graphs, made, ..) = told(&mut *later);
    assert!(graphs >= 1 && made >= 2, "{graphs} {made}");
    drop(later);
    let left = std::fs::read_dir(root.join("weir--graphs")).expect("folder").count();
    assert_eq!(left, 0, "files of weights are left");
}
