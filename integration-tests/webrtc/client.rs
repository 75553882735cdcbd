//! A peer made of the same library, over real sockets on loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use str0m::bwe::Bitrate;
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::channel::ChannelId;
use str0m::format::Codec;
use str0m::media::{Direction, Frequency, KeyframeRequestKind, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use weir::media::VideoCodec;
use weir::webrtc::{Sample, SampleKind};

use super::way::{Link, Way};

/// What a peer sends.
pub enum Send {
    /// A picture at a time of 90 kHz.
    Video(i64, Vec<u8>),
    /// A packet of Opus at a time of 90 kHz.
    Audio(i64, Vec<u8>),
    /// A text on the data channel.
    Text(String),
    /// Asks for a key picture.
    AskKey(KeyframeRequestKind),
    /// Says that no more than this many bits a second can be received (REMB).
    Remb(u64),
    /// From now on the way here takes no more than this many bits a second; `None`: any number.
    Throttle(Option<u64>),
    /// From now on so many of a thousand datagrams are lost, in each direction, and the others take so long.
    Disturb {
        /// Of a thousand.
        loss: u32,
        /// Of every datagram.
        delay: Duration,
    },
    /// Begins a new ICE session from another port; gives the fragment for the other side.
    Restart(oneshot::Sender<String>),
    /// The other side's fragment.
    Restarted(String),
}

/// What a peer gets.
#[derive(Debug)]
pub enum Got {
    /// Media can flow.
    Connected,
    /// A picture or a packet.
    Media(Sample),
    /// The other side wants a key picture.
    KeyWanted,
    /// A data channel is open.
    Opened(String),
    /// A text came.
    Text(String),
}

/// A peer between its offer and its answer.
pub struct Offering {
    rtc: Rtc,
    way: Option<Way>,
    pending: SdpPendingOffer,
    video: Option<Mid>,
    audio: Option<Mid>,
    codec: Codec,
    /// The offer.
    pub sdp: String,
}

/// A peer at work; gone without a word when dropped.
pub struct Client {
    /// The way to the other side.
    pub send: mpsc::Sender<Send>,
    /// What came from there.
    pub got: mpsc::Receiver<Got>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// The first half of a new ICE session: the fragment for the other side.
    pub async fn restart(&self) -> String {
        let (told, fragment) = oneshot::channel();
        assert!(self.send.send(Send::Restart(told)).await.is_ok());
        fragment.await.unwrap()
    }
}

impl Offering {
    /// Offers one video of `codec` and one audio track, and a data channel where it has a label.
    pub async fn new(direction: Direction, codec: Codec, label: Option<&str>) -> Self {
        Self::by(Some(Way::udp().await), direction, codec, label)
    }

    /// The same by another way, or by one that is named later ([`Offering::start_by`]).
    pub fn by(way: Option<Way>, direction: Direction, codec: Codec, label: Option<&str>) -> Self {
        let builder = Rtc::builder()
            .set_crypto_provider(weir::webrtc::provider().into())
            .clear_codecs()
            .enable_opus(true, false)
            .enable_h264(codec == Codec::H264)
            .enable_vp8(codec == Codec::Vp8)
            .enable_vp9(codec == Codec::Vp9);
        let mut rtc = builder.build(Instant::now());
        if let Some(way) = &way {
            rtc.add_local_candidate(way.candidate());
        }
        let mut changes = rtc.sdp_api();
        let video = changes.add_media(MediaKind::Video, direction, None, None, None);
        let audio = changes.add_media(MediaKind::Audio, direction, None, None, None);
        if let Some(label) = label {
            changes.add_channel(label.to_owned());
        }
        let (offer, pending) = changes.apply().unwrap();
        Self { rtc, way, pending, video: Some(video), audio: Some(audio), codec, sdp: offer.to_sdp_string() }
    }

    /// Goes to work with the answer.
    pub fn start(mut self, text: &str) -> Client {
        let way = self.way.take().expect("a way");
        self.work(way, text)
    }

    /// Goes to work with the answer by a way that the offer did not name. Gives the fragment that tells the other side.
    pub fn start_by(mut self, way: Way, text: &str) -> (Client, String) {
        self.rtc.add_local_candidate(way.candidate());
        let fragment = format!("a={}\r\n", way.candidate().to_sdp_string().trim_start_matches("a="));
        (self.work(way, text), fragment)
    }

    fn work(mut self, way: Way, text: &str) -> Client {
        let answer = SdpAnswer::from_sdp_string(text).unwrap();
        self.rtc.sdp_api().accept_answer(self.pending, answer).unwrap();
        let (send, orders) = mpsc::channel(64);
        let (told, got) = mpsc::channel(1024);
        let driver = Driver {
            local: way.local(),
            rtc: self.rtc,
            way,
            answer: text.to_owned(),
            restarting: None,
            links: <(Link, Link)>::default(),
            video: self.video,
            audio: self.audio,
            codec: self.codec,
            channel: None,
            told,
            over: false,
        };
        Client { send, got, task: tokio::spawn(driver.run(orders)) }
    }
}

struct Driver {
    rtc: Rtc,
    way: Way,
    local: SocketAddr,
    /// The other side's answer, as it is now.
    answer: String,
    restarting: Option<(SdpPendingOffer, UdpSocket)>,
    /// What comes from the other side, and what goes there.
    links: (Link, Link),
    video: Option<Mid>,
    audio: Option<Mid>,
    codec: Codec,
    channel: Option<ChannelId>,
    told: mpsc::Sender<Got>,
    over: bool,
}

impl Driver {
    async fn run(mut self, mut orders: mpsc::Receiver<Send>) {
        let mut bytes = vec![0; 4096];
        self.way.connect(&self.answer).await;
        let protocol = self.way.protocol();
        while !self.over {
            while let Some((source, bytes)) = self.links.0.leave() {
                if let Ok(receive) = Receive::new(protocol, source, self.local, &bytes) {
                    self.rtc.handle_input(Input::Receive(Instant::now(), receive)).unwrap();
                }
            }
            let deadline = self.drain().await;
            while let Some((to, bytes)) = self.links.1.leave() {
                self.way.send(&bytes, to).await;
            }
            let deadline = [self.links.0.due(), self.links.1.due()].into_iter().flatten().fold(deadline, Instant::min);
            tokio::select! {
                received = self.way.receive(&mut bytes) => {
                    match received {
                        Ok((length, source)) => self.links.0.enter(source, &bytes[..length]),
                        // A port that is closed over there shows on loopback; a connection that ends is the end.
                        Err(_) => self.over = protocol == Protocol::Tcp,
                    }
                }
                order = orders.recv() => match order {
                    Some(order) => self.order(order).await,
                    None => return,
                },
                () = tokio::time::sleep_until(deadline.into()) => {
                    self.rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
                }
            }
        }
    }

    async fn order(&mut self, order: Send) {
        let (mid, time, data) = match order {
            Send::Video(pts, data) => (self.video, MediaTime::new(pts as u64, Frequency::NINETY_KHZ), data),
            Send::Audio(pts, data) => {
                (self.audio, MediaTime::new(pts as u64 * 8 / 15, Frequency::FORTY_EIGHT_KHZ), data)
            }
            Send::Text(text) => {
                let mut channel = self.rtc.channel(self.channel.expect("an open channel")).unwrap();
                assert!(channel.write(false, text.as_bytes()).unwrap());
                return;
            }
            Send::AskKey(kind) => {
                let mut writer = self.rtc.writer(self.video.unwrap()).unwrap();
                writer.request_keyframe(None, kind).unwrap();
                return;
            }
            Send::Remb(bits) => {
                let mut direct = self.rtc.direct_api();
                direct.stream_rx_by_mid(self.video.unwrap(), None).unwrap().request_remb(Bitrate::bps(bits));
                return;
            }
            Send::Throttle(bits) => {
                self.links.0.bits = bits;
                return;
            }
            Send::Disturb { loss, delay } => {
                for link in [&mut self.links.0, &mut self.links.1] {
                    (link.loss, link.delay) = (loss, delay);
                }
                return;
            }
            Send::Restart(told) => {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let mut changes = self.rtc.sdp_api();
                changes.ice_restart(false);
                let (offer, pending) = changes.apply().unwrap();
                let text = offer.to_sdp_string();
                let mut fragment: String = text
                    .lines()
                    .filter(|line| line.starts_with("a=ice-"))
                    .take(2)
                    .map(|line| format!("{line}\r\n"))
                    .collect();
                let candidate = Candidate::host(socket.local_addr().unwrap(), "udp").unwrap().to_sdp_string();
                fragment.push_str(&format!("a={}\r\n", candidate.trim_start_matches("a=")));
                self.restarting = Some((pending, socket));
                told.send(fragment).unwrap();
                return;
            }
            Send::Restarted(fragment) => {
                let (pending, socket) = self.restarting.take().expect("a restart that was begun");
                self.answer = weir::webrtc::restarted(&self.answer, &fragment).unwrap();
                let answer = SdpAnswer::from_sdp_string(&self.answer).unwrap();
                self.rtc.sdp_api().accept_answer(pending, answer).unwrap();
                // Nothing reaches the old port any more.
                (self.local, self.way) = (socket.local_addr().unwrap(), Way::Udp(socket));
                self.rtc.add_local_candidate(Candidate::host(self.local, "udp").unwrap());
                for line in weir::webrtc::candidates(&fragment) {
                    self.rtc.add_remote_candidate(Candidate::from_sdp_string(&line).unwrap());
                }
                return;
            }
        };
        let video = mid == self.video;
        // A peer that was let go has nowhere to send to.
        let Some(writer) = self.rtc.writer(mid.unwrap()) else { return };
        let wanted = if video { self.codec } else { Codec::Opus };
        let fits = |params: &&str0m::format::PayloadParams| {
            params.spec().codec == wanted && params.spec().format.packetization_mode != Some(0)
        };
        let pt = writer.payload_params().find(fits).expect("a codec").pt();
        writer.write(pt, Instant::now(), time, data).unwrap();
    }

    async fn drain(&mut self) -> Instant {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => return at.min(Instant::now() + Duration::from_millis(100)),
                Output::Transmit(it) => self.links.1.enter(it.destination, &it.contents),
                Output::Event(event) => self.event(event),
            }
        }
    }

    fn event(&mut self, event: Event) {
        let got = match event {
            Event::Connected => Got::Connected,
            Event::MediaData(data) => {
                let kind = match data.params.spec().codec {
                    Codec::H264 => SampleKind::Video(VideoCodec::H264),
                    Codec::Vp8 => SampleKind::Video(VideoCodec::Vp8),
                    _ => SampleKind::Audio,
                };
                Got::Media(Sample {
                    kind,
                    time: data.time.rebase(Frequency::NINETY_KHZ).numer() as i64,
                    arrived: Instant::now(),
                    whole: data.contiguous,
                    key: data.is_keyframe(),
                    data: data.data,
                })
            }
            Event::KeyframeRequest(_) => Got::KeyWanted,
            Event::ChannelOpen(id, label) => {
                self.channel = Some(id);
                Got::Opened(label)
            }
            Event::ChannelData(data) => Got::Text(String::from_utf8(data.data).unwrap()),
            Event::Closed | Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                self.over = true;
                return;
            }
            _ => return,
        };
        drop(self.told.try_send(got));
    }
}
