//! Where graphs and their weights lie while they are loaded.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use crate::graph::{DType, Footprint, Model};
use crate::inference::{Config, Graph, Load, Needs, Precision, Runtime, Session};
use crate::models::weights::{Pool, Reader, Weights};
use crate::models::{ModelError, Source};
use crate::pipeline::{LoadContext, PipelineError};

/// Up to so many bytes of weights go into the graph itself; more go into a file beside it, so that they are never in memory
/// as a whole.
const INLINE: u64 = 64 << 20;

/// Folder below the models for graphs while they are loaded.
const GRAPHS: &str = "weir--graphs";

/// Where, how and in what precision graphs are loaded.
pub(super) struct Place<'a> {
    pub runtime: &'static Runtime,
    pub inference: &'a Config,
    pub precision: DType,
    progress: &'a (dyn Fn(&str) + Send + Sync),
    engines: PathBuf,
    root: PathBuf,
    folder: RefCell<Folder>,
}

fn failed(error: impl std::fmt::Display) -> PipelineError {
    PipelineError::Load(error.to_string())
}

impl<'a> Place<'a> {
    /// A place below the models of `cx`.
    pub fn new(runtime: &'static Runtime, cx: &LoadContext<'a>, precision: DType) -> Self {
        let root = cx.models.join(GRAPHS);
        let folder = RefCell::new(Folder::new(&root));
        Self { runtime, inference: cx.inference, precision, progress: cx.progress, engines: cx.engines(), root, folder }
    }

    /// Tells whoever waits what is being done.
    pub fn say(&self, line: &str) {
        (self.progress)(line);
    }

    /// Loads a graph called `name`; with `frames`, one that is run for every frame.
    pub fn load(&self, name: &str, frames: bool, model: &Model, graph: Graph<'_>) -> Result<Session, PipelineError> {
        let Footprint { weights, activations, ports } = model.footprint();
        let load = Load {
            name,
            frames,
            needs: Some(Needs { weights, activations, ports }),
            precision: if self.precision == DType::F16 { Precision::Fp16 } else { Precision::Fp32 },
            engines: Some(&self.engines),
            progress: Some(self.progress),
            ..Load::new(self.inference)
        };
        Session::load(self.runtime, &load, graph).map_err(failed)
    }

    /// Loads the ONNX file at `path`, which somebody else wrote, as a graph called `name`.
    pub fn file(&self, name: &str, path: &Path) -> Result<Session, PipelineError> {
        let load = Load {
            name,
            precision: if self.precision == DType::F16 { Precision::Fp16 } else { Precision::Fp32 },
            engines: Some(&self.engines),
            progress: Some(self.progress),
            mixed: true,
            ..Load::new(self.inference)
        };
        Session::load(self.runtime, &load, Graph::File(path)).map_err(failed)
    }

    /// Builds a graph over `weights`, one source for each, and loads it as [`Self::load`].
    pub fn session(
        &self,
        name: &str,
        frames: bool,
        weights: &[&Weights],
        build: impl FnOnce(&mut [&mut dyn Source]) -> Result<Model, ModelError>,
    ) -> Result<Session, PipelineError> {
        let bytes: u64 = weights.iter().map(|weights| weights.bytes()).sum();
        if bytes <= INLINE {
            let mut readers: Vec<Reader<'_>> = weights.iter().map(|weights| Reader::inline(weights)).collect();
            let model = build(&mut sources(&mut readers)).map_err(failed)?;
            let onnx = model.to_bytes().map_err(failed)?;
            return self.load(name, frames, &model, Graph::Bytes(&onnx));
        }
        let mut folder = self.folder.borrow_mut();
        let folder = folder
            .make()
            .map_err(|error| failed(format!("a folder for graphs below {}: {error}", self.root.display())))?;
        let mut pools = Vec::with_capacity(weights.len());
        for i in 0..weights.len() {
            pools.push(Pool::create(&folder.join(format!("{name}-{i}.weights"))).map_err(failed)?);
        }
        let model = {
            let mut readers: Vec<Reader<'_>> =
                weights.iter().zip(&mut pools).map(|(weights, pool)| Reader::pooled(weights, pool)).collect();
            build(&mut sources(&mut readers)).map_err(failed)?
        };
        for pool in pools {
            pool.finish().map_err(failed)?;
        }
        let path = folder.join(format!("{name}.onnx"));
        model.write(&path).map_err(failed)?;
        self.load(name, frames, &model, Graph::File(&path))
    }
}

fn sources<'r, 'w>(readers: &'r mut [Reader<'w>]) -> Vec<&'r mut (dyn Source + 'w)> {
    readers.iter_mut().map(|reader| reader as &mut dyn Source).collect()
}
