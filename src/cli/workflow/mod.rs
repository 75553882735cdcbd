//! `weir workflow`: what a ComfyUI workflow is, before anything runs.

use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use super::settings;
use crate::workflow::examine::{Examined, Verdict, examine};
use crate::workflow::{MAX_TEXT, svg};

mod classes;

/// It cannot run.
const REFUSED: u8 = 1;
/// It would run, were its models there.
const MODELS_MISSING: u8 = 2;

pub(super) fn command() -> Command {
    let file = || {
        Arg::new("file")
            .value_name("FILE")
            .required(true)
            .help("A workflow in API format, or as the editor saves it; - reads standard input.")
    };
    let size = |name: &'static str, what: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("PIXELS")
            .value_parser(clap::value_parser!(u32).range(1..=16384))
            .default_value("512")
            .help(what)
    };
    let check = Command::new("check")
        .about("Say whether a workflow runs: its plan, every reason why not, the models it needs. Exit code 0: it runs; 1: it cannot; 2: only models are missing.")
        .arg(file())
        .arg(size("width", "Width of the stream's pictures."))
        .arg(size("height", "Height of the stream's pictures."))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Write JSON, with every widget, its range and its value."));
    let plan = Command::new("plan").about("Draw the plan of a workflow.").arg(file()).arg(
        Arg::new("svg")
            .long("svg")
            .value_name("OUT")
            .required(true)
            .help("The file to write; - writes to standard output."),
    );
    let classes = Command::new("classes").about("List the node classes that are known.").arg(
        Arg::new("markdown").long("markdown").action(ArgAction::SetTrue).help("Write the table of docs/workflows.md."),
    );
    Command::new("workflow")
        .about("Check and draw ComfyUI workflows.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([settings::arguments(check), plan, classes])
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    match matches.subcommand() {
        Some(("check", matches)) => check(matches),
        Some(("plan", matches)) => plan(matches),
        Some(("classes", matches)) => {
            super::print(&if matches.get_flag("markdown") { classes::markdown() } else { classes::list() });
            ExitCode::SUCCESS
        }
        _ => ExitCode::from(super::USAGE),
    }
}

fn check(matches: &ArgMatches) -> ExitCode {
    let models = match settings::load(matches) {
        Ok(loaded) => loaded.config.engine.models,
        Err(code) => return code,
    };
    let size = ["width", "height"].map(|name| matches.get_one::<u32>(name).copied().unwrap_or(512));
    let examined = match read(matches).map(|workflow| examine(&workflow, &models, size)) {
        Ok(examined) => examined,
        Err(message) => {
            super::complain(&message);
            return ExitCode::from(REFUSED);
        }
    };
    match matches.get_flag("json") {
        true => super::print(&format!("{:#}\n", examined.json())),
        false => super::print(&examined.text()),
    }
    code(&examined)
}

fn code(examined: &Examined) -> ExitCode {
    match examined.verdict() {
        Verdict::Runs => ExitCode::SUCCESS,
        Verdict::ModelsMissing => ExitCode::from(MODELS_MISSING),
        Verdict::Refused => ExitCode::from(REFUSED),
    }
}

fn plan(matches: &ArgMatches) -> ExitCode {
    let drawn =
        read(matches).and_then(|workflow| crate::workflow::plan(&workflow).map_err(|refused| refused.to_string()));
    let out = matches.get_one::<String>("svg").map_or("-", String::as_str);
    let written = drawn.and_then(|plan| match out {
        "-" => {
            super::print(&svg(&plan));
            Ok(())
        }
        path => std::fs::write(path, svg(&plan)).map_err(|error| format!("{path}: {error}")),
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            super::complain(&message);
            ExitCode::from(REFUSED)
        }
    }
}

fn read(matches: &ArgMatches) -> Result<Value, String> {
    let path = matches.get_one::<String>("file").map_or("-", String::as_str);
    let text = match path {
        "-" => std::io::read_to_string(std::io::stdin()),
        path => std::fs::read_to_string(path),
    };
    parse(path, &text.map_err(|error| format!("{path}: {error}"))?)
}

/// The workflow in the file `path`.
fn parse(path: &str, text: &str) -> Result<Value, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("{path}: {} bytes, at most {MAX_TEXT} are read", text.len()));
    }
    serde_json::from_str(text).map_err(|error| format!("{path}: no JSON: {error}"))
}

/// The workflow in the file at `path`.
///
/// # Errors
/// One line.
pub(super) fn open(path: &Path) -> Result<Value, String> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    parse(&name, &text)
}
