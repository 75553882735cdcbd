//! A live runner and a stand-in for its orchestrator.

use std::time::Duration;

use serde_json::{Value, json};
use weir::link::{FromEngine, Outcome, ToEngine};
use weir::supervisor::{Config, Runner};

use super::client::{Answer, Running, config, order, until};
use super::fake::{Fake, Life, report};
use super::orchestra::Orchestra;

const SECRET: &str = "orch-secret";

fn settings(orchestra: &Orchestra) -> Config {
    let runner = Runner {
        orchestrator: format!("http://{}", orchestra.address),
        secret: SECRET.into(),
        price: "0.75".into(),
        label: "left".into(),
        metadata: "a runner".into(),
        ..Runner::default()
    };
    Config { runner, capacity: 2, ..config() }
}

async fn start(config: Config, life: Life) -> (Running, Fake) {
    let fake = Fake::with_room(config.capacity, vec![life]);
    (Running::new(config, fake.command()).await, fake)
}

async fn registered() -> (Orchestra, Running, Fake) {
    let orchestra = Orchestra::new(SECRET).await;
    let (server, fake) = start(settings(&orchestra), Life::default()).await;
    until("a registration", async || orchestra.runner().is_some()).await;
    (orchestra, server, fake)
}

fn beat(orchestra: &Orchestra) -> Value {
    orchestra.runner().expect("a runner").1.beat
}

async fn says(orchestra: &Orchestra, field: &str, value: Value) {
    until(&format!("{field} {value}"), async || beat(orchestra)[field] == value).await;
}

async fn call(server: &Running, path: &str, headers: &str, body: &Value) -> Answer {
    let method = if path == "status" { "GET" } else { "POST" };
    let body = if path == "status" { String::new() } else { body.to_string() };
    server.send(method, &format!("/live-runner/{path}"), headers, &body).await
}

fn stops(fake: &Fake) -> Vec<u64> {
    let stops = fake.seen().into_iter().filter_map(|(_, message)| match message {
        ToEngine::Stop { session, .. } => Some(session),
        _ => None,
    });
    stops.collect()
}

#[tokio::test]
async fn heartbeats_say_what_there_is_and_the_end_takes_it_back() {
    let orchestra = Orchestra::new(SECRET).await;
    let (server, _fake) = start(settings(&orchestra), Life { load_ms: Some(400), ..Life::default() }).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(orchestra.set(|book| book.beats), 0, "not before the pipeline is warm");
    until("a registration", async || orchestra.runner().is_some()).await;
    let found = beat(&orchestra);
    for (field, value) in [
        ("app", json!("live-video-to-video/noop")),
        ("capacity", json!(2)),
        ("status", json!("ready")),
        ("mode", json!("persistent")),
        ("label", json!("left")),
        ("metadata", json!("a runner")),
        ("version", json!("1.2.3")),
        ("price_info", json!({"price": 0.75, "currency": "usd", "unit": "hour"})),
        ("runner_url", json!(format!("http://{}/live-runner", server.address))),
        ("session_ids", json!([])),
    ] {
        assert_eq!(found[field], value, "{field}: {found}");
    }
    until("more heartbeats", async || orchestra.set(|book| book.beats) > 3).await;
    assert_eq!(orchestra.set(|book| book.names.len()), 1, "one name for the life of a process");
    assert!(server.get("/metrics").await.body.contains("weir_supervisor_runner_registered 1"));
    assert!(server.stop().await < Duration::from_millis(2_000));
    assert_eq!(orchestra.set(|book| book.unregistered.len()), 1);
}

#[tokio::test]
async fn a_session_from_its_start_to_its_end() {
    let (orchestra, server, fake) = registered().await;
    let (session, headers) = orchestra.reserve();
    let body = json!({"params": {"prompt": "a", "max_framerate": 24}});
    let answer = call(&server, "start", &headers, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let urls = answer.json();
    assert_eq!(urls["publish_url"], format!("https://public.example/{session}-in"), "clients publish to the input");
    assert_eq!(urls["subscribe_url"], format!("https://public.example/{session}-out"));
    assert_eq!(urls["events_url"], format!("https://public.example/{session}-events"));
    let begun = fake.seen().into_iter().find_map(|(_, message)| match message {
        ToEngine::Start { request, .. } => Some(*request),
        _ => None,
    });
    let begun = begun.expect("a start");
    assert!(begun.subscribe_url.ends_with(&format!("{session}-in")) && begun.subscribe_url.contains("127.0.0.1"));
    assert!(begun.publish_url.ends_with(&format!("{session}-out")));
    assert_eq!((begun.max_fps, &begun.params["prompt"]), (Some(24.0), &json!("a")));
    assert_eq!(begun.manifest_id, session);
    says(&orchestra, "session_ids", json!([session])).await;
    assert_eq!(beat(&orchestra)["capacity"], 2);
    // The same call again says the same, and starts nothing.
    assert_eq!(call(&server, "start", &headers, &body).await.json(), urls);
    assert_eq!(fake.seen().iter().filter(|(_, it)| matches!(it, ToEngine::Start { .. })).count(), 1);

    assert_eq!(call(&server, "params", &headers, &json!({"prompt": "b"})).await.status, 200);
    let bad = call(&server, "params", &headers, &json!({"width": 500, "height": 384})).await;
    assert_eq!((bad.status, bad.body.contains("multiple of 64")), (500, true), "{bad:?}");
    assert_eq!(call(&server, "status", &headers, &Value::Null).await.json()["state"], "ONLINE");
    // Neither another token nor none speaks for the session.
    for other in [headers.replace("token-", "tocken-"), String::new()] {
        let answer = call(&server, "stop", &other, &json!({})).await;
        assert!([400, 404].contains(&answer.status), "{answer:?}");
    }
    assert!(stops(&fake).is_empty());
    assert_eq!(call(&server, "stop", &headers, &json!({})).await.status, 200);
    until("the orchestrator to hear of it", async || orchestra.set(|book| book.stopped == [session.clone()])).await;
    says(&orchestra, "session_ids", json!([])).await;
    assert_eq!(server.word().await, "IDLE");
}

#[tokio::test]
async fn what_the_orchestrator_releases_ends_here_with_and_without_a_hint() {
    for tell in [true, false] {
        let (orchestra, server, fake) = registered().await;
        let (one, headers) = orchestra.reserve();
        let (two, others) = orchestra.reserve();
        assert_eq!(call(&server, "start", &headers, &json!({})).await.status, 200);
        assert_eq!(call(&server, "start", &others, &json!({})).await.status, 200);
        says(&orchestra, "session_ids", json!([one, two])).await;
        orchestra.release(&one, tell).await;
        until("the end of one", async || stops(&fake) == [1]).await;
        says(&orchestra, "session_ids", json!([two])).await;
        assert_eq!(stops(&fake), [1], "the other goes on");
        assert!(orchestra.set(|book| book.stopped.is_empty()), "it knows already");
    }
}

#[tokio::test]
async fn a_stream_that_ends_by_itself_gives_the_session_back() {
    let (orchestra, server, fake) = registered().await;
    let (session, headers) = orchestra.reserve();
    assert_eq!(call(&server, "start", &headers, &json!({})).await.status, 200);
    fake.say(FromEngine::Ended { session: 1, reason: "the input ended".into(), fault: false });
    until("a stop", async || orchestra.set(|book| book.stopped == [session.clone()])).await;
}

#[tokio::test]
async fn slots_of_other_doors_are_not_offered() {
    let (orchestra, server, fake) = registered().await;
    assert_eq!(server.post("/live-video-to-video", &order()).await.status, 200);
    says(&orchestra, "capacity", json!(1)).await;
    let (_, headers) = orchestra.reserve();
    assert_eq!(call(&server, "start", &headers, &json!({})).await.status, 200);
    says(&orchestra, "capacity", json!(1)).await;
    assert_eq!(beat(&orchestra)["status"], "ready");
    let (third, headers) = orchestra.reserve();
    let answer = call(&server, "start", &headers, &json!({})).await;
    assert_eq!((answer.status, answer.body.contains("Pipeline is still in use")), (503, true), "{answer:?}");
    let deleted = orchestra.set(|book| book.deleted.clone());
    assert!(deleted.contains(&format!("{third}-in")) && deleted.len() == 4, "{deleted:?}");
    fake.say(FromEngine::Ended { session: 2, reason: "x".into(), fault: false });
    assert_eq!(server.post("/stream/start", &worker()).await.status, 200);
    // Nothing left for the orchestrator, and nothing of it here.
    says(&orchestra, "status", json!("busy")).await;
}

fn worker() -> Value {
    json!({"gateway_request_id": "w", "subscribe_url": "http://127.0.0.1:1/in", "publish_url": "http://127.0.0.1:1/out"})
}

#[tokio::test]
async fn a_drain_lowers_the_capacity_and_waits_for_the_streams() {
    let orchestra = Orchestra::new(SECRET).await;
    let config = Config { drain_ms: 20_000, ..settings(&orchestra) };
    let (server, fake) = start(config, Life::default()).await;
    until("a registration", async || orchestra.runner().is_some()).await;
    let (session, headers) = orchestra.reserve();
    assert_eq!(call(&server, "start", &headers, &json!({})).await.status, 200);
    says(&orchestra, "session_ids", json!([session])).await;
    let address = server.address;
    let ending = tokio::spawn(server.stop());
    says(&orchestra, "capacity", json!(1)).await;
    assert_eq!(beat(&orchestra)["status"], "ready", "any other word would cut the session off");
    let health = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(super::client::exchange(address, health).await.json()["status"], "LOADING");
    assert!(!ending.is_finished() && stops(&fake).is_empty());
    fake.say(FromEngine::Ended { session: 1, reason: "the input ended".into(), fault: false });
    assert!(ending.await.unwrap() < Duration::from_secs(10));
    assert_eq!(orchestra.set(|book| book.unregistered.len()), 1);
}

#[tokio::test]
async fn an_orchestrator_that_forgets_gets_a_new_name_and_keeps_no_session() {
    let (orchestra, server, fake) = registered().await;
    let (_, headers) = orchestra.reserve();
    assert_eq!(call(&server, "start", &headers, &json!({})).await.status, 200);
    // It was restarted: every runner and every session is gone.
    orchestra.set(|book| book.runners.clear());
    until("another registration", async || orchestra.runner().is_some()).await;
    let names = orchestra.set(|book| book.names.clone());
    assert!(names.len() == 2 && names[0] != names[1], "{names:?}");
    until("the end of the session", async || stops(&fake) == [1]).await;
}

#[tokio::test]
async fn errors_and_silence_are_survived_and_the_name_is_kept() {
    let (orchestra, server, fake) = registered().await;
    let (session, headers) = orchestra.reserve();
    assert_eq!(call(&server, "start", &headers, &json!({})).await.status, 200);
    for status in [500, 503, 302, 0] {
        orchestra.set(|book| book.instead = Some(status));
        let before = orchestra.set(|book| book.beats);
        until("a try", async || orchestra.set(|book| book.beats) > before).await;
        orchestra.set(|book| book.instead = None);
        // The orchestrator that says nothing is given up after five seconds.
        let again = orchestra.set(|book| book.beats);
        let began = std::time::Instant::now();
        while orchestra.set(|book| book.beats) <= again + 1 {
            assert!(began.elapsed() < Duration::from_secs(30), "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if status == 0 {
            // It had expired by then, as it does in the world.
            break;
        }
        assert_eq!(beat(&orchestra)["session_ids"], json!([session]));
        assert_eq!(orchestra.set(|book| book.names.len()), 1, "{status}");
        assert!(stops(&fake).is_empty());
    }
}

#[tokio::test]
async fn a_wrong_secret_is_not_hammered_and_a_changed_one_is_noticed() {
    for status in [401, 404, 400] {
        let orchestra = Orchestra::new(SECRET).await;
        orchestra.set(|book| book.instead = Some(status));
        let (server, _fake) = start(settings(&orchestra), Life::default()).await;
        until("a try", async || orchestra.set(|book| book.beats) > 0).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(orchestra.set(|book| book.beats), 1, "{status}");
        assert_eq!(server.word().await, "IDLE");
    }
    let (orchestra, server, _fake) = registered().await;
    // It was restarted with another secret: the first refusal is of the heartbeat, the second of the registration.
    orchestra.set(|book| {
        book.runners.clear();
        book.secret = "another".into();
    });
    until("the loss", async || server.get("/metrics").await.body.contains("weir_supervisor_runner_registered 0")).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let beats = orchestra.set(|book| book.beats);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(orchestra.set(|book| book.beats), beats);
}

#[tokio::test]
async fn nothing_is_called_that_is_not_the_orchestrator() {
    let (orchestra, server, fake) = registered().await;
    let stranger = Orchestra::new(SECRET).await;
    let (_, headers) = orchestra.reserve();
    let own = orchestra.address.to_string();
    for other in [stranger.address.to_string(), "127.0.0.1:1".into(), format!("{own}@{}", stranger.address)] {
        let answer = call(&server, "start", &headers.replace(&own, &other), &json!({})).await;
        assert_eq!(answer.status, if other.ends_with(":1") { 502 } else { 401 }, "{other}: {answer:?}");
    }
    let wrong = headers.replace("session-token: token-", "session-token: tocken-");
    assert_eq!(call(&server, "start", &wrong, &json!({})).await.status, 401);
    assert!(fake.seen().iter().all(|(_, message)| !matches!(message, ToEngine::Start { .. })));
    // Whoever has the token may still start it.
    assert_eq!(call(&server, "start", &headers, &json!({})).await.status, 200);
}

#[tokio::test]
async fn a_start_that_comes_to_nothing_leaves_nothing() {
    let orchestra = Orchestra::new(SECRET).await;
    let outcome = Outcome::BadParams { field: "strength".into(), reason: "Input should be a valid number".into() };
    let (server, _fake) = start(settings(&orchestra), Life { answer: Some(outcome), ..Life::default() }).await;
    until("a registration", async || orchestra.runner().is_some()).await;
    let (_, headers) = orchestra.reserve();
    for _ in 0..2 {
        let answer = call(&server, "start", &headers, &json!({})).await;
        assert_eq!((answer.status, answer.body.contains("strength")), (400, true), "{answer:?}");
    }
    assert_eq!(orchestra.set(|book| book.deleted.len()), 8);
    orchestra.set(|book| book.instead = Some(500));
    assert_eq!(call(&server, "start", &headers, &json!({})).await.status, 502);
    assert_eq!(call(&server, "start", &headers, &json!({"params": []})).await.status, 400);
    assert_eq!(server.word().await, "IDLE");
}

#[tokio::test]
async fn a_runner_whose_engine_is_away_keeps_its_session_and_offers_nothing() {
    let orchestra = Orchestra::new(SECRET).await;
    let slow = Life { load_ms: None, ..Life::default() };
    let fake = Fake::with_room(2, vec![Life::default(), slow]);
    let config = Config { load_ms: 60_000, ..settings(&orchestra) };
    let server = Running::new(config, fake.command()).await;
    until("a registration", async || orchestra.runner().is_some()).await;
    let (session, headers) = orchestra.reserve();
    assert_eq!(call(&server, "start", &headers, &json!({})).await.status, 200);
    fake.say(report(1, "ONLINE", serde_json::Map::new()));
    fake.die();
    says(&orchestra, "capacity", json!(1)).await;
    assert_eq!((&beat(&orchestra)["status"], &beat(&orchestra)["session_ids"]), (&json!("ready"), &json!([session])));
}
