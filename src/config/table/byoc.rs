//! Registration as a capability of BYOC: `byoc`.

use super::Setting;
use super::check::{currency, header, reachable, same, web};
use super::row;
use crate::config::values::{plain, text, time, time_within, tls, within};

/// The rows, in the order of the file.
pub(super) const ROWS: &[Setting] = &[
    row!(
        "byoc.orchestrator",
        Some(("ORCH_URL", same)),
        text,
        supervisor.byoc.orchestrator,
        web,
        "Orchestrator to register with as a capability, such as `https://host:8935`; empty for none."
    ),
    Setting {
        secret: true,
        ..row!(
            "byoc.secret",
            Some(("ORCH_SECRET", same)),
            text,
            supervisor.byoc.secret,
            header,
            "The orchestrator's secret; nothing is registered without it."
        )
    },
    row!(
        "byoc.name",
        Some(("CAPABILITY_NAME", same)),
        text,
        supervisor.byoc.name,
        Ok::<_, String>,
        "Name of the capability; empty for the model id."
    ),
    row!(
        "byoc.url",
        Some(("CAPABILITY_URL", same)),
        text,
        supervisor.byoc.url,
        reachable,
        "Where the orchestrator reaches this runner; empty for `http://` and the address listened on, if that is a real one."
    ),
    row!(
        "byoc.description",
        Some(("CAPABILITY_DESCRIPTION", same)),
        text,
        supervisor.byoc.description,
        Ok::<_, String>,
        "What the capability does, for people."
    ),
    row!(
        "byoc.price_per_unit",
        Some(("CAPABILITY_PRICE_PER_UNIT", same)),
        plain,
        supervisor.byoc.price_per_unit,
        |price| within(price, 0, i64::MAX as u64),
        "Price of a second, divided by `byoc.price_scaling`."
    ),
    row!(
        "byoc.price_scaling",
        Some(("CAPABILITY_PRICE_SCALING", same)),
        plain,
        supervisor.byoc.price_scaling,
        |scaling| within(scaling, 1, i64::MAX as u64),
        "What the price is divided by."
    ),
    row!(
        "byoc.currency",
        None,
        text,
        supervisor.byoc.currency,
        currency,
        "Currency of the price, such as `wei`; empty leaves it to the orchestrator."
    ),
    row!(
        "byoc.tls",
        None,
        tls,
        supervisor.byoc.tls,
        Ok::<_, String>,
        "How the orchestrator's certificate is judged: `skip`, `verify`, or `pin:` and a SHA-256 fingerprint."
    ),
    row!(
        "byoc.refresh",
        None,
        time,
        supervisor.byoc.refresh_ms,
        |ms| time_within(ms, 1_000, 86_400_000),
        "Time between two registrations while no stream runs, for orchestrators that forget."
    ),
];
