//! Writing transport streams: one program of H.264 and Opus or AAC, each access unit as one run of packets.

use bytes::{BufMut, Bytes, BytesMut};

use super::crc::crc32;
use super::{FORMAT_VP8, PACKET, SYNC, TYPE_AAC, TYPE_H264, TYPE_PRIVATE, adts, opus};
use crate::media::{PacketCodec, VideoCodec};

/// PID of the video.
pub(crate) const VIDEO_PID: u16 = 256;
/// PID of the audio.
pub(crate) const AUDIO_PID: u16 = 257;
const PMT_PID: u16 = 0x1000;
const PAT_PID: u16 = 0;
/// How long before its presentation a picture is sent, in ticks of 90 kHz, by the program clock.
const PCR_LEAD: i64 = 9000;

/// An audio stream in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MuxAudio {
    pub codec: PacketCodec,
    pub channels: u8,
}

/// The program's streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MuxStreams {
    pub video: Option<VideoCodec>,
    pub audio: Option<MuxAudio>,
}

/// The writer. Continuity counters run on over segments, so that their concatenation is one stream.
#[derive(Debug, Default)]
pub(crate) struct Mux {
    out: BytesMut,
    scratch: Vec<u8>,
    streams: MuxStreams,
    version: u8,
    written: bool,
    counters: [u8; 4],
}

/// What the adaptation field of an access unit's first packet says.
#[derive(Clone, Copy, Default)]
struct Marks {
    pcr: Option<i64>,
    random_access: bool,
    discontinuity: bool,
}

impl Mux {
    /// The streams of the last tables.
    pub fn streams(&self) -> MuxStreams {
        self.streams
    }

    /// PAT and PMT for these streams.
    pub fn tables(&mut self, streams: MuxStreams) -> Bytes {
        if self.written && streams != self.streams {
            self.version = (self.version + 1) & 0x1F;
        }
        self.written = true;
        self.streams = streams;
        let pat = [0, 1, 0xE0 | (PMT_PID >> 8) as u8, PMT_PID as u8];
        self.table(PAT_PID, 0, 0, 0, &pat);
        let pcr_pid = if streams.video.is_some() { VIDEO_PID } else { AUDIO_PID };
        let mut pmt = vec![0xE0 | (pcr_pid >> 8) as u8, pcr_pid as u8, 0xF0, 0];
        let mut stream = |stream_type: u8, pid: u16, info: &[u8]| {
            pmt.extend([stream_type, 0xE0 | (pid >> 8) as u8, pid as u8, 0xF0, info.len() as u8]);
            pmt.extend(info);
        };
        match streams.video {
            Some(VideoCodec::H264) => stream(TYPE_H264, VIDEO_PID, &[]),
            Some(VideoCodec::Vp8) => {
                let [a, b, c, d] = *FORMAT_VP8;
                stream(TYPE_PRIVATE, VIDEO_PID, &[5, 4, a, b, c, d]);
            }
            None => {}
        }
        match streams.audio {
            Some(MuxAudio { codec: PacketCodec::Opus, channels }) => {
                stream(TYPE_PRIVATE, AUDIO_PID, &[5, 4, b'O', b'p', b'u', b's', 0x7F, 2, 0x80, channels]);
            }
            Some(MuxAudio { codec: PacketCodec::Aac, .. }) => stream(TYPE_AAC, AUDIO_PID, &[]),
            None => {}
        }
        self.table(PMT_PID, 1, 2, self.version, &pmt);
        self.out.split().freeze()
    }

    /// One picture: an access unit of H.264 with start codes, or a frame of VP8, by what the tables say.
    pub fn video(&mut self, unit: &[u8], pts: i64, key: bool, discontinuity: bool) -> Bytes {
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        // An access unit begins with a delimiter here; players find pictures by it.
        let delimiter: &[u8] = match unit {
            _ if self.streams.video == Some(VideoCodec::Vp8) => &[],
            [0, 0, 0, 1, 9, ..] | [0, 0, 1, 9, ..] => &[],
            _ => &[0, 0, 0, 1, 9, 0xF0],
        };
        pes_header(0xE0, pts, delimiter.len() + unit.len(), &mut head);
        head.extend_from_slice(delimiter);
        let marks = Marks { pcr: Some(pts - PCR_LEAD), random_access: key, discontinuity };
        self.pes(VIDEO_PID, 2, marks, &head, unit);
        self.scratch = head;
        self.out.split().freeze()
    }

    /// One audio packet. `None` when it cannot be carried.
    pub fn audio(
        &mut self,
        codec: PacketCodec,
        config: &[u8],
        packet: &[u8],
        pts: i64,
        discontinuity: bool,
    ) -> Option<Bytes> {
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        match codec {
            PacketCodec::Opus => {
                pes_header(0xBD, pts, opus::header_len(packet.len()) + packet.len(), &mut head);
                opus::write_header(packet.len(), &mut head);
            }
            PacketCodec::Aac => {
                let own = adts::header(config, packet.len())?;
                pes_header(0xC0, pts, own.len() + packet.len(), &mut head);
                head.extend(own);
            }
        }
        let pcr = self.streams.video.is_none().then_some(pts - PCR_LEAD);
        self.pes(AUDIO_PID, 3, Marks { pcr, random_access: true, discontinuity }, &head, packet);
        self.scratch = head;
        Some(self.out.split().freeze())
    }

    fn pes(&mut self, pid: u16, counter: usize, marks: Marks, head: &[u8], body: &[u8]) {
        let mut left = head.len() + body.len();
        self.out.reserve((left / (PACKET - 4) + 2) * PACKET);
        let mut bytes = [0; 7];
        let length = field(marks, &mut bytes);
        let mut field = &bytes[..length];
        let mut at = 0;
        let mut first = true;
        while left > 0 {
            // Bytes of the adaptation field with its length byte.
            let mut extra = if field.is_empty() { 0 } else { 1 + field.len() };
            let room = PACKET - 4 - extra;
            let take = left.min(room);
            let stuffing = room - take;
            extra += stuffing;
            let flags = if extra > 0 { 0x30 } else { 0x10 };
            self.header(pid, counter, first, flags);
            if extra > 0 {
                self.out.put_u8((extra - 1) as u8);
                let mut rest = extra - 1;
                if field.is_empty() && rest > 0 {
                    self.out.put_u8(0);
                    rest -= 1;
                } else {
                    self.out.put_slice(field);
                    rest -= field.len();
                }
                self.out.put_bytes(0xFF, rest);
            }
            let from_head = head.len().saturating_sub(at).min(take);
            self.out.put_slice(&head[at.min(head.len())..][..from_head]);
            let body_at = (at + from_head).saturating_sub(head.len());
            self.out.put_slice(&body[body_at..body_at + take - from_head]);
            at += take;
            left -= take;
            field = &[];
            first = false;
        }
    }

    fn table(&mut self, pid: u16, counter: usize, id: u8, version: u8, body: &[u8]) {
        let length = 5 + body.len() + 4;
        let mut section = vec![id, 0xB0 | (length >> 8) as u8, length as u8, 0, 1, 0xC1 | version << 1, 0, 0];
        section.extend_from_slice(body);
        let crc = crc32(&section);
        section.extend(crc.to_be_bytes());
        self.header(pid, counter, true, 0x10);
        self.out.put_u8(0);
        self.out.put_slice(&section);
        self.out.put_bytes(0xFF, PACKET - 5 - section.len());
    }

    fn header(&mut self, pid: u16, counter: usize, start: bool, flags: u8) {
        let count = &mut self.counters[counter];
        self.out.put_slice(&[SYNC, u8::from(start) << 6 | (pid >> 8) as u8, pid as u8, flags | *count]);
        *count = (*count + 1) & 0x0F;
    }
}

/// Writes the adaptation field without its length byte and gives its length; 0 when there is nothing to say.
fn field(marks: Marks, out: &mut [u8; 7]) -> usize {
    out[0] = u8::from(marks.discontinuity) << 7 | u8::from(marks.random_access) << 6;
    let Some(pcr) = marks.pcr else { return usize::from(marks.discontinuity) };
    let base = pcr.max(0) as u64 & 0x1_FFFF_FFFF;
    out[0] |= 0x10;
    out[1..5].copy_from_slice(&((base >> 1) as u32).to_be_bytes());
    out[5] = ((base & 1) as u8) << 7 | 0x7E;
    out[6] = 0;
    7
}

fn pes_header(stream_id: u8, pts: i64, payload: usize, out: &mut Vec<u8>) {
    // The length counts from behind itself: three bytes of flags, five of time, the payload. A stated length lets every
    // reader take the packet for whole at once; only video may be too long to state it.
    let length = u16::try_from(8 + payload).unwrap_or(0);
    let pts = pts as u64;
    out.extend_from_slice(&[0, 0, 1, stream_id, (length >> 8) as u8, length as u8, 0x84, 0x80, 5]);
    out.extend_from_slice(&[
        0x21 | ((pts >> 30 & 7) as u8) << 1,
        (pts >> 22) as u8,
        1 | ((pts >> 15) as u8) << 1,
        (pts >> 7) as u8,
        1 | (pts as u8) << 1,
    ]);
}
