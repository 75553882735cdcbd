//! From one frame to another of a different size or layout.

use ffmpeg_next::ffi::AVPixelFormat;

use super::convert::cover;
use super::ffi::{ImageMut, Picture, Scaler};
use super::{MediaError, codec_error};
use crate::frame::{PixelFormat, VideoFrame};

/// Scales, crops and converts frames as [`super::Input`] does with decoded pictures. Keeps its tables between frames.
#[derive(Default)]
pub struct FrameConverter {
    scaler: Scaler,
    picture: Option<Picture>,
}

impl FrameConverter {
    /// Fills `to`, whose size and format say what is wanted, with the picture of `from`: scaled until it covers the size,
    /// and cropped in the middle. The colour is taken over; everything else of `to` stays.
    ///
    /// # Errors
    /// Memory for a picture of this size is not to be had.
    pub fn convert(&mut self, from: &VideoFrame, to: &mut VideoFrame) -> Result<(), MediaError> {
        to.color = from.color;
        if (from.size, from.format) == (to.size, to.format) {
            to.data.copy_from_slice(&from.data);
            return Ok(());
        }
        let wrong = |e| codec_error("conversion of a frame", e);
        let format = match from.format {
            PixelFormat::Rgb24 => AVPixelFormat::AV_PIX_FMT_RGB24,
            PixelFormat::I420 => AVPixelFormat::AV_PIX_FMT_YUV420P,
        };
        let fits = |picture: &Picture| picture.size() == from.size && picture.format() == format as i32;
        let mut picture = match self.picture.take().filter(fits) {
            Some(picture) => picture,
            None => Picture::allocate(from.size, format).map_err(wrong)?,
        };
        let (w, h) = (from.size.width as usize, from.size.height as usize);
        let shapes = match from.format {
            PixelFormat::Rgb24 => [(3 * w, h), (0, 0), (0, 0)],
            PixelFormat::I420 => [(w, h), (w.div_ceil(2), h.div_ceil(2)), (w.div_ceil(2), h.div_ceil(2))],
        };
        for (index, (plane, (bytes, rows))) in from.planes().into_iter().zip(shapes).enumerate() {
            if rows > 0 && !picture.fill(index, bytes, rows, plane) {
                return Err(codec_error("conversion of a frame", super::ffi::AvError(-libc::EINVAL)));
            }
        }
        let (size, format, color) = (to.size, to.format, to.color);
        let rect = cover(from.size, size);
        let target = ImageMut { data: &mut to.data, size, format };
        self.scaler.picture_to_image(&picture, rect, color, target).map_err(wrong)?;
        self.picture = Some(picture);
        Ok(())
    }
}
