//! Resampling of a whole block by any ratio.

/// End of the passband and begin of the stopband, as shares of the lower of both Nyquist frequencies, and the stopband's
/// attenuation in dB: what comes nearest to soxr's quality HQ, which librosa resamples with.
const PASS: f64 = 0.9137;
const STOP: f64 = 1.0;
const ATTENUATION: f64 = 136.0;
/// Places between two samples that the filter is known for; what lies between two of them is interpolated.
const PHASES: usize = 512;

/// A windowed sinc for one ratio. Beyond both ends of a block there is silence.
#[derive(Default)]
pub struct Resampler {
    ratio: f64,
    /// The weights of `2 · reach` samples, a row for each of the places from 0 to `PHASES`.
    rows: Vec<f32>,
    /// Samples of the input on either side of an output's place that have a part in it.
    reach: usize,
}

impl Resampler {
    /// Fills `out` with the samples that `from` has at every `1 / ratio`: `ratio` is the output's rate divided by the input's.
    ///
    /// Kaiser's formulas for length and shape of the window: A. V. Oppenheim, R. W. Schafer, Discrete-Time Signal
    /// Processing, 7.5.
    pub fn run(&mut self, from: &[f32], ratio: f64, out: &mut [f32]) {
        if self.ratio != ratio {
            self.design(ratio);
        }
        let width = 2 * self.reach;
        for (j, out) in out.iter_mut().enumerate() {
            let place = j as f64 / ratio;
            let phase = place.fract() * PHASES as f64;
            let (row, share) = (phase as usize, phase.fract() as f32);
            // The sample that the row's first weight belongs to, which may lie before the block.
            let first = place as isize + 1 - self.reach as isize;
            let skip = first.min(0).unsigned_abs().min(width);
            let begin = (first.max(0) as usize).min(from.len());
            let samples = &from[begin..(begin + width - skip).min(from.len())];
            let at = row * width + skip;
            let (one, next) = (&self.rows[at..][..samples.len()], &self.rows[at + width..][..samples.len()]);
            *out = weighted(samples, one, next, share);
        }
    }

    fn design(&mut self, ratio: f64) {
        use std::f64::consts::PI;
        let low = ratio.min(1.0);
        let cutoff = (PASS + STOP) / 2.0 * low;
        let beta = 0.1102 * (ATTENUATION - 8.7);
        let half = (ATTENUATION - 8.0) / (2.285 * (STOP - PASS) * low * PI) / 2.0;
        self.reach = half.ceil() as usize;
        self.ratio = ratio;
        let height = bessel(beta);
        let weight = |x: f64| {
            if x.abs() >= half {
                return 0.0;
            }
            let sinc = if x == 0.0 { 1.0 } else { (PI * cutoff * x).sin() / (PI * cutoff * x) };
            (cutoff * sinc * bessel(beta * (1.0 - (x / half).powi(2)).sqrt()) / height) as f32
        };
        self.rows.clear();
        for phase in 0..=PHASES {
            let from = 1.0 - self.reach as f64 - phase as f64 / PHASES as f64;
            self.rows.extend((0..2 * self.reach).map(|k| weight(from + k as f64)));
        }
    }
}

/// The sum of `samples`, each times a weight between that of `one` and that of `next`. All have one length.
fn weighted(samples: &[f32], one: &[f32], next: &[f32], share: f32) -> f32 {
    // Sums that do not wait for each other. By index, since that is quick in builds without optimisation too.
    let mut sums = [0.0; 4];
    let count = samples.len().min(one.len()).min(next.len());
    let (samples, one, next) = (&samples[..count], &one[..count], &next[..count]);
    let mut i = 0;
    while i + 4 <= count {
        sums[0] += samples[i] * (one[i] + share * (next[i] - one[i]));
        sums[1] += samples[i + 1] * (one[i + 1] + share * (next[i + 1] - one[i + 1]));
        sums[2] += samples[i + 2] * (one[i + 2] + share * (next[i + 2] - one[i + 2]));
        sums[3] += samples[i + 3] * (one[i + 3] + share * (next[i + 3] - one[i + 3]));
        i += 4;
    }
    while i < count {
        sums[0] += samples[i] * (one[i] + share * (next[i] - one[i]));
        i += 1;
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// The modified Bessel function of the first kind and order 0, by its series.
fn bessel(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..200 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sine of `hertz` at `rate`, in the middle of which nothing of the edges is left.
    fn sine(hertz: f64, rate: f64, count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f64 * hertz / rate * std::f64::consts::TAU).sin() as f32).collect()
    }

    #[test]
    fn a_tone_keeps_its_pitch_and_its_place() {
        for (from, to) in [(60_476.2, 48_000.0), (48_000.0, 60_476.2), (96_000.0, 48_000.0), (48_000.0, 48_000.0)] {
            let input = sine(1_000.0, from, 4_000);
            let mut out = vec![0.0; (4_000.0 * to / from) as usize];
            Resampler::default().run(&input, to / from, &mut out);
            let want = sine(1_000.0, to, out.len());
            let worst = out.iter().zip(&want).skip(400).take(out.len() - 800).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0.0, f32::max);
            assert!(worst < 2e-5, "{from} to {to}: {worst}");
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_carry_is_gone() {
        let input = sine(30_000.0, 96_000.0, 4_000);
        let mut out = vec![0.0; 2_000];
        Resampler::default().run(&input, 0.5, &mut out);
        let loudest = out[300..1_700].iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        assert!(loudest < 2e-5, "{loudest}");
    }

    #[test]
    fn another_ratio_is_another_filter() {
        let input = sine(1_000.0, 48_000.0, 1_000);
        let (mut one, mut two) = (vec![0.0; 500], vec![0.0; 500]);
        let mut resampler = Resampler::default();
        resampler.run(&input, 0.5, &mut one);
        resampler.run(&input, 0.7, &mut two);
        let mut fresh = vec![0.0; 500];
        Resampler::default().run(&input, 0.7, &mut fresh);
        assert_eq!(two, fresh);
        assert_ne!(one, two);
        resampler.run(&[], 0.5, &mut one);
        assert!(one.iter().all(|x| *x == 0.0));
    }
}
