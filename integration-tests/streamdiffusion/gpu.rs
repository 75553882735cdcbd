//! The golden frames on the provider that `WEIR_GPU_CHECK` names; `scripts/gpu-check` sets it. Without it, on the CPU.

use serde_json::{Value, json};
use weir::frame::FramePool;
use weir::inference::{Config, Provider};
use weir::pipeline::{Applied, FrameProcessor, LoadContext, NoFetch, registry};

use super::pipeline::{check, library, show};
use super::{Golden, worst};

/// Signal to noise of half precision against the reference in single precision, in decibels.
const HALF: f64 = 40.0;

fn config() -> Config {
    let provider = match std::env::var("WEIR_GPU_CHECK").as_deref() {
        Ok("cuda") => Provider::Cuda,
        Ok("tensorrt") => Provider::Tensorrt,
        Ok("cpu") | Err(_) => Provider::Cpu,
        Ok(other) => panic!("WEIR_GPU_CHECK={other}: cpu, cuda or tensorrt are possible"),
    };
    let library = std::env::var_os("WEIR_INFERENCE_LIBRARY").map(Into::into);
    Config { provider, threads: 2, library, ..Config::default() }
}

fn load(config: &Config, params: Value) -> Box<dyn FrameProcessor> {
    let folder = tempfile::tempdir().expect("folder");
    let progress = |line: &str| eprintln!("  {line}");
    let cx = LoadContext {
        inference: config,
        models: folder.path().into(),
        pool: FramePool::new(4),
        progress: &progress,
        model: None,
        fetch: &NoFetch,
    };
    let loaded = registry::find("streamdiffusion").expect("registered").load(&cx, &check(params));
    loaded.unwrap_or_else(|error| panic!("{error}"))
}

fn psnr(got: &[f32], want: &[f32]) -> f64 {
    let error = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / got.len() as f64;
    10.0 * (255.0 * 255.0 / error.max(1e-12)).log10()
}

/// Runs eight frames of every mode of the list and compares the last with the reference's. Says the worst of each.
fn golden(config: &Config, precision: &str, modes: &[(usize, &str)]) {
    let lists = [json!([20]), json!([15, 32]), json!([12, 20, 32]), json!([5, 15, 25, 35])];
    for &(steps, kind) in modes {
        let golden = Golden::read(&format!("stream-{steps}-{kind}"));
        let params = |add_noise: bool| {
            let list = &lists[steps - 1];
            let more = json!({"t_index_list": list, "cfg_type": kind, "do_add_noise": add_noise});
            let mut params = library(more);
            params["precision"] = precision.into();
            params
        };
        let mut stream = load(config, params(true));
        for add_noise in [true, false] {
            assert_eq!(stream.apply(&check(params(add_noise))).expect("hot"), Applied::Now);
            stream.reset();
            let shown: Vec<_> = (0..8).map(|index| show(&mut *stream, index)).collect();
            let want = golden.get(&format!("{}/frame", u8::from(add_noise)));
            let (last, before) = (&shown[7], &shown[6]);
            let (off, near, far) = (worst(last, want), psnr(last, want), psnr(before, want));
            eprintln!(
                "golden {} {precision} {kind}, {steps} steps, noise {add_noise}: off by {off}, {near:.1} dB",
                config.provider
            );
            match precision {
                "fp32" => assert!(off <= 1.0, "off by {off} of 255"),
                _ => assert!(near >= HALF, "{near:.1} dB, {HALF} are needed"),
            }
            // The frame before would not pass.
            assert!(far < HALF, "the frame before would pass: {far:.1} dB");
        }
    }
}

#[test]
#[ignore = "run by scripts/gpu-check"]
fn gpu_golden_fp32() {
    let config = config();
    let kinds = ["none", "self", "initialize", "full"];
    let modes: Vec<_> = (1..=4).flat_map(|steps| kinds.map(|kind| (steps, kind))).collect();
    golden(&config, "fp32", &modes);
}

#[test]
#[ignore = "run by scripts/gpu-check"]
fn gpu_golden_fp16() {
    let config = config();
    let kinds = ["none", "self", "initialize", "full"];
    let modes: Vec<_> = (1..=4).flat_map(|steps| kinds.map(|kind| (steps, kind))).collect();
    golden(&config, "fp16", &modes);
}

#[test]
fn half_precision_passes_the_gate_of_the_gpu() {
    golden(&Config { threads: 2, ..Config::default() }, "fp16", &[(1, "none"), (2, "initialize")]);
}
