//! What travels along links while a plan is lowered.

use std::any::Any;
use std::sync::Arc;

use super::stage::WidgetRef;
use crate::graph::DType;

/// A tensor of some stage. [`Cx::bring`](super::Cx::bring) makes it a tensor of the stage at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sym(pub(super) usize);

/// Something that is no tensor: a loaded model, a conditioning. What hangs on it as tensors is held as [`Sym`]s.
pub trait Held: Any + Send + Sync {
    /// For [`Cx::held`](super::Cx::held).
    fn as_any(&self) -> &dyn Any;
}

impl<T: Any + Send + Sync> Held for T {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What an output gives.
#[derive(Clone)]
pub enum Value {
    /// A tensor: IMAGE f32 (B, H, W, C), MASK f32 (B, H, W), LATENT f32 (B, C, h, w), or a number that is not known yet, f32 ().
    Tensor(Sym),
    /// A whole number that is known.
    Int(i64),
    /// A number that is known.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text that is known.
    Text(String),
    /// Whatever stands in a widget of another node.
    Widget(WidgetRef),
    /// Something that is no tensor.
    Held(Arc<dyn Held>),
    /// Nothing, such as the output of a node that has none.
    Nothing,
}

impl Value {
    /// Something that is no tensor.
    pub fn held<T: Any + Send + Sync>(it: T) -> Self {
        Value::Held(Arc::new(it))
    }
}

/// Elements of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Bytes.
    U8(Vec<u8>),
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
}

impl Data {
    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            Data::U8(_) => DType::U8,
            Data::F32(_) => DType::F32,
            Data::I64(_) => DType::I64,
        }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Data::U8(data) => data.len(),
            Data::F32(data) => data.len(),
            Data::I64(data) => data.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// So many zeros.
    ///
    /// Other types than those of this enum are taken as bytes.
    pub fn zeros(dtype: DType, elements: usize) -> Self {
        match dtype {
            DType::F32 => Data::F32(vec![0.0; elements]),
            DType::I64 => Data::I64(vec![0; elements]),
            _ => Data::U8(vec![0; elements * dtype.size()]),
        }
    }
}
