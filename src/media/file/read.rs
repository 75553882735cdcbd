//! Reading.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;

use super::address::address;
use super::{file_error, without_credentials};
use crate::frame::{FrameBuf, FramePool, PixelFormat, Size, Stamps, Timestamp, VideoFrame};
use crate::media::convert::Converter;
use crate::media::ffi::{Kind, Picture, Reader, VideoDecoder, VideoDecoderSpec, register_devices};
use crate::media::transcode::{RATE, Transcoder};
use crate::media::ts::adts;
use crate::media::{AudioPacket, MediaError, PacketCodec};

/// Bit rate of audio that has to be coded anew, in kbit/s.
const AUDIO_KBPS: u32 = 96;
/// Largest picture in pixels that is decoded.
const MAX_PIXELS: u64 = 7680 * 4320;

/// Something from a file, in the order of the file.
#[derive(Debug)]
pub enum MediaItem {
    /// A picture. Its time counts from the begin of the file.
    Video(VideoFrame),
    /// Audio, AAC or Opus: what is coded otherwise is coded anew as Opus.
    Audio(AudioPacket),
}

/// The audio of a file, as its packets come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioTrack {
    /// How packets are coded.
    pub codec: PacketCodec,
    /// Samples a second.
    pub rate: u32,
    /// Channels.
    pub channels: u8,
    /// AudioSpecificConfig for AAC; empty for Opus.
    pub config: Bytes,
}

/// What is known of a file before it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct FileInfo {
    /// Codec of the video, in FFmpeg's words; `None` without video.
    pub video_codec: Option<String>,
    /// Size of the pictures as they are stored.
    pub size: Option<Size>,
    /// Pictures a second.
    pub fps: Option<f64>,
    /// Length in seconds.
    pub duration: Option<f64>,
    /// Pictures; a guess by length and rate where the file does not count.
    pub frames: Option<u64>,
    /// The audio, if any.
    pub audio: Option<AudioTrack>,
}

/// Ends a [`FileReader`] from another thread: a call that waits for a network returns at once.
#[derive(Clone, Debug, Default)]
pub struct Stopper(Arc<AtomicBool>);

impl Stopper {
    /// Stops the reader.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Video {
    decoder: VideoDecoder,
    picture: Picture,
    converter: Converter,
    target: Size,
    period: i64,
    seq: u64,
    next: i64,
}

enum Audio {
    /// Packets pass as they are.
    Pass,
    /// Packets lose their ADTS header.
    Adts(adts::Frames),
    Transcode(Box<Transcoder>),
}

/// Reads a file, a capture device (`/dev/video0`) or an address (`rtmp://…`, `http://…`) into frames of one size and
/// audio packets. An iterator: each item is one or the other, until the end.
pub struct FileReader {
    reader: Reader,
    source: String,
    info: FileInfo,
    video: Option<Video>,
    audio: Option<Audio>,
    start: i64,
    format: PixelFormat,
    pool: FramePool,
    queue: VecDeque<MediaItem>,
    ended: bool,
    /// Why it ended, where that is not the end of the source.
    broken: Option<MediaError>,
    stopper: Stopper,
}

impl FileReader {
    /// Opens `source`. Frames are scaled and centre-cropped to `target`; without one they keep their size, rounded down to
    /// even sides.
    ///
    /// # Errors
    /// [`MediaError::File`] if it cannot be opened or has neither video nor audio; [`MediaError::NoCodec`] or
    /// [`MediaError::Codec`] if it cannot be decoded.
    pub fn open(source: &str, target: Option<Size>, format: PixelFormat) -> Result<Self, MediaError> {
        Self::open_with(source, target, format, Stopper::default())
    }

    /// As [`Self::open`], with a handle that can end it even while it opens.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_with(
        source: &str,
        target: Option<Size>,
        format: PixelFormat,
        stopper: Stopper,
    ) -> Result<Self, MediaError> {
        let mut demuxer = None;
        let address = address(source);
        let (mut url, mut options): (&str, &[(&str, &str)]) = (source, &[]);
        if source.starts_with("/dev/video") {
            register_devices().map_err(|reason| MediaError::File { path: source.into(), reason })?;
            demuxer = Some("video4linux2");
        } else if let Some(address) = &address {
            (url, options) = (&address.url, &address.reading);
        }
        let reader = Reader::open(url, demuxer, options, stopper.0.clone()).map_err(|e| file_error(source, e))?;
        let (video, size, video_codec) = open_video(&reader, target)?;
        let (audio, track) = open_audio(&reader)?.unzip();
        if video.is_none() && audio.is_none() {
            let reason = "neither video nor audio in it".into();
            return Err(MediaError::File { path: without_credentials(source), reason });
        }
        let (fps, duration) = (reader.fps(), reader.duration());
        let guess = || Some((fps? * duration?).round() as u64);
        let info = FileInfo {
            video_codec,
            size,
            fps,
            duration,
            frames: reader.frames().or_else(guess).filter(|_| size.is_some()),
            audio: track,
        };
        let start = reader.start();
        Ok(Self {
            reader,
            source: source.into(),
            info,
            video,
            audio,
            start,
            format,
            pool: FramePool::new(8),
            queue: VecDeque::new(),
            ended: false,
            broken: None,
            stopper,
        })
    }

    /// What is known of it.
    pub fn info(&self) -> &FileInfo {
        &self.info
    }

    /// Pictures that are still to come are scaled and cropped to `target`, in `format`.
    ///
    /// # Errors
    /// [`MediaError::Config`] for a size of zero.
    pub fn set_target(&mut self, target: Size, format: PixelFormat) -> Result<(), MediaError> {
        if target.pixels() == 0 {
            return Err(MediaError::Config { field: "target", reason: format!("{target} is no usable picture size") });
        }
        self.format = format;
        if let Some(video) = &mut self.video {
            video.target = target;
        }
        Ok(())
    }

    /// Ends this reader from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Size of the frames that come.
    pub fn target(&self) -> Option<Size> {
        self.video.as_ref().map(|v| v.target)
    }

    fn step(&mut self) -> Result<(), MediaError> {
        if self.stopper.0.load(Ordering::Relaxed) {
            self.ended = true;
            return Ok(());
        }
        let packet = match self.reader.read() {
            Ok(packet) => packet,
            // What came before comes out before the error is told.
            Err(error) => {
                self.broken = Some(file_error(&self.source, error));
                None
            }
        };
        let Some(packet) = packet else {
            self.ended = true;
            return self.drain();
        };
        let (queue, start) = (&mut self.queue, self.start);
        match packet.kind {
            Kind::Video => {
                let Some(video) = &mut self.video else { return Ok(()) };
                // A damaged picture is no reason to end; the next one may be good.
                if video.decoder.send(packet.data, packet.pts.map(|t| t - start), packet.dts.map(|t| t - start)).is_ok()
                {
                    video.take(&self.pool, self.format, queue)?;
                }
            }
            Kind::Audio => {
                let Some(pts) = packet.pts.or(packet.dts) else { return Ok(()) };
                let pts = Timestamp(pts - start);
                let track = self.info.audio.as_ref();
                let mut give = |packet| queue.push_back(MediaItem::Audio(packet));
                match (&mut self.audio, track) {
                    (Some(Audio::Pass), Some(track)) => give(track.packet(packet.data, pts, packet.duration)),
                    (Some(Audio::Adts(frames)), Some(track)) => {
                        frames.push(packet.data, &mut |adts, data, offset| {
                            let duration = adts::FRAME * Timestamp::HZ / i64::from(adts.rate);
                            let config = Bytes::copy_from_slice(&adts.config);
                            let track =
                                AudioTrack { rate: adts.rate, channels: adts.channels, config, ..track.clone() };
                            give(track.packet(data, Timestamp(pts.0 + offset), duration));
                        });
                    }
                    (Some(Audio::Transcode(transcoder)), _) => transcoder.push(packet.data, pts, &mut give)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), MediaError> {
        if let Some(video) = &mut self.video
            && video.decoder.send_end().is_ok()
        {
            video.take(&self.pool, self.format, &mut self.queue)?;
        }
        if let Some(Audio::Transcode(transcoder)) = &mut self.audio {
            transcoder.finish(&mut |packet| self.queue.push_back(MediaItem::Audio(packet)))?;
        }
        Ok(())
    }
}

impl Iterator for FileReader {
    type Item = Result<MediaItem, MediaError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.queue.pop_front() {
                return Some(Ok(item));
            }
            if self.ended {
                // A reader that was stopped ends like one that came to its end.
                let stopped = self.stopper.0.load(Ordering::Relaxed);
                return self.broken.take().filter(|_| !stopped).map(Err);
            }
            if let Err(error) = self.step() {
                self.ended = true;
                return (!self.stopper.0.load(Ordering::Relaxed)).then_some(Err(error));
            }
        }
    }
}

impl AudioTrack {
    fn packet(&self, data: &[u8], pts: Timestamp, duration: i64) -> AudioPacket {
        AudioPacket {
            codec: self.codec,
            pts,
            duration,
            data: Bytes::copy_from_slice(data),
            rate: self.rate,
            channels: self.channels,
            config: self.config.clone(),
        }
    }
}

impl Video {
    fn take(
        &mut self,
        pool: &FramePool,
        format: PixelFormat,
        queue: &mut VecDeque<MediaItem>,
    ) -> Result<(), MediaError> {
        while let Ok(true) = self.decoder.receive(&mut self.picture) {
            let pts = self.picture.pts().unwrap_or(self.next);
            self.next = pts + self.period;
            // Whoever collects frames may hold more than the pool has; a file is no reason to drop any.
            let length = format.bytes(self.target);
            let data = pool.take(length).unwrap_or_else(|| FrameBuf::owned(vec![0; length]));
            let now = Instant::now();
            let mut frame = VideoFrame {
                seq: self.seq,
                pts: Timestamp(pts),
                size: self.target,
                format,
                color: self.picture.color(),
                stamps: Stamps { received: Some(now), ..Stamps::default() },
                data,
            };
            self.seq += 1;
            self.converter.convert(&self.picture, &mut frame)?;
            frame.stamps.decoded = Some(Instant::now());
            queue.push_back(MediaItem::Video(frame));
        }
        Ok(())
    }
}

type OpenVideo = (Option<Video>, Option<Size>, Option<String>);

fn open_video(reader: &Reader, target: Option<Size>) -> Result<OpenVideo, MediaError> {
    let Some(params) = reader.params(Kind::Video) else { return Ok((None, None, None)) };
    let size = params.size();
    let name = params
        .decoder_name()
        .ok_or_else(|| MediaError::NoCodec { role: "video decoder", name: params.codec_name().into() })?;
    let target = target.unwrap_or(Size::new(size.width & !1, size.height & !1));
    if target.pixels() == 0 {
        return Err(MediaError::Config { field: "target", reason: format!("{target} is no usable picture size") });
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8) as u32);
    let decoder = VideoDecoder::open(&VideoDecoderSpec {
        name: &name,
        threads,
        max_pixels: MAX_PIXELS,
        frame_threads: true,
        nvidia: false,
        params: Some(&params),
    })?;
    let period = (Timestamp::HZ as f64 / reader.fps().unwrap_or(30.0)).round() as i64;
    let video =
        Video { decoder, picture: Picture::empty(), converter: Converter::default(), target, period, seq: 0, next: 0 };
    Ok((Some(video), Some(size), Some(params.codec_name().into())))
}

fn open_audio(reader: &Reader) -> Result<Option<(Audio, AudioTrack)>, MediaError> {
    let Some(params) = reader.params(Kind::Audio) else { return Ok(None) };
    let track = |codec, config: &[u8]| AudioTrack {
        codec,
        rate: params.rate(),
        channels: params.channels(),
        config: Bytes::copy_from_slice(config),
    };
    Ok(Some(match params.codec_name() {
        "aac" if params.extradata().is_empty() => {
            let config = adts::config(params.rate(), params.channels()).unwrap_or([0x11, 0x90]);
            (Audio::Adts(adts::Frames::default()), track(PacketCodec::Aac, &config))
        }
        "aac" => (Audio::Pass, track(PacketCodec::Aac, params.extradata())),
        "opus" => (Audio::Pass, AudioTrack { rate: RATE, ..track(PacketCodec::Opus, &[]) }),
        _ => {
            let transcoder = Transcoder::from_params(&params, PacketCodec::Opus, AUDIO_KBPS)?;
            let (channels, config) = transcoder.output();
            let track = AudioTrack { codec: PacketCodec::Opus, rate: RATE, channels, config };
            (Audio::Transcode(Box::new(transcoder)), track)
        }
    }))
}
