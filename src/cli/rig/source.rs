//! What the runner gets to see: a moving test picture with a tone, or a file, an address or a camera, published in real
//! time as a gateway would.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::RigError;
use super::ledger::Ledger;
use super::playback::Playback;
use crate::frame::{FramePool, Size};
use crate::media::{AudioCodec, Chunk, MediaError, Output, OutputConfig, Pattern, SegmentSink, Stopper, Tone};
use crate::trickle::{Begin, Client, Publisher, SegmentWriter};

/// Pieces that may wait for the publisher.
const PIECES: usize = 256;
/// Concert pitch.
const HERTZ: f64 = 440.0;
/// A picture this late is left out, and those before it.
const LATE: Duration = Duration::from_millis(250);
/// Pieces that one burst may hold back; more are sent at once.
const HELD: usize = 1024;
/// Longest sleep between two looks at the order to stop.
const NAP: Duration = Duration::from_millis(50);

/// What is published.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceConfig {
    /// A test picture that carries its number, and a tone.
    Pattern {
        /// Pixels, both even.
        size: Size,
        /// Pictures a second.
        fps: f64,
    },
    /// A file, an address or a camera.
    Media {
        /// Its name.
        name: String,
        /// Pictures are scaled and cropped to this; `None` leaves them as they are.
        size: Option<Size>,
    },
}

/// Faults that a soak asks the source for.
#[derive(Debug, Default)]
pub struct Faults {
    stall_ms: AtomicU64,
    cut: AtomicBool,
    skip: AtomicU32,
}

impl Faults {
    /// Sends nothing for `time`.
    pub fn stall(&self, time: Duration) {
        self.stall_ms.store(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// Gives the current segment up in the middle: its POST is aborted and the segment deleted.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Leaves the contents of the next `segments` out: their numbers are used up without a byte.
    pub fn skip(&self, segments: u32) {
        self.skip.store(segments, Ordering::Relaxed);
    }
}

/// What becomes of the transport packets of a picture on their way out, by the picture's number: the same, others, or
/// none, which leaves the picture out.
pub type Edit = Box<dyn Fn(u64, Bytes) -> Bytes + Send>;

/// Counters of a source.
#[derive(Debug, Default)]
pub struct Counters {
    /// Pictures that were left out because the source was late or stalled.
    pub left_out: AtomicU64,
    /// Pictures that were made but lost to a fault on the way.
    pub lost: AtomicU64,
}

/// What the thread and the task of a source share.
struct Shared {
    ledger: Arc<Ledger>,
    faults: Faults,
    counters: Counters,
    stop: AtomicBool,
    stopper: Stopper,
}

impl Shared {
    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stopper.stop();
    }
}

enum Opened {
    Pattern(Box<PatternMaker>),
    Playback(Box<Playback>),
}

/// A source that is opened and waits for its channel.
pub struct Ready {
    opened: Opened,
    stopper: Stopper,
    size: Size,
    bursts: Option<Duration>,
    edit: Option<Edit>,
}

impl Ready {
    /// Passes every picture through `edit`, for streams that are damaged on purpose.
    pub fn edited(self, edit: Edit) -> Self {
        Self { edit: Some(edit), ..self }
    }

    /// Opens a source. What is slow about it happens on a thread that may block.
    ///
    /// # Errors
    /// The source or its encoder does not open.
    pub async fn open(config: SourceConfig) -> Result<Self, RigError> {
        let stopper = Stopper::default();
        // Whoever drops this future ends an opening that waits for a network.
        let guard = StopOnDrop(Some(stopper.clone()));
        let handle = stopper.clone();
        let opening = tokio::task::spawn_blocking(move || match config {
            SourceConfig::Pattern { size, fps } => {
                let opened = Opened::Pattern(Box::new(PatternMaker::new(size, fps)?));
                Ok(Self { opened, stopper: handle, size, bursts: None, edit: None })
            }
            SourceConfig::Media { name, size } => {
                let playback = Playback::open(&name, size, handle.clone())?;
                let size = playback.size().unwrap_or(Size::new(512, 512));
                let opened = Opened::Playback(Box::new(playback));
                Ok(Self { opened, stopper: handle, size, bursts: None, edit: None })
            }
        });
        let result = opening.await;
        guard.keep();
        match result {
            Ok(result) => result.map_err(RigError::Media),
            Err(error) => Err(RigError::Socket(std::io::Error::other(error))),
        }
    }

    /// Sends what was made every so often at once, as the segmenter of a go-livepeer gateway does about every 300 ms.
    pub fn in_bursts(self, every: Option<Duration>) -> Self {
        Self { bursts: every, ..self }
    }

    /// Size of its pictures.
    pub fn size(&self) -> Size {
        self.size
    }
}

struct StopOnDrop(Option<Stopper>);

impl StopOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(stopper) = &self.0 {
            stopper.stop();
        }
    }
}

enum Piece {
    Begin,
    Bytes(Bytes, Option<i64>),
    End,
}

/// A source at work: a thread that makes pictures, a task that publishes them. Both end with this value.
pub struct Source {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), MediaError>>>,
    task: Option<AbortOnDropHandle<Result<(), RigError>>>,
}

impl Source {
    /// Begins to publish on the channel at `url`; `ledger` gets every picture's time.
    ///
    /// # Errors
    /// `url` is no channel URL, or there is no thread.
    pub async fn start(
        Ready { opened, stopper, bursts, edit, .. }: Ready,
        client: &Client,
        url: &str,
        ledger: Arc<Ledger>,
    ) -> Result<Self, RigError> {
        let shared = Arc::new(Shared {
            ledger,
            faults: Faults::default(),
            counters: Counters::default(),
            stop: AtomicBool::new(false),
            stopper,
        });
        let (pieces, queue) = mpsc::channel(PIECES);
        let publisher = Publisher::open(client, url, "video/mp2t", Begin::Zero).await?;
        let sink = Sink { shared: shared.clone(), pieces, edit, number: 0 };
        let builder = std::thread::Builder::new().name("rig-source".into());
        let thread = match opened {
            Opened::Pattern(maker) => builder.spawn(move || maker.run(sink)),
            Opened::Playback(playback) => builder.spawn(move || playback.run(sink)),
        };
        let task = tokio::spawn(publish(publisher, Bursts::new(queue, bursts), shared.clone()));
        Ok(Self { shared, thread: Some(thread.map_err(RigError::Socket)?), task: Some(AbortOnDropHandle::new(task)) })
    }

    /// Faults to ask for.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Pictures that were left out or lost.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// True once everything was published.
    pub fn ended(&self) -> bool {
        self.task.as_ref().is_none_or(|task| task.is_finished())
    }

    /// Ends the source at a whole picture and waits until its segment is delivered.
    ///
    /// # Errors
    /// It failed before.
    pub async fn stop(mut self) -> Result<(), RigError> {
        self.shared.stop();
        if let Some(task) = self.task.take() {
            // An aborted task means that the runtime ends.
            task.await.unwrap_or(Ok(()))?;
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result.map_err(RigError::Media),
            Some(Err(_)) | None => Ok(()),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shared.stop();
        // Without its task the thread has nobody to give its pieces to, and ends at the next one.
        drop(self.task.take());
    }
}

/// Where the thread puts its segments.
pub(super) struct Sink {
    shared: Arc<Shared>,
    pieces: mpsc::Sender<Piece>,
    edit: Option<Edit>,
    /// Pictures so far.
    number: u64,
}

impl Sink {
    /// True when the thread is to end.
    pub(super) fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed) || self.pieces.is_closed()
    }

    /// Sleeps until `due`. False when the thread is to end.
    pub(super) fn sleep_until(&self, due: Instant) -> bool {
        loop {
            if self.stopped() {
                return false;
            }
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return true;
            }
            std::thread::sleep(wait.min(NAP));
        }
    }

    /// Pictures that were left out.
    pub(super) fn left_out(&self, count: u64) {
        self.shared.counters.left_out.fetch_add(count, Ordering::Relaxed);
    }

    fn send(&self, piece: Piece) {
        // A closed channel ends the thread at its next look.
        let _ = self.pieces.blocking_send(piece);
    }
}

impl SegmentSink for Sink {
    fn begin(&mut self, _: crate::frame::Timestamp) {
        self.send(Piece::Begin);
    }

    fn bytes(&mut self, mut bytes: Bytes, what: Chunk) {
        let pts = match what {
            Chunk::Video { pts, .. } => Some(pts.0),
            Chunk::Audio { .. } | Chunk::Tables => None,
        };
        if let Some(pts) = pts {
            if let Some(edit) = &self.edit {
                bytes = edit(self.number, bytes);
            }
            self.number += 1;
            if bytes.is_empty() {
                self.shared.counters.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.shared.ledger.announce(pts);
        }
        self.send(Piece::Bytes(bytes, pts));
    }

    fn end(&mut self) {
        self.send(Piece::End);
    }
}

struct PatternMaker {
    pattern: Pattern,
    tone: Tone,
    output: Output,
    pool: FramePool,
}

impl PatternMaker {
    fn new(size: Size, fps: f64) -> Result<Self, MediaError> {
        // The tone is AAC already and passes through.
        let media = crate::media::Config { audio: AudioCodec::Aac, ..Default::default() };
        Ok(Self {
            pattern: Pattern::new(size, fps)?,
            tone: Tone::new(HERTZ, 1)?,
            output: Output::new(OutputConfig { size, fps_hint: fps, media })?,
            pool: FramePool::new(2),
        })
    }

    fn run(mut self, mut sink: Sink) -> Result<(), MediaError> {
        self.output.announce(true, Some(1));
        let start = Instant::now();
        let due = |number: u32| start + Duration::from_secs_f64(f64::from(number) / self.pattern.fps());
        let mut number = 0;
        while sink.sleep_until(due(number)) {
            let stall = sink.shared.faults.stall_ms.swap(0, Ordering::Relaxed);
            if stall > 0 && !sink.sleep_until(Instant::now() + Duration::from_millis(stall)) {
                break;
            }
            let late = Instant::now().saturating_duration_since(due(number));
            if late > LATE {
                let skipped = (late.as_secs_f64() * self.pattern.fps()) as u32;
                sink.left_out(u64::from(skipped));
                number += skipped;
            }
            let Some(frame) = self.pattern.frame(number, &self.pool) else { continue };
            // Sound of the time that was left out is left out too.
            let since = frame.pts.0 - LATE.as_micros() as i64 * 9 / 100;
            let mut packets = Vec::new();
            self.tone.until(frame.pts, &mut |packet| packets.push(packet))?;
            self.output.video(&frame, &mut sink)?;
            for packet in packets.iter().filter(|packet| packet.pts.0 >= since) {
                self.output.audio(packet, &mut sink)?;
            }
            number += 1;
        }
        self.output.finish(&mut sink)
    }
}

/// Pieces as they come, or held back and handed on together.
struct Bursts {
    queue: mpsc::Receiver<Piece>,
    every: Option<Duration>,
    due: tokio::time::Instant,
    held: VecDeque<Piece>,
}

impl Bursts {
    fn new(queue: mpsc::Receiver<Piece>, every: Option<Duration>) -> Self {
        Self { queue, every, due: tokio::time::Instant::now(), held: VecDeque::new() }
    }

    async fn next(&mut self) -> Option<Piece> {
        let Some(every) = self.every else { return self.queue.recv().await };
        while self.held.is_empty() {
            let now = tokio::time::Instant::now();
            self.due = if self.due + every > now { self.due + every } else { now + every };
            while self.held.len() < HELD {
                tokio::select! {
                    piece = self.queue.recv() => match piece {
                        Some(piece) => self.held.push_back(piece),
                        None if self.held.is_empty() => return None,
                        None => break,
                    },
                    () = tokio::time::sleep_until(self.due) => break,
                }
            }
        }
        self.held.pop_front()
    }
}

/// Publishes pieces until they end.
async fn publish(mut publisher: Publisher, mut pieces: Bursts, shared: Arc<Shared>) -> Result<(), RigError> {
    let mut writer: Option<SegmentWriter> = None;
    while let Some(piece) = pieces.next().await {
        match piece {
            Piece::Begin => {
                let opened = publisher.begin().await?;
                writer = Some(opened);
                let skips = shared.faults.skip.load(Ordering::Relaxed);
                if skips > 0
                    && let Some(opened) = writer.take()
                {
                    shared.faults.skip.store(skips - 1, Ordering::Relaxed);
                    // An empty segment: its number is there, its contents are not.
                    opened.finish().await?;
                }
            }
            Piece::Bytes(bytes, pts) => {
                if writer.is_some() && shared.faults.cut.swap(false, Ordering::Relaxed) {
                    // Dropping it aborts its POST.
                    writer = None;
                }
                let sent = match &mut writer {
                    Some(open) => match open.write(bytes).await {
                        Ok(()) => true,
                        Err(error) => {
                            writer = None;
                            if publisher.ended().is_some() {
                                return Err(error.into());
                            }
                            false
                        }
                    },
                    None => false,
                };
                match pts {
                    Some(pts) if sent => shared.ledger.sent(pts, Instant::now()),
                    Some(_) => drop(shared.counters.lost.fetch_add(1, Ordering::Relaxed)),
                    None => {}
                }
            }
            Piece::End => {
                if let Some(open) = writer.take()
                    && let Err(error) = open.finish().await
                    && publisher.ended().is_some()
                {
                    return Err(error.into());
                }
            }
        }
    }
    // The channel stays: its end is the orchestrator's affair.
    publisher.close(false).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_holds_what_was_made_meanwhile_and_loses_nothing() {
        let (send, queue) = mpsc::channel(PIECES);
        let mut bursts = Bursts::new(queue, Some(Duration::from_millis(300)));
        let maker = tokio::spawn(async move {
            for number in 0..20 {
                send.send(Piece::Bytes(Bytes::new(), Some(number))).await.unwrap();
                tokio::time::sleep(Duration::from_millis(33)).await;
            }
        });
        let (began, mut seen) = (tokio::time::Instant::now(), Vec::new());
        while let Some(Piece::Bytes(_, Some(number))) = bursts.next().await {
            seen.push((number, began.elapsed().as_millis() / 300));
        }
        maker.await.unwrap();
        assert_eq!(seen.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        // Ten at 300 ms, nine at 600 ms, and the last one when the source ends, 60 ms later.
        let burst = |n| seen.iter().filter(|(_, burst)| *burst == n).count();
        assert_eq!((burst(0), burst(1), burst(2)), (0, 10, 10));
    }
}
