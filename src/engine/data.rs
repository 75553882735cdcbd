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

use super::host::ToSupervisor;
use crate::link::{FromEngine, MAX_SAID};
use crate::trickle::{Begin, Client, Publisher};

/// Items that may wait, and their bytes in all; then the oldest goes.
const ITEMS: usize = 1000;
const BYTES: usize = 4 * 1024 * 1024;
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
    items: Mutex<Items>,
    lost: prometheus::IntCounter,
    /// The session's number and the way to the supervisor, for peers that listen there.
    supervisor: Option<(u64, ToSupervisor)>,
}

#[derive(Default)]
struct Items {
    waiting: VecDeque<Value>,
    bytes: usize,
}

/// What an item counts as. Figures are small and of one kind.
fn bytes(item: &Value) -> usize {
    match item {
        Value::String(text) => text.len(),
        _ => 512,
    }
}

impl Data {
    /// A way to the channel at `url`, empty for none. `lost` counts items that found no room.
    pub fn new(url: &str, figures: bool, lost: prometheus::IntCounter) -> Self {
        Self(Arc::new(Inner { open: !url.is_empty(), figures, items: Mutex::default(), lost, supervisor: None }))
    }

    /// The same for `session`, whose texts the supervisor hears too. A text of more than [`MAX_SAID`] bytes is too long for
    /// those who listen there and counts as lost, as one does that finds no room.
    pub(super) fn heard(self, session: u64, supervisor: ToSupervisor) -> Self {
        let Inner { open, figures, lost, .. } = &*self.0;
        let (items, supervisor) = (Mutex::default(), Some((session, supervisor)));
        Self(Arc::new(Inner { open: *open, figures: *figures, items, lost: lost.clone(), supervisor }))
    }

    /// A text of the pipeline.
    pub fn text(&self, text: String) {
        if let Some((session, supervisor)) = &self.0.supervisor {
            let said = || FromEngine::Said { session: *session, text: text.clone() };
            if text.len() > MAX_SAID || !supervisor.offer(said()) {
                self.0.lost.inc();
            }
        }
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
        items.bytes += bytes(&item);
        items.waiting.push_back(item);
        while items.waiting.len() > ITEMS || items.bytes > BYTES {
            let Some(oldest) = items.waiting.pop_front() else { return };
            items.bytes -= bytes(&oldest);
            self.0.lost.inc();
        }
    }

    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.0.items.lock().unwrap_or_else(PoisonError::into_inner)).waiting.into()
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
        // Long ones count by their bytes, and one that is too long by itself is lost.
        (0..5).for_each(|number| data.text(number.to_string().repeat(1024 * 1024)));
        assert_eq!((lost.get(), data.take().len()), (6, 4));
        data.text("x".repeat(BYTES + 1));
        assert_eq!((lost.get(), data.take().len()), (7, 0));
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
