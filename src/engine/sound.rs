//! Sound on its way from the decode thread to the encoder: past the model, or through it on a thread of its own.
//!
//! Where the running pipeline leaves sound alone its packets go on as they are. Where it works on sound, they go to the
//! thread `weir-sound`, which decodes them, lets the pipeline work on blocks of samples, and encodes those. The thread is
//! started when the first such pipeline is there and ends with the stream; in between packets pass through it in order,
//! whether the pipeline of the moment works on sound or not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::shared::{SOUND, Shared};
use crate::media::{self, AudioBlocks, AudioCodec, AudioFilter, AudioPacket, MediaError, PacketCodec, RATE};
use crate::metering::Silenced;
use crate::pipeline::AudioProcessor;

/// Packets that may wait for the sound thread: over four seconds of them.
pub const PACKETS: usize = 256;

/// What works on sound from now on; nothing for packets as they are.
pub type Change = Option<Box<dyn AudioProcessor>>;

/// What the sound thread is told.
enum Cue {
    Packet(AudioPacket),
    Change(Change),
}

/// The way of a session's sound, on the decode thread. Its thread ends with it.
pub struct SoundWay {
    shared: Arc<Shared>,
    /// What is published; `None` for no sound at all.
    codec: Option<PacketCodec>,
    kbps: u32,
    /// Nothing is sent before the model is there.
    waits: bool,
    thread: Option<(Sender<Cue>, JoinHandle<()>)>,
}

impl SoundWay {
    /// The way of the sound of `shared`.
    pub fn new(shared: &Arc<Shared>, config: &media::Config) -> Self {
        let codec = match config.audio {
            AudioCodec::Opus => Some(PacketCodec::Opus),
            AudioCodec::Aac => Some(PacketCodec::Aac),
            AudioCodec::None => None,
        };
        let waits = codec.is_some() && shared.sound_wanted.load(Ordering::Relaxed);
        Self { shared: shared.clone(), codec, kbps: config.audio_kbps, waits, thread: None }
    }

    /// Takes the next packet of the input. Does not wait.
    pub fn packet(&mut self, packet: AudioPacket) {
        if let Some(change) = self.shared.sound.take() {
            self.waits = false;
            self.change(change);
        }
        match &self.thread {
            _ if self.waits => self.shared.metrics.silenced(Silenced::Model, 1),
            None => send(&self.shared, packet),
            Some((cues, _)) => {
                let place = match cues.try_send(Cue::Packet(packet)) {
                    Ok(()) => return,
                    Err(TrySendError::Full(_)) => Silenced::Queue,
                    // The thread has told why and has ended the stream.
                    Err(TrySendError::Disconnected(_)) => Silenced::End,
                };
                self.shared.metrics.silenced(place, 1);
            }
        }
    }

    fn change(&mut self, change: Change) {
        let Some(codec) = self.codec else { return };
        if self.thread.is_none() && change.is_some() {
            let (cues, received) = bounded(PACKETS);
            let (shared, filter) = (self.shared.clone(), AudioFilter::new(codec, self.kbps));
            let stream = tracing::Span::current();
            let work = move || stream.in_scope(|| run(&shared, filter, &received));
            match std::thread::Builder::new().name("weir-sound".into()).spawn(work) {
                Ok(thread) => self.thread = Some((cues, thread)),
                Err(error) => {
                    self.shared.fail("model", format!("A thread for sound could not be started: {error}"));
                    self.shared.cancel.cancel();
                }
            }
        }
        if let Some((cues, _)) = &self.thread {
            // A change is never lost: it waits for the packets before it, of which there is a bound. A thread that is gone
            // has ended the stream.
            let _ = cues.send(Cue::Change(change));
        }
    }
}

impl Drop for SoundWay {
    fn drop(&mut self) {
        if let Some((cues, thread)) = self.thread.take() {
            drop(cues);
            // A panic of the thread has already ended the process through the panic hook.
            let _ = thread.join();
        }
    }
}

/// Hands a packet to the encoder.
fn send(shared: &Shared, packet: AudioPacket) {
    if shared.output.audio(packet).is_some() {
        shared.metrics.silenced(Silenced::Output, 1);
        tracing::debug!(session = shared.id, "Audio is dropped: the encoder does not take it.");
    }
}

fn run(shared: &Shared, mut filter: AudioFilter, cues: &Receiver<Cue>) {
    let mut processor: Change = None;
    let mut damaged = 0;
    let mut failed = false;
    for cue in cues {
        if failed || shared.cancel.is_cancelled() {
            shared.metrics.silenced(Silenced::End, u64::from(matches!(cue, Cue::Packet(_))));
            continue;
        }
        shared.busy[SOUND].set(Instant::now());
        let result = match (cue, &mut processor) {
            (Cue::Packet(packet), Some(processor)) => {
                filter.push(&packet, &mut Blocks { shared, processor: &mut **processor }, &mut |p| send(shared, p))
            }
            (Cue::Packet(packet), None) => {
                send(shared, packet);
                Ok(())
            }
            (Cue::Change(change), _) => {
                tracing::info!(session = shared.id, through = change.is_some(), "Sound takes another way.");
                let result = match change {
                    // What is held goes on to the new one.
                    Some(_) => Ok(()),
                    None => finish(shared, &mut filter, &mut processor),
                };
                processor = change;
                result
            }
        };
        if let Err(error) = result {
            fail(shared, &error);
            failed = true;
        }
        shared.metrics.silenced(Silenced::Damaged, filter.undecodable() - damaged);
        damaged = filter.undecodable();
        shared.busy[SOUND].clear();
    }
    if failed || shared.cancel.is_cancelled() {
        return;
    }
    shared.busy[SOUND].set(Instant::now());
    if let Err(error) = finish(shared, &mut filter, &mut processor) {
        fail(shared, &error);
    }
    shared.busy[SOUND].clear();
}

/// Works on what fills no block.
fn finish(shared: &Shared, filter: &mut AudioFilter, processor: &mut Change) -> Result<(), MediaError> {
    match processor {
        Some(processor) => {
            filter.finish(&mut Blocks { shared, processor: &mut **processor }, &mut |packet| send(shared, packet))
        }
        None => Ok(()),
    }
}

fn fail(shared: &Shared, error: &MediaError) {
    shared.fail("encode", format!("The sound cannot be coded: {error}"));
    shared.cancel.cancel();
}

/// The pipeline's part of the sound.
struct Blocks<'a> {
    shared: &'a Shared,
    processor: &'a mut dyn AudioProcessor,
}

impl AudioBlocks for Blocks<'_> {
    fn length(&self) -> usize {
        self.processor.block(RATE)
    }

    fn block(&mut self, samples: &mut [f32], channels: u8) {
        let began = Instant::now();
        if let Err(error) = self.processor.process(samples, channels, RATE) {
            // As with pictures, what came in is not sent in its place.
            samples.fill(0.0);
            self.shared.fail("model", format!("Error processing sound: {error}"));
        }
        self.shared.metrics.sound_blocks.inc();
        self.shared.metrics.sound_busy.inc_by(began.elapsed().as_secs_f64());
    }
}
