//! `weir prepare`: loads the pipeline with each set of parameters that would take long when a stream asks for it, and ends,
//! so that what loading leaves behind (engines built for this GPU) is there when streams come.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{ArgMatches, Command};
use http::Method;
use serde_json::Value;
use tokio::sync::oneshot;

use super::rig::call;
use super::{engine, logging, serve, settings};
use crate::pipeline::{Params, registry};
use crate::supervisor::{self, EngineCommand};

/// The least time that loading gets here: engines may have to be built.
const LOAD: u64 = 3_600_000;
/// Time between two looks at the pipeline.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn command() -> Command {
    let about = "Load the pipeline and end, so that engines are built before streams come. 0 if it loads.";
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
    // What one instance leaves behind serves all.
    config.supervisor.capacity = 1;
    config.engine.capacity = 1;
    let name = config.supervisor.model_id.clone();
    let began = Instant::now();
    match prepare(config) {
        Ok(count) => {
            let sets = if count == 1 { String::new() } else { format!(" with {count} sets of parameters") };
            super::print(&format!("{name} is prepared{sets}; it took {:.1} s.\n", began.elapsed().as_secs_f64()));
            ExitCode::SUCCESS
        }
        Err(message) => {
            super::complain(&format!("{name} is not prepared: {message}"));
            ExitCode::FAILURE
        }
    }
}

/// Loads one set after another. Returns how many there were.
fn prepare(mut config: crate::config::Config) -> Result<usize, String> {
    let name = config.supervisor.model_id.clone();
    // A name that is not known is the engine's to refuse.
    let sets = registry::find(&name).map_or_else(
        || vec![Params::new()],
        |pipeline| {
            let given = &config.engine.initial_params;
            let given = match given.is_empty() {
                true => {
                    let (preset, lacks) = pipeline.preset(&config.engine.models);
                    lacks.iter().for_each(|lack| super::complain(lack));
                    preset
                }
                false => given.clone(),
            };
            pipeline.preparations(&given, config.engine.inference.provider)
        },
    );
    let count = sets.len();
    for (number, params) in sets.into_iter().enumerate() {
        config.engine.initial_params = params;
        let began = Instant::now();
        let told = |detail: &str| {
            let seconds = began.elapsed().as_secs();
            super::complain(&format!("[{}/{count}] {detail} ({seconds} s)", number + 1));
        };
        load(&config, &told).map_err(|message| match count {
            1 => message,
            _ => format!(
                "{message} (set {} of {count}: {})",
                number + 1,
                Value::Object(config.engine.initial_params.clone())
            ),
        })?;
    }
    Ok(count)
}

/// Loads the pipeline once. `told` hears of each step.
fn load(config: &crate::config::Config, told: &dyn Fn(&str)) -> Result<(), String> {
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
                loaded = loaded(address, told) => outcome = loaded,
            }
        };
        let run = supervisor::run(config.supervisor.clone(), engine, command, end, |address| {
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
async fn loaded(address: oneshot::Receiver<SocketAddr>, told: &dyn Fn(&str)) -> Result<(), String> {
    let address = address.await.map_err(|_| "it does not listen".to_owned())?;
    let mut last = String::new();
    loop {
        let (_, body) =
            call::request(address, Method::GET, "/health", None).await.map_err(|error| error.to_string())?;
        let health: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        match health["status"].as_str() {
            Some("IDLE") => return Ok(()),
            Some("ERROR") => return Err(health["detail"].as_str().unwrap_or("it cannot load").to_owned()),
            _ => {
                if let Some(detail) = health["detail"].as_str().filter(|detail| *detail != last) {
                    last = detail.to_owned();
                    told(detail);
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}
