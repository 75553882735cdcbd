//! A supervisor under test and a caller that sends bytes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use weir::supervisor::{Config, EngineCommand, Error};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The body as JSON; the content type must say so.
    pub fn json(&self) -> Value {
        assert!(self.head.to_lowercase().contains("content-type: application/json"), "{self:?}");
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// `detail.msg` of an error.
    pub fn msg(&self) -> String {
        self.json()["detail"]["msg"].as_str().expect("detail.msg").to_owned()
    }
}

/// Settings that suit tests.
pub fn config() -> Config {
    Config {
        host: [127, 0, 0, 1].into(),
        port: 0,
        hang_ms: 1_000,
        load_ms: 1_500,
        shutdown_ms: 1_500,
        version: "1.2.3".into(),
        ..Default::default()
    }
}

/// A supervisor that runs in this test.
pub struct Running {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    pub async fn new(config: Config, command: EngineCommand) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, address) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let run = weir::supervisor::run(config, json!({"capacity": 1}), command, shutdown, |address| {
            bound.send(address).expect("the test waits");
        });
        let task = tokio::spawn(run);
        Self { address: address.await.expect("an address"), stop: Some(stop), task }
    }

    /// Ends it and gives the time that took.
    pub async fn stop(mut self) -> Duration {
        let begin = Instant::now();
        self.stop.take().map(|stop| stop.send(()));
        self.task.await.expect("no panic").expect("no error");
        begin.elapsed()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "content-type: application/json\r\n", &body.to_string()).await
    }

    pub async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        exchange(self.address, request.as_bytes()).await
    }

    pub async fn word(&self) -> String {
        let answer = self.get("/health").await;
        assert_eq!(answer.status, 200);
        answer.json()["status"].as_str().expect("a word").to_owned()
    }

    /// Waits for a word; panics after five seconds.
    pub async fn becomes(&self, word: &str) {
        until(word, async || self.word().await == word).await;
    }
}

/// Waits until something holds; panics after five seconds.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < Duration::from_secs(5), "{what} did not come true in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sends bytes and reads to the end.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    // A server that refuses a body early may close before all of it is written.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A start request.
pub fn order() -> Value {
    json!({
        "subscribe_url": "http://127.0.0.1:1/in", "publish_url": "http://127.0.0.1:1/out",
        "control_url": "http://127.0.0.1:1/control", "events_url": "http://127.0.0.1:1/events",
        "model_id": "noop", "params": {"prompt": "a"}, "gateway_request_id": "g1", "manifest_id": "m1", "stream_id": "s1",
    })
}
