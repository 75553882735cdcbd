//! The frames of one call of the graph, the pictures that its ControlNets are given with them, and what came of the last call.

use std::time::Duration;

use super::canny::Canny;
use super::params::{Live, Shape};
use super::pose::{Detector, PEOPLE};
use super::processors::{Made, Processor};
use crate::frame::PixelFormat;
use crate::inference::InferenceError;

/// What a ControlNet is given.
struct Condition {
    /// The pictures of a call; empty where the graph makes them, and where the frame itself serves.
    pictures: Vec<u8>,
    /// Buffers of the edge finder, once it was asked for.
    canny: Option<Canny>,
}

/// What the host makes of a frame before the model paints over it.
struct Host {
    processors: Vec<Processor>,
    /// Buffers of the edge finders.
    cannies: Vec<Canny>,
    /// The pictures of a call.
    pictures: Vec<u8>,
    /// Of one picture, for what lies between two processors.
    between: Vec<u8>,
}

impl Host {
    /// Writes what becomes of `frame` to the place `slot`. `before` is the last picture, empty where there is none.
    fn run(&mut self, frame: &[u8], before: &[u8], slot: usize) {
        let Self { processors, cannies, pictures, between } = self;
        let Some(to) = pictures.get_mut(slot * frame.len()..(slot + 1) * frame.len()) else { return };
        to.copy_from_slice(frame);
        let mut cannies = cannies.iter_mut();
        for processor in processors {
            match processor {
                Processor::Canny(thresholds) => {
                    let Some(canny) = cannies.next() else { continue };
                    between.copy_from_slice(to);
                    canny.run(between, *thresholds, to);
                }
                Processor::Feedback(share) if !before.is_empty() => {
                    between.copy_from_slice(to);
                    mix(between, before, *share, to);
                }
                _ => {}
            }
        }
    }
}

/// With one frame a call nothing is gathered: the frame and the output's own buffer are used as they are.
pub(super) struct Gather {
    /// Frames a call, F.
    frames: usize,
    /// Bytes of a frame.
    pixels: usize,
    /// Bytes of a picture that is shown.
    shown: usize,
    /// Frames that wait for their call.
    taken: usize,
    /// The frames of a call; empty for F = 1.
    waiting: Vec<u8>,
    /// The pictures of the last call; empty for F = 1.
    made: Vec<u8>,
    conditions: Vec<Condition>,
    /// Where the model paints over something else than the frame.
    host: Option<Host>,
    /// The model's last picture, for frames that are mixed with it; empty until there is one.
    before: Vec<u8>,
    /// Finds the people in a frame, where they are drawn.
    detector: Option<Detector>,
    /// Those of a call; empty where nobody is looked for.
    people: Vec<f32>,
    /// What the conditions are of the next frame.
    preprocessors: Vec<Processor>,
    scales: Vec<f32>,
}

impl Gather {
    /// For streams of `shape` that show pictures of `shown` bytes, with what finds people where the shape asks for that.
    pub fn new(shape: &Shape, shown: usize, detector: Option<Detector>) -> Self {
        let (frames, pixels) = (shape.frame_buffer, PixelFormat::Rgb24.bytes(shape.size));
        let several = if frames > 1 { frames * pixels } else { 0 };
        let host = shape.host.then(|| Host {
            processors: Vec::new(),
            cannies: Vec::new(),
            pictures: vec![0; frames * pixels],
            between: vec![0; pixels],
        });
        let condition = |(_, made): &(String, Made)| Condition {
            pictures: vec![0; if *made == Made::Outside { several } else { 0 }],
            canny: None,
        };
        Self {
            frames,
            pixels,
            shown,
            taken: 0,
            waiting: vec![0; several],
            made: vec![0; if frames > 1 { frames * shown } else { 0 }],
            host,
            conditions: shape.controls.iter().map(condition).collect(),
            before: Vec::new(),
            people: vec![0.0; if detector.is_some() { frames * PEOPLE } else { 0 }],
            detector,
            preprocessors: Vec::new(),
            scales: Vec::new(),
        }
    }

    /// Takes new preprocessors, and makes room for what they make.
    pub fn apply(&mut self, shape: &Shape, live: &Live) {
        self.preprocessors.clone_from(&live.preprocessors);
        self.scales.clone_from(&live.control_scales);
        let size = self.frames * self.pixels;
        for (condition, preprocessor) in self.conditions.iter_mut().zip(&self.preprocessors) {
            match preprocessor {
                one if one.on_host() => condition.pictures.resize(size, 0),
                // The frame itself serves again.
                _ if self.frames == 1 => condition.pictures.clear(),
                _ => {}
            }
            if matches!(preprocessor, Processor::Canny(_)) && condition.canny.is_none() {
                condition.canny = Some(Canny::new(shape.size));
            }
        }
        if let Some(detector) = &mut self.detector {
            let seen = self
                .preprocessors
                .iter()
                .zip(&self.scales)
                .any(|(one, scale)| one.detector().is_some() && *scale != 0.0);
            detector.wanted = seen || live.lists.before.iter().any(|one| one.detector().is_some());
        }
        if let Some(host) = &mut self.host {
            host.processors = live.lists.before.iter().filter(|one| one.on_host()).cloned().collect();
            let cannies = host.processors.iter().filter(|one| matches!(one, Processor::Canny(_))).count();
            host.cannies.resize_with(cannies, || Canny::new(shape.size));
        }
        if self.mixes() {
            self.before.reserve_exact(self.pixels);
        }
    }

    /// Whether the model's last picture is wanted.
    fn mixes(&self) -> bool {
        let host = self.host.iter().flat_map(|host| &host.processors);
        self.preprocessors.iter().chain(host).any(Processor::mixes)
    }

    /// Takes a frame in; with `fill` it stands for every frame of the call. True when the call is complete.
    ///
    /// # Errors
    /// When the people in it cannot be looked for; then it is as if it had not come.
    pub fn take(&mut self, frame: &[u8], fill: bool) -> Result<bool, InferenceError> {
        let (pixels, slot) = (self.pixels, if fill { 0 } else { self.taken });
        if let Some(detector) = &mut self.detector {
            let (own, others) = self.people[slot * PEOPLE..].split_at_mut(PEOPLE);
            detector.find(frame, own)?;
            if fill {
                others.chunks_exact_mut(PEOPLE).for_each(|other| other.copy_from_slice(own));
            }
        }
        for ((condition, preprocessor), scale) in self.conditions.iter_mut().zip(&self.preprocessors).zip(&self.scales)
        {
            let Some(to) = condition.pictures.get_mut(slot * pixels..(slot + 1) * pixels) else { continue };
            // What counts for nothing is not worth finding.
            match (preprocessor, &mut condition.canny) {
                (Processor::Canny(thresholds), Some(canny)) if *scale != 0.0 => canny.run(frame, *thresholds, to),
                (Processor::Feedback(share), _) if !self.before.is_empty() => mix(frame, &self.before, *share, to),
                _ => to.copy_from_slice(frame),
            }
        }
        if let Some(host) = &mut self.host {
            host.run(frame, &self.before, slot);
        }
        if self.frames == 1 {
            return Ok(true);
        }
        self.waiting[slot * pixels..][..pixels].copy_from_slice(frame);
        if fill {
            let host = self.host.iter_mut().map(|host| &mut host.pictures);
            let conditions = self.conditions.iter_mut().map(|condition| &mut condition.pictures);
            let all = conditions.chain([&mut self.waiting]).chain(host);
            for pictures in all.filter(|pictures| !pictures.is_empty()) {
                let (first, others) = pictures.split_at_mut(pixels);
                others.chunks_exact_mut(pixels).for_each(|other| other.copy_from_slice(first));
            }
        }
        self.taken = if fill { self.frames } else { self.taken + 1 };
        Ok(self.taken == self.frames)
    }

    /// The frames of the call, `frame` being the last that was taken in.
    pub fn frames<'a>(&'a self, frame: &'a [u8]) -> &'a [u8] {
        if self.frames == 1 { frame } else { &self.waiting }
    }

    /// Those who are in the frames of the call; empty where nobody is looked for.
    pub fn people(&self) -> &[f32] {
        &self.people
    }

    /// Time that the GPU worked to find them in the last frame, told once.
    pub fn gpu_time(&mut self) -> Option<Duration> {
        self.detector.as_mut()?.gpu_time()
    }

    /// What the model paints over in the call, where that is not the frames.
    pub fn pictures(&self) -> Option<&[u8]> {
        self.host.as_ref().map(|host| &*host.pictures)
    }

    /// What ControlNet `j` is given in the call.
    pub fn condition<'a>(&'a self, j: usize, frame: &'a [u8]) -> &'a [u8] {
        match self.conditions.get(j) {
            Some(condition) if !condition.pictures.is_empty() => &condition.pictures,
            _ => self.frames(frame),
        }
    }

    /// Lends the place for the pictures of the call; give it back to [`Self::give`]. Empty for F = 1.
    pub fn lend(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.made)
    }

    /// The call is over. When it failed, frames that follow show the last picture that there was.
    pub fn give(&mut self, mut made: Vec<u8>, failed: bool) {
        if failed && let Some(last) = made.len().checked_sub(self.shown) {
            let (others, last) = made.split_at_mut(last);
            others.chunks_exact_mut(self.shown).for_each(|other| other.copy_from_slice(last));
        }
        self.made = made;
        self.taken = 0;
    }

    /// Writes the picture whose turn it is, for F > 1.
    pub fn show(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.made[self.taken * self.shown..][..self.shown]);
    }

    /// Keeps the model's last picture where one is wanted: `out` for F = 1.
    pub fn keep(&mut self, out: &[u8]) {
        if self.mixes() {
            let last = if self.frames == 1 { out } else { &self.made[(self.frames - 1) * self.shown..] };
            self.before.clear();
            self.before.extend_from_slice(last);
        }
    }

    /// Forgets everything that frames left behind.
    pub fn reset(&mut self) {
        self.taken = 0;
        self.before.clear();
        self.made.fill(0);
    }
}

/// (1 − share) · frame + share · before, rounded to the nearest.
fn mix(frame: &[u8], before: &[u8], share: f32, to: &mut [u8]) {
    // In units of 2⁻¹⁶: as near as bytes can tell, and in whole numbers.
    let share = (share * 65_536.0).round() as u32;
    for ((to, &a), &b) in to.iter_mut().zip(frame).zip(before) {
        *to = ((u32::from(a) * (65_536 - share) + u32::from(b) * share + 32_768) >> 16) as u8;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::frame::Size;
    use crate::pipeline::Pipeline;
    use crate::pipeline::streamdiffusion::StreamDiffusion;
    use crate::pipeline::streamdiffusion::params::Settings;

    const SIDE: u32 = 8;
    const PIXELS: usize = (SIDE * SIDE * 3) as usize;

    fn settings(frames: u32, preprocessors: [serde_json::Value; 2]) -> Settings {
        let control = |(j, given): (usize, &serde_json::Value)| {
            let mut entry = given.clone();
            entry["model_id"] = json!(format!("weir/tiny-control-{j}"));
            entry
        };
        let list: Vec<_> = preprocessors.iter().enumerate().map(control).collect();
        let params = json!({"model_id": "weir/tiny", "frame_buffer_size": frames, "controlnets": list});
        let checked = StreamDiffusion::PLAIN.check(params.as_object().unwrap()).unwrap();
        let mut settings = Settings::of(&checked).unwrap();
        settings.shape.size = Size::new(SIDE, SIDE);
        settings
    }

    fn gather(frames: u32, preprocessors: [serde_json::Value; 2]) -> Gather {
        let settings = settings(frames, preprocessors);
        let mut gather = Gather::new(&settings.shape, PIXELS, None);
        gather.apply(&settings.shape, &settings.live);
        gather
    }

    /// Left half dark, right half bright.
    fn halves(byte: u8) -> Vec<u8> {
        (0..PIXELS).map(|i| if i / 3 % SIDE as usize >= SIDE as usize / 2 { byte } else { 0 }).collect()
    }

    fn edges(frame: &[u8], thresholds: [f32; 2]) -> Vec<u8> {
        let mut edges = vec![0; PIXELS];
        Canny::new(Size::new(SIDE, SIDE)).run(frame, thresholds, &mut edges);
        edges
    }

    #[test]
    fn each_controlnet_is_given_what_its_preprocessor_makes() {
        let mut one = gather(1, [json!({"preprocessor": "canny"}), json!({})]);
        let frame = halves(200);
        assert!(one.take(&frame, false).unwrap());
        assert!(std::ptr::eq(one.frames(&frame), &*frame) && std::ptr::eq(one.condition(1, &frame), &*frame));
        let want = edges(&frame, [100.0, 200.0]);
        assert!(want.contains(&255) && one.condition(0, &frame) == want);
        // A threshold above every gradient is another picture, and a scale of 0 none that is worth finding.
        let params = json!({"low_threshold": 2000, "high_threshold": 2040});
        let none = settings(1, [json!({"preprocessor": "canny", "preprocessor_params": params}), json!({})]);
        one.apply(&none.shape, &none.live);
        one.take(&frame, false).unwrap();
        assert!(one.condition(0, &frame).iter().all(|&byte| byte == 0));
        let off = settings(1, [json!({"preprocessor": "canny", "conditioning_scale": 0}), json!({})]);
        one.apply(&off.shape, &off.live);
        one.take(&frame, false).unwrap();
        assert!(one.condition(0, &frame) == frame);
    }

    #[test]
    fn what_was_painted_is_mixed_in_from_the_second_frame_on() {
        let share = json!({"preprocessor": "feedback", "preprocessor_params": {"feedback_strength": 0.25}});
        let mut one = gather(1, [json!({}), share]);
        let (frame, painted) = (vec![100; PIXELS], vec![200; PIXELS]);
        one.take(&frame, false).unwrap();
        assert!(one.condition(1, &frame) == frame, "there is nothing to mix in yet");
        one.keep(&painted);
        one.take(&frame, false).unwrap();
        assert!(one.condition(1, &frame) == vec![125; PIXELS] && one.condition(0, &frame) == frame);
        one.reset();
        one.take(&frame, false).unwrap();
        assert!(one.condition(1, &frame) == frame, "the next stream does not see it");
    }

    #[test]
    fn a_call_has_its_frames_in_their_order_and_each_with_its_own_condition() {
        let mut two = gather(2, [json!({"preprocessor": "canny"}), json!({})]);
        let (first, second) = (halves(200), halves(0));
        assert!(!two.take(&first, false).unwrap());
        assert!(two.take(&second, false).unwrap());
        assert!(two.frames(&second) == [first.clone(), second.clone()].concat());
        assert!(two.condition(1, &second) == [first.clone(), second.clone()].concat());
        let want = edges(&first, [100.0, 200.0]);
        assert!(two.condition(0, &second) == [want.clone(), vec![0; PIXELS]].concat());
        let mut made = two.lend();
        made[..PIXELS].fill(1);
        made[PIXELS..].fill(2);
        two.give(made, false);
        let mut shown = vec![0; PIXELS];
        two.show(&mut shown);
        assert!(shown == vec![1; PIXELS]);
        assert!(!two.take(&second, false).unwrap());
        two.show(&mut shown);
        assert!(shown == vec![2; PIXELS]);
        // A call that fails leaves the last picture that there was, and the next call begins anew.
        two.take(&second, false).unwrap();
        let made = two.lend();
        two.give(made, true);
        two.show(&mut shown);
        assert!(shown == vec![2; PIXELS] && !two.take(&first, false).unwrap());
        // One frame stands for all.
        assert!(two.take(&first, true).unwrap());
        assert!(two.frames(&second) == first.repeat(2) && two.condition(0, &second) == want.repeat(2));
    }

    #[test]
    fn a_mixture_is_right_to_the_nearest_byte() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut to = [0];
        for share in [0.0, 0.25, 0.5, 0.6, 1.0] {
            for &a in &bytes {
                for &b in &bytes {
                    mix(&[a], &[b], share, &mut to);
                    let want = f64::from(a) * (1.0 - f64::from(share)) + f64::from(b) * f64::from(share);
                    assert!((f64::from(to[0]) - want).abs() <= 0.505, "{a} {b} {share}");
                }
            }
        }
    }
}
