//! The stream batch of StreamDiffusion as one graph a frame: bytes in, bytes out, all state as inputs and outputs, every
//! number that a user may turn as an input.
//!
//! # Rows
//!
//! With N steps and F frames a call, a batch has B = N · F rows; row `r · F + f` is frame f of the call r calls ago, which
//! has come to step r. Row 0 is the newest and noisiest. The UNet sees R rows, see [`Guidance`]. Latents are (…, 4, h, w) of
//! `f32`, whatever the precision of the UNet.
//!
//! # Inputs
//!
//! | name | type and shape | |
//! | --- | --- | --- |
//! | `frame` | u8 (F, H, W, 3) | RGB; not for text to picture |
//! | `latent` | f32 (F, 4, h, w) | standard noise; only for text to picture |
//! | `encoder_hidden_states` | f32 (R, 77, D) | prompt embeddings, [`StreamConfig::rows`] |
//! | `timestep` | f32 (R) | timesteps of the rows |
//! | `alpha_sqrt`, `beta_sqrt`, `c_skip`, `c_out` | f32 (N, 1, 1, 1) | the steps' coefficients |
//! | `init_noise` | f32 (N, 4, h, w) | the fixed noise of each step, the same for the F frames of a call; absent for text to picture with N = 1 |
//! | `x_t_buffer` | f32 ((N − 1) F, 4, h, w) | state; absent for N = 1 |
//! | `stock_noise` | f32 (B, 4, h, w) | state; only for the guidance types `self` and `initialize` |
//! | `guidance_scale` | f32 (1) | γ; guidance acts above 1; not for `none` |
//! | `delta` | f32 (1) | δ; only for `self` and `initialize` |
//! | `add_noise` | f32 (1) | 1 adds noise between steps, 0 does not; absent for N = 1 |
//! | `vae_noise` | f32 (F, 4, h, w) | standard noise of the KL encoder; only with [`Vae::Kl`] |
//! | `cond_j`, `cn_scale_j` | u8 (F, H, W, C), f32 (1) | of ControlNet j; no `cond_j` where [`Hint`] makes it of the frame |
//! | `cond_j_numbers`, `before_i`, `after_i` | f32 (n) | numbers of the filters ([`Hint::numbers`]); only where there are any |
//! | `people` | f32 (F, P, 52) | who is in the frame, see [`super::pose`]; only with [`Hint::Pose`] |
//! | `picture` | u8 (F, H, W, 3) | what is painted over in place of `frame`; only with [`StreamConfig::apart`] |
//! | `last_latent` | f32 (F, 4, h, w) | state; only with feedback of latents |
//! | `has_last` | f32 (1) | 1 where `last_latent` is there, 0 where nothing is mixed in; only with feedback of latents |
//! | `latent_before`, `latent_after` | f32 (n) | shares of the last latent in what comes to the first step and in what the last one gives |
//! | `text_embeds`, `time_ids` | f32 (R, P), f32 (R, 6) | only for SDXL |
//! | `image_tokens`, `ipadapter_scale` | f32 (R, T, D), f32 (R, L) | a picture beside the prompt and its scale in each of the UNet's L layers, in the order of [`ip_adapter::Layers`]; only with an IP-Adapter |
//!
//! # Outputs
//!
//! `frame_out` u8 (F, H, W, 3); `x0` f32 (F, 4, h, w), the predicted clean latent behind it; `x_t_buffer_out`;
//! `stock_noise_out`; `last_latent_out`. With [`StreamConfig::float_image`] also `image` f32 (F, 3, H, W) in 0…1. Pictures that
//! come out have the size [`StreamConfig::output`].

mod scheduler;
pub mod similar;
mod stages;

use super::controlnet::{self, ControlNetConfig};
use super::hint::{self, Hint};
use super::ip_adapter;
use super::kl::{self, KlConfig};
use super::pose;
use super::taesd::{self, TaesdConfig};
use super::unet::{self, Added, Question, UnetConfig};
use super::{ModelError, Net, Source};
use crate::graph::{DType, GraphBuilder, GraphError, Interpolation, Model, Tensor};

pub use stages::{Stage, stage};

/// How the unconditional prediction comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guidance {
    /// There is none; R = B.
    None,
    /// δ times the stock noise, which is estimated from frame to frame; R = B.
    #[serde(rename = "self")]
    SelfNegative,
    /// As `self`, with the estimate of the newest frames renewed by a prediction for the negative prompt: R = F + B, the
    /// negative rows first.
    Initialize,
    /// A prediction for the negative prompt for every row: R = 2 B, the negative rows first.
    Full,
}

impl Guidance {
    /// Whether stock noise is part of the state.
    pub fn has_stock_noise(self) -> bool {
        matches!(self, Guidance::SelfNegative | Guidance::Initialize)
    }
}

/// Where a stream's latents begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// With the encoded frame.
    Image,
    /// With noise.
    Text,
}

/// The autoencoder of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Vae {
    /// TAESD or TAESDXL.
    Tiny(TaesdConfig),
    /// The full autoencoder. Computed in `f32` where its configuration says that half precision overflows.
    Kl(KlConfig),
}

/// One graph's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamConfig {
    /// Denoising steps N, 1–4.
    pub steps: u64,
    /// Frames a call F, 1–16.
    pub frame_buffer: u64,
    /// Kind of guidance.
    pub guidance: Guidance,
    /// From pictures or from noise.
    pub mode: Mode,
    /// Height of the frame in pixels.
    pub height: u64,
    /// Width of the frame in pixels.
    pub width: u64,
    /// Tokens of a prompt: 77.
    pub tokens: u64,
    /// Type of the models' activations and weights, `F32` or `F16`. The scheduler is computed in `f32`.
    pub precision: DType,
    /// The UNet.
    pub unet: UnetConfig,
    /// The autoencoder.
    pub vae: Vae,
    /// The ControlNets.
    pub controls: Vec<ControlNetConfig>,
    /// What the frame goes through before it is encoded, in this order. ControlNets are given the frame as it came.
    pub before: Vec<Hint>,
    /// What the painted picture goes through, in this order.
    pub after: Vec<Hint>,
    /// Whether the picture that is painted over is an input of its own.
    pub apart: bool,
    /// How often the last latent is mixed into what comes to the first step.
    pub latent_before: u64,
    /// How often the last latent is mixed into the predicted one.
    pub latent_after: u64,
    /// Tokens T of an IP-Adapter's picture; 0 without an IP-Adapter.
    pub image_tokens: u64,
    /// Whether the picture is also an output of floats.
    pub float_image: bool,
}

/// The weights of a stream's models.
pub struct Sources<'a> {
    /// Of the UNet.
    pub unet: &'a mut dyn Source,
    /// Of the autoencoder.
    pub vae: &'a mut dyn Source,
    /// Of the ControlNets, in their order.
    pub controls: Vec<&'a mut dyn Source>,
    /// Of the depth model, where there is a [`Hint::Depth`]. One model serves all of them.
    pub depth: Option<&'a mut dyn Source>,
    /// Of the IP-Adapter, where there is one.
    pub adapter: Option<&'a mut dyn Source>,
}

impl StreamConfig {
    /// Rows of the batch, B = N · F.
    pub fn batch(&self) -> u64 {
        self.steps * self.frame_buffer
    }

    /// Rows of the UNet, R.
    pub fn rows(&self) -> u64 {
        match self.guidance {
            Guidance::None | Guidance::SelfNegative => self.batch(),
            Guidance::Initialize => self.batch() + self.frame_buffer,
            Guidance::Full => 2 * self.batch(),
        }
    }

    /// How many of the UNet's rows, at their beginning, take the negative prompt.
    pub fn negative_rows(&self) -> u64 {
        self.rows() - self.batch()
    }

    /// Pixels of the picture for one of the latent, on each side.
    pub fn reduction(&self) -> u64 {
        match &self.vae {
            Vae::Tiny(tiny) => tiny.reduction(),
            Vae::Kl(kl) => kl.reduction(),
        }
    }

    /// Height and width of the latent, h and w.
    pub fn latent(&self) -> [u64; 2] {
        [self.height / self.reduction(), self.width / self.reduction()]
    }

    /// Whether it is told who is in the frame.
    pub fn has_people(&self) -> bool {
        let controls = self.controls.iter().map(|control| &control.hint);
        controls.chain(&self.before).any(|hint| *hint == Hint::Pose)
    }

    /// Whether the last latent is part of the state.
    pub fn feeds_back(&self) -> bool {
        self.latent_before + self.latent_after > 0
    }

    /// Height and width of the picture that comes out.
    pub fn output(&self) -> [u64; 2] {
        behind(&self.after, [self.height, self.width])
    }

    /// Checks what the parts must have in common.
    ///
    /// # Errors
    /// [`ModelError::Config`].
    pub fn check(&self) -> Result<(), ModelError> {
        if !(1..=4).contains(&self.steps) {
            return Err(ModelError::config("t_index_list", format!("{} steps, 1 to 4 are possible", self.steps)));
        }
        if !(1..=16).contains(&self.frame_buffer) {
            let reason = format!("{} frames, 1 to 16 are possible", self.frame_buffer);
            return Err(ModelError::config("frame_buffer_size", reason));
        }
        if self.mode == Mode::Text && self.guidance != Guidance::None {
            return Err(ModelError::config("cfg_type", "pictures from text alone take no guidance"));
        }
        let grain = self.reduction();
        for (field, n) in [("width", self.width), ("height", self.height)] {
            if n == 0 || n % grain != 0 {
                return Err(ModelError::config(field, format!("{n} is not a multiple of {grain}")));
            }
        }
        let latent_channels = match &self.vae {
            Vae::Tiny(tiny) => tiny.latent_channels,
            Vae::Kl(kl) => kl.latent_channels,
        };
        if [self.unet.trunk.in_channels, self.unet.out_channels] != [latent_channels; 2] {
            let reason = format!(
                "the UNet takes {} and gives {} channels, the latent has {latent_channels}",
                self.unet.trunk.in_channels, self.unet.out_channels
            );
            return Err(ModelError::config("in_channels", reason));
        }
        if self.before.iter().skip(usize::from(!self.apart)).chain(&self.after).any(|hint| *hint == Hint::Pose) {
            return Err(ModelError::config("image_preprocessing", "people are looked for in the frame itself"));
        }
        if self.mode == Mode::Text && (!self.before.is_empty() || self.apart) {
            return Err(ModelError::config("image_preprocessing", "there is no frame to work on"));
        }
        if behind(&self.before, [self.height, self.width]) != [self.height, self.width] {
            return Err(ModelError::config("image_preprocessing", "the model is given pictures of its own size"));
        }
        for control in &self.controls {
            let (own, other) = (&self.unet.trunk, &control.trunk);
            if own.channels != other.channels || own.context_dim != other.context_dim || own.layers != other.layers {
                return Err(ModelError::config("controlnets", "a ControlNet belongs to another family of models"));
            }
            let reach = 1 << (control.embedding.len() - 1);
            if control.hint != Hint::Given && self.mode == Mode::Text {
                return Err(ModelError::config("controlnets", "there is no frame to make a condition picture of"));
            }
            if control.hint != Hint::Given && control.conditioning_channels != 3 {
                let reason = format!("{}, what is made of the frame has 3", control.conditioning_channels);
                return Err(ModelError::config("conditioning_channels", reason));
            }
            if reach != grain {
                let reason = format!("it reduces pictures by {reach}, the autoencoder by {grain}");
                return Err(ModelError::config("conditioning_embedding_out_channels", reason));
            }
        }
        Ok(())
    }
}

/// Builds the graph.
///
/// # Errors
/// [`ModelError`] when the configuration does not fit together or a weight is missing.
pub fn build(config: &StreamConfig, sources: Sources<'_>) -> Result<Model, ModelError> {
    config.check()?;
    if sources.controls.len() != config.controls.len() {
        return Err(ModelError::config("controlnets", "not as many weights as ControlNets"));
    }
    let Sources { unet, vae, controls, mut depth, adapter } = sources;
    let mut builder = GraphBuilder::new("stream");
    let g = &mut builder;
    let [h, w] = config.latent();
    let channels = config.unet.out_channels;
    let frames = config.frame_buffer;

    let people = if config.has_people() { Some(people(g, frames)?) } else { None };
    let (frame, start) = match config.mode {
        Mode::Image => {
            let shape = [frames, config.height, config.width, 3];
            let frame = g.input("frame", DType::U8, shape)?;
            let picture = if config.apart { g.input("picture", DType::U8, shape)? } else { frame.clone() };
            let x = g.scope("frame", |g| hint::planes(g, &picture))?;
            let x = chain(g, &config.before, "before", depth.as_deref_mut(), config.precision, people.as_ref(), x)?;
            let start = encode(g, config, &mut *vae, &x)?;
            (Some(frame), start)
        }
        Mode::Text => (None, g.input("latent", DType::F32, [frames, channels, h, w])?),
    };
    let asked = Asked::inputs(g, config)?;
    let knobs = scheduler::Knobs::inputs(g, config)?;
    let batch = g.scope("scheduler", |g| scheduler::enter(g, config, &knobs, &start))?;
    let predictors = Predictors { unet, controls, depth: depth.as_deref_mut(), adapter };
    let given = [frame.as_ref(), people.as_ref()];
    let prediction = predict(g, config, predictors, given, &asked, &batch.rows)?;
    let step = g.scope("scheduler", |g| scheduler::step(g, config, &knobs, &batch, &prediction))?;

    let image = decode(g, config, vae, &step.x0)?;
    let image = chain(g, &config.after, "after", depth, config.precision, None, image)?;
    g.output("x0", &step.x0)?;
    if config.feeds_back() {
        // An output of its own, since a tensor has one name.
        let last = g.add_scalar(&step.x0, 0.0)?;
        g.output("last_latent_out", &last)?;
    }
    if let Some(buffer) = &step.x_t_buffer {
        g.output("x_t_buffer_out", buffer)?;
    }
    if let Some(stock) = &step.stock_noise {
        g.output("stock_noise_out", stock)?;
    }
    let out = g.scope("frame_out", |g| bytes(g, &image))?;
    g.output("frame_out", &out)?;
    if config.float_image {
        g.output("image", &image)?;
    }
    Ok(builder.finish()?)
}

/// A graph without a model: `frame` u8 (F, H, W, 3) through `before` and `after` to `frame_out`, with the inputs `before_i` and
/// `after_i` and `people` as above. `depth` is of the depth model where there is one.
///
/// # Errors
/// [`ModelError`] when something does not fit or a weight is missing.
pub fn filters(
    [before, after]: [&[Hint]; 2],
    [height, width]: [u64; 2],
    precision: DType,
    mut depth: Option<&mut (dyn Source + '_)>,
) -> Result<Model, ModelError> {
    let mut builder = GraphBuilder::new("filters");
    let g = &mut builder;
    let frame = g.input("frame", DType::U8, [1, height, width, 3])?;
    let x = g.scope("frame", |g| hint::planes(g, &frame))?;
    let people = if before.contains(&Hint::Pose) { Some(people(g, 1)?) } else { None };
    let x = chain(g, before, "before", depth.as_deref_mut(), precision, people.as_ref(), x)?;
    let x = chain(g, after, "after", depth, precision, None, x)?;
    let out = g.scope("frame_out", |g| bytes(g, &x))?;
    g.output("frame_out", &out)?;
    Ok(builder.finish()?)
}

/// The input of those who are in `frames` frames.
fn people(g: &mut GraphBuilder, frames: u64) -> Result<Tensor, GraphError> {
    g.input("people", DType::F32, [frames, pose::PEOPLE, pose::NUMBERS])
}

/// `x`, `f32` (F, 3, H, W) in 0…1, behind every part of `parts`, whose numbers are the inputs `name_i`, cut off at 0 and 1.
fn chain(
    g: &mut GraphBuilder,
    parts: &[Hint],
    name: &str,
    mut depth: Option<&mut (dyn Source + '_)>,
    precision: DType,
    people: Option<&Tensor>,
    mut x: Tensor,
) -> Result<Tensor, ModelError> {
    for (i, part) in parts.iter().enumerate() {
        let name = format!("{name}_{i}");
        x = part.build(g, &name, depth.as_deref_mut(), precision, people, &x)?;
        // A cubic resize swings over.
        x = g.clip(&x, 0.0, 1.0)?;
    }
    Ok(x)
}

/// Height and width behind `parts` of a picture of `size`.
fn behind(parts: &[Hint], size: [u64; 2]) -> [u64; 2] {
    parts.iter().fold(size, |size, part| if let Hint::Filter(filter) = part { filter.size(size) } else { size })
}

struct Asked {
    encoder_hidden_states: Tensor,
    timestep: Tensor,
    added: Option<[Tensor; 2]>,
    /// Tokens and scales.
    image: Option<[Tensor; 2]>,
}

impl Asked {
    fn inputs(g: &mut GraphBuilder, config: &StreamConfig) -> Result<Self, GraphError> {
        let rows = config.rows();
        Ok(Self {
            encoder_hidden_states: g.input(
                "encoder_hidden_states",
                DType::F32,
                [rows, config.tokens, config.unet.trunk.context_dim],
            )?,
            timestep: g.input("timestep", DType::F32, [rows])?,
            added: match config.unet.trunk.pooled_dim() {
                None => None,
                Some(pooled) => {
                    let text_embeds = g.input("text_embeds", DType::F32, [rows, pooled])?;
                    Some([text_embeds, g.input("time_ids", DType::F32, [rows, 6])?])
                }
            },
            image: match config.image_tokens {
                0 => None,
                count => {
                    let width = config.unet.trunk.context_dim;
                    let tokens = g.input("image_tokens", DType::F32, [rows, count, width])?;
                    let layers = ip_adapter::Layers::of(&config.unet).count() as u64;
                    Some([tokens, g.input("ipadapter_scale", DType::F32, [rows, layers])?])
                }
            },
        })
    }
}

/// The weights that a prediction is made with.
struct Predictors<'a, 'd> {
    unet: &'a mut dyn Source,
    controls: Vec<&'a mut dyn Source>,
    depth: Option<&'d mut (dyn Source + 'a)>,
    adapter: Option<&'a mut dyn Source>,
}

/// The UNet's prediction for `sample` (R, 4, h, w), with what the ControlNets add. `frame` (F, H, W, 3) is what condition
/// pictures are made of, `people` are in it.
fn predict(
    g: &mut GraphBuilder,
    config: &StreamConfig,
    sources: Predictors<'_, '_>,
    [frame, people]: [Option<&Tensor>; 2],
    asked: &Asked,
    sample: &Tensor,
) -> Result<Tensor, ModelError> {
    let Predictors { unet, controls, mut depth, adapter } = sources;
    // What several ControlNets are given is made once.
    let mut known: Vec<(&Hint, Tensor)> = Vec::new();
    let question = || Question {
        sample,
        timestep: &asked.timestep,
        encoder_hidden_states: &asked.encoder_hidden_states,
        added: asked.added.as_ref().map(|[text_embeds, time_ids]| Added { text_embeds, time_ids }),
    };
    let mut residuals = Vec::with_capacity(controls.len());
    for (j, (control, source)) in config.controls.iter().zip(controls).enumerate() {
        let no_frame = || ModelError::config("controlnets", "there is no frame to make a condition picture of");
        let made = match &control.hint {
            Hint::Given => None,
            // Each has its own numbers.
            hint if hint.numbers() == 0 && known.iter().any(|(other, _)| *other == hint) => {
                known.iter().find(|(other, _)| *other == hint).map(|(_, made)| made.clone())
            }
            hint => {
                let frame = frame.ok_or_else(no_frame)?;
                let made = g.scope("hint", |g| {
                    Ok((|| {
                        let x = hint::planes(g, frame)?;
                        let name = format!("cond_{j}_numbers");
                        let made = hint.build(g, &name, depth.as_deref_mut(), config.precision, people, &x)?;
                        match behind(std::slice::from_ref(hint), [config.height, config.width]) {
                            size if size == [config.height, config.width] => Ok::<_, ModelError>(made),
                            _ => {
                                let made = g.clip(&made, 0.0, 1.0)?;
                                Ok(g.resize(&made, config.height, config.width, Interpolation::Linear)?)
                            }
                        }
                    })())
                })??;
                known.push((hint, made.clone()));
                Some(made)
            }
        };
        let given = match &made {
            Some(_) => None,
            None => {
                let shape = [config.frame_buffer, config.height, config.width, control.conditioning_channels];
                Some(g.input(&format!("cond_{j}"), DType::U8, shape)?)
            }
        };
        let scale = g.input(&format!("cn_scale_{j}"), DType::F32, [1])?;
        let mut net = Net::new(g, source, config.precision);
        residuals.push(net.place(&format!("controlnet.{j}"), |net| {
            let condition = match (made, &given) {
                (Some(made), _) => made,
                (None, Some(picture)) => controlnet::condition(net, picture)?,
                (None, None) => return Err(no_frame()),
            };
            controlnet::build(net, control, &question(), &condition, &scale)
        })?);
    }
    let images = match (&asked.image, adapter) {
        (None, _) => None,
        (Some(_), None) => return Err(ModelError::config("ip_adapter", "no weights of an IP-Adapter are given")),
        (Some([tokens, scales]), Some(adapter)) => {
            Some(ip_adapter::images(&mut Net::new(g, adapter, config.precision), &config.unet, tokens, scales)?)
        }
    };
    let mut net = Net::new(g, unet, config.precision);
    let residuals = controlnet::sum(&mut net, residuals)?;
    let prediction =
        net.place("unet", |net| unet::build_beside(net, &config.unet, &question(), residuals.as_ref(), images))?;
    Ok(g.cast(&prediction, DType::F32)?)
}

/// The scaled latent (F, 4, h, w) of the picture `x` (F, 3, H, W) in 0…1.
fn encode(
    g: &mut GraphBuilder,
    config: &StreamConfig,
    source: &mut dyn Source,
    x: &Tensor,
) -> Result<Tensor, ModelError> {
    let (latent, scaling) = match &config.vae {
        Vae::Tiny(tiny) => {
            let mut net = Net::new(g, source, config.precision);
            (net.place("taesd", |net| taesd::encode(net, tiny, x))?, tiny.scaling)
        }
        Vae::Kl(kl) => {
            let [h, w] = config.latent();
            let noise = g.input("vae_noise", DType::F32, [config.frame_buffer, kl.latent_channels, h, w])?;
            let x = g.mul_scalar(x, 2.0)?;
            let x = g.sub_scalar(&x, 1.0)?;
            let mut net = Net::new(g, source, kl_precision(config, kl));
            (net.place("vae", |net| kl::encode(net, kl, &x, &noise))?, kl.scaling)
        }
    };
    let latent = g.cast(&latent, DType::F32)?;
    Ok(if scaling == 1.0 { latent } else { g.mul_scalar(&latent, scaling)? })
}

/// The picture (F, 3, H, W) in 0…1 of the scaled latent `x0` (F, 4, h, w).
fn decode(
    g: &mut GraphBuilder,
    config: &StreamConfig,
    source: &mut dyn Source,
    x0: &Tensor,
) -> Result<Tensor, ModelError> {
    let image = match &config.vae {
        Vae::Tiny(tiny) => {
            let latent = if tiny.scaling == 1.0 { x0.clone() } else { g.div_scalar(x0, tiny.scaling)? };
            let mut net = Net::new(g, source, config.precision);
            let image = net.place("taesd", |net| taesd::decode(net, tiny, &latent))?;
            g.cast(&image, DType::F32)?
        }
        Vae::Kl(kl) => {
            let latent = g.div_scalar(x0, kl.scaling)?;
            let mut net = Net::new(g, source, kl_precision(config, kl));
            let image = net.place("vae", |net| kl::decode(net, kl, &latent))?;
            let image = g.cast(&image, DType::F32)?;
            let image = g.mul_scalar(&image, 0.5)?;
            g.add_scalar(&image, 0.5)?
        }
    };
    Ok(g.clip(&image, 0.0, 1.0)?)
}

fn kl_precision(config: &StreamConfig, kl: &KlConfig) -> DType {
    if kl.force_upcast { DType::F32 } else { config.precision }
}

/// A picture in 0…1 (F, 3, H, W) as bytes (F, H, W, 3), rounded to the nearest.
fn bytes(g: &mut GraphBuilder, image: &Tensor) -> Result<Tensor, GraphError> {
    let x = g.transpose(image, &[0, 2, 3, 1])?;
    let x = g.mul_scalar(&x, 255.0)?;
    let x = g.round(&x)?;
    g.cast(&x, DType::U8)
}
