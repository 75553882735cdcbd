//! The types of values that travel along links, and the settings that stand in widgets.

use std::fmt;

use serde_json::{Number, Value as Json};

/// The type of a value on a link, by ComfyUI's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Pictures f32 (B, H, W, C), RGB, 0 to 1.
    Image,
    /// Masks f32 (B, H, W), 0 to 1.
    Mask,
    /// Latents f32 (B, C, h, w).
    Latent,
    /// Embedded text with what hangs on it.
    Conditioning,
    /// A diffusion model.
    Model,
    /// A text encoder with its tokenizer.
    Clip,
    /// A picture encoder and decoder.
    Vae,
    /// A ControlNet.
    ControlNet,
    /// Sound f32 (B, C, samples) with its rate.
    Audio,
    /// A text.
    String,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// True or false.
    Boolean,
    /// A type of a node pack.
    Other(&'static str),
}

impl Type {
    /// ComfyUI's name.
    pub fn name(self) -> &'static str {
        match self {
            Type::Image => "IMAGE",
            Type::Mask => "MASK",
            Type::Latent => "LATENT",
            Type::Conditioning => "CONDITIONING",
            Type::Model => "MODEL",
            Type::Clip => "CLIP",
            Type::Vae => "VAE",
            Type::ControlNet => "CONTROL_NET",
            Type::Audio => "AUDIO",
            Type::String => "STRING",
            Type::Int => "INT",
            Type::Float => "FLOAT",
            Type::Boolean => "BOOLEAN",
            Type::Other(name) => name,
        }
    }

    /// Whether a value of this type may go where `wanted` is asked for. A whole number does for a number.
    pub fn fits(self, wanted: Type) -> bool {
        self == wanted || (self == Type::Int && wanted == Type::Float)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What stands in a widget.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// A whole number. Seeds need 64 bits without a sign.
    Int(i128),
    /// A number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text, or one of several choices.
    Text(String),
}

impl Setting {
    /// As a number; texts are none.
    pub fn number(&self) -> Option<f64> {
        match *self {
            Setting::Int(n) => Some(n as f64),
            Setting::Float(n) => Some(n),
            Setting::Bool(b) => Some(f64::from(u8::from(b))),
            Setting::Text(_) => None,
        }
    }

    /// As a text; numbers are none.
    pub fn text(&self) -> Option<&str> {
        match self {
            Setting::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON.
    pub fn json(&self) -> Json {
        match self {
            Setting::Int(n) => match (i64::try_from(*n), u64::try_from(*n)) {
                (Ok(n), _) => n.into(),
                (_, Ok(n)) => n.into(),
                _ => Json::Null,
            },
            Setting::Float(n) => Number::from_f64(*n).map_or(Json::Null, Json::Number),
            Setting::Bool(b) => (*b).into(),
            Setting::Text(text) => text.clone().into(),
        }
    }
}
