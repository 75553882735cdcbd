//! The HTTP API: routes and what they answer. What may go wrong is in [`error`].

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};

use self::error::ApiError;
use super::doors::webrtc::Door;
use super::hub::Hub;
use super::server::Caller;

mod app;
mod auth;
mod body;
mod choice;
mod error;
mod image;
mod local;
mod metering;
mod openapi;
mod read;
mod recordings;
mod room;
mod runner;
mod start;
mod stream;
mod webrtc;
mod workflow;

pub(super) use room::peer;

#[doc(hidden)]
pub use fuzz::{fuzz_start_body, fuzz_stream_body};

/// Every route that is counted by its own name.
const ROUTES: [&str; 24] = [
    "/image",
    "/health",
    "/version",
    "/app-version",
    "/hardware/info",
    "/hardware/stats",
    "/metrics",
    "/live-video-to-video",
    "/api/live-video-to-video",
    "/api/params",
    "/api/status",
    "/api/pipeline",
    "/api/pipelines",
    "/api/stop",
    "/api/trace",
    "/metering/streams",
    "/live-runner/start",
    "/live-runner/params",
    "/live-runner/stop",
    "/live-runner/status",
    "/workflow/check",
    "/workflow/plan",
    "/openapi.json",
    "/docs",
];

/// Every route on one router.
pub(super) fn router(hub: Arc<Hub>, door: Option<Arc<Door>>) -> Router {
    let api = Router::new();
    let api = both(api, "/health", get(read::health));
    let api = both(api, "/version", get(read::version));
    let api = both(api, "/app-version", get(read::app_version));
    let api = both(api, "/hardware/info", get(read::hardware_info));
    let api = both(api, "/hardware/stats", get(read::hardware_stats));
    let api = both(api, "/metrics", get(read::metrics));
    let api = both(api, "/live-video-to-video", post(start::start));
    let api = both(api, "/api/live-video-to-video", post(local::start));
    let api = both(api, "/api/params", post(local::params));
    let api = both(api, "/api/status", get(local::status));
    let api = both(api, "/api/pipeline", get(local::pipeline).post(choice::switch));
    let api = both(api, "/api/pipelines", get(choice::list));
    let api = both(api, "/api/workflows/{name}", get(choice::workflow));
    let api = both(api, "/api/stop", post(local::stop));
    let api = both(api, "/api/trace", post(metering::trace));
    let api = both(api, "/metering/streams", get(metering::streams));
    let api = both(api, "/metering/streams/{id}/intervals", get(metering::intervals));
    let api = both(api, "/metering/streams/{id}/frames", get(metering::frames));
    let api = both(api, "/workflow/check", post(workflow::check));
    let api = both(api, "/workflow/plan", post(workflow::plan));
    let api = both(api, "/recordings", get(recordings::list).post(recordings::start));
    let api = both(api, "/recordings/{id}", get(recordings::get).delete(recordings::delete));
    let api = both(api, "/recordings/{id}/stop", post(recordings::stop));
    let api = api.merge(stream::routes(&hub.config.stream_prefix));
    let api = api.merge(runner::routes());
    let api = both(api, "/image", post(image::image));
    let api = match door {
        Some(door) => api.merge(webrtc::routes(door)),
        None => api,
    };
    let api = api.merge(openapi::pages(&hub.config.version, &hub.config.stream_prefix));
    // The last word on anything that no route takes.
    let api = api.fallback(nothing).method_not_allowed_fallback(other_method);
    api.layer(middleware::from_fn_with_state(hub.clone(), count)).with_state(hub)
}

/// With and without a slash at the end.
fn both(router: Router<Arc<Hub>>, path: &str, route: MethodRouter<Arc<Hub>>) -> Router<Arc<Hub>> {
    router.route(path, route.clone()).route(&format!("{path}/"), route)
}

async fn nothing() -> Response {
    ApiError::NotFound.into_response()
}

async fn other_method() -> Response {
    ApiError::Method.into_response()
}

async fn count(State(hub): State<Arc<Hub>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    let stream = || trimmed.strip_prefix(hub.config.stream_prefix.as_str()).and_then(stream::label);
    let route = ROUTES
        .iter()
        .find(|&&route| route == trimmed)
        .copied()
        .or_else(stream)
        .or_else(|| webrtc::label(trimmed))
        .or_else(|| recordings::label(trimmed))
        .unwrap_or("other");
    let peer = request.extensions().get::<Caller>().map(|caller| caller.0.ip().to_canonical());
    let response = match auth::guard(&hub, peer, trimmed, request.headers()) {
        Ok(()) => match peer {
            Some(peer) => room::PEER.scope(peer, next.run(request)).await,
            None => next.run(request).await,
        },
        Err(error) => error.into_response(),
    };
    hub.metrics.requests.with_label_values(&[route, response.status().as_str()]).inc();
    response
}

mod fuzz {
    /// Feeds any bytes to the readers of stream calls.
    #[doc(hidden)]
    pub fn fuzz_stream_body(data: &[u8]) {
        super::stream::params::fuzz(data);
    }

    use super::body::{Dialect, start};

    /// Feeds any bytes to the reader of start requests, through both doors.
    #[doc(hidden)]
    pub fn fuzz_start_body(data: &[u8]) {
        for dialect in [Dialect::Orchestrator, Dialect::Local] {
            for json in [true, false] {
                if let Err(error) = start(data, json, dialect) {
                    assert_eq!(error.status().as_u16(), 422);
                }
            }
        }
    }
}
