//! Settings of the supervisor.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Settings of the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Bearer token that starts, updates and status calls need; empty for none.
    pub auth_token: String,
    /// What `/version` calls the pipeline; go-livepeer compares it.
    pub pipeline: String,
    /// Name of the pipeline to load and of the `model_id` to accept.
    pub model_id: String,
    /// What `/version` says.
    pub version: String,
    /// Sessions at a time.
    pub capacity: usize,
    /// Largest accepted request body in bytes.
    pub max_body: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Engine failures within `restart_window_ms` that make the state `ERROR`.
    pub max_failures: u32,
    /// Milliseconds.
    pub restart_window_ms: u64,
    /// Milliseconds without a sign of life after which the engine is replaced.
    pub hang_ms: u64,
    /// Milliseconds that the pipeline may take to load.
    pub load_ms: u64,
    /// Milliseconds between SIGTERM and the end.
    pub shutdown_ms: u64,
    /// The ledger.
    pub ledger: LedgerConfig,
}

/// Settings of the ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LedgerConfig {
    /// Folder that it is written to; none for no ledger.
    pub path: Option<PathBuf>,
    /// Bytes that all of its files may have together; the oldest are removed.
    pub max_size: usize,
    /// Milliseconds after which a file is removed.
    pub max_age_ms: u64,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self { path: None, max_size: 1 << 30, max_age_ms: 400 * 86_400_000 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: IpAddr::from([0, 0, 0, 0]),
            port: 8000,
            auth_token: String::new(),
            pipeline: "live-video-to-video".into(),
            model_id: "noop".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            capacity: 1,
            max_body: 2 * 1024 * 1024,
            max_connections: 256,
            max_failures: 3,
            restart_window_ms: 120_000,
            hang_ms: 10_000,
            load_ms: 180_000,
            shutdown_ms: 3_000,
            ledger: LedgerConfig::default(),
        }
    }
}
