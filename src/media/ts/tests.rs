#![allow(clippy::unwrap_used)]

use super::demux::{DemuxConfig, DemuxSink, Demuxer, Stream, StreamKind, Unit};
use super::mux::{Mux, MuxAudio, MuxStreams};
use super::{PACKET, opus};
use crate::frame::Timestamp;
use crate::media::{Damage, PacketCodec, VideoCodec};
use proptest::prelude::*;

#[derive(Debug, Default, PartialEq)]
struct Got {
    units: Vec<(u16, Option<i64>, Vec<u8>)>,
    streams: Vec<Vec<Stream>>,
    damage: Vec<Damage>,
    jumps: usize,
}

impl DemuxSink for Got {
    fn streams(&mut self, streams: &[Stream]) {
        self.streams.push(streams.to_vec());
    }
    fn unit(&mut self, unit: Unit<'_>) {
        self.units.push((unit.pid, unit.pts.map(|t| t.0), unit.data.to_vec()));
    }
    fn damage(&mut self, damage: Damage) {
        self.damage.push(damage);
    }
    fn jump(&mut self, _: Timestamp, _: Timestamp) {
        self.jumps += 1;
    }
}

fn read(bytes: &[u8], pieces: &[usize]) -> Got {
    let (mut got, mut demux) = (Got::default(), Demuxer::new(DemuxConfig::default()));
    let (mut rest, mut sizes) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |&n| n.max(1)).min(rest.len());
        demux.push(&rest[..size], &mut got);
        rest = &rest[size..];
    }
    demux.segment_end(&mut got);
    got
}

fn both() -> MuxStreams {
    MuxStreams { video: Some(VideoCodec::H264), audio: Some(MuxAudio { codec: PacketCodec::Opus, channels: 2 }) }
}

fn picture(size: usize) -> Vec<u8> {
    let mut unit = vec![0, 0, 0, 1, 9, 0xF0];
    unit.extend((0..size).map(|n| (n % 255) as u8 | 1));
    unit
}

fn pid(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1], packet[2]]) & 0x1FFF
}

/// Makes the PES packets of video of unstated length, as most multiplexers do.
fn open_lengths(bytes: &mut [u8]) {
    for packet in bytes.chunks_mut(PACKET) {
        if pid(packet) == 256 && packet[1] & 0x40 != 0 {
            let start = packet.windows(4).position(|w| w == [0, 0, 1, 0xE0]).unwrap();
            packet[start + 4..start + 6].fill(0);
        }
    }
}

#[test]
fn tables_name_what_is_there() {
    let mut mux = Mux::default();
    let all =
        [mux.tables(both()), mux.tables(MuxStreams { video: Some(VideoCodec::H264), audio: None }), mux.tables(both())]
            .concat();
    let got = read(&all, &[]);
    let opus = StreamKind::Opus { channels: 2 };
    let (video, audio) = (Stream { pid: 256, kind: StreamKind::H264 }, Stream { pid: 257, kind: opus });
    assert_eq!(got.streams, [vec![video, audio], vec![video], vec![video, audio]]);
    assert_eq!(all.len(), 6 * PACKET);
}

#[test]
fn every_length_of_a_picture_is_read_back() {
    for open in [false, true] {
        let mut mux = Mux::default();
        let mut bytes = mux.tables(both()).to_vec();
        for size in 0..600 {
            bytes.extend(mux.video(&picture(size), size as i64 * 3000, size == 0, false));
        }
        bytes.extend(mux.video(&picture(200_000), 600 * 3000, false, false));
        if open {
            open_lengths(&mut bytes);
        }
        let got = read(&bytes, &[1000]);
        assert!(got.damage.is_empty(), "{:?}", got.damage);
        assert_eq!(got.units.len(), 601);
        for (index, (pid, pts, data)) in got.units.iter().enumerate() {
            assert_eq!((*pid, *pts), (256, Some(index as i64 * 3000)));
            assert_eq!(*data, picture(if index == 600 { 200_000 } else { index }));
        }
    }
}

#[test]
fn stuffing_ends_a_unit_until_it_lies() {
    let mut mux = Mux::default();
    let mut bytes = mux.tables(both()).to_vec();
    let (head, mut demux, mut got) = (bytes.len(), Demuxer::new(DemuxConfig::default()), Got::default());
    bytes.extend(mux.video(&picture(1000), 0, true, false));
    open_lengths(&mut bytes);
    demux.push(&bytes, &mut got);
    assert_eq!((got.units.len(), demux.stats().early), (1, 1));
    // The same packets with a seam in the middle: one payload byte less, one byte of stuffing more, in the third.
    let mut lying = bytes[head..].to_vec();
    for (index, packet) in lying.chunks_mut(PACKET).enumerate() {
        packet[3] = packet[3] & 0xF0 | (6 + index as u8) & 0x0F;
        if index == 2 {
            packet[3] |= 0x20;
            packet[4] = 0;
        }
    }
    let next = lying.clone();
    demux.push(&lying, &mut got);
    assert_eq!(got.damage, [Damage::EarlyEnd { pid: 256 }]);
    assert_eq!((got.units.len(), demux.stats().early), (2, 2));
    // From now on the next one's begin is waited for.
    let mut next = next;
    for (index, packet) in next.chunks_mut(PACKET).enumerate() {
        packet[3] = packet[3] & 0xF0 | (12 + index as u8) & 0x0F;
    }
    demux.push(&next, &mut got);
    assert_eq!(got.units.len(), 2);
    demux.segment_end(&mut got);
    assert_eq!((got.units.len(), got.damage.len()), (3, 1));
    assert_eq!(got.units[2].2.len(), got.units[0].2.len() - 1);
}

#[test]
fn what_is_damaged_is_named() {
    let mut mux = Mux::default();
    let tables = mux.tables(both()).to_vec();
    let video = mux.video(&picture(3000), 0, true, false).to_vec();
    let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut packets: Vec<Vec<u8>> = [&tables[..], &video].concat().chunks(PACKET).map(<[u8]>::to_vec).collect();
        change(&mut packets);
        read(&packets.concat(), &[])
    };
    let pid = 256;
    assert_eq!(with(&|p| p[4][1] |= 0x80).damage[0], Damage::Transport { pid });
    assert_eq!(with(&|p| p[4][3] |= 0x80).damage[0], Damage::Scrambled { pid });
    assert_eq!(with(&|p| (p[4][3], p[4][4]) = (p[4][3] | 0x20, 255)).damage[0], Damage::Packet { pid });
    assert_eq!(with(&|p| drop(p.remove(4))).damage[0], Damage::Continuity { pid });
    assert_eq!(with(&|p| p[0][10] ^= 1).damage[0], Damage::Table { pid: 0 });
    assert_eq!(with(&|p| p[1][20] ^= 1).damage[0], Damage::Table { pid: 0x1000 });
    assert_eq!(with(&|p| p.truncate(6)).damage[0], Damage::PesCut { pid });
    assert_eq!(with(&|p| p[2][12] = 9).damage[0], Damage::PesHeader { pid });
    assert_eq!(with(&|p| p[3][0] = 0).damage[0], Damage::Sync);
    // A packet that is there twice does no harm.
    let twice = with(&|p| p.insert(4, p[4].clone()));
    assert!(twice.damage.is_empty() && twice.units.len() == 1);
}

#[test]
fn a_unit_over_the_bound_is_given_up() {
    let mut mux = Mux::default();
    let mut bytes = mux.tables(both()).to_vec();
    bytes.extend(mux.video(&picture(100_000), 0, true, false));
    bytes.extend(mux.video(&picture(100), 3000, false, false));
    let (mut got, mut demux) = (Got::default(), Demuxer::new(DemuxConfig { max_pes: 50_000 }));
    demux.push(&bytes, &mut got);
    demux.segment_end(&mut got);
    assert_eq!((got.units.len(), &got.damage[..]), (1, &[Damage::PesTooLong { pid: 256 }][..]));
}

/// A stream of video and audio with some of its bytes overwritten.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let sizes = prop::collection::vec((any::<bool>(), 0usize..1500), 1..30);
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (sizes, damage, any::<bool>()).prop_map(|(sizes, damage, open)| {
        let mut mux = Mux::default();
        let mut bytes = mux.tables(both()).to_vec();
        for (index, (video, size)) in sizes.into_iter().enumerate() {
            let pts = index as i64 * 1500;
            if video {
                bytes.extend(mux.video(&picture(size), pts, false, false));
            } else {
                let packet = vec![31 << 3; size.max(1)];
                bytes.extend(mux.audio(PacketCodec::Opus, &[], &packet, pts, false).unwrap());
            }
        }
        if open {
            open_lengths(&mut bytes);
        }
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same(bytes in stream(), pieces in prop::collection::vec(1usize..700, 1..8)) {
        prop_assert_eq!(read(&bytes, &[]), read(&bytes, &pieces));
    }

    #[test]
    fn any_bytes_are_survived_in_bounds(
        pieces in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(prop_oneof![2 => Just(0x47u8), 2 => Just(0), 1 => Just(1), 3 => any::<u8>()], 0..600)),
            0..20
        )
    ) {
        let (mut got, mut demux) = (Got::default(), Demuxer::new(DemuxConfig { max_pes: 10_000 }));
        for (end, bytes) in pieces {
            demux.push(&bytes, &mut got);
            prop_assert!(demux.held() <= 2 * 10_000 + 2 * 1024 + 2 * PACKET);
            if end {
                demux.segment_end(&mut got);
            }
        }
    }

    #[test]
    fn audio_is_read_back(sizes in prop::collection::vec(1usize..3000, 1..20)) {
        let mut mux = Mux::default();
        let mut bytes = mux.tables(both()).to_vec();
        for (index, &size) in sizes.iter().enumerate() {
            let packet = vec![31 << 3; size];
            bytes.extend(mux.audio(PacketCodec::Opus, &[], &packet, index as i64 * 1800, false).unwrap());
        }
        let got = read(&bytes, &[]);
        prop_assert!(got.damage.is_empty());
        let found: Vec<usize> =
            got.units.iter().flat_map(|u| opus::Packets::new(&u.2).map(|p| p.data.len()).collect::<Vec<_>>()).collect();
        prop_assert_eq!(found, sizes);
    }
}
