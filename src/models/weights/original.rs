//! The original naming of Stable Diffusion's single-file checkpoints, in names of diffusers.

use std::collections::HashMap;

use super::file::Tensor;
use super::{Component, Family};

/// What part of a stored tensor a weight is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// All of it.
    Whole,
    /// Row third `i` of three equal ones: query, key and value stacked.
    Third(u64),
    /// All of it, rows and columns exchanged.
    Transposed,
    /// All of it, trailing dimensions of 1 dropped: a convolution of side 1 read as a matrix.
    Matrix,
}

/// The weights of `component` among `tensors`: name in diffusers, name in the file, and view.
pub(super) fn translate(component: Component, tensors: &HashMap<String, Tensor>) -> Vec<(String, String, View)> {
    let prefix = prefix(component, tensors);
    let own: Vec<(&str, &str)> =
        tensors.keys().filter_map(|name| Some((name.as_str(), name.strip_prefix(prefix)?))).collect();
    let keys: Vec<&str> = own.iter().map(|(_, key)| *key).collect();
    let unet = UnetLevels::of(&keys);
    let vae_levels = count(&keys, "encoder.down.");
    let mut found = Vec::new();
    for (name, key) in own {
        let mut put = |new: Option<(String, View)>| {
            if let Some((new, view)) = new {
                found.push((new, name.to_owned(), view));
            }
        };
        match component {
            Component::Unet => put(unet.unet_name(key).map(|new| (new, View::Whole))),
            Component::ControlNet => put(unet.controlnet_name(key).map(|new| (new, View::Whole))),
            Component::Vae => put(vae_name(key, vae_levels)),
            Component::TinyVae => {}
            Component::TextEncoder | Component::TextEncoder2 if key.starts_with("text_model.") => {
                put(Some((key.to_owned(), View::Whole)));
            }
            Component::TextEncoder | Component::TextEncoder2 => {
                open_clip_names(key).into_iter().map(Some).for_each(put)
            }
        }
    }
    found
}

/// The family of a single file in the original naming; `None` for another file.
pub(super) fn family(tensors: &HashMap<String, Tensor>) -> Option<Family> {
    let any = |prefix: &str| tensors.keys().any(|name| name.starts_with(prefix));
    if any("conditioner.embedders.") {
        return Some(Family::Sdxl);
    }
    if any("cond_stage_model.model.") {
        return Some(Family::Sd2);
    }
    let width = tensors
        .iter()
        .filter(|(name, _)| name.ends_with("attn2.to_k.weight"))
        .filter(|(name, _)| name.contains("input_blocks."))
        .find_map(|(_, tensor)| tensor.shape.get(1).copied());
    match width {
        Some(2048) => Some(Family::Sdxl),
        Some(1024) => Some(Family::Sd2),
        Some(_) => Some(Family::Sd1),
        None => any("cond_stage_model.").then_some(Family::Sd1),
    }
}

fn prefix(component: Component, tensors: &HashMap<String, Tensor>) -> &'static str {
    let candidates: &[&'static str] = match component {
        Component::Unet => &["model.diffusion_model.", ""],
        Component::ControlNet => &["control_model.", ""],
        Component::Vae => &["first_stage_model.", ""],
        Component::TextEncoder => &[
            "cond_stage_model.transformer.",
            "cond_stage_model.model.",
            "conditioner.embedders.0.transformer.",
            "conditioner.embedders.0.model.",
        ],
        Component::TextEncoder2 => &["conditioner.embedders.1.model."],
        Component::TinyVae => &[],
    };
    let there = |prefix: &&&'static str| !prefix.is_empty() && tensors.keys().any(|name| name.starts_with(**prefix));
    // No tensor has a name that begins so, where nothing else is left.
    candidates.iter().find(there).or(candidates.iter().find(|prefix| prefix.is_empty())).copied().unwrap_or("\0")
}

/// One more than the largest `i` of `prefix` + `i` + `.` among `keys`.
fn count(keys: &[&str], prefix: &str) -> u64 {
    keys.iter().filter_map(|key| number(key.strip_prefix(prefix)?)).map(|(i, _)| i + 1).max().unwrap_or(0)
}

/// A number, and what is behind the dot after it. At most 4 digits.
fn number(text: &str) -> Option<(u64, &str)> {
    let (digits, rest) = text.split_once('.').unwrap_or((text, ""));
    let plain = !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(|n| (n, rest))).flatten()
}

/// How the numbered blocks of a UNet in the original naming fall into levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnetLevels {
    /// Residual blocks of each level on the way down.
    pub layers: u64,
}

impl UnetLevels {
    fn of(keys: &[&str]) -> Self {
        let blocks = count(keys, "input_blocks.").saturating_sub(1);
        let halvings =
            keys.iter().filter(|k| k.starts_with("input_blocks.") && k.ends_with(".0.op.weight")).count() as u64;
        Self { layers: (blocks.saturating_sub(halvings) / (halvings + 1)).max(1) }
    }

    fn unet_name(self, key: &str) -> Option<String> {
        let (first, rest) = key.split_once('.')?;
        match first {
            "time_embed" => match number(rest)? {
                (0, rest) => Some(format!("time_embedding.linear_1.{rest}")),
                (2, rest) => Some(format!("time_embedding.linear_2.{rest}")),
                _ => None,
            },
            "label_emb" => match number(rest.strip_prefix("0.")?)? {
                (0, rest) => Some(format!("add_embedding.linear_1.{rest}")),
                (2, rest) => Some(format!("add_embedding.linear_2.{rest}")),
                _ => None,
            },
            "out" => match number(rest)? {
                (0, rest) => Some(format!("conv_norm_out.{rest}")),
                (2, rest) => Some(format!("conv_out.{rest}")),
                _ => None,
            },
            "middle_block" => {
                let (j, rest) = number(rest)?;
                self.inside("middle_block", 0, j, rest)
            }
            "input_blocks" | "output_blocks" => {
                let (i, rest) = number(rest)?;
                let (j, rest) = number(rest)?;
                self.inside(first, i, j, rest)
            }
            _ => None,
        }
    }

    fn controlnet_name(self, key: &str) -> Option<String> {
        if let Some(rest) = key.strip_prefix("zero_convs.") {
            let (i, rest) = number(rest)?;
            return Some(format!("controlnet_down_blocks.{i}.{}", rest.strip_prefix("0.")?));
        }
        if let Some(rest) = key.strip_prefix("middle_block_out.0.") {
            return Some(format!("controlnet_mid_block.{rest}"));
        }
        if let Some(rest) = key.strip_prefix("input_hint_block.") {
            return match number(rest)? {
                (0, rest) => Some(format!("controlnet_cond_embedding.conv_in.{rest}")),
                (14, rest) => Some(format!("controlnet_cond_embedding.conv_out.{rest}")),
                (i, rest) => Some(format!("controlnet_cond_embedding.blocks.{}.{rest}", (i / 2).checked_sub(1)?)),
            };
        }
        self.unet_name(key)
    }

    /// The weight `rest` of part `j` of block `i`.
    fn inside(self, kind: &str, i: u64, j: u64, rest: &str) -> Option<String> {
        if kind == "input_blocks" && i == 0 {
            return Some(format!("conv_in.{rest}"));
        }
        let resampling = rest.starts_with("op.") || rest.starts_with("conv.");
        let place = self.place(kind, i, j, resampling)?;
        let rest = match (&place, rest.split_once('.')) {
            (Place::Residual(_), _) => residual(rest, '.')?,
            (Place::Resample(_), Some(("op" | "conv", rest))) => rest.to_owned(),
            _ => rest.to_owned(),
        };
        let (Place::Residual(name) | Place::Attention(name) | Place::Resample(name)) = place;
        Some(format!("{name}.{rest}"))
    }

    /// Where part `j` of block `i` is; `resampling` when what stands behind it is a convolution by itself.
    pub(super) fn place(self, kind: &str, i: u64, j: u64, resampling: bool) -> Option<Place> {
        let width = self.layers + 1;
        match kind {
            "middle_block" => match j {
                0 | 2 => Some(Place::Residual(format!("mid_block.resnets.{}", j / 2))),
                1 => Some(Place::Attention("mid_block.attentions.0".to_owned())),
                _ => None,
            },
            "input_blocks" => {
                let (level, layer) = (i.checked_sub(1)? / width, (i - 1) % width);
                match (layer == self.layers, j) {
                    (true, 0) => Some(Place::Resample(format!("down_blocks.{level}.downsamplers.0.conv"))),
                    (false, 0) => Some(Place::Residual(format!("down_blocks.{level}.resnets.{layer}"))),
                    (false, 1) => Some(Place::Attention(format!("down_blocks.{level}.attentions.{layer}"))),
                    _ => None,
                }
            }
            "output_blocks" => {
                let (level, layer) = (i / width, i % width);
                match j {
                    0 => Some(Place::Residual(format!("up_blocks.{level}.resnets.{layer}"))),
                    1 | 2 if resampling => Some(Place::Resample(format!("up_blocks.{level}.upsamplers.0.conv"))),
                    1 => Some(Place::Attention(format!("up_blocks.{level}.attentions.{layer}"))),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// A module of a UNet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A residual block, whose own parts have other names.
    Residual(String),
    /// A transformer, whose own parts have the same names.
    Attention(String),
    /// The convolution of a down- or upsampler.
    Resample(String),
}

/// A part of a residual block, its steps separated by `dot`.
pub(super) fn residual(rest: &str, dot: char) -> Option<String> {
    const PARTS: [(&str, &str); 6] = [
        ("in_layers.0", "norm1"),
        ("in_layers.2", "conv1"),
        ("emb_layers.1", "time_emb_proj"),
        ("out_layers.0", "norm2"),
        ("out_layers.3", "conv2"),
        ("skip_connection", "conv_shortcut"),
    ];
    PARTS.iter().find_map(|(from, to)| {
        let from = from.replace('.', &dot.to_string());
        rest.strip_prefix(&from)
            .filter(|tail| tail.is_empty() || tail.starts_with(dot))
            .map(|tail| format!("{to}{tail}"))
    })
}

fn vae_name(key: &str, levels: u64) -> Option<(String, View)> {
    if key.starts_with("quant_conv.") || key.starts_with("post_quant_conv.") {
        return Some((key.to_owned(), View::Whole));
    }
    let (side, rest) = key.split_once('.')?;
    if side != "encoder" && side != "decoder" {
        return None;
    }
    let whole = |name: String| Some((format!("{side}.{name}"), View::Whole));
    if let Some(rest) = rest.strip_prefix("norm_out.") {
        return whole(format!("conv_norm_out.{rest}"));
    }
    if rest.starts_with("conv_in.") || rest.starts_with("conv_out.") {
        return whole(rest.to_owned());
    }
    let shortcut = |rest: &str| match rest.strip_prefix("nin_shortcut") {
        Some(tail) => format!("conv_shortcut{tail}"),
        None => rest.to_owned(),
    };
    if let Some(rest) = rest.strip_prefix("mid.") {
        if let Some((i, rest)) = rest.strip_prefix("block_").and_then(number) {
            return whole(format!("mid_block.resnets.{}.{}", i.checked_sub(1)?, shortcut(rest)));
        }
        let (part, rest) = rest.strip_prefix("attn_1.")?.split_once('.')?;
        let part = match part {
            "norm" => "group_norm",
            "q" => "to_q",
            "k" => "to_k",
            "v" => "to_v",
            "proj_out" => "to_out.0",
            _ => return None,
        };
        return Some((format!("{side}.mid_block.attentions.0.{part}.{rest}"), View::Matrix));
    }
    let down = rest.strip_prefix("down.");
    let (level, rest) = number(down.or(rest.strip_prefix("up."))?)?;
    let (blocks, level) = match down {
        Some(_) => ("down_blocks", level),
        None => ("up_blocks", levels.checked_sub(level + 1)?),
    };
    if let Some((i, rest)) = rest.strip_prefix("block.").and_then(number) {
        return whole(format!("{blocks}.{level}.resnets.{i}.{}", shortcut(rest)));
    }
    if let Some(rest) = rest.strip_prefix("downsample.conv.") {
        return whole(format!("{blocks}.{level}.downsamplers.0.conv.{rest}"));
    }
    let rest = rest.strip_prefix("upsample.conv.")?;
    whole(format!("{blocks}.{level}.upsamplers.0.conv.{rest}"))
}

fn open_clip_names(key: &str) -> Vec<(String, View)> {
    let one = |name: String| vec![(name, View::Whole)];
    match key {
        "token_embedding.weight" => return one("text_model.embeddings.token_embedding.weight".to_owned()),
        "positional_embedding" => return one("text_model.embeddings.position_embedding.weight".to_owned()),
        "text_projection" => return vec![("text_projection.weight".to_owned(), View::Transposed)],
        _ => {}
    }
    if let Some(rest) = key.strip_prefix("ln_final.") {
        return one(format!("text_model.final_layer_norm.{rest}"));
    }
    let Some((layer, rest)) = key.strip_prefix("transformer.resblocks.").and_then(number) else { return Vec::new() };
    let at = format!("text_model.encoder.layers.{layer}");
    for kind in ["weight", "bias"] {
        if rest == format!("attn.in_proj_{kind}") {
            let third = |(i, part)| (format!("{at}.self_attn.{part}_proj.{kind}"), View::Third(i));
            return [(0, "q"), (1, "k"), (2, "v")].into_iter().map(third).collect();
        }
    }
    const PARTS: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    PARTS
        .iter()
        .find_map(|(from, to)| rest.strip_prefix(from).map(|rest| one(format!("{at}.{to}{rest}"))))
        .unwrap_or_default()
}
