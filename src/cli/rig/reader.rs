//! Reading a video channel: every access unit with the time at which its last byte came, nothing decoded.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

use super::RigError;
use super::decode::Feed;
use super::ledger::Ledger;
use crate::frame::Timestamp;
use crate::media::Damage;
use crate::media::ts::demux::{DemuxConfig, DemuxSink, Demuxer, Stream, StreamKind, Unit};
use crate::trickle::{Client, Start, Subscriber};

/// Which channel a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is sent: the floor that any reader has.
    Input,
    /// What the runner makes of it.
    Output,
}

/// What a reader found so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    /// Segments begun.
    pub segments: u64,
    /// Segments that broke off.
    pub broken: u64,
    /// Segments that were never seen.
    pub gaps: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Pictures.
    pub video: u64,
    /// Audio packets.
    pub audio: u64,
    /// Damaged pieces of transport stream.
    pub damage: u64,
    /// Audio packets whose time stamp was not after the one before.
    pub audio_backwards: u64,
    /// Why the channel ended.
    pub end: Option<String>,
    /// When the first byte came.
    #[serde(skip)]
    pub first_byte: Option<Instant>,
}

/// What a reader does besides counting.
#[derive(Default)]
pub struct Taps {
    /// Where the times go.
    pub ledger: Option<(Arc<Ledger>, Side)>,
    /// Where the bytes are kept.
    pub record: Option<Record>,
    /// Who decodes them for people.
    pub feed: Option<Feed>,
}

/// A file that takes the bytes of a channel as they come.
pub struct Record(BufWriter<File>);

impl Record {
    /// Creates the file.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        File::create(path).map(|file| Self(BufWriter::with_capacity(1 << 16, file)))
    }
}

/// Reads a channel in a task that ends with this value.
pub struct Reader {
    found: Arc<Mutex<Found>>,
    task: AbortOnDropHandle<std::io::Result<()>>,
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// Reads the channel at `url` from its first segment until it ends.
    ///
    /// # Errors
    /// `url` is no channel URL.
    pub fn open(client: &Client, url: &str, taps: Taps) -> Result<Self, RigError> {
        let subscriber = Subscriber::new(client, url, Start::Seq(0))?;
        let found = Arc::new(Mutex::new(Found::default()));
        let task = AbortOnDropHandle::new(tokio::spawn(read(subscriber, taps, found.clone())));
        Ok(Self { found, task })
    }

    /// What was found so far.
    pub fn found(&self) -> Found {
        lock(&self.found).clone()
    }

    /// True once the channel has ended.
    pub fn ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for the channel's end, at most until `deadline`, and closes the record.
    ///
    /// # Errors
    /// The record could not be written.
    pub async fn end(self, deadline: Instant) -> Result<Found, RigError> {
        if let Ok(Ok(result)) = tokio::time::timeout_at(deadline.into(), self.task).await {
            result.map_err(RigError::Record)?;
        }
        let found = lock(&self.found).clone();
        Ok(found)
    }
}

/// What a demultiplexer finds goes to the ledger and the counters.
struct Sink<'a> {
    ledger: Option<&'a (Arc<Ledger>, Side)>,
    at: Instant,
    video: u64,
    audio: u64,
    damage: u64,
    audio_backwards: u64,
    last_audio: &'a mut Option<Timestamp>,
}

impl DemuxSink for Sink<'_> {
    fn streams(&mut self, _: &[Stream]) {}

    fn unit(&mut self, unit: Unit<'_>) {
        let Some(pts) = unit.pts else { return };
        if unit.kind != StreamKind::H264 {
            self.audio += 1;
            self.audio_backwards += u64::from(self.last_audio.is_some_and(|last| pts <= last));
            *self.last_audio = Some(pts);
            return;
        }
        self.video += 1;
        match self.ledger {
            Some((ledger, Side::Input)) => ledger.read_back(pts.0, self.at),
            Some((ledger, Side::Output)) => ledger.received(pts.0, self.at),
            None => {}
        }
    }

    fn damage(&mut self, _: Damage) {
        self.damage += 1;
    }

    fn jump(&mut self, _: Timestamp, _: Timestamp) {}
}

async fn read(mut subscriber: Subscriber, mut taps: Taps, found: Arc<Mutex<Found>>) -> std::io::Result<()> {
    let mut demux = Demuxer::new(DemuxConfig::default());
    let mut last_audio = None;
    loop {
        let mut segment = match subscriber.next().await {
            Ok(Some(segment)) => segment,
            Ok(None) => {
                lock(&found).end = subscriber.end_reason().map(|reason| reason.to_string());
                break;
            }
            Err(error) => {
                lock(&found).end = Some(error.to_string());
                break;
            }
        };
        lock(&found).segments += 1;
        demux.segment_start();
        if let Some(feed) = &taps.feed {
            feed.begin();
        }
        let whole = loop {
            match segment.chunk().await {
                Ok(Some(bytes)) => {
                    let at = Instant::now();
                    take(&mut demux, &mut taps, &found, &mut last_audio, Some(&bytes), at)?;
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if whole {
            take(&mut demux, &mut taps, &found, &mut last_audio, None, Instant::now())?;
        }
        if let Some(feed) = &taps.feed {
            feed.end();
        }
        let mut found = lock(&found);
        found.broken += u64::from(!whole);
        found.gaps = subscriber.stats().gaps;
    }
    match &mut taps.record {
        Some(record) => record.0.flush(),
        None => Ok(()),
    }
}

/// Takes a piece of a segment, or its end.
fn take(
    demux: &mut Demuxer,
    taps: &mut Taps,
    found: &Mutex<Found>,
    last_audio: &mut Option<Timestamp>,
    bytes: Option<&Bytes>,
    at: Instant,
) -> std::io::Result<()> {
    let mut sink =
        Sink { ledger: taps.ledger.as_ref(), at, video: 0, audio: 0, damage: 0, audio_backwards: 0, last_audio };
    match bytes {
        Some(bytes) => demux.push(bytes, &mut sink),
        None => demux.segment_end(&mut sink),
    }
    let Sink { video, audio, damage, audio_backwards, .. } = sink;
    {
        let mut found = lock(found);
        found.video += video;
        found.audio += audio;
        found.damage += damage;
        found.audio_backwards += audio_backwards;
        if let Some(bytes) = bytes {
            found.first_byte.get_or_insert(at);
            found.bytes += bytes.len() as u64;
        }
    }
    let Some(bytes) = bytes else { return Ok(()) };
    if let Some(feed) = &taps.feed {
        feed.bytes(bytes.clone(), at);
    }
    match &mut taps.record {
        Some(record) => record.0.write_all(bytes),
        None => Ok(()),
    }
}
