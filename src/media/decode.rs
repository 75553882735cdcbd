//! H.264 access units in, pictures out, with as little delay as the stream allows.

use super::ffi::{Picture, VideoDecoder, VideoDecoderSpec};
use super::{Damage, MediaError, h264};
use crate::frame::Size;

/// Larger pictures are decoded by several threads, slice by slice.
const ONE_THREAD_PIXELS: u64 = 1280 * 720;
/// Access units that can be on their way through the decoder, for whom the arrival is remembered.
pub(super) const IN_FLIGHT: usize = 64;

/// What became of an access unit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It went into the decoder.
    Decoded,
    /// It cannot be decoded without an earlier one that is not there.
    Skipped,
    /// It went nowhere.
    Damaged(Damage),
}

/// The decoder of a stream.
pub(super) struct Decode {
    wanted: String,
    name: String,
    max_pixels: u64,
    decoder: VideoDecoder,
    threads: u32,
    picture: Picture,
    /// Nothing can be decoded before the next key picture.
    waiting: bool,
    too_large: Option<Size>,
}

impl Decode {
    /// `wanted` is `auto` or FFmpeg's name of a decoder.
    ///
    /// # Errors
    /// The decoder does not exist or does not open.
    pub fn new(wanted: &str, max_pixels: u64) -> Result<Self, MediaError> {
        let (name, decoder) = open(wanted, max_pixels, 1)?;
        Ok(Self {
            wanted: wanted.into(),
            name,
            max_pixels,
            decoder,
            threads: 1,
            picture: Picture::empty(),
            waiting: true,
            too_large: None,
        })
    }

    /// FFmpeg's name of the decoder at work.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes one access unit and gives `found` every picture that is ready with it.
    ///
    /// # Errors
    /// The decoder has to be opened again for another size and does not.
    pub fn push(
        &mut self,
        unit: &[u8],
        pts: Option<i64>,
        dts: Option<i64>,
        found: &mut dyn FnMut(&Picture),
    ) -> Result<Taken, MediaError> {
        let scan = h264::scan(unit);
        if let Some(size) = scan.size {
            self.too_large = (size.pixels() > self.max_pixels).then_some(size);
            let threads = threads_for(size);
            if self.too_large.is_none() && threads != self.threads {
                self.drain(found);
                (self.name, self.decoder) = open(&self.wanted, self.max_pixels, threads)?;
                self.threads = threads;
                self.waiting = true;
            }
        }
        if let Some(size) = self.too_large {
            self.waiting = true;
            return Ok(Taken::Damaged(Damage::TooLarge { size, limit: self.max_pixels }));
        }
        if self.waiting && !scan.key {
            return Ok(Taken::Skipped);
        }
        if let Err(_refused) = self.decoder.send(unit, pts, dts.or(pts)) {
            self.take(found);
            return Ok(Taken::Damaged(Damage::Picture));
        }
        self.waiting = false;
        Ok(if self.take(found) { Taken::Decoded } else { Taken::Damaged(Damage::Picture) })
    }

    /// Gives out what is held for reordering. The next unit must be a key picture.
    pub fn drain(&mut self, found: &mut dyn FnMut(&Picture)) {
        if self.decoder.send_end().is_ok() {
            self.take(found);
        }
        self.decoder.flush();
        self.waiting = true;
    }

    /// False when the decoder reports an error.
    fn take(&mut self, found: &mut dyn FnMut(&Picture)) -> bool {
        loop {
            match self.decoder.receive(&mut self.picture) {
                Ok(true) => found(&self.picture),
                Ok(false) => return true,
                Err(_refused) => return false,
            }
        }
    }
}

fn open(wanted: &str, max_pixels: u64, threads: u32) -> Result<(String, VideoDecoder), MediaError> {
    let try_open = |name: &str| {
        VideoDecoder::open(&VideoDecoderSpec { name, threads, max_pixels, frame_threads: false, params: None })
            .map(|decoder| (name.to_owned(), decoder))
    };
    if wanted != "auto" {
        return try_open(wanted);
    }
    if super::nvidia_device()
        && let Ok(open) = try_open("h264_cuvid")
    {
        return Ok(open);
    }
    try_open("h264")
}

fn threads_for(size: Size) -> u32 {
    if size.pixels() <= ONE_THREAD_PIXELS {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4) as u32)
}
