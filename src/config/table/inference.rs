//! Where and how graphs run: `inference`.

use super::Setting;
use super::row;
use crate::config::values::{maybe_path, plain, size, within, word};

/// The rows, in the order of the file.
pub(super) const ROWS: &[Setting] = &[
    row!(
        "inference.provider",
        None,
        word,
        engine.inference.provider,
        Ok::<_, String>,
        "Where graphs run: `cpu`, `cuda` or `tensorrt`. Nothing falls back to another."
    ),
    row!("inference.device", None, plain, engine.inference.device, |index| within(index, 0, 255), "Index of the GPU."),
    row!(
        "inference.threads",
        None,
        plain,
        engine.inference.threads,
        |count| within(count, 0, 1024),
        "Threads of the CPU provider; 0 lets the runtime choose."
    ),
    row!(
        "inference.library",
        None,
        maybe_path,
        engine.inference.library,
        Ok::<_, String>,
        "Path of `libonnxruntime.so`; empty looks in the usual places."
    ),
    row!(
        "inference.engine_cache",
        None,
        maybe_path,
        engine.inference.engine_cache,
        Ok::<_, String>,
        "Folder in which TensorRT's engines are kept; empty for `weir--engines` below the models."
    ),
    row!(
        "inference.engine_cache_size",
        None,
        size,
        engine.inference.engine_cache_size,
        |bytes| within(bytes, 1 << 20, 1 << 44),
        "Bytes that all kept engines may have together; those that were not used for longest are removed."
    ),
    row!(
        "inference.folded_size",
        None,
        size,
        engine.inference.folded_size,
        |bytes| within(bytes, 0, 1 << 44),
        "Bytes of text encoders and other graphs of workflows that run once, with what they made, which are kept for the next workflow; 0 keeps what is in use only."
    ),
];
