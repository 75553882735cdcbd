//! An IP-Adapter on the whole path: strength and style picture change while video flows.

use std::io::Cursor;
use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};

use super::adapter::style;
use super::folders::{self, Line};
use super::live::{Change, apart, counters, pictures, some_pictures, status, update};
use crate::support::clips::Clip;
use crate::support::{LONG, Orchestrator, Runner, seconds, ts, until};

const MODEL: &str = "stabilityai/sdxl-turbo";

/// A folder of models as an operator has it.
fn models(root: &Path) {
    folders::model(&root.join("models--stabilityai--sdxl-turbo/snapshots/0a1b"), Line::Sdxl, false);
    folders::taesd(&root.join("models--madebyollin--taesdxl/snapshots/0a1b"));
    folders::adapter(&root.join("models--h94--IP-Adapter/snapshots/0a1b"), Line::Sdxl);
}

fn with(more: Value) -> Value {
    let mut params = json!({
        "model_id": MODEL, "width": 384, "height": 384, "cfg_type": "none", "t_index_list": [20], "prompt": "a cat",
        "seed": 2, "ip_adapter": {"scale": 0.2}, "ip_adapter_style_image_url": style(),
    });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    params
}

/// A server of pictures, for whoever may go there.
async fn server() -> SocketAddr {
    let mut file = Cursor::new(Vec::new());
    let red = image::RgbImage::from_fn(90, 70, |x, y| image::Rgb([255, (x * y % 90) as u8, (x / 30 * 100) as u8]));
    red.write_to(&mut file, image::ImageFormat::Png).unwrap();
    let router = Router::new().route("/red.png", get(async move || file.into_inner()));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn settings<'a>(folder: &'a Path, start: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("engine-models", folder.to_str().unwrap()),
        ("engine-initial-params", start),
        ("engine-pictures", "loopback"),
        ("engine-status", "500ms"),
        // Only a queue that is full loses pictures, not a machine that is busy for a moment.
        ("engine-freshness", "10s"),
        ("media-video-crf", "4"),
        ("media-video-kbps", "20000"),
        ("media-segment-seconds", "2"),
        ("inference-threads", "1"),
        ("restart-hang", "30s"),
    ]
}

const PREPARED: &str = "What the new parameters needed is in place.";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strength_and_style_change_while_video_flows() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let address = server().await;
    let start = with(json!({})).to_string();
    let runner = Runner::idle("streamdiffusion-sdxl", &settings(folder.path(), &start)).await;
    let orchestrator = Orchestrator::new().await;
    let clip = Clip { source: "smptebars", size: "384x384", fps: 2, seconds: 90, audio: "", ..Clip::default() };
    let segments = clip.segments();
    let mut stream = orchestrator.run(&runner, "streamdiffusion-sdxl", Some(with(json!({})))).await;
    let feeding = stream.feed_behind(segments.clone(), seconds(2.0));
    stream.online().await;
    some_pictures(&runner).await;

    let mut params = with(json!({}));
    let mut changes: Vec<Change> = Vec::new();
    let other = format!("http://{address}/red.png");
    for (prepared, more) in [
        (false, json!({"ip_adapter": {"scale": 1.2}})),
        (false, json!({"ip_adapter": {"scale": 1.2, "weight_type": "style transfer"}})),
        (true, json!({"ip_adapter": {"scale": 1.2}, "ip_adapter_style_image_url": other})),
        (false, json!({"ip_adapter": {"enabled": false}})),
        // Its picture is known.
        (false, json!({"ip_adapter": {"scale": 1.5}})),
    ] {
        let what = more.to_string();
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let before = runner.log().matches(PREPARED).count();
        changes.push(update(&runner, &mut stream, &params, &what).await);
        let done = || runner.log().matches(PREPARED).count() - before;
        // The line of the log comes by another way than the status that was waited for.
        until("a line of the log", LONG, || (!prepared || done() > 0).then_some(())).await;
        assert_eq!(done(), usize::from(prepared), "{what}");
        some_pictures(&runner).await;
    }
    assert_eq!(runner.log().matches("The new graph is in place.").count(), 0);
    assert_eq!(stream.events_of("error"), Vec::<Value>::new());

    // A picture that cannot be had is told, and nothing changes.
    let mut wrong = params.clone();
    wrong["ip_adapter_style_image_url"] = format!("http://{address}/none.png").into();
    stream.control(wrong.to_string()).await;
    let error = stream.event("error", |_| true).await;
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("Error updating params: ") && message.contains("404"), "{error}");
    some_pictures(&runner).await;
    let now = status(&runner).await;
    assert_eq!(now["inference_status"]["last_params"], params, "what was refused is not current");
    let seen = counters(&runner, "weir_frames_published_total").await;
    let drops = counters(&runner, "weir_frames_dropped_total").await;
    drop(feeding);
    stream.close().await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();

    // No picture is missing, and none is a stand-in.
    let input: Vec<i64> =
        segments.iter().map(ts::read).flat_map(|s| s.video.into_iter().map(|unit| unit.pts)).collect();
    let output: Vec<i64> = stream.output().iter().flat_map(|s| s.video.iter().map(|unit| unit.pts)).collect();
    assert_eq!(output, input[..output.len()], "a picture is missing");
    for (key, value) in seen {
        assert!(value == 0.0 || key.contains("processed"), "{key} {value}");
    }
    assert!(drops.values().all(|&value| value == 0.0), "{drops:?}");

    // One change of the picture for each update, at the first picture behind it; none between.
    let shown = pictures(&stream.output_bytes());
    assert_eq!(shown.len(), output.len());
    let turns: Vec<usize> = (1..shown.len()).filter(|&i| apart(&shown[i - 1], &shown[i]) > 0.4).collect();
    let told = || turns.iter().map(|&i| format!("{i}: {:.1}", apart(&shown[i - 1], &shown[i]))).collect::<Vec<_>>();
    assert_eq!(turns.len(), changes.len(), "{:?} {changes:?}", told());
    for (turn, Change { what, between: [first, last] }) in turns.iter().zip(&changes) {
        assert!((first..=last).contains(&turn), "{what}: at {turn}, not in {first}..={last}; {:?}", told());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preset_starts_without_what_it_lacks_and_streams_are_told() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let adapter = folder.path().join("models--h94--IP-Adapter");
    let aside = folder.path().join("aside");
    std::fs::rename(&adapter, &aside).unwrap();
    let settings: Vec<_> =
        settings(folder.path(), "").into_iter().filter(|(key, _)| *key != "engine-initial-params").collect();
    let runner = Runner::idle("streamdiffusion-sdxl", &settings).await;
    assert!(
        runner.log().contains("without its IP-Adapter") && runner.log().contains("weir models pull h94/IP-Adapter")
    );
    let orchestrator = Orchestrator::new().await;

    // A stream that asks for it is told before its first picture, and the runner goes on.
    let stream = orchestrator.run(&runner, "streamdiffusion-sdxl", Some(with(json!({})))).await;
    let error = stream.event("error", |_| true).await;
    assert!(error["message"].as_str().unwrap().contains("h94/IP-Adapter was not found"), "{error}");
    runner.health("IDLE", LONG).await;

    // The files come, and a picture may not be fetched from there.
    std::fs::rename(&aside, &adapter).unwrap();
    let there = with(json!({"ip_adapter_style_image_url": "http://192.0.2.1/x.png"}));
    let stream = orchestrator.run(&runner, "streamdiffusion-sdxl", Some(there)).await;
    let error = stream.event("error", |_| true).await;
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("Failed to fetch image from URL: 192.0.2.1 is not among"), "{error}");
    assert!(message.contains("engine.pictures") && message.contains("data URI"), "{error}");
    runner.health("IDLE", LONG).await;

    // A stream without an adapter runs.
    let plain = with(json!({"ip_adapter": {"enabled": false}}));
    let mut stream = orchestrator.run(&runner, "streamdiffusion-sdxl", Some(plain)).await;
    let clip = Clip { source: "smptebars", size: "384x384", fps: 2, seconds: 20, audio: "", ..Clip::default() };
    let feeding = stream.feed_behind(clip.segments(), seconds(2.0));
    stream.online().await;
    drop(feeding);
    stream.close().await;
    runner.health("IDLE", LONG).await;
    runner.no_panic();
}
