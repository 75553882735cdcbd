//! The ways that peers come by: through a TURN server, over TCP, to one port or one of a range.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use str0m::format::Codec;
use str0m::media::Direction;
use tokio::net::UdpSocket;
use turn::auth::{AuthHandler, LongTermAuthHandler, generate_auth_key};
use turn::client::{Client as TurnClient, ClientConfig};
use turn::relay::relay_static::RelayAddressGeneratorStatic;
use turn::server::Server;
use turn::server::config::{ConnConfig, ServerConfig};
use webrtc_util::conn::Conn;
use webrtc_util::vnet::net::Net;

use super::client::{Client, Offering};
use super::media::{self, Eyes};
use super::watch::look;
use super::way::Way;
use super::{SDP, SMALL, call, connected, film_on, join, patch};
use crate::support::Runner;

const REALM: &str = "weir.test";

/// Knows one user by a fixed password.
struct Fixed(HashMap<String, Vec<u8>>);

impl AuthHandler for Fixed {
    fn auth_handle(&self, user: &str, _: &str, _: SocketAddr) -> Result<Vec<u8>, turn::Error> {
        self.0.get(user).cloned().ok_or(turn::Error::ErrFakeErr)
    }
}

/// A TURN server on loopback, and where it is.
async fn turn_server(auth: Arc<dyn AuthHandler + Send + Sync>) -> (Server, SocketAddr) {
    let conn = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = conn.local_addr().unwrap();
    let generator = RelayAddressGeneratorStatic {
        relay_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        address: "127.0.0.1".into(),
        net: Arc::new(Net::new(None)),
    };
    let config = ServerConfig {
        conn_configs: vec![ConnConfig { conn, relay_addr_generator: Box::new(generator) }],
        realm: REALM.into(),
        auth_handler: auth,
        channel_bind_timeout: Duration::ZERO,
        alloc_close_notify: None,
    };
    (Server::new(config).await.unwrap(), address)
}

/// The TURN server of a `Link` header: address, user and password.
fn told(link: &str) -> (String, String, String) {
    let quoted = |name: &str| {
        let from = link.split_once(&format!("; {name}=\"")).unwrap_or_else(|| panic!("{name} in {link}")).1;
        from.split_once('"').unwrap().0.to_owned()
    };
    let url = link.strip_prefix("<turn:").unwrap().split_once('>').unwrap().0;
    assert_eq!((quoted("rel"), quoted("credential-type")), ("ice-server".into(), "password".into()));
    (url.to_owned(), quoted("username"), quoted("credential"))
}

/// A place at a TURN server.
async fn relay(link: &str) -> Result<(&'static TurnClient, Way), turn::Error> {
    let (server, username, password) = told(link);
    let config = ClientConfig {
        stun_serv_addr: server.clone(),
        turn_serv_addr: server,
        username,
        password,
        realm: REALM.into(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()),
        vnet: None,
    };
    // The place borrows from its client, for as long as the test runs.
    let client: &'static TurnClient = Box::leak(Box::new(TurnClient::new(config).await?));
    client.listen().await?;
    let place = client.allocate().await?;
    let address = place.local_addr().unwrap();
    Ok((client, Way::Relay(Arc::new(place), address)))
}

/// Offers without a way, finds one with what the `Link` header says, and names it by trickle ICE.
async fn relayed(runner: &Runner, path: &str, direction: Direction) -> (Client, String) {
    let offering = Offering::by(None, direction, Codec::H264, None);
    assert!(!offering.sdp.contains("a=candidate"), "{}", offering.sdp);
    let response = call(runner, "POST", path, SDP, &offering.sdp).await;
    assert_eq!(response.status(), 201);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    let (link, resource) = (header("link"), header("location"));
    let (_, way) = relay(&link).await.expect("the server takes the credentials");
    let (mut client, fragment) = offering.start_by(way, &response.text().await.unwrap());
    assert!(fragment.contains("typ relay"), "{fragment}");
    assert_eq!(patch(runner, &resource, &fragment, None).await.status(), 204);
    connected(&mut client).await;
    (client, resource)
}

/// What `camera` sends is seen by `viewer`, inverted.
async fn seen(camera: &Client, viewer: &mut Client) {
    let filming = film_on(camera, media::h264(300));
    let mut eyes = Eyes::new();
    look(viewer, &mut eyes, 45).await;
    assert_eq!(eyes.seen().inverted, eyes.seen().numbers.len());
    filming.abort();
}

/// The `Link` header that a peer gets.
async fn link(runner: &Runner) -> String {
    let offering = Offering::new(Direction::SendOnly, Codec::H264, None).await;
    let response = call(runner, "POST", "/whip", SDP, &offering.sdp).await;
    assert_eq!(response.status(), 201);
    response.headers()["link"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_behind_a_turn_server_come_with_the_credentials_that_they_are_told() {
    // Made for a time from a shared secret, as the TURN REST API has it.
    let (server, address) = turn_server(Arc::new(LongTermAuthHandler::new("north".into()))).await;
    let url = format!("turn:{address}");
    let settings = [("webrtc-addresses", "127.0.0.1"), ("webrtc-turn", &*url), ("webrtc-turn-secret", "north")];
    let runner = Runner::idle("invert", &settings).await;
    let (camera, sending) = relayed(&runner, &format!("/whip/cam?{SMALL}"), Direction::SendOnly).await;
    let (mut viewer, watching) = relayed(&runner, "/whep/cam", Direction::RecvOnly).await;
    seen(&camera, &mut viewer).await;
    let places = server.get_allocations_info(None).await.unwrap();
    let carried: Vec<usize> = places.values().map(|place| place.relayed_bytes).collect();
    eprintln!("bytes that peers sent through the TURN server: {carried:?}");
    assert!(carried.len() == 2 && carried.iter().all(|&bytes| bytes > 500), "{carried:?}");
    for resource in [watching, sending] {
        assert_eq!(call(&runner, "DELETE", &resource, SDP, "").await.status(), 200);
    }
    drop(runner);
    let runner = Runner::idle("noop", &[("webrtc-turn", &url), ("webrtc-turn-secret", "south")]).await;
    assert!(relay(&link(&runner).await).await.is_err(), "another secret");
    drop(runner);
    server.close().await.unwrap();
    // Fixed ones.
    let key = generate_auth_key("user", REALM, "pass");
    let (server, address) = turn_server(Arc::new(Fixed(HashMap::from([("user".to_owned(), key)])))).await;
    let url = format!("turn:{address}");
    let settings = [("webrtc-turn", &*url), ("webrtc-turn-username", "user"), ("webrtc-turn-credential", "pass")];
    let runner = Runner::idle("noop", &settings).await;
    let link = link(&runner).await;
    assert!(relay(&link).await.is_ok(), "{link}");
    assert!(relay(&link.replace("\"pass\"", "\"word\"")).await.is_err(), "another password");
    server.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_without_udp_come_over_tcp() {
    let runner = Runner::idle("invert", &[]).await;
    let tcp = async |path: &str, direction| {
        let way = Way::tcp().await;
        let (mut client, resource) = join(&runner, path, Offering::by(Some(way), direction, Codec::H264, None)).await;
        connected(&mut client).await;
        (client, resource)
    };
    let (camera, _) = tcp(&format!("/whip/cam?{SMALL}"), Direction::SendOnly).await;
    let (mut viewer, _) = tcp("/whep/cam", Direction::RecvOnly).await;
    seen(&camera, &mut viewer).await;
    drop(runner);
    let runner = Runner::idle("noop", &[("webrtc-tcp", "false")]).await;
    let offering = Offering::by(Some(Way::tcp().await), Direction::SendOnly, Codec::H264, None);
    let answer = call(&runner, "POST", "/whip", SDP, &offering.sdp).await.text().await.unwrap();
    assert!(answer.contains("a=candidate:") && !answer.to_lowercase().contains(" tcp "), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sessions_share_one_port() {
    let free = free_ports(1);
    let port = free.to_string();
    let settings = [("webrtc-addresses", "127.0.0.1"), ("webrtc-ports", &*port), ("capacity", "2")];
    let runner = Runner::idle("invert", &settings).await;
    let mut both = Vec::new();
    for name in ["one", "two"] {
        for (path, direction) in
            [(format!("/whip/{name}?{SMALL}"), Direction::SendOnly), (format!("/whep/{name}"), Direction::RecvOnly)]
        {
            let offering = Offering::new(direction, Codec::H264, None).await;
            let answer = call(&runner, "POST", &path, SDP, &offering.sdp).await;
            assert_eq!(answer.status(), 201);
            let answer = answer.text().await.unwrap();
            assert_eq!(ports(&answer), [free], "{answer}");
            let mut client = offering.start(&answer);
            connected(&mut client).await;
            both.push(client);
        }
    }
    let [camera, viewer, other_camera, other_viewer] = &mut both[..] else { unreachable!() };
    tokio::join!(seen(camera, viewer), seen(other_camera, other_viewer));
}

/// The first of `count` ports in a row that nobody has, outside of those that the system hands out by itself.
fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 20_000 + (std::process::id() % 10_000) as u16;
    loop {
        let first = begin + NEXT.fetch_add(count, Ordering::Relaxed);
        let free = |port| {
            let udp = std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok();
            udp && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
        };
        if (first..first + count).all(free) {
            return first;
        }
    }
}

/// The ports that an answer names.
fn ports(answer: &str) -> Vec<u16> {
    let mut ports: Vec<u16> =
        answer.lines().filter_map(|line| line.strip_prefix("a=candidate:")?.split(' ').nth(5)?.parse().ok()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

async fn answered(runner: &Runner) -> (u16, String) {
    let offering = Offering::new(Direction::SendRecv, Codec::H264, None).await;
    let body = serde_json::json!({"offer": {"sdp": offering.sdp, "type": "offer"}});
    let answer = call(runner, "POST", "/offer", "application/json", &body.to_string()).await;
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    let sdp = serde_json::from_str::<Value>(&text).ok().and_then(|json| json["sdp"].as_str().map(str::to_owned));
    (status, sdp.unwrap_or(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_share_one_port_the_first_of_a_range_that_is_free() {
    let first = free_ports(2);
    let taken = UdpSocket::bind(("127.0.0.1", first)).await.unwrap();
    let range = format!("{first}-{}", first + 1);
    let settings = [("webrtc-addresses", "127.0.0.1"), ("webrtc-ports", &*range)];
    let runner = Runner::idle("noop", &settings).await;
    for _ in 0..3 {
        let (status, answer) = answered(&runner).await;
        assert_eq!((status, ports(&answer)), (200, vec![first + 1]), "{answer}");
    }
    // The range is full now.
    let other = Runner::idle("noop", &settings).await;
    let (status, text) = answered(&other).await;
    let told = format!("every port for media is taken: {first} to {} (webrtc.ports)", first + 1);
    assert_eq!((status, text.contains(&told), text.contains("widen webrtc.ports")), (503, true, true), "{text}");
    drop(taken);
    let (status, answer) = answered(&other).await;
    assert_eq!((status, ports(&answer)), (200, vec![first]), "it is tried again: {answer}");
}
