//! From bytes to a start request, with FastAPI's words for what is wrong.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value, json};

use super::error::{ApiError, Detail};
use super::room;
use crate::link::{Coding, StreamRequest};

/// Time that a body may take to arrive.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// [`ApiError::TooLarge`] or [`ApiError::Body`].
pub(super) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let promised = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if promised.is_some_and(|promised| promised > limit as u64) {
        return Err(ApiError::TooLarge(limit));
    }
    let wanted = promised.map_or(limit, |promised| promised as usize);
    let Some(_room) = room::take(wanted) else {
        return Err(ApiError::Body("too many request bodies are on their way; try again"));
    };
    match tokio::time::timeout(BODY_WAIT, Limited::new(body, limit).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge(limit)),
        Ok(Err(_)) => Err(ApiError::Body("the request body broke off")),
        Err(_) => Err(ApiError::Body("the request body did not arrive in time")),
    }
}

/// Which door a start request came through; they name one field differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `POST /live-video-to-video`.
    Orchestrator,
    /// `POST /api/live-video-to-video`.
    Local,
}

impl Dialect {
    fn request_id(self) -> &'static str {
        match self {
            Self::Orchestrator => "gateway_request_id",
            Self::Local => "request_id",
        }
    }
}

/// Whether a content type means JSON; no content type does.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let Ok(value) = value.to_str() else { return false };
    let kind = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// Reads any JSON.
///
/// # Errors
/// [`ApiError::Invalid`] with one `json_invalid`, or one `missing` for no body.
pub(super) fn json(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::Invalid(vec![detail("missing", &[], "Field required", Value::Null)]));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let mut fault = detail("json_invalid", &[], "JSON decode error", json!({}));
        fault.loc.push(offset(bytes, error.line(), error.column()).into());
        let text = error.to_string();
        fault.ctx = Some(json!({ "error": text.split(" at line ").next().unwrap_or("Expecting value") }));
        ApiError::Invalid(vec![fault])
    })
}

/// Reads a start request. Unknown fields are ignored.
///
/// # Errors
/// [`ApiError::Invalid`] with everything that is wrong.
pub(super) fn start(bytes: &[u8], is_json: bool, dialect: Dialect) -> Result<StreamRequest, ApiError> {
    let body = if is_json { json(bytes)? } else { Value::String(String::from_utf8_lossy(bytes).into_owned()) };
    let Value::Object(fields) = body else {
        let expected = "Input should be a valid dictionary or object to extract fields from";
        return Err(ApiError::Invalid(vec![detail("model_attributes_type", &[], expected, body)]));
    };
    let mut form = Form { fields, faults: Vec::new() };
    let request = StreamRequest {
        subscribe_url: form.text("subscribe_url", true),
        publish_url: form.text("publish_url", true),
        control_url: form.text("control_url", false),
        events_url: form.text("events_url", false),
        model_id: if dialect == Dialect::Orchestrator { form.text("model_id", false) } else { String::new() },
        params: form.object("params"),
        gateway_request_id: form.text(dialect.request_id(), false),
        manifest_id: form.text("manifest_id", false),
        stream_id: form.text("stream_id", false),
        max_fps: None,
        video_profile: String::new(),
        data_url: form.maybe("data_url"),
        figures: form.flag("figures"),
        own_channels: false,
        worker: false,
        show_loading: false,
        coding: Coding::default(),
        taps: Vec::new(),
    };
    if form.faults.is_empty() { Ok(request) } else { Err(ApiError::Invalid(form.faults)) }
}

struct Form {
    fields: Map<String, Value>,
    faults: Vec<Detail>,
}

impl Form {
    fn text(&mut self, name: &'static str, required: bool) -> String {
        match self.fields.get(name) {
            Some(Value::String(text)) => return text.clone(),
            Some(other) => {
                self.faults.push(detail("string_type", &[name], "Input should be a valid string", other.clone()))
            }
            None if required => {
                let input = Value::Object(self.fields.clone());
                self.faults.push(detail("missing", &[name], "Field required", input));
            }
            None => {}
        }
        String::new()
    }

    /// A text that may also be null.
    fn maybe(&mut self, name: &'static str) -> String {
        if self.fields.get(name).is_none_or(Value::is_null) { String::new() } else { self.text(name, false) }
    }

    fn flag(&mut self, name: &'static str) -> bool {
        match self.fields.get(name) {
            Some(Value::Bool(flag)) => return *flag,
            None | Some(Value::Null) => {}
            Some(other) => {
                self.faults.push(detail("bool_type", &[name], "Input should be a valid boolean", other.clone()));
            }
        }
        false
    }

    fn object(&mut self, name: &'static str) -> Map<String, Value> {
        match self.fields.get(name) {
            Some(Value::Object(map)) => return map.clone(),
            // Gateways write `null` for a stream that was given none.
            Some(Value::Null) => {}
            Some(other) => {
                self.faults.push(detail("dict_type", &[name], "Input should be a valid dictionary", other.clone()));
            }
            None => {}
        }
        Map::new()
    }
}

fn detail(kind: &'static str, path: &[&'static str], msg: &str, input: Value) -> Detail {
    let loc = std::iter::once("body").chain(path.iter().copied()).map(Value::from).collect();
    Detail { kind, loc, msg: msg.to_owned(), input, ctx: None }
}

/// Byte offset of a line and column, both counted from one.
fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let before: usize =
        bytes.split_inclusive(|&byte| byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column.saturating_sub(1)).min(bytes.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(body: &str) -> Value {
        match start(body.as_bytes(), true, Dialect::Orchestrator) {
            Err(error @ ApiError::Invalid(_)) => {
                let ApiError::Invalid(details) = error else { unreachable!() };
                serde_json::to_value(details).expect("details")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_order_of_an_orchestrator() {
        let body = json!({
            "subscribe_url": "s", "publish_url": "p", "control_url": "c", "events_url": "e", "model_id": "noop",
            "params": {"prompt": "x"}, "gateway_request_id": "g", "manifest_id": "m", "stream_id": "i", "request_id": "r",
            "something": ["else"],
        });
        let request = start(body.to_string().as_bytes(), true, Dialect::Orchestrator).expect("a request");
        assert_eq!(serde_json::to_value(&request).expect("json")["params"]["prompt"], "x");
        assert_eq!((request.gateway_request_id.as_str(), request.model_id.as_str()), ("g", "noop"));
        let local = start(body.to_string().as_bytes(), true, Dialect::Local).expect("a request");
        assert_eq!((local.gateway_request_id.as_str(), local.model_id.as_str()), ("r", ""));
    }

    #[test]
    fn no_parameters_may_be_written_as_null() {
        let body = json!({"subscribe_url": "s", "publish_url": "p", "params": null}).to_string();
        for dialect in [Dialect::Orchestrator, Dialect::Local] {
            assert!(start(body.as_bytes(), true, dialect).expect("a request").params.is_empty());
        }
    }

    #[test]
    fn a_data_channel_is_optional() {
        let with = |more: Value| {
            let mut body = json!({"subscribe_url": "s", "publish_url": "p"});
            body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
            start(body.to_string().as_bytes(), true, Dialect::Orchestrator)
        };
        for none in [json!({}), json!({"data_url": null, "figures": null}), json!({"data_url": ""})] {
            let request = with(none).expect("a request");
            assert_eq!((request.data_url.as_str(), request.figures), ("", false));
        }
        let request = with(json!({"data_url": "d", "figures": true})).expect("a request");
        assert_eq!((request.data_url.as_str(), request.figures), ("d", true));
        for (wrong, kind) in [(json!({"data_url": 1}), "string_type"), (json!({"figures": "yes"}), "bool_type")] {
            let Err(ApiError::Invalid(details)) = with(wrong) else { panic!("refused") };
            assert_eq!(details[0].kind, kind);
        }
    }

    #[test]
    fn faults_in_the_words_of_fastapi() {
        assert_eq!(
            fault("{}"),
            json!([
                {"type": "missing", "loc": ["body", "subscribe_url"], "msg": "Field required", "input": {}},
                {"type": "missing", "loc": ["body", "publish_url"], "msg": "Field required", "input": {}},
            ])
        );
        assert_eq!(
            fault(r#"{"subscribe_url":1,"publish_url":"p","params":[]}"#),
            json!([
                {"type": "string_type", "loc": ["body", "subscribe_url"], "msg": "Input should be a valid string", "input": 1},
                {"type": "dict_type", "loc": ["body", "params"], "msg": "Input should be a valid dictionary", "input": []},
            ])
        );
        let bad = fault("{\"a\":1,\n x}");
        assert_eq!((&bad[0]["type"], &bad[0]["msg"]), (&json!("json_invalid"), &json!("JSON decode error")));
        assert_eq!(bad[0]["loc"], json!(["body", 9]));
        assert_eq!(bad[0]["input"], json!({}));
        assert_eq!(fault("")[0], json!({"type": "missing", "loc": ["body"], "msg": "Field required", "input": null}));
        assert_eq!(fault("[1]")[0]["type"], "model_attributes_type");
    }

    #[test]
    fn a_form_is_no_json() {
        let result = start(b"{}", false, Dialect::Orchestrator);
        let Err(ApiError::Invalid(details)) = result else { panic!("{result:?}") };
        assert_eq!((details[0].kind, &details[0].input), ("model_attributes_type", &json!("{}")));
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200), json in any::<bool>()) {
            if let Err(error) = start(&bytes, json, Dialect::Orchestrator) {
                prop_assert_eq!(error.status().as_u16(), 422);
            }
        }
    }
}
