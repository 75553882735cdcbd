//! One `.safetensors` file.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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
    stamp: Option<Stamp>,
}

/// What tells a file's content from that of every other file, and of the same file at other times: device, inode, bytes, times
/// of the last change of its content and of itself in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp([i128; 5]);

impl Stamp {
    /// `None` for a file that was changed just now: a further change might leave the same times.
    fn of(about: &std::fs::Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let (content, itself) = (nanos(about.mtime(), about.mtime_nsec()), nanos(about.ctime(), about.ctime_nsec()));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Clocks of files go on in steps of a few milliseconds, or of whole seconds.
        let step = if about.ctime_nsec() == 0 { Duration::from_secs(2) } else { Duration::from_millis(50) };
        let settled = i128::try_from(now.saturating_sub(step).as_nanos()).unwrap_or(0) > content.max(itself);
        settled.then_some(Self([about.dev().into(), about.ino().into(), about.len().into(), content, itself]))
    }

    pub(super) fn bytes(self) -> [u8; 80] {
        let mut bytes = [0; 80];
        self.0.iter().zip(bytes.as_chunks_mut::<16>().0).for_each(|(n, to)| *to = n.to_le_bytes());
        bytes
    }
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
        // Before anything is read: what is written later only makes another file of it.
        let about = file.metadata().map_err(io)?;
        if !about.is_file() {
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
        Ok(Self { path: path.to_path_buf(), tensors, notes, mapped, header, stamp: Stamp::of(&about) })
    }

    /// See [`Stamp`].
    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.stamp
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
