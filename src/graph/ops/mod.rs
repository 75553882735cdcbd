//! The operators, by family. Each checks its operands and gives the handle of its result; the formulas are those of the
//! ONNX operator set [`OPSET`](super::OPSET) unless the method says otherwise.

mod elementwise;
mod layout;
mod linear;
mod norm;
mod resize;

pub use layout::Padding;
pub use linear::{Conv, Pool};
pub use resize::Interpolation;

use super::{GraphBuilder, GraphError, Shape, Tensor};

impl GraphBuilder {
    /// `axis` of a tensor of `rank` dimensions as an index; negative ones count from the end.
    fn axis(&self, op: &str, axis: i64, rank: usize) -> Result<usize, GraphError> {
        let index = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(index) {
            Ok(index) if index < rank => Ok(index),
            _ => Err(self.shape_error(op, format!("axis {axis} does not exist in {rank} dimensions"))),
        }
    }

    /// The shape in numbers, for operators that need them while the graph is built.
    fn fixed(&self, op: &str, tensor: &Tensor) -> Result<Vec<u64>, GraphError> {
        tensor.shape().fixed().ok_or_else(|| {
            self.shape_error(op, format!("shape {} must be known while the graph is built", tensor.shape()))
        })
    }

    fn float_only(&self, op: &str, tensor: &Tensor) -> Result<(), GraphError> {
        if tensor.dtype().is_float() {
            return Ok(());
        }
        Err(self.dtype_error(op, format!("floats are needed, not {}", tensor.dtype())))
    }

    fn same_dtype(&self, op: &str, a: &Tensor, b: &Tensor) -> Result<(), GraphError> {
        if a.dtype() == b.dtype() {
            return Ok(());
        }
        Err(self.dtype_error(op, format!("{} and {} do not mix; cast one", a.dtype(), b.dtype())))
    }

    fn rank(&self, op: &str, tensor: &Tensor, rank: usize) -> Result<(), GraphError> {
        if tensor.rank() == rank {
            return Ok(());
        }
        Err(self.shape_error(op, format!("{rank} dimensions are needed, not {}", tensor.shape())))
    }

    fn broadcast(&self, op: &str, a: &Tensor, b: &Tensor) -> Result<Shape, GraphError> {
        a.shape()
            .broadcast(b.shape())
            .ok_or_else(|| self.shape_error(op, format!("{} and {} do not broadcast", a.shape(), b.shape())))
    }
}
