//! A line between the runner and the trickle server that can be cut and held.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::RigError;

/// Connections at a time; further ones wait.
const MOST: usize = 64;

/// Passes connections on to one address, byte for byte. Ends with this value, and every connection with it.
pub struct Proxy {
    address: SocketAddr,
    line: Arc<Mutex<CancellationToken>>,
    cut: Arc<AtomicU64>,
    held: watch::Sender<bool>,
    _serving: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Binds a free loopback port in front of `target`.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(target: SocketAddr) -> Result<Self, RigError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(RigError::Socket)?;
        let address = listener.local_addr().map_err(RigError::Socket)?;
        let line = Arc::new(Mutex::new(CancellationToken::new()));
        let cut = Arc::new(AtomicU64::new(0));
        let (held, holding) = watch::channel(false);
        let serving = tokio::spawn(serve(listener, target, line.clone(), cut.clone(), holding));
        Ok(Self { address, line, cut, held, _serving: AbortOnDropHandle::new(serving) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection. New ones are passed on at once.
    pub fn cut(&self) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *line).cancel();
    }

    /// Passes nothing on while `held`; what waits then goes out at once.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Connections cut so far.
    pub fn cuts(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }
}

async fn serve(
    listener: TcpListener,
    target: SocketAddr,
    line: Arc<Mutex<CancellationToken>>,
    cut: Arc<AtomicU64>,
    held: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MOST => {
                let Ok((from, _)) = accepted else { continue };
                let line = line.lock().unwrap_or_else(PoisonError::into_inner).clone();
                connections.spawn(pass(from, target, line, cut.clone(), held.clone()));
            }
        }
    }
}

async fn pass(
    mut from: TcpStream,
    target: SocketAddr,
    line: CancellationToken,
    cut: Arc<AtomicU64>,
    mut held: watch::Receiver<bool>,
) {
    let Ok(mut to) = TcpStream::connect(target).await else { return };
    // Refused options cost time, nothing else.
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let mut copying = pin!(copy_bidirectional(&mut from, &mut to));
    loop {
        let hold = tokio::select! {
            _ = &mut copying => return,
            hold = held.wait_for(|held| *held) => hold.is_ok(),
            () = line.cancelled() => {
                cut.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        // Without the one who holds and lets go there is nothing to wait for any more.
        if !hold || held.wait_for(|held| !held).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_pass_until_the_line_is_cut() {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = echo.local_addr().unwrap();
        let _echoing = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((mut socket, _)) = echo.accept().await {
                let mut bytes = [0; 4];
                while let Ok(count @ 1..) = socket.read(&mut bytes).await {
                    socket.write_all(&bytes[..count]).await.unwrap();
                }
            }
        }));
        let proxy = Proxy::start(target).await.unwrap();
        let mut bytes = [0; 4];
        let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
        socket.write_all(b"ping").await.unwrap();
        socket.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        proxy.cut();
        assert!(matches!(socket.read(&mut bytes).await, Ok(0) | Err(_)));
        assert_eq!(proxy.cuts(), 1);
        let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
        socket.write_all(b"pong").await.unwrap();
        socket.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"pong");
    }
}
