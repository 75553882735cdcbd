//! The orchestrator's side of a stream: four channels, and a reader on each that the runner writes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use weir::trickle::{Begin, Client, Config, Publisher, Server, ServerConfig, Start, Subscriber, TrickleError};

use super::runner::{Runner, start_request};
use super::{LONG, ts, until};

/// A trickle server as orchestrators run it.
pub struct Orchestrator {
    /// The server.
    pub server: Server,
    /// URL above the channels.
    pub base: String,
    client: Client,
    task: JoinHandle<()>,
    next: AtomicU32,
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Orchestrator {
    /// A server on a free port.
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = ServerConfig { base_path: "/ai/trickle/".into(), ..ServerConfig::default() };
        let base = format!("http://{}{}", listener.local_addr().unwrap(), config.base_path);
        let server = Server::new(config);
        let serving = server.clone();
        let task = tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
        let client = Client::new(&Config { silent_get_ms: 60_000, ..Config::default() }).unwrap();
        Self { server, base, client, task, next: AtomicU32::new(0x1c0f_fee0) }
    }

    /// Where the server listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.base.trim_start_matches("http://").split('/').next().unwrap().parse().unwrap()
    }

    /// Reads a channel of this server.
    pub fn listen(&self, url: &str) -> Channel {
        Channel::read(&self.client, url)
    }

    /// Makes the four channels of a stream.
    pub async fn stream(&self) -> Stream {
        let manifest = format!("{:08x}", self.next.fetch_add(1, Ordering::Relaxed));
        for (suffix, mime) in [
            ("", "video/MP2T"),
            ("-out", "video/MP2T"),
            ("-control", "application/json"),
            ("-events", "application/json"),
        ] {
            assert!(self.server.create(&format!("{manifest}{suffix}"), mime));
        }
        let url = |suffix: &str| format!("{}{manifest}{suffix}", self.base);
        let input = Publisher::open(&self.client, &url(""), "video/MP2T", Begin::Zero).await.unwrap();
        let control = Publisher::open(&self.client, &url("-control"), "application/json", Begin::Zero).await.unwrap();
        let output = Channel::read(&self.client, &url("-out"));
        let events = Channel::read(&self.client, &url("-events"));
        Stream {
            server: self.server.clone(),
            base: self.base.clone(),
            manifest,
            input: Some(input),
            control: Some(control),
            output,
            events,
        }
    }

    /// Makes the channels, orders the stream and returns it running.
    pub async fn run(&self, runner: &Runner, model: &str, params: Option<Value>) -> Stream {
        let stream = self.stream().await;
        runner.order(&stream.request(model, params)).await;
        stream
    }
}

/// Everything that a channel carried.
pub struct Channel {
    seen: Arc<Mutex<Vec<(u64, Bytes)>>>,
    task: JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Channel {
    fn read(client: &Client, url: &str) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut subscriber = Subscriber::new(client, url, Start::Seq(0)).unwrap();
        let kept = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok(Some(mut segment)) = subscriber.next().await {
                let seq = segment.seq();
                if let Ok(Some(bytes)) = segment.document(256 << 20).await {
                    kept.lock().unwrap().push((seq, bytes));
                }
            }
        });
        Self { seen, task }
    }

    /// The whole segments so far, with their numbers.
    pub fn segments(&self) -> Vec<(u64, Bytes)> {
        self.seen.lock().unwrap().clone()
    }

    /// True once the channel is gone.
    pub fn ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for the channel's end.
    pub async fn end(&self, limit: Duration) {
        until("the end of a channel", limit, || self.ended().then_some(())).await;
    }
}

/// Feeding in the background; ends when dropped.
pub struct Feeding(JoinHandle<Publisher>);

impl Drop for Feeding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn feed(input: &mut Publisher, segment: &Bytes, takes: Duration) -> Result<(), TrickleError> {
    let pieces = (takes.as_millis() / 33).max(1) as usize;
    let piece = segment.len().div_ceil(pieces).max(1);
    let began = tokio::time::Instant::now();
    let mut writer = input.begin().await?;
    for (index, bytes) in segment.chunks(piece).enumerate() {
        tokio::time::sleep_until(began + takes * index as u32 / pieces as u32).await;
        writer.write(segment.slice_ref(bytes)).await?;
    }
    tokio::time::sleep_until(began + takes).await;
    writer.finish().await.map(drop)
}

/// The four channels of a stream.
pub struct Stream {
    server: Server,
    base: String,
    /// Name of the input; the others are named after it.
    pub manifest: String,
    /// The gateway's end of the input.
    pub input: Option<Publisher>,
    /// The gateway's end of the control channel.
    pub control: Option<Publisher>,
    /// What came out.
    pub output: Channel,
    /// What was told.
    pub events: Channel,
}

impl Stream {
    /// As [`Self::request`], with the output somewhere else: `base` is the URL above its channel.
    pub fn request_to(&self, model: &str, params: Option<Value>, base: &str) -> Value {
        let mut request = self.request(model, params);
        request["publish_url"] = format!("{base}{}-out", self.manifest).into();
        request
    }

    /// The start request of an orchestrator.
    pub fn request(&self, model: &str, params: Option<Value>) -> Value {
        start_request(&self.base, &self.manifest, model, params)
    }

    /// Closes a channel as an orchestrator does. `""` is the input.
    pub fn delete(&self, suffix: &str) -> bool {
        self.server.close(&format!("{}{suffix}", self.manifest))
    }

    /// True while a channel exists.
    pub fn exists(&self, suffix: &str) -> bool {
        self.server.snapshot(&format!("{}{suffix}", self.manifest)).is_some()
    }

    /// Publishes a segment over `takes`, in pieces.
    pub async fn feed(&mut self, segment: &Bytes, takes: Duration) {
        feed(self.input.as_mut().unwrap(), segment, takes).await.unwrap();
    }

    /// Publishes segments of `takes` each, one after another.
    pub async fn feed_all(&mut self, segments: &[Bytes], takes: Duration) {
        for segment in segments {
            self.feed(segment, takes).await;
        }
    }

    /// As [`Self::feed_all`], while the test does something else. Stops when the channel is gone.
    pub fn feed_behind(&mut self, segments: Arc<Vec<Bytes>>, takes: Duration) -> Feeding {
        let mut input = self.input.take().unwrap();
        Feeding(tokio::spawn(async move {
            for segment in segments.iter() {
                if feed(&mut input, segment, takes).await.is_err() {
                    break;
                }
            }
            input
        }))
    }

    /// Sends a control message; returns its number.
    pub async fn control(&mut self, document: impl Into<Bytes>) -> u64 {
        let sent = self.control.as_mut().unwrap().send_document(document.into());
        tokio::time::timeout(LONG, sent).await.expect("in time").unwrap()
    }

    /// Ends the input and the control channel as a gateway does, and waits for the end of the other two.
    pub async fn close(&self) {
        self.delete("-control");
        self.delete("");
        self.output.end(LONG).await;
        self.events.end(LONG).await;
    }

    /// Output segments as read by the tests' own reader. Empty ones are left out.
    pub fn output(&self) -> Vec<ts::Segment> {
        self.output.segments().iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(_, bytes)| ts::read(bytes)).collect()
    }

    /// As [`Self::output`], for streams whose segments may have broken off.
    pub fn output_cut(&self) -> Vec<ts::Segment> {
        self.output.segments().iter().map(|(_, bytes)| ts::read_cut(bytes)).collect()
    }

    /// All output in one piece.
    pub fn output_bytes(&self) -> Vec<u8> {
        self.output.segments().iter().flat_map(|(_, bytes)| bytes.to_vec()).collect()
    }

    /// The events so far, whole documents.
    pub fn documents(&self) -> Vec<Value> {
        let segments = self.events.segments();
        segments
            .iter()
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(_, bytes)| serde_json::from_slice(bytes).expect("JSON"))
            .collect()
    }

    /// The inner events of a type.
    pub fn events_of(&self, kind: &str) -> Vec<Value> {
        let events = self.documents().into_iter().map(|document| document["event"].clone());
        events.filter(|event| event["type"] == kind).collect()
    }

    /// Waits for an event of a type that fits.
    pub async fn event(&self, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let find = || self.events_of(kind).into_iter().find(|event| fits(event));
        let what = format!("an event `{kind}`");
        let began = std::time::Instant::now();
        loop {
            if let Some(event) = find() {
                return event;
            }
            assert!(began.elapsed() < LONG, "{what}: not in {:#?}", self.documents());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for the first output segment and the state ONLINE.
    pub async fn online(&self) {
        self.event("status", |event| event["state"] == "ONLINE").await;
    }
}
