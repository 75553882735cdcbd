//! Prompts as ComfyUI reads them: weights in round brackets, and texts longer than the text encoder in pieces of 77 tokens.

use crate::models::tokenizer::{ClipTokenizer, LENGTH, TokenizerError};

/// Brackets inside of brackets that are read.
const MAX_DEPTH: usize = 64;

/// Tokens of a word from which on it is broken where a piece ends.
const LARGE: usize = 8;

/// A prompt as a text encoder reads it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pieces {
    /// Token numbers of each piece, and those of the empty text as the last.
    pub ids: Vec<i64>,
    /// Weight of each token of the pieces.
    pub weights: Vec<f32>,
    /// Where each piece has its first end mark, the empty text too.
    pub ends: Vec<i64>,
}

impl Pieces {
    /// Pieces, without the empty text.
    pub fn count(&self) -> usize {
        self.ends.len() - 1
    }
}

/// Reads `prompt`. `pad` stands behind the end mark.
pub(super) fn pieces(tokenizer: &ClipTokenizer, pad: i64, prompt: &str) -> Result<Pieces, String> {
    let [begin, end] = tokenizer.marks();
    let room = LENGTH - 1;
    let mut batches = vec![vec![(begin, 1.0)]];
    for (text, weight) in weighted(prompt)? {
        let tokens = tokenizer.plain(&text).map_err(|error: TokenizerError| error.to_string())?;
        let large = tokens.len() >= LARGE;
        let mut rest = tokens.as_slice();
        while let (false, Some(batch)) = (rest.is_empty(), batches.last_mut()) {
            let free = room - batch.len().min(room);
            if rest.len() <= free {
                batch.extend(rest.iter().map(|&id| (id, weight)));
                break;
            }
            // A long text is broken; a short one goes on to the next piece as a whole.
            if large {
                let (now, later) = rest.split_at(free);
                batch.extend(now.iter().map(|&id| (id, weight)));
                rest = later;
            }
            batches.push(vec![(begin, 1.0)]);
        }
    }
    batches.push(vec![(begin, 1.0)]);
    let mut made = Pieces { ids: Vec::new(), weights: Vec::new(), ends: Vec::new() };
    for batch in &mut batches {
        made.ends.push(batch.len() as i64);
        batch.push((end, 1.0));
        batch.resize(LENGTH, (pad, 1.0));
        made.ids.extend(batch.iter().map(|(id, _)| id));
        made.weights.extend(batch.iter().map(|(_, weight)| weight));
    }
    made.weights.truncate(made.weights.len() - LENGTH);
    Ok(made)
}

/// Texts with their weights: brackets multiply by 1.1, `(text:1.3)` sets a weight, a backslash makes a bracket a letter.
fn weighted(prompt: &str) -> Result<Vec<(String, f32)>, String> {
    let mut out = Vec::new();
    // Marks that stand for brackets that are letters.
    let hidden = prompt.replace("\\)", "\u{0}\u{1}").replace("\\(", "\u{0}\u{2}");
    walk(&hidden, 1.0, 0, &mut out)?;
    for (text, _) in &mut out {
        *text = text.replace("\u{0}\u{1}", ")").replace("\u{0}\u{2}", "(");
    }
    out.retain(|(text, _)| !text.is_empty());
    Ok(out)
}

fn walk(text: &str, weight: f32, depth: usize, out: &mut Vec<(String, f32)>) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("more than {MAX_DEPTH} brackets inside of each other"));
    }
    for part in split(text) {
        let Some(inner) = part.strip_prefix('(').and_then(|part| part.strip_suffix(')')) else {
            out.push((part.to_owned(), weight));
            continue;
        };
        let set = inner.rfind(':').filter(|&at| at > 0);
        let set = set.and_then(|at| Some((&inner[..at], inner[at + 1..].trim().parse::<f32>().ok()?)));
        match set.filter(|(_, weight)| weight.is_finite()) {
            Some((inner, weight)) => walk(inner, weight, depth + 1, out)?,
            None => walk(inner, weight * 1.1, depth + 1, out)?,
        }
    }
    Ok(())
}

/// Cuts `text` before each outermost opening bracket and behind its closing one.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut level, mut from) = (0_i64, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => {
                if level == 0 && at > from {
                    parts.push(&text[from..at]);
                    from = at;
                }
                level += 1;
            }
            ')' => {
                level -= 1;
                if level == 0 {
                    parts.push(&text[from..=at]);
                    from = at + 1;
                }
            }
            _ => {}
        }
    }
    if from < text.len() {
        parts.push(&text[from..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn brackets_weigh() {
        let read = |prompt| weighted(prompt).unwrap();
        let of = |all: &[(&str, f32)]| all.iter().map(|&(text, weight)| (text.to_owned(), weight)).collect::<Vec<_>>();
        assert_eq!(read("a cat"), of(&[("a cat", 1.0)]));
        assert_eq!(read("a (red:1.3) cat"), of(&[("a ", 1.0), ("red", 1.3), (" cat", 1.0)]));
        assert_eq!(read("(a (b))"), of(&[("a ", 1.1), ("b", 1.1 * 1.1)]));
        assert_eq!(read("(a (b:0.5):2)"), of(&[("a ", 2.0), ("b", 0.5)]));
        assert_eq!(read(r"smile \(:1.2\)"), of(&[("smile (:1.2)", 1.0)]));
        assert_eq!(read("(a:b)"), of(&[("a:b", 1.1)]));
        assert_eq!(read("(open"), of(&[("(open", 1.0)]));
        assert_eq!(read(""), of(&[]));
        assert!(weighted(&"(".repeat(200)).is_ok(), "unclosed brackets are letters");
        assert!(weighted(&format!("{}a{}", "(".repeat(70), ")".repeat(70))).is_err());
    }
}
