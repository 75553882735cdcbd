//! Decoding and encoding: `media`.

use super::Setting;
use super::check::filled;
use super::row;
use crate::config::values::{plain, text, within, word};

/// The rows, in the order of the file.
pub(super) const ROWS: &[Setting] = &[
    row!(
        "media.video_decoder",
        None,
        text,
        engine.media.video_decoder,
        filled,
        "`auto`, or an FFmpeg decoder such as `h264` or `h264_cuvid`."
    ),
    row!(
        "media.video_encoder",
        None,
        text,
        engine.media.video_encoder,
        filled,
        "`auto`, or an FFmpeg encoder such as `libx264` or `h264_nvenc`."
    ),
    row!(
        "media.video_kbps",
        None,
        plain,
        engine.media.video_kbps,
        |kbps| within(kbps, 0, 200_000),
        "Ceiling of the video bit rate in kbit/s; 0 chooses by size and rate."
    ),
    row!(
        "media.video_crf",
        None,
        plain,
        engine.media.video_crf,
        |crf| within(crf, 0, 51),
        "Quality target of x264, 0 to 51; lower is better."
    ),
    row!(
        "media.video_preset",
        None,
        text,
        engine.media.video_preset,
        filled,
        "Speed preset of the encoder, in its own words."
    ),
    row!(
        "media.segment_seconds",
        None,
        plain,
        engine.media.segment_seconds,
        |seconds| within(seconds, 0.2, 30.0),
        "Seconds between forced key frames, which is the length of a segment."
    ),
    row!(
        "media.max_fps",
        None,
        plain,
        engine.media.max_fps,
        |fps| within(fps, 0.0, 240.0),
        "Frames a second handed to the pipeline at most; 0 for no cap."
    ),
    row!(
        "media.audio",
        None,
        word,
        engine.media.audio,
        Ok::<_, String>,
        "Codec of the published audio: `opus`, `aac` or `none`."
    ),
    row!(
        "media.audio_kbps",
        None,
        plain,
        engine.media.audio_kbps,
        |kbps| within(kbps, 6, 512),
        "Bit rate of the published audio in kbit/s."
    ),
    row!(
        "media.max_input_pixels",
        None,
        plain,
        engine.media.max_input_pixels,
        |pixels| within(pixels, 1024, 16_384 * 16_384),
        "Largest accepted input picture in pixels, width × height."
    ),
    row!(
        "media.max_damage",
        None,
        plain,
        engine.media.max_damage,
        |count| within(count, 1, 100_000),
        "Damaged packets in a row that end a stream; a good picture takes one off."
    ),
];
