//! Subcommands: flags in, words and tables out.
//!
//! A subcommand is a file with `command()`, its flags, and `run()`, its work; the table `SUBCOMMANDS` lists them.

use std::process::ExitCode;

use clap::{ArgMatches, Command};

mod alias;
pub mod bench;
mod config;
pub mod demo;
mod doctor;
mod engine;
mod gpu_check;
mod health;
mod ledger;
pub mod logging;
mod models;
mod prepare;
pub mod process;
pub mod rig;
mod serve;
pub mod settings;
mod top;
mod workflow;

/// Exit code for a wrong flag, variable or file (`EX_USAGE`).
pub const USAGE: u8 = 64;

/// A subcommand.
struct Subcommand {
    command: fn() -> Command,
    run: fn(&ArgMatches) -> ExitCode,
}

/// Every subcommand, in the order in which `--help` shows them.
const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand { command: serve::command, run: serve::run },
    Subcommand { command: demo::command, run: demo::run },
    Subcommand { command: process::command, run: process::run },
    Subcommand { command: bench::command, run: bench::run },
    Subcommand { command: top::command, run: top::run },
    Subcommand { command: ledger::command, run: ledger::run },
    Subcommand { command: doctor::command, run: doctor::run },
    Subcommand { command: prepare::command, run: prepare::run },
    Subcommand { command: health::command, run: health::run },
    Subcommand { command: config::command, run: config::run },
    Subcommand { command: models::command, run: models::run },
    Subcommand { command: workflow::command, run: workflow::run },
    Subcommand { command: engine::command, run: engine::run },
    Subcommand { command: gpu_check::command, run: gpu_check::run },
];

fn command() -> Command {
    let about = "A runner for live AI video: trickle in, a model on every frame, trickle out, every frame measured.";
    Command::new("weir")
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(SUBCOMMANDS.iter().map(|subcommand| (subcommand.command)()))
}

/// Runs the command line. 64 for wrong usage, else what the subcommand says.
pub fn main() -> ExitCode {
    let prepare = std::env::var_os(alias::PREPARE_VARIABLE).is_some_and(|value| value == "1");
    let arguments = alias::translate(std::env::args_os().collect(), prepare);
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Nothing is left to tell when even this cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::from(USAGE) };
    let found = SUBCOMMANDS.iter().find(|subcommand| (subcommand.command)().get_name() == name);
    found.map_or(ExitCode::from(USAGE), |subcommand| (subcommand.run)(matches))
}

/// Writes to standard output; a closed one is the reader's choice.
pub fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Writes a line to standard error.
pub fn complain(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn help_shows_flag_variable_key_and_default() {
        let mut command = command();
        let serve = command.find_subcommand_mut("serve").expect("serve");
        let help = serve.render_long_help().to_string();
        let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("--port <VALUE>"), "{help}");
        assert!(flat.contains("Port to listen on; 0 takes a free one. [file: serve.port] [variables: WEIR_SERVE_PORT, PORT] [default: 8000]"), "{help}");
    }
}
