//! ONNX Runtime: the library, its providers, and sessions whose inputs and outputs are checked once and then run over
//! the caller's own buffers.
//!
//! The library is loaded at run time and once a process, see [`Runtime::load`]. Graphs run on the provider that
//! [`Config`] names or not at all: a provider that cannot load is an [`InferenceError`] with the library's own words.
//!
//! ```no_run
//! # fn main() -> Result<(), weir::inference::InferenceError> {
//! use weir::inference::{Config, Runtime, Session};
//!
//! let config = Config::default();
//! let mut session = Session::from_file(Runtime::load(&config)?, &config, "double.onnx".as_ref())?;
//! let x = session.input::<f32>("x", &[1, 4])?;
//! let y = session.output::<f32>("y", &[1, 4])?;
//! let (a, mut b) = ([1.0_f32; 4], [0.0_f32; 4]);
//! session.run(&[x.feed(&a)], &mut [y.fetch(&mut b)])?;
//! # Ok(())
//! # }
//! ```

mod bound;
mod budget;
mod config;
mod device;
mod engines;
mod ffi;
mod library;
mod memory;
mod ports;
mod provider;
mod session;

pub use budget::Needs;
pub use config::*;
pub use device::{Gpu, gpu};
pub use engines::{engine_folder, engines_kept, together};
pub use library::{Runtime, probe};
pub use ports::{Element, Feed, Fetch, Input, Output, Port};
pub use session::{Graph, Load, Session};

/// What can go wrong between a graph and its result.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// No library in any of the usual places.
    #[error("ONNX Runtime was not found ({tried}); run scripts/setup, or name libonnxruntime.so in the configuration")]
    NotFound {
        /// The places looked at, and what the system's loader said.
        tried: String,
    },
    /// The file is there but is not a library that loads.
    #[error("{path} is not a loadable ONNX Runtime: {message}; run scripts/setup, or name another libonnxruntime.so")]
    Unloadable {
        /// The file.
        path: String,
        /// The loader's own message.
        message: String,
    },
    /// The library speaks an older interface than this program needs.
    #[error("{path} is ONNX Runtime {version}, 1.{needed} or later is needed; run scripts/setup")]
    TooOld {
        /// The file.
        path: String,
        /// Its version.
        version: String,
        /// The minor version needed.
        needed: u32,
    },
    /// A process holds one library for its life, and this is not that one.
    #[error("ONNX Runtime is already loaded from {loaded}, {wanted} cannot be loaded beside it")]
    AlreadyLoaded {
        /// In use.
        loaded: String,
        /// Asked for.
        wanted: String,
    },
    /// The provider cannot be used: its library, the GPU or the driver is missing.
    #[error("the {provider} provider cannot load: {message}")]
    Provider {
        /// The provider asked for.
        provider: Provider,
        /// The library's own message.
        message: String,
    },
    /// Something that the provider needs is not there. Known before anything is loaded.
    #[error("the {provider} provider cannot be used: {what}; {remedy}")]
    Missing {
        /// The provider asked for.
        provider: Provider,
        /// What is missing, and how that is known.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The graph takes more memory than is free. Known before it is loaded.
    #[error("{0}")]
    Memory(String),
    /// The graph was refused.
    #[error("the graph cannot load: {0}")]
    Model(String),
    /// The graph has no such input or output, or of another type or shape.
    #[error("{name}: {reason}")]
    Port {
        /// Of the input or output.
        name: String,
        /// What differs.
        reason: String,
    },
    /// One run failed; the session stays usable.
    #[error("the graph failed: {0}")]
    Run(String),
}
