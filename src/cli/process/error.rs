//! What ends a run early.

use std::process::ExitCode;

use crate::media::MediaError;
use crate::pipeline::ParamError;

/// Why a file could not be processed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Flags that do not fit together.
    #[error("{0}")]
    Usage(String),
    /// A pipeline that this build does not have.
    #[error("there is no pipeline `{name}`; this build has {known}")]
    Pipeline {
        /// As given.
        name: String,
        /// Every name, with commas.
        known: String,
    },
    /// A parameter of the pipeline.
    #[error("--params: {0}")]
    Params(#[from] ParamError),
    /// The input is missing or no video.
    #[error("cannot read {path}: {reason}")]
    Input {
        /// As given.
        path: String,
        /// Why.
        reason: String,
    },
    /// Raw input that ends within a frame. The frames before it are in the output.
    #[error("{path} ends in the middle of frame {frame}: {got} of {want} bytes")]
    Truncated {
        /// As given.
        path: String,
        /// Counted from 0.
        frame: u64,
        /// Bytes that were there.
        got: usize,
        /// Bytes of a frame.
        want: usize,
    },
    /// The output cannot be written.
    #[error("cannot write {path}: {reason}")]
    Output {
        /// As given.
        path: String,
        /// Why.
        reason: String,
    },
    /// The pipeline did not load.
    #[error("the pipeline {name} cannot load: {reason}")]
    Load {
        /// Its name.
        name: String,
        /// What is missing.
        reason: String,
    },
    /// The pipeline failed on one frame. The frames before it are in the output.
    #[error("frame {frame}: {reason}")]
    Frame {
        /// Counted from 0.
        frame: u64,
        /// Why.
        reason: String,
    },
    /// A codec or converter failed.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The system has no thread to give, or one of ours broke.
    #[error("{0}")]
    System(String),
}

impl ProcessError {
    /// The exit code, after `sysexits.h`: 64 for what was asked, 66 for the input, 73 for the output, else 1.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::Pipeline { .. } | Self::Params(_) => 64,
            Self::Input { .. } | Self::Truncated { .. } => 66,
            Self::Output { .. } => 73,
            Self::Load { .. } | Self::Frame { .. } | Self::Media(_) | Self::System(_) => 1,
        })
    }
}
