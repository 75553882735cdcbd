//! The ways by which a peer reaches the other side, and what they do to datagrams.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::Candidate;
use str0m::net::{Protocol, TcpType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use webrtc_util::conn::Conn;

/// How a peer reaches the other side.
pub enum Way {
    /// A port of its own.
    Udp(UdpSocket),
    /// A place at a TURN server, and the address there.
    Relay(Arc<dyn Conn + core::marker::Send + Sync>, SocketAddr),
    /// A connection (ICE-TCP), which is made with the answer.
    Tcp(Tcp),
}

/// A connection that carries datagrams.
pub struct Tcp {
    local: SocketAddr,
    stream: Option<TcpStream>,
    read: Vec<u8>,
}

impl Way {
    /// A port on loopback.
    pub async fn udp() -> Self {
        Self::Udp(UdpSocket::bind("127.0.0.1:0").await.unwrap())
    }

    /// A connection from loopback.
    pub async fn tcp() -> Self {
        // The port is free again at once: nothing ever connected to it.
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        Self::Tcp(Tcp { local: free, stream: None, read: Vec::new() })
    }

    /// Where it begins.
    pub fn local(&self) -> SocketAddr {
        match self {
            Self::Udp(socket) => socket.local_addr().unwrap(),
            Self::Relay(_, address) => *address,
            Self::Tcp(tcp) => tcp.local,
        }
    }

    /// What the other side is told of it.
    pub fn candidate(&self) -> Candidate {
        let local = self.local();
        match self {
            Self::Udp(_) => Candidate::host(local, "udp").unwrap(),
            Self::Relay(..) => Candidate::relayed(local, local, "udp").unwrap(),
            Self::Tcp(..) => Candidate::builder().tcp().host(local).tcptype(TcpType::Active).build().unwrap(),
        }
    }

    /// What carries the datagrams.
    pub fn protocol(&self) -> Protocol {
        if matches!(self, Self::Tcp(..)) { Protocol::Tcp } else { Protocol::Udp }
    }

    /// Connects to where the answer says, where that is needed.
    pub async fn connect(&mut self, answer: &str) {
        let Self::Tcp(tcp) = self else { return };
        let to = answer.lines().find_map(|line| {
            let words: Vec<&str> = line.strip_prefix("a=candidate:")?.split(' ').collect();
            let found = words[2].eq_ignore_ascii_case("tcp") && words[4] == "127.0.0.1";
            found.then(|| format!("{}:{}", words[4], words[5]).parse::<SocketAddr>().unwrap())
        });
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(tcp.local).unwrap();
        tcp.stream = Some(socket.connect(to.expect("a TCP candidate")).await.unwrap());
    }

    /// The next datagram, and where it comes from.
    pub async fn receive(&mut self, bytes: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
        match self {
            Self::Udp(socket) => socket.recv_from(bytes).await,
            Self::Relay(relay, _) => relay.recv_from(bytes).await.map_err(std::io::Error::other),
            Self::Tcp(tcp) => {
                let stream = tcp.stream.as_mut().expect("a connection");
                loop {
                    // Two bytes of length, then the datagram (RFC 4571).
                    if let Some((&[high, low], rest)) = tcp.read.split_first_chunk()
                        && let length = usize::from(u16::from_be_bytes([high, low]))
                        && let Some(datagram) = rest.get(..length)
                    {
                        bytes[..length].copy_from_slice(datagram);
                        tcp.read.drain(..2 + length);
                        return Ok((length, stream.peer_addr()?));
                    }
                    if stream.read_buf(&mut tcp.read).await? == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }

    /// Sends a datagram, or loses it.
    pub async fn send(&mut self, bytes: &[u8], to: SocketAddr) {
        match self {
            Self::Udp(socket) => drop(socket.send_to(bytes, to).await),
            Self::Relay(relay, _) => drop(relay.send_to(bytes, to).await),
            Self::Tcp(tcp) => {
                let stream = tcp.stream.as_mut().expect("a connection");
                let framed = [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
                drop(stream.write_all(&framed).await);
            }
        }
    }
}

/// What a way does to the datagrams that go one direction.
#[derive(Default)]
pub struct Link {
    /// It takes so many bits a second and no more: what waits longer than a router's buffer would hold it is dropped.
    pub bits: Option<u64>,
    /// Of a thousand datagrams, how many are lost.
    pub loss: u32,
    /// How long each takes.
    pub delay: Duration,
    free: Option<Instant>,
    dice: u32,
    waiting: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
}

impl Link {
    const BUFFER: Duration = Duration::from_millis(300);

    /// A datagram begins its way.
    pub fn enter(&mut self, address: SocketAddr, bytes: &[u8]) {
        // Numerical Recipes' generator: the same ones are lost in every run.
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if (self.dice >> 16) % 1000 < self.loss {
            return;
        }
        let now = Instant::now();
        let takes =
            self.bits.map_or(Duration::ZERO, |bits| Duration::from_secs_f64(bytes.len() as f64 * 8.0 / bits as f64));
        let out = self.free.unwrap_or(now).max(now) + takes;
        if out - now <= Self::BUFFER {
            self.free = Some(out);
            self.waiting.push_back((out + self.delay, address, bytes.to_vec()));
        }
    }

    /// The next datagram that has arrived.
    pub fn leave(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let (_, address, bytes) = self.waiting.pop_front_if(|(out, ..)| *out <= Instant::now())?;
        Some((address, bytes))
    }

    /// When the next one arrives.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(out, ..)| *out)
    }
}
