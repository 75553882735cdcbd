//! A loaded workflow.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::params::{self, Fallback};
use super::piped::{self, Piping};
use super::run::{Stages, Turn, Write};
use super::sound::{Settings, Way};
use crate::frame::{Fingerprint, FramePool, PixelFormat, Size, VideoFrame};
use crate::graph::DType;
use crate::inference::{InferenceError, Provider, Runtime};
use crate::pipeline::{
    Applied, AudioProcessor, Checked, Folded, FrameProcessor, Instead, LoadContext, ParamError, PipelineError,
};
use crate::workflow::lower::{EncodeError, Env, INLINE, LiveTensor, Piped, Sound, Text, WidgetRef, lower};
use crate::workflow::{Change, Plan, change};

/// A workflow whose graphs are loaded.
pub struct Workflow {
    plan: Plan,
    size: Size,
    stages: Stages,
    /// Whether the workflow gives pictures; else they pass through.
    shows: bool,
    /// Every live port: stage, port, and what it follows.
    live: Vec<(usize, usize, LiveTensor)>,
    /// Every stage that is a pipeline.
    pipelines: Vec<(usize, Piped)>,
    shaping: HashSet<WidgetRef>,
    /// What becomes of the sound, and the settings that its thread reads.
    sound: Option<(Sound, Arc<Settings>)>,
    /// Texts that leave, each with the one that left last.
    texts: Vec<(Text, Option<String>)>,
    /// Whether a text may be another one.
    unsaid: bool,
    fallback: Fallback,
    pool: FramePool,
}

/// Why new settings are not tensor writes.
enum Refit {
    Graph,
    Wrong(ParamError),
}

fn failed(error: impl std::fmt::Display) -> PipelineError {
    PipelineError::Load(error.to_string())
}

fn frame_error(error: InferenceError) -> PipelineError {
    PipelineError::Frame(error.to_string())
}

impl Workflow {
    pub fn load(cx: &LoadContext<'_>, checked: &Checked) -> Result<Self, PipelineError> {
        let plan = params::plan_of(checked)?;
        let missing = plan.missing(&cx.models);
        if !missing.is_empty() {
            return Err(params::wrong("prompt", &crate::workflow::Refused(missing)).into());
        }
        (cx.progress)("loading ONNX Runtime");
        let runtime = Runtime::load(cx.inference).map_err(failed)?;
        let scratch = Scratch::new(&cx.models);
        let size = checked.size;
        let env = Env {
            size: [size.width, size.height],
            models: cx.models.clone(),
            input: cx.models.join("input"),
            precision: if cx.inference.provider == Provider::Cpu { DType::F32 } else { DType::F16 },
            inline: INLINE,
            weights: graphs(&cx.models),
            scratch: scratch.0.clone(),
            progress: &|line| (cx.progress)(line),
        };
        (cx.progress)("building the graph");
        let lowered = lower(&plan, &env).map_err(|refused| params::wrong("prompt", &refused))?;
        let live: Vec<_> = lowered.live().map(|(stage, port, live)| (stage, port, live.clone())).collect();
        let writes = encode(&plan, live.iter()).map_err(unfit)?;
        let pipelines: Vec<_> = lowered.pipelines().map(|(stage, piped)| (stage, piped.clone())).collect();
        let shaping = lowered.shaping.clone();
        let sound = lowered.sound.clone().map(|sound| {
            let settings = Arc::new(Settings::of(&sound, &plan));
            (sound, settings)
        });
        let texts = lowered.texts.iter().map(|text| (text.clone(), None)).collect();
        for note in plan.notes.iter().chain(&lowered.notes) {
            tracing::info!("Workflow: {note}.");
        }
        let mut loaded = HashMap::new();
        for (stage, checked) in checked_of(&plan, pipelines.iter()).map_err(unfit)? {
            if let Some((_, piped)) = pipelines.iter().find(|(at, _)| *at == stage) {
                loaded.insert(stage, Piping::load(cx, piped, checked)?);
            }
        }
        (cx.progress)("loading the graph");
        let shows = lowered.shown.is_some();
        let stages = Stages::load(runtime, cx.inference, env.precision, lowered, &scratch.0, writes, loaded);
        let stages = stages.map_err(failed)?;
        let folded = stages.counts.now();
        tracing::info!(
            kept = folded.results_kept,
            run = folded.results_made,
            "Stages that run once: taken from what was kept, and run."
        );
        let mut workflow = Self {
            plan,
            size,
            stages,
            shows,
            live,
            pipelines,
            shaping,
            sound,
            texts,
            unsaid: true,
            fallback: params::fallback_of(checked),
            pool: cx.pool.clone(),
        };
        (cx.progress)("running it once");
        let bytes = PixelFormat::Rgb24.bytes(size);
        if shows {
            workflow.stages.frame(&vec![0; bytes], &mut vec![0; bytes]).map_err(failed)?;
        }
        workflow.reset();
        Ok(workflow)
    }

    /// The tensors and the pipelines' parameters that follow any of `widgets`, for the settings of `plan`.
    fn writes(&self, plan: &Plan, widgets: &[WidgetRef]) -> Result<(Vec<Write>, Vec<Turn>), Refit> {
        if widgets.iter().any(|widget| self.shaping.contains(widget)) {
            return Err(Refit::Graph);
        }
        let follows = |these: &[WidgetRef]| these.iter().any(|at| widgets.contains(at));
        let writes = encode(plan, self.live.iter().filter(|(.., live)| follows(&live.widgets)))?;
        let turned = checked_of(plan, self.pipelines.iter().filter(|(_, piped)| follows(&piped.params.widgets)))?;
        Ok((writes, turned))
    }
}

fn unfit(refit: Refit) -> PipelineError {
    match refit {
        Refit::Wrong(error) => error.into(),
        Refit::Graph => failed("the settings do not fit the graph that was made for them"),
    }
}

/// What `error` is of the node that `widget` belongs to.
fn refit(plan: &Plan, widget: Option<&WidgetRef>, error: EncodeError) -> Refit {
    match error {
        EncodeError::Graph => Refit::Graph,
        EncodeError::Wrong(reason) => {
            let node = widget.and_then(|at| plan.nodes.get(at.node));
            let place = node.map(|node| format!("node {} ({}): ", node.id, node.class.name)).unwrap_or_default();
            Refit::Wrong(ParamError { field: "prompt".to_owned(), reason: format!("{place}{reason}") })
        }
    }
}

/// The checked parameters of `pipelines`.
fn checked_of<'a>(plan: &Plan, pipelines: impl Iterator<Item = &'a (usize, Piped)>) -> Result<Vec<Turn>, Refit> {
    let one = |(stage, piped): &(usize, Piped)| {
        let params = piped.params.encode(plan);
        let checked = params
            .and_then(|params| piped::check(piped, params).map_err(|error| EncodeError::Wrong(error.to_string())));
        // The sampler's own widgets come last.
        checked.map(|checked| (*stage, checked)).map_err(|error| refit(plan, piped.params.widgets.last(), error))
    };
    pipelines.map(one).collect()
}

fn encode<'a>(plan: &Plan, ports: impl Iterator<Item = &'a (usize, usize, LiveTensor)>) -> Result<Vec<Write>, Refit> {
    let write = |(stage, port, live): &(usize, usize, LiveTensor)| match live.encode(plan) {
        Ok(data) => Ok((*stage, *port, data)),
        Err(error) => Err(refit(plan, live.widgets.first(), error)),
    };
    ports.map(write).collect()
}

impl FrameProcessor for Workflow {
    fn format(&self) -> PixelFormat {
        // Pictures that only pass are not converted.
        if self.shows { PixelFormat::Rgb24 } else { PixelFormat::I420 }
    }

    fn apply(&mut self, checked: &Checked) -> Result<Applied, PipelineError> {
        if checked.size != self.size {
            return Ok(Applied::NeedsReload);
        }
        let plan = params::plan_of(checked)?;
        let Change::Widgets(widgets) = change(&self.plan, &plan) else { return Ok(Applied::NeedsReload) };
        match self.writes(&plan, &widgets) {
            Ok((writes, turned)) => {
                let Some(old) = self.stages.turn(turned)? else { return Ok(Applied::NeedsReload) };
                if let Err(error) = self.stages.write(writes) {
                    self.stages.turn_back(old);
                    return Err(frame_error(error));
                }
                if let Some((sound, settings)) = &self.sound {
                    settings.follow(sound, &plan);
                }
                self.plan = plan;
                self.unsaid = true;
                self.fallback = params::fallback_of(checked);
                Ok(Applied::Now)
            }
            Err(Refit::Graph) => Ok(Applied::NeedsReload),
            Err(Refit::Wrong(error)) => Err(error.into()),
        }
    }

    fn process(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError> {
        if !self.shows {
            return Ok(frame);
        }
        if frame.size != self.size || frame.format != PixelFormat::Rgb24 {
            let reason = format!("a frame of {} {:?} came, {} RGB is needed", frame.size, frame.format, self.size);
            return Err(PipelineError::Frame(reason));
        }
        let mut out = VideoFrame::take(&self.pool, frame.size, frame.format, frame.pts)
            .ok_or_else(|| PipelineError::Frame("every picture buffer is in use".to_owned()))?;
        (out.seq, out.color, out.stamps) = (frame.seq, frame.color, frame.stamps);
        match self.stages.frame(&frame.data, &mut out.data) {
            Ok(()) => Ok(out),
            Err(error) => Err(instead(self.fallback, error.to_string(), frame, out)),
        }
    }

    fn similar(&self) -> bool {
        self.stages.similar()
    }

    fn provider(&self) -> Option<Provider> {
        self.stages.provider()
    }

    fn texts(&mut self) -> Vec<String> {
        if !std::mem::take(&mut self.unsaid) {
            return Vec::new();
        }
        let Self { texts, plan, .. } = self;
        let another = texts.iter_mut().filter_map(|(text, said)| {
            let now = text.get(plan);
            let another = now != *said;
            said.clone_from(&now);
            now.filter(|_| another)
        });
        another.collect()
    }

    fn audio(&mut self) -> Option<Box<dyn AudioProcessor>> {
        let (sound, settings) = self.sound.as_ref()?;
        Some(Box::new(Way::new(sound, settings.clone())))
    }

    fn graph(&self) -> Option<Fingerprint> {
        self.stages.graph()
    }

    fn gpu_time(&mut self) -> Option<Duration> {
        self.stages.gpu_time()
    }

    fn folded(&mut self) -> Folded {
        self.stages.counts.take()
    }

    fn reset(&mut self) {
        self.stages.reset();
        self.texts.iter_mut().for_each(|(_, said)| *said = None);
        self.unsaid = true;
    }
}

/// The error of a frame, with what is shown in its place.
fn instead(fallback: Fallback, reason: String, frame: VideoFrame, mut out: VideoFrame) -> PipelineError {
    let show = match fallback {
        Fallback::Hold => return PipelineError::Frame(reason),
        Fallback::Overlay => Instead::Overlay,
        Fallback::Passthrough => Instead::Picture(Box::new(frame)),
        Fallback::Black => {
            out.data.fill(0);
            Instead::Picture(Box::new(out))
        }
    };
    PipelineError::Instead { reason, show }
}

/// Where graphs and their weights are put below the models.
fn graphs(models: &Path) -> PathBuf {
    models.join("weir--graphs")
}

/// A folder of one load, which is removed with it; what a session has mapped stays until the session ends.
struct Scratch(PathBuf);

static FOLDERS: AtomicU64 = AtomicU64::new(0);

impl Scratch {
    fn new(models: &Path) -> Self {
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        Self(graphs(models).join(format!("workflow-{}-{number}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::frame::Timestamp;

    #[test]
    fn the_camera_is_shown_only_when_that_was_asked_for() {
        let pool = FramePool::new(4);
        let picture = |byte: u8| {
            let mut frame = VideoFrame::take(&pool, Size::new(4, 4), PixelFormat::Rgb24, Timestamp(0)).unwrap();
            frame.data.fill(byte);
            frame
        };
        let shown = |fallback| match instead(fallback, "why".into(), picture(200), picture(100)) {
            PipelineError::Instead { show: Instead::Picture(frame), .. } => Some(frame.data[0]),
            _ => None,
        };
        assert_eq!(shown(Fallback::Passthrough), Some(200));
        assert_eq!(shown(Fallback::Black), Some(0));
        assert_eq!((shown(Fallback::Hold), shown(Fallback::Overlay)), (None, None));
    }
}
