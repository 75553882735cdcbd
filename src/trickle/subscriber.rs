//! Reading a channel, one GET ahead.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use tokio_util::task::AbortOnDropHandle;

use super::client::{Channel, Client, Failure, status_text};
use super::error::TrickleError;
use super::protocol::{Answer, EndReason, Event, Get, NO_SEGMENT, Position, Reread, Step, Subscribing};

/// Answers in a row without a new byte after which a segment is given up.
const REREADS: u32 = 2;

/// Counters of a subscriber since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriberStats {
    /// Segments handed out.
    pub segments: u64,
    /// Bytes handed out.
    pub bytes: u64,
    /// GETs given up for silence and asked again.
    pub reissued: u64,
    /// GETs that failed and were tried again.
    pub retries: u64,
    /// Jumps to the edge after a 470.
    pub jumps470: u64,
    /// Empty segments passed over.
    pub empty: u64,
    /// Segment numbers that were never seen.
    pub gaps: u64,
    /// Times that the numbers went backwards: the publisher began anew.
    pub restarts: u64,
    /// Bodies that broke off and were asked for again.
    pub reread: u64,
    /// Segments of which the rest was lost.
    pub broken: u64,
}

#[derive(Default)]
struct Counters {
    segments: AtomicU64,
    bytes: AtomicU64,
    reissued: AtomicU64,
    retries: AtomicU64,
    jumps470: AtomicU64,
    empty: AtomicU64,
    gaps: AtomicU64,
    restarts: AtomicU64,
    reread: AtomicU64,
    broken: AtomicU64,
    broken_in_a_row: AtomicU32,
}

/// What the GET ahead came to.
enum Fetched {
    Segment { head: Head, response: Response, then: Get },
    End(EndReason, Option<Failure>),
}

struct Head {
    seq: u64,
    latest: Option<u64>,
    gap: u64,
    restarted: bool,
}

type Ahead = AbortOnDropHandle<(Subscribing, Fetched)>;

/// Reads the segments of a channel in order.
///
/// While the caller reads one segment, the GET of the next is open already, in a task that ends with this value.
pub struct Subscriber {
    client: Client,
    channel: Arc<Channel>,
    /// The state while no GET is ahead, with the GET to open.
    idle: Option<(Subscribing, Get)>,
    ahead: Option<Ahead>,
    counters: Arc<Counters>,
    ended: Option<EndReason>,
    failure: Option<Failure>,
}

impl Subscriber {
    /// A subscriber that begins at `start`. The first GET is opened by the first [`next`](Self::next); relative starts
    /// count from then.
    ///
    /// # Errors
    /// `url` is no channel URL.
    pub fn new(client: &Client, url: &str, start: Position) -> Result<Self, TrickleError> {
        let channel = Arc::new(client.channel(url)?);
        let state = Subscribing::new(start, client.limits());
        let first = state.first();
        Ok(Self {
            client: client.clone(),
            channel,
            idle: Some((state, first)),
            ahead: None,
            counters: Arc::default(),
            ended: None,
            failure: None,
        })
    }

    /// Goes on with the newest segment after falling behind, instead of the one that comes next. Call it before the first
    /// [`next`](Self::next).
    pub fn keeping_newest(mut self) -> Self {
        self.idle = self.idle.map(|(state, first)| (state.keeping_newest(), first));
        self
    }

    /// The next segment, as soon as its first byte is there; `None` once the channel has ended, see
    /// [`end_reason`](Self::end_reason). Empty segments are passed over. An unfinished earlier segment stays readable.
    ///
    /// Cancel safe. Waits as long as the publisher does.
    ///
    /// # Errors
    /// [`TrickleError::Certificate`], after which the channel has ended. Everything else is retried or is an end.
    pub async fn next(&mut self) -> Result<Option<Segment>, TrickleError> {
        if self.ended.is_some() {
            return Ok(None);
        }
        if let Some((state, get)) = self.idle.take() {
            self.open(state, get);
        }
        let Some(ahead) = &mut self.ahead else { return Err(TrickleError::Stopped) };
        let Ok((mut state, fetched)) = ahead.await else {
            self.ahead = None;
            return Err(TrickleError::Stopped);
        };
        self.ahead = None;
        match fetched {
            Fetched::End(reason, failure) => {
                self.ended = Some(reason);
                self.failure = failure.clone();
                match failure {
                    Some(failure @ Failure::Certificate(_)) => Err(failure.into_error(self.channel.host())),
                    _ => Ok(None),
                }
            }
            Fetched::Segment { head, response, mut then } => {
                let broken = self.counters.broken_in_a_row.load(Relaxed);
                if let Some(reason) = state.bodies_broken(broken) {
                    self.ended = Some(reason);
                    return Ok(None);
                }
                if broken > 0 {
                    then.wait = then.wait.max(self.client.limits().retry_delay);
                }
                self.open(state, then);
                self.counters.segments.fetch_add(1, Relaxed);
                Ok(Some(Segment {
                    head,
                    body: Body::Open(response),
                    reread: Reread::new(REREADS),
                    client: self.client.clone(),
                    channel: self.channel.clone(),
                    partial: BytesMut::new(),
                    counters: self.counters.clone(),
                }))
            }
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> SubscriberStats {
        let c = &self.counters;
        SubscriberStats {
            segments: c.segments.load(Relaxed),
            bytes: c.bytes.load(Relaxed),
            reissued: c.reissued.load(Relaxed),
            retries: c.retries.load(Relaxed),
            jumps470: c.jumps470.load(Relaxed),
            empty: c.empty.load(Relaxed),
            gaps: c.gaps.load(Relaxed),
            restarts: c.restarts.load(Relaxed),
            reread: c.reread.load(Relaxed),
            broken: c.broken.load(Relaxed),
        }
    }

    /// Why the channel ended; `None` while it goes on.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.ended
    }

    /// The last failure before an end by failures, in words.
    pub fn last_failure(&self) -> Option<&str> {
        self.failure.as_ref().map(Failure::reason)
    }

    fn open(&mut self, state: Subscribing, get: Get) {
        let fetch = fetch(self.client.clone(), self.channel.clone(), state, get, self.counters.clone());
        self.ahead = Some(AbortOnDropHandle::new(tokio::spawn(fetch)));
    }
}

/// Opens GETs until there is a segment or an end.
async fn fetch(
    client: Client,
    channel: Arc<Channel>,
    mut state: Subscribing,
    mut get: Get,
    counters: Arc<Counters>,
) -> (Subscribing, Fetched) {
    let mut failure = None;
    loop {
        if !get.wait.is_zero() {
            tokio::time::sleep(get.wait).await;
        }
        let (event, response) = match open(&client, &channel, &mut state, get.position).await {
            None => (Event::Silent, None),
            Some(Ok((answer, response))) => (Event::Answer(answer), Some(response)),
            Some(Err(why)) => {
                let event = match why {
                    Failure::Certificate(_) => Event::Refused,
                    Failure::Lost(_) => Event::Failed,
                };
                failure = Some(why);
                (event, None)
            }
        };
        if let Event::Answer(Answer { status, .. }) = event
            && status != 200
        {
            failure = Some(Failure::Lost(status_text(status)));
        }
        match (state.on(event), response) {
            (Step::End(reason), _) => return (state, Fetched::End(reason, failure)),
            (Step::Deliver { seq, latest, gap, restarted, then }, Some(response)) => {
                counters.gaps.fetch_add(gap, Relaxed);
                counters.restarts.fetch_add(u64::from(restarted), Relaxed);
                let head = Head { seq, latest, gap, restarted };
                return (state, Fetched::Segment { head, response, then });
            }
            // An answer alone is delivered, and it comes with its response.
            (Step::Deliver { then, .. }, None) => get = then,
            (Step::Get(next), _) => {
                let counter = match event {
                    Event::Silent => &counters.reissued,
                    Event::Answer(Answer { status: 200, empty: true, .. }) => &counters.empty,
                    Event::Answer(Answer { status: NO_SEGMENT, .. }) => &counters.jumps470,
                    _ => &counters.retries,
                };
                counter.fetch_add(1, Relaxed);
                get = next;
            }
        }
    }
}

/// Opens one GET; `None` if it stays silent.
async fn open(
    client: &Client,
    channel: &Channel,
    state: &mut Subscribing,
    at: Position,
) -> Option<Result<(Answer, Response), Failure>> {
    let mut answer = pin!(client.get(channel, at));
    if let Ok(answer) = tokio::time::timeout(client.silence(), &mut answer).await {
        return Some(answer);
    }
    if at != Position::Next {
        return None;
    }
    // Asked again as it is, "next" would miss a segment that begins in between. While the old GET still waits, its
    // number is found out.
    tokio::select! {
        biased;
        answer = &mut answer => Some(answer),
        edge = client.next_of(channel) => {
            if let Ok((next, _)) = edge {
                state.resolve(next);
            }
            None
        }
    }
}

/// One segment of a channel, being read. Dropping it skips the rest.
pub struct Segment {
    head: Head,
    body: Body,
    reread: Reread,
    client: Client,
    channel: Arc<Channel>,
    partial: BytesMut,
    counters: Arc<Counters>,
}

enum Body {
    Open(Response),
    /// Broke off for this reason and is to be asked for again.
    Cut(Box<str>),
    Ended,
    Broken(Box<str>),
}

impl Segment {
    /// Its number.
    pub fn seq(&self) -> u64 {
        self.head.seq
    }

    /// The channel's next number when this segment was asked for; `None` at the live edge.
    pub fn latest(&self) -> Option<u64> {
        self.head.latest
    }

    /// Numbers between the last segment and this one that were never seen.
    pub fn gap(&self) -> u64 {
        self.head.gap
    }

    /// The number is not above the last one: the publisher began anew.
    pub fn restarted(&self) -> bool {
        self.head.restarted
    }

    /// The next bytes, cut anywhere; `None` at the end of the segment. Cancel safe.
    ///
    /// When the connection breaks, the segment is asked for again and read on from where it broke off.
    ///
    /// # Errors
    /// [`TrickleError::Broken`], again on every later call: the connection was lost, and the rest of the segment with it. The
    /// subscriber goes on with the next segment.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, TrickleError> {
        loop {
            match &mut self.body {
                Body::Ended => return Ok(None),
                Body::Broken(reason) => {
                    return Err(TrickleError::Broken { seq: self.head.seq, reason: reason.clone() });
                }
                Body::Open(response) => match response.chunk().await {
                    Ok(Some(mut bytes)) => {
                        let known = self.reread.came(bytes.len());
                        let new = bytes.split_off(known);
                        if !new.is_empty() {
                            self.counters.bytes.fetch_add(new.len() as u64, Relaxed);
                            return Ok(Some(new));
                        }
                    }
                    Ok(None) if self.reread.whole() => {
                        self.body = Body::Ended;
                        self.counters.broken_in_a_row.store(0, Relaxed);
                    }
                    Ok(None) => self.lost("asked for again, the segment is shorter than before".into()),
                    Err(error) => self.cut(Failure::from(error).reason().into()),
                },
                Body::Cut(reason) => {
                    let reason = std::mem::take(reason);
                    // Put back at once, so that a caller who gives up here finds things as they were.
                    self.body = Body::Cut(reason.clone());
                    self.again(reason).await;
                }
            }
        }
    }

    /// The body broke off.
    fn cut(&mut self, reason: Box<str>) {
        if self.reread.broke() {
            self.body = Body::Cut(reason);
        } else {
            self.lost(reason);
        }
    }

    /// The rest of the segment cannot be had.
    fn lost(&mut self, reason: Box<str>) {
        self.counters.broken.fetch_add(1, Relaxed);
        self.counters.broken_in_a_row.fetch_add(1, Relaxed);
        self.body = Body::Broken(reason);
    }

    /// Asks for the segment once more. `reason` is why that is needed.
    async fn again(&mut self, reason: Box<str>) {
        if self.reread.slow() {
            tokio::time::sleep(self.client.limits().retry_delay).await;
        }
        let get = self.client.get(&self.channel, Position::Seq(self.head.seq));
        let answer = tokio::time::timeout(self.client.stall(), get).await;
        self.counters.reread.fetch_add(1, Relaxed);
        match answer {
            Ok(Ok((Answer { status: 200, closed: false, empty: false, seq, .. }, response)))
                if seq.is_none_or(|seq| seq == self.head.seq) =>
            {
                self.body = Body::Open(response);
            }
            // The server does not hold it any more, or the channel is over: the subscriber finds out which.
            Ok(Ok(_)) => self.lost(reason),
            Ok(Err(_)) | Err(_) => self.cut(reason),
        }
    }

    /// The whole segment, of at most `max` bytes; `None` if it is empty. Cancel safe. Meant for JSON documents.
    ///
    /// # Errors
    /// [`TrickleError::TooLong`], and the rest is skipped; [`TrickleError::Broken`] as for [`chunk`](Self::chunk).
    pub async fn document(&mut self, max: usize) -> Result<Option<Bytes>, TrickleError> {
        while let Some(bytes) = self.chunk().await? {
            if bytes.len() > max.saturating_sub(self.partial.len()) {
                self.body = Body::Ended;
                self.partial = BytesMut::new();
                return Err(TrickleError::TooLong { seq: self.head.seq, limit: max });
            }
            self.partial.extend_from_slice(&bytes);
        }
        let document = std::mem::take(&mut self.partial).freeze();
        Ok((!document.is_empty()).then_some(document))
    }
}
