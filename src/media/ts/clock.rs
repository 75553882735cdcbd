//! From the 33-bit counter of the stream to a time line without wraps.

use crate::frame::Timestamp;

/// Ticks after which the counter begins again.
pub(crate) const WRAP: i64 = 1 << 33;
/// A step back of more than this within a stream is a jump; decoding times never go back.
const BACK: i64 = Timestamp::HZ / 10;
/// A step ahead of more than this is a jump.
const AHEAD: i64 = 10 * Timestamp::HZ;

/// Extends 33-bit times by choosing, of all times with the same 33 bits, the one nearest to the last.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: Option<i64>,
}

impl Clock {
    /// The unwrapped time of `ticks`, without taking note of it.
    pub fn peek(&self, ticks: u64) -> i64 {
        let ticks = (ticks & (WRAP as u64 - 1)) as i64;
        match self.last {
            None => ticks,
            Some(last) => {
                let step = (ticks - last).rem_euclid(WRAP);
                last + if step >= WRAP / 2 { step - WRAP } else { step }
            }
        }
    }

    /// The unwrapped time of `ticks`, and the stream's last one, kept in `stream`, if this is a jump away from it.
    pub fn unwrap(&mut self, ticks: u64, stream: &mut Option<i64>) -> (i64, Option<i64>) {
        let time = self.peek(ticks);
        let jump = stream.replace(time).filter(|&last| time < last - BACK || time > last + AHEAD);
        self.last = Some(time);
        (time, jump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_are_unwrapped_and_jumps_are_told() {
        let (mut clock, mut video, mut audio) = (Clock::default(), None, None);
        let top = WRAP as u64 - 3000;
        assert_eq!(clock.unwrap(top, &mut video), (WRAP - 3000, None));
        assert_eq!(clock.unwrap(0, &mut video), (WRAP, None));
        // Another stream of the program, from before the wrap.
        assert_eq!(clock.unwrap(top, &mut audio), (WRAP - 3000, None));
        assert_eq!(clock.unwrap(3000, &mut video), (WRAP + 3000, None));
        assert_eq!(clock.unwrap(900_000 * 2, &mut video), (WRAP + 1_800_000, Some(WRAP + 3000)));
        assert_eq!(clock.unwrap(900_000, &mut video), (WRAP + 900_000, Some(WRAP + 1_800_000)));
    }

    #[test]
    fn a_second_wrap_goes_on_counting() {
        let (mut clock, mut stream) = (Clock::default(), None);
        let mut at = 0u64;
        for _ in 0..20 {
            at += WRAP as u64 / 8;
            assert_eq!(clock.unwrap(at % WRAP as u64, &mut stream).0, at as i64);
        }
    }
}
