//! Nodes of Stable Diffusion against torch: `golden/workflow/make_sd.py` made the vectors, from formulas, on the same small
//! models with made-up weights. The models lie in a folder as ComfyUI has them.

mod depth_file;
mod faces;
mod fixture;
mod folded;
mod frames;
mod lines;
mod nodes;
mod random;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weir::graph::DType;
use weir::inference::{Config, Runtime, Session};
use weir::workflow::lower::{Body, Data, EncodeError, Env, Feed, Lowered, Made, OwnGraph, RunGraph, lower};
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

fn lowered(models: &Path, workflow: &Value, size: [u32; 2]) -> (weir::workflow::Plan, Lowered) {
    let plan = plan(workflow).unwrap_or_else(|refused| panic!("{refused}"));
    let missing = plan.missing(models);
    assert!(missing.is_empty(), "{missing:?}");
    let env = Env {
        size,
        models: models.to_path_buf(),
        input: models.join("input"),
        precision: DType::F32,
        inline: weir::workflow::lower::INLINE,
        weights: models.join("scratch"),
        scratch: models.join("scratch"),
        progress: &|_| {},
    };
    let lowered = lower(&plan, &env).unwrap_or_else(|refused| panic!("{refused}"));
    assert!(lowered.beside.is_empty(), "small weights go into the graph");
    (plan, lowered)
}

/// A graph that is loaded, with what it takes and gives.
struct Direct {
    session: Session,
    inputs: Vec<Made>,
    outputs: Vec<Made>,
}

impl Direct {
    fn new(graph: OwnGraph) -> Self {
        let config = Config { threads: 2, ..Config::default() };
        let runtime = Runtime::load(&config).unwrap_or_else(|error| panic!("{error}"));
        let OwnGraph { model, inputs, outputs, .. } = graph;
        let session = Session::from_bytes(runtime, &config, &model.to_bytes().expect("ONNX")).expect("a session");
        Self { session, inputs, outputs }
    }
}

impl RunGraph for Direct {
    fn run(&mut self, inputs: &[&Data], outputs: &mut [Data]) -> Result<(), String> {
        for (made, data) in self.inputs.iter().zip(inputs) {
            hold(&mut self.session, &made.name, &made.shape, data);
        }
        for (made, data) in self.outputs.iter().zip(outputs) {
            fetch(&mut self.session, &made.name, &made.shape, data);
        }
        Ok(())
    }
}

fn signed(shape: &[u64]) -> Vec<i64> {
    shape.iter().map(|&n| n as i64).collect()
}

fn hold(session: &mut Session, name: &str, shape: &[u64], data: &Data) {
    let shape = signed(shape);
    match data {
        Data::U8(data) => {
            let input = session.input::<u8>(name, &shape).expect("input");
            session.hold(&input, data).expect("hold");
        }
        Data::F32(data) => {
            let input = session.input::<f32>(name, &shape).expect("input");
            session.hold(&input, data).expect("hold");
        }
        Data::I64(data) => {
            let input = session.input::<i64>(name, &shape).expect("input");
            session.hold(&input, data).expect("hold");
        }
    }
}

fn fetch(session: &mut Session, name: &str, shape: &[u64], data: &mut Data) {
    let shape = signed(shape);
    match data {
        Data::U8(data) => {
            let output = session.output::<u8>(name, &shape).expect("output");
            session.run(&[], &mut [output.fetch(data)]).expect("runs");
        }
        Data::F32(data) => {
            let output = session.output::<f32>(name, &shape).expect("output");
            session.run(&[], &mut [output.fetch(data)]).expect("runs");
        }
        Data::I64(_) => panic!("no stage gives integers"),
    }
}

/// A lowered workflow whose graphs are loaded.
struct Loaded {
    lowered: Lowered,
    /// Of stages that are graphs; none for those on the host, which have theirs.
    sessions: Vec<Option<Session>>,
}

impl Loaded {
    fn new(workflow: &Value, size: u32) -> Self {
        Self::of(workflow, [size, size])
    }

    /// For pictures of `size` (width, height).
    fn of(workflow: &Value, size: [u32; 2]) -> Self {
        Self::below(models(), workflow, size)
    }

    /// With the models in the folder `models`.
    fn below(models: &Path, workflow: &Value, size: [u32; 2]) -> Self {
        let (_, mut lowered) = lowered(models, workflow, size);
        let config = Config { threads: 2, ..Config::default() };
        let runtime = Runtime::load(&config).unwrap_or_else(|error| panic!("{error}"));
        let load = |stage: &mut weir::workflow::lower::Stage| match &mut stage.body {
            Body::Host(host) => {
                let graphs = host.graphs().into_iter().map(|graph| Box::new(Direct::new(graph)) as Box<dyn RunGraph>);
                let graphs = graphs.collect();
                host.equip(graphs);
                None
            }
            Body::Graph(graph) => {
                Some(Session::from_bytes(runtime, &config, &graph.to_bytes().expect("ONNX")).expect("a session"))
            }
            _ => panic!("neither a graph nor a host stage"),
        };
        let sessions = lowered.stages.iter_mut().map(load).collect();
        Self { lowered, sessions }
    }

    /// What the stage with the node `id` gives for the settings of `workflow`, which needs no other graph. Stages behind it are
    /// not run.
    fn give(&mut self, workflow: &Value, frame: &[u8], id: &str) -> Vec<f32> {
        self.try_give(workflow, frame, id).expect("settings of the same graph")
    }

    fn try_give(&mut self, workflow: &Value, frame: &[u8], id: &str) -> Result<Vec<f32>, EncodeError> {
        Ok(match self.try_outputs(workflow, frame, id)?.pop().expect("an output") {
            Data::F32(data) => data,
            Data::U8(data) => data.iter().map(|&byte| f32::from(byte)).collect(),
            Data::I64(_) => panic!("no stage gives integers"),
        })
    }

    /// As [`Self::try_give`]: every output of the stage.
    fn try_outputs(&mut self, workflow: &Value, frame: &[u8], id: &str) -> Result<Vec<Data>, EncodeError> {
        let plan = plan(workflow).unwrap_or_else(|refused| panic!("{refused}"));
        let node = plan.find(id).expect("the node");
        let mut made: Vec<Vec<Data>> = Vec::new();
        for (stage, session) in self.lowered.stages.iter_mut().zip(&mut self.sessions) {
            let mut inputs = Vec::new();
            for port in &stage.inputs {
                inputs.push(match &port.feed {
                    Feed::Frame => Data::U8(frame.to_vec()),
                    Feed::Live(live) => live.encode(&plan)?,
                    Feed::Fixed(data) => data.as_ref().clone(),
                    Feed::Bridge { stage, output } => made[*stage][*output].clone(),
                    Feed::State { .. } => Data::zeros(port.dtype, port.shape.iter().product::<u64>() as usize),
                });
            }
            let mut outputs: Vec<Data> =
                stage.outputs.iter().map(|made| Data::zeros(made.dtype, made.elements())).collect();
            match (session, &mut stage.body) {
                (Some(session), _) => {
                    for (port, data) in stage.inputs.iter().zip(&inputs) {
                        hold(session, &port.name, &port.shape, data);
                    }
                    for (port, data) in stage.outputs.iter().zip(&mut outputs) {
                        fetch(session, &port.name, &port.shape, data);
                    }
                }
                (None, Body::Host(host)) => {
                    let inputs: Vec<&Data> = inputs.iter().collect();
                    host.run(&inputs, &mut outputs).unwrap_or_else(|error| panic!("{error}"));
                }
                (None, _) => panic!("a stage is not loaded"),
            }
            if stage.nodes.contains(&node) {
                return Ok(outputs);
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
