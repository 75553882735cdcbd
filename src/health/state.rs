//! The state of a stream as a function of what was observed and of the time.

use std::time::{Duration, Instant};

/// What a stream looks like from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// No stream.
    #[default]
    Offline,
    /// The pipeline loads or reloads; the overlay is shown.
    Loading,
    /// Video comes in and goes out.
    Online,
    /// Too little comes in.
    DegradedInput,
    /// Too little goes out, or something failed a moment ago.
    DegradedInference,
    /// Nothing goes out although something comes in, or the pipeline cannot load.
    Error,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Offline, Self::Loading, Self::Online, Self::DegradedInput, Self::DegradedInference, Self::Error];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "OFFLINE",
            Self::Loading => "LOADING",
            Self::Online => "ONLINE",
            Self::DegradedInput => "DEGRADED_INPUT",
            Self::DegradedInference => "DEGRADED_INFERENCE",
            Self::Error => "ERROR",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the pipeline is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineState {
    /// It loads or reloads since then.
    Loading(Instant),
    /// It is warm since then.
    Ready(Instant),
    /// It cannot load.
    Failed,
}

/// When a session counts as what.
#[derive(Clone, Debug)]
pub struct Thresholds {
    /// Loading for longer is an error.
    pub load: Duration,
    /// Time that a stream has, from the moment at which it could produce output, before anything is said against it.
    pub grace: Duration,
    /// Input silent for longer is degraded.
    pub input_gap: Duration,
    /// Input of a session that had video, silent for longer: the session should have ended long ago.
    pub input_lost: Duration,
    /// Output silent for longer while input flows is degraded.
    pub output_gap: Duration,
    /// Output silent for longer while input flows is an error.
    pub output_lost: Duration,
    /// As `output_lost`, before the first output.
    pub first_output: Duration,
    /// A failure is shown for this long.
    pub error_shown: Duration,
    /// A restart is shown for this long.
    pub restart_shown: Duration,
    /// Share of the stream's own frame rate below which input is degraded.
    pub input_share: f64,
    /// Share of the input rate below which output is degraded …
    pub output_share: f64,
    /// … if it is also below this many frames a second.
    pub output_fps: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            load: Duration::from_secs(180),
            grace: Duration::from_secs(4),
            input_gap: Duration::from_secs(2),
            input_lost: Duration::from_secs(90),
            output_gap: Duration::from_secs(2),
            output_lost: Duration::from_secs(5),
            first_output: Duration::from_secs(10),
            error_shown: Duration::from_secs(15),
            restart_shown: Duration::from_secs(60),
            input_share: 0.5,
            output_share: 0.8,
            output_fps: 10.0,
        }
    }
}

/// What was seen of one session. An update of parameters is not among it: it neither hides an error nor grants time,
/// unless the pipeline reloads.
#[derive(Clone, Debug)]
pub struct Observations {
    /// What the pipeline is doing.
    pub pipeline: PipelineState,
    /// When the session began; `None` without one.
    pub stream_start: Option<Instant>,
    /// First picture of the current run of input; a pause longer than [`Thresholds::input_gap`] ends a run.
    pub input_since: Option<Instant>,
    /// Last picture that came in.
    pub last_input: Option<Instant>,
    /// Last audio that came in.
    pub last_audio: Option<Instant>,
    /// Last processed picture that was published; the overlay does not count.
    pub last_output: Option<Instant>,
    /// Last failure of a frame or an update.
    pub last_error: Option<Instant>,
    /// When the session was taken over from an engine that is gone.
    pub last_restart: Option<Instant>,
    /// Pictures a second that come in; `None` before the first measurement.
    pub input_fps: Option<f64>,
    /// Pictures a second that go out; `None` before the first measurement.
    pub output_fps: Option<f64>,
    /// Pictures a second by the stream's own time stamps; `None` when they do not tell.
    pub stream_fps: Option<f64>,
}

impl Observations {
    /// Nothing but the pipeline.
    pub fn new(pipeline: PipelineState) -> Self {
        Self {
            pipeline,
            stream_start: None,
            input_since: None,
            last_input: None,
            last_audio: None,
            last_output: None,
            last_error: None,
            last_restart: None,
            input_fps: None,
            output_fps: None,
            stream_fps: None,
        }
    }

    /// Notes a picture that came in at `now`.
    pub fn saw_input(&mut self, thresholds: &Thresholds, now: Instant) {
        let run_goes_on = self.last_input.is_some_and(|last| now.duration_since(last) <= thresholds.input_gap);
        if !run_goes_on {
            self.input_since = Some(now);
        }
        self.last_input = Some(now);
    }
}

fn age(now: Instant, then: Instant) -> Duration {
    now.saturating_duration_since(then)
}

fn within(now: Instant, then: Option<Instant>, time: Duration) -> bool {
    then.is_some_and(|then| age(now, then) <= time)
}

/// The state at `now`. The first that holds:
///
/// 1. the pipeline cannot load, or loads for too long: error;
/// 2. the pipeline loads: loading; no session: offline;
/// 3. input flows but nothing has gone out for too long: error. The time counts from the last output, the end of loading
///    or the begin of the current run of input, whichever is latest, so that a source that pauses is no fault of ours;
/// 4. video stayed away far longer than a session may live without it: error. Audio alone is no error;
/// 5. a failure or a restart a moment ago: degraded inference;
/// 6. no input, or less than half of what its own time stamps promise: degraded input;
/// 7. little output: degraded inference. A model that is slower than the input, but not slow, is online;
/// 8. online.
pub fn evaluate(seen: &Observations, limits: &Thresholds, now: Instant) -> State {
    let ready = match seen.pipeline {
        PipelineState::Failed => return State::Error,
        PipelineState::Loading(since) if age(now, since) > limits.load => return State::Error,
        PipelineState::Loading(_) => return State::Loading,
        PipelineState::Ready(since) => since,
    };
    let Some(start) = seen.stream_start else { return State::Offline };
    // From here on the session could have produced output.
    let able = start.max(ready);
    let last_input = seen.last_input.filter(|&at| at >= start);
    let last_output = seen.last_output.filter(|&at| at >= able);

    let input_age = age(now, last_input.unwrap_or(start));
    let input_flows = last_input.is_some() && input_age <= limits.input_gap;
    // How long output has been due.
    let due_since = [Some(able), seen.input_since, last_output].into_iter().flatten().max().unwrap_or(able);
    let waited = if last_input.is_some() { age(now, due_since) } else { Duration::ZERO };
    let patience = if last_output.is_some() { limits.output_lost } else { limits.first_output };
    if input_flows && waited > patience {
        return State::Error;
    }
    let audio_flows = within(now, seen.last_audio, limits.input_lost);
    if last_input.is_some() && input_age > limits.input_lost && !audio_flows {
        return State::Error;
    }
    if within(now, seen.last_error, limits.error_shown) || within(now, seen.last_restart, limits.restart_shown) {
        return State::DegradedInference;
    }
    let settling = last_output.is_none() && age(now, able) <= limits.grace;
    if !settling && input_age > limits.input_gap {
        return State::DegradedInput;
    }
    if let (Some(fps), Some(own)) = (seen.input_fps, seen.stream_fps)
        && fps < own * limits.input_share
    {
        return State::DegradedInput;
    }
    if !settling && waited > limits.output_gap {
        return State::DegradedInference;
    }
    if let (Some(output), Some(input), true) = (seen.output_fps, seen.input_fps, last_output.is_some())
        && output < limits.output_fps.min(input * limits.output_share)
    {
        return State::DegradedInference;
    }
    State::Online
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A session of a minute with everything in order; rows of tables change one thing.
    fn well(now: Instant) -> Observations {
        let ago = |seconds: f64| Some(now - Duration::from_secs_f64(seconds));
        Observations {
            pipeline: PipelineState::Ready(now - Duration::from_secs(600)),
            stream_start: ago(60.0),
            input_since: ago(59.0),
            last_input: ago(0.03),
            last_audio: ago(0.02),
            last_output: ago(0.05),
            last_error: None,
            last_restart: None,
            input_fps: Some(30.0),
            output_fps: Some(30.0),
            stream_fps: Some(30.0),
        }
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(100_000)
    }

    type Change = fn(&mut Observations, &dyn Fn(f64) -> Instant);

    #[test]
    fn the_table() {
        let now = far();
        let ago = move |seconds: f64| now - Duration::from_secs_f64(seconds);
        let rows: &[(&str, Change, State)] = &[
            ("all is well", |_, _| {}, State::Online),
            ("no stream", |o, _| o.stream_start = None, State::Offline),
            ("loading", |o, ago| o.pipeline = PipelineState::Loading(ago(179.0)), State::Loading),
            ("loading for ever", |o, ago| o.pipeline = PipelineState::Loading(ago(181.0)), State::Error),
            ("cannot load", |o, _| o.pipeline = PipelineState::Failed, State::Error),
            (
                "loading without a stream",
                |o, ago| {
                    o.stream_start = None;
                    o.pipeline = PipelineState::Loading(ago(1.0));
                },
                State::Loading,
            ),
            (
                "no rate measured yet",
                |o, _| {
                    o.input_fps = None;
                    o.output_fps = None;
                },
                State::Online,
            ),
            (
                "a camera of 12 frames a second",
                |o, _| {
                    o.input_fps = Some(12.0);
                    o.output_fps = Some(12.0);
                    o.stream_fps = Some(12.0);
                },
                State::Online,
            ),
            (
                "12 of 30 frames arrive",
                |o, _| {
                    o.input_fps = Some(12.0);
                    o.output_fps = Some(12.0);
                },
                State::DegradedInput,
            ),
            ("a model of 15 frames a second", |o, _| o.output_fps = Some(15.0), State::Online),
            ("a model of 9 frames a second", |o, _| o.output_fps = Some(9.0), State::DegradedInference),
            (
                "9 of 10 frames",
                |o, _| {
                    o.input_fps = Some(10.0);
                    o.stream_fps = Some(10.0);
                    o.output_fps = Some(9.0);
                },
                State::Online,
            ),
            (
                "7 of 10 frames",
                |o, _| {
                    o.input_fps = Some(10.0);
                    o.stream_fps = Some(10.0);
                    o.output_fps = Some(7.0);
                },
                State::DegradedInference,
            ),
            ("input pauses for 1.9 s", |o, ago| o.last_input = Some(ago(1.9)), State::Online),
            (
                "input pauses for 3 s",
                |o, ago| {
                    o.last_input = Some(ago(3.0));
                    o.last_output = Some(ago(3.0));
                },
                State::DegradedInput,
            ),
            (
                "input gone for 61 s",
                |o, ago| {
                    o.stream_start = Some(ago(300.0));
                    o.last_input = Some(ago(61.0));
                    o.last_output = Some(ago(61.0));
                    o.last_audio = None;
                },
                State::DegradedInput,
            ),
            (
                "input gone for 91 s and still not stopped",
                |o, ago| {
                    o.stream_start = Some(ago(300.0));
                    o.input_since = Some(ago(299.0));
                    o.last_input = Some(ago(91.0));
                    o.last_output = Some(ago(91.0));
                    o.last_audio = None;
                },
                State::Error,
            ),
            (
                "video gone for 91 s, audio flows",
                |o, ago| {
                    o.stream_start = Some(ago(300.0));
                    o.input_since = Some(ago(299.0));
                    o.last_input = Some(ago(91.0));
                    o.last_output = Some(ago(91.0));
                },
                State::DegradedInput,
            ),
            (
                "audio only",
                |o, _| {
                    o.input_since = None;
                    o.last_input = None;
                    o.last_output = None;
                    o.input_fps = None;
                    o.output_fps = None;
                },
                State::DegradedInput,
            ),
            ("output pauses for 3 s", |o, ago| o.last_output = Some(ago(3.0)), State::DegradedInference),
            ("output gone for 6 s", |o, ago| o.last_output = Some(ago(6.0)), State::Error),
            (
                "input comes back after half a minute",
                |o, ago| {
                    o.input_since = Some(ago(1.0));
                    o.last_output = Some(ago(31.0));
                },
                State::Online,
            ),
            (
                "input came back, output did not",
                |o, ago| {
                    o.input_since = Some(ago(6.0));
                    o.last_output = Some(ago(36.0));
                },
                State::Error,
            ),
            ("an error 14 s ago", |o, ago| o.last_error = Some(ago(14.0)), State::DegradedInference),
            ("an error 16 s ago", |o, ago| o.last_error = Some(ago(16.0)), State::Online),
            ("a restart 59 s ago", |o, ago| o.last_restart = Some(ago(59.0)), State::DegradedInference),
            ("a restart 61 s ago", |o, ago| o.last_restart = Some(ago(61.0)), State::Online),
            (
                "just started",
                |o, ago| {
                    *o = Observations::new(PipelineState::Ready(ago(600.0)));
                    o.stream_start = Some(ago(3.9));
                },
                State::Online,
            ),
            (
                "started, nothing comes",
                |o, ago| {
                    *o = Observations::new(PipelineState::Ready(ago(600.0)));
                    o.stream_start = Some(ago(4.1));
                },
                State::DegradedInput,
            ),
            (
                "started 30 s ago, first picture now",
                |o, ago| {
                    *o = Observations::new(PipelineState::Ready(ago(600.0)));
                    o.stream_start = Some(ago(30.0));
                    o.input_since = Some(ago(0.1));
                    o.last_input = Some(ago(0.1));
                },
                State::Online,
            ),
            (
                "no first output for 9 s",
                |o, ago| {
                    o.stream_start = Some(ago(9.0));
                    o.input_since = Some(ago(9.0));
                    o.last_output = None;
                },
                State::DegradedInference,
            ),
            (
                "no first output for 11 s",
                |o, ago| {
                    o.stream_start = Some(ago(11.0));
                    o.input_since = Some(ago(11.0));
                    o.last_output = None;
                },
                State::Error,
            ),
            (
                "reloaded a second ago after a minute of it",
                |o, ago| {
                    o.pipeline = PipelineState::Ready(ago(1.0));
                    o.last_output = Some(ago(60.0));
                },
                State::Online,
            ),
            (
                "reloaded a second ago, and an error before",
                |o, ago| {
                    o.pipeline = PipelineState::Ready(ago(1.0));
                    o.last_output = Some(ago(60.0));
                    o.last_error = Some(ago(2.0));
                },
                State::DegradedInference,
            ),
            (
                "times of the stream before",
                |o, ago| {
                    o.stream_start = Some(ago(1.0));
                    o.input_since = Some(ago(70.0));
                    o.last_input = Some(ago(65.0));
                    o.last_output = Some(ago(65.0));
                },
                State::Online,
            ),
        ];
        for (name, change, expected) in rows {
            let mut seen = well(now);
            change(&mut seen, &ago);
            assert_eq!(evaluate(&seen, &Thresholds::default(), now), *expected, "{name}");
        }
    }

    #[test]
    fn a_run_of_input_begins_after_a_pause() {
        let limits = Thresholds::default();
        let start = far();
        let mut seen = Observations::new(PipelineState::Ready(start));
        seen.saw_input(&limits, start);
        seen.saw_input(&limits, start + Duration::from_secs(2));
        assert_eq!(seen.input_since, Some(start));
        let later = start + Duration::from_millis(4_001);
        seen.saw_input(&limits, later);
        assert_eq!((seen.input_since, seen.last_input), (Some(later), Some(later)));
    }

    fn moment() -> impl Strategy<Value = Option<u64>> {
        proptest::option::of(0u64..200_000)
    }

    proptest! {
        #[test]
        fn some_things_always_hold(
            loading in any::<bool>(),
            since in 0u64..400_000,
            times in proptest::collection::vec(moment(), 7),
            fps in proptest::collection::vec(proptest::option::of(0.0f64..60.0), 3),
        ) {
            let now = far();
            let back = |ms: Option<u64>| ms.map(|ms| now - Duration::from_millis(ms));
            let at = now - Duration::from_millis(since);
            let seen = Observations {
                pipeline: if loading { PipelineState::Loading(at) } else { PipelineState::Ready(at) },
                stream_start: back(times[0]),
                input_since: back(times[1]),
                last_input: back(times[2]),
                last_audio: back(times[3]),
                last_output: back(times[4]),
                last_error: back(times[5]),
                last_restart: back(times[6]),
                input_fps: fps[0],
                output_fps: fps[1],
                stream_fps: fps[2],
            };
            let limits = Thresholds::default();
            let state = evaluate(&seen, &limits, now);
            prop_assert_eq!(state == State::Loading, loading && since <= 180_000);
            prop_assert_eq!(state == State::Offline, !loading && times[0].is_none());
            let recent = times[5].is_some_and(|ms| ms <= 15_000) || times[6].is_some_and(|ms| ms <= 60_000);
            if recent {
                prop_assert!(state != State::Online && state != State::DegradedInput);
            }
            if times[2].is_none() && !loading {
                prop_assert!(state != State::Error, "no input is not our fault");
            }
        }
    }
}
