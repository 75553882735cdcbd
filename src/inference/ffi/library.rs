//! Looking at shared libraries before they are used.

use std::ffi::CStr;
use std::path::Path;

use ort::sys::OrtApiBase;

use super::super::InferenceError;

/// Loads the library at `path` (a bare name goes to the system's loader) and asks for its version, such as `1.26.0`.
pub fn library_version(path: &Path) -> Result<String, InferenceError> {
    let unloadable = |message: String| InferenceError::Unloadable { path: path.display().to_string(), message };
    // SAFETY: loading runs the library's initialisers. The caller names a file that is meant to be ONNX Runtime.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| unloadable(whole(&error)))?;
    // SAFETY: the type is that of the C interface, which has not changed since version 1.0.
    let get_base = unsafe { library.get::<unsafe extern "C" fn() -> *const OrtApiBase>(b"OrtGetApiBase\0") }
        .map_err(|error| unloadable(whole(&error)))?;
    // SAFETY: no arguments; the library is loaded for the whole of this function.
    let base = unsafe { get_base() };
    // SAFETY: the function returns null or a pointer to a static table inside the library.
    let Some(base) = (unsafe { base.as_ref() }) else {
        return Err(unloadable("OrtGetApiBase returned nothing".to_owned()));
    };
    // SAFETY: the member is a function of the loaded library that takes nothing and returns a static string.
    let version = unsafe { (base.GetVersionString)() };
    if version.is_null() {
        return Err(unloadable("it has no version".to_owned()));
    }
    // SAFETY: not null, and a static C string of the library.
    let version = unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned();
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()).unwrap_or(0);
    if minor < ort::MINOR_VERSION {
        return Err(InferenceError::TooOld { path: path.display().to_string(), version, needed: ort::MINOR_VERSION });
    }
    // SAFETY: the member is a function of the loaded library; it returns null for a version that it does not know.
    let api = unsafe { (base.GetApi)(ort::MINOR_VERSION) };
    if api.is_null() {
        return Err(unloadable(format!("it does not offer interface {}", ort::MINOR_VERSION)));
    }
    Ok(version)
}

/// An error with its causes: the loader's own words are in the last one.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Loads the library at `path`, or the one that the system's loader finds by that name, for the life of the process.
pub fn keep(path: &Path) -> Result<(), String> {
    // SAFETY: loading runs the library's initialisers. The caller names a library that a provider needs.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| whole(&error))?;
    std::mem::forget(library);
    Ok(())
}

/// The version of TensorRT's library as a number, such as 101303 for 10.13.3, where it is loaded or can be.
pub fn tensorrt_version(name: &Path) -> Result<u32, String> {
    // SAFETY: loading runs the library's initialisers. It is TensorRT's, by its name.
    let library = unsafe { libloading::Library::new(name) }.map_err(|error| whole(&error))?;
    // SAFETY: the type is that of the C interface, unchanged since TensorRT 5.
    let version = unsafe { library.get::<unsafe extern "C" fn() -> i32>(b"getInferLibVersion\0") }
        .map_err(|error| whole(&error))?;
    // SAFETY: no arguments; the library is loaded for the whole of this function.
    let version = unsafe { version() };
    // Unloading it would only make the provider load it again.
    std::mem::forget(library);
    u32::try_from(version).map_err(|_| format!("version {version}"))
}
