//! Writing a channel, one POST ahead.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::{Client, Failure};
use super::error::TrickleError;
use super::post::{Counters, Post, Settle, Shared, Verdict, carry, lock};
use super::protocol::{EndReason, Publishing, SLOTS};

/// Tries of one document.
const DOCUMENT_TRIES: usize = 3;
/// Tries of the DELETE of a channel.
const CLOSE_TRIES: usize = 3;

/// Where a publisher begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At 0, on a fresh channel.
    Zero,
    /// At the number that the server names, on a channel that someone wrote before. Readers of a segment that was
    /// left open are released.
    Resume,
}

/// Counters of a publisher since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublisherStats {
    /// Segments begun.
    pub segments: u64,
    /// Bytes taken from writers.
    pub bytes: u64,
    /// Segments that the server has accepted whole.
    pub accepted: u64,
    /// Segments that the server closed early; their numbers are used up.
    pub skipped: u64,
    /// Segments cut short by a failure.
    pub broken: u64,
    /// Segments given up by their writers.
    pub abandoned: u64,
    /// Connections given up because they took nothing or answered nothing.
    pub stalled: u64,
    /// POSTs repeated because nothing of them had gone out.
    pub retries: u64,
    /// Cut segments that were deleted, so that their readers go on.
    pub deleted: u64,
    /// Cut segments that could not be deleted.
    pub delete_failed: u64,
    /// POSTs open or awaiting their answer, the one ahead included.
    pub in_flight: u64,
}

/// Writes the segments of a channel, numbered consecutively.
///
/// The POST of the next segment is open before it begins. Every POST runs in a task of this value; dropping it aborts
/// them and leaves the channel as it is.
pub struct Publisher {
    shared: Arc<Shared>,
    /// One permit a POST. As many as the server has slots: one more would evict the oldest, unanswered one.
    slots: Arc<Semaphore>,
    tasks: Mutex<JoinSet<()>>,
    pending: Option<Pending>,
    not_before: Option<Instant>,
    reset: bool,
}

struct Pending {
    post: Arc<Post>,
    chunks: mpsc::Sender<Bytes>,
}

impl Publisher {
    /// Opens the first POST of a channel, in the background; a failure of it shows in [`begin`](Self::begin). `mime`
    /// is the type of the segments.
    ///
    /// # Errors
    /// `url` is no channel URL; to resume: the channel is unknown or the server does not answer.
    pub async fn open(client: &Client, url: &str, mime: &'static str, begin: Begin) -> Result<Self, TrickleError> {
        let channel = client.channel(url)?;
        let (next, reset) = match begin {
            Begin::Zero => (0, false),
            Begin::Resume => {
                let (next, modern) = client.next_of(&channel).await?;
                if !modern && next > 0 {
                    client.delete_segment(&channel, next - 1).await?;
                }
                (next, true)
            }
        };
        let mut publisher = Self {
            shared: Arc::new(Shared {
                client: client.clone(),
                channel,
                mime,
                state: Mutex::new(Publishing::new(next, client.limits())),
                failure: Mutex::new(None),
                counters: Counters::default(),
            }),
            slots: Arc::new(Semaphore::new(SLOTS as usize)),
            tasks: Mutex::new(JoinSet::new()),
            pending: None,
            not_before: None,
            reset,
        };
        if let Ok(permit) = publisher.slots.clone().try_acquire_owned() {
            publisher.pending = Some(publisher.preconnect(permit)?);
        }
        Ok(publisher)
    }

    /// Begins the next segment on the POST that is open, and opens the one after it. Cancel safe.
    ///
    /// Waits only while as many segments as a server keeps are without an answer, or after repeated failures.
    ///
    /// # Errors
    /// [`TrickleError::Ended`] or [`TrickleError::Certificate`]: the channel has ended, and will not go on.
    pub async fn begin(&mut self) -> Result<SegmentWriter, TrickleError> {
        loop {
            while lock(&self.tasks).try_join_next().is_some() {}
            if let Some(reason) = self.ended() {
                return Err(self.shared.ended(reason));
            }
            if let Some(at) = self.not_before {
                tokio::time::sleep_until(at).await;
                self.not_before = None;
            }
            let Ok(permit) = self.slots.clone().acquire_owned().await else { return Err(TrickleError::Stopped) };
            let Some(pending) = self.pending.take() else {
                self.pending = Some(self.preconnect(permit)?);
                continue;
            };
            match pending.post.verdict() {
                None => {
                    self.pending = Some(self.preconnect(permit)?);
                    self.shared.counters.segments.fetch_add(1, Relaxed);
                    let Pending { post, chunks } = pending;
                    return Ok(SegmentWriter { shared: self.shared.clone(), post, chunks: Some(chunks), bytes: 0 });
                }
                Some(Verdict::Skipped(until)) => self.not_before = Some(until),
                Some(Verdict::Stopped) => return Err(TrickleError::Stopped),
                Some(_) => {}
            }
        }
    }

    /// Publishes one whole document as one segment and waits until the server has it; returns its number. A document
    /// that breaks is sent again whole, in the next segment, up to three times in all.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin); [`TrickleError::Broken`] if the last try broke.
    pub async fn send_document(&mut self, body: Bytes) -> Result<u64, TrickleError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_document(body.clone()).await {
                Err(TrickleError::Broken { .. }) if tries < DOCUMENT_TRIES => {}
                result => return result,
            }
        }
    }

    async fn try_document(&mut self, body: Bytes) -> Result<u64, TrickleError> {
        let mut writer = self.begin().await?;
        writer.write(body).await?;
        writer.finish().await?.accepted().await
    }

    /// Why the channel ended, if it is known to have. Also notices an end while no segment is being written.
    pub fn ended(&self) -> Option<EndReason> {
        lock(&self.shared.state).ended()
    }

    /// The last failure, in words.
    pub fn last_failure(&self) -> Option<String> {
        lock(&self.shared.failure).as_ref().map(|failure| Failure::reason(failure).to_owned())
    }

    /// What happened so far.
    pub fn stats(&self) -> PublisherStats {
        let c = &self.shared.counters;
        PublisherStats {
            segments: c.segments.load(Relaxed),
            bytes: c.bytes.load(Relaxed),
            accepted: c.accepted.load(Relaxed),
            skipped: c.skipped.load(Relaxed),
            broken: c.broken.load(Relaxed),
            abandoned: c.abandoned.load(Relaxed),
            stalled: c.stalled.load(Relaxed),
            retries: c.retries.load(Relaxed),
            deleted: c.deleted.load(Relaxed),
            delete_failed: c.delete_failed.load(Relaxed),
            in_flight: SLOTS - self.slots.available_permits() as u64,
        }
    }

    /// Waits for the answers of finished segments, at most half of the time that the settings allow; deletes the
    /// channel if `delete` says so; ends the POST that is open ahead. A channel that is not deleted can be resumed.
    ///
    /// # Errors
    /// The channel could not be deleted in time. One that is gone already is no error.
    pub async fn close(mut self, delete: bool) -> Result<(), TrickleError> {
        let budget = self.shared.client.close_budget();
        let started = Instant::now();
        let pending = self.pending.take();
        let open = u32::from(pending.is_some());
        let answered = self.slots.acquire_many(SLOTS as u32 - open);
        // Late answers are given up: the channel's end matters more.
        drop(tokio::time::timeout(budget / 2, answered).await);
        let result = if delete { self.delete(budget.saturating_sub(started.elapsed())).await } else { Ok(()) };
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        drop(pending);
        result
    }

    async fn delete(&self, within: Duration) -> Result<(), TrickleError> {
        let Shared { client, channel, .. } = &*self.shared;
        let mut last = Failure::Lost("deleting the channel timed out".into()).into_error(channel.host());
        let tries = async {
            for _ in 0..CLOSE_TRIES {
                match client.delete_channel(channel).await {
                    Ok(_) => return true,
                    Err(error) => last = error,
                }
                tokio::time::sleep(client.limits().retry_delay).await;
            }
            false
        };
        match tokio::time::timeout(within, tries).await {
            Ok(true) => Ok(()),
            _ => Err(last),
        }
    }

    fn preconnect(&mut self, permit: OwnedSemaphorePermit) -> Result<Pending, TrickleError> {
        let seq = lock(&self.shared.state).take();
        let seq = seq.map_err(|reason| self.shared.ended(reason))?;
        let (post, chunks) = Post::new(seq);
        let carry = carry(self.shared.clone(), Settle(post.clone()), std::mem::take(&mut self.reset));
        lock(&self.tasks).spawn(async move {
            let _permit = permit;
            carry.await;
        });
        Ok(Pending { post, chunks })
    }
}

/// One segment being written. Dropping it unfinished aborts its POST and deletes the segment.
pub struct SegmentWriter {
    shared: Arc<Shared>,
    post: Arc<Post>,
    chunks: Option<mpsc::Sender<Bytes>>,
    bytes: u64,
}

impl SegmentWriter {
    /// Its number.
    pub fn seq(&self) -> u64 {
        self.post.seq
    }

    /// Hands bytes to the connection. Waits while 32 chunks wait for it already. Cancel safe: a cancelled write has
    /// written nothing.
    ///
    /// # Errors
    /// [`TrickleError::Broken`]: the segment is lost, begin the next one. [`TrickleError::Ended`]: the channel is.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), TrickleError> {
        if self.post.settled() {
            return Err(self.lost(self.post.verdict()));
        }
        let Some(chunks) = &self.chunks else { return Err(TrickleError::Stopped) };
        let length = bytes.len() as u64;
        // An empty chunk would be no data on the wire either.
        if length == 0 {
            return Ok(());
        }
        match chunks.try_send(bytes) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(TrickleError::Stopped),
            Err(mpsc::error::TrySendError::Full(bytes)) => tokio::select! {
                biased;
                verdict = self.post.wait() => return Err(self.lost(Some(verdict))),
                permit = chunks.reserve() => match permit {
                    Ok(permit) => permit.send(bytes),
                    Err(_) => return Err(TrickleError::Stopped),
                },
            },
        }
        self.bytes += length;
        self.shared.counters.bytes.fetch_add(length, Relaxed);
        Ok(())
    }

    /// Ends the segment. What is queued still goes out, and the answer is watched, in a task of the publisher.
    ///
    /// # Errors
    /// As for [`write`](Self::write), if it is known already that the segment is lost.
    pub async fn finish(mut self) -> Result<Done, TrickleError> {
        if self.post.settled() {
            return Err(self.lost(self.post.verdict()));
        }
        self.post.finish();
        self.chunks = None;
        Ok(Done { shared: self.shared.clone(), post: self.post.clone(), bytes: self.bytes })
    }

    fn lost(&self, verdict: Option<Verdict>) -> TrickleError {
        error_of(&self.shared, self.post.seq, verdict.unwrap_or(Verdict::Stopped))
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if self.chunks.is_some() {
            self.post.abandon();
        }
    }
}

/// A segment that is written but not necessarily received. May be dropped.
pub struct Done {
    shared: Arc<Shared>,
    post: Arc<Post>,
    bytes: u64,
}

impl Done {
    /// Its number.
    pub fn seq(&self) -> u64 {
        self.post.seq
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waits until the server has the whole segment; returns its number.
    ///
    /// # Errors
    /// As for [`SegmentWriter::write`].
    pub async fn accepted(self) -> Result<u64, TrickleError> {
        match self.post.wait().await {
            Verdict::Accepted => Ok(self.post.seq),
            verdict => Err(error_of(&self.shared, self.post.seq, verdict)),
        }
    }
}

fn error_of(shared: &Shared, seq: u64, verdict: Verdict) -> TrickleError {
    match verdict {
        Verdict::Ended(reason) => shared.ended(reason),
        Verdict::Broken(reason) => TrickleError::Broken { seq, reason },
        Verdict::Accepted | Verdict::Skipped(_) => {
            TrickleError::Broken { seq, reason: "the server closed it early".into() }
        }
        Verdict::Stopped => TrickleError::Stopped,
    }
}
