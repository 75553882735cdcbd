//! Graphs of the full size over random weights of the true shapes. They need gigabytes of disk and memory, so they run only
//! when asked for: `cargo test --release --test integration full_size -- --ignored --nocapture --test-threads 1`.

use std::time::Instant;

use serde_json::json;
use weir::graph::{DType, External, Model};
use weir::inference::{Config, Runtime, Session};
use weir::models::controlnet::ControlNetConfig;
use weir::models::full::{self, Random};
use weir::models::ip_adapter::{self, AdapterConfig, Layers};
use weir::models::stream::{self, Guidance, Mode, Sources, StreamConfig, Vae};
use weir::models::taesd::TaesdConfig;
use weir::models::unet::UnetConfig;
use weir::models::vision::VisionConfig;
use weir::models::{ModelError, Source, Stored};

/// Megabytes of this process's memory that are not shared with a file: now, and at most since the last call.
fn memory() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    let seen = [field("RssAnon:"), field("VmHWM:")];
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    seen
}

/// The graph of a family at 512×512, with ControlNets of its kind.
fn config(family: &str, steps: u64, precision: DType, controls: usize) -> StreamConfig {
    let control = ControlNetConfig::from_json(&full::controlnet(family)).expect("config");
    StreamConfig {
        steps,
        frame_buffer: 1,
        guidance: Guidance::SelfNegative,
        mode: Mode::Image,
        height: 512,
        width: 512,
        tokens: 77,
        precision,
        unet: UnetConfig::from_json(&full::unet(family)).expect("config"),
        vae: Vae::Tiny(TaesdConfig::from_json(&json!({})).expect("config")),
        controls: vec![control; controls],
        before: Vec::new(),
        after: Vec::new(),
        apart: false,
        latent_before: 0,
        latent_after: 0,
        image_tokens: 0,
        float_image: false,
    }
}

fn full_size(family: &str, precision: DType, parameters: u64, frame: bool) {
    let root = tempfile::tempdir().expect("folder");
    let config = config(family, 1, precision, 0);
    memory();
    let began = Instant::now();
    let mut unet = Random::create(&root.path().join("stream-0.weights")).expect("file");
    let mut vae = Random::create(&root.path().join("stream-1.weights")).expect("file");
    let sources = Sources { unet: &mut unet, vae: &mut vae, controls: Vec::new(), depth: None, adapter: None };
    let model = stream::build(&config, sources).unwrap_or_else(|error| panic!("{error}"));
    let path = root.path().join("stream.onnx");
    model.write(&path).expect("model");
    let count = unet.count;
    unet.finish().expect("weights");
    vae.finish().expect("weights");
    eprintln!(
        "{family} {precision}: {} nodes, {count} parameters of the UNet, built in {:.1} s, at most {} MB resident",
        model.nodes(),
        began.elapsed().as_secs_f64(),
        memory()[1],
    );
    assert_eq!(count, parameters, "parameters of the UNet");
    let began = Instant::now();
    let inference = Config { threads: 2, ..Config::default() };
    let runtime = Runtime::load(&inference).expect("ONNX Runtime");
    let session = Session::from_file(runtime, &inference, &path).unwrap_or_else(|error| panic!("{error}"));
    let [anonymous, most] = memory();
    eprintln!(
        "{family} {precision}: loaded in {:.1} s, {anonymous} MB of its own, at most {most} MB resident",
        began.elapsed().as_secs_f64(),
    );
    if !frame {
        return;
    }
    let mut graph = super::Graph { session, held: Default::default() };
    let names: Vec<String> = graph.session.inputs().map(|port| port.name.clone()).collect();
    for name in names {
        let count = graph.elements(&name);
        match name.as_str() {
            "frame" => graph.set(&name, super::picture(0, 512)),
            "timestep" => graph.set(&name, vec![599.0]),
            "stock_noise" | "c_skip" => graph.set(&name, vec![0.0; count]),
            "encoder_hidden_states" | "init_noise" => graph.set(&name, super::noise(&name, count)),
            _ => graph.set(&name, vec![1.0; count]),
        }
    }
    let began = Instant::now();
    let out = graph.run();
    eprintln!("{family} {precision}: a frame in {:.1} s, then {} MB", began.elapsed().as_secs_f64(), memory()[0]);
    assert!(out["x0"].floats().iter().all(|x| x.is_finite()));
}

#[test]
#[ignore = "writes and maps gigabytes"]
fn full_size_sd15() {
    full_size("sd15", DType::F16, 859_520_964, false);
    full_size("sd15", DType::F32, 859_520_964, true);
}

#[test]
#[ignore = "writes and maps gigabytes"]
fn full_size_sd_turbo() {
    full_size("sd-turbo", DType::F32, 865_910_724, false);
}

#[test]
#[ignore = "writes and maps gigabytes"]
fn full_size_sdxl() {
    full_size("sdxl", DType::F32, 2_567_463_684, false);
}

/// Weights of which there is only the shape.
#[derive(Default)]
struct Counted {
    count: u64,
    bytes: u64,
}

impl Source for Counted {
    fn has(&self, name: &str) -> bool {
        // Of two names for one layer, the one in use today.
        !name.ends_with("query.weight")
    }

    fn tensor(&mut self, _: &str, shape: &[u64], dtype: DType) -> Result<Stored, ModelError> {
        let count = shape.iter().product::<u64>();
        let length = count * dtype.size() as u64;
        let stored = External { location: "none.weights".to_owned(), offset: self.bytes, length };
        self.count += count;
        self.bytes += length;
        Ok(Stored::External(stored))
    }
}

/// The graph of a frame of 512×512 with guidance `self`, and the parameters of its UNet.
fn counted(family: &str, steps: u64, precision: DType, controls: usize) -> (Model, u64) {
    let config = config(family, steps, precision, controls);
    let (mut unet, mut vae) = (Counted::default(), Counted::default());
    let mut nets: Vec<Counted> = (0..controls).map(|_| Counted::default()).collect();
    let controls = nets.iter_mut().map(|source| source as &mut dyn Source).collect();
    let sources = Sources { unet: &mut unet, vae: &mut vae, controls, depth: None, adapter: None };
    let model = stream::build(&config, sources).unwrap_or_else(|error| panic!("{error}"));
    (model, unet.count)
}

/// The same with an IP-Adapter, whose layers are so many: nodes of both graphs, parameters of adapter and encoder.
#[test]
fn adapters_of_the_true_shapes_have_the_size_that_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
    let text = std::fs::read_to_string(path).expect("the page");
    let mut missing = Vec::new();
    for (name, family, layers, encoder_parameters) in
        [("SD 1.5", "sd15", 16, 632_076_800), ("SDXL, sdxl-turbo", "sdxl", 70, 1_844_907_264)]
    {
        let config = StreamConfig { image_tokens: 4, ..config(family, 1, DType::F16, 0) };
        assert_eq!(Layers::of(&config.unet).count(), layers);
        let (mut unet, mut vae, mut adapter) = (Counted::default(), Counted::default(), Counted::default());
        let sources =
            Sources { unet: &mut unet, vae: &mut vae, controls: Vec::new(), depth: None, adapter: Some(&mut adapter) };
        let model = stream::build(&config, sources).unwrap_or_else(|error| panic!("{error}"));
        let vision = VisionConfig::from_json(&full::vision(family)).expect("config");
        let width = config.unet.trunk.context_dim;
        let shape = AdapterConfig { tokens: 4, width, embedding: vision.projection };
        let (mut encoder, mut projection) = (Counted::default(), Counted::default());
        let image = ip_adapter::graph(&vision, &mut encoder, &shape, &mut projection, DType::F16).expect("encoder");
        assert_eq!(encoder.count, encoder_parameters, "{family}: parameters of the encoder");
        let row = format!(
            "| {name} | {} | {:.1} million | {} | {:.0} million | {:.2} GB |",
            model.nodes(),
            (adapter.count + projection.count) as f64 / 1e6,
            image.nodes(),
            encoder.count as f64 / 1e6,
            image.footprint().weights as f64 / 1e9,
        );
        if !text.contains(&row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "docs/performance.md lacks:\n{}", missing.join("\n"));
}

/// What the documentation says of the size of graphs is what they have.
#[test]
fn graphs_of_the_true_shapes_have_the_size_that_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
    let text = std::fs::read_to_string(path).expect("the page");
    let mut missing = Vec::new();
    for (name, family, parameters) in [
        ("SD 1.5", "sd15", 859_520_964),
        ("sd-turbo", "sd-turbo", 865_910_724),
        ("SDXL, sdxl-turbo", "sdxl", 2_567_463_684),
    ] {
        let (single, count) = counted(family, 1, DType::F32, 0);
        assert_eq!(count, parameters, "{family}: parameters of the UNet");
        let (half, _) = counted(family, 1, DType::F16, 0);
        let nodes = |steps, controls| counted(family, steps, DType::F16, controls).0.nodes();
        let row = format!(
            "| {name} | {} | {} | {} | {} | {:.0} million | {:.2} GB | {:.0} MB |",
            single.nodes(),
            half.nodes(),
            nodes(4, 0),
            nodes(1, 1),
            count as f64 / 1e6,
            half.footprint().weights as f64 / 1e9,
            half.footprint().activations as f64 / 1e6,
        );
        if !text.contains(&row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "docs/performance.md lacks:\n{}", missing.join("\n"));
}
