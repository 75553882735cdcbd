//! Reading a ledger and checking its chain.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Body, Entry, LONGEST, Stream, Tip, VERSION, file_name, hash};
use crate::metering::interval::Totals;

/// Why a ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file or folder cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no ledger.
    #[error("{0}: no ledger is there")]
    Missing(PathBuf),
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> LedgerError {
    move |source| LedgerError::Io { path: path.to_owned(), source }
}

/// The files of a ledger in order, with the number of each one's first line. `path` is the folder, or one file.
///
/// # Errors
/// [`LedgerError`].
pub fn files(path: &Path) -> Result<Vec<(u64, PathBuf)>, LedgerError> {
    if path.is_file() {
        return Ok(vec![(number(path).unwrap_or(0), path.to_owned())]);
    }
    let mut files = Vec::new();
    for item in std::fs::read_dir(path).map_err(io(path))? {
        let file = item.map_err(io(path))?.path();
        if let Some(seq) = number(&file) {
            files.push((seq, file));
        }
    }
    files.sort();
    Ok(files)
}

fn number(path: &Path) -> Option<u64> {
    let seq = path.file_name()?.to_str()?.strip_prefix("ledger-")?.strip_suffix(".jsonl")?.parse().ok()?;
    (path.file_name()?.to_str()? == file_name(seq)).then_some(seq)
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is no JSON object with a version, a number and a hash.
    #[error("is no line of a ledger: {0}")]
    Form(String),
    /// It is of a version that is not known.
    #[error("has version {0}, and this program knows {VERSION}")]
    Version(u32),
    /// Its number does not follow.
    #[error("has number {found}, and {expected} is due: lines are missing, or were put in")]
    Number {
        /// The number that follows.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// Its hash is not that of the line before.
    #[error("does not join on to the line before, which was changed: its hash is {found}, and {expected} is due")]
    Hash {
        /// Hash of the line before.
        expected: String,
        /// What the line says.
        found: String,
    },
    /// It has no end.
    #[error("is torn: the runner that wrote it did not finish")]
    Torn,
}

#[derive(Deserialize)]
struct Head {
    v: u32,
    seq: u64,
    prev: String,
}

/// Checks lines as they come.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    tip: Option<Tip>,
}

impl Chain {
    /// Before the first line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks the next line, without its end. The first line may have any number: the ones before may have been removed
    /// for their age.
    ///
    /// # Errors
    /// [`Broken`]; the chain goes on with this line when it has a number at all.
    pub fn push(&mut self, line: &[u8]) -> Result<Entry, Broken> {
        let form = |error: serde_json::Error| Broken::Form(error.to_string());
        let head: Head = serde_json::from_slice(line).map_err(form)?;
        let due = self.tip.replace(Tip { seq: head.seq.saturating_add(1), hash: hash(line) });
        if head.v != VERSION {
            return Err(Broken::Version(head.v));
        }
        let due = match due {
            Some(due) => due,
            None if head.seq == 1 => Tip::default(),
            None => Tip { seq: head.seq, hash: head.prev.clone() },
        };
        if head.seq != due.seq {
            return Err(Broken::Number { expected: due.seq, found: head.seq });
        }
        if head.prev != due.hash {
            return Err(Broken::Hash { expected: due.hash, found: head.prev });
        }
        serde_json::from_slice(line).map_err(form)
    }

    /// What the next line must join on to.
    pub fn tip(&self) -> Tip {
        self.tip.clone().unwrap_or_default()
    }
}

/// A line that was read.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its file.
    pub file: PathBuf,
    /// Its place in the file, from 1.
    pub line: usize,
    /// What it says, or what is wrong with it.
    pub entry: Result<Entry, Broken>,
}

/// Reads every line of a ledger, oldest first. `visit` says whether to go on.
///
/// # Errors
/// [`LedgerError`].
pub fn read(path: &Path, mut visit: impl FnMut(Found) -> bool) -> Result<Chain, LedgerError> {
    let files = files(path)?;
    if files.is_empty() {
        return Err(LedgerError::Missing(path.to_owned()));
    }
    let mut chain = Chain::new();
    for (_, file) in files {
        let mut reader = BufReader::new(File::open(&file).map_err(io(&file))?);
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let length = reader.by_ref().take(LONGEST as u64).read_until(b'\n', &mut bytes).map_err(io(&file))?;
            if length == 0 {
                break;
            }
            let entry = match bytes.strip_suffix(b"\n") {
                Some(line) => chain.push(line),
                None => Err(Broken::Torn),
            };
            if !visit(Found { file: file.clone(), line, entry }) {
                return Ok(chain);
            }
        }
    }
    Ok(chain)
}

/// A ledger whose chain holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Number of the first line; above 1 when older files were removed for their age or size.
    pub first: u64,
    /// Lines.
    pub lines: u64,
    /// Intervals that the streams lack, because the runner was killed or the disk was full.
    pub missing: u64,
    /// Times a runner began to write without the one before having stopped in order.
    pub kills: u64,
    /// Hash of the last line.
    pub hash: String,
}

/// Checks the chain of a whole ledger. The inner error is the first line that is wrong.
///
/// # Errors
/// [`LedgerError`].
pub fn verify(path: &Path) -> Result<Result<Verified, Found>, LedgerError> {
    let mut verified = Verified { first: 0, lines: 0, missing: 0, kills: 0, hash: String::new() };
    let mut wrong = None;
    let mut next: std::collections::BTreeMap<(Stream, u64), u64> = Default::default();
    let mut open = false;
    let chain = read(path, |found| {
        match &found.entry {
            Err(_) => wrong = Some(found),
            Ok(entry) => {
                verified.lines += 1;
                if verified.first == 0 {
                    verified.first = entry.seq;
                }
                match &entry.body {
                    Body::Opened { .. } => {
                        verified.kills += u64::from(open);
                        open = true;
                    }
                    Body::Closed {} => open = false,
                    Body::Interval { stream, interval, .. } => {
                        let due = next.entry((stream.clone(), interval.session)).or_insert(match verified.first {
                            1 => 0,
                            _ => interval.number,
                        });
                        verified.missing += interval.number.saturating_sub(*due);
                        *due = interval.number + 1;
                    }
                    Body::Ended { stream, session, .. } => drop(next.remove(&(stream.clone(), *session))),
                    Body::Lost { .. } | Body::Other => {}
                }
            }
        }
        wrong.is_none()
    })?;
    verified.hash = chain.tip().hash;
    Ok(match wrong {
        Some(found) => Err(found),
        None => Ok(verified),
    })
}

/// What the intervals of one stream come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The stream.
    #[serde(flatten)]
    pub stream: Stream,
    /// The supervisor's number for the session.
    pub session: u64,
    /// Unix milliseconds at which the first interval began.
    pub from_ms: u64,
    /// Unix milliseconds at which the last one ended.
    pub to_ms: u64,
    /// Intervals.
    pub intervals: u64,
    /// Intervals that are missing among them.
    pub missing: u64,
    /// How often the engine was replaced.
    pub restarts: u32,
    /// The model or pipeline.
    pub model: String,
    /// Sums.
    #[serde(flatten)]
    pub totals: Totals,
    /// Joules of the GPU, with whatever else ran on it.
    pub joules: f64,
    /// The worst 99th percentile of an interval, received to published, in milliseconds.
    pub worst_p99_ms: f64,
    /// True when the last interval says that the stream is over.
    pub ended: bool,
    #[serde(skip)]
    next: u64,
}

impl Summary {
    /// The stream's summary before its first interval.
    pub fn new(stream: &Stream, interval: &crate::metering::Interval) -> Self {
        Self {
            stream: stream.clone(),
            session: interval.session,
            from_ms: interval.from_ms,
            to_ms: interval.to_ms,
            intervals: 0,
            missing: 0,
            restarts: 0,
            model: String::new(),
            totals: Totals::default(),
            joules: 0.0,
            worst_p99_ms: 0.0,
            ended: false,
            next: interval.number,
        }
    }

    /// Adds an interval.
    pub fn add(&mut self, interval: &crate::metering::Interval, gpu: Option<&super::GpuUse>) {
        self.from_ms = self.from_ms.min(interval.from_ms);
        self.to_ms = self.to_ms.max(interval.to_ms);
        self.intervals += 1;
        self.missing += interval.number.saturating_sub(self.next);
        self.next = interval.number + 1;
        self.restarts = self.restarts.max(interval.restarts);
        interval.model.clone_into(&mut self.model);
        self.totals += &interval.totals;
        self.joules += gpu.and_then(|gpu| gpu.joules).unwrap_or(0.0);
        let p99 = interval.latency_ms.get("total").map_or(0.0, |total| total.p99);
        self.worst_p99_ms = self.worst_p99_ms.max(p99);
        self.ended |= interval.last;
    }

    /// Length in seconds of wall-clock time.
    pub fn seconds(&self) -> f64 {
        self.to_ms.saturating_sub(self.from_ms) as f64 / 1000.0
    }

    /// Frames a second that show the model's own picture.
    pub fn fps(&self) -> f64 {
        let seconds = self.seconds();
        if seconds > 0.0 { self.totals.processed() as f64 / seconds } else { 0.0 }
    }
}
