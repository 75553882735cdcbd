//! The stream API with the pipeline `comfyui`: every shape in which pytrickle's and ComfyStream's clients send a workflow.

use serde_json::{Value, json};

use super::{metric, params, plane, shows};
use crate::support::clips::Clip;
use crate::support::{LONG, Orchestrator, Runner, Stream, seconds, until};

/// Starts a stream with `params` as they are.
async fn start(orchestrator: &Orchestrator, runner: &Runner, params: &Value) -> Stream {
    let stream = orchestrator.stream().await;
    let mut body = stream.request("", None);
    (body["gateway_request_id"], body["params"]) = (stream.manifest.clone().into(), params.clone());
    let answer = runner.post("/stream/start", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    stream
}

pub(super) fn feed(stream: &mut Stream) -> crate::support::Feeding {
    let clip = Clip { source: "color=c=0x808080", seconds: 60, audio: "", ..Clip::default() };
    stream.feed_behind(clip.segments(), seconds(2.0))
}

fn grey(value: f64) -> i32 {
    (value * 255.0).round() as i32
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_starts_a_stream_in_every_shape() {
    let runner = Runner::idle("comfyui", &[("media-segment-seconds", "0.5")]).await;
    let orchestrator = Orchestrator::new().await;
    let whole = params(plane(0.3));
    for (shape, params) in [
        ("prompt as its text", json!({"width": 384, "height": 384, "prompt": plane(0.3).to_string()})),
        ("prompts as a list", json!({"width": "384", "height": "384", "prompts": [plane(0.3)]})),
        ("params as their text", Value::String(whole.to_string())),
        ("a workflow and a node", json!({"width": 384, "height": 384, "prompts": plane(0.9), "2": {"value": 0.3}})),
    ] {
        let mut stream = start(&orchestrator, &runner, &params).await;
        let _feeding = feed(&mut stream);
        shows(&stream, grey(0.3)).await;
        let path = format!("/stream/{}/stop", stream.manifest);
        assert_eq!(runner.post(&path, &json!({})).await.status, 200, "{shape}");
        runner.health("IDLE", LONG).await;
    }
    // What cannot run is said before there is a stream.
    let stream = orchestrator.stream().await;
    let mut body = stream.request("", None);
    body["gateway_request_id"] = "wrong".into();
    for (params, word) in [
        (json!({"prompt": {"1": {"class_type": "NoSuchNode", "inputs": {}}}}), "missing input"),
        (json!({"prompt": "{"}), "prompt"),
        (json!({"prompt": plane(0.3), "prompts": plane(0.3)}), "more than one workflow"),
        (json!({"prompt": plane(0.3), "77": {"value": 0.5}}), "77"),
        (json!({"prompt": plane(0.3), "2": {"value": 7.0}}), "value"),
        (json!("{"), "JSON"),
    ] {
        body["params"] = params;
        let answer = runner.post("/stream/start", &body).await;
        assert_eq!((answer.status, answer.body.contains(word)), (400, true), "{word}: {answer:?}");
        assert_eq!(answer.json()["current_state"]["status"], "IDLE");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_workflow_takes_updates_in_every_shape_and_tells_its_figures() {
    let settings = [("media-segment-seconds", "0.5"), ("metering-interval", "1s")];
    let runner = Runner::idle("comfyui", &settings).await;
    let orchestrator = Orchestrator::new().await;
    let stream = orchestrator.stream().await;
    let name = stream.manifest.clone();
    let mut body = stream.request("", Some(params(plane(0.1))));
    let data = format!("{}{name}-data", orchestrator.base);
    assert!(orchestrator.server.create(&format!("{name}-data"), "application/jsonl"));
    body["gateway_request_id"] = name.clone().into();
    (body["data_url"], body["figures"]) = (data.clone().into(), true.into());
    let lines = orchestrator.listen(&data);
    let mut stream = stream;
    assert_eq!(runner.post("/stream/start", &body).await.status, 200);
    let _feeding = feed(&mut stream);
    shows(&stream, grey(0.1)).await;
    for (path, update, value) in [
        ("/stream/params".to_owned(), json!({"2": {"value": 0.2}}), 0.2),
        ("/stream/params".to_owned(), json!({"2": {"inputs": {"value": 0.4}}}), 0.4),
        (format!("/stream/{name}/params"), json!({"params": {"2": {"value": 0.6}}}), 0.6),
        (format!("/stream/{name}/update"), json!({"params": "{\"2\": {\"value\": 0.7}}"}), 0.7),
        (format!("/stream/{name}/update"), json!({"prompts": [plane(0.8)]}), 0.8),
        ("/stream/params".to_owned(), json!({"prompt": plane(0.9).to_string()}), 0.9),
    ] {
        let answer = runner.post(&path, &update).await;
        assert_eq!(answer.status, 200, "{update}: {answer:?}");
        shows(&stream, grey(value)).await;
    }
    // Another graph with the same plane behind it: what runs once is taken from what was kept.
    let kept = "weir_folded_total{from=\"kept\",what=\"result\"}";
    let before = metric(&runner, kept).await;
    let mut dimmed = plane(0.9);
    dimmed["4"]["inputs"]["blend_mode"] = json!("multiply");
    let answer = runner.post("/stream/params", &json!({"prompt": dimmed, "width": 384, "height": 384})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    shows(&stream, grey(0.9 * f64::from(0x80) / 255.0)).await;
    assert_eq!(metric(&runner, kept).await - before, 1);
    // An update that fails says so, and nothing changes.
    let answer = runner.post("/stream/params", &json!({"2": {"value": 9.0}})).await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (500, Some("error")), "{answer:?}");
    // A cap takes effect while the stream runs, and the workflow stays.
    let made = || async {
        let status = runner.get(&format!("/stream/{name}/status")).await.json();
        status["status"]["weir"]["frames_out"].as_u64().unwrap_or(0)
    };
    assert_eq!(runner.post("/stream/params", &json!({"max_framerate": 5})).await.status, 200);
    tokio::time::sleep(seconds(1.0)).await;
    let before = made().await;
    tokio::time::sleep(seconds(4.0)).await;
    let passed = made().await - before;
    // Status is told once a second.
    assert!((10..=27).contains(&passed), "{passed} pictures in four seconds of 5 a second");
    shows(&stream, grey(0.9)).await;
    // Figures are JSON lines: an array on each, whose objects are intervals.
    let figures = until("figures", LONG, || {
        let all: Vec<Value> = lines.segments().iter().flat_map(|(_, bytes)| read_lines(bytes)).collect();
        all.into_iter().find(|item| item["type"] == "metering")
    });
    figures.await;
    assert_eq!(runner.post("/stream/stop", &json!({})).await.status, 200);
    lines.end(LONG).await;
}

pub(super) fn read_lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).expect("text");
    let lines = text.lines().map(|line| serde_json::from_str::<Vec<Value>>(line).expect("a line is an array"));
    lines.flatten().collect()
}
