//! Seeds to the fixed noise of the steps, and to the new noise that each call takes behind it.

use super::params::Live;
use crate::models::blend;
use crate::models::noise::{Gpu, Mt19937, Philox, to_half};

/// `count` numbers of the mixture of seeds in `live`; none is seed 0. Noise of the GPU's generator is rounded to half
/// precision, as the live runner has it.
pub(super) fn noise(live: &Live, count: usize) -> Vec<f32> {
    let one = |seed: u64| {
        let mut noise = vec![0.0; count];
        if live.cuda_noise {
            Philox::new(seed, Gpu::UNBOUNDED).normal(&mut noise);
            to_half(&mut noise);
        } else {
            Mt19937::new(seed).normal(&mut noise);
        }
        noise
    };
    let seeds = &live.seed;
    if let [] | [_] = seeds.items.as_slice() {
        return one(seeds.items.first().map_or(0, |(seed, _)| *seed));
    }
    let parts: Vec<(Vec<f32>, f32)> = seeds.items.iter().map(|(seed, weight)| (one(*seed), *weight)).collect();
    let items: Vec<(&[f32], f32)> = parts.iter().map(|(noise, weight)| (noise.as_slice(), *weight)).collect();
    // Equal lengths, and more than none: a mixture is always there.
    blend::noises(&items, seeds.how, seeds.normalize).unwrap_or_default()
}

/// Numbers that follow those of [`noise`] from the generator of the first seed: what begins pictures without a frame, and what
/// the full autoencoder draws.
pub(super) enum Fresh {
    Cpu(Mt19937),
    Gpu(Philox),
}

impl Fresh {
    /// The generator behind its first `drawn` numbers.
    pub fn new(live: &Live, drawn: usize) -> Self {
        let seed = live.seed.items.first().map_or(0, |(seed, _)| *seed);
        let mut fresh = match live.cuda_noise {
            true => Fresh::Gpu(Philox::new(seed, Gpu::UNBOUNDED)),
            false => Fresh::Cpu(Mt19937::new(seed)),
        };
        fresh.draw(&mut vec![0.0; drawn]);
        fresh
    }

    /// The next numbers.
    pub fn draw(&mut self, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        match self {
            Fresh::Cpu(generator) => generator.normal(out),
            Fresh::Gpu(generator) => {
                generator.normal(out);
                to_half(out);
            }
        }
    }
}
