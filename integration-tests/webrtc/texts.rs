//! What a stream says reaches the data channels of its peers, and slow ones cost nobody a picture.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use str0m::format::Codec;
use str0m::media::Direction;

use super::client::{Client, Got, Offering, Send};
use super::media;
use super::watch::metric;
use super::{Caller, JSON, call, connected, film_on, join};
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

    // ComfyStream's other routes: another workflow, and how fast it runs.
    for (path, prompts, said) in
        [("/prompt", workflow("five"), "five"), ("/live/prompt?stream=room", json!([workflow("six")]), "six")]
    {
        let answer = runner.post(path, &prompts).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "\"OK\""), "{path}");
        assert_eq!(text(&mut caller).await["data"], said);
    }
    let wrong = runner.post("/prompt", &json!({"1": {"class_type": "NoSuchNode", "inputs": {}}})).await;
    assert!(wrong.status == 400 && wrong.body.contains("missing input"), "{wrong:?}");
    assert_eq!(runner.post("/prompt?stream=hall", &workflow("x")).await.status, 404);
    let began = Instant::now();
    let stats = loop {
        let stats = runner.get("/live/stream/room/stats").await.json();
        if stats["minute_fps_array"].as_array().is_some_and(|all| all.len() > 2) {
            break stats;
        }
        assert!(began.elapsed() < LONG, "{stats}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    assert!(stats["fps"].as_f64() > Some(0.0) && stats["minute_avg_fps"].as_f64() > Some(0.0), "{stats}");
    assert!(stats["timestamp"].as_f64() > Some(1.0), "{stats}");
    assert!(runner.get("/streams/stats").await.json()["room"]["fps"].is_number());
    assert_eq!(runner.get("/stream/hall/stats").await.status, 404);
    filming.abort();
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_workflow_are_told_with_their_ranges_and_choices() {
    let runner = Runner::idle("comfyui", &[]).await;
    let mut nodes = workflow("text");
    nodes["4"] = json!({"class_type": "ImageBlend", "inputs": {
        "image1": ["1", 0], "image2": ["1", 0], "blend_factor": 0.25, "blend_mode": "screen"}});
    nodes["2"]["inputs"]["images"] = json!(["4", 0]);
    let body = json!({"prompts": [nodes], "resolution": {"width": 384, "height": 384}});
    let mut caller = Caller::new(&runner, body).await;
    let told = caller.ask(json!({"type": "get_nodes"})).await;
    let blend = &told["nodes"]["0"]["4"];
    assert_eq!((&told["type"], &blend["class_type"]), (&json!("nodes_info"), &json!("ImageBlend")), "{told}");
    let factor = &blend["inputs"]["blend_factor"];
    assert_eq!(
        (&factor["value"], &factor["type"], &factor["min"], &factor["max"], &factor["widget"]),
        (&json!(0.25), &json!("FLOAT"), &json!(0.0), &json!(1.0), &json!("number"))
    );
    let mode = &blend["inputs"]["blend_mode"];
    assert_eq!((&mode["value"], &mode["type"]), (&json!("screen"), &json!("combo")));
    assert!(mode["choices"].as_array().unwrap().contains(&json!("multiply")), "{mode}");
    assert!(blend["inputs"].get("image1").is_none(), "links are no widgets: {blend}");
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
    // The slow one takes two seconds for each text that it does not take: none of them is waited for.
    let output = stream.output_cut();
    let times: Vec<i64> = output.iter().flat_map(|segment| segment.video.iter().map(|unit| unit.pts)).collect();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!((1..90_000).contains(&longest), "{longest}");
    let span = (times[times.len() - 1] - times[0]) / 3000;
    assert!(times.len() as i64 * 10 >= span * 8, "{} of {span}", times.len());
    drop(feeding);
    assert_eq!(runner.post("/stream/room/stop", &json!({})).await.status, 200);
    runner.no_panic();
}
