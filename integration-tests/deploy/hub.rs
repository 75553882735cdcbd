//! `scripts/prepare-models` against a hub whose every repository is one small LoRA.

use std::path::Path;
use std::process::Output;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Asked, StandIn, said, script};

const FILE: &str = "pytorch_lora_weights.safetensors";

fn lora() -> Vec<u8> {
    let bytes = vec![0; 4 * 4 * 8];
    let tensor = |shape: [usize; 2]| TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap();
    let layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
    let both = [(format!("{layer}.lora_A.weight"), tensor([4, 8])), (format!("{layer}.lora_B.weight"), tensor([8, 4]))];
    safetensors::serialize(both, None).unwrap()
}

/// Answers as a hub; a repository named `huge` says that its file is a petabyte long.
fn answer(asked: &Asked) -> Response<Body> {
    let bytes = lora();
    if asked.path.starts_with("/api/models/") {
        return Response::new(Body::from(json!({"siblings": [{"rfilename": FILE}], "sha": "0123abcd"}).to_string()));
    }
    let Some((from, to)) = asked.range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Response::builder().status(StatusCode::BAD_REQUEST).body(Body::empty()).unwrap();
    };
    let from: usize = from.parse().unwrap();
    let to = to.parse().unwrap_or(bytes.len() - 1);
    let length = if asked.path.contains("/huge/") { 1_000_000_000_000_000 } else { bytes.len() };
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header("etag", format!("\"{:x}\"", Sha256::digest(&bytes)))
        .header("x-repo-commit", "0123abcd")
        .header("content-range", format!("bytes {from}-{to}/{length}"))
        .body(Body::from(bytes[from..=to].to_vec()))
        .unwrap()
}

async fn prepare(models: &Path, hub: &StandIn, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(script("prepare-models"));
    command.args(["--weir", env!("CARGO_BIN_EXE_weir"), "--models"]).arg(models).args(arguments);
    command.env("HF_ENDPOINT", format!("http://{}", hub.address)).env("HF_TOKEN", "hub-secret");
    command.output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_prepared_once_and_only_where_they_fit() {
    let hub = StandIn::start(answer).await;
    let place = tempfile::tempdir().unwrap();
    let models = place.path().join("models");

    let output = prepare(&models, &hub, &["streamdiffusion", "org/huge"]).await;
    assert!(!output.status.success() && said(&output).contains("nothing was fetched"), "{}", said(&output));
    assert_eq!(std::fs::read_dir(&models).unwrap().count(), 0, "nothing is left behind");

    let output = prepare(&models, &hub, &["streamdiffusion", "--dry-run"]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(std::fs::read_dir(&models).unwrap().count(), 0, "a dry run fetches nothing");

    let output = prepare(&models, &hub, &["streamdiffusion", "streamdiffusion-sdxl"]).await;
    assert!(output.status.success() && said(&output).contains("\n5 models are there"), "{}", said(&output));
    assert!(!said(&output).contains("hub-secret"));
    for model in [
        "stabilityai--sd-turbo",
        "madebyollin--taesd",
        "stabilityai--sdxl-turbo",
        "madebyollin--taesdxl",
        "Freepik--nsfw_image_detector",
    ] {
        let file = models.join(format!("models--{model}/snapshots/0123abcd")).join(FILE);
        assert_eq!(std::fs::read(file).unwrap(), lora());
    }
    let transfers = || hub.asked().iter().filter(|asked| asked.range.len() > "bytes=0-0".len() + 1).count();
    let before = transfers();
    assert!(hub.asked().iter().all(|asked| asked.token == "Bearer hub-secret"));

    let output = prepare(&models, &hub, &["streamdiffusion"]).await;
    assert!(output.status.success() && said(&output).contains("there\n"), "{}", said(&output));
    assert_eq!(transfers(), before, "what is there is not fetched again");

    let output = prepare(&models, &hub, &["streamdiffusio"]).await;
    assert!(!output.status.success() && said(&output).contains("no pipeline"), "{}", said(&output));
}
