//! Small models with made-up weights in the folders of ComfyUI, written once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::streamdiffusion::folders::{self, Line};
use weir::graph::{DType, GraphBuilder};
use weir::models::clip::{self, ClipConfig, Hidden};
use weir::models::controlnet::{self, ControlNetConfig};
use weir::models::depth::{self, DepthConfig};
use weir::models::kl::{self, KlConfig};
use weir::models::synthetic::{Synthetic, uniform};
use weir::models::taesd::{self, TaesdConfig};
use weir::models::unet::{self, Question, UnetConfig};
use weir::models::{ModelError, Net, Source, Stored, tiny};

const WEIGHTS: &str = "diffusion_pytorch_model";

/// Keeps what passes through.
struct Recorder<S> {
    inner: S,
    seen: HashMap<String, (Vec<usize>, Vec<u8>)>,
}

impl<S: Source> Source for Recorder<S> {
    fn has(&self, name: &str) -> bool {
        self.inner.has(name)
    }

    fn tensor(&mut self, name: &str, shape: &[u64], _: DType) -> Result<Stored, ModelError> {
        let stored = self.inner.tensor(name, shape, DType::F32)?;
        if let Stored::Inline(bytes) = &stored {
            self.seen.insert(name.to_owned(), (shape.iter().map(|&n| n as usize).collect(), bytes.clone()));
        }
        Ok(stored)
    }
}

fn write(path: &Path, tensors: &HashMap<String, (Vec<usize>, Vec<u8>)>) {
    std::fs::create_dir_all(path.parent().expect("folder")).expect("folder");
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).expect("tensor"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("safetensors")).expect("weights");
}

/// Writes the weights that `build` asks for, and the configuration, into `folder`.
pub fn store(folder: &Path, file: &str, json: &Value, inner: Synthetic, build: impl FnOnce(&mut Net<'_>)) {
    store_from(folder, file, json, inner, build);
}

/// As [`store`], for weights from anywhere.
pub fn store_from(folder: &Path, file: &str, json: &Value, inner: impl Source, build: impl FnOnce(&mut Net<'_>)) {
    let mut recorder = Recorder { inner, seen: HashMap::new() };
    let mut g = GraphBuilder::new("recorded");
    build(&mut Net::new(&mut g, &mut recorder, DType::F32));
    write(&folder.join(format!("{file}.safetensors")), &recorder.seen);
    std::fs::write(folder.join("config.json"), json.to_string()).expect("config");
}

/// A LoRA of rank 2 and alpha 1, in the naming of kohya.
fn lora(path: &Path, name: &str) {
    let mut tensors = HashMap::new();
    let unet = "lora_unet_";
    let text = "lora_te_text_model_encoder_layers_";
    for (prefix, module, [out, inner]) in [
        (unet, "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k", [8, 32]),
        (unet, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", [32, 32]),
        (unet, "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2", [8, 32]),
        (text, "1.self_attn.q_proj", [32, 32]),
        (text, "0.mlp.fc1", [64, 32]),
    ] {
        let full = if prefix == text { format!("text_model.encoder.layers.{module}") } else { module.to_owned() };
        let flat = format!("{prefix}{}", module.replace('.', "_"));
        let mut put = |part: &str, shape: Vec<usize>, values: Vec<f32>| {
            tensors.insert(format!("{flat}.{part}"), (shape, values.iter().flat_map(|x| x.to_le_bytes()).collect()));
        };
        let noise = |part: &str, count: usize, factor: f64| {
            let numbers = uniform(&format!("{name}/{full}/{part}"), count as u64);
            numbers.map(|u| (u * 3_f64.sqrt() * factor) as f32).collect::<Vec<_>>()
        };
        put("lora_down.weight", vec![2, inner], noise("down", 2 * inner, 1.0 / (inner as f64).sqrt()));
        put("lora_up.weight", vec![out, 2], noise("up", 2 * out, 1.0));
        put("alpha", vec![], vec![1.0]);
    }
    write(path, &tensors);
}

fn unet(folder: &Path) {
    let json = tiny::config("unet-sd15").expect("config");
    store(folder, WEIGHTS, &json, tiny::weights("unet-sd15").expect("weights"), |net| {
        let config = UnetConfig::from_json(&json).expect("config");
        let sample = net.g.input("sample", DType::F32, [1, 4, 8, 8]).expect("input");
        let timestep = net.g.input("timestep", DType::F32, [1]).expect("input");
        let context = net.g.input("context", DType::F32, [1, 77, 32]).expect("input");
        let question = Question { sample: &sample, timestep: &timestep, encoder_hidden_states: &context, added: None };
        unet::build(net, &config, &question, None).expect("UNet");
    });
}

fn controlnet(folder: &Path, name: &str) {
    let json = tiny::config(name).expect("config");
    store(folder, WEIGHTS, &json, tiny::weights(name).expect("weights"), |net| {
        let config = ControlNetConfig::from_json(&json).expect("config");
        let sample = net.g.input("sample", DType::F32, [1, 4, 8, 8]).expect("input");
        let timestep = net.g.input("timestep", DType::F32, [1]).expect("input");
        let context = net.g.input("context", DType::F32, [1, 77, 32]).expect("input");
        let picture = net.g.input("picture", DType::F32, [1, 3, 64, 64]).expect("input");
        let scale = net.g.input("scale", DType::F32, [1]).expect("input");
        let question = Question { sample: &sample, timestep: &timestep, encoder_hidden_states: &context, added: None };
        controlnet::build(net, &config, &question, &picture, &scale).expect("ControlNet");
    });
}

/// Whole models: SDXL, and the same one of SD 1.5 that predicts noise and that predicts velocity.
fn checkpoints(root: &Path) {
    for (name, line) in [("xl", Line::Sdxl), ("noise", Line::Sd15), ("velocity", Line::Sd15)] {
        let folder = root.join("checkpoints").join(name);
        folders::model(&folder, line, false);
        kl(&folder.join("vae"));
    }
    let scheduler = root.join("checkpoints/velocity/scheduler");
    std::fs::create_dir_all(&scheduler).expect("folder");
    let says = serde_json::json!({"prediction_type": "v_prediction"});
    std::fs::write(scheduler.join("scheduler_config.json"), says.to_string()).expect("scheduler");
}

fn kl(folder: &Path) {
    let json = tiny::config("kl").expect("config");
    store(folder, WEIGHTS, &json, tiny::weights("kl").expect("weights"), |net| {
        let config = KlConfig::from_json(&json).expect("config");
        let x = net.g.input("x", DType::F32, [1, 3, 64, 64]).expect("input");
        let noise = net.g.input("noise", DType::F32, [1, 4, 8, 8]).expect("input");
        let latent = kl::encode(net, &config, &x, &noise).expect("encoder");
        kl::decode(net, &config, &latent).expect("decoder");
    });
}

fn vaes(root: &Path) {
    let json = tiny::config("taesd").expect("config");
    store(&root.join("madebyollin/taesd"), WEIGHTS, &json, tiny::weights("taesd").expect("weights"), |net| {
        let config = TaesdConfig::from_json(&json).expect("config");
        let x = net.g.input("x", DType::F32, [1, 3, 64, 64]).expect("input");
        let latent = taesd::encode(net, &config, &x).expect("encoder");
        taesd::decode(net, &config, &latent).expect("decoder");
    });
    kl(&root.join("vae/full"));
}

fn estimator(folder: &Path) {
    let json: Value = serde_json::from_str(include_str!("../../src/models/tiny/depth.json")).expect("config");
    store(folder, "model", &json, Synthetic::new("depth-1", 1.0), |net| {
        let config = DepthConfig::from_json(&json).expect("config");
        let picture = net.g.input("picture", DType::F32, [1, 3, 70, 70]).expect("input");
        depth::build(net, &config, &picture).expect("depth model");
    });
}

fn text(root: &Path) {
    let golden: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "integration-tests", "golden", "streamdiffusion", "tokenizer"].iter().collect();
    let tokenizer = root.join("clip/tokenizer");
    std::fs::create_dir_all(&tokenizer).expect("folder");
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(golden.join(name), tokenizer.join(name)).expect("copy");
    }
    let json: Value = serde_json::from_str(include_str!("../../src/models/tiny/clip-l.json")).expect("config");
    store(&root.join("clip/CLIPText"), "model.fp16", &json, Synthetic::new("clip-l", 1.0), |net| {
        let config = ClipConfig::from_json(&json).expect("config");
        let ids = net.g.input("ids", DType::I64, [1, 77]).expect("input");
        clip::build(net, &config, &ids, None, Hidden::Last).expect("text encoder");
    });
}

/// The two small networks in the place of MediaPipe's.
fn faces(root: &Path) {
    let golden = [env!("CARGO_MANIFEST_DIR"), "integration-tests/golden/workflow/mediapipe"].join("/");
    std::fs::create_dir_all(root.join("mediapipe")).expect("folder");
    for name in ["face_detection_short_range.tflite", "face_landmark.tflite"] {
        std::fs::copy(Path::new(&golden).join(name), root.join("mediapipe").join(name)).expect("copy");
    }
}

/// The folder of models.
pub fn models() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().expect("folder");
            let root = folder.path();
            unet(&root.join("aaronb/dreamshaper-8-dmd-1kstep"));
            controlnet(&root.join("controlnet/control_v11f1p_sd15_depth_fp16"), "controlnet-sd15-0");
            controlnet(&root.join("controlnet/other"), "controlnet-sd15-1");
            controlnet(&root.join("controlnet/outfitToOutfit_v20"), "controlnet-sd15-1");
            controlnet(&root.join("controlnet/control_v2p_sd15_mediapipe_face"), "controlnet-sd15-1");
            faces(root);
            for size in ["Base", "Large"] {
                estimator(&root.join(format!("depth-anything/Depth-Anything-V2-{size}-hf")));
            }
            vaes(root);
            checkpoints(root);
            text(root);
            for (index, size) in [(1, 64), (3, 64), (5, 96), (2, 84)] {
                let path = root.join(format!("input/frame-{index}.png"));
                std::fs::create_dir_all(root.join("input")).expect("folder");
                let pixels = super::nodes::frame(index, size);
                let rows = if size == 64 {
                    0..64
                } else if size == 96 {
                    8..72
                } else {
                    0..76
                };
                let part = pixels[rows.start * size * 3..rows.end * size * 3].to_vec();
                let picture = image::RgbImage::from_raw(size as u32, rows.len() as u32, part).expect("a picture");
                picture.save(path).expect("PNG");
            }
            let mask = image::RgbImage::from_fn(64, 64, |x, y| {
                image::Rgb([
                    if x < 20 {
                        255
                    } else if y >= 40 {
                        51
                    } else {
                        0
                    },
                    7,
                    99,
                ])
            });
            mask.save(root.join("input/mask.png")).expect("PNG");
            lora(&root.join("loras/a.safetensors"), "lora-a");
            lora(&root.join("loras/b.safetensors"), "lora-b");
            folder
        })
        .path()
}
