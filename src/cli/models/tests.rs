#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::pull::{PullError, Remote, needed, pull, size};
use super::{examine, list};
use crate::graph::DType;
use crate::models::tiny;

/// A hub with one repository, which notes what is asked of it.
struct Hub {
    files: BTreeMap<String, Vec<u8>>,
    token: Option<String>,
    asked: Mutex<Vec<String>>,
}

const COMMIT: &str = "0123456789abcdef";

fn answer(hub: &Hub, request: &Request) -> Response<Body> {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let plain = |status: StatusCode| Response::builder().status(status).body(Body::empty()).unwrap();
    if hub.token.as_ref().is_some_and(|token| header("authorization") != format!("Bearer {token}")) {
        return plain(StatusCode::UNAUTHORIZED);
    }
    let path = request.uri().path();
    hub.asked.lock().unwrap().push(format!("{path} {}", header("range")));
    if path == "/api/models/org/name/revision/main" {
        let names: Vec<_> = hub.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"siblings": names, "sha": COMMIT}).to_string();
        return Response::new(Body::from(body));
    }
    let file = path.strip_prefix("/org/name/resolve/main/").and_then(|name| hub.files.get(name));
    let Some(bytes) = file else { return plain(StatusCode::NOT_FOUND) };
    let range = header("range");
    let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
    let from: usize = from.parse().expect("a number");
    if from >= bytes.len() {
        return plain(StatusCode::RANGE_NOT_SATISFIABLE);
    }
    let to = to.parse().unwrap_or(bytes.len() - 1);
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header("etag", format!("\"{:x}\"", Sha256::digest(bytes)))
        .header("x-repo-commit", COMMIT)
        .header("content-range", format!("bytes {from}-{to}/{}", bytes.len()))
        .body(Body::from(bytes[from..=to].to_vec()))
        .unwrap()
}

/// Runs `work` against a hub of `files`.
fn with_hub(files: &[(&str, Vec<u8>)], token: Option<&str>, work: impl FnOnce(&Hub, &str)) {
    let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
    let hub = Arc::new(Hub { files, token: token.map(str::to_owned), asked: Mutex::default() });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let router = Router::new()
        .fallback(async |State(hub): State<Arc<Hub>>, request: Request| answer(&hub, &request))
        .with_state(hub.clone());
    let listener = runtime.block_on(tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = runtime.spawn(async { axum::serve(listener, router).await });
    work(&hub, &address);
    server.abort();
}

/// The tiny autoencoder as a repository.
fn taesd() -> Vec<(&'static str, Vec<u8>)> {
    use crate::graph::GraphBuilder;
    use crate::models::taesd::{TaesdConfig, decode, encode};
    use crate::models::{ModelError, Net, Source, Stored};
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    struct Recorder(crate::models::synthetic::Synthetic, BTreeMap<String, (Vec<usize>, Vec<u8>)>);
    impl Source for Recorder {
        fn has(&self, name: &str) -> bool {
            self.0.has(name)
        }

        fn tensor(&mut self, name: &str, shape: &[u64], dtype: DType) -> Result<Stored, ModelError> {
            let stored = self.0.tensor(name, shape, dtype)?;
            if let Stored::Inline(bytes) = &stored {
                let shape = shape.iter().map(|&n| n as usize).collect();
                self.1.insert(name.to_owned(), (shape, bytes.clone()));
            }
            Ok(stored)
        }
    }
    let mut json = tiny::config("taesd").unwrap();
    json["_class_name"] = "AutoencoderTiny".into();
    let config = TaesdConfig::from_json(&json).unwrap();
    let mut recorder = Recorder(tiny::weights("taesd").unwrap(), BTreeMap::new());
    let mut g = GraphBuilder::new("taesd");
    let picture = g.input("picture", DType::F32, [1, 3, 64, 64]).unwrap();
    let mut net = Net::new(&mut g, &mut recorder, DType::F16);
    let latent = encode(&mut net, &config, &picture).unwrap();
    decode(&mut net, &config, &latent).unwrap();
    let views = recorder
        .1
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F16, shape.clone(), bytes).unwrap()));
    let weights = safetensors::serialize(views, None).unwrap();
    vec![
        ("config.json", json.to_string().into_bytes()),
        ("diffusion_pytorch_model.safetensors", weights),
        ("diffusion_pytorch_model.bin", b"pickle".to_vec()),
        ("README.md", b"read me".to_vec()),
    ]
}

fn remote(endpoint: &str, token: Option<&str>) -> Remote {
    Remote { endpoint: Some(endpoint.to_owned()), token: token.map(str::to_owned) }
}

#[test]
fn a_model_is_pulled_listed_and_checked() {
    let place = tempfile::tempdir().unwrap();
    let models = place.path().join("models");
    assert!(list(&models).starts_with("No models in "));
    with_hub(&taesd(), Some("secret"), |hub, address| {
        let refused = pull(&models, "org/name", DType::F16, &remote(address, None)).unwrap_err().to_string();
        assert!(refused.contains("HF_TOKEN"), "{refused}");
        pull(&models, "org/name", DType::F16, &remote(address, Some("secret"))).unwrap();
        let asked = hub.asked.lock().unwrap().clone();
        assert!(asked.iter().any(|line| line.contains("config.json")));
        assert!(!asked.iter().any(|line| line.contains(".bin") || line.contains("README")), "{asked:?}");
        // A second time nothing is fetched but the list.
        pull(&models, "org/name", DType::F16, &remote(address, Some("secret"))).unwrap();
        assert_eq!(hub.asked.lock().unwrap().len(), asked.len() + 1);
    });
    let (text, good) = examine(&models, "org/name", DType::F16).unwrap();
    assert!(
        good && text.contains("tiny autoencoder") && text.contains("f16") && text.ends_with("It can run.\n"),
        "{text}"
    );
    let table = list(&models);
    assert!(
        table.lines().nth(1).is_some_and(|line| line.starts_with("org/name ") && line.ends_with("can run")),
        "{table}"
    );
    assert!(examine(&models, "org/other", DType::F16).is_err());

    // One weight too few.
    let snapshot = models.join("models--org--name/snapshots").join(COMMIT);
    let weights = snapshot.join("diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let rest = file.tensors().into_iter().filter(|(name, _)| name != "decoder.layers.0.weight");
    let shorter = safetensors::serialize(rest, None).unwrap();
    std::fs::remove_file(&weights).unwrap();
    std::fs::write(&weights, shorter).unwrap();
    let (text, good) = examine(&models, "org/name", DType::F16).unwrap();
    assert!(!good && text.contains("the tensor decoder.layers.0.weight is missing"), "{text}");
    assert!(list(&models).contains("cannot run: taesd: "));
}

#[test]
fn a_transfer_that_broke_off_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let files = taesd();
    let (name, bytes) = &files[1];
    let blobs = place.path().join("models--org--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{:x}.part", Sha256::digest(bytes)));
    let file = place.path().join("models--org--name/snapshots").join(COMMIT).join(name);
    let again = || {
        let _ = std::fs::remove_dir_all(place.path().join("models--org--name/snapshots"));
    };
    with_hub(&files, None, |hub, address| {
        std::fs::write(&part, &bytes[..1000]).unwrap();
        let missing = size(place.path(), "org/name", DType::F16, &remote(address, None)).unwrap();
        assert_eq!(missing, (2, (files[0].1.len() + bytes.len() - 1000) as u64));
        pull(place.path(), "org/name", DType::F16, &remote(address, None)).unwrap();
        assert!(hub.asked.lock().unwrap().iter().any(|line| line.ends_with("bytes=1000-")));
        assert_eq!(size(place.path(), "org/name", DType::F16, &remote(address, None)).unwrap(), (0, 0));
        assert_eq!(&std::fs::read(&file).unwrap(), bytes);
        // All of it was there before it got its name.
        again();
        std::fs::write(&part, bytes).unwrap();
        pull(place.path(), "org/name", DType::F16, &remote(address, None)).unwrap();
        assert_eq!(&std::fs::read(&file).unwrap(), bytes);
        // What was there was something else.
        again();
        std::fs::write(&part, vec![7; 1000]).unwrap();
        let error = pull(place.path(), "org/name", DType::F16, &remote(address, None)).unwrap_err();
        assert!(matches!(error, PullError::Damaged { .. }), "{error}");
        assert!(!file.exists() && !part.exists());
        pull(place.path(), "org/name", DType::F16, &remote(address, None)).unwrap();
        assert_eq!(&std::fs::read(&file).unwrap(), bytes);
    });
}

#[test]
fn what_cannot_be_pulled_is_refused() {
    let place = tempfile::tempdir().unwrap();
    with_hub(&[("pytorch_model.bin", vec![1]), ("config.json", vec![2])], None, |_, address| {
        let error = pull(place.path(), "org/name", DType::F16, &remote(address, None)).unwrap_err().to_string();
        assert_eq!(
            error,
            "org/name has no weights as .safetensors; pytorch_model.bin is a pickle, which can run any program and is not read"
        );
        for id in ["name", "../name", "org/../x", "org/name/x", "org/.git", "org/name@../x", "", "a b/c"] {
            let error = pull(place.path(), id, DType::F16, &remote(address, None)).unwrap_err();
            assert!(matches!(error, PullError::Name(_)), "{id}: {error}");
        }
        let error = pull(place.path(), "org/none", DType::F16, &remote(address, None)).unwrap_err().to_string();
        assert!(error.starts_with("org/none: ") && error.contains("404"), "{error}");
    });
}

#[test]
fn only_what_is_needed_is_fetched() {
    let all: Vec<String> = [
        ".gitattributes",
        "README.md",
        "model_index.json",
        "sd_turbo.safetensors",
        "scheduler/scheduler_config.json",
        "safety_checker/model.safetensors",
        "feature_extractor/preprocessor_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.onnx",
        "text_encoder/pytorch_model.bin",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "tokenizer/special_tokens_map.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    .map(str::to_owned)
    .to_vec();
    let half = needed(&all, true);
    let has = |list: &[String], name: &str| list.iter().any(|file| file == name);
    for name in [
        "model_index.json",
        "tokenizer/vocab.json",
        "text_encoder/model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ] {
        assert!(has(&half, name), "{name} in {half:?}");
    }
    assert_eq!(half.len(), 11, "{half:?}");
    assert!(half.last().unwrap().ends_with(".safetensors"));
    let full = needed(&all, false);
    for name in [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "vae/diffusion_pytorch_model.safetensors",
    ] {
        assert!(has(&full, name), "{name} in {full:?}");
    }
    assert_eq!(full.len(), 12, "{full:?}");
    let lora = ["README.md", "pytorch_lora_weights.safetensors", "../evil.safetensors"].map(str::to_owned);
    assert_eq!(needed(&lora, true), ["pytorch_lora_weights.safetensors"]);
}

proptest! {
    #[test]
    fn nothing_leaves_the_repository(names in prop::collection::vec("(\\.\\./|/|unet/|x/)?[a-z.]{0,12}(\\.safetensors|config\\.json)?", 0..8)) {
        for file in needed(&names, true) {
            prop_assert!(!file.starts_with('/') && !file.split('/').any(|step| step == ".."), "{}", file);
        }
    }
}

#[test]
fn of_many_detectors_of_people_the_usual_one_is_fetched() {
    let all = ["0.1", "0.2", "0.35", "0.5", "0.8"].map(|score| format!("yolo_nas_pose_l_{score}.onnx"));
    let more = [".gitattributes", "README.md", "export_trt.py"].map(str::to_owned);
    assert_eq!(needed(&[&more[..], &all[..]].concat(), true), ["yolo_nas_pose_l_0.5.onnx"]);
}

#[test]
fn of_many_adapters_the_regular_ones_are_fetched_and_checked() {
    let all: Vec<String> = [
        "README.md",
        "fig1.png",
        "models/image_encoder/config.json",
        "models/image_encoder/model.safetensors",
        "models/image_encoder/pytorch_model.bin",
        "models/ip-adapter-plus_sd15.safetensors",
        "models/ip-adapter_sd15.bin",
        "models/ip-adapter_sd15.safetensors",
        "models/ip-adapter_sd15_light.safetensors",
        "sdxl_models/image_encoder/config.json",
        "sdxl_models/image_encoder/model.safetensors",
        "sdxl_models/ip-adapter_sdxl.safetensors",
        "sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
    ]
    .map(str::to_owned)
    .to_vec();
    let wanted = needed(&all, true);
    assert_eq!(wanted.len(), 6);
    assert!(wanted[..2].iter().all(|file| file.ends_with("config.json")));
    assert!(wanted[2..].iter().all(|file| file.ends_with(".safetensors") && all.contains(file)), "{wanted:?}");
    assert!(!wanted.iter().any(|file| file.contains("plus") || file.contains("light") || file.contains("vit-h")));

    // Of the two lines the one that is there is checked, and what is wrong with it is told.
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("h94/IP-Adapter/models");
    std::fs::create_dir_all(folder.join("image_encoder")).unwrap();
    std::fs::write(folder.join("ip-adapter_sd15.bin"), b"pickle").unwrap();
    let (text, good) = examine(place.path(), "h94/IP-Adapter", DType::F16).unwrap();
    assert!(!good && text.contains("h94/IP-Adapter: IP-Adapter") && !text.contains("sdxl"), "{text}");
    assert!(text.contains("ip-adapter_sd15.bin: a pickle") && text.contains("sd15 encoder"), "{text}");
    let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap();
    let file = safetensors::serialize([("image_proj.latents", tensor)], None).unwrap();
    std::fs::write(folder.join("ip-adapter_sd15.safetensors"), file).unwrap();
    let (text, good) = examine(place.path(), "h94/IP-Adapter", DType::F16).unwrap();
    assert!(!good && text.contains("of the kind plus"), "{text}");
    assert!(list(place.path()).contains("h94/IP-Adapter"), "{}", list(place.path()));
}
