//! Audio decoders and encoders.

use std::ffi::c_int;
use std::ptr;

use ffmpeg_next::ffi as sys;

use super::codec::{Context, Encoded, codec_error, drain, find};
use super::container::StreamParams;
use super::data::{Frame, Packet, Samples};
use super::{AvError, Dictionary};
use crate::media::MediaError;

/// An audio decoder.
pub(in crate::media) struct AudioDecoder {
    context: Context,
    packet: Packet,
    name: String,
}

impl AudioDecoder {
    /// Opens the decoder FFmpeg calls `name` for a stream of `rate` samples a second. `extradata` is the codec's own
    /// header, for example an AudioSpecificConfig.
    pub fn open(name: &str, rate: u32, channels: u8, extradata: &[u8]) -> Result<Self, MediaError> {
        let codec = find(name, false, "audio decoder")?;
        let mut context = Context::new(codec);
        context.set_extradata(extradata);
        let c = context.get_mut();
        c.sample_rate = rate.min(c_int::MAX as u32) as c_int;
        c.pkt_timebase = sys::AVRational { num: 1, den: 90_000 };
        // SAFETY: writes the layout for a channel count into a field of the context.
        unsafe { sys::av_channel_layout_default(&mut c.ch_layout, c_int::from(channels.max(1))) };
        context.open(codec, &mut Dictionary::new([])).map_err(|e| codec_error(format!("audio decoder {name}"), e))?;
        Ok(Self { context, packet: Packet::new(), name: name.into() })
    }

    /// Opens the decoder that a container's stream needs.
    pub fn open_params(params: &StreamParams) -> Result<Self, MediaError> {
        let name = params
            .decoder_name()
            .ok_or_else(|| MediaError::NoCodec { role: "audio decoder", name: params.codec_name().into() })?;
        let codec = find(&name, false, "audio decoder")?;
        let mut context = Context::new(codec);
        params.apply(context.ptr()).map_err(|e| codec_error("stream parameters", e))?;
        context.get_mut().pkt_timebase = sys::AVRational { num: 1, den: 90_000 };
        context.open(codec, &mut Dictionary::new([])).map_err(|e| codec_error(format!("audio decoder {name}"), e))?;
        Ok(Self { context, packet: Packet::new(), name })
    }

    pub fn send(&mut self, data: &[u8], pts: i64) -> Result<(), MediaError> {
        self.packet
            .fill(data, Some(pts), None)
            .and_then(|()| self.context.send(Some(&self.packet)))
            .map_err(|e| codec_error(&*self.name, e))
    }

    pub fn receive(&mut self, samples: &mut Samples) -> Result<bool, MediaError> {
        self.context.receive(&mut samples.0).map_err(|e| codec_error(&*self.name, e))
    }

    pub fn send_end(&mut self) {
        // A decoder that cannot drain has nothing left to give.
        let _ = self.context.send(None);
    }
}

/// How to open an [`AudioEncoder`].
pub(in crate::media) struct AudioEncoderSpec<'a> {
    pub name: &'a str,
    pub rate: u32,
    pub channels: u8,
    pub bits_per_second: u64,
    pub options: &'a [(&'a str, &'a str)],
}

/// An audio encoder that takes blocks of [`Self::frame_size`] samples.
pub(in crate::media) struct AudioEncoder {
    context: Context,
    frame: Frame,
    packet: Packet,
    name: String,
    planar: bool,
    channels: usize,
}

impl AudioEncoder {
    pub fn open(spec: &AudioEncoderSpec<'_>) -> Result<Self, MediaError> {
        let codec = find(spec.name, true, "audio encoder")?;
        let mut context = Context::new(codec);
        // The native AAC encoder wants planar floats, libopus interleaved ones.
        let planar = spec.name == "aac";
        let c = context.get_mut();
        c.sample_rate = spec.rate as c_int;
        c.sample_fmt =
            if planar { sys::AVSampleFormat::AV_SAMPLE_FMT_FLTP } else { sys::AVSampleFormat::AV_SAMPLE_FMT_FLT };
        c.bit_rate = spec.bits_per_second as i64;
        c.time_base = sys::AVRational { num: 1, den: spec.rate as c_int };
        c.flags |= sys::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
        // SAFETY: writes the layout for a channel count into a field of the context.
        unsafe { sys::av_channel_layout_default(&mut c.ch_layout, c_int::from(spec.channels)) };
        let mut options = Dictionary::new(spec.options.iter().copied());
        context.open(codec, &mut options).map_err(|e| codec_error(format!("audio encoder {}", spec.name), e))?;
        let mut frame = Frame::new();
        let f = frame.get_mut();
        f.nb_samples = context.get().frame_size.max(1);
        f.format = context.get().sample_fmt as c_int;
        f.sample_rate = spec.rate as c_int;
        // SAFETY: layout, format and length are set before the buffers are asked for.
        AvError::check(unsafe {
            sys::av_channel_layout_default(&mut f.ch_layout, c_int::from(spec.channels));
            sys::av_frame_get_buffer(frame.ptr(), 0)
        })
        .map_err(|e| codec_error(spec.name, e))?;
        Ok(Self {
            context,
            frame,
            packet: Packet::new(),
            name: spec.name.into(),
            planar,
            channels: usize::from(spec.channels),
        })
    }

    /// Samples of each channel in one block.
    pub fn frame_size(&self) -> usize {
        self.context.get().frame_size.max(1) as usize
    }

    /// Samples that the decoder gives before the first one that went in.
    pub fn padding(&self) -> i64 {
        i64::from(self.context.get().initial_padding)
    }

    /// The codec's header, for example an AudioSpecificConfig.
    pub fn extradata(&self) -> &[u8] {
        self.context.extradata()
    }

    /// Encodes one block of interleaved samples whose first has the time `pts` in samples.
    pub fn encode(&mut self, block: &[f32], pts: i64, out: &mut dyn FnMut(Encoded<'_>)) -> Result<(), MediaError> {
        let (size, channels) = (self.frame_size(), self.channels);
        if block.len() != size * channels {
            return Err(MediaError::Codec { what: self.name.clone(), reason: "a block of another length".into() });
        }
        // SAFETY: a valid frame with buffers.
        AvError::check(unsafe { sys::av_frame_make_writable(self.frame.ptr()) })
            .map_err(|e| codec_error(&*self.name, e))?;
        let f = self.frame.get_mut();
        f.pts = pts;
        // SAFETY: planes hold `size` floats each (planar) or plane 0 holds `size × channels` (interleaved); the planes of
        // at most eight channels are in `data`, and channels is 1 or 2.
        unsafe {
            if self.planar {
                for channel in 0..channels {
                    let plane = std::slice::from_raw_parts_mut(f.data[channel].cast::<f32>(), size);
                    for (to, from) in plane.iter_mut().zip(block.iter().skip(channel).step_by(channels)) {
                        *to = *from;
                    }
                }
            } else {
                ptr::copy_nonoverlapping(block.as_ptr(), f.data[0].cast::<f32>(), block.len());
            }
        }
        // SAFETY: an open encoder and a full frame.
        AvError::check(unsafe { sys::avcodec_send_frame(self.context.ptr(), self.frame.ptr()) })
            .and_then(|_| drain(&self.context, &mut self.packet, out))
            .map_err(|e| codec_error(&*self.name, e))
    }

    /// Gives out what the encoder still holds and ends it.
    pub fn finish(&mut self, out: &mut dyn FnMut(Encoded<'_>)) -> Result<(), MediaError> {
        // SAFETY: an open encoder; null begins the draining.
        match AvError::check(unsafe { sys::avcodec_send_frame(self.context.ptr(), ptr::null()) }) {
            Ok(_) | Err(AvError::EOF) => {}
            Err(e) => return Err(codec_error(&*self.name, e)),
        }
        drain(&self.context, &mut self.packet, out).map_err(|e| codec_error(&*self.name, e))
    }
}
