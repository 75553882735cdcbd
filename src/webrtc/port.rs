//! One port for the media of every peer: a UDP socket, and a TCP listener where wanted, on each address of this machine.
//!
//! A datagram belongs to the peer whose name stands in its STUN message, or that sent one from the same place before. TCP
//! carries the same datagrams behind two bytes of length (RFC 4571).
//!
//! | queue | size | when full |
//! | --- | --- | --- |
//! | port → peer | 512 datagrams | the newest is dropped and counted |
//! | peer → TCP connection | 256 datagrams | the newest is dropped and counted |
//! | TCP connections | 64 | a further one is closed and counted |
//! | places a peer sends from | 16 | further ones are not learned |

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use str0m::Candidate;
use str0m::net::{Protocol, TcpType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Config;

/// Datagrams that wait for a peer.
const INBOX: usize = 512;
/// Datagrams that wait for a TCP connection.
const OUTBOX: usize = 256;
/// TCP connections at a time.
const CONNECTIONS: usize = 64;
/// Places that one peer may send from.
const PLACES: usize = 16;
/// Addresses of this machine that are used at most.
const ADDRESSES: usize = 16;
/// Time in which a TCP connection must say whose it is.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// Bytes that the system keeps for us of what arrives, where net.core.rmem_max allows it: key pictures come in one burst from
/// peers that do not spread them.
const RECEIVED: usize = 4 << 20;
/// Longest datagram in bytes; WebRTC keeps to 1200.
const LONGEST: usize = 2048;

/// What came for a peer.
#[derive(Debug)]
pub(super) struct Datagram {
    pub proto: Protocol,
    pub local: SocketAddr,
    pub source: SocketAddr,
    pub bytes: Bytes,
}

/// Counters of a port.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Datagrams that no peer wants.
    pub strange: AtomicU64,
    /// Datagrams dropped because a peer or a socket did not take them.
    pub dropped: AtomicU64,
    /// TCP connections closed because there were too many, or because they did not say whose they are.
    pub refused: AtomicU64,
}

type Place = (Protocol, SocketAddr, SocketAddr);

#[derive(Default)]
struct Routes {
    names: HashMap<String, Route>,
    places: HashMap<Place, Route>,
    connections: HashMap<Place, mpsc::Sender<Bytes>>,
}

#[derive(Clone)]
struct Route {
    peer: u64,
    to: mpsc::Sender<Datagram>,
}

struct Inner {
    sockets: Vec<(SocketAddr, Arc<UdpSocket>)>,
    announce: Vec<IpAddr>,
    tcp: bool,
    routes: Mutex<Routes>,
    next: AtomicU64,
    connected: AtomicUsize,
    counters: PortCounters,
}

/// The port. Cloning shares it; the last one to go closes it.
#[derive(Clone)]
pub struct Port {
    inner: Arc<Inner>,
    _tasks: Arc<Vec<AbortOnDropHandle<()>>>,
}

/// A peer's place at the port; given back when dropped.
pub(super) struct Inbox {
    inner: Arc<Inner>,
    peer: u64,
    pub datagrams: mpsc::Receiver<Datagram>,
}

impl Inbox {
    /// Others call the peer `name` from now on, and by nothing else. What comes from places that are known still arrives.
    pub fn rename(&self, name: &str) {
        let mut routes = self.inner.routes();
        let known = routes.names.values().find(|route| route.peer == self.peer).cloned();
        routes.names.retain(|_, route| route.peer != self.peer);
        if let Some(route) = known {
            routes.names.insert(name.to_owned(), route);
        }
        // A peer that moves needs room for its new places; those that it still uses make themselves known again.
        if routes.places.values().filter(|route| route.peer == self.peer).count() > PLACES / 2 {
            routes.places.retain(|_, route| route.peer != self.peer);
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut routes = self.inner.routes();
        routes.names.retain(|_, route| route.peer != self.peer);
        routes.places.retain(|_, route| route.peer != self.peer);
    }
}

/// The addresses of this machine that media may use, loopback ones last.
fn own_addresses() -> std::io::Result<Vec<IpAddr>> {
    use nix::net::if_::InterfaceFlags;
    let mut found: Vec<IpAddr> = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address.filter(|_| interface.flags.contains(InterfaceFlags::IFF_UP)) else {
            continue;
        };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| address.ip());
        // Link-local ones need a scope that candidates cannot carry.
        let v6 = v6.filter(|ip| !ip.is_unicast_link_local()).map(IpAddr::from);
        found.extend(v4.or(v6).filter(|ip| !ip.is_unspecified() && !ip.is_multicast()));
    }
    found.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    found.dedup();
    found.truncate(ADDRESSES);
    Ok(found)
}

impl Port {
    /// Opens the port on every address that the settings name.
    ///
    /// # Errors
    /// [`std::io::ErrorKind::AddrInUse`]: every port of the range is taken, which may be over later. Else what keeps a port that
    /// may be free from being bound.
    pub async fn open(config: &Config) -> std::io::Result<Self> {
        let addresses = if config.addresses.is_empty() { own_addresses()? } else { config.addresses.clone() };
        let (first, last) = config.ports;
        let mut refused = Vec::new();
        // Any port: one that is free here may be taken there, so a few are tried.
        let tries: Vec<u16> = if first == 0 { vec![0; 16] } else { (first..=last.max(first)).collect() };
        for port in tries {
            match Self::bind(&addresses, port, config).await {
                Ok(port) => return Ok(port),
                Err(error) => refused.push(error),
            }
        }
        let lasting = refused.iter().position(|error| error.kind() != std::io::ErrorKind::AddrInUse);
        let told = lasting.or_else(|| refused.len().checked_sub(1));
        Err(told.map_or_else(|| std::io::Error::other("this machine has no address"), |at| refused.swap_remove(at)))
    }

    async fn bind(addresses: &[IpAddr], port: u16, config: &Config) -> std::io::Result<Self> {
        let (mut port, mut sockets, mut listeners) = (port, Vec::new(), Vec::new());
        for &ip in addresses {
            let socket = match UdpSocket::bind((ip, port)).await {
                Ok(socket) => socket,
                // An address that cannot be bound at all, such as one that is being set up, is left out.
                Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => continue,
                Err(error) => return Err(error),
            };
            // A smaller one works too, for peers that send evenly.
            let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVED);
            let local = socket.local_addr()?;
            port = local.port();
            if config.tcp {
                listeners.push((local, TcpListener::bind(local).await?));
            }
            sockets.push((local, Arc::new(socket)));
        }
        if sockets.is_empty() {
            return Err(std::io::Error::other("none of the addresses can be bound"));
        }
        let inner = Arc::new(Inner {
            sockets,
            announce: config.announce.clone(),
            tcp: config.tcp,
            routes: Mutex::default(),
            next: AtomicU64::new(0),
            connected: AtomicUsize::new(0),
            counters: PortCounters::default(),
        });
        let mut tasks = Vec::new();
        for (local, socket) in &inner.sockets {
            tasks.push(AbortOnDropHandle::new(tokio::spawn(receive(inner.clone(), *local, socket.clone()))));
        }
        for (local, listener) in listeners {
            tasks.push(AbortOnDropHandle::new(tokio::spawn(accept(inner.clone(), local, listener))));
        }
        Ok(Self { inner, _tasks: Arc::new(tasks) })
    }

    /// Number of the port.
    pub fn number(&self) -> u16 {
        self.inner.sockets.first().map_or(0, |(local, _)| local.port())
    }

    /// Counters so far.
    pub fn counters(&self) -> &PortCounters {
        &self.inner.counters
    }

    /// What a peer is told of where we are. Loopback addresses are of use only to a peer on this machine.
    pub(super) fn candidates(&self, same_machine: bool) -> Vec<Candidate> {
        let only_loopback = self.inner.sockets.iter().all(|(local, _)| local.ip().is_loopback());
        let mut candidates = Vec::new();
        for &(local, _) in &self.inner.sockets {
            if local.ip().is_loopback() && !same_machine && !only_loopback {
                continue;
            }
            candidates.extend(Candidate::host(local, "udp"));
            if self.inner.tcp {
                candidates.extend(Candidate::builder().tcp().host(local).tcptype(TcpType::Passive).build());
            }
            for &outside in &self.inner.announce {
                if outside.is_ipv4() == local.is_ipv4() && outside != local.ip() && !local.ip().is_loopback() {
                    let outside = SocketAddr::new(outside, local.port());
                    candidates.extend(Candidate::server_reflexive(outside, local, "udp"));
                }
            }
        }
        candidates
    }

    /// A place for the peer that others call `name`.
    pub(super) fn register(&self, name: &str) -> Inbox {
        let (to, datagrams) = mpsc::channel(INBOX);
        let peer = self.inner.next.fetch_add(1, Ordering::Relaxed);
        self.inner.routes().names.insert(name.to_owned(), Route { peer, to });
        Inbox { inner: self.inner.clone(), peer, datagrams }
    }

    /// Sends a datagram, or drops it where the way is full: media that waits is of no use.
    pub(super) fn send(&self, proto: Protocol, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let inner = &self.inner;
        let sent = match proto {
            Protocol::Udp => {
                let socket = inner.sockets.iter().find(|(local, _)| *local == from);
                socket.is_some_and(|(_, socket)| socket.try_send_to(bytes, to).is_ok())
            }
            _ => {
                let connection = inner.routes().connections.get(&(proto, from, to)).cloned();
                connection.is_some_and(|connection| connection.try_send(Bytes::copy_from_slice(bytes)).is_ok())
            }
        };
        if !sent {
            inner.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Inner {
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a datagram to its peer. False when it is nobody's.
    fn deliver(&self, proto: Protocol, local: SocketAddr, source: SocketAddr, bytes: &[u8]) -> bool {
        let place = (proto, local, source);
        let route = {
            let mut routes = self.routes();
            match routes.places.get(&place).cloned() {
                Some(route) if !route.to.is_closed() => Some(route),
                _ => {
                    let route = name(bytes).and_then(|name| routes.names.get(name).cloned());
                    if let Some(route) = &route
                        && routes.places.values().filter(|known| known.peer == route.peer).count() < PLACES
                    {
                        routes.places.insert(place, route.clone());
                    }
                    route
                }
            }
        };
        let Some(route) = route else {
            self.counters.strange.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        if route.to.try_send(Datagram { proto, local, source, bytes: Bytes::copy_from_slice(bytes) }).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

/// Our name in the user name of a STUN message, which is `ours:theirs`.
fn name(bytes: &[u8]) -> Option<&str> {
    // A STUN message begins with two zero bits and has a fixed number behind type and length (RFC 8489, section 5).
    if bytes.len() < 20 || bytes[0] & 0xC0 != 0 || bytes[4..8] != [0x21, 0x12, 0xA4, 0x42] {
        return None;
    }
    let mut rest = &bytes[20..];
    while let [k0, k1, l0, l1, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let value = after.get(..length)?;
        if [*k0, *k1] == [0, 6] {
            return std::str::from_utf8(value).ok()?.split_once(':').map(|(ours, _)| ours);
        }
        rest = after.get(length.next_multiple_of(4)..)?;
    }
    None
}

async fn receive(inner: Arc<Inner>, local: SocketAddr, socket: Arc<UdpSocket>) {
    let mut bytes = vec![0; LONGEST];
    loop {
        match socket.recv_from(&mut bytes).await {
            Ok((length, source)) => {
                inner.deliver(Protocol::Udp, local, unmapped(source), &bytes[..length]);
            }
            // An answer of the network to something that was sent; the socket is as good as before.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// An IPv4 address that a socket of IPv6 shows as one of its own.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(Ipv4Addr::into(ip), address.port()),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}

async fn accept(inner: Arc<Inner>, local: SocketAddr, listener: TcpListener) {
    loop {
        let Ok((stream, source)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if inner.connected.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            inner.connected.fetch_sub(1, Ordering::Relaxed);
            inner.counters.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let inner = inner.clone();
        tokio::spawn(async move {
            let known = talk(&inner, local, source, stream).await;
            inner.routes().connections.remove(&(Protocol::Tcp, local, source));
            inner.connected.fetch_sub(1, Ordering::Relaxed);
            if !known {
                inner.counters.refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// Carries one connection until its end. False if it never said whose it is.
async fn talk(inner: &Inner, local: SocketAddr, source: SocketAddr, stream: TcpStream) -> bool {
    // A refused option costs latency, nothing else.
    let _ = stream.set_nodelay(true);
    let (mut read, mut write) = stream.into_split();
    let (to, mut outgoing) = mpsc::channel::<Bytes>(OUTBOX);
    let writing = async {
        while let Some(bytes) = outgoing.recv().await {
            let length = u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
            if write.write_all(&length).await.is_err() || write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let mut known = false;
    let reading = async {
        let mut bytes = vec![0; LONGEST];
        loop {
            let mut length = [0; 2];
            let next = async {
                read.read_exact(&mut length).await?;
                let length = usize::from(u16::from_be_bytes(length));
                let room = bytes.get_mut(..length).ok_or(std::io::ErrorKind::InvalidData)?;
                read.read_exact(room).await
            };
            let length = match known {
                true => next.await,
                false => match tokio::time::timeout(INTRODUCTION, next).await {
                    Ok(read) => read,
                    Err(_) => return,
                },
            };
            let Ok(length) = length else { return };
            if !known {
                // The answer to the first datagram must find its way back.
                inner.routes().connections.insert((Protocol::Tcp, local, source), to.clone());
            }
            if !inner.deliver(Protocol::Tcp, local, source, &bytes[..length]) {
                // Nobody's, or its peer is gone.
                return;
            }
            known = true;
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_stun_messages_alone() {
        let mut message = vec![0, 1, 0, 0x14, 0x21, 0x12, 0xA4, 0x42];
        message.extend([7; 12]);
        // Another attribute of three bytes and one of padding comes first.
        message.extend([0x80, 0x22, 0, 3, 1, 2, 3, 0, 0, 6, 0, 7]);
        message.extend(b"me:them\0");
        assert_eq!(name(&message), Some("me"));
        for cut in 0..message.len() - 1 {
            assert_eq!(name(&message[..cut]), None, "{cut}");
        }
        message[0] = 0x80;
        assert_eq!(name(&message), None);
    }

    #[tokio::test]
    async fn datagrams_reach_the_peer_they_name_until_it_is_gone() {
        let config = Config { addresses: vec![Ipv4Addr::LOCALHOST.into()], ..Config::default() };
        let port = Port::open(&config).await.expect("a port");
        let mut inbox = port.register("me");
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let to = SocketAddr::from(([127, 0, 0, 1], port.number()));
        let most: usize =
            std::fs::read_to_string("/proc/sys/net/core/rmem_max").expect("a limit").trim().parse().expect("bytes");
        let kept = nix::sys::socket::getsockopt(&port.inner.sockets[0].1, sockopt::RcvBuf).expect("an option");
        assert!(kept >= most.min(RECEIVED), "{kept} bytes of {most}");
        let mut message = vec![0, 1, 0, 0x0C, 0x21, 0x12, 0xA4, 0x42];
        message.extend([7; 12]);
        message.extend([0, 6, 0, 7]);
        message.extend(b"me:them\0");
        client.send_to(&message, to).await.expect("sends");
        assert_eq!(inbox.datagrams.recv().await.expect("a datagram").bytes, message);
        // Known by its place from now on.
        client.send_to(&[0x80, 0, 0], to).await.expect("sends");
        assert_eq!(inbox.datagrams.recv().await.expect("a datagram").bytes[..], [0x80, 0, 0]);
        // The same over TCP.
        let mut stream = TcpStream::connect(to).await.expect("connects");
        stream.write_u16(message.len() as u16).await.expect("sends");
        stream.write_all(&message).await.expect("sends");
        let came = inbox.datagrams.recv().await.expect("a datagram");
        assert_eq!((came.proto, came.local), (Protocol::Tcp, to));
        port.send(Protocol::Tcp, came.local, came.source, b"answer");
        assert_eq!(stream.read_u16().await.expect("a length"), 6);
        drop(inbox);
        client.send_to(&message, to).await.expect("sends");
        let strange = || port.counters().strange.load(Ordering::Relaxed);
        while strange() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
