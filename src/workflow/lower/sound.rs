//! What leaves beside pictures: sound and text. Neither is a tensor of a graph.

use super::stage::WidgetRef;
use crate::workflow::plan::Plan;
use crate::workflow::sound::SoundStage;
use crate::workflow::value::Setting;

/// A setting that follows a widget, or is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// Whatever stands in a widget.
    Widget(WidgetRef),
    /// This.
    Value(Setting),
}

impl Known {
    /// Its value in `plan`; `None` when something else is in the widget's place there.
    pub fn get<'a>(&'a self, plan: &'a Plan) -> Option<&'a Setting> {
        match self {
            Known::Value(setting) => Some(setting),
            Known::Widget(at) => plan.nodes.get(at.node)?.setting(at.input),
        }
    }
}

/// What becomes of the sound: blocks of the stream through one stage after the other.
#[derive(Clone)]
pub struct Sound {
    /// Length of a block in milliseconds.
    pub block_ms: Known,
    /// The stages, in order.
    pub steps: Vec<SoundStep>,
}

/// A stage on the way of the sound.
#[derive(Clone)]
pub struct SoundStep {
    /// Makes the stage, once for each channel.
    pub make: fn() -> Box<dyn SoundStage>,
    /// Its settings.
    pub settings: Vec<Known>,
}

impl std::fmt::Debug for SoundStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SoundStep({:?})", self.settings)
    }
}

/// A text that leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// The text.
    pub data: Known,
    /// Whether it leaves on one line.
    pub one_line: Known,
}

impl Text {
    /// What leaves with the settings of `plan`; `None` for nothing but blanks.
    pub fn get(&self, plan: &Plan) -> Option<String> {
        let text = self.data.get(plan)?.text()?;
        let one_line = self.one_line.get(plan).and_then(Setting::number) != Some(0.0);
        let text = if one_line { text.replace(['\n', '\r'], "") } else { text.to_owned() };
        (!text.trim().is_empty()).then_some(text)
    }
}
