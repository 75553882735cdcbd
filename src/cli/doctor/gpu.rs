//! GPU and driver, asked by NVML; ONNX Runtime and its providers, tried with a small graph.

use std::ffi::OsStr;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::Finding;
use crate::config::Config;
use crate::frame::Size;
use crate::inference::{Config as Inference, InferenceError, Provider, Runtime, Session};
use crate::pipeline::invert;

/// The driver that came with CUDA 12.0; older ones cannot run what is built for CUDA 12.
const OLDEST_DRIVER: [u32; 3] = [525, 60, 13];
/// What to do where no driver answers.
const NO_DRIVER: &str = "install NVIDIA's driver; in a container, start it with --gpus all";

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let inference = &config.engine.inference;
    let needed = inference.provider != Provider::Cpu;
    let mut findings = match Nvml::builder().lib_path(OsStr::new("libnvidia-ml.so.1")).init() {
        Ok(nvml) => vec![gpu(&nvml, inference.device, needed), driver(&nvml, needed)],
        Err(error) => vec![
            Finding::absent("gpu", needed, "none: no NVIDIA driver answers", NO_DRIVER),
            Finding::absent("driver", needed, error.to_string(), NO_DRIVER),
        ],
    };
    findings.extend(providers(inference));
    findings
}

fn gpu(nvml: &Nvml, index: u32, needed: bool) -> Finding {
    let described = || -> Result<String, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let (memory, capability) = (device.memory_info()?, device.cuda_compute_capability()?);
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        Ok(format!(
            "{index}: {}, compute {}.{}, {:.1} of {:.1} GiB free",
            device.name()?,
            capability.major,
            capability.minor,
            gib(memory.free),
            gib(memory.total)
        ))
    };
    match described() {
        Ok(text) => Finding::ok("gpu", text),
        Err(error) => {
            let remedy = "name a GPU that is there: inference.device";
            Finding::absent("gpu", needed, format!("{index}: {error}"), remedy)
        }
    }
}

fn driver(nvml: &Nvml, needed: bool) -> Finding {
    let (Ok(version), Ok(cuda)) = (nvml.sys_driver_version(), nvml.sys_cuda_driver_version()) else {
        return Finding::absent("driver", needed, "does not tell its version", NO_DRIVER);
    };
    let found = format!("{version}, CUDA up to {}.{}", cuda / 1000, cuda % 1000 / 10);
    if new_enough(&version) {
        Finding::ok("driver", found)
    } else {
        Finding::absent("driver", needed, found, "CUDA 12 needs driver 525.60.13 or later")
    }
}

fn new_enough(version: &str) -> bool {
    let parts: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    parts.as_slice() >= OLDEST_DRIVER.as_slice()
}

/// ONNX Runtime, then the configured provider and the one it stands on.
fn providers(config: &Inference) -> Vec<Finding> {
    let runtime = match Runtime::load(config) {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::missing("onnxruntime", error.to_string(), "run scripts/setup")],
    };
    let mut findings =
        vec![Finding::ok("onnxruntime", format!("{} from {}", runtime.version(), runtime.path().display()))];
    let wanted: &[(Provider, &str)] = match config.provider {
        Provider::Cpu => &[(Provider::Cpu, "cpu")],
        Provider::Cuda => &[(Provider::Cuda, "cuda")],
        Provider::Tensorrt => &[(Provider::Cuda, "cuda"), (Provider::Tensorrt, "tensorrt")],
    };
    for &(provider, name) in wanted {
        let config = Inference { provider, ..config.clone() };
        findings.push(match works(runtime, &config) {
            Ok(()) => Finding::ok(name, "runs a graph"),
            Err(InferenceError::Missing { what, remedy, .. }) => Finding::missing(name, what, remedy),
            Err(error) => {
                Finding::missing(name, error.to_string(), "install what the message names, or use the cuda image")
            }
        });
    }
    findings
}

/// Whether a small graph loads; providers load their libraries only then.
fn works(runtime: &Runtime, config: &Inference) -> Result<(), InferenceError> {
    let graph = invert::graph(Size::new(64, 64)).and_then(|model| model.to_bytes());
    let graph = graph.map_err(|error| InferenceError::Model(error.to_string()))?;
    Session::from_bytes(runtime, config, &graph).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_versions_are_compared_by_number() {
        assert!(new_enough("525.60.13") && new_enough("525.105.17") && new_enough("550.54") && new_enough("1000.1"));
        assert!(!new_enough("525.60.11") && !new_enough("470.256.02") && !new_enough("") && !new_enough("unknown"));
    }
}
