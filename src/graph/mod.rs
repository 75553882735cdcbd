//! A typed ONNX builder. It knows operators, types and shapes, and no model.
//!
//! ```
//! use weir::graph::{DType, GraphBuilder};
//!
//! # fn main() -> Result<(), weir::graph::GraphError> {
//! let mut g = GraphBuilder::new("halve");
//! let frame = g.input("frame", DType::U8, [1, 64, 64, 3])?;
//! let x = g.cast(&frame, DType::F32)?;
//! let half = g.scope("halve", |g| g.mul_scalar(&x, 0.5))?;
//! let out = g.cast(&half, DType::U8)?;
//! g.output("frame_out", &out)?;
//! let onnx = g.finish()?.to_bytes()?;
//! # assert!(!onnx.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! A [`Tensor`] carries its type and shape; operators are methods of [`GraphBuilder`] that check them and infer the
//! result's. Errors name the scope in which the operator stands. Weights are inline ([`GraphBuilder::initializer`]) or
//! stay in a file of their own ([`GraphBuilder::external`]).

use std::path::PathBuf;

mod builder;
mod external;
mod footprint;
mod foreign;
mod model;
mod ops;
pub mod proto;
#[cfg(test)]
mod tests;
mod types;

pub use builder::{GraphBuilder, Tensor};
pub use external::{External, ExternalWriter};
pub use footprint::Footprint;
pub use foreign::{Foreign, ForeignPort};
pub use model::{Model, OPSET, check};
pub use ops::{Conv, Interpolation, Padding, Pool};
pub use types::{DType, Dim, Shape};

/// Why a graph could not be built or written. `at` is the scope and the operator, such as `unet.conv_in/Conv`.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// Element types do not fit.
    #[error("{at}: {reason}")]
    Dtype {
        /// Where.
        at: String,
        /// What does not fit.
        reason: String,
    },
    /// Shapes do not fit.
    #[error("{at}: {reason}")]
    Shape {
        /// Where.
        at: String,
        /// What does not fit.
        reason: String,
    },
    /// A weight's bytes do not fit its type and shape.
    #[error("{at}: {reason}")]
    Data {
        /// The weight.
        at: String,
        /// What does not fit.
        reason: String,
    },
    /// A name is taken or empty.
    #[error("the name {name:?} is taken or empty")]
    Name {
        /// The name.
        name: String,
    },
    /// A tensor of another builder was given.
    #[error("{at}: a tensor of another graph was given")]
    Foreign {
        /// Where.
        at: String,
    },
    /// The finished graph breaks a rule of the format.
    #[error("the graph is not valid: {0}")]
    Invalid(String),
    /// More than one message can hold.
    #[error("the model has {bytes} bytes, more than 2 GiB: keep its weights in another file")]
    TooLarge {
        /// Bytes of the model.
        bytes: usize,
    },
    /// A file could not be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
