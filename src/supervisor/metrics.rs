//! The supervisor's own numbers.

use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// Counters and gauges of the supervisor. Names begin with `weir_supervisor_`, except for `version`.
pub(super) struct Metrics {
    registry: Registry,
    /// Start requests by outcome: `accepted`, `refused`, `full`, `failed`.
    pub starts: IntCounterVec,
    /// Requests by route and status code.
    pub requests: IntCounterVec,
    /// Engine failures by cause: `spawn`, `exit`, `hang`, `slow_load`, `load`, `link`.
    pub failures: IntCounterVec,
    /// Sessions handed to a new engine.
    pub resumed: IntCounter,
    /// Sessions that ended, by `fault`: `true` or `false`.
    pub ended: IntCounterVec,
    /// Connections closed unserved because all were in use.
    pub connections_refused: IntCounter,
    /// Connections closed to make room for a new one.
    pub connections_evicted: IntCounter,
    /// Exchanges with the orchestrator about the capability, by `call` and `outcome`.
    byoc_calls: IntCounterVec,
    /// 1 while the capability is registered as far as we know.
    byoc_registered: IntGauge,
    /// Slots in use.
    pub sessions: IntGauge,
    /// 1 while the engine is warm.
    pub warm: IntGauge,
    /// Milliseconds that the last load took.
    pub load_ms: IntGauge,
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// A name that is not well formed or given twice, which a test excludes.
    pub fn new(version: &str, capacity: usize) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let opts = |name: &str, help: &str| Opts::new(format!("weir_supervisor_{name}"), help);
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::with_opts(opts(name, help))?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let vector = |name: &str, help: &str, labels: &[&str]| {
            let vector = IntCounterVec::new(opts(name, help), labels)?;
            registry.register(Box::new(vector.clone())).map(|()| vector)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::with_opts(opts(name, help))?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        gauge("capacity", "Session slots.")?.set(capacity as i64);
        let about = IntGaugeVec::new(Opts::new("version", "Version of the runner."), &["app", "version"])?;
        about.with_label_values(&["ai-runner", version]).set(1);
        registry.register(Box::new(about))?;
        Ok(Self {
            starts: vector("starts_total", "Start requests by outcome.", &["outcome"])?,
            requests: vector("http_requests_total", "Requests by route and status code.", &["route", "code"])?,
            failures: vector("engine_failures_total", "Engine failures by cause.", &["cause"])?,
            resumed: counter("sessions_resumed_total", "Sessions handed to a new engine.")?,
            ended: vector("sessions_ended_total", "Sessions that ended, by whose fault it was.", &["fault"])?,
            connections_refused: counter("connections_refused_total", "Connections closed because all were in use.")?,
            connections_evicted: counter("connections_evicted_total", "Idle connections closed to make room.")?,
            byoc_calls: vector(
                "byoc_calls_total",
                "Exchanges with the orchestrator about the capability.",
                &["call", "outcome"],
            )?,
            byoc_registered: gauge("byoc_registered", "1 while the capability is registered.")?,
            sessions: gauge("sessions", "Session slots in use.")?,
            warm: gauge("engine_warm", "1 while the engine is warm.")?,
            load_ms: gauge("engine_load_milliseconds", "Time that the last load took.")?,
            registry: registry.clone(),
        })
    }

    /// Notes an exchange about the capability: a register or an unregister, and whether it was taken.
    pub fn byoc(&self, register: bool, taken: bool) {
        let call = if register { "register" } else { "unregister" };
        self.byoc_calls.with_label_values(&[call, if taken { "done" } else { "failed" }]).inc();
        if taken {
            self.byoc_registered.set(i64::from(register));
        } else if register {
            self.byoc_registered.set(0);
        }
    }

    /// The numbers as Prometheus text.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8(out).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dashboards read these names; a change here is a change of contract.
    #[test]
    fn names_and_labels_stay() {
        let metrics = Metrics::new("1.2.3", 2).expect("metrics");
        metrics.starts.with_label_values(&["accepted"]).inc();
        metrics.requests.with_label_values(&["/health", "200"]).inc();
        metrics.failures.with_label_values(&["exit"]).inc();
        metrics.ended.with_label_values(&["false"]).inc();
        metrics.byoc(true, true);
        let text = metrics.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "version{app=\"ai-runner\",version=\"1.2.3\"} 1",
            "weir_supervisor_byoc_calls_total{call=\"register\",outcome=\"done\"} 1",
            "weir_supervisor_byoc_registered 1",
            "weir_supervisor_capacity 2",
            "weir_supervisor_connections_evicted_total 0",
            "weir_supervisor_connections_refused_total 0",
            "weir_supervisor_engine_failures_total{cause=\"exit\"} 1",
            "weir_supervisor_engine_load_milliseconds 0",
            "weir_supervisor_engine_warm 0",
            "weir_supervisor_http_requests_total{code=\"200\",route=\"/health\"} 1",
            "weir_supervisor_sessions 0",
            "weir_supervisor_sessions_ended_total{fault=\"false\"} 1",
            "weir_supervisor_sessions_resumed_total 0",
            "weir_supervisor_starts_total{outcome=\"accepted\"} 1",
        ];
        assert_eq!(lines, expected);
    }
}
