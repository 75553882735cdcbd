//! The stream API of workers: what pytrickle's tests say of its HTTP API and states, said of ours.

use std::time::Duration;

use serde_json::{Value, json};
use weir::link::{FromEngine, Outcome, ToEngine};
use weir::supervisor::Config;

use super::client::{Answer, Running, config, order};
use super::fake::{Fake, Life, report};

async fn with(config: Config, life: Life) -> (Running, Fake) {
    let fake = Fake::new(vec![life]);
    let server = Running::new(config, fake.command()).await;
    (server, fake)
}

async fn warm(life: Life) -> (Running, Fake) {
    let (server, fake) = with(config(), life).await;
    server.becomes("IDLE").await;
    (server, fake)
}

fn stream(id: &str, params: Value) -> Value {
    json!({
        "gateway_request_id": id, "subscribe_url": "http://127.0.0.1:1/in", "publish_url": "http://127.0.0.1:1/out",
        "control_url": "http://127.0.0.1:1/control", "events_url": "http://127.0.0.1:1/events",
        "data_url": "http://127.0.0.1:1/data", "params": params, "something": {"else": 1},
    })
}

fn is(answer: &Answer, status: u16, word: &str, message: &str) {
    let body = answer.json();
    assert_eq!((answer.status, &body["status"]), (status, &json!(word)), "{answer:?}");
    assert!(body["message"].as_str().is_some_and(|text| text.contains(message)), "{answer:?}");
}

fn started(fake: &Fake) -> weir::link::StreamRequest {
    let mut starts = fake.seen().into_iter().filter_map(|(_, message)| match message {
        ToEngine::Start { request, .. } => Some(*request),
        _ => None,
    });
    starts.next_back().expect("a start")
}

fn caps(fake: &Fake) -> Vec<Option<f64>> {
    let caps = fake.seen().into_iter().filter_map(|(_, message)| match message {
        ToEngine::Update { max_fps, .. } => Some(max_fps),
        _ => None,
    });
    caps.collect()
}

fn updates(fake: &Fake) -> Vec<Value> {
    let updates = fake.seen().into_iter().filter_map(|(_, message)| match message {
        ToEngine::Update { params, .. } => Some(Value::Object(params)),
        _ => None,
    });
    updates.collect()
}

#[tokio::test]
async fn a_whole_stream() {
    let (server, fake) = warm(Life::default()).await;
    let before = server.get("/stream/status").await.json();
    for (field, value) in [
        ("status", json!("IDLE")),
        ("pipeline_state", json!("IDLE")),
        ("pipeline_ready", json!(true)),
        ("startup_complete", json!(true)),
        ("active_streams", json!(0)),
        ("client_active", json!(false)),
        ("error_message", json!(null)),
        ("additional_info", json!({})),
    ] {
        assert_eq!(before[field], value, "{field}: {before}");
    }
    assert!(before.get("fps").is_none() && before.get("current_params").is_none());

    let params = json!({"intensity": 0.8, "width": "512", "height": 512, "max_framerate": "24"});
    let answer = server.post("/stream/start", &stream("test-123", params)).await;
    is(&answer, 200, "success", "Stream started successfully");
    let body = answer.json();
    assert_eq!((&body["request_id"], &body["current_state"]["active_streams"]), (&json!("test-123"), &json!(1)));
    let request = started(&fake);
    assert_eq!(request.subscribe_url, "http://127.0.0.1:1/in");
    assert_eq!(request.max_fps, Some(24.0));
    assert_eq!(Value::Object(request.params), json!({"intensity": 0.8, "width": 512, "height": 512}));

    // A stream makes the word OK while the inner state stays IDLE.
    let status = server.get("/stream/status").await.json();
    assert_eq!((&status["status"], &status["pipeline_state"]), (&json!("OK"), &json!("IDLE")));
    assert_eq!((&status["client_active"], &status["client_running"]), (&json!(true), &json!(true)));
    assert_eq!(status["active_streams"], 1);
    assert_eq!(status["current_params"]["gateway_request_id"], "test-123");
    assert!(status["fps"]["ingress_video_fps"].is_number() && status["fps"]["egress_video_fps"].is_number());
    assert_eq!(server.get("/health").await.json()["status"], "OK");

    is(&server.post("/stream/params", &json!({"intensity": 0.9})).await, 200, "success", "Parameters updated");
    is(&server.post("/stream/stop", &json!({})).await, 200, "success", "Stream stopped successfully");
    assert_eq!(server.word().await, "IDLE");
    assert_eq!(server.get("/stream/status").await.json()["client_active"], false);
}

#[tokio::test]
async fn without_a_stream() {
    let (server, _fake) = warm(Life::default()).await;
    is(&server.post("/stream/stop", &json!({})).await, 400, "error", "No active stream to stop");
    is(&server.post("/stream/params", &json!({"intensity": 0.9})).await, 400, "error", "No active stream to update");
    for (method, path) in [("POST", "/stream/x/stop"), ("POST", "/stream/x/params"), ("GET", "/stream/x/status")] {
        let answer = server.send(method, path, "content-type: application/json\r\n", "{}").await;
        is(&answer, 404, "error", "not found");
    }
    assert_eq!(server.get("/streams").await.json(), json!({"count": 0, "streams": {}}));
}

#[tokio::test]
async fn a_start_that_is_wrong_changes_nothing() {
    let (server, fake) = warm(Life::default()).await;
    for (body, message) in [
        (json!({"subscribe_url": "http://h/in"}), "Error starting stream: gateway_request_id"),
        (stream("a", json!({"width": 512})), "Both 'width' and 'height' must be provided together"),
        (stream("a", json!({"max_framerate": 61})), "max_framerate cannot exceed 60 FPS"),
        (stream("a", json!([])), "params"),
    ] {
        is(&server.post("/stream/start", &body).await, 400, "error", message);
    }
    let text = server.send("POST", "/stream/start", "content-type: text/plain\r\n", "{}").await;
    is(&text, 400, "error", "Unknown content type: text/plain");
    is(&server.send("POST", "/stream/start", "content-type: application/json\r\n", "{").await, 400, "error", "JSON");
    assert_eq!(server.word().await, "IDLE");
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn what_the_engine_refuses_is_said_and_leaves_the_slot_free() {
    let outcome = Outcome::BadParams { field: "strength".into(), reason: "Input should be a valid number".into() };
    let (server, _fake) = warm(Life { answer: Some(outcome), ..Life::default() }).await;
    let answer = server.post("/stream/start", &stream("a", json!({}))).await;
    is(&answer, 400, "error", "Error starting stream: strength: Input should be a valid number");
    assert_eq!(server.word().await, "IDLE");
}

#[tokio::test]
async fn a_second_stream_is_turned_away_whichever_door_has_the_first() {
    let (server, _fake) = warm(Life::default()).await;
    let order_a = stream("a", json!({}));
    let answers = futures_util::future::join_all((0..20).map(|_| server.post("/stream/start", &order_a))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        is(answer, 503, "error", "Pipeline is still in use");
        assert_eq!(answer.json()["current_state"]["status"], "OK");
    }
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 500);
    is(&server.post("/stream/stop", &json!({})).await, 200, "success", "stopped");
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    is(&server.post("/stream/start", &order_a).await, 503, "error", "Pipeline is still in use");
    is(&server.post("/stream/g1/stop", &json!({})).await, 200, "success", "stopped");
}

#[tokio::test]
async fn while_loading_and_after_giving_up() {
    let (server, _fake) = with(config(), Life { load_ms: None, ..Life::default() }).await;
    let status = server.get("/stream/status").await.json();
    assert_eq!((&status["status"], &status["pipeline_state"]), (&json!("LOADING"), &json!("LOADING")));
    assert_eq!(status["pipeline_ready"], false);

    let config = Config { max_failures: 1, ..config() };
    let (server, _fake) = with(config, Life { load_error: Some("no libfoo"), ..Life::default() }).await;
    server.becomes("ERROR").await;
    let answer = server.post("/stream/start", &stream("a", json!({}))).await;
    is(&answer, 503, "error", "no libfoo");
    let status = server.get("/stream/status").await.json();
    assert_eq!((&status["status"], &status["pipeline_state"]), (&json!("ERROR"), &json!("ERROR")));
    assert!(status["error_message"].as_str().is_some_and(|text| text.contains("no libfoo")), "{status}");
}

#[tokio::test]
async fn an_update_that_fails_says_so() {
    let (server, fake) = warm(Life::default()).await;
    server.post("/stream/start", &stream("a", json!({"width": 640, "height": 384, "max_framerate": 30}))).await;
    for (body, message) in [
        (json!({"width": 500, "height": 384}), "Parameter update failed: width: Input should be a multiple of 64"),
        (json!({"height": 384}), "Both 'width' and 'height'"),
        (json!({"max_framerate": 0}), "positive"),
        (json!({"show_loading": "perhaps"}), "show_loading"),
        (json!([1]), "dictionary"),
    ] {
        is(&server.post("/stream/params", &body).await, 500, "error", message);
    }
    let text = server.send("POST", "/stream/params", "content-type: text/plain\r\n", "{}").await;
    is(&text, 500, "error", "Parameter update failed: Unknown content type");
    // Only the first of them was for the engine.
    assert_eq!(updates(&fake).len(), 1);

    // The size of the stream stays with an update that does not name it; the cap may be named again.
    is(&server.post("/stream/params", &json!({"x": 1, "max_framerate": 30})).await, 200, "success", "updated");
    is(&server.post("/stream/a/update", &json!({"params": "{\"x\": 2}"})).await, 200, "success", "updated");
    is(&server.post("/stream/a/params", &json!({"params": {"x": 3}})).await, 200, "success", "updated");
    // A new cap alone says nothing of the parameters, and a refused update leaves the cap alone.
    is(&server.post("/stream/params", &json!({"max_framerate": "20"})).await, 200, "success", "updated");
    let wrong = json!({"width": 500, "height": 384, "max_framerate": 10});
    is(&server.post("/stream/params", &wrong).await, 500, "error", "multiple of 64");
    let sized = |x: u64| json!({"x": x, "width": 640, "height": 384});
    assert_eq!(updates(&fake)[1..5], [sized(1), sized(2), sized(3), json!({})]);
    assert_eq!(caps(&fake), [None, Some(30.0), None, None, Some(20.0), Some(10.0)]);
    assert_eq!(server.get("/stream/a/status").await.json()["max_framerate"], 20.0);
}

#[tokio::test]
async fn the_overlay_is_shown_by_hand_and_channels_may_be_missing() {
    let (server, fake) = warm(Life::default()).await;
    let body = json!({"gateway_request_id": "a", "params": {"show_loading": true}});
    is(&server.post("/stream/start", &body).await, 200, "success", "started");
    let request = started(&fake);
    assert!(request.worker && request.show_loading && request.params.is_empty());
    assert!(request.subscribe_url.is_empty() && request.publish_url.is_empty());
    let status = server.get("/stream/status").await.json();
    assert_eq!(
        status["current_params"],
        json!({"subscribe_url": null, "publish_url": null, "gateway_request_id": "a"})
    );
    for (body, wanted, params) in [
        (json!({"show_loading": false}), Some(false), json!({})),
        (json!({"show_loading": "TRUE", "x": 1}), Some(true), json!({"x": 1})),
        (json!({"x": 2}), None, json!({"x": 2})),
    ] {
        is(&server.post("/stream/params", &body).await, 200, "success", "updated");
        let mut updates = fake.seen().into_iter().filter_map(|(_, message)| match message {
            ToEngine::Update { params, show_loading, .. } => Some((show_loading, Value::Object(params))),
            _ => None,
        });
        assert_eq!(updates.next_back(), Some((wanted, params)), "{body}");
    }
}

#[tokio::test]
async fn by_id() {
    let (server, fake) = warm(Life::default()).await;
    let headers = "content-type: application/json\r\nx-stream-id: s-1\r\n";
    let body = stream("g-1", json!({"width": 640, "height": 384})).to_string();
    assert_eq!(server.send("POST", "/stream/start", headers, &body).await.status, 200);
    fake.say(report(1, "ONLINE", json!({"width": 640, "height": 384}).as_object().unwrap().clone()));
    for id in ["g-1", "s-1"] {
        let status = server.get(&format!("/stream/{id}/status")).await.json();
        assert_eq!((&status["request_id"], &status["running"]), (&json!("g-1"), &json!(true)));
        assert_eq!((&status["width"], &status["height"]), (&json!(640), &json!(384)));
        assert_eq!(status["publish_url"], "http://127.0.0.1:1/out");
        assert!(status["frame_count"].is_number());
    }
    let list = server.get("/streams").await.json();
    assert_eq!((&list["count"], &list["streams"]["g-1"]["running"]), (&json!(1), &json!(true)));

    // A stop that is meant for another stream leaves this one alone.
    is(&server.post("/stream/g-2/stop", &json!({})).await, 404, "error", "not found");
    let stale = server.send("POST", "/stream/stop", "x-stream-id: s-0\r\n", "").await;
    is(&stale, 400, "error", "No active stream to stop");
    assert_eq!(server.word().await, "OK");
    // An orchestrator stops with a body of any kind.
    let stop = server.send("POST", "/stream/stop", "x-stream-id: s-1\r\n", "no balance").await;
    is(&stop, 200, "success", "stopped");
}

#[tokio::test]
async fn a_page_of_another_site_cannot_stop_a_stream() {
    let (server, _fake) = warm(Life::default()).await;
    server.post("/stream/start", &stream("a", json!({}))).await;
    let headers = "origin: http://elsewhere\r\ncontent-type: text/plain\r\n";
    assert_eq!(server.send("POST", "/stream/stop", headers, "").await.status, 400);
    assert_eq!(server.word().await, "OK");
}

#[tokio::test]
async fn the_token_guards_everything_and_is_the_only_401() {
    let config = Config { auth_token: "secret".into(), ..config() };
    let (server, fake) = with(config, Life::default()).await;
    server.becomes("IDLE").await;
    let routes = [
        ("POST", "/stream/start"),
        ("POST", "/stream/stop"),
        ("POST", "/stream/params"),
        ("GET", "/stream/status"),
        ("POST", "/stream/a/stop"),
        ("POST", "/stream/a/params"),
        ("POST", "/stream/a/update"),
        ("GET", "/stream/a/status"),
        ("GET", "/streams"),
    ];
    let body = stream("a", json!({})).to_string();
    for (method, path) in routes {
        for token in ["", "authorization: Bearer wrong\r\n"] {
            let headers = format!("content-type: application/json\r\n{token}");
            assert_eq!(server.send(method, path, &headers, &body).await.status, 401, "{path}");
        }
        let headers = "content-type: application/json\r\nauthorization: Bearer secret\r\n";
        let status = server.send(method, path, headers, &body).await.status;
        assert!([200, 400, 404].contains(&status), "{path}: {status}");
    }
    assert_eq!(fake.seen().iter().filter(|(_, it)| matches!(it, ToEngine::Start { .. })).count(), 1);
}

#[tokio::test]
async fn prefixes() {
    for prefix in ["/api", "/v1", "/custom"] {
        let (server, _fake) = with(Config { stream_prefix: prefix.into(), ..config() }, Life::default()).await;
        assert_eq!(server.get(&format!("{prefix}/stream/status")).await.status, 200);
        assert_eq!(server.get("/stream/status").await.status, 404);
        assert_eq!(server.get("/health").await.status, 200);
        let text = server.get("/metrics").await.body;
        let line = "weir_supervisor_http_requests_total{code=\"200\",route=\"/stream/status\"} 1";
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn system_endpoints() {
    let config = Config { pipeline: "byoc".into(), model_id: "noop".into(), ..config() };
    let (server, fake) = with(config, Life::default()).await;
    server.becomes("IDLE").await;
    let version = json!({"pipeline": "byoc", "model_id": "noop", "version": "1.2.3"});
    assert_eq!(server.get("/version").await.json(), version);
    assert_eq!(server.get("/app-version").await.json(), json!({"version": "1.2.3"}));
    assert_eq!(server.get("/health").await.json(), json!({"status": "IDLE"}));
    assert!(server.get("/hardware/info").await.json()["gpu_info"].is_object());
    assert!(server.get("/hardware/stats").await.json()["gpu_stats"].is_object());
    server.post("/stream/start", &stream("a", json!({}))).await;
    assert_eq!(server.get("/health").await.json(), json!({"status": "OK"}));
    // A stream that ends by itself leaves no error behind.
    fake.say(FromEngine::Ended { session: 1, reason: "x".into(), fault: true });
    server.becomes("IDLE").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(server.get("/stream/status").await.json()["error_message"], json!(null));
}
