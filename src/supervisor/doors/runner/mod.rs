//! A live runner of an orchestrator: heartbeats tell it what we have room for, it proxies its sessions to us, and makes
//! their channels when we ask it to.
//!
//! [`beats`] decides when a heartbeat is due and what its answer means, [`sessions`] who may speak for a session,
//! [`mod@start`] turns a proxied call into a stream, and [`keep`] does the talking. The orchestrator's list of sessions is the
//! truth: what is not on it any more is ended here. Its channel of hints only brings the next heartbeat forward.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use self::beats::{Answer, Beats, Registration};
use self::sessions::Sessions;
use super::http;
use crate::health::Word;
use crate::supervisor::Runner;
use crate::supervisor::hub::Hub;
use crate::supervisor::random;
use crate::trickle::{Client, Config, Start, Subscriber};

mod beats;
pub(in crate::supervisor) mod sessions;
mod start;

pub(in crate::supervisor) use start::{Caller, StartError, start};

/// What stands before the routes that are proxied to us.
pub(in crate::supervisor) const PATH: &str = "/live-runner";
/// Time for one exchange with the orchestrator.
const EXCHANGE: Duration = Duration::from_secs(5);
/// Time for the last one, at the end of the process.
pub(in crate::supervisor) const FAREWELL: Duration = Duration::from_millis(1_000);
/// Bytes of an answer that are read.
const MOST_ANSWER: usize = 64 * 1024;
/// Bytes of a hint.
const MOST_HINT: usize = 4096;

/// What handlers and heartbeats share.
pub(in crate::supervisor) struct Live {
    http: Result<reqwest::Client, String>,
    sessions: Mutex<Sessions>,
    /// Addresses of the orchestrator, the only ones that callbacks go to.
    origins: Mutex<Vec<String>>,
    /// Brings the next heartbeat forward.
    hint: Notify,
}

impl Live {
    /// Nothing has happened.
    pub fn new(config: &Runner) -> Self {
        Self {
            http: http::client(&config.tls),
            sessions: Mutex::default(),
            origins: Mutex::new(origin(&config.orchestrator).into_iter().collect()),
            hint: Notify::new(),
        }
    }

    /// The sessions. Never held across a wait.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the next heartbeat forward: there is something to tell.
    pub fn hurry(&self) {
        self.hint.notify_one();
    }

    /// Whether `url` is the orchestrator's.
    fn ours(&self, url: &str) -> bool {
        let origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        origin(url).is_some_and(|origin| origins.contains(&origin))
    }

    fn learn(&self, orchestrator: &str) {
        let Some(found) = origin(orchestrator) else { return };
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that is set, and the one that it names itself.
        origins.truncate(1);
        if !origins.contains(&found) {
            origins.push(found);
        }
    }
}

/// Scheme, host and port of a URL of the web.
fn origin(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    Some(url.origin().ascii_serialization())
}

/// What is sent, and where to.
struct Announcement {
    http: reqwest::Client,
    secret: HeaderValue,
    url: String,
}

impl Announcement {
    /// `None` when nothing is to be registered.
    fn new(hub: &Hub, bound: SocketAddr) -> Result<Option<Self>, String> {
        let config = &hub.config.runner;
        if config.orchestrator.is_empty() || config.secret.is_empty() {
            return Ok(None);
        }
        let url = http::announced(&config.url, bound, "runner.url")?;
        let secret = sensitive(&config.secret).ok_or("the secret cannot be sent as a header")?;
        Ok(Some(Self { http: hub.live.http.clone()?, secret, url: format!("{url}{PATH}") }))
    }

    async fn beat(&self, hub: &Hub, asked: &Registration, gpu: &Value) -> Answer {
        let secret = asked.secret.as_deref().and_then(sensitive).unwrap_or_else(|| self.secret.clone());
        let body = heartbeat(hub, asked, &self.url, gpu);
        let request = self
            .http
            .post(format!("{}/runners/heartbeat", hub.config.runner.orchestrator))
            .header(AUTHORIZATION, secret.clone())
            .header("content-type", "application/json")
            .body(body.to_string())
            .timeout(EXCHANGE);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Answer::Failed(http::reason(&error)),
        };
        let status = response.status().as_u16();
        let body = http::body(&mut response, MOST_ANSWER).await;
        let secrets = [self.secret.to_str().unwrap_or(""), secret.to_str().unwrap_or("")];
        let said = http::hidden(&body[..body.len().min(512)], &secrets);
        beats::meaning(status, &body, said, asked.secret.is_none())
    }

    async fn farewell(&self, hub: &Hub, registration: &Registration) -> Result<(), String> {
        let Some(secret) = registration.secret.as_deref().and_then(sensitive) else { return Ok(()) };
        let url = format!("{}/runners/{}/unregister", hub.config.runner.orchestrator, registration.id);
        let request = self.http.post(url).header(AUTHORIZATION, secret).timeout(FAREWELL);
        let status = request.send().await.map_err(|error| http::reason(&error))?.status();
        if status.is_success() { Ok(()) } else { Err(format!("it says {status}")) }
    }
}

fn sensitive(secret: &str) -> Option<HeaderValue> {
    let mut secret = HeaderValue::from_str(secret).ok()?;
    secret.set_sensitive(true);
    Some(secret)
}

/// What a heartbeat says. Sessions of other doors take their slots out of what is offered. A runner that has no room says
/// so by its capacity while it has sessions, because any status but `ready` would cut those off; a capacity of 0 would
/// be taken for 1, so without sessions it says it by its status.
fn heartbeat(hub: &Hub, asked: &Registration, url: &str, gpu: &Value) -> Value {
    let config = &hub.config.runner;
    let ids = hub.live.sessions().ids();
    let word = hub.health().word;
    let (free, ending) = {
        let book = hub.book();
        (book.capacity().saturating_sub(book.in_use()), book.ending())
    };
    let open = !ending && matches!(word, Word::Idle | Word::Ok) && hub.book().warm();
    let capacity = ids.len() + if open { free } else { 0 };
    let status = match (capacity, ending, word) {
        (1.., _, _) => "ready",
        (0, true, _) => "draining",
        (0, false, Word::Error) => "error",
        (0, false, Word::Loading) => "loading",
        (0, false, _) => "busy",
    };
    let price: Value = serde_json::from_str(&config.price).unwrap_or_else(|_| 0.into());
    let mut body = json!({
        "runner_id": asked.id,
        "runner_url": url,
        "app": app(hub),
        "version": hub.config.version,
        "mode": "persistent",
        "status": status,
        "capacity": capacity.max(1),
        "price_info": {"price": price, "currency": config.currency, "unit": config.unit},
        "session_ids": ids,
    });
    for (field, text) in [("label", &config.label), ("metadata", &config.metadata)] {
        if !text.is_empty() {
            body[field] = text.as_str().into();
        }
    }
    if !gpu.is_null() {
        body["gpu"] = gpu.clone();
    }
    body
}

fn app(hub: &Hub) -> String {
    match hub.config.runner.app.as_str() {
        "" => format!("live-video-to-video/{}", hub.config.model_id),
        app => app.to_owned(),
    }
}

async fn gpu(hub: &Hub, device: &str) -> Value {
    let gpus = hub.hardware.gpus().await;
    let gpu = gpus.get(device);
    gpu.map_or(Value::Null, |gpu| json!({"id": gpu.id, "name": gpu.name, "vram_mb": gpu.memory_total >> 20}))
}

/// Keeps the runner registered until the process ends, then takes it back.
pub(in crate::supervisor) async fn keep(hub: Arc<Hub>, bound: SocketAddr, device: String) {
    let announcement = match Announcement::new(&hub, bound) {
        Ok(Some(announcement)) => announcement,
        Ok(None) => return,
        Err(why) => return error!("The live runner cannot be registered: {why}"),
    };
    let mut beats = Beats::new();
    let mut hints: Option<AbortOnDropHandle<()>> = None;
    loop {
        let due = beats.due();
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                // Never heard of before the pipeline is warm: there would be nothing to proxy to.
                None => until_warm(&hub).await,
            }
        };
        tokio::select! {
            () = hub.ending.cancelled() => break,
            // A hint means nothing before there is a registration, and a refusal is not hurried.
            () = hub.live.hint.notified(), if beats.registered().is_some() => {}
            () = sleep => {}
        }
        let Some(fresh) = random::hex(8) else {
            return error!("The live runner cannot be registered: the system gives no random numbers.");
        };
        let asked = beats.begin(|| format!("weir_{fresh}"));
        let gpu = gpu(&hub, &device).await;
        let at = Instant::now();
        let answer = tokio::select! {
            answer = announcement.beat(&hub, &asked, &gpu) => answer,
            () = hub.ending.cancelled() => break,
        };
        let news = beats.did(&asked, &answer, Instant::now());
        hub.metrics.heartbeat(matches!(answer, Answer::Known(_)), beats.registered().is_some());
        match &answer {
            Answer::Known(known) => {
                hub.live.learn(&known.orchestrator);
                if asked.secret.is_none() {
                    info!(runner_id = asked.id, app = app(&hub), "The live runner is registered.");
                    hints = known
                        .hints
                        .clone()
                        .map(|url| AbortOnDropHandle::new(tokio::spawn(listen(hub.clone(), url, asked.id.clone()))));
                }
                reconcile(&hub, &known.sessions, at).await;
            }
            Answer::Forgotten(_) => drop(hints.take()),
            _ => {}
        }
        if let Some(why) = news {
            warn!(runner_id = asked.id, "The orchestrator has not taken the heartbeat: {why}");
        }
    }
    drop(hints);
    if let Some(registration) = beats.registered() {
        match announcement.farewell(&hub, registration).await {
            Ok(()) => info!(runner_id = registration.id, "The live runner is taken back."),
            Err(why) => warn!("The live runner could not be taken back: {why}"),
        }
    }
}

async fn until_warm(hub: &Hub) {
    while !hub.book().warm() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Ends what the orchestrator does not have any more.
async fn reconcile(hub: &Arc<Hub>, theirs: &[String], asked: Instant) {
    let released = hub.live.sessions().released(theirs, asked);
    for number in released {
        info!(session = number, "The orchestrator has released the session.");
        let hub = hub.clone();
        tokio::spawn(async move { hub.stop(Some(number), "the orchestrator released the session").await });
    }
}

/// Reads the channel of hints until it ends. A hint that is lost costs time, nothing else.
async fn listen(hub: Arc<Hub>, url: String, id: String) {
    let config = Config { tls: hub.config.runner.tls.clone(), silent_get_ms: 30_000, ..Config::default() };
    let subscriber = Client::new(&config).and_then(|client| Subscriber::new(&client, &url, Start::Seq(0)));
    let mut subscriber = match subscriber {
        Ok(subscriber) => subscriber,
        Err(error) => return warn!(runner_id = id, "Hints cannot be read: {error}"),
    };
    while let Ok(Some(mut segment)) = subscriber.next().await {
        let Ok(Some(document)) = segment.document(MOST_HINT).await else { continue };
        let event: Value = serde_json::from_slice(&document).unwrap_or_default();
        if event["event"] == "released" {
            debug!(runner_id = id, "A session was released.");
            hub.live.hint.notify_one();
        }
    }
    debug!(runner_id = id, "The channel of hints has ended.");
}
