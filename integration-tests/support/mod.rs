//! A fake orchestrator around a real `weir serve`: channels on our own trickle server, clips made by `ffmpeg`, and eyes
//! on everything that comes out. Every wait has an end.

#![allow(clippy::unwrap_used)]

pub mod clips;
pub mod orchestrator;
pub mod proxy;
pub mod runner;
pub mod ts;

pub use orchestrator::{Feeding, Orchestrator, Stream};
pub use proxy::{Fault, Proxy};
pub use runner::Runner;

use std::time::{Duration, Instant};

/// A time limit that no sound test reaches.
pub const LONG: Duration = Duration::from_secs(30);

/// Waits until `ready` gives something; fails with `what` after `limit`.
pub async fn until<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Seconds as a duration.
pub fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}
