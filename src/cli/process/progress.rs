//! How far a run is, on standard error: a bar in a terminal, a line every two seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two lines.
const LINE: Duration = Duration::from_secs(2);

/// Shows how many frames are done.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: Option<u64>,
    done: u64,
    began: Instant,
    told: Instant,
}

impl Progress {
    /// Begins at `now` with `total` frames to come, if that is known.
    pub fn new(total: Option<u64>, now: Instant) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::new_spinner(),
            };
            let template = match total {
                Some(_) => "{wide_bar} {pos}/{len} frames, {msg}, {eta} to go",
                None => "{spinner} {pos} frames, {msg}, {elapsed}",
            };
            // The template is a constant that a test parses.
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, total, done: 0, began: now, told: now }
    }

    /// One more frame is done.
    pub fn frame(&mut self, now: Instant) {
        self.done += 1;
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done);
                bar.set_message(format!("{:.1} fps", self.fps(now)));
            }
            None if now.saturating_duration_since(self.told) >= LINE => {
                self.told = now;
                eprintln!("{}", self.line(now));
            }
            None => {}
        }
    }

    /// Frames a second so far.
    fn fps(&self, now: Instant) -> f64 {
        self.done as f64 / now.saturating_duration_since(self.began).as_secs_f64().max(1e-6)
    }

    fn line(&self, now: Instant) -> String {
        let fps = self.fps(now);
        match self.total {
            Some(total) => {
                let left = total.saturating_sub(self.done) as f64 / fps.max(1e-6);
                format!("{}/{total} frames, {fps:.1} fps, {left:.0} s to go", self.done)
            }
            None => format!("{} frames, {fps:.1} fps", self.done),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_rate_and_rest() {
        let began = Instant::now();
        let mut progress = Progress { bar: None, total: Some(100), done: 0, began, told: began };
        for _ in 0..25 {
            progress.frame(began);
        }
        assert_eq!(progress.line(began + Duration::from_millis(500)), "25/100 frames, 50.0 fps, 2 s to go");
        progress.total = None;
        assert_eq!(progress.line(began + Duration::from_millis(500)), "25 frames, 50.0 fps");
    }

    #[test]
    fn templates_parse() {
        for template in
            ["{wide_bar} {pos}/{len} frames, {msg}, {eta} to go", "{spinner} {pos} frames, {msg}, {elapsed}"]
        {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
