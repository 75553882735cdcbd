//! `POST /live-video-to-video`: an orchestrator orders a stream.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::error::{ApiError, HTTPError};
use super::{auth, body};
use crate::supervisor::hub::Hub;

/// What a start request carries. Unknown fields are ignored.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code)]
pub(super) struct LiveVideoToVideoParams {
    /// Where the runner reads the input.
    subscribe_url: String,
    /// Where the runner writes the output.
    publish_url: String,
    /// Where the runner reads updates.
    #[schema(default = "")]
    control_url: Option<String>,
    /// Where the runner writes events.
    #[schema(default = "")]
    events_url: Option<String>,
    /// Where the runner writes texts and figures, as JSON lines. pytrickle's; no orchestrator of today sends it.
    #[schema(default = "")]
    data_url: Option<String>,
    /// Whether `data_url` gets the figures of every interval.
    figures: Option<bool>,
    /// Name of the pipeline that the caller expects; empty for any.
    #[schema(default = "")]
    model_id: Option<String>,
    /// Parameters of the pipeline.
    #[schema(value_type = Option<Object>)]
    params: Option<Map<String, Value>>,
    /// The gateway's request id, for logs.
    #[schema(default = "")]
    gateway_request_id: Option<String>,
    /// The orchestrator's manifest id, for logs.
    #[schema(default = "")]
    manifest_id: Option<String>,
    /// The client's stream id, for logs.
    #[schema(default = "")]
    stream_id: Option<String>,
}

/// The answer to a start request. Only its status tells anything.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct LiveVideoToVideoResponse {
    subscribe_url: String,
    publish_url: String,
    control_url: String,
    events_url: String,
    request_id: String,
    manifest_id: String,
}

/// One fault of a body.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code)]
pub(super) struct ValidationError {
    /// `body`, then field names or positions.
    #[schema(value_type = Vec<String>)]
    loc: Vec<String>,
    /// What is expected.
    msg: String,
    /// The kind of fault.
    r#type: String,
}

/// The body of 422.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code)]
pub(super) struct HTTPValidationError {
    detail: Vec<ValidationError>,
}

/// Starts a stream. Answered as soon as the stream is accepted; neither the URLs nor the model are waited for.
#[utoipa::path(
    post, path = "/live-video-to-video", operation_id = "genLiveVideoToVideo",
    request_body = LiveVideoToVideoParams,
    responses(
        (status = 200, description = "The stream is accepted.", body = LiveVideoToVideoResponse),
        (status = 400, description = "A parameter is wrong.", body = HTTPError),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 422, description = "The body is not what the schema says.", body = HTTPValidationError),
        (status = 500, description = "No capacity, or the pipeline is broken.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn start(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<LiveVideoToVideoResponse>, ApiError> {
    let bytes = body::read(&headers, body, hub.config.max_body).await?;
    let request = body::start(&bytes, body::is_json(&headers), body::Dialect::Orchestrator)?;
    auth::check(&headers, &hub.config.auth_token)?;
    let configured = hub.model_id();
    if !request.model_id.is_empty() && request.model_id != configured {
        return Err(ApiError::Model { configured, called: request.model_id });
    }
    hub.start(request).await?;
    Ok(Json(LiveVideoToVideoResponse::default()))
}
