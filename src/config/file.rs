//! The configuration file: TOML, one table a group.

use toml::Value;

use super::{Config, SETTINGS, Setting};

/// A key with its value as a text, or why the value is none.
pub(super) type Entry = (String, Result<String, String>);

/// Every key of the file.
///
/// # Errors
/// Why the text is no TOML, with line and column. Values of the text are not repeated; one may be a secret.
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        format!("line {line}: {}", error.message())
    })?;
    let mut entries = Vec::new();
    flatten("", table, &mut entries);
    Ok(entries)
}

fn flatten(prefix: &str, table: toml::Table, entries: &mut Vec<Entry>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        let known = SETTINGS.iter().any(|setting| setting.key == key);
        match value {
            // A group; a table under a known key is an object of parameters. Groups are one level deep.
            Value::Table(inner) if !known && prefix.is_empty() => flatten(&key, inner, entries),
            value => entries.push((key, scalar(value))),
        }
    }
}

fn scalar(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(it) => Ok(it.to_string()),
        Value::Table(table) => serde_json::to_string(&table).map_err(|error| error.to_string()),
        Value::Array(_) => Err("a list has no place here".into()),
        Value::Datetime(_) => Err("a date has no place here".into()),
    }
}

/// `config` as the text of a file, with a comment above each key.
pub(super) fn text(config: &Config, comment: impl Fn(&Setting) -> String) -> String {
    let mut out = String::new();
    let mut group = "";
    for setting in SETTINGS {
        let (prefix, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if prefix != group {
            if !group.is_empty() {
                out.push('\n');
            }
            out.push_str(&format!("[{prefix}]\n"));
            group = prefix;
        }
        let shown = setting.shown(config);
        // A number only where it reads back as the same text: a name may be `007` or `1e5`.
        let whole = shown.parse::<i64>().is_ok_and(|number| number.to_string() == shown);
        let broken = shown.parse::<f64>().is_ok_and(|number| number.is_finite() && number.to_string() == shown);
        let bare = whole || (broken && shown.contains('.'));
        let value = if bare { shown } else { Value::String(shown).to_string() };
        out.push_str(&format!("{}\n{name} = {value}\n", comment(setting)));
    }
    out
}
