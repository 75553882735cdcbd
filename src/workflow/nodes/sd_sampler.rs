//! KSampler: every step of a sampler in the graph, one behind another. Widgets become coefficients of the steps, so that only
//! another number of steps is another graph.

use std::sync::Arc;

use super::sd_latent::dims;
use super::sd_model::{Diffusion, number};
use super::sd_predict::{Plan, Predictor};
use super::sd_schedule::{Step, Way, way};
use super::sd_text::Conditioning;
use crate::graph::{DType, GraphBuilder, GraphError, Tensor};
use crate::models::noise::{Gpu, Mt19937, Philox};
use crate::workflow::class::input::{choice, float, int, link, seed};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, Data, EncodeError, LowerError, Value};
use crate::workflow::value::{Setting, Type};

/// Most steps that are unrolled.
const MAX_STEPS: usize = 50;

const SAMPLERS: &[&str] = &["euler", "euler_ancestral", "lcm", "ddim", "dpmpp_2m"];
const SCHEDULERS: &[&str] = &["normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform"];

/// Samplers.
pub const CLASSES: &[Class] = &[Class {
    inputs: &[
        link("model", Type::Model),
        seed("seed"),
        int("steps", 20, 1, 10_000),
        float("cfg", 8.0, 0.0, 100.0, 0.1).live(),
        choice("sampler_name", "euler", SAMPLERS).live(),
        choice("scheduler", "normal", SCHEDULERS).live(),
        link("positive", Type::Conditioning),
        link("negative", Type::Conditioning),
        link("latent_image", Type::Latent),
        float("denoise", 1.0, 0.0, 1.0, 0.01).live(),
    ],
    outputs: &[out(Type::Latent)],
    note: "Up to 50 steps. With a cfg of 1 the negative prompt is not asked; to and from 1 is another graph. Noise between steps \
           is that of ComfyUI on a GPU.",
    ..Class::alone("KSampler", sample)
}];

const FOLLOWED: [&str; 3] = ["sampler_name", "scheduler", "denoise"];

fn word(settings: &[Setting], i: usize) -> &str {
    settings.get(i).and_then(Setting::text).unwrap_or_default()
}

/// Guidance of exactly 1 needs no negative prompt.
fn guided(cfg: f64) -> bool {
    (cfg - 1.0).abs() > 1e-9 * cfg.abs().max(1.0)
}

/// `x₀ = start·noise + scale·latent`, then the steps; divided by the scale again.
fn sample(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let model: Diffusion = cx.held("model")?;
    let positive: Conditioning = cx.held("positive")?;
    let negative: Conditioning = cx.held("negative")?;
    let latent = cx.tensor("latent_image")?;
    let [batch, channels, height, width] = dims(cx, "latent_image", &latent)?;
    let count = usize::try_from(cx.int("steps")?).unwrap_or(0);
    let now = [cx.peek(FOLLOWED[0])?, cx.peek(FOLLOWED[1])?, cx.peek(FOLLOWED[2])?];
    let cfg = number(&[cx.peek("cfg")?], 0);
    let planned = {
        let (levels, prediction) = (model.levels.clone(), model.prediction);
        move |settings: &[Setting]| {
            way(&levels, prediction, word(settings, 0), word(settings, 1), count, number(settings, 2))
        }
    };
    let first = planned(&now);
    let steps = first.steps.len();
    if count > MAX_STEPS || steps > MAX_STEPS {
        let reason = format!("{} steps; up to {MAX_STEPS} are unrolled", count.max(steps));
        return Err(cx.refuse("steps", reason, "a live picture wants 1 to 8, with lcm or a distilled model"));
    }
    let plan = Arc::new(Plan::new(&model.levels, positive, negative, guided(cfg)));
    let follow = Follow { planned: Arc::new(planned), plan: plan.clone(), steps, active: plan.active(&first.steps) };
    let table = cx.live(
        &FOLLOWED,
        DType::F32,
        &[steps.max(1) as u64, Step::NUMBERS as u64],
        follow.encoder(|way| match way.steps.as_slice() {
            [] => vec![0.0; Step::NUMBERS],
            steps => steps.iter().flat_map(Step::numbers).collect(),
        }),
    )?;
    let start = cx.live(&FOLLOWED, DType::F32, &[], follow.encoder(|way| vec![way.start]))?;
    let cfg = cx.live(&["cfg"], DType::F32, &[], {
        let was = guided(cfg);
        move |settings| match number(settings, 0) {
            cfg if guided(cfg) != was => Err(EncodeError::Graph),
            cfg => Ok(Data::F32(vec![cfg as f32])),
        }
    })?;
    if steps == 0 {
        return Ok(vec![cx.value("latent_image")?]);
    }
    let size = (batch * channels * height * width) as usize;
    let noise = cx.live(&["seed"], DType::F32, &[steps as u64, batch, channels, height, width], move |settings| {
        let seed = match settings.first() {
            Some(Setting::Int(seed)) => *seed as u64,
            other => other.and_then(Setting::number).unwrap_or(0.0) as u64,
        };
        Ok(Data::F32(noise(seed, steps, size)))
    })?;
    let scale = model.scale();
    let mut predictor = Predictor::new(cx, &model, &plan, &follow.active, [batch, height, width])?;
    let g = cx.g()?;
    let at = |g: &mut GraphBuilder, i: usize| -> Result<Tensor, GraphError> {
        let row = g.slice(&noise, 0, i as i64, i as i64 + 1)?;
        g.squeeze(&row, &[0])
    };
    let clean = g.mul_scalar(&latent, scale)?;
    let drawn = at(g, 0)?;
    let drawn = g.mul(&drawn, &start)?;
    let mut x = g.add(&clean, &drawn)?;
    let mut before: Option<Tensor> = None;
    for i in 0..steps {
        let row = g.slice(&table, 0, i as i64, i as i64 + 1)?;
        let mut numbers = Vec::with_capacity(Step::NUMBERS);
        for cell in g.split(&row, 1, &[1; Step::NUMBERS])? {
            numbers.push(g.reshape(&cell, &[1])?);
        }
        let [timestep, input, skip, out, a, b, c, n] = numbers.as_slice() else {
            return Err(GraphError::Invalid("a step has other numbers".to_owned()).into());
        };
        let asked = g.mul(&x, input)?;
        let denoised = predictor.denoised(g, i, &x, &asked, timestep, [skip, out], &cfg)?;
        let kept = g.mul(&x, a)?;
        let step = g.mul(&denoised, b)?;
        x = g.add(&kept, &step)?;
        if let Some(before) = &before {
            let old = g.mul(before, c)?;
            x = g.add(&x, &old)?;
        }
        if i + 1 < steps {
            let fresh = at(g, i + 1)?;
            let fresh = g.mul(&fresh, n)?;
            x = g.add(&x, &fresh)?;
        }
        before = Some(denoised);
    }
    let y = g.div_scalar(&x, scale)?;
    predictor.finish()?;
    cx.one(&y)
}

/// The first noise as `torch.randn` on the CPU draws it, then that of the steps as the GPU draws it, `size` numbers each.
fn noise(seed: u64, steps: usize, size: usize) -> Vec<f32> {
    let mut noise = vec![0.0; steps * size];
    let (first, rest) = noise.split_at_mut(size.min(steps * size));
    Mt19937::new(seed).normal(first);
    let mut gpu = Philox::new(seed, Gpu::UNBOUNDED);
    rest.chunks_mut(size.max(1)).for_each(|row| gpu.normal(row));
    noise
}

/// What follows the widgets that decide about the steps.
struct Follow<P> {
    planned: Arc<P>,
    plan: Arc<Plan>,
    steps: usize,
    active: Vec<bool>,
}

impl<P: Fn(&[Setting]) -> Way + Send + Sync + 'static> Follow<P> {
    /// An encoder of what `numbers` says; another graph where steps or what takes part in them differ.
    fn encoder(
        &self,
        numbers: fn(&Way) -> Vec<f32>,
    ) -> impl Fn(&[Setting]) -> Result<Data, EncodeError> + Send + Sync + 'static {
        let (planned, plan, steps, active) = (self.planned.clone(), self.plan.clone(), self.steps, self.active.clone());
        move |settings| {
            let way = planned(settings);
            if way.steps.len() != steps || plan.active(&way.steps) != active {
                return Err(EncodeError::Graph);
            }
            Ok(Data::F32(numbers(&way)))
        }
    }
}
