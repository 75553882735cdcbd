//! One picture through a model that no stream uses at the moment.

use std::io::Cursor;
use std::time::{Duration, Instant};

use image::{ImageFormat, ImageReader, Limits};
use tokio::sync::oneshot;

use crate::frame::{FrameBuf, FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use crate::media::FrameConverter;
use crate::pipeline::{Checked, FrameProcessor};

/// Longest side of a picture that is taken, in pixels.
const MOST_SIDE: u32 = 8192;
/// Bytes that decoding a picture may take.
const MOST_MEMORY: u64 = 512 << 20;

/// What a picture is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Without loss.
    Png,
    /// Quality 90 of 100.
    Jpeg,
}

impl Format {
    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "png" => Some(Self::Png),
            "jpeg" | "jpg" => Some(Self::Jpeg),
            _ => None,
        }
    }
}

/// A picture that came out.
#[derive(Debug)]
pub struct Done {
    /// As it was asked for.
    pub file: Vec<u8>,
    /// Its size.
    pub size: Size,
    /// Time that the model worked.
    pub model: Duration,
}

/// Why none did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file is no picture that can be taken.
    Picture(String),
    /// The model.
    Model(String),
}

/// An order for a model thread.
pub struct Job {
    /// A PNG or JPEG file.
    pub file: Vec<u8>,
    /// Parameters.
    pub params: Checked,
    /// How often the model gets the picture; the last output counts.
    pub passes: u32,
    /// What comes out.
    pub format: Format,
    /// Gets the result.
    pub done: oneshot::Sender<Result<Done, Fault>>,
}

/// Reads a PNG or JPEG file.
///
/// # Errors
/// It is neither, is broken, or is too large.
pub fn read(file: &[u8]) -> Result<VideoFrame, Fault> {
    let wrong = |why: String| Fault::Picture(why);
    let format = image::guess_format(file).ok().filter(|format| matches!(format, ImageFormat::Png | ImageFormat::Jpeg));
    let format = format.ok_or_else(|| wrong("a PNG or JPEG picture is expected".into()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_SIDE);
    limits.max_image_height = Some(MOST_SIDE);
    limits.max_alloc = Some(MOST_MEMORY);
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    reader.limits(limits);
    let picture = reader.decode().map_err(|error| wrong(format!("the picture cannot be read: {error}")))?.into_rgb8();
    let size = Size::new(picture.width(), picture.height());
    Ok(frame(size, PixelFormat::Rgb24, picture.into_raw()))
}

fn frame(size: Size, format: PixelFormat, bytes: Vec<u8>) -> VideoFrame {
    VideoFrame {
        seq: 0,
        pts: Timestamp(0),
        size,
        format,
        color: Default::default(),
        stamps: Default::default(),
        data: FrameBuf::owned(bytes),
    }
}

/// Runs a picture through `processor`, whose parameters are in force: scaled until it covers `size`, and cropped in the
/// middle, as pictures of a stream are.
///
/// # Errors
/// [`Fault`]; the processor stays usable.
pub fn run(
    processor: &mut dyn FrameProcessor,
    pool: &FramePool,
    picture: &VideoFrame,
    size: Size,
    passes: u32,
    format: Format,
) -> Result<Done, Fault> {
    let wrong = |error: &dyn std::fmt::Display| Fault::Model(error.to_string());
    let mut converter = FrameConverter::default();
    let mut out = None;
    let mut model = Duration::ZERO;
    for pass in 0..passes.max(1) {
        let mut input = VideoFrame::take(pool, size, processor.format(), Timestamp(i64::from(pass) * 3000))
            .ok_or_else(|| Fault::Model("there is no buffer for the picture".into()))?;
        input.seq = u64::from(pass);
        converter.convert(picture, &mut input).map_err(|error| wrong(&error))?;
        let began = Instant::now();
        out = Some(processor.process(input).map_err(|error| wrong(&error))?);
        model += began.elapsed();
    }
    let out = out.ok_or_else(|| Fault::Model("nothing came out".into()))?;
    let mut rgb = frame(out.size, PixelFormat::Rgb24, vec![0; PixelFormat::Rgb24.bytes(out.size)]);
    FrameConverter::default().convert(&out, &mut rgb).map_err(|error| wrong(&error))?;
    let mut file = Vec::new();
    let (width, height) = (out.size.width, out.size.height);
    let rgb8 = image::ExtendedColorType::Rgb8;
    let written = match format {
        Format::Png => {
            use image::ImageEncoder;
            image::codecs::png::PngEncoder::new(&mut file).write_image(&rgb.data, width, height, rgb8)
        }
        Format::Jpeg => {
            image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 90).encode(&rgb.data, width, height, rgb8)
        }
    };
    written.map_err(|error| wrong(&error))?;
    Ok(Done { file, size: out.size, model })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn png(size: Size, color: [u8; 3]) -> Vec<u8> {
        use image::ImageEncoder;
        let bytes: Vec<u8> = color.iter().copied().cycle().take(size.pixels() as usize * 3).collect();
        let mut file = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut file);
        encoder.write_image(&bytes, size.width, size.height, image::ExtendedColorType::Rgb8).unwrap();
        file
    }

    #[test]
    fn pictures_are_read_and_nothing_else() {
        let picture = read(&png(Size::new(64, 48), [10, 20, 30])).unwrap();
        assert_eq!((picture.size, &picture.data[..3]), (Size::new(64, 48), &[10, 20, 30][..]));
        let mut cut = png(Size::new(64, 48), [0; 3]);
        cut.truncate(60);
        for wrong in [&cut[..], b"", b"GIF89a", b"<svg/>", b"\xff\xd8\xff\xe0"] {
            assert!(matches!(read(wrong), Err(Fault::Picture(_))), "{wrong:?}");
        }
        // A header that promises more than is taken.
        let mut vast = png(Size::new(64, 48), [0; 3]);
        vast[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        assert!(matches!(read(&vast), Err(Fault::Picture(_))));
    }
}
