//! The supervisor with an engine that does as it is told.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir::link::{FromEngine, Outcome, Phase, Resume, StreamRequest, ToEngine};
use weir::supervisor::Config;

use client::{Running, config, exchange, order, until};
use fake::{Fake, Life, report};

mod byoc;
mod client;
mod fake;
mod orchestra;
mod processes;
mod runner;
mod safety;
mod stream;

async fn running(life: Life) -> (Running, Fake) {
    let fake = Fake::new(vec![life]);
    (Running::new(config(), fake.command()).await, fake)
}

async fn warm(life: Life) -> (Running, Fake) {
    let (server, fake) = running(life).await;
    server.becomes("IDLE").await;
    (server, fake)
}

#[tokio::test]
async fn words_of_a_whole_life() {
    let (server, fake) = running(Life { load_ms: Some(300), ..Life::default() }).await;
    assert_eq!(server.word().await, "LOADING");
    server.becomes("IDLE").await;
    let begin = Instant::now();
    let answer = server.post("/live-video-to-video", &order()).await;
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    assert_eq!(answer.status, 200);
    let empty = json!({
        "subscribe_url": "", "publish_url": "", "control_url": "", "events_url": "", "request_id": "", "manifest_id": "",
    });
    assert_eq!(answer.json(), empty);
    assert_eq!(server.word().await, "OK");

    fake.say(report(1, "LOADING", Default::default()));
    server.becomes("LOADING").await;
    fake.say(report(1, "ERROR", Default::default()));
    server.becomes("OK").await;

    fake.say(FromEngine::Ended { session: 1, reason: "input ended".into(), fault: false });
    server.becomes("IDLE").await;
    assert!(server.stop().await < Duration::from_millis(800));
}

#[tokio::test]
async fn the_order_reaches_the_engine_as_it_was_given() {
    let (server, fake) = warm(Life::default()).await;
    server.post("/live-video-to-video/", &order()).await;
    let seen = fake.seen();
    let (pipeline, config) = match &seen[0].1 {
        ToEngine::Load { pipeline, config } => (pipeline, config),
        other => panic!("{other:?}"),
    };
    assert_eq!((pipeline.as_str(), &config["capacity"]), ("noop", &json!(1)));
    let ToEngine::Start { session: 1, request, resume: None, arrived_ms, .. } = &seen[1].1 else { panic!("{seen:?}") };
    let expected: StreamRequest = serde_json::from_value(order()).unwrap();
    assert_eq!(**request, expected);
    assert!(*arrived_ms > 1_600_000_000_000);
}

#[tokio::test]
async fn a_second_stream_is_refused_in_words_that_send_it_elsewhere() {
    let (server, fake) = warm(Life::default()).await;
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    let answer = server.post("/live-video-to-video", &order()).await;
    assert_eq!(answer.status, 500);
    assert!(answer.msg().contains("insufficient capacity"));
    assert_eq!(server.word().await, "OK");
    let starts = fake.seen().iter().filter(|(_, message)| matches!(message, ToEngine::Start { .. })).count();
    assert_eq!(starts, 1);
}

#[tokio::test]
async fn a_hundred_starts_at_once_get_one_slot() {
    let (server, _fake) = warm(Life::default()).await;
    let order = order();
    let posts = (0..100).map(|_| server.post("/live-video-to-video", &order));
    let answers = futures_util::future::join_all(posts).await;
    let accepted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(accepted, 1);
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.msg().contains("insufficient capacity")));
}

#[tokio::test]
async fn idle_is_left_before_the_start_is_answered() {
    let (server, fake) = warm(Life { answer: None, ..Life::default() }).await;
    let order = order();
    let (answer, ()) = tokio::join!(server.post("/live-video-to-video", &order), async {
        until("the start", async || fake.seen().len() > 1).await;
        assert_eq!(server.word().await, "OK");
    });
    // The engine never answered: refused, told to stop, and free again once it says so.
    assert_eq!(answer.status, 500);
    assert!(answer.msg().contains("insufficient capacity"), "{answer:?}");
    let last = fake.seen().pop().map(|(_, message)| message);
    assert!(matches!(last, Some(ToEngine::Stop { session: 1, .. })), "{last:?}");
    server.becomes("IDLE").await;
}

#[tokio::test]
async fn a_refused_start_gives_its_slot_back() {
    let refusals = [
        (Outcome::BadParams { field: "width".into(), reason: "too small".into() }, 400, "width: too small"),
        (Outcome::BadRequest { message: "subscribe_url is no URL".into() }, 400, "subscribe_url is no URL"),
        (Outcome::Failed { message: "the device is lost".into() }, 500, "the device is lost"),
        (Outcome::Busy, 500, "insufficient capacity: every stream slot is in use"),
    ];
    for (outcome, status, msg) in refusals {
        let (server, _fake) = warm(Life { answer: Some(outcome), ..Life::default() }).await;
        let answer = server.post("/live-video-to-video", &order()).await;
        assert_eq!((answer.status, answer.msg().as_str()), (status, msg));
        assert_eq!(server.word().await, "IDLE");
    }
}

#[tokio::test]
async fn a_loading_engine_is_no_reason_to_refuse() {
    let (server, _fake) = running(Life { load_ms: Some(1_000), ..Life::default() }).await;
    let begin = Instant::now();
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    assert!(begin.elapsed() < Duration::from_millis(500));
    assert_eq!(server.word().await, "LOADING");
    server.becomes("OK").await;
}

#[tokio::test]
async fn bodies_that_are_wrong() {
    let (server, _fake) = warm(Life::default()).await;
    let json = "content-type: application/json\r\n";
    for (body, kind) in [
        ("", "missing"),
        ("{", "json_invalid"),
        ("[]", "model_attributes_type"),
        ("{}", "missing"),
        (r#"{"subscribe_url":"s","publish_url":2}"#, "string_type"),
        (r#"{"subscribe_url":"s","publish_url":"p","params":3}"#, "dict_type"),
    ] {
        let answer = server.send("POST", "/live-video-to-video", json, body).await;
        assert_eq!(answer.status, 422, "{body}");
        assert_eq!(answer.json()["detail"][0]["type"], kind, "{body}");
    }
    let mut other = order();
    other["model_id"] = "x".into();
    let answer = server.post("/live-video-to-video", &other).await;
    assert_eq!((answer.status, answer.msg().as_str()), (400, "pipeline configured with noop but called with x."));
    other["model_id"] = "".into();
    assert_eq!(server.post("/live-video-to-video", &other).await.status, 200);
}

#[tokio::test]
async fn an_oversize_body_is_refused_unread() {
    let (server, _fake) = warm(Life::default()).await;
    let head = "POST /live-video-to-video HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let promised = exchange(server.address, format!("{head}content-length: 99999999\r\n\r\n").as_bytes()).await;
    assert_eq!(promised.status, 400);
    assert!(promised.msg().contains("larger than 2097152 bytes"));
    // Chunked: nothing is promised, so it is counted.
    let mut request = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..40 {
        request.extend_from_slice(format!("{:x}\r\n{}\r\n", 65_536, "x".repeat(65_536)).as_bytes());
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let _ = stream.write_all(&request).await;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.expect("an answer");
    assert_eq!(&start, b"HTTP/1.1 400");
    assert_eq!(server.word().await, "IDLE");
}

#[tokio::test]
async fn a_token_is_asked_for_where_it_matters() {
    let fake = Fake::new(vec![Life::default()]);
    let server = Running::new(Config { auth_token: "secret".into(), ..config() }, fake.command()).await;
    server.becomes("IDLE").await;
    for (method, path) in [
        ("POST", "/live-video-to-video"),
        ("POST", "/api/live-video-to-video"),
        ("POST", "/api/params"),
        ("POST", "/api/stop"),
        ("GET", "/api/status"),
        ("GET", "/api/pipeline"),
    ] {
        for header in ["", "authorization: Bearer wrong\r\n", "authorization: Basic secret\r\n"] {
            let headers = format!("content-type: application/json\r\n{header}");
            let answer = server.send(method, path, &headers, &order().to_string()).await;
            assert_eq!((answer.status, answer.msg().as_str()), (401, "Invalid bearer token."), "{path}");
            assert!(answer.head.to_lowercase().contains("www-authenticate: bearer"), "{answer:?}");
        }
    }
    for path in ["/health", "/version", "/hardware/info", "/hardware/stats", "/metrics", "/docs/", "/openapi.json"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let headers = "content-type: application/json\r\nauthorization: Bearer secret\r\n";
    let answer = server.send("POST", "/live-video-to-video", headers, &order().to_string()).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn every_route_has_a_twin_with_a_slash() {
    let (server, _fake) = warm(Life::default()).await;
    for path in ["/health", "/version", "/hardware/info", "/hardware/stats", "/metrics", "/api/status", "/api/pipeline"]
    {
        assert_eq!(server.get(path).await.status, 200, "{path}");
        assert_eq!(server.get(&format!("{path}/")).await.status, 200, "{path}/");
    }
    let version = json!({"pipeline": "live-video-to-video", "model_id": "noop", "version": "1.2.3"});
    assert_eq!(server.get("/version").await.json(), version);
    assert!(server.get("/hardware/info").await.json()["gpu_info"].is_object());
    assert!(server.get("/hardware/stats").await.json()["gpu_stats"].is_object());
    let nothing = server.get("/nothing").await;
    assert_eq!((nothing.status, nothing.json()), (404, json!({"detail": "Not Found"})));
    for (method, path) in [("POST", "/health"), ("GET", "/live-video-to-video"), ("DELETE", "/api/params/")] {
        let answer = server.send(method, path, "", "").await;
        assert_eq!((answer.status, answer.json()), (405, json!({"detail": "Method Not Allowed"})), "{path}");
    }
}

#[tokio::test]
async fn local_calls_answer_in_text() {
    let (server, fake) = warm(Life::default()).await;
    let status = server.get("/api/status").await.json();
    assert_eq!((&status["state"], &status["start_time"]), (&json!("OFFLINE"), &json!(0)));

    let nothing = server.post("/api/params", &json!({})).await;
    assert_eq!(nothing.status, 200, "the engine decides what an update without a stream means: {nothing:?}");
    let mut local = order();
    local["request_id"] = "r1".into();
    let answer = server.post("/api/live-video-to-video", &local).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "Stream started successfully"));
    let started = fake.seen().into_iter().find_map(|(_, message)| match message {
        ToEngine::Start { request, .. } => Some(request.gateway_request_id),
        _ => None,
    });
    assert_eq!(started.as_deref(), Some("r1"));
    let answer = server.post("/api/live-video-to-video", &local).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.starts_with("Error starting stream: insufficient capacity"), "{answer:?}");

    let answer = server.post("/api/params", &json!({"prompt": "b"})).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "Params updated successfully"));
    let answer = server.post("/api/params", &json!({"width": 100})).await;
    let expected = "Error updating params: width: Input should be a multiple of 64";
    assert_eq!((answer.status, answer.body.as_str()), (400, expected));
    let answer = server.send("POST", "/api/params", "content-type: text/plain\r\n", "{}").await;
    assert_eq!((answer.status, answer.body.as_str()), (400, "Error updating params: Unknown content type: text/plain"));
    let answer = server.post("/api/params", &json!([1])).await;
    assert_eq!(answer.status, 400);
    assert_eq!(server.get("/api/status").await.json()["state"], "ONLINE");
    assert_eq!(server.get("/api/pipeline").await.json(), json!({"name": "noop"}));

    let answer = server.send("POST", "/api/stop", "content-type: application/json\r\n", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "Stream stopped successfully"));
    assert_eq!(server.word().await, "IDLE");
    let answer = server.post("/api/stop", &json!({"session": 9})).await;
    assert_eq!((answer.status, answer.body.as_str()), (400, "Error stopping stream: no stream is running"));
}

#[tokio::test]
async fn metrics_join_both_processes_and_outlive_the_engine() {
    let (server, fake) = warm(Life::default()).await;
    let text = server.get("/metrics").await.body;
    assert!(text.contains("version{app=\"ai-runner\",version=\"1.2.3\"} 1\n"), "{text}");
    assert!(text.contains("weir_supervisor_engine_warm 1\n") && text.ends_with("weir_fake_lives 1\n"), "{text}");
    fake.die();
    let text = server.get("/metrics").await.body;
    assert!(text.contains("weir_fake_lives "), "{text}");
}

#[tokio::test]
async fn slow_callers_hold_no_place() {
    let fake = Fake::new(vec![Life::default()]);
    let server = Running::new(Config { max_connections: 4, ..config() }, fake.command()).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nho").await.unwrap();
        slow.push(stream);
    }
    let begin = Instant::now();
    for _ in 0..20 {
        server.word().await;
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    let text = server.get("/metrics").await.body;
    let evicted = text.lines().find(|line| line.starts_with("weir_supervisor_connections_evicted_total "));
    assert_ne!(evicted, Some("weir_supervisor_connections_evicted_total 0"));
}

fn resumes(fake: &Fake) -> Vec<(usize, u64, Box<StreamRequest>, Resume)> {
    let starts = fake.seen().into_iter().filter_map(|(life, message)| match message {
        ToEngine::Start { session, request, resume: Some(resume), .. } => Some((life, session, request, *resume)),
        _ => None,
    });
    starts.collect()
}

#[tokio::test]
async fn a_crash_hands_the_stream_to_the_next_engine() {
    let (server, fake) = warm(Life::default()).await;
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    server.post("/api/params", &json!({"prompt": "b"})).await;
    for pts in [9_000, 12_000, 6_000] {
        fake.say(FromEngine::Published { session: 1, video_pts: Some(pts), audio_pts: None });
    }
    fake.say(FromEngine::Published { session: 1, video_pts: None, audio_pts: Some(1_000) });
    let there = async || server.get("/api/status").await.json()["state"] == "ONLINE";
    until("the report", there).await;
    tokio::time::sleep(Duration::from_millis(50)).await;

    let begin = Instant::now();
    fake.die();
    until("the next engine", async || !resumes(&fake).is_empty()).await;
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    let word = server.word().await;
    assert!(["OK", "LOADING"].contains(&word.as_str()), "never for sale, never for destruction: {word}");

    let (life, session, request, resume) = resumes(&fake).remove(0);
    assert_eq!((life, session), (2, 1));
    assert_eq!(serde_json::to_value(&request).unwrap()["publish_url"], order()["publish_url"]);
    assert_eq!(Value::Object(resume.params), json!({"prompt": "b"}));
    assert_eq!((resume.restart_count, resume.control_seq), (1, Some(7)));
    assert_eq!((resume.last_video_pts, resume.last_audio_pts), (Some(12_000), Some(1_000)));
    assert_eq!(resume.reason, "the engine closed the link");
    assert!(resume.start_time_ms > 0 && resume.restart_time_ms >= resume.start_time_ms);

    server.becomes("OK").await;
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 500, "the slot is still taken");
    fake.say(FromEngine::Ended { session: 1, reason: "over".into(), fault: false });
    server.becomes("IDLE").await;
}

#[tokio::test]
async fn a_stream_that_the_next_engine_refuses_is_over() {
    let refusing = Life { answer: Some(Outcome::Failed { message: "no".into() }), ..Life::default() };
    let fake = Fake::new(vec![Life::default(), refusing]);
    let server = Running::new(config(), fake.command()).await;
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    fake.die();
    server.becomes("IDLE").await;
}

#[tokio::test]
async fn a_start_in_flight_survives_a_crash() {
    let fake = Fake::new(vec![Life { dies_at_start: true, ..Life::default() }, Life::default()]);
    let server = Running::new(config(), fake.command()).await;
    server.becomes("IDLE").await;
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    assert_eq!(fake.lives(), 2);
    assert!(resumes(&fake).is_empty());
}

#[tokio::test]
async fn three_crashes_are_an_error() {
    let (server, fake) = running(Life { stillborn: true, ..Life::default() }).await;
    server.becomes("ERROR").await;
    assert_eq!(fake.lives(), 3);
    let health = server.get("/health").await.json();
    let detail = health["detail"].as_str().unwrap();
    assert!(detail.contains("failed 3 times") && detail.contains("closed the link"), "{detail}");
    let answer = server.post("/live-video-to-video", &order()).await;
    assert_eq!(answer.status, 500);
    assert!(answer.msg().contains(detail), "{answer:?}");
    assert_eq!(server.get("/api/status").await.json()["state"], "ERROR");
    assert!(server.stop().await < Duration::from_secs(1));
}

#[tokio::test]
async fn a_stream_whose_engine_keeps_dying_ends_with_it() {
    let (server, fake) = warm(Life::default()).await;
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    for life in 1..=3 {
        until("the next engine", async || fake.lives() == life && server.word().await == "OK").await;
        fake.die();
    }
    server.becomes("ERROR").await;
    let text = server.get("/metrics").await.body;
    assert!(text.contains("weir_supervisor_sessions 0\n"), "{text}");
    assert!(text.contains("weir_supervisor_sessions_ended_total{fault=\"true\"} 1\n"), "{text}");
    assert!(text.contains("weir_supervisor_sessions_resumed_total 2\n"), "{text}");
}

#[tokio::test]
async fn a_pipeline_that_cannot_load_is_an_error_at_once() {
    let message = "libnvinfer.so.10: cannot open shared object file; install TensorRT 10";
    let (server, fake) = running(Life { load_error: Some(message), ..Life::default() }).await;
    server.becomes("ERROR").await;
    assert_eq!(fake.lives(), 1);
    assert_eq!(server.get("/health").await.json()["detail"], message);
}

#[tokio::test]
async fn a_pipeline_that_loaded_before_is_tried_again() {
    let fails = Life { load_error: Some("out of memory"), ..Life::default() };
    let fake = Fake::new(vec![Life::default(), fails, Life::default()]);
    let server = Running::new(config(), fake.command()).await;
    server.becomes("IDLE").await;
    fake.die();
    until("the third engine", async || fake.lives() == 3).await;
    server.becomes("IDLE").await;
}

#[tokio::test]
async fn an_engine_that_hangs_is_replaced() {
    for life in [
        Life { beats: false, ..Life::default() },
        Life { busy_ms: 5_000, ..Life::default() },
        Life { load_ms: None, ..Life::default() },
    ] {
        let fake = Fake::new(vec![life, Life::default()]);
        let server = Running::new(config(), fake.command()).await;
        until("the replacement", async || fake.lives() == 2).await;
        server.becomes("IDLE").await;
    }
}

#[tokio::test]
async fn an_engine_that_keeps_beating_is_left_alone() {
    let (server, fake) = warm(Life { busy_ms: 900, ..Life::default() }).await;
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    assert_eq!((fake.lives(), server.word().await.as_str()), (1, "IDLE"));
}

#[tokio::test]
async fn the_end_is_in_order_and_in_time() {
    let (server, fake) = warm(Life { obeys: false, ..Life::default() }).await;
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    let took = server.stop().await;
    assert!(took < Duration::from_millis(1_700), "{took:?}");
    assert!(
        fake.seen().iter().any(|(_, message)| matches!(message, ToEngine::Shutdown { grace_ms } if *grace_ms < 1_500))
    );
    assert_eq!(fake.lives(), 1);
}

#[tokio::test]
async fn nothing_is_sold_while_the_process_ends() {
    let (server, _fake) = warm(Life { obeys: false, ..Life::default() }).await;
    let address = server.address;
    let stopping = tokio::spawn(server.stop());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let health = exchange(address, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(health.json()["status"], "LOADING");
    let body = order().to_string();
    let request = format!(
        "POST /live-video-to-video HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(address, request.as_bytes()).await;
    assert_eq!(answer.status, 500);
    assert!(answer.msg().contains("insufficient capacity"), "{answer:?}");
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error() {
    let (server, _fake) = running(Life::default()).await;
    let config = Config { port: server.address.port(), ..config() };
    let fake = Fake::new(vec![Life::default()]);
    let result = weir::supervisor::run(config, json!({}), fake.command(), std::future::pending(), |_| {}).await;
    assert!(result.is_err_and(|error| error.to_string().starts_with("cannot listen on 127.0.0.1:")));
    assert_eq!(fake.lives(), 0);
}

#[tokio::test]
async fn loading_tells_its_step() {
    let (server, fake) = running(Life { load_ms: None, ..Life::default() }).await;
    until("the step", async || server.get("/health").await.json()["detail"] == "weights").await;
    fake.say(FromEngine::Phase(Phase::Loading { detail: "engine".into() }));
    until("the next step", async || server.get("/health").await.json()["detail"] == "engine").await;
}
