//! `weir gpu-check`: what frames of models of the full size cost on this machine's provider. `scripts/gpu-check` calls it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Serialize;

use super::settings;
use crate::config::Config;
use crate::graph::DType;
use crate::inference::{self, Provider, Runtime};

mod measure;
mod table;

/// A stream to measure.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// What people call it.
    name: &'static str,
    /// Family of models, see [`crate::models::full`]; `None` for the small model of the tests.
    family: Option<&'static str>,
    steps: u64,
    controls: u64,
    /// Width and height.
    size: u64,
}

const FULL: [Case; 6] = [
    Case { name: "sd-turbo, 1 step", family: Some("sd-turbo"), steps: 1, controls: 0, size: 512 },
    Case { name: "sd-turbo, 2 steps", family: Some("sd-turbo"), steps: 2, controls: 0, size: 512 },
    Case { name: "sd-turbo, 3 steps", family: Some("sd-turbo"), steps: 3, controls: 0, size: 512 },
    Case { name: "sd-turbo, 4 steps", family: Some("sd-turbo"), steps: 4, controls: 0, size: 512 },
    Case { name: "SD 1.5, 3 steps, a ControlNet", family: Some("sd15"), steps: 3, controls: 1, size: 512 },
    Case { name: "SDXL-turbo, 1 step", family: Some("sdxl"), steps: 1, controls: 0, size: 512 },
];

const QUICK: [Case; 2] = [
    Case { name: "small model, 1 step", family: None, steps: 1, controls: 0, size: 64 },
    Case { name: "small model, 2 steps, a ControlNet", family: None, steps: 2, controls: 1, size: 64 },
];

/// What one case cost. Times are medians in milliseconds unless said otherwise.
#[derive(Clone, Debug, Serialize)]
struct Row {
    case: &'static str,
    provider: String,
    precision: &'static str,
    encode_ms: f64,
    predict_ms: f64,
    decode_ms: f64,
    /// The whole frame, from the picture in memory to the picture in memory.
    frame_ms: f64,
    /// Of all frames, 95 % took no longer.
    frame_p95_ms: f64,
    /// Frames a second that the GPU's arithmetic allows, where it is known.
    limit_fps: Option<f64>,
    /// Part of that limit that was reached.
    share: Option<f64>,
    /// Waits of the host for the GPU in each frame.
    waits: f64,
    /// Seconds until the graph was there.
    build_s: f64,
    /// Seconds until it was loaded.
    load_s: f64,
    /// Estimated memory in bytes.
    needed: u64,
}

/// The machine.
#[derive(Clone, Debug, Serialize)]
struct Machine {
    /// Name of the GPU; `None` on the CPU.
    gpu: Option<String>,
    /// Compute capability.
    capability: Option<String>,
    /// The newest CUDA of the driver.
    driver_cuda: Option<String>,
    onnxruntime: String,
}

pub(super) fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let frames = Arg::new("frames")
        .long("frames")
        .value_name("N")
        .value_parser(clap::value_parser!(u32).range(1..=100_000))
        .default_value("100")
        .help("Frames to time for each case, behind those that warm up.");
    let work = Arg::new("work")
        .long("work")
        .value_name("DIR")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Folder for graphs and weights of several gigabytes, removed at the end; the system's for temporary files if not given.");
    let about = "Time each stage of streams of the full size, over random weights, on the configured provider.";
    let command = Command::new("gpu-check").about(about).hide(true);
    let command = command.arg(flag("quick", "Small models instead: tries the way, and says nothing about speed."));
    let command = command.arg(flag("fp32", "Full precision where half would be used."));
    settings::arguments(command.arg(flag("json", "Print one JSON document.")).arg(frames).arg(work))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let config = match settings::load(matches) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    match check(matches, &config) {
        Ok(text) => {
            super::print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            super::complain(&format!("gpu-check: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn check(matches: &ArgMatches, config: &Config) -> Result<String, String> {
    let inference = &config.engine.inference;
    let runtime = Runtime::load(inference).map_err(|error| error.to_string())?;
    let machine = machine(runtime, inference)?;
    let precision = match inference.provider {
        Provider::Cpu => DType::F32,
        _ if matches.get_flag("fp32") => DType::F32,
        _ => DType::F16,
    };
    let work = match matches.get_one::<PathBuf>("work") {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let work = work.map_err(|error| format!("no folder to work in: {error}"))?;
    let frames = matches.get_one::<u32>("frames").copied().unwrap_or(100);
    let cases: &[Case] = if matches.get_flag("quick") { &QUICK } else { &FULL };
    let peak = machine.gpu.as_deref().and_then(table::peak);
    let mut rows = Vec::with_capacity(cases.len());
    for case in cases {
        super::complain(&format!("{}: {}", inference.provider, case.name));
        let bench = measure::Bench { runtime, inference, precision, work: work.path(), frames };
        rows.push(bench.row(case, peak).map_err(|error| format!("{}: {error}", case.name))?);
    }
    if matches.get_flag("json") {
        return Ok(format!("{}\n", serde_json::json!({ "machine": machine, "rows": rows })));
    }
    Ok(table::markdown(&machine, &rows, matches.get_flag("quick")))
}

fn machine(runtime: &Runtime, inference: &inference::Config) -> Result<Machine, String> {
    let onnxruntime = runtime.version().to_owned();
    if inference.provider == Provider::Cpu {
        return Ok(Machine { gpu: None, capability: None, driver_cuda: None, onnxruntime });
    }
    let gpu = inference::gpu(inference.device)?;
    Ok(Machine {
        capability: Some(format!("{}.{}", gpu.capability[0], gpu.capability[1])),
        driver_cuda: Some(format!("{}.{}", gpu.driver / 1000, gpu.driver % 1000 / 10)),
        gpu: Some(gpu.name),
        onnxruntime,
    })
}

/// Where engines are kept: as configured, or only as long as the rest.
fn engines(inference: &inference::Config, work: &Path) -> PathBuf {
    inference.engine_cache.clone().unwrap_or_else(|| work.join("engines"))
}
