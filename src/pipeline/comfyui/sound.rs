//! The sound of a workflow: its stages on a thread of their own, its settings read there at the begin of every block.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::{AudioProcessor, PipelineError};
use crate::workflow::lower::{Known, Sound};
use crate::workflow::sound::SoundStage;
use crate::workflow::{Plan, Setting};

/// A number that one thread writes and another reads.
#[derive(Debug)]
struct Number(AtomicU64);

impl Number {
    fn of(known: &Known, plan: &Plan) -> Self {
        let number = Self(AtomicU64::new(0));
        number.follow(known, plan);
        number
    }

    fn follow(&self, known: &Known, plan: &Plan) {
        // A link in the place of a widget would be another graph.
        if let Some(number) = known.get(plan).and_then(Setting::number) {
            self.0.store(number.to_bits(), Ordering::Relaxed);
        }
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// The settings of a workflow's sound.
#[derive(Debug)]
pub struct Settings {
    block_ms: Number,
    steps: Vec<Vec<Number>>,
}

impl Settings {
    /// Those of `plan`.
    pub fn of(sound: &Sound, plan: &Plan) -> Self {
        let steps = sound.steps.iter();
        Self {
            block_ms: Number::of(&sound.block_ms, plan),
            steps: steps.map(|step| step.settings.iter().map(|known| Number::of(known, plan)).collect()).collect(),
        }
    }

    /// Takes over those of `plan`, which the next block of sound sees.
    pub fn follow(&self, sound: &Sound, plan: &Plan) {
        self.block_ms.follow(&sound.block_ms, plan);
        for (step, numbers) in sound.steps.iter().zip(&self.steps) {
            step.settings.iter().zip(numbers).for_each(|(known, number)| number.follow(known, plan));
        }
    }
}

/// The way of a stream's sound.
pub struct Way {
    sound: Sound,
    settings: Arc<Settings>,
    /// For each channel its own stages.
    channels: Vec<Vec<Box<dyn SoundStage>>>,
    /// The samples of one channel.
    one: Vec<f32>,
    /// The settings of one stage.
    numbers: Vec<f64>,
}

impl Way {
    /// One that has seen no sound.
    pub fn new(sound: &Sound, settings: Arc<Settings>) -> Self {
        Self { sound: sound.clone(), settings, channels: Vec::new(), one: Vec::new(), numbers: Vec::new() }
    }
}

impl AudioProcessor for Way {
    fn block(&self, rate: u32) -> usize {
        (f64::from(rate) * self.settings.block_ms.get() / 1000.0) as usize
    }

    fn process(&mut self, samples: &mut [f32], channels: u8, rate: u32) -> Result<(), PipelineError> {
        let count = usize::from(channels.max(1));
        while self.channels.len() < count {
            self.channels.push(self.sound.steps.iter().map(|step| (step.make)()).collect());
        }
        for (channel, stages) in self.channels.iter_mut().take(count).enumerate() {
            self.one.clear();
            self.one.extend(samples.iter().skip(channel).step_by(count));
            for (stage, numbers) in stages.iter_mut().zip(&self.settings.steps) {
                self.numbers.clear();
                self.numbers.extend(numbers.iter().map(Number::get));
                stage.run(&mut self.one, rate, &self.numbers).map_err(PipelineError::Frame)?;
            }
            let places = samples.iter_mut().skip(channel).step_by(count);
            // Beyond full scale an encoder of 16 bits would turn over.
            places.zip(&self.one).for_each(|(to, from)| *to = from.clamp(-1.0, 1.0));
        }
        Ok(())
    }
}
