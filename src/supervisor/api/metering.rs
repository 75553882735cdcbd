//! What streams came to, and what happens to their frames.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth;
use super::error::{ApiError, HTTPError};
use crate::supervisor::hub::Hub;

/// How many intervals to tell.
#[derive(Debug, Deserialize)]
pub(super) struct Last {
    last: Option<usize>,
}

/// From which frame on.
#[derive(Debug, Deserialize)]
pub(super) struct After {
    after: Option<u64>,
}

/// How long to watch.
#[derive(Debug, Deserialize)]
pub(super) struct Seconds {
    seconds: Option<u64>,
}

/// The last streams with their sums: frames, pixels, bytes, billable pixels. Newest first.
#[utoipa::path(
    get, path = "/metering/streams", operation_id = "meteringStreams",
    responses(
        (status = 200, description = "`{\"streams\": […], \"ledger\": …}`.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn streams(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    let streams = hub.book().accounts().all();
    let path = hub.config.ledger.path.as_ref().map(|path| path.display().to_string());
    Ok(Json(json!({ "streams": streams, "ledger": path })))
}

/// The last intervals of a stream, by its stream id, manifest id or session number. Oldest first.
#[utoipa::path(
    get, path = "/metering/streams/{id}/intervals", operation_id = "meteringIntervals",
    params(("id" = String, Path, description = "Stream id, manifest id or session number."),
           ("last" = Option<usize>, Query, description = "How many of the last ones; all that are remembered without it.")),
    responses(
        (status = 200, description = "`{\"intervals\": […]}`.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 404, description = "No such stream is remembered."),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn intervals(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(Last { last }): Query<Last>,
) -> Result<Json<Value>, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    let book = hub.book();
    let recent = &book.accounts().find(&id).ok_or(ApiError::NotFound)?.recent;
    let skip = recent.len().saturating_sub(last.unwrap_or(usize::MAX));
    let intervals: Vec<_> = recent.iter().skip(skip).collect();
    Ok(Json(json!({ "intervals": intervals })))
}

/// What happened to the last frames of a running stream, one by one. Oldest first.
#[utoipa::path(
    get, path = "/metering/streams/{id}/frames", operation_id = "meteringFrames",
    params(("id" = String, Path, description = "Stream id, request id, manifest id or session number."),
           ("after" = Option<u64>, Query, description = "`next` of the answer before; all that are remembered without it.")),
    responses(
        (status = 200, description = "`{\"next\": …, \"frames\": […]}`.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 404, description = "No such stream runs."),
        (status = 500, description = "The engine does not answer.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn frames(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(After { after }): Query<After>,
) -> Result<Json<Value>, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    let session = {
        let book = hub.book();
        let running = |session: u64| book.find(Some(session));
        let known = || book.accounts().find(&id).and_then(|account| running(account.summary.session));
        let number = || id.parse().ok().and_then(running);
        book.named(&id).or_else(known).or_else(number).ok_or(ApiError::NotFound)?
    };
    match hub.frames(session, after.unwrap_or(0)).await? {
        Value::Null => Err(ApiError::NotFound),
        frames => Ok(Json(frames)),
    }
}

/// Watches every frame of the next seconds and gives a trace that Perfetto and Chrome open.
#[utoipa::path(
    post, path = "/api/trace", operation_id = "trace",
    params(("seconds" = Option<u64>, Query, description = "How long; from 1 to 60, 5 without it.")),
    responses(
        (status = 200, description = "Trace events as JSON.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 500, description = "The engine does not answer, or another trace took its place.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn trace(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Query(Seconds { seconds }): Query<Seconds>,
) -> Result<Response, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    let text = hub.trace(seconds.unwrap_or(5).clamp(1, 60)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}
