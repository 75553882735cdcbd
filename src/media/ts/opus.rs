//! Opus in a transport stream (the Opus-in-TS mapping that FFmpeg and mediacommon follow): each packet stands behind a
//! control header.

use crate::frame::Timestamp;

/// Longest Opus packet that is accepted: one frame of 120 ms at the codec's highest rate, several times over.
const MAX_PACKET: usize = 16 * 1024;

/// One Opus packet and its length in ticks of 90 kHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpusPacket<'a> {
    pub data: &'a [u8],
    pub duration: i64,
}

/// Splits the payload of a PES packet. The iterator ends early at a header that cannot be read; `clean` on it tells.
pub(crate) struct Packets<'a> {
    rest: &'a [u8],
    clean: bool,
}

impl<'a> Packets<'a> {
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, clean: true }
    }

    /// False once something could not be read.
    pub fn clean(&self) -> bool {
        self.clean
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = OpusPacket<'a>;

    fn next(&mut self) -> Option<OpusPacket<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((packet, rest)) = split(self.rest) else {
            self.clean = false;
            self.rest = &[];
            return None;
        };
        self.rest = rest;
        Some(packet)
    }
}

fn split(bytes: &[u8]) -> Option<(OpusPacket<'_>, &[u8])> {
    // Eleven bits 0x3FF, start trim, end trim, extension, two reserved bits.
    if *bytes.first()? != 0x7F || *bytes.get(1)? & 0xE0 != 0xE0 {
        return None;
    }
    let flags = bytes[1];
    let mut at = 2;
    let mut size = 0;
    loop {
        let byte = usize::from(*bytes.get(at)?);
        at += 1;
        size += byte;
        if size > MAX_PACKET {
            return None;
        }
        if byte != 0xFF {
            break;
        }
    }
    at += if flags & 0x10 != 0 { 2 } else { 0 };
    at += if flags & 0x08 != 0 { 2 } else { 0 };
    if flags & 0x04 != 0 {
        at += 1 + usize::from(*bytes.get(at)?);
    }
    let data = bytes.get(at..at + size)?;
    let duration = duration(data)?;
    Some((OpusPacket { data, duration }, &bytes[at + size..]))
}

/// Length of an Opus packet in ticks of 90 kHz (RFC 6716, section 3.1); `None` for one that is empty or over 120 ms.
pub(crate) fn duration(packet: &[u8]) -> Option<i64> {
    let toc = *packet.first()?;
    // In units of 2.5 ms.
    let frame = match toc >> 3 {
        config @ 0..12 => [4, 8, 16, 24][usize::from(config & 3)],
        config @ 12..16 => [4, 8][usize::from(config & 1)],
        config => [1, 2, 4, 8][usize::from(config & 3)],
    };
    let count = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => i64::from(*packet.get(1)? & 0x3F),
    };
    let units = frame * count;
    (1..=48).contains(&units).then_some(units * Timestamp::HZ / 400)
}

/// Whether an Opus packet codes two channels.
pub(crate) fn is_stereo(packet: &[u8]) -> bool {
    packet.first().is_some_and(|toc| toc & 0x04 != 0)
}

/// Bytes of the control header for a packet of `size` bytes.
pub(crate) fn header_len(size: usize) -> usize {
    3 + size / 255
}

/// Appends the control header for a packet of `size` bytes to `out`.
pub(crate) fn write_header(size: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x7F, 0xE0]);
    out.extend(std::iter::repeat_n(0xFF, size / 255));
    out.push((size % 255) as u8);
}

/// The `OpusHead` that containers other than this one want (RFC 7845, section 5.1). `pre_skip` in samples of 48 kHz.
pub(crate) fn head(channels: u8, pre_skip: u16) -> [u8; 19] {
    let mut head = *b"OpusHead\x01\x02\0\0\x80\xBB\0\0\0\0\0";
    head[9] = channels;
    head[10..12].copy_from_slice(&pre_skip.to_le_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_follow_the_table() {
        // SILK 60 ms, hybrid 20 ms, CELT 2.5 ms, CELT 20 ms twice, 20 ms six times, seven times (over the limit).
        let cases: [(&[u8], Option<i64>); 6] = [
            (&[3 << 3], Some(5400)),
            (&[13 << 3], Some(1800)),
            (&[16 << 3], Some(225)),
            (&[31 << 3 | 1], Some(3600)),
            (&[31 << 3 | 3, 6], Some(10800)),
            (&[31 << 3 | 3, 7], None),
        ];
        for (packet, wanted) in cases {
            assert_eq!(duration(packet), wanted, "{packet:?}");
        }
    }

    #[test]
    fn trims_and_extensions_are_skipped() {
        let mut bytes = vec![0x7F, 0xFC, 2, 1, 2, 3, 4, 3, 9, 9, 9];
        bytes.extend([31 << 3, 0xAA]);
        let mut packets = Packets::new(&bytes);
        assert_eq!(packets.next().map(|p| p.data), Some(&[31 << 3, 0xAA][..]));
        assert!(packets.next().is_none() && packets.clean());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(sizes in prop::collection::vec(1usize..2000, 1..5)) {
            let mut bytes = Vec::new();
            for &size in &sizes {
                write_header(size, &mut bytes);
                bytes.extend(std::iter::repeat_n(31 << 3, size));
            }
            let mut packets = Packets::new(&bytes);
            let found: Vec<_> = packets.by_ref().map(|p| p.data.len()).collect();
            prop_assert_eq!(found, sizes);
            prop_assert!(packets.clean());
        }
    }
}
