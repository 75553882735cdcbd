//! Video encoding, to H.264 or VP8: which encoder, with which options, and how a frame gets into it.

use ffmpeg_next::ffi::AVPixelFormat;

use super::ffi::{Encoded, Image, Picture, Scaler, VideoEncoder, VideoEncoderSpec};
use super::{MediaError, VideoCodec, codec_error};
use crate::frame::{Color, PixelFormat, Size, Timestamp, VideoFrame};

/// Larger pictures are encoded by several threads, slice by slice.
const ONE_THREAD_PIXELS: u64 = 1280 * 720;

/// No ceiling is lowered further than this, in bit/s.
const LEAST_RATE: u64 = 100_000;

/// Encoders that are done with a picture when the call returns, so that they may read our memory.
const READS_IN_PLACE: [&str; 3] = ["libx264", "h264_nvenc", VP8];
/// Encoders that look at their ceiling with every picture.
const FOLLOWS_CEILING: [&str; 2] = ["libx264", "h264_nvenc"];
/// FFmpeg's name of the encoder for VP8.
pub(super) const VP8: &str = "libvpx";
/// An encoder that has to begin anew for another rate does so when it differs by this part of the one before.
const STEP: f64 = 0.2;

/// What is to be encoded, and how.
#[derive(Clone, Debug)]
pub(super) struct EncodeConfig {
    /// `auto` or FFmpeg's name of an encoder.
    pub encoder: String,
    /// In the encoder's own words; empty for its default.
    pub preset: String,
    /// In the encoder's own words; empty for its own choice.
    pub profile: String,
    /// 0–51, lower is better; x264 is lossless at 0.
    pub crf: u32,
    /// Ceiling in kbit/s; `None` for none, 0 for a choice by size and rate.
    pub kbps: Option<u32>,
    /// Frames a second, as a hint.
    pub fps: f64,
    /// For live streams: no delay. A file may take its time.
    pub live: bool,
    /// Parameter sets outside the stream.
    pub global_header: bool,
}

/// An encoder that follows the frames' size and colour.
pub(super) struct Encode {
    config: EncodeConfig,
    encoder: VideoEncoder,
    scaler: Scaler,
    picture: Option<Picture>,
    /// Ceiling in bit/s that was wanted last; 0 for the configured one.
    wanted: u64,
    /// Ceiling in bit/s that an encoder was opened with that keeps it.
    opened: u64,
    /// The encoder's own time line, which always grows, whatever the input's does.
    clock: i64,
    last: Option<Timestamp>,
}

impl Encode {
    /// Opens the encoder.
    ///
    /// # Errors
    /// A size that 4:2:0 cannot hold, an unknown encoder, or one that does not open.
    pub fn new(config: EncodeConfig, size: Size) -> Result<Self, MediaError> {
        let encoder = open(&config, size, Color::default(), 0)?;
        let opened = max_rate(&config, size);
        Ok(Self { config, encoder, scaler: Scaler::default(), picture: None, wanted: 0, opened, clock: 0, last: None })
    }

    /// How its pictures are coded.
    pub fn codec(&self) -> VideoCodec {
        if self.encoder.name() == VP8 { VideoCodec::Vp8 } else { VideoCodec::H264 }
    }

    /// Whether the encoder has to begin anew, with a key picture, to keep to the ceiling.
    pub fn outrun(&self) -> bool {
        if self.encoder.name() != VP8 {
            return false;
        }
        let wanted = self.ceiling(self.encoder.size());
        wanted.abs_diff(self.opened) as f64 >= STEP * self.opened as f64
    }

    /// Ceiling in bit/s for pictures of `size`; 0 for none.
    fn ceiling(&self, size: Size) -> u64 {
        match (max_rate(&self.config, size), self.wanted) {
            (0, _) => 0,
            (configured, 0) => configured,
            (configured, wanted) => wanted.clamp(LEAST_RATE.min(configured), configured),
        }
    }

    /// FFmpeg's name of the encoder at work.
    pub fn name(&self) -> &str {
        self.encoder.name()
    }

    /// Parameter sets, if they are outside the stream.
    pub fn extradata(&self) -> &[u8] {
        self.encoder.extradata()
    }

    /// Whether `frame` has another size than the encoder was opened for.
    pub fn resized(&self, frame: &VideoFrame) -> bool {
        self.encoder.size() != frame.size
    }

    /// Whether `frame` states another colour than the encoder writes down. One that states none goes by the encoder's.
    pub fn recolored(&self, frame: &VideoFrame) -> bool {
        frame.color.tagged && self.encoder.color() != frame.color
    }

    /// Opens the encoder anew for frames like `frame`. What it held goes to `out` first.
    pub fn reopen(&mut self, frame: &VideoFrame, out: &mut dyn FnMut(Encoded<'_>)) -> Result<(), MediaError> {
        self.encoder.finish(out)?;
        self.opened = self.ceiling(frame.size);
        self.encoder = open(&self.config, frame.size, frame.color, self.opened)?;
        self.picture = None;
        Ok(())
    }

    /// The time on the encoder's own time line that a frame at `pts` gets: ahead by as much as the input went ahead, within
    /// reason.
    pub fn time(&mut self, pts: Timestamp) -> i64 {
        if let Some(last) = self.last.replace(pts) {
            self.clock += pts.since(last).clamp(1, 10 * Timestamp::HZ);
        }
        self.clock
    }

    /// Encodes `frame` at `time` of the encoder's time line; `key` asks for an IDR picture.
    pub fn push(
        &mut self,
        frame: &VideoFrame,
        time: i64,
        key: bool,
        out: &mut dyn FnMut(Encoded<'_>),
    ) -> Result<(), MediaError> {
        if frame.format == PixelFormat::I420 && READS_IN_PLACE.contains(&self.encoder.name()) {
            return self.encoder.encode_i420(&frame.data, time, key, out);
        }
        let picture = match &mut self.picture {
            Some(picture) => picture,
            none => none.insert(
                Picture::allocate(frame.size, AVPixelFormat::AV_PIX_FMT_YUV420P)
                    .map_err(|e| codec_error("a picture for the encoder", e))?,
            ),
        };
        picture.make_writable().map_err(|e| codec_error("a picture for the encoder", e))?;
        if frame.format == PixelFormat::I420 {
            let (w, h) = (frame.size.width as usize, frame.size.height as usize);
            for (index, plane) in frame.planes().into_iter().enumerate() {
                let (bytes, rows) = if index == 0 { (w, h) } else { (w / 2, h / 2) };
                picture.fill(index, bytes, rows, plane);
            }
        } else {
            let image = Image { data: &frame.data, size: frame.size, format: frame.format };
            self.scaler
                .image_to_picture(&image, frame.color, picture, self.encoder.color())
                .map_err(|e| codec_error("conversion for the encoder", e))?;
        }
        self.encoder.encode_picture(picture, time, key, out)
    }

    /// Lowers the ceiling to `kbps`, or raises it again up to the configured one; 0 for the configured one. VP8's begins
    /// anew for it, see [`Self::outrun`]; others that cannot change it while they run keep theirs. An encoder without a
    /// ceiling never gets one.
    pub fn limit(&mut self, kbps: u64) {
        self.wanted = kbps.saturating_mul(1000);
        let ceiling = self.ceiling(self.encoder.size());
        if ceiling > 0 && FOLLOWS_CEILING.contains(&self.encoder.name()) {
            self.encoder.set_max_rate(ceiling);
        }
    }

    /// Gives out what the encoder holds and ends it.
    pub fn finish(&mut self, out: &mut dyn FnMut(Encoded<'_>)) -> Result<(), MediaError> {
        self.encoder.finish(out)
    }
}

/// Opens the encoder with a ceiling of `rate` bit/s; 0 for the configured one.
fn open(config: &EncodeConfig, size: Size, color: Color, rate: u64) -> Result<VideoEncoder, MediaError> {
    if size.width < 2 || size.height < 2 || (size.width | size.height) & 1 == 1 || size.pixels() > 1 << 26 {
        return Err(MediaError::Config {
            field: "size",
            reason: format!("{size} cannot be encoded; both sides must be even and at least 2"),
        });
    }
    if config.encoder == "auto" {
        if super::nvidia_device()
            && let Ok(encoder) = open_as("h264_nvenc", config, size, color, rate)
        {
            return Ok(encoder);
        }
        return open_as("libx264", config, size, color, rate);
    }
    open_as(&config.encoder, config, size, color, rate)
}

fn open_as(name: &str, config: &EncodeConfig, size: Size, color: Color, rate: u64) -> Result<VideoEncoder, MediaError> {
    let max_rate = if rate == 0 { max_rate(config, size) } else { rate };
    let threads = match size.pixels() {
        0..=ONE_THREAD_PIXELS if config.live => 1,
        _ => std::thread::available_parallelism().map_or(1, |n| n.get().min(4) as u32),
    };
    let options = options(name, config, max_rate);
    let options: Vec<(&str, &str)> = options.iter().map(|(k, v)| (*k, v.as_str())).collect();
    VideoEncoder::open(&VideoEncoderSpec {
        name,
        size,
        fps: config.fps,
        // By one tick, which is what FFmpeg says otherwise, the first pictures would get next to no bits.
        frame_ticks: if name == VP8 { (Timestamp::HZ as f64 / config.fps.clamp(1.0, 240.0)) as u32 } else { 0 },
        color,
        format: AVPixelFormat::AV_PIX_FMT_YUV420P,
        threads,
        global_header: config.global_header,
        max_rate,
        gop: match name {
            "ffv1" => 1,
            _ if config.live => u32::MAX,
            _ => 250,
        },
        options: &options,
    })
}

/// Ceiling in bit/s; 0 for none.
fn max_rate(config: &EncodeConfig, size: Size) -> u64 {
    match config.kbps {
        None => 0,
        Some(0) => default_kbps(size, config.fps) * 1000,
        Some(kbps) => u64::from(kbps) * 1000,
    }
}

fn options(name: &str, config: &EncodeConfig, max_rate: u64) -> Vec<(&'static str, String)> {
    let mut options = Vec::new();
    match name {
        "libx264" => {
            if !config.preset.is_empty() {
                options.push(("preset", config.preset.clone()));
            }
            options.push(("crf", config.crf.to_string()));
            if !config.profile.is_empty() {
                options.push(("profile", config.profile.clone()));
            }
            options.push(("forced-idr", "1".into()));
            if config.live {
                options.push(("tune", "zerolatency".into()));
                options.push(("x264-params", "scenecut=0:aud=1".into()));
            }
        }
        "h264_nvenc" => {
            // The configured preset is x264's unless it is one of NVENC's.
            let own = config.preset.strip_prefix('p').is_some_and(|n| n.parse::<u8>().is_ok());
            options.push(("preset", if own { config.preset.clone() } else { "p3".into() }));
            if !config.profile.is_empty() {
                options.push(("profile", config.profile.clone()));
            }
            options.push(("rc", "vbr".into()));
            options.push(("cq", config.crf.to_string()));
            options.push(("forced-idr", "1".into()));
            options.push(("no-scenecut", "1".into()));
            options.push(("aud", "1".into()));
            if config.live {
                options.push(("tune", "ull".into()));
                options.push(("zerolatency", "1".into()));
                options.push(("delay", "0".into()));
            }
        }
        VP8 => {
            // A constant rate, as the library wants it for conversations: all three rates the same.
            if max_rate > 0 {
                options.push(("b", max_rate.to_string()));
                options.push(("minrate", max_rate.to_string()));
            }
            options.push(("deadline", "realtime".into()));
            options.push(("cpu-used", "8".into()));
            options.push(("lag-in-frames", "0".into()));
            options.push(("auto-alt-ref", "0".into()));
            options.push(("qmin", "4".into()));
            options.push(("qmax", "56".into()));
        }
        _ => {}
    }
    options
}

/// Ceiling in kbit/s for pictures of `size` at `fps`: 6 Mbit/s for 720p at 30, less than proportionally more for more.
fn default_kbps(size: Size, fps: f64) -> u64 {
    let load = size.pixels() as f64 * fps.clamp(1.0, 240.0) / (1280.0 * 720.0 * 30.0);
    (6000.0 * load.powf(0.75)).clamp(300.0, 60_000.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_by_size() {
        assert_eq!(default_kbps(Size::new(1280, 720), 30.0), 6000);
        assert!((2000..2800).contains(&default_kbps(Size::new(512, 512), 30.0)));
        assert_eq!(default_kbps(Size::new(64, 64), 1.0), 300);
    }
}
