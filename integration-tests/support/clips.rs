//! Input segments, made by `ffmpeg` once for each kind and kept for the whole run.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;

/// What a clip is like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Clip {
    /// FFmpeg's source of pictures, such as `testsrc2` or `color=c=0x2060c0`.
    pub source: &'static str,
    /// Another source for the second half; empty for the same.
    pub then: &'static str,
    /// `WIDTHxHEIGHT`; empty for no video.
    pub size: &'static str,
    /// Pictures a second.
    pub fps: u32,
    /// Seconds in all.
    pub seconds: u32,
    /// Seconds of a segment.
    pub segment: u32,
    /// `aac`, `libopus` or nothing.
    pub audio: &'static str,
    /// B-frames in a row.
    pub b_frames: u32,
}

impl Default for Clip {
    fn default() -> Self {
        Self {
            source: "testsrc2",
            then: "",
            size: "320x240",
            fps: 30,
            seconds: 6,
            segment: 2,
            audio: "aac",
            b_frames: 0,
        }
    }
}

static MADE: LazyLock<Mutex<HashMap<Clip, Arc<Vec<Bytes>>>>> = LazyLock::new(Mutex::default);

impl Clip {
    /// The segments.
    pub fn segments(&self) -> Arc<Vec<Bytes>> {
        let mut made = MADE.lock().unwrap();
        made.entry(self.clone()).or_insert_with(|| Arc::new(self.make())).clone()
    }

    fn video(&self, source: &str) -> String {
        let join = if source.contains('=') { ':' } else { '=' };
        format!("{source}{join}size={}:rate={}", self.size, self.fps)
    }

    fn make(&self) -> Vec<Bytes> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin"]);
        if !self.then.is_empty() {
            let half = (f64::from(self.seconds) / 2.0).to_string();
            for source in [self.source, self.then] {
                command.args(["-f", "lavfi", "-t", &half, "-i", &self.video(source)]);
            }
            command.args(["-filter_complex", "[0:v][1:v]concat=n=2:v=1[v]", "-map", "[v]"]);
        } else if !self.size.is_empty() {
            command.args(["-f", "lavfi", "-i", &self.video(self.source)]);
        }
        if !self.audio.is_empty() {
            command.args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
            command.args(["-c:a", self.audio, "-ac", "1"]);
        }
        let gop = (self.fps * self.segment).to_string();
        command.args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-sc_threshold", "0"]);
        command.args(["-g", &gop, "-keyint_min", &gop, "-bf", &self.b_frames.to_string()]);
        command.args(["-t", &self.seconds.to_string(), "-f", "segment", "-segment_format", "mpegts"]);
        command.args(["-segment_time", &self.segment.to_string()]);
        command.arg(folder.path().join("%d.ts"));
        let made = command.output().expect("ffmpeg is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |index| std::fs::read(folder.path().join(format!("{index}.ts"))).ok().map(Bytes::from);
        let segments: Vec<Bytes> = (0..).map_while(read).collect();
        assert!(!segments.is_empty());
        segments
    }
}

/// Runs `program` on `input`; its standard output, and its standard error.
pub fn pipe(program: &str, arguments: &[&str], input: &[u8]) -> (Vec<u8>, String) {
    // A file, since a tool that stops reading early would leave a pipe's writer stuck.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), input).unwrap();
    let path = file.path().to_str().unwrap();
    let arguments = arguments.iter().map(|&argument| if argument == "-" { path } else { argument });
    let output = Command::new(program).args(arguments).stdin(std::process::Stdio::null()).output().expect(program);
    (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Streams of some bytes as ffprobe sees them, with every frame decoded and counted.
pub fn probe(bytes: &[u8]) -> Vec<serde_json::Value> {
    let arguments = ["-v", "error", "-count_frames", "-show_streams", "-of", "json", "-"];
    let (out, errors) = pipe("ffprobe", &arguments, bytes);
    assert_eq!(errors, "", "ffprobe");
    let parsed: serde_json::Value = serde_json::from_slice(&out).unwrap();
    parsed["streams"].as_array().cloned().unwrap_or_default()
}

/// Decodes everything; fails at the first complaint.
pub fn decodes(bytes: &[u8]) {
    let (_, errors) = pipe("ffmpeg", &["-v", "error", "-nostdin", "-i", "-", "-f", "null", "/dev/null"], bytes);
    assert_eq!(errors, "", "ffmpeg");
}

/// Mean red, green and blue of picture number `picture`.
pub fn mean_rgb(bytes: &[u8], picture: usize) -> [f64; 3] {
    let select = format!("select=eq(n\\,{picture}),scale=8:8:flags=area");
    let arguments = [
        "-v",
        "error",
        "-nostdin",
        "-i",
        "-",
        "-vf",
        &select,
        "-frames:v",
        "1",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-y",
        "/dev/stdout",
    ];
    let (out, errors) = pipe("ffmpeg", &arguments, bytes);
    assert_eq!(out.len(), 192, "{errors}");
    let mut sums = [0.0; 3];
    for pixel in out.chunks_exact(3) {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += f64::from(*value) / 64.0;
        }
    }
    sums
}
