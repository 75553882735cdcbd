//! `weir bench`: what a stream costs, measured on a runner of its own.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Serialize;
use serde_json::{Map, Value};

use super::demo::{self, Options};
use super::rig::ledger::{Counts, Figures, Summary};
use super::rig::procs::{Memory, Meter};
use super::rig::reader::Taps;
use super::rig::runner::StartTimes;
use super::rig::source::{Ready, SourceConfig};
use super::rig::stop::Stop;
use super::rig::{Report, Rig, RigError, Route, Setup, events, words};

mod soak;

/// Time between two looks at the processes.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two lines of progress.
const TELL: Duration = Duration::from_secs(5);

pub(super) fn command() -> Command {
    let about = "Measure what a stream costs: frame rate, latency, CPU, memory, time to start.";
    let more = "Runs a fresh runner as processes of its own beside a source and two readers. Latency is from the last byte \
                of a frame into the input channel to the last byte of its output, without decoding; the floor is the same \
                for reading the input channel back. Progress goes to standard error, the table or JSON to standard output. \
                Build with --release.";
    demo::stream_arguments(Command::new("bench").about(about).long_about(format!("{about}\n\n{more}"))).args([
        Arg::new("seconds").long("seconds").value_name("N").default_value("20").help("Length of the stream."),
        Arg::new("burst").long("burst").value_name("MS").help(
            "Send the input in bursts, so many milliseconds apart; a go-livepeer gateway does so about every 300.",
        ),
        Arg::new("beside")
            .long("beside")
            .action(ArgAction::SetTrue)
            .help("A second stream beside the first, by the door of workers (POST /stream/start); both are measured."),
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON object instead of a table."),
        Arg::new("faults").long("faults").action(ArgAction::SetTrue).help(
            "A soak: stalls, lost and broken segments, cut connections and killed engines; says whether the stream \
             stands them. Takes a minute at least.",
        ),
    ])
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let burst = match matches.get_one::<String>("burst").map(|text| text.parse::<u64>()) {
        None => None,
        Some(Ok(ms @ 1..=2000)) => Some(Duration::from_millis(ms)),
        Some(_) => return usage("--burst: milliseconds from 1 to 2000 are expected"),
    };
    let seconds = matches.get_one::<String>("seconds").and_then(|text| text.parse::<f64>().ok());
    let options = match (demo_options(matches), seconds.filter(|seconds| seconds.is_finite() && *seconds >= 1.0)) {
        (Ok(options), Some(seconds)) => Options { seconds: Some(seconds), burst, ..options },
        (Err(mistake), _) => return usage(&mistake),
        (_, None) => return usage("--seconds: a number of 1 or more is expected"),
    };
    let json = matches.get_flag("json");
    if matches.get_flag("faults") {
        if seconds < Some(60.0) {
            return usage("--faults needs --seconds 60 or more");
        }
        return demo::finish(demo::block_on(soak::soak(&options)).map(|soak| {
            super::print(&if json { line(&soak) } else { soak.table() });
            soak.good
        }));
    }
    demo::finish(demo::block_on(bench(&options, matches.get_flag("beside"))).map(|bench| {
        super::print(&if json { line(&bench) } else { bench.table() });
        bench.clean && bench.frames.received > 0 && bench.beside.as_ref().is_none_or(|it| it.frames.received > 0)
    }))
}

fn demo_options(matches: &ArgMatches) -> Result<Options, String> {
    demo::stream_options(matches)
}

fn usage(mistake: &str) -> ExitCode {
    super::complain(mistake);
    ExitCode::from(super::USAGE)
}

fn line(value: &impl Serialize) -> String {
    // Plain maps with string keys cannot fail.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// From the last byte of a frame into the input channel to the last byte of its output.
    pub end_to_end: Figures,
    /// From the same to reading it back from the input channel.
    pub floor: Figures,
    /// The former less the latter, frame by frame.
    pub added: Figures,
    /// Difference of the medians.
    pub added_at_p50: f64,
    /// Difference of the 95th percentiles.
    pub added_at_p95: f64,
}

/// What became of a stream beside the first.
#[derive(Clone, Debug, Serialize)]
pub struct Second {
    /// Frames by their fate.
    pub frames: Counts,
    /// Frames a second into the input channel.
    pub fps_in: f64,
    /// Frames a second out of the output channel.
    pub fps_out: f64,
    /// Between the channels.
    pub latency_ms: Latency,
}

impl Second {
    fn new(summary: &Summary) -> Self {
        let Summary { frames, fps_in, fps_out, .. } = *summary;
        Self { frames, fps_in, fps_out, latency_ms: Latency::new(summary) }
    }
}

impl Latency {
    fn new(summary: &Summary) -> Self {
        let (end_to_end, floor) = (summary.end_to_end_ms, summary.floor_ms);
        Self {
            end_to_end,
            floor,
            added: summary.added_ms,
            added_at_p50: end_to_end.p50 - floor.p50,
            added_at_p95: end_to_end.p95 - floor.p95,
        }
    }
}

/// What a stream cost.
#[derive(Clone, Debug, Serialize)]
pub struct Bench {
    /// The pipeline.
    pub pipeline: String,
    /// Where its graphs ran, by the runner's own word; `None` where it has no graph.
    pub provider: Option<String>,
    /// Size of the input, or its name.
    pub input: String,
    /// Size of the output.
    pub output: String,
    /// Seconds from the order to the end of the input.
    pub seconds: f64,
    /// Frames by their fate.
    pub frames: Counts,
    /// Share of the frames sent that did not come out, in percent.
    pub dropped_percent: f64,
    /// The runner's own count of drops by place.
    pub dropped: Map<String, Value>,
    /// Pictures that the source left out because this machine was too slow.
    pub source_late: u64,
    /// Frames a second into the input channel.
    pub fps_in: f64,
    /// Frames a second out of the output channel.
    pub fps_out: f64,
    /// Between the channels.
    pub latency_ms: Latency,
    /// The stream beside it, through another door.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<Second>,
    /// Inside the runner, by stage, in the order of a frame: its own figures of all frames since its engine began.
    pub stages_ms: Vec<(String, Figures)>,
    /// From the first input frame to the first byte of output, milliseconds.
    pub first_output_ms: Option<f64>,
    /// CPU seconds of all processes of the runner for each second of the stream.
    pub cpu_cores: f64,
    /// Of all processes of the runner.
    pub memory: Memory,
    /// From the start of the process.
    pub start: StartTimes,
    /// Messages of `error` events.
    pub errors: Vec<String>,
    /// The runner was idle after the stream and ended by itself.
    pub clean: bool,
}

/// Measures one stream, or with `beside` a second one too. A signal ends it early; what was measured until then is told.
///
/// # Errors
/// Whatever does not start, or a stream that breaks off.
pub async fn bench(options: &Options, beside: bool) -> Result<Bench, RigError> {
    let seconds = Duration::from_secs_f64(options.seconds.unwrap_or(20.0));
    let mut stop = Stop::new()?;
    let mut options = options.clone();
    if beside {
        // A flag that was given wins.
        options.flags.insert(0, "--capacity=2".into());
    }
    let options = &options;
    let (rig, input) = stop.or(start(options, Route::Straight)).await?;
    let second = match beside {
        true => {
            let source = Ready::open(options.source.clone()).await?.in_bursts(options.burst);
            Some(stop.or(rig.beside(source)).await?)
        }
        false => None,
    };
    let mut meter = Meter::new(rig.runner().pid());
    meter.look()?;
    let (cpu, began) = (meter.cpu(), Instant::now());
    let mut told = Instant::now();
    while began.elapsed() < seconds && !rig.source().ended() {
        tokio::select! {
            () = tokio::time::sleep(LOOK.min(seconds.saturating_sub(began.elapsed()))) => {}
            () = stop.signal() => break,
        }
        rig.check()?;
        meter.look()?;
        if told.elapsed() >= TELL {
            told = Instant::now();
            progress(&rig, began, seconds);
        }
    }
    meter.look()?;
    let took = began.elapsed().as_secs_f64();
    let cpu_used = meter.cpu() - cpu;
    let second = match second {
        Some(second) => Some(Second::new(&stop.or(rig.finish_beside(second)).await?)),
        None => None,
    };
    let cpu_cores = cpu_used.as_secs_f64() / took;
    let report = stop.or(rig.finish()).await?;
    Ok(Bench { beside: second, ..sum_up(options, input, &report, cpu_cores, meter.memory()) })
}

/// Starts the rig for a measurement. Returns it with a word for its input.
async fn start(options: &Options, route: Route) -> Result<(Rig, String), RigError> {
    let source = Ready::open(options.source.clone()).await?.in_bursts(options.burst);
    let input = match &options.source {
        SourceConfig::Pattern { size, fps } => format!("{size} at {fps} a second"),
        SourceConfig::Media { name, .. } => format!("{name}, {}", source.size()),
    };
    let input = match options.burst {
        Some(every) => format!("{input} in bursts every {} ms", every.as_millis()),
        None => input,
    };
    crate::cli::complain(&format!("{}: {input} in, {} out", options.pipeline, options.output));
    let setup =
        Setup { runner: options.runner(), source, route, floor: true, input: Taps::default(), output: Taps::default() };
    Ok((Rig::start(setup).await?, input))
}

fn progress(rig: &Rig, began: Instant, seconds: Duration) {
    let recent = rig.ledger().recent(Instant::now(), TELL);
    crate::cli::complain(&format!(
        "{:5.0} of {:.0} s  in {:5.1}  out {:5.1} a second  latency {:5.1} ms, p95 {:5.1} ms",
        began.elapsed().as_secs_f64(),
        seconds.as_secs_f64(),
        recent.fps_in,
        recent.fps_out,
        recent.p50,
        recent.p95,
    ));
}

fn sum_up(options: &Options, input: String, report: &Report, cpu_cores: f64, memory: Memory) -> Bench {
    let (summary, account) = (&report.summary, &report.account);
    let errors = report.events.iter().filter(|event| event.kind == "error").map(events::summary).collect();
    Bench {
        pipeline: options.pipeline.clone(),
        provider: report.provider.clone(),
        input,
        output: options.output.to_string(),
        seconds: report.stream_ms / 1000.0,
        frames: summary.frames,
        dropped_percent: summary.frames.missing as f64 * 100.0 / summary.frames.sent.max(1) as f64,
        dropped: account.stream["dropped"].as_object().cloned().unwrap_or_default(),
        source_late: report.source.0,
        fps_in: summary.fps_in,
        fps_out: summary.fps_out,
        latency_ms: Latency::new(summary),
        beside: None,
        stages_ms: words::stages(&account.interval["stream_latency_ms"]),
        first_output_ms: summary.first_output_ms,
        cpu_cores,
        memory,
        start: report.start,
        errors,
        clean: report.clean,
    }
}

impl Bench {
    /// For people.
    pub fn table(&self) -> String {
        let Bench { frames, latency_ms, memory, start, .. } = self;
        let mut rows = vec![
            ("stream", format!("{}, {} in, {} out, {:.1} s", self.pipeline, self.input, self.output, self.seconds)),
            ("graphs run on", self.provider.clone().unwrap_or_else(|| "nothing: the pipeline has none".into())),
            (
                "frames",
                format!(
                    "{} sent, {} received, {} missing ({:.2} %), longest gap {:.0} ms",
                    frames.sent, frames.received, frames.missing, self.dropped_percent, frames.longest_gap_ms
                ),
            ),
            ("frames a second", format!("{:.2} in, {:.2} out", self.fps_in, self.fps_out)),
            ("dropped", words::places(&self.dropped)),
            ("end to end", words::latency(&latency_ms.end_to_end)),
            ("floor", words::latency(&latency_ms.floor)),
            ("added", words::latency(&latency_ms.added)),
        ];
        if let Some(Second { frames, fps_in, fps_out, latency_ms }) = &self.beside {
            rows.extend([
                (
                    "beside it",
                    format!(
                        "{} sent, {} received, {} missing; {fps_in:.2} in, {fps_out:.2} out a second",
                        frames.sent, frames.received, frames.missing
                    ),
                ),
                ("  end to end", words::latency(&latency_ms.end_to_end)),
                ("  floor", words::latency(&latency_ms.floor)),
                ("  added", words::latency(&latency_ms.added)),
            ]);
        }
        for (stage, figures) in &self.stages_ms {
            rows.push((stage, words::latency(figures)));
        }
        if let Some(first) = self.first_output_ms {
            rows.push(("first output", format!("{first:.0} ms after the first frame")));
        }
        rows.extend([
            ("CPU", format!("{:.3} cores", self.cpu_cores)),
            (
                "memory",
                format!(
                    "RSS {:.0} MB peak, {:.0} MB mean; PSS {:.0} MB peak, {:.0} MB mean (all processes)",
                    memory.rss_peak_mb, memory.rss_mean_mb, memory.pss_peak_mb, memory.pss_mean_mb
                ),
            ),
            ("start", format!("answering after {:.0} ms, IDLE after {:.0} ms", start.health_ms, start.idle_ms)),
        ]);
        if self.source_late > 0 {
            rows.push(("source", format!("left {} pictures out, late or stalled", self.source_late)));
        }
        if !self.clean {
            rows.push(("end", "the runner did not end cleanly".into()));
        }
        rows.extend(self.errors.iter().take(5).map(|error| ("error", error.clone())));
        words::table(&rows)
    }
}
