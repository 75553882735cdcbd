//! What can go wrong with media, and what is worth telling while it goes right.

use crate::frame::{Size, Timestamp};

/// Why media work stopped or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// A codec of this name is not in the linked FFmpeg.
    #[error("{role} {name:?} is not part of the installed FFmpeg")]
    NoCodec {
        /// `video encoder`, `audio decoder`, …
        role: &'static str,
        /// The name asked for.
        name: String,
    },
    /// FFmpeg refused a call.
    #[error("{what}: {reason}")]
    Codec {
        /// What was being done.
        what: String,
        /// FFmpeg's own words.
        reason: String,
    },
    /// A setting is not usable.
    #[error("{field}: {reason}")]
    Config {
        /// Name of the field.
        field: &'static str,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// More bad packets than the stream may have.
    #[error(
        "the input has {count} damaged packets more than good pictures (at most {limit} allowed); the last: {last}"
    )]
    TooDamaged {
        /// Bad packets less good pictures.
        count: u32,
        /// `max_damage`.
        limit: u32,
        /// What was wrong with the last one.
        last: Damage,
    },
    /// A file, device or address cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// As given; credentials in an address are left out.
        path: String,
        /// Why.
        reason: String,
    },
}

/// One bad packet, and what was wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Bytes that are no transport packet; the next good one was searched for.
    #[error("no sync byte where a transport packet begins")]
    Sync,
    /// The sender marked a packet as broken.
    #[error("transport error on PID {pid}")]
    Transport {
        /// Of the packet.
        pid: u16,
    },
    /// A scrambled packet.
    #[error("scrambled packet on PID {pid}")]
    Scrambled {
        /// Of the packet.
        pid: u16,
    },
    /// An adaptation field or payload that does not fit its packet.
    #[error("malformed packet on PID {pid}")]
    Packet {
        /// Of the packet.
        pid: u16,
    },
    /// Packets are missing.
    #[error("lost packets on PID {pid}")]
    Continuity {
        /// Of the packet.
        pid: u16,
    },
    /// A table with a wrong checksum or length.
    #[error("broken table on PID {pid}")]
    Table {
        /// Of the packet.
        pid: u16,
    },
    /// A PES header that cannot be read.
    #[error("broken PES header on PID {pid}")]
    PesHeader {
        /// Of the packet.
        pid: u16,
    },
    /// A PES packet that ended early; its bytes are discarded.
    #[error("PES packet cut short on PID {pid}")]
    PesCut {
        /// Of the packet.
        pid: u16,
    },
    /// A PES packet over the bound; its bytes are discarded.
    #[error("PES packet too long on PID {pid}")]
    PesTooLong {
        /// Of the packet.
        pid: u16,
    },
    /// An early hand-on was wrong: the PES packet went on after its last packet was taken for found.
    #[error("stuffing in the middle of a PES packet on PID {pid}")]
    EarlyEnd {
        /// Of the packet.
        pid: u16,
    },
    /// Audio framing that cannot be read.
    #[error("broken audio framing on PID {pid}")]
    Audio {
        /// Of the packet.
        pid: u16,
    },
    /// The picture decoder refused an access unit.
    #[error("the video decoder refused a picture")]
    Picture,
    /// Pictures larger than `max_input_pixels`.
    #[error("pictures of {size} exceed the limit of {limit} pixels")]
    TooLarge {
        /// Of the picture.
        size: Size,
        /// `max_input_pixels`.
        limit: u64,
    },
}

/// Where and why a frame was dropped inside media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Every buffer of the pool was in use.
    PoolEmpty,
    /// Over the `max_fps` cap.
    RateCap,
    /// Before the first picture that can be decoded alone.
    BeforeKeyFrame,
    /// The decoder could not make a picture of it.
    Damaged,
    /// Not later than a frame already handed on.
    OutOfOrder,
    /// The picture carried no presentation time.
    NoTime,
}

/// What an input tells about its stream.
#[derive(Clone, Debug, PartialEq)]
pub enum InputEvent {
    /// The tables name these streams. Sent when they change.
    StreamsFound {
        /// The video that is decoded, if any.
        video: Option<StreamInfo>,
        /// The audio that is passed on, if any.
        audio: Option<StreamInfo>,
        /// Streams that are left alone: a word for each.
        unsupported: Vec<String>,
    },
    /// The decoder that does the work.
    DecoderChosen {
        /// FFmpeg's name for it.
        name: String,
    },
    /// Pictures have this format from now on. Sent with the first one and at each change.
    FormatChanged {
        /// Of the decoded pictures.
        size: Size,
        /// FFmpeg's name of the pixel format.
        pixel_format: String,
    },
    /// The time line jumped. The output keeps the input's own time line. Each stream tells of its own.
    Discontinuity {
        /// The last time before the jump.
        from: Timestamp,
        /// The first after it.
        to: Timestamp,
    },
    /// A bad packet.
    Damage(Damage),
    /// A frame was dropped.
    Dropped {
        /// Why.
        reason: DropReason,
        /// Of the frame, where known.
        pts: Option<Timestamp>,
    },
}

/// A stream as its tables describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Packet identifier in the transport stream.
    pub pid: u16,
    /// `h264`, `vp8`, `aac` or `opus`.
    pub codec: &'static str,
    /// Audio channels if the tables say.
    pub channels: Option<u8>,
}

impl InputEvent {
    /// The line that logs show for [`InputEvent::StreamsFound`], `Metadata: {...}`; `None` for other events.
    pub fn metadata_line(&self) -> Option<String> {
        let InputEvent::StreamsFound { video, audio, unsupported } = self else { return None };
        let one = |stream: &Option<StreamInfo>| match stream {
            None => "null".to_owned(),
            Some(s) => match s.channels {
                Some(n) => format!("{{\"codec\":\"{}\",\"pid\":{},\"channels\":{n}}}", s.codec, s.pid),
                None => format!("{{\"codec\":\"{}\",\"pid\":{}}}", s.codec, s.pid),
            },
        };
        Some(format!("Metadata: {{\"video\":{},\"audio\":{},\"unsupported\":{unsupported:?}}}", one(video), one(audio)))
    }
}
