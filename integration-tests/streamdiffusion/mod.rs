//! The models and the stream batch against diffusers and StreamDiffusion, through ONNX Runtime on the CPU. The golden
//! vectors and the script that makes them are in `golden/streamdiffusion`; the models are those of `weir::models::tiny` on
//! both sides.

mod adapter;
mod adapter_live;
mod conditions;
pub(crate) mod folders;
mod full;
mod gpu;
mod live;
mod nets;
mod numbers;
mod pipeline;
mod pose;
mod process;
mod processors;
mod safety;
mod similar;
mod stream;
mod text;
mod weights;
mod workflow;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use weir::graph::Model;
use weir::inference::{Config, Runtime, Session};
use weir::models::synthetic::{Synthetic, uniform};

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "integration-tests", "golden", "streamdiffusion"].iter().collect()
}

fn json(name: &str) -> serde_json::Value {
    read(folder().join(format!("{name}.json")))
}

fn read(path: PathBuf) -> serde_json::Value {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

fn config(name: &str) -> serde_json::Value {
    read([env!("CARGO_MANIFEST_DIR"), "src", "models", "tiny", &format!("{name}.json")].iter().collect())
}

fn weights(name: &str) -> Synthetic {
    weir::models::tiny::weights(name).expect("calibration")
}

/// Numbers of a golden file, whatever type they have there, as floats.
struct Golden(BTreeMap<String, Vec<f32>>);

impl Golden {
    fn read(name: &str) -> Self {
        let path = folder().join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let tensors = file.tensors().into_iter().map(|(name, tensor)| {
            let data = match tensor.dtype() {
                safetensors::Dtype::U8 => tensor.data().iter().map(|&n| f32::from(n)).collect(),
                safetensors::Dtype::F32 => {
                    tensor.data().chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
                }
                other => panic!("{name} is {other:?}"),
            };
            (name, data)
        });
        Self(tensors.collect())
    }

    fn get(&self, name: &str) -> &[f32] {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} among {:?}", self.0.keys()))
    }
}

/// An input of variance 1, as `synthetic.noise`.
fn noise(name: &str, count: usize) -> Vec<f32> {
    uniform(name, count as u64).map(|u| (u * 3_f64.sqrt()) as f32).collect()
}

/// A moving picture, as `synthetic.frame`.
fn picture(index: usize, size: usize) -> Vec<u8> {
    let (left, top) = ((index * 7) % (size - 16), (index * 5) % (size - 16));
    let pixel = |i: usize| {
        let (c, x, y) = (i % 3, i / 3 % size, i / 3 / size);
        let wave = (x * 6 + y * 4 + c * 90 + index * 23) % 512;
        let inside = (left..left + 16).contains(&x) && (top..top + 16).contains(&y);
        (if inside { 230 - 60 * c } else { wave.min(511 - wave) }) as u8
    };
    (0..size * size * 3).map(pixel).collect()
}

#[derive(Clone, Debug, PartialEq)]
enum Data {
    Floats(Vec<f32>),
    Bytes(Vec<u8>),
}

impl Data {
    fn floats(&self) -> Vec<f32> {
        match self {
            Data::Floats(floats) => floats.clone(),
            Data::Bytes(bytes) => bytes.iter().map(|&b| f32::from(b)).collect(),
        }
    }
}

impl From<Vec<f32>> for Data {
    fn from(floats: Vec<f32>) -> Self {
        Data::Floats(floats)
    }
}

impl From<&[f32]> for Data {
    fn from(floats: &[f32]) -> Self {
        Data::Floats(floats.to_vec())
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Data::Bytes(bytes)
    }
}

/// A graph and what its inputs hold.
struct Graph {
    session: Session,
    held: HashMap<String, Data>,
}

impl Graph {
    fn new(model: &Model) -> Self {
        let config = Config { threads: 2, ..Config::default() };
        let runtime = Runtime::load(&config).unwrap_or_else(|error| panic!("{error}"));
        let bytes = model.to_bytes().expect("ONNX");
        let session = Session::from_bytes(runtime, &config, &bytes).unwrap_or_else(|error| panic!("{error}"));
        Self { session, held: HashMap::new() }
    }

    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.session.inputs().find(|port| port.name == name).map(|port| port.shape.clone())
    }

    fn elements(&self, name: &str) -> usize {
        self.shape(name).unwrap_or_else(|| panic!("no input {name}")).iter().product::<i64>() as usize
    }

    fn set(&mut self, name: &str, data: impl Into<Data>) {
        let (data, shape) = (data.into(), self.shape(name).unwrap_or_else(|| panic!("no input {name}")));
        match &data {
            Data::Floats(floats) => {
                let input = self.session.input::<f32>(name, &shape).expect("input");
                self.session.hold(&input, floats).expect("hold");
            }
            Data::Bytes(bytes) => {
                let input = self.session.input::<u8>(name, &shape).expect("input");
                self.session.hold(&input, bytes).expect("hold");
            }
        }
        self.held.insert(name.to_owned(), data);
    }

    fn set_where_there(&mut self, name: &str, data: impl Into<Data>) {
        if self.shape(name).is_some() {
            self.set(name, data);
        }
    }

    fn run(&mut self) -> HashMap<String, Data> {
        let ports: Vec<_> = self.session.outputs().cloned().collect();
        let mut out = HashMap::new();
        for port in &ports {
            let count = port.shape.iter().product::<i64>() as usize;
            let data = match port.element.as_str() {
                "Uint8" => Data::Bytes(vec![0; count]),
                _ => Data::Floats(vec![0.0; count]),
            };
            out.insert(port.name.clone(), data);
        }
        let mut bytes = Vec::new();
        let mut floats = Vec::new();
        for port in &ports {
            match port.element.as_str() {
                "Uint8" => bytes.push(self.session.output::<u8>(&port.name, &port.shape).expect("output")),
                _ => floats.push(self.session.output::<f32>(&port.name, &port.shape).expect("output")),
            }
        }
        let (mut next_bytes, mut next_floats) = (bytes.iter(), floats.iter());
        let mut by_name: HashMap<&str, &mut Data> = out.iter_mut().map(|(name, data)| (name.as_str(), data)).collect();
        let mut fetches = Vec::new();
        for port in &ports {
            match by_name.remove(port.name.as_str()).expect("made above") {
                Data::Bytes(data) => fetches.push(next_bytes.next().expect("as many").fetch(data)),
                Data::Floats(data) => fetches.push(next_floats.next().expect("as many").fetch(data)),
            }
        }
        self.session.run(&[], &mut fetches).unwrap_or_else(|error| panic!("{error}"));
        drop(fetches);
        out
    }
}

fn worst(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "lengths differ");
    assert!(got.iter().all(|x| x.is_finite()), "not a number");
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The largest magnitude of `want`, at least 1: what a difference is measured against.
fn scale(want: &[f32]) -> f32 {
    want.iter().fold(1.0, |most, x| most.max(x.abs()))
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32], most: f32) {
    let worst = worst(got, want);
    assert!(worst <= most, "{what}: off by {worst}, {most} is allowed");
}

#[track_caller]
fn apart(what: &str, got: &[f32], want: &[f32], least: f32) {
    let worst = worst(got, want);
    assert!(worst >= least, "{what}: off by {worst} only; the comparison would not notice");
}
