//! Tables: putting sections together from packets, and reading PAT and PMT.

use super::crc::crc32;
use super::{FORMAT_VP8, TYPE_AAC, TYPE_H264, TYPE_PRIVATE};

/// Longest section of PAT and PMT with its header.
const MAX: usize = 1024;
/// Streams of a program that are looked at.
pub(super) const MAX_STREAMS: usize = 32;

/// Collects one section at a time.
#[derive(Debug, Default)]
pub(super) struct Sections {
    bytes: Vec<u8>,
    running: bool,
}

impl Sections {
    /// Bytes held for later.
    pub fn held(&self) -> usize {
        self.bytes.len()
    }

    pub fn reset(&mut self) {
        self.bytes.clear();
        self.running = false;
    }

    /// Takes the payload of one packet; calls `found` with each complete section whose checksum is right. False when
    /// something in it is broken.
    pub fn push(&mut self, payload: &[u8], start: bool, found: &mut dyn FnMut(&[u8])) -> bool {
        if !start {
            return !self.running || self.extend(payload, found);
        }
        let Some((&pointer, rest)) = payload.split_first() else { return false };
        let Some((before, mut rest)) = rest.split_at_checked(pointer as usize) else {
            self.reset();
            return false;
        };
        let mut good = !self.running || self.extend(before, found);
        // A section that is still not whole when the next begins was cut.
        good &= !self.running;
        self.reset();
        while !rest.is_empty() && rest[0] != 0xFF {
            self.running = true;
            let room = length(rest).map_or(rest.len(), |n| n.min(rest.len()));
            let (this, after) = rest.split_at(room);
            good &= self.extend(this, found);
            if self.running {
                break;
            }
            rest = after;
        }
        good
    }

    fn extend(&mut self, bytes: &[u8], found: &mut dyn FnMut(&[u8])) -> bool {
        let room = MAX - self.bytes.len().min(MAX);
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let Some(need) = length(&self.bytes) else { return true };
        if need > MAX {
            self.reset();
            return false;
        }
        if self.bytes.len() < need {
            return true;
        }
        self.running = false;
        let good = crc32(&self.bytes[..need]) == 0;
        if good {
            found(&self.bytes[..need]);
        }
        self.bytes.clear();
        good
    }
}

/// Length of the section that begins `bytes`, once its header is there.
fn length(bytes: &[u8]) -> Option<usize> {
    Some(3 + (usize::from(*bytes.get(1)? & 0x0F) << 8 | usize::from(*bytes.get(2)?)))
}

/// The PID of the first program's table; `None` if the section says nothing of use.
pub(super) fn parse_pat(section: &[u8]) -> Option<u16> {
    if section.len() < 12 || section[0] != 0x00 || section[5] & 1 == 0 || section[6] != 0 {
        return None;
    }
    section[8..section.len() - 4].chunks_exact(4).find_map(|entry| {
        let number = u16::from_be_bytes([entry[0], entry[1]]);
        (number != 0).then(|| u16::from_be_bytes([entry[2], entry[3]]) & 0x1FFF)
    })
}

/// What a stream of the program holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// H.264 with start codes.
    H264,
    /// VP8, one frame a PES packet.
    Vp8,
    /// AAC with ADTS headers.
    Aac,
    /// Opus with this many channels.
    Opus {
        /// From the extension descriptor; 0 when it does not say.
        channels: u8,
    },
    /// Something that is left alone.
    Unsupported {
        /// `stream_type` of the table.
        stream_type: u8,
    },
}

/// One stream of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Its packet identifier.
    pub pid: u16,
    /// What it holds.
    pub kind: StreamKind,
}

/// The streams of a program table; `None` if the section says nothing of use.
pub(super) fn parse_pmt(section: &[u8]) -> Option<Vec<Stream>> {
    if section.len() < 16 || section[0] != 0x02 || section[5] & 1 == 0 {
        return None;
    }
    let body = &section[..section.len() - 4];
    let info = usize::from(body[10] & 0x0F) << 8 | usize::from(body[11]);
    let mut rest = body.get(12 + info..)?;
    let mut streams = Vec::new();
    while rest.len() >= 5 && streams.len() < MAX_STREAMS {
        let pid = u16::from_be_bytes([rest[1], rest[2]]) & 0x1FFF;
        let info = usize::from(rest[3] & 0x0F) << 8 | usize::from(rest[4]);
        let descriptors = rest.get(5..5 + info)?;
        streams.push(Stream { pid, kind: kind(rest[0], descriptors) });
        rest = &rest[5 + info..];
    }
    Some(streams)
}

fn kind(stream_type: u8, mut descriptors: &[u8]) -> StreamKind {
    let (mut opus, mut vp8, mut channels) = (false, false, 0);
    while let [tag, len, rest @ ..] = descriptors {
        let Some((body, after)) = rest.split_at_checked(usize::from(*len)) else { break };
        match (tag, body) {
            (0x05, [b'O', b'p', b'u', b's', ..]) => opus = true,
            (0x05, format) if format.starts_with(FORMAT_VP8) => vp8 = true,
            // DVB extension descriptor, tag 0x80: channel_config_code.
            (0x7F, [0x80, code, ..]) => channels = if *code == 0 { 2 } else { (*code).min(8) },
            _ => {}
        }
        descriptors = after;
    }
    match stream_type {
        TYPE_H264 => StreamKind::H264,
        TYPE_AAC => StreamKind::Aac,
        TYPE_PRIVATE if vp8 => StreamKind::Vp8,
        TYPE_PRIVATE if opus => StreamKind::Opus { channels },
        other => StreamKind::Unsupported { stream_type: other },
    }
}
