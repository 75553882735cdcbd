//! The constants of the LCM scheduler: noise levels, the grid of timesteps, the boundary condition.

use serde_json::{Value, json};

use super::ModelError;
use super::fields::Fields;

/// Timesteps of training.
const TRAINED: usize = 1000;

/// σ of the data in the boundary condition.
const SIGMA: f32 = 0.5;

/// Steps of distillation that the live runner takes the grid of.
pub const LIVE_GRID: u32 = 100;

/// Noise levels of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// ᾱ of each timestep of training.
    alphas_cumprod: Vec<f32>,
}

/// What the frame graph needs to know of the steps, one entry a step, noisiest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// Timesteps of training.
    pub timesteps: Vec<f32>,
    /// √ᾱ
    pub alpha_sqrt: Vec<f32>,
    /// √(1 − ᾱ)
    pub beta_sqrt: Vec<f32>,
    /// What remains of the input.
    pub c_skip: Vec<f32>,
    /// What the prediction counts.
    pub c_out: Vec<f32>,
}

impl Default for Schedule {
    /// The levels of Stable Diffusion 1.x, 2.x, XL and their turbo models.
    fn default() -> Self {
        Self::new(0.00085, 0.012, true)
    }
}

impl Schedule {
    /// Levels from `start` to `end`, evenly spaced, or with evenly spaced roots.
    fn new(start: f64, end: f64, roots: bool) -> Self {
        let (from, to) = if roots { (start.sqrt() as f32, end.sqrt() as f32) } else { (start as f32, end as f32) };
        let step = (to - from) / (TRAINED - 1) as f32;
        // Spaced from both ends to the middle, as PyTorch does it.
        let level = |i: usize| match i < TRAINED / 2 {
            true => from + step * i as f32,
            false => to - step * (TRAINED - 1 - i) as f32,
        };
        let mut product = 1.0_f64;
        let alphas_cumprod = (0..TRAINED).map(|i| {
            let beta = if roots { level(i) * level(i) } else { level(i) };
            product *= f64::from(1.0 - beta);
            product as f32
        });
        Self { alphas_cumprod: alphas_cumprod.collect() }
    }

    /// Reads a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`] for models that do not predict noise, and for other kinds of noise levels.
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields(config);
        fields.only("prediction_type", &[json!("epsilon")])?;
        fields.only("beta_schedule", &[json!("scaled_linear"), json!("linear")])?;
        fields.only("num_train_timesteps", &[json!(TRAINED)])?;
        fields.only("rescale_betas_zero_snr", &[json!(false)])?;
        if fields.has("trained_betas") {
            return Err(ModelError::config("trained_betas", "noise levels of a table are not built here"));
        }
        let (start, end) = (fields.number_or("beta_start", 0.00085)?, fields.number_or("beta_end", 0.012)?);
        if !(start > 0.0 && start <= end && end < 1.0) {
            return Err(ModelError::config("beta_start", format!("{start} to {end} are no noise levels")));
        }
        Ok(Self::new(start, end, fields.text("beta_schedule") != Some("linear")))
    }

    /// ᾱ of a timestep of training.
    pub fn alpha_cumprod(&self, timestep: u32) -> Option<f32> {
        self.alphas_cumprod.get(timestep as usize).copied()
    }

    /// The coefficients of the steps `t_index_list` of a grid of `steps` out of `grid`, see [`timesteps`].
    ///
    /// # Errors
    /// [`ModelError::Config`] as [`timesteps`], and for an index that is not below `steps`.
    pub fn steps(&self, steps: u32, grid: u32, t_index_list: &[u32]) -> Result<Steps, ModelError> {
        let timesteps = timesteps(steps, grid)?;
        let mut all = Steps::default();
        for index in t_index_list {
            let timestep = timesteps.get(*index as usize).copied().ok_or_else(|| {
                ModelError::config("t_index_list", format!("{index} is not below the number of steps, {steps}"))
            })?;
            let level = self.alphas_cumprod.get(timestep as usize).copied().unwrap_or(0.0);
            let (c_skip, c_out) = boundary(timestep as f32);
            all.timesteps.push(timestep as f32);
            all.alpha_sqrt.push(level.sqrt());
            all.beta_sqrt.push((1.0 - level).sqrt());
            all.c_skip.push(c_skip);
            all.c_out.push(c_out);
        }
        Ok(all)
    }
}

/// `steps` timesteps, noisiest first, evenly picked from the `grid` ones that the model was distilled on.
///
/// # Errors
/// [`ModelError::Config`] when there are no steps, or more than in the grid, or more in the grid than were trained.
pub fn timesteps(steps: u32, grid: u32) -> Result<Vec<u32>, ModelError> {
    if steps == 0 || steps > grid || grid > TRAINED as u32 {
        let reason = format!("{steps} steps do not fit a grid of {grid}");
        return Err(ModelError::config("num_inference_steps", reason));
    }
    let apart = TRAINED as u32 / grid;
    // floor(i · grid / steps), of the grid in descending order.
    Ok((0..steps).map(|i| apart * (grid - i * grid / steps) - 1).collect())
}

/// c_skip and c_out at a timestep.
fn boundary(timestep: f32) -> (f32, f32) {
    let scaled = timestep * 10.0;
    let sum = scaled * scaled + SIGMA * SIGMA;
    (SIGMA * SIGMA / sum, scaled / sum.sqrt())
}

/// Where the steps of `t_index_list` go when the number of steps changes from `old` to `new` and no list is given: to the
/// same share of the way. Also the number of steps, raised so that every index is below it.
pub fn rescale(t_index_list: &[u32], old: u32, new: u32) -> (Vec<u32>, u32) {
    let share = |index: u32| match old > 1 {
        true => (f64::from(index) * f64::from(new.saturating_sub(1)) / f64::from(old - 1)).round_ties_even() as u32,
        false => 0,
    };
    let list: Vec<u32> = t_index_list.iter().map(|&index| share(index)).collect();
    let needed = list.iter().max().map_or(1, |most| most + 1);
    (list, new.max(needed))
}
