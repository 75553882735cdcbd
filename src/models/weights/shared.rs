//! Files of weights that several graphs share, also those of another workflow: what one has written the next one finds.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};

use super::{Pool, Reader, Weights};
use crate::graph::{DType, GraphError};

type Known = HashMap<(PathBuf, [u8; 32]), Weak<SharedPool>>;

/// The files that are in use. Nothing is kept that nobody holds.
static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A file with weights of one [identity](Weights::identity), on disk until nobody holds it. Graphs refer to it by
/// [`Self::name`] in their own folder, where [`Self::link`] puts it.
pub struct SharedPool {
    path: PathBuf,
    name: String,
    /// `None` once something could not be written: what is behind it then is not known.
    pool: Mutex<Option<Pool>>,
    /// Held as long as the process lives, so that others know what a dead one left behind.
    _lock: Flock<File>,
}

/// How files of weights begin.
const PREFIX: &str = "weights-";

impl SharedPool {
    /// The file of `weights` as numbers of `dtype`, below `folder`: the one that is in use, or a new one. Weights that cannot be
    /// told from others have one of their own.
    ///
    /// # Errors
    /// [`GraphError::Io`].
    pub fn of(folder: &Path, weights: &Weights, dtype: DType) -> Result<Arc<Self>, GraphError> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let Some(identity) = weights.identity(dtype) else {
            return Ok(Arc::new(Self::create(folder, number, format!("{}-{number}", std::process::id()))?));
        };
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        known.retain(|_, pool| pool.strong_count() > 0);
        let key = (folder.to_path_buf(), identity);
        if let Some(pool) = known.get(&key).and_then(Weak::upgrade)
            && pool.pool.lock().unwrap_or_else(PoisonError::into_inner).is_some()
        {
            return Ok(pool);
        }
        let name = identity.iter().map(|byte| format!("{byte:02x}")).collect();
        let pool = Arc::new(Self::create(folder, number, name)?);
        known.insert(key, Arc::downgrade(&pool));
        Ok(pool)
    }

    fn create(folder: &Path, number: u64, name: String) -> Result<Self, GraphError> {
        let io = |source| GraphError::Io { path: folder.to_path_buf(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        sweep(folder);
        // Graphs know the file by another name than the disk. Processes of several containers may have one number.
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let path = folder.join(format!("{PREFIX}{}-{:x}-{number}", std::process::id(), time.as_nanos()));
        let inside = Pool::named(&path, &format!("{name}.weights"))?;
        let lock = File::open(&path).and_then(|file| {
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| std::io::Error::from(error))
        });
        Ok(Self { path, name: format!("{name}.weights"), pool: Mutex::new(Some(inside)), _lock: lock.map_err(io)? })
    }

    /// What graphs call the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many weights are in it.
    pub fn placed(&self) -> usize {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Pool::placed)
    }

    /// Puts the file, as it is now and as it grows, beside the graphs in `folder`: a second name of it, or where the disk has no
    /// such thing a copy, after [`Self::with`].
    ///
    /// # Errors
    /// [`GraphError::Io`].
    pub fn link(&self, folder: &Path) -> Result<(), GraphError> {
        let to = folder.join(&self.name);
        if std::fs::hard_link(&self.path, &to).is_ok() {
            return Ok(());
        }
        // It may be there already, for another node of the same workflow.
        let _ = std::fs::remove_file(&to);
        let linked = std::fs::hard_link(&self.path, &to).or_else(|_| std::fs::copy(&self.path, &to).map(|_| ()));
        linked.map_err(|source| GraphError::Io { path: to, source })
    }

    /// Lets `read` take `weights`, whose identity is that of the file, from it; what is not there yet is put in, on disk.
    ///
    /// # Errors
    /// Those of `read`, and [`GraphError::Io`].
    pub fn with<R, E: From<GraphError>>(
        &self,
        weights: &Weights,
        read: impl FnOnce(&mut Reader<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut guard = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = || GraphError::Invalid(format!("{} could not be written before", self.path.display()));
        let pool = guard.as_mut().ok_or_else(broken)?;
        let before = pool.placed();
        let result = read(&mut Reader::only(weights, pool));
        let synced = if pool.placed() > before { pool.sync() } else { Ok(()) };
        match (result, synced) {
            (Ok(result), Ok(())) => Ok(result),
            (Err(error), _) => {
                *guard = None;
                Err(error)
            }
            (_, Err(error)) => {
                *guard = None;
                Err(error.into())
            }
        }
    }
}

impl Drop for SharedPool {
    fn drop(&mut self) {
        // What a session has mapped stays until the session ends.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes what processes left behind that ended without removing it: files that nobody holds a lock on.
fn sweep(folder: &Path) {
    let Ok(files) = std::fs::read_dir(folder) else { return };
    for file in files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(PREFIX)) {
        let Ok(open) = File::open(file.path()) else { continue };
        if Flock::lock(open, FlockArg::LockExclusiveNonblock).is_ok() {
            // Between the making of a file and its lock there is a moment; whoever loses it then is told by its link.
            let _ = std::fs::remove_file(file.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::models::{ModelError, Source, Stored};

    fn write(path: &Path, byte: u8) {
        let bytes = vec![byte; 16];
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4], &bytes).unwrap();
        std::fs::write(path, safetensors::serialize([("a", view)], None).unwrap()).unwrap();
        // Until its times are told from those of a further change.
        std::thread::sleep(Duration::from_millis(120));
    }

    fn place(pool: &SharedPool, weights: &Weights) -> u64 {
        let stored: Result<_, ModelError> = pool.with(weights, |reader| reader.tensor("a", &[4], DType::F32));
        match stored.unwrap() {
            Stored::External(at) => at.offset,
            Stored::Inline(_) => panic!("it is beside the graph"),
        }
    }

    #[test]
    fn weights_of_one_file_are_written_once_and_those_of_a_changed_file_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (file, pools) = (folder.path().join("a.safetensors"), folder.path().join("pools"));
        write(&file, 1);
        let weights = Weights::open(&file).unwrap();
        let first = SharedPool::of(&pools, &weights, DType::F32).unwrap();
        assert_eq!((place(&first, &weights), first.placed()), (0, 1));
        // Somebody else opens the same file.
        let again = Weights::open(&file).unwrap();
        let second = SharedPool::of(&pools, &again, DType::F32).unwrap();
        assert_eq!((place(&second, &again), second.placed()), (0, 1));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &SharedPool::of(&pools, &again, DType::F16).unwrap()), "other numbers");
        // The same names and sizes with other elements.
        write(&file, 2);
        let changed = Weights::open(&file).unwrap();
        let third = SharedPool::of(&pools, &changed, DType::F32).unwrap();
        assert_ne!(first.name(), third.name());
        place(&third, &changed);
        let graphs = folder.path().join("graphs");
        std::fs::create_dir(&graphs).unwrap();
        for pool in [&first, &second, &third] {
            pool.link(&graphs).unwrap();
        }
        assert_eq!(std::fs::read(graphs.join(first.name())).unwrap(), [1; 16]);
        assert_eq!(std::fs::read(graphs.join(third.name())).unwrap(), [2; 16]);
        drop((first, second, third));
        assert_eq!(std::fs::read_dir(&pools).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_a_file_of_now_has_no_identity() {
        let folder = tempfile::tempdir().unwrap();
        let (file, pools) = (folder.path().join("a.safetensors"), folder.path().join("pools"));
        write(&file, 1);
        std::fs::create_dir(&pools).unwrap();
        std::fs::write(pools.join("weights-1-2-3"), "left").unwrap();
        std::fs::write(pools.join("another"), "stays").unwrap();
        let weights = Weights::open(&file).unwrap();
        let pool = SharedPool::of(&pools, &weights, DType::F32).unwrap();
        let names: Vec<_> = std::fs::read_dir(&pools).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(!names.iter().any(|name| name == "weights-1-2-3") && names.iter().any(|name| name == "another"));
        drop(pool);
        std::fs::write(&file, std::fs::read(&file).unwrap()).unwrap();
        let now = Weights::open(&file).unwrap();
        // Under load the opening may come late; then the times say enough.
        if now.identity(DType::F32).is_none() {
            let [a, b] = [(); 2].map(|()| SharedPool::of(&pools, &now, DType::F32).unwrap());
            assert_ne!(a.name(), b.name());
        }
    }
}
