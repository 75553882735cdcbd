//! What the runner tells on its events channel.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::RigError;
use crate::trickle::{Client, Start, Subscriber};

/// Events that are kept.
const KEPT: usize = 200;
/// Longest event in bytes.
const LONGEST: usize = 1024 * 1024;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Counts events from 1.
    pub number: u64,
    /// When it arrived.
    pub at: Instant,
    /// `event.type`; empty for a document without one.
    pub kind: String,
    /// `event`.
    pub body: Value,
}

#[derive(Default)]
struct Kept {
    events: VecDeque<Event>,
    total: u64,
    unread: u64,
}

/// The newest events of a stream, read by a task that ends with this value.
pub struct Events {
    kept: Arc<Mutex<Kept>>,
    newest: watch::Receiver<u64>,
    task: AbortOnDropHandle<()>,
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Events {
    /// Reads the channel at `url` until it ends.
    ///
    /// # Errors
    /// `url` is no channel URL.
    pub fn read(client: &Client, url: &str) -> Result<Self, RigError> {
        let mut subscriber = Subscriber::new(client, url, Start::Seq(0))?;
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (tell, newest) = watch::channel(0);
        let list = kept.clone();
        let task = tokio::spawn(async move {
            while let Ok(Some(mut segment)) = subscriber.next().await {
                let document = segment.document(LONGEST).await.ok().flatten();
                let mut list = lock(&list);
                match document.and_then(|bytes| parse(&bytes)) {
                    Some((kind, body)) => {
                        list.total += 1;
                        let event = Event { number: list.total, at: Instant::now(), kind, body };
                        list.events.push_back(event);
                        while list.events.len() > KEPT {
                            list.events.pop_front();
                        }
                        tell.send_replace(list.total);
                    }
                    None => list.unread += 1,
                }
            }
        });
        Ok(Self { kept, newest, task: AbortOnDropHandle::new(task) })
    }

    /// The events that are kept and have a number above `after`, oldest first.
    pub fn since(&self, after: u64) -> Vec<Event> {
        lock(&self.kept).events.iter().filter(|event| event.number > after).cloned().collect()
    }

    /// The newest event of a kind.
    pub fn last(&self, kind: &str) -> Option<Event> {
        lock(&self.kept).events.iter().rev().find(|event| event.kind == kind).cloned()
    }

    /// Documents that were no events.
    pub fn unread(&self) -> u64 {
        lock(&self.kept).unread
    }

    /// Waits for the first event with a number above `after` that `wanted` takes; `None` when the channel ends before.
    pub async fn wait(&self, after: u64, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        let mut newest = self.newest.clone();
        loop {
            newest.borrow_and_update();
            if let Some(event) = self.since(after).into_iter().find(&wanted) {
                return Some(event);
            }
            newest.changed().await.ok()?;
        }
    }

    /// True once the channel has ended.
    pub fn ended(&self) -> bool {
        self.task.is_finished()
    }
}

/// Type and body of an event document.
fn parse(document: &[u8]) -> Option<(String, Value)> {
    let mut value: Value = serde_json::from_slice(document).ok()?;
    let body = value.get_mut("event").map(Value::take).unwrap_or(value);
    let kind = body.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    Some((kind, body))
}

/// One line for people.
pub fn summary(event: &Event) -> String {
    let text = |key: &str| event.body.get(key).and_then(Value::as_str).unwrap_or_default();
    match event.kind.as_str() {
        "runner_receive_stream_request" => "The runner took the stream.".into(),
        "runner_receive_first_ingest_segment" => "The first input segment was read whole.".into(),
        "runner_send_first_processed_segment" => "The first output was sent.".into(),
        "status" => format!("State {}.", text("state")),
        "error" => text("message").to_owned(),
        "restart" => {
            let count = event.body.get("restart_count").and_then(Value::as_u64).unwrap_or(0);
            format!("The engine was replaced (restart {count}).")
        }
        other => format!("{other}: {}", event.body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_found_in_its_envelope_or_alone() {
        let wrapped = br#"{"event":{"type":"error","message":"x"},"queue_event_type":"ai_stream_events"}"#;
        assert_eq!(parse(wrapped), Some(("error".into(), json!({"type": "error", "message": "x"}))));
        assert_eq!(parse(br#"{"type":"status"}"#), Some(("status".into(), json!({"type": "status"}))));
        assert_eq!(parse(br#"{"a":1}"#), Some((String::new(), json!({"a": 1}))));
        assert_eq!(parse(b"{"), None);
    }

    #[test]
    fn every_kind_has_a_line() {
        let event = |body: Value| Event {
            number: 1,
            at: Instant::now(),
            kind: body["type"].as_str().unwrap_or_default().to_owned(),
            body,
        };
        for (body, line) in [
            (json!({"type": "status", "state": "ONLINE"}), "State ONLINE."),
            (json!({"type": "error", "message": "Error updating params: x"}), "Error updating params: x"),
            (json!({"type": "restart", "restart_count": 2}), "The engine was replaced (restart 2)."),
            (json!({"type": "new"}), r#"new: {"type":"new"}"#),
        ] {
            assert_eq!(summary(&event(body)), line);
        }
    }
}
