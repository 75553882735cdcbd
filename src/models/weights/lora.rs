//! Files of LoRAs: pairs of thin matrices for layers of a model, under any of the usual namings.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::WeightsError;
use super::file::{Format, SafeFile};

/// The network that a layer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The UNet.
    Unet,
    /// The only or first text encoder.
    TextEncoder,
    /// The second text encoder of SDXL.
    TextEncoder2,
}

/// What a layer is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Module {
    /// As in diffusers.
    Dotted(String),
    /// As in diffusers or in the original naming, with underscores for dots.
    Flat(String),
}

impl Module {
    pub(super) fn name(&self) -> &str {
        let (Module::Dotted(name) | Module::Flat(name)) = self;
        name
    }
}

/// The matrices of one layer, by their names in the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Pair {
    pub down: Option<String>,
    pub up: Option<String>,
    pub alpha: Option<f32>,
}

/// A LoRA: for each layer, what `alpha / rank · up · down` adds to its weight.
#[derive(Debug)]
pub struct Lora {
    pub(super) file: Arc<SafeFile>,
    pub(super) layers: BTreeMap<(Part, Module), Pair>,
}

/// What a key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Down,
    Up,
    Alpha,
}

impl Lora {
    /// Reads the header of the LoRA at `path` and sorts its tensors into layers.
    ///
    /// # Errors
    /// [`WeightsError`]; [`WeightsError::Lora`] with a key that is no part of a plain LoRA.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = Arc::new(SafeFile::open(path)?);
        let wrong =
            |key: &str, reason: String| WeightsError::Lora { path: path.to_path_buf(), key: key.to_owned(), reason };
        let mut layers: BTreeMap<(Part, Module), Pair> = BTreeMap::new();
        let mut keys: Vec<&String> = file.tensors.keys().collect();
        keys.sort_unstable();
        for key in keys {
            let (part, module, role) = parse(key).map_err(|reason| wrong(key, reason))?;
            let pair = layers.entry((part, module)).or_default();
            let taken = match role {
                Role::Down => pair.down.replace(key.clone()).is_some(),
                Role::Up => pair.up.replace(key.clone()).is_some(),
                Role::Alpha => pair.alpha.replace(alpha(&file, key)?).is_some(),
            };
            if taken {
                return Err(wrong(key, "a second tensor for the same layer".to_owned()));
            }
        }
        layers.retain(|_, pair| pair.down.is_some() || pair.up.is_some());
        if layers.is_empty() {
            return Err(wrong("*", "no layer of a LoRA is in the file".to_owned()));
        }
        let mut lora = Self { file, layers };
        lora.read_notes().map_err(|reason| wrong("lora_adapter_metadata", reason))?;
        Ok(lora)
    }

    /// How many layers of `part` there are.
    pub fn layers(&self, part: Part) -> usize {
        self.layers.keys().filter(|(other, _)| *other == part).count()
    }

    /// Takes the alphas from the settings that peft keeps in the header.
    fn read_notes(&mut self) -> Result<(), String> {
        let Some(text) = self.file.notes.get("lora_adapter_metadata") else { return Ok(()) };
        let notes: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for ((part, module), pair) in &mut self.layers {
            let prefix = match part {
                Part::Unet => "unet.",
                Part::TextEncoder => "text_encoder.",
                Part::TextEncoder2 => "text_encoder_2.",
            };
            let note = |key: &str| notes.get(format!("{prefix}{key}"));
            if note("use_dora").and_then(Value::as_bool) == Some(true) {
                return Err("DoRA is not merged here".to_owned());
            }
            let pattern = |key: &str| {
                let patterns = note(key)?.as_object()?;
                patterns.iter().find(|(suffix, _)| ends_with_step(module.name(), suffix))?.1.as_f64()
            };
            let setting = |own: &str, all: &str| pattern(own).or_else(|| note(all)?.as_f64());
            if pair.alpha.is_none()
                && let Some(alpha) = setting("alpha_pattern", "lora_alpha")
            {
                let rank = setting("rank_pattern", "r").unwrap_or(alpha).max(1.0);
                let stabilised = note("use_rslora").and_then(Value::as_bool) == Some(true);
                // The factor of such a LoRA is alpha / √rank; here it is always alpha / rank.
                pair.alpha = Some(if stabilised { alpha * rank.sqrt() } else { alpha } as f32);
            }
        }
        Ok(())
    }
}

/// True when the last steps of the dotted `name` are those of `suffix`.
fn ends_with_step(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Reads the one number of the tensor `key`.
fn alpha(file: &SafeFile, key: &str) -> Result<f32, WeightsError> {
    let wrong = |reason: String| WeightsError::Lora { path: file.path.clone(), key: key.to_owned(), reason };
    let Some(tensor) = file.tensors.get(key) else { return Err(wrong("it is missing".to_owned())) };
    let data = file.data(tensor);
    let value = match (&tensor.format, data) {
        (Ok(format), data) if data.len() == format.size() => super::convert::to_f32(*format, data).first().copied(),
        (Err(name), data) if name == "f64" => data.as_array::<8>().map(|bytes| f64::from_le_bytes(*bytes) as f32),
        (Err(name), data) if name == "i64" => data.as_array::<8>().map(|bytes| i64::from_le_bytes(*bytes) as f32),
        _ => None,
    };
    value
        .filter(|value| value.is_finite())
        .ok_or_else(|| wrong(format!("one number is expected, not a tensor of shape {:?}", tensor.shape)))
}

/// What the key of a LoRA says. `Err` with why it is no part of a plain one.
pub(super) fn parse(key: &str) -> Result<(Part, Module, Role), String> {
    const OTHERS: [(&str, &str); 7] = [
        ("hada_", "LoHa"),
        ("lokr_", "LoKr"),
        ("lora_mid", "a LoRA in three parts (CP)"),
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        (".oft_", "OFT"),
        (".diff", "a full difference"),
    ];
    if let Some((_, kind)) = OTHERS.iter().find(|(mark, _)| key.contains(mark)) {
        return Err(format!("{kind} is not merged here, only pairs of matrices"));
    }
    let (module, role) =
        role(key).ok_or("not a key of a LoRA: expected …lora_down, lora_up, lora_A, lora_B or alpha")?;
    let module = module.strip_prefix("base_model.model.").unwrap_or(module);
    const FLAT: [(&str, Part); 4] = [
        ("lora_unet_", Part::Unet),
        ("lora_te1_", Part::TextEncoder),
        ("lora_te2_", Part::TextEncoder2),
        ("lora_te_", Part::TextEncoder),
    ];
    if let Some((part, name)) = FLAT.iter().find_map(|(prefix, part)| Some((*part, module.strip_prefix(prefix)?))) {
        return Ok((part, Module::Flat(name.to_owned()), role));
    }
    const DOTTED: [(&str, Part); 3] =
        [("unet.", Part::Unet), ("text_encoder.", Part::TextEncoder), ("text_encoder_2.", Part::TextEncoder2)];
    const BARE: [&str; 6] = ["down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out", "time_embedding."];
    let prefixed = DOTTED.iter().find_map(|(prefix, part)| Some((*part, module.strip_prefix(prefix)?)));
    let bare = || BARE.iter().any(|prefix| module.starts_with(prefix)).then_some((Part::Unet, module));
    let (part, name) = prefixed
        .or_else(bare)
        .ok_or("of no network that is known here: expected lora_unet_, lora_te_, unet. or text_encoder.")?;
    Ok((part, Module::Dotted(modern(part, name)), role))
}

/// The module of a key and the key's role.
fn role(key: &str) -> Option<(&str, Role)> {
    if let Some(module) = key.strip_suffix(".alpha") {
        return Some((module, Role::Alpha));
    }
    let name = key.strip_suffix(".weight")?;
    const ENDS: [(&str, Role); 10] = [
        (".lora_down", Role::Down),
        (".lora_up", Role::Up),
        (".lora_A", Role::Down),
        (".lora_B", Role::Up),
        (".lora.down", Role::Down),
        (".lora.up", Role::Up),
        (".lora_linear_layer.down", Role::Down),
        (".lora_linear_layer.up", Role::Up),
        ("_lora.down", Role::Down),
        ("_lora.up", Role::Up),
    ];
    let plain =
        |name| ENDS.iter().find_map(|(end, role): &(&str, Role)| Some((str::strip_suffix(name, end)?, role.clone())));
    plain(name).or_else(|| {
        // peft puts the adapter's name behind the matrix's.
        let (name, adapter) = name.rsplit_once('.')?;
        (!adapter.is_empty() && name.ends_with(['A', 'B'])).then(|| plain(name)).flatten()
    })
}

/// Names that layers had in files of diffusers before, in today's.
fn modern(part: Part, name: &str) -> String {
    let name = name.replace(".processor.", ".");
    let (place, last) = name.rsplit_once('.').unwrap_or(("", &name));
    let last = match (part, last) {
        (Part::Unet, "to_out") => "to_out.0",
        (Part::TextEncoder | Part::TextEncoder2, "to_q") => "q_proj",
        (Part::TextEncoder | Part::TextEncoder2, "to_k") => "k_proj",
        (Part::TextEncoder | Part::TextEncoder2, "to_v") => "v_proj",
        (Part::TextEncoder | Part::TextEncoder2, "to_out") => "out_proj",
        (_, last) => last,
    };
    if place.is_empty() { last.to_owned() } else { format!("{place}.{last}") }
}

/// The type of a matrix's elements.
pub(super) fn format(file: &SafeFile, key: &str) -> Option<Format> {
    file.tensors.get(key)?.format.clone().ok()
}
