//! What a stream says reaches the data channels of its peers, and slow ones cost nobody a picture.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use str0m::format::Codec;
use str0m::media::Direction;

use super::client::{Client, Got, Offering, Send};
use super::media;
use super::watch::metric;
use super::{JSON, call, connected, film_on, join};
use crate::support::clips::Clip;
use crate::support::{LONG, Orchestrator, Runner, seconds, until};

fn workflow(text: &str) -> Value {
    json!({
        "1": {"class_type": "LoadTensor", "inputs": {}},
        "2": {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "SaveTextTensor", "inputs": {"data": text}}
    })
}

/// The next thing that is said.
async fn said(client: &mut Client) -> Value {
    let next = async {
        loop {
            if let Got::Text(text) = client.got.recv().await.expect("the peer is there") {
                return serde_json::from_str(&text).unwrap();
            }
        }
    };
    tokio::time::timeout(LONG, next).await.expect("a text in time")
}

/// The next text, figures passed over.
async fn text(client: &mut Client) -> Value {
    loop {
        let said = said(client).await;
        if said["type"] != "metering" {
            return said;
        }
    }
}

async fn turn(runner: &Runner, text: &str) {
    let answer = runner.post("/stream/room/params", &json!({"3": {"data": text}})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_of_a_workflow_come_by_the_data_channel() {
    let runner = Runner::idle("comfyui", &[("metering-interval", "1s")]).await;
    let offering = Offering::new(Direction::SendRecv, Codec::H264, Some("data")).await;
    let body = json!({
        "offer": {"sdp": offering.sdp, "type": "offer"}, "prompts": [workflow("one\ntwo")], "stream": "room",
        "resolution": {"width": 384, "height": 384}, "figures": true,
    });
    let answer = call(&runner, "POST", "/offer", JSON, &body.to_string()).await;
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let mut caller = offering.start(answer["sdp"].as_str().unwrap_or_else(|| panic!("{answer}")));
    connected(&mut caller).await;
    let filming = film_on(&caller, media::h264(60));
    assert_eq!(text(&mut caller).await, json!({"type": "text", "data": "onetwo"}));
    turn(&runner, "three").await;
    assert_eq!(text(&mut caller).await, json!({"type": "text", "data": "three"}));
    // Figures were asked for.
    let figures = async {
        loop {
            let said = said(&mut caller).await;
            if said["type"] == "metering" && said["frames_out"].as_u64() > Some(0) {
                return said;
            }
        }
    };
    let figures = tokio::time::timeout(LONG, figures).await.expect("figures in time");
    assert!(figures["interval"].is_u64() && figures["fps"].is_number(), "{figures}");
    // Who comes later learns what was said, and gets no figures unasked.
    let offering = Offering::new(Direction::RecvOnly, Codec::H264, Some("data")).await;
    let (mut viewer, _) = join(&runner, "/whep/room", offering).await;
    assert_eq!(said(&mut viewer).await, json!({"type": "text", "data": "onetwo"}));
    assert_eq!(said(&mut viewer).await, json!({"type": "text", "data": "three"}));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    turn(&runner, "four").await;
    assert_eq!(said(&mut viewer).await, json!({"type": "text", "data": "four"}));
    assert_eq!(text(&mut caller).await, json!({"type": "text", "data": "four"}));
    assert_eq!(metric(&runner, "weir_webrtc_events_total{event=\"data_dropped\"}").await, 0.0);
    filming.abort();
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_no_texts_costs_nobody_a_picture() {
    let runner = Runner::idle("comfyui", &[("webrtc-vanish", "60s")]).await;
    let orchestrator = Orchestrator::new().await;
    let mut stream = orchestrator.stream().await;
    let params = json!({"prompt": workflow("begin"), "width": 384, "height": 384});
    let mut request = stream.request("comfyui", Some(params));
    request["gateway_request_id"] = "room".into();
    let answer = runner.post("/live-video-to-video", &request).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let feeding = stream.feed_behind(Clip { seconds: 60, ..Clip::default() }.segments(), seconds(1.0));
    stream.online().await;
    let viewer = async |runner: &Runner| {
        let offering = Offering::new(Direction::RecvOnly, Codec::H264, Some("data")).await;
        let (mut viewer, _) = join(runner, "/whep/room?figures=true", offering).await;
        assert_eq!(text(&mut viewer).await["data"], "begin");
        viewer
    };
    let (mut good, slow) = (viewer(&runner).await, viewer(&runner).await);
    slow.send.send(Send::Throttle(Some(100))).await.unwrap();
    // Texts of 50 KB, until those for the slow one are dropped.
    let (dropped, began) = ("weir_webrtc_events_total{event=\"data_dropped\"}", Instant::now());
    let mut number = 0;
    while metric(&runner, dropped).await == 0.0 {
        assert!(began.elapsed() < LONG, "nothing was dropped after {number} texts");
        let long = format!("{number:05}{}", "x".repeat(50_000));
        turn(&runner, &long).await;
        assert_eq!(text(&mut good).await["data"], long.as_str());
        number += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = stream.output_cut().iter().map(|segment| segment.video.len()).sum::<usize>();
    until("more pictures", LONG, || {
        let pictures: usize = stream.output_cut().iter().map(|segment| segment.video.len()).sum();
        (pictures > before + 60).then_some(())
    })
    .await;
    // Not one is missing or late.
    let output = stream.output_cut();
    let times: Vec<i64> = output.iter().flat_map(|segment| segment.video.iter().map(|unit| unit.pts)).collect();
    let gaps = times.windows(2).filter(|pair| !(2_990..=3_010).contains(&(pair[1] - pair[0]))).count();
    assert_eq!(gaps, 0, "{times:?}");
    drop(feeding);
    assert_eq!(runner.post("/stream/room/stop", &json!({})).await.status, 200);
    runner.no_panic();
}
