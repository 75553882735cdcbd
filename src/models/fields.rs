//! Reading `config.json` files of the diffusers layout.

use serde_json::Value;

use super::ModelError;

/// The largest number that is taken: no size of a published model comes near it, and products of a few stay in range.
const MOST: u64 = 1 << 20;

/// The most layers of one kind in a row.
const MOST_LAYERS: u64 = 64;

/// A configuration's keys. A key that is absent and one that is `null` are the same, as in diffusers.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub &'a Value);

impl<'a> Fields<'a> {
    fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub fn has(self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn count_or(self, key: &str, default: u64) -> Result<u64, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => whole(value).ok_or_else(|| wrong(key, value, "a whole number up to 1048576")),
        }
    }

    pub fn number_or(self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| wrong(key, value, "a number")),
        }
    }

    pub fn flag_or(self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| wrong(key, value, "true or false")),
        }
    }

    /// A list of `n` whole numbers; a single one stands for all.
    pub fn counts_or(self, key: &str, n: usize, default: u64) -> Result<Vec<u64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(vec![default; n]) };
        if let Some(one) = whole(value) {
            return Ok(vec![one; n]);
        }
        let list = self.list(key)?;
        if list.len() == n { Ok(list) } else { Err(wrong(key, value, &format!("{n} whole numbers"))) }
    }

    /// As [`Self::counts_or`], of layers: at most 64 each.
    pub fn layers_or(self, key: &str, n: usize, default: u64) -> Result<Vec<u64>, ModelError> {
        let list = self.counts_or(key, n, default)?;
        match list.iter().find(|&&layers| layers > MOST_LAYERS) {
            Some(layers) => Err(ModelError::config(key, format!("{layers} layers, at most {MOST_LAYERS} are built"))),
            None => Ok(list),
        }
    }

    /// A list of at least one and at most 16 positive whole numbers.
    pub fn list(self, key: &str) -> Result<Vec<u64>, ModelError> {
        let value = self.get(key).ok_or_else(|| ModelError::config(key, "is missing"))?;
        let list: Option<Vec<u64>> =
            value.as_array().and_then(|items| items.iter().map(|item| whole(item).filter(|&n| n > 0)).collect());
        list.filter(|list| (1..=16).contains(&list.len())).ok_or_else(|| wrong(key, value, "a list of whole numbers"))
    }

    /// A list of texts; `default` when absent.
    pub fn texts(self, key: &str) -> Result<Vec<&'a str>, ModelError> {
        let value = self.get(key).ok_or_else(|| ModelError::config(key, "is missing"))?;
        let list: Option<Vec<&str>> = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
        list.filter(|list| list.len() <= 16).ok_or_else(|| wrong(key, value, "a list of names"))
    }

    pub fn text(self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Refuses every value of `key` but those of `allowed`; an absent key passes.
    pub fn only(self, key: &str, allowed: &[Value]) -> Result<(), ModelError> {
        match self.get(key) {
            Some(value) if !allowed.contains(value) => {
                Err(ModelError::config(key, format!("{value} is not built here")))
            }
            _ => Ok(()),
        }
    }
}

fn whole(value: &Value) -> Option<u64> {
    value.as_u64().filter(|&n| n <= MOST)
}

fn wrong(key: &str, value: &Value, expected: &str) -> ModelError {
    let mut shown = value.to_string();
    if shown.len() > 80 {
        shown = shown.chars().take(80).collect::<String>() + "…";
    }
    ModelError::config(key, format!("{shown} is not {expected}"))
}
