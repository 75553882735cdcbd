//! Entry points for fuzzing. None may panic on any input.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};

use super::protocol::{
    self, Answer, Event, Limits, MAX_SEQ, Outcome, Position, PostStep, Progress, Publishing, SLOTS, Step, Subscribing,
};

/// Takes numbers and flags from arbitrary bytes; zeros once they are used up.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> Option<u64> {
        match self.byte() {
            0 => None,
            kind @ 1..=200 => Some(u64::from(kind % 16)),
            _ => Some(u64::from_le_bytes(std::array::from_fn(|_| self.byte()))),
        }
    }

    fn answer(&mut self) -> Answer {
        let status = match self.byte() % 8 {
            0..=2 => 200,
            3 | 4 => protocol::NO_SEGMENT,
            5 => 500,
            6 if self.byte().is_multiple_of(8) => 404,
            _ => u16::from(self.byte()) * 4,
        };
        let flags = self.byte();
        let (seq, latest) = (self.number(), self.number());
        Answer { status, seq, latest, closed: flags % 32 == 1, empty: flags & 2 != 0 }
    }

    fn limits(&mut self) -> Limits {
        Limits { max_failures: u32::from(self.byte() % 10), retry_delay: Duration::from_millis(300) }
    }
}

/// Reads headers and numbers.
pub fn fuzz_headers(data: &[u8]) {
    if let Some(seq) = protocol::parse_seq(data) {
        assert!(seq <= MAX_SEQ);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in
        [protocol::SEQ, protocol::LATEST, http::header::CONTENT_LENGTH].into_iter().zip(data.split(|b| *b == b'\n'))
    {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    let answer = Answer::read(200, &headers);
    assert!(answer.seq.is_none_or(|seq| seq <= MAX_SEQ) && answer.latest.is_none_or(|seq| seq <= MAX_SEQ));
}

/// Feeds a subscriber with arbitrary events; it never rushes and its end is final.
pub fn fuzz_subscriber(data: &[u8]) {
    let mut source = Source(data);
    let start = match source.byte() % 3 {
        0 => Position::Next,
        1 => Position::Current,
        _ => Position::Seq(source.number().unwrap_or(0)),
    };
    let mut state = Subscribing::new(start, source.limits());
    let (mut rush, mut ended) = (0, None);
    while !source.0.is_empty() {
        let event = match source.byte() % 16 {
            0 => Event::Silent,
            1 => Event::Failed,
            _ => Event::Answer(source.answer()),
        };
        let step = state.on(event);
        assert!(ended.is_none() || ended == Some(step));
        match step {
            Step::End(_) => ended = Some(step),
            Step::Deliver { seq, .. } => {
                assert!(seq <= MAX_SEQ);
                rush = 0;
            }
            Step::Get(get) if event != Event::Silent => {
                rush = if get.wait.is_zero() { rush + 1 } else { 0 };
                assert!(rush <= SLOTS);
            }
            Step::Get(_) => {}
        }
        if source.byte() == 7 && ended.is_none() {
            ended = state.bodies_broken(u32::from(source.byte() % 10)).map(Step::End);
        }
    }
}

/// Feeds a publisher with arbitrary outcomes; its numbers are consecutive and its end is final.
pub fn fuzz_publisher(data: &[u8]) {
    let mut source = Source(data);
    let mut expected = source.number().unwrap_or(0);
    let mut state = Publishing::new(expected, source.limits());
    let mut now = Instant::now();
    let mut ended = None;
    while !source.0.is_empty() {
        match state.take() {
            Ok(seq) => {
                assert!(seq == expected && seq <= MAX_SEQ && ended.is_none());
                expected += 1;
            }
            Err(reason) => ended = Some(reason),
        }
        let outcome = match source.byte() % 8 {
            0 => Outcome::Lost,
            1 => Outcome::Stalled,
            2 => Outcome::Abandoned,
            _ => Outcome::Answer(source.answer()),
        };
        let progress = Progress { bytes: u64::from(source.byte() % 3), whole: source.byte() & 1 == 1 };
        now += Duration::from_millis(u64::from(source.byte()) * 4);
        match state.on(now, progress, outcome) {
            PostStep::End(reason) => ended = Some(reason),
            PostStep::Again { wait } => assert!(progress.bytes == 0 && !wait.is_zero()),
            _ => assert!(ended.is_none()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entry_points_take_anything(data in prop::collection::vec(any::<u8>(), 0..400)) {
            fuzz_headers(&data);
            fuzz_subscriber(&data);
            fuzz_publisher(&data);
        }
    }
}
