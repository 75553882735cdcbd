//! engine: being built.

mod config;

pub use config::*;

/// Runs the engine on standard input and output until its supervisor is gone.
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
