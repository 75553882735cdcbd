//! Writing.

use std::collections::VecDeque;
use std::path::Path;

use super::{AudioTrack, create, file_error, is_address, repeats_headers, rest, takes_opus, without_credentials};
use crate::frame::{Size, Timestamp, VideoFrame};
use crate::media::encode::{Encode, EncodeConfig};
use crate::media::ffi::{Encoded, Kind, Writer, WriterAudio, WriterVideo};
use crate::media::ts::opus;
use crate::media::{AudioPacket, MediaError, PacketCodec};

/// How much of the picture is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    /// x264's CRF, 1–51: lower is better, 18 looks like the original.
    Crf(u32),
    /// Every sample is kept: FFV1 in `.mkv`, `.avi` and `.nut`, x264 at CRF 0 elsewhere.
    Lossless,
}

/// What a [`FileWriter`] writes.
#[derive(Clone, Debug)]
pub struct WriteConfig {
    /// Size of the frames; both sides even.
    pub size: Size,
    /// Frames a second, for the file's header and rate control.
    pub fps: f64,
    /// How much of the picture is kept.
    pub quality: Quality,
    /// x264's speed preset.
    pub preset: String,
    /// The audio that will come, if any.
    pub audio: Option<AudioTrack>,
}

/// Time between two key pictures for those who watch while it is written, in 90 kHz.
const KEY_EVERY: i64 = 2 * Timestamp::HZ;

/// Encodes frames into a file whose format its name's ending chooses, with audio packets beside them.
pub struct FileWriter {
    path: String,
    encode: Encode,
    writer: Writer,
    /// Frames inside the encoder: time on its time line, time on ours.
    pending: VecDeque<(i64, i64)>,
    last: Option<Timestamp>,
    period: i64,
    dropped: u64,
    live: bool,
    /// When the last key picture was asked for.
    key: Option<Timestamp>,
}

impl FileWriter {
    /// Creates the file, or replaces it. An address (`rtmp://…`, `rtsp://…`, `srt://…`) gets a live stream: no picture waits
    /// for another, and one in two seconds is a key picture.
    ///
    /// # Errors
    /// An unknown ending, a place that cannot be written, a size or codec that the format does not take.
    pub fn create(path: &Path, config: &WriteConfig) -> Result<Self, MediaError> {
        let name = path.to_string_lossy().into_owned();
        let opus = config.audio.as_ref().is_some_and(|audio| audio.codec == PacketCodec::Opus);
        if opus && !takes_opus(&name) {
            let reason = "RTMP takes AAC beside H.264, and the sound is Opus; media.audio = none leaves it out".into();
            return Err(MediaError::File { path: without_credentials(&name), reason });
        }
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let (encoder, codec, crf) = match config.quality {
            Quality::Lossless if ["mkv", "avi", "nut"].contains(&&*ending) => ("ffv1", "ffv1", 0),
            Quality::Lossless => ("libx264", "h264", 0),
            Quality::Crf(crf) => ("libx264", "h264", crf.clamp(1, 51)),
        };
        let live = is_address(&name);
        let encode = Encode::new(
            EncodeConfig {
                profile: String::new(),
                encoder: encoder.into(),
                preset: config.preset.clone(),
                crf,
                kbps: None,
                fps: config.fps,
                live,
                // Who comes later reads them beside each key picture.
                global_header: !repeats_headers(&name),
            },
            config.size,
        )?;
        let head = config.audio.as_ref().map(|a| match a.codec {
            PacketCodec::Opus => opus::head(a.channels, 312).to_vec(),
            PacketCodec::Aac => a.config.to_vec(),
        });
        let audio = config.audio.as_ref().zip(head.as_ref()).map(|(a, head)| WriterAudio {
            codec: a.codec.name(),
            rate: a.rate,
            channels: a.channels,
            extradata: head,
        });
        let video = WriterVideo { codec, size: config.size, fps: config.fps, extradata: encode.extradata() };
        let writer = create(&name, Some(&video), audio.as_ref()).map_err(|e| file_error(&name, e))?;
        let period = (Timestamp::HZ as f64 / config.fps.max(0.001)).round() as i64;
        Ok(Self {
            path: name,
            encode,
            writer,
            pending: VecDeque::new(),
            last: None,
            period,
            dropped: 0,
            live,
            key: None,
        })
    }

    /// Adds a frame. One that is not later than the last is dropped and counted.
    ///
    /// # Errors
    /// The encoder refused it, for example since it has another size, or the file cannot be written.
    pub fn video(&mut self, frame: &VideoFrame) -> Result<(), MediaError> {
        if self.last.is_some_and(|last| frame.pts <= last) {
            self.dropped += 1;
            return Ok(());
        }
        self.last = Some(frame.pts);
        let time = self.encode.time(frame.pts);
        self.pending.push_back((time, frame.pts.0));
        let key = self.live && self.key.is_none_or(|last| frame.pts.since(last) >= KEY_EVERY);
        if key {
            self.key = Some(frame.pts);
        }
        let (mut written, pending, writer, period) = (Ok(()), &mut self.pending, &mut self.writer, self.period);
        self.encode.push(frame, time, key, &mut |packet| {
            if written.is_ok() {
                written = write(writer, pending, period, &packet);
            }
        })?;
        written.map_err(|e| file_error(&self.path, e))
    }

    /// Adds an audio packet of the track that the file was created with.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn audio(&mut self, packet: &AudioPacket) -> Result<(), MediaError> {
        self.writer
            .write(Kind::Audio, &packet.data, packet.pts.0, packet.pts.0, packet.duration, true)
            .map_err(|e| file_error(&self.path, e))
    }

    /// Frames dropped since they were not later than the last.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Completes the file. Without this call it is completed when dropped, but nobody learns of an error.
    ///
    /// # Errors
    /// The encoder failed, or the file cannot be written.
    pub fn finish(mut self) -> Result<(), MediaError> {
        let (mut written, pending, writer, period) = (Ok(()), &mut self.pending, &mut self.writer, self.period);
        self.encode.finish(&mut |packet| {
            if written.is_ok() {
                written = write(writer, pending, period, &packet);
            }
        })?;
        written.and_then(|()| self.writer.finish()).map_err(|e| file_error(&self.path, e))?;
        std::thread::sleep(rest(&self.path));
        Ok(())
    }
}

fn write(
    writer: &mut Writer,
    pending: &mut VecDeque<(i64, i64)>,
    period: i64,
    packet: &Encoded<'_>,
) -> Result<(), crate::media::ffi::AvError> {
    while pending.front().is_some_and(|p| p.0 < packet.pts) {
        pending.pop_front();
    }
    let pts = pending.pop_front().map_or(packet.pts, |p| p.1);
    writer.write(Kind::Video, packet.data, pts, pts, period, packet.key)
}
