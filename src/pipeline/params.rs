//! Tables of parameters: from one table come the check of a request and the JSON Schema of its controls.
//!
//! Values are taken as leniently as the original runner takes them: numbers as text, whole floats for integers, and
//! `yes`, `on`, `1` for true. The reasons are its texts too (pydantic 2.11).

use std::sync::Arc;

use serde_json::{Map, Number, Value, json};

use super::{Checked, ParamError, Params};
use crate::frame::Size;

/// What a field holds, with its default and bounds. Bounds are inclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number.
    Int {
        /// When left out.
        default: i64,
        /// Lowest.
        min: i64,
        /// Highest.
        max: i64,
        /// Must divide the value; 1 for any.
        multiple_of: i64,
    },
    /// A finite number.
    Float {
        /// When left out.
        default: f64,
        /// Lowest.
        min: f64,
        /// Highest.
        max: f64,
    },
    /// True or false.
    Bool {
        /// When left out.
        default: bool,
    },
    /// A text.
    Text {
        /// When left out.
        default: &'static str,
        /// Most characters.
        max: usize,
    },
    /// One text of several.
    Choice {
        /// When left out; one of `of`.
        default: &'static str,
        /// All that are allowed.
        of: &'static [&'static str],
    },
}

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// Its key in requests.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// What it does, with its unit.
    pub about: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What becomes of keys that are in no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They are let through and ignored.
    Accept,
    /// They are an error.
    Refuse,
}

/// The parameters of one pipeline: [`BASE`] and its own.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Title of the schema.
    pub title: &'static str,
    /// The fields beside those of [`BASE`].
    pub fields: &'static [Field],
    /// What becomes of other keys.
    pub unknown: Unknown,
}

const fn side(name: &'static str, title: &'static str, about: &'static str) -> Field {
    Field { name, title, about, kind: Kind::Int { default: 512, min: 384, max: 1024, multiple_of: 64 } }
}

/// The parameters that every pipeline has.
pub const BASE: &[Field] = &[
    side("width", "Width", "Width of the output in pixels."),
    side("height", "Height", "Height of the output in pixels."),
    Field {
        name: "show_reloading_frame",
        title: "Show the overlay while reloading",
        about: "Send pictures that say so while the pipeline reloads; otherwise no video is sent meanwhile.",
        kind: Kind::Bool { default: true },
    },
];

impl Table {
    fn all(&self) -> impl Iterator<Item = &Field> {
        BASE.iter().chain(self.fields)
    }

    /// Checks `params` and fills in the defaults.
    ///
    /// # Errors
    /// The first wrong field in the table's order; after those, the first unknown key where they are refused.
    pub fn check(&self, params: &Params) -> Result<Checked, ParamError> {
        let mut values = Map::new();
        for field in self.all() {
            let value = match params.get(field.name) {
                None => field.kind.default_value(),
                Some(given) => {
                    field.kind.take(given).map_err(|reason| ParamError { field: field.name.to_owned(), reason })?
                }
            };
            values.insert(field.name.to_owned(), value);
        }
        if self.unknown == Unknown::Refuse
            && let Some(extra) = params.keys().find(|key| !values.contains_key(*key))
        {
            let reason = "Extra inputs are not permitted".to_owned();
            return Err(ParamError { field: extra.clone(), reason });
        }
        let side = |name| values.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(512);
        let size = Size::new(side("width"), side("height"));
        let show_reloading_frame = values.get("show_reloading_frame").and_then(Value::as_bool).unwrap_or(true);
        Ok(Checked {
            size,
            enlarge: Vec::new(),
            show_reloading_frame,
            given: Arc::new(params.clone()),
            values: Arc::new(values),
        })
    }

    /// The JSON Schema (2020-12) of the parameters.
    pub fn schema(&self) -> Value {
        let properties: Map<String, Value> = self.all().map(|field| (field.name.to_owned(), field.schema())).collect();
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.title,
            "type": "object",
            "properties": properties,
            "additionalProperties": self.unknown == Unknown::Accept,
        })
    }
}

impl Field {
    pub(super) fn schema(&self) -> Value {
        let mut schema = match self.kind {
            Kind::Int { min, max, multiple_of: 1, .. } => json!({"type": "integer", "minimum": min, "maximum": max}),
            Kind::Int { min, max, multiple_of, .. } => {
                json!({"type": "integer", "minimum": min, "maximum": max, "multipleOf": multiple_of})
            }
            Kind::Float { min, max, .. } => json!({"type": "number", "minimum": min, "maximum": max}),
            Kind::Bool { .. } => json!({"type": "boolean"}),
            Kind::Text { max, .. } => json!({"type": "string", "maxLength": max}),
            Kind::Choice { of, .. } => json!({"type": "string", "enum": of}),
        };
        schema["title"] = self.title.into();
        schema["description"] = self.about.into();
        schema["default"] = self.kind.default_value();
        schema
    }
}

impl Kind {
    /// The value of a field that is left out.
    pub fn default_value(&self) -> Value {
        match *self {
            Kind::Int { default, .. } => default.into(),
            Kind::Float { default, .. } => default.into(),
            Kind::Bool { default } => default.into(),
            Kind::Text { default, .. } | Kind::Choice { default, .. } => default.into(),
        }
    }

    /// `given` as this kind, or why not.
    pub(super) fn take(&self, given: &Value) -> Result<Value, String> {
        match *self {
            Kind::Int { min, max, multiple_of, .. } => {
                let n = integer(given)?;
                if n % multiple_of.max(1) != 0 {
                    return Err(format!("Input should be a multiple of {multiple_of}"));
                }
                within(n, min, max)?;
                Ok(n.into())
            }
            Kind::Float { min, max, .. } => {
                let n = float(given)?;
                within(n, min, max)?;
                Number::from_f64(n).map(Value::Number).ok_or_else(|| "Input should be a finite number".to_owned())
            }
            Kind::Bool { .. } => boolean(given).map(Value::Bool),
            Kind::Text { max, .. } => match given {
                Value::String(text) if text.chars().count() > max => {
                    Err(format!("String should have at most {max} characters"))
                }
                Value::String(text) => Ok(text.clone().into()),
                _ => Err("Input should be a valid string".to_owned()),
            },
            Kind::Choice { of, .. } => match given.as_str() {
                Some(text) if of.contains(&text) => Ok(text.into()),
                _ => Err(format!("Input should be {}", either(of))),
            },
        }
    }
}

fn within<T: PartialOrd + std::fmt::Display>(n: T, min: T, max: T) -> Result<(), String> {
    if n < min {
        return Err(format!("Input should be greater than or equal to {min}"));
    }
    if n > max {
        return Err(format!("Input should be less than or equal to {max}"));
    }
    Ok(())
}

/// `'a', 'b' or 'c'`
fn either(of: &[&str]) -> String {
    let quoted: Vec<String> = of.iter().map(|text| format!("'{text}'")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Whole floats up to this are exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn integer(given: &Value) -> Result<i64, String> {
    let unfit = || "Unable to parse input string as an integer, exceeded maximum size".to_owned();
    match given {
        Value::Bool(b) => Ok((*b).into()),
        Value::Number(n) if n.is_i64() => n.as_i64().ok_or_else(unfit),
        Value::Number(n) => match n.as_f64() {
            Some(n) if n.fract() != 0.0 => {
                Err("Input should be a valid integer, got a number with a fractional part".to_owned())
            }
            Some(n) if n.abs() <= EXACT => Ok(n as i64),
            _ => Err(unfit()),
        },
        Value::String(text) => {
            let text = text.trim();
            let whole = match text.split_once('.') {
                Some((whole, zeros)) if zeros.bytes().all(|b| b == b'0') => whole,
                _ => text,
            };
            whole
                .parse()
                .map_err(|_| "Input should be a valid integer, unable to parse string as an integer".to_owned())
        }
        _ => Err("Input should be a valid integer".to_owned()),
    }
}

fn float(given: &Value) -> Result<f64, String> {
    let n = match given {
        Value::Bool(b) => f64::from(u8::from(*b)),
        Value::Number(n) => n.as_f64().ok_or("Input should be a valid number")?,
        Value::String(text) => text
            .trim()
            .parse::<f64>()
            .map_err(|_| "Input should be a valid number, unable to parse string as a number")?,
        _ => return Err("Input should be a valid number".to_owned()),
    };
    if n.is_finite() { Ok(n) } else { Err("Input should be a finite number".to_owned()) }
}

fn boolean(given: &Value) -> Result<bool, String> {
    let unclear = || "Input should be a valid boolean, unable to interpret input".to_owned();
    match given {
        Value::Bool(b) => Ok(*b),
        Value::Number(n) => match n.as_f64() {
            Some(0.0) => Ok(false),
            Some(1.0) => Ok(true),
            _ => Err(unclear()),
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "1" | "on" | "t" | "true" | "y" | "yes" => Ok(true),
            "0" | "off" | "f" | "false" | "n" | "no" => Ok(false),
            _ => Err(unclear()),
        },
        _ => Err("Input should be a valid boolean".to_owned()),
    }
}

/// A field of checked parameters as a number; 0 when it holds none.
pub(super) fn number(checked: &Checked, field: &str) -> f64 {
    checked.values.get(field).and_then(Value::as_f64).unwrap_or(0.0)
}

/// A field of checked parameters as a count; 0 when it holds none.
pub(super) fn count(checked: &Checked, field: &str) -> u64 {
    checked.values.get(field).and_then(Value::as_u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const TABLE: Table = Table {
        title: "Test",
        fields: &[
            Field {
                name: "strength",
                title: "Strength",
                about: "",
                kind: Kind::Float { default: 0.5, min: 0.0, max: 1.0 },
            },
            Field { name: "mode", title: "Mode", about: "", kind: Kind::Choice { default: "a", of: &["a", "b", "c"] } },
            Field { name: "prompt", title: "Prompt", about: "", kind: Kind::Text { default: "", max: 4 } },
        ],
        unknown: Unknown::Refuse,
    };

    fn check(params: Value) -> Result<Checked, ParamError> {
        TABLE.check(params.as_object().unwrap())
    }

    #[test]
    fn nothing_given_means_defaults() {
        let checked = check(json!({})).unwrap();
        assert_eq!(checked.size, Size::new(512, 512));
        assert!(checked.show_reloading_frame);
        assert!(checked.given.is_empty());
        assert_eq!(checked.values["strength"], 0.5);
    }

    #[test]
    fn lenient_values_are_converted() {
        let given = json!({"width": "768", "height": 640.0, "show_reloading_frame": "No", "strength": " 0.25 "});
        let checked = check(given.clone()).unwrap();
        assert_eq!(checked.size, Size::new(768, 640));
        assert!(!checked.show_reloading_frame);
        assert_eq!(checked.values["strength"], 0.25);
        assert_eq!(&Value::Object((*checked.given).clone()), &given, "what was given stays as it was given");
        for (given, is) in [(json!("yes"), true), (json!(1), true), (json!("OFF"), false), (json!(0.0), false)] {
            assert_eq!(check(json!({"show_reloading_frame": given})).unwrap().show_reloading_frame, is);
        }
        assert_eq!(check(json!({"width": "512.0"})).unwrap().size.width, 512);
    }

    #[test]
    fn every_refusal_names_field_and_reason() {
        for (given, field, reason) in [
            (json!({"width": 500}), "width", "Input should be a multiple of 64"),
            // Not a multiple and too small: the multiple is judged first.
            (json!({"width": 100}), "width", "Input should be a multiple of 64"),
            (json!({"height": 320}), "height", "Input should be greater than or equal to 384"),
            (json!({"height": 2048}), "height", "Input should be less than or equal to 1024"),
            (json!({"width": -64}), "width", "Input should be greater than or equal to 384"),
            (json!({"width": 512.5}), "width", "Input should be a valid integer, got a number with a fractional part"),
            (
                json!({"width": "wide"}),
                "width",
                "Input should be a valid integer, unable to parse string as an integer",
            ),
            (json!({"width": null}), "width", "Input should be a valid integer"),
            (json!({"width": [512]}), "width", "Input should be a valid integer"),
            (
                json!({"show_reloading_frame": "maybe"}),
                "show_reloading_frame",
                "Input should be a valid boolean, unable to interpret input",
            ),
            (json!({"show_reloading_frame": {}}), "show_reloading_frame", "Input should be a valid boolean"),
            (json!({"strength": 1.5}), "strength", "Input should be less than or equal to 1"),
            (json!({"strength": "NaN"}), "strength", "Input should be a finite number"),
            (json!({"mode": "d"}), "mode", "Input should be 'a', 'b' or 'c'"),
            (json!({"prompt": "längst"}), "prompt", "String should have at most 4 characters"),
            (json!({"prompt": 5}), "prompt", "Input should be a valid string"),
            (json!({"steps": 4}), "steps", "Extra inputs are not permitted"),
        ] {
            let error = check(given.clone()).unwrap_err();
            assert_eq!((error.field.as_str(), error.reason.as_str()), (field, reason), "{given}");
        }
    }

    #[test]
    fn schema_describes_every_field() {
        let schema = TABLE.schema();
        assert_eq!(schema["properties"]["width"]["multipleOf"], 64);
        assert_eq!(schema["properties"]["strength"]["maximum"], 1.0);
        assert_eq!(schema["properties"]["mode"]["enum"], json!(["a", "b", "c"]));
        assert_eq!(schema["additionalProperties"], false);
        for property in schema["properties"].as_object().unwrap().values() {
            assert!(property["title"].is_string() && property.get("default").is_some());
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-3_i64..30).prop_map(|n| Value::from(n * 64)),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn what_passes_is_within_bounds_and_passes_again(width in any_value(), strength in any_value()) {
            let given = json!({"width": width, "strength": strength});
            if let Ok(checked) = check(given) {
                prop_assert!((384..=1024).contains(&checked.size.width) && checked.size.width % 64 == 0);
                let strength = number(&checked, "strength");
                prop_assert!((0.0..=1.0).contains(&strength));
                let again = TABLE.check(&checked.values).unwrap();
                prop_assert_eq!(again.values, checked.values);
            }
        }
    }
}
