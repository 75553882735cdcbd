//! Recordings, and another pipeline: what the page orders of a real runner.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::clips::{Clip, decodes, probe};
use crate::support::{LONG, Orchestrator, Runner, seconds};

const JSON: &str = "content-type: application/json\r\n";

async fn listed(runner: &Runner) -> Vec<Value> {
    runner.get("/recordings").await.json()["recordings"].as_array().unwrap().clone()
}

/// Waits until the only recording is in `state` and has some bytes.
async fn is(runner: &Runner, state: &str) -> Value {
    let began = std::time::Instant::now();
    loop {
        let all = listed(runner).await;
        if let Some(one) = all.iter().find(|one| one["state"] == state && one["bytes"].as_u64() > Some(0)) {
            return one.clone();
        }
        assert!(began.elapsed() < LONG, "{state}: {all:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Decodes fragmented MP4. Gives the number of its pictures.
fn fragmented(file: &[u8]) -> u64 {
    assert!(file[4..8] == *b"ftyp" && file.windows(4).any(|four| four == b"moof"), "fragments");
    decodes(file);
    let streams = probe(file);
    let video = streams.iter().find(|one| one["codec_type"] == "video").expect("a video");
    assert_eq!((video["codec_name"].as_str(), video["width"].as_u64()), (Some("h264"), Some(384)));
    assert!(streams.iter().any(|one| one["codec_type"] == "audio"), "{streams:?}");
    video["nb_read_frames"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_recorded_beside_its_frames() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made").display().to_string();
    let settings = [("record-path", path.as_str()), ("auth-token", ""), ("media-segment-seconds", "0.5")];
    let runner = Runner::idle("invert", &settings).await;
    // Nothing to record.
    assert_eq!(runner.post("/recordings", &json!({})).await.status, 404);
    let orchestrator = Orchestrator::new().await;
    let size = json!({"width": 384, "height": 384});
    let mut stream = orchestrator.run(&runner, "invert", Some(size)).await;
    let _feeding = stream.feed_behind(Clip { seconds: 60, ..Clip::default() }.segments(), seconds(2.0));
    stream.online().await;
    let answer = runner.post("/recordings", &json!({"stream": "no such"})).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    let answer = runner.post("/recordings", &json!({})).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    // One at a time, and nothing of it is given away or lost while it is written.
    assert_eq!(runner.post("/recordings", &json!({})).await.status, 409);
    is(&runner, "recording").await;
    tokio::time::sleep(seconds(2.0)).await;
    let own = format!("/recordings/{id}");
    assert_eq!(runner.get(&own).await.status, 409);
    assert_eq!(runner.request("DELETE", &own, None).await.status, 409);
    let whole = runner.post(&format!("{own}/stop"), &json!({})).await;
    assert_eq!((whole.status, whole.json()["state"].as_str()), (200, Some("whole")), "{whole:?}");

    // The file: what was published, from a key picture on.
    let (head, file) = runner.raw("GET", &own, "", b"").await;
    assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("video/mp2t") && head.contains("attachment"), "{head}");
    assert_eq!((file.len() % 188, file[0]), (0, 0x47));
    decodes(&file);
    let streams = probe(&file);
    let video = streams.iter().find(|one| one["codec_type"] == "video").expect("a video");
    assert_eq!((video["codec_name"].as_str(), video["width"].as_u64()), (Some("h264"), Some(384)));
    let published = stream.output_bytes();
    assert!(published.windows(file.len().min(40_000)).any(|part| part == &file[..file.len().min(40_000)]));
    let metrics = runner.get("/metrics").await.body;
    assert!(metrics.contains("weir_recordings_total{end=\"stopped\"} 1"), "{metrics}");
    assert!(metrics.contains("weir_recording_lost_segments_total 0"), "{metrics}");

    // Names that are none of ours reach no file.
    std::fs::write(folder.path().join("secret.ts"), "secret").unwrap();
    for path in ["..%2Fsecret", "..%2F..%2Fetc%2Fpasswd", "secret", "1-1", "%00", "1-1.ts"] {
        assert_eq!(runner.get(&format!("/recordings/{path}")).await.status, 404, "{path}");
        assert_eq!(runner.request("DELETE", &format!("/recordings/{path}"), None).await.status, 404, "{path}");
        let stop = format!("/recordings/{path}/stop");
        assert_eq!(runner.post(&stop, &json!({})).await.status, 404, "{path}");
    }
    // A page of another site cannot order one.
    let (head, _) = runner.raw("POST", "/recordings", "content-type: text/plain\r\n", b"{}").await;
    assert!(head.contains(" 400 "), "{head}");
    assert_eq!(runner.request("DELETE", &own, None).await.status, 204);
    assert!(listed(&runner).await.is_empty());

    // As MP4, whose pictures nobody coded anew.
    assert_eq!(runner.post("/recordings", &json!({"format": "avi"})).await.status, 400);
    let answer = runner.post("/recordings", &json!({"format": "mp4"})).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let own = format!("/recordings/{}", answer.json()["id"].as_str().unwrap());
    assert_eq!(is(&runner, "recording").await["format"], "mp4");
    tokio::time::sleep(seconds(2.0)).await;
    let whole = runner.post(&format!("{own}/stop"), &json!({})).await;
    assert_eq!((whole.status, whole.json()["state"].as_str()), (200, Some("whole")), "{whole:?}");
    let (head, file) = runner.raw("GET", &own, "", b"").await;
    assert!(head.contains("video/mp4") && head.contains(".mp4"), "{head}");
    let pictures = fragmented(&file);
    assert!(pictures > 30, "{pictures}");
    assert_eq!(runner.request("DELETE", &own, None).await.status, 204);

    // One that is under way when its engine dies is cut off there, and can be played up to there.
    assert_eq!(runner.post("/recordings", &json!({"format": "mp4"})).await.status, 201);
    is(&runner, "recording").await;
    tokio::time::sleep(seconds(2.5)).await;
    runner.signal_engine(nix::sys::signal::Signal::SIGKILL);
    stream.event("restart", |_| true).await;
    let cut = is(&runner, "cut_off").await["id"].as_str().unwrap().to_owned();
    let (head, file) = runner.raw("GET", &format!("/recordings/{cut}"), "", b"").await;
    assert!(head.contains(" 200 "), "{head}");
    let path = folder.path().join("cut.mp4");
    std::fs::write(&path, &file).unwrap();
    // Its last fragment may be a part of one.
    let count = ["-v", "error", "-count_frames", "-select_streams", "v", "-show_entries", "stream=nb_read_frames"];
    let mut probe = std::process::Command::new("ffprobe");
    let probed = probe.args(count).args(["-of", "csv=p=0"]).arg(&path).output().unwrap();
    let pictures: u32 = String::from_utf8_lossy(&probed.stdout).trim().parse().unwrap_or(0);
    assert!(pictures > 15, "{pictures} in {} bytes: {probed:?}", file.len());
    stream.close().await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recordings_are_off_by_default_bounded_and_behind_the_token() {
    let runner = Runner::idle("noop", &[]).await;
    assert_eq!(runner.get("/recordings").await.json()["enabled"], false);
    for (method, path) in [("POST", "/recordings"), ("GET", "/recordings/1-1"), ("DELETE", "/recordings/1-1")] {
        assert_eq!(runner.request(method, path, Some(b"{}")).await.status, 403, "{method} {path}");
    }
    drop(runner);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let settings = [
        ("record-path", path.as_str()),
        ("record-max-size", "64KiB"),
        ("record-max-total", "100KiB"),
        ("auth-token", "secret"),
        ("media-segment-seconds", "0.5"),
    ];
    let runner = Runner::idle("noop", &settings).await;
    for (method, path) in [
        ("GET", "/recordings"),
        ("POST", "/recordings"),
        ("GET", "/recordings/1-1"),
        ("DELETE", "/recordings/1-1"),
        ("POST", "/recordings/1-1/stop"),
        ("GET", "/api/pipelines"),
        ("POST", "/api/pipeline"),
        ("GET", "/api/workflows/x"),
    ] {
        let (head, _) = runner.raw(method, path, JSON, b"{}").await;
        assert!(head.contains(" 401 "), "{method} {path}: {head}");
    }
    let orchestrator = Orchestrator::new().await;
    let mut stream = orchestrator.stream().await;
    let token = format!("{JSON}authorization: Bearer secret\r\n");
    let order = stream.request("noop", Some(json!({"width": 512, "height": 512}))).to_string();
    let (head, _) = runner.raw("POST", "/live-video-to-video", &token, order.as_bytes()).await;
    assert!(head.contains(" 200 "), "{head}");
    let _feeding = stream.feed_behind(Clip { seconds: 60, ..Clip::default() }.segments(), seconds(2.0));
    stream.online().await;
    let record = || runner.raw("POST", "/recordings", &token, b"{}");
    assert!(record().await.0.contains(" 201 "));
    // It ends at its size, the stream goes on, and the folder takes no second one.
    let began = std::time::Instant::now();
    let bytes = loop {
        let (_, body) = runner.raw("GET", "/recordings", &token, b"").await;
        let all: Value = serde_json::from_slice(&body).unwrap();
        if all["recordings"][0]["state"] == "whole" {
            break all["recordings"][0]["bytes"].as_u64().unwrap();
        }
        assert!(began.elapsed() < LONG, "{all}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!((1..=64 * 1024).contains(&bytes), "{bytes}");
    if bytes > 36 * 1024 {
        assert!(record().await.0.contains(" 507 "));
    }
    let seen = stream.output.segments().len();
    let began = std::time::Instant::now();
    while stream.output.segments().len() < seen + 2 {
        assert!(began.elapsed() < LONG, "the stream stands");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stream.close().await;
}

async fn ready(runner: &Runner) -> Value {
    let began = std::time::Instant::now();
    loop {
        let all = runner.get("/api/pipelines").await.json();
        if all["ready"] == true {
            return all;
        }
        assert!(all["detail"].is_string(), "{all}");
        assert!(began.elapsed() < LONG, "{all}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_pipeline_is_loaded_on_order_and_one_that_cannot_be_gives_way() {
    let folder = tempfile::tempdir().unwrap();
    let blend = include_str!("workflows/blend.json");
    std::fs::write(folder.path().join("blend.json"), blend).unwrap();
    std::fs::write(folder.path().join("odd.json"), r#"{"1": {"class_type": "NoSuchNode", "inputs": {}}}"#).unwrap();
    let workflows = folder.path().display().to_string();
    let runner = Runner::idle("noop", &[("switch", "true"), ("workflows", &workflows)]).await;
    let all = ready(&runner).await;
    assert_eq!((&all["pipeline"], &all["switch"], &all["failed"]), (&json!("noop"), &json!(true), &Value::Null));
    let named = |list: &Value, name: &str| {
        list.as_array().unwrap().iter().find(|one| one["name"] == name).cloned().unwrap_or_else(|| panic!("{list}"))
    };
    assert_eq!(named(&all["pipelines"], "invert")["missing"], Value::Null);
    assert!(named(&all["pipelines"], "streamdiffusion")["about"].is_string(), "{all}");
    assert_eq!(named(&all["workflows"], "blend")["runs"], true, "{all}");
    let odd = named(&all["workflows"], "odd");
    assert!(odd["runs"] == false && odd["message"].as_str().unwrap().contains("missing input"), "{odd}");
    let workflow: Value = serde_json::from_str(blend).unwrap();
    assert_eq!(runner.get("/api/workflows/blend").await.json(), workflow);
    for name in ["..%2Fblend", "none", "blend.json", "%2Fetc%2Fpasswd"] {
        assert_eq!(runner.get(&format!("/api/workflows/{name}")).await.status, 404, "{name}");
    }

    for (body, status) in [(json!({"pipeline": "none"}), 400), (json!({}), 400), (json!([]), 400)] {
        assert_eq!(runner.post("/api/pipeline", &body).await.status, status, "{body}");
    }
    assert_eq!(runner.post("/api/pipeline", &json!({"pipeline": "invert"})).await.status, 202);
    // Once is enough.
    assert_eq!(runner.post("/api/pipeline", &json!({"pipeline": "invert"})).await.status, 409);
    assert_eq!(ready(&runner).await["pipeline"], "invert");
    assert_eq!(runner.get("/version").await.json()["model_id"], "invert");
    assert_eq!(runner.get("/api/pipeline").await.json()["name"], "invert");
    // A stream runs on it, and it stays while it does.
    let orchestrator = Orchestrator::new().await;
    let size = json!({"width": 384, "height": 384});
    let mut stream = orchestrator.run(&runner, "invert", Some(size)).await;
    let _feeding = stream.feed_behind(Clip { seconds: 20, ..Clip::default() }.segments(), seconds(2.0));
    let answer = runner.post("/api/pipeline", &json!({"pipeline": "noop"})).await;
    assert_eq!((answer.status, answer.body.contains("a stream runs")), (409, true), "{answer:?}");
    stream.online().await;
    stream.close().await;
    runner.health("IDLE", LONG).await;

    // What was ordered cannot be loaded: what worked comes back, with the reason.
    let broken = json!({"pipeline": "streamdiffusion", "params": {"model_id": "stabilityai/sd-turbo"}});
    assert_eq!(runner.post("/api/pipeline", &broken).await.status, 202);
    let all = ready(&runner).await;
    assert_eq!(all["pipeline"], "invert", "{all}");
    assert!(all["failed"].as_str().is_some_and(|why| !why.is_empty()), "{all}");
    let stream = orchestrator.run(&runner, "invert", None).await;
    stream.close().await;
    drop(runner);

    let runner = Runner::idle("noop", &[]).await;
    assert_eq!(runner.get("/api/pipelines").await.json()["switch"], false);
    assert_eq!(runner.post("/api/pipeline", &json!({"pipeline": "invert"})).await.status, 403);
}
