//! The outputs that peers watch: which there are, who reads them where, and what viewers order of their encoders.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Channels, Door, DoorError, Inside, Peer, secret};
use crate::link::{Coding, Tap};

/// Time between two key pictures that viewers of a stream can order.
const KEY_EVERY: Duration = Duration::from_millis(300);
/// The same where somebody else gets those pictures too, and a segment with each.
const KEY_EVERY_SHARED: Duration = Duration::from_secs(1);
/// Of the bandwidth that a viewer has, what the video may take: the rest is for sound, repair and swings.
const SHARE: f64 = 0.85;
/// No viewer can press the video below this, in kbit/s.
const LEAST_KBPS: u64 = 200;

/// Names an output: the session's number, and how its pictures are coded.
pub(super) type Which = (u64, Coding);

#[derive(Default)]
pub(super) struct Table {
    /// Sessions that peers feed, by the names of their streams.
    pub(super) streams: HashMap<String, u64>,
    /// Outputs that peers watch or may watch.
    pub(super) outputs: HashMap<Which, Output>,
    pub(super) peers: HashMap<String, Peer>,
    /// Peers that are being let in.
    pub(super) coming: usize,
}

/// An output of a session.
pub(super) struct Output {
    pub(super) url: String,
    /// What each viewer's way takes, in kbit/s.
    pub(super) limits: HashMap<String, u64>,
    pub(super) limit: u64,
    pub(super) key_told: Option<Instant>,
    pub(super) key_every: Duration,
    /// Whether viewers press its rate; not where somebody else gets the same pictures.
    pub(super) pressed: bool,
    /// Set for an output that is there for its viewers alone.
    pub(super) tap: Option<TapHeld>,
}

/// A tap; its channel is closed when dropped.
pub(super) struct TapHeld {
    viewers: usize,
    _channel: Channels,
    /// Ends the wait for the end of the session.
    _over: DropGuard,
}

impl Output {
    pub(super) fn new(url: String, tap: Option<TapHeld>) -> Self {
        Self { url, limits: HashMap::new(), limit: 0, key_told: None, key_every: KEY_EVERY, pressed: true, tap }
    }
}

impl Door {
    /// The session of the stream `name`, or of the only one, and how its own output is coded. A `stranger` finds only streams
    /// that came by WebRTC.
    pub(super) fn find(&self, name: Option<&str>, stranger: bool) -> Result<Which, DoorError> {
        let table = self.table();
        let book = self.hub.book();
        let session = match name {
            Some(name) => table.streams.get(name).copied().or_else(|| book.named(name)),
            None => book.find(None),
        };
        let session = match session {
            Some(session) => session,
            None if name.is_none() && book.running() > 1 => return Err(DoorError::Several),
            None => return Err(DoorError::NoStream),
        };
        if stranger && !table.streams.values().any(|&ours| ours == session) {
            return Err(DoorError::Stranger);
        }
        book.coding(session).map(|coding| (session, coding)).ok_or(DoorError::NoStream)
    }

    /// What the stream of a session is called here.
    pub(super) fn name(&self, session: u64) -> Option<String> {
        let table = self.table();
        table.streams.iter().find(|(_, ours)| **ours == session).map(|(name, _)| name.clone())
    }

    /// Where a further viewer reads the output `which` of a session that codes its own output as `own`. Every viewer is to
    /// [`Self::part`] again.
    pub(super) fn join(self: &Arc<Self>, inside: &Inside, which: Which, own: Coding) -> Result<String, DoorError> {
        let (session, coding) = which;
        let mut table = self.table();
        if let Some(output) = table.outputs.get_mut(&which) {
            if let Some(tap) = &mut output.tap {
                tap.viewers += 1;
            }
            return Ok(output.url.clone());
        }
        let name = format!("{}-tap", secret());
        inside.channels.create(&name, "video/mp2t");
        let url = format!("{}/{name}", inside.base);
        let url_given = url.clone();
        let over = CancellationToken::new();
        let channel = Channels { server: inside.channels.clone(), names: vec![name] };
        let held = TapHeld { viewers: 1, _channel: channel, _over: over.clone().drop_guard() };
        let mut output = Output::new(url.clone(), Some(held));
        if coding == own {
            (output.key_every, output.pressed) = (KEY_EVERY_SHARED, false);
        }
        table.outputs.insert(which, output);
        let taps = taps(&table, session);
        // A dropped sender means that the session is gone with its engine.
        let ended = self.hub.book().wait_end(session);
        if !self.hub.tap(session, taps) {
            table.outputs.remove(&which);
            return Err(if ended.is_none() { DoorError::NoStream } else { DoorError::Engine });
        }
        drop(table);
        self.hub.metrics.webrtc.count("tap_opened");
        let door = self.clone();
        self.tasks.spawn(async move {
            let ended = async {
                match ended {
                    Some(ended) => drop(ended.await),
                    None => std::future::ready(()).await,
                }
            };
            tokio::select! {
                () = ended => {
                    // Viewers learn of it by the end of the channel.
                    let mut table = door.table();
                    let same = table.outputs.get(&which).is_some_and(|output| output.url == url);
                    drop(same.then(|| table.outputs.remove(&which)));
                }
                () = over.cancelled() => {}
            }
        });
        Ok(url_given)
    }

    /// A viewer of an output is gone. A tap goes with its last one.
    pub(super) fn part(&self, which: Which, resource: &str) {
        self.limit(which, resource, None);
        let mut table = self.table();
        let Some(tap) = table.outputs.get_mut(&which).and_then(|output| output.tap.as_mut()) else { return };
        tap.viewers = tap.viewers.saturating_sub(1);
        if tap.viewers == 0 {
            let gone = table.outputs.remove(&which);
            // The engine lets go first, so that it does not take the end of the channel for a fault. Under the lock, so that
            // it gets the lists of taps in their order.
            self.hub.tap(which.0, taps(&table, which.0));
            drop(gone);
        }
    }

    /// A viewer of an output wants a key picture. Where the last one was ordered too short a time ago, gives the time at
    /// which the caller is to ask again: that one may have been the one that got lost.
    pub(super) fn key(&self, which: Which) -> Option<Instant> {
        let now = Instant::now();
        {
            let mut table = self.table();
            let output = table.outputs.get_mut(&which)?;
            let due = output.key_told.map(|at| at + output.key_every);
            if due.is_some_and(|due| now < due) {
                return due;
            }
            output.key_told = Some(now);
        }
        self.hub.encode(which.0, which.1, true, None);
        None
    }

    /// The way to the viewer `resource` takes `bits` a second; `None`: it is gone. The slowest decides.
    pub(super) fn limit(&self, which: Which, resource: &str, bits: Option<u64>) {
        let limit = {
            let mut table = self.table();
            let Some(output) = table.outputs.get_mut(&which).filter(|output| output.pressed) else { return };
            match bits {
                Some(bits) => {
                    let kbps = ((bits as f64 * SHARE / 1000.0) as u64).max(LEAST_KBPS);
                    output.limits.insert(resource.to_owned(), kbps)
                }
                None => output.limits.remove(resource),
            };
            let limit = output.limits.values().copied().min().unwrap_or(0);
            // A change of a few per cent is not worth the encoder's while.
            if limit.abs_diff(output.limit) * 20 < output.limit || limit == output.limit {
                return;
            }
            output.limit = limit;
            limit
        };
        self.hub.metrics.webrtc.count("ceiling_changed");
        self.hub.encode(which.0, which.1, false, Some(limit));
    }
}

/// The taps of a session.
fn taps(table: &Table, session: u64) -> Vec<Tap> {
    let of_session = table.outputs.iter().filter(|((of, _), output)| *of == session && output.tap.is_some());
    of_session.map(|(&(_, coding), output)| Tap { url: output.url.clone(), coding }).collect()
}
