//! The table of settings, a file for each part of it.

mod byoc;
mod check;
mod engine;
mod inference;
mod media;
mod records;
mod runner;
mod serve;
mod trickle;
mod webrtc;

use super::Config;

/// What a variable of the network's containers means for a setting; `None` when its value says nothing.
type Meaning = fn(&str) -> Option<&str>;

/// One setting.
#[derive(Clone, Copy)]
pub struct Setting {
    /// The key in the file.
    pub key: &'static str,
    /// The variable that containers of the network know it by.
    pub contract: Option<(&'static str, Meaning)>,
    /// What it does, in one sentence or two.
    pub about: &'static str,
    /// Its value is never shown.
    pub secret: bool,
    /// Its value in a configuration, as it would be written.
    pub get: fn(&Config) -> String,
    /// Sets it from a text.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Setting {
    /// The flag, without dashes in front: the key with dashes, without `serve`.
    pub fn flag(&self) -> String {
        self.key.strip_prefix("serve.").unwrap_or(self.key).replace(['.', '_'], "-")
    }

    /// The variable: `WEIR_` and the key.
    pub fn variable(&self) -> String {
        format!("WEIR_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// The value in `config` for people; stars for a secret.
    pub fn shown(&self, config: &Config) -> String {
        let value = (self.get)(config);
        if self.secret && !value.is_empty() { "***".into() } else { value }
    }
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setting").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A row: key, network variable, kind, field, optional check, sentence.
macro_rules! row {
    ($key:literal, $contract:expr, $kind:ident, $($field:ident).+, $check:expr, $about:literal) => {
        Setting {
            key: $key,
            contract: $contract,
            about: $about,
            secret: false,
            get: |config| $kind::show(&config.$($field).+),
            set: |config, text| {
                let check = $check;
                config.$($field).+ = check($kind::parse(text)?)?;
                Ok(())
            },
        }
    };
}
use row;

/// The parts, in the order of the file.
const PARTS: &[&[Setting]] = &[
    serve::ROWS,
    byoc::ROWS,
    runner::ROWS,
    webrtc::ROWS,
    engine::ROWS,
    trickle::ROWS,
    media::ROWS,
    inference::ROWS,
    records::ROWS,
];

/// Every setting, in the order of the file.
pub const SETTINGS: &[Setting] = &joined::<{ count() }>();

const fn count() -> usize {
    let (mut count, mut part) = (0, 0);
    while part < PARTS.len() {
        count += PARTS[part].len();
        part += 1;
    }
    count
}

const fn joined<const ALL: usize>() -> [Setting; ALL] {
    let mut all = [PARTS[0][0]; ALL];
    let (mut at, mut part) = (0, 0);
    while part < PARTS.len() {
        let mut row = 0;
        while row < PARTS[part].len() {
            all[at] = PARTS[part][row];
            (at, row) = (at + 1, row + 1);
        }
        part += 1;
    }
    all
}
