//! The data channel: what a stream says besides pictures, as JSON lines.
//!
//! Every third of a second what has come up is one segment: a line with an array of items, as pytrickle writes it. A text
//! is a string, figures of an interval are an object with `"type": "metering"`. An empty array every 25 s says that the
//! stream is there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::trickle::{Begin, Client, Publisher};

/// Items that may wait; then the oldest goes.
const ITEMS: usize = 1000;
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(333);
/// Silence after which an empty line is sent.
const SILENCE: Duration = Duration::from_secs(25);

/// The way in to the data channel. Cloning gives another.
#[derive(Clone)]
pub struct Data(Arc<Inner>);

struct Inner {
    /// Whether there is a channel at all.
    open: bool,
    /// Whether figures are wanted.
    figures: bool,
    items: Mutex<VecDeque<Value>>,
    lost: prometheus::IntCounter,
}

impl Data {
    /// A way to the channel at `url`, empty for none. `lost` counts items that found no room.
    pub fn new(url: &str, figures: bool, lost: prometheus::IntCounter) -> Self {
        Self(Arc::new(Inner { open: !url.is_empty(), figures, items: Mutex::default(), lost }))
    }

    /// A text of the pipeline.
    pub fn text(&self, text: String) {
        self.put(Value::String(text));
    }

    /// The figures of an interval, where they are wanted.
    pub fn figures(&self, figures: Map<String, Value>) {
        if self.0.figures {
            self.put(Value::Object(figures));
        }
    }

    fn put(&self, item: Value) {
        if !self.0.open {
            return;
        }
        let mut items = self.0.items.lock().unwrap_or_else(PoisonError::into_inner);
        if items.len() >= ITEMS {
            items.pop_front();
            self.0.lost.inc();
        }
        items.push_back(item);
    }

    fn take(&self) -> Vec<Value> {
        self.0.items.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// Publishes what comes up until `over`, then what is left, and deletes the channel. A channel that is gone ends
/// nothing: it carries no picture.
pub async fn publish(client: Client, url: String, resumed: bool, data: Data, over: CancellationToken) {
    let begin = if resumed { Begin::Resume } else { Begin::Zero };
    let mut publisher = match Publisher::open(&client, &url, "application/jsonl", begin).await {
        Ok(publisher) => publisher,
        Err(error) => return tracing::warn!("Data cannot be sent: {error}"),
    };
    let mut told = Instant::now();
    loop {
        let last = tokio::select! {
            () = tokio::time::sleep(LOOK) => false,
            () = over.cancelled() => true,
        };
        let items = data.take();
        if !items.is_empty() || (!last && told.elapsed() >= SILENCE) {
            told = Instant::now();
            match publisher.send_document(Bytes::from(line(items))).await {
                Ok(_) => {}
                Err(error) if error.is_end() => return tracing::debug!("The data channel ended: {error}"),
                Err(error) => tracing::warn!("Data could not be sent: {error}"),
            }
        }
        if last {
            break;
        }
    }
    if let Err(error) = publisher.close(true).await {
        tracing::debug!("The data channel could not be deleted: {error}");
    }
}

fn line(items: Vec<Value>) -> String {
    let mut line = Value::Array(items).to_string();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn counter() -> prometheus::IntCounter {
        prometheus::IntCounter::new("lost", "lost").expect("a counter")
    }

    #[test]
    fn items_are_one_line_and_the_oldest_go() {
        let lost = counter();
        let data = Data::new("http://h/d", true, lost.clone());
        data.text("a\nb".into());
        data.figures(json!({"type": "metering"}).as_object().cloned().expect("an object"));
        assert_eq!(line(data.take()), "[\"a\\nb\",{\"type\":\"metering\"}]\n");
        (0..ITEMS + 5).for_each(|number| data.text(number.to_string()));
        assert_eq!((lost.get(), data.take().first().cloned()), (5, Some("5".into())));
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let closed = Data::new("", true, counter());
        closed.text("x".into());
        let silent = Data::new("http://h/d", false, counter());
        silent.figures(Map::new());
        assert!(closed.take().is_empty() && silent.take().is_empty());
    }
}
