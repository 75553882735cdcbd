//! What every frame cost, what became of it, and what a stream's time comes to.
//!
//! | part | from | to |
//! | --- | --- | --- |
//! | [`Metrics`] | frames of every stream | counters and histograms for Prometheus |
//! | [`Meter`] | frames of one stream | [`Interval`]s that sum to the stream |
//! | [`Debit`] | beginnings of input segments | the pixels that an orchestrator debits |
//! | [`openmetrics`] | counters and histograms | OpenMetrics text with exemplars |
//! | [`ledger`] | intervals | lines that cannot be changed or lost unseen |
//! | [`Price`] | pixels | money |
//! | [`Tracer`] | frames | a trace that Perfetto opens |
//!
//! A frame is counted once when it arrives and once where it ends: handed to the output as a [`Kind`], or dropped at a
//! [`Place`]. Nothing on a frame's way waits for any of this: counts are atomics, and the latencies' lock is shared only
//! with whoever closes an interval.

mod debit;
mod exemplars;
mod interval;
pub mod ledger;
mod meter;
mod metrics;
pub mod openmetrics;
mod price;
mod recent;
mod record;
mod trace;

pub use debit::{Debit, PIXELS_PER_SECOND};
pub use interval::{Carry, FaultNote, Interval, Totals};
pub use meter::{Clock, Facts, Meter, without_addresses};
pub use metrics::{Metrics, Queue, Silenced};
pub use price::{Money, Price, PriceError};
pub use recent::{Happened, Since};
pub use record::{FrameRecord, Kind, Percentiles, Place, Stage};
pub use trace::{Mark, Trace, Tracer};
