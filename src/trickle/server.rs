//! A trickle server: what an orchestrator runs, for the demonstration, the benchmark and the tests.
//!
//! Channels live in memory. Each keeps its last five segments; a segment is relayed to its readers while it is being
//! written and replayed to late ones. There is no authentication: who knows a channel's name may use it.

mod channel;
mod http1;
mod io;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::post::lock;
use channel::Channel;

pub use channel::ChannelSnapshot;

/// Time that open requests get to end when the server stops.
const GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed accept, which means that the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Path above the channels.
    pub base_path: String,
    /// A POST to an unknown channel creates it.
    pub auto_create: bool,
    /// Time without a new segment after which a channel is swept.
    pub idle_timeout: Duration,
    /// Time between two sweeps.
    pub sweep_interval: Duration,
    /// Time between two interim answers to a POST without a byte.
    pub interim_interval: Duration,
    /// Channels at a time.
    pub max_channels: usize,
    /// Bytes in one segment, its bookkeeping included.
    pub max_segment: usize,
    /// Connections at a time; further ones wait to be accepted.
    pub max_connections: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            base_path: "/".into(),
            auto_create: false,
            idle_timeout: Duration::from_secs(300),
            sweep_interval: Duration::from_secs(60),
            interim_interval: Duration::from_secs(10),
            max_channels: 1024,
            max_segment: 256 * 1024 * 1024,
            max_connections: 4096,
        }
    }
}

/// A trickle server. Cloning shares it.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    config: ServerConfig,
    channels: Mutex<HashMap<String, Arc<Channel>>>,
}

/// The server holds as many channels as it may.
struct Full;

impl Server {
    /// A server without channels.
    pub fn new(config: ServerConfig) -> Self {
        Self { inner: Arc::new(Inner { config, channels: Mutex::default() }) }
    }

    /// Creates a channel whose segments have the type `mime`. False if it exists or there is no room.
    pub fn create(&self, name: &str, mime: &str) -> bool {
        let mut channels = lock(&self.inner.channels);
        if channels.len() >= self.inner.config.max_channels {
            return false;
        }
        match channels.entry(name.to_owned()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(Arc::new(Channel::new(mime, Instant::now())));
                true
            }
        }
    }

    /// Closes a channel and forgets it. False if it does not exist.
    pub fn close(&self, name: &str) -> bool {
        let channel = lock(&self.inner.channels).remove(name);
        match channel {
            Some(channel) => {
                channel.close();
                true
            }
            None => false,
        }
    }

    /// Closes the channels in which no segment began for the idle timeout; those whose name begins with `_` stay.
    pub fn sweep(&self, now: Instant) {
        let idle = self.inner.config.idle_timeout;
        lock(&self.inner.channels).retain(|name, channel| {
            let keep = name.starts_with('_') || now.saturating_duration_since(channel.written_at()) <= idle;
            if !keep {
                channel.close();
            }
            keep
        });
    }

    /// The names of all channels, sorted.
    pub fn channels(&self) -> Vec<String> {
        let mut names: Vec<_> = lock(&self.inner.channels).keys().cloned().collect();
        names.sort();
        names
    }

    /// What a channel holds.
    pub fn snapshot(&self, name: &str) -> Option<ChannelSnapshot> {
        Some(self.find(name)?.snapshot())
    }

    /// The bytes that a segment holds so far.
    pub fn segment(&self, name: &str, seq: u64) -> Option<Bytes> {
        self.find(name)?.content(seq)
    }

    /// The routes. Served by anything but [`serve`](Self::serve), POSTs get no interim answers and nothing sweeps.
    pub fn router(&self) -> Router {
        http1::router(self.clone())
    }

    /// Accepts connections, and sweeps, until `shutdown` is done; then closes every channel and waits a second for
    /// open requests.
    /// A failing accept is tried again.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let router = self.router();
        let stop = CancellationToken::new();
        let mut connections = JoinSet::new();
        let mut sweep = tokio::time::interval(self.inner.config.sweep_interval.max(Duration::from_millis(1)));
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                _ = sweep.tick() => self.sweep(Instant::now()),
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < self.inner.config.max_connections => {
                    let Ok((stream, _)) = accepted else {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    };
                    // Fails only for a peer that is gone already.
                    if stream.set_nodelay(true).is_ok() {
                        connections.spawn(connection(router.clone(), stream, stop.clone()));
                    }
                }
            }
        }
        for name in self.channels() {
            self.close(&name);
        }
        stop.cancel();
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, drained).await.is_err() {
            connections.shutdown().await;
        }
    }

    /// Serves one connection, TLS for example, until its end.
    pub async fn serve_connection(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        connection(self.router(), io, CancellationToken::new()).await;
    }

    fn find(&self, name: &str) -> Option<Arc<Channel>> {
        lock(&self.inner.channels).get(name).cloned()
    }

    /// The channel of this name, created if the server does that.
    fn find_or_create(&self, name: &str, mime: &str) -> Result<Option<Arc<Channel>>, Full> {
        if let Some(channel) = self.find(name) {
            return Ok(Some(channel));
        }
        if !self.inner.config.auto_create {
            return Ok(None);
        }
        self.create(name, mime);
        self.find(name).map(Some).ok_or(Full)
    }
}

/// Serves one connection; ends it after the request at hand once `stop` is cancelled.
async fn connection(router: Router, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, stop: CancellationToken) {
    let (io, interim) = io::wrap(io);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(interim.clone());
        router.clone().oneshot(request)
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    // A waiting connection is no slow request, so heads have no time limit.
    builder.timer(TokioTimer::new()).header_read_timeout(None);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    // How a connection ends is its client's affair.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
