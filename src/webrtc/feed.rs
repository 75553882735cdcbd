//! From a peer to a channel: access units into a transport stream, a segment every two seconds.
//!
//! Both tracks get one time line: a track's first sample stands where its arrival puts it, and the ones after it by the
//! track's own time stamps. A track whose stamps leave the clock by more than `JUMP` is set anew.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::peer::{Sample, SampleKind};
use crate::frame::Timestamp;
use crate::media::ts::mux::{Mux, MuxAudio, MuxStreams};
use crate::media::{PacketCodec, VideoCodec};
use crate::trickle::{Begin, Client, Publisher, SegmentWriter, TrickleError};

/// Where the time line begins, so that the program clock, which runs ahead, does not begin below zero.
const FIRST: i64 = Timestamp::HZ;
/// A track may stray from the clock by this much, in ticks of 90 kHz.
const JUMP: i64 = 2 * Timestamp::HZ;
/// Segments are cut at a key picture after the first of these, and anywhere after the second.
const SEGMENT: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(4);

/// A track's place on the time line.
#[derive(Default)]
struct Track {
    /// From the track's time to ours.
    offset: Option<i64>,
    last: i64,
}

impl Track {
    fn place(&mut self, time: i64, clock: i64) -> i64 {
        let offset = self.offset.filter(|offset| (time + offset - clock).abs() <= JUMP).unwrap_or(clock - time);
        self.offset = Some(offset);
        // A jump back would make the next samples look old.
        self.last = (time + offset).max(self.last + 1);
        self.last
    }
}

/// Turns samples into the bytes of a transport stream.
#[derive(Default)]
pub struct Packer {
    mux: Mux,
    streams: MuxStreams,
    began: Option<Instant>,
    video: Track,
    audio: Track,
}

impl Packer {
    /// One sample as packets, behind new tables where it is the first of its stream.
    pub fn push(&mut self, sample: &Sample) -> Vec<u8> {
        let mut bytes = if self.news(sample) { self.tables().to_vec() } else { Vec::new() };
        bytes.extend(self.pack(sample).unwrap_or_default());
        bytes
    }

    /// Whether `sample` is of a stream that the tables do not have yet.
    fn news(&mut self, sample: &Sample) -> bool {
        let before = self.streams;
        match sample.kind {
            SampleKind::Video(codec) => self.streams.video = Some(codec),
            // Opus in WebRTC always counts as two channels; what a packet holds stands in it.
            SampleKind::Audio => self.streams.audio = Some(MuxAudio { codec: PacketCodec::Opus, channels: 2 }),
        }
        before != self.streams
    }

    /// The tables of the streams seen so far.
    fn tables(&mut self) -> Bytes {
        self.mux.tables(self.streams)
    }

    /// One sample as packets. `None` for one that cannot be carried.
    fn pack(&mut self, sample: &Sample) -> Option<Bytes> {
        let began = *self.began.get_or_insert(sample.arrived);
        let clock = FIRST + (sample.arrived.saturating_duration_since(began).as_micros() as i64) * 9 / 100;
        match sample.kind {
            SampleKind::Video(_) => {
                let pts = self.video.place(sample.time, clock);
                Some(self.mux.video(&sample.data, pts, sample.key, false))
            }
            SampleKind::Audio => {
                let pts = self.audio.place(sample.time, clock);
                self.mux.audio(PacketCodec::Opus, &[], &sample.data, pts, false)
            }
        }
    }
}

/// Writes samples to the channel at `url` until they end, then closes it. Returns why it ended before that, if it did.
pub async fn run(client: Client, url: String, mut samples: mpsc::Receiver<Sample>) -> Option<String> {
    let mut publisher = match Publisher::open(&client, &url, "video/mp2t", Begin::Zero).await {
        Ok(publisher) => publisher,
        Err(error) => return Some(error.to_string()),
    };
    let mut feed = Feed { packer: Packer::default(), writer: None, since: Instant::now() };
    let mut fault = None;
    while let Some(sample) = samples.recv().await {
        if let Err(error) = feed.write(&mut publisher, &sample).await {
            if error.is_end() {
                fault = Some(error.to_string());
                break;
            }
            tracing::debug!(%error, "A segment of a peer's media broke off.");
            feed.writer = None;
        }
    }
    if let Some(writer) = feed.writer.take() {
        // Its reader learns of the end by the channel's.
        let _ = writer.finish().await;
    }
    let _ = publisher.close(true).await;
    fault
}

struct Feed {
    packer: Packer,
    writer: Option<SegmentWriter>,
    since: Instant,
}

impl Feed {
    async fn write(&mut self, publisher: &mut Publisher, sample: &Sample) -> Result<(), TrickleError> {
        let news = self.packer.news(sample);
        let age = self.since.elapsed();
        let video = self.packer.streams.video.is_some();
        let due = age >= SEGMENT && (sample.key || !video) || age >= LONGEST;
        if due && let Some(writer) = self.writer.take() {
            writer.finish().await?;
        }
        let fresh = self.writer.is_none();
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                self.since = Instant::now();
                publisher.begin().await?
            }
        };
        if fresh || news {
            let tables = self.packer.tables();
            writer.write(tables).await?;
        }
        if let Some(bytes) = self.packer.pack(sample) {
            writer.write(bytes).await?;
        }
        self.writer = Some(writer);
        Ok(())
    }
}

/// A codec's name for people.
pub fn codec_name(codec: VideoCodec) -> &'static str {
    match codec {
        VideoCodec::H264 => "H.264",
        VideoCodec::Vp8 => "VP8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::ts::demux::{DemuxConfig, DemuxSink, Demuxer, Stream, StreamKind, Unit};

    #[derive(Default)]
    struct Seen(Vec<(StreamKind, i64, Vec<u8>)>);

    impl DemuxSink for Seen {
        fn streams(&mut self, _: &[Stream]) {}
        fn unit(&mut self, unit: Unit<'_>) {
            self.0.push((unit.kind, unit.pts.expect("a time").0, unit.data.to_vec()));
        }
        fn damage(&mut self, damage: crate::media::Damage) {
            panic!("{damage}");
        }
        fn jump(&mut self, from: Timestamp, to: Timestamp) {
            panic!("{from:?} {to:?}");
        }
    }

    #[test]
    fn tracks_share_a_time_line_and_come_out_as_they_went_in() {
        let (mut packer, start) = (Packer::default(), Instant::now());
        let sample = |kind, time, ms, byte| Sample {
            kind,
            time,
            arrived: start + Duration::from_millis(ms),
            data: vec![byte; 300].into(),
            whole: true,
            key: false,
        };
        let vp8 = SampleKind::Video(VideoCodec::Vp8);
        let mut bytes = Vec::new();
        // The sound comes 10 ms later and its second packet late; the third picture's stamps begin anew.
        for sample in [
            sample(vp8, 1_000_000, 0, 1),
            sample(SampleKind::Audio, 77, 10, 31 << 3),
            sample(vp8, 1_003_000, 34, 2),
            sample(SampleKind::Audio, 1877, 55, 31 << 3),
            sample(vp8, 5_000_000, 66, 3),
        ] {
            bytes.extend(packer.push(&sample));
        }
        let (mut seen, mut demux) = (Seen::default(), Demuxer::new(DemuxConfig::default()));
        demux.push(&bytes, &mut seen);
        let times: Vec<_> = seen.0.iter().map(|(_, pts, _)| *pts).collect();
        assert_eq!(times, [90_000, 90_900, 93_000, 92_700, 95_940]);
        assert_eq!(seen.0[0], (StreamKind::Vp8, 90_000, vec![1; 300]));
        assert!(matches!(seen.0[1].0, StreamKind::Opus { channels: 2 }));
    }
}
