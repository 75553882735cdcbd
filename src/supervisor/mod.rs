//! The process that answers: the HTTP API, who holds which slot, and the engine child with its restarts.
//!
//! The port is bound before the engine is started, so that `/health` says `LOADING` from the first connection on. A
//! start request takes its slot on arrival; the slot is free when the engine says that the session has ended. An engine
//! that dies, hangs or loads for ever is replaced in place, and its sessions go on in the next one; when that happens too
//! often the state is `ERROR` until the process is restarted.
//!
//! | queue | size | when full |
//! | --- | --- | --- |
//! | connections | `max_connections` | whoever has been idle for longest is closed; with none idle the new one is |
//! | request body | `max_body` bytes, 10 s | 400 |
//! | messages to the engine | 64 | the request is answered with `insufficient capacity` |
//! | requests that wait for the engine | 256 | the same |
//! | lines of the ledger | 4096 | the newest is lost, counted, and told in the ledger later |
//! | last lines of the engine's log | 100 of 4096 bytes | the oldest goes |

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

mod accounts;
mod admission;
mod api;
mod book;
mod choice;
mod config;
mod doors;
mod engine;
mod ffi;
#[doc(hidden)]
pub mod fuzz;
mod hardware;
mod hub;
mod ledger;
mod metrics;
mod random;
mod rates;
mod reap;
mod recordings;
mod restarts;
mod server;
mod tail;
mod voice;

pub use config::*;
pub use engine::EngineCommand;
pub(crate) use ffi::die_with_parent;

/// Why the supervisor cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken, or the address is not one of this machine.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A metric has a bad name.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Lets streams that run go on for a while; new ones are refused already.
async fn drain(hub: &hub::Hub) {
    let until = tokio::time::Instant::now() + Duration::from_millis(hub.config.drain_ms);
    hub.live.hurry();
    if hub.config.drain_ms > 0 && hub.book().in_use() > 0 {
        info!(drain_ms = hub.config.drain_ms, "Streams that run may go on; no new one is taken.");
    }
    while hub.book().in_use() > 0 && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs until `shutdown` resolves, then ends every session, the engine and the server within `config.shutdown_ms`.
///
/// `engine_config` is the JSON of the engine's settings, `command` what plays the engine, and `bound` is called once with
/// the address that was bound. Run it on a thread that lives as long as the process: the engine dies with that thread.
///
/// # Errors
/// [`Error`], before anything was started.
pub async fn run(
    config: Config,
    engine_config: Value,
    command: EngineCommand,
    shutdown: impl Future<Output = ()>,
    bound: impl FnOnce(SocketAddr),
) -> Result<(), Error> {
    let address = SocketAddr::new(config.host, config.port);
    let bind = |source| Error::Bind { address, source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let hub = hub::Hub::new(config)?;
    let closing = CancellationToken::new();
    let most = (hub.config.max_connections, hub.config.max_client_connections);
    let door = hub.config.webrtc.enabled.then(|| doors::webrtc::Door::new(hub.clone()));
    let serving = {
        let (hub, closing) = (hub.clone(), closing.clone());
        let router = api::router(hub.clone(), door.clone());
        tokio::spawn(async move { server::serve(listener, router, most, &hub.metrics, closing).await })
    };
    info!("Runner version: {}", hub.config.version);
    info!("Started up with pipeline={} model_id={}", hub.config.pipeline, hub.config.model_id);
    info!("Listening on http://{address}");
    if !address.ip().is_loopback() && !hub.config.open && hub.config.auth_token.is_empty() {
        info!(
            "Callers beyond this machine get health, version and hardware alone: set serve.auth_token, or serve.open."
        );
    }
    bound(address);
    let registering = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(doors::byoc::keep(hub.clone(), address)));

    let device = engine_config.pointer("/inference/device").map_or_else(|| "0".into(), Value::to_string);
    let beating = doors::runner::keep(hub.clone(), address, device.clone());
    let beating = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(beating));
    let children = engine::Children::default();
    let ours = children.clone();
    let watched = hub.clone();
    let watching = tokio::spawn(async move { watched.watch_gpu(device).await });
    let reaping = tokio::spawn(reap::reap(move |pid| ours.has(pid)));
    let keeping = engine::keep(hub.clone(), command, engine_config, children);
    tokio::pin!(keeping);
    // The engine is kept while streams go on.
    let drained = async {
        shutdown.await;
        hub.book().end();
        drain(&hub).await;
        if let Some(door) = &door {
            let _ = tokio::time::timeout(Duration::from_millis(hub.config.shutdown_ms / 2), door.close()).await;
        }
    };
    tokio::select! {
        () = keeping.as_mut() => {}
        () = drained => {
            info!("Shutting down");
            hub.ending.cancel();
            let grace = Duration::from_millis(hub.config.shutdown_ms);
            if tokio::time::timeout(grace, keeping).await.is_err() {
                warn!("The engine is left to the kernel.");
            }
        }
    }
    // Whatever ended, nothing goes on being offered.
    hub.ending.cancel();
    let farewells = async { tokio::join!(registering, beating) };
    let _ = tokio::time::timeout(doors::byoc::FAREWELL.max(doors::runner::FAREWELL), farewells).await;
    let _ = tokio::time::timeout(hub::START_WAIT, hub.finish()).await;
    closing.cancel();
    let _ = serving.await;
    reaping.abort();
    watching.abort();
    hub.close_ledger();
    info!("Stopped");
    Ok(())
}
