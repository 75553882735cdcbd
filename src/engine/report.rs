//! What a session says of itself: its state, judged four times a second, and its status object.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::current::Current;
use super::events::unix_ms;
use super::shared::{Moment, Shared};
use crate::health::{Observations, PipelineState, Rate, State, Status, Thresholds, evaluate, status_json};
use crate::link::Resume;
use crate::metering::Kind;

/// Looks at a session and says how it is.
pub struct Watch {
    thresholds: Thresholds,
    seen: Observations,
    input: Rate,
    output: Rate,
    frames_in: u64,
    frames_out: u64,
    state: State,
    state_since_ms: u64,
    started: Instant,
    start_ms: u64,
    last_error: Option<String>,
    restarts: Option<Resume>,
    /// The hash of the parameters that the last status event carried.
    told_params: Option<String>,
    told_restart: bool,
    told_ms: u64,
    share: Share,
    load_turns: u64,
    /// Whether there is no input that could be missing.
    no_input: bool,
}

/// Time over which [`Watch::model_share`] looks back, at least.
const SHARE: Duration = Duration::from_secs(2);

/// How much of the time the model works on a session.
#[derive(Debug)]
struct Share {
    since: Instant,
    us: u64,
    /// Of the last whole look with a frame in it; `None` before the first.
    last: Option<f64>,
}

impl Share {
    fn look(&mut self, us: u64, now: Instant) {
        let time = now.saturating_duration_since(self.since);
        if time < SHARE {
            return;
        }
        let worked = us.saturating_sub(self.us);
        if worked > 0 {
            self.last = Some((worked as f64 / 1e6 / time.as_secs_f64()).min(1.0));
        }
        (self.since, self.us) = (now, us);
    }
}

impl Watch {
    /// A session that began at `now`.
    pub fn new(now: Instant, start_ms: u64, restarts: Option<Resume>) -> Self {
        let mut seen = Observations::new(PipelineState::Loading(now));
        seen.stream_start = Some(now);
        seen.last_restart = restarts.is_some().then_some(now);
        Self {
            thresholds: Thresholds::default(),
            seen,
            input: Rate::new(),
            output: Rate::new(),
            frames_in: 0,
            frames_out: 0,
            state: State::Loading,
            state_since_ms: start_ms,
            started: now,
            start_ms,
            last_error: None,
            restarts,
            told_params: None,
            told_restart: false,
            told_ms: start_ms,
            share: Share { since: now, us: 0, last: None },
            load_turns: 0,
            no_input: false,
        }
    }

    /// The same for a session without an input.
    pub fn without_input(self) -> Self {
        Self { no_input: true, ..self }
    }

    /// The part of the time that the model worked on the session's frames of late, 0 to 1; `None` before it had any.
    pub fn model_share(&self) -> Option<f64> {
        self.share.last
    }

    /// Remembers the newest error.
    pub fn error(&mut self, message: String) {
        self.last_error = Some(message);
    }

    /// The newest error.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Looks once. Returns the new state when it changed.
    pub fn look(&mut self, shared: &Shared, now: Instant) -> Option<State> {
        let count = |total: u64, before: &mut u64, rate: &mut Rate| {
            for _ in *before..total {
                rate.tick(now);
            }
            *before = total;
        };
        count(shared.frames_in.load(Ordering::Relaxed), &mut self.frames_in, &mut self.input);
        count(shared.frames_out.load(Ordering::Relaxed), &mut self.frames_out, &mut self.output);
        self.share.look(shared.model_us.load(Ordering::Relaxed), now);
        let seen = &mut self.seen;
        seen.pipeline = match shared.ready_at.get() {
            Some(at) if shared.ready() => PipelineState::Ready(at),
            _ => PipelineState::Loading(shared.notice_since.get().unwrap_or(self.started)),
        };
        if let Some(at) = shared.last_input.get()
            && seen.last_input != Some(at)
        {
            seen.saw_input(&self.thresholds, at);
        }
        seen.last_audio = shared.last_audio.get();
        seen.last_output = shared.last_output.get();
        seen.last_error = shared.last_error.get();
        seen.input_fps = self.input.per_second(now);
        seen.output_fps = self.output.per_second(now);
        seen.stream_fps = shared.stream_fps();
        let state = match shared.held.load(Ordering::Acquire) && matches!(seen.pipeline, PipelineState::Ready(_)) {
            // That nothing but the overlay goes out is as it was asked for.
            true => {
                self.output.reset();
                State::Online
            }
            false => match evaluate(seen, &self.thresholds, now) {
                State::DegradedInput if self.no_input => State::Online,
                state => state,
            },
        };
        if state == self.state {
            return None;
        }
        self.state = state;
        self.state_since_ms = unix_ms();
        Some(state)
    }

    /// The state at the last look.
    pub fn state(&self) -> State {
        self.state
    }

    /// True when a load beside the stream began or ended since the last call.
    pub fn load_turned(&mut self, shared: &Shared) -> bool {
        let turns = shared.parameters.loading().1;
        std::mem::replace(&mut self.load_turns, turns) != turns
    }

    /// The status object, large fields included.
    pub fn status(&self, shared: &Shared) -> Map<String, Value> {
        self.object(shared, &shared.parameters.in_force(), true, true)
    }

    /// The status object of the next status event: fields that gateways remember are there once after each change.
    pub fn event(&mut self, shared: &Shared) -> Map<String, Value> {
        let current = shared.parameters.in_force();
        let params_changed = self.told_params.as_deref() != Some(current.hash.as_str());
        let restart_new = !self.told_restart;
        let mut status = self.object(shared, &current, params_changed, restart_new);
        status.insert("last_status_timestamp".into(), self.told_ms.into());
        self.told_ms = unix_ms();
        self.told_params = Some(current.hash);
        self.told_restart = true;
        status
    }

    fn object(&self, shared: &Shared, current: &Current, params: bool, restart: bool) -> Map<String, Value> {
        let now = Instant::now();
        let now_ms = unix_ms();
        let at = |moment: &Moment| {
            moment.get().map(|at| now_ms.saturating_sub(now.saturating_duration_since(at).as_millis() as u64))
        };
        let loading = shared.parameters.loading().0.map(|loading| {
            json!({
                "detail": loading.detail,
                "since": now_ms.saturating_sub(now.saturating_duration_since(loading.since).as_millis() as u64),
                "params_hash": loading.hash,
            })
        });
        let provider = *shared.provider.lock().unwrap_or_else(PoisonError::into_inner);
        let weir = json!({
            "provider": provider,
            "frames_in": shared.frames_in.load(Ordering::Relaxed),
            "frames_out": shared.frames_out.load(Ordering::Relaxed),
            "latency_ms": shared.meter.latency(),
            "dropped": shared.meter.totals().dropped,
            "loading": loading,
            "withheld": shared.meter.totals().frames_out.get(Kind::Withheld.label()).copied().unwrap_or(0),
            "notes": shared.notes(),
        });
        let resume = self.restarts.as_ref();
        let status = status_json(&Status {
            pipeline: shared.pipeline.name(),
            start_time_ms: resume.map_or(self.start_ms, |resume| resume.start_time_ms),
            state: self.state,
            last_state_update_ms: Some(self.state_since_ms),
            last_input_ms: at(&shared.last_input),
            input_fps: self.seen.input_fps,
            last_output_ms: at(&shared.last_output),
            output_fps: self.seen.output_fps,
            last_params_update_ms: Some(current.updated_ms),
            last_params: params.then_some(&*current.given),
            last_params_hash: Some(&current.hash),
            last_error_ms: at(&shared.last_error),
            last_error: self.last_error.as_deref(),
            last_restart_ms: resume.map(|resume| resume.restart_time_ms),
            last_restart_logs: resume.filter(|_| restart).map(|resume| resume.logs.as_slice()),
            restart_count: resume.map_or(0, |resume| resume.restart_count),
            weir: Some(&weir),
        });
        match status {
            Value::Object(status) => status,
            _ => Map::new(),
        }
    }

    /// How long the session has been running.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}
