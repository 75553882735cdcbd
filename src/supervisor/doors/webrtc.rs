//! WebRTC in and out: an ordinary session between two private channels, one fed by a peer and one that peers are fed from.
//!
//! The channels live on a trickle server of our own that listens on loopback; their names are secrets. So a session does
//! not know which door it came through, and goes on in another engine as any other does.
//!
//! | queue | size | when full |
//! | --- | --- | --- |
//! | peer → channel | 64 samples | the newest is dropped and counted, and the peer is asked for a key picture |
//! | peers | `max_peers` | a further one is refused |
//! | control messages of a peer | 16 | the newest is dropped and counted |

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{info, warn};

use super::control::{self, Action};
use crate::link::StreamRequest;
use crate::supervisor::hub::{Hub, HubError};
use crate::trickle::{self, Client, Server, ServerConfig, Start};
use crate::webrtc::{Answered, Command, Gate, PeerEvent, Refused, Remote, Role, Sample, SampleKind, feed, play};

/// Samples of a peer that may wait for their channel.
const SAMPLES: usize = 64;
/// How often a stream is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two key pictures that viewers of a stream can order.
const KEY_EVERY: Duration = Duration::from_millis(300);
/// Of the bandwidth that a viewer has, what the video may take: the rest is for sound, repair and swings.
const SHARE: f64 = 0.85;
/// No viewer can press the video below this, in kbit/s.
const LEAST_KBPS: u64 = 200;
/// Label of the data channel for control messages.
const CONTROL: &str = "control";
/// Control messages that may wait.
const MESSAGES: usize = 16;
/// Time for the last reply to leave.
const LAST_WORD: Duration = Duration::from_millis(100);
/// Bytes of one segment of a private channel: over a minute of any sane video.
const MAX_SEGMENT: usize = 64 * 1024 * 1024;

/// Why a peer is not let in.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(in crate::supervisor) enum DoorError {
    /// Its offer.
    #[error("{0}")]
    Offer(#[from] Refused),
    /// What the hub says.
    #[error("{0}")]
    Hub(#[from] HubError),
    /// As many peers as may be are there.
    #[error("{0} peers are connected, which is as many as may be (webrtc.max_peers)")]
    Peers(usize),
    /// A stream of that name runs.
    #[error("a stream of this name is running already")]
    Taken,
    /// No stream, or none of that name.
    #[error("no such stream")]
    NoStream,
    /// The stream came through another door.
    #[error("this stream's output goes to another place; only streams that came by WebRTC can be watched here")]
    Elsewhere,
    /// The port cannot be opened.
    #[error("the port for media cannot be opened: {0} (webrtc.ports, webrtc.addresses)")]
    Port(String),
}

/// A peer that was let in.
#[derive(Clone, Debug)]
pub(in crate::supervisor) struct Admitted {
    /// Names the peer in later calls. A secret.
    pub resource: String,
    /// The stream it feeds or watches; empty for an echo.
    pub stream: String,
    /// The answer.
    pub sdp: String,
}

/// The door.
pub(in crate::supervisor) struct Door {
    hub: Arc<Hub>,
    inside: OnceCell<Inside>,
    table: Mutex<Table>,
    tasks: TaskTracker,
}

/// What is made when the first peer comes.
struct Inside {
    gate: Gate,
    channels: Server,
    base: String,
    client: Client,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Table {
    streams: HashMap<String, Stream>,
    peers: HashMap<String, Peer>,
    /// Peers that are being let in.
    coming: usize,
}

struct Stream {
    session: u64,
    out: String,
    /// What each viewer's way takes, in kbit/s.
    limits: HashMap<String, u64>,
    limit: u64,
    key_told: Option<Instant>,
}

struct Peer {
    remote: Remote,
    offer: String,
}

/// 128 random bits as text.
fn secret() -> String {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; 16];
    // The system's source never fails once it has begun to give.
    while SystemRandom::new().fill(&mut bytes).is_err() {
        std::thread::yield_now();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A place among the peers, held while one is let in.
struct Coming<'a>(&'a Door);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.table().coming -= 1;
    }
}

impl Door {
    /// A door that is shut until the first peer comes.
    pub fn new(hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self { hub, inside: OnceCell::new(), table: Mutex::default(), tasks: TaskTracker::new() })
    }

    /// The hub behind it.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn inside(&self) -> Result<&Inside, DoorError> {
        let open = async {
            let gate = Gate::open(&self.hub.config.webrtc, self.hub.metrics.webrtc.clone()).await;
            let gate = gate.map_err(|error| DoorError::Port(error.to_string()))?;
            let failed = |error: &dyn std::fmt::Display| DoorError::Port(error.to_string());
            let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|e| failed(&e))?;
            let address = listener.local_addr().map_err(|error| failed(&error))?;
            let channels = Server::new(ServerConfig { max_segment: MAX_SEGMENT, ..ServerConfig::default() });
            let (serving, ending) = (channels.clone(), self.hub.ending.clone());
            let serving = tokio::spawn(async move { serving.serve(listener, gone(ending)).await });
            let client = Client::new(&trickle::Config::default()).map_err(|error| failed(&error))?;
            info!(port = gate.port().number(), "WebRTC peers are awaited.");
            Ok(Inside {
                gate,
                channels,
                base: format!("http://{address}"),
                client,
                _serving: AbortOnDropHandle::new(serving),
            })
        };
        self.inside.get_or_try_init(|| open).await
    }

    fn come(&self) -> Result<Coming<'_>, DoorError> {
        let most = self.hub.config.webrtc.max_peers;
        let mut table = self.table();
        if table.peers.len() + table.coming >= most {
            self.hub.metrics.webrtc.count("refused_full");
            return Err(DoorError::Peers(most));
        }
        table.coming += 1;
        Ok(Coming(self))
    }

    /// Answers an offer, counted.
    fn answer(&self, inside: &Inside, offer: &str, role: Role, caller: SocketAddr) -> Result<Answered, DoorError> {
        let answered = inside.gate.answer(offer, role, caller.ip().to_canonical().is_loopback());
        answered.map_err(|refused| {
            self.hub.metrics.webrtc.count("refused_offer");
            DoorError::Offer(refused)
        })
    }

    /// Lets in a peer that sends, as a new stream; with [`Role::Both`] it gets the result on the same connection. `name`
    /// is what others call the stream; empty for one that is made up.
    ///
    /// # Errors
    /// [`DoorError`]; nothing is left behind.
    pub async fn publish(
        self: &Arc<Self>,
        offer: &str,
        role: Role,
        name: &str,
        params: Map<String, Value>,
        caller: SocketAddr,
    ) -> Result<Admitted, DoorError> {
        let _coming = self.come()?;
        let inside = self.inside().await?;
        let stream = if name.is_empty() { secret() } else { name.to_owned() };
        if self.table().streams.contains_key(&stream) || self.hub.book().named(&stream).is_some() {
            return Err(DoorError::Taken);
        }
        let answered = self.answer(inside, offer, role, caller)?;
        let resource = secret();
        let channel = |what: &str| format!("{resource}-{what}");
        let url = |what: &str| format!("{}/{resource}-{what}", inside.base);
        for what in ["in", "out"] {
            inside.channels.create(&channel(what), "video/mp2t");
        }
        let held = Channels { server: inside.channels.clone(), names: ["in", "out"].map(channel) };
        let request = StreamRequest {
            subscribe_url: url("in"),
            publish_url: url("out"),
            params,
            gateway_request_id: stream.clone(),
            stream_id: stream.clone(),
            // What every browser can play.
            video_profile: "baseline".into(),
            ..StreamRequest::default()
        };
        let session = self.hub.start(request).await?;
        let Answered { sdp, remote, events, task } = answered;
        {
            let mut table = self.table();
            let entry = Stream { session, out: url("out"), limits: HashMap::new(), limit: 0, key_told: None };
            table.streams.insert(stream.clone(), entry);
            table.peers.insert(resource.clone(), Peer { remote: remote.clone(), offer: offer.to_owned() });
        }
        let life = Life {
            door: self.clone(),
            client: inside.client.clone(),
            stream: stream.clone(),
            resource: resource.clone(),
            session,
            role,
            remote,
            _channels: held,
            input: url("in"),
            out: url("out"),
        };
        self.tasks.spawn(life.run(events, task));
        Ok(Admitted { resource, stream, sdp })
    }

    /// Lets in a peer that watches the stream `name`, or the only one.
    ///
    /// # Errors
    /// [`DoorError`].
    pub async fn watch(
        self: &Arc<Self>,
        offer: &str,
        name: Option<&str>,
        caller: SocketAddr,
    ) -> Result<Admitted, DoorError> {
        let _coming = self.come()?;
        let (stream, session, out) = {
            let table = self.table();
            let found = match name {
                Some(name) => table.streams.get_key_value(name),
                None => table.streams.iter().next(),
            };
            match found {
                Some((name, stream)) => (name.clone(), stream.session, stream.out.clone()),
                None if self.hub.book().find(None).is_some() => return Err(DoorError::Elsewhere),
                None => return Err(DoorError::NoStream),
            }
        };
        let inside = self.inside().await?;
        let Answered { sdp, remote, events, task } = self.answer(inside, offer, Role::Play, caller)?;
        let resource = secret();
        let entry = Peer { remote: remote.clone(), offer: offer.to_owned() };
        self.table().peers.insert(resource.clone(), entry);
        let viewer = Viewer {
            door: self.clone(),
            client: inside.client.clone(),
            stream: stream.clone(),
            resource: resource.clone(),
            session,
            remote,
            out,
        };
        self.tasks.spawn(viewer.run(events, task));
        Ok(Admitted { resource, stream, sdp })
    }

    /// Lets in a peer that gets back what it sends, untouched, without a stream.
    ///
    /// # Errors
    /// [`DoorError`].
    pub async fn echo(self: &Arc<Self>, offer: &str, caller: SocketAddr) -> Result<Admitted, DoorError> {
        let _coming = self.come()?;
        let inside = self.inside().await?;
        let Answered { sdp, remote, mut events, task } = self.answer(inside, offer, Role::Echo, caller)?;
        let resource = secret();
        let entry = Peer { remote: remote.clone(), offer: offer.to_owned() };
        self.table().peers.insert(resource.clone(), entry);
        let (door, name) = (self.clone(), resource.clone());
        self.tasks.spawn(async move {
            let controls = Controls::start(door.hub.clone(), None, remote.clone());
            while let Some(event) = events.recv().await {
                match event {
                    PeerEvent::Text(label, text) => controls.take(label, text),
                    PeerEvent::Ended(reason) => {
                        info!("An echo is gone: {reason}.");
                        break;
                    }
                    _ => {}
                }
            }
            door.table().peers.remove(&name);
            drop(task);
        });
        Ok(Admitted { resource, stream: String::new(), sdp })
    }

    /// Adds what a peer found out about its own addresses.
    ///
    /// # Errors
    /// `None` for an unknown peer; `Some` when the fragment begins a new ICE session, which is not served.
    pub fn trickle(&self, resource: &str, fragment: &str) -> Result<(), Option<&'static str>> {
        let table = self.table();
        let peer = table.peers.get(resource).ok_or(None)?;
        if crate::webrtc::restarts(fragment, &peer.offer) {
            return Err(Some("ICE restarts are not served; send a new offer"));
        }
        for line in crate::webrtc::candidates(fragment) {
            peer.remote.tell(Command::Candidate(line));
        }
        Ok(())
    }

    /// Sends a peer away. False for an unknown one.
    pub fn leave(&self, resource: &str) -> bool {
        let peer = self.table().peers.remove(resource);
        peer.is_some_and(|peer| peer.remote.tell(Command::Close))
    }

    /// Sends every peer away and waits for the end of their streams.
    pub async fn close(&self) {
        let peers: Vec<Peer> = self.table().peers.drain().map(|(_, peer)| peer).collect();
        for peer in peers {
            peer.remote.tell(Command::Close);
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A viewer of `stream` wants a key picture.
    fn key(&self, stream: &str) {
        let now = Instant::now();
        let session = {
            let mut table = self.table();
            let Some(stream) = table.streams.get_mut(stream) else { return };
            if stream.key_told.is_some_and(|at| now.duration_since(at) < KEY_EVERY) {
                return;
            }
            stream.key_told = Some(now);
            stream.session
        };
        self.hub.encode(session, true, None);
    }

    /// The way to the viewer `resource` takes `bits` a second; `None`: it is gone. The slowest decides.
    fn limit(&self, stream: &str, resource: &str, bits: Option<u64>) {
        let order = {
            let mut table = self.table();
            let Some(stream) = table.streams.get_mut(stream) else { return };
            match bits {
                Some(bits) => {
                    let kbps = ((bits as f64 * SHARE / 1000.0) as u64).max(LEAST_KBPS);
                    stream.limits.insert(resource.to_owned(), kbps)
                }
                None => stream.limits.remove(resource),
            };
            let limit = stream.limits.values().copied().min().unwrap_or(0);
            // A change of a few per cent is not worth the encoder's while.
            let near = limit.abs_diff(stream.limit) * 20 < stream.limit;
            (!near && limit != stream.limit).then(|| {
                stream.limit = limit;
                (stream.session, limit)
            })
        };
        if let Some((session, kbps)) = order {
            self.hub.metrics.webrtc.count("ceiling_changed");
            self.hub.encode(session, false, Some(kbps));
        }
    }
}

async fn gone(ending: CancellationToken) {
    ending.cancelled().await;
    // Streams say goodbye on their channels first.
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Private channels; closed when dropped.
struct Channels {
    server: Server,
    names: [String; 2],
}

impl Drop for Channels {
    fn drop(&mut self) {
        for name in &self.names {
            self.server.close(name);
        }
    }
}

/// Answers control messages, one at a time, beside the media.
struct Controls {
    hub: Arc<Hub>,
    messages: mpsc::Sender<String>,
    _task: AbortOnDropHandle<()>,
}

impl Controls {
    fn start(hub: Arc<Hub>, session: Option<u64>, remote: Remote) -> Self {
        let (messages, mut taken) = mpsc::channel::<String>(MESSAGES);
        let ours = hub.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = taken.recv().await {
                let (reply, action) = control::reply(&ours, session, &message).await;
                if let Some(reply) = reply {
                    remote.tell(Command::Text(CONTROL.into(), reply));
                }
                match action {
                    Action::None => {}
                    Action::Pause(on) => drop(remote.tell(Command::Pause(on))),
                    // The reply leaves first.
                    Action::Stop => {
                        tokio::time::sleep(LAST_WORD).await;
                        remote.tell(Command::Close);
                    }
                }
            }
        });
        Self { hub, messages, _task: AbortOnDropHandle::new(task) }
    }

    fn take(&self, label: String, text: String) {
        if label != CONTROL || self.messages.try_send(text).is_err() {
            self.hub.metrics.webrtc.count("text_dropped");
        }
    }
}

/// A stream that a peer feeds.
struct Life {
    door: Arc<Door>,
    client: Client,
    stream: String,
    resource: String,
    session: u64,
    role: Role,
    remote: Remote,
    input: String,
    out: String,
    _channels: Channels,
}

impl Life {
    async fn run(self, mut events: mpsc::Receiver<PeerEvent>, peer: AbortOnDropHandle<()>) {
        let metrics = self.door.hub.metrics.webrtc.clone();
        info!(stream = self.stream, session = self.session, "A peer is to feed a stream.");
        let (samples, fed) = mpsc::channel::<Sample>(SAMPLES);
        let mut feeding = AbortOnDropHandle::new(tokio::spawn(feed::run(self.client.clone(), self.input.clone(), fed)));
        let _playing = (self.role == Role::Both).then(|| {
            let (client, out, remote) = (self.client.clone(), self.out.clone(), self.remote.clone());
            AbortOnDropHandle::new(tokio::spawn(play::run(client, out, Start::Seq(0), remote, metrics.clone())))
        });
        let ended = self.door.hub.book().wait_end(self.session);
        let ended = async {
            match ended {
                // A dropped sender means that the session is gone with its engine.
                Some(ended) => drop(ended.await),
                None => std::future::ready(()).await,
            }
        };
        tokio::pin!(ended);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut codec = None;
        let controls = Controls::start(self.door.hub.clone(), Some(self.session), self.remote.clone());
        let reason = loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(PeerEvent::Media(sample)) => {
                        if let SampleKind::Video(found) = sample.kind
                            && codec.replace(found) != Some(found)
                        {
                            info!(stream = self.stream, "The peer sends {}.", feed::codec_name(found));
                        }
                        let video = matches!(sample.kind, SampleKind::Video(_));
                        if samples.try_send(sample).is_err() {
                            metrics.count("media_dropped");
                            if video {
                                self.remote.tell(Command::AskKey);
                            }
                        }
                    }
                    Some(PeerEvent::KeyWanted) => self.door.key(&self.stream),
                    Some(PeerEvent::Text(label, text)) => controls.take(label, text),
                    Some(PeerEvent::Estimate(bits)) if self.role == Role::Both => {
                        self.door.limit(&self.stream, &self.resource, Some(bits));
                    }
                    Some(PeerEvent::Ended(reason)) => break reason,
                    None => break "its task ended".into(),
                    Some(_) => {}
                },
                () = &mut ended => break "the session ended".into(),
                fault = &mut feeding => {
                    let fault = fault.ok().flatten();
                    break fault.unwrap_or_else(|| "the input channel ended".into());
                }
                _ = look.tick() => {
                    // A decoder that began anew waits for a key picture, and cameras send none by themselves.
                    if codec.is_some() && self.door.hub.book().wants_input(self.session) {
                        self.remote.tell(Command::AskKey);
                    }
                }
            }
        };
        info!(stream = self.stream, session = self.session, "The peer that fed a stream is gone: {reason}.");
        // The end of the input lets the session finish what it has.
        drop(samples);
        if !feeding.is_finished() {
            let _ = tokio::time::timeout(Duration::from_secs(1), &mut feeding).await;
        }
        let stopped = self.door.hub.stop(Some(self.session), "its peer is gone").await;
        if let Err(HubError::Slow) = stopped {
            warn!(session = self.session, "The session of a peer did not end in time.");
        }
        self.remote.tell(Command::Close);
        {
            let mut table = self.door.table();
            table.streams.remove(&self.stream);
            table.peers.remove(&self.resource);
        }
        // Lets the peer say goodbye; it does so in bounded time.
        let _ = tokio::time::timeout(Duration::from_secs(1), peer).await;
    }
}

/// A peer that watches.
struct Viewer {
    door: Arc<Door>,
    client: Client,
    stream: String,
    resource: String,
    session: u64,
    remote: Remote,
    out: String,
}

impl Viewer {
    async fn run(self, mut events: mpsc::Receiver<PeerEvent>, peer: AbortOnDropHandle<()>) {
        let metrics = self.door.hub.metrics.webrtc.clone();
        let mut playing: Option<AbortOnDropHandle<String>> = None;
        let reason = loop {
            let over = async {
                match &mut playing {
                    Some(playing) => playing.await.unwrap_or_else(|_| "its task failed".into()),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv() => match event {
                    Some(PeerEvent::Connected) if playing.is_none() => {
                        let (client, out, remote) = (self.client.clone(), self.out.clone(), self.remote.clone());
                        // From the next segment on, which begins with the key picture that is asked for.
                        let run = play::run(client, out, Start::Next, remote, metrics.clone());
                        playing = Some(AbortOnDropHandle::new(tokio::spawn(run)));
                        self.door.key(&self.stream);
                    }
                    Some(PeerEvent::KeyWanted) => self.door.key(&self.stream),
                    Some(PeerEvent::Estimate(bits)) => {
                        self.door.limit(&self.stream, &self.resource, Some(bits));
                    }
                    Some(PeerEvent::Ended(reason)) => break reason,
                    None => break "its task ended".into(),
                    Some(_) => {}
                },
                reason = over => break reason,
            }
        };
        info!(stream = self.stream, session = self.session, "A viewer is gone: {reason}.");
        self.door.limit(&self.stream, &self.resource, None);
        self.remote.tell(Command::Close);
        self.door.table().peers.remove(&self.resource);
        let _ = tokio::time::timeout(Duration::from_secs(1), peer).await;
    }
}
