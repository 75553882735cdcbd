//! Who holds which slot. A slot is taken the moment a start request arrives and is free the moment its session's resources
//! are, so that nobody is sold a slot twice.

use std::collections::BTreeMap;
use std::time::Instant;

/// How a slot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// A start request waits for the engine's answer.
    Reserved,
    /// The engine runs the session.
    Live,
    /// The session was told to stop; free when the engine says so, at the latest then.
    Closing(Instant),
}

/// Every slot is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// What may be in use before another session is refused although a slot is free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    /// Part of the time that the model may work, all sessions together; 0 for no limit.
    pub load: f64,
    /// Bytes of GPU memory that must be free.
    pub free_memory: u64,
}

/// Whether one more session fits beside those that run. `shares` are the parts of the time that the model works on each
/// of them, `seen` on the last session that was measured, `free_memory` what the GPU has left in bytes; none of it where
/// it is not known. The first session always fits: there is nobody whose frames it could cost.
///
/// What is not known is taken to be like the dearest of those that are known; if none is, there is nothing to refuse by.
///
/// # Errors
/// Why it does not fit, for people.
pub(super) fn fits(
    limits: Limits,
    shares: &[Option<f64>],
    seen: Option<f64>,
    free_memory: Option<u64>,
) -> Result<(), String> {
    if shares.is_empty() {
        return Ok(());
    }
    if let Some(free) = free_memory
        && free < limits.free_memory
    {
        let mib = |bytes: u64| bytes >> 20;
        return Err(format!("the GPU has {} MiB free, {} MiB are to stay free", mib(free), mib(limits.free_memory)));
    }
    let known = shares.iter().copied().flatten().reduce(f64::max).or(seen);
    let Some(one) = known.filter(|_| limits.load > 0.0) else { return Ok(()) };
    let all: f64 = shares.iter().map(|share| share.unwrap_or(one)).sum();
    if all + one <= limits.load {
        return Ok(());
    }
    Err(format!(
        "the model works {:.0} % of the time for {} streams, another would need {:.0} %, and {:.0} % are allowed",
        all * 100.0,
        shares.len(),
        one * 100.0,
        limits.load * 100.0
    ))
}

/// The slots. Numbers of sessions are never used twice.
#[derive(Debug)]
pub(super) struct Admission {
    capacity: usize,
    held: BTreeMap<u64, Hold>,
    next: u64,
}

impl Admission {
    /// `capacity` free slots.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, held: BTreeMap::new(), next: 1 }
    }

    /// There are so many slots from now on. Sessions that run keep theirs.
    pub fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// How many slots there are.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Takes a slot for a start request and gives its session number.
    pub fn reserve(&mut self) -> Result<u64, Full> {
        if self.held.len() >= self.capacity {
            return Err(Full);
        }
        let session = self.next;
        self.next += 1;
        self.held.insert(session, Hold::Reserved);
        Ok(session)
    }

    /// The engine took the session on. False when the slot is not waiting for that.
    pub fn confirm(&mut self, session: u64) -> bool {
        match self.held.get_mut(&session) {
            Some(hold @ Hold::Reserved) => {
                *hold = Hold::Live;
                true
            }
            _ => false,
        }
    }

    /// The session was told to stop; the slot stays taken until [`Self::release`], at most until `until`.
    pub fn close(&mut self, session: u64, until: Instant) {
        if let Some(hold) = self.held.get_mut(&session)
            && !matches!(hold, Hold::Closing(_))
        {
            *hold = Hold::Closing(until);
        }
    }

    /// The session is over. False when it held nothing.
    pub fn release(&mut self, session: u64) -> bool {
        self.held.remove(&session).is_some()
    }

    /// Frees the slot if its start request was never answered.
    pub fn release_reserved(&mut self, session: u64) -> bool {
        self.held.get(&session) == Some(&Hold::Reserved) && self.release(session)
    }

    /// Frees slots whose session was told to stop too long ago, and names them.
    pub fn expire(&mut self, now: Instant) -> Vec<u64> {
        let late = |hold: &Hold| matches!(hold, Hold::Closing(until) if *until <= now);
        let gone: Vec<u64> = self.held.iter().filter(|(_, hold)| late(hold)).map(|(&session, _)| session).collect();
        for session in &gone {
            self.held.remove(session);
        }
        gone
    }

    /// Frees the slots of sessions that were told to stop, because the engine that ran them is gone.
    pub fn engine_gone(&mut self) {
        self.held.retain(|_, hold| !matches!(hold, Hold::Closing(_)));
    }

    /// Whether any slot is in use.
    pub fn occupied(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether that session holds a slot.
    pub fn holds(&self, session: u64) -> bool {
        self.held.contains_key(&session)
    }

    /// Slots in use.
    pub fn in_use(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_more_session_fits_or_not() {
        let limits = Limits { load: 0.9, free_memory: 100 << 20 };
        type Row<'a> = (&'a [Option<f64>], Option<f64>, Option<u64>, bool);
        let rows: [Row<'_>; 11] = [
            (&[], Some(1.0), Some(0), true),
            (&[None], None, None, true),
            (&[None], Some(0.45), None, true),
            (&[None], Some(0.46), None, false),
            (&[Some(0.3)], Some(0.9), None, true),
            (&[Some(0.3), Some(0.3)], None, None, true),
            (&[Some(0.3), Some(0.35)], None, None, false),
            (&[Some(0.31), None], None, None, false),
            (&[Some(1.0)], None, None, false),
            (&[Some(0.1)], None, Some(99 << 20), false),
            (&[Some(0.1)], None, Some(100 << 20), true),
        ];
        for (shares, seen, memory, fit) in rows {
            assert_eq!(fits(limits, shares, seen, memory).is_ok(), fit, "{shares:?} {seen:?} {memory:?}");
        }
        let off = Limits { load: 0.0, free_memory: 0 };
        assert_eq!(fits(off, &[Some(1.0)], None, Some(0)), Ok(()));
        let why = fits(limits, &[Some(0.5), None], None, None).expect_err("too much");
        let expected = "the model works 100 % of the time for 2 streams, another would need 50 %, and 90 % are allowed";
        assert_eq!(why, expected);
    }

    #[test]
    fn fewer_slots_take_nothing_from_those_who_have_one() {
        let mut slots = Admission::new(2);
        let (first, second) = (slots.reserve().expect("free"), slots.reserve().expect("free"));
        slots.resize(1);
        assert!(slots.holds(first) && slots.holds(second));
        slots.release(first);
        assert_eq!(slots.reserve(), Err(Full));
        slots.release(second);
        assert!(slots.reserve().is_ok());
    }

    #[test]
    fn one_slot_is_sold_once() {
        let mut slots = Admission::new(1);
        let first = slots.reserve().expect("free");
        assert_eq!(slots.reserve(), Err(Full));
        assert!(slots.confirm(first));
        assert_eq!(slots.reserve(), Err(Full));
        assert!(slots.release(first));
        let second = slots.reserve().expect("free again");
        assert_ne!(first, second);
    }

    #[test]
    fn a_live_slot_is_not_given_back_by_its_reservation() {
        let mut slots = Admission::new(1);
        let session = slots.reserve().expect("free");
        assert!(slots.confirm(session));
        assert!(!slots.release_reserved(session));
        assert!(slots.occupied());
    }

    #[test]
    fn a_session_that_never_ends_gives_its_slot_back_in_time() {
        let now = Instant::now();
        let mut slots = Admission::new(1);
        let session = slots.reserve().expect("free");
        slots.close(session, now + Duration::from_secs(5));
        // The engine's late answer does not revive it, and a second stop does not prolong it.
        assert!(!slots.confirm(session));
        slots.close(session, now + Duration::from_secs(50));
        assert!(slots.expire(now + Duration::from_secs(4)).is_empty());
        assert_eq!(slots.expire(now + Duration::from_secs(5)), [session]);
        assert!(!slots.occupied());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Reserve,
        Confirm(usize),
        Close(usize),
        Release(usize),
        ReleaseReserved(usize),
        Expire,
        EngineGone,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Reserve),
            3 => (0usize..8).prop_map(Step::Confirm),
            1 => (0usize..8).prop_map(Step::Close),
            1 => (0usize..8).prop_map(Step::Release),
            1 => (0usize..8).prop_map(Step::ReleaseReserved),
            1 => Just(Step::Expire),
            1 => Just(Step::EngineGone),
        ]
    }

    proptest! {
        #[test]
        fn slots_are_never_oversold(capacity in 1usize..4, steps in proptest::collection::vec(step(), 0..200)) {
            let mut now = Instant::now();
            let mut slots = Admission::new(capacity);
            let mut given: Vec<u64> = Vec::new();
            // A second, naive account: who holds a slot, and whether live.
            let mut model: BTreeMap<u64, (&str, Option<Instant>)> = BTreeMap::new();
            for step in steps {
                now += Duration::from_secs(1);
                let pick = |index: usize| given.iter().rev().nth(index).copied().unwrap_or(u64::MAX);
                match step {
                    Step::Reserve => match slots.reserve() {
                        Ok(session) => {
                            prop_assert!(model.len() < capacity);
                            prop_assert!(!given.contains(&session));
                            given.push(session);
                            model.insert(session, ("reserved", None));
                        }
                        Err(Full) => prop_assert_eq!(model.len(), capacity),
                    },
                    Step::Confirm(index) => {
                        let session = pick(index);
                        let expected = model.get(&session).is_some_and(|held| held.0 == "reserved");
                        prop_assert_eq!(slots.confirm(session), expected);
                        if expected {
                            model.insert(session, ("live", None));
                        }
                    }
                    Step::Close(index) => {
                        let until = now + Duration::from_secs(3);
                        slots.close(pick(index), until);
                        if let Some(held) = model.get_mut(&pick(index)) && held.0 != "closing" {
                            *held = ("closing", Some(until));
                        }
                    }
                    Step::Release(index) => {
                        prop_assert_eq!(slots.release(pick(index)), model.remove(&pick(index)).is_some());
                    }
                    Step::ReleaseReserved(index) => {
                        let session = pick(index);
                        let expected = model.get(&session).is_some_and(|held| held.0 == "reserved");
                        prop_assert_eq!(slots.release_reserved(session), expected);
                        if expected {
                            model.remove(&session);
                        }
                    }
                    Step::Expire => {
                        slots.expire(now);
                        model.retain(|_, held| held.1.is_none_or(|until| until > now));
                    }
                    Step::EngineGone => {
                        slots.engine_gone();
                        model.retain(|_, held| held.0 != "closing");
                    }
                }
                prop_assert!(slots.in_use() <= capacity);
                prop_assert_eq!(slots.in_use(), model.len());
                prop_assert_eq!(slots.occupied(), !model.is_empty());
            }
        }
    }
}
