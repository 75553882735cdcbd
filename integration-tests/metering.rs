//! What the ledger says of streams through a whole runner, and what is left of it when processes are killed.
//!
//! `WEIR_KILL_ROUNDS` sets the rounds of the kill test (10 without it).

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use weir::cli::rig::procs;
use weir::cli::rig::reader::Taps;
use weir::cli::rig::runner::RunnerConfig;
use weir::cli::rig::source::{Edit, Ready, SourceConfig};
use weir::cli::rig::{Report, Rig, Route, Setup};
use weir::frame::Size;
use weir::metering::Interval;
use weir::metering::ledger::{Body, Summary, read, verify};
use weir::pipeline::Params;

mod injected;
mod nvml;

const SIZE: Size = Size::new(384, 384);
const FPS: f64 = 30.0;

/// A stream that is to be accounted for.
struct Plan {
    pipeline: &'static str,
    params: serde_json::Value,
    flags: &'static [&'static str],
    seconds: f64,
    /// The runner's program.
    program: PathBuf,
    /// What is done to pictures before the runner sees them.
    edit: Option<Edit>,
    /// How the runner reaches the server.
    route: Route,
}

impl Plan {
    fn of(pipeline: &'static str, params: serde_json::Value, flags: &'static [&'static str]) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
        Self { pipeline, params, flags, seconds: 4.0, program, edit: None, route: Route::Straight }
    }
}

async fn rig(ledger: &Path, plan: Plan) -> Rig {
    let Plan { pipeline, params, flags, program, edit, route, .. } = plan;
    let mut params: Params = params.as_object().cloned().unwrap();
    params.insert("width".into(), SIZE.width.into());
    params.insert("height".into(), SIZE.height.into());
    let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    flags.push(format!("--ledger-path={}", ledger.display()));
    flags.push("--metering-interval=500ms".into());
    let runner = RunnerConfig {
        program,
        pipeline: pipeline.into(),
        params,
        status: Duration::from_secs(1),
        load_wait: Duration::from_secs(30),
        show_log: false,
        flags,
    };
    let mut source = Ready::open(SourceConfig::Pattern { size: SIZE, fps: FPS }).await.unwrap();
    if let Some(edit) = edit {
        source = source.edited(edit);
    }
    let setup = Setup { runner, source, floor: false, input: Taps::default(), output: Taps::default(), route };
    Rig::start(setup).await.unwrap()
}

/// One at a time: each has a source, an engine and a reader to run.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The intervals of a ledger and their sum.
fn intervals(folder: &Path) -> (Vec<Interval>, Option<Summary>) {
    let (mut all, mut sum): (Vec<Interval>, Option<Summary>) = (Vec::new(), None);
    read(folder, |found| {
        if let Body::Interval { stream, interval, gpu } = found.entry.unwrap().body {
            sum.get_or_insert_with(|| Summary::new(&stream, &interval)).add(&interval, gpu.as_ref());
            all.push(*interval);
        }
        true
    })
    .unwrap();
    (all, sum)
}

/// Runs a stream, with `during` after its first second, and lays the ledger beside what went in and came out.
async fn account(plan: Plan, during: impl AsyncFnOnce(&Rig)) -> (Report, Summary) {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let seconds = plan.seconds;
    let rig = rig(&ledger, plan).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    during(&rig).await;
    tokio::time::sleep(Duration::from_secs_f64(seconds - 1.0)).await;
    let report = rig.finish().await.unwrap();
    let verified = verify(&ledger).unwrap().unwrap();
    assert_eq!((verified.missing, verified.kills), (0, 0));
    let (intervals, sum) = intervals(&ledger);
    let sum = sum.expect("intervals");
    assert!(intervals.len() >= 6, "{}", intervals.len());
    let last = intervals.last().unwrap();
    assert!(last.last);
    assert_eq!(last.in_flight, 0, "every frame that came in is accounted for: {sum:?}");
    for pair in intervals.windows(2) {
        assert_eq!((pair[0].to_ms, pair[0].number + 1), (pair[1].from_ms, pair[1].number));
    }
    let totals = &sum.totals;
    assert_eq!(totals.frames_in, totals.out() + totals.lost());
    assert_eq!(totals.frames_in, report.summary.frames.sent, "{totals:?}");
    assert_eq!(totals.out(), report.summary.frames.received, "{totals:?}");
    assert_eq!(last.stream_latency_ms["total"].count, totals.out());
    assert_eq!(totals.pixels_out, totals.out() * SIZE.pixels());
    assert_eq!(totals.bytes_out, report.output.bytes);
    (report, sum)
}

async fn nothing(_: &Rig) {}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn every_frame_of_a_good_stream_is_in_the_ledger() {
    let (report, sum) = runtime().block_on(account(Plan::of("noop", json!({}), &["--engine-freshness=2s"]), nothing));
    assert_eq!(sum.totals.pixels_in, sum.totals.frames_in * SIZE.pixels());
    // Other tests share the machine, so a frame may give way; that none is unaccounted for is what counts.
    assert!(sum.totals.lost() * 10 <= sum.totals.frames_in, "{:?}", sum.totals);
    assert!(report.summary.frames.sent > 60);
    // The input's segments begin every two seconds, so four seconds are billed at least once and never more than lasted.
    let seconds = sum.totals.billable_pixels as f64 / weir::metering::PIXELS_PER_SECOND as f64;
    assert!(seconds > 1.0 && seconds <= sum.seconds(), "{seconds}");
}

#[test]
fn frames_and_intervals_say_which_graph_and_which_parameters_made_them() {
    let seen = std::sync::Mutex::new((Vec::new(), Vec::new()));
    let plan = Plan::of("invert", json!({"strength": 1.0}), &["--engine-freshness=2s"]);
    let (report, sum) = runtime().block_on(account(plan, async |rig: &Rig| {
        let hash = async || {
            let status = rig.runner().status().await.unwrap();
            status.pointer("/inference_status/last_params_hash").and_then(|hash| hash.as_str()).unwrap().to_owned()
        };
        let before = hash().await;
        let params = json!({"strength": 0.5, "width": SIZE.width, "height": SIZE.height});
        rig.control().update(params.as_object().unwrap()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let frames = rig.runner().frames(rig.channels().manifest_id(), 0).await.unwrap().frames;
        *seen.lock().unwrap() = (vec![before, hash().await], frames);
    }));
    let (hashes, frames) = seen.into_inner().unwrap();
    assert_ne!(hashes[0], hashes[1]);
    let frames: Vec<_> = frames.iter().filter(|frame| frame.picture == "processed").collect();
    // Those of the old parameters, then those of the new ones.
    let change = frames.iter().position(|frame| frame.params_hash == hashes[1]).expect("frames with new parameters");
    assert!(change > 10 && frames.len() - change > 10, "{change} of {}", frames.len());
    assert!(frames[..change].iter().all(|frame| frame.params_hash == hashes[0]));
    assert!(frames[change..].iter().all(|frame| frame.params_hash == hashes[1]));
    // One graph for both, which the log named when it was loaded.
    let graph = &frames[0].graph;
    assert!(graph.len() == 32 && frames.iter().all(|frame| frame.graph == *graph && frame.gpu_us.is_none()));
    assert!(report.log.iter().any(|line| line.contains(graph.as_str())), "{graph}");
    assert_eq!(sum.totals.gpu_busy_us, 0, "there is no GPU");
    assert_eq!(report.account.interval["graph"], graph.as_str());
    assert_eq!(report.account.interval["params_hash"], hashes[1].as_str());
}

/// Numbers without a pattern, from a seed that a failure names.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

#[test]
fn killed_processes_cost_the_running_interval_and_nothing_more() {
    let rounds = std::env::var("WEIR_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10_u32);
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let seed = unix_ms();
    eprintln!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed);
    let mut kills = 0;
    let runtime = runtime();
    for round in 0..rounds {
        let seen = if ledger.exists() { intervals(&ledger).0.len() } else { 0 };
        runtime.block_on(async {
            let _turn = TURN.lock().await;
            let rig = rig(&ledger, Plan::of("noop", json!({}), &[])).await;
            let began_ms = unix_ms();
            tokio::time::sleep(Duration::from_millis(500 + random.below(1500))).await;
            if round % 2 == 0 {
                rig.runner().kill_engine().expect("an engine");
                tokio::time::sleep(Duration::from_millis(1500 + random.below(500))).await;
                let report = rig.finish().await.unwrap();
                let (all, _) = intervals(&ledger);
                let stream = &all[seen..];
                assert!(stream.iter().any(|interval| interval.restarts == 1), "round {round}: {stream:?}");
                // No number and no time is missing: the interval in which it was killed goes on in the next engine.
                for (number, interval) in stream.iter().enumerate() {
                    assert_eq!(interval.number, number as u64, "round {round}");
                }
                assert!(stream.windows(2).all(|pair| pair[0].to_ms == pair[1].from_ms));
                assert!(stream.last().is_some_and(|interval| interval.last));
                // Of the frames that came out only those of the running interval are not in the ledger.
                let told: u64 = stream.iter().map(|interval| interval.totals.out()).sum();
                let lost = report.summary.frames.received.saturating_sub(told);
                assert!(lost <= (FPS * 1.0) as u64, "round {round}: {lost} frames");
            } else {
                let pid = rig.runner().pid();
                let whole: Vec<i32> = procs::tree(pid).unwrap().iter().map(|process| process.pid).collect();
                // What the supervisor knows this moment. A line on its way to the disk may be lost besides what runs.
                let told = rig.runner().account(rig.channels().manifest_id()).await.interval["number"]
                    .as_u64()
                    .map_or(0, |number| number + 1);
                // The supervisor alone, whose engine has to end by itself, or everything at once as a machine that stops.
                let victims = if round % 4 == 1 { vec![pid as i32] } else { whole };
                let killed_ms = unix_ms();
                victims.into_iter().for_each(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap());
                kills += 1;
                drop(rig);
                let (all, _) = intervals_of_a_killed_runner(&ledger);
                let (kept, last) = (&all[seen..], all[seen..].last().map_or(began_ms, |interval| interval.to_ms));
                assert!(kept.len() as u64 + 1 >= told, "round {round}: {} of {told} intervals are left", kept.len());
                assert!(kept.iter().enumerate().all(|(number, interval)| interval.number == number as u64));
                // An interval, a look of the session, and whatever a busy machine takes.
                assert!(last + 2_000 >= killed_ms, "round {round}: {} ms", killed_ms - last);
            }
        });
    }
    // One more life finds the ledger whole, whatever was torn.
    runtime.block_on(async { rig(&ledger, Plan::of("noop", json!({}), &[])).await.finish().await.unwrap() });
    let verified = verify(&ledger).unwrap().unwrap_or_else(|found| panic!("seed {seed}: {found:?}"));
    assert_eq!((verified.kills, verified.missing), (kills, 0), "seed {seed}");
}

/// As [`intervals`], with a last line that may be torn.
fn intervals_of_a_killed_runner(folder: &Path) -> (Vec<Interval>, u64) {
    let (mut all, mut torn) = (Vec::new(), 0);
    read(folder, |found| {
        match found.entry.map(|entry| entry.body) {
            Ok(Body::Interval { interval, .. }) => all.push(*interval),
            Ok(_) => {}
            Err(_) => torn += 1,
        }
        true
    })
    .unwrap();
    assert!(torn <= 1);
    (all, torn)
}
