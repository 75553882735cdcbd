//! A whole stream driven by pytrickle's own client, as it is on PyPI.
//!
//! `scripts/pytrickle` installs it and runs this; `WEIR_PYTRICKLE` names the interpreter that has it.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::clips::{Clip, decodes, probe};
use crate::support::{Orchestrator, Runner, seconds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "scripts/pytrickle installs the client and runs this"]
async fn pytrickles_client_drives_a_whole_stream() {
    let python = std::env::var("WEIR_PYTRICKLE").expect("WEIR_PYTRICKLE names a Python that has pytrickle");
    let initial = r#"{"load_ms": 0, "frame_ms": 1}"#;
    let settings = [("engine-initial-params", initial), ("metering-interval", "1s"), ("engine-status", "1s")];
    let runner = Runner::idle("delay", &settings).await;
    let orchestrator = Orchestrator::new().await;
    let stream = "pytrickle-1";
    for (suffix, kind) in [
        ("", "video/mp2t"),
        ("-out", "video/mp2t"),
        ("-control", "application/json"),
        ("-events", "application/json"),
        ("-data", "application/jsonl"),
    ] {
        assert!(orchestrator.server.create(&format!("{stream}{suffix}"), kind));
    }
    let folder = tempfile::tempdir().unwrap();
    for (number, segment) in (Clip { seconds: 10, ..Clip::default() }).segments().iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number}.ts")), segment).unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/integration-tests/pytrickle/drive.py");
    let child = tokio::process::Command::new(python)
        .args([script, &runner.url(), &orchestrator.base, stream, folder.path().to_str().unwrap()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(seconds(120.0), child).await.expect("in time").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();

    let said = |name: &str| (seen["said"][name]["status"].clone(), seen["said"][name]["body"].clone());
    let (status, body) = said("start");
    assert_eq!((status, &body["status"], &body["request_id"]), (json!(200), &json!("success"), &json!(stream)));
    // What the stream asks for beside what is warm may still be loading.
    let state = &body["current_state"]["status"];
    assert!(state == "OK" || state == "LOADING", "{body}");
    let (status, body) = said("second");
    assert_eq!((status, &body["message"]), (json!(503), &json!("Pipeline is still in use")));
    assert_eq!(said("params").0, 200);
    let (status, body) = said("bad");
    assert_eq!((status, body["message"].as_str().unwrap().contains("frame_ms")), (json!(500), true), "{body}");
    let (_, body) = said("status");
    assert_eq!((&body["client_active"], &body["current_params"]["gateway_request_id"]), (&json!(true), &json!(stream)));
    assert_eq!(body["stream"]["inference_status"]["last_params"]["frame_ms"], 3);
    assert_eq!(said("stop").0, 200);
    assert_eq!(said("after").1["client_active"], false);

    // What came back through its subscriber is whole and has the size that was asked for.
    let out = std::fs::read(folder.path().join("out.ts")).unwrap();
    decodes(&out);
    let streams = probe(&out);
    let video = streams.iter().find(|stream| stream["codec_type"] == "video").unwrap();
    assert_eq!((&video["width"], &video["height"]), (&json!(384), &json!(384)));
    let frames: u32 = video["nb_read_frames"].as_str().unwrap().parse().unwrap();
    assert!(frames >= 200, "{frames} of 300 pictures came back");
    assert!(seen["segments"].as_u64().unwrap() >= 4, "{}", seen["segments"]);

    let events: Vec<&str> =
        seen["events"].as_array().unwrap().iter().filter_map(|event| event["event"]["type"].as_str()).collect();
    for kind in ["runner_receive_stream_request", "runner_send_first_processed_segment", "status"] {
        assert!(events.contains(&kind), "{kind}: {events:?}");
    }
    let data = seen["data"].as_array().unwrap();
    assert!(data.iter().any(|item| item.as_str().is_some_and(|text| text.starts_with("frame "))), "{data:?}");
    let figures: Vec<&Value> = data.iter().filter(|item| item["type"] == "metering").collect();
    assert!(figures.len() >= 5, "{data:?}");
    runner.no_panic();
}
