//! The demo at work: a stream, its page, its figures, its end.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::Options;
use super::check::{self, Expected, Verdict};
use super::page::{About, Line, Order, Page, Pictures, Snapshot, Taken};
use super::widgets;
use crate::cli::rig::decode::Decoding;
use crate::cli::rig::reader::{Record, Taps};
use crate::cli::rig::source::{Ready, SourceConfig};
use crate::cli::rig::stop::Stop;
use crate::cli::rig::{Report, Rig, RigError, Route, Setup, events, words};
use crate::frame::{PixelFormat, Size};
use crate::media::{JpegEncoder, Recorder};
use crate::metering::{Happened, Since};
use crate::pipeline::{Params, registry};

/// Time between two looks at everything.
const LOOK: Duration = Duration::from_millis(500);
/// Figures are of the frames of this long.
const WINDOW: Duration = Duration::from_secs(2);
/// Looks that the page's line of latencies goes back.
const HISTORY: usize = 240;
/// Frames that the page's strip shows.
const STRIP: usize = 240;
/// JPEG quality, 2 to 31, lower is better.
const QUALITY: u32 = 5;
/// Most pixels of a side of the pictures on the page.
const SHOWN: u32 = 768;
/// Parameters that a running stream keeps.
const FIXED: [&str; 2] = ["width", "height"];

/// The pipeline whose parameters are the widgets of a workflow.
const WORKFLOWS: &str = "comfyui";

/// What a demo came to.
pub struct Played {
    /// Whether everything is as it should be.
    pub good: bool,
    /// The summary for people.
    pub text: String,
    /// Frames, rates and latencies, events.
    pub report: Report,
    /// What the check found, if it was asked for.
    pub verdict: Option<Verdict>,
    /// The last status object of the runner.
    pub status: Value,
}

/// Runs the demo until its time is up, its input ends, or a signal comes.
///
/// # Errors
/// Whatever does not start, or a stream that breaks off.
pub async fn play(options: &Options) -> Result<Played, RigError> {
    let mut stop = Stop::new()?;
    let known = registry::find(&options.pipeline);
    let (input, output) = (Pictures::default(), Pictures::default());
    let source = stop.or(Ready::open(options.source.clone())).await?.in_bursts(options.burst);
    let shown = source.size();
    let mut page = match options.page {
        Some(address) => {
            // Of a workflow the page shows its widgets.
            let params = in_force(&options.pipeline, &options.params);
            let controls = params.get("prompt").filter(|_| options.pipeline == WORKFLOWS).and_then(widgets::controls);
            let (schema, params) = match controls {
                Some(controls) => (controls.schema, controls.values),
                None => (known.map(|known| known.schema()).unwrap_or_default(), params),
            };
            let about = About {
                name: options.pipeline.clone(),
                about: known.map(|known| known.about()).unwrap_or_default().into(),
                params,
                fixed: FIXED.map(str::to_owned).to_vec(),
                schema,
                width: options.output.width,
                height: options.output.height,
            };
            Some(Page::open(address, about, input.clone(), output.clone()).await?)
        }
        None => None,
    };
    let kept = Kept::new(options)?;
    let mut decoders = Vec::new();
    let (mut input_taps, mut output_taps) = (Taps::default(), Taps::default());
    if page.is_some() {
        for (pictures, size, taps) in [(input, shown, &mut input_taps), (output, options.output, &mut output_taps)] {
            let (feed, decoding) = moving(pictures, size)?;
            taps.feed = Some(feed);
            decoders.push(decoding);
        }
    }
    if let Some(path) = kept.stream.as_ref() {
        output_taps.record = Some(Record::create(path).map_err(RigError::Record)?);
    }
    let setup = Setup {
        runner: options.runner(),
        source,
        route: Route::Straight,
        floor: page.is_some(),
        input: input_taps,
        output: output_taps,
    };
    crate::cli::complain("Starting the runner …");
    let rig = stop.or(Rig::start(setup)).await?;
    let what = format!("{}, {shown} in, {} out", options.pipeline, options.output);
    if let Some((page, _)) = &page {
        crate::cli::print(&format!("Open http://{}/  ({what}; Ctrl-C ends it)\n", page.address()));
    } else {
        crate::cli::complain(&format!("Running {what}."));
    }

    let mut show = Show::new(options);
    let ran = show.run(&rig, page.as_mut(), &mut stop).await;
    // A second signal ends everything at once: processes and tasks end with what is dropped here.
    let finished = stop.or(rig.finish()).await;
    if let Some((page, _)) = page {
        page.close().await;
    }
    drop(decoders);
    ran?;
    let report = finished?;
    kept.conclude(options, report, show.status)
}

/// The parameters with every default filled in.
fn in_force(pipeline: &str, params: &Params) -> Params {
    let checked = registry::find(pipeline).and_then(|known| known.check(params).ok());
    checked.map_or_else(|| params.clone(), |checked| (*checked.values).clone())
}

/// A decoding thread that shows its pictures on the page while somebody looks.
fn moving(pictures: Pictures, size: Size) -> Result<(crate::cli::rig::decode::Feed, Decoding), RigError> {
    let longest = size.width.max(size.height);
    let side =
        |pixels: u32| (u64::from(pixels) * u64::from(SHOWN.min(longest)) / u64::from(longest.max(1))) as u32 & !1;
    let mut jpeg = JpegEncoder::new(QUALITY);
    Decoding::start(Size::new(side(size.width).max(2), side(size.height).max(2)), PixelFormat::I420, move |frame| {
        if pictures.watched()
            && let Ok(bytes) = jpeg.encode(&frame)
        {
            pictures.show(bytes);
        }
    })
}

struct Show {
    seconds: Option<f64>,
    headless: bool,
    pipeline: String,
    status: Value,
    latency: VecDeque<f64>,
    frames: VecDeque<Happened>,
    next_frame: u64,
    events: u64,
    told: Instant,
    began: Instant,
    lines: VecDeque<Line>,
}

impl Show {
    fn new(options: &Options) -> Self {
        let now = Instant::now();
        Self {
            seconds: options.seconds,
            headless: options.page.is_none(),
            pipeline: options.pipeline.clone(),
            status: Value::Null,
            latency: VecDeque::with_capacity(HISTORY),
            frames: VecDeque::with_capacity(2 * STRIP),
            next_frame: 0,
            events: 0,
            told: now,
            began: now,
            lines: VecDeque::new(),
        }
    }

    /// Looks at the stream until it is to end.
    async fn run(
        &mut self,
        rig: &Rig,
        mut page: Option<&mut (Page, mpsc::Receiver<Order>)>,
        stop: &mut Stop,
    ) -> Result<(), RigError> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = self.seconds.map(|seconds| tokio::time::Instant::now() + Duration::from_secs_f64(seconds));
        let ends = async {
            match end {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(ends);
        loop {
            let order = async {
                match page.as_mut() {
                    Some((_, orders)) => orders.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.signal() => return Ok(()),
                () = &mut ends => return Ok(()),
                Some(order) = order => self.obey(rig, page.as_deref().map(|(page, _)| page), order).await,
                _ = look.tick() => {
                    if rig.source().ended() {
                        return Ok(());
                    }
                    rig.check()?;
                    self.look(rig, page.as_deref().map(|(page, _)| page)).await;
                }
            }
        }
    }

    async fn obey(&self, rig: &Rig, page: Option<&Page>, order: Order) {
        // Whoever asked may have gone meanwhile.
        match order {
            Order::Update(params, answer) => {
                let (after, time_ms) = (self.newest(rig), unix_ms());
                let workflow = self.pipeline == WORKFLOWS;
                let sent = match page.filter(|_| workflow) {
                    Some(page) => widgets::overrides(&params, &page.known()),
                    None => params.clone(),
                };
                let result = match workflow && sent.is_empty() {
                    // Nothing moved; an empty update would mean the default workflow.
                    true => Ok(()),
                    false => rig.control().update(&sent).await.map(drop).map_err(|error| error.to_string()),
                };
                if result.is_ok()
                    && let Some(page) = page
                {
                    page.params(&if workflow { params } else { in_force(&self.pipeline, &params) });
                }
                let _ = answer.send(result.map(|()| Taken { after, time_ms }));
            }
            Order::Kill(answer) => {
                let _ = answer.send(rig.runner().kill_engine().ok_or_else(|| "There is no engine right now.".into()));
            }
        }
    }

    fn newest(&self, rig: &Rig) -> u64 {
        rig.events().since(self.events).last().map_or(self.events, |event| event.number)
    }

    async fn look(&mut self, rig: &Rig, page: Option<&Page>) {
        // Without an answer the last one stands.
        if let Ok(status) = rig.runner().status().await {
            self.status = status;
        }
        if page.is_some() {
            self.take_frames(rig).await;
        }
        let now = Instant::now();
        let recent = rig.ledger().recent(now, WINDOW);
        self.take_events(rig, now);
        let text = |key: &str| self.status.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let count = |key: &str| self.status.pointer(key).and_then(Value::as_u64).unwrap_or(0);
        let restarts = count("/inference_status/restart_count");
        let dropped = words::drops(&self.status);
        if self.headless && now.duration_since(self.told) >= Duration::from_millis(950) {
            self.told = now;
            crate::cli::complain(&format!(
                "{:5.0} s  {:<18} in {:5.1}  out {:5.1} a second  latency {:4.0} ms, p95 {:4.0} ms  dropped {}  restarts {restarts}",
                now.duration_since(self.began).as_secs_f64(),
                text("state"),
                recent.fps_in,
                recent.fps_out,
                recent.p50,
                recent.p95,
                words::places(&dropped),
            ));
        }
        let Some(page) = page else { return };
        if self.latency.len() >= HISTORY {
            self.latency.pop_front();
        }
        self.latency.push_back((recent.p50 * 10.0).round() / 10.0);
        let found = rig.output();
        let counts = rig.ledger().counts();
        page.show(Snapshot {
            state: text("state"),
            fps_in: recent.fps_in,
            fps_out: recent.fps_out,
            p50: recent.p50,
            p95: recent.p95,
            dropped,
            restarts,
            params_ms: count("/inference_status/last_params_update_time"),
            engine: rig.runner().engine(),
            input: format!("{} frames", counts.sent),
            output: format!("{} frames, {:.1} MB", counts.received, found.bytes as f64 / 1e6),
            latency: self.latency.iter().copied().collect(),
            frames: self.frames.iter().cloned().collect(),
            events: self.lines.iter().cloned().collect(),
        });
    }

    async fn take_frames(&mut self, rig: &Rig) {
        // Without an answer the strip stands still.
        let id = rig.channels().manifest_id();
        if let Ok(Since { next, frames }) = rig.runner().frames(id, self.next_frame).await {
            self.next_frame = next;
            self.frames.extend(frames);
            let old = self.frames.len().saturating_sub(STRIP);
            self.frames.drain(..old);
        }
    }

    fn take_events(&mut self, rig: &Rig, now: Instant) {
        let mut state = String::new();
        for event in rig.events().since(self.events) {
            self.events = event.number;
            if event.kind == "status" {
                // A status that says nothing new is no news.
                let before = self.lines.iter().rev().find(|line| line.kind == "status").map(|line| line.text.clone());
                state = events::summary(&event);
                if before.as_deref() == Some(&state) {
                    continue;
                }
            }
            let age = now.saturating_duration_since(event.at).as_millis() as u64;
            self.lines.push_back(Line {
                number: event.number,
                time_ms: unix_ms().saturating_sub(age),
                text: events::summary(&event),
                kind: event.kind,
            });
        }
        drop(state);
        while self.lines.len() > 100 {
            self.lines.pop_front();
        }
    }
}

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |time| time.as_millis() as u64)
}

/// The output as it is kept for a recording or a check.
struct Kept {
    /// The transport stream, byte for byte.
    stream: Option<PathBuf>,
    _folder: Option<tempfile::TempDir>,
}

impl Kept {
    fn new(options: &Options) -> Result<Self, RigError> {
        if options.record.is_none() && !options.check {
            return Ok(Self { stream: None, _folder: None });
        }
        let folder = tempfile::Builder::new().prefix("weir-demo-").tempdir().map_err(RigError::Record)?;
        Ok(Self { stream: Some(folder.path().join("out.ts")), _folder: Some(folder) })
    }

    /// Writes the recording, checks it, and sums up.
    fn conclude(self, options: &Options, report: Report, status: Value) -> Result<Played, RigError> {
        let mut text = summary(options, &report, &status);
        let mut good = report.clean && report.output.video > 0;
        if !report.clean {
            text.push_str("The runner did not end cleanly.\n");
        }
        if let (Some(record), Some(stream)) = (&options.record, &self.stream) {
            let mut recorder = Recorder::create(record);
            let mut file = std::fs::File::open(stream).map_err(RigError::Record)?;
            let mut bytes = vec![0; 1 << 16];
            loop {
                match std::io::Read::read(&mut file, &mut bytes).map_err(RigError::Record)? {
                    0 => break,
                    count => recorder.push(&bytes[..count])?,
                }
            }
            recorder.finish()?;
            text.push_str(&format!("The output is in {}.\n", record.display()));
        }
        let verdict = match (&self.stream, options.check) {
            (Some(stream), true) => Some(check::check(stream, &expected(options))?),
            _ => None,
        };
        if let Some(verdict) = &verdict {
            text.push_str("Check\n");
            for finding in &verdict.findings {
                text.push_str(&format!("  {}  {}\n", if finding.good { "ok " } else { "BAD" }, finding.text));
            }
            text.push_str(if verdict.good() { "The output is right.\n" } else { "The output is wrong.\n" });
            good &= verdict.good();
        }
        Ok(Played { good, text, report, verdict, status })
    }
}

/// What the output should show, as far as it is known of the pipeline.
fn expected(options: &Options) -> Expected {
    let pattern = match options.source {
        SourceConfig::Pattern { size, fps } => Some((size, fps)),
        SourceConfig::Media { .. } => None,
    };
    let inversion = match options.pipeline.as_str() {
        "noop" | "delay" => Some(0.0),
        "invert" => in_force("invert", &options.params).get("strength").and_then(Value::as_f64),
        _ => None,
    };
    Expected { pattern, inversion, size: options.output }
}

fn summary(options: &Options, report: &Report, status: &Value) -> String {
    let Report { summary, start, output, source, .. } = report;
    let counts = &summary.frames;
    let mut rows = vec![
        ("pipeline", format!("{}, {}", options.pipeline, options.output)),
        ("frames", format!("{} sent, {} received, {} missing", counts.sent, counts.received, counts.missing)),
        ("frames a second", format!("{:.2} in, {:.2} out", summary.fps_in, summary.fps_out)),
        ("latency", words::latency(&summary.end_to_end_ms)),
        ("dropped", words::places(&words::drops(status))),
        (
            "output",
            format!(
                "{} segments, {:.2} MB, {} audio packets",
                output.segments,
                output.bytes as f64 / 1e6,
                output.audio
            ),
        ),
        ("start", format!("answering after {:.0} ms, IDLE after {:.0} ms", start.health_ms, start.idle_ms)),
    ];
    if let Some(first) = summary.first_output_ms {
        rows.push(("first output", format!("{first:.0} ms after the first frame")));
    }
    let restarts = status.pointer("/inference_status/restart_count").and_then(Value::as_u64).unwrap_or(0);
    rows.push(("restarts", restarts.to_string()));
    if source.0 > 0 {
        rows.push((
            "left out",
            format!("{} pictures, because this machine was too slow to make them in time", source.0),
        ));
    }
    let mut text = words::table(&rows);
    if let Some(error) = report.events.iter().rev().find(|event| event.kind == "error") {
        text.push_str(&format!("The newest error: {}\n", events::summary(error)));
    }
    text
}
