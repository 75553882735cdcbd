//! Graphs through the real ONNX Runtime. `scripts/setup` fetches the library; without it these tests fail.

mod carried;
mod operators;

use std::sync::Mutex;

use proptest::prelude::*;
use weir::frame::{FrameBuf, FramePool, PixelFormat, Size, Stamps, Timestamp, VideoFrame};
use weir::inference::{Config, InferenceError, Provider, Runtime, Session};
use weir::pipeline::{Applied, Checked, FrameProcessor, LoadContext, NoFetch, Params, PipelineError, registry};

fn runtime() -> &'static Runtime {
    Runtime::load(&Config::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn params(json: serde_json::Value) -> Params {
    json.as_object().expect("an object").clone()
}

fn check(pipeline: &str, json: serde_json::Value) -> Checked {
    registry::find(pipeline).expect("registered").check(&params(json)).expect("good parameters")
}

fn load(pipeline: &str, checked: &Checked, pool: &FramePool) -> Box<dyn FrameProcessor> {
    let steps = Mutex::new(Vec::new());
    let progress = |step: &str| steps.lock().expect("steps").push(step.to_owned());
    let inference = Config::default();
    let cx = LoadContext {
        inference: &inference,
        models: "/nowhere".into(),
        model: None,
        pool: pool.clone(),
        progress: &progress,
        fetch: &NoFetch,
    };
    let loaded = registry::find(pipeline).expect("registered").load(&cx, checked);
    loaded.unwrap_or_else(|error| panic!("{error}"))
}

fn frame(size: Size, format: PixelFormat, byte: impl Fn(usize) -> u8) -> VideoFrame {
    VideoFrame {
        seq: 41,
        pts: Timestamp(90_000),
        size,
        format,
        color: Default::default(),
        stamps: Stamps { received: Some(std::time::Instant::now()), ..Stamps::default() },
        data: FrameBuf::owned((0..format.bytes(size)).map(byte).collect()),
    }
}

/// The formula of `invert`, byte by byte.
fn inverted(x: u8, strength: f32) -> u8 {
    let x = f32::from(x);
    (x + (255.0 - 2.0 * x) * strength).round_ties_even() as u8
}

#[test]
fn invert_is_its_formula_exactly() {
    let pool = FramePool::new(2);
    let checked = check("invert", serde_json::json!({"width": 448, "height": 384}));
    let mut processor = load("invert", &checked, &pool);
    assert_eq!(processor.format(), PixelFormat::Rgb24);
    for strength in [0.0, 0.1, 0.25, 1.0 / 3.0, 0.5, 0.7, 0.999, 1.0] {
        let next = check("invert", serde_json::json!({"width": 448, "height": 384, "strength": strength}));
        assert_eq!(processor.apply(&next).expect("applies"), Applied::Now);
        let input = frame(checked.size, PixelFormat::Rgb24, |i| (i * 7 + i / 251) as u8);
        let stamps = input.stamps;
        let given = input.data.to_vec();
        let out = processor.process(input).expect("processed");
        let expected: Vec<u8> = given.iter().map(|&x| inverted(x, strength as f32)).collect();
        assert!(out.data[..] == expected[..], "strength {strength}");
        assert_eq!((out.seq, out.pts, out.size), (41, Timestamp(90_000), checked.size));
        assert_eq!(out.stamps.received, stamps.received);
        // The formula with another strength is another picture, so equality above says something.
        let wrong: Vec<u8> = given.iter().map(|&x| inverted(x, strength as f32 + 0.01)).collect();
        assert!(out.data[..] != wrong[..], "strength {strength}");
    }
}

#[test]
fn invert_asks_for_a_reload_for_another_size_and_refuses_foreign_frames() {
    let pool = FramePool::new(1);
    let checked = check("invert", serde_json::json!({}));
    let mut processor = load("invert", &checked, &pool);
    let larger = check("invert", serde_json::json!({"width": 576}));
    assert_eq!(processor.apply(&larger).expect("judged"), Applied::NeedsReload);
    for foreign in
        [frame(Size::new(576, 512), PixelFormat::Rgb24, |_| 0), frame(Size::new(512, 512), PixelFormat::I420, |_| 0)]
    {
        assert!(matches!(processor.process(foreign), Err(PipelineError::Frame(_))));
    }
    let good = || frame(checked.size, PixelFormat::Rgb24, |_| 0);
    let held = processor.process(good()).expect("still usable");
    let error = processor.process(good()).expect_err("the only buffer is out");
    assert!(error.to_string().contains("in use"), "{error}");
    drop(held);
    processor.process(good()).expect("the buffer is back");
}

#[test]
fn noop_hands_the_same_buffer_on() {
    let pool = FramePool::new(1);
    let checked = check("noop", serde_json::json!({"anything": "goes"}));
    let mut processor = load("noop", &checked, &pool);
    let input = frame(checked.size, processor.format(), |i| i as u8);
    let address = input.data.as_ptr();
    let out = processor.process(input).expect("processed");
    assert_eq!(out.data.as_ptr(), address);
    let other = check("noop", serde_json::json!({"width": 768}));
    assert_eq!(processor.apply(&other).expect("applies"), Applied::Now);
}

#[test]
fn delay_fails_when_asked_and_starts_over_on_reset() {
    let pool = FramePool::new(1);
    let checked = check("delay", serde_json::json!({"frame_ms": 1, "load_ms": 0, "fail_every": 3}));
    let mut processor = load("delay", &checked, &pool);
    let run = |processor: &mut Box<dyn FrameProcessor>| {
        (0..6).map(|_| processor.process(frame(checked.size, PixelFormat::I420, |_| 0)).is_ok()).collect::<Vec<_>>()
    };
    assert_eq!(run(&mut processor), [true, true, false, true, true, false]);
    processor.process(frame(checked.size, PixelFormat::I420, |_| 0)).expect("the seventh");
    processor.reset();
    assert_eq!(run(&mut processor), [true, true, false, true, true, false]);
    let slower = check("delay", serde_json::json!({"load_ms": 5}));
    assert_eq!(processor.apply(&slower).expect("judged"), Applied::NeedsReload);
}

#[test]
fn a_provider_that_is_not_there_is_an_error_that_names_it() {
    let model = weir::pipeline::invert::graph(Size::new(64, 64)).expect("built").to_bytes().expect("written");
    for provider in [Provider::Cuda, Provider::Tensorrt] {
        let config = Config { provider, ..Config::default() };
        let error = Session::from_bytes(runtime(), &config, &model).err().expect("the fetched library has no GPU");
        assert!(matches!(&error, InferenceError::Missing { provider: named, .. } if *named == provider), "{error}");
        let text = error.to_string();
        assert!(text.contains("libonnxruntime_providers_cuda.so is not beside it; use the cuda image"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    Session::from_bytes(runtime(), &Config::default(), &model).expect("the CPU goes on working");
}

#[test]
fn ports_and_buffers_are_checked() {
    let model = weir::pipeline::invert::graph(Size::new(4, 2)).expect("built").to_bytes().expect("written");
    let mut session = Session::from_bytes(runtime(), &Config::default(), &model).expect("loads");
    let names: Vec<_> = session.inputs().map(|port| (port.name.clone(), port.shape.clone())).collect();
    assert_eq!(names, [("frame".to_owned(), vec![1, 2, 4, 3]), ("strength".to_owned(), vec![1])]);
    for (error, part) in [
        (session.input::<u8>("picture", &[1, 2, 4, 3]).expect_err("no such"), "it has frame, strength"),
        (session.input::<f32>("frame", &[1, 2, 4, 3]).expect_err("type"), "Uint8"),
        (session.input::<u8>("frame", &[1, 4, 2, 3]).expect_err("shape"), "[1, 2, 4, 3]"),
        (session.output::<u8>("frame", &[1, 2, 4, 3]).expect_err("an input"), "it has frame_out"),
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let frame = session.input::<u8>("frame", &[1, 2, 4, 3]).expect("there");
    let strength = session.input::<f32>("strength", &[1]).expect("there");
    let out = session.output::<u8>("frame_out", &[1, 2, 4, 3]).expect("there");
    let (given, mut got) = ([10_u8; 24], [0_u8; 24]);
    let error = session.run(&[frame.feed(&given)], &mut [out.fetch(&mut got)]).expect_err("no strength");
    assert!(error.to_string().contains("strength"), "{error}");
    session.hold(&strength, &[1.0]).expect("held");
    session.run(&[frame.feed(&given)], &mut [out.fetch(&mut got)]).expect("runs");
    assert_eq!(got, [245; 24]);
    session.run(&[frame.feed(&given), strength.feed(&[0.0])], &mut [out.fetch(&mut got)]).expect("fed over held");
    assert_eq!(got, [10; 24]);
    assert!(session.hold(&strength, &[1.0, 2.0]).is_err());
    assert!(session.run(&[frame.feed(&given[..23])], &mut [out.fetch(&mut got)]).is_err());
    assert!(session.run(&[frame.feed(&given)], &mut [out.fetch(&mut got[..23])]).is_err());
    assert!(session.run(&[frame.feed(&given), frame.feed(&given)], &mut [out.fetch(&mut got)]).is_err());
    assert!(session.run(&[frame.feed(&given)], &mut []).is_err());
    let mut other = Session::from_bytes(runtime(), &Config::default(), &model).expect("loads");
    let foreign = other.input::<u8>("frame", &[1, 2, 4, 3]).expect("there");
    assert!(session.run(&[foreign.feed(&given)], &mut [out.fetch(&mut got)]).is_err());
    session.run(&[frame.feed(&given)], &mut [out.fetch(&mut got)]).expect("still usable");
    assert_eq!(got, [245; 24]);
}

#[test]
fn a_broken_graph_is_an_error() {
    let error = Session::from_bytes(runtime(), &Config::default(), b"no graph").err().expect("refused");
    assert!(matches!(error, InferenceError::Model(_)), "{error}");
    let error = Session::from_file(runtime(), &Config::default(), "/nowhere.onnx".as_ref()).err().expect("refused");
    assert!(matches!(error, InferenceError::Model(_)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn invert_agrees_at_any_strength(strength in 0.0_f32..=1.0, bytes in proptest::collection::vec(any::<u8>(), 24)) {
        let model = weir::pipeline::invert::graph(Size::new(4, 2)).expect("built").to_bytes().expect("written");
        let mut session = Session::from_bytes(runtime(), &Config::default(), &model).expect("loads");
        let frame = session.input::<u8>("frame", &[1, 2, 4, 3]).expect("there");
        let input = session.input::<f32>("strength", &[1]).expect("there");
        let out = session.output::<u8>("frame_out", &[1, 2, 4, 3]).expect("there");
        let mut got = [0_u8; 24];
        session.run(&[frame.feed(&bytes), input.feed(&[strength])], &mut [out.fetch(&mut got)]).expect("runs");
        let expected: Vec<u8> = bytes.iter().map(|&x| inverted(x, strength)).collect();
        prop_assert_eq!(&got[..], &expected[..]);
    }
}
