//! Transport stream, H.264, audio, scaling and time stamps.
//!
//! | part | from | to |
//! | --- | --- | --- |
//! | [`Input`] | bytes of transport stream segments | frames of one size, audio packets |
//! | [`AudioHold`] | audio packets of the input | the same, held back until the video is there |
//! | [`Output`] | frames and audio packets | bytes of transport stream segments |
//! | [`AudioFilter`] | audio packets | the same with other samples in them |
//! | [`FileReader`], [`FileWriter`], [`Recorder`] | files, devices, addresses | and back |
//! | [`Pattern`], [`Tone`], [`JpegEncoder`] | nothing | pictures and sound to try things with |
//!
//! All calls are synchronous and belong on threads of their own. One object serves one thread at a time; dropping it frees
//! its codec. Every time stamp is in 90 kHz on the input's own time line, from the first byte to the last.

mod config;
mod convert;
mod decode;
mod encode;
mod error;
mod ffi;
mod file;
mod filter;
mod frames;
#[doc(hidden)]
pub mod fuzz;
mod h264;
mod hold;
mod input;
mod jpeg;
mod output;
mod packet;
pub mod pattern;
mod rate;
mod transcode;
pub mod ts;
mod vp8;

pub use config::*;
pub use error::{Damage, DropReason, InputEvent, MediaError, StreamInfo};
pub use file::{
    AudioTrack, FileInfo, FileReader, FileWriter, MediaItem, Quality, Recorder, Stopper, WriteConfig, is_address,
    takes_streams,
};
pub use filter::{AudioBlocks, AudioFilter, RATE};
pub use frames::FrameConverter;
pub use hold::{AudioHold, HoldConfig, HoldStats};
pub use input::{Input, InputConfig, InputSink, InputStats};
pub use jpeg::JpegEncoder;
pub use output::{Chunk, Output, OutputConfig, OutputStats, SegmentSink, VideoOut};
pub use packet::{AudioPacket, PacketCodec, VideoCodec};
pub use pattern::{Pattern, Tone};

/// Lets FFmpeg write its own errors to standard error (`true`); without it they come back as [`MediaError`] only.
pub fn log_ffmpeg_errors(on: bool) {
    ffi::log_errors(on);
}

fn codec_error(what: impl Into<String>, e: ffi::AvError) -> MediaError {
    MediaError::Codec { what: what.into(), reason: e.to_string() }
}

/// Whether the driver of an NVIDIA device is there, so that trying its codecs is worth the time.
fn nvidia_device() -> bool {
    std::path::Path::new("/dev/nvidiactl").exists() || std::path::Path::new("/dev/dxg").exists()
}
