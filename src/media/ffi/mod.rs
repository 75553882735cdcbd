//! The calls into FFmpeg. Everything unsafe of this module lives in this folder; what it offers outward is safe.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int};
use std::fmt;
use std::sync::Once;

use ffmpeg_next::ffi as sys;

mod audio;
mod codec;
mod container;
mod data;
mod resample;
mod scale;

pub(in crate::media) use audio::{AudioDecoder, AudioEncoder, AudioEncoderSpec};
pub(in crate::media) use codec::{Encoded, VideoDecoder, VideoDecoderSpec, VideoEncoder, VideoEncoderSpec};
pub(in crate::media) use container::{Kind, Reader, StreamParams, Writer, WriterAudio, WriterVideo, register_devices};
pub(in crate::media) use data::{Picture, Samples};
pub(in crate::media) use resample::Resampler;
pub(in crate::media) use scale::{Image, ImageMut, Rect, Scaler};

/// An FFmpeg error code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::media) struct AvError(pub c_int);

impl AvError {
    /// More input is needed, or output must be taken first.
    pub const AGAIN: AvError = AvError(-libc::EAGAIN);
    /// The end of the stream.
    pub const EOF: AvError = AvError(sys::AVERROR_EOF);

    fn check(code: c_int) -> Result<c_int, AvError> {
        if code < 0 { Err(AvError(code)) } else { Ok(code) }
    }
}

impl fmt::Display for AvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0 as std::ffi::c_char; 128];
        // SAFETY: the buffer is writable for the length given, and av_strerror ends it with a zero.
        let known = unsafe {
            sys::av_strerror(self.0, text.as_mut_ptr(), text.len());
            CStr::from_ptr(text.as_ptr())
        };
        f.write_str(&known.to_string_lossy())
    }
}

impl fmt::Debug for AvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AvError({}: {self})", self.0)
    }
}

/// Prepares FFmpeg once for this process: its own log lines are off, since every failure comes back as an error.
pub(in crate::media) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: both calls only set global state of FFmpeg, and `Once` keeps them from racing each other.
        unsafe {
            sys::av_log_set_level(sys::AV_LOG_FATAL);
            sys::avformat_network_init();
        }
    });
}

/// Lets FFmpeg write its errors (`true`) or nothing but fatal ones (`false`) to standard error.
pub(in crate::media) fn log_errors(on: bool) {
    init();
    // SAFETY: sets one global integer.
    unsafe { sys::av_log_set_level(if on { sys::AV_LOG_ERROR } else { sys::AV_LOG_FATAL }) };
}

/// `text` as a C string; a text with a zero byte inside is cut there.
fn c_string(text: &str) -> CString {
    let end = text.bytes().position(|b| b == 0).unwrap_or(text.len());
    CString::new(&text.as_bytes()[..end]).unwrap_or_default()
}

/// An owned `AVDictionary`.
struct Dictionary(*mut sys::AVDictionary);

impl Dictionary {
    fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut dictionary = Self(std::ptr::null_mut());
        for (key, value) in pairs {
            let (key, value) = (c_string(key), c_string(value));
            // SAFETY: the dictionary pointer is ours; av_dict_set copies both strings.
            unsafe { sys::av_dict_set(&mut dictionary.0, key.as_ptr(), value.as_ptr(), 0) };
        }
        dictionary
    }

    /// The first key that nobody took.
    fn left_over(&self) -> Option<String> {
        let empty = c"";
        // SAFETY: the pointer is null or a live dictionary; the entry belongs to it and is copied at once.
        unsafe {
            let entry = sys::av_dict_get(self.0, empty.as_ptr(), std::ptr::null(), sys::AV_DICT_IGNORE_SUFFIX as c_int);
            if entry.is_null() { None } else { Some(CStr::from_ptr((*entry).key).to_string_lossy().into_owned()) }
        }
    }
}

impl Drop for Dictionary {
    fn drop(&mut self) {
        // SAFETY: frees what av_dict_set allocated and nulls the pointer.
        unsafe { sys::av_dict_free(&mut self.0) };
    }
}
