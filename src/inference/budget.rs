//! Whether a graph fits: what it will take against what is free, before anything is loaded.
//!
//! `needed = c · weights + activations + ports + reserve`, where
//!
//! - weights are all of the graph's in the precision that it has, and c is 1; with TensorRT 2, since it holds the network's
//!   weights beside those of the engine while it builds;
//! - activations are the most that is alive at once when the nodes run in order;
//! - ports are all inputs and outputs, so state counts twice: as it is read and as it is written;
//! - the reserve is what a provider takes for itself: nothing on the CPU, 512 MiB on a GPU for handles and workspaces.
//!
//! It is an estimate from shapes: a runtime that fuses takes less, one that searches for the fastest convolution more.

use super::Provider;
use super::memory::Memory;

/// What a provider of a GPU takes for itself.
const RESERVE: u64 = 512 << 20;

/// What a graph takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// All weights.
    pub weights: u64,
    /// The most that values between inputs and outputs have together.
    pub activations: u64,
    /// All inputs and outputs.
    pub ports: u64,
}

impl Needs {
    /// Bytes that the graph takes on `provider`, by the formula above.
    pub fn on(&self, provider: Provider) -> u64 {
        let (copies, reserve) = match provider {
            Provider::Cpu => (1, 0),
            Provider::Cuda => (1, RESERVE),
            Provider::Tensorrt => (2, RESERVE),
        };
        copies * self.weights + self.activations + self.ports + reserve
    }
}

/// Bytes that are free where a session will be, if that is known.
pub(super) fn free(memory: &Memory) -> Option<u64> {
    match memory {
        Memory::Cuda(stream) => stream.memory().ok().map(|[free, _]| free),
        _ => host(),
    }
}

/// Bytes of the host's memory that can be had: what the system tells, or less where a control group allows less.
fn host() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let available = read("/proc/meminfo").as_deref().and_then(available)?;
    let group = read("/sys/fs/cgroup/memory.max").zip(read("/sys/fs/cgroup/memory.current"));
    let left = group.and_then(|(most, now)| Some(parsed(&most)?.saturating_sub(parsed(&now)?)));
    Some(left.map_or(available, |left| left.min(available)))
}

fn parsed(text: &str) -> Option<u64> {
    // A group without a limit says `max`.
    text.trim().parse().ok()
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Why a graph does not fit, if it does not.
pub(super) fn refusal(name: &str, needs: &Needs, provider: Provider, free: u64) -> Option<String> {
    let needed = needs.on(provider);
    if needed <= free {
        return None;
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let place = if provider == Provider::Cpu { "memory" } else { "memory of the GPU" };
    Some(format!(
        "the graph {name} needs about {:.1} GiB of {place} (weights {:.1}, activations {:.1}), {:.1} GiB are free; take a \
         smaller size, fewer steps or ControlNets, half precision, or stop what else is running",
        gib(needed),
        gib(needs.weights),
        gib(needs.activations),
        gib(free)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_estimate_is_its_formula() {
        let needs = Needs { weights: 4 * GIB, activations: GIB, ports: 2500 };
        assert_eq!(needs.on(Provider::Cpu), 5 * GIB + 2500);
        assert_eq!(needs.on(Provider::Cuda), 5 * GIB + GIB / 2 + 2500);
        assert_eq!(needs.on(Provider::Tensorrt), 9 * GIB + GIB / 2 + 2500);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_numbers() {
        let needs = Needs { weights: 4 * GIB, activations: GIB, ports: 0 };
        assert_eq!(refusal("stream", &needs, Provider::Cpu, 5 * GIB), None);
        let text = refusal("stream", &needs, Provider::Cpu, 5 * GIB - 1).unwrap_or_default();
        assert!(text.contains("stream needs about 5.0 GiB of memory (weights 4.0, activations 1.0), 5.0"), "{text}");
        let text = refusal("stream", &needs, Provider::Tensorrt, 8 * GIB).unwrap_or_default();
        assert!(text.contains("9.5 GiB of memory of the GPU"), "{text}");
    }

    #[test]
    fn free_memory_is_what_the_system_tells() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    1024 kB\n"), Some(1 << 20));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        assert_eq!((parsed("max\n"), parsed("4096\n")), (None, Some(4096)));
        assert!(host().is_some_and(|free| free > 0));
    }
}
