//! Audio packets whose samples something else works on: decoded, handed on in blocks, encoded anew.

use super::transcode::{AudioCoder, AudioReader, AudioShape, Taker, shape};
use super::{AudioPacket, AudioTrack, MediaError, PacketCodec};

/// Samples a second of every block.
pub const RATE: u32 = super::transcode::RATE;

/// What works on the samples.
pub trait AudioBlocks {
    /// Samples of each channel in the next block, at [`RATE`]. 0 counts as 1.
    fn length(&self) -> usize;

    /// Changes a block in place: interleaved samples of `channels` (1 or 2). Before a gap of the stream, and at its end, a
    /// block is shorter.
    fn block(&mut self, samples: &mut [f32], channels: u8);
}

/// Decodes packets, hands their samples to [`AudioBlocks`], and encodes what those leave. Time stamps are those of the
/// packets, exact to the sample. It holds less than a block and what the codecs hold.
pub struct AudioFilter {
    codec: PacketCodec,
    kbps: u32,
    open: Option<(AudioShape, AudioReader, AudioCoder)>,
    /// Interleaved samples of a block that is not full.
    held: Vec<f32>,
    /// Packets that decoders which are gone have refused.
    undecodable: u64,
}

impl AudioFilter {
    /// Gives packets of `codec` with `kbps`.
    pub fn new(codec: PacketCodec, kbps: u32) -> Self {
        Self { codec, kbps, open: None, held: Vec::new(), undecodable: 0 }
    }

    /// What the packets of a track become: the same channels, [`RATE`], this filter's codec.
    ///
    /// # Errors
    /// The encoder does not open.
    pub fn track(&self, track: &AudioTrack) -> Result<AudioTrack, MediaError> {
        let coder = AudioCoder::new(self.codec, track.channels, self.kbps)?;
        Ok(AudioTrack { codec: self.codec, rate: RATE, channels: coder.channels(), config: coder.config() })
    }

    /// Takes a packet; gives every packet that is complete with it.
    ///
    /// # Errors
    /// The decoder, the resampler or the encoder fails or does not open. A packet that cannot be decoded is no error, see
    /// [`Self::undecodable`].
    pub fn push(
        &mut self,
        packet: &AudioPacket,
        blocks: &mut dyn AudioBlocks,
        out: &mut dyn FnMut(AudioPacket),
    ) -> Result<(), MediaError> {
        let shape = shape(packet);
        if self.open.as_ref().is_some_and(|(known, ..)| *known != shape) {
            self.finish(blocks, out)?;
        }
        if self.open.is_none() {
            let coder = AudioCoder::new(self.codec, packet.channels, self.kbps)?;
            self.open = Some((shape, AudioReader::new(packet)?, coder));
        }
        let Some((_, reader, coder)) = &mut self.open else { return Ok(()) };
        reader.push(&packet.data, packet.pts, &mut Between { held: &mut self.held, blocks, coder, out })
    }

    /// Works on what is held, though it fills no block, and gives what the encoder holds. The next packet begins anew.
    ///
    /// # Errors
    /// As for [`Self::push`]; what could not be given is lost.
    pub fn finish(&mut self, blocks: &mut dyn AudioBlocks, out: &mut dyn FnMut(AudioPacket)) -> Result<(), MediaError> {
        let Some((_, mut reader, mut coder)) = self.open.take() else { return Ok(()) };
        let mut between = Between { held: &mut self.held, blocks, coder: &mut coder, out };
        let read = reader.finish(&mut between).and_then(|()| between.rest());
        self.held.clear();
        self.undecodable += reader.undecodable();
        // What the encoder is filled up with lies behind the end. What follows may be the packets of another encoder, the first
        // of which lies before the end by the codec's padding.
        let end = coder.next_time().map(|end| end - coder.padding());
        read.and_then(|()| {
            coder.finish(&mut |packet| {
                if end.is_none_or(|end| packet.pts.0 < end) {
                    out(packet);
                }
            })
        })
    }

    /// Packets that could not be decoded.
    pub fn undecodable(&self) -> u64 {
        self.undecodable + self.open.as_ref().map_or(0, |(_, reader, _)| reader.undecodable())
    }
}

/// From the reader to the coder by way of the blocks.
struct Between<'a> {
    held: &'a mut Vec<f32>,
    blocks: &'a mut dyn AudioBlocks,
    coder: &'a mut AudioCoder,
    out: &'a mut dyn FnMut(AudioPacket),
}

impl Between<'_> {
    /// Works on the first `count` samples and encodes them.
    fn work(&mut self, count: usize) -> Result<(), MediaError> {
        let block = &mut self.held[..count];
        self.blocks.block(block, self.coder.channels());
        self.coder.fifo().extend_from_slice(block);
        self.held.drain(..count);
        self.coder.encode(self.out)
    }

    fn rest(&mut self) -> Result<(), MediaError> {
        self.more()?;
        if self.held.is_empty() { Ok(()) } else { self.work(self.held.len()) }
    }
}

impl Taker for Between<'_> {
    fn fifo(&mut self) -> &mut Vec<f32> {
        self.held
    }

    fn anchor(&mut self, pts: i64) -> Result<(), MediaError> {
        self.rest()?;
        self.coder.anchor(pts, self.out)
    }

    fn more(&mut self) -> Result<(), MediaError> {
        loop {
            let count = self.blocks.length().max(1) * usize::from(self.coder.channels());
            if self.held.len() < count {
                return Ok(());
            }
            self.work(count)?;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::frame::Timestamp;
    use crate::media::Tone;

    /// Blocks of `length`, of which it keeps how long they were; `quiet` leaves silence.
    struct Kept {
        length: usize,
        seen: Vec<usize>,
        quiet: bool,
    }

    impl AudioBlocks for Kept {
        fn length(&self) -> usize {
            self.length
        }

        fn block(&mut self, samples: &mut [f32], channels: u8) {
            self.seen.push(samples.len() / usize::from(channels));
            if self.quiet {
                samples.fill(0.0);
            }
        }
    }

    fn tone(seconds: i64, channels: u8) -> Vec<AudioPacket> {
        let mut packets = Vec::new();
        let mut tone = Tone::new(440.0, channels).unwrap();
        tone.until(Timestamp(seconds * Timestamp::HZ), &mut |p| packets.push(p)).unwrap();
        packets.iter_mut().for_each(|p| p.pts.0 += 9_000_000);
        packets
    }

    fn run(packets: &[AudioPacket], kept: &mut Kept) -> Vec<AudioPacket> {
        let mut filter = AudioFilter::new(PacketCodec::Opus, 64);
        let mut out = Vec::new();
        packets.iter().for_each(|p| filter.push(p, kept, &mut |p| out.push(p)).unwrap());
        filter.finish(kept, &mut |p| out.push(p)).unwrap();
        assert_eq!(filter.undecodable(), 0);
        out
    }

    /// Ticks by which an Opus packet's time lies before the block that it codes.
    const PADDING: i64 = 312 * 90_000 / 48_000;

    #[test]
    fn blocks_have_their_length_and_packets_their_time() {
        for channels in [1, 2] {
            let packets = tone(2, channels);
            let mut kept = Kept { length: 24_000, seen: Vec::new(), quiet: false };
            let out = run(&packets, &mut kept);
            let (last, whole) = kept.seen.split_last().unwrap();
            assert!(whole.len() == 3 && whole.iter().all(|n| *n == 24_000) && *last <= 24_000, "{:?}", kept.seen);
            // Whole frames of AAC, of which the encoder keeps the last.
            assert!(kept.seen.iter().sum::<usize>() >= 93_000, "{:?}", kept.seen);
            assert_eq!(out[0].pts.0, packets[0].pts.0 - PADDING);
            assert!(out.windows(2).all(|w| w[1].pts.0 - w[0].pts.0 == 1800));
            assert_eq!((out[0].channels, out[0].codec), (channels, PacketCodec::Opus));
        }
    }

    #[test]
    fn a_gap_ends_a_block_and_time_goes_on_behind_it() {
        let mut packets = tone(2, 1);
        packets.iter_mut().skip(40).for_each(|p| p.pts.0 += 45_000);
        let mut kept = Kept { length: 48_000, seen: Vec::new(), quiet: false };
        let out = run(&packets, &mut kept);
        assert!(kept.seen[0] < 48_000, "{:?}", kept.seen);
        assert!(out.iter().any(|p| p.pts.0 == packets[40].pts.0 - PADDING));
        assert_eq!(out.windows(2).filter(|w| w[1].pts.0 - w[0].pts.0 != 1800).count(), 1);
    }

    #[test]
    fn what_the_blocks_leave_is_what_is_encoded() {
        let packets = tone(2, 1);
        let size = |quiet| {
            let mut kept = Kept { length: 4_800, seen: Vec::new(), quiet };
            run(&packets, &mut kept).iter().map(|p| p.data.len()).sum::<usize>()
        };
        assert!(size(true) * 4 < size(false), "{} {}", size(true), size(false));
    }

    #[test]
    fn a_stream_that_turns_stereo_goes_on() {
        let mut packets = tone(1, 1);
        let after = packets.last().unwrap().end().0 - 9_000_000;
        packets.extend(tone(1, 2).into_iter().map(|mut p| {
            p.pts.0 += after;
            p
        }));
        let out = run(&packets, &mut Kept { length: 4_800, seen: Vec::new(), quiet: false });
        assert_eq!(out.first().unwrap().channels, 1);
        assert_eq!(out.last().unwrap().channels, 2);
        let times: Vec<i64> = out.iter().map(|p| p.pts.0).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    }
}
