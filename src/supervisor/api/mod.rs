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
mod comfy;
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
    let api = api.merge(comfy::routes());
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
        .or_else(|| comfy::label(trimmed))
        .unwrap_or("other");
    let peer = request.extensions().get::<Caller>().map(|caller| caller.0.ip().to_canonical());
    let response = match auth::guard(&hub, peer, request.method(), trimmed, request.headers()) {
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::Body;
    use axum::http::{Method, StatusCode};
    use tower::ServiceExt;

    use super::*;
    use crate::supervisor::Config;

    /// Who may call a route of a runner that has a token.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Who {
        /// Anybody.
        Anybody,
        /// Anybody on this machine, and who has the token.
        Near,
        /// Who has the token.
        Token,
        /// Who has the token of an orchestrator's session.
        Session,
    }

    use Who::{Anybody, Near, Session, Token};

    /// Every route.
    const WHO: [(&str, &str, Who); 51] = [
        ("GET", "/health", Anybody),
        ("GET", "/version", Anybody),
        ("GET", "/app-version", Anybody),
        ("GET", "/hardware/info", Anybody),
        ("GET", "/hardware/stats", Anybody),
        ("GET", "/app", Anybody),
        ("GET", "/app/style.css", Anybody),
        ("GET", "/app/script.js", Anybody),
        ("GET", "/metrics", Near),
        ("GET", "/openapi.json", Near),
        ("GET", "/docs", Near),
        ("GET", "/docs/{*rest}", Near),
        ("POST", "/live-runner/start", Session),
        ("POST", "/live-runner/params", Session),
        ("POST", "/live-runner/stop", Session),
        ("GET", "/live-runner/status", Session),
        ("POST", "/live-video-to-video", Token),
        ("POST", "/api/live-video-to-video", Token),
        ("POST", "/api/params", Token),
        ("GET", "/api/status", Token),
        ("GET", "/api/pipeline", Token),
        ("GET", "/api/pipelines", Token),
        ("GET", "/api/workflows/{name}", Token),
        ("POST", "/api/stop", Token),
        ("POST", "/api/trace", Token),
        ("GET", "/metering/streams", Token),
        ("GET", "/metering/streams/{id}/intervals", Token),
        ("GET", "/metering/streams/{id}/frames", Token),
        ("POST", "/workflow/check", Token),
        ("POST", "/workflow/plan", Token),
        ("POST", "/stream/start", Token),
        ("POST", "/stream/stop", Token),
        ("POST", "/stream/params", Token),
        ("GET", "/stream/status", Token),
        ("POST", "/stream/{id}/stop", Token),
        ("POST", "/stream/{id}/params", Token),
        ("POST", "/stream/{id}/update", Token),
        ("GET", "/stream/{id}/status", Token),
        ("GET", "/streams", Token),
        ("POST", "/prompt", Token),
        ("GET", "/streams/stats", Token),
        ("GET", "/stream/{id}/stats", Token),
        ("POST", "/image", Token),
        ("GET", "/recordings", Token),
        ("GET", "/recordings/{id}", Token),
        ("POST", "/recordings/{id}/stop", Token),
        ("POST", "/whip", Token),
        ("POST", "/whep", Token),
        ("POST", "/offer", Token),
        ("GET", "/webrtc/ice-servers", Token),
        ("PATCH", "/webrtc/{resource}", Token),
    ];

    /// Other names and methods of routes above.
    const ALSO: [(&str, &str, &str); 10] = [
        ("POST", "/api/pipeline", "/api/pipeline"),
        ("POST", "/recordings", "/recordings"),
        ("DELETE", "/recordings/{id}", "/recordings/{id}"),
        ("POST", "/whip/{stream}", "/whip"),
        ("POST", "/whep/{stream}", "/whep"),
        ("POST", "/live/offer", "/offer"),
        ("POST", "/live/prompt", "/prompt"),
        ("GET", "/live/streams/stats", "/streams/stats"),
        ("GET", "/live/stream/{id}/stats", "/stream/{id}/stats"),
        ("DELETE", "/webrtc/{resource}", "/webrtc/{resource}"),
    ];

    fn all() -> Vec<(&'static str, &'static str, Who)> {
        let who = |path: &str| WHO.iter().find(|(_, known, _)| *known == path).expect("a route of the table").2;
        let also = ALSO.iter().map(|&(method, path, as_this)| (method, path, who(as_this)));
        WHO.into_iter().chain(also).collect()
    }

    fn guarded() -> Router {
        let hub = Hub::new(Config { auth_token: "secret".into(), ..Config::default() }).expect("a hub");
        let door = Door::new(hub.clone());
        router(hub, Some(door))
    }

    async fn call(router: &Router, from: [u8; 4], method: &str, path: &str, token: Option<&str>) -> StatusCode {
        let path = path.replace("{*rest}", "index.html").replace(['{', '}'], "");
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        // As a start wants it: those of an orchestrator are read before the token, as its other runners do.
        let body = r#"{"subscribe_url": "http://h/in", "publish_url": "http://h/out", "gateway_request_id": "g"}"#;
        let mut request = request.body(Body::from(body)).expect("a request");
        request.extensions_mut().insert(Caller(SocketAddr::from((from, 1))));
        router.clone().oneshot(request).await.expect("an answer").status()
    }

    const HERE: [u8; 4] = [127, 0, 0, 1];
    const BEYOND: [u8; 4] = [192, 0, 2, 1];

    #[tokio::test(start_paused = true)]
    async fn every_route_is_open_by_name_or_wants_the_token() {
        let router = guarded();
        for (method, path, who) in all() {
            for (from, token) in [
                (HERE, None),
                (HERE, Some("wrong")),
                (HERE, Some("secret")),
                (BEYOND, None),
                (BEYOND, Some("wrong")),
                (BEYOND, Some("secret")),
            ] {
                let open = match who {
                    Anybody => true,
                    Near => from == HERE || token == Some("secret"),
                    Token => token == Some("secret"),
                    // Without the headers of a session there is none that could be refused.
                    Session => true,
                };
                let status = call(&router, from, method, path, token).await;
                assert_eq!(status != StatusCode::UNAUTHORIZED, open, "{method} {path} {from:?} {token:?}: {status}");
                assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                if who == Anybody {
                    assert_eq!(status, StatusCode::OK, "{path}");
                }
                if who == Session {
                    assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: no session is named");
                }
            }
        }
        // A page of another origin asks first, without a token.
        let status = call(&router, BEYOND, Method::OPTIONS.as_str(), "/whip", None).await;
        assert_ne!(status, StatusCode::UNAUTHORIZED);
    }

    /// The table above against the router itself, which shows its paths to whoever debugs it.
    #[test]
    fn the_table_of_routes_is_complete() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let text = runtime.block_on(async { format!("{:?}", guarded()) });
        let mut served: Vec<&str> = text.split('"').filter(|text| text.starts_with('/')).collect();
        // Twins with a slash at the end, and the last word on what no route takes.
        served.retain(|path| !path.ends_with('/') && !path.contains("axum_fallback"));
        served.sort_unstable();
        served.dedup();
        let mut known: Vec<&str> = all().into_iter().map(|(_, path, _)| path).collect();
        known.sort_unstable();
        known.dedup();
        assert_eq!(served, known);
    }
}
