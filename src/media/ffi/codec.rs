//! Codec contexts; video decoders and encoders.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi as sys;

use super::container::StreamParams;
use super::data::{Frame, Packet, Picture};
use super::{AvError, Dictionary, c_string, init};
use crate::frame::{Color, Matrix, Size};
use crate::media::MediaError;

/// An `AVCodecContext`.
pub(super) struct Context(NonNull<sys::AVCodecContext>);

// SAFETY: a codec context may be used from any thread, one at a time, which ownership guarantees.
unsafe impl Send for Context {}

impl Context {
    pub fn new(codec: *const sys::AVCodec) -> Self {
        // SAFETY: `codec` is a static description; null comes back only when memory is exhausted.
        match NonNull::new(unsafe { sys::avcodec_alloc_context3(codec) }) {
            Some(context) => Self(context),
            None => std::alloc::handle_alloc_error(std::alloc::Layout::new::<sys::AVCodecContext>()),
        }
    }

    pub fn ptr(&self) -> *mut sys::AVCodecContext {
        self.0.as_ptr()
    }

    pub fn get(&self) -> &sys::AVCodecContext {
        // SAFETY: valid until drop; shared access through &self only.
        unsafe { self.0.as_ref() }
    }

    pub fn get_mut(&mut self) -> &mut sys::AVCodecContext {
        // SAFETY: valid until drop; unique access through &mut self.
        unsafe { self.0.as_mut() }
    }

    pub fn set_extradata(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        // SAFETY: av_mallocz gives room for the bytes and FFmpeg's padding; the context takes the allocation over.
        unsafe {
            let room = sys::av_mallocz(bytes.len() + sys::AV_INPUT_BUFFER_PADDING_SIZE as usize).cast::<u8>();
            if !room.is_null() {
                ptr::copy_nonoverlapping(bytes.as_ptr(), room, bytes.len());
                let c = self.get_mut();
                c.extradata = room;
                c.extradata_size = bytes.len() as c_int;
            }
        }
    }

    pub fn open(&mut self, codec: *const sys::AVCodec, options: &mut Dictionary) -> Result<(), AvError> {
        // SAFETY: the context was made for `codec`; the dictionary is ours and av_dict entries taken are removed from it.
        AvError::check(unsafe { sys::avcodec_open2(self.ptr(), codec, &mut options.0) }).map(|_| ())
    }

    pub fn send(&mut self, packet: Option<&Packet>) -> Result<(), AvError> {
        let packet = packet.map_or(ptr::null(), |p| p.ptr().cast_const());
        // SAFETY: an open decoder and a valid packet, or null for the end of the stream.
        AvError::check(unsafe { sys::avcodec_send_packet(self.ptr(), packet) }).map(|_| ())
    }

    /// True when `frame` was filled.
    pub fn receive(&mut self, frame: &mut Frame) -> Result<bool, AvError> {
        // SAFETY: an open decoder and a valid frame, which is unreferenced first.
        match AvError::check(unsafe { sys::avcodec_receive_frame(self.ptr(), frame.ptr()) }) {
            Ok(_) => Ok(true),
            Err(AvError::AGAIN | AvError::EOF) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub fn flush(&mut self) {
        // SAFETY: an open codec.
        unsafe { sys::avcodec_flush_buffers(self.ptr()) };
    }

    pub fn extradata(&self) -> &[u8] {
        let c = self.get();
        if c.extradata.is_null() || c.extradata_size <= 0 {
            return &[];
        }
        // SAFETY: extradata is `extradata_size` bytes long while the context lives.
        unsafe { std::slice::from_raw_parts(c.extradata, c.extradata_size as usize) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let mut context = self.ptr();
        // SAFETY: the context is ours and is not used again.
        unsafe { sys::avcodec_free_context(&mut context) };
    }
}

pub(super) fn find(name: &str, encoder: bool, role: &'static str) -> Result<*const sys::AVCodec, MediaError> {
    init();
    let c_name = c_string(name);
    // SAFETY: the name is a C string; the result is null or static.
    let codec = unsafe {
        if encoder {
            sys::avcodec_find_encoder_by_name(c_name.as_ptr())
        } else {
            sys::avcodec_find_decoder_by_name(c_name.as_ptr())
        }
    };
    if codec.is_null() { Err(MediaError::NoCodec { role, name: name.into() }) } else { Ok(codec) }
}

pub(super) fn codec_error(what: impl Into<String>, e: AvError) -> MediaError {
    MediaError::Codec { what: what.into(), reason: e.to_string() }
}

/// How to open a [`VideoDecoder`].
pub(in crate::media) struct VideoDecoderSpec<'a> {
    /// FFmpeg's name.
    pub name: &'a str,
    /// Slice threads; 1 for none.
    pub threads: u32,
    /// Larger pictures are refused before anything is allocated for them.
    pub max_pixels: u64,
    /// Threads that work on several pictures at once, which delays output: for files only.
    pub frame_threads: bool,
    /// Decode on an NVIDIA device; opening fails without one.
    pub nvidia: bool,
    /// What the container knows of the stream.
    pub params: Option<&'a StreamParams>,
}

/// A video decoder.
pub(in crate::media) struct VideoDecoder {
    context: Context,
    packet: Packet,
    /// Where pictures arrive that lie in device memory.
    device_frame: Option<Frame>,
}

impl VideoDecoder {
    pub fn open(spec: &VideoDecoderSpec<'_>) -> Result<Self, MediaError> {
        let codec = find(spec.name, false, "video decoder")?;
        let mut context = Context::new(codec);
        if let Some(params) = spec.params {
            params.apply(context.ptr()).map_err(|e| codec_error("stream parameters", e))?;
        }
        let c = context.get_mut();
        c.thread_count = spec.threads.max(1) as c_int;
        c.thread_type = if spec.frame_threads { sys::FF_THREAD_FRAME } else { sys::FF_THREAD_SLICE } as c_int;
        c.max_pixels = spec.max_pixels.min(i64::MAX as u64) as i64;
        c.pkt_timebase = sys::AVRational { num: 1, den: 90_000 };
        c.err_recognition = 0;
        if spec.name.ends_with("_cuvid") {
            c.flags |= sys::AV_CODEC_FLAG_LOW_DELAY as c_int;
        }
        if spec.nvidia {
            // SAFETY: the device reference goes to the context, which frees it; the callback has no state.
            AvError::check(unsafe {
                sys::av_hwdevice_ctx_create(
                    &mut c.hw_device_ctx,
                    sys::AVHWDeviceType::AV_HWDEVICE_TYPE_CUDA,
                    ptr::null(),
                    ptr::null_mut(),
                    0,
                )
            })
            .map_err(|e| codec_error("the NVIDIA device", e))?;
            c.get_format = Some(prefer_cuda);
        }
        context
            .open(codec, &mut Dictionary::new([]))
            .map_err(|e| codec_error(format!("video decoder {}", spec.name), e))?;
        Ok(Self { context, packet: Packet::new(), device_frame: spec.nvidia.then(Frame::new) })
    }

    /// Gives one access unit, times in the unit that comes back with pictures.
    pub fn send(&mut self, data: &[u8], pts: Option<i64>, dts: Option<i64>) -> Result<(), AvError> {
        self.packet.fill(data, pts, dts)?;
        self.context.send(Some(&self.packet))
    }

    /// Says that nothing more comes, so that held pictures are given out.
    pub fn send_end(&mut self) -> Result<(), AvError> {
        self.context.send(None)
    }

    /// Takes the next picture, false when there is none yet.
    pub fn receive(&mut self, picture: &mut Picture) -> Result<bool, AvError> {
        let Some(device_frame) = &mut self.device_frame else { return self.context.receive(&mut picture.0) };
        if !self.context.receive(device_frame)? {
            return Ok(false);
        }
        let (from, to) = (device_frame.ptr(), picture.0.ptr());
        if device_frame.get().format != sys::AVPixelFormat::AV_PIX_FMT_CUDA as c_int {
            // The device does not do this stream, so the decoder did it itself.
            picture.0.unref();
            // SAFETY: two valid frames; the references move from one to the other.
            unsafe { sys::av_frame_move_ref(to, from) };
            return Ok(true);
        }
        let (source, target) = (device_frame.get(), picture.0.get());
        if (target.width, target.height) != (source.width, source.height) || target.buf[0].is_null() {
            picture.0.unref();
        }
        // SAFETY: a frame in device memory and one that is empty or of the same size; FFmpeg allocates where needed.
        let copied = AvError::check(unsafe { sys::av_hwframe_transfer_data(to, from, 0) });
        let (source, target) = (device_frame.get(), picture.0.get_mut());
        target.pts = source.pts;
        target.best_effort_timestamp = source.best_effort_timestamp;
        target.color_range = source.color_range;
        target.colorspace = source.colorspace;
        target.decode_error_flags = source.decode_error_flags;
        target.flags = source.flags;
        device_frame.unref();
        copied.map(|_| true)
    }

    /// Forgets everything; the next unit must be one that can be decoded alone.
    pub fn flush(&mut self) {
        self.context.flush();
    }
}

/// Chooses pictures in CUDA memory where the decoder offers them.
unsafe extern "C" fn prefer_cuda(
    context: *mut sys::AVCodecContext,
    offered: *const sys::AVPixelFormat,
) -> sys::AVPixelFormat {
    let mut at = offered;
    // SAFETY: FFmpeg passes a list that ends with AV_PIX_FMT_NONE, and its own context.
    unsafe {
        while *at != sys::AVPixelFormat::AV_PIX_FMT_NONE {
            if *at == sys::AVPixelFormat::AV_PIX_FMT_CUDA {
                return *at;
            }
            at = at.add(1);
        }
        sys::avcodec_default_get_format(context, offered)
    }
}

/// How to open a [`VideoEncoder`].
pub(in crate::media) struct VideoEncoderSpec<'a> {
    pub name: &'a str,
    pub size: Size,
    /// Frames a second, as a hint.
    pub fps: f64,
    /// How long a picture lasts, in ticks of the time base, for encoders that plan by it; 0 where it does not matter.
    pub frame_ticks: u32,
    pub color: Color,
    pub format: sys::AVPixelFormat,
    pub threads: u32,
    /// Parameter sets outside the stream, as MP4 and MKV want them.
    pub global_header: bool,
    /// Ceiling in bits a second; 0 for none.
    pub max_rate: u64,
    /// Pictures between key pictures at most, those asked for aside.
    pub gop: u32,
    /// Options in FFmpeg's words; one that the encoder does not know is an error.
    pub options: &'a [(&'a str, &'a str)],
}

/// One packet of an encoder. Times are in the unit that went in.
pub(in crate::media) struct Encoded<'a> {
    pub data: &'a [u8],
    pub pts: i64,
    pub key: bool,
}

/// A video encoder that gives each picture's bytes before it takes the next one.
pub(in crate::media) struct VideoEncoder {
    context: Option<Context>,
    shell: Frame,
    packet: Packet,
    name: String,
    size: Size,
    color: Color,
    format: sys::AVPixelFormat,
}

impl VideoEncoder {
    pub fn open(spec: &VideoEncoderSpec<'_>) -> Result<Self, MediaError> {
        let what = || format!("video encoder {}", spec.name);
        let codec = find(spec.name, true, "video encoder")?;
        let mut context = Context::new(codec);
        let c = context.get_mut();
        c.width = spec.size.width as c_int;
        c.height = spec.size.height as c_int;
        c.pix_fmt = spec.format;
        c.time_base = sys::AVRational { num: 1, den: 90_000 };
        c.framerate = sys::AVRational { num: (spec.fps.clamp(1.0, 1000.0) * 1000.0).round() as c_int, den: 1000 };
        c.gop_size = spec.gop.min(1 << 20) as c_int;
        c.max_b_frames = 0;
        if spec.frame_ticks > 0 {
            c.ticks_per_frame = spec.frame_ticks as c_int;
        }
        c.thread_count = spec.threads.max(1) as c_int;
        if spec.max_rate > 0 {
            c.rc_max_rate = spec.max_rate as i64;
            c.rc_buffer_size = spec.max_rate.min(c_int::MAX as u64) as c_int;
        }
        if spec.global_header {
            c.flags |= sys::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
        }
        set_color(spec.color, &mut c.color_range, &mut c.colorspace);
        let mut options = Dictionary::new(spec.options.iter().copied());
        context.open(codec, &mut options).map_err(|e| codec_error(what(), e))?;
        if let Some(key) = options.left_over() {
            return Err(MediaError::Codec { what: what(), reason: format!("unknown option {key}") });
        }
        Ok(Self {
            context: Some(context),
            shell: Frame::new(),
            packet: Packet::new(),
            name: spec.name.into(),
            size: spec.size,
            color: spec.color,
            format: spec.format,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn size(&self) -> Size {
        self.size
    }

    pub fn color(&self) -> Color {
        self.color
    }

    /// Changes the ceiling, in bits a second, from the next picture on. Only for an encoder that was opened with one and
    /// that looks at its context with every picture, as libx264 and NVENC do.
    pub fn set_max_rate(&mut self, bits: u64) {
        if let Some(context) = &mut self.context {
            let c = context.get_mut();
            c.rc_max_rate = bits as i64;
            c.rc_buffer_size = bits.min(c_int::MAX as u64) as c_int;
        }
    }

    /// Parameter sets and the like, if they are outside the stream.
    pub fn extradata(&self) -> &[u8] {
        self.context.as_ref().map_or(&[], Context::extradata)
    }

    /// Encodes the tight I420 picture `data` without copying it. `pts` must grow from call to call. `key` asks for an
    /// IDR picture. The packets go to `out` before this returns.
    ///
    /// # Errors
    /// FFmpeg's refusal, or `data` of the wrong length.
    pub fn encode_i420(
        &mut self,
        data: &[u8],
        pts: i64,
        key: bool,
        out: &mut dyn FnMut(Encoded<'_>),
    ) -> Result<(), MediaError> {
        let (w, h) = (self.size.width as usize, self.size.height as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        if data.len() != w * h + 2 * cw * ch || self.format != sys::AVPixelFormat::AV_PIX_FMT_YUV420P {
            return Err(MediaError::Codec { what: self.name.clone(), reason: "the picture has another size".into() });
        }
        let base = data.as_ptr().cast_mut();
        self.shell.unref();
        // SAFETY: the buffer reference is read-only and its free function does nothing, so FFmpeg neither writes to nor
        // frees `data`. No reference outlives this call: that is checked below.
        let buffer = unsafe {
            sys::av_buffer_create(base, data.len(), Some(keep), ptr::null_mut(), sys::AV_BUFFER_FLAG_READONLY as c_int)
        };
        if buffer.is_null() {
            return Err(codec_error(&*self.name, AvError(-libc::ENOMEM)));
        }
        let f = self.shell.get_mut();
        f.buf[0] = buffer;
        // SAFETY: the planes lie inside `data`, whose length was checked.
        unsafe {
            f.data[0] = base;
            f.data[1] = base.add(w * h);
            f.data[2] = base.add(w * h + cw * ch);
        }
        f.linesize[0] = w as c_int;
        f.linesize[1] = cw as c_int;
        f.linesize[2] = cw as c_int;
        f.extended_data = f.data.as_mut_ptr();
        f.width = w as c_int;
        f.height = h as c_int;
        f.format = self.format as c_int;
        let result = self.submit(None, pts, key, out);
        // SAFETY: the shell still holds its own reference in buf[0].
        let holders = unsafe { sys::av_buffer_get_ref_count(self.shell.get().buf[0]) };
        if holders > 1 {
            // Someone inside the encoder still points at `data`, which the caller may free. Close the encoder.
            self.context = None;
            self.shell.unref();
            return Err(MediaError::Codec { what: self.name.clone(), reason: "the encoder keeps its input".into() });
        }
        self.shell.unref();
        result
    }

    /// As [`Self::encode_i420`] for a picture of FFmpeg's own, of the encoder's size and format.
    pub fn encode_picture(
        &mut self,
        picture: &mut Picture,
        pts: i64,
        key: bool,
        out: &mut dyn FnMut(Encoded<'_>),
    ) -> Result<(), MediaError> {
        if picture.size() != self.size || picture.format() != self.format as c_int {
            return Err(MediaError::Codec { what: self.name.clone(), reason: "the picture has another size".into() });
        }
        self.submit(Some(&mut picture.0), pts, key, out)
    }

    /// Gives out what the encoder still holds and ends it.
    pub fn finish(&mut self, out: &mut dyn FnMut(Encoded<'_>)) -> Result<(), MediaError> {
        let Some(context) = &self.context else { return Ok(()) };
        // SAFETY: an open encoder; null begins the draining.
        match AvError::check(unsafe { sys::avcodec_send_frame(context.ptr(), ptr::null()) }) {
            Ok(_) | Err(AvError::EOF) => {}
            Err(e) => return Err(codec_error(&*self.name, e)),
        }
        self.drain(out)
    }

    fn submit(
        &mut self,
        frame: Option<&mut Frame>,
        pts: i64,
        key: bool,
        out: &mut dyn FnMut(Encoded<'_>),
    ) -> Result<(), MediaError> {
        let color = self.color;
        let frame = frame.unwrap_or(&mut self.shell);
        let f = frame.get_mut();
        f.pts = pts;
        f.pict_type =
            if key { sys::AVPictureType::AV_PICTURE_TYPE_I } else { sys::AVPictureType::AV_PICTURE_TYPE_NONE };
        set_color(color, &mut f.color_range, &mut f.colorspace);
        let Some(context) = &self.context else {
            return Err(MediaError::Codec { what: self.name.clone(), reason: "the encoder is closed".into() });
        };
        // SAFETY: an open encoder and a frame with buffers, size and format set.
        AvError::check(unsafe { sys::avcodec_send_frame(context.ptr(), frame.ptr()) })
            .map_err(|e| codec_error(&*self.name, e))?;
        self.drain(out)
    }

    fn drain(&mut self, out: &mut dyn FnMut(Encoded<'_>)) -> Result<(), MediaError> {
        let Some(context) = &self.context else { return Ok(()) };
        drain(context, &mut self.packet, out).map_err(|e| codec_error(&*self.name, e))
    }
}

pub(super) fn drain(context: &Context, packet: &mut Packet, out: &mut dyn FnMut(Encoded<'_>)) -> Result<(), AvError> {
    loop {
        // SAFETY: an open encoder and a valid packet, which is unreferenced first.
        match AvError::check(unsafe { sys::avcodec_receive_packet(context.ptr(), packet.ptr()) }) {
            Ok(_) => {
                let p = packet.get();
                let (pts, key) = (p.pts, p.flags & sys::AV_PKT_FLAG_KEY as c_int != 0);
                out(Encoded { data: packet.data(), pts, key });
                packet.unref();
            }
            Err(AvError::AGAIN | AvError::EOF) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// Frees nothing: the memory belongs to the caller of `encode_i420`.
unsafe extern "C" fn keep(_opaque: *mut c_void, _data: *mut u8) {}

fn set_color(color: Color, range: &mut sys::AVColorRange, space: &mut sys::AVColorSpace) {
    if !color.tagged {
        return;
    }
    *range = if color.full_range { sys::AVColorRange::AVCOL_RANGE_JPEG } else { sys::AVColorRange::AVCOL_RANGE_MPEG };
    *space = match color.matrix {
        Matrix::Bt601 => sys::AVColorSpace::AVCOL_SPC_SMPTE170M,
        Matrix::Bt709 => sys::AVColorSpace::AVCOL_SPC_BT709,
    };
}

/// FFmpeg's name of a codec id.
pub(super) fn codec_name(id: sys::AVCodecID) -> &'static str {
    // SAFETY: avcodec_get_name always gives a static C string.
    unsafe { CStr::from_ptr(sys::avcodec_get_name(id)) }.to_str().unwrap_or("unknown")
}
