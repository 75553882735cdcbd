//! Those who watch: streams of other doors, peers without H.264, slow ways, and peers that move.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use str0m::format::Codec;
use str0m::media::{Direction, KeyframeRequestKind};
use weir::media::VideoCodec;
use weir::webrtc::{Sample, SampleKind};

use super::client::{Client, Got, Offering, Send};
use super::media::{self, Eyes};
use super::{Caller, FRAGMENT, JSON, SDP, SMALL, call, connected, film_on, join, patch};
use crate::support::{LONG, Orchestrator, Runner, seconds, until};

pub async fn viewer(runner: &Runner, path: &str, codec: Codec) -> (Client, String) {
    let (mut viewer, resource) = join(runner, path, Offering::new(Direction::RecvOnly, codec, None).await).await;
    connected(&mut viewer).await;
    (viewer, resource)
}

pub async fn camera(runner: &Runner, path: &str) -> (Client, String) {
    let offering = Offering::new(Direction::SendOnly, Codec::H264, None).await;
    let (mut camera, resource) = join(runner, path, offering).await;
    connected(&mut camera).await;
    (camera, resource)
}

/// The next picture.
pub async fn picture(client: &mut Client) -> Sample {
    let next = async {
        loop {
            match client.got.recv().await.expect("the peer is there") {
                Got::Media(sample) if sample.kind != SampleKind::Audio => return sample,
                _ => {}
            }
        }
    };
    tokio::time::timeout(LONG, next).await.expect("a picture in time")
}

/// Looks at pictures until `count` more were read.
pub async fn look(client: &mut Client, eyes: &mut Eyes, count: usize) {
    let wanted = eyes.seen().numbers.len() + count;
    while eyes.seen().numbers.len() < wanted {
        eyes.look(&picture(client).await);
    }
}

/// Waits until nothing comes any more.
async fn silence(client: &mut Client) {
    let over = async { while client.got.recv().await.is_some() {} };
    tokio::time::timeout(LONG, over).await.expect("the peer is let go");
}

pub async fn metric(runner: &Runner, name: &str) -> f64 {
    let text = runner.get("/metrics").await.body;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_another_door_is_watched_beside_its_own_way() {
    let runner = Runner::idle("invert", &[("webrtc-max-peers", "2")]).await;
    let none = Offering::new(Direction::RecvOnly, Codec::H264, None).await;
    assert_eq!(call(&runner, "POST", "/whep/9c1f03ab", SDP, &none.sdp).await.status(), 404);
    let segments = media::segments(60 * 30);
    let orchestrator = Orchestrator::new().await;
    let size = json!({"width": 384, "height": 384});
    let mut stream = orchestrator.run(&runner, "invert", Some(size)).await;
    let feeding = stream.feed_behind(segments.into(), seconds(1.0));
    // By its request id, and as the only one; the second has no H.264.
    let (mut first, leaving) = viewer(&runner, "/whep/9c1f03ab", Codec::H264).await;
    let began = Instant::now();
    let sample = picture(&mut first).await;
    assert!(sample.key, "a late viewer begins with a key picture");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let mut eyes = Eyes::new();
    eyes.look(&sample);
    look(&mut first, &mut eyes, 45).await;
    let (mut second, _second) = viewer(&runner, "/whep", Codec::Vp8).await;
    let sample = picture(&mut second).await;
    assert_eq!((sample.kind, sample.key), (SampleKind::Video(VideoCodec::Vp8), true));
    let mut others = Eyes::new();
    others.look(&sample);
    look(&mut second, &mut others, 45).await;
    look(&mut first, &mut eyes, 45).await;
    for seen in [eyes.seen(), others.seen()] {
        assert!(seen.numbers.windows(2).all(|pair| pair[0] < pair[1]), "numbers rise: {:?}", seen.numbers);
        assert_eq!(seen.inverted, seen.numbers.len(), "the model's pictures");
        let span = (seen.numbers[seen.numbers.len() - 1] - seen.numbers[0]) as usize;
        assert!(seen.numbers.len() * 10 >= span * 8, "{} of {span}", seen.numbers.len());
    }
    let third = Offering::new(Direction::RecvOnly, Codec::H264, None).await;
    assert_eq!(call(&runner, "POST", "/whep", SDP, &third.sdp).await.status(), 503, "as many as may be");
    // One leaves, the other stays; what goes to the orchestrator is whole.
    assert_eq!(call(&runner, "DELETE", &leaving, JSON, "").await.status(), 200);
    silence(&mut first).await;
    look(&mut second, &mut others, 30).await;
    // Another engine knows of those who watch.
    runner.signal_engine(Signal::SIGKILL);
    while second.got.try_recv().is_ok() {}
    let mut eyes = Eyes::new();
    look(&mut second, &mut eyes, 45).await;
    assert_eq!(metric(&runner, "weir_webrtc_events_total{event=\"tap_opened\"}").await, 2.0);
    until("six segments and 150 pictures on the stream's own way", LONG, || {
        let out = stream.output_cut();
        let pictures: usize = out.iter().map(|segment| segment.video.len()).sum();
        (out.len() > 5 && pictures > 150).then_some(())
    })
    .await;
    // The end of the stream is theirs too.
    drop(feeding);
    assert_eq!(runner.post("/api/stop", &json!({})).await.status, 200);
    silence(&mut second).await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_h264_gets_vp8() {
    let folder = tempfile::tempdir().unwrap();
    let runner = Runner::idle("invert", &[("record-path", &folder.path().display().to_string())]).await;
    // On one connection: the session itself codes VP8.
    let body = json!({"params": {"width": 384, "height": 384}, "stream": "room"});
    let clip = media::vp8(60);
    let mut caller = Caller::with(&runner, body, Codec::Vp8).await;
    let filming = film_on(&caller.client, clip);
    caller.until("inverted pictures", |caller| caller.eyes.seen().inverted > 30).await;
    let numbers = caller.eyes.seen().numbers.len();
    assert_eq!(caller.eyes.seen().inverted, numbers);
    assert!(runner.get("/metrics").await.body.contains("encoder=\"libvpx\""));
    // Such pictures go into a transport stream, and into no MP4.
    let mp4 = runner.post("/recordings", &json!({"stream": "room", "format": "mp4"})).await;
    assert_eq!((mp4.status, mp4.body.contains("VP8")), (409, true), "{mp4:?}");
    assert_eq!(runner.post("/recordings", &json!({"stream": "room"})).await.status, 201);
    // Who has nothing but H.264 watches the same stream, coded once more.
    let (mut other, _) = viewer(&runner, "/whep/room", Codec::H264).await;
    let mut eyes = Eyes::new();
    let sample = picture(&mut other).await;
    assert_eq!((sample.kind, sample.key), (SampleKind::Video(VideoCodec::H264), true));
    eyes.look(&sample);
    look(&mut other, &mut eyes, 30).await;
    assert_eq!(eyes.seen().inverted, eyes.seen().numbers.len());
    // A key picture on request, of the coding that it is asked of.
    pictures_until_key(&mut other, KeyframeRequestKind::Pli).await;
    filming.abort();
}

/// Asks for a key picture right after one came by itself, and counts the pictures until the next one.
async fn pictures_until_key(client: &mut Client, kind: KeyframeRequestKind) -> usize {
    while client.got.try_recv().is_ok() {}
    while !picture(client).await.key {}
    client.send.send(Send::AskKey(kind)).await.ok().unwrap();
    let mut count = 1;
    loop {
        let sample = picture(client).await;
        if sample.key {
            let idr = sample.data.windows(4).any(|four| four[..3] == [0, 0, 1] && four[3] & 0x1F == 5);
            assert!(idr || sample.kind != SampleKind::Video(VideoCodec::H264), "an IDR picture");
            // By itself one would come after two seconds, which is 60 pictures.
            assert!(count <= 20, "{kind:?}: {count} pictures");
            return count;
        }
        count += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_picture_that_is_asked_for_comes_within_a_few_pictures() {
    let runner = Runner::idle("noop", &[]).await;
    let clip = media::h264(150);
    let (camera, _) = camera(&runner, &format!("/whip/cam?{SMALL}")).await;
    let filming = film_on(&camera, clip);
    let (mut viewer, _) = viewer(&runner, "/whep/cam", Codec::H264).await;
    for kind in [KeyframeRequestKind::Pli, KeyframeRequestKind::Fir, KeyframeRequestKind::Pli] {
        let count = pictures_until_key(&mut viewer, kind).await;
        eprintln!("{kind:?}: an IDR picture after {count} pictures");
    }
    filming.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_move_go_on_with_a_new_ice_session() {
    let settings = [
        ("webrtc-stun", "stun:stun.example:3478"),
        ("webrtc-turn", "turn:turn.example:3478"),
        ("webrtc-turn-secret", "north"),
    ];
    let runner = Runner::idle("invert", &settings).await;
    let offering = Offering::new(Direction::SendOnly, Codec::H264, None).await;
    let response = call(&runner, "POST", &format!("/whip/cam?{SMALL}"), SDP, &offering.sdp).await;
    assert_eq!(response.status(), 201);
    let headers = response.headers().clone();
    let links: Vec<&str> = headers.get_all("link").iter().map(|link| link.to_str().unwrap()).collect();
    assert_eq!(links[0], "<stun:stun.example:3478>; rel=\"ice-server\"");
    assert!(links[1].starts_with("<turn:turn.example:3478>; rel=\"ice-server\"; username=\"1"), "{links:?}");
    assert!(links[1].ends_with("credential-type=\"password\""), "{links:?}");
    assert_eq!(headers["accept-patch"], FRAGMENT);
    let (tag, sending) =
        (headers["etag"].to_str().unwrap().to_owned(), headers["location"].to_str().unwrap().to_owned());
    let answer = response.text().await.unwrap();
    let clip = media::h264(150);
    let mut camera = offering.start(&answer);
    connected(&mut camera).await;
    let filming = film_on(&camera, clip);
    let (mut viewer, watching) = viewer(&runner, "/whep/cam", Codec::H264).await;
    let mut eyes = Eyes::new();
    look(&mut viewer, &mut eyes, 20).await;

    let candidate = "a=candidate:1 1 udp 2130706431 192.0.2.1 54400 typ host\r\n";
    for (tags, status) in [(None, 204), (Some("*"), 204), (Some(&*tag), 204), (Some("\"other\""), 412)] {
        assert_eq!(patch(&runner, &sending, candidate, tags).await.status(), status, "{tags:?}");
    }
    let wrong = "a=ice-ufrag:other\r\na=ice-pwd:short\r\n";
    assert_eq!(patch(&runner, &sending, wrong, Some("*")).await.status(), 400);
    assert_eq!(patch(&runner, "/webrtc/nobody", candidate, None).await.status(), 404);

    // Both move to another port, one after the other, twice; what they send and see goes on.
    for round in 0..2 {
        for (client, resource) in [(&camera, &sending), (&viewer, &watching)] {
            let fragment = client.restart().await;
            let answer = patch(&runner, resource, &fragment, Some("*")).await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["content-type"], FRAGMENT);
            assert_eq!(answer.headers()["etag"], format!("\"ice-{}\"", round + 1));
            let ours = answer.text().await.unwrap();
            assert!(ours.contains("a=ice-ufrag:") && ours.contains("a=candidate:"), "{ours}");
            assert!(client.send.send(Send::Restarted(ours)).await.is_ok());
        }
        let restarted = Instant::now();
        // What was on its way when the old ports closed is older than the new session.
        while viewer.got.try_recv().is_ok() {}
        tokio::time::sleep(Duration::from_millis(200)).await;
        while viewer.got.try_recv().is_ok() {}
        let mut eyes = Eyes::new();
        look(&mut viewer, &mut eyes, 60).await;
        assert_eq!(eyes.seen().inverted, eyes.seen().numbers.len());
        eprintln!("round {round}: 60 pictures within {:?} of a new ICE session", restarted.elapsed());
    }
    assert_eq!(patch(&runner, &sending, candidate, Some(&tag)).await.status(), 412, "the first session's tag");
    assert_eq!(metric(&runner, "weir_webrtc_events_total{event=\"ice_restarts\"}").await, 4.0);
    for resource in [&watching, &sending] {
        assert_eq!(call(&runner, "DELETE", resource, JSON, "").await.status(), 200);
        assert_eq!(call(&runner, "DELETE", resource, JSON, "").await.status(), 404);
    }
    runner.health("IDLE", LONG).await;
    filming.abort();
}
