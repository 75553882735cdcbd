//! Finding and loading `libonnxruntime.so`, once a process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::{Config, InferenceError, ffi};

const FILE: &str = "libonnxruntime.so";

/// The loaded library. Lives until the process ends.
pub struct Runtime {
    path: PathBuf,
    version: String,
    environment: Environment,
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

impl Runtime {
    /// Loads the library that `config` names, or the first one in the usual places: `lib` beside the executable and
    /// `../lib`, then `.weir/lib` upward from the executable's folder and from the current one, then the system's loader by
    /// name. Later calls return the same library at once. A failed call leaves nothing behind and may be repeated.
    ///
    /// # Errors
    /// [`InferenceError::NotFound`], [`InferenceError::Unloadable`] or [`InferenceError::TooOld`];
    /// [`InferenceError::AlreadyLoaded`] when `config` names another library than the one in use.
    pub fn load(config: &Config) -> Result<&'static Runtime, InferenceError> {
        // Nothing is guarded but the order, so a panic elsewhere cannot have left it broken.
        let _turn = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = RUNTIME.get() {
            return match &config.library {
                Some(wanted) if !same_file(wanted, &runtime.path) => Err(InferenceError::AlreadyLoaded {
                    loaded: runtime.path.display().to_string(),
                    wanted: wanted.display().to_string(),
                }),
                _ => Ok(runtime),
            };
        }
        let (path, version) = find(config)?;
        let environment = open(&path)?;
        tracing::info!(path = %path.display(), version, "ONNX Runtime loaded.");
        Ok(RUNTIME.get_or_init(|| Runtime { path, version, environment }))
    }

    /// The library's version, such as `1.26.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where the library was found; a bare file name when the system's loader found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }
}

/// Looks at the library at `path` without keeping it, and returns its version.
///
/// # Errors
/// [`InferenceError::Unloadable`] or [`InferenceError::TooOld`].
pub fn probe(path: &Path) -> Result<String, InferenceError> {
    ffi::library_version(path)
}

/// The library to use and its version. A file that is named, or found in one of our own folders, must load: a broken one
/// is reported instead of skipped.
fn find(config: &Config) -> Result<(PathBuf, String), InferenceError> {
    if let Some(named) = &config.library {
        let path = std::path::absolute(named).unwrap_or_else(|_| named.clone());
        return probe(&path).map(|version| (path, version));
    }
    if let Some(path) = places().into_iter().find(|path| path.is_file()) {
        return probe(&path).map(|version| (path, version));
    }
    match probe(Path::new(FILE)) {
        Ok(version) => Ok((PathBuf::from(FILE), version)),
        Err(InferenceError::Unloadable { message, .. }) => Err(InferenceError::NotFound {
            tried: format!("looked in lib beside the executable and in .weir/lib upward; the loader says: {message}"),
        }),
        Err(other) => Err(other),
    }
}

fn places() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let here = std::env::current_dir().ok();
    let mut places = Vec::new();
    if let Some(folder) = &beside {
        places.push(folder.join("lib").join(FILE));
        places.push(folder.join("../lib").join(FILE));
    }
    for start in [&beside, &here].into_iter().flatten() {
        places.extend(start.ancestors().map(|folder| folder.join(".weir/lib").join(FILE)));
    }
    places
}

fn open(path: &Path) -> Result<Environment, InferenceError> {
    let unloadable = |message: String| InferenceError::Unloadable { path: path.display().to_string(), message };
    let environment = ort::init_from(path)
        .map_err(|error| unloadable(error.to_string()))?
        .with_name("weir")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, category: &str, _id: &str, location: &str, message: &str| match level {
            LogLevel::Verbose | LogLevel::Info => tracing::debug!(category, location, "{message}"),
            LogLevel::Warning => tracing::warn!(category, location, "{message}"),
            LogLevel::Error | LogLevel::Fatal => tracing::error!(category, location, "{message}"),
        }))
        .build()
        .map_err(|error| unloadable(error.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    fn library_of(source: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("fake.c"), folder.path().join("libfake.so"));
        std::fs::write(&from, source).unwrap();
        let done = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&to).arg(&from).status().unwrap();
        assert!(done.success());
        (folder, to)
    }

    #[test]
    fn an_old_library_is_named_with_its_version() {
        let (_folder, path) = library_of(
            "static const char *version(void) { return \"1.17.3\"; }\n\
             static const void *api(unsigned v) { (void)v; return 0; }\n\
             static struct { const void *(*api)(unsigned); const char *(*version)(void); } base = { api, version };\n\
             const void *OrtGetApiBase(void) { return &base; }\n",
        );
        let error = probe(&path).unwrap_err();
        assert!(matches!(&error, InferenceError::TooOld { version, .. } if version == "1.17.3"), "{error}");
        assert!(error.to_string().contains("run scripts/setup"), "{error}");
    }

    #[test]
    fn what_is_no_runtime_is_an_error_with_the_loaders_words() {
        let (_folder, path) = library_of("int nothing(void) { return 0; }\n");
        let error = probe(&path).unwrap_err();
        assert!(error.to_string().contains("OrtGetApiBase"), "{error}");

        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), "not a library").unwrap();
        assert!(matches!(probe(text.path()), Err(InferenceError::Unloadable { .. })));
        let error = probe(Path::new("/nowhere/libonnxruntime.so")).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[test]
    fn a_named_library_that_fails_does_not_fall_back() {
        let config = Config { library: Some("/nowhere/libonnxruntime.so".into()), ..Config::default() };
        assert!(Runtime::load(&config).is_err());
        assert!(Runtime::load(&Config::default()).is_ok(), "run scripts/setup");
        assert!(matches!(Runtime::load(&config), Err(InferenceError::AlreadyLoaded { .. })));
    }
}
