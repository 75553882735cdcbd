//! The rest of ComfyStream's own server: `/prompt`, and the frame rates of streams.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::{ApiError, HTTPError};
use super::{auth, body, both, local};
use crate::supervisor::doors::control;
use crate::supervisor::hub::{Hub, SEVERAL};

/// Names that these routes are counted by.
pub(super) const ROUTES: [&str; 3] = ["/prompt", "/streams/stats", "/stream/{id}/stats"];

/// The name that a path is counted by; `None` when it is none of ours.
pub(super) fn label(path: &str) -> Option<&'static str> {
    let path = path.strip_prefix("/live").unwrap_or(path);
    let mut parts = path.strip_prefix('/')?.split('/');
    match (parts.next()?, parts.next(), parts.next(), parts.next()) {
        ("prompt", None, ..) => Some(ROUTES[0]),
        ("streams", Some("stats"), None, _) => Some(ROUTES[1]),
        ("stream", Some(_), Some("stats"), None) => Some(ROUTES[2]),
        _ => None,
    }
}

/// Every route, plain and below `/live`.
pub(super) fn routes() -> Router<Arc<Hub>> {
    ["", "/live"].into_iter().fold(Router::new(), |api, live| {
        let api = both(api, &format!("{live}/prompt"), post(prompt));
        let api = both(api, &format!("{live}/streams/stats"), get(all));
        both(api, &format!("{live}/stream/{{id}}/stats"), get(one))
    })
}

/// Which stream is meant.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Wishes {
    /// Its name, request id or stream id; empty for the only one.
    stream: String,
}

/// Takes the place of a running stream's workflow.
#[utoipa::path(
    post, path = "/prompt", operation_id = "prompt", request_body = Object,
    params(("stream" = Option<String>, Query, description = "Name, stream id or request id; not needed for the only stream.")),
    responses(
        (status = 200, description = "`OK`, as JSON text.", body = String),
        (status = 400, description = "The body is no JSON, or the workflow cannot run: every reason."),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 404, description = "No such stream runs.", body = HTTPError),
        (status = 409, description = "Several streams run and none is named.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn prompt(
    State(hub): State<Arc<Hub>>,
    Query(wishes): Query<Wishes>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let given = body::json(&local::declared(&hub, &headers, body).await?)?;
    let session = {
        let book = hub.book();
        if wishes.stream.is_empty() && book.running() > 1 {
            let told = json!({"detail": {"msg": SEVERAL}});
            return Ok((StatusCode::CONFLICT, Json(told)).into_response());
        }
        if wishes.stream.is_empty() { book.find(None) } else { book.named(&wishes.stream) }
    };
    let Some(session) = session else {
        let told = "no such stream runs; /offer and /stream/start take a workflow with them";
        return Ok((StatusCode::NOT_FOUND, Json(json!({"detail": {"msg": told}}))).into_response());
    };
    Ok(match control::update_prompts(&hub, Some(session), &json!({ "prompts": given })).await {
        Ok(()) => Json("OK").into_response(),
        Err(message) => (StatusCode::BAD_REQUEST, Json(json!({"detail": {"msg": message}}))).into_response(),
    })
}

/// The frame rates of every stream in its last minute, by name.
#[utoipa::path(
    get, path = "/streams/stats", operation_id = "streamsStats",
    responses(
        (status = 200, description = "`{\"<name>\": {\"timestamp\", \"fps\", \"minute_avg_fps\", \"minute_fps_array\"}}`.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn all(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    let streams: Map<String, Value> = hub.book().rates().into_iter().collect();
    Ok(Json(Value::Object(streams)))
}

/// The frame rates of a stream in its last minute.
#[utoipa::path(
    get, path = "/stream/{id}/stats", operation_id = "streamStats",
    params(("id" = String, Path, description = "The stream's `gateway_request_id` or stream id.")),
    responses(
        (status = 200, description = "`{\"timestamp\", \"fps\", \"minute_avg_fps\", \"minute_fps_array\"}`.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 404, description = "No such stream.", body = Object),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn one(
    State(hub): State<Arc<Hub>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    let rates = {
        let book = hub.book();
        book.named(&id).and_then(|session| book.rates_of(session))
    };
    Ok(match rates {
        Some(rates) => Json(rates).into_response(),
        // ComfyStream says the same with 200.
        None => (StatusCode::NOT_FOUND, Json(json!({"error": "Stream not found"}))).into_response(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_counted_by_their_routes() {
        for (path, route) in [
            ("/prompt", Some("/prompt")),
            ("/live/prompt", Some("/prompt")),
            ("/streams/stats", Some("/streams/stats")),
            ("/live/stream/a/stats", Some("/stream/{id}/stats")),
            ("/stream/a/status", None),
            ("/streams", None),
        ] {
            assert_eq!(label(path), route, "{path}");
        }
    }
}
