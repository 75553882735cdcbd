//! One graph, loaded on one provider, with inputs and outputs that are checked once and then run over plain slices.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::bound::Bound;
use super::ffi::cuda::Stream;
use super::memory::Memory;
use super::ports::{self, Element, Feed, Fetch, Input, Output, Port, Side};
use super::{Config, InferenceError, Needs, Precision, Provider, Runtime, budget, device, engines, ffi, provider};
use crate::frame::Fingerprint;

/// How a graph is loaded.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    /// Where.
    pub config: &'a Config,
    /// What it is called in the log and in the engine cache.
    pub name: &'a str,
    /// Whether it is run for every frame, always over the same inputs and outputs: its work on a GPU is then captured once
    /// and replayed.
    pub frames: bool,
    /// In what the graph computes.
    pub precision: Precision,
    /// What the graph takes, where that is known: what does not fit is refused before it is loaded.
    pub needs: Option<Needs>,
    /// Where TensorRT keeps the engine, if anywhere.
    pub engines: Option<&'a Path>,
    /// On the CPU: take the way that frames take on this provider, with memory of the host in the place of the GPU's, so that
    /// it can be tried where there is none.
    pub as_on: Option<Provider>,
    /// Whether operators that the provider has not got may run on the CPU: for a graph that somebody else wrote.
    pub mixed: bool,
    /// Called with a line when something that takes long begins or goes on.
    pub progress: Option<&'a (dyn Fn(&str) + Send + Sync)>,
}

impl<'a> Load<'a> {
    /// A graph of `f32` that is run now and then.
    pub fn new(config: &'a Config) -> Self {
        let engines = config.engine_cache.as_deref();
        Self {
            config,
            name: "graph",
            frames: false,
            precision: Precision::Fp32,
            needs: None,
            engines,
            as_on: None,
            mixed: false,
            progress: None,
        }
    }

    pub(super) fn say(&self, line: &str) {
        if let Some(progress) = self.progress {
            progress(line);
        }
    }
}

/// A graph to load.
#[derive(Clone, Copy)]
pub enum Graph<'a> {
    /// Its ONNX bytes. Weights in files beside it are not found this way.
    Bytes(&'a [u8]),
    /// Its file; external weights are looked for in the same folder.
    File(&'a Path),
}

/// One graph on one provider. Used by one thread at a time.
pub struct Session {
    /// Tells this session's ports from those of others.
    id: u64,
    provider: Provider,
    bound: Bound,
    raw: ort::session::Session,
    inputs: Vec<Side>,
    outputs: Vec<Side>,
    graph: Fingerprint,
    /// What the provider works on; closed after everything else.
    _stream: Option<Arc<Stream>>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Session {
    /// Loads a graph from its ONNX bytes, to be run now and then.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_bytes(runtime: &Runtime, config: &Config, model: &[u8]) -> Result<Self, InferenceError> {
        Self::load(runtime, &Load::new(config), Graph::Bytes(model))
    }

    /// Loads a graph from a file, to be run now and then.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_file(runtime: &Runtime, config: &Config, path: &Path) -> Result<Self, InferenceError> {
        Self::load(runtime, &Load::new(config), Graph::File(path))
    }

    /// Loads a graph. What a GPU needs is looked for first, and what is missing is named.
    ///
    /// # Errors
    /// [`InferenceError::Missing`], [`InferenceError::Memory`], [`InferenceError::Provider`] or [`InferenceError::Model`], with the runtime's message.
    pub fn load(runtime: &Runtime, load: &Load<'_>, graph: Graph<'_>) -> Result<Self, InferenceError> {
        if load.precision == Precision::Fp8 {
            return Err(InferenceError::Model("fp8 is not built yet; fp16 and fp32 are".to_owned()));
        }
        let memory = match load.config.provider {
            Provider::Cpu if load.as_on.is_some() => Memory::Staged,
            Provider::Cpu => Memory::Host,
            Provider::Cuda | Provider::Tensorrt => Memory::Cuda(device::open(runtime, load.config)?),
        };
        let manner = provider::manner(load.as_on.unwrap_or(load.config.provider), load.frames);
        if let Some((needs, free)) = load.needs.zip(budget::free(&memory)) {
            let needed = needs.on(load.config.provider);
            tracing::debug!(name = load.name, needed, free, "Estimated memory of a graph, and free memory, in bytes.");
            if let Some(refusal) = budget::refusal(load.name, &needs, load.config.provider, free) {
                return Err(InferenceError::Memory(refusal));
            }
        }
        let weights = engines::weights_beside(&graph);
        let raw = engines::with_cache(runtime, load, &graph, |engines| {
            let mut builder = provider::builder(runtime, load, &memory, engines, weights)?;
            let raw = match graph {
                Graph::Bytes(bytes) => builder.commit_from_memory(bytes),
                Graph::File(path) => builder.commit_from_file(path),
            };
            raw.map_err(|error| provider::refused(load.config, &error))
        })?;
        let id = engines::fingerprint(&graph).map_err(|error| InferenceError::Model(error.to_string()))?;
        let (provider, precision) = (load.config.provider, load.precision);
        tracing::info!(graph = load.name, %id, %provider, %precision, "A graph is loaded.");
        let inputs: Vec<_> = raw.inputs().iter().map(Side::new).collect::<Result<_, _>>()?;
        let outputs: Vec<_> = raw.outputs().iter().map(Side::new).collect::<Result<_, _>>()?;
        let stream = match &memory {
            Memory::Cuda(stream) => Some(stream.clone()),
            _ => None,
        };
        Ok(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            provider: load.config.provider,
            bound: Bound::new(memory, manner, [inputs.len(), outputs.len()])?,
            raw,
            inputs,
            outputs,
            graph: id,
            _stream: stream,
        })
    }

    /// Where the graph runs.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The graph: the first 16 bytes of the SHA-256 of its ONNX bytes. Weights in files beside it are not part of it.
    pub fn graph(&self) -> Fingerprint {
        self.graph
    }

    /// Time that the GPU worked in the last run, told once; `None` on the host.
    pub fn gpu_time(&mut self) -> Option<Duration> {
        self.bound.gpu_time()
    }

    /// After how many runs every later one is as fast as the next: one for each piece of work that is captured.
    pub fn warm_runs(&self) -> u32 {
        if self.provider == Provider::Cpu { 1 } else { self.bound.turns() as u32 }
    }

    /// How often the host has waited for the GPU.
    pub fn waits(&self) -> u64 {
        self.bound.waits()
    }

    /// The graph's inputs in its own order.
    pub fn inputs(&self) -> impl Iterator<Item = &Port> {
        self.inputs.iter().map(|side| &side.port)
    }

    /// The graph's outputs in its own order.
    pub fn outputs(&self) -> impl Iterator<Item = &Port> {
        self.outputs.iter().map(|side| &side.port)
    }

    /// The input called `name`, to be fed with `shape.product()` elements of type `T`. Where the graph leaves a dimension
    /// open, `shape` decides.
    ///
    /// # Errors
    /// [`InferenceError::Port`] when there is none, or of another type or shape.
    pub fn input<T: Element>(&mut self, name: &str, shape: &[i64]) -> Result<Input<T>, InferenceError> {
        let (index, changed) = ports::claim::<T>(&mut self.inputs, "input", name, shape)?;
        if changed {
            self.bound.forget(Some(index), None);
        }
        Ok(Input { session: self.id, index, marker: PhantomData })
    }

    /// The output called `name`; as [`Self::input`].
    ///
    /// # Errors
    /// [`InferenceError::Port`] when there is none, or of another type or shape.
    pub fn output<T: Element>(&mut self, name: &str, shape: &[i64]) -> Result<Output<T>, InferenceError> {
        let (index, changed) = ports::claim::<T>(&mut self.outputs, "output", name, shape)?;
        if changed {
            self.bound.forget(None, Some(index));
        }
        Ok(Output { session: self.id, index, marker: PhantomData })
    }

    /// Keeps a copy of `data` as the contents of `input` for every later run that does not feed it. Allocates the first
    /// time, then only writes; on a GPU, waits until it is there.
    ///
    /// # Errors
    /// [`InferenceError::Port`] when the number of elements is wrong or the input is carried; the old contents stay.
    /// [`InferenceError::Run`] when the device fails.
    pub fn hold<T: Element>(&mut self, input: &Input<T>, data: &[T]) -> Result<(), InferenceError> {
        let bytes = ffi::bytes_of(data);
        let side = ports::side(&mut self.inputs, input.session == self.id, input.index, bytes.len())?;
        if self.bound.carries_to(input.index) {
            return Err(side.error("it is carried from run to run"));
        }
        self.bound.hold(input.index, side, bytes)
    }

    /// Makes what a run writes to `output` the contents of `input` in the next one, on the device. Zeros at first.
    ///
    /// # Errors
    /// [`InferenceError::Port`] when the two differ in size or one of them is carried already.
    pub fn carry<T: Element>(&mut self, input: &Input<T>, output: &Output<T>) -> Result<(), InferenceError> {
        let own = input.session == self.id && output.session == self.id;
        match (self.inputs.get(input.index), self.outputs.get(output.index)) {
            (Some(to), Some(from)) if own => self.bound.carry([input.index, output.index], from, to),
            _ => Err(InferenceError::Run("a port of another session was given".to_owned())),
        }
    }

    /// Zeroes what is carried to `input`.
    ///
    /// # Errors
    /// [`InferenceError::Run`] when the device fails.
    pub fn clear<T: Element>(&mut self, input: &Input<T>) -> Result<(), InferenceError> {
        self.bound.clear(Some(input.index))
    }

    /// Zeroes everything that is carried.
    ///
    /// # Errors
    /// [`InferenceError::Run`] when the device fails.
    pub fn clear_all(&mut self) -> Result<(), InferenceError> {
        self.bound.clear(None)
    }

    /// Runs the graph once over the caller's buffers. Every input must be fed here, held or carried; outputs that are
    /// neither fetched nor carried are not computed where the runtime can avoid it.
    ///
    /// # Errors
    /// [`InferenceError::Port`] when a buffer has the wrong length, is given twice or is missing;
    /// [`InferenceError::Run`] with the runtime's message. The session stays usable.
    pub fn run(&mut self, feeds: &[Feed<'_>], fetches: &mut [Fetch<'_>]) -> Result<(), InferenceError> {
        self.run_times(1, feeds, fetches)
    }

    /// As [`Self::run`], `times` times over the same inputs; what is carried moves on from each to the next, and the
    /// outputs are those of the last.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_times(
        &mut self,
        times: u32,
        feeds: &[Feed<'_>],
        fetches: &mut [Fetch<'_>],
    ) -> Result<(), InferenceError> {
        let Self { id, bound, raw, inputs, outputs, .. } = self;
        ports::mark(inputs, feeds.iter().map(|feed| (feed.session == *id, feed.index, feed.bytes.len())))?;
        ports::mark(outputs, fetches.iter().map(|fetch| (fetch.session == *id, fetch.index, fetch.bytes.len())))?;
        for (index, side) in inputs.iter().enumerate() {
            match (side.given, bound.has(index)) {
                (true, _) if bound.carries_to(index) => return Err(side.error("it is carried from run to run")),
                (false, false) => return Err(side.error("it is neither fed nor held")),
                _ => {}
            }
        }
        if let Some((_, side)) = outputs.iter().enumerate().find(|(i, side)| side.given && bound.carries_from(*i)) {
            return Err(side.error("it is carried from run to run"));
        }
        if fetches.is_empty() {
            return Err(InferenceError::Run("no output is fetched".to_owned()));
        }
        bound.run(raw, [inputs, outputs], feeds, fetches, times)
    }
}
