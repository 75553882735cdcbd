//! From the input channel to decoded frames: a task that reads segments and a thread that decodes them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::fresh::Average;
use super::outbox::{Meta, Picture};
use super::shared::{DECODE, Shared, Streams};
use super::sound::SoundWay;
use crate::frame::{PixelFormat, Size, Timestamp, VideoFrame};
use crate::media::{AudioPacket, DropReason, Input, InputConfig, InputEvent, InputSink};
use crate::metering::{Place, Queue};
use crate::trickle::{EndReason, Subscriber};

/// Pieces that may wait for the decoder. When they do, the socket is not read: nothing is lost.
pub const PIECES: usize = 64;

/// A piece of the input channel.
#[derive(Debug)]
pub enum Piece {
    /// A segment begins.
    Begin(u64),
    /// Bytes of it, and when they came out of the socket.
    Bytes(Bytes, Instant),
    /// It ended, whole or broken.
    End,
}

/// Reads the input channel until it ends. Returns why it ended, for the log.
///
/// `first_segment` is called once, when the first segment has been read whole.
pub async fn read(
    shared: Arc<Shared>,
    mut subscriber: Subscriber,
    pieces: mpsc::Sender<Piece>,
    first_segment: impl FnOnce(),
) -> String {
    let mut first_segment = Some(first_segment);
    let gauge = |kind, value| shared.metrics.happened(shared.slot, "input", kind, value);
    loop {
        let mut segment = match subscriber.next().await {
            Ok(Some(segment)) => segment,
            Ok(None) => {
                return match subscriber.end_reason() {
                    Some(reason @ (EndReason::Failures | EndReason::Certificate | EndReason::NotFound)) => {
                        let cause = subscriber.last_failure().map_or_else(|| reason.to_string(), str::to_owned);
                        shared.fail("trickle", format!("The input cannot be read: {cause}"));
                        format!("the input cannot be read: {cause}")
                    }
                    Some(reason) => format!("the input ended: {reason}"),
                    None => "the input ended".into(),
                };
            }
            Err(error) => {
                shared.fail("trickle", format!("Reading the input failed: {error}"));
                return format!("the input cannot be read: {error}");
            }
        };
        let seq = segment.seq();
        shared.meter.segment_in(Instant::now());
        if pieces.send(Piece::Begin(seq)).await.is_err() {
            return "the decoder stopped".into();
        }
        let mut bytes_read = 0_u64;
        let whole = loop {
            match segment.chunk().await {
                Ok(Some(bytes)) => {
                    let now = Instant::now();
                    shared.last_byte.set(now);
                    shared.metrics.bytes_in.inc_by(bytes.len() as u64);
                    shared.meter.received(bytes.len() as u64);
                    bytes_read += bytes.len() as u64;
                    if pieces.send(Piece::Bytes(bytes, now)).await.is_err() {
                        return "the decoder stopped".into();
                    }
                }
                Ok(None) => break true,
                Err(error) => {
                    shared.fail("trickle", format!("Input segment {seq} broke off: {error}"));
                    break false;
                }
            }
        };
        if pieces.send(Piece::End).await.is_err() {
            return "the decoder stopped".into();
        }
        if whole
            && bytes_read > 0
            && let Some(first_segment) = first_segment.take()
        {
            first_segment();
        }
        let stats = subscriber.stats();
        gauge("segments", stats.segments);
        gauge("reissued", stats.reissued);
        gauge("retries", stats.retries);
        gauge("jumps", stats.jumps470);
        gauge("empty", stats.empty);
        gauge("gaps", stats.gaps);
        gauge("reread", stats.reread);
        gauge("broken", stats.broken);
    }
}

/// Starts the decode thread. It ends when `pieces` does, and then closes the way to the model.
///
/// # Errors
/// When the system has no thread to give.
pub fn spawn_decoder(
    shared: Arc<Shared>,
    config: InputConfig,
    pieces: mpsc::Receiver<Piece>,
    resume_after: Option<Timestamp>,
) -> std::io::Result<JoinHandle<()>> {
    let stream = tracing::Span::current();
    std::thread::Builder::new().name("weir-decode".into()).spawn(move || {
        let _stream = stream.entered();
        decode(&shared, config, pieces, resume_after);
        shared.output.close_audio();
        shared.input.close();
    })
}

/// Decoders that a stream may wear out within [`DECODER_WINDOW`]; the next failure ends it.
const DECODERS: usize = 3;
/// Time after which a decoder's failure is forgiven.
const DECODER_WINDOW: Duration = Duration::from_secs(120);

/// Whether a stream whose decoder failed at `now` gets another one. `failures` keeps the times that still count.
fn another_decoder(failures: &mut Vec<Instant>, now: Instant) -> bool {
    failures.retain(|&at| now.saturating_duration_since(at) < DECODER_WINDOW);
    failures.push(now);
    failures.len() <= DECODERS
}

fn decode(
    shared: &Arc<Shared>,
    mut config: InputConfig,
    mut pieces: mpsc::Receiver<Piece>,
    resume_after: Option<Timestamp>,
) {
    let size = config.target;
    let mut format = config.format;
    let open = |config: &InputConfig, format| {
        let InputConfig { target, media, pool, .. } = config;
        Input::new(InputConfig { target: *target, format, media: media.clone(), pool: pool.clone() })
    };
    let give_up = |message: String| {
        shared.fail("decode", message);
        shared.cancel.cancel();
    };
    let mut input = match open(&config, format) {
        Ok(input) => input,
        Err(error) => return give_up(format!("The decoder could not be opened: {error}")),
    };
    let mut failures = Vec::with_capacity(DECODERS + 1);
    let sound = SoundWay::new(shared, &config.media);
    let mut sink = Sink { shared, sound, resume_after, last_pts: None, interval: Average::default() };
    while let Some(piece) = pieces.blocking_recv() {
        let now = Instant::now();
        shared.busy[DECODE].set(now);
        let mut result = Ok(());
        if let Some(fps) = shared.max_fps.take() {
            config.media.max_fps = fps;
            input.set_cap(fps);
        }
        if shared.format() != format {
            format = shared.format();
            result = input.set_target(size, format);
        }
        result = result.and_then(|()| match piece {
            Piece::Begin(seq) => {
                tracing::trace!(session = shared.id, seq, "An input segment begins.");
                input.segment_start();
                Ok(())
            }
            Piece::Bytes(bytes, received) => input.push(&bytes, received, &mut sink),
            Piece::End => input.segment_end(&mut sink),
        });
        shared.busy[DECODE].clear();
        if let Err(error) = result {
            if !another_decoder(&mut failures, now) {
                return give_up(format!("The input cannot be decoded: {error}"));
            }
            shared.fail("decode", format!("The input cannot be decoded, a new decoder begins: {error}"));
            input = match open(&config, format) {
                Ok(input) => input,
                Err(error) => return give_up(format!("The decoder could not be opened: {error}")),
            };
        }
    }
    input.finish(&mut sink);
}

/// Where decoded frames go.
struct Sink<'a> {
    shared: &'a Arc<Shared>,
    sound: SoundWay,
    resume_after: Option<Timestamp>,
    last_pts: Option<Timestamp>,
    interval: Average,
}

impl InputSink for Sink<'_> {
    fn video(&mut self, frame: VideoFrame) {
        let shared = self.shared;
        if shared.refusing.decode.strikes() {
            return self.event(InputEvent::Dropped { reason: DropReason::PoolEmpty, pts: Some(frame.pts) });
        }
        shared.metrics.decoded.inc();
        shared.metrics.passed(Queue::Decode);
        shared.meter.arrived();
        shared.frames_in.fetch_add(1, Ordering::Relaxed);
        shared.last_input.set(frame.stamps.decoded.unwrap_or_else(Instant::now));
        if self.resume_after.is_some_and(|last| frame.pts <= last) {
            shared.drop_at(Place::Resume);
            return;
        }
        self.resume_after = None;
        if let Some(gap) = self.last_pts.map(|last| frame.pts.since(last)).filter(|gap| (1..90_000).contains(gap)) {
            self.interval.add(Duration::from_micros(gap as u64 * 100 / 9));
            shared.interval_us.store(self.interval.get().as_micros() as u64, Ordering::Relaxed);
        }
        self.last_pts = Some(frame.pts);
        let held = shared.held.load(Ordering::Acquire);
        if held || !shared.ready() || shared.refusing.model.strikes() {
            // While the model loads every frame becomes a picture of the overlay, so that the rate and the timeline go on.
            if !held && !shared.overlay.load(Ordering::Relaxed) {
                shared.drop_at(Place::Model);
                return;
            }
            let meta = Meta { seq: frame.seq, pts: frame.pts, stamps: frame.stamps };
            if shared.output.video(Picture::Overlay(meta)).is_some() {
                shared.drop_at(Place::Output);
            }
            return;
        }
        if shared.input.push(frame).is_some() {
            shared.drop_at(Place::Input);
        }
    }

    fn audio(&mut self, packet: AudioPacket) {
        self.shared.last_audio.set(Instant::now());
        self.sound.packet(packet);
    }

    fn event(&mut self, event: InputEvent) {
        let (shared, session) = (self.shared, self.shared.id);
        match event {
            InputEvent::StreamsFound { ref video, ref audio, .. } => {
                let audio = audio.as_ref().map(|audio| audio.channels.unwrap_or(0));
                shared.streams.put(Streams { video: video.is_some(), audio });
                if let Some(line) = event.metadata_line() {
                    tracing::info!(session, "{line}");
                }
            }
            InputEvent::DecoderChosen { name } => {
                tracing::info!(session, "Decoding with {name}.");
                shared.meter.set_decoder(&name);
                shared.show_codecs();
            }
            InputEvent::FormatChanged { size, pixel_format } => {
                shared.meter.set_input_size(size);
                tracing::info!(session, "The input has pictures of {size} in {pixel_format}.");
            }
            InputEvent::Discontinuity { from, to } => {
                tracing::info!(session, "The input's time line jumps from {} to {}.", from.0, to.0);
            }
            InputEvent::Damage(damage) => {
                shared.metrics.damaged.inc();
                tracing::debug!(session, "Damaged input is skipped: {damage}.");
            }
            InputEvent::Dropped { reason, pts } => {
                shared.meter.arrived();
                shared.drop_at(match reason {
                    DropReason::PoolEmpty => Place::Decode,
                    DropReason::RateCap => Place::RateCap,
                    DropReason::Damaged => Place::Damaged,
                    DropReason::BeforeKeyFrame => Place::KeyFrame,
                    DropReason::OutOfOrder | DropReason::NoTime => Place::Order,
                });
                tracing::debug!(session, ?pts, ?reason, "A frame of the input is dropped.");
            }
        }
    }
}

/// The cap of frames a second in force: the lower of the setting and what a caller asked for. 0 means no cap.
pub fn cap(set: f64, asked: Option<f64>) -> f64 {
    match asked.filter(|fps| *fps > 0.0) {
        None => set,
        Some(asked) if set > 0.0 => set.min(asked),
        Some(asked) => asked,
    }
}

/// The decoder's settings for a session.
pub fn input_config(shared: &Shared, size: Size, media: &crate::media::Config, max_fps: Option<f64>) -> InputConfig {
    let mut media = media.clone();
    media.max_fps = cap(media.max_fps, max_fps);
    InputConfig { target: size, format: PixelFormat::I420, media, pool: shared.pool.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_failure_in_two_minutes_is_one_too_many() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut failures = Vec::new();
        // seconds, another decoder
        for (seconds, another) in [(0, true), (10, true), (20, true), (60, false), (121, false), (200, true)] {
            assert_eq!(another_decoder(&mut failures, at(seconds)), another, "{seconds}");
        }
    }
}
