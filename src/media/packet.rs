//! Encoded audio on its way around the pipeline.

use bytes::Bytes;

use crate::frame::Timestamp;

/// How pictures are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    /// H.264 with start codes (annex B of ITU-T H.264).
    H264,
    /// VP8 (RFC 6386). Comes in only from WebRTC peers.
    Vp8,
}

/// How an [`AudioPacket`] is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketCodec {
    /// AAC, one frame without ADTS header.
    Aac,
    /// Opus, one packet without control header.
    Opus,
}

impl PacketCodec {
    /// FFmpeg's name of the codec.
    pub fn name(self) -> &'static str {
        match self {
            PacketCodec::Aac => "aac",
            PacketCodec::Opus => "opus",
        }
    }
}

/// One encoded packet of audio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioPacket {
    /// How `data` is coded.
    pub codec: PacketCodec,
    /// Presentation time of the first sample.
    pub pts: Timestamp,
    /// Length in ticks of 90 kHz.
    pub duration: i64,
    /// The coded bytes.
    pub data: Bytes,
    /// Samples a second.
    pub rate: u32,
    /// Channels.
    pub channels: u8,
    /// AudioSpecificConfig for AAC; empty for Opus.
    pub config: Bytes,
}

impl AudioPacket {
    /// The time right after the last sample.
    pub fn end(&self) -> Timestamp {
        Timestamp(self.pts.0 + self.duration)
    }
}
