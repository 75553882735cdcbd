//! Prompts to conditionings, and conditionings to others.

use super::sd_find::Opened;
use super::sd_hooks::Hook;
use super::sd_model::{ControlNet, TextEncoders};
use super::sd_prompt::{Pieces, pieces};
use crate::graph::{DType, GraphError, Tensor};
use crate::models::clip::{self, ClipConfig, Hidden};
use crate::models::tokenizer::{ClipTokenizer, LENGTH};
use crate::models::weights::Family;
use crate::workflow::class::input::{float, int, link, text};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, Data, EncodeError, LowerError, Sym, Value};
use crate::workflow::value::{Setting, Type};

const CONDITIONING: Type = Type::Conditioning;

/// Text encoders and what is done with what they make.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[text("text", "").live(), link("clip", Type::Clip)],
        outputs: &[out(CONDITIONING)],
        note: "Weights in brackets as in ComfyUI; no textual inversions.",
        ..Class::alone("CLIPTextEncode", encode)
    },
    Class {
        inputs: &[link("clip", Type::Clip), int("stop_at_clip_layer", -1, -24, -1)],
        outputs: &[out(Type::Clip)],
        ..Class::held("CLIPSetLastLayer", set_last_layer)
    },
    Class {
        inputs: &[link("conditioning_to", CONDITIONING), link("conditioning_from", CONDITIONING)],
        outputs: &[out(CONDITIONING)],
        ..Class::graph("ConditioningConcat", concat)
    },
    Class {
        inputs: &[
            link("conditioning_to", CONDITIONING),
            link("conditioning_from", CONDITIONING),
            float("conditioning_to_strength", 1.0, 0.0, 1.0, 0.01).live(),
        ],
        outputs: &[out(CONDITIONING)],
        ..Class::graph("ConditioningAverage", average)
    },
    Class {
        inputs: &[link("conditioning_1", CONDITIONING), link("conditioning_2", CONDITIONING)],
        outputs: &[out(CONDITIONING)],
        ..Class::held("ConditioningCombine", combine)
    },
    Class {
        inputs: &[link("conditioning", CONDITIONING)],
        outputs: &[out(CONDITIONING)],
        ..Class::graph("ConditioningZeroOut", zero_out)
    },
    Class {
        inputs: &[
            link("conditioning", CONDITIONING),
            float("start", 0.0, 0.0, 1.0, 0.001),
            float("end", 1.0, 0.0, 1.0, 0.001),
        ],
        outputs: &[out(CONDITIONING)],
        ..Class::held("ConditioningSetTimestepRange", set_range)
    },
];

/// A CONDITIONING.
#[derive(Clone, Default)]
pub(super) struct Conditioning(pub Vec<Entry>);

/// One prompt of a conditioning.
#[derive(Clone)]
pub(super) struct Entry {
    /// f32 (1, T, D).
    pub states: Sym,
    /// f32 (1, P), of SDXL.
    pub pooled: Option<Sym>,
    /// ControlNets, first to last.
    pub controls: Vec<Control>,
    /// Whether the negative side has the same ControlNets.
    pub controls_both: bool,
    /// The shares of the way between which it counts.
    pub range: Option<[f64; 2]>,
    /// f32 (1, H, W) and its strength, where it counts only in places.
    pub mask: Option<(Sym, Sym)>,
    /// LoRAs that the model has for it alone.
    pub hooks: Vec<Hook>,
}

/// A ControlNet at work.
#[derive(Clone)]
pub(super) struct Control {
    pub net: ControlNet,
    /// f32 (B, H, W, C).
    pub picture: Sym,
    /// f32 ().
    pub strength: Sym,
    /// The shares of the way between which it counts.
    pub range: [f64; 2],
}

impl Control {
    pub fn same(&self, other: &Control) -> bool {
        self.picture == other.picture && self.strength == other.strength && self.range == other.range
    }
}

/// `tensor` as something to hang on a handle.
pub(super) fn hang(cx: &mut Cx<'_>, tensor: &Tensor) -> Result<Sym, LowerError> {
    match cx.give(tensor)? {
        Value::Tensor(sym) => Ok(sym),
        _ => Err(GraphError::Invalid("a tensor is expected".to_owned()).into()),
    }
}

/// Which states of a text encoder are the embedding: as ComfyUI has it for the family, or as `CLIPSetLastLayer` says.
fn hidden(cx: &Cx<'_>, clip: &TextEncoders, config: &ClipConfig) -> Result<Hidden, LowerError> {
    let normalised = clip.family != Family::Sdxl;
    // Encoders of SD 2.x as they are published lack the layer that is never used.
    let lacks = u64::from(clip.family == Family::Sd2 && config.layers < 24);
    let wanted = match (clip.last_layer, clip.family) {
        (Some(layer), _) => layer.unsigned_abs() - 1,
        (None, Family::Sd1) => 0,
        (None, _) => 1,
    };
    let skip = match wanted {
        // ComfyUI takes the last one where there are not so many.
        skip if skip >= config.layers + lacks => Some(0),
        skip => skip.checked_sub(lacks),
    };
    let skip = skip.ok_or_else(|| {
        cx.refuse(
            "clip",
            "this text encoder lacks the last layer",
            "set stop_at_clip_layer to −2, which SD 2.x was trained on",
        )
    })?;
    Ok(Hidden::Early { skip, normalised })
}

fn read(settings: &[Setting], tokenizer: &ClipTokenizer, pad: i64) -> Result<Pieces, EncodeError> {
    let prompt = settings.first().and_then(Setting::text).unwrap_or_default();
    pieces(tokenizer, pad, prompt).map_err(EncodeError::Wrong)
}

/// `(z − z_empty)·w + z_empty` for each token's state z and weight w, pieces side by side: f32 (1, 77 n, D). Where the length
/// of a prompt asks for another number of pieces, another graph is needed.
fn encode(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let clip: TextEncoders = cx.held("clip")?;
    let precision = cx.env().precision;
    let prompt = cx.peek("text")?;
    let mut parts = Vec::with_capacity(clip.all.len());
    let mut pooled = None;
    for (i, (stored, tokenizer)) in clip.all.iter().enumerate() {
        let config = ClipConfig::from_json(&stored.config)?;
        // The second one of SDXL and that of SD 2.x are padded with 0.
        let pad = if i == 0 && clip.family != Family::Sd2 { tokenizer.marks()[1] } else { 0 };
        let now = read(std::slice::from_ref(&prompt), tokenizer, pad);
        let count = now.map_or(1, |pieces| pieces.count()) as u64;
        let tokenizer = tokenizer.clone();
        let follow = |what: fn(Pieces) -> Data| {
            let tokenizer = tokenizer.clone();
            move |settings: &[Setting]| {
                let pieces = read(settings, &tokenizer, pad)?;
                if pieces.count() as u64 != count { Err(EncodeError::Graph) } else { Ok(what(pieces)) }
            }
        };
        let length = LENGTH as u64;
        let ids = cx.live(&["text"], DType::I64, &[count + 1, length], follow(|pieces| Data::I64(pieces.ids)))?;
        let weights =
            cx.live(&["text"], DType::F32, &[count, length, 1], follow(|pieces| Data::F32(pieces.weights)))?;
        let ends = match config.projection.filter(|_| clip.family == Family::Sdxl && i == 1) {
            Some(_) => Some(cx.live(&["text"], DType::I64, &[count + 1], follow(|pieces| Data::I64(pieces.ends)))?),
            None => None,
        };
        let hidden = hidden(cx, &clip, &config)?;
        let mut opened = Opened::new(cx, stored, precision, &format!("text_{i}"))?;
        let g = cx.g()?;
        let made = opened.build(g, |net| clip::build(net, &config, &ids, ends.as_ref(), hidden))?;
        opened.finish()?;
        let states = g.cast(&made.states, DType::F32)?;
        let empty = g.slice(&states, 0, count as i64, count as i64 + 1)?;
        let states = g.slice(&states, 0, 0, count as i64)?;
        let away = g.sub(&states, &empty)?;
        let away = g.mul(&away, &weights)?;
        let states = g.add(&away, &empty)?;
        parts.push(g.reshape(&states, &[1, (count * length) as i64, config.hidden as i64])?);
        if let Some(all) = made.pooled {
            let all = g.cast(&all, DType::F32)?;
            pooled = Some(g.slice(&all, 0, 0, 1)?);
        }
    }
    let states = match parts.as_slice() {
        [one] => one.clone(),
        many => {
            let g = cx.g()?;
            // Side by side, as long as the shorter one.
            let tokens = many.iter().filter_map(|part| part.shape().fixed()?.get(1).copied()).min().unwrap_or(0);
            let cut = many.iter().map(|part| g.slice(part, 1, 0, tokens as i64)).collect::<Result<Vec<_>, _>>()?;
            g.concat(&cut.iter().collect::<Vec<_>>(), 2)?
        }
    };
    let states = hang(cx, &states)?;
    let pooled = pooled.map(|pooled| hang(cx, &pooled)).transpose()?;
    let hooks = clip.hooks;
    let entry = Entry { states, pooled, controls: Vec::new(), controls_both: false, range: None, mask: None, hooks };
    Ok(vec![Value::held(Conditioning(vec![entry]))])
}

fn set_last_layer(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let clip: TextEncoders = cx.held("clip")?;
    let last_layer = Some(cx.int("stop_at_clip_layer")?);
    Ok(vec![Value::held(TextEncoders { last_layer, ..clip })])
}

fn first(cx: &Cx<'_>, input: &str) -> Result<Entry, LowerError> {
    let all: Conditioning = cx.held(input)?;
    all.0.into_iter().next().ok_or_else(|| cx.refuse(input, "it is empty", ""))
}

/// The tokens of the first prompt of `conditioning_from` behind those of every prompt of `conditioning_to`.
fn concat(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let mut to: Conditioning = cx.held("conditioning_to")?;
    let from = first(cx, "conditioning_from")?;
    let from = cx.bring(from.states)?;
    for entry in &mut to.0 {
        let states = cx.bring(entry.states)?;
        let both = cx.g()?.concat(&[&states, &from], 1)?;
        entry.states = hang(cx, &both)?;
    }
    Ok(vec![Value::held(to)])
}

/// `to·s + from·(1 − s)`; a shorter `from` has zeros behind it, a longer one is cut.
fn average(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let mut to: Conditioning = cx.held("conditioning_to")?;
    let from = first(cx, "conditioning_from")?;
    let share = cx.float("conditioning_to_strength")?;
    let rest = super::image::one_minus(cx.g()?, &share)?;
    let other = cx.bring(from.states)?;
    for entry in &mut to.0 {
        let states = cx.bring(entry.states)?;
        let length = |tensor: &Tensor| tensor.shape().fixed().and_then(|shape| shape.get(1).copied()).unwrap_or(0);
        let (wanted, there) = (length(&states), length(&other));
        let g = cx.g()?;
        let other = match there < wanted {
            true => g.pad(&other, &[0, 0, 0], &[0, wanted - there, 0])?,
            false => g.slice(&other, 1, 0, wanted as i64)?,
        };
        let (a, b) = (g.mul(&states, &share)?, g.mul(&other, &rest)?);
        let mixed = g.add(&a, &b)?;
        entry.states = hang(cx, &mixed)?;
        if let Some(pooled_from) = from.pooled {
            let own = cx.bring(entry.pooled.unwrap_or(pooled_from))?;
            let other = cx.bring(pooled_from)?;
            let g = cx.g()?;
            let (a, b) = (g.mul(&own, &share)?, g.mul(&other, &rest)?);
            let mixed = g.add(&a, &b)?;
            entry.pooled = Some(hang(cx, &mixed)?);
        }
    }
    Ok(vec![Value::held(to)])
}

/// The prompts of both: their predictions are averaged.
fn combine(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let mut all: Conditioning = cx.held("conditioning_1")?;
    let more: Conditioning = cx.held("conditioning_2")?;
    all.0.extend(more.0);
    Ok(vec![Value::held(all)])
}

fn zero_out(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let mut all: Conditioning = cx.held("conditioning")?;
    for entry in &mut all.0 {
        let mut zeros = |sym: Sym| -> Result<Sym, LowerError> {
            let (dtype, shape) = cx.shape(sym)?;
            let zero = cx.g()?.scalar(dtype, 0.0)?;
            let zeros = cx.g()?.expand(&zero, &shape)?;
            hang(cx, &zeros)
        };
        entry.states = zeros(entry.states)?;
        entry.pooled = entry.pooled.map(&mut zeros).transpose()?;
    }
    Ok(vec![Value::held(all)])
}

fn set_range(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let mut all: Conditioning = cx.held("conditioning")?;
    let range = [cx.number("start")?, cx.number("end")?];
    all.0.iter_mut().for_each(|entry| entry.range = Some(range));
    Ok(vec![Value::held(all)])
}
