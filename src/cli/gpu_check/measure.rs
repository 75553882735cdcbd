//! One case: its graphs built, loaded and timed.

use std::path::Path;
use std::time::Instant;

use super::{Case, Row, engines, table};
use crate::graph::{DType, Footprint, Model};
use crate::inference::{
    Config, Graph, InferenceError, Input, Load, Needs, Output, Precision, Provider, Runtime, Session,
};
use crate::models::controlnet::ControlNetConfig;
use crate::models::full::{self, Random};
use crate::models::stream::{self, Guidance, Mode, Sources, Stage, StreamConfig, Vae};
use crate::models::synthetic::uniform;
use crate::models::taesd::TaesdConfig;
use crate::models::unet::UnetConfig;
use crate::models::{ModelError, Source, tiny};

/// Runs before the timed ones.
const WARM: u32 = 5;

/// How cases are measured.
pub(super) struct Bench<'a> {
    pub runtime: &'a Runtime,
    pub inference: &'a Config,
    pub precision: DType,
    pub work: &'a Path,
    pub frames: u32,
}

/// Sorted times in milliseconds.
struct Times(Vec<f64>);

impl Times {
    fn at(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * part).round() as usize).copied().unwrap_or(0.0)
    }
}

/// A loaded graph and what is fed to it and fetched from it.
struct Loaded {
    session: Session,
    frame: Option<Input<u8>>,
    conds: Vec<Input<u8>>,
    bytes: Option<Output<u8>>,
    floats: Option<Output<f32>>,
    picture: Vec<u8>,
    into: (Vec<u8>, Vec<f32>),
}

impl Bench<'_> {
    pub fn row(&self, case: &Case, peak: Option<f64>) -> Result<Row, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let config = self.config(case).map_err(|error| text(&error))?;
        let mut parts = [0.0; 3];
        for (ms, part) in parts.iter_mut().zip(Stage::ALL) {
            let name = part.output();
            let model = self.build(case, &config, name, |sources| stream::stage(&config, sources, part));
            let model = model.map_err(|error| text(&error))?;
            let mut loaded = self.load(name, &model, name).map_err(|error| text(&error))?;
            *ms = self.time(&mut loaded).map_err(|error| text(&error))?.0.at(0.5);
            self.remove(name);
        }
        let began = Instant::now();
        let model = self.build(case, &config, "stream", |sources| stream::build(&config, sources));
        let model = model.map_err(|error| text(&error))?;
        let build_s = began.elapsed().as_secs_f64();
        let began = Instant::now();
        let mut loaded = self.load("stream", &model, "frame_out").map_err(|error| text(&error))?;
        let load_s = began.elapsed().as_secs_f64();
        let (times, waits) = self.time(&mut loaded).map_err(|error| text(&error))?;
        self.remove("stream");
        let frame_ms = times.at(0.5);
        let limit_fps = peak.and_then(|peak| table::limit(case, peak));
        Ok(Row {
            case: case.name,
            provider: self.inference.provider.to_string(),
            precision: if self.precision == DType::F16 { "fp16" } else { "fp32" },
            encode_ms: parts[0],
            predict_ms: parts[1],
            decode_ms: parts[2],
            frame_ms,
            frame_p95_ms: times.at(0.95),
            limit_fps,
            share: limit_fps.map(|limit| 1000.0 / frame_ms / limit),
            waits,
            build_s,
            load_s,
            needed: needs(&model).on(self.inference.provider),
        })
    }

    fn config(&self, case: &Case) -> Result<StreamConfig, ModelError> {
        let (unet, vae, control) = match case.family {
            Some(family) => (full::unet(family), serde_json::json!({}), full::controlnet(family)),
            None => (tiny::config("unet-sd15")?, tiny::config("taesd")?, tiny::config("controlnet-sd15-0")?),
        };
        let control = ControlNetConfig::from_json(&control)?;
        Ok(StreamConfig {
            steps: case.steps,
            frame_buffer: 1,
            guidance: Guidance::SelfNegative,
            mode: Mode::Image,
            height: case.size,
            width: case.size,
            tokens: 77,
            precision: self.precision,
            unet: UnetConfig::from_json(&unet)?,
            vae: Vae::Tiny(TaesdConfig::from_json(&vae)?),
            controls: vec![control; case.controls as usize],
            before: Vec::new(),
            after: Vec::new(),
            apart: false,
            latent_before: 0,
            latent_after: 0,
            image_tokens: 0,
            float_image: false,
        })
    }

    /// Builds a graph called `name` over weights in files of that name, or inline for small models.
    fn build(
        &self,
        case: &Case,
        config: &StreamConfig,
        name: &str,
        build: impl FnOnce(Sources<'_>) -> Result<Model, ModelError>,
    ) -> Result<Model, ModelError> {
        if case.family.is_none() {
            let mut all = [tiny::weights("unet-sd15")?, tiny::weights("taesd")?];
            let mut controls = vec![tiny::weights("controlnet-sd15-0")?; config.controls.len()];
            let [unet, vae] = &mut all;
            let controls = controls.iter_mut().map(|source| source as &mut dyn Source).collect();
            return build(Sources { unet, vae, controls, depth: None, adapter: None });
        }
        let file = |part: usize| Random::create(&self.work.join(format!("{name}-{part}.weights")));
        let (mut unet, mut vae) = (file(0)?, file(1)?);
        let mut controls = (0..config.controls.len()).map(|j| file(2 + j)).collect::<Result<Vec<_>, _>>()?;
        let model = {
            let controls = controls.iter_mut().map(|source| source as &mut dyn Source).collect();
            build(Sources { unet: &mut unet, vae: &mut vae, controls, depth: None, adapter: None })?
        };
        for source in [unet, vae].into_iter().chain(controls) {
            source.finish()?;
        }
        model.write(&self.work.join(format!("{name}.onnx")))?;
        Ok(model)
    }

    fn remove(&self, name: &str) {
        // A small model has none, and what stays goes with the folder.
        for end in ["onnx".to_owned()].into_iter().chain((0..8).map(|part| format!("{part}.weights"))) {
            let joint = if end == "onnx" { '.' } else { '-' };
            let _ = std::fs::remove_file(self.work.join(format!("{name}{joint}{end}")));
        }
    }

    fn load(&self, name: &str, model: &Model, output: &str) -> Result<Loaded, InferenceError> {
        let engines = engines(self.inference, self.work);
        let say = |line: &str| crate::cli::complain(&format!("  {line}"));
        let load = Load {
            name,
            frames: true,
            precision: if self.precision == DType::F16 { Precision::Fp16 } else { Precision::Fp32 },
            needs: Some(needs(model)),
            engines: Some(&engines),
            // The way that frames take on a GPU, wherever this runs.
            as_on: (self.inference.provider == Provider::Cpu).then_some(Provider::Cuda),
            progress: Some(&say),
            ..Load::new(self.inference)
        };
        let path = self.work.join(format!("{name}.onnx"));
        let session = match path.exists() {
            true => Session::load(self.runtime, &load, Graph::File(&path))?,
            false => {
                let bytes = model.to_bytes().map_err(|error| InferenceError::Model(error.to_string()))?;
                Session::load(self.runtime, &load, Graph::Bytes(&bytes))?
            }
        };
        Loaded::new(session, output)
    }

    /// The times of single runs, and the waits for the GPU in each.
    fn time(&self, loaded: &mut Loaded) -> Result<(Times, f64), InferenceError> {
        for _ in 0..WARM.min(self.frames) + loaded.session.warm_runs() {
            loaded.run()?;
        }
        let waits = loaded.session.waits();
        let mut times = Vec::with_capacity(self.frames as usize);
        for _ in 0..self.frames {
            let began = Instant::now();
            loaded.run()?;
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        let waits = (loaded.session.waits() - waits) as f64 / f64::from(self.frames);
        Ok((Times(times), waits))
    }
}

fn needs(model: &Model) -> Needs {
    let Footprint { weights, activations, ports } = model.footprint();
    Needs { weights, activations, ports }
}

impl Loaded {
    /// Every input gets something: pictures are fed, state is carried, the rest is held.
    fn new(mut session: Session, output: &str) -> Result<Self, InferenceError> {
        let inputs: Vec<_> = session.inputs().cloned().collect();
        let outputs: Vec<_> = session.outputs().cloned().collect();
        let (mut frame, mut conds, mut picture) = (None, Vec::new(), Vec::new());
        for port in &inputs {
            let count = port.shape.iter().product::<i64>() as usize;
            if port.element == "Uint8" {
                let input = session.input::<u8>(&port.name, &port.shape)?;
                picture = (0..count).map(|i| (i % 251) as u8).collect();
                match port.name.as_str() {
                    "frame" => frame = Some(input),
                    _ => conds.push(input),
                }
                continue;
            }
            let input = session.input::<f32>(&port.name, &port.shape)?;
            match outputs.iter().find(|out| out.name == format!("{}_out", port.name)) {
                Some(out) => {
                    let out = session.output::<f32>(&out.name, &out.shape)?;
                    session.carry(&input, &out)?;
                }
                None if port.name == "timestep" => session.hold(&input, &vec![599.0; count])?,
                None if count <= 8 => session.hold(&input, &vec![0.5; count])?,
                None => {
                    let noise: Vec<f32> = uniform(&port.name, count as u64).map(|u| u as f32).collect();
                    session.hold(&input, &noise)?;
                }
            }
        }
        let there = outputs.iter().find(|port| port.name == output);
        let port = there.ok_or_else(|| InferenceError::Model(format!("no output {output}")))?;
        let count = port.shape.iter().product::<i64>() as usize;
        let is_bytes = port.element == "Uint8";
        let bytes = if is_bytes { Some(session.output::<u8>(&port.name, &port.shape)?) } else { None };
        let floats = if is_bytes { None } else { Some(session.output::<f32>(&port.name, &port.shape)?) };
        let into = if is_bytes { (vec![0; count], Vec::new()) } else { (Vec::new(), vec![0.0; count]) };
        Ok(Self { session, frame, conds, bytes, floats, picture, into })
    }

    fn run(&mut self) -> Result<(), InferenceError> {
        let feeds: Vec<_> =
            self.frame.iter().chain(&self.conds).map(|input| input.feed(self.picture.as_slice())).collect();
        let mut fetches = Vec::with_capacity(1);
        let (bytes, floats) = &mut self.into;
        fetches.extend(self.bytes.as_ref().map(|out| out.fetch(bytes)));
        fetches.extend(self.floats.as_ref().map(|out| out.fetch(floats)));
        self.session.run(&feeds, &mut fetches)
    }
}
