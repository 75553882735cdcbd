//! Weights out of nothing: every tensor that a model asks for, from its name and shape alone.
//!
//! A model of such weights has the true topology and shows nothing anybody would recognise. Tests and the demonstration
//! need no more. The numbers are the same on every machine and in every language: element i of the tensor `name` is
//! `splitmix64(fnv1a(key "/" name) + (i + 1) · 0x9E3779B97F4A7C15)`, whose upper 24 bits give u in −1…1.
//!
//! - Weights of two and more dimensions: `u · √3 · gain / √(product of all dimensions but the first)`, of variance
//!   gain² / fan-in.
//! - Other vectors called `weight` (scales of normalisations): `1 + u / 10`. Other vectors: `u / 10`.

use std::collections::HashMap;

use half::f16;

use super::{ModelError, Source, Stored};
use crate::graph::DType;

/// A layer set right by hand: the factor of each output channel and the bias.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Calibration {
    /// Multiplies each output channel's weights.
    pub gain: Vec<f32>,
    /// Replaces the bias.
    pub bias: Vec<f32>,
}

/// A [`Source`] that has every weight of every shape.
#[derive(Clone, Debug)]
pub struct Synthetic {
    key: String,
    gain: f64,
    calibration: HashMap<String, Calibration>,
}

impl Synthetic {
    /// Weights that differ by `key`, of variance `gain`² / fan-in.
    pub fn new(key: &str, gain: f64) -> Self {
        Self { key: key.to_owned(), gain, calibration: HashMap::new() }
    }

    /// With the layers of `calibration`, by their names, set right.
    pub fn calibrated(mut self, calibration: HashMap<String, Calibration>) -> Self {
        self.calibration = calibration;
        self
    }

    /// The weight `name` of `shape`.
    pub fn values(&self, name: &str, shape: &[u64]) -> Vec<f32> {
        let count = shape.iter().product::<u64>();
        let noise = uniform(&format!("{}/{name}", self.key), count);
        let (layer, part) = name.rsplit_once('.').unwrap_or(("", name));
        let calibration = self.calibration.get(layer);
        match (shape.len(), part) {
            (0 | 1, "bias") if calibration.is_some_and(|c| c.bias.len() as u64 == count) => {
                calibration.map(|c| c.bias.clone()).unwrap_or_default()
            }
            (0 | 1, "weight") => noise.map(|u| (1.0 + u / 10.0) as f32).collect(),
            (0 | 1, _) => noise.map(|u| (u / 10.0) as f32).collect(),
            _ => {
                let fan_in = shape[1..].iter().product::<u64>();
                let spread = 3_f64.sqrt() * self.gain / (fan_in as f64).sqrt();
                let per_channel = fan_in.max(1) as usize;
                let gain = |i: usize| calibration.and_then(|c| c.gain.get(i / per_channel)).copied().unwrap_or(1.0);
                noise.enumerate().map(|(i, u)| (u * spread) as f32 * gain(i)).collect()
            }
        }
    }
}

/// `count` numbers in −1…1 that belong to `name`.
pub fn uniform(name: &str, count: u64) -> impl Iterator<Item = f64> + use<> {
    let start = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    (1..=count).map(move |i| {
        let mut z = start.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / (1_u64 << 23) as f64 - 1.0
    })
}

impl Source for Synthetic {
    fn has(&self, name: &str) -> bool {
        // Of two names for one layer, the one in use today.
        !name.ends_with("query.weight")
    }

    fn tensor(&mut self, name: &str, shape: &[u64], dtype: DType) -> Result<Stored, ModelError> {
        let values = self.values(name, shape);
        Ok(Stored::Inline(match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            other => {
                let reason = format!("{other} is not a type of weights");
                return Err(ModelError::Weight { name: name.to_owned(), reason });
            }
        }))
    }
}
