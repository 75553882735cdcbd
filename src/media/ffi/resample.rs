//! Sample rate and channel conversion.

use std::ffi::c_int;
use std::ptr;

use ffmpeg_next::ffi as sys;

use super::AvError;
use super::data::Samples;

/// Turns decoded audio into interleaved floats of one rate and channel count.
pub(in crate::media) struct Resampler {
    context: *mut sys::SwrContext,
    input: (u32, u8, c_int),
    rate: u32,
    channels: u8,
}

// SAFETY: a SwrContext has no thread affinity and is owned.
unsafe impl Send for Resampler {}

impl Resampler {
    /// Output of `rate` samples a second on `channels` channels.
    pub fn new(rate: u32, channels: u8) -> Self {
        Self { context: ptr::null_mut(), input: (0, 0, -1), rate, channels }
    }

    /// Whether `samples` need another set-up than the one in use. What the resampler holds is lost by it, so take it
    /// with [`Self::drain`] before.
    pub fn changes(&self, samples: &Samples) -> bool {
        !self.context.is_null() && self.input != key(samples)
    }

    /// Converts `samples` and appends them to `out`.
    pub fn push(&mut self, samples: &Samples, out: &mut Vec<f32>) -> Result<(), AvError> {
        if self.context.is_null() || self.input != key(samples) {
            self.open(samples)?;
        }
        let f = samples.0.get();
        self.convert(f.extended_data.cast_const(), f.nb_samples, out)
    }

    /// Appends what the filter still holds to `out`.
    pub fn drain(&mut self, out: &mut Vec<f32>) -> Result<(), AvError> {
        if self.context.is_null() {
            return Ok(());
        }
        self.convert(ptr::null(), 0, out)?;
        self.close();
        Ok(())
    }

    fn convert(&mut self, input: *const *mut u8, count: c_int, out: &mut Vec<f32>) -> Result<(), AvError> {
        // SAFETY: an initialised context.
        let room = AvError::check(unsafe { sys::swr_get_out_samples(self.context, count) })?;
        let (start, channels) = (out.len(), usize::from(self.channels));
        out.resize(start + room as usize * channels, 0.0);
        let mut plane = out[start..].as_mut_ptr().cast::<u8>();
        // SAFETY: the output has room for `room` samples of all channels; the input, if any, has `count` samples in the
        // layout that the context was opened for.
        let got = AvError::check(unsafe {
            sys::swr_convert(self.context, &mut plane, room, input.cast_mut().cast::<*const u8>(), count)
        })?;
        out.truncate(start + got as usize * channels);
        Ok(())
    }

    fn open(&mut self, samples: &Samples) -> Result<(), AvError> {
        self.close();
        let f = samples.0.get();
        // SAFETY: the frame's layout is only read; the default layout is written to a local. swr_alloc_set_opts2
        // allocates the context, and swr_init makes it ready or fails.
        let code = unsafe {
            let mut layout: sys::AVChannelLayout = std::mem::zeroed();
            sys::av_channel_layout_default(&mut layout, c_int::from(self.channels));
            let mut from: sys::AVChannelLayout = std::mem::zeroed();
            if sys::av_channel_layout_check(&f.ch_layout) == 1 {
                sys::av_channel_layout_copy(&mut from, &f.ch_layout);
            } else {
                sys::av_channel_layout_default(&mut from, f.ch_layout.nb_channels.max(1));
            }
            let code = sys::swr_alloc_set_opts2(
                &mut self.context,
                &mut layout,
                sys::AVSampleFormat::AV_SAMPLE_FMT_FLT,
                self.rate as c_int,
                &mut from,
                std::mem::transmute::<c_int, sys::AVSampleFormat>(f.format),
                f.sample_rate,
                0,
                ptr::null_mut(),
            );
            sys::av_channel_layout_uninit(&mut from);
            if code < 0 { code } else { sys::swr_init(self.context) }
        };
        if let Err(e) = AvError::check(code) {
            self.close();
            return Err(e);
        }
        self.input = key(samples);
        Ok(())
    }

    fn close(&mut self) {
        // SAFETY: null or ours; swr_free nulls the pointer.
        unsafe { sys::swr_free(&mut self.context) };
        self.input = (0, 0, -1);
    }
}

impl Drop for Resampler {
    fn drop(&mut self) {
        self.close();
    }
}

fn key(samples: &Samples) -> (u32, u8, c_int) {
    (samples.rate(), samples.channels(), samples.0.get().format)
}
