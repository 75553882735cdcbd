//! The input of a session: bytes of a transport stream in, pictures of one size and audio packets out.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::convert::Converter;
use super::decode::{Decode, IN_FLIGHT, Taken};
use super::ffi::Picture;
use super::rate::RateCap;
use super::ts::demux::{DemuxConfig, DemuxSink, DemuxStats, Demuxer, Stream, StreamKind, Unit};
use super::ts::{adts, opus};
use super::{AudioPacket, Config, Damage, DropReason, InputEvent, MediaError, PacketCodec, StreamInfo, VideoCodec};
use crate::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};

/// A frame not later than the one before is dropped if it is at most this far back; farther back, the time line jumped.
const OUT_OF_ORDER: i64 = Timestamp::HZ / 2;

/// What an [`Input`] gives.
#[derive(Clone)]
pub struct InputConfig {
    /// Size of the frames.
    pub target: Size,
    /// Layout of the frames.
    pub format: PixelFormat,
    /// Codec settings.
    pub media: Config,
    /// Where frames come from. A frame that finds it empty is dropped.
    pub pool: FramePool,
}

/// Where an [`Input`] puts what it finds. Called from inside [`Input::push`], on its thread.
pub trait InputSink {
    /// A frame of the wanted size and format, stamped `received` and `decoded`.
    fn video(&mut self, frame: VideoFrame);
    /// An audio packet as it came.
    fn audio(&mut self, packet: AudioPacket);
    /// Something worth knowing.
    fn event(&mut self, event: InputEvent);
}

/// Counters of an [`Input`], all from its begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputStats {
    /// Bytes taken.
    pub bytes: u64,
    /// Pictures decoded.
    pub decoded: u64,
    /// Frames handed on.
    pub frames: u64,
    /// Audio packets handed on.
    pub audio_packets: u64,
    /// Frames dropped since the pool was empty.
    pub dropped_pool: u64,
    /// Frames dropped by the rate cap.
    pub dropped_rate: u64,
    /// Frames and audio packets dropped since they were not later than their predecessors, or without a time.
    pub dropped_order: u64,
    /// Access units skipped before the first one that can be decoded alone.
    pub skipped_units: u64,
    /// Bad packets.
    pub damage: u64,
    /// Jumps of the time line.
    pub jumps: u64,
    /// What the demultiplexer counted.
    pub demux: DemuxStats,
}

/// Demultiplexer, decoder, scaler and rate cap of one stream.
///
/// Per segment: [`Self::segment_start`], [`Self::push`] for each piece, [`Self::segment_end`] if the last byte came. Pieces
/// may be of any size; a frame comes out of the call that brings its last byte, unless the stream reorders its pictures.
pub struct Input {
    demux: Demuxer,
    work: Work,
}

/// Everything behind the demultiplexer.
struct Work {
    config: InputConfig,
    decode: Decode,
    converter: Converter,
    cap: RateCap,
    arrivals: VecDeque<Arrival>,
    seq: u64,
    last_video: Option<Timestamp>,
    last_audio: Option<Timestamp>,
    format: Option<(Size, i32)>,
    named: bool,
    adts: adts::Frames,
    aac_config: Bytes,
    has_video: bool,
    bad: u32,
    failed: Option<Damage>,
    fatal: Option<MediaError>,
    stats: InputStats,
}

impl Input {
    /// Opens the decoder.
    ///
    /// # Errors
    /// [`MediaError::NoCodec`] or [`MediaError::Codec`] when the configured decoder does not open, [`MediaError::Config`]
    /// for a size of zero.
    pub fn new(config: InputConfig) -> Result<Self, MediaError> {
        check_target(config.target)?;
        let decode = Decode::new(&config.media.video_decoder, config.media.max_input_pixels)?;
        let cap = RateCap::new(config.media.max_fps);
        Ok(Self {
            demux: Demuxer::new(DemuxConfig::default()),
            work: Work {
                config,
                decode,
                converter: Converter::default(),
                cap,
                arrivals: VecDeque::with_capacity(IN_FLIGHT),
                seq: 0,
                last_video: None,
                last_audio: None,
                format: None,
                named: false,
                adts: adts::Frames::default(),
                aac_config: Bytes::new(),
                has_video: false,
                bad: 0,
                failed: None,
                fatal: None,
                stats: InputStats::default(),
            },
        })
    }

    /// Takes the next bytes of the segment, which came out of the socket at `received`.
    ///
    /// # Errors
    /// The stream is beyond use: [`MediaError::TooDamaged`] names the last damage. Every later call fails alike.
    pub fn push(&mut self, bytes: &[u8], received: Instant, sink: &mut dyn InputSink) -> Result<(), MediaError> {
        self.work.check()?;
        self.work.stats.bytes += bytes.len() as u64;
        self.demux.push(bytes, &mut Pass { work: &mut self.work, received, sink });
        self.work.check()
    }

    /// A new segment begins. What the last one left unfinished is thrown away.
    pub fn segment_start(&mut self) {
        self.demux.segment_start();
        self.work.adts.reset();
    }

    /// The segment's last byte is in: what only waited for the next packet comes out.
    ///
    /// # Errors
    /// As for [`Self::push`].
    pub fn segment_end(&mut self, sink: &mut dyn InputSink) -> Result<(), MediaError> {
        self.work.check()?;
        self.demux.segment_end(&mut Pass { work: &mut self.work, received: Instant::now(), sink });
        self.work.check()
    }

    /// The stream is over: pictures that were held for reordering come out.
    pub fn finish(&mut self, sink: &mut dyn InputSink) {
        // An input that failed has said so already; what it still holds is of use all the same.
        let _ = self.segment_end(sink);
        let work = &mut self.work;
        let received = Instant::now();
        let (decode, mut rest) = work.split();
        decode.drain(&mut |picture| rest.picture(picture, received, sink));
    }

    /// At most `fps` pictures a second are handed on from the next one on; 0 for no cap.
    pub fn set_cap(&mut self, fps: f64) {
        self.work.config.media.max_fps = fps;
        self.work.cap = RateCap::new(fps);
    }

    /// Frames have this size and format from the next picture on.
    ///
    /// # Errors
    /// [`MediaError::Config`] for a size of zero; nothing changes.
    pub fn set_target(&mut self, size: Size, format: PixelFormat) -> Result<(), MediaError> {
        check_target(size)?;
        self.work.config.target = size;
        self.work.config.format = format;
        Ok(())
    }

    /// FFmpeg's name of the decoder at work.
    pub fn decoder_name(&self) -> &str {
        self.work.decode.name()
    }

    /// Counters so far.
    pub fn stats(&self) -> InputStats {
        InputStats { demux: self.demux.stats(), ..self.work.stats }
    }
}

fn check_target(size: Size) -> Result<(), MediaError> {
    if size.width == 0 || size.height == 0 || size.pixels() > 1 << 28 {
        return Err(MediaError::Config { field: "target", reason: format!("{size} is no usable picture size") });
    }
    Ok(())
}

/// An access unit that is on its way through the decoder.
struct Arrival {
    pts: i64,
    at: Instant,
    bytes: u32,
}

/// One call's view: the state, the arrival of its bytes and where results go.
struct Pass<'a> {
    work: &'a mut Work,
    received: Instant,
    sink: &'a mut dyn InputSink,
}

impl DemuxSink for Pass<'_> {
    fn streams(&mut self, streams: &[Stream]) {
        self.work.streams(streams, self.sink);
    }

    fn unit(&mut self, unit: Unit<'_>) {
        if self.work.check().is_err() {
            return;
        }
        match unit.kind {
            StreamKind::H264 => self.work.video(VideoCodec::H264, &unit, self.received, self.sink),
            StreamKind::Vp8 => self.work.video(VideoCodec::Vp8, &unit, self.received, self.sink),
            StreamKind::Aac => self.work.aac(&unit, self.sink),
            StreamKind::Opus { channels } => self.work.opus(&unit, channels, self.sink),
            StreamKind::Unsupported { .. } => {}
        }
    }

    fn damage(&mut self, damage: Damage) {
        self.work.damage(damage, self.sink);
    }

    fn jump(&mut self, from: Timestamp, to: Timestamp) {
        self.work.stats.jumps += 1;
        self.sink.event(InputEvent::Discontinuity { from, to });
    }
}

/// What a picture meets after the decoder: all of [`Work`] but the decoder itself.
struct Rest<'a> {
    config: &'a InputConfig,
    converter: &'a mut Converter,
    cap: &'a mut RateCap,
    arrivals: &'a VecDeque<Arrival>,
    seq: &'a mut u64,
    last: &'a mut Option<Timestamp>,
    format: &'a mut Option<(Size, i32)>,
    bad: &'a mut u32,
    stats: &'a mut InputStats,
    fatal: &'a mut Option<MediaError>,
}

impl Work {
    /// The error that ended this input, if one did.
    fn check(&self) -> Result<(), MediaError> {
        if let Some(MediaError::Codec { what, reason }) = &self.fatal {
            return Err(MediaError::Codec { what: what.clone(), reason: reason.clone() });
        }
        match self.failed {
            Some(last) => Err(MediaError::TooDamaged { count: self.bad, limit: self.config.media.max_damage, last }),
            None => Ok(()),
        }
    }

    fn split(&mut self) -> (&mut Decode, Rest<'_>) {
        let rest = Rest {
            config: &self.config,
            converter: &mut self.converter,
            cap: &mut self.cap,
            arrivals: &self.arrivals,
            seq: &mut self.seq,
            last: &mut self.last_video,
            format: &mut self.format,
            bad: &mut self.bad,
            stats: &mut self.stats,
            fatal: &mut self.fatal,
        };
        (&mut self.decode, rest)
    }

    fn damage(&mut self, damage: Damage, sink: &mut dyn InputSink) {
        self.stats.damage += 1;
        self.bad = self.bad.saturating_add(1);
        sink.event(InputEvent::Damage(damage));
        if self.bad > self.config.media.max_damage && self.failed.is_none() {
            self.failed = Some(damage);
        }
    }

    fn streams(&mut self, streams: &[Stream], sink: &mut dyn InputSink) {
        let (mut video, mut audio, mut unsupported) = (None, None, Vec::new());
        for stream in streams {
            let info = |codec, channels| Some(StreamInfo { pid: stream.pid, codec, channels });
            match stream.kind {
                StreamKind::H264 if video.is_none() => video = info("h264", None),
                StreamKind::Vp8 if video.is_none() => video = info("vp8", None),
                StreamKind::Aac if audio.is_none() => audio = info("aac", None),
                StreamKind::Opus { channels } if audio.is_none() => {
                    audio = info("opus", Some(channels).filter(|&n| n > 0));
                }
                StreamKind::Unsupported { stream_type } => unsupported.push(format!("stream type {stream_type:#04x}")),
                other => unsupported.push(format!("a further {other:?} stream")),
            }
        }
        self.has_video = video.is_some();
        self.adts.reset();
        sink.event(InputEvent::StreamsFound { video, audio, unsupported });
    }

    fn video(&mut self, codec: VideoCodec, unit: &Unit<'_>, received: Instant, sink: &mut dyn InputSink) {
        if !self.named {
            self.named = true;
            sink.event(InputEvent::DecoderChosen { name: self.decode.name().into() });
        }
        if let Some(pts) = unit.pts {
            if self.arrivals.len() == IN_FLIGHT {
                self.arrivals.pop_front();
            }
            self.arrivals.push_back(Arrival { pts: pts.0, at: received, bytes: unit.data.len() as u32 });
        }
        let name = self.decode.name().len();
        let decoded = self.stats.decoded;
        let (decode, mut rest) = self.split();
        let taken = decode.push(codec, unit.data, unit.pts.map(|t| t.0), unit.dts.map(|t| t.0), &mut |picture| {
            rest.picture(picture, received, sink);
        });
        match taken {
            Ok(Taken::Decoded) => {}
            Ok(Taken::Skipped) => {
                self.stats.skipped_units += 1;
                sink.event(InputEvent::Dropped { reason: DropReason::BeforeKeyFrame, pts: unit.pts });
            }
            Ok(Taken::Damaged(damage)) => {
                self.damage(damage, sink);
                // A decoder that complains may have concealed the damage and given a picture all the same.
                if self.stats.decoded == decoded {
                    sink.event(InputEvent::Dropped { reason: DropReason::Damaged, pts: unit.pts });
                }
            }
            Err(error) => self.fatal = Some(error),
        }
        if self.decode.name().len() != name {
            sink.event(InputEvent::DecoderChosen { name: self.decode.name().into() });
        }
    }

    fn aac(&mut self, unit: &Unit<'_>, sink: &mut dyn InputSink) {
        let Some(pts) = unit.pts.or(self.last_audio) else { return };
        let mut frames = std::mem::take(&mut self.adts);
        let good = frames.push(unit.data, &mut |adts, data, offset| {
            if self.aac_config[..] != adts.config {
                self.aac_config = Bytes::copy_from_slice(&adts.config);
            }
            let packet = AudioPacket {
                codec: PacketCodec::Aac,
                pts: Timestamp(pts.0 + offset),
                duration: adts::FRAME * Timestamp::HZ / i64::from(adts.rate),
                data: Bytes::copy_from_slice(data),
                rate: adts.rate,
                channels: adts.channels,
                config: self.aac_config.clone(),
            };
            self.audio(packet, sink);
        });
        self.adts = frames;
        if !good {
            self.damage(Damage::Audio { pid: unit.pid }, sink);
        }
    }

    fn opus(&mut self, unit: &Unit<'_>, channels: u8, sink: &mut dyn InputSink) {
        let Some(mut pts) = unit.pts else { return };
        let mut packets = opus::Packets::new(unit.data);
        for packet in packets.by_ref() {
            let channels = match channels {
                0 => 1 + u8::from(opus::is_stereo(packet.data)),
                n => n,
            };
            self.audio(
                AudioPacket {
                    codec: PacketCodec::Opus,
                    pts,
                    duration: packet.duration,
                    data: Bytes::copy_from_slice(packet.data),
                    rate: 48_000,
                    channels,
                    config: Bytes::new(),
                },
                sink,
            );
            pts.0 += packet.duration;
        }
        if !packets.clean() {
            self.damage(Damage::Audio { pid: unit.pid }, sink);
        }
    }

    fn audio(&mut self, packet: AudioPacket, sink: &mut dyn InputSink) {
        self.last_audio = Some(packet.pts);
        self.stats.audio_packets += 1;
        if !self.has_video {
            self.bad = self.bad.saturating_sub(1);
        }
        sink.audio(packet);
    }
}

impl Rest<'_> {
    fn picture(&mut self, picture: &Picture, received: Instant, sink: &mut dyn InputSink) {
        self.stats.decoded += 1;
        let seq = *self.seq;
        *self.seq += 1;
        if !picture.damaged() {
            *self.bad = self.bad.saturating_sub(1);
        }
        let format = (picture.size(), picture.format());
        if *self.format != Some(format) {
            *self.format = Some(format);
            sink.event(InputEvent::FormatChanged { size: format.0, pixel_format: picture.format_name() });
        }
        let pts = picture.pts().map(Timestamp);
        match self.frame(picture, seq, pts, received) {
            Ok(Some(frame)) => {
                self.stats.frames += 1;
                sink.video(frame);
            }
            Ok(None) => {}
            Err(reason) => {
                match reason {
                    DropReason::PoolEmpty => self.stats.dropped_pool += 1,
                    DropReason::RateCap => self.stats.dropped_rate += 1,
                    _ => self.stats.dropped_order += 1,
                }
                sink.event(InputEvent::Dropped { reason, pts });
            }
        }
    }

    fn frame(
        &mut self,
        picture: &Picture,
        seq: u64,
        pts: Option<Timestamp>,
        received: Instant,
    ) -> Result<Option<VideoFrame>, DropReason> {
        let pts = pts.ok_or(DropReason::NoTime)?;
        if self.last.is_some_and(|last| pts <= last && last.since(pts) <= OUT_OF_ORDER) {
            return Err(DropReason::OutOfOrder);
        }
        *self.last = Some(pts);
        if !self.cap.allow(pts) {
            return Err(DropReason::RateCap);
        }
        let (size, format) = (self.config.target, self.config.format);
        let mut frame = VideoFrame::take(&self.config.pool, size, format, pts).ok_or(DropReason::PoolEmpty)?;
        if let Err(error) = self.converter.convert(picture, &mut frame) {
            *self.fatal = Some(error);
            return Ok(None);
        }
        frame.seq = seq;
        let arrival = self.arrivals.iter().rev().find(|arrival| arrival.pts == pts.0);
        frame.stamps.received = Some(arrival.map_or(received, |arrival| arrival.at));
        frame.stamps.bytes_in = arrival.map_or(0, |arrival| arrival.bytes);
        frame.stamps.pixels_in = picture.size().pixels() as u32;
        frame.stamps.decoded = Some(Instant::now());
        Ok(Some(frame))
    }
}
