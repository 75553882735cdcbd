//! Audio goes around the pipeline and would arrive ahead of the video by the model's delay. Here it waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::AudioPacket;
use crate::frame::Timestamp;

/// Rules of an [`AudioHold`].
#[derive(Clone, Copy, Debug)]
pub struct HoldConfig {
    /// Packets held at most; the oldest is dropped for a further one.
    pub max_packets: usize,
    /// Ticks of 90 kHz from the oldest to the newest held packet at most; older ones are dropped.
    pub max_span: i64,
    /// How far ahead of the last video frame audio may go out, in ticks.
    pub lead: i64,
    /// Audio more than this before the first video frame is dropped, in ticks.
    pub max_early: i64,
    /// Without video for this long, audio goes out alone.
    pub patience: Duration,
}

impl Default for HoldConfig {
    fn default() -> Self {
        Self {
            max_packets: 1024,
            max_span: 10 * Timestamp::HZ,
            lead: Timestamp::HZ / 20,
            max_early: 2 * Timestamp::HZ,
            patience: Duration::from_secs(3),
        }
    }
}

/// Counters of an [`AudioHold`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldStats {
    /// Packets that went out.
    pub released: u64,
    /// Of these, the ones that went out since there was no video.
    pub released_alone: u64,
    /// Packets dropped since too many were held.
    pub dropped_full: u64,
    /// Packets dropped since they lay too long before the first video frame.
    pub dropped_early: u64,
}

/// Holds audio packets until the video of their time has gone out. Pure: time comes in as an argument.
#[derive(Debug)]
pub struct AudioHold {
    config: HoldConfig,
    held: VecDeque<AudioPacket>,
    video: Option<Timestamp>,
    /// When a frame last went out; before the first, when the first packet came.
    since: Option<Instant>,
    stats: HoldStats,
}

impl AudioHold {
    /// An empty one.
    pub fn new(config: HoldConfig) -> Self {
        Self { config, held: VecDeque::new(), video: None, since: None, stats: HoldStats::default() }
    }

    /// Counters so far.
    pub fn stats(&self) -> HoldStats {
        self.stats
    }

    /// Packets held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes a packet.
    pub fn push(&mut self, packet: AudioPacket, now: Instant) {
        self.since.get_or_insert(now);
        let newest = packet.pts;
        self.held.push_back(packet);
        while self.held.len() > self.config.max_packets.max(1)
            || self.held.front().is_some_and(|p| newest.since(p.pts) > self.config.max_span)
        {
            self.held.pop_front();
            self.stats.dropped_full += 1;
        }
    }

    /// A video frame of this time has gone out.
    pub fn video(&mut self, pts: Timestamp, now: Instant) {
        if self.video.replace(pts).is_none() {
            let before = self.held.len();
            self.held.retain(|p| pts.since(p.pts) <= self.config.max_early);
            self.stats.dropped_early += (before - self.held.len()) as u64;
        }
        self.since = Some(now);
    }

    /// The next packet that may go out, if one may.
    pub fn take(&mut self, now: Instant) -> Option<AudioPacket> {
        let first = self.held.front()?;
        let alone = self.since.is_some_and(|since| now.saturating_duration_since(since) >= self.config.patience);
        // A packet far ahead belongs to a time line that the video has left or not yet reached; waiting would not help.
        let due = self.video.is_some_and(|video| {
            let ahead = first.pts.since(video);
            ahead <= self.config.lead || ahead > self.config.max_span
        });
        if !due && !alone {
            return None;
        }
        self.stats.released += 1;
        self.stats.released_alone += u64::from(!due);
        self.held.pop_front()
    }

    /// When [`Self::take`] gives something even if no frame goes out before.
    pub fn deadline(&self) -> Option<Instant> {
        self.held.front()?;
        Some(self.since? + self.config.patience)
    }

    /// Drops everything, for the next stream.
    pub fn clear(&mut self) {
        *self = Self::new(self.config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::PacketCodec;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn packet(pts: i64) -> AudioPacket {
        AudioPacket {
            codec: PacketCodec::Opus,
            pts: Timestamp(pts),
            duration: 1800,
            data: Bytes::from_static(&[0xF8]),
            rate: 48_000,
            channels: 1,
            config: Bytes::new(),
        }
    }

    fn drain(hold: &mut AudioHold, now: Instant) -> Vec<i64> {
        std::iter::from_fn(|| hold.take(now)).map(|p| p.pts.0).collect()
    }

    #[test]
    fn audio_waits_for_its_video() {
        let (mut hold, now) = (AudioHold::new(HoldConfig { lead: 0, ..HoldConfig::default() }), Instant::now());
        (0..10).for_each(|n| hold.push(packet(n * 1800), now));
        assert!(drain(&mut hold, now).is_empty());
        hold.video(Timestamp(3600), now);
        assert_eq!(drain(&mut hold, now), [0, 1800, 3600]);
        hold.video(Timestamp(6600), now);
        assert_eq!(drain(&mut hold, now), [5400]);
    }

    #[test]
    fn without_video_it_goes_alone_after_a_while() {
        let (mut hold, now) = (AudioHold::new(HoldConfig::default()), Instant::now());
        hold.push(packet(0), now);
        assert_eq!(hold.deadline(), Some(now + Duration::from_secs(3)));
        assert!(drain(&mut hold, now + Duration::from_millis(2999)).is_empty());
        assert_eq!(drain(&mut hold, now + Duration::from_secs(3)), [0]);
        // Video takes over when it comes.
        let later = now + Duration::from_secs(4);
        hold.video(Timestamp(1800), later);
        hold.push(packet(90_000), later);
        assert!(drain(&mut hold, later).is_empty());
        assert_eq!(hold.stats().released_alone, 1);
    }

    #[test]
    fn audio_long_before_the_first_frame_is_dropped() {
        let (mut hold, now) = (AudioHold::new(HoldConfig::default()), Instant::now());
        [0, 100_000, 290_000].into_iter().for_each(|t| hold.push(packet(t), now));
        hold.video(Timestamp(270_001), now);
        assert_eq!(drain(&mut hold, now), [100_000]);
        assert_eq!(hold.stats().dropped_early, 1);
    }

    #[test]
    fn a_jump_back_of_the_video_does_not_lock_audio_in() {
        let (mut hold, now) = (AudioHold::new(HoldConfig::default()), Instant::now());
        hold.video(Timestamp(9_000_000), now);
        hold.push(packet(9_090_000), now);
        hold.push(packet(0), now);
        hold.video(Timestamp(0), now);
        assert_eq!(drain(&mut hold, now), [9_090_000, 0]);
    }

    proptest! {
        #[test]
        fn it_stays_bounded_and_in_order(steps in prop::collection::vec((any::<bool>(), 0i64..5_000_000), 0..400)) {
            let config = HoldConfig { max_packets: 16, ..HoldConfig::default() };
            let (mut hold, now) = (AudioHold::new(config), Instant::now());
            let (mut pushed, mut out) = (0u64, 0u64);
            for (video, pts) in steps {
                if video {
                    hold.video(Timestamp(pts), now);
                } else {
                    hold.push(packet(pts), now);
                    pushed += 1;
                }
                out += drain(&mut hold, now).len() as u64;
                prop_assert!(hold.len() <= 16);
            }
            let stats = hold.stats();
            prop_assert_eq!(pushed, out + hold.len() as u64 + stats.dropped_full + stats.dropped_early);
        }
    }
}
