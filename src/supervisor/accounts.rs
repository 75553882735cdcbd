//! What the last streams came to, in memory: what the pages under `/metering` tell, with or without a ledger.

use std::collections::VecDeque;

use serde::Serialize;

use crate::link::StreamRequest;
use crate::metering::Interval;
use crate::metering::ledger::{GpuUse, Stream, Summary};

/// Streams that are remembered, running ones included.
const STREAMS: usize = 32;
/// Intervals of each that are remembered: ten minutes of five seconds.
const INTERVALS: usize = 120;

/// One stream.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Account {
    /// Sums over the whole stream, intervals that are forgotten included.
    #[serde(flatten)]
    pub summary: Summary,
    /// Length in seconds.
    pub seconds: f64,
    /// Frames a second that show the model's own picture, over the whole stream.
    pub fps: f64,
    /// The last intervals, oldest first.
    #[serde(skip)]
    pub recent: VecDeque<Interval>,
}

/// The last streams, oldest first.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    streams: VecDeque<Account>,
}

/// Who a stream is.
pub(super) fn stream(request: &StreamRequest, arrived_ms: u64) -> Stream {
    Stream {
        stream_id: request.stream_id.clone(),
        manifest_id: request.manifest_id.clone(),
        request_id: request.gateway_request_id.clone(),
        started_ms: arrived_ms,
    }
}

impl Accounts {
    /// Adds an interval of a stream.
    pub fn add(&mut self, stream: &Stream, interval: &Interval, gpu: Option<&GpuUse>) {
        let session = interval.session;
        let known = |account: &Account| account.summary.session == session && account.summary.stream == *stream;
        let index = match self.streams.iter().position(known) {
            Some(index) => index,
            None => {
                if self.streams.len() >= STREAMS {
                    // Streams that are over go first; more that run than are remembered cannot be.
                    let over = self.streams.iter().position(|account| account.summary.ended).unwrap_or(0);
                    self.streams.remove(over);
                }
                let summary = Summary::new(stream, interval);
                self.streams.push_back(Account { summary, seconds: 0.0, fps: 0.0, recent: VecDeque::new() });
                self.streams.len() - 1
            }
        };
        let Some(account) = self.streams.get_mut(index) else { return };
        account.summary.add(interval, gpu);
        account.seconds = account.summary.seconds();
        account.fps = account.summary.fps();
        if account.recent.len() >= INTERVALS {
            account.recent.pop_front();
        }
        account.recent.push_back(interval.clone());
    }

    /// Every stream that is remembered, newest first.
    pub fn all(&self) -> Vec<Account> {
        self.streams.iter().rev().map(|account| Account { recent: VecDeque::new(), ..account.clone() }).collect()
    }

    /// The newest stream that goes by this stream id, manifest id or number of its session.
    pub fn find(&self, id: &str) -> Option<&Account> {
        self.streams.iter().rev().find(|account| {
            let Stream { stream_id, manifest_id, .. } = &account.summary.stream;
            stream_id == id || manifest_id == id || account.summary.session.to_string() == id
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(session: u64, number: u64) -> Interval {
        let mut interval = Interval { session, number, ..Interval::default() };
        (interval.from_ms, interval.to_ms) = (number * 5_000, number * 5_000 + 5_000);
        interval.totals.frames_out.insert("processed".into(), 150);
        interval.last = number == 199;
        interval
    }

    #[test]
    fn streams_are_summed_found_by_any_of_their_names_and_forgotten_when_over() {
        let mut accounts = Accounts::default();
        for session in 0..40 {
            let stream = Stream { manifest_id: format!("m{session}"), ..Stream::default() };
            (0..200).for_each(|number| accounts.add(&stream, &interval(session, number), None));
        }
        assert_eq!(accounts.all().len(), STREAMS);
        assert!(accounts.find("m7").is_none());
        let account = accounts.find("m39").expect("known");
        assert_eq!((account.summary.intervals, account.recent.len()), (200, INTERVALS));
        assert_eq!(account.summary.totals.processed(), 200 * 150);
        assert_eq!((account.seconds, account.fps), (1000.0, 30.0));
        assert_eq!(accounts.find("39").map(|found| found.summary.session), Some(39));
        let json = serde_json::to_value(account).expect("JSON");
        assert_eq!((&json["manifest_id"], &json["frames_out"]["processed"]), (&"m39".into(), &30_000.into()));
    }
}
