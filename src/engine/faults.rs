//! Faults that wait to be told.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Different faults that may wait. A model that fails with every frame fails with few words.
const WAITING: usize = 8;

/// Something that went wrong in a session and that its owner should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which part: `decode`, `model`, `encode`, `trickle` or `params`.
    pub stage: &'static str,
    /// What happened and what to do.
    pub message: String,
}

/// The faults of a session that nobody has been told of, each of them once. The counter of errors knows them all.
#[derive(Debug, Default)]
pub struct Faults(Mutex<VecDeque<Fault>>);

impl Faults {
    /// Adds a fault, unless the same one waits. With too many the oldest gives way: the newest says how things are.
    pub fn put(&self, fault: Fault) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.contains(&fault) {
            return;
        }
        if waiting.len() >= WAITING {
            waiting.pop_front();
        }
        waiting.push_back(fault);
    }

    /// Takes all, oldest first.
    pub fn take(&self) -> VecDeque<Fault> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_the_newest_stay() {
        let faults = Faults::default();
        let fault = |number: usize| Fault { stage: "params", message: format!("fault {number}") };
        for number in [0, 0, 1, 0, 2] {
            faults.put(fault(number));
        }
        assert_eq!(faults.take(), [fault(0), fault(1), fault(2)]);
        assert!(faults.take().is_empty());
        (0..20).for_each(|number| faults.put(fault(number)));
        assert_eq!(faults.take(), (12..20).map(fault).collect::<Vec<_>>());
    }
}
