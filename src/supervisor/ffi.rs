//! The one call into the system that has no safe form.

#![allow(unsafe_code)]

/// Makes the child that `command` starts die with this process: the kernel kills it when the thread that started it ends.
/// Start it from a thread that lives as long as the process.
pub(crate) fn die_with_parent(command: &mut tokio::process::Command) {
    let parent = std::process::id();
    let before_exec = move || {
        // SAFETY: `prctl` with PR_SET_PDEATHSIG and `getppid` touch no memory of this process; both are
        // async-signal-safe, as everything between fork and exec must be.
        let (failed, now) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0, libc::getppid()) };
        if failed {
            return Err(std::io::Error::last_os_error());
        }
        if now as u32 != parent {
            // The parent died before the call.
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing, takes no lock and calls only async-signal-safe functions.
    unsafe { command.pre_exec(before_exec) };
}
