//! Access units of H.264 or VP8 in, pictures out, with as little delay as the stream allows.
//!
//! `auto` uses an NVIDIA device through FFmpeg's own H.264 parser, not through `h264_cuvid`: that one learns of a picture's
//! end from the next picture, a whole frame time later.

use super::ffi::{Picture, VideoDecoder, VideoDecoderSpec};
use super::{Damage, MediaError, VideoCodec, h264, vp8};
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
    codec: VideoCodec,
    name: String,
    max_pixels: u64,
    decoder: VideoDecoder,
    threads: u32,
    /// Pictures come from a device that has not shown yet that it can.
    unproven: bool,
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
        let (name, decoder) = open(VideoCodec::H264, wanted, max_pixels, 1)?;
        let unproven = name == ON_DEVICE;
        Ok(Self {
            wanted: wanted.into(),
            codec: VideoCodec::H264,
            name,
            max_pixels,
            decoder,
            threads: 1,
            unproven,
            picture: Picture::empty(),
            waiting: true,
            too_large: None,
        })
    }

    /// FFmpeg's name of the decoder at work.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes one access unit of `codec` and gives `found` every picture that is ready with it.
    ///
    /// # Errors
    /// The decoder has to be opened again for another size and does not.
    pub fn push(
        &mut self,
        codec: VideoCodec,
        unit: &[u8],
        pts: Option<i64>,
        dts: Option<i64>,
        found: &mut dyn FnMut(&Picture),
    ) -> Result<Taken, MediaError> {
        let scan = match codec {
            VideoCodec::H264 => h264::scan(unit),
            VideoCodec::Vp8 => vp8::scan(unit),
        };
        if codec != self.codec {
            self.drain(found);
            (self.name, self.decoder) = open(codec, &self.wanted, self.max_pixels, self.threads)?;
            self.codec = codec;
            self.unproven = self.name == ON_DEVICE;
        }
        if let Some(size) = scan.size {
            self.too_large = (size.pixels() > self.max_pixels).then_some(size);
            let threads = threads_for(size);
            if self.too_large.is_none() && threads != self.threads {
                self.drain(found);
                (self.name, self.decoder) = open(codec, &self.wanted, self.max_pixels, threads)?;
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
        let mut good = self.decode(unit, pts, dts, found);
        if !good && self.unproven {
            // The device opened and cannot decode after all; it was our choice, so we choose again.
            (self.name, self.decoder) = open(codec, "h264", self.max_pixels, self.threads)?;
            self.wanted = "h264".into();
            self.unproven = false;
            good = scan.key && self.decode(unit, pts, dts, found);
            self.waiting = !scan.key;
        } else {
            self.waiting = false;
        }
        Ok(if good { Taken::Decoded } else { Taken::Damaged(Damage::Picture) })
    }

    fn decode(&mut self, unit: &[u8], pts: Option<i64>, dts: Option<i64>, found: &mut dyn FnMut(&Picture)) -> bool {
        let sent = self.decoder.send(unit, pts, dts.or(pts)).is_ok();
        self.take(found) && sent
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
                Ok(true) => {
                    self.unproven = false;
                    found(&self.picture);
                }
                Ok(false) => return true,
                Err(_refused) => return false,
            }
        }
    }
}

/// The name of H.264 decoded by an NVIDIA device.
const ON_DEVICE: &str = "h264 (cuda)";

fn open(codec: VideoCodec, wanted: &str, max_pixels: u64, threads: u32) -> Result<(String, VideoDecoder), MediaError> {
    let try_open = |name: &str, nvidia: bool| {
        VideoDecoder::open(&VideoDecoderSpec { name, threads, max_pixels, frame_threads: false, nvidia, params: None })
    };
    if codec == VideoCodec::Vp8 {
        // The setting names a decoder of H.264.
        return Ok(("vp8".into(), try_open("vp8", false)?));
    }
    if wanted != "auto" {
        return Ok((wanted.into(), try_open(wanted, false)?));
    }
    if super::nvidia_device()
        && let Ok(decoder) = try_open("h264", true)
    {
        return Ok((ON_DEVICE.into(), decoder));
    }
    Ok(("h264".into(), try_open("h264", false)?))
}

fn threads_for(size: Size) -> u32 {
    if size.pixels() <= ONE_THREAD_PIXELS {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4) as u32)
}
