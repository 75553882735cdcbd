//! WebRTC in and out: an ordinary session between two private channels, one fed by a peer and one that peers are fed from.
//!
//! The channels live on a trickle server of our own that listens on loopback; their names are secrets. So a session does
//! not know which door it came through, and goes on in another engine as any other does.
//!
//! Streams of other doors are watched by a tap: the engine writes their output to a channel of ours as well while somebody
//! watches. So does a stream whose pictures are not coded as a viewer wants them; then they are coded a second time.
//!
//! | queue | size | when full |
//! | --- | --- | --- |
//! | peer → channel | 64 samples | the newest is dropped and counted, and the peer is asked for a key picture |
//! | peers | `max_peers` | a further one is refused |
//! | control messages of a peer | 16 | the newest is dropped and counted |
//! | what a stream says, a peer ([`super::say`]) | 64 items, 2 s each | the oldest is dropped and counted |

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{info, warn};

use super::control::{self, Action};
use super::say;
use crate::link::{Coding, StreamRequest, Tap};
use crate::supervisor::hub::{Hub, HubError};
use crate::trickle::{self, Client, Server, ServerConfig, Start};
use crate::webrtc::{
    Answered, Command, Gate, PeerEvent, Refused, Remote, Role, Sample, SampleKind, VideoCodec, feed, play,
};

/// Samples of a peer that may wait for their channel.
const SAMPLES: usize = 64;
/// How often a stream is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two key pictures that viewers of a stream can order.
const KEY_EVERY: Duration = Duration::from_millis(300);
/// The same where somebody else gets those pictures too, and a segment with each.
const KEY_EVERY_SHARED: Duration = Duration::from_secs(1);
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
    /// Several streams run, and none is named.
    #[error("several streams run; say which one is meant: /whep/{{stream}}")]
    Several,
    /// The stream came through another door, and the viewer from another machine without a token.
    #[error("streams of other doors are watched with a token (serve.auth_token) or from this machine")]
    Stranger,
    /// The engine has too much to do.
    #[error("the engine does not take another watcher")]
    Engine,
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

/// Names an output: the session's number, and how its pictures are coded.
type Which = (u64, Coding);

#[derive(Default)]
struct Table {
    /// Sessions that peers feed, by the names of their streams.
    streams: HashMap<String, u64>,
    /// Outputs that peers watch or may watch.
    outputs: HashMap<Which, Output>,
    peers: HashMap<String, Peer>,
    /// Peers that are being let in.
    coming: usize,
}

/// An output of a session.
struct Output {
    url: String,
    /// What each viewer's way takes, in kbit/s.
    limits: HashMap<String, u64>,
    limit: u64,
    key_told: Option<Instant>,
    key_every: Duration,
    /// Whether viewers press its rate; not where somebody else gets the same pictures.
    pressed: bool,
    /// Set for an output that is there for its viewers alone.
    tap: Option<TapHeld>,
}

/// A tap; its channel is closed when dropped.
struct TapHeld {
    viewers: usize,
    _channel: Channels,
    /// Ends the wait for the end of the session.
    _over: DropGuard,
}

impl Output {
    fn new(url: String, tap: Option<TapHeld>) -> Self {
        Self { url, limits: HashMap::new(), limit: 0, key_told: None, key_every: KEY_EVERY, pressed: true, tap }
    }
}

struct Peer {
    remote: Remote,
    offer: String,
    /// Begun ICE sessions but the first.
    restarts: u32,
}

impl Peer {
    fn new(remote: Remote, offer: &str) -> Self {
        Self { remote, offer: offer.to_owned(), restarts: 0 }
    }
}

/// The entity tag of a peer's ICE session (RFC 9725, section 4.3.1).
pub(in crate::supervisor) fn tag(restarts: u32) -> String {
    format!("\"ice-{restarts}\"")
}

/// What came of a fragment.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::supervisor) enum Patched {
    /// Its candidates were taken.
    Taken,
    /// A new ICE session has begun.
    Restarted {
        /// For the peer.
        fragment: String,
        /// Tag of the new session.
        tag: String,
    },
}

/// Why a fragment is not taken.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::supervisor) enum PatchError {
    /// No such peer.
    NoPeer,
    /// It is meant for another ICE session.
    Tag,
    /// What is wrong with it.
    Refused(Refused),
}

/// How a stream's pictures are coded, in the words of the link.
fn coding(codec: VideoCodec) -> Coding {
    match codec {
        VideoCodec::H264 => Coding::H264,
        VideoCodec::Vp8 => Coding::Vp8,
    }
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
            let client = Client::new(&trickle::Config::default().own()).map_err(|error| failed(&error))?;
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
    /// is what others call the stream; empty for one that is made up. With `figures` its data channel gets those of every
    /// interval.
    ///
    /// # Errors
    /// [`DoorError`]; nothing is left behind.
    pub async fn publish(
        self: &Arc<Self>,
        offer: &str,
        role: Role,
        name: &str,
        (params, figures): (Map<String, Value>, bool),
        caller: SocketAddr,
    ) -> Result<Admitted, DoorError> {
        let _coming = self.come()?;
        let inside = self.inside().await?;
        let stream = if name.is_empty() { secret() } else { name.to_owned() };
        // One that the book knows may still be on its way in.
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
        let names = ["in", "out"].map(channel).to_vec();
        let held = Channels { server: inside.channels.clone(), names };
        // The best that the peer takes itself; for others what everybody takes.
        let coding = answered.takes.first().copied().map_or(Coding::H264, coding);
        let request = StreamRequest {
            subscribe_url: url("in"),
            publish_url: url("out"),
            params,
            gateway_request_id: stream.clone(),
            stream_id: stream.clone(),
            // What every browser can play.
            video_profile: "baseline".into(),
            coding,
            own_channels: true,
            ..StreamRequest::default()
        };
        let session = self.hub.start(request).await?;
        let Answered { sdp, remote, events, task, .. } = answered;
        {
            let mut table = self.table();
            table.streams.insert(stream.clone(), session);
            table.outputs.insert((session, coding), Output::new(url("out"), None));
            table.peers.insert(resource.clone(), Peer::new(remote.clone(), offer));
        }
        let life = Life {
            door: self.clone(),
            client: inside.client.clone(),
            stream: stream.clone(),
            resource: resource.clone(),
            which: (session, coding),
            role,
            figures,
            remote,
            _channels: held,
            input: url("in"),
            out: url("out"),
        };
        self.tasks.spawn(life.run(events, task));
        Ok(Admitted { resource, stream, sdp })
    }

    /// The session of the stream `name`, or of the only one, and how its own output is coded. A `stranger` finds only streams
    /// that came by WebRTC.
    fn find(&self, name: Option<&str>, stranger: bool) -> Result<Which, DoorError> {
        let table = self.table();
        let book = self.hub.book();
        let session = match name {
            Some(name) => table.streams.get(name).copied().or_else(|| book.named(name)),
            None => book.find(None),
        };
        let session = match session {
            Some(session) => session,
            None if name.is_none() && book.running() > 1 => return Err(DoorError::Several),
            None => return Err(DoorError::NoStream),
        };
        if stranger && !table.streams.values().any(|&ours| ours == session) {
            return Err(DoorError::Stranger);
        }
        book.coding(session).map(|coding| (session, coding)).ok_or(DoorError::NoStream)
    }

    /// Lets in a peer that watches the stream `name`, or the only one. A `stranger` came from another machine and has shown
    /// no token. `figures` as in [`Self::publish`].
    ///
    /// # Errors
    /// [`DoorError`].
    pub async fn watch(
        self: &Arc<Self>,
        offer: &str,
        name: Option<&str>,
        (caller, stranger): (SocketAddr, bool),
        figures: bool,
    ) -> Result<Admitted, DoorError> {
        let _coming = self.come()?;
        let (session, own) = self.find(name, stranger)?;
        let inside = self.inside().await?;
        let Answered { sdp, remote, takes, events, task } = self.answer(inside, offer, Role::Play, caller)?;
        let takes: Vec<Coding> = takes.into_iter().map(coding).collect();
        // As the stream is coded already, where the peer takes that.
        let wanted = if takes.is_empty() || takes.contains(&own) { own } else { takes[0] };
        let which = (session, wanted);
        let out = self.join(inside, which, own)?;
        let resource = secret();
        self.table().peers.insert(resource.clone(), Peer::new(remote.clone(), offer));
        let viewer = Viewer {
            door: self.clone(),
            client: inside.client.clone(),
            resource: resource.clone(),
            which,
            figures,
            remote,
            out,
        };
        self.tasks.spawn(viewer.run(events, task));
        let stream = name.map(str::to_owned).or_else(|| self.name(session)).unwrap_or_default();
        Ok(Admitted { resource, stream, sdp })
    }

    /// What the stream of a session is called here.
    fn name(&self, session: u64) -> Option<String> {
        let table = self.table();
        table.streams.iter().find(|(_, ours)| **ours == session).map(|(name, _)| name.clone())
    }

    /// Where a further viewer reads the output `which` of a session that codes its own output as `own`. Every viewer is to
    /// [`Self::part`] again.
    fn join(self: &Arc<Self>, inside: &Inside, which: Which, own: Coding) -> Result<String, DoorError> {
        let (session, coding) = which;
        let mut table = self.table();
        if let Some(output) = table.outputs.get_mut(&which) {
            if let Some(tap) = &mut output.tap {
                tap.viewers += 1;
            }
            return Ok(output.url.clone());
        }
        let name = format!("{}-tap", secret());
        inside.channels.create(&name, "video/mp2t");
        let url = format!("{}/{name}", inside.base);
        let url_given = url.clone();
        let over = CancellationToken::new();
        let channel = Channels { server: inside.channels.clone(), names: vec![name] };
        let held = TapHeld { viewers: 1, _channel: channel, _over: over.clone().drop_guard() };
        let mut output = Output::new(url.clone(), Some(held));
        if coding == own {
            (output.key_every, output.pressed) = (KEY_EVERY_SHARED, false);
        }
        table.outputs.insert(which, output);
        let taps = taps(&table, session);
        // A dropped sender means that the session is gone with its engine.
        let ended = self.hub.book().wait_end(session);
        if !self.hub.tap(session, taps) {
            table.outputs.remove(&which);
            return Err(if ended.is_none() { DoorError::NoStream } else { DoorError::Engine });
        }
        drop(table);
        self.hub.metrics.webrtc.count("tap_opened");
        let door = self.clone();
        self.tasks.spawn(async move {
            let ended = async {
                match ended {
                    Some(ended) => drop(ended.await),
                    None => std::future::ready(()).await,
                }
            };
            tokio::select! {
                () = ended => {
                    // Viewers learn of it by the end of the channel.
                    let mut table = door.table();
                    let same = table.outputs.get(&which).is_some_and(|output| output.url == url);
                    drop(same.then(|| table.outputs.remove(&which)));
                }
                () = over.cancelled() => {}
            }
        });
        Ok(url_given)
    }

    /// A viewer of an output is gone. A tap goes with its last one.
    fn part(&self, which: Which, resource: &str) {
        self.limit(which, resource, None);
        let mut table = self.table();
        let Some(tap) = table.outputs.get_mut(&which).and_then(|output| output.tap.as_mut()) else { return };
        tap.viewers = tap.viewers.saturating_sub(1);
        if tap.viewers == 0 {
            let gone = table.outputs.remove(&which);
            // The engine lets go first, so that it does not take the end of the channel for a fault. Under the lock, so that
            // it gets the lists of taps in their order.
            self.hub.tap(which.0, taps(&table, which.0));
            drop(gone);
        }
    }

    /// Lets in a peer that gets back what it sends, untouched, without a stream.
    ///
    /// # Errors
    /// [`DoorError`].
    pub async fn echo(self: &Arc<Self>, offer: &str, caller: SocketAddr) -> Result<Admitted, DoorError> {
        let _coming = self.come()?;
        let inside = self.inside().await?;
        let Answered { sdp, remote, mut events, task, .. } = self.answer(inside, offer, Role::Echo, caller)?;
        let resource = secret();
        self.table().peers.insert(resource.clone(), Peer::new(remote.clone(), offer));
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

    /// Takes what a peer found out about its own addresses, or begins a new ICE session with it. `tag` is what the caller
    /// takes for the tag of the session, where it says.
    ///
    /// # Errors
    /// [`PatchError`]; the session goes on as it was.
    pub async fn patch(&self, resource: &str, fragment: &str, tags: Option<&str>) -> Result<Patched, PatchError> {
        let (remote, offer, restarts) = {
            let table = self.table();
            let peer = table.peers.get(resource).ok_or(PatchError::NoPeer)?;
            (peer.remote.clone(), peer.offer.clone(), peer.restarts)
        };
        let (now, fits) = (tag(restarts), |tags: &str, tag: &str| tags.split(',').any(|it| it.trim() == tag));
        if tags.is_some_and(|tags| !fits(tags, "*") && !fits(tags, &now)) {
            return Err(PatchError::Tag);
        }
        let candidates = || {
            for line in crate::webrtc::candidates(fragment) {
                remote.tell(Command::Candidate(line));
            }
        };
        if !crate::webrtc::restarts(fragment, &offer) {
            candidates();
            return Ok(Patched::Taken);
        }
        let offer = crate::webrtc::restarted(&offer, fragment).map_err(PatchError::Refused)?;
        let (answer, answered) = oneshot::channel();
        if !remote.tell(Command::Restart { offer: offer.clone(), answer }) {
            return Err(PatchError::NoPeer);
        }
        let fragment = answered.await.map_err(|_| PatchError::NoPeer)?.map_err(PatchError::Refused)?;
        candidates();
        let mut table = self.table();
        let peer = table.peers.get_mut(resource).ok_or(PatchError::NoPeer)?;
        (peer.offer, peer.restarts) = (offer, peer.restarts + 1);
        Ok(Patched::Restarted { fragment, tag: tag(peer.restarts) })
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

    /// A viewer of an output wants a key picture. Where the last one was ordered too short a time ago, gives the time at
    /// which the caller is to ask again: that one may have been the one that got lost.
    fn key(&self, which: Which) -> Option<Instant> {
        let now = Instant::now();
        {
            let mut table = self.table();
            let output = table.outputs.get_mut(&which)?;
            let due = output.key_told.map(|at| at + output.key_every);
            if due.is_some_and(|due| now < due) {
                return due;
            }
            output.key_told = Some(now);
        }
        self.hub.encode(which.0, which.1, true, None);
        None
    }

    /// The way to the viewer `resource` takes `bits` a second; `None`: it is gone. The slowest decides.
    fn limit(&self, which: Which, resource: &str, bits: Option<u64>) {
        let limit = {
            let mut table = self.table();
            let Some(output) = table.outputs.get_mut(&which).filter(|output| output.pressed) else { return };
            match bits {
                Some(bits) => {
                    let kbps = ((bits as f64 * SHARE / 1000.0) as u64).max(LEAST_KBPS);
                    output.limits.insert(resource.to_owned(), kbps)
                }
                None => output.limits.remove(resource),
            };
            let limit = output.limits.values().copied().min().unwrap_or(0);
            // A change of a few per cent is not worth the encoder's while.
            if limit.abs_diff(output.limit) * 20 < output.limit || limit == output.limit {
                return;
            }
            output.limit = limit;
            limit
        };
        self.hub.metrics.webrtc.count("ceiling_changed");
        self.hub.encode(which.0, which.1, false, Some(limit));
    }
}

/// The taps of a session.
fn taps(table: &Table, session: u64) -> Vec<Tap> {
    let of_session = table.outputs.iter().filter(|((of, _), output)| *of == session && output.tap.is_some());
    of_session.map(|(&(_, coding), output)| Tap { url: output.url.clone(), coding }).collect()
}

async fn gone(ending: CancellationToken) {
    ending.cancelled().await;
    // Streams say goodbye on their channels first.
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Waits until `at`; for ever where there is nothing to wait for.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Private channels; closed when dropped.
struct Channels {
    server: Server,
    names: Vec<String>,
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
    which: Which,
    role: Role,
    figures: bool,
    remote: Remote,
    input: String,
    out: String,
    _channels: Channels,
}

impl Life {
    async fn run(self, mut events: mpsc::Receiver<PeerEvent>, peer: AbortOnDropHandle<()>) {
        let (metrics, session) = (self.door.hub.metrics.webrtc.clone(), self.which.0);
        info!(stream = self.stream, session, "A peer is to feed a stream.");
        let (samples, fed) = mpsc::channel::<Sample>(SAMPLES);
        let mut feeding = AbortOnDropHandle::new(tokio::spawn(feed::run(self.client.clone(), self.input.clone(), fed)));
        let _playing = (self.role == Role::Both).then(|| {
            let (client, out, remote) = (self.client.clone(), self.out.clone(), self.remote.clone());
            AbortOnDropHandle::new(tokio::spawn(play::run(client, out, Start::Seq(0), remote, metrics.clone())))
        });
        let ended = self.door.hub.book().wait_end(session);
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
        let (mut codec, mut key_due) = (None, None);
        let controls = Controls::start(self.door.hub.clone(), Some(session), self.remote.clone());
        let mut _saying = None;
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
                    Some(PeerEvent::KeyWanted) => key_due = self.door.key(self.which),
                    Some(PeerEvent::Text(label, text)) => controls.take(label, text),
                    Some(PeerEvent::Opened(label)) if label == say::DATA => {
                        _saying = say::start(&self.door.hub, session, self.figures, self.remote.clone());
                    }
                    Some(PeerEvent::Estimate(bits)) if self.role == Role::Both => {
                        self.door.limit(self.which, &self.resource, Some(bits));
                    }
                    Some(PeerEvent::Ended(reason)) => break reason,
                    None => break "its task ended".into(),
                    Some(_) => {}
                },
                () = until(key_due) => key_due = self.door.key(self.which),
                () = &mut ended => break "the session ended".into(),
                fault = &mut feeding => {
                    let fault = fault.ok().flatten();
                    break fault.unwrap_or_else(|| "the input channel ended".into());
                }
                _ = look.tick() => {
                    // A decoder that began anew waits for a key picture, and cameras send none by themselves.
                    if codec.is_some() && self.door.hub.book().wants_input(session) {
                        self.remote.tell(Command::AskKey);
                    }
                }
            }
        };
        info!(stream = self.stream, session, "The peer that fed a stream is gone: {reason}.");
        // The end of the input lets the session finish what it has.
        drop(samples);
        if !feeding.is_finished() {
            let _ = tokio::time::timeout(Duration::from_secs(1), &mut feeding).await;
        }
        let stopped = self.door.hub.stop(Some(session), "its peer is gone").await;
        if let Err(HubError::Slow) = stopped {
            warn!(session, "The session of a peer did not end in time.");
        }
        self.remote.tell(Command::Close);
        {
            let mut table = self.door.table();
            table.streams.remove(&self.stream);
            table.outputs.retain(|(of, _), _| *of != session);
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
    resource: String,
    which: Which,
    figures: bool,
    remote: Remote,
    out: String,
}

impl Viewer {
    async fn run(self, mut events: mpsc::Receiver<PeerEvent>, peer: AbortOnDropHandle<()>) {
        let metrics = self.door.hub.metrics.webrtc.clone();
        let mut playing: Option<AbortOnDropHandle<String>> = None;
        let (mut key_due, mut _saying) = (None, None);
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
                        key_due = self.door.key(self.which);
                    }
                    Some(PeerEvent::KeyWanted) => key_due = self.door.key(self.which),
                    Some(PeerEvent::Opened(label)) if label == say::DATA => {
                        _saying = say::start(&self.door.hub, self.which.0, self.figures, self.remote.clone());
                    }
                    Some(PeerEvent::Estimate(bits)) => {
                        self.door.limit(self.which, &self.resource, Some(bits));
                    }
                    Some(PeerEvent::Ended(reason)) => break reason,
                    None => break "its task ended".into(),
                    Some(_) => {}
                },
                () = until(key_due) => key_due = self.door.key(self.which),
                reason = over => break reason,
            }
        };
        info!(session = self.which.0, "A viewer is gone: {reason}.");
        self.door.part(self.which, &self.resource);
        self.remote.tell(Command::Close);
        self.door.table().peers.remove(&self.resource);
        let _ = tokio::time::timeout(Duration::from_secs(1), peer).await;
    }
}
