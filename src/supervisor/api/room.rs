//! How many bytes of bodies may be on their way: of everybody, and of one address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of all bodies at a time.
const MOST: usize = 96 << 20;
/// Bytes of the bodies of one address at a time.
const MOST_EACH: usize = 48 << 20;

/// Bytes on their way, by address.
struct Room(Mutex<BTreeMap<IpAddr, usize>>);

/// The process has one door.
static ROOM: Room = Room(Mutex::new(BTreeMap::new()));

tokio::task_local! {
    /// Who makes the request that is being answered.
    pub(super) static PEER: IpAddr;
}

/// Who makes the request that is being answered; none in a task of its own.
pub(in crate::supervisor) fn peer() -> Option<IpAddr> {
    PEER.try_with(|peer| *peer).ok()
}

/// Room for a body; given back when dropped.
pub(super) struct Held {
    room: &'static Room,
    peer: IpAddr,
    bytes: usize,
}

/// Room for `bytes`; none while there is too little.
pub(super) fn take(bytes: usize) -> Option<Held> {
    ROOM.take(peer().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), bytes)
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&'static self, peer: IpAddr, bytes: usize) -> Option<Held> {
        let mut room = self.lock();
        let (all, own) = (room.values().sum::<usize>(), room.get(&peer).copied().unwrap_or(0));
        if all + bytes > MOST || own + bytes > MOST_EACH {
            return None;
        }
        room.insert(peer, own + bytes);
        Some(Held { room: self, peer, bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut room = self.room.lock();
        let left = room.get(&self.peer).copied().unwrap_or(0).saturating_sub(self.bytes);
        match left {
            0 => drop(room.remove(&self.peer)),
            left => drop(room.insert(self.peer, left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others_and_all_have_an_end() {
        static ROOM: Room = Room(Mutex::new(BTreeMap::new()));
        let at = |last: u8| IpAddr::from([10, 0, 0, last]);
        let first = ROOM.take(at(1), MOST_EACH).expect("room");
        assert!(ROOM.take(at(1), 1).is_none());
        let second = ROOM.take(at(2), MOST_EACH).expect("room");
        assert!(ROOM.take(at(3), 1).is_none());
        drop(first);
        assert!(ROOM.take(at(3), 1).is_some() && ROOM.take(at(1), 1).is_some());
        drop(second);
        assert!(ROOM.lock().is_empty());
    }
}
