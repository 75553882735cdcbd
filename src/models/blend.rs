//! Mixtures of prompts and of seeds.

use serde::{Deserialize, Serialize};

/// How two or more are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blend {
    /// The weighted sum.
    Linear,
    /// Along the arc between two; any other number of them is mixed linearly.
    Slerp,
}

/// A mixture of prompt embeddings, each as long as the others, with their weights. `normalize` divides the weights by their
/// sum, where that is positive. `None` for nothing, or for different lengths.
pub fn prompts(items: &[(&[f32], f32)], how: Blend, normalize: bool) -> Option<Vec<f32>> {
    let weights = weights(items, normalize)?;
    Some(mix(items, &weights, how))
}

/// A mixture of noises; as [`prompts`]. With `normalize` a linear mixture of several is brought to the mean length of what
/// it is mixed from, so that it is as strong as noise should be.
pub fn noises(items: &[(&[f32], f32)], how: Blend, normalize: bool) -> Option<Vec<f32>> {
    let weights = weights(items, normalize)?;
    let mut mixed = mix(items, &weights, how);
    let arc = how == Blend::Slerp && items.len() == 2;
    if normalize && items.len() > 1 && !arc {
        let wanted = items.iter().map(|(noise, _)| norm(noise)).sum::<f64>() / items.len() as f64;
        let length = norm(&mixed);
        if length > 1e-8 {
            mixed.iter_mut().for_each(|value| *value = (f64::from(*value) * (wanted / length)) as f32);
        }
    }
    Some(mixed)
}

fn weights(items: &[(&[f32], f32)], normalize: bool) -> Option<Vec<f64>> {
    let (first, _) = items.first()?;
    if items.iter().any(|(values, _)| values.len() != first.len()) {
        return None;
    }
    let sum: f64 = items.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let by = if normalize && sum > 0.0 { sum } else { 1.0 };
    Some(items.iter().map(|(_, weight)| f64::from(*weight) / by).collect())
}

fn mix(items: &[(&[f32], f32)], weights: &[f64], how: Blend) -> Vec<f32> {
    if let ([(a, _), (b, _)], Blend::Slerp) = (items, how) {
        return slerp(a, b, weights[1]);
    }
    let mut mixed = vec![0.0_f32; items[0].0.len()];
    for ((values, _), weight) in items.iter().zip(weights) {
        for (sum, value) in mixed.iter_mut().zip(*values) {
            *sum += *weight as f32 * value;
        }
    }
    mixed
}

/// From `a` at t = 0 to `b` at t = 1 along the arc between them: sin((1 − t) Ω) / sin Ω · a + sin(t Ω) / sin Ω · b, with Ω
/// the angle between the two. Beyond the ends it stays there; nearly parallel ones are mixed linearly.
fn slerp(a: &[f32], b: &[f32], t: f64) -> Vec<f32> {
    if t <= 0.0 {
        return a.to_vec();
    }
    if t >= 1.0 {
        return b.to_vec();
    }
    let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let lengths = (norm(a) * norm(b)).max(f64::MIN_POSITIVE);
    let angle = (dot / lengths).clamp(-1.0, 1.0).acos();
    let (of_a, of_b) = match angle < 1e-6 {
        true => (1.0 - t, t),
        false => (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()),
    };
    a.iter().zip(b).map(|(a, b)| (of_a * f64::from(*a) + of_b * f64::from(*b)) as f32).collect()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt()
}
