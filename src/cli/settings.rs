//! Every setting as a flag, for any subcommand that wants them.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use crate::config::{self, Loaded, SETTINGS};

/// `command` with a flag for every setting, and `--config`.
pub fn arguments(command: Command) -> Command {
    arguments_of(command, |_| true)
}

/// As [`arguments`], with flags for those settings only whose key is `wanted`.
pub fn arguments_of(command: Command, wanted: impl Fn(&str) -> bool) -> Command {
    let defaults = config::Config::default();
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help(format!("Configuration file. [variable: {}]", config::FILE_VARIABLE));
    let flags = SETTINGS.iter().filter(|setting| wanted(setting.key)).map(|setting| {
        let mut variables = setting.variable();
        let mut word = "variable";
        if let Some((name, _)) = setting.contract {
            variables = format!("{variables}, {name}");
            word = "variables";
        }
        let default = setting.shown(&defaults);
        let default = if default.is_empty() { "none" } else { &default };
        let help = format!("{} [file: {}] [{word}: {variables}] [default: {default}]", setting.about, setting.key);
        let group = setting.key.split_once('.').map_or("", |(group, _)| group);
        Arg::new(setting.flag())
            .long(setting.flag())
            .value_name("VALUE")
            .allow_hyphen_values(true)
            .help(help)
            .help_heading(format!("[{group}]"))
    });
    command.arg(file).args(flags)
}

/// The configuration by flags, environment and file. Mistakes are printed, all of them.
///
/// # Errors
/// The exit code to leave with.
pub fn load(matches: &ArgMatches) -> Result<Loaded, ExitCode> {
    load_of(matches, |_| true)
}

/// As [`load`], for a command of [`arguments_of`]: other settings keep to environment and file.
///
/// # Errors
/// The exit code to leave with.
pub fn load_of(matches: &ArgMatches, wanted: impl Fn(&str) -> bool) -> Result<Loaded, ExitCode> {
    let settings = SETTINGS.iter().filter(|setting| wanted(setting.key));
    let names = settings.map(config::Setting::flag).chain(["config".to_owned()]);
    let flags: BTreeMap<String, String> =
        names.filter_map(|name| matches.get_one::<String>(&name).cloned().map(|value| (name, value))).collect();
    // A variable that is no text cannot be one of ours.
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    config::load(&flags, &variables, |path| std::fs::read_to_string(path)).map_err(|mistakes| {
        super::complain(&mistakes.to_string());
        ExitCode::from(super::USAGE)
    })
}
