//! A stand-in for an orchestrator with live runners, which follows go-livepeer's contract and misbehaves on request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use weir::trickle::{Begin, Client, Publisher, Server, ServerConfig};

/// One runner as the orchestrator knows it.
#[derive(Clone, Debug)]
pub struct Known {
    secret: String,
    /// The last heartbeat.
    pub beat: Value,
    at: Instant,
    sessions: Vec<String>,
}

/// What the orchestrator is and does.
#[derive(Default)]
pub struct Book {
    pub secret: String,
    /// Says this in place of the right answer; 0 says nothing at all.
    pub instead: Option<u16>,
    pub runners: BTreeMap<String, Known>,
    /// Names of all runners so far, in turn.
    pub names: Vec<String>,
    pub beats: usize,
    pub unregistered: Vec<String>,
    /// Sessions that were stopped by their runner.
    pub stopped: Vec<String>,
    /// Channels that were taken back.
    pub deleted: Vec<String>,
    made: u64,
}

#[derive(Clone)]
struct Shared {
    book: Arc<Mutex<Book>>,
    trickle: Server,
    base: String,
}

/// The orchestrator.
pub struct Orchestra {
    pub address: SocketAddr,
    pub book: Arc<Mutex<Book>>,
    pub trickle: Server,
    base: String,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// How long a runner lives without a heartbeat; 20 s in the world.
const TTL: Duration = Duration::from_secs(4);

impl Orchestra {
    pub async fn new(secret: &str) -> Self {
        let channels = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = ServerConfig { base_path: "/ai/trickle/".into(), ..ServerConfig::default() };
        let base = format!("http://{}{}", channels.local_addr().unwrap(), config.base_path);
        let trickle = Server::new(config);
        let serving = trickle.clone();
        let channels = tokio::spawn(async move { serving.serve(channels, std::future::pending()).await });
        let book = Arc::new(Mutex::new(Book { secret: secret.into(), ..Book::default() }));
        let shared = Shared { book: book.clone(), trickle: trickle.clone(), base: base.clone() };
        let router = Router::new()
            .route("/runners/heartbeat", post(heartbeat))
            .route("/runners/{id}/unregister", post(unregister))
            .route("/runner/{id}/session/{session}/channels", post(make).delete(unmake))
            .route("/runner/{id}/session/{session}/stop", post(stop))
            .with_state(shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let tasks = [AbortOnDropHandle::new(task), AbortOnDropHandle::new(channels)];
        Self { address, book, trickle, base, _tasks: tasks }
    }

    pub fn set<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        change(&mut self.book.lock().unwrap())
    }

    /// The only runner, if there is one.
    pub fn runner(&self) -> Option<(String, Known)> {
        self.set(|book| book.runners.iter().next().map(|(id, known)| (id.clone(), known.clone())))
    }

    /// A client has reserved a session of the only runner: the headers with which its calls are proxied.
    pub fn reserve(&self) -> (String, String) {
        let (id, _) = self.runner().expect("a runner");
        let session = self.set(|book| {
            book.made += 1;
            let session = format!("session{}", book.made);
            book.runners.get_mut(&id).unwrap().sessions.push(session.clone());
            session
        });
        let control = format!("http://{}/runner/{id}/session/{session}", self.address);
        let headers = format!(
            "livepeer-runner-route: {id}\r\nlivepeer-session-id: {session}\r\nlivepeer-session-token: token-{session}\r\n\
             livepeer-session-control: {control}\r\ncontent-type: application/json\r\n"
        );
        (session, headers)
    }

    /// The client leaves, or has not paid: the session and its channels are gone, and the runner is told in passing.
    pub async fn release(&self, session: &str, tell: bool) {
        let (id, _) = self.runner().expect("a runner");
        self.set(|book| release(book, &self.trickle, session));
        if tell {
            let url = format!("{}{id}-o2r", self.base);
            let client = Client::new(&weir::trickle::Config::default()).unwrap();
            let mut hints = Publisher::open(&client, &url, "application/json", Begin::Resume).await.unwrap();
            let hint = json!({"event": "released", "session": session, "timestamp": "2026-01-01T00:00:00Z"});
            hints.send_document(hint.to_string().into()).await.unwrap();
        }
    }
}

fn release(book: &mut Book, trickle: &Server, session: &str) {
    for known in book.runners.values_mut() {
        known.sessions.retain(|id| id != session);
    }
    for name in ["in", "out", "control", "events"] {
        trickle.close(&format!("{session}-{name}"));
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
}

/// The answer that is told in place of the right one.
async fn instead(shared: &Shared) -> Option<Response> {
    let status = shared.book.lock().unwrap().instead?;
    if status == 0 {
        std::future::pending::<()>().await;
    }
    Some((StatusCode::from_u16(status).unwrap(), "as it was told").into_response())
}

async fn heartbeat(State(shared): State<Shared>, headers: HeaderMap, Json(beat): Json<Value>) -> Response {
    shared.book.lock().unwrap().beats += 1;
    if let Some(response) = instead(&shared).await {
        return response;
    }
    let auth = text(&headers, "authorization");
    let mut book = shared.book.lock().unwrap();
    let id = beat["runner_id"].as_str().expect("a runner_id").to_owned();
    let no = |status: u16, why: &str| (StatusCode::from_u16(status).unwrap(), why.to_owned()).into_response();
    if beat["runner_url"].as_str().is_none_or(|url| !url.starts_with("http://")) {
        return no(400, "invalid runner_url");
    }
    let mut answer = json!({
        "runner_id": id, "orchestrator": "http://127.0.0.1:1", "heartbeat_interval": "300ms", "heartbeat_ttl": "4s",
    });
    match book.runners.get_mut(&id) {
        None => {
            if auth != book.secret {
                return no(401, "invalid registration authorization");
            }
            let secret = format!("heartbeat-{id}");
            let name = format!("{id}-o2r");
            shared.trickle.create(&name, "application/json");
            answer["heartbeat_secret"] = secret.clone().into();
            answer["o2r"] = json!({"name": "o2r", "channel_name": name, "url": format!("{}{name}", shared.base),
                                   "mime_type": "application/json"});
            answer["session_ids"] = json!([]);
            book.names.push(id.clone());
            book.runners.insert(id, Known { secret, beat, at: Instant::now(), sessions: Vec::new() });
        }
        Some(known) => {
            if known.at.elapsed() > TTL {
                return no(404, "runner not found");
            }
            if auth != known.secret {
                return no(401, "invalid heartbeat authorization");
            }
            (known.beat, known.at) = (beat, Instant::now());
            answer["session_ids"] = json!(known.sessions);
        }
    }
    Json(answer).into_response()
}

async fn unregister(State(shared): State<Shared>, Path(id): Path<String>, headers: HeaderMap) -> StatusCode {
    let mut book = shared.book.lock().unwrap();
    match book.runners.get(&id) {
        Some(known) if known.secret == text(&headers, "authorization") => {
            book.runners.remove(&id);
            book.unregistered.push(id);
            StatusCode::NO_CONTENT
        }
        Some(_) => StatusCode::UNAUTHORIZED,
        None => StatusCode::NOT_FOUND,
    }
}

fn permitted(book: &Book, id: &str, session: &str, headers: &HeaderMap) -> Result<(), StatusCode> {
    let known = book.runners.get(id).ok_or(StatusCode::NOT_FOUND)?;
    if !known.sessions.iter().any(|known| known == session) {
        return Err(StatusCode::NOT_FOUND);
    }
    let right = text(headers, "livepeer-session-token") == format!("token-{session}");
    if right { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
}

async fn make(
    State(shared): State<Shared>,
    Path((id, session)): Path<(String, String)>,
    headers: HeaderMap,
    Json(wanted): Json<Value>,
) -> Response {
    if let Some(response) = instead(&shared).await {
        return response;
    }
    let book = shared.book.lock().unwrap();
    if let Err(status) = permitted(&book, &id, &session, &headers) {
        return status.into_response();
    }
    let made: Vec<Value> = wanted["channels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|channel| {
            let name = channel["name"].as_str().unwrap();
            let full = format!("{session}-{name}");
            shared.trickle.create(&full, channel["mime_type"].as_str().unwrap());
            // What clients use is not what runners use.
            json!({"name": name, "channel_name": full, "url": format!("https://public.example/{full}"),
                   "internal_url": format!("{}{full}", shared.base), "mime_type": channel["mime_type"]})
        })
        .collect();
    Json(json!({ "channels": made })).into_response()
}

async fn unmake(
    State(shared): State<Shared>,
    Path((id, session)): Path<(String, String)>,
    headers: HeaderMap,
    Json(names): Json<Value>,
) -> Response {
    let mut book = shared.book.lock().unwrap();
    if let Err(status) = permitted(&book, &id, &session, &headers) {
        return status.into_response();
    }
    for name in names["channels"].as_array().unwrap() {
        book.deleted.push(format!("{session}-{}", name.as_str().unwrap()));
    }
    Json(json!({"deleted": names["channels"]})).into_response()
}

async fn stop(
    State(shared): State<Shared>,
    Path((id, session)): Path<(String, String)>,
    headers: HeaderMap,
) -> StatusCode {
    let mut book = shared.book.lock().unwrap();
    if let Err(status) = permitted(&book, &id, &session, &headers) {
        return status;
    }
    release(&mut book, &shared.trickle, &session);
    book.stopped.push(session);
    StatusCode::NO_CONTENT
}
