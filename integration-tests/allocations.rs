//! What measuring a frame costs in memory: nothing. A program of its own, because it counts what its allocator is asked for.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use weir::frame::{Fingerprint, Size, Stamps, Timestamp};
use weir::metering::{Carry, Clock, FrameRecord, Kind, Meter, Metrics, Place, Queue, Tracer};

const FRAMES: u64 = 2_000;

#[test]
fn the_record_of_a_frame_allocates_nothing() {
    let now = Instant::now();
    let clock = Clock { at: now, unix_ns: 0 };
    let (metrics, tracer) = (Metrics::new().unwrap(), Arc::new(Tracer::new()));
    let carry = Carry { number: 0, from_ms: 0, billed_until_ns: 0 };
    let meter = Meter::new(1, Size::new(512, 512), clock, Duration::from_secs(5), carry, tracer.clone());
    let stamps = |number: u64| {
        let at = |ms| Some(now + Duration::from_millis(33 * number + ms));
        let [params, graph] = [1, 2].map(|byte| Some(Fingerprint([byte; 16])));
        Stamps {
            received: at(0),
            decoded: at(2 + number % 7),
            started: at(9),
            done: at(13 + number % 5),
            encoded: at(20),
            published: at(21 + number % 90),
            bytes_in: 1000,
            pixels_in: 512 * 512,
            params,
            graph,
            gpu: Some(Duration::from_millis(3)),
        }
    };
    // Whatever happens to a frame and to the segments around it, from the first one on.
    let frame = |number: u64| {
        let stamps = stamps(number);
        meter.received(1000);
        metrics.bytes_in.inc_by(1000);
        meter.arrived();
        metrics.decoded.inc();
        Queue::ALL.into_iter().for_each(|queue| metrics.passed(queue));
        meter.busy(Duration::from_millis(4));
        meter.gpu_busy(Duration::from_millis(3));
        meter.sent(2000);
        let (kind, pts) = (Kind::ALL[number as usize % Kind::ALL.len()], Timestamp(number as i64 * 3000));
        let record = FrameRecord { session: 1, seq: number, pts, stamps, kind, pixels: 1, bytes: 2000, model: "noop" };
        metrics.published(&record);
        meter.published(&record);
        let place = Place::ALL[number as usize % Place::ALL.len()];
        metrics.drops_at(place, 1);
        meter.dropped(place, 1, now);
        if number.is_multiple_of(60) {
            meter.segment_in(now);
            meter.segment_out();
        }
    };
    let info = measure(|| (0..FRAMES).for_each(frame));
    assert_eq!((info.count_total, info.bytes_total), (0, 0), "{info:?}");

    // Nor does one that is traced; what is kept has its place from the beginning.
    let mut trace = tracer.listen(4096, clock).unwrap();
    let info = measure(|| (0..FRAMES).for_each(frame));
    assert_eq!(info.count_total, 0, "{info:?}");
    assert!(trace.take().0.len() > 100_000, "frames were traced");

    // The counter counts: a text on the way would have shown.
    assert_eq!(measure(|| drop(std::hint::black_box(FRAMES.to_string()))).count_total, 1);
    assert_eq!(meter.totals().frames_in, 2 * FRAMES);
}
