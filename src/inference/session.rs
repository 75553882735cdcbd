//! One graph, loaded on one provider, with inputs and outputs that are checked once and then run over plain slices.

use std::ffi::CString;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use ort::ep;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::sys::ONNXTensorElementDataType;
use ort::value::{Outlet, TensorElementType};

use super::ffi::{self, Scratch, Slot};
use super::{Config, InferenceError, Provider, Runtime};

/// A number that tensors hold. Implemented for `u8`, `i32`, `i64`, `f32` and [`half::f16`].
pub trait Element: sealed::Sealed + Copy + 'static {
    #[doc(hidden)]
    const KIND: TensorElementType;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($number:ty => $kind:ident),*) => {
        $(
            impl sealed::Sealed for $number {}
            impl Element for $number {
                const KIND: TensorElementType = TensorElementType::$kind;
            }
        )*
    };
}

elements!(u8 => Uint8, i32 => Int32, i64 => Int64, f32 => Float32, half::f16 => Float16);

/// An input or output of a loaded graph, as the graph declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its element type in ONNX's words, such as `Uint8`.
    pub element: String,
    /// Its dimensions; −1 where the graph leaves one open.
    pub shape: Vec<i64>,
}

/// An input of type `T` that was found in the graph with the right shape.
#[derive(Debug)]
pub struct Input<T> {
    session: u64,
    index: usize,
    marker: PhantomData<fn() -> T>,
}

/// An output of type `T` that was found in the graph with the right shape.
#[derive(Debug)]
pub struct Output<T> {
    session: u64,
    index: usize,
    marker: PhantomData<fn() -> T>,
}

/// An input's data for one run.
pub struct Feed<'a> {
    session: u64,
    index: usize,
    bytes: &'a [u8],
}

/// Where an output goes in one run.
pub struct Fetch<'a> {
    session: u64,
    index: usize,
    bytes: &'a mut [u8],
}

impl<T: Element> Input<T> {
    /// `data`, to be read in the next run without a copy on the CPU provider.
    pub fn feed<'a>(&self, data: &'a [T]) -> Feed<'a> {
        Feed { session: self.session, index: self.index, bytes: ffi::bytes_of(data) }
    }
}

impl<T: Element> Output<T> {
    /// `data`, to be written in the next run without a copy on the CPU provider.
    pub fn fetch<'a>(&self, data: &'a mut [T]) -> Fetch<'a> {
        Fetch { session: self.session, index: self.index, bytes: ffi::bytes_of_mut(data) }
    }
}

/// One graph on one provider. Used by one thread at a time.
pub struct Session {
    /// Tells this session's ports from those of others.
    id: u64,
    raw: ort::session::Session,
    scratch: Scratch,
    inputs: Vec<Side>,
    outputs: Vec<Side>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

struct Side {
    port: Port,
    kind: TensorElementType,
    /// Set once the caller named the port.
    slot: Option<Slot>,
    bytes: usize,
    /// Contents that stay from run to run, see [`Session::hold`]. Of 64-bit words, so that every element type is aligned.
    held: Option<Vec<u64>>,
    /// Marks the ports given in the current run.
    given: bool,
}

impl Session {
    /// Loads a graph from its ONNX bytes. Weights in files beside it are not found this way; use [`Self::from_file`].
    ///
    /// # Errors
    /// [`InferenceError::Provider`] or [`InferenceError::Model`], with the runtime's message.
    pub fn from_bytes(runtime: &Runtime, config: &Config, model: &[u8]) -> Result<Self, InferenceError> {
        let raw = builder(runtime, config)?.commit_from_memory(model);
        Self::new(raw.map_err(|error| refused(config, &error))?)
    }

    /// Loads a graph from a file; external weights are looked for in the same folder.
    ///
    /// # Errors
    /// As [`Self::from_bytes`].
    pub fn from_file(runtime: &Runtime, config: &Config, path: &Path) -> Result<Self, InferenceError> {
        let raw = builder(runtime, config)?.commit_from_file(path);
        Self::new(raw.map_err(|error| refused(config, &error))?)
    }

    fn new(raw: ort::session::Session) -> Result<Self, InferenceError> {
        let inputs = raw.inputs().iter().map(Side::new).collect::<Result<_, _>>()?;
        let outputs = raw.outputs().iter().map(Side::new).collect::<Result<_, _>>()?;
        Ok(Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), scratch: Scratch::new()?, raw, inputs, outputs })
    }

    /// The graph's inputs in its own order.
    pub fn inputs(&self) -> impl Iterator<Item = &Port> {
        self.inputs.iter().map(|side| &side.port)
    }

    /// The graph's outputs in its own order.
    pub fn outputs(&self) -> impl Iterator<Item = &Port> {
        self.outputs.iter().map(|side| &side.port)
    }

    /// The input called `name`, to be fed with `shape.product()` elements of type `T`. Where the graph leaves a dimension
    /// open, `shape` decides.
    ///
    /// # Errors
    /// [`InferenceError::Port`] when there is none, or of another type or shape.
    pub fn input<T: Element>(&mut self, name: &str, shape: &[i64]) -> Result<Input<T>, InferenceError> {
        let index = claim::<T>(&mut self.inputs, "input", name, shape)?;
        Ok(Input { session: self.id, index, marker: PhantomData })
    }

    /// The output called `name`; as [`Self::input`].
    ///
    /// # Errors
    /// [`InferenceError::Port`] when there is none, or of another type or shape.
    pub fn output<T: Element>(&mut self, name: &str, shape: &[i64]) -> Result<Output<T>, InferenceError> {
        let index = claim::<T>(&mut self.outputs, "output", name, shape)?;
        Ok(Output { session: self.id, index, marker: PhantomData })
    }

    /// Keeps a copy of `data` as the contents of `input` for every later run that does not feed it. Allocates the first
    /// time, then only writes.
    ///
    /// # Errors
    /// [`InferenceError::Port`] when the number of elements is wrong; the old contents stay.
    pub fn hold<T: Element>(&mut self, input: &Input<T>, data: &[T]) -> Result<(), InferenceError> {
        let bytes = ffi::bytes_of(data);
        let side = side(&mut self.inputs, input.session == self.id, input.index, bytes.len())?;
        let words = bytes.len().div_ceil(8);
        let held = side.held.get_or_insert_with(|| vec![0; words]);
        for (word, chunk) in held.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(whole);
        }
        Ok(())
    }

    /// Runs the graph once over the caller's buffers. Every input must be fed here or held; outputs that are not
    /// fetched are not computed where the runtime can avoid it.
    ///
    /// # Errors
    /// [`InferenceError::Port`] when a buffer has the wrong length, is given twice or is missing;
    /// [`InferenceError::Run`] with the runtime's message. The session stays usable.
    pub fn run(&mut self, feeds: &[Feed<'_>], fetches: &mut [Fetch<'_>]) -> Result<(), InferenceError> {
        let Self { id, raw, scratch, inputs, outputs } = self;
        mark(inputs, feeds.iter().map(|feed| (feed.session == *id, feed.index, feed.bytes.len())))?;
        mark(outputs, fetches.iter().map(|fetch| (fetch.session == *id, fetch.index, fetch.bytes.len())))?;
        if let Some(missing) = inputs.iter().find(|side| !side.given && side.held.is_none()) {
            return Err(missing.error("it is neither fed nor held"));
        }
        if fetches.is_empty() {
            return Err(InferenceError::Run("no output is fetched".to_owned()));
        }
        let held = inputs.iter().filter(|side| !side.given).filter_map(|side| {
            let words = side.held.as_deref()?;
            Some((side.slot.as_ref()?, ffi::words_as_bytes(words, side.bytes)))
        });
        let fed = feeds.iter().filter_map(|feed| Some((inputs.get(feed.index)?.slot.as_ref()?, feed.bytes)));
        let fetched =
            fetches.iter_mut().filter_map(|fetch| Some((outputs.get(fetch.index)?.slot.as_ref()?, &mut *fetch.bytes)));
        scratch.run(raw, fed.chain(held), fetched)
    }
}

impl Side {
    fn new(outlet: &Outlet) -> Result<Self, InferenceError> {
        let name = outlet.name().to_owned();
        let (Some(kind), Some(shape)) = (outlet.dtype().tensor_type(), outlet.dtype().tensor_shape()) else {
            return Err(InferenceError::Port { name, reason: "it is not a tensor".to_owned() });
        };
        let port = Port { name, element: format!("{kind:?}"), shape: shape.to_vec() };
        Ok(Self { port, kind, slot: None, bytes: 0, held: None, given: false })
    }

    fn error(&self, reason: impl Into<String>) -> InferenceError {
        InferenceError::Port { name: self.port.name.clone(), reason: reason.into() }
    }
}

fn claim<T: Element>(sides: &mut [Side], what: &str, name: &str, shape: &[i64]) -> Result<usize, InferenceError> {
    let wrong = |reason: String| InferenceError::Port { name: name.to_owned(), reason };
    let Some(index) = sides.iter().position(|side| side.port.name == name) else {
        let there: Vec<_> = sides.iter().map(|side| side.port.name.as_str()).collect();
        return Err(wrong(format!("the graph has no such {what}; it has {}", there.join(", "))));
    };
    let side = &mut sides[index];
    if side.kind != T::KIND {
        return Err(wrong(format!("the graph has {:?}, not {:?}", side.kind, T::KIND)));
    }
    let declared = &side.port.shape;
    let fits = declared.len() == shape.len()
        && declared.iter().zip(shape).all(|(&is, &want)| want >= 0 && (is == want || is < 0));
    if !fits {
        return Err(wrong(format!("the graph has shape {declared:?}, not {shape:?}")));
    }
    let bytes = shape
        .iter()
        .try_fold(size_of::<T>(), |product, &dimension| product.checked_mul(usize::try_from(dimension).ok()?))
        .ok_or_else(|| wrong(format!("shape {shape:?} is too large")))?;
    let slot_name = CString::new(name).map_err(|_| wrong("its name contains a zero byte".to_owned()))?;
    side.slot = Some(Slot { name: slot_name, kind: ONNXTensorElementDataType::from(T::KIND), shape: shape.to_vec() });
    if side.bytes != bytes {
        side.held = None;
        side.bytes = bytes;
    }
    Ok(index)
}

fn side(sides: &mut [Side], own: bool, index: usize, bytes: usize) -> Result<&mut Side, InferenceError> {
    let side = sides
        .get_mut(index)
        .filter(|side| own && side.slot.is_some())
        .ok_or_else(|| InferenceError::Run("a port of another session was given".to_owned()))?;
    if side.bytes != bytes {
        return Err(side.error(format!("{bytes} bytes were given, {} are needed", side.bytes)));
    }
    Ok(side)
}

/// Notes which ports the current run gives, each once and with the right length.
fn mark(sides: &mut [Side], given: impl Iterator<Item = (bool, usize, usize)>) -> Result<(), InferenceError> {
    for side in sides.iter_mut() {
        side.given = false;
    }
    for (own, index, bytes) in given {
        let side = side(sides, own, index, bytes)?;
        if side.given {
            return Err(side.error("it is given twice"));
        }
        side.given = true;
    }
    Ok(())
}

fn builder(runtime: &Runtime, config: &Config) -> Result<SessionBuilder, InferenceError> {
    let model = |error: &dyn std::fmt::Display| InferenceError::Model(error.to_string());
    let provider = |error: &dyn std::fmt::Display| InferenceError::Provider {
        provider: config.provider,
        message: on_one_line(&error.to_string()),
    };
    let mut builder = SessionBuilder::new(runtime.environment())
        .map_err(|error| model(&error))?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|error| model(&error))?
        // Frames come one at a time with pauses between them; spinning would burn a core through every pause.
        .with_intra_op_spinning(false)
        .map_err(|error| model(&error))?
        .with_no_environment_execution_providers()
        .map_err(|error| model(&error))?;
    if config.threads > 0 {
        builder = builder.with_intra_threads(config.threads as usize).map_err(|error| model(&error))?;
    }
    let device = i32::try_from(config.device).map_err(|error| provider(&error))?;
    let cuda = || ep::CUDA::default().with_device_id(device).build().error_on_failure();
    // Named in every case, the CPU included, so that the runtime does not choose a provider itself.
    let providers = match config.provider {
        Provider::Cpu => vec![ep::CPU::default().build().error_on_failure()],
        Provider::Cuda => vec![cuda()],
        Provider::Tensorrt => vec![tensorrt(config, device).build().error_on_failure(), cuda()],
    };
    builder = builder.with_execution_providers(providers).map_err(|error| provider(&error))?;
    if config.provider != Provider::Cpu {
        builder = builder.with_disable_cpu_fallback().map_err(|error| provider(&error))?;
    }
    Ok(builder)
}

fn tensorrt(config: &Config, device: i32) -> ep::TensorRT {
    let provider = ep::TensorRT::default().with_device_id(device);
    match &config.engine_cache {
        None => provider,
        Some(folder) => {
            let folder = folder.display().to_string();
            provider
                .with_engine_cache(true)
                .with_engine_cache_path(&folder)
                .with_timing_cache(true)
                .with_timing_cache_path(folder)
        }
    }
}

/// Loading on a GPU fails late for some causes: the provider registers and only the session finds that the driver or a
/// library is missing. Those are named as the provider's fault; a graph that is wrong is wrong on the CPU too.
fn refused(config: &Config, error: &ort::Error) -> InferenceError {
    let message = error.to_string();
    let loading =
        ["CUDA", "cuda", "cudnn", "TensorRT", "tensorrt", "nvinfer"].iter().any(|word| message.contains(word));
    match config.provider {
        Provider::Cuda | Provider::Tensorrt if loading => {
            InferenceError::Provider { provider: config.provider, message: on_one_line(&message) }
        }
        _ => InferenceError::Model(message),
    }
}

/// The runtime's message on one line; where there is no driver to talk to, with what that means in front.
fn on_one_line(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // cudaErrorInsufficientDriver, which is also what no driver at all looks like, and cudaErrorNoDevice.
    let driverless = ["CUDA failure 35:", "CUDA failure 100:", "libcuda.so.1"].iter().any(|sign| line.contains(sign));
    if driverless {
        format!(
            "no NVIDIA driver that is new enough answers: install it; in a container, start it with --gpus all ({line})"
        )
    } else {
        line
    }
}

#[cfg(test)]
mod messages {
    use super::on_one_line;

    #[test]
    fn a_missing_driver_is_named_first_and_nothing_is_lost() {
        let told = "[ONNXRuntimeError] : Parse\n CUDA failure 35: CUDA driver version is insufficient ; GPU=-1 \n";
        let line = on_one_line(told);
        assert!(line.starts_with("no NVIDIA driver") && line.contains("--gpus all"), "{line}");
        assert!(line.contains("CUDA failure 35") && !line.contains('\n'), "{line}");
        assert_eq!(
            on_one_line("libcudnn.so.9: cannot open\n shared object file"),
            "libcudnn.so.9: cannot open shared object file"
        );
    }
}
