//! The engine's Prometheus registry. Labels come from closed sets; [`Metrics::text`] is what `/metrics` shows.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::exemplars::{BOUNDS, Exemplars, STAGE_SECONDS};
use super::openmetrics::{self, Exposition};
use super::record::{FrameRecord, Kind, Place, Stage};

/// A queue of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Pieces of input before the decoder.
    Decode,
    /// Frames before the model.
    Model,
    /// Pictures before the encoder.
    Encode,
    /// Pieces of output before the socket.
    Publish,
}

impl Queue {
    /// Every queue, in a frame's order.
    pub const ALL: [Queue; 4] = [Queue::Decode, Queue::Model, Queue::Encode, Queue::Publish];

    /// The label's value: the stage that takes from it.
    pub fn label(self) -> &'static str {
        match self {
            Queue::Decode => "decode",
            Queue::Model => "model",
            Queue::Encode => "encode",
            Queue::Publish => "publish",
        }
    }

    /// Whether it holds pictures; only those have an age.
    fn pictures(self) -> bool {
        matches!(self, Queue::Model | Queue::Encode)
    }
}

/// Where a packet of sound can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Silenced {
    /// Before the model that works on sound was there.
    Model,
    /// Before the sound thread, which was behind.
    Queue,
    /// It could not be decoded.
    Damaged,
    /// Before the encoder, which was behind.
    Output,
    /// Held back for pictures that did not come.
    Held,
    /// Its time was not later than that of the packet before, or it could not be carried.
    Order,
    /// With the end of the stream.
    End,
}

impl Silenced {
    /// Every place.
    pub const ALL: [Silenced; 7] = [
        Silenced::Model,
        Silenced::Queue,
        Silenced::Damaged,
        Silenced::Output,
        Silenced::Held,
        Silenced::Order,
        Silenced::End,
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Silenced::Model => "model",
            Silenced::Queue => "queue",
            Silenced::Damaged => "damaged",
            Silenced::Output => "output",
            Silenced::Held => "held",
            Silenced::Order => "order",
            Silenced::End => "end",
        }
    }
}

/// Stages whose errors are counted.
const ERRORS: [&str; 5] = ["decode", "model", "encode", "trickle", "params"];

/// Channels of a session and what is counted on each.
const TRICKLE: [(&str, &[&str]); 2] = [
    ("input", &["segments", "reissued", "retries", "jumps", "empty", "gaps", "reread", "broken"]),
    ("output", &["segments", "broken", "skipped", "stalled", "retries"]),
];

/// Counters and histograms of one engine. What is counted is summed over its sessions; what is looked at (queues,
/// channels, codecs) carries the slot of its session as a label. No call for a frame waits for a lock.
pub struct Metrics {
    registry: Registry,
    /// Frames decoded.
    pub decoded: IntCounter,
    published: [IntCounter; Kind::ALL.len()],
    dropped: [IntCounter; Place::ALL.len()],
    stages: [Histogram; Stage::ALL.len()],
    silenced: [IntCounter; Silenced::ALL.len()],
    /// Blocks of sound that the model has worked on.
    pub sound_blocks: IntCounter,
    /// Seconds that the model worked on sound.
    pub sound_busy: Counter,
    /// Damaged transport packets and access units that were skipped.
    pub damaged: IntCounter,
    /// Bytes of input.
    pub bytes_in: IntCounter,
    /// Bytes of output.
    pub bytes_out: IntCounter,
    trickle: IntGaugeVec,
    /// Parameter updates by result (`applied`, `refused`).
    pub updates: IntCounterVec,
    /// Errors by stage (`model`, `decode`, `encode`, `trickle`).
    pub errors: IntCounterVec,
    /// Events that were not sent because the channel was slow.
    pub events_lost: IntCounter,
    /// Pieces of output that a tap did not take.
    pub tap_dropped: IntCounter,
    /// Recordings that ended, by how: `stopped`, `stream`, `time`, `size`, `failed`.
    pub recordings: IntCounterVec,
    /// Bytes of recordings.
    pub recording_bytes: IntCounter,
    /// Segments that are not whole in their recording.
    pub recording_lost: IntCounter,
    /// Sessions that run.
    pub sessions: IntGauge,
    /// Frames that passed a stage, by the queue that led to it.
    passed: [IntCounter; Queue::ALL.len()],
    /// Seconds that the model worked on frames.
    pub model_busy: Counter,
    /// Seconds that a GPU worked on frames, by CUDA's events.
    pub gpu_busy: Counter,
    depth: IntGaugeVec,
    age: GaugeVec,
    /// Graphs and results of what runs once (`graph`, `result`), by where they came from (`kept`, `made`).
    pub folded: IntCounterVec,
    /// Seconds that loading and running them took.
    pub folded_seconds: Counter,
    /// Bytes of them that are kept.
    pub folded_bytes: IntGauge,
    /// Seconds that the last load of the pipeline took.
    pub load_seconds: Gauge,
    /// Seconds from a start request to the first processed picture that left.
    pub first_frame: Histogram,
    codecs: IntGaugeVec,
    /// What `codecs` shows, by slot.
    shown: Mutex<BTreeMap<usize, [String; 2]>>,
    exemplars: Exemplars,
    /// Frames that are published are not counted: what measuring costs is the difference.
    pub off: bool,
}

impl Metrics {
    /// Everything at zero, every label present.
    ///
    /// # Errors
    /// Only if two metrics have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let published = counters("weir_frames_published_total", "Frames handed to the output, by picture.", &["kind"])?;
        let dropped = counters("weir_frames_dropped_total", "Frames that were not published, by place.", &["place"])?;
        let stages = HistogramVec::new(
            HistogramOpts::new(STAGE_SECONDS, "Time of a published frame in each stage.").buckets(BOUNDS.to_vec()),
            &["stage"],
        )?;
        registry.register(Box::new(stages.clone()))?;
        let silenced =
            counters("weir_audio_dropped_total", "Packets of sound that were not published, by place.", &["place"])?;
        let sound_busy = Counter::new("weir_audio_busy_seconds_total", "Time that the model worked on sound.")?;
        registry.register(Box::new(sound_busy.clone()))?;
        let trickle = IntGaugeVec::new(
            Opts::new("weir_trickle", "Happenings on the channels of a running session, by slot, channel and kind."),
            &["slot", "channel", "kind"],
        )?;
        registry.register(Box::new(trickle.clone()))?;
        let sessions = IntGauge::new("weir_sessions", "Sessions that run.")?;
        registry.register(Box::new(sessions.clone()))?;
        let updates = counters("weir_updates_total", "Parameter updates, by result.", &["result"])?;
        for result in ["applied", "refused"] {
            updates.with_label_values(&[result]);
        }
        let recordings = counters("weir_recordings_total", "Recordings that ended, by how.", &["end"])?;
        for end in ["stopped", "stream", "time", "size", "failed"] {
            recordings.with_label_values(&[end]);
        }
        let errors = counters("weir_errors_total", "Errors, by stage.", &["stage"])?;
        for stage in ERRORS {
            errors.with_label_values(&[stage]);
        }
        let passed = counters("weir_stage_frames_total", "Frames that passed a stage.", &["stage"])?;
        let depth =
            IntGaugeVec::new(Opts::new("weir_queue_depth", "What waits before a stage, by slot."), &["slot", "stage"])?;
        registry.register(Box::new(depth.clone()))?;
        let age = Opts::new("weir_queue_age_seconds", "Age of the oldest picture that waits before a stage, by slot.");
        let age = GaugeVec::new(age, &["slot", "stage"])?;
        registry.register(Box::new(age.clone()))?;
        let model_busy = Counter::new("weir_model_busy_seconds_total", "Time that the model worked on frames.")?;
        registry.register(Box::new(model_busy.clone()))?;
        let gpu_busy = Counter::new("weir_gpu_busy_seconds_total", "Time that a GPU worked on frames.")?;
        registry.register(Box::new(gpu_busy.clone()))?;
        let folded = counters(
            "weir_folded_total",
            "Parts of workflows that run once and not for every frame, kept from before or made.",
            &["what", "from"],
        )?;
        for what in ["graph", "result"] {
            for from in ["kept", "made"] {
                folded.with_label_values(&[what, from]);
            }
        }
        let folded_seconds =
            Counter::new("weir_folded_seconds_total", "Time that loading and running what runs once took.")?;
        registry.register(Box::new(folded_seconds.clone()))?;
        let folded_bytes = IntGauge::new("weir_folded_bytes", "Bytes of what runs once that are kept, estimated.")?;
        registry.register(Box::new(folded_bytes.clone()))?;
        let load_seconds = Gauge::new("weir_model_load_seconds", "Time that loading the pipeline took.")?;
        registry.register(Box::new(load_seconds.clone()))?;
        let first_frame = Histogram::with_opts(
            HistogramOpts::new("weir_first_frame_seconds", "Time from a start to the first processed picture out.")
                .buckets(vec![0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0]),
        )?;
        registry.register(Box::new(first_frame.clone()))?;
        let codecs = Opts::new("weir_codec_info", "Decoder and encoder of a running session, by slot.");
        let codecs = IntGaugeVec::new(codecs, &["slot", "decoder", "encoder"])?;
        registry.register(Box::new(codecs.clone()))?;
        Ok(Self {
            decoded: counter("weir_frames_decoded_total", "Frames decoded.")?,
            published: Kind::ALL.map(|kind| published.with_label_values(&[kind.label()])),
            dropped: Place::ALL.map(|place| dropped.with_label_values(&[place.label()])),
            stages: Stage::ALL.map(|stage| stages.with_label_values(&[stage.label()])),
            silenced: Silenced::ALL.map(|place| silenced.with_label_values(&[place.label()])),
            sound_blocks: counter("weir_audio_blocks_total", "Blocks of sound that the model worked on.")?,
            sound_busy,
            damaged: counter("weir_input_damaged_total", "Damaged pieces of input that were skipped.")?,
            bytes_in: counter("weir_input_bytes_total", "Bytes of input.")?,
            bytes_out: counter("weir_output_bytes_total", "Bytes of output.")?,
            trickle,
            updates,
            errors,
            events_lost: counter("weir_events_lost_total", "Events that could not be sent.")?,
            tap_dropped: counter(
                "weir_taps_dropped_total",
                "Segments of output that watchers' taps did not take whole.",
            )?,
            recordings,
            recording_bytes: counter("weir_recording_bytes_total", "Bytes of recordings.")?,
            recording_lost: counter("weir_recording_lost_segments_total", "Segments not whole in their recording.")?,
            sessions,
            passed: Queue::ALL.map(|queue| passed.with_label_values(&[queue.label()])),
            model_busy,
            gpu_busy,
            depth,
            age,
            folded,
            folded_seconds,
            folded_bytes,
            load_seconds,
            first_frame,
            codecs,
            exemplars: Exemplars::new(),
            off: false,
            shown: Mutex::default(),
            registry,
        })
    }

    /// A frame ended at `place`.
    pub fn drop_at(&self, place: Place) {
        self.drops_at(place, 1);
    }

    /// `count` frames ended at `place`.
    pub fn drops_at(&self, place: Place, count: u64) {
        self.dropped[place as usize].inc_by(count);
    }

    /// `count` packets of sound ended at `place`.
    pub fn silenced(&self, place: Silenced, count: u64) {
        self.silenced[place as usize].inc_by(count);
    }

    /// A frame passed the stage that takes from `queue`.
    pub fn passed(&self, queue: Queue) {
        self.passed[queue as usize].inc();
    }

    /// What waits in a queue of the session in `slot`, and the age in seconds of the oldest picture there.
    pub fn waits(&self, slot: usize, queue: Queue, depth: usize, age: f64) {
        let slot = slot.to_string();
        self.depth.with_label_values(&[slot.as_str(), queue.label()]).set(depth as i64);
        if queue.pictures() {
            self.age.with_label_values(&[slot.as_str(), queue.label()]).set(age);
        }
    }

    /// Shows what happened so far on a channel (`input`, `output`) of the session in `slot`.
    pub fn happened(&self, slot: usize, channel: &str, kind: &str, count: u64) {
        self.trickle.with_label_values(&[slot.to_string().as_str(), channel, kind]).set(count as i64);
    }

    /// The codecs of the session in `slot`, FFmpeg's names; empty ones are not shown.
    pub fn set_codecs(&self, slot: usize, decoder: &str, encoder: &str) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let label = slot.to_string();
        if let Some([decoder, encoder]) = shown.remove(&slot) {
            // It is there: it was set with the entry.
            let _ = self.codecs.remove_label_values(&[label.as_str(), decoder.as_str(), encoder.as_str()]);
        }
        if !decoder.is_empty() || !encoder.is_empty() {
            self.codecs.with_label_values(&[label.as_str(), decoder, encoder]).set(1);
            shown.insert(slot, [decoder.to_owned(), encoder.to_owned()]);
        }
    }

    /// A frame was handed to the output.
    pub fn published(&self, frame: &FrameRecord) {
        if self.off {
            return;
        }
        self.published[frame.kind as usize].inc();
        self.passed(Queue::Publish);
        let mut note = self.exemplars.note();
        for stage in Stage::ALL {
            let Some(span) = stage.span(&frame.stamps) else { continue };
            let seconds = span.as_secs_f64();
            self.stages[stage as usize].observe(seconds);
            if let Some(note) = &mut note {
                note.took(frame, stage, seconds);
            }
        }
    }

    /// Frames published since the engine began, of every kind.
    pub fn published_total(&self) -> u64 {
        self.published.iter().map(IntCounter::get).sum()
    }

    /// Begins the series that belong to the session in `slot`.
    pub fn begin_session(&self, slot: usize) {
        self.set_codecs(slot, "", "");
        Queue::ALL.into_iter().for_each(|queue| self.waits(slot, queue, 0, 0.0));
        for (channel, kinds) in TRICKLE {
            kinds.iter().for_each(|kind| self.happened(slot, channel, kind, 0));
        }
    }

    /// Ends the series that belong to the session in `slot`.
    pub fn end_session(&self, slot: usize) {
        self.set_codecs(slot, "", "");
        let slot = slot.to_string();
        // What was never set cannot be removed, and need not be.
        for queue in Queue::ALL {
            let _ = self.depth.remove_label_values(&[slot.as_str(), queue.label()]);
            let _ = self.age.remove_label_values(&[slot.as_str(), queue.label()]);
        }
        for (channel, kinds) in TRICKLE {
            for kind in kinds {
                let _ = self.trickle.remove_label_values(&[slot.as_str(), channel, kind]);
            }
        }
    }

    /// Everything as text, in the form that was asked for. `now` is also `unix_ms`.
    pub fn exposed(&self, form: Exposition, now: Instant, unix_ms: u64) -> String {
        match form {
            Exposition::Text => self.text(),
            Exposition::OpenMetrics => openmetrics::write(&self.registry.gather(), self.exemplars.at(now, unix_ms)),
        }
    }

    /// Prometheus text, version 0.0.4.
    pub fn text(&self) -> String {
        let mut bytes = Vec::with_capacity(16 * 1024);
        match TextEncoder::new().encode(&self.registry.gather(), &mut bytes) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("# metrics could not be written: {error}\n"),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::frame::{Stamps, Timestamp};

    fn record(kind: Kind, stamps: Stamps) -> FrameRecord {
        FrameRecord { session: 4, seq: 77, pts: Timestamp(0), stamps, kind, pixels: 1, bytes: 2, model: "noop" }
    }

    #[test]
    fn a_frame_stands_for_the_buckets_that_it_fell_into() {
        let metrics = Metrics::new().unwrap();
        let start = Instant::now();
        let (started, done) = (Some(start), Some(start + Duration::from_millis(10)));
        let published = Some(start + Duration::from_secs(6));
        let stamps = Stamps { started, done, received: started, published, ..Stamps::default() };
        metrics.published(&record(Kind::Processed, stamps));
        let text = metrics.exposed(Exposition::OpenMetrics, start + Duration::from_secs(7), 1_000_000);
        let marked: Vec<&str> = text.lines().filter(|line| line.contains(" # ")).collect();
        assert_eq!(
            marked,
            [
                // Ten milliseconds belong to the bucket that ends there.
                "weir_stage_seconds_bucket{stage=\"model\",le=\"0.01\"} 1 # {session=\"4\",frame=\"77\"} 0.01 999.000",
                "weir_stage_seconds_bucket{stage=\"total\",le=\"+Inf\"} 1 # {session=\"4\",frame=\"77\"} 6 999.000",
            ]
        );
        assert!(text.contains("# TYPE weir_frames_published counter\n"));
        assert_eq!(metrics.exposed(Exposition::Text, start, 0), metrics.text());
        // A counter without this ending would have another name in the two forms.
        for family in metrics.registry.gather() {
            let counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
            assert_eq!(counter, family.name().ends_with("_total"), "{}", family.name());
        }
    }

    #[test]
    fn a_frame_moves_its_counters_and_histograms() {
        let metrics = Metrics::new().unwrap();
        let start = Instant::now();
        let at = |ms| Some(start + Duration::from_millis(ms));
        let stamps = Stamps {
            received: at(0),
            decoded: at(2),
            started: at(3),
            done: at(13),
            encoded: at(17),
            published: at(18),
            ..Stamps::default()
        };
        metrics.published(&record(Kind::Processed, stamps));
        metrics.drops_at(Place::Input, 3);
        let text = metrics.text();
        for line in [
            "weir_frames_published_total{kind=\"processed\"} 1",
            "weir_frames_published_total{kind=\"overlay\"} 0",
            "weir_frames_dropped_total{place=\"input\"} 3",
            "weir_stage_seconds_count{stage=\"total\"} 1",
            "weir_stage_seconds_bucket{stage=\"model\",le=\"0.005\"} 0",
            "weir_stage_seconds_bucket{stage=\"model\",le=\"0.01\"} 1",
        ] {
            assert!(text.lines().any(|have| have == line), "no line `{line}` in\n{text}");
        }
    }

    #[test]
    fn the_series_of_a_slot_end_with_its_session() {
        let metrics = Metrics::new().unwrap();
        for slot in [0, 1] {
            metrics.begin_session(slot);
            metrics.set_codecs(slot, "h264", "libx264");
            metrics.waits(slot, Queue::Model, 3, 0.5);
        }
        metrics.end_session(0);
        let text = metrics.text();
        let of = |slot: &str| text.lines().filter(|line| line.contains(slot)).count();
        assert_eq!(of("slot=\"0\""), 0, "{text}");
        assert_eq!(of("slot=\"1\""), 4 + 2 + TRICKLE.iter().map(|(_, kinds)| kinds.len()).sum::<usize>() + 1, "{text}");
    }

    /// Dashboards read these names; a change here is a change of contract.
    #[test]
    fn names_and_labels_stay() {
        let metrics = Metrics::new().unwrap();
        metrics.begin_session(0);
        metrics.set_codecs(0, "h264", "libx264");
        let text = metrics.text();
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let series = line.rsplit_once(' ').unwrap().0.to_owned();
            let skip = series.contains("le=\"") && !series.contains("+Inf");
            if !skip {
                lines.push(series);
            }
        }
        let expected = include_str!("metrics.snapshot");
        assert_eq!(lines.join("\n"), expected.trim_end(), "metrics.snapshot holds the names");
    }

    #[test]
    fn a_stage_that_was_not_reached_is_not_measured() {
        let metrics = Metrics::new().unwrap();
        let now = Instant::now();
        let stamps = Stamps { received: Some(now), published: Some(now), ..Stamps::default() };
        metrics.published(&record(Kind::Overlay, stamps));
        let text = metrics.text();
        assert!(text.contains("weir_stage_seconds_count{stage=\"model\"} 0"));
        assert!(text.contains("weir_stage_seconds_count{stage=\"total\"} 1"));
    }
}
