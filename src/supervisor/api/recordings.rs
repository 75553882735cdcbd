//! `/recordings`: what streams put out, kept in files on this machine.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::error::{ApiError, HTTPError};
use super::{auth, body, local};
use crate::link::RecordFormat;
use crate::supervisor::hub::Hub;
use crate::supervisor::recordings::{self, Name, RecordingError};

/// The name that a path is counted by; `None` when it is none of ours.
pub(super) fn label(path: &str) -> Option<&'static str> {
    let mut parts = path.strip_prefix("/recordings")?.split('/');
    match (parts.next()?, parts.next(), parts.next(), parts.next()) {
        ("", None, ..) => Some("/recordings"),
        ("", Some(_), None, _) => Some("/recordings/{id}"),
        ("", Some(_), Some("stop"), None) => Some("/recordings/{id}/stop"),
        _ => None,
    }
}

fn named(id: &str) -> Result<Name, ApiError> {
    Name::read(id).ok_or(ApiError::Recording(RecordingError::Missing))
}

/// Recordings, the newest first.
#[utoipa::path(
    get, path = "/recordings", operation_id = "recordings",
    responses(
        (status = 200, description = "`enabled`, `max_bytes`, `max_seconds`, and `recordings` with `id`, `began_ms`, `format` (`ts`, `mp4`), `state` (`recording`, `whole`, `cut_off`) and `bytes`.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 500, description = "The folder cannot be read.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn list(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    let config = &hub.config.record;
    let recordings = match config.path {
        Some(_) => recordings::list(&hub).await?,
        None => Vec::new(),
    };
    Ok(Json(json!({
        "enabled": config.path.is_some(),
        "max_bytes": config.max_size,
        "max_seconds": config.max_time_ms / 1000,
        "recordings": recordings,
    })))
}

/// Begins to record a stream, from the next segment of its output on.
#[utoipa::path(
    post, path = "/recordings", operation_id = "recordingStart",
    request_body(content = Object, description = "`{\"stream\": \"NAME\", \"format\": \"mp4\"}`; without a name the only stream, without a format `ts`."),
    responses(
        (status = 201, description = "`{\"id\"}`", body = Object),
        (status = 400, description = "The body is wrong.", body = HTTPError),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 403, description = "Recordings are off.", body = HTTPError),
        (status = 404, description = "No such stream runs.", body = HTTPError),
        (status = 409, description = "The stream is being recorded already.", body = HTTPError),
        (status = 507, description = "Recordings use as much of the disk as they may.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn start(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let bytes = local::declared(&hub, &headers, body).await?;
    let Value::Object(mut fields) = body::json(&bytes)? else {
        return Err(ApiError::Body("a JSON object is expected"));
    };
    let stream = match fields.remove("stream") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(_) => return Err(ApiError::Body("stream: a string is expected")),
    };
    let format = match fields.remove("format") {
        None | Some(Value::Null) => RecordFormat::default(),
        Some(format) => serde_json::from_value(format).map_err(|_| ApiError::Body("format: ts or mp4 is expected"))?,
    };
    let name = recordings::start(&hub, stream.as_deref(), format).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": name.to_string() }))).into_response())
}

/// Ends a recording.
#[utoipa::path(
    post, path = "/recordings/{id}/stop", operation_id = "recordingStop",
    params(("id" = String, Path, description = "As `/recordings` tells it.")),
    request_body(content = Object, description = "`{}`"),
    responses(
        (status = 200, description = "The recording, whole.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 403, description = "Recordings are off.", body = HTTPError),
        (status = 404, description = "No such recording.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn stop(
    State(hub): State<Arc<Hub>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    local::declared(&hub, &headers, body).await?;
    Ok(Json(recordings::stop(&hub, named(&id)?).await?).into_response())
}

/// A recording as a file: an MPEG transport stream, or fragmented MP4.
#[utoipa::path(
    get, path = "/recordings/{id}", operation_id = "recordingGet",
    params(("id" = String, Path, description = "As `/recordings` tells it.")),
    responses(
        (status = 200, description = "The file.", content(("video/mp2t"), ("video/mp4"))),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 403, description = "Recordings are off.", body = HTTPError),
        (status = 404, description = "No such recording.", body = HTTPError),
        (status = 409, description = "It is under way.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn get(
    State(hub): State<Arc<Hub>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    let name = named(&id)?;
    let (file, format, bytes) = recordings::open(&hub, name).await?;
    let kind = match format {
        RecordFormat::Ts => "video/mp2t",
        RecordFormat::Mp4 => "video/mp4",
    };
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_LENGTH, bytes.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"weir-{name}.{}\"", format.ending())),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(ReaderStream::new(file.take(bytes)))).into_response())
}

/// Deletes a recording.
#[utoipa::path(
    delete, path = "/recordings/{id}", operation_id = "recordingDelete",
    params(("id" = String, Path, description = "As `/recordings` tells it.")),
    responses(
        (status = 204, description = "It is gone."),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 403, description = "Recordings are off.", body = HTTPError),
        (status = 404, description = "No such recording.", body = HTTPError),
        (status = 409, description = "It is under way.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn delete(
    State(hub): State<Arc<Hub>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    recordings::delete(&hub, named(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn paths_are_counted_by_their_routes() {
        for (path, name) in [
            ("/recordings", Some("/recordings")),
            ("/recordings/1-2", Some("/recordings/{id}")),
            ("/recordings/1-2/stop", Some("/recordings/{id}/stop")),
            ("/recordings/1-2/other", None),
            ("/recordings/1-2/stop/more", None),
            ("/recordingsx", None),
            ("/", None),
        ] {
            assert_eq!(label(path), name, "{path}");
        }
    }
}
