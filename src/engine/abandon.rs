//! The last service to sessions whose engines failed too often: the network is told, and their channels go away, so that
//! the gateway moves on at once instead of waiting for its time-out.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::config::Config;
use super::events::{Event, unix_ms};
use crate::link::StreamRequest;
use crate::trickle::{Begin, Client, Publisher, TrickleError};

/// Time for all sessions together.
const LIMIT: Duration = Duration::from_secs(2);

/// Emits an `error` event for each of `requests`, then deletes its output and its events channel.
///
/// # Errors
/// The trickle client cannot be set up. What goes wrong with a channel is logged.
pub async fn abandon(
    config: &Config,
    requests: Vec<StreamRequest>,
    pipeline: &str,
    message: &str,
) -> Result<(), TrickleError> {
    let (client, own) = (Client::new(&config.trickle)?, Client::new(&config.trickle.own())?);
    let mut tasks = JoinSet::new();
    for request in requests {
        let event = Event::Error { pipeline: pipeline.to_owned(), message: message.to_owned() };
        let client = if request.own_channels { &own } else { &client };
        tasks.spawn(one(client.clone(), request, event));
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(LIMIT, all).await.is_err() {
        tracing::warn!("Channels of lost sessions could not be deleted in time.");
    }
    Ok(())
}

async fn one(client: Client, request: StreamRequest, event: Event) {
    if !request.publish_url.is_empty()
        && let Err(error) = client.delete(&request.publish_url).await
    {
        tracing::warn!("The output channel of a lost session could not be deleted: {error}");
    }
    if request.events_url.is_empty() {
        return;
    }
    let told = async {
        let mut events = Publisher::open(&client, &request.events_url, "application/json", Begin::Resume).await?;
        events.send_document(Bytes::from(event.document(unix_ms()).to_string())).await?;
        events.close(true).await
    };
    if let Err(error) = told.await {
        tracing::warn!("The gateway could not be told of a lost session: {error}");
    }
}
