//! From a decoded picture to a frame of the wanted size and layout.

use super::ffi::{ImageMut, Picture, Rect, Scaler};
use super::{MediaError, codec_error};
use crate::frame::{PixelFormat, Size, VideoFrame};

/// The part of a picture of size `source` that fills `target`: as large as it can be with the target's aspect, in the
/// middle. Scaling it to `target` is the same as scaling the whole until it covers the target and cropping the centre.
/// Offsets, and the side that is cut, are even.
pub(super) fn cover(source: Size, target: Size) -> Rect {
    let (sw, sh) = (u64::from(source.width), u64::from(source.height));
    let (tw, th) = (u64::from(target.width.max(1)), u64::from(target.height.max(1)));
    let even = |part: u64, whole: u64| if part >= whole { whole } else { (part & !1).max(2).min(whole) };
    let (w, h) = if tw * sh >= th * sw { (sw, even(sw * th / tw, sh)) } else { (even(sh * tw / th, sw), sh) };
    Rect { x: ((sw - w) / 2) as u32 & !1, y: ((sh - h) / 2) as u32 & !1, size: Size::new(w as u32, h as u32) }
}

/// Scales, crops and converts in one pass, or copies where nothing is to be changed.
#[derive(Default)]
pub(super) struct Converter {
    scaler: Scaler,
}

impl Converter {
    /// Fills `frame`, whose size and format say what is wanted, and sets its colour.
    ///
    /// # Errors
    /// A pixel format that FFmpeg's scaler cannot read.
    pub fn convert(&mut self, picture: &Picture, frame: &mut VideoFrame) -> Result<(), MediaError> {
        frame.color = picture.color();
        if picture.size() == frame.size && frame.format == PixelFormat::I420 && picture.is_i420() {
            let (w, h) = (frame.size.width as usize, frame.size.height as usize);
            let shapes = [(w, h), (w.div_ceil(2), h.div_ceil(2)), (w.div_ceil(2), h.div_ceil(2))];
            for (index, (plane, (bytes, rows))) in frame.planes_mut().into_iter().zip(shapes).enumerate() {
                for (to, from) in plane.chunks_exact_mut(bytes).zip(picture.rows(index, bytes, rows)) {
                    to.copy_from_slice(from);
                }
            }
            return Ok(());
        }
        let rect = cover(picture.size(), frame.size);
        let (size, format, color) = (frame.size, frame.format, frame.color);
        self.scaler
            .picture_to_image(picture, rect, color, ImageMut { data: &mut frame.data, size, format })
            .map_err(|e| codec_error(format!("conversion from {}", picture.format_name()), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sides_are_cut_as_the_contract_cuts_them() {
        let rect = |sw, sh, tw, th| {
            let r = cover(Size::new(sw, sh), Size::new(tw, th));
            (r.x, r.y, r.size.width, r.size.height)
        };
        assert_eq!(rect(512, 512, 512, 512), (0, 0, 512, 512));
        assert_eq!(rect(1280, 720, 512, 512), (280, 0, 720, 720));
        assert_eq!(rect(720, 1280, 512, 512), (0, 280, 720, 720));
        assert_eq!(rect(640, 480, 1280, 720), (0, 60, 640, 360));
        assert_eq!(rect(1, 1, 512, 512), (0, 0, 1, 1));
    }

    proptest! {
        #[test]
        fn the_part_lies_inside_and_is_as_large_as_it_can_be(
            sw in 1u32..5000, sh in 1u32..5000, tw in 1u32..3000, th in 1u32..3000
        ) {
            let r = cover(Size::new(sw, sh), Size::new(tw, th));
            prop_assert!((r.x | r.y) & 1 == 0);
            prop_assert!(r.x + r.size.width <= sw && r.y + r.size.height <= sh);
            prop_assert!(r.size.width == sw || r.size.height == sh);
            prop_assert!(r.size.width > 0 && r.size.height > 0);
        }
    }
}
