//! The calls into ONNX Runtime that `ort` has no safe form for: looking at a library before it is used, and running a
//! session over borrowed buffers without a copy.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::{self, NonNull};

use ort::AsPointer;
use ort::sys::{
    ONNXTensorElementDataType, OrtAllocatorType, OrtApiBase, OrtMemType, OrtMemoryInfo, OrtSession, OrtValue,
};

use super::InferenceError;

/// Loads the library at `path` (a bare name goes to the system's loader) and asks for its version, such as `1.26.0`.
pub(super) fn library_version(path: &Path) -> Result<String, InferenceError> {
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

/// The bytes of a slice of tensor elements.
pub(super) fn bytes_of<T: super::Element>(data: &[T]) -> &[u8] {
    // SAFETY: `Element` is sealed to numbers without padding or invalid bytes; the length is that of the slice.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) }
}

/// As [`bytes_of`], writable.
pub(super) fn bytes_of_mut<T: super::Element>(data: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`; every bit pattern is a valid element, so writing any byte is sound.
    unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), size_of_val(data)) }
}

/// The first `len` bytes of `words`; fewer when there are not so many.
pub(super) fn words_as_bytes(words: &[u64], len: usize) -> &[u8] {
    let len = len.min(size_of_val(words));
    // SAFETY: bytes have no alignment and no invalid values; the length is within the slice.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), len) }
}

/// A tensor's place for one run.
pub(super) struct Slot {
    /// Name of the input or output in the graph.
    pub name: CString,
    /// Element type.
    pub kind: ONNXTensorElementDataType,
    /// Dimensions.
    pub shape: Vec<i64>,
}

/// The pointers of one run, kept between runs so that none is allocated per frame.
pub(super) struct Scratch {
    memory: NonNull<OrtMemoryInfo>,
    input_names: Vec<*const std::ffi::c_char>,
    output_names: Vec<*const std::ffi::c_char>,
    inputs: Vec<*const OrtValue>,
    outputs: Vec<*mut OrtValue>,
}

// SAFETY: the memory description is immutable and not tied to a thread; the other pointers live only within `run`,
// which has the whole struct to itself.
unsafe impl Send for Scratch {}

impl Scratch {
    pub fn new() -> Result<Self, InferenceError> {
        let mut memory: *mut OrtMemoryInfo = ptr::null_mut();
        // SAFETY: the runtime is loaded (a session exists), and `memory` outlives the call.
        let status = unsafe {
            (ort::api().CreateCpuMemoryInfo)(
                OrtAllocatorType::OrtDeviceAllocator,
                OrtMemType::OrtMemTypeDefault,
                &mut memory,
            )
        };
        // SAFETY: `status` came from the runtime just now.
        unsafe { ort::Error::result_from_status(status) }.map_err(|error| InferenceError::Run(error.to_string()))?;
        let memory = NonNull::new(memory)
            .ok_or_else(|| InferenceError::Run("the runtime described no host memory".to_owned()))?;
        Ok(Self { memory, input_names: vec![], output_names: vec![], inputs: vec![], outputs: vec![] })
    }

    /// Runs `session` once, reading `inputs` and writing `outputs` in place. Each buffer must have exactly the bytes of its
    /// slot's shape; the runtime checks this too.
    pub fn run<'a>(
        &mut self,
        session: &mut ort::session::Session,
        inputs: impl Iterator<Item = (&'a Slot, &'a [u8])>,
        outputs: impl Iterator<Item = (&'a Slot, &'a mut [u8])>,
    ) -> Result<(), InferenceError> {
        let result = self.fill_and_run(session, inputs, outputs);
        let api = ort::api();
        for value in self.inputs.drain(..) {
            // SAFETY: made by `wrap` in this run and released nowhere else.
            unsafe { (api.ReleaseValue)(value.cast_mut()) };
        }
        for value in self.outputs.drain(..) {
            // SAFETY: as above.
            unsafe { (api.ReleaseValue)(value) };
        }
        self.input_names.clear();
        self.output_names.clear();
        result.map_err(|error| InferenceError::Run(error.to_string()))
    }

    fn fill_and_run<'a>(
        &mut self,
        session: &mut ort::session::Session,
        inputs: impl Iterator<Item = (&'a Slot, &'a [u8])>,
        outputs: impl Iterator<Item = (&'a Slot, &'a mut [u8])>,
    ) -> Result<(), ort::Error> {
        for (slot, bytes) in inputs {
            // The runtime takes a mutable pointer for every tensor and only reads those that are inputs.
            let value = self.wrap(slot, bytes.as_ptr().cast_mut(), bytes.len())?;
            self.inputs.push(value);
            self.input_names.push(slot.name.as_ptr());
        }
        for (slot, bytes) in outputs {
            let value = self.wrap(slot, bytes.as_mut_ptr(), bytes.len())?;
            self.outputs.push(value);
            self.output_names.push(slot.name.as_ptr());
        }
        let raw: *mut OrtSession = session.ptr_mut();
        // SAFETY: `session` is borrowed alone for the call. Names and values come in pairs of equal count and live until
        // `run` returns: the names in their slots, the values until the drain there, and the buffers behind them are
        // borrowed for 'a, which outlives this call. Outputs are all given, so the runtime allocates none.
        let status = unsafe {
            (ort::api().Run)(
                raw,
                ptr::null(),
                self.input_names.as_ptr(),
                self.inputs.as_ptr(),
                self.inputs.len(),
                self.output_names.as_ptr(),
                self.output_names.len(),
                self.outputs.as_mut_ptr(),
            )
        };
        // SAFETY: `status` came from the runtime just now.
        unsafe { ort::Error::result_from_status(status) }
    }

    fn wrap(&self, slot: &Slot, data: *mut u8, bytes: usize) -> Result<*mut OrtValue, ort::Error> {
        let mut value: *mut OrtValue = ptr::null_mut();
        // SAFETY: the runtime stores pointer and length, and refuses a length shorter than the shape needs; who calls keeps
        // the buffer alive and unshared until the value is released.
        let status = unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                self.memory.as_ptr(),
                data.cast(),
                bytes,
                slot.shape.as_ptr(),
                slot.shape.len(),
                slot.kind,
                &mut value,
            )
        };
        // SAFETY: `status` came from the runtime just now.
        unsafe { ort::Error::result_from_status(status) }?;
        Ok(value)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: made in `new`, released once.
        unsafe { (ort::api().ReleaseMemoryInfo)(self.memory.as_ptr()) };
    }
}
