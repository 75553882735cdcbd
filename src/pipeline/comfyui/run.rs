//! Lowered stages on ONNX Runtime: sessions, the buffers between them, and changes that apply whole or not at all.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::kept::{self, Counts, STORE};
use super::piped::{Picture, Piping};
use crate::frame::Fingerprint;
use crate::graph::DType;
use crate::inference::{
    Config, Feed as Fed, Fetch, Graph, InferenceError, Input, Load, Output, Precision, Provider, Runtime, Session,
    together,
};
use crate::models::weights::SharedPool;
use crate::pipeline::{Checked, PipelineError};
use crate::workflow::lower::{Body, Data, Feed, HostStage, Lowered, Made, OwnGraph, Port, RunGraph, Stage};

/// An input of a session, by its type.
pub enum In {
    U8(Input<u8>),
    F32(Input<f32>),
    I64(Input<i64>),
}

/// An output of a session, by its type.
pub enum Out {
    U8(Output<u8>),
    F32(Output<f32>),
    I64(Output<i64>),
}

impl In {
    fn find(session: &mut Session, name: &str, dtype: DType, shape: &[u64]) -> Result<Self, InferenceError> {
        let shape = signed(shape);
        Ok(match Data::zeros(dtype, 0) {
            Data::U8(_) => In::U8(session.input(name, &shape)?),
            Data::F32(_) => In::F32(session.input(name, &shape)?),
            Data::I64(_) => In::I64(session.input(name, &shape)?),
        })
    }

    fn hold(&self, session: &mut Session, data: &Data) -> Result<(), InferenceError> {
        match (self, data) {
            (In::U8(input), Data::U8(data)) => session.hold(input, data),
            (In::F32(input), Data::F32(data)) => session.hold(input, data),
            (In::I64(input), Data::I64(data)) => session.hold(input, data),
            _ => Err(mixed()),
        }
    }

    pub fn feed<'a>(&self, data: &'a Data) -> Result<Fed<'a>, InferenceError> {
        match (self, data) {
            (In::U8(input), Data::U8(data)) => Ok(input.feed(data)),
            (In::F32(input), Data::F32(data)) => Ok(input.feed(data)),
            (In::I64(input), Data::I64(data)) => Ok(input.feed(data)),
            _ => Err(mixed()),
        }
    }
}

impl Out {
    fn find(session: &mut Session, made: &Made) -> Result<Self, InferenceError> {
        let shape = signed(&made.shape);
        Ok(match Data::zeros(made.dtype, 0) {
            Data::U8(_) => Out::U8(session.output(&made.name, &shape)?),
            Data::F32(_) => Out::F32(session.output(&made.name, &shape)?),
            Data::I64(_) => Out::I64(session.output(&made.name, &shape)?),
        })
    }

    pub fn fetch<'a>(&self, data: &'a mut Data) -> Result<Fetch<'a>, InferenceError> {
        match (self, data) {
            (Out::U8(output), Data::U8(data)) => Ok(output.fetch(data)),
            (Out::F32(output), Data::F32(data)) => Ok(output.fetch(data)),
            (Out::I64(output), Data::I64(data)) => Ok(output.fetch(data)),
            _ => Err(mixed()),
        }
    }
}

pub fn mixed() -> InferenceError {
    InferenceError::Run("a tensor of another type was given".to_owned())
}

fn signed(shape: &[u64]) -> Vec<i64> {
    shape.iter().map(|&n| n as i64).collect()
}

/// A graph of a host stage.
struct Own {
    session: Session,
    inputs: Vec<In>,
    outputs: Vec<Out>,
}

impl Own {
    fn load(runtime: &'static Runtime, load: &Load<'_>, graph: &OwnGraph) -> Result<Self, InferenceError> {
        let bytes = graph.model.to_bytes().map_err(|error| InferenceError::Model(error.to_string()))?;
        let mut session = Session::load(runtime, load, Graph::Bytes(&bytes))?;
        let inputs = graph.inputs.iter().map(|made| In::find(&mut session, &made.name, made.dtype, &made.shape));
        let inputs = inputs.collect::<Result<_, _>>()?;
        let outputs = graph.outputs.iter().map(|made| Out::find(&mut session, made)).collect::<Result<_, _>>()?;
        Ok(Self { session, inputs, outputs })
    }
}

impl RunGraph for Own {
    fn run(&mut self, inputs: &[&Data], outputs: &mut [Data]) -> Result<(), String> {
        // Borrows of this run's buffers: lists that cannot outlive it.
        let fed = self.inputs.iter().zip(inputs).map(|(input, data)| input.feed(data)).collect::<Result<Vec<_>, _>>();
        let fetched = self.outputs.iter().zip(outputs).map(|(output, data)| output.fetch(data));
        let fetched = fetched.collect::<Result<Vec<_>, _>>();
        let run = || self.session.run(&fed?, &mut fetched?);
        run().map_err(|error| error.to_string())
    }
}

enum Runs {
    Graph {
        session: Box<Session>,
        inputs: Vec<In>,
        outputs: Vec<Out>,
    },
    /// A graph that runs once, and that other workflows may run too. It holds nothing: every run is fed whole.
    Once(Arc<kept::Graph>),
    Host(Box<dyn HostStage>),
    Pipeline(Box<Piping>),
}

/// A stage that is loaded.
struct Loaded {
    runs: Runs,
    live: bool,
    feeds: Vec<Feed>,
    /// What live and fixed ports, states and bridges from stages that run once hold. `None` for what every frame brings.
    held: Vec<Option<Data>>,
    /// What the last run gave.
    outputs: Vec<Data>,
}

/// A tensor for a port: stage, port, elements.
pub type Write = (usize, usize, Data);

/// Parameters for a pipeline: stage, parameters.
pub type Turn = (usize, Checked);

/// Every stage of a workflow.
pub struct Stages {
    stages: Vec<Loaded>,
    shown: Option<(usize, usize)>,
    /// What became of the stages that run once.
    pub counts: Counts,
    /// Files of weights, for the next workflow.
    _beside: Vec<Arc<SharedPool>>,
}

impl Stages {
    /// Loads the graphs, which compute in `precision`. `writes` has the elements of every live port, `pipelines` the stages that
    /// are one.
    pub fn load(
        runtime: &'static Runtime,
        config: &Config,
        precision: DType,
        lowered: Lowered,
        scratch: &Path,
        writes: Vec<Write>,
        mut pipelines: HashMap<usize, Piping>,
    ) -> Result<Self, InferenceError> {
        let precision = if precision == DType::F16 { Precision::Fp16 } else { Precision::Fp32 };
        let load = Load { precision, ..Load::new(config) };
        let mut stages = Vec::with_capacity(lowered.stages.len());
        let mut counts = Counts::default();
        for (i, stage) in lowered.stages.into_iter().enumerate() {
            let beside = (!lowered.beside.is_empty()).then(|| scratch.join(format!("stage-{i}.onnx")));
            let pipeline = pipelines.remove(&i);
            stages.push(Loaded::new(runtime, &load, stage, beside.as_deref(), pipeline, &mut counts)?);
        }
        let mut all = Self { stages, shown: lowered.shown, counts, _beside: lowered.beside };
        all.fill(writes)?;
        Ok(all)
    }

    /// Where its graphs run; `None` when every stage is one of the host.
    pub fn provider(&self) -> Option<Provider> {
        self.stages.iter().find_map(|stage| match &stage.runs {
            Runs::Graph { session, .. } => Some(session.provider()),
            Runs::Once(graph) => Some(graph.provider()),
            Runs::Pipeline(piping) => piping.provider(),
            Runs::Host(_) => None,
        })
    }

    /// Puts the first elements in and runs what runs once.
    fn fill(&mut self, writes: Vec<Write>) -> Result<(), InferenceError> {
        for stage in &mut self.stages {
            for port in 0..stage.feeds.len() {
                if let Feed::Fixed(data) = &stage.feeds[port] {
                    let data = data.as_ref().clone();
                    stage.hold(port, data)?;
                }
            }
        }
        for (stage, port, data) in writes {
            self.stages[stage].hold(port, data)?;
        }
        for i in 0..self.stages.len() {
            if !self.stages[i].live {
                self.once(i)?;
            }
        }
        Ok(())
    }

    /// Puts new elements into live ports and runs again what they feed outside of the frame. On an error everything is as before.
    pub fn write(&mut self, writes: Vec<Write>) -> Result<(), InferenceError> {
        // Before anything changes: what every touched port and output held.
        let mut undo: Vec<Write> = Vec::new();
        let mut outputs: Vec<(usize, Vec<Data>)> = Vec::new();
        let result = self.try_write(writes, &mut undo, &mut outputs);
        if result.is_err() {
            for (stage, old) in outputs {
                self.stages[stage].outputs = old;
                // The graphs behind it take back what they held.
                let _ = self.spread(stage, &mut Vec::new());
            }
            for (stage, port, data) in undo.into_iter().rev() {
                let _ = self.stages[stage].hold(port, data);
            }
        }
        result
    }

    fn try_write(
        &mut self,
        writes: Vec<Write>,
        undo: &mut Vec<Write>,
        outputs: &mut Vec<(usize, Vec<Data>)>,
    ) -> Result<(), InferenceError> {
        let mut dirty = vec![false; self.stages.len()];
        for (stage, port, data) in writes {
            if let Some(old) = self.stages[stage].held[port].clone() {
                undo.push((stage, port, old));
            }
            self.stages[stage].hold(port, data)?;
            dirty[stage] = true;
        }
        for i in 0..self.stages.len() {
            if dirty[i] && !self.stages[i].live {
                outputs.push((i, self.stages[i].outputs.clone()));
                self.stages[i].run_once(&mut self.counts)?;
                let mut behind = Vec::new();
                self.spread(i, &mut behind)?;
                behind.into_iter().for_each(|stage| dirty[stage] = true);
            }
        }
        Ok(())
    }

    /// Puts new parameters of pipelines in force, all of them, and gives what was before; or changes nothing: `None` when one of
    /// them needs another graph.
    pub fn turn(&mut self, all: Vec<Turn>) -> Result<Option<Vec<Turn>>, PipelineError> {
        let mut old = Vec::with_capacity(all.len());
        for (stage, checked) in all {
            let Some(Runs::Pipeline(piping)) = self.stages.get_mut(stage).map(|stage| &mut stage.runs) else {
                continue;
            };
            match piping.turn(checked) {
                Ok(Some(before)) => old.push((stage, before)),
                other => {
                    self.turn_back(old);
                    return other.map(|_| None);
                }
            }
        }
        Ok(Some(old))
    }

    /// Puts parameters in force that were before.
    pub fn turn_back(&mut self, old: Vec<Turn>) {
        for (stage, checked) in old.into_iter().rev() {
            if let Some(Runs::Pipeline(piping)) = self.stages.get_mut(stage).map(|stage| &mut stage.runs)
                && let Err(error) = piping.turn(checked)
            {
                tracing::error!(%error, "Parameters that were in force could not be put back.");
            }
        }
    }

    /// Whether what was shown last is the picture before once more.
    pub fn similar(&self) -> bool {
        let shown = self.shown.and_then(|(stage, _)| self.stages.get(stage));
        matches!(shown.map(|stage| &stage.runs), Some(Runs::Pipeline(piping)) if piping.similar())
    }

    fn once(&mut self, i: usize) -> Result<(), InferenceError> {
        self.stages[i].run_once(&mut self.counts)?;
        self.spread(i, &mut Vec::new())
    }

    /// Hands what stage `i` gave to those that it feeds, which are named in `behind`.
    fn spread(&mut self, i: usize, behind: &mut Vec<usize>) -> Result<(), InferenceError> {
        let (before, after) = self.stages.split_at_mut(i + 1);
        let from = &before[i];
        for (j, stage) in after.iter_mut().enumerate() {
            for port in 0..stage.feeds.len() {
                if let Feed::Bridge { stage: source, output } = stage.feeds[port]
                    && source == i
                {
                    stage.hold(port, from.outputs[output].clone())?;
                    behind.push(i + 1 + j);
                }
            }
        }
        Ok(())
    }

    /// Runs a frame: `from` and `to` are u8 (H, W, 3).
    pub fn frame(&mut self, from: &[u8], to: &mut [u8]) -> Result<(), InferenceError> {
        let Self { stages, shown, .. } = self;
        for i in 0..stages.len() {
            let (before, rest) = stages.split_at_mut(i);
            let Some(stage) = rest.first_mut().filter(|stage| stage.live) else { continue };
            let shown = shown.filter(|(stage, _)| *stage == i).map(|(_, output)| (output, &mut *to));
            stage.run_frame(before, from, shown)?;
        }
        Ok(())
    }

    /// The graphs that run for every frame.
    pub fn graph(&self) -> Option<Fingerprint> {
        let live = self.stages.iter().filter(|stage| stage.live);
        together(live.filter_map(|stage| match &stage.runs {
            Runs::Graph { session, .. } => Some(session.graph()),
            Runs::Pipeline(piping) => piping.graph(),
            Runs::Host(_) | Runs::Once(_) => None,
        }))
    }

    /// Time that the GPU worked on the last frame, told once.
    pub fn gpu_time(&mut self) -> Option<Duration> {
        let live = self.stages.iter_mut().filter(|stage| stage.live);
        let times = live.filter_map(|stage| match &mut stage.runs {
            Runs::Graph { session, .. } => session.gpu_time(),
            Runs::Pipeline(piping) => piping.gpu_time(),
            Runs::Host(_) | Runs::Once(_) => None,
        });
        times.reduce(|sum, time| sum + time)
    }

    /// Forgets what frames left behind.
    pub fn reset(&mut self) {
        for stage in &mut self.stages {
            for (feed, held) in stage.feeds.iter().zip(&mut stage.held) {
                if let (Feed::State { .. }, Some(state)) = (feed, held) {
                    zero(state);
                }
            }
            match &mut stage.runs {
                Runs::Host(host) => host.reset(),
                Runs::Pipeline(piping) => piping.reset(),
                Runs::Graph { .. } | Runs::Once(_) => {}
            }
        }
    }
}

fn zero(data: &mut Data) {
    match data {
        Data::U8(data) => data.fill(0),
        Data::F32(data) => data.fill(0.0),
        Data::I64(data) => data.fill(0),
    }
}

impl Loaded {
    fn new(
        runtime: &'static Runtime,
        load: &Load<'_>,
        stage: Stage,
        beside: Option<&Path>,
        pipeline: Option<Piping>,
        counts: &mut Counts,
    ) -> Result<Self, InferenceError> {
        let model = |error: crate::graph::GraphError| InferenceError::Model(error.to_string());
        let zeros = |port: &Port| Data::zeros(port.dtype, port.shape.iter().product::<u64>() as usize);
        let mut stage = stage;
        let body = std::mem::replace(&mut stage.body, Body::File(Path::new("").to_owned()));
        let runs = match body {
            Body::Host(mut host) => {
                let mut own = Vec::new();
                for graph in host.graphs() {
                    let load = Load { name: graph.name, frames: stage.live, precision: Precision::Fp32, ..*load };
                    own.push(Box::new(Own::load(runtime, &load, &graph)?) as Box<dyn RunGraph>);
                }
                host.equip(own);
                Runs::Host(host)
            }
            Body::StreamDiffusion(_) => match pipeline {
                Some(piping) => Runs::Pipeline(Box::new(piping)),
                None => return Err(InferenceError::Run("a pipeline of the workflow is not loaded".to_owned())),
            },
            body @ (Body::Graph(_) | Body::File(_)) => {
                let load = Load { name: &stage.name, frames: stage.live, ..*load };
                let session = || match (&body, beside) {
                    (Body::Graph(graph), None) => {
                        Session::load(runtime, &load, Graph::Bytes(&graph.to_bytes().map_err(model)?))
                    }
                    (Body::Graph(graph), Some(path)) => {
                        graph.write(path).map_err(model)?;
                        Session::load(runtime, &load, Graph::File(path))
                    }
                    (Body::File(path), _) => Session::load(runtime, &load, Graph::File(path)),
                    _ => Err(mixed()),
                };
                let ports = || {
                    let mut session = session()?;
                    let inputs =
                        stage.inputs.iter().map(|port| In::find(&mut session, &port.name, port.dtype, &port.shape));
                    let inputs = inputs.collect::<Result<_, _>>()?;
                    let outputs = stage.outputs.iter().map(|made| Out::find(&mut session, made));
                    let outputs = outputs.collect::<Result<_, _>>()?;
                    Ok(kept::Ports { session, inputs, outputs })
                };
                let fed = |port: &Port| !matches!(port.feed, Feed::Frame | Feed::State { .. });
                match &body {
                    Body::Graph(graph) if !stage.live && stage.inputs.iter().all(fed) => {
                        let key = kept::of_graph(graph.content(), load.config, load.precision);
                        let footprint = graph.footprint();
                        let weights = (footprint.weights + footprint.activations) as usize;
                        let made = stage.outputs.iter().map(|made| made.elements() * made.dtype.size()).sum();
                        let graph = || Ok(kept::Graph::new(ports()?, weights, made));
                        Runs::Once(counts.graph(|| STORE.get(key, load.config.folded_size, graph))?)
                    }
                    _ => {
                        let kept::Ports { session, inputs, outputs } = ports()?;
                        Runs::Graph { session: Box::new(session), inputs, outputs }
                    }
                }
            }
        };
        let held = stage.inputs.iter().map(|port| matches!(port.feed, Feed::State { .. }).then(|| zeros(port)));
        Ok(Self {
            runs,
            live: stage.live,
            held: held.collect(),
            outputs: stage.outputs.iter().map(|made| Data::zeros(made.dtype, made.elements())).collect(),
            feeds: stage.inputs.into_iter().map(|port| port.feed).collect(),
        })
    }

    /// Keeps `data` as the contents of a port.
    fn hold(&mut self, port: usize, data: Data) -> Result<(), InferenceError> {
        if let Runs::Graph { session, inputs, .. } = &mut self.runs {
            inputs[port].hold(session, &data)?;
        }
        self.held[port] = Some(data);
        Ok(())
    }

    /// Runs a stage that runs once.
    fn run_once(&mut self, counts: &mut Counts) -> Result<(), InferenceError> {
        match &self.runs {
            Runs::Once(graph) => counts.result(|| graph.run(&self.held, &mut self.outputs)),
            _ => self.run(&[], None, None),
        }
    }

    fn run_frame(
        &mut self,
        before: &[Loaded],
        from: &[u8],
        shown: Option<(usize, &mut [u8])>,
    ) -> Result<(), InferenceError> {
        self.run(before, Some(from), shown)?;
        // The states of the next frame: buffers change places.
        for port in 0..self.feeds.len() {
            if let Feed::State { output } = self.feeds[port]
                && let Some(state) = &mut self.held[port]
            {
                std::mem::swap(state, &mut self.outputs[output]);
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        before: &[Loaded],
        from: Option<&[u8]>,
        mut shown: Option<(usize, &mut [u8])>,
    ) -> Result<(), InferenceError> {
        let Self { runs, feeds, held, outputs, .. } = self;
        match runs {
            Runs::Pipeline(piping) => {
                let picture = match (feeds.first(), from) {
                    (None, _) => Some(Picture::None),
                    (Some(Feed::Frame), Some(from)) => Some(Picture::Bytes(from)),
                    (Some(Feed::Bridge { stage, output }), _) => {
                        let held = held.first().and_then(Option::as_ref);
                        let made = held.or_else(|| before.get(*stage)?.outputs.get(*output));
                        made.and_then(|made| match made {
                            Data::U8(bytes) => Some(Picture::Bytes(bytes)),
                            Data::F32(floats) => Some(Picture::Floats(floats)),
                            Data::I64(_) => None,
                        })
                    }
                    _ => None,
                };
                let picture = picture.ok_or_else(|| InferenceError::Run("a stage is not fed".to_owned()))?;
                let (first, rest) = outputs.split_at_mut(1);
                match (shown, first) {
                    // What it shows goes out as it is; other stages that take it too find it in the output.
                    (Some((0, to)), [Data::U8(bytes)]) => {
                        piping.run(picture, to, rest.first_mut())?;
                        bytes.copy_from_slice(to);
                        Ok(())
                    }
                    (None, [Data::U8(bytes)]) => piping.run(picture, bytes, rest.first_mut()),
                    _ => Err(mixed()),
                }
            }
            Runs::Once(graph) => graph.run(held, outputs).map(|_| ()),
            Runs::Host(host) => {
                // What a host stage takes is on the host already.
                let mut inputs = Vec::with_capacity(feeds.len());
                for (feed, held) in feeds.iter().zip(held.iter()) {
                    inputs.push(match (feed, held) {
                        (_, Some(held)) => held,
                        (Feed::Bridge { stage, output }, None) => before
                            .get(*stage)
                            .and_then(|stage| stage.outputs.get(*output))
                            .ok_or_else(|| InferenceError::Run("a stage is not fed".to_owned()))?,
                        _ => return Err(InferenceError::Run("a stage is not fed".to_owned())),
                    });
                }
                host.run(&inputs, outputs).map_err(InferenceError::Run)
            }
            Runs::Graph { session, inputs, outputs: ports } => {
                // Borrows of this run's buffers: lists that cannot outlive it.
                let mut fed = Vec::with_capacity(feeds.len());
                for ((feed, input), held) in feeds.iter().zip(inputs.iter()).zip(held.iter()) {
                    match (feed, input, held) {
                        (Feed::Frame, In::U8(input), _) => fed.extend(from.map(|from| input.feed(from))),
                        (Feed::State { .. }, input, Some(state)) => fed.push(input.feed(state)?),
                        (Feed::Bridge { stage, output }, input, None) => {
                            let made = before.get(*stage).and_then(|stage| stage.outputs.get(*output));
                            fed.extend(made.map(|made| input.feed(made)).transpose()?);
                        }
                        // The session holds it.
                        _ => {}
                    }
                }
                let mut fetched = Vec::with_capacity(ports.len());
                for (i, (port, data)) in ports.iter().zip(outputs.iter_mut()).enumerate() {
                    match (&mut shown, port) {
                        (Some((output, to)), Out::U8(port)) if *output == i => {
                            fetched.push(port.fetch(std::mem::take(to)))
                        }
                        _ => fetched.push(port.fetch(data)?),
                    }
                }
                session.run(&fed, &mut fetched)
            }
        }
    }
}
