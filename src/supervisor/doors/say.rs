//! From a session's voice to the data channel `data` of a peer, in ComfyStream's shape: `{"type": "text", "data": "…"}`.
//! Figures of intervals, where they are wanted, are objects with `"type": "metering"`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::AbortOnDropHandle;

use crate::supervisor::hub::Hub;
use crate::supervisor::voice::Said;
use crate::webrtc::Remote;

/// Label of the data channel for what a stream says.
pub(super) const DATA: &str = "data";
/// Time that a peer has to make room for another message.
const PATIENCE: Duration = Duration::from_secs(2);

/// Hands on what `session` says until it ends or the peer is gone. Only this task waits for a slow peer: what the peer
/// does not take in time is dropped and counted.
pub(super) fn start(hub: &Arc<Hub>, session: u64, figures: bool, remote: Remote) -> Option<AbortOnDropHandle<()>> {
    let mut ear = hub.book().listen(session)?;
    let metrics = hub.metrics.webrtc.clone();
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        let say = async |said| match tokio::time::timeout(PATIENCE, remote.say(message(said))).await {
            Ok(there) => there,
            Err(_) => {
                metrics.count("data_dropped");
                true
            }
        };
        for text in std::mem::take(&mut ear.before) {
            if !say(Said::Text(text)).await {
                return;
            }
        }
        loop {
            match ear.now.recv().await {
                Ok(Said::Figures(_)) if !figures => {}
                Ok(said) => {
                    if !say(said).await {
                        return;
                    }
                }
                Err(RecvError::Lagged(lost)) => metrics.count_many("data_dropped", lost),
                Err(RecvError::Closed) => return,
            }
        }
    })))
}

fn message(said: Said) -> String {
    match said {
        Said::Text(text) => json!({ "type": "text", "data": &*text }).to_string(),
        Said::Figures(figures) => Value::Object((*figures).clone()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_comfystreams_shape() {
        assert_eq!(message(Said::Text("a\n\"b\"".into())), r#"{"data":"a\n\"b\"","type":"text"}"#);
        let figures = json!({"type": "metering", "fps": 30.0}).as_object().cloned().unwrap_or_default();
        assert_eq!(message(Said::Figures(Arc::new(figures))), r#"{"fps":30.0,"type":"metering"}"#);
    }
}
