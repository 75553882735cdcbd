//! The similar-image filter in front of the stream.

use crate::frame::Size;
use crate::inference::{Config, InferenceError, Input, Output, Provider, Runtime, Session};
use crate::models::stream::similar;
use crate::models::synthetic::uniform;
use crate::pipeline::PipelineError;

/// Draws before they begin again.
const DRAWS: u64 = 1 << 12;

pub(super) struct Filter {
    session: Session,
    frame: Input<u8>,
    reference: Input<u8>,
    count: Input<f32>,
    threshold: Input<f32>,
    max_skip: Input<f32>,
    draw: Input<f32>,
    skip: Output<u8>,
    reference_out: Output<u8>,
    count_out: Output<f32>,
    /// The reference picture, as read and as written in the current run.
    pictures: [Vec<u8>; 2],
    counts: [f32; 1],
    draws: Vec<f32>,
    next: usize,
}

impl Filter {
    /// The filter on the host, wherever the stream runs: the frame is there, and nothing has to wait for a GPU to know
    /// whether it gets any work.
    pub fn load(runtime: &Runtime, config: &Config, size: Size) -> Result<Self, PipelineError> {
        let load = |error: &dyn std::fmt::Display| PipelineError::Load(error.to_string());
        let model = similar::build(1, size.height.into(), size.width.into()).map_err(|error| load(&error))?;
        let bytes = model.to_bytes().map_err(|error| load(&error))?;
        let host = Config { provider: Provider::Cpu, ..config.clone() };
        let session = Session::from_bytes(runtime, &host, &bytes).map_err(|error| load(&error))?;
        Self::new(session, size).map_err(|error| load(&error))
    }

    fn new(mut session: Session, size: Size) -> Result<Self, InferenceError> {
        let picture = [1, i64::from(size.height), i64::from(size.width), 3];
        let empty = || vec![0; 3 * size.pixels() as usize];
        Ok(Self {
            frame: session.input("frame", &picture)?,
            reference: session.input("reference", &picture)?,
            count: session.input("skip_count", &[1])?,
            threshold: session.input("threshold", &[1])?,
            max_skip: session.input("max_skip", &[1])?,
            draw: session.input("draw", &[1])?,
            skip: session.output("skip", &[1])?,
            reference_out: session.output("reference_out", &picture)?,
            count_out: session.output("skip_count_out", &[1])?,
            session,
            pictures: [empty(), empty()],
            counts: [-1.0],
            draws: uniform("similar", DRAWS).map(|u| ((u + 1.0) / 2.0) as f32).collect(),
            next: 0,
        })
    }

    pub fn hold(&mut self, threshold: f32, max_skip: u32) -> Result<(), InferenceError> {
        self.session.hold(&self.threshold, &[threshold])?;
        self.session.hold(&self.max_skip, &[max_skip as f32])
    }

    /// Whether `frame` is to be skipped. With `force` it passes and becomes the reference.
    pub fn skips(&mut self, frame: &[u8], force: bool) -> Result<bool, InferenceError> {
        if force {
            self.counts = [-1.0];
        }
        let draw = [self.draws[self.next]];
        self.next = (self.next + 1) % self.draws.len();
        let (mut skip, mut after) = ([0], [0.0]);
        let [read, written] = &mut self.pictures;
        self.session.run(
            &[self.frame.feed(frame), self.reference.feed(read), self.count.feed(&self.counts), self.draw.feed(&draw)],
            &mut [self.skip.fetch(&mut skip), self.count_out.fetch(&mut after), self.reference_out.fetch(written)],
        )?;
        self.counts = after;
        self.pictures.swap(0, 1);
        Ok(skip[0] != 0)
    }

    pub fn reset(&mut self) {
        self.counts = [-1.0];
        self.next = 0;
        self.pictures.iter_mut().for_each(|picture| picture.fill(0));
    }
}
