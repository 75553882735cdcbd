//! Channels: `trickle`.

use super::Setting;
use super::row;
use crate::config::values::{plain, size, text, time, time_within, tls, within};

/// The rows, in the order of the file.
pub(super) const ROWS: &[Setting] = &[
    row!(
        "trickle.tls",
        None,
        tls,
        engine.trickle.tls,
        Ok::<_, String>,
        "How certificates of trickle servers are judged: `skip`, `verify`, or `pin:` and a SHA-256 fingerprint."
    ),
    row!(
        "trickle.allow",
        None,
        text,
        engine.trickle.allow,
        crate::trickle::Config::allowing,
        "Where the channels of a stream may be: `public`, `private`, `loopback`, `link-local`, `any`, networks and hosts. \
         An orchestrator's are often private."
    ),
    row!(
        "trickle.connect_timeout",
        None,
        time,
        engine.trickle.connect_timeout_ms,
        |ms| time_within(ms, 100, 60_000),
        "Time to reach a trickle server."
    ),
    row!(
        "trickle.silent_get",
        None,
        time,
        engine.trickle.silent_get_ms,
        |ms| time_within(ms, 1_000, 300_000),
        "Time after which a request without an answer is made again on a new connection."
    ),
    row!(
        "trickle.write_stall",
        None,
        time,
        engine.trickle.write_stall_ms,
        |ms| time_within(ms, 500, 300_000),
        "Time without progress after which an output segment is given up."
    ),
    row!(
        "trickle.close",
        None,
        time,
        engine.trickle.close_ms,
        |ms| time_within(ms, 100, 60_000),
        "Time that ending an output channel may take, the answers of its last segments included."
    ),
    row!(
        "trickle.max_failures",
        None,
        plain,
        engine.trickle.max_failures,
        |count| within(count, 1, 1_000),
        "Failures in a row that end a channel; what fails within `trickle.retry_delay` is one."
    ),
    row!(
        "trickle.retry_delay",
        None,
        time,
        engine.trickle.retry_delay_ms,
        |ms| time_within(ms, 10, 60_000),
        "Time between two tries."
    ),
    row!(
        "trickle.max_document",
        None,
        size,
        engine.trickle.max_document,
        |bytes| within(bytes, 1024, 4 * 1024 * 1024),
        "Longest accepted update, from 1KiB to 4MiB."
    ),
];
