//! What is written down: figures, the ledger, recordings, the log: `metering`, `ledger`, `record`, `log`.

use super::Setting;
use super::check::verbose;
use super::row;
use crate::config::values::{maybe_path, plain, size, time, time_within, within, word};
use crate::config::{LogFormat, LogLevel};

/// The rows, in the order of the file.
pub(super) const ROWS: &[Setting] = &[
    row!(
        "metering.interval",
        None,
        time,
        engine.interval_ms,
        |ms| time_within(ms, 500, 3_600_000),
        "Time that an entry of the ledger spans, and time between two debits: the orchestrator's `-livePaymentInterval`."
    ),
    row!(
        "metering.events",
        None,
        plain,
        engine.interval_events,
        Ok::<_, String>,
        "`true` tells the gateway of every interval by a `metering` event."
    ),
    row!(
        "ledger.path",
        None,
        maybe_path,
        supervisor.ledger.path,
        Ok::<_, String>,
        "Folder of the ledger, in which every interval of every stream is accounted for; empty for none."
    ),
    row!(
        "ledger.optional",
        None,
        plain,
        supervisor.ledger.optional,
        Ok::<_, String>,
        "`true` goes without a ledger, and says so once, where its folder cannot be written at the start."
    ),
    row!(
        "ledger.max_size",
        None,
        size,
        supervisor.ledger.max_size,
        |bytes| within(bytes, 64 * 1024, 1 << 40),
        "Bytes that all files of the ledger may have together; the oldest are removed."
    ),
    row!(
        "ledger.max_age",
        None,
        time,
        supervisor.ledger.max_age_ms,
        |ms| time_within(ms, 60_000, u64::MAX / 2),
        "Age at which a file of the ledger is removed."
    ),
    row!(
        "record.path",
        None,
        maybe_path,
        supervisor.record.path,
        Ok::<_, String>,
        "Folder that callers may have outputs recorded to; empty for no recordings."
    ),
    row!(
        "record.max_size",
        None,
        size,
        supervisor.record.max_size,
        |bytes| within(bytes, 64 * 1024, 1 << 40),
        "Bytes after which a recording ends."
    ),
    row!(
        "record.max_time",
        None,
        time,
        supervisor.record.max_time_ms,
        |ms| time_within(ms, 1_000, 86_400_000),
        "Time after which a recording ends."
    ),
    row!(
        "record.max_total",
        None,
        size,
        supervisor.record.max_total,
        |bytes| within(bytes, 64 * 1024, 1 << 44),
        "Bytes that all recordings may have together, those under way at their largest; beyond it none begins."
    ),
    row!(
        "log.level",
        Some(("VERBOSE_LOGGING", verbose)),
        word,
        log.level,
        Ok::<LogLevel, String>,
        "How much is logged: `error`, `warn`, `info`, `debug` or `trace`. `VERBOSE_LOGGING=1` means `debug`."
    ),
    row!(
        "log.format",
        None,
        word,
        log.format,
        Ok::<LogFormat, String>,
        "`text` for sentences, `json` for one object a line."
    ),
];
