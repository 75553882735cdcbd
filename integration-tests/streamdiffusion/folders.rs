//! Folders of weights as diffusers lays them out, with the small models in them.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use weir::graph::{DType, GraphBuilder, Tensor};
use weir::models::clip::{self, ClipConfig, Hidden};
use weir::models::controlnet::{self, ControlNetConfig};
use weir::models::depth::{self, DepthConfig};
use weir::models::eva::{self, EvaConfig};
use weir::models::ip_adapter::{self, AdapterConfig, Layers};
use weir::models::kl::{self, KlConfig};
use weir::models::synthetic::{Synthetic, uniform};
use weir::models::taesd::{self, TaesdConfig};
use weir::models::unet::{self, Added, Question, UnetConfig};
use weir::models::vision::{self, VisionConfig};
use weir::models::{ModelError, Net, Source, Stored, tiny};

use super::{config, folder};

/// A line of models with its text encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// SD 1.5.
    Sd15,
    /// SD 2.1, sd-turbo.
    Sd21,
    /// SDXL.
    Sdxl,
}

impl Line {
    pub fn name(self) -> &'static str {
        match self {
            Line::Sd15 => "sd15",
            Line::Sd21 => "sd21",
            Line::Sdxl => "sdxl",
        }
    }

    /// The UNet's configuration. That of SDXL takes both encoders' features, 32 and 40.
    pub fn unet(self) -> Value {
        let mut unet = config(&format!("unet-{}", self.name()));
        if self == Line::Sdxl {
            unet["cross_attention_dim"] = json!(72);
        }
        unet
    }

    pub fn controlnet(self, number: usize) -> Value {
        let mut control = config(&format!("controlnet-{}-{number}", self.name()));
        control["cross_attention_dim"] = self.unet()["cross_attention_dim"].clone();
        control
    }

    fn encoders(self) -> &'static [(&'static str, &'static str, &'static str)] {
        match self {
            Line::Sd15 => &[("text_encoder", "tokenizer", "clip-l")],
            Line::Sd21 => &[("text_encoder", "tokenizer", "clip-h")],
            Line::Sdxl => &[("text_encoder", "tokenizer", "clip-l"), ("text_encoder_2", "tokenizer_2", "clip-g")],
        }
    }
}

/// Keeps what passes through.
struct Recorder {
    inner: Synthetic,
    seen: HashMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Source for Recorder {
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

type Tensors<'a> = Vec<(String, Vec<usize>, &'a [u8])>;

fn write(path: &Path, tensors: &Tensors<'_>) {
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).expect("tensor"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("safetensors")).expect("weights");
}

/// Writes the weights that `build` asks for, and the configuration, into `folder`.
pub fn store(folder: &Path, file: &str, json: &Value, inner: Synthetic, build: impl FnOnce(&mut Net<'_>)) {
    let mut recorder = Recorder { inner, seen: HashMap::new() };
    let mut g = GraphBuilder::new("recorded");
    build(&mut Net::new(&mut g, &mut recorder, DType::F32));
    std::fs::create_dir_all(folder).expect("folder");
    std::fs::write(folder.join("config.json"), json.to_string()).expect("config");
    let tensors =
        recorder.seen.iter().map(|(name, (shape, bytes))| (name.clone(), shape.clone(), bytes.as_slice())).collect();
    write(&folder.join(format!("{file}.safetensors")), &tensors);
}

/// What is asked of a UNet or ControlNet of `line` while it is recorded.
fn question(net: &mut Net<'_>, line: Line) -> (Tensor, Tensor, Tensor, Option<(Tensor, Tensor)>) {
    let width = line.unet()["cross_attention_dim"].as_u64().expect("a width");
    let mut input = |name: &str, shape: &[u64]| net.g.input(name, DType::F32, shape.to_vec()).expect("input");
    let added = (line == Line::Sdxl).then(|| (input("text_embeds", &[1, 16]), input("time_ids", &[1, 6])));
    (input("sample", &[1, 4, 8, 8]), input("timestep", &[1]), input("context", &[1, 77, width]), added)
}

const WEIGHTS: &str = "diffusion_pytorch_model";

/// Writes a model of `line`: UNet, text encoders, tokenizers and scheduler; with `taesd` the tiny autoencoder inside.
pub fn model(root: &Path, line: Line, with_taesd: bool) {
    let (shape, key) = (line.unet(), format!("unet-{}", line.name()));
    store(&root.join("unet"), WEIGHTS, &shape, Synthetic::new(&key, 1.0), |net| {
        let config = UnetConfig::from_json(&shape).expect("config");
        let (sample, timestep, context, added) = question(net, line);
        let added = added.as_ref().map(|(text_embeds, time_ids)| Added { text_embeds, time_ids });
        let question = Question { sample: &sample, timestep: &timestep, encoder_hidden_states: &context, added };
        unet::build(net, &config, &question, None).expect("UNet");
    });
    if with_taesd {
        taesd(&root.join("taesd"));
    }
    for (encoder, tokenizer, key) in line.encoders() {
        let text = config(key);
        store(&root.join(encoder), "model", &text, Synthetic::new(key, 1.0), |net| {
            let shape = ClipConfig::from_json(&text).expect("config");
            let ids = net.g.input("ids", DType::I64, [1, 77]).expect("input");
            let end = shape.projection.map(|_| net.g.input("end", DType::I64, [1]).expect("input"));
            clip::build(net, &shape, &ids, end.as_ref(), Hidden::Last).expect("text encoder");
        });
        let to = root.join(tokenizer);
        std::fs::create_dir_all(&to).expect("folder");
        for name in ["vocab.json", "merges.txt"] {
            std::fs::copy(folder().join("tokenizer").join(name), to.join(name)).expect("copy");
        }
        let pad = if *key == "clip-l" { "<|endoftext|>" } else { "!" };
        std::fs::write(to.join("special_tokens_map.json"), json!({"pad_token": pad}).to_string()).expect("write");
    }
}

/// Writes the tiny autoencoder.
pub fn taesd(root: &Path) {
    let json = config("taesd");
    store(root, WEIGHTS, &json, tiny::weights("taesd").expect("weights"), |net| {
        let shape = TaesdConfig::from_json(&json).expect("config");
        let x = net.g.input("x", DType::F32, [1, 3, 64, 64]).expect("input");
        let latent = taesd::encode(net, &shape, &x).expect("encoder");
        taesd::decode(net, &shape, &latent).expect("decoder");
    });
}

/// Writes the full autoencoder.
pub fn vae(root: &Path) {
    let json = config("kl");
    store(root, WEIGHTS, &json, tiny::weights("kl").expect("weights"), |net| {
        let shape = KlConfig::from_json(&json).expect("config");
        let mut input = |name: &str, shape: [u64; 4]| net.g.input(name, DType::F32, shape).expect("input");
        let (x, noise) = (input("x", [1, 3, 64, 64]), input("noise", [1, 4, 8, 8]));
        let latent = kl::encode(net, &shape, &x, &noise).expect("encoder");
        kl::decode(net, &shape, &latent).expect("decoder");
    });
}

/// Writes the depth model.
pub fn depth(root: &Path) {
    let json = config("depth");
    store(root, "model", &json, Synthetic::new("depth-1", 1.0), |net| {
        let shape = DepthConfig::from_json(&json).expect("config");
        let picture = net.g.input("picture", DType::F32, [1, 3, shape.size, shape.size]).expect("input");
        depth::build(net, &shape, &picture).expect("depth model");
    });
}

/// Writes the IP-Adapter of `line` and its picture encoder, in the layout of h94/IP-Adapter.
pub fn adapter(root: &Path, line: Line) {
    let (folder, name) = match line {
        Line::Sdxl => ("sdxl_models", "ip-adapter_sdxl"),
        _ => ("models", "ip-adapter_sd15"),
    };
    let json = config("vision");
    let shape = VisionConfig::from_json(&json).expect("config");
    store(&root.join(folder).join("image_encoder"), "model", &json, Synthetic::new("vision", 1.0), |net| {
        let picture = net.g.input("picture", DType::F32, [1, 3, shape.size, shape.size]).expect("input");
        vision::build(net, &shape, &picture).expect("picture encoder");
    });
    let unet = UnetConfig::from_json(&line.unet()).expect("config");
    let width = unet.trunk.context_dim;
    let mut recorder =
        Recorder { inner: Synthetic::new(&format!("ip-adapter-{}", line.name()), 1.0), seen: HashMap::new() };
    let mut g = GraphBuilder::new("recorded");
    let embedding = g.input("embedding", DType::F32, [1, shape.projection]).expect("input");
    let scales = g.input("scales", DType::F32, [1, Layers::of(&unet).count() as u64]).expect("input");
    let mut net = Net::new(&mut g, &mut recorder, DType::F32);
    let config = AdapterConfig { tokens: 4, width, embedding: shape.projection };
    let tokens = ip_adapter::project(&mut net, &config, &embedding).expect("projection");
    ip_adapter::images(&mut net, &unet, &tokens, &scales).expect("layers");
    let tensors =
        recorder.seen.iter().map(|(name, (shape, bytes))| (name.clone(), shape.clone(), bytes.as_slice())).collect();
    write(&root.join(folder).join(format!("{name}.safetensors")), &tensors);
}

/// Writes ControlNet `number` (0 or 1) of `line`.
pub fn controlnet(root: &Path, line: Line, number: usize) {
    let (json, key) = (line.controlnet(number), format!("controlnet-{}-{number}", line.name()));
    store(root, WEIGHTS, &json, Synthetic::new(&key, 1.0), |net| {
        let shape = ControlNetConfig::from_json(&json).expect("config");
        let (sample, timestep, context, added) = question(net, line);
        let picture = net.g.input("cond", DType::F32, [1, 3, 64, 64]).expect("input");
        let scale = net.g.input("scale", DType::F32, [1]).expect("input");
        let added = added.as_ref().map(|(text_embeds, time_ids)| Added { text_embeds, time_ids });
        let question = Question { sample: &sample, timestep: &timestep, encoder_hidden_states: &context, added };
        controlnet::build(net, &shape, &question, &picture, &scale).expect("ControlNet");
    });
}

/// The LoRA's layers in the UNet of every line, and their width there.
pub const LORA: [(&str, u64); 2] = [
    ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 32),
    ("mid_block.attentions.0.transformer_blocks.0.attn1.to_v", 32),
];

/// Writes a LoRA of rank 2, of numbers that differ by `key`.
pub fn lora(path: &Path, key: &str) {
    let mut made = Vec::new();
    for (layer, width) in LORA {
        for (end, shape) in [("down", [2, width]), ("up", [width, 2])] {
            let name = format!("lora_unet_{}.lora_{end}.weight", layer.replace('.', "_"));
            let numbers = uniform(&format!("{key}/{layer}.{end}"), shape[0] * shape[1]);
            let bytes: Vec<u8> = numbers.flat_map(|u| (u as f32).to_le_bytes()).collect();
            made.push((name, shape.map(|n| n as usize).to_vec(), bytes));
        }
    }
    let tensors = made.iter().map(|(name, shape, bytes)| (name.clone(), shape.clone(), bytes.as_slice())).collect();
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
    write(path, &tensors);
}

/// Writes the classifier of the safety checker, by the names that transformers gives its weights.
pub fn safety(root: &Path) {
    let json = config("eva");
    let place = root.join("models--Freepik--nsfw_image_detector/snapshots/1f");
    store(&place, "model", &json, Synthetic::new("eva", 2.0), |net| {
        let shape = EvaConfig::from_json(&json).expect("config");
        let picture = net.g.input("picture", DType::F32, [1, 3, shape.size, shape.size]).expect("input");
        eva::build(net, &shape, &picture).expect("classifier");
    });
}
