//! LoRAs and masks for single prompts.

use std::sync::Arc;

use super::sd_model::{Diffusion, TextEncoders, lora, merge_text, open_lora, text};
use super::sd_text::Conditioning;
use crate::models::weights::{Lora, Part};
use crate::workflow::class::input::{choice, file, flag, float, link, mask};
use crate::workflow::class::{Class, Input, named, out};
use crate::workflow::lower::{Cx, LowerError, Value};
use crate::workflow::value::Type;

const CONDITIONING: Type = Type::Conditioning;
const HOOKS: Type = Type::Other("HOOKS");
const AREA: Input = choice("set_cond_area", "default", &["default", "mask bounds"]);
const STRENGTH: Input = float("strength", 1.0, 0.0, 10.0, 0.01).live();
const NOTE: &str = "Without timesteps, and with the area default.";

/// LoRAs as hooks, and prompts that count in places.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[
            file("lora_name"),
            float("strength_model", 1.0, -20.0, 20.0, 0.01),
            float("strength_clip", 1.0, -20.0, 20.0, 0.01),
            link("prev_hooks", HOOKS).optional(),
        ],
        outputs: &[out(HOOKS)],
        needs: |widgets| vec![lora(&text(widgets, "lora_name"))],
        note: "The model is there once for each set of LoRAs.",
        ..Class::held("CreateHookLora", create)
    },
    Class {
        inputs: &[
            link("clip", Type::Clip),
            flag("apply_to_conds", true),
            flag("schedule_clip", false).ignored(),
            link("hooks", HOOKS).optional(),
        ],
        outputs: &[out(Type::Clip)],
        ..Class::held("SetClipHooks", set_clip)
    },
    Class {
        inputs: &[
            link("positive_NEW", CONDITIONING),
            link("negative_NEW", CONDITIONING),
            STRENGTH,
            AREA,
            mask("mask").optional(),
            link("hooks", HOOKS).optional(),
        ],
        outputs: &[named("positive", CONDITIONING), named("negative", CONDITIONING)],
        note: NOTE,
        ..Class::graph("PairConditioningSetProperties", set)
    },
    Class {
        inputs: &[
            link("positive", CONDITIONING),
            link("negative", CONDITIONING),
            link("positive_NEW", CONDITIONING),
            link("negative_NEW", CONDITIONING),
            STRENGTH,
            AREA,
            mask("mask").optional(),
            link("hooks", HOOKS).optional(),
        ],
        outputs: &[named("positive", CONDITIONING), named("negative", CONDITIONING)],
        note: NOTE,
        ..Class::graph("PairConditioningSetPropertiesAndCombine", set_and_combine)
    },
    Class {
        inputs: &[link("conditioning", CONDITIONING), mask("mask"), STRENGTH, AREA],
        outputs: &[out(CONDITIONING)],
        note: "With the area default.",
        ..Class::graph("ConditioningSetMask", set_mask)
    },
];

/// A LoRA that the model has for some prompts.
#[derive(Clone)]
pub(super) struct Hook {
    lora: Arc<Lora>,
    model: f32,
    clip: f32,
}

impl Hook {
    /// Whether two lists are the same.
    pub fn same(a: &[Hook], b: &[Hook]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(&a.lora, &b.lora) && a.model == b.model)
    }

    /// The model with `hooks` merged.
    pub fn merged(model: &Diffusion, hooks: &[Hook]) -> Diffusion {
        let mut model = model.clone();
        for hook in hooks {
            model.unet = model.unet.with(&hook.lora, Part::Unet, hook.model);
        }
        model
    }
}

fn create(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let lora = open_lora(cx)?;
    let mut hooks: Vec<Hook> = if cx.linked("prev_hooks") { cx.held("prev_hooks")? } else { Vec::new() };
    let (model, clip) = (cx.number("strength_model")? as f32, cx.number("strength_clip")? as f32);
    hooks.push(Hook { lora, model, clip });
    Ok(vec![Value::held(hooks)])
}

/// The encoder with the LoRAs merged; its prompts have them in the model too, where `apply_to_conds` says so.
fn set_clip(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let mut clip: TextEncoders = cx.held("clip")?;
    let hooks: Vec<Hook> = if cx.linked("hooks") { cx.held("hooks")? } else { Vec::new() };
    for hook in &hooks {
        merge_text(&mut clip, &hook.lora, hook.clip);
    }
    if cx.flag("apply_to_conds")? {
        clip.hooks.extend(hooks);
    }
    Ok(vec![Value::held(clip)])
}

/// The conditioning at `input` with this node's strength, mask and hooks. A strength counts with a mask alone, as in ComfyUI.
fn with_properties(cx: &mut Cx<'_>, input: &str) -> Result<Conditioning, LowerError> {
    if cx.text("set_cond_area")? != "default" {
        return Err(cx.refuse("set_cond_area", "the bounds of a mask are not used here", "choose default"));
    }
    let mut all: Conditioning = cx.held(input)?;
    let mask = match cx.linked("mask") {
        true => Some(cx.sym("mask")?),
        false => None,
    };
    let strength = cx.float("strength")?;
    let strength = super::sd_text::hang(cx, &strength)?;
    let hooks: Vec<Hook> = match cx.node().class.input("hooks").is_some() && cx.linked("hooks") {
        true => cx.held("hooks")?,
        false => Vec::new(),
    };
    for entry in &mut all.0 {
        entry.mask = mask.map(|mask| (mask, strength)).or(entry.mask);
        entry.hooks.extend(hooks.iter().cloned());
    }
    Ok(all)
}

fn set(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let positive = with_properties(cx, "positive_NEW")?;
    let negative = with_properties(cx, "negative_NEW")?;
    Ok(vec![Value::held(positive), Value::held(negative)])
}

fn set_and_combine(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let mut both = Vec::with_capacity(2);
    for (old, new) in [("positive", "positive_NEW"), ("negative", "negative_NEW")] {
        let mut all: Conditioning = cx.held(old)?;
        all.0.extend(with_properties(cx, new)?.0);
        both.push(Value::held(all));
    }
    Ok(both)
}

fn set_mask(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    Ok(vec![Value::held(with_properties(cx, "conditioning")?)])
}
