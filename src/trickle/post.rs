//! One segment on its way out: the POST that carries it, its body, and what became of it.
//!
//! A [`Post`] is shared by the writer that feeds it, the body that the connection drains, and the task ([`carry`])
//! that opens the connection, watches for the answer and cleans up. An attempt of which the connection took nothing
//! is repeated with the same queue, so a writer notices nothing of it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::client::{Channel, Client, Failure, status_text};
use super::error::TrickleError;
use super::protocol::{EndReason, Outcome, PostStep, Progress, Publishing};

/// Chunks that wait for the connection before a writer has to wait.
pub(super) const CHUNK_QUEUE: usize = 32;
/// Tries of one DELETE.
const DELETE_TRIES: usize = 2;

/// Locks a mutex whose content stays sound when a holder panics.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of a segment. Final.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Published whole.
    Accepted,
    /// Closed early by the server; the next one should not follow before this time.
    Skipped(Instant),
    /// Cut short.
    Broken(Box<str>),
    /// The channel has ended.
    Ended(EndReason),
    /// The publisher is gone.
    Stopped,
}

/// What the posts of one publisher share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) channel: Channel,
    pub(super) mime: &'static str,
    pub(super) state: Mutex<Publishing>,
    pub(super) failure: Mutex<Option<Failure>>,
    pub(super) counters: Counters,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) segments: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) broken: AtomicU64,
    pub(super) abandoned: AtomicU64,
    pub(super) stalled: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) deleted: AtomicU64,
    pub(super) delete_failed: AtomicU64,
}

impl Shared {
    /// The error of a channel that ended for `reason`.
    pub(super) fn ended(&self, reason: EndReason) -> TrickleError {
        match (reason, lock(&self.failure).clone()) {
            (EndReason::Certificate, Some(failure)) => failure.into_error(self.channel.host()),
            _ => TrickleError::Ended(reason),
        }
    }
}

/// One segment on its way out.
pub(super) struct Post {
    pub(super) seq: u64,
    chunks: Mutex<mpsc::Receiver<Bytes>>,
    /// The attempt whose body may take chunks.
    attempt: AtomicU32,
    taken: AtomicU64,
    finished: AtomicBool,
    whole: AtomicBool,
    abandoned: AtomicBool,
    hurry: Notify,
    settled: AtomicBool,
    verdict: watch::Sender<Option<Verdict>>,
}

impl Post {
    pub(super) fn new(seq: u64) -> (Arc<Self>, mpsc::Sender<Bytes>) {
        let (tx, rx) = mpsc::channel(CHUNK_QUEUE);
        let post = Self {
            seq,
            chunks: Mutex::new(rx),
            attempt: AtomicU32::new(0),
            taken: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            whole: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            hurry: Notify::new(),
            settled: AtomicBool::new(false),
            verdict: watch::Sender::new(None),
        };
        (Arc::new(post), tx)
    }

    /// The segment is complete once the queue is empty; to be called before the sender is dropped.
    pub(super) fn finish(&self) {
        self.finished.store(true, Release);
    }

    /// The segment is given up.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Release);
        self.hurry.notify_one();
    }

    /// There is a verdict.
    pub(super) fn settled(&self) -> bool {
        self.settled.load(Acquire)
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict.borrow().clone()
    }

    /// Waits for the verdict.
    pub(super) async fn wait(&self) -> Verdict {
        let mut verdict = self.verdict.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        match verdict.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(verdict)) => verdict.clone(),
            _ => Verdict::Stopped,
        }
    }

    fn settle(&self, verdict: Verdict) {
        self.verdict.send_if_modified(|held| {
            let first = held.is_none();
            if first {
                *held = Some(verdict);
            }
            first
        });
        self.settled.store(true, Release);
    }

    /// Takes the queue away from the attempt that has it, and tells how far that got.
    fn retire(&self) -> Progress {
        let _queue = lock(&self.chunks);
        self.attempt.fetch_add(1, Release);
        Progress { bytes: self.taken.load(Acquire), whole: self.whole.load(Acquire) }
    }

    /// Something waits for the connection: chunks, or the answer to a finished segment.
    fn waits(&self) -> bool {
        self.finished.load(Acquire) || !lock(&self.chunks).is_empty()
    }
}

/// Settles a post when its task ends in any way.
pub(super) struct Settle(pub(super) Arc<Post>);

impl Drop for Settle {
    fn drop(&mut self) {
        self.0.settle(Verdict::Stopped);
    }
}

/// Why a body ends without being complete; the connection is then closed without an end mark.
#[derive(Debug, thiserror::Error)]
#[error("the segment is given up")]
struct GivenUp;

struct SegmentBody {
    post: Arc<Post>,
    attempt: u32,
}

impl Body for SegmentBody {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let post = &self.post;
        let mut chunks = lock(&post.chunks);
        if post.attempt.load(Acquire) != self.attempt {
            return Poll::Ready(Some(Err(GivenUp)));
        }
        match ready!(chunks.poll_recv(cx)) {
            Some(bytes) => {
                post.taken.fetch_add(bytes.len() as u64, Release);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            None if post.finished.load(Acquire) => {
                post.whole.store(true, Release);
                Poll::Ready(None)
            }
            None => Poll::Ready(Some(Err(GivenUp))),
        }
    }
}

/// Carries one segment to the server, retries what may be retried, and cleans up what is cut short.
pub(super) async fn carry(shared: Arc<Shared>, settle: Settle, reset: bool) {
    let post = &settle.0;
    let counters = &shared.counters;
    loop {
        let (outcome, why) = attempt(&shared, post, reset).await;
        let progress = post.retire();
        let step = lock(&shared.state).on(Instant::now().into_std(), progress, outcome);
        match outcome {
            Outcome::Stalled => counters.stalled.fetch_add(1, Relaxed),
            Outcome::Abandoned => counters.abandoned.fetch_add(1, Relaxed),
            _ => 0,
        };
        if let Some(why) = &why {
            *lock(&shared.failure) = Some(why.clone());
        }
        let reason = || -> Box<str> {
            match (&why, outcome) {
                (Some(why), _) => why.reason().into(),
                (None, Outcome::Abandoned) => "it was given up".into(),
                (None, _) => "the server closed it".into(),
            }
        };
        match step {
            PostStep::Done => {
                counters.accepted.fetch_add(1, Relaxed);
                post.settle(Verdict::Accepted);
            }
            PostStep::Again { wait } => {
                counters.retries.fetch_add(1, Relaxed);
                // The notice of an abandoned post is kept for the next attempt.
                tokio::time::sleep(wait).await;
                continue;
            }
            PostStep::Skip { wait } => {
                counters.skipped.fetch_add(1, Relaxed);
                post.settle(Verdict::Skipped(Instant::now() + wait));
            }
            PostStep::End(reason) => post.settle(Verdict::Ended(reason)),
            PostStep::Delete => {
                counters.broken.fetch_add(u64::from(outcome != Outcome::Abandoned), Relaxed);
                post.settle(Verdict::Broken(reason()));
                delete(&shared, post.seq).await;
            }
        }
        return;
    }
}

/// One POST, until its answer or its failure.
async fn attempt(shared: &Shared, post: &Arc<Post>, reset: bool) -> (Outcome, Option<Failure>) {
    let body = SegmentBody { post: post.clone(), attempt: post.attempt.load(Acquire) };
    let body = reqwest::Body::wrap(body);
    let request = shared.client.post(&shared.channel, post.seq, shared.mime, reset, body);
    tokio::select! {
        biased;
        () = abandoned(post) => (Outcome::Abandoned, None),
        answer = request => match answer {
            Ok(answer) => {
                let fine = answer.closed || (200..=299).contains(&answer.status);
                (Outcome::Answer(answer), (!fine).then(|| Failure::Lost(status_text(answer.status))))
            }
            Err(why @ Failure::Certificate(_)) => (Outcome::Refused, Some(why)),
            Err(_) if post.abandoned.load(Acquire) => (Outcome::Abandoned, None),
            Err(why) => (Outcome::Lost, Some(why)),
        },
        () = stalled(post, shared.client.stall()) => {
            (Outcome::Stalled, Some(Failure::Lost("the connection took nothing for too long".into())))
        }
    }
}

async fn abandoned(post: &Post) {
    while !post.abandoned.load(Acquire) {
        post.hurry.notified().await;
    }
}

/// Returns once something has waited for the connection for `limit` (or a quarter more) without progress.
async fn stalled(post: &Post, limit: Duration) {
    let mut tick = tokio::time::interval(limit.div_f64(4.0).max(Duration::from_millis(1)));
    let (mut seen, mut since) = (0, None);
    loop {
        let now = tick.tick().await;
        let taken = post.taken.load(Acquire);
        if !post.waits() {
            since = None;
        } else if taken != seen || since.is_none() {
            since = Some(now);
        } else if since.is_some_and(|since| now.duration_since(since) >= limit) {
            return;
        }
        seen = taken;
    }
}

async fn delete(shared: &Shared, seq: u64) {
    for again in 0..DELETE_TRIES {
        if again > 0 {
            tokio::time::sleep(shared.client.limits().retry_delay).await;
        }
        if shared.client.delete_segment(&shared.channel, seq).await.is_ok() {
            shared.counters.deleted.fetch_add(1, Relaxed);
            return;
        }
    }
    shared.counters.delete_failed.fetch_add(1, Relaxed);
}
