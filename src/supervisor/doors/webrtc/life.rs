//! What a peer does while it is there: one that feeds a stream, and one that watches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::outputs::Which;
use super::{Channels, Door};
use crate::supervisor::doors::control::{self, Action};
use crate::supervisor::doors::say;
use crate::supervisor::hub::{Hub, HubError};
use crate::trickle::{Client, Start};
use crate::webrtc::{Command, PeerEvent, Remote, Role, Sample, SampleKind, feed, play};

/// Samples of a peer that may wait for their channel.
const SAMPLES: usize = 64;
/// How often a stream is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Label of the data channel for control messages.
const CONTROL: &str = "control";
/// Control messages that may wait.
const MESSAGES: usize = 16;
/// Time for the last reply to leave.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Waits until `at`; for ever where there is nothing to wait for.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Answers control messages, one at a time, beside the media.
pub(super) struct Controls {
    hub: Arc<Hub>,
    messages: mpsc::Sender<String>,
    _task: AbortOnDropHandle<()>,
}

impl Controls {
    pub(super) fn start(hub: Arc<Hub>, session: Option<u64>, remote: Remote) -> Self {
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

    pub(super) fn take(&self, label: String, text: String) {
        if label != CONTROL || self.messages.try_send(text).is_err() {
            self.hub.metrics.webrtc.count("text_dropped");
        }
    }
}

/// A stream that a peer feeds.
pub(super) struct Life {
    pub(super) door: Arc<Door>,
    pub(super) client: Client,
    pub(super) stream: String,
    pub(super) resource: String,
    pub(super) which: Which,
    pub(super) role: Role,
    pub(super) figures: bool,
    pub(super) remote: Remote,
    pub(super) input: String,
    pub(super) out: String,
    pub(super) _channels: Channels,
}

impl Life {
    pub(super) async fn run(self, mut events: mpsc::Receiver<PeerEvent>, peer: AbortOnDropHandle<()>) {
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
pub(super) struct Viewer {
    pub(super) door: Arc<Door>,
    pub(super) client: Client,
    pub(super) resource: String,
    pub(super) which: Which,
    pub(super) figures: bool,
    pub(super) remote: Remote,
    pub(super) out: String,
}

impl Viewer {
    pub(super) async fn run(self, mut events: mpsc::Receiver<PeerEvent>, peer: AbortOnDropHandle<()>) {
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
