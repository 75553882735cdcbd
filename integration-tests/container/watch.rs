//! An orchestrator's watch over a container: `GET /health` again and again, judged as it judges.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// An orchestrator looks every 5 s; ten times as often sees ten times as much.
const LOOK: Duration = Duration::from_millis(500);
/// What it gives one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks until this value is dropped.
pub struct Watch {
    seen: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Watch {
    /// Begins to look. The container must have answered once.
    pub fn start(address: SocketAddr) -> Self {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let list = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let found = tokio::time::timeout(PATIENCE, look(address)).await;
                let word = found.unwrap_or_else(|_| Err("no answer within 5 s".into()));
                list.lock().unwrap().push(word.unwrap_or_else(|problem| format!("failure: {problem}")));
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { seen, _task: AbortOnDropHandle::new(task) }
    }

    /// What was seen so far, each word once for as long as it stayed the same.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.seen.lock().unwrap().clone();
        words.dedup();
        words
    }

    /// Waits until it has seen `word` last.
    pub async fn until(&self, word: &str) {
        let seen = || self.seen.lock().unwrap().last().is_some_and(|last| last == word);
        let began = std::time::Instant::now();
        while !seen() {
            assert!(began.elapsed() < Duration::from_secs(20), "not {word}: {:?}", self.words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One look with the headers that go-livepeer sends. Anything but 200 with JSON counts as a failure there; a content type
/// without `json` ends its watch for good.
async fn look(address: SocketAddr) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| text(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get("/health")
        .header("Host", address.to_string())
        .header("User-Agent", "Go-http-client/1.1")
        .header("Accept-Encoding", "gzip")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| text(&error))?;
    let response = sender.send_request(request).await.map_err(|error| text(&error))?;
    let status = response.status();
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or("").to_owned();
    let plain = response.headers().get("content-encoding").is_none();
    let body = response.into_body().collect().await.map_err(|error| text(&error))?.to_bytes();
    if status != 200 || !kind.contains("json") || !plain {
        return Err(format!("{status} {kind}"));
    }
    let answer: Value = serde_json::from_slice(&body).map_err(|error| text(&error))?;
    answer["status"].as_str().map(str::to_owned).ok_or_else(|| "no status".into())
}
