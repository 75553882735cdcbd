//! One peer: the library's state machine between the port and the door.
//!
//! | queue | size | when full |
//! | --- | --- | --- |
//! | peer → door ([`PeerEvent`]) | 256 | media is dropped and counted; anything else waits for the next chance, newest first |
//! | door → peer ([`Command`]) | 256 | media is dropped and counted; anything else is refused to its sender |
//! | door → data channel `data` | 8 texts, 32 KiB in the library | the sender waits, and nobody else |

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use str0m::bwe::{Bitrate, BweKind};
use str0m::change::SdpOffer;
use str0m::channel::ChannelId;
use str0m::format::Codec;
use str0m::media::{Frequency, KeyframeRequestKind, MediaData, MediaKind, MediaTime, Mid, Pt};
use str0m::net::Receive;
use str0m::{Candidate, Event, Input, Output, Rtc};
use tokio::sync::{mpsc, oneshot};

use super::crypto;
use super::metrics::Metrics;
use super::port::{Datagram, Inbox, Port};
use super::sdp::{self, Refused, Role};
use crate::media::VideoCodec;

/// Events that may wait for the door, and commands that may wait for the peer.
pub(super) const QUEUE: usize = 256;
/// Texts for the data channel [`DATA`] that may wait.
pub(super) const SAID: usize = 8;
/// Longest of them in bytes: the library takes 128 KiB for all channels together, and JSON may escape every character of
/// a text.
pub const MAX_SAID: usize = 96 * 1024;
/// Bytes on that channel that may be under way before the next text is taken: the rest is for control messages.
const SAID_WAITS: usize = 16 * 1024;
/// Label of the data channel for what a stream says.
const DATA: &str = "data";
/// Longest text on a data channel in bytes.
pub const MAX_TEXT: usize = 1024 * 1024;
/// Time between two requests for a key picture.
const KEY_EVERY: Duration = Duration::from_millis(500);
/// Time between two words about the bandwidth.
const ESTIMATE_EVERY: Duration = Duration::from_millis(500);
/// Time that the farewell may take.
const FAREWELL: Duration = Duration::from_millis(300);
/// Where the estimate of the bandwidth begins, and what it never needs to exceed, in bits a second.
const FIRST_ESTIMATE: u64 = 4_000_000;
const MOST_WANTED: u64 = 8_000_000;
/// A time stamp that is this far from its place on the clock begins a new time line.
const JUMP: Duration = Duration::from_secs(2);
/// Data channels of a peer at a time.
const CHANNELS: usize = 8;

/// What a [`Sample`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// One access unit of H.264 with start codes, or one frame of VP8.
    Video(VideoCodec),
    /// One packet of Opus.
    Audio,
}

/// A piece of media from a peer.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What it is.
    pub kind: SampleKind,
    /// Time on the track's own time line, in ticks of 90 kHz.
    pub time: i64,
    /// When its first packet came.
    pub arrived: Instant,
    /// The bytes.
    pub data: Arc<[u8]>,
    /// Whether nothing is missing since the one before.
    pub whole: bool,
    /// Whether decoding can begin here.
    pub key: bool,
}

/// What a peer tells the door.
#[derive(Debug)]
pub enum PeerEvent {
    /// Media can flow.
    Connected,
    /// A piece of media.
    Media(Sample),
    /// It wants a key picture.
    KeyWanted,
    /// Its way takes this many bits a second.
    Estimate(u64),
    /// It opened a data channel.
    Opened(String),
    /// A text came on the channel of this label.
    Text(String, String),
    /// It is gone, and why. The last event.
    Ended(String),
}

/// What the door tells a peer.
#[derive(Debug)]
pub enum Command {
    /// Send this; time in ticks of 90 kHz.
    Media {
        /// What it is.
        kind: SampleKind,
        /// Presentation time.
        pts: i64,
        /// The bytes, as in a [`Sample`].
        data: Bytes,
    },
    /// Begin a new ICE session with what a fragment of SDP says of the peer; `offer` is its offer with that in it.
    Restart {
        /// The offer.
        offer: String,
        /// Gets the fragment for the peer.
        answer: oneshot::Sender<Result<String, Refused>>,
    },
    /// The peer can also be reached here: a line of SDP behind `a=`.
    Candidate(String),
    /// Keep what would be sent from it, or let it through again.
    Pause(bool),
    /// Ask it for a key picture.
    AskKey,
    /// Send a text on the channel of this label, if it is open.
    Text(String, String),
    /// Say goodbye.
    Close,
}

/// The library's state with all that drives it.
pub(super) struct Peer {
    pub rtc: Rtc,
    pub port: Port,
    pub inbox: Inbox,
    pub role: Role,
    pub commands: mpsc::Receiver<Command>,
    pub said: mpsc::Receiver<String>,
    pub events: mpsc::Sender<PeerEvent>,
    pub metrics: Metrics,
    pub connect: Duration,
    pub vanish: Duration,
}

/// A peer that is counted while it is there, however it ends.
struct There(prometheus::IntGauge);

impl There {
    fn new(metrics: &Metrics) -> Self {
        metrics.peers.inc();
        Self(metrics.peers.clone())
    }
}

impl Drop for There {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What changes while a peer is there.
#[derive(Default)]
struct State {
    connected: bool,
    /// When it was last heard.
    heard: Option<Instant>,
    video: Option<Mid>,
    audio: Option<Mid>,
    channels: HashMap<ChannelId, String>,
    key_asked: Option<Instant>,
    /// A key picture is missing and was not asked for yet.
    key_missing: bool,
    /// Bits a second that the way takes: by our own congestion control, and by what the peer says (REMB).
    estimates: (Option<u64>, Option<u64>),
    estimate_told: Option<Instant>,
    anchor: Option<(i64, Instant)>,
    paused: bool,
    ended: Option<String>,
}

impl State {
    /// The open data channel of a label.
    fn channel(&self, label: &str) -> Option<ChannelId> {
        self.channels.iter().find(|(_, known)| *known == label).map(|(&id, _)| id)
    }
}

impl Peer {
    /// Runs until the peer is gone, and says so.
    pub async fn run(mut self) {
        let (began, mut state) = (Instant::now(), State::default());
        let _there = There::new(&self.metrics);
        self.rtc.bwe().set_desired_bitrate(Bitrate::bps(MOST_WANTED));
        let reason = loop {
            let deadline = self.drain(&mut state);
            let now = Instant::now();
            if let Some(reason) = state.ended.take() {
                break reason;
            }
            if !state.connected && now.duration_since(began) >= self.connect {
                break format!("it did not connect within {} s", self.connect.as_secs());
            }
            if state.connected && state.heard.is_some_and(|at| now.duration_since(at) >= self.vanish) {
                break "it vanished".into();
            }
            if state.key_missing {
                self.ask_key(&mut state, now);
            }
            let takes = self.takes_text(&state);
            // Nothing here waits longer than a second, so that limits are noticed.
            let wake = deadline.min(now + Duration::from_secs(1));
            tokio::select! {
                datagram = self.inbox.datagrams.recv() => match datagram {
                    Some(datagram) => self.receive(&datagram, &mut state),
                    None => break "the port is closed".into(),
                },
                command = self.commands.recv() => match command {
                    Some(Command::Close) => break "it was closed".into(),
                    None => break "its owner is gone".into(),
                    Some(command) => self.command(command, &mut state),
                },
                Some(text) = self.said.recv(), if takes => self.say(&text, &state),
                () = tokio::time::sleep_until(wake.into()) => self.input(Input::Timeout(Instant::now()), &mut state),
            }
        };
        self.farewell(&mut state).await;
        let _ = tokio::time::timeout(FAREWELL, self.events.send(PeerEvent::Ended(reason))).await;
    }

    /// Lets the library say its last words.
    async fn farewell(&mut self, state: &mut State) {
        if self.rtc.close().is_err() {
            return;
        }
        let until = Instant::now() + FAREWELL;
        while self.rtc.is_alive() && Instant::now() < until {
            let deadline = self.drain(state);
            if state.ended.is_some() {
                return;
            }
            tokio::time::sleep_until(deadline.min(until).into()).await;
            self.input(Input::Timeout(Instant::now()), state);
        }
    }

    fn input(&mut self, input: Input<'_>, state: &mut State) {
        if let Err(error) = self.rtc.handle_input(input) {
            state.ended.get_or_insert(crypto::told(&error));
        }
    }

    fn receive(&mut self, datagram: &Datagram, state: &mut State) {
        let contents = Receive::new(datagram.proto, datagram.source, datagram.local, &datagram.bytes);
        match contents {
            Ok(receive) => {
                let now = Instant::now();
                state.heard = Some(now);
                self.input(Input::Receive(now, receive), state);
            }
            Err(_) => self.metrics.count("malformed"),
        }
    }

    /// Takes everything that the library has to say. Gives the time at which it wants to be woken.
    fn drain(&mut self, state: &mut State) -> Instant {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => return at,
                Ok(Output::Transmit(it)) => self.port.send(it.proto, it.source, it.destination, &it.contents),
                Ok(Output::Event(event)) => self.event(event, state),
                Err(error) => {
                    state.ended.get_or_insert(crypto::told(&error));
                    return Instant::now();
                }
            }
        }
    }

    fn event(&mut self, event: Event, state: &mut State) {
        match event {
            Event::Connected => {
                state.connected = true;
                self.tell(PeerEvent::Connected);
            }
            Event::Closed => {
                state.ended.get_or_insert("it closed the connection".into());
            }
            Event::MediaAdded(added) => match added.kind {
                MediaKind::Video => state.video = Some(added.mid),
                MediaKind::Audio => state.audio = Some(added.mid),
            },
            Event::MediaData(data) => self.media(data, state),
            Event::KeyframeRequest(_) if self.role == Role::Echo => state.key_missing = true,
            Event::KeyframeRequest(_) => {
                self.metrics.count("key_wanted");
                self.tell(PeerEvent::KeyWanted);
            }
            Event::EgressBitrateEstimate(kind) => {
                match kind {
                    BweKind::Twcc { estimate, .. } => state.estimates.0 = Some(estimate.as_u64()),
                    BweKind::Remb { estimate, .. } => state.estimates.1 = Some(estimate.as_u64()),
                    _ => return,
                }
                // What the peer says of itself and what its reports come to may both be there: the lower counts.
                let (ours, theirs) = state.estimates;
                let Some(estimate) = ours.into_iter().chain(theirs).min() else { return };
                let now = Instant::now();
                if state.estimate_told.is_none_or(|at| now.duration_since(at) >= ESTIMATE_EVERY) {
                    state.estimate_told = Some(now);
                    self.tell(PeerEvent::Estimate(estimate));
                }
            }
            Event::ChannelOpen(id, label) if state.channels.len() < CHANNELS => {
                state.channels.insert(id, label.clone());
                self.tell(PeerEvent::Opened(label));
            }
            Event::ChannelClose(id) => drop(state.channels.remove(&id)),
            Event::ChannelData(data) => {
                let label = state.channels.get(&data.id).cloned();
                let text = String::from_utf8(data.data).ok().filter(|text| text.len() <= MAX_TEXT);
                match label.zip(text) {
                    Some((label, text)) => self.tell(PeerEvent::Text(label, text)),
                    None => self.metrics.count("text_dropped"),
                }
            }
            _ => {}
        }
    }

    fn tell(&self, event: PeerEvent) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            self.metrics.count("events_dropped");
        }
    }

    fn media(&mut self, data: MediaData, state: &mut State) {
        let video = match data.params.spec().codec {
            Codec::H264 => Some(VideoCodec::H264),
            Codec::Vp8 => Some(VideoCodec::Vp8),
            _ => None,
        };
        if video.is_some() && !data.contiguous {
            // Pictures go on with what is there; the next key picture mends them.
            state.key_missing = true;
            self.metrics.count("video_lost");
        }
        if self.role == Role::Echo {
            let (mid, params, time, at) = (data.mid, data.params, data.time, data.network_time);
            if let Some(writer) = self.rtc.writer(mid)
                && let Some(pt) = writer.match_params(params)
                && writer.write(pt, at, time, data.data).is_ok()
            {
                self.metrics.count("echoed");
            }
            return;
        }
        let kind = match (video, data.params.spec().codec) {
            (Some(codec), _) => SampleKind::Video(codec),
            (None, Codec::Opus) => SampleKind::Audio,
            _ => return self.metrics.count("media_dropped"),
        };
        let sample = Sample {
            kind,
            time: data.time.rebase(Frequency::NINETY_KHZ).numer() as i64,
            arrived: data.network_time,
            key: data.is_keyframe(),
            data: data.data,
            whole: data.contiguous,
        };
        let what = if video.is_some() { "video_in" } else { "audio_in" };
        match self.events.try_send(PeerEvent::Media(sample)) {
            Ok(()) => self.metrics.count(what),
            Err(_) => {
                state.key_missing |= video.is_some();
                self.metrics.count("media_dropped");
            }
        }
    }

    /// Whether the data channel is open and has sent most of what it has.
    fn takes_text(&mut self, state: &State) -> bool {
        let channel = state.channel(DATA).and_then(|id| self.rtc.channel(id));
        channel.is_some_and(|mut channel| channel.buffered_amount() <= SAID_WAITS)
    }

    fn say(&mut self, text: &str, state: &State) {
        let fits = text.len() <= MAX_SAID;
        let channel = state.channel(DATA).filter(|_| fits).and_then(|id| self.rtc.channel(id));
        let sent = channel.map(|mut channel| channel.write(false, text.as_bytes()));
        self.metrics.count(if matches!(sent, Some(Ok(true))) { "data_out" } else { "data_dropped" });
    }

    fn command(&mut self, command: Command, state: &mut State) {
        match command {
            Command::Media { .. } if state.paused => self.metrics.count("media_paused"),
            Command::Media { kind, pts, data } => self.send(kind, pts, &data, state),
            Command::Restart { offer, answer } => {
                let result = self.restart(&offer);
                self.metrics.count(if result.is_ok() { "ice_restarts" } else { "refused_offer" });
                // Whoever asked may have left; the peer then tries again.
                let _ = answer.send(result);
            }
            Command::Pause(on) => {
                if state.paused && !on {
                    self.tell(PeerEvent::KeyWanted);
                }
                state.paused = on;
            }
            Command::Candidate(line) => match Candidate::from_sdp_string(&line) {
                Ok(candidate) => self.rtc.add_remote_candidate(candidate),
                // A name of the local network, most likely: its address shows when the peer sends something.
                Err(_) => self.metrics.count("candidates_skipped"),
            },
            Command::AskKey => state.key_missing = true,
            Command::Text(label, text) => {
                let id = state.channel(&label);
                let sent =
                    id.and_then(|id| self.rtc.channel(id)).map(|mut channel| channel.write(false, text.as_bytes()));
                if !matches!(sent, Some(Ok(true))) {
                    self.metrics.count("text_dropped");
                }
            }
            Command::Close => {}
        }
    }

    /// Takes the offer again, with other ICE credentials: the library begins a new ICE session, and media goes its old way
    /// until the new one is found.
    fn restart(&mut self, offer: &str) -> Result<String, Refused> {
        let unreadable = |error: &dyn std::fmt::Display| Refused::Unreadable(error.to_string());
        let parsed = SdpOffer::from_sdp_string(offer).map_err(|error| unreadable(&error))?;
        let answer = self.rtc.sdp_api().accept_offer(parsed).map_err(|error| unreadable(&error))?;
        self.inbox.rename(&self.rtc.direct_api().local_ice_credentials().ufrag);
        Ok(sdp::fragment(&answer.to_sdp_string()))
    }

    fn ask_key(&mut self, state: &mut State, now: Instant) {
        if state.key_asked.is_some_and(|at| now.duration_since(at) < KEY_EVERY) {
            return;
        }
        let Some(mut writer) = state.video.and_then(|mid| self.rtc.writer(mid)) else {
            state.key_missing = false;
            return;
        };
        let kind = match writer.is_request_keyframe_possible(KeyframeRequestKind::Pli) {
            true => KeyframeRequestKind::Pli,
            false => KeyframeRequestKind::Fir,
        };
        if writer.request_keyframe(None, kind).is_ok() {
            self.metrics.count("key_asked");
        }
        (state.key_asked, state.key_missing) = (Some(now), false);
    }

    fn send(&mut self, kind: SampleKind, pts: i64, data: &[u8], state: &mut State) {
        let audio = kind == SampleKind::Audio;
        let now = Instant::now();
        // Both kinds share one clock, so that the player can put sound and pictures together.
        let place = |(from, at): (i64, Instant)| {
            let ahead = Duration::from_micros(((pts - from).max(0) as u64).saturating_mul(100) / 9);
            at + ahead
        };
        let off = |at: Instant| at.saturating_duration_since(now).max(now.saturating_duration_since(at));
        let anchor = state.anchor.filter(|&anchor| off(place(anchor)) < JUMP).unwrap_or((pts, now));
        state.anchor = Some(anchor);
        let mid = if audio { state.audio } else { state.video };
        let Some(writer) = mid.and_then(|mid| self.rtc.writer(mid)) else { return };
        let Some(pt) = outgoing(writer.payload_params(), kind) else {
            return self.metrics.count("media_dropped");
        };
        let time = match audio {
            true => MediaTime::new((pts.max(0) as u64) * 8 / 15, Frequency::FORTY_EIGHT_KHZ),
            false => MediaTime::new(pts.max(0) as u64, Frequency::NINETY_KHZ),
        };
        match writer.write(pt, place(anchor), time, data) {
            Ok(()) => self.metrics.count(if audio { "audio_out" } else { "video_out" }),
            Err(error) => {
                tracing::debug!(%error, "Media was not sent.");
                self.metrics.count("media_dropped");
            }
        }
    }
}

/// The payload type to send with: of H.264 the kind that fits our encoder best.
fn outgoing<'a>(params: impl Iterator<Item = &'a str0m::format::PayloadParams>, kind: SampleKind) -> Option<Pt> {
    let rank = |params: &&str0m::format::PayloadParams| {
        let spec = params.spec();
        match (kind, spec.codec) {
            (SampleKind::Audio, Codec::Opus) | (SampleKind::Video(VideoCodec::Vp8), Codec::Vp8) => Some(0),
            (SampleKind::Video(VideoCodec::H264), Codec::H264) => {
                let modern = spec.format.packetization_mode == Some(1);
                let baseline = spec.format.profile_level_id.is_some_and(|id| id >> 16 == 0x42);
                // Pictures do not fit one packet, so the mode counts more than the profile.
                Some(usize::from(!modern) * 2 + usize::from(!baseline))
            }
            _ => None,
        }
    };
    params.filter(|it| rank(it).is_some()).min_by_key(rank).map(|params| params.pt())
}

/// The library's settings for every peer.
pub(super) fn settings() -> str0m::RtcConfig {
    use str0m::rtp::{Extension, ExtensionMap};
    // Without the orientation of the picture, phones turn it themselves before they send it.
    let mut extensions = ExtensionMap::empty();
    for (id, extension) in [
        (2, Extension::AbsoluteSendTime),
        (3, Extension::TransportSequenceNumber),
        (4, Extension::RtpMid),
        (10, Extension::RtpStreamId),
        (11, Extension::RepairedRtpStreamId),
    ] {
        extensions.set(id, extension);
    }
    Rtc::builder()
        .clear_codecs()
        .enable_opus(true, false)
        .enable_h264(true)
        .enable_vp8(true)
        .set_extension_map(extensions)
        .enable_bwe(Some(Bitrate::bps(FIRST_ESTIMATE)))
}
