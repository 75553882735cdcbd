//! Traces of every frame: to a file while the engine runs, or as a document for the next seconds.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::events::unix_ms;
use crate::metering::{Clock, Trace, Tracer};

/// Marks kept between two looks: four seconds of a stream of 1000 frames a second.
const MARKS: usize = 4096;
/// How often marks are taken.
const LOOK: Duration = Duration::from_millis(250);
/// A file that has grown to so many bytes is not written on.
const MOST_FILE: u64 = 512 << 20;
/// A document ends at so many bytes, below the longest message of the link with its escapes.
const MOST_TEXT: usize = 5 << 20;
/// Longest time of a document in seconds.
pub const MOST_SECONDS: u64 = 60;

/// How a trace begins. Every other event brings the comma in front of it.
const BEGIN: &str = "[{\"ph\":\"M\",\"pid\":0,\"name\":\"process_name\",\"args\":{\"name\":\"weir\"}}";

/// Listens to every frame from now on; `None` when too many listen already.
pub fn listen(tracer: &Arc<Tracer>) -> Option<Trace> {
    let clock = Clock { at: Instant::now(), unix_ns: unix_ms() as i64 * 1_000_000 };
    tracer.listen(MARKS, clock)
}

/// What happens within `time`, as a document. Empty when nobody could listen.
pub async fn collect(trace: Option<Trace>, time: Duration) -> String {
    let Some(mut trace) = trace else { return String::new() };
    let mut text = format!("{BEGIN}{}", trace.head());
    let until = tokio::time::Instant::now() + time.min(Duration::from_secs(MOST_SECONDS));
    while text.len() < MOST_TEXT {
        let now = tokio::time::Instant::now();
        if now >= until {
            break;
        }
        tokio::time::sleep((until - now).min(LOOK)).await;
        let (events, lost) = trace.take();
        if text.len() + events.len() > MOST_TEXT {
            break;
        }
        text += &events;
        if lost > 0 {
            tracing::warn!(lost, "Frames are missing in the trace.");
        }
    }
    text + "\n]\n"
}

/// A thread that writes a trace to a file. Dropping it ends the thread.
pub struct TraceFile {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TraceFile {
    /// Goes on with the file at `path`. The array of events is left open, as readers of traces allow, so that the next
    /// engine can go on with it.
    ///
    /// # Errors
    /// The file cannot be written, or the system has no thread to give.
    pub fn start(tracer: &Arc<Tracer>, path: &Path) -> std::io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if file.metadata()?.len() == 0 {
            file.write_all(BEGIN.as_bytes())?;
        }
        let trace = listen(tracer).ok_or_else(|| std::io::Error::other("too many traces are written already"))?;
        let (stop, stopped) = channel::<()>();
        let path = path.to_owned();
        let thread = std::thread::Builder::new().name("weir-trace".into()).spawn(move || {
            let mut out = Out { file, path, failed: false };
            let mut trace = trace;
            out.write(&trace.head());
            loop {
                let end = !matches!(stopped.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout));
                let (events, lost) = trace.take();
                out.write(&events);
                if lost > 0 {
                    tracing::warn!(lost, "Frames are missing in the trace.");
                }
                if end {
                    return;
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already ended the process through the panic hook.
            let _ = thread.join();
        }
    }
}

struct Out {
    file: File,
    path: PathBuf,
    failed: bool,
}

impl Out {
    fn write(&mut self, events: &str) {
        if self.failed || events.is_empty() {
            return;
        }
        let size = self.file.metadata().map_or(0, |meta| meta.len());
        let result = match size + events.len() as u64 > MOST_FILE {
            true => Err(std::io::Error::other("the trace is long enough")),
            false => self.file.write_all(events.as_bytes()),
        };
        if let Err(error) = result {
            self.failed = true;
            tracing::warn!(path = %self.path.display(), %error, "The trace is not written on.");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::metering::{Mark, Place};

    fn drop_one(tracer: &Tracer) {
        tracer.mark(|| Mark::Dropped { session: 1, place: Place::Input, count: 1, at: Instant::now() });
    }

    #[test]
    fn a_file_goes_on_where_the_engine_before_left_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.json");
        for _ in 0..2 {
            let tracer = Arc::new(Tracer::new());
            let file = TraceFile::start(&tracer, &path).expect("started");
            drop_one(&tracer);
            drop(file);
            drop_one(&tracer);
        }
        let text = std::fs::read_to_string(&path).expect("read");
        let Ok(Value::Array(events)) = serde_json::from_str(&(text + "]")) else { panic!("an array is expected") };
        assert_eq!(events.iter().filter(|event| event["ph"] == "i").count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_holds_what_happened_in_its_time() {
        let tracer = Arc::new(Tracer::new());
        let collecting = tokio::spawn(collect(listen(&tracer), Duration::from_secs(1)));
        tokio::time::sleep(Duration::from_millis(600)).await;
        drop_one(&tracer);
        tokio::time::sleep(Duration::from_millis(600)).await;
        drop_one(&tracer);
        let text = collecting.await.expect("collected");
        let Ok(Value::Array(events)) = serde_json::from_str(&text) else { panic!("an array is expected") };
        assert_eq!(events.iter().filter(|event| event["ph"] == "i").count(), 1);
    }
}
