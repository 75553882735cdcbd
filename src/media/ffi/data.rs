//! Pictures, sample blocks and packets of FFmpeg.

use std::ffi::{CStr, c_int};
use std::ptr::{self, NonNull};
use std::slice;

use ffmpeg_next::ffi as sys;

use super::AvError;
use crate::frame::{Color, Matrix, Size};

/// An `AVFrame`.
pub(super) struct Frame(NonNull<sys::AVFrame>);

// SAFETY: an AVFrame has no thread affinity; its buffers are reference counted atomically.
unsafe impl Send for Frame {}

impl Frame {
    pub fn new() -> Self {
        // SAFETY: av_frame_alloc has no preconditions. It returns null only when memory is exhausted, as Box would abort.
        let frame = unsafe { sys::av_frame_alloc() };
        match NonNull::new(frame) {
            Some(frame) => Self(frame),
            None => std::alloc::handle_alloc_error(std::alloc::Layout::new::<sys::AVFrame>()),
        }
    }

    pub fn ptr(&self) -> *mut sys::AVFrame {
        self.0.as_ptr()
    }

    pub fn get(&self) -> &sys::AVFrame {
        // SAFETY: the pointer is valid until drop, and shared access goes through &self only.
        unsafe { self.0.as_ref() }
    }

    pub fn get_mut(&mut self) -> &mut sys::AVFrame {
        // SAFETY: as for `get`, with unique access through &mut self.
        unsafe { self.0.as_mut() }
    }

    pub fn unref(&mut self) {
        // SAFETY: a valid frame; its references are given up and its fields reset.
        unsafe { sys::av_frame_unref(self.ptr()) };
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let mut frame = self.ptr();
        // SAFETY: the frame is ours and is not used again.
        unsafe { sys::av_frame_free(&mut frame) };
    }
}

/// A decoded picture, or one allocated for an encoder.
pub(in crate::media) struct Picture(pub(super) Frame);

impl Picture {
    /// An empty one, to be filled by a decoder.
    pub fn empty() -> Self {
        Self(Frame::new())
    }

    /// A writable picture of `size` whose rows are aligned and padded as FFmpeg's vector code wants them.
    pub fn allocate(size: Size, format: sys::AVPixelFormat) -> Result<Self, AvError> {
        let mut frame = Frame::new();
        let f = frame.get_mut();
        f.width = size.width as c_int;
        f.height = size.height as c_int;
        f.format = format as c_int;
        // SAFETY: width, height and format are set, as av_frame_get_buffer requires.
        AvError::check(unsafe { sys::av_frame_get_buffer(frame.ptr(), 64) })?;
        Ok(Self(frame))
    }

    /// Width and height in pixels; zero when empty.
    pub fn size(&self) -> Size {
        let f = self.0.get();
        Size::new(f.width.max(0) as u32, f.height.max(0) as u32)
    }

    /// Presentation time in the units that went in, if any.
    pub fn pts(&self) -> Option<i64> {
        let f = self.0.get();
        [f.pts, f.best_effort_timestamp].into_iter().find(|&t| t != sys::AV_NOPTS_VALUE)
    }

    /// Whether the decoder had to guess some of it.
    pub fn damaged(&self) -> bool {
        let f = self.0.get();
        f.decode_error_flags != 0 || f.flags & sys::AV_FRAME_FLAG_CORRUPT as c_int != 0
    }

    /// The pixel format.
    pub fn format(&self) -> c_int {
        self.0.get().format
    }

    /// FFmpeg's name of the pixel format.
    pub fn format_name(&self) -> String {
        format_name(self.format())
    }

    /// Whether the planes are those of I420 (range aside).
    pub fn is_i420(&self) -> bool {
        let f = self.format();
        f == sys::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int || f == sys::AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int
    }

    /// The matrix and range that the stream states.
    pub fn color(&self) -> Color {
        let f = self.0.get();
        let jpeg = f.format == sys::AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int
            || f.format == sys::AVPixelFormat::AV_PIX_FMT_YUVJ422P as c_int
            || f.format == sys::AVPixelFormat::AV_PIX_FMT_YUVJ444P as c_int;
        let full_range = jpeg || f.color_range == sys::AVColorRange::AVCOL_RANGE_JPEG;
        let (matrix, known) = match f.colorspace {
            sys::AVColorSpace::AVCOL_SPC_BT709 => (Matrix::Bt709, true),
            sys::AVColorSpace::AVCOL_SPC_BT470BG | sys::AVColorSpace::AVCOL_SPC_SMPTE170M => (Matrix::Bt601, true),
            _ => (Matrix::Bt601, false),
        };
        Color { matrix, full_range, tagged: known || full_range }
    }

    /// `rows` rows of `bytes` bytes of plane `index`, top to bottom.
    pub fn rows(&self, index: usize, bytes: usize, rows: usize) -> impl Iterator<Item = &[u8]> {
        let f = self.0.get();
        let (data, stride) = (f.data[index], f.linesize[index] as isize);
        let fits = !data.is_null() && bytes as isize <= stride.abs() && rows <= f.height.max(0) as usize;
        (0..if fits { rows } else { 0 }).map(move |row| {
            // SAFETY: the plane has at least `rows` rows, `stride` bytes apart, and a row holds `bytes` bytes; the
            // iterator borrows the picture, so the memory stays.
            unsafe { slice::from_raw_parts(data.offset(row as isize * stride), bytes) }
        })
    }

    /// Copies `rows` rows of `bytes` bytes from `source` into plane `index`. False when they do not fit.
    pub fn fill(&mut self, index: usize, bytes: usize, rows: usize, source: &[u8]) -> bool {
        let f = self.0.get_mut();
        let (data, stride) = (f.data[index], f.linesize[index]);
        if data.is_null() || stride < bytes as c_int || rows > f.height.max(0) as usize || source.len() < bytes * rows {
            return false;
        }
        for (row, line) in source.chunks_exact(bytes.max(1)).take(rows).enumerate() {
            // SAFETY: bounds were checked above; the picture is writable because `allocate` made it and `&mut` is unique.
            unsafe { ptr::copy_nonoverlapping(line.as_ptr(), data.add(row * stride as usize), bytes) };
        }
        true
    }

    /// Ends the sharing of the buffers with anyone else, so that they may be written.
    pub fn make_writable(&mut self) -> Result<(), AvError> {
        // SAFETY: a valid frame with reference-counted buffers.
        AvError::check(unsafe { sys::av_frame_make_writable(self.0.ptr()) }).map(|_| ())
    }
}

/// FFmpeg's name of a pixel format.
pub(super) fn format_name(format: c_int) -> String {
    if format < 0 || format >= sys::AVPixelFormat::AV_PIX_FMT_NB as c_int {
        return "none".into();
    }
    // SAFETY: the value was just checked to be one of the enum's; the name is a static string or null.
    unsafe {
        let name = sys::av_get_pix_fmt_name(std::mem::transmute::<c_int, sys::AVPixelFormat>(format));
        if name.is_null() { "none".into() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Decoded audio of one call.
pub(in crate::media) struct Samples(pub(super) Frame);

impl Samples {
    /// An empty block, to be filled by a decoder.
    pub fn empty() -> Self {
        Self(Frame::new())
    }

    /// Samples of each channel.
    pub fn len(&self) -> usize {
        self.0.get().nb_samples.max(0) as usize
    }

    /// Samples a second.
    pub fn rate(&self) -> u32 {
        self.0.get().sample_rate.max(0) as u32
    }

    /// Channels.
    pub fn channels(&self) -> u8 {
        self.0.get().ch_layout.nb_channels.clamp(0, 255) as u8
    }

    /// Presentation time in the units that went in.
    pub fn pts(&self) -> Option<i64> {
        let f = self.0.get();
        [f.pts, f.best_effort_timestamp].into_iter().find(|&t| t != sys::AV_NOPTS_VALUE)
    }
}

/// An `AVPacket` whose buffer is used again and again while nobody else holds it.
pub(super) struct Packet {
    packet: NonNull<sys::AVPacket>,
}

// SAFETY: an AVPacket has no thread affinity.
unsafe impl Send for Packet {}

impl Packet {
    pub fn new() -> Self {
        // SAFETY: no preconditions; null only when memory is exhausted.
        match NonNull::new(unsafe { sys::av_packet_alloc() }) {
            Some(packet) => Self { packet },
            None => std::alloc::handle_alloc_error(std::alloc::Layout::new::<sys::AVPacket>()),
        }
    }

    pub fn ptr(&self) -> *mut sys::AVPacket {
        self.packet.as_ptr()
    }

    pub fn get(&self) -> &sys::AVPacket {
        // SAFETY: valid until drop; shared access through &self only.
        unsafe { self.packet.as_ref() }
    }

    pub fn get_mut(&mut self) -> &mut sys::AVPacket {
        // SAFETY: valid until drop; unique access through &mut self.
        unsafe { self.packet.as_mut() }
    }

    pub fn data(&self) -> &[u8] {
        let p = self.get();
        if p.data.is_null() || p.size <= 0 {
            return &[];
        }
        // SAFETY: FFmpeg guarantees `size` readable bytes at `data` for as long as the packet keeps its reference.
        unsafe { slice::from_raw_parts(p.data, p.size as usize) }
    }

    pub fn unref(&mut self) {
        // SAFETY: a valid packet.
        unsafe { sys::av_packet_unref(self.ptr()) };
    }

    /// Puts a copy of `data` with the padding that decoders read past the end into the packet.
    pub fn fill(&mut self, data: &[u8], pts: Option<i64>, dts: Option<i64>) -> Result<(), AvError> {
        const PADDING: usize = sys::AV_INPUT_BUFFER_PADDING_SIZE as usize;
        if data.len() > (c_int::MAX as usize) - PADDING {
            return Err(AvError(-libc::EINVAL));
        }
        let need = data.len() + PADDING;
        let p = self.get_mut();
        // SAFETY: `buf` is null or a reference that this packet owns.
        let reusable = unsafe { !p.buf.is_null() && (*p.buf).size >= need && sys::av_buffer_is_writable(p.buf) == 1 };
        if !reusable {
            // SAFETY: gives up the old reference, then takes a fresh buffer of the size asked for.
            unsafe {
                sys::av_packet_unref(p);
                p.buf = sys::av_buffer_alloc(need.next_power_of_two());
            }
            if p.buf.is_null() {
                return Err(AvError(-libc::ENOMEM));
            }
        }
        // SAFETY: the buffer has room for `need` bytes, nobody else refers to it, and `data` is not part of it.
        unsafe {
            let bytes = (*p.buf).data;
            ptr::copy_nonoverlapping(data.as_ptr(), bytes, data.len());
            ptr::write_bytes(bytes.add(data.len()), 0, PADDING);
            p.data = bytes;
        }
        p.size = data.len() as c_int;
        p.pts = pts.unwrap_or(sys::AV_NOPTS_VALUE);
        p.dts = dts.unwrap_or(sys::AV_NOPTS_VALUE);
        p.flags = 0;
        p.duration = 0;
        Ok(())
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        let mut packet = self.ptr();
        // SAFETY: the packet is ours and is not used again.
        unsafe { sys::av_packet_free(&mut packet) };
    }
}
