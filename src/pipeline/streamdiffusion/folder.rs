//! Folders for graphs while they are loaded, and the end of those that a process which is gone left behind.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Held by the process that uses a folder, for as long as it does.
const LOCK: &str = "lock";
/// A folder without a lock is left alone for this long: its owner may be about to make one.
const YOUNG: Duration = Duration::from_secs(600);
/// Folders looked at in one sweep.
const MOST: usize = 256;

/// Folders of this process so far.
static FOLDERS: AtomicU64 = AtomicU64::new(0);

/// A folder of this process's own. It is made when it is needed and removed with its owner; what a session has mapped stays
/// until the session ends.
pub(super) struct Folder {
    path: PathBuf,
    lock: Option<File>,
}

impl Folder {
    /// A folder below `root`, which is not made yet.
    pub fn new(root: &Path) -> Self {
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        Self { path: root.join(format!("{}-{number}", std::process::id())), lock: None }
    }

    /// The folder, made if it is not there yet. Then those that nobody uses any more are removed from beside it.
    ///
    /// # Errors
    /// It cannot be made or locked.
    pub fn make(&mut self) -> io::Result<&Path> {
        if self.lock.is_none() {
            if let Some(root) = self.path.parent() {
                sweep(root);
            }
            // Another container may use the same models under the same process id.
            while self.path.exists() {
                let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
                self.path.set_file_name(format!("{}-{number}", std::process::id()));
            }
            std::fs::create_dir_all(&self.path)?;
            let lock = File::create(self.path.join(LOCK))?;
            lock.try_lock().map_err(io::Error::from)?;
            self.lock = Some(lock);
        }
        Ok(&self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // What cannot be removed is swept by the next that loads.
            let _ = std::fs::remove_dir_all(&self.path);
        }
        // An empty root says nothing to anybody; one that others use is not empty.
        if let Some(root) = self.path.parent() {
            let _ = std::fs::remove_dir(root);
        }
    }
}

/// Removes folders below `root` whose owner is gone.
fn sweep(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten().take(MOST) {
        let path = entry.path();
        let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours);
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) || in_use(&path) {
            continue;
        }
        match std::fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "Removed what a process that is gone left behind."),
            Err(error) => tracing::warn!(path = %path.display(), %error, "A folder of a process that is gone stays."),
        }
    }
}

/// Whether `name` is of the form that [`Folder::new`] gives.
fn is_ours(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('-').is_some_and(|(process, count)| number(process) && number(count))
}

fn in_use(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        // The lock of a process goes with it, in every container that shares the folder.
        Ok(lock) => lock.try_lock().is_err(),
        Err(_) => {
            let made = folder.metadata().and_then(|about| about.modified());
            made.map_or(true, |at| SystemTime::now().duration_since(at).unwrap_or_default() < YOUNG)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_folder_goes_with_its_owner_and_takes_an_empty_root_along() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("graphs");
        let mut first = Folder::new(&root);
        drop(Folder::new(&root));
        assert!(!root.exists(), "nothing is made before it is needed");
        let path = first.make().unwrap().to_path_buf();
        std::fs::write(path.join("a.weights"), "x").unwrap();
        assert_eq!(first.make().unwrap(), path);
        let mut second = Folder::new(&root);
        let other = second.make().unwrap().to_path_buf();
        assert!(path.exists() && other != path, "one does not sweep the other away");
        drop(first);
        assert!(!path.exists() && other.exists());
        drop(second);
        assert!(!root.exists());
    }

    #[test]
    fn what_a_process_that_is_gone_left_is_swept_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        let folder = |name: &str, lock: bool, age: Duration| {
            let path = root.join(name);
            std::fs::create_dir(&path).unwrap();
            if lock {
                std::fs::write(path.join(LOCK), "").unwrap();
            }
            File::open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
            path
        };
        let hour = Duration::from_secs(3600);
        let gone = [folder("17-0", true, Duration::ZERO), folder("18-3", false, hour)];
        let kept = [folder("19-0", false, Duration::ZERO), folder("mine", false, hour), folder("20-x", true, hour)];
        let used = folder("21-0", true, hour);
        let lock = File::open(used.join(LOCK)).unwrap();
        lock.lock().unwrap();
        std::fs::write(root.join("22-0"), "a file").unwrap();
        std::os::unix::fs::symlink(&kept[1], root.join("23-0")).unwrap();
        sweep(root);
        assert!(gone.iter().all(|path| !path.exists()));
        assert!(kept.iter().all(|path| path.exists()) && used.exists());
        assert!(root.join("22-0").exists() && root.join("23-0").exists());
    }
}
