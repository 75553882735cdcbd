//! Where models are: folders in the diffusers layout, HuggingFace's cache, single files.

use std::collections::BTreeSet;
use std::path::{Component as Step, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::component::infer;
use super::file::SafeFile;
use super::original::{family, translate};
use super::{Component, Family, Weights, WeightsError};
use crate::graph::DType;

/// A model on disk.
#[derive(Clone, Debug)]
pub struct Repository {
    root: PathBuf,
    single: Option<(Arc<SafeFile>, Option<Family>)>,
}

/// The largest JSON file that is read.
const MAX_JSON: u64 = 16 << 20;

impl Repository {
    /// The model called `id` under `models`: `ORG/NAME` or `ORG/NAME@REVISION` in HuggingFace's cache layout, or a folder
    /// or a `.safetensors` file of that relative path. An `id` that leads out of `models` is refused.
    ///
    /// # Errors
    /// [`WeightsError::NoModel`]; those of [`Self::at`].
    pub fn find(models: &Path, id: &str) -> Result<Self, WeightsError> {
        let missing =
            |expected: String| WeightsError::NoModel { id: id.to_owned(), root: models.to_path_buf(), expected };
        let plain = !id.is_empty() && Path::new(id).components().all(|step| matches!(step, Step::Normal(_)));
        if !plain || id.contains(['\\', '\0']) {
            return Err(missing("a name such as ORG/NAME, or a path below that folder".to_owned()));
        }
        let (name, revision) = id.split_once('@').map_or((id, None), |(name, revision)| (name, Some(revision)));
        if let Some(folder) = folder_of(models, name) {
            return Self::at(&snapshot(&folder, revision).map_err(missing)?);
        }
        let direct = [models.join(name), models.join(format!("{name}.safetensors"))];
        match direct.iter().find(|path| path.exists()) {
            Some(path) if revision.is_none() => Self::at(path),
            _ => Err(missing(format!("models--{}/snapshots, {name}/ or {name}.safetensors", name.replace('/', "--")))),
        }
    }

    /// The model at `path`, a folder or a `.safetensors` file.
    ///
    /// # Errors
    /// [`WeightsError::NoFile`] when there is nothing; what is wrong with a single file.
    pub fn at(path: &Path) -> Result<Self, WeightsError> {
        if path.is_dir() {
            return Ok(Self { root: path.to_path_buf(), single: None });
        }
        if !path.exists() {
            let expected = "a folder in the diffusers layout or a .safetensors file".to_owned();
            return Err(WeightsError::NoFile { path: path.to_path_buf(), expected });
        }
        let file = SafeFile::open(path)?;
        let family = family(&file.tensors);
        Ok(Self { root: path.to_path_buf(), single: Some((Arc::new(file), family)) })
    }

    /// The folder or file.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// True for a single file.
    pub fn is_single(&self) -> bool {
        self.single.is_some()
    }

    /// Which line of models this one belongs to, as far as its text encoders tell.
    ///
    /// # Errors
    /// Those of [`Self::config`].
    pub fn family(&self) -> Result<Family, WeightsError> {
        if let Some((file, family)) = &self.single {
            return family.ok_or_else(|| WeightsError::Malformed {
                path: file.path.clone(),
                reason: "a single file that is no checkpoint of Stable Diffusion".to_owned(),
            });
        }
        if self.has(Component::TextEncoder2) {
            return Ok(Family::Sdxl);
        }
        let config = self.config(Component::TextEncoder)?;
        let gelu = config.get("hidden_act").and_then(Value::as_str) == Some("gelu");
        Ok(if gelu { Family::Sd2 } else { Family::Sd1 })
    }

    /// True when the component is there, whole or not.
    pub fn has(&self, component: Component) -> bool {
        match &self.single {
            Some((file, _)) => !translate(component, &file.tensors).is_empty(),
            None => self.root.join(component.folder()).join("config.json").exists(),
        }
    }

    /// The `config.json` of a component; of a single file one made from its shapes.
    ///
    /// # Errors
    /// [`WeightsError::NoFile`], [`WeightsError::Malformed`].
    pub fn config(&self, component: Component) -> Result<Value, WeightsError> {
        match &self.single {
            None => self.json(&Path::new(component.folder()).join("config.json")),
            Some(_) => {
                Ok(infer(component, self.family().unwrap_or(Family::Sd1), &self.weights(component, DType::F16)?))
            }
        }
    }

    /// A JSON file of a repository that is a folder.
    ///
    /// # Errors
    /// [`WeightsError::NoFile`], [`WeightsError::Malformed`] for another content or more than 16 MiB.
    pub fn json(&self, relative: &Path) -> Result<Value, WeightsError> {
        read_json(&self.root.join(relative))
    }

    /// The weights of a component. Where the folder has them in full and in half precision, `wanted` decides.
    ///
    /// # Errors
    /// [`WeightsError::NoFile`] with the names that were looked for, [`WeightsError::Pickle`] where there is nothing else.
    pub fn weights(&self, component: Component, wanted: DType) -> Result<Weights, WeightsError> {
        let Some((file, family)) = &self.single else {
            return in_folder(&self.root.join(component.folder()), component.stem(), wanted);
        };
        if family.is_none() && !file.tensors.keys().any(|name| name.starts_with("control_model.")) {
            return Weights::of_files(&file.path, vec![file.clone()]);
        }
        let names = translate(component, &file.tensors);
        if names.is_empty() {
            let expected = format!("a checkpoint that holds {component:?}");
            return Err(WeightsError::NoFile { path: file.path.clone(), expected });
        }
        Weights::of_names(file.clone(), names)
    }

    /// The weights called `stem` at the top of a repository that is a folder, `wanted` deciding as in [`Self::weights`].
    ///
    /// # Errors
    /// As there.
    pub fn weights_called(&self, stem: &str, wanted: DType) -> Result<Weights, WeightsError> {
        in_folder(&self.root, stem, wanted)
    }

    /// A folder with the files of a tokenizer, `n` = 1 or 2: inside the repository, or beside a single file.
    pub fn tokenizer(&self, n: u32) -> Option<PathBuf> {
        let name = if n == 2 { "tokenizer_2" } else { "tokenizer" };
        let beside = || self.root.parent().map(Path::to_path_buf).unwrap_or_default();
        let folder = if self.is_single() { beside() } else { self.root.clone() };
        Some(folder.join(name)).filter(|folder| folder.is_dir())
    }
}

/// The folder of `name` in HuggingFace's cache below `models`.
pub fn folder_of(models: &Path, name: &str) -> Option<PathBuf> {
    let folder = format!("models--{}", name.replace('/', "--"));
    [models.to_path_buf(), models.join("hub")].iter().map(|root| root.join(&folder)).find(|folder| folder.is_dir())
}

/// The names of all models in HuggingFace's cache below `models`, sorted.
pub fn cached(models: &Path) -> Vec<String> {
    let folders = [models.to_path_buf(), models.join("hub")];
    let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_prefix("models--")?.replace("--", "/"))
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The folder of a revision: what `refs/main` or `refs/REVISION` names, a commit by itself, or the only one there is.
fn snapshot(folder: &Path, revision: Option<&str>) -> Result<PathBuf, String> {
    let snapshots = folder.join("snapshots");
    let wanted = revision.unwrap_or("main");
    if let Ok(commit) = std::fs::read_to_string(folder.join("refs").join(wanted)) {
        let commit = commit.trim();
        let path = snapshots.join(commit);
        let plain = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric());
        return if plain && path.is_dir() {
            Ok(path)
        } else {
            Err(format!("{}, which refs/{wanted} names, is not there", path.display()))
        };
    }
    if let Some(revision) = revision {
        let path = snapshots.join(revision);
        return if path.is_dir() { Ok(path) } else { Err(format!("{}", path.display())) };
    }
    let mut all = std::fs::read_dir(&snapshots).into_iter().flatten().flatten().map(|entry| entry.path());
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(format!("a snapshot in {}", snapshots.display())),
        (Some(_), Some(_)) => {
            Err(format!("refs/main in {}, or a revision: there are several snapshots", folder.display()))
        }
    }
}

fn read_json(path: &Path) -> Result<Value, WeightsError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => {
            WeightsError::NoFile { path: path.to_path_buf(), expected: "a JSON file".to_owned() }
        }
        _ => WeightsError::Io { path: path.to_path_buf(), source },
    };
    let malformed = |reason: String| WeightsError::Malformed { path: path.to_path_buf(), reason };
    let length = path.metadata().map_err(io)?.len();
    if length > MAX_JSON {
        return Err(malformed(format!("{length} bytes, expected at most {MAX_JSON} of JSON")));
    }
    let text = std::fs::read(path).map_err(io)?;
    serde_json::from_slice(&text).map_err(|error| malformed(format!("not JSON: {error}")))
}

/// The weights called `stem` in `folder`.
fn in_folder(folder: &Path, stem: &str, wanted: DType) -> Result<Weights, WeightsError> {
    let full = [format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json")];
    let half = [
        format!("{stem}.fp16.safetensors"),
        format!("{stem}.safetensors.index.fp16.json"),
        format!("{stem}.fp16.safetensors.index.json"),
    ];
    let names: Vec<&String> = match wanted {
        DType::F16 => half.iter().chain(&full).collect(),
        _ => full.iter().chain(&half).collect(),
    };
    // A link into the cache whose file is not there yet counts as found, so that the error names it.
    let Some(name) = names.iter().find(|name| folder.join(name).symlink_metadata().is_ok()) else {
        let pickles = [format!("{stem}.bin"), format!("{stem}.fp16.bin"), "pytorch_model.bin".to_owned()];
        return Err(match pickles.iter().map(|name| folder.join(name)).find(|path| path.exists()) {
            Some(path) => WeightsError::Pickle { path },
            None => {
                let expected = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", or ");
                WeightsError::NoFile { path: folder.to_path_buf(), expected }
            }
        });
    };
    let path = folder.join(name);
    if name.ends_with(".safetensors") {
        return Weights::open(&path);
    }
    let shards = shards(&read_json(&path)?).map_err(|reason| WeightsError::Malformed { path: path.clone(), reason })?;
    let mut files = Vec::new();
    for shard in shards.iter().map(|(_, file)| file).collect::<BTreeSet<_>>() {
        files.push(Arc::new(SafeFile::open(&folder.join(shard))?));
    }
    for (tensor, shard) in &shards {
        let file = files.iter().find(|file| file.path.ends_with(shard));
        if !file.is_some_and(|file| file.tensors.contains_key(tensor)) {
            let reason = format!("it says that {shard} holds {tensor}, which is not there");
            return Err(WeightsError::Malformed { path, reason });
        }
    }
    Weights::of_files(folder, files)
}

/// The tensors of an index and their files, which stand in the same folder.
pub(super) fn shards(index: &Value) -> Result<Vec<(String, String)>, String> {
    let map = index.get("weight_map").and_then(Value::as_object).ok_or("expected the key weight_map")?;
    let entries = map.iter().map(|(tensor, file)| {
        let file = file.as_str().ok_or_else(|| format!("weight_map.{tensor} is not the name of a file"))?;
        let mut steps = Path::new(file).components();
        let plain = matches!((steps.next(), steps.next()), (Some(Step::Normal(_)), None));
        if !plain || !file.ends_with(".safetensors") {
            return Err(format!("weight_map.{tensor}: {file} is not a .safetensors file in the same folder"));
        }
        Ok((tensor.clone(), file.to_owned()))
    });
    entries.collect()
}
