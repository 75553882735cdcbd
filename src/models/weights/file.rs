//! One `.safetensors` file.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use super::WeightsError;
use super::ffi::Mapped;

/// Types of elements that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
}

impl Format {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::Bf16 => 2,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
        })
    }
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// Type of the elements; `Err` with its name when it is none of [`Format`].
    pub format: Result<Format, String>,
    pub shape: Vec<u64>,
    /// Bytes of the file.
    pub bytes: Range<usize>,
}

/// A file, its header read and checked: every tensor lies inside the file and has as many bytes as its shape says.
pub(super) struct SafeFile {
    pub path: PathBuf,
    pub tensors: HashMap<String, Tensor>,
    /// The texts that the header carries beside the tensors.
    pub notes: HashMap<String, String>,
    mapped: Mapped,
    header: Range<usize>,
}

impl fmt::Debug for SafeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} tensors)", self.path.display(), self.tensors.len())
    }
}

impl SafeFile {
    /// Maps the file at `path` and reads its header.
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io { path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                WeightsError::NoFile { path: path.to_path_buf(), expected: "a .safetensors file".to_owned() }
            }
            _ => io(source),
        })?;
        if !file.metadata().map_err(io)?.is_file() {
            let reason = "a folder, expected a .safetensors file".to_owned();
            return Err(WeightsError::Malformed { path: path.to_path_buf(), reason });
        }
        let mut start = [0; 4];
        let length = file.read(&mut start).map_err(io)?;
        if is_pickle(path, &start[..length]) {
            return Err(WeightsError::Pickle { path: path.to_path_buf() });
        }
        let mapped = Mapped::new(&file).map_err(io)?;
        let (header, tensors, notes) = header(path, mapped.bytes())?;
        Ok(Self { path: path.to_path_buf(), tensors, notes, mapped, header })
    }

    /// The elements of `tensor`, little-endian.
    pub(super) fn data(&self, tensor: &Tensor) -> &[u8] {
        // The header was checked against the file's length.
        self.mapped.bytes().get(tensor.bytes.clone()).unwrap_or_default()
    }

    /// Says that `tensor` has been read.
    pub(super) fn release(&self, tensor: &Tensor) {
        self.mapped.release(tensor.bytes.start, tensor.bytes.len());
    }

    /// The header's bytes: names, types, shapes and places.
    pub(super) fn header(&self) -> &[u8] {
        self.mapped.bytes().get(self.header.clone()).unwrap_or_default()
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.mapped.bytes().len() as u64
    }
}

type Header = (Range<usize>, HashMap<String, Tensor>, HashMap<String, String>);

/// Reads the header of the file `bytes`, which is called `path` in errors.
pub(super) fn header(path: &Path, bytes: &[u8]) -> Result<Header, WeightsError> {
    let malformed = |reason: String| WeightsError::Malformed { path: path.to_path_buf(), reason };
    let (length, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| match error {
        safetensors::SafeTensorError::MetadataIncompleteBuffer
        | safetensors::SafeTensorError::InvalidHeaderLength
        | safetensors::SafeTensorError::HeaderTooSmall => truncated(path, bytes),
        other => malformed(format!("not a .safetensors file: {other}")),
    })?;
    let start = length + 8;
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let tensor = Tensor {
            format: match info.dtype {
                Dtype::F32 => Ok(Format::F32),
                Dtype::F16 => Ok(Format::F16),
                Dtype::BF16 => Ok(Format::Bf16),
                other => Err(format!("{other:?}").to_lowercase()),
            },
            shape: info.shape.iter().map(|&n| n as u64).collect(),
            bytes: start + info.data_offsets.0..start + info.data_offsets.1,
        };
        (name, tensor)
    });
    Ok((8..start, tensors.collect(), metadata.metadata().clone().unwrap_or_default()))
}

/// The error of a file whose length is not what its header says. Longer ones are no less wrong.
fn truncated(path: &Path, bytes: &[u8]) -> WeightsError {
    let found = bytes.len() as u64;
    let header = bytes.first_chunk::<8>().map_or(0, |n| u64::from_le_bytes(*n));
    let stop = header.saturating_add(8);
    let end = bytes.get(8..usize::try_from(stop).unwrap_or(usize::MAX)).and_then(|text| {
        let tensors: HashMap<String, serde_json::Value> = serde_json::from_slice(text).ok()?;
        tensors.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64()).max()
    });
    let expected = stop.saturating_add(end.unwrap_or(0));
    if header > 100_000_000 || found >= expected {
        let reason = format!("not a .safetensors file: {found} bytes do not fit its header, {expected} do");
        return WeightsError::Malformed { path: path.to_path_buf(), reason };
    }
    WeightsError::Truncated { path: path.to_path_buf(), found, expected }
}

/// True for what PyTorch's own format looks like, by name or by content: a pickle, or an archive of them.
pub(super) fn is_pickle(path: &Path, start: &[u8]) -> bool {
    let named = path
        .extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| ["bin", "ckpt", "pt", "pth", "pkl"].contains(&extension.to_lowercase().as_str()));
    // The archive, and protocols 2 to 5. The header of a .safetensors file of 624 to 640 bytes begins so by chance.
    let archive = start.starts_with(b"PK\x03\x04");
    let pickled = matches!(start, [0x80, 2..=5, third, ..] if *third != 0);
    named || archive || pickled
}
