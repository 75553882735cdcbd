//! What there is to choose from: pipelines and workflows.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::error::{ApiError, HTTPError};
use super::{auth, body, local};
use crate::supervisor::choice::{self, Wanted};
use crate::supervisor::hub::Hub;

/// The pipelines that can be loaded here, the workflows that are offered, and how loading goes.
#[utoipa::path(
    get, path = "/api/pipelines", operation_id = "pipelines",
    responses(
        (status = 200, description = "`pipeline` in use, `ready`, `detail` of its loading, whether `switch` is allowed, why the last one `failed`, `pipelines` with `name`, `about` and what is `missing`, `workflows` with `name`, `runs` and `message`.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 500, description = "The folder of workflows cannot be read.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn list(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    Ok(Json(choice::all(&hub).await?))
}

/// Loads another pipeline while no stream runs. `/api/pipelines` tells how it goes; one that cannot be loaded gives way to
/// the one before.
#[utoipa::path(
    post, path = "/api/pipeline", operation_id = "pipelineSwitch",
    request_body(content = Object, description = "`{\"pipeline\": \"NAME\", \"params\": {…}}`; `params` are those that it is loaded with, as wanted."),
    responses(
        (status = 202, description = "It is being loaded.", body = Object),
        (status = 400, description = "There is no such pipeline, or the body is wrong.", body = HTTPError),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 403, description = "Not allowed by the settings.", body = HTTPError),
        (status = 409, description = "A stream runs, a pipeline loads, what it needs is missing, or it is what is sold.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn switch(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let bytes = local::declared(&hub, &headers, body).await?;
    let Value::Object(mut fields) = body::json(&bytes)? else {
        return Err(ApiError::Body("a JSON object is expected"));
    };
    let Some(Value::String(pipeline)) = fields.remove("pipeline") else {
        return Err(ApiError::Body("pipeline: a string is expected"));
    };
    let params = match fields.remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(ApiError::Body("params: an object is expected")),
    };
    choice::switch(&hub, Wanted { pipeline: pipeline.clone(), params }).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"pipeline": pipeline}))).into_response())
}

/// A workflow of the folder, for `prompt`.
#[utoipa::path(
    get, path = "/api/workflows/{name}", operation_id = "workflow",
    params(("name" = String, Path, description = "As `/api/pipelines` tells it.")),
    responses(
        (status = 200, description = "The workflow.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 404, description = "No such workflow.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn workflow(
    State(hub): State<Arc<Hub>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    auth::check(&headers, &hub.config.auth_token)?;
    Ok(Json(choice::workflow(&hub, &name).await?))
}
