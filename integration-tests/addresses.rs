//! RTMP, RTSP and SRT in and out, on real sockets: one `weir process` sends a film to another that waits for it.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weir::frame::{PixelFormat, Size};
use weir::media::{FileReader, MediaItem, Pattern, Quality, WriteConfig, pattern};

const SIZE: Size = Size::new(384, 384);
const FPS: f64 = 25.0;
const FRAMES: usize = 75;

/// A film whose pictures carry their numbers.
fn film(path: &Path) {
    let config =
        WriteConfig { size: SIZE, fps: FPS, quality: Quality::Crf(18), preset: "veryfast".into(), audio: None };
    let mut writer = weir::media::FileWriter::create(path, &config).unwrap();
    let made = Pattern::new(SIZE, FPS).unwrap();
    for number in 0..FRAMES as u32 {
        writer.video(&made.owned_frame(number)).unwrap();
    }
    writer.finish().unwrap();
}

fn weir(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("process").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits for a process to end well; kills it when it takes too long.
fn well(mut child: Child, what: &str) -> String {
    let until = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > until => break None,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    if status.is_none() {
        let _ = child.kill();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(status.is_some_and(|status| status.success()), "{what}: {status:?}\n{said}");
    said
}

/// Sends the film from one process to another by `scheme`, through `invert` on the way, and looks at what arrived.
fn passes(scheme: &str, port: u16, path: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (sent, kept) = (folder.path().join("in.mp4"), folder.path().join("out.mp4"));
    film(&sent);
    let address = format!("{scheme}://127.0.0.1:{port}{path}");
    let waiting = format!("{address}?listen=1");
    let size = ["--params", r#"{"width":384,"height":384}"#];
    let kept_name = kept.to_str().unwrap();
    let receiver = weir(&[&["--input", &waiting, "--output", kept_name, "--pipeline", "invert"], &size[..]].concat());
    // Whoever waits is there a moment after it began; a sender that finds nobody is tried again.
    let mut refused = String::new();
    let until = Instant::now() + Duration::from_secs(20);
    let sent_in = loop {
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        let sender = weir(&[&["--input", sent.to_str().unwrap(), "--output", &address], &size[..]].concat());
        let output = sender.wait_with_output().unwrap();
        if output.status.success() {
            break began.elapsed();
        }
        refused = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(Instant::now() < until, "nobody took it: {refused}");
    };
    let _ = refused;
    // Three seconds of film leave in three seconds, not at once.
    assert!(sent_in >= Duration::from_millis(2500), "{scheme}: {sent_in:?}");
    well(receiver, scheme);
    let reader = FileReader::open(kept_name, Some(SIZE), PixelFormat::I420).unwrap();
    let mut numbers = Vec::new();
    for item in reader {
        if let MediaItem::Video(frame) = item.unwrap() {
            let reading = pattern::read(&frame).expect("a picture of the film");
            assert!(reading.inverted, "{scheme}: {reading:?}");
            numbers.push(reading.number);
        }
    }
    // What a receiver needs to find its feet may cost the first pictures; none is lost after them.
    assert!(numbers.len() >= FRAMES - 30, "{scheme}: {} pictures", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{scheme}: {numbers:?}");
    assert_eq!(numbers.last().copied(), Some(FRAMES as u32 - 1), "{scheme}: the end is there");
}

fn free_tcp() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_film_goes_by_rtmp() {
    passes("rtmp", free_tcp(), "/live/film");
}

#[test]
fn a_film_goes_by_rtsp() {
    passes("rtsp", free_tcp(), "/film");
}

#[test]
fn a_film_goes_by_srt() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    passes("srt", port, "");
}

#[test]
fn what_no_stream_can_be_written_to_is_refused_by_name() {
    for (output, word) in [("https://127.0.0.1:1/x", "rtmp://"), ("rtmp://127.0.0.1:1/live/x", "cannot write")] {
        let folder = tempfile::tempdir().unwrap();
        let sent = folder.path().join("in.mp4");
        film(&sent);
        let output = weir(&["--input", sent.to_str().unwrap(), "--output", output]).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(word), "{said}");
    }
    // RTMP has no room for Opus.
    let folder = tempfile::tempdir().unwrap();
    let sent = folder.path().join("in.mkv");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=384x384:rate=25", "-f", "lavfi", "-i", "sine"])
        .args(["-t", "1", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "libopus"])
        .arg(&sent)
        .status();
    assert!(made.unwrap().success());
    let output = weir(&["--input", sent.to_str().unwrap(), "--output", "rtmp://127.0.0.1:1/live/x"]);
    let said = String::from_utf8_lossy(&output.wait_with_output().unwrap().stderr).into_owned();
    assert!(said.contains("takes AAC"), "{said}");
    // A stream comes once.
    let output = weir(&["--input", "rtmp://127.0.0.1:1/x", "--repeat", "2", "--output", "x.mp4"]);
    let said = String::from_utf8_lossy(&output.wait_with_output().unwrap().stderr).into_owned();
    assert!(said.contains("--repeat"), "{said}");
}
