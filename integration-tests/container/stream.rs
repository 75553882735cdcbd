//! The orchestrator's and the gateway's side of one stream, on Docker's bridge.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use weir::cli::rig::call;
use weir::cli::rig::control::Control;
use weir::cli::rig::decode::Decoding;
use weir::cli::rig::events::Events;
use weir::cli::rig::lab::{Channel, Channels, Lab};
use weir::cli::rig::ledger::Ledger;
use weir::cli::rig::reader::{Reader, Taps};
use weir::cli::rig::source::{Ready, Source, SourceConfig};
use weir::frame::{PixelFormat, Size};
use weir::media::pattern;

use crate::docker::Container;

const SIZE: Size = Size::new(512, 512);
/// How long pictures may take; other work shares the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The word of `/health`.
pub async fn health(address: SocketAddr) -> std::io::Result<String> {
    let (_, body) = call::request(address, Method::GET, "/health", None).await?;
    let answer: Value = serde_json::from_slice(&body).map_err(std::io::Error::other)?;
    answer["status"].as_str().map(str::to_owned).ok_or_else(|| std::io::Error::other("no status"))
}

/// A stream through a container.
pub struct Stream {
    lab: Lab,
    channels: Channels,
    theirs: Channels,
    pipeline: String,
    control: Control,
    source: Mutex<Option<Source>>,
    events: Events,
    output: Reader,
    _decoding: Decoding,
    inverted: Arc<Mutex<Vec<bool>>>,
    _bridge: AbortOnDropHandle<()>,
}

impl Stream {
    /// Orders a stream and begins to send a test picture.
    pub async fn start(container: &Container, pipeline: &str) -> Self {
        let lab = Lab::start().await.unwrap();
        // The same server once more, where containers reach it.
        let listener = TcpListener::bind((container.bridge().await, 0)).await.unwrap();
        let outside = listener.local_addr().unwrap();
        let server = lab.server().clone();
        let bridge =
            AbortOnDropHandle::new(tokio::spawn(async move { server.serve(listener, std::future::pending()).await }));
        let channels = lab.open();
        let theirs = channels.behind(outside, None);
        let inverted = Arc::new(Mutex::new(Vec::new()));
        let list = inverted.clone();
        let (feed, decoding) = Decoding::start(SIZE, PixelFormat::I420, move |frame| {
            if let Some(reading) = pattern::read(&frame) {
                list.lock().unwrap().push(reading.inverted);
            }
        })
        .unwrap();
        let (status, answer) = order(container.address, &theirs, pipeline).await;
        assert_eq!(status, 200, "{answer}");
        let client = lab.client().clone();
        let control = Control::open(&client, &channels.url(Channel::Control)).await.unwrap();
        let taps = Taps { feed: Some(feed), ..Taps::default() };
        let output = Reader::open(&client, &channels.url(Channel::Output), taps).unwrap();
        let events = Events::read(&client, &channels.url(Channel::Events)).unwrap();
        let source = Ready::open(SourceConfig::Pattern { size: SIZE, fps: 30.0 }).await.unwrap();
        let source =
            Source::start(source, &client, &channels.url(Channel::Input), Arc::new(Ledger::new())).await.unwrap();
        let source = Mutex::new(Some(source));
        let pipeline = pipeline.to_owned();
        Self {
            lab,
            channels,
            theirs,
            pipeline,
            control,
            source,
            events,
            output,
            _decoding: decoding,
            inverted,
            _bridge: bridge,
        }
    }

    /// Asks for another stream beside this one.
    pub async fn order_another(&self, container: &Container) -> (u16, Value) {
        order(container.address, &self.theirs, &self.pipeline).await
    }

    /// Sends an update as a gateway does.
    pub async fn update(&self, params: Value) {
        self.control.update(params.as_object().unwrap()).await.unwrap();
    }

    /// Waits until the last `count` pictures are inverted, or plain.
    pub async fn until_pictures(&self, what: &str, inverted: bool, count: usize) {
        let began = Instant::now();
        loop {
            {
                let list = self.inverted.lock().unwrap();
                if list.len() >= count && list[list.len() - count..].iter().all(|&found| found == inverted) {
                    return;
                }
            }
            let found = self.output.found();
            assert!(began.elapsed() < PATIENCE, "no {count} pictures, {what}: {found:?} {:?}", self.events.since(0));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for an event of a kind.
    pub async fn until_event(&self, kind: &str) {
        let found = self.events.wait(0, |event| event.kind == kind);
        assert!(tokio::time::timeout(PATIENCE, found).await.unwrap().is_some(), "no {kind} event");
    }

    /// Ends the input as a gateway does: what is left of it is sent, then its channel and control are closed.
    pub async fn end_input(&self) {
        let source = self.source.lock().unwrap().take().expect("a source");
        source.stop().await.unwrap();
        self.lab.close_channel(&self.channels, Channel::Control);
        self.lab.close_channel(&self.channels, Channel::Input);
    }

    /// Waits until the runner has deleted its own two channels.
    pub async fn until_deleted(&self, most: Duration) {
        let began = Instant::now();
        let own = [Channel::Output, Channel::Events].map(|which| self.channels.name(which));
        while self.lab.server().channels().iter().any(|name| own.contains(name)) {
            assert!(began.elapsed() < most, "left behind: {:?}", self.lab.server().channels());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn order(address: SocketAddr, channels: &Channels, pipeline: &str) -> (u16, Value) {
    let body = json!({
        "subscribe_url": channels.url(Channel::Input),
        "publish_url": channels.url(Channel::Output),
        "control_url": channels.url(Channel::Control),
        "events_url": channels.url(Channel::Events),
        "model_id": pipeline,
        "params": {"width": 512, "height": 512},
        "gateway_request_id": channels.manifest_id(),
        "manifest_id": channels.manifest_id(),
        "stream_id": "",
    });
    let asked = call::request(address, Method::POST, "/live-video-to-video", Some(&body)).await.unwrap();
    (asked.0.as_u16(), serde_json::from_slice(&asked.1).unwrap())
}
