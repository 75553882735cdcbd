//! A checked plan to graphs: [`lower`] calls every node's function once, with a [`Cx`] that gives it its inputs and takes
//! what it makes.

mod cx;
mod sound;
mod stage;
mod value;

pub use cx::{Cx, Follow, MAX_ELEMENTS, Param, State};
pub use sound::{Known, Sound, SoundStep, Text};
pub use stage::{
    After, Body, Encode, EncodeError, EncodeParams, Feed, HostStage, LiveParams, LiveTensor, Lowered, Made, OwnGraph,
    Piped, Port, RunGraph, Stage, WidgetRef, to_bytes,
};
pub use value::{Data, Held, Sym, Value};

use std::path::PathBuf;

use super::plan::Plan;
use super::refusal::{Refusal, Refused, Why};
use crate::graph::{DType, GraphError};
use crate::models::ModelError;

/// What [`Env::inline`] is but for tests.
pub const INLINE: u64 = 64 << 20;

/// What lowering may know of the world.
#[derive(Clone)]
pub struct Env<'a> {
    /// Width and height of the stream's pictures in pixels.
    pub size: [u32; 2],
    /// Where models lie.
    pub models: PathBuf,
    /// Where pictures that nodes name lie: ComfyUI's input folder.
    pub input: PathBuf,
    /// Type of weights and activations of models.
    pub precision: DType,
    /// Up to so many bytes of a network's weights go into a graph itself; more go into a file beside it.
    pub inline: u64,
    /// A folder for such files, which several workflows share; made when it is needed. On the disk of [`Env::scratch`], or the
    /// files are copied.
    pub weights: PathBuf,
    /// A folder of this workflow alone, for weights beside its graphs; made when it is needed. The graphs must be written there
    /// when something was put in it, see [`Lowered::beside`].
    pub scratch: PathBuf,
    /// Called with one line whenever lowering reaches a step that takes long.
    pub progress: &'a dyn Fn(&str),
}

/// Why a node cannot be lowered.
#[derive(Debug)]
pub enum LowerError {
    /// The graph does not fit together, such as pictures of sizes that do not go with each other.
    Graph(GraphError),
    /// A model cannot be built.
    Model(ModelError),
    /// Something else, about one input or about the node.
    Refused {
        /// The input; empty for the node.
        input: String,
        /// What is wrong.
        reason: String,
        /// What would work.
        help: String,
        /// Whether a model is what is missing.
        model: bool,
    },
}

impl From<GraphError> for LowerError {
    fn from(error: GraphError) -> Self {
        LowerError::Graph(error)
    }
}

impl From<ModelError> for LowerError {
    fn from(error: ModelError) -> Self {
        LowerError::Model(error)
    }
}

/// Lowers `plan`.
///
/// # Errors
/// Every node that cannot be lowered; nodes behind such a one are left out.
pub fn lower(plan: &Plan, env: &Env<'_>) -> Result<Lowered, Refused> {
    let placed = plan.with_files(&env.models);
    let plan = placed.as_ref().unwrap_or(plan);
    let mut build = stage::Build::new(plan);
    let mut refused = Vec::new();
    for (i, node) in plan.nodes.iter().enumerate() {
        let Some(stage) = build.enter(plan, i) else { continue };
        let result = (node.class.lower)(&mut Cx::new(&mut build, plan, env, i, stage));
        match result {
            Ok(values) if values.len() >= node.class.outputs.len() => build.leave(i, values),
            Ok(values) => {
                let reason = format!("{} values for {} outputs", values.len(), node.class.outputs.len());
                refused.push(node.refusal(Why::Lowering, "", reason, String::new()));
            }
            Err(error) => refused.push(words(node, error)),
        }
    }
    if !refused.is_empty() {
        return Err(Refused(refused));
    }
    build.finish(plan).map_err(|error| Refusal::document(Why::Lowering, error.to_string(), "").into())
}

fn words(node: &super::plan::Node, error: LowerError) -> Refusal {
    match error {
        LowerError::Graph(error) => node.refusal(Why::Lowering, "", error.to_string(), String::new()),
        LowerError::Model(error) => node.refusal(Why::Lowering, "", error.to_string(), String::new()),
        LowerError::Refused { input, reason, help, model } => {
            node.refusal(if model { Why::Model } else { Why::Lowering }, &input, reason, help)
        }
    }
}
