//! The gateway's side of the control channel: updates, and a sign of life every ten seconds.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::RigError;
use crate::trickle::{Begin, Client, Publisher, TrickleError};

/// Time between two signs of life.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Updates that may wait.
const QUEUE: usize = 8;

type Order = (Bytes, oneshot::Sender<Result<u64, TrickleError>>);

/// Writes a control channel, from a task that ends with the last clone of this value.
#[derive(Clone)]
pub struct Control {
    orders: mpsc::Sender<Order>,
    _task: std::sync::Arc<AbortOnDropHandle<()>>,
}

impl Control {
    /// Opens the channel at `url`.
    ///
    /// # Errors
    /// `url` is no channel URL.
    pub async fn open(client: &Client, url: &str) -> Result<Self, RigError> {
        let publisher = Publisher::open(client, url, "application/json", Begin::Zero).await?;
        let (orders, queue) = mpsc::channel(QUEUE);
        let task = tokio::spawn(write(publisher, queue));
        Ok(Self { orders, _task: std::sync::Arc::new(AbortOnDropHandle::new(task)) })
    }

    /// Sends a set of parameters and waits until the server has it. What the runner makes of it shows in the picture,
    /// or in an `error` event.
    ///
    /// # Errors
    /// The channel does not take it.
    pub async fn update(&self, params: &Map<String, Value>) -> Result<u64, RigError> {
        let document = serde_json::to_vec(params).unwrap_or_default();
        let (answer, answered) = oneshot::channel();
        let gone = |_| RigError::Trickle(TrickleError::Stopped);
        self.orders.send((document.into(), answer)).await.map_err(|_| gone(()))?;
        Ok(answered.await.map_err(|_| gone(()))??)
    }
}

async fn write(mut publisher: Publisher, mut orders: mpsc::Receiver<Order>) {
    let mut alive = tokio::time::interval_at(tokio::time::Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some((document, answer)) = order else { return };
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(publisher.send_document(document).await);
            }
            _ = alive.tick() => {
                // A failed sign of life is followed by another.
                let _ = publisher.send_document(Bytes::from_static(br#"{"keep":"alive"}"#)).await;
                if publisher.ended().is_some() {
                    return;
                }
            }
        }
    }
}
