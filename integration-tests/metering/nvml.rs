//! What the driver's library tells of a GPU, from the library to the ledger and to `/metrics`, without a GPU: a library of
//! our own answers in its place.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use weir::cli::rig::call;
use weir::metering::ledger::{Body, GpuUse, read};

use super::{Plan, rig, runtime};

/// Builds the library of `nvml.c` and a program that runs weir with it.
fn program(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration-tests/metering/nvml.c");
    let library = folder.join("libnvidia-ml.so.1");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-w", "-o"]).arg(&library).arg(source).status().unwrap();
    assert!(built.success());
    let program = folder.join("weir");
    let (folder, weir) = (folder.display(), env!("CARGO_BIN_EXE_weir"));
    std::fs::write(&program, format!("#!/bin/sh\nLD_LIBRARY_PATH='{folder}' exec '{weir}' \"$@\"\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

fn metrics(text: &str) -> BTreeMap<String, f64> {
    let line = |line: &str| {
        let (kind, value) = line.strip_prefix("weir_gpu{gpu=\"0\",kind=\"")?.split_once("\"} ")?;
        Some((kind.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn energy_memory_and_use_of_a_gpu_are_in_the_ledger_and_in_the_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let plan = Plan { program: program(folder.path()), ..Plan::of("noop", json!({}), &[]) };
    let scraped = Mutex::new(String::new());
    let seconds = runtime().block_on(async {
        let _turn = super::TURN.lock().await;
        let rig = rig(&ledger, plan).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let (_, body) = call::request(rig.runner().address(), Method::GET, "/metrics", None).await.unwrap();
        *scraped.lock().unwrap() = String::from_utf8_lossy(&body).into_owned();
        rig.finish().await.unwrap().stream_ms / 1000.0
    });

    let mut uses: Vec<GpuUse> = Vec::new();
    read(&ledger, |found| {
        if let Body::Interval { gpu, .. } = found.entry.unwrap().body {
            uses.extend(gpu);
        }
        true
    })
    .unwrap();
    // The first interval of a stream has nothing to be compared with.
    assert!(uses.len() > 6 && uses[0].joules.is_none() && uses[0].busy_seconds.is_none(), "{uses:?}");
    assert!(uses.iter().all(|gpu| gpu.name == "Stand-in"));
    // A look costs a MiB and 7 J: what an interval says of memory and of energy must go together.
    let mib = |gpu: &GpuUse| gpu.memory_bytes >> 20;
    for pair in uses.windows(2) {
        let looks = mib(&pair[1]) - mib(&pair[0]);
        assert_eq!(pair[1].joules, Some(looks as f64 * 7.0), "{pair:?}");
    }
    let looks = mib(uses.last().unwrap()) - mib(&uses[0]);
    assert!(looks >= 4, "{looks}");
    // 40 % of the time between the first look and the last, which are a second apart each.
    let busy: f64 = uses.iter().filter_map(|gpu| gpu.busy_seconds).sum();
    assert!(busy > 0.4 * 3.5 && busy < 0.4 * (seconds + 0.5), "{busy} of {seconds}");

    let told = metrics(&scraped.lock().unwrap());
    for (kind, value) in [
        ("utilization_ratio", 0.4),
        ("memory_utilization_ratio", 0.15),
        ("encoder_ratio", 0.21),
        ("decoder_ratio", 0.32),
        ("memory_total_bytes", 1000.0 * 1_048_576.0),
        ("temperature_celsius", 61.0),
        ("power_watts", 72.5),
    ] {
        assert_eq!(told.get(kind), Some(&value), "{kind}: {told:?}");
    }
    let used = told["memory_used_bytes"] / 1_048_576.0 - 100.0;
    assert!(used >= 4.0 && told["energy_joules"] == used * 7.0, "{told:?}");
}
