//! Settings of ONNX Runtime.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where graphs run. A provider that cannot load is an error; nothing falls back to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The CPU.
    #[default]
    Cpu,
    /// CUDA.
    Cuda,
    /// TensorRT, on CUDA.
    Tensorrt,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::Tensorrt => "tensorrt",
        })
    }
}

/// In what a graph computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// `f32`.
    #[default]
    Fp32,
    /// `f16`, with sums in `f32` where it matters.
    Fp16,
    /// Eight bits. No graph is built in it yet, so it is refused.
    Fp8,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Fp8 => "fp8",
        })
    }
}

/// Settings of ONNX Runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where graphs run.
    pub provider: Provider,
    /// Index of the GPU.
    pub device: u32,
    /// Threads of the CPU provider; 0 lets the runtime choose.
    pub threads: u32,
    /// Path of `libonnxruntime.so`; `None` looks in the usual places.
    pub library: Option<PathBuf>,
    /// Folder where TensorRT's engines and timings stay between runs; `None` builds them anew each time.
    pub engine_cache: Option<PathBuf>,
    /// Bytes that all engines may have together; those that were not used for longest go.
    pub engine_cache_size: usize,
    /// Bytes of graphs that run once, such as text encoders, and of what they made, that stay for the next workflow although
    /// nothing runs them. Those that were not used for longest go.
    pub folded_size: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            device: 0,
            threads: 0,
            library: None,
            engine_cache: None,
            engine_cache_size: 40 << 30,
            folded_size: 2 << 30,
        }
    }
}
