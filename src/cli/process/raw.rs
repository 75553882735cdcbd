//! Raw `rgb24`: frames of `width × height × 3` bytes after one another, no header, no padding.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::ProcessError;
use super::stages::{Buffers, Item, Sink, Source};
use crate::frame::{Color, FrameBuf, PixelFormat, Size, Stamps, Timestamp, VideoFrame};
use crate::media::FrameConverter;

/// How long a read waits before it looks whether it is to stop, in milliseconds.
const LOOK_MS: u16 = 100;

/// Frames a second as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    num: u32,
    den: u32,
}

impl Rate {
    /// The time of frame `index`, 90 kHz, rounded down.
    pub fn time(self, index: u64) -> Timestamp {
        let ticks = i128::from(index) * i128::from(Timestamp::HZ) * i128::from(self.den) / i128::from(self.num);
        Timestamp(i64::try_from(ticks).unwrap_or(i64::MAX))
    }

    /// Frames a second.
    pub fn fps(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self { num: 30, den: 1 }
    }
}

impl std::str::FromStr for Rate {
    type Err = String;

    /// Reads `30`, `29.97` or `30000/1001`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no frame rate; expected 30, 29.97 or 30000/1001, above 0 and at most 1000");
        let (num, den) = match text.split_once('/') {
            Some((num, den)) => (num.parse().map_err(|_| wrong())?, den.parse().map_err(|_| wrong())?),
            None => {
                let fps: f64 = text.parse().map_err(|_| wrong())?;
                if !(0.001..=1000.0).contains(&fps) {
                    return Err(wrong());
                }
                ((fps * 1000.0).round() as u32, 1000)
            }
        };
        if num == 0 || den == 0 || u64::from(num) > 1000 * u64::from(den) {
            return Err(wrong());
        }
        Ok(Self { num, den })
    }
}

/// Reads `512x512`.
///
/// # Errors
/// Says what is expected.
pub fn size(text: &str) -> Result<Size, String> {
    let wrong = || format!("`{text}` is no size; expected WIDTHxHEIGHT in pixels, such as 512x512, at most 16384 each");
    let (width, height) = text.split_once('x').ok_or_else(wrong)?;
    let side = |text: &str| text.parse().ok().filter(|side| (1..=16384).contains(side)).ok_or_else(wrong);
    Ok(Size::new(side(width)?, side(height)?))
}

/// A raw file, or standard input.
pub struct RawSource {
    path: String,
    file: File,
    size: Size,
    rate: Rate,
    /// The file may make a read wait: a pipe or a terminal.
    waits: bool,
    length: Option<u64>,
    repeats: u32,
}

impl RawSource {
    /// Opens `path`, `-` for standard input, to be read `repeats` times.
    ///
    /// # Errors
    /// The file is not there, or cannot be read again.
    pub fn open(path: &Path, size: Size, rate: Rate, repeats: u32) -> Result<Self, ProcessError> {
        let name = path.display().to_string();
        let wrong = |reason: String| ProcessError::Input { path: name.clone(), reason };
        let file = match name.as_str() {
            "-" => File::from(io::stdin().as_fd().try_clone_to_owned().map_err(|e| wrong(e.to_string()))?),
            _ => File::open(path).map_err(|error| wrong(error.to_string()))?,
        };
        let about = file.metadata().map_err(|error| wrong(error.to_string()))?;
        if about.is_dir() {
            return Err(wrong("it is a directory".into()));
        }
        let length = about.is_file().then_some(about.len());
        if repeats > 1 && length.is_none() {
            return Err(ProcessError::Usage("--repeat needs a file that can be read again".into()));
        }
        if length == Some(0) {
            return Err(wrong("it is empty".into()));
        }
        Ok(Self { path: name, file, size, rate, waits: length.is_none(), length, repeats })
    }

    /// Fills `buffer`. Returns how much of it there was before the end, or `None` when told to stop.
    fn fill(&mut self, buffer: &mut [u8], stop: &AtomicBool) -> Result<Option<usize>, ProcessError> {
        let mut got = 0;
        while got < buffer.len() {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if self.waits && !readable(self.file.as_fd()) {
                continue;
            }
            match self.file.read(&mut buffer[got..]) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(ProcessError::Input { path: self.path.clone(), reason: error.to_string() });
                }
            }
        }
        Ok(Some(got))
    }
}

/// Waits a moment for something to read, the end included.
fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    // An error here shows in the read.
    !matches!(poll(&mut fds, PollTimeout::from(LOOK_MS)), Ok(0))
}

impl Source for RawSource {
    fn size(&self) -> Option<Size> {
        Some(self.size)
    }

    fn frames(&self) -> Option<u64> {
        let frame = PixelFormat::Rgb24.bytes(self.size) as u64;
        self.length.map(|length| length / frame * u64::from(self.repeats))
    }

    fn fps(&self) -> Option<f64> {
        Some(self.rate.fps())
    }

    fn read(&mut self, buffers: &Buffers<'_>, give: &mut dyn FnMut(Item) -> bool) -> Result<(), ProcessError> {
        let bytes = PixelFormat::Rgb24.bytes(self.size);
        let direct = buffers.size == self.size && buffers.format == PixelFormat::Rgb24;
        let mut converter = FrameConverter::default();
        let mut own = VideoFrame {
            seq: 0,
            pts: Timestamp(0),
            size: self.size,
            format: PixelFormat::Rgb24,
            color: Color::default(),
            stamps: Stamps::default(),
            data: FrameBuf::owned(vec![0; if direct { 0 } else { bytes }]),
        };
        let (mut index, mut turn) = (0, 1);
        loop {
            let Some(mut frame) = buffers.take(self.rate.time(index))? else { return Ok(()) };
            let target = if direct { &mut frame } else { &mut own };
            match self.fill(&mut target.data, buffers.stop)? {
                None => return Ok(()),
                Some(0) if turn < self.repeats => {
                    turn += 1;
                    let again = io::Seek::rewind(&mut self.file);
                    again.map_err(|e| ProcessError::Input { path: self.path.clone(), reason: e.to_string() })?;
                    continue;
                }
                Some(0) => return Ok(()),
                Some(got) if got < bytes => {
                    return Err(ProcessError::Truncated { path: self.path.clone(), frame: index, got, want: bytes });
                }
                Some(_) => {}
            }
            if !direct {
                converter.convert(&own, &mut frame)?;
            }
            frame.seq = index;
            index += 1;
            if !give(Item::Video(frame)) {
                return Ok(());
            }
        }
    }
}

/// A raw file, or standard output.
pub struct RawSink {
    path: String,
    file: File,
    converter: FrameConverter,
    /// Frames of another layout are converted into this one.
    own: Option<VideoFrame>,
}

impl RawSink {
    /// Opens `path`, `-` for standard output.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> Result<Self, ProcessError> {
        let name = path.display().to_string();
        let file = match name.as_str() {
            "-" => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            _ => File::create(path),
        };
        match file {
            Ok(file) => Ok(Self { path: name, file, converter: FrameConverter::default(), own: None }),
            Err(error) => Err(ProcessError::Output { path: name, reason: error.to_string() }),
        }
    }
}

impl Sink for RawSink {
    fn put(&mut self, item: Item) -> Result<(), ProcessError> {
        let Item::Video(frame) = item else { return Ok(()) };
        let data = if frame.format == PixelFormat::Rgb24 {
            &frame.data
        } else {
            let own = self.own.get_or_insert_with(|| VideoFrame {
                seq: 0,
                pts: frame.pts,
                size: frame.size,
                format: PixelFormat::Rgb24,
                color: frame.color,
                stamps: Stamps::default(),
                data: FrameBuf::owned(vec![0; PixelFormat::Rgb24.bytes(frame.size)]),
            });
            self.converter.convert(&frame, own)?;
            &own.data
        };
        self.file
            .write_all(data)
            .map_err(|error| ProcessError::Output { path: self.path.clone(), reason: error.to_string() })
    }

    fn finish(&mut self) -> Result<(), ProcessError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_keep_time() {
        for (text, at_90) in [("30", 270_000), ("25", 324_000), ("29.97", 270_270), ("30000/1001", 270_270)] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(rate.time(90), Timestamp(at_90), "{text}");
        }
        for text in ["", "0", "-1", "nan", "inf", "30/0", "0/1", "4000", "fast", "30/1/1"] {
            let error = text.parse::<Rate>().expect_err(text);
            assert!(error.contains("frame rate"), "{error}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(size("640x480"), Ok(Size::new(640, 480)));
        for text in ["", "640", "640x", "x480", "0x480", "640x-1", "640X480", "99999x1"] {
            assert!(size(text).expect_err(text).contains("512x512"));
        }
    }
}
