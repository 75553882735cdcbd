//! From a channel to a peer: a transport stream apart into access units and packets of sound.

use bytes::Bytes;

use super::Metrics;
use super::gate::Remote;
use super::peer::{Command, SampleKind};
use crate::frame::Timestamp;
use crate::media::ts::demux::{DemuxConfig, DemuxSink, Demuxer, Stream, StreamKind, Unit};
use crate::media::ts::opus;
use crate::media::{Damage, VideoCodec};
use crate::trickle::{Client, Start, Subscriber};

/// Reads the channel at `url` from `start` on and tells `remote` until either ends. Returns why, for the log.
pub async fn run(client: Client, url: String, start: Start, remote: Remote, metrics: Metrics) -> String {
    let mut subscriber = match Subscriber::new(&client, &url, start) {
        Ok(subscriber) => subscriber,
        Err(error) => return error.to_string(),
    };
    let mut demux = Demuxer::new(DemuxConfig::default());
    let mut sink = Sink { remote, metrics };
    loop {
        let mut segment = match subscriber.next().await {
            Ok(Some(segment)) => segment,
            Ok(None) => return "the stream ended".into(),
            Err(error) => return error.to_string(),
        };
        demux.segment_start();
        loop {
            match segment.chunk().await {
                Ok(Some(bytes)) => demux.push(&bytes, &mut sink),
                Ok(None) => break demux.segment_end(&mut sink),
                Err(error) => {
                    tracing::debug!(%error, "A segment for a peer broke off.");
                    break;
                }
            }
        }
    }
}

struct Sink {
    remote: Remote,
    metrics: Metrics,
}

impl Sink {
    fn send(&self, kind: SampleKind, pts: i64, data: &[u8]) {
        if !self.remote.tell(Command::Media { kind, pts, data: Bytes::copy_from_slice(data) }) {
            self.metrics.count("media_dropped");
        }
    }
}

impl DemuxSink for Sink {
    fn streams(&mut self, _: &[Stream]) {}

    fn unit(&mut self, unit: Unit<'_>) {
        let Some(pts) = unit.pts else { return };
        match unit.kind {
            StreamKind::H264 => self.send(SampleKind::Video(VideoCodec::H264), pts.0, unit.data),
            StreamKind::Vp8 => self.send(SampleKind::Video(VideoCodec::Vp8), pts.0, unit.data),
            StreamKind::Opus { .. } => {
                let mut at = pts.0;
                for packet in opus::Packets::new(unit.data) {
                    self.send(SampleKind::Audio, at, packet.data);
                    at += packet.duration;
                }
            }
            // Peers take nothing else.
            StreamKind::Aac | StreamKind::Unsupported { .. } => self.metrics.count("media_dropped"),
        }
    }

    fn damage(&mut self, damage: Damage) {
        tracing::debug!(%damage, "Damage on the way to a peer.");
    }

    fn jump(&mut self, _: Timestamp, _: Timestamp) {}
}
