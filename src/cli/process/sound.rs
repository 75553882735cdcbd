//! Sound of a file through a pipeline that works on it.

use super::error::ProcessError;
use super::stages::{Item, Sink};
use crate::media::{AudioBlocks, AudioFilter, AudioPacket, MediaError, RATE};
use crate::pipeline::AudioProcessor;

/// Lets a pipeline work on the sound before it is written. Nothing is dropped: what cannot be processed ends the run.
pub struct SoundSink {
    inner: Box<dyn Sink>,
    filter: AudioFilter,
    blocks: Blocks,
}

impl SoundSink {
    /// What `filter` gives goes to `inner`, pictures beside it.
    pub fn new(inner: Box<dyn Sink>, filter: AudioFilter, processor: Box<dyn AudioProcessor>) -> Self {
        Self { inner, filter, blocks: Blocks { processor, error: None } }
    }

    fn through(
        &mut self,
        work: impl FnOnce(&mut AudioFilter, &mut Blocks, &mut dyn FnMut(AudioPacket)) -> Result<(), MediaError>,
    ) -> Result<(), ProcessError> {
        let Self { inner, filter, blocks } = self;
        let mut written = Ok(());
        let done = work(filter, blocks, &mut |packet| {
            if written.is_ok() {
                written = inner.put(Item::Audio(packet));
            }
        });
        if let Some(reason) = blocks.error.take() {
            return Err(ProcessError::System(format!("the sound cannot be processed: {reason}")));
        }
        done.map_err(ProcessError::from).and(written)
    }
}

impl Sink for SoundSink {
    fn put(&mut self, item: Item) -> Result<(), ProcessError> {
        match item {
            Item::Audio(packet) => self.through(|filter, blocks, out| filter.push(&packet, blocks, out)),
            video => self.inner.put(video),
        }
    }

    fn finish(&mut self) -> Result<(), ProcessError> {
        let rest = self.through(|filter, blocks, out| filter.finish(blocks, out));
        let lost = self.filter.undecodable();
        let whole = match lost {
            0 => Ok(()),
            _ => Err(ProcessError::System(format!("{lost} packets of sound could not be decoded and are missing"))),
        };
        // The file is completed in any case.
        let finished = self.inner.finish();
        rest.and(finished).and(whole)
    }
}

struct Blocks {
    processor: Box<dyn AudioProcessor>,
    /// The first failure.
    error: Option<String>,
}

impl AudioBlocks for Blocks {
    fn length(&self) -> usize {
        self.processor.block(RATE)
    }

    fn block(&mut self, samples: &mut [f32], channels: u8) {
        if let Err(error) = self.processor.process(samples, channels, RATE) {
            samples.fill(0.0);
            self.error.get_or_insert_with(|| error.to_string());
        }
    }
}
