//! The tokenizer of CLIP: text to 77 numbers.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};
use unicode_normalization::UnicodeNormalization;

/// Numbers that a text encoder reads.
pub const LENGTH: usize = 77;

/// The largest file of a tokenizer that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// The longest prompt that is read, in bytes. More cannot matter: 77 tokens are far shorter.
pub const MAX_TEXT: usize = 64 << 10;

/// Why there is no tokenizer, or no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file is missing or wrong.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The prompt is longer than [`MAX_TEXT`].
    #[error("a prompt of {0} bytes, expected at most {MAX_TEXT}")]
    TooLong(usize),
    /// The vocabulary does not fit the text.
    #[error("the text cannot be tokenized: {0}")]
    Text(String),
}

/// A prompt as a text encoder reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The beginning mark, the text, the end mark, padding.
    pub ids: [i64; LENGTH],
    /// Position of the first end mark, from which SDXL takes the pooled embedding.
    pub end: usize,
    /// Tokens at the end of the text that did not fit.
    pub dropped: usize,
}

/// Splits text into tokens of CLIP's vocabulary. Cleaning and splitting are those of the `CLIPTokenizer` that diffusers
/// uses, without the repair of wrongly decoded text (`ftfy`).
pub struct ClipTokenizer {
    inner: Tokenizer,
    begin: i64,
    end: i64,
    pad: i64,
}

impl ClipTokenizer {
    /// Reads the tokenizer in `folder`: `vocab.json` and `merges.txt`, or `tokenizer.json`; what pads, from
    /// `special_tokens_map.json` or `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`TokenizerError::File`].
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let wrong = |path: &Path, reason: String| TokenizerError::File { path: path.to_path_buf(), reason };
        let (vocabulary, merges, whole) =
            (folder.join("vocab.json"), folder.join("merges.txt"), folder.join("tokenizer.json"));
        let mut inner = if vocabulary.exists() && merges.exists() {
            let bpe = build(&read(&vocabulary)?, &read(&merges)?).map_err(|reason| wrong(&vocabulary, reason))?;
            assemble(bpe).map_err(|reason| wrong(&vocabulary, reason))?
        } else if whole.exists() {
            Tokenizer::from_bytes(read(&whole)?).map_err(|error| wrong(&whole, error.to_string()))?
        } else {
            return Err(wrong(folder, "expected vocab.json and merges.txt, or tokenizer.json".to_owned()));
        };
        inner.with_truncation(None).map_err(|error| wrong(folder, error.to_string()))?;
        inner.with_padding(None);
        let [begin, end] = ["<|startoftext|>", "<|endoftext|>"].map(|mark| inner.token_to_id(mark).map(i64::from));
        let (Some(begin), Some(end)) = (begin, end) else {
            return Err(wrong(folder, "expected the tokens <|startoftext|> and <|endoftext|>".to_owned()));
        };
        let pad = match pad_token(folder)? {
            None => end,
            Some(token) => {
                let id = inner.token_to_id(&token);
                let id = id.ok_or_else(|| wrong(folder, format!("the padding {token:?} is not in the vocabulary")))?;
                // As in the reference the padding is a mark wherever it stands in a text: the `!` of SD 2.x too.
                inner.add_special_tokens(&[AddedToken::from(token, true)]);
                i64::from(id)
            }
        };
        Ok(Self { inner, begin, end, pad })
    }

    /// The marks of the beginning and of the end of a text.
    pub fn marks(&self) -> [i64; 2] {
        [self.begin, self.end]
    }

    /// The tokens of `text` without marks and without an end to their number.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn plain(&self, text: &str) -> Result<Vec<i64>, TokenizerError> {
        if text.len() > MAX_TEXT {
            return Err(TokenizerError::TooLong(text.len()));
        }
        let encoded =
            self.inner.encode_fast(clean(text), false).map_err(|error| TokenizerError::Text(error.to_string()))?;
        Ok(encoded.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// How many tokens there are.
    pub fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The tokens of `text`.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`], [`TokenizerError::Text`].
    pub fn encode(&self, text: &str) -> Result<Tokens, TokenizerError> {
        if text.len() > MAX_TEXT {
            return Err(TokenizerError::TooLong(text.len()));
        }
        let encoded =
            self.inner.encode_fast(clean(text), false).map_err(|error| TokenizerError::Text(error.to_string()))?;
        let room = LENGTH - 2;
        let kept = encoded.get_ids().iter().take(room).map(|&id| i64::from(id));
        let mut ids = [self.pad; LENGTH];
        let marked = std::iter::once(self.begin).chain(kept).chain([self.end]);
        ids.iter_mut().zip(marked).for_each(|(place, id)| *place = id);
        let end = ids.iter().position(|&id| id == self.end).unwrap_or(LENGTH - 1);
        Ok(Tokens { ids, end, dropped: encoded.get_ids().len().saturating_sub(room) })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let wrong = |reason: String| TokenizerError::File { path: path.to_path_buf(), reason };
    let length = path.metadata().map_err(|error| wrong(error.to_string()))?.len();
    if length > MAX_FILE {
        return Err(wrong(format!("{length} bytes, expected at most {MAX_FILE}")));
    }
    std::fs::read(path).map_err(|error| wrong(error.to_string()))
}

/// The pairs of CLIP from the content of its two files.
fn build(vocabulary: &[u8], merges: &[u8]) -> Result<BPE, String> {
    let vocabulary: std::collections::HashMap<String, u32> =
        serde_json::from_slice(vocabulary).map_err(|error| format!("not a table of tokens: {error}"))?;
    let merges = std::str::from_utf8(merges).map_err(|error| format!("merges.txt: {error}"))?;
    let pairs = merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    let pairs: Option<Vec<(String, String)>> =
        pairs.map(|line| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.trim_end().to_owned()))).collect();
    let pairs = pairs.ok_or("merges.txt: expected two tokens on each line")?;
    BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), pairs)
        .end_of_word_suffix("</w>".to_owned())
        .unk_token("<|endoftext|>".to_owned())
        .build()
        .map_err(|error| error.to_string())
}

/// The tokenizer around the pairs: words are runs of letters, single digits, runs of anything else, and a few endings.
fn assemble(bpe: BPE) -> Result<Tokenizer, String> {
    const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)
        .map_err(|error| error.to_string())?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![words.into(), ByteLevel::new(false, true, false).into()])));
    let marks = ["<|startoftext|>", "<|endoftext|>"].map(|mark| AddedToken::from(mark, true));
    tokenizer.add_special_tokens(&marks);
    Ok(tokenizer)
}

/// What a tokenizer pads with, where its files say so.
fn pad_token(folder: &Path) -> Result<Option<String>, TokenizerError> {
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let wrong = |error: serde_json::Error| TokenizerError::File { path: path.clone(), reason: error.to_string() };
        let map: Value = serde_json::from_slice(&read(&path)?).map_err(wrong)?;
        let token = map.get("pad_token").map(|token| token.get("content").unwrap_or(token));
        if let Some(token) = token.and_then(Value::as_str) {
            return Ok(Some(token.to_owned()));
        }
    }
    Ok(None)
}

/// Control characters, white space aside.
static CONTROL: LazyLock<Option<regex::Regex>> = LazyLock::new(|| regex::Regex::new(r"\p{C}").ok());

/// Text without control characters, composed (NFC), in lower case, words one blank apart, each Chinese character a word.
fn clean(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    let mut buffer = [0; 4];
    for c in text.chars() {
        let control = || CONTROL.as_ref().is_some_and(|control| control.is_match(c.encode_utf8(&mut [0; 4])));
        match c {
            '\t' | '\n' | '\r' => spaced.push(' '),
            '\0' | '\u{FFFD}' => {}
            _ if control() => {}
            c if is_space(c) => spaced.push(' '),
            c if is_chinese(c) => {
                spaced.push(' ');
                spaced.push_str(c.encode_utf8(&mut buffer));
                spaced.push(' ');
            }
            c => spaced.push(c),
        }
    }
    let composed: String = spaced.nfc().collect();
    composed.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// Blanks of the Unicode category Zs.
fn is_space(c: char) -> bool {
    c.is_whitespace() && !matches!(c, '\u{2028}' | '\u{2029}')
}

/// Chinese characters, those of Japanese and Korean of that origin among them.
fn is_chinese(c: char) -> bool {
    const BLOCKS: [(u32, u32); 8] = [
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x2_0000, 0x2_A6DF),
        (0x2_A700, 0x2_B73F),
        (0x2_B740, 0x2_B81F),
        (0x2_B820, 0x2_CEAF),
        (0xF900, 0xFAFF),
        (0x2_F800, 0x2_FA1F),
    ];
    BLOCKS.iter().any(|&(from, to)| (from..=to).contains(&u32::from(c)))
}

/// Any prompt gives tokens or an error.
#[doc(hidden)]
pub fn fuzz_clean(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let once = clean(text);
        assert!(!once.starts_with(' ') && !once.contains("  "));
    }
}
