//! Where peers come in: the port, the certificate, and an answer for each offer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::change::SdpOffer;
use str0m::crypto::CryptoProvider;
use str0m::crypto::dtls::DtlsCert;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::peer::{self, Command, Peer, PeerEvent};
use super::port::Port;
use super::sdp::{self, Refused, Role};
use super::{Config, Metrics, crypto};
use crate::media::VideoCodec;

/// Where peers come in. Cloning shares it.
#[derive(Clone)]
pub struct Gate {
    port: Port,
    certificate: DtlsCert,
    crypto: Arc<CryptoProvider>,
    connect: Duration,
    vanish: Duration,
    metrics: Metrics,
}

/// A peer that has its answer. Dropped, it is cut off without a word.
pub struct Answered {
    /// For the peer.
    pub sdp: String,
    /// The way to it.
    pub remote: Remote,
    /// The codecs in which it takes pictures, best first.
    pub takes: Vec<VideoCodec>,
    /// What it tells.
    pub events: mpsc::Receiver<PeerEvent>,
    /// Its life.
    pub task: AbortOnDropHandle<()>,
}

/// The way to a peer. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Remote {
    commands: mpsc::Sender<Command>,
    data: mpsc::Sender<String>,
}

impl Remote {
    /// Tells the peer. False when it is gone or has too much to do.
    pub fn tell(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// Sends a text of at most [`super::MAX_SAID`] bytes on the data channel `data`. Waits until the peer has one and takes
    /// more; media never waits for it. False when the peer is gone.
    pub async fn say(&self, text: String) -> bool {
        self.data.send(text).await.is_ok()
    }
}

impl Gate {
    /// Opens the port and makes a certificate.
    ///
    /// # Errors
    /// As [`Port::open`].
    pub async fn open(config: &Config, metrics: Metrics) -> std::io::Result<Self> {
        let crypto = crypto::provider();
        let certificate = crypto.dtls_provider.generate_certificate();
        let certificate = certificate.ok_or_else(|| std::io::Error::other("no certificate can be made"))?;
        Ok(Self {
            port: Port::open(config).await?,
            certificate,
            crypto: Arc::new(crypto),
            connect: Duration::from_millis(config.connect_ms),
            vanish: Duration::from_millis(config.vanish_ms),
            metrics,
        })
    }

    /// The port.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Answers an offer; the peer lives from now on. `same_machine`: it may use loopback addresses.
    ///
    /// # Errors
    /// [`Refused`]: what is wrong with the offer.
    pub fn answer(&self, offer: &str, role: Role, same_machine: bool) -> Result<Answered, Refused> {
        let unreadable = |error: &dyn std::fmt::Display| Refused::Unreadable(error.to_string());
        let parsed = SdpOffer::from_sdp_string(offer).map_err(|error| unreadable(&error))?;
        let mut rtc = peer::settings()
            .set_crypto_provider(self.crypto.clone())
            .set_dtls_cert(self.certificate.clone())
            .build(Instant::now());
        for candidate in self.port.candidates(same_machine) {
            rtc.add_local_candidate(candidate);
        }
        let answer = rtc.sdp_api().accept_offer(parsed).map_err(|error| unreadable(&error))?;
        let takes = sdp::check(offer, &rtc, role)?;
        let name = rtc.direct_api().local_ice_credentials().ufrag;
        let (commands, ordered) = mpsc::channel(peer::QUEUE);
        let (events, told) = mpsc::channel(peer::QUEUE);
        let (data, said) = mpsc::channel(peer::SAID);
        let peer = Peer {
            rtc,
            inbox: self.port.register(&name),
            port: self.port.clone(),
            role,
            commands: ordered,
            said,
            events,
            metrics: self.metrics.clone(),
            connect: self.connect,
            vanish: self.vanish,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(peer.run()));
        Ok(Answered { sdp: answer.to_sdp_string(), remote: Remote { commands, data }, takes, events: told, task })
    }
}
