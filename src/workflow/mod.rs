//! ComfyUI workflows, compiled.
//!
//! A workflow is read ([`Document`]), converted by ComfyStream's rules ([`convert()`]), checked and planned ([`Plan`]), and
//! lowered ([`lower()`]): what depends on no frame becomes graphs that run once and are kept, what depends on the frame becomes
//! one graph, and what is no function of tensors becomes a host stage between two graphs. Widgets are inputs of the graphs, so a
//! change is a tensor write. Nothing here runs a graph or knows a stream; [`crate::pipeline`] does.
//!
//! ```
//! use serde_json::json;
//! let workflow = json!({
//!     "1": {"class_type": "LoadImage", "inputs": {"image": "camera.png"}},
//!     "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
//!     "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
//! });
//! let plan = weir::workflow::plan(&workflow)?;
//! assert_eq!(plan.nodes.len(), 3);
//! # Ok::<(), weir::workflow::Refused>(())
//! ```
//!
//! # How to add a class
//!
//! One file of [`nodes`] is one family: a table `CLASSES` and one function for each class. To add a class, add a row and a
//! function; to add a family, add a file and name it in [`nodes::FAMILIES`]. Nothing else knows classes.
//!
//! ```ignore
//! pub const CLASSES: &[Class] = &[Class {
//!     inputs: &[image("image"), float("gain", 1.0, 0.0, 4.0, 0.01).live(), choice("mode", "a", &["a", "b"])],
//!     outputs: &[out(Type::Image)],
//!     ..Class::graph("ImageGain", gain)
//! }];
//!
//! fn gain(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
//!     let x = cx.tensor("image")?;          // f32 (B, H, W, C) of this node's graph
//!     let factor = cx.float("gain")?;       // f32 (): follows the widget, or what is linked in its place
//!     let y = match cx.text("mode")?.as_str() {   // decides the graph: a change builds another one
//!         "a" => cx.g()?.mul(&x, &factor)?,
//!         _ => cx.g()?.add(&x, &factor)?,
//!     };
//!     let y = cx.g()?.clip(&y, 0.0, 1.0)?;
//!     cx.one(&y)
//! }
//! ```
//!
//! **The table.** Inputs in ComfyUI's order, which is that of saved files: links by [`image`](class::input::image),
//! [`mask`](class::input::mask), [`link`](class::input::link) (`.optional()` where they may be absent), widgets by
//! [`int`](class::input::int), [`float`](class::input::float), [`flag`](class::input::flag), [`text`](class::input::text),
//! [`choice`](class::input::choice), [`file`](class::input::file), [`seed`](class::input::seed). A widget is declared `.live()`
//! when every change of it is a tensor write, and `.ignored()` when it has no effect here. A test lowers every class and compares
//! the declaration with what the function did. Set `pack` for classes that are not ComfyUI's own, `needs` for models, and `note`
//! for what the table in `docs/workflows.md` must say. A class that is known and cannot run is
//! [`Class::refused`](class::Class::refused) with the reason.
//!
//! **How it runs** ([`class::Runs`]):
//!
//! | constructor | for |
//! | --- | --- |
//! | `Class::graph` | operators |
//! | `Class::alone` | operators, costly: folded into a graph of its own, so that a change elsewhere does not run it again (CLIP, VAE) |
//! | `Class::held` | handles: loaders, conditioning, LoRA stacks; no graph, `cx.g()` is an error |
//! | `Class::sound` | a way of sound: [`Cx::known`] settings, a held [`Sound`](lower::Sound), [`Cx::sounds`] at its end |
//! | `Class::words` | text that leaves: [`Cx::tells`] |
//! | `Class::host` | a function on the host between two graphs: [`Cx::host`] with a [`HostStage`], which may have graphs of its own |
//! | `Class::stage` | a stage of its own between two graphs: [`Cx::pipeline`] |
//!
//! **The function** gives one [`Value`] for each output. It sees:
//!
//! - [`Cx::tensor`]: a linked tensor in this node's own graph. Whether that is the graph of the frame or a folded one is none of
//!   the function's business; what comes from another graph becomes an input.
//! - [`Cx::held`]: a linked handle, any `T: Clone` that another function gave with [`Value::held`]. Tensors that hang on a handle
//!   (an embedding, a control picture) are kept in it as [`Sym`] ([`Cx::sym`]) and fetched by [`Cx::bring`] where they are used.
//! - [`Cx::float`], [`Cx::live`]: widgets as tensors. `live` takes an encoder from settings to elements of a fixed shape, such as a
//!   radius to a kernel, a seed to noise, a prompt to token ids. It may answer [`EncodeError::Graph`]: this change needs another
//!   graph.
//! - [`Cx::int`], [`Cx::number`], [`Cx::flag`], [`Cx::text`]: widgets that shape the graph. Reading one this way marks it: a
//!   change builds another graph beside the stream.
//! - [`Cx::fixed`]: elements that never change. [`Cx::frame`]: the camera. [`Cx::state`]: what the last frame left.
//! - [`Cx::refuse`]: what is wrong with an input, and what would work. Shapes that do not fit need no words: the error of
//!   [`crate::graph`] is shown with the node's id.
//!
//! A prompt's way is: the encoder of `live` tokenizes, the text encoder is operators of an `alone` class, its result crosses into
//! the frame's graph as an input that is written when it changes. A model's weights are read while its operators are built
//! ([`crate::models::weights::Reader`]); files beside the graph go to [`Env::scratch`](lower::Env), and [`Cx::beside`] says so.
//!
//! # Layouts
//!
//! | type | tensor |
//! | --- | --- |
//! | IMAGE | f32 (B, H, W, C), RGB, 0 to 1 |
//! | MASK | f32 (B, H, W), 0 to 1 |
//! | LATENT | f32 (B, C, h, w), or a handle with that in it |
//! | FLOAT, INT that depend on a tensor | f32 () |
//!
//! # Limits
//!
//! [`MAX_NODES`], [`MAX_INPUTS`] of a node, [`MAX_TEXT`] bytes of a workflow or of one text in it,
//! [`MAX_ELEMENTS`](lower::MAX_ELEMENTS) of what a node gives.

mod change;
pub mod class;
mod convert;
mod document;
mod draw;
mod editor;
pub mod examine;
#[doc(hidden)]
pub mod fuzz;
pub mod lower;
pub mod need;
pub mod nodes;
pub mod overrides;
mod place;
mod plan;
mod refusal;
pub mod registry;
pub mod sound;
mod value;

#[cfg(test)]
mod tests;

use serde_json::Value as Json;

pub use change::{Change, change};
pub use convert::convert;
pub use document::{Document, Given, Id, MAX_INPUTS, MAX_NODES, MAX_TEXT, Raw};
pub use draw::svg;
pub use lower::lower;
pub use plan::{Fed, Media, Node, Place, Plan};
pub use refusal::{Refusal, Refused, Why};
pub use value::{Setting, Type};

#[allow(unused_imports, reason = "named in the documentation above")]
use lower::{Cx, EncodeError, HostStage, Sym, Value};

/// What runs when no workflow is given: pictures pass through.
pub const DEFAULT: &str =
    r#"{"1":{"class_type":"SaveTensor","inputs":{"images":["2",0]}},"2":{"class_type":"LoadTensor","inputs":{}}}"#;

/// Reads, converts and plans a workflow in any of the forms that [`Document::read`] takes.
///
/// # Errors
/// Every reason at once.
pub fn plan(value: &Json) -> Result<Plan, Refused> {
    planned(Document::read(value)?)
}

/// Converts and plans a document. What the rules of ComfyStream refuse comes first, and with it everything else that is wrong.
fn planned(document: Document) -> Result<Plan, Refused> {
    let (converted, mut broken) = convert::converted(document.clone());
    match Plan::new(converted) {
        Ok(plan) if broken.is_empty() => Ok(Plan { document, ..plan }),
        Ok(_) => Err(Refused(broken)),
        Err(Refused(more)) => {
            broken.extend(more);
            Err(Refused(broken))
        }
    }
}
