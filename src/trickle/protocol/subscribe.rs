//! A subscriber's knowledge of its channel.

use std::time::Duration;

use super::{Answer, EndReason, Limits, MAX_SEQ, NO_SEGMENT, Position, SLOTS};

/// What became of a GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its headers came.
    Answer(Answer),
    /// Nothing came for a long time; a waiting segment and a dead server look alike.
    Silent,
    /// No connection, or it broke before the headers.
    Failed,
    /// The server's certificate is refused.
    Refused,
}

/// A GET to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Get {
    /// What to ask for.
    pub position: Position,
    /// How long to wait before.
    pub wait: Duration,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Open this GET; the answer at hand, if any, holds nothing for the reader.
    Get(Get),
    /// The answer's body is a segment.
    Deliver {
        /// Its number.
        seq: u64,
        /// The channel's next number when the GET was accepted; `None` at the live edge.
        latest: Option<u64>,
        /// Numbers between the last segment and this one that were never seen.
        gap: u64,
        /// The number is not above the last one: the publisher began anew.
        restarted: bool,
        /// The GET to keep open ahead.
        then: Get,
    },
    /// The channel has ended.
    End(EndReason),
}

/// A subscriber's knowledge of its channel, and its decisions.
///
/// Between two delivered segments at most [`SLOTS`] GETs follow each other without a wait, silent ones aside.
#[derive(Clone, Debug)]
pub struct Subscribing {
    limits: Limits,
    position: Position,
    last: Option<u64>,
    worked: bool,
    failures: u32,
    misses: u32,
    quick: u64,
    broken: u32,
    keep_newest: bool,
    ended: Option<EndReason>,
}

impl Subscribing {
    /// A subscriber that has asked for nothing yet.
    pub fn new(start: Position, limits: Limits) -> Self {
        let position = match start {
            Position::Seq(seq) => Position::Seq(seq.min(MAX_SEQ + 1)),
            other => other,
        };
        Self {
            limits,
            position,
            last: None,
            worked: false,
            failures: 0,
            misses: 0,
            quick: 0,
            broken: 0,
            keep_newest: false,
            ended: None,
        }
    }

    /// A reader that falls behind goes on with the newest segment that is there instead of the one that comes next: right
    /// where the last document counts, as on a control channel.
    pub fn keeping_newest(self) -> Self {
        Self { keep_newest: true, ..self }
    }

    /// The first GET.
    pub fn first(&self) -> Get {
        Get { position: self.position, wait: Duration::ZERO }
    }

    /// Why the channel ended, if it has.
    pub fn ended(&self) -> Option<EndReason> {
        self.ended
    }

    /// Tells how many bodies in a row have broken off. Too many end the channel.
    pub fn bodies_broken(&mut self, in_a_row: u32) -> Option<EndReason> {
        self.broken = in_a_row;
        if in_a_row >= self.limits.max_failures.max(1) && self.ended.is_none() {
            self.ended = Some(EndReason::Failures);
        }
        self.ended
    }

    /// Gives the channel's next number to a subscriber that still asks for "next".
    pub fn resolve(&mut self, next: u64) {
        if self.position == Position::Next && next <= MAX_SEQ {
            self.position = Position::Seq(next);
        }
    }

    /// Decides what follows from an event of the GET that was asked for last.
    pub fn on(&mut self, event: Event) -> Step {
        if let Some(reason) = self.ended {
            return Step::End(reason);
        }
        match event {
            Event::Silent => Step::Get(Get { position: self.position, wait: Duration::ZERO }),
            Event::Failed => self.failed(self.position),
            Event::Refused => self.end(EndReason::Certificate),
            Event::Answer(answer) => self.answered(answer),
        }
    }

    fn answered(&mut self, answer: Answer) -> Step {
        match answer.status {
            // The body of such an answer is an error text even under status 200.
            _ if answer.closed => self.end(EndReason::Closed),
            404 if self.worked => self.end(EndReason::Gone),
            404 => self.end(EndReason::NotFound),
            200 => self.served(answer),
            NO_SEGMENT => self.missed(answer),
            _ => self.failed(self.position),
        }
    }

    fn served(&mut self, answer: Answer) -> Step {
        let asked = match self.position {
            Position::Seq(seq) => Some(seq),
            _ => None,
        };
        let Some(seq) = answer.seq.or(asked).filter(|seq| *seq <= MAX_SEQ) else {
            return self.failed(self.position);
        };
        self.worked = true;
        self.failures = 0;
        self.misses = 0;
        self.position = Position::Seq(seq + 1);
        let gap = self.last.map_or(0, |last| seq.saturating_sub(last.saturating_add(1)));
        let restarted = self.last.is_some_and(|last| seq <= last);
        self.last = Some(seq);
        let backwards = asked.is_some_and(|asked| seq < asked);
        if answer.empty {
            return self.quickly(backwards);
        }
        self.quick = 0;
        let wait = if backwards || self.broken > 0 { self.limits.retry_delay } else { Duration::ZERO };
        Step::Deliver { seq, latest: answer.latest, gap, restarted, then: Get { position: self.position, wait } }
    }

    fn missed(&mut self, answer: Answer) -> Step {
        self.worked = true;
        self.misses += 1;
        let target = match (answer.latest, self.position) {
            (Some(latest), Position::Seq(asked)) if self.keep_newest && asked + 1 < latest => Position::Seq(latest - 1),
            (latest, _) => latest.map_or(Position::Next, Position::Seq),
        };
        // The first miss is a reader that fell behind; it jumps at once. What misses again is a fault, unless the newest is
        // wanted: in a burst of documents that may be gone, too, before it is asked for.
        let jumps = if self.keep_newest { SLOTS as u32 } else { 1 };
        if self.misses > jumps || target == self.position {
            return self.failed(target);
        }
        self.position = target;
        self.quickly(false)
    }

    /// The next GET at once, unless too many have followed each other without a segment.
    fn quickly(&mut self, slow: bool) -> Step {
        self.quick += 1;
        let wait = if slow || self.quick > SLOTS { self.limits.retry_delay } else { Duration::ZERO };
        if !wait.is_zero() {
            self.quick = 0;
        }
        Step::Get(Get { position: self.position, wait })
    }

    fn failed(&mut self, position: Position) -> Step {
        self.position = position;
        self.failures += 1;
        if self.failures >= self.limits.max_failures {
            return self.end(EndReason::Failures);
        }
        self.quick = 0;
        Step::Get(Get { position, wait: self.limits.retry_delay })
    }

    fn end(&mut self, reason: EndReason) -> Step {
        self.ended = Some(reason);
        Step::End(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DELAY: Duration = Duration::from_millis(300);
    const LIMITS: Limits = Limits { max_failures: 7, retry_delay: DELAY };

    fn at(start: Position) -> Subscribing {
        Subscribing::new(start, LIMITS)
    }

    fn answer(status: u16, seq: Option<u64>, latest: Option<u64>) -> Event {
        Event::Answer(Answer { status, seq, latest, closed: false, empty: false })
    }

    fn now(position: Position) -> Get {
        Get { position, wait: Duration::ZERO }
    }

    fn later(position: Position) -> Step {
        Step::Get(Get { position, wait: DELAY })
    }

    #[test]
    fn segments_follow_each_other() {
        let mut s = at(Position::Current);
        assert_eq!(s.first(), now(Position::Current));
        let step = s.on(answer(200, Some(41), Some(42)));
        let then = now(Position::Seq(42));
        assert_eq!(step, Step::Deliver { seq: 41, latest: Some(42), gap: 0, restarted: false, then });
        let then = now(Position::Seq(43));
        let step = s.on(answer(200, None, None));
        assert_eq!(step, Step::Deliver { seq: 42, latest: None, gap: 0, restarted: false, then });
    }

    #[test]
    fn a_late_reader_jumps_at_once_and_the_gap_is_counted() {
        let mut s = at(Position::Seq(1));
        s.on(answer(200, Some(1), None));
        assert_eq!(s.on(answer(470, Some(2), Some(9))), Step::Get(now(Position::Seq(9))));
        let Step::Deliver { seq, gap, .. } = s.on(answer(200, Some(9), None)) else { panic!() };
        assert_eq!((seq, gap), (9, 7));
    }

    #[test]
    fn where_the_last_document_counts_a_late_reader_takes_the_newest() {
        let mut s = at(Position::Seq(1)).keeping_newest();
        assert_eq!(s.on(answer(470, Some(1), Some(9))), Step::Get(now(Position::Seq(8))));
        let Step::Deliver { seq, .. } = s.on(answer(200, Some(8), None)) else { panic!() };
        assert_eq!(seq, 8);
        // The newest itself is gone: what comes next is all there is.
        let mut s = at(Position::Seq(1)).keeping_newest();
        s.on(answer(470, Some(1), Some(9)));
        assert_eq!(s.on(answer(470, Some(8), Some(9))), Step::Get(now(Position::Seq(9))));
        let mut s = at(Position::Seq(8)).keeping_newest();
        assert_eq!(s.on(answer(470, Some(8), Some(9))), Step::Get(now(Position::Seq(9))));
    }

    #[test]
    fn a_burst_that_outruns_the_reader_again_and_again_still_leaves_it_the_newest() {
        let mut s = at(Position::Seq(1)).keeping_newest();
        for round in 1..=SLOTS {
            let latest = 10 * round;
            assert_eq!(s.on(answer(470, None, Some(latest))), Step::Get(now(Position::Seq(latest - 1))));
        }
        // It takes a breath then, and still asks for the newest.
        assert_eq!(s.on(answer(470, None, Some(90))), later(Position::Seq(89)));
        let Step::Deliver { seq, .. } = s.on(answer(200, Some(89), None)) else { panic!() };
        assert_eq!(seq, 89);
    }

    #[test]
    fn misses_in_a_row_wait_and_end() {
        let mut s = at(Position::Seq(4));
        assert_eq!(s.on(answer(470, None, None)), Step::Get(now(Position::Next)));
        for _ in 0..6 {
            assert_eq!(s.on(answer(470, None, Some(2))), later(Position::Seq(2)));
        }
        assert_eq!(s.on(answer(470, None, Some(2))), Step::End(EndReason::Failures));
    }

    #[test]
    fn the_ends_are_told_apart_and_final() {
        let mut s = at(Position::Next);
        assert_eq!(s.on(answer(404, None, None)), Step::End(EndReason::NotFound));
        assert_eq!(s.on(answer(200, Some(1), None)), Step::End(EndReason::NotFound));
        let mut s = at(Position::Next);
        s.on(answer(200, Some(1), None));
        assert_eq!(s.on(answer(404, None, None)), Step::End(EndReason::Gone));
        let mut s = at(Position::Next);
        let closed = Answer { status: 200, seq: Some(3), latest: Some(4), closed: true, empty: false };
        assert_eq!(s.on(Event::Answer(closed)), Step::End(EndReason::Closed));
        let mut s = at(Position::Next);
        assert_eq!(s.on(Event::Refused), Step::End(EndReason::Certificate));
    }

    #[test]
    fn failures_wait_and_a_success_forgives_them() {
        let mut s = at(Position::Seq(0));
        for _ in 0..6 {
            assert_eq!(s.on(Event::Failed), later(Position::Seq(0)));
        }
        s.on(answer(200, Some(0), None));
        for _ in 0..6 {
            assert_eq!(s.on(answer(500, None, None)), later(Position::Seq(1)));
        }
        assert_eq!(s.on(Event::Failed), Step::End(EndReason::Failures));
    }

    #[test]
    fn silence_is_no_failure() {
        let mut s = at(Position::Seq(3));
        for _ in 0..1000 {
            assert_eq!(s.on(Event::Silent), Step::Get(now(Position::Seq(3))));
        }
    }

    #[test]
    fn a_silent_next_becomes_a_number() {
        let mut s = at(Position::Next);
        s.resolve(6);
        assert_eq!(s.on(Event::Silent), Step::Get(now(Position::Seq(6))));
        s.resolve(8);
        assert_eq!(s.on(Event::Silent), Step::Get(now(Position::Seq(6))));
        let mut s = at(Position::Next);
        s.resolve(u64::MAX);
        assert_eq!(s.on(Event::Silent), Step::Get(now(Position::Next)));
    }

    #[test]
    fn numbers_may_go_backwards_but_not_in_a_rush() {
        let mut s = at(Position::Seq(50));
        s.on(answer(200, Some(50), None));
        let Step::Deliver { seq, restarted, then, .. } = s.on(answer(200, Some(0), Some(1))) else { panic!() };
        assert!(restarted);
        assert_eq!((seq, then), (0, Get { position: Position::Seq(1), wait: DELAY }));
    }

    #[test]
    fn a_relative_answer_without_a_number_is_a_failure() {
        let mut s = at(Position::Next);
        assert_eq!(s.on(answer(200, None, None)), later(Position::Next));
    }

    #[test]
    fn broken_bodies_slow_down_and_end() {
        let mut s = at(Position::Seq(0));
        assert_eq!(s.bodies_broken(1), None);
        let Step::Deliver { then, .. } = s.on(answer(200, Some(0), None)) else { panic!() };
        assert_eq!(then.wait, DELAY);
        assert_eq!(s.bodies_broken(0), None);
        let Step::Deliver { then, .. } = s.on(answer(200, Some(1), None)) else { panic!() };
        assert_eq!(then.wait, Duration::ZERO);
        assert_eq!(s.bodies_broken(7), Some(EndReason::Failures));
        assert_eq!(s.on(answer(200, Some(2), None)), Step::End(EndReason::Failures));
    }

    fn events() -> impl Strategy<Value = Event> {
        let number = prop_oneof![
            Just(None),
            (0u64..12).prop_map(Some),
            (MAX_SEQ - 2..=MAX_SEQ).prop_map(Some),
            any::<u64>().prop_map(Some)
        ];
        let status = prop_oneof![4 => Just(200u16), 3 => Just(470), 1 => Just(404), 2 => Just(500), 1 => 100u16..999];
        let closed = prop::bool::weighted(0.03);
        let answer =
            (status, number.clone(), number, closed, any::<bool>()).prop_map(|(status, seq, latest, closed, empty)| {
                Event::Answer(Answer { status, seq, latest, closed, empty })
            });
        prop_oneof![8 => answer, 1 => Just(Event::Silent), 2 => Just(Event::Failed)]
    }

    proptest! {
        #[test]
        fn any_answers_are_survived(
            start in prop_oneof![Just(Position::Next), Just(Position::Current), any::<u64>().prop_map(Position::Seq)],
            max_failures in 0u32..9,
            keep_newest in any::<bool>(),
            events in prop::collection::vec(events(), 1..200),
        ) {
            let mut s = Subscribing::new(start, Limits { max_failures, retry_delay: DELAY });
            if keep_newest {
                s = s.keeping_newest();
            }
            let (mut without_wait, mut failures, mut ended) = (0, 0, None);
            for event in events {
                let step = s.on(event);
                if let Some(reason) = ended {
                    prop_assert_eq!(step, Step::End(reason));
                    continue;
                }
                let plain_failure = match event {
                    Event::Failed => true,
                    Event::Answer(a) => !a.closed && ![200, 404, 470].contains(&a.status),
                    _ => false,
                };
                match step {
                    Step::End(reason) => ended = Some(reason),
                    Step::Deliver { seq, then, .. } => {
                        (without_wait, failures) = (0, 0);
                        prop_assert_eq!(then.position, Position::Seq(seq + 1));
                        prop_assert!(seq <= MAX_SEQ);
                    }
                    Step::Get(get) => {
                        if let Event::Answer(Answer { status: 200, .. }) = event {
                            failures = 0;
                        }
                        failures += u32::from(plain_failure);
                        prop_assert!(failures < max_failures.max(1));
                        prop_assert!(!plain_failure || get.wait == DELAY);
                        if event != Event::Silent {
                            without_wait = if get.wait.is_zero() { without_wait + 1 } else { 0 };
                        }
                        prop_assert!(without_wait <= SLOTS);
                    }
                }
            }
            prop_assert_eq!(s.ended(), ended);
        }

        #[test]
        fn only_failures_end_within_the_limit(max_failures in 1u32..20, statuses in prop::collection::vec(500u16..600, 20)) {
            let mut s = Subscribing::new(Position::Next, Limits { max_failures, retry_delay: DELAY });
            let tries = statuses.iter().take_while(|status| !matches!(s.on(answer(**status, None, None)), Step::End(_)));
            prop_assert_eq!(tries.count() as u32, max_failures - 1);
        }
    }
}
