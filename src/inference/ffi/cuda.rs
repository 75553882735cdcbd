//! CUDA's driver: what GPUs there are, memory on one of them, and a stream on which everything of one session happens in
//! order. Nothing here waits for the GPU but [`Stream::finish`], and reading or writing [`Pinned`] memory that a copy is
//! still under way for.

use std::ffi::CStr;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

/// The driver's library, under the name that drivers install it by.
const DRIVER: &str = "libcuda.so.1";

/// Why a GPU cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The driver's library does not load; the loader's words.
    NoDriver(String),
    /// The driver's library loads and cannot be used; the driver's words.
    Driver(String),
    /// There are so many GPUs, and the index is beyond.
    NoDevice(u32),
}

/// One GPU, as the driver tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: [i32; 2],
    /// The newest CUDA that the driver runs: 12040 for 12.4.
    pub driver: i32,
}

fn words(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("{error:?}"),
    }
}

/// Loads the driver and looks at GPU `index`. Makes no context and takes none of its memory.
pub fn look(index: u32) -> Result<Gpu, Trouble> {
    // The binding looks for the library itself, and panics where there is none.
    super::keep(Path::new(DRIVER)).map_err(Trouble::NoDriver)?;
    let driver = |error| Trouble::Driver(words(error));
    result::init().map_err(driver)?;
    let mut version = 0;
    // SAFETY: the driver is there and writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(driver)?;
    let count = result::device::get_count().map_err(driver)?;
    let count = u32::try_from(count).unwrap_or(0);
    if index >= count {
        return Err(Trouble::NoDevice(count));
    }
    let device = result::device::get(index as i32).map_err(driver)?;
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    // SAFETY: `device` is one that the driver gave.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) }.map_err(driver);
    Ok(Gpu {
        name: result::device::get_name(device).map_err(driver)?,
        capability: [attribute(MAJOR)?, attribute(MINOR)?],
        driver: version,
    })
}

/// A stream of one GPU. Holds the GPU's primary context, which the runtime uses too.
pub struct Stream {
    device: sys::CUdevice,
    context: sys::CUcontext,
    raw: sys::CUstream,
    /// The allocator's name in the runtime, and the GPU's index.
    place: (&'static CStr, i32),
    /// Copies issued so far, and how many of them are known to be over.
    issued: AtomicU64,
    over: AtomicU64,
    /// How often somebody waited.
    waits: AtomicU64,
}

// SAFETY: contexts and streams may be used from any thread; every use makes the context current first.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver locks for itself, the counters are atomic.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream on GPU `index`, which [`look`] has seen.
    pub fn open(index: u32) -> Result<Arc<Self>, String> {
        Self::at(index, c"Cuda")
    }

    /// As [`Self::open`], of memory that the runtime knows as `name`.
    fn at(index: u32, name: &'static CStr) -> Result<Arc<Self>, String> {
        let index = index as i32;
        let device = result::device::get(index).map_err(words)?;
        // SAFETY: `device` is one that the driver gave; what is retained is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(words)?;
        // SAFETY: the context was retained just now.
        let raw = unsafe { result::ctx::set_current(context) }
            .and_then(|()| result::stream::create(result::stream::StreamKind::NonBlocking));
        match raw {
            Ok(raw) => Ok(Arc::new(Self {
                device,
                context,
                raw,
                place: (name, index),
                issued: AtomicU64::new(0),
                over: AtomicU64::new(0),
                waits: AtomicU64::new(0),
            })),
            Err(error) => {
                // SAFETY: retained above and not kept.
                let _ = unsafe { result::primary_ctx::release(device) };
                Err(words(error))
            }
        }
    }

    /// The driver's handle.
    pub fn raw(&self) -> *mut () {
        self.raw.cast()
    }

    /// The allocator's name in the runtime, and the GPU's index.
    pub fn place(&self) -> (&'static CStr, i32) {
        self.place
    }

    /// How often somebody waited for this stream.
    pub fn waits(&self) -> u64 {
        self.waits.load(Relaxed)
    }

    /// Bytes that are free on the GPU, and all bytes.
    pub fn memory(&self) -> Result<[u64; 2], String> {
        self.enter()?;
        let (free, total) = result::mem_get_info().map_err(words)?;
        Ok([free as u64, total as u64])
    }

    /// Makes this thread one that may use the stream. A graph that another thread captures at the same time does not
    /// forbid anything to this one, nor does this one spoil it.
    pub fn enter(&self) -> Result<(), String> {
        // SAFETY: the context is retained as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(words)?;
        let mut mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the driver reads and writes one number; it is this thread's alone.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) }.result().map_err(words)
    }

    /// Waits until everything on the stream is done.
    pub fn finish(&self) -> Result<(), String> {
        let issued = self.issued.load(Relaxed);
        self.waits.fetch_add(1, Relaxed);
        // SAFETY: the stream is open as long as `self`.
        unsafe { result::stream::synchronize(self.raw) }.map_err(words)?;
        self.over.fetch_max(issued, Relaxed);
        Ok(())
    }

    /// Copies to the GPU, behind everything on the stream.
    pub fn upload(&self, to: &mut Block, from: &mut Pinned) -> Result<(), String> {
        let bytes = fits(to.bytes, from.bytes)?;
        from.last = self.issue();
        // SAFETY: both are `bytes` long and live until the copy is over: freeing waits, and so does touching `from`.
        let copied = unsafe { sys::cuMemcpyHtoDAsync_v2(to.address, from.data.as_ptr().cast(), bytes, self.raw) };
        copied.result().map_err(words)
    }

    /// Copies from the GPU, behind everything on the stream.
    pub fn download(&self, to: &mut Pinned, from: &Block) -> Result<(), String> {
        let bytes = fits(to.bytes, from.bytes)?;
        to.last = self.issue();
        // SAFETY: as in `upload`.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(to.data.as_ptr().cast(), from.address, bytes, self.raw) };
        copied.result().map_err(words)
    }

    /// Copies on the GPU, behind everything on the stream.
    pub fn copy(&self, to: &mut Block, from: &Block) -> Result<(), String> {
        let bytes = fits(to.bytes, from.bytes)?;
        self.issue();
        // SAFETY: both are `bytes` long and live until the copy is over: freeing waits.
        unsafe { result::memcpy_dtod_async(to.address, from.address, bytes, self.raw) }.map_err(words)
    }

    /// Zeroes, behind everything on the stream.
    pub fn zero(&self, block: &mut Block) -> Result<(), String> {
        self.issue();
        // SAFETY: the block is so long and lives until this is over: freeing waits.
        unsafe { result::memset_d8_async(block.address, 0, block.bytes, self.raw) }.map_err(words)
    }

    fn issue(&self) -> u64 {
        self.issued.fetch_add(1, Relaxed) + 1
    }

    /// Waits unless copy `number` is known to be over.
    fn settle(&self, number: u64) -> Result<(), String> {
        if number <= self.over.load(Relaxed) { Ok(()) } else { self.finish() }
    }
}

fn fits(to: usize, from: usize) -> Result<usize, String> {
    if to == from { Ok(to) } else { Err(format!("{from} bytes do not fit into {to}")) }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: opened in `at`, closed once; closing waits for what is on it. A driver that fails here is past help.
        let _ = self.enter().map(|()| unsafe { result::stream::destroy(self.raw) });
        // SAFETY: retained in `at`, released once.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Two events on a stream, and the time between them on the GPU's own clock.
pub struct Timer {
    stream: Arc<Stream>,
    /// The beginning and the end.
    events: [sys::CUevent; 2],
}

// SAFETY: events may be used from any thread; every use makes the context current first.
unsafe impl Send for Timer {}

impl Timer {
    /// A timer of what happens on `stream`.
    pub fn new(stream: &Arc<Stream>) -> Result<Self, String> {
        stream.enter()?;
        let event = || result::event::create(sys::CUevent_flags_enum::CU_EVENT_DEFAULT).map_err(words);
        let begin = event()?;
        match event() {
            Ok(end) => Ok(Self { stream: stream.clone(), events: [begin, end] }),
            Err(error) => {
                // SAFETY: made just now and not kept.
                let _ = unsafe { result::event::destroy(begin) };
                Err(error)
            }
        }
    }

    /// The time runs from here on, behind everything on the stream. The context must be current: [`Stream::enter`].
    pub fn begin(&self) -> Result<(), String> {
        self.record(0)
    }

    /// The time runs up to here, behind everything on the stream.
    pub fn end(&self) -> Result<(), String> {
        self.record(1)
    }

    fn record(&self, which: usize) -> Result<(), String> {
        // SAFETY: event and stream live as long as `self`.
        unsafe { result::event::record(self.events[which], self.stream.raw) }.map_err(words)
    }

    /// The time between the last beginning and the last end, to about half a microsecond. Waits for nothing: an error when
    /// the GPU has not come so far.
    pub fn elapsed(&self) -> Result<Duration, String> {
        let [begin, end] = self.events;
        // SAFETY: both were made in `new`, on one GPU, and live as long as `self`.
        let ms = unsafe { result::event::elapsed(begin, end) }.map_err(words)?;
        Ok(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1000.0))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let _ = self.stream.enter();
        for event in self.events {
            // SAFETY: made in `new`, given back once; the driver keeps one that is still under way until it is over.
            let _ = unsafe { result::event::destroy(event) };
        }
    }
}

/// Memory of the GPU.
pub struct Block {
    stream: Arc<Stream>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Block {
    /// `bytes` zeroed bytes.
    pub fn new(stream: &Arc<Stream>, bytes: usize) -> Result<Self, String> {
        stream.enter()?;
        // SAFETY: the context is current; the memory is zeroed before anybody reads it, and freed in `drop`.
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        let address = address.map_err(|error| format!("{bytes} bytes of the GPU's memory: {}", words(error)))?;
        let mut block = Self { stream: stream.clone(), address, bytes };
        stream.zero(&mut block)?;
        Ok(block)
    }

    /// Where it begins, in the GPU's memory.
    pub fn address(&self) -> *mut u8 {
        self.address as *mut u8
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed once, after everything that may still use it.
        let _ = self.stream.enter().and_then(|()| self.stream.finish()).map(|()| unsafe {
            let _ = result::free_sync(self.address);
        });
    }
}

/// Memory of the host that the GPU copies from and to by itself.
pub struct Pinned {
    stream: Arc<Stream>,
    data: NonNull<u8>,
    bytes: usize,
    /// The last copy that reads or writes it.
    last: u64,
}

// SAFETY: it owns its memory alone.
unsafe impl Send for Pinned {}

impl Pinned {
    /// `bytes` zeroed bytes.
    pub fn new(stream: &Arc<Stream>, bytes: usize) -> Result<Self, String> {
        stream.enter()?;
        // SAFETY: the context is current; the memory is freed in `drop`.
        let data = unsafe { result::malloc_host(bytes.max(1), 0) };
        let data = data.map_err(|error| format!("{bytes} bytes of pinned memory: {}", words(error)))?;
        let data = NonNull::new(data.cast::<u8>()).ok_or_else(|| "no pinned memory".to_owned())?;
        // SAFETY: so many bytes were allocated just now.
        unsafe { data.as_ptr().write_bytes(0, bytes.max(1)) };
        Ok(Self { stream: stream.clone(), data, bytes, last: 0 })
    }

    /// The contents, once no copy is under way for them.
    pub fn bytes(&self) -> Result<&[u8], String> {
        self.stream.settle(self.last)?;
        // SAFETY: so long and initialised as long as `self`; no copy writes it any more.
        Ok(unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.bytes) })
    }

    /// As [`Self::bytes`], writable.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], String> {
        self.stream.settle(self.last)?;
        // SAFETY: as in `bytes`; borrowed alone, and no copy reads it any more.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.bytes) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed once, after the last copy.
        let _ = self.stream.enter().and_then(|()| self.stream.settle(self.last)).map(|()| unsafe {
            let _ = result::free_host(self.data.as_ptr().cast());
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::PathBuf;
    use std::process::Command;

    /// A driver whose GPUs are memory of the host: it counts what is open, and what waited.
    const FAKE: &str = r#"
#include <stdlib.h>
#include <string.h>
typedef int R; typedef unsigned long long P;
static int open_contexts, open_streams, open_blocks, open_pinned, waits, current, count = 2, version = 12040, mode = -1;
R cuInit(unsigned f) { return getenv("FAKE_BROKEN") ? 999 : 0; }
R cuDriverGetVersion(int *v) { *v = version; return 0; }
R cuDeviceGetCount(int *n) { *n = getenv("FAKE_NONE") ? 0 : count; return 0; }
R cuDeviceGet(int *d, int i) { *d = i; return 0; }
R cuDeviceGetName(char *n, int l, int d) { strncpy(n, "Fake", l); return 0; }
R cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 9 : 0; return 0; }
R cuDevicePrimaryCtxRetain(void **c, int d) { open_contexts++; *c = &open_contexts; return 0; }
R cuDevicePrimaryCtxRelease_v2(int d) { open_contexts--; return 0; }
R cuCtxSetCurrent(void *c) { current = c == &open_contexts; return 0; }
R cuThreadExchangeStreamCaptureMode(int *m) { int old = mode; mode = *m; *m = old; return 0; }
R cuStreamCreate(void **s, unsigned f) { open_streams++; *s = &open_streams; return f == 1 ? 0 : 1; }
R cuStreamDestroy_v2(void *s) { open_streams--; return 0; }
R cuStreamSynchronize(void *s) { waits++; return 0; }
R cuMemGetInfo_v2(size_t *f, size_t *t) { *f = 1000; *t = 2000; return current ? 0 : 201; }
R cuMemAlloc_v2(P *p, size_t n) { if (n > 1 << 20) return 2; open_blocks++; void *q = malloc(n); memset(q, 0xAA, n); *p = (P)q; return 0; }
R cuMemFree_v2(P p) { open_blocks--; free((void *)p); return 0; }
R cuMemHostAlloc(void **p, size_t n, unsigned f) { open_pinned++; *p = malloc(n); memset(*p, 0xAA, n); return 0; }
R cuMemFreeHost(void *p) { open_pinned--; free(p); return 0; }
R cuMemsetD8Async(P p, unsigned char c, size_t n, void *s) { memset((void *)p, c, n); return 0; }
R cuMemcpyHtoDAsync_v2(P d, const void *s, size_t n, void *t) { memcpy((void *)d, s, n); return 0; }
R cuMemcpyDtoHAsync_v2(void *d, P s, size_t n, void *t) { memcpy(d, (void *)s, n); return 0; }
R cuMemcpyDtoDAsync_v2(P d, P s, size_t n, void *t) { memcpy((void *)d, (void *)s, n); return 0; }
R cuGetErrorName(R r, const char **n) { *n = r == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN"; return 0; }
R cuGetErrorString(R r, const char **n) { *n = r == 2 ? "out of memory" : "unknown error"; return 0; }
typedef struct { int at; } E;
static int open_events, clock_ms;
R cuEventCreate(E **e, unsigned f) { open_events++; *e = calloc(1, sizeof(E)); return f; }
R cuEventRecord(E *e, void *s) { e->at = clock_ms += 3; return s == &open_streams ? 0 : 400; }
R cuEventElapsedTime(float *ms, E *a, E *b) { if (!b->at) return 600; *ms = b->at - a->at; return 0; }
R cuEventDestroy_v2(E *e) { open_events--; free(e); return 0; }
int fake_open(void) { return open_contexts + open_streams + open_blocks + open_pinned + open_events; }
int fake_mode(void) { return mode; }
"#;

    /// Runs one of the tests below in a process that finds the driver of [`FAKE`].
    fn with_driver(test: &str, variable: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("fake.c");
        std::fs::write(&source, FAKE).unwrap();
        let library = folder.path().join(DRIVER);
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-w", "-o"]).arg(&library).arg(&source).status().unwrap();
        assert!(built.success());
        // The binding asks for this name first.
        std::os::unix::fs::symlink(&library, folder.path().join("libcuda.so")).unwrap();
        let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &name, "--ignored", "--nocapture"]).env("LD_LIBRARY_PATH", folder.path());
        command.envs(variable.map(|name| (name, "1")));
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && text.contains("1 passed"), "{text}");
    }

    fn asked(name: &[u8]) -> i32 {
        // SAFETY: the library of `FAKE`, which has these functions of no arguments.
        unsafe {
            let library = libloading::Library::new(PathBuf::from(DRIVER)).unwrap();
            library.get::<unsafe extern "C" fn() -> i32>(name).unwrap()()
        }
    }

    #[test]
    fn a_gpu_is_looked_at_and_used_and_given_back() {
        with_driver("uses_a_gpu", None);
        with_driver("finds_no_gpu", Some("FAKE_NONE"));
        with_driver("finds_a_broken_driver", Some("FAKE_BROKEN"));
    }

    #[test]
    #[ignore = "run by a_gpu_is_looked_at_and_used_and_given_back"]
    fn finds_no_gpu() {
        assert_eq!(look(0), Err(Trouble::NoDevice(0)));
    }

    #[test]
    #[ignore = "run by a_gpu_is_looked_at_and_used_and_given_back"]
    fn finds_a_broken_driver() {
        assert_eq!(look(0), Err(Trouble::Driver("unknown error (CUDA_ERROR_UNKNOWN)".into())));
    }

    #[test]
    #[ignore = "run by a_gpu_is_looked_at_and_used_and_given_back"]
    fn uses_a_gpu() {
        assert_eq!(look(2), Err(Trouble::NoDevice(2)));
        assert_eq!(look(1), Ok(Gpu { name: "Fake".into(), capability: [8, 9], driver: 12040 }));
        let stream = Stream::open(1).unwrap();
        assert_eq!(stream.place(), (c"Cuda", 1));
        assert_eq!(stream.memory(), Ok([1000, 2000]));
        assert_eq!(asked(b"fake_mode\0"), 1, "captures of other threads are none of ours");
        let (mut a, mut b) = (Block::new(&stream, 16).unwrap(), Block::new(&stream, 16).unwrap());
        let mut pinned = Pinned::new(&stream, 16).unwrap();
        assert_eq!(stream.waits(), 0);

        // Fresh memory is zeroed.
        stream.download(&mut pinned, &a).unwrap();
        assert_eq!(pinned.bytes(), Ok(&[0; 16][..]));
        assert_eq!(stream.waits(), 1, "reading waits for the copy");
        assert_eq!(pinned.bytes(), Ok(&[0; 16][..]));
        assert_eq!(stream.waits(), 1, "once");

        // A frame: up, across, down, and one wait.
        pinned.bytes_mut().unwrap().fill(7);
        stream.upload(&mut a, &mut pinned).unwrap();
        stream.copy(&mut b, &a).unwrap();
        let mut back = Pinned::new(&stream, 16).unwrap();
        stream.download(&mut back, &b).unwrap();
        assert_eq!(stream.waits(), 1);
        assert_eq!(back.bytes(), Ok(&[7; 16][..]));
        pinned.bytes_mut().unwrap().fill(8);
        assert_eq!(stream.waits(), 2, "the wait for the last copy is one for those before");

        // Time on the GPU's clock, which moves by 3 ms with every event.
        let timer = Timer::new(&stream).unwrap();
        assert!(timer.elapsed().is_err(), "nothing was timed");
        timer.begin().unwrap();
        assert!(timer.elapsed().is_err(), "it is still under way");
        timer.end().unwrap();
        assert_eq!(timer.elapsed(), Ok(Duration::from_millis(3)));
        assert_eq!(stream.waits(), 2, "taking the time waits for nothing");

        let mut short = Block::new(&stream, 8).unwrap();
        assert!(stream.upload(&mut short, &mut pinned).unwrap_err().contains("16 bytes do not fit into 8"));
        stream.zero(&mut b).unwrap();
        stream.download(&mut back, &b).unwrap();
        assert_eq!(back.bytes(), Ok(&[0; 16][..]));
        let error = Block::new(&stream, 2 << 20).err().unwrap();
        assert!(error.contains("out of memory (CUDA_ERROR_OUT_OF_MEMORY)"), "{error}");
        assert!(asked(b"fake_open\0") > 0);
        drop((a, b, short, pinned, back, timer, stream));
        assert_eq!(asked(b"fake_open\0"), 0, "everything was given back");
    }
}
