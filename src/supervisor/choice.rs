//! What callers may choose between: the pipelines that this build can load here, and the workflows of a folder.
//!
//! Another pipeline means another engine, as the one that runs is told to end; a pipeline that cannot be loaded gives way
//! to the one before. Nothing of it happens while a stream has a slot, or where the pipeline is what is sold.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::hub::{Hub, HubError};

/// Workflows that are offered.
const MOST: usize = 64;

/// Why there is nothing else to be had.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(in crate::supervisor) enum ChoiceError {
    /// Not set.
    #[error("another pipeline cannot be loaded here; the setting serve.switch allows it")]
    Off,
    /// The pipeline is registered at an orchestrator.
    #[error("this runner sells its pipeline; what is registered cannot be switched")]
    Sold,
    /// This build has no such pipeline.
    #[error("there is no pipeline `{0}`")]
    Unknown(String),
    /// What it needs is not here.
    #[error("{pipeline} cannot be loaded here: {why}")]
    Unready {
        /// The pipeline.
        pipeline: String,
        /// What is missing.
        why: String,
    },
    /// A slot is taken.
    #[error("a stream runs; another pipeline is loaded when none does")]
    Running,
    /// A pipeline loads.
    #[error("a pipeline is being loaded")]
    Loading,
    /// No workflow of that name.
    #[error("no such workflow")]
    NoWorkflow,
    /// The folder of workflows.
    #[error("the folder of workflows cannot be read: {0}")]
    Folder(String),
    /// What the hub says.
    #[error("{0}")]
    Hub(#[from] HubError),
}

/// A pipeline and the parameters to load it with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::supervisor) struct Wanted {
    /// Its name.
    pub pipeline: String,
    /// Its parameters; none for the configured ones, or its own.
    pub params: Map<String, Value>,
}

/// What a workflow's file was when it was looked at.
type Seen = (SystemTime, u64);

/// What is known of choices.
#[derive(Debug)]
pub(in crate::supervisor) struct Choice {
    wanted: watch::Sender<Option<Wanted>>,
    /// Why the last switch failed.
    failed: Mutex<Option<String>>,
    /// What the engine told last, for when there is none.
    pipelines: Mutex<Value>,
    /// Whether workflows run, by file.
    examined: Mutex<BTreeMap<String, (Seen, Value)>>,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            wanted: watch::Sender::new(None),
            failed: Mutex::default(),
            pipelines: Mutex::default(),
            examined: Mutex::default(),
        }
    }
}

impl Choice {
    /// Orders for the keeper of the engine.
    pub fn orders(&self) -> watch::Receiver<Option<Wanted>> {
        self.wanted.subscribe()
    }

    /// Notes why the last switch failed.
    pub fn failed(&self, why: Option<String>) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// What this build can load here, as the engine tells it, or told it last.
async fn pipelines(hub: &Hub) -> Value {
    let known = &hub.choice.pipelines;
    let fresh = match hub.linked() {
        true => hub.describe().await.ok().map(|mut about| about["pipelines"].take()).filter(Value::is_array),
        false => None,
    };
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(fresh) = fresh {
        *known = fresh;
    }
    if known.is_null() { json!([]) } else { known.clone() }
}

/// Everything there is to choose from, and how a switch goes.
///
/// # Errors
/// The folder of workflows cannot be read.
pub(in crate::supervisor) async fn all(hub: &Hub) -> Result<Value, ChoiceError> {
    let pipelines = pipelines(hub).await;
    let workflows = workflows(hub).await?;
    let health = hub.health();
    let (pipeline, warm) = {
        let book = hub.book();
        (book.pipeline().to_owned(), book.warm())
    };
    let failed = hub.choice.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(json!({
        "pipeline": pipeline,
        "ready": warm,
        "detail": health.detail,
        "switch": allowed(hub).is_ok(),
        "failed": failed,
        "pipelines": pipelines,
        "workflows": workflows,
    }))
}

fn allowed(hub: &Hub) -> Result<(), ChoiceError> {
    let config = &hub.config;
    match config.switch {
        false => Err(ChoiceError::Off),
        true if !config.byoc.orchestrator.is_empty() || !config.runner.orchestrator.is_empty() => {
            Err(ChoiceError::Sold)
        }
        true => Ok(()),
    }
}

/// Orders that another pipeline is loaded. Returns once that has begun.
///
/// # Errors
/// [`ChoiceError`]; nothing changes then.
pub(in crate::supervisor) async fn switch(hub: &Hub, wanted: Wanted) -> Result<(), ChoiceError> {
    allowed(hub)?;
    let known = pipelines(hub).await;
    let mut known = known.as_array().into_iter().flatten();
    let Some(found) = known.find(|pipeline| pipeline["name"] == wanted.pipeline.as_str()) else {
        return Err(ChoiceError::Unknown(wanted.pipeline));
    };
    // With parameters of its own another model may be meant.
    if let (true, Some(why)) = (wanted.params.is_empty(), found["missing"].as_str()) {
        return Err(ChoiceError::Unready { pipeline: wanted.pipeline, why: why.to_owned() });
    }
    hub.book().switch(&wanted.pipeline, Instant::now())?;
    hub.choice.failed(None);
    tracing::info!(pipeline = wanted.pipeline, "Another pipeline is to be loaded.");
    hub.choice.wanted.send_replace(Some(wanted));
    Ok(())
}

/// The workflows of the folder: `name`, `runs`, and why not.
async fn workflows(hub: &Hub) -> Result<Vec<Value>, ChoiceError> {
    let Some(folder) = &hub.config.workflows else { return Ok(Vec::new()) };
    let files = files(folder, hub.config.max_body).await.map_err(|error| ChoiceError::Folder(error.to_string()))?;
    let mut told = Vec::new();
    for (name, seen) in files {
        let known = |examined: &BTreeMap<String, (Seen, Value)>| {
            examined.get(&name).filter(|(before, _)| *before == seen).map(|(_, value)| value.clone())
        };
        let known = known(&hub.choice.examined.lock().unwrap_or_else(PoisonError::into_inner));
        let value = match known {
            Some(value) => value,
            None => match read(folder, &name).await {
                Err(error) => json!({"name": name, "runs": false, "message": error.to_string()}),
                // Told the next time where the engine is away now.
                Ok(workflow) => match hub.linked() {
                    false => continue,
                    true => {
                        let Ok(found) = hub.examine(workflow, false).await else { continue };
                        let value = json!({"name": name, "runs": found["runs"], "message": found["message"]});
                        let mut examined = hub.choice.examined.lock().unwrap_or_else(PoisonError::into_inner);
                        if examined.len() >= 2 * MOST {
                            examined.clear();
                        }
                        examined.insert(name.clone(), (seen, value.clone()));
                        value
                    }
                },
            },
        };
        told.push(value);
    }
    Ok(told)
}

/// A workflow of the folder by its name.
///
/// # Errors
/// [`ChoiceError::NoWorkflow`], or it cannot be read.
pub(in crate::supervisor) async fn workflow(hub: &Hub, name: &str) -> Result<Value, ChoiceError> {
    let Some(folder) = &hub.config.workflows else { return Err(ChoiceError::NoWorkflow) };
    let broken = |error: std::io::Error| ChoiceError::Folder(error.to_string());
    let files = files(folder, hub.config.max_body).await.map_err(broken)?;
    // The name that is opened is the folder's own.
    let (name, _) = files.into_iter().find(|(known, _)| known == name).ok_or(ChoiceError::NoWorkflow)?;
    read(folder, &name).await.map_err(broken)
}

/// Names of the workflow files of a folder, without their ending, in order.
async fn files(folder: &Path, most_bytes: usize) -> std::io::Result<Vec<(String, Seen)>> {
    let mut entries = tokio::fs::read_dir(folder).await?;
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
        let Ok(meta) = entry.metadata().await else { continue };
        if meta.is_file() && meta.len() <= most_bytes as u64 {
            found.push((name.to_owned(), (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len())));
        }
    }
    found.sort();
    found.truncate(MOST);
    Ok(found)
}

async fn read(folder: &Path, name: &str) -> std::io::Result<Value> {
    let bytes = tokio::fs::read(folder.join(format!("{name}.json"))).await?;
    serde_json::from_slice(&bytes).map_err(|error| std::io::Error::other(format!("this is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_offers_its_json_files_and_no_others() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [("b.json", "{}"), ("a.json", "["), ("note.txt", "{}"), ("large.json", "{\"a\": 12345678}")]
        {
            std::fs::write(folder.path().join(name), text).expect("written");
        }
        std::fs::create_dir(folder.path().join("c.json")).expect("made");
        let names: Vec<_> = files(folder.path(), 8).await.expect("read").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(read(folder.path(), "b").await.expect("read"), json!({}));
        assert!(read(folder.path(), "a").await.expect_err("refused").to_string().contains("no JSON"));
    }
}
