//! The calls that have no safe form: into ONNX Runtime where `ort` offers none, into CUDA's driver, and memory that the two
//! share with this program.
#![allow(unsafe_code)]

mod bind;
pub(super) mod cuda;
mod host;
mod library;

pub(super) use bind::{Binding, Lent, Place, Slot, Value, on_stream, tensorrt_on_stream};
pub(super) use host::{Block as HostBlock, bytes_of, bytes_of_mut};
pub(super) use library::{keep, library_version, tensorrt_version};
