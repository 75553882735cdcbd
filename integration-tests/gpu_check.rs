//! `scripts/gpu-check` and the command behind it, as far as they go without a GPU.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the script on a machine whose driver's tool answers nothing.
fn script(arguments: &[&str]) -> Output {
    let tools = tempfile::tempdir().expect("folder");
    let tool = tools.path().join("nvidia-smi");
    std::fs::write(&tool, "#!/bin/sh\necho no driver >&2\nexit 9\n").expect("tool");
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").expect("PATH"));
    Command::new(root().join("scripts/gpu-check")).args(arguments).env("PATH", path).output().expect("bash")
}

fn left_behind() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(".weir")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.display().to_string().contains("gpu-check.")).collect()
}

#[test]
fn a_machine_without_a_gpu_is_told_in_one_line_and_by_its_own_code() {
    for provider in ["both", "cuda", "tensorrt"] {
        let out = script(&["--provider", provider]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(3), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("no NVIDIA GPU answers") && out.stdout.is_empty(), "{said}");
    }
    assert!(left_behind().is_empty(), "{:?}", left_behind());
}

#[test]
fn wrong_usage_is_told_apart_and_help_is_there() {
    for wrong in [&["--provider", "cpx"][..], &["--cuda", "11"], &["--nonsense"]] {
        let out = script(wrong);
        assert_eq!(out.status.code(), Some(64), "{wrong:?}");
        assert!(String::from_utf8_lossy(&out.stderr).starts_with("Usage: scripts/gpu-check"), "{wrong:?}");
    }
    let help = script(&["--help"]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("Exit: 0 when"));
}

#[test]
fn the_times_of_small_models_on_the_cpu_are_no_result_for_a_gpu() {
    let work = tempfile::tempdir().expect("folder");
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["gpu-check", "--quick", "--frames", "2", "--work"]).arg(work.path()).args(more);
        let out = command.output().expect("weir");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text")
    };
    let json: serde_json::Value = serde_json::from_str(&run(&["--json"])).expect("JSON");
    assert_eq!(json["machine"]["gpu"], serde_json::Value::Null);
    let rows = json["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!((&row["provider"], &row["precision"]), (&"cpu".into(), &"fp32".into()));
        let ms = |name: &str| row[name].as_f64().expect("a number");
        let parts = ms("encode_ms").min(ms("predict_ms")).min(ms("decode_ms"));
        assert!(parts > 0.0 && ms("frame_ms") > 0.0 && ms("frame_p95_ms") >= ms("frame_ms"), "{row}");
        assert!(row["share"].is_null() && row["needed"].as_u64().is_some_and(|bytes| bytes > 100_000), "{row}");
    }
    let text = run(&[]);
    assert!(text.contains("no result for any GPU") && text.contains("| small model, 1 step | cpu fp32 |"), "{text}");
    let left = std::fs::read_dir(work.path()).expect("folder").count();
    assert_eq!(left, 0, "graphs and weights are removed");
}

#[test]
fn a_provider_that_is_not_there_ends_the_check() {
    let out = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["gpu-check", "--quick", "--inference-provider", "cuda"])
        .output()
        .expect("weir");
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("gpu-check: ") && out.stdout.is_empty(), "{said}");
}
