//! The demo's page: both streams as moving pictures, figures, and a control for every parameter.
//!
//! The page is three files without anything from elsewhere. Pictures go out as `multipart/x-mixed-replace`, to each
//! viewer the newest; figures are asked for twice a second. What changes something is an [`Order`] to the demo.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cli::rig::RigError;
use crate::metering::Happened;

/// Longest body of a request in bytes.
const LONGEST: usize = 1024 * 1024;
/// Orders that may wait.
const ORDERS: usize = 16;
/// Viewers of one picture at a time.
const VIEWERS: usize = 16;
/// Type of a moving picture.
const MOVING: &str = "multipart/x-mixed-replace; boundary=frame";
/// Before each part of one.
const BEGIN: &[u8] = b"--frame\r\n";

/// What a viewer wants done.
pub enum Order {
    /// Send this set of parameters.
    Update(Map<String, Value>, oneshot::Sender<Result<Taken, String>>),
    /// Kill the engine.
    Kill(oneshot::Sender<Result<u32, String>>),
}

/// An update that went out.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Taken {
    /// Number of the newest event before it.
    pub after: u64,
    /// Unix time in milliseconds at which it was sent.
    pub time_ms: u64,
}

/// One line of the list of events.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Counts events from 1.
    pub number: u64,
    /// Unix time in milliseconds.
    pub time_ms: u64,
    /// Type of the event.
    pub kind: String,
    /// For people.
    pub text: String,
}

/// What the page shows now.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// State of the stream.
    pub state: String,
    /// Frames a second into the input channel.
    pub fps_in: f64,
    /// Frames a second out of the output channel.
    pub fps_out: f64,
    /// Median latency end to end in milliseconds.
    pub p50: f64,
    /// The same, 95 of 100 frames.
    pub p95: f64,
    /// Drops by place.
    pub dropped: Map<String, Value>,
    /// Restarts of the engine.
    pub restarts: u64,
    /// Unix time in milliseconds at which parameters were last put in force.
    pub params_ms: u64,
    /// Process id of the engine.
    pub engine: Option<u32>,
    /// Under the input.
    pub input: String,
    /// Under the output.
    pub output: String,
    /// Median latencies of the last two minutes, two a second, in milliseconds.
    pub latency: Vec<f64>,
    /// What happened to the newest frames, oldest first.
    pub frames: Vec<Happened>,
    /// The newest events.
    pub events: Vec<Line>,
}

/// What the page is told once.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// The pipeline.
    pub name: String,
    /// One sentence about it.
    pub about: String,
    /// JSON Schema of its parameters.
    pub schema: Value,
    /// The set in force at the start, defaults filled in.
    pub params: Map<String, Value>,
    /// Parameters that cannot change while a stream runs.
    pub fixed: Vec<String>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// A moving picture and who looks at it.
#[derive(Clone)]
pub struct Pictures {
    newest: watch::Sender<Bytes>,
    viewers: Arc<AtomicUsize>,
}

impl Default for Pictures {
    fn default() -> Self {
        Self { newest: watch::Sender::new(Bytes::new()), viewers: Arc::default() }
    }
}

impl Pictures {
    /// True while somebody looks, so that a picture is worth its encoding.
    pub fn watched(&self) -> bool {
        self.viewers.load(Ordering::Relaxed) > 0
    }

    /// Shows a JPEG picture to everyone who looks.
    pub fn show(&self, jpeg: Bytes) {
        self.newest.send_replace(jpeg);
    }
}

struct Viewer(Arc<AtomicUsize>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Shared {
    about: Mutex<About>,
    snapshot: Mutex<Snapshot>,
    orders: mpsc::Sender<Order>,
    input: Pictures,
    output: Pictures,
    loopback: bool,
    stop: CancellationToken,
}

fn lock<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A page that is being served.
pub struct Page {
    shared: Arc<Shared>,
    address: SocketAddr,
    serving: AbortOnDropHandle<()>,
}

impl Page {
    /// Binds `address` and serves the page. Orders come out of the receiver.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn open(
        address: SocketAddr,
        about: About,
        input: Pictures,
        output: Pictures,
    ) -> Result<(Self, mpsc::Receiver<Order>), RigError> {
        let failed = |source| RigError::Page { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (orders, taken) = mpsc::channel(ORDERS);
        let shared = Arc::new(Shared {
            about: Mutex::new(about),
            snapshot: Mutex::new(Snapshot { state: "LOADING".into(), ..Snapshot::default() }),
            orders,
            input,
            output,
            loopback: address.ip().is_loopback(),
            stop: CancellationToken::new(),
        });
        let serve =
            axum::serve(listener, router(shared.clone())).with_graceful_shutdown(shared.stop.clone().cancelled_owned());
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            // It ends by order alone: a failing accept is tried again inside.
            let _ = serve.await;
        }));
        Ok((Self { shared, address, serving }, taken))
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it shows from now on.
    pub fn show(&self, snapshot: Snapshot) {
        *lock(&self.shared.snapshot) = snapshot;
    }

    /// Remembers the set of parameters for viewers that come later.
    pub fn params(&self, params: &Map<String, Value>) {
        lock(&self.shared.about).params.extend(params.clone());
    }

    /// The set of parameters as it is remembered.
    pub fn known(&self) -> Map<String, Value> {
        lock(&self.shared.about).params.clone()
    }

    /// Ends every connection.
    pub async fn close(self) {
        self.shared.stop.cancel();
        let _ = tokio::time::timeout(Duration::from_millis(500), self.serving).await;
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(|| file("text/html; charset=utf-8", include_str!("page/index.html"))))
        .route("/style.css", get(|| file("text/css; charset=utf-8", include_str!("page/style.css"))))
        .route("/script.js", get(|| file("text/javascript; charset=utf-8", include_str!("page/script.js"))))
        .route("/pipeline", get(pipeline))
        .route("/state", get(state))
        .route("/input.mjpeg", get(input))
        .route("/output.mjpeg", get(output))
        .route("/params", post(params))
        .route("/kill", post(kill))
        .layer(DefaultBodyLimit::max(LONGEST))
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Refuses what pages of other sites may try: names that only seem to be ours, and orders that come from elsewhere.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(HOST).unwrap_or_default();
    let foreign = text(ORIGIN).is_some_and(|origin| origin.split_once("://").is_none_or(|(_, from)| from != host));
    if foreign || (shared.loopback && !is_local(host)) {
        return (StatusCode::FORBIDDEN, "This page answers to its own address only.\n").into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a `Host` header names this machine.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind)], text).into_response()
}

async fn pipeline(State(shared): State<Arc<Shared>>) -> Json<About> {
    Json(lock(&shared.about).clone())
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn state(State(shared): State<Arc<Shared>>, Query(After { after }): Query<After>) -> Json<Snapshot> {
    let mut snapshot = lock(&shared.snapshot).clone();
    snapshot.events.retain(|event| event.number > after);
    Json(snapshot)
}

async fn input(State(shared): State<Arc<Shared>>) -> Response {
    moving(&shared, &shared.input)
}

async fn output(State(shared): State<Arc<Shared>>) -> Response {
    moving(&shared, &shared.output)
}

/// Every picture that is newest when the viewer can take one.
fn moving(shared: &Shared, pictures: &Pictures) -> Response {
    let viewer = Viewer(pictures.viewers.clone());
    if viewer.0.fetch_add(1, Ordering::Relaxed) >= VIEWERS {
        return (StatusCode::SERVICE_UNAVAILABLE, "Too many viewers.\n").into_response();
    }
    let mut newest = pictures.newest.subscribe();
    newest.mark_changed();
    let start = (newest, shared.stop.clone(), viewer);
    let begin = futures_util::stream::once(async { Ok(Bytes::from_static(BEGIN)) });
    let parts = futures_util::stream::unfold(start, |(mut newest, stop, viewer)| async move {
        loop {
            tokio::select! {
                changed = newest.changed() => changed.ok()?,
                () = stop.cancelled() => return None,
            }
            let jpeg = newest.borrow_and_update().clone();
            if !jpeg.is_empty() {
                let part = part(&jpeg);
                return Some((Ok::<_, std::convert::Infallible>(part), (newest, stop, viewer)));
            }
        }
    });
    ([(CONTENT_TYPE, MOVING)], Body::from_stream(begin.chain(parts))).into_response()
}

/// One picture as a part, and the boundary after it: a browser shows a picture when it has seen the next boundary.
fn part(jpeg: &[u8]) -> Bytes {
    let head = format!("Content-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len());
    let mut part = Vec::with_capacity(head.len() + jpeg.len() + BEGIN.len() + 2);
    part.extend_from_slice(head.as_bytes());
    part.extend_from_slice(jpeg);
    part.extend_from_slice(b"\r\n");
    part.extend_from_slice(BEGIN);
    part.into()
}

/// What came of an order.
async fn ordered<T: Serialize>(
    shared: &Shared,
    order: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Order,
) -> Response {
    let (answer, answered) = oneshot::channel();
    let gone = || (StatusCode::SERVICE_UNAVAILABLE, "The demo is ending.\n").into_response();
    if shared.orders.send(order(answer)).await.is_err() {
        return gone();
    }
    match answered.await {
        Ok(Ok(value)) => Json(value).into_response(),
        Ok(Err(message)) => (StatusCode::CONFLICT, message).into_response(),
        Err(_) => gone(),
    }
}

fn declared(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

async fn params(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    match serde_json::from_slice::<Value>(&body) {
        Ok(Value::Object(set)) if declared(&headers) => ordered(&shared, |answer| Order::Update(set, answer)).await,
        _ => (StatusCode::BAD_REQUEST, "A JSON object of parameters is expected.\n").into_response(),
    }
}

async fn kill(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if !declared(&headers) {
        return (StatusCode::BAD_REQUEST, "The content type must be application/json.\n").into_response();
    }
    let response = ordered(&shared, Order::Kill).await;
    if response.status() == StatusCode::OK { Json(json!({"killed": true})).into_response() } else { response }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::rig::call::request;
    use http::Method;

    fn about() -> About {
        About {
            name: "noop".into(),
            about: String::new(),
            schema: json!({"properties": {}}),
            params: Map::new(),
            fixed: Vec::new(),
            width: 512,
            height: 512,
        }
    }

    #[tokio::test]
    async fn the_page_and_its_figures_are_served_and_orders_are_answered() {
        let (page, mut orders) =
            Page::open(([127, 0, 0, 1], 0).into(), about(), Pictures::default(), Pictures::default()).await.unwrap();
        let line = |number| Line { number, time_ms: 0, kind: "error".into(), text: "x".into() };
        page.show(Snapshot { state: "ONLINE".into(), events: vec![line(1), line(2)], ..Snapshot::default() });
        let at = page.address();
        let (status, html) = request(at, Method::GET, "/", None).await.unwrap();
        assert!(status.is_success() && html.starts_with(b"<!doctype html>"));
        for path in ["/style.css", "/script.js", "/pipeline"] {
            assert!(request(at, Method::GET, path, None).await.unwrap().0.is_success(), "{path}");
        }
        let (_, state) = request(at, Method::GET, "/state?after=1", None).await.unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        assert_eq!((state["state"].as_str(), state["events"].as_array().unwrap().len()), (Some("ONLINE"), 1));

        let set = json!({"strength": 0.5});
        let answer = async {
            match orders.recv().await.unwrap() {
                Order::Update(set, answer) => {
                    assert_eq!(set["strength"], 0.5);
                    answer.send(Err("no such field".into())).unwrap();
                }
                Order::Kill(_) => panic!("not asked for"),
            }
        };
        let (answered, ()) = tokio::join!(request(at, Method::POST, "/params", Some(&set)), answer);
        let (status, body) = answered.unwrap();
        assert_eq!((status, &body[..]), (StatusCode::CONFLICT, &b"no such field"[..]));
        let (status, _) = request(at, Method::POST, "/params", Some(&json!([1]))).await.unwrap();
        assert_eq!(status, StatusCode::BAD_REQUEST);
        page.close().await;
    }

    #[tokio::test]
    async fn a_taken_port_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let Err(error) = Page::open(address, about(), Pictures::default(), Pictures::default()).await else {
            panic!("the port is taken")
        };
        assert!(error.to_string().contains("--port"), "{error}");
    }

    #[tokio::test]
    async fn viewers_get_the_newest_picture_and_are_counted() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let pictures = Pictures::default();
        let (page, _orders) =
            Page::open(([127, 0, 0, 1], 0).into(), about(), Pictures::default(), pictures.clone()).await.unwrap();
        assert!(!pictures.watched());
        let mut socket = tokio::net::TcpStream::connect(page.address()).await.unwrap();
        socket.write_all(b"GET /output.mjpeg HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut text = String::new();
        let mut bytes = [0; 4096];
        while !text.contains("newest-picture") {
            pictures.show(Bytes::from_static(b"newest-picture"));
            let count = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut bytes)).await.unwrap().unwrap();
            assert!(count > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        assert!(text.contains("multipart/x-mixed-replace") && text.contains("image/jpeg"), "{text}");
        assert!(pictures.watched());
        page.close().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!pictures.watched());
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "127.0.0.2"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "evil.example", "evil.example:8080", "127.0.0.1.evil.example", "192.168.0.1:8080"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
