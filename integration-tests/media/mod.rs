//! Media, whole: streams made by FFmpeg's own tools or by our encoder go in; what comes out is read by both.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use weir::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use weir::media::{
    AudioPacket, Chunk, Config, Input, InputConfig, InputEvent, InputSink, MediaError, Output, OutputConfig, Pattern,
    SegmentSink, VideoOut,
};

mod files;
mod input;
mod output;

/// Runs `ffmpeg` with `args`, split at spaces, and gives its standard output.
fn ffmpeg(args: &str) -> Vec<u8> {
    tool("ffmpeg", &format!("-v error -nostdin -y {args}"))
}

/// Runs `ffprobe` on `path` with `args`; its lines.
fn ffprobe(args: &str, path: &Path) -> Vec<String> {
    let out = tool("ffprobe", &format!("-v error {args} -of csv=p=0 {}", path.display()));
    let text = String::from_utf8(out).unwrap();
    let mut lines: Vec<String> =
        text.lines().map(|l| l.trim_end_matches(',').to_owned()).filter(|l| !l.is_empty()).collect();
    if args.contains("stream=") && path.extension().is_some_and(|e| e == "ts") {
        // Streams are listed under their program and once more.
        lines.truncate(lines.len() / 2);
    }
    lines
}

fn tool(name: &str, args: &str) -> Vec<u8> {
    let out = Command::new(name)
        .args(args.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{name} is needed for this test: {e}"));
    assert!(out.status.success(), "{name} {args}\n{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stderr.is_empty(), "{name} {args} complains:\n{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Everything that an input gave.
#[derive(Default)]
struct Got {
    frames: Vec<VideoFrame>,
    audio: Vec<AudioPacket>,
    events: Vec<InputEvent>,
}

impl InputSink for Got {
    fn video(&mut self, frame: VideoFrame) {
        self.frames.push(frame);
    }
    fn audio(&mut self, packet: AudioPacket) {
        self.audio.push(packet);
    }
    fn event(&mut self, event: InputEvent) {
        self.events.push(event);
    }
}

impl Got {
    fn video_pts(&self) -> Vec<i64> {
        self.frames.iter().map(|f| f.pts.0).collect()
    }
    fn numbers(&self) -> Vec<u32> {
        self.frames.iter().map(|f| weir::media::pattern::read_counter(f).expect("a readable number")).collect()
    }
}

fn input_config(target: Size) -> InputConfig {
    InputConfig { target, format: PixelFormat::I420, media: Config::default(), pool: FramePool::new(2000) }
}

fn read_segments(config: InputConfig, segments: &[&[u8]], piece: usize) -> (Got, Input, Result<(), MediaError>) {
    let (mut got, mut input) = (Got::default(), Input::new(config).unwrap());
    let mut run = || {
        for segment in segments {
            input.segment_start();
            for bytes in segment.chunks(piece) {
                input.push(bytes, Instant::now(), &mut got)?;
            }
            input.segment_end(&mut got)?;
        }
        Ok(())
    };
    let result = run();
    input.finish(&mut got);
    (got, input, result)
}

/// Everything that an output gave, by segment.
#[derive(Default)]
struct Segments {
    done: Vec<Vec<(Bytes, Chunk)>>,
    starts: Vec<i64>,
    open: bool,
}

impl SegmentSink for Segments {
    fn begin(&mut self, pts: Timestamp) {
        assert!(!std::mem::replace(&mut self.open, true), "a segment begins inside another");
        self.done.push(Vec::new());
        self.starts.push(pts.0);
    }
    fn bytes(&mut self, bytes: Bytes, what: Chunk) {
        assert!(self.open, "bytes outside of segments");
        assert_eq!(bytes.len() % 188, 0);
        self.done.last_mut().unwrap().push((bytes, what));
    }
    fn end(&mut self) {
        assert!(std::mem::replace(&mut self.open, false), "an end without a begin");
    }
}

impl Segments {
    fn bytes_of(&self, index: usize) -> Vec<u8> {
        self.done[index].iter().flat_map(|(b, _)| b.iter().copied()).collect()
    }
    fn all(&self) -> Vec<u8> {
        (0..self.done.len()).flat_map(|i| self.bytes_of(i)).collect()
    }
    fn each(&self) -> Vec<Vec<u8>> {
        (0..self.done.len()).map(|i| self.bytes_of(i)).collect()
    }
    fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.done.iter().flatten().map(|(_, what)| *what)
    }
}

fn output(size: Size, change: impl FnOnce(&mut Config)) -> Output {
    let mut media = Config::default();
    change(&mut media);
    Output::new(OutputConfig { size, fps_hint: 30.0, media }).unwrap()
}

/// Numbered pictures through our encoder; each must come out of the call that it went into.
fn encode_pattern(output: &mut Output, sink: &mut Segments, pattern: &Pattern, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        match output.video(&pattern.owned_frame(number), sink).unwrap() {
            VideoOut::Encoded { bytes } => assert!(bytes > 0, "picture {number} is late"),
            other => panic!("{other:?}"),
        }
    }
}

/// `seconds` of numbered pictures as segments.
fn pattern_segments(size: Size, numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    let (mut out, mut sink) = (output(size, |_| {}), Segments::default());
    encode_pattern(&mut out, &mut sink, &Pattern::new(size, 30.0).unwrap(), numbers);
    out.finish(&mut sink).unwrap();
    sink.each()
}

fn refs(segments: &[Vec<u8>]) -> Vec<&[u8]> {
    segments.iter().map(Vec::as_slice).collect()
}
