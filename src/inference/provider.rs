//! What a provider is told.

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::bound::{Manner, Turn};
use super::engines::Engines;
use super::ffi::{on_stream, tensorrt_on_stream};
use super::memory::Memory;
use super::{Config, InferenceError, Load, Precision, Provider, Runtime};

/// Weights of a graph in files beside it, from which on TensorRT reads them there: one message could not hold them.
const LARGE: u64 = 1 << 30;

/// How a graph is run on a provider.
pub(super) fn manner(provider: Provider, frames: bool) -> Manner {
    match provider {
        Provider::Cpu => Manner { turn: Turn::Swap, captured: false },
        Provider::Cuda => Manner { turn: Turn::Swap, captured: frames },
        // It keeps one graph a session, whatever number a run gives.
        Provider::Tensorrt => Manner { turn: if frames { Turn::Copy } else { Turn::Swap }, captured: frames },
    }
}

/// A session's builder with its provider. `weights` are bytes in files beside the graph.
pub(super) fn builder(
    runtime: &Runtime,
    load: &Load<'_>,
    memory: &Memory,
    engines: Option<&Engines>,
    weights: u64,
) -> Result<SessionBuilder, InferenceError> {
    let config = load.config;
    let model = |error: &dyn std::fmt::Display| InferenceError::Model(error.to_string());
    let provider = |error: &dyn std::fmt::Display| InferenceError::Provider {
        provider: config.provider,
        message: on_one_line(&error.to_string()),
    };
    let mut builder = SessionBuilder::new(runtime.environment())
        .map_err(|error| model(&error))?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|error| model(&error))?
        // Frames come one at a time with pauses between them; spinning would burn a core through every pause.
        .with_intra_op_spinning(false)
        .map_err(|error| model(&error))?
        .with_no_environment_execution_providers()
        .map_err(|error| model(&error))?;
    if config.threads > 0 {
        builder = builder.with_intra_threads(config.threads as usize).map_err(|error| model(&error))?;
    }
    let device = i32::try_from(config.device).map_err(|error| provider(&error))?;
    // Named in every case, the CPU included, so that the runtime does not choose a provider itself.
    let mut providers = Vec::with_capacity(2);
    if config.provider == Provider::Tensorrt {
        let mut tensorrt = tensorrt(device, load, engines, weights);
        if let Memory::Cuda(stream) = memory {
            tensorrt = tensorrt_on_stream(tensorrt, stream);
        }
        providers.push(tensorrt.build().error_on_failure());
    }
    providers.push(match config.provider {
        // With an arena the buffers between operators stay; without one every frame asks the system for them anew.
        Provider::Cpu => ep::CPU::default().with_arena_allocator(true).build().error_on_failure(),
        Provider::Cuda | Provider::Tensorrt => {
            let mut cuda = cuda(device, load);
            if let Memory::Cuda(stream) = memory {
                cuda = on_stream(cuda, stream);
            }
            cuda.build().error_on_failure()
        }
    });
    builder = builder.with_execution_providers(providers).map_err(|error| provider(&error))?;
    if config.provider != Provider::Cpu && !load.mixed {
        builder = builder.with_disable_cpu_fallback().map_err(|error| provider(&error))?;
    }
    Ok(builder)
}

fn cuda(device: i32, load: &Load<'_>) -> ep::CUDA {
    ep::CUDA::default()
        .with_device_id(device)
        // Beside TensorRT it has nothing to capture.
        .with_cuda_graph(load.frames && load.config.provider == Provider::Cuda)
        // What is asked for in f32 is computed in f32.
        .with_tf32(false)
        // Doubling would take memory that nobody asked for.
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
}

fn tensorrt(device: i32, load: &Load<'_>, engines: Option<&Engines>, weights: u64) -> ep::TensorRT {
    let mut provider = ep::TensorRT::default()
        .with_device_id(device)
        // Without it, TensorRT computes a graph of f16 in f32.
        .with_fp16(load.precision == Precision::Fp16)
        // Sums over squares, which overflow in f16.
        .with_layer_norm_fp32_fallback(load.precision == Precision::Fp16)
        .with_cuda_graph(load.frames);
    if weights > LARGE {
        provider = provider.with_arbitrary_config("trt_load_user_initializer", "1");
    }
    if let Some(engines) = engines {
        provider = provider
            .with_engine_cache(true)
            .with_engine_cache_path(engines.folder().display())
            .with_engine_cache_prefix("weir")
            .with_timing_cache(true)
            .with_timing_cache_path(engines.timing().display());
    }
    provider
}

/// Loading on a GPU fails late for some causes: the provider registers and only the session finds that the driver or a
/// library is missing. Those are named as the provider's fault; a graph that is wrong is wrong on the CPU too.
pub(super) fn refused(config: &Config, error: &ort::Error) -> InferenceError {
    let message = error.to_string();
    let loading =
        ["CUDA", "cuda", "cudnn", "TensorRT", "tensorrt", "nvinfer"].iter().any(|word| message.contains(word));
    match config.provider {
        Provider::Cuda | Provider::Tensorrt if loading => {
            InferenceError::Provider { provider: config.provider, message: on_one_line(&message) }
        }
        _ => InferenceError::Model(message),
    }
}

/// The runtime's message on one line; where there is no driver to talk to, with what that means in front.
fn on_one_line(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // cudaErrorInsufficientDriver, which is also what no driver at all looks like, and cudaErrorNoDevice.
    let driverless = ["CUDA failure 35:", "CUDA failure 100:", "libcuda.so.1"].iter().any(|sign| line.contains(sign));
    if driverless {
        format!(
            "no NVIDIA driver that is new enough answers: install it; in a container, start it with --gpus all ({line})"
        )
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(provider: impl std::fmt::Debug) -> String {
        format!("{provider:?}")
    }

    #[test]
    fn frames_are_captured_on_the_provider_that_runs_them() {
        let config = Config { provider: Provider::Cuda, ..Config::default() };
        let frames = Load { frames: true, precision: Precision::Fp16, ..Load::new(&config) };
        let text = told(cuda(3, &frames));
        for (key, value) in [("device_id", "3"), ("enable_cuda_graph", "true"), ("use_tf32", "false")] {
            assert!(text.contains(&format!("{key:?}: {value:?}")), "{key} in {text}");
        }
        let plain = told(cuda(0, &Load::new(&config)));
        assert!(plain.contains("\"enable_cuda_graph\": \"false\""), "{plain}");
        assert_eq!(manner(Provider::Cuda, true), Manner { turn: Turn::Swap, captured: true });

        let config = Config { provider: Provider::Tensorrt, ..Config::default() };
        let frames = Load { frames: true, precision: Precision::Fp16, ..Load::new(&config) };
        assert!(told(cuda(0, &frames)).contains("\"enable_cuda_graph\": \"false\""));
        assert_eq!(manner(Provider::Tensorrt, true), Manner { turn: Turn::Copy, captured: true });
        assert!(!manner(Provider::Tensorrt, false).captured);
    }

    #[test]
    fn a_missing_driver_is_named_first_and_nothing_is_lost() {
        let told = "[ONNXRuntimeError] : Parse\n CUDA failure 35: CUDA driver version is insufficient ; GPU=-1 \n";
        let line = on_one_line(told);
        assert!(line.starts_with("no NVIDIA driver") && line.contains("--gpus all"), "{line}");
        assert!(line.contains("CUDA failure 35") && !line.contains('\n'), "{line}");
        assert_eq!(
            on_one_line("libcudnn.so.9: cannot open\n shared object file"),
            "libcudnn.so.9: cannot open shared object file"
        );
    }
}
