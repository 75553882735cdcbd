//! Frames that are refused on purpose, so that a test can lay what it injected beside what was counted. Off unless the
//! hidden flag `--refuse` of `weir serve` asks for it.
//!
//! Nothing here counts a frame as lost. A place that refuses one goes the way that it goes when it has no room, and that way
//! counts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::metering::Place;

/// Places that can be asked to refuse, and what each then does:
///
/// | place | as if |
/// | --- | --- |
/// | `decode` | no picture buffer were free |
/// | `model` | the model were still loading |
/// | `input` | the queue before the model were full: its oldest frame goes |
/// | `output` | the queue before the encoder were full: its oldest picture goes |
/// | `end` | the encoder swallowed the picture |
/// | `publish` | the segment that the picture belongs to were lost |
const PLACES: [Place; 6] = [Place::Decode, Place::Model, Place::Input, Place::Output, Place::End, Place::Publish];

/// Which places refuse, and how often. The text is `place=every` with commas between: `input=20,output=20`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Refusals(Vec<(Place, u32)>);

impl Refusals {
    /// Nobody refuses anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A fresh count for `place`.
    pub fn at(&self, place: Place) -> Refusal {
        let every = self.0.iter().find(|(known, _)| *known == place).map_or(0, |(_, every)| *every);
        Refusal { every: every.into(), seen: AtomicU64::new(0) }
    }
}

impl TryFrom<String> for Refusals {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let known = || PLACES.map(Place::label).join(", ");
        let entry = |entry: &str| {
            let (name, every) = entry.split_once('=').ok_or_else(|| format!("`{entry}` is no `place=every`"))?;
            let place = PLACES.into_iter().find(|place| place.label() == name);
            let place = place.ok_or_else(|| format!("`{name}` is none of {}", known()))?;
            let every = every.parse().ok().filter(|every| *every > 0);
            Ok((place, every.ok_or_else(|| format!("{name}: a number of frames above 0 is expected"))?))
        };
        text.split(',').filter(|part| !part.is_empty()).map(entry).collect::<Result<_, String>>().map(Self)
    }
}

impl From<Refusals> for String {
    fn from(refusals: Refusals) -> String {
        let entries = refusals.0.iter().map(|(place, every)| format!("{}={every}", place.label()));
        entries.collect::<Vec<_>>().join(",")
    }
}

/// The count of one place.
#[derive(Debug, Default)]
pub struct Refusal {
    /// 0 for never.
    every: u64,
    seen: AtomicU64,
}

impl Refusal {
    /// A frame is there: true when it is to be refused. The first `every - 1` are not.
    pub fn strikes(&self) -> bool {
        self.every != 0 && (self.seen.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_is_refused_where_it_was_asked_for() {
        let refusals = Refusals::try_from("input=3,output=1".to_owned()).expect("well formed");
        assert_eq!(String::from(refusals.clone()), "input=3,output=1");
        let strikes = |place| {
            let refusal = refusals.at(place);
            (0..7).map(|_| u8::from(refusal.strikes())).collect::<Vec<_>>()
        };
        assert_eq!(strikes(Place::Input), [0, 0, 1, 0, 0, 1, 0]);
        assert_eq!(strikes(Place::Output), [1; 7]);
        assert_eq!(strikes(Place::End), [0; 7]);
        assert!(!refusals.is_empty() && Refusals::try_from(String::new()).is_ok_and(|none| none.is_empty()));
    }

    #[test]
    fn what_cannot_be_refused_is_said() {
        for (text, word) in [("input", "place=every"), ("order=3", "none of decode"), ("input=0", "above 0")] {
            let error = Refusals::try_from(text.to_owned()).expect_err(text);
            assert!(error.contains(word), "{error}");
        }
    }
}
