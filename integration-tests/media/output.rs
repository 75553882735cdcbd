use super::*;
use weir::media::{AudioCodec, Tone};

const SIZE: Size = Size::new(256, 192);

fn write(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn check_decodes(path: &Path) {
    ffmpeg(&format!("-xerror -i {} -f null -", path.display()));
}

fn with_audio(audio: AudioCodec, frames: u32) -> Segments {
    let (mut out, mut sink) = (output(SIZE, |c| c.audio = audio), Segments::default());
    let (pattern, mut tone) = (Pattern::new(SIZE, 30.0).unwrap(), Tone::new(440.0, 2).unwrap());
    out.announce(true, Some(2));
    for number in 0..frames {
        let frame = pattern.owned_frame(number);
        out.video(&frame, &mut sink).unwrap();
        let mut packets = Vec::new();
        tone.until(frame.pts, &mut |p| packets.push(p)).unwrap();
        packets.iter().for_each(|p| out.audio(p, &mut sink).unwrap());
    }
    out.finish(&mut sink).unwrap();
    sink
}

#[test]
fn segments_are_cut_every_two_seconds_and_join_to_one_stream() {
    let dir = tempfile::tempdir().unwrap();
    let sink = with_audio(AudioCodec::Opus, 200);
    assert_eq!(sink.starts, [0, 180_000, 360_000, 540_000]);
    for (index, segment) in sink.each().iter().enumerate() {
        let path = write(&dir, &format!("{index}.ts"), segment);
        check_decodes(&path);
        let flags = ffprobe("-select_streams v -show_entries packet=flags", &path);
        assert!(flags[0].starts_with('K') && flags[1..].iter().all(|f| !f.starts_with('K')), "{flags:?}");
    }
    let all = write(&dir, "all.ts", &sink.all());
    check_decodes(&all);
    let pts = ffprobe("-select_streams v -show_entries packet=pts", &all);
    assert_eq!(pts, (0..200).map(|n| (n * 3000).to_string()).collect::<Vec<_>>());
    let audio = ffprobe("-select_streams a -show_entries packet=pts,duration", &all);
    let wanted: Vec<String> = sink
        .chunks()
        .filter_map(|c| match c {
            Chunk::Audio { pts, duration } => Some(format!("{},{duration}", pts.0)),
            _ => None,
        })
        .collect();
    assert_eq!(audio, wanted);
    let streams = ffprobe("-show_entries stream=codec_name,id,channels,sample_rate", &all);
    assert_eq!(streams, ["h264,0x100", "opus,48000,2,0x101"]);
    let profile = ffprobe("-show_entries stream=has_b_frames,color_space,pix_fmt -select_streams v", &all);
    assert_eq!(profile, ["0,yuv420p,unknown"]);
}

#[test]
fn no_audio_packet_is_lost_between_codecs() {
    let sink = with_audio(AudioCodec::Opus, 300);
    let pts: Vec<i64> =
        sink.chunks().filter_map(|c| if let Chunk::Audio { pts, .. } = c { Some(pts.0) } else { None }).collect();
    // 1024-sample frames become 20 ms packets, exactly 20 ms apart, the first cut at zero.
    assert!(pts.len() >= 495, "{}", pts.len());
    assert!(pts[1..].windows(2).all(|w| w[1] - w[0] == 1800), "{pts:?}");
}

#[test]
fn the_tone_is_still_where_it_was() {
    // A click in the sound and one in the time stamps would both show as a wrong count of periods.
    let dir = tempfile::tempdir().unwrap();
    for codec in [AudioCodec::Aac, AudioCodec::Opus] {
        let path = write(&dir, "tone.ts", &with_audio(codec, 150).all());
        let raw = ffmpeg(&format!("-i {} -map 0:a -f f32le -ac 1 -ar 48000 -", path.display()));
        let samples: Vec<f32> = raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let steady = &samples[9600..9600 + 48_000 * 4];
        let crossings = steady.windows(2).filter(|w| w[0] < 0.0 && w[1] >= 0.0).count();
        assert!((1759..=1761).contains(&crossings), "{codec:?}: {crossings}");
        let peak = steady.iter().fold(0f32, |m, s| m.max(s.abs()));
        assert!((0.30..0.40).contains(&peak), "{codec:?}: {peak}");
    }
}

#[test]
fn aac_output_passes_aac_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "aac.ts", &with_audio(AudioCodec::Aac, 90).all());
    check_decodes(&path);
    let streams = ffprobe("-show_entries stream=codec_name,profile,channels", &path);
    assert_eq!(streams, ["h264,High", "aac,LC,2"]);
}

#[test]
fn a_stream_that_comes_late_gets_new_tables() {
    let (mut out, mut sink) = (output(SIZE, |_| {}), Segments::default());
    let (pattern, mut tone) = (Pattern::new(SIZE, 30.0).unwrap(), Tone::new(440.0, 1).unwrap());
    encode_pattern(&mut out, &mut sink, &pattern, 0..100);
    tone.until(Timestamp(310_000), &mut |p| out.audio(&p, &mut sink).unwrap()).unwrap();
    encode_pattern(&mut out, &mut sink, &pattern, 100..150);
    out.finish(&mut sink).unwrap();
    let tables = |index: usize| sink.done[index].iter().filter(|(_, w)| *w == Chunk::Tables).count();
    assert_eq!((0..sink.done.len()).map(tables).collect::<Vec<_>>(), [1, 2, 1]);
    let (got, ..) = read_segments(input_config(SIZE), &refs(&sink.each()), 4096);
    assert_eq!(got.frames.len(), 150);
    assert!(got.audio.len() > 150);
    let found = got.events.iter().filter(|e| matches!(e, InputEvent::StreamsFound { .. })).count();
    assert_eq!(found, 2);
}

#[test]
fn audio_alone_is_cut_too_and_video_may_join() {
    let (mut out, mut sink) = (output(SIZE, |_| {}), Segments::default());
    out.announce(false, Some(1));
    let mut tone = Tone::new(440.0, 1).unwrap();
    tone.until(Timestamp(450_000), &mut |p| out.audio(&p, &mut sink).unwrap()).unwrap();
    assert_eq!(sink.starts.len(), 3);
    assert!(sink.starts.windows(2).all(|w| (180_000..183_000).contains(&(w[1] - w[0]))), "{:?}", sink.starts);
    let pattern = Pattern::new(SIZE, 30.0).unwrap();
    encode_pattern(&mut out, &mut sink, &pattern, 150..200);
    out.finish(&mut sink).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let alone = write(&dir, "audio.ts", &sink.bytes_of(0));
    check_decodes(&alone);
    assert_eq!(ffprobe("-show_entries stream=codec_name,id", &alone), ["opus,0x101"]);
    check_decodes(&write(&dir, "both.ts", &sink.bytes_of(3)));
    assert_eq!(sink.starts[3], 450_000);
}

#[test]
fn late_frames_are_dropped_and_jumps_are_followed() {
    let (mut out, mut sink) = (output(SIZE, |_| {}), Segments::default());
    let pattern = Pattern::new(SIZE, 30.0).unwrap();
    encode_pattern(&mut out, &mut sink, &pattern, 300..330);
    for late in [329, 328, 320] {
        assert_eq!(out.video(&pattern.owned_frame(late), &mut sink).unwrap(), VideoOut::DroppedOutOfOrder);
    }
    encode_pattern(&mut out, &mut sink, &pattern, 330..340);
    // Eight seconds back: a new time line, at once.
    encode_pattern(&mut out, &mut sink, &pattern, 100..130);
    out.finish(&mut sink).unwrap();
    assert_eq!(sink.starts, [900_000, 300_000]);
    assert_eq!((out.stats().dropped_video, out.stats().discontinuities), (3, 1));
    let (got, ..) = read_segments(input_config(SIZE), &[&sink.all()], 10_000);
    assert_eq!(got.numbers(), (300..340).chain(100..130).collect::<Vec<_>>());
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "jump.ts", &sink.all());
    check_decodes(&path);
    // The player closes the gap, since the jump is marked.
    assert_eq!(ffprobe("-count_frames -select_streams v -show_entries stream=nb_read_frames", &path), ["70"]);
}

#[test]
fn the_33_bit_wrap_is_passed_on() {
    let (mut out, mut sink) = (output(SIZE, |_| {}), Segments::default());
    let pattern = Pattern::new(SIZE, 30.0).unwrap();
    let start = (1i64 << 33) - 100_000;
    for number in 0..90 {
        let mut frame = pattern.owned_frame(number);
        frame.pts.0 += start;
        assert!(matches!(out.video(&frame, &mut sink).unwrap(), VideoOut::Encoded { .. }));
    }
    out.finish(&mut sink).unwrap();
    let (got, ..) = read_segments(input_config(SIZE), &refs(&sink.each()), 777);
    assert_eq!(got.video_pts(), (0..90).map(|n| start + n * 3000).collect::<Vec<_>>());
    assert!(!got.events.iter().any(|e| matches!(e, InputEvent::Discontinuity { .. })));
    check_decodes(&write(&tempfile::tempdir().unwrap(), "wrap.ts", &sink.all()).clone());
}

#[test]
fn a_new_engine_repeats_nothing() {
    let (mut out, mut sink) = (output(SIZE, |_| {}), Segments::default());
    let pattern = Pattern::new(SIZE, 30.0).unwrap();
    out.resume_after(Some(Timestamp(300_000)), None);
    for number in 60..=100 {
        assert_eq!(out.video(&pattern.owned_frame(number), &mut sink).unwrap(), VideoOut::DroppedOutOfOrder);
    }
    encode_pattern(&mut out, &mut sink, &pattern, 101..110);
    assert_eq!(sink.starts, [303_000]);
    assert_eq!(out.stats().dropped_video, 41);
}

#[test]
fn another_size_begins_a_segment() {
    let (mut out, mut sink) = (output(SIZE, |_| {}), Segments::default());
    encode_pattern(&mut out, &mut sink, &Pattern::new(SIZE, 30.0).unwrap(), 0..10);
    encode_pattern(&mut out, &mut sink, &Pattern::new(Size::new(320, 240), 30.0).unwrap(), 10..20);
    out.finish(&mut sink).unwrap();
    assert_eq!(sink.starts, [0, 30_000]);
    let (got, ..) = read_segments(input_config(SIZE), &refs(&sink.each()), 4096);
    assert_eq!(got.numbers(), (0..20).collect::<Vec<_>>());
}

#[test]
fn rgb_frames_are_converted_by_their_colour() {
    use weir::frame::{Color, FrameBuf, Matrix};
    for (matrix, name) in [(Matrix::Bt601, "smpte170m"), (Matrix::Bt709, "bt709")] {
        let (mut out, mut sink) = (output(SIZE, |c| c.video_crf = 1), Segments::default());
        for number in 0..30 {
            let mut frame = Pattern::new(SIZE, 30.0).unwrap().owned_frame(number);
            frame.format = PixelFormat::Rgb24;
            frame.color = Color { matrix, full_range: false, tagged: true };
            frame.data = FrameBuf::owned([200, 40, 90].repeat(SIZE.pixels() as usize));
            out.video(&frame, &mut sink).unwrap();
        }
        out.finish(&mut sink).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = write(&dir, "rgb.ts", &sink.all());
        assert_eq!(ffprobe("-show_entries stream=color_space", &path), [name]);
        let mut config = input_config(SIZE);
        config.format = PixelFormat::Rgb24;
        let (got, ..) = read_segments(config, &[&sink.all()], 4096);
        let middle = &got.frames[29].data[SIZE.pixels() as usize / 2 * 3..][..3];
        for (have, want) in middle.iter().zip([200u8, 40, 90]) {
            assert!(have.abs_diff(want) <= 3, "{name}: {middle:?}");
        }
    }
}

#[test]
fn settings_that_cannot_work_are_named() {
    let open = |size, change: fn(&mut Config)| {
        let mut media = Config::default();
        change(&mut media);
        Output::new(OutputConfig { size, fps_hint: 30.0, media }).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(open(Size::new(511, 512), |_| {}).contains("511x512"));
    assert!(open(SIZE, |c| c.video_encoder = "h264_of_nobody".into()).contains("h264_of_nobody"));
    assert!(open(SIZE, |c| c.video_preset = "warp".into()).contains("libx264"));
    assert!(open(SIZE, |c| c.segment_seconds = 0.0).contains("segment_seconds"));
    let mut config = input_config(SIZE);
    config.media.video_decoder = "h264_of_nobody".into();
    assert!(matches!(Input::new(config), Err(MediaError::NoCodec { .. })));
}

#[test]
fn noise_stays_under_the_ceiling() {
    use weir::frame::FrameBuf;
    let (mut out, mut sink) = (output(SIZE, |c| c.video_kbps = 500), Segments::default());
    let mut state = 1u32;
    for number in 0..120 {
        let mut frame = Pattern::new(SIZE, 30.0).unwrap().owned_frame(number);
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        frame.data = FrameBuf::owned(noise.take(frame.data.len()).collect());
        out.video(&frame, &mut sink).unwrap();
    }
    out.finish(&mut sink).unwrap();
    let kbps = out.stats().video_bytes * 8 / 4 / 1000;
    assert!((200..800).contains(&kbps), "{kbps}");
}

#[test]
fn large_pictures_use_slices_and_come_as_promptly() {
    let size = Size::new(1920, 1080);
    let (mut out, mut sink) = (output(size, |c| c.video_preset = "ultrafast".into()), Segments::default());
    encode_pattern(&mut out, &mut sink, &Pattern::new(size, 30.0).unwrap(), 0..6);
    let (mut got, mut input) = (Got::default(), Input::new(input_config(size)).unwrap());
    for (index, (bytes, what)) in sink.done[0].iter().enumerate() {
        input.push(bytes, Instant::now(), &mut got).unwrap();
        if matches!(what, Chunk::Video { .. }) {
            assert_eq!(got.frames.len(), index, "picture {index} is late");
        }
    }
    assert_eq!(got.numbers(), (0..6).collect::<Vec<_>>());
}
