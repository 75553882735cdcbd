//! Recordings: the encoded output of a session in a file, as it is or with the same pictures and sound as MP4.
//!
//! They are fed as watchers are (a `Tee`), so nothing waits for a disk. A file begins with a segment, so with
//! tables and a key picture, and can be played up to wherever it was cut off.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::{IntCounter, IntCounterVec};
use serde_json::{Value, json};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::egress::{PIECES, Piece};
use super::tap::Tee;
use crate::link::{RecordFormat, RecordOrder};
use crate::media::Recorder;

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
    lost: Arc<AtomicU64>,
}

/// A recording under way. Its task ends with its copy at the latest.
#[derive(Debug)]
pub struct Recording {
    name: String,
    began: Instant,
    progress: Arc<Progress>,
    stop: CancellationToken,
    over: CancellationToken,
}

impl Recording {
    /// Makes the file and a task among `tasks` that writes it. The copy goes to the encoder.
    ///
    /// # Errors
    /// [`RecordError`]: the file is there already, or its folder takes none.
    pub async fn start(
        order: RecordOrder,
        counters: Counters,
        tasks: &TaskTracker,
    ) -> Result<(Self, Tee), RecordError> {
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
        let copy = Tee::new(sender, counters.lost.clone(), progress.lost.clone());
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
            let into = match order.format {
                RecordFormat::Ts => Target::Ts(file),
                // The muxer opens the file again.
                RecordFormat::Mp4 => Target::Mp4(Some(Box::new(Recorder::fragmented(&part)))),
            };
            let end = write(into, &order, pieces, &stop, (&progress, &counters.bytes)).await;
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
        Ok((recording, copy))
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

/// What bytes are written into.
enum Target {
    Ts(File),
    /// Out of its place while it works, on a thread for what blocks.
    Mp4(Option<Box<Recorder>>),
}

impl Target {
    async fn write(&mut self, bytes: Bytes) -> std::io::Result<()> {
        match self {
            Self::Ts(file) => file.write_all(&bytes).await,
            Self::Mp4(recorder) => {
                let Some(mut busy) = recorder.take() else { return Ok(()) };
                let worked = tokio::task::spawn_blocking(move || busy.push(&bytes).map(|()| busy)).await?;
                *recorder = Some(worked.map_err(std::io::Error::other)?);
                Ok(())
            }
        }
    }

    async fn finish(self, path: &Path) -> std::io::Result<()> {
        match self {
            Self::Ts(mut file) => {
                file.flush().await?;
                file.sync_all().await
            }
            Self::Mp4(recorder) => {
                if let Some(recorder) = recorder {
                    let finished = tokio::task::spawn_blocking(move || recorder.finish()).await?;
                    finished.map_err(std::io::Error::other)?;
                }
                File::open(path).await?.sync_all().await
            }
        }
    }
}

/// Writes what comes until it is to end. Returns why it ended.
async fn write(
    mut into: Target,
    order: &RecordOrder,
    mut pieces: mpsc::Receiver<Piece>,
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
        let piece = match piece {
            Some(Piece::Bytes(bytes, _)) => bytes,
            Some(Piece::Begin | Piece::End) => continue,
            None => break,
        };
        let written = progress.bytes.load(Ordering::Relaxed);
        if written + piece.len() as u64 > order.max_bytes {
            why = Some("size");
            break;
        }
        let length = piece.len() as u64;
        into.write(piece).await?;
        progress.bytes.store(written + length, Ordering::Relaxed);
        bytes.inc_by(length);
    }
    into.finish(&part_of(&order.file)).await?;
    Ok(why.unwrap_or("stream"))
}

#[cfg(test)]
mod tests {
    use super::super::egress::What;
    use super::*;

    fn counters() -> Counters {
        let counter = |name: &str| IntCounter::new(name, name).expect("a counter");
        let ended = IntCounterVec::new(prometheus::Opts::new("ended", "ended"), &["end"]).expect("counters");
        Counters { ended, bytes: counter("bytes"), lost: counter("lost") }
    }

    fn order(folder: &Path, max_bytes: u64, max_ms: u64) -> RecordOrder {
        RecordOrder { name: "1-1".into(), file: folder.join("1-1.ts"), format: RecordFormat::Ts, max_bytes, max_ms }
    }

    fn piece(byte: u8) -> Piece {
        Piece::Bytes(Bytes::from(vec![byte; 188]), What::Tables)
    }

    #[tokio::test]
    async fn what_is_published_is_what_is_kept() {
        let (folder, tasks, counters) = (tempfile::tempdir().expect("a folder"), TaskTracker::new(), counters());
        let order = order(folder.path(), 1 << 20, 60_000);
        let (recording, mut copy) =
            Recording::start(order.clone(), counters.clone(), &tasks).await.expect("a recording");
        // The rest of a segment that had begun is none of it.
        copy.take(&piece(9));
        copy.take(&Piece::Begin);
        copy.take(&piece(1));
        copy.take(&piece(2));
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
            let (recording, mut copy) =
                Recording::start(order.clone(), counters.clone(), &tasks).await.expect("a recording");
            copy.take(&Piece::Begin);
            copy.take(&piece(1));
            copy.take(&piece(2));
            if end == "time" {
                recording.over.cancelled().await;
            }
            copy.take(&piece(3));
            drop(copy);
            recording.over.cancelled().await;
            assert_eq!(counters.ended.with_label_values(&[end]).get(), 1, "{end}");
            assert_eq!(tokio::fs::metadata(&order.file).await.expect("a file").len(), kept, "{end}");
        }
    }

    #[tokio::test]
    async fn a_slow_disk_loses_the_rest_of_a_segment_and_it_is_counted() {
        let (sender, mut pieces) = mpsc::channel(2);
        let (counters, lost) = (counters(), Arc::new(AtomicU64::new(0)));
        let mut copy = Tee::new(sender, counters.lost.clone(), lost.clone());
        copy.take(&Piece::Begin);
        (0..5).for_each(|byte| copy.take(&piece(byte)));
        assert_eq!((counters.lost.get(), lost.load(Ordering::Relaxed)), (1, 1));
        let mut next = || match pieces.try_recv() {
            Ok(Piece::Bytes(bytes, _)) => Some(bytes[0]),
            Ok(_) => Some(u8::MAX),
            Err(_) => None,
        };
        assert_eq!([next(), next(), next()], [Some(u8::MAX), Some(0), None]);
        // There is room again, but only a new segment can be played.
        copy.take(&piece(6));
        assert_eq!(next(), None);
        copy.take(&Piece::Begin);
        copy.take(&piece(7));
        assert_eq!([next(), next()], [Some(u8::MAX), Some(7)]);
    }
}
