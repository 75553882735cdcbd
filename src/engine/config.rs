//! Settings of the engine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::refusal::Refusals;

/// What an update does to parameters that it does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdateMode {
    /// They return to the pipeline's defaults, as gateways expect.
    #[default]
    Replace,
    /// They keep their values.
    Merge,
}

/// Settings of the engine, handed over the link at start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Parameters with which the pipeline is loaded before the first stream.
    pub initial_params: serde_json::Map<String, serde_json::Value>,
    /// What is left out of them for want of a model, where they are the pipeline's own.
    #[serde(skip)]
    pub left_out: Vec<String>,
    /// Root of the models.
    pub models: PathBuf,
    /// Sessions at a time.
    pub capacity: usize,
    /// What an update does to parameters that it does not name.
    pub updates: UpdateMode,
    /// Where pictures may be that parameters name by URL: the words of [`Policy::parse`](crate::trickle::Policy::parse).
    pub pictures: String,
    /// Milliseconds without a byte of input, from the start on, after which a session is taken for orphaned.
    pub orphan_ms: u64,
    /// Milliseconds without a byte of input, once there was some, after which a session ends.
    pub input_timeout_ms: u64,
    /// Milliseconds between two status events.
    pub status_ms: u64,
    /// Milliseconds of queued work up to which every frame is kept; beyond it the newest wins.
    pub freshness_ms: u64,
    /// Milliseconds that a session may take to end.
    pub stop_ms: u64,
    /// Milliseconds between two entries of the ledger, and between two debits of the network.
    pub interval_ms: u64,
    /// Whether the events channel hears of every interval.
    pub interval_events: bool,
    /// Where a trace of every frame is written to, if anywhere.
    pub trace: Option<PathBuf>,
    /// Frames that are refused on purpose, for tests of the counters.
    pub refuse: Refusals,
    /// Leaves frames unmeasured and intervals unaccounted for, for benchmarks of what measuring costs.
    pub unmeasured: bool,
    /// The trickle client.
    pub trickle: crate::trickle::Config,
    /// Codecs.
    pub media: crate::media::Config,
    /// ONNX Runtime.
    pub inference: crate::inference::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial_params: serde_json::Map::new(),
            left_out: Vec::new(),
            models: "/models".into(),
            capacity: 1,
            updates: UpdateMode::Replace,
            pictures: "public".into(),
            orphan_ms: 20_000,
            input_timeout_ms: 60_000,
            status_ms: 10_000,
            freshness_ms: 400,
            stop_ms: 2_500,
            interval_ms: 5_000,
            interval_events: false,
            trace: None,
            refuse: Refusals::default(),
            unmeasured: false,
            trickle: Default::default(),
            media: Default::default(),
            inference: Default::default(),
        }
    }
}
