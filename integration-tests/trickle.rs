//! The trickle client and server over real sockets: with each other, and against servers that misbehave.

#![allow(clippy::unwrap_used)]

mod clients;
mod faults;
mod faulty;
mod tls;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use weir::trickle::{Client, Config, Segment, Server, ServerConfig, TrickleError};

/// A time limit that no sound test reaches.
const LONG: Duration = Duration::from_secs(10);

/// Fails a test that hangs.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("it hangs")
}

/// A served trickle server.
struct Host {
    server: Server,
    base: String,
    task: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    async fn new(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}{}", listener.local_addr().unwrap(), config.base_path);
        let server = Server::new(config);
        let serving = server.clone();
        let task = tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
        Self { server, base, task }
    }

    async fn with(channel: &str) -> Self {
        let host = Self::new(ServerConfig::default()).await;
        assert!(host.server.create(channel, "video/MP2T"));
        host
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

/// Short times, so that what waits and gives up does it within a test.
fn quick() -> Config {
    Config { silent_get_ms: 200, retry_delay_ms: 20, write_stall_ms: 400, close_ms: 1_000, ..Config::default() }
}

fn client() -> Client {
    Client::new(&quick()).unwrap()
}

async fn whole(mut segment: Segment) -> Result<String, TrickleError> {
    let document = soon(segment.document(1 << 20)).await?;
    Ok(String::from_utf8(document.unwrap_or_default().to_vec()).unwrap())
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
