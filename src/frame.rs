//! Frames, time stamps and pixel formats: plain data that every stage shares. No codec and no device calls live here.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A presentation time in ticks of 90 kHz (ISO/IEC 13818-1), unwrapped: the 33-bit counter of the transport stream is
/// extended, so values compare and subtract as plain numbers for the whole life of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Ticks in one second.
    pub const HZ: i64 = 90_000;

    /// The time in seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / Self::HZ as f64
    }

    /// `self - earlier` in ticks of 90 kHz.
    pub fn since(self, earlier: Timestamp) -> i64 {
        self.0 - earlier.0
    }
}

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Size {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// A size of `width` × `height` pixels.
    pub const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// `width × height`.
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// How the samples of a [`VideoFrame`] lie in its buffer. Rows are tight: no padding between them or between planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelFormat {
    /// Planar 4:2:0: Y of `w × h`, then U and V of `⌈w/2⌉ × ⌈h/2⌉` bytes.
    I420,
    /// Packed RGB, three bytes a pixel: the `u8` NHWC layout that graphs take and give.
    Rgb24,
}

impl PixelFormat {
    /// Bytes of one frame of `size`.
    pub fn bytes(self, size: Size) -> usize {
        let (w, h) = (size.width as usize, size.height as usize);
        match self {
            PixelFormat::I420 => w * h + 2 * w.div_ceil(2) * h.div_ceil(2),
            PixelFormat::Rgb24 => w * h * 3,
        }
    }
}

/// The matrix that relates YUV and RGB (ITU-T H.273, `MatrixCoefficients`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Matrix {
    /// ITU-R BT.601, also what an untagged stream is taken for.
    #[default]
    Bt601,
    /// ITU-R BT.709.
    Bt709,
}

/// How YUV samples are to be read. Meaningless for [`PixelFormat::Rgb24`], where it says what the encoder must write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Color {
    /// The YUV matrix.
    pub matrix: Matrix,
    /// True for samples of 0–255, false for the video range 16–235.
    pub full_range: bool,
    /// True where the stream itself carried the tag, so that the output repeats it; false leaves the output untagged.
    pub tagged: bool,
}

/// 16 bytes of a hash: tells one graph, or one set of parameters, from others.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The one that is written in these 32 hex digits; nothing where they are not.
    pub fn parse(hex: &str) -> Option<Self> {
        let digits = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(hex, 16).ok().map(|number| Self(number.to_be_bytes())))?
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// When a frame passed each stage, all from one monotonic clock, what it came in as, and what it was made with. A stage that
/// was not reached is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamps {
    /// The last byte of the frame's access unit came out of the socket.
    pub received: Option<Instant>,
    /// Decoded, scaled and cropped.
    pub decoded: Option<Instant>,
    /// The model began with it.
    pub started: Option<Instant>,
    /// The model was done with it.
    pub done: Option<Instant>,
    /// H.264 bytes were there.
    pub encoded: Option<Instant>,
    /// The bytes were handed to the socket of the output segment.
    pub published: Option<Instant>,
    /// Bytes of the frame's access unit; 0 where nobody knows.
    pub bytes_in: u32,
    /// Pixels of the input's picture, before it was scaled and cropped; 0 where nobody knows.
    pub pixels_in: u32,
    /// The parameters that the model had when it took the frame: MD5 of what was sent, as the status shows it.
    pub params: Option<Fingerprint>,
    /// The model's graph, as the log names it when it is loaded; `None` for a model without one.
    pub graph: Option<Fingerprint>,
    /// Time that the GPU worked on the frame, by events on its own stream; `None` without a GPU.
    pub gpu: Option<Duration>,
}

/// One picture with its identity and its times.
#[derive(Debug)]
pub struct VideoFrame {
    /// Counts the decoded frames of a session from 0, dropped ones included.
    pub seq: u64,
    /// The input's presentation time, kept through the pipeline.
    pub pts: Timestamp,
    /// Width and height in pixels.
    pub size: Size,
    /// Layout of `data`.
    pub format: PixelFormat,
    /// How to read YUV samples.
    pub color: Color,
    /// Times of the stages passed so far.
    pub stamps: Stamps,
    /// `format.bytes(size)` bytes.
    pub data: FrameBuf,
}

impl VideoFrame {
    /// A frame over a buffer of the right length for `size` and `format`, taken from `pool`. Its contents are whatever the
    /// buffer held before. `None` when the pool has handed out all of its buffers.
    pub fn take(pool: &FramePool, size: Size, format: PixelFormat, pts: Timestamp) -> Option<Self> {
        let data = pool.take(format.bytes(size))?;
        Some(Self { seq: 0, pts, size, format, color: Color::default(), stamps: Stamps::default(), data })
    }

    /// The planes of an I420 frame, Y, U and V; an RGB frame gives its bytes and two empty slices.
    pub fn planes(&self) -> [&[u8]; 3] {
        match self.format {
            PixelFormat::Rgb24 => [&self.data, &[], &[]],
            PixelFormat::I420 => {
                let (luma, chroma) = self.plane_lengths();
                let (y, uv) = self.data.split_at(luma);
                let (u, v) = uv.split_at(chroma);
                [y, u, v]
            }
        }
    }

    /// As [`Self::planes`], writable.
    pub fn planes_mut(&mut self) -> [&mut [u8]; 3] {
        let (luma, chroma) = self.plane_lengths();
        match self.format {
            PixelFormat::Rgb24 => [&mut self.data, &mut [], &mut []],
            PixelFormat::I420 => {
                let (y, uv) = self.data.split_at_mut(luma);
                let (u, v) = uv.split_at_mut(chroma);
                [y, u, v]
            }
        }
    }

    fn plane_lengths(&self) -> (usize, usize) {
        let (w, h) = (self.size.width as usize, self.size.height as usize);
        (w * h, w.div_ceil(2) * h.div_ceil(2))
    }
}

/// A bounded store of picture buffers, so that a running stream allocates nothing per frame.
///
/// Cloning gives another handle to the same store. At most `capacity` buffers are out at a time; a buffer comes back
/// when its [`FrameBuf`] is dropped.
///
/// The buffer that came back last goes out first: it is warm in the caches, and a stream that needs three buffers touches
/// the memory of three, however many a burst may use.
#[derive(Clone)]
pub struct FramePool {
    shared: Arc<PoolShared>,
}

struct PoolShared {
    /// Held for one push or pop.
    free: Mutex<Vec<Vec<u8>>>,
}

impl PoolShared {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // No code panics while it holds the lock.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FramePool {
    /// A pool of `capacity` buffers, each allocated when first needed.
    pub fn new(capacity: usize) -> Self {
        Self { shared: Arc::new(PoolShared { free: Mutex::new(vec![Vec::new(); capacity]) }) }
    }

    /// A buffer of `len` bytes, or `None` when all are in use.
    pub fn take(&self, len: usize) -> Option<FrameBuf> {
        let mut bytes = self.shared.free().pop()?;
        if bytes.len() != len {
            bytes.clear();
            bytes.shrink_to(len);
            bytes.resize(len, 0);
        }
        Some(FrameBuf { bytes, home: Some(self.shared.clone()) })
    }

    /// Buffers that could be taken now.
    pub fn available(&self) -> usize {
        self.shared.free().len()
    }
}

/// The bytes of one picture. Returns to its pool when dropped.
pub struct FrameBuf {
    bytes: Vec<u8>,
    home: Option<Arc<PoolShared>>,
}

impl FrameBuf {
    /// A buffer of its own, outside any pool: for files and tests.
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self { bytes, home: None }
    }
}

impl Deref for FrameBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for FrameBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for FrameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameBuf({} bytes)", self.bytes.len())
    }
}

impl Drop for FrameBuf {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // Room is there for every buffer the pool ever gave out, so this never allocates.
            home.free().push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_are_bounded() {
        let pool = FramePool::new(2);
        let a = pool.take(10).expect("first");
        let _b = pool.take(20).expect("second");
        assert!(pool.take(1).is_none());
        drop(a);
        assert_eq!(pool.available(), 1);
        assert_eq!(pool.take(30).expect("again").len(), 30);
    }

    #[test]
    fn the_buffer_that_came_back_last_goes_out_first() {
        let pool = FramePool::new(3);
        let (a, b) = (pool.take(8).expect("a"), pool.take(8).expect("b"));
        let place = b.as_ptr();
        drop(a);
        drop(b);
        assert_eq!(pool.take(8).expect("again").as_ptr(), place);
    }

    #[test]
    fn a_fingerprint_is_32_hex_digits() {
        let text = "00ff0123456789abcdef0123456789ab";
        assert_eq!(Fingerprint::parse(text).map(|it| it.to_string()).as_deref(), Some(text));
        for bad in ["", "00ff", "+0ff0123456789abcdef0123456789ab", "00ff0123456789abcdef0123456789abcd"] {
            assert_eq!(Fingerprint::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn odd_sizes_have_rounded_chroma() {
        assert_eq!(PixelFormat::I420.bytes(Size::new(3, 3)), 9 + 8);
        let pool = FramePool::new(1);
        let frame = VideoFrame::take(&pool, Size::new(3, 3), PixelFormat::I420, Timestamp(0)).expect("frame");
        assert_eq!(frame.planes().map(<[u8]>::len), [9, 4, 4]);
    }
}
