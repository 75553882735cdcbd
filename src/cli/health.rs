//! `weir health`: asks the runner on this machine how it is; what the image's HEALTHCHECK runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use http::Method;
use serde_json::Value;

use super::rig::call;
use super::settings;

pub(super) fn command() -> Command {
    let about = "Ask the runner on this machine how it is. 0 unless it says ERROR or does not answer.";
    settings::arguments(Command::new("health").about(about))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let loaded = match settings::load(matches) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let serve = &loaded.config.supervisor;
    match asked(SocketAddr::new(here(serve.host), serve.port)) {
        Ok(answer) => {
            let word = answer["status"].as_str().unwrap_or("?");
            let detail = answer["detail"].as_str().map(|detail| format!(": {detail}")).unwrap_or_default();
            super::print(&format!("{word}{detail}\n"));
            if matches!(word, "?" | "ERROR") { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            super::complain(&format!("no answer: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// An address to reach a listener on `host` by, from this machine.
pub(super) fn here(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        named => named,
    }
}

pub(super) fn asked(address: SocketAddr) -> std::io::Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (_, body) = runtime.block_on(call::request(address, Method::GET, "/health", None))?;
    serde_json::from_slice(&body).map_err(std::io::Error::other)
}
