//! Memory, disk, the port, and who else is to be reached.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use super::Finding;
use crate::cli::health;
use crate::config::Config;

/// Free memory below which a runner has too little.
const MEMORY: u64 = 1 << 30;
/// Free disk below which engines and caches have too little.
const DISK: u64 = 2 << 30;
/// Longest wait for an orchestrator.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn weir() -> Finding {
    Finding::ok(
        "weir",
        format!("{}, {} cores", env!("CARGO_PKG_VERSION"), std::thread::available_parallelism().map_or(1, usize::from)),
    )
}

pub(super) fn look(config: &Config, orchestrator: Option<&str>) -> Vec<Finding> {
    let mut findings = vec![memory(), disk(&config.engine.models), port(config)];
    findings.push(match orchestrator {
        None => Finding::unused("orchestrator", "not asked for; --orchestrator HOST:PORT tries one"),
        Some(name) => reach(name),
    });
    findings
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn memory() -> Finding {
    match procfs::Current::current().map(|info: procfs::Meminfo| info.mem_available) {
        Ok(Some(free)) if free >= MEMORY => Finding::ok("memory", format!("{} free", gib(free))),
        Ok(Some(free)) => Finding::missing("memory", format!("{} free", gib(free)), "1 GiB or more should be free"),
        _ => Finding::unused("memory", "the system does not tell"),
    }
}

fn disk(models: &Path) -> Finding {
    let name = models.display();
    let Ok(found) = nix::sys::statvfs::statvfs(models) else {
        let remedy = format!("only models and built engines need it: mkdir {name}, or choose MODEL_DIR");
        return Finding { remedy, ..Finding::unused("disk", format!("there is no {name}")) };
    };
    let free = found.blocks_available() * found.fragment_size();
    let text = format!("{} free for {name}", gib(free));
    if free >= DISK {
        Finding::ok("disk", text)
    } else {
        Finding::missing("disk", text, "2 GiB or more should be free")
    }
}

fn port(config: &Config) -> Finding {
    let serve = &config.supervisor;
    let address = SocketAddr::new(serve.host, serve.port);
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok("port", format!("{address} is free")),
        Err(error) => {
            let here = SocketAddr::new(health::here(serve.host), serve.port);
            let told = health::asked(here).ok().and_then(|told| told["status"].as_str().map(str::to_owned));
            match told {
                Some(word) => Finding::ok("port", format!("{address}: a runner is there and says {word}")),
                None => {
                    Finding::missing("port", format!("{address}: {error}"), "end what listens there, or choose PORT")
                }
            }
        }
    }
}

fn reach(name: &str) -> Finding {
    let remedy = "check its name, its firewall and whether it runs";
    let addresses = match name.to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return Finding::missing("orchestrator", format!("{name}: {error}"), remedy),
    };
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Finding::ok("orchestrator", format!("{name} takes connections")),
            Err(error) => last = error.to_string(),
        }
    }
    Finding::missing("orchestrator", format!("{name}: {last}"), remedy)
}
