//! The meter of one stream in one engine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram as Hdr;

use super::debit::Debit;
use super::interval::{Carry, FaultNote, Interval, Totals};
use super::recent::{Recent, Since};
use super::record::{FrameRecord, Kind, Percentiles, Place, Stage};
use super::trace::{Mark, Tracer};
use crate::frame::{Fingerprint, Size};

/// Longest message of a fault that is kept, in characters.
const MESSAGE: usize = 200;

/// Wall-clock time that does not step: one reading of it, and the monotonic clock from there on.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// A moment.
    pub at: Instant,
    /// What the wall clock said then, in Unix nanoseconds.
    pub unix_ns: i64,
}

impl Clock {
    /// Unix nanoseconds at `now`.
    pub fn ns(&self, now: Instant) -> i64 {
        let since = now.saturating_duration_since(self.at).as_nanos().min(i64::MAX as u128) as i64;
        self.unix_ns.saturating_add(since)
    }

    /// Unix milliseconds at `now`.
    pub fn ms(&self, now: Instant) -> u64 {
        (self.ns(now) / 1_000_000).max(0) as u64
    }
}

/// What an interval says besides its counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The model or pipeline.
    pub model: &'a str,
    /// Hash of the parameters in force.
    pub params_hash: &'a str,
    /// How often the engine had been replaced.
    pub restarts: u32,
    /// True when the stream is over.
    pub last: bool,
}

#[derive(Default)]
struct Counts {
    frames_in: AtomicU64,
    out: [AtomicU64; Kind::ALL.len()],
    dropped: [AtomicU64; Place::ALL.len()],
    pixels_in: AtomicU64,
    pixels_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    segments_in: AtomicU64,
    segments_out: AtomicU64,
    model_busy_us: AtomicU64,
    gpu_busy_us: AtomicU64,
    billable_pixels: AtomicU64,
    debits: AtomicU64,
    updates_applied: AtomicU64,
    updates_refused: AtomicU64,
    faults: AtomicU64,
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// 1 µs to 60 s at two digits. A stream of a day at 60 fps has 5 million frames: the counts fit 32 bits.
fn hdr() -> Hdr<u32> {
    // These bounds are valid constants.
    #[expect(clippy::expect_used, reason = "constant bounds")]
    let mut histogram = Hdr::new_with_bounds(1, 60_000_000, 2).expect("bounds are valid");
    histogram.auto(false);
    histogram
}

/// Times of published frames by stage, in microseconds, and the last frames one by one.
struct Latency {
    recent: Recent,
    /// Of the interval that runs.
    running: [Hdr<u32>; Stage::ALL.len()],
    /// Of the whole stream, so that nobody who looks at it has to add anything up.
    whole: [Hdr<u32>; Stage::ALL.len()],
}

/// What changes seldom.
struct Slow {
    debit: Debit,
    fault: Option<FaultNote>,
    decoder: String,
    encoder: String,
    graph: Option<Fingerprint>,
}

/// Where the interval that runs began.
struct Open {
    number: u64,
    from_ms: u64,
    before: Totals,
}

/// The meter of one stream in one engine. Shared by every thread that touches a frame: counts are atomics, so that an
/// interval is the difference of two readings, and intervals sum to the stream whatever happens between them.
pub struct Meter {
    session: u64,
    clock: Clock,
    counts: Counts,
    /// Pixels of one picture of the input.
    input_size: [AtomicU32; 2],
    output_size: Size,
    revision: AtomicU32,
    latency: Mutex<Latency>,
    slow: Mutex<Slow>,
    open: Mutex<Open>,
    tracer: Arc<Tracer>,
    off: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Meter {
    /// The meter of a stream that is billed every `interval`, and goes on after `carry`.
    pub fn new(
        session: u64,
        output_size: Size,
        clock: Clock,
        interval: Duration,
        carry: Carry,
        tracer: Arc<Tracer>,
    ) -> Self {
        Self {
            session,
            clock,
            counts: Counts::default(),
            input_size: [AtomicU32::new(0), AtomicU32::new(0)],
            output_size,
            revision: AtomicU32::new(0),
            latency: Mutex::new(Latency {
                recent: Recent::new(),
                running: Stage::ALL.map(|_| hdr()),
                whole: Stage::ALL.map(|_| hdr()),
            }),
            slow: Mutex::new(Slow {
                debit: Debit::new(interval, carry.billed_until_ns),
                fault: None,
                decoder: String::new(),
                encoder: String::new(),
                graph: None,
            }),
            open: Mutex::new(Open { number: carry.number, from_ms: carry.from_ms, before: Totals::default() }),
            tracer,
            off: false,
        }
    }

    /// The same, which counts and records nothing of frames: what measuring costs is the difference.
    pub fn off(self) -> Self {
        Self { off: true, ..self }
    }

    /// A picture was found in the input.
    pub fn arrived(&self) {
        if self.off {
            return;
        }
        add(&self.counts.frames_in, 1);
        add(&self.counts.pixels_in, self.input_size().pixels());
    }

    /// `count` frames ended at `place`.
    pub fn dropped(&self, place: Place, count: u64, now: Instant) {
        if count == 0 || self.off {
            return;
        }
        add(&self.counts.dropped[place as usize], count);
        lock(&self.latency).recent.dropped(place, count, now);
        self.tracer.mark(|| Mark::Dropped { session: self.session, place, count, at: now });
    }

    /// A frame was handed to the output. Its bytes are counted by [`Self::sent`].
    pub fn published(&self, frame: &FrameRecord) {
        if self.off {
            return;
        }
        add(&self.counts.out[frame.kind as usize], 1);
        add(&self.counts.pixels_out, frame.pixels);
        let mut latency = lock(&self.latency);
        latency.recent.out(frame);
        for stage in Stage::ALL {
            if let Some(span) = stage.span(&frame.stamps) {
                let micros = (span.as_micros() as u64).max(1);
                latency.running[stage as usize].saturating_record(micros);
                latency.whole[stage as usize].saturating_record(micros);
            }
        }
        drop(latency);
        self.tracer.mark(|| Mark::Frame(*frame));
    }

    /// What happened to frames from the number `after` on, as far as it is kept; see [`Since::next`].
    pub fn recent(&self, after: u64) -> Since {
        lock(&self.latency).recent.since(after, &self.clock)
    }

    /// Bytes of input came.
    pub fn received(&self, bytes: u64) {
        add(&self.counts.bytes_in, bytes);
    }

    /// Bytes of output left.
    pub fn sent(&self, bytes: u64) {
        add(&self.counts.bytes_out, bytes);
    }

    /// An input segment began: what the network bills by.
    pub fn segment_in(&self, now: Instant) {
        add(&self.counts.segments_in, 1);
        let pixels = lock(&self.slow).debit.segment(self.clock.ns(now));
        if let Some(pixels) = pixels {
            add(&self.counts.billable_pixels, pixels);
            add(&self.counts.debits, 1);
        }
        self.tracer.mark(|| Mark::Segment { session: self.session, at: now });
    }

    /// An output segment ended whole.
    pub fn segment_out(&self) {
        add(&self.counts.segments_out, 1);
    }

    /// The model worked for that long on a frame.
    pub fn busy(&self, time: Duration) {
        add(&self.counts.model_busy_us, time.as_micros() as u64);
    }

    /// The GPU worked for that long on a frame.
    pub fn gpu_busy(&self, time: Duration) {
        add(&self.counts.gpu_busy_us, time.as_micros() as u64);
    }

    /// The model runs this graph from now on.
    pub fn set_graph(&self, graph: Option<Fingerprint>) {
        lock(&self.slow).graph = graph;
    }

    /// An update was put in force, or refused.
    pub fn updated(&self, applied: bool) {
        if applied {
            self.revision.fetch_add(1, Ordering::Relaxed);
            add(&self.counts.updates_applied, 1);
        } else {
            add(&self.counts.updates_refused, 1);
        }
    }

    /// Something went wrong.
    pub fn fault(&self, stage: &str, message: &str) {
        add(&self.counts.faults, 1);
        lock(&self.slow).fault = Some(FaultNote { stage: stage.to_owned(), message: without_addresses(message) });
    }

    /// The input's pictures have this size.
    pub fn set_input_size(&self, size: Size) {
        self.input_size[0].store(size.width, Ordering::Relaxed);
        self.input_size[1].store(size.height, Ordering::Relaxed);
    }

    /// FFmpeg's name of the decoder.
    pub fn set_decoder(&self, name: &str) {
        name.clone_into(&mut lock(&self.slow).decoder);
    }

    /// FFmpeg's name of the encoder.
    pub fn set_encoder(&self, name: &str) {
        name.clone_into(&mut lock(&self.slow).encoder);
    }

    /// FFmpeg's names of decoder and encoder, empty before there are any.
    pub fn codecs(&self) -> (String, String) {
        let slow = lock(&self.slow);
        (slow.decoder.clone(), slow.encoder.clone())
    }

    /// Counts the parameters in force, from 0 at the start.
    pub fn revision(&self) -> u32 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Size of the output's pictures.
    pub fn output_size(&self) -> Size {
        self.output_size
    }

    fn input_size(&self) -> Size {
        Size::new(self.input_size[0].load(Ordering::Relaxed), self.input_size[1].load(Ordering::Relaxed))
    }

    /// Everything counted so far in this engine.
    pub fn totals(&self) -> Totals {
        let counts = &self.counts;
        let named = |labels: &[&'static str], counters: &[AtomicU64]| -> BTreeMap<String, u64> {
            let pairs = labels.iter().zip(counters).map(|(label, counter)| ((*label).to_owned(), read(counter)));
            pairs.filter(|(_, count)| *count > 0).collect()
        };
        // What ends is read before what begins, so that a frame is never seen to end before it arrived.
        let frames_out = named(&Kind::ALL.map(Kind::label), &counts.out);
        let dropped = named(&Place::ALL.map(Place::label), &counts.dropped);
        Totals {
            frames_out,
            dropped,
            frames_in: read(&counts.frames_in),
            pixels_in: read(&counts.pixels_in),
            pixels_out: read(&counts.pixels_out),
            bytes_in: read(&counts.bytes_in),
            bytes_out: read(&counts.bytes_out),
            segments_in: read(&counts.segments_in),
            segments_out: read(&counts.segments_out),
            model_busy_us: read(&counts.model_busy_us),
            gpu_busy_us: read(&counts.gpu_busy_us),
            billable_pixels: read(&counts.billable_pixels),
            debits: read(&counts.debits),
            updates_applied: read(&counts.updates_applied),
            updates_refused: read(&counts.updates_refused),
            faults: read(&counts.faults),
        }
    }

    /// When the running interval began, in Unix milliseconds.
    pub fn open_since_ms(&self) -> u64 {
        lock(&self.open).from_ms
    }

    /// Ends the running interval at `now` and begins the next.
    pub fn close(&self, now: Instant, facts: Facts<'_>) -> Interval {
        let mut open = lock(&self.open);
        let totals = self.totals();
        let ended = (totals.out() + totals.lost()) as i64;
        let in_flight = totals.frames_in as i64 - ended;
        let counted = totals.clone() - &open.before;
        let to_ms = self.clock.ms(now).max(open.from_ms);
        let seconds = (to_ms - open.from_ms) as f64 / 1000.0;
        let fps = if seconds > 0.0 { counted.processed() as f64 / seconds } else { 0.0 };
        let (fault, decoder, encoder, graph, billed_until_ns) = {
            let mut slow = lock(&self.slow);
            let graph = slow.graph.map_or_else(String::new, |graph| graph.to_string());
            (slow.fault.take(), slow.decoder.clone(), slow.encoder.clone(), graph, slow.debit.billed_until_ns())
        };
        let input = self.input_size();
        let interval = Interval {
            session: self.session,
            number: open.number,
            restarts: facts.restarts,
            from_ms: open.from_ms,
            to_ms,
            last: facts.last,
            totals: counted,
            in_flight,
            fps: (fps * 1000.0).round() / 1000.0,
            latency_ms: self.take_latency(),
            stream_latency_ms: if facts.last { self.latency() } else { BTreeMap::new() },
            model: facts.model.to_owned(),
            graph,
            params_hash: facts.params_hash.to_owned(),
            revision: self.revision(),
            input_size: [input.width, input.height],
            output_size: [self.output_size.width, self.output_size.height],
            decoder,
            encoder,
            fault,
            billed_until_ns,
        };
        *open = Open { number: open.number + 1, from_ms: to_ms, before: totals };
        interval
    }

    fn take_latency(&self) -> BTreeMap<String, Percentiles> {
        let mut latency = lock(&self.latency);
        let mut figures = BTreeMap::new();
        for stage in Stage::ALL {
            let running = &mut latency.running[stage as usize];
            if running.is_empty() {
                continue;
            }
            figures.insert(stage.label().to_owned(), Percentiles::of(running));
            running.reset();
        }
        figures
    }

    /// Times of every frame that was published so far in this engine, by stage; stages that no frame has passed left out.
    pub fn latency(&self) -> BTreeMap<String, Percentiles> {
        let latency = lock(&self.latency);
        let whole = |stage: Stage| {
            let whole = &latency.whole[stage as usize];
            (!whole.is_empty()).then(|| (stage.label().to_owned(), Percentiles::of(whole)))
        };
        Stage::ALL.into_iter().filter_map(whole).collect()
    }
}

/// The beginning of `message`, with every word that holds an address replaced, since addresses of channels are credentials.
pub fn without_addresses(message: &str) -> String {
    let words = message.split(' ').map(|word| if word.contains("://") { "<address>" } else { word });
    words.collect::<Vec<_>>().join(" ").chars().take(MESSAGE).collect()
}

#[cfg(test)]
mod tests;
