//! What is known of a node class: its inputs, its outputs, and how it is lowered.

use std::path::Path;

use super::lower::{Cx, LowerError, Value};
use super::need::Need;
use super::value::{Setting, Type};

/// What an input takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A link of this type; nothing can be typed in.
    Link(Type),
    /// A whole number, bounds inclusive.
    Int {
        /// When left out.
        default: i128,
        /// Lowest.
        min: i128,
        /// Highest.
        max: i128,
        /// By which a slider moves.
        step: i128,
    },
    /// A number, bounds inclusive.
    Float {
        /// When left out.
        default: f64,
        /// Lowest.
        min: f64,
        /// Highest.
        max: f64,
        /// By which a slider moves.
        step: f64,
    },
    /// True or false.
    Bool {
        /// When left out.
        default: bool,
    },
    /// Any text.
    Text {
        /// When left out.
        default: &'static str,
    },
    /// One text of several.
    Choice {
        /// When left out.
        default: &'static str,
        /// All that are allowed.
        of: &'static [&'static str],
    },
    /// The name of a file: a picture or a model. There is no default; whether it exists is told by [`Class::needs`] and by
    /// lowering.
    File,
}

/// One input of a class. A widget may also be fed by a link of its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// Its key in the document.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether a link may be absent. Widgets always have a default, except files.
    pub optional: bool,
    /// Whether a change is a tensor write. What is not live asks for another graph.
    pub live: bool,
    /// Whether the value has no effect here, such as the backend that would have compiled the node.
    pub ignored: bool,
}

impl Input {
    /// A change takes effect on the next frame.
    pub const fn live(self) -> Self {
        Self { live: true, ..self }
    }

    /// A link that may be absent.
    pub const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// Accepted, checked, and of no effect.
    pub const fn ignored(self) -> Self {
        Self { ignored: true, ..self }
    }

    /// The type of a link that may feed it.
    pub fn link_type(&self) -> Type {
        match self.kind {
            Kind::Link(ty) => ty,
            Kind::Int { .. } => Type::Int,
            Kind::Float { .. } => Type::Float,
            Kind::Bool { .. } => Type::Boolean,
            Kind::Text { .. } | Kind::Choice { .. } | Kind::File => Type::String,
        }
    }

    /// Whether something can be typed in.
    pub fn is_widget(&self) -> bool {
        !matches!(self.kind, Kind::Link(_))
    }

    /// What is in force when nothing is given; `None` for links and files.
    pub fn default(&self) -> Option<Setting> {
        match self.kind {
            Kind::Link(_) | Kind::File => None,
            Kind::Int { default, .. } => Some(Setting::Int(default)),
            Kind::Float { default, .. } => Some(Setting::Float(default)),
            Kind::Bool { default } => Some(Setting::Bool(default)),
            Kind::Text { default } | Kind::Choice { default, .. } => Some(Setting::Text(default.to_owned())),
        }
    }
}

/// Short names for the inputs of class tables.
pub mod input {
    use super::{Input, Kind, Type};

    const fn new(name: &'static str, kind: Kind) -> Input {
        Input { name, kind, optional: false, live: false, ignored: false }
    }

    /// A link of any type.
    pub const fn link(name: &'static str, ty: Type) -> Input {
        new(name, Kind::Link(ty))
    }

    /// A picture.
    pub const fn image(name: &'static str) -> Input {
        link(name, Type::Image)
    }

    /// A mask.
    pub const fn mask(name: &'static str) -> Input {
        link(name, Type::Mask)
    }

    /// A whole number from `min` to `max`.
    pub const fn int(name: &'static str, default: i128, min: i128, max: i128) -> Input {
        new(name, Kind::Int { default, min, max, step: 1 })
    }

    /// A seed: any 64 bits, live.
    pub const fn seed(name: &'static str) -> Input {
        int(name, 0, 0, u64::MAX as i128).live()
    }

    /// A number from `min` to `max`; a slider moves by `step`.
    pub const fn float(name: &'static str, default: f64, min: f64, max: f64, step: f64) -> Input {
        new(name, Kind::Float { default, min, max, step })
    }

    /// True or false.
    pub const fn flag(name: &'static str, default: bool) -> Input {
        new(name, Kind::Bool { default })
    }

    /// Any text.
    pub const fn text(name: &'static str, default: &'static str) -> Input {
        new(name, Kind::Text { default })
    }

    /// One of `of`; the default must be among them.
    pub const fn choice(name: &'static str, default: &'static str, of: &'static [&'static str]) -> Input {
        new(name, Kind::Choice { default, of })
    }

    /// The name of a file.
    pub const fn file(name: &'static str) -> Input {
        new(name, Kind::File)
    }
}

/// One output of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name for people.
    pub name: &'static str,
    /// Its type.
    pub ty: Type,
}

/// An output of the type's own name.
pub const fn out(ty: Type) -> Output {
    Output { name: "", ty }
}

/// An output with a name of its own.
pub const fn named(name: &'static str, ty: Type) -> Output {
    Output { name, ty }
}

/// Where frames and sounds come in and go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
    /// Text.
    Text,
}

/// How a class becomes part of what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// As operators of the graph it stands in: of the frame, or of the constants.
    Graph,
    /// As operators; where it depends on no frame it gets a graph of its own, whose result is kept, because it is costly: a
    /// text encoder, a picture encoder.
    Alone,
    /// As nothing: its values are handles and what hangs on them, such as a loaded model.
    Held,
    /// Outside of the graphs, by a function on the host between two of them.
    Host,
    /// Outside of the graphs, by a function on every block of sound.
    Sound,
    /// Outside of the graphs: what it takes leaves as text.
    Text,
    /// As a stage of its own between the graphs: a pipeline, or a graph that somebody else wrote.
    Stage,
    /// Not at all: a workflow that needs it is refused with this reason, which ends with what would work instead.
    Refused(&'static str),
}

/// How a class is lowered; see [`super`] for how to write one.
pub type Lower = fn(&mut Cx<'_>) -> Result<Vec<Value>, LowerError>;

/// The widgets of a node as [`Class::needs`] sees them: a name to its setting.
pub type Widgets<'a> = &'a dyn Fn(&str) -> Option<Setting>;

/// The models that the node linked to an input needs, as [`Class::needs_with`] sees them: `None` where nothing is linked.
pub type Linked<'a> = &'a dyn Fn(&str) -> Option<Vec<Need>>;

/// One node class.
#[derive(Clone, Copy)]
pub struct Class {
    /// ComfyUI's `class_type`.
    pub name: &'static str,
    /// Who provides it: `core`, or the name of the node pack.
    pub pack: &'static str,
    /// Its inputs, in ComfyUI's order: that of `widgets_values` in saved files.
    pub inputs: &'static [Input],
    /// Its outputs, in ComfyUI's order.
    pub outputs: &'static [Output],
    /// Set when it brings something in from the stream.
    pub source: Option<Medium>,
    /// Set when what it takes leaves with the stream.
    pub sink: Option<Medium>,
    /// Whether it gives something else at every frame, even where no frame feeds it.
    pub beat: bool,
    /// How it becomes part of what runs.
    pub runs: Runs,
    /// One line about what deserves to be said in the table of classes: a limit, a mapping. Empty for most.
    pub note: &'static str,
    /// Models it needs, by its widgets.
    pub needs: fn(Widgets<'_>) -> Vec<Need>,
    /// Further models, where what is linked to it and what lies below the models' folder decide.
    pub needs_with: fn(Widgets<'_>, Linked<'_>, &Path) -> Vec<Need>,
    /// Whether, with these widgets and what lies below this folder of models, a node of a class that becomes operators is a
    /// stage of its own instead, such as a graph that somebody else wrote.
    pub apart: fn(Widgets<'_>, &Path) -> bool,
    /// How it is lowered.
    pub lower: Lower,
}

impl std::fmt::Debug for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Class({})", self.name)
    }
}

fn needs_nothing(_: Widgets<'_>) -> Vec<Need> {
    Vec::new()
}

fn never(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    Err(cx.refuse("", "this class is not run", "take the node out of the workflow"))
}

impl Class {
    const fn new(name: &'static str, runs: Runs, lower: Lower) -> Self {
        Self {
            name,
            pack: "core",
            inputs: &[],
            outputs: &[],
            source: None,
            sink: None,
            beat: false,
            runs,
            note: "",
            needs: needs_nothing,
            needs_with: |_, _, _| Vec::new(),
            apart: |_, _| false,
            lower,
        }
    }

    /// A class of ComfyUI's core that becomes operators.
    pub const fn graph(name: &'static str, lower: Lower) -> Self {
        Self::new(name, Runs::Graph, lower)
    }

    /// As [`Self::graph`], and costly: alone in a graph where it depends on no frame.
    pub const fn alone(name: &'static str, lower: Lower) -> Self {
        Self::new(name, Runs::Alone, lower)
    }

    /// A class whose values are handles.
    pub const fn held(name: &'static str, lower: Lower) -> Self {
        Self::new(name, Runs::Held, lower)
    }

    /// A class that runs on the host between two graphs.
    pub const fn host(name: &'static str, lower: Lower) -> Self {
        Self::new(name, Runs::Host, lower)
    }

    /// A class that works on blocks of sound.
    pub const fn sound(name: &'static str, lower: Lower) -> Self {
        Self::new(name, Runs::Sound, lower)
    }

    /// A class whose input leaves as text.
    pub const fn words(name: &'static str, lower: Lower) -> Self {
        Self::new(name, Runs::Text, lower)
    }

    /// A class that is a stage of its own.
    pub const fn stage(name: &'static str, lower: Lower) -> Self {
        Self::new(name, Runs::Stage, lower)
    }

    /// A class that is known and does not run, with the reason and what would work instead.
    pub const fn refused(name: &'static str, pack: &'static str, reason: &'static str) -> Self {
        Self { pack, ..Self::new(name, Runs::Refused(reason), never) }
    }

    /// The place of the input called `name`.
    pub fn input(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|input| input.name == name)
    }
}
