//! The door: a bounded number of connections, none of which can hold its place without making use of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::metrics::Metrics;

/// Time for a request's header, and for the next request on a connection that is kept.
const HEADER_WAIT: Duration = Duration::from_secs(30);
/// Longest header in bytes.
const MAX_HEADER: usize = 32 * 1024;
/// How long connections may take to finish their answer when the process ends.
const LAST_ANSWERS: Duration = Duration::from_millis(250);

/// A request that takes longer than this may lose its seat; none of ours does, but for a body that does not come.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(pub SocketAddr);

/// What a connection is doing.
struct Seat {
    from: IpAddr,
    /// Whether a request of it is being answered.
    busy: bool,
    /// Since when.
    since: Instant,
    task: Option<AbortHandle>,
}

/// Who is connected.
struct Seats {
    most: usize,
    /// Of one address.
    most_each: usize,
    taken: BTreeMap<u64, Seat>,
    next: u64,
}

/// What happens with a new connection.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// It gets a seat of that number.
    Seat(u64),
    /// As `Seat`, and whoever had been idle for longest, or else busy for too long, lost the other one.
    Instead(u64, u64),
    /// Every seat, or every one that an address may have, is taken by a request that is being answered.
    Full,
}

impl Seats {
    fn new(most: usize, most_each: usize) -> Self {
        Self { most: most.max(1), most_each: most_each.max(1), taken: BTreeMap::new(), next: 0 }
    }

    fn enter(&mut self, from: IpAddr, now: Instant) -> Entry {
        let mut evicted = None;
        // An address with all that it may have makes room among its own.
        let each = self.taken.values().filter(|seat| seat.from == from).count() >= self.most_each;
        if each || self.taken.len() >= self.most {
            let may_go = |seat: &Seat| !seat.busy || now.saturating_duration_since(seat.since) > BUSY_LIMIT;
            let candidates = self.taken.iter().filter(|(_, seat)| may_go(seat) && (!each || seat.from == from));
            let first = candidates.min_by_key(|(_, seat)| (seat.busy, seat.since)).map(|(&number, _)| number);
            let Some(number) = first else { return Entry::Full };
            if let Some(task) = self.taken.remove(&number).and_then(|seat| seat.task) {
                task.abort();
            }
            evicted = Some(number);
        }
        let number = self.next;
        self.next += 1;
        self.taken.insert(number, Seat { from, busy: false, since: now, task: None });
        evicted.map_or(Entry::Seat(number), |evicted| Entry::Instead(number, evicted))
    }

    fn set(&mut self, number: u64, busy: bool, now: Instant) {
        if let Some(seat) = self.taken.get_mut(&number) {
            (seat.busy, seat.since) = (busy, now);
        }
    }
}

/// Cloning shares the seats.
#[derive(Clone)]
struct Shared(Arc<Mutex<Seats>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seat's owner; leaves when dropped.
struct Guest {
    seats: Shared,
    number: u64,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.seats.lock().taken.remove(&self.number);
    }
}

/// A request that is being answered.
struct Busy {
    seats: Shared,
    number: u64,
}

impl Busy {
    fn new(seats: &Shared, number: u64) -> Self {
        seats.lock().set(number, true, Instant::now());
        Self { seats: seats.clone(), number }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.seats.lock().set(self.number, false, Instant::now());
    }
}

/// Answers connections until `stop`, then lets answers that are under way finish for a moment.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    (most, most_each): (usize, usize),
    metrics: &Metrics,
    stop: CancellationToken,
) {
    let seats = Shared(Arc::new(Mutex::new(Seats::new(most, most_each))));
    let mut tasks = JoinSet::new();
    loop {
        let (stream, caller) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Too many open files, most likely: give the others time to close theirs.
                    warn!(%error, "A connection could not be accepted.");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = tasks.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let number = match seats.lock().enter(caller.ip().to_canonical(), Instant::now()) {
            Entry::Seat(number) => number,
            Entry::Instead(number, _) => {
                metrics.connections_evicted.inc();
                number
            }
            Entry::Full => {
                metrics.connections_refused.inc();
                continue;
            }
        };
        let guest = Guest { seats: seats.clone(), number };
        let task = tasks.spawn(talk(stream, Caller(caller), router.clone(), guest, stop.clone()));
        if let Some(seat) = seats.lock().taken.get_mut(&number) {
            seat.task = Some(task);
        }
    }
    drop(listener);
    let all = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_ANSWERS, all).await;
    tasks.shutdown().await;
}

async fn talk(stream: TcpStream, caller: Caller, router: Router, guest: Guest, stop: CancellationToken) {
    // A refused option costs latency, nothing else.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller);
        let busy = Busy::new(&guest.seats, guest.number);
        let router = router.clone();
        async move {
            let _busy = busy;
            let response = router.oneshot(request.map(Body::new)).await;
            response.map_err(|never: Infallible| never)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "A connection broke.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn whoever_is_idle_for_longest_makes_room() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut seats = Seats::new(2, 2);
        assert_eq!(seats.enter(HOME, at(0)), Entry::Seat(0));
        assert_eq!(seats.enter(HOME, at(1)), Entry::Seat(1));
        seats.set(0, true, at(1));
        assert_eq!(seats.enter(HOME, at(2)), Entry::Instead(2, 1));
        seats.set(2, true, at(3));
        assert_eq!(seats.enter(HOME, at(4)), Entry::Full);
        // Busy for too long counts as idle; really idle goes first.
        assert_eq!(seats.enter(HOME, at(7)), Entry::Instead(3, 0));
        seats.set(3, false, at(8));
        assert_eq!(seats.enter(HOME, at(9)), Entry::Instead(4, 3));
        assert_eq!(seats.taken.len(), 2);
    }

    #[test]
    fn an_address_with_all_that_it_may_have_costs_nobody_else_a_seat() {
        let start = Instant::now();
        let other = IpAddr::from([10, 0, 0, 1]);
        let mut seats = Seats::new(3, 2);
        assert_eq!(seats.enter(other, start), Entry::Seat(0));
        assert_eq!(seats.enter(HOME, start), Entry::Seat(1));
        assert_eq!(seats.enter(HOME, start), Entry::Seat(2));
        assert_eq!(seats.enter(HOME, start), Entry::Instead(3, 1));
        seats.set(2, true, start);
        seats.set(3, true, start);
        assert_eq!(seats.enter(HOME, start), Entry::Full);
        assert_eq!(seats.enter(other, start), Entry::Instead(4, 0));
    }
}
