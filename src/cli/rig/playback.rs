//! A file, an address or a camera as a source: decoded, encoded as a gateway's would be, and published in real time.

use std::time::{Duration, Instant};

use super::source::Sink;
use crate::frame::{PixelFormat, Size, Timestamp};
use crate::media::{AudioCodec, FileReader, MediaError, MediaItem, Output, OutputConfig, PacketCodec, Stopper};

/// An opened source that is not read yet.
pub(super) struct Playback {
    reader: FileReader,
    output: Output,
    audio: Option<u8>,
}

impl Playback {
    /// Opens `name`. Pictures are scaled and cropped to `size`; without one they keep theirs. Blocks while the source
    /// is looked at; `stopper` ends that too.
    pub fn open(name: &str, size: Option<Size>, stopper: Stopper) -> Result<Self, MediaError> {
        let reader = FileReader::open_with(name, size, PixelFormat::I420, stopper)?;
        let Some(size) = reader.target() else {
            return Err(MediaError::File { path: "the input".into(), reason: "there is no video in it".into() });
        };
        let track = reader.info().audio.as_ref();
        let audio = track.map(|track| track.channels);
        let codec = match track.map(|track| track.codec) {
            Some(PacketCodec::Opus) => AudioCodec::Opus,
            Some(PacketCodec::Aac) => AudioCodec::Aac,
            None => AudioCodec::None,
        };
        let media = crate::media::Config { audio: codec, ..Default::default() };
        let fps_hint = reader.info().fps.unwrap_or(30.0);
        let output = Output::new(OutputConfig { size, fps_hint, media })?;
        Ok(Self { reader, output, audio })
    }

    /// Size of its pictures.
    pub fn size(&self) -> Option<Size> {
        self.reader.target()
    }

    /// Publishes it to its end, each item when its time has come.
    pub fn run(mut self, mut sink: Sink) -> Result<(), MediaError> {
        self.output.announce(true, self.audio);
        let mut begin: Option<(Instant, Timestamp)> = None;
        for item in self.reader {
            let item = item?;
            let pts = match &item {
                MediaItem::Video(frame) => frame.pts,
                MediaItem::Audio(packet) => packet.pts,
            };
            let (start, first) = *begin.get_or_insert((Instant::now(), pts));
            let after = Duration::from_secs_f64(pts.since(first).max(0) as f64 / Timestamp::HZ as f64);
            if !sink.sleep_until(start + after) {
                break;
            }
            match item {
                MediaItem::Video(frame) => drop(self.output.video(&frame, &mut sink)?),
                MediaItem::Audio(packet) => self.output.audio(&packet, &mut sink)?,
            }
        }
        self.output.finish(&mut sink)
    }
}
