//! Nodes of Stable Diffusion against torch: `golden/workflow/make_sd.py` made the vectors, from formulas, on the same small
//! models with made-up weights. The models lie in a folder as ComfyUI has them.

mod depth_file;
mod fixture;
mod frames;
mod lines;
mod nodes;
mod random;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use weir::graph::DType;
use weir::inference::{Config, Runtime, Session};
use weir::workflow::lower::{Body, Data, EncodeError, Env, Feed, Lowered, lower};
use weir::workflow::plan;

use fixture::models;

/// Numbers of a golden file as floats.
struct Golden(BTreeMap<String, Vec<f32>>);

impl Golden {
    fn read(name: &str) -> Self {
        let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "integration-tests", "golden", "workflow"].iter().collect();
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).expect("golden file");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let floats = |tensor: safetensors::tensor::TensorView<'_>| match tensor.dtype() {
            safetensors::Dtype::U8 => tensor.data().iter().map(|&n| f32::from(n)).collect(),
            _ => tensor.data().chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect(),
        };
        Self(file.tensors().into_iter().map(|(name, tensor)| (name, floats(tensor))).collect())
    }

    fn get(&self, name: &str) -> &[f32] {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} among {:?}", self.0.keys()))
    }
}

fn worst(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "lengths differ");
    assert!(got.iter().all(|x| x.is_finite()), "not a number");
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The largest difference as a share of the largest number, which is at least 1.
fn off(got: &[f32], want: &[f32]) -> f32 {
    worst(got, want) / want.iter().fold(1.0, |most, x| x.abs().max(most))
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32], most: f32) {
    let off = off(got, want);
    assert!(off <= most, "{what}: off by {off}, {most} is allowed");
}

#[track_caller]
fn apart(what: &str, got: &[f32], want: &[f32], least: f32) {
    let off = off(got, want);
    assert!(off >= least, "{what}: off by {off} only; the comparison would not notice");
}

fn lowered(workflow: &Value, size: u32) -> (weir::workflow::Plan, Lowered) {
    let plan = plan(workflow).unwrap_or_else(|refused| panic!("{refused}"));
    let missing = plan.missing(models());
    assert!(missing.is_empty(), "{missing:?}");
    let env = Env {
        size: [size, size],
        models: models().to_path_buf(),
        input: models().join("input"),
        precision: DType::F32,
        scratch: models().join("scratch"),
        progress: &|_| {},
    };
    let lowered = lower(&plan, &env).unwrap_or_else(|refused| panic!("{refused}"));
    assert!(!lowered.beside, "small weights go into the graph");
    (plan, lowered)
}

/// A lowered workflow whose graphs are loaded.
struct Loaded {
    lowered: Lowered,
    sessions: Vec<Session>,
}

impl Loaded {
    fn new(workflow: &Value, size: u32) -> Self {
        let (_, lowered) = lowered(workflow, size);
        let config = Config { threads: 2, ..Config::default() };
        let runtime = Runtime::load(&config).unwrap_or_else(|error| panic!("{error}"));
        let load = |stage: &weir::workflow::lower::Stage| {
            let Body::Graph(graph) = &stage.body else { panic!("a host stage") };
            Session::from_bytes(runtime, &config, &graph.to_bytes().expect("ONNX")).expect("a session")
        };
        let sessions = lowered.stages.iter().map(load).collect();
        Self { lowered, sessions }
    }

    /// What the stage with the node `id` gives for the settings of `workflow`, which needs no other graph. Stages behind it are
    /// not run.
    fn give(&mut self, workflow: &Value, frame: &[u8], id: &str) -> Vec<f32> {
        self.try_give(workflow, frame, id).expect("settings of the same graph")
    }

    fn try_give(&mut self, workflow: &Value, frame: &[u8], id: &str) -> Result<Vec<f32>, EncodeError> {
        let plan = plan(workflow).unwrap_or_else(|refused| panic!("{refused}"));
        let node = plan.find(id).expect("the node");
        let mut made: Vec<Vec<Data>> = Vec::new();
        for (stage, session) in self.lowered.stages.iter().zip(&mut self.sessions) {
            for port in &stage.inputs {
                let data = match &port.feed {
                    Feed::Frame => Data::U8(frame.to_vec()),
                    Feed::Live(live) => live.encode(&plan)?,
                    Feed::Fixed(data) => data.as_ref().clone(),
                    Feed::Bridge { stage, output } => made[*stage][*output].clone(),
                    Feed::State { .. } => Data::zeros(port.dtype, port.shape.iter().product::<u64>() as usize),
                };
                let shape: Vec<i64> = port.shape.iter().map(|&n| n as i64).collect();
                match data {
                    Data::U8(data) => {
                        let input = session.input::<u8>(&port.name, &shape).expect("input");
                        session.hold(&input, &data).expect("hold");
                    }
                    Data::F32(data) => {
                        let input = session.input::<f32>(&port.name, &shape).expect("input");
                        session.hold(&input, &data).expect("hold");
                    }
                    Data::I64(data) => {
                        let input = session.input::<i64>(&port.name, &shape).expect("input");
                        session.hold(&input, &data).expect("hold");
                    }
                }
            }
            let mut outputs: Vec<Data> =
                stage.outputs.iter().map(|made| Data::zeros(made.dtype, made.elements())).collect();
            for (port, data) in stage.outputs.iter().zip(&mut outputs) {
                let shape: Vec<i64> = port.shape.iter().map(|&n| n as i64).collect();
                match data {
                    Data::U8(data) => {
                        let output = session.output::<u8>(&port.name, &shape).expect("output");
                        session.run(&[], &mut [output.fetch(data)]).expect("runs");
                    }
                    Data::F32(data) => {
                        let output = session.output::<f32>(&port.name, &shape).expect("output");
                        session.run(&[], &mut [output.fetch(data)]).expect("runs");
                    }
                    Data::I64(_) => panic!("no stage gives integers"),
                }
            }
            if stage.nodes.contains(&node) {
                return Ok(match outputs.pop().expect("an output") {
                    Data::F32(data) => data,
                    Data::U8(data) => data.iter().map(|&byte| f32::from(byte)).collect(),
                    Data::I64(_) => panic!("no stage gives integers"),
                });
            }
            made.push(outputs);
        }
        panic!("no stage has node {id}")
    }
}

/// What the stage with the node `id` gives.
fn run(workflow: &Value, frame: &[u8], size: u32, id: &str) -> Vec<f32> {
    Loaded::new(workflow, size).give(workflow, frame, id)
}

/// `nodes` with a camera that is shown, so that they are a workflow: what the node `id` gives is decoded and shown.
fn shown(mut nodes: Value, id: &str) -> Value {
    nodes["camera"] = json!({"class_type": "PrimaryInputLoadImage", "inputs": {"image": "camera.png"}});
    nodes["tiny"] = json!({"class_type": "VAELoader", "inputs": {"vae_name": "taesd"}});
    nodes["decoded"] = json!({"class_type": "VAEDecode", "inputs": {"samples": [id, 0], "vae": ["tiny", 0]}});
    nodes["shown"] = json!({"class_type": "SaveTensor", "inputs": {"images": ["decoded", 0]}});
    nodes
}
