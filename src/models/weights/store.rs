//! The weights of one network under the names of diffusers.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::file::{Format, SafeFile, Tensor};
use super::merge::Delta;
use super::original::View;
use super::{WeightsError, convert, merge};
use crate::graph::DType;

/// A weight: where it is stored, and what part of the stored tensor it is.
#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    stored: String,
    tensor: Tensor,
    view: View,
}

/// The weights of one network. Nothing is read but headers until a weight is asked for.
#[derive(Debug)]
pub struct Weights {
    /// Tells these weights from all others of the process.
    pub(super) id: u64,
    place: PathBuf,
    files: Vec<Arc<SafeFile>>,
    entries: BTreeMap<String, Entry>,
    deltas: HashMap<String, Vec<Delta>>,
    /// What was merged, for the fingerprint.
    merged: Vec<String>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Weights {
    /// The weights in one file, under the names in the file.
    ///
    /// # Errors
    /// [`WeightsError`] with what is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::of_files(path, vec![Arc::new(SafeFile::open(path)?)])
    }

    /// The weights in several files, under the names in the files. `place` stands in errors for all of them.
    pub(super) fn of_files(place: &Path, files: Vec<Arc<SafeFile>>) -> Result<Self, WeightsError> {
        let names = files
            .iter()
            .enumerate()
            .flat_map(|(i, file)| file.tensors.keys().map(move |name| (i, name.clone(), name.clone(), View::Whole)));
        let names: Vec<_> = names.collect();
        Self::new(place, files, names)
    }

    /// The weights of one file under other names: new name, name in the file, view.
    pub(super) fn of_names(file: Arc<SafeFile>, names: Vec<(String, String, View)>) -> Result<Self, WeightsError> {
        let place = file.path.clone();
        let names = names.into_iter().map(|(new, stored, view)| (0, new, stored, view)).collect();
        Self::new(&place, vec![file], names)
    }

    fn new(
        place: &Path,
        files: Vec<Arc<SafeFile>>,
        names: Vec<(usize, String, String, View)>,
    ) -> Result<Self, WeightsError> {
        let mut entries = BTreeMap::new();
        for (file, name, stored, view) in names {
            let path = &files[file].path;
            let Some(tensor) = files[file].tensors.get(&stored).cloned() else { continue };
            if view_shape(&tensor.shape, &view).is_none() {
                let reason = format!("the tensor {stored} of shape {:?} does not hold {name}", tensor.shape);
                return Err(WeightsError::Malformed { path: path.clone(), reason });
            }
            if entries.contains_key(&name) {
                return Err(WeightsError::Twice { path: path.clone(), tensor: name });
            }
            entries.insert(name, Entry { file, stored, tensor, view });
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self { id, place: place.to_path_buf(), files, entries, deltas: HashMap::new(), merged: Vec::new() })
    }

    /// The file or the folder that the weights are in.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// True when there is a weight called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of `name`.
    pub fn shape(&self, name: &str) -> Option<Vec<u64>> {
        let entry = self.entries.get(name)?;
        view_shape(&entry.tensor.shape, &entry.view)
    }

    /// How many bytes the weights have as they are stored.
    pub fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| view_bytes(entry).len() as u64).sum()
    }

    /// How many numbers there are.
    pub fn parameters(&self) -> u64 {
        self.entries.keys().filter_map(|name| self.shape(name)).map(|shape| shape.iter().product::<u64>()).sum()
    }

    /// The type that most of the bytes have, where it is one that is read.
    pub fn format(&self) -> Option<Format> {
        let bytes = |format: Format| -> usize {
            let of = self.entries.values().filter(|entry| entry.tensor.format == Ok(format));
            of.map(|entry| entry.tensor.bytes.len()).sum()
        };
        let most = [Format::F32, Format::F16, Format::Bf16].into_iter().max_by_key(|format| bytes(*format))?;
        (bytes(most) > 0).then_some(most)
    }

    /// A number that changes with the weights: names, types, shapes, sizes and times of the files, and what was merged.
    /// The elements themselves are not read.
    ///
    /// # Errors
    /// [`WeightsError::Io`] when a file has gone.
    pub fn fingerprint(&self) -> Result<[u8; 32], WeightsError> {
        let mut hash = Sha256::new();
        for file in &self.files {
            let io = |source| WeightsError::Io { path: file.path.clone(), source };
            let modified = file.path.metadata().and_then(|about| about.modified()).map_err(io)?;
            let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            hash.update(file.length().to_le_bytes());
            hash.update(since.as_nanos().to_le_bytes());
            hash.update(file.header());
        }
        for name in self.entries.keys().chain(&self.merged) {
            hash.update(name.as_bytes());
            hash.update([0]);
        }
        Ok(hash.finalize().into())
    }

    /// SHA-256 of what tells these weights as `dtype`, and everything merged into them, from all others: names, shapes, and of
    /// each file its device, inode, size and times when it was opened. The elements themselves are not read. `None` when a file
    /// was changed just now, so that its times say little.
    pub fn identity(&self, dtype: DType) -> Option<[u8; 32]> {
        let mut hash = Sha256::new();
        hash.update(dtype.code().to_le_bytes());
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for file in &self.files {
            part(&file.stamp()?.bytes());
            part(file.header());
        }
        for (name, entry) in &self.entries {
            part(name.as_bytes());
            part(entry.stored.as_bytes());
            part(format!("{:?}", entry.view).as_bytes());
        }
        self.merged.iter().for_each(|merged| part(merged.as_bytes()));
        let mut names: Vec<&String> = self.deltas.keys().collect();
        names.sort_unstable();
        for name in names {
            for delta in &self.deltas[name] {
                part(name.as_bytes());
                part(&delta.file.stamp()?.bytes());
                part(&delta.factor.to_le_bytes());
            }
        }
        Some(hash.finalize().into())
    }

    /// The elements of `name`, which must have `shape`, as `f32`, with everything merged.
    ///
    /// # Errors
    /// [`WeightsError`] when it is missing, has another shape or elements of another kind.
    pub fn read(&self, name: &str, shape: &[u64]) -> Result<Vec<f32>, WeightsError> {
        let (entry, format) = self.find(name, shape)?;
        let data = self.arranged(entry, format);
        let mut values = convert::to_f32(format, &data);
        if let Some(deltas) = self.deltas.get(name) {
            merge::add(&mut values, shape, deltas);
        }
        self.files[entry.file].release(&entry.tensor);
        Ok(values)
    }

    /// Gives the elements of `name`, which must have `shape`, to `take` as little-endian elements of `dtype`, `F32` or
    /// `F16`. Elements that are stored so already are given as they lie in the file.
    ///
    /// # Errors
    /// As [`Self::read`], those of `take`, and [`WeightsError::Range`].
    pub(super) fn give<R>(
        &self,
        name: &str,
        shape: &[u64],
        dtype: DType,
        take: impl FnOnce(Cow<'_, [u8]>) -> Result<R, WeightsError>,
    ) -> Result<R, WeightsError> {
        let (entry, format) = self.find(name, shape)?;
        let file = &self.files[entry.file];
        let range = |(index, value)| WeightsError::Range {
            path: file.path.clone(),
            tensor: entry.stored.clone(),
            index,
            value,
        };
        let same = matches!((format, dtype), (Format::F32, DType::F32) | (Format::F16, DType::F16));
        let taken = if self.deltas.contains_key(name) {
            take(convert::from_f32(&self.read(name, shape)?, dtype).map_err(range)?.into())
        } else if same {
            take(self.arranged(entry, format))
        } else {
            take(convert::convert(format, &self.arranged(entry, format), dtype).map_err(range)?.into())
        };
        file.release(&entry.tensor);
        taken
    }

    /// Checks that there is a weight `name` of `shape` whose elements can be read.
    ///
    /// # Errors
    /// [`WeightsError::Missing`], [`WeightsError::Shape`] or [`WeightsError::Dtype`].
    pub fn check(&self, name: &str, shape: &[u64]) -> Result<(), WeightsError> {
        self.find(name, shape).map(|_| ())
    }

    /// The entry of `name`, its shape and type checked.
    fn find(&self, name: &str, shape: &[u64]) -> Result<(&Entry, Format), WeightsError> {
        let entry = self.entries.get(name).ok_or_else(|| WeightsError::Missing {
            path: self.place.clone(),
            tensor: name.to_owned(),
            expected: shape.to_vec(),
        })?;
        let path = || self.files[entry.file].path.clone();
        let found = view_shape(&entry.tensor.shape, &entry.view).unwrap_or_default();
        if found != shape {
            let (tensor, expected) = (entry.stored.clone(), shape.to_vec());
            return Err(WeightsError::Shape { path: path(), tensor, found, expected });
        }
        let format = entry.tensor.format.clone().map_err(|found| WeightsError::Dtype {
            path: path(),
            tensor: entry.stored.clone(),
            found,
            expected: "f32, f16 or bf16",
        })?;
        Ok((entry, format))
    }

    /// The bytes of an entry in the order of its view.
    fn arranged(&self, entry: &Entry, format: Format) -> Cow<'_, [u8]> {
        let data = self.files[entry.file].data(&entry.tensor);
        match (&entry.view, entry.tensor.shape.as_slice()) {
            (View::Transposed, [rows, columns]) => {
                let (rows, columns, size) = (*rows as usize, *columns as usize, format.size());
                let mut turned = Vec::with_capacity(data.len());
                for column in 0..columns {
                    for row in 0..rows {
                        let at = (row * columns + column) * size;
                        turned.extend_from_slice(&data[at..at + size]);
                    }
                }
                turned.into()
            }
            _ => data[view_bytes(entry)].into(),
        }
    }

    /// Adds what a LoRA adds to `name`.
    pub(super) fn add_delta(&mut self, name: &str, delta: Delta) {
        self.deltas.entry(name.to_owned()).or_default().push(delta);
    }

    /// Notes that `what` was merged, and tells these weights from what they were.
    pub(super) fn merged(&mut self, what: String) {
        self.merged.push(what);
        self.id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    }
}

/// The shape of a view of a tensor; `None` when the tensor has no such view.
fn view_shape(shape: &[u64], view: &View) -> Option<Vec<u64>> {
    match (view, shape) {
        (View::Whole, _) => Some(shape.to_vec()),
        (View::Third(i), [rows, rest @ ..]) if rows % 3 == 0 && *i < 3 => {
            Some(std::iter::once(rows / 3).chain(rest.iter().copied()).collect())
        }
        (View::Transposed, [rows, columns]) => Some(vec![*columns, *rows]),
        (View::Matrix, [rows, columns, 1, 1]) => Some(vec![*rows, *columns]),
        (View::Matrix, [_] | [_, _]) => Some(shape.to_vec()),
        _ => None,
    }
}

/// The bytes of an entry's view within its tensor.
fn view_bytes(entry: &Entry) -> std::ops::Range<usize> {
    let length = entry.tensor.bytes.len();
    match entry.view {
        View::Third(i) => length / 3 * i as usize..length / 3 * (i as usize + 1),
        _ => 0..length,
    }
}
