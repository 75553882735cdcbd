//! What every frame cost and what became of it: counters and histograms of one engine.
//!
//! A frame is counted once at each stage it passes and once at the place where it ends: published, or dropped at a
//! [`Place`]. Labels come from closed sets; [`Metrics::text`] is what `/metrics` shows.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram as Hdr;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use serde::Serialize;

use crate::frame::Stamps;

/// Where a frame can end before it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Every picture buffer was in use.
    Decode,
    /// Before the first picture that can be decoded alone.
    KeyFrame,
    /// Above the frame rate that the operator set.
    RateCap,
    /// The model was busy and a newer frame came.
    Input,
    /// The model failed on it and there was nothing to repeat.
    Model,
    /// The encoder was busy and a newer frame came.
    Output,
    /// Its time stamp was not after the one before.
    Order,
    /// It had already been published by an engine that is gone.
    Resume,
    /// Its output segment was lost.
    Publish,
    /// The session ended first.
    End,
}

impl Place {
    const ALL: [Place; 10] = [
        Place::Decode,
        Place::KeyFrame,
        Place::RateCap,
        Place::Input,
        Place::Model,
        Place::Output,
        Place::Order,
        Place::Resume,
        Place::Publish,
        Place::End,
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Place::Decode => "decode",
            Place::KeyFrame => "key_frame",
            Place::RateCap => "rate_cap",
            Place::Input => "input",
            Place::Model => "model",
            Place::Output => "output",
            Place::Order => "order",
            Place::Resume => "resume",
            Place::Publish => "publish",
            Place::End => "end",
        }
    }
}

/// What an output picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The model's picture of this frame.
    Processed,
    /// The last good picture once more, because the model failed on this frame.
    Repeated,
    /// The overlay.
    Overlay,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Processed, Kind::Repeated, Kind::Overlay];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Processed => "processed",
            Kind::Repeated => "repeated",
            Kind::Overlay => "overlay",
        }
    }
}

/// The time between two stamps of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Received to decoded.
    Decode,
    /// Decoded to started: the wait for the model.
    Queue,
    /// Started to done.
    Model,
    /// Done to encoded, the wait for the encoder included.
    Encode,
    /// Encoded to published.
    Publish,
    /// Received to published.
    Total,
}

impl Stage {
    /// Every stage, in a frame's order.
    pub const ALL: [Stage; 6] =
        [Stage::Decode, Stage::Queue, Stage::Model, Stage::Encode, Stage::Publish, Stage::Total];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Decode => "decode",
            Stage::Queue => "queue",
            Stage::Model => "model",
            Stage::Encode => "encode",
            Stage::Publish => "publish",
            Stage::Total => "total",
        }
    }

    fn span(self, stamps: &Stamps) -> Option<Duration> {
        let (from, to): (Option<Instant>, Option<Instant>) = match self {
            Stage::Decode => (stamps.received, stamps.decoded),
            Stage::Queue => (stamps.decoded, stamps.started),
            Stage::Model => (stamps.started, stamps.done),
            Stage::Encode => (stamps.done, stamps.encoded),
            Stage::Publish => (stamps.encoded, stamps.published),
            Stage::Total => (stamps.received, stamps.published),
        };
        Some(to?.saturating_duration_since(from?))
    }
}

/// Latency figures of one stage in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of the frames were faster.
    pub p50: f64,
    /// 95 of 100 frames were faster.
    pub p95: f64,
    /// 99 of 100 frames were faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// Counters and histograms of one engine. Every call is lock-free but [`Metrics::published`], which takes one lock that
/// only the once-a-second report shares.
pub struct Metrics {
    registry: Registry,
    /// Frames decoded.
    pub decoded: IntCounter,
    published: [IntCounter; Kind::ALL.len()],
    dropped: [IntCounter; Place::ALL.len()],
    stages: [Histogram; Stage::ALL.len()],
    /// Damaged transport packets and access units that were skipped.
    pub damaged: IntCounter,
    /// Bytes of input.
    pub bytes_in: IntCounter,
    /// Bytes of output.
    pub bytes_out: IntCounter,
    /// Trickle happenings by channel (`input`, `output`, `control`, `events`) and kind.
    pub trickle: IntGaugeVec,
    /// Parameter updates by result (`applied`, `refused`).
    pub updates: IntCounterVec,
    /// Errors by stage (`model`, `decode`, `encode`, `trickle`).
    pub errors: IntCounterVec,
    /// Events that were not sent because the channel was slow.
    pub events_lost: IntCounter,
    /// Sessions that run.
    pub sessions: IntGauge,
    latency: Mutex<[Hdr<u32>; Stage::ALL.len()]>,
}

/// A session that lasts a day at 60 fps has 5 million frames: the counts fit 32 bits.
fn hdr() -> Hdr<u32> {
    // 1 µs to 60 s at two digits: these bounds are valid constants.
    #[expect(clippy::expect_used, reason = "constant bounds")]
    let mut histogram = Hdr::new_with_bounds(1, 60_000_000, 2).expect("bounds are valid");
    histogram.auto(false);
    histogram
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
            HistogramOpts::new("weir_stage_seconds", "Time of a published frame in each stage.").buckets(vec![
                0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.066, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
            ]),
            &["stage"],
        )?;
        registry.register(Box::new(stages.clone()))?;
        let trickle = IntGaugeVec::new(
            Opts::new("weir_trickle", "Happenings on the channels of the running session, by channel and kind."),
            &["channel", "kind"],
        )?;
        registry.register(Box::new(trickle.clone()))?;
        let sessions = IntGauge::new("weir_sessions", "Sessions that run.")?;
        registry.register(Box::new(sessions.clone()))?;
        let updates = counters("weir_updates_total", "Parameter updates, by result.", &["result"])?;
        for result in ["applied", "refused"] {
            updates.with_label_values(&[result]);
        }
        let errors = counters("weir_errors_total", "Errors, by stage.", &["stage"])?;
        for stage in ["decode", "model", "encode", "trickle"] {
            errors.with_label_values(&[stage]);
        }
        Ok(Self {
            decoded: counter("weir_frames_decoded_total", "Frames decoded.")?,
            published: Kind::ALL.map(|kind| published.with_label_values(&[kind.label()])),
            dropped: Place::ALL.map(|place| dropped.with_label_values(&[place.label()])),
            stages: Stage::ALL.map(|stage| stages.with_label_values(&[stage.label()])),
            damaged: counter("weir_input_damaged_total", "Damaged pieces of input that were skipped.")?,
            bytes_in: counter("weir_input_bytes_total", "Bytes of input.")?,
            bytes_out: counter("weir_output_bytes_total", "Bytes of output.")?,
            trickle,
            updates,
            errors,
            events_lost: counter("weir_events_lost_total", "Events that could not be sent.")?,
            sessions,
            latency: Mutex::new(Stage::ALL.map(|_| hdr())),
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

    /// A frame was handed to the output.
    pub fn published(&self, kind: Kind, stamps: &Stamps) {
        self.published[kind as usize].inc();
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        for stage in Stage::ALL {
            if let Some(span) = stage.span(stamps) {
                self.stages[stage as usize].observe(span.as_secs_f64());
                latency[stage as usize].saturating_record((span.as_micros() as u64).max(1));
            }
        }
    }

    /// Frames published since the engine began, of every kind.
    pub fn published_total(&self) -> u64 {
        self.published.iter().map(IntCounter::get).sum()
    }

    /// Drops since the engine began, by place, places without any left out.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        Place::ALL
            .iter()
            .map(|place| (place.label(), self.dropped[*place as usize].get()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Latency of each stage since [`Self::begin_session`].
    pub fn latency(&self) -> Vec<(&'static str, Percentiles)> {
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        Stage::ALL
            .iter()
            .map(|stage| {
                let hdr = &latency[*stage as usize];
                let ms = |quantile| hdr.value_at_quantile(quantile) as f64 / 1000.0;
                let max = hdr.max() as f64 / 1000.0;
                (stage.label(), Percentiles { p50: ms(0.50), p95: ms(0.95), p99: ms(0.99), max })
            })
            .collect()
    }

    /// Forgets the latencies and channel figures of the session before.
    pub fn begin_session(&self) {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.iter_mut().for_each(Hdr::reset);
        self.trickle.reset();
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
    use super::*;

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
        };
        metrics.published(Kind::Processed, &stamps);
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
        assert_eq!(metrics.drops(), [("input", 3)]);
        let total = metrics.latency().into_iter().find(|(stage, _)| *stage == "total").unwrap().1;
        assert!((17.8..18.3).contains(&total.p50), "{total:?}");
        metrics.begin_session();
        assert_eq!(metrics.latency()[5].1.max, 0.0);
    }

    #[test]
    fn a_stage_that_was_not_reached_is_not_measured() {
        let metrics = Metrics::new().unwrap();
        let now = Instant::now();
        metrics.published(Kind::Overlay, &Stamps { received: Some(now), published: Some(now), ..Stamps::default() });
        let text = metrics.text();
        assert!(text.contains("weir_stage_seconds_count{stage=\"model\"} 0"));
        assert!(text.contains("weir_stage_seconds_count{stage=\"total\"} 1"));
    }
}
