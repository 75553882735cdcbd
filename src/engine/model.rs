//! A model thread: owns one loaded instance of the pipeline for the life of the engine and serves one session after
//! another. An engine has one for each slot (decision 0006).
//!
//! It is the only thread that touches its device session. Between two frames it takes new parameters; an update that needs
//! another graph is loaded on a thread of its own while this one goes on with the old graph.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::Config;
use super::fresh::{Average, Popped, skip};
use super::outbox::{Meta, Picture};
use super::shared::{MODEL, Shared};
use crate::frame::{FramePool, VideoFrame};
use crate::metering::{Place, Queue};
use crate::pipeline::{Applied, Checked, FrameProcessor, LoadContext, Pipeline, PipelineError};

/// How often an idle model thread looks for new parameters or a finished load.
const LOOK: Duration = Duration::from_millis(50);

/// What the model thread says.
#[derive(Debug)]
pub enum Said {
    /// The load moves on.
    Loading(String),
    /// Warm; the load took this long.
    Ready(Duration),
    /// The load failed; the thread is over.
    Failed(String),
}

/// A handle to the model thread. Dropping it ends the thread, after the session it serves, and waits for it.
pub struct Model {
    sessions: Option<SyncSender<Work>>,
    thread: Option<JoinHandle<()>>,
}

/// A session for the model thread.
struct Work {
    shared: Arc<Shared>,
    params: Checked,
}

impl Model {
    /// Starts the thread, which loads `pipeline` with `params` as soon as nobody else holds `turn`: instances load one
    /// after another, so that the second does not take what the first needs while it loads. `say` is called on that
    /// thread.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        pipeline: &'static dyn Pipeline,
        params: Checked,
        config: Arc<Config>,
        pool: FramePool,
        turn: Arc<Mutex<()>>,
        say: impl Fn(Said) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let (sessions, work) = sync_channel(1);
        let thread = std::thread::Builder::new().name("weir-model".into()).spawn(move || {
            let ours = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let began = Instant::now();
            let progress = |line: &str| say(Said::Loading(line.to_owned()));
            let loaded = load(pipeline, &config, &pool, &params, &progress);
            drop(ours);
            match loaded {
                Ok(processor) => {
                    say(Said::Ready(began.elapsed()));
                    Worker { pipeline, config, pool, processor }.serve(&work);
                }
                Err(error) => say(Said::Failed(error.to_string())),
            }
        })?;
        Ok(Self { sessions: Some(sessions), thread: Some(thread) })
    }

    /// Hands a session to the thread. It is served when the model is loaded and the session before is over.
    ///
    /// Returns false when the thread is gone or another session already waits.
    pub fn serve(&self, shared: Arc<Shared>, params: Checked) -> bool {
        self.sessions.as_ref().is_some_and(|sessions| sessions.try_send(Work { shared, params }).is_ok())
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.sessions = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already ended the process through the panic hook.
            let _ = thread.join();
        }
    }
}

fn load(
    pipeline: &dyn Pipeline,
    config: &Config,
    pool: &FramePool,
    params: &Checked,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Box<dyn FrameProcessor>, PipelineError> {
    let cx = LoadContext { inference: &config.inference, models: config.models.clone(), pool: pool.clone(), progress };
    pipeline.load(&cx, params)
}

/// A load that runs beside the frames.
struct Background {
    done: Receiver<Result<Box<dyn FrameProcessor>, PipelineError>>,
    thread: JoinHandle<()>,
    /// Parameters that came while it loaded.
    newer: Option<Checked>,
}

struct Worker {
    pipeline: &'static dyn Pipeline,
    config: Arc<Config>,
    pool: FramePool,
    processor: Box<dyn FrameProcessor>,
}

impl Worker {
    fn serve(mut self, work: &Receiver<Work>) {
        while let Ok(Work { shared, params }) = work.recv() {
            if shared.cancel.is_cancelled() {
                // The session ended while it waited for the one before.
                continue;
            }
            self.processor.reset();
            if self.begin(&shared, &params) {
                shared.open_model(self.processor.format());
                self.frames(&shared);
            }
            shared.shut_model();
            let lost = shared.input.abort();
            shared.drops_at(Place::End, lost as u64);
            shared.output.close_video();
            self.processor.reset();
        }
    }

    /// Puts the parameters of a new session in force. False when it cannot run.
    fn begin(&mut self, shared: &Arc<Shared>, params: &Checked) -> bool {
        match self.processor.apply(params) {
            Ok(Applied::Now) => true,
            Ok(Applied::NeedsReload) => {
                let notify = shared.clone();
                let name = self.pipeline.name();
                let progress = move |line: &str| notify.notice(format!("Loading {name}: {line}"));
                match load(self.pipeline, &self.config, &self.pool, params, &progress) {
                    Ok(processor) => {
                        self.processor = processor;
                        true
                    }
                    Err(error) => {
                        shared.fail("model", format!("Error loading pipeline: {error}"));
                        shared.cancel.cancel();
                        false
                    }
                }
            }
            Err(error) => {
                shared.fail("model", format!("Error loading pipeline: {error}"));
                shared.cancel.cancel();
                false
            }
        }
    }

    fn frames(&mut self, shared: &Arc<Shared>) {
        let freshness = Duration::from_millis(self.config.freshness_ms);
        let mut cost = Average::default();
        let mut background: Option<Background> = None;
        loop {
            if let Some(params) = shared.params.take() {
                self.update(shared, &params, &mut background);
            }
            if background.as_ref().is_some_and(|job| job.thread.is_finished()) {
                let newer = background.as_mut().and_then(|job| job.newer.take());
                self.swap(shared, background.take());
                if let Some(params) = newer {
                    self.update(shared, &params, &mut background);
                }
            }
            let popped = shared.input.pop(
                Some(Instant::now() + LOOK),
                |queued| skip(queued, cost.get(), shared.interval(), freshness),
                |_| shared.drop_at(Place::Input),
            );
            let mut frame = match popped {
                Popped::Item(frame) => frame,
                Popped::Nothing => continue,
                Popped::Closed => break,
            };
            if let Some(params) = shared.params.take() {
                self.update(shared, &params, &mut background);
            }
            let started = Instant::now();
            frame.stamps.started = Some(started);
            let meta = Meta { seq: frame.seq, pts: frame.pts, stamps: frame.stamps };
            shared.busy[MODEL].set(started);
            let result = self.run(frame);
            shared.busy[MODEL].clear();
            let done = Instant::now();
            cost.add(done - started);
            shared.metrics.passed(Queue::Model);
            shared.metrics.model_busy.inc_by((done - started).as_secs_f64());
            shared.model_us.fetch_add((done - started).as_micros() as u64, Ordering::Relaxed);
            shared.meter.busy(done - started);
            let picture = match result {
                Ok(mut frame) => {
                    (frame.seq, frame.pts, frame.stamps) = (meta.seq, meta.pts, meta.stamps);
                    frame.stamps.done = Some(done);
                    Picture::Frame(frame)
                }
                Err(error) => {
                    shared.fail("model", format!("Error processing input frame: {error}"));
                    Picture::Repeat(meta)
                }
            };
            if shared.output.video(picture).is_some() {
                shared.drop_at(Place::Output);
            }
        }
        // The loader cannot be cancelled; its result is dropped when it comes, before the next session is served.
        if let Some(job) = background {
            let _ = job.thread.join();
        }
    }

    /// Runs one frame; a layout that changed with the last swap is an error of this frame only.
    fn run(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError> {
        if frame.format != self.processor.format() {
            return Err(PipelineError::Frame("the picture still has the layout of the pipeline before".into()));
        }
        self.processor.process(frame)
    }

    fn update(&mut self, shared: &Arc<Shared>, params: &Checked, background: &mut Option<Background>) {
        if let Some(job) = background {
            // What loads is out of date. Its end decides, so that only one load is ever alive and no frame waits for it.
            job.newer = Some(params.clone());
            return;
        }
        match self.processor.apply(params) {
            Ok(Applied::Now) => tracing::debug!(session = shared.id, "Parameters take effect with the next frame."),
            Ok(Applied::NeedsReload) => match self.spawn_load(params.clone()) {
                Ok(job) => *background = Some(job),
                Err(error) => shared.fail("model", format!("Error updating params: {error}")),
            },
            Err(error) => shared.fail("model", format!("Error updating params: {error}")),
        }
    }

    fn spawn_load(&self, params: Checked) -> std::io::Result<Background> {
        let (pipeline, config, pool) = (self.pipeline, self.config.clone(), self.pool.clone());
        let (send, done): (Sender<_>, _) = channel();
        let thread = std::thread::Builder::new().name("weir-load".into()).spawn(move || {
            let progress = |line: &str| tracing::info!("Loading beside the stream: {line}");
            // A receiver that is gone means that the session ended first.
            let _ = send.send(load(pipeline, &config, &pool, &params, &progress));
        })?;
        Ok(Background { done, thread, newer: None })
    }

    fn swap(&mut self, shared: &Arc<Shared>, job: Option<Background>) {
        let Some(job) = job else { return };
        match job.done.recv_timeout(Duration::ZERO) {
            Ok(Ok(processor)) => {
                self.processor = processor;
                shared.open_model(self.processor.format());
                tracing::info!(session = shared.id, "The new graph is in place.");
            }
            Ok(Err(error)) => shared.fail("model", format!("Error updating params: {error}")),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                shared.fail("model", "Error updating params: loading ended without a result".into());
            }
        }
        let _ = job.thread.join();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::frame::{PixelFormat, Size, Timestamp};
    use crate::metering::{Carry, Clock, Meter, Metrics, Tracer};
    use crate::pipeline::registry;
    use serde_json::json;

    fn wait(what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn an_update_during_a_load_does_not_stop_the_frames_and_wins() {
        let pipeline = registry::find("delay").unwrap();
        let check = |load_ms: u64, frame_ms: u64| {
            let params = json!({"load_ms": load_ms, "frame_ms": frame_ms});
            pipeline.check(params.as_object().unwrap()).unwrap()
        };
        let pool = FramePool::new(24);
        let config = Arc::new(Config::default());
        let model = Model::start(pipeline, check(0, 0), config, pool.clone(), Arc::default(), |_| {}).unwrap();
        let shared = {
            let now = Instant::now();
            let clock = Clock { at: now, unix_ns: 0 };
            let meter = Meter::new(
                1,
                Size::new(64, 64),
                clock,
                Duration::from_secs(5),
                Carry { number: 0, from_ms: 0, billed_until_ns: 0 },
                Arc::new(Tracer::new()),
            );
            Shared::new((1, 0), pipeline, pool.clone(), Arc::new(Metrics::new().unwrap()), meter, now)
        };
        assert!(model.serve(shared.clone(), check(0, 0)));
        wait("the model opens", || shared.ready());
        let opened = shared.ready_at.get();
        let frame = |n: i64| {
            let frame = VideoFrame::take(&pool, Size::new(64, 64), PixelFormat::I420, Timestamp(n)).unwrap();
            let _ = shared.input.push(frame);
            wait("a frame comes out", || shared.output.pictures() > 0);
            let _ = shared.output.pop(Instant::now(), |_| 0, |_| {});
        };
        shared.params.put(check(1500, 0));
        frame(1);
        let began = Instant::now();
        shared.params.put(check(0, 300));
        frame(2);
        assert!(began.elapsed() < Duration::from_secs(1), "the frame waited for the load");
        wait("the first load ends", || shared.ready_at.get() != opened);
        std::thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        frame(3);
        assert!(began.elapsed() >= Duration::from_millis(300), "the newest parameters are not in force");
        shared.abort();
    }
}
