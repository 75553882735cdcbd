//! What process 1 owes its container: nobody else collects orphans that died.

use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// Collects dead orphans for as long as it is polled; at once done when this process is not number 1. Children that
/// `ours` knows are left to whoever waits for them.
pub(super) async fn reap(ours: impl Fn(u32) -> bool) {
    if std::process::id() != 1 {
        return;
    }
    let Ok(mut died) = signal(SignalKind::child()) else { return };
    loop {
        collect(&ours);
        // The timer is for an orphan that hides behind a child of ours that is not yet collected.
        tokio::select! {
            _ = died.recv() => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
}

fn collect(ours: &impl Fn(u32) -> bool) {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) = waitid(Id::All, look) {
        if ours(pid.as_raw() as u32) || waitpid(Pid::from_raw(pid.as_raw()), Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn any_other_process_leaves_its_children_alone() {
        super::reap(|_| false).await;
    }
}
