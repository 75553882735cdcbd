//! `weir process`: every frame of a file through a pipeline.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::clips::{decodes, probe};

const FRAME: usize = 384 * 448 * 3;
const SIZE: [&str; 4] = ["--size", "384x448", "--params", r#"{"width":384,"height":448}"#];

fn weir(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(folder).arg("process").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    weir(folder).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn well(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

fn ffmpeg(folder: &Path, arguments: &[&str]) {
    let output = Command::new("ffmpeg").current_dir(folder).args(["-v", "error", "-nostdin"]).args(arguments).output();
    let output = output.expect("ffmpeg is installed");
    assert!(output.status.success(), "{}", said(&output));
}

/// `count` frames in which every byte value is somewhere else.
fn frames(count: usize) -> Vec<u8> {
    (0..count * FRAME).map(|at| (at.wrapping_mul(31) ^ at >> 9 ^ at >> 17) as u8).collect()
}

fn streams(path: &Path) -> Vec<Value> {
    let bytes = std::fs::read(path).unwrap();
    decodes(&bytes);
    probe(&bytes)
}

fn of_kind<'a>(streams: &'a [Value], kind: &str) -> &'a Value {
    streams.iter().find(|stream| stream["codec_type"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn raw_frames_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    let given = frames(40);
    std::fs::write(folder.path().join("in.rgb"), &given).unwrap();
    let base = [&["--input", "in.rgb", "--output", "out.raw", "--pipeline", "invert"], &SIZE[..]].concat();
    let text = well(folder.path(), &base);
    assert!(text.contains("40 frames in "), "{text}");
    let got = std::fs::read(folder.path().join("out.raw")).unwrap();
    assert_eq!(got.len(), given.len());
    assert!(got.iter().zip(&given).all(|(out, byte)| *out == 255 - byte));

    // Twice in a row, but no more than 55 frames.
    well(folder.path(), &[&base[..], &["--repeat", "2", "--limit", "55"]].concat());
    let got = std::fs::read(folder.path().join("out.raw")).unwrap();
    assert_eq!(got.len(), 55 * FRAME);
    assert!(got.iter().zip(given.iter().chain(&given)).all(|(out, byte)| *out == 255 - byte));

    // Through pipes.
    let mut command = weir(folder.path());
    command.args(["--input", "-", "--output", "-", "--pipeline", "invert"]).args(SIZE).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut pipe, fed) = (child.stdin.take().unwrap(), given.clone());
    let feeding = std::thread::spawn(move || pipe.write_all(&fed));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        output.stdout.len() == given.len() && output.stdout.iter().zip(&given).all(|(out, byte)| *out == 255 - byte)
    );

    // A name that tells nothing.
    std::fs::rename(folder.path().join("in.rgb"), folder.path().join("in.bin")).unwrap();
    let renamed = ["--input", "in.bin", "--output", "out.bin", "--format", "rgb24", "--pipeline", "invert"];
    well(folder.path(), &[&renamed, &SIZE[..]].concat());
    assert_eq!(std::fs::metadata(folder.path().join("out.bin")).unwrap().len(), given.len() as u64);
}

#[test]
fn raw_frames_of_another_size_are_fitted_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.rgb"), frames(4)).unwrap();
    let arguments = ["--input", "in.rgb", "--size", "384x448", "--output", "out.rgb", "--pipeline", "invert"];
    let text = well(folder.path(), &arguments);
    assert!(text.contains("384x448") && text.contains("scaled and cropped to 512x512"), "{text}");
    assert_eq!(std::fs::metadata(folder.path().join("out.rgb")).unwrap().len(), 4 * 512 * 512 * 3);
}

#[test]
fn videos_keep_every_frame_their_times_and_their_sound() {
    let folder = tempfile::tempdir().unwrap();
    let sources = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000"];
    let codecs =
        ["-t", "3", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-pix_fmt", "yuv420p", "-c:a", "aac"];
    ffmpeg(folder.path(), &[&sources[..], &codecs, &["in.mp4"]].concat());
    let size = ["--params", r#"{"width":384,"height":384}"#];
    for name in ["out.mp4", "out.mkv", "out.ts"] {
        let text = well(folder.path(), &[&["--input", "in.mp4", "--output", name], &size[..]].concat());
        assert!(text.contains("75 frames in ") && text.contains("fps"), "{text}");
        let found = streams(&folder.path().join(name));
        let video = of_kind(&found, "video");
        assert_eq!(
            (&video["codec_name"], &video["width"], &video["height"]),
            (&"h264".into(), &384.into(), &384.into())
        );
        assert_eq!((&video["nb_read_frames"], &video["avg_frame_rate"]), (&"75".into(), &"25/1".into()), "{name}");
        let audio = of_kind(&found, "audio");
        assert_eq!(audio["codec_name"], "aac");
        let seconds = |stream: &Value, field: &str| -> f64 { stream[field].as_str().unwrap_or("0").parse().unwrap() };
        assert!((seconds(video, "start_time") - seconds(audio, "start_time")).abs() < 0.05, "{name}: together");
    }
    // Three times in a row: times go on, for both.
    well(folder.path(), &[&["--input", "in.mp4", "--output", "out.mp4", "--repeat", "3"], &size[..]].concat());
    let found = streams(&folder.path().join("out.mp4"));
    assert_eq!(of_kind(&found, "video")["nb_read_frames"], "225");
    let length: f64 = of_kind(&found, "audio")["duration"].as_str().unwrap().parse().unwrap();
    assert!((8.9..9.3).contains(&length), "{length}");
    // Raw out of video, and video out of raw.
    well(
        folder.path(),
        &["--input", "in.mp4", "--output", "out.rgb", "--limit", "10", "--params", r#"{"width":384,"height":384}"#],
    );
    assert_eq!(std::fs::metadata(folder.path().join("out.rgb")).unwrap().len(), 10 * 384 * 384 * 3);
    let raw = ["--input", "out.rgb", "--size", "384x384", "--fps", "30000/1001", "--output", "raw.mp4"];
    well(folder.path(), &[&raw, &size[..]].concat());
    let found = streams(&folder.path().join("raw.mp4"));
    assert_eq!(of_kind(&found, "video")["nb_read_frames"], "10");
    assert_eq!(found.len(), 1, "no sound where none was");
}

/// The share of the power of `samples` (48 kHz) that lies at `hertz`.
fn share(samples: &[f32], hertz: f64) -> f64 {
    let (mut re, mut im, mut power) = (0.0, 0.0, 0.0);
    for (i, x) in samples.iter().map(|x| f64::from(*x)).enumerate() {
        let (sin, cos) = (std::f64::consts::TAU * hertz * i as f64 / 48_000.0).sin_cos();
        (re, im, power) = (re + x * cos, im + x * sin, power + x * x);
    }
    2.0 * (re * re + im * im) / samples.len() as f64 / power.max(1e-12)
}

#[test]
fn sound_of_files_goes_through_a_workflow_that_works_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let sources = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=44100"];
    let codecs = ["-t", "3", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"];
    ffmpeg(folder.path(), &[&sources[..], &codecs, &["in.mp4"]].concat());
    let workflow = serde_json::json!({"width": 384, "height": 384, "prompt": {
        "1": {"class_type": "LoadAudioTensor", "inputs": {"buffer_size": 500.0}},
        "2": {"class_type": "PitchShifter", "inputs": {"audio": ["1", 0], "pitch_shift": 12.0}},
        "3": {"class_type": "SaveAudioTensor", "inputs": {"audio": ["2", 0]}}
    }});
    std::fs::write(folder.path().join("up.json"), workflow.to_string()).unwrap();
    for (name, codec, more) in
        [("out.mkv", "opus", &[][..]), ("out.mp4", "aac", &["--media-audio", "aac"]), ("out.rgb", "", &[])]
    {
        let arguments = ["--input", "in.mp4", "--output", name, "--pipeline", "comfyui", "--params", "@up.json"];
        let text = well(folder.path(), &[&arguments, more].concat());
        assert!(text.contains("75 frames in "), "{text}");
        if codec.is_empty() {
            // Raw frames have no sound.
            continue;
        }
        let found = streams(&folder.path().join(name));
        assert_eq!(of_kind(&found, "video")["nb_read_frames"], "75");
        assert_eq!(of_kind(&found, "audio")["codec_name"], codec);
        ffmpeg(folder.path(), &["-i", name, "-vn", "-ac", "1", "-ar", "48000", "-f", "f32le", "-y", "heard.raw"]);
        let bytes = std::fs::read(folder.path().join("heard.raw")).unwrap();
        let heard: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        let seconds = heard.len() as f64 / 48_000.0;
        assert!((2.9..3.15).contains(&seconds), "{name}: {seconds} s");
        // Within a block; between two there is a seam.
        let middle = &heard[2 * 24_000 + 6_000..2 * 24_000 + 18_000];
        let (up, plain) = (share(middle, 880.0), share(middle, 440.0));
        assert!(up > 0.8 && plain < 0.05, "{name}: {up} at 880 Hz, {plain} at 440 Hz");
    }
}

#[test]
fn mistakes_are_named_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.rgb"), frames(2)).unwrap();
    std::fs::write(folder.path().join("text.mp4"), "no video").unwrap();
    std::fs::write(folder.path().join("empty.rgb"), "").unwrap();
    ffmpeg(folder.path(), &["-f", "lavfi", "-i", "sine", "-t", "1", "sound.mp4"]);
    let raw = ["--input", "in.rgb", "--size", "384x448"];
    let cases: [(&[&str], i32, &[&str]); 15] = [
        (&["--pipeline", "bogus", "--output", "o.rgb"], 64, &["`bogus`", "noop", "invert"]),
        (
            &["--pipeline", "invert", "--params", r#"{"strength":7}"#, "--output", "o.rgb"],
            64,
            &["strength", "less than"],
        ),
        (&["--params", "[]", "--output", "o.rgb"], 64, &["--params", "JSON object"]),
        (&["--params", "@no.json", "--output", "o.rgb"], 64, &["no.json", "No such file"]),
        (&["--output", "no/such/o.rgb"], 73, &["no/such/o.rgb", "No such file"]),
        (&["--output", "."], 73, &["cannot write ."]),
        (&["--output", "in.rgb"], 73, &["also the input"]),
        (&["--output", "o.webm"], 73, &["o.webm", "mkv"]),
        (&["--output", "o"], 73, &["must end in"]),
        (&["--input", "no.rgb", "--output", "o.rgb"], 66, &["no.rgb", "No such file"]),
        (&["--input", "empty.rgb", "--output", "o.rgb"], 66, &["empty.rgb", "empty"]),
        (&["--input", "no.mp4", "--size", "", "--output", "o.mp4"], 66, &["no.mp4", "No such file"]),
        (&["--input", "text.mp4", "--size", "", "--output", "o.mp4"], 66, &["text.mp4"]),
        (&["--input", "sound.mp4", "--size", "", "--output", "o.mp4"], 66, &["sound.mp4", "no video"]),
        (&["--size", "", "--output", "o.rgb"], 64, &["--size WxH"]),
    ];
    for (more, code, words) in cases {
        // Later values stand for the ones before; an empty one for none.
        let mut arguments: Vec<&str> = Vec::new();
        for pair in raw.chunks(2).chain(more.chunks(2)) {
            if let Some(at) = arguments.iter().position(|&known| known == pair[0]) {
                arguments.drain(at..at + 2);
            }
            if !pair[1].is_empty() {
                arguments.extend(pair);
            }
        }
        let output = run(folder.path(), &arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
        assert!(!text.contains("panicked"));
        assert!(
            !folder.path().join("o.rgb").exists() && !folder.path().join("o.mp4").exists(),
            "{more:?} leaves a file"
        );
    }
    assert_eq!(std::fs::read(folder.path().join("in.rgb")).unwrap(), frames(2));
}

#[test]
fn a_cut_file_gives_the_frames_before_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    let given = frames(3);
    std::fs::write(folder.path().join("in.rgb"), &given[..2 * FRAME + 1000]).unwrap();
    let arguments = [&["--input", "in.rgb", "--output", "out.rgb", "--pipeline", "invert"], &SIZE[..]].concat();
    let output = run(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(66));
    assert!(said(&output).contains(&format!("in the middle of frame 2: 1000 of {FRAME} bytes")), "{}", said(&output));
    assert_eq!(std::fs::metadata(folder.path().join("out.rgb")).unwrap().len(), 2 * FRAME as u64);
}

#[test]
fn a_frame_that_fails_ends_the_run_with_its_number() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.rgb"), frames(8)).unwrap();
    let params = r#"{"width":384,"height":448,"frame_ms":0,"load_ms":0,"fail_every":5}"#;
    let arguments =
        ["--input", "in.rgb", "--size", "384x448", "--output", "out.mp4", "--pipeline", "delay", "--params", params];
    let output = run(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("frame 4: "), "{}", said(&output));
    assert_eq!(of_kind(&streams(&folder.path().join("out.mp4")), "video")["nb_read_frames"], "4");
}

#[test]
fn a_signal_leaves_a_file_that_plays() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.rgb"), frames(4)).unwrap();
    let params = r#"{"width":384,"height":448,"frame_ms":20,"load_ms":0}"#;
    let mut command = weir(folder.path());
    command.args(["--input", "in.rgb", "--size", "384x448", "--output", "out.mp4", "--repeat", "100000"]);
    let child = command.args(["--pipeline", "delay", "--params", params]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let told = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(said(&output).contains("Stopped by a signal"), "{}", said(&output));
    let video = streams(&folder.path().join("out.mp4"));
    let frames: u32 = of_kind(&video, "video")["nb_read_frames"].as_str().unwrap().parse().unwrap();
    assert!(frames > 10, "{frames}");

    // Also while it waits for standard input.
    let mut command = weir(folder.path());
    command.args(["--input", "-", "--output", "-"]).args(SIZE).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pipe = child.stdin.take();
    std::thread::sleep(Duration::from_millis(700));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let told = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    drop(pipe);
}
