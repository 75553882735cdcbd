//! Looks at every picture of a recorded output and says whether it is what the pipeline should have made.
//!
//! The test picture carries its number and its time stamp follows from it, so each output picture can be traced to the
//! one input picture it came from.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use crate::cli::rig::RigError;
use crate::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use crate::media::{AudioPacket, Input, InputConfig, InputEvent, InputSink, Pattern, pattern};

/// Ticks of 90 kHz after the first picture within which pictures may be missing.
const WARM_UP: i64 = Timestamp::HZ;
/// Share of pictures that may be missing afterwards.
const MISSING: f64 = 0.01;
/// Mean difference of luma, 0 to 255, up to which a picture counts as the expected one. It was coded twice.
const NEAR: f64 = 6.0;
/// Longest distance between the first picture and the first sound in ticks of 90 kHz.
const APART: i64 = Timestamp::HZ / 2;

/// What the output should show.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The test picture at the input; `None` for another source, whose contents are not known.
    pub pattern: Option<(Size, f64)>,
    /// How bright a sample becomes, 0 to 1: 0 for an untouched picture, 1 for an inverted one. `None` for a pipeline whose
    /// pictures are not known.
    pub inversion: Option<f64>,
    /// Size of the output.
    pub size: Size,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is as it should be.
    pub good: bool,
    /// What was found.
    pub text: String,
}

/// What became of a check.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
    /// Pictures.
    pub pictures: u64,
}

impl Verdict {
    /// Whether everything is as it should be.
    pub fn good(&self) -> bool {
        self.findings.iter().all(|finding| finding.good)
    }

    fn say(&mut self, good: bool, text: impl Into<String>) {
        self.findings.push(Finding { good, text: text.into() });
    }
}

/// Decodes the transport stream in the file `path` and compares it with what is expected.
///
/// # Errors
/// The file cannot be read, or the decoder does not open.
pub fn check(path: &Path, expected: &Expected) -> Result<Verdict, RigError> {
    let mut file = std::fs::File::open(path).map_err(RigError::Record)?;
    let config = InputConfig {
        target: expected.size,
        format: PixelFormat::I420,
        media: crate::media::Config::default(),
        pool: FramePool::new(4),
    };
    let mut input = Input::new(config)?;
    let mut seen = Seen::new(expected)?;
    let mut bytes = vec![0; 188 * 256];
    input.segment_start();
    loop {
        match file.read(&mut bytes).map_err(RigError::Record)? {
            0 => break,
            count => input.push(&bytes[..count], Instant::now(), &mut seen)?,
        }
    }
    input.segment_end(&mut seen)?;
    input.finish(&mut seen);
    Ok(seen.verdict(expected))
}

/// What is remembered of a stream while it is decoded.
struct Seen {
    pattern: Option<Pattern>,
    /// The expected picture before its expected change, where it can be compared sample by sample.
    compare: bool,
    inversion: Option<f64>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    pictures: u64,
    backwards: u64,
    unreadable: Vec<Timestamp>,
    numbers: Vec<u32>,
    wrong_time: u64,
    wrong_way: u64,
    differences: Vec<f64>,
    steps: BTreeMap<i64, u64>,
    sounds: u64,
    sound_ticks: i64,
    first_sound: Option<Timestamp>,
    last_sound: Option<Timestamp>,
    sounds_backwards: u64,
    damage: u64,
    shape: Option<Size>,
}

impl Seen {
    fn new(expected: &Expected) -> Result<Self, RigError> {
        let pattern = match expected.pattern {
            Some((size, fps)) => Some(Pattern::new(size, fps)?),
            None => None,
        };
        let compare = expected.pattern.is_some_and(|(size, _)| size == expected.size) && expected.inversion.is_some();
        Ok(Self {
            pattern,
            compare,
            inversion: expected.inversion,
            first: None,
            last: None,
            pictures: 0,
            backwards: 0,
            unreadable: Vec::new(),
            numbers: Vec::new(),
            wrong_time: 0,
            wrong_way: 0,
            differences: Vec::new(),
            steps: BTreeMap::new(),
            sounds: 0,
            sound_ticks: 0,
            first_sound: None,
            last_sound: None,
            sounds_backwards: 0,
            damage: 0,
            shape: None,
        })
    }

    fn warm(&self, pts: Timestamp) -> bool {
        self.first.is_some_and(|first| pts.since(first) >= WARM_UP)
    }

    fn verdict(mut self, expected: &Expected) -> Verdict {
        let mut verdict = Verdict { pictures: self.pictures, ..Verdict::default() };
        let (Some(first), Some(last)) = (self.first, self.last) else {
            verdict.say(false, "There is no picture in the output.");
            return verdict;
        };
        let seconds = last.since(first) as f64 / Timestamp::HZ as f64;
        verdict.say(
            self.shape == Some(expected.size),
            format!("{} pictures over {seconds:.1} s, {}", self.pictures, expected.size),
        );
        verdict.say(self.backwards == 0, format!("time stamps rise ({} do not)", self.backwards));
        verdict
            .say(self.damage == 0, format!("transport stream and pictures are whole ({} damaged pieces)", self.damage));
        if self.pattern.is_some() {
            self.numbers(&mut verdict);
        } else {
            let usual = self.steps.iter().max_by_key(|(_, count)| **count).map_or(0, |(step, _)| *step);
            let odd: u64 =
                self.steps.iter().filter(|(step, _)| (**step - usual).abs() > usual / 2).map(|(_, n)| n).sum();
            let share = odd as f64 / self.pictures.max(1) as f64;
            verdict.say(share < MISSING, format!("spacing of {usual} ticks ({odd} pictures off it)"));
        }
        self.sound(&mut verdict, first, seconds);
        verdict
    }

    fn numbers(&mut self, verdict: &mut Verdict) {
        let Some(pattern) = &self.pattern else { return };
        let late = self.unreadable.iter().filter(|pts| self.warm(**pts)).count();
        let early = self.unreadable.len() - late;
        verdict.say(late == 0, format!("every number is readable ({late} not, {early} in the first second)"));
        let rising = self.numbers.windows(2).all(|pair| pair[0] < pair[1]);
        verdict.say(rising, "numbers rise strictly");
        let start = self.first.map_or(0, |first| first.0 + WARM_UP);
        let after: Vec<u32> = self.numbers.iter().copied().filter(|number| pattern.pts(*number).0 >= start).collect();
        match (after.first(), after.last()) {
            (Some(first), Some(last)) => {
                let due = u64::from(last - first) + 1;
                let missing = due.saturating_sub(after.len() as u64);
                let share = missing as f64 / due as f64;
                verdict.say(share < MISSING, format!("{missing} of {due} pictures missing ({:.2} %)", share * 100.0));
            }
            _ => verdict.say(false, "no number after the first second"),
        }
        verdict.say(self.wrong_time == 0, format!("time stamps are those of the input ({} are not)", self.wrong_time));
        match self.inversion {
            None => {}
            // Grey throughout shows no number either way.
            Some(inversion) => {
                let way = if inversion > 0.5 { "inverted" } else { "not inverted" };
                verdict.say(self.wrong_way == 0, format!("pictures are {way} ({} are otherwise)", self.wrong_way));
            }
        }
        if self.compare {
            self.differences.sort_by(f64::total_cmp);
            let count = self.differences.len();
            let at = |quantile: f64| self.differences.get((count as f64 * quantile) as usize).copied().unwrap_or(255.0);
            let (middle, most) = (at(0.5), self.differences.last().copied().unwrap_or(255.0));
            verdict.say(
                most < NEAR,
                format!(
                    "samples are the expected ones (luma off by {middle:.2} in the median picture, {most:.2} at most)"
                ),
            );
        }
    }

    fn sound(&self, verdict: &mut Verdict, first: Timestamp, seconds: f64) {
        let Some(first_sound) = self.first_sound else {
            // Only the test source is known to have sound.
            if self.pattern.is_some() {
                verdict.say(false, "There is no sound in the output.");
            }
            return;
        };
        let heard = self.sound_ticks as f64 / Timestamp::HZ as f64;
        let apart = first_sound.since(first);
        verdict.say(
            heard > seconds * 0.97 - 0.5,
            format!("{heard:.1} s of sound in {} packets beside {seconds:.1} s of pictures", self.sounds),
        );
        verdict.say(
            self.sounds_backwards == 0 && apart.abs() <= APART,
            format!("sound begins {:.0} ms from the first picture and rises", apart as f64 / 90.0),
        );
    }
}

impl InputSink for Seen {
    fn video(&mut self, frame: VideoFrame) {
        let pts = frame.pts;
        self.pictures += 1;
        self.first.get_or_insert(pts);
        if let Some(last) = self.last {
            self.backwards += u64::from(pts <= last);
            *self.steps.entry(pts.since(last)).or_insert(0) += 1;
        }
        self.last = Some(pts);
        let Some(pattern) = &self.pattern else { return };
        let Some(reading) = pattern::read(&frame) else {
            self.unreadable.push(pts);
            return;
        };
        self.numbers.push(reading.number);
        self.wrong_time += u64::from((pattern.pts(reading.number).0 - pts.0).abs() > 1);
        let Some(inversion) = self.inversion else { return };
        self.wrong_way += u64::from(reading.inverted != (inversion > 0.5));
        if self.compare {
            let wanted = pattern.owned_frame(reading.number);
            self.differences.push(difference(&wanted, &frame, inversion));
        }
    }

    fn audio(&mut self, packet: AudioPacket) {
        self.sounds += 1;
        self.sound_ticks += packet.duration;
        self.first_sound.get_or_insert(packet.pts);
        self.sounds_backwards += u64::from(self.last_sound.is_some_and(|last| packet.pts <= last));
        self.last_sound = Some(packet.pts);
    }

    fn event(&mut self, event: InputEvent) {
        match event {
            InputEvent::Damage(_) => self.damage += 1,
            InputEvent::FormatChanged { size, .. } => self.shape = Some(size),
            _ => {}
        }
    }
}

/// Mean difference of luma between `wanted`, inverted as far as `inversion` says, and `got`.
fn difference(wanted: &VideoFrame, got: &VideoFrame, inversion: f64) -> f64 {
    let ([wanted, ..], [got, ..]) = (wanted.planes(), got.planes());
    // Inverting RGB mirrors luma between 16 and 235.
    let sum: f64 = wanted
        .iter()
        .zip(got)
        .map(|(&wanted, &got)| {
            let wanted = f64::from(wanted);
            (wanted + (251.0 - 2.0 * wanted) * inversion - f64::from(got)).abs()
        })
        .sum();
    sum / wanted.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::{AudioCodec, Chunk, Output, OutputConfig, SegmentSink, Tone};

    const SIZE: Size = Size::new(256, 256);

    #[derive(Default)]
    struct Stream(Vec<u8>);

    impl SegmentSink for Stream {
        fn begin(&mut self, _: Timestamp) {}

        fn bytes(&mut self, bytes: bytes::Bytes, _: Chunk) {
            self.0.extend_from_slice(&bytes);
        }

        fn end(&mut self) {}
    }

    /// A stream of 90 pictures, of which `change` may alter or leave out each, with sound or without.
    fn verdict(sound: bool, mut change: impl FnMut(VideoFrame) -> Option<VideoFrame>) -> Verdict {
        let media = crate::media::Config { audio: AudioCodec::Aac, ..Default::default() };
        let mut output = Output::new(OutputConfig { size: SIZE, fps_hint: 30.0, media }).unwrap();
        output.announce(true, sound.then_some(1));
        let (pattern, mut tone) = (Pattern::new(SIZE, 30.0).unwrap(), Tone::new(440.0, 1).unwrap());
        let mut stream = Stream::default();
        for number in 0..90 {
            let frame = pattern.owned_frame(number);
            if sound {
                let mut packets = Vec::new();
                tone.until(frame.pts, &mut |packet| packets.push(packet)).unwrap();
                packets.iter().for_each(|packet| output.audio(packet, &mut stream).unwrap());
            }
            if let Some(frame) = change(frame) {
                output.video(&frame, &mut stream).unwrap();
            }
        }
        output.finish(&mut stream).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ts");
        std::fs::write(&path, &stream.0).unwrap();
        check(&path, &Expected { pattern: Some((SIZE, 30.0)), inversion: Some(0.0), size: SIZE }).unwrap()
    }

    fn bad(verdict: &Verdict) -> String {
        let bad: Vec<_> = verdict.findings.iter().filter(|f| !f.good).map(|f| f.text.as_str()).collect();
        bad.join("; ")
    }

    #[test]
    fn a_good_stream_is_right() {
        let verdict = verdict(true, Some);
        assert!(verdict.good(), "{}", bad(&verdict));
        assert_eq!(verdict.pictures, 90);
    }

    #[test]
    fn every_fault_is_found() {
        let missing = verdict(true, |frame| (frame.seq != 50).then_some(frame));
        assert!(bad(&missing).contains("1 of 60 pictures missing"), "{}", bad(&missing));
        let early = verdict(true, |frame| (frame.seq != 9).then_some(frame));
        assert!(early.good(), "{}", bad(&early));
        let inverted = verdict(true, |mut frame| {
            if frame.seq == 60 {
                frame.planes_mut()[0].iter_mut().for_each(|sample| *sample = 251 - *sample);
            }
            Some(frame)
        });
        assert!(bad(&inverted).contains("not inverted (1"), "{}", bad(&inverted));
        let late = verdict(true, |mut frame| {
            frame.pts.0 += if frame.seq > 40 { 1500 } else { 0 };
            Some(frame)
        });
        assert!(bad(&late).contains("those of the input (49"), "{}", bad(&late));
        let dark = verdict(true, |mut frame| {
            frame.planes_mut()[0].iter_mut().for_each(|sample| *sample = (*sample).saturating_sub(20));
            Some(frame)
        });
        assert!(bad(&dark).contains("samples"), "{}", bad(&dark));
        let grey = verdict(true, |mut frame| {
            if frame.seq == 70 {
                frame.planes_mut()[0].fill(128);
            }
            Some(frame)
        });
        assert!(bad(&grey).contains("readable (1 not"), "{}", bad(&grey));
        let silent = verdict(false, Some);
        assert!(bad(&silent).contains("no sound"), "{}", bad(&silent));
        let nothing = verdict(true, |_| None);
        assert!(!nothing.good());
    }
}
