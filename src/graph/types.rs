//! Element types, shapes and the rule of broadcasting.

use std::fmt;
use std::sync::Arc;

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float (IEEE 754 binary16).
    F16,
    /// Unsigned byte.
    U8,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// True or false, one byte.
    Bool,
}

impl DType {
    /// The number that stands for it in ONNX files (`TensorProto.DataType`).
    pub fn code(self) -> i32 {
        match self {
            DType::F32 => 1,
            DType::U8 => 2,
            DType::I32 => 6,
            DType::I64 => 7,
            DType::Bool => 9,
            DType::F16 => 10,
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::U8 | DType::Bool => 1,
            DType::F16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::I64 => 8,
        }
    }

    /// True for `F32` and `F16`.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::U8 => "u8",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::Bool => "bool",
        })
    }
}

/// One dimension of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// So many.
    Fixed(u64),
    /// A number known only at run time; equal names are equal numbers.
    Symbol(Arc<str>),
}

impl Dim {
    /// A dimension known only at run time.
    pub fn symbol(name: &str) -> Self {
        Dim::Symbol(name.into())
    }

    /// The number, where it is known.
    pub fn fixed(&self) -> Option<u64> {
        match self {
            Dim::Fixed(n) => Some(*n),
            Dim::Symbol(_) => None,
        }
    }
}

impl From<u64> for Dim {
    fn from(n: u64) -> Self {
        Dim::Fixed(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(name) => f.write_str(name),
        }
    }
}

/// The dimensions of a tensor, outermost first. No dimension means a scalar.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape(Arc<[Dim]>);

impl Shape {
    /// A shape of these dimensions.
    pub fn new(dims: impl IntoIterator<Item = Dim>) -> Self {
        Self(dims.into_iter().collect())
    }

    /// The dimensions.
    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// How many dimensions there are.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Every dimension as a number, or `None` when one is symbolic.
    pub fn fixed(&self) -> Option<Vec<u64>> {
        self.0.iter().map(Dim::fixed).collect()
    }

    /// How many elements there are; `None` when a dimension is symbolic or the product does not fit.
    pub fn elements(&self) -> Option<u64> {
        self.0.iter().try_fold(1_u64, |product, dim| product.checked_mul(dim.fixed()?))
    }

    /// The shape of an elementwise result of two shapes by the rule of NumPy and ONNX: shapes are aligned at their last
    /// dimension, and a dimension of 1 stretches to the other's. A symbol meets itself or 1. `None` when they do not fit.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let at = |shape: &Shape, i: usize| match (i + shape.rank()).checked_sub(rank) {
            Some(own) => shape.0[own].clone(),
            None => Dim::Fixed(1),
        };
        let dims: Option<Vec<Dim>> = (0..rank)
            .map(|i| match (at(self, i), at(other, i)) {
                (a, b) if a == b => Some(a),
                (Dim::Fixed(1), b) => Some(b),
                (a, Dim::Fixed(1)) => Some(a),
                _ => None,
            })
            .collect();
        dims.map(Shape::new)
    }
}

impl From<&[u64]> for Shape {
    fn from(dims: &[u64]) -> Self {
        Shape::new(dims.iter().map(|&n| Dim::Fixed(n)))
    }
}

impl<const N: usize> From<[u64; N]> for Shape {
    fn from(dims: [u64; N]) -> Self {
        Shape::from(dims.as_slice())
    }
}

impl<const N: usize> From<[Dim; N]> for Shape {
    fn from(dims: [Dim; N]) -> Self {
        Shape::new(dims)
    }
}

impl From<Vec<u64>> for Shape {
    fn from(dims: Vec<u64>) -> Self {
        Shape::from(dims.as_slice())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
