//! What the processes of a runner use, from `/proc`.

use std::collections::HashMap;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use procfs::ProcError;
use procfs::process::Process;
use serde::Serialize;

/// One look at a tree of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Look {
    /// Resident bytes of all processes, pages that they share counted in each.
    pub rss: u64,
    /// Resident bytes of all processes, shared pages divided among those that share them.
    pub pss: u64,
    /// Processes that were there.
    pub processes: usize,
}

/// What a tree of processes used over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Most resident megabytes (1,000,000 bytes) of all processes together.
    pub rss_peak_mb: f64,
    /// Their mean.
    pub rss_mean_mb: f64,
    /// As `rss_peak_mb`, shared pages counted once.
    pub pss_peak_mb: f64,
    /// Their mean.
    pub pss_mean_mb: f64,
}

const MB: f64 = 1e6;

/// Measures a process and its descendants.
pub struct Meter {
    root: u32,
    /// CPU time of each process at the last look, those that are gone included.
    cpu: HashMap<i32, Duration>,
    sum: (f64, f64),
    peak: Look,
    looks: u32,
}

/// The descendants of `root` and itself.
///
/// # Errors
/// `/proc` cannot be read.
pub fn tree(root: u32) -> Result<Vec<Process>, ProcError> {
    let root = i32::try_from(root).unwrap_or(0);
    let mut found = Vec::new();
    let mut others = Vec::new();
    for process in procfs::process::all_processes()?.flatten() {
        if process.pid == root {
            found.push(process);
        } else if let Ok(stat) = process.stat() {
            others.push((stat.ppid, process));
        }
    }
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        let mut rest = Vec::with_capacity(others.len());
        for (ppid, process) in others {
            if ppid == parent { found.push(process) } else { rest.push((ppid, process)) }
        }
        others = rest;
        next += 1;
    }
    Ok(found)
}

/// The children of `root` whose command line holds the argument `word`.
///
/// # Errors
/// `/proc` cannot be read.
pub fn children_with(root: u32, word: &str) -> Result<Vec<u32>, ProcError> {
    let children = tree(root)?.into_iter().skip(1);
    let has = |process: &Process| process.cmdline().is_ok_and(|words| words.iter().any(|each| each == word));
    Ok(children.filter(has).map(|process| process.pid.unsigned_abs()).collect())
}

/// CPU time of all threads that a process has and had, by its own clock, in nanoseconds: what `/proc/PID/stat` tells is cut
/// to hundredths of a second.
fn cpu_of(process: &Process) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(process.pid)).ok()?;
    Some(clock.now().ok()?.into())
}

fn memory_of(process: &Process) -> Option<(u64, u64)> {
    let rss = process.statm().ok()?.resident * procfs::page_size();
    let rollup = process.smaps_rollup().ok();
    let pss = rollup.and_then(|all| all.memory_map_rollup.0.first()?.extension.map.get("Pss").copied());
    Some((rss, pss.unwrap_or(rss)))
}

impl Meter {
    /// A meter of the process `root` and its descendants.
    pub fn new(root: u32) -> Self {
        Self { root, cpu: HashMap::new(), sum: (0.0, 0.0), peak: Look::default(), looks: 0 }
    }

    /// Looks once. Costs a few milliseconds, mostly in the kernel.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn look(&mut self) -> Result<Look, ProcError> {
        let mut look = Look::default();
        for process in tree(self.root)? {
            if let Some(cpu) = cpu_of(&process) {
                self.cpu.insert(process.pid, cpu);
            }
            if let Some((rss, pss)) = memory_of(&process) {
                look.rss += rss;
                look.pss += pss;
                look.processes += 1;
            }
        }
        self.sum.0 += look.rss as f64;
        self.sum.1 += look.pss as f64;
        self.peak.rss = self.peak.rss.max(look.rss);
        self.peak.pss = self.peak.pss.max(look.pss);
        self.looks += 1;
        Ok(look)
    }

    /// CPU time of every process that was ever seen, up to the last look.
    pub fn cpu(&self) -> Duration {
        self.cpu.values().sum()
    }

    /// Memory over all looks.
    pub fn memory(&self) -> Memory {
        let looks = f64::from(self.looks.max(1));
        Memory {
            rss_peak_mb: self.peak.rss as f64 / MB,
            rss_mean_mb: self.sum.0 / looks / MB,
            pss_peak_mb: self.peak.pss as f64 / MB,
            pss_mean_mb: self.sum.1 / looks / MB,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_is_found_and_measured() {
        let mut child = Command::new("sleep").arg("30").stdout(Stdio::null()).spawn().unwrap();
        // A process has its words a moment after it has its number.
        let began = std::time::Instant::now();
        while !children_with(std::process::id(), "30").unwrap().contains(&child.id()) {
            assert!(began.elapsed() < Duration::from_secs(30), "the child is not found");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut meter = Meter::new(child.id());
        let look = meter.look().unwrap();
        assert_eq!(look.processes, 1);
        assert!(look.rss > 100_000 && look.pss <= look.rss, "{look:?}");
        assert!(meter.cpu() < Duration::from_secs(1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(meter.look().unwrap().processes, 0);
        assert!(meter.memory().rss_peak_mb >= meter.memory().rss_mean_mb);
    }

    #[test]
    fn own_work_shows_as_cpu_time() {
        let mut meter = Meter::new(std::process::id());
        let started = std::time::Instant::now();
        let mut sum = 0_u64;
        while started.elapsed() < Duration::from_millis(60) {
            sum = std::hint::black_box(sum + 1);
        }
        meter.look().unwrap();
        assert!(meter.cpu() >= Duration::from_millis(20), "{:?} {sum}", meter.cpu());
    }
}
