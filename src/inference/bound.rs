//! What a session is bound to: tensors that stay, and what is lent for one run.
//!
//! On the host, lent slices are read and written where they lie. On a device they are copied to and from tensors at
//! addresses that stay, behind each other on one stream, and the only wait is the one for the outputs. State goes from an
//! output to an input by [`Turn`], never through the host.

use std::time::Duration;

use ort::session::RunOptions;

use super::InferenceError;
use super::ffi::cuda::Timer;
use super::ffi::{Binding, Lent, Place};
use super::memory::{Memory, Staging, Tensor};
use super::ports::{Feed, Fetch, Side};

/// How state gets from an output to the input of the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The two tensors change places: two bindings that take turns.
    Swap,
    /// The output is copied to the input's tensor: one binding, for what can capture one graph only.
    Copy,
}

/// How a session is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// How state moves on.
    pub turn: Turn,
    /// Whether the provider captures each binding's work and replays it.
    pub captured: bool,
}

/// State: an output that is an input of the next run.
struct Carried {
    input: usize,
    output: usize,
    tensors: [Tensor; 2],
}

/// A port's tensor on the device, and the host's memory it is filled from or read to.
struct Staged {
    tensor: Tensor,
    staging: Staging,
}

pub(super) struct Bound {
    /// One for each turn; empty when they have to be made anew. Before the tensors, so that they go first.
    bindings: Vec<Binding>,
    /// The ports that are lent, as the bindings know them.
    lent: [Vec<usize>; 2],
    options: Vec<RunOptions>,
    held: Vec<Option<Tensor>>,
    carried: Vec<Carried>,
    staged: [Vec<Option<Staged>>; 2],
    turn: usize,
    /// How often bindings were made: each time's graphs have numbers of their own.
    made: i32,
    manner: Manner,
    place: Place,
    /// Takes the time of each run on a GPU.
    timer: Option<Timer>,
    took: Option<Duration>,
    pub memory: Memory,
}

fn failed(error: impl std::fmt::Display) -> InferenceError {
    InferenceError::Run(error.to_string())
}

fn options(memory: &Memory, graph: Option<i32>) -> Result<RunOptions, InferenceError> {
    let mut options = RunOptions::new().map_err(failed)?;
    if let Memory::Cuda(_) = memory {
        options.disable_device_sync().map_err(failed)?;
    }
    if let Some(graph) = graph {
        options.set("gpu_graph_id", graph.to_string()).map_err(failed)?;
    }
    Ok(options)
}

impl Bound {
    pub fn new(memory: Memory, manner: Manner, [inputs, outputs]: [usize; 2]) -> Result<Self, InferenceError> {
        let none = |count: usize| (0..count).map(|_| None).collect();
        Ok(Self {
            bindings: Vec::new(),
            lent: [Vec::new(), Vec::new()],
            options: Vec::new(),
            held: (0..inputs).map(|_| None).collect(),
            carried: Vec::new(),
            staged: [none(inputs), none(outputs)],
            turn: 0,
            made: 0,
            manner,
            place: memory.place()?,
            timer: memory.timer()?,
            took: None,
            memory,
        })
    }

    /// How many bindings take turns.
    pub fn turns(&self) -> usize {
        match self.manner.turn {
            Turn::Swap if !self.carried.is_empty() => 2,
            Turn::Swap | Turn::Copy => 1,
        }
    }

    /// Forgets everything about an input or an output whose shape changed.
    pub fn forget(&mut self, input: Option<usize>, output: Option<usize>) {
        self.bindings.clear();
        if let Some(index) = input {
            self.held[index] = None;
            self.staged[0][index] = None;
        }
        if let Some(index) = output {
            self.staged[1][index] = None;
        }
        self.carried.retain(|carried| Some(carried.input) != input && Some(carried.output) != output);
    }

    /// Keeps `data` as the contents of input `index`.
    pub fn hold(&mut self, index: usize, side: &Side, data: &[u8]) -> Result<(), InferenceError> {
        if self.held[index].is_none() {
            let slot = side.slot.as_ref().ok_or_else(|| side.error("it was not asked for"))?;
            self.held[index] = Some(self.memory.tensor(&self.place, slot, side.bytes)?);
            self.bindings.clear();
        }
        match &mut self.held[index] {
            Some(tensor) => self.memory.write(tensor, data),
            None => Ok(()),
        }
    }

    /// Makes output `output` of every run input `input` of the next; zeros for the first.
    pub fn carry(&mut self, [input, output]: [usize; 2], from: &Side, to: &Side) -> Result<(), InferenceError> {
        let taken = |carried: &Carried| carried.input == input || carried.output == output;
        if self.carried.iter().any(taken) {
            return Err(from.error("it is carried already"));
        }
        let (Some(slot), true) = (&to.slot, to.bytes == from.bytes) else {
            return Err(from.error(format!("{} bytes are not the {} of {}", from.bytes, to.bytes, to.port.name)));
        };
        self.memory.enter()?;
        let tensor = || self.memory.tensor(&self.place, slot, to.bytes);
        let tensors = [tensor()?, tensor()?];
        self.carried.push(Carried { input, output, tensors });
        self.held[input] = None;
        self.bindings.clear();
        Ok(())
    }

    /// Zeroes the state that input `index` carries, or all of it.
    pub fn clear(&mut self, index: Option<usize>) -> Result<(), InferenceError> {
        self.memory.enter()?;
        for carried in self.carried.iter_mut().filter(|carried| index.is_none_or(|index| index == carried.input)) {
            for tensor in &mut carried.tensors {
                self.memory.zero(tensor)?;
            }
        }
        Ok(())
    }

    /// Whether input `index` has contents when it is not fed.
    pub fn has(&self, index: usize) -> bool {
        self.held[index].is_some() || self.carries_to(index)
    }

    /// Whether input `index` is state.
    pub fn carries_to(&self, index: usize) -> bool {
        self.carried.iter().any(|carried| carried.input == index)
    }

    /// Whether output `index` is state.
    pub fn carries_from(&self, index: usize) -> bool {
        self.carried.iter().any(|carried| carried.output == index)
    }

    /// How often the host waited for the device.
    pub fn waits(&self) -> u64 {
        self.memory.waits()
    }

    /// Time that the GPU took for the passes of the last run, copies to and from the host left out; told once.
    pub fn gpu_time(&mut self) -> Option<Duration> {
        self.took.take()
    }

    /// Runs `passes` times over what was checked: state moves on from pass to pass, the outputs are those of the last.
    pub fn run(
        &mut self,
        raw: &mut ort::session::Session,
        [inputs, outputs]: [&[Side]; 2],
        feeds: &[Feed<'_>],
        fetches: &mut [Fetch<'_>],
        passes: u32,
    ) -> Result<(), InferenceError> {
        self.memory.enter()?;
        let fed = feeds.iter().map(|feed| feed.index);
        let fetched = fetches.iter().map(|fetch| fetch.index);
        if self.bindings.is_empty()
            || !fed.clone().eq(self.lent[0].iter().copied())
            || !fetched.clone().eq(self.lent[1].iter().copied())
        {
            if self.manner.captured && self.manner.turn == Turn::Copy && self.made > 0 {
                return Err(failed("other inputs or outputs than those that were captured"));
            }
            self.lent = [fed.collect(), fetched.collect()];
            self.bind(raw, [inputs, outputs])?;
        }
        if self.memory.staged() {
            self.send(feeds)?;
        }
        self.took = None;
        if let Some(timer) = &self.timer {
            timer.begin().map_err(failed)?;
        }
        for _ in 0..passes {
            self.pass(raw, [inputs, outputs], feeds, fetches)?;
            self.turn_over()?;
        }
        if let Some(timer) = &self.timer {
            timer.end().map_err(failed)?;
        }
        if self.memory.staged() {
            self.fetch(fetches)?;
        }
        // The outputs are there, so both events are over: nothing is waited for.
        self.took = self.timer.as_ref().map(Timer::elapsed).transpose().map_err(failed)?;
        Ok(())
    }

    fn pass(
        &mut self,
        raw: &mut ort::session::Session,
        [inputs, outputs]: [&[Side]; 2],
        feeds: &[Feed<'_>],
        fetches: &mut [Fetch<'_>],
    ) -> Result<(), InferenceError> {
        let Self { bindings, options, place, memory, turn, .. } = self;
        let (Some(binding), Some(options)) = (bindings.get_mut(*turn), options.get(*turn)) else {
            return Err(failed("nothing is bound"));
        };
        let ran = if memory.staged() {
            binding.run(raw, options, place, std::iter::empty())
        } else {
            let fed = feeds.iter().filter_map(|feed| Some(Lent::input(inputs[feed.index].slot.as_ref()?, feed.bytes)));
            let fetched = fetches
                .iter_mut()
                .filter_map(|fetch| Some(Lent::output(outputs[fetch.index].slot.as_ref()?, &mut *fetch.bytes)));
            binding.run(raw, options, place, fed.chain(fetched))
        };
        ran.map_err(failed)
    }

    /// Makes the state that was written the one that is read next.
    fn turn_over(&mut self) -> Result<(), InferenceError> {
        match self.manner.turn {
            Turn::Swap => self.turn = (self.turn + 1) % self.bindings.len(),
            Turn::Copy => {
                for Carried { tensors: [read, written], .. } in &mut self.carried {
                    self.memory.copy(read, written)?;
                }
            }
        }
        Ok(())
    }

    /// Sends what is fed on its way to the device.
    fn send(&mut self, feeds: &[Feed<'_>]) -> Result<(), InferenceError> {
        for feed in feeds {
            if let Some(Staged { tensor, staging }) = &mut self.staged[0][feed.index] {
                staging.fill(feed.bytes)?;
                self.memory.upload(tensor, staging)?;
            }
        }
        Ok(())
    }

    /// Gets what is fetched from the device. The first one waits.
    fn fetch(&mut self, fetches: &mut [Fetch<'_>]) -> Result<(), InferenceError> {
        for fetch in fetches.iter() {
            if let Some(Staged { tensor, staging }) = &mut self.staged[1][fetch.index] {
                self.memory.download(staging, tensor)?;
            }
        }
        for fetch in fetches {
            if let Some(Staged { staging, .. }) = &self.staged[1][fetch.index] {
                staging.take(fetch.bytes)?;
            }
        }
        Ok(())
    }

    /// Makes the bindings for the ports that are lent.
    fn bind(&mut self, raw: &mut ort::session::Session, [inputs, outputs]: [&[Side]; 2]) -> Result<(), InferenceError> {
        self.bindings.clear();
        self.options.clear();
        if self.memory.staged() {
            self.stage(0, inputs)?;
            self.stage(1, outputs)?;
        }
        let turns = self.turns();
        let staged = self.memory.staged();
        let lent = if staged { 0 } else { self.lent[0].len() + self.lent[1].len() };
        for turn in 0..turns {
            let mut binding = Binding::new(raw, lent).map_err(failed)?;
            let fed = &self.lent[0];
            for (index, side) in inputs.iter().enumerate() {
                let Some(slot) = &side.slot else { continue };
                let carried = self.carried.iter().find(|carried| carried.input == index);
                let value = match (fed.contains(&index), carried) {
                    (true, _) => self.staged[0][index].as_ref().map(|staged| &staged.tensor.value),
                    (false, Some(carried)) => Some(&carried.tensors[turn].value),
                    (false, None) => self.held[index].as_ref().map(|tensor| &tensor.value),
                };
                if let Some(value) = value {
                    binding.input(slot, value).map_err(failed)?;
                }
            }
            for Carried { output, tensors, .. } in &self.carried {
                if let Some(slot) = &outputs[*output].slot {
                    binding.output(slot, &tensors[1 - turn].value).map_err(failed)?;
                }
            }
            for &index in &self.lent[1] {
                if let (Some(slot), Some(staged)) = (&outputs[index].slot, &self.staged[1][index]) {
                    binding.output(slot, &staged.tensor.value).map_err(failed)?;
                }
            }
            let graph = self.manner.captured && self.manner.turn == Turn::Swap;
            let graph = graph.then_some(2 * self.made + turn as i32 + 1);
            self.options.push(options(&self.memory, graph)?);
            self.bindings.push(binding);
        }
        self.turn %= turns;
        self.made += 1;
        Ok(())
    }

    /// Makes tensors on the device for the ports of `side` that are lent and have none yet.
    fn stage(&mut self, side: usize, ports: &[Side]) -> Result<(), InferenceError> {
        for &index in &self.lent[side] {
            let (None, Some(slot)) = (&self.staged[side][index], &ports[index].slot) else { continue };
            let tensor = self.memory.tensor(&self.place, slot, ports[index].bytes)?;
            let staging = self.memory.staging(ports[index].bytes)?;
            self.staged[side][index] = staging.map(|staging| Staged { tensor, staging });
        }
        Ok(())
    }
}
