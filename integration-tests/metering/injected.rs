//! Frames that are lost on purpose, each by the thing that loses them out there: the counters say what was done, to the
//! frame.
//!
//! The test knows beforehand which frames of the input it spoils and how many; of queues that overflow it cannot know
//! which frames give way, only how many did not come out. Places that no stream reaches: `decode` needs an empty pool,
//! which is larger than all queues together, and `resume` an engine that was replaced (see the kill test).

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

/// Gives the picture the time of the one before it.
fn late(picture: &Bytes) -> Bytes {
    let mut bytes = picture.to_vec();
    let at = payload(&bytes) + 9;
    let field = &mut bytes[at..at + 5];
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|index| u64::from(field[index]));
    let pts = ((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1) - 3000;
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
                return late(&picture);
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
