use super::*;
use weir::media::{Damage, DropReason, PacketCodec};

/// Two seconds of FFmpeg's test picture and a tone, with the options of the codecs.
fn stream(size: &str, codecs: &str) -> Vec<u8> {
    ffmpeg(&format!("-f lavfi -i testsrc=s={size}:r=30 -f lavfi -i sine=440:r=48000 -t 2 {codecs} -f mpegts -"))
}

const TARGET: Size = Size::new(128, 128);

#[test]
fn b_frames_come_out_in_order() {
    let bytes = stream("320x180", "-c:v libx264 -bf 3 -g 30 -c:a aac");
    let (got, input, result) = read_segments(input_config(TARGET), &[&bytes], 1316);
    result.unwrap();
    let pts = got.video_pts();
    assert_eq!(pts.len(), 60);
    assert!(pts.windows(2).all(|w| w[1] - w[0] == 3000), "{pts:?}");
    assert_eq!(got.frames.iter().map(|f| f.seq).collect::<Vec<_>>(), (0..60).collect::<Vec<_>>());
    assert!(got.frames.iter().all(|f| f.size == TARGET && f.data.len() == PixelFormat::I420.bytes(TARGET)));
    assert_eq!(input.stats().damage, 0);
    let InputEvent::StreamsFound { video: Some(video), audio: Some(audio), .. } = &got.events[0] else {
        panic!("{:?}", got.events)
    };
    assert_eq!((video.codec, video.pid, audio.codec, audio.pid), ("h264", 256, "aac", 257));
    assert!(got.events[0].metadata_line().unwrap().starts_with("Metadata: {\"video\":{\"codec\":\"h264\""));
}

#[test]
fn aac_and_opus_packets_pass_whole() {
    for (options, codec, rate) in
        [("-c:a aac -ac 2", PacketCodec::Aac, 48_000), ("-c:a libopus -ac 2", PacketCodec::Opus, 48_000)]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.ts");
        std::fs::write(&path, stream("128x128", &format!("-c:v libx264 {options}"))).unwrap();
        let (got, ..) = read_segments(input_config(TARGET), &[&std::fs::read(&path).unwrap()], 997);
        let wanted = ffprobe("-select_streams a -show_entries packet=pts,duration", &path);
        let have: Vec<String> = got.audio.iter().map(|p| format!("{},{}", p.pts.0, p.duration)).collect();
        assert_eq!(have, wanted, "{codec:?}");
        assert!(got.audio.iter().all(|p| (p.codec, p.rate, p.channels) == (codec, rate, 2)));
    }
}

#[test]
fn a_frame_comes_out_before_the_next_one_begins() {
    // Our own stream states lengths; FFmpeg's leaves those of video open, and only stuffing tells the end.
    let ours = pattern_segments(Size::new(320, 240), 0..60).concat();
    let theirs = ffmpeg("-f lavfi -i testsrc=s=320x240:r=30 -t 2 -c:v libx264 -tune zerolatency -f mpegts -");
    for (bytes, name, least) in [(ours, "ours", 60), (theirs, "theirs", 57)] {
        let (mut got, mut input) = (Got::default(), Input::new(input_config(TARGET)).unwrap());
        input.segment_start();
        let (mut in_time, mut begun) = (0, 0);
        for packet in bytes.chunks(188) {
            let pid = u16::from_be_bytes([packet[1], packet[2]]) & 0x1FFF;
            if pid == 256 && packet[1] & 0x40 != 0 {
                // A new picture begins; the one before must be out.
                in_time += usize::from(begun > 0 && got.frames.len() == begun);
                begun += 1;
            }
            input.push(packet, Instant::now(), &mut got).unwrap();
        }
        in_time += usize::from(got.frames.len() == begun);
        assert_eq!(begun, 60);
        assert!(in_time >= least, "{name}: {in_time} of 60");
    }
}

#[test]
fn stamps_are_those_of_the_last_byte() {
    let bytes = pattern_segments(Size::new(320, 240), 0..3).concat();
    let (mut got, mut input) = (Got::default(), Input::new(input_config(TARGET)).unwrap());
    let start = Instant::now();
    let at = |index: usize| start + std::time::Duration::from_millis(index as u64);
    let mut last = 0;
    for (index, packet) in bytes.chunks(188).enumerate() {
        let before = got.frames.len();
        input.push(packet, at(index), &mut got).unwrap();
        if got.frames.len() > before {
            assert_eq!(got.frames[before].stamps.received, Some(at(index)));
            assert!(got.frames[before].stamps.decoded.is_some());
            last = index;
        }
    }
    assert_eq!(last, bytes.len() / 188 - 1);
}

#[test]
fn any_chunking_gives_the_same() {
    let bytes = stream("160x120", "-c:v libx264 -c:a libopus");
    let (whole, ..) = read_segments(input_config(TARGET), &[&bytes], usize::MAX);
    for piece in [1, 7, 187, 188, 189, 1000, 32_768] {
        let (got, ..) = read_segments(input_config(TARGET), &[&bytes], piece);
        assert_eq!(got.video_pts(), whole.video_pts());
        assert_eq!(got.audio, whole.audio);
        assert!(got.frames.iter().zip(&whole.frames).all(|(a, b)| a.data[..] == b.data[..]));
    }
}

#[test]
fn every_segment_may_be_another_stream() {
    let first =
        stream("320x180", "-c:v libx264 -pix_fmt yuv420p -profile:v baseline -c:a aac -streamid 0:300 -streamid 1:301");
    let second =
        stream("640x480", "-c:v libx264 -bf 2 -output_ts_offset 2 -c:a libopus -streamid 0:400 -streamid 1:300");
    let third = stream("320x180", "-c:v libx264 -an -output_ts_offset 4");
    let (got, input, result) = read_segments(input_config(TARGET), &[&first, &second, &third], 5000);
    result.unwrap();
    assert_eq!(got.frames.len(), 180);
    assert!(got.video_pts().windows(2).all(|w| w[1] > w[0]));
    assert!(
        got.audio.iter().any(|p| p.codec == PacketCodec::Aac) && got.audio.iter().any(|p| p.codec == PacketCodec::Opus)
    );
    let sizes: Vec<Size> = got
        .events
        .iter()
        .filter_map(|e| if let InputEvent::FormatChanged { size, .. } = e { Some(*size) } else { None })
        .collect();
    assert_eq!(sizes, [Size::new(320, 180), Size::new(640, 480), Size::new(320, 180)]);
    assert_eq!(input.stats().damage, 0);
}

#[test]
fn a_cut_segment_costs_only_its_rest() {
    let segments = pattern_segments(Size::new(320, 240), 0..180);
    let cut = &segments[1][..segments[1].len() / 2];
    let (got, input, result) = read_segments(input_config(TARGET), &[&segments[0], cut, &segments[2]], 1000);
    result.unwrap();
    let numbers = got.numbers();
    assert!(numbers.starts_with(&(0..60).collect::<Vec<_>>()));
    assert!(numbers.ends_with(&(120..180).collect::<Vec<_>>()));
    assert!(numbers.len() > 130, "{}", numbers.len());
    assert!(numbers.windows(2).all(|w| w[1] > w[0]));
    assert!(input.stats().damage <= 2, "{:?}", input.stats());
}

#[test]
fn joining_in_the_middle_waits_for_a_key_picture() {
    let segments = pattern_segments(Size::new(320, 240), 0..120);
    // Tables, then the second half of a segment without its key picture.
    let middle = segments[0].len() / 2 / 188 * 188;
    let joined = [&segments[0][..376], &segments[0][middle..]].concat();
    let (got, input, result) = read_segments(input_config(TARGET), &[&joined, &segments[1]], 1000);
    result.unwrap();
    assert_eq!(got.numbers(), (60..120).collect::<Vec<_>>());
    assert!(input.stats().skipped_units > 10);
    assert!(got.events.iter().any(|e| matches!(e, InputEvent::Dropped { reason: DropReason::BeforeKeyFrame, .. })));
}

#[test]
fn garbage_between_packets_is_skipped() {
    let segments = pattern_segments(Size::new(320, 240), 0..60);
    let mut bytes = Vec::new();
    for (index, packet) in segments[0].chunks(188).enumerate() {
        bytes.extend_from_slice(packet);
        if index % 40 == 39 {
            bytes.extend((0..300).map(|n| (n * 7 % 251) as u8));
        }
    }
    let (got, input, result) = read_segments(input_config(TARGET), &[&bytes], 333);
    result.unwrap();
    assert_eq!(got.numbers(), (0..60).collect::<Vec<_>>());
    assert!(input.stats().demux.skipped_bytes > 300);
}

#[test]
fn too_much_damage_ends_the_stream_with_a_name() {
    let segments = pattern_segments(Size::new(320, 240), 0..60);
    let mut bytes = segments[0].clone();
    bytes.chunks_mut(188).skip(2).for_each(|p| p[1] |= 0x80);
    let mut config = input_config(TARGET);
    config.media.max_damage = 10;
    let (got, _, result) = read_segments(config, &[&bytes], 188);
    assert!(got.frames.is_empty());
    assert!(matches!(result, Err(MediaError::TooDamaged { limit: 10, last: Damage::Transport { pid: 256 }, .. })));
}

#[test]
fn a_lost_packet_is_survived() {
    let segments = pattern_segments(Size::new(320, 240), 0..120);
    let packets: Vec<&[u8]> = segments[0].chunks(188).collect();
    let lossy: Vec<u8> =
        packets.iter().enumerate().filter(|(i, _)| i % 50 != 30).flat_map(|(_, p)| p.iter().copied()).collect();
    let (got, input, result) = read_segments(input_config(TARGET), &[&lossy, &segments[1]], 1000);
    result.unwrap();
    assert!(input.stats().damage > 0);
    let numbers: Vec<u32> = got.frames.iter().filter_map(weir::media::pattern::read_counter).collect();
    assert!(numbers.ends_with(&(60..120).collect::<Vec<_>>()));
}

#[test]
fn pictures_over_the_limit_are_refused_cleanly() {
    let big = ffmpeg("-f lavfi -i color=s=1280x720:r=30 -t 1 -c:v libx264 -preset ultrafast -f mpegts -");
    let small = pattern_segments(Size::new(320, 240), 60..120);
    let mut config = input_config(TARGET);
    config.media.max_input_pixels = 640 * 480;
    let (got, _, result) = read_segments(config.clone(), &[&big, &small[0]], 1000);
    result.unwrap();
    assert_eq!(got.frames.len(), 60);
    assert!(got.events.iter().any(|e| matches!(
        e,
        InputEvent::Damage(Damage::TooLarge { size: Size { width: 1280, height: 720 }, limit: 307_200 })
    )));
    config.media.max_damage = 20;
    let (_, _, result) = read_segments(config, &[&big], 1000);
    assert!(result.unwrap_err().to_string().contains("1280x720"));
}

#[test]
fn audio_alone_is_passed_on() {
    let bytes = ffmpeg("-f lavfi -i sine=440:r=44100 -t 2 -c:a aac -f mpegts -");
    let (got, _, result) = read_segments(input_config(TARGET), &[&bytes], 1000);
    result.unwrap();
    assert!(got.frames.is_empty() && got.audio.len() > 80);
    assert!(matches!(&got.events[0], InputEvent::StreamsFound { video: None, audio: Some(_), .. }));
}

#[test]
fn streams_of_other_codecs_are_named() {
    let bytes = ffmpeg("-f lavfi -i testsrc=s=64x64:r=10 -t 1 -c:v mpeg2video -f mpegts -");
    let (got, ..) = read_segments(input_config(TARGET), &[&bytes], 1000);
    assert!(
        matches!(&got.events[0], InputEvent::StreamsFound { video: None, unsupported, .. } if unsupported.len() == 1)
    );
}

#[test]
fn jumps_of_the_time_line_are_told_and_followed() {
    let pattern = Pattern::new(Size::new(160, 120), 30.0).unwrap();
    let piece = |numbers: std::ops::Range<u32>| {
        let (mut out, mut sink) = (output(pattern.size(), |_| {}), Segments::default());
        encode_pattern(&mut out, &mut sink, &pattern, numbers);
        out.finish(&mut sink).unwrap();
        sink.all()
    };
    let (forth, back) = (piece(3000..3030), piece(0..30));
    let (got, input, result) = read_segments(input_config(TARGET), &[&forth, &back, &forth], 1000);
    result.unwrap();
    assert_eq!(got.numbers(), (3000..3030).chain(0..30).chain(3000..3030).collect::<Vec<_>>());
    assert_eq!(input.stats().jumps, 2);
}

#[test]
fn the_rate_cap_and_an_empty_pool_are_counted() {
    let segments = pattern_segments(Size::new(160, 120), 0..60);
    let mut config = input_config(TARGET);
    config.media.max_fps = 15.0;
    config.pool = FramePool::new(10);
    let (got, input, result) = read_segments(config, &[&segments[0]], 1000);
    result.unwrap();
    let stats = input.stats();
    assert_eq!((stats.decoded, stats.frames, stats.dropped_rate, stats.dropped_pool), (60, 10, 30, 20));
    assert!(got.numbers().iter().all(|n| n % 2 == 0));
}

#[test]
fn the_target_may_change_on_the_way() {
    let segments = pattern_segments(Size::new(320, 240), 0..60);
    let (mut got, mut input) = (Got::default(), Input::new(input_config(TARGET)).unwrap());
    let (a, b) = segments[0].split_at(segments[0].len() / 376 * 188);
    input.push(a, Instant::now(), &mut got).unwrap();
    let wide = Size::new(100, 50);
    input.set_target(wide, PixelFormat::Rgb24).unwrap();
    assert!(input.set_target(Size::new(0, 50), PixelFormat::Rgb24).is_err());
    input.push(b, Instant::now(), &mut got).unwrap();
    assert!(got.frames.iter().any(|f| f.size == TARGET));
    let last = got.frames.last().unwrap();
    assert_eq!((last.size, last.data.len()), (wide, 15_000));
    got.numbers();
}

#[test]
fn scaling_agrees_with_the_contract() {
    // The whole scaled until it covers, then the centre cropped, by FFmpeg's own filters.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.ts");
    for (source, scale) in
        [("640x360", "-2:128"), ("360x640", "128:-2"), ("256x256", "128:128"), ("128x128", "128:128")]
    {
        std::fs::write(
            &path,
            ffmpeg(&format!("-f lavfi -i testsrc2=s={source}:r=30 -frames:v 3 -c:v libx264 -f mpegts -")),
        )
        .unwrap();
        let wanted = ffmpeg(&format!(
            "-i {} -vf scale={scale}:flags=bilinear,crop=128:128 -f rawvideo -pix_fmt yuv420p -",
            path.display()
        ));
        let (got, ..) = read_segments(input_config(TARGET), &[&std::fs::read(&path).unwrap()], 1000);
        let have: Vec<u8> = got.frames.iter().flat_map(|f| f.data.iter().copied()).collect();
        assert_eq!(have.len(), wanted.len());
        let error: u64 = have.iter().zip(&wanted).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        let mean = error as f64 / have.len() as f64;
        assert!(mean < 1.5, "{source}: mean difference {mean}");
    }
}

#[test]
fn colours_follow_the_stream() {
    // One red as each matrix and range codes it; RGB must come out the same, I420 untouched but labelled.
    for (filter, tags, matrix) in [
        ("out_color_matrix=bt709:out_range=tv", "-colorspace bt709 -color_range tv", "Bt709"),
        ("out_color_matrix=bt601:out_range=tv", "-colorspace smpte170m -color_range tv", "Bt601"),
        ("out_color_matrix=bt709:out_range=pc", "-colorspace bt709 -color_range pc", "Bt709"),
        ("out_color_matrix=bt601:out_range=tv", "", "Bt601"),
    ] {
        let bytes = ffmpeg(&format!(
            "-f lavfi -i color=c=0xC8285A:s=128x128:r=30,format=rgb24 -frames:v 3 -vf scale={filter},format=yuv420p -c:v libx264 -crf 1 {tags} -f mpegts -"
        ));
        for target in [TARGET, Size::new(64, 64), Size::new(100, 60)] {
            let mut config = input_config(target);
            config.format = PixelFormat::Rgb24;
            let (got, ..) = read_segments(config, &[&bytes], 1000);
            let pixel = &got.frames[0].data[..3];
            for (have, want) in pixel.iter().zip([0xC8u8, 0x28, 0x5A]) {
                assert!(have.abs_diff(want) <= 4, "{filter} {target}: {pixel:?}");
            }
        }
        let (got, ..) = read_segments(input_config(TARGET), &[&bytes], 1000);
        let color = got.frames[0].color;
        assert_eq!(format!("{:?}", color.matrix), matrix, "{filter}");
        assert_eq!((color.full_range, color.tagged), (filter.ends_with("pc"), !tags.is_empty()));
    }
}
