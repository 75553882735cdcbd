//! Weights on disk: where they are, what they are called, and how they come into a graph.
//!
//! A [`Repository`] is a folder in the diffusers layout (plain, or a snapshot in HuggingFace's cache) or a single
//! `.safetensors` file. It gives the [`Weights`] of a [`Component`] under the names of diffusers; a single file in the
//! original naming of Stable Diffusion is translated. [`Lora`]s are merged while reading. A [`Reader`] hands the elements
//! to a graph, inline or through a [`Pool`] that graphs share.
//!
//! Files are mapped into memory and read where they lie; nothing but the weight in hand is held. A file that another
//! process cuts short while it is mapped ends this process, as with every mapped file.

use std::path::PathBuf;

mod component;
mod convert;
mod ffi;
mod file;
pub mod fuzz;
mod lora;
mod merge;
mod original;
mod reader;
mod repository;
mod shared;
mod store;

pub use component::{Component, Family};
pub use file::Format;
pub use lora::{Lora, Part};
pub use merge::Applied;
pub use reader::{Pool, Reader};
pub use repository::{Repository, cached, folder_of};
pub use shared::SharedPool;
pub use store::Weights;

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// There is no such model.
    #[error("the model {id} was not found in {}: {expected}", root.display())]
    NoModel {
        /// As it was asked for.
        id: String,
        /// Where it was looked for.
        root: PathBuf,
        /// What would have been found.
        expected: String,
    },
    /// A file is not there.
    #[error("{}: no such file; expected {expected}", path.display())]
    NoFile {
        /// The file, or the folder that should hold it.
        path: PathBuf,
        /// What was expected.
        expected: String,
    },
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds a pickled program, which is never run.
    #[error("{}: a pickle can run any program and is not read; expected a .safetensors file", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A file ends too early.
    #[error("{}: the file is truncated: it has {found} bytes, its header speaks of {expected}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes there.
        found: u64,
        /// Bytes of header and tensors.
        expected: u64,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is not in any of the files.
    #[error("{}: the tensor {tensor} is missing; expected one of shape {expected:?}", path.display())]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in the diffusers layout.
        tensor: String,
        /// Its shape.
        expected: Vec<u64>,
    },
    /// A tensor has another shape.
    #[error("{}: the tensor {tensor} has the shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// Its shape.
        found: Vec<u64>,
        /// The shape asked for.
        expected: Vec<u64>,
    },
    /// A tensor has elements of a type that weights do not have here.
    #[error("{}: the tensor {tensor} has elements of type {found}, expected {expected}", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// Its type.
        found: String,
        /// The types that are read.
        expected: &'static str,
    },
    /// A number does not fit the type of the graph.
    #[error("{}: element {index} of the tensor {tensor} is {value}, expected at most 65504 for f16", path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// Position, row-major.
        index: usize,
        /// The number.
        value: f32,
    },
    /// Two tensors stand for the same weight.
    #[error("{}: the tensor {tensor} is there twice", path.display())]
    Twice {
        /// The second file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A LoRA does something that is not merged here, or fits no layer of the model.
    #[error("{}: {key}: {reason}", path.display())]
    Lora {
        /// The file.
        path: PathBuf,
        /// The key in it.
        key: String,
        /// What does not fit.
        reason: String,
    },
    /// The place where a graph's weights go could not be written.
    #[error(transparent)]
    Graph(#[from] crate::graph::GraphError),
}
