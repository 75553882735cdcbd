//! Another pitch at the same length: stretched in time by a phase vocoder, then resampled.

use std::f64::consts::{PI, TAU};
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

use super::SoundStage;
use super::resample::Resampler;

/// Samples of one frame of the short-time Fourier transform, and from one frame to the next.
const FRAME: usize = 2048;
const HOP: usize = FRAME / 4;
/// Frequencies of a frame.
const BINS: usize = FRAME / 2 + 1;

/// librosa's `effects.pitch_shift` by `settings[0]` semitones, with its defaults: Hann's window of 2048 samples, a hop of 512,
/// phases added up in 32 bits.
///
/// The vocoder: J. L. Flanagan, R. M. Golden, Phase Vocoder, 1966.
pub struct PitchShift {
    forward: Arc<dyn RealToComplex<f64>>,
    backward: Arc<dyn ComplexToReal<f64>>,
    window: Vec<f64>,
    resampler: Resampler,
    /// One frame, its spectrum, and what the transforms need.
    frame: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    /// Magnitude and angle of each frequency, frame by frame.
    bins: Vec<[f32; 2]>,
    /// The angle that each frequency has come to.
    phases: Vec<f32>,
    /// The stretched sound with half a frame of silence before it, and the weight of each of its samples.
    stretched: Vec<f64>,
    weights: Vec<f64>,
    /// The stretched sound itself.
    long: Vec<f32>,
}

impl Default for PitchShift {
    fn default() -> Self {
        let mut planner = RealFftPlanner::new();
        let (forward, backward) = (planner.plan_fft_forward(FRAME), planner.plan_fft_inverse(FRAME));
        let scratch = forward.get_scratch_len().max(backward.get_scratch_len());
        Self {
            window: (0..FRAME).map(|i| 0.5 - 0.5 * (TAU * i as f64 / FRAME as f64).cos()).collect(),
            frame: vec![0.0; FRAME],
            spectrum: vec![Complex::default(); BINS],
            scratch: vec![Complex::default(); scratch],
            forward,
            backward,
            resampler: Resampler::default(),
            bins: Vec::new(),
            phases: Vec::with_capacity(BINS),
            stretched: Vec::new(),
            weights: Vec::new(),
            long: Vec::new(),
        }
    }
}

fn failed(error: realfft::FftError) -> String {
    format!("the Fourier transform failed: {error}")
}

impl PitchShift {
    /// Magnitudes and angles of frames around every `HOP`th sample, with silence beyond both ends. Returns how many frames.
    fn analyse(&mut self, samples: &[f32]) -> Result<usize, String> {
        let frames = 1 + samples.len() / HOP;
        self.bins.clear();
        for at in 0..frames {
            for (i, (value, weight)) in self.frame.iter_mut().zip(&self.window).enumerate() {
                let place = (at * HOP + i).checked_sub(FRAME / 2);
                let sample = place.and_then(|place| samples.get(place)).copied().unwrap_or(0.0);
                *value = f64::from(sample) * weight;
            }
            let forward = self.forward.process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.scratch);
            forward.map_err(failed)?;
            self.bins.extend(self.spectrum.iter().map(|z| {
                let (re, im) = (z.re as f32, z.im as f32);
                [re.hypot(im), im.atan2(re)]
            }));
        }
        Ok(frames)
    }

    /// Fills `long` with the sound at `1 / rate` of its length.
    fn stretch(&mut self, frames: usize, rate: f64, length: usize) -> Result<(), String> {
        // Frames that begin behind the end have no part.
        let made = ((frames as f64 / rate).ceil() as usize).min((length + FRAME).div_ceil(HOP));
        self.stretched.clear();
        self.stretched.resize(length + 2 * FRAME + made * HOP, 0.0);
        self.weights.clear();
        self.weights.resize(self.stretched.len(), 0.0);
        self.phases.clear();
        self.phases.extend(self.bins[..BINS].iter().map(|[_, angle]| *angle));
        let silence = [[0.0; 2]; BINS];
        for t in 0..made {
            let step = t as f64 * rate;
            let (at, alpha) = (step as usize, step.fract());
            let column = |at: usize| if at < frames { &self.bins[at * BINS..(at + 1) * BINS] } else { &silence[..] };
            let (a, b) = (column(at), column(at + 1));
            for (k, (z, phase)) in self.spectrum.iter_mut().zip(&mut self.phases).enumerate() {
                let ([size, angle], [next_size, next_angle]) = (a[k], b[k]);
                let magnitude = (1.0 - alpha) * f64::from(size) + alpha * f64::from(next_size);
                // In 32 bits, as the reference turns angles into numbers.
                *z = Complex::new(
                    f64::from((f64::from(phase.cos()) * magnitude) as f32),
                    f64::from((f64::from(phase.sin()) * magnitude) as f32),
                );
                let advance = PI * (HOP * k) as f64 / (BINS - 1) as f64;
                let turn = f64::from(next_angle - angle) - advance;
                let turn = turn - TAU * (turn / TAU).round_ties_even();
                *phase = (f64::from(*phase) + (advance + turn)) as f32;
            }
            // A real signal has real values at both ends of its spectrum.
            for end in [0, BINS - 1] {
                self.spectrum[end].im = 0.0;
            }
            let backward = self.backward.process_with_scratch(&mut self.spectrum, &mut self.frame, &mut self.scratch);
            backward.map_err(failed)?;
            let begin = t * HOP;
            let (sums, weights) = (&mut self.stretched[begin..begin + FRAME], &mut self.weights[begin..begin + FRAME]);
            for (((sum, weight), value), window) in sums.iter_mut().zip(weights).zip(&self.frame).zip(&self.window) {
                // The transform back is not scaled.
                *sum += value * window / FRAME as f64;
                *weight += window * window;
            }
        }
        let middle = FRAME / 2..FRAME / 2 + length;
        let pairs = self.stretched[middle.clone()].iter().zip(&self.weights[middle]);
        self.long.clear();
        self.long.extend(pairs.map(|(sum, weight)| {
            let known = *weight > f64::from(f32::MIN_POSITIVE);
            (if known { sum / weight } else { *sum }) as f32
        }));
        Ok(())
    }
}

impl SoundStage for PitchShift {
    fn run(&mut self, samples: &mut [f32], _rate: u32, settings: &[f64]) -> Result<(), String> {
        let &[steps] = settings else { return Err("a number of semitones is needed".to_owned()) };
        if samples.is_empty() {
            return Ok(());
        }
        let rate = (-steps / 12.0).exp2();
        let length = (samples.len() as f64 / rate).round_ties_even() as usize;
        let frames = self.analyse(samples)?;
        self.stretch(frames, rate, length)?;
        if rate == 1.0 {
            samples.copy_from_slice(&self.long);
        } else {
            // The resampler gives ⌈length · rate⌉ samples; a block that is longer ends with silence.
            let given = ((length as f64 * rate).ceil() as usize).min(samples.len());
            let (given, rest) = samples.split_at_mut(given);
            self.resampler.run(&self.long, rate, given);
            rest.fill(0.0);
        }
        Ok(())
    }
}
