//! Two streams in one runner, through two doors: what goes wrong with one of them leaves the other alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weir::metering::ledger::{Body, read};

use crate::support::clips::Clip;
use crate::support::{Fault, LONG, Orchestrator, Proxy, Runner, Stream, seconds, until};

fn clip() -> Arc<Vec<Bytes>> {
    Clip { seconds: 60, ..Clip::default() }.segments()
}

/// Parameters of the pipeline `delay`, with small pictures.
fn delay(more: Value) -> Value {
    let mut params = json!({"width": 384, "height": 384, "load_ms": 0, "frame_ms": 1});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    params
}

async fn two(settings: &[(&str, &str)]) -> Runner {
    let initial = r#"{"load_ms": 0, "frame_ms": 1}"#;
    let mut all = vec![("capacity", "2"), ("engine-initial-params", initial), ("engine-status", "500ms")];
    all.extend_from_slice(settings);
    Runner::idle("delay", &all).await
}

/// Starts a stream as an orchestrator starts one of a worker that registered itself.
async fn worker_stream(orchestrator: &Orchestrator, runner: &Runner, params: Value) -> Stream {
    let stream = orchestrator.stream().await;
    let mut body = stream.request("", Some(params));
    body["gateway_request_id"] = stream.manifest.clone().into();
    let answer = runner.post("/stream/start", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    stream
}

async fn weir(runner: &Runner, id: &str) -> Value {
    runner.get(&format!("/stream/{id}/status")).await.json()["status"].clone()
}

async fn frames_out(runner: &Runner, id: &str) -> u64 {
    weir(runner, id).await["weir"]["frames_out"].as_u64().unwrap_or(0)
}

/// Waits until a stream has put out `more` pictures on top of those it has.
async fn goes_on(runner: &Runner, id: &str, more: u64) {
    let before = frames_out(runner, id).await;
    let began = std::time::Instant::now();
    while frames_out(runner, id).await < before + more {
        assert!(began.elapsed() < LONG, "{id} stands at {before}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_with_one_stream_leaves_the_other_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let runner = two(&[("ledger-path", &path), ("metering-interval", "1s")]).await;
    let (near, far) = (Orchestrator::new().await, Orchestrator::new().await);
    // One is started by an orchestrator, the other by one that knows the runner as a worker; its output passes a way
    // that can fail.
    let mut good = near.run(&runner, "delay", Some(delay(json!({})))).await;
    let way = Proxy::new(far.address()).await;
    let mut bad = far.stream().await;
    let base = format!("http://{}/ai/trickle/", way.address);
    let mut body = bad.request_to("", Some(delay(json!({}))), &base);
    body["gateway_request_id"] = "bad".into();
    assert_eq!(runner.post("/stream/start", &body).await.status, 200);
    let third = near.stream().await;
    let refused = runner.post("/live-video-to-video", &third.request("delay", None)).await;
    assert_eq!((refused.status, refused.body.contains("insufficient capacity")), (500, true), "{refused:?}");
    let refused = runner.post("/stream/start", &body).await;
    assert_eq!((refused.status, refused.body.contains("Pipeline is still in use")), (503, true), "{refused:?}");

    let _feeding = [good.feed_behind(clip(), seconds(2.0)), bad.feed_behind(clip(), seconds(2.0))];
    let name = "9c1f03ab";
    goes_on(&runner, name, 15).await;
    goes_on(&runner, "bad", 15).await;

    // Nobody says which of the two is meant.
    let answer = runner.post("/stream/params", &json!({"frame_ms": 2})).await;
    assert_eq!((answer.status, answer.body.contains("several streams run")), (400, true), "{answer:?}");
    assert!(runner.params(delay(json!({}))).await.body.contains("several streams run"));
    // An update that is wrong.
    let answer = runner.post("/stream/bad/params", &json!({"load_ms": 0, "frame_ms": "slow"})).await;
    assert_eq!(answer.status, 500, "{answer:?}");
    // Every frame of one fails from now on.
    let answer = runner.post("/stream/bad/params", &json!({"load_ms": 0, "fail_every": 1})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    bad.event("error", |event| event["message"].as_str().unwrap().contains("fails as asked")).await;
    goes_on(&runner, name, 30).await;
    let stuck = frames_out(&runner, "bad").await;
    goes_on(&runner, name, 15).await;
    assert_eq!(frames_out(&runner, "bad").await, stuck, "a failed frame is no processed one");
    // A slow model and a reader that does not read.
    let slow = json!({"load_ms": 0, "frame_ms": 300});
    assert_eq!(runner.post("/stream/bad/params", &slow).await.status, 200);
    goes_on(&runner, "bad", 2).await;
    way.set(Fault::Stall);
    goes_on(&runner, name, 90).await;
    let status = weir(&runner, name).await;
    assert_eq!((&status["state"], &status["inference_status"]["last_error"]), (&json!("ONLINE"), &Value::Null));
    assert_eq!(status["inference_status"]["last_params"]["frame_ms"], 1, "{status}");
    let seen = status["input_status"]["fps"].as_f64().unwrap();
    let made = status["inference_status"]["fps"].as_f64().unwrap();
    assert!(made >= seen * 0.9, "{made} of {seen} frames a second");
    assert!(good.events_of("error").is_empty(), "{:?}", good.events_of("error"));

    let metrics = runner.get("/metrics").await.body;
    for line in ["weir_supervisor_sessions 2", "weir_supervisor_capacity 2", "weir_sessions 2"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    for slot in [0, 1] {
        assert!(metrics.contains(&format!("weir_queue_depth{{slot=\"{slot}\",stage=\"model\"}}")), "{metrics}");
    }
    way.set(Fault::None);
    bad.delete("-control");
    bad.delete("");
    until("the end of one", LONG, || bad.events.ended().then_some(())).await;
    goes_on(&runner, name, 15).await;
    assert_eq!(runner.word().await, "OK");
    good.close().await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();
    ledger_of_both(folder.path());
}

/// Each stream has an account of its own, and the faults are in one of them.
fn ledger_of_both(folder: &std::path::Path) {
    let mut sums = std::collections::BTreeMap::<u64, (u64, u64, u64)>::new();
    read(folder, |found| {
        if let Body::Interval { interval, .. } = found.entry.unwrap().body {
            let sum = sums.entry(interval.session).or_default();
            sum.0 += interval.totals.processed();
            sum.1 += interval.totals.faults;
            sum.2 += 1;
        }
        true
    })
    .unwrap();
    let (good, bad) = (sums[&1], sums[&2]);
    assert!(good.0 > bad.0 && good.0 >= 150, "{sums:?}");
    assert_eq!(good.1, 0, "{sums:?}");
    assert!(bad.1 > 0 && good.2 >= 4 && bad.2 >= 4, "{sums:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_go_on_in_the_next_engine() {
    let runner = two(&[]).await;
    let (near, far) = (Orchestrator::new().await, Orchestrator::new().await);
    let mut one = near.run(&runner, "delay", Some(delay(json!({})))).await;
    let mut other = worker_stream(&far, &runner, delay(json!({"frame_ms": 2}))).await;
    let _feeding = [one.feed_behind(clip(), seconds(2.0)), other.feed_behind(clip(), seconds(2.0))];
    let name = other.manifest.clone();
    goes_on(&runner, "9c1f03ab", 15).await;
    goes_on(&runner, &name, 15).await;
    runner.signal_engine(Signal::SIGKILL);
    for stream in [&one, &other] {
        let event = stream.event("restart", |_| true).await;
        assert_eq!(event["restart_count"], 1);
    }
    goes_on(&runner, "9c1f03ab", 30).await;
    goes_on(&runner, &name, 30).await;
    assert_eq!(weir(&runner, &name).await["inference_status"]["last_params"]["frame_ms"], 2);
    assert_eq!(runner.post(&format!("/stream/{name}/stop"), &json!({})).await.status, 200);
    other.output.end(LONG).await;
    goes_on(&runner, "9c1f03ab", 15).await;
    one.close().await;
    runner.health("IDLE", LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_without_time_to_spare_takes_no_second_stream() {
    let runner = two(&[]).await;
    let orchestrator = Orchestrator::new().await;
    let mut first = orchestrator.run(&runner, "delay", Some(delay(json!({"frame_ms": 40})))).await;
    let _feeding = first.feed_behind(clip(), seconds(2.0));
    // The share is measured over two seconds and told once a second.
    goes_on(&runner, "9c1f03ab", 120).await;
    let second = orchestrator.stream().await;
    let answer = runner.post("/live-video-to-video", &second.request("delay", Some(delay(json!({}))))).await;
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.body.contains("insufficient capacity: the model works"), "{answer:?}");
    let mut body = second.request("", Some(delay(json!({}))));
    body["gateway_request_id"] = "second".into();
    let answer = runner.post("/stream/start", &body).await;
    assert_eq!((answer.status, answer.body.contains("Pipeline is still in use: the model works")), (503, true));
    first.close().await;
    runner.health("IDLE", LONG).await;
}
