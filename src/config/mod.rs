//! Flags, variables and file to one checked configuration.
//!
//! [`SETTINGS`] is the one table: every row is a key of the file (`serve.port`), a flag (`--port`) and a variable
//! (`WEIR_SERVE_PORT`, and the name that containers of the network use, `PORT`). Later wins: default, file, variable, flag.
//! Every mistake is told at once, before anything starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod file;
#[doc(hidden)]
pub mod fuzz;
mod table;
mod values;

pub use table::{SETTINGS, Setting};

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// And what may soon.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And how.
    Debug,
    /// And every frame.
    Trace,
}

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A sentence for people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Settings of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// How much.
    pub level: LogLevel,
    /// What a line looks like.
    pub format: LogFormat,
}

/// The configuration of the whole program.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The process that answers.
    pub supervisor: crate::supervisor::Config,
    /// The process that works.
    pub engine: crate::engine::Config,
    /// The log of both.
    pub log: Log,
    /// Variant of StreamDiffusion, for images that carry one; names the pipeline where no `model_id` is given.
    pub subvariant: String,
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    #[default]
    Default,
    /// The configuration file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One thing that is wrong with what was configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct Mistake {
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong with it and what is expected.
    pub problem: String,
}

/// Everything that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Mistakes(pub Vec<Mistake>);

/// A checked configuration.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where each that is not the default came from, by key.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What looks wrong but does no harm.
    pub warnings: Vec<String>,
}

/// The variable that names the configuration file; its flag is `--config`.
pub const FILE_VARIABLE: &str = "WEIR_CONFIG";

/// Reads the configuration. `flags` are by name without dashes (`config` names the file), `variables` are the whole
/// environment, and `read` reads a file.
///
/// # Errors
/// [`Mistakes`]: all of them, with the name of the flag, variable or key.
pub fn load(
    flags: &BTreeMap<String, String>,
    variables: &BTreeMap<String, String>,
    read: impl FnOnce(&Path) -> std::io::Result<String>,
) -> Result<Loaded, Mistakes> {
    let mut reader = Reader { loaded: Loaded::default(), mistakes: Vec::new() };
    let variable = |name: &str| variables.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let named = flags.get("config").map(|path| (path.as_str(), Origin::Flag("config".into())));
    let file = named.or_else(|| Some((variable(FILE_VARIABLE)?, Origin::Variable(FILE_VARIABLE.into()))));
    if let Some((path, origin)) = file {
        match read(Path::new(path)) {
            Ok(text) => reader.file(Path::new(path), &text),
            Err(error) => reader.mistake(origin, format!("{path} cannot be read: {error}")),
        }
    }
    for setting in SETTINGS {
        if let Some((name, meaning)) = setting.contract
            && let Some(value) = variable(name).and_then(meaning)
        {
            reader.set(setting, Origin::Variable(name.into()), value);
        }
        let name = setting.variable();
        if let Some(value) = variable(&name) {
            reader.set(setting, Origin::Variable(name), value);
        }
    }
    for name in variables.keys().filter(|name| name.starts_with("WEIR_") && *name != FILE_VARIABLE) {
        if !SETTINGS.iter().any(|setting| setting.variable() == *name) {
            reader.loaded.warnings.push(format!("variable {name}: no setting has this name"));
        }
    }
    for setting in SETTINGS {
        let name = setting.flag();
        if let Some(value) = flags.get(&name) {
            reader.set(setting, Origin::Flag(name), value);
        }
    }
    reader.finish()
}

struct Reader {
    loaded: Loaded,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn mistake(&mut self, origin: Origin, problem: String) {
        self.mistakes.push(Mistake { origin, problem });
    }

    fn set(&mut self, setting: &Setting, origin: Origin, value: &str) {
        match (setting.set)(&mut self.loaded.config, value) {
            Ok(()) => drop(self.loaded.origins.insert(setting.key, origin)),
            Err(problem) => {
                let key = if matches!(origin, Origin::File(_)) { format!("{}: ", setting.key) } else { String::new() };
                self.mistake(origin, format!("{key}{problem}"));
            }
        }
    }

    fn file(&mut self, path: &Path, text: &str) {
        let origin = Origin::File(path.to_owned());
        match file::entries(text) {
            Ok(entries) => {
                for (key, value) in entries {
                    match (SETTINGS.iter().find(|setting| setting.key == key), value) {
                        (Some(setting), Ok(value)) => self.set(setting, origin.clone(), &value),
                        (Some(_), Err(problem)) => self.mistake(origin.clone(), format!("{key}: {problem}")),
                        (None, _) => self.mistake(origin.clone(), format!("{key}: no setting has this name")),
                    }
                }
            }
            Err(problem) => self.mistake(origin, problem),
        }
    }

    fn finish(mut self) -> Result<Loaded, Mistakes> {
        let config = &mut self.loaded.config;
        if !config.subvariant.is_empty() && !self.loaded.origins.contains_key("serve.model_id") {
            config.supervisor.model_id = format!("streamdiffusion-{}", config.subvariant);
        }
        let supervisor = &config.supervisor;
        let byoc = &supervisor.byoc;
        if !byoc.orchestrator.is_empty() {
            let origin = self.loaded.origins.get("byoc.orchestrator").cloned().unwrap_or_default();
            if byoc.secret.is_empty() {
                let what = "no secret is given for the orchestrator (byoc.secret, ORCH_SECRET): nothing is registered";
                self.loaded.warnings.push(format!("{origin}: {what}"));
            } else if byoc.url.is_empty() && supervisor.host.is_unspecified() {
                let problem = format!(
                    "{} cannot be announced, nobody can reach it: set byoc.url (CAPABILITY_URL) to where the \
                     orchestrator reaches this runner",
                    supervisor.host
                );
                self.mistakes.push(Mistake { origin, problem });
            }
        }
        if self.mistakes.is_empty() { Ok(self.loaded) } else { Err(Mistakes(self.mistakes)) }
    }
}

impl Loaded {
    /// The configuration as the text of a file, with where each value came from. Secrets are starred.
    pub fn text(&self) -> String {
        file::text(&self.config, |setting| {
            let origin = self.origins.get(setting.key).cloned().unwrap_or_default();
            format!("# {origin}")
        })
    }
}

/// The text of a configuration file that says every key with its default and what it means.
pub fn example() -> String {
    let head = "# Every setting of Weir with its default. A line left out means the same. Variables and flags win over this file.\n\n";
    let body = file::text(&Config::default(), |setting| {
        let mut names = format!("--{}, {}", setting.flag(), setting.variable());
        if let Some((name, _)) = setting.contract {
            names = format!("{names}, {name}");
        }
        format!("# {}\n# {names}", setting.about)
    });
    format!("{head}{body}")
}

#[cfg(test)]
mod tests;
