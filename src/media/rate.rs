//! A ceiling on the frame rate, by presentation time.

use crate::frame::Timestamp;

/// Lets frames pass at a limited rate. A frame earlier than the next due time is refused; one later than a whole period
/// after it sets the rhythm anew.
#[derive(Debug)]
pub(super) struct RateCap {
    /// Ticks of 90 kHz between frames; 0 for no cap.
    period: f64,
    due: Option<f64>,
    last: i64,
}

impl RateCap {
    /// At most `fps` frames a second; 0 for no cap.
    pub fn new(fps: f64) -> Self {
        let period = if fps > 0.0 { Timestamp::HZ as f64 / fps } else { 0.0 };
        Self { period, due: None, last: i64::MIN }
    }

    /// Whether the frame at `pts` may pass.
    pub fn allow(&mut self, pts: Timestamp) -> bool {
        if self.period == 0.0 {
            return true;
        }
        let at = pts.0 as f64;
        let back = pts.0 < self.last;
        self.last = pts.0;
        let due = match self.due {
            Some(due) if !back => due,
            _ => at,
        };
        if at < due {
            return false;
        }
        self.due = Some(if at > due + self.period { at } else { due } + self.period);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_becomes_twenty_four() {
        let mut cap = RateCap::new(24.0);
        let passed: Vec<i64> = (0..300).map(|n| n * 3000).filter(|&t| cap.allow(Timestamp(t))).collect();
        assert_eq!(passed.len(), 240);
        assert!(passed.windows(2).all(|w| [3000, 6000].contains(&(w[1] - w[0]))));
    }

    #[test]
    fn gaps_and_jumps_back_start_the_rhythm_anew() {
        let mut cap = RateCap::new(10.0);
        assert!(cap.allow(Timestamp(0)));
        assert!(!cap.allow(Timestamp(8999)));
        assert!(cap.allow(Timestamp(900_000)));
        assert!(!cap.allow(Timestamp(908_000)));
        assert!(cap.allow(Timestamp(909_000)));
        assert!(cap.allow(Timestamp(90_000)));
    }
}
