//! `scripts/runpod/create` against an API of our own.

use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{Asked, StandIn, said, script};

const KEY: &str = "rpa_very_secret";

/// What the stand-in holds, and how it behaves.
#[derive(Default)]
struct Account {
    templates: Mutex<Vec<Value>>,
    pods: Mutex<Vec<Value>>,
    no_gpu: AtomicBool,
    broken: AtomicBool,
    looks: AtomicU32,
}

fn answer(account: &Account, asked: &Asked) -> Response<Body> {
    let told = |status: StatusCode, body: Value| {
        Response::builder().status(status).body(Body::from(body.to_string())).unwrap()
    };
    if asked.path == "/health" {
        let status = match (account.broken.load(Ordering::Relaxed), account.looks.fetch_add(1, Ordering::Relaxed)) {
            (true, _) => json!({"status": "ERROR", "detail": "the model is missing"}),
            (false, 0) => return told(StatusCode::BAD_GATEWAY, json!(null)),
            (false, 1) => json!({"status": "LOADING"}),
            (false, _) => json!({"status": "IDLE"}),
        };
        return told(StatusCode::OK, status);
    }
    if asked.token != format!("Bearer {KEY}") {
        return told(StatusCode::UNAUTHORIZED, json!({"error": "unauthorized"}));
    }
    let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
    let (mut templates, mut pods) = (account.templates.lock().unwrap(), account.pods.lock().unwrap());
    match (&asked.method, asked.path.as_str()) {
        (&Method::GET, "/v1/templates") => told(StatusCode::OK, json!(*templates)),
        (&Method::POST, "/v1/templates") => {
            let mut made = body;
            made["id"] = json!("t1");
            templates.push(made.clone());
            told(StatusCode::CREATED, made)
        }
        (&Method::PATCH, "/v1/templates/t1") => told(StatusCode::OK, body),
        (&Method::POST, "/v1/pods") if account.no_gpu.load(Ordering::Relaxed) => {
            told(StatusCode::INTERNAL_SERVER_ERROR, json!({"error": "no instances available"}))
        }
        (&Method::POST, "/v1/pods") => {
            let mut made = body;
            made["id"] = json!("p1");
            pods.push(made.clone());
            told(StatusCode::CREATED, made)
        }
        (&Method::DELETE, "/v1/templates/t1") => {
            templates.clear();
            told(StatusCode::OK, json!({}))
        }
        (&Method::DELETE, "/v1/pods/p1") => {
            pods.clear();
            told(StatusCode::OK, json!({}))
        }
        _ => told(StatusCode::NOT_FOUND, json!({"error": "not found"})),
    }
}

async fn create(api: &StandIn, key: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(script("runpod/create"));
    command.args(["--api", &format!("http://{}/v1", api.address), "--ready-url", &format!("http://{}", api.address)]);
    command.args(arguments).env_remove("RUNPOD_API_KEY");
    if let Some(key) = key {
        command.env("RUNPOD_API_KEY", key);
    }
    command.output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_and_a_pod_are_made_and_nothing_is_left_of_what_fails() {
    let account = Arc::new(Account::default());
    let held = account.clone();
    let api = StandIn::start(move |asked| answer(&held, asked)).await;
    let image = ["--image", "registry.example.org/weir:cuda"];
    let with = |more: &[&'static str]| [&image[..], more].concat();

    for (key, arguments, word) in [
        (None, with(&[]), "RUNPOD_API_KEY"),
        (Some(KEY), vec!["--image", "weir:cuda"], "registry"),
        (Some(KEY), with(&["--set", "AUTH_TOKEN=x"]), "secret"),
        (Some(KEY), with(&["--model-id", "a b"]), "--model-id"),
        (Some(KEY), with(&["--model", "org/name; reboot"]), "ORG/NAME"),
    ] {
        let output = create(&api, key, &arguments).await;
        assert!(!output.status.success() && said(&output).contains(word), "{arguments:?}: {}", said(&output));
        assert!(!said(&output).contains(KEY));
    }
    assert!(api.asked().is_empty(), "nothing was sent: {:?}", api.asked());
    let output = create(&api, None, &with(&["--dry-run", "--pod", "NVIDIA L4"])).await;
    assert!(output.status.success() && api.asked().is_empty(), "{}", said(&output));
    assert!(said(&output).contains("\"12.0\""), "{}", said(&output));
    let output = create(&api, None, &with(&["--dry-run", "--pod", "NVIDIA L4", "--cuda", "13"])).await;
    assert!(said(&output).contains("\"13.0\"") && !said(&output).contains("\"12."), "{}", said(&output));

    // No GPU is free: the template that was made for the pod goes too.
    account.no_gpu.store(true, Ordering::Relaxed);
    let output = create(&api, Some(KEY), &with(&["--pod", "NVIDIA L4"])).await;
    assert!(!output.status.success() && said(&output).contains("no instances available"), "{}", said(&output));
    assert!(account.templates.lock().unwrap().is_empty());
    account.no_gpu.store(false, Ordering::Relaxed);

    // Weir cannot run: neither pod nor template stay.
    account.broken.store(true, Ordering::Relaxed);
    let output = create(&api, Some(KEY), &with(&["--pod", "NVIDIA L4"])).await;
    assert!(!output.status.success() && said(&output).contains("the model is missing"), "{}", said(&output));
    assert!(account.templates.lock().unwrap().is_empty() && account.pods.lock().unwrap().is_empty());
    account.broken.store(false, Ordering::Relaxed);

    let options =
        ["--pod", "NVIDIA L4", "--model-id", "invert", "--set", "WEIR_MEDIA_MAX_FPS=24", "--ready-seconds", "60"];
    let output = create(&api, Some(KEY), &with(&options)).await;
    assert!(output.status.success() && said(&output).contains("ready: "), "{}", said(&output));
    assert!(!said(&output).contains(KEY));
    let template = account.templates.lock().unwrap()[0].clone();
    assert_eq!((&template["volumeMountPath"], &template["ports"]), (&json!("/models"), &json!(["8000/http"])));
    assert_eq!(template["env"]["AUTH_TOKEN"], "{{ RUNPOD_SECRET_weir_auth_token }}");
    assert_eq!(
        (&template["env"]["MODEL_ID"], &template["env"]["WEIR_MEDIA_MAX_FPS"]),
        (&json!("invert"), &json!("24"))
    );
    let pod = account.pods.lock().unwrap()[0].clone();
    assert_eq!((&pod["templateId"], &pod["gpuTypeIds"]), (&json!("t1"), &json!(["NVIDIA L4"])));

    let dry = create(&api, None, &with(&["--dry-run", "--model", "org/name"])).await;
    assert!(said(&dry).contains("weir models pull org/name; } && exec weir serve"), "{}", said(&dry));

    // A second time the template is changed, not made twice.
    let output = create(&api, Some(KEY), &with(&[])).await;
    assert!(output.status.success() && said(&output).contains("t1 changed"), "{}", said(&output));
    assert_eq!(account.templates.lock().unwrap().len(), 1);
}
