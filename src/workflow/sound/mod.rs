//! What nodes do to sound: functions on blocks of samples, outside of any graph.
//!
//! A block is what `LoadAudioTensor` collects. Every block is worked on by itself, as ComfyUI does, and keeps its length.

mod pitch;
mod resample;

pub use pitch::PitchShift;

/// A function on the sound of one channel.
pub trait SoundStage: Send {
    /// Changes the samples of one channel of a block in place; there are `rate` of them a second, from −1 to 1. `settings` are
    /// the node's, in the order in which they were declared.
    ///
    /// # Errors
    /// The block fails; the next may succeed.
    fn run(&mut self, samples: &mut [f32], rate: u32, settings: &[f64]) -> Result<(), String>;
}
