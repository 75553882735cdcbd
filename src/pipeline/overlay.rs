//! The picture that is sent while a pipeline reloads: never the camera, but a dimmed grey of the last output or plain
//! grey, with a turning arc and a line of text.
//!
//! The parts that stay are drawn once and kept; a frame costs one copy and the arc.

use std::f32::consts::{PI, TAU};
use std::fmt::Write as _;
use std::time::Duration;

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};

use crate::frame::{PixelFormat, Size, VideoFrame};

/// Grey where there is no last output, before it is darkened.
const PLAIN: u8 = 128;
/// Darkening: opacity of black, of 255.
const DARKEN: u32 = 90;
/// Opacity of the arc, of 255.
const ARC_OPACITY: u32 = 230;
/// Places of the arc in one turn.
const PLACES: usize = 32;
/// One turn of the arc.
const TURN: Duration = Duration::from_secs(2);
/// Share of the circle that the arc covers.
const ARC: f32 = 0.75;
/// Width of the dark line around letters, in pixels.
const OUTLINE: i32 = 2;

/// Draws the overlay of one stream. Nothing of a frame is kept but what [`Self::set_background`] takes.
pub struct Overlay {
    size: Size,
    /// Full-range luma of the background, darkened.
    grey: Vec<u8>,
    /// `grey` and the text in the layout of the frames, as of `drawn`.
    base: Vec<u8>,
    drawn: Option<Drawn>,
    message: String,
    line: String,
    text: TextMask,
    /// Coverage of the arc at each place, `arc_side` squared each.
    arcs: Vec<Vec<u8>>,
    arc_side: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Drawn {
    format: PixelFormat,
    full_range: bool,
    seconds: u64,
}

/// Letters and their outline, as coverage of 0–255.
#[derive(Default)]
struct TextMask {
    left: i32,
    top: i32,
    width: usize,
    fill: Vec<u8>,
    line: Vec<u8>,
}

impl Overlay {
    /// An overlay for frames of `size` over plain grey.
    pub fn new(size: Size) -> Self {
        let (arcs, arc_side) = arcs(size);
        Self {
            size,
            grey: vec![darkened(PLAIN); size.pixels() as usize],
            base: Vec::new(),
            drawn: None,
            message: String::new(),
            line: String::new(),
            text: TextMask::default(),
            arcs,
            arc_side,
        }
    }

    /// Takes a dimmed grey of `frame`, the last good output of the same stream, as the background. A frame of another size
    /// changes nothing.
    pub fn set_background(&mut self, frame: &VideoFrame) {
        if frame.size != self.size {
            return;
        }
        let [first, ..] = frame.planes();
        match frame.format {
            PixelFormat::I420 => {
                let tone = Tone::of(frame.format, frame.color.full_range);
                for (grey, &luma) in self.grey.iter_mut().zip(first) {
                    *grey = darkened(tone.to_full(luma));
                }
            }
            PixelFormat::Rgb24 => {
                for (grey, rgb) in self.grey.iter_mut().zip(first.chunks_exact(3)) {
                    // ITU-R BT.601 luma in 16-bit fixed point; the weights add up to 65536.
                    let luma =
                        (19_595 * u32::from(rgb[0]) + 38_470 * u32::from(rgb[1]) + 7_471 * u32::from(rgb[2])) >> 16;
                    *grey = darkened(luma as u8);
                }
            }
        }
        self.drawn = None;
    }

    /// Goes back to plain grey, so that nothing of one stream is seen in the next.
    pub fn clear_background(&mut self) {
        self.grey.fill(darkened(PLAIN));
        self.drawn = None;
    }

    /// Overwrites the pixels of `frame` with the overlay after `elapsed`: the arc turns, and the text is `message` with the
    /// whole seconds behind it, such as `Loading invert… 3 s`. A frame of another size is made plain grey.
    ///
    /// Allocates only when the text changes.
    pub fn draw(&mut self, frame: &mut VideoFrame, message: &str, elapsed: Duration) {
        let tone = Tone::of(frame.format, frame.color.full_range);
        if frame.size != self.size {
            let grey = tone.to_own(darkened(PLAIN));
            let [first, second, third] = frame.planes_mut();
            first.fill(grey);
            second.fill(128);
            third.fill(128);
            return;
        }
        let now = Drawn { format: frame.format, full_range: frame.color.full_range, seconds: elapsed.as_secs() };
        if self.drawn != Some(now) || self.message != message {
            self.redraw(now, message, tone);
        }
        frame.data.copy_from_slice(&self.base);
        let turn = elapsed.as_millis() % TURN.as_millis();
        let place = (turn * PLACES as u128 / TURN.as_millis()) as usize;
        let channels = channels(frame.format);
        let width = self.size.width as usize;
        let left = (width - self.arc_side) / 2;
        let top = (self.size.height as usize - self.arc_side) / 2;
        let [pixels, ..] = frame.planes_mut();
        for (y, row) in self.arcs[place].chunks_exact(self.arc_side).enumerate() {
            let from = ((top + y) * width + left) * channels;
            let target = &mut pixels[from..from + self.arc_side * channels];
            for (pixel, &coverage) in target.chunks_exact_mut(channels).zip(row) {
                if coverage > 0 {
                    let grey = blend(pixel[0], tone.white, u32::from(coverage) * ARC_OPACITY / 255);
                    pixel.fill(grey);
                }
            }
        }
    }

    /// Draws background and text into `base`.
    fn redraw(&mut self, now: Drawn, message: &str, tone: Tone) {
        if self.drawn.is_none_or(|old| old.seconds != now.seconds) || self.message != message || self.line.is_empty() {
            self.message.clear();
            self.message.push_str(message);
            self.line.clear();
            // Writing to a string cannot fail.
            let _ = write!(self.line, "{message} {} s", now.seconds);
            self.text = TextMask::new(&self.line, self.size, self.arc_side);
        }
        let channels = channels(now.format);
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        self.base.resize(now.format.bytes(self.size), 128);
        let (pixels, chroma) = self.base.split_at_mut(width * height * channels);
        chroma.fill(128);
        for (pixel, &grey) in pixels.chunks_exact_mut(channels).zip(&self.grey) {
            pixel.fill(tone.to_own(grey));
        }
        let rows = self
            .text
            .fill
            .chunks_exact(self.text.width.max(1))
            .zip(self.text.line.chunks_exact(self.text.width.max(1)));
        for (y, (fill, line)) in rows.enumerate() {
            let Some(y) = inside(self.text.top, y, height) else { continue };
            for (x, (&fill, &line)) in fill.iter().zip(line).enumerate() {
                let Some(x) = inside(self.text.left, x, width) else { continue };
                if fill > 0 || line > 0 {
                    let at = (y * width + x) * channels;
                    let dark = blend(pixels[at], tone.black, line.into());
                    pixels[at..at + channels].fill(blend(dark, tone.white, fill.into()));
                }
            }
        }
        self.drawn = Some(now);
    }
}

/// `start + offset` where that is in `0..end`.
fn inside(start: i32, offset: usize, end: usize) -> Option<usize> {
    usize::try_from(i64::from(start) + offset as i64).ok().filter(|&at| at < end)
}

/// Bytes of one pixel in the first plane.
fn channels(format: PixelFormat) -> usize {
    match format {
        PixelFormat::I420 => 1,
        PixelFormat::Rgb24 => 3,
    }
}

fn darkened(grey: u8) -> u8 {
    blend(grey, 0, DARKEN)
}

/// `over` with an opacity of 0–255 on `under`.
fn blend(under: u8, over: u8, opacity: u32) -> u8 {
    ((u32::from(under) * (255 - opacity) + u32::from(over) * opacity + 127) / 255) as u8
}

/// How grey is written in frames of one kind.
#[derive(Clone, Copy)]
struct Tone {
    black: u8,
    white: u8,
}

impl Tone {
    fn of(format: PixelFormat, full_range: bool) -> Self {
        match format {
            PixelFormat::I420 if !full_range => Self { black: 16, white: 235 },
            _ => Self { black: 0, white: 255 },
        }
    }

    fn to_own(self, grey: u8) -> u8 {
        self.black + ((u32::from(grey) * u32::from(self.white - self.black) + 127) / 255) as u8
    }

    fn to_full(self, luma: u8) -> u8 {
        let range = u32::from(self.white - self.black);
        let luma = u32::from(luma.clamp(self.black, self.white) - self.black);
        ((luma * 255 + range / 2) / range) as u8
    }
}

/// The arc at each place and the side of its square in pixels.
fn arcs(size: Size) -> (Vec<Vec<u8>>, usize) {
    let short = size.width.min(size.height) as f32;
    let radius = (short * 0.035).max(8.0);
    let stroke = (short * 0.008).max(3.0);
    let side = ((radius + stroke).ceil() as usize * 2).min(size.width.min(size.height) as usize);
    let middle = side as f32 / 2.0;
    let draw = |place: usize| {
        let start = place as f32 / PLACES as f32 * TAU;
        let coverage = |i: usize| {
            let (x, y) = ((i % side) as f32 + 0.5 - middle, (i / side) as f32 + 0.5 - middle);
            let distance = x.hypot(y);
            let across = (stroke / 2.0 + 0.5 - (distance - radius).abs()).clamp(0.0, 1.0);
            // Clockwise from the right, as seen on the screen, and relative to the arc's beginning.
            let angle = (y.atan2(x) - start).rem_euclid(TAU);
            let beyond =
                if angle <= TAU * ARC { angle.min(TAU * ARC - angle) } else { -(angle - TAU * ARC).min(TAU - angle) };
            let along = (beyond.clamp(-PI / 2.0, PI / 2.0).sin() * distance + 0.5).clamp(0.0, 1.0);
            (across * along * 255.0).round() as u8
        };
        (0..side * side).map(coverage).collect()
    };
    ((0..PLACES).map(draw).collect(), side)
}

impl TextMask {
    /// `text` centred above the arc, shrunk where it would not fit the width.
    fn new(text: &str, size: Size, arc_side: usize) -> Self {
        let Ok(font) = FontRef::try_from_slice(dejavu::sans::regular()) else { return Self::default() };
        let short = size.width.min(size.height) as f32;
        let wanted = (short * 0.04).max(14.0);
        let room = size.width as f32 * 0.9;
        let natural = layout(&font, text, wanted).1;
        let height = if natural > room { wanted * room / natural } else { wanted };
        let (glyphs, advance) = layout(&font, text, height);

        let margin = OUTLINE + 1;
        let width = advance.ceil() as usize + 2 * margin as usize;
        let rows = height.ceil() as usize + 2 * margin as usize;
        let mut fill = vec![0_u8; width * rows];
        for glyph in glyphs {
            let Some(outlined) = font.outline_glyph(glyph) else { continue };
            let bounds = outlined.px_bounds();
            let (left, top) = (bounds.min.x as i32 + margin, bounds.min.y as i32 + margin);
            outlined.draw(|x, y, coverage| {
                if let (Some(x), Some(y)) = (inside(left, x as usize, width), inside(top, y as usize, rows)) {
                    let pixel = &mut fill[y * width + x];
                    *pixel = pixel.saturating_add((coverage.clamp(0.0, 1.0) * 255.0).round() as u8);
                }
            });
        }
        let line = widened(&fill, width);
        let left = (size.width as i32 - width as i32) / 2;
        let gap = (height / 2.0) as i32;
        let top = (size.height as i32 - arc_side as i32) / 2 - gap - rows as i32;
        Self { left, top, width, fill, line }
    }
}

/// The glyphs of one line of `height` pixels, and its width in pixels.
fn layout(font: &FontRef<'_>, text: &str, height: f32) -> (Vec<Glyph>, f32) {
    let font = font.as_scaled(PxScale::from(height));
    let mut at = 0.0;
    let mut last = None;
    let mut glyphs = Vec::new();
    for letter in text.chars() {
        let id = font.glyph_id(letter);
        if let Some(last) = last {
            at += font.kern(last, id);
        }
        let mut glyph = font.scaled_glyph(letter);
        glyph.position = point(at, font.ascent());
        at += font.h_advance(id);
        last = Some(id);
        glyphs.push(glyph);
    }
    (glyphs, at)
}

/// The strongest coverage within [`OUTLINE`] pixels of each one.
fn widened(mask: &[u8], width: usize) -> Vec<u8> {
    let rows = mask.len() / width.max(1);
    let mut wide = vec![0; mask.len()];
    for dy in -OUTLINE..=OUTLINE {
        for dx in -OUTLINE..=OUTLINE {
            if dx * dx + dy * dy > OUTLINE * OUTLINE {
                continue;
            }
            for y in 0..rows {
                let Some(from) = inside(dy, y, rows) else { continue };
                for x in 0..width {
                    if let Some(x_from) = inside(dx, x, width) {
                        let pixel = &mut wide[y * width + x];
                        *pixel = (*pixel).max(mask[from * width + x_from]);
                    }
                }
            }
        }
    }
    wide
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::frame::{Color, FrameBuf, Stamps, Timestamp};

    fn frame(size: Size, format: PixelFormat, fill: u8) -> VideoFrame {
        VideoFrame {
            seq: 7,
            pts: Timestamp(1234),
            size,
            format,
            color: Color::default(),
            stamps: Stamps::default(),
            data: FrameBuf::owned(vec![fill; format.bytes(size)]),
        }
    }

    const SIZE: Size = Size::new(512, 384);

    /// Where the picture differs from its plain grey: left, top, right, bottom.
    fn drawn_box(pixels: &[u8], width: usize, rows: std::ops::Range<usize>) -> Option<(usize, usize, usize, usize)> {
        let grey = pixels[0];
        let mut found: Option<(usize, usize, usize, usize)> = None;
        for y in rows {
            for x in 0..width {
                if pixels[y * width + x] != grey {
                    let (l, t, r, b) = found.unwrap_or((x, y, x, y));
                    found = Some((l.min(x), t.min(y), r.max(x), b.max(y)));
                }
            }
        }
        found
    }

    #[test]
    fn nothing_of_the_camera_is_left() {
        let mut overlay = Overlay::new(SIZE);
        for format in [PixelFormat::I420, PixelFormat::Rgb24] {
            let (mut a, mut b) = (frame(SIZE, format, 3), frame(SIZE, format, 250));
            overlay.draw(&mut a, "Loading invert…", Duration::from_secs(3));
            overlay.draw(&mut b, "Loading invert…", Duration::from_secs(3));
            assert_eq!(a.data[..], b.data[..]);
            assert_eq!((a.seq, a.pts), (7, Timestamp(1234)));
        }
    }

    #[test]
    fn text_is_centred_above_a_centred_arc() {
        let mut overlay = Overlay::new(SIZE);
        let mut picture = frame(SIZE, PixelFormat::I420, 0);
        overlay.draw(&mut picture, "Loading invert…", Duration::from_millis(3_200));
        let [y, u, v] = picture.planes();
        assert!(u.iter().chain(v).all(|&c| c == 128), "no colour");
        assert!(y.iter().all(|&y| (16..=235).contains(&y)), "video range");
        let (left, top, right, bottom) = drawn_box(y, 512, 0..170).unwrap();
        assert!(left > 100 && left.abs_diff(511 - right) <= 6, "{left}..{right}");
        assert!(bottom - top < 25, "{top}..{bottom}");
        let (left, top, right, bottom) = drawn_box(y, 512, 170..384).unwrap();
        assert!(left > 230 && right < 282 && top > 170 && bottom < 214, "{left} {top} {right} {bottom}");
        assert!(y.iter().any(|&y| y > 200));
    }

    #[test]
    fn the_arc_turns_once_in_two_seconds() {
        let mut overlay = Overlay::new(SIZE);
        let mut at = |ms| {
            let mut picture = frame(SIZE, PixelFormat::I420, 0);
            overlay.draw(&mut picture, "", Duration::from_millis(ms));
            picture.planes()[0][512 * 170..512 * 214].to_vec()
        };
        let first = at(0);
        let places: Vec<_> = (0..32).map(|i| at(i * 2000 / 32 + 1)).collect();
        for (i, place) in places.iter().enumerate().skip(1) {
            assert!(place != &places[i - 1], "place {i}");
        }
        assert_eq!(first, places[0]);
        assert_eq!(first, at(2_000));
        assert_eq!(first, at(60), "32 places only");
    }

    #[test]
    fn seconds_and_message_change_the_text() {
        let mut overlay = Overlay::new(SIZE);
        let mut text = |message: &str, s| {
            let mut picture = frame(SIZE, PixelFormat::Rgb24, 0);
            overlay.draw(&mut picture, message, Duration::from_secs(s));
            picture.data[..512 * 170 * 3].to_vec()
        };
        assert_ne!(text("Loading", 2), text("Loading", 4));
        assert_ne!(text("Loading", 4), text("Restarting", 4));
        assert_eq!(text("Loading", 4), text("Loading", 4));
    }

    #[test]
    fn background_is_the_dimmed_grey_of_the_last_output() {
        let mut overlay = Overlay::new(SIZE);
        let mut last = frame(SIZE, PixelFormat::Rgb24, 0);
        last.data.chunks_exact_mut(3).for_each(|rgb| rgb.copy_from_slice(&[200, 200, 200]));
        overlay.set_background(&last);
        let mut picture = frame(SIZE, PixelFormat::Rgb24, 0);
        overlay.draw(&mut picture, "", Duration::ZERO);
        // 200 · 165 / 255
        assert_eq!(picture.data[..3], [129, 129, 129]);
        let mut video = frame(SIZE, PixelFormat::I420, 0);
        overlay.draw(&mut video, "", Duration::ZERO);
        assert_eq!(video.data[0], 16 + 111);
        overlay.set_background(&frame(Size::new(64, 64), PixelFormat::Rgb24, 0));
        overlay.draw(&mut picture, "", Duration::ZERO);
        assert_eq!(picture.data[0], 129, "another size changes nothing");
        overlay.clear_background();
        overlay.draw(&mut picture, "", Duration::ZERO);
        assert_eq!(picture.data[0], 83);
    }

    #[test]
    fn odd_sizes_long_texts_and_foreign_frames_are_drawn() {
        for size in [Size::new(1, 1), Size::new(17, 5), Size::new(33, 65), Size::new(1024, 384)] {
            let mut overlay = Overlay::new(size);
            for format in [PixelFormat::I420, PixelFormat::Rgb24] {
                let mut picture = frame(size, format, 9);
                overlay.draw(&mut picture, &"long … ".repeat(40), Duration::from_secs(100_000));
                let mut other = frame(Size::new(64, 48), format, 9);
                overlay.draw(&mut other, "x", Duration::ZERO);
                assert!(other.data.iter().all(|&b| b != 9));
            }
        }
    }
}
