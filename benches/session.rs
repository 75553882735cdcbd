//! What the whole path adds to a model's own time: a `weir serve` of its own, fed one frame at a time.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::Bencher;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use weir::cli::rig::control::Control;
use weir::cli::rig::lab::{Channel, Lab};
use weir::cli::rig::ledger::Ledger;
use weir::cli::rig::reader::{Reader, Side, Taps};
use weir::cli::rig::runner::{Runner, RunnerConfig};
use weir::frame::{FramePool, Timestamp};
use weir::media::{Chunk, Config, Output, OutputConfig, Pattern, SegmentSink};
use weir::trickle::{Begin, Publisher, SegmentWriter};

use super::SIZE;

const FPS: f64 = 30.0;
/// Time between two looks for the output, and the longest wait for it.
const LOOK: Duration = Duration::from_micros(20);
const PATIENCE: Duration = Duration::from_secs(5);

/// A frame's bytes as they go into the channel.
enum Piece {
    Begin,
    Bytes(Bytes),
    End,
}

struct Pieces(Vec<Piece>);

impl SegmentSink for Pieces {
    fn begin(&mut self, _: Timestamp) {
        self.0.push(Piece::Begin);
    }

    fn bytes(&mut self, bytes: Bytes, _: Chunk) {
        self.0.push(Piece::Bytes(bytes));
    }

    fn end(&mut self) {
        self.0.push(Piece::End);
    }
}

/// A stream through a runner. Fields are dropped in their order: the runner before the runtime that reads its log.
struct Path {
    publisher: Publisher,
    segment: Option<SegmentWriter>,
    output: Reader,
    _runner: Option<(Control, Runner)>,
    _lab: Lab,
    ledger: Arc<Ledger>,
    pattern: Pattern,
    encoder: Output,
    pool: FramePool,
    number: u32,
    runtime: Runtime,
}

impl Path {
    /// Through a runner with `pipeline`, or through the trickle server alone without one.
    fn start(pipeline: Option<&str>, params: Value) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let params = params.as_object().expect("an object").clone();
        let config = RunnerConfig {
            program: env!("CARGO_BIN_EXE_weir").into(),
            pipeline: pipeline.unwrap_or("noop").into(),
            params,
            status: Duration::from_secs(5),
            load_wait: Duration::from_secs(30),
            show_log: false,
            flags: Vec::new(),
        };
        let ledger = Arc::new(Ledger::new());
        let (lab, runner, output, publisher) = runtime.block_on(async {
            let lab = Lab::start().await.expect("a trickle server");
            let channels = lab.open();
            let (client, url) = (lab.client(), |which| channels.url(which));
            let mut runner = None;
            if pipeline.is_some() {
                let started = Runner::start(&config).await.unwrap_or_else(|error| panic!("{error}"));
                started.order(&channels, &config.pipeline, &config.params).await.expect("a stream");
                runner = Some((Control::open(client, &url(Channel::Control)).await.expect("a channel"), started));
            }
            let taps = Taps { ledger: Some((ledger.clone(), Side::Output)), ..Taps::default() };
            let read = if pipeline.is_some() { Channel::Output } else { Channel::Input };
            let output = Reader::open(client, &url(read), taps).expect("a channel");
            let publisher = Publisher::open(client, &url(Channel::Input), "video/mp2t", Begin::Zero).await;
            (lab, runner, output, publisher.expect("a channel"))
        });
        let media = Config::default();
        let mut encoder = Output::new(OutputConfig { size: SIZE, fps_hint: FPS, media }).expect("an encoder");
        encoder.announce(true, None);
        let mut path = Self {
            publisher,
            segment: None,
            output,
            _runner: runner,
            _lab: lab,
            ledger,
            pattern: Pattern::new(SIZE, FPS).expect("a pattern"),
            encoder,
            pool: FramePool::new(2),
            number: 0,
            runtime,
        };
        // The first frames open connections, segments and codecs.
        for _ in 0..30 {
            let frame = path.encode();
            path.pass(frame);
        }
        path
    }

    /// The next frame, encoded, and its time.
    fn encode(&mut self) -> (Vec<Piece>, i64) {
        let frame = self.pattern.frame(self.number, &self.pool).expect("a buffer");
        self.number += 1;
        let mut pieces = Pieces(Vec::new());
        self.encoder.video(&frame, &mut pieces).expect("encoded");
        (pieces.0, frame.pts.0)
    }

    /// Sends a frame and waits for the last byte of its output.
    fn pass(&mut self, (pieces, pts): (Vec<Piece>, i64)) {
        let Self { publisher, segment, runtime, .. } = self;
        runtime.block_on(async {
            for piece in pieces {
                match piece {
                    Piece::Begin => *segment = Some(publisher.begin().await.expect("a segment")),
                    Piece::Bytes(bytes) => match segment {
                        Some(open) => open.write(bytes).await.expect("written"),
                        None => panic!("bytes outside of a segment"),
                    },
                    Piece::End => {
                        if let Some(open) = segment.take() {
                            open.finish().await.expect("delivered");
                        }
                    }
                }
            }
        });
        let sent = Instant::now();
        while self.ledger.last_received().is_none_or(|last| last < pts) {
            assert!(!self.output.ended() && sent.elapsed() < PATIENCE, "frame {} did not come out", self.number);
            std::thread::sleep(LOOK);
        }
    }
}

fn frames(bencher: Bencher<'_, '_>, pipeline: Option<&str>, params: Value) {
    let path = RefCell::new(Path::start(pipeline, params));
    bencher.with_inputs(|| path.borrow_mut().encode()).bench_local_values(|frame| path.borrow_mut().pass(frame));
}

/// The same frames read back from the channel they went into, without a runner: what source, server and reader take.
#[divan::bench(sample_count = 200, sample_size = 1)]
fn floor(bencher: Bencher<'_, '_>) {
    frames(bencher, None, json!({}));
}

/// A model of 20 ms: what is above 20 ms and the floor is our own.
#[divan::bench(sample_count = 200, sample_size = 1)]
fn model_of_20_ms(bencher: Bencher<'_, '_>) {
    frames(bencher, Some("delay"), json!({"frame_ms": 20, "load_ms": 0}));
}

/// No model at all.
#[divan::bench(sample_count = 200, sample_size = 1)]
fn model_of_none(bencher: Bencher<'_, '_>) {
    frames(bencher, Some("noop"), json!({}));
}
