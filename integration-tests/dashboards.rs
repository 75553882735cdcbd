//! The dashboard and the alerts: every series that they name is one that a runner has, and promtool finds the rules good.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn config(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(config(path)).unwrap()
}

/// Names of metrics in a text: words that begin with `weir_`.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c)).filter(|name| name.starts_with("weir_")).map(str::to_owned).collect()
}

/// Every metric of a runner, by the snapshots that pin their names.
fn known() -> BTreeSet<String> {
    let source = |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let engine = names(&source("src/metering/metrics.snapshot"));
    let supervisor = names(&source("src/supervisor/metrics.rs"));
    engine.into_iter().chain(supervisor).collect()
}

fn check(file: &str, used: &BTreeSet<String>) {
    let known = known();
    assert!(used.len() > 5, "{file} names {used:?}");
    let unknown: Vec<&String> = used.iter().filter(|name| !known.contains(*name)).collect();
    assert!(unknown.is_empty(), "{file} names what no runner has: {unknown:?}");
}

#[test]
fn the_dashboard_shows_series_that_a_runner_has() {
    let dashboard: Value = serde_json::from_str(&text("grafana/weir.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut expressions = String::new();
    let mut places = BTreeSet::new();
    for panel in panels {
        assert!(panel["title"].is_string() && panel["gridPos"]["w"].as_u64().unwrap() <= 24, "{panel}");
        assert!(
            places.insert((panel["gridPos"]["x"].as_u64(), panel["gridPos"]["y"].as_u64())),
            "two panels at one place"
        );
        for target in panel["targets"].as_array().unwrap() {
            expressions += &format!("{}\n", target["expr"].as_str().unwrap());
        }
    }
    check("grafana/weir.json", &names(&expressions));
}

#[test]
fn the_alerts_watch_series_that_a_runner_has() {
    let rules: String = text("prometheus/alerts.yml").lines().filter(|line| !line.contains("description")).collect();
    check("prometheus/alerts.yml", &names(&rules));
}

#[test]
fn promtool_finds_configuration_and_rules_good() {
    let promtool =
        |arguments: &[&str]| Command::new("promtool").args(arguments).current_dir(config("prometheus")).output();
    if promtool(&["--version"]).is_err() {
        eprintln!("promtool is not there (Debian: apt install prometheus): the rules are NOT checked.");
        return;
    }
    for arguments in [
        &["check", "config", "scrape.yml"][..],
        &["check", "rules", "alerts.yml"],
        &["test", "rules", "alerts.test.yml"],
    ] {
        let output = promtool(arguments).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    }
}
