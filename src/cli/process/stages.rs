//! Reader, model and writer, each on a thread, with a bounded channel between them. Every frame passes: a full channel
//! makes the stage before it wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::error::ProcessError;
use super::progress::Progress;
use crate::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use crate::media::{AudioPacket, AudioTrack};
use crate::pipeline::FrameProcessor;

/// Items that may wait before the model, and before the writer.
const QUEUE: usize = 8;
/// Picture buffers: both queues, two in each stage, and some for pipelines that keep frames.
pub const BUFFERS: usize = 2 * QUEUE + 16;
/// How long a stage waits for a buffer; more means that the pipeline keeps them.
const BUFFER_WAIT: Duration = Duration::from_secs(60);

/// What flows through.
pub enum Item {
    /// A picture.
    Video(VideoFrame),
    /// Audio, which goes around the model; what works on it sits before the writer.
    Audio(AudioPacket),
}

/// Where frames are read into.
pub struct Buffers<'a> {
    /// Size that the pipeline wants.
    pub size: Size,
    /// Layout that it wants.
    pub format: PixelFormat,
    /// Set when the run is to end early.
    pub stop: &'a AtomicBool,
    /// Where pictures come from.
    pub pool: &'a FramePool,
}

impl Buffers<'_> {
    /// A frame to fill; waits while all are in use. `None` when the run is to end.
    ///
    /// # Errors
    /// No buffer came back for a minute.
    pub fn take(&self, pts: Timestamp) -> Result<Option<VideoFrame>, ProcessError> {
        let began = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(frame) = VideoFrame::take(self.pool, self.size, self.format, pts) {
                return Ok(Some(frame));
            }
            if began.elapsed() > BUFFER_WAIT {
                return Err(ProcessError::System("the pipeline gives no picture buffer back".into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(None)
    }
}

/// Gives frames.
pub trait Source: Send {
    /// Size of its pictures in pixels, if that is known beforehand.
    fn size(&self) -> Option<Size>;

    /// How many frames it has, if that is known beforehand.
    fn frames(&self) -> Option<u64>;

    /// Frames a second, if that is known beforehand.
    fn fps(&self) -> Option<f64>;

    /// Its audio, if it has any.
    fn audio(&self) -> Option<AudioTrack> {
        None
    }

    /// Gives everything to `give`, until that returns false.
    ///
    /// # Errors
    /// What was given before stays good.
    fn read(&mut self, buffers: &Buffers<'_>, give: &mut dyn FnMut(Item) -> bool) -> Result<(), ProcessError>;
}

/// Takes frames.
pub trait Sink: Send {
    /// Writes one item.
    ///
    /// # Errors
    /// The output is broken from here on.
    fn put(&mut self, item: Item) -> Result<(), ProcessError>;

    /// Completes the file. Called also after a fault of another stage, so that what there is can be played.
    ///
    /// # Errors
    /// The output is not whole.
    fn finish(&mut self) -> Result<(), ProcessError>;
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Frames written.
    pub frames: u64,
    /// Wall time of the frames, loading left out.
    pub took: Duration,
    /// Wall time inside the model.
    pub model: Duration,
    /// A signal ended the run.
    pub stopped: bool,
}

/// Runs until the source ends, `limit` frames are done, or `stop` is set.
///
/// # Errors
/// The first fault of a stage, the one nearest to the output. The sink is finished in any case.
pub fn run(
    source: &mut dyn Source,
    processor: &mut dyn FrameProcessor,
    sink: &mut dyn Sink,
    (size, pool): (Size, &FramePool),
    limit: Option<u64>,
    stop: &AtomicBool,
) -> Result<Summary, ProcessError> {
    let total = source.frames();
    let total = match (total, limit) {
        (Some(total), Some(limit)) => Some(total.min(limit)),
        (total, limit) => total.or(limit),
    };
    let buffers = Buffers { size, format: processor.format(), stop, pool };
    let began = Instant::now();
    let mut summary = Summary::default();
    let (to_model, from_source) = bounded(QUEUE);
    let (to_sink, from_model) = bounded(QUEUE);
    let (read, ran, wrote) = std::thread::scope(|scope| {
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let reader = thread("weir-read").spawn_scoped(scope, || read(source, &buffers, to_model, limit));
        let writer = thread("weir-write").spawn_scoped(scope, move || write(sink, &from_model));
        let progress = Progress::new(total, began);
        let ran = model(processor, from_source, to_sink, progress, &mut summary);
        (joined(reader), ran, joined(writer))
    });
    summary.took = began.elapsed();
    summary.stopped = stop.load(Ordering::Relaxed);
    wrote.and(ran).and(read).map(|()| summary)
}

/// The result of a thread, which may not have begun.
fn joined(
    thread: std::io::Result<std::thread::ScopedJoinHandle<'_, Result<(), ProcessError>>>,
) -> Result<(), ProcessError> {
    let broken = |reason: String| ProcessError::System(reason);
    let thread = thread.map_err(|error| broken(format!("a thread could not be started: {error}")))?;
    thread.join().unwrap_or_else(|_| Err(broken("a thread panicked".into())))
}

fn read(
    source: &mut dyn Source,
    buffers: &Buffers<'_>,
    to_model: Sender<Item>,
    limit: Option<u64>,
) -> Result<(), ProcessError> {
    let mut left = limit.unwrap_or(u64::MAX);
    source.read(buffers, &mut |item| {
        if let Item::Video(_) = item {
            if left == 0 {
                return false;
            }
            left -= 1;
        }
        // A model that is gone has a fault of its own to tell.
        to_model.send(item).is_ok() && left > 0
    })
}

fn model(
    processor: &mut dyn FrameProcessor,
    from_source: Receiver<Item>,
    to_sink: Sender<Item>,
    mut progress: Progress,
    summary: &mut Summary,
) -> Result<(), ProcessError> {
    for item in from_source {
        let item = match item {
            Item::Audio(packet) => Item::Audio(packet),
            Item::Video(frame) => {
                let (seq, pts, began) = (frame.seq, frame.pts, Instant::now());
                let result = processor.process(frame);
                let now = Instant::now();
                summary.model += now - began;
                let mut frame =
                    result.map_err(|error| ProcessError::Frame { frame: summary.frames, reason: error.to_string() })?;
                (frame.seq, frame.pts) = (seq, pts);
                processor.texts().into_iter().for_each(|text| tracing::info!("Frame {}: {text}", summary.frames));
                summary.frames += 1;
                progress.frame(now);
                Item::Video(frame)
            }
        };
        if to_sink.send(item).is_err() {
            // The writer has a fault to tell.
            return Ok(());
        }
    }
    Ok(())
}

fn write(sink: &mut dyn Sink, from_model: &Receiver<Item>) -> Result<(), ProcessError> {
    let result = from_model.iter().try_for_each(|item| sink.put(item));
    let finished = sink.finish();
    result.and(finished)
}
