//! Whether a model on disk can run: every configuration is read, every graph built without reading a weight, so that each
//! name, shape and type is compared with what is there.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::clip::{self, ClipConfig, Hidden};
use super::controlnet::{self, ControlNetConfig};
use super::depth::{self, DepthConfig};
use super::eva::{self, EvaConfig};
use super::ip_adapter::{self, AdapterConfig, Files};
use super::kl::{self, KlConfig};
use super::pose::detector::{self, Ports};
use super::schedule::Schedule;
use super::taesd::{self, TaesdConfig};
use super::tokenizer::ClipTokenizer;
use super::unet::{self, Added, Question, UnetConfig};
use super::weights::{Component, Family, Format, Lora, Reader, Repository, Weights};
use super::{ModelError, Net, full};
use crate::graph::{DType, GraphBuilder, GraphError, Tensor};

/// What a repository is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model of a family: UNet, text encoders, autoencoder.
    Pipeline(Family),
    /// A ControlNet.
    ControlNet,
    /// A tiny autoencoder.
    TinyVae,
    /// A LoRA.
    Lora,
    /// A depth model.
    Depth,
    /// The classifier of a safety checker.
    Safety,
    /// IP-Adapters with their picture encoders.
    IpAdapter,
    /// Detectors of people and their joints.
    Pose,
    /// Nothing that is known here.
    Unknown,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Pipeline(family) => family.fmt(f),
            Kind::ControlNet => f.write_str("ControlNet"),
            Kind::TinyVae => f.write_str("tiny autoencoder"),
            Kind::Lora => f.write_str("LoRA"),
            Kind::Depth => f.write_str("depth model"),
            Kind::Safety => f.write_str("safety checker"),
            Kind::IpAdapter => f.write_str("IP-Adapter"),
            Kind::Pose => f.write_str("pose detector"),
            Kind::Unknown => f.write_str("unknown"),
        }
    }
}

/// A part of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// Its name, as its folder's.
    pub name: &'static str,
    /// Type of most weights.
    pub format: Option<Format>,
    /// How many numbers it has.
    pub parameters: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// Why it cannot run.
    pub trouble: Option<String>,
}

/// What is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What the repository is.
    pub kind: Kind,
    /// Its parts.
    pub parts: Vec<Checked>,
}

impl Report {
    /// The first thing that keeps the model from running.
    pub fn trouble(&self) -> Option<String> {
        let trouble = |part: &Checked| Some(format!("{}: {}", part.name, part.trouble.as_ref()?));
        match self.kind {
            Kind::Unknown => Some(
                "neither a model nor a ControlNet, a tiny autoencoder, a LoRA, a depth model, a safety checker, an IP-Adapter or a \
                 pose detector"
                    .to_owned(),
            ),
            _ => self.parts.iter().find_map(trouble),
        }
    }

    /// Bytes of all parts as stored.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// What the repository is, by its files alone.
pub fn kind(repository: &Repository) -> Kind {
    let class = || match repository.is_single() {
        true => {
            let weights = repository.weights(Component::ControlNet, DType::F16).ok()?;
            weights.has("controlnet_mid_block.weight").then(|| "ControlNetModel".to_owned())
        }
        false => Some(repository.config(Component::ControlNet).ok()?.get("_class_name")?.as_str()?.to_owned()),
    };
    if repository.has(Component::Unet) {
        return repository.family().map_or(Kind::Unknown, Kind::Pipeline);
    }
    if let Ok(json) = repository.json(Path::new("config.json")) {
        let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("model_type") == "depth_anything" {
            return Kind::Depth;
        }
        if text("architecture").starts_with("eva02_") {
            return Kind::Safety;
        }
    }
    if lora_file(repository.root()).is_some_and(|path| Lora::open(&path).is_ok()) {
        return Kind::Lora;
    }
    if !adapters(repository.root()).is_empty() {
        return Kind::IpAdapter;
    }
    if !detector::files(repository.root()).is_empty() {
        return Kind::Pose;
    }
    match class().as_deref() {
        Some("ControlNetModel") => Kind::ControlNet,
        Some("AutoencoderTiny") => Kind::TinyVae,
        _ => Kind::Unknown,
    }
}

/// Checks all of the repository, for graphs of `dtype`.
pub fn check(repository: &Repository, dtype: DType) -> Report {
    let kind = kind(repository);
    let one = |component, name| vec![part(repository, component, name, dtype, Family::Sd1)];
    let parts = match kind {
        Kind::ControlNet => one(Component::ControlNet, "controlnet"),
        Kind::TinyVae => one(Component::TinyVae, "taesd"),
        Kind::Lora => vec![lora(repository.root())],
        Kind::Depth => vec![plain(repository, "depth", dtype, |json, net| {
            let config = DepthConfig::from_json(json)?;
            let picture = net.g.input("picture", DType::F32, [1, 3, config.size, config.size])?;
            depth::build(net, &config, &picture).map(|_| ())
        })],
        Kind::Safety => vec![plain(repository, "classifier", dtype, |json, net| {
            let config = EvaConfig::from_json(json)?;
            let picture = net.g.input("picture", DType::F32, [1, 3, config.size, config.size])?;
            eva::build(net, &config, &picture).map(|_| ())
        })],
        Kind::IpAdapter => {
            let lines = adapters(repository.root());
            lines.iter().flat_map(|(family, files)| adapter(*family, files, dtype)).collect()
        }
        Kind::Pose => {
            detector::files(repository.root()).into_iter().map(|file| pose(repository.root(), file)).collect()
        }
        Kind::Unknown => Vec::new(),
        Kind::Pipeline(family) => pipeline(repository, family, dtype),
    };
    Report { kind, parts }
}

fn pipeline(repository: &Repository, family: Family, dtype: DType) -> Vec<Checked> {
    let mut components = vec![(Component::Unet, "unet"), (Component::TextEncoder, "text_encoder")];
    if family == Family::Sdxl {
        components.push((Component::TextEncoder2, "text_encoder_2"));
    }
    if repository.has(Component::Vae) {
        components.push((Component::Vae, "vae"));
    }
    let mut parts: Vec<Checked> =
        components.into_iter().map(|(component, name)| part(repository, component, name, dtype, family)).collect();
    let plain = |name, result: Result<(), String>| Checked {
        name,
        format: None,
        parameters: 0,
        bytes: 0,
        trouble: result.err(),
    };
    let numbers: &[(u32, &'static str)] =
        if family == Family::Sdxl { &[(1, "tokenizer"), (2, "tokenizer_2")] } else { &[(1, "tokenizer")] };
    for &(number, name) in numbers {
        let found = match repository.tokenizer(number) {
            Some(folder) => ClipTokenizer::open(&folder).map(|_| ()).map_err(|error| error.to_string()),
            None => Err(format!("{}: expected a folder {name} there", repository.root().display())),
        };
        parts.push(plain(name, found));
    }
    if let Ok(json) = repository.json(Path::new("scheduler/scheduler_config.json")) {
        parts.push(plain("scheduler", Schedule::from_json(&json).map(|_| ()).map_err(|error| error.to_string())));
    }
    parts
}

/// A model of one file, `model.safetensors`, whose graph `build` adds.
fn plain(
    repository: &Repository,
    name: &'static str,
    dtype: DType,
    build: impl FnOnce(&Value, &mut Net<'_>) -> Result<(), ModelError>,
) -> Checked {
    let mut checked = Checked { name, format: None, parameters: 0, bytes: 0, trouble: None };
    let result =
        Weights::open(&repository.root().join("model.safetensors")).map_err(ModelError::from).and_then(|weights| {
            checked.format = weights.format();
            checked.parameters = weights.parameters();
            checked.bytes = weights.bytes();
            let json = repository.json(Path::new("config.json"))?;
            let mut g = GraphBuilder::new("check");
            build(&json, &mut Net::new(&mut g, &mut Reader::checking(&weights), dtype))
        });
    checked.trouble = result.err().map(|error| error.to_string());
    checked
}

fn part(repository: &Repository, component: Component, name: &'static str, dtype: DType, family: Family) -> Checked {
    let mut checked = Checked { name, format: None, parameters: 0, bytes: 0, trouble: None };
    let weights = match repository.weights(component, dtype) {
        Ok(weights) => weights,
        Err(error) => {
            checked.trouble = Some(error.to_string());
            return checked;
        }
    };
    checked.format = weights.format();
    checked.parameters = weights.parameters();
    checked.bytes = weights.bytes();
    let config = repository.config(component).map_err(ModelError::from);
    let built = config.and_then(|config| build(component, &config, &weights, dtype, family));
    checked.trouble = built.err().map(|error| error.to_string());
    checked
}

/// Builds the graph of a component and drops it. Its size makes no difference to the weights.
fn build(
    component: Component,
    json: &Value,
    weights: &Weights,
    dtype: DType,
    family: Family,
) -> Result<(), ModelError> {
    let mut source = Reader::checking(weights);
    let mut g = GraphBuilder::new("check");
    match component {
        Component::TextEncoder | Component::TextEncoder2 => {
            let hidden = if family == Family::Sdxl { Hidden::Penultimate } else { Hidden::Last };
            clip::graph(&ClipConfig::from_json(json)?, &mut source, dtype, hidden)?;
        }
        Component::Unet => {
            let config = UnetConfig::from_json(json)?;
            let asked = Asked::new(&mut g, config.trunk.context_dim, config.trunk.pooled_dim())?;
            unet::build(&mut Net::new(&mut g, &mut source, dtype), &config, &asked.question(), None)?;
        }
        Component::ControlNet => {
            let config = ControlNetConfig::from_json(json)?;
            let asked = Asked::new(&mut g, config.trunk.context_dim, config.trunk.pooled_dim())?;
            let condition = g.input("condition", DType::F32, [1, config.conditioning_channels, 512, 512])?;
            let scale = g.input("scale", DType::F32, [1])?;
            let mut net = Net::new(&mut g, &mut source, dtype);
            controlnet::build(&mut net, &config, &asked.question(), &condition, &scale)?;
        }
        Component::TinyVae => {
            let config = TaesdConfig::from_json(json)?;
            let picture = g.input("picture", DType::F32, [1, 3, 64, 64])?;
            let mut net = Net::new(&mut g, &mut source, dtype);
            let latent = taesd::encode(&mut net, &config, &picture)?;
            taesd::decode(&mut net, &config, &latent)?;
        }
        Component::Vae => {
            let config = KlConfig::from_json(json)?;
            let picture = g.input("picture", DType::F32, [1, 3, 64, 64])?;
            let side = 64 / config.reduction();
            let noise = g.input("noise", DType::F32, [1, config.latent_channels, side, side])?;
            let mut net = Net::new(&mut g, &mut source, dtype);
            let latent = kl::encode(&mut net, &config, &picture, &noise)?;
            kl::decode(&mut net, &config, &latent)?;
        }
    }
    Ok(())
}

/// The inputs of a UNet.
struct Asked {
    sample: Tensor,
    timestep: Tensor,
    context: Tensor,
    added: Option<[Tensor; 2]>,
}

impl Asked {
    fn new(g: &mut GraphBuilder, context: u64, pooled: Option<u64>) -> Result<Self, GraphError> {
        Ok(Self {
            sample: g.input("sample", DType::F32, [1, 4, 64, 64])?,
            timestep: g.input("timestep", DType::F32, [1])?,
            context: g.input("context", DType::F32, [1, 77, context])?,
            added: match pooled {
                None => None,
                Some(width) => {
                    Some([g.input("text_embeds", DType::F32, [1, width])?, g.input("time_ids", DType::F32, [1, 6])?])
                }
            },
        })
    }

    fn question(&self) -> Question<'_> {
        Question {
            sample: &self.sample,
            timestep: &self.timestep,
            encoder_hidden_states: &self.context,
            added: self.added.as_ref().map(|[text_embeds, time_ids]| Added { text_embeds, time_ids }),
        }
    }
}

/// A detector of people. What it computes is not looked at.
fn pose(root: &Path, file: detector::File) -> Checked {
    let path = root.join(file.name());
    let bytes = path.metadata().map_or(0, |about| about.len());
    let trouble = Ports::read(&path).err().map(|error| error.to_string());
    Checked { name: file.name(), format: None, parameters: 0, bytes, trouble }
}

fn lora(root: &Path) -> Checked {
    let mut checked = Checked { name: "lora", format: None, parameters: 0, bytes: 0, trouble: None };
    let Some(path) = lora_file(root) else { return checked };
    match (Lora::open(&path), Weights::open(&path)) {
        (Ok(_), Ok(weights)) => {
            checked.format = weights.format();
            checked.parameters = weights.parameters();
            checked.bytes = weights.bytes();
        }
        (Err(error), _) | (_, Err(error)) => checked.trouble = Some(error.to_string()),
    }
    checked
}

/// The adapters of which anything is there, by the line that they are for.
fn adapters(root: &Path) -> Vec<(Family, Files)> {
    let all = [Family::Sd1, Family::Sdxl].into_iter().filter_map(|family| Some((family, Files::of(root, family)?)));
    all.filter(|(_, files)| !files.absent()).collect()
}

/// Checks the adapter of a line and its picture encoder, against the UNet of that line as it is published.
fn adapter(family: Family, files: &Files, dtype: DType) -> [Checked; 2] {
    let (names, unet) = match family {
        Family::Sdxl => (["sdxl adapter", "sdxl encoder"], full::unet("sdxl")),
        _ => (["sd15 adapter", "sd15 encoder"], full::unet("sd15")),
    };
    let mut parts = names.map(|name| Checked { name, format: None, parameters: 0, bytes: 0, trouble: None });
    let (weights, encoder) = (files.adapter(), files.encoder(dtype));
    let seen = [weights.as_ref().ok(), encoder.as_ref().ok().map(|(_, weights)| weights)];
    for (part, weights) in parts.iter_mut().zip(seen) {
        let Some(weights) = weights else { continue };
        (part.format, part.parameters, part.bytes) = (weights.format(), weights.parameters(), weights.bytes());
    }
    let troubles = [weights.as_ref().err().map(ToString::to_string), encoder.as_ref().err().map(ToString::to_string)];
    for (part, trouble) in parts.iter_mut().zip(troubles) {
        part.trouble = trouble;
    }
    let [adapter, whole] = &mut parts;
    let Ok(weights) = weights else { return parts };
    let images = || {
        let (config, unet) = (AdapterConfig::of(&weights)?, UnetConfig::from_json(&unet)?);
        let mut g = GraphBuilder::new("check");
        let tokens = g.input("tokens", DType::F32, [1, config.tokens, config.width])?;
        let count = ip_adapter::Layers::of(&unet).count() as u64;
        let scales = g.input("scales", DType::F32, [1, count])?;
        let mut source = Reader::checking(&weights);
        ip_adapter::images(&mut Net::new(&mut g, &mut source, dtype), &unet, &tokens, &scales)?;
        Ok::<_, ModelError>(config)
    };
    match (images(), encoder) {
        (Err(error), _) => adapter.trouble = Some(error.to_string()),
        (Ok(config), Ok((json, encoder))) => {
            let mut sources = [Reader::checking(&encoder), Reader::checking(&weights)];
            let [encoder, weights] = &mut sources;
            let graph = ip_adapter::check(&config, &json, config.width)
                .and_then(|vision| ip_adapter::graph(&vision, encoder, &config, weights, dtype));
            whole.trouble = graph.err().map(|error| error.to_string());
        }
        (Ok(_), Err(_)) => {}
    }
    parts
}

/// The file of a LoRA: `root` itself, the one of the usual name in it, or the only `.safetensors` file in it.
pub fn lora_file(root: &Path) -> Option<PathBuf> {
    if root.is_file() {
        return Some(root.to_path_buf());
    }
    let usual = root.join("pytorch_lora_weights.safetensors");
    if usual.symlink_metadata().is_ok() {
        return Some(usual);
    }
    let entries = std::fs::read_dir(root).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files = entries.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    match (files.next(), files.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}
