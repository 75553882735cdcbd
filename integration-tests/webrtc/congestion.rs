//! Ways that take little or lose much: what the encoder makes of them, and what is seen.

use std::time::{Duration, Instant};

use str0m::format::Codec;
use str0m::media::KeyframeRequestKind;

use super::client::{Client, Send};
use super::media::{self, Eyes};
use super::watch::{camera, look, metric, picture, viewer};
use super::{SMALL, film_on};
use crate::support::{Runner, seconds};

/// Time in which the encoder has followed, on a machine that is busy with other tests too.
const FOLLOWS: Duration = Duration::from_secs(90);

/// Kilobits a second that the runner puts out, over some time in which `client` is read.
async fn produced(runner: &Runner, client: &mut Client, over: Duration) -> f64 {
    let (before, began) = (metric(runner, "weir_output_bytes_total ").await, Instant::now());
    while began.elapsed() < over {
        picture(client).await;
    }
    let bytes = metric(runner, "weir_output_bytes_total ").await - before;
    bytes * 0.008 / began.elapsed().as_secs_f64()
}

/// Waits until a second's rate is right. Gives it, and the time it took.
async fn comes_to(runner: &Runner, client: &mut Client, what: &str, right: impl Fn(f64) -> bool) -> (f64, Duration) {
    let (began, mut rates) = (Instant::now(), Vec::new());
    loop {
        let rate = produced(runner, client, seconds(1.0)).await;
        rates.push(rate.round());
        if right(rate) {
            eprintln!("{what}: {rate:.0} kbit/s after {:.1} s", began.elapsed().as_secs_f64());
            return (rate, began.elapsed());
        }
        assert!(began.elapsed() < FOLLOWS, "{what}: {rates:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_encoder_gives_what_the_slowest_way_takes() {
    let runner = Runner::idle("noop", &[]).await;
    let (camera, _) = camera(&runner, &format!("/whip/cam?{SMALL}")).await;
    let filming = film_on(&camera, media::noise(120));
    let (mut viewer, _resource) = viewer(&runner, "/whep/cam", Codec::H264).await;
    picture(&mut viewer).await;
    let (free, _) = comes_to(&runner, &mut viewer, "free", |kbps| kbps > 1000.0).await;
    // What the peer says of itself. The ceiling that follows is 85 % of it; tables and headers are on top.
    viewer.send.send(Send::Remb(400_000)).await.ok().unwrap();
    comes_to(&runner, &mut viewer, "REMB of 400", |kbps| kbps < 420.0).await;
    let kept = produced(&runner, &mut viewer, seconds(3.0)).await;
    assert!((200.0..420.0).contains(&kept), "{kept} with a REMB of 400");
    viewer.send.send(Send::Remb(20_000_000)).await.ok().unwrap();
    comes_to(&runner, &mut viewer, "REMB of 20000", |kbps| kbps > free * 0.6).await;
    // What its reports of packets come to, on a way that takes less from now on.
    viewer.send.send(Send::Throttle(Some(500_000))).await.ok().unwrap();
    comes_to(&runner, &mut viewer, "a way of 500", |kbps| kbps < 500.0).await;
    let kept = produced(&runner, &mut viewer, seconds(4.0)).await;
    assert!((100.0..500.0).contains(&kept), "{kept} on a way of 500");
    viewer.send.send(Send::Throttle(None)).await.ok().unwrap();
    comes_to(&runner, &mut viewer, "a wide way again", |kbps| kbps > free * 0.6).await;
    filming.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_go_on_over_ways_that_lose_and_delay() {
    let runner = Runner::idle("invert", &[]).await;
    let (camera, _) = camera(&runner, &format!("/whip/cam?{SMALL}")).await;
    let filming = film_on(&camera, media::h264(600));
    let (mut viewer, _resource) = viewer(&runner, "/whep/cam", Codec::H264).await;
    let mut eyes = Eyes::new();
    look(&mut viewer, &mut eyes, 10).await;
    // Of the datagrams in both directions, before and behind the runner, one in twenty is lost.
    for client in [&camera, &viewer] {
        client.send.send(Send::Disturb { loss: 50, delay: Duration::from_millis(30) }).await.ok().unwrap();
    }
    let (began, before) = (Instant::now(), eyes.seen().numbers.len());
    let (mut last, mut gap, mut read) = (began, Duration::ZERO, before);
    while began.elapsed() < seconds(10.0) {
        let sample = picture(&mut viewer).await;
        if !sample.whole {
            viewer.send.send(Send::AskKey(KeyframeRequestKind::Pli)).await.ok().unwrap();
        }
        eyes.look(&sample);
        if eyes.seen().numbers.len() > read {
            read = eyes.seen().numbers.len();
            (last, gap) = (Instant::now(), gap.max(last.elapsed()));
        }
    }
    let (seen, read) = (eyes.seen(), read - before);
    let lost = metric(&runner, "weir_webrtc_events_total{event=\"video_lost\"}").await;
    eprintln!(
        "one datagram in twenty lost: {read} of 300 pictures, longest gap {gap:?}, not mended on the way in: {lost}"
    );
    assert_eq!(seen.inverted, seen.numbers.len());
    assert!(seen.numbers.windows(2).all(|pair| pair[0] < pair[1]), "numbers rise: {:?}", seen.numbers);
    // What cannot be mended waits for the camera's next key picture, which comes every two seconds.
    assert!(read >= 150 && gap < seconds(6.0), "{read} of 300, longest gap {gap:?}\n{}", runner.log());
    assert!(metric(&runner, "weir_webrtc_events_total{event=\"video_in\"}").await > 150.0);
    filming.abort();
}
