//! The queue before the encoder: pictures and audio of one session, in order of arrival within each kind.
//!
//! Pictures are few and the oldest gives way (loss point B); audio packets are small and many. The encoder always sees
//! waiting audio first, since it only holds it until the picture of the same time is out.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::refusal::Refusal;
use crate::frame::{Stamps, Timestamp, VideoFrame};
use crate::media::AudioPacket;

/// Pictures that may wait for the encoder: a burst of the input, which a gateway's segmenter sends every few hundred
/// milliseconds.
const VIDEO: usize = 24;
/// Audio packets that may wait for the encoder: over four seconds of 20 ms packets.
const AUDIO: usize = 256;

/// A frame without its picture.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Number of the frame within the session.
    pub seq: u64,
    /// The input's time stamp.
    pub pts: Timestamp,
    /// Stages passed so far.
    pub stamps: Stamps,
}

/// One output picture.
#[derive(Debug)]
pub enum Picture {
    /// What the model made.
    Frame(VideoFrame),
    /// What the model made of the frame before, which this one is too similar to.
    Similar(VideoFrame),
    /// What is shown in place of what the model made, which its safety checker withholds.
    Withheld(VideoFrame),
    /// A picture that the model did not make, in place of one that failed.
    Instead(VideoFrame),
    /// The last good picture once more, at this time.
    Repeat(Meta),
    /// The overlay, at this time.
    Overlay(Meta),
}

/// What the encoder gets next.
#[derive(Debug)]
pub enum Next {
    /// A packet of audio.
    Audio(AudioPacket),
    /// A picture.
    Video(Picture),
    /// Nothing came in time.
    Nothing,
    /// Both kinds are closed and empty.
    Closed,
}

#[derive(Default)]
struct State {
    video: VecDeque<Picture>,
    audio: VecDeque<AudioPacket>,
    video_closed: bool,
    audio_closed: bool,
}

/// The queue before the encoder.
pub struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
    refusal: Refusal,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            video: VecDeque::with_capacity(VIDEO + 1),
            audio: VecDeque::with_capacity(AUDIO + 1),
            ..State::default()
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), refusal: Refusal::default() }
    }

    /// The same queue, which pretends to be full of pictures as often as `refusal` says.
    pub fn refusing(self, refusal: Refusal) -> Self {
        Self { refusal, ..self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, and the state is valid between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a picture; returns the one that had to go.
    pub fn video(&self, picture: Picture) -> Option<Picture> {
        let mut state = self.lock();
        if state.video_closed {
            return Some(picture);
        }
        state.video.push_back(picture);
        let full = state.video.len() > VIDEO || self.refusal.strikes();
        let displaced = if full { state.video.pop_front() } else { None };
        drop(state);
        self.changed.notify_one();
        displaced
    }

    /// Adds audio; returns the packet that had to go.
    pub fn audio(&self, packet: AudioPacket) -> Option<AudioPacket> {
        let mut state = self.lock();
        if state.audio_closed {
            return Some(packet);
        }
        state.audio.push_back(packet);
        let displaced = if state.audio.len() > AUDIO { state.audio.pop_front() } else { None };
        drop(state);
        self.changed.notify_one();
        displaced
    }

    /// Waits until `deadline` for something to encode. `choose` gets the number of waiting pictures and says how many of the
    /// oldest to skip; each of those goes to `dropped`.
    pub fn pop(
        &self,
        deadline: Instant,
        choose: impl FnOnce(usize) -> usize,
        mut dropped: impl FnMut(Picture),
    ) -> Next {
        let mut state = self.lock();
        loop {
            if let Some(packet) = state.audio.pop_front() {
                return Next::Audio(packet);
            }
            if !state.video.is_empty() {
                let skip = choose(state.video.len()).min(state.video.len() - 1);
                state.video.drain(..skip).for_each(&mut dropped);
                if let Some(picture) = state.video.pop_front() {
                    return Next::Video(picture);
                }
                return Next::Nothing;
            }
            if state.video_closed && state.audio_closed {
                return Next::Closed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Nothing;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// No more pictures come.
    pub fn close_video(&self) {
        self.lock().video_closed = true;
        self.changed.notify_all();
    }

    /// No more audio comes.
    pub fn close_audio(&self) {
        self.lock().audio_closed = true;
        self.changed.notify_all();
    }

    /// Closes both kinds and empties them. Returns how many pictures and audio packets were lost.
    pub fn abort(&self) -> (usize, usize) {
        let mut state = self.lock();
        state.video_closed = true;
        state.audio_closed = true;
        let packets = state.audio.len();
        state.audio.clear();
        let pictures = std::mem::take(&mut state.video);
        drop(state);
        self.changed.notify_all();
        (pictures.len(), packets)
    }

    /// When the picture that has been waiting for longest came out of the stage before.
    pub fn oldest(&self) -> Option<Instant> {
        let stamps = self.lock().video.front().map(|picture| match picture {
            Picture::Frame(frame) | Picture::Similar(frame) | Picture::Withheld(frame) | Picture::Instead(frame) => {
                frame.stamps
            }
            Picture::Repeat(meta) | Picture::Overlay(meta) => meta.stamps,
        })?;
        stamps.done.or(stamps.decoded)
    }

    /// Pictures that wait.
    pub fn pictures(&self) -> usize {
        self.lock().video.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(seq: u64) -> Picture {
        Picture::Overlay(Meta { seq, pts: Timestamp(seq as i64), stamps: Stamps::default() })
    }

    fn seq(next: &Next) -> Option<u64> {
        match next {
            Next::Video(Picture::Overlay(meta)) => Some(meta.seq),
            _ => None,
        }
    }

    #[test]
    fn a_burst_of_ten_pictures_passes_whole() {
        let outbox = Outbox::new();
        for number in 0..10 {
            assert!(outbox.video(picture(number)).is_none());
        }
        for number in 0..10 {
            let next = outbox.pop(Instant::now(), |_| 0, |_| panic!("nothing is skipped"));
            assert_eq!(seq(&next), Some(number));
        }
    }

    #[test]
    fn a_slow_encoder_gets_the_newest_and_the_rest_is_told() {
        let outbox = Outbox::new();
        for number in 0..5 {
            outbox.video(picture(number));
        }
        let mut skipped = 0;
        let next = outbox.pop(Instant::now(), |waiting| waiting - 1, |_| skipped += 1);
        assert_eq!((seq(&next), skipped), (Some(4), 4));
    }

    #[test]
    fn the_oldest_picture_gives_way_when_all_places_are_taken() {
        let outbox = Outbox::new();
        let displaced: Vec<_> = (0..VIDEO as u64 + 2).filter_map(|number| outbox.video(picture(number))).collect();
        assert_eq!(displaced.len(), 2);
        assert!(matches!(&displaced[0], Picture::Overlay(meta) if meta.seq == 0));
    }
}
