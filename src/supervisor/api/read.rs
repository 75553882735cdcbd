//! Routes that only tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::metering::openmetrics::Exposition;
use crate::supervisor::hardware::{GPUComputeInfo, GPUUtilizationInfo};
use crate::supervisor::hub::Hub;

/// The words of [`HealthCheck`].
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(dead_code)]
pub(super) enum HealthStatus {
    /// The pipeline is not warm.
    Loading,
    /// A stream runs.
    Ok,
    /// Only a new container would help.
    Error,
    /// Free and warm.
    Idle,
}

/// What `GET /health` says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HealthCheck {
    /// The word that an orchestrator goes by.
    #[schema(value_type = HealthStatus)]
    status: &'static str,
    /// More for people: the step of loading, or what failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Where the graphs of the warm pipeline run: `cpu`, `cuda` or `tensorrt`. Left out where it has no graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
}

/// What `GET /version` says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    pipeline: String,
    model_id: String,
    #[schema(examples("0.1.0"))]
    version: String,
}

/// What `GET /hardware/info` says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HardwareInformation {
    pipeline: String,
    model_id: String,
    /// By NVML index.
    gpu_info: BTreeMap<String, GPUComputeInfo>,
}

/// What `GET /hardware/stats` says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HardwareStats {
    pipeline: String,
    model_id: String,
    /// By NVML index.
    gpu_stats: BTreeMap<String, GPUUtilizationInfo>,
}

/// Whether the runner is free, busy, loading or broken. Always 200.
#[utoipa::path(get, path = "/health", operation_id = "health", responses((status = 200, body = HealthCheck)))]
pub(super) async fn health(State(hub): State<Arc<Hub>>) -> Json<HealthCheck> {
    let health = hub.health();
    Json(HealthCheck { status: health.word.as_str(), detail: health.detail, provider: health.provider })
}

/// Pipeline, model and version.
#[utoipa::path(get, path = "/version", operation_id = "version", responses((status = 200, body = Version)))]
pub(super) async fn version(State(hub): State<Arc<Hub>>) -> Json<Version> {
    let config = &hub.config;
    Json(Version { pipeline: config.pipeline.clone(), model_id: hub.model_id(), version: config.version.clone() })
}

/// The version alone.
#[utoipa::path(
    get, path = "/app-version", operation_id = "app_version",
    responses((status = 200, description = "`{\"version\"}`", body = Object))
)]
pub(super) async fn app_version(State(hub): State<Arc<Hub>>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "version": hub.config.version }))
}

/// The GPUs: names, memory in bytes, compute capability.
#[utoipa::path(
    get, path = "/hardware/info", operation_id = "hardware_info",
    responses((status = 200, body = HardwareInformation))
)]
pub(super) async fn hardware_info(State(hub): State<Arc<Hub>>) -> Json<HardwareInformation> {
    let gpus = hub.hardware.gpus().await;
    Json(HardwareInformation {
        pipeline: hub.config.pipeline.clone(),
        model_id: hub.model_id(),
        gpu_info: gpus.into_iter().map(|(index, gpu)| (index, gpu.into())).collect(),
    })
}

/// The GPUs: memory in bytes and load in per cent.
#[utoipa::path(
    get, path = "/hardware/stats", operation_id = "hardware_stats",
    responses((status = 200, body = HardwareStats))
)]
pub(super) async fn hardware_stats(State(hub): State<Arc<Hub>>) -> Json<HardwareStats> {
    let gpus = hub.hardware.gpus().await;
    Json(HardwareStats {
        pipeline: hub.config.pipeline.clone(),
        model_id: hub.model_id(),
        gpu_stats: gpus.into_iter().map(|(index, gpu)| (index, gpu.into())).collect(),
    })
}

/// Prometheus text, or OpenMetrics with exemplars for those who ask for it.
pub(super) async fn metrics(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let form = Exposition::wanted(&accept.collect::<Vec<_>>().join(","));
    let kind = [(header::CONTENT_TYPE, form.content_type()), (header::VARY, "Accept")];
    (kind, hub.scrape(form).await).into_response()
}
