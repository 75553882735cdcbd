//! Pictures in files.

use std::path::{Component, Path};

use crate::workflow::lower::{Cx, LowerError};

/// Most pixels of a picture that is read.
const MAX_PIXELS: u64 = 64 << 20;

/// A picture from a file, 0 to 1.
pub struct Picture {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// (H, W, 3)
    pub rgb: Vec<f32>,
    /// (H, W), where the file has transparency.
    pub alpha: Option<Vec<f32>>,
}

/// Reads the PNG, JPEG or WebP file `name` of the input folder.
///
/// # Errors
/// When it is not there, lies elsewhere, is no picture, or is too large.
pub fn read(cx: &Cx<'_>, input: &str, name: &str) -> Result<Picture, LowerError> {
    // The editor marks files of other folders, as in `a.png [output]`.
    let name = name.strip_suffix(" [input]").unwrap_or(name);
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Err(cx.refuse(
            input,
            format!("{name:?} does not lie in the input folder"),
            "name a file of that folder",
        ));
    }
    let path = cx.env().input.join(name);
    let help = "put a PNG, JPEG or WebP file there";
    let mut reader = image::ImageReader::open(&path)
        .and_then(image::ImageReader::with_guessed_format)
        .map_err(|error| cx.refuse(input, format!("{}: {error}", path.display()), help))?;
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 8);
    reader.limits(limits);
    let picture = reader.decode().map_err(|error| cx.refuse(input, format!("{}: {error}", path.display()), help))?;
    let alpha = picture.color().has_alpha();
    // ComfyUI goes by way of 8 bits.
    let picture = picture.into_rgba8();
    let (width, height) = picture.dimensions();
    let unit = |byte: u8| f32::from(byte) / 255.0;
    let rgb = picture.pixels().flat_map(|pixel| [unit(pixel[0]), unit(pixel[1]), unit(pixel[2])]).collect();
    let alpha = alpha.then(|| picture.pixels().map(|pixel| unit(pixel[3])).collect());
    Ok(Picture { width, height, rgb, alpha })
}
