//! A model thread: owns one loaded instance of the pipeline for the life of the engine and serves one session after
//! another. An engine has one for each slot (decision 0006).
//!
//! It is the only thread that touches its device session. Between two frames it takes new parameters; an update that needs
//! another graph is loaded on a thread of its own while this one goes on with the old graph.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::Config;
use super::fetch::{Ahead, Fetcher};
use super::fresh::{Average, Popped, skip};
use super::image::{self, Job};
use super::outbox::{Meta, Picture};
use super::shared::{MODEL, Shared};
use crate::frame::{Fingerprint, FramePool, VideoFrame};
use crate::media::FrameConverter;
use crate::metering::{Place, Queue};
use crate::pipeline::{
    Applied, Checked, Fetch, Folded, FrameProcessor, Instead, LoadContext, Pipeline, PipelineError, Preparation,
    Provider,
};

/// How often an idle model thread looks for new parameters or a finished load.
const LOOK: Duration = Duration::from_millis(50);

/// What the model thread says.
#[derive(Debug)]
pub enum Said {
    /// The load moves on.
    Loading(String),
    /// Warm; the load took this long, and the graphs run there.
    Ready(Duration, Option<Provider>),
    /// The load failed; the thread is over.
    Failed(String),
}

/// A handle to the model thread. Dropping it ends the thread, after the session it serves, and waits for it.
pub struct Model {
    sessions: Option<SyncSender<Work>>,
    thread: Option<JoinHandle<()>>,
}

/// What a model thread is to do.
enum Work {
    /// Serve a session.
    Session(Arc<Shared>, Checked),
    /// Run one picture.
    Image(Box<Job>),
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
            let fetcher = Fetcher::new(&config);
            let loaded = pipeline.load(&context(&config, &pool, &progress, &Ahead(&fetcher)), &params);
            drop(ours);
            match loaded {
                Ok(processor) => {
                    say(Said::Ready(began.elapsed(), processor.provider()));
                    let converter = FrameConverter::default();
                    Worker { pipeline, config, pool, turn, processor, converter, params: None, loader: None }
                        .serve(&work);
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
        self.sessions.as_ref().is_some_and(|sessions| sessions.try_send(Work::Session(shared, params)).is_ok())
    }

    /// Hands a picture to the thread. Returns false when the thread is gone or has something to do.
    pub fn picture(&self, job: Job) -> bool {
        self.sessions.as_ref().is_some_and(|sessions| sessions.try_send(Work::Image(Box::new(job))).is_ok())
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

fn context<'a>(
    config: &'a Config,
    pool: &FramePool,
    progress: &'a (dyn Fn(&str) + Send + Sync),
    fetch: &'a dyn Fetch,
) -> LoadContext<'a> {
    let models = config.models.clone();
    LoadContext { inference: &config.inference, models, model: None, pool: pool.clone(), progress, fetch }
}

/// Loads what certain parameters need: another processor, or what the one at hand lacks.
fn load_for(
    pipeline: &dyn Pipeline,
    config: &Config,
    pool: &FramePool,
    (params, work): (&Checked, Option<Preparation>),
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Loaded {
    let fetcher = Fetcher::new(config);
    let cx = context(config, pool, progress, &fetcher);
    match work {
        Some(work) => work(&cx).map(|()| None),
        None => pipeline.load(&cx, params).map(Some),
    }
}

/// Another processor; `None` when the one at hand has what it lacked.
type Loaded = Result<Option<Box<dyn FrameProcessor>>, PipelineError>;

/// A load that runs beside the frames.
struct Background {
    params: Checked,
    done: Receiver<Loaded>,
    /// Takes the processor that it replaces, whose end may take longer than a frame.
    old: Sender<Box<dyn FrameProcessor>>,
    /// Parameters that came while it loaded and that the graph in use cannot take either.
    newer: Option<Checked>,
}

impl Background {
    /// What it loaded, once it is over.
    fn result(&self) -> Option<Loaded> {
        match self.done.try_recv() {
            Ok(loaded) => Some(loaded),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                Some(Err(PipelineError::Load("loading ended without a result".to_owned())))
            }
        }
    }
}

struct Worker {
    pipeline: &'static dyn Pipeline,
    config: Arc<Config>,
    pool: FramePool,
    /// Held by whoever loads.
    turn: Arc<Mutex<()>>,
    processor: Box<dyn FrameProcessor>,
    /// For frames in the layout of the pipeline before.
    converter: FrameConverter,
    /// Hash of the parameters in force.
    params: Option<Fingerprint>,
    /// The thread of the last load. It cannot be cancelled; the next load waits for it, so that only one is ever alive.
    loader: Option<JoinHandle<()>>,
}

impl Worker {
    fn serve(mut self, work: &Receiver<Work>) {
        while let Ok(work) = work.recv() {
            let (shared, params) = match work {
                Work::Session(shared, params) => (shared, params),
                Work::Image(job) => {
                    self.picture(*job);
                    continue;
                }
            };
            if shared.cancel.is_cancelled() {
                // The session ended while it waited for the one before.
                continue;
            }
            self.processor.reset();
            if self.begin(&shared, &params) {
                shared.sound.put(self.processor.audio());
                self.runs_with(&shared);
                shared.open_model(self.processor.format(), self.processor.provider());
                self.frames(&shared);
            }
            shared.shut_model();
            let lost = shared.input.abort();
            shared.drops_at(Place::End, lost as u64);
            shared.output.close_video();
            self.processor.reset();
        }
        self.finish_load();
    }

    /// Waits for a load that nobody wants any more.
    fn finish_load(&mut self) {
        if let Some(loader) = self.loader.take() {
            // A panic of the thread has already ended the process through the panic hook.
            let _ = loader.join();
        }
    }

    /// Loads what `params` need while nobody waits for a frame, and puts them in force.
    fn load_now(&mut self, params: &Checked, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<(), PipelineError> {
        let work = self.processor.preparation(params);
        match load_for(self.pipeline, &self.config, &self.pool, (params, work), progress)? {
            Some(processor) => {
                self.processor = processor;
                Ok(())
            }
            None => self.prepared(params),
        }
    }

    /// Puts `params` in force now that the processor has what it lacked.
    fn prepared(&mut self, params: &Checked) -> Result<(), PipelineError> {
        match self.processor.apply(params)? {
            Applied::Now => Ok(()),
            Applied::NeedsReload => Err(PipelineError::Load("what was prepared is not all that is needed".to_owned())),
        }
    }

    /// Runs a picture between two sessions.
    fn picture(&mut self, job: Job) {
        let result = image::read(&job.file).and_then(|picture| {
            let failed = |error: PipelineError| image::Fault::Model(error.to_string());
            self.processor.reset();
            if self.processor.apply(&job.params).map_err(failed)? == Applied::NeedsReload {
                let progress = |line: &str| tracing::info!("Loading for a picture: {line}");
                self.load_now(&job.params, &progress).map_err(failed)?;
            }
            let size = job.params.size;
            let done = image::run(&mut *self.processor, &self.pool, &picture, size, job.passes, job.format);
            self.processor.reset();
            done
        });
        // Whoever asked may have left.
        let _ = job.done.send(result);
    }

    /// Puts the parameters of a new session in force. False when it cannot run.
    fn begin(&mut self, shared: &Arc<Shared>, params: &Checked) -> bool {
        match self.processor.apply(params) {
            Ok(Applied::Now) => true,
            Ok(Applied::NeedsReload) => {
                self.finish_load();
                let notify = shared.clone();
                let name = self.pipeline.name();
                let progress = move |line: &str| notify.notice(format!("Loading {name}: {line}"));
                let turn = self.turn.clone();
                let ours = turn.lock().unwrap_or_else(PoisonError::into_inner);
                let loaded = self.load_now(params, &progress);
                drop(ours);
                match loaded {
                    Ok(()) => true,
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

    /// Notes what the next frames are made with.
    fn runs_with(&mut self, shared: &Shared) {
        let current = shared.parameters.in_force();
        self.params = Fingerprint::parse(&current.hash);
        shared.meter.set_graph(self.processor.graph());
        let mut notes = self.processor.notes();
        // Whoever asks for other parameters has not asked for what the preset lacks.
        let own = || {
            shared.pipeline.check(&self.config.initial_params).is_ok_and(|own| own.values == current.checked().values)
        };
        if !self.config.left_out.is_empty() && own() {
            notes.extend_from_slice(&self.config.left_out);
        }
        shared.note(notes);
        let Folded { graphs_kept, graphs_made, results_kept, results_made, seconds, bytes } = self.processor.folded();
        let counted = [
            ("graph", "kept", graphs_kept),
            ("graph", "made", graphs_made),
            ("result", "kept", results_kept),
            ("result", "made", results_made),
        ];
        for (what, from, count) in counted {
            shared.metrics.folded.with_label_values(&[what, from]).inc_by(count);
        }
        shared.metrics.folded_seconds.inc_by(seconds);
        shared.metrics.folded_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn frames(&mut self, shared: &Arc<Shared>) {
        let freshness = Duration::from_millis(self.config.freshness_ms);
        let mut cost = Average::default();
        let mut background: Option<Background> = None;
        loop {
            if let Some(params) = shared.params.take() {
                self.update(shared, params, &mut background);
            }
            if let Some(loaded) = background.as_ref().and_then(Background::result)
                && let Some(job) = background.take()
            {
                self.swap(shared, loaded, job, &mut background);
            }
            self.say(shared);
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
                self.update(shared, params, &mut background);
            }
            let started = Instant::now();
            frame.stamps.started = Some(started);
            frame.stamps.params = self.params;
            frame.stamps.graph = self.processor.graph();
            let mut meta = Meta { seq: frame.seq, pts: frame.pts, stamps: frame.stamps };
            shared.busy[MODEL].set(started);
            let result = self.run(frame);
            shared.busy[MODEL].clear();
            let done = Instant::now();
            cost.add(done - started);
            shared.metrics.passed(Queue::Model);
            shared.metrics.model_busy.inc_by((done - started).as_secs_f64());
            shared.model_us.fetch_add((done - started).as_micros() as u64, Ordering::Relaxed);
            shared.meter.busy(done - started);
            self.say(shared);
            meta.stamps.gpu = self.processor.gpu_time();
            if let Some(time) = meta.stamps.gpu {
                shared.metrics.gpu_busy.inc_by(time.as_secs_f64());
                shared.meter.gpu_busy(time);
            }
            let picture = match result {
                Ok(mut frame) => {
                    (frame.seq, frame.pts, frame.stamps) = (meta.seq, meta.pts, meta.stamps);
                    frame.stamps.done = Some(done);
                    match (self.processor.withheld(), self.processor.similar()) {
                        (true, _) => Picture::Withheld(frame),
                        (_, true) => Picture::Similar(frame),
                        _ => Picture::Frame(frame),
                    }
                }
                Err(error) => {
                    shared.fail("model", format!("Error processing input frame: {error}"));
                    match error {
                        PipelineError::Instead { show: Instead::Overlay, .. } => Picture::Overlay(meta),
                        PipelineError::Instead { show: Instead::Picture(mut frame), .. } => {
                            (frame.seq, frame.pts, frame.stamps) = (meta.seq, meta.pts, meta.stamps);
                            Picture::Instead(*frame)
                        }
                        _ => Picture::Repeat(meta),
                    }
                }
            };
            if shared.output.video(picture).is_some() {
                shared.drop_at(Place::Output);
            }
        }
        // What still loads is dropped when it comes.
        shared.parameters.load_ends();
    }

    /// Sends the texts that came up.
    fn say(&mut self, shared: &Shared) {
        self.processor.texts().into_iter().for_each(|text| shared.data.text(text));
    }

    /// Runs one frame. One that was decoded before the last swap may have another layout than the pipeline takes; it is
    /// converted.
    fn run(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError> {
        let wanted = self.processor.format();
        if frame.format == wanted {
            return self.processor.process(frame);
        }
        let mut other = VideoFrame::take(&self.pool, frame.size, wanted, frame.pts)
            .ok_or_else(|| PipelineError::Frame("every picture buffer is in use".to_owned()))?;
        (other.seq, other.stamps) = (frame.seq, frame.stamps);
        self.converter.convert(&frame, &mut other).map_err(|error| PipelineError::Frame(error.to_string()))?;
        self.processor.process(other)
    }

    /// Puts new parameters in force, or begins to load what they need. What does not work is told, and those in force stay.
    fn update(&mut self, shared: &Arc<Shared>, params: Checked, background: &mut Option<Background>) {
        let result = self.processor.apply(&params).and_then(|applied| {
            match applied {
                Applied::Now => {
                    if background.take().is_some() {
                        tracing::info!(session = shared.id, "What loads is not needed any more.");
                        shared.parameters.load_ends();
                    }
                    shared.parameters.took(&params);
                    self.runs_with(shared);
                    tracing::debug!(session = shared.id, "Parameters take effect with the next frame.");
                }
                Applied::NeedsReload => match background {
                    // Its end decides, so that only one load is ever alive and no frame waits for it.
                    Some(job) => job.newer = Some(params.clone()),
                    None => *background = Some(self.spawn_load(shared, params.clone())?),
                },
            }
            Ok(())
        });
        match result {
            Ok(()) => shared.changed.notify_one(),
            Err(error) => self.refuse(shared, &params, &error),
        }
    }

    fn refuse(&self, shared: &Shared, params: &Checked, error: &PipelineError) {
        shared.parameters.refused(params);
        shared.fail("model", format!("Error updating params: {error}"));
    }

    fn spawn_load(&mut self, shared: &Arc<Shared>, params: Checked) -> Result<Background, PipelineError> {
        let (pipeline, config, pool) = (self.pipeline, self.config.clone(), self.pool.clone());
        let turn = self.turn.clone();
        let (send, done) = channel();
        let (old, replaced) = channel();
        let (before, told, wanted) = (self.loader.take(), shared.clone(), params.clone());
        let work = self.processor.preparation(&params);
        shared.parameters.load_begins(&params);
        let load = move || {
            if let Some(before) = before {
                // A panic of the thread has already ended the process through the panic hook.
                let _ = before.join();
            }
            let progress = |line: &str| {
                tracing::info!(session = told.id, "Loading beside the stream: {line}");
                told.parameters.load_moves(line);
                told.changed.notify_one();
            };
            let ours = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let loaded = load_for(pipeline, &config, &pool, (&wanted, work), &progress);
            drop(ours);
            // A receiver that is gone means that the result is not needed any more.
            let _ = send.send(loaded);
            drop(replaced.recv());
        };
        match std::thread::Builder::new().name("weir-load".into()).spawn(load) {
            Ok(thread) => self.loader = Some(thread),
            Err(error) => {
                shared.parameters.load_ends();
                return Err(PipelineError::Load(format!("a thread could not be started: {error}")));
            }
        }
        Ok(Background { params, done, old, newer: None })
    }

    /// Puts the result of a load in the place of the old graph, between two frames.
    fn swap(&mut self, shared: &Arc<Shared>, loaded: Loaded, job: Background, background: &mut Option<Background>) {
        match loaded {
            Ok(None) => match self.prepared(&job.params) {
                Ok(()) => {
                    shared.parameters.took(&job.params);
                    self.runs_with(shared);
                    tracing::info!(session = shared.id, "What the new parameters needed is in place.");
                }
                Err(error) => self.refuse(shared, &job.params, &error),
            },
            Ok(Some(processor)) => {
                let old = std::mem::replace(&mut self.processor, processor);
                // The loader waits for it.
                let _ = job.old.send(old);
                shared.parameters.took(&job.params);
                shared.sound.put(self.processor.audio());
                self.runs_with(shared);
                shared.open_model(self.processor.format(), self.processor.provider());
                tracing::info!(session = shared.id, "The new graph is in place.");
            }
            Err(error) => self.refuse(shared, &job.params, &error),
        }
        shared.parameters.load_ends();
        shared.changed.notify_one();
        if let Some(params) = job.newer {
            self.update(shared, params, background);
        }
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

    /// A session of the pipeline `delay` whose frames the test puts in and takes out.
    struct Bench {
        pool: FramePool,
        shared: Arc<Shared>,
        // Last, since its end waits for the session's.
        _model: Model,
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.shared.abort();
        }
    }

    fn check(params: serde_json::Value) -> Checked {
        registry::find("delay").unwrap().check(params.as_object().unwrap()).unwrap()
    }

    impl Bench {
        fn new(params: serde_json::Value) -> Self {
            let pipeline = registry::find("delay").unwrap();
            let pool = FramePool::new(24);
            let params = check(params);
            let config = Arc::new(Config::default());
            let model = Model::start(pipeline, params.clone(), config, pool.clone(), Arc::default(), |_| {}).unwrap();
            let now = Instant::now();
            let meter = Meter::new(
                1,
                Size::new(64, 64),
                Clock { at: now, unix_ns: 0 },
                Duration::from_secs(5),
                Carry { number: 0, from_ms: 0, billed_until_ns: 0 },
                Arc::new(Tracer::new()),
            );
            let metrics = Arc::new(Metrics::new().unwrap());
            let shared = {
                let data = super::super::data::Data::new("", false, metrics.events_lost.clone());
                Shared::new((1, 0), pipeline, &params, pool.clone(), (metrics, meter, data), &Default::default(), now)
            };
            assert!(model.serve(shared.clone(), params));
            wait("the model opens", || shared.ready());
            Self { pool, shared, _model: model }
        }

        fn update(&self, params: &serde_json::Value) {
            let checked = check(params.clone());
            self.shared.parameters.accept(|_| Ok(checked.clone())).unwrap();
            self.shared.params.put(checked);
        }

        /// Puts a frame in and takes it out. Returns how long it took.
        fn frame(&self, n: i64) -> Duration {
            let began = Instant::now();
            let frame = VideoFrame::take(&self.pool, Size::new(64, 64), PixelFormat::I420, Timestamp(n)).unwrap();
            let _ = self.shared.input.push(frame);
            wait("a frame comes out", || self.shared.output.pictures() > 0);
            let _ = self.shared.output.pop(Instant::now(), |_| 0, |_| {});
            began.elapsed()
        }

        fn in_force(&self) -> serde_json::Value {
            serde_json::Value::Object((*self.shared.parameters.in_force().given).clone())
        }
    }

    #[test]
    fn frames_that_wait_when_a_session_ends_are_counted() {
        let bench = Bench::new(json!({"frame_ms": 300, "load_ms": 0}));
        let frame = |n| VideoFrame::take(&bench.pool, Size::new(64, 64), PixelFormat::I420, Timestamp(n)).unwrap();
        assert!((0..5).all(|n| bench.shared.input.push(frame(n)).is_none()));
        wait("the model begins", || bench.shared.busy[MODEL].get().is_some());
        bench.shared.abort();
        wait("the model is done", || bench.shared.meter.totals().lost() == 5);
        // The one that the model had comes too late for the encoder.
        let totals = bench.shared.meter.totals();
        assert_eq!((totals.lost_at(Place::End), totals.lost_at(Place::Output)), (4, 1));
    }

    #[test]
    fn frames_go_on_beside_a_load_and_its_parameters_follow() {
        let bench = Bench::new(json!({"load_ms": 0, "frame_ms": 0}));
        let other = json!({"load_ms": 1500, "frame_ms": 300});
        bench.update(&other);
        let began = Instant::now();
        wait("the load begins", || bench.shared.parameters.loading().0.is_some());
        assert!(bench.frame(1) < Duration::from_secs(1), "the frame waited for the load");
        assert!(bench.shared.ready(), "no overlay");
        assert_eq!(bench.in_force(), json!({"load_ms": 0, "frame_ms": 0}));
        wait("its step is told", || {
            bench.shared.parameters.loading().0.is_some_and(|loading| loading.detail == "waiting for 1500 ms")
        });
        wait("the load ends", || bench.shared.parameters.loading().0.is_none());
        assert!(began.elapsed() >= Duration::from_millis(1500));
        assert_eq!(bench.in_force(), other);
        assert!(bench.frame(2) >= Duration::from_millis(300), "the new parameters are not in force");
    }

    #[test]
    fn an_update_that_needs_no_load_ends_the_wait_for_one() {
        let bench = Bench::new(json!({"load_ms": 0, "frame_ms": 0}));
        bench.update(&json!({"load_ms": 1500, "frame_ms": 0}));
        wait("the load begins", || bench.shared.parameters.loading().0.is_some());
        let newest = json!({"load_ms": 0, "frame_ms": 300});
        bench.update(&newest);
        let (began, took) = (Instant::now(), bench.frame(1));
        assert!(took >= Duration::from_millis(300) && began.elapsed() < Duration::from_millis(1400), "{took:?}");
        assert_eq!(bench.in_force(), newest);
        assert!(bench.shared.parameters.loading().0.is_none());
        // The load that nobody wants leaves nothing behind.
        std::thread::sleep(Duration::from_millis(1700));
        assert!(bench.frame(2) >= Duration::from_millis(300));
        assert_eq!(bench.in_force(), newest);
    }

    #[test]
    fn of_updates_during_a_load_the_newest_follows_it() {
        let bench = Bench::new(json!({"load_ms": 0, "frame_ms": 0}));
        bench.update(&json!({"load_ms": 700, "frame_ms": 0}));
        wait("the load begins", || bench.shared.parameters.loading().0.is_some());
        for load_ms in [500, 1, 2] {
            let newest = json!({"load_ms": load_ms, "frame_ms": 300});
            bench.update(&newest);
            bench.frame(load_ms);
        }
        wait("the newest is in force", || bench.in_force() == json!({"load_ms": 2, "frame_ms": 300}));
        assert!(bench.frame(5) >= Duration::from_millis(300));
    }

    #[test]
    fn parameters_that_do_not_load_are_told_and_the_old_ones_stay() {
        let old = json!({"load_ms": 0, "frame_ms": 1});
        let bench = Bench::new(old.clone());
        let hash = bench.shared.parameters.in_force().hash;
        bench.update(&json!({"load_ms": 200, "fail_load": true}));
        let mut fault = None;
        wait("the failure is told", || {
            bench.frame(1);
            fault = bench.shared.faults.take().pop_front();
            fault.is_some()
        });
        let fault = fault.unwrap();
        assert_eq!(fault.stage, "model");
        assert_eq!(fault.message, "Error updating params: loading fails as asked by fail_load");
        wait("nothing loads", || bench.shared.parameters.loading().0.is_none());
        assert_eq!(bench.in_force(), old);
        assert_eq!(bench.shared.parameters.accepted().hash, hash, "what was refused is not current");
        assert_eq!(bench.shared.parameters.safe().hash, hash);
        bench.frame(2);
    }
}
