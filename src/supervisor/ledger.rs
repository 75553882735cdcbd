//! Who writes the ledger: one thread, fed by a bounded queue, that never lets anybody wait.
//!
//! Every line is written and brought to the disk before the next. What cannot be written (a full disk, most likely) is
//! tried again until it can; meanwhile lines wait in the queue, and those that find it full are counted and told in the
//! ledger itself once it can be written again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tracing::{error, info, warn};

use super::config::LedgerConfig;
use super::hub::unix_ms;
use super::metrics::Metrics;
use crate::metering::ledger::{Body, Chain, LONGEST, Tip, file_name, files, hash};

/// Lines that may wait.
const QUEUE: usize = 4096;
/// Time between two tries.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two complaints about the same trouble.
const COMPLAIN: Duration = Duration::from_secs(60);
/// Time between two looks for files that are too old.
const TIDY: Duration = Duration::from_secs(600);
/// How long the end waits for the last line.
const LAST: Duration = Duration::from_secs(1);

/// The way to the thread that writes. Cheap to call, never waits.
pub(super) struct Ledger {
    queue: Option<SyncSender<(u64, Body)>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What both sides know.
#[derive(Default)]
struct Shared {
    /// Lines that found the queue full and have not been told of.
    lost: AtomicU64,
    /// Nothing new comes; what fails now is given up.
    ending: AtomicBool,
    /// There is no ledger: it is optional, and its folder cannot be written.
    off: AtomicBool,
    waiting: AtomicU64,
}

impl Ledger {
    /// Starts the thread; without a path nothing is written.
    pub fn start(config: &LedgerConfig, version: &str, metrics: Metrics) -> Self {
        let shared = Arc::new(Shared::default());
        let Some(folder) = config.path.clone() else { return Self { queue: None, shared, thread: None } };
        let (queue, lines) = sync_channel(QUEUE);
        let writer = Writer {
            folder,
            optional: config.optional,
            most: config.max_size as u64,
            age: Duration::from_millis(config.max_age_ms),
            version: version.to_owned(),
            open_file: |path: &Path| OpenOptions::new().create(true).read(true).append(true).open(path).map(Store::of),
            metrics: metrics.clone(),
            shared: shared.clone(),
            state: None,
            waiting: VecDeque::new(),
            tidied: None,
        };
        let thread = std::thread::Builder::new().name("weir-ledger".into()).spawn(move || writer.run(&lines));
        match thread {
            Ok(thread) => Self { queue: Some(queue), shared, thread: Some(thread) },
            Err(error) => {
                error!(%error, "The ledger is not written: no thread.");
                metrics.ledger_failing.set(1);
                Self { queue: None, shared, thread: None }
            }
        }
    }

    /// Adds a line. With the queue full it is lost and counted.
    pub fn write(&self, body: Body, metrics: &Metrics) {
        let Some(queue) = &self.queue else { return };
        if self.shared.off.load(Ordering::Relaxed) {
            return;
        }
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        if queue.try_send((unix_ms(), body)).is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            metrics.ledger_lost.inc();
        }
        metrics.ledger_waiting.set(self.shared.waiting.load(Ordering::Relaxed) as i64);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        self.queue = None;
        let Some(thread) = self.thread.take() else { return };
        // A disk that hangs must not keep the process: its thread is left to the kernel.
        let until = Instant::now() + LAST;
        while !thread.is_finished() {
            if Instant::now() > until {
                warn!("The ledger's disk does not answer; its last lines may be missing.");
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // A panic there has been told by the panic hook.
        let _ = thread.join();
    }
}

/// A file that lines are appended to. A trait in one struct, so that a test can make its disk full.
struct Store {
    file: File,
    /// Bytes that still fit; `None` for as many as there are.
    #[cfg(test)]
    room: Option<Arc<AtomicU64>>,
}

impl Store {
    fn of(file: File) -> Self {
        Self {
            file,
            #[cfg(test)]
            room: None,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        #[cfg(test)]
        if let Some(room) = &self.room {
            let fits = room.load(Ordering::Relaxed).min(bytes.len() as u64);
            room.fetch_sub(fits, Ordering::Relaxed);
            self.file.write_all(&bytes[..fits as usize])?;
            if (fits as usize) < bytes.len() {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            return self.file.sync_data();
        }
        self.file.write_all(bytes)?;
        self.file.sync_data()
    }
}

/// An open ledger.
struct State {
    /// Held for as long as we write, so that two runners never write one ledger.
    _lock: File,
    store: Store,
    size: u64,
    tip: Tip,
}

struct Writer<F> {
    folder: PathBuf,
    optional: bool,
    most: u64,
    age: Duration,
    version: String,
    open_file: F,
    metrics: Metrics,
    shared: Arc<Shared>,
    state: Option<State>,
    waiting: VecDeque<(u64, Body)>,
    tidied: Option<Instant>,
}

impl<F: Fn(&Path) -> std::io::Result<Store>> Writer<F> {
    fn run(mut self, lines: &Receiver<(u64, Body)>) {
        let mut trouble: Option<Instant> = None;
        let mut opened = false;
        loop {
            let ending = self.shared.ending.load(Ordering::Relaxed);
            match self.work(&mut opened) {
                Ok(()) => {
                    if trouble.take().is_some() {
                        info!("The ledger is written again.");
                    }
                    self.metrics.ledger_failing.set(0);
                }
                Err(problem) if self.optional && !opened && not_ours(&problem) => {
                    self.shared.off.store(true, Ordering::Relaxed);
                    self.shared.waiting.store(0, Ordering::Relaxed);
                    self.metrics.ledger_waiting.set(0);
                    let path = self.folder.display();
                    info!(%path, %problem, "No ledger is kept: mount a volume there, or set ledger.path.");
                    return;
                }
                Err(problem) => {
                    self.state = None;
                    self.metrics.ledger_failing.set(1);
                    self.metrics.ledger_errors.inc();
                    if trouble.is_none_or(|told| told.elapsed() >= COMPLAIN) {
                        trouble = Some(Instant::now());
                        let (path, lost) = (self.folder.display(), self.shared.lost.load(Ordering::Relaxed));
                        let waiting = self.shared.waiting.load(Ordering::Relaxed);
                        error!(%path, %problem, waiting, lost, "The ledger cannot be written; streams go on, and it is tried again every second.");
                    }
                    if ending {
                        return;
                    }
                    std::thread::sleep(RETRY.min(Duration::from_millis(if cfg!(test) { 5 } else { 1000 })));
                    continue;
                }
            }
            match lines.recv_timeout(TIDY) {
                Ok(line) => self.waiting.push_back(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.waiting.push_back((unix_ms(), Body::Closed {}));
                    if let Err(problem) = self.work(&mut opened) {
                        error!(%problem, "The ledger's last lines could not be written.");
                    }
                    return;
                }
            }
        }
    }

    /// Writes whatever waits.
    fn work(&mut self, opened: &mut bool) -> std::io::Result<()> {
        if self.state.is_none() {
            let (state, torn) = self.open()?;
            self.state = Some(state);
            if !*opened {
                let version = self.version.clone();
                self.append(unix_ms(), Body::Opened { version, torn })?;
                *opened = true;
            }
        }
        if self.tidied.is_none_or(|at| at.elapsed() >= TIDY) {
            self.tidy();
        }
        while let Some((at_ms, body)) = self.waiting.front().cloned() {
            // The last line was never in the queue.
            let queued = !matches!(body, Body::Closed {});
            self.append(at_ms, body)?;
            self.waiting.pop_front();
            if queued {
                let before = self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                self.metrics.ledger_waiting.set(before.saturating_sub(1) as i64);
            }
        }
        let count = self.shared.lost.swap(0, Ordering::Relaxed);
        if count > 0
            && let Err(error) = self.append(unix_ms(), Body::Lost { count })
        {
            self.shared.lost.fetch_add(count, Ordering::Relaxed);
            return Err(error);
        }
        Ok(())
    }

    fn append(&mut self, at_ms: u64, body: Body) -> std::io::Result<()> {
        let Some(state) = &mut self.state else { return Err(std::io::ErrorKind::NotConnected.into()) };
        let (line, tip) = state.tip.line(at_ms, body);
        if line.len() > LONGEST {
            // Ids of a stream that long are refused long before; a line that nobody reads must not be written.
            warn!(bytes = line.len(), "A line of the ledger is too long and is left out.");
            return Ok(());
        }
        if state.size > 0 && state.size + line.len() as u64 > self.most / 8 {
            let path = self.folder.join(file_name(state.tip.seq));
            state.store = (self.open_file)(&path)?;
            state.size = 0;
            sync_folder(&self.folder);
            self.tidy();
        }
        let Some(state) = &mut self.state else { return Err(std::io::ErrorKind::NotConnected.into()) };
        let size = state.size;
        match state.store.append(line.as_bytes()) {
            Ok(()) => {
                state.size += line.len() as u64;
                state.tip = tip;
                self.metrics.ledger_lines.inc();
                Ok(())
            }
            Err(error) => {
                // Half a line must not stay: nothing can join on to it. What cannot be cut off is found at the next opening.
                let _ = state.store.file.set_len(size);
                Err(error)
            }
        }
    }

    /// Finds the end of the ledger. A last line that was not finished is cut off; what else cannot be read there is kept
    /// in a file of its own.
    fn open(&self) -> std::io::Result<(State, u64)> {
        std::fs::create_dir_all(&self.folder)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join("lock"))?;
        lock.try_lock().map_err(|_| std::io::Error::other("another runner writes this ledger"))?;
        let files = files(&self.folder).map_err(|error| std::io::Error::other(error.to_string()))?;
        let mut torn = 0;
        for (_, path) in files.iter().rev() {
            let mut file = OpenOptions::new().read(true).write(true).open(path)?;
            let (good, tip, bad) = end_of(&mut file)?;
            if bad > 0 {
                torn += bad;
                keep_bad(&self.folder, &mut file, good)?;
                file.set_len(good)?;
                file.sync_all()?;
                warn!(path = %path.display(), bytes = bad, "A torn line of the ledger is cut off.");
            }
            if let Some(tip) = tip {
                let store = (self.open_file)(path)?;
                return Ok((State { _lock: lock, store, size: good, tip }, torn));
            }
            // A file without a line: the one before tells.
            drop(file);
            std::fs::remove_file(path)?;
        }
        let store = (self.open_file)(&self.folder.join(file_name(1)))?;
        sync_folder(&self.folder);
        Ok((State { _lock: lock, store, size: 0, tip: Tip::default() }, torn))
    }

    /// Removes files that are too old or too much. The newest stays.
    fn tidy(&mut self) {
        self.tidied = Some(Instant::now());
        let Ok(mut files) = files(&self.folder) else { return };
        files.pop();
        let now = SystemTime::now();
        let facts = |path: &Path| std::fs::metadata(path).and_then(|meta| Ok((meta.len(), meta.modified()?)));
        let mut room = self.most.saturating_sub(self.most / 8);
        for (_, path) in files.iter().rev() {
            let Ok((size, changed)) = facts(path) else { continue };
            let old = now.duration_since(changed).is_ok_and(|age| age > self.age);
            if old || size > room {
                room = 0;
                match std::fs::remove_file(path) {
                    Ok(()) => info!(path = %path.display(), "An old file of the ledger is removed."),
                    Err(error) => warn!(path = %path.display(), %error, "An old file of the ledger stays."),
                }
            }
            room = room.saturating_sub(size);
        }
    }
}

/// Whether a folder is one that we may not write, as on a read-only root.
fn not_ours(problem: &std::io::Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(problem.kind(), PermissionDenied | ReadOnlyFilesystem)
}

/// Where the last good line of a file ends, what joins on to it, and how many bytes behind it are none.
fn end_of(file: &mut File) -> std::io::Result<(u64, Option<Tip>, u64)> {
    let size = file.seek(SeekFrom::End(0))?;
    let from = size.saturating_sub(2 * LONGEST as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::with_capacity((size - from) as usize);
    file.read_to_end(&mut bytes)?;
    let mut end = bytes.len();
    while let Some(newline) = bytes[..end].iter().rposition(|&byte| byte == b'\n') {
        let begin = bytes[..newline].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let line = &bytes[begin..newline];
        let cut = begin == 0 && from > 0;
        if let Ok(entry) = Chain::new().push(line)
            && !cut
        {
            let good = from + newline as u64 + 1;
            return Ok((good, Some(Tip { seq: entry.seq + 1, hash: hash(line) }), size - good));
        }
        if cut {
            break;
        }
        end = begin;
    }
    if from > 0 {
        return Err(std::io::Error::other("the end of the ledger cannot be read; move its files away"));
    }
    Ok((0, None, size))
}

/// Keeps what lies behind the good lines, unless it is the beginning of one line.
fn keep_bad(folder: &Path, file: &mut File, good: u64) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(good))?;
    let mut bad = Vec::new();
    file.read_to_end(&mut bad)?;
    if bad.contains(&b'\n') {
        std::fs::write(folder.join(format!("unreadable-{}.txt", unix_ms())), bad)?;
    }
    Ok(())
}

/// Brings a new file's name to the disk. A file system that cannot is none of our business.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests;
