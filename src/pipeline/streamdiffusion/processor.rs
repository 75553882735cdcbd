//! The loaded pipeline: one graph a frame, its numbers held as tensors, its state carried from run to run.

use std::time::Duration;

use super::gather::Gather;
use super::noise::{Fresh, noise};
use super::params::{Live, Settings};
use super::similar::Filter;
use super::text::{Embedding, Prompts, TOKENS};
use crate::frame::{Fingerprint, FramePool, PixelFormat, VideoFrame};
use crate::inference::{InferenceError, Input, Output, Provider, Session};
use crate::models::schedule::{LIVE_GRID, Schedule};
use crate::models::stream::StreamConfig;
use crate::pipeline::{Applied, Checked, FrameProcessor, PipelineError};

/// What a model gives to its stream.
pub(super) struct Parts {
    pub session: Session,
    pub config: StreamConfig,
    pub schedule: Schedule,
    pub prompts: Prompts,
    pub filter: Option<Filter>,
}

/// A loaded stream.
pub(super) struct Stream {
    session: Session,
    config: StreamConfig,
    schedule: Schedule,
    prompts: Prompts,
    filter: Option<Filter>,
    ports: Ports,
    settings: Settings,
    pool: FramePool,
    gather: Gather,
    /// The last picture, for frames that are skipped.
    last: Vec<u8>,
    /// Whether the last frame was skipped.
    skipped: bool,
    /// Whether the rows under way belong to other frames or numbers, and are to be filled from the next frame.
    refill: bool,
    /// Where the numbers below come from.
    fresh: Fresh,
    /// What a call begins with in place of frames; empty where it takes frames.
    latent: Vec<f32>,
    /// What a call's encoder draws; empty where it draws nothing.
    vae_noise: Vec<f32>,
}

struct Ports {
    /// `None` where pictures begin with noise: then there is a latent.
    frame: Option<Input<u8>>,
    latent: Option<Input<f32>>,
    vae_noise: Option<Input<f32>>,
    out: Output<u8>,
    context: Input<f32>,
    timestep: Input<f32>,
    coefficients: [Input<f32>; 4],
    /// `None` where one step begins with noise of its own.
    init_noise: Option<Input<f32>>,
    /// State, carried from run to run, that another seed makes void.
    stock_noise: Option<Input<f32>>,
    guidance_scale: Option<Input<f32>>,
    delta: Option<Input<f32>>,
    add_noise: Option<Input<f32>>,
    pooled: Option<(Input<f32>, Input<f32>)>,
    /// `None` where the graph makes the picture of the frame.
    conds: Vec<Option<Input<u8>>>,
    scales: Vec<Input<f32>>,
}

const STATE: [&str; 2] = ["x_t_buffer", "stock_noise"];

/// The numbers of one [`Live`], ready to be held; made whole before any of it is in force.
struct Numbers {
    steps: crate::models::schedule::Steps,
    positive: Embedding,
    negative: Embedding,
    noise: Option<Vec<f32>>,
}

fn frame_error(error: InferenceError) -> PipelineError {
    PipelineError::Frame(error.to_string())
}

fn load_error(error: InferenceError) -> PipelineError {
    PipelineError::Load(error.to_string())
}

impl Stream {
    pub fn new(parts: Parts, settings: Settings, pool: FramePool) -> Result<Self, PipelineError> {
        let Parts { mut session, config, schedule, prompts, filter } = parts;
        let ports = Ports::find(&mut session, &config).map_err(load_error)?;
        let pixels = PixelFormat::Rgb24.bytes(settings.shape.size);
        let [h, w] = config.latent();
        let latent = (config.frame_buffer * config.unet.out_channels * h * w) as usize;
        let room = |there: bool| vec![0.0; if there { latent } else { 0 }];
        let (from_text, encodes) = (room(ports.latent.is_some()), room(ports.vae_noise.is_some()));
        let mut stream = Self {
            session,
            config,
            schedule,
            prompts,
            filter,
            ports,
            settings: settings.clone(),
            pool,
            gather: Gather::new(&settings.shape),
            last: vec![0; pixels],
            skipped: false,
            refill: true,
            fresh: Fresh::new(&settings.live, 0),
            latent: from_text,
            vae_noise: encodes,
        };
        let numbers = stream.numbers(&settings.live, true)?;
        stream.hold(&settings.live, &numbers).map_err(load_error)?;
        // Once over grey, so that the first frame of a stream is as fast as the next.
        let (grey, mut out) = (vec![128; pixels], vec![0; pixels]);
        for _ in 0..stream.session.warm_runs() {
            stream.gather.take(&grey, true);
            stream.run(1, &grey, &mut out).map_err(load_error)?;
        }
        stream.reset();
        Ok(stream)
    }

    fn numbers(&mut self, live: &Live, reseed: bool) -> Result<Numbers, PipelineError> {
        let steps = self
            .schedule
            .steps(live.inference_steps, LIVE_GRID, &live.t_index)
            .map_err(|error| PipelineError::Params(super::params::refused("t_index_list", error.to_string())))?;
        let positive = self.prompts.mixed(&live.prompt)?;
        let negative = match self.config.negative_rows() {
            0 => positive.clone(),
            _ => self.prompts.one(&live.negative_prompt)?,
        };
        let noise = reseed.then(|| noise(live, self.fixed_noise()));
        Ok(Numbers { steps, positive, negative, noise })
    }

    /// Numbers of the steps' noise.
    fn fixed_noise(&self) -> usize {
        let [h, w] = self.config.latent();
        (self.config.steps * self.config.unet.out_channels * h * w) as usize
    }

    fn hold(&mut self, live: &Live, numbers: &Numbers) -> Result<(), InferenceError> {
        let Self { session, ports, config, .. } = self;
        let Numbers { steps, positive, negative, noise } = numbers;
        let (negatives, batch) = (config.negative_rows() as usize, config.batch() as usize);
        let frames = config.frame_buffer as usize;
        let each: Vec<f32> = steps.timesteps.iter().flat_map(|&t| std::iter::repeat_n(t, frames)).collect();
        let rows: Vec<f32> = each[..negatives].iter().chain(&each).copied().collect();
        session.hold(&ports.timestep, &rows)?;
        let tables = [&steps.alpha_sqrt, &steps.beta_sqrt, &steps.c_skip, &steps.c_out];
        for (input, table) in ports.coefficients.iter().zip(tables) {
            session.hold(input, table)?;
        }
        let stack =
            |part: fn(&Embedding) -> &[f32]| [part(negative).repeat(negatives), part(positive).repeat(batch)].concat();
        session.hold(&ports.context, &stack(|made| &made.tokens))?;
        if let Some((text, ids)) = &ports.pooled {
            session.hold(text, &stack(|made| &made.pooled))?;
            let (height, width) = (config.height as f32, config.width as f32);
            session.hold(ids, &[height, width, 0.0, 0.0, height, width].repeat(negatives + batch))?;
        }
        if let (Some(noise), Some(input)) = (noise, &ports.init_noise) {
            session.hold(input, noise)?;
        }
        let add_noise = f32::from(u8::from(live.add_noise));
        let knobs =
            [(&ports.guidance_scale, live.guidance_scale), (&ports.delta, live.delta), (&ports.add_noise, add_noise)];
        for (input, value) in knobs {
            if let Some(input) = input {
                session.hold(input, &[value])?;
            }
        }
        for (input, scale) in ports.scales.iter().zip(&live.control_scales) {
            session.hold(input, &[*scale])?;
        }
        if let Some(filter) = &mut self.filter {
            filter.hold(live.similar_threshold, live.similar_max_skip)?;
        }
        self.gather.apply(&self.settings.shape, live);
        match &ports.stock_noise {
            Some(stock) if noise.is_some() => session.clear(stock),
            _ => Ok(()),
        }
    }

    /// Runs the graph over a call's frames, of which `from` is the last, `passes` times on end. Its only picture goes to `to`,
    /// several stay in the gatherer.
    fn run(&mut self, passes: u32, from: &[u8], to: &mut [u8]) -> Result<(), InferenceError> {
        let mut made = self.gather.lend();
        let Self { session, ports, gather, fresh, latent, vae_noise, .. } = self;
        // What is not wanted is empty, and draws nothing.
        fresh.draw(latent);
        fresh.draw(vae_noise);
        // Borrows of this run's buffers: a list that cannot outlive it.
        let mut feeds = Vec::with_capacity(2 + ports.conds.len());
        feeds.extend(ports.frame.as_ref().map(|frame| frame.feed(gather.frames(from))));
        feeds.extend(ports.latent.as_ref().map(|input| input.feed(latent)));
        feeds.extend(ports.vae_noise.as_ref().map(|input| input.feed(vae_noise)));
        let conds = ports.conds.iter().enumerate();
        feeds.extend(conds.filter_map(|(j, cond)| Some(cond.as_ref()?.feed(gather.condition(j, from)))));
        let out = if made.is_empty() { to } else { &mut made[..] };
        let done = session.run_times(passes, &feeds, &mut [ports.out.fetch(out)]);
        gather.give(made, done.is_err());
        done
    }
}

impl Ports {
    fn find(session: &mut Session, config: &StreamConfig) -> Result<Self, InferenceError> {
        let [h, w] = config.latent().map(|n| n as i64);
        let channels = config.unet.out_channels as i64;
        let (frames, steps) = (config.frame_buffer as i64, config.steps as i64);
        let (rows, batch) = (config.rows() as i64, config.batch() as i64);
        let picture = [frames, config.height as i64, config.width as i64, 3];
        let there = |session: &Session, name: &str| session.inputs().any(|port| port.name == name);
        let one = |session: &mut Session, name: &str| match there(session, name) {
            true => session.input(name, &[1]).map(Some),
            false => Ok(None),
        };
        let mut state = |name: &str, rows: i64| {
            if !there(session, name) {
                return Ok(None);
            }
            let shape = [rows, channels, h, w];
            let input = session.input::<f32>(name, &shape)?;
            let output = session.output(&format!("{name}_out"), &shape)?;
            session.carry(&input, &output)?;
            Ok::<_, InferenceError>(Some(input))
        };
        state(STATE[0], batch - frames)?;
        let stock_noise = state(STATE[1], batch)?;
        let step = [steps, 1, 1, 1];
        let pooled = match config.unet.trunk.pooled_dim() {
            None => None,
            Some(pooled) => {
                let text = session.input("text_embeds", &[rows, pooled as i64])?;
                Some((text, session.input("time_ids", &[rows, 6])?))
            }
        };
        let controls = 0..config.controls.len();
        Ok(Self {
            frame: match there(session, "frame") {
                true => Some(session.input("frame", &picture)?),
                false => None,
            },
            latent: match there(session, "latent") {
                true => Some(session.input("latent", &[frames, channels, h, w])?),
                false => None,
            },
            vae_noise: match there(session, "vae_noise") {
                true => Some(session.input("vae_noise", &[frames, channels, h, w])?),
                false => None,
            },
            out: session.output("frame_out", &picture)?,
            context: session
                .input("encoder_hidden_states", &[rows, TOKENS as i64, config.unet.trunk.context_dim as i64])?,
            timestep: session.input("timestep", &[rows])?,
            coefficients: [
                session.input("alpha_sqrt", &step)?,
                session.input("beta_sqrt", &step)?,
                session.input("c_skip", &step)?,
                session.input("c_out", &step)?,
            ],
            init_noise: match there(session, "init_noise") {
                true => Some(session.input("init_noise", &[steps, channels, h, w])?),
                false => None,
            },
            stock_noise,
            guidance_scale: one(session, "guidance_scale")?,
            delta: one(session, "delta")?,
            add_noise: one(session, "add_noise")?,
            pooled,
            conds: controls
                .clone()
                .map(|j| format!("cond_{j}"))
                .map(|name| match there(session, &name) {
                    true => session.input(&name, &picture).map(Some),
                    false => Ok(None),
                })
                .collect::<Result<_, _>>()?,
            scales: controls.map(|j| session.input(&format!("cn_scale_{j}"), &[1])).collect::<Result<_, _>>()?,
        })
    }
}

impl FrameProcessor for Stream {
    fn format(&self) -> PixelFormat {
        PixelFormat::Rgb24
    }

    fn apply(&mut self, params: &Checked) -> Result<Applied, PipelineError> {
        let settings = Settings::of(params)?;
        if settings.shape != self.settings.shape {
            return Ok(Applied::NeedsReload);
        }
        if settings.live == self.settings.live {
            return Ok(Applied::Now);
        }
        let reseed =
            settings.live.seed != self.settings.live.seed || settings.live.cuda_noise != self.settings.live.cuda_noise;
        let numbers = self.numbers(&settings.live, reseed)?;
        self.hold(&settings.live, &numbers).map_err(frame_error)?;
        if reseed {
            self.fresh = Fresh::new(&settings.live, self.fixed_noise());
        }
        self.settings = settings;
        self.refill = true;
        Ok(Applied::Now)
    }

    fn process(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError> {
        let size = self.settings.shape.size;
        if frame.size != size || frame.format != PixelFormat::Rgb24 {
            let reason = format!("a frame of {} {:?} came, {size} RGB is needed", frame.size, frame.format);
            return Err(PipelineError::Frame(reason));
        }
        let mut out = VideoFrame::take(&self.pool, frame.size, frame.format, frame.pts)
            .ok_or_else(|| PipelineError::Frame("every picture buffer is in use".to_owned()))?;
        (out.seq, out.color, out.stamps) = (frame.seq, frame.color, frame.stamps);
        if let Some(filter) = &mut self.filter
            && filter.skips(&frame.data, self.refill).map_err(frame_error)?
        {
            self.skipped = true;
            out.data.copy_from_slice(&self.last);
            return Ok(out);
        }
        self.skipped = false;
        // New numbers are seen at once: every row goes the whole way with them, from this frame.
        let fill = self.refill && self.settings.live.refill;
        let passes = if fill { self.config.steps as u32 } else { 1 };
        if self.gather.take(&frame.data, fill) {
            self.run(passes, &frame.data, &mut out.data).map_err(frame_error)?;
            self.gather.keep(&out.data);
        }
        if self.config.frame_buffer > 1 {
            self.gather.show(&mut out.data);
        }
        self.refill = false;
        if self.filter.is_some() {
            self.last.copy_from_slice(&out.data);
        }
        Ok(out)
    }

    fn similar(&self) -> bool {
        self.skipped
    }

    fn provider(&self) -> Option<Provider> {
        Some(self.session.provider())
    }

    fn graph(&self) -> Option<Fingerprint> {
        Some(self.session.graph())
    }

    fn gpu_time(&mut self) -> Option<Duration> {
        self.session.gpu_time()
    }

    fn reset(&mut self) {
        self.skipped = false;
        if let Err(error) = self.session.clear_all() {
            // The next frame will fail too, and say so where it is counted.
            tracing::error!(%error, "The state of the stream before could not be cleared.");
        }
        self.last.fill(0);
        self.fresh = Fresh::new(&self.settings.live, self.fixed_noise());
        self.gather.reset();
        self.refill = true;
        if let Some(filter) = &mut self.filter {
            filter.reset();
        }
    }
}

/// What stands in for a stream whose diffusion is switched off.
pub(super) struct Through {
    pub settings: Settings,
}

impl FrameProcessor for Through {
    fn format(&self) -> PixelFormat {
        PixelFormat::Rgb24
    }

    fn apply(&mut self, params: &Checked) -> Result<Applied, PipelineError> {
        let settings = Settings::of(params)?;
        Ok(if settings.shape == self.settings.shape { Applied::Now } else { Applied::NeedsReload })
    }

    fn process(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError> {
        Ok(frame)
    }

    fn reset(&mut self) {}
}
