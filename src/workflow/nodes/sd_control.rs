//! ControlNets on conditionings.

use super::sd_model::ControlNet;
use super::sd_text::{Conditioning, Control, hang};
use crate::workflow::class::input::{float, image, link};
use crate::workflow::class::{Class, named, out};
use crate::workflow::lower::{Cx, LowerError, Value};
use crate::workflow::value::Type;

const CONDITIONING: Type = Type::Conditioning;

/// ControlNets.
pub const CLASSES: &[Class] = &[
    Class {
        inputs: &[
            link("conditioning", CONDITIONING),
            link("control_net", Type::ControlNet),
            image("image"),
            float("strength", 1.0, 0.0, 10.0, 0.01).live(),
        ],
        outputs: &[out(CONDITIONING)],
        ..Class::graph("ControlNetApply", apply)
    },
    Class {
        inputs: &[
            link("positive", CONDITIONING),
            link("negative", CONDITIONING),
            link("control_net", Type::ControlNet),
            image("image"),
            float("strength", 1.0, 0.0, 10.0, 0.01).live(),
            float("start_percent", 0.0, 0.0, 1.0, 0.001),
            float("end_percent", 1.0, 0.0, 1.0, 0.001),
            link("vae", Type::Vae).optional(),
        ],
        outputs: &[named("positive", CONDITIONING), named("negative", CONDITIONING)],
        note: "A share of the way leaves the ControlNet out of the steps before and behind it.",
        ..Class::graph("ControlNetApplyAdvanced", apply_advanced)
    },
];

fn control(cx: &mut Cx<'_>, range: [f64; 2]) -> Result<Control, LowerError> {
    let net: ControlNet = cx.held("control_net")?;
    let strength = cx.float("strength")?;
    let strength = hang(cx, &strength)?;
    Ok(Control { net, picture: cx.sym("image")?, strength, range })
}

/// On the positive side; the negative one has it too, unless it has its own.
fn apply(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let mut all: Conditioning = cx.held("conditioning")?;
    let control = control(cx, [0.0, 1.0])?;
    for entry in &mut all.0 {
        entry.controls.push(control.clone());
        entry.controls_both = true;
    }
    Ok(vec![Value::held(all)])
}

fn apply_advanced(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let range = [cx.number("start_percent")?, cx.number("end_percent")?];
    let control = control(cx, range)?;
    let mut both = Vec::with_capacity(2);
    for input in ["positive", "negative"] {
        let mut all: Conditioning = cx.held(input)?;
        for entry in &mut all.0 {
            entry.controls.push(control.clone());
            entry.controls_both = false;
        }
        both.push(Value::held(all));
    }
    Ok(both)
}
