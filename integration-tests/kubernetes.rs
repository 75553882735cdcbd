//! The Helm chart: what it renders to, and that the rendering is of the chart as it is.
//!
//! `scripts/helm` renders `docker/helm/rendered.yaml` with Helm itself; a change of the chart without that fails here.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/helm")
}

/// One sum over the names and the bytes of every file of the chart.
fn sum() -> String {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![folder().join("weir")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(format!("{}\n", file.strip_prefix(folder()).unwrap().display()));
        hash.update(std::fs::read(&file).unwrap());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_chart_renders_to_a_live_runner_a_pod() {
    let text = std::fs::read_to_string(folder().join("rendered.yaml")).unwrap();
    let recorded = text.lines().find_map(|line| line.strip_prefix("# chart: ")).expect("the chart's sum");
    assert_eq!(recorded, sum(), "the chart has changed: run scripts/helm");
    let (plain, full) = text.split_once("# with everything on\n").expect("two renderings");
    for rendered in [plain, full] {
        for part in [
            "kind: Deployment",
            "path: /health",
            "readinessProbe:",
            "livenessProbe:",
            "name: WEIR_RUNNER_ORCHESTRATOR",
            "key: orchSecret",
            "value: \"http://$(POD_IP):8000\"",
            "name: WEIR_SERVE_DRAIN",
        ] {
            assert!(rendered.contains(part), "{part}");
        }
    }
    // The pod has the drain and a little more before it is killed.
    let number = |text: &str, key: &str| -> u64 {
        let line = text.lines().find(|line| line.trim_start().starts_with(key)).unwrap_or_else(|| panic!("{key}"));
        line.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    assert_eq!(number(plain, "terminationGracePeriodSeconds:"), 3600 + 15);
    assert_eq!(number(full, "terminationGracePeriodSeconds:"), 120 + 15);
    assert!(plain.contains("replicas: 1") && plain.contains("nvidia.com/gpu: 1"));
    assert!(!plain.contains("HorizontalPodAutoscaler") && !plain.contains("PodMonitor"));
    // Every setting that is given by a variable is one.
    let settings = std::fs::read_to_string(folder().join("../../config/weir.toml")).unwrap();
    let known: Vec<String> = variables(&settings);
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("- name: WEIR_")) {
        assert!(known.contains(&line.to_owned()), "WEIR_{line} is no setting");
    }
    for part in
        ["kind: HorizontalPodAutoscaler", "name: weir_supervisor_sessions", "kind: PodMonitor", "claimName: models"]
    {
        assert!(full.contains(part), "{part}");
    }
    assert!(!full.contains("replicas: "), "the autoscaler counts");
    let metrics = include_str!("../src/supervisor/metrics.rs");
    assert!(metrics.contains("gauge(\"sessions\"") && metrics.contains("weir_supervisor_"));
}

/// Variables of all settings of an example, without what stands before all of them.
fn variables(example: &str) -> Vec<String> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in example.lines().map(|line| line.trim_start_matches('#').trim()) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name.to_uppercase();
        } else if let Some((key, _)) = line.split_once(" = ") {
            found.push(format!("{table}_{}", key.to_uppercase()));
        }
    }
    found
}
