//! The control channel: updates of the parameters, one JSON document a segment.

use serde_json::{Map, Value};

use crate::trickle::Subscriber;

/// What a document on the control channel means.
#[derive(Debug, PartialEq)]
pub enum Message {
    /// The gateway is still there.
    KeepAlive,
    /// New parameters.
    Params(Map<String, Value>),
    /// Nothing that can be used, and why.
    Bad(String),
}

/// Reads one document.
pub fn parse(document: &[u8]) -> Message {
    match serde_json::from_slice::<Value>(document) {
        Ok(Value::Object(object)) => {
            if object.len() == 1 && object.get("keep").is_some_and(|keep| keep == "alive") {
                return Message::KeepAlive;
            }
            Message::Params(object)
        }
        Ok(_) => Message::Bad("an update must be a JSON object of parameters".into()),
        Err(error) => Message::Bad(format!("an update must be a JSON object of parameters: {error}")),
    }
}

/// Reads the control channel until it ends. `update` gets each set of parameters and the number of its segment,
/// `bad` what could not be used. Returns why the channel ended.
pub async fn read(
    mut subscriber: Subscriber,
    max: usize,
    mut update: impl FnMut(Map<String, Value>),
    mut bad: impl FnMut(String),
    mut position: impl FnMut(u64),
) -> String {
    loop {
        let mut segment = match subscriber.next().await {
            Ok(Some(segment)) => segment,
            Ok(None) => {
                return match subscriber.end_reason() {
                    Some(reason) => {
                        // What the server or the network said last is the cause of an end by failures.
                        let cause = subscriber.last_failure().filter(|_| reason == crate::trickle::EndReason::Failures);
                        let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
                        format!("the control channel ended: {reason}{cause}")
                    }
                    None => "the control channel ended".into(),
                };
            }
            Err(error) => return format!("the control channel cannot be read: {error}"),
        };
        let seq = segment.seq();
        match segment.document(max).await {
            Ok(None) => {}
            Ok(Some(document)) if document.is_empty() => {}
            Ok(Some(document)) => match parse(&document) {
                Message::KeepAlive => {}
                Message::Params(params) => update(params),
                Message::Bad(reason) => bad(format!("Control message {seq} is skipped: {reason}.")),
            },
            Err(error) => bad(format!("Control message {seq} is skipped: {error}.")),
        }
        position(seq + 1);
    }
}

/// What `update` makes of the `current` parameters.
pub fn merged(current: &Map<String, Value>, update: Map<String, Value>) -> Map<String, Value> {
    let mut merged = current.clone();
    merged.extend(update);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_exact_keep_alive_is_one() {
        assert_eq!(parse(br#"{"keep":"alive"}"#), Message::KeepAlive);
        assert_eq!(parse(br#" { "keep" : "alive" } "#), Message::KeepAlive);
        assert!(matches!(parse(br#"{"keep":"alive","x":1}"#), Message::Params(params) if params.len() == 2));
        assert!(matches!(parse(br#"{"keep":"dead"}"#), Message::Params(_)));
    }

    #[test]
    fn ids_in_an_update_are_parameters_like_any_other() {
        let text = br#"{"request_id":"a","manifest_id":"b","stream_id":"c"}"#;
        assert!(matches!(parse(text), Message::Params(params) if params.len() == 3));
    }

    #[test]
    fn what_is_no_object_is_named() {
        for bad in [&b"[1]"[..], b"1", b"", b"{", b"\xff\xfe"] {
            assert!(matches!(parse(bad), Message::Bad(reason) if reason.contains("JSON object")), "{bad:?}");
        }
    }

    #[test]
    fn a_merge_keeps_what_is_not_named() {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let current = object(json!({"a": 1, "b": 2}));
        assert_eq!(merged(&current, object(json!({"b": 3}))), object(json!({"a": 1, "b": 3})));
    }
}
