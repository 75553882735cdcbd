//! Recordings: the encoded output of a session, as it is published, in a file.
//!
//! The publisher hands on a reference to the bytes that it sends, and never waits: what the disk does not take in time is
//! left out up to the end of its segment, and counted. A file begins with a segment, so with tables and a key picture,
//! and can be played up to wherever it was cut off.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::{IntCounter, IntCounterVec};
use serde_json::{Value, json};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::link::RecordOrder;

/// Pieces that may wait for the disk: some three seconds of pictures and audio.
const PIECES: usize = 256;

/// Time that a folder has to take a new file.
const OPEN: Duration = Duration::from_secs(1);

/// Why a recording cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file.
    #[error("the recording cannot be written: {0}")]
    File(#[from] std::io::Error),
    /// The disk.
    #[error("the recording cannot be written: its folder does not answer")]
    Slow,
}

/// What is counted.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Recordings by how they ended: `stopped`, `stream`, `time`, `size`, `failed`.
    pub ended: IntCounterVec,
    /// Bytes that were written.
    pub bytes: IntCounter,
    /// Segments that are not whole in their recording.
    pub lost: IntCounter,
}

/// What a recording has come to.
#[derive(Debug, Default)]
struct Progress {
    bytes: AtomicU64,
    lost: AtomicU64,
}

/// The publisher's end: takes what is sent, without waiting.
#[derive(Debug)]
pub struct Tap {
    pieces: Option<mpsc::Sender<Bytes>>,
    /// Whether the segment is whole so far.
    whole: bool,
    progress: Arc<Progress>,
    lost: IntCounter,
}

impl Tap {
    /// A segment begins.
    pub fn begin(&mut self) {
        self.whole = true;
    }

    /// Bytes of it.
    pub fn bytes(&mut self, bytes: &Bytes) {
        let Some(pieces) = self.pieces.as_ref().filter(|_| self.whole) else { return };
        match pieces.try_send(bytes.clone()) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.whole = false;
                self.lost.inc();
                self.progress.lost.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Closed(_)) => self.pieces = None,
        }
    }
}

/// A recording under way. Its task ends with the tap at the latest.
#[derive(Debug)]
pub struct Recording {
    name: String,
    began: Instant,
    progress: Arc<Progress>,
    stop: CancellationToken,
    over: CancellationToken,
}

impl Recording {
    /// Makes the file and a task among `tasks` that writes it. The tap goes to the publisher.
    ///
    /// # Errors
    /// [`RecordError`]: the file is there already, or its folder takes none.
    pub async fn start(
        order: RecordOrder,
        counters: Counters,
        tasks: &TaskTracker,
    ) -> Result<(Self, Tap), RecordError> {
        let part = part_of(&order.file);
        if tokio::fs::try_exists(&order.file).await? {
            return Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists).into());
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let file = tokio::time::timeout(OPEN, options.open(&part)).await.map_err(|_| RecordError::Slow)??;
        let (sender, pieces) = mpsc::channel(PIECES);
        let progress = Arc::new(Progress::default());
        let (stop, over) = (CancellationToken::new(), CancellationToken::new());
        let tap = Tap { pieces: Some(sender), whole: false, progress: progress.clone(), lost: counters.lost.clone() };
        let recording = Self {
            name: order.name.clone(),
            began: Instant::now(),
            progress: progress.clone(),
            stop: stop.clone(),
            over: over.clone(),
        };
        tasks.spawn(async move {
            let _over = over.drop_guard();
            let name = order.name.clone();
            let end = write(file, &order, pieces, &stop, (&progress, &counters.bytes)).await;
            let end = match end {
                Ok(end) => tokio::fs::rename(&part, &order.file).await.map(|()| end),
                Err(error) => Err(error),
            };
            let bytes = progress.bytes.load(Ordering::Relaxed);
            match end {
                Ok(end) => {
                    counters.ended.with_label_values(&[end]).inc();
                    tracing::info!(name, bytes, end, "A recording is whole.");
                }
                Err(error) => {
                    counters.ended.with_label_values(&["failed"]).inc();
                    tracing::warn!(name, bytes, %error, "A recording broke off.");
                }
            }
        });
        Ok((recording, tap))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What there is of it.
    pub fn told(&self) -> Value {
        json!({
            "bytes": self.progress.bytes.load(Ordering::Relaxed),
            "seconds": self.began.elapsed().as_secs_f64(),
            "lost_segments": self.progress.lost.load(Ordering::Relaxed),
        })
    }

    /// Whether its file is whole, or as far as it goes.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Ends it. What is returned resolves when its file is whole.
    pub fn stop(&self) -> impl Future<Output = ()> + use<> {
        self.stop.cancel();
        let over = self.over.clone();
        async move { over.cancelled().await }
    }
}

/// The name of a file that is not whole yet.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Writes what comes until it is to end. Returns why it ended.
async fn write(
    mut file: File,
    order: &RecordOrder,
    mut pieces: mpsc::Receiver<Bytes>,
    stop: &CancellationToken,
    (progress, bytes): (&Progress, &IntCounter),
) -> std::io::Result<&'static str> {
    let time = tokio::time::sleep(Duration::from_millis(order.max_ms));
    tokio::pin!(time);
    let mut why = None;
    loop {
        let piece = tokio::select! {
            biased;
            () = stop.cancelled(), if why.is_none() => {
                // What waits is still written.
                pieces.close();
                why = Some("stopped");
                continue;
            }
            () = &mut time, if why.is_none() => {
                pieces.close();
                why = Some("time");
                continue;
            }
            piece = pieces.recv() => piece,
        };
        let Some(piece) = piece else { break };
        let written = progress.bytes.load(Ordering::Relaxed);
        if written + piece.len() as u64 > order.max_bytes {
            why = Some("size");
            break;
        }
        file.write_all(&piece).await?;
        progress.bytes.store(written + piece.len() as u64, Ordering::Relaxed);
        bytes.inc_by(piece.len() as u64);
    }
    file.flush().await?;
    file.sync_all().await?;
    Ok(why.unwrap_or("stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters() -> Counters {
        let counter = |name: &str| IntCounter::new(name, name).expect("a counter");
        let ended = IntCounterVec::new(prometheus::Opts::new("ended", "ended"), &["end"]).expect("counters");
        Counters { ended, bytes: counter("bytes"), lost: counter("lost") }
    }

    fn order(folder: &Path, max_bytes: u64, max_ms: u64) -> RecordOrder {
        RecordOrder { name: "1-1".into(), file: folder.join("1-1.ts"), max_bytes, max_ms }
    }

    fn piece(byte: u8) -> Bytes {
        Bytes::from(vec![byte; 188])
    }

    #[tokio::test]
    async fn what_is_published_is_what_is_kept() {
        let (folder, tasks, counters) = (tempfile::tempdir().expect("a folder"), TaskTracker::new(), counters());
        let order = order(folder.path(), 1 << 20, 60_000);
        let (recording, mut tap) =
            Recording::start(order.clone(), counters.clone(), &tasks).await.expect("a recording");
        // The rest of a segment that had begun is none of it.
        tap.bytes(&piece(9));
        tap.begin();
        tap.bytes(&piece(1));
        tap.bytes(&piece(2));
        assert!(!order.file.exists() && !recording.is_over());
        recording.stop().await;
        let kept = tokio::fs::read(&order.file).await.expect("a file");
        assert_eq!(kept, [vec![1; 188], vec![2; 188]].concat());
        assert!(recording.is_over() && counters.ended.with_label_values(&["stopped"]).get() == 1);
        assert_eq!((counters.bytes.get(), recording.told()["bytes"].as_u64()), (376, Some(376)));
        // A file is never written over.
        assert!(Recording::start(order.clone(), counters.clone(), &tasks).await.is_err());
        tokio::fs::remove_file(&order.file).await.expect("the file goes");
        assert!(Recording::start(order.clone(), counters.clone(), &tasks).await.is_ok());
        assert!(Recording::start(order, counters, &tasks).await.is_err(), "one is being written");
    }

    #[tokio::test]
    async fn sizes_and_times_have_limits_and_the_stream_is_one() {
        for (max_bytes, max_ms, end, kept) in
            [(400, 60_000, "size", 376), (1 << 20, 30, "time", 376), (1 << 20, 60_000, "stream", 564)]
        {
            let (folder, tasks, counters) = (tempfile::tempdir().expect("a folder"), TaskTracker::new(), counters());
            let order = order(folder.path(), max_bytes, max_ms);
            let (recording, mut tap) =
                Recording::start(order.clone(), counters.clone(), &tasks).await.expect("a recording");
            tap.begin();
            tap.bytes(&piece(1));
            tap.bytes(&piece(2));
            if end == "time" {
                recording.over.cancelled().await;
            }
            tap.bytes(&piece(3));
            drop(tap);
            recording.over.cancelled().await;
            assert_eq!(counters.ended.with_label_values(&[end]).get(), 1, "{end}");
            assert_eq!(tokio::fs::metadata(&order.file).await.expect("a file").len(), kept, "{end}");
        }
    }

    #[tokio::test]
    async fn a_slow_disk_loses_the_rest_of_a_segment_and_it_is_counted() {
        let (sender, mut pieces) = mpsc::channel(2);
        let counters = counters();
        let progress = Arc::new(Progress::default());
        let mut tap =
            Tap { pieces: Some(sender), whole: false, progress: progress.clone(), lost: counters.lost.clone() };
        tap.begin();
        (0..5).for_each(|byte| tap.bytes(&piece(byte)));
        assert_eq!((counters.lost.get(), progress.lost.load(Ordering::Relaxed)), (1, 1));
        let first = |pieces: &mut mpsc::Receiver<Bytes>| pieces.try_recv().ok().map(|bytes| bytes[0]);
        assert_eq!([first(&mut pieces), first(&mut pieces), first(&mut pieces)], [Some(0), Some(1), None]);
        // There is room again, but only a new segment can be played.
        tap.bytes(&piece(6));
        assert_eq!(first(&mut pieces), None);
        tap.begin();
        tap.bytes(&piece(7));
        assert_eq!(first(&mut pieces), Some(7));
    }
}
