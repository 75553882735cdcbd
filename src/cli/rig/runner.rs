//! The runner under test: `weir serve` as a child, exactly as an orchestrator's container would run it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::lab::{Channel, Channels};
use super::{RigError, call, procs};
use crate::metering::Since;
use crate::pipeline::Params;

/// Log lines that are kept for a report of what went wrong.
const KEPT: usize = 200;
/// Longest kept line in bytes.
const LONGEST: usize = 2000;
/// Longest wait for the port to be bound.
const BIND_WAIT: Duration = Duration::from_secs(10);
/// What `serve` logs once it listens.
const LISTENING: &str = "Listening on http://";
/// Time between two looks while something is awaited.
const LOOK: Duration = Duration::from_millis(2);

/// How to run a runner.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// The `weir` program.
    pub program: PathBuf,
    /// The pipeline to load.
    pub pipeline: String,
    /// Parameters to load it with.
    pub params: Params,
    /// Time between two status events.
    pub status: Duration,
    /// Longest wait for it to be warm.
    pub load_wait: Duration,
    /// Copies the runner's log to standard error.
    pub show_log: bool,
    /// Further flags of `weir serve`; they win over the rig's own.
    pub flags: Vec<String>,
}

/// How long the runner took to be there, in milliseconds after its process was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StartTimes {
    /// Until `/health` was answered for the first time.
    pub health_ms: f64,
    /// Until it said `IDLE`.
    pub idle_ms: f64,
}

/// What a runner says of its newest stream. Empty objects where it says nothing.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Sums over the stream, as `/metering/streams` gives them.
    pub stream: Value,
    /// Its newest interval.
    pub interval: Value,
}

#[derive(Clone, Default)]
struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, mut line: String) {
        let mut end = line.len().min(LONGEST);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// A running `weir serve`. Dropping it kills the process; its engine dies with it.
pub struct Runner {
    child: Child,
    pid: u32,
    address: SocketAddr,
    tail: Tail,
    _log: AbortOnDropHandle<()>,
    times: StartTimes,
    provider: Option<String>,
    began: Instant,
}

impl Runner {
    /// Starts the process and waits until `/health` says `IDLE`.
    ///
    /// # Errors
    /// It does not start, ends early, or is not warm in time; the error carries its last log lines.
    pub async fn start(config: &RunnerConfig) -> Result<Self, RigError> {
        let mut command = Command::new(&config.program);
        let (params, status) = (Value::Object(config.params.clone()), format!("{}ms", config.status.as_millis()));
        let own = [
            ("--host", "127.0.0.1".to_owned()),
            ("--port", "0".to_owned()),
            ("--log-format", "text".to_owned()),
            ("--log-level", "info".to_owned()),
            ("--model-id", config.pipeline.clone()),
            ("--engine-initial-params", params.to_string()),
            ("--engine-status", status),
        ];
        let given = |flag: &str| config.flags.iter().any(|given| given.split('=').next() == Some(flag));
        command
            .arg("serve")
            .args(own.iter().filter(|(flag, _)| !given(flag)).flat_map(|(flag, value)| [*flag, value.as_str()]))
            .args(&config.flags)
            // The rig is the only caller, and it has no token.
            .env_remove("AUTH_TOKEN")
            .env_remove("WEIR_SERVE_AUTH_TOKEN")
            .env_remove("SUBVARIANT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the rig alone, which ends the runner in order.
            .process_group(0)
            .kill_on_drop(true);
        crate::supervisor::die_with_parent(&mut command);
        let began = Instant::now();
        let mut child = command
            .spawn()
            .map_err(|source| RigError::Spawn { program: config.program.display().to_string(), source })?;
        let pid = child.id().unwrap_or(0);
        let tail = Tail::default();
        let (tell, mut bound) = watch::channel(None);
        let log = match child.stderr.take() {
            Some(stderr) => tokio::spawn(copy(stderr, tail.clone(), tell, config.show_log)),
            None => return Err(RigError::Runner("its log cannot be read".into(), Vec::new())),
        };
        let log = AbortOnDropHandle::new(log);
        let address = tokio::time::timeout(BIND_WAIT, bound.wait_for(Option::is_some)).await;
        let address = match address {
            Ok(Ok(address)) => *address,
            Ok(Err(_)) => {
                // Its log ended, so it ends too: a moment later there is an exit status to tell.
                let _ = tokio::time::timeout(BIND_WAIT, child.wait()).await;
                None
            }
            Err(_) => None,
        };
        let Some(address) = address else {
            return Err(RigError::Runner(gone(&mut child, "did not listen"), lines(&tail)));
        };
        let times = StartTimes::default();
        let mut runner = Self { child, pid, address, tail, _log: log, times, provider: None, began };
        runner.times.health_ms = runner.until(BIND_WAIT, "answer", |_| true).await?;
        runner.times.idle_ms = runner.until(config.load_wait, "become IDLE", |word| word == "IDLE").await?;
        runner.provider = runner.ask_health().await?["provider"].as_str().map(str::to_owned);
        Ok(runner)
    }

    /// Waits for a word of `/health`; returns the milliseconds since the start of the process.
    async fn until(&mut self, most: Duration, what: &str, wanted: impl Fn(&str) -> bool) -> Result<f64, RigError> {
        let deadline = Instant::now() + most;
        loop {
            if let Ok(word) = self.health().await {
                if wanted(&word) {
                    return Ok(self.began.elapsed().as_secs_f64() * 1000.0);
                }
                if word == "ERROR" {
                    return Err(RigError::Runner("says ERROR".into(), self.log()));
                }
            }
            if Instant::now() >= deadline || self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return Err(RigError::Runner(gone(&mut self.child, &format!("did not {what}")), self.log()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How long it took to be there.
    pub fn times(&self) -> StartTimes {
        self.times
    }

    /// The newest lines of its log.
    pub fn log(&self) -> Vec<String> {
        lines(&self.tail)
    }

    /// Where the graphs of its pipeline run, as it said once it was warm; `None` where the pipeline has no graph.
    pub fn provider(&self) -> Option<&str> {
        self.provider.as_deref()
    }

    async fn ask_health(&self) -> Result<Value, RigError> {
        let (_, body) = call::request(self.address, Method::GET, "/health", None).await.map_err(RigError::Socket)?;
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The word of `/health`.
    ///
    /// # Errors
    /// No answer, or one without a word.
    pub async fn health(&self) -> Result<String, RigError> {
        let body = self.ask_health().await?;
        let word = body.get("status").and_then(Value::as_str);
        word.map(str::to_owned).ok_or_else(|| RigError::Runner("answers /health without a status".into(), Vec::new()))
    }

    /// The status object.
    ///
    /// # Errors
    /// No answer, or one that is no JSON.
    pub async fn status(&self) -> Result<Value, RigError> {
        let (_, body) =
            call::request(self.address, Method::GET, "/api/status", None).await.map_err(RigError::Socket)?;
        serde_json::from_slice(&body)
            .map_err(|error| RigError::Runner(format!("answers /api/status with no JSON ({error})"), Vec::new()))
    }

    /// What happened to the frames of the stream `id` from the number `after` on.
    ///
    /// # Errors
    /// No answer, or none that can be read.
    pub async fn frames(&self, id: &str, after: u64) -> Result<Since, RigError> {
        let path = format!("/metering/streams/{id}/frames?after={after}");
        let (_, body) = call::request(self.address, Method::GET, &path, None).await.map_err(RigError::Socket)?;
        serde_json::from_slice(&body)
            .map_err(|error| RigError::Runner(format!("answers {path} with something else ({error})"), Vec::new()))
    }

    /// What it says of the newest stream of that manifest id.
    pub async fn account(&self, manifest_id: &str) -> Account {
        let get = async |path: &str, at: &str| -> Value {
            let answer = call::request(self.address, Method::GET, path, None).await;
            let body: Value = answer.ok().and_then(|(_, body)| serde_json::from_slice(&body).ok()).unwrap_or_default();
            body.pointer(at).cloned().unwrap_or_default()
        };
        let streams = get("/metering/streams", "/streams").await;
        let named = |stream: &&Value| stream["manifest_id"] == manifest_id;
        let stream = streams.as_array().into_iter().flatten().find(named).cloned().unwrap_or_default();
        let path = format!("/metering/streams/{}/intervals?last=1", stream["session"]);
        let interval = get(&path, "/intervals/0").await;
        Account { stream, interval }
    }

    /// Orders a stream over `channels`, as an orchestrator does.
    ///
    /// # Errors
    /// It refuses; the error carries its answer.
    pub async fn order(&self, channels: &Channels, pipeline: &str, params: &Params) -> Result<(), RigError> {
        let body = json!({
            "subscribe_url": channels.url(Channel::Input),
            "publish_url": channels.url(Channel::Output),
            "control_url": channels.url(Channel::Control),
            "events_url": channels.url(Channel::Events),
            "model_id": pipeline,
            "params": params,
            "gateway_request_id": channels.manifest_id(),
            "manifest_id": channels.manifest_id(),
            "stream_id": "",
        });
        let (status, answer) = call::request(self.address, Method::POST, "/live-video-to-video", Some(&body))
            .await
            .map_err(RigError::Socket)?;
        if status.is_success() {
            return Ok(());
        }
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let message = answer.pointer("/detail/msg").and_then(Value::as_str).map(str::to_owned);
        Err(RigError::Refused { status: status.as_u16(), message: message.unwrap_or_else(|| answer.to_string()) })
    }

    /// Orders a stream over `channels` as an orchestrator orders one of a worker that registered itself.
    ///
    /// # Errors
    /// It refuses; the error carries its answer.
    pub async fn order_worker(&self, channels: &Channels, params: &Params) -> Result<(), RigError> {
        let body = json!({
            "gateway_request_id": channels.manifest_id(),
            "subscribe_url": channels.url(Channel::Input),
            "publish_url": channels.url(Channel::Output),
            "params": params,
        });
        let (status, answer) =
            call::request(self.address, Method::POST, "/stream/start", Some(&body)).await.map_err(RigError::Socket)?;
        if status.is_success() {
            return Ok(());
        }
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let message = answer["message"].as_str().map(str::to_owned);
        Err(RigError::Refused { status: status.as_u16(), message: message.unwrap_or_else(|| answer.to_string()) })
    }

    /// The process id of its engine.
    pub fn engine(&self) -> Option<u32> {
        procs::children_with(self.pid, "engine").ok()?.first().copied()
    }

    /// Sends SIGKILL to the engine, as a crash would end it. Returns its process id; `None` if there is none now.
    pub fn kill_engine(&self) -> Option<u32> {
        let pid = self.engine()?;
        kill(Pid::from_raw(i32::try_from(pid).ok()?), Signal::SIGKILL).ok()?;
        Some(pid)
    }

    /// Waits until `/health` says `IDLE`, at most for `most`. False if it does not.
    pub async fn idle(&self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        while Instant::now() < deadline {
            if self.health().await.is_ok_and(|word| word == "IDLE") {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Ends the process with SIGTERM; with SIGKILL after six seconds. True if it ended by itself with code 0.
    pub async fn stop(mut self) -> bool {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        match tokio::time::timeout(Duration::from_secs(6), self.child.wait()).await {
            Ok(status) => status.is_ok_and(|status| status.success()),
            Err(_) => {
                let _ = self.child.kill().await;
                false
            }
        }
    }
}

fn lines(tail: &Tail) -> Vec<String> {
    tail.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// What became of the process, for a message that begins with "the runner".
fn gone(child: &mut Child, otherwise: &str) -> String {
    match child.try_wait() {
        Ok(Some(status)) => format!("ended with {status}"),
        _ => format!("{otherwise} in time"),
    }
}

async fn copy(stderr: ChildStderr, tail: Tail, bound: watch::Sender<Option<SocketAddr>>, show: bool) {
    let mut lines = BufReader::new(stderr).lines();
    // What is no text ends the copy; the runner writes nothing else.
    while let Ok(Some(line)) = lines.next_line().await {
        if bound.borrow().is_none()
            && let Some(address) = listening(&line)
        {
            bound.send_replace(Some(address));
        }
        if show {
            crate::cli::complain(&line);
        }
        tail.push(line);
    }
}

/// The address in the line that says where the runner listens.
fn listening(line: &str) -> Option<SocketAddr> {
    let rest = line.split_once(LISTENING)?.1;
    let end = rest.find(|c: char| !c.is_ascii_digit() && !".:[]abcdefABCDEF".contains(c)).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_log() {
        for (line, address) in [
            ("2026 INFO Listening on http://127.0.0.1:4321", Some("127.0.0.1:4321")),
            (r#"{"message":"Listening on http://127.0.0.1:80","x":1}"#, Some("127.0.0.1:80")),
            ("Listening on http://[::1]:9000 now", Some("[::1]:9000")),
            ("\u{1b}[32mINFO\u{1b}[0m Listening on http://127.0.0.1:7\u{1b}[0m", Some("127.0.0.1:7")),
            ("Listening on http://", None),
            ("nothing", None),
        ] {
            assert_eq!(listening(line), address.map(|text| text.parse().expect(text)), "{line}");
        }
    }

    #[test]
    fn the_log_is_bounded() {
        let tail = Tail::default();
        for n in 0..KEPT + 10 {
            tail.push(format!("{n} {}", "ä".repeat(LONGEST)));
        }
        let lines = lines(&tail);
        assert_eq!(lines.len(), KEPT);
        assert!(lines.iter().all(|line| line.len() <= LONGEST));
        assert!(lines[0].starts_with("10 "));
    }

    #[tokio::test]
    async fn a_program_that_ends_at_once_is_told_with_its_last_words() {
        let config = RunnerConfig {
            program: "/bin/false".into(),
            pipeline: "noop".into(),
            params: Params::new(),
            status: Duration::from_secs(1),
            load_wait: Duration::from_secs(1),
            show_log: false,
            flags: Vec::new(),
        };
        let Err(error) = Runner::start(&config).await else { panic!("it cannot have started") };
        assert!(error.to_string().contains("exit status: 1"), "{error}");
        let config = RunnerConfig { program: "/nowhere/weir".into(), ..config };
        assert!(matches!(Runner::start(&config).await, Err(RigError::Spawn { .. })));
    }
}
