//! Streams of workers that lack an input or an output, and the overlay that a caller shows by hand.

use serde_json::{Value, json};

use super::stream::{feed, read_lines};
use super::{params, plane, shows};
use crate::support::clips::Clip;
use crate::support::{LONG, Orchestrator, Runner, Stream, seconds, until};

/// What a stream says of itself.
async fn status(runner: &Runner, name: &str) -> Value {
    runner.get(&format!("/stream/{name}/status")).await.json()
}

fn workflow(text: &str) -> Value {
    let mut nodes = plane(0.3);
    nodes["9"] = json!({"class_type": "SaveTextTensor", "inputs": {"data": text}});
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_an_output_is_there_for_its_texts_and_figures() {
    let runner = Runner::idle("comfyui", &[("metering-interval", "1s")]).await;
    let orchestrator = Orchestrator::new().await;
    let mut stream = orchestrator.stream().await;
    let name = stream.manifest.clone();
    let data = format!("{}{name}-data", orchestrator.base);
    assert!(orchestrator.server.create(&format!("{name}-data"), "application/jsonl"));
    let lines = orchestrator.listen(&data);
    let body = json!({
        "gateway_request_id": name, "subscribe_url": stream.request("", None)["subscribe_url"], "data_url": data,
        "figures": true, "params": params(workflow("here")),
    });
    assert_eq!(runner.post("/stream/start", &body).await.status, 200);
    let feeding = feed(&mut stream);
    let said = || -> Vec<Value> { lines.segments().iter().flat_map(|(_, bytes)| read_lines(bytes)).collect() };
    until("the text", LONG, || said().contains(&json!("here")).then_some(())).await;
    let figures = until("figures of pictures", LONG, || {
        said().into_iter().find(|item| item["frames_processed"].as_u64() > Some(10))
    });
    assert_eq!(figures.await["frames_dropped"], 0);
    // It is well, and nothing was written.
    let began = std::time::Instant::now();
    let shown = loop {
        let shown = status(&runner, &name).await;
        if shown["status"]["state"] == "ONLINE" && shown["frame_count"].as_u64() > Some(30) {
            break shown;
        }
        assert!(began.elapsed() < LONG, "{shown}");
        tokio::time::sleep(seconds(0.3)).await;
    };
    assert_eq!(shown["publish_url"], Value::Null);
    assert!(shown["subscribe_url"].is_string(), "{shown}");
    assert!(stream.output_bytes().is_empty());
    // Its end deletes what there is.
    drop(feeding);
    assert_eq!(runner.post("/stream/stop", &json!({})).await.status, 200);
    lines.end(LONG).await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_an_input_lasts_until_it_is_stopped() {
    let runner = Runner::idle("comfyui", &[("engine-orphan", "1s"), ("engine-status", "1s")]).await;
    let orchestrator = Orchestrator::new().await;
    let mut stream = orchestrator.stream().await;
    let name = stream.manifest.clone();
    let data = format!("{}{name}-data", orchestrator.base);
    assert!(orchestrator.server.create(&format!("{name}-data"), "application/jsonl"));
    let lines = orchestrator.listen(&data);
    let mut body = stream.request("", Some(params(workflow("one"))));
    body["gateway_request_id"] = name.clone().into();
    body["data_url"] = data.clone().into();
    body.as_object_mut().unwrap().remove("subscribe_url");
    assert_eq!(runner.post("/stream/start", &body).await.status, 200);
    let said = || -> Vec<Value> { lines.segments().iter().flat_map(|(_, bytes)| read_lines(bytes)).collect() };
    until("the first text", LONG, || said().contains(&json!("one")).then_some(())).await;
    // By either way, with the size of the stream left out; a cap beside it is the door's own.
    let answer = runner.post("/stream/params", &json!({"9": {"data": "two"}})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    until("the second text", LONG, || said().contains(&json!("two")).then_some(())).await;
    stream.control(json!({"prompts": workflow("three"), "max_framerate": 20}).to_string()).await;
    until("the third text", LONG, || said().contains(&json!("three")).then_some(())).await;
    stream.control(json!({"max_framerate": 90}).to_string()).await;
    let refused = stream.event("error", |event| event["message"].as_str().unwrap().contains("max_framerate")).await;
    assert!(refused["message"].as_str().unwrap().contains("1 to 60"), "{refused}");
    // Far longer than a stream may wait for the first byte of an input that it has.
    tokio::time::sleep(seconds(5.0)).await;
    let shown = status(&runner, &name).await;
    assert_eq!((&shown["running"], &shown["subscribe_url"]), (&json!(true), &Value::Null), "{shown}");
    let states: Vec<Value> = stream.events_of("status").iter().map(|event| event["state"].clone()).collect();
    assert!(states.contains(&json!("ONLINE")) && !states.contains(&json!("DEGRADED_INPUT")), "{states:?}");
    assert_eq!(runner.post("/stream/stop", &json!({})).await.status, 200);
    lines.end(LONG).await;
    runner.health("IDLE", LONG).await;
    // An orchestrator's door wants both, as ever.
    let mut body = stream.request("comfyui", Some(params(plane(0.3))));
    for missing in ["subscribe_url", "publish_url"] {
        body[missing] = "".into();
        let answer = runner.post("/live-video-to-video", &body).await;
        assert_eq!(answer.status, 400, "{missing}: {answer:?}");
        body[missing] = "http://127.0.0.1:1/x".into();
    }
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_shows_the_overlay_and_takes_it_away_again() {
    let runner = Runner::idle("comfyui", &[("media-segment-seconds", "0.5")]).await;
    let orchestrator = Orchestrator::new().await;
    let mut stream = orchestrator.stream().await;
    let name = stream.manifest.clone();
    let mut body = stream.request("", Some(params(plane(0.3))));
    body["gateway_request_id"] = name.clone().into();
    assert_eq!(runner.post("/stream/start", &body).await.status, 200);
    let clip = Clip { source: "color=c=0x808080", seconds: 90, audio: "", ..Clip::default() };
    let _feeding = stream.feed_behind(clip.segments(), seconds(2.0));
    shows(&stream, 77).await;
    let counts = async || {
        let made = status(&runner, &name).await["frame_count"].as_u64().unwrap_or(0);
        let out: usize = stream.output_cut().iter().map(|segment| segment.video.len()).sum();
        (made, out as u64)
    };
    let answer = runner.post("/stream/params", &json!({"show_loading": "true"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // What was on its way is through, and told, once nothing more comes for a while.
    let began = std::time::Instant::now();
    let mut before = counts().await;
    loop {
        tokio::time::sleep(seconds(2.5)).await;
        let now = counts().await;
        if now.0 == std::mem::replace(&mut before, now).0 {
            break;
        }
        assert!(began.elapsed() < LONG, "the model goes on: {now:?}");
    }
    // Longer than a stream may live that puts nothing of the model out.
    tokio::time::sleep(seconds(8.0)).await;
    let after = counts().await;
    assert_eq!(after.0, before.0, "the model rests");
    assert!(after.1 > before.1 + 30, "{before:?} {after:?}");
    assert_eq!(status(&runner, &name).await["status"]["state"], "ONLINE");
    // Another engine knows of it too.
    runner.signal_engine(nix::sys::signal::Signal::SIGKILL);
    let began = std::time::Instant::now();
    while counts().await.1 < after.1 + 60 {
        assert!(began.elapsed() < LONG, "no pictures of the next engine");
        tokio::time::sleep(seconds(0.3)).await;
    }
    while status(&runner, &name).await["frame_count"] != 0 {
        assert!(began.elapsed() < LONG, "the next engine's model rests too");
        tokio::time::sleep(seconds(0.3)).await;
    }
    let answer = runner.post("/stream/params", &json!({"show_loading": false, "2": {"value": 0.8}})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    shows(&stream, 204).await;
    assert_eq!(runner.post("/stream/params", &json!({"show_loading": "perhaps"})).await.status, 500);
    assert_eq!(runner.post("/stream/stop", &json!({})).await.status, 200);
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_control_channel_set_beside_the_parameters_holds_in_the_next_engine() {
    let runner = Runner::idle("noop", &[("media-segment-seconds", "0.5")]).await;
    let orchestrator = Orchestrator::new().await;
    let mut stream = orchestrator.stream().await;
    let name = stream.manifest.clone();
    let mut body = stream.request("", Some(json!({"width": 384, "height": 384})));
    body["gateway_request_id"] = name.clone().into();
    assert_eq!(runner.post("/stream/start", &body).await.status, 200);
    let clip = Clip { seconds: 90, audio: "", ..Clip::default() };
    let _feeding = stream.feed_behind(clip.segments(), seconds(2.0));
    let made = async || status(&runner, &name).await["frame_count"].as_u64().unwrap_or(0);
    let pictures = |stream: &Stream| stream.output_cut().iter().map(|segment| segment.video.len()).sum::<usize>();
    let told = async |what: &str, is: &(dyn Fn(&Value) -> bool + Sync)| {
        let began = std::time::Instant::now();
        loop {
            let shown = status(&runner, &name).await;
            if is(&shown) {
                return;
            }
            assert!(began.elapsed() < LONG, "{what}: {shown}");
            tokio::time::sleep(seconds(0.2)).await;
        }
    };
    let replace = async |stream: &Stream| {
        let engine = runner.signal_engine(nix::sys::signal::Signal::SIGKILL);
        until("another engine", LONG, || runner.engine().filter(|&now| now != engine)).await;
        let before = pictures(stream);
        until("pictures of the next engine", LONG, || (pictures(stream) > before + 10).then_some(())).await;
    };
    told("pictures", &|shown| shown["frame_count"].as_u64() > Some(30)).await;
    stream.control(json!({"max_framerate": 5}).to_string()).await;
    told("the cap", &|shown| shown["max_framerate"] == 5.0).await;
    replace(&stream).await;
    told("pictures of the next model", &|shown| shown["frame_count"].as_u64().is_some_and(|made| made > 0)).await;
    let (before, began) = (made().await, std::time::Instant::now());
    tokio::time::sleep(seconds(4.0)).await;
    let (passed, most) = (made().await - before, began.elapsed().as_secs_f64() * 5.0);
    // Status is told once a second; without the cap there are six times as many.
    assert!(passed >= 5 && passed as f64 <= most + 12.0, "{passed} pictures, of at most {most:.0}");
    stream.control(json!({"show_loading": true}).to_string()).await;
    let mut before = made().await;
    loop {
        tokio::time::sleep(seconds(2.5)).await;
        let now = made().await;
        if now == std::mem::replace(&mut before, now) {
            break;
        }
    }
    replace(&stream).await;
    told("the next model rests", &|shown| shown["frame_count"] == 0).await;
    tokio::time::sleep(seconds(2.0)).await;
    assert_eq!(made().await, 0, "nothing passes the model while the overlay is held");
    told("the cap of two engines ago", &|shown| shown["max_framerate"] == 5.0).await;
    stream.control(json!({"show_loading": false}).to_string()).await;
    told("pictures again", &|shown| shown["frame_count"].as_u64().is_some_and(|made| made > 0)).await;
    assert_eq!(runner.post("/stream/stop", &json!({})).await.status, 200);
    runner.no_panic();
}
