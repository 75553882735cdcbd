//! The arithmetic around the UNet: noise, guidance, the step of the LCM scheduler, and the state of the stream batch.
//! All in `f32`.
//!
//! With α, β the step's `alpha_sqrt`, `beta_sqrt`, n its noise, ε the prediction:
//! x̂ = c_out (x − β ε) / α + c_skip x, and the next step's input is α' x̂ + β' n'.

use super::{Guidance, Mode, StreamConfig};
use crate::graph::{DType, GraphBuilder, GraphError, Tensor};

/// The inputs that are numbers or state.
pub(super) struct Knobs {
    /// Of each row, (B, 1, 1, 1).
    alpha: Tensor,
    beta: Tensor,
    c_skip: Tensor,
    c_out: Tensor,
    /// Of each row, (B, 4, h, w); `None` where no row ever gets any.
    noise: Option<Tensor>,
    x_t_buffer: Option<Tensor>,
    stock_noise: Option<Tensor>,
    guidance_scale: Option<Tensor>,
    delta: Option<Tensor>,
    add_noise: Option<Tensor>,
    feedback: Option<Feedback>,
}

/// The last call's latents and what is mixed in of them.
struct Feedback {
    /// (F, 4, h, w)
    last: Tensor,
    /// (1), 0 where there is none.
    has_last: Tensor,
    /// (n)
    before: Option<Tensor>,
    after: Option<Tensor>,
}

impl Feedback {
    fn inputs(g: &mut GraphBuilder, config: &StreamConfig) -> Result<Option<Self>, GraphError> {
        if !config.feeds_back() {
            return Ok(None);
        }
        let [h, w] = config.latent();
        let mut shares = |name: &str, count: u64| match count {
            0 => Ok(None),
            count => g.input(name, DType::F32, [count]).map(Some),
        };
        let [before, after] =
            [shares("latent_before", config.latent_before)?, shares("latent_after", config.latent_after)?];
        let last = g.input("last_latent", DType::F32, [config.frame_buffer, config.unet.out_channels, h, w])?;
        Ok(Some(Self { last, has_last: g.input("has_last", DType::F32, [1])?, before, after }))
    }

    /// `x` (F, 4, h, w) with each share in turn: (1 − share) x + share · last, cut off at ±10.
    fn mix(&self, g: &mut GraphBuilder, shares: &Option<Tensor>, x: Tensor) -> Result<Tensor, GraphError> {
        let Some(shares) = shares else { return Ok(x) };
        let count = shares.shape().fixed().and_then(|dims| dims.first().copied()).unwrap_or(0) as i64;
        let mut mixed = x.clone();
        for i in 0..count {
            let share = g.slice(shares, 0, i, i + 1)?;
            let change = g.sub(&self.last, &mixed)?;
            let change = g.mul(&share, &change)?;
            mixed = g.add(&mixed, &change)?;
            mixed = g.clip(&mixed, -10.0, 10.0)?;
        }
        let zero = g.floats(DType::F32, [1], &[0.0])?;
        let there = g.greater(&self.has_last, &zero)?;
        g.select(&there, &mixed, &x)
    }
}

/// The rows of one call.
pub(super) struct Batch {
    /// What the UNet sees, (R, 4, h, w).
    pub rows: Tensor,
    /// The batch, (B, 4, h, w).
    x_t: Tensor,
    /// Stock noise behind the shift, (B, 4, h, w).
    stock_noise: Option<Tensor>,
}

/// What a call leaves.
pub(super) struct Step {
    /// The oldest rows' clean latents, (F, 4, h, w).
    pub x0: Tensor,
    pub x_t_buffer: Option<Tensor>,
    pub stock_noise: Option<Tensor>,
}

impl Knobs {
    pub(super) fn inputs(g: &mut GraphBuilder, config: &StreamConfig) -> Result<Self, GraphError> {
        let (steps, frames, batch) = (config.steps, config.frame_buffer, config.batch());
        let [h, w] = config.latent();
        let channels = config.unet.out_channels;
        let several = steps > 1;
        let mut coefficient = |name: &str| {
            let each = g.input(name, DType::F32, [steps, 1, 1, 1])?;
            repeat(g, &each, frames)
        };
        let [alpha, beta] = [coefficient("alpha_sqrt")?, coefficient("beta_sqrt")?];
        let [c_skip, c_out] = [coefficient("c_skip")?, coefficient("c_out")?];
        let noise = match config.mode == Mode::Image || several {
            false => None,
            true => {
                let each = g.input("init_noise", DType::F32, [steps, channels, h, w])?;
                Some(repeat(g, &each, frames)?)
            }
        };
        let mut optional = |there: bool, name: &str, shape: &[u64]| {
            if there { g.input(name, DType::F32, shape).map(Some) } else { Ok(None) }
        };
        let estimated = config.guidance.has_stock_noise();
        Ok(Self {
            alpha,
            beta,
            c_skip,
            c_out,
            noise,
            x_t_buffer: optional(several, "x_t_buffer", &[batch - frames, channels, h, w])?,
            stock_noise: optional(estimated, "stock_noise", &[batch, channels, h, w])?,
            guidance_scale: optional(config.guidance != Guidance::None, "guidance_scale", &[1])?,
            delta: optional(estimated, "delta", &[1])?,
            add_noise: optional(several, "add_noise", &[1])?,
            feedback: Feedback::inputs(g, config)?,
        })
    }

    /// Rows `from..to` of the noise.
    fn noise(&self, g: &mut GraphBuilder, from: i64, to: i64) -> Result<Tensor, GraphError> {
        match &self.noise {
            Some(noise) => g.slice(noise, 0, from, to),
            None => Err(GraphError::Invalid("noise is wanted where none is an input".to_owned())),
        }
    }

    /// c_out (x − β ε) / α + c_skip x
    fn clean(&self, g: &mut GraphBuilder, x: &Tensor, prediction: &Tensor) -> Result<Tensor, GraphError> {
        let noise = g.mul(&self.beta, prediction)?;
        let rest = g.sub(x, &noise)?;
        let rest = g.div(&rest, &self.alpha)?;
        let rest = g.mul(&self.c_out, &rest)?;
        let kept = g.mul(&self.c_skip, x)?;
        g.add(&rest, &kept)
    }
}

/// Each of the N rows of `x` F times, in place: (N, …) to (N · F, …).
fn repeat(g: &mut GraphBuilder, x: &Tensor, frames: u64) -> Result<Tensor, GraphError> {
    if frames == 1 {
        return Ok(x.clone());
    }
    let Some(dims) = x.shape().fixed() else { return Ok(x.clone()) };
    let mut wide = dims.clone();
    wide.insert(1, frames);
    let between = g.unsqueeze(x, &[1])?;
    let between = g.expand(&between, &wide)?;
    let flat: Vec<i64> = std::iter::once(-1).chain(dims[1..].iter().map(|&n| n as i64)).collect();
    g.reshape(&between, &flat)
}

/// Makes the batch of `start` (F, 4, h, w), the encoded frames or noise, and of the rows that are under way.
pub(super) fn enter(
    g: &mut GraphBuilder,
    config: &StreamConfig,
    knobs: &Knobs,
    start: &Tensor,
) -> Result<Batch, GraphError> {
    let (frames, batch) = (config.frame_buffer as i64, config.batch() as i64);
    let newest = match config.mode {
        Mode::Text => start.clone(),
        Mode::Image => {
            let [alpha, beta] = [g.slice(&knobs.alpha, 0, 0, frames)?, g.slice(&knobs.beta, 0, 0, frames)?];
            let noise = knobs.noise(g, 0, frames)?;
            let picture = g.mul(&alpha, start)?;
            let noise = g.mul(&beta, &noise)?;
            g.add(&picture, &noise)?
        }
    };
    let newest = match &knobs.feedback {
        None => newest,
        Some(feedback) => feedback.mix(g, &feedback.before, newest)?,
    };
    let x_t = match &knobs.x_t_buffer {
        None => newest.clone(),
        Some(older) => g.concat(&[&newest, older], 0)?,
    };
    let stock_noise = match &knobs.stock_noise {
        Some(stock) if config.steps > 1 => {
            let first = knobs.noise(g, 0, frames)?;
            let rest = g.slice(stock, 0, 0, batch - frames)?;
            Some(g.concat(&[&first, &rest], 0)?)
        }
        stock => stock.clone(),
    };
    let rows = match config.guidance {
        Guidance::None | Guidance::SelfNegative => x_t.clone(),
        Guidance::Initialize => g.concat(&[&newest, &x_t], 0)?,
        Guidance::Full => g.concat(&[&x_t, &x_t], 0)?,
    };
    Ok(Batch { rows, x_t, stock_noise })
}

/// Takes every row of `batch` one step on, by the UNet's `prediction` (R, 4, h, w).
pub(super) fn step(
    g: &mut GraphBuilder,
    config: &StreamConfig,
    knobs: &Knobs,
    batch: &Batch,
    prediction: &Tensor,
) -> Result<Step, GraphError> {
    let (frames, rows, all) = (config.frame_buffer as i64, config.batch() as i64, config.rows() as i64);
    let negatives = all - rows;
    let conditional = if negatives == 0 { prediction.clone() } else { g.slice(prediction, 0, negatives, all)? };
    // Guidance acts above 1 only: at and below it the conditional prediction stands, and no estimate is renewed.
    let acts = match &knobs.guidance_scale {
        None => None,
        Some(scale) => {
            let one = g.floats(DType::F32, [1], &[1.0])?;
            Some(g.greater(scale, &one)?)
        }
    };
    let mut stock_noise = batch.stock_noise.clone();
    if config.guidance == Guidance::Initialize
        && let (Some(stock), Some(acts)) = (&stock_noise, &acts)
    {
        let fresh = g.slice(prediction, 0, 0, negatives)?;
        let first = g.slice(stock, 0, 0, frames)?;
        let first = g.select(acts, &fresh, &first)?;
        stock_noise = Some(if rows == frames {
            first
        } else {
            let rest = g.slice(stock, 0, frames, rows)?;
            g.concat(&[&first, &rest], 0)?
        });
    }
    let unconditional = match (config.guidance, &stock_noise, &knobs.delta) {
        (Guidance::Full, _, _) => Some(g.slice(prediction, 0, 0, negatives)?),
        (_, Some(stock), Some(delta)) => Some(g.mul(delta, stock)?),
        _ => None,
    };
    let guided = match (&unconditional, &knobs.guidance_scale, &acts) {
        (Some(unconditional), Some(scale), Some(acts)) => {
            let difference = g.sub(&conditional, unconditional)?;
            let difference = g.mul(scale, &difference)?;
            let guided = g.add(unconditional, &difference)?;
            g.select(acts, &guided, &conditional)?
        }
        _ => conditional,
    };
    let clean = knobs.clean(g, &batch.x_t, &guided)?;
    let stock_noise = match &stock_noise {
        None => None,
        Some(stock) => Some(residual(g, config, knobs, stock, &guided)?),
    };
    let x_t_buffer = match &knobs.add_noise {
        None => None,
        Some(add_noise) => {
            let [alpha, beta] = [g.slice(&knobs.alpha, 0, frames, rows)?, g.slice(&knobs.beta, 0, frames, rows)?];
            let younger = g.slice(&clean, 0, 0, rows - frames)?;
            let kept = g.mul(&alpha, &younger)?;
            let noise = knobs.noise(g, frames, rows)?;
            let noise = g.mul(&beta, &noise)?;
            let noise = g.mul(add_noise, &noise)?;
            Some(g.add(&kept, &noise)?)
        }
    };
    let x0 = if rows == frames { clean } else { g.slice(&clean, 0, rows - frames, rows)? };
    let x0 = match &knobs.feedback {
        None => x0,
        Some(feedback) => feedback.mix(g, &feedback.after, x0)?,
    };
    Ok(Step { x0, x_t_buffer, stock_noise })
}

/// The next stock noise: the next step's noise plus what this step made of the noise alone, brought to the next step's
/// level, α' / β' (c_out (β S − β ε) / α + c_skip β S). Behind the last step α' and β' are 1 and the noise is the first's.
fn residual(
    g: &mut GraphBuilder,
    config: &StreamConfig,
    knobs: &Knobs,
    stock: &Tensor,
    guided: &Tensor,
) -> Result<Tensor, GraphError> {
    let (frames, rows) = (config.frame_buffer as i64, config.batch() as i64);
    let scaled = g.mul(&knobs.beta, stock)?;
    let change = knobs.clean(g, &scaled, guided)?;
    let [change, noise] = if rows == frames {
        [change, knobs.noise(g, 0, rows)?]
    } else {
        let ones = g.floats(DType::F32, [config.frame_buffer, 1, 1, 1], &vec![1.0; frames as usize])?;
        let mut next = |x: &Tensor| {
            let later = g.slice(x, 0, frames, rows)?;
            g.concat(&[&later, &ones], 0)
        };
        let [alpha, beta] = [next(&knobs.alpha)?, next(&knobs.beta)?];
        let later = knobs.noise(g, frames, rows)?;
        let first = knobs.noise(g, 0, frames)?;
        let noise = g.concat(&[&later, &first], 0)?;
        let change = g.mul(&alpha, &change)?;
        [g.div(&change, &beta)?, noise]
    };
    g.add(&noise, &change)
}
