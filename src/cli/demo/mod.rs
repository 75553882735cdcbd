//! `weir demo`: a whole network on this machine, with a page to look at it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::rig::{self, RigError, runner::RunnerConfig, source::SourceConfig};
use crate::frame::Size;
use crate::models::weights::Repository;
use crate::pipeline::{Params, registry};

pub mod check;
pub mod page;
mod show;
mod widgets;

pub use show::{Played, play};

/// What to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address of the page; `None` for no page.
    pub page: Option<SocketAddr>,
    /// The pipeline.
    pub pipeline: String,
    /// Its parameters, output size included.
    pub params: Params,
    /// Size of the output that they mean.
    pub output: Size,
    /// The source.
    pub source: SourceConfig,
    /// Time between the bursts in which the source sends; `None` for an even flow.
    pub burst: Option<Duration>,
    /// Ends by itself after this long.
    pub seconds: Option<f64>,
    /// Keeps the output in this file.
    pub record: Option<PathBuf>,
    /// Looks at every picture of the output afterwards.
    pub check: bool,
    /// Copies the runner's log to standard error.
    pub show_log: bool,
    /// Further flags of `weir serve`.
    pub flags: Vec<String>,
    /// The `weir` program.
    pub program: PathBuf,
}

impl Options {
    /// How to run the runner.
    pub fn runner(&self) -> RunnerConfig {
        RunnerConfig {
            program: self.program.clone(),
            pipeline: self.pipeline.clone(),
            params: self.params.clone(),
            status: Duration::from_secs(1),
            load_wait: Duration::from_secs(180),
            show_log: self.show_log,
            flags: self.flags.clone(),
        }
    }
}

/// The flags that say which stream to run.
pub(super) fn stream_arguments(command: Command) -> Command {
    let flag = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    command.args([
        flag("pipeline", "NAME", "The pipeline to run.").default_value("noop"),
        flag("params", "JSON", "Its parameters, as a JSON object.").default_value("{}"),
        flag("workflow", "FILE", "A ComfyUI workflow for the pipeline comfyui, which it implies."),
        flag("size", "WxH", "Size of the input in pixels. [default: 512x512; that of the input for --input]"),
        flag(
            "output-size",
            "WxH",
            "Size of the output in pixels. [default: the nearest to the input's that is allowed]",
        ),
        flag("fps", "N", "Pictures a second of the test picture.").default_value("30"),
        flag("input", "SOURCE", "A file, an address (rtmp://…) or a camera (/dev/video0) instead of the test picture."),
        Arg::new("log").long("log").action(ArgAction::SetTrue).help("Show the runner's log."),
        Arg::new("flags")
            .value_name("FLAG")
            .num_args(0..)
            .last(true)
            .help("Flags of `weir serve` for the runner, such as --engine-freshness=200ms."),
    ])
}

pub(super) fn command() -> Command {
    let flag = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let about = "Run a stream through a real runner on this machine and look at it.";
    let more = "Starts a trickle server, a runner and a moving test picture, and serves a page with input, output, figures \
                and a control for every parameter. Settings of the runner come from the environment (WEIR_…) or a file \
                (WEIR_CONFIG), as for `weir serve`.";
    stream_arguments(Command::new("demo").about(about).long_about(format!("{about}\n\n{more}"))).args([
        flag("host", "ADDRESS", "Address of the page.").default_value("127.0.0.1"),
        flag("port", "PORT", "Port of the page; 0 takes a free one.").default_value("8080"),
        switch("headless", "No page; a line of figures a second."),
        flag("seconds", "N", "End by itself after this long."),
        flag("record", "FILE", "Keep the output in this file, an MP4 for example."),
        switch("check", "Look at every picture of the output afterwards and say whether it is right."),
    ])
}

/// `512x512` as a size with even sides.
pub(super) fn parse_size(text: &str) -> Result<Size, String> {
    let wrong = || format!("`{text}` is no size; write width x height in pixels, such as 1280x720");
    let (width, height) = text.split_once(['x', 'X', '×']).ok_or_else(wrong)?;
    let side = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
    let size = Size::new(side(width)?, side(height)?);
    let range = 32..=7680;
    if !range.contains(&size.width) || !range.contains(&size.height) || size.width % 2 + size.height % 2 > 0 {
        return Err(format!("{text}: both sides must be even, from 32 to 7680 pixels"));
    }
    Ok(size)
}

/// What the stream flags mean.
pub(super) fn stream_options(matches: &ArgMatches) -> Result<Options, String> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let workflow = text("workflow").map(|path| super::workflow::open(Path::new(path))).transpose();
    let workflow = workflow.map_err(|error| format!("--workflow: {error}"))?;
    let chosen = matches.value_source("pipeline") == Some(clap::parser::ValueSource::CommandLine);
    let pipeline = match (&workflow, chosen) {
        (Some(_), false) => "comfyui".to_owned(),
        _ => text("pipeline").unwrap_or("noop").to_owned(),
    };
    let Some(known) = registry::find(&pipeline) else {
        let all: Vec<_> = registry::all().iter().map(|pipeline| pipeline.name()).collect();
        return Err(format!("--pipeline: there is no `{pipeline}`; this build has {}", all.join(", ")));
    };
    let mut params: Params = serde_json::from_str(text("params").unwrap_or("{}"))
        .map_err(|error| format!("--params: a JSON object is expected, such as {{\"strength\": 0.5}} ({error})"))?;
    if let Some(workflow) = workflow {
        params.insert("prompt".to_owned(), workflow);
    }
    let size = |name| text(name).map(parse_size).transpose().map_err(|error| format!("--{name}: {error}"));
    let (input, output) = (size("size")?, size("output-size")?);
    let fps: f64 = text("fps").unwrap_or("30").parse().map_err(|_| "--fps: a number is expected")?;
    if !(1.0..=240.0).contains(&fps) {
        return Err(format!("--fps: {fps} is not between 1 and 240"));
    }
    let source = match text("input") {
        Some(name) => SourceConfig::Media { name: name.to_owned(), size: input },
        None => SourceConfig::Pattern { size: input.unwrap_or(Size::new(512, 512)), fps },
    };
    let fitting = output.unwrap_or_else(|| rig::output_size(input.unwrap_or(Size::new(512, 512))));
    let params = rig::with_size(params, fitting);
    let given = if params.contains_key("prompt") && pipeline == "comfyui" { "--workflow" } else { "--params" };
    let checked = known.check(&params).map_err(|error| format!("{given}: {error}"))?;
    Ok(Options {
        page: None,
        pipeline,
        params,
        output: checked.output(),
        source,
        burst: None,
        seconds: None,
        record: None,
        check: false,
        show_log: matches.get_flag("log"),
        flags: matches.get_many::<String>("flags").map(|flags| flags.cloned().collect()).unwrap_or_default(),
        program: std::env::current_exe().map_err(|error| format!("this program cannot find itself: {error}"))?,
    })
}

fn options(matches: &ArgMatches) -> Result<Options, String> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let host: IpAddr = text("host")
        .map(|host| if host == "localhost" { "127.0.0.1" } else { host })
        .unwrap_or("127.0.0.1")
        .parse()
        .map_err(|_| "--host: an IP address is expected")?;
    let port: u16 = text("port").unwrap_or("8080").parse().map_err(|_| "--port: a number up to 65535 is expected")?;
    let seconds = text("seconds").map(|text| text.parse::<f64>().ok().filter(|s| *s > 0.0 && s.is_finite()));
    let seconds = match seconds {
        Some(None) => return Err("--seconds: a number above 0 is expected".into()),
        other => other.flatten(),
    };
    Ok(Options {
        page: (!matches.get_flag("headless")).then_some(SocketAddr::new(host, port)),
        seconds,
        record: text("record").map(PathBuf::from),
        check: matches.get_flag("check"),
        ..stream_options(matches)?
    })
}

/// The model that StreamDiffusion makes up by itself.
const MADE_UP: &str = "weir/tiny";

/// Lets StreamDiffusion run without weights: where the model that it would load is not below `models`, and none was asked
/// for, a small one with made-up weights takes its place. Returns what to tell people.
fn without_weights(options: &mut Options, models: &Path) -> Option<String> {
    let pipeline = registry::find(&options.pipeline)?;
    if options.params.contains_key("model_id") {
        return None;
    }
    let checked = pipeline.check(&options.params).ok()?;
    let model = checked.values.get("model_id")?.as_str()?.to_owned();
    if Repository::find(models, &model).is_ok() {
        return None;
    }
    let mut tried = options.params.clone();
    tried.insert("model_id".into(), MADE_UP.into());
    // One step: on a processor every further one costs as much again.
    tried.entry("t_index_list").or_insert_with(|| vec![32].into());
    pipeline.check(&tried).ok()?;
    options.params = tried;
    Some(format!(
        "No weights of {model} below {}: a small model with made-up weights runs in its place. It has the real \
         one's structure, and its pictures mean nothing. `weir models pull {model}` fetches the real one.",
        models.display()
    ))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let mut options = match options(matches) {
        Ok(options) => options,
        Err(mistake) => {
            super::complain(&mistake);
            return ExitCode::from(super::USAGE);
        }
    };
    let models = ["WEIR_ENGINE_MODELS", "MODEL_DIR"].iter().find_map(std::env::var_os).map(PathBuf::from);
    if let Some(told) = without_weights(&mut options, models.as_deref().unwrap_or(Path::new("/models"))) {
        super::complain(&told);
    }
    finish(block_on(play(&options)).map(|played| {
        super::print(&played.text);
        played.good
    }))
}

/// Runs a future to its end on a runtime of its own. The runner must be started from this thread, with which it ends.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, RigError>>) -> Result<T, RigError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(RigError::Socket)?;
    let result = runtime.block_on(work);
    // An input that does not answer must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

/// The exit code for what came of it.
pub(super) fn finish(result: Result<bool, RigError>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            super::complain(&format!("weir: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(arguments: &[&str]) -> Result<Options, String> {
        let matches = command().try_get_matches_from([&["demo"], arguments].concat()).map_err(|e| e.to_string())?;
        options(&matches)
    }

    #[test]
    fn nothing_said_means_a_page_with_the_test_picture() {
        let options = of(&[]).unwrap();
        assert_eq!(options.page, Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(options.source, SourceConfig::Pattern { size: Size::new(512, 512), fps: 30.0 });
        assert_eq!((options.pipeline.as_str(), options.output), ("noop", Size::new(512, 512)));
    }

    #[test]
    fn a_workflow_means_its_pipeline_and_is_checked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, crate::workflow::DEFAULT).unwrap();
        let options = of(&["--workflow", path]).unwrap();
        assert_eq!(options.pipeline, "comfyui");
        assert!(options.params["prompt"].is_object());
        std::fs::write(path, "{}").unwrap();
        assert!(of(&["--workflow", path]).unwrap_err().contains("--workflow: prompt: missing input"));
        assert!(of(&["--workflow", "/no/such/file"]).unwrap_err().contains("--workflow: /no/such/file"));
    }

    #[test]
    fn sizes_follow_the_input() {
        let options = of(&["--size", "1280x720", "--headless"]).unwrap();
        assert_eq!((options.output, options.page), (Size::new(1024, 576), None));
        assert_eq!(options.params["width"], 1024);
        let options = of(&["--size", "1280x720", "--output-size", "640x384"]).unwrap();
        assert_eq!(options.output, Size::new(640, 384));
        let options = of(&["--params", r#"{"width":768,"height":448}"#]).unwrap();
        assert_eq!(options.output, Size::new(768, 448));
    }

    #[test]
    fn diffusion_without_weights_runs_a_made_up_model_and_says_so() {
        let nowhere = tempfile::tempdir().unwrap();
        let mut options = of(&["--pipeline", "streamdiffusion"]).unwrap();
        let told = without_weights(&mut options, nowhere.path()).unwrap();
        assert!(told.contains("stabilityai/sd-turbo") && told.contains("made-up"), "{told}");
        assert_eq!(options.params["model_id"], MADE_UP);
        // A model that was asked for is not replaced.
        let mut asked =
            of(&["--pipeline", "streamdiffusion", "--params", r#"{"model_id":"Lykon/dreamshaper-8"}"#]).unwrap();
        assert_eq!(without_weights(&mut asked, nowhere.path()), None);
        assert_eq!(without_weights(&mut of(&["--pipeline", "invert"]).unwrap(), nowhere.path()), None);
    }

    #[test]
    fn every_mistake_names_its_flag() {
        for (arguments, flag) in [
            (&["--pipeline", "x"][..], "--pipeline"),
            (&["--params", "[]"], "--params"),
            (&["--params", r#"{"width":100}"#], "width"),
            (&["--pipeline", "invert", "--params", r#"{"strength":2}"#], "strength"),
            (&["--size", "1x1"], "--size"),
            (&["--size", "wide"], "--size"),
            (&["--size", "33x32"], "--size"),
            (&["--fps", "0"], "--fps"),
            (&["--port", "99999"], "--port"),
            (&["--host", "example.org"], "--host"),
            (&["--seconds", "0"], "--seconds"),
        ] {
            let mistake = of(arguments).unwrap_err();
            assert!(mistake.contains(flag), "{arguments:?}: {mistake}");
        }
    }
}
