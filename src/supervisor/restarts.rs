//! When the engine is replaced, and when it is given up. Pure functions of what was seen and of the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::link::{FromEngine, Phase};

/// What follows a failure of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start another one after this time.
    Again(Duration),
    /// Too many in too short a time.
    GiveUp,
}

/// Counts failures within a sliding window, so that four in a week are not as fatal as four in a minute.
#[derive(Debug)]
pub(super) struct Restarts {
    max: usize,
    window: Duration,
    recent: VecDeque<Instant>,
    total: u32,
}

impl Restarts {
    /// `max` failures within `window` are too many; 0 counts as 1.
    pub fn new(max: u32, window: Duration) -> Self {
        Self { max: max.max(1) as usize, window, recent: VecDeque::new(), total: 0 }
    }

    /// Notes a failure. The first is answered without delay, the next after a quarter of a second, doubling up to 5 s.
    pub fn failed(&mut self, now: Instant) -> Verdict {
        self.total = self.total.saturating_add(1);
        while self.recent.front().is_some_and(|&then| now.saturating_duration_since(then) > self.window) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        match self.recent.len() {
            count if count >= self.max => Verdict::GiveUp,
            1 => Verdict::Again(Duration::ZERO),
            count => Verdict::Again(Duration::from_millis(250 << (count - 2).min(5)).min(Duration::from_secs(5))),
        }
    }

    /// Failures since the process began.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Failures that still count.
    pub fn recent(&self) -> usize {
        self.recent.len()
    }
}

/// Why a living engine must be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No beat for this many milliseconds.
    Silent(u64),
    /// The model has been inside one call for this many milliseconds.
    Stuck(u64),
    /// It has been loading for this many milliseconds.
    SlowLoad(u64),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent(ms) => write!(f, "the engine gave no sign of life for {ms} ms"),
            Self::Stuck(ms) => write!(f, "the model has been busy with one frame for {ms} ms"),
            Self::SlowLoad(ms) => write!(f, "loading has not ended after {ms} ms"),
        }
    }
}

/// Signs of life of one engine.
#[derive(Debug)]
pub(super) struct Watch {
    hang: Duration,
    load: Duration,
    /// Since when it loads; `None` when warm.
    loading: Option<Instant>,
    beat: Instant,
    busy_ms: u64,
}

impl Watch {
    /// Of an engine started at `now`. While it loads only `load` counts; warm, it may be silent or stuck for `hang`.
    pub fn new(now: Instant, hang: Duration, load: Duration) -> Self {
        Self { hang, load, loading: Some(now), beat: now, busy_ms: 0 }
    }

    /// Notes what the engine said.
    pub fn saw(&mut self, message: &FromEngine, now: Instant) {
        match message {
            FromEngine::Beat { busy_ms } => {
                self.beat = now;
                self.busy_ms = *busy_ms;
            }
            FromEngine::Phase(Phase::Loading { .. }) => {
                self.loading.get_or_insert(now);
            }
            FromEngine::Phase(Phase::Ready { .. }) => {
                self.loading = None;
                self.beat = now;
                self.busy_ms = 0;
            }
            _ => {}
        }
    }

    /// What is wrong at `now`.
    pub fn fault(&self, now: Instant) -> Option<Fault> {
        let ms = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
        let hang = self.hang.as_millis() as u64;
        match self.loading {
            Some(since) if ms(since) > self.load.as_millis() as u64 => Some(Fault::SlowLoad(ms(since))),
            Some(_) => None,
            None if ms(self.beat) > hang => Some(Fault::Silent(ms(self.beat))),
            None if self.busy_ms > hang => Some(Fault::Stuck(self.busy_ms)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_failure_costs_no_time_and_the_third_is_the_last() {
        let now = Instant::now();
        let mut restarts = Restarts::new(3, 120 * SECOND);
        assert_eq!(restarts.failed(now), Verdict::Again(Duration::ZERO));
        assert_eq!(restarts.failed(now + SECOND), Verdict::Again(Duration::from_millis(250)));
        assert_eq!(restarts.failed(now + 2 * SECOND), Verdict::GiveUp);
    }

    #[test]
    fn old_failures_are_forgiven() {
        let now = Instant::now();
        let mut restarts = Restarts::new(3, 120 * SECOND);
        for hour in 0..100 {
            assert_eq!(restarts.failed(now + 3600 * hour * SECOND), Verdict::Again(Duration::ZERO));
        }
        assert_eq!((restarts.total(), restarts.recent()), (100, 1));
    }

    proptest! {
        #[test]
        fn it_gives_up_exactly_when_the_window_is_full(
            max in 1u32..6,
            gaps in proptest::collection::vec(0u64..100, 1..60),
        ) {
            let window = 120 * SECOND;
            let mut restarts = Restarts::new(max, window);
            let mut now = Instant::now();
            let mut times = Vec::new();
            for gap in gaps {
                now += Duration::from_secs(gap);
                times.push(now);
                let within = times.iter().filter(|&&then| now - then <= window).count();
                let verdict = restarts.failed(now);
                prop_assert_eq!(verdict == Verdict::GiveUp, within >= max as usize);
                if let Verdict::Again(delay) = verdict {
                    prop_assert!(delay <= 5 * SECOND);
                    prop_assert_eq!(delay.is_zero(), within == 1);
                }
            }
        }
    }

    #[test]
    fn a_warm_engine_must_beat_and_a_loading_one_must_end() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut watch = Watch::new(start, 10 * SECOND, 180 * SECOND);
        assert_eq!(watch.fault(at(180.0)), None);
        assert_eq!(watch.fault(at(181.0)), Some(Fault::SlowLoad(181_000)));

        watch.saw(&FromEngine::Phase(Phase::Ready { load_ms: 1, instances: 1, provider: None }), at(20.0));
        assert_eq!(watch.fault(at(30.0)), None);
        assert_eq!(watch.fault(at(30.5)), Some(Fault::Silent(10_500)));
        watch.saw(&FromEngine::Beat { busy_ms: 9_000 }, at(30.0));
        assert_eq!(watch.fault(at(30.5)), None);
        watch.saw(&FromEngine::Beat { busy_ms: 10_001 }, at(31.0));
        assert_eq!(watch.fault(at(31.0)), Some(Fault::Stuck(10_001)));

        watch.saw(&FromEngine::Phase(Phase::Loading { detail: String::new() }), at(32.0));
        assert_eq!(watch.fault(at(200.0)), None);
        assert_eq!(watch.fault(at(213.0)), Some(Fault::SlowLoad(181_000)));
    }
}
