//! The four words of `/health`.

use std::time::Duration;

/// What `GET /health` says. An orchestrator reads it every 5 s and sells, keeps or destroys the container by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The pipeline is not warm. Out of the pool; destroyed after three minutes of it.
    Loading,
    /// A stream runs. Keeps the slot sold.
    Ok,
    /// Only a new container would help. Destroyed at once.
    Error,
    /// Free and warm. Sold to the next stream.
    Idle,
}

impl Word {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Ok => "OK",
            Self::Error => "ERROR",
            Self::Idle => "IDLE",
        }
    }
}

/// How long `LOADING` is shown while a stream holds the slot. Orchestrators count it and destroy the container after three
/// minutes, so a stream that loads for longer shows `OK`.
pub const LOADING_SHOWN: Duration = Duration::from_secs(150);

/// The word for a process that has `failed` for good, whose slots are `occupied` by a stream or a reservation, and that
/// has been loading for `loading_for` (`None` when it is warm).
pub fn word(failed: bool, occupied: bool, loading_for: Option<Duration>) -> Word {
    match (failed, occupied, loading_for) {
        (true, _, _) => Word::Error,
        (false, true, Some(time)) if time < LOADING_SHOWN => Word::Loading,
        (false, true, _) => Word::Ok,
        (false, false, Some(_)) => Word::Loading,
        (false, false, None) => Word::Idle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let short = Some(Duration::from_secs(1));
        let long = Some(Duration::from_secs(151));
        for (failed, occupied, loading, expected) in [
            (false, false, None, Word::Idle),
            (false, false, short, Word::Loading),
            (false, false, long, Word::Loading),
            (false, true, None, Word::Ok),
            (false, true, short, Word::Loading),
            (false, true, long, Word::Ok),
            (true, false, None, Word::Error),
            (true, true, short, Word::Error),
            (true, true, None, Word::Error),
        ] {
            assert_eq!(word(failed, occupied, loading), expected, "{failed} {occupied} {loading:?}");
        }
    }

    #[test]
    fn words_are_those_that_orchestrators_know() {
        let words = [Word::Loading, Word::Ok, Word::Error, Word::Idle].map(Word::as_str);
        assert_eq!(words, ["LOADING", "OK", "ERROR", "IDLE"]);
    }
}
