//! The status object: the body of `GET /api/status` and of `status` events.

use serde::Serialize;
use serde_json::{Map, Value};

use super::State;

/// What the status object tells. Times are Unix times in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Status<'a> {
    /// Name of the pipeline.
    pub pipeline: &'a str,
    /// When the stream began; 0 before any.
    pub start_time_ms: u64,
    /// The state.
    pub state: State,
    /// When the state last changed.
    pub last_state_update_ms: Option<u64>,
    /// Last picture that came in.
    pub last_input_ms: Option<u64>,
    /// Pictures a second that come in; shown as 0 before the first measurement.
    pub input_fps: Option<f64>,
    /// Last processed picture that went out.
    pub last_output_ms: Option<u64>,
    /// Pictures a second that go out; shown as 0 before the first measurement.
    pub output_fps: Option<f64>,
    /// When parameters were last taken.
    pub last_params_update_ms: Option<u64>,
    /// The parameters as they were sent. Large: give them once after each change, a gateway remembers them.
    pub last_params: Option<&'a Map<String, Value>>,
    /// [`super::params_hash`] of them; given always.
    pub last_params_hash: Option<&'a str>,
    /// When something last failed.
    pub last_error_ms: Option<u64>,
    /// What failed.
    pub last_error: Option<&'a str>,
    /// When the engine was last replaced.
    pub last_restart_ms: Option<u64>,
    /// What the old engine logged last. Large: give it once.
    pub last_restart_logs: Option<&'a [String]>,
    /// Engines replaced so far.
    pub restart_count: u32,
    /// Anything else that is measured (latency percentiles, drops), under the key `weir`; `None` leaves the key out.
    pub weir: Option<&'a Value>,
}

#[derive(Serialize)]
struct Wire<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    pipeline: &'a str,
    start_time: u64,
    state: &'static str,
    last_state_update_time: Option<u64>,
    input_status: Input,
    inference_status: Inference<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weir: Option<&'a Value>,
}

#[derive(Serialize)]
struct Input {
    last_input_time: Option<u64>,
    fps: f64,
}

#[derive(Serialize)]
struct Inference<'a> {
    last_output_time: Option<u64>,
    fps: f64,
    last_params_update_time: Option<u64>,
    last_params: Option<&'a Map<String, Value>>,
    last_params_hash: Option<&'a str>,
    last_error_time: Option<u64>,
    last_error: Option<&'a str>,
    last_restart_time: Option<u64>,
    last_restart_logs: Option<&'a [String]>,
    restart_count: u32,
}

fn fps(rate: Option<f64>) -> f64 {
    let rate = rate.filter(|rate| rate.is_finite()).unwrap_or(0.0);
    (rate * 100.0).round() / 100.0
}

/// The status object, without the envelope of an event and without `timestamp` and `last_status_timestamp`, which the
/// sender of an event adds.
pub fn status_json(status: &Status<'_>) -> Value {
    let wire = Wire {
        kind: "status",
        pipeline: status.pipeline,
        start_time: status.start_time_ms,
        state: status.state.as_str(),
        last_state_update_time: status.last_state_update_ms,
        input_status: Input { last_input_time: status.last_input_ms, fps: fps(status.input_fps) },
        inference_status: Inference {
            last_output_time: status.last_output_ms,
            fps: fps(status.output_fps),
            last_params_update_time: status.last_params_update_ms,
            last_params: status.last_params,
            last_params_hash: status.last_params_hash,
            last_error_time: status.last_error_ms,
            last_error: status.last_error,
            last_restart_time: status.last_restart_ms,
            last_restart_logs: status.last_restart_logs,
            restart_count: status.restart_count,
        },
        weir: status.weir,
    };
    // Plain strings, numbers and maps with string keys cannot fail to become a value.
    serde_json::to_value(wire).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_event_has_the_fields_that_gateways_read() {
        let params = json!({"prompt": "x"});
        let status = Status {
            pipeline: "noop",
            start_time_ms: 1_795_225_471_004,
            state: State::Online,
            last_state_update_ms: Some(1_795_225_480_277),
            last_input_ms: Some(1_795_225_490_972),
            input_fps: Some(24.9),
            last_output_ms: Some(1_795_225_490_997),
            output_fps: Some(24.2),
            last_params_update_ms: Some(1_795_225_478_227),
            last_params: params.as_object(),
            last_params_hash: Some("abc"),
            ..Default::default()
        };
        let expected = json!({
            "type": "status", "pipeline": "noop", "start_time": 1_795_225_471_004_u64, "state": "ONLINE",
            "last_state_update_time": 1_795_225_480_277_u64,
            "input_status": {"last_input_time": 1_795_225_490_972_u64, "fps": 24.9},
            "inference_status": {
                "last_output_time": 1_795_225_490_997_u64, "fps": 24.2, "last_params_update_time": 1_795_225_478_227_u64,
                "last_params": {"prompt": "x"}, "last_params_hash": "abc", "last_error_time": null, "last_error": null,
                "last_restart_time": null, "last_restart_logs": null, "restart_count": 0,
            },
        });
        assert_eq!(status_json(&status), expected);
    }

    #[test]
    fn before_any_stream() {
        let value = status_json(&Status { pipeline: "noop", ..Default::default() });
        assert_eq!(value["state"], "OFFLINE");
        assert_eq!(value["start_time"], 0);
        assert_eq!(value["input_status"], json!({"last_input_time": null, "fps": 0.0}));
        assert!(value.get("weir").is_none());
    }

    #[test]
    fn measurements_go_under_their_own_key() {
        let extra = json!({"latency_ms": {"p50": 31.0}});
        let status = Status { weir: Some(&extra), input_fps: Some(f64::NAN), ..Default::default() };
        let value = status_json(&status);
        assert_eq!(value["weir"], extra);
        assert_eq!(value["input_status"]["fps"], 0.0);
    }
}
