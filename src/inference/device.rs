//! What a GPU provider needs, looked for before anything is loaded: the driver, the GPU, the libraries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use object::read::elf::{Dyn, FileHeader};
use object::read::{ReadCache, ReadRef};

use super::ffi::cuda::{self, Stream, Trouble};
use super::ffi::keep;
use super::{Config, InferenceError, Provider, Runtime};

pub use super::ffi::cuda::Gpu;

/// What to do where no driver answers.
const NO_DRIVER: &str = "install NVIDIA's driver; in a container, start it with --gpus all";
/// What to do about a library.
const NO_LIBRARY: &str = "use the cuda image, or fetch the libraries as scripts/gpu-check does";
/// Libraries that are the provider's own.
const PROVIDERS: [(Provider, &str); 2] = [
    (Provider::Cuda, "libonnxruntime_providers_cuda.so"),
    (Provider::Tensorrt, "libonnxruntime_providers_tensorrt.so"),
];
/// The CUDA runtime's library, whose number is the CUDA version that a provider was built for.
const CUDART: &str = "libcudart.so.";

/// What is missing, and what to do.
type Lack = (String, &'static str);

/// The GPU of index `device`, as its driver tells.
///
/// # Errors
/// What is missing and what to do, in one line.
pub fn gpu(device: u32) -> Result<Gpu, String> {
    cuda::look(device).map_err(|trouble| {
        let (what, remedy) = lack(trouble, device);
        format!("{what}; {remedy}")
    })
}

/// A stream on the configured GPU, with everything that the provider needs loaded.
pub(super) fn open(runtime: &Runtime, config: &Config) -> Result<Arc<Stream>, InferenceError> {
    let missing =
        |(what, remedy): Lack| InferenceError::Missing { provider: config.provider, what, remedy: remedy.to_owned() };
    // The providers' own libraries first: a runtime for the CPU alone is the commonest cause.
    let libraries = libraries(runtime.path(), config.provider).map_err(missing)?;
    let gpu = cuda::look(config.device).map_err(|trouble| missing(lack(trouble, config.device)))?;
    if let Some(built) = libraries.iter().find_map(|name| cuda_of(name)) {
        new_enough(gpu.driver, built).map_err(missing)?;
    }
    load(runtime.path(), &libraries).map_err(missing)?;
    Stream::open(config.device).map_err(|message| InferenceError::Provider { provider: config.provider, message })
}

fn lack(trouble: Trouble, device: u32) -> Lack {
    match trouble {
        Trouble::NoDriver(message) => (format!("no NVIDIA driver answers: {message}"), NO_DRIVER),
        Trouble::Driver(message) => (format!("the driver answers: {message}"), NO_DRIVER),
        Trouble::NoDevice(0) => ("the driver knows no GPU".to_owned(), NO_DRIVER),
        Trouble::NoDevice(count) => {
            let what = format!("there is no GPU {device}, the driver knows {count}");
            (what, "name one that is there: inference.device counts from 0")
        }
    }
}

/// The major version of CUDA that a library is part of, if it is CUDA's runtime.
fn cuda_of(name: &str) -> Option<i32> {
    name.strip_prefix(CUDART)?.split('.').next()?.parse().ok()
}

/// Whether a driver that runs CUDA up to `driver` (12040 for 12.4) runs what is built for CUDA `built`.
fn new_enough(driver: i32, built: i32) -> Result<(), Lack> {
    if driver >= built * 1000 {
        return Ok(());
    }
    let what = format!(
        "the driver is too old: it runs CUDA up to {}.{}, the provider is built for CUDA {built}",
        driver / 1000,
        driver % 1000 / 10
    );
    Err((what, "install a newer driver: 525.60.13 or later for CUDA 12, 580.65.06 or later for CUDA 13"))
}

/// The name of TensorRT's own library among what its provider needs.
pub(super) fn tensorrt_library(runtime: &Runtime) -> Result<PathBuf, String> {
    let names = libraries(runtime.path(), Provider::Tensorrt).map_err(|(what, remedy)| format!("{what}; {remedy}"))?;
    let name = names.into_iter().find(|name| name.starts_with("libnvinfer.so"));
    // Where nothing is known of the runtime's folder, the one of all its providers for years.
    Ok(PathBuf::from(name.unwrap_or_else(|| "libnvinfer.so.10".to_owned())))
}

/// The libraries that the provider needs, by name; those of the provider itself are beside the runtime.
fn libraries(runtime: &Path, provider: Provider) -> Result<Vec<String>, Lack> {
    let Some(folder) = runtime.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        // The system's loader found it, and finds what belongs to it.
        return Ok(Vec::new());
    };
    let mut needed = Vec::new();
    for (of, name) in PROVIDERS {
        // TensorRT stands on CUDA.
        if of == Provider::Tensorrt && provider == Provider::Cuda {
            continue;
        }
        let path = folder.join(name);
        if !path.is_file() {
            let what = format!("{} has no {of} provider: {name} is not beside it", runtime.display());
            return Err((what, NO_LIBRARY));
        }
        let names = needed_by(&path).map_err(|message| (format!("{}: {message}", path.display()), NO_LIBRARY))?;
        needed.extend(names);
    }
    let mut seen = BTreeSet::new();
    needed.retain(|name| seen.insert(name.clone()));
    Ok(needed)
}

/// The libraries that a shared library names as needed.
fn needed_by(path: &Path) -> Result<Vec<String>, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let cache = ReadCache::new(file);
    let names = needed_in(&cache).map_err(|error| error.to_string())?;
    Ok(names.into_iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

fn needed_in<'a, R: ReadRef<'a>>(data: R) -> object::Result<Vec<&'a [u8]>> {
    let header = object::elf::FileHeader64::<object::Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let Some((entries, link)) = sections.dynamic(endian, data)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, data, link)?;
    let needed = entries.iter().filter(|entry| entry.tag32(endian) == i32::try_from(object::elf::DT_NEEDED).ok());
    needed.map(|entry| entry.string(endian, strings)).collect()
}

/// Libraries that were loaded and stay so.
static LOADED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Loads `names`, each from the runtime's folder or by the system's loader. All that are missing are named.
fn load(runtime: &Path, names: &[String]) -> Result<(), Lack> {
    let folder = runtime.parent().unwrap_or(Path::new(""));
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut left: Vec<(PathBuf, String)> = Vec::new();
    for name in names {
        let beside = folder.join(name);
        let path = if beside.is_file() { beside } else { PathBuf::from(name) };
        if !loaded.contains(&path) {
            left.push((path, String::new()));
        }
    }
    // One may need another that comes later in the list: as long as there is progress, try again.
    loop {
        let before = left.len();
        left.retain_mut(|(path, message)| match keep(path) {
            Ok(()) => !loaded.insert(path.clone()),
            Err(words) => {
                *message = words;
                true
            }
        });
        if left.is_empty() {
            return Ok(());
        }
        if left.len() == before {
            let messages: Vec<_> = left.iter().map(|(_, message)| message.as_str()).collect();
            return Err((format!("libraries do not load: {}", messages.join(", ")), NO_LIBRARY));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    fn library(folder: &Path, name: &str, needs: &[&str]) -> PathBuf {
        let source = folder.join("source.c");
        std::fs::write(&source, "int nothing(void) { return 0; }\n").unwrap();
        let path = folder.join(name);
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-Wl,--no-as-needed", &format!("-Wl,-soname,{name}"), "-o"]);
        command.arg(&path).arg(&source).arg("-L").arg(folder);
        command.args(needs.iter().map(|need| format!("-l:{need}")));
        assert!(command.status().unwrap().success());
        path
    }

    #[test]
    fn what_a_provider_needs_is_read_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        library(here, "libcudart.so.12", &[]);
        library(here, "libnvinfer.so.10", &[]);
        let runtime = library(here, "libonnxruntime.so.1", &[]);
        let (what, _) = libraries(&runtime, Provider::Cuda).unwrap_err();
        assert!(what.contains("no cuda provider: libonnxruntime_providers_cuda.so"), "{what}");
        library(here, "libonnxruntime_providers_cuda.so", &["libcudart.so.12"]);
        let needed = libraries(&runtime, Provider::Cuda).unwrap();
        assert!(needed.contains(&"libcudart.so.12".to_owned()), "{needed:?}");
        assert_eq!(needed.iter().find_map(|name| cuda_of(name)), Some(12));
        let (what, _) = libraries(&runtime, Provider::Tensorrt).unwrap_err();
        assert!(what.contains("no tensorrt provider"), "{what}");
        library(here, "libonnxruntime_providers_tensorrt.so", &["libcudart.so.12", "libnvinfer.so.10"]);
        let needed = libraries(&runtime, Provider::Tensorrt).unwrap();
        assert_eq!(needed.iter().filter(|name| name.contains("cudart")).count(), 1, "{needed:?}");

        // All that are missing are named, with the loader's words; those that are there load from the runtime's folder.
        std::fs::remove_file(here.join("libnvinfer.so.10")).unwrap();
        let names = ["libcudart.so.12", "libnvinfer.so.10", "libweir_none.so.1"].map(str::to_owned);
        let (what, remedy) = load(&runtime, &names).unwrap_err();
        assert!(what.contains("libnvinfer.so.10: cannot open") && what.contains("libweir_none.so.1"), "{what}");
        assert!(!what.contains("libcudart") && remedy.contains("gpu-check"), "{what} {remedy}");
        // In whatever order they need each other.
        library(here, "libweir_b.so", &[]);
        library(here, "libweir_a.so", &["libweir_b.so"]);
        load(&runtime, &["libweir_a.so", "libweir_b.so"].map(str::to_owned)).unwrap();
    }

    #[test]
    fn a_driver_is_new_enough_from_the_first_of_its_cuda_on() {
        assert!(new_enough(12000, 12).is_ok() && new_enough(12080, 12).is_ok() && new_enough(13000, 12).is_ok());
        let (what, remedy) = new_enough(11040, 12).unwrap_err();
        assert!(what.contains("CUDA up to 11.4") && what.contains("built for CUDA 12"), "{what}");
        assert!(remedy.contains("525.60.13"), "{remedy}");
        assert!(new_enough(12090, 13).is_err());
        assert_eq!(cuda_of("libcublas.so.12"), None);
    }

    #[test]
    fn each_trouble_says_what_to_do() {
        for (trouble, what, remedy) in [
            (Trouble::NoDriver("libcuda.so.1: cannot open".into()), "answers: libcuda.so.1", "--gpus all"),
            (Trouble::Driver("not initialised".into()), "not initialised", "--gpus all"),
            (Trouble::NoDevice(0), "no GPU", "--gpus all"),
            (Trouble::NoDevice(2), "no GPU 5, the driver knows 2", "inference.device"),
        ] {
            let (said, advice) = lack(trouble, 5);
            assert!(said.contains(what) && advice.contains(remedy), "{said}; {advice}");
        }
    }
}
