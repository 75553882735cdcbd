//! Frames that are lost on purpose, each by the thing that loses them out there: the counters say what was done, to the
//! frame.
//!
//! The test knows beforehand which frames of the input it spoils and how many, and so it does of places that refuse one
//! frame in twenty because `--refuse` asks them to. Of queues that really overflow it cannot know which frames give way,
//! only how many did not come out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use weir::cli::rig::source::Edit;
use weir::cli::rig::{Report, Rig, Route};
use weir::metering::{Kind, Place};

use super::{Plan, account, nothing, runtime};

/// Every 20th frame: 5 %.
const EVERY: u64 = 20;

/// Where the payload of a transport packet begins.
fn payload(packet: &[u8]) -> usize {
    4 + if packet[3] & 0x20 == 0 { 0 } else { 1 + usize::from(packet[4]) }
}

/// Overwrites the picture behind the header of its packets, which stay whole.
fn spoil(picture: &Bytes) -> Bytes {
    let mut bytes = picture.to_vec();
    for packet in bytes.chunks_exact_mut(188) {
        let mut from = payload(packet);
        if packet[1] & 0x40 != 0 {
            from += 9 + usize::from(packet[from + 8]);
        }
        packet[from..].fill(0);
    }
    bytes.into()
}

/// Moves the picture by so many ticks of 90 kHz; one picture takes 3000.
fn moved(picture: &Bytes, ticks: i64) -> Bytes {
    let mut bytes = picture.to_vec();
    let at = payload(&bytes) + 9;
    let field = &mut bytes[at..at + 5];
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|index| i64::from(field[index]));
    let pts = ((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1) + ticks;
    field[0] = field[0] & 0xf1 | (pts >> 30 << 1) as u8;
    field[1] = (pts >> 22) as u8;
    field[2] = (pts >> 15 << 1) as u8 | 1;
    field[3] = (pts >> 7) as u8;
    field[4] = (pts << 1) as u8 | 1;
    bytes.into()
}

/// Whether decoding can begin with the picture.
fn is_key(picture: &Bytes) -> bool {
    let parameters = [0, 0, 1, 0x67];
    picture.windows(parameters.len()).take(188).any(|bytes| bytes == parameters)
}

/// What was done to a stream.
#[derive(Debug, Default)]
struct Done {
    headless: AtomicU64,
    spoiled: AtomicU64,
    late: AtomicU64,
}

impl Done {
    /// Takes the first picture away, so that nothing can be decoded before the next key picture; from there on spoils one
    /// picture in twenty and sends another one late.
    fn edit(&self, number: u64, picture: Bytes) -> Bytes {
        let headless = self.headless.load(Relaxed);
        match number {
            0 => return Bytes::new(),
            _ if headless + 1 == number && !is_key(&picture) => drop(self.headless.fetch_add(1, Relaxed)),
            _ if is_key(&picture) => {}
            _ if number % EVERY == 7 => {
                self.spoiled.fetch_add(1, Relaxed);
                return spoil(&picture);
            }
            _ if number % EVERY == 13 => {
                self.late.fetch_add(1, Relaxed);
                return moved(&picture, -3000);
            }
            _ => {}
        }
        picture
    }
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

#[test]
fn headless_spoiled_late_and_failing_frames_are_counted_as_they_were_made() {
    let done = Arc::new(Done::default());
    let edit = done.clone();
    let edit: Edit = Box::new(move |number, picture| edit.edit(number, picture));
    let params = json!({"frame_ms": 0, "load_ms": 0, "fail_every": EVERY});
    let plan = Plan { seconds: 8.0, edit: Some(edit), ..Plan::of("delay", params, &["--engine-freshness=2s"]) };
    let (_, sum) = runtime().block_on(account(plan, nothing));
    let totals = &sum.totals;
    assert!(count(&done.headless) > 20 && count(&done.spoiled) > 3 && count(&done.late) > 3, "{done:?}");
    assert_eq!(totals.lost_at(Place::KeyFrame), count(&done.headless), "{totals:?}");
    assert_eq!(totals.lost_at(Place::Damaged), count(&done.spoiled), "{totals:?}");
    assert_eq!(totals.lost_at(Place::Order), count(&done.late), "{totals:?}");
    // The model saw whatever did not end before it; every twentieth of these it failed on.
    let after = totals.lost_at(Place::Output) + totals.lost_at(Place::Publish);
    let repeated = totals.frames_out.get(Kind::Repeated.label()).copied().unwrap_or(0);
    assert_eq!(after, 0, "{totals:?}");
    assert_eq!((repeated, totals.faults), (totals.out() / EVERY, totals.out() / EVERY), "{totals:?}");
}

#[test]
fn one_frame_in_twenty_is_refused_at_each_place_and_counted_there() {
    let early = Arc::new(AtomicU64::new(0));
    let moves = early.clone();
    let edit: Edit = Box::new(move |number, picture| {
        if number % EVERY != 17 || is_key(&picture) {
            return picture;
        }
        // A hair after the one before it: too early for the rate.
        moves.fetch_add(1, Relaxed);
        moved(&picture, -2700)
    });
    let flags = &[
        "--refuse=decode=20,model=20,input=20,output=20,end=20,publish=20",
        "--media-max-fps=30.01",
        "--engine-freshness=2s",
    ];
    // Without an overlay a model that does not take a frame loses it.
    let params = json!({"show_reloading_frame": false});
    let plan = Plan { seconds: 8.0, edit: Some(edit), ..Plan::of("noop", params, flags) };
    let (report, sum) = runtime().block_on(account(plan, nothing));
    let totals = &sum.totals;
    assert!(count(&early) > 6, "{early:?}");
    assert_eq!(totals.lost_at(Place::RateCap), count(&early), "{totals:?}");
    // Every place refuses one in twenty of the frames that the ones before it let pass.
    let mut reach = report.summary.frames.sent - count(&early);
    for place in [Place::Decode, Place::Model, Place::Input, Place::Output, Place::End, Place::Publish] {
        let refused = reach / EVERY;
        assert!(refused > 6, "{reach}");
        assert_eq!(totals.lost_at(place), refused, "{place:?}: {totals:?}");
        reach -= refused;
    }
    assert_eq!(totals.out(), reach, "{totals:?}");
}

#[test]
fn frames_that_a_new_engine_reads_again_are_counted_once_more_and_dropped() {
    let read_again = Arc::new(AtomicU64::new(0));
    let counted = read_again.clone();
    // Pictures of the input segment that is open: a new engine begins with that one.
    let edit: Edit = Box::new(move |_, picture| {
        let segment = if is_key(&picture) { 0 } else { counted.load(Relaxed) };
        counted.store(segment + 1, Relaxed);
        picture
    });
    let plan = Plan { edit: Some(edit), ..Plan::of("noop", json!({}), &["--engine-freshness=2s"]) };
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let (report, again) = runtime().block_on(async {
        let _turn = super::TURN.lock().await;
        let rig = super::rig(&ledger, plan).await;
        tokio::time::sleep(Duration::from_millis(2700)).await;
        // The engine is killed while the source is silent and all that was sent is in intervals that are over.
        rig.source().faults().stall(Duration::from_millis(4000));
        tokio::time::sleep(Duration::from_millis(300)).await;
        drained(&rig).await;
        let again = count(&read_again);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        rig.runner().kill_engine().expect("an engine");
        tokio::time::sleep(Duration::from_millis(4500)).await;
        (rig.finish().await.unwrap(), again)
    });
    let (intervals, sum) = super::intervals(&ledger);
    let (frames, totals) = (&report.summary.frames, sum.expect("intervals").totals);
    assert!(again > 10 && intervals.last().is_some_and(|last| last.last && last.in_flight == 0 && last.restarts == 1));
    assert_eq!(totals.lost_at(Place::Resume), again, "{totals:?}");
    assert_eq!(totals.frames_in, frames.sent + again, "{totals:?}");
    assert_eq!((totals.out(), totals.out() + totals.lost()), (frames.received, totals.frames_in), "{totals:?}");
}

/// Frames that did not come out.
fn missing(report: &Report) -> u64 {
    report.summary.frames.sent - report.summary.frames.received
}

#[test]
fn drops_of_a_slow_model_are_counted_where_they_happen() {
    let (report, sum) = runtime().block_on(account(Plan::of("delay", json!({"frame_ms": 60}), &[]), nothing));
    assert!(missing(&report) > 20, "{}", missing(&report));
    assert_eq!(sum.totals.lost_at(Place::Input) + sum.totals.lost_at(Place::End), missing(&report), "{:?}", sum.totals);
}

#[test]
fn drops_of_the_rate_cap_are_counted_where_they_happen() {
    let (report, sum) = runtime().block_on(account(Plan::of("noop", json!({}), &["--media-max-fps=28.5"]), nothing));
    assert!(missing(&report) > 4, "{}", missing(&report));
    assert_eq!(sum.totals.lost_at(Place::RateCap), missing(&report), "{:?}", sum.totals);
}

#[test]
fn frames_before_a_model_that_loads_are_counted_where_they_happen() {
    // The model is warm with other parameters; those of the stream need another load, and no overlay is wanted.
    let params = json!({"frame_ms": 0, "load_ms": 1500, "show_reloading_frame": false});
    let plan = Plan::of("delay", params, &["--engine-initial-params={\"load_ms\":0}", "--engine-freshness=2s"]);
    let (report, sum) = runtime().block_on(account(plan, nothing));
    assert!(missing(&report) > 20, "{}", missing(&report));
    assert_eq!(sum.totals.lost_at(Place::Model), missing(&report), "{:?}", sum.totals);
}

/// Waits until everything that was sent is out.
async fn drained(rig: &Rig) {
    while rig.ledger().last_received() < rig.ledger().last_sent() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn frames_of_an_output_segment_that_broke_off_are_counted_where_they_happen() {
    let flags = &["--media-segment-seconds=30", "--engine-freshness=2s"];
    let plan = Plan { route: Route::Output, ..Plan::of("noop", json!({}), flags) };
    let (report, sum) = runtime().block_on(account(plan, async |rig: &Rig| {
        // The line is cut while the source is silent, so that nothing is on its way. What comes after belongs to the
        // segment that broke off, until a key picture begins the next one: at once, although this one had 30 seconds.
        rig.source().faults().stall(Duration::from_millis(1500));
        tokio::time::sleep(Duration::from_millis(300)).await;
        drained(rig).await;
        rig.proxy().unwrap().cut();
    }));
    assert!((1..15).contains(&missing(&report)), "{}", missing(&report));
    assert_eq!(sum.totals.lost_at(Place::Publish), missing(&report), "{:?}", sum.totals);
}

#[test]
fn frames_of_a_burst_that_the_encoder_cannot_take_are_counted_where_they_happen() {
    let plan = Plan { seconds: 3.0, route: Route::All, ..Plan::of("noop", json!({}), &["--engine-freshness=1ms"]) };
    let (report, sum) = runtime().block_on(account(plan, async |rig: &Rig| {
        let proxy = rig.proxy().unwrap();
        proxy.hold(true);
        tokio::time::sleep(Duration::from_secs(3)).await;
        proxy.hold(false);
    }));
    let [input, output] = [Place::Input, Place::Output].map(|place| sum.totals.lost_at(place));
    assert!(output > 4, "{:?}", sum.totals);
    assert_eq!(input + output, missing(&report), "{:?}", sum.totals);
}
