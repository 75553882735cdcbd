//! Entry points for fuzzers: each takes any bytes and must neither panic nor grow without bound.

use std::time::Instant;

use bytes::Bytes;

use super::ts::demux::{DemuxConfig, DemuxSink, Demuxer, Stream, Unit};
use super::ts::{adts, opus};
use super::{
    AudioBlocks, AudioFilter, AudioPacket, Config, Damage, Input, InputConfig, InputEvent, InputSink, PacketCodec,
    h264, transcode,
};
use crate::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};

struct Nothing;

impl DemuxSink for Nothing {
    fn streams(&mut self, _: &[Stream]) {}
    fn unit(&mut self, _: Unit<'_>) {}
    fn damage(&mut self, _: Damage) {}
    fn jump(&mut self, _: Timestamp, _: Timestamp) {}
}

impl InputSink for Nothing {
    fn video(&mut self, frame: VideoFrame) {
        assert_eq!(frame.data.len(), frame.format.bytes(frame.size));
    }
    fn audio(&mut self, packet: AudioPacket) {
        assert!(packet.duration > 0);
    }
    fn event(&mut self, event: InputEvent) {
        let _ = event.metadata_line();
    }
}

/// The demultiplexer, fed in pieces whose sizes the first byte chooses.
pub fn fuzz_ts_demux(data: &[u8]) {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let mut demux = Demuxer::new(DemuxConfig { max_pes: 1 << 16 });
    for (index, part) in bytes.chunks(usize::from(piece) * 4 + 1).enumerate() {
        demux.push(part, &mut Nothing);
        assert!(demux.held() <= 2 * (1 << 16) + 4096);
        match index % 7 {
            3 => demux.segment_end(&mut Nothing),
            6 => demux.segment_start(),
            _ => {}
        }
    }
    demux.segment_end(&mut Nothing);
}

/// The whole input: demultiplexer, decoder, scaler.
pub fn fuzz_input(data: &[u8]) {
    let media = Config { max_input_pixels: 256 * 256, max_damage: 50, ..Config::default() };
    let config = InputConfig { target: Size::new(64, 48), format: PixelFormat::I420, media, pool: FramePool::new(2) };
    let Ok(mut input) = Input::new(config) else { return };
    let now = Instant::now();
    for part in data.chunks(1024) {
        if input.push(part, now, &mut Nothing).is_err() {
            break;
        }
    }
    input.finish(&mut Nothing);
}

/// The control headers of Opus in a transport stream.
pub fn fuzz_opus_header(data: &[u8]) {
    let mut length = 0;
    for packet in opus::Packets::new(data) {
        length += packet.data.len();
        assert!((1..=10_800).contains(&packet.duration));
    }
    assert!(length <= data.len());
}

/// ADTS framing, in pieces whose sizes the first byte chooses.
pub fn fuzz_adts(data: &[u8]) {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let mut frames = adts::Frames::default();
    for part in bytes.chunks(usize::from(piece) + 1) {
        frames.push(part, &mut |adts, frame, _| assert!(!frame.is_empty() && adts.rate > 0));
    }
}

/// Parameter sets and supplemental information of H.264.
pub fn fuzz_h264(data: &[u8]) {
    let scan = h264::scan(data);
    assert!(scan.size.is_none_or(|s| s.width > 0 && s.height > 0));
    assert!(h264::parameter_sets(data).len() <= 2 * data.len() + 8);
}

/// An audio packet of any contents through decoder, resampler and encoder, with and without blocks in between. The first byte chooses the codec, the second
/// and third the configuration.
pub fn fuzz_audio_packet(data: &[u8]) {
    let [kind, a, b, rest @ ..] = data else { return };
    let aac = kind & 1 == 0;
    let packet = AudioPacket {
        codec: if aac { PacketCodec::Aac } else { PacketCodec::Opus },
        pts: Timestamp(0),
        duration: 1800,
        data: Bytes::copy_from_slice(rest),
        rate: 48_000,
        channels: 1 + (kind >> 1 & 1),
        config: if aac { Bytes::copy_from_slice(&[*a, *b]) } else { Bytes::new() },
    };
    let Ok(mut transcoder) = transcode::Transcoder::new(&packet, PacketCodec::Opus, 64) else { return };
    for (index, part) in rest.chunks(300).enumerate() {
        // Errors are an answer; crashes are not.
        let _ = transcoder.push(part, Timestamp(index as i64 * 1800), &mut |_| {});
    }
    let _ = transcoder.finish(&mut |_| {});
    // The same by way of blocks, whose number of channels may change on the way.
    let mut filter = AudioFilter::new(PacketCodec::Opus, 64);
    for (index, part) in rest.chunks(300).enumerate() {
        let channels = 1 + (packet.channels + index as u8 / 3) % 2;
        let pts = Timestamp(index as i64 * 1800);
        let part = AudioPacket { data: Bytes::copy_from_slice(part), pts, channels, ..packet.clone() };
        let _ = filter.push(&part, &mut Through, &mut |_| {});
    }
    let _ = filter.finish(&mut Through, &mut |_| {});
}

/// Blocks of 10 ms that stay as they are.
struct Through;

impl AudioBlocks for Through {
    fn length(&self) -> usize {
        480
    }

    fn block(&mut self, samples: &mut [f32], channels: u8) {
        assert!(!samples.is_empty() && samples.len() <= 480 * usize::from(channels));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn entry_points_survive(data in prop::collection::vec(prop_oneof![1 => Just(0x47u8), 1 => Just(0xFF), 4 => any::<u8>()], 0..2000)) {
            fuzz_ts_demux(&data);
            fuzz_input(&data);
            fuzz_opus_header(&data);
            fuzz_adts(&data);
            fuzz_h264(&data);
            fuzz_audio_packet(&data);
        }
    }
}
