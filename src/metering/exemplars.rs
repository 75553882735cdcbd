//! The last frame in each bucket of the stage times, for scrapes that show exemplars.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::proto::LabelPair;

use super::openmetrics::Exemplar;
use super::record::{FrameRecord, Stage};

/// The name of the histogram of stage times.
pub(super) const STAGE_SECONDS: &str = "weir_stage_seconds";

/// Upper bounds of its buckets, in seconds.
pub(super) const BOUNDS: [f64; 15] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.066, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// A frame as it stands for a bucket.
#[derive(Clone, Copy)]
struct Seen {
    session: u64,
    frame: u64,
    seconds: f64,
    at: Instant,
}

/// By stage and bucket.
type Table = [[Option<Seen>; BOUNDS.len() + 1]; Stage::ALL.len()];

/// The last frame in each bucket of each stage.
pub(super) struct Exemplars(Mutex<Table>);

impl Exemplars {
    pub(super) fn new() -> Self {
        Self(Mutex::new([[None; BOUNDS.len() + 1]; Stage::ALL.len()]))
    }

    /// For a frame that was published. `None` while a scrape reads, for which no frame waits.
    pub(super) fn note(&self) -> Option<Note<'_>> {
        self.0.try_lock().ok().map(Note)
    }

    /// A copy, as exemplars at `now`, which is also `unix_ms`: by a family's name, the labels of a series and a bucket's number.
    pub(super) fn at(
        &self,
        now: Instant,
        unix_ms: u64,
    ) -> impl Fn(&str, &[LabelPair], usize) -> Option<Exemplar> + use<> {
        let table = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        move |name, labels, bucket| {
            let of = |stage: &Stage| labels.iter().any(|label| label.value() == stage.label());
            let stage = Stage::ALL.into_iter().find(of).filter(|_| name == STAGE_SECONDS)?;
            let Seen { session, frame, seconds, at } = (*table[stage as usize].get(bucket)?)?;
            let age = now.saturating_duration_since(at).as_millis() as u64;
            Some(Exemplar { session, frame, value: seconds, at_ms: unix_ms.saturating_sub(age) })
        }
    }
}

/// The table, open for one frame.
pub(super) struct Note<'a>(MutexGuard<'a, Table>);

impl Note<'_> {
    /// The frame took so many seconds in a stage.
    pub(super) fn took(&mut self, frame: &FrameRecord, stage: Stage, seconds: f64) {
        let Some(at) = frame.stamps.published else { return };
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.0[stage as usize][bucket] = Some(Seen { session: frame.session, frame: frame.seq, seconds, at });
    }
}
