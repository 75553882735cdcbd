//! Settings of the supervisor.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::tls::TlsPolicy;

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
    /// Whether callers beyond this machine are served without a token too.
    pub open: bool,
    /// What `/version` calls the pipeline; go-livepeer compares it.
    pub pipeline: String,
    /// Name of the pipeline to load and of the `model_id` to accept.
    pub model_id: String,
    /// What `/version` says.
    pub version: String,
    /// Sessions at a time.
    pub capacity: usize,
    /// Part of the time that the model may work, all sessions together, before another one is refused; 0 for no limit.
    pub max_load: f64,
    /// Bytes of GPU memory that must be free for a session beside others.
    pub min_free_memory: usize,
    /// Largest accepted request body in bytes.
    pub max_body: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Connections at a time from one address.
    pub max_client_connections: usize,
    /// Streams at a time that one address started; 0 for no limit.
    pub max_client_streams: usize,
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
    /// Recordings.
    pub record: RecordConfig,
    /// Whether callers may have another pipeline loaded while no stream runs.
    pub switch: bool,
    /// Folder of ComfyUI workflows that are offered to callers, if any.
    pub workflows: Option<PathBuf>,
    /// What stands before `/stream/…`: nothing, or a path that begins with a slash and ends without one.
    pub stream_prefix: String,
    /// Registration as a capability.
    pub byoc: Byoc,
    /// Registration as a live runner.
    pub runner: Runner,
    /// Milliseconds between SIGTERM and the end of streams that still run; nothing new is taken meanwhile.
    pub drain_ms: u64,
    /// WebRTC.
    pub webrtc: crate::webrtc::Config,
}

/// Settings of the ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LedgerConfig {
    /// Folder that it is written to; none for no ledger.
    pub path: Option<PathBuf>,
    /// Without a folder that can be written from the start there is no ledger, and no alarm.
    pub optional: bool,
    /// Bytes that all of its files may have together; the oldest are removed.
    pub max_size: usize,
    /// Milliseconds after which a file is removed.
    pub max_age_ms: u64,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self { path: None, optional: false, max_size: 1 << 30, max_age_ms: 400 * 86_400_000 }
    }
}

/// Settings of recordings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordConfig {
    /// Folder that they are written to; none for no recordings.
    pub path: Option<PathBuf>,
    /// Bytes after which one ends.
    pub max_size: usize,
    /// Milliseconds after which one ends.
    pub max_time_ms: u64,
    /// Bytes that all of them may have together, those under way at their largest; no further one begins beyond it.
    pub max_total: usize,
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self { path: None, max_size: 1 << 30, max_time_ms: 600_000, max_total: 10 << 30 }
    }
}

/// Registration as a capability of an orchestrator (BYOC). Nothing is registered without an orchestrator and a secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Byoc {
    /// Where the orchestrator is reached; empty for none.
    pub orchestrator: String,
    /// What the orchestrator knows its workers by.
    pub secret: String,
    /// Name of the capability; empty for the model id.
    pub name: String,
    /// Where the orchestrator reaches this process; empty for the address that is listened on.
    pub url: String,
    /// For people.
    pub description: String,
    /// Price of a unit, in units of `currency` over `price_scaling`.
    pub price_per_unit: u64,
    /// What the price is divided by.
    pub price_scaling: u64,
    /// Currency of the price; empty for the orchestrator's own default.
    pub currency: String,
    /// How the orchestrator's certificate is judged.
    pub tls: TlsPolicy,
    /// Milliseconds between two registrations while no stream runs, for orchestrators that forget.
    pub refresh_ms: u64,
}

/// Registration as a live runner of an orchestrator. Nothing is registered without an orchestrator and a secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Runner {
    /// Where the orchestrator is reached; empty for none.
    pub orchestrator: String,
    /// What the orchestrator registers its runners by.
    pub secret: String,
    /// Where the orchestrator reaches this process; empty for the address that is listened on.
    pub url: String,
    /// What clients look for; empty for `live-video-to-video/` and the model id.
    pub app: String,
    /// Price of a `unit` in `currency`, a decimal number.
    pub price: String,
    /// Currency of the price.
    pub currency: String,
    /// `hour`, `720p` or `fixed`.
    pub unit: String,
    /// Name of the runner for its operator; may be empty.
    pub label: String,
    /// Text that everybody may read, at most 1024 bytes; may be empty.
    pub metadata: String,
    /// How the orchestrator's certificate is judged.
    pub tls: TlsPolicy,
}

impl Default for Runner {
    fn default() -> Self {
        Self {
            orchestrator: String::new(),
            secret: String::new(),
            url: String::new(),
            app: String::new(),
            price: "0".into(),
            currency: "usd".into(),
            unit: "hour".into(),
            label: String::new(),
            metadata: String::new(),
            tls: TlsPolicy::Skip,
        }
    }
}

/// The secret is left out.
impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("app", &self.app).field("url", &self.url).finish_non_exhaustive()
    }
}

/// The secret is left out.
impl std::fmt::Debug for Byoc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Byoc").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

impl Default for Byoc {
    fn default() -> Self {
        Self {
            orchestrator: String::new(),
            secret: String::new(),
            name: String::new(),
            url: String::new(),
            description: "Live AI video on Weir".into(),
            price_per_unit: 0,
            price_scaling: 1,
            currency: String::new(),
            tls: TlsPolicy::Skip,
            refresh_ms: 60_000,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: IpAddr::from([0, 0, 0, 0]),
            port: 8000,
            auth_token: String::new(),
            open: false,
            pipeline: "live-video-to-video".into(),
            model_id: "noop".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            capacity: 1,
            max_load: 0.9,
            min_free_memory: 256 << 20,
            max_body: 2 * 1024 * 1024,
            max_connections: 256,
            max_client_connections: 128,
            max_client_streams: 0,
            max_failures: 3,
            restart_window_ms: 120_000,
            hang_ms: 10_000,
            load_ms: 180_000,
            shutdown_ms: 3_000,
            ledger: LedgerConfig::default(),
            record: RecordConfig::default(),
            switch: false,
            workflows: None,
            stream_prefix: String::new(),
            byoc: Byoc::default(),
            runner: Runner::default(),
            drain_ms: 0,
            webrtc: crate::webrtc::Config::default(),
        }
    }
}
