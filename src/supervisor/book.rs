//! What the supervisor knows: the slots, the sessions, the engine's phase and the requests that wait for its answer. Plain
//! data behind one lock; nothing here waits.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::accounts::{Accounts, stream};
use super::admission::{Admission, Full, Limits, fits};
use super::choice::ChoiceError;
use super::rates::Rates;
use super::voice::{Ear, Voice};
use crate::health::{self, State, Status, Word};
use crate::link::{Coding, FromEngine, Imaged, Outcome, Phase, Resume, SessionReport, StreamRequest, Tap, ToEngine};
use crate::metering::ledger::{Body, GpuUse};
use crate::metering::{Carry, Interval, without_addresses};

/// Why a start request was refused at the door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Every slot is in use.
    Full,
    /// A slot is free, but there is too little left of the machine; why.
    Load(String),
    /// The process ends.
    Ending,
    /// The engine was given up.
    Failed(String),
}

/// What a request to the engine is about, and who waits for the answer.
#[derive(Debug)]
pub(super) enum Pending {
    /// A new session.
    Start {
        /// Its number.
        session: u64,
        /// What it was ordered to do.
        request: Box<StreamRequest>,
        /// Unix time of the request in milliseconds.
        arrived_ms: u64,
        /// Who waits.
        waiter: oneshot::Sender<Outcome>,
    },
    /// A session goes on in a new engine.
    Resume {
        /// Its number.
        session: u64,
    },
    /// Anything that is answered by an outcome.
    Outcome(oneshot::Sender<Outcome>),
    /// Anything that is answered by a text.
    Text(oneshot::Sender<String>),
    /// A picture.
    Image(oneshot::Sender<(Outcome, Option<Imaged>)>),
    /// Anything that is answered by a value.
    Value(oneshot::Sender<Value>),
}

/// A session that the engine runs, with all that a new engine needs to go on with it.
#[derive(Debug)]
struct Session {
    request: Box<StreamRequest>,
    arrived_ms: u64,
    /// In force, once the engine reported them.
    params: Option<Map<String, Value>>,
    control_seq: Option<u64>,
    video_pts: Option<i64>,
    audio_pts: Option<i64>,
    report: Option<SessionReport>,
    /// Where its account is.
    carry: Option<Carry>,
    /// Millijoules of the GPU at the end of the last interval.
    energy_mj: Option<u64>,
    /// As `energy_mj`, microseconds in which it ran a kernel.
    gpu_busy_us: Option<u64>,
    /// Who waits for its end.
    waiters: Vec<oneshot::Sender<()>>,
    /// What it says, for those who listen.
    voice: Voice,
    /// Ceilings of its encoders in kbit/s, where they are below the configured one.
    ceilings: HashMap<Coding, u64>,
    /// Its frame rates of late.
    rates: Rates,
}

/// A session as doors show it. URLs are credentials, so it has no `Debug`.
#[derive(Clone)]
pub(super) struct View {
    /// Its number.
    pub session: u64,
    /// Where the input is read.
    pub subscribe_url: String,
    /// Where the output is written.
    pub publish_url: String,
    /// The name it was started under.
    pub gateway_request_id: String,
    /// Parameters in force.
    pub params: Map<String, Value>,
    /// The cap of frames a second in force, where a caller gave one.
    pub max_fps: Option<f64>,
    /// The newest status object; null before the first.
    pub status: Value,
}

/// What the engine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Engine {
    Loading(String),
    Warm,
    Failed(String),
}

/// What `/health` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    /// The word.
    pub word: Word,
    /// More for people: the step of loading, or what failed.
    pub detail: Option<String>,
    /// Where the graphs of a warm engine run; `None` where it has no graph.
    pub provider: Option<String>,
}

/// A message for the log and the counters that a change of the book gives.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Note {
    /// The engine became warm after so many milliseconds.
    Warm(u64),
    /// A session was handed to a new engine.
    Resumed,
    /// A session ended; true when by our fault.
    Ended(bool),
    /// An interval was accounted for, with so many pixels to bill.
    Metered(u64),
    /// A line for the ledger.
    Ledger(Box<Body>),
}

/// The book.
#[derive(Debug)]
pub(super) struct Book {
    pipeline: String,
    admission: Admission,
    limits: Limits,
    /// Slots that are set; the engine may have room for fewer.
    wanted: usize,
    /// The part of the time that the model worked on the session that was measured last.
    share_seen: Option<f64>,
    sessions: BTreeMap<u64, Session>,
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
    engine: Engine,
    /// Where the graphs of the engine that was warm last run.
    provider: Option<String>,
    /// Another pipeline was ordered, and its engine is not there yet.
    switching: bool,
    ending: bool,
    loading_since: Option<Instant>,
    word: Word,
    restarts: u32,
    accounts: Accounts,
    /// What the GPU at work tells, by the supervisor's hardware.
    gpu: Option<GpuNow>,
    /// When it told that.
    gpu_at: Option<Instant>,
    /// Microseconds in which it ran a kernel since the process began, as far as it told.
    gpu_busy_us: Option<u64>,
}

/// What the GPU told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GpuNow {
    /// Its name.
    pub name: String,
    /// Bytes in use.
    pub memory_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Millijoules since its driver was loaded.
    pub energy_mj: Option<u64>,
    /// Per cent of the time with a kernel running.
    pub busy_percent: Option<u32>,
}

/// A GPU that has not told for so long was not asked: nothing is said of the time between.
const GPU_SILENCE: Duration = Duration::from_secs(5);

/// Requests that may wait for the engine at a time.
const MOST_PENDING: usize = 256;

impl Book {
    /// Nothing has happened; the engine is about to load.
    pub fn new(pipeline: &str, capacity: usize, limits: Limits, now: Instant) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            admission: Admission::new(capacity),
            limits,
            wanted: capacity,
            share_seen: None,
            sessions: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_id: 1,
            engine: Engine::Loading("starting".into()),
            provider: None,
            switching: false,
            ending: false,
            loading_since: Some(now),
            word: Word::Loading,
            restarts: 0,
            accounts: Accounts::default(),
            gpu: None,
            gpu_at: None,
            gpu_busy_us: None,
        }
    }

    /// What `/health` says at `now`.
    pub fn health(&mut self, now: Instant) -> Health {
        for session in self.admission.expire(now) {
            warn!(session, "The engine did not end a session in time; its slot is free.");
            self.sessions.remove(&session);
        }
        self.refresh(now);
        let detail = match &self.engine {
            Engine::Failed(message) => Some(message.clone()),
            Engine::Loading(step) if !step.is_empty() => Some(step.clone()),
            _ => None,
        };
        let provider = if self.engine == Engine::Warm { self.provider.clone() } else { None };
        Health { word: self.word, detail, provider }
    }

    /// Slots in use.
    pub fn in_use(&self) -> usize {
        self.admission.in_use()
    }

    /// Whether the engine is warm.
    pub fn warm(&self) -> bool {
        self.engine == Engine::Warm
    }

    /// Why the engine was given up; `None` while it was not.
    pub fn failed(&self) -> Option<String> {
        match &self.engine {
            Engine::Failed(message) => Some(message.clone()),
            _ => None,
        }
    }

    /// Takes a slot for a start request.
    pub fn reserve(&mut self, now: Instant) -> Result<u64, Refusal> {
        if let Some(message) = self.failed() {
            return Err(Refusal::Failed(message));
        }
        if self.ending {
            return Err(Refusal::Ending);
        }
        if self.switching {
            return Err(Refusal::Load(format!("the pipeline {} is being loaded", self.pipeline)));
        }
        self.admission.expire(now).iter().for_each(|session| drop(self.sessions.remove(session)));
        if self.admission.in_use() < self.admission.capacity() {
            let shares = self.shares();
            let free = self.gpu.as_ref().map(|gpu| gpu.free_bytes);
            fits(self.limits, &shares, self.share_seen, free).map_err(Refusal::Load)?;
        }
        let session = self.admission.reserve().map_err(|Full| Refusal::Full)?;
        self.refresh(now);
        Ok(session)
    }

    /// The part of the time that the model works on each session that holds a slot; none where it is not known.
    fn shares(&self) -> Vec<Option<f64>> {
        let share = |session: &Session| session.report.as_ref().and_then(|report| report.model_share);
        let mut shares: Vec<Option<f64>> = self.sessions.values().map(share).collect();
        // Starts that are under way.
        shares.resize(self.admission.in_use().max(shares.len()), None);
        shares
    }

    /// Sessions that can run at a time.
    pub fn capacity(&self) -> usize {
        self.admission.capacity()
    }

    /// Gives a slot back that the engine never took.
    pub fn release_reserved(&mut self, session: u64, now: Instant) {
        self.admission.release_reserved(session);
        self.refresh(now);
    }

    /// Notes that a session was told to stop; its slot is free at `until` at the latest.
    pub fn close(&mut self, session: u64, until: Instant) {
        self.admission.close(session, until);
    }

    /// The session of that number, or the only one. Gives its number; none while several run and none is named.
    pub fn find(&self, session: Option<u64>) -> Option<u64> {
        match session {
            Some(session) => self.sessions.contains_key(&session).then_some(session),
            None if self.sessions.len() > 1 => None,
            None => self.sessions.keys().next().copied(),
        }
    }

    /// Whether that session holds a slot.
    pub fn holds(&self, session: u64) -> bool {
        self.admission.holds(session)
    }

    /// Sessions that run.
    pub fn running(&self) -> usize {
        self.sessions.len()
    }

    /// The session that was started under `id`, or that belongs to the stream `id`.
    pub fn named(&self, id: &str) -> Option<u64> {
        let is = |session: &Session| session.request.gateway_request_id == id || session.request.stream_id == id;
        self.sessions.iter().find(|(_, session)| !id.is_empty() && is(session)).map(|(&number, _)| number)
    }

    /// Whether a session runs that gets no pictures out of its input.
    pub fn wants_input(&self, session: u64) -> bool {
        let report = self.sessions.get(&session).and_then(|session| session.report.as_ref());
        report.is_some_and(|report| report.state == "DEGRADED_INPUT" || report.state == "OFFLINE")
    }

    /// Notes the cap in force of a session (`None`: the only one) and whether it shows the overlay, where they are given, for the
    /// engine that may have to go on with it.
    pub fn set(&mut self, session: Option<u64>, max_fps: Option<f64>, show_loading: Option<bool>) {
        let found = self.find(session).and_then(|session| self.sessions.get_mut(&session));
        if let Some(session) = found {
            session.request.max_fps = max_fps.or(session.request.max_fps);
            session.request.show_loading = show_loading.unwrap_or(session.request.show_loading);
        }
    }

    /// Notes the ceiling of an encoder of a session, in kbit/s, for the engine that may have to go on with it; 0 for the configured
    /// one.
    pub fn ceiling(&mut self, session: u64, coding: Coding, kbps: u64) {
        if let Some(session) = self.sessions.get_mut(&session) {
            match kbps {
                0 => session.ceilings.remove(&coding),
                kbps => session.ceilings.insert(coding, kbps),
            };
        }
    }

    /// Every session, the oldest first.
    pub fn views(&self) -> Vec<View> {
        let view = |(&number, session): (&u64, &Session)| View {
            session: number,
            subscribe_url: session.request.subscribe_url.clone(),
            publish_url: session.request.publish_url.clone(),
            gateway_request_id: session.request.gateway_request_id.clone(),
            params: session.params.as_ref().unwrap_or(&session.request.params).clone(),
            max_fps: session.request.max_fps,
            status: session.report.as_ref().map(|report| report.status.clone()).unwrap_or_default(),
        };
        self.sessions.iter().map(view).collect()
    }

    /// Resolves when the session has ended; `None` when there is none of that number.
    pub fn wait_end(&mut self, session: u64) -> Option<oneshot::Receiver<()>> {
        let (sender, receiver) = oneshot::channel();
        let waiters = &mut self.sessions.get_mut(&session)?.waiters;
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(sender);
        Some(receiver)
    }

    /// How the pictures of a session's output are coded.
    pub fn coding(&self, session: u64) -> Option<Coding> {
        self.sessions.get(&session).map(|session| session.request.coding)
    }

    /// The frame rates of every session, by the name it was started under.
    pub fn rates(&self) -> Vec<(String, Value)> {
        let rates = |session: &Session| (session.request.gateway_request_id.clone(), session.rates.shown());
        self.sessions.values().map(rates).collect()
    }

    /// Those of one session; `None` when there is none of that number.
    pub fn rates_of(&self, session: u64) -> Option<Value> {
        self.sessions.get(&session).map(|session| session.rates.shown())
    }

    /// What a session says from now on, and its newest texts; `None` when there is none of that number.
    pub fn listen(&self, session: u64) -> Option<Ear> {
        self.sessions.get(&session).map(|session| session.voice.listen())
    }

    /// Notes the further outputs of a session. False when there is none of that number.
    pub fn tap(&mut self, session: u64, taps: Vec<Tap>) -> bool {
        let session = self.sessions.get_mut(&session);
        session.map(|session| session.request.taps = taps).is_some()
    }

    /// Notes a request and gives it a number; `None` when too many wait already.
    pub fn expect(&mut self, pending: Pending) -> Option<u64> {
        if self.pending.len() >= MOST_PENDING {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, pending);
        Some(id)
    }

    /// Nobody waits any more. The answer to a start is still taken in, because the engine may have said yes.
    pub fn forget(&mut self, id: u64) {
        if !matches!(self.pending.get(&id), Some(Pending::Start { .. } | Pending::Resume { .. })) {
            self.pending.remove(&id);
        }
    }

    /// The request never left.
    pub fn unsent(&mut self, id: u64) {
        self.pending.remove(&id);
    }

    /// The pipeline that is loaded, or is to be.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Another pipeline is to be loaded. No stream is taken until its engine is there.
    ///
    /// # Errors
    /// [`ChoiceError::Running`] while a slot is taken, [`ChoiceError::Loading`] while the engine is not warm.
    pub fn switch(&mut self, pipeline: &str, now: Instant) -> Result<(), ChoiceError> {
        if self.admission.in_use() > 0 {
            return Err(ChoiceError::Running);
        }
        if self.ending || self.switching || !self.warm() {
            return Err(ChoiceError::Loading);
        }
        self.pipeline = pipeline.to_owned();
        self.switching = true;
        self.engine = Engine::Loading(format!("the engine of {pipeline} starts"));
        self.refresh(now);
        Ok(())
    }

    /// What was ordered cannot be loaded; `pipeline` is, as before.
    pub fn switch_back(&mut self, pipeline: &str) {
        self.pipeline = pipeline.to_owned();
    }

    /// The engine is about to be started.
    pub fn engine_starts(&mut self, now: Instant) {
        self.engine = Engine::Loading("starting".into());
        self.admission.resize(self.wanted);
        self.refresh(now);
    }

    /// The engine is there: the messages that hand it the sessions of the one before.
    pub fn engine_there(&mut self, reason: &str, logs: &[String], restarted_ms: u64) -> Vec<ToEngine> {
        self.switching = false;
        let sessions: Vec<u64> = self.sessions.keys().copied().collect();
        let mut messages = Vec::new();
        for number in sessions {
            let Some(id) = self.expect(Pending::Resume { session: number }) else { continue };
            let Some(session) = self.sessions.get(&number) else { continue };
            let params = session.params.as_ref().unwrap_or(&session.request.params).clone();
            let resume = Resume {
                params,
                restart_count: self.restarts,
                reason: reason.to_owned(),
                logs: logs.to_vec(),
                restart_time_ms: restarted_ms,
                start_time_ms: session.arrived_ms,
                last_video_pts: session.video_pts,
                last_audio_pts: session.audio_pts,
                control_seq: session.control_seq,
                account: session.carry.and_then(|carry| serde_json::to_value(carry).ok()),
            };
            messages.push(ToEngine::Start {
                id,
                session: number,
                request: session.request.clone(),
                arrived_ms: session.arrived_ms,
                resume: Some(Box::new(resume)),
            });
            messages.extend(session.ceilings.iter().map(|(&coding, &kbps)| ToEngine::Encode {
                session: number,
                coding,
                key: false,
                max_kbps: Some(kbps),
            }));
        }
        messages
    }

    /// The engine is gone; `restarts` counts this failure. Whoever waits for an answer learns that none comes, and
    /// sessions stay for the next engine.
    pub fn engine_gone(&mut self, restarts: u32, now: Instant) -> Vec<Note> {
        self.restarts = restarts;
        self.pending.clear();
        self.admission.engine_gone();
        let closing: Vec<u64> = self.sessions.keys().filter(|&&it| !self.admission.holds(it)).copied().collect();
        let over: Vec<_> = closing.into_iter().filter_map(|it| Some((it, self.sessions.remove(&it)?))).collect();
        self.engine = Engine::Loading("restarting".into());
        self.refresh(now);
        over.iter().map(|(number, session)| session.over(*number, "the engine is gone", false)).collect()
    }

    /// The orders of the sessions that run.
    pub fn orders(&self) -> Vec<StreamRequest> {
        self.sessions.values().map(|session| (*session.request).clone()).collect()
    }

    /// The engine is given up for good. Every session is over.
    pub fn give_up(&mut self, message: &str, now: Instant) -> Vec<Note> {
        self.engine = Engine::Failed(message.to_owned());
        self.pending.clear();
        let over = self.sessions.iter();
        let notes = over.flat_map(|(number, session)| [Note::Ended(true), session.over(*number, message, true)]);
        let notes = notes.collect();
        for session in std::mem::take(&mut self.sessions).into_keys() {
            self.admission.release(session);
        }
        self.admission.engine_gone();
        self.refresh(now);
        notes
    }

    /// Whether nothing new is taken because the process ends.
    pub fn ending(&self) -> bool {
        self.ending
    }

    /// The process ends; nothing new is taken.
    pub fn end(&mut self) {
        self.ending = true;
    }

    /// Takes in what the engine said. [`FromEngine::Hello`] and the metrics of the watch are the caller's.
    pub fn engine_said(&mut self, message: FromEngine, now: Instant) -> Vec<Note> {
        let mut notes = Vec::new();
        match message {
            FromEngine::Hello { .. } | FromEngine::Beat { .. } => {}
            FromEngine::Phase(Phase::Loading { detail }) => self.engine = Engine::Loading(detail),
            FromEngine::Phase(Phase::Ready { load_ms, instances, provider }) => {
                self.engine = Engine::Warm;
                self.provider = provider;
                self.admission.resize(instances.min(self.wanted));
                notes.push(Note::Warm(load_ms));
            }
            // The engine ends after this; what follows is decided then.
            FromEngine::Phase(Phase::Failed { .. }) => {}
            FromEngine::Reply { id, outcome } => notes.extend(self.replied(id, outcome)),
            FromEngine::Session(report) => self.reported(report, now),
            FromEngine::Published { session, video_pts, audio_pts } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.video_pts = session.video_pts.max(video_pts);
                    session.audio_pts = session.audio_pts.max(audio_pts);
                }
            }
            FromEngine::Said { session, text } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.voice.text(text);
                }
            }
            FromEngine::Metered { session, interval } => notes.extend(self.metered(session, interval)),
            FromEngine::Ended { session, reason, fault } => notes.extend(self.ended(session, &reason, fault)),
            FromEngine::Imaged { id, outcome, image } => {
                if let Some(Pending::Image(waiter)) = self.pending.remove(&id) {
                    let _ = waiter.send((outcome, image));
                }
            }
            FromEngine::Metrics { id, text } | FromEngine::Traced { id, text } => {
                if let Some(Pending::Text(waiter)) = self.pending.remove(&id) {
                    let _ = waiter.send(text);
                }
            }
            FromEngine::Described { id, value } => {
                if let Some(Pending::Value(waiter)) = self.pending.remove(&id) {
                    let _ = waiter.send(value);
                }
            }
        }
        self.refresh(now);
        notes
    }

    /// The status object of a session (`None`: the oldest), or of the process when there is none.
    pub fn status(&self, session: Option<u64>) -> Value {
        let state = match (&self.engine, self.sessions.is_empty()) {
            (Engine::Failed(_), _) => State::Error,
            (Engine::Loading(_), _) => State::Loading,
            (Engine::Warm, _) => State::Offline,
        };
        let found = session.or_else(|| self.sessions.keys().next().copied());
        let found = found.and_then(|session| self.sessions.get(&session));
        let reported = found.and_then(|session| session.report.as_ref().map(|report| report.status.clone()));
        match (reported, found) {
            (Some(mut status), _) => {
                if state != State::Offline
                    && let Some(object) = status.as_object_mut()
                {
                    object.insert("state".into(), state.as_str().into());
                }
                status
            }
            (None, found) => health::status_json(&Status {
                pipeline: &self.pipeline,
                state: if found.is_some() && state == State::Offline { State::Online } else { state },
                start_time_ms: found.map_or(0, |session| session.arrived_ms),
                restart_count: self.restarts,
                ..Default::default()
            }),
        }
    }

    fn replied(&mut self, id: u64, outcome: Outcome) -> Vec<Note> {
        let Some(pending) = self.pending.remove(&id) else { return Vec::new() };
        match pending {
            Pending::Start { session, request, arrived_ms, waiter } => {
                if outcome == Outcome::Accepted {
                    if self.admission.confirm(session) {
                        self.sessions.insert(session, Session::new(request, arrived_ms));
                    }
                } else {
                    self.admission.release(session);
                }
                let _ = waiter.send(outcome);
                Vec::new()
            }
            Pending::Resume { session } if outcome == Outcome::Accepted => {
                info!(session, restart_count = self.restarts, "The stream goes on in a new engine.");
                vec![Note::Resumed]
            }
            Pending::Resume { session } => {
                let reason = format!("the new engine refused it: {outcome:?}");
                self.ended(session, &reason, true)
            }
            Pending::Outcome(waiter) => {
                let _ = waiter.send(outcome);
                Vec::new()
            }
            Pending::Text(_) | Pending::Value(_) | Pending::Image(_) => Vec::new(),
        }
    }

    /// What the last streams came to.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Notes what the GPU at work tells at `now`. What it says of its use is taken for the time since it told last, unless
    /// that is too long ago.
    pub fn gpu_told(&mut self, gpu: Option<GpuNow>, now: Instant) {
        let since = self.gpu_at.replace(now).map(|at| now.saturating_duration_since(at));
        if let Some(percent) = gpu.as_ref().and_then(|gpu| gpu.busy_percent) {
            let time = since.filter(|time| *time <= GPU_SILENCE).unwrap_or_default();
            let busy = time.as_micros() as u64 * u64::from(percent.min(100)) / 100;
            self.gpu_busy_us = Some(self.gpu_busy_us.unwrap_or(0) + busy);
        }
        self.gpu = gpu;
    }

    fn metered(&mut self, number: u64, interval: Value) -> Vec<Note> {
        let part = self.part(number);
        let Some(session) = self.sessions.get_mut(&number) else { return Vec::new() };
        let interval: Interval = match serde_json::from_value(interval) {
            Ok(interval) => interval,
            Err(error) => {
                warn!(session = number, %error, "The engine sent an interval that cannot be read.");
                return Vec::new();
            }
        };
        session.carry = Some(interval.carry());
        session.voice.figures(interval.summary());
        let gpu = self.gpu.as_ref().map(|gpu| {
            let used = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?) as f64 * part);
            let joules = used(gpu.energy_mj, std::mem::replace(&mut session.energy_mj, gpu.energy_mj));
            let busy = used(self.gpu_busy_us, std::mem::replace(&mut session.gpu_busy_us, self.gpu_busy_us));
            GpuUse {
                name: gpu.name.clone(),
                memory_bytes: gpu.memory_bytes,
                joules: joules.map(|millijoules| millijoules / 1e3),
                busy_seconds: busy.map(|micros| micros / 1e6),
            }
        });
        let stream = stream(&session.request, session.arrived_ms);
        self.accounts.add(&stream, &interval, gpu.as_ref());
        let pixels = interval.totals.billable_pixels;
        let line = Body::Interval { stream, interval: Box::new(interval), gpu };
        vec![Note::Metered(pixels), Note::Ledger(Box::new(line))]
    }

    /// What part of the GPU's energy is a session's: its part of the time that the model works, of all that run.
    fn part(&self, number: u64) -> f64 {
        let share = |session: &Session| session.report.as_ref().and_then(|report| report.model_share).unwrap_or(0.0);
        let all: f64 = self.sessions.values().map(share).sum();
        match self.sessions.get(&number) {
            Some(session) if all > 0.0 => share(session) / all,
            _ => 1.0 / self.sessions.len().max(1) as f64,
        }
    }

    fn reported(&mut self, report: SessionReport, now: Instant) {
        self.share_seen = report.model_share.or(self.share_seen);
        let Some(session) = self.sessions.get_mut(&report.session) else { return };
        session.params = Some(report.params.clone());
        // Updates by the control channel pass by the engine alone.
        session.request.max_fps = report.max_fps.or(session.request.max_fps);
        session.request.show_loading = report.show_loading.unwrap_or(session.request.show_loading);
        session.control_seq = session.control_seq.max(report.control_seq);
        let fps = report.status.pointer("/inference_status/fps").and_then(Value::as_f64);
        session.rates.note(fps.unwrap_or(0.0), now);
        session.report = Some(report);
    }

    fn ended(&mut self, session: u64, reason: &str, fault: bool) -> Vec<Note> {
        if !self.admission.release(session) {
            return Vec::new();
        }
        let Some(over) = self.sessions.remove(&session) else { return Vec::new() };
        let line = over.over(session, reason, fault);
        let request = &over.request;
        info!(
            gateway_request_id = %request.gateway_request_id,
            manifest_id = %request.manifest_id,
            stream_id = %request.stream_id,
            reason,
            fault,
            "Stream ended"
        );
        for waiter in over.waiters {
            // Whoever asked may have left.
            let _ = waiter.send(());
        }
        vec![Note::Ended(fault), line]
    }

    fn refresh(&mut self, now: Instant) {
        let reloading =
            |session: &Session| session.report.as_ref().is_some_and(|report| report.state == State::Loading.as_str());
        let loading = self.ending || !self.warm() || self.sessions.values().any(reloading);
        self.loading_since = if loading { self.loading_since.or(Some(now)) } else { None };
        let loading_for = self.loading_since.map(|since| now.saturating_duration_since(since));
        let word = health::word(matches!(self.engine, Engine::Failed(_)), self.admission.occupied(), loading_for);
        if word != self.word {
            info!(old_state = self.word.as_str(), new_state = word.as_str(), "Pipeline state changed.");
            self.word = word;
        }
    }
}

impl Session {
    /// The ledger's line of its end.
    fn over(&self, number: u64, reason: &str, fault: bool) -> Note {
        let stream = stream(&self.request, self.arrived_ms);
        let reason = without_addresses(reason);
        Note::Ledger(Box::new(Body::Ended { stream, session: number, reason, fault }))
    }

    fn new(request: Box<StreamRequest>, arrived_ms: u64) -> Self {
        Self {
            request,
            arrived_ms,
            params: None,
            control_seq: None,
            video_pts: None,
            audio_pts: None,
            report: None,
            carry: None,
            energy_mj: None,
            gpu_busy_us: None,
            waiters: Vec::new(),
            voice: Voice::new(),
            ceilings: HashMap::new(),
            rates: Rates::default(),
        }
    }
}

/// Time that a stopped session has until its slot is free in any case, beyond what the engine itself allows.
pub(super) const STOP_SLACK: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
