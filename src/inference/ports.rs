//! Inputs and outputs of a loaded graph: found by name, checked once, given for each run.

use std::ffi::CString;
use std::marker::PhantomData;

use ort::sys::ONNXTensorElementDataType;
use ort::value::{Outlet, TensorElementType};

use super::InferenceError;
use super::ffi::{self, Slot};

/// A number that tensors hold. Implemented for `u8`, `i32`, `i64`, `f32` and [`half::f16`].
pub trait Element: sealed::Sealed + Copy + 'static {
    #[doc(hidden)]
    const KIND: TensorElementType;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($number:ty => $kind:ident),*) => {
        $(
            impl sealed::Sealed for $number {}
            impl Element for $number {
                const KIND: TensorElementType = TensorElementType::$kind;
            }
        )*
    };
}

elements!(u8 => Uint8, i32 => Int32, i64 => Int64, f32 => Float32, half::f16 => Float16);

/// An input or output of a loaded graph, as the graph declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its element type in ONNX's words, such as `Uint8`.
    pub element: String,
    /// Its dimensions; −1 where the graph leaves one open.
    pub shape: Vec<i64>,
}

/// An input of type `T` that was found in the graph with the right shape.
#[derive(Debug)]
pub struct Input<T> {
    pub(super) session: u64,
    pub(super) index: usize,
    pub(super) marker: PhantomData<fn() -> T>,
}

/// An output of type `T` that was found in the graph with the right shape.
#[derive(Debug)]
pub struct Output<T> {
    pub(super) session: u64,
    pub(super) index: usize,
    pub(super) marker: PhantomData<fn() -> T>,
}

/// An input's data for one run.
pub struct Feed<'a> {
    pub(super) session: u64,
    pub(super) index: usize,
    pub(super) bytes: &'a [u8],
}

/// Where an output goes in one run.
pub struct Fetch<'a> {
    pub(super) session: u64,
    pub(super) index: usize,
    pub(super) bytes: &'a mut [u8],
}

impl<T: Element> Input<T> {
    /// `data`, to be read in the next run without a copy on the CPU provider.
    pub fn feed<'a>(&self, data: &'a [T]) -> Feed<'a> {
        Feed { session: self.session, index: self.index, bytes: ffi::bytes_of(data) }
    }
}

impl<T: Element> Output<T> {
    /// `data`, to be written in the next run without a copy on the CPU provider.
    pub fn fetch<'a>(&self, data: &'a mut [T]) -> Fetch<'a> {
        Fetch { session: self.session, index: self.index, bytes: ffi::bytes_of_mut(data) }
    }
}

/// An input or output as its session keeps it.
pub(super) struct Side {
    pub port: Port,
    kind: TensorElementType,
    /// Set once the caller named the port.
    pub slot: Option<Slot>,
    /// Bytes of the slot's shape.
    pub bytes: usize,
    /// Marks the ports given in the current run.
    pub given: bool,
}

impl Side {
    pub fn new(outlet: &Outlet) -> Result<Self, InferenceError> {
        let name = outlet.name().to_owned();
        let (Some(kind), Some(shape)) = (outlet.dtype().tensor_type(), outlet.dtype().tensor_shape()) else {
            return Err(InferenceError::Port { name, reason: "it is not a tensor".to_owned() });
        };
        let port = Port { name, element: format!("{kind:?}"), shape: shape.to_vec() };
        Ok(Self { port, kind, slot: None, bytes: 0, given: false })
    }

    pub fn error(&self, reason: impl Into<String>) -> InferenceError {
        InferenceError::Port { name: self.port.name.clone(), reason: reason.into() }
    }
}

/// The port called `name` of type `T` and `shape`, and whether it had another size before.
pub(super) fn claim<T: Element>(
    sides: &mut [Side],
    what: &str,
    name: &str,
    shape: &[i64],
) -> Result<(usize, bool), InferenceError> {
    let wrong = |reason: String| InferenceError::Port { name: name.to_owned(), reason };
    let Some(index) = sides.iter().position(|side| side.port.name == name) else {
        let there: Vec<_> = sides.iter().map(|side| side.port.name.as_str()).collect();
        return Err(wrong(format!("the graph has no such {what}; it has {}", there.join(", "))));
    };
    let side = &mut sides[index];
    if side.kind != T::KIND {
        return Err(wrong(format!("the graph has {:?}, not {:?}", side.kind, T::KIND)));
    }
    let declared = &side.port.shape;
    let fits = declared.len() == shape.len()
        && declared.iter().zip(shape).all(|(&is, &want)| want >= 0 && (is == want || is < 0));
    if !fits {
        return Err(wrong(format!("the graph has shape {declared:?}, not {shape:?}")));
    }
    let bytes = shape
        .iter()
        .try_fold(size_of::<T>(), |product, &dimension| product.checked_mul(usize::try_from(dimension).ok()?))
        .ok_or_else(|| wrong(format!("shape {shape:?} is too large")))?;
    let slot_name = CString::new(name).map_err(|_| wrong("its name contains a zero byte".to_owned()))?;
    side.slot = Some(Slot { name: slot_name, kind: ONNXTensorElementDataType::from(T::KIND), shape: shape.to_vec() });
    let changed = side.bytes != bytes;
    side.bytes = bytes;
    Ok((index, changed))
}

/// The port `index`, if it is `own`, was named, and has so many bytes.
pub(super) fn side(sides: &mut [Side], own: bool, index: usize, bytes: usize) -> Result<&mut Side, InferenceError> {
    let side = sides
        .get_mut(index)
        .filter(|side| own && side.slot.is_some())
        .ok_or_else(|| InferenceError::Run("a port of another session was given".to_owned()))?;
    if side.bytes != bytes {
        return Err(side.error(format!("{bytes} bytes were given, {} are needed", side.bytes)));
    }
    Ok(side)
}

/// Notes which ports the current run gives, each once and with the right length.
pub(super) fn mark(
    sides: &mut [Side],
    given: impl Iterator<Item = (bool, usize, usize)>,
) -> Result<(), InferenceError> {
    for side in sides.iter_mut() {
        side.given = false;
    }
    for (own, index, bytes) in given {
        let side = side(sides, own, index, bytes)?;
        if side.given {
            return Err(side.error("it is given twice"));
        }
        side.given = true;
    }
    Ok(())
}
