//! Doors that are shut: callers beyond the machine, addresses that nobody may send us to, callers who take more than
//! their part.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir::supervisor::{Byoc, Config};

use super::client::{Answer, Running, config, exchange, order};
use super::fake::{Fake, Life};

/// An address of this machine that is not loopback, so that a call to it comes from beyond as far as a server can tell.
/// A connected UDP socket has one, and sends nothing.
fn outer() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}

async fn open(config: Config) -> (Running, SocketAddr, SocketAddr) {
    let fake = Fake::new(vec![Life::default()]);
    let server = Running::new(Config { host: [0, 0, 0, 0].into(), ..config }, fake.command()).await;
    let port = server.address.port();
    // A machine without a network has no way to call from beyond.
    let outer = outer().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    (server, SocketAddr::new(outer, port), SocketAddr::from(([127, 0, 0, 1], port)))
}

async fn call(to: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let body = if method == "POST" { order().to_string() } else { String::new() };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n{headers}\r\n{body}"
    );
    exchange(to, request.as_bytes()).await
}

const FREE: [&str; 5] = ["/health", "/version", "/app-version", "/hardware/info", "/hardware/stats"];
const SHUT: [(&str, &str); 15] = [
    ("POST", "/live-video-to-video"),
    ("POST", "/api/live-video-to-video"),
    ("POST", "/api/params"),
    ("GET", "/api/status"),
    ("POST", "/stream/start"),
    ("GET", "/streams"),
    ("GET", "/metrics"),
    ("GET", "/metering/streams"),
    ("GET", "/recordings"),
    ("POST", "/recordings"),
    ("GET", "/recordings/1-1"),
    ("GET", "/api/pipelines"),
    ("POST", "/api/pipeline"),
    ("GET", "/openapi.json"),
    ("GET", "/docs/"),
];

#[tokio::test]
async fn nothing_but_health_is_open_beyond_the_machine_unless_something_says_so() {
    let (_server, beyond, near) = open(config()).await;
    for path in FREE {
        assert_eq!(call(beyond, "GET", path, "").await.status, 200, "{path}");
    }
    for (method, path) in SHUT {
        let answer = call(near, method, path, "").await;
        assert_ne!(answer.status, 401, "{path} {answer:?}");
        if !beyond.ip().is_loopback() {
            let answer = call(beyond, method, path, "").await;
            assert_eq!((answer.status, answer.body.contains("serve.open")), (401, true), "{path} {answer:?}");
            let answer = call(beyond, method, &format!("{path}/"), "authorization: Bearer x\r\n").await;
            assert_eq!(answer.status, 401, "{path}/");
        }
    }
    // Set to be open, as the container is, or with a token.
    let (_server, beyond, _) = open(Config { open: true, ..config() }).await;
    assert_eq!(call(beyond, "POST", "/live-video-to-video", "").await.status, 200);
    assert_eq!(call(beyond, "GET", "/metrics", "").await.status, 200);
    let (_server, beyond, _) = open(Config { auth_token: "secret".into(), ..config() }).await;
    assert_eq!(call(beyond, "POST", "/live-video-to-video", "").await.status, 401);
    assert_eq!(call(beyond, "POST", "/live-video-to-video", "authorization: Bearer secret\r\n").await.status, 200);
}

#[tokio::test]
async fn a_worker_that_registers_without_a_token_makes_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let byoc = Byoc {
        orchestrator: format!("http://{}", listener.local_addr().unwrap()),
        secret: "s".into(),
        url: "http://runner:8000".into(),
        ..Byoc::default()
    };
    let (_server, beyond, _) = open(Config { byoc, ..config() }).await;
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"}") {
        assert!(socket.read_buf(&mut bytes).await.unwrap() > 0);
    }
    let text = String::from_utf8(bytes).unwrap();
    let body: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    let token = body["token"].as_str().expect("a token");
    assert!(token.len() >= 32, "{token}");
    let answer = call(beyond, "GET", "/streams", &format!("authorization: Bearer {token}\r\n")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    if !beyond.ip().is_loopback() {
        assert_eq!(call(beyond, "GET", "/streams", "authorization: Bearer other\r\n").await.status, 401);
    }
}

#[tokio::test]
async fn one_caller_has_as_many_streams_as_it_may() {
    let fake = Fake::with_room(3, vec![Life::default()]);
    let config = Config { capacity: 3, max_client_streams: 1, ..config() };
    let server = Running::new(config, fake.command()).await;
    server.becomes("IDLE").await;
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    let answer = server.post("/live-video-to-video", &order()).await;
    assert_eq!((answer.status, answer.msg().contains("insufficient capacity: 1 streams of one caller")), (500, true));
    assert_eq!(server.post("/api/stop", &json!({"session": 1})).await.status, 200);
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
}

#[tokio::test]
async fn connections_of_one_address_are_bounded_and_a_slow_body_ends() {
    let fake = Fake::new(vec![Life::default()]);
    let config = Config { max_client_connections: 4, ..config() };
    let server = Running::new(config, fake.command()).await;
    server.becomes("IDLE").await;
    let mut idle = Vec::new();
    for _ in 0..12 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    // There is still a seat: whoever is idle for longest makes room.
    assert_eq!(server.word().await, "IDLE");
    let mut closed = 0;
    for socket in &mut idle {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(200), socket.read(&mut byte)).await;
        closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }
    assert!(closed >= 8, "{closed} of 12 were closed");
    drop(idle);
    // A body that drips is given up after its time, whatever was promised.
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /live-video-to-video HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        loop {
            tokio::select! {
                count = slow.read_buf(&mut answer) => if count.unwrap_or(0) == 0 || answer.windows(8).any(|w| w == b"in time\"") { break },
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(25), read).await.expect("an end");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("did not arrive in time"), "{text}");
}
