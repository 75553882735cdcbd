//! A way to the trickle server that can be made to fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: bytes pass.
    None,
    /// Connections stay open, and no byte passes either way.
    Stall,
    /// Every connection is closed at once, and new ones as soon as they are there.
    Cut,
    /// Every connection is closed, and requests on new ones are answered with 500.
    Error,
}

/// The way.
pub struct Proxy {
    /// Address to use in place of the server's.
    pub address: SocketAddr,
    fault: Arc<watch::Sender<Fault>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// A way to `target`, open.
    pub async fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fault = Arc::new(watch::Sender::new(Fault::None));
        let state = fault.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, target, state.subscribe()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, fault, task }
    }

    /// Changes what happens from now on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

async fn serve(mut near: TcpStream, target: SocketAddr, mut fault: watch::Receiver<Fault>) {
    if *fault.borrow() == Fault::Error {
        let mut head = [0; 4096];
        let _ = near.read(&mut head).await;
        let _ = near
            .write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await;
        // What the client still sends is read for a moment, so that the answer is not lost to a reset.
        let _ = tokio::time::timeout(Duration::from_millis(100), async {
            while near.read(&mut head).await.is_ok_and(|count| count > 0) {}
        })
        .await;
        return;
    }
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let (mut here, mut there) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let now = *fault.borrow_and_update();
        match now {
            Fault::Cut | Fault::Error => return,
            Fault::Stall => {
                if fault.changed().await.is_err() {
                    return;
                }
            }
            Fault::None => {
                let passed = tokio::select! {
                    changed = fault.changed() => changed.is_ok(),
                    read = near.read(&mut here) => match read {
                        Ok(count) if count > 0 => far.write_all(&here[..count]).await.is_ok(),
                        _ => false,
                    },
                    read = far.read(&mut there) => match read {
                        Ok(count) if count > 0 => near.write_all(&there[..count]).await.is_ok(),
                        _ => false,
                    },
                };
                if !passed {
                    return;
                }
            }
        }
    }
}
