//! A small transport stream reader of the tests' own, so that the output is not judged by the code that wrote it.

use bytes::Bytes;

/// What a segment holds.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// The first two packets are PAT and PMT.
    pub tables_first: bool,
    /// Stream types in the PMT.
    pub types: Vec<u8>,
    /// The PMT tags a stream as Opus.
    pub opus: bool,
    /// Video access units in order.
    pub video: Vec<Unit>,
    /// Times of the audio packets, 90 kHz.
    pub audio: Vec<i64>,
    /// Packets whose continuity counter does not follow.
    pub jumps: usize,
}

/// A video access unit.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// 90 kHz.
    pub pts: i64,
    /// 90 kHz.
    pub dts: i64,
    /// It holds an IDR slice behind SPS and PPS.
    pub key: bool,
}

/// Reads a segment of whole packets.
pub fn read(bytes: &Bytes) -> Segment {
    assert_eq!(bytes.len() % 188, 0, "whole packets");
    read_cut(bytes)
}

/// As [`read`], for a segment that broke off; its last picture may be cut.
pub fn read_cut(bytes: &Bytes) -> Segment {
    let mut found = Segment::default();
    let (mut pmt, mut video, mut audio) = (None, None, None);
    let mut counters = [None::<u8>; 8192];
    let mut unit: Vec<u8> = Vec::new();
    let mut time = (0, 0);
    let flush = |unit: &mut Vec<u8>, time: (i64, i64), found: &mut Segment| {
        if !unit.is_empty() {
            let kinds = nal_kinds(unit);
            let at = |kind| kinds.iter().position(|&k| k == kind);
            let key = matches!((at(7), at(8), at(5)), (Some(sps), Some(pps), Some(idr)) if sps < idr && pps < idr);
            found.video.push(Unit { pts: time.0, dts: time.1, key });
            unit.clear();
        }
    };
    for (index, packet) in bytes.chunks_exact(188).enumerate() {
        assert_eq!(packet[0], 0x47, "sync byte of packet {index}");
        let begins = packet[1] & 0x40 != 0;
        let pid = usize::from(packet[1] & 0x1f) << 8 | usize::from(packet[2]);
        let (has_field, has_payload) = (packet[3] & 0x20 != 0, packet[3] & 0x10 != 0);
        if has_payload {
            let counter = packet[3] & 15;
            found.jumps += usize::from(counters[pid].is_some_and(|last| (last + 1) & 15 != counter));
            counters[pid] = Some(counter);
        }
        let start = if has_field { 5 + usize::from(packet[4]) } else { 4 };
        if !has_payload || start >= 188 {
            continue;
        }
        let payload = &packet[start..];
        if pid == 0 {
            let section = &payload[1 + usize::from(payload[0])..];
            pmt = Some(usize::from(section[10] & 0x1f) << 8 | usize::from(section[11]));
            if index == 0 {
                found.tables_first = true;
            }
        } else if Some(pid) == pmt {
            found.tables_first &= index > 1 || found.types.is_empty();
            let section = &payload[1 + usize::from(payload[0])..];
            let length = (usize::from(section[1] & 15) << 8 | usize::from(section[2])) + 3 - 4;
            let mut at = 12 + (usize::from(section[10] & 15) << 8 | usize::from(section[11]));
            found.types.clear();
            while at + 5 <= length {
                let kind = section[at];
                let pid = usize::from(section[at + 1] & 0x1f) << 8 | usize::from(section[at + 2]);
                let about = usize::from(section[at + 3] & 15) << 8 | usize::from(section[at + 4]);
                found.opus |= section[at + 5..at + 5 + about].windows(4).any(|tag| tag == b"Opus");
                found.types.push(kind);
                match kind {
                    0x1b => video = Some(pid),
                    _ => audio = Some(pid),
                }
                at += 5 + about;
            }
            if index != 1 && found.video.is_empty() && found.audio.is_empty() && unit.is_empty() {
                found.tables_first = false;
            }
        } else if Some(pid) == video || Some(pid) == audio {
            let mut data = payload;
            if begins {
                assert_eq!(&payload[..3], &[0, 0, 1], "start of a PES packet");
                let stamp = |at: usize| {
                    let b = |i: usize| i64::from(payload[at + i]);
                    (b(0) >> 1 & 7) << 30 | b(1) << 22 | (b(2) >> 1) << 15 | b(3) << 7 | b(4) >> 1
                };
                let pts = stamp(9);
                let dts = if payload[7] & 0x40 != 0 { stamp(14) } else { pts };
                data = &payload[9 + usize::from(payload[8])..];
                if Some(pid) == video {
                    flush(&mut unit, time, &mut found);
                    time = (pts, dts);
                } else {
                    found.audio.push(pts);
                }
            }
            if Some(pid) == video {
                unit.extend_from_slice(data);
            }
        }
    }
    flush(&mut unit, time, &mut found);
    found
}

fn nal_kinds(unit: &[u8]) -> Vec<u8> {
    unit.windows(4).filter(|window| window[..3] == [0, 0, 1]).map(|window| window[3] & 31).collect()
}
