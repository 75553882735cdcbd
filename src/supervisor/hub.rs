//! Where requests meet the engine: every handler holds the hub, the hub holds the book and the way to the engine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use super::Config;
use super::admission::Limits;
use super::book::{Book, GpuNow, Health, Note, Pending, Refusal, STOP_SLACK};
use super::choice::Choice;
use super::doors::runner::Live;
use super::hardware::{Gpu, Hardware};
use super::ledger::Ledger;
use super::metrics::Metrics;
use super::random;
use crate::link::{Coding, FromEngine, ImageOrder, Imaged, Outcome, RecordOrder, StreamRequest, Tap, ToEngine};
use crate::metering::openmetrics::{self, Exposition};

/// How long a start waits for an engine that is being replaced, and for its answer.
pub(super) const START_WAIT: Duration = Duration::from_secs(3);
/// How long an update or a question waits.
const ASK_WAIT: Duration = Duration::from_secs(3);
/// How long a picture may take, a load that its parameters ask for included.
const IMAGE_WAIT: Duration = Duration::from_secs(60);
/// How long a scrape waits before the last known text is shown.
const SCRAPE_WAIT: Duration = Duration::from_millis(1000);

/// Time between two questions to NVML.
const GPU_LOOK: Duration = Duration::from_secs(1);

/// What is said to a call that means one stream and does not say which.
pub(super) const SEVERAL: &str = "several streams run; say which one is meant";

/// Why a request found no good end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum HubError {
    /// Refused at the door.
    #[error("refused")]
    Refused(Refusal),
    /// There is no engine, and none came in time.
    #[error("the engine is being restarted")]
    Away,
    /// The engine did not answer in time.
    #[error("the engine does not answer")]
    Slow,
    /// The engine said no.
    #[error("the engine said no")]
    Engine(Outcome),
}

/// Why one exchange with the engine came to nothing.
enum Lost {
    /// No engine until the deadline.
    Away,
    /// It died before it answered.
    Died,
    /// It did not answer in time, or has too much to do.
    Slow(Option<u64>),
}

/// Shared by every handler and the keeper of the engine.
pub(super) struct Hub {
    /// Settings.
    pub config: Config,
    /// Our own numbers.
    pub metrics: Metrics,
    /// What NVML tells.
    pub hardware: Hardware,
    /// What an orchestrator that registers us as a worker is to call us with, where nothing else is set.
    worker_token: String,
    /// Addresses that started the sessions that hold slots.
    clients: Mutex<BTreeMap<u64, IpAddr>>,
    ledger: Mutex<Option<Ledger>>,
    /// What callers may choose between.
    pub choice: Choice,
    /// What live runners' sessions share.
    pub live: Live,
    /// The engine's last text, as Prometheus text and as OpenMetrics.
    last_scrape: Mutex<[String; 2]>,
    /// Cancelled when the process is to end.
    pub ending: CancellationToken,
    book: Mutex<Book>,
    link: watch::Sender<Option<mpsc::Sender<ToEngine>>>,
    tasks: TaskTracker,
}

/// Unix time in milliseconds.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

impl Hub {
    /// A hub without an engine.
    ///
    /// # Errors
    /// See [`Metrics::new`].
    pub fn new(config: Config) -> Result<Arc<Self>, prometheus::Error> {
        let metrics = Metrics::new(&config.version, config.capacity)?;
        let limits = Limits { load: config.max_load, free_memory: config.min_free_memory as u64 };
        // Without a token it could not tell its calls from anybody's.
        let registers = !config.byoc.orchestrator.is_empty() && !config.byoc.secret.is_empty();
        let alone = registers && config.auth_token.is_empty() && !config.open;
        let worker_token = if alone { random::hex(24).unwrap_or_default() } else { String::new() };
        let ledger = Ledger::start(&config.ledger, env!("CARGO_PKG_VERSION"), metrics.clone());
        Ok(Arc::new(Self {
            metrics,
            ledger: Mutex::new(Some(ledger)),
            last_scrape: Mutex::default(),
            hardware: Hardware::default(),
            worker_token,
            clients: Mutex::default(),
            choice: Choice::default(),
            live: Live::new(&config.runner),
            ending: CancellationToken::new(),
            book: Mutex::new(Book::new(&config.model_id, config.capacity, limits, Instant::now())),
            link: watch::Sender::new(None),
            tasks: TaskTracker::new(),
            config,
        }))
    }

    /// The token that an orchestrator was given with the registration as a worker; empty where none was made.
    pub fn worker_token(&self) -> &str {
        &self.worker_token
    }

    /// The book. Never held across a wait.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `/health` says.
    pub fn health(&self) -> Health {
        self.book().health(Instant::now())
    }

    /// The way to an engine that said hello; `None` while there is none. The keeper's to set.
    pub fn set_link(&self, link: Option<mpsc::Sender<ToEngine>>) {
        self.link.send_replace(link);
    }

    /// Whether there is a way to an engine.
    pub fn linked(&self) -> bool {
        self.link.borrow().is_some()
    }

    /// Name of the pipeline that is loaded, or is to be.
    pub fn model_id(&self) -> String {
        self.book().pipeline().to_owned()
    }

    /// Takes in what the engine said.
    pub fn engine_said(&self, message: FromEngine) {
        let notes = self.book().engine_said(message, Instant::now());
        self.note(notes);
    }

    /// Writes down what a change of the book gave.
    pub fn note(&self, notes: Vec<Note>) {
        for note in notes {
            match note {
                Note::Warm(load_ms) => {
                    self.metrics.load_ms.set(load_ms.min(i64::MAX as u64) as i64);
                    info!(load_ms, "Warm model loaded");
                }
                Note::Metered(pixels) => {
                    self.metrics.intervals.inc();
                    self.metrics.billable.inc_by(pixels);
                }
                Note::Ledger(line) => {
                    if let Some(ledger) = self.ledger.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                        ledger.write(*line, &self.metrics);
                    }
                }
                Note::Resumed => self.metrics.resumed.inc(),
                Note::Ended(fault) => {
                    self.metrics.ended.with_label_values(&[if fault { "true" } else { "false" }]).inc();
                }
            }
        }
    }

    /// Starts a session: takes a slot at once, then asks the engine. A caller that goes away changes nothing.
    ///
    /// # Errors
    /// [`HubError`]; the slot is free again, or will be when the engine has ended what it may have begun.
    pub async fn start(self: &Arc<Self>, request: StreamRequest) -> Result<u64, HubError> {
        let arrived_ms = unix_ms();
        let session = self.reserve().map_err(HubError::Refused);
        let result = match session {
            Err(error) => Err(error),
            Ok(session) => {
                let held = Reservation { hub: self.clone(), session };
                let place = self.tasks.spawn(async move { held.place(request, arrived_ms).await });
                place.await.unwrap_or(Err(HubError::Away))
            }
        };
        let outcome = match &result {
            Ok(_) => "accepted",
            Err(
                HubError::Refused(Refusal::Full | Refusal::Load(_) | Refusal::Ending) | HubError::Engine(Outcome::Busy),
            ) => "full",
            Err(HubError::Engine(Outcome::BadParams { .. } | Outcome::BadRequest { .. })) => "refused",
            Err(_) => "failed",
        };
        self.metrics.starts.with_label_values(&[outcome]).inc();
        result
    }

    /// Takes a slot, if the caller may have another.
    fn reserve(&self) -> Result<u64, Refusal> {
        let most = self.config.max_client_streams;
        let (mut book, peer) = (self.book(), super::api::peer().filter(|_| most > 0));
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|&session, _| book.holds(session));
        if peer.is_some_and(|peer| clients.values().filter(|&&client| client == peer).count() >= most) {
            return Err(Refusal::Load(format!("{most} streams of one caller are allowed at a time")));
        }
        let session = book.reserve(Instant::now())?;
        if let Some(peer) = peer {
            clients.insert(session, peer);
        }
        Ok(session)
    }

    /// Sends new parameters to a session (`None`: the only one).
    ///
    /// # Errors
    /// [`HubError`]; the old parameters stay in force.
    pub async fn update(&self, session: Option<u64>, params: Map<String, Value>) -> Result<(), HubError> {
        self.update_with(session, params, None, None).await
    }

    /// As [`Self::update`], with a cap of frames a second, and whether the overlay is shown; both hold for engines to come too.
    /// Either without parameters leaves those in force alone.
    ///
    /// # Errors
    /// [`HubError`]; everything stays as it is.
    pub async fn update_with(
        &self,
        session: Option<u64>,
        params: Map<String, Value>,
        max_fps: Option<f64>,
        show_loading: Option<bool>,
    ) -> Result<(), HubError> {
        let message = |id| ToEngine::Update { id, session, params: params.clone(), max_fps, show_loading };
        let outcome = self.ask(ASK_WAIT, Pending::Outcome, message).await?;
        if outcome != Outcome::Accepted {
            return Err(HubError::Engine(outcome));
        }
        self.book().set(session, max_fps, show_loading);
        Ok(())
    }

    /// Begins to record a session, or ends that; then its file is whole.
    ///
    /// # Errors
    /// [`HubError`].
    pub async fn record(&self, session: u64, order: Option<RecordOrder>) -> Result<(), HubError> {
        let message = |id| ToEngine::Record { id, session, order: order.clone() };
        let outcome = self.ask(ASK_WAIT, Pending::Outcome, message).await?;
        if outcome == Outcome::Accepted { Ok(()) } else { Err(HubError::Engine(outcome)) }
    }

    /// The recordings under way, by name; none while there is no engine.
    pub async fn under_way(&self) -> Map<String, Value> {
        if !self.linked() {
            return Map::new();
        }
        match self.ask(ASK_WAIT, Pending::Value, |id| ToEngine::Recordings { id }).await {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }

    /// How a session's pictures of a coding are encoded from now on. A hint: lost where the engine is busy. An engine that comes is
    /// told of the ceiling.
    pub fn encode(&self, session: u64, coding: Coding, key: bool, max_kbps: Option<u64>) {
        if let Some(kbps) = max_kbps {
            self.book().ceiling(session, coding, kbps);
        }
        let link = self.link.borrow().clone();
        if let Some(link) = link {
            let _ = link.try_send(ToEngine::Encode { session, coding, key, max_kbps });
        }
    }

    /// The further outputs of a session from now on, in every engine to come as well. False where there is no such session,
    /// or the engine has too much to do.
    pub fn tap(&self, session: u64, taps: Vec<Tap>) -> bool {
        if !self.book().tap(session, taps.clone()) {
            return false;
        }
        let link = self.link.borrow().clone();
        // An engine that comes gets them with the session.
        link.is_none_or(|link| {
            let sent = link.try_send(ToEngine::Taps { session, taps });
            !matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
        })
    }

    /// Runs a picture through a model that no stream uses; it holds a slot meanwhile.
    ///
    /// # Errors
    /// [`HubError`], also for what is wrong with the picture.
    pub async fn image(self: &Arc<Self>, order: ImageOrder) -> Result<Imaged, HubError> {
        let session = self.reserve().map_err(HubError::Refused)?;
        let _held = Reservation { hub: self.clone(), session };
        let message = |id| ToEngine::Image { id, order: Box::new(order) };
        match self.ask(IMAGE_WAIT, Pending::Image, message).await? {
            (Outcome::Accepted, Some(image)) => Ok(image),
            (outcome, _) => Err(HubError::Engine(outcome)),
        }
    }

    /// Ends a session (`None`: the only one) and waits for its end.
    ///
    /// # Errors
    /// [`HubError::Engine`] with [`Outcome::NotFound`] when there is none; [`HubError::Slow`] when it does not end in time.
    pub async fn stop(&self, session: Option<u64>, reason: &str) -> Result<(), HubError> {
        let (session, ended) = {
            let mut book = self.book();
            if session.is_none() && book.running() > 1 {
                return Err(HubError::Engine(Outcome::BadRequest { message: SEVERAL.into() }));
            }
            let session = book.find(session).ok_or(HubError::Engine(Outcome::NotFound))?;
            (session, book.wait_end(session).ok_or(HubError::Engine(Outcome::NotFound))?)
        };
        self.send_stop(session, reason);
        // A dropped sender means that the session is gone with its engine.
        tokio::time::timeout(STOP_SLACK, ended).await.map(drop).map_err(|_| HubError::Slow)
    }

    /// The pipeline's description.
    ///
    /// # Errors
    /// [`HubError::Away`] or [`HubError::Slow`].
    pub async fn describe(&self) -> Result<Value, HubError> {
        self.ask(ASK_WAIT, Pending::Value, |id| ToEngine::Describe { id }).await
    }

    /// What a workflow is, without running it; with `svg` its picture too.
    ///
    /// # Errors
    /// [`HubError::Away`] or [`HubError::Slow`].
    pub async fn examine(&self, workflow: Value, svg: bool) -> Result<Value, HubError> {
        self.ask(ASK_WAIT, Pending::Value, |id| ToEngine::Examine { id, workflow, svg }).await
    }

    /// A trace of what happens to frames in the next seconds.
    ///
    /// # Errors
    /// [`HubError::Away`] or [`HubError::Slow`].
    pub async fn trace(&self, seconds: u64) -> Result<String, HubError> {
        let wait = Duration::from_secs(seconds) + ASK_WAIT;
        self.ask(wait, Pending::Text, |id| ToEngine::Trace { id, seconds }).await
    }

    /// What happened to the last frames of a session, from the number `after` on.
    ///
    /// # Errors
    /// [`HubError::Away`] or [`HubError::Slow`].
    pub async fn frames(&self, session: u64, after: u64) -> Result<Value, HubError> {
        self.ask(ASK_WAIT, Pending::Value, |id| ToEngine::Frames { id, session, after }).await
    }

    /// Asks NVML once a second while a stream runs, so that intervals can say what the GPU of index `device` did.
    pub async fn watch_gpu(&self, device: String) {
        loop {
            if self.book().in_use() > 0 {
                let gpus = self.hardware.gpus().await;
                let now = |gpu: &Gpu| GpuNow {
                    name: gpu.name.clone(),
                    memory_bytes: gpu.memory_total.saturating_sub(gpu.memory_free),
                    free_bytes: gpu.memory_free,
                    energy_mj: gpu.energy_mj,
                    busy_percent: gpu.utilization_compute,
                };
                let gpu = gpus.get(&device).map(now);
                self.book().gpu_told(gpu, Instant::now());
            }
            tokio::time::sleep(GPU_LOOK).await;
        }
    }

    /// Writes the last lines of the ledger. What comes later is not written.
    pub fn close_ledger(&self) {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(ledger);
    }

    /// Our numbers and the engine's, in the form that was asked for. The engine has a second to give fresh ones; after
    /// that its last ones in this form are shown.
    pub async fn scrape(&self, form: Exposition) -> String {
        {
            let book = self.book();
            self.metrics.sessions.set(book.in_use() as i64);
            self.metrics.capacity.set(book.capacity() as i64);
            self.metrics.warm.set(i64::from(book.warm()));
        }
        self.metrics.show_gpus(&self.hardware.gpus().await);
        let openmetrics = form == Exposition::OpenMetrics;
        // No engine, no wait.
        let there = self.link.borrow().is_some();
        let fresh = match there {
            true => self.ask(SCRAPE_WAIT, Pending::Text, |id| ToEngine::Scrape { id, openmetrics }).await.ok(),
            false => None,
        };
        let engine = {
            let mut last = self.last_scrape.lock().unwrap_or_else(PoisonError::into_inner);
            let last = &mut last[usize::from(openmetrics)];
            if let Some(fresh) = fresh {
                *last = fresh;
            }
            last.clone()
        };
        let end = if openmetrics { openmetrics::END } else { "" };
        format!("{}{engine}{end}", self.metrics.text(form))
    }

    /// Waits for start requests that are still under way.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn send_stop(&self, session: u64, reason: &str) {
        self.book().close(session, Instant::now() + STOP_SLACK);
        let link = self.link.borrow().clone();
        if let Some(link) = link {
            // Full or gone: the slot is freed by time, and the watch sees to an engine that does not read.
            let _ = link.try_send(ToEngine::Stop { session, reason: reason.to_owned() });
        }
    }

    async fn ask<T>(
        &self,
        wait: Duration,
        pending: impl FnOnce(oneshot::Sender<T>) -> Pending,
        message: impl FnOnce(u64) -> ToEngine,
    ) -> Result<T, HubError> {
        if let Some(message) = self.book().failed() {
            return Err(HubError::Refused(Refusal::Failed(message)));
        }
        self.exchange(Instant::now() + wait, pending, message).await.map_err(|lost| match lost {
            Lost::Away | Lost::Died => HubError::Away,
            Lost::Slow(_) => HubError::Slow,
        })
    }

    async fn exchange<T>(
        &self,
        deadline: Instant,
        pending: impl FnOnce(oneshot::Sender<T>) -> Pending,
        message: impl FnOnce(u64) -> ToEngine,
    ) -> Result<T, Lost> {
        let mut links = self.link.subscribe();
        let there = timeout_at(deadline.into(), links.wait_for(Option::is_some)).await;
        let Ok(Ok(link)) = there.map(|link| link.map(|link| link.clone())) else { return Err(Lost::Away) };
        let Some(link) = link else { return Err(Lost::Away) };
        let (waiter, answer) = oneshot::channel();
        let Some(id) = self.book().expect(pending(waiter)) else { return Err(Lost::Slow(None)) };
        if let Err(error) = link.try_send(message(id)) {
            self.book().unsent(id);
            return Err(match error {
                mpsc::error::TrySendError::Full(_) => Lost::Slow(None),
                mpsc::error::TrySendError::Closed(_) => Lost::Died,
            });
        }
        match timeout_at(deadline.into(), answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Lost::Died),
            Err(_) => {
                self.book().forget(id);
                Err(Lost::Slow(Some(id)))
            }
        }
    }
}

/// A slot taken for a start request; given back when dropped, unless the session came to life.
struct Reservation {
    hub: Arc<Hub>,
    session: u64,
}

impl Reservation {
    async fn place(self, request: StreamRequest, arrived_ms: u64) -> Result<u64, HubError> {
        let (hub, session) = (&self.hub, self.session);
        let deadline = Instant::now() + START_WAIT;
        let request = Box::new(request);
        loop {
            let pending = |waiter| Pending::Start { session, request: request.clone(), arrived_ms, waiter };
            let message = |id| ToEngine::Start { id, session, request: request.clone(), arrived_ms, resume: None };
            match hub.exchange(deadline, pending, message).await {
                Ok(Outcome::Accepted) => {
                    info!(
                        gateway_request_id = %request.gateway_request_id,
                        manifest_id = %request.manifest_id,
                        stream_id = %request.stream_id,
                        session,
                        "Stream started successfully"
                    );
                    return Ok(session);
                }
                Ok(outcome) => return Err(HubError::Engine(outcome)),
                // The engine died with the question; the next one is asked again.
                Err(Lost::Died) if Instant::now() < deadline => tokio::task::yield_now().await,
                Err(Lost::Away | Lost::Died) => return Err(HubError::Away),
                Err(Lost::Slow(None)) => return Err(HubError::Slow),
                Err(Lost::Slow(Some(_))) => {
                    // It may have begun all the same; whatever it began is to end.
                    hub.send_stop(session, "the start was not answered in time");
                    return Err(HubError::Slow);
                }
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.hub.book().release_reserved(self.session, Instant::now());
    }
}
