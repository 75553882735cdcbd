//! `weir models`: what models there are, whether they can run, and fetching more.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use indicatif::HumanBytes;

use super::settings;
use crate::graph::DType;
use crate::models::check::{self, Kind};
use crate::models::weights::{Repository, cached};
use crate::pipeline::{Pipeline, registry};

mod pull;
#[cfg(test)]
mod tests;

pub(super) fn command() -> Command {
    let precision = || {
        Arg::new("precision")
            .long("precision")
            .value_name("TYPE")
            .value_parser(["fp16", "fp32"])
            .default_value("fp16")
            .help("Which of a model's variants counts: those of half precision where there are any, or the full ones.")
    };
    let id = |help: &'static str| Arg::new("id").value_name("ORG/NAME").required(true).help(help);
    let list = settings::arguments(Command::new("list").about("Show the models below the root of the models."));
    let check = Command::new("check")
        .about("Say whether a model can run: every name, shape and type is compared with what its graphs need.")
        .arg(id("The model; ORG/NAME@REVISION, the path of a folder or a .safetensors file, or a pipeline for all of its models, does as well."))
        .arg(precision());
    let pull = Command::new("pull")
        .about("Fetch a model from HuggingFace, only the files needed. What is there already is kept, what was cut off goes on. [variables: HF_TOKEN, HF_ENDPOINT]")
        .arg(id("The model; ORG/NAME@REVISION, or a pipeline for all of its models, does as well."))
        .arg(precision())
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Fetch nothing; say how many files and bytes are missing."),
        );
    Command::new("models")
        .about("List, check and fetch models.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([list, settings::arguments(check), settings::arguments(pull)])
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::from(super::USAGE) };
    let models = match settings::load(matches) {
        Ok(loaded) => loaded.config.engine.models,
        Err(code) => return code,
    };
    if name == "list" {
        super::print(&list(&models));
        return ExitCode::SUCCESS;
    }
    let id = matches.get_one::<String>("id").cloned().unwrap_or_default();
    let dtype =
        if matches.get_one::<String>("precision").is_some_and(|p| p == "fp32") { DType::F32 } else { DType::F16 };
    let remote = pull::Remote::from_environment();
    if let Some(pipeline) = registry::find(&id) {
        return of_pipeline(pipeline, &models, dtype, (name == "pull").then_some((&remote, matches)));
    }
    if name == "pull" && matches.get_flag("dry-run") {
        return match pull::size(&models, &id, dtype, &remote) {
            Ok((files, bytes)) => {
                super::print(&format!("{id}: {files} files, {bytes} bytes to fetch\n"));
                ExitCode::SUCCESS
            }
            Err(error) => {
                super::complain(&error.to_string());
                ExitCode::FAILURE
            }
        };
    }
    let fetched = match name {
        "pull" => pull::pull(&models, &id, dtype, &remote),
        _ => Ok(()),
    };
    let result = fetched.map_err(|error| error.to_string()).and_then(|()| examine(&models, &id, dtype));
    match result {
        Ok((text, good)) => {
            super::print(&text);
            if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            super::complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Checks, and with `pull` first fetches, every model that `pipeline` takes for its own parameters.
fn of_pipeline(
    pipeline: &dyn Pipeline,
    models: &Path,
    dtype: DType,
    pull: Option<(&pull::Remote, &ArgMatches)>,
) -> ExitCode {
    let used = pipeline.models();
    if used.is_empty() {
        super::print(&format!("{} needs no models of its own.\n", pipeline.name()));
        return ExitCode::SUCCESS;
    }
    let mut good = true;
    for model in &used {
        let said = match pull {
            Some((remote, matches)) if matches.get_flag("dry-run") => pull::size(models, model.id, dtype, remote)
                .map(|(files, bytes)| format!("{files} files, {bytes} bytes to fetch"))
                .map_err(|error| error.to_string()),
            Some((remote, _)) => pull::pull(models, model.id, dtype, remote)
                .map_err(|error| error.to_string())
                .and_then(|()| state(models, model.id, dtype)),
            None => state(models, model.id, dtype),
        };
        good &= said.is_ok() || !model.required;
        let need = if model.required { "needed" } else { "taken where it is there" };
        let said = said.unwrap_or_else(|trouble| format!("cannot be used: {trouble}"));
        super::print(&format!("{:<48} {} ({need}): {said}\n", model.id, model.what));
    }
    if pull.is_none() {
        for left_out in pipeline.preset(models).1 {
            super::print(&format!("{left_out}.\n"));
        }
    }
    let verdict = if good { "It can be loaded." } else { "It cannot be loaded." };
    if !pull.is_some_and(|(_, matches)| matches.get_flag("dry-run")) {
        super::print(&format!("{}: {verdict}\n", pipeline.name()));
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A word on a model that can run; else why it cannot.
fn state(models: &Path, id: &str, dtype: DType) -> Result<String, String> {
    let found = Repository::find(models, id).map_err(|error| error.to_string())?;
    let report = check::check(&found, dtype);
    match report.trouble() {
        Some(trouble) => Err(trouble),
        None => Ok(format!("can run, {}", HumanBytes(report.bytes()))),
    }
}

/// A table of a model's parts, and whether all of them are good.
fn examine(models: &Path, id: &str, dtype: DType) -> Result<(String, bool), String> {
    let direct = Path::new(id);
    let by_path = direct.is_absolute() || id.starts_with("./") || id.starts_with("../");
    let found = if by_path { Repository::at(direct) } else { Repository::find(models, id) };
    let repository = found.map_err(|error| error.to_string())?;
    let report = check::check(&repository, dtype);
    let mut text = format!("{id}: {}, {}\n", report.kind, repository.root().display());
    for part in &report.parts {
        let format = part.format.map(|format| format.to_string()).unwrap_or_default();
        let size = match part.bytes {
            0 => String::new(),
            bytes => format!("{:.1} M numbers, {}", part.parameters as f64 / 1e6, HumanBytes(bytes)),
        };
        let state = part.trouble.as_deref().unwrap_or("good");
        text += format!("  {:<15} {format:<5} {size:<32} {state}", part.name).trim_end();
        text += "\n";
    }
    let trouble = report.trouble();
    text += &match &trouble {
        None => "It can run.\n".to_owned(),
        Some(trouble) => format!("It cannot run: {trouble}\n"),
    };
    Ok((text, trouble.is_none()))
}

/// A line for each model.
fn list(models: &Path) -> String {
    let mut names = cached(models);
    names.extend(plain(models));
    if names.is_empty() {
        return format!("No models in {}. `weir models pull ORG/NAME` fetches one.\n", models.display());
    }
    let mut text = format!("{:<48} {:<17} {:>11}  STATE\n", "MODEL", "KIND", "SIZE");
    for name in names {
        let line = match Repository::find(models, &name) {
            Err(error) => format!("{name:<48} {:<17} {:>11}  {error}", "", ""),
            Ok(repository) => {
                let report = check::check(&repository, DType::F16);
                let state =
                    report.trouble().map_or_else(|| "can run".to_owned(), |trouble| format!("cannot run: {trouble}"));
                let size = HumanBytes(report.bytes()).to_string();
                format!("{name:<48} {:<17} {size:>11}  {state}", report.kind.to_string())
            }
        };
        text += line.trim_end();
        text += "\n";
    }
    text
}

/// Folders and single files outside of HuggingFace's layout, at most two levels down, sorted.
fn plain(models: &Path) -> Vec<String> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let read = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = read.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let hidden = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(".");
        name.starts_with("models--") || name.starts_with('.') || name == "hub"
    };
    let is_model = |path: &Path| {
        path.join("model_index.json").is_file()
            || path.join("config.json").is_file()
            || path.join("unet").is_dir()
            || path.extension().is_some_and(|end| end == "safetensors")
            || matches!(
                Repository::at(path).map(|found| check::kind(&found)),
                Ok(Kind::Lora | Kind::IpAdapter | Kind::Pose)
            )
    };
    let mut found = Vec::new();
    for path in entries(models).into_iter().filter(|path| !hidden(path)) {
        if is_model(&path) {
            found.push(path);
        } else if path.is_dir() {
            found.extend(entries(&path).into_iter().filter(|path| !hidden(path) && is_model(path)));
        }
    }
    found.iter().filter_map(|path| path.strip_prefix(models).ok()?.to_str().map(str::to_owned)).collect()
}
