//! What a session says besides pictures, for doors whose peers listen: its newest texts for those who come late, and
//! everything from then on.
//!
//! | queue | size | when full |
//! | --- | --- | --- |
//! | session → listener | 64 items of at most 64 KiB | the oldest is lost to this listener, and counted by it |
//! | kept for late listeners | 8 texts | the oldest goes |

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::broadcast;

/// Items that may wait for a listener.
const WAITING: usize = 64;
/// Texts that a late listener gets.
const KEPT: usize = 8;

/// Something that was said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// A text of the pipeline.
    Text(Arc<str>),
    /// The figures of an interval.
    Figures(Arc<Map<String, Value>>),
}

/// A session's voice. Those who listen learn of its end when it is dropped.
#[derive(Debug)]
pub(super) struct Voice {
    way: broadcast::Sender<Said>,
    kept: VecDeque<Arc<str>>,
}

/// What a listener gets.
pub(super) struct Ear {
    /// Texts that were said before, oldest first.
    pub before: Vec<Arc<str>>,
    /// What is said from now on.
    pub now: broadcast::Receiver<Said>,
}

impl Voice {
    /// One that has said nothing.
    pub fn new() -> Self {
        Self { way: broadcast::Sender::new(WAITING), kept: VecDeque::new() }
    }

    /// Says a text.
    pub fn text(&mut self, text: String) {
        let text: Arc<str> = text.into();
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(text.clone());
        // Nobody may listen.
        let _ = self.way.send(Said::Text(text));
    }

    /// Says the figures of an interval.
    pub fn figures(&self, figures: Map<String, Value>) {
        let _ = self.way.send(Said::Figures(Arc::new(figures)));
    }

    /// Begins to listen.
    pub fn listen(&self) -> Ear {
        Ear { before: self.kept.iter().cloned().collect(), now: self.way.subscribe() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_gets_the_newest_texts_and_nothing_twice() {
        let mut voice = Voice::new();
        (0..KEPT + 3).for_each(|number| voice.text(number.to_string()));
        voice.figures(Map::new());
        let mut ear = voice.listen();
        let before: Vec<&str> = ear.before.iter().map(|text| &**text).collect();
        assert_eq!(before, ["3", "4", "5", "6", "7", "8", "9", "10"]);
        assert!(ear.now.try_recv().is_err(), "nothing twice");
        voice.text("now".into());
        assert_eq!(ear.now.try_recv(), Ok(Said::Text("now".into())));
    }

    #[test]
    fn a_slow_listener_learns_how_much_it_lost() {
        let mut voice = Voice::new();
        let mut ear = voice.listen();
        (0..WAITING + 5).for_each(|number| voice.text(number.to_string()));
        assert_eq!(ear.now.try_recv(), Err(broadcast::error::TryRecvError::Lagged(5)));
        assert_eq!(ear.now.try_recv(), Ok(Said::Text("5".into())));
        drop(voice);
        (6..WAITING + 5).for_each(|_| assert!(ear.now.try_recv().is_ok()));
        assert_eq!(ear.now.try_recv(), Err(broadcast::error::TryRecvError::Closed));
    }
}
