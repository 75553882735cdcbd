//! The container as an orchestrator runs it: created with its exact options, watched, used, killed, stopped.
//!
//! `scripts/container` builds the image, names it in `WEIR_IMAGE` and runs these; without it they are left out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod docker;
mod stream;
mod watch;

use std::time::{Duration, Instant};

use docker::{Container, Options};
use stream::{Stream, health};
use watch::Watch;

/// What a start takes at most: to the first answer of `/health`, and to `IDLE` where there is no model.
const HEALTH: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_millis(1500);
/// Starts of which the fastest counts, since other work may hold this machine up.
const STARTS: u32 = 5;

/// An orchestrator looks this often; what it waits for must be there at its next look.
const POLL: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Docker: scripts/container"]
async fn a_stream_through_a_container_created_as_an_orchestrator_does() {
    let began = Instant::now();
    let container = Container::start(&Options::managed("invert")).await;
    let first = container.first_health().await;
    println!("start to /health: {} ms ({first})", began.elapsed().as_millis());
    assert!(matches!(first.as_str(), "LOADING" | "IDLE"), "{first}");
    container.until_health("IDLE", Duration::from_secs(20)).await;
    println!("start to IDLE: {} ms", began.elapsed().as_millis());
    let (_, version) = container.get("/version").await;
    assert_eq!((&version["pipeline"], &version["model_id"]), (&"live-video-to-video".into(), &"invert".into()));
    let (_, hardware) = container.get("/hardware/info").await;
    assert!(hardware["gpu_info"].is_object(), "{hardware}");

    let watch = Watch::start(container.address);
    watch.until("IDLE").await;
    let stream = Stream::start(&container, "invert").await;
    assert_eq!(health(container.address).await.unwrap(), "OK", "busy from the answer on");
    stream.until_pictures("inverted ones", true, 30).await;

    // Who asks a second time is told, in the words that a gateway looks for.
    let (status, refusal) = stream.order_another(&container).await;
    assert_eq!(status, 500, "{refusal}");
    assert!(refusal["detail"]["msg"].as_str().unwrap().contains("insufficient capacity"), "{refusal}");

    stream.update(serde_json::json!({"strength": 0.0, "width": 512, "height": 512})).await;
    stream.until_pictures("plain ones", false, 10).await;
    stream.until_event("status").await;

    stream.end_input().await;
    let ended = Instant::now();
    container.until_health("IDLE", POLL).await;
    println!("end of the input to IDLE: {} ms", ended.elapsed().as_millis());
    stream.until_deleted(POLL).await;
    watch.until("IDLE").await;
    // An IDLE within the stream would lend the container out a second time; a failure would count against it.
    assert_eq!(watch.words(), ["IDLE", "OK", "IDLE"]);
    container.remove().await;
}

/// From the order to start a container that is created to the first word of `/health`, and to `IDLE`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Docker: scripts/container"]
async fn a_container_answers_and_is_idle_at_once() {
    let (mut health, mut idle) = (Duration::MAX, Duration::MAX);
    for start in 0..STARTS {
        let container = Container::start(&Options::managed("noop")).await;
        container.first_health().await;
        let answered = container.began.elapsed();
        container.until_health("IDLE", Duration::from_secs(20)).await;
        let warm = container.began.elapsed();
        println!("start {start}: /health after {} ms, IDLE after {} ms", answered.as_millis(), warm.as_millis());
        (health, idle) = (health.min(answered), idle.min(warm));
        container.remove().await;
        if health < HEALTH && idle < IDLE {
            break;
        }
    }
    assert!(health < HEALTH, "the first answer of /health came after {health:?} at best");
    assert!(idle < IDLE, "IDLE came after {idle:?} at best");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Docker: scripts/container"]
async fn a_killed_container_is_started_again_by_its_policy() {
    let began = Instant::now();
    let container = Container::start(&Options::managed("noop")).await;
    container.until_health("IDLE", Duration::from_secs(20)).await;
    println!("start to IDLE with noop: {} ms", began.elapsed().as_millis());
    container.kill_first_process().await;
    let killed = Instant::now();
    let count = || async { container.inspect().await["RestartCount"].as_i64() };
    while count().await != Some(1) {
        assert!(killed.elapsed() < Duration::from_secs(10), "no restart");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    container.until_health("IDLE", Duration::from_secs(10)).await;
    println!("SIGKILL to IDLE: {} ms", killed.elapsed().as_millis());
    container.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Docker: scripts/container"]
async fn docker_stop_ends_a_stream_in_order_and_quickly() {
    let container = Container::start(&Options::managed("noop")).await;
    container.until_health("IDLE", Duration::from_secs(20)).await;
    let stream = Stream::start(&container, "noop").await;
    stream.until_pictures("some", false, 10).await;
    let asked = Instant::now();
    container.stop().await;
    let took = asked.elapsed();
    println!("docker stop with a stream: {} ms", took.as_millis());
    assert!(took < Duration::from_secs(3), "{took:?}");
    let state = container.inspect().await["State"].clone();
    assert_eq!((&state["ExitCode"], &state["Running"]), (&0.into(), &false.into()), "{state}");
    stream.until_deleted(Duration::from_secs(1)).await;
    container.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Docker: scripts/container"]
async fn two_containers_side_by_side_one_of_them_read_only() {
    let first = Container::start(&Options { read_only: true, ..Options::managed("invert") }).await;
    let second = Container::start(&Options::managed("noop")).await;
    first.until_health("IDLE", Duration::from_secs(20)).await;
    second.until_health("IDLE", Duration::from_secs(20)).await;
    let one = Stream::start(&first, "invert").await;
    let other = Stream::start(&second, "noop").await;
    one.until_pictures("inverted ones", true, 20).await;
    other.until_pictures("plain ones", false, 20).await;
    one.end_input().await;
    other.end_input().await;
    first.until_health("IDLE", POLL).await;
    second.until_health("IDLE", POLL).await;
    // Where nothing can be written there is no ledger, without an alarm; elsewhere the stream is in it.
    let log = first.logs().await;
    assert!(log.contains("No ledger is kept") && !log.contains(" ERROR "), "{log}");
    let (_, streams) = first.get("/metering/streams").await;
    assert_eq!(streams["streams"][0]["model"], "invert", "{streams}");
    assert_eq!(first.exec(&["weir", "ledger", "verify"]).await, 66, "there is no such folder");
    assert_eq!(second.exec(&["weir", "ledger", "verify"]).await, 0);
    first.remove().await;
    second.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Docker: scripts/container"]
async fn what_cannot_be_served_is_an_error_with_its_reason() {
    // A model id that nobody knows, and one whose weights are not there.
    for (id, words) in
        [("segment_anything_2", ["segment_anything_2", "noop"]), ("streamdiffusion", ["sd-turbo", "/models"])]
    {
        let container = Container::start(&Options::managed(id)).await;
        let answer = container.until_health("ERROR", Duration::from_secs(20)).await;
        let detail = answer["detail"].as_str().unwrap();
        assert!(words.iter().all(|word| detail.contains(word)), "{id}: {detail}");
        assert_eq!(container.exec(&["weir", "health"]).await, 1);
        container.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Docker: scripts/container"]
async fn streamdiffusion_loads_on_a_read_only_root() {
    let environment = &[r#"WEIR_ENGINE_INITIAL_PARAMS={"model_id":"weir/tiny"}"#];
    let options = Options { read_only: true, environment, ..Options::managed("streamdiffusion") };
    let container = Container::start(&options).await;
    assert_eq!(container.first_health().await, "LOADING");
    container.until_health("IDLE", Duration::from_secs(120)).await;
    container.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Docker: scripts/container"]
async fn commands_of_the_replaced_image_are_understood() {
    let served = Options { command: &["uv", "run", "--frozen", "python", "main.py"], ..Options::managed("noop") };
    let container = Container::start(&served).await;
    container.until_health("IDLE", Duration::from_secs(20)).await;
    assert_eq!(container.exec(&["weir", "health"]).await, 0);
    container.remove().await;

    let prepared = Options { environment: &["PREPARE_MODELS=1"], restart: false, ..Options::managed("noop") };
    let container = Container::start(&prepared).await;
    assert_eq!(container.wait().await, 0);
    container.remove().await;

    let examined = Options { command: &["doctor"], restart: false, ..Options::managed("invert") };
    let container = Container::start(&examined).await;
    assert_eq!(container.wait().await, 0, "{}", container.logs().await);
    container.remove().await;
}
