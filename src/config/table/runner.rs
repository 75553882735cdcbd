//! Live runners of an orchestrator: `runner`.

use super::Setting;
use super::check::{currency, decimal, header, metadata, reachable, trimmed, unit, web};
use super::row;
use crate::config::values::{text, tls};

/// The rows, in the order of the file.
pub(super) const ROWS: &[Setting] = &[
    row!(
        "runner.orchestrator",
        None,
        text,
        supervisor.runner.orchestrator,
        web,
        "Orchestrator to register with as a live runner, such as `https://host:8935`; empty for none."
    ),
    Setting {
        secret: true,
        ..row!(
            "runner.secret",
            None,
            text,
            supervisor.runner.secret,
            header,
            "The orchestrator's `-orchSecret`; nothing is registered without it."
        )
    },
    row!(
        "runner.url",
        None,
        text,
        supervisor.runner.url,
        reachable,
        "Where the orchestrator reaches this runner; empty for `http://` and the address listened on, if that is a real one."
    ),
    row!(
        "runner.app",
        None,
        text,
        supervisor.runner.app,
        trimmed,
        "What clients look for; empty for `live-video-to-video/` and the model id."
    ),
    row!("runner.price", None, text, supervisor.runner.price, decimal, "Price of a `runner.unit`, a decimal number."),
    row!("runner.currency", None, text, supervisor.runner.currency, currency, "Currency of the price."),
    row!(
        "runner.unit",
        None,
        text,
        supervisor.runner.unit,
        unit,
        "What is paid for: an `hour` of a session, `720p` pixels (27648000 a second), or the session as a whole (`fixed`)."
    ),
    row!(
        "runner.label",
        None,
        text,
        supervisor.runner.label,
        trimmed,
        "Name of the runner for its operator; may be empty."
    ),
    row!(
        "runner.metadata",
        None,
        text,
        supervisor.runner.metadata,
        metadata,
        "Text that everybody who looks for runners can read, at most 1024 bytes."
    ),
    row!(
        "runner.tls",
        None,
        tls,
        supervisor.runner.tls,
        Ok::<_, String>,
        "How the orchestrator's certificate is judged: `skip`, `verify`, or `pin:` and a SHA-256 fingerprint."
    ),
];
