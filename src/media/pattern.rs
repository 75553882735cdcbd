//! A moving test picture that carries its own number, and a tone beside it.
//!
//! The number stands in the middle of the picture as 8 × 6 black and white cells, half as wide as the shorter side. It can
//! be read after scaling, centre-cropping, lossy coding and inversion: see [`read`].

use super::transcode::{AudioCoder, RATE};
use super::ts::crc::crc32;
use super::{AudioPacket, MediaError, PacketCodec};
use crate::frame::{FrameBuf, FramePool, PixelFormat, Size, Timestamp, VideoFrame};

const COLUMNS: usize = 8;
const ROWS: usize = 6;
const WHITE: u8 = 235;
const BLACK: u8 = 16;
/// Difference of luma between the cells' two colours that is still read.
const CONTRAST: f64 = 30.0;
/// Y, U and V of the bars: white, yellow, cyan, green, magenta, red, blue, grey at 75 %, BT.601.
const BARS: [[u8; 3]; 8] = [
    [180, 128, 128],
    [162, 44, 142],
    [131, 156, 44],
    [112, 72, 58],
    [84, 184, 198],
    [65, 100, 212],
    [35, 212, 114],
    [90, 128, 128],
];

/// The picture's maker.
pub struct Pattern {
    size: Size,
    fps: f64,
    background: Vec<u8>,
}

impl Pattern {
    /// Pictures of `size`, at least 32 × 32, and `fps` of them a second.
    ///
    /// # Errors
    /// [`MediaError::Config`] for a size or rate outside of what can be drawn.
    pub fn new(size: Size, fps: f64) -> Result<Self, MediaError> {
        if size.width < 32 || size.height < 32 || size.pixels() > 1 << 26 {
            return Err(MediaError::Config { field: "size", reason: format!("{size} is not between 32x32 and 8K") });
        }
        if !(fps.is_finite() && fps > 0.0 && fps <= 1000.0) {
            return Err(MediaError::Config { field: "fps", reason: format!("{fps} is not between 0 and 1000") });
        }
        let mut pattern = Self { size, fps, background: vec![0; PixelFormat::I420.bytes(size)] };
        pattern.paint_background();
        Ok(pattern)
    }

    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Pictures a second.
    pub fn fps(&self) -> f64 {
        self.fps
    }

    /// The time of picture `number`.
    pub fn pts(&self, number: u32) -> Timestamp {
        Timestamp((f64::from(number) * Timestamp::HZ as f64 / self.fps).round() as i64)
    }

    /// Picture `number`, I420, from `pool`; `None` when the pool is empty.
    pub fn frame(&self, number: u32, pool: &FramePool) -> Option<VideoFrame> {
        let frame = VideoFrame::take(pool, self.size, PixelFormat::I420, self.pts(number))?;
        Some(self.paint(number, frame))
    }

    /// As [`Self::frame`] in a buffer of its own.
    pub fn owned_frame(&self, number: u32) -> VideoFrame {
        let frame = VideoFrame {
            seq: 0,
            pts: self.pts(number),
            size: self.size,
            format: PixelFormat::I420,
            color: Default::default(),
            stamps: Default::default(),
            data: FrameBuf::owned(vec![0; self.background.len()]),
        };
        self.paint(number, frame)
    }

    fn paint(&self, number: u32, mut frame: VideoFrame) -> VideoFrame {
        frame.seq = u64::from(number);
        frame.data.copy_from_slice(&self.background);
        // A block that crosses the lower part once in four seconds and comes back.
        let (w, h) = (self.size.width as usize, self.size.height as usize);
        let side = (w.min(h) / 8).max(2);
        let phase = (f64::from(number) / self.fps / 4.0).fract();
        let swing = if phase < 0.5 { phase * 2.0 } else { 2.0 - phase * 2.0 };
        let x = ((w - side) as f64 * swing).round() as usize;
        let y = h - side - h / 32;
        fill(&mut frame, (x, y), (x + side, y + side), [WHITE, 128, 128]);
        let word = encode(number);
        let grid = Grid::of(self.size, self.size.width.min(self.size.height) as f64);
        for index in 0..COLUMNS * ROWS {
            let (from, to) = grid.cell(index);
            let luma = if word >> index & 1 == 1 { WHITE } else { BLACK };
            let [y_plane, ..] = frame.planes_mut();
            for row in y_plane.chunks_exact_mut(w).take(to.1).skip(from.1) {
                row[from.0..to.0].fill(luma);
            }
        }
        frame
    }

    fn paint_background(&mut self) {
        let (w, h) = (self.size.width as usize, self.size.height as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        let (luma, chroma) = self.background.split_at_mut(w * h);
        let (u, v) = chroma.split_at_mut(cw * ch);
        for (plane, width, which) in [(luma, w, 0), (u, cw, 1), (v, cw, 2)] {
            let mut rows = plane.chunks_exact_mut(width);
            let Some(first) = rows.next() else { continue };
            for (x, sample) in first.iter_mut().enumerate() {
                *sample = BARS[x * BARS.len() / width][which];
            }
            let first: &[u8] = first;
            rows.for_each(|row| row.copy_from_slice(first));
        }
        // Grey around and behind the number.
        let grid = Grid::of(self.size, self.size.width.min(self.size.height) as f64);
        let (from, to) = (grid.at(-0.5, -0.5), grid.at(COLUMNS as f64 + 0.5, ROWS as f64 + 0.5));
        let background = std::mem::take(&mut self.background);
        let mut frame = VideoFrame {
            seq: 0,
            pts: Timestamp(0),
            size: self.size,
            format: PixelFormat::I420,
            color: Default::default(),
            stamps: Default::default(),
            data: FrameBuf::owned(background),
        };
        fill(&mut frame, from, to, [126, 128, 128]);
        self.background = frame.data.to_vec();
    }
}

fn fill(frame: &mut VideoFrame, from: (usize, usize), to: (usize, usize), color: [u8; 3]) {
    let w = frame.size.width as usize;
    let cw = w.div_ceil(2);
    for (index, plane) in frame.planes_mut().into_iter().enumerate() {
        let (width, shift) = if index == 0 { (w, 0) } else { (cw, 1) };
        for row in plane.chunks_exact_mut(width).take(to.1.div_ceil(1 << shift)).skip(from.1 >> shift) {
            row[from.0 >> shift..to.0.div_ceil(1 << shift).min(width)].fill(color[index]);
        }
    }
}

/// Where the cells lie in a picture.
struct Grid {
    center: (f64, f64),
    cell: f64,
    size: (usize, usize),
}

impl Grid {
    /// `side` is what the shorter side of the original has become in this picture, in pixels.
    fn of(size: Size, side: f64) -> Self {
        Self {
            center: (f64::from(size.width) / 2.0, f64::from(size.height) / 2.0),
            cell: side / (2 * COLUMNS) as f64,
            size: (size.width as usize, size.height as usize),
        }
    }

    fn at(&self, column: f64, row: f64) -> (usize, usize) {
        let x = self.center.0 + (column - COLUMNS as f64 / 2.0) * self.cell;
        let y = self.center.1 + (row - ROWS as f64 / 2.0) * self.cell;
        ((x.round().max(0.0) as usize).min(self.size.0), (y.round().max(0.0) as usize).min(self.size.1))
    }

    /// Corners of a cell.
    fn cell(&self, index: usize) -> ((usize, usize), (usize, usize)) {
        let (column, row) = ((index % COLUMNS) as f64, (index / COLUMNS) as f64);
        (self.at(column, row), self.at(column + 1.0, row + 1.0))
    }

    /// Corners of the inner half of a cell.
    fn inside(&self, index: usize) -> ((usize, usize), (usize, usize)) {
        let (column, row) = ((index % COLUMNS) as f64, (index / COLUMNS) as f64);
        let (from, mut to) = (self.at(column + 0.25, row + 0.25), self.at(column + 0.75, row + 0.75));
        to.0 = to.0.max(from.0 + 1).min(self.size.0);
        to.1 = to.1.max(from.1 + 1).min(self.size.1);
        (from, to)
    }
}

/// The 48 bits that stand for a number: itself and a checksum.
fn encode(number: u32) -> u64 {
    u64::from(number) | u64::from(check(number)) << 32
}

fn check(number: u32) -> u16 {
    (crc32(&number.to_le_bytes()) >> 16) as u16 ^ 0x5A5A
}

fn decode(word: u64) -> Option<u32> {
    let number = word as u32;
    ((word >> 32) as u16 == check(number)).then_some(number)
}

/// What a picture says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The picture's number.
    pub number: u32,
    /// Whether black and white are exchanged.
    pub inverted: bool,
}

/// Reads the number of a [`Pattern`] picture, whatever size it has been scaled or centre-cropped to.
pub fn read(frame: &VideoFrame) -> Option<Reading> {
    let (w, h) = (f64::from(frame.size.width), f64::from(frame.size.height));
    // What the original's shorter side may be now: the shorter or longer side, or that of a 4:3 or 16:9 original.
    let sides = [w.min(h), w.max(h), w * 0.75, w * 0.5625, h * 0.75, h * 0.5625];
    sides.into_iter().find_map(|side| read_at(frame, &Grid::of(frame.size, side)))
}

/// The number alone, inverted or not.
pub fn read_counter(frame: &VideoFrame) -> Option<u32> {
    read(frame).map(|reading| reading.number)
}

fn read_at(frame: &VideoFrame, grid: &Grid) -> Option<Reading> {
    let width = frame.size.width as usize;
    let [luma, ..] = frame.planes();
    let sample = |x: usize, y: usize| match frame.format {
        PixelFormat::I420 => u32::from(luma[y * width + x]),
        PixelFormat::Rgb24 => luma[(y * width + x) * 3..][..3].iter().map(|&v| u32::from(v)).sum::<u32>() / 3,
    };
    let mut means = [0.0; COLUMNS * ROWS];
    for (index, mean) in means.iter_mut().enumerate() {
        let (from, to) = grid.inside(index);
        let count = (to.0.saturating_sub(from.0) * to.1.saturating_sub(from.1)) as u32;
        if count == 0 {
            return None;
        }
        let sum: u32 =
            (from.1..to.1).flat_map(|y| (from.0..to.0).map(move |x| (x, y))).map(|(x, y)| sample(x, y)).sum();
        *mean = f64::from(sum) / f64::from(count);
    }
    let (low, high) = means.iter().fold((f64::MAX, f64::MIN), |(low, high), &m| (low.min(m), high.max(m)));
    if high - low < CONTRAST {
        return None;
    }
    let middle = (low + high) / 2.0;
    let word = means.iter().enumerate().fold(0u64, |word, (i, &m)| word | u64::from(m > middle) << i);
    let mask = (1u64 << (COLUMNS * ROWS)) - 1;
    decode(word)
        .map(|number| Reading { number, inverted: false })
        .or_else(|| decode(!word & mask).map(|number| Reading { number, inverted: true }))
}

/// A sine tone as AAC packets.
pub struct Tone {
    coder: AudioCoder,
    hertz: f64,
    channels: u8,
    sample: u64,
}

impl Tone {
    /// A tone of `hertz` that begins at time 0, on one or two channels.
    ///
    /// # Errors
    /// FFmpeg has no AAC encoder, or it does not open.
    pub fn new(hertz: f64, channels: u8) -> Result<Self, MediaError> {
        let channels = channels.clamp(1, 2);
        let mut coder = AudioCoder::new(PacketCodec::Aac, channels, 64)?;
        coder.anchor(0, &mut |_| {})?;
        Ok(Self { coder, hertz, channels, sample: 0 })
    }

    /// Gives the packets up to time `until`, from where the last call ended.
    ///
    /// # Errors
    /// The encoder failed.
    pub fn until(&mut self, until: Timestamp, out: &mut dyn FnMut(AudioPacket)) -> Result<(), MediaError> {
        while self.coder.next_time().is_some_and(|next| next < until.0) {
            for _ in 0..1024 {
                let angle = self.sample as f64 * self.hertz / f64::from(RATE);
                let value = ((angle.fract() * std::f64::consts::TAU).sin() * 0.25) as f32;
                self.coder.fifo().extend(std::iter::repeat_n(value, usize::from(self.channels)));
                self.sample += 1;
            }
            self.coder.encode(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_number_is_the_inverse_of_another() {
        // The checksum is affine, so one number speaks for all.
        assert_ne!(check(0) ^ check(!0), 0xFFFF);
    }

    #[test]
    fn inverted_pictures_are_told() {
        let mut frame = Pattern::new(Size::new(640, 360), 30.0).unwrap().owned_frame(77);
        assert_eq!(read(&frame), Some(Reading { number: 77, inverted: false }));
        frame.data.iter_mut().for_each(|b| *b = 255 - *b);
        assert_eq!(read(&frame), Some(Reading { number: 77, inverted: true }));
    }

    #[test]
    fn drawing_is_cheap() {
        let pattern = Pattern::new(Size::new(512, 512), 30.0).unwrap();
        let pool = FramePool::new(1);
        let best = (0..50)
            .map(|n| {
                let start = std::time::Instant::now();
                drop(pattern.frame(n, &pool).unwrap());
                start.elapsed()
            })
            .min();
        assert!(best.unwrap() < std::time::Duration::from_millis(2), "{best:?}");
    }

    proptest! {
        #[test]
        fn every_number_at_every_size(number: u32, w in 16u32..200, h in 16u32..200) {
            let frame = Pattern::new(Size::new(w * 2, h * 2), 30.0).unwrap().owned_frame(number);
            prop_assert_eq!(read_counter(&frame), Some(number));
        }
    }
}
