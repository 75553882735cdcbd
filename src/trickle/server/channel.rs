//! A channel's slots and its numbering rules, and the segments in the slots.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use tokio::sync::Notify;

use crate::trickle::post::lock;
use crate::trickle::protocol::{Position, SLOTS};

/// What one piece of a segment costs beside its bytes.
const PIECE_COST: usize = 64;

/// What a channel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSnapshot {
    /// MIME type.
    pub mime: String,
    /// Number of the next segment.
    pub next_write: u64,
    /// The segments held, in order of their numbers: number, bytes so far, complete.
    pub segments: Vec<(u64, u64, bool)>,
}

/// A named run of segments.
pub(super) struct Channel {
    mime: HeaderValue,
    state: Mutex<State>,
}

struct State {
    slots: [Option<Arc<Segment>>; SLOTS as usize],
    next_write: u64,
    written_at: Instant,
    closed: bool,
}

/// What a GET finds.
pub(super) struct Found {
    /// The number asked for, resolved.
    pub(super) seq: u64,
    /// The channel's next number.
    pub(super) latest: u64,
    pub(super) closed: bool,
    /// The segment, if the channel holds it or will soon.
    pub(super) segment: Option<Arc<Segment>>,
}

impl Channel {
    pub(super) fn new(mime: &str, now: Instant) -> Self {
        let mime = HeaderValue::from_str(mime).unwrap_or(HeaderValue::from_static(""));
        let state = State { slots: Default::default(), next_write: 0, written_at: now, closed: false };
        Self { mime, state: Mutex::new(state) }
    }

    pub(super) fn mime(&self) -> HeaderValue {
        self.mime.clone()
    }

    /// The next number, and whether the channel is closed.
    pub(super) fn edge(&self) -> (u64, bool) {
        let state = lock(&self.state);
        (state.next_write, state.closed)
    }

    pub(super) fn written_at(&self) -> Instant {
        lock(&self.state).written_at
    }

    /// The segment to write at `seq`, or at the edge. Closes whatever else holds its slot.
    pub(super) fn for_write(&self, seq: Option<u64>) -> Arc<Segment> {
        let mut state = lock(&self.state);
        let seq = seq.unwrap_or(state.next_write);
        let slot = &mut state.slots[(seq % SLOTS) as usize];
        match slot {
            Some(held) if held.seq == seq => return held.clone(),
            Some(other) => other.close(),
            None => {}
        }
        slot.insert(Segment::new(seq)).clone()
    }

    /// The segment to read at `at`. One that the publisher will write next is made beforehand.
    pub(super) fn for_read(&self, at: Position) -> Found {
        let mut state = lock(&self.state);
        let latest = state.next_write;
        let seq = match at {
            Position::Seq(seq) => seq,
            Position::Next => latest,
            Position::Current => latest.saturating_sub(1),
        };
        // A reader that connects ahead of the first byte may ask for 1 while 0 has none yet.
        let soon = !state.closed && (seq == latest || (latest == 0 && seq == 1));
        let closed = state.closed;
        let slot = &mut state.slots[(seq % SLOTS) as usize];
        let segment = match slot {
            Some(held) if held.seq == seq => Some(held.clone()),
            // A reader that waits for a number which is no longer the next one stays with it.
            _ if soon => Some(slot.insert(Segment::new(seq)).clone()),
            _ => None,
        };
        Found { seq, latest, closed, segment }
    }

    /// The segment of this number, if it is held.
    pub(super) fn held(&self, seq: u64) -> Option<Arc<Segment>> {
        lock(&self.state).slots[(seq % SLOTS) as usize].clone().filter(|segment| segment.seq == seq)
    }

    /// Notes the first byte of a segment, or that it ended without one. The edge may go backwards. Returns whether
    /// the channel is closed.
    pub(super) fn wrote(&self, seq: u64, now: Instant) -> bool {
        let mut state = lock(&self.state);
        state.next_write = seq + 1;
        state.written_at = now;
        state.closed
    }

    /// Closes every held segment below `seq`.
    pub(super) fn reset_below(&self, seq: u64) {
        for segment in lock(&self.state).slots.iter().flatten().filter(|segment| segment.seq < seq) {
            segment.close();
        }
    }

    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        for segment in std::mem::take(&mut state.slots).into_iter().flatten() {
            segment.close();
        }
    }

    pub(super) fn snapshot(&self) -> ChannelSnapshot {
        let state = lock(&self.state);
        let mut segments: Vec<_> = state
            .slots
            .iter()
            .flatten()
            .map(|segment| {
                let content = lock(&segment.content);
                (segment.seq, content.bytes as u64, content.closed)
            })
            .collect();
        segments.sort_unstable();
        let mime = String::from_utf8_lossy(self.mime.as_bytes()).into_owned();
        ChannelSnapshot { mime, next_write: state.next_write, segments }
    }

    pub(super) fn content(&self, seq: u64) -> Option<Bytes> {
        let segment = self.held(seq)?;
        let content = lock(&segment.content);
        let mut all = BytesMut::with_capacity(content.bytes);
        for piece in &content.pieces {
            all.extend_from_slice(piece);
        }
        Some(all.freeze())
    }
}

/// One segment. Outlives its slot while someone reads or writes it.
pub(super) struct Segment {
    pub(super) seq: u64,
    content: Mutex<Content>,
    changed: Notify,
}

#[derive(Default)]
struct Content {
    pieces: Vec<Bytes>,
    bytes: usize,
    closed: bool,
}

/// The segment would be longer than allowed.
pub(super) struct TooLong;

impl Segment {
    fn new(seq: u64) -> Arc<Self> {
        Arc::new(Self { seq, content: Mutex::default(), changed: Notify::new() })
    }

    /// Adds bytes, also to a closed segment: its readers have gone, later ones get them.
    pub(super) fn append(&self, bytes: Bytes, limit: usize) -> Result<(), TooLong> {
        {
            let mut content = lock(&self.content);
            let held = content.bytes + bytes.len() + (content.pieces.len() + 1) * PIECE_COST;
            if held > limit {
                return Err(TooLong);
            }
            content.bytes += bytes.len();
            content.pieces.push(bytes);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    pub(super) fn close(&self) {
        lock(&self.content).closed = true;
        self.changed.notify_waiters();
    }

    #[cfg(test)]
    fn closed(&self) -> bool {
        lock(&self.content).closed
    }

    pub(super) async fn until_closed(&self) {
        self.wait(|content| content.closed.then_some(())).await;
    }

    /// The piece at `index`, as soon as it is there; `None` at the segment's end.
    pub(super) async fn piece(&self, index: usize) -> Option<Bytes> {
        self.wait(|content| match content.pieces.get(index) {
            Some(piece) => Some(Some(piece.clone())),
            None => content.closed.then_some(None),
        })
        .await
    }

    async fn wait<T>(&self, ready: impl Fn(&Content) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(value) = ready(&lock(&self.content)) {
                return value;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1 << 20;

    fn channel() -> Channel {
        Channel::new("video/MP2T", Instant::now())
    }

    fn write(channel: &Channel, seq: u64) {
        let segment = channel.for_write(Some(seq));
        channel.wrote(seq, Instant::now());
        assert!(segment.append(Bytes::from(format!("s{seq}")), LIMIT).is_ok());
        segment.close();
    }

    fn reads(channel: &Channel, seq: u64) -> bool {
        channel.for_read(Position::Seq(seq)).segment.is_some()
    }

    #[test]
    fn five_slots_are_kept_and_the_next_one_is_made_beforehand() {
        let c = channel();
        (0..=6).for_each(|seq| write(&c, seq));
        // Asked from the far side first, since asking for 7 takes the slot of 2.
        assert!(!reads(&c, 8));
        assert_eq!((0..=6).map(|seq| reads(&c, seq)).collect::<Vec<_>>(), [false, false, true, true, true, true, true]);
        assert!(reads(&c, 7));
        assert!(!reads(&c, 2));
    }

    #[test]
    fn relative_numbers_resolve_against_the_edge() {
        let c = channel();
        assert_eq!((c.for_read(Position::Current).seq, c.for_read(Position::Next).seq), (0, 0));
        assert!(reads(&c, 1), "one ahead of an empty channel");
        assert!(!reads(&c, 2));
        write(&c, 0);
        write(&c, 1);
        assert_eq!((c.for_read(Position::Current).seq, c.for_read(Position::Next).seq), (1, 2));
        assert_eq!(c.for_write(None).seq, 2);
    }

    #[test]
    fn the_edge_may_go_backwards() {
        let c = channel();
        (0..=6).for_each(|seq| write(&c, seq));
        write(&c, 0);
        assert_eq!(c.edge(), (1, false));
        assert!(reads(&c, 6) && reads(&c, 0));
        assert!(!reads(&c, 5), "its slot was taken");
    }

    #[test]
    fn eviction_and_reset_close_segments() {
        let c = channel();
        let open = c.for_write(Some(0));
        c.wrote(0, Instant::now());
        let ahead = c.for_write(Some(1));
        let later = c.for_write(Some(2));
        c.reset_below(1);
        assert_eq!((open.closed(), ahead.closed(), later.closed()), (true, false, false));
        c.for_write(Some(6));
        assert!(ahead.closed() && !later.closed());
        c.close();
        assert!(later.closed() && c.edge().1 && !reads(&c, 2));
    }

    #[test]
    fn a_segment_has_a_limit() {
        let segment = Segment::new(0);
        assert!(segment.append(Bytes::from(vec![0; 100]), 100 + PIECE_COST).is_ok());
        assert!(segment.append(Bytes::from_static(b"x"), 100 + PIECE_COST).is_err());
    }

    proptest! {
        #[test]
        fn slots_hold_their_own_numbers_only(ops in prop::collection::vec((0u8..4, 0u64..20), 1..60)) {
            let c = channel();
            for (op, seq) in ops {
                match op {
                    0 => write(&c, seq),
                    1 => drop(c.for_write(None)),
                    2 => drop(c.for_read(Position::Seq(seq))),
                    _ => c.reset_below(seq),
                }
                let state = lock(&c.state);
                for (slot, segment) in state.slots.iter().enumerate() {
                    prop_assert!(segment.as_ref().is_none_or(|segment| segment.seq % SLOTS == slot as u64));
                }
            }
        }
    }
}
