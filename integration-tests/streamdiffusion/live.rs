//! The pipeline on the whole path: a runner, an orchestrator's channels, and updates while video flows.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::folders::{self, Line};
use crate::support::clips::{Clip, pipe};
use crate::support::{LONG, Orchestrator, Runner, Stream, seconds, ts, until};

const MODEL: &str = "stabilityai/sdxl-turbo";
const DEPTH: &str = "xinsir/controlnet-depth-sdxl-1.0";
const TILE: &str = "xinsir/controlnet-tile-sdxl-1.0";
/// Rows and columns to which pictures are scaled before they are compared.
const GRID: usize = 24;

/// A folder of models as an operator has it. SDXL, since its attention begins one level deeper: the cheapest of the three.
pub(super) fn models(root: &Path) {
    folders::model(&root.join("models--stabilityai--sdxl-turbo/snapshots/0a1b"), Line::Sdxl, false);
    folders::taesd(&root.join("models--madebyollin--taesdxl/snapshots/0a1b"));
    folders::controlnet(&root.join("models--xinsir--controlnet-depth-sdxl-1.0/snapshots/0a1b"), Line::Sdxl, 0);
    folders::controlnet(&root.join(TILE), Line::Sdxl, 1);
    folders::lora(&root.join("loras/style.safetensors"), "style");
}

fn with(more: Value) -> Value {
    let mut params = json!({
        "model_id": MODEL, "width": 384, "height": 384, "cfg_type": "none", "t_index_list": [20], "prompt": "a cat",
        "seed": 2, "controlnets": [{"model_id": DEPTH, "conditioning_scale": 0.5}],
    });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    params
}

pub(super) async fn status(runner: &Runner) -> Value {
    runner.get("/api/status").await.json()
}

pub(super) fn count(status: &Value, name: &str) -> usize {
    status["weir"][name].as_u64().unwrap() as usize
}

/// Between which pictures an update was put in force: those before the first still had the old parameters, those from the
/// second on have the new ones.
#[derive(Debug)]
pub(super) struct Change {
    pub what: String,
    pub between: [usize; 2],
}

/// Sends `params` by the control channel and waits until they are in force.
pub(super) async fn update(runner: &Runner, stream: &mut Stream, params: &Value, what: &str) -> Change {
    let before = count(&status(runner).await, "frames_out");
    stream.control(params.to_string()).await;
    let began = std::time::Instant::now();
    loop {
        let status = status(runner).await;
        if &status["inference_status"]["last_params"] == params && status["weir"]["loading"].is_null() {
            return Change { what: what.to_owned(), between: [before, count(&status, "frames_in")] };
        }
        assert!(began.elapsed() < LONG, "{what}: not in force\n{status:#}\n{}", runner.log());
        tokio::time::sleep(seconds(0.02)).await;
    }
}

/// Lets a few pictures pass.
pub(super) async fn some_pictures(runner: &Runner) {
    let before = count(&status(runner).await, "frames_out");
    let began = std::time::Instant::now();
    while count(&status(runner).await, "frames_out") < before + 2 {
        assert!(began.elapsed() < LONG, "no pictures any more\n{}", runner.log());
        tokio::time::sleep(seconds(0.05)).await;
    }
}

/// Every picture, scaled down.
pub(super) fn pictures(bytes: &[u8]) -> Vec<Vec<u8>> {
    let scale = format!("scale={GRID}:{GRID}:flags=area");
    let arguments = ["-v", "error", "-nostdin", "-i", "-", "-fps_mode", "passthrough", "-vf", &scale];
    let raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-y", "/dev/stdout"];
    let (out, errors) = pipe("ffmpeg", &[&arguments[..], &raw].concat(), bytes);
    assert_eq!(errors, "", "ffmpeg");
    out.chunks_exact(GRID * GRID * 3).map(<[u8]>::to_vec).collect()
}

pub(super) fn apart(a: &[u8], b: &[u8]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).sum();
    sum / a.len() as f64
}

/// The counters of `/metrics` whose name begins with `name`, by their labels.
pub(super) async fn counters(runner: &Runner, name: &str) -> BTreeMap<String, f64> {
    let text = runner.get("/metrics").await.body;
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(key, value)| (key.to_owned(), value.parse().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_change_while_video_flows() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let start = with(json!({})).to_string();
    let settings = [
        ("engine-models", folder.path().to_str().unwrap()),
        ("engine-initial-params", &start),
        ("engine-status", "500ms"),
        // Only a queue that is full loses pictures, not a machine that is busy for a moment.
        ("engine-freshness", "10s"),
        // So that the encoder's own noise is far below any change of the picture.
        ("media-video-crf", "4"),
        ("media-video-kbps", "20000"),
        ("media-segment-seconds", "2"),
        ("inference-threads", "1"),
        ("restart-hang", "30s"),
    ];
    let runner = Runner::idle("streamdiffusion-sdxl", &settings).await;
    let orchestrator = Orchestrator::new().await;
    let clip = Clip { source: "smptebars", size: "384x384", fps: 2, seconds: 120, audio: "", ..Clip::default() };
    let segments = clip.segments();
    let mut stream = orchestrator.run(&runner, "streamdiffusion-sdxl", Some(with(json!({})))).await;
    let feeding = stream.feed_behind(segments.clone(), seconds(2.0));
    stream.online().await;
    some_pictures(&runner).await;

    // What is hot and what needs another graph, in turn. Each keeps what the one before set.
    let mut params = with(json!({}));
    let mut changes = Vec::new();
    for (hot, more) in [
        (true, json!({"prompt": "a dog in the city at night"})),
        (true, json!({"seed": 5})),
        (true, json!({"t_index_list": [36]})),
        (true, json!({"controlnets": [{"model_id": DEPTH, "conditioning_scale": 3.0}]})),
        (false, json!({"t_index_list": [15, 36]})),
        (false, json!({"controlnets": [{"model_id": DEPTH}, {"model_id": TILE, "conditioning_scale": 0.7}]})),
        (false, json!({"controlnets": [], "t_index_list": [15]})),
        (false, json!({"lora_dict": {"loras/style.safetensors": 9.0}})),
        (false, json!({"cfg_type": "full", "guidance_scale": 1.4})),
        (true, json!({"guidance_scale": 4.0})),
        (true, json!({"negative_prompt": "a portrait, flowers"})),
    ] {
        let what = more.to_string();
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let loads = runner.log().matches("The new graph is in place.").count();
        changes.push(update(&runner, &mut stream, &params, &what).await);
        let loaded = || runner.log().matches("The new graph is in place.").count() - loads;
        // The line of the log comes by another way than the status that was waited for.
        until("a line of the log", LONG, || (hot || loaded() > 0).then_some(())).await;
        let loaded = loaded();
        assert_eq!(loaded, usize::from(!hot), "{what}");
        some_pictures(&runner).await;
    }
    assert_eq!(stream.events_of("error"), Vec::<Value>::new());
    // A checker that is asked for and not there is no secret.
    let note = "no picture is checked";
    assert!(status(&runner).await["weir"]["notes"][0].as_str().is_some_and(|said| said.contains(note)));
    assert_eq!(runner.log().matches(note).count(), 1, "once a start");

    // What does not load is told, and nothing changes.
    let mut wrong = params.clone();
    wrong["lora_dict"] = json!({"loras/none.safetensors": 1.0});
    stream.control(wrong.to_string()).await;
    let error = stream.event("error", |_| true).await;
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("Error updating params: ") && message.contains("loras/none.safetensors"), "{error}");
    some_pictures(&runner).await;
    let now = status(&runner).await;
    assert_eq!(now["inference_status"]["last_params"], params, "what was refused is not current");
    let seen = counters(&runner, "weir_frames_published_total").await;
    let drops = counters(&runner, "weir_frames_dropped_total").await;
    drop(feeding);
    stream.close().await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();

    // Steps of the loads were told while they ran.
    let statuses = stream.events_of("status");
    let loading: Vec<&Value> = statuses.iter().map(|event| &event["weir"]["loading"]).collect();
    let told = loading.iter().filter(|loading| loading["detail"].is_string() && loading["since"].is_u64()).count();
    assert!(told >= 4, "{loading:?}");
    assert!(statuses.iter().all(|event| event["state"] != "ERROR"), "{statuses:#?}");

    // No picture is missing, and none is a stand-in.
    let input: Vec<i64> =
        segments.iter().map(ts::read).flat_map(|s| s.video.into_iter().map(|unit| unit.pts)).collect();
    let output: Vec<i64> = stream.output().iter().flat_map(|s| s.video.iter().map(|unit| unit.pts)).collect();
    assert_eq!(output, input[..output.len()], "a picture is missing");
    for (key, value) in seen {
        assert!(value == 0.0 || key.contains("processed"), "{key} {value}");
    }
    assert!(drops.values().all(|&value| value == 0.0), "{drops:?}");

    // One change of the picture for each update, at the first picture behind it; none between.
    let shown = pictures(&stream.output_bytes());
    assert_eq!(shown.len(), output.len());
    let turns: Vec<usize> = (1..shown.len()).filter(|&i| apart(&shown[i - 1], &shown[i]) > 0.4).collect();
    let told = || turns.iter().map(|&i| format!("{i}: {:.1}", apart(&shown[i - 1], &shown[i]))).collect::<Vec<_>>();
    assert_eq!(turns.len(), changes.len(), "{:?} {changes:?}", told());
    for (turn, Change { what, between: [first, last] }) in turns.iter().zip(&changes) {
        assert!((first..=last).contains(&turn), "{what}: at {turn}, not in {first}..={last}; {:?}", told());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preset_starts_with_the_controlnets_that_are_there_and_names_the_others() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    // The depth model of the first is not there, the tile is, the canny is not.
    let models = folder.path().to_str().unwrap();
    let runner = Runner::idle("streamdiffusion-sdxl", &[("engine-models", models), ("inference-threads", "1")]).await;
    let log = runner.log();
    for left_out in [
        "controlnet-depth-sdxl-1.0 of the preset is left out: ",
        "controlnet-canny-sdxl-1.0 of the preset is left out: ",
        "The preset is loaded without its IP-Adapter: ",
    ] {
        assert_eq!(log.matches(left_out).count(), 1, "{left_out}\n{log}");
    }
    assert!(!log.contains("controlnet-tile-sdxl-1.0 of the preset"), "{log}");
    // A stream with the preset is told the same.
    let preset = json!({"model_id": MODEL, "prompt": "flowers", "t_index_list": [36], "controlnets": [
        {"model_id": TILE, "conditioning_scale": 0.15, "preprocessor": "feedback"}]});
    let orchestrator = Orchestrator::new().await;
    let clip = Clip { size: "384x384", fps: 2, seconds: 8, audio: "", ..Clip::default() };
    let mut stream = orchestrator.run(&runner, "streamdiffusion-sdxl", Some(preset)).await;
    let feeding = stream.feed_behind(clip.segments(), seconds(2.0));
    stream.online().await;
    let notes = status(&runner).await["weir"]["notes"].to_string();
    for left_out in ["controlnet-depth", "controlnet-canny", "IP-Adapter", "Freepik/nsfw_image_detector is not among"] {
        assert!(notes.contains(left_out), "{notes}");
    }
    drop(feeding);
    stream.close().await;
    runner.no_panic();

    let weir = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(arguments)
            .args(["--engine-models", models])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    folders::depth(&folder.path().join("models--depth-anything--Depth-Anything-V2-Small-hf/snapshots/1f"));
    folders::safety(folder.path());
    // Kinds are told by what published models say of themselves.
    for (place, key, kind) in [
        ("models--madebyollin--taesdxl/snapshots/0a1b", "_class_name", "AutoencoderTiny"),
        ("models--xinsir--controlnet-depth-sdxl-1.0/snapshots/0a1b", "_class_name", "ControlNetModel"),
        (TILE, "_class_name", "ControlNetModel"),
        ("models--depth-anything--Depth-Anything-V2-Small-hf/snapshots/1f", "model_type", "depth_anything"),
    ] {
        let path = folder.path().join(place).join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = kind.into();
        std::fs::write(&path, config.to_string()).unwrap();
    }
    let (code, said) = weir(&["models", "check", "streamdiffusion-sdxl"]);
    assert_eq!(code, Some(0), "{said}");
    let line = |begin: &str| said.lines().find(|line| line.starts_with(begin)).unwrap_or_default().to_owned();
    for there in ["stabilityai/sdxl-turbo", DEPTH, TILE, "depth-anything/", "Freepik/"] {
        assert!(line(there).contains(": can run"), "{there}: {said}");
    }
    assert!(line("xinsir/controlnet-canny").contains("cannot be used: "), "{said}");
    assert!(
        said.contains("canny-sdxl-1.0 of the preset is left out") && !said.contains("depth-sdxl-1.0 of the preset")
    );
    let (code, said) = weir(&["models", "check", "streamdiffusion"]);
    assert!(code == Some(1) && said.contains("streamdiffusion: It cannot be loaded."), "{said}");
    let (code, said) = weir(&["models", "check", "noop"]);
    assert!(code == Some(0) && said.contains("needs no models"), "{said}");
    let (code, said) = weir(&["models", "check", "Freepik/nsfw_image_detector"]);
    assert!(code == Some(0) && said.contains("safety checker") && said.contains("It can run."), "{said}");
}

#[test]
fn a_machine_is_prepared_or_the_reason_is_told() {
    let place = tempfile::tempdir().unwrap();
    models(place.path());
    let prepare = |model: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["prepare", "--model-id", model, "--engine-models"]).arg(place.path());
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout),
        )
    };
    let (code, said) = prepare("streamdiffusion-sdxl");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("[1/1] ") && said.contains("streamdiffusion-sdxl is prepared"), "{said}");
    let (code, said) = prepare("streamdiffusion-sd15");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is not prepared") && said.contains("Lykon/dreamshaper-8"), "{said}");
    let (code, said) = prepare("streamdiffusion-faceid");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no pipeline `streamdiffusion-faceid`"), "{said}");
}
