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

mod life;
mod outputs;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{OnceCell, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::info;

use self::life::{Controls, Life, Viewer};
use self::outputs::{Output, Table};
use crate::link::{Coding, StreamRequest};
use crate::supervisor::hub::{Hub, HubError};
use crate::trickle::{self, Client, Server, ServerConfig};
use crate::webrtc::{Answered, Command, Gate, PeerEvent, Refused, Remote, Role, VideoCodec};

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
    /// No port of the range, the first and the last one, is free.
    #[error("every port for media is taken: {} (webrtc.ports); widen webrtc.ports, or free one of them", range(.0))]
    PortsTaken((u16, u16)),
    /// The port cannot be opened.
    #[error("the port for media cannot be opened: {0} (webrtc.ports, webrtc.addresses)")]
    Port(String),
}

fn range(&(first, last): &(u16, u16)) -> String {
    match (first, last) {
        (0, _) => "any of this machine".into(),
        (first, last) if last <= first => first.to_string(),
        (first, last) => format!("{first} to {last}"),
    }
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
            let gate = gate.map_err(|error| match error.kind() {
                std::io::ErrorKind::AddrInUse => DoorError::PortsTaken(self.hub.config.webrtc.ports),
                _ => DoorError::Port(error.to_string()),
            })?;
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
}

async fn gone(ending: CancellationToken) {
    ending.cancelled().await;
    // Streams say goodbye on their channels first.
    tokio::time::sleep(Duration::from_secs(2)).await;
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
