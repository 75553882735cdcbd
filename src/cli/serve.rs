//! `weir serve`: the runner.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, warn};

use super::{engine, logging, settings};
use crate::engine::refusal::Refusals;
use crate::supervisor::{self, EngineCommand};

pub(super) fn command() -> Command {
    let about = "Serve streams: answer an orchestrator or local calls, and run a model on every frame.";
    // For tests of the counters and benchmarks of what they cost: no settings, and in no help.
    let refuse = Arg::new("refuse").long("refuse").value_name("PLACE=EVERY,…").hide(true).value_parser(refusals);
    let unmeasured = Arg::new("unmeasured").long("unmeasured").action(ArgAction::SetTrue).hide(true);
    settings::arguments(Command::new("serve").about(about)).args([refuse, unmeasured])
}

fn refusals(text: &str) -> Result<Refusals, String> {
    Refusals::try_from(text.to_owned())
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let loaded = match settings::load(matches) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logging::start(&loaded.config.log);
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
    let mut config = loaded.config;
    if let Some(refusals) = matches.get_one::<Refusals>("refuse") {
        warn!("Frames are refused on purpose: {}.", String::from(refusals.clone()));
        config.engine.refuse = refusals.clone();
    }
    if matches.get_flag("unmeasured") {
        warn!("Frames are not measured, and streams not accounted for.");
        config.engine.unmeasured = true;
    }
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            error!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: crate::config::Config) -> Result<(), String> {
    let trace = config.engine.trace.clone();
    if let Some(path) = &trace {
        // Engines go on with what the one before wrote, so a trace begins here.
        std::fs::write(path, "").map_err(|error| format!("no trace can be written to {}: {error}", path.display()))?;
    }
    let command = EngineCommand::Process { program: program()?, arguments: engine::arguments(&config.log) };
    let engine = serde_json::to_value(&config.engine).map_err(|error| format!("settings of the engine: {error}"))?;
    // One thread is plenty: nothing here works, and what may block has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let result = runtime.block_on(async {
        let end = asked_to_end().map_err(|error| format!("signals cannot be received: {error}"))?;
        let run = supervisor::run(config.supervisor, engine, command, end, |_| {});
        run.await.map_err(|error| error.to_string())
    });
    // A driver call that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    if let Some(path) = &trace {
        close_trace(path);
    }
    result
}

/// Ends the array of events that engines left open.
fn close_trace(path: &Path) {
    use std::io::Write;
    let ended = std::fs::OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(b"\n]\n"));
    if let Err(error) = ended {
        warn!(path = %path.display(), %error, "The trace has no end; Perfetto opens it all the same.");
    }
}

/// This program, to start its engine.
pub(super) fn program() -> Result<std::path::PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("this program cannot find itself: {error}"))
}

/// Resolves at SIGTERM or SIGINT.
pub(super) fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
