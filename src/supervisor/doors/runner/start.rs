//! A proxied call becomes a stream: the session's channels are made by the orchestrator, which also proves that the
//! caller's token is the session's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tracing::{debug, info};

use super::http;
use super::sessions::{Channels, Entrance};
use crate::link::StreamRequest;
use crate::supervisor::hub::{Hub, HubError};

/// Time for one callback.
const CALLBACK: Duration = Duration::from_secs(3);
/// Bytes of a callback's answer.
const MOST_ANSWER: usize = 64 * 1024;
/// Channels of a stream: name, type, field of the answer. Fields are named as an orchestrator names them to a gateway: the
/// client publishes to `publish_url`.
const CHANNELS: [(&str, &str, &str); 4] = [
    ("in", "video/MP2T", "publish_url"),
    ("out", "video/MP2T", "subscribe_url"),
    ("control", "application/json", "control_url"),
    ("events", "application/json", "events_url"),
];
const TOKEN: &str = "Livepeer-Session-Token";

/// Who calls, by the headers that the orchestrator adds. The token is a credential, so it has no `Debug`.
#[derive(Clone)]
pub(in crate::supervisor) struct Caller {
    /// The orchestrator's session.
    pub id: String,
    /// What proves it.
    pub token: String,
    /// Where callbacks go.
    pub control: String,
}

/// Why no stream was started.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::supervisor) enum StartError {
    /// The address for callbacks is not the orchestrator's.
    Control,
    /// The token is not the session's.
    Token,
    /// Another call starts the same session.
    Busy,
    /// The orchestrator did not make the channels; why.
    Channels(String),
    /// No stream was taken.
    Hub(HubError),
}

/// A channel: what the client uses, and what we use.
struct Channel {
    url: String,
    internal: String,
}

/// Starts the stream of a session, or says again where its channels are. A caller that goes away changes nothing.
///
/// # Errors
/// [`StartError`]; nothing is left behind.
pub(in crate::supervisor) async fn start(
    hub: &Arc<Hub>,
    caller: Caller,
    params: Map<String, Value>,
    max_fps: Option<f64>,
) -> Result<Channels, StartError> {
    if !hub.live.ours(&caller.control) {
        return Err(StartError::Control);
    }
    let entrance = hub.live.sessions().enter(&caller.id, &caller.token, &caller.control, Instant::now());
    match entrance {
        Entrance::Again(channels) => return Ok(channels),
        Entrance::Busy => return Err(StartError::Busy),
        Entrance::Foreign => return Err(StartError::Token),
        Entrance::Begin => {}
    }
    let hub = hub.clone();
    let begin = tokio::spawn(async move {
        let result = begin(&hub, &caller, params, max_fps).await;
        if result.is_err() {
            hub.live.sessions().over(&caller.id);
        }
        result
    });
    begin.await.unwrap_or(Err(StartError::Hub(HubError::Away)))
}

async fn begin(
    hub: &Arc<Hub>,
    caller: &Caller,
    params: Map<String, Value>,
    max_fps: Option<f64>,
) -> Result<Channels, StartError> {
    let channels = make(hub, caller).await?;
    let [input, output, control, events] = &channels;
    let request = StreamRequest {
        subscribe_url: input.internal.clone(),
        publish_url: output.internal.clone(),
        control_url: control.internal.clone(),
        events_url: events.internal.clone(),
        gateway_request_id: caller.id.clone(),
        manifest_id: caller.id.clone(),
        stream_id: caller.id.clone(),
        params,
        max_fps,
        ..StreamRequest::default()
    };
    let number = match hub.start(request).await {
        Ok(number) => number,
        Err(error) => {
            let names: Vec<&str> = CHANNELS.iter().map(|(name, _, _)| *name).collect();
            let _ = call(hub, caller, reqwest::Method::DELETE, "channels", json!({ "channels": names })).await;
            return Err(StartError::Hub(error));
        }
    };
    let urls = CHANNELS.iter().zip(&channels).map(|((_, _, field), channel)| (*field, channel.url.clone())).collect();
    let urls = Channels { urls };
    hub.live.sessions().runs(&caller.id, number, urls.clone());
    let ended = hub.book().wait_end(number);
    let (hub, caller) = (hub.clone(), caller.clone());
    tokio::spawn(async move {
        if let Some(ended) = ended {
            // A dropped sender means the same.
            let _ = ended.await;
        }
        over(&hub, &caller).await;
    });
    Ok(urls)
}

/// Our session has ended: the orchestrator's need not last any longer.
async fn over(hub: &Hub, caller: &Caller) {
    hub.live.sessions().over(&caller.id);
    match call(hub, caller, reqwest::Method::POST, "stop", Value::Null).await {
        Ok(_) => info!(session_id = caller.id, "The orchestrator's session is stopped."),
        // It had released it itself, most often.
        Err(why) => debug!(session_id = caller.id, "The orchestrator's session is not stopped: {why:?}"),
    }
    hub.live.hint.notify_one();
}

/// Has the orchestrator make the channels. It does so for the holder of the session's token alone.
async fn make(hub: &Hub, caller: &Caller) -> Result<[Channel; 4], StartError> {
    let wanted: Vec<Value> = CHANNELS.iter().map(|(name, kind, _)| json!({"name": name, "mime_type": kind})).collect();
    let answer = call(hub, caller, reqwest::Method::POST, "channels", json!({ "channels": wanted })).await?;
    let made = answer["channels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let find = |name: &str| {
        let channel = made.iter().find(|channel| channel["name"] == name);
        let text = |field: &str| channel.and_then(|channel| channel[field].as_str()).filter(|text| !text.is_empty());
        let url = text("url").ok_or_else(|| StartError::Channels(format!("its answer lacks the channel {name}")))?;
        Ok(Channel { url: url.to_owned(), internal: text("internal_url").unwrap_or(url).to_owned() })
    };
    let [input, output, control, events] = CHANNELS.map(|(name, _, _)| find(name));
    Ok([input?, output?, control?, events?])
}

async fn call(
    hub: &Hub,
    caller: &Caller,
    method: reqwest::Method,
    what: &str,
    body: Value,
) -> Result<Value, StartError> {
    let http = hub.live.http.as_ref().map_err(|why| StartError::Channels(why.clone()))?;
    let url = format!("{}/{what}", caller.control.trim_end_matches('/'));
    let token = super::sensitive(&caller.token).ok_or(StartError::Token)?;
    let mut request = http.request(method, url).header(TOKEN, token).timeout(CALLBACK);
    if !body.is_null() {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let mut response = request.send().await.map_err(|error| StartError::Channels(http::reason(&error)))?;
    let status = response.status().as_u16();
    let said = http::body(&mut response, MOST_ANSWER).await;
    match status {
        200..=299 => Ok(serde_json::from_slice(&said).unwrap_or_default()),
        401 | 403 => Err(StartError::Token),
        _ => {
            let said = http::hidden(&said[..said.len().min(512)], &[caller.token.as_str()]);
            Err(StartError::Channels(format!("it says {status} {said}")))
        }
    }
}
