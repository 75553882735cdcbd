//! The supervisor's own numbers.

use prometheus::{Encoder, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::hardware::Gpus;
use crate::metering::openmetrics::{self, Exposition};

/// Why an engine is replaced.
const CAUSES: [&str; 6] = ["spawn", "exit", "hang", "slow_load", "load", "link"];
/// What becomes of a start request.
const OUTCOMES: [&str; 4] = ["accepted", "refused", "full", "failed"];

/// Counters and gauges of the supervisor. Names begin with `weir_supervisor_`, except for `version`.
#[derive(Clone)]
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
    /// Heartbeats by `outcome`.
    heartbeats: IntCounterVec,
    /// 1 while an orchestrator knows us as a live runner, as far as we know.
    runner_registered: IntGauge,
    /// Slots.
    pub capacity: IntGauge,
    /// Slots in use.
    pub sessions: IntGauge,
    /// 1 while the engine is warm.
    pub warm: IntGauge,
    /// Milliseconds that the last load took.
    pub load_ms: IntGauge,
    /// Lines that the ledger holds since the start.
    pub ledger_lines: IntCounter,
    /// Times that it could not be written.
    pub ledger_errors: IntCounter,
    /// Lines that were lost, because it could not be written for too long.
    pub ledger_lost: IntCounter,
    /// Lines that wait.
    pub ledger_waiting: IntGauge,
    /// 1 while it cannot be written.
    pub ledger_failing: IntGauge,
    /// Intervals that the engine handed over.
    pub intervals: IntCounter,
    /// Pixels that the network's rule debits.
    pub billable: IntCounter,
    /// WebRTC peers.
    pub webrtc: crate::webrtc::Metrics,
    gpu: GaugeVec,
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
        let slots = gauge("capacity", "Session slots.")?;
        slots.set(capacity as i64);
        let about = IntGaugeVec::new(Opts::new("version", "Version of the runner."), &["app", "version"])?;
        about.with_label_values(&["ai-runner", version]).set(1);
        registry.register(Box::new(about))?;
        let build = IntGaugeVec::new(Opts::new("weir_build_info", "The program."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        let plain = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let gpu = GaugeVec::new(
            Opts::new("weir_gpu", "What NVML tells of a GPU, by index: ratios from 0 to 1, bytes, degrees, watts."),
            &["gpu", "kind"],
        )?;
        registry.register(Box::new(gpu.clone()))?;
        // A counter that first shows when it is 1 has not grown for those who watch: every label is there from the start.
        let full = |vector: IntCounterVec, labels: &[&str]| {
            labels.iter().for_each(|label| drop(vector.with_label_values(&[label])));
            vector
        };
        Ok(Self {
            starts: full(vector("starts_total", "Start requests by outcome.", &["outcome"])?, &OUTCOMES),
            requests: vector("http_requests_total", "Requests by route and status code.", &["route", "code"])?,
            failures: full(vector("engine_failures_total", "Engine failures by cause.", &["cause"])?, &CAUSES),
            resumed: counter("sessions_resumed_total", "Sessions handed to a new engine.")?,
            ended: full(
                vector("sessions_ended_total", "Sessions that ended, by whose fault it was.", &["fault"])?,
                &["true", "false"],
            ),
            connections_refused: counter("connections_refused_total", "Connections closed because all were in use.")?,
            connections_evicted: counter("connections_evicted_total", "Idle connections closed to make room.")?,
            byoc_calls: vector(
                "byoc_calls_total",
                "Exchanges with the orchestrator about the capability.",
                &["call", "outcome"],
            )?,
            byoc_registered: gauge("byoc_registered", "1 while the capability is registered.")?,
            heartbeats: vector("runner_heartbeats_total", "Heartbeats of the live runner.", &["outcome"])?,
            runner_registered: gauge("runner_registered", "1 while the live runner is registered.")?,
            capacity: slots,
            sessions: gauge("sessions", "Session slots in use.")?,
            warm: gauge("engine_warm", "1 while the engine is warm.")?,
            load_ms: gauge("engine_load_milliseconds", "Time that the last load took.")?,
            ledger_lines: plain("weir_ledger_lines_total", "Lines written to the ledger.")?,
            ledger_errors: plain("weir_ledger_errors_total", "Times that the ledger could not be written.")?,
            ledger_lost: plain("weir_ledger_lost_total", "Lines lost because the ledger could not be written.")?,
            ledger_waiting: plain_gauge(&registry, "weir_ledger_waiting", "Lines that wait for the ledger.")?,
            ledger_failing: plain_gauge(&registry, "weir_ledger_failing", "1 while the ledger cannot be written.")?,
            intervals: plain("weir_intervals_total", "Intervals of streams that were accounted for.")?,
            billable: plain("weir_billable_pixels_total", "Pixels that the network's rule debits.")?,
            webrtc: crate::webrtc::Metrics::new(&registry)?,
            gpu,
            registry: registry.clone(),
        })
    }

    /// Shows the GPUs; series of those that are gone end.
    pub fn show_gpus(&self, gpus: &Gpus) {
        self.gpu.reset();
        for (index, gpu) in gpus {
            let ratio = |percent: u32| f64::from(percent) / 100.0;
            let figures = [
                ("utilization_ratio", gpu.utilization_compute.map(ratio)),
                ("memory_utilization_ratio", gpu.utilization_memory.map(ratio)),
                ("encoder_ratio", gpu.encoder.map(ratio)),
                ("decoder_ratio", gpu.decoder.map(ratio)),
                ("memory_total_bytes", Some(gpu.memory_total as f64)),
                ("memory_used_bytes", Some(gpu.memory_total.saturating_sub(gpu.memory_free) as f64)),
                ("temperature_celsius", gpu.temperature.map(f64::from)),
                ("power_watts", gpu.power_mw.map(|mw| f64::from(mw) / 1000.0)),
                ("energy_joules", gpu.energy_mj.map(|mj| mj as f64 / 1000.0)),
            ];
            for (kind, value) in figures {
                if let Some(value) = value {
                    self.gpu.with_label_values(&[index.as_str(), kind]).set(value);
                }
            }
        }
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

    /// Notes a heartbeat: whether it was taken, and whether the orchestrator knows us now.
    pub fn heartbeat(&self, taken: bool, registered: bool) {
        self.heartbeats.with_label_values(&[if taken { "done" } else { "failed" }]).inc();
        self.runner_registered.set(i64::from(registered));
    }

    /// The numbers as text.
    pub fn text(&self, form: Exposition) -> String {
        if form == Exposition::OpenMetrics {
            return openmetrics::write(&self.registry.gather(), |_, _, _| None);
        }
        let mut out = Vec::new();
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8(out).unwrap_or_default()
    }
}

fn plain_gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone())).map(|()| gauge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::hardware::Gpu;

    /// Dashboards read these names; a change here is a change of contract.
    #[test]
    fn names_and_labels_stay() {
        let metrics = Metrics::new("1.2.3", 2).expect("metrics");
        metrics.starts.with_label_values(&["accepted"]).inc();
        metrics.requests.with_label_values(&["/health", "200"]).inc();
        metrics.failures.with_label_values(&["exit"]).inc();
        metrics.ended.with_label_values(&["false"]).inc();
        let gpu = Gpu {
            id: "GPU-1".into(),
            name: "a GPU".into(),
            memory_total: 100,
            memory_free: 60,
            major: 9,
            minor: 0,
            utilization_compute: Some(50),
            utilization_memory: Some(0),
            encoder: Some(20),
            decoder: Some(30),
            temperature: Some(50),
            power_mw: Some(70_000),
            energy_mj: Some(1_500),
        };
        metrics.show_gpus(&Gpus::from([("0".to_owned(), gpu)]));
        let build = format!("weir_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        metrics.byoc(true, true);
        metrics.heartbeat(true, true);
        metrics.webrtc.count("video_in");
        let text = metrics.text(Exposition::Text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "version{app=\"ai-runner\",version=\"1.2.3\"} 1",
            "weir_billable_pixels_total 0",
            build.as_str(),
            "weir_gpu{gpu=\"0\",kind=\"decoder_ratio\"} 0.3",
            "weir_gpu{gpu=\"0\",kind=\"encoder_ratio\"} 0.2",
            "weir_gpu{gpu=\"0\",kind=\"energy_joules\"} 1.5",
            "weir_gpu{gpu=\"0\",kind=\"memory_total_bytes\"} 100",
            "weir_gpu{gpu=\"0\",kind=\"memory_used_bytes\"} 40",
            "weir_gpu{gpu=\"0\",kind=\"memory_utilization_ratio\"} 0",
            "weir_gpu{gpu=\"0\",kind=\"power_watts\"} 70",
            "weir_gpu{gpu=\"0\",kind=\"temperature_celsius\"} 50",
            "weir_gpu{gpu=\"0\",kind=\"utilization_ratio\"} 0.5",
            "weir_intervals_total 0",
            "weir_ledger_errors_total 0",
            "weir_ledger_failing 0",
            "weir_ledger_lines_total 0",
            "weir_ledger_lost_total 0",
            "weir_ledger_waiting 0",
            "weir_supervisor_byoc_calls_total{call=\"register\",outcome=\"done\"} 1",
            "weir_supervisor_byoc_registered 1",
            "weir_supervisor_capacity 2",
            "weir_supervisor_connections_evicted_total 0",
            "weir_supervisor_connections_refused_total 0",
            "weir_supervisor_engine_failures_total{cause=\"exit\"} 1",
            "weir_supervisor_engine_failures_total{cause=\"hang\"} 0",
            "weir_supervisor_engine_failures_total{cause=\"link\"} 0",
            "weir_supervisor_engine_failures_total{cause=\"load\"} 0",
            "weir_supervisor_engine_failures_total{cause=\"slow_load\"} 0",
            "weir_supervisor_engine_failures_total{cause=\"spawn\"} 0",
            "weir_supervisor_engine_load_milliseconds 0",
            "weir_supervisor_engine_warm 0",
            "weir_supervisor_http_requests_total{code=\"200\",route=\"/health\"} 1",
            "weir_supervisor_runner_heartbeats_total{outcome=\"done\"} 1",
            "weir_supervisor_runner_registered 1",
            "weir_supervisor_sessions 0",
            "weir_supervisor_sessions_ended_total{fault=\"false\"} 1",
            "weir_supervisor_sessions_ended_total{fault=\"true\"} 0",
            "weir_supervisor_sessions_resumed_total 0",
            "weir_supervisor_starts_total{outcome=\"accepted\"} 1",
            "weir_supervisor_starts_total{outcome=\"failed\"} 0",
            "weir_supervisor_starts_total{outcome=\"full\"} 0",
            "weir_supervisor_starts_total{outcome=\"refused\"} 0",
            "weir_webrtc_events_total{event=\"video_in\"} 1",
            "weir_webrtc_peers 0",
        ];
        assert_eq!(lines, expected);
        for family in metrics.registry.gather() {
            let counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
            assert_eq!(counter, family.name().ends_with("_total"), "{}", family.name());
        }
    }
}
