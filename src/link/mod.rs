//! The messages between the supervisor and its engine, and their framing: JSON behind a 32-bit big-endian length, on the
//! child's standard input and output. Plain data, no behaviour; a test can play either side.
//!
//! The supervisor speaks first with [`ToEngine::Load`]. Every request that carries an `id` is answered by exactly one
//! [`FromEngine::Reply`] with that `id`. The pipe's end means the other side is gone: an engine whose input closes stops.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod framing;

pub use framing::{LinkError, Reader, Writer};

/// Longest message in bytes, framing excluded. Larger than the largest accepted request body.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// Longest text of a [`FromEngine::Said`] in bytes: what a data channel takes in one message with room to spare.
pub const MAX_SAID: usize = 64 * 1024;

/// How the pictures of an output are coded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// What every player of the network takes.
    #[default]
    H264,
    /// For WebRTC peers that have nothing else.
    Vp8,
}

/// A further output of a session, on a channel of the supervisor's own. `Debug` hides the URL.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Tap {
    /// Where it is written.
    pub url: String,
    /// How its pictures are coded.
    pub coding: Coding,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("coding", &self.coding).finish_non_exhaustive()
    }
}

/// A stream as the orchestrator ordered it (`POST /live-video-to-video`). URLs are credentials: `Debug` hides them.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamRequest {
    /// Where the input is read; empty for none, where `worker` is set.
    pub subscribe_url: String,
    /// Where the output is written; empty for none, where `worker` is set.
    pub publish_url: String,
    /// Where updates are read; empty for none.
    #[serde(default)]
    pub control_url: String,
    /// Where events are written; empty for none.
    #[serde(default)]
    pub events_url: String,
    /// Where texts and figures are written as JSON lines; empty for none.
    #[serde(default)]
    pub data_url: String,
    /// Whether the data channel gets the figures of every interval.
    #[serde(default)]
    pub figures: bool,
    /// The pipeline that the caller expects; empty for any.
    #[serde(default)]
    pub model_id: String,
    /// Parameters of the pipeline.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// The gateway's request id, for logs.
    #[serde(default)]
    pub gateway_request_id: String,
    /// The orchestrator's manifest id, for logs and the ledger.
    #[serde(default)]
    pub manifest_id: String,
    /// The client's stream id, for logs; may be empty.
    #[serde(default)]
    pub stream_id: String,
    /// Frames a second handed to the pipeline at most; the lower of this and the setting counts.
    #[serde(default)]
    pub max_fps: Option<f64>,
    /// Profile of the output's H.264 in the encoder's own words; empty for the setting.
    #[serde(default)]
    pub video_profile: String,
    /// Whether input and output are channels of the supervisor's own, on loopback, which no setting has to allow. Never from
    /// a caller's body.
    #[serde(default)]
    pub own_channels: bool,
    /// Whether it came by the stream API: input and output may be missing, and the control channel takes `max_framerate` and
    /// `show_loading` beside the parameters.
    #[serde(default)]
    pub worker: bool,
    /// Whether the overlay is shown in place of the model's pictures.
    #[serde(default)]
    pub show_loading: bool,
    /// How the output's pictures are coded.
    #[serde(default)]
    pub coding: Coding,
    /// Further outputs from the start on.
    #[serde(default)]
    pub taps: Vec<Tap>,
}

impl std::fmt::Debug for StreamRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamRequest")
            .field("model_id", &self.model_id)
            .field("gateway_request_id", &self.gateway_request_id)
            .field("manifest_id", &self.manifest_id)
            .field("stream_id", &self.stream_id)
            .finish_non_exhaustive()
    }
}

/// Where a session was when its engine went away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// The parameters in force: those of the last accepted update, else of the start.
    pub params: Map<String, Value>,
    /// Engine restarts so far, this one included.
    pub restart_count: u32,
    /// Why the engine was replaced, for people.
    pub reason: String,
    /// The last lines that the old engine logged, at most 100.
    pub logs: Vec<String>,
    /// Unix time of the restart in milliseconds.
    pub restart_time_ms: u64,
    /// Unix time at which the session started, in milliseconds.
    pub start_time_ms: u64,
    /// The last video time stamp handed to the output, 90 kHz; frames up to it are not published again.
    pub last_video_pts: Option<i64>,
    /// As `last_video_pts`, for audio.
    pub last_audio_pts: Option<i64>,
    /// The next control segment to read.
    pub control_seq: Option<u64>,
    /// Where the account of the stream was: `metering::Carry` as JSON.
    #[serde(default)]
    pub account: Option<Value>,
}

/// A picture that is to be processed.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageOrder {
    /// A PNG or JPEG file in base64.
    pub image: String,
    /// Parameters of the pipeline.
    pub params: Map<String, Value>,
    /// How often the model gets the picture; the last output counts.
    pub passes: u32,
    /// `png` or `jpeg`.
    pub format: String,
}

/// The picture is left out.
impl std::fmt::Debug for ImageOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageOrder").field("passes", &self.passes).field("format", &self.format).finish_non_exhaustive()
    }
}

/// A picture that was processed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Imaged {
    /// The file in base64.
    pub image: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Milliseconds that the model worked.
    pub model_ms: f64,
}

/// What a recording's file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordFormat {
    /// An MPEG transport stream, byte for byte as it is put out.
    #[default]
    Ts,
    /// The same pictures and sound as fragmented MP4. Takes H.264.
    Mp4,
}

impl RecordFormat {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Ts, Self::Mp4];

    /// How its files' names end.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Ts => "ts",
            Self::Mp4 => "mp4",
        }
    }
}

/// A recording that is to begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordOrder {
    /// Its name, for [`ToEngine::Recordings`].
    pub name: String,
    /// The file; it is `FILE.part` until it is whole.
    pub file: std::path::PathBuf,
    /// What it is.
    #[serde(default)]
    pub format: RecordFormat,
    /// Bytes of output after which it ends.
    pub max_bytes: u64,
    /// Milliseconds after which it ends.
    pub max_ms: u64,
}

/// From the supervisor to the engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToEngine {
    /// Load this pipeline. First message, once.
    Load {
        /// Name of the pipeline.
        pipeline: String,
        /// `engine::Config` as JSON.
        config: Value,
    },
    /// Tell the network that these sessions are lost and delete their output and events channels, then exit. In place of
    /// `Load`, when engines failed too often.
    Abandon {
        /// The sessions.
        requests: Vec<StreamRequest>,
        /// Name of the pipeline.
        pipeline: String,
        /// `engine::Config` as JSON.
        config: Value,
        /// Why.
        message: String,
    },
    /// Check `request` and start it. Answered at once; the work begins after the answer.
    Start {
        /// Of the reply.
        id: u64,
        /// Names the session in every later message.
        session: u64,
        /// What to run.
        request: Box<StreamRequest>,
        /// Unix time in milliseconds at which the request arrived.
        arrived_ms: u64,
        /// Set when the session ran in an engine that is gone.
        resume: Option<Box<Resume>>,
    },
    /// New parameters for a session.
    Update {
        /// Of the reply.
        id: u64,
        /// The session; `None` for the only one, an error while several run.
        session: Option<u64>,
        /// The new parameters; none, beside a cap or the overlay, leave those in force alone.
        params: Map<String, Value>,
        /// Frames a second handed to the pipeline at most from now on; the lower of this and the setting counts.
        #[serde(default)]
        max_fps: Option<f64>,
        /// Whether the overlay is shown in place of the model's pictures from now on.
        #[serde(default)]
        show_loading: Option<bool>,
    },
    /// Keeps a copy of what a session puts out from its next segment on, or ends that. Answered by one
    /// [`FromEngine::Reply`]; at an end when the file is whole.
    Record {
        /// Of the reply.
        id: u64,
        /// The session.
        session: u64,
        /// What is kept and where; `None` ends it.
        order: Option<RecordOrder>,
    },
    /// Asks for the recordings under way. Answered by [`FromEngine::Described`]: their names as keys, `bytes`,
    /// `seconds` and `lost_segments` of each.
    Recordings {
        /// Of the reply.
        id: u64,
    },
    /// How a session's pictures are to be encoded from now on. Not answered.
    Encode {
        /// The session.
        session: u64,
        /// Which of its encoders.
        coding: Coding,
        /// Whether the next picture is to be a key picture.
        key: bool,
        /// Ceiling in kbit/s, below the configured one; 0 for the configured one, `None` for no change.
        max_kbps: Option<u64>,
    },
    /// The further outputs of a session from now on; those that are no longer among them are closed. Not answered.
    Taps {
        /// The session.
        session: u64,
        /// All of them.
        taps: Vec<Tap>,
    },
    /// End a session: flush, close, delete its channels. Answered by [`FromEngine::Ended`].
    Stop {
        /// The session.
        session: u64,
        /// For the log.
        reason: String,
    },
    /// Runs one picture through a model that no session uses. Answered by [`FromEngine::Imaged`].
    Image {
        /// Of the reply.
        id: u64,
        /// What is to be done.
        order: Box<ImageOrder>,
    },
    /// Asks for [`FromEngine::Metrics`].
    Scrape {
        /// Of the reply.
        id: u64,
        /// As OpenMetrics, without its last line; else as Prometheus text.
        openmetrics: bool,
    },
    /// Watches every frame for a while, then answers with [`FromEngine::Traced`].
    Trace {
        /// Of the reply.
        id: u64,
        /// How long.
        seconds: u64,
    },
    /// Asks what happened to the last frames of a session, one by one. Answered by [`FromEngine::Described`] with
    /// `metering::Since`, null without such a session.
    Frames {
        /// Of the reply.
        id: u64,
        /// Which.
        session: u64,
        /// From which number on.
        after: u64,
    },
    /// Asks for [`FromEngine::Described`].
    Describe {
        /// Of the reply.
        id: u64,
    },
    /// Looks at a workflow without running it; answered with [`FromEngine::Described`], whose value is then what it is.
    Examine {
        /// Of the reply.
        id: u64,
        /// The workflow in any form.
        workflow: Value,
        /// Whether its picture is wanted too.
        svg: bool,
    },
    /// End every session within `grace_ms`, then exit 0.
    Shutdown {
        /// Milliseconds until the supervisor kills the engine.
        grace_ms: u64,
    },
}

/// What the engine says of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Done, or taken on.
    Accepted,
    /// A parameter is wrong; nothing changed.
    BadParams {
        /// Which one, as a dotted path; empty where the reason says it all.
        field: String,
        /// Why.
        reason: String,
    },
    /// Something else in the request is wrong (a URL, a model id); nothing changed.
    BadRequest {
        /// For the caller.
        message: String,
    },
    /// Every session slot is in use.
    Busy,
    /// No such session.
    NotFound,
    /// The engine cannot do it now.
    Failed {
        /// For the caller.
        message: String,
    },
}

/// What the engine as a whole is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// The pipeline loads.
    Loading {
        /// The step it is at, for people.
        detail: String,
    },
    /// Warm.
    Ready {
        /// Milliseconds that loading took.
        load_ms: u64,
        /// Instances of the pipeline that are loaded, which is how many sessions can run at a time.
        #[serde(default = "one")]
        instances: usize,
        /// Where their graphs run: `cpu`, `cuda` or `tensorrt`; none where the pipeline has no graph.
        #[serde(default)]
        provider: Option<String>,
    },
    /// Loading failed; the engine exits after this message.
    Failed {
        /// The library's own message with what to do.
        message: String,
    },
}

fn one() -> usize {
    1
}

/// What a session looks like from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionReport {
    /// The session.
    pub session: u64,
    /// `ONLINE`, `LOADING`, `DEGRADED_INPUT`, `DEGRADED_INFERENCE`, `ERROR` or `OFFLINE`.
    pub state: String,
    /// The status object of the contract (`type`, `pipeline`, `start_time`, …), without its event envelope.
    pub status: Value,
    /// Parameters in force, what [`Resume::params`] must carry.
    pub params: Map<String, Value>,
    /// The next control segment to read.
    pub control_seq: Option<u64>,
    /// The part of the time that the model works on the session's frames, 0 to 1; none before it had any.
    #[serde(default)]
    pub model_share: Option<f64>,
    /// The cap of frames a second that was asked for last, what [`StreamRequest::max_fps`] must carry; none before an update
    /// asked for one.
    #[serde(default)]
    pub max_fps: Option<f64>,
    /// Whether the overlay is shown in place of the model's pictures, what [`StreamRequest::show_loading`] must carry.
    #[serde(default)]
    pub show_loading: Option<bool>,
}

/// From the engine to the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromEngine {
    /// The engine is there and reads its input. First message.
    Hello {
        /// Its process id.
        pid: u32,
    },
    /// Loading moves on.
    Phase(Phase),
    /// Answer to a request.
    Reply {
        /// Of the request.
        id: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Sent every 500 ms while every stage thread is alive and moving. Its absence means that the engine hangs.
    Beat {
        /// Milliseconds that the model thread has been inside one call; 0 when it waits for frames.
        busy_ms: u64,
    },
    /// A session changed state, took new parameters, or a second went by.
    Session(SessionReport),
    /// Sent before the bytes of a frame leave, so that a new engine never repeats one.
    Published {
        /// The session.
        session: u64,
        /// Last video time stamp, 90 kHz.
        video_pts: Option<i64>,
        /// Last audio time stamp, 90 kHz.
        audio_pts: Option<i64>,
    },
    /// A session said something besides pictures. Left out where the queue is full.
    Said {
        /// The session.
        session: u64,
        /// A text of the pipeline, of at most [`MAX_SAID`] bytes.
        text: String,
    },
    /// An interval of a session ended. Sent for the last one before [`FromEngine::Ended`].
    Metered {
        /// The session.
        session: u64,
        /// `metering::Interval` as JSON.
        interval: Value,
    },
    /// A session is over and its resources are free.
    Ended {
        /// The session.
        session: u64,
        /// Why, for the log.
        reason: String,
        /// True when it ended because of a fault on our side.
        fault: bool,
    },
    /// The engine's own registry, in the form that was asked for.
    Metrics {
        /// Of the request.
        id: u64,
        /// The text.
        text: String,
    },
    /// What became of a picture.
    Imaged {
        /// Of the request.
        id: u64,
        /// `Accepted` with a picture, else why there is none.
        outcome: Outcome,
        /// The picture.
        image: Option<Imaged>,
    },
    /// What happened to frames.
    Traced {
        /// Of the request.
        id: u64,
        /// A JSON document in the form that Chrome and Perfetto open.
        text: String,
    },
    /// What the pipeline is, or what happened to frames, for pages and people.
    Described {
        /// Of the request.
        id: u64,
        /// `{"name", "about", "schema", "params", "updates"}`: the pipeline's name, one sentence, the JSON Schema of its
        /// parameters, the parameters in force, and `replace` or `merge`.
        value: Value,
    },
}
