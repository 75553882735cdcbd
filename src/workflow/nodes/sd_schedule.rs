//! Noise levels of samplers, and what a step of each sampler does with them.
//!
//! With σ of the model of training, `x` the noisy latent and `D` what the model takes for the clean one, every sampler here is
//! `x ← a·x + b·D + c·D_before + n·noise` at each step. The coefficients are those of k-diffusion (Karras et al. 2022,
//! arXiv:2206.00364; DPM-Solver++ 2M, arXiv:2211.01095) as ComfyUI calls them, computed in 64 bits from the levels in 32 bits.

/// Timesteps of training.
const TRAINED: usize = 1000;

/// What a UNet predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prediction {
    /// The noise: `D = x − σ·out`.
    Noise,
    /// The velocity: `D = x / (σ² + 1) − out·σ / √(σ² + 1)`.
    Velocity,
}

/// The noise level σ of each timestep of training, `√((1 − ᾱ) / ᾱ)`.
#[derive(Clone, Debug)]
pub(super) struct Levels {
    sigmas: Vec<f32>,
    logs: Vec<f32>,
}

impl Levels {
    /// Those of Stable Diffusion 1.x, 2.x and XL: roots of β evenly spaced from √0.00085 to √0.012.
    pub fn new() -> Self {
        let (from, to) = (0.00085_f64.sqrt(), 0.012_f64.sqrt());
        let mut product = 1.0;
        let sigmas: Vec<f64> = (0..TRAINED)
            .map(|i| {
                let root = from + (to - from) * i as f64 / (TRAINED - 1) as f64;
                product *= 1.0 - root * root;
                ((1.0 - product) / product).sqrt()
            })
            .collect();
        Self {
            logs: sigmas.iter().map(|s| s.ln() as f32).collect(),
            sigmas: sigmas.iter().map(|&s| s as f32).collect(),
        }
    }

    fn lowest(&self) -> f32 {
        self.sigmas.first().copied().unwrap_or(0.0)
    }

    fn highest(&self) -> f32 {
        self.sigmas.last().copied().unwrap_or(0.0)
    }

    /// The level of a timestep, between two whole ones too: evenly in the logarithm.
    pub fn sigma(&self, timestep: f32) -> f32 {
        let t = timestep.clamp(0.0, (TRAINED - 1) as f32);
        let (low, high, share) = (t.floor() as usize, t.ceil() as usize, t - t.floor());
        ((1.0 - share) * self.logs[low] + share * self.logs[high]).exp()
    }

    /// The whole timestep whose level is nearest in the logarithm.
    pub fn timestep(&self, sigma: f32) -> usize {
        let log = sigma.ln();
        let far = |i: &usize| (log - self.logs[*i]).abs();
        (0..TRAINED).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(0)
    }

    /// The level at a share of the way from noise to picture; beyond both ends there is room for everything.
    pub fn at(&self, share: f64) -> f32 {
        match share {
            s if s <= 0.0 => 999_999_999.9,
            s if s >= 1.0 => 0.0,
            s => self.sigma(((1.0 - s) * 999.0) as f32),
        }
    }

    /// The levels of `steps` steps with a 0 behind them.
    fn of(&self, scheduler: &str, steps: usize) -> Vec<f32> {
        let (high, low) = ((TRAINED - 1) as f32, 0.0);
        let mut sigmas: Vec<f32> = match scheduler {
            "karras" => {
                let (least, most) =
                    (f64::from(self.lowest()).powf(1.0 / 7.0), f64::from(self.highest()).powf(1.0 / 7.0));
                line(0.0, 1.0, steps).map(|ramp| (most + f64::from(ramp) * (least - most)).powi(7) as f32).collect()
            }
            "exponential" => {
                let (least, most) = (f64::from(self.lowest()).ln(), f64::from(self.highest()).ln());
                line(most as f32, least as f32, steps).map(f32::exp).collect()
            }
            "simple" => {
                let apart = TRAINED as f64 / steps as f64;
                (0..steps).map(|i| self.sigmas[TRAINED - 1 - (i as f64 * apart) as usize]).collect()
            }
            "ddim_uniform" => {
                let apart = (TRAINED / steps).max(1);
                (1..TRAINED).step_by(apart).rev().map(|i| self.sigmas[i]).collect()
            }
            "sgm_uniform" => line(high, low, steps + 1).take(steps).map(|t| self.sigma(t)).collect(),
            _ => line(high, low, steps).map(|t| self.sigma(t)).collect(),
        };
        sigmas.push(0.0);
        sigmas
    }
}

/// `count` numbers from `start` to `end`, evenly spaced from both ends to the middle, as PyTorch does it.
fn line(start: f32, end: f32, count: usize) -> impl Iterator<Item = f32> {
    let step = if count > 1 { (end - start) / (count - 1) as f32 } else { 0.0 };
    (0..count).map(move |i| match i < count.div_ceil(2) {
        true => start + step * i as f32,
        false => end - step * (count - 1 - i) as f32,
    })
}

/// What one step needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// σ.
    pub sigma: f32,
    /// The timestep that the model is told.
    pub timestep: f32,
    /// `D = skip·x + out·model(input·x)`.
    pub input: f32,
    pub skip: f32,
    pub out: f32,
    /// `x ← a·x + b·D + c·D_before + n·noise`.
    pub a: f32,
    pub b: f32,
    pub c: f32,
    pub n: f32,
}

impl Step {
    /// Numbers of [`Self::numbers`].
    pub const NUMBERS: usize = 8;

    /// All but σ, in the order of the fields.
    pub fn numbers(&self) -> [f32; Self::NUMBERS] {
        [self.timestep, self.input, self.skip, self.out, self.a, self.b, self.c, self.n]
    }
}

/// What a sampler does.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Way {
    /// What the first noise is multiplied by.
    pub start: f32,
    /// Noisiest first; none when nothing is to be done.
    pub steps: Vec<Step>,
}

/// The steps of a sampler. With `denoise` below 1 they are the last `steps` of `steps / denoise`; there are none for 0.
pub(super) fn way(
    levels: &Levels,
    prediction: Prediction,
    sampler: &str,
    scheduler: &str,
    steps: usize,
    denoise: f64,
) -> Way {
    let whole = denoise > 0.9999;
    // A share so small that it would ask for more steps than there are timesteps is the last of them.
    let planned = if whole { steps } else { (steps as f64 / denoise.max(1e-9)).min(1e6) as usize };
    if denoise <= 0.0 || steps == 0 {
        return Way { start: 0.0, steps: Vec::new() };
    }
    let all = levels.of(scheduler, planned);
    let sigmas = if whole { &all[..] } else { &all[all.len().saturating_sub(steps + 1)..] };
    let first = sigmas.first().copied().unwrap_or(0.0);
    let most = levels.highest();
    // As math.isclose(most, first, rel_tol=1e-5).
    let full = first > most || (most - first).abs() <= 1e-5 * most.max(first);
    let start = if full { (1.0 + f64::from(first).powi(2)).sqrt() as f32 } else { first };
    let made = sigmas.windows(2).enumerate().map(|(i, pair)| {
        let before = i.checked_sub(1).map(|i| f64::from(sigmas[i]));
        step(levels, prediction, sampler, pair[0], pair[1], before)
    });
    Way { start, steps: made.collect() }
}

fn step(levels: &Levels, prediction: Prediction, sampler: &str, sigma: f32, next: f32, before: Option<f64>) -> Step {
    let (s, t) = (f64::from(sigma), f64::from(next));
    let root = (s * s + 1.0).sqrt();
    let (skip, out) = match prediction {
        Prediction::Noise => (1.0, -s),
        Prediction::Velocity => (1.0 / (s * s + 1.0), -s / root),
    };
    let (a, b, c, n) = match sampler {
        "lcm" => (0.0, 1.0, 0.0, t),
        "euler_ancestral" => {
            let up = t.min((t * t * (s * s - t * t) / (s * s)).max(0.0).sqrt());
            let down = (t * t - up * up).max(0.0).sqrt();
            (down / s, 1.0 - down / s, 0.0, up)
        }
        "dpmpp_2m" => {
            // h = ln(σ / σ_next), infinite at the last step.
            let share = t / s;
            match before.filter(|_| next > 0.0) {
                None => (share, 1.0 - share, 0.0, 0.0),
                Some(before) => {
                    let r = (before / s).ln() / (s / t).ln();
                    let way = 1.0 - share;
                    (share, way * (1.0 + 0.5 / r), -way * 0.5 / r, 0.0)
                }
            }
        }
        // euler; ddim is ComfyUI's other name for it.
        _ => (t / s, 1.0 - t / s, 0.0, 0.0),
    };
    Step {
        sigma,
        timestep: levels.timestep(sigma) as f32,
        input: (1.0 / root) as f32,
        skip: skip as f32,
        out: out as f32,
        a: a as f32,
        b: b as f32,
        c: c as f32,
        n: n as f32,
    }
}
