//! Counters of the door.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// Counters of the door. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    /// Peers that are there.
    pub peers: IntGauge,
    events: IntCounterVec,
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// A name that is given twice.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let peers = IntGauge::new("weir_webrtc_peers", "WebRTC peers that are there.")?;
        registry.register(Box::new(peers.clone()))?;
        let help = "What happened to WebRTC peers and their media, one by one: pictures, packets, refusals, drops.";
        let events = IntCounterVec::new(Opts::new("weir_webrtc_events_total", help), &["event"])?;
        registry.register(Box::new(events.clone()))?;
        Ok(Self { peers, events })
    }

    /// It happened once more.
    pub fn count(&self, event: &str) {
        self.count_many(event, 1);
    }

    /// It happened so many times more.
    pub fn count_many(&self, event: &str, times: u64) {
        self.events.with_label_values(&[event]).inc_by(times);
    }
}
