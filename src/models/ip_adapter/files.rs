//! Where an adapter and its picture encoder lie: the layout of `h94/IP-Adapter`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::graph::DType;
use crate::models::weights::{Family, Repository, Weights, WeightsError};

/// The repository with the published adapters.
pub const REPOSITORY: &str = "h94/IP-Adapter";

/// The files of the regular adapter of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The adapter, a `.safetensors` file.
    pub adapter: PathBuf,
    /// The folder of the picture encoder, with `config.json` and `model.safetensors`.
    pub encoder: PathBuf,
}

impl Files {
    /// Those in the repository at `root`; `None` for a family that has none.
    pub fn of(root: &Path, family: Family) -> Option<Self> {
        let (folder, name) = match family {
            Family::Sd1 => ("models", "ip-adapter_sd15"),
            Family::Sdxl => ("sdxl_models", "ip-adapter_sdxl"),
            Family::Sd2 => return None,
        };
        let folder = root.join(folder);
        Some(Self { adapter: folder.join(format!("{name}.safetensors")), encoder: folder.join("image_encoder") })
    }

    /// Whether nothing of it is there.
    pub fn absent(&self) -> bool {
        let there = |path: &Path| path.symlink_metadata().is_ok();
        !there(&self.adapter) && !there(&self.adapter.with_extension("bin")) && !there(&self.encoder)
    }

    /// The weights of the adapter.
    ///
    /// # Errors
    /// [`WeightsError`]; [`WeightsError::Pickle`] where there is but a `.bin`.
    pub fn adapter(&self) -> Result<Weights, WeightsError> {
        if self.adapter.symlink_metadata().is_ok() {
            return Weights::open(&self.adapter);
        }
        let pickle = self.adapter.with_extension("bin");
        if pickle.exists() {
            return Err(WeightsError::Pickle { path: pickle });
        }
        let expected = format!("an IP-Adapter; `weir models pull {REPOSITORY}` fetches it");
        Err(WeightsError::NoFile { path: self.adapter.clone(), expected })
    }

    /// The configuration and the weights of the picture encoder; where there are both, `wanted` decides between full and half
    /// precision.
    ///
    /// # Errors
    /// [`WeightsError`].
    pub fn encoder(&self, wanted: DType) -> Result<(Value, Weights), WeightsError> {
        if self.encoder.symlink_metadata().is_err() {
            let expected = format!("a picture encoder; `weir models pull {REPOSITORY}` fetches it");
            return Err(WeightsError::NoFile { path: self.encoder.clone(), expected });
        }
        let repository = Repository::at(&self.encoder)?;
        let weights = repository.weights_called("model", wanted)?;
        Ok((repository.json(Path::new("config.json"))?, weights))
    }
}
