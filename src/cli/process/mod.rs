//! `weir process`: a file through a pipeline, every frame of it, as fast as it goes.
//!
//! Nothing is dropped and nothing is skipped: the stages in `stages` wait for each other.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};

use super::{logging, settings};
use crate::engine;
use crate::frame::{FramePool, Size};
use crate::media::{AudioCodec, AudioFilter, PacketCodec, is_address};
use crate::pipeline::{AudioProcessor, Checked, LoadContext, Params, Pipeline, registry};

mod error;
mod model;
mod progress;
mod raw;
mod sound;
mod stages;
mod video;

pub use error::ProcessError;
pub use raw::Rate;
pub use stages::Summary;

use raw::{RawSink, RawSource};
use sound::SoundSink;
use stages::{BUFFERS, Sink, Source};
use video::{VideoSink, VideoSource};

/// Exit code after SIGINT or SIGTERM, as shells have it.
const INTERRUPTED: u8 = 130;

/// File names that mean raw frames.
const RAW: [&str; 2] = ["rgb", "raw"];

pub(super) fn command() -> Command {
    let about = "Put a file through a pipeline, every frame of it, as fast as it goes.";
    let raw = "Video files of any kind that FFmpeg reads, and raw rgb24 frames: `.rgb`, `.raw`, `-` for standard input and \
               output, or any name with --format rgb24. The output has the pipeline's width and height (512 x 512 unless \
               --params say otherwise); pictures of another size are scaled until they cover it, and cropped in the \
               middle. Audio of a video file goes along, or through the pipeline where that works on sound. \
               Addresses work on both sides: rtmp://, rtsp://, srt://; with \
               ?listen=1 behind one, whoever sends or watches comes to this program.";
    let text =
        |id: &'static str, name: &'static str, help: &'static str| Arg::new(id).long(id).value_name(name).help(help);
    let command = Command::new("process").about(about).after_help(raw).args([
        text("input", "FILE", "What to read: a file or an address.")
            .required(true)
            .value_parser(value_parser!(PathBuf)),
        text("output", "FILE", "What to write: a file, which is replaced, or an address.")
            .required(true)
            .value_parser(value_parser!(PathBuf)),
        text("pipeline", "NAME", "Name of the pipeline.").default_value("noop"),
        text("params", "JSON", "Parameters of the pipeline, as a JSON object; `@FILE` reads them from a file.")
            .default_value("{}"),
        text(
            "model",
            "DIR|ORG/NAME",
            "The model, for pipelines that have one: a folder in the layout of diffusers, a \
              .safetensors file, or a name below --engine-models.",
        ),
        text("precision", "PRECISION", "Precision of the networks, for pipelines that have any.")
            .value_parser(["auto", "fp32", "fp16"]),
        text(
            "output-size",
            "WxH",
            "Size of the output in pixels, multiples of 8, also outside the bounds that width and \
              height have in live streams.",
        )
        .value_parser(output_size),
        text("size", "WxH", "Size of raw input in pixels.").value_parser(raw::size),
        text("fps", "N", "Frames a second of raw input: 30, 29.97 or 30000/1001.").value_parser(str::parse::<Rate>),
        text("format", "FORMAT", "What files are whose name does not tell it.").value_parser(["rgb24"]),
        text("repeat", "N", "Read the input this many times in a row.")
            .default_value("1")
            .value_parser(value_parser!(u32).range(1..)),
        text("limit", "N", "End after this many frames.").value_parser(value_parser!(u64).range(1..)),
    ]);
    settings::arguments_of(command, wanted)
}

/// Reads the size of the output.
fn output_size(text: &str) -> Result<Size, String> {
    let size = raw::size(text)?;
    match [size.width, size.height].iter().all(|&side| side.is_multiple_of(8) && side <= 4096) {
        true => Ok(size),
        false => Err(format!("`{text}` is no size of an output; expected multiples of 8, at most 4096")),
    }
}

/// The settings that mean something here.
fn wanted(key: &str) -> bool {
    key == "engine.models" || ["media.", "inference.", "log."].iter().any(|group| key.starts_with(group))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let loaded = match settings::load_of(matches, wanted) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logging::start(&loaded.config.log);
    loaded.warnings.iter().for_each(|warning| super::complain(warning));
    let Some(job) = Job::new(matches) else { return ExitCode::from(super::USAGE) };
    let stop = Arc::new(AtomicBool::new(false));
    let result = Signals::listen(stop.clone()).and_then(|signals| {
        let result = process(&job, &loaded.config.engine, &stop);
        drop(signals);
        result
    });
    match result {
        Ok(summary) => {
            let seconds = summary.took.as_secs_f64();
            let frames = summary.frames;
            super::complain(&format!(
                "{}{frames} frames in {seconds:.2} s: {:.1} fps, {:.2} ms a frame in the model",
                if summary.stopped { "Stopped by a signal. " } else { "" },
                frames as f64 / seconds.max(1e-6),
                summary.model.as_secs_f64() * 1000.0 / frames.max(1) as f64,
            ));
            if summary.stopped { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            super::complain(&format!("weir process: {error}"));
            error.code()
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to read; `-` is standard input.
    pub input: PathBuf,
    /// What to write; `-` is standard output.
    pub output: PathBuf,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Its parameters as JSON, or `@` and the name of a file.
    pub params: String,
    /// The model's folder, file or name, where the pipeline's parameters do not say it all.
    pub model: Option<String>,
    /// Precision of the networks, as the parameter `precision`.
    pub precision: Option<String>,
    /// Size of the output, in place of the parameters `width` and `height`.
    pub output_size: Option<Size>,
    /// Size of raw input.
    pub size: Option<Size>,
    /// Rate of raw input; `None` for 30 a second.
    pub rate: Option<Rate>,
    /// Files whose name does not tell their format are raw.
    pub raw: bool,
    /// How often the input is read.
    pub repeat: u32,
    /// Frames after which to end.
    pub limit: Option<u64>,
}

impl Job {
    fn new(matches: &ArgMatches) -> Option<Self> {
        Some(Self {
            input: matches.get_one::<PathBuf>("input")?.clone(),
            output: matches.get_one::<PathBuf>("output")?.clone(),
            pipeline: matches.get_one::<String>("pipeline")?.clone(),
            params: matches.get_one::<String>("params")?.clone(),
            model: matches.get_one::<String>("model").cloned(),
            precision: matches.get_one::<String>("precision").cloned(),
            output_size: matches.get_one("output-size").copied(),
            size: matches.get_one("size").copied(),
            rate: matches.get_one("fps").copied(),
            raw: matches.get_one::<String>("format").is_some(),
            repeat: *matches.get_one("repeat")?,
            limit: matches.get_one("limit").copied(),
        })
    }

    fn is_raw(&self, path: &Path) -> bool {
        if is_address(&path.to_string_lossy()) {
            return false;
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        path == Path::new("-")
            || extension.is_some_and(|extension| RAW.iter().any(|raw| extension.eq_ignore_ascii_case(raw)))
            || (self.raw && extension.is_none_or(|extension| !video::knows(extension)))
    }

    /// The pipeline, its checked parameters, and where its model is if not below `models` under its name.
    fn pipeline(&self, models: &Path) -> Result<(&'static dyn Pipeline, Checked, Option<PathBuf>), ProcessError> {
        let pipeline = registry::find(&self.pipeline).ok_or_else(|| {
            let known: Vec<_> = registry::all().iter().map(|pipeline| pipeline.name()).collect();
            ProcessError::Pipeline { name: self.pipeline.clone(), known: known.join(", ") }
        })?;
        let text = match self.params.strip_prefix('@') {
            None => self.params.clone(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| ProcessError::Usage(format!("--params: {path} cannot be read: {error}")))?,
        };
        let mut params: Params = serde_json::from_str(&text)
            .map_err(|error| ProcessError::Usage(format!("--params is not a JSON object: {error}")))?;
        let model =
            self.model.as_deref().map(|model| model::choose(pipeline, &mut params, model, models)).transpose()?;
        if let Some(precision) = &self.precision {
            model::set(pipeline, &mut params, "precision", precision)?;
        }
        let mut checked = pipeline.check(&params)?;
        if let Some(size) = self.output_size {
            if let Some(key) = ["width", "height"].into_iter().find(|key| params.contains_key(*key)) {
                return Err(ProcessError::Usage(format!("--output-size and the parameter {key} say the same thing")));
            }
            checked.size = size;
        }
        Ok((pipeline, checked, model.flatten()))
    }

    fn source(&self) -> Result<Box<dyn Source>, ProcessError> {
        if !self.is_raw(&self.input) {
            if self.size.is_some() || self.rate.is_some() {
                return Err(ProcessError::Usage("--size and --fps are for raw input only".into()));
            }
            return Ok(Box::new(VideoSource::open(&self.input, self.repeat)?));
        }
        let size = self.size.ok_or_else(|| ProcessError::Usage("raw input needs --size WxH".into()))?;
        Ok(Box::new(RawSource::open(&self.input, size, self.rate.unwrap_or_default(), self.repeat)?))
    }

    /// Where pictures and sound go; the latter by way of `processor`, where there is one. Raw frames have no sound.
    fn sink(
        &self,
        size: Size,
        source: &dyn Source,
        processor: Option<Box<dyn AudioProcessor>>,
        config: &engine::Config,
    ) -> Result<Box<dyn Sink>, ProcessError> {
        if self.is_raw(&self.output) {
            return Ok(Box::new(RawSink::create(&self.output)?));
        }
        let codec = match config.media.audio {
            AudioCodec::Opus => Some(PacketCodec::Opus),
            AudioCodec::Aac => Some(PacketCodec::Aac),
            AudioCodec::None => None,
        };
        let Some(((processor, track), codec)) = processor.zip(source.audio()).zip(codec) else {
            return Ok(Box::new(VideoSink::create(&self.output, size, source.fps(), source.audio(), config)?));
        };
        let filter = AudioFilter::new(codec, config.media.audio_kbps);
        let track = filter.track(&track)?;
        let sink = VideoSink::create(&self.output, size, source.fps(), Some(track), config)?;
        Ok(Box::new(SoundSink::new(Box::new(sink), filter, processor)))
    }
}

/// Does the whole job. `stop`, once set, ends it early with what there is in a whole file.
///
/// # Errors
/// [`ProcessError`]. The output is made only when the input is open and the pipeline loaded.
pub fn process(job: &Job, config: &engine::Config, stop: &AtomicBool) -> Result<Summary, ProcessError> {
    let (pipeline, checked, model) = job.pipeline(&config.models)?;
    let mut source = job.source()?;
    if !job.is_raw(&job.output) {
        video::check_name(&job.output)?;
    }
    if !is_address(&job.output.to_string_lossy()) {
        writable(&job.input, &job.output)?;
    }
    let size = checked.size;
    match source.size() {
        Some(given) if given != size => {
            tracing::info!("Pictures of {given} are scaled and cropped to {size}.");
        }
        _ => {}
    }
    let pool = FramePool::new(BUFFERS);
    let progress = |step: &str| tracing::info!(pipeline = pipeline.name(), "Loading: {step}");
    let cx = LoadContext {
        inference: &config.inference,
        models: config.models.clone(),
        model,
        pool: pool.clone(),
        progress: &progress,
        fetch: &engine::fetch::Fetcher::new(config),
    };
    let mut processor = pipeline
        .load(&cx, &checked)
        .map_err(|error| ProcessError::Load { name: pipeline.name().into(), reason: error.to_string() })?;
    processor.notes().iter().for_each(|note| super::complain(note));
    if stop.load(Ordering::Relaxed) {
        return Ok(Summary { stopped: true, ..Summary::default() });
    }
    let mut sink = job.sink(checked.output(), &*source, processor.audio(), config)?;
    stages::run(&mut *source, &mut *processor, &mut *sink, (size, &pool), job.limit, stop)
}

/// Finds out before the work whether `output` can be written. Leaves no trace.
fn writable(input: &Path, output: &Path) -> Result<(), ProcessError> {
    if output == Path::new("-") {
        return Ok(());
    }
    let wrong = |reason: String| ProcessError::Output { path: output.display().to_string(), reason };
    let there = output.exists();
    if there
        && let (Ok(from), Ok(to)) = (input.canonicalize(), output.canonicalize())
        && from == to
    {
        return Err(wrong("it is also the input".into()));
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).open(output);
    file.map_err(|error| wrong(error.to_string()))?;
    if !there {
        std::fs::remove_file(output).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(())
}

/// Sets a flag at SIGINT and SIGTERM; the second one ends the process at once.
struct Signals {
    runtime: Option<tokio::runtime::Runtime>,
}

impl Signals {
    fn listen(stop: Arc<AtomicBool>) -> Result<Self, ProcessError> {
        use tokio::signal::unix::{SignalKind, signal};
        let system = |error: std::io::Error| ProcessError::System(format!("signals cannot be received: {error}"));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(system)?;
        {
            let _entered = runtime.enter();
            let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
            let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
            runtime.spawn(async move {
                loop {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                    if stop.swap(true, Ordering::Relaxed) {
                        std::process::exit(i32::from(INTERRUPTED));
                    }
                    tracing::info!("Stopping; what is there is completed. Once more ends at once.");
                }
            });
        }
        Ok(Self { runtime: Some(runtime) })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_millis(100));
        }
    }
}
