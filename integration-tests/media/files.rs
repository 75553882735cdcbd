use super::*;
use weir::media::{FileReader, FileWriter, MediaItem, PacketCodec, Quality, Recorder, Tone, WriteConfig};

const SIZE: Size = Size::new(192, 128);

fn write_file(path: &Path, quality: Quality, frames: u32) {
    let mut tone = Tone::new(440.0, 2).unwrap();
    let mut packets = Vec::new();
    tone.until(Timestamp(i64::from(frames) * 3000), &mut |p| packets.push(p)).unwrap();
    let audio = weir::media::AudioTrack {
        codec: PacketCodec::Aac,
        rate: packets[0].rate,
        channels: packets[0].channels,
        config: packets[0].config.clone(),
    };
    let config = WriteConfig { size: SIZE, fps: 30.0, quality, preset: "ultrafast".into(), audio: Some(audio) };
    let mut writer = FileWriter::create(path, &config).unwrap();
    let pattern = Pattern::new(SIZE, 30.0).unwrap();
    for number in 0..frames {
        writer.video(&pattern.owned_frame(number)).unwrap();
    }
    packets.iter().for_each(|p| writer.audio(p).unwrap());
    writer.finish().unwrap();
}

fn read_file(path: &Path) -> (Vec<VideoFrame>, Vec<AudioPacket>) {
    let (mut frames, mut audio) = (Vec::new(), Vec::new());
    for item in FileReader::open(path.to_str().unwrap(), None, PixelFormat::I420).unwrap() {
        match item.unwrap() {
            MediaItem::Video(frame) => frames.push(frame),
            MediaItem::Audio(packet) => audio.push(packet),
        }
    }
    (frames, audio)
}

#[test]
fn files_are_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "a.mkv", "a.mov"] {
        let path = dir.path().join(name);
        write_file(&path, Quality::Crf(20), 45);
        let reader = FileReader::open(path.to_str().unwrap(), None, PixelFormat::I420).unwrap();
        let info = reader.info().clone();
        assert_eq!((info.size, info.video_codec.as_deref()), (Some(SIZE), Some("h264")), "{name}");
        assert!((info.fps.unwrap() - 30.0).abs() < 0.1 && (info.duration.unwrap() - 1.5).abs() < 0.1);
        assert!(info.frames.unwrap().abs_diff(45) <= 2);
        let (frames, audio) = read_file(&path);
        let numbers: Vec<_> = frames.iter().map(|f| weir::media::pattern::read_counter(f).unwrap()).collect();
        assert_eq!(numbers, (0..45).collect::<Vec<_>>(), "{name}");
        assert!(frames.windows(2).all(|w| w[1].pts.since(w[0].pts).abs_diff(3000) <= 90), "{name}");
        assert!(audio.len() > 60 && audio.iter().all(|p| p.codec == PacketCodec::Aac && p.channels == 2));
    }
}

#[test]
fn lossless_is_lossless() {
    let dir = tempfile::tempdir().unwrap();
    for (name, codec) in [("a.mkv", "ffv1"), ("a.mp4", "h264")] {
        let path = dir.path().join(name);
        write_file(&path, Quality::Lossless, 10);
        assert_eq!(ffprobe("-select_streams v -show_entries stream=codec_name", &path), [codec]);
        let pattern = Pattern::new(SIZE, 30.0).unwrap();
        for (number, frame) in read_file(&path).0.iter().enumerate() {
            assert!(frame.data[..] == pattern.owned_frame(number as u32).data[..], "{name} {number}");
        }
    }
}

#[test]
fn audio_of_other_codecs_becomes_opus() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp3");
    ffmpeg(&format!("-f lavfi -i sine=440:r=44100 -t 2 {}", path.display()));
    let (frames, audio) = read_file(&path);
    assert!(frames.is_empty());
    assert!((98..106).contains(&audio.len()), "{}", audio.len());
    assert!(audio.iter().all(|p| p.codec == PacketCodec::Opus && p.channels == 1 && p.rate == 48_000));
    assert!(audio[1..].windows(2).all(|w| w[1].pts.since(w[0].pts) == 1800));
}

#[test]
fn frames_of_a_file_have_the_wanted_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    write_file(&path, Quality::Crf(20), 10);
    let target = Size::new(64, 64);
    let reader = FileReader::open(path.to_str().unwrap(), Some(target), PixelFormat::Rgb24).unwrap();
    assert_eq!(reader.target(), Some(target));
    let frames = reader.filter(|item| matches!(item, Ok(MediaItem::Video(f)) if f.data.len() == 64 * 64 * 3)).count();
    assert_eq!(frames, 10);
}

#[test]
fn recordings_play() {
    let dir = tempfile::tempdir().unwrap();
    for (name, audio) in [("a.mp4", "opus"), ("b.mkv", "opus"), ("c.mp4", "aac")] {
        let (mut out, mut sink) = (
            output(SIZE, |c| c.audio = if audio == "aac" { weir::media::AudioCodec::Aac } else { Default::default() }),
            Segments::default(),
        );
        out.announce(true, Some(2));
        let (pattern, mut tone) = (Pattern::new(SIZE, 30.0).unwrap(), Tone::new(440.0, 2).unwrap());
        for number in 0..150 {
            let mut frame = pattern.owned_frame(number);
            frame.pts.0 += 500_000;
            out.video(&frame, &mut sink).unwrap();
            tone.until(pattern.pts(number), &mut |mut p| {
                p.pts.0 += 500_000;
                out.audio(&p, &mut sink).unwrap();
            })
            .unwrap();
        }
        out.finish(&mut sink).unwrap();
        let path = dir.path().join(name);
        let mut recorder = Recorder::create(&path);
        sink.all().chunks(1000).for_each(|piece| recorder.push(piece).unwrap());
        assert!(recorder.packets() > 300);
        recorder.finish().unwrap();
        ffmpeg(&format!("-xerror -i {} -f null -", path.display()));
        assert_eq!(ffprobe("-show_entries stream=codec_name", &path), ["h264", audio], "{name}");
        let (frames, packets) = read_file(&path);
        let numbers: Vec<_> = frames.iter().map(|f| weir::media::pattern::read_counter(f).unwrap()).collect();
        assert_eq!(numbers, (0..150).collect::<Vec<_>>(), "{name}");
        assert!(packets.len() > 200);
    }
}

#[test]
fn a_jump_leaves_no_hole_in_a_recording() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    let mut recorder = Recorder::create(&path);
    for start in [90_000_000, 0, 9_000_000] {
        let (mut out, mut sink) = (output(SIZE, |_| {}), Segments::default());
        out.announce(true, Some(1));
        let (pattern, mut tone) = (Pattern::new(SIZE, 30.0).unwrap(), Tone::new(440.0, 1).unwrap());
        for number in 0..60 {
            let mut frame = pattern.owned_frame(number);
            frame.pts.0 += start;
            out.video(&frame, &mut sink).unwrap();
            tone.until(pattern.pts(number), &mut |mut p| {
                p.pts.0 += start;
                out.audio(&p, &mut sink).unwrap();
            })
            .unwrap();
        }
        out.finish(&mut sink).unwrap();
        recorder.push(&sink.all()).unwrap();
    }
    recorder.finish().unwrap();
    let info = FileReader::open(path.to_str().unwrap(), None, PixelFormat::I420).unwrap().info().clone();
    assert!((5.8..6.4).contains(&info.duration.unwrap()), "{info:?}");
    assert_eq!(read_file(&path).0.len(), 180);
}

#[test]
fn what_cannot_be_opened_is_named() {
    let open = |path: &str| FileReader::open(path, None, PixelFormat::I420).err().unwrap().to_string();
    assert!(open("/nowhere/at/all.mp4").contains("/nowhere/at/all.mp4: No such file"));
    let config = WriteConfig { size: SIZE, fps: 30.0, quality: Quality::Crf(20), preset: String::new(), audio: None };
    assert!(FileWriter::create(Path::new("/nowhere/a.mp4"), &config).is_err());
    assert!(FileWriter::create(Path::new("/tmp/a.of-no-format"), &config).is_err());
}
