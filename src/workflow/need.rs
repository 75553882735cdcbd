//! Models that a workflow needs: what they are called, where they are looked for, where they come from.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::models::weights::Repository;

/// One model that a node needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    /// What it is, such as `ControlNet`.
    pub what: &'static str,
    /// As the workflow names it.
    pub name: String,
    /// A repository in the diffusers layout that does, such as `Lykon/dreamshaper-8`; empty for none.
    pub repository: String,
    /// Files below the models' folder, any of which does.
    pub files: Vec<PathBuf>,
    /// Where to get it, in words.
    pub from: String,
}

impl Need {
    /// Where it lies below `models`, if it is there.
    pub fn find(&self, models: &Path) -> Option<PathBuf> {
        let file = self.files.iter().map(|file| models.join(file)).find(|path| path.exists());
        file.or_else(|| match self.repository.as_str() {
            "" => None,
            id => Repository::find(models, id).ok().map(|found| found.root().to_path_buf()),
        })
    }
}
