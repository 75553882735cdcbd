//! The engine as a process of its own: its pipes, its runtime, and its end.

use std::os::fd::AsFd;
use std::process::ExitCode;

use tokio::net::unix::pipe::{Receiver, Sender};

use super::host::{EngineError, serve};

/// Exit code after a panic on any thread.
const PANICKED: i32 = 101;
/// Exit code when the pipeline could not be loaded or the link broke (`EX_SOFTWARE`).
const FAILED: u8 = 70;

/// Runs the engine between standard input and standard output, which must be pipes of the supervisor.
pub fn run() -> ExitCode {
    // A thread that panics leaves a session that never ends; the supervisor does better with a new engine.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(PANICKED);
    }));
    let result = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(EngineError::Thread);
    let result = result.and_then(|runtime| {
        let result = runtime.block_on(async {
            let (orders, answers) = pipes()?;
            serve(orders, answers).await
        });
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("The engine stops: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn pipes() -> Result<(Receiver, Sender), EngineError> {
    let wrong = |error: std::io::Error| {
        EngineError::Orders(format!("standard input and output must be pipes of `weir serve`: {error}"))
    };
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(wrong)?;
    let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(wrong)?;
    Ok((Receiver::from_owned_fd(input).map_err(wrong)?, Sender::from_owned_fd(output).map_err(wrong)?))
}
