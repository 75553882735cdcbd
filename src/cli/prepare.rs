//! `weir prepare`: loads the pipeline once and ends, so that what loading leaves behind (engines built for this GPU) is
//! there when streams come.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{ArgMatches, Command};
use http::Method;
use serde_json::Value;
use tokio::sync::oneshot;

use super::rig::call;
use super::{engine, logging, serve, settings};
use crate::supervisor::{self, EngineCommand};

/// The least time that loading gets here: engines may have to be built.
const LOAD: u64 = 3_600_000;
/// Time between two looks at the pipeline.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn command() -> Command {
    let about = "Load the pipeline once and end, so that engines are built before streams come. 0 if it loads.";
    settings::arguments(Command::new("prepare").about(about))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let mut config = match settings::load(matches) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    logging::start(&config.log);
    // A port of its own: a runner may be serving on the usual one.
    config.supervisor.host = Ipv4Addr::LOCALHOST.into();
    config.supervisor.port = 0;
    config.supervisor.load_ms = config.supervisor.load_ms.max(LOAD);
    config.supervisor.max_failures = 1;
    let name = config.supervisor.model_id.clone();
    let began = Instant::now();
    match prepare(config) {
        Ok(()) => {
            super::print(&format!("{name} is prepared; it took {:.1} s.\n", began.elapsed().as_secs_f64()));
            ExitCode::SUCCESS
        }
        Err(message) => {
            super::complain(&format!("{name} is not prepared: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn prepare(config: crate::config::Config) -> Result<(), String> {
    let command = EngineCommand::Process { program: serve::program()?, arguments: engine::arguments(&config.log) };
    let engine = serde_json::to_value(&config.engine).map_err(|error| format!("settings of the engine: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let result = runtime.block_on(async {
        let (tell, address) = oneshot::channel();
        let asked = serve::asked_to_end().map_err(|error| format!("signals cannot be received: {error}"))?;
        let mut outcome = Err("it was asked to end".to_owned());
        let end = async {
            tokio::select! {
                () = asked => {}
                loaded = loaded(address) => outcome = loaded,
            }
        };
        let run = supervisor::run(config.supervisor, engine, command, end, |address| {
            // The receiver is gone only when everything ends.
            let _ = tell.send(address);
        });
        run.await.map_err(|error| error.to_string())?;
        outcome
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Waits until the pipeline is there.
async fn loaded(address: oneshot::Receiver<SocketAddr>) -> Result<(), String> {
    let address = address.await.map_err(|_| "it does not listen".to_owned())?;
    loop {
        let (_, body) =
            call::request(address, Method::GET, "/health", None).await.map_err(|error| error.to_string())?;
        let health: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        match health["status"].as_str() {
            Some("IDLE") => return Ok(()),
            Some("ERROR") => return Err(health["detail"].as_str().unwrap_or("it cannot load").to_owned()),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}
