//! Standard normal noise, number for number that of the reference: the generators of PyTorch on the CPU and on CUDA.
//!
//! `prepare` of StreamDiffusion draws its noise on the CPU ([`Mt19937`]), the seed lists of the live runner draw theirs on
//! the GPU in half precision ([`Philox`], then [`to_half`]); the same seed gives two different noises.

use std::f32::consts::TAU;

/// The generator behind `torch.Generator("cpu")`.
pub struct Mt19937 {
    state: Box<[u32; SIZE]>,
    next: usize,
}

const SIZE: usize = 624;
const MIDDLE: usize = 397;
/// How many normal numbers PyTorch makes at a time.
const BLOCK: usize = 16;

impl Mt19937 {
    /// As `manual_seed(seed)`, of which the lower 32 bits count.
    pub fn new(seed: u64) -> Self {
        let mut state = Box::new([0; SIZE]);
        state[0] = seed as u32;
        for i in 1..SIZE {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: SIZE }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == SIZE {
            self.turn();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    fn turn(&mut self) {
        for i in 0..SIZE {
            let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % SIZE] & 0x7FFF_FFFF);
            let odd = if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[i] = self.state[(i + MIDDLE) % SIZE] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// A number in 0…1, 1 left out, of 24 random bits.
    fn uniform(&mut self) -> f32 {
        (self.next_u32() & 0x00FF_FFFF) as f32 / (1 << 24) as f32
    }

    /// Fills `out` as `torch.randn` fills a tensor of at least 16 elements; fewer are the first of 16. Within 1e-6 of
    /// PyTorch, whose logarithm and cosine differ from processor to processor.
    pub fn normal(&mut self, out: &mut [f32]) {
        if out.len() < BLOCK {
            let mut block = [0.0; BLOCK];
            self.normal(&mut block);
            out.copy_from_slice(&block[..out.len()]);
            return;
        }
        out.fill_with(|| self.uniform());
        let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(box_muller);
        if rest.is_empty() {
            return;
        }
        // What is left over is the end of one more block, drawn anew.
        let start = out.len() - BLOCK;
        if let Some(last) = out[start..].first_chunk_mut::<BLOCK>() {
            last.fill_with(|| self.uniform());
            box_muller(last);
        }
    }
}

/// 16 uniform numbers to 16 normal ones: the first half gives the radii, the second the angles.
fn box_muller(block: &mut [f32; BLOCK]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (u, v) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * (1.0 - *u).ln()).sqrt();
        let (sin, cos) = (TAU * *v).sin_cos();
        (*u, *v) = (radius * cos, radius * sin);
    }
}

/// How many threads a GPU runs at once, on which the order of its random numbers depends when there are very many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Streaming multiprocessors.
    pub processors: u32,
    /// Threads that one of them holds.
    pub threads_each: u32,
}

impl Gpu {
    /// A GPU with a thread for every element, whatever their number.
    pub const UNBOUNDED: Gpu = Gpu { processors: u32::MAX, threads_each: 1 << 10 };
}

/// The generator behind `torch.Generator("cuda")`.
#[derive(Clone, Debug)]
pub struct Philox {
    seed: u64,
    /// Numbers that every thread has drawn so far.
    drawn: u64,
    gpu: Gpu,
}

/// Threads of a block of PyTorch's kernel.
const THREADS: u64 = 256;
/// Numbers that a thread draws at a time.
const AT_ONCE: u64 = 4;

impl Philox {
    /// As `manual_seed(seed)` on that GPU. At 512 × 512 pixels and up to 4 steps the GPU makes no difference.
    pub fn new(seed: u64, gpu: Gpu) -> Self {
        Self { seed, drawn: 0, gpu }
    }

    /// Fills `out` as `torch.randn` does on CUDA, before rounding to half precision. Within 2e-6 of it, whose sine is an
    /// approximation.
    pub fn normal(&mut self, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let count = out.len() as u64;
        let at_most = u64::from(self.gpu.processors) * u64::from(self.gpu.threads_each / THREADS as u32);
        let threads = THREADS * count.div_ceil(THREADS).min(at_most.max(1));
        let rounds = count.div_ceil(threads * AT_ONCE);
        for round in 0..rounds {
            for thread in 0..threads {
                let first = round * threads * AT_ONCE + thread;
                if first >= count {
                    break;
                }
                let counter = self.drawn / AT_ONCE + round;
                let bits =
                    philox([counter as u32, (counter >> 32) as u32, thread as u32, (thread >> 32) as u32], self.seed);
                let normal = [pair(bits[0], bits[1]), pair(bits[2], bits[3])];
                for (i, value) in normal.as_flattened().iter().enumerate() {
                    if let Some(place) = out.get_mut((first + i as u64 * threads) as usize) {
                        *place = *value;
                    }
                }
            }
        }
        self.drawn += rounds * AT_ONCE;
    }
}

/// Ten rounds of Philox 4×32.
fn philox(mut counter: [u32; 4], seed: u64) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// Two normal numbers from 64 bits, as cuRAND makes them.
fn pair(x: u32, y: u32) -> [f32; 2] {
    const STEP: f32 = 1.0 / 4_294_967_296.0;
    let u = (x as f32).mul_add(STEP, STEP / 2.0);
    let v = (y as f32).mul_add(STEP * TAU, STEP * TAU / 2.0);
    let radius = (-2.0 * u.ln()).sqrt();
    let (sin, cos) = v.sin_cos();
    [radius * sin, radius * cos]
}

/// Rounds each number to the nearest of half precision.
pub fn to_half(values: &mut [f32]) {
    for value in values {
        *value = half::f16::from_f32(*value).to_f32();
    }
}
