//! Decoding a channel for people and checks, on a thread of its own. Measurements do not depend on it: when it is too
//! slow it loses pictures, the reader never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::RigError;
use crate::frame::{FramePool, PixelFormat, Size, VideoFrame};
use crate::media::{AudioPacket, Input, InputConfig, InputEvent, InputSink};

/// Pieces that may wait for the thread. When they do, the rest of the segment is left out.
const PIECES: usize = 512;
/// Pictures that the decoder and whoever looks at them hold.
const BUFFERS: usize = 4;

enum Piece {
    Begin,
    Bytes(Bytes, Instant),
    End,
}

/// The way to a decoding thread.
pub struct Feed {
    pieces: Sender<Piece>,
    /// The current segment is cut short, for want of room.
    cut: AtomicBool,
    lost: Arc<AtomicU64>,
}

impl Feed {
    /// A segment begins.
    pub fn begin(&self) {
        self.cut.store(self.pieces.try_send(Piece::Begin).is_err(), Ordering::Relaxed);
    }

    /// Bytes of it, which came at `at`.
    pub fn bytes(&self, bytes: Bytes, at: Instant) {
        if self.cut.load(Ordering::Relaxed) || self.pieces.try_send(Piece::Bytes(bytes, at)).is_err() {
            self.cut.store(true, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It ends.
    pub fn end(&self) {
        if !self.cut.load(Ordering::Relaxed) {
            // Lost room ends the segment as well.
            let _ = self.pieces.try_send(Piece::End);
        }
    }
}

/// A decoding thread. It ends when its feed or this is dropped; dropping this waits for that.
pub struct Decoding {
    thread: Option<JoinHandle<()>>,
    stop: Option<Sender<()>>,
    lost: Arc<AtomicU64>,
}

impl Decoding {
    /// Starts a thread that gives every decoded picture, scaled to `size` and laid out as `format`, to `look`.
    ///
    /// # Errors
    /// The decoder does not open, or the system has no thread to give.
    pub fn start(
        size: Size,
        format: PixelFormat,
        look: impl FnMut(VideoFrame) + Send + 'static,
    ) -> Result<(Feed, Self), RigError> {
        let media = crate::media::Config::default();
        let input = Input::new(InputConfig { target: size, format, media, pool: FramePool::new(BUFFERS) })?;
        let (pieces, received) = bounded(PIECES);
        let (stop, stopped) = bounded(0);
        let thread = std::thread::Builder::new()
            .name("rig-decode".into())
            .spawn(move || run(input, &received, &stopped, Look(look)))
            .map_err(RigError::Socket)?;
        let lost = Arc::new(AtomicU64::new(0));
        let feed = Feed { pieces, cut: AtomicBool::new(true), lost: lost.clone() };
        Ok((feed, Self { thread: Some(thread), stop: Some(stop), lost }))
    }

    /// Pieces that were left out because the thread was too slow.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Decoding {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

struct Look<F>(F);

impl<F: FnMut(VideoFrame)> InputSink for Look<F> {
    fn video(&mut self, frame: VideoFrame) {
        (self.0)(frame);
    }

    fn audio(&mut self, _: AudioPacket) {}

    fn event(&mut self, _: InputEvent) {}
}

fn run(mut input: Input, pieces: &Receiver<Piece>, stop: &Receiver<()>, mut sink: impl InputSink) {
    loop {
        let piece = select! {
            recv(pieces) -> piece => piece,
            // Nothing is ever sent: this is the end of the other side.
            recv(stop) -> _ => return,
        };
        let Ok(piece) = piece else { break };
        let result = match piece {
            Piece::Begin => {
                input.segment_start();
                Ok(())
            }
            Piece::Bytes(bytes, at) => input.push(&bytes, at, &mut sink),
            Piece::End => input.segment_end(&mut sink),
        };
        if result.is_err() {
            return;
        }
    }
    input.finish(&mut sink);
}
