//! Test pictures as a peer sends them, and eyes on what comes back.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weir::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use weir::media::ts::demux::{DemuxConfig, DemuxSink, Demuxer, Stream, StreamKind, Unit};
use weir::media::{
    AudioPacket, Chunk, Damage, Input, InputConfig, InputEvent, InputSink, Output, OutputConfig, Pattern, SegmentSink,
    pattern,
};
use weir::webrtc::Sample;
use weir::webrtc::feed::Packer;

/// Size of the pictures.
pub const SIZE: Size = Size::new(384, 384);
/// Pictures a second.
pub const FPS: f64 = 30.0;

/// A coded clip: pictures and sound with their times.
pub struct Clip {
    /// Access units or frames, with their times.
    pub video: Vec<(i64, Vec<u8>)>,
    /// Packets of Opus.
    pub audio: Vec<(i64, Vec<u8>)>,
}

#[derive(Default)]
struct Units {
    demux: Option<Demuxer>,
    video: Vec<(i64, Vec<u8>)>,
}

struct Found<'a>(&'a mut Vec<(i64, Vec<u8>)>);

impl DemuxSink for Found<'_> {
    fn streams(&mut self, _: &[Stream]) {}
    fn unit(&mut self, unit: Unit<'_>) {
        if unit.kind == StreamKind::H264 {
            self.0.push((unit.pts.unwrap().0, unit.data.to_vec()));
        }
    }
    fn damage(&mut self, damage: Damage) {
        panic!("{damage}");
    }
    fn jump(&mut self, _: Timestamp, _: Timestamp) {}
}

impl SegmentSink for Units {
    fn begin(&mut self, _: Timestamp) {
        self.demux = Some(Demuxer::new(DemuxConfig::default()));
    }
    fn bytes(&mut self, bytes: bytes::Bytes, _: Chunk) {
        self.demux.as_mut().unwrap().push(&bytes, &mut Found(&mut self.video));
    }
    fn end(&mut self) {}
}

/// `frames` numbered pictures as H.264, with silence.
pub fn h264(frames: u32) -> Clip {
    let mut output =
        Output::new(OutputConfig { size: SIZE, fps_hint: FPS, media: weir::media::Config::default() }).unwrap();
    let pattern = Pattern::new(SIZE, FPS).unwrap();
    let mut units = Units::default();
    for number in 0..frames {
        output.video(&pattern.owned_frame(number), &mut units).unwrap();
    }
    output.finish(&mut units).unwrap();
    let mut audio = Vec::new();
    let end = pattern.pts(frames);
    // Silence of 20 ms a packet: only the way matters.
    let mut at = 0;
    while at < end.0 {
        audio.push((at, vec![0xFC, 0xFF, 0xFE]));
        at += 1800;
    }
    Clip { video: units.video, audio }
}

/// Numbered pictures as segments of a transport stream, a second each.
pub fn segments(frames: u32) -> Vec<bytes::Bytes> {
    #[derive(Default)]
    struct Whole(Vec<Vec<u8>>);
    impl SegmentSink for Whole {
        fn begin(&mut self, _: Timestamp) {
            self.0.push(Vec::new());
        }
        fn bytes(&mut self, bytes: bytes::Bytes, _: Chunk) {
            self.0.last_mut().unwrap().extend_from_slice(&bytes);
        }
        fn end(&mut self) {}
    }
    let media = weir::media::Config { segment_seconds: 1.0, ..Default::default() };
    let mut output = Output::new(OutputConfig { size: SIZE, fps_hint: FPS, media }).unwrap();
    let (pattern, mut whole) = (Pattern::new(SIZE, FPS).unwrap(), Whole::default());
    for number in 0..frames {
        output.video(&pattern.owned_frame(number), &mut whole).unwrap();
    }
    output.finish(&mut whole).unwrap();
    whole.0.into_iter().map(bytes::Bytes::from).collect()
}

/// Pictures of noise as H.264, of which an encoder makes as much as it may.
pub fn noise(frames: u32) -> Clip {
    let mut output =
        Output::new(OutputConfig { size: SIZE, fps_hint: FPS, media: weir::media::Config::default() }).unwrap();
    let pattern = Pattern::new(SIZE, FPS).unwrap();
    let (mut units, mut state) = (Units::default(), 1u32);
    for number in 0..frames {
        let mut frame = pattern.owned_frame(number);
        for byte in frame.data.iter_mut() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        output.video(&frame, &mut units).unwrap();
    }
    output.finish(&mut units).unwrap();
    Clip { video: units.video, audio: Vec::new() }
}

/// The same as VP8, made by the `ffmpeg` program.
pub fn vp8(frames: u32) -> Clip {
    let pattern = Pattern::new(SIZE, FPS).unwrap();
    let mut child = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s"])
        .arg(format!("{}x{}", SIZE.width, SIZE.height))
        .args(["-r", "30", "-i", "-", "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "3M"])
        .args(["-g", "300", "-lag-in-frames", "0", "-f", "ivf", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || {
        for number in 0..frames {
            input.write_all(&pattern.owned_frame(number).data).unwrap();
        }
    });
    let mut ivf = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut ivf).unwrap();
    writing.join().unwrap();
    assert!(child.wait().unwrap().success());
    let (mut at, mut video) = (32, Vec::new());
    while at + 12 <= ivf.len() {
        let length = u32::from_le_bytes(ivf[at..at + 4].try_into().unwrap()) as usize;
        video.push((video.len() as i64 * 3000, ivf[at + 12..at + 12 + length].to_vec()));
        at += 12 + length;
    }
    Clip { video, audio: Vec::new() }
}

/// Looks at pictures that came back.
pub struct Eyes {
    packer: Packer,
    input: Input,
    seen: Seen,
}

/// What was seen.
#[derive(Default)]
pub struct Seen {
    /// Numbers of the pictures, in order.
    pub numbers: Vec<u32>,
    /// Of these, inverted ones.
    pub inverted: usize,
    /// When each was decoded.
    pub at: HashMap<u32, Instant>,
    /// Packets of sound.
    pub sounds: usize,
}

impl InputSink for Seen {
    fn video(&mut self, frame: VideoFrame) {
        if let Some(reading) = pattern::read(&frame) {
            self.numbers.push(reading.number);
            self.inverted += usize::from(reading.inverted);
            self.at.entry(reading.number).or_insert_with(Instant::now);
        }
    }
    fn audio(&mut self, _: AudioPacket) {
        self.sounds += 1;
    }
    fn event(&mut self, _: InputEvent) {}
}

impl Eyes {
    /// Nothing seen yet.
    pub fn new() -> Self {
        let config = InputConfig {
            target: SIZE,
            format: PixelFormat::I420,
            media: weir::media::Config::default(),
            pool: FramePool::new(4),
        };
        Self { packer: Packer::default(), input: Input::new(config).unwrap(), seen: Seen::default() }
    }

    /// Looks at one sample.
    pub fn look(&mut self, sample: &Sample) {
        let bytes = self.packer.push(sample);
        self.input.push(&bytes, Instant::now(), &mut self.seen).unwrap();
    }

    /// What was seen so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

/// The middle and the 95th of 100 of some times, in milliseconds.
pub fn quantiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |quantile: f64| times[(times.len() as f64 * quantile) as usize].as_secs_f64() * 1000.0;
    (at(0.5), at(0.95))
}
