//! A publisher's knowledge of its channel.

use std::time::{Duration, Instant};

use super::{Answer, EndReason, Limits, MAX_SEQ, SLOTS};

/// How much of a segment its connection has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the body.
    pub bytes: u64,
    /// The end of the body as well.
    pub whole: bool,
}

/// What became of a POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The final answer, possibly before the body had ended.
    Answer(Answer),
    /// No connection, or it broke.
    Lost,
    /// The connection took nothing, or gave no answer, for too long.
    Stalled,
    /// The caller gave the segment up.
    Abandoned,
    /// The server's certificate is refused.
    Refused,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostStep {
    /// The segment is published.
    Done,
    /// Nothing of it went out: POST the same number again.
    Again {
        /// How long to wait before.
        wait: Duration,
    },
    /// The server has closed the segment early; its number is used up. The next one follows.
    Skip {
        /// How long to wait before.
        wait: Duration,
    },
    /// The segment is cut short and its readers hang: DELETE it. The next one follows.
    Delete,
    /// The channel has ended.
    End(EndReason),
}

/// A publisher's knowledge of its channel, and its decisions.
#[derive(Clone, Debug)]
pub struct Publishing {
    limits: Limits,
    next: u64,
    worked: bool,
    failures: u32,
    /// When one was last counted.
    counted: Option<Instant>,
    skips: u64,
    ended: Option<EndReason>,
}

impl Publishing {
    /// A publisher whose first segment will have the number `next`.
    pub fn new(next: u64, limits: Limits) -> Self {
        Self { limits, next, worked: false, failures: 0, counted: None, skips: 0, ended: None }
    }

    /// Why the channel ended, if it has.
    pub fn ended(&self) -> Option<EndReason> {
        self.ended
    }

    /// Gives out the number of the next segment to open, consecutive and each one once.
    ///
    /// # Errors
    /// The channel has ended, or its numbers are used up.
    pub fn take(&mut self) -> Result<u64, EndReason> {
        if let Some(reason) = self.ended {
            return Err(reason);
        }
        if self.next > MAX_SEQ {
            return Err(self.end(EndReason::Failures));
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Decides what follows from the outcome of one POST, which is known at `now`.
    pub fn on(&mut self, now: Instant, progress: Progress, outcome: Outcome) -> PostStep {
        if let Some(reason) = self.ended {
            return PostStep::End(reason);
        }
        match outcome {
            Outcome::Abandoned => PostStep::Delete,
            Outcome::Refused => PostStep::End(self.end(EndReason::Certificate)),
            Outcome::Lost | Outcome::Stalled => self.failed(now, progress),
            Outcome::Answer(answer) if answer.closed => PostStep::End(self.end(EndReason::Closed)),
            Outcome::Answer(Answer { status: 404, .. }) => {
                let reason = if self.worked { EndReason::Gone } else { EndReason::NotFound };
                PostStep::End(self.end(reason))
            }
            Outcome::Answer(Answer { status: 200..=299, .. }) => self.accepted(now, progress),
            Outcome::Answer(_) => self.failed(now, progress),
        }
    }

    fn accepted(&mut self, now: Instant, progress: Progress) -> PostStep {
        self.worked = true;
        if progress.whole {
            self.failures = 0;
            self.skips = 0;
            return PostStep::Done;
        }
        // A used channel can have as many closed segments in the way as it has slots; more is a fault.
        self.skips += 1;
        if self.skips <= SLOTS {
            return PostStep::Skip { wait: Duration::ZERO };
        }
        match self.count(now) {
            Some(reason) => PostStep::End(reason),
            None => PostStep::Skip { wait: self.limits.retry_delay },
        }
    }

    fn failed(&mut self, now: Instant, progress: Progress) -> PostStep {
        match self.count(now) {
            Some(reason) => PostStep::End(reason),
            None if progress.bytes == 0 => PostStep::Again { wait: self.limits.retry_delay },
            None => PostStep::Delete,
        }
    }

    /// Several POSTs are open at a time, and one fault breaks them all: within the pause between two tries it counts once.
    fn count(&mut self, now: Instant) -> Option<EndReason> {
        if self.counted.is_none_or(|at| now.saturating_duration_since(at) >= self.limits.retry_delay) {
            self.counted = Some(now);
            self.failures += 1;
        }
        (self.failures >= self.limits.max_failures).then(|| self.end(EndReason::Failures))
    }

    fn end(&mut self, reason: EndReason) -> EndReason {
        self.ended = Some(reason);
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A publisher whose failures are a pause between two tries apart.
    struct Paced(Publishing, Instant);

    impl Paced {
        fn on(&mut self, progress: Progress, outcome: Outcome) -> PostStep {
            self.1 += DELAY;
            self.0.on(self.1, progress, outcome)
        }
    }

    fn paced() -> Paced {
        Paced(Publishing::new(0, LIMITS), Instant::now())
    }

    const DELAY: Duration = Duration::from_millis(300);
    const LIMITS: Limits = Limits { max_failures: 7, retry_delay: DELAY };
    const NOTHING: Progress = Progress { bytes: 0, whole: false };
    const PART: Progress = Progress { bytes: 9, whole: false };
    const WHOLE: Progress = Progress { bytes: 9, whole: true };

    fn status(status: u16) -> Outcome {
        Outcome::Answer(Answer { status, seq: None, latest: None, closed: false, empty: true })
    }

    #[test]
    fn numbers_are_consecutive() {
        let mut p = Publishing::new(4, LIMITS);
        assert_eq!([p.take(), p.take(), p.take()], [Ok(4), Ok(5), Ok(6)]);
        let mut p = Publishing::new(MAX_SEQ, LIMITS);
        assert_eq!([p.take(), p.take(), p.take()], [Ok(MAX_SEQ), Err(EndReason::Failures), Err(EndReason::Failures)]);
    }

    #[test]
    fn what_follows_depends_on_how_much_went_out() {
        let mut p = paced();
        assert_eq!(p.on(WHOLE, status(200)), PostStep::Done);
        assert_eq!(p.on(Progress { bytes: 0, whole: true }, status(200)), PostStep::Done);
        assert_eq!(p.on(NOTHING, Outcome::Lost), PostStep::Again { wait: DELAY });
        assert_eq!(p.on(Progress { bytes: 0, whole: true }, Outcome::Lost), PostStep::Again { wait: DELAY });
        assert_eq!(p.on(PART, Outcome::Lost), PostStep::Delete);
        assert_eq!(p.on(WHOLE, status(500)), PostStep::Delete);
        assert_eq!(p.on(NOTHING, status(200)), PostStep::Skip { wait: Duration::ZERO });
        assert_eq!(p.on(PART, status(200)), PostStep::Skip { wait: Duration::ZERO });
        assert_eq!(p.on(NOTHING, Outcome::Abandoned), PostStep::Delete);
    }

    #[test]
    fn the_ends_are_told_apart_and_final() {
        let mut p = paced();
        assert_eq!(p.on(NOTHING, status(404)), PostStep::End(EndReason::NotFound));
        assert_eq!(p.0.take(), Err(EndReason::NotFound));
        let mut p = paced();
        p.on(WHOLE, status(200));
        assert_eq!(p.on(NOTHING, status(404)), PostStep::End(EndReason::Gone));
        let mut p = paced();
        let closed = Answer { status: 200, seq: Some(0), latest: None, closed: true, empty: true };
        assert_eq!(p.on(NOTHING, Outcome::Answer(closed)), PostStep::End(EndReason::Closed));
        assert_eq!(p.on(WHOLE, status(200)), PostStep::End(EndReason::Closed));
    }

    #[test]
    fn failures_in_a_row_end_and_a_success_forgives_them() {
        let mut p = paced();
        for _ in 0..6 {
            assert_eq!(p.on(PART, status(500)), PostStep::Delete);
        }
        assert_eq!(p.on(WHOLE, status(200)), PostStep::Done);
        for _ in 0..6 {
            assert_eq!(p.on(PART, Outcome::Stalled), PostStep::Delete);
        }
        assert_eq!(p.on(NOTHING, Outcome::Lost), PostStep::End(EndReason::Failures));
    }

    #[test]
    fn one_fault_counts_once_however_many_posts_it_breaks() {
        let (mut p, now) = (Publishing::new(0, LIMITS), Instant::now());
        for _ in 0..20 {
            assert_eq!(p.on(now, PART, Outcome::Lost), PostStep::Delete);
        }
        for i in 1..6 {
            assert_eq!(p.on(now + DELAY * i, PART, Outcome::Lost), PostStep::Delete);
            assert_eq!(p.on(now + DELAY * i, NOTHING, Outcome::Lost), PostStep::Again { wait: DELAY });
        }
        assert_eq!(p.on(now + DELAY * 6, NOTHING, Outcome::Lost), PostStep::End(EndReason::Failures));
    }

    fn outcomes() -> impl Strategy<Value = (Progress, Outcome)> {
        let status = prop_oneof![4 => Just(200u16), 1 => Just(404), 3 => Just(500), 1 => 100u16..999];
        let answer = (status, prop::bool::weighted(0.03)).prop_map(|(status, closed)| {
            Outcome::Answer(Answer { status, seq: None, latest: None, closed, empty: true })
        });
        let outcome = prop_oneof![
            6 => answer,
            2 => Just(Outcome::Lost),
            1 => Just(Outcome::Stalled),
            1 => Just(Outcome::Abandoned)
        ];
        let progress = (0u64..3, any::<bool>()).prop_map(|(bytes, whole)| Progress { bytes, whole });
        (progress, outcome)
    }

    proptest! {
        #[test]
        fn any_outcomes_are_survived(max_failures in 0u32..9, outcomes in prop::collection::vec(outcomes(), 1..200)) {
            let mut p = Paced(Publishing::new(0, Limits { max_failures, retry_delay: DELAY }), Instant::now());
            let (mut idle, mut bad, mut expected, mut ended) = (0, 0, 0, None);
            for (progress, outcome) in outcomes {
                if let Some(reason) = ended {
                    prop_assert_eq!(p.on(progress, outcome), PostStep::End(reason));
                    prop_assert_eq!(p.0.take(), Err(reason));
                    continue;
                }
                prop_assert_eq!(p.0.take(), Ok(expected));
                expected += 1;
                match p.on(progress, outcome) {
                    PostStep::End(reason) => ended = Some(reason),
                    PostStep::Done => (idle, bad) = (0, 0),
                    PostStep::Again { wait } => {
                        bad += 1;
                        prop_assert_eq!((wait, progress.bytes), (DELAY, 0));
                    }
                    PostStep::Skip { wait } => {
                        prop_assert!(!progress.whole);
                        idle += 1;
                        prop_assert!(idle <= SLOTS || wait == DELAY);
                        bad += u32::from(!wait.is_zero());
                    }
                    PostStep::Delete => bad += u32::from(outcome != Outcome::Abandoned),
                }
                prop_assert!(ended.is_some() || bad < max_failures.max(1));
            }
        }
    }
}
