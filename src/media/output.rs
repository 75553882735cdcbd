//! The output of a session: frames and audio packets in, transport stream segments out.
//!
//! # Rules
//!
//! - A segment begins with PAT, PMT and an IDR picture with its parameter sets: at the first frame, and whenever
//!   `segment_seconds` of presentation time went by. Audio without video is cut as often.
//! - Time stamps are those of the input. A frame at most half a second behind the last is dropped. One farther behind is
//!   a new time line: a segment begins there, marked as a discontinuity.
//! - The tables list the streams that were announced or seen. A stream that comes unannounced gets new tables, of the next
//!   version, right before its first packet and at every segment from then on.

use std::collections::VecDeque;

use bytes::Bytes;

use super::encode::{Encode, EncodeConfig};
use super::transcode::{AudioShape, Transcoder, shape};
use super::ts::adts;
use super::ts::mux::{Mux, MuxAudio, MuxStreams};
use super::{AudioCodec, AudioPacket, Config, MediaError, PacketCodec, VideoCodec};
use crate::frame::{Size, Timestamp, VideoFrame};

/// A frame this little behind the last one is dropped; farther behind, the time line jumped.
const OUT_OF_ORDER: i64 = Timestamp::HZ / 2;
/// A step ahead of more than this is marked as a discontinuity.
const JUMP_AHEAD: i64 = 10 * Timestamp::HZ;
/// After a restart, times this far before the last published one belong to a new time line.
const RESUME_WINDOW: i64 = 60 * Timestamp::HZ;

/// What an [`Output`] is for.
#[derive(Clone, Debug)]
pub struct OutputConfig {
    /// Size of the frames; both sides even. A frame of another size makes the encoder begin anew with that size.
    pub size: Size,
    /// Frames a second, as a hint for rate control.
    pub fps_hint: f64,
    /// Codec settings.
    pub media: Config,
}

/// What a piece of output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// PAT and PMT.
    Tables,
    /// One picture.
    Video {
        /// Of the frame.
        seq: u64,
        /// Of the frame.
        pts: Timestamp,
        /// Whether decoding can begin here.
        key: bool,
    },
    /// One audio packet.
    Audio {
        /// Of its first sample.
        pts: Timestamp,
        /// Length in ticks of 90 kHz.
        duration: i64,
    },
}

/// Where an [`Output`] puts its segments. Called from inside its methods, on their thread.
pub trait SegmentSink {
    /// A segment begins; its first picture or sound has this time.
    fn begin(&mut self, pts: Timestamp);
    /// The next bytes of the segment: whole transport packets.
    fn bytes(&mut self, bytes: Bytes, what: Chunk);
    /// The segment is complete.
    fn end(&mut self);
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoOut {
    /// It is in the output.
    Encoded {
        /// Coded bytes; 0 if the encoder still holds it.
        bytes: usize,
    },
    /// It was not later than the frame before.
    DroppedOutOfOrder,
}

/// Counters of an [`Output`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputStats {
    /// Segments begun.
    pub segments: u64,
    /// Pictures written.
    pub frames: u64,
    /// Of these, the key pictures.
    pub key_frames: u64,
    /// Coded bytes.
    pub video_bytes: u64,
    /// Audio packets written.
    pub audio_packets: u64,
    /// Coded audio bytes.
    pub audio_bytes: u64,
    /// Frames dropped since they were not later than the last.
    pub dropped_video: u64,
    /// Audio packets dropped since they were not later than the last, or could not be carried.
    pub dropped_audio: u64,
    /// Audio packets that could not be decoded.
    pub undecodable_audio: u64,
    /// New time lines begun.
    pub discontinuities: u64,
    /// Transport stream bytes.
    pub bytes: u64,
}

/// Encoder and multiplexer of one stream.
pub struct Output {
    config: OutputConfig,
    encode: Encode,
    transcoder: Option<(AudioShape, Transcoder)>,
    work: Work,
}

/// A frame inside the encoder.
#[derive(Clone, Copy)]
struct Pending {
    time: i64,
    seq: u64,
    pts: Timestamp,
    cut: bool,
    jump: bool,
}

struct Segment {
    start: Timestamp,
    has_video: bool,
}

/// Everything behind the codecs.
struct Work {
    mux: Mux,
    codec: VideoCodec,
    segment_ticks: i64,
    streams: MuxStreams,
    segment: Option<Segment>,
    pending: VecDeque<Pending>,
    /// The last forced key picture, by its time.
    last_key: Option<Timestamp>,
    last_video: Option<Timestamp>,
    last_audio: Option<Timestamp>,
    resume: (Option<Timestamp>, Option<Timestamp>),
    stats: OutputStats,
}

impl Output {
    /// Opens the encoder.
    ///
    /// # Errors
    /// An odd size, or an encoder that is missing or does not open.
    pub fn new(config: OutputConfig) -> Result<Self, MediaError> {
        let media = &config.media;
        if !(media.segment_seconds.is_finite() && media.segment_seconds >= 0.1) {
            return Err(MediaError::Config {
                field: "segment_seconds",
                reason: format!("{} is too short; at least 0.1", media.segment_seconds),
            });
        }
        let encode = Encode::new(
            EncodeConfig {
                encoder: media.video_encoder.clone(),
                preset: media.video_preset.clone(),
                profile: media.video_profile.clone(),
                crf: media.video_crf,
                kbps: Some(media.video_kbps),
                fps: if config.fps_hint > 0.0 { config.fps_hint } else { 30.0 },
                live: true,
                global_header: false,
            },
            config.size,
        )?;
        let codec = encode.codec();
        let segment_ticks = (media.segment_seconds * Timestamp::HZ as f64).round() as i64;
        Ok(Self {
            encode,
            transcoder: None,
            work: Work {
                mux: Mux::default(),
                codec,
                segment_ticks,
                streams: MuxStreams { video: Some(codec), audio: None },
                segment: None,
                pending: VecDeque::new(),
                last_key: None,
                last_video: None,
                last_audio: None,
                resume: (None, None),
                stats: OutputStats::default(),
            },
            config,
        })
    }

    /// Says which streams will come, so that the first tables list them: from `InputEvent::StreamsFound`. `audio` is the
    /// number of channels, 0 if unknown. Without this call only video is listed until audio comes.
    pub fn announce(&mut self, video: bool, audio: Option<u8>) {
        let codec = match self.config.media.audio {
            AudioCodec::Opus => PacketCodec::Opus,
            AudioCodec::Aac => PacketCodec::Aac,
            AudioCodec::None => {
                if video {
                    self.work.streams.video = Some(self.work.codec);
                }
                return;
            }
        };
        let streams = &mut self.work.streams;
        streams.video = (video || self.work.last_video.is_some()).then_some(self.work.codec);
        if let (Some(channels), None) = (audio, streams.audio) {
            streams.audio = Some(MuxAudio { codec, channels: if channels == 1 { 1 } else { 2 } });
        }
    }

    /// Continues a session whose output was published up to these times: nothing that is not later is written again.
    pub fn resume_after(&mut self, video: Option<Timestamp>, audio: Option<Timestamp>) {
        self.work.resume = (video, audio);
    }

    /// Begins the next frame as a key picture, and a segment with it.
    pub fn ask_key(&mut self) {
        self.work.last_key = None;
    }

    /// Lowers the video's ceiling to `kbps`, or raises it again up to the configured one; 0 for the configured one.
    pub fn limit(&mut self, kbps: u64) {
        self.encode.limit(kbps);
    }

    /// Encodes a frame and writes it.
    ///
    /// # Errors
    /// The encoder refused it.
    pub fn video(&mut self, frame: &VideoFrame, out: &mut dyn SegmentSink) -> Result<VideoOut, MediaError> {
        let work = &mut self.work;
        let Some(jump) = work.admit_video(frame.pts) else {
            work.stats.dropped_video += 1;
            return Ok(VideoOut::DroppedOutOfOrder);
        };
        work.streams.video = Some(work.codec);
        let mut cut = jump
            || !work.segment.as_ref().is_some_and(|s| s.has_video)
            || work.last_key.is_none_or(|key| frame.pts.since(key) >= work.segment_ticks);
        let mut written = 0;
        // Another colour can wait for the next segment, so that pictures of two kinds in turn do not make one each.
        if self.encode.resized(frame) || self.encode.outrun() || (cut && self.encode.recolored(frame)) {
            self.encode.reopen(frame, &mut |packet| written += work.encoded(&packet, out))?;
            cut = true;
        }
        if cut {
            work.last_key = Some(frame.pts);
        }
        let time = self.encode.time(frame.pts);
        if work.pending.len() > 64 {
            work.pending.pop_front();
        }
        work.pending.push_back(Pending { time, seq: frame.seq, pts: frame.pts, cut, jump });
        self.encode.push(frame, time, cut, &mut |packet| written += work.encoded(&packet, out))?;
        Ok(VideoOut::Encoded { bytes: written })
    }

    /// Writes a packet of audio, as it is where the output has the same codec, else coded anew.
    ///
    /// # Errors
    /// The decoder, resampler or encoder does not open.
    pub fn audio(&mut self, packet: &AudioPacket, out: &mut dyn SegmentSink) -> Result<(), MediaError> {
        let wanted = match self.config.media.audio {
            AudioCodec::Opus => PacketCodec::Opus,
            AudioCodec::Aac => PacketCodec::Aac,
            AudioCodec::None => return Ok(()),
        };
        let work = &mut self.work;
        let as_it_is = match wanted {
            PacketCodec::Opus => packet.rate == 48_000,
            PacketCodec::Aac => adts::header(&packet.config, packet.data.len()).is_some(),
        };
        if packet.codec == wanted && as_it_is {
            if let Some((_, mut old)) = self.transcoder.take() {
                work.stats.undecodable_audio += old.undecodable();
                // What it still holds belongs before this packet.
                old.finish(&mut |held| {
                    if held.pts < packet.pts {
                        work.audio(&held, out);
                    }
                })?;
            }
            work.audio(packet, out);
            return Ok(());
        }
        let shape = shape(packet);
        if self.transcoder.as_ref().is_none_or(|(known, _)| *known != shape) {
            if let Some((_, mut old)) = self.transcoder.take() {
                work.stats.undecodable_audio += old.undecodable();
                old.finish(&mut |packet| work.audio(&packet, out))?;
            }
            let fresh = Transcoder::new(packet, wanted, self.config.media.audio_kbps)?;
            self.transcoder = Some((shape, fresh));
        }
        if let Some((_, transcoder)) = &mut self.transcoder {
            transcoder.push(&packet.data, packet.pts, &mut |packet| work.audio(&packet, out))?;
        }
        Ok(())
    }

    /// Writes what the codecs still hold and ends the last segment.
    ///
    /// # Errors
    /// A codec failed while it was emptied; the segment is ended all the same.
    pub fn finish(&mut self, out: &mut dyn SegmentSink) -> Result<(), MediaError> {
        let work = &mut self.work;
        let mut result = self.encode.finish(&mut |packet| {
            work.encoded(&packet, out);
        });
        if let Some((_, transcoder)) = &mut self.transcoder {
            result = result.and(transcoder.finish(&mut |packet| work.audio(&packet, out)));
        }
        if work.segment.take().is_some() {
            out.end();
        }
        result
    }

    /// FFmpeg's name of the video encoder at work.
    pub fn encoder_name(&self) -> &str {
        self.encode.name()
    }

    /// Counters so far.
    pub fn stats(&self) -> OutputStats {
        let now = self.transcoder.as_ref().map_or(0, |(_, t)| t.undecodable());
        OutputStats { undecodable_audio: self.work.stats.undecodable_audio + now, ..self.work.stats }
    }

    /// The last times written, video and audio: what [`Self::resume_after`] of a successor wants.
    pub fn last(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        (self.work.last_video, self.work.last_audio)
    }
}

impl Work {
    /// Whether a frame of this time may be written, and if so, whether it begins a new time line.
    fn admit_video(&mut self, pts: Timestamp) -> Option<bool> {
        let jump = admit(pts, self.last_video, self.resume.0, OUT_OF_ORDER)?;
        self.resume.0 = None;
        self.last_video = Some(pts);
        Some(jump)
    }

    /// Writes one packet of the encoder; gives its length.
    fn encoded(&mut self, packet: &super::ffi::Encoded<'_>, out: &mut dyn SegmentSink) -> usize {
        // An encoder that reorders nothing gives packets in the order of frames.
        while self.pending.front().is_some_and(|p| p.time < packet.pts) {
            self.pending.pop_front();
        }
        let Some(frame) = self.pending.pop_front() else { return 0 };
        if frame.cut && packet.key {
            self.begin(frame.pts, out);
        } else if frame.cut {
            // The wish for a key picture was not heard; ask again with the next frame.
            self.last_key = None;
        }
        if self.segment.is_none() || self.mux.streams().video.is_none() {
            // Without a key picture nobody could begin here, but the bytes must lie in some segment.
            self.begin(frame.pts, out);
        }
        if let Some(segment) = &mut self.segment {
            segment.has_video = true;
        }
        self.stats.discontinuities += u64::from(frame.jump);
        let bytes = self.mux.video(packet.data, frame.pts.0, packet.key, frame.jump);
        self.stats.frames += 1;
        self.stats.key_frames += u64::from(packet.key);
        self.stats.video_bytes += packet.data.len() as u64;
        self.stats.bytes += bytes.len() as u64;
        out.bytes(bytes, Chunk::Video { seq: frame.seq, pts: frame.pts, key: packet.key });
        packet.data.len()
    }

    fn audio(&mut self, packet: &AudioPacket, out: &mut dyn SegmentSink) {
        let Some(jump) = admit(packet.pts, self.last_audio, self.resume.1, OUT_OF_ORDER) else {
            self.stats.dropped_audio += 1;
            return;
        };
        self.resume.1 = None;
        self.streams.audio = Some(MuxAudio { codec: packet.codec, channels: packet.channels.clamp(1, 8) });
        let cut = self.segment.as_ref().is_none_or(|segment| {
            let age = packet.pts.since(segment.start);
            // Beside video, audio follows the video's cuts, unless the video has stopped.
            let limit = if segment.has_video { 2 * self.segment_ticks } else { self.segment_ticks };
            age >= limit || (age < -limit && !segment.has_video)
        });
        if cut {
            self.begin(packet.pts, out);
        } else if self.mux.streams() != self.streams {
            self.tables(out);
        }
        let Some(bytes) = self.mux.audio(packet.codec, &packet.config, &packet.data, packet.pts.0, jump) else {
            self.stats.dropped_audio += 1;
            return;
        };
        self.last_audio = Some(packet.pts);
        self.stats.audio_packets += 1;
        self.stats.audio_bytes += packet.data.len() as u64;
        self.stats.bytes += bytes.len() as u64;
        out.bytes(bytes, Chunk::Audio { pts: packet.pts, duration: packet.duration });
    }

    fn begin(&mut self, pts: Timestamp, out: &mut dyn SegmentSink) {
        if self.segment.replace(Segment { start: pts, has_video: false }).is_some() {
            out.end();
        }
        self.stats.segments += 1;
        out.begin(pts);
        self.tables(out);
    }

    fn tables(&mut self, out: &mut dyn SegmentSink) {
        let bytes = self.mux.tables(self.streams);
        self.stats.bytes += bytes.len() as u64;
        out.bytes(bytes, Chunk::Tables);
    }
}

/// Whether something at `pts` may follow `last`: `None` if not, else whether it begins a new time line. `resume` is the
/// last time that a predecessor wrote.
fn admit(pts: Timestamp, last: Option<Timestamp>, resume: Option<Timestamp>, tolerance: i64) -> Option<bool> {
    if let Some(resume) = resume {
        let step = pts.since(resume);
        return (!(-RESUME_WINDOW..=0).contains(&step)).then_some(true);
    }
    let Some(last) = last else { return Some(false) };
    let step = pts.since(last);
    match step {
        ..=0 if step >= -tolerance => None,
        ..=0 => Some(true),
        _ => Some(step > JUMP_AHEAD),
    }
}
