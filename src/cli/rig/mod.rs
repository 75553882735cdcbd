//! A whole network on this machine: an orchestrator's trickle server, a real runner, a source and readers. What the demo
//! shows, the benchmark measures and the tests break.
//!
//! ```text
//! source ──> <mid> ──> weir serve ──> <mid>-out ──> reader
//!              └──> reader (the floor)
//! control ─> <mid>-control ─┘  └─> <mid>-events ──> events
//! ```
//!
//! The runner is a child process of its own, started and ordered exactly as an orchestrator does it, so nothing of the rig
//! is in its figures. Every task, thread and process ends with the [`Rig`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::frame::Size;
use crate::media::MediaError;
use crate::pipeline::Params;
use crate::trickle::TrickleError;

pub mod beside;
pub mod call;
pub mod control;
pub mod decode;
pub mod events;
pub mod lab;
pub mod ledger;
mod playback;
pub mod procs;
pub mod proxy;
pub mod reader;
pub mod runner;
pub mod source;
pub mod stop;
pub mod words;

use beside::Beside;
use control::Control;
use events::Events;
use lab::{Channel, Channels, Lab};
use ledger::{Ledger, Summary};
use proxy::Proxy;
use reader::{Found, Reader, Side, Taps};
use runner::{Account, Runner, RunnerConfig, StartTimes};
use source::Source;

/// How long frames under way may take to come out after the last one was sent.
const DRAIN: Duration = Duration::from_secs(3);
/// How long the runner may take to end a stream.
const END: Duration = Duration::from_secs(6);

/// What can go wrong with a rig.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// No socket, thread or answer.
    #[error("the system does not go along: {0}")]
    Socket(std::io::Error),
    /// The program does not start.
    #[error("{program} does not start: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The runner is not as it should be; with the last lines of its log.
    #[error("the runner {0}{log}", log = tail(.1))]
    Runner(String, Vec<String>),
    /// It refused the stream.
    #[error("the runner refuses the stream ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// The page cannot be served.
    #[error("{address} cannot be used for the page: {source}; choose another port with --port")]
    Page {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The output cannot be kept.
    #[error("the recording cannot be written: {0}")]
    Record(std::io::Error),
    /// A channel.
    #[error(transparent)]
    Trickle(#[from] TrickleError),
    /// A codec or a file.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// `/proc`.
    #[error("processes cannot be measured: {0}")]
    Process(#[from] procfs::ProcError),
    /// A stream that should go on has ended.
    #[error("the stream ended: {0}")]
    Ended(String),
}

/// The end of a log, for a message.
fn tail(lines: &[String]) -> String {
    let from = lines.len().saturating_sub(12);
    lines[from..].iter().map(|line| format!("\n  | {line}")).collect()
}

/// Which way a runner reaches the trickle server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// By itself.
    #[default]
    Straight,
    /// Every channel over a line that can be cut and held.
    All,
    /// The output alone over such a line.
    Output,
}

/// What a rig is made of.
pub struct Setup {
    /// The runner.
    pub runner: RunnerConfig,
    /// The source, opened.
    pub source: source::Ready,
    /// Which way the runner reaches the server.
    pub route: Route,
    /// Reads the input channel back, which is the floor of the latency.
    pub floor: bool,
    /// What the reader of the input does besides; needs `floor`.
    pub input: Taps,
    /// What the reader of the output does besides.
    pub output: Taps,
}

/// A stream through a real runner.
pub struct Rig {
    lab: Lab,
    runner: Runner,
    channels: Channels,
    ledger: Arc<Ledger>,
    events: Events,
    control: Control,
    source: Source,
    floor: Option<Reader>,
    output: Reader,
    params: Params,
    ordered: Instant,
    proxy: Option<Proxy>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// Frames, rates and latencies.
    pub summary: Summary,
    /// What was found on the output channel.
    pub output: Found,
    /// The newest events.
    pub events: Vec<events::Event>,
    /// How long the runner took to be there.
    pub start: StartTimes,
    /// Where the graphs of the pipeline ran, by the runner's own word; `None` where it has no graph.
    pub provider: Option<String>,
    /// Milliseconds from the order to the end of the last input frame.
    pub stream_ms: f64,
    /// The runner was `IDLE` after the stream and ended with code 0.
    pub clean: bool,
    /// Pictures that the source left out, and lost.
    pub source: (u64, u64),
    /// The runner's own account of the stream.
    pub account: Account,
    /// The last lines of the runner's log.
    pub log: Vec<String>,
}

impl Rig {
    /// Starts everything: server, runner, channels, stream, source.
    ///
    /// # Errors
    /// Whatever does not start; what did is ended again.
    pub async fn start(setup: Setup) -> Result<Self, RigError> {
        let Setup { runner: config, source, route, floor, input, output } = setup;
        let lab = Lab::start().await?;
        let runner = Runner::start(&config).await?;
        let channels = lab.open();
        let ledger = Arc::new(Ledger::new());
        let client = lab.client().clone();
        let (proxy, theirs) = match route {
            Route::Straight => (None, channels.clone()),
            Route::All | Route::Output => {
                let proxy = Proxy::start(lab.address()).await?;
                let only = (route == Route::Output).then_some(Channel::Output);
                let theirs = channels.behind(proxy.address(), only);
                (Some(proxy), theirs)
            }
        };
        runner.order(&theirs, &config.pipeline, &config.params).await?;
        let ordered = Instant::now();
        // In the order in which a gateway opens them.
        let control = Control::open(&client, &channels.url(Channel::Control)).await?;
        let side = |side| Some((ledger.clone(), side));
        let floor = match floor {
            true => {
                let taps = Taps { ledger: side(Side::Input), ..input };
                Some(Reader::open(&client, &channels.url(Channel::Input), taps)?)
            }
            false => None,
        };
        let taps = Taps { ledger: side(Side::Output), ..output };
        let output = Reader::open(&client, &channels.url(Channel::Output), taps)?;
        let events = Events::read(&client, &channels.url(Channel::Events))?;
        let source = Source::start(source, &client, &channels.url(Channel::Input), ledger.clone()).await?;
        let params = config.params;
        Ok(Self { lab, runner, channels, ledger, events, control, source, floor, output, params, ordered, proxy })
    }

    /// Runs a second stream of the same parameters through the runner, which needs room for two.
    ///
    /// # Errors
    /// The runner refuses it, or a channel does not open.
    pub async fn beside(&self, source: source::Ready) -> Result<Beside, RigError> {
        Beside::start(&self.lab, &self.runner, &self.params, source).await
    }

    /// Ends the second stream. Gives what it came to.
    ///
    /// # Errors
    /// Its source failed, or its output cannot be read.
    pub async fn finish_beside(&self, beside: Beside) -> Result<Summary, RigError> {
        beside.finish(&self.lab).await
    }

    /// The runner.
    pub fn runner(&self) -> &Runner {
        &self.runner
    }

    /// The frames.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// What the runner tells.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The way for updates.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The source.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The trickle server.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The channels of the stream.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// The line between the runner and the server, if it can be cut.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// What was found on the output channel so far.
    pub fn output(&self) -> Found {
        self.output.found()
    }

    /// The parameters of the start request.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Whether the stream still runs; an error says why it does not.
    ///
    /// # Errors
    /// [`RigError::Ended`] when the runner ended it, though the source goes on.
    pub fn check(&self) -> Result<(), RigError> {
        if !self.output.ended() && !self.events.ended() {
            return Ok(());
        }
        let last = self.events.last("error").map(|event| events::summary(&event));
        let reason = last.or(self.output.found().end).unwrap_or_else(|| "the runner closed its channels".into());
        Err(RigError::Ended(reason))
    }

    /// Ends the stream as a gateway does, then the runner, then the server. Nothing is left afterwards.
    ///
    /// # Errors
    /// The source or the recording failed; everything is ended all the same.
    pub async fn finish(self) -> Result<Report, RigError> {
        let Self { lab, runner, channels, ledger, events, control, source, floor, output, ordered, proxy, .. } = self;
        let counters = source.counters();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        let lost = (load(&counters.left_out), load(&counters.lost));
        let stopped = source.stop().await;
        let stream_ms = ordered.elapsed().as_secs_f64() * 1000.0;
        // Frames under way come out before the order to end.
        let patience = Instant::now() + DRAIN;
        while ledger.last_received() < ledger.last_sent() && !output.ended() && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Their end is the order to stop; the runner deletes its own channels then.
        drop(control);
        lab.close_channel(&channels, Channel::Control);
        lab.close_channel(&channels, Channel::Input);
        let deadline = Instant::now() + DRAIN;
        let mut found = output.end(deadline).await;
        if let Some(floor) = floor {
            let _ = floor.end(Instant::now() + Duration::from_millis(200)).await;
        }
        while !events.ended() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for which in [Channel::Output, Channel::Events] {
            lab.close_channel(&channels, which);
        }
        let idle = runner.idle(END).await;
        // A stream's last interval is told before its end.
        let account = runner.account(channels.manifest_id()).await;
        let (start, log) = (runner.times(), runner.log());
        let provider = runner.provider().map(str::to_owned);
        let clean = runner.stop().await && idle;
        drop(proxy);
        lab.close().await;
        if let Err(error) = stopped {
            found = Err(error);
        }
        let output = found?;
        Ok(Report {
            summary: ledger.finish(output.first_byte),
            output,
            events: events.since(0),
            start,
            provider,
            stream_ms,
            clean,
            source: lost,
            account,
            log,
        })
    }
}

/// The size nearest to `size` that every pipeline can put out: sides of 384 to 1024 pixels, multiples of 64.
pub fn output_size(size: Size) -> Size {
    let longest = f64::from(size.width.max(size.height).max(1));
    let scale = (1024.0 / longest).min(1.0);
    let side = |pixels: u32| (((f64::from(pixels) * scale / 64.0).round() as u32) * 64).clamp(384, 1024);
    Size::new(side(size.width), side(size.height))
}

/// `params` with the output size filled in where it is not given.
pub fn with_size(mut params: Params, size: Size) -> Params {
    params.entry("width").or_insert_with(|| size.width.into());
    params.entry("height").or_insert_with(|| size.height.into());
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_input_has_an_output_size() {
        for (input, output) in [
            ((512, 512), (512, 512)),
            ((1280, 720), (1024, 576)),
            ((1920, 1080), (1024, 576)),
            ((640, 360), (640, 384)),
            ((1080, 1920), (576, 1024)),
            ((64, 64), (384, 384)),
            ((4000, 100), (1024, 384)),
        ] {
            let size = output_size(Size::new(input.0, input.1));
            assert_eq!((size.width, size.height), output, "{input:?}");
        }
    }

    #[test]
    fn a_given_size_stays() {
        let given = serde_json::json!({"width": 768}).as_object().cloned().unwrap_or_default();
        let params = with_size(given, Size::new(512, 640));
        assert_eq!(serde_json::Value::Object(params), serde_json::json!({"width": 768, "height": 640}));
    }
}
