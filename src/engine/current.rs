//! The parameters of a session: those accepted last, those that the model runs with, and what it loads in between.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::events::unix_ms;
use crate::health::params_hash;
use crate::pipeline::{Checked, ParamError, Params};

/// A set of parameters.
#[derive(Clone, Debug)]
pub struct Current {
    /// As they were sent.
    pub given: Arc<Params>,
    /// Hash of `given`.
    pub hash: String,
    /// Unix milliseconds at which they were accepted.
    pub updated_ms: u64,
    checked: Checked,
}

impl Current {
    fn new(checked: Checked) -> Self {
        Self { hash: params_hash(&checked.given), given: checked.given.clone(), updated_ms: unix_ms(), checked }
    }

    /// With every default filled in.
    pub fn checked(&self) -> &Checked {
        &self.checked
    }
}

/// What is loaded beside the stream.
#[derive(Clone, Debug)]
pub struct Loading {
    /// The step it is at, for people.
    pub detail: String,
    /// Hash of the parameters that it is for.
    pub hash: String,
    /// When it began.
    pub since: Instant,
}

#[derive(Debug)]
struct State {
    accepted: Current,
    in_force: Current,
    loading: Option<Loading>,
    /// Loads that began or ended.
    turns: u64,
}

/// The parameters of a session. Doors put new ones in, the model thread says what became of them.
#[derive(Debug)]
pub struct Parameters(Mutex<State>);

impl Parameters {
    /// Those that the session starts with.
    pub fn new(checked: Checked) -> Self {
        let current = Current::new(checked);
        Self(Mutex::new(State { accepted: current.clone(), in_force: current, loading: None, turns: 0 }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that were accepted last; the model may not have them yet.
    pub fn accepted(&self) -> Current {
        self.state().accepted.clone()
    }

    /// Those that the model runs with.
    pub fn in_force(&self) -> Current {
        self.state().in_force.clone()
    }

    /// Those with which another engine would go on: what was accepted, unless it still has to be loaded, since loading it may
    /// be what ends an engine.
    pub fn safe(&self) -> Current {
        let state = self.state();
        if state.loading.is_some() { state.in_force.clone() } else { state.accepted.clone() }
    }

    /// What loads beside the stream, and how many loads have begun or ended so far.
    pub fn loading(&self) -> (Option<Loading>, u64) {
        let state = self.state();
        (state.loading.clone(), state.turns)
    }

    /// Accepts what `check` makes of those accepted last, and gives its hash. Updates of several doors come one after
    /// another.
    ///
    /// # Errors
    /// Those of `check`; nothing changes then.
    pub fn accept(&self, check: impl FnOnce(&Checked) -> Result<Checked, ParamError>) -> Result<String, ParamError> {
        let mut state = self.state();
        state.accepted = Current::new(check(&state.accepted.checked)?);
        Ok(state.accepted.hash.clone())
    }

    /// The model runs with `checked` from its next frame on.
    pub fn took(&self, checked: &Checked) {
        let mut state = self.state();
        if state.accepted.checked == *checked {
            state.in_force = state.accepted.clone();
        } else if state.in_force.checked != *checked {
            state.in_force = Current::new(checked.clone());
        }
    }

    /// The model cannot run with `checked`. Unless newer ones came, those in force count as the last accepted again.
    pub fn refused(&self, checked: &Checked) {
        let mut state = self.state();
        if state.accepted.checked == *checked {
            state.accepted = state.in_force.clone();
        }
    }

    /// A load for `checked` begins.
    pub fn load_begins(&self, checked: &Checked) {
        let mut state = self.state();
        let (detail, hash) = ("starting".to_owned(), params_hash(&checked.given));
        state.loading = Some(Loading { detail, hash, since: Instant::now() });
        state.turns += 1;
    }

    /// The load has come to another step.
    pub fn load_moves(&self, detail: &str) {
        if let Some(loading) = &mut self.state().loading {
            detail.clone_into(&mut loading.detail);
        }
    }

    /// The load is over, however it ended.
    pub fn load_ends(&self) {
        let mut state = self.state();
        if state.loading.take().is_some() {
            state.turns += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;
    use crate::pipeline::registry;

    fn checked(params: Value) -> Checked {
        registry::find("delay").unwrap().check(params.as_object().unwrap()).unwrap()
    }

    fn given(current: Current) -> Value {
        Value::Object((*current.given).clone())
    }

    #[test]
    fn what_the_model_refuses_is_not_current_any_more() {
        let [first, bad, other] = [json!({}), json!({"load_ms": 1}), json!({"frame_ms": 2})];
        let parameters = Parameters::new(checked(first.clone()));
        let accept = |params: &Value| parameters.accept(|_| Ok(checked(params.clone()))).unwrap();
        let hash = parameters.in_force().hash;
        accept(&bad);
        assert_eq!((given(parameters.accepted()), given(parameters.in_force())), (bad.clone(), first.clone()));
        parameters.refused(&checked(bad.clone()));
        assert_eq!(given(parameters.accepted()), first);
        assert_eq!(parameters.accepted().hash, hash);
        // A newer update stands, whatever becomes of the one before.
        accept(&bad);
        accept(&other);
        parameters.refused(&checked(bad));
        assert_eq!((given(parameters.accepted()), given(parameters.in_force())), (other.clone(), first));
        parameters.took(&checked(other.clone()));
        assert_eq!(given(parameters.in_force()), other);
    }

    #[test]
    fn a_refused_update_changes_nothing_and_the_next_is_checked_against_the_same() {
        let parameters = Parameters::new(checked(json!({"frame_ms": 5})));
        let wrong = ParamError { field: "x".into(), reason: "y".into() };
        assert_eq!(parameters.accept(|_| Err(wrong.clone())).unwrap_err(), wrong);
        let before = |before: &Checked| {
            assert_eq!(*before, checked(json!({"frame_ms": 5})));
            Ok(before.clone())
        };
        assert_eq!(parameters.accept(before).unwrap(), parameters.in_force().hash);
    }

    #[test]
    fn another_engine_gets_what_is_known_to_load() {
        let parameters = Parameters::new(checked(json!({})));
        let heavy = json!({"load_ms": 9});
        parameters.accept(|_| Ok(checked(heavy.clone()))).unwrap();
        assert_eq!(given(parameters.safe()), heavy, "nothing is known of it yet");
        parameters.load_begins(&checked(heavy.clone()));
        parameters.load_moves("building");
        let (loading, turns) = parameters.loading();
        let loading = loading.unwrap();
        assert_eq!((loading.detail.as_str(), turns), ("building", 1));
        assert_eq!(loading.hash, parameters.accepted().hash);
        assert_eq!(given(parameters.safe()), json!({}));
        parameters.took(&checked(heavy.clone()));
        parameters.load_ends();
        assert_eq!((given(parameters.safe()), parameters.loading().1), (heavy, 2));
        parameters.load_moves("late");
        parameters.load_ends();
        assert!(parameters.loading().0.is_none());
        assert_eq!(parameters.loading().1, 2);
    }
}
