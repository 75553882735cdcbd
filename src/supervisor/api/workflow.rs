//! ComfyUI workflows, looked at without running them.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::error::{ApiError, HTTPError};
use super::{body, local};
use crate::supervisor::hub::Hub;

/// Whether a workflow runs: its plan, every reason why not, the models it needs, its widgets with their ranges.
#[utoipa::path(
    post, path = "/workflow/check", operation_id = "workflowCheck", request_body = Object,
    responses(
        (status = 200, description = "`{\"runs\", \"only_models_missing\", \"refused\", \"message\", \"models\", \"plan\", \"nodes\"}`.", body = Object),
        (status = 400, description = "The body is no JSON."),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn check(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let workflow = body::json(&local::declared(&hub, &headers, body).await?)?;
    Ok(Json(hub.examine(workflow, false).await?))
}

/// The plan of a workflow as a picture.
#[utoipa::path(
    post, path = "/workflow/plan", operation_id = "workflowPlan", request_body = Object,
    responses(
        (status = 200, description = "SVG.", content_type = "image/svg+xml", body = String),
        (status = 400, description = "There is no plan: every reason, as `/workflow/check` tells them.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn plan(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let workflow = body::json(&local::declared(&hub, &headers, body).await?)?;
    let mut examined = hub.examine(workflow, true).await?;
    Ok(match examined["svg"].take() {
        Value::String(svg) => ([(header::CONTENT_TYPE, "image/svg+xml")], svg).into_response(),
        _ => (StatusCode::BAD_REQUEST, Json(examined)).into_response(),
    })
}
