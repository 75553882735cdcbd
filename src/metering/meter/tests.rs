use proptest::prelude::*;

use super::*;
use crate::frame::{Fingerprint, Stamps, Timestamp};

const FIVE: Duration = Duration::from_secs(5);
const BEGIN_MS: u64 = 1_795_225_491_037;

fn meter(at: Instant, unix_ms: u64, carry: Carry) -> Meter {
    let clock = Clock { at, unix_ns: unix_ms as i64 * 1_000_000 };
    Meter::new(3, Size::new(512, 512), clock, FIVE, carry, Arc::new(Tracer::new()))
}

fn first() -> Carry {
    Carry { number: 0, from_ms: BEGIN_MS, billed_until_ns: BEGIN_MS as i64 * 1_000_000 }
}

fn frame(kind: Kind, at: Instant, took: Duration) -> FrameRecord {
    let stamps = Stamps { received: Some(at), published: Some(at + took), ..Stamps::default() };
    let pixels = 512 * 512;
    FrameRecord { session: 3, seq: 0, pts: Timestamp(0), stamps, kind, pixels, bytes: 0, model: "noop" }
}

#[test]
fn an_interval_says_what_happened_in_it_and_the_next_begins_with_nothing() {
    let start = Instant::now();
    let meter = meter(start, BEGIN_MS, first());
    meter.set_input_size(Size::new(1280, 720));
    meter.set_decoder("h264");
    for count in 0..10 {
        meter.arrived();
        if count < 7 {
            meter.published(&frame(Kind::Processed, start, Duration::from_millis(20)));
        }
    }
    meter.dropped(Place::Input, 2, start);
    meter.received(100);
    meter.sent(50);
    meter.busy(Duration::from_millis(3));
    meter.gpu_busy(Duration::from_millis(2));
    meter.set_graph(Some(Fingerprint([0x10; 16])));
    meter.updated(true);
    meter.updated(false);
    meter.fault("trickle", "POST http://secret/ai/trickle/abc-out failed");
    meter.segment_in(start + FIVE);
    let facts = Facts { model: "noop", params_hash: "abc", ..Facts::default() };
    let interval = meter.close(start + FIVE, facts);
    assert_eq!((interval.number, interval.from_ms, interval.to_ms), (0, BEGIN_MS, BEGIN_MS + 5_000));
    assert_eq!(interval.totals.frames_in, 10);
    assert_eq!(interval.totals.pixels_in, 10 * 1280 * 720);
    assert_eq!((interval.totals.processed(), interval.totals.lost_at(Place::Input)), (7, 2));
    assert_eq!(interval.totals.pixels_out, 7 * 512 * 512);
    assert_eq!((interval.in_flight, interval.fps), (1, 1.4));
    assert_eq!((interval.totals.bytes_in, interval.totals.bytes_out), (100, 50));
    assert_eq!((interval.totals.model_busy_us, interval.totals.gpu_busy_us), (3_000, 2_000));
    assert_eq!(interval.graph, "10".repeat(16));
    assert_eq!((interval.totals.updates_applied, interval.totals.updates_refused), (1, 1));
    assert_eq!((interval.totals.billable_pixels, interval.totals.debits), (138_240_000, 1));
    assert_eq!(interval.revision, 1);
    assert_eq!(interval.decoder, "h264");
    assert_eq!(interval.fault.as_ref().map(|fault| fault.message.as_str()), Some("POST <address> failed"));
    let total = interval.latency_ms["total"];
    assert!((19.8..20.3).contains(&total.p50) && !interval.latency_ms.contains_key("model"), "{total:?}");

    let next = meter.close(start + FIVE, facts);
    assert_eq!((next.number, next.from_ms), (1, BEGIN_MS + 5_000));
    assert!(next.totals.is_zero() && next.latency_ms.is_empty() && next.fault.is_none(), "{next:?}");
    assert_eq!(next.in_flight, 1);
}

#[test]
fn the_last_interval_has_the_times_of_the_whole_stream() {
    let start = Instant::now();
    let meter = meter(start, BEGIN_MS, first());
    for (count, took) in [(90, 10), (10, 500)] {
        for _ in 0..count {
            meter.published(&frame(Kind::Processed, start, Duration::from_millis(took)));
        }
        let interval = meter.close(start, Facts::default());
        assert_eq!(interval.latency_ms["total"].count, count);
        assert!(interval.stream_latency_ms.is_empty());
    }
    meter.published(&frame(Kind::Repeated, start, Duration::from_millis(10)));
    let whole = meter.latency()["total"];
    assert_eq!((whole.count, whole.p50.round(), whole.p95.round()), (101, 10.0, 502.0));
    let last = meter.close(start, Facts { last: true, ..Facts::default() });
    assert_eq!((last.latency_ms["total"].count, last.stream_latency_ms["total"]), (1, whole));
    assert!(!last.stream_latency_ms.contains_key("model"));
}

#[test]
fn a_new_engine_goes_on_where_the_account_was() {
    let start = Instant::now();
    let old = meter(start, BEGIN_MS, first());
    old.segment_in(start + Duration::from_secs(6));
    let carry = old.close(start + Duration::from_secs(7), Facts::default()).carry();
    // Three seconds without an engine; what was not billed is billed with the next segment.
    let new = meter(start, BEGIN_MS + 10_000, carry);
    new.segment_in(start + Duration::from_secs(2));
    let interval = new.close(start + Duration::from_secs(3), Facts { restarts: 1, ..Facts::default() });
    assert_eq!((interval.number, interval.from_ms, interval.to_ms), (1, BEGIN_MS + 7_000, BEGIN_MS + 13_000));
    assert_eq!(interval.totals.billable_pixels, 6 * super::super::PIXELS_PER_SECOND);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive(u8),
    Publish(u8),
    Drop(u8),
    Segment,
    Stall(u16),
    Update(bool),
    Resize(u16),
    Fault,
    Bytes(u16),
    Busy(u16),
    Close,
    /// The engine is replaced; what was counted since the last interval is lost.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Arrive),
        4 => (0..Kind::ALL.len() as u8).prop_map(Step::Publish),
        2 => (0..Place::ALL.len() as u8).prop_map(Step::Drop),
        3 => Just(Step::Segment),
        3 => any::<u16>().prop_map(Step::Stall),
        1 => any::<bool>().prop_map(Step::Update),
        1 => any::<u16>().prop_map(Step::Resize),
        1 => Just(Step::Fault),
        2 => any::<u16>().prop_map(Step::Bytes),
        2 => any::<u16>().prop_map(Step::Busy),
        2 => Just(Step::Close),
        1 => Just(Step::Kill),
    ]
}

/// The sum that the intervals must come to, counted by other means.
#[derive(Default)]
struct Sum {
    frames_in: u64,
    pixels_in: u64,
    out: [u64; Kind::ALL.len()],
    dropped: [u64; Place::ALL.len()],
    bytes: u64,
    busy: u64,
    gpu: u64,
    applied: u64,
    refused: u64,
    faults: u64,
    segments: u64,
}

impl Sum {
    fn take(&mut self, step: Step, pixels: u64) {
        match step {
            Step::Arrive(count) => {
                self.frames_in += u64::from(count);
                self.pixels_in += u64::from(count) * pixels;
            }
            Step::Publish(kind) => self.out[usize::from(kind)] += 1,
            Step::Drop(place) => self.dropped[usize::from(place)] += 2,
            Step::Segment => self.segments += 1,
            Step::Update(true) => self.applied += 1,
            Step::Update(false) => self.refused += 1,
            Step::Fault => self.faults += 1,
            Step::Bytes(count) => self.bytes += u64::from(count),
            Step::Busy(micros) => {
                self.busy += u64::from(micros);
                self.gpu += u64::from(micros) / 2;
            }
            Step::Stall(_) | Step::Resize(_) | Step::Close | Step::Kill => {}
        }
    }

    fn check(&self, have: &Totals) {
        assert_eq!(have.frames_in, self.frames_in);
        assert_eq!(have.pixels_in, self.pixels_in);
        for kind in Kind::ALL {
            assert_eq!(have.frames_out.get(kind.label()).copied().unwrap_or(0), self.out[kind as usize]);
        }
        for place in Place::ALL {
            assert_eq!(have.lost_at(place), self.dropped[place as usize]);
        }
        assert_eq!(have.pixels_out, self.out.iter().sum::<u64>() * 512 * 512);
        assert_eq!((have.bytes_in, have.bytes_out), (self.bytes, 2 * self.bytes));
        assert_eq!((have.model_busy_us, have.gpu_busy_us), (self.busy, self.gpu));
        assert_eq!((have.updates_applied, have.updates_refused), (self.applied, self.refused));
        assert_eq!((have.faults, have.segments_in), (self.faults, self.segments));
    }
}

proptest! {
    #[test]
    fn intervals_sum_to_the_stream(steps in proptest::collection::vec(step(), 0..300)) {
        let start = Instant::now();
        let mut elapsed = Duration::ZERO;
        let mut meter = meter(start, BEGIN_MS, first());
        let mut debit = Debit::new(FIVE, BEGIN_MS as i64 * 1_000_000);
        let (mut whole, mut sum, mut running) = (Totals::default(), Sum::default(), Vec::new());
        let (mut billed, mut billed_open) = (0, 0);
        let mut pixels = 0;
        let mut ends = vec![BEGIN_MS];
        let mut carry = first();
        let mut restarts = 0;
        for step in steps.into_iter().chain([Step::Close]) {
            let now = start + elapsed;
            match step {
                Step::Arrive(count) => (0..count).for_each(|_| meter.arrived()),
                Step::Publish(kind) => meter.published(&frame(Kind::ALL[usize::from(kind)], now, Duration::ZERO)),
                Step::Drop(place) => meter.dropped(Place::ALL[usize::from(place)], 2, now),
                Step::Segment => {
                    meter.segment_in(now);
                    billed_open += debit.segment(BEGIN_MS as i64 * 1_000_000 + elapsed.as_nanos() as i64).unwrap_or(0);
                }
                Step::Stall(ms) => elapsed += Duration::from_millis(ms.into()),
                Step::Update(applied) => meter.updated(applied),
                Step::Resize(width) => {
                    meter.set_input_size(Size::new(width.into(), 10));
                    pixels = u64::from(width) * 10;
                }
                Step::Fault => meter.fault("model", "no"),
                Step::Bytes(count) => {
                    meter.received(count.into());
                    meter.sent(2 * u64::from(count));
                }
                Step::Busy(micros) => {
                    meter.busy(Duration::from_micros(micros.into()));
                    meter.gpu_busy(Duration::from_micros(u64::from(micros) / 2));
                }
                Step::Close => {
                    let interval = meter.close(now, Facts { restarts, ..Facts::default() });
                    prop_assert_eq!(interval.number as usize, ends.len() - 1);
                    prop_assert_eq!(Some(&interval.from_ms), ends.last());
                    ends.push(interval.to_ms);
                    carry = interval.carry();
                    whole += &interval.totals;
                    running.drain(..).for_each(|(step, pixels)| sum.take(step, pixels));
                    billed += std::mem::take(&mut billed_open);
                }
                Step::Kill => {
                    restarts += 1;
                    meter = self::meter(now, BEGIN_MS + elapsed.as_millis() as u64, carry);
                    debit = Debit::new(FIVE, carry.billed_until_ns);
                    (billed_open, pixels) = (0, 0);
                    running.clear();
                }
            }
            running.push((step, pixels));
        }
        sum.check(&whole);
        prop_assert_eq!(whole.billable_pixels, billed);
        prop_assert_eq!(ends.last().copied(), Some(BEGIN_MS + elapsed.as_millis() as u64));
        // Nothing of the time that was killed is lost to the bill.
        let until = (carry.billed_until_ns / 1_000_000) as u64 - BEGIN_MS;
        let due = u128::from(until) * u128::from(super::super::PIXELS_PER_SECOND) / 1000;
        prop_assert!(due.abs_diff(whole.billable_pixels.into()) < 30_000, "{} {}", due, whole.billable_pixels);
    }
}
