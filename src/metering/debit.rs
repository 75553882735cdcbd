//! What an orchestrator debits for a stream, computed from the beginnings of its input segments.
//!
//! The rule is go-livepeer's for live video to video: time stands for pixels at a fixed rate, whatever is decoded or
//! delivered. When an input segment begins and at least one payment interval has passed since the point up to which was
//! billed, the whole pixels of that time are debited, and the point moves on by the time of those pixels only, so that
//! a fraction of a pixel is carried to the next debit. A stalled input is billed in one lump with its next segment.

use std::time::Duration;

/// Pixels that a second costs: 1280 × 720 at 30 frames a second.
pub const PIXELS_PER_SECOND: u64 = 1280 * 720 * 30;

const SECOND: i64 = 1_000_000_000;

/// The debit clock of one stream. Times are nanoseconds on any one clock that does not step back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debit {
    interval_ns: i64,
    billed_until_ns: i64,
}

impl Debit {
    /// A stream that began, or was billed up to, `from_ns`, and is billed every `interval`.
    pub fn new(interval: Duration, from_ns: i64) -> Self {
        Self { interval_ns: interval.as_nanos().min(i64::MAX as u128) as i64, billed_until_ns: from_ns }
    }

    /// An input segment begins at `now_ns`. The pixels that are debited now; `None` when it is too early.
    pub fn segment(&mut self, now_ns: i64) -> Option<u64> {
        let elapsed = now_ns.saturating_sub(self.billed_until_ns);
        if elapsed < self.interval_ns || elapsed < 0 {
            return None;
        }
        // The same steps in the same precision as the orchestrator's, so that the same fractions are carried.
        let seconds = (elapsed / SECOND) as f64 + (elapsed % SECOND) as f64 / 1e9;
        let pixels = (PIXELS_PER_SECOND as f64 * seconds) as i64;
        let billed = (pixels as f64 / PIXELS_PER_SECOND as f64 * 1e9) as i64;
        self.billed_until_ns = self.billed_until_ns.saturating_add(billed);
        Some(pixels.max(0) as u64)
    }

    /// The point up to which was billed.
    pub fn billed_until_ns(&self) -> i64 {
        self.billed_until_ns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIVE: Duration = Duration::from_secs(5);

    /// Integers alone: whole pixels of the time since the point, and the point in fractions of a nanosecond.
    struct Exact {
        start: i128,
        billed: i128,
        interval: i128,
    }

    impl Exact {
        /// Pixels debited at `now`, by whole numbers: the time of `billed` pixels ends at `start + billed / rate`.
        fn segment(&mut self, now: i64) -> Option<u64> {
            let rate = i128::from(PIXELS_PER_SECOND);
            let until = self.start + self.billed * i128::from(SECOND) / rate;
            if i128::from(now) - until < self.interval {
                return None;
            }
            let due = (i128::from(now) - self.start) * rate / i128::from(SECOND);
            let pixels = due - self.billed;
            self.billed = due;
            Some(pixels as u64)
        }
    }

    #[test]
    fn the_first_debit_waits_for_a_whole_interval() {
        let mut debit = Debit::new(FIVE, 1_000);
        assert_eq!(debit.segment(1_000), None);
        assert_eq!(debit.segment(5_000_000_999), None);
        assert_eq!(debit.segment(5_000_001_000), Some(138_240_000));
        assert_eq!(debit.billed_until_ns(), 5_000_001_000);
    }

    #[test]
    fn a_stall_is_billed_in_one_lump_and_fractions_are_carried() {
        let mut debit = Debit::new(FIVE, 0);
        // 5.000000020 s are 138 240 000.55296 pixels: the fraction stays.
        assert_eq!(debit.segment(5_000_000_020), Some(138_240_000));
        assert_eq!(debit.billed_until_ns(), 5_000_000_000);
        assert_eq!(debit.segment(10_000_000_019), Some(138_240_000));
        assert_eq!(debit.segment(70_000_000_000), Some(60 * PIXELS_PER_SECOND));
    }

    #[test]
    fn ten_thousand_debits_are_those_of_the_orchestrator() {
        // Segments, debits, pixels and nanoseconds up to the point, by the rule in Go with `time.Time` and `float64`.
        let golden = [
            (10, 2, 281_387_079_u64, 10_177_484_048_i64),
            (100, 18, 2_811_153_112, 101_676_544_841),
            (1_000, 184, 28_763_181_831, 1_040_334_990_903),
            (10_000, 1_906, 299_506_382_929, 10_832_840_816_804),
            (100_000, 18_847, 2_972_534_132_471, 107_513_531_981_000),
        ];
        let start = 1_795_225_491_037_000_001_i64;
        let mut debit = Debit::new(FIVE, start);
        let (mut now, mut random, mut debits, mut total) = (start, 7_u64, 0, 0);
        let mut rows = golden.iter();
        let mut row = rows.next();
        for segment in 1..=100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            now += ((random >> 33) % 3_000_000_000) as i64;
            if let Some(pixels) = debit.segment(now) {
                debits += 1;
                total += pixels;
            }
            if let Some(&(at, ..)) = row
                && at == segment
            {
                assert_eq!(Some(&(segment, debits, total, debit.billed_until_ns() - start)), row);
                row = rows.next();
            }
        }
        assert_eq!(row, None);
    }

    #[test]
    fn a_clock_that_steps_back_bills_nothing() {
        let mut debit = Debit::new(Duration::ZERO, 1_000_000);
        assert_eq!(debit.segment(0), None);
        assert_eq!(debit.segment(1_000_000), Some(0));
    }

    proptest! {
        #[test]
        fn it_agrees_with_whole_numbers(
            start in 0..2_000_000_000_000_000_000_i64,
            interval_ms in 1..20_000_u64,
            gaps in proptest::collection::vec(0..30_000_000_000_i64, 1..200),
        ) {
            let interval = Duration::from_millis(interval_ms);
            let mut debit = Debit::new(interval, start);
            let mut exact = Exact { start: start.into(), billed: 0, interval: interval.as_nanos() as i128 };
            let (mut now, mut total, mut whole) = (start, 0_i128, 0_i128);
            for gap in gaps {
                now += gap;
                let (got, want) = (debit.segment(now), exact.segment(now));
                // A debit is due at the same segment, unless the point lies within the rounding of the bound.
                if got.is_some() != want.is_some() {
                    let near = now - debit.billed_until_ns() - interval.as_nanos() as i64;
                    prop_assert!(got.is_none() && near.abs() < 1_000 || want.is_none(), "{got:?} {want:?} {near}");
                }
                total += i128::from(got.unwrap_or(0));
                whole += i128::from(want.unwrap_or(0));
                if got.is_some() && want.is_some() {
                    // Nanoseconds are the finest time that the orchestrator keeps: 0.03 pixels a debit.
                    prop_assert!((total - whole).abs() <= 8, "{total} {whole}");
                }
            }
            // Nothing is lost: what was billed is the time up to the point, to less than a pixel a debit.
            let time = i128::from(debit.billed_until_ns() - start) * i128::from(PIXELS_PER_SECOND) / i128::from(SECOND);
            prop_assert!((total - time).abs() <= 8, "{total} {time}");
        }
    }
}
