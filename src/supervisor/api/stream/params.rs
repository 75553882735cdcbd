//! What a stream call carries: the start body, and parameters with the few that are the door's own.

use serde_json::{Map, Value};

use crate::link::{Coding, StreamRequest};

/// Frames a second that a caller may ask for at most.
const MOST_FPS: i64 = 60;

/// Parameters without those that are the door's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::supervisor::api) struct Checked {
    /// For the pipeline.
    pub params: Map<String, Value>,
    /// `max_framerate`.
    pub max_fps: Option<f64>,
    /// `show_loading`.
    pub show_loading: Option<bool>,
}

/// Reads the body of a start.
///
/// # Errors
/// What is wrong, for the caller.
pub(super) fn start(body: &[u8]) -> Result<StreamRequest, String> {
    let fields = object(parse(body)?, "the body")?;
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("{name}: Input should be a valid string")),
    };
    let needed = |name: &str| match text(name)? {
        text if text.is_empty() => Err(format!("{name}: Field required")),
        text => Ok(text),
    };
    let figures = match fields.get("figures") {
        None | Some(Value::Null) => false,
        Some(given) => truth(given).ok_or("figures: Input should be a valid boolean")?,
    };
    let checked = given(fields.get("params"))?;
    Ok(StreamRequest {
        gateway_request_id: needed("gateway_request_id")?,
        subscribe_url: text("subscribe_url")?,
        publish_url: text("publish_url")?,
        control_url: text("control_url")?,
        events_url: text("events_url")?,
        data_url: text("data_url")?,
        figures,
        manifest_id: text("manifest_id")?,
        stream_id: text("stream_id")?,
        model_id: String::new(),
        params: checked.params,
        max_fps: checked.max_fps,
        video_profile: String::new(),
        own_channels: false,
        worker: true,
        show_loading: checked.show_loading.unwrap_or(false),
        coding: Coding::default(),
        taps: Vec::new(),
    })
}

/// Reads the body of a start that needs no addresses: nothing, or `params`.
///
/// # Errors
/// What is wrong, for the caller.
pub(in crate::supervisor::api) fn of_session(body: &[u8]) -> Result<Checked, String> {
    match body {
        [] => Ok(Checked::default()),
        body => given(object(parse(body)?, "the body")?.get("params")),
    }
}

/// Parameters as an object, its JSON text, or nothing.
fn given(params: Option<&Value>) -> Result<Checked, String> {
    match params {
        None | Some(Value::Null) => Ok(Checked::default()),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Checked::default()),
        Some(Value::String(text)) => check(object(parse(text.as_bytes())?, "params")?),
        Some(params) => check(object(params.clone(), "params")?),
    }
}

/// Reads the body of an update: the parameters themselves, or `params` alone with an object or its JSON text.
///
/// # Errors
/// What is wrong, for the caller.
pub(in crate::supervisor::api) fn update(body: &[u8]) -> Result<Checked, String> {
    let mut fields = object(parse(body)?, "the body")?;
    if fields.len() == 1
        && let Some(inner) = fields.get_mut("params")
    {
        fields = match inner.take() {
            Value::String(text) => object(parse(text.as_bytes())?, "params")?,
            inner => object(inner, "params")?,
        };
    }
    check(fields)
}

/// Checks the parameters that mean the same for every pipeline, and takes out those that are none of the pipeline's.
fn check(mut params: Map<String, Value>) -> Result<Checked, String> {
    match (params.get("width"), params.get("height")) {
        (None, None) => {}
        (Some(width), Some(height)) => {
            let sides = [side(width)?, side(height)?];
            params.insert("width".into(), sides[0].into());
            params.insert("height".into(), sides[1].into());
        }
        _ => return Err("Both 'width' and 'height' must be provided together".into()),
    }
    let max_fps = match params.remove("max_framerate") {
        None => None,
        Some(given) => match integer(&given) {
            None => return Err("max_framerate must be a valid integer".into()),
            Some(fps) if fps <= 0 => return Err("max_framerate must be a positive integer".into()),
            Some(fps) if fps > MOST_FPS => return Err(format!("max_framerate cannot exceed {MOST_FPS} FPS")),
            Some(fps) => Some(fps as f64),
        },
    };
    // The output always has the size of the parameters, and the model is always loaded.
    if let Some(given) = params.remove("detect_out_resolution") {
        truth(&given).ok_or("detect_out_resolution must be a boolean value")?;
    }
    params.remove("load_model");
    let show_loading = match params.remove("show_loading") {
        None => None,
        Some(given) => Some(truth(&given).ok_or("show_loading must be a boolean value")?),
    };
    Ok(Checked { params, max_fps, show_loading })
}

fn parse(text: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(text).map_err(|error| format!("this is no JSON: {error}"))
}

fn object(value: Value, what: &str) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(format!("{what}: Input should be a valid dictionary")),
    }
}

fn side(value: &Value) -> Result<i64, String> {
    match integer(value) {
        Some(side) if side > 0 => Ok(side),
        Some(_) => Err("Width and height must be positive integers".into()),
        None => Err("Width and height must be valid integers or integer strings".into()),
    }
}

/// A whole number, also as text; the fraction of others is cut off.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => {
            let float = || number.as_f64().filter(|n| n.abs() < 1e15).map(|n| n as i64);
            number.as_i64().or_else(float)
        }
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => number.as_i64().map(|n| n != 0),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Some(true),
            "false" | "0" | "no" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Feeds any bytes to the readers of stream calls.
pub(in crate::supervisor) fn fuzz(data: &[u8]) {
    if let Ok(request) = start(data) {
        assert!(!request.gateway_request_id.is_empty() && request.worker);
        assert!(request.max_fps.is_none_or(|fps| (1.0..=60.0).contains(&fps)));
    }
    let _ = of_session(data);
    if let Ok(checked) = update(data) {
        assert_eq!(checked.params.contains_key("width"), checked.params.contains_key("height"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn with(params: Value) -> Result<StreamRequest, String> {
        let body = json!({"gateway_request_id": "g", "subscribe_url": "s", "publish_url": "p", "params": params});
        start(body.to_string().as_bytes())
    }

    /// Parameters of a start and of an update, which must agree.
    fn both(params: Value) -> Result<Checked, String> {
        let started = with(params.clone());
        let updated = update(params.to_string().as_bytes());
        let started = started.map(|it| (it.params, it.max_fps, it.show_loading));
        let same = updated.clone().map(|it| (it.params, it.max_fps, it.show_loading.unwrap_or(false)));
        assert_eq!(started, same);
        let wrapped = json!({ "params": params.to_string() });
        assert_eq!(update(wrapped.to_string().as_bytes()), updated);
        updated
    }

    #[test]
    fn sizes_come_in_pairs_of_positive_integers() {
        let pair = "Both 'width' and 'height' must be provided together";
        let whole = "Width and height must be valid integers or integer strings";
        let positive = "Width and height must be positive integers";
        for (params, expected) in [
            (json!({"width": 512}), pair),
            (json!({"height": 512}), pair),
            (json!({"width": "x", "height": 512}), whole),
            (json!({"width": 512, "height": "1.5"}), whole),
            (json!({"width": null, "height": 512}), whole),
            (json!({"width": [1], "height": 512}), whole),
            (json!({"width": 0, "height": 512}), positive),
            (json!({"width": 512, "height": -1}), positive),
        ] {
            assert_eq!(both(params).expect_err("refused"), expected);
        }
        for params in [json!({"width": "640", "height": "384"}), json!({"width": 640, "height": 384.0})] {
            let params = both(params).expect("accepted").params;
            assert_eq!(Value::Object(params), json!({"width": 640, "height": 384}));
        }
    }

    #[test]
    fn frame_rates_are_1_to_60() {
        for (given, expected) in [
            (json!(1), Ok(Some(1.0))),
            (json!(60), Ok(Some(60.0))),
            (json!("30"), Ok(Some(30.0))),
            (json!(0), Err("max_framerate must be a positive integer")),
            (json!(-1), Err("max_framerate must be a positive integer")),
            (json!(61), Err("max_framerate cannot exceed 60 FPS")),
            (json!("fast"), Err("max_framerate must be a valid integer")),
            (json!(null), Err("max_framerate must be a valid integer")),
        ] {
            let found = both(json!({ "max_framerate": given }));
            assert_eq!(found.map(|checked| checked.max_fps), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn booleans_of_the_output_size() {
        for given in [json!(true), json!(0), json!(1), json!("true"), json!("NO"), json!("Yes"), json!("0")] {
            assert_eq!(both(json!({ "detect_out_resolution": given })).expect("accepted"), Checked::default());
        }
        for given in [json!("maybe"), json!(null), json!([]), json!(0.5)] {
            let error = both(json!({ "detect_out_resolution": given })).expect_err("refused");
            assert_eq!(error, "detect_out_resolution must be a boolean value");
        }
    }

    #[test]
    fn what_is_not_the_doors_own_goes_to_the_pipeline() {
        let given = json!({"prompts": {"5": {"class_type": "LoadTensor"}}, "intensity": 0.8, "list": [1, {"a": null}]});
        assert_eq!(Value::Object(both(given.clone()).expect("accepted").params), given);
        assert_eq!(both(json!({"load_model": true})).expect("accepted"), Checked::default());
        for (given, shown) in [(json!("true"), true), (json!(false), false), (json!(1), true), (json!("no"), false)] {
            let checked = both(json!({ "show_loading": given })).expect("accepted");
            assert_eq!(checked, Checked { show_loading: Some(shown), ..Checked::default() });
        }
        assert_eq!(
            both(json!({"show_loading": "maybe"})).expect_err("refused"),
            "show_loading must be a boolean value"
        );
    }

    #[test]
    fn parameters_of_a_start_may_be_missing_or_a_text() {
        for params in [json!(null), json!(""), json!("{}"), json!({})] {
            assert!(with(params.clone()).expect("accepted").params.is_empty());
            let body = json!({ "params": params }).to_string();
            assert_eq!(of_session(body.as_bytes()).expect("accepted"), Checked::default());
        }
        assert_eq!(of_session(b"").expect("accepted"), Checked::default());
        assert!(of_session(br#"{"params": {"width": 512}}"#).is_err() && of_session(b"[]").is_err());
        let request = with(json!("{\"strength\": 0.5, \"max_framerate\": 24}")).expect("accepted");
        assert_eq!((request.params.len(), request.max_fps), (1, Some(24.0)));
        for params in [json!("[]"), json!("{"), json!(3), json!([1])] {
            with(params).expect_err("refused");
        }
    }

    #[test]
    fn a_start_names_what_it_lacks() {
        for (body, expected) in [
            (json!({"subscribe_url": "s", "publish_url": "p"}), "gateway_request_id: Field required"),
            (json!({"gateway_request_id": "g", "publish_url": 1}), "publish_url: Input should be a valid string"),
            (json!({"gateway_request_id": 3}), "gateway_request_id: Input should be a valid string"),
            (json!([]), "the body: Input should be a valid dictionary"),
        ] {
            assert_eq!(start(body.to_string().as_bytes()).expect_err("refused"), expected);
        }
        start(b"{").expect_err("refused");
        // Nothing but the name is needed; the engine knows that channels may be missing.
        let alone = start(br#"{"gateway_request_id": "g", "subscribe_url": null}"#).expect("accepted");
        assert!(alone.worker && alone.subscribe_url.is_empty() && alone.publish_url.is_empty());
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&data);
        }
    }
}
