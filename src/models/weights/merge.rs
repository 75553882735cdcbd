//! Merging LoRAs: `weight + scale · alpha / rank · up · down`, as `fuse_lora` of diffusers does, summed in `f32`.

use std::collections::HashMap;
use std::sync::Arc;

use super::file::{SafeFile, Tensor};
use super::lora::{Lora, Module, Part, format};
use super::original::{Place, UnetLevels, residual};
use super::{Weights, WeightsError, convert, ffi};

/// What a LoRA adds to one weight.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    pub file: Arc<SafeFile>,
    /// (rank, inputs).
    down: Tensor,
    /// (outputs, rank).
    up: Tensor,
    rank: usize,
    pub factor: f32,
}

/// What became of a LoRA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Layers that were found and will be merged.
    pub layers: usize,
}

impl Weights {
    /// Merges the layers of `part` of `lora`, times `scale`. Several add up. Nothing is read yet.
    ///
    /// # Errors
    /// [`WeightsError::Lora`] with a layer that this network does not have or whose shape does not fit. Nothing is merged
    /// then.
    pub fn merge(&mut self, lora: &Lora, part: Part, scale: f32) -> Result<Applied, WeightsError> {
        let wrong = |key: &str, reason: String| WeightsError::Lora {
            path: lora.file.path.clone(),
            key: key.to_owned(),
            reason,
        };
        let modules = Modules::of(self);
        let mut found = Vec::new();
        for ((own, module), pair) in &lora.layers {
            if *own != part {
                continue;
            }
            let (Some(down), Some(up)) = (&pair.down, &pair.up) else {
                return Err(wrong(module.name(), "one of its two matrices is missing".to_owned()));
            };
            let weight = modules
                .find(module)
                .ok_or_else(|| wrong(down, format!("{} has no layer of that name", self.place().display())))?;
            let shape = self.shape(&weight).unwrap_or_default();
            for key in [down, up] {
                if format(&lora.file, key).is_none() {
                    return Err(wrong(key, "elements of f32, f16 or bf16 are expected".to_owned()));
                }
            }
            let tensor = |key: &str| lora.file.tensors.get(key).cloned();
            let (Some(down_tensor), Some(up_tensor)) = (tensor(down), tensor(up)) else { continue };
            let rank = rank(&down_tensor.shape, &up_tensor.shape, &shape).ok_or_else(|| {
                let [outer, inner] = [&up_tensor.shape, &down_tensor.shape];
                wrong(up, format!("{outer:?} · {inner:?} does not fit {weight} of shape {shape:?}"))
            })?;
            let factor = pair.alpha.map_or(1.0, |alpha| alpha / rank as f32) * scale;
            let delta = Delta { file: lora.file.clone(), down: down_tensor, up: up_tensor, rank, factor };
            found.push((weight, delta));
        }
        let layers = found.len();
        for (weight, delta) in found {
            self.add_delta(&weight, delta);
        }
        if layers > 0 {
            let header = lora.file.header();
            let sum = <sha2::Sha256 as sha2::Digest>::digest(header);
            self.merged(format!("{} {scale} {} {sum:x}", lora.file.path.display(), lora.file.length()));
        }
        Ok(Applied { layers })
    }
}

/// The rank of a pair that fits a weight of `shape`. A convolution's `up` has side 1; a matrix may be written as a
/// convolution of side 1 and the other way round.
fn rank(down: &[u64], up: &[u64], shape: &[u64]) -> Option<usize> {
    let [rank, inputs @ ..] = down else { return None };
    let (([outputs, inner], []) | ([outputs, inner], [1, 1])) = up.split_at_checked(2)? else { return None };
    let [rows, columns @ ..] = shape else { return None };
    // A file may name any numbers beside a 0.
    let product = |dims: &[u64]| dims.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
    let fits = *rank > 0
        && inner == rank
        && outputs == rows
        && !inputs.is_empty()
        && !columns.is_empty()
        && product(inputs).is_some()
        && product(inputs) == product(columns)
        && inputs[0] == columns[0];
    fits.then_some(*rank as usize)
}

/// Products with more multiplications than this are shared out between threads.
const LARGE: usize = 1 << 24;

/// Adds `deltas` to `values` of `shape`.
pub(super) fn add(values: &mut [f32], shape: &[u64], deltas: &[Delta]) {
    let rows = shape.first().map_or(1, |&n| n as usize).max(1);
    let columns = values.len() / rows;
    for delta in deltas {
        let read = |tensor: &Tensor| match tensor.format {
            Ok(format) => {
                let values = convert::to_f32(format, delta.file.data(tensor));
                delta.file.release(tensor);
                values
            }
            Err(_) => Vec::new(),
        };
        let (down, up, rank) = (read(&delta.down), read(&delta.up), delta.rank);
        let threads = match rows * rank * columns > LARGE {
            true => std::thread::available_parallelism().map_or(1, usize::from).min(8),
            false => 1,
        };
        let share = rows.div_ceil(threads);
        std::thread::scope(|scope| {
            for (part, up) in values.chunks_mut(share * columns).zip(up.chunks(share * rank)) {
                let down = &down;
                let mut work = move || {
                    ffi::add_product(part, up, down, [up.len() / rank, rank, columns], delta.factor);
                };
                if threads == 1 {
                    work();
                } else {
                    scope.spawn(work);
                }
            }
        });
    }
}

/// The layers of a network by their flattened names.
struct Modules<'a> {
    weights: &'a Weights,
    flat: HashMap<String, &'a str>,
    levels: UnetLevels,
}

impl<'a> Modules<'a> {
    fn of(weights: &'a Weights) -> Self {
        let modules = weights.names().filter_map(|name| name.strip_suffix(".weight"));
        let flat = modules.map(|module| (module.replace('.', "_"), module)).collect();
        let layers = (0..64).take_while(|i| weights.has(&format!("down_blocks.0.resnets.{i}.conv1.weight"))).count();
        Self { weights, flat, levels: UnetLevels { layers: layers.max(1) as u64 } }
    }

    /// The weight of `module`.
    fn find(&self, module: &Module) -> Option<String> {
        match module {
            Module::Dotted(name) => Some(format!("{name}.weight")).filter(|name| self.weights.has(name)),
            Module::Flat(name) => {
                let known = self.flat.get(name).copied();
                let known = known.or_else(|| self.flat.get(&self.original(name)?).copied())?;
                Some(format!("{known}.weight"))
            }
        }
    }

    /// A flattened name of the original naming as one of diffusers.
    fn original(&self, name: &str) -> Option<String> {
        let single = [
            ("time_embed_0", "time_embedding_linear_1"),
            ("time_embed_2", "time_embedding_linear_2"),
            ("label_emb_0_0", "add_embedding_linear_1"),
            ("label_emb_0_2", "add_embedding_linear_2"),
            ("input_blocks_0_0", "conv_in"),
            ("out_2", "conv_out"),
        ];
        if let Some((_, known)) = single.iter().find(|(old, _)| *old == name) {
            return Some((*known).to_owned());
        }
        let (kind, i, rest) = match name.strip_prefix("middle_block_") {
            Some(rest) => ("middle_block", 0, rest),
            None => {
                let kind = ["input_blocks", "output_blocks"].into_iter().find(|kind| name.starts_with(kind))?;
                let (i, rest) = name.strip_prefix(kind)?.strip_prefix('_')?.split_once('_')?;
                (kind, small(i)?, rest)
            }
        };
        let (j, rest) = rest.split_once('_')?;
        let place = self.levels.place(kind, i, small(j)?, matches!(rest, "op" | "conv"))?;
        Some(match place {
            Place::Residual(block) => format!("{}_{}", block.replace('.', "_"), residual(rest, '_')?),
            Place::Attention(block) => format!("{}_{rest}", block.replace('.', "_")),
            Place::Resample(layer) => layer.replace('.', "_"),
        })
    }
}

fn small(text: &str) -> Option<u64> {
    (text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_fit_by_their_products_and_none_is_too_large_to_tell() {
        assert_eq!(rank(&[4, 32], &[8, 4], &[8, 32]), Some(4));
        assert_eq!(rank(&[4, 16, 3, 3], &[8, 4, 1, 1], &[8, 16, 3, 3]), Some(4));
        assert_eq!(rank(&[4, 32], &[8, 4], &[8, 33]), None);
        // Of no bytes, so a file may say it.
        let huge = 1 << 40;
        assert_eq!(rank(&[1, huge, huge], &[0, 1], &[0, huge, huge]), None);
    }
}
