//! The tokenizer and the text encoders against transformers.

use std::path::Path;

use proptest::prelude::*;
use weir::graph::DType;
use weir::inference::{Config, Runtime, Session};
use weir::models::clip::{self, ClipConfig, Hidden};
use weir::models::synthetic::Synthetic;
use weir::models::tokenizer::{ClipTokenizer, LENGTH, Tokens};

use super::{Golden, apart, close, config, folder, json, scale};

/// A tokenizer's folder that says what pads.
fn padded(pad: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("folder");
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(folder().join("tokenizer").join(name), copy.path().join(name)).expect("copy");
    }
    let map = serde_json::json!({"pad_token": {"content": pad, "lstrip": false}});
    std::fs::write(copy.path().join("special_tokens_map.json"), map.to_string()).expect("write");
    copy
}

fn tokenizer(pad: &str) -> ClipTokenizer {
    ClipTokenizer::open(padded(pad).path()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn tokens_are_those_of_transformers() {
    let golden = json("tokens");
    let cases = golden.as_array().expect("a list");
    assert!(cases.len() > 15);
    for pad in ["<|endoftext|>", "!"] {
        let tokenizer = tokenizer(pad);
        for case in cases.iter().filter(|case| case["pad"] == pad) {
            let text = case["text"].as_str().expect("a text");
            let tokens = tokenizer.encode(text).expect("tokens");
            assert_eq!(serde_json::json!(tokens.ids.to_vec()), case["ids"], "{text:?} padded with {pad}");
            assert_eq!(serde_json::json!(tokens.dropped), case["dropped"], "{text:?}");
        }
    }
    // The comparison would notice other padding and other text.
    let [a, b] = ["<|endoftext|>", "!"].map(|pad| tokenizer(pad).encode("a cat").expect("tokens"));
    assert_ne!(a.ids, b.ids);
    assert_eq!(a.end, b.end);
    assert_ne!(a.ids, tokenizer("!").encode("a dog").expect("tokens").ids);
}

#[test]
fn a_whole_tokenizer_file_does_as_well() {
    let parts = tokenizer("<|endoftext|>");
    let copy = tempfile::tempdir().expect("folder");
    // As transformers writes it, by way of the same library.
    let vocabulary = folder().join("tokenizer/vocab.json");
    let merges = folder().join("tokenizer/merges.txt");
    let pairs: Vec<String> =
        std::fs::read_to_string(merges).expect("merges").lines().skip(1).map(str::to_owned).collect();
    let vocabulary: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(vocabulary).expect("vocabulary")).expect("JSON");
    let mark = |content: &str| {
        serde_json::json!({"id": vocabulary[content], "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": true, "special": true})
    };
    let words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let whole = serde_json::json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [mark("<|startoftext|>"), mark("<|endoftext|>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<|endoftext|>", "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": pairs},
    });
    std::fs::write(copy.path().join("tokenizer.json"), whole.to_string()).expect("write");
    let whole = ClipTokenizer::open(copy.path()).unwrap_or_else(|error| panic!("{error}"));
    for case in json("tokens").as_array().expect("a list") {
        let text = case["text"].as_str().expect("a text");
        assert_eq!(whole.encode(text).expect("tokens"), parts.encode(text).expect("tokens"), "{text:?}");
    }
}

#[test]
fn a_tokenizer_that_is_not_whole_is_refused() {
    let refused = |folder: &Path| ClipTokenizer::open(folder).err().expect("refused").to_string();
    let empty = tempfile::tempdir().expect("folder");
    assert!(refused(empty.path()).ends_with("expected vocab.json and merges.txt, or tokenizer.json"));
    let copy = padded("!");
    std::fs::write(copy.path().join("merges.txt"), "#version: 0.2\nnopair\n").expect("write");
    assert!(refused(copy.path()).contains("two tokens on each line"));
    std::fs::write(copy.path().join("merges.txt"), "#version: 0.2\nzz qq\n").expect("write");
    assert!(refused(copy.path()).contains("vocab.json"));
    std::fs::write(copy.path().join("vocab.json"), "{\"a\": ").expect("write");
    assert!(refused(copy.path()).contains("not a table of tokens"));
    assert!(refused(padded("nothing").path()).contains("the padding \"nothing\" is not in the vocabulary"));
    let long = "x".repeat(weir::models::tokenizer::MAX_TEXT + 1);
    assert!(tokenizer("!").encode(&long).is_err());
}

struct Encoder {
    session: Session,
    width: usize,
    pooled: usize,
}

fn encoder(name: &str, key: &str, hidden: Hidden, dtype: DType) -> Encoder {
    let config = ClipConfig::from_json(&config(name)).unwrap_or_else(|error| panic!("{error}"));
    let model =
        clip::graph(&config, &mut Synthetic::new(key, 1.0), dtype, hidden).unwrap_or_else(|error| panic!("{error}"));
    let settings = Config { threads: 2, ..Config::default() };
    let runtime = Runtime::load(&settings).unwrap_or_else(|error| panic!("{error}"));
    let bytes = model.to_bytes().expect("ONNX");
    let session = Session::from_bytes(runtime, &settings, &bytes).unwrap_or_else(|error| panic!("{error}"));
    Encoder { session, width: config.hidden as usize, pooled: config.projection.unwrap_or(0) as usize }
}

impl Encoder {
    fn run(&mut self, tokens: &Tokens) -> (Vec<f32>, Vec<f32>) {
        let (mut states, mut pooled) = (vec![0.0; LENGTH * self.width], vec![0.0; self.pooled]);
        let end = [tokens.end as i64];
        let ids = self.session.input::<i64>("input_ids", &[1, LENGTH as i64]).expect("input");
        let out = self.session.output::<f32>("states", &[1, LENGTH as i64, self.width as i64]).expect("output");
        if self.pooled == 0 {
            self.session.run(&[ids.feed(&tokens.ids)], &mut [out.fetch(&mut states)]).expect("run");
        } else {
            let ends = self.session.input::<i64>("end", &[1]).expect("input");
            let other = self.session.output::<f32>("pooled", &[1, self.pooled as i64]).expect("output");
            let feeds = [ids.feed(&tokens.ids), ends.feed(&end)];
            self.session.run(&feeds, &mut [out.fetch(&mut states), other.fetch(&mut pooled)]).expect("run");
        }
        (states, pooled)
    }
}

const PROMPTS: [&str; 2] =
    ["a photo of a cat", "flowers in the city, neon lights, masterpiece, anime girl with blue hair"];

const CASES: [(&str, Hidden, &str); 5] = [
    ("clip-l", Hidden::Last, "last"),
    ("clip-l", Hidden::Penultimate, "penultimate"),
    ("clip-h", Hidden::Last, "last"),
    ("clip-g", Hidden::Penultimate, "penultimate"),
    ("clip-g", Hidden::Last, "last"),
];

#[test]
fn states_are_those_of_transformers() {
    let golden = Golden::read("text");
    let tokenizer = tokenizer("!");
    for (name, hidden, kind) in CASES {
        let mut encoder = encoder(name, name, hidden, DType::F32);
        for (i, prompt) in PROMPTS.iter().enumerate() {
            let (states, pooled) = encoder.run(&tokenizer.encode(prompt).expect("tokens"));
            let want = golden.get(&format!("{name}/{i}/{kind}"));
            close(&format!("{name} {kind} {i}"), &states, want, 2e-5 * scale(want));
            apart("the other prompt", &states, golden.get(&format!("{name}/{}/{kind}", 1 - i)), 0.05);
            if encoder.pooled > 0 {
                let want = golden.get(&format!("{name}/{i}/pooled"));
                close(&format!("{name} pooled {i}"), &pooled, want, 2e-5 * scale(want));
                apart("the other prompt", &pooled, golden.get(&format!("{name}/{}/pooled", 1 - i)), 0.05);
            }
        }
    }
}

#[test]
fn half_precision_is_close_and_other_weights_are_not() {
    let golden = Golden::read("text");
    let tokens = tokenizer("!").encode(PROMPTS[0]).expect("tokens");
    for (name, hidden, kind) in CASES {
        let want = golden.get(&format!("{name}/0/{kind}"));
        let (states, _) = encoder(name, name, hidden, DType::F16).run(&tokens);
        close(&format!("{name} {kind}"), &states, want, 5e-3 * scale(want));
        let (states, _) = encoder(name, "another", hidden, DType::F32).run(&tokens);
        apart("other weights", &states, want, 0.5);
    }
    // The wrong states of the right encoder.
    let (states, _) = encoder("clip-l", "clip-l", Hidden::Last, DType::F32).run(&tokens);
    apart("last for penultimate", &states, golden.get("clip-l/0/penultimate"), 0.1);
}

#[test]
fn configurations_that_are_not_built_are_refused() {
    let read = |json| ClipConfig::from_json(&json).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(read(serde_json::json!({"hidden_act": "relu"})), Err("hidden_act: relu is not built here".to_owned()));
    assert!(read(serde_json::json!({"hidden_size": 10, "num_attention_heads": 3})).is_err());
    assert!(read(serde_json::json!({"num_hidden_layers": 0})).is_err());
    assert!(read(config("clip-g")).is_ok());
}

#[test]
fn embeddings_are_joined_token_by_token() {
    let joined = clip::join(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0], 2);
    assert_eq!(joined, [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]);
}

proptest! {
    #[test]
    fn any_text_has_77_tokens(text in "\\PC{0,200}|[\\x00-\\x{FFFF}]{0,60}") {
        let tokenizer = tokenizer("!");
        let tokens = tokenizer.encode(&text).expect("tokens");
        let size = tokenizer.size() as i64;
        prop_assert!(tokens.ids.iter().all(|&id| (0..size).contains(&id)));
        prop_assert_eq!(tokens.ids[0], size - 2);
        prop_assert_eq!(tokens.ids[tokens.end], size - 1);
        weir::models::tokenizer::fuzz_clean(text.as_bytes());
    }
}
