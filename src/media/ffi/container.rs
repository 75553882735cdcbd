//! Files, devices and network addresses through libavformat.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ffmpeg_next::ffi as sys;

use super::codec::codec_name;
use super::data::Packet;
use super::{AvError, Dictionary, c_string, init};
use crate::frame::Size;

const TICKS: sys::AVRational = sys::AVRational { num: 1, den: 90_000 };
const MICROS: sys::AVRational = sys::AVRational { num: 1, den: 1_000_000 };

/// What a container knows of a stream's codec.
pub(in crate::media) struct StreamParams(*mut sys::AVCodecParameters);

// SAFETY: plain data, owned.
unsafe impl Send for StreamParams {}

impl StreamParams {
    fn copy(from: *const sys::AVCodecParameters) -> Result<Self, AvError> {
        // SAFETY: allocates, then copies from a live structure.
        unsafe {
            let own = Self(sys::avcodec_parameters_alloc());
            if own.0.is_null() {
                return Err(AvError(-libc::ENOMEM));
            }
            AvError::check(sys::avcodec_parameters_copy(own.0, from))?;
            Ok(own)
        }
    }

    fn get(&self) -> &sys::AVCodecParameters {
        // SAFETY: never null after `copy`, valid until drop.
        unsafe { &*self.0 }
    }

    pub(super) fn apply(&self, context: *mut sys::AVCodecContext) -> Result<(), AvError> {
        // SAFETY: a live context that is not yet open, and live parameters.
        AvError::check(unsafe { sys::avcodec_parameters_to_context(context, self.0) }).map(|_| ())
    }

    /// FFmpeg's name of the codec.
    pub fn codec_name(&self) -> &'static str {
        codec_name(self.get().codec_id)
    }

    /// FFmpeg's name of its default decoder for the codec.
    pub fn decoder_name(&self) -> Option<String> {
        // SAFETY: the result is null or static, and so is its name.
        unsafe {
            let codec = sys::avcodec_find_decoder(self.get().codec_id);
            if codec.is_null() { None } else { Some(CStr::from_ptr((*codec).name).to_string_lossy().into_owned()) }
        }
    }

    pub fn size(&self) -> Size {
        Size::new(self.get().width.max(0) as u32, self.get().height.max(0) as u32)
    }

    pub fn rate(&self) -> u32 {
        self.get().sample_rate.max(0) as u32
    }

    pub fn channels(&self) -> u8 {
        self.get().ch_layout.nb_channels.clamp(0, 255) as u8
    }

    pub fn extradata(&self) -> &[u8] {
        let p = self.get();
        if p.extradata.is_null() || p.extradata_size <= 0 {
            return &[];
        }
        // SAFETY: `extradata_size` bytes while the parameters live.
        unsafe { std::slice::from_raw_parts(p.extradata, p.extradata_size as usize) }
    }
}

impl Drop for StreamParams {
    fn drop(&mut self) {
        // SAFETY: ours or null.
        unsafe { sys::avcodec_parameters_free(&mut self.0) };
    }
}

/// Which of the two streams a packet is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::media) enum Kind {
    Video,
    Audio,
}

/// A packet, times in 90 kHz.
pub(in crate::media) struct ReadPacket<'a> {
    pub kind: Kind,
    pub data: &'a [u8],
    pub pts: Option<i64>,
    pub dts: Option<i64>,
    pub duration: i64,
}

/// Makes libavdevice's inputs known to libavformat. The library is loaded now, since few ever need it.
///
/// # Errors
/// The names that were tried.
pub(in crate::media) fn register_devices() -> Result<(), String> {
    static DONE: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    DONE.get_or_init(|| {
        init();
        // libavdevice and libavformat of one release carry the same major number.
        // SAFETY: a pure function.
        let major = unsafe { sys::avformat_version() } >> 16;
        let name = format!("libavdevice.so.{major}");
        // SAFETY: loading runs the library's initialisers, which FFmpeg keeps free of side effects; the function has this
        // signature in every release. The library is leaked, since libavformat keeps pointers into it.
        unsafe {
            let library = libloading::Library::new(&name).map_err(|e| e.to_string())?;
            let register: libloading::Symbol<'_, unsafe extern "C" fn()> =
                library.get(b"avdevice_register_all").map_err(|e| e.to_string())?;
            register();
            std::mem::forget(library);
        }
        Ok(())
    })
    .clone()
}

/// An open input.
pub(in crate::media) struct Reader {
    context: *mut sys::AVFormatContext,
    packet: Packet,
    video: Option<usize>,
    audio: Option<usize>,
    // Read by FFmpeg through the interrupt callback, so it must live as long as the context.
    _stop: Arc<AtomicBool>,
}

// SAFETY: a format context has no thread affinity and is owned.
unsafe impl Send for Reader {}

unsafe extern "C" fn interrupted(stop: *mut c_void) -> c_int {
    // SAFETY: `stop` points into the Arc that the Reader holds for longer than the context lives.
    let stop = unsafe { &*stop.cast::<AtomicBool>() };
    c_int::from(stop.load(Ordering::Relaxed))
}

impl Reader {
    /// Opens `source`. `format` names a demuxer or is empty. Reading fails as soon as `stop` is set.
    pub fn open(
        source: &str,
        format: Option<&str>,
        options: &[(&str, &str)],
        stop: Arc<AtomicBool>,
    ) -> Result<Self, AvError> {
        init();
        let url = c_string(source);
        let mut options = Dictionary::new(options.iter().copied());
        // SAFETY: the context is allocated by FFmpeg, given its callback and opened; avformat_open_input frees it when it
        // fails. The pointer of the callback stays valid because the Arc is kept in the Reader.
        let context = unsafe {
            let mut context = sys::avformat_alloc_context();
            if context.is_null() {
                return Err(AvError(-libc::ENOMEM));
            }
            (*context).interrupt_callback.callback = Some(interrupted);
            (*context).interrupt_callback.opaque = Arc::as_ptr(&stop).cast_mut().cast();
            let demuxer = match format {
                Some(name) => {
                    let found = sys::av_find_input_format(c_string(name).as_ptr());
                    if found.is_null() {
                        sys::avformat_free_context(context);
                        return Err(AvError(sys::AVERROR_DEMUXER_NOT_FOUND));
                    }
                    found
                }
                None => ptr::null(),
            };
            AvError::check(sys::avformat_open_input(&mut context, url.as_ptr(), demuxer, &mut options.0))?;
            context
        };
        let mut reader = Self { context, packet: Packet::new(), video: None, audio: None, _stop: stop };
        // SAFETY: an open input.
        AvError::check(unsafe { sys::avformat_find_stream_info(reader.context, ptr::null_mut()) })?;
        reader.video = reader.best(sys::AVMediaType::AVMEDIA_TYPE_VIDEO);
        // The cover of a record is no video.
        if reader.stream(Kind::Video).is_some_and(|s| s.disposition & sys::AV_DISPOSITION_ATTACHED_PIC as c_int != 0) {
            reader.video = None;
        }
        reader.audio = reader.best(sys::AVMediaType::AVMEDIA_TYPE_AUDIO);
        Ok(reader)
    }

    fn best(&self, kind: sys::AVMediaType) -> Option<usize> {
        // SAFETY: an open input; no decoder is asked for.
        let index = unsafe { sys::av_find_best_stream(self.context, kind, -1, -1, ptr::null_mut(), 0) };
        usize::try_from(index).ok()
    }

    fn stream(&self, kind: Kind) -> Option<&sys::AVStream> {
        let index = match kind {
            Kind::Video => self.video?,
            Kind::Audio => self.audio?,
        };
        // SAFETY: the index came from FFmpeg for this context, whose streams live as long as it.
        unsafe { (*(*self.context).streams.add(index)).as_ref() }
    }

    /// The codec of a stream, if there is one.
    pub fn params(&self, kind: Kind) -> Option<StreamParams> {
        StreamParams::copy(self.stream(kind)?.codecpar).ok()
    }

    /// Frames a second of the video, if known.
    pub fn fps(&self) -> Option<f64> {
        let s = self.stream(Kind::Video)?;
        [s.avg_frame_rate, s.r_frame_rate]
            .into_iter()
            .find(|r| r.num > 0 && r.den > 0)
            .map(|r| f64::from(r.num) / f64::from(r.den))
    }

    /// Length in seconds, if known.
    pub fn duration(&self) -> Option<f64> {
        // SAFETY: an open input.
        let micros = unsafe { (*self.context).duration };
        (micros > 0).then(|| micros as f64 / 1e6)
    }

    /// Pictures, if the container counts them.
    pub fn frames(&self) -> Option<u64> {
        u64::try_from(self.stream(Kind::Video)?.nb_frames).ok().filter(|&n| n > 0)
    }

    /// The first time stamp in 90 kHz.
    pub fn start(&self) -> i64 {
        // SAFETY: an open input; a pure function of numbers.
        unsafe {
            let micros = (*self.context).start_time;
            if micros == sys::AV_NOPTS_VALUE { 0 } else { sys::av_rescale_q(micros, MICROS, TICKS) }
        }
    }

    /// The next packet of the two streams; `None` at the end.
    pub fn read(&mut self) -> Result<Option<ReadPacket<'_>>, AvError> {
        loop {
            self.packet.unref();
            // SAFETY: an open input and an empty packet.
            match AvError::check(unsafe { sys::av_read_frame(self.context, self.packet.ptr()) }) {
                Ok(_) => {}
                Err(AvError::EOF) => return Ok(None),
                Err(e) => return Err(e),
            }
            let index = self.packet.get().stream_index as usize;
            let kind = match () {
                () if Some(index) == self.video => Kind::Video,
                () if Some(index) == self.audio => Kind::Audio,
                () => continue,
            };
            let base = self.stream(kind).map_or(TICKS, |s| s.time_base);
            let p = self.packet.get();
            let ticks = |t: i64| {
                // SAFETY: a pure function of numbers.
                (t != sys::AV_NOPTS_VALUE).then(|| unsafe { sys::av_rescale_q(t, base, TICKS) })
            };
            let (pts, dts, duration) = (ticks(p.pts), ticks(p.dts), ticks(p.duration).unwrap_or(0));
            return Ok(Some(ReadPacket { kind, data: self.packet.data(), pts, dts, duration }));
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: the context is ours; closing frees it and nulls the pointer.
        unsafe { sys::avformat_close_input(&mut self.context) };
    }
}

/// The video stream of a file to be written.
pub(in crate::media) struct WriterVideo<'a> {
    /// `h264`, `ffv1`, …
    pub codec: &'a str,
    pub size: Size,
    pub fps: f64,
    pub extradata: &'a [u8],
}

/// The audio stream of a file to be written.
pub(in crate::media) struct WriterAudio<'a> {
    /// `aac` or `opus`.
    pub codec: &'a str,
    pub rate: u32,
    pub channels: u8,
    pub extradata: &'a [u8],
}

/// A file being written.
pub(in crate::media) struct Writer {
    context: *mut sys::AVFormatContext,
    packet: Packet,
    video: Option<c_int>,
    audio: Option<c_int>,
    open: bool,
}

// SAFETY: a format context has no thread affinity and is owned.
unsafe impl Send for Writer {}

impl Writer {
    /// Creates `path`, a file or an address. Its format is `format`, or chosen by the name's ending.
    pub fn create(
        path: &str,
        format: Option<&str>,
        video: Option<&WriterVideo<'_>>,
        audio: Option<&WriterAudio<'_>>,
        options: &[(&str, &str)],
    ) -> Result<Self, AvError> {
        init();
        let name = c_string(path);
        let format = format.map(c_string);
        let format = format.as_ref().map_or(ptr::null(), |format| format.as_ptr());
        let mut writer =
            Self { context: ptr::null_mut(), packet: Packet::new(), video: None, audio: None, open: false };
        // SAFETY: allocates the context, null when the name's ending is unknown.
        AvError::check(unsafe {
            sys::avformat_alloc_output_context2(&mut writer.context, ptr::null(), format, name.as_ptr())
        })?;
        if let Some(v) = video {
            let (index, stream) = writer.add(v.codec, v.extradata)?;
            // SAFETY: the stream belongs to the context that is being set up.
            unsafe {
                let p = &mut *(*stream).codecpar;
                p.codec_type = sys::AVMediaType::AVMEDIA_TYPE_VIDEO;
                p.width = v.size.width as c_int;
                p.height = v.size.height as c_int;
                p.format = sys::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int;
                (*stream).avg_frame_rate =
                    sys::AVRational { num: (v.fps.clamp(0.001, 1000.0) * 1000.0).round() as c_int, den: 1000 };
            }
            writer.video = Some(index);
        }
        if let Some(a) = audio {
            let (index, stream) = writer.add(a.codec, a.extradata)?;
            // SAFETY: as above.
            unsafe {
                let p = &mut *(*stream).codecpar;
                p.codec_type = sys::AVMediaType::AVMEDIA_TYPE_AUDIO;
                p.sample_rate = a.rate as c_int;
                p.frame_size = if a.codec == "aac" { 1024 } else { 960 };
                sys::av_channel_layout_default(&mut p.ch_layout, c_int::from(a.channels));
            }
            writer.audio = Some(index);
        }
        let mut options = Dictionary::new(options.iter().copied());
        // SAFETY: the context is complete; its byte stream is opened first and closed in drop.
        unsafe {
            if (*(*writer.context).oformat).flags & sys::AVFMT_NOFILE as c_int == 0 {
                // What the protocol does not know is left for the format.
                AvError::check(sys::avio_open2(
                    &mut (*writer.context).pb,
                    name.as_ptr(),
                    sys::AVIO_FLAG_WRITE as c_int,
                    ptr::null(),
                    &mut options.0,
                ))?;
            }
            AvError::check(sys::avformat_write_header(writer.context, &mut options.0))?;
        }
        writer.open = true;
        Ok(writer)
    }

    fn add(&mut self, codec: &str, extradata: &[u8]) -> Result<(c_int, *mut sys::AVStream), AvError> {
        // SAFETY: the stream belongs to the context; extradata is allocated with FFmpeg's padding and owned by it.
        unsafe {
            let stream = sys::avformat_new_stream(self.context, ptr::null());
            if stream.is_null() {
                return Err(AvError(-libc::ENOMEM));
            }
            let description = sys::avcodec_descriptor_get_by_name(c_string(codec).as_ptr());
            if description.is_null() {
                return Err(AvError(sys::AVERROR_ENCODER_NOT_FOUND));
            }
            (*stream).time_base = TICKS;
            let p = &mut *(*stream).codecpar;
            p.codec_id = (*description).id;
            if !extradata.is_empty() {
                let room = sys::av_mallocz(extradata.len() + sys::AV_INPUT_BUFFER_PADDING_SIZE as usize).cast::<u8>();
                if room.is_null() {
                    return Err(AvError(-libc::ENOMEM));
                }
                ptr::copy_nonoverlapping(extradata.as_ptr(), room, extradata.len());
                p.extradata = room;
                p.extradata_size = extradata.len() as c_int;
            }
            Ok(((*stream).index, stream))
        }
    }

    /// Writes one packet, times in 90 kHz. Packets of a stream come in the order of their dts.
    pub fn write(
        &mut self,
        kind: Kind,
        data: &[u8],
        pts: i64,
        dts: i64,
        duration: i64,
        key: bool,
    ) -> Result<(), AvError> {
        let index = match kind {
            Kind::Video => self.video,
            Kind::Audio => self.audio,
        };
        let Some(index) = index else { return Ok(()) };
        // A fresh buffer each time, since the interleaver keeps packets.
        self.packet.unref();
        self.packet.fill(data, Some(pts), Some(dts))?;
        let p = self.packet.get_mut();
        p.stream_index = index;
        p.duration = duration;
        p.flags = if key { sys::AV_PKT_FLAG_KEY as c_int } else { 0 };
        // SAFETY: an open output with this stream; the interleaver takes the packet's reference over.
        unsafe {
            let stream = *(*self.context).streams.add(index as usize);
            sys::av_packet_rescale_ts(self.packet.ptr(), TICKS, (*stream).time_base);
            AvError::check(sys::av_interleaved_write_frame(self.context, self.packet.ptr())).map(|_| ())
        }
    }

    /// Completes the file.
    pub fn finish(&mut self) -> Result<(), AvError> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        // SAFETY: the header was written and the trailer was not.
        AvError::check(unsafe { sys::av_write_trailer(self.context) }).map(|_| ())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A file that nobody finished is completed as far as it goes; there is nobody to tell of a failure.
        let _ = self.finish();
        if self.context.is_null() {
            return;
        }
        // SAFETY: the context and its byte stream are ours and not used again.
        unsafe {
            if (*(*self.context).oformat).flags & sys::AVFMT_NOFILE as c_int == 0 {
                sys::avio_closep(&mut (*self.context).pb);
            }
            sys::avformat_free_context(self.context);
        }
    }
}
