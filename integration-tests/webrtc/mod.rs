//! WebRTC peers at a real runner: WHIP in, WHEP out, and ComfyStream's offer with its data channel.

mod client;
mod congestion;
mod media;
mod texts;
mod watch;
mod way;
mod ways;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use client::{Client, Got, Offering, Send};
use media::{Clip, Eyes, quantiles};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use str0m::format::Codec;
use str0m::media::{Direction, KeyframeRequestKind};

use crate::support::runner::start_request;
use crate::support::{LONG, Runner};

const SMALL: &str = "params=%7B%22width%22:384,%22height%22:384%7D";
const JSON: &str = "application/json";
const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// One exchange with the API, headers and all.
async fn call(runner: &Runner, method: &str, path: &str, kind: &str, body: &str) -> reqwest::Response {
    let tls = weir::tls::client_config(&weir::tls::TlsPolicy::Skip).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().unwrap();
    let method = method.parse().unwrap();
    let request = client.request(method, format!("http://127.0.0.1:{}{path}", runner.port()));
    request.header("content-type", kind).body(body.to_owned()).send().await.unwrap()
}

/// Sends a fragment of SDP, with an `If-Match` header or without.
async fn patch(runner: &Runner, path: &str, fragment: &str, tags: Option<&str>) -> reqwest::Response {
    let tls = weir::tls::client_config(&weir::tls::TlsPolicy::Skip).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().unwrap();
    let request = client.patch(format!("http://127.0.0.1:{}{path}", runner.port())).header("content-type", FRAGMENT);
    let request = if let Some(tags) = tags { request.header("if-match", tags) } else { request };
    request.body(fragment.to_owned()).send().await.unwrap()
}

/// Offers and goes to work with the answer. Gives the resource as well.
async fn join(runner: &Runner, path: &str, offering: Offering) -> (Client, String) {
    let response = call(runner, "POST", path, SDP, &offering.sdp).await;
    let status = response.status();
    let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
    let kind = response.headers().get("content-type").cloned();
    let body = response.text().await.unwrap();
    assert_eq!(status, 201, "{body}\n{}", runner.log());
    assert_eq!(kind.unwrap(), SDP);
    (offering.start(&body), location.unwrap())
}

/// Sends a clip as a camera does. Gives the time at which each picture was sent.
async fn film(client: &Client, clip: &Clip) -> HashMap<u32, Instant> {
    let (began, mut sent) = (Instant::now(), HashMap::new());
    let mut sounds = clip.audio.iter().peekable();
    for (number, (pts, unit)) in clip.video.iter().enumerate() {
        let due = began + Duration::from_micros(*pts as u64 * 100 / 9);
        tokio::time::sleep_until(due.into()).await;
        sent.insert(number as u32, Instant::now());
        client.send.send(Send::Video(*pts, unit.clone())).await.unwrap();
        while let Some((at, packet)) = sounds.next_if(|(at, _)| at <= pts) {
            client.send.send(Send::Audio(*at, packet.clone())).await.unwrap();
        }
    }
    sent
}

async fn connected(client: &mut Client) {
    let connected = async { while !matches!(client.got.recv().await, Some(Got::Connected)) {} };
    tokio::time::timeout(LONG, connected).await.expect("connects");
}

/// Looks at everything that comes until nothing does for a second.
async fn watch(client: &mut Client) -> Eyes {
    let mut eyes = Eyes::new();
    loop {
        let patience = if eyes.seen().numbers.is_empty() { LONG } else { Duration::from_secs(2) };
        match tokio::time::timeout(patience, client.got.recv()).await {
            Ok(Some(Got::Media(sample))) => eyes.look(&sample),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return eyes,
        }
    }
}

async fn through(runner: &Runner, clip: Clip, codec: Codec, inverted: bool) {
    let frames = clip.video.len();
    let offering = Offering::new(Direction::SendOnly, codec, None).await;
    let (mut camera, resource) = join(runner, &format!("/whip/cam?{SMALL}"), offering).await;
    let offering = Offering::new(Direction::RecvOnly, Codec::H264, None).await;
    let (mut viewer, watching) = join(runner, "/whep/cam", offering).await;
    connected(&mut camera).await;
    connected(&mut viewer).await;
    let (sent, eyes) = tokio::join!(film(&camera, &clip), watch(&mut viewer));
    let seen = eyes.seen();
    assert!(seen.numbers.len() * 10 >= frames * 8, "{} of {frames}\n{}", seen.numbers.len(), runner.log());
    assert!(seen.numbers.windows(2).all(|pair| pair[0] < pair[1]), "numbers rise: {:?}", seen.numbers);
    assert_eq!(seen.inverted, if inverted { seen.numbers.len() } else { 0 });
    if !clip.audio.is_empty() {
        assert!(seen.sounds * 10 >= clip.audio.len() * 8, "{} sounds of {}", seen.sounds, clip.audio.len());
    }
    // The first pictures wait for whoever joins.
    let late = seen.at.iter().filter(|(number, _)| **number > 30);
    let (p50, p95) = quantiles(late.map(|(number, at)| at.duration_since(sent[number])).collect());
    eprintln!("{codec:?} in, H.264 out: {} of {frames} pictures, p50 {p50:.1} ms, p95 {p95:.1} ms", seen.numbers.len());
    for resource in [watching, resource] {
        assert_eq!(call(runner, "DELETE", &resource, JSON, "").await.status(), 200);
    }
    runner.health("IDLE", LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_camera_comes_in_by_whip_and_goes_out_by_whep() {
    let runner = Runner::idle("invert", &[]).await;
    through(&runner, media::h264(120), Codec::H264, true).await;
    // The same runner takes another peer with another codec.
    through(&runner, media::vp8(120), Codec::Vp8, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_keeps_clients_from_loopback_reaches_its_own_channels_there() {
    let runner = Runner::idle("invert", &[("trickle-allow", "public")]).await;
    let refused = runner.post("/live-video-to-video", &start_request("http://127.0.0.1:9/", "x", "", None)).await;
    assert_eq!((refused.status, refused.body.contains("trickle.allow")), (400, true), "{refused:?}");
    through(&runner, media::h264(90), Codec::H264, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_are_refused_in_words_and_a_peer_that_vanishes_frees_its_slot() {
    let mut runner = Runner::idle("noop", &[("webrtc-vanish", "5s"), ("webrtc-connect-timeout", "2s")]).await;
    let offer = |direction, codec| Offering::new(direction, codec, None);
    let sdp = offer(Direction::SendOnly, Codec::H264).await.sdp;
    for (path, kind, body, status, word) in [
        ("/whip", SDP, "v=0", 400, "cannot be read"),
        ("/whip", JSON, &*sdp, 415, "application/sdp"),
        ("/whip", SDP, &*offer(Direction::RecvOnly, Codec::H264).await.sdp, 406, "sends neither"),
        ("/whip", SDP, &*offer(Direction::SendOnly, Codec::Vp9).await.sdp, 406, "neither H.264 nor VP8"),
        ("/whip?params=%7B%22width%22:7%7D", SDP, &*sdp, 400, "width"),
        ("/whip?params=[]", SDP, &*sdp, 400, "params"),
        ("/whip/a%20b", SDP, &*sdp, 400, "name"),
        ("/whep", SDP, &*offer(Direction::RecvOnly, Codec::H264).await.sdp, 404, "no such stream"),
        ("/whip", SDP, &"x".repeat(70_000), 413, "larger"),
    ] {
        let response = call(&runner, "POST", path, kind, body).await;
        assert_eq!(response.status(), status, "{path} {word}");
        let text = response.text().await.unwrap();
        assert!(text.contains(word), "{path}: {text}");
    }
    assert_eq!(runner.word().await, "IDLE", "nothing is left of refused offers");

    // One that never connects, one that connects and then says nothing any more.
    let (unheard, _) = {
        let offering = offer(Direction::SendOnly, Codec::H264).await;
        let response = call(&runner, "POST", "/whip", SDP, &offering.sdp).await;
        assert_eq!(response.status(), 201);
        (offering, response)
    };
    runner.health("OK", LONG).await;
    drop(unheard);
    runner.health("IDLE", LONG).await;
    let (mut camera, resource) = join(&runner, "/whip", offer(Direction::SendOnly, Codec::H264).await).await;
    connected(&mut camera).await;
    let viewer = offer(Direction::RecvOnly, Codec::Vp9).await;
    let response = call(&runner, "POST", "/whep", SDP, &viewer.sdp).await;
    assert_eq!(response.status(), 406);
    // A full runner says so, and a candidate is taken.
    let full = call(&runner, "POST", "/whip", SDP, &sdp).await;
    assert_eq!((full.status().as_u16(), full.headers().contains_key("retry-after")), (503, true));
    let fragment = "a=candidate:1 1 udp 2130706431 192.0.2.1 54400 typ host\r\n";
    assert_eq!(call(&runner, "PATCH", &resource, FRAGMENT, fragment).await.status(), 204);
    let restart = "a=ice-ufrag:other\r\na=ice-pwd:other\r\n";
    assert_eq!(call(&runner, "PATCH", &resource, FRAGMENT, restart).await.status(), 400, "too short a password");
    assert_eq!(call(&runner, "PATCH", "/webrtc/nobody", FRAGMENT, fragment).await.status(), 404);
    drop(camera);
    runner.health("IDLE", LONG).await;
    assert_eq!(call(&runner, "DELETE", &resource, JSON, "").await.status(), 404);
    let began = Instant::now();
    loop {
        let metrics = runner.get("/metrics").await.body;
        if metrics.contains("weir_webrtc_peers 0") && metrics.contains("event=\"refused_offer\"} 4") {
            break;
        }
        assert!(began.elapsed() < LONG, "{metrics}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(runner.end(Signal::SIGTERM, LONG).await.success());
}

/// A peer that came by `/offer`, and what it saw and read so far.
struct Caller {
    client: Client,
    eyes: Eyes,
    texts: Vec<Value>,
    open: bool,
}

impl Caller {
    async fn new(runner: &Runner, body: Value) -> Self {
        Self::with(runner, body, Codec::H264).await
    }

    async fn with(runner: &Runner, mut body: Value, codec: Codec) -> Self {
        let offering = Offering::new(Direction::SendRecv, codec, Some("control")).await;
        body["offer"] = json!({"sdp": offering.sdp, "type": "offer"});
        let answer = call(runner, "POST", "/offer", JSON, &body.to_string()).await;
        let (status, answer) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["type"], "answer");
        let mut client = offering.start(answer["sdp"].as_str().unwrap());
        connected(&mut client).await;
        Self { client, eyes: Eyes::new(), texts: Vec::new(), open: false }
    }

    /// Takes in what comes until `enough`.
    async fn until(&mut self, what: &str, mut enough: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !enough(self) {
                match self.client.got.recv().await.expect("the peer is there") {
                    Got::Media(sample) => self.eyes.look(&sample),
                    Got::Text(text) => self.texts.push(serde_json::from_str(&text).unwrap()),
                    Got::Opened(label) => self.open = label == "control",
                    Got::KeyWanted | Got::Connected => {}
                }
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{what}: not in time"));
    }

    /// Sends a control message and waits for its reply.
    async fn ask(&mut self, message: Value) -> Value {
        self.until("the channel", |caller| caller.open).await;
        let known = self.texts.len();
        self.client.send.send(Send::Text(message.to_string())).await.unwrap();
        self.until("a reply", |caller| caller.texts.len() > known).await;
        self.texts[known].clone()
    }
}

/// Films in the background, over and over; ends when the client does.
fn film_on(client: &Client, clip: Clip) -> tokio::task::JoinHandle<()> {
    let send = client.send.clone();
    tokio::spawn(async move {
        let (began, length) = (Instant::now(), clip.video.last().unwrap().0 + 3000);
        for round in 0.. {
            for (pts, unit) in &clip.video {
                let pts = pts + round * length;
                tokio::time::sleep_until((began + Duration::from_micros(pts as u64 * 100 / 9)).into()).await;
                if send.send(Send::Video(pts, unit.clone())).await.is_err() {
                    return;
                }
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_brings_the_result_back_and_the_control_channel_turns_it() {
    let runner = Runner::idle("invert", &[]).await;
    let body = json!({"params": {"width": 384, "height": 384}, "prompts": [], "stream": "room"});
    let mut caller = Caller::new(&runner, body).await;
    let filming = film_on(&caller.client, media::h264(60));
    caller.until("inverted pictures", |caller| caller.eyes.seen().inverted > 20).await;

    let nodes = caller.ask(json!({"type": "get_nodes", "request_id": 7})).await;
    assert_eq!((&nodes["type"], &nodes["request_id"]), (&json!("nodes_info"), &json!(7)));
    let strength = &nodes["nodes"]["0"]["invert"]["inputs"]["strength"];
    assert_eq!((&strength["type"], &strength["min"], &strength["max"]), (&json!("FLOAT"), &json!(0.0), &json!(1.0)));
    let wrong =
        json!({"type": "update_params", "params": {"width": 384, "height": 384, "strength": 2}, "request_id": "a"});
    let refused = caller.ask(wrong).await;
    assert_eq!((&refused["success"], &refused["request_id"]), (&json!(false), &json!("a")));
    assert!(refused["error"].as_str().unwrap().contains("strength"), "{refused}");
    let resolution = caller.ask(json!({"type": "update_resolution", "width": 512, "height": 512})).await;
    assert!(resolution["error"].as_str().unwrap().contains("mid-stream"), "{resolution}");
    let missing = caller.ask(json!({"type": "update_prompts"})).await;
    assert_eq!(missing["error"], "Missing 'prompts' in control message");
    let taken =
        caller.ask(json!({"type": "update_params", "params": {"width": 384, "height": 384, "strength": 0}})).await;
    assert_eq!(taken, json!({"type": "params_updated", "success": true}));
    let plain = |caller: &Caller| caller.eyes.seen().numbers.len() - caller.eyes.seen().inverted;
    caller.until("plain pictures", |caller| plain(caller) > 20).await;

    // A key picture that is asked for is counted where the asking arrives.
    caller.client.send.send(Send::AskKey(KeyframeRequestKind::Pli)).await.unwrap();
    let mut asked = false;
    for _ in 0..100 {
        asked = runner.get("/metrics").await.body.contains("weir_webrtc_events_total{event=\"key_wanted\"}");
        if asked {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(asked, "nobody heard that a key picture is wanted");
    assert_eq!(caller.ask(json!({"type": "pause_prompts"})).await["type"], "prompts_paused");
    tokio::time::sleep(Duration::from_millis(500)).await;
    while caller.client.got.try_recv().is_ok() {}
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut later = Vec::new();
    while let Ok(got) = caller.client.got.try_recv() {
        later.push(got);
    }
    assert!(!later.iter().any(|got| matches!(got, Got::Media(_))), "paused");
    assert_eq!(caller.ask(json!({"type": "resume_prompts"})).await["type"], "prompts_resumed");
    let before = caller.eyes.seen().numbers.len();
    caller.until("pictures again", |caller| caller.eyes.seen().numbers.len() > before + 10).await;

    // An engine that dies takes nothing with it: the peer stays, the next engine asks it for a key picture.
    runner.signal_engine(Signal::SIGKILL);
    let before = caller.eyes.seen().numbers.len();
    caller.until("pictures of the next engine", |caller| caller.eyes.seen().numbers.len() > before + 60).await;

    assert_eq!(caller.ask(json!({"type": "stop_prompts"})).await["type"], "prompts_stopped");
    runner.health("IDLE", LONG).await;
    filming.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_workflows_an_offer_is_an_echo() {
    let runner = Runner::idle("invert", &[]).await;
    let mut caller = Caller::new(&runner, json!({"prompts": []})).await;
    assert_eq!(runner.word().await, "IDLE", "an echo takes no slot");
    let filming = film_on(&caller.client, media::h264(30));
    caller.until("its own pictures", |caller| caller.eyes.seen().numbers.len() > 20).await;
    assert_eq!(caller.eyes.seen().inverted, 0);
    let reply = caller.ask(json!({"type": "update_prompts", "prompts": [{}]})).await;
    assert_eq!(reply, json!({"type": "prompts_updated", "success": true}));
    assert_eq!(caller.ask(json!({"type": "nonsense", "request_id": 1})).await["type"], "error");
    filming.abort();
}
