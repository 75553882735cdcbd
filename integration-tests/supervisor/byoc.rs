//! Registration with a stand-in for an orchestrator that misbehaves on request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use weir::link::FromEngine;
use weir::supervisor::{Byoc, Config};

use super::client::{Running, config, order, until};
use super::fake::{Fake, Life};

#[derive(Default)]
struct State {
    secret: String,
    /// Says this in place of the right answer; 0 says nothing at all.
    instead: Option<u16>,
    known: Option<Value>,
    calls: Vec<String>,
}

struct Orchestrator {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _task: AbortOnDropHandle<()>,
}

impl Orchestrator {
    async fn new(secret: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { secret: secret.into(), ..State::default() }));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn(serve(stream, shared.clone()));
            }
        });
        Self { address, state, _task: AbortOnDropHandle::new(task) }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn known(&self) -> Option<Value> {
        self.state.lock().unwrap().known.clone()
    }

    fn calls(&self) -> usize {
        self.state.lock().unwrap().calls.len()
    }

    fn config(&self) -> Config {
        let byoc = Byoc {
            orchestrator: format!("http://{}", self.address),
            secret: "orch-secret".into(),
            name: "face".into(),
            refresh_ms: 300,
            price_per_unit: 7,
            ..Byoc::default()
        };
        Config { byoc, ..config() }
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            break (head.to_owned(), length.unwrap_or(0));
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    while bytes.len() < head.len() + 4 + length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let body = String::from_utf8(bytes[head.len() + 4..].to_vec()).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let (status, text) = {
        let mut state = state.lock().unwrap();
        state.calls.push(path.clone());
        let right = head.lines().any(|line| line == format!("authorization: {}", state.secret));
        match (state.instead, path.as_str()) {
            (Some(0), _) => (0, ""),
            (Some(status), _) => (status, "as it was told"),
            (None, _) if !right => (400, "invalid authorization"),
            (None, "/capability/register") => {
                state.known = Some(serde_json::from_str(&body).unwrap());
                (200, "ok")
            }
            (None, "/capability/unregister") => {
                if state.known.as_ref().is_some_and(|known| known["name"] == body.as_str()) {
                    state.known = None;
                }
                (200, "")
            }
            _ => (404, "page not found"),
        }
    };
    if status == 0 {
        return std::future::pending().await;
    }
    let length = text.len();
    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}");
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn running(config: Config, life: Life) -> (Running, Fake) {
    let fake = Fake::new(vec![life]);
    (Running::new(config, fake.command()).await, fake)
}

#[tokio::test]
async fn registers_when_ready_and_unregisters_at_the_end() {
    let orchestrator = Orchestrator::new("orch-secret").await;
    let config = Config { auth_token: "bearer".into(), ..orchestrator.config() };
    let (server, _fake) = running(config, Life { load_ms: Some(400), ..Life::default() }).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(orchestrator.calls(), 0, "not before the pipeline is warm");
    until("a registration", async || orchestrator.known().is_some()).await;
    let expected = json!({
        "name": "face", "url": format!("http://{}", server.address), "description": "Live AI video on Weir",
        "capacity": 1, "price_per_unit": 7, "price_scaling": 1, "token": "bearer",
    });
    assert_eq!(orchestrator.known(), Some(expected));
    assert!(server.stop().await < Duration::from_millis(1_000));
    assert_eq!(orchestrator.known(), None);
}

#[tokio::test]
async fn an_orchestrator_that_forgets_is_told_again_but_not_during_a_stream() {
    let orchestrator = Orchestrator::new("orch-secret").await;
    let (server, fake) = running(orchestrator.config(), Life::default()).await;
    until("a registration", async || orchestrator.known().is_some()).await;
    orchestrator.set(|state| state.known = None);
    until("another", async || orchestrator.known().is_some()).await;

    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    tokio::time::sleep(Duration::from_millis(150)).await;
    let calls = orchestrator.calls();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(orchestrator.calls(), calls);
    fake.say(FromEngine::Ended { session: 1, reason: "x".into(), fault: false });
    until("a third", async || orchestrator.calls() > calls).await;
}

#[tokio::test]
async fn a_pipeline_that_is_given_up_is_taken_back() {
    let orchestrator = Orchestrator::new("orch-secret").await;
    let config = Config { max_failures: 1, ..orchestrator.config() };
    let (server, fake) = running(config, Life::default()).await;
    until("a registration", async || orchestrator.known().is_some()).await;
    fake.die();
    server.becomes("ERROR").await;
    until("no registration", async || orchestrator.known().is_none()).await;
}

#[tokio::test]
async fn errors_and_silence_do_not_stop_the_runner_and_are_tried_again() {
    for status in [500, 503, 302] {
        let orchestrator = Orchestrator::new("orch-secret").await;
        orchestrator.set(|state| state.instead = Some(status));
        let (server, _fake) = running(orchestrator.config(), Life::default()).await;
        until("a try", async || orchestrator.calls() > 0).await;
        assert_eq!(server.word().await, "IDLE");
        orchestrator.set(|state| state.instead = None);
        until("a registration", async || orchestrator.known().is_some()).await;
    }
    let orchestrator = Orchestrator::new("orch-secret").await;
    orchestrator.set(|state| state.instead = Some(0));
    let (server, _fake) = running(orchestrator.config(), Life::default()).await;
    until("a try", async || orchestrator.calls() > 0).await;
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    // The farewell is not waited for any longer than the end allows.
    assert!(server.stop().await < Duration::from_millis(2_500));
}

#[tokio::test]
async fn a_refusal_is_not_hammered_and_a_wrong_secret_is_no_end() {
    for status in [401, 404, 400] {
        let orchestrator = Orchestrator::new("orch-secret").await;
        orchestrator.set(|state| state.instead = Some(status));
        let (server, _fake) = running(orchestrator.config(), Life::default()).await;
        until("a try", async || orchestrator.calls() > 0).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(orchestrator.calls(), 1);
        assert_eq!(server.word().await, "IDLE");
        let text = server.get("/metrics").await.body;
        assert!(text.contains("weir_supervisor_byoc_registered 0"), "{text}");
    }
}

#[tokio::test]
async fn a_secret_that_was_changed_is_noticed() {
    let orchestrator = Orchestrator::new("orch-secret").await;
    let (server, _fake) = running(orchestrator.config(), Life::default()).await;
    until("a registration", async || orchestrator.known().is_some()).await;
    orchestrator.set(|state| state.secret = "another".into());
    until("the loss", async || server.get("/metrics").await.body.contains("weir_supervisor_byoc_registered 0")).await;
    assert_eq!(server.word().await, "IDLE");
}

#[tokio::test]
async fn nothing_is_announced_that_nobody_can_reach() {
    let orchestrator = Orchestrator::new("orch-secret").await;
    let config = Config { host: [0, 0, 0, 0].into(), ..orchestrator.config() };
    let (server, _fake) = running(config, Life::default()).await;
    let local = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let health = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    until("IDLE", async || super::client::exchange(local, health).await.json()["status"] == "IDLE").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(orchestrator.calls(), 0);
}

#[test]
fn the_secret_is_never_printed() {
    let config = Config { byoc: Byoc { secret: "hush-hush".into(), ..Byoc::default() }, ..config() };
    assert!(!format!("{config:?}").contains("hush-hush"));
}
