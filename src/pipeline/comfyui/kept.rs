//! Graphs that run once and what they made, kept by content for the next workflow.
//!
//! A key is the SHA-256 of everything that a result depends on: the graph with its weights ([`Model::content`]), where and in
//! what it computes, and for a result the elements of every input. So nothing that is kept can be stale; what differs in
//! anything is another entry. A graph that a workflow has in use is found whatever its size; beyond that as many bytes stay as
//! the setting `inference.folded_size` allows, and what was not used for longest goes.
//!
//! [`Model::content`]: crate::graph::Model::content

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::run::{In, Out};
use crate::inference::{InferenceError, Provider, Session};
use crate::pipeline::Folded;
use crate::workflow::lower::Data;

/// A SHA-256.
pub type Key = [u8; 32];

/// Results that a graph keeps: so many, and so many bytes, but always one.
const RESULTS: usize = 8;
const RESULT_BYTES: usize = 64 << 20;

/// Graphs that are kept although nobody uses them: each has threads of its own.
const GRAPHS: usize = 32;

/// Every graph of the process that is in use or kept.
pub static STORE: Store = Store(Mutex::new(None));

fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A graph with its ports.
pub struct Ports {
    pub session: Session,
    pub inputs: Vec<In>,
    pub outputs: Vec<Out>,
}

/// A graph that several workflows may run, one at a time.
pub struct Graph {
    inside: Mutex<Inside>,
    provider: Provider,
    bytes: usize,
    results: usize,
}

struct Inside {
    ports: Ports,
    /// The latest last.
    results: VecDeque<(Key, Vec<Data>)>,
}

impl Graph {
    /// `weights` are the bytes that the graph takes, `made` those of one result.
    pub fn new(ports: Ports, weights: usize, made: usize) -> Self {
        let results = (RESULT_BYTES / made.max(1)).clamp(1, RESULTS);
        let provider = ports.session.provider();
        let inside = Mutex::new(Inside { ports, results: VecDeque::with_capacity(results) });
        Self { inside, provider, bytes: weights.saturating_add(results.saturating_mul(made)), results }
    }

    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Puts into `outputs` what the graph makes of `inputs`, and says whether it was known already. Waits while another workflow
    /// runs the same graph.
    pub fn run(&self, inputs: &[Option<Data>], outputs: &mut [Data]) -> Result<bool, InferenceError> {
        let unfed = || InferenceError::Run("a stage is not fed".to_owned());
        let inputs = inputs.iter().map(|data| data.as_ref().ok_or_else(unfed)).collect::<Result<Vec<_>, _>>()?;
        let key = of_inputs(&inputs);
        let Inside { ports, results } = &mut *open(&self.inside);
        if let Some(place) = results.iter().position(|(known, _)| *known == key) {
            let found = results.remove(place).ok_or_else(unfed)?;
            copy(&found.1, outputs);
            results.push_back(found);
            return Ok(true);
        }
        // The buffers of the oldest one serve again.
        let oldest = if results.len() < self.results { None } else { results.pop_front() };
        let mut made = oldest.map_or_else(|| outputs.to_vec(), |(_, made)| made);
        let fed =
            ports.inputs.iter().zip(&inputs).map(|(port, data)| port.feed(data)).collect::<Result<Vec<_>, _>>()?;
        let fetched = ports.outputs.iter().zip(made.iter_mut()).map(|(port, data)| port.fetch(data));
        ports.session.run(&fed, &mut fetched.collect::<Result<Vec<_>, _>>()?)?;
        copy(&made, outputs);
        results.push_back((key, made));
        Ok(false)
    }
}

fn copy(from: &[Data], to: &mut [Data]) {
    from.iter().zip(to).for_each(|(from, to)| to.clone_from(from));
}

fn of_inputs(inputs: &[&Data]) -> Key {
    let mut hash = Sha256::new();
    for data in inputs {
        hash.update(data.dtype().code().to_le_bytes());
        hash.update((data.len() as u64).to_le_bytes());
        match data {
            Data::U8(data) => hash.update(data),
            Data::F32(data) => {
                let mut bytes = [0; 4096];
                for part in data.chunks(bytes.len() / 4) {
                    let to = bytes.as_chunks_mut::<4>().0.iter_mut();
                    to.zip(part).for_each(|(to, x)| *to = x.to_le_bytes());
                    hash.update(&bytes[..4 * part.len()]);
                }
            }
            Data::I64(data) => data.iter().for_each(|n| hash.update(n.to_le_bytes())),
        }
    }
    hash.finalize().into()
}

/// The key of a graph: of its content, and how it is loaded.
pub fn of_graph(content: Key, config: &crate::inference::Config, precision: crate::inference::Precision) -> Key {
    let mut hash = Sha256::new();
    hash.update(content);
    hash.update(format!("{} {} {} {precision} {:?}", config.provider, config.device, config.threads, config.library));
    hash.finalize().into()
}

struct Entry {
    used: u64,
    /// Found as long as anybody has it.
    here: Weak<Graph>,
    /// Kept although nobody may have it.
    kept: Option<Arc<Graph>>,
}

#[derive(Default)]
struct Shelf {
    entries: HashMap<Key, Entry>,
    clock: u64,
}

/// Graphs by their keys.
pub struct Store(Mutex<Option<Shelf>>);

impl Store {
    /// The graph of `key`: a known one, or what `load` makes. Of those that nobody uses so many stay that all have at most
    /// `most` bytes together.
    pub fn get(
        &self,
        key: Key,
        most: usize,
        load: impl FnOnce() -> Result<Graph, InferenceError>,
    ) -> Result<(Arc<Graph>, bool), InferenceError> {
        // Closed when nobody waits for the shelf any more.
        let mut gone;
        let mut shelf = open(&self.0);
        let found = {
            let shelf = shelf.get_or_insert_default();
            let found = shelf.find(&key);
            gone = shelf.shrink(most);
            found
        };
        drop(shelf);
        if let Some(graph) = found {
            return Ok((graph, true));
        }
        // Others go on meanwhile; should one of them load the same, the later one stays.
        let graph = Arc::new(load()?);
        let mut shelf = open(&self.0);
        let shelf = shelf.get_or_insert_default();
        shelf.clock += 1;
        let kept = (graph.bytes <= most).then(|| graph.clone());
        let entry = Entry { used: shelf.clock, here: Arc::downgrade(&graph), kept };
        gone.extend(shelf.entries.insert(key, entry).and_then(|entry| entry.kept));
        gone.extend(shelf.shrink(most));
        Ok((graph, false))
    }

    /// Bytes of what is kept.
    pub fn bytes(&self) -> usize {
        open(&self.0).as_ref().map_or(0, Shelf::bytes)
    }
}

impl Shelf {
    fn find(&mut self, key: &Key) -> Option<Arc<Graph>> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        let graph = entry.here.upgrade()?;
        entry.used = self.clock;
        Some(graph)
    }

    /// Gives up what was not used for longest, until there is room, and forgets what nobody has.
    fn shrink(&mut self, most: usize) -> Vec<Arc<Graph>> {
        let mut gone = Vec::new();
        while self.bytes() > most || self.kept() > GRAPHS {
            let kept = self.entries.values_mut().filter(|entry| entry.kept.is_some());
            gone.extend(kept.min_by_key(|entry| entry.used).and_then(|oldest| oldest.kept.take()));
        }
        self.entries.retain(|_, entry| entry.kept.is_some() || entry.here.strong_count() > 0);
        gone
    }

    fn bytes(&self) -> usize {
        self.entries.values().filter_map(|entry| entry.kept.as_ref()).map(|graph| graph.bytes).sum()
    }

    fn kept(&self) -> usize {
        self.entries.values().filter(|entry| entry.kept.is_some()).count()
    }
}

/// Counts what a workflow's folded stages do.
#[derive(Default)]
pub struct Counts(Folded);

impl Counts {
    /// What was counted since [`Self::take`].
    pub fn now(&self) -> Folded {
        Folded { bytes: STORE.bytes() as u64, ..self.0 }
    }

    /// The same, told once.
    pub fn take(&mut self) -> Folded {
        let now = self.now();
        self.0 = Folded::default();
        now
    }

    /// `load` gives a graph and whether it was kept.
    pub fn graph(
        &mut self,
        load: impl FnOnce() -> Result<(Arc<Graph>, bool), InferenceError>,
    ) -> Result<Arc<Graph>, InferenceError> {
        let began = Instant::now();
        let (graph, kept) = load()?;
        *(if kept { &mut self.0.graphs_kept } else { &mut self.0.graphs_made }) += 1;
        self.0.seconds += began.elapsed().as_secs_f64();
        Ok(graph)
    }

    /// `run` says whether its result was kept.
    pub fn result(&mut self, run: impl FnOnce() -> Result<bool, InferenceError>) -> Result<(), InferenceError> {
        let began = Instant::now();
        let kept = run()?;
        *(if kept { &mut self.0.results_kept } else { &mut self.0.results_made }) += 1;
        self.0.seconds += began.elapsed().as_secs_f64();
        Ok(())
    }
}
