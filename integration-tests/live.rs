//! Streams through real processes and sockets, as an orchestrator and its gateway see them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::clips::{Clip, decodes, mean_rgb, probe};
use crate::support::{LONG, Orchestrator, Runner, Stream, seconds, ts, until};

/// Small pictures, so that tests spend their time on what they test.
fn small() -> Value {
    json!({"width": 384, "height": 384})
}

fn small_with(more: Value) -> Value {
    let mut params = small();
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    params
}

/// Video times of some segments in decoding order.
fn times(segments: &[ts::Segment]) -> Vec<i64> {
    segments.iter().flat_map(|segment| segment.video.iter().map(|unit| unit.pts)).collect()
}

fn rising(times: &[i64]) -> bool {
    times.windows(2).all(|pair| pair[0] < pair[1])
}

/// What every output segment must be.
fn sound(segments: &[ts::Segment]) {
    assert!(!segments.is_empty());
    for (index, segment) in segments.iter().enumerate() {
        assert!(segment.tables_first, "segment {index} begins with PAT and PMT");
        assert_eq!(segment.jumps, 0, "continuity of segment {index}");
        assert!(segment.video.first().is_none_or(|unit| unit.key), "segment {index} begins with an IDR picture");
        assert!(segment.video.iter().all(|unit| unit.pts == unit.dts), "no B-frames in segment {index}");
    }
    assert!(rising(&times(segments)), "video times rise: {:?}", times(segments));
    let audio: Vec<_> = segments.iter().flat_map(|segment| segment.audio.clone()).collect();
    assert!(rising(&audio), "audio times rise: {audio:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_stream_comes_back_on_its_own_time_line() {
    let runner = Runner::idle("noop", &[("engine-status", "1s")]).await;
    let orchestrator = Orchestrator::new().await;
    let clip = Clip { seconds: 8, ..Clip::default() };
    let segments = clip.segments();
    let before = unix_ms();
    let mut stream = orchestrator.run(&runner, "noop", None).await;
    assert_eq!(runner.word().await, "OK", "busy as soon as the order is answered");
    stream.feed_all(&segments, seconds(2.0)).await;
    stream.close().await;
    runner.health("IDLE", LONG).await;
    assert!(!stream.exists("-out") && !stream.exists("-events"), "the runner deletes what it wrote");

    let input: Vec<_> = segments.iter().map(ts::read).collect();
    let output = stream.output();
    sound(&output);
    for segment in &output {
        assert_eq!(segment.types.first(), Some(&0x1b), "H.264");
        assert!(segment.opus, "Opus: {segment:?}");
    }
    let given: BTreeSet<_> = times(&input).into_iter().collect();
    let got = times(&output);
    assert!(got.iter().all(|time| given.contains(time)), "only times of the input");
    assert!(got.len() * 100 >= given.len() * 95, "{} of {} pictures came back", got.len(), given.len());
    for segment in &output[..output.len() - 1] {
        let length = segment.video.last().unwrap().pts - segment.video[0].pts;
        assert!((160_000..200_000).contains(&length), "about two seconds a segment: {length}");
    }
    let sound_in: Vec<_> = input.iter().flat_map(|segment| segment.audio.clone()).collect();
    let sound_out: Vec<_> = output.iter().flat_map(|segment| segment.audio.clone()).collect();
    assert!((sound_in[0] - sound_out[0]).abs() < 9_000, "audio begins where it began");
    assert!((sound_in.last().unwrap() - sound_out.last().unwrap()).abs() < 18_000, "and ends where it ended");

    let whole = stream.output_bytes();
    decodes(&whole);
    let streams = probe(&whole);
    let video = streams.iter().find(|stream| stream["codec_type"] == "video").unwrap();
    assert_eq!((&video["codec_name"], &video["width"], &video["height"]), (&json!("h264"), &json!(512), &json!(512)));
    assert_eq!(video["nb_read_frames"], got.len().to_string());
    let audio = streams.iter().find(|stream| stream["codec_type"] == "audio").unwrap();
    assert_eq!((&audio["codec_name"], &audio["sample_rate"]), (&json!("opus"), &json!("48000")));

    events_of_a_stream(&stream, before);
    runner.no_panic();
}

fn unix_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Order and shapes of the events of a stream that went well.
fn events_of_a_stream(stream: &Stream, before: u64) {
    let documents = stream.documents();
    let (now, mut statuses) = (unix_ms(), 0);
    let kinds: Vec<_> = documents.iter().map(|document| document["event"]["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[0], "runner_receive_stream_request", "{kinds:?}");
    for trace in ["runner_receive_first_ingest_segment", "runner_send_first_processed_segment"] {
        assert_eq!(kinds.iter().filter(|&&kind| kind == trace).count(), 1, "{kinds:?}");
    }
    for document in &documents {
        assert_eq!(document.as_object().unwrap().len(), 2, "{document}");
        let (event, queue) = (&document["event"], document["queue_event_type"].as_str().unwrap());
        let at = event["timestamp"].as_u64().unwrap();
        assert!((before..=now).contains(&at), "{document}");
        match event["type"].as_str().unwrap() {
            "status" => {
                statuses += 1;
                assert_eq!((queue, &event["pipeline"]), ("ai_stream_events", &json!("noop")));
                let states = ["LOADING", "ONLINE", "DEGRADED_INPUT", "DEGRADED_INFERENCE", "OFFLINE"];
                assert!(states.iter().any(|state| event["state"] == *state), "{event}");
                for field in ["start_time", "last_state_update_time", "last_status_timestamp"] {
                    assert!(event[field].is_u64(), "{field}: {event}");
                }
                assert!(event["input_status"]["fps"].is_number(), "{event}");
                let inference = event["inference_status"].as_object().unwrap();
                for field in [
                    "last_output_time",
                    "fps",
                    "last_params_update_time",
                    "last_params",
                    "last_params_hash",
                    "last_error_time",
                    "last_error",
                    "last_restart_time",
                    "last_restart_logs",
                    "restart_count",
                ] {
                    assert!(inference.contains_key(field), "{field}: {event}");
                }
            }
            kind => {
                assert_eq!((queue, event.as_object().unwrap().len()), ("stream_trace", 2), "{kind}");
            }
        }
    }
    assert!(statuses >= 5, "one a second and one a change: {statuses}");
    let states: Vec<_> = stream.events_of("status").iter().map(|event| event["state"].clone()).collect();
    assert!(states.contains(&json!("ONLINE")), "{states:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_of_every_shape_are_taken() {
    let runner = Runner::idle("noop", &[]).await;
    let orchestrator = Orchestrator::new().await;
    let segments = Clip { seconds: 2, ..Clip::default() }.segments();
    // As the RTMP path, as the WHIP path, with a slash at the end, with null for nothing, and with fields that nobody knows.
    for (path, params, more) in [
        ("/live-video-to-video", None, json!({})),
        ("/live-video-to-video", None, json!({"params": null})),
        ("/live-video-to-video/", Some(json!({})), json!({})),
        ("/live-video-to-video", Some(json!({})), json!({"model_id": ""})),
        ("/live-video-to-video/", Some(small()), json!({"data_url": "", "new": [1]})),
    ] {
        let mut stream = orchestrator.stream().await;
        let mut request = stream.request("noop", params.clone());
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = runner.post(path, &request).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.json().is_object());
        let full = runner.post(path, &request).await;
        assert_eq!(full.status, 500);
        assert!(full.json()["detail"]["msg"].as_str().unwrap().contains("insufficient capacity"), "{}", full.body);
        stream.feed_all(&segments, seconds(0.5)).await;
        stream.event("runner_send_first_processed_segment", |_| true).await;
        stream.close().await;
        let side = if params.is_some_and(|params| params["width"].is_u64()) { 384 } else { 512 };
        assert_eq!(probe(&stream.output_bytes())[0]["width"], side);
        runner.health("IDLE", LONG).await;
    }
    for (request, status) in [
        (json!({}), 422),
        (json!({"subscribe_url": "http://127.0.0.1:1/a", "publish_url": "http://127.0.0.1:1/b", "params": []}), 422),
        (
            json!({"subscribe_url": "http://127.0.0.1:1/a", "publish_url": "http://127.0.0.1:1/b", "model_id": "other"}),
            400,
        ),
        (
            json!({"subscribe_url": "http://127.0.0.1:1/a", "publish_url": "http://127.0.0.1:1/b", "params": {"width": 100}}),
            400,
        ),
    ] {
        let answer = runner.post("/live-video-to-video", &request).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    assert_eq!(runner.word().await, "IDLE");
    runner.no_panic();
}

/// Waits until the status says that `params` are in force.
async fn in_force(runner: &Runner, params: &Value) {
    let began = Instant::now();
    loop {
        let status = runner.get("/api/status").await.json();
        if &status["inference_status"]["last_params"] == params {
            return;
        }
        assert!(began.elapsed() < LONG, "{params} not in {status:#}\n{}", runner.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for new output, and gives the mean colour of its last picture.
async fn colour(stream: &Stream) -> [f64; 3] {
    let before = stream.output().len();
    // The segment under way began with the old picture; the one after it did not.
    let output = until("new output", LONG, || Some(stream.output()).filter(|output| output.len() >= before + 2)).await;
    let segments = stream.output.segments();
    let last = &segments[output.len() - 1].1;
    mean_rgb(last, output[output.len() - 1].video.len() - 1)
}

fn near(colour: [f64; 3], wanted: [u8; 3]) {
    let far = colour.iter().zip(wanted).any(|(is, wanted)| (is - f64::from(wanted)).abs() > 10.0);
    assert!(!far, "{colour:?}, not {wanted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_on_the_control_channel() {
    let settings = [("engine-status", "500ms"), ("media-segment-seconds", "0.5"), ("restart-hang", "30s")];
    let runner = Runner::idle("invert", &settings).await;
    let orchestrator = Orchestrator::new().await;
    let clip = Clip { source: "color=c=0x2060c0", seconds: 40, audio: "", ..Clip::default() };
    let segments = clip.segments();
    let mut stream = orchestrator.run(&runner, "invert", Some(small())).await;
    let _feeding = stream.feed_behind(segments, seconds(2.0));
    stream.online().await;
    near(colour(&stream).await, [0xdf, 0x9f, 0x3f]);

    // A keep-alive is no update.
    for _ in 0..3 {
        stream.control(r#"{"keep":"alive"}"#).await;
    }
    in_force(&runner, &small()).await;
    // An update is in force as a whole, and what it leaves out is at its default.
    let plain = small_with(json!({"strength": 0.0}));
    stream.control(plain.to_string()).await;
    in_force(&runner, &plain).await;
    near(colour(&stream).await, [0x20, 0x60, 0xc0]);
    stream.control(small().to_string()).await;
    in_force(&runner, &small()).await;
    near(colour(&stream).await, [0xdf, 0x9f, 0x3f]);

    // Forty KiB, and many pieces.
    let grey = small_with(json!({"strength": 0.5}));
    stream.control(format!("{}{}", " ".repeat(40 * 1024), grey)).await;
    in_force(&runner, &grey).await;
    let text = Bytes::from(plain.to_string());
    let mut writer = stream.control.as_mut().unwrap().begin().await.unwrap();
    for at in 0..text.len() {
        writer.write(text.slice(at..=at)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    writer.finish().await.unwrap();
    in_force(&runner, &plain).await;

    // Of a burst the newest is in force at last.
    for step in 0..20 {
        stream.control(small_with(json!({"strength": f64::from(step) / 40.0})).to_string()).await;
    }
    let newest = small_with(json!({"strength": 0.25}));
    stream.control(newest.to_string()).await;
    in_force(&runner, &newest).await;
    let quarter = |x: f64| (x + (255.0 - 2.0 * x) * 0.25) as u8;
    let wanted = [quarter(32.0), quarter(96.0), quarter(192.0)];
    near(colour(&stream).await, wanted);

    // What is refused is told and changes nothing.
    let before = stream.events_of("error").len();
    stream.control(small_with(json!({"strength": 7})).to_string()).await;
    let error = stream.event("error", |event| event["message"].as_str().unwrap().contains("strength")).await;
    assert_eq!(stream.events_of("error").len(), before + 1);
    assert_eq!(error["pipeline"], "invert");
    assert!(error["message"].as_str().unwrap().starts_with("Error updating params: "), "{error}");
    assert!(error["time"].is_f64() && error["timestamp"].is_u64());
    let time = error["time"].as_f64().unwrap() * 1000.0;
    assert!((time - error["timestamp"].as_f64().unwrap()).abs() < 1500.0, "{error}");
    stream.control(json!({"width": 512, "height": 384, "strength": 1.0}).to_string()).await;
    let words = "Error updating params: Cannot change output resolution mid-stream (Current resolution: (384, 384) requested \
                 resolution: (512, 384)). Output resolution (e.g. upscalers) can only be configured when starting a new stream.";
    stream.event("error", |event| event["message"].as_str().unwrap().contains(words)).await;
    for nonsense in ["[1,2]", "\"x\"", "{", "null"] {
        stream.control(nonsense).await;
        let begin = "Control message ";
        let count = stream.events_of("error").len();
        stream.event("error", |event| event["message"].as_str().unwrap().starts_with(begin)).await;
        assert!(stream.events_of("error").len() >= count);
    }
    in_force(&runner, &newest).await;
    near(colour(&stream).await, wanted);

    // The local door leads to the same place, and answers.
    let answer = runner.params(small()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "Params updated successfully"));
    in_force(&runner, &small()).await;
    let answer = runner.params(json!({"strength": "x"})).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.starts_with("Error updating params: "), "{}", answer.body);

    let sizes: BTreeSet<_> = probe(&stream.output_bytes()).iter().map(|stream| stream["width"].as_u64()).collect();
    assert_eq!(sizes, BTreeSet::from([Some(384)]));
    stream.close().await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();
}

/// Runs one stream of `segments` on a runner and gives its output.
async fn pass(
    runner: &Runner,
    orchestrator: &Orchestrator,
    segments: &[Bytes],
    takes: Duration,
) -> (Stream, Vec<ts::Segment>) {
    let mut stream = orchestrator.run(runner, "noop", Some(small())).await;
    stream.feed_all(segments, takes).await;
    stream.close().await;
    runner.health("IDLE", LONG).await;
    let output = stream.output();
    (stream, output)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_of_many_kinds() {
    let runner = Runner::idle("noop", &[]).await;
    let orchestrator = Orchestrator::new().await;
    let four = |clip: Clip| Clip { seconds: 4, ..clip };

    // B-frames and AAC: pictures come out in the order in which they are shown.
    let clip = four(Clip { b_frames: 2, ..Clip::default() }).segments();
    let (stream, output) = pass(&runner, &orchestrator, &clip, seconds(1.5)).await;
    sound(&output);
    let mut shown = times(&clip.iter().map(ts::read).collect::<Vec<_>>());
    shown.sort();
    let got = times(&output);
    assert!(got.iter().all(|time| shown.contains(time)));
    assert!(got.len() * 100 >= shown.len() * 80, "{} of {}", got.len(), shown.len());
    decodes(&stream.output_bytes());

    // No audio: none in the tables either.
    let clip = four(Clip { audio: "", ..Clip::default() }).segments();
    let (stream, output) = pass(&runner, &orchestrator, &clip, seconds(1.0)).await;
    sound(&output);
    assert!(output.iter().all(|segment| segment.types == [0x1b]), "{:?}", output[0].types);
    decodes(&stream.output_bytes());

    // Opus as a gateway's WHIP sends it.
    let clip = four(Clip { audio: "libopus", ..Clip::default() }).segments();
    let (stream, output) = pass(&runner, &orchestrator, &clip, seconds(1.0)).await;
    sound(&output);
    assert!(output.iter().all(|segment| segment.opus));
    decodes(&stream.output_bytes());

    // Sound first, pictures two seconds later.
    let voice = Clip { size: "", seconds: 2, ..Clip::default() }.segments();
    let mut clip = voice.to_vec();
    clip.extend(four(Clip::default()).segments().iter().cloned());
    let (stream, output) = pass(&runner, &orchestrator, &clip, seconds(1.0)).await;
    assert!(!times(&output).is_empty());
    assert!(output.iter().all(|segment| segment.tables_first && segment.jumps == 0));
    decodes(&stream.output_bytes());

    // Another size with each segment: the output keeps its own.
    let of = |size| Clip { size, seconds: 8, audio: "", ..Clip::default() }.segments();
    let sizes = ["320x240", "640x360", "240x320", "176x144"];
    let clip: Vec<_> = sizes.iter().enumerate().map(|(index, &size)| of(size)[index].clone()).collect();
    let (stream, output) = pass(&runner, &orchestrator, &clip, seconds(1.0)).await;
    sound(&output);
    decodes(&stream.output_bytes());
    let got = times(&output);
    let last = times(&[ts::read(clip.last().unwrap())]);
    assert!(got.iter().filter(|time| last.contains(time)).count() > 20, "the last size is shown, too");
    assert_eq!(probe(&stream.output_bytes())[0]["width"], 384);
    runner.no_panic();
}

/// A stream that works: fed until two segments are out.
async fn running(
    runner: &Runner,
    orchestrator: &Orchestrator,
    clip: &Clip,
) -> (Stream, crate::support::orchestrator::Feeding) {
    // Made before anyone waits for it.
    let segments = clip.segments();
    let mut stream = orchestrator.run(runner, "noop", Some(small())).await;
    let feeding = stream.feed_behind(segments, seconds(f64::from(clip.segment)));
    until("output", LONG, || (!stream.output().is_empty()).then_some(())).await;
    (stream, feeding)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_is_clean_and_the_next_stream_too() {
    let settings = [("media-segment-seconds", "0.5"), ("engine-orphan", "2s")];
    let mut runner = Runner::idle("noop", &settings).await;
    let orchestrator = Orchestrator::new().await;
    let clip = |source| Clip { source, seconds: 20, segment: 1, audio: "", ..Clip::default() };
    let (blue, red) = (clip("color=c=0x2040ff"), clip("color=c=0xff2020"));
    for (round, suffix) in ["", "-control", "-out", "-events"].iter().enumerate() {
        let (colour, mean) = if round % 2 == 0 { (&blue, [0x20, 0x40, 0xff]) } else { (&red, [0xff, 0x20, 0x20]) };
        let (stream, _feeding) = running(&runner, &orchestrator, colour).await;
        // Nothing of the stream before is in this one.
        near(mean_rgb(&stream.output.segments()[0].1, 0), mean);
        assert!(stream.delete(suffix));
        let began = Instant::now();
        stream.output.end(LONG).await;
        stream.events.end(LONG).await;
        runner.health("IDLE", LONG).await;
        assert!(began.elapsed() < seconds(5.0), "{suffix:?} took {:?}", began.elapsed());
        assert!(!stream.exists("-out") && !stream.exists("-events"));
        assert_eq!(stream.events_of("error"), Vec::<Value>::new(), "an ordered end is no error");
    }

    // Nobody ever sends a byte.
    let stream = orchestrator.run(&runner, "noop", None).await;
    let began = Instant::now();
    stream.output.end(LONG).await;
    stream.events.end(LONG).await;
    runner.health("IDLE", LONG).await;
    assert!((seconds(1.9)..seconds(7.0)).contains(&began.elapsed()), "{:?}", began.elapsed());
    let error = &stream.events_of("error")[0];
    assert!(error["message"].as_str().unwrap().contains("no byte of input"), "{error}");

    // The local door.
    let (stream, _feeding) = running(&runner, &orchestrator, &red).await;
    assert_eq!(runner.post("/api/stop", &json!({})).await.body, "Stream stopped successfully");
    runner.health("IDLE", LONG).await;
    stream.output.end(LONG).await;

    // The container is stopped.
    let (stream, _feeding) = running(&runner, &orchestrator, &blue).await;
    let engine = runner.engine().unwrap();
    let began = Instant::now();
    let status = runner.end(Signal::SIGTERM, LONG).await;
    assert!(began.elapsed() < seconds(3.0), "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!stream.exists("-out") && !stream.exists("-events"), "channels are deleted");
    assert!(!std::path::Path::new(&format!("/proc/{engine}")).exists(), "the engine is gone");
    decodes(&stream.output_bytes());
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_streams_leave_nothing_behind() {
    let runner = Runner::idle("noop", &[]).await;
    let orchestrator = Orchestrator::new().await;
    let clip = Clip { seconds: 2, segment: 1, ..Clip::default() }.segments();
    let one = async || {
        let (_, output) = pass(&runner, &orchestrator, &clip, seconds(0.3)).await;
        assert!(!output.is_empty());
        // Connections that are kept for a while are no leak; what is left after them would be.
        tokio::time::sleep(Duration::from_millis(100)).await;
        runner.usage()
    };
    // The first streams fill pools and caches, and the allocator's own by thread.
    for _ in 0..12 {
        one().await;
    }
    let before = one().await;
    for _ in 0..9 {
        one().await;
    }
    one().await;
    // Threads that the runtime keeps for a while go with time; those that are lost stay.
    let settled = |now: &crate::support::runner::Usage| {
        now.threads <= before.threads && now.fds <= before.fds + 4 && now.rss <= before.rss + 8 * 1024
    };
    let began = Instant::now();
    loop {
        let now = runner.usage();
        if settled(&now) {
            break;
        }
        assert!(began.elapsed() < seconds(15.0), "{before:?} {now:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    runner.no_panic();
}
