//! What one frame of 512×512 costs: each part of the model thread by itself, and the whole path. `scripts/setup` fetches the
//! runtime that `invert` needs. Run with `cargo bench --bench frames`, the whole path alone with
//! `cargo bench --bench frames -- session`.

mod session;

use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::Bencher;
use weir::frame::{FramePool, PixelFormat, Size, Stamps, Timestamp, VideoFrame};
use weir::inference::{Config, Runtime, Session};
use weir::metering::ledger::{Body, Stream, Tip};
use weir::metering::{Carry, Clock, Facts, FrameRecord, Kind, Meter, Metrics, Tracer};
use weir::pipeline::overlay::Overlay;
use weir::pipeline::{FrameProcessor, LoadContext, NoFetch, Params, invert, registry};

const SIZE: Size = Size::new(512, 512);

fn main() {
    divan::main();
}

fn take(pool: &FramePool, format: PixelFormat) -> VideoFrame {
    VideoFrame::take(pool, SIZE, format, Timestamp(0)).expect("a buffer")
}

fn load(pipeline: &str, threads: u32, pool: &FramePool) -> Box<dyn FrameProcessor> {
    let pipeline = registry::find(pipeline).expect("registered");
    let checked = pipeline.check(&Params::new()).expect("defaults are good");
    let inference = Config { threads, ..Config::default() };
    let cx = LoadContext {
        inference: &inference,
        models: ".".into(),
        model: None,
        pool: pool.clone(),
        progress: &|_| (),
        fetch: &NoFetch,
    };
    pipeline.load(&cx, &checked).unwrap_or_else(|error| panic!("{error}"))
}

fn process(bencher: Bencher<'_, '_>, pipeline: &str, threads: u32) {
    let pool = FramePool::new(2);
    let mut processor = load(pipeline, threads, &pool);
    // Each result is the next input, as buffers go round in a running stream.
    let mut frame = Some(take(&pool, processor.format()));
    bencher.bench_local(|| {
        frame = frame.take().map(|frame| processor.process(frame).expect("processed"));
    });
}

#[divan::bench]
fn noop(bencher: Bencher<'_, '_>) {
    process(bencher, "noop", 0);
}

#[divan::bench(args = [1, 2])]
fn invert(bencher: Bencher<'_, '_>, threads: u32) {
    process(bencher, "invert", threads);
}

#[divan::bench(args = [PixelFormat::I420, PixelFormat::Rgb24])]
fn overlay(bencher: Bencher<'_, '_>, format: PixelFormat) {
    let pool = FramePool::new(1);
    let mut frame = take(&pool, format);
    let mut overlay = Overlay::new(SIZE);
    bencher.bench_local(|| overlay.draw(&mut frame, "Loading invert…", Duration::from_millis(3_400)));
}

#[divan::bench]
fn overlay_with_new_text(bencher: Bencher<'_, '_>) {
    let pool = FramePool::new(1);
    let mut frame = take(&pool, PixelFormat::I420);
    let mut overlay = Overlay::new(SIZE);
    let mut second = 0;
    bencher.bench_local(|| {
        second += 1;
        overlay.draw(&mut frame, "Loading invert…", Duration::from_secs(second));
    });
}

#[divan::bench]
fn pool(bencher: Bencher<'_, '_>) {
    let pool = FramePool::new(1);
    bencher.bench_local(|| take(&pool, PixelFormat::Rgb24));
}

/// All that measuring does for one frame: its counts, its record and its histograms.
#[divan::bench(args = [false, true])]
fn measure(bencher: Bencher<'_, '_>, traced: bool) {
    let now = Instant::now();
    let (tracer, metrics) = (Arc::new(Tracer::new()), Metrics::new().expect("metrics"));
    let clock = Clock { at: now, unix_ns: 0 };
    let mut trace = traced.then(|| tracer.listen(4096, clock).expect("room"));
    let carry = Carry { number: 0, from_ms: 0, billed_until_ns: 0 };
    let meter = Meter::new(1, SIZE, clock, Duration::from_secs(5), carry, tracer);
    let at = |ms| Some(now + Duration::from_millis(ms));
    let stamps = Stamps {
        received: at(0),
        decoded: at(2),
        started: at(3),
        done: at(13),
        encoded: at(17),
        published: at(18),
        ..Stamps::default()
    };
    let mut seq = 0;
    bencher.bench_local(|| {
        seq += 1;
        meter.arrived();
        meter.busy(Duration::from_millis(10));
        meter.sent(10_000);
        let (kind, pts) = (Kind::Processed, Timestamp(seq as i64 * 3000));
        let record =
            FrameRecord { session: 1, seq, pts, stamps, kind, pixels: SIZE.pixels(), bytes: 10_000, model: "noop" };
        metrics.published(&record);
        meter.published(&record);
        if seq % 4096 == 0
            && let Some(trace) = &mut trace
        {
            divan::black_box(trace.take());
        }
    });
}

/// What a run costs beside the graph: one over eight pixels, fed, held and fetched.
#[divan::bench]
fn run(bencher: Bencher<'_, '_>) {
    let config = Config { threads: 1, ..Config::default() };
    let runtime = Runtime::load(&config).unwrap_or_else(|error| panic!("{error}"));
    let model = invert::graph(Size::new(4, 2)).and_then(|model| model.to_bytes()).expect("a graph");
    let mut session = Session::from_bytes(runtime, &config, &model).expect("a session");
    let frame = session.input::<u8>("frame", &[1, 2, 4, 3]).expect("an input");
    let strength = session.input::<f32>("strength", &[1]).expect("an input");
    let out = session.output::<u8>("frame_out", &[1, 2, 4, 3]).expect("an output");
    session.hold(&strength, &[1.0]).expect("held");
    let (from, mut to) = ([7_u8; 24], [0_u8; 24]);
    bencher.bench_local(|| session.run(&[frame.feed(&from)], &mut [out.fetch(&mut to)]).expect("runs"));
}

/// What ends an interval, once in five seconds: its figures, its JSON, and its line in the ledger's chain.
#[divan::bench]
fn interval(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    let carry = Carry { number: 0, from_ms: 0, billed_until_ns: 0 };
    let clock = Clock { at: now, unix_ns: 0 };
    let meter = Meter::new(1, SIZE, clock, Duration::from_secs(5), carry, Arc::new(Tracer::new()));
    let stamps = Stamps { received: Some(now), published: Some(now + Duration::from_millis(9)), ..Stamps::default() };
    let (kind, pts) = (Kind::Processed, Timestamp(0));
    let record = FrameRecord { session: 1, seq: 0, pts, stamps, kind, pixels: 1, bytes: 1, model: "noop" };
    let mut tip = Tip::default();
    bencher.bench_local(|| {
        meter.published(&record);
        let interval = Box::new(meter.close(now, Facts { model: "noop", params_hash: "0123", ..Facts::default() }));
        let (line, next) = tip.line(0, Body::Interval { stream: Stream::default(), interval, gpu: None });
        tip = next;
        line
    });
}
