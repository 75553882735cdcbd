//! Where the models of Stable Diffusion nodes are looked for, and their weights on the way into a graph.

use std::path::{Component as Step, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use crate::graph::{DType, GraphBuilder};
use crate::models::weights::{Component, Lora, Part, Reader, Repository, SharedPool, Weights};
use crate::models::{ModelError, Net, Shared, check};
use crate::workflow::lower::{Cx, LowerError};
use crate::workflow::need::Need;

/// Published models by what stands in names of files, in lower case and without what separates words. The first that fits.
const KNOWN: [(&str, &str); 9] = [
    ("dreamshaper8dmd", "aaronb/dreamshaper-8-dmd-1kstep"),
    ("dreamshaper8", "Lykon/dreamshaper-8"),
    ("sdxlturbo", "stabilityai/sdxl-turbo"),
    ("sdturbo", "stabilityai/sd-turbo"),
    ("sdxlbase", "stabilityai/stable-diffusion-xl-base-1.0"),
    ("cliptext", "Lykon/dreamshaper-8"),
    ("v15pruned", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ("v21", "stabilityai/stable-diffusion-2-1-base"),
    ("taesdxl", "madebyollin/taesdxl"),
];

/// The published model that a file called `name` is made of, or the empty text.
pub(super) fn known(name: &str) -> &'static str {
    let plain: String = name.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    KNOWN.iter().find(|(part, _)| plain.contains(part)).map_or("", |(_, repository)| repository)
}

/// A model called `name` in one of ComfyUI's `folders`: a file, or a folder of that name without its ending; or the published
/// model `repository`.
pub(super) fn need(what: &'static str, name: &str, folders: &[&str], repository: &str) -> Need {
    let plain = !name.is_empty() && Path::new(name).components().all(|step| matches!(step, Step::Normal(_)));
    let mut files = Vec::new();
    for folder in folders.iter().filter(|_| plain) {
        let folder = Path::new(folder);
        files.push(folder.join(name));
        files.push(match name.strip_suffix(".safetensors") {
            Some(bare) => folder.join(bare),
            None => folder.join(format!("{name}.safetensors")),
        });
    }
    let place = folders.first().copied().unwrap_or_default();
    let from = match repository {
        "" => format!("put it into the folder {place} of the models' folder, as .safetensors"),
        id => format!("`weir models pull {id}` fetches it; or put it into the folder {place} of the models' folder"),
    };
    Need { what, name: name.to_owned(), repository: repository.to_owned(), files, from }
}

/// Where `need` lies.
pub(super) fn find(cx: &Cx<'_>, input: &str, need: &Need) -> Result<PathBuf, LowerError> {
    let missing = || cx.refuse_model(input, format!("{} {} is missing", need.what, need.name), need.from.clone());
    need.find(&cx.env().models).ok_or_else(missing)
}

/// One network on disk, with what is merged into it.
#[derive(Clone)]
pub(super) struct Stored {
    repository: Repository,
    component: Component,
    /// Its `config.json`, or one made from the shapes of its weights.
    pub config: Json,
    loras: Vec<(Arc<Lora>, Part, f32)>,
}

impl Stored {
    /// The network `component` at `path`: a model's folder, the network's own folder, or a file. The configuration beside a
    /// file is `NAME.json` or `config.json`.
    pub(super) fn open(path: &Path, component: Component) -> Result<Self, ModelError> {
        let folder = component.folder();
        if path.is_dir() && (folder.is_empty() || path.join(folder).join("config.json").exists()) {
            let repository = Repository::at(path)?;
            let config = repository.config(component)?;
            return Ok(Self { repository, component, config, loras: Vec::new() });
        }
        let file = match path.is_dir() {
            true => weights_in(path).unwrap_or_else(|| path.join("diffusion_pytorch_model.safetensors")),
            false => path.to_path_buf(),
        };
        let repository = Repository::at(&file)?;
        let config = match beside(&file, component, path.is_dir()) {
            Some(config) => config,
            None => repository.config(component)?,
        };
        Ok(Self { repository, component, config, loras: Vec::new() })
    }

    /// The model's folder or file.
    pub(super) fn root(&self) -> &Path {
        self.repository.root()
    }

    /// The same with `scale` times what `lora` has for `part`.
    pub(super) fn with(&self, lora: &Arc<Lora>, part: Part, scale: f32) -> Self {
        let mut with = self.clone();
        with.loras.push((lora.clone(), part, scale));
        with
    }

    fn weights(&self, dtype: DType) -> Result<Weights, ModelError> {
        let mut weights = self.repository.weights(self.component, dtype)?;
        for (lora, part, scale) in &self.loras {
            weights.merge(lora, *part, *scale)?;
        }
        Ok(weights)
    }
}

/// The file of weights in a network's own folder.
fn weights_in(folder: &Path) -> Option<PathBuf> {
    let names = ["diffusion_pytorch_model", "diffusion_pytorch_model.fp16", "model", "model.fp16"];
    let usual = names.iter().map(|name| folder.join(format!("{name}.safetensors"))).find(|path| path.exists());
    usual.or_else(|| check::lora_file(folder))
}

/// The configuration beside a file, where it is one of this network; in the network's `own` folder it is.
fn beside(file: &Path, component: Component, own_folder: bool) -> Option<Json> {
    let folder = Repository::at(file.parent()?).ok()?;
    let own = PathBuf::from(file.with_extension("json").file_name()?);
    let suits = |config: &Json| {
        if own_folder {
            return true;
        }
        let class = config.get("_class_name").and_then(Json::as_str);
        match component {
            Component::Unet => class == Some("UNet2DConditionModel"),
            Component::Vae => class == Some("AutoencoderKL"),
            Component::ControlNet => class == Some("ControlNetModel"),
            Component::TinyVae => class == Some("AutoencoderTiny"),
            Component::TextEncoder | Component::TextEncoder2 => config.get("hidden_act").is_some(),
        }
    };
    folder.json(&own).ok().or_else(|| folder.json(Path::new("config.json")).ok().filter(suits))
}

/// Weights that are being put into a graph.
pub(super) struct Opened {
    weights: Weights,
    /// The file beside the graph; `None` where the weights are in the graph itself.
    pool: Option<Arc<SharedPool>>,
    scratch: PathBuf,
    shared: Shared,
    dtype: DType,
    name: String,
}

impl Opened {
    /// The weights of `stored`, as numbers of `dtype`. `name` is unique among those of a node.
    pub(super) fn new(cx: &mut Cx<'_>, stored: &Stored, dtype: DType, name: &str) -> Result<Self, LowerError> {
        (cx.env().progress)(&format!("reading {}", stored.root().display()));
        Self::of(cx, stored.weights(dtype)?, dtype, name)
    }

    /// As [`Self::new`], for `weights` that are open already.
    pub(super) fn of(cx: &mut Cx<'_>, weights: Weights, dtype: DType, name: &str) -> Result<Self, LowerError> {
        // The same network in a graph of the same content has the same name, wherever its node stands.
        let name = format!("net_{}.{name}", cx.network()?);
        let pool = if weights.bytes() > cx.env().inline {
            let scratch = &cx.env().scratch;
            std::fs::create_dir_all(scratch)
                .map_err(|error| cx.refuse("", format!("{}: {error}", scratch.display()), ""))?;
            let pool = SharedPool::of(&cx.env().weights, &weights, dtype)?;
            cx.beside(pool.clone());
            Some(pool)
        } else {
            None
        };
        let scratch = cx.env().scratch.clone();
        Ok(Self { weights, pool, scratch, shared: Shared::default(), dtype, name })
    }

    /// Adds operators of the network to `g`; called again, it uses the same weights.
    pub(super) fn build<R>(
        &mut self,
        g: &mut GraphBuilder,
        build: impl FnOnce(&mut Net<'_>) -> Result<R, ModelError>,
    ) -> Result<R, ModelError> {
        let Self { weights, pool, shared, dtype, name, .. } = self;
        let with = |reader: &mut Reader<'_>| Net::sharing(g, reader, *dtype, shared).place(name, build);
        match pool {
            None => with(&mut Reader::inline(weights)),
            Some(pool) => pool.with(weights, with),
        }
    }

    /// Puts the file beside the graphs of this workflow.
    pub(super) fn finish(self) -> Result<(), LowerError> {
        Ok(self.pool.map_or(Ok(()), |pool| pool.link(&self.scratch))?)
    }
}
