//! Names that stand in files of deployment and must be Weir's own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::root;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Words of a text that begin with `start`, and go on in capitals, digits and underscores.
fn words<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.len() > start.len() && word.starts_with(start))
        .collect()
}

#[test]
fn every_variable_in_files_of_deployment_is_a_setting() {
    // Variables of tests and scripts, not of the program.
    let others = [
        "WEIR_IMAGE",
        "WEIR_CONFIG",
        "WEIR_SCREENSHOT",
        "WEIR_PYTRICKLE",
        "WEIR_GPU_CHECK",
        "WEIR_HELM",
        "WEIR_AXE",
        "WEIR_CAMERA",
    ];
    let known: BTreeSet<String> = weir::config::SETTINGS.iter().map(|setting| setting.variable()).collect();
    let mut paths = Vec::new();
    for folder in ["docker", "ansible", "scripts", "config/go-livepeer"] {
        files(&root().join(folder), &mut paths);
    }
    let mut seen = 0;
    for path in paths {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for word in words(&text, "WEIR_") {
            seen += 1;
            assert!(known.contains(word) || others.contains(&word), "{}: {word} is no setting", path.display());
        }
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn the_models_that_a_script_fetches_are_those_that_pipelines_load() {
    let script = std::fs::read_to_string(root().join("scripts/prepare-models")).unwrap();
    let begin = script.find("needs() {").unwrap();
    let table = &script[begin..begin + script[begin..].find("\n}").unwrap()];
    let mut sources = Vec::new();
    files(&root().join("src/pipeline/streamdiffusion"), &mut sources);
    files(&root().join("src/models/ip_adapter"), &mut sources);
    files(&root().join("src/models/pose"), &mut sources);
    let source: String = sources.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    let mut seen = 0;
    for line in table.lines().filter(|line| line.contains("echo ")) {
        for word in line.split_once("echo ").unwrap().1.split([' ', ';']).filter(|word| word.contains('/')) {
            // A name with a choice in braces stands for several.
            let (front, rest) = word.split_once('{').unwrap_or((word, ""));
            let (choices, back) = rest.split_once('}').unwrap_or(("", ""));
            for choice in choices.split(',') {
                let name = format!("{front}{choice}{back}");
                assert!(source.contains(&format!("\"{name}\"")), "no pipeline loads {name}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 19, "{seen}");
}

#[test]
fn the_json_files_of_deployment_are_json() {
    for path in [
        "scripts/runpod/template.json",
        "config/go-livepeer/aiModels.json",
        "config/go-livepeer/aiModels-external.json",
        "config/go-livepeer/imageOverrides.json",
    ] {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        let read: Result<Value, _> = serde_json::from_str(&text);
        assert!(read.is_ok(), "{path}: {read:?}");
    }
}

#[test]
fn an_image_is_named_for_every_model_id_that_an_orchestrator_sells() {
    let text = std::fs::read_to_string(root().join("config/go-livepeer/imageOverrides.json")).unwrap();
    let read: Value = serde_json::from_str(&text).unwrap();
    let live = read["live"].as_object().unwrap();
    for id in live.keys() {
        assert!(weir::pipeline::registry::find(id).is_some(), "{id} is no pipeline");
    }
    let tests = ["invert", "delay"];
    for pipeline in weir::pipeline::registry::all().iter().map(|pipeline| pipeline.name()) {
        assert!(live.contains_key(pipeline) || tests.contains(&pipeline), "no image for {pipeline}");
    }
}

#[test]
fn every_script_helps_and_refuses_what_it_does_not_know() {
    let run = |name: &str, argument: &str| {
        let output = std::process::Command::new(root().join(name)).arg(argument).output().unwrap();
        (output.status.code(), super::said(&output))
    };
    let folder = std::fs::read_dir(root().join("scripts")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = folder.filter(|path| path.is_file()).collect();
    assert!(names.len() >= 17, "{names:?}");
    names.extend(
        ["scripts/runpod/create", "docker/cuda-libraries", "docker/engine", ".ci/run"].map(|name| root().join(name)),
    );
    for name in names {
        let name = name.strip_prefix(root()).unwrap().to_str().unwrap();
        let (code, text) = run(name, "--help");
        assert!(code == Some(0) && text.to_lowercase().contains("usage"), "{name} --help: {code:?} {text}");
        // What it does not know itself goes on to the program, which it builds first.
        if name == "scripts/demo" {
            continue;
        }
        let (code, text) = run(name, "--no-such-flag");
        assert!(code != Some(0) && !text.is_empty(), "{name} --no-such-flag: {code:?} {text}");
    }
}
