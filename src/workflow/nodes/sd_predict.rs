//! What the model takes for the clean latent at one step: every prompt asked, with its ControlNets, its LoRAs and its place.

use std::path::PathBuf;

use super::sd_find::Opened;
use super::sd_hooks::Hook;
use super::sd_latent::{REDUCTION, center, nearest_exact};
use super::sd_model::Diffusion;
use super::sd_schedule::{Levels, Step};
use super::sd_text::{Conditioning, Control, Entry};
use crate::graph::{DType, GraphBuilder, GraphError, Interpolation, Tensor};
use crate::models::controlnet::{self, ControlNetConfig, Residuals};
use crate::models::unet::{self, Added, Question, UnetConfig};
use crate::workflow::lower::{Cx, LowerError};

/// Every prompt of a sampler, and when it and its ControlNets count.
pub(super) struct Plan {
    asked: Vec<Asked>,
    /// Whether the negative prompts count.
    guided: bool,
}

struct Asked {
    entry: Entry,
    positive: bool,
    /// σ from and to which it counts; then the same of each ControlNet.
    windows: Vec<[f32; 2]>,
}

impl Plan {
    pub fn new(levels: &Levels, mut positive: Conditioning, mut negative: Conditioning, guided: bool) -> Self {
        share_controls(&mut positive, &mut negative);
        let window = |range: [f64; 2]| range.map(|share| levels.at(share));
        let asked = |positive: bool| {
            move |entry: Entry| {
                let own = window(entry.range.unwrap_or([0.0, 1.0]));
                let windows = std::iter::once(own).chain(entry.controls.iter().map(|control| window(control.range)));
                Asked { windows: windows.collect(), entry, positive }
            }
        };
        // The negative ones first, as ComfyUI has them.
        let negative = negative.0.into_iter().filter(|_| guided).map(asked(false));
        Self { asked: negative.chain(positive.0.into_iter().map(asked(true))).collect(), guided }
    }

    /// For each step each window: whether it is open.
    pub fn active(&self, steps: &[Step]) -> Vec<bool> {
        let windows = || self.asked.iter().flat_map(|asked| &asked.windows);
        steps.iter().flat_map(|step| windows().map(|[from, to]| step.sigma <= *from && step.sigma >= *to)).collect()
    }
}

/// ControlNets that were put on the positive side alone for both: each is given to a negative prompt too, unless one has its own.
fn share_controls(positive: &mut Conditioning, negative: &mut Conditioning) {
    let own = |entry: &Entry| !entry.controls.is_empty();
    if negative.0.iter().any(own) {
        return;
    }
    let shared: Vec<Vec<Control>> = positive
        .0
        .iter()
        .filter(|entry| entry.controls_both)
        .map(|entry| entry.controls.clone())
        .filter(|c| !c.is_empty())
        .collect();
    let count = negative.0.len();
    for (i, controls) in shared.into_iter().enumerate().filter(|_| count > 0) {
        let entry = &mut negative.0[i % count];
        if entry.controls.is_empty() {
            entry.controls = controls;
        } else {
            let more = Entry { controls, ..entry.clone() };
            negative.0.push(more);
        }
    }
}

/// A prompt in this graph.
struct Prompt {
    /// (1, T, D)
    states: Tensor,
    pooled: Option<Tensor>,
    /// Places in [`Predictor::controls`].
    controls: Vec<usize>,
    /// Place in [`Predictor::models`].
    model: usize,
    positive: bool,
    /// (B or 1, 1, h, w)
    weight: Option<Tensor>,
    /// Where its windows begin.
    first: usize,
}

/// A ControlNet's picture in this graph.
struct Condition {
    control: Control,
    /// Place in [`Predictor::nets`].
    net: usize,
    /// (F, 3, H, W)
    picture: Tensor,
    /// (1)
    strength: Tensor,
}

/// The networks of one sampler.
pub(super) struct Predictor {
    config: UnetConfig,
    models: Vec<(Vec<Hook>, Opened)>,
    nets: Vec<(PathBuf, ControlNetConfig, Opened)>,
    controls: Vec<Condition>,
    prompts: Vec<Prompt>,
    active: Vec<bool>,
    windows: usize,
    guided: bool,
    /// Batch, and height and width of the latent.
    size: [u64; 3],
}

impl Predictor {
    pub fn new(
        cx: &mut Cx<'_>,
        model: &Diffusion,
        plan: &Plan,
        active: &[bool],
        size: [u64; 3],
    ) -> Result<Self, LowerError> {
        let config = UnetConfig::from_json(&model.unet.config)?;
        let windows = plan.asked.iter().map(|asked| asked.windows.len()).sum();
        let mut made = Self {
            config,
            models: Vec::new(),
            nets: Vec::new(),
            controls: Vec::new(),
            prompts: Vec::new(),
            active: active.to_vec(),
            windows,
            guided: plan.guided,
            size,
        };
        let mut first = 0;
        for asked in &plan.asked {
            made.prompt(cx, model, asked, first)?;
            first += asked.windows.len();
        }
        Ok(made)
    }

    fn prompt(&mut self, cx: &mut Cx<'_>, model: &Diffusion, asked: &Asked, first: usize) -> Result<(), LowerError> {
        let entry = &asked.entry;
        let side = if asked.positive { "positive" } else { "negative" };
        let states = cx.bring(entry.states)?;
        let features = states.shape().fixed().and_then(|shape| shape.get(2).copied()).unwrap_or(0);
        if features != self.config.trunk.context_dim {
            let reason =
                format!("the prompt has {features} features, the model wants {}", self.config.trunk.context_dim);
            return Err(cx.refuse(side, reason, "take the text encoder of the same line of models"));
        }
        let pooled = match (self.config.trunk.addition, entry.pooled) {
            (None, _) => None,
            (Some(_), Some(pooled)) => Some(cx.bring(pooled)?),
            (Some(_), None) => {
                let reason = "the model wants a pooled prompt, which this text encoder has not";
                return Err(cx.refuse(side, reason, "take the text encoders of SDXL"));
            }
        };
        let model = match self.models.iter().position(|(hooks, _)| Hook::same(hooks, &entry.hooks)) {
            Some(known) => known,
            None => {
                let merged = Hook::merged(model, &entry.hooks);
                let name = format!("unet_{}", self.models.len());
                let precision = cx.env().precision;
                let opened = Opened::new(cx, &merged.unet, precision, &name)?;
                self.models.push((entry.hooks.clone(), opened));
                self.models.len() - 1
            }
        };
        let mut controls = Vec::with_capacity(entry.controls.len());
        for control in &entry.controls {
            controls.push(match self.controls.iter().position(|known| known.control.same(control)) {
                Some(known) => known,
                None => self.control(cx, control)?,
            });
        }
        let weight = match entry.mask {
            None => None,
            Some((mask, strength)) => {
                let [batch, height, width] = self.size;
                let (mask, strength) = (cx.bring(mask)?, cx.bring(strength)?);
                let g = cx.g()?;
                let mask = g.slice(&mask, 0, 0, batch as i64)?;
                let mask = g.unsqueeze(&mask, &[1])?;
                let mask = g.resize(&mask, height, width, Interpolation::Linear)?;
                Some(g.mul(&mask, &strength)?)
            }
        };
        self.prompts.push(Prompt { states, pooled, controls, model, positive: asked.positive, weight, first });
        Ok(())
    }

    /// The picture in the size of the latent's, cut to its proportions.
    fn control(&mut self, cx: &mut Cx<'_>, control: &Control) -> Result<usize, LowerError> {
        let [batch, height, width] = self.size;
        let (height, width) = (height * REDUCTION, width * REDUCTION);
        let root = control.net.stored.root().to_path_buf();
        let net = match self.nets.iter().position(|(known, ..)| *known == root) {
            Some(known) => known,
            None => {
                let config = ControlNetConfig::from_json(&control.net.stored.config)?;
                let name = format!("controlnet_{}", self.nets.len());
                let precision = cx.env().precision;
                let opened = Opened::new(cx, &control.net.stored, precision, &name)?;
                self.nets.push((root, config, opened));
                self.nets.len() - 1
            }
        };
        let picture = cx.bring(control.picture)?;
        let strength = cx.bring(control.strength)?;
        let g = cx.g()?;
        let pictures = picture.shape().fixed().and_then(|shape| shape.first().copied()).unwrap_or(1);
        let picture = g.slice(&picture, 3, 0, 3)?;
        let picture = match pictures {
            1 => picture,
            n if n >= batch => g.slice(&picture, 0, 0, batch as i64)?,
            _ => g.slice(&picture, 0, 0, 1)?,
        };
        let picture = g.transpose(&picture, &[0, 3, 1, 2])?;
        let picture = center(g, &picture, height, width)?;
        let picture = nearest_exact(g, &picture, height, width)?;
        let strength = g.reshape(&strength, &[1])?;
        self.controls.push(Condition { control: control.clone(), net, picture, strength });
        Ok(self.controls.len() - 1)
    }

    fn open(&self, step: usize, window: usize) -> bool {
        self.active.get(step * self.windows + window).copied().unwrap_or(false)
    }

    /// `skip·x + out·model(asked, timestep)`, averaged over the prompts of a side, and `negative + (positive − negative)·cfg`.
    #[allow(clippy::too_many_arguments)]
    pub fn denoised(
        &mut self,
        g: &mut GraphBuilder,
        step: usize,
        x: &Tensor,
        asked: &Tensor,
        timestep: &Tensor,
        [skip, out]: [&Tensor; 2],
        cfg: &Tensor,
    ) -> Result<Tensor, LowerError> {
        // Prompts that are asked together: of one model, under the same ControlNets.
        let mut groups: Vec<(usize, Vec<usize>, Vec<usize>)> = Vec::new();
        for (i, prompt) in self.prompts.iter().enumerate().filter(|(_, prompt)| self.open(step, prompt.first)) {
            let open = prompt.controls.iter().enumerate().filter(|(j, _)| self.open(step, prompt.first + 1 + j));
            let controls: Vec<usize> = open.map(|(_, control)| *control).collect();
            match groups.iter_mut().find(|(model, known, _)| *model == prompt.model && *known == controls) {
                Some((.., members)) => members.push(i),
                None => groups.push((prompt.model, controls, vec![i])),
            }
        }
        let kept = g.mul(x, skip)?;
        let mut made: Vec<Option<Tensor>> = vec![None; self.prompts.len()];
        for (model, controls, members) in groups {
            for (member, prediction) in members.iter().zip(self.ask(g, model, &controls, &members, asked, timestep)?) {
                let scaled = g.mul(&prediction, out)?;
                made[*member] = Some(g.add(&kept, &scaled)?);
            }
        }
        let positive = self.side(g, &made, true, x)?;
        if !self.guided {
            return Ok(positive);
        }
        let negative = self.side(g, &made, false, x)?;
        let away = g.sub(&positive, &negative)?;
        let away = g.mul(&away, cfg)?;
        Ok(g.add(&negative, &away)?)
    }

    /// The weighted mean of a side's prompts; zeros where none takes part.
    fn side(
        &self,
        g: &mut GraphBuilder,
        made: &[Option<Tensor>],
        positive: bool,
        x: &Tensor,
    ) -> Result<Tensor, GraphError> {
        let of_side = self.prompts.iter().zip(made).filter(|(prompt, _)| prompt.positive == positive);
        let there: Vec<(&Prompt, &Tensor)> =
            of_side.filter_map(|(prompt, made)| Some((prompt, made.as_ref()?))).collect();
        match there.as_slice() {
            [] => g.mul_scalar(x, 0.0),
            [(Prompt { weight: None, .. }, only)] => Ok((*only).clone()),
            many => {
                let (mut sum, mut total): (Option<Tensor>, Option<Tensor>) = (None, None);
                for (prompt, made) in many {
                    let weight = match &prompt.weight {
                        Some(weight) => weight.clone(),
                        None => g.scalar(DType::F32, 1.0)?,
                    };
                    let part = g.mul(made, &weight)?;
                    sum = Some(match sum {
                        Some(sum) => g.add(&sum, &part)?,
                        None => part,
                    });
                    total = Some(match total {
                        Some(total) => g.add(&total, &weight)?,
                        None => weight,
                    });
                }
                let (Some(sum), Some(total)) = (sum, total) else { return g.mul_scalar(x, 0.0) };
                // Where no mask reaches nothing is predicted.
                let total = g.add_scalar(&total, 1e-37)?;
                g.div(&sum, &total)
            }
        }
    }

    /// The model's answers for `members`, f32 (B, 4, h, w) each.
    fn ask(
        &mut self,
        g: &mut GraphBuilder,
        model: usize,
        controls: &[usize],
        members: &[usize],
        asked: &Tensor,
        timestep: &Tensor,
    ) -> Result<Vec<Tensor>, LowerError> {
        let [batch, height, width] = self.size;
        let rows = members.len() as u64 * batch;
        let prompts: Vec<&Prompt> = members.iter().map(|&i| &self.prompts[i]).collect();
        let tokens =
            |prompt: &Prompt| prompt.states.shape().fixed().and_then(|s| s.get(1).copied()).unwrap_or(1).max(1);
        // A prompt that is repeated says the same.
        let length = prompts.iter().map(|prompt| tokens(prompt)).fold(1, lcm);
        let mut states = Vec::with_capacity(prompts.len());
        for prompt in &prompts {
            let times = (length / tokens(prompt)) as usize;
            let long = if times > 1 { g.concat(&vec![&prompt.states; times], 1)? } else { prompt.states.clone() };
            states.push(if batch > 1 { g.concat(&vec![&long; batch as usize], 0)? } else { long });
        }
        let states = joined(g, &states)?;
        let sample = joined(g, &vec![asked.clone(); members.len()])?;
        let timestep = g.expand(timestep, &[rows])?;
        let pooled: Vec<Tensor> = prompts.iter().filter_map(|prompt| prompt.pooled.clone()).collect();
        let added = match pooled.is_empty() {
            true => None,
            false => {
                let mut every = Vec::with_capacity(pooled.len());
                for one in &pooled {
                    every.push(if batch > 1 { g.concat(&vec![one; batch as usize], 0)? } else { one.clone() });
                }
                let text = joined(g, &every)?;
                let [high, wide] = [height, width].map(|side| (side * REDUCTION) as f32);
                let sizes = [high, wide, 0.0, 0.0, high, wide].repeat(rows as usize);
                Some((text, g.floats(DType::F32, [rows, 6], &sizes)?))
            }
        };
        let question = |wanted: bool| Question {
            sample: &sample,
            timestep: &timestep,
            encoder_hidden_states: &states,
            added: added.as_ref().filter(|_| wanted).map(|(text_embeds, time_ids)| Added { text_embeds, time_ids }),
        };
        let mut residuals: Option<Residuals> = None;
        for &i in controls {
            let Condition { net, picture, strength, .. } = &self.controls[i];
            let (_, config, opened) = &mut self.nets[*net];
            let question = question(config.trunk.addition.is_some());
            let more = opened.build(g, |net| controlnet::build(net, config, &question, picture, strength))?;
            residuals = Some(match residuals {
                None => more,
                Some(known) => sum(g, known, &more)?,
            });
        }
        let (config, (_, opened)) = (&self.config, &mut self.models[model]);
        let question = question(config.trunk.addition.is_some());
        let y = opened.build(g, |net| unet::build(net, config, &question, residuals.as_ref()))?;
        let y = g.cast(&y, DType::F32)?;
        Ok(match members.len() {
            1 => vec![y],
            many => g.split(&y, 0, &vec![batch; many])?,
        })
    }

    /// Ends the files beside the graph.
    pub fn finish(self) -> Result<(), LowerError> {
        let nets = self.nets.into_iter().map(|(.., opened)| opened);
        self.models.into_iter().map(|(_, opened)| opened).chain(nets).try_for_each(Opened::finish)
    }
}

fn joined(g: &mut GraphBuilder, parts: &[Tensor]) -> Result<Tensor, GraphError> {
    match parts {
        [one] => Ok(one.clone()),
        many => g.concat(&many.iter().collect::<Vec<_>>(), 0),
    }
}

fn sum(g: &mut GraphBuilder, a: Residuals, b: &Residuals) -> Result<Residuals, GraphError> {
    let down = a.down.iter().zip(&b.down).map(|(a, b)| g.add(a, b)).collect::<Result<_, _>>()?;
    Ok(Residuals { down, middle: g.add(&a.middle, &b.middle)? })
}

fn lcm(a: u64, b: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a.max(1)
    };
    a / gcd(a, b) * b
}
