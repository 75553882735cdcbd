//! Calls of people and pages on the same machine: `/api/…`. Answers are texts, as they always were on the inner port.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::error::{ApiError, HTTPError};
use super::start::LiveVideoToVideoParams;
use super::{auth, body};
use crate::link::Outcome;
use crate::supervisor::hub::{Hub, HubError};

/// The body of a call that must declare its content type, so that a page of another site cannot make it unasked.
pub(super) async fn declared(hub: &Hub, headers: &HeaderMap, body: Body) -> Result<bytes::Bytes, ApiError> {
    auth::check(headers, &hub.config.auth_token)?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    if !kind.starts_with("application/json") {
        return Err(ApiError::ContentType(kind.to_owned()));
    }
    body::read(headers, body, hub.config.max_body).await
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match body::json(bytes)? {
        Value::Object(map) => Ok(map),
        _ => Err(ApiError::Body("a JSON object is expected")),
    }
}

/// The stream that the header `X-Stream-Id` names; none without the header.
fn named(hub: &Hub, headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let id = headers.get("x-stream-id").and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    match id.map(|id| hub.book().named(id)) {
        Some(None) => Err(ApiError::Hub(HubError::Engine(Outcome::NotFound))),
        found => Ok(found.flatten()),
    }
}

fn told(doing: &str, result: Result<&'static str, ApiError>) -> Response {
    match result {
        Ok(text) => text.into_response(),
        Err(error) => error.text(doing),
    }
}

/// Starts a stream; `request_id` in place of `gateway_request_id`.
#[utoipa::path(
    post, path = "/api/live-video-to-video", operation_id = "startStream", request_body = LiveVideoToVideoParams,
    responses(
        (status = 200, description = "`Stream started successfully`", body = String),
        (status = 400, description = "`Error starting stream: …`", body = String),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn start(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Response {
    let result = async {
        let bytes = declared(&hub, &headers, body).await?;
        let request = body::start(&bytes, true, body::Dialect::Local)?;
        hub.start(request).await?;
        Ok("Stream started successfully")
    };
    told("starting stream", result.await)
}

/// New parameters for the running stream, or the one that `X-Stream-Id` names, checked before the answer.
#[utoipa::path(
    post, path = "/api/params", operation_id = "updateParams",
    request_body(content = Object, description = "Parameters of the pipeline."),
    responses(
        (status = 200, description = "`Params updated successfully`", body = String),
        (status = 400, description = "`Error updating params: …`", body = String),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn params(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Response {
    let result = async {
        let bytes = declared(&hub, &headers, body).await?;
        let session = named(&hub, &headers)?;
        hub.update(session, object(&bytes)?).await?;
        Ok("Params updated successfully")
    };
    told("updating params", result.await)
}

/// Ends the running stream, or the one that `X-Stream-Id` or the number in `{"session": 1}` names, and waits for its end.
#[utoipa::path(
    post, path = "/api/stop", operation_id = "stopStream",
    request_body(content = Option<Object>, description = "`{\"session\": 1}`, or nothing for the only stream."),
    responses(
        (status = 200, description = "`Stream stopped successfully`", body = String),
        (status = 400, description = "`Error stopping stream: …`", body = String),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn stop(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Response {
    let result = async {
        let bytes = declared(&hub, &headers, body).await?;
        let session = match bytes.is_empty() {
            true => None,
            false => object(&bytes)?.get("session").and_then(Value::as_u64),
        };
        let session = match session {
            None => named(&hub, &headers)?,
            session => session,
        };
        hub.stop(session, "stopped by a local call").await?;
        Ok("Stream stopped successfully")
    };
    told("stopping stream", result.await)
}

/// The status object of the stream that `X-Stream-Id` names, else of the oldest, or of the runner when there is none.
#[utoipa::path(
    get, path = "/api/status", operation_id = "status",
    responses(
        (status = 200, description = "The status object of the events channel, without its times of report.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn status(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    let session = named(&hub, &headers)?;
    let status = hub.book().status(session);
    Ok(Json(status))
}

/// The pipeline: name, one sentence, JSON Schema of its parameters, parameters in force.
#[utoipa::path(
    get, path = "/api/pipeline", operation_id = "pipeline",
    responses(
        (status = 200, description = "`name`, `about`, `schema`, `params` and `updates` (`replace` or `merge`).", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 500, description = "The engine does not answer.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn pipeline(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    Ok(Json(hub.describe().await?))
}
