//! Who may use whom: the table at the top of `src/lib.rs` against the text of `src/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A source file: its path below `src/`, and its text.
type Sources = Vec<(PathBuf, String)>;

/// What a module may use.
#[derive(Clone, Debug, PartialEq)]
enum Allowed {
    Everything,
    /// The settings types of any module.
    Configs,
    Only(BTreeSet<String>),
}

fn sources() -> Sources {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// The rows of the table: module to what it may use.
fn table(lib: &str) -> BTreeMap<String, Allowed> {
    let mut rows = BTreeMap::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! | [`")) {
        let (name, rest) = line.split_once("`]").expect("a module's name");
        let allowed = rest.rsplit('|').nth(1).expect("a last column").trim();
        let names = allowed.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let allowed = match allowed {
            "everything" => Allowed::Everything,
            "nothing of ours" => Allowed::Only(BTreeSet::new()),
            "the modules' own `Config` structs" => Allowed::Configs,
            _ => Allowed::Only(names),
        };
        rows.insert(name.to_owned(), allowed);
    }
    rows
}

/// `text` without comments, and without the inside of strings and characters.
fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or(' ');
    let mut out = String::with_capacity(text.len());
    let mut index = 0;
    while index < chars.len() {
        let name_before = out.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        match (at(index), at(index + 1)) {
            ('/', '/') => {
                while index < chars.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            ('/', '*') => {
                index += 2;
                while index < chars.len() && (at(index), at(index + 1)) != ('*', '/') {
                    index += 1;
                }
                index += 2;
            }
            ('r', '"' | '#') if !name_before || out.ends_with('b') => {
                let hashes = chars[index + 1..].iter().take_while(|&&c| c == '#').count();
                index += 1 + hashes;
                if at(index) == '"' {
                    index += 1;
                    let ends = |index: usize| at(index) == '"' && (1..=hashes).all(|hash| at(index + hash) == '#');
                    while index < chars.len() && !ends(index) {
                        index += 1;
                    }
                    index += 1 + hashes;
                    out.push_str("\"\"");
                }
            }
            ('"', _) => {
                index += 1;
                while index < chars.len() && at(index) != '"' {
                    index += if at(index) == '\\' { 2 } else { 1 };
                }
                index += 1;
                out.push_str("\"\"");
            }
            // A character, not a lifetime.
            ('\'', next) if next == '\\' || at(index + 2) == '\'' => {
                index += if next == '\\' { 3 } else { 2 };
                while index < chars.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            (c, _) => {
                out.push(c);
                index += 1;
            }
        }
    }
    out
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// Modules that `code` names after `crate::`, each with the path that follows; groups are taken apart.
fn uses(code: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = code[at + "crate::".len()..].trim_start();
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && c == ',') {
                    let path = item.trim();
                    found.push((word(path).to_owned(), path.to_owned()));
                    item.clear();
                    if depth == 0 {
                        break;
                    }
                } else {
                    item.push(c);
                }
            }
        } else {
            let end = rest.find([';', '(', ')', ' ', ',', '\n', '<', '>']).unwrap_or(rest.len());
            let path = if rest[..end].ends_with('{') || rest[..end].contains('{') { rest } else { &rest[..end] };
            let path = path.split(';').next().unwrap_or(path);
            found.push((word(rest).to_owned(), path.to_owned()));
        }
    }
    found.retain(|(module, _)| !module.is_empty());
    found
}

/// Chains of `super::` that reach the root of the crate from a file of module depth `depth`, with the module they name.
fn climbs(code: &str, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("super::") {
        rest = &rest[at..];
        let mut supers = 0;
        while let Some(after) = rest.strip_prefix("super::") {
            supers += 1;
            rest = after;
        }
        if supers >= depth {
            found.push(word(rest).to_owned());
        }
    }
    found
}

/// The top module of a file below `src/`; `None` for `lib.rs` and `main.rs`.
fn module(path: &Path) -> Option<String> {
    let first = path.components().next()?.as_os_str().to_string_lossy().into_owned();
    match first.strip_suffix(".rs") {
        Some("lib" | "main") => None,
        Some(name) => Some(name.to_owned()),
        None => Some(first),
    }
}

fn depth(path: &Path) -> usize {
    let folders = path.components().count() - 1;
    let own = path.file_stem().is_some_and(|stem| stem == "mod");
    if own { folders } else { folders + 1 }
}

/// Types that the files called `config.rs` of the modules make public.
fn settings_types(sources: &Sources) -> BTreeSet<(String, String)> {
    let mut types = BTreeSet::new();
    for (path, text) in sources.iter().filter(|(path, _)| path.ends_with("config.rs")) {
        let Some(module) = module(path) else { continue };
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum ")) {
                types.insert((module.clone(), word(name).to_owned()));
            }
        }
    }
    types
}

/// Every use that the table does not allow, in words.
fn wrong_uses(sources: &Sources, table: &BTreeMap<String, Allowed>) -> Vec<String> {
    let settings = settings_types(sources);
    let mut wrong = Vec::new();
    for (path, text) in sources {
        let Some(own) = module(path) else { continue };
        let Some(allowed) = table.get(&own) else {
            wrong.push(format!("{}: the module {own} is not in the table of src/lib.rs", path.display()));
            continue;
        };
        let code = code(text);
        let mut named = uses(&code);
        named.extend(
            climbs(&code, depth(path))
                .into_iter()
                .filter(|name| table.contains_key(name))
                .map(|name| (name, String::new())),
        );
        for (target, full) in named {
            // Something at the root of the crate that is no module, such as a macro, has no layer.
            if target == own || !table.contains_key(&target) {
                continue;
            }
            let item = full.split("::").nth(1).map(word).unwrap_or("");
            let is_settings = settings.contains(&(target.clone(), item.to_owned()));
            let fine = match allowed {
                Allowed::Everything => true,
                Allowed::Only(names) => names.contains(&target) || (path.ends_with("config.rs") && is_settings),
                Allowed::Configs => is_settings,
            };
            if !fine {
                wrong.push(format!("{}: {own} uses {target} ({full})", path.display()));
            }
        }
    }
    wrong
}

/// Files with `unsafe` that are no `ffi.rs` and lie in no folder `ffi`.
fn unsafe_outside_ffi(sources: &Sources) -> Vec<String> {
    let ffi = |path: &Path| path.iter().any(|part| part == "ffi" || part == "ffi.rs");
    let has = |text: &str| {
        let code = code(text);
        code.match_indices("unsafe").any(|(at, found)| {
            let around = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !around(code[..at].chars().next_back()) && !around(code[at + found.len()..].chars().next())
        })
    };
    let wrong = sources.iter().filter(|(path, text)| !ffi(path) && has(text));
    wrong.map(|(path, _)| path.display().to_string()).collect()
}

/// Files below `cli` that read or write the environment.
fn environment_below_cli(sources: &Sources) -> Vec<String> {
    let calls = ["env::var", "env::vars", "env::var_os", "env::set_var", "env::remove_var"];
    let below = sources.iter().filter(|(path, _)| module(path).is_some_and(|module| module != "cli"));
    let wrong = below.filter(|(_, text)| calls.iter().any(|call| code(text).contains(call)));
    wrong.map(|(path, _)| path.display().to_string()).collect()
}

/// What `webrtc` takes from `media`, apart from plain names and the transport stream. It runs in the supervisor, which
/// calls no codec.
fn codecs_of_webrtc(sources: &Sources) -> Vec<String> {
    let plain = ["ts", "Damage", "PacketCodec", "VideoCodec"];
    let mut wrong = Vec::new();
    for (path, text) in sources.iter().filter(|(path, _)| module(path).is_some_and(|module| module == "webrtc")) {
        // What stands behind the tests' mark may use anything.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (name, rest) in uses(&code(text)) {
            let rest = rest.strip_prefix("media").unwrap_or_default().trim_start_matches("::");
            // A list of names, or one path, which may end in a list of its own.
            let one = || rest.split(',').next().unwrap_or_default();
            let group = rest.strip_prefix('{').map_or_else(one, |group| group.split('}').next().unwrap_or_default());
            let mut names = group.split(',').map(str::trim).filter(|name| !name.is_empty());
            if name == "media" && (rest.is_empty() || names.any(|name| !plain.contains(&word(name)))) {
                wrong.push(format!("{}: media::{rest}", path.display()));
            }
        }
    }
    wrong
}

fn rules() -> (Sources, BTreeMap<String, Allowed>) {
    let sources = sources();
    let lib = &sources.iter().find(|(path, _)| path == Path::new("lib.rs")).unwrap().1;
    let table = table(lib);
    (sources, table)
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let (sources, table) = rules();
    assert!(table.len() > 10 && sources.len() > 20);
    let wrong = wrong_uses(&sources, &table);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn webrtc_calls_no_codec() {
    assert_eq!(codecs_of_webrtc(&sources()), [""; 0]);
}

#[test]
fn unsafe_code_lives_in_ffi() {
    assert_eq!(unsafe_outside_ffi(&sources()), [""; 0]);
}

#[test]
fn only_the_command_line_reads_the_environment() {
    assert_eq!(environment_below_cli(&sources()), [""; 0]);
}

#[test]
fn every_module_of_the_crate_has_a_row() {
    let (sources, table) = rules();
    let modules: BTreeSet<String> = sources.iter().filter_map(|(path, _)| module(path)).collect();
    let rows: BTreeSet<String> = table.into_keys().collect();
    assert_eq!(rows, modules);
}

/// The checker itself, on sources that break each rule.
#[test]
fn the_checker_bites() {
    let table = table(
        "//! | [`top`] | x | everything |\n//! | [`settings`] | x | the modules' own `Config` structs |\n\
         //! | [`middle`] | x | `low`, `other` |\n//! | [`low`] | x | nothing of ours |\n//! | [`other`] | x | nothing of ours |\n",
    );
    let check = |path: &str, text: &str| {
        let config = ("low/config.rs".into(), "pub struct Config {}\npub enum Mode {}\n".to_owned());
        let mut sources: Sources = vec![config, (path.into(), text.to_owned())];
        sources.sort();
        wrong_uses(&sources, &table).len()
    };
    for (path, text, wrong) in [
        ("top/mod.rs", "use crate::low::X;", 0),
        ("middle/mod.rs", "use crate::low::X; use crate::other;", 0),
        ("middle/mod.rs", "use crate::top::X;", 1),
        ("middle/mod.rs", "fn f() { crate::top::g() }", 1),
        ("middle/mod.rs", "use crate::{low::{A, B}, top::C, other};", 1),
        ("middle/mod.rs", "use crate::{\n    low,\n    settings::{A, B},\n    top,\n};", 2),
        ("middle/mod.rs", "use super::top::X;", 1),
        ("middle/deep.rs", "use super::top::X;", 0),
        ("middle/deep.rs", "use super::super::top::X;", 1),
        ("middle/mod.rs", "mod tests { use super::*; }", 0),
        ("middle/mod.rs", "pub(in crate::middle) fn f() {}", 0),
        (
            "middle/mod.rs",
            "// use crate::top::X;\n/* crate::top */ /// [`crate::top`]\nconst A: &str = \"crate::top\";",
            0,
        ),
        ("low.rs", "use crate::middle::X;", 1),
        ("settings/mod.rs", "use crate::low::Config; fn f(m: crate::low::Mode) {}", 0),
        ("settings/mod.rs", "use crate::low::{Config, Mode};", 1),
        ("settings/mod.rs", "use crate::low::Engine;", 1),
        ("other/config.rs", "struct Config { low: crate::low::Config }", 0),
        ("other/config.rs", "struct Config { low: crate::low::Engine }", 1),
        ("unknown/mod.rs", "", 1),
        ("lib.rs", "use crate::top::X;", 0),
    ] {
        assert_eq!(check(path, text), wrong, "{path}: {text}");
    }
    let strange = [
        r##"let a = r#"one " quote"#; use crate::top::X;"##,
        r#"let a = '"'; let b = '\"'; let c = '\''; let d: &'static str = "x\""; use crate::top::X;"#,
        r#"let a = br"\"; use crate::top::X;"#,
        "let a = \"// no comment\"; use crate::top::X;",
    ];
    for text in strange {
        assert_eq!(check("middle/mod.rs", text), 1, "{text}");
    }
    let one = |path: &str, text: &str| -> Sources { vec![(path.into(), text.to_owned())] };
    for (text, wrong) in [
        ("use crate::media::ts::mux::Mux; use crate::media::{PacketCodec, VideoCodec};", 0),
        ("use crate::media::Input;", 1),
        ("use crate::media::{VideoCodec, Output};", 1),
        ("use crate::media;", 1),
        ("use crate::media::ts; #[cfg(test)] mod tests { use crate::media::Input; }", 0),
    ] {
        assert_eq!(codecs_of_webrtc(&one("webrtc/x.rs", text)).len(), wrong, "{text}");
        assert_eq!(codecs_of_webrtc(&one("media/x.rs", text)).len(), 0);
    }
    assert_eq!(unsafe_outside_ffi(&one("low/x.rs", "fn f() { unsafe { g() } }")).len(), 1);
    assert_eq!(unsafe_outside_ffi(&one("low/ffi.rs", "fn f() { unsafe { g() } }")).len(), 0);
    assert_eq!(unsafe_outside_ffi(&one("low/ffi/x.rs", "unsafe fn f() {}")).len(), 0);
    assert_eq!(unsafe_outside_ffi(&one("low/x.rs", "#![deny(unsafe_code)] // unsafe\n")).len(), 0);
    assert_eq!(environment_below_cli(&one("low/x.rs", "std::env::var(\"X\")")).len(), 1);
    assert_eq!(environment_below_cli(&one("cli/x.rs", "std::env::vars_os()")).len(), 0);
    assert_eq!(environment_below_cli(&one("low/x.rs", "env!(\"X\"); std::env::current_exe()")).len(), 0);
}
