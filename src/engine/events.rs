//! The events channel: what the network hears of a session, one JSON document a segment.
//!
//! Shapes are those that gateways forward: `{"event": {"type": …}, "queue_event_type": …}`, times in Unix
//! milliseconds but for `error.time` and `restart.restart_time`, which are seconds.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::trickle::{Begin, Client, Publisher};

/// Events that may wait for the channel. A gateway that cannot keep up loses the newest.
const QUEUE: usize = 64;

/// Something that the network is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The start request was accepted; it arrived at this time.
    ReceivedRequest {
        /// Unix milliseconds.
        arrived_ms: u64,
    },
    /// The first input segment was read whole.
    FirstIngest,
    /// The first output bytes were handed over.
    FirstProcessed,
    /// The state of the session; the object of `health::status`.
    Status(Map<String, Value>),
    /// Something went wrong.
    Error {
        /// Name of the pipeline.
        pipeline: String,
        /// What happened.
        message: String,
    },
    /// An interval ended; the object of [`crate::metering::Interval::summary`].
    Metering(Map<String, Value>),
    /// The engine was replaced in mid-session.
    Restart {
        /// Name of the pipeline.
        pipeline: String,
        /// How often so far.
        count: u32,
        /// Unix milliseconds.
        time_ms: u64,
        /// The last lines of the engine that is gone.
        logs: Vec<String>,
    },
}

/// Unix time in milliseconds.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Event {
    /// The document that is sent at `now_ms` (Unix milliseconds).
    pub fn document(&self, now_ms: u64) -> Value {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let (queue, event) = match self {
            Event::ReceivedRequest { arrived_ms } => {
                ("stream_trace", json!({"type": "runner_receive_stream_request", "timestamp": arrived_ms}))
            }
            Event::FirstIngest => {
                ("stream_trace", json!({"type": "runner_receive_first_ingest_segment", "timestamp": now_ms}))
            }
            Event::FirstProcessed => {
                ("stream_trace", json!({"type": "runner_send_first_processed_segment", "timestamp": now_ms}))
            }
            Event::Status(status) => {
                let mut status = status.clone();
                status.insert("timestamp".into(), now_ms.into());
                ("ai_stream_events", Value::Object(status))
            }
            Event::Metering(interval) => {
                let mut interval = interval.clone();
                interval.insert("timestamp".into(), now_ms.into());
                ("ai_stream_events", Value::Object(interval))
            }
            Event::Error { pipeline, message } => (
                "ai_stream_events",
                json!({"type": "error", "pipeline": pipeline, "message": message, "time": seconds(now_ms),
                       "timestamp": now_ms}),
            ),
            Event::Restart { pipeline, count, time_ms, logs } => (
                "ai_stream_events",
                json!({"type": "restart", "pipeline": pipeline, "restart_count": count,
                       "restart_time": seconds(*time_ms), "restart_logs": logs, "timestamp": now_ms}),
            ),
        };
        json!({"event": event, "queue_event_type": queue})
    }
}

/// The way in to the events channel. Cloning gives another.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Event>,
    lost: prometheus::IntCounter,
}

impl Events {
    /// A channel's two ends. `lost` counts the events that found the queue full.
    pub fn channel(lost: prometheus::IntCounter) -> (Self, mpsc::Receiver<Event>) {
        let (queue, events) = mpsc::channel(QUEUE);
        (Self { queue, lost }, events)
    }

    /// Tells the network, if the channel keeps up.
    pub fn emit(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            self.lost.inc();
        }
    }
}

/// Publishes events until their queue ends, then deletes the channel. Returns early, with the reason, when the
/// channel is gone.
pub async fn publish(
    client: Client,
    url: String,
    resumed: bool,
    mut events: mpsc::Receiver<Event>,
    lost: prometheus::IntCounter,
) -> Option<String> {
    if url.is_empty() {
        while events.recv().await.is_some() {}
        return None;
    }
    let begin = if resumed { Begin::Resume } else { Begin::Zero };
    let mut publisher = match Publisher::open(&client, &url, "application/json", begin).await {
        Ok(publisher) => publisher,
        Err(error) if error.is_end() => return Some(format!("the events channel is gone: {error}")),
        Err(error) => {
            tracing::warn!("Events cannot be sent: {error}");
            while events.recv().await.is_some() {
                lost.inc();
            }
            return None;
        }
    };
    let mut gone = None;
    while let Some(event) = events.recv().await {
        let document = event.document(unix_ms());
        tracing::debug!("Emitting monitoring event: {document}");
        match publisher.send_document(Bytes::from(document.to_string())).await {
            Ok(_) => {}
            Err(error) if error.is_end() => {
                gone = Some(format!("the events channel ended: {error}"));
                break;
            }
            Err(error) => {
                lost.inc();
                tracing::warn!("Error reporting status: {error}");
            }
        }
    }
    if let Err(error) = publisher.close(true).await {
        tracing::debug!("The events channel could not be deleted: {error}");
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::Interval;

    #[test]
    fn documents_have_the_shapes_that_gateways_forward() {
        let at = 1_795_225_491_037;
        let rows = [
            (
                Event::ReceivedRequest { arrived_ms: 5 },
                json!({"event": {"type": "runner_receive_stream_request", "timestamp": 5},
                       "queue_event_type": "stream_trace"}),
            ),
            (
                Event::FirstIngest,
                json!({"event": {"type": "runner_receive_first_ingest_segment", "timestamp": at},
                       "queue_event_type": "stream_trace"}),
            ),
            (
                Event::FirstProcessed,
                json!({"event": {"type": "runner_send_first_processed_segment", "timestamp": at},
                       "queue_event_type": "stream_trace"}),
            ),
            (
                Event::Error { pipeline: "noop".into(), message: "x".into() },
                json!({"event": {"type": "error", "pipeline": "noop", "message": "x", "time": 1_795_225_491.037_f64,
                                 "timestamp": at}, "queue_event_type": "ai_stream_events"}),
            ),
            (
                Event::Restart { pipeline: "noop".into(), count: 2, time_ms: 1500, logs: vec!["a".into()] },
                json!({"event": {"type": "restart", "pipeline": "noop", "restart_count": 2, "restart_time": 1.5,
                                 "restart_logs": ["a"], "timestamp": at}, "queue_event_type": "ai_stream_events"}),
            ),
        ];
        for (event, document) in rows {
            assert_eq!(event.document(at), document);
        }
        let metering = Interval { number: 3, fps: 30.0, ..Interval::default() }.summary();
        let document = Event::Metering(metering).document(at);
        assert_eq!(document["queue_event_type"], "ai_stream_events");
        assert_eq!(document["event"]["type"], "metering");
        assert_eq!(document["event"]["timestamp"], at);
        assert!(document.to_string().len() < 512, "small: {document}");
        let mut status = Map::new();
        status.insert("type".into(), "status".into());
        assert_eq!(
            Event::Status(status).document(at),
            json!({"event": {"type": "status", "timestamp": at}, "queue_event_type": "ai_stream_events"})
        );
    }

    #[test]
    fn a_full_queue_loses_the_newest_and_counts_it() {
        #[expect(clippy::unwrap_used, reason = "tests")]
        let lost = prometheus::IntCounter::new("lost", "lost").unwrap();
        let (events, mut queue) = Events::channel(lost.clone());
        for arrived_ms in 0..70 {
            events.emit(Event::ReceivedRequest { arrived_ms });
        }
        assert_eq!(lost.get(), 6);
        assert_eq!(queue.try_recv().ok(), Some(Event::ReceivedRequest { arrived_ms: 0 }));
    }
}
