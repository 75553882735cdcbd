//! The engine child: its start, its watch, its replacement and its end.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::choice::Wanted;
use super::hub::{Hub, unix_ms};
use super::restarts::{Fault, Restarts, Verdict, Watch};
use super::tail::{self, Tail};
use crate::link::{FromEngine, LinkError, Phase, Reader, StreamRequest, ToEngine, Writer};

/// Messages on their way to the engine.
const QUEUE: usize = 64;
/// How often the watch looks.
const LOOK: Duration = Duration::from_millis(250);
/// How long an engine without streams may take to end for another pipeline.
const SWITCH: Duration = Duration::from_secs(2);
/// How long an engine that closed its output may take to end.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// How long a killed engine may take to be gone.
const KILL_WAIT: Duration = Duration::from_millis(500);

/// How long the last engine may take to delete the channels of lost sessions.
const ABANDON_WAIT: Duration = Duration::from_secs(3);

/// What plays the engine.
#[derive(Clone)]
pub enum EngineCommand {
    /// A child process that speaks [`crate::link`] on its standard input and output. It is killed when this process ends.
    Process {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<OsString>,
    },
    /// Something in this process that speaks over the given stream. Called once for every life; the stream closes when
    /// the engine is to die.
    InProcess(Arc<dyn Fn(DuplexStream) + Send + Sync>),
}

/// Why an engine had to be replaced.
#[derive(Debug)]
struct Failure {
    /// One word for the counter.
    cause: &'static str,
    /// For people.
    message: String,
    /// The library said that loading cannot work.
    load: bool,
}

impl Failure {
    fn new(cause: &'static str, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), load: false }
    }
}

/// A running engine.
struct Life {
    reader: Reader<Box<dyn AsyncRead + Send + Unpin>, FromEngine>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    child: Option<Child>,
    copy: Option<AbortOnDropHandle<()>>,
    tail: Tail,
}

impl Life {
    fn begin(command: &EngineCommand) -> std::io::Result<Self> {
        let tail = Tail::default();
        match command {
            EngineCommand::InProcess(begin) => {
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                begin(theirs);
                let (reader, writer) = tokio::io::split(ours);
                Ok(Self {
                    reader: Reader::new(Box::new(reader)),
                    writer: Box::new(writer),
                    child: None,
                    copy: None,
                    tail,
                })
            }
            EngineCommand::Process { program, arguments } => {
                let mut command = Command::new(program);
                command
                    .args(arguments)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    // Ctrl-C in a terminal is for the supervisor alone, which ends the engine in order.
                    .process_group(0)
                    .kill_on_drop(true);
                super::ffi::die_with_parent(&mut command);
                let mut child = command.spawn()?;
                let missing = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                let stdin = child.stdin.take().ok_or_else(missing)?;
                let stdout = child.stdout.take().ok_or_else(missing)?;
                let stderr = child.stderr.take().ok_or_else(missing)?;
                let copy = AbortOnDropHandle::new(tokio::spawn(tail::copy(stderr, tail.clone(), tokio::io::stderr())));
                Ok(Self {
                    reader: Reader::new(Box::new(stdout)),
                    writer: Box::new(stdin),
                    child: Some(child),
                    copy: Some(copy),
                    tail,
                })
            }
        }
    }

    /// Kills what still runs and collects its last words. Says how it ended.
    async fn end(mut self, kill: bool) -> String {
        drop(self.writer);
        let mut how = "closed the link".to_owned();
        if let Some(child) = &mut self.child {
            let exited = if kill { None } else { timeout(EXIT_WAIT, child.wait()).await.ok() };
            how = match exited {
                Some(Ok(status)) => format!("ended with {status}"),
                Some(Err(error)) => format!("ended in a way that cannot be told ({error})"),
                None => match timeout(KILL_WAIT, child.kill()).await {
                    Ok(Ok(())) => "was killed".to_owned(),
                    Ok(Err(error)) => format!("could not be killed ({error})"),
                    // Inside the driver, most likely. It is collected when it comes back.
                    Err(_) => "does not die".to_owned(),
                },
            };
        }
        if let Some(copy) = self.copy.take() {
            // The pipe of a dead child ends; one that it handed on to a child of its own may not.
            let _ = timeout(EXIT_WAIT, copy).await;
        }
        how
    }
}

/// Keeps an engine running until the hub is to end, then ends it in order.
pub(super) async fn keep(hub: Arc<Hub>, command: EngineCommand, mut config: Value, children: Children) {
    let mut pipelines = Pipelines::new(&hub, &config);
    let window = Duration::from_millis(hub.config.restart_window_ms);
    let mut restarts = Restarts::new(hub.config.max_failures, window);
    let mut was_warm = false;
    let mut before: Option<Before> = None;
    loop {
        if pipelines.ordered() {
            was_warm = false;
        }
        config["initial_params"] = Value::Object(pipelines.now.params.clone());
        hub.book().engine_starts(Instant::now());
        info!("Starting live-video-to-video pipeline");
        let (failure, logs) = match Life::begin(&command) {
            Err(error) => (Failure::new("spawn", format!("the engine cannot be started: {error}")), Vec::new()),
            Ok(life) => {
                let tail = life.tail.clone();
                children.set(life.child.as_ref().and_then(Child::id));
                let result = live(&hub, life, &config, before.take(), (&mut was_warm, &pipelines.orders)).await;
                children.set(None);
                match result {
                    Ok(Told::End) => return,
                    Ok(Told::Switch) if hub.ending.is_cancelled() => return,
                    Ok(Told::Switch) => {
                        let notes = hub.book().engine_gone(restarts.total(), Instant::now());
                        hub.note(notes);
                        continue;
                    }
                    Err(failure) => (failure, tail.lines()),
                }
            }
        };
        hub.metrics.failures.with_label_values(&[failure.cause]).inc();
        // What was ordered and never worked gives way to what did.
        if !was_warm
            && !hub.ending.is_cancelled()
            && let Some(name) = pipelines.back()
        {
            warn!(reason = failure.message, pipeline = name, "The pipeline cannot be loaded; the one before is.");
            let notes = {
                let mut book = hub.book();
                book.switch_back(&name);
                book.engine_gone(restarts.total(), Instant::now())
            };
            hub.note(notes);
            hub.choice.failed(Some(failure.message));
            continue;
        }
        let verdict = restarts.failed(Instant::now());
        let notes = hub.book().engine_gone(restarts.total(), Instant::now());
        hub.note(notes);
        if hub.ending.is_cancelled() {
            return;
        }
        // A pipeline that never loaded will not load the next time either.
        let hopeless = failure.load && !was_warm;
        match verdict {
            Verdict::Again(delay) if !hopeless => {
                warn!(
                    reason = failure.message,
                    failures = restarts.recent(),
                    delay_ms = delay.as_millis() as u64,
                    "The engine is replaced."
                );
                before = Some(Before { reason: failure.message, logs, restarted_ms: unix_ms() });
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = hub.ending.cancelled() => return,
                }
            }
            _ => {
                let message = if hopeless {
                    failure.message
                } else {
                    let count = restarts.recent();
                    format!(
                        "the engine failed {count} times within {} s, at last: {}",
                        window.as_secs(),
                        failure.message
                    )
                };
                error!(reason = message, "The engine is given up.");
                let lost = hub.book().orders();
                let notes = hub.book().give_up(&message, Instant::now());
                hub.note(notes);
                abandon(&hub, &command, &config, lost, message, &children).await;
                hub.ending.cancelled().await;
                return;
            }
        }
    }
}

/// What is loaded, what was before, and what is ordered.
struct Pipelines {
    now: Wanted,
    /// What to go back to.
    before: Option<Wanted>,
    /// What the settings say.
    configured: Wanted,
    orders: watch::Receiver<Option<Wanted>>,
}

impl Pipelines {
    fn new(hub: &Hub, config: &Value) -> Self {
        let params = config["initial_params"].as_object().cloned().unwrap_or_default();
        let configured = Wanted { pipeline: hub.config.model_id.clone(), params };
        Self { now: configured.clone(), before: None, configured, orders: hub.choice.orders() }
    }

    /// Takes an order that was given. False when there is none.
    fn ordered(&mut self) -> bool {
        if !self.orders.has_changed().unwrap_or(false) {
            return false;
        }
        let Some(mut wanted) = self.orders.borrow_and_update().clone() else { return false };
        if wanted.params.is_empty() && wanted.pipeline == self.configured.pipeline {
            wanted.params.clone_from(&self.configured.params);
        }
        self.before = Some(std::mem::replace(&mut self.now, wanted));
        true
    }

    /// Goes back to the one before, once. Gives its name.
    fn back(&mut self) -> Option<String> {
        self.now = self.before.take()?;
        Some(self.now.pipeline.clone())
    }
}

/// Lets one last engine, which loads nothing, delete the channels of lost sessions.
async fn abandon(
    hub: &Hub,
    command: &EngineCommand,
    config: &Value,
    requests: Vec<StreamRequest>,
    message: String,
    children: &Children,
) {
    if requests.is_empty() {
        return;
    }
    let mut life = match Life::begin(command) {
        Ok(life) => life,
        Err(error) => return error!("Channels of lost sessions cannot be deleted: {error}"),
    };
    children.set(life.child.as_ref().and_then(Child::id));
    let order = ToEngine::Abandon { requests, pipeline: hub.model_id(), config: config.clone(), message };
    let mut writer = Writer::<_, ToEngine>::new(&mut life.writer);
    let served = async {
        writer.send(&order).await?;
        while life.reader.next().await?.is_some() {}
        Ok::<_, LinkError>(())
    };
    let in_time = timeout(ABANDON_WAIT, served).await;
    if let Ok(Err(error)) = &in_time {
        warn!("The last engine broke off: {error}");
    }
    life.end(in_time.is_err()).await;
    children.set(None);
}

/// Why the engine before is gone.
struct Before {
    reason: String,
    logs: Vec<String>,
    restarted_ms: u64,
}

/// Process ids of children that have their own waiter.
#[derive(Clone, Debug, Default)]
pub(super) struct Children(Arc<std::sync::atomic::AtomicU32>);

impl Children {
    fn set(&self, pid: Option<u32>) {
        self.0.store(pid.unwrap_or(0), std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether `pid` is one of them.
    pub fn has(&self, pid: u32) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed) == pid
    }
}

/// Why an engine was told to end.
enum Told {
    /// The process ends.
    End,
    /// Another pipeline is to be loaded.
    Switch,
}

/// One life of an engine, from its first message to its end. `Ok` when it ended because it was told to.
async fn live(
    hub: &Arc<Hub>,
    mut life: Life,
    config: &Value,
    mut before: Option<Before>,
    (was_warm, orders): (&mut bool, &watch::Receiver<Option<Wanted>>),
) -> Result<Told, Failure> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let writer = std::mem::replace(&mut life.writer, Box::new(tokio::io::sink()));
    let writing = AbortOnDropHandle::new(tokio::spawn(write(queue, Writer::new(writer))));
    let load = ToEngine::Load { pipeline: hub.model_id(), config: config.clone() };
    // The queue is empty.
    let _ = sender.try_send(load);

    let hang = Duration::from_millis(hub.config.hang_ms);
    let mut watch = Watch::new(Instant::now(), hang, Duration::from_millis(hub.config.load_ms));
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let grace = Duration::from_millis(hub.config.shutdown_ms);
    let mut ending: Option<Instant> = None;
    let mut told = Told::End;
    let mut load_failed: Option<String> = None;

    let end = loop {
        tokio::select! {
            message = life.reader.next() => match message {
                Ok(Some(message)) => {
                    watch.saw(&message, Instant::now());
                    match &message {
                        FromEngine::Hello { pid } => {
                            info!(pid, "The engine is there.");
                            greet(hub, &sender, before.take());
                        }
                        FromEngine::Phase(Phase::Ready { .. }) => *was_warm = true,
                        FromEngine::Phase(Phase::Failed { message }) => load_failed = Some(message.clone()),
                        _ => {}
                    }
                    hub.engine_said(message);
                }
                Ok(None) => break End::Exit,
                Err(error) => break End::Broken(error),
            },
            _ = look.tick() => {
                let now = Instant::now();
                // The order stays unseen: who starts the next engine takes it.
                if ending.is_none() && orders.has_changed().unwrap_or(false) {
                    told = Told::Switch;
                    let _ = sender.try_send(ToEngine::Shutdown { grace_ms: SWITCH.as_millis() as u64 });
                    ending = Some(now + SWITCH + LOOK);
                }
                if ending.is_some_and(|until| now >= until) {
                    break End::Late;
                }
                if let (None, Some(fault)) = (ending, watch.fault(now)) {
                    break End::Fault(fault);
                }
            }
            () = hub.ending.cancelled(), if ending.is_none() => {
                // Asked to be done a little earlier than it is killed.
                let told = grace.saturating_sub(3 * LOOK);
                let _ = sender.try_send(ToEngine::Shutdown { grace_ms: told.as_millis() as u64 });
                ending = Some(Instant::now() + grace.saturating_sub(2 * LOOK));
            }
        }
    };
    // Nobody may believe that a message still gets through: the queue is gone before the book says so.
    hub.set_link(None);
    drop(sender);
    drop(writing);
    let kill = !matches!(end, End::Exit);
    let how = life.end(kill).await;
    match end {
        _ if ending.is_some() => {
            if matches!(end, End::Late) {
                warn!("The engine did not end in time and was killed.");
            }
            Ok(told)
        }
        End::Exit | End::Late => Err(match load_failed {
            Some(message) => Failure { cause: "load", message, load: true },
            None => Failure::new("exit", format!("the engine {how}")),
        }),
        End::Broken(error) => Err(Failure::new("link", error.to_string())),
        End::Fault(fault @ Fault::SlowLoad(_)) => Err(Failure::new("slow_load", fault.to_string())),
        End::Fault(fault) => Err(Failure::new("hang", fault.to_string())),
    }
}

/// How a life ended.
enum End {
    /// It closed the link.
    Exit,
    /// It sent what is no message.
    Broken(LinkError),
    /// It is taken for dead.
    Fault(Fault),
    /// It did not end when told to.
    Late,
}

/// Hands the sessions of the engine before to the new one, then lets requests in.
fn greet(hub: &Arc<Hub>, sender: &mpsc::Sender<ToEngine>, before: Option<Before>) {
    let before = before.unwrap_or_else(|| Before { reason: String::new(), logs: Vec::new(), restarted_ms: unix_ms() });
    let messages = hub.book().engine_there(&before.reason, &before.logs, before.restarted_ms);
    for message in messages {
        if sender.try_send(message).is_err() {
            warn!("A stream could not be handed to the new engine: it does not read.");
        }
    }
    hub.set_link(Some(sender.clone()));
}

async fn write(mut queue: mpsc::Receiver<ToEngine>, mut writer: Writer<Box<dyn AsyncWrite + Send + Unpin>, ToEngine>) {
    while let Some(message) = queue.recv().await {
        if let Err(error) = writer.send(&message).await {
            // The reader sees the end of the link and says what became of the engine.
            warn!(%error, "The engine does not take messages any more.");
            return;
        }
    }
}
