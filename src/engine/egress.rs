//! From pictures to the output channel: a thread that encodes and a task that publishes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::fresh::{Average, skip};
use super::outbox::{Meta, Next, Picture};
use super::shared::{ENCODE, Shared};
use super::tap::{Maker, Taps};
use crate::frame::{PixelFormat, Size, Stamps, Timestamp, VideoFrame};
use crate::media::{AudioHold, Chunk, HoldConfig, MediaError, Output, OutputConfig, SegmentSink, VideoOut};
use crate::metering::{FrameRecord, Kind, Place, Queue, Silenced};
use crate::pipeline::overlay::Overlay;
use crate::trickle::{EndReason, Publisher, SegmentWriter, TrickleError};

/// Pieces of output that may wait for the publisher: over two seconds of pictures and audio.
pub const PIECES: usize = 256;

/// How long the encoder waits before it looks at held audio again.
const LOOK: Duration = Duration::from_millis(100);

/// A last good picture older than this is not shown any more, neither for frames that fail nor behind the overlay.
const BACKGROUND: Duration = Duration::from_secs(5);

/// Longer than any patience of the hold: releases everything.
const AT_THE_END: Duration = Duration::from_secs(3600);

/// A piece of the output channel.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation a frame")]
pub enum Piece {
    /// A segment begins.
    Begin,
    /// Bytes of it.
    Bytes(Bytes, What),
    /// It ends.
    End,
}

/// What bytes hold.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// One picture.
    Video {
        /// Its number.
        seq: u64,
        /// Its time stamp.
        pts: Timestamp,
        /// Its times.
        stamps: Stamps,
        /// What it shows.
        kind: Kind,
    },
    /// Audio up to this time stamp.
    Audio(Timestamp),
    /// Tables.
    Tables,
}

/// Starts the encode thread. It ends when the outbox is closed and empty, or the session is cancelled.
///
/// # Errors
/// When the system has no thread to give.
pub fn spawn_encoder(
    shared: Arc<Shared>,
    config: OutputConfig,
    (pieces, taps): (mpsc::Sender<Piece>, Maker),
    resume_after: (Option<Timestamp>, Option<Timestamp>),
    freshness: Duration,
) -> std::io::Result<JoinHandle<()>> {
    let stream = tracing::Span::current();
    std::thread::Builder::new().name("weir-encode".into()).spawn(move || {
        let _stream = stream.entered();
        let size = config.size;
        let mut output = match Output::new(config) {
            Ok(output) => output,
            Err(error) => {
                shared.fail("encode", format!("The encoder could not be opened: {error}"));
                shared.cancel.cancel();
                return;
            }
        };
        tracing::info!(session = shared.id, "Encoding {size} with {}.", output.encoder_name());
        shared.meter.set_encoder(output.encoder_name());
        shared.show_codecs();
        output.resume_after(resume_after.0, resume_after.1);
        let held = VecDeque::with_capacity(HELD + 1);
        let sink = Sink { shared: shared.clone(), pieces, taps: Taps::new(taps), held, open: false };
        let mut encoder = Encoder {
            shared,
            freshness,
            cost: Average::default(),
            output,
            hold: AudioHold::new(HoldConfig::default()),
            sink,
            size,
            kept: None,
            overlay: None,
            silenced: [0; 3],
        };
        let result = encoder.run();
        encoder.shared.drops_at(Place::End, encoder.sink.held.len() as u64);
        if let Err(error) = result {
            encoder.shared.fail("encode", format!("The encoder failed: {error}"));
            encoder.shared.cancel.cancel();
        }
    })
}

struct Encoder {
    shared: Arc<Shared>,
    /// Delay that a burst may cost before pictures are skipped.
    freshness: Duration,
    /// Time that a picture takes, waiting for the network included.
    cost: Average,
    output: Output,
    hold: AudioHold,
    sink: Sink,
    size: Size,
    /// The last good picture and when it was made.
    kept: Option<(VideoFrame, Instant)>,
    overlay: Option<(Overlay, VideoFrame)>,
    /// Packets of sound that are counted as lost already: held for too long, out of order, damaged.
    silenced: [u64; 3],
}

impl Encoder {
    fn run(&mut self) -> Result<(), MediaError> {
        loop {
            let (shared, cost, interval) = (&self.shared, self.cost.get(), self.shared.interval());
            let next = shared.output.pop(
                Instant::now() + LOOK,
                |waiting| skip(waiting, cost, interval, self.freshness),
                |_| shared.drop_at(Place::Output),
            );
            if self.shared.cancel.is_cancelled() {
                self.shared.drops_at(Place::End, u64::from(matches!(next, Next::Video(_))));
                return Ok(());
            }
            if let Some(streams) = self.shared.streams.take() {
                self.output.announce(streams.video, streams.audio);
                self.sink.taps.announce(streams);
            }
            let now = Instant::now();
            self.shared.busy[ENCODE].set(now);
            let result = match next {
                Next::Audio(packet) => {
                    self.hold.push(packet, now);
                    self.release(now)
                }
                Next::Video(picture) => {
                    let result = self.video(picture);
                    self.cost.add(now.elapsed());
                    result.and_then(|()| self.release(now))
                }
                Next::Nothing => self.release(now),
                Next::Closed => {
                    // No picture comes any more that the held audio could wait for.
                    self.release(now + AT_THE_END)?;
                    self.output.finish(&mut self.sink)?;
                    self.count_sound();
                    self.shared.busy[ENCODE].clear();
                    return Ok(());
                }
            };
            self.shared.busy[ENCODE].clear();
            result?;
        }
    }

    /// Sends the audio whose time has come.
    fn release(&mut self, now: Instant) -> Result<(), MediaError> {
        while let Some(packet) = self.hold.take(now) {
            self.output.audio(&packet, &mut self.sink)?;
            let result = self.sink.taps.audio(&packet);
            self.watched(result);
        }
        self.count_sound();
        Ok(())
    }

    /// Adds what was lost of the sound since the last call to the counters.
    fn count_sound(&mut self) {
        let (hold, output) = (self.hold.stats(), self.output.stats());
        let lost = [hold.dropped_full + hold.dropped_early, output.dropped_audio, output.undecodable_audio];
        for ((place, lost), known) in
            [Silenced::Held, Silenced::Order, Silenced::Damaged].into_iter().zip(lost).zip(&mut self.silenced)
        {
            self.shared.metrics.silenced(place, lost - *known);
            *known = lost;
        }
    }

    /// Watchers lose their second coding when it fails; the output goes on.
    fn watched(&mut self, result: Result<(), MediaError>) {
        if let Err(error) = result {
            tracing::warn!(session = self.shared.id, "The second coding, for watchers, failed: {error}");
            self.shared.metrics.errors.with_label_values(&["encode"]).inc();
            self.sink.taps.drop_second();
        }
    }

    fn video(&mut self, picture: Picture) -> Result<(), MediaError> {
        match picture {
            Picture::Frame(frame) => self.answer(frame, Kind::Processed)?,
            Picture::Similar(frame) => self.answer(frame, Kind::Similar)?,
            Picture::Withheld(frame) => self.answer(frame, Kind::Withheld)?,
            // It is neither billed as made nor shown again.
            Picture::Instead(frame) => self.encode(&frame, Kind::Repeated)?,
            Picture::Repeat(meta) => match self.kept.take_if(|(_, made)| made.elapsed() < BACKGROUND) {
                Some((mut frame, made)) => {
                    stamp(&mut frame, meta);
                    let result = self.encode(&frame, Kind::Repeated);
                    self.kept = Some((frame, made));
                    result?;
                }
                None => self.overlay(meta, "Waiting for the model…")?,
            },
            Picture::Overlay(meta) => {
                let notice = self.shared.notice.lock().unwrap_or_else(PoisonError::into_inner).clone();
                self.overlay(meta, &notice)?;
            }
        }
        Ok(())
    }

    /// Shows the model's answer, and keeps it.
    fn answer(&mut self, frame: VideoFrame, kind: Kind) -> Result<(), MediaError> {
        self.encode(&frame, kind)?;
        self.kept = Some((frame, Instant::now()));
        self.overlay = None;
        Ok(())
    }

    /// Shows the overlay at the time of `meta`: never the camera.
    fn overlay(&mut self, meta: Meta, notice: &str) -> Result<(), MediaError> {
        let now = Instant::now();
        let (mut overlay, mut frame) = match self.overlay.take() {
            Some(both) => both,
            None => {
                let mut overlay = Overlay::new(self.size);
                if let Some((frame, made)) = &self.kept
                    && now.saturating_duration_since(*made) < BACKGROUND
                {
                    overlay.set_background(frame);
                }
                let Some(frame) = VideoFrame::take(&self.shared.pool, self.size, PixelFormat::I420, meta.pts) else {
                    self.shared.drop_at(Place::Decode);
                    return Ok(());
                };
                (overlay, frame)
            }
        };
        let since = self.shared.notice_since.get().unwrap_or(now);
        overlay.draw(&mut frame, notice, now.saturating_duration_since(since));
        stamp(&mut frame, meta);
        let result = self.encode(&frame, Kind::Overlay);
        self.overlay = Some((overlay, frame));
        result
    }

    fn encode(&mut self, frame: &VideoFrame, kind: Kind) -> Result<(), MediaError> {
        if let Some(taps) = self.shared.taps.take() {
            let result = self.sink.taps.set(taps);
            self.watched(result);
            // Whoever is new begins with the next picture.
            self.output.ask_key();
        }
        if let Some(kbps) = self.shared.max_kbps.take() {
            self.output.limit(kbps);
        }
        if let Some(kbps) = self.shared.second_kbps.take() {
            self.sink.taps.limit(kbps);
        }
        if self.shared.second_key.swap(false, Ordering::Relaxed) {
            self.sink.taps.ask_key();
        }
        if self.shared.key_wanted.swap(false, Ordering::Relaxed) {
            self.output.ask_key();
        }
        self.sink.hold(Held { seq: frame.seq, stamps: frame.stamps, kind });
        if self.shared.refusing.end.strikes() {
            return Ok(());
        }
        // A frame that the encoder refuses stays held and is counted with the end of the session.
        if let VideoOut::DroppedOutOfOrder = self.output.video(frame, &mut self.sink)? {
            self.sink.held.pop_back();
            self.shared.drop_at(Place::Order);
            tracing::debug!(session = self.shared.id, pts = frame.pts.0, "Timestamps out of order; dropping video.");
            return Ok(());
        }
        self.hold.video(frame.pts, Instant::now());
        let result = self.sink.taps.video(frame);
        self.watched(result);
        Ok(())
    }
}

fn stamp(frame: &mut VideoFrame, meta: Meta) {
    (frame.seq, frame.pts, frame.stamps) = (meta.seq, meta.pts, meta.stamps);
}

/// Where encoded bytes go: to the publisher, waiting when it is behind.
struct Sink {
    shared: Arc<Shared>,
    pieces: mpsc::Sender<Piece>,
    taps: Taps,
    /// Pictures that the encoder has and whose bytes are still to come, oldest first.
    held: VecDeque<Held>,
    open: bool,
}

/// A picture on its way through the encoder.
struct Held {
    seq: u64,
    stamps: Stamps,
    kind: Kind,
}

/// Pictures that an encoder may hold; far more than any does without B-frames.
const HELD: usize = 64;

impl Sink {
    fn send(&mut self, piece: Piece) {
        if let Some(file) = self.shared.file.take() {
            self.taps.keep(file);
        }
        self.taps.piece(&piece);
        let lost = match self.pieces.try_send(piece) {
            Ok(()) => None,
            Err(TrySendError::Closed(piece)) => Some(piece),
            Err(TrySendError::Full(piece)) => {
                // Waiting for a slow network is no hang of this thread, for which the engine would be replaced.
                self.shared.busy[ENCODE].clear();
                let sent = self.pieces.blocking_send(piece);
                self.shared.busy[ENCODE].set(Instant::now());
                sent.err().map(|error| error.0)
            }
        };
        // A publisher that is gone has cancelled the session, which the encoder sees before its next picture.
        if let Some(Piece::Bytes(_, What::Video { .. })) = lost {
            self.shared.drop_at(Place::End);
        }
    }

    fn hold(&mut self, picture: Held) {
        self.held.push_back(picture);
        if self.held.len() > HELD {
            self.held.pop_front();
            self.shared.drop_at(Place::End);
        }
    }
}

impl SegmentSink for Sink {
    fn begin(&mut self, pts: Timestamp) {
        tracing::trace!(session = self.shared.id, pts = pts.0, "An output segment begins.");
        self.open = true;
        self.send(Piece::Begin);
    }

    fn bytes(&mut self, bytes: Bytes, what: Chunk) {
        let what = match what {
            Chunk::Video { seq, pts, .. } => match self.held.iter().position(|held| held.seq == seq) {
                Some(at) => {
                    // Those before it were swallowed by the encoder.
                    self.shared.drops_at(Place::End, at as u64);
                    match self.held.drain(..=at).next_back() {
                        Some(Held { mut stamps, kind, .. }) => {
                            stamps.encoded = Some(Instant::now());
                            self.shared.metrics.passed(Queue::Encode);
                            What::Video { seq, pts, stamps, kind }
                        }
                        None => What::Tables,
                    }
                }
                None => What::Tables,
            },
            Chunk::Audio { pts, .. } => What::Audio(pts),
            Chunk::Tables => What::Tables,
        };
        self.send(Piece::Bytes(bytes, what));
    }

    fn end(&mut self) {
        self.open = false;
        self.send(Piece::End);
    }
}

/// Writes pieces to the output channel until they end. Returns why it stopped early, if it did.
///
/// `progress` is called with the time stamps of video and audio before their bytes leave, `first` once after the
/// first bytes have.
pub async fn publish(
    shared: Arc<Shared>,
    publisher: &mut Publisher,
    pieces: &mut mpsc::Receiver<Piece>,
    mut progress: impl FnMut(Option<Timestamp>, Option<Timestamp>),
    first: impl FnOnce(),
) -> Option<String> {
    let mut first = Some(first);
    let mut writer: Option<SegmentWriter> = None;
    let mut anew = Anew(true);
    let gauge = |kind, value| shared.metrics.happened(shared.slot, "output", kind, value);
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Begin => match publisher.begin().await {
                Ok(opened) => writer = Some(opened),
                Err(error) if error.is_end() => return Some(ended(&shared, publisher, &error)),
                Err(error) => {
                    shared.fail("trickle", format!("An output segment could not be opened: {error}"));
                    writer = None;
                    anew.broke(&shared);
                }
            },
            Piece::Bytes(bytes, what) => {
                match what {
                    What::Video { pts, .. } => progress(Some(pts), None),
                    What::Audio(pts) => progress(None, Some(pts)),
                    What::Tables => {}
                }
                let length = bytes.len() as u64;
                let refused = matches!(what, What::Video { .. }) && shared.refusing.publish.strikes();
                let sent = match &mut writer {
                    _ if refused => false,
                    None => false,
                    Some(open) => match open.write(bytes).await {
                        Ok(()) => true,
                        Err(error) => {
                            writer = None;
                            if error.is_end() {
                                shared.drops_at(Place::Publish, u64::from(matches!(what, What::Video { .. })));
                                return Some(ended(&shared, publisher, &error));
                            }
                            shared.fail("trickle", format!("An output segment broke off: {error}"));
                            anew.broke(&shared);
                            false
                        }
                    },
                };
                if sent {
                    shared.metrics.bytes_out.inc_by(length);
                    shared.meter.sent(length);
                    if let Some(first) = first.take() {
                        first();
                    }
                }
                if let What::Video { seq, pts, stamps, kind } = what {
                    sent_frame(&shared, sent, seq, pts, stamps, kind, length);
                }
            }
            Piece::End => {
                if let Some(open) = writer.take() {
                    let seq = open.seq();
                    match open.finish().await {
                        Ok(_) => {
                            anew.passed();
                            shared.meter.segment_out();
                            tracing::debug!(session = shared.id, "Published seq={seq}.");
                        }
                        Err(error) if error.is_end() => return Some(ended(&shared, publisher, &error)),
                        Err(error) => shared.fail("trickle", format!("Output segment {seq} was lost: {error}")),
                    }
                }
                let stats = publisher.stats();
                gauge("segments", stats.segments);
                gauge("broken", stats.broken);
                gauge("skipped", stats.skipped);
                gauge("stalled", stats.stalled);
                gauge("retries", stats.retries);
            }
        }
    }
    None
}

/// Takes the pieces of a stream that has no output channel until they end: its pictures are counted as made, with no byte
/// sent.
pub async fn keep(shared: &Shared, pieces: &mut mpsc::Receiver<Piece>) {
    while let Some(piece) = pieces.recv().await {
        if let Piece::Bytes(_, What::Video { seq, pts, stamps, kind }) = piece {
            sent_frame(shared, true, seq, pts, stamps, kind, 0);
        }
    }
}

/// After a segment that broke off, what is encoded next lies in no segment. A key picture begins one at once, long before
/// the next is due; but only once until a segment passes whole, for a server that refuses them all is not to be asked for
/// every picture.
struct Anew(bool);

impl Anew {
    fn broke(&mut self, shared: &Shared) {
        if std::mem::take(&mut self.0) {
            shared.key_wanted.store(true, Ordering::Relaxed);
        }
    }

    fn passed(&mut self) {
        self.0 = true;
    }
}

/// Why the output ended, for the log. An end that nobody ordered is a fault with its cause.
fn ended(shared: &Shared, publisher: &Publisher, error: &TrickleError) -> String {
    match error {
        TrickleError::Ended(EndReason::Closed | EndReason::Gone) => format!("the output ended: {error}"),
        _ => {
            let cause = publisher.last_failure().unwrap_or_else(|| error.to_string());
            shared.fail("trickle", format!("The output cannot be written: {cause}"));
            format!("the output cannot be written: {cause}")
        }
    }
}

/// Counts the pictures that nobody will publish any more. The channel takes no more pieces after this.
pub async fn discard(shared: &Shared, mut pieces: mpsc::Receiver<Piece>) {
    pieces.close();
    while let Some(piece) = pieces.recv().await {
        shared.drops_at(Place::End, u64::from(matches!(piece, Piece::Bytes(_, What::Video { .. }))));
    }
}

fn sent_frame(shared: &Shared, sent: bool, seq: u64, pts: Timestamp, mut stamps: Stamps, kind: Kind, bytes: u64) {
    if !sent {
        shared.drop_at(Place::Publish);
        return;
    }
    let now = Instant::now();
    stamps.published = Some(now);
    let (pixels, model) = (shared.meter.output_size().pixels(), shared.pipeline.name());
    let record = FrameRecord { session: shared.id, seq, pts, stamps, kind, pixels, bytes, model };
    shared.metrics.published(&record);
    shared.meter.published(&record);
    if kind.is_answer() {
        shared.last_output.set(now);
        if shared.frames_out.fetch_add(1, Ordering::Relaxed) == 0 {
            shared.metrics.first_frame.observe(now.saturating_duration_since(shared.began).as_secs_f64());
        }
    }
    if tracing::enabled!(tracing::Level::DEBUG) {
        let ms = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map_or(0.0, |(from, to)| to.saturating_duration_since(from).as_secs_f64() * 1000.0)
        };
        tracing::debug!(
            session = shared.id,
            pts = pts.0,
            picture = kind.label(),
            decode_ms = ms(stamps.received, stamps.decoded),
            queue_ms = ms(stamps.decoded, stamps.started),
            model_ms = ms(stamps.started, stamps.done),
            encode_ms = ms(stamps.done, stamps.encoded),
            publish_ms = ms(stamps.encoded, stamps.published),
            "Processing frame {seq}"
        );
    }
}
