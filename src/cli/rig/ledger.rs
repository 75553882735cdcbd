//! Every frame by its presentation time: when it was sent, when it was read back, and when its output came.
//!
//! Nothing but the time stamp of a frame goes through the runner, so frames are matched by it. All times are those of
//! the last byte: handed to the socket on the way in, out of the socket on the way back. Decoding is in none of them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Frames that are kept one by one: over half a minute at 60 a second. Older ones are settled.
const KEPT: usize = 2048;

#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    pts: i64,
    sent: Option<Instant>,
    floor: Option<Instant>,
    out: Option<Instant>,
}

/// Latency figures in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Frames measured.
    pub count: u64,
    /// Half of the frames were faster.
    pub p50: f64,
    /// 95 of 100 frames were faster.
    pub p95: f64,
    /// 99 of 100 frames were faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// What became of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Frames handed to the input channel.
    pub sent: u64,
    /// Frames on the output channel.
    pub received: u64,
    /// Frames sent and settled without an output.
    pub missing: u64,
    /// Output frames whose time stamp no kept input frame has.
    pub unmatched: u64,
    /// Output frames whose time stamp was not after the one before.
    pub backwards: u64,
    /// Longest time between two output frames in milliseconds.
    pub longest_gap_ms: f64,
}

/// A series of times between frames.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    first: Option<Instant>,
    last: Option<Instant>,
    count: u64,
}

impl Span {
    fn add(&mut self, at: Instant) {
        self.first.get_or_insert(at);
        self.last = Some(self.last.map_or(at, |last| last.max(at)));
        self.count += 1;
    }

    fn per_second(&self) -> f64 {
        match (self.first, self.last) {
            (Some(first), Some(last)) if last > first => {
                (self.count - 1) as f64 / last.duration_since(first).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

/// A histogram of microseconds, up to a minute.
struct Spread(Histogram<u32>);

impl Spread {
    fn new() -> Self {
        // 1 µs to 60 s at three digits: these bounds are valid constants.
        #[expect(clippy::expect_used, reason = "constant bounds")]
        let histogram = Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds are valid");
        Self(histogram)
    }

    fn add(&mut self, time: Duration) {
        self.0.saturating_record((time.as_micros() as u64).max(1));
    }

    fn figures(&self) -> Figures {
        if self.0.is_empty() {
            return Figures::default();
        }
        let ms = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        let max = self.0.max() as f64 / 1000.0;
        Figures { count: self.0.len(), p50: ms(0.50), p95: ms(0.95), p99: ms(0.99), max }
    }
}

struct Book {
    frames: VecDeque<Frame>,
    counts: Counts,
    input: Span,
    output: Span,
    last_pts: Option<i64>,
    gap: Duration,
    end_to_end: Spread,
    floor: Spread,
    added: Spread,
}

impl Book {
    fn entry(&mut self, pts: i64) -> Option<&mut Frame> {
        let at = self.frames.binary_search_by_key(&pts, |frame| frame.pts).ok()?;
        self.frames.get_mut(at)
    }

    fn settle(&mut self, frame: Frame) {
        let Some(sent) = frame.sent else { return };
        let floor = frame.floor.map(|at| at.saturating_duration_since(sent));
        let out = frame.out.map(|at| at.saturating_duration_since(sent));
        if let Some(floor) = floor {
            self.floor.add(floor);
        }
        match out {
            Some(out) => {
                self.end_to_end.add(out);
                if let Some(floor) = floor {
                    self.added.add(out.saturating_sub(floor));
                }
            }
            None => self.counts.missing += 1,
        }
    }
}

/// What a whole run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Frames by their fate.
    pub frames: Counts,
    /// Frames a second into the input channel.
    pub fps_in: f64,
    /// Frames a second out of the output channel.
    pub fps_out: f64,
    /// From the last byte of a frame into the input channel to the last byte of its output, milliseconds.
    pub end_to_end_ms: Figures,
    /// From the last byte of a frame into the input channel to reading it back from there, milliseconds.
    pub floor_ms: Figures,
    /// End to end less the floor, frame by frame, milliseconds.
    pub added_ms: Figures,
    /// From the first input frame to the first byte of output, milliseconds.
    pub first_output_ms: Option<f64>,
}

/// What the last seconds came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Recent {
    /// Frames a second into the input channel.
    pub fps_in: f64,
    /// Frames a second out of the output channel.
    pub fps_out: f64,
    /// End to end, milliseconds.
    pub p50: f64,
    /// End to end, milliseconds.
    pub p95: f64,
}

/// The frames of one stream. Shared by the source and the readers.
pub struct Ledger {
    book: Mutex<Book>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// Without frames.
    pub fn new() -> Self {
        Self {
            book: Mutex::new(Book {
                frames: VecDeque::with_capacity(KEPT),
                counts: Counts::default(),
                input: Span::default(),
                output: Span::default(),
                last_pts: None,
                gap: Duration::ZERO,
                end_to_end: Spread::new(),
                floor: Spread::new(),
                added: Spread::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame is about to be sent. Time stamps must rise; one that does not is not followed.
    pub fn announce(&self, pts: i64) {
        let mut book = self.lock();
        if book.frames.back().is_some_and(|last| last.pts >= pts) {
            return;
        }
        if book.frames.len() >= KEPT
            && let Some(oldest) = book.frames.pop_front()
        {
            book.settle(oldest);
        }
        book.frames.push_back(Frame { pts, ..Frame::default() });
    }

    /// Its last byte was handed to the socket at `at`.
    pub fn sent(&self, pts: i64, at: Instant) {
        let mut book = self.lock();
        if let Some(frame) = book.entry(pts) {
            frame.sent = Some(at);
        }
        book.counts.sent += 1;
        book.input.add(at);
    }

    /// It was read back from the input channel at `at`.
    pub fn read_back(&self, pts: i64, at: Instant) {
        if let Some(frame) = self.lock().entry(pts) {
            frame.floor.get_or_insert(at);
        }
    }

    /// Its output came at `at`.
    pub fn received(&self, pts: i64, at: Instant) {
        let mut book = self.lock();
        book.counts.received += 1;
        if book.last_pts.is_some_and(|last| pts <= last) {
            book.counts.backwards += 1;
        }
        book.last_pts = Some(pts);
        if let Some(last) = book.output.last {
            let gap = at.saturating_duration_since(last);
            book.gap = book.gap.max(gap);
            book.counts.longest_gap_ms = book.counts.longest_gap_ms.max(gap.as_secs_f64() * 1000.0);
        }
        book.output.add(at);
        match book.entry(pts) {
            Some(frame) => {
                frame.out.get_or_insert(at);
            }
            None => book.counts.unmatched += 1,
        }
    }

    /// When the last byte of a kept frame was handed to the socket.
    pub fn sent_at(&self, pts: i64) -> Option<Instant> {
        self.lock().entry(pts)?.sent
    }

    /// Time stamp of the frame sent last.
    pub fn last_sent(&self) -> Option<i64> {
        self.lock().frames.iter().rev().find(|frame| frame.sent.is_some()).map(|frame| frame.pts)
    }

    /// Time stamp of the newest output frame.
    pub fn last_received(&self) -> Option<i64> {
        self.lock().last_pts
    }

    /// The longest time between two output frames since the last call, the one that still lasts at `now` included.
    pub fn take_gap(&self, now: Instant) -> Duration {
        let mut book = self.lock();
        let lasting = book.output.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        std::mem::take(&mut book.gap).max(lasting)
    }

    /// Frames by their fate so far; those under way are not missing yet.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Rates and latencies of the frames that came in or went out within `window` before `now`.
    pub fn recent(&self, now: Instant, window: Duration) -> Recent {
        let book = self.lock();
        let fresh = |at: &Instant| now.saturating_duration_since(*at) <= window;
        let (mut input, mut output, mut spread) = (0_u32, 0_u32, Vec::with_capacity(256));
        for frame in &book.frames {
            input += u32::from(frame.sent.as_ref().is_some_and(fresh));
            if let Some(out) = frame.out.filter(fresh) {
                output += 1;
                if let Some(sent) = frame.sent {
                    spread.push(out.saturating_duration_since(sent).as_secs_f64() * 1000.0);
                }
            }
        }
        spread.sort_by(f64::total_cmp);
        let at = |quantile: f64| {
            spread.get((spread.len() as f64 * quantile) as usize).or(spread.last()).copied().unwrap_or(0.0)
        };
        let seconds = window.as_secs_f64();
        Recent {
            fps_in: f64::from(input) / seconds,
            fps_out: f64::from(output) / seconds,
            p50: at(0.50),
            p95: at(0.95),
        }
    }

    /// Settles every frame and sums up. `first_output` is when the first output byte came.
    pub fn finish(&self, first_output: Option<Instant>) -> Summary {
        let mut book = self.lock();
        for frame in std::mem::take(&mut book.frames) {
            book.settle(frame);
        }
        let first_output_ms = first_output
            .zip(book.input.first)
            .map(|(output, input)| output.saturating_duration_since(input).as_secs_f64() * 1000.0);
        Summary {
            frames: book.counts,
            fps_in: book.input.per_second(),
            fps_out: book.output.per_second(),
            end_to_end_ms: book.end_to_end.figures(),
            floor_ms: book.floor.figures(),
            added_ms: book.added.figures(),
            first_output_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn frames_are_matched_by_their_time_stamp() {
        let ledger = Ledger::new();
        let start = Instant::now();
        for n in 0..10_u64 {
            let pts = n as i64 * 3000;
            ledger.announce(pts);
            ledger.sent(pts, ms(start, n * 33));
            ledger.read_back(pts, ms(start, n * 33 + 2));
            if n != 4 {
                ledger.received(pts, ms(start, n * 33 + 12));
            }
        }
        assert_eq!(ledger.last_sent(), Some(27_000));
        assert_eq!(ledger.sent_at(3000), Some(ms(start, 33)));
        let recent = ledger.recent(ms(start, 310), Duration::from_secs(1));
        assert_eq!((recent.fps_in, recent.fps_out), (10.0, 9.0));
        let summary = ledger.finish(Some(ms(start, 11)));
        assert_eq!(summary.frames.sent, 10);
        assert_eq!(summary.frames.received, 9);
        assert_eq!(summary.frames.missing, 1);
        assert_eq!(summary.frames.longest_gap_ms, 66.0);
        assert_eq!(summary.end_to_end_ms.count, 9);
        assert!((11.9..12.1).contains(&summary.end_to_end_ms.p50));
        assert!((1.9..2.1).contains(&summary.floor_ms.p95));
        assert!((9.9..10.1).contains(&summary.added_ms.max));
        assert_eq!(summary.first_output_ms, Some(11.0));
        assert!((30.0..30.4).contains(&summary.fps_in), "{}", summary.fps_in);
    }

    #[test]
    fn what_comes_before_it_is_known_to_be_sent_is_still_matched() {
        let ledger = Ledger::new();
        let start = Instant::now();
        ledger.announce(0);
        ledger.received(0, start);
        ledger.sent(0, ms(start, 1));
        let summary = ledger.finish(None);
        assert_eq!((summary.frames.missing, summary.frames.unmatched), (0, 0));
        assert_eq!(summary.end_to_end_ms.count, 1);
    }

    #[test]
    fn backward_and_unknown_output_is_counted() {
        let ledger = Ledger::new();
        let start = Instant::now();
        ledger.announce(3000);
        ledger.sent(3000, start);
        ledger.received(3000, start);
        ledger.received(3000, start);
        ledger.received(10, start);
        let counts = ledger.counts();
        assert_eq!((counts.backwards, counts.unmatched, counts.received), (2, 1, 3));
    }

    #[test]
    fn a_long_run_is_settled_as_it_goes() {
        let ledger = Ledger::new();
        let start = Instant::now();
        for n in 0..3 * KEPT as u64 {
            let pts = n as i64;
            ledger.announce(pts);
            ledger.sent(pts, ms(start, n));
            ledger.received(pts, ms(start, n + 5));
        }
        assert_eq!(ledger.lock().frames.len(), KEPT);
        assert_eq!(ledger.counts().missing, 0);
        assert_eq!(ledger.finish(None).end_to_end_ms.count, 3 * KEPT as u64);
    }
}
