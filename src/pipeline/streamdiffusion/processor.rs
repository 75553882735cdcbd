//! The loaded pipeline: one graph a frame, its numbers held as tensors, its state carried from run to run.

use std::sync::Arc;
use std::time::Duration;

use super::gather::Gather;
use super::noise::{Fresh, noise};
use super::params::{Live, Settings, Shape};
use super::pose::{Detector, people_port};
use super::processors::Processor;
use super::safety::Guard;
use super::similar::Filter;
use super::style::{Styles, Tokens};
use super::text::{Embedding, Prompts, TOKENS};
use crate::frame::{Fingerprint, FramePool, PixelFormat, Size, VideoFrame};

use crate::inference::{InferenceError, Input, Output, Provider, Session};
use crate::models::hint::Hint;
use crate::models::ip_adapter::{Layers, WeightType};
use crate::models::schedule::{LIVE_GRID, Schedule};
use crate::models::stream::StreamConfig;
use crate::pipeline::{Applied, Checked, FrameProcessor, LoadContext, PipelineError, Preparation};

/// What a model gives to its stream.
pub(super) struct Parts {
    pub session: Session,
    pub config: StreamConfig,
    pub schedule: Schedule,
    pub prompts: Prompts,
    /// Of the IP-Adapter, where the graph has one.
    pub styles: Option<Arc<Styles>>,
    pub filter: Option<Filter>,
    pub guard: Option<Guard>,
    /// Of people, where they are drawn.
    pub detector: Option<Detector>,
}

/// A loaded stream.
pub(super) struct Stream {
    session: Session,
    config: StreamConfig,
    schedule: Schedule,
    prompts: Prompts,
    styles: Option<Arc<Styles>>,
    filter: Option<Filter>,
    guard: Option<Guard>,
    /// Whether a safety checker was looked for when this was loaded.
    guarded: bool,
    ports: Ports,
    settings: Settings,
    pool: FramePool,
    /// Size of the pictures that it gives.
    output: Size,
    gather: Gather,
    /// Whether there is a last latent to mix in.
    has_last: bool,
    /// The last picture, for frames that are skipped.
    last: Vec<u8>,
    /// Whether the last frame was skipped.
    skipped: bool,
    /// Whether the last picture was withheld by the safety checker.
    withheld: bool,
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
    /// Tokens and scales of the IP-Adapter's picture.
    image: Option<(Input<f32>, Input<f32>)>,
    /// `None` where the graph makes the picture of the frame.
    conds: Vec<Option<Input<u8>>>,
    scales: Vec<Input<f32>>,
    /// What is painted over, where that is not the frame.
    picture: Option<Input<u8>>,
    /// Who is in the frames.
    people: Option<Input<f32>>,
    /// Numbers of the ControlNets' pictures, of the processors before the model and of those behind it; `None` where there
    /// are none.
    numbers: [Vec<Option<Input<f32>>>; 3],
    /// Whether there is a last latent, and its shares before and behind the model.
    has_last: Option<Input<f32>>,
    latents: [Option<Input<f32>>; 2],
}

const STATE: [&str; 3] = ["x_t_buffer", "stock_noise", "last_latent"];

/// The numbers of one [`Live`], ready to be held; made whole before any of it is in force.
struct Numbers {
    steps: crate::models::schedule::Steps,
    positive: Embedding,
    negative: Embedding,
    /// `None` where nothing is to be seen of a picture.
    image: Option<Arc<Tokens>>,
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
        let Parts { mut session, config, schedule, prompts, styles, filter, guard, detector } = parts;
        let ports = Ports::find(&mut session, &config).map_err(load_error)?;
        let pixels = PixelFormat::Rgb24.bytes(settings.shape.size);
        let [height, width] = config.output().map(|side| side as u32);
        let output = Size::new(width, height);
        let shown = PixelFormat::Rgb24.bytes(output);
        let [h, w] = config.latent();
        let latent = (config.frame_buffer * config.unet.out_channels * h * w) as usize;
        let room = |there: bool| vec![0.0; if there { latent } else { 0 }];
        let (from_text, encodes) = (room(ports.latent.is_some()), room(ports.vae_noise.is_some()));
        let mut stream = Self {
            session,
            config,
            schedule,
            prompts,
            styles,
            filter,
            guard,
            guarded: settings.live.safety.is_some(),
            ports,
            settings: settings.clone(),
            pool,
            output,
            gather: Gather::new(&settings.shape, shown, detector),
            has_last: false,
            last: vec![0; shown],
            skipped: false,
            withheld: false,
            refill: true,
            fresh: Fresh::new(&settings.live, 0),
            latent: from_text,
            vae_noise: encodes,
        };
        let numbers = stream.numbers(&settings.live, true)?;
        stream.hold(&settings.live, &numbers).map_err(load_error)?;
        stream.remember(false).map_err(load_error)?;
        // Once over grey, so that the first frame of a stream is as fast as the next.
        let (grey, mut out) = (vec![128; pixels], vec![0; shown]);
        for _ in 0..stream.session.warm_runs() {
            stream.gather.take(&grey, true).map_err(load_error)?;
            stream.run(1, &grey, &mut out).map_err(load_error)?;
        }
        stream.reset();
        Ok(stream)
    }

    /// The typed form of `params` for this graph: where it has an IP-Adapter, it is as good as one without.
    fn fitted(&self, params: &Checked) -> Result<Settings, PipelineError> {
        let mut settings = Settings::of(params)?;
        settings.shape.adapter |= self.settings.shape.adapter;
        Ok(settings)
    }

    /// Whether `live` asks for a style picture that has not been made tokens of.
    fn unseen(&self, live: &Live) -> bool {
        let styles = self.styles.as_ref();
        let adapter = live.adapter.as_ref();
        styles.zip(adapter).is_some_and(|(styles, adapter)| styles.get(&adapter.picture).is_none())
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
        let image = match (&self.styles, &live.adapter) {
            (Some(styles), Some(adapter)) => styles.get(&adapter.picture),
            _ => None,
        };
        Ok(Numbers { steps, positive, negative, image, noise })
    }

    /// Numbers of the steps' noise.
    fn fixed_noise(&self) -> usize {
        let [h, w] = self.config.latent();
        (self.config.steps * self.config.unet.out_channels * h * w) as usize
    }

    fn hold(&mut self, live: &Live, numbers: &Numbers) -> Result<(), InferenceError> {
        let Self { session, ports, config, .. } = self;
        let Numbers { steps, positive, negative, image, noise } = numbers;
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
        if let Some((tokens, scales)) = &ports.image {
            let layers = Layers::of(&config.unet);
            // The step that each row has come to.
            let each: Vec<usize> = (0..batch).map(|row| row / frames).collect();
            let each = [&each[..negatives], &each].concat();
            let strength = match (image, &live.adapter) {
                (Some(image), Some(adapter)) => {
                    session.hold(tokens, &[image.nothing.repeat(negatives), image.picture.repeat(batch)].concat())?;
                    adapter.weight_type.scales(&layers, adapter.scale, &each, config.steps as usize)
                }
                _ => {
                    let numbers = each.len() * (config.image_tokens * config.unet.trunk.context_dim) as usize;
                    session.hold(tokens, &vec![0.0; numbers])?;
                    WeightType::Linear.scales(&layers, 0.0, &each, 1)
                }
            };
            session.hold(scales, &strength)?;
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
        let [before, after] = live.lists.in_graph();
        let lists = [live.preprocessors.iter().collect(), before, after];
        for (inputs, list) in ports.numbers.iter().zip(lists) {
            for (input, processor) in inputs.iter().zip(list) {
                if let Some(input) = input {
                    session.hold(input, processor.numbers())?;
                }
            }
        }
        for (input, shares) in ports.latents.iter().zip([&live.lists.latent_before, &live.lists.latent_after]) {
            if let Some(input) = input {
                session.hold(input, shares)?;
            }
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
        let mut feeds = Vec::with_capacity(3 + ports.conds.len());
        feeds.extend(ports.frame.as_ref().map(|frame| frame.feed(gather.frames(from))));
        feeds.extend(ports.picture.iter().zip(gather.pictures()).map(|(input, pictures)| input.feed(pictures)));
        feeds.extend(ports.people.as_ref().map(|input| input.feed(gather.people())));
        feeds.extend(ports.latent.as_ref().map(|input| input.feed(latent)));
        feeds.extend(ports.vae_noise.as_ref().map(|input| input.feed(vae_noise)));
        let conds = ports.conds.iter().enumerate();
        feeds.extend(conds.filter_map(|(j, cond)| Some(cond.as_ref()?.feed(gather.condition(j, from)))));
        let out = if made.is_empty() { to } else { &mut made[..] };
        let done = session.run_times(passes, &feeds, &mut [ports.out.fetch(out)]);
        gather.give(made, done.is_err());
        done
    }

    /// Says whether there is a last latent to mix in.
    fn remember(&mut self, has_last: bool) -> Result<(), InferenceError> {
        self.has_last = has_last;
        match &self.ports.has_last {
            Some(input) => self.session.hold(input, &[f32::from(u8::from(has_last))]),
            None => Ok(()),
        }
    }
}

impl Ports {
    fn find(session: &mut Session, config: &StreamConfig) -> Result<Self, InferenceError> {
        let [h, w] = config.latent().map(|n| n as i64);
        let channels = config.unet.out_channels as i64;
        let (frames, steps) = (config.frame_buffer as i64, config.steps as i64);
        let (rows, batch) = (config.rows() as i64, config.batch() as i64);
        let picture = [frames, config.height as i64, config.width as i64, 3];
        let [height, width] = config.output().map(|n| n as i64);
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
        state(STATE[2], frames)?;
        let mut numbers = |name: &dyn Fn(usize) -> String, hints: &mut dyn Iterator<Item = &Hint>| {
            let one = |(i, hint): (usize, &Hint)| match hint.numbers() {
                0 => Ok(None),
                n => session.input(&name(i), &[n as i64]).map(Some),
            };
            hints.enumerate().map(one).collect::<Result<Vec<_>, InferenceError>>()
        };
        let numbers = [
            numbers(&|j| format!("cond_{j}_numbers"), &mut config.controls.iter().map(|control| &control.hint))?,
            numbers(&|i| format!("before_{i}"), &mut config.before.iter())?,
            numbers(&|i| format!("after_{i}"), &mut config.after.iter())?,
        ];
        let mut shares = |name: &str, count: u64| match count {
            0 => Ok(None),
            n => session.input(name, &[n as i64]).map(Some),
        };
        let latents = [shares("latent_before", config.latent_before)?, shares("latent_after", config.latent_after)?];
        let step = [steps, 1, 1, 1];
        let pooled = match config.unet.trunk.pooled_dim() {
            None => None,
            Some(pooled) => {
                let text = session.input("text_embeds", &[rows, pooled as i64])?;
                Some((text, session.input("time_ids", &[rows, 6])?))
            }
        };
        let image = match config.image_tokens as i64 {
            0 => None,
            count => {
                let tokens = session.input("image_tokens", &[rows, count, config.unet.trunk.context_dim as i64])?;
                let layers = Layers::of(&config.unet).count() as i64;
                Some((tokens, session.input("ipadapter_scale", &[rows, layers])?))
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
            out: session.output("frame_out", &[frames, height, width, 3])?,
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
            people: people_port(session, frames)?,
            picture: match config.apart {
                true => Some(session.input("picture", &picture)?),
                false => None,
            },
            numbers,
            has_last: one(session, "has_last")?,
            latents,
            image,
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
        let settings = self.fitted(params)?;
        let unguarded = settings.live.safety.is_some() && !self.guarded;
        if settings.shape != self.settings.shape || self.unseen(&settings.live) || unguarded {
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

    /// The style picture, where nothing else is missing.
    fn preparation(&mut self, params: &Checked) -> Option<Preparation> {
        let settings = self.fitted(params).ok()?;
        if settings.shape != self.settings.shape || !self.unseen(&settings.live) {
            return None;
        }
        let (styles, picture) = (self.styles.clone()?, settings.live.adapter?.picture);
        let half = settings.shape.half;
        Some(Box::new(move |cx: &LoadContext<'_>| {
            super::load::prepare(cx, &styles, half, &picture)?;
            match styles.get(&picture) {
                Some(_) => Ok(()),
                None => Err(PipelineError::Load("the style picture cannot be had".to_owned())),
            }
        }))
    }

    fn process(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError> {
        let size = self.settings.shape.size;
        if frame.size != size || frame.format != PixelFormat::Rgb24 {
            let reason = format!("a frame of {} {:?} came, {size} RGB is needed", frame.size, frame.format);
            return Err(PipelineError::Frame(reason));
        }
        let mut out = VideoFrame::take(&self.pool, self.output, frame.format, frame.pts)
            .ok_or_else(|| PipelineError::Frame("every picture buffer is in use".to_owned()))?;
        (out.seq, out.color, out.stamps) = (frame.seq, frame.color, frame.stamps);
        if let Some(filter) = &mut self.filter
            && filter.skips(&frame.data, self.refill).map_err(frame_error)?
        {
            (self.skipped, self.withheld) = (true, false);
            out.data.copy_from_slice(&self.last);
            return Ok(out);
        }
        (self.skipped, self.withheld) = (false, false);
        // New numbers are seen at once: every row goes the whole way with them, from this frame.
        let fill = self.refill && self.settings.live.refill;
        let passes = if fill { self.config.steps as u32 } else { 1 };
        if self.gather.take(&frame.data, fill).map_err(frame_error)? {
            self.run(passes, &frame.data, &mut out.data).map_err(frame_error)?;
            self.gather.keep(&out.data);
            if !self.has_last {
                self.remember(true).map_err(frame_error)?;
            }
        }
        if self.config.frame_buffer > 1 {
            self.gather.show(&mut out.data);
        }
        self.refill = false;
        if let (Some(guard), Some(threshold)) = (&mut self.guard, self.settings.live.safety) {
            self.withheld = guard.check(&mut out.data, threshold).map_err(frame_error)?;
        }
        if self.filter.is_some() {
            self.last.copy_from_slice(&out.data);
        }
        Ok(out)
    }

    fn similar(&self) -> bool {
        self.skipped
    }

    fn withheld(&self) -> bool {
        self.withheld
    }

    fn notes(&self) -> Vec<String> {
        if self.guard.is_some() || self.settings.live.safety.is_none() {
            return Vec::new();
        }
        let model = super::safety::MODEL;
        vec![format!(
            "use_safety_checker is true, but {model} is not among the models: no picture is checked (`weir models pull \
             {model}` fetches it)"
        )]
    }

    fn provider(&self) -> Option<Provider> {
        Some(self.session.provider())
    }

    fn graph(&self) -> Option<Fingerprint> {
        Some(self.session.graph())
    }

    fn gpu_time(&mut self) -> Option<Duration> {
        let before = self.gather.gpu_time().unwrap_or_default();
        self.session.gpu_time().map(|time| time + before)
    }

    fn reset(&mut self) {
        (self.skipped, self.withheld) = (false, false);
        if let Some(guard) = &mut self.guard {
            guard.reset();
        }
        if let Err(error) = self.session.clear_all().and_then(|()| self.remember(false)) {
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

/// What stands in for a stream whose diffusion is switched off: the processors of pictures, where there are any.
pub(super) struct Through {
    settings: Settings,
    graph: Option<Filters>,
    host: Gather,
    output: Size,
    pool: FramePool,
}

/// The loaded graph of the processors.
struct Filters {
    session: Session,
    frame: Input<u8>,
    people: Option<Input<f32>>,
    out: Output<u8>,
    numbers: [Vec<Option<Input<f32>>>; 2],
}

impl Filters {
    fn new(mut session: Session, settings: &Settings, output: Size) -> Result<Self, InferenceError> {
        let shape = |size: Size| [1, i64::from(size.height), i64::from(size.width), 3];
        let lists = settings.live.lists.in_graph();
        let mut numbers = |name: &str, list: &[&Processor]| {
            let one = |(i, processor): (usize, &&Processor)| match processor.numbers().len() {
                0 => Ok(None),
                n => session.input(&format!("{name}_{i}"), &[n as i64]).map(Some),
            };
            list.iter().enumerate().map(one).collect::<Result<Vec<_>, InferenceError>>()
        };
        let numbers = [numbers("before", &lists[0])?, numbers("after", &lists[1])?];
        let frame = session.input("frame", &shape(settings.shape.size))?;
        let out = session.output("frame_out", &shape(output))?;
        let people = people_port(&mut session, 1)?;
        Ok(Self { frame, people, out, numbers, session })
    }

    fn hold(&mut self, live: &Live) -> Result<(), InferenceError> {
        for (inputs, list) in self.numbers.iter().zip(live.lists.in_graph()) {
            for (input, processor) in inputs.iter().zip(list) {
                if let Some(input) = input {
                    self.session.hold(input, processor.numbers())?;
                }
            }
        }
        Ok(())
    }
}

impl Through {
    /// With the graph of the processors where there are any in it.
    pub fn new(
        settings: Settings,
        session: Option<Session>,
        detector: Option<Detector>,
        pool: FramePool,
    ) -> Result<Self, PipelineError> {
        let larger =
            |side: u32| settings.live.lists.enlarge().iter().fold(side, |n, factor| (f64::from(n) * factor) as u32);
        let output = Size::new(larger(settings.shape.size.width), larger(settings.shape.size.height));
        let mut graph =
            session.map(|session| Filters::new(session, &settings, output)).transpose().map_err(load_error)?;
        if let Some(graph) = &mut graph {
            graph.hold(&settings.live).map_err(load_error)?;
        }
        // One frame at a time, and no ControlNets.
        let shape = Shape { frame_buffer: 1, controls: Vec::new(), ..settings.shape.clone() };
        let mut host = Gather::new(&shape, PixelFormat::Rgb24.bytes(output), detector);
        host.apply(&shape, &settings.live);
        Ok(Self { settings, graph, host, output, pool })
    }
}

impl FrameProcessor for Through {
    fn format(&self) -> PixelFormat {
        PixelFormat::Rgb24
    }

    fn apply(&mut self, params: &Checked) -> Result<Applied, PipelineError> {
        let settings = Settings::of(params)?;
        if settings.shape != self.settings.shape {
            return Ok(Applied::NeedsReload);
        }
        if let Some(graph) = &mut self.graph {
            graph.hold(&settings.live).map_err(frame_error)?;
        }
        self.host.apply(&settings.shape, &settings.live);
        self.settings = settings;
        Ok(Applied::Now)
    }

    fn process(&mut self, frame: VideoFrame) -> Result<VideoFrame, PipelineError> {
        if self.graph.is_none() && !self.settings.shape.host {
            return Ok(frame);
        }
        let mut out = VideoFrame::take(&self.pool, self.output, frame.format, frame.pts)
            .ok_or_else(|| PipelineError::Frame("every picture buffer is in use".to_owned()))?;
        (out.seq, out.color, out.stamps) = (frame.seq, frame.color, frame.stamps);
        self.host.take(&frame.data, false).map_err(frame_error)?;
        let from = self.host.pictures().unwrap_or(&frame.data);
        match &mut self.graph {
            None => out.data.copy_from_slice(from),
            Some(Filters { session, frame, people, out: port, .. }) => {
                let frame = frame.feed(from);
                let people = people.as_ref().map(|input| input.feed(self.host.people()));
                let feeds: &[_] = match people {
                    None => &[frame],
                    Some(people) => &[frame, people],
                };
                session.run(feeds, &mut [port.fetch(&mut out.data)]).map_err(frame_error)?;
            }
        }
        self.host.keep(&out.data);
        Ok(out)
    }

    fn notes(&self) -> Vec<String> {
        let note = "use_safety_checker is true, but skip_diffusion is too: nothing is painted, no picture is checked";
        if self.settings.live.safety.is_some() { vec![note.to_owned()] } else { Vec::new() }
    }

    fn provider(&self) -> Option<Provider> {
        self.graph.as_ref().map(|graph| graph.session.provider())
    }

    fn graph(&self) -> Option<Fingerprint> {
        self.graph.as_ref().map(|graph| graph.session.graph())
    }

    fn gpu_time(&mut self) -> Option<Duration> {
        let before = self.host.gpu_time().unwrap_or_default();
        self.graph.as_mut()?.session.gpu_time().map(|time| time + before)
    }

    fn reset(&mut self) {
        self.host.reset();
    }
}
