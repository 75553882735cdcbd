//! What goes wrong out there, and inside: each fault is told or skipped, nothing hangs, nothing panics, memory stays bounded.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weir::trickle::{Begin, Client, Config, Publisher};

use crate::support::clips::{Clip, decodes};
use crate::support::runner::Usage;
use crate::support::{Fault, Feeding, LONG, Orchestrator, Proxy, Runner, Stream, seconds, ts, until};

fn small() -> Option<Value> {
    Some(json!({"width": 384, "height": 384}))
}

/// Bytes that no one means anything by; the same at each run.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn pts(segments: &[ts::Segment]) -> Vec<i64> {
    segments.iter().flat_map(|segment| segment.video.iter().map(|unit| unit.pts)).collect()
}

fn messages(stream: &Stream) -> Vec<String> {
    stream.events_of("error").iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

/// Waits until a picture of one of these times is out.
async fn comes_out(stream: &Stream, wanted: &Bytes) {
    let wanted: BTreeSet<_> = pts(&[ts::read(wanted)]).into_iter().collect();
    let found = || pts(&stream.output_cut()).iter().any(|time| wanted.contains(time)).then_some(());
    let began = Instant::now();
    while found().is_none() {
        assert!(began.elapsed() < LONG, "{:?} of {wanted:?} after {:?}", pts(&stream.output_cut()), messages(stream));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn bounded(before: Usage, after: Usage) {
    assert!(after.rss < before.rss + 200 * 1024, "{before:?} {after:?}");
    assert!(after.fds < before.fds + 30 && after.threads < before.threads + 20, "{before:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_skipped_and_the_stream_goes_on() {
    let runner = Runner::idle("noop", &[("media-segment-seconds", "0.5")]).await;
    let before = runner.usage();
    let orchestrator = Orchestrator::new().await;
    let good = Clip { seconds: 24, segment: 1, ..Clip::default() }.segments();
    let mut good = good.iter();
    let mut stream = orchestrator.run(&runner, "noop", small()).await;
    let quick = seconds(0.3);
    let one = good.next().unwrap();
    stream.feed(one, quick).await;
    comes_out(&stream, one).await;

    // Noise, alone and before a good segment.
    stream.feed(&noise(20_000, 1), quick).await;
    let one = good.next().unwrap();
    stream.feed(&[noise(5_000, 2), one.clone()].concat().into(), quick).await;
    let one = good.next().unwrap();
    stream.feed(one, quick).await;
    comes_out(&stream, one).await;

    // Nothing at all, several times.
    for _ in 0..4 {
        stream.feed(&Bytes::new(), Duration::ZERO).await;
    }
    let one = good.next().unwrap();
    stream.feed(one, quick).await;
    comes_out(&stream, one).await;

    // Half a segment, ended in order, in the middle of a packet, and given up.
    let one = good.next().unwrap();
    stream.feed(&one.slice(..one.len() / 2 / 188 * 188), quick).await;
    let one = good.next().unwrap();
    stream.feed(&one.slice(..one.len() / 2 + 77), quick).await;
    let one = good.next().unwrap();
    let mut writer = stream.input.as_mut().unwrap().begin().await.unwrap();
    writer.write(one.slice(..one.len() / 2)).await.unwrap();
    tokio::time::sleep(quick).await;
    drop(writer);
    let one = good.next().unwrap();
    stream.feed(one, quick).await;
    comes_out(&stream, one).await;

    // Pictures larger than anyone sends: refused by their header.
    let huge = Clip { size: "8192x4352", fps: 2, seconds: 1, segment: 1, audio: "", ..Clip::default() }.segments();
    stream.feed(&huge[0], quick).await;
    let one = good.next().unwrap();
    stream.feed(one, quick).await;
    comes_out(&stream, one).await;

    // A gateway that begins anew at number 0. A reader that waits for a higher number is released when that number's
    // place on the server is taken, five segments later at most.
    drop(stream.input.take());
    let client = Client::new(&Config::default()).unwrap();
    let url = format!("{}{}", orchestrator.base, stream.manifest);
    stream.input = Some(Publisher::open(&client, &url, "video/MP2T", Begin::Zero).await.unwrap());
    for _ in 0..7 {
        stream.feed(good.next().unwrap(), quick).await;
    }
    let one = good.next().unwrap();
    stream.feed(one, quick).await;
    comes_out(&stream, one).await;

    // One that never ends: cut into segments all the same.
    let rest: Vec<_> = good.cloned().collect();
    let count = stream.output.segments().len();
    let mut writer = stream.input.as_mut().unwrap().begin().await.unwrap();
    for one in &rest {
        writer.write(one.clone()).await.unwrap();
        tokio::time::sleep(quick).await;
    }
    until("segments of an endless segment", LONG, || (stream.output.segments().len() >= count + 4).then_some(())).await;
    drop(writer);

    stream.close().await;
    runner.health("IDLE", LONG).await;
    decodes(&stream.output_bytes());
    bounded(before, runner.usage());
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_of_nothing_but_noise_ends_with_its_reason() {
    let runner = Runner::idle("noop", &[]).await;
    let before = runner.usage();
    let orchestrator = Orchestrator::new().await;
    let mut stream = orchestrator.run(&runner, "noop", small()).await;
    // Packets with a sync byte and nothing sensible behind it.
    let mut bytes = noise(188 * 20_000, 3).to_vec();
    bytes.iter_mut().step_by(188).for_each(|byte| *byte = 0x47);
    let bytes = Bytes::from(bytes);
    let mut input = stream.input.take().unwrap();
    let feeding = tokio::spawn(async move {
        while let Ok(mut writer) = input.begin().await {
            if writer.write(bytes.clone()).await.is_err() || writer.finish().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    stream.output.end(LONG).await;
    stream.events.end(LONG).await;
    runner.health("IDLE", LONG).await;
    feeding.abort();
    let messages = messages(&stream);
    assert!(messages.iter().any(|message| message.contains("damaged")), "{messages:?}");
    bounded(before, runner.usage());
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_orders_are_refused_and_take_no_slot() {
    let runner = Runner::idle("noop", &[]).await;
    let before = runner.usage();
    let orchestrator = Orchestrator::new().await;
    let stream = orchestrator.stream().await;

    // Sixty-four megabytes of parameters.
    let mut body = stream.request("noop", Some(json!({"prompt": ""}))).to_string().into_bytes();
    let at = body.windows(2).position(|pair| pair == b"\"\"").unwrap() + 1;
    body.splice(at..at, std::iter::repeat_n(b'x', 64 << 20));
    for path in ["/live-video-to-video", "/api/live-video-to-video", "/api/params"] {
        let began = Instant::now();
        let answer = runner.request("POST", path, Some(&body)).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(began.elapsed() < seconds(5.0), "{path}: {:?}", began.elapsed());
    }
    drop(body);

    for (field, value, status, words) in [
        ("model_id", "no-such-model", 400, "no-such-model"),
        ("subscribe_url", "file:///etc/passwd", 400, "http or https"),
        ("publish_url", "rtmp://127.0.0.1/x", 400, "http or https"),
        ("control_url", "gopher://127.0.0.1/x", 400, "http or https"),
        ("events_url", "not a url", 400, "events_url"),
        ("subscribe_url", "", 400, "subscribe_url"),
    ] {
        let mut request = stream.request("noop", None);
        request[field] = value.into();
        let answer = runner.post("/live-video-to-video", &request).await;
        assert_eq!(answer.status, status, "{field}: {}", answer.body);
        let text = answer.json()["detail"]["msg"].as_str().unwrap_or_default().to_owned();
        assert!(text.contains(words), "{field}: {}", answer.body);
        assert!(!text.contains("passwd"), "URLs are secrets: {text}");
    }
    for body in [&b""[..], b"{", b"[]", b"\xff\xfe\x00", b"null"] {
        let answer = runner.request("POST", "/live-video-to-video", Some(body)).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert!(answer.json()["detail"].is_array());
    }
    assert_eq!(runner.word().await, "IDLE");

    // Nobody listens there.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut request = stream.request("noop", None);
    for (field, name) in [("subscribe_url", "a"), ("publish_url", "b"), ("control_url", "c"), ("events_url", "d")] {
        request[field] = format!("http://{nowhere}/{name}").into();
    }
    let began = Instant::now();
    runner.order(&request).await;
    runner.health("IDLE", seconds(15.0)).await;
    assert!(began.elapsed() < seconds(15.0));
    // A channel that is not there.
    let mut request = stream.request("noop", None);
    request["subscribe_url"] = format!("{}gone", orchestrator.base).into();
    runner.order(&request).await;
    runner.health("IDLE", seconds(15.0)).await;
    stream.events.end(LONG).await;
    bounded(before, runner.usage());
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_the_control_channel_changes_nothing() {
    let settings = [("media-segment-seconds", "0.5"), ("engine-status", "300ms")];
    let runner = Runner::idle("invert", &settings).await;
    let orchestrator = Orchestrator::new().await;
    let clip = Clip { seconds: 30, segment: 1, audio: "", ..Clip::default() };
    let mut stream = orchestrator.run(&runner, "invert", small()).await;
    let _feeding = stream.feed_behind(clip.segments(), seconds(1.0));
    stream.online().await;
    let before = runner.usage();
    for round in 0..30 {
        stream.control(noise(1 + round * 97, round as u64 + 9)).await;
    }
    // Deeper than any parser should follow, and longer than any document may be.
    stream.control("[".repeat(100_000)).await;
    stream.control(format!("{{\"strength\":{}}}", "9".repeat(10_000))).await;
    stream.control(noise(3 << 20, 5)).await;
    stream.control(Bytes::new()).await;
    stream.event("error", |event| event["message"].as_str().unwrap().starts_with("Control message")).await;
    let params = json!({"width": 384, "height": 384, "strength": 0.125});
    stream.control(params.to_string()).await;
    let began = Instant::now();
    loop {
        let status = runner.get("/api/status").await.json();
        if status["inference_status"]["last_params"] == params {
            break;
        }
        assert!(began.elapsed() < LONG, "{status:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let count = stream.output().len();
    until("more output", LONG, || (stream.output().len() > count + 1).then_some(())).await;
    bounded(before, runner.usage());
    stream.close().await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();
}

/// A stream in the middle of its work.
async fn running(runner: &Runner, orchestrator: &Orchestrator, seconds_in_all: u32) -> (Stream, Feeding) {
    let clip = Clip { seconds: seconds_in_all, segment: 1, ..Clip::default() };
    let segments = clip.segments();
    let mut stream = orchestrator.run(runner, "noop", small()).await;
    let feeding = stream.feed_behind(segments, seconds(1.0));
    until("output", LONG, || (stream.output.segments().len() >= 2).then_some(())).await;
    (stream, feeding)
}

/// Waits for output that is later than all output so far.
async fn goes_on(stream: &Stream) -> i64 {
    let before = pts(&stream.output_cut()).into_iter().max().unwrap();
    let later = || pts(&stream.output_cut()).into_iter().max().filter(|&last| last > before);
    until("later output", LONG, later).await
}

/// Times rise from the first picture to the last, and no time is there twice.
fn one_time_line(stream: &Stream) {
    let output = stream.output_cut();
    let times = pts(&output);
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    let audio: Vec<_> = output.iter().flat_map(|segment| segment.audio.clone()).collect();
    assert!(audio.windows(2).all(|pair| pair[0] < pair[1]), "{audio:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_engine_is_replaced_and_the_stream_goes_on() {
    let runner = Runner::idle("noop", &[("media-segment-seconds", "0.5"), ("engine-status", "500ms")]).await;
    let orchestrator = Orchestrator::new().await;
    let (stream, _feeding) = running(&runner, &orchestrator, 20).await;
    for count in 1..=2 {
        let killed = Instant::now();
        let engine = runner.signal_engine(Signal::SIGKILL);
        let event = stream.event("restart", |event| event["restart_count"] == count).await;
        assert_eq!(event["pipeline"], "noop");
        let at = event["restart_time"].as_f64().unwrap() * 1000.0;
        assert!((at - event["timestamp"].as_f64().unwrap()).abs() < 5_000.0, "{event}");
        let logs = event["restart_logs"].as_array().unwrap();
        assert!(!logs.is_empty() && logs.len() <= 100, "{event}");
        assert!(logs.iter().all(Value::is_string));
        until("another engine", LONG, || runner.engine().filter(|&now| now != engine)).await;
        let last = pts(&stream.output_cut()).into_iter().max().unwrap();
        let first_after =
            until("output of the new engine", LONG, || pts(&stream.output_cut()).into_iter().find(|&time| time > last));
        let first_after = first_after.await;
        assert!(first_after - last < 4 * 90_000, "{} ms are missing", (first_after - last) / 90);
        assert!(killed.elapsed() < seconds(6.0), "{:?}", killed.elapsed());
        assert_eq!(runner.word().await, "OK");
        goes_on(&stream).await;
    }
    let status = stream.event("status", |event| event["inference_status"]["restart_count"] == 2).await;
    assert!(status["inference_status"]["last_restart_time"].is_u64(), "{status}");
    stream.close().await;
    runner.health("IDLE", LONG).await;
    one_time_line(&stream);
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_hangs_is_replaced() {
    let runner = Runner::idle("noop", &[("media-segment-seconds", "0.5"), ("restart-hang", "1500ms")]).await;
    let orchestrator = Orchestrator::new().await;
    let (stream, _feeding) = running(&runner, &orchestrator, 20).await;
    let engine = runner.signal_engine(Signal::SIGSTOP);
    let stopped = Instant::now();
    // The process that answers goes on answering.
    while stopped.elapsed() < seconds(1.0) {
        let asked = Instant::now();
        assert_eq!(runner.word().await, "OK");
        assert!(asked.elapsed() < seconds(0.5));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stream.event("restart", |event| event["restart_count"] == 1).await;
    assert!(stopped.elapsed() < seconds(6.0), "{:?}", stopped.elapsed());
    goes_on(&stream).await;
    assert!(!std::path::Path::new(&format!("/proc/{engine}")).exists(), "the old one is gone");
    stream.close().await;
    runner.health("IDLE", LONG).await;
    one_time_line(&stream);
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_keeps_dying_is_given_up() {
    let mut runner = Runner::idle("noop", &[("media-segment-seconds", "0.5")]).await;
    let orchestrator = Orchestrator::new().await;
    let (stream, _feeding) = running(&runner, &orchestrator, 20).await;
    let mut last = None;
    for _ in 0..3 {
        let engine = until("an engine", LONG, || runner.engine().filter(|&now| Some(now) != last)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(runner.signal_engine(Signal::SIGKILL), engine);
        last = Some(engine);
    }
    runner.health("ERROR", LONG).await;
    let health = runner.get("/health").await;
    assert_eq!(health.status, 200);
    assert!(health.json()["detail"].as_str().unwrap().contains("3 times"), "{}", health.body);
    // The gateway is to move on.
    stream.output.end(LONG).await;
    stream.events.end(LONG).await;
    let refused = runner.post("/live-video-to-video", &orchestrator.stream().await.request("noop", None)).await;
    assert_eq!(refused.status, 500, "{}", refused.body);
    one_time_line(&stream);
    let began = Instant::now();
    let status = runner.end(Signal::SIGTERM, LONG).await;
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < seconds(3.0), "{:?}", began.elapsed());
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_fails_for_a_while_comes_back() {
    let runner = Runner::idle("noop", &[("media-segment-seconds", "0.5"), ("trickle-write-stall", "1s")]).await;
    let orchestrator = Orchestrator::new().await;
    let target = orchestrator.base.trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
    let proxy = Proxy::new(target).await;
    let before = runner.usage();
    let mut stream = orchestrator.stream().await;
    let base = format!("http://{}/ai/trickle/", proxy.address);
    runner.order(&stream.request_to("noop", small(), &base)).await;
    let clip = Clip { seconds: 30, segment: 1, ..Clip::default() };
    let _feeding = stream.feed_behind(clip.segments(), seconds(1.0));
    until("output", LONG, || (stream.output.segments().len() >= 2).then_some(())).await;
    for (fault, lasts) in [(Fault::Cut, 0.3), (Fault::Error, 0.8), (Fault::Stall, 2.5)] {
        proxy.set(fault);
        tokio::time::sleep(seconds(lasts)).await;
        assert_eq!(runner.word().await, "OK", "{fault:?}");
        proxy.set(Fault::None);
        goes_on(&stream).await;
        goes_on(&stream).await;
    }
    assert!(!messages(&stream).is_empty(), "lost output is told");
    bounded(before, runner.usage());
    stream.close().await;
    runner.health("IDLE", LONG).await;
    one_time_line(&stream);
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_fails_for_good_ends_the_stream() {
    for fault in [Fault::Error, Fault::Cut, Fault::Stall] {
        let settings = [("media-segment-seconds", "0.5"), ("trickle-write-stall", "1s"), ("trickle-max-failures", "3")];
        let runner = Runner::idle("noop", &settings).await;
        let orchestrator = Orchestrator::new().await;
        let target = orchestrator.base.trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
        let proxy = Proxy::new(target).await;
        proxy.set(fault);
        let before = runner.usage();
        let mut stream = orchestrator.stream().await;
        let base = format!("http://{}/ai/trickle/", proxy.address);
        runner.order(&stream.request_to("noop", small(), &base)).await;
        let clip = Clip { seconds: 30, segment: 1, ..Clip::default() };
        let _feeding = stream.feed_behind(clip.segments(), seconds(1.0));
        runner.health("IDLE", seconds(25.0)).await;
        stream.events.end(LONG).await;
        assert!(!messages(&stream).is_empty(), "{fault:?} is told");
        bounded(before, runner.usage());
        runner.no_panic();
    }
}
