//! TensorRT's engines, kept between runs: one folder for everything that an engine depends on.
//!
//! An engine is good for one graph with one set of weights, on one kind of GPU, with one version of TensorRT. The provider
//! itself looks at less, so each combination gets a folder of its own, named by a hash of its [`Key`] and with the key
//! written beside the engine. A folder without that note is of a build that did not end, and is removed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ffi::{cuda, tensorrt_version};
use super::{Config, Graph, InferenceError, Load, Provider, Runtime, device};
use crate::frame::Fingerprint;

/// The note beside an engine.
const NOTE: &str = "engine.json";
/// Time between two lines about a build.
const TICK: Duration = Duration::from_secs(10);

/// Everything that an engine depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    /// What the graph is called.
    name: String,
    /// SHA-256 of the graph, with its fixed shapes, and of its weights.
    graph: String,
    /// As [`super::Precision`] is written.
    precision: String,
    /// Whether the engine is captured.
    frames: bool,
    /// TensorRT's version, 101303 for 10.13.3.
    tensorrt: u32,
    /// ONNX Runtime's version.
    onnxruntime: String,
    /// Compute capability of the GPU, `8.9`.
    capability: String,
    /// The GPU's name: tactics are chosen by measuring on it.
    gpu: String,
}

/// A finished engine.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    key: Key,
    /// Names of the files and their bytes.
    files: Vec<(String, u64)>,
    /// Seconds that it took to build.
    built_s: f64,
}

/// The folder of one engine.
pub(super) struct Engines {
    root: PathBuf,
    folder: PathBuf,
    key: Key,
    /// Nobody else builds the same.
    _lock: Option<Flock<File>>,
}

/// What was found for a key.
#[derive(Debug, PartialEq)]
enum Found {
    /// An engine that fits.
    Ready,
    /// None, and why.
    None(String),
}

impl Key {
    fn hash(&self) -> String {
        // A struct of texts and numbers has a JSON form.
        let json = serde_json::to_vec(self).unwrap_or_default();
        hex(&Sha256::digest(json))[..24].to_owned()
    }

    /// In what this key differs from `other`, for people.
    fn unlike(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut say = |what: &str, is: &str, was: &str| {
            if is != was {
                differences.push(format!("{what} is {is}, the engine is for {was}"));
            }
        };
        say("the GPU", &self.gpu, &other.gpu);
        say("the compute capability", &self.capability, &other.capability);
        say("TensorRT", &dotted(self.tensorrt), &dotted(other.tensorrt));
        say("ONNX Runtime", &self.onnxruntime, &other.onnxruntime);
        say("the precision", &self.precision, &other.precision);
        if self.graph != other.graph {
            differences.push("the graph or its weights are others".to_owned());
        }
        differences
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// TensorRT counts 10.13.3 as 101303 from 10 on, and 8.6.1 as 8601 before.
fn dotted(version: u32) -> String {
    match version {
        100_000.. => format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100),
        _ => format!("{}.{}.{}", version / 1000, version / 100 % 10, version % 100),
    }
}

impl Engines {
    /// Where this engine is, or will be.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where timings are: of use for every graph on this GPU with this TensorRT.
    pub fn timing(&self) -> PathBuf {
        self.root.join(format!("timing-{}-{}", self.key.tensorrt, self.key.capability))
    }

    fn open(root: &Path, key: Key) -> std::io::Result<Self> {
        let folder = root.join(format!("{}-{}", key.name, key.hash()));
        let engines = Self { root: root.to_path_buf(), folder, key, _lock: None };
        fs::create_dir_all(engines.timing())?;
        Ok(engines)
    }

    /// Waits until nobody else builds the same.
    fn lock(&mut self, waiting: impl Fn()) -> std::io::Result<()> {
        let file = File::options().create(true).append(true).open(self.folder.with_extension("lock"))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, _)) => {
                waiting();
                Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| std::io::Error::from(error))?
            }
        };
        self._lock = Some(lock);
        Ok(())
    }

    /// Looks for an engine. What is in its place and cannot be used is removed.
    fn find(&self) -> std::io::Result<Found> {
        if let Some(note) = note(&self.folder) {
            let whole = |(name, bytes): &(String, u64)| {
                fs::metadata(self.folder.join(name)).is_ok_and(|about| about.len() == *bytes)
            };
            if note.key == self.key && !note.files.is_empty() && note.files.iter().all(whole) {
                return Ok(Found::Ready);
            }
        }
        let broken = self.folder.exists();
        if broken {
            fs::remove_dir_all(&self.folder)?;
        }
        fs::create_dir_all(&self.folder)?;
        if broken {
            return Ok(Found::None("the one that is there is not whole and was removed".to_owned()));
        }
        let mut others: Vec<Vec<String>> = folders(&self.root)
            .filter_map(|folder| note(&folder))
            .filter(|note| note.key.name == self.key.name)
            .map(|note| self.key.unlike(&note.key))
            .filter(|differences| !differences.is_empty())
            .collect();
        others.sort_by_key(Vec::len);
        Ok(Found::None(match others.first() {
            Some(differences) => format!("none fits: {}", differences.join(", ")),
            None => "there is none yet".to_owned(),
        }))
    }

    /// Notes that what is in the folder is whole.
    fn finish(&self, took: Duration) -> std::io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_file() && name != NOTE {
                files.push((name, entry.metadata()?.len()));
            }
        }
        files.sort();
        let note = Note { key: self.key.clone(), files, built_s: took.as_secs_f64() };
        let partial = self.folder.join("note.partial");
        fs::write(&partial, serde_json::to_vec_pretty(&note).map_err(std::io::Error::other)?)?;
        fs::rename(partial, self.folder.join(NOTE))
    }

    /// Notes that the engine was used now.
    fn used(&self) {
        // A folder that cannot be written to is of use all the same.
        if let Ok(file) = File::options().append(true).open(self.folder.join(NOTE)) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Removes the engines that were not used for longest until all have at most `most` bytes. This one stays.
    fn prune(&self, most: u64) -> std::io::Result<()> {
        let mut all: Vec<(SystemTime, u64, PathBuf)> = folders(&self.root)
            .filter_map(|folder| {
                let used = fs::metadata(folder.join(NOTE)).and_then(|about| about.modified()).ok()?;
                let bytes = note(&folder)?.files.iter().map(|(_, bytes)| bytes).sum();
                Some((used, bytes, folder))
            })
            .collect();
        all.sort();
        let mut bytes: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, freed, folder) in all.into_iter().filter(|(_, _, folder)| *folder != self.folder) {
            if bytes <= most {
                break;
            }
            tracing::info!(engine = %folder.display(), "The engines are too many; the one used least recently goes.");
            fs::remove_dir_all(&folder)?;
            let _ = fs::remove_file(folder.with_extension("lock"));
            bytes -= freed;
        }
        Ok(())
    }
}

fn note(folder: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(folder.join(NOTE)).ok()?).ok()
}

/// Where engines are kept: where the configuration says, or below the models.
pub fn engine_folder(config: &Config, models: &Path) -> PathBuf {
    config.engine_cache.clone().unwrap_or_else(|| models.join("weir--engines"))
}

/// How many engines are kept, and their bytes, by the name of the GPU that they are for.
pub fn engines_kept(root: &Path) -> BTreeMap<String, (usize, u64)> {
    let mut kept = BTreeMap::new();
    for note in folders(root).filter_map(|folder| note(&folder)) {
        let (engines, bytes): &mut (usize, u64) = kept.entry(note.key.gpu).or_default();
        *engines += 1;
        *bytes += note.files.iter().map(|(_, bytes)| bytes).sum::<u64>();
    }
    kept
}

fn folders(root: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.join(NOTE).is_file())
}

/// Bytes of the files beside a graph, which hold its weights.
pub(super) fn weights_beside(graph: &Graph<'_>) -> u64 {
    files_beside(graph).iter().filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum()
}

/// The files of weights beside a graph, by name: `g-….weights` beside `g.onnx`.
fn files_beside(graph: &Graph<'_>) -> Vec<PathBuf> {
    let Graph::File(path) = graph else { return Vec::new() };
    let begin = format!("{}-", path.file_stem().unwrap_or_default().display());
    let own = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begin));
    let entries = path.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "weights") && own(path))
        .collect();
    files.sort();
    files
}

/// SHA-256 of a graph and its weights.
fn digest(graph: &Graph<'_>) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut add = |path: &Path| -> std::io::Result<()> {
        let mut file = File::open(path)?;
        hash.update(file.metadata()?.len().to_le_bytes());
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(()),
                n => hash.update(&piece[..n]),
            }
        }
    };
    match graph {
        Graph::File(path) => {
            add(path)?;
            for file in files_beside(graph) {
                add(&file)?;
            }
        }
        Graph::Bytes(bytes) => {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The first 16 bytes of the SHA-256 of a graph's ONNX bytes.
pub(super) fn fingerprint(graph: &Graph<'_>) -> std::io::Result<Fingerprint> {
    let mut hash = Sha256::new();
    match graph {
        Graph::File(path) => {
            std::io::copy(&mut File::open(path)?, &mut hash)?;
        }
        Graph::Bytes(bytes) => hash.update(bytes),
    }
    Ok(first(hash))
}

fn first(hash: Sha256) -> Fingerprint {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    Fingerprint(bytes)
}

/// Several graphs that run one after another as one: the only one itself, or the hash of all in order; `None` of none.
pub fn together(graphs: impl IntoIterator<Item = Fingerprint>) -> Option<Fingerprint> {
    let mut graphs = graphs.into_iter();
    let only = graphs.next()?;
    let mut rest = graphs.peekable();
    if rest.peek().is_none() {
        return Some(only);
    }
    let mut hash = Sha256::new_with_prefix(only.0);
    rest.for_each(|graph| hash.update(graph.0));
    Some(first(hash))
}

/// Loads a graph by `commit`, with the engine cache if the provider has one and it is configured. Says what happens.
pub(super) fn with_cache<R>(
    runtime: &Runtime,
    load: &Load<'_>,
    graph: &Graph<'_>,
    mut commit: impl FnMut(Option<&Engines>) -> Result<R, InferenceError>,
) -> Result<R, InferenceError> {
    let root = match (load.config.provider, load.engines) {
        (Provider::Tensorrt, Some(root)) => root,
        (Provider::Tensorrt, None) => {
            return ticking(load, "TensorRT builds an engine that is not kept", || commit(None));
        }
        _ => return commit(None),
    };
    let failed = |error: &dyn std::fmt::Display| InferenceError::Provider {
        provider: load.config.provider,
        message: format!("the engine cache {}: {error}", root.display()),
    };
    let gpu = cuda::look(load.config.device).map_err(|trouble| failed(&format!("{trouble:?}")))?;
    let key = Key {
        name: load.name.to_owned(),
        graph: digest(graph).map_err(|error| failed(&error))?,
        precision: load.precision.to_string(),
        frames: load.frames,
        tensorrt: device::tensorrt_library(runtime)
            .and_then(|name| tensorrt_version(&name))
            .map_err(|error| failed(&error))?,
        onnxruntime: runtime.version().to_owned(),
        capability: format!("{}.{}", gpu.capability[0], gpu.capability[1]),
        gpu: gpu.name,
    };
    cached(root, key, load, commit).map_err(|error| match error {
        Ended::Io(error) => failed(&error),
        Ended::Load(error) => error,
    })
}

/// Why a load with the cache ended.
#[derive(Debug)]
enum Ended {
    Io(std::io::Error),
    Load(InferenceError),
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Ended::Io(error)
    }
}

fn cached<R>(
    root: &Path,
    key: Key,
    load: &Load<'_>,
    mut commit: impl FnMut(Option<&Engines>) -> Result<R, InferenceError>,
) -> Result<R, Ended> {
    let mut engines = Engines::open(root, key)?;
    engines.lock(|| load.say("another process builds the same TensorRT engine; waiting for it"))?;
    let mut found = engines.find()?;
    if found == Found::Ready {
        load.say("loading the TensorRT engine that was kept");
        match commit(Some(&engines)) {
            Ok(loaded) => {
                engines.used();
                return Ok(loaded);
            }
            // Damaged in a way that its size does not show.
            Err(error) if error.to_string().to_lowercase().contains("engine") => {
                tracing::warn!(%error, "The kept TensorRT engine does not load; it is removed and built anew.");
                fs::remove_file(engines.folder().join(NOTE))?;
                found = engines.find()?;
            }
            Err(error) => return Err(Ended::Load(error)),
        }
    }
    let reason = match found {
        Found::None(reason) => reason,
        Found::Ready => "the old one is gone".to_owned(),
    };
    tracing::info!(name = load.name, "A TensorRT engine is built: {reason}.");
    load.say(&format!("building a TensorRT engine, {reason}"));
    let began = Instant::now();
    let loaded = match ticking(load, "building a TensorRT engine", || commit(Some(&engines))) {
        Ok(loaded) => loaded,
        Err(error) => {
            fs::remove_dir_all(engines.folder())?;
            return Err(Ended::Load(error));
        }
    };
    engines.finish(began.elapsed())?;
    engines.prune(load.config.engine_cache_size as u64)?;
    Ok(loaded)
}

/// Does `work` and says every ten seconds that it goes on.
fn ticking<R>(load: &Load<'_>, what: &str, work: impl FnOnce() -> R) -> R {
    let Some(progress) = load.progress else { return work() };
    let (over, ends) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let began = Instant::now();
            while ends.recv_timeout(TICK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                progress(&format!("{what} for {} s; the first time takes minutes", began.elapsed().as_secs()));
            }
        });
        let done = work();
        drop(over);
        done
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Mutex;

    fn key() -> Key {
        Key {
            name: "stream".into(),
            graph: "aa".into(),
            precision: "fp16".into(),
            frames: true,
            tensorrt: 101_303,
            onnxruntime: "1.26.0".into(),
            capability: "8.9".into(),
            gpu: "RTX 4090".into(),
        }
    }

    /// Loads with the cache as the provider would: builds a file where there is none. Gives what was said, and whether
    /// anything was built.
    fn load(root: &Path, key: Key, bytes: usize) -> (String, bool) {
        let said = Mutex::new(String::new());
        let progress = |line: &str| said.lock().unwrap().push_str(&format!("{line}\n"));
        let config = Config { engine_cache_size: 2500, ..Config::default() };
        let load = Load { progress: Some(&progress), ..Load::new(&config) };
        let built = cached(root, key, &load, |engines| {
            let file = engines.unwrap().folder().join("weir_1.engine");
            match fs::read(&file) {
                Ok(kept) if kept.starts_with(b"damaged") => Err(InferenceError::Model("cannot read the engine".into())),
                Ok(_) => Ok(false),
                Err(_) => {
                    fs::write(file, vec![1; bytes]).map(|()| true).map_err(|e| InferenceError::Run(e.to_string()))
                }
            }
        });
        (said.lock().unwrap().clone(), built.unwrap())
    }

    #[test]
    fn an_engine_is_built_once_for_all_that_it_depends_on() {
        let root = tempfile::tempdir().unwrap();
        let (said, built) = load(root.path(), key(), 1000);
        assert!(built && said.contains("there is none yet"), "{said}");
        let (said, built) = load(root.path(), key(), 1000);
        assert!(!built && said.contains("was kept"), "{said}");
        type Change = (&'static str, fn(&mut Key));
        let changes: [Change; 7] = [
            ("weights are others", |key| key.graph = "bb".into()),
            ("the engine is for fp16", |key| key.precision = "fp32".into()),
            ("TensorRT is 10.9.0, the engine is for 10.13.3", |key| key.tensorrt = 100_900),
            ("ONNX Runtime is 1.27.0", |key| key.onnxruntime = "1.27.0".into()),
            ("capability is 9.0", |key| key.capability = "9.0".into()),
            ("the GPU is L4", |key| key.gpu = "L4".into()),
            ("", |key| key.name = "text".into()),
        ];
        for (reason, change) in changes {
            let mut other = key();
            change(&mut other);
            let (said, built) = load(root.path(), other, 10);
            assert!(built && said.contains(reason), "{reason}: {said}");
        }
        let (_, built) = load(root.path(), key(), 1000);
        assert!(!built, "the first one is still there");
        let kept = engines_kept(root.path());
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["L4", "RTX 4090"]);
        assert_eq!(kept["L4"], (1, 10));
        fs::remove_file(Engines::open(root.path(), key()).unwrap().folder().join(NOTE)).unwrap();
        assert_eq!(
            engines_kept(root.path())["RTX 4090"].0,
            kept["RTX 4090"].0 - 1,
            "one that is not whole does not count"
        );
    }

    #[test]
    fn what_is_not_whole_is_removed_and_built_anew() {
        let root = tempfile::tempdir().unwrap();
        load(root.path(), key(), 1000);
        let engines = Engines::open(root.path(), key()).unwrap();
        let file = engines.folder().join("weir_1.engine");
        fs::write(&file, [1; 999]).unwrap();
        let (said, built) = load(root.path(), key(), 1000);
        assert!(built && said.contains("not whole"), "{said}");
        // A build that was killed leaves no note.
        fs::remove_file(engines.folder().join(NOTE)).unwrap();
        let (said, built) = load(root.path(), key(), 1000);
        assert!(built && said.contains("not whole"), "{said}");
        // One that only the provider finds damaged.
        let mut damaged = vec![1; 1000];
        damaged[..7].copy_from_slice(b"damaged");
        fs::write(&file, damaged).unwrap();
        let (said, built) = load(root.path(), key(), 1000);
        assert!(built && said.contains("was kept") && said.contains("building"), "{said}");
    }

    #[test]
    fn the_engines_that_were_not_used_for_longest_make_room() {
        let root = tempfile::tempdir().unwrap();
        let named = |graph: &str| Key { graph: graph.into(), ..key() };
        let age = |graph: &str, seconds: u64| {
            let engines = Engines::open(root.path(), named(graph)).unwrap();
            let file = File::options().append(true).open(engines.folder().join(NOTE)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        load(root.path(), named("a"), 1000);
        load(root.path(), named("b"), 1000);
        age("a", 100);
        age("b", 200);
        let (_, built) = load(root.path(), named("c"), 1000);
        assert!(built);
        assert!(!load(root.path(), named("a"), 1000).1, "used more recently than b");
        assert!(load(root.path(), named("b"), 1000).1, "b has made room");
    }

    #[test]
    fn a_graph_is_told_apart_by_its_weights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.onnx");
        fs::write(&path, b"graph").unwrap();
        fs::write(folder.path().join("g-0.weights"), b"one").unwrap();
        fs::write(folder.path().join("other-0.weights"), b"others").unwrap();
        let first = digest(&Graph::File(&path)).unwrap();
        assert_eq!(weights_beside(&Graph::File(&path)), 3);
        assert_eq!(digest(&Graph::File(&path)).unwrap(), first);
        fs::write(folder.path().join("g-0.weights"), b"two").unwrap();
        assert_ne!(digest(&Graph::File(&path)).unwrap(), first);
        assert_ne!(digest(&Graph::Bytes(b"graph")).unwrap(), digest(&Graph::Bytes(b"grap")).unwrap());
        assert_eq!(dotted(101_303), "10.13.3");
        assert_eq!(dotted(8601), "8.6.1");
    }
}
