//! Running a session over memory that stays where it is: ONNX Runtime's IO binding.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use ort::AsPointer;
use ort::ep;
use ort::session::{RunOptions, Session};
use ort::sys::{
    ONNXTensorElementDataType, OrtAllocatorType, OrtIoBinding, OrtMemType, OrtMemoryInfo, OrtStatusPtr, OrtValue,
};

use super::cuda::Stream;
use super::host::Block;

/// How a tensor is called and what it is.
pub struct Slot {
    /// Name of the input or output in the graph.
    pub name: CString,
    /// Element type.
    pub kind: ONNXTensorElementDataType,
    /// Dimensions.
    pub shape: Vec<i64>,
}

/// Where memory is, in the runtime's words.
pub struct Place(NonNull<OrtMemoryInfo>);

// SAFETY: the description is immutable and not tied to a thread.
unsafe impl Send for Place {}

fn checked(status: OrtStatusPtr) -> Result<(), ort::Error> {
    // SAFETY: every caller has the status from the runtime just now and hands it on.
    unsafe { ort::Error::result_from_status(status) }
}

fn some<T>(pointer: *mut T, what: &str) -> Result<NonNull<T>, ort::Error> {
    NonNull::new(pointer).ok_or_else(|| ort::Error::new(format!("the runtime made no {what}")))
}

impl Place {
    /// Memory of the allocator `name`, such as `Cpu` or `Cuda`, of device `id`. The runtime must be loaded.
    pub fn new(name: &CStr, id: i32) -> Result<Self, ort::Error> {
        let mut raw: *mut OrtMemoryInfo = ptr::null_mut();
        // SAFETY: the name is a C string and, as `raw`, outlives the call.
        checked(unsafe {
            (ort::api().CreateMemoryInfo)(
                name.as_ptr(),
                OrtAllocatorType::OrtDeviceAllocator,
                id,
                OrtMemType::OrtMemTypeDefault,
                &mut raw,
            )
        })?;
        Ok(Self(some(raw, "description of memory")?))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: made in `new`, released once.
        unsafe { (ort::api().ReleaseMemoryInfo)(self.0.as_ptr()) };
    }
}

/// A tensor over memory that somebody else owns. It reads and writes nothing itself.
pub struct Value(NonNull<OrtValue>);

// SAFETY: a value is a shape and an address, and not tied to a thread.
unsafe impl Send for Value {}

impl Value {
    fn new(place: &Place, slot: &Slot, address: *mut u8, bytes: usize) -> Result<Self, ort::Error> {
        let mut raw: *mut OrtValue = ptr::null_mut();
        // SAFETY: the runtime stores pointer and length, and refuses a length shorter than the shape needs. It looks behind
        // the pointer only in `Binding::run`, which says who keeps the memory alive.
        checked(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                place.0.as_ptr(),
                address.cast(),
                bytes,
                slot.shape.as_ptr(),
                slot.shape.len(),
                slot.kind,
                &mut raw,
            )
        })?;
        Ok(Self(some(raw, "tensor")?))
    }

    /// The tensor of `slot` in a block of the host.
    pub fn host(place: &Place, slot: &Slot, block: &Block) -> Result<Self, ort::Error> {
        Self::new(place, slot, block.address(), block.bytes().len())
    }

    /// The tensor of `slot` in a block of a device.
    pub fn device(place: &Place, slot: &Slot, block: &super::cuda::Block) -> Result<Self, ort::Error> {
        Self::new(place, slot, block.address(), block.bytes())
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: made in `new`, released once; a binding that knows the value has its own count.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) };
    }
}

/// A slice of the caller's for one run.
pub struct Lent<'a> {
    slot: &'a Slot,
    output: bool,
    address: *mut u8,
    bytes: usize,
    slice: PhantomData<&'a mut [u8]>,
}

impl<'a> Lent<'a> {
    /// Read by the run.
    pub fn input(slot: &'a Slot, data: &'a [u8]) -> Self {
        // The runtime takes a mutable pointer for every tensor and only reads those that are inputs.
        Self { slot, output: false, address: data.as_ptr().cast_mut(), bytes: data.len(), slice: PhantomData }
    }

    /// Written by the run.
    pub fn output(slot: &'a Slot, data: &'a mut [u8]) -> Self {
        Self { slot, output: true, address: data.as_mut_ptr(), bytes: data.len(), slice: PhantomData }
    }
}

/// What a session reads and writes: tensors that stay, and slots whose memory is lent for each run.
pub struct Binding {
    raw: NonNull<OrtIoBinding>,
    /// What is bound for the lent slots, in their order: slot, address and bytes. Compared, never followed.
    bound: Vec<(*const Slot, *const u8, usize)>,
    /// How many slots are lent in each run.
    count: usize,
}

// SAFETY: a binding is a list of values and not tied to a thread; the pointers are compared and never followed.
unsafe impl Send for Binding {}

impl Binding {
    /// An empty binding of `session`, of which every run lends `count` slots. It must not outlive the session.
    pub fn new(session: &mut Session, count: usize) -> Result<Self, ort::Error> {
        let mut raw: *mut OrtIoBinding = ptr::null_mut();
        // SAFETY: the session is borrowed for the call, `raw` outlives it.
        checked(unsafe { (ort::api().CreateIoBinding)(session.ptr_mut(), &mut raw) })?;
        Ok(Self { raw: some(raw, "binding")?, bound: Vec::with_capacity(count), count })
    }

    /// Binds an input to a tensor that stays. Its memory must live as long as this binding is run.
    pub fn input(&mut self, slot: &Slot, value: &Value) -> Result<(), ort::Error> {
        // SAFETY: name and value outlive the call; the binding keeps a count of the value.
        checked(unsafe { (ort::api().BindInput)(self.raw.as_ptr(), slot.name.as_ptr(), value.0.as_ptr()) })
    }

    /// Binds an output to a tensor that stays; as [`Self::input`].
    pub fn output(&mut self, slot: &Slot, value: &Value) -> Result<(), ort::Error> {
        // SAFETY: as in `input`.
        checked(unsafe { (ort::api().BindOutput)(self.raw.as_ptr(), slot.name.as_ptr(), value.0.as_ptr()) })
    }

    /// Runs `session`, which must be the binding's, once. `lent` names the same slots in the same order in every run.
    pub fn run<'a>(
        &mut self,
        session: &mut Session,
        options: &RunOptions,
        place: &Place,
        lent: impl Iterator<Item = Lent<'a>>,
    ) -> Result<(), ort::Error> {
        let mut given = 0;
        for one in lent {
            let now = (ptr::from_ref(one.slot), one.address.cast_const(), one.bytes);
            match self.bound.get(given) {
                Some(before) if before.0 != now.0 => return Err(ort::Error::new("another slot is lent than before")),
                // The same memory as in the run before, lent once more.
                Some(before) if *before == now => {}
                _ => {
                    // Forgotten first: a slot whose binding fails must not look bound.
                    self.bound.truncate(given);
                    let value = Value::new(place, one.slot, one.address, one.bytes)?;
                    if one.output { self.output(one.slot, &value) } else { self.input(one.slot, &value) }?;
                    self.bound.push(now);
                }
            }
            given += 1;
        }
        if given != self.count {
            return Err(ort::Error::new(format!("{given} slots are lent, {} are needed", self.count)));
        }
        // SAFETY: the session is borrowed alone for the call. Every lent slot is bound to memory that was lent to this call;
        // every other one to a tensor whose memory its owner keeps, see `input`. All outputs have memory, so the runtime
        // allocates none.
        checked(unsafe { (ort::api().RunWithBinding)(session.ptr_mut(), options.ptr(), self.raw.as_ptr()) })
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: made in `new`, released once.
        unsafe { (ort::api().ReleaseIoBinding)(self.raw.as_ptr()) };
    }
}

/// CUDA on `stream`, which the session's owner keeps for longer than the session.
pub fn on_stream(provider: ep::CUDA, stream: &Stream) -> ep::CUDA {
    // SAFETY: the stream is open as long as `stream`; see above.
    unsafe { provider.with_compute_stream(stream.raw().cast()) }
}

/// As [`on_stream`], of TensorRT.
pub fn tensorrt_on_stream(provider: ep::TensorRT, stream: &Stream) -> ep::TensorRT {
    // SAFETY: as in `on_stream`.
    unsafe { provider.with_compute_stream(stream.raw().cast()) }
}
