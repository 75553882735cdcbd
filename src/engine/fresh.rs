//! The queue of frames before the model: bursts pass whole, a slow consumer gets the newest.
//!
//! A burst (two frames out of one read, a segment sent again) is worth keeping: the consumer catches up within a few
//! milliseconds. A consumer that is slower than the input never catches up; for it every queued frame is only delay, so the
//! newest wins. The rule needs three numbers: how long the consumer takes for a frame, how far apart frames are, and how
//! much delay a burst may cost.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::refusal::Refusal;

/// How many of `queued` frames to skip before taking the next one.
///
/// `cost` is the consumer's time for one frame, `interval` the time between two frames of the input, `budget` the
/// delay that a burst may cost. Zero for either time means that it is not known yet, and nothing is skipped.
pub fn skip(queued: usize, cost: Duration, interval: Duration, budget: Duration) -> usize {
    if queued <= 1 || cost.is_zero() || interval.is_zero() {
        return 0;
    }
    if cost >= interval {
        return queued - 1;
    }
    let keep = (budget.as_nanos() / cost.as_nanos()).min(usize::MAX as u128) as usize;
    queued - 1 - keep.min(queued - 1)
}

/// What [`Fresh::pop`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Popped<T> {
    /// The next item.
    Item(T),
    /// Nothing came in time.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

/// A bounded queue between two threads that drops from its old end.
pub struct Fresh<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    capacity: usize,
    refusal: Refusal,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    /// Set by [`Fresh::wake`]: the consumer has something else to look at.
    woken: bool,
}

impl<T> Fresh<T> {
    /// An empty queue for at most `capacity` items.
    pub fn new(capacity: usize) -> Self {
        let state = State { items: VecDeque::with_capacity(capacity + 1), closed: false, woken: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), capacity, refusal: Refusal::default() }
    }

    /// The same queue, which pretends to be full as often as `refusal` says.
    pub fn refusing(self, refusal: Refusal) -> Self {
        Self { refusal, ..self }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code panics while it holds the lock, and the state is valid between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item. Returns the one that had to go: the oldest when the queue was full, or `item` itself when it is
    /// closed.
    pub fn push(&self, item: T) -> Option<T> {
        let mut state = self.lock();
        if state.closed {
            return Some(item);
        }
        state.items.push_back(item);
        let full = state.items.len() > self.capacity || self.refusal.strikes();
        let displaced = if full { state.items.pop_front() } else { None };
        drop(state);
        self.changed.notify_one();
        displaced
    }

    /// Waits until `deadline` for an item. `choose` gets the number of queued items and says how many of the oldest to
    /// skip; each of those goes to `dropped`.
    pub fn pop(
        &self,
        deadline: Option<Instant>,
        choose: impl FnOnce(usize) -> usize,
        mut dropped: impl FnMut(T),
    ) -> Popped<T> {
        let mut state = self.lock();
        loop {
            if !state.items.is_empty() {
                let skip = choose(state.items.len()).min(state.items.len() - 1);
                for _ in 0..skip {
                    if let Some(old) = state.items.pop_front() {
                        dropped(old);
                    }
                }
                return state.items.pop_front().map_or(Popped::Nothing, Popped::Item);
            }
            if state.closed {
                return Popped::Closed;
            }
            if std::mem::take(&mut state.woken) {
                return Popped::Nothing;
            }
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Popped::Nothing;
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Makes a waiting [`Self::pop`] return [`Popped::Nothing`].
    pub fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_one();
    }

    /// Takes no more items; what is queued can still be popped.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Closes the queue and empties it; the items go to the caller's drop.
    pub fn abort(&self) -> usize {
        let mut state = self.lock();
        state.closed = true;
        let items = std::mem::take(&mut state.items);
        drop(state);
        self.changed.notify_all();
        items.len()
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// What `look` says of the item that has been waiting for longest.
    pub fn oldest<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.lock().items.front().map(look)
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A moving average of durations, each new one weighing an eighth.
#[derive(Clone, Copy, Debug, Default)]
pub struct Average(Duration);

impl Average {
    /// Takes one more into account.
    pub fn add(&mut self, value: Duration) {
        self.0 = if self.0.is_zero() { value } else { (self.0 * 7 + value) / 8 };
    }

    /// The average; zero before the first value.
    pub fn get(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn bursts_pass_and_slow_consumers_get_the_newest() {
        // queued, cost, interval, budget, skipped
        let rows = [
            (1, 50, 33, 66, 0),
            (4, 1, 33, 66, 0),
            (4, 30, 33, 66, 1),
            (3, 50, 33, 66, 2),
            (3, 33, 33, 66, 2),
            (3, 0, 33, 66, 0),
            (3, 50, 0, 66, 0),
            (4, 30, 33, 0, 3),
        ];
        for (queued, cost, interval, budget, want) in rows {
            assert_eq!(
                skip(queued, cost * MS, interval * MS, budget * MS),
                want,
                "{queued} {cost} {interval} {budget}"
            );
        }
    }

    #[test]
    fn the_oldest_goes_when_full() {
        let queue = Fresh::new(2);
        assert_eq!(queue.push(1), None);
        assert_eq!(queue.push(2), None);
        assert_eq!(queue.push(3), Some(1));
        assert_eq!(queue.pop(None, |_| 0, |_| {}), Popped::Item(2));
        queue.close();
        assert_eq!(queue.push(4), Some(4));
        assert_eq!(queue.pop(None, |_| 0, |_| {}), Popped::Item(3));
        assert_eq!(queue.pop(None, |_| 0, |_| {}), Popped::Closed);
    }

    #[test]
    fn a_wake_ends_one_wait() {
        let queue = Fresh::<u8>::new(2);
        queue.wake();
        assert_eq!(queue.pop(None, |_| 0, |_| {}), Popped::Nothing);
        assert_eq!(queue.pop(Some(Instant::now()), |_| 0, |_| {}), Popped::Nothing);
    }

    proptest! {
        #[test]
        fn every_item_is_popped_or_reported(ops in proptest::collection::vec(0u8..4, 1..200)) {
            let queue = Fresh::new(3);
            let (mut next, mut seen) = (0u32, Vec::new());
            for op in ops {
                match op {
                    0..=2 => { seen.extend(queue.push(next)); next += 1; }
                    _ => {
                        let mut skipped = Vec::new();
                        let item = queue.pop(Some(Instant::now()), |n| n / 2, |old| skipped.push(old));
                        seen.extend(skipped);
                        if let Popped::Item(item) = item { seen.push(item); }
                    }
                }
            }
            while let Popped::Item(item) = queue.pop(Some(Instant::now()), |_| 0, |_| {}) { seen.push(item); }
            prop_assert_eq!(seen, (0..next).collect::<Vec<_>>());
        }

        #[test]
        fn one_frame_is_always_left(queued in 1usize..50, cost in 0u64..100, interval in 0u64..100, budget in 0u64..500) {
            prop_assert!(skip(queued, cost as u32 * MS, interval as u32 * MS, budget as u32 * MS) < queued);
        }
    }
}
