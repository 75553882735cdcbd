//! What clients of a live runner call, through the proxy of its orchestrator: start the stream of their session, change it,
//! look at it, end it. The orchestrator's headers say which session is meant; its token is the permission.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::stream::{self, Fault, params};
use super::{body, both};
use crate::supervisor::doors::runner::{Caller, PATH, StartError, start as begin};
use crate::supervisor::hub::Hub;

/// Every route.
pub(super) fn routes() -> Router<Arc<Hub>> {
    let api = both(Router::new(), &format!("{PATH}/start"), post(start));
    let api = both(api, &format!("{PATH}/params"), post(update));
    let api = both(api, &format!("{PATH}/stop"), post(stop));
    both(api, &format!("{PATH}/status"), get(status))
}

/// Who calls.
fn caller(headers: &HeaderMap) -> Result<Caller, Fault> {
    let text = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
        value
            .map(str::to_owned)
            .ok_or_else(|| Fault::Is(StatusCode::BAD_REQUEST, format!("the header {name} is missing")))
    };
    Ok(Caller {
        id: text("livepeer-session-id")?,
        token: text("livepeer-session-token")?,
        control: text("livepeer-session-control")?,
    })
}

fn refused(error: StartError) -> Fault {
    let is = |status, message: &str| Fault::Is(status, message.to_owned());
    match error {
        StartError::Control => {
            is(StatusCode::UNAUTHORIZED, "Livepeer-Session-Control is no address of the orchestrator of this runner")
        }
        StartError::Token => is(StatusCode::UNAUTHORIZED, "Livepeer-Session-Token is not the session's"),
        StartError::Busy => is(StatusCode::CONFLICT, "the session is being started"),
        StartError::Channels(why) => {
            Fault::Is(StatusCode::BAD_GATEWAY, format!("the orchestrator made no channels: {why}"))
        }
        StartError::Hub(error) => {
            let (status, message) = stream::refusal(error);
            Fault::Is(status, message)
        }
    }
}

/// Starts the stream of a session of a live runner, or says again where its channels are.
#[utoipa::path(
    post, path = "/live-runner/start", operation_id = "liveRunnerStart",
    request_body(content = Object, description = "`{\"params\": {…}}`, parameters of the pipeline and `max_framerate`."),
    responses(
        (status = 200, description = "`publish_url` to send to, `subscribe_url` to read, `control_url`, `events_url`.", body = Object),
        (status = 400, description = "A header or a parameter is wrong.", body = Object),
        (status = 401, description = "The session's token or the orchestrator is another one.", body = Object),
        (status = 503, description = "No room.", body = Object),
    )
)]
pub(super) async fn start(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Response {
    let result = async {
        let caller = caller(&headers)?;
        let words = |why| Fault::Is(StatusCode::BAD_REQUEST, format!("Error starting stream: {why}"));
        let bytes = body::read(&headers, body, hub.config.max_body).await.map_err(|error| words(error.message()))?;
        let checked = params::of_session(&bytes).map_err(words)?;
        let id = caller.id.clone();
        let channels = begin(&hub, caller, checked.params, checked.max_fps).await.map_err(refused)?;
        let mut answer = json!({"status": "success", "message": "Stream started successfully", "session_id": id});
        for (field, url) in channels.urls {
            answer[field] = url.into();
        }
        Ok(answer)
    };
    told(result.await)
}

fn told(result: Result<Value, Fault>) -> Response {
    result.map(|answer| Json(answer).into_response()).unwrap_or_else(IntoResponse::into_response)
}

/// The number of our session that the caller's is.
fn session(hub: &Hub, headers: &HeaderMap) -> Result<u64, Fault> {
    let caller = caller(headers)?;
    let number = hub.live.sessions().number(&caller.id, &caller.token);
    number.ok_or_else(|| Fault::Is(StatusCode::NOT_FOUND, "No active stream of this session".into()))
}

/// New parameters for the stream of a session.
#[utoipa::path(
    post, path = "/live-runner/params", operation_id = "liveRunnerParams",
    request_body(content = Object, description = "Parameters of the pipeline."),
    responses((status = 200, body = Object), (status = 404, body = Object), (status = 500, body = Object))
)]
pub(super) async fn update(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Response {
    let result = async {
        let number = session(&hub, &headers)?;
        let failed = |why| Fault::Is(StatusCode::INTERNAL_SERVER_ERROR, format!("Parameter update failed: {why}"));
        let bytes = body::read(&headers, body, hub.config.max_body).await.map_err(|error| failed(error.message()))?;
        let checked = params::update(&bytes).map_err(failed)?;
        let view = stream::view(&hub, number).ok_or_else(|| Fault::Is(StatusCode::NOT_FOUND, "No stream".into()))?;
        stream::put(&hub, &view, checked).await?;
        Ok(json!({"status": "success", "message": "Parameters updated successfully"}))
    };
    told(result.await)
}

/// Ends the stream of a session, and the session.
#[utoipa::path(
    post, path = "/live-runner/stop", operation_id = "liveRunnerStop",
    responses((status = 200, body = Object), (status = 404, body = Object))
)]
pub(super) async fn stop(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Response {
    let result = async {
        let number = session(&hub, &headers)?;
        let failed = |error| Fault::Is(StatusCode::INTERNAL_SERVER_ERROR, super::error::ApiError::Hub(error).message());
        hub.stop(Some(number), "stopped by its client").await.map_err(failed)?;
        Ok(json!({"status": "success", "message": "Stream stopped successfully"}))
    };
    told(result.await)
}

/// The status object of the stream of a session.
#[utoipa::path(
    get, path = "/live-runner/status", operation_id = "liveRunnerStatus",
    responses((status = 200, body = Object), (status = 404, body = Object))
)]
pub(super) async fn status(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Response {
    told(session(&hub, &headers).map(|number| hub.book().status(Some(number))))
}
