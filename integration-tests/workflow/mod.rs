//! ComfyUI workflows through real processes and sockets.

mod parts;
mod sound;
mod stream;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::clips::{Clip, pipe};
use crate::support::{LONG, Orchestrator, Runner, Stream, seconds, until};

/// The camera behind a plane of one grey: `value` decides what is seen, `blend_factor` how much of the camera.
fn plane(value: f64) -> Value {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "camera.png"}},
        "2": {"class_type": "SolidMask", "inputs": {"value": value, "width": 384, "height": 384}},
        "3": {"class_type": "MaskToImage", "inputs": {"mask": ["2", 0]}},
        "4": {"class_type": "ImageBlend", "inputs": {"image1": ["1", 0], "image2": ["3", 0], "blend_factor": 1.0, "blend_mode": "normal"}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    })
}

fn params(prompt: Value) -> Value {
    json!({"width": 384, "height": 384, "prompt": prompt})
}

/// The middle and the corners of every picture: five greys each.
fn greys(bytes: &[u8]) -> Vec<[u8; 5]> {
    let arguments = [
        "-v",
        "error",
        "-nostdin",
        "-i",
        "-",
        "-vf",
        "scale=3:3:flags=area",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-y",
        "/dev/stdout",
    ];
    let (out, errors) = pipe("ffmpeg", &arguments, bytes);
    assert_eq!(errors, "", "ffmpeg");
    out.chunks_exact(27).map(|p| [p[0], p[6], p[12], p[18], p[24]]).collect()
}

/// The pictures from the first one of the grey `first` on: before it the overlay is shown.
fn seen_of(bytes: &[u8], first: i32) -> Vec<[u8; 5]> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let flat = |picture: &[u8; 5]| picture.iter().all(|&grey| (i32::from(grey) - first).abs() <= 2);
    greys(bytes).into_iter().skip_while(|picture| !flat(picture)).collect()
}

/// Waits until a picture of the grey `first` came out.
async fn shows(stream: &Stream, first: i32) {
    let began = std::time::Instant::now();
    while seen_of(&stream.output_bytes(), first).is_empty() {
        assert!(began.elapsed() < LONG, "no picture of {first}: {:?}", stream.output().len());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn metric(runner: &Runner, line: &str) -> u64 {
    let text = runner.get("/metrics").await.body;
    let found = text.lines().find(|l| l.starts_with(line)).unwrap_or_else(|| panic!("{line} is not in\n{text}"));
    found.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
}

/// A widget is turned thirty times a second while frames pass. It feeds what is folded, so the folded graph runs again for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_widget_turned_thirty_times_a_second_lands_between_frames() {
    const TURNS: usize = 180;
    let runner = Runner::idle("comfyui", &[("engine-status", "500ms"), ("media-segment-seconds", "1")]).await;
    let orchestrator = Orchestrator::new().await;
    let clip = Clip { source: "color=c=0x808080", seconds: 60, audio: "", ..Clip::default() };
    let mut stream = orchestrator.run(&runner, "comfyui", Some(params(plane(0.1)))).await;
    let feeding = stream.feed_behind(clip.segments(), seconds(2.0));
    shows(&stream, (0.1 * 255.0) as i32).await;
    let applied = "weir_updates_total{result=\"applied\"}";
    let before = metric(&runner, applied).await;

    // A second of turns warms the allocator up; what grows after it grows with every turn.
    let value = |turn: usize| 0.1 + 0.8 * turn as f64 / TURNS as f64;
    let mut beat = tokio::time::interval(Duration::from_micros(33_333));
    let mut begin = None;
    for turn in 1..=TURNS {
        beat.tick().await;
        stream.control(json!({"2": {"value": value(turn)}}).to_string()).await;
        if turn == TURNS / 3 {
            begin = Some(runner.usage());
        }
    }
    // A burst may overrun a reader of trickle, but never its last message.
    let began = std::time::Instant::now();
    loop {
        let status = runner.get("/api/status").await.json();
        let inputs = &status["inference_status"]["last_params"]["prompt"]["2"]["inputs"];
        if inputs["value"] == value(TURNS) {
            break;
        }
        assert!(began.elapsed() < LONG, "the last turn did not arrive: {inputs}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let arrived = metric(&runner, applied).await - before;
    assert!(arrived > TURNS as u64 / 2, "{arrived} of {TURNS} turns arrived");
    let (begin, end) = (begin.unwrap(), runner.usage());
    assert!(end.rss < begin.rss + (24 << 10), "resident KiB went from {} to {}", begin.rss, end.rss);
    assert!(end.threads <= begin.threads + 1, "{begin:?} {end:?}");

    // The last value is seen, then the stream ends.
    let last = (value(TURNS) * 255.0) as i32;
    let seen = stream.output.segments().len();
    until("two segments more", LONG, || (stream.output.segments().len() > seen + 2).then_some(())).await;
    drop(feeding);
    stream.close().await;
    let pictures = seen_of(&stream.output_bytes(), (0.1 * 255.0) as i32);
    let grey = |picture: &[u8; 5]| i32::from(picture[2]);
    // One value in every picture, each a value that was sent, in the order in which they were sent.
    for (i, picture) in pictures.iter().enumerate() {
        let (low, high) = (*picture.iter().min().unwrap(), *picture.iter().max().unwrap());
        assert!(high - low <= 3, "picture {i} has two values: {picture:?}");
    }
    for (i, pair) in pictures.windows(2).enumerate() {
        assert!(grey(&pair[1]) >= grey(&pair[0]) - 2, "picture {} goes back: {:?}", i + 1, pair);
    }
    assert!((grey(pictures.last().unwrap()) - last).abs() <= 3, "{:?}, {last} is in force", pictures.last());
    let mut values: Vec<i32> = pictures.iter().map(grey).collect();
    values.dedup();
    assert!(values.len() > TURNS / 8, "only {} values were seen", values.len());
    // No frame waits for a turn, and none is lost: every time of the input's comes out.
    let times: Vec<i64> =
        stream.output().iter().flat_map(|segment| segment.video.iter().map(|unit| unit.pts)).collect();
    let lost = times.windows(2).filter(|pair| pair[1] - pair[0] > 3_000 + 10).count();
    assert_eq!(lost, 0, "gaps between the pictures: {times:?}");
    runner.no_panic();
}

/// What is refused changes nothing, what needs another graph is built beside the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_updates_change_nothing_and_other_graphs_do_not_lose_the_picture() {
    let runner = Runner::idle("comfyui", &[("engine-status", "500ms"), ("media-segment-seconds", "0.5")]).await;
    let orchestrator = Orchestrator::new().await;

    // Refused before it starts, with every reason.
    let refused = orchestrator.stream().await;
    let mut wrong = plane(0.5);
    wrong["4"]["inputs"]["blend_mode"] = json!("dodge");
    wrong["3"]["class_type"] = json!("MaskToPicture");
    let answer = runner.post("/live-video-to-video", &refused.request("comfyui", Some(params(wrong)))).await;
    assert_eq!(answer.status, 400);
    for says in ["the class MaskToPicture is not known", "\\\"dodge\\\" is not among the choices"] {
        assert!(answer.body.contains(says), "{says}: {}", answer.body);
    }
    drop(refused);

    // Looked at over HTTP, without running it.
    let check = runner.post("/workflow/check", &params(plane(0.5))).await.json();
    assert_eq!((&check["runs"], &check["nodes"]["0"]["2"]["inputs"]["value"]["max"]), (&json!(true), &json!(1.0)));
    let plan = runner.post("/workflow/plan", &json!({"prompt": plane(0.5)})).await;
    assert!(plan.status == 200 && plan.body.starts_with("<svg"), "{plan:?}");
    let none = runner.post("/workflow/plan", &json!({"1": {"class_type": "X", "inputs": {}}})).await;
    assert_eq!((none.status, none.json()["refused"][0]["reason"].clone()), (400, json!("missing input")));

    let clip = Clip { source: "color=c=0x808080", seconds: 60, audio: "", ..Clip::default() };
    let mut stream = orchestrator.run(&runner, "comfyui", Some(params(plane(0.2)))).await;
    let feeding = stream.feed_behind(clip.segments(), seconds(2.0));
    shows(&stream, 51).await;
    stream.control(json!({"2": {"value": 7}}).to_string()).await;
    let told = stream
        .event("error", |event| event["message"].as_str().is_some_and(|text| text.contains("7 is out of range")))
        .await;
    assert!(told["message"].as_str().unwrap().contains("node 2 (SolidMask), input value"), "{told}");
    let answer = runner.params(json!({"9": {"value": 0.5}})).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("there is no such node"), "{}", answer.body);

    // Another mode is another graph; the widget that was turned before keeps its value.
    assert_eq!(runner.params(json!({"2": {"value": 0.4}})).await.status, 200);
    assert_eq!(runner.params(json!({"4": {"blend_mode": "screen"}})).await.status, 200);
    // 1 − (1 − 0.4)·(1 − 128/255)
    let (first, last) = ((0.4 * 255.0) as i32, ((1.0 - 0.6 * (1.0 - 128.0 / 255.0)) * 255.0) as i32);
    let began = std::time::Instant::now();
    loop {
        let pictures = seen_of(&stream.output_bytes(), 51);
        if pictures.last().is_some_and(|picture| (i32::from(picture[2]) - last).abs() <= 3) {
            // From one to the other without anything between: no overlay, no camera.
            let between: Vec<i32> = pictures
                .iter()
                .map(|p| i32::from(p[2]))
                .filter(|grey| [51, first, last].iter().all(|v| (v - grey).abs() > 3))
                .collect();
            assert_eq!(between, [0; 0]);
            break;
        }
        assert!(began.elapsed() < LONG, "{:?} is seen, {last} is expected", pictures.last());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    drop(feeding);
    stream.close().await;
    runner.no_panic();
}

/// `weir workflow` on files: exit codes and what they say.
#[test]
fn check_and_plan_of_files() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("integration-tests/workflows");
    let weir = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_weir")).args(arguments).current_dir(&folder).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = weir(&["workflow", "check", "blend.json"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("5 of 5 nodes run:") && text.ends_with("It runs.\n"), "{text}");
    let (code, text) = weir(&["workflow", "check", "--json", "blend.json"]);
    assert_eq!(code, Some(0));
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["runs"], true);
    let (code, svg) = weir(&["workflow", "plan", "blend.json", "--svg", "-"]);
    assert!(code == Some(0) && svg.starts_with("<svg"));
    let bad = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bad.path(), json!({"1": {"class_type": "LoadImage", "inputs": {}}, "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}}, "3": {"class_type": "Nope", "inputs": {}}}).to_string()).unwrap();
    let (code, text) = weir(&["workflow", "check", bad.path().to_str().unwrap()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("refused: node 3 (Nope): the class Nope is not known"), "{text}");
}
