//! What turns a frame into another frame.
//!
//! A [`Pipeline`] is a name, a check of parameters and a way to load; a [`FrameProcessor`] is the loaded thing, owned by
//! one thread. [`registry`] knows them all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::frame::{Fingerprint, FramePool, PixelFormat, Size, VideoFrame};
pub use crate::inference::Provider;

pub mod comfyui;
pub mod delay;
#[doc(hidden)]
pub mod fuzz;
pub mod invert;
pub mod noop;
pub mod overlay;
pub mod params;
pub mod registry;
pub mod streamdiffusion;

/// A JSON object of parameters, as it arrives with a start request or an update.
pub type Params = Map<String, Value>;

/// Why one parameter was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}{}{reason}", if field.is_empty() { "" } else { ": " })]
pub struct ParamError {
    /// The field's name, a dotted path for a nested one; empty where the reason says it all.
    pub field: String,
    /// What is wrong with it and what is expected.
    pub reason: String,
}

/// Parameters that passed the check of their pipeline, whole and with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// Size of the pictures that the pipeline takes, in pixels.
    pub size: Size,
    /// Factors by which those that it gives are larger, one after the other; none where they have the same size.
    pub enlarge: Vec<f64>,
    /// Whether the overlay is shown while the pipeline reloads.
    pub show_reloading_frame: bool,
    /// What the caller sent: what the status shows as `last_params`.
    pub given: Arc<Params>,
    /// Every field of the pipeline with its value, defaults included.
    pub values: Arc<Params>,
}

impl Checked {
    /// Size of the output in pixels: cut off to whole ones behind each factor.
    pub fn output(&self) -> Size {
        let larger = |side: u32, factor: &f64| (f64::from(side) * factor) as u32;
        let side = |side: u32| self.enlarge.iter().fold(side, larger);
        Size::new(side(self.size.width), side(self.size.height))
    }
}

/// How an update was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// In force from the next frame on.
    Now,
    /// Needs another graph: load a new processor with these parameters beside this one, then swap.
    NeedsReload,
}

/// Why a pipeline could not load or a frame could not be processed.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The model, its provider or its library could not be loaded. The text names what is missing.
    #[error("{0}")]
    Load(String),
    /// One frame failed; the next may succeed.
    #[error("{0}")]
    Frame(String),
    /// One frame failed, and the parameters say what is shown in its place.
    #[error("{reason}")]
    Instead {
        /// Why.
        reason: String,
        /// What is shown.
        show: Instead,
    },
    /// Parameters that only the loaded model can judge are wrong; nothing was changed.
    #[error(transparent)]
    Params(#[from] ParamError),
}

/// What became of the parts of a pipeline that run once, such as text encoders, and may be kept from one load to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Folded {
    /// Graphs that were kept from before.
    pub graphs_kept: u64,
    /// Graphs that were loaded.
    pub graphs_made: u64,
    /// Results that were kept from before.
    pub results_kept: u64,
    /// Results that a graph ran for.
    pub results_made: u64,
    /// Seconds that loading and running them took.
    pub seconds: f64,
    /// Bytes that are kept now, also by other instances; an estimate.
    pub bytes: u64,
}

/// What is shown in place of a frame that failed.
#[derive(Debug)]
pub enum Instead {
    /// The overlay.
    Overlay,
    /// This picture, which the model did not make.
    Picture(Box<VideoFrame>),
}

/// Fetches what parameters name by URL.
pub trait Fetch: Sync {
    /// The bytes at `url`, which is `http` or `https`. `None` when they cannot be had and whatever asks is to go on without them
    /// for now; why has been told then.
    ///
    /// # Errors
    /// Why there are none, for people.
    fn fetch(&self, url: &str) -> Result<Option<Vec<u8>>, String>;
}

/// Fetches nothing.
pub struct NoFetch;

impl Fetch for NoFetch {
    fn fetch(&self, _: &str) -> Result<Option<Vec<u8>>, String> {
        Err("nothing is fetched here; give the picture itself, as a data URI".to_owned())
    }
}

/// What a pipeline needs to load.
pub struct LoadContext<'a> {
    /// Where the graph runs: `cpu`, `cuda` or `tensorrt`.
    pub inference: &'a crate::inference::Config,
    /// Root of the models, `/models` in a container.
    pub models: PathBuf,
    /// Where the weights of the pipeline's model are, a folder or a file, if not below `models` under its name.
    pub model: Option<PathBuf>,
    /// Where output pictures come from.
    pub pool: FramePool,
    /// Called with one line whenever loading reaches a new step.
    pub progress: &'a (dyn Fn(&str) + Send + Sync),
    /// Fetches what parameters name by URL.
    pub fetch: &'a dyn Fetch,
}

impl LoadContext<'_> {
    /// Where TensorRT's engines are kept: where the configuration says, or below the models.
    pub fn engines(&self) -> PathBuf {
        crate::inference::engine_folder(self.inference, &self.models)
    }
}

/// A model that a pipeline takes for its own parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelUse {
    /// Its name: `ORG/NAME`.
    pub id: &'static str,
    /// What for.
    pub what: String,
    /// Whether the pipeline cannot be loaded without it.
    pub required: bool,
}

/// A kind of pipeline: light, shared, and able to judge parameters without a device.
pub trait Pipeline: Send + Sync {
    /// The name that requests use as `model_id`.
    fn name(&self) -> &'static str;

    /// One sentence for people.
    fn about(&self) -> &'static str;

    /// The parameters to load with before the first stream asks for any.
    fn initial(&self) -> Params {
        Params::new()
    }

    /// As [`Self::initial`], with what lies below `models`, and a sentence for each thing that is left out.
    fn preset(&self, models: &Path) -> (Params, Vec<String>) {
        let _ = models;
        (self.initial(), Vec::new())
    }

    /// The models that [`Self::preset`] takes where they are there.
    fn models(&self) -> Vec<ModelUse> {
        Vec::new()
    }

    /// The sets of parameters to load when a machine is prepared for `params` on `provider`: these, and others that streams
    /// are likely to ask for and that would take long to load then.
    fn preparations(&self, params: &Params, _provider: Provider) -> Vec<Params> {
        vec![params.clone()]
    }

    /// JSON Schema (2020-12) of the parameters: an object whose `properties` carry `type`, `title`, `description`,
    /// `default` and bounds. Pages make their controls from it.
    fn schema(&self) -> Value;

    /// Checks `params` as a whole. Takes under a millisecond and touches no device.
    ///
    /// # Errors
    /// The first field that is wrong, and why. Nothing is changed.
    fn check(&self, params: &Params) -> Result<Checked, ParamError>;

    /// What an update makes of the parameters in force. It is the update itself, unless the pipeline knows updates that name
    /// only a part. `models` is the root of the models, for what only files can tell.
    ///
    /// # Errors
    /// The first field that is wrong, and why. Nothing is changed.
    fn follow(&self, current: &Params, update: Params, models: &Path) -> Result<Params, ParamError> {
        let _ = (current, models);
        Ok(update)
    }

    /// What only files can tell of checked parameters, before a stream starts with them: whether every model is there.
    ///
    /// # Errors
    /// The field that asks for what is not there.
    fn ready(&self, checked: &Checked, models: &Path) -> Result<(), ParamError> {
        let _ = (checked, models);
        Ok(())
    }

    /// Whether sound of a stream with these parameters goes through the loaded pipeline ([`FrameProcessor::audio`]). Until that
    /// is there, none is sent.
    fn takes_audio(&self, params: &Checked) -> bool {
        let _ = params;
        false
    }

    /// Loads the model and runs it once, so that the first frame of a stream is as fast as the next.
    /// Blocks; call it on a thread of its own.
    ///
    /// # Errors
    /// [`PipelineError::Load`] with what is missing.
    fn load(&self, cx: &LoadContext<'_>, params: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError>;
}

/// Something that has to be made before a processor can take certain parameters, and is less than another processor.
pub type Preparation = Box<dyn FnOnce(&LoadContext<'_>) -> Result<(), PipelineError> + Send>;

/// A loaded pipeline. Lives on one thread from its first frame on; that thread owns every device session.
pub trait FrameProcessor: Send {
    /// The layout that [`Self::process`] wants and gives.
    fn format(&self) -> PixelFormat;

    /// Takes new parameters between two frames.
    ///
    /// # Errors
    /// [`PipelineError::Params`]; the old parameters stay in force.
    fn apply(&mut self, params: &Checked) -> Result<Applied, PipelineError>;

    /// What has to be made before [`Self::apply`] can take `params`, where that answers [`Applied::NeedsReload`] and less than
    /// another processor will do. It runs on another thread while frames go on; when it is done the parameters are applied
    /// again. `None` when another processor is needed.
    fn preparation(&mut self, params: &Checked) -> Option<Preparation> {
        let _ = params;
        None
    }

    /// Turns one frame into the next output. Size and layout are those of the parameters in force; `pts`, `seq` and
    /// `stamps` pass through.
    ///
    /// # Errors
    /// [`PipelineError::Frame`]; the processor stays usable.
    fn process(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError>;

    /// Whether the last call of [`Self::process`] gave the picture before once more, because its frame was too similar to the
    /// one before.
    fn similar(&self) -> bool {
        false
    }

    /// Whether the last call of [`Self::process`] gave another picture than it made, because that one is not to be shown.
    fn withheld(&self) -> bool {
        false
    }

    /// What the parameters in force ask for and has no effect here, although whoever asks would expect one: for the log and
    /// the status.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Where its graphs run, each of them, as loaded; `None` where it has no graph.
    fn provider(&self) -> Option<Provider> {
        None
    }

    /// The graph, or graphs, that [`Self::process`] runs; `None` where there is none.
    fn graph(&self) -> Option<Fingerprint> {
        None
    }

    /// Time that the GPU worked in the last call of [`Self::process`], told once; `None` where no GPU did.
    fn gpu_time(&mut self) -> Option<Duration> {
        None
    }

    /// What became of the parts that do not run for every frame, since the last call.
    fn folded(&mut self) -> Folded {
        Folded::default()
    }

    /// Texts that came up since the last call, oldest first; they leave by the data channel.
    fn texts(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// What works on the sound of the stream, which goes to another thread; it follows [`Self::apply`]. `None` where sound
    /// passes as it is.
    fn audio(&mut self) -> Option<Box<dyn AudioProcessor>> {
        None
    }

    /// Forgets everything that frames left behind, so that the next stream starts clean. The model stays loaded.
    fn reset(&mut self);
}

/// The part of a loaded pipeline that works on sound. Lives on the stream's sound thread.
pub trait AudioProcessor: Send {
    /// Samples of each channel in the next block, where there are `rate` a second.
    fn block(&self, rate: u32) -> usize;

    /// Changes a block in place: interleaved samples of `channels`, `rate` a second, from −1 to 1. A block before a gap, and
    /// the last one, is shorter than [`Self::block`].
    ///
    /// # Errors
    /// [`PipelineError::Frame`]; the processor stays usable.
    fn process(&mut self, samples: &mut [f32], channels: u8, rate: u32) -> Result<(), PipelineError>;
}
