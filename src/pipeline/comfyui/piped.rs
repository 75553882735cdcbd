//! A pipeline as a stage of a workflow: `streamdiffusion`, for the nodes that stand for it.

use std::time::Duration;

use crate::frame::{Fingerprint, FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use crate::inference::InferenceError;
use crate::pipeline::streamdiffusion::{self, StreamDiffusion};
use crate::pipeline::{
    Applied, Checked, FrameProcessor, LoadContext, ParamError, Params, Pipeline, PipelineError, Provider,
};
use crate::workflow::lower::{Data, Piped};

/// A picture and what the pipeline makes of it.
const BUFFERS: usize = 2;

/// A pipeline that is loaded.
pub struct Piping {
    processor: Box<dyn FrameProcessor>,
    size: Size,
    pool: FramePool,
    /// What is in force.
    checked: Checked,
    /// What the seed −1 stands for.
    drawn: u64,
}

/// The parameters of `piped`, whole and checked.
pub fn check(piped: &Piped, mut params: Params) -> Result<Checked, ParamError> {
    let lora = params.get("use_lcm_lora") == Some(&true.into());
    let name = if lora { streamdiffusion::name_with_lora_of } else { streamdiffusion::name_of };
    let model = piped.model.as_ref().map_or(streamdiffusion::MADE_UP, |(_, family)| name(*family));
    params.insert("model_id".to_owned(), model.into());
    // The nodes that would ask for one are refused.
    params.insert("use_safety_checker".to_owned(), false.into());
    if params.get("seed") == Some(&(-1).into()) {
        params.insert("seed".to_owned(), piped.drawn.into());
    }
    let mut checked = streamdiffusion::check_in_any_order(&params)?;
    let [width, height] = piped.size;
    checked.size = Size::new(width, height);
    Ok(checked)
}

impl Piping {
    pub fn load(cx: &LoadContext<'_>, piped: &Piped, checked: Checked) -> Result<Self, PipelineError> {
        let pool = FramePool::new(BUFFERS);
        let model = piped.model.as_ref().map(|(path, _)| path.clone());
        let cx = LoadContext {
            inference: cx.inference,
            models: cx.models.clone(),
            model,
            pool: pool.clone(),
            progress: cx.progress,
            fetch: cx.fetch,
        };
        let processor = StreamDiffusion::PLAIN.load(&cx, &checked)?;
        let piping = Self { processor, size: checked.size, pool, checked, drawn: piped.drawn };
        if piping.has_drawn(&piping.checked) {
            piping.tell_drawn();
        }
        Ok(piping)
    }

    /// Whether the seed is the one that was drawn.
    fn has_drawn(&self, checked: &Checked) -> bool {
        checked.values.get("seed") == Some(&self.drawn.into())
    }

    fn tell_drawn(&self) {
        tracing::info!("Workflow: the seed -1 stands for {} until the workflow is loaded anew.", self.drawn);
    }

    /// Puts `checked` in force, and gives what was before. `None` when it needs another graph.
    pub fn turn(&mut self, checked: Checked) -> Result<Option<Checked>, PipelineError> {
        match self.processor.apply(&checked)? {
            Applied::NeedsReload => Ok(None),
            Applied::Now => {
                if self.has_drawn(&checked) && !self.has_drawn(&self.checked) {
                    self.tell_drawn();
                }
                Ok(Some(std::mem::replace(&mut self.checked, checked)))
            }
        }
    }

    /// Runs a frame: `from` becomes the bytes `to`, and where a second output is declared the f32 from 0 to 1 there.
    pub fn run(&mut self, from: Picture<'_>, to: &mut [u8], floats: Option<&mut Data>) -> Result<(), InferenceError> {
        let failed = |error: PipelineError| InferenceError::Run(error.to_string());
        let frame = VideoFrame::take(&self.pool, self.size, PixelFormat::Rgb24, Timestamp(0));
        let mut frame = frame.ok_or_else(|| InferenceError::Run("the pipeline keeps its frames".to_owned()))?;
        // The pipeline owns its frames, so the picture is copied in and out.
        match from {
            Picture::Bytes(bytes) if bytes.len() == frame.data.len() => frame.data.copy_from_slice(bytes),
            Picture::Floats(floats) if floats.len() == frame.data.len() => {
                for (byte, x) in frame.data.iter_mut().zip(floats) {
                    // A cast cuts off.
                    *byte = (x * 255.0).clamp(0.0, 255.0) as u8;
                }
            }
            // It looks at none.
            Picture::None => frame.data.fill(0),
            _ => return Err(InferenceError::Run("the pipeline is fed a picture of another size".to_owned())),
        }
        let out = self.processor.process(frame).map_err(failed)?;
        if to.len() != out.data.len() {
            return Err(InferenceError::Run("the pipeline gives a picture of another size".to_owned()));
        }
        to.copy_from_slice(&out.data);
        if let Some(Data::F32(floats)) = floats {
            for (x, byte) in floats.iter_mut().zip(out.data.iter()) {
                *x = f32::from(*byte) / 255.0;
            }
        }
        Ok(())
    }

    /// Whether the last frame gave the picture before once more.
    pub fn similar(&self) -> bool {
        self.processor.similar()
    }

    /// Where its graphs run.
    pub fn provider(&self) -> Option<Provider> {
        self.processor.provider()
    }

    /// The graph that it runs.
    pub fn graph(&self) -> Option<Fingerprint> {
        self.processor.graph()
    }

    /// Time that the GPU worked on the last frame, told once.
    pub fn gpu_time(&mut self) -> Option<Duration> {
        self.processor.gpu_time()
    }

    pub fn reset(&mut self) {
        self.processor.reset();
    }
}

/// What a stage is fed.
pub enum Picture<'a> {
    /// u8.
    Bytes(&'a [u8]),
    /// f32 from 0 to 1.
    Floats(&'a [f32]),
    /// Nothing: the pipeline looks at no picture.
    None,
}
