//! MPEG transport stream (ISO/IEC 13818-1): the part of it that live video uses.

pub(super) mod adts;
pub(super) mod clock;
pub(super) mod crc;
pub mod demux;
pub(crate) mod mux;
pub(crate) mod opus;
mod section;
#[cfg(test)]
mod tests;

/// Bytes of a transport packet.
pub(crate) const PACKET: usize = 188;
/// The first byte of each.
pub(crate) const SYNC: u8 = 0x47;

/// `stream_type` of H.264.
const TYPE_H264: u8 = 0x1B;
/// `stream_type` of AAC with ADTS headers.
const TYPE_AAC: u8 = 0x0F;
/// `stream_type` of private PES data, under which Opus and VP8 travel.
const TYPE_PRIVATE: u8 = 0x06;
/// `format_identifier` of VP8's registration descriptor. No standard carries VP8 in a transport stream; this is our own way,
/// for streams that stay inside the runner.
const FORMAT_VP8: &[u8; 4] = b"VP80";
