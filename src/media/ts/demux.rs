//! A push parser of transport streams: bytes in, in pieces of any size; access units out as soon as their last byte is in.
//!
//! No input makes it fail. What cannot be read is skipped, counted and told as [`Damage`].
//!
//! # When a PES packet is complete
//!
//! Audio states its length. Video mostly does not, and by the letter its end is known only when the next one begins, a
//! whole frame time later. But multiplexers fill up the last transport packet of each PES packet with stuffing, so stuffing
//! marks the end, and the unit is handed on at once. Should such a PES packet go on afterwards, that PID is no longer
//! trusted and its units wait for the next one; [`Damage::EarlyEnd`] tells.

use super::clock::Clock;
use super::section::{Sections, parse_pat, parse_pmt};
pub use super::section::{Stream, StreamKind};
use super::{PACKET, SYNC};
use crate::frame::Timestamp;
use crate::media::Damage;

/// PID of the program association table.
const PAT_PID: u16 = 0;
/// PID of packets without contents.
const NULL_PID: u16 = 0x1FFF;

/// Bounds of a [`Demuxer`].
#[derive(Clone, Copy, Debug)]
pub struct DemuxConfig {
    /// Longest PES packet in bytes.
    pub max_pes: usize,
}

impl Default for DemuxConfig {
    fn default() -> Self {
        Self { max_pes: 8 << 20 }
    }
}

/// The payload of one PES packet.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// Of the stream.
    pub pid: u16,
    /// What the stream holds.
    pub kind: StreamKind,
    /// Presentation time.
    pub pts: Option<Timestamp>,
    /// Decoding time, where it differs from `pts`.
    pub dts: Option<Timestamp>,
    /// The bytes.
    pub data: &'a [u8],
}

/// Where a [`Demuxer`] puts what it finds.
pub trait DemuxSink {
    /// The program's streams, whenever they change.
    fn streams(&mut self, streams: &[Stream]);
    /// A complete PES packet of the first video or the first audio stream.
    fn unit(&mut self, unit: Unit<'_>);
    /// Something could not be read.
    fn damage(&mut self, damage: Damage);
    /// The time line jumped.
    fn jump(&mut self, from: Timestamp, to: Timestamp);
}

/// Counters of a [`Demuxer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DemuxStats {
    /// Transport packets read.
    pub packets: u64,
    /// Bytes skipped in search of a packet's begin.
    pub skipped_bytes: u64,
    /// Units handed on.
    pub units: u64,
    /// Of these, the ones whose end was known by stuffing.
    pub early: u64,
    /// Damage told.
    pub damage: u64,
    /// Begun units that were thrown away because the segment broke off.
    pub abandoned: u64,
}

/// The parser.
#[derive(Debug)]
pub struct Demuxer {
    config: DemuxConfig,
    carry: Vec<u8>,
    synced: bool,
    pat: Sections,
    pmt: Sections,
    pmt_pid: Option<u16>,
    streams: Vec<Stream>,
    pes: Vec<Pes>,
    clock: Clock,
    stats: DemuxStats,
}

/// One elementary stream.
#[derive(Debug)]
struct Pes {
    stream: Stream,
    counter: Option<u8>,
    bytes: Vec<u8>,
    /// A PES packet has begun and may still grow.
    running: bool,
    /// The last one ended by stuffing and nothing has begun since.
    ended_early: bool,
    /// Whether stuffing ends PES packets.
    trust: bool,
    /// The last decoding time.
    last: Option<i64>,
}

impl Pes {
    fn new(stream: Stream) -> Self {
        Self { stream, counter: None, bytes: Vec::new(), running: false, ended_early: false, trust: true, last: None }
    }

    /// Bytes of the PES packet, once its header is there and says.
    fn need(&self) -> Option<usize> {
        let length = u16::from_be_bytes([*self.bytes.get(4)?, *self.bytes.get(5)?]);
        (length != 0).then_some(6 + usize::from(length))
    }

    fn stop(&mut self) {
        self.running = false;
        self.bytes.clear();
    }
}

/// The parts of a transport packet's header that matter.
struct Header {
    pid: u16,
    start: bool,
    counter: u8,
    discontinuity: bool,
    stuffed: bool,
}

impl Demuxer {
    /// A parser at the begin of a segment.
    pub fn new(config: DemuxConfig) -> Self {
        Self {
            config,
            carry: Vec::with_capacity(2 * PACKET),
            synced: true,
            pat: Sections::default(),
            pmt: Sections::default(),
            pmt_pid: None,
            streams: Vec::new(),
            pes: Vec::new(),
            clock: Clock::default(),
            stats: DemuxStats::default(),
        }
    }

    /// Counters so far.
    pub fn stats(&self) -> DemuxStats {
        self.stats
    }

    /// Bytes held for later.
    pub fn held(&self) -> usize {
        let tables = self.pat.held() + self.pmt.held();
        self.carry.len() + tables + self.pes.iter().map(|p| p.bytes.len()).sum::<usize>()
    }

    /// A new segment begins: counters may begin anew, tables are read again. What the last segment left unfinished is
    /// thrown away; call [`Self::segment_end`] first if it ended well.
    pub fn segment_start(&mut self) {
        self.carry.clear();
        self.synced = true;
        self.pat.reset();
        self.pmt.reset();
        for pes in &mut self.pes {
            pes.counter = None;
            pes.ended_early = false;
            if pes.running {
                self.stats.abandoned += 1;
                pes.stop();
            }
        }
    }

    /// The segment's last byte is in: hands on the units that only waited for the next one.
    pub fn segment_end(&mut self, sink: &mut dyn DemuxSink) {
        if self.carry.len() >= PACKET && self.carry[0] == SYNC {
            let carry = std::mem::take(&mut self.carry);
            self.packet(&carry[..PACKET], sink);
        }
        for index in 0..self.pes.len() {
            self.finish(index, sink);
        }
        self.segment_start();
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut dyn DemuxSink) {
        while !bytes.is_empty() {
            if !self.synced {
                bytes = self.search(bytes, sink);
                continue;
            }
            if !self.carry.is_empty() {
                let (head, rest) = bytes.split_at(bytes.len().min(PACKET - self.carry.len()));
                self.carry.extend_from_slice(head);
                bytes = rest;
                if self.carry.len() < PACKET {
                    return;
                }
                if self.carry[0] != SYNC {
                    self.lose_sync(sink);
                    continue;
                }
                let mut packet = [0; PACKET];
                packet.copy_from_slice(&self.carry);
                self.carry.clear();
                self.packet(&packet, sink);
                continue;
            }
            while bytes.len() >= PACKET && bytes[0] == SYNC {
                let (packet, rest) = bytes.split_at(PACKET);
                self.packet(packet, sink);
                bytes = rest;
            }
            if bytes.len() >= PACKET {
                self.lose_sync(sink);
            } else {
                self.carry.extend_from_slice(bytes);
                return;
            }
        }
    }

    fn lose_sync(&mut self, sink: &mut dyn DemuxSink) {
        self.synced = false;
        self.damage(Damage::Sync, sink);
    }

    /// Looks for two sync bytes a packet apart. Gives back the bytes it did not look at.
    fn search<'a>(&mut self, bytes: &'a [u8], sink: &mut dyn DemuxSink) -> &'a [u8] {
        let (head, rest) = bytes.split_at(bytes.len().min((2 * PACKET).saturating_sub(self.carry.len()).max(1)));
        self.carry.extend_from_slice(head);
        let mut at = 0;
        while let Some(step) = self.carry[at..].iter().position(|&b| b == SYNC) {
            at += step;
            match self.carry.get(at + PACKET) {
                Some(&SYNC) => {
                    self.stats.skipped_bytes += at as u64;
                    self.synced = true;
                    let found = self.carry.split_off(at);
                    self.carry.clear();
                    self.push(&found, sink);
                    return rest;
                }
                Some(_) => at += 1,
                // Not enough bytes to tell.
                None => {
                    self.stats.skipped_bytes += at as u64;
                    self.carry.drain(..at);
                    return rest;
                }
            }
        }
        self.stats.skipped_bytes += self.carry.len() as u64;
        self.carry.clear();
        rest
    }

    fn packet(&mut self, packet: &[u8], sink: &mut dyn DemuxSink) {
        self.stats.packets += 1;
        let pid = u16::from_be_bytes([packet[1], packet[2]]) & 0x1FFF;
        if pid == NULL_PID {
            return;
        }
        let is_pes = self.pes.iter().position(|p| p.stream.pid == pid);
        if pid != PAT_PID && self.pmt_pid != Some(pid) && is_pes.is_none() {
            return;
        }
        if packet[1] & 0x80 != 0 {
            return self.damage(Damage::Transport { pid }, sink);
        }
        if packet[3] & 0xC0 != 0 {
            return self.damage(Damage::Scrambled { pid }, sink);
        }
        let mut header = Header {
            pid,
            start: packet[1] & 0x40 != 0,
            counter: packet[3] & 0x0F,
            discontinuity: false,
            stuffed: false,
        };
        let mut payload = &packet[4..];
        if packet[3] & 0x20 != 0 {
            let length = usize::from(packet[4]);
            let Some((field, rest)) = packet[5..].split_at_checked(length) else {
                return self.damage(Damage::Packet { pid }, sink);
            };
            header.discontinuity = field.first().is_some_and(|flags| flags & 0x80 != 0);
            header.stuffed = is_stuffed(field);
            payload = rest;
        }
        if packet[3] & 0x10 == 0 {
            return;
        }
        match is_pes {
            Some(index) => self.pes_packet(index, &header, payload, sink),
            None => self.table_packet(&header, payload, sink),
        }
    }

    fn table_packet(&mut self, header: &Header, payload: &[u8], sink: &mut dyn DemuxSink) {
        if header.pid == PAT_PID {
            let mut found = None;
            let good = self.pat.push(payload, header.start, &mut |section| found = parse_pat(section).or(found));
            if let Some(pid) = found
                && self.pmt_pid != Some(pid)
            {
                self.pmt_pid = Some(pid);
                self.pmt.reset();
            }
            if !good {
                self.damage(Damage::Table { pid: header.pid }, sink);
            }
            return;
        }
        let mut found = None;
        let good = self.pmt.push(payload, header.start, &mut |section| found = parse_pmt(section).or(found.take()));
        if !good {
            self.damage(Damage::Table { pid: header.pid }, sink);
        }
        if let Some(streams) = found
            && streams != self.streams
        {
            self.choose(streams, sink);
        }
    }

    /// Takes over a new set of streams; what stays the same goes on undisturbed.
    fn choose(&mut self, streams: Vec<Stream>, sink: &mut dyn DemuxSink) {
        let first = |wanted: fn(StreamKind) -> bool| streams.iter().copied().find(|s| wanted(s.kind));
        let chosen = [
            first(|k| matches!(k, StreamKind::H264 | StreamKind::Vp8)),
            first(|k| matches!(k, StreamKind::Aac | StreamKind::Opus { .. })),
        ];
        let mut kept = Vec::with_capacity(2);
        for stream in chosen.into_iter().flatten() {
            match self.pes.iter().position(|p| p.stream == stream) {
                Some(index) => kept.push(self.pes.swap_remove(index)),
                None => kept.push(Pes::new(stream)),
            }
        }
        for mut gone in std::mem::replace(&mut self.pes, kept) {
            if gone.running {
                self.stats.abandoned += 1;
                gone.stop();
            }
        }
        self.streams = streams;
        sink.streams(&self.streams);
    }

    fn pes_packet(&mut self, index: usize, header: &Header, payload: &[u8], sink: &mut dyn DemuxSink) {
        let pid = header.pid;
        let pes = &mut self.pes[index];
        let last = pes.counter.replace(header.counter);
        if let Some(last) = last
            && !header.discontinuity
            && header.counter != (last + 1) & 0x0F
        {
            if header.counter == last {
                // A packet may be sent twice; the second adds nothing.
                return;
            }
            pes.ended_early = false;
            // A PES packet of stated length tells itself whether it is whole when the next one begins.
            if !header.start || pes.need().is_none() {
                pes.stop();
            }
            self.damage(Damage::Continuity { pid }, sink);
        }
        if header.start {
            self.finish(index, sink);
            let pes = &mut self.pes[index];
            pes.ended_early = false;
            pes.running = true;
            pes.bytes.clear();
            if payload.len() < 3 || payload[..3] != [0, 0, 1] {
                pes.stop();
                return self.damage(Damage::PesHeader { pid }, sink);
            }
        }
        let pes = &mut self.pes[index];
        if !pes.running {
            if std::mem::take(&mut pes.ended_early) {
                pes.trust = false;
                self.damage(Damage::EarlyEnd { pid }, sink);
            }
            return;
        }
        if pes.bytes.len() + payload.len() > self.config.max_pes {
            pes.stop();
            return self.damage(Damage::PesTooLong { pid }, sink);
        }
        pes.bytes.extend_from_slice(payload);
        match pes.need() {
            Some(need) if pes.bytes.len() >= need => self.hand_on(index, need, sink),
            Some(_) => {}
            None if header.stuffed && pes.trust && pes.bytes.len() >= 6 => {
                pes.ended_early = true;
                self.stats.early += 1;
                let all = pes.bytes.len();
                self.hand_on(index, all, sink);
            }
            None => {}
        }
    }

    /// The PES packet in progress gets no more bytes.
    fn finish(&mut self, index: usize, sink: &mut dyn DemuxSink) {
        let pes = &mut self.pes[index];
        if !pes.running {
            return;
        }
        if pes.need().is_some() {
            let pid = pes.stream.pid;
            pes.stop();
            return self.damage(Damage::PesCut { pid }, sink);
        }
        let all = pes.bytes.len();
        self.hand_on(index, all, sink);
    }

    fn hand_on(&mut self, index: usize, length: usize, sink: &mut dyn DemuxSink) {
        let pes = &mut self.pes[index];
        pes.running = false;
        let Stream { pid, kind } = pes.stream;
        let Some((pts, dts, data)) = parse_pes(&pes.bytes[..length]) else {
            pes.bytes.clear();
            return self.damage(Damage::PesHeader { pid }, sink);
        };
        let mut times = (None, None);
        if let Some(first) = dts.or(pts) {
            let (time, jump) = self.clock.unwrap(first, &mut pes.last);
            if let Some(from) = jump {
                sink.jump(Timestamp(from), Timestamp(time));
            }
            times = (pts.map(|t| Timestamp(self.clock.peek(t))), dts.map(|_| Timestamp(time)));
        }
        self.stats.units += 1;
        sink.unit(Unit { pid, kind, pts: times.0, dts: times.1, data });
        pes.bytes.clear();
    }

    fn damage(&mut self, damage: Damage, sink: &mut dyn DemuxSink) {
        self.stats.damage += 1;
        sink.damage(damage);
    }
}

/// Whether an adaptation field is longer than what it says. A field without even flags is a byte of stuffing.
fn is_stuffed(field: &[u8]) -> bool {
    let Some((&flags, rest)) = field.split_first() else { return true };
    let mut used = 0;
    for (flag, bytes) in [(0x10, 6), (0x08, 6), (0x04, 1)] {
        if flags & flag != 0 {
            used += bytes;
        }
    }
    for flag in [0x02, 0x01] {
        // Private data and the extension state their own length.
        if flags & flag != 0 {
            used += 1 + rest.get(used).map_or(0, |&n| usize::from(n));
        }
    }
    rest.len() > used || (flags == 0 && rest.is_empty())
}

/// Presentation time, decoding time (33 bits) and payload of a PES packet.
#[allow(clippy::type_complexity)]
fn parse_pes(bytes: &[u8]) -> Option<(Option<u64>, Option<u64>, &[u8])> {
    if bytes.len() < 9 || bytes[..3] != [0, 0, 1] || bytes[6] & 0xC0 != 0x80 {
        return None;
    }
    let (fields, data) = bytes[9..].split_at_checked(usize::from(bytes[8]))?;
    let (pts, dts) = match bytes[7] >> 6 {
        0b10 => (Some(time(fields.get(..5)?)?), None),
        0b11 => (Some(time(fields.get(..5)?)?), Some(time(fields.get(5..10)?)?)),
        _ => (None, None),
    };
    Some((pts, dts, data))
}

fn time(b: &[u8]) -> Option<u64> {
    if b[0] & 1 == 0 || b[2] & 1 == 0 || b[4] & 1 == 0 {
        return None;
    }
    Some(
        u64::from(b[0] >> 1 & 7) << 30
            | u64::from(b[1]) << 22
            | u64::from(b[2] >> 1) << 15
            | u64::from(b[3]) << 7
            | u64::from(b[4] >> 1),
    )
}
