//! The stream API: what an orchestrator sends to a worker that registered itself (BYOC), with the bodies, states and
//! status codes of pytrickle, and the same by id.
//!
//! Everything answers `{"status", "message"}`. A start may be answered 200, 400 or 503, everything else 200, 400, 404 or
//! 500; 401 is for the token alone, because an orchestrator forgets the worker that says it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use super::error::{ApiError, HTTPError};
use super::{auth, body, both};
use crate::health::Word;
use crate::link::Outcome;
use crate::supervisor::book::View;
use crate::supervisor::hub::{Hub, HubError, SEVERAL};

pub(super) mod params;
mod wire;

use wire::StreamParams;
pub(super) use wire::{StreamAnswer, StreamShown, StreamStart, StreamState};

/// Every route, below `prefix`.
pub(super) fn routes(prefix: &str) -> Router<Arc<Hub>> {
    let api = Router::new();
    let api = both(api, &format!("{prefix}/stream/start"), post(start));
    let api = both(api, &format!("{prefix}/stream/stop"), post(stop));
    let api = both(api, &format!("{prefix}/stream/params"), post(update));
    let api = both(api, &format!("{prefix}/stream/status"), get(status));
    let api = both(api, &format!("{prefix}/stream/{{id}}/stop"), post(stop_one));
    let api = both(api, &format!("{prefix}/stream/{{id}}/params"), post(update_one));
    let api = both(api, &format!("{prefix}/stream/{{id}}/update"), post(update_one_too));
    let api = both(api, &format!("{prefix}/stream/{{id}}/status"), get(status_one));
    both(api, &format!("{prefix}/streams"), get(list))
}

/// The name that a path is counted by; `None` when it is none of ours.
pub(super) fn label(path: &str) -> Option<&'static str> {
    if path == "/streams" {
        return Some("/streams");
    }
    let mut parts = path.strip_prefix("/stream/")?.split('/');
    match (parts.next()?, parts.next(), parts.next()) {
        ("start", None, _) => Some("/stream/start"),
        ("stop", None, _) => Some("/stream/stop"),
        ("params", None, _) => Some("/stream/params"),
        ("status", None, _) => Some("/stream/status"),
        (_, Some("stop"), None) => Some("/stream/{id}/stop"),
        (_, Some("params" | "update"), None) => Some("/stream/{id}/params"),
        (_, Some("status"), None) => Some("/stream/{id}/status"),
        _ => None,
    }
}

/// Why a call is not served, and in which words.
pub(super) enum Fault {
    /// The token.
    Token(ApiError),
    /// What the caller did wrong, or what went wrong here.
    Is(StatusCode, String),
}

fn bad(message: impl Into<String>) -> Fault {
    Fault::Is(StatusCode::BAD_REQUEST, message.into())
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        match self {
            Self::Token(error) => error.into_response(),
            Self::Is(status, message) => (status, Json(json!({"status": "error", "message": message}))).into_response(),
        }
    }
}

fn allowed(hub: &Hub, headers: &HeaderMap) -> Result<(), Fault> {
    auth::check(headers, &hub.config.auth_token).map_err(Fault::Token)
}

/// A body that is declared as JSON, so that a page of another site cannot send it unasked.
async fn document(hub: &Hub, headers: &HeaderMap, body: Body) -> Result<bytes::Bytes, String> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    if !kind.starts_with("application/json") {
        return Err(ApiError::ContentType(kind.to_owned()).message());
    }
    body::read(headers, body, hub.config.max_body).await.map_err(|error| error.message())
}

/// The stream that a call means: the one of its path, else of the orchestrator's header, else the only one.
enum Target<'a> {
    Path(&'a str),
    Header(&'a HeaderMap),
}

impl Target<'_> {
    fn find(&self, hub: &Hub, doing: &str) -> Result<View, Fault> {
        let book = hub.book();
        let (session, missing) = match self {
            Self::Path(id) => (book.named(id), Fault::Is(StatusCode::NOT_FOUND, format!("Stream {id} not found"))),
            Self::Header(headers) => {
                let id = headers.get("x-stream-id").and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
                let session = id.map_or_else(|| book.find(None), |id| book.named(id));
                let missing = match id {
                    None if book.running() > 1 => bad(format!("{SEVERAL}: X-Stream-Id, or /stream/{{id}}/{doing}")),
                    _ => bad(format!("No active stream to {doing}")),
                };
                (session, missing)
            }
        };
        book.views().into_iter().find(|view| Some(view.session) == session).ok_or(missing)
    }
}

/// What the process is doing, in pytrickle's words.
fn state(hub: &Hub) -> Map<String, Value> {
    let health = hub.health();
    let (warm, streams) = {
        let book = hub.book();
        (book.warm(), book.in_use())
    };
    let failed = health.word == Word::Error;
    let inner = match (failed, warm) {
        (true, _) => Word::Error,
        (false, true) => Word::Idle,
        (false, false) => Word::Loading,
    };
    let fields = json!({
        "status": health.word.as_str(),
        "state": health.word.as_str(),
        "error_message": if failed { health.detail } else { None },
        "pipeline_ready": warm,
        "active_streams": streams,
        "startup_complete": warm,
        "pipeline_state": inner.as_str(),
        "additional_info": {},
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// How an order to the stream of a header, or to the only one, is answered; for the description of the API.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "a description")]
enum Ordered {
    /// `status` is `success`.
    #[response(status = 200)]
    Done(StreamAnswer),
    /// There is none.
    #[response(status = 400)]
    NoStream(StreamAnswer),
    /// The token is missing or wrong.
    #[response(status = 401)]
    Token(HTTPError),
}

/// The same for a stream of a path.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "a description")]
enum OrderedByName {
    /// `status` is `success`.
    #[response(status = 200)]
    Done(StreamAnswer),
    /// The token is missing or wrong.
    #[response(status = 401)]
    Token(HTTPError),
    /// There is none of that name.
    #[response(status = 404)]
    NoStream(StreamAnswer),
}

/// Starts a stream, as an orchestrator asks a worker that registered itself.
#[utoipa::path(
    post, path = "/stream/start", operation_id = "workerStreamStart",
    request_body = StreamStart,
    responses(
        (status = 200, description = "`status` is `success`.", body = StreamAnswer),
        (status = 400, description = "The body is wrong.", body = StreamAnswer),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 503, description = "No room.", body = StreamAnswer),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn start(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Response {
    if let Err(fault) = allowed(&hub, &headers) {
        return fault.into_response();
    }
    let result = async {
        let words = |reason: String| (StatusCode::BAD_REQUEST, format!("Error starting stream: {reason}"));
        let bytes = document(&hub, &headers, body).await.map_err(words)?;
        let mut request = params::start(&bytes).map_err(words)?;
        if let Some(id) = headers.get("x-stream-id").and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty()) {
            request.stream_id = id.to_owned();
        }
        let id = request.gateway_request_id.clone();
        // While the only slot is taken the answer is that it is.
        let named = {
            let book = hub.book();
            book.in_use() < book.capacity() && book.named(&id).is_some()
        };
        if named {
            return Err(words(format!("gateway_request_id: a stream named {id} runs")));
        }
        match hub.start(request).await {
            Ok(_) => Ok(id),
            Err(error) => Err(refusal(error)),
        }
    };
    let (status, mut answer) = match result.await {
        Ok(id) => {
            let message = "Stream started successfully";
            (StatusCode::OK, json!({"status": "success", "message": message, "request_id": id}))
        }
        Err((status, message)) => (status, json!({"status": "error", "message": message})),
    };
    answer["current_state"] = Value::Object(state(&hub));
    (status, Json(answer)).into_response()
}

/// Why a start is refused, in pytrickle's words where it has any.
pub(super) fn refusal(error: HubError) -> (StatusCode, String) {
    use crate::supervisor::book::Refusal;
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        HubError::Refused(Refusal::Full) | HubError::Engine(Outcome::Busy) => {
            (unavailable, "Pipeline is still in use".into())
        }
        HubError::Refused(Refusal::Load(why)) => (unavailable, format!("Pipeline is still in use: {why}")),
        HubError::Away | HubError::Slow => {
            (unavailable, "Pipeline is still initializing. Please wait for IDLE status.".into())
        }
        HubError::Refused(_) => (unavailable, ApiError::Hub(error).message()),
        HubError::Engine(_) => {
            (StatusCode::BAD_REQUEST, format!("Error starting stream: {}", ApiError::Hub(error).message()))
        }
    }
}

/// Ends the stream that `X-Stream-Id` names, or the only one.
#[utoipa::path(
    post, path = "/stream/stop", operation_id = "workerStreamStop",
    responses(
        Ordered,
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn stop(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Response {
    stopped(&hub, &headers, Target::Header(&headers)).await.unwrap_or_else(IntoResponse::into_response)
}

/// Ends a stream.
#[utoipa::path(
    post, path = "/stream/{id}/stop", operation_id = "streamStop",
    params(("id" = String, Path, description = "The stream's `gateway_request_id` or stream id.")),
    responses(
        OrderedByName,
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn stop_one(State(hub): State<Arc<Hub>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    stopped(&hub, &headers, Target::Path(&id)).await.unwrap_or_else(IntoResponse::into_response)
}

async fn stopped(hub: &Hub, headers: &HeaderMap, target: Target<'_>) -> Result<Response, Fault> {
    allowed(hub, headers)?;
    // An orchestrator says why in a body of any kind; a page of another site names itself.
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    if headers.contains_key(header::ORIGIN) && !kind.starts_with("application/json") {
        return Err(bad(ApiError::ContentType(kind.to_owned()).message()));
    }
    let view = target.find(hub, "stop")?;
    match hub.stop(Some(view.session), "stopped by a call").await {
        // It ended meanwhile.
        Ok(()) | Err(HubError::Engine(Outcome::NotFound)) => {}
        Err(error) => {
            let message = format!("Error stopping stream: {}", ApiError::Hub(error).message());
            return Err(Fault::Is(StatusCode::INTERNAL_SERVER_ERROR, message));
        }
    }
    Ok(done("Stream stopped successfully", &view))
}

fn done(message: &str, view: &View) -> Response {
    Json(json!({"status": "success", "message": message, "request_id": view.gateway_request_id})).into_response()
}

/// New parameters for the stream that `X-Stream-Id` names, or the only one.
#[utoipa::path(
    post, path = "/stream/params", operation_id = "workerStreamParams",
    request_body(content = StreamParams, description = "Parameters, or `params` alone with an object or its JSON text."),
    responses(
        Ordered,
        (status = 500, description = "A parameter is wrong.", body = StreamAnswer),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn update(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Response {
    updated(&hub, &headers, Target::Header(&headers), body).await.unwrap_or_else(IntoResponse::into_response)
}

/// New parameters for a stream.
#[utoipa::path(
    post, path = "/stream/{id}/params", operation_id = "streamParams",
    params(("id" = String, Path, description = "The stream's `gateway_request_id` or stream id.")),
    request_body(content = StreamParams, description = "Parameters, or `params` alone with an object or its JSON text."),
    responses(
        OrderedByName,
        (status = 500, description = "A parameter is wrong.", body = StreamAnswer),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn update_one(
    State(hub): State<Arc<Hub>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    updated(&hub, &headers, Target::Path(&id), body).await.unwrap_or_else(IntoResponse::into_response)
}

/// As `/stream/{id}/params`, by the name that gateways use.
#[utoipa::path(
    post, path = "/stream/{id}/update", operation_id = "streamUpdate",
    params(("id" = String, Path, description = "The stream's `gateway_request_id` or stream id.")),
    request_body(content = StreamParams, description = "Parameters, or `params` alone with an object or its JSON text."),
    responses(
        OrderedByName,
        (status = 500, description = "A parameter is wrong.", body = StreamAnswer),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn update_one_too(hub: State<Arc<Hub>>, id: Path<String>, headers: HeaderMap, body: Body) -> Response {
    update_one(hub, id, headers, body).await
}

async fn updated(hub: &Hub, headers: &HeaderMap, target: Target<'_>, body: Body) -> Result<Response, Fault> {
    allowed(hub, headers)?;
    let failed =
        |reason: String| Fault::Is(StatusCode::INTERNAL_SERVER_ERROR, format!("Parameter update failed: {reason}"));
    let bytes = document(hub, headers, body).await.map_err(failed)?;
    let checked = params::update(&bytes).map_err(failed)?;
    let view = target.find(hub, "update")?;
    put(hub, &view, checked).await?;
    Ok(done("Parameters updated successfully", &view))
}

/// The stream of that number.
pub(super) fn view(hub: &Hub, session: u64) -> Option<View> {
    hub.book().views().into_iter().find(|view| view.session == session)
}

/// Puts new parameters in force.
pub(super) async fn put(hub: &Hub, view: &View, mut checked: params::Checked) -> Result<(), Fault> {
    let failed =
        |reason: String| Fault::Is(StatusCode::INTERNAL_SERVER_ERROR, format!("Parameter update failed: {reason}"));
    // The size belongs to the stream: an update that does not name it does not mean the default. A cap or the overlay alone
    // leaves the parameters alone.
    let ours_alone = checked.params.is_empty() && (checked.max_fps.is_some() || checked.show_loading.is_some());
    if !checked.params.contains_key("width") && !ours_alone {
        for side in ["width", "height"] {
            if let Some(value) = view.params.get(side) {
                checked.params.insert(side.into(), value.clone());
            }
        }
    }
    match hub.update_with(Some(view.session), checked.params, checked.max_fps, checked.show_loading).await {
        Ok(()) => Ok(()),
        Err(HubError::Engine(Outcome::NotFound)) => Err(bad("No active stream to update")),
        Err(error) => Err(failed(ApiError::Hub(error).message())),
    }
}

/// What the runner is doing, and the oldest stream.
#[utoipa::path(
    get, path = "/stream/status", operation_id = "workerStatus",
    responses(
        (status = 200, description = "What the runner is doing; while a stream runs also `client_active`, `client_running`, `fps`, `current_params`, and `stream` with its status object.", body = StreamState),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn status(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Response {
    if let Err(fault) = allowed(&hub, &headers) {
        return fault.into_response();
    }
    let mut answer = state(&hub);
    let view = hub.book().views().into_iter().next();
    answer.insert("client_active".into(), view.is_some().into());
    if let Some(view) = view {
        answer.insert("client_running".into(), true.into());
        let fps = |part: &str| view.status.get(part).and_then(|part| part.get("fps")).cloned().unwrap_or(0.0.into());
        let rates = json!({
            "ingress_video_fps": fps("input_status"), "egress_video_fps": fps("inference_status"),
            "ingress_audio_fps": null, "egress_audio_fps": null,
        });
        answer.insert("fps".into(), rates);
        let current = json!({
            "subscribe_url": there(&view.subscribe_url), "publish_url": there(&view.publish_url),
            "gateway_request_id": view.gateway_request_id,
        });
        answer.insert("current_params".into(), current);
        answer.insert("stream".into(), view.status);
    }
    Json(Value::Object(answer)).into_response()
}

/// An address, null for none.
fn there(url: &str) -> Option<&str> {
    Some(url).filter(|url| !url.is_empty())
}

/// A stream as the routes by id show it.
fn shown(view: &View) -> Value {
    let side = |name: &str| view.params.get(name).cloned().unwrap_or_else(|| 512.into());
    let frames = view.status.pointer("/weir/frames_out").cloned().unwrap_or_else(|| 0.into());
    json!({
        "request_id": view.gateway_request_id,
        "running": true,
        "subscribe_url": there(&view.subscribe_url),
        "publish_url": there(&view.publish_url),
        "width": side("width"),
        "height": side("height"),
        "frame_count": frames,
        "max_framerate": view.max_fps,
        "status": view.status,
    })
}

/// A stream.
#[utoipa::path(
    get, path = "/stream/{id}/status", operation_id = "streamStatus",
    params(("id" = String, Path, description = "The stream's `gateway_request_id` or stream id.")),
    responses(
        (status = 200, description = "The stream.", body = StreamShown),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 404, description = "There is none of that name.", body = StreamAnswer),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn status_one(State(hub): State<Arc<Hub>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let result = allowed(&hub, &headers).and_then(|()| Target::Path(&id).find(&hub, "show"));
    result.map(|view| Json(shown(&view)).into_response()).unwrap_or_else(IntoResponse::into_response)
}

/// Every stream.
#[utoipa::path(
    get, path = "/streams", operation_id = "streams",
    responses(
        (status = 200, description = "`count` and `streams` by name.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn list(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Response {
    if let Err(fault) = allowed(&hub, &headers) {
        return fault.into_response();
    }
    let views = hub.book().views();
    let streams: Map<String, Value> = views.iter().map(|view| (view.gateway_request_id.clone(), shown(view))).collect();
    Json(json!({"count": views.len(), "streams": streams})).into_response()
}
