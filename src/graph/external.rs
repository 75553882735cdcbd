//! Weights in a file beside the model.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::GraphError;

/// Where a weight's elements are: part of a file in the model's own folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// The file's name, relative to the folder of the model.
    pub location: String,
    /// First byte. A multiple of the element's size; of 4096 where the file can be mapped into memory.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Writes weights one after another into one file, each at a multiple of [`ExternalWriter::ALIGNMENT`] so that a runtime
/// can map it. Nothing but the weight in hand is held in memory.
pub struct ExternalWriter {
    file: BufWriter<File>,
    path: PathBuf,
    location: String,
    at: u64,
}

impl ExternalWriter {
    /// Bytes of which every weight's place is a multiple: a memory page.
    pub const ALIGNMENT: u64 = 4096;

    /// Starts the file at `path`. Models refer to it by its last component.
    ///
    /// # Errors
    /// [`GraphError::Io`].
    pub fn create(path: &Path) -> Result<Self, GraphError> {
        let io = |source| GraphError::Io { path: path.to_path_buf(), source };
        let location = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| io(std::io::Error::other("not the name of a file")))?;
        let file = BufWriter::new(File::create(path).map_err(io)?);
        Ok(Self { file, path: path.to_path_buf(), location: location.to_owned(), at: 0 })
    }

    /// As [`Self::create`]; models refer to it by `name`.
    ///
    /// # Errors
    /// [`GraphError::Io`].
    pub fn named(path: &Path, name: &str) -> Result<Self, GraphError> {
        Ok(Self { location: name.to_owned(), ..Self::create(path)? })
    }

    /// Adds a weight and says where it is.
    ///
    /// # Errors
    /// [`GraphError::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<External, GraphError> {
        let io = |source| GraphError::Io { path: self.path.clone(), source };
        let offset = self.at.next_multiple_of(Self::ALIGNMENT);
        let gap = [0; Self::ALIGNMENT as usize];
        self.file.write_all(&gap[..(offset - self.at) as usize]).map_err(io)?;
        self.file.write_all(bytes).map_err(io)?;
        self.at = offset + bytes.len() as u64;
        Ok(External { location: self.location.clone(), offset, length: bytes.len() as u64 })
    }

    /// Puts everything that was added on disk; more may follow.
    ///
    /// # Errors
    /// [`GraphError::Io`].
    pub fn sync(&mut self) -> Result<(), GraphError> {
        let io = |source| GraphError::Io { path: self.path.clone(), source };
        self.file.flush().map_err(io)?;
        self.file.get_ref().sync_data().map_err(io)
    }

    /// Ends the file, on disk.
    ///
    /// # Errors
    /// [`GraphError::Io`].
    pub fn finish(self) -> Result<(), GraphError> {
        let Self { file, path, .. } = self;
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(|source| GraphError::Io { path, source })
    }
}
