//! Transport stream bytes into a file, without coding anything anew.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::{create, file_error};
use crate::frame::Timestamp;
use crate::media::ffi::{Kind, Writer, WriterAudio, WriterVideo};
use crate::media::h264;
use crate::media::ts::demux::{DemuxConfig, DemuxSink, Demuxer, Stream, StreamKind, Unit};
use crate::media::ts::{adts, opus};
use crate::media::{Damage, MediaError};

/// How long a stream that the tables list is waited for, in ticks of the other one's time.
const PATIENCE: i64 = 3 * Timestamp::HZ;
/// Of FFmpeg's MP4: a fragment a key picture, tables at the beginning, and nothing that has to be written afterwards.
const FRAGMENTS: [(&str, &str); 1] = [("movflags", "+frag_keyframe+empty_moov+default_base_moof")];
/// Bytes kept until the file can begin.
const MAX_HELD: usize = 64 << 20;

/// Writes H.264, AAC and Opus of a transport stream into MP4, MKV and the like. The file begins with the first key picture
/// once every listed stream has shown itself. Jumps of the time line are closed up.
pub struct Recorder {
    path: PathBuf,
    fragmented: bool,
    demux: Demuxer,
    track: Track,
}

struct Held {
    kind: Kind,
    data: Vec<u8>,
    pts: i64,
    dts: i64,
    duration: i64,
    key: bool,
}

#[derive(Default)]
struct Track {
    writer: Option<Writer>,
    held: VecDeque<Held>,
    held_bytes: usize,
    expect_video: bool,
    expect_audio: bool,
    video: Option<(crate::frame::Size, Vec<u8>)>,
    audio: Option<(StreamKind, u32, u8, Vec<u8>)>,
    adts: adts::Frames,
    offset: i64,
    newest: i64,
    last: [Option<i64>; 2],
    packets: u64,
}

impl Recorder {
    /// The file is created when the stream is known.
    pub fn create(path: &Path) -> Self {
        let demux = Demuxer::new(DemuxConfig::default());
        Self { path: path.into(), fragmented: false, demux, track: Track::default() }
    }

    /// MP4 whatever the name's ending, a fragment from each key picture to the next, so that a file that is cut off can be
    /// played up to there.
    pub fn fragmented(path: &Path) -> Self {
        Self { fragmented: true, ..Self::create(path) }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), MediaError> {
        self.demux.push(bytes, &mut self.track);
        self.track.flush((&self.path, self.fragmented), false)
    }

    /// Packets written so far.
    pub fn packets(&self) -> u64 {
        self.track.packets
    }

    /// Completes the file.
    ///
    /// # Errors
    /// The file cannot be written, or there was nothing to write.
    pub fn finish(mut self) -> Result<(), MediaError> {
        self.demux.segment_end(&mut self.track);
        self.track.flush((&self.path, self.fragmented), true)?;
        let path = self.path.to_string_lossy().into_owned();
        match &mut self.track.writer {
            Some(writer) => writer.finish().map_err(|e| file_error(&path, e)),
            None => Err(MediaError::File { path, reason: "the stream had nothing to record".into() }),
        }
    }
}

impl DemuxSink for Track {
    fn streams(&mut self, streams: &[Stream]) {
        if self.writer.is_none() {
            self.expect_video = streams.iter().any(|s| s.kind == StreamKind::H264);
            self.expect_audio = streams.iter().any(|s| matches!(s.kind, StreamKind::Aac | StreamKind::Opus { .. }));
        }
        self.adts.reset();
    }

    fn unit(&mut self, unit: Unit<'_>) {
        let Some(pts) = unit.pts.map(|t| t.0) else { return };
        match unit.kind {
            StreamKind::H264 => {
                let scan = h264::scan(unit.data);
                if self.video.is_none() {
                    let sets = h264::parameter_sets(unit.data);
                    let (Some(size), true) = (scan.size, scan.key) else { return };
                    self.video = Some((size, sets));
                }
                self.hold(Kind::Video, unit.data.to_vec(), pts, unit.dts.map_or(pts, |t| t.0), 0, scan.key);
            }
            StreamKind::Aac => {
                let mut frames = std::mem::take(&mut self.adts);
                frames.push(unit.data, &mut |adts, data, offset| {
                    self.audio.get_or_insert((unit.kind, adts.rate, adts.channels, adts.config.to_vec()));
                    let duration = adts::FRAME * Timestamp::HZ / i64::from(adts.rate);
                    self.hold(Kind::Audio, data.to_vec(), pts + offset, pts + offset, duration, true);
                });
                self.adts = frames;
            }
            StreamKind::Opus { channels } => {
                let mut at = pts;
                for packet in opus::Packets::new(unit.data) {
                    let channels = if channels > 0 { channels } else { 1 + u8::from(opus::is_stereo(packet.data)) };
                    self.audio.get_or_insert_with(|| (unit.kind, 48_000, channels, opus::head(channels, 312).to_vec()));
                    self.hold(Kind::Audio, packet.data.to_vec(), at, at, packet.duration, true);
                    at += packet.duration;
                }
            }
            // VP8 comes only from peers, whose input is not recorded.
            StreamKind::Vp8 | StreamKind::Unsupported { .. } => {}
        }
    }

    fn damage(&mut self, _: Damage) {}

    fn jump(&mut self, _: Timestamp, to: Timestamp) {
        // Each stream tells of the same jump; the first to do so closes it.
        let ahead = to.0 + self.offset - self.newest;
        if ahead.abs() > Timestamp::HZ {
            self.offset -= ahead - Timestamp::HZ / 30;
        }
    }
}

impl Track {
    fn hold(&mut self, kind: Kind, data: Vec<u8>, pts: i64, dts: i64, duration: i64, key: bool) {
        self.held_bytes += data.len();
        let (pts, dts) = (pts + self.offset, dts + self.offset);
        self.newest = self.newest.max(dts);
        self.held.push_back(Held { kind, data, pts, dts, duration, key });
    }

    fn ready(&self, last: bool) -> bool {
        let all = (!self.expect_video || self.video.is_some()) && (!self.expect_audio || self.audio.is_some());
        let span = self.held.back().zip(self.held.front()).map_or(0, |(new, old)| new.dts - old.dts);
        !self.held.is_empty() && (all || last || span > PATIENCE || self.held_bytes > MAX_HELD)
    }

    fn flush(&mut self, (path, fragmented): (&Path, bool), last: bool) -> Result<(), MediaError> {
        let error = |e| file_error(&path.to_string_lossy(), e);
        if self.writer.is_none() {
            if !self.ready(last) {
                return Ok(());
            }
            let video = self.video.as_ref().map(|(size, sets)| WriterVideo {
                codec: "h264",
                size: *size,
                fps: 30.0,
                extradata: sets,
            });
            let audio = self.audio.as_ref().map(|(kind, rate, channels, head)| WriterAudio {
                codec: if *kind == StreamKind::Aac { "aac" } else { "opus" },
                rate: *rate,
                channels: *channels,
                extradata: head,
            });
            let name = path.to_string_lossy();
            let writer = match fragmented {
                true => Writer::create(&name, Some("mp4"), video.as_ref(), audio.as_ref(), &FRAGMENTS),
                false => create(&name, video.as_ref(), audio.as_ref()),
            };
            self.writer = Some(writer.map_err(error)?);
            // The file's time begins with its first packet.
            let first = self.held.iter().map(|h| h.dts).min().unwrap_or(0);
            self.offset -= first;
            self.newest -= first;
            self.held.iter_mut().for_each(|h| (h.pts, h.dts) = (h.pts - first, h.dts - first));
        }
        self.held_bytes = 0;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        for packet in self.held.drain(..) {
            let known = &mut self.last[usize::from(packet.kind == Kind::Audio)];
            if known.is_some_and(|last| packet.dts <= last) || packet.dts < 0 {
                continue;
            }
            *known = Some(packet.dts);
            writer
                .write(packet.kind, &packet.data, packet.pts, packet.dts, packet.duration, packet.key)
                .map_err(error)?;
            self.packets += 1;
        }
        Ok(())
    }
}
