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

/// What an update of the stream API holds beside the pipeline's parameters.
#[derive(Debug, Default, PartialEq)]
pub struct Ours {
    /// `max_framerate`: frames a second that the pipeline gets at most.
    pub max_fps: Option<f64>,
    /// `show_loading`: whether the overlay is shown in place of the model's pictures.
    pub show_loading: Option<bool>,
}

impl Ours {
    /// Whether nothing else is in the update that `params` is the rest of.
    pub fn alone(&self, params: &Map<String, Value>) -> bool {
        params.is_empty() && *self != Self::default()
    }
}

/// Takes out of `params` what is none of the pipeline's. The same values as over HTTP are taken, but for other spellings of
/// true and false.
///
/// # Errors
/// What is wrong, for people.
pub fn ours(params: &mut Map<String, Value>) -> Result<Ours, String> {
    let number = |value: &Value| match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_i64(),
    };
    let max_fps = match params.remove("max_framerate").as_ref().map(number) {
        None => None,
        Some(Some(fps @ 1..=60)) => Some(fps as f64),
        Some(_) => return Err("max_framerate must be a whole number from 1 to 60".into()),
    };
    let show_loading = match params.remove("show_loading") {
        None => None,
        Some(Value::Bool(shown)) => Some(shown),
        Some(Value::String(text)) if ["true", "false"].contains(&text.to_ascii_lowercase().as_str()) => {
            Some(text.eq_ignore_ascii_case("true"))
        }
        Some(_) => return Err("show_loading must be true or false".into()),
    };
    params.remove("load_model");
    Ok(Ours { max_fps, show_loading })
}

/// Puts the size of `before` into an update that does not name one: the size belongs to the stream.
pub fn keep_size(update: &mut Map<String, Value>, before: &Map<String, Value>) {
    if !update.contains_key("width") && !update.contains_key("height") {
        for side in ["width", "height"] {
            if let Some(value) = before.get(side) {
                update.insert(side.into(), value.clone());
            }
        }
    }
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
    fn updates_of_workers_hold_a_cap_and_the_overlay() {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let mut update = object(json!({"x": 1, "max_framerate": "24", "show_loading": "True", "load_model": true}));
        let found = ours(&mut update).expect("taken");
        assert_eq!(found, Ours { max_fps: Some(24.0), show_loading: Some(true) });
        assert_eq!((update.clone(), found.alone(&update)), (object(json!({"x": 1})), false));
        keep_size(&mut update, &object(json!({"width": 640, "height": 384, "y": 2})));
        assert_eq!(update, object(json!({"x": 1, "width": 640, "height": 384})));
        let mut alone = object(json!({"show_loading": false}));
        assert!(ours(&mut alone).expect("taken").alone(&alone));
        assert!(!ours(&mut Map::new()).expect("taken").alone(&Map::new()));
        for wrong in [json!({"max_framerate": 0}), json!({"max_framerate": 61}), json!({"show_loading": 1})] {
            ours(&mut object(wrong)).expect_err("refused");
        }
    }

    #[test]
    fn a_merge_keeps_what_is_not_named() {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let current = object(json!({"a": 1, "b": 2}));
        assert_eq!(merged(&current, object(json!({"b": 3}))), object(json!({"a": 1, "b": 3})));
    }
}
