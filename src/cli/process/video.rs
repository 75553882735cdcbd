//! Video files of any kind that FFmpeg knows.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::error::ProcessError;
use super::stages::{Buffers, Item, Sink, Source};
use crate::engine;
use crate::frame::{PixelFormat, Size, Timestamp};
use crate::media::{
    AudioCodec, AudioTrack, FileInfo, FileReader, FileWriter, MediaError, MediaItem, Quality, WriteConfig, is_address,
    takes_streams,
};

/// Longest wait for the time of a picture.
const LONGEST: Duration = Duration::from_secs(1);

/// Endings of names that tell of a video file.
const ENDINGS: [&str; 14] =
    ["3gp", "avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "nut", "ts", "webm"];
/// Those of formats that take what we write: H.264 beside AAC or Opus.
const WRITABLE: [&str; 8] = ["flv", "m4v", "mkv", "mov", "mp4", "mts", "nut", "ts"];

fn one_of(ending: &str, list: &[&str]) -> bool {
    list.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// Whether a name with this ending is one of a video file.
pub fn knows(ending: &str) -> bool {
    one_of(ending, &ENDINGS)
}

/// Finds out before the work whether `path` names a format that can be written.
///
/// # Errors
/// Says which ones can.
pub fn check_name(path: &Path) -> Result<(), ProcessError> {
    let name = path.to_string_lossy();
    if is_address(&name) {
        return match takes_streams(&name) {
            true => Ok(()),
            false => Err(ProcessError::Output {
                path: name.into_owned(),
                reason: "streams are written to rtmp://, rtsp://, srt://, udp:// and tcp://".into(),
            }),
        };
    }
    let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned()).unwrap_or_default();
    if one_of(&ending, &WRITABLE) {
        return Ok(());
    }
    Err(ProcessError::Output {
        path: path.display().to_string(),
        reason: format!("the name must end in one of {}, rgb, raw, or be `-`", WRITABLE.join(", ")),
    })
}

/// A video file to read.
pub struct VideoSource {
    path: String,
    info: FileInfo,
    repeats: u32,
    /// What was looked at, where it can be read once only.
    open: Option<FileReader>,
}

impl VideoSource {
    /// Looks at `path`, which is to be read `repeats` times.
    ///
    /// # Errors
    /// It is not there, is no video, or cannot be decoded here; an address cannot be read several times.
    pub fn open(path: &Path, repeats: u32) -> Result<Self, ProcessError> {
        let path = path.to_string_lossy().into_owned();
        let live = is_address(&path);
        if live && repeats > 1 {
            return Err(ProcessError::Usage("--repeat is for files; a stream comes once".into()));
        }
        let reader = reader(&path, None, PixelFormat::I420)?;
        let info = reader.info().clone();
        if info.size.is_none() {
            return Err(ProcessError::Input { path, reason: "there is no video in it".into() });
        }
        Ok(Self { path, info, repeats, open: live.then_some(reader) })
    }
}

fn reader(path: &str, target: Option<Size>, format: PixelFormat) -> Result<FileReader, ProcessError> {
    FileReader::open(path, target, format).map_err(|error| ProcessError::Input {
        path: path.to_owned(),
        reason: match error {
            MediaError::File { reason, .. } => reason,
            other => other.to_string(),
        },
    })
}

impl Source for VideoSource {
    fn size(&self) -> Option<Size> {
        self.info.size
    }

    fn frames(&self) -> Option<u64> {
        self.info.frames.map(|frames| frames * u64::from(self.repeats))
    }

    fn fps(&self) -> Option<f64> {
        self.info.fps
    }

    fn audio(&self) -> Option<AudioTrack> {
        self.info.audio.clone()
    }

    fn read(&mut self, buffers: &Buffers<'_>, give: &mut dyn FnMut(Item) -> bool) -> Result<(), ProcessError> {
        let period = (Timestamp::HZ as f64 / self.info.fps.unwrap_or(30.0)).round() as i64;
        let (mut seq, mut offset, mut last, mut heard) = (0, 0, None::<Timestamp>, Timestamp(i64::MIN));
        for _ in 0..self.repeats {
            let mut end = offset;
            let live = self.open.is_some();
            let reader = match self.open.take() {
                None => reader(&self.path, Some(buffers.size), buffers.format)?,
                Some(mut open) => {
                    open.set_target(buffers.size, buffers.format).map_err(|error| broken(&self.path, error))?;
                    open
                }
            };
            for item in reader {
                if buffers.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let item = match item {
                    Ok(item) => item,
                    // A sender that leaves is told of as an error by most protocols. What came is kept.
                    Err(error) if live && seq > 0 => {
                        tracing::warn!("The stream has ended: {error}");
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                };
                let item = match item {
                    MediaItem::Video(mut frame) => {
                        // Files with times that repeat or go back exist; no frame is to be lost for it.
                        let least = last.map_or(i64::MIN, |last| last.0 + 1);
                        frame.pts = Timestamp((frame.pts.0 + offset).max(least));
                        frame.seq = seq;
                        seq += 1;
                        last = Some(frame.pts);
                        end = end.max(frame.pts.0 + period);
                        Item::Video(frame)
                    }
                    MediaItem::Audio(mut packet) => {
                        packet.pts = Timestamp(packet.pts.0 + offset);
                        // What a codec needs to begin lies before the file's start; in a further turn it has begun.
                        if packet.pts.0 + packet.duration / 2 < heard.0 {
                            continue;
                        }
                        heard = packet.end();
                        end = end.max(heard.0);
                        Item::Audio(packet)
                    }
                };
                if !give(item) {
                    return Ok(());
                }
            }
            offset = end;
        }
        Ok(())
    }
}

/// A video file to write.
pub struct VideoSink {
    path: String,
    writer: Option<FileWriter>,
    audio: bool,
    pace: Option<Pace>,
}

/// A stream leaves at the rate at which it is to be seen; a file as fast as it goes.
#[derive(Default)]
struct Pace(Option<(Instant, Timestamp)>);

impl Pace {
    /// Waits until the time of `pts` has come, by the first one.
    fn wait(&mut self, pts: Timestamp) {
        let (start, first) = *self.0.get_or_insert_with(|| (Instant::now(), pts));
        let due = start + Duration::from_secs_f64(pts.since(first).max(0) as f64 / Timestamp::HZ as f64);
        // A jump of the input's times is no reason to stand still.
        std::thread::sleep(due.saturating_duration_since(Instant::now()).min(LONGEST));
    }
}

impl VideoSink {
    /// Creates `path`; its ending chooses the format.
    ///
    /// # Errors
    /// FFmpeg does not know the ending, or the format does not take what is to go in.
    pub fn create(
        path: &Path,
        size: Size,
        fps: Option<f64>,
        audio: Option<AudioTrack>,
        config: &engine::Config,
    ) -> Result<Self, ProcessError> {
        let media = &config.media;
        let audio = audio.filter(|_| media.audio != AudioCodec::None);
        let carries = audio.is_some();
        let config = WriteConfig {
            size,
            fps: fps.unwrap_or(30.0),
            quality: Quality::Crf(media.video_crf),
            preset: media.video_preset.clone(),
            audio,
        };
        let name = path.to_string_lossy().into_owned();
        match FileWriter::create(path, &config) {
            Ok(writer) => {
                let pace = is_address(&name).then(Pace::default);
                Ok(Self { path: name, writer: Some(writer), audio: carries, pace })
            }
            Err(error) => Err(broken(&name, error)),
        }
    }
}

fn broken(path: &str, error: MediaError) -> ProcessError {
    let reason = match error {
        MediaError::File { reason, .. } => reason,
        other => other.to_string(),
    };
    ProcessError::Output { path: path.to_owned(), reason }
}

impl Sink for VideoSink {
    fn put(&mut self, item: Item) -> Result<(), ProcessError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if let (Some(pace), Item::Video(frame)) = (&mut self.pace, &item) {
            pace.wait(frame.pts);
        }
        let written = match item {
            Item::Video(frame) => writer.video(&frame),
            Item::Audio(packet) if self.audio => writer.audio(&packet),
            Item::Audio(_) => Ok(()),
        };
        written.map_err(|error| broken(&self.path, error))
    }

    fn finish(&mut self) -> Result<(), ProcessError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let dropped = writer.dropped();
        writer.finish().map_err(|error| broken(&self.path, error))?;
        if dropped > 0 {
            return Err(ProcessError::System(format!("{dropped} frames are missing in {}", self.path)));
        }
        Ok(())
    }
}
