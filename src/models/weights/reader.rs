//! Weights on their way into graphs.

use std::collections::HashMap;
use std::path::Path;

use super::{Weights, WeightsError};
use crate::graph::{DType, External, ExternalWriter, GraphError};
use crate::models::{ModelError, Source, Stored};

/// The file beside several graphs that holds their weights. A weight that two graphs ask for is there once.
pub struct Pool {
    writer: ExternalWriter,
    placed: HashMap<(u64, String, DType), External>,
}

impl Pool {
    /// Starts the file at `path`. Graphs that use it are written into the same folder.
    ///
    /// # Errors
    /// [`GraphError::Io`].
    pub fn create(path: &Path) -> Result<Self, GraphError> {
        Ok(Self { writer: ExternalWriter::create(path)?, placed: HashMap::new() })
    }

    /// As [`Self::create`]; graphs refer to the file as `name`.
    pub(super) fn named(path: &Path, name: &str) -> Result<Self, GraphError> {
        Ok(Self { writer: ExternalWriter::named(path, name)?, placed: HashMap::new() })
    }

    /// Puts everything so far on disk; more may follow.
    ///
    /// # Errors
    /// [`GraphError::Io`].
    pub(super) fn sync(&mut self) -> Result<(), GraphError> {
        self.writer.sync()
    }

    /// Weights that are there.
    pub(super) fn placed(&self) -> usize {
        self.placed.len()
    }

    /// Ends the file, on disk.
    ///
    /// # Errors
    /// [`GraphError::Io`].
    pub fn finish(self) -> Result<(), GraphError> {
        self.writer.finish()
    }
}

/// A [`Source`] that reads [`Weights`] as graphs ask for them.
pub struct Reader<'a> {
    weights: &'a Weights,
    /// What stands for the weights in a pool.
    id: u64,
    to: To<'a>,
}

enum To<'a> {
    Graph,
    Pool(&'a mut Pool),
    Nothing,
}

impl<'a> Reader<'a> {
    /// Weights go into the graph itself.
    pub fn inline(weights: &'a Weights) -> Self {
        Self { weights, id: weights.id, to: To::Graph }
    }

    /// Weights go into `pool`; one at a time is in memory.
    pub fn pooled(weights: &'a Weights, pool: &'a mut Pool) -> Self {
        Self { weights, id: weights.id, to: To::Pool(pool) }
    }

    /// As [`Self::pooled`], where `pool` is for weights of this [identity](Weights::identity) alone, whoever opened them.
    pub(super) fn only(weights: &'a Weights, pool: &'a mut Pool) -> Self {
        Self { weights, id: 0, to: To::Pool(pool) }
    }

    /// Names, shapes and types are checked and nothing is read. The graph is of no use but to be counted.
    pub fn checking(weights: &'a Weights) -> Self {
        Self { weights, id: weights.id, to: To::Nothing }
    }

    fn place(&mut self, name: &str, shape: &[u64], dtype: DType) -> Result<Stored, WeightsError> {
        match &mut self.to {
            To::Graph => self.weights.give(name, shape, dtype, |data| Ok(Stored::Inline(data.into_owned()))),
            To::Pool(pool) => {
                let key = (self.id, name.to_owned(), dtype);
                if let Some(known) = pool.placed.get(&key) {
                    // The shape may be another's.
                    self.weights.check(name, shape)?;
                    return Ok(Stored::External(known.clone()));
                }
                let place = self.weights.give(name, shape, dtype, |data| Ok(pool.writer.append(&data)?))?;
                pool.placed.insert(key, place.clone());
                Ok(Stored::External(place))
            }
            To::Nothing => {
                self.weights.check(name, shape)?;
                let length = shape.iter().product::<u64>() * dtype.size() as u64;
                Ok(Stored::External(External { location: "nothing".to_owned(), offset: 0, length }))
            }
        }
    }
}

impl Source for Reader<'_> {
    fn has(&self, name: &str) -> bool {
        self.weights.has(name)
    }

    fn tensor(&mut self, name: &str, shape: &[u64], dtype: DType) -> Result<Stored, ModelError> {
        if !dtype.is_float() {
            let reason = format!("{dtype} is not a type of weights");
            return Err(ModelError::Weight { name: name.to_owned(), reason });
        }
        Ok(self.place(name, shape, dtype)?)
    }
}
