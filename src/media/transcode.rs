//! Audio from one codec to another, with time stamps exact to the sample.

use std::collections::VecDeque;

use bytes::Bytes;

use super::ffi::{AudioDecoder, AudioEncoder, AudioEncoderSpec, Encoded, Resampler, Samples, StreamParams};
use super::{AudioPacket, MediaError, PacketCodec, codec_error};
use crate::frame::Timestamp;

/// Samples a second of everything that is encoded here.
pub(super) const RATE: u32 = 48_000;
/// A step between the expected and the stated time of more than this is a gap: time is counted anew from there. Smaller
/// ones are rounding of the source.
const GAP: i64 = Timestamp::HZ / 50;

/// An encoder for blocks of any length, which knows the time of each packet.
pub(super) struct AudioCoder {
    encoder: AudioEncoder,
    codec: PacketCodec,
    channels: u8,
    config: Bytes,
    fifo: Vec<f32>,
    /// Samples given to the encoder so far.
    count: i64,
    /// From this sample on, time counts from here. The newest last.
    anchors: VecDeque<(i64, i64)>,
    last: i64,
}

impl AudioCoder {
    /// AudioSpecificConfig for AAC; empty for Opus.
    pub fn config(&self) -> Bytes {
        self.config.clone()
    }

    /// Opens an encoder for `channels` (1 or 2) at 48 kHz.
    pub fn new(codec: PacketCodec, channels: u8, kbps: u32) -> Result<Self, MediaError> {
        let name = match codec {
            PacketCodec::Opus => "libopus",
            PacketCodec::Aac => "aac",
        };
        let channels = channels.clamp(1, 2);
        // The AAC encoder's default search leaves clicks in plain tones.
        let options: &[(&str, &str)] = match codec {
            PacketCodec::Opus => &[("application", "audio")],
            PacketCodec::Aac => &[("aac_coder", "fast")],
        };
        let encoder = AudioEncoder::open(&AudioEncoderSpec {
            name,
            rate: RATE,
            channels,
            bits_per_second: u64::from(kbps.clamp(6, 510)) * 1000,
            options,
        })?;
        let config = match codec {
            PacketCodec::Opus => Bytes::new(),
            PacketCodec::Aac => Bytes::copy_from_slice(encoder.extradata()),
        };
        Ok(Self {
            encoder,
            codec,
            channels,
            config,
            fifo: Vec::new(),
            count: 0,
            anchors: VecDeque::new(),
            last: i64::MIN,
        })
    }

    /// The time of the next sample that comes in; `None` before the first.
    pub fn next_time(&self) -> Option<i64> {
        let held = (self.fifo.len() / usize::from(self.channels)) as i64;
        self.anchors.back().map(|&(at, pts)| pts + ticks(self.count + held - at))
    }

    /// Channels of a sample: 1 or 2.
    pub fn channels(&self) -> u8 {
        self.channels
    }

    /// Ticks of 90 kHz by which a packet's time lies before the block that it codes.
    pub fn padding(&self) -> i64 {
        ticks(self.encoder.padding())
    }

    /// Where resampled samples are appended.
    pub fn fifo(&mut self) -> &mut Vec<f32> {
        &mut self.fifo
    }

    /// The next sample has the time `pts`, whatever was expected. A block that was begun is filled up with silence.
    pub fn anchor(&mut self, pts: i64, out: &mut dyn FnMut(AudioPacket)) -> Result<(), MediaError> {
        if !self.fifo.is_empty() {
            if self.next_time().is_some_and(|next| next <= pts) {
                let block = self.encoder.frame_size() * usize::from(self.channels);
                self.fifo.resize(self.fifo.len().next_multiple_of(block), 0.0);
                self.encode(out)?;
            }
            self.fifo.clear();
        }
        self.anchors.push_back((self.count, pts));
        while self.anchors.len() > 8 {
            self.anchors.pop_front();
        }
        Ok(())
    }

    /// Encodes the whole blocks of the queue.
    pub fn encode(&mut self, out: &mut dyn FnMut(AudioPacket)) -> Result<(), MediaError> {
        let size = self.encoder.frame_size();
        let block = size * usize::from(self.channels);
        let whole = self.fifo.len() / block * block;
        let fifo = std::mem::take(&mut self.fifo);
        let mut result = Ok(());
        for samples in fifo[..whole].chunks_exact(block) {
            let at = self.count;
            self.count += size as i64;
            let mut found = VecDeque::new();
            result =
                self.encoder.encode(samples, at, &mut |e| found.push_back((Bytes::copy_from_slice(e.data), e.pts)));
            found.into_iter().for_each(|(data, at)| self.give(data, at, out));
            if result.is_err() {
                break;
            }
        }
        self.fifo = fifo;
        self.fifo.drain(..whole);
        result
    }

    /// Encodes what is left, filled up with silence, and ends the encoder.
    pub fn finish(&mut self, out: &mut dyn FnMut(AudioPacket)) -> Result<(), MediaError> {
        let block = self.encoder.frame_size() * usize::from(self.channels);
        self.fifo.resize(self.fifo.len().next_multiple_of(block), 0.0);
        self.encode(out)?;
        let mut found = VecDeque::new();
        let result =
            self.encoder.finish(&mut |e: Encoded<'_>| found.push_back((Bytes::copy_from_slice(e.data), e.pts)));
        found.into_iter().for_each(|(data, at)| self.give(data, at, out));
        result
    }

    fn give(&mut self, data: Bytes, at: i64, out: &mut dyn FnMut(AudioPacket)) {
        // The encoder's time is that of the first decoded sample, which lies before the block by the codec's padding.
        let padding = self.encoder.padding();
        let block = at + padding;
        let Some(&(from, pts)) = self.anchors.iter().rev().find(|a| a.0 <= block).or(self.anchors.front()) else {
            return;
        };
        let duration = ticks(self.encoder.frame_size() as i64);
        let time = pts + ticks(block - from) - ticks(padding);
        if time + duration <= 0 {
            // Nothing but padding, before a stream that begins at zero.
            return;
        }
        // A time before zero cannot be written down.
        let time = time.max(0);
        if time <= self.last && self.last - time < Timestamp::HZ {
            return;
        }
        self.last = time;
        out(AudioPacket {
            codec: self.codec,
            pts: Timestamp(time),
            duration,
            data,
            rate: RATE,
            channels: self.channels,
            config: self.config.clone(),
        });
    }
}

fn ticks(samples: i64) -> i64 {
    samples * Timestamp::HZ / i64::from(RATE)
}

/// What decides whether packets can go through the same decoder: codec, rate, channels and the codec's header.
pub(super) type AudioShape = (PacketCodec, u32, u8, Bytes);

/// The shape of a packet's stream.
pub(super) fn shape(packet: &AudioPacket) -> AudioShape {
    (packet.codec, packet.rate, packet.channels, packet.config.clone())
}

/// Where an [`AudioReader`] puts what it decodes.
pub(super) trait Taker {
    /// Where samples are appended.
    fn fifo(&mut self) -> &mut Vec<f32>;
    /// The next sample has the time `pts`, whatever was expected.
    fn anchor(&mut self, pts: i64) -> Result<(), MediaError>;
    /// Samples were appended.
    fn more(&mut self) -> Result<(), MediaError>;
}

/// Decodes packets of one stream to interleaved samples at 48 kHz, on one or two channels.
pub(super) struct AudioReader {
    decoder: AudioDecoder,
    samples: Samples,
    resampler: Resampler,
    /// Time of the next decoded sample, and the fraction of it as samples since an exact one.
    expected: Option<(i64, i64, u32)>,
    undecodable: u64,
}

impl AudioReader {
    /// For packets like `first`.
    pub fn new(first: &AudioPacket) -> Result<Self, MediaError> {
        let decoder = AudioDecoder::open(first.codec.name(), first.rate, first.channels, &first.config)?;
        Ok(Self::with(decoder, first.channels))
    }

    fn with(decoder: AudioDecoder, channels: u8) -> Self {
        let resampler = Resampler::new(RATE, channels.clamp(1, 2));
        Self { decoder, samples: Samples::empty(), resampler, expected: None, undecodable: 0 }
    }

    /// Packets that the decoder refused.
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Takes one coded packet.
    pub fn push(&mut self, data: &[u8], pts: Timestamp, to: &mut impl Taker) -> Result<(), MediaError> {
        if self.decoder.send(data, pts.0).is_err() {
            // The gap that it leaves is seen by the next packet's time.
            self.undecodable += 1;
            return Ok(());
        }
        self.take(to)
    }

    /// The stream is over.
    pub fn finish(&mut self, to: &mut impl Taker) -> Result<(), MediaError> {
        self.decoder.send_end();
        self.take(to)?;
        self.drain(to)
    }

    fn drain(&mut self, to: &mut impl Taker) -> Result<(), MediaError> {
        self.resampler.drain(to.fifo()).map_err(|e| codec_error("audio resampling", e))
    }

    fn take(&mut self, to: &mut impl Taker) -> Result<(), MediaError> {
        loop {
            match self.decoder.receive(&mut self.samples) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(_refused) => {
                    self.undecodable += 1;
                    return Ok(());
                }
            }
            let rate = self.samples.rate().max(1);
            let expected = self.expected.map(|(pts, samples, rate)| pts + samples * Timestamp::HZ / i64::from(rate));
            let stated = self.samples.pts().or(expected).unwrap_or(0);
            let gap = expected.is_none_or(|expected| (stated - expected).abs() > GAP);
            if self.resampler.changes(&self.samples) || gap {
                self.drain(to)?;
            }
            if gap {
                to.anchor(stated)?;
                self.expected = Some((stated, 0, rate));
            }
            match &mut self.expected {
                Some((_, samples, known)) if *known == rate => *samples += self.samples.len() as i64,
                other => *other = Some((expected.unwrap_or(stated), self.samples.len() as i64, rate)),
            }
            self.resampler.push(&self.samples, to.fifo()).map_err(|e| codec_error("audio resampling", e))?;
            to.more()?;
        }
    }
}

/// Decodes packets of one stream and encodes them anew.
pub(super) struct Transcoder {
    reader: AudioReader,
    coder: AudioCoder,
}

/// From the reader straight to the coder.
struct Direct<'a> {
    coder: &'a mut AudioCoder,
    out: &'a mut dyn FnMut(AudioPacket),
}

impl Taker for Direct<'_> {
    fn fifo(&mut self) -> &mut Vec<f32> {
        self.coder.fifo()
    }

    fn anchor(&mut self, pts: i64) -> Result<(), MediaError> {
        self.coder.anchor(pts, self.out)
    }

    fn more(&mut self) -> Result<(), MediaError> {
        self.coder.encode(self.out)
    }
}

impl Transcoder {
    /// For packets like `first`, to `codec`. Mono stays mono; everything else becomes stereo.
    pub fn new(first: &AudioPacket, codec: PacketCodec, kbps: u32) -> Result<Self, MediaError> {
        Ok(Self { reader: AudioReader::new(first)?, coder: AudioCoder::new(codec, first.channels, kbps)? })
    }

    /// For a stream of a file in any codec that FFmpeg decodes.
    pub fn from_params(params: &StreamParams, codec: PacketCodec, kbps: u32) -> Result<Self, MediaError> {
        let decoder = AudioDecoder::open_params(params)?;
        let channels = params.channels();
        Ok(Self { reader: AudioReader::with(decoder, channels), coder: AudioCoder::new(codec, channels, kbps)? })
    }

    /// Channels of the output, and its codec's header.
    pub fn output(&self) -> (u8, Bytes) {
        (self.coder.channels, self.coder.config.clone())
    }

    /// Packets that the decoder refused.
    pub fn undecodable(&self) -> u64 {
        self.reader.undecodable()
    }

    /// Takes one coded packet; gives every packet that is complete with it.
    pub fn push(&mut self, data: &[u8], pts: Timestamp, out: &mut dyn FnMut(AudioPacket)) -> Result<(), MediaError> {
        self.reader.push(data, pts, &mut Direct { coder: &mut self.coder, out })
    }

    /// The stream is over.
    pub fn finish(&mut self, out: &mut dyn FnMut(AudioPacket)) -> Result<(), MediaError> {
        self.reader.finish(&mut Direct { coder: &mut self.coder, out })?;
        self.coder.finish(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::Tone;

    fn tone(seconds: i64) -> Vec<AudioPacket> {
        let mut packets = Vec::new();
        Tone::new(440.0, 2).unwrap().until(Timestamp(seconds * Timestamp::HZ), &mut |p| packets.push(p)).unwrap();
        packets
    }

    fn transcode(packets: &[AudioPacket]) -> Vec<i64> {
        let mut transcoder = Transcoder::new(&packets[0], PacketCodec::Opus, 64).unwrap();
        let mut times = Vec::new();
        let mut out = |p: AudioPacket| times.push(p.pts.0);
        packets.iter().for_each(|p| transcoder.push(&p.data, p.pts, &mut out).unwrap());
        transcoder.finish(&mut out).unwrap();
        times
    }

    /// Ticks by which an Opus packet's time lies before the block that it codes.
    const PADDING: i64 = 312 * 90_000 / 48_000;

    #[test]
    fn rounding_of_the_source_does_not_show() {
        let mut packets = tone(3);
        for (index, packet) in packets.iter_mut().enumerate() {
            // Milliseconds, as RTMP has them, and a jitter on top.
            packet.pts.0 = 9_000_000 + packet.pts.0 / 90 * 90 + [0, 300, -500][index % 3];
        }
        let times = transcode(&packets);
        assert!(times.windows(2).all(|w| w[1] - w[0] == 1800), "{times:?}");
        assert_eq!(times[0], packets[0].pts.0 - PADDING);
    }

    #[test]
    fn time_is_counted_anew_after_a_gap_and_after_a_jump_back() {
        for shift in [45_000, 2 * Timestamp::HZ, -20 * Timestamp::HZ] {
            let mut packets = tone(2);
            packets.iter_mut().for_each(|p| p.pts.0 += 100 * Timestamp::HZ);
            packets.iter_mut().skip(40).for_each(|p| p.pts.0 += shift);
            let times = transcode(&packets);
            assert!(times.contains(&(packets[40].pts.0 - PADDING)), "{shift}: {times:?}");
            let odd = times.windows(2).filter(|w| w[1] - w[0] != 1800).count();
            assert_eq!(odd, 1, "{shift}: {times:?}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_counted() {
        let mut packets = tone(1);
        packets[10].data = Bytes::from_static(&[0xFF; 40]);
        let mut transcoder = Transcoder::new(&packets[0], PacketCodec::Opus, 64).unwrap();
        let mut count = 0;
        packets.iter().for_each(|p| transcoder.push(&p.data, p.pts, &mut |_| count += 1).unwrap());
        assert_eq!(transcoder.undecodable(), 1);
        assert!(count > 40);
    }
}
