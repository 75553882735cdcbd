//! The engine and what becomes of one that fails: `restart`, `engine`.

use super::Setting;
use super::check::same;
use super::row;
use crate::config::values::{object, path, plain, text, time, time_within, within, word};

/// The rows, in the order of the file.
pub(super) const ROWS: &[Setting] = &[
    row!(
        "restart.max_failures",
        None,
        plain,
        supervisor.max_failures,
        |count| within(count, 1, 1_000),
        "Failures of the engine within `restart.window` after which it is given up."
    ),
    row!(
        "restart.window",
        None,
        time,
        supervisor.restart_window_ms,
        |ms| time_within(ms, 1_000, 86_400_000),
        "Time in which failures of the engine count."
    ),
    row!(
        "restart.hang",
        None,
        time,
        supervisor.hang_ms,
        |ms| time_within(ms, 1_000, 600_000),
        "Time without a sign of life after which the engine is replaced."
    ),
    row!(
        "restart.load",
        None,
        time,
        supervisor.load_ms,
        |ms| time_within(ms, 1_000, 3_600_000),
        "Time that the pipeline may take to load. An orchestrator gives 3m."
    ),
    row!(
        "engine.initial_params",
        None,
        object,
        engine.initial_params,
        Ok::<_, String>,
        "Parameters, as a JSON object, with which the pipeline is loaded before the first stream."
    ),
    row!("engine.models", Some(("MODEL_DIR", same)), path, engine.models, Ok::<_, String>, "Root of the models."),
    row!(
        "engine.updates",
        None,
        word,
        engine.updates,
        Ok::<_, String>,
        "What an update does to parameters that it leaves out: `replace` sets them to their defaults, `merge` keeps them."
    ),
    row!(
        "engine.orphan",
        None,
        time,
        engine.orphan_ms,
        |ms| time_within(ms, 1_000, 3_600_000),
        "Time without a byte of input, from the start on, after which a stream is taken for orphaned and ends."
    ),
    row!(
        "engine.input_timeout",
        None,
        time,
        engine.input_timeout_ms,
        |ms| time_within(ms, 1_000, 3_600_000),
        "Time without video, once there was some, after which a stream ends."
    ),
    row!(
        "engine.status",
        None,
        time,
        engine.status_ms,
        |ms| time_within(ms, 100, 25_000),
        "Time between two status events. A gateway gives a stream up after 30s without any."
    ),
    row!(
        "engine.freshness",
        None,
        time,
        engine.freshness_ms,
        |ms| time_within(ms, 0, 10_000),
        "Queued work up to which every frame is kept; beyond it the newest wins."
    ),
    row!(
        "engine.stop",
        None,
        time,
        engine.stop_ms,
        |ms| time_within(ms, 100, 60_000),
        "Time that a stream may take to end."
    ),
    row!(
        "engine.pictures",
        None,
        text,
        engine.pictures,
        crate::trickle::Config::allowing,
        "Where pictures may be fetched from that parameters name by URL: words as in `trickle.allow`."
    ),
];
