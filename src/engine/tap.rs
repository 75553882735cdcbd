//! Further outputs of a session: what is put out goes to those who watch it, each by another channel, as it is where the
//! pictures are coded as the watchers want them, else coded a second time; and to a file ([`super::record`]).
//!
//! | queue | size | when full |
//! | --- | --- | --- |
//! | encoder → tap or file | 256 pieces | everything up to the next segment is dropped, and the segment counted |
//!
//! A tap never delays the output: what it does not take at once is lost to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prometheus::IntCounter;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::task::TaskTracker;

use super::egress::{PIECES, Piece, What};
use super::shared::Streams;
use crate::frame::{Timestamp, VideoFrame};
use crate::link::{Coding, Tap};
use crate::media::{AudioPacket, Chunk, Config, MediaError, Output, OutputConfig, SegmentSink};
use crate::trickle::{Begin, Client, Publisher};

/// The codec's settings for pictures coded as `coding`; `profile` is H.264's, empty for the configured one.
pub fn settings(media: &Config, coding: Coding, profile: &str) -> Config {
    let mut media = media.clone();
    match coding {
        Coding::H264 if profile.is_empty() => {}
        Coding::H264 => media.video_profile = profile.to_owned(),
        Coding::Vp8 => (media.video_encoder, media.video_profile) = ("libvpx".into(), String::new()),
    }
    media
}

/// What taps are made with.
pub struct Maker {
    /// Reaches the supervisor's own channels.
    pub client: Client,
    /// Owns the tasks that publish.
    pub tasks: TaskTracker,
    /// Where those run.
    pub runtime: Handle,
    /// Counts what taps did not take.
    pub dropped: IntCounter,
    /// How the session's output is coded.
    pub coding: Coding,
    /// Of the session's output.
    pub output: OutputConfig,
}

/// The taps of a session. Belongs to its encode thread; when it goes, so do they, and their channels are closed.
pub struct Taps {
    make: Maker,
    /// Get what the output gets.
    same: Vec<One>,
    /// Coded a second time, for all of the other coding together.
    second: Option<(Output, Second)>,
    /// The recording.
    file: Option<Tee>,
    streams: Option<Streams>,
}

/// One tap of a watcher.
struct One {
    url: String,
    copy: Tee,
}

impl One {
    fn start(url: String, make: &Maker) -> Self {
        let (pieces, taken) = mpsc::channel(PIECES);
        let dropped = make.dropped.clone();
        make.tasks.spawn_on(publish(make.client.clone(), url.clone(), taken, dropped.clone()), &make.runtime);
        Self { url, copy: Tee::new(pieces, dropped, Arc::default()) }
    }
}

/// Hands an output on without ever waiting, from its next segment on: what is not taken at once is left out up to the end of
/// its segment, and the segment is counted.
#[derive(Debug)]
pub struct Tee {
    pieces: mpsc::Sender<Piece>,
    /// Its first segment has begun.
    begun: bool,
    /// Nothing is of use until the next segment.
    lost: bool,
    dropped: IntCounter,
    lost_segments: Arc<AtomicU64>,
}

impl Tee {
    /// Segments that are not whole are counted in both.
    pub fn new(pieces: mpsc::Sender<Piece>, dropped: IntCounter, lost_segments: Arc<AtomicU64>) -> Self {
        Self { pieces, begun: false, lost: false, dropped, lost_segments }
    }

    /// The next piece.
    pub fn take(&mut self, piece: &Piece) {
        if let Piece::Begin = piece {
            (self.begun, self.lost) = (true, false);
        }
        // Whatever comes before the first segment is nobody's loss.
        if !self.begun || self.lost {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.pieces.try_send(piece.clone()) {
            self.lost = true;
            self.dropped.inc();
            self.lost_segments.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The sink of the second encoder.
struct Second(Vec<One>);

impl Second {
    fn all(&mut self, piece: Piece) {
        self.0.iter_mut().for_each(|tap| tap.copy.take(&piece));
    }
}

impl SegmentSink for Second {
    fn begin(&mut self, _: Timestamp) {
        self.all(Piece::Begin);
    }

    fn bytes(&mut self, bytes: Bytes, _: Chunk) {
        self.all(Piece::Bytes(bytes, What::Tables));
    }

    fn end(&mut self) {
        self.all(Piece::End);
    }
}

impl Taps {
    /// No taps yet.
    pub fn new(make: Maker) -> Self {
        Self { make, same: Vec::new(), second: None, file: None, streams: None }
    }

    /// These are the taps from now on. Those that stay are not disturbed; new ones begin with a key picture.
    ///
    /// # Errors
    /// The second encoder does not open; its taps are closed.
    pub fn set(&mut self, wanted: Vec<Tap>) -> Result<(), MediaError> {
        let (same, other): (Vec<Tap>, Vec<Tap>) = wanted.into_iter().partition(|tap| tap.coding == self.make.coding);
        change(&mut self.same, same, &self.make);
        let Some(coding) = other.first().map(|tap| tap.coding) else {
            self.second = None;
            return Ok(());
        };
        if self.second.is_none() {
            let media = settings(&self.make.output.media, coding, "baseline");
            let mut output = Output::new(OutputConfig { media, ..self.make.output.clone() })?;
            if let Some(Streams { video, audio }) = self.streams {
                output.announce(video, audio);
            }
            tracing::info!("Watchers get a second coding, by {}.", output.encoder_name());
            self.second = Some((output, Second(Vec::new())));
        }
        if let Some((output, sink)) = &mut self.second {
            change(&mut sink.0, other, &self.make);
            output.ask_key();
        }
        Ok(())
    }

    /// A recording gets what the output gets, in the place of the one before.
    pub fn keep(&mut self, file: Tee) {
        self.file = Some(file);
    }

    /// Closes the second coding, which failed.
    pub fn drop_second(&mut self) {
        self.second = None;
    }

    /// The streams that will come.
    pub fn announce(&mut self, streams: Streams) {
        self.streams = Some(streams);
        if let Some((output, _)) = &mut self.second {
            output.announce(streams.video, streams.audio);
        }
    }

    /// A piece of the session's output.
    pub fn piece(&mut self, piece: &Piece) {
        self.same.iter_mut().map(|tap| &mut tap.copy).chain(&mut self.file).for_each(|copy| copy.take(piece));
    }

    /// A picture that the session's output got.
    ///
    /// # Errors
    /// The second encoder refused it.
    pub fn video(&mut self, frame: &VideoFrame) -> Result<(), MediaError> {
        match &mut self.second {
            Some((output, sink)) => output.video(frame, sink).map(drop),
            None => Ok(()),
        }
    }

    /// Audio that the session's output got.
    ///
    /// # Errors
    /// It could not be coded anew.
    pub fn audio(&mut self, packet: &AudioPacket) -> Result<(), MediaError> {
        match &mut self.second {
            Some((output, sink)) => output.audio(packet, sink),
            None => Ok(()),
        }
    }

    /// Begins the next picture of the second coding as a key picture.
    pub fn ask_key(&mut self) {
        if let Some((output, _)) = &mut self.second {
            output.ask_key();
        }
    }

    /// Lowers or raises the ceiling of the second coding, see [`Output::limit`].
    pub fn limit(&mut self, kbps: u64) {
        if let Some((output, _)) = &mut self.second {
            output.limit(kbps);
        }
    }
}

fn change(taps: &mut Vec<One>, wanted: Vec<Tap>, make: &Maker) {
    taps.retain(|tap| wanted.iter().any(|wanted| wanted.url == tap.url));
    for Tap { url, .. } in wanted {
        if !taps.iter().any(|tap| tap.url == url) {
            taps.push(One::start(url, make));
        }
    }
}

/// Writes pieces to the channel at `url` until they end or the channel does, then closes it.
async fn publish(client: Client, url: String, mut pieces: mpsc::Receiver<Piece>, dropped: IntCounter) {
    let mut publisher = match Publisher::open(&client, &url, "video/mp2t", Begin::Resume).await {
        Ok(publisher) => publisher,
        Err(error) => {
            tracing::warn!("A tap cannot be opened: {error}");
            return;
        }
    };
    let mut writer = None;
    while let Some(piece) = pieces.recv().await {
        let result = match piece {
            Piece::Begin => {
                // Where pieces were dropped, the segment before has no end of its own.
                let ended = match writer.take() {
                    Some(open) => finish(open).await,
                    None => Ok(()),
                };
                match ended {
                    Ok(()) => publisher.begin().await.map(|opened| writer = Some(opened)),
                    Err(error) => Err(error),
                }
            }
            Piece::Bytes(bytes, _) => match &mut writer {
                Some(open) => open.write(bytes).await,
                None => continue,
            },
            Piece::End => match writer.take() {
                Some(open) => finish(open).await,
                None => continue,
            },
        };
        if let Err(error) = result {
            dropped.inc();
            writer = None;
            if error.is_end() {
                break;
            }
            tracing::debug!("A segment of a tap broke off: {error}");
        }
    }
    if let Some(open) = writer.take() {
        // Its reader learns of the end by the channel's.
        let _ = finish(open).await;
    }
    let _ = publisher.close(true).await;
}

async fn finish(open: crate::trickle::SegmentWriter) -> Result<(), crate::trickle::TrickleError> {
    open.finish().await.map(drop)
}
