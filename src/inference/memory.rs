//! Where a session's tensors are: memory of the host, or of a GPU behind a stream.

use std::sync::Arc;

use super::InferenceError;
use super::ffi::cuda::{Block as DeviceBlock, Pinned, Stream, Timer};
use super::ffi::{HostBlock, Place, Slot, Value};

/// The memory of one session.
pub(super) enum Memory {
    /// The host's. What is lent for a run is used where it lies.
    Host,
    /// The host's, used as a GPU's is: what is lent for a run is copied to and from addresses that stay.
    Staged,
    /// A GPU's.
    Cuda(Arc<Stream>),
}

/// A tensor at an address that stays.
pub(super) struct Tensor {
    /// As the runtime knows it. Before the block, so that it goes first.
    pub value: Value,
    block: Block,
}

enum Block {
    Host(HostBlock),
    Device(DeviceBlock),
}

/// Memory of the host for what goes to a tensor or comes from it.
pub(super) enum Staging {
    Host(HostBlock),
    Pinned(Pinned),
}

fn failed(error: impl std::fmt::Display) -> InferenceError {
    InferenceError::Run(error.to_string())
}

impl Memory {
    /// The memory in the runtime's words.
    pub fn place(&self) -> Result<Place, InferenceError> {
        let (name, id) = match self {
            Memory::Cuda(stream) => stream.place(),
            _ => (c"Cpu", 0),
        };
        Place::new(name, id).map_err(failed)
    }

    /// What takes the time of work on a GPU; `None` on the host.
    pub fn timer(&self) -> Result<Option<Timer>, InferenceError> {
        match self {
            Memory::Cuda(stream) => Timer::new(stream).map(Some).map_err(failed),
            _ => Ok(None),
        }
    }

    /// True when lent memory is copied to addresses that stay.
    pub fn staged(&self) -> bool {
        !matches!(self, Memory::Host)
    }

    /// Makes this thread one that may use the memory.
    pub fn enter(&self) -> Result<(), InferenceError> {
        match self {
            Memory::Cuda(stream) => stream.enter().map_err(failed),
            _ => Ok(()),
        }
    }

    /// A zeroed tensor of `bytes` bytes for `slot`.
    pub fn tensor(&self, place: &Place, slot: &Slot, bytes: usize) -> Result<Tensor, InferenceError> {
        match self {
            Memory::Cuda(stream) => {
                let block = DeviceBlock::new(stream, bytes).map_err(failed)?;
                let value = Value::device(place, slot, &block).map_err(failed)?;
                Ok(Tensor { value, block: Block::Device(block) })
            }
            _ => {
                let block = HostBlock::new(bytes);
                let value = Value::host(place, slot, &block).map_err(failed)?;
                Ok(Tensor { value, block: Block::Host(block) })
            }
        }
    }

    /// Staging for `bytes` bytes; `None` where there is no need for any.
    pub fn staging(&self, bytes: usize) -> Result<Option<Staging>, InferenceError> {
        match self {
            Memory::Host => Ok(None),
            Memory::Staged => Ok(Some(Staging::Host(HostBlock::new(bytes)))),
            Memory::Cuda(stream) => {
                Pinned::new(stream, bytes).map(|pinned| Some(Staging::Pinned(pinned))).map_err(failed)
            }
        }
    }

    /// Copies to a tensor, behind everything that was asked of the device before.
    pub fn upload(&self, to: &mut Tensor, from: &mut Staging) -> Result<(), InferenceError> {
        match (self, &mut to.block, from) {
            (Memory::Cuda(stream), Block::Device(to), Staging::Pinned(from)) => stream.upload(to, from).map_err(failed),
            (_, Block::Host(to), Staging::Host(from)) => {
                to.bytes_mut().copy_from_slice(from.bytes());
                Ok(())
            }
            _ => Err(failed("memory of two devices")),
        }
    }

    /// Copies from a tensor, behind everything that was asked of the device before.
    pub fn download(&self, to: &mut Staging, from: &Tensor) -> Result<(), InferenceError> {
        match (self, to, &from.block) {
            (Memory::Cuda(stream), Staging::Pinned(to), Block::Device(from)) => {
                stream.download(to, from).map_err(failed)
            }
            (_, Staging::Host(to), Block::Host(from)) => {
                to.bytes_mut().copy_from_slice(from.bytes());
                Ok(())
            }
            _ => Err(failed("memory of two devices")),
        }
    }

    /// Copies between two tensors, behind everything that was asked of the device before.
    pub fn copy(&self, to: &mut Tensor, from: &Tensor) -> Result<(), InferenceError> {
        match (self, &mut to.block, &from.block) {
            (Memory::Cuda(stream), Block::Device(to), Block::Device(from)) => stream.copy(to, from).map_err(failed),
            (_, Block::Host(to), Block::Host(from)) => {
                to.bytes_mut().copy_from_slice(from.bytes());
                Ok(())
            }
            _ => Err(failed("memory of two devices")),
        }
    }

    /// Zeroes a tensor, behind everything that was asked of the device before.
    pub fn zero(&self, tensor: &mut Tensor) -> Result<(), InferenceError> {
        match (self, &mut tensor.block) {
            (Memory::Cuda(stream), Block::Device(block)) => stream.zero(block).map_err(failed),
            (_, Block::Host(block)) => {
                block.bytes_mut().fill(0);
                Ok(())
            }
            _ => Err(failed("memory of two devices")),
        }
    }

    /// Writes `data` to a tensor and waits until it is there. Not for frames.
    pub fn write(&self, to: &mut Tensor, data: &[u8]) -> Result<(), InferenceError> {
        if let (Memory::Host, Block::Host(block)) = (self, &mut to.block) {
            block.bytes_mut().copy_from_slice(data);
            return Ok(());
        }
        self.enter()?;
        let mut staging = self.staging(data.len())?.ok_or_else(|| failed("no memory to copy from"))?;
        staging.fill(data)?;
        self.upload(to, &mut staging)
        // The staging waits for its copy as it is freed.
    }

    /// How often the host waited for the device.
    pub fn waits(&self) -> u64 {
        match self {
            Memory::Cuda(stream) => stream.waits(),
            _ => 0,
        }
    }
}

impl Staging {
    /// Puts `data` there.
    pub fn fill(&mut self, data: &[u8]) -> Result<(), InferenceError> {
        let room = match self {
            Staging::Host(block) => block.bytes_mut(),
            Staging::Pinned(pinned) => pinned.bytes_mut().map_err(failed)?,
        };
        room.copy_from_slice(data);
        Ok(())
    }

    /// Takes what is there to `data`, once it is there.
    pub fn take(&self, data: &mut [u8]) -> Result<(), InferenceError> {
        let there = match self {
            Staging::Host(block) => block.bytes(),
            Staging::Pinned(pinned) => pinned.bytes().map_err(failed)?,
        };
        data.copy_from_slice(there);
        Ok(())
    }
}
