//! Where weights come from.

use crate::graph::{DType, External, GraphError};

/// Why a model could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The graph does not fit together.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The weights cannot be used.
    #[error(transparent)]
    Weights(#[from] super::weights::WeightsError),
    /// A configuration asks for something that is not built here, or contradicts itself.
    #[error("{field}: {reason}")]
    Config {
        /// The key in `config.json`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A weight is missing or does not fit.
    #[error("{name}: {reason}")]
    Weight {
        /// The weight's name in the diffusers layout.
        name: String,
        /// The file, what it has, and what was expected.
        reason: String,
    },
}

impl ModelError {
    pub(crate) fn config(field: &str, reason: impl Into<String>) -> Self {
        ModelError::Config { field: field.to_owned(), reason: reason.into() }
    }
}

/// A weight's elements as they go into a graph, row-major and little-endian.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// In memory.
    Inline(Vec<u8>),
    /// In a file beside the graph.
    External(External),
}

/// The weights of one model, by the names of the diffusers layout.
pub trait Source {
    /// True when there is a weight called `name`.
    fn has(&self, name: &str) -> bool;

    /// The weight `name`, which must have `shape`, as elements of `dtype` (`F32` or `F16`).
    ///
    /// # Errors
    /// [`ModelError::Weight`] when it is missing, has another shape or cannot be read.
    fn tensor(&mut self, name: &str, shape: &[u64], dtype: DType) -> Result<Stored, ModelError>;
}
