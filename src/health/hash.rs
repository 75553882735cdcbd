//! The hash by which operators see that an update took effect.

use std::fmt::Write;

use md5::{Digest, Md5};
use serde_json::{Map, Number, Value};

/// MD5, in 32 lower-case hex digits, of the text that Python's `json.dumps(params, sort_keys=True)` makes: keys sorted,
/// `", "` and `": "` between, everything outside printable ASCII escaped, floats by their shortest digits in Python's
/// notation. Integers beyond 64 bits count as floats, as they do for the JSON reader.
pub fn params_hash(params: &Map<String, Value>) -> String {
    let mut text = String::new();
    object(&mut text, params);
    Md5::digest(text.as_bytes()).iter().fold(String::with_capacity(32), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(it) => number(out, it),
        Value::String(it) => string(out, it),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                self::value(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => object(out, map),
    }
}

fn object(out: &mut String, map: &Map<String, Value>) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by(|a, b| a.0.cmp(b.0));
    out.push('{');
    for (index, (key, item)) in entries.into_iter().enumerate() {
        out.push_str(if index == 0 { "" } else { ", " });
        string(out, key);
        out.push_str(": ");
        value(out, item);
    }
    out.push('}');
}

fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

fn number(out: &mut String, number: &Number) {
    match number.as_f64() {
        Some(float) if number.is_f64() => self::float(out, float),
        _ => {
            let _ = write!(out, "{number}");
        }
    }
}

/// Python's `repr` of a float: shortest digits that read back the same; an exponent below 1e-4 and from 1e16 on.
fn float(out: &mut String, float: f64) {
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        out.push_str(&scientific);
        return;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{float}");
        out.push_str(&plain);
        if !plain.contains('.') {
            out.push_str(".0");
        }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{digits}e{sign}{:02}", exponent.abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python 3: for each document `d`,
    /// `hashlib.md5(json.dumps(json.loads(d), sort_keys=True).encode()).hexdigest()`.
    const GOLDEN: &[(&str, &str)] = &[
        (r#"{}"#, "99914b932bd37a50b983c5e7c90ae93b"),
        (r#"{"prompt":"x"}"#, "6962441331ca81a2f0860e8105f112a6"),
        (r#"{"b":1,"a":[1,2.0,-0.5,null,true,false],"c":{"z":"y","A":"B"}}"#, "416ccedd04a8e60f9d0244bfc8899d9c"),
        (r#"{"prompt":"ein Fluß, 川, 🎈 \u007f \" \\ / \n\r\t\b\f\u0001"}"#, "2c215b2182bd7c7d373238672f2d4068"),
        (
            r#"{"a":1e16,"b":1e15,"c":123456789012345680.0,"d":0.0001,"e":0.00001,"f":1.5e-7,"g":1e22,"h":1e100,"i":-0.0,"j":5e-324,"k":1.7976931348623157e308,"l":0.1,"m":100.0,"n":1234567.875}"#,
            "61b08283823c90c1313801cdfb99ffb8",
        ),
        (
            r#"{"t_index_list":[12,20,32],"delta":0.7,"controlnets":[{"enabled":true,"conditioning_scale":0.22}],"seed":18446744073709551615,"neg":-9223372036854775808}"#,
            "805c3edf8c35b0fc66cdd78eadb4c0cb",
        ),
        (r#"{"\u00e9":1,"z":2,"\ud83c\udf88":3,"\uffee":4,"":5}"#, "36772261c1dcc16151f0437789f15250"),
    ];

    #[test]
    fn hashes_are_those_of_python() {
        for (document, expected) in GOLDEN {
            let params: Map<String, Value> = serde_json::from_str(document).expect("a document");
            assert_eq!(params_hash(&params), *expected, "{document}");
        }
    }
}
