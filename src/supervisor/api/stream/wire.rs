//! The bodies of the stream API, for its description. What is read is in [`super::params`].

#![expect(dead_code, reason = "fields are there to be described")]

use serde_json::Value;
use utoipa::ToSchema;

/// What starts a stream. Further fields are ignored.
#[derive(ToSchema)]
pub(in crate::supervisor::api) struct StreamStart {
    /// Names the stream in later calls.
    gateway_request_id: String,
    /// Trickle channel that the input is read from; none for a stream without frames.
    subscribe_url: Option<String>,
    /// Trickle channel that the output is written to; none for a stream that is there for its texts, figures or watchers.
    publish_url: Option<String>,
    /// Trickle channel with updates.
    control_url: Option<String>,
    /// Trickle channel for events.
    events_url: Option<String>,
    /// Trickle channel for texts and figures, as JSON lines.
    data_url: Option<String>,
    /// Whether `data_url` gets the figures of every interval.
    figures: Option<bool>,
    /// The orchestrator's name of the stream, by which the ledger keeps it.
    manifest_id: Option<String>,
    /// The client's name of the stream; the header `X-Stream-Id` wins.
    stream_id: Option<String>,
    /// Parameters, or their JSON text.
    params: Option<StreamParams>,
}

/// Parameters of a stream. Those that are not named here are the pipeline's own (`GET /api/pipeline`).
#[derive(ToSchema)]
pub(in crate::supervisor::api) struct StreamParams {
    /// Pixels; with `height` or not at all. Also as a text. Fixed while the stream runs.
    width: Option<u32>,
    /// Pixels; with `width` or not at all.
    height: Option<u32>,
    /// Frames a second that the pipeline gets at most.
    #[schema(minimum = 1, maximum = 60)]
    max_framerate: Option<u32>,
    /// Whether the overlay is shown in place of the model's pictures, until this is false again.
    show_loading: Option<bool>,
    /// Pipeline `comfyui`: a workflow as an object, as its text, or as a list of one. Inputs of single nodes stand beside
    /// it, or alone in an update, by the nodes' ids: `{"5": {"text": "a red fox"}}`.
    prompt: Option<Value>,
    /// The same as `prompt`; one of the two.
    prompts: Option<Value>,
    /// Taken and without effect: the output has the size of the parameters.
    detect_out_resolution: Option<bool>,
}

/// What a call answers.
#[derive(ToSchema)]
pub(in crate::supervisor::api) struct StreamAnswer {
    /// `success` or `error`.
    status: String,
    /// For people.
    message: String,
    /// The stream's `gateway_request_id`, where there is one.
    request_id: Option<String>,
    /// At a start: what the runner is doing.
    current_state: Option<StreamState>,
}

/// What the runner is doing.
#[derive(ToSchema)]
pub(in crate::supervisor::api) struct StreamState {
    /// `LOADING`, `IDLE`, `OK` or `ERROR`.
    status: String,
    /// The same.
    state: String,
    /// Why it is `ERROR`.
    error_message: Option<String>,
    /// Whether the pipeline is warm.
    pipeline_ready: bool,
    /// Streams that have a slot.
    active_streams: usize,
    /// Whether the pipeline is warm.
    startup_complete: bool,
    /// `LOADING`, `IDLE` or `ERROR`, whatever runs.
    pipeline_state: String,
    /// Empty.
    additional_info: Value,
}

/// A stream.
#[derive(ToSchema)]
pub(in crate::supervisor::api) struct StreamShown {
    /// Its `gateway_request_id`.
    request_id: String,
    /// Always true: one that has ended is not shown.
    running: bool,
    /// Where its input is read.
    subscribe_url: Option<String>,
    /// Where its output is written.
    publish_url: Option<String>,
    /// Pixels.
    width: u32,
    /// Pixels.
    height: u32,
    /// Pictures that the model made and that were published.
    frame_count: u64,
    /// Frames a second that the pipeline gets at most, where a caller said so.
    max_framerate: Option<f64>,
    /// The status object of the events channel.
    status: Value,
}
