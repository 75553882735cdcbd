//! `weir config`: what the settings come to.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::settings;

pub(super) fn command() -> Command {
    let example = Arg::new("example")
        .long("example")
        .action(ArgAction::SetTrue)
        .help("Print a file with every setting, its default and what it means.");
    let about = "Print the configuration in force and where each value comes from.";
    settings::arguments(Command::new("config").about(about).arg(example))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    if matches.get_flag("example") {
        super::print(&crate::config::example());
        return ExitCode::SUCCESS;
    }
    match settings::load(matches) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| super::complain(warning));
            super::print(&loaded.text());
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}
