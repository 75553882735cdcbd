//! Events a second over a sliding window.

use std::time::{Duration, Instant};

const BUCKETS: usize = 20;
const BUCKET: Duration = Duration::from_millis(250);
/// The shortest time over which a rate is told.
const SHORTEST: Duration = Duration::from_secs(1);

/// Events a second over the last five seconds, in quarter-second buckets: 160 bytes, no allocation, any rate.
///
/// Times must not go backwards; an earlier time counts as the latest one seen.
#[derive(Clone, Debug)]
pub struct Rate {
    counts: [u32; BUCKETS],
    /// Where bucket 0 of the first turn began: the first event.
    origin: Option<Instant>,
    /// Number of the current bucket, counted from `origin`.
    current: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Self::new()
    }
}

impl Rate {
    /// A meter that has seen nothing.
    pub const fn new() -> Self {
        Self { counts: [0; BUCKETS], origin: None, current: 0 }
    }

    /// Counts one event at `now`.
    pub fn tick(&mut self, now: Instant) {
        let origin = *self.origin.get_or_insert(now);
        self.advance(origin, now);
        let bucket = &mut self.counts[(self.current % BUCKETS as u64) as usize];
        *bucket = bucket.saturating_add(1);
    }

    /// Events a second; `None` until a second after the first event, 0 five seconds after the last.
    pub fn per_second(&mut self, now: Instant) -> Option<f64> {
        let origin = self.origin?;
        self.advance(origin, now);
        let oldest = self.current.saturating_sub(BUCKETS as u64 - 1);
        let begin = Duration::from_millis(oldest.saturating_mul(BUCKET.as_millis() as u64));
        let window = now.saturating_duration_since(origin).saturating_sub(begin);
        if window < SHORTEST {
            return None;
        }
        let sum: u64 = self.counts.iter().map(|&count| u64::from(count)).sum();
        Some(sum as f64 / window.as_secs_f64())
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    fn advance(&mut self, origin: Instant, now: Instant) {
        let target = (now.saturating_duration_since(origin).as_millis() / BUCKET.as_millis()) as u64;
        let steps = target.saturating_sub(self.current).min(BUCKETS as u64);
        for step in 0..steps {
            self.counts[((target - step) % BUCKETS as u64) as usize] = 0;
        }
        self.current = self.current.max(target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_told_before_a_second_has_passed() {
        let start = Instant::now();
        let mut rate = Rate::new();
        assert_eq!(rate.per_second(start), None);
        for frame in 0..20 {
            rate.tick(start + Duration::from_millis(frame * 40));
        }
        assert_eq!(rate.per_second(start + Duration::from_millis(999)), None);
        assert!(rate.per_second(start + Duration::from_millis(1000)).is_some());
    }

    #[test]
    fn a_silent_stream_falls_to_zero_and_comes_back() {
        let start = Instant::now();
        let mut rate = Rate::new();
        for frame in 0..100 {
            rate.tick(start + Duration::from_millis(frame * 33));
        }
        assert_eq!(rate.per_second(start + Duration::from_secs(60)), Some(0.0));
        for frame in 0..300 {
            rate.tick(start + Duration::from_millis(60_000 + frame * 33));
        }
        let fps = rate.per_second(start + Duration::from_millis(60_000 + 300 * 33)).expect("a rate");
        assert!((fps - 30.3).abs() < 0.5, "{fps}");
    }

    #[test]
    fn a_time_that_goes_back_is_harmless() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut rate = Rate::new();
        rate.tick(start);
        rate.tick(start - Duration::from_secs(5));
        rate.tick(start + Duration::from_secs(2));
        rate.tick(start + Duration::from_secs(1));
        assert_eq!(rate.per_second(start + Duration::from_secs(2)), Some(2.0));
    }

    proptest! {
        #[test]
        fn a_steady_stream_shows_its_rate(fps in 1.0f64..240.0, seconds in 6u64..30) {
            let start = Instant::now();
            let mut rate = Rate::new();
            let frames = (fps * seconds as f64) as u64;
            for frame in 0..frames {
                rate.tick(start + Duration::from_secs_f64(frame as f64 / fps));
            }
            let told = rate.per_second(start + Duration::from_secs_f64(frames as f64 / fps)).unwrap_or(-1.0);
            prop_assert!((told - fps).abs() <= 0.5 + fps * 0.01, "{told} for {fps}");
        }

        #[test]
        fn it_never_counts_more_than_it_saw(gaps in proptest::collection::vec(0u64..4000, 1..200)) {
            let start = Instant::now();
            let mut rate = Rate::new();
            let mut now = start;
            for gap in &gaps {
                now += Duration::from_millis(*gap);
                rate.tick(now);
            }
            let told = rate.per_second(now).unwrap_or(0.0);
            prop_assert!(told <= gaps.len() as f64 && told >= 0.0);
        }
    }
}
