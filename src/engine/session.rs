//! One stream from its start request to the deletion of its channels.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::config::{Config, UpdateMode};
use super::control;
use super::data::{self, Data};
use super::events::{self, Event, Events, unix_ms};
use super::host::ToSupervisor;
use super::model::Model;
use super::record::{Counters, Recording};
use super::report::Watch;
use super::shared::Shared;
use super::tap::{self, Maker};
use super::{egress, ingest};
use crate::frame::{FramePool, Size, Timestamp};
use crate::health::State;
use crate::link::{Coding, FromEngine, RecordFormat, RecordOrder, Resume, SessionReport, StreamRequest, Tap};
use crate::media::OutputConfig;
use crate::metering::{Carry, Clock, Facts, Interval, Meter, Metrics, Since, Tracer};
use crate::pipeline::{Checked, ParamError, Params, Pipeline};
use crate::trickle::{Begin, Client, Publisher, Start, Subscriber};

/// How often a session looks at itself.
const LOOK: Duration = Duration::from_millis(250);
/// How often it tells the supervisor, changes apart.
const REPORT: Duration = Duration::from_secs(1);
/// Time between two reports of faults; those in between are told together, each of them once.
const FAULTS: Duration = Duration::from_secs(1);
/// A session in the state ERROR for this long is ended, so that the gateway moves on.
const GIVE_UP: Duration = Duration::from_secs(2);

/// A start request as the supervisor hands it on.
pub struct Order {
    /// The supervisor's number for the session.
    pub session: u64,
    /// What to run.
    pub request: StreamRequest,
    /// Unix milliseconds at which the request arrived.
    pub arrived_ms: u64,
    /// Set when the session ran in an engine that is gone.
    pub resume: Option<Resume>,
}

/// What a session uses of its engine.
pub(super) struct Deps {
    /// Its place among the sessions of the engine, counted from zero.
    pub slot: usize,
    pub supervisor: ToSupervisor,
    pub config: Arc<Config>,
    pub client: Client,
    /// Reaches the supervisor's own channels.
    pub own: Client,
    pub metrics: Arc<Metrics>,
    pub pool: FramePool,
    pub tracer: Arc<Tracer>,
    /// Gets the session's number when its resources are free.
    pub ended: mpsc::Sender<u64>,
    /// Owns the tasks of sessions.
    pub tasks: TaskTracker,
}

/// A running session, held by the engine.
pub struct Handle {
    shared: Arc<Shared>,
    mode: UpdateMode,
    models: PathBuf,
    coding: Coding,
    stop: watch::Sender<Option<String>>,
    events: Events,
    recording: Option<Recording>,
}

impl Handle {
    /// Starts a session. Returns at once; the work begins behind it.
    pub(super) fn start(
        deps: Deps,
        model: &Model,
        pipeline: &'static dyn Pipeline,
        checked: Checked,
        order: Order,
        now: Instant,
    ) -> Result<Self, String> {
        let meter = meter(&deps, &order, checked.output(), now);
        let numbers = (order.session, deps.slot);
        let request = &order.request;
        let data = Data::new(&request.data_url, request.figures, deps.metrics.events_lost.clone());
        let data = data.heard(order.session, deps.supervisor.clone());
        let (pool, counters) = (deps.pool.clone(), (deps.metrics.clone(), meter, data));
        let shared = Shared::new(numbers, pipeline, &checked, pool, counters, &deps.config.refuse, now);
        shared.notice(format!("Loading {}…", pipeline.name()));
        deps.metrics.begin_session(deps.slot);
        shared.overlay.store(checked.show_reloading_frame, Ordering::Relaxed);
        shared.hold(request.show_loading);
        if !model.serve(shared.clone(), checked) {
            return Err("the model thread does not take sessions".into());
        }
        let (stop, stopped) = watch::channel(None);
        let (events, queue) = Events::channel(deps.metrics.events_lost.clone());
        let (mode, models) = (deps.config.updates, deps.config.models.clone());
        let coding = order.request.coding;
        let handle =
            Self { shared: shared.clone(), mode, models, coding, stop, events: events.clone(), recording: None };
        let span = tracing::info_span!(
            "stream",
            gateway_request_id = order.request.gateway_request_id,
            manifest_id = order.request.manifest_id,
            stream_id = order.request.stream_id
        );
        let updater = handle.updater();
        let tasks = deps.tasks.clone();
        let session = Session { deps, shared, order, stopped, events, updater };
        // The task owns the session; its end is reported through `deps.ended`.
        tasks.spawn(session.run(queue, now).instrument(span));
        Ok(handle)
    }

    /// Checks new parameters as a whole and puts them in force from the next frame on.
    pub fn update(&self, params: Map<String, Value>) -> Result<(), ParamError> {
        self.updater().update(params)
    }

    /// The parameters that were accepted last, as they were sent.
    pub fn params(&self) -> Arc<Params> {
        self.shared.parameters.accepted().given
    }

    fn updater(&self) -> Updater {
        Updater { shared: self.shared.clone(), mode: self.mode, models: self.models.clone() }
    }

    /// Ends the session: what is under way is published, then its channels are deleted.
    pub fn stop(&self, reason: String) {
        self.stop.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(reason);
            }
            first
        });
    }

    /// How pictures of a coding are encoded from the next one on.
    pub fn encode(&self, coding: Coding, key: bool, max_kbps: Option<u64>) {
        let shared = &self.shared;
        let (ceiling, wanted) = match coding == self.coding {
            true => (&shared.max_kbps, &shared.key_wanted),
            false => (&shared.second_kbps, &shared.second_key),
        };
        if let Some(kbps) = max_kbps {
            ceiling.put(kbps);
        }
        if key {
            wanted.store(true, Ordering::Relaxed);
        }
    }

    /// The further outputs from the next picture on.
    pub fn tap(&self, taps: Vec<Tap>) {
        self.shared.taps.put(taps);
    }

    /// Begins to keep a copy of the output.
    ///
    /// # Errors
    /// One is kept already, or its file cannot be made.
    pub(super) async fn record(&mut self, order: RecordOrder, tasks: &TaskTracker) -> Result<(), String> {
        if let Some(recording) = self.recording.as_ref().filter(|recording| !recording.is_over()) {
            return Err(format!("the stream is being recorded as {}", recording.name()));
        }
        if order.format == RecordFormat::Mp4 && self.coding != Coding::H264 {
            return Err("the stream is coded as VP8, which is recorded as ts alone".into());
        }
        let metrics = &self.shared.metrics;
        let counters = Counters {
            ended: metrics.recordings.clone(),
            bytes: metrics.recording_bytes.clone(),
            lost: metrics.recording_lost.clone(),
        };
        let (recording, copy) = Recording::start(order, counters, tasks).await.map_err(|error| error.to_string())?;
        self.shared.file.put(copy);
        self.recording = Some(recording);
        Ok(())
    }

    /// The recording under way.
    pub(super) fn recording(&self) -> Option<&Recording> {
        self.recording.as_ref().filter(|recording| !recording.is_over())
    }

    /// Frames a second that are handed to the pipeline at most, from the next one on: the lower of `asked` and `set`, where
    /// each is above 0.
    pub fn cap(&self, set: f64, asked: f64) {
        self.shared.cap(set, asked);
    }

    /// Shows the overlay in place of the model's pictures from the next frame on, or no more.
    pub fn show_loading(&self, on: bool) {
        self.shared.hold(on);
    }

    /// What the overlay says.
    pub fn notice(&self, text: String) {
        self.shared.notice(text);
    }

    /// Ends the session at once because of a fault.
    pub fn fail(&self, message: String) {
        self.events.emit(Event::Error { pipeline: self.shared.pipeline.name().into(), message: message.clone() });
        self.shared.fail("model", message);
        self.shared.cancel.cancel();
    }

    /// What happened to its frames from the number `after` on.
    pub fn frames(&self, after: u64) -> Since {
        self.shared.meter.recent(after)
    }

    /// Shows what waits before each stage in the engine's counters.
    pub fn show_queues(&self) {
        self.shared.show_queues(Instant::now());
    }

    /// Milliseconds that the slowest stage thread has been inside one call.
    pub fn busy_ms(&self, now: Instant) -> u64 {
        self.shared.busy_ms(now)
    }

    /// The slot that it runs in.
    pub fn slot(&self) -> usize {
        self.shared.slot
    }
}

/// The one place where updates of every door meet.
#[derive(Clone)]
struct Updater {
    shared: Arc<Shared>,
    mode: UpdateMode,
    models: PathBuf,
}

impl Updater {
    fn update(&self, params: Map<String, Value>) -> Result<(), ParamError> {
        let result = self.check(params);
        let label = if result.is_ok() { "applied" } else { "refused" };
        self.shared.metrics.updates.with_label_values(&[label]).inc();
        self.shared.meter.updated(result.is_ok());
        result
    }

    fn check(&self, params: Map<String, Value>) -> Result<(), ParamError> {
        let hash = self.shared.parameters.accept(|before| {
            let params = match self.mode {
                UpdateMode::Replace => params,
                UpdateMode::Merge => control::merged(&before.given, params),
            };
            let params = self.shared.pipeline.follow(&before.given, params, &self.models)?;
            let checked = self.shared.pipeline.check(&params)?;
            let (old, new) = (before.output(), checked.output());
            if old != new || before.size != checked.size {
                // The text is the contract's, whole.
                let reason = format!(
                    "Cannot change output resolution mid-stream (Current resolution: ({}, {}) requested resolution: \
                     ({}, {})). Output resolution (e.g. upscalers) can only be configured when starting a new stream.",
                    old.width, old.height, new.width, new.height
                );
                return Err(ParamError { field: String::new(), reason });
            }
            // In the order in which they are accepted, whichever door they come by.
            self.shared.overlay.store(checked.show_reloading_frame, Ordering::Relaxed);
            self.shared.params.put(checked.clone());
            Ok(checked)
        })?;
        tracing::info!(session = self.shared.id, hash, "New parameters are accepted.");
        self.shared.input.wake();
        self.shared.changed.notify_one();
        Ok(())
    }
}

/// Which of a session's tasks ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Ingest,
    Control,
    Publish,
}

/// How a session ends.
struct End {
    reason: String,
    fault: bool,
    /// Whether frames under way are still worth publishing.
    drain: bool,
}

struct Session {
    deps: Deps,
    shared: Arc<Shared>,
    order: Order,
    stopped: watch::Receiver<Option<String>>,
    events: Events,
    updater: Updater,
}

impl Session {
    async fn run(mut self, queue: mpsc::Receiver<Event>, now: Instant) {
        tracing::info!(pipeline = self.shared.pipeline.name(), "Starting live-video-to-video pipeline");
        let session = self.shared.id;
        let (client, resumed) = (self.deps.client.clone(), self.order.resume.is_some());
        let events_url = self.order.request.events_url.clone();
        let lost = self.deps.metrics.events_lost.clone();
        let events = tokio::spawn(events::publish(client, events_url, resumed, queue, lost).in_current_span());
        let over = CancellationToken::new();
        let telling = match self.order.request.data_url.clone() {
            url if url.is_empty() => None,
            url => {
                let (client, data) = (self.deps.client.clone(), self.shared.data.clone());
                Some(tokio::spawn(data::publish(client, url, resumed, data, over.clone()).in_current_span()))
            }
        };
        let mut watch = Watch::new(now, unix_ms(), self.order.resume.clone());
        if self.order.request.subscribe_url.is_empty() {
            watch = watch.without_input();
        }
        self.announce();
        let mut tasks = JoinSet::new();
        let (end, threads) = match self.begin(&mut tasks) {
            Ok(threads) => (self.watch(&mut tasks, &mut watch, &events).await, threads),
            Err(message) => {
                self.shared.fail("trickle", message.clone());
                (End { reason: message, fault: true, drain: false }, Vec::new())
            }
        };
        tracing::info!(session, fault = end.fault, "The stream ends: {}.", end.reason);
        self.finish(&mut tasks, threads, end.drain).await;
        self.report_faults(&mut watch);
        let supervisor = self.deps.supervisor.clone();
        let interval = self.close_interval(Instant::now(), true);
        if !self.deps.config.unmeasured
            && let Some(message) = metered(&interval)
        {
            supervisor.send(message).await;
        }
        let ended = self.deps.ended.clone();
        let shared = self.shared.clone();
        // The last senders of events go with the session and its handle; the channel is closed after the output.
        let Self { events: sender, .. } = self;
        drop(sender);
        let _ = ended.send(session).await;
        over.cancel();
        if let Some(telling) = telling {
            // What it cannot send in time is lost with it.
            let _ = tokio::time::timeout(Duration::from_millis(1500), telling).await;
        }
        finish_events(events).await;
        tracing::debug!(session, buffers = shared.pool.available(), "The session's resources are free.");
        drop(shared);
        supervisor.send(FromEngine::Ended { session, reason: end.reason, fault: end.fault }).await;
    }

    /// The first events of a session.
    fn announce(&self) {
        let name = self.shared.pipeline.name();
        match &self.order.resume {
            None => self.events.emit(Event::ReceivedRequest { arrived_ms: self.order.arrived_ms }),
            Some(resume) => self.events.emit(Event::Restart {
                pipeline: name.into(),
                count: resume.restart_count,
                time_ms: resume.restart_time_ms,
                logs: resume.logs.clone(),
            }),
        }
    }

    /// Starts every task and thread of the session.
    fn begin(&mut self, tasks: &mut JoinSet<(Role, Option<String>)>) -> Result<Vec<JoinHandle<()>>, String> {
        let Deps { client, config, supervisor, .. } = &self.deps;
        let request = &self.order.request;
        let resume = self.order.resume.as_ref();
        let (size, output) = {
            let accepted = self.shared.parameters.accepted();
            (accepted.checked().size, accepted.checked().output())
        };
        let stamp = |pts: fn(&Resume) -> Option<i64>| resume.and_then(pts).map(Timestamp);
        let (last_video, last_audio) = (stamp(|r| r.last_video_pts), stamp(|r| r.last_audio_pts));
        let thread = |error: std::io::Error| format!("a thread could not be started: {error}");

        // Whatever can be refused comes before the first thread.
        let start = if resume.is_some() { Start::Current } else { Start::Seq(0) };
        let subscriber = match request.subscribe_url.as_str() {
            "" => None,
            url => Some(Subscriber::new(client, url, start).map_err(|e| format!("subscribe_url: {e}"))?),
        };
        let updates = match request.control_url.as_str() {
            "" => None,
            url => {
                let from = resume.and_then(|resume| resume.control_seq).unwrap_or(0);
                let updates =
                    Subscriber::new(client, url, Start::Seq(from)).map_err(|e| format!("control_url: {e}"))?;
                // A burst may overrun the reader, but never its last message.
                Some(updates.keeping_newest())
            }
        };

        // Input: socket, pieces, decoder.
        let (pieces, received) = mpsc::channel(ingest::PIECES);
        let _ = self.shared.input_pieces.set(pieces.downgrade());
        let decoder = ingest::spawn_decoder(
            self.shared.clone(),
            ingest::input_config(&self.shared, size, &config.media, request.max_fps),
            received,
            last_video,
        )
        .map_err(thread)?;
        let mut threads = vec![decoder];

        // Output: encoder, pieces, socket.
        let freshness = Duration::from_millis(config.freshness_ms);
        let (encoded, to_publish) = mpsc::channel(egress::PIECES);
        let _ = self.shared.output_pieces.set(encoded.downgrade());
        let media = tap::settings(&config.media, request.coding, &request.video_profile);
        let output = OutputConfig { size: output, fps_hint: 30.0, media };
        let taps = Maker {
            client: self.deps.own.clone(),
            tasks: self.deps.tasks.clone(),
            runtime: tokio::runtime::Handle::current(),
            dropped: self.deps.metrics.tap_dropped.clone(),
            coding: request.coding,
            output: OutputConfig { media: config.media.clone(), ..output.clone() },
        };
        if !request.taps.is_empty() {
            self.shared.taps.put(request.taps.clone());
        }
        let last = (last_video, last_audio);
        match egress::spawn_encoder(self.shared.clone(), output, (encoded, taps), last, freshness) {
            Ok(encoder) => threads.push(encoder),
            Err(error) => {
                // The decoder ends with its pieces; nothing else was started.
                drop(pieces);
                return Err(thread(error));
            }
        }

        let events = self.events.clone();
        tasks.spawn(
            read_input(self.shared.clone(), subscriber, pieces, move || events.emit(Event::FirstIngest))
                .in_current_span(),
        );
        let begin = if resume.is_some() { Begin::Resume } else { Begin::Zero };
        let publish = Publish {
            shared: self.shared.clone(),
            client: client.clone(),
            url: request.publish_url.clone(),
            begin,
            supervisor: supervisor.clone(),
            events: self.events.clone(),
        };
        tasks.spawn(publish.run(to_publish).in_current_span());
        if let Some(subscriber) = updates {
            tasks.spawn(self.control(subscriber, config.trickle.max_document).in_current_span());
        }
        Ok(threads)
    }

    fn control(&self, subscriber: Subscriber, max: usize) -> impl Future<Output = (Role, Option<String>)> + use<> {
        let (updater, refused, shared) = (self.updater.clone(), self.shared.clone(), self.shared.clone());
        let position = self.shared.clone();
        let worker = self.order.request.worker;
        let set = self.deps.config.media.max_fps;
        let update = move |mut params: Map<String, Value>| {
            let ours = if worker { control::ours(&mut params) } else { Ok(control::Ours::default()) };
            let result = ours.and_then(|ours| {
                if !ours.alone(&params) {
                    if worker {
                        control::keep_size(&mut params, &refused.parameters.accepted().given);
                    }
                    updater.update(params).map_err(|error| error.to_string())?;
                }
                if let Some(asked) = ours.max_fps {
                    refused.cap(set, asked);
                }
                if let Some(shown) = ours.show_loading {
                    refused.hold(shown);
                }
                Ok(())
            });
            if let Err(error) = result {
                refused.fail("params", format!("Error updating params: {error}"));
            }
        };
        let bad = move |reason| shared.fail("params", reason);
        let position = move |seq| position.control_seq.store(seq, Ordering::Relaxed);
        let stop = self.shared.reading.clone();
        async move {
            let reason = tokio::select! {
                reason = control::read(subscriber, max, update, bad, position) => reason,
                () = stop.cancelled() => "reading was stopped".into(),
            };
            (Role::Control, Some(reason))
        }
    }

    /// Runs until something ends the session.
    async fn watch(
        &mut self,
        tasks: &mut JoinSet<(Role, Option<String>)>,
        watch: &mut Watch,
        events: &tokio::task::JoinHandle<Option<String>>,
    ) -> End {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let status_every = Duration::from_millis(self.deps.config.status_ms);
        let (mut reported, mut told) = (Instant::now() - REPORT, Instant::now());
        let mut error_since: Option<Instant> = None;
        let mut fault_told: Option<Instant> = None;
        let interval = Duration::from_millis(self.deps.config.interval_ms);
        let mut opened = self.shared.began;
        loop {
            tokio::select! {
                _ = self.stopped.changed() => {
                    let reason = self.stopped.borrow().clone().unwrap_or_else(|| "its owner is gone".into());
                    return End { reason, fault: false, drain: true };
                }
                () = self.shared.cancel.cancelled() => {
                    self.report_faults(watch);
                    let reason = watch.last_error().unwrap_or("a fault").to_owned();
                    return End { reason, fault: true, drain: false };
                }
                Some(ended) = tasks.join_next() => match ended {
                    Ok((Role::Ingest, reason)) => {
                        let reason = reason.unwrap_or_else(|| "the input ended".into());
                        return End { reason, fault: false, drain: true };
                    }
                    Ok((Role::Control, reason)) => {
                        let reason = reason.unwrap_or_else(|| "the control channel ended".into());
                        return End { reason, fault: false, drain: true };
                    }
                    Ok((Role::Publish, reason)) => {
                        let reason = reason.unwrap_or_else(|| "the output ended".into());
                        return End { reason, fault: false, drain: false };
                    }
                    Err(error) => return End { reason: format!("a task failed: {error}"), fault: true, drain: false },
                },
                () = self.shared.changed.notified() => {
                    // An engine that is replaced this moment must know of the parameters that were accepted the moment before.
                    if fault_told.is_none_or(|at| at.elapsed() >= FAULTS) {
                        fault_told = self.report_faults(watch).then(Instant::now).or(fault_told);
                    }
                    if watch.load_turned(&self.shared) {
                        self.events.emit(Event::Status(watch.event(&self.shared)));
                    }
                    self.report(watch);
                }
                now = look.tick() => {
                    let now = now.into_std();
                    if fault_told.is_none_or(|at| now.saturating_duration_since(at) >= FAULTS) {
                        fault_told = self.report_faults(watch).then_some(now).or(fault_told);
                    }
                    if let Some(end) = self.idle(watch, now) {
                        return end;
                    }
                    let changed = watch.look(&self.shared, now);
                    if let Some(state) = changed {
                        tracing::info!(session = self.shared.id, state = state.as_str(), "Pipeline state changed.");
                    }
                    if changed.is_some() || now.duration_since(told) >= status_every {
                        told = now;
                        self.events.emit(Event::Status(watch.event(&self.shared)));
                    }
                    if changed.is_some() || now.duration_since(reported) >= REPORT {
                        reported = now;
                        self.report(watch);
                    }
                    // With no room on the link the interval goes on and is closed when there is.
                    if now.saturating_duration_since(opened) >= interval
                        && !self.deps.config.unmeasured
                        && let Some(room) = self.deps.supervisor.room()
                    {
                        opened = now;
                        if let Some(message) = metered(&self.close_interval(now, false)) {
                            room.send(message);
                        }
                    }
                    if events.is_finished() {
                        return End { reason: "the events channel is gone".into(), fault: false, drain: true };
                    }
                    match (watch.state() == State::Error, error_since) {
                        (false, _) => error_since = None,
                        (true, None) => error_since = Some(now),
                        // A thread that hangs is the supervisor's affair: it replaces the engine.
                        (true, Some(since)) if now - since > GIVE_UP && self.shared.busy_ms(now) < 1000 => {
                            let message = "no output for too long although input flows".to_owned();
                            self.shared.fail("trickle", message.clone());
                            self.report_faults(watch);
                            return End { reason: message, fault: true, drain: false };
                        }
                        (true, Some(_)) => {}
                    }
                }
            }
        }
    }

    /// The end of a session that nobody feeds.
    fn idle(&self, watch: &mut Watch, now: Instant) -> Option<End> {
        if self.order.request.subscribe_url.is_empty() {
            return None;
        }
        let config = &self.deps.config;
        let silent = |at: Option<Instant>| at.map_or_else(|| watch.age(now), |at| now.saturating_duration_since(at));
        let (limit, what) = match self.shared.last_byte.get() {
            None => (config.orphan_ms, "no byte of input since the start"),
            Some(_) => (config.input_timeout_ms, "no byte of input any more"),
        };
        let silence = silent(self.shared.last_byte.get());
        if silence < Duration::from_millis(limit) {
            return None;
        }
        let message = format!("{what}, for {:.0} s", silence.as_secs_f64());
        self.shared.fail("trickle", message.clone());
        self.report_faults(watch);
        Some(End { reason: message, fault: false, drain: true })
    }

    fn close_interval(&self, now: Instant, last: bool) -> Interval {
        let hash = self.shared.parameters.in_force().hash;
        let restarts = self.order.resume.as_ref().map_or(0, |resume| resume.restart_count);
        let facts = Facts { model: self.shared.pipeline.name(), params_hash: &hash, restarts, last };
        let interval = self.shared.meter.close(now, facts);
        self.shared.data.figures(interval.summary());
        if self.deps.config.interval_events {
            self.events.emit(Event::Metering(interval.summary()));
        }
        interval
    }

    /// Tells the faults that have not been told. True when there was one.
    fn report_faults(&self, watch: &mut Watch) -> bool {
        let faults = self.shared.faults.take();
        let any = !faults.is_empty();
        for fault in faults {
            watch.error(fault.message.clone());
            self.events.emit(Event::Error { pipeline: self.shared.pipeline.name().into(), message: fault.message });
        }
        any
    }

    fn report(&self, watch: &Watch) {
        let control_seq = self.shared.control_seq.load(Ordering::Relaxed);
        self.deps.supervisor.hint(FromEngine::Session(SessionReport {
            session: self.shared.id,
            state: watch.state().as_str().into(),
            status: Value::Object(watch.status(&self.shared)),
            params: (*self.shared.parameters.safe().given).clone(),
            control_seq: Some(control_seq),
            model_share: watch.model_share(),
            max_fps: self.shared.asked_fps(),
            show_loading: Some(self.shared.held.load(Ordering::Acquire)),
        }));
    }

    /// Ends tasks and threads. With `drain` what is under way is published first.
    async fn finish(&self, tasks: &mut JoinSet<(Role, Option<String>)>, threads: Vec<JoinHandle<()>>, drain: bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(self.deps.config.stop_ms);
        self.shared.reading.cancel();
        if !drain {
            self.shared.abort();
        }
        // Reading stops, so decoder, model, encoder and publisher end one after the other.
        let wait = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout_at(deadline, wait).await.is_err() {
            tracing::warn!(session = self.shared.id, "The stream did not end in time; the rest is cut off.");
            self.shared.abort();
            let wait = async { while tasks.join_next().await.is_some() {} };
            if tokio::time::timeout(Duration::from_millis(500), wait).await.is_err() {
                tasks.shutdown().await;
                // The publisher was cut off before it could delete its channel, and the gateway waits for that.
                let url = &self.order.request.publish_url;
                let delete = self.deps.client.delete(url);
                if !url.is_empty()
                    && !matches!(tokio::time::timeout(Duration::from_millis(300), delete).await, Ok(Ok(_)))
                {
                    tracing::warn!(session = self.shared.id, "The output channel could not be deleted.");
                }
            }
        }
        self.shared.abort();
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic of a thread has already ended the process through the panic hook.
                let _ = thread.join();
            }
        });
        if tokio::time::timeout(Duration::from_secs(1), joined).await.is_err() {
            tracing::warn!(session = self.shared.id, "A stage thread still works on its last frame.");
        }
    }
}

/// The meter of a session, which goes on where the one of the engine before was.
fn meter(deps: &Deps, order: &Order, size: Size, now: Instant) -> Meter {
    let clock = Clock { at: now, unix_ns: unix_ms() as i64 * 1_000_000 };
    let account = order.resume.as_ref().and_then(|resume| resume.account.clone());
    let carry = account.and_then(|account| serde_json::from_value(account).ok());
    let billed_until_ns = order.arrived_ms.min(i64::MAX as u64 / 1_000_000) as i64 * 1_000_000;
    let carry = carry.unwrap_or(Carry { number: 0, from_ms: order.arrived_ms, billed_until_ns });
    let interval = Duration::from_millis(deps.config.interval_ms);
    let meter = Meter::new(order.session, size, clock, interval, carry, deps.tracer.clone());
    if deps.config.unmeasured { meter.off() } else { meter }
}

/// The message that tells the supervisor of an interval.
fn metered(interval: &Interval) -> Option<FromEngine> {
    // Plain data of texts and finite numbers has a JSON form.
    let value = serde_json::to_value(interval).ok()?;
    Some(FromEngine::Metered { session: interval.session, interval: value })
}

async fn read_input(
    shared: Arc<Shared>,
    subscriber: Option<Subscriber>,
    pieces: mpsc::Sender<ingest::Piece>,
    first_segment: impl FnOnce(),
) -> (Role, Option<String>) {
    let stop = shared.reading.clone();
    let read = async {
        match subscriber {
            Some(subscriber) => ingest::read(shared, subscriber, pieces, first_segment).await,
            // No frame will come; the decoder waits until the end.
            None => {
                let _pieces = pieces;
                std::future::pending().await
            }
        }
    };
    let reason = tokio::select! {
        reason = read => reason,
        () = stop.cancelled() => "reading was stopped".into(),
    };
    (Role::Ingest, Some(reason))
}

/// The publishing task of a session.
struct Publish {
    shared: Arc<Shared>,
    client: Client,
    url: String,
    begin: Begin,
    supervisor: ToSupervisor,
    events: Events,
}

impl Publish {
    async fn run(self, mut pieces: mpsc::Receiver<egress::Piece>) -> (Role, Option<String>) {
        let Self { shared, client, url, begin, supervisor, events } = self;
        if url.is_empty() {
            egress::keep(&shared, &mut pieces).await;
            return (Role::Publish, None);
        }
        let mut publisher = match Publisher::open(&client, &url, "video/mp2t", begin).await {
            Ok(publisher) => publisher,
            Err(error) => {
                shared.fail("trickle", format!("The output channel cannot be opened: {error}"));
                egress::discard(&shared, pieces).await;
                return (Role::Publish, Some(format!("the output cannot be opened: {error}")));
            }
        };
        let session = shared.id;
        let progress = |video: Option<Timestamp>, audio: Option<Timestamp>| {
            let (video_pts, audio_pts) = (video.map(|pts| pts.0), audio.map(|pts| pts.0));
            supervisor.hint(FromEngine::Published { session, video_pts, audio_pts });
        };
        let first = || events.emit(Event::FirstProcessed);
        let reason = egress::publish(shared.clone(), &mut publisher, &mut pieces, progress, first).await;
        egress::discard(&shared, pieces).await;
        if let Err(error) = publisher.close(true).await {
            tracing::debug!(session, "The output channel could not be deleted: {error}");
        }
        (Role::Publish, reason)
    }
}

/// Gives the events channel a moment to send what waits, then deletes it.
async fn finish_events(mut events: tokio::task::JoinHandle<Option<String>>) {
    if tokio::time::timeout(Duration::from_millis(1500), &mut events).await.is_err() {
        events.abort();
        let _ = events.await;
    }
}
