//! Fetching a model from HuggingFace into the cache layout.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{HumanBytes, ProgressBar};
use sha2::{Digest, Sha256};

use crate::graph::DType;
use crate::models::pose::detector::File;

/// How often a transfer that breaks off is taken up again within one call.
const RETRIES: usize = 5;

/// Where models come from.
pub(super) struct Remote {
    /// The address, where it is not the usual one.
    pub endpoint: Option<String>,
    /// For models that are not public.
    pub token: Option<String>,
}

impl Remote {
    pub(super) fn from_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self { endpoint: text("HF_ENDPOINT"), token: text("HF_TOKEN").map(|token| token.trim().to_owned()) }
    }
}

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    #[error("{0:?} is not the name of a model: expected ORG/NAME")]
    Name(String),
    #[error("{id}: {source}{}", hint(source))]
    Remote { id: String, source: Box<ApiError> },
    #[error("{id} has no weights as .safetensors; {pickles}")]
    NoWeights { id: String, pickles: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{file}: what arrived is not what was announced (sha256 {found}, expected {expected}); it was deleted")]
    Damaged { file: String, found: String, expected: String },
}

fn hint(error: &ApiError) -> &'static str {
    let text = error.to_string();
    if text.contains("401") || text.contains("403") {
        "; the model may not be public: set HF_TOKEN, and accept its terms on its page"
    } else {
        ""
    }
}

/// What is needed of a model and not there yet.
struct Missing {
    api: Api,
    remote: ApiRepo,
    cache: hf_hub::CacheRepo,
    files: Vec<String>,
    visible: bool,
}

/// Fetches what is needed of `id` into `models`.
pub(super) fn pull(models: &Path, id: &str, dtype: DType, remote: &Remote) -> Result<(), PullError> {
    std::fs::create_dir_all(models).map_err(|source| PullError::Io { path: models.to_path_buf(), source })?;
    let missing = missing(models, id, dtype, remote)?;
    for file in &missing.files {
        fetch(&missing, file).map_err(|error| match error {
            Either::Api(error) => PullError::Remote { id: id.to_owned(), source: Box::new(error) },
            Either::Own(error) => error,
        })?;
    }
    Ok(())
}

/// How many files, and bytes, [`pull`] would fetch. Nothing is fetched or written.
pub(super) fn size(models: &Path, id: &str, dtype: DType, remote: &Remote) -> Result<(usize, u64), PullError> {
    let missing = missing(models, id, dtype, remote)?;
    let mut bytes = 0;
    for file in &missing.files {
        let about = missing.api.metadata(&missing.remote.url(file));
        let about = about.map_err(|error| PullError::Remote { id: id.to_owned(), source: Box::new(error) })?;
        let part = missing.cache.blob_path(about.etag()).with_extension("part");
        let there = part.metadata().map_or(0, |part| part.len());
        bytes += (about.size() as u64).saturating_sub(there);
    }
    Ok((missing.files.len(), bytes))
}

fn missing(models: &Path, id: &str, dtype: DType, remote: &Remote) -> Result<Missing, PullError> {
    let (name, revision) = id.split_once('@').unwrap_or((id, "main"));
    let word = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !text.is_empty() && text.chars().all(plain) && !text.starts_with('.')
    };
    if !name.split_once('/').is_some_and(|(org, model)| word(org) && word(model)) || !word(revision) {
        return Err(PullError::Name(id.to_owned()));
    }
    let failed = |source: ApiError| PullError::Remote { id: id.to_owned(), source: Box::new(source) };
    let visible = std::io::stderr().is_terminal();
    let mut builder = ApiBuilder::from_cache(Cache::new(models.to_path_buf()))
        .with_token(remote.token.clone())
        .with_retries(RETRIES)
        .with_progress(visible)
        .with_user_agent("weir", env!("CARGO_PKG_VERSION"));
    if let Some(endpoint) = &remote.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let api = builder.build().map_err(failed)?;
    let repo = Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
    let remote = api.repo(repo.clone());
    let info = remote.info().map_err(failed)?;
    let all: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
    let wanted = needed(&all, dtype == DType::F16);
    if !wanted.iter().any(|file| file.ends_with(".safetensors") || file == File::Half.name()) {
        let pickle = |file: &&String| [".bin", ".ckpt", ".pt", ".pth"].iter().any(|end| file.ends_with(end));
        let pickles = match all.iter().find(pickle) {
            Some(file) => format!("{file} is a pickle, which can run any program and is not read"),
            None => format!("it has {} other files", all.len()),
        };
        return Err(PullError::NoWeights { id: id.to_owned(), pickles });
    }
    let cache = Cache::new(models.to_path_buf()).repo(repo);
    let there = cache.pointer_path(&info.sha);
    let files = wanted.into_iter().filter(|file| !there.join(file).exists()).collect();
    Ok(Missing { api, remote, cache, files, visible })
}

enum Either {
    Api(ApiError),
    Own(PullError),
}

fn fetch(Missing { api, remote, cache, visible, .. }: &Missing, file: &str) -> Result<(), Either> {
    let about = api.metadata(&remote.url(file)).map_err(Either::Api)?;
    let blob = cache.blob_path(about.etag());
    // A part that is as long as the whole cannot be taken up: the server has no byte behind its end.
    let part = blob.with_extension("part");
    let length = part.metadata().map_or(0, |about| about.len());
    if length >= about.size() as u64 {
        let _ = std::fs::remove_file(&part);
    } else if length > 0 {
        super::super::complain(&format!("{file}: goes on at {}", HumanBytes(length)));
    }
    let path = match *visible {
        true => remote.download_with_progress(file, ProgressBar::new(0)),
        false => {
            super::super::complain(&format!("{file}: {}", HumanBytes(about.size() as u64)));
            remote.download_with_progress(file, ())
        }
    };
    let path = path.map_err(Either::Api)?;
    verify(&path, &blob, file, about.etag(), about.size() as u64).map_err(Either::Own)
}

/// Compares a file with its length and, for large files, whose name in the cache is their sum, with that.
fn verify(path: &Path, blob: &Path, file: &str, etag: &str, size: u64) -> Result<(), PullError> {
    let io = |source| PullError::Io { path: path.to_path_buf(), source };
    let mut content = std::fs::File::open(path).map_err(io)?;
    let found = match etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        false => String::new(),
        true => {
            let mut hash = Sha256::new();
            let mut piece = vec![0; 1 << 20];
            loop {
                let length = content.read(&mut piece).map_err(io)?;
                if length == 0 {
                    break format!("{:x}", hash.finalize());
                }
                hash.update(&piece[..length]);
            }
        }
    };
    let length = content.metadata().map_err(io)?.len();
    if length == size && (found.is_empty() || found.eq_ignore_ascii_case(etag)) {
        return Ok(());
    }
    for wrong in [path, blob] {
        let _ = std::fs::remove_file(wrong);
    }
    let (found, expected) = match length == size {
        true => (found, etag.to_owned()),
        false => (format!("of {length} bytes"), format!("{size} bytes")),
    };
    Err(PullError::Damaged { file: file.to_owned(), found, expected })
}

/// What is needed of a repository of IP-Adapters in the layout of h94/IP-Adapter, which holds many more.
const ADAPTERS: [&str; 6] = [
    "models/image_encoder/config.json",
    "sdxl_models/image_encoder/config.json",
    "models/ip-adapter_sd15.safetensors",
    "models/image_encoder/model.safetensors",
    "sdxl_models/ip-adapter_sdxl.safetensors",
    "sdxl_models/image_encoder/model.safetensors",
];

/// Which of a repository's files are needed: configurations, tokenizers, and weights as `.safetensors`, in half precision
/// where there is a choice and `half` is set. Sorted, small files first.
pub(super) fn needed(all: &[String], half: bool) -> Vec<String> {
    let adapters: Vec<String> = ADAPTERS.map(str::to_owned).into_iter().filter(|file| all.contains(file)).collect();
    if !adapters.is_empty() {
        return adapters;
    }
    // The others are the same weights for other scores.
    if let Some(detector) = all.iter().find(|file| *file == File::Half.name()) {
        return vec![detector.clone()];
    }
    const FOLDERS: [&str; 9] =
        ["unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler", "taesd", ""];
    const TEXTS: [&str; 8] = [
        "model_index.json",
        "config.json",
        "scheduler_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
    ];
    let split = |file: &str| {
        file.rsplit_once('/').map_or((String::new(), file.to_owned()), |(a, b)| (a.to_owned(), b.to_owned()))
    };
    let layout = all.iter().any(|file| file == "model_index.json");
    let parts = all.iter().filter(|file| !file.starts_with('/') && FOLDERS.contains(&split(file).0.as_str()));
    let mut wanted: Vec<String> = parts
        .filter(|file| {
            let (folder, name) = split(file);
            if TEXTS.contains(&name.as_str()) {
                return true;
            }
            let weights = name.ends_with(".safetensors") || name.contains(".safetensors.index.");
            // In the diffusers layout the files at the top are the same weights once more.
            if !weights || (layout && folder.is_empty()) || name.contains(".non_ema") {
                return false;
            }
            let is_half = |name: &str| name.contains(".fp16") || name.contains("-fp16");
            let same_kind = |other: &&String| {
                let (other_folder, other_name) = split(other);
                other_folder == folder && other_name.contains(".safetensors") && is_half(&other_name) != is_half(&name)
            };
            let choice = all.iter().any(|other| same_kind(&other));
            !choice || is_half(&name) == half
        })
        .cloned()
        .collect();
    wanted.sort_by_key(|file| (file.ends_with(".safetensors"), file.clone()));
    wanted
}
