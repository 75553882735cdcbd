//! `weir engine`: the child of `weir serve`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use super::logging;
use crate::config::Log;

/// The settings that the child needs before its first message.
const FLAGS: [&str; 2] = ["log-level", "log-format"];

pub(super) fn command() -> Command {
    let flags = FLAGS.map(|flag| Arg::new(flag).long(flag).value_name("VALUE"));
    let about = "Run streams for a supervisor that speaks on standard input and output.";
    Command::new("engine").about(about).hide(true).args(flags)
}

/// The arguments that start the child of a process with this log.
pub fn arguments(log: &Log) -> Vec<OsString> {
    let config = crate::config::Config { log: log.clone(), ..Default::default() };
    let mut arguments: Vec<OsString> = vec!["engine".into()];
    for setting in crate::config::SETTINGS.iter().filter(|setting| FLAGS.contains(&setting.flag().as_str())) {
        arguments.push(format!("--{}={}", setting.flag(), (setting.get)(&config)).into());
    }
    arguments
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let flags = FLAGS.iter().filter_map(|&flag| Some((flag.to_owned(), matches.get_one::<String>(flag)?.clone())));
    match crate::config::load(&flags.collect(), &Default::default(), |_| Ok(String::new())) {
        Ok(loaded) => {
            logging::start(&loaded.config.log);
            crate::engine::run()
        }
        Err(mistakes) => {
            super::complain(&mistakes.to_string());
            ExitCode::from(super::USAGE)
        }
    }
}
