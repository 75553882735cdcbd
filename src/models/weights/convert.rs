//! Elements of one type as elements of another.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::Format;
use crate::graph::DType;

/// Elements that are converted at a time.
const CHUNK: usize = 4096;

/// The little-endian elements `data` of `format` as `f32`.
pub(super) fn to_f32(format: Format, data: &[u8]) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len() / format.size());
    chunks(format, data, |values| out.extend_from_slice(values));
    out
}

/// The little-endian elements `data` of `format` as those of `to`, which is a float type. `Err` with the place and the
/// number where one is finite and too large for `f16`.
pub(super) fn convert(format: Format, data: &[u8], to: DType) -> Result<Vec<u8>, (usize, f32)> {
    let count = data.len() / format.size();
    let mut out = Vec::with_capacity(count * to.size());
    let mut too_large = None;
    chunks(format, data, |values| {
        let before = out.len() / to.size();
        if let Err((place, value)) = push(values, to, &mut out) {
            too_large.get_or_insert((before + place, value));
        }
    });
    too_large.map_or(Ok(out), Err)
}

/// `values` as little-endian elements of `to`; as [`convert`].
pub(super) fn from_f32(values: &[f32], to: DType) -> Result<Vec<u8>, (usize, f32)> {
    let mut out = Vec::with_capacity(values.len() * to.size());
    for (i, chunk) in values.chunks(CHUNK).enumerate() {
        push(chunk, to, &mut out).map_err(|(place, value)| (i * CHUNK + place, value))?;
    }
    Ok(out)
}

fn push(values: &[f32], to: DType, out: &mut Vec<u8>) -> Result<(), (usize, f32)> {
    if to == DType::F32 {
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        return Ok(());
    }
    let mut halves = [f16::ZERO; CHUNK];
    let halves = &mut halves[..values.len()];
    halves.convert_from_f32_slice(values);
    out.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
    let lost = |(half, value): (&f16, &f32)| half.is_infinite() && value.is_finite();
    match halves.iter().zip(values).position(lost) {
        Some(place) => Err((place, values[place])),
        None => Ok(()),
    }
}

/// Gives the elements to `take` piece by piece as `f32`.
fn chunks(format: Format, data: &[u8], mut take: impl FnMut(&[f32])) {
    let mut values = [0.0_f32; CHUNK];
    for piece in data.chunks(CHUNK * format.size()) {
        let values = &mut values[..piece.len() / format.size()];
        match format {
            Format::F32 => {
                for (value, bytes) in values.iter_mut().zip(piece.as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Format::F16 => {
                let mut halves = [f16::ZERO; CHUNK];
                let halves = &mut halves[..values.len()];
                for (half, bytes) in halves.iter_mut().zip(piece.as_chunks().0) {
                    *half = f16::from_le_bytes(*bytes);
                }
                halves.convert_to_f32_slice(values);
            }
            Format::Bf16 => {
                for (value, bytes) in values.iter_mut().zip(piece.as_chunks().0) {
                    *value = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
        }
        take(values);
    }
}
