//! Pictures that parameters name: their text, their pixels, and what CLIP sees of them.

use std::borrow::Cow;
use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageReader, Limits};

use crate::models::vision::{DEVIATION, MEAN};
use crate::pipeline::Fetch;

/// Longest side of a picture that is taken, in pixels.
const MOST_SIDE: u32 = 8192;
/// Bytes that decoding a picture may take.
const MOST_MEMORY: u64 = 512 << 20;

/// The two forms of a picture.
enum Form<'a> {
    Url(&'a str),
    Bytes(Vec<u8>),
}

/// The text of a picture, read as far as that needs nothing else. The reasons are those of the replaced runner.
fn form(text: &str) -> Result<Form<'_>, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return match url::Url::parse(text) {
            Ok(url) if url.has_host() => Ok(Form::Url(text)),
            Ok(_) => Err("Failed to fetch image from URL: it has no host".to_owned()),
            Err(error) => Err(format!("Failed to fetch image from URL: {error}")),
        };
    }
    if let Some(rest) = text.strip_prefix("data:") {
        let parts = rest.strip_prefix("image/").and_then(|rest| rest.split_once(";base64,"));
        let kind = |kind: &str| !kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphabetic() || c == '+');
        let Some((_, data)) = parts.filter(|(name, data)| kind(name) && !data.is_empty()) else {
            return Err("Invalid data URI format. Expected format: data:image/<type>;base64,<base64_data>".to_owned());
        };
        let bytes = STANDARD.decode(data).map_err(|error| format!("Invalid base64 encoding in data URI: {error}"))?;
        return Ok(Form::Bytes(bytes));
    }
    let body = text.trim_end_matches('=');
    if body.is_empty() || !body.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'+' || c == b'/') {
        return Err("Invalid format. Must be a valid HTTP/HTTPS URL, data URI, or base64 string".to_owned());
    }
    Ok(Form::Bytes(STANDARD.decode(text).map_err(|error| format!("Invalid base64 encoding: {error}"))?))
}

/// Whether `text` can name a picture. Nothing is fetched or decoded.
pub(super) fn check(text: &str) -> Result<(), String> {
    form(text).map(drop)
}

/// The file that `text` names; `None` when it is to be done without.
pub(super) fn bytes(text: &str, fetch: &dyn Fetch) -> Result<Option<Vec<u8>>, String> {
    match form(text)? {
        Form::Url(url) => fetch.fetch(url),
        Form::Bytes(bytes) => Ok(Some(bytes)),
    }
}

/// A picture, RGB.
pub(super) struct Pixels {
    pub width: u32,
    pub height: u32,
    pub data: Vec<u8>,
}

/// Reads a JPEG, PNG or WebP file. Transparency is left out, as by Pillow's `convert("RGB")`.
pub(super) fn decode(file: &[u8]) -> Result<Pixels, String> {
    let failed = |error: &dyn std::fmt::Display| format!("Failed to decode image data: {error}");
    let format = image::guess_format(file).ok().filter(image::ImageFormat::reading_enabled);
    let format = format.ok_or_else(|| failed(&"a JPEG, PNG or WebP picture is expected"))?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MOST_SIDE), Some(MOST_SIDE));
    limits.max_alloc = Some(MOST_MEMORY);
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    reader.limits(limits);
    let picture = reader.decode().map_err(|error| failed(&error))?.into_rgb8();
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return Err(failed(&"it has no pixels"));
    }
    Ok(Pixels { width, height, data: picture.into_raw() })
}

impl Pixels {
    /// The picture as CLIP's encoder is given it, (3, side, side): the shorter side scaled to `side` with bicubic weights, the
    /// middle cut out, colours around 0. `CLIPImageProcessor` of transformers, over Pillow.
    pub fn seen(&self, side: u32) -> Vec<f32> {
        let long = |other: u32, short: u32| (u64::from(side) * u64::from(other) / u64::from(short)) as u32;
        let (width, height) = match self.width <= self.height {
            true => (side, long(self.height, self.width)),
            false => (long(self.width, self.height), side),
        };
        let scaled = resize(self, width, height);
        let (left, top) = ((width - side) / 2, (height - side) / 2);
        let mut seen = Vec::with_capacity(3 * (side * side) as usize);
        for channel in 0..3 {
            for y in top..top + side {
                for x in left..left + side {
                    let byte = scaled[3 * (y as usize * width as usize + x as usize) + channel];
                    let shade = (f64::from(byte) * (1.0 / 255.0)) as f32;
                    seen.push((shade - MEAN[channel]) / DEVIATION[channel]);
                }
            }
        }
        seen
    }
}

/// Bits behind the point of the weights.
const BITS: u32 = 22;

/// The bicubic kernel with a = −0.5.
fn kernel(x: f64) -> f64 {
    let x = x.abs();
    match x {
        ..1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        1.0..2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
        _ => 0.0,
    }
}

/// For each of `new` places where its weights begin among `old`, and the weights.
fn weights(old: u32, new: u32) -> Vec<(usize, Vec<i64>)> {
    let scale = f64::from(old) / f64::from(new);
    let wide = scale.max(1.0);
    let support = 2.0 * wide;
    let one = |place: u32| {
        let centre = (f64::from(place) + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as u32;
        let end = ((centre + support + 0.5) as u32).min(old);
        let near: Vec<f64> = (first..end).map(|x| kernel((f64::from(x) - centre + 0.5) / wide)).collect();
        let sum: f64 = near.iter().sum();
        let fixed = near.iter().map(|w| (w / sum * f64::from(1_u32 << BITS)).round() as i64).collect();
        (first as usize, fixed)
    };
    (0..new).map(one).collect()
}

/// `picture` at another size with bicubic weights that reach as far as it shrinks: `resize` of Pillow 10.3 to the
/// bit: across first, then down, bytes in between.
pub(super) fn resize(picture: &Pixels, width: u32, height: u32) -> Vec<u8> {
    let byte = |sum: i64| ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8;
    let (old_width, old_height) = (picture.width as usize, picture.height as usize);
    let across: Cow<'_, [u8]> = if picture.width == width {
        Cow::Borrowed(&picture.data)
    } else {
        let all = weights(picture.width, width);
        let mut out = Vec::with_capacity(3 * width as usize * old_height);
        for row in picture.data.chunks_exact(3 * old_width) {
            for (first, near) in &all {
                for channel in 0..3 {
                    let from = row[3 * first + channel..].iter().step_by(3);
                    out.push(byte(near.iter().zip(from).map(|(w, &x)| w * i64::from(x)).sum()));
                }
            }
        }
        Cow::Owned(out)
    };
    if picture.height == height {
        return across.into_owned();
    }
    let line = 3 * width as usize;
    let mut out = Vec::with_capacity(line * height as usize);
    for (first, near) in weights(picture.height, height) {
        for at in 0..line {
            let from = across[first * line + at..].iter().step_by(line);
            out.push(byte(near.iter().zip(from).map(|(w, &x)| w * i64::from(x)).sum()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::pipeline::NoFetch;

    /// As `make_adapter.texture`.
    fn texture(width: u32, height: u32) -> Pixels {
        let byte = |i: u32| {
            let (c, x, y) = (i % 3, i / 3 % width, i / 3 / width);
            let wave = (x * (5 + c) + y * 3 + x * y / 7) % 256;
            (if (x / 9 + y / 11).is_multiple_of(3) { 255 - wave } else { wave }) as u8
        };
        Pixels { width, height, data: (0..3 * width * height).map(byte).collect() }
    }

    #[test]
    fn pictures_are_scaled_as_by_pillow_to_the_bit() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/integration-tests/golden/streamdiffusion/adapter.safetensors");
        let file = std::fs::read(path).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&file).unwrap();
        for (width, height) in [(97, 131), (300, 240), (40, 33), (224, 224), (57, 500)] {
            for side in [56_u32, 224] {
                let want = golden.tensor(&format!("seen-{width}x{height}-{side}")).unwrap();
                let seen = texture(width, height).seen(side);
                let step = (side / 56) as usize;
                let mut got = Vec::new();
                for (channel, plane) in seen.chunks_exact((side * side) as usize).enumerate() {
                    for line in plane.chunks_exact(side as usize).step_by(step) {
                        let byte = |x: &f32| (x * DEVIATION[channel] + MEAN[channel]) * 255.0;
                        got.extend(line.iter().step_by(step).map(|x| byte(x).round() as u8));
                    }
                }
                assert_eq!(got.len(), 3 * 56 * 56);
                assert!(got == want.data(), "{width}x{height} to {side}");
            }
        }
        // The comparison sees a shift by one pixel.
        let (a, b) = (texture(97, 131).seen(56), texture(97, 131).seen(56));
        assert!(a[1..] != b[..b.len() - 1]);
    }

    #[test]
    fn the_text_of_a_picture_is_refused_as_by_the_runner() {
        for (text, reason) in [
            ("ftp://host/x.png", "Invalid format. Must be a valid HTTP/HTTPS URL, data URI, or base64 string"),
            ("some words", "Invalid format. Must be a valid HTTP/HTTPS URL, data URI, or base64 string"),
            ("====", "Invalid format. Must be a valid HTTP/HTTPS URL, data URI, or base64 string"),
            ("data:text/plain;base64,AAAA", "Invalid data URI format."),
            ("data:image/png;base64,", "Invalid data URI format."),
            ("data:image/png,AAAA", "Invalid data URI format."),
            ("data:image/png;base64,A*AA", "Invalid base64 encoding in data URI: "),
            ("AAAAA", "Invalid base64 encoding: "),
            ("https://", "Failed to fetch image from URL: "),
            ("http://[x/", "Failed to fetch image from URL: "),
        ] {
            let said = check(text).unwrap_err();
            assert!(said.starts_with(reason), "{text}: {said}");
        }
        for text in ["https://host/x.jpeg", "http://host", "data:image/svg+xml;base64,AAAA", "AAAA"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        assert!(bytes("http://host/x", &NoFetch).unwrap_err().contains("data URI"));
        assert_eq!(bytes("AAAA", &NoFetch).unwrap(), Some(vec![0; 3]));
    }

    #[test]
    fn files_are_decoded_within_bounds() {
        let png = |width: u32, height: u32| {
            let mut file = Cursor::new(Vec::new());
            image::RgbaImage::from_pixel(width, height, image::Rgba([10, 20, 30, 0]))
                .write_to(&mut file, image::ImageFormat::Png)
                .unwrap();
            file.into_inner()
        };
        let read = decode(&png(3, 2)).unwrap();
        assert_eq!((read.width, read.height, read.data), (3, 2, [10, 20, 30].repeat(6)));
        for broken in [&b"GIF89a"[..], b"", &png(3, 2)[..40], &png(8193, 1)] {
            let said = decode(broken).err().unwrap();
            assert!(said.starts_with("Failed to decode image data: "), "{said}");
        }
    }
}
