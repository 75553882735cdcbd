//! JPEG pictures of frames.

use bytes::Bytes;
use ffmpeg_next::ffi::AVPixelFormat;

use super::ffi::{Image, Picture, Scaler, VideoEncoder, VideoEncoderSpec};
use super::{MediaError, codec_error};
use crate::frame::{Color, Matrix, Size, VideoFrame};

/// JPEG is always BT.601 in full range.
const JPEG: Color = Color { matrix: Matrix::Bt601, full_range: true, tagged: true };

/// An encoder that follows the frames' size.
pub struct JpegEncoder {
    quality: u32,
    open: Option<(Size, VideoEncoder, Picture)>,
    scaler: Scaler,
    clock: i64,
}

impl JpegEncoder {
    /// `quality` from 2, the best, to 31.
    pub fn new(quality: u32) -> Self {
        Self { quality: quality.clamp(2, 31), open: None, scaler: Scaler::default(), clock: 0 }
    }

    /// The frame as a JPEG file.
    ///
    /// # Errors
    /// The encoder does not open, or refused the frame.
    pub fn encode(&mut self, frame: &VideoFrame) -> Result<Bytes, MediaError> {
        if self.open.as_ref().is_none_or(|(size, ..)| *size != frame.size) {
            let quality = self.quality.to_string();
            let encoder = VideoEncoder::open(&VideoEncoderSpec {
                name: "mjpeg",
                size: frame.size,
                fps: 30.0,
                frame_ticks: 0,
                color: JPEG,
                format: AVPixelFormat::AV_PIX_FMT_YUVJ420P,
                threads: 1,
                global_header: false,
                max_rate: 0,
                gop: 1,
                options: &[("qmin", &quality), ("qmax", &quality)],
            })?;
            let picture = Picture::allocate(frame.size, AVPixelFormat::AV_PIX_FMT_YUVJ420P)
                .map_err(|e| codec_error("a picture for the encoder", e))?;
            self.open = Some((frame.size, encoder, picture));
        }
        let Some((_, encoder, picture)) = &mut self.open else {
            return Err(MediaError::NoCodec { role: "video encoder", name: "mjpeg".into() });
        };
        let image = Image { data: &frame.data, size: frame.size, format: frame.format };
        self.scaler
            .image_to_picture(&image, frame.color, picture, JPEG)
            .map_err(|e| codec_error("conversion to JPEG", e))?;
        let mut bytes = Bytes::new();
        self.clock += 1;
        encoder.encode_picture(picture, self.clock, true, &mut |packet| bytes = Bytes::copy_from_slice(packet.data))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::pattern::Pattern;

    #[test]
    fn pictures_of_changing_size() {
        let mut jpeg = JpegEncoder::new(4);
        for size in [Size::new(512, 512), Size::new(320, 180), Size::new(333, 77)] {
            let bytes = jpeg.encode(&Pattern::new(size, 30.0).unwrap().owned_frame(1)).unwrap();
            assert_eq!(bytes[..3], [0xFF, 0xD8, 0xFF]);
            assert_eq!(bytes[bytes.len() - 2..], [0xFF, 0xD9]);
            assert!(bytes.len() < 100_000);
        }
    }

    #[test]
    fn limited_range_becomes_full() {
        let mut frame = Pattern::new(Size::new(64, 48), 30.0).unwrap().owned_frame(1);
        assert!(!frame.color.full_range);
        frame.data[..64 * 48].fill(64);
        frame.data[64 * 48..].fill(128);
        let bytes = JpegEncoder::new(2).encode(&frame).unwrap();
        let rgb = image::load_from_memory(&bytes).unwrap().to_rgb8();
        // (64 − 16) · 255 ⁄ 219
        assert!(
            rgb.pixels().all(|pixel| pixel.0.iter().all(|&level| level.abs_diff(56) <= 1)),
            "{:?}",
            rgb.get_pixel(9, 9)
        );
    }
}
