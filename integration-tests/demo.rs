//! The demo's rig around a real runner: pictures checked one by one, updates, and an engine that is killed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir::cli::demo::{Options, play};
use weir::cli::rig::decode::Decoding;
use weir::cli::rig::reader::Taps;
use weir::cli::rig::source::{Ready, SourceConfig};
use weir::cli::rig::{Rig, Route, Setup};
use weir::frame::{PixelFormat, Size};
use weir::media::pattern;
use weir::pipeline::Params;

const SIZE: Size = Size::new(512, 512);

/// One at a time: each has a source, an engine and a reader to run.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn params(value: Value) -> Params {
    value.as_object().cloned().unwrap()
}

fn options(pipeline: &str, seconds: f64) -> Options {
    Options {
        page: None,
        pipeline: pipeline.into(),
        params: params(json!({"width": 512, "height": 512})),
        output: SIZE,
        source: SourceConfig::Pattern { size: SIZE, fps: 30.0 },
        burst: None,
        seconds: Some(seconds),
        record: None,
        check: true,
        show_log: false,
        // Other tests share the machine: a frame that waits is not worth less here.
        flags: vec!["--engine-freshness=2s".into()],
        program: PathBuf::from(env!("CARGO_BIN_EXE_weir")),
    }
}

async fn checked(pipeline: &str) {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("out.mp4");
    let played = play(&Options { record: Some(record.clone()), ..options(pipeline, 6.0) }).await.unwrap();
    assert!(played.good, "{}\n{}", played.text, played.report.log.join("\n"));
    let verdict = played.verdict.unwrap();
    assert!(verdict.pictures > 150, "{}", played.text);
    assert!(std::fs::metadata(&record).unwrap().len() > 10_000);
    let reader = weir::media::FileReader::open(record.to_str().unwrap(), None, PixelFormat::I420).unwrap();
    let (size, audio) = (reader.info().size, reader.info().audio.is_some());
    assert_eq!((size, audio), (Some(SIZE), true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_through_noop_is_right_picture_by_picture() {
    checked("noop").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_through_invert_is_right_picture_by_picture() {
    checked("invert").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bursts_of_a_gateways_segmenter_pass_whole() {
    let _turn = TURN.lock().await;
    let options = Options { burst: Some(Duration::from_millis(300)), ..options("invert", 6.0) };
    let played = play(&options).await.unwrap();
    let log = played.report.log.join("\n");
    assert!(played.good, "{}\n{log}", played.text);
    let frames = played.report.summary.frames;
    assert!(frames.sent > 150 && frames.missing == 0, "{frames:?}\n{log}");
}

/// A rig with `pipeline` whose output pictures are read; the list gets time stamp and reading of each.
async fn rig(pipeline: &str) -> (Rig, Decoding, Arc<Mutex<Vec<(i64, pattern::Reading)>>>) {
    let options = options(pipeline, 0.0);
    let read = Arc::new(Mutex::new(Vec::new()));
    let list = read.clone();
    let (feed, decoding) = Decoding::start(SIZE, PixelFormat::I420, move |frame| {
        if let Some(reading) = pattern::read(&frame) {
            list.lock().unwrap().push((frame.pts.0, reading));
        }
    })
    .unwrap();
    let setup = Setup {
        runner: options.runner(),
        source: Ready::open(options.source.clone()).await.unwrap(),
        route: Route::Straight,
        floor: false,
        input: Taps::default(),
        output: Taps { feed: Some(feed), ..Taps::default() },
    };
    (Rig::start(setup).await.unwrap(), decoding, read)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_shows_in_the_next_pictures_and_a_wrong_one_changes_nothing() {
    let _turn = TURN.lock().await;
    let (rig, _decoding, read) = rig("invert").await;
    let count = || read.lock().unwrap().len();
    until("output", || count() > 30).await;
    assert!(read.lock().unwrap().iter().all(|(_, reading)| reading.inverted));

    // Refused as a whole: the size may not change, so the strength does not either.
    let before = rig.events().since(0).last().map_or(0, |event| event.number);
    rig.control().update(&params(json!({"strength": 0.0, "width": 768, "height": 512}))).await.unwrap();
    let refusal = rig.events().wait(before, |event| event.kind == "error");
    let refusal = tokio::time::timeout(Duration::from_secs(5), refusal).await.unwrap().unwrap();
    assert!(refusal.body["message"].as_str().unwrap().contains("resolution"), "{}", refusal.body);
    // Of several wrong ones at once each is told.
    let before = rig.events().since(0).last().map_or(0, |event| event.number);
    for wrong in [json!({"strength": 7.0}), json!({"strength": "all"}), json!({"stregnth": 0.5})] {
        rig.control().update(&params(wrong)).await.unwrap();
    }
    until("three refusals", || rig.events().since(before).iter().filter(|event| event.kind == "error").count() >= 3)
        .await;
    let marked = count();
    until("more output", || count() > marked + 10).await;
    assert!(read.lock().unwrap().iter().all(|(_, reading)| reading.inverted));

    rig.control().update(&params(json!({"strength": 0.0, "width": 512, "height": 512}))).await.unwrap();
    let sent = rig.ledger().last_sent().unwrap();
    until("the update", || read.lock().unwrap().iter().any(|(_, reading)| !reading.inverted)).await;
    let marked = count();
    until("more output", || count() > marked + 10).await;
    let first = read.lock().unwrap().iter().find(|(_, reading)| !reading.inverted).map(|(pts, _)| *pts).unwrap();
    let frames = (first - sent) / 3000;
    assert!(frames <= 4, "the update showed {frames} frames after it was sent");
    let after: Vec<_> = read.lock().unwrap().iter().filter(|(pts, _)| *pts >= first).copied().collect();
    assert!(after.iter().all(|(_, reading)| !reading.inverted), "it stays in force");

    let report = rig.finish().await.unwrap();
    assert!(report.clean, "{}", report.log.join("\n"));
    assert_eq!(report.summary.frames.backwards, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_engine_is_replaced_and_the_stream_goes_on() {
    let _turn = TURN.lock().await;
    let (rig, _decoding, read) = rig("noop").await;
    let count = || read.lock().unwrap().len();
    until("output", || count() > 60).await;
    let killed = rig.runner().kill_engine().expect("an engine");
    let marked = rig.ledger().last_sent().unwrap();
    let restart = rig.events().wait(0, |event| event.kind == "restart");
    let restart = tokio::time::timeout(Duration::from_secs(5), restart).await.unwrap().unwrap();
    assert_eq!(restart.body["restart_count"], 1);
    assert_eq!(restart.body["pipeline"], "noop");
    until("output of frames sent later", || rig.ledger().last_received() > Some(marked + 60 * 3000)).await;
    assert!(rig.runner().engine().is_some_and(|engine| engine != killed));
    rig.check().unwrap();
    let report = rig.finish().await.unwrap();
    assert!(report.clean, "{}", report.log.join("\n"));
    let frames = report.summary.frames;
    assert_eq!(frames.backwards, 0, "{frames:?}");
    assert!(frames.missing <= 60, "{frames:?}");
    let list = read.lock().unwrap();
    assert!(list.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1.number < pair[1].1.number));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_measurement_has_every_figure() {
    let _turn = TURN.lock().await;
    let bench = weir::cli::bench::bench(&options("noop", 3.0), false).await.unwrap();
    assert!(bench.clean && bench.errors.is_empty(), "{}", bench.table());
    assert!(bench.frames.sent >= 60 && bench.frames.missing == 0, "{}", bench.table());
    let latency = &bench.latency_ms;
    assert!(latency.floor.count >= 80 && latency.end_to_end.count >= 80, "{}", bench.table());
    assert!(latency.floor.p50 <= latency.end_to_end.p50 && latency.added.p50 > 0.0, "{}", bench.table());
    assert!(bench.first_output_ms.is_some_and(|ms| ms > 0.0 && ms < 5000.0), "{}", bench.table());
    assert!(bench.cpu_cores > 0.005 && bench.cpu_cores < 4.0, "{}", bench.table());
    assert!(bench.memory.rss_peak_mb > 10.0 && bench.memory.pss_mean_mb > 5.0, "{}", bench.table());
    assert!(0.0 < bench.start.health_ms && bench.start.health_ms <= bench.start.idle_ms, "{}", bench.table());
    let stages: Vec<_> = bench.stages_ms.iter().map(|(stage, _)| stage.as_str()).collect();
    assert_eq!(stages, ["decode", "queue", "model", "encode", "publish", "total"]);
    // The runner counts what the reader saw, to the frame.
    assert_eq!(bench.stages_ms[5].1.count, bench.frames.received, "{}", bench.table());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_streams_through_two_doors_are_measured_side_by_side() {
    let _turn = TURN.lock().await;
    let bench = weir::cli::bench::bench(&options("noop", 3.0), true).await.unwrap();
    assert!(bench.clean && bench.errors.is_empty(), "{}", bench.table());
    let second = bench.beside.as_ref().expect("a second stream");
    for (frames, latency) in [(&bench.frames, &bench.latency_ms), (&second.frames, &second.latency_ms)] {
        // Two streams and their rigs share this machine with other tests: a few frames may be dropped for it, and counted.
        assert!(frames.sent >= 60 && frames.missing * 10 <= frames.sent, "{}", bench.table());
        assert_eq!((frames.unmatched, frames.backwards), (0, 0), "{}", bench.table());
        assert_eq!(frames.received + frames.missing, frames.sent, "{}", bench.table());
        assert!(latency.end_to_end.count >= 60 && latency.added.p50 > 0.0, "{}", bench.table());
    }
    assert!(bench.table().contains("beside it"), "{}", bench.table());
    // The stages are those of the first stream.
    assert_eq!(bench.stages_ms[5].1.count, bench.frames.received, "{}", bench.table());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_the_demo_and_leaves_no_process() {
    let _turn = TURN.lock().await;
    let mut demo = tokio::process::Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["demo", "--port", "0"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(demo.stdout.take().unwrap()));
    let first = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(first.starts_with("Open http://127.0.0.1:"), "{first}");
    let pid = demo.id().unwrap();
    let processes: Vec<i32> = weir::cli::rig::procs::tree(pid).unwrap().iter().map(|process| process.pid).collect();
    assert_eq!(processes.len(), 3, "demo, runner and engine: {processes:?}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGINT).unwrap();
    let status = tokio::time::timeout(Duration::from_secs(15), demo.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    let left: Vec<_> = processes.into_iter().filter(|pid| procfs::process::Process::new(*pid).is_ok()).collect();
    assert!(left.is_empty(), "{left:?} are left");
}
