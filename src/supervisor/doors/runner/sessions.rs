//! The sessions that an orchestrator proxies to us, and who may speak for each.

use std::collections::BTreeMap;
use std::time::Instant;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The four channels of a stream as the client uses them, and the names they were made under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::supervisor) struct Channels {
    /// Field of the answer and URL.
    pub urls: Vec<(&'static str, String)>,
}

/// How far a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// Its channels are being made.
    Starting,
    /// Our session of that number runs.
    Running(u64, Channels),
}

struct Entry {
    token: [u8; 32],
    control: String,
    since: Instant,
    progress: Progress,
}

/// What a start is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Entrance {
    /// Nobody has begun it.
    Begin,
    /// It runs already, with these channels.
    Again(Channels),
    /// Another call is at it.
    Busy,
    /// The token is another one.
    Foreign,
}

/// The sessions. Tokens are kept as hashes.
#[derive(Default)]
pub(in crate::supervisor) struct Sessions(BTreeMap<String, Entry>);

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Sessions {
    /// Someone asks for the session `id`.
    pub fn enter(&mut self, id: &str, token: &str, control: &str, now: Instant) -> Entrance {
        match self.0.get(id) {
            Some(entry) if !bool::from(entry.token.ct_eq(&hash(token))) => Entrance::Foreign,
            Some(Entry { progress: Progress::Starting, .. }) => Entrance::Busy,
            Some(Entry { progress: Progress::Running(_, channels), .. }) => Entrance::Again(channels.clone()),
            None => {
                let entry =
                    Entry { token: hash(token), control: control.to_owned(), since: now, progress: Progress::Starting };
                self.0.insert(id.to_owned(), entry);
                Entrance::Begin
            }
        }
    }

    /// Our session `number` runs for it.
    pub fn runs(&mut self, id: &str, number: u64, channels: Channels) {
        if let Some(entry) = self.0.get_mut(id) {
            entry.progress = Progress::Running(number, channels);
        }
    }

    /// It is over. Gives where the orchestrator is told so.
    pub fn over(&mut self, id: &str) -> Option<String> {
        self.0.remove(id).map(|entry| entry.control)
    }

    /// The number of the session `id`, for who has its token.
    pub fn number(&self, id: &str, token: &str) -> Option<u64> {
        let entry = self.0.get(id)?;
        match entry.progress {
            Progress::Running(number, _) if bool::from(entry.token.ct_eq(&hash(token))) => Some(number),
            _ => None,
        }
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Numbers of our sessions that the orchestrator does not have any more: `theirs` is what it had at some moment
    /// after `asked`.
    pub fn released(&self, theirs: &[String], asked: Instant) -> Vec<u64> {
        let gone = self.0.iter().filter(|(id, entry)| entry.since < asked && !theirs.contains(id));
        let number = |(_, entry): (&String, &Entry)| match entry.progress {
            Progress::Running(number, _) => Some(number),
            Progress::Starting => None,
        };
        gone.filter_map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_call_begins_a_session_and_only_its_token_speaks_for_it() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        assert_eq!(sessions.enter("a", "t", "c", now), Entrance::Begin);
        assert_eq!(sessions.enter("a", "t", "c", now), Entrance::Busy);
        let channels = Channels { urls: vec![("publish_url", "u".into())] };
        sessions.runs("a", 7, channels.clone());
        assert_eq!(sessions.enter("a", "t", "c", now), Entrance::Again(channels));
        assert_eq!(sessions.enter("a", "x", "c", now), Entrance::Foreign);
        assert_eq!(
            (sessions.number("a", "t"), sessions.number("a", "x"), sessions.number("b", "t")),
            (Some(7), None, None)
        );
        assert_eq!((sessions.over("a"), sessions.over("a")), (Some("c".into()), None));
    }

    #[test]
    fn what_the_orchestrator_lost_is_released_unless_it_is_newer_than_the_question() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        for (number, id) in [(1, "a"), (2, "b")] {
            sessions.enter(id, "t", "c", now);
            sessions.runs(id, number, Channels::default());
        }
        sessions.enter("starting", "t", "c", now);
        let asked = now + Duration::from_secs(1);
        sessions.enter("new", "t", "c", asked);
        sessions.runs("new", 3, Channels::default());
        assert_eq!(sessions.released(&["b".into(), "unknown".into()], asked), [1]);
        assert_eq!(sessions.ids().len(), 4);
    }
}
