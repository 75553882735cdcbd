//! Settings of the codecs.

use serde::{Deserialize, Serialize};

/// Codec of the published audio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioCodec {
    /// What the network's players expect.
    #[default]
    Opus,
    /// For RTMP-like destinations.
    Aac,
    /// No audio in the output.
    None,
}

/// Settings of decoder, scaler and encoder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `auto`, or an FFmpeg decoder name such as `h264` or `h264_cuvid`.
    pub video_decoder: String,
    /// `auto`, or an FFmpeg encoder name such as `libx264` or `h264_nvenc`.
    pub video_encoder: String,
    /// Ceiling of the video bit rate in kbit/s; 0 chooses by size and rate.
    pub video_kbps: u32,
    /// Quality target of x264 (CRF), 0–51; lower is better.
    pub video_crf: u32,
    /// Speed preset of the encoder, in its own words.
    pub video_preset: String,
    /// Profile of H.264 in the encoder's own words; empty for its own choice.
    pub video_profile: String,
    /// Seconds between forced key frames, which is the length of a segment.
    pub segment_seconds: f64,
    /// Frames a second handed to the pipeline at most; 0 for no cap.
    pub max_fps: f64,
    /// Codec of the published audio.
    pub audio: AudioCodec,
    /// Bit rate of the published audio in kbit/s.
    pub audio_kbps: u32,
    /// Largest accepted input picture in pixels (width × height).
    pub max_input_pixels: u64,
    /// Damaged packets in a row that end a stream; a good picture takes one off.
    pub max_damage: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            video_decoder: "auto".into(),
            video_encoder: "auto".into(),
            video_kbps: 0,
            video_crf: 23,
            video_preset: "superfast".into(),
            video_profile: String::new(),
            segment_seconds: 2.0,
            max_fps: 0.0,
            audio: AudioCodec::Opus,
            audio_kbps: 64,
            max_input_pixels: 7680 * 4320,
            max_damage: 100,
        }
    }
}
