//! The orchestrator's side: a trickle server on this machine and the four channels of a stream.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::RigError;
use crate::trickle::{self, Client, Server, ServerConfig};

/// Path above the channels, as orchestrators have it.
const BASE: &str = "/ai/trickle";

/// A trickle server on a free loopback port, and a client for it.
pub struct Lab {
    server: Server,
    client: Client,
    address: SocketAddr,
    stop: CancellationToken,
    serving: AbortOnDropHandle<()>,
}

impl Lab {
    /// Binds a free port and serves it.
    ///
    /// # Errors
    /// No port, or no client.
    pub async fn start() -> Result<Self, RigError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(RigError::Socket)?;
        let address = listener.local_addr().map_err(RigError::Socket)?;
        let client = Client::new(&trickle::Config::default())?;
        let server = Server::new(ServerConfig { base_path: BASE.into(), ..ServerConfig::default() });
        let stop = CancellationToken::new();
        let serving = {
            let (server, stop) = (server.clone(), stop.clone());
            AbortOnDropHandle::new(tokio::spawn(async move { server.serve(listener, stop.cancelled_owned()).await }))
        };
        Ok(Self { server, client, address, stop, serving })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The client of this side.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The server, for a look at its channels.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Creates the four channels of a new stream.
    pub fn open(&self) -> Channels {
        let id = manifest_id();
        let channels = Channels { base: format!("http://{}{BASE}/{id}", self.address), id, other: None };
        for (name, mime) in [
            (channels.name(Channel::Input), "video/mp2t"),
            (channels.name(Channel::Output), "video/mp2t"),
            (channels.name(Channel::Control), "application/json"),
            (channels.name(Channel::Events), "application/json"),
        ] {
            self.server.create(&name, mime);
        }
        channels
    }

    /// Closes one channel of a stream. False if it is gone already.
    pub fn close_channel(&self, channels: &Channels, which: Channel) -> bool {
        self.server.close(&channels.name(which))
    }

    /// Closes every channel, then the server.
    pub async fn close(self) {
        self.stop.cancel();
        // The server takes a second at most; its task ends with this value in any case.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.serving).await;
    }
}

/// Which channel of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// What the runner reads.
    Input,
    /// What it writes.
    Output,
    /// Updates for it.
    Control,
    /// What it tells.
    Events,
}

/// Names and addresses of a stream's channels.
#[derive(Clone, Debug)]
pub struct Channels {
    base: String,
    id: String,
    /// Where one of them is reached otherwise.
    other: Option<(Channel, String)>,
}

impl Channels {
    /// Eight hexadecimal digits.
    pub fn manifest_id(&self) -> &str {
        &self.id
    }

    fn suffix(which: Channel) -> &'static str {
        match which {
            Channel::Input => "",
            Channel::Output => "-out",
            Channel::Control => "-control",
            Channel::Events => "-events",
        }
    }

    /// The server's name of a channel.
    pub fn name(&self, which: Channel) -> String {
        format!("{}{}", self.id, Self::suffix(which))
    }

    /// The same channels, all or `only` one of them, behind another address of the server.
    pub fn behind(&self, address: SocketAddr, only: Option<Channel>) -> Self {
        let base = format!("http://{address}{BASE}/{}", self.id);
        match only {
            Some(channel) => Self { other: Some((channel, base)), ..self.clone() },
            None => Self { base, ..self.clone() },
        }
    }

    /// Its address.
    pub fn url(&self, which: Channel) -> String {
        let base = match &self.other {
            Some((channel, base)) if *channel == which => base,
            _ => &self.base,
        };
        format!("{base}{}", Self::suffix(which))
    }
}

/// A name that this process uses once.
fn manifest_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}", now.rotate_left(8) ^ std::process::id().rotate_left(20) ^ count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_has_the_channels_that_an_orchestrator_gives_it() {
        let lab = Lab::start().await.expect("lab");
        let channels = lab.open();
        let id = channels.manifest_id().to_owned();
        assert_eq!(id.len(), 8);
        assert_eq!(
            lab.server().channels(),
            [id.clone(), format!("{id}-control"), format!("{id}-events"), format!("{id}-out")]
        );
        assert!(channels.url(Channel::Events).ends_with(&format!("/ai/trickle/{id}-events")));
        assert_eq!(lab.client().next(&channels.url(Channel::Output)).await.expect("next"), 0);
        assert!(lab.close_channel(&channels, Channel::Input));
        assert!(!lab.close_channel(&channels, Channel::Input));
        assert_ne!(lab.open().manifest_id(), id);
        lab.close().await;
    }
}
