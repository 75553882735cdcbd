//! What the threads and tasks of one session share: queues, the newest parameters, and the times that the state is
//! judged by. Everything here is either a queue with a bound or an atomic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::current::Parameters;
use super::data::Data;
use super::faults::{Fault, Faults};
use super::fresh::Fresh;
use super::outbox::Outbox;
use super::refusal::{Refusal, Refusals};
use super::tap;
use crate::frame::{FramePool, PixelFormat, VideoFrame};
use crate::link::Tap;
use crate::metering::{Meter, Metrics, Place, Queue, Silenced};
use crate::pipeline::{Checked, Pipeline, Provider};

/// A moment that any thread may set and any may read, without a lock.
#[derive(Debug)]
pub struct Moment {
    epoch: Instant,
    /// Microseconds after `epoch` plus one; 0 for never.
    micros: AtomicU64,
}

impl Moment {
    /// Not yet.
    pub fn new(epoch: Instant) -> Self {
        Self { epoch, micros: AtomicU64::new(0) }
    }

    /// It was at `now`.
    pub fn set(&self, now: Instant) {
        let micros = now.saturating_duration_since(self.epoch).as_micros() as u64;
        self.micros.store(micros + 1, Ordering::Relaxed);
    }

    /// Never, again.
    pub fn clear(&self) {
        self.micros.store(0, Ordering::Relaxed);
    }

    /// When it was.
    pub fn get(&self) -> Option<Instant> {
        match self.micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(self.epoch + Duration::from_micros(micros - 1)),
        }
    }
}

/// The newest value that nobody has taken yet.
#[derive(Debug)]
pub struct Latest<T> {
    pending: AtomicBool,
    value: Mutex<Option<T>>,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self { pending: AtomicBool::new(false), value: Mutex::new(None) }
    }
}

impl<T> Latest<T> {
    /// Puts a value in the place of any that waits.
    pub fn put(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.pending.store(true, Ordering::Release);
    }

    /// Takes what waits. Costs one atomic read when nothing does.
    pub fn take(&self) -> Option<T> {
        if !self.pending.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.value.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Which streams the input has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Whether there is video.
    pub video: bool,
    /// Channels of the audio, 0 if the tables do not say; `None` without audio.
    pub audio: Option<u8>,
}

/// What a session's threads and tasks share.
pub struct Shared {
    /// The supervisor's number for the session.
    pub id: u64,
    /// The slot that it runs in, counted from zero.
    pub slot: usize,
    /// The pipeline that runs.
    pub pipeline: &'static dyn Pipeline,
    /// Ends everything at once, without draining.
    pub cancel: CancellationToken,
    /// Ends the reading of the input; what was read is still published.
    pub reading: CancellationToken,
    /// Frames on their way to the model; loss point A.
    pub input: Fresh<VideoFrame>,
    /// Pictures and audio on their way to the encoder; loss point B.
    pub output: Outbox,
    /// The input's streams, when they became known or changed.
    pub streams: Latest<Streams>,
    /// Wakes the session: something that its owner should hear of at once has changed.
    pub changed: Notify,
    /// The session's parameters, and what the model has made of them.
    pub parameters: Parameters,
    /// Parameters that the model has not seen yet.
    pub params: Latest<Checked>,
    /// The session's picture buffers.
    pub pool: FramePool,
    /// True while the model takes frames; otherwise each one becomes an overlay picture.
    pub model_ready: AtomicBool,
    /// Whether frames become pictures of the overlay while the model loads; otherwise nothing is sent meanwhile.
    pub overlay: AtomicBool,
    /// Whether a caller wants the overlay in place of the model's pictures.
    pub held: AtomicBool,
    /// True while the model wants RGB pictures, false for I420.
    rgb: AtomicBool,
    /// Where the graphs of the model run; `None` without a graph. Written when a model comes, read by the status alone.
    pub provider: Mutex<Option<Provider>>,
    notes: Mutex<Vec<String>>,
    /// What the overlay says.
    pub notice: Mutex<String>,
    /// Since when the overlay has been showing that.
    pub notice_since: Moment,
    /// When the model became ready for this session.
    pub ready_at: Moment,
    /// The last byte of input.
    pub last_byte: Moment,
    /// The last decoded picture.
    pub last_input: Moment,
    /// The last audio that came in.
    pub last_audio: Moment,
    /// The last processed picture handed to the output.
    pub last_output: Moment,
    /// The last error.
    pub last_error: Moment,
    /// The last fault that was logged as a warning.
    warned: Moment,
    /// Microseconds between two pictures by their time stamps, averaged; 0 before it is known.
    pub interval_us: AtomicU64,
    /// The next segment of the control channel.
    pub control_seq: AtomicU64,
    /// Pictures decoded.
    pub frames_in: AtomicU64,
    /// Processed pictures handed to the output.
    pub frames_out: AtomicU64,
    /// Faults that have not been reported.
    pub faults: Faults,
    /// Whether the next picture is to be a key picture.
    pub key_wanted: AtomicBool,
    /// The recording that gets a copy of the output from its next segment on.
    pub file: Latest<tap::Tee>,
    /// A new ceiling of the video in kbit/s; 0 for the configured one.
    pub max_kbps: Latest<u64>,
    /// What works on sound, when the model has changed.
    pub sound: Latest<super::sound::Change>,
    /// Whether the parameters that the session began with let the model work on sound.
    pub sound_wanted: AtomicBool,
    /// As `key_wanted`, for the second coding.
    pub second_key: AtomicBool,
    /// As `max_kbps`, for the second coding.
    pub second_kbps: Latest<u64>,
    /// Further outputs that are wanted from now on.
    pub taps: Latest<Vec<Tap>>,
    /// A new cap of frames a second for the pipeline; 0 for none.
    pub max_fps: Latest<f64>,
    /// The cap that an update asked for last, before the setting's had a say.
    asked_fps: Mutex<Option<f64>>,
    /// Since when each of decode, model, encode and sound has been inside one call.
    pub busy: [Moment; 4],
    /// The engine's counters.
    pub metrics: Arc<Metrics>,
    /// Microseconds that the model has worked on frames of the session.
    pub model_us: AtomicU64,
    /// The stream's own.
    pub meter: Meter,
    /// What it says besides pictures.
    pub data: Data,
    /// When the session began.
    pub began: Instant,
    /// Pieces of input that wait.
    pub input_pieces: OnceLock<mpsc::WeakSender<super::ingest::Piece>>,
    /// Pieces of output that wait.
    pub output_pieces: OnceLock<mpsc::WeakSender<super::egress::Piece>>,
    /// What is refused on purpose besides the queues.
    pub refusing: Refusing,
}

/// Places that refuse frames on purpose, where somebody asked for it.
pub struct Refusing {
    /// [`Place::Decode`].
    pub decode: Refusal,
    /// [`Place::Model`].
    pub model: Refusal,
    /// [`Place::End`].
    pub end: Refusal,
    /// [`Place::Publish`].
    pub publish: Refusal,
}

/// Index into [`Shared::busy`].
pub const DECODE: usize = 0;
/// Index into [`Shared::busy`].
pub const MODEL: usize = 1;
/// Index into [`Shared::busy`].
pub const ENCODE: usize = 2;
/// Index into [`Shared::busy`].
pub const SOUND: usize = 3;

/// Frames that may wait for the model: a burst of the input.
const INPUT_QUEUE: usize = 24;
/// Picture buffers of a slot: both queues, one in each stage, one kept as the last good picture, and a few to spare.
pub const BUFFERS: usize = 60;

impl Shared {
    /// The state of the session of number `id` in `slot`, which begins at `now` with `params`.
    pub fn new(
        (id, slot): (u64, usize),
        pipeline: &'static dyn Pipeline,
        params: &Checked,
        pool: FramePool,
        (metrics, meter, data): (Arc<Metrics>, Meter, Data),
        refuse: &Refusals,
        now: Instant,
    ) -> Arc<Self> {
        let moment = || Moment::new(now);
        Arc::new(Self {
            id,
            slot,
            pipeline,
            cancel: CancellationToken::new(),
            reading: CancellationToken::new(),
            input: Fresh::new(INPUT_QUEUE).refusing(refuse.at(Place::Input)),
            output: Outbox::new().refusing(refuse.at(Place::Output)),
            streams: Latest::default(),
            changed: Notify::new(),
            parameters: Parameters::new(params.clone()),
            params: Latest::default(),
            pool,
            model_ready: AtomicBool::new(false),
            overlay: AtomicBool::new(true),
            held: AtomicBool::new(false),
            rgb: AtomicBool::new(false),
            provider: Mutex::new(None),
            notes: Mutex::default(),
            notice: Mutex::new(String::new()),
            notice_since: moment(),
            ready_at: moment(),
            last_byte: moment(),
            last_input: moment(),
            last_audio: moment(),
            last_output: moment(),
            last_error: moment(),
            warned: moment(),
            interval_us: AtomicU64::new(0),
            control_seq: AtomicU64::new(0),
            frames_in: AtomicU64::new(0),
            frames_out: AtomicU64::new(0),
            faults: Faults::default(),
            key_wanted: AtomicBool::new(false),
            file: Latest::default(),
            max_kbps: Latest::default(),
            sound: Latest::default(),
            sound_wanted: AtomicBool::new(pipeline.takes_audio(params)),
            second_key: AtomicBool::new(false),
            second_kbps: Latest::default(),
            taps: Latest::default(),
            max_fps: Latest::default(),
            asked_fps: Mutex::default(),
            busy: [moment(), moment(), moment(), moment()],
            metrics,
            model_us: AtomicU64::new(0),
            meter,
            data,
            began: now,
            input_pieces: OnceLock::new(),
            output_pieces: OnceLock::new(),
            refusing: Refusing {
                decode: refuse.at(Place::Decode),
                model: refuse.at(Place::Model),
                end: refuse.at(Place::End),
                publish: refuse.at(Place::Publish),
            },
        })
    }

    /// Sets what the overlay says from now on.
    pub fn notice(&self, text: String) {
        let mut notice = self.notice.lock().unwrap_or_else(PoisonError::into_inner);
        if *notice != text {
            *notice = text;
            self.notice_since.set(Instant::now());
        }
    }

    /// Records a fault for the events channel and the state.
    pub fn fail(&self, stage: &'static str, message: String) {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        if self.warned.get().is_none_or(|at| now.saturating_duration_since(at) >= second) {
            self.warned.set(now);
            tracing::warn!(session = self.id, stage, "{message}");
        } else {
            // A model that fails with every frame must not fill the log; the counter knows them all.
            tracing::debug!(session = self.id, stage, "{message}");
        }
        self.metrics.errors.with_label_values(&[stage]).inc();
        self.meter.fault(stage, &message);
        self.last_error.set(Instant::now());
        self.faults.put(Fault { stage, message });
        self.changed.notify_one();
    }

    /// What has no effect although the parameters ask for it.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what has no effect now; what is new is logged.
    pub fn note(&self, notes: Vec<String>) {
        let mut known = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        for note in notes.iter().filter(|note| !known.contains(note)) {
            tracing::warn!(session = self.id, "{note}.");
        }
        *known = notes;
    }

    /// True while the model takes frames.
    pub fn ready(&self) -> bool {
        self.model_ready.load(Ordering::Acquire)
    }

    /// Opens the way to the model, which wants pictures in `format`.
    pub fn open_model(&self, format: PixelFormat, provider: Option<Provider>) {
        *self.provider.lock().unwrap_or_else(PoisonError::into_inner) = provider;
        self.rgb.store(format == PixelFormat::Rgb24, Ordering::Relaxed);
        self.ready_at.set(Instant::now());
        self.model_ready.store(true, Ordering::Release);
    }

    /// Shows the overlay in place of the model's pictures, or lets them through again.
    pub fn hold(&self, on: bool) {
        if on {
            self.notice("Loading…".into());
        }
        if self.held.swap(on, Ordering::AcqRel) && !on {
            // What could not be shown meanwhile is no fault.
            self.ready_at.set(Instant::now());
        }
        self.changed.notify_one();
    }

    /// The pipeline gets at most the lower of `asked` and `set` frames a second from the next one on; 0 of either is no cap.
    pub fn cap(&self, set: f64, asked: f64) {
        *self.asked_fps.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        self.max_fps.put(super::ingest::cap(set, Some(asked)));
        self.changed.notify_one();
    }

    /// The cap that an update asked for last.
    pub fn asked_fps(&self) -> Option<f64> {
        *self.asked_fps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shuts the way to the model: frames become overlay pictures.
    pub fn shut_model(&self) {
        self.model_ready.store(false, Ordering::Release);
    }

    /// The layout that the model wants; I420 while there is none.
    pub fn format(&self) -> PixelFormat {
        if self.ready() && self.rgb.load(Ordering::Relaxed) { PixelFormat::Rgb24 } else { PixelFormat::I420 }
    }

    /// Time between two pictures by their time stamps; zero before it is known.
    pub fn interval(&self) -> Duration {
        Duration::from_micros(self.interval_us.load(Ordering::Relaxed))
    }

    /// Pictures a second by the stream's own time stamps.
    pub fn stream_fps(&self) -> Option<f64> {
        match self.interval_us.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(1e6 / micros as f64),
        }
    }

    /// Milliseconds that the slowest stage thread has been inside one call.
    pub fn busy_ms(&self, now: Instant) -> u64 {
        let since = |moment: &Moment| moment.get().map_or(0, |at| now.saturating_duration_since(at).as_millis() as u64);
        self.busy.iter().map(since).max().unwrap_or(0)
    }

    /// Ends the queues and everything that waits on them.
    pub fn abort(&self) {
        self.cancel.cancel();
        let (pictures, packets) = self.output.abort();
        self.drops_at(Place::End, (self.input.abort() + pictures) as u64);
        self.metrics.silenced(Silenced::End, packets as u64);
    }

    /// Shows the codecs at work in the engine's counters.
    pub fn show_codecs(&self) {
        let (decoder, encoder) = self.meter.codecs();
        self.metrics.set_codecs(self.slot, &decoder, &encoder);
    }

    /// Shows what waits before each stage at `now` in the engine's counters.
    pub fn show_queues(&self, now: Instant) {
        let age = |at: Option<Instant>| at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        let model = self.input.oldest(|frame| frame.stamps.decoded).flatten();
        self.metrics.waits(self.slot, Queue::Decode, waiting(&self.input_pieces), 0.0);
        self.metrics.waits(self.slot, Queue::Model, self.input.len(), age(model));
        self.metrics.waits(self.slot, Queue::Encode, self.output.pictures(), age(self.output.oldest()));
        self.metrics.waits(self.slot, Queue::Publish, waiting(&self.output_pieces), 0.0);
    }

    /// A frame ended at `place`.
    pub fn drop_at(&self, place: Place) {
        self.drops_at(place, 1);
    }

    /// `count` frames ended at `place`.
    pub fn drops_at(&self, place: Place, count: u64) {
        self.metrics.drops_at(place, count);
        self.meter.dropped(place, count, Instant::now());
    }
}

fn waiting<T>(sender: &OnceLock<mpsc::WeakSender<T>>) -> usize {
    let sender = sender.get().and_then(mpsc::WeakSender::upgrade);
    sender.map_or(0, |sender| sender.max_capacity() - sender.capacity())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_keeps_its_time_to_the_microsecond() {
        let epoch = Instant::now();
        let moment = Moment::new(epoch);
        assert_eq!(moment.get(), None);
        moment.set(epoch);
        assert_eq!(moment.get(), Some(epoch));
        moment.set(epoch + Duration::from_micros(1234));
        assert_eq!(moment.get(), Some(epoch + Duration::from_micros(1234)));
        moment.clear();
        assert_eq!(moment.get(), None);
    }

    #[test]
    fn the_newest_value_wins_and_is_taken_once() {
        let latest = Latest::default();
        assert_eq!(latest.take(), None::<u8>);
        latest.put(1);
        latest.put(2);
        assert_eq!(latest.take(), Some(2));
        assert_eq!(latest.take(), None);
    }
}
