//! What ends a run before its time: Ctrl-C and SIGTERM.

use tokio::signal::unix::{SignalKind, signal};

use super::RigError;

/// Signals that end a run.
pub struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    /// Listens from now on.
    ///
    /// # Errors
    /// The system has no place for another listener.
    pub fn new() -> Result<Self, RigError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(RigError::Socket)?,
            terminate: signal(SignalKind::terminate()).map_err(RigError::Socket)?,
        })
    }

    /// Comes with the next signal.
    pub async fn signal(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// `work`, unless a signal comes before it is done.
    ///
    /// # Errors
    /// That of `work`, or [`RigError::Ended`] when a signal comes.
    pub async fn or<T>(&mut self, work: impl Future<Output = Result<T, RigError>>) -> Result<T, RigError> {
        tokio::select! {
            result = work => result,
            () = self.signal() => Err(RigError::Ended("a signal came".into())),
        }
    }
}
