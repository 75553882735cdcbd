//! `weir doctor`: what this machine has of what a runner needs, one line each, and what to do about what is missing.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Serialize;

use super::settings;
use crate::config::Config;

mod gpu;
mod machine;
mod work;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is there.
    Ok,
    /// It is not there, and nothing that is configured needs it.
    Unused,
    /// It is needed and not there.
    Missing,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    name: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do; empty when there is nothing to do.
    remedy: String,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), remedy: String::new() }
    }

    fn unused(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Unused, found: found.into(), remedy: String::new() }
    }

    fn missing(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Missing, found: found.into(), remedy: remedy.into() }
    }

    /// Missing if it is needed, else only worth a word.
    fn absent(name: &'static str, needed: bool, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        if needed { Self::missing(name, found, remedy) } else { Self::unused(name, found) }
    }

    fn line(&self) -> String {
        let word = match self.state {
            State::Ok => "ok",
            State::Unused => "-",
            State::Missing => "MISSING",
        };
        // One line each, whatever a library's message looks like.
        let found = self.found.split_whitespace().collect::<Vec<_>>().join(" ");
        let remedy = if self.remedy.is_empty() { String::new() } else { format!(" -> {}", self.remedy) };
        format!("{word:<8} {:<12} {found}{remedy}\n", self.name)
    }
}

pub(super) fn command() -> Command {
    let orchestrator = Arg::new("orchestrator")
        .long("orchestrator")
        .value_name("HOST:PORT")
        .help("Try whether this orchestrator can be reached.");
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON document.");
    let about = "Say what this machine has of what a runner needs. 0 if nothing is missing, 1 otherwise.";
    settings::arguments(Command::new("doctor").about(about).arg(orchestrator).arg(json))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let config = match settings::load(matches) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    crate::media::log_ffmpeg_errors(false);
    let findings = look(&config, matches.get_one::<String>("orchestrator").map(String::as_str));
    let ok = findings.iter().all(|finding| finding.state != State::Missing);
    if matches.get_flag("json") {
        super::print(&format!("{}\n", serde_json::json!({ "ok": ok, "checks": findings })));
    } else {
        findings.iter().for_each(|finding| super::print(&finding.line()));
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn look(config: &Config, orchestrator: Option<&str>) -> Vec<Finding> {
    let mut findings = vec![machine::weir()];
    findings.extend(gpu::look(config));
    findings.extend(work::look(config));
    findings.extend(machine::look(config, orchestrator));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_found_and_what_to_do() {
        assert_eq!(Finding::ok("port", "8000 is free").line(), "ok       port         8000 is free\n");
        let missing = Finding::missing("gpu", "no\n driver", "install one");
        assert_eq!(missing.line(), "MISSING  gpu          no driver -> install one\n");
        assert_eq!(Finding::absent("gpu", false, "none", "buy one").line(), "-        gpu          none\n");
        assert_eq!(Finding::absent("gpu", true, "none", "buy one").state, State::Missing);
    }

    #[test]
    fn every_check_reports_once_and_a_taken_port_is_missing() {
        let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let mut config = Config::default();
        config.supervisor.host = std::net::Ipv4Addr::LOCALHOST.into();
        config.supervisor.port = taken.local_addr().expect("address").port();
        config.engine.models = "/".into();
        let findings = look(&config, Some("127.0.0.1:1"));
        let state = |name| findings.iter().find(|finding| finding.name == name).expect(name).state;
        assert_eq!(state("port"), State::Missing);
        assert_eq!(state("orchestrator"), State::Missing);
        assert_eq!(state("decoder"), State::Ok);
        assert_eq!(state("pipeline"), State::Ok);
        let names: std::collections::BTreeSet<_> = findings.iter().map(|finding| finding.name).collect();
        assert_eq!(names.len(), findings.len());
    }

    #[test]
    fn engines_are_counted_where_they_are_kept() {
        let models = tempfile::tempdir().expect("a folder");
        let mut config = Config::default();
        config.engine.models = models.path().into();
        let engines = |config: &Config| {
            let findings = work::look(config);
            findings.into_iter().find(|finding| finding.name == "engines").expect("engines").line()
        };
        assert!(engines(&config).starts_with("-        engines      only the tensorrt"), "{}", engines(&config));
        config.engine.inference.provider = crate::inference::Provider::Tensorrt;
        assert!(engines(&config).starts_with("-        engines      none in"), "{}", engines(&config));
        let folder = models.path().join("weir--engines/stream-0");
        std::fs::create_dir_all(&folder).expect("a folder");
        let note = r#"{"key": {"name": "stream", "graph": "aa", "precision": "fp16", "frames": true, "tensorrt": 100600,
            "onnxruntime": "1.26.0", "capability": "8.9", "gpu": "NVIDIA L4"}, "files": [["a", 3221225472]], "built_s": 9}"#;
        std::fs::write(folder.join("engine.json"), note).expect("a note");
        assert!(
            engines(&config).starts_with("ok       engines      1 for NVIDIA L4, 3.0 GiB in"),
            "{}",
            engines(&config)
        );
    }

    #[test]
    fn what_a_pipeline_that_is_not_built_in_needs_is_said() {
        let mut config = Config::default();
        config.supervisor.model_id = "nothing".into();
        let findings = work::look(&config);
        let pipeline = findings.iter().find(|finding| finding.name == "pipeline").expect("pipeline");
        assert_eq!(pipeline.state, State::Missing);
        assert!(pipeline.remedy.contains("noop"), "{}", pipeline.remedy);
    }
}
