//! A stream's frame rates over its last minute, as ComfyStream's server shows them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Rates that are kept: a minute of them.
const KEPT: usize = 60;
/// Time between two of them.
const EVERY: Duration = Duration::from_millis(900);

/// Frame rates, one a second.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// When the first picture had been made, and the last rate was noted.
    since: Option<(Instant, Instant)>,
    /// Seconds since the first, and pictures a second.
    kept: VecDeque<(f64, f64)>,
}

impl Rates {
    /// Notes the rate at `now`, once a second, from the first picture on.
    pub fn note(&mut self, fps: f64, now: Instant) {
        let first = match self.since {
            None if fps <= 0.0 => return,
            None => now,
            Some((_, last)) if now.saturating_duration_since(last) < EVERY => return,
            Some((first, _)) => first,
        };
        self.since = Some((first, now));
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((now.saturating_duration_since(first).as_secs_f64(), fps));
    }

    /// The rates in ComfyStream's shape; zeros before the first.
    pub fn shown(&self) -> Value {
        let (timestamp, fps) = self.kept.back().copied().unwrap_or_default();
        let sum: f64 = self.kept.iter().map(|(_, fps)| fps).sum();
        let all: Vec<Value> =
            self.kept.iter().map(|(timestamp, fps)| json!({"timestamp": timestamp, "fps": fps})).collect();
        json!({
            "timestamp": timestamp,
            "fps": fps,
            "minute_avg_fps": sum / self.kept.len().max(1) as f64,
            "minute_fps_array": all,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_seconds_is_kept() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        assert_eq!(rates.shown()["fps"], 0.0);
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        rates.note(0.0, at(0.0));
        for second in 0..70 {
            rates.note(f64::from(second + 1), at(5.0 + f64::from(second)));
            // Reports come more often where something changes.
            rates.note(1000.0, at(5.25 + f64::from(second)));
        }
        let shown = rates.shown();
        assert_eq!((&shown["timestamp"], &shown["fps"]), (&json!(69.0), &json!(70.0)));
        let all = shown["minute_fps_array"].as_array().expect("an array");
        assert_eq!((all.len(), &all[0]), (60, &json!({"timestamp": 10.0, "fps": 11.0})));
        assert_eq!(shown["minute_avg_fps"], 40.5);
    }
}
