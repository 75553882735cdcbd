//! How values are written and read. Each kind is a pair of `show` and `parse`.

use std::fmt::Display;
use std::str::FromStr;

/// Numbers and addresses: anything that reads what it writes.
pub(super) mod plain {
    use super::*;

    pub fn show<T: Display>(value: &T) -> String {
        value.to_string()
    }

    pub fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
        text.trim().parse().map_err(|error| format!("`{text}` does not fit: {error}"))
    }
}

/// Words of an enum, by its serde names.
pub(super) mod word {
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    pub fn show<T: Serialize>(value: &T) -> String {
        serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    }

    pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
        let word = Value::String(text.trim().to_ascii_lowercase());
        serde_json::from_value(word).map_err(|error| error.to_string())
    }
}

/// Texts.
pub(super) mod text {
    pub fn show(value: &str) -> String {
        value.to_owned()
    }

    pub fn parse(text: &str) -> Result<String, String> {
        let text = text.trim();
        if text.chars().any(char::is_control) {
            return Err("control characters have no place here".into());
        }
        Ok(text.to_owned())
    }
}

/// Paths.
pub(super) mod path {
    use std::path::PathBuf;

    pub fn show(value: &std::path::Path) -> String {
        value.display().to_string()
    }

    pub fn parse(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() { Err("a path is expected".into()) } else { Ok(text.into()) }
    }
}

/// Paths that may be missing; an empty text means none.
pub(super) mod maybe_path {
    use std::path::PathBuf;

    pub fn show(value: &Option<PathBuf>) -> String {
        value.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }

    pub fn parse(text: &str) -> Result<Option<PathBuf>, String> {
        Ok(if text.is_empty() { None } else { Some(text.into()) })
    }
}

/// Times, kept in milliseconds: `500ms`, `2.5s`, `3m`, `1h`.
pub(super) mod time {
    pub fn show(ms: &u64) -> String {
        match *ms {
            0 => "0s".into(),
            ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
            ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
            ms => format!("{ms}ms"),
        }
    }

    pub fn parse(text: &str) -> Result<u64, String> {
        let (number, unit) = super::split(text);
        let factor = match unit {
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" | "min" => 60_000.0,
            "h" => 3_600_000.0,
            _ => return Err(format!("`{text}` is no time: write a number and a unit, such as 500ms, 10s or 3m")),
        };
        match number.parse::<f64>() {
            Ok(number) if (0.0..=1e9).contains(&number) => Ok((number * factor).round() as u64),
            _ => Err(format!("`{text}` is no time: `{number}` is no number that fits")),
        }
    }
}

/// Sizes in bytes: `65536`, `512KiB`, `2MiB`.
pub(super) mod size {
    const KIB: usize = 1024;

    pub fn show(bytes: &usize) -> String {
        match *bytes {
            bytes if bytes > 0 && bytes % (KIB * KIB) == 0 => format!("{}MiB", bytes / (KIB * KIB)),
            bytes if bytes > 0 && bytes % KIB == 0 => format!("{}KiB", bytes / KIB),
            bytes => format!("{bytes}"),
        }
    }

    pub fn parse(text: &str) -> Result<usize, String> {
        let (number, unit) = super::split(text);
        let factor = match unit {
            "" | "B" => 1,
            "KiB" | "K" | "k" => KIB,
            "MiB" | "M" => KIB * KIB,
            "GiB" | "G" => KIB * KIB * KIB,
            _ => return Err(format!("`{text}` is no size: write bytes, or a number with KiB, MiB or GiB")),
        };
        let number: usize =
            number.parse().map_err(|_| format!("`{text}` is no size: `{number}` is no whole number"))?;
        number.checked_mul(factor).ok_or_else(|| format!("`{text}` is more than memory can hold"))
    }
}

/// Objects of parameters, as JSON.
pub(super) mod object {
    use serde_json::{Map, Value};

    pub fn show(value: &Map<String, Value>) -> String {
        Value::Object(value.clone()).to_string()
    }

    pub fn parse(text: &str) -> Result<Map<String, Value>, String> {
        if text.trim().is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_str(text).map_err(|error| format!("a JSON object is expected: {error}"))
    }
}

/// Lists, with commas between.
pub(super) mod list {
    use super::*;

    pub fn show<T: Display>(values: &[T]) -> String {
        values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    pub fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<Vec<T>, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| part.parse().map_err(|error| format!("`{part}` does not fit: {error}"))).collect()
    }
}

/// One port or a range of them; 0 for any.
pub(super) mod ports {
    pub fn show(&(first, last): &(u16, u16)) -> String {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    }

    pub fn parse(text: &str) -> Result<(u16, u16), String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<u16>();
        match (number(first), number(last)) {
            (Ok(0), Ok(0)) => Ok((0, 0)),
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok((first, last)),
            _ => Err(format!("`{text}` is neither a port nor a range such as 5000-5100")),
        }
    }
}

/// How certificates are judged: `skip`, `verify`, or `pin:` and the SHA-256 fingerprint.
pub(super) mod tls {
    use crate::tls::TlsPolicy;

    pub fn show(value: &TlsPolicy) -> String {
        match value {
            TlsPolicy::Skip => "skip".into(),
            TlsPolicy::Verify => "verify".into(),
            TlsPolicy::Pin(fingerprint) => format!("pin:{fingerprint}"),
        }
    }

    pub fn parse(text: &str) -> Result<TlsPolicy, String> {
        match text.trim() {
            "skip" => Ok(TlsPolicy::Skip),
            "verify" => Ok(TlsPolicy::Verify),
            text => {
                let fingerprint: String = text.strip_prefix("pin:").unwrap_or("").replace(':', "").to_ascii_lowercase();
                let right = fingerprint.len() == 64 && fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit());
                if right {
                    Ok(TlsPolicy::Pin(fingerprint))
                } else {
                    Err("`skip`, `verify`, or `pin:` with 64 hex digits is expected".into())
                }
            }
        }
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// Whether a number lies in a range.
///
/// # Errors
/// What the range is.
pub(super) fn within<T: PartialOrd + Display>(value: T, least: T, most: T) -> Result<T, String> {
    if value >= least && value <= most { Ok(value) } else { Err(format!("{value} is not between {least} and {most}")) }
}

/// As [`within`], for times in milliseconds.
///
/// # Errors
/// What the range is.
pub(super) fn time_within(ms: u64, least: u64, most: u64) -> Result<u64, String> {
    let show = |ms| time::show(&ms);
    if (least..=most).contains(&ms) {
        Ok(ms)
    } else {
        Err(format!("{} is not between {} and {}", show(ms), show(least), show(most)))
    }
}
