//! The engine's end of the link: takes orders from the supervisor, keeps the sessions, says that it is alive.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::abandon::abandon;
use super::config::Config;
use super::events::unix_ms;
use super::image::{Fault, Format, Job};
use super::model::{Model, Said};
use super::record::Recording;
use super::session::{Deps, Handle, Order};
use super::shared::BUFFERS;
use super::trace;
use crate::frame::FramePool;
use crate::link::{FromEngine, ImageOrder, Imaged, LinkError, Outcome, Phase, Reader, StreamRequest, ToEngine, Writer};
use crate::metering::openmetrics::Exposition;
use crate::metering::{Metrics, Tracer};
use crate::pipeline::{ParamError, Pipeline, Provider, registry};
use crate::trickle::Client;

/// Messages that may wait for the supervisor.
const LINK_QUEUE: usize = 256;
/// What is said to a call that means one stream and does not say which.
const SEVERAL: &str = "several streams run; say which one is meant";
/// Time between two beats.
const BEAT: Duration = Duration::from_millis(500);

/// Why an engine cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The supervisor's pipe broke or spoke nonsense.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The first message was not `Load`, or its settings cannot be read.
    #[error("the supervisor's first message cannot be used: {0}")]
    Orders(String),
    /// The pipeline could not be loaded.
    #[error("{0}")]
    Load(String),
    /// The system refused a thread.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The way to the supervisor.
#[derive(Clone)]
pub(super) struct ToSupervisor(mpsc::Sender<FromEngine>);

impl ToSupervisor {
    /// Sends a message that must arrive; waits while the queue is full.
    pub async fn send(&self, message: FromEngine) {
        // A closed queue means that the supervisor is gone, which the reader notices.
        let _ = self.0.send(message).await;
    }

    /// Room for one message that must arrive; `None` while the queue is full.
    pub fn room(&self) -> Option<mpsc::Permit<'_, FromEngine>> {
        self.0.try_reserve().ok()
    }

    /// Sends a message of which a newer one will come; drops it when the queue is full.
    pub fn hint(&self, message: FromEngine) {
        self.offer(message);
    }

    /// Sends a message if there is room for it. False when it was dropped.
    pub fn offer(&self, message: FromEngine) -> bool {
        self.0.try_send(message).is_ok()
    }
}

/// Serves the supervisor at the other end of `orders` and `answers` until it says `Shutdown` or closes its end.
///
/// # Errors
/// [`EngineError`]; the process should end with a code other than 0.
pub async fn serve(
    orders: impl AsyncRead + Unpin + Send + 'static,
    answers: impl AsyncWrite + Unpin + Send + 'static,
) -> Result<(), EngineError> {
    let mut orders = Reader::<_, ToEngine>::new(orders);
    let (queue, mut messages) = mpsc::channel(LINK_QUEUE);
    let supervisor = ToSupervisor(queue);
    let mut writer = Writer::<_, FromEngine>::new(answers);
    let sender = tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            if writer.send(&message).await.is_err() {
                break;
            }
        }
    });
    supervisor.send(FromEngine::Hello { pid: std::process::id() }).await;
    let result = match Host::load(&mut orders, supervisor).await {
        Ok(Some(host)) => host.serve(&mut orders).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    // The host is gone, so the queue ends once its last message is out.
    let _ = tokio::time::timeout(Duration::from_secs(1), sender).await;
    result
}

struct Host {
    supervisor: ToSupervisor,
    config: Arc<Config>,
    pipeline: &'static dyn Pipeline,
    metrics: Arc<Metrics>,
    client: Client,
    /// For the channels of our own supervisor, whatever `trickle.allow` says.
    own: Client,
    slots: Vec<Slot>,
    said: mpsc::Receiver<(usize, Said)>,
    sessions: HashMap<u64, Handle>,
    /// Slots that run a picture.
    pictures: Arc<Mutex<HashSet<usize>>>,
    ended: mpsc::Sender<u64>,
    ends: mpsc::Receiver<u64>,
    tasks: TaskTracker,
    tracer: Arc<Tracer>,
    /// Lets one workflow be looked at at a time.
    examining: Arc<Semaphore>,
    /// Writes the trace of every frame, where one is wanted.
    _trace: Option<trace::TraceFile>,
    /// Makes a trace of the next seconds, where one was asked for.
    tracing: Option<AbortOnDropHandle<()>>,
}

/// Room for one session: an instance of the pipeline and its picture buffers, so that a session that is slow or holds
/// on to its pictures takes nothing from the others.
struct Slot {
    model: Model,
    pool: FramePool,
    state: SlotState,
}

/// What a slot is good for.
#[derive(Clone, Debug, PartialEq)]
enum SlotState {
    Loading,
    /// Warm after so long; its graphs run there.
    Ready(Duration, Option<Provider>),
    /// Its instance could not be loaded.
    Failed(String),
}

impl Host {
    async fn load<R: AsyncRead + Unpin>(
        orders: &mut Reader<R, ToEngine>,
        supervisor: ToSupervisor,
    ) -> Result<Option<Self>, EngineError> {
        let (name, config) = match orders.next().await? {
            Some(ToEngine::Load { pipeline, config }) => (pipeline, config),
            Some(ToEngine::Abandon { requests, pipeline, config, message }) => {
                let config: Config =
                    serde_json::from_value(config).map_err(|error| EngineError::Orders(error.to_string()))?;
                let done = abandon(&config, requests, &pipeline, &message).await;
                return done.map(|()| None).map_err(|error| EngineError::Load(error.to_string()));
            }
            Some(other) => return Err(EngineError::Orders(format!("expected `load`, got {other:?}"))),
            None => return Ok(None),
        };
        let mut config: Config =
            serde_json::from_value(config).map_err(|error| EngineError::Orders(error.to_string()))?;
        let fail = async |message: String| {
            supervisor.send(FromEngine::Phase(Phase::Failed { message: message.clone() })).await;
            EngineError::Load(message)
        };
        let Some(pipeline) = registry::find(&name) else {
            let known: Vec<_> = registry::all().iter().map(|pipeline| pipeline.name()).collect();
            return Err(fail(format!("there is no pipeline `{name}`; this build has {}", known.join(", "))).await);
        };
        if config.initial_params.is_empty() {
            (config.initial_params, config.left_out) = pipeline.preset(&config.models);
            for left_out in &config.left_out {
                tracing::warn!("{left_out}.");
            }
        }
        let checked = match pipeline.check(&config.initial_params) {
            Ok(checked) => checked,
            Err(error) => return Err(fail(format!("the initial parameters of {name} are wrong: {error}")).await),
        };
        let clients = Client::new(&config.trickle).and_then(|client| Ok((client, Client::new(&config.trickle.own())?)));
        let (client, own) = match clients {
            Ok(clients) => clients,
            Err(error) => return Err(fail(format!("the trickle client cannot be set up: {error}")).await),
        };
        let metrics = match Metrics::new() {
            Ok(mut metrics) => {
                metrics.off = config.unmeasured;
                Arc::new(metrics)
            }
            Err(error) => return Err(fail(format!("metrics cannot be set up: {error}")).await),
        };
        let config = Arc::new(config);
        let tracer = Arc::new(Tracer::new());
        let trace = config.trace.as_ref().and_then(|path| match trace::TraceFile::start(&tracer, path) {
            Ok(trace) => Some(trace),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "No trace is written.");
                None
            }
        });
        // A load says few lines; a full queue would only delay it.
        let (say, said) = mpsc::channel(16);
        let instances = config.capacity.max(1);
        tracing::info!(pipeline = name, instances, "Loading the pipeline.");
        let turn = Arc::default();
        let slot = |number: usize| {
            let pool = FramePool::new(BUFFERS);
            let say = say.clone();
            let say = move |what| {
                let _ = say.blocking_send((number, what));
            };
            let model = Model::start(pipeline, checked.clone(), config.clone(), pool.clone(), Arc::clone(&turn), say)?;
            Ok(Slot { model, pool, state: SlotState::Loading })
        };
        let slots = (0..instances).map(slot).collect::<Result<Vec<_>, std::io::Error>>()?;
        let (ended, ends) = mpsc::channel(config.capacity.max(1));
        Ok(Some(Self {
            supervisor,
            config,
            pipeline,
            metrics,
            client,
            own,
            slots,
            said,
            sessions: HashMap::new(),
            pictures: Arc::default(),
            ended,
            ends,
            tasks: TaskTracker::new(),
            tracer,
            examining: Arc::new(Semaphore::new(1)),
            _trace: trace,
            tracing: None,
        }))
    }

    async fn serve<R: AsyncRead + Unpin>(mut self, orders: &mut Reader<R, ToEngine>) -> Result<(), EngineError> {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.next() => match order? {
                    None => {
                        tracing::warn!("The supervisor is gone; the engine stops.");
                        self.shutdown(Duration::from_secs(2)).await;
                        return Ok(());
                    }
                    Some(ToEngine::Shutdown { grace_ms }) => {
                        self.shutdown(Duration::from_millis(grace_ms)).await;
                        return Ok(());
                    }
                    Some(order) => self.order(order).await,
                },
                Some((slot, said)) = self.said.recv() => self.said(slot, said).await?,
                Some(session) = self.ends.recv() => {
                    if let Some(handle) = self.sessions.remove(&session) {
                        self.metrics.end_session(handle.slot());
                    }
                    self.metrics.sessions.set(self.sessions.len() as i64);
                }
                now = beat.tick() => {
                    let now = now.into_std();
                    let busy_ms = self.sessions.values().map(|session| session.busy_ms(now)).max().unwrap_or(0);
                    self.supervisor.hint(FromEngine::Beat { busy_ms });
                }
            }
        }
    }

    async fn said(&mut self, slot: usize, said: Said) -> Result<(), EngineError> {
        let name = self.pipeline.name();
        let last = self.slots.len() - 1;
        let state = match said {
            Said::Loading(detail) => {
                let detail = if last == 0 { detail } else { format!("{detail} (instance {slot} of 0 to {last})") };
                tracing::info!(pipeline = name, "Loading: {detail}");
                for session in self.sessions.values().filter(|session| session.slot() == slot) {
                    session.notice(format!("Loading {name}: {detail}"));
                }
                self.supervisor.send(FromEngine::Phase(Phase::Loading { detail })).await;
                return Ok(());
            }
            Said::Ready(took, provider) => SlotState::Ready(took, provider),
            Said::Failed(message) => {
                for session in self.sessions.values().filter(|session| session.slot() == slot) {
                    session.fail(format!("Error loading pipeline: {message}"));
                }
                SlotState::Failed(message)
            }
        };
        self.slots[slot].state = state;
        self.loaded().await
    }

    /// Says what came of loading once every instance is loaded or has failed. One that works is enough to go on.
    async fn loaded(&mut self) -> Result<(), EngineError> {
        let name = self.pipeline.name();
        if self.slots.iter().any(|slot| slot.state == SlotState::Loading) {
            return Ok(());
        }
        let times = self.slots.iter().filter_map(|slot| match &slot.state {
            SlotState::Ready(took, _) => Some(*took),
            _ => None,
        });
        // Every instance is loaded by the same settings.
        let provider = self.slots.iter().find_map(|slot| match &slot.state {
            SlotState::Ready(_, provider) => provider.map(|provider| provider.to_string()),
            _ => None,
        });
        let (took, instances) = times.fold((Duration::ZERO, 0), |(sum, count), took| (sum + took, count + 1));
        let failed = self.slots.iter().find_map(|slot| match &slot.state {
            SlotState::Failed(message) => Some(message.clone()),
            _ => None,
        });
        match failed {
            Some(message) if instances == 0 => {
                tracing::error!(pipeline = name, "Error loading pipeline: {message}");
                self.shutdown(Duration::from_secs(1)).await;
                self.supervisor.send(FromEngine::Phase(Phase::Failed { message: message.clone() })).await;
                return Err(EngineError::Load(message));
            }
            Some(message) => {
                let wanted = self.slots.len();
                tracing::warn!(pipeline = name, instances, wanted, "Not every instance could be loaded: {message}");
            }
            None => {}
        }
        let load_ms = took.as_millis() as u64;
        self.metrics.load_seconds.set(took.as_secs_f64());
        tracing::debug!(pipeline = name, load_ms, instances, "The pipeline is warm.");
        self.supervisor.send(FromEngine::Phase(Phase::Ready { load_ms, instances, provider })).await;
        Ok(())
    }

    /// A slot without a session, a warm one before one that still loads.
    fn free(&self) -> Option<usize> {
        let pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        let taken =
            |slot: usize| pictures.contains(&slot) || self.sessions.values().any(|session| session.slot() == slot);
        let free = self.slots.iter().enumerate().filter(|&(number, _)| !taken(number));
        let usable = free.filter(|(_, slot)| !matches!(slot.state, SlotState::Failed(_)));
        usable.min_by_key(|(_, slot)| slot.state == SlotState::Loading).map(|(number, _)| number)
    }

    async fn order(&mut self, order: ToEngine) {
        match order {
            ToEngine::Load { .. } | ToEngine::Abandon { .. } => {
                tracing::error!("The supervisor asked for a second pipeline; it is ignored.")
            }
            ToEngine::Shutdown { .. } => {}
            ToEngine::Start { id, session, request, arrived_ms, resume } => {
                let outcome = self.start(Order { session, request: *request, arrived_ms, resume: resume.map(|r| *r) });
                self.supervisor.send(FromEngine::Reply { id, outcome }).await;
            }
            ToEngine::Update { id, session, params, max_fps, show_loading } => {
                let target = match session {
                    Some(session) => self.sessions.get(&session),
                    None if self.sessions.len() > 1 => {
                        let outcome = Outcome::BadRequest { message: SEVERAL.into() };
                        return self.supervisor.send(FromEngine::Reply { id, outcome }).await;
                    }
                    None => self.sessions.values().next(),
                };
                let set = self.config.media.max_fps;
                let updated = target.map(|session| {
                    // A cap or the overlay alone says nothing of the parameters.
                    if (max_fps.is_none() && show_loading.is_none()) || !params.is_empty() {
                        session.update(params)?;
                    }
                    if let Some(asked) = max_fps {
                        session.cap(set, asked);
                    }
                    if let Some(shown) = show_loading {
                        session.show_loading(shown);
                    }
                    Ok(())
                });
                let outcome = match updated {
                    None => Outcome::NotFound,
                    Some(Ok(())) => Outcome::Accepted,
                    Some(Err(ParamError { field, reason })) => Outcome::BadParams { field, reason },
                };
                self.supervisor.send(FromEngine::Reply { id, outcome }).await;
            }
            ToEngine::Record { id, session, order: Some(order) } => {
                let outcome = match self.sessions.get_mut(&session) {
                    None => Outcome::NotFound,
                    Some(session) => match session.record(order, &self.tasks).await {
                        Ok(()) => Outcome::Accepted,
                        Err(message) => Outcome::Failed { message },
                    },
                };
                self.supervisor.send(FromEngine::Reply { id, outcome }).await;
            }
            ToEngine::Record { id, session, order: None } => {
                let ended = self.sessions.get(&session).and_then(Handle::recording).map(Recording::stop);
                let supervisor = self.supervisor.clone();
                self.tasks.spawn(async move {
                    let outcome = match ended {
                        None => Outcome::NotFound,
                        Some(ended) => {
                            ended.await;
                            Outcome::Accepted
                        }
                    };
                    supervisor.send(FromEngine::Reply { id, outcome }).await;
                });
            }
            ToEngine::Recordings { id } => {
                let under_way = self.sessions.values().filter_map(Handle::recording);
                let value = under_way.map(|recording| (recording.name().to_owned(), recording.told())).collect();
                self.supervisor.send(FromEngine::Described { id, value }).await;
            }
            ToEngine::Encode { session, coding, key, max_kbps } => {
                // A session that has just ended has nothing to encode.
                if let Some(session) = self.sessions.get(&session) {
                    session.encode(coding, key, max_kbps);
                }
            }
            ToEngine::Taps { session, taps } => {
                if let Some(session) = self.sessions.get(&session) {
                    session.tap(taps);
                }
            }
            ToEngine::Stop { session, reason } => match self.sessions.get(&session) {
                Some(handle) => handle.stop(reason),
                None => {
                    let message = FromEngine::Ended { session, reason: "it was not running".into(), fault: false };
                    self.supervisor.send(message).await;
                }
            },
            ToEngine::Frames { id, session, after } => {
                let frames = self.sessions.get(&session).map(|session| session.frames(after));
                // Plain data has a JSON form.
                let value = serde_json::to_value(frames).unwrap_or_default();
                self.supervisor.send(FromEngine::Described { id, value }).await;
            }
            ToEngine::Image { id, order } => self.picture(id, *order).await,
            ToEngine::Describe { id } => {
                let running = self.sessions.values().next().map(Handle::params);
                let value = json!({
                    "name": self.pipeline.name(),
                    "about": self.pipeline.about(),
                    "schema": self.pipeline.schema(),
                    "params": running.as_deref().unwrap_or(&self.config.initial_params),
                    "updates": self.config.updates,
                    "pipelines": self.pipelines(),
                });
                self.supervisor.send(FromEngine::Described { id, value }).await;
            }
            ToEngine::Examine { id, workflow, svg } => {
                let (supervisor, models, one) =
                    (self.supervisor.clone(), self.config.models.clone(), self.examining.clone());
                // Files are read and graphs are built, so not on this thread; and one at a time. Nobody waits longer than the
                // supervisor does.
                tokio::spawn(async move {
                    let Ok(_permit) = one.acquire().await else { return };
                    let look = move || crate::pipeline::comfyui::examine(&workflow, &models, svg);
                    let value = tokio::task::spawn_blocking(look).await;
                    let value = value.unwrap_or_else(|error| json!({"runs": false, "message": error.to_string()}));
                    supervisor.send(FromEngine::Described { id, value }).await;
                });
            }
            ToEngine::Scrape { id, openmetrics } => {
                self.sessions.values().for_each(Handle::show_queues);
                let form = if openmetrics { Exposition::OpenMetrics } else { Exposition::Text };
                let text = self.metrics.exposed(form, Instant::now(), unix_ms());
                self.supervisor.send(FromEngine::Metrics { id, text }).await;
            }
            ToEngine::Trace { id, seconds } => {
                let (supervisor, listener) = (self.supervisor.clone(), trace::listen(&self.tracer));
                // A request before that still runs gets no answer: whoever asked last is served.
                self.tracing = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                    let text = trace::collect(listener, Duration::from_secs(seconds)).await;
                    supervisor.send(FromEngine::Traced { id, text }).await;
                })));
            }
        }
    }

    /// Every pipeline of this build, with what is missing for it to be loaded by its own parameters.
    fn pipelines(&self) -> Value {
        let told = registry::all().iter().map(|pipeline| {
            let ready = pipeline.check(&pipeline.initial()).and_then(|it| pipeline.ready(&it, &self.config.models));
            json!({
                "name": pipeline.name(),
                "about": pipeline.about(),
                "missing": ready.err().map(|error| error.to_string()),
            })
        });
        told.collect()
    }

    fn start(&mut self, order: Order) -> Outcome {
        let request = &order.request;
        if !request.model_id.is_empty() && request.model_id != self.pipeline.name() {
            return Outcome::BadRequest {
                message: format!(
                    "pipeline configured with {} but called with {}.",
                    self.pipeline.name(),
                    request.model_id
                ),
            };
        }
        let client = if request.own_channels { &self.own } else { &self.client }.clone();
        if let Err(message) = check_urls(&client, request) {
            return Outcome::BadRequest { message };
        }
        let Some(slot) = self.free() else { return Outcome::Busy };
        let params = order.resume.as_ref().map_or(&request.params, |resume| &resume.params);
        let ready =
            |checked: crate::pipeline::Checked| self.pipeline.ready(&checked, &self.config.models).map(|()| checked);
        let checked = match self.pipeline.check(params).and_then(ready) {
            Ok(checked) => checked,
            Err(error) => return Outcome::BadParams { field: error.field, reason: error.reason },
        };
        let deps = Deps {
            slot,
            supervisor: self.supervisor.clone(),
            config: self.config.clone(),
            client,
            own: self.own.clone(),
            metrics: self.metrics.clone(),
            pool: self.slots[slot].pool.clone(),
            tracer: self.tracer.clone(),
            ended: self.ended.clone(),
            tasks: self.tasks.clone(),
        };
        let session = order.session;
        match Handle::start(deps, &self.slots[slot].model, self.pipeline, checked, order, Instant::now()) {
            Ok(handle) => {
                if self.slots[slot].state == SlotState::Loading {
                    handle.notice(format!("Loading {}…", self.pipeline.name()));
                }
                self.sessions.insert(session, handle);
                self.metrics.sessions.set(self.sessions.len() as i64);
                Outcome::Accepted
            }
            Err(message) => Outcome::Failed { message },
        }
    }

    /// Has a picture processed in a slot that is free.
    async fn picture(&self, id: u64, order: ImageOrder) {
        let refuse = async |outcome| self.supervisor.send(FromEngine::Imaged { id, outcome, image: None }).await;
        let bad = |message: &str| Outcome::BadRequest { message: message.to_owned() };
        let Ok(file) = STANDARD.decode(order.image.as_bytes()) else {
            return refuse(bad("image: base64 is expected")).await;
        };
        let Some(format) = Format::named(&order.format) else {
            return refuse(bad("format: png or jpeg is expected")).await;
        };
        let params = match self.pipeline.check(&order.params) {
            Ok(params) => params,
            Err(error) => return refuse(Outcome::BadParams { field: error.field, reason: error.reason }).await,
        };
        let Some(slot) = self.free() else { return refuse(Outcome::Busy).await };
        let (done, result) = oneshot::channel();
        if !self.slots[slot].model.picture(Job { file, params, passes: order.passes, format, done }) {
            return refuse(Outcome::Busy).await;
        }
        let pictures = self.pictures.clone();
        pictures.lock().unwrap_or_else(PoisonError::into_inner).insert(slot);
        let supervisor = self.supervisor.clone();
        self.tasks.spawn(async move {
            let result = result.await;
            pictures.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
            let failed = |message: String| Outcome::Failed { message };
            let (outcome, image) = match result {
                Ok(Ok(done)) => {
                    let image = Imaged {
                        image: STANDARD.encode(&done.file),
                        width: done.size.width,
                        height: done.size.height,
                        model_ms: done.model.as_secs_f64() * 1000.0,
                    };
                    (Outcome::Accepted, Some(image))
                }
                Ok(Err(Fault::Picture(message))) => (Outcome::BadRequest { message }, None),
                Ok(Err(Fault::Model(message))) => (failed(message), None),
                Err(_) => (failed("the model thread is gone".into()), None),
            };
            supervisor.send(FromEngine::Imaged { id, outcome, image }).await;
        });
    }

    /// Ends every session, at most for `grace`.
    async fn shutdown(&mut self, grace: Duration) {
        for session in self.sessions.values() {
            session.stop("the runner shuts down".into());
        }
        let wait = async {
            while !self.sessions.is_empty() {
                match self.ends.recv().await {
                    Some(session) => drop(self.sessions.remove(&session)),
                    None => break,
                }
            }
            // A session's events channel is deleted after its resources are free.
            self.tasks.close();
            self.tasks.wait().await;
        };
        if tokio::time::timeout(grace, wait).await.is_err() {
            tracing::warn!("{} sessions did not end in time; they are cut off.", self.sessions.len());
        }
    }
}

/// Refuses what no channel can be: everything that is not `http://` or `https://` with a host, and where none may be.
fn check_urls(client: &Client, request: &StreamRequest) -> Result<(), String> {
    let urls = [
        ("subscribe_url", &request.subscribe_url, !request.worker),
        ("publish_url", &request.publish_url, !request.worker),
        ("control_url", &request.control_url, false),
        ("events_url", &request.events_url, false),
        ("data_url", &request.data_url, false),
    ];
    for (field, url, required) in urls {
        if url.is_empty() && !required {
            continue;
        }
        match reqwest::Url::parse(url) {
            Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => {
                client.permits(url).map_err(|error| format!("{field}: {error}"))?;
            }
            Ok(parsed) => return Err(format!("{field}: the scheme must be http or https, not {}", parsed.scheme())),
            Err(error) => return Err(format!("{field}: not a URL ({error}); expected http:// or https://")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_must_be_http() {
        let request = |subscribe: &str, events: &str| StreamRequest {
            subscribe_url: subscribe.into(),
            publish_url: "http://h/out".into(),
            events_url: events.into(),
            ..StreamRequest::default()
        };
        let client = Client::new(&crate::trickle::Config::default()).expect("a client");
        assert_eq!(check_urls(&client, &request("http://h/in", "")), Ok(()));
        assert_eq!(check_urls(&client, &request("https://h:1/in", "http://h/e")), Ok(()));
        assert_eq!(check_urls(&client, &StreamRequest { worker: true, ..StreamRequest::default() }), Ok(()));
        for (subscribe, events, field) in [
            ("", "", "subscribe_url"),
            ("file:///etc/passwd", "", "subscribe_url"),
            ("ftp://h/in", "", "subscribe_url"),
            ("http://h/in", "rtmp://h/x", "events_url"),
            ("nonsense", "", "subscribe_url"),
            ("http://169.254.169.254/latest/meta-data", "", "subscribe_url"),
            ("http://h/in", "http://[::ffff:169.254.169.254]/x", "events_url"),
        ] {
            let error = check_urls(&client, &request(subscribe, events)).expect_err(subscribe);
            assert!(error.starts_with(field), "{error}");
        }
    }
}
