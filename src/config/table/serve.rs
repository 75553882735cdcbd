//! The supervisor's own door and the stream API: `serve`, `stream`.

use super::Setting;
use super::check::{filled, live, prefix, same, version};
use super::row;
use crate::config::values::{maybe_path, plain, size, text, time, time_within, within};

/// The rows, in the order of the file.
pub(super) const ROWS: &[Setting] = &[
    row!("serve.host", Some(("HOST", same)), plain, supervisor.host, Ok::<_, String>, "Address to listen on."),
    row!(
        "serve.port",
        Some(("PORT", same)),
        plain,
        supervisor.port,
        Ok::<_, String>,
        "Port to listen on; 0 takes a free one."
    ),
    Setting {
        secret: true,
        ..row!(
            "serve.auth_token",
            Some(("AUTH_TOKEN", same)),
            text,
            supervisor.auth_token,
            Ok::<_, String>,
            "Bearer token that starts, updates and status calls need; empty for none."
        )
    },
    row!(
        "serve.open",
        None,
        plain,
        supervisor.open,
        Ok::<_, String>,
        "`true` serves callers beyond this machine without a token too; the container sets it. Otherwise they get health, \
         version and hardware alone while there is no token."
    ),
    row!(
        "serve.switch",
        None,
        plain,
        supervisor.switch,
        Ok::<_, String>,
        "`true` lets callers of the API have another pipeline loaded while no stream runs."
    ),
    row!(
        "serve.workflows",
        None,
        maybe_path,
        supervisor.workflows,
        Ok::<_, String>,
        "Folder of ComfyUI workflows (`.json`) that the page offers; empty for none."
    ),
    row!(
        "serve.pipeline",
        Some(("PIPELINE", same)),
        text,
        supervisor.pipeline,
        live,
        "The pipeline's name in the network: `live-video-to-video`, or `byoc` for a worker that registers itself."
    ),
    row!(
        "serve.model_id",
        Some(("MODEL_ID", same)),
        text,
        supervisor.model_id,
        filled,
        "Name of the pipeline to load, and of the model id to accept."
    ),
    row!(
        "serve.subvariant",
        Some(("SUBVARIANT", same)),
        text,
        subvariant,
        Ok::<_, String>,
        "Variant of StreamDiffusion; where no model id is given it is `streamdiffusion-` and this."
    ),
    Setting {
        key: "serve.announced_version",
        contract: Some(("VERSION", version)),
        about: "What `/version` says; empty for the version of this program.",
        secret: false,
        get: |config| {
            let own = env!("CARGO_PKG_VERSION");
            if config.supervisor.version == own { String::new() } else { config.supervisor.version.clone() }
        },
        set: |config, value| {
            let value = text::parse(value)?;
            config.supervisor.version = if value.is_empty() { env!("CARGO_PKG_VERSION").into() } else { value };
            Ok(())
        },
    },
    Setting {
        key: "serve.capacity",
        contract: Some(("CAPABILITY_CAPACITY", same)),
        about: "Streams at a time, each with an instance of the pipeline of its own. An orchestrator that starts the \
                container itself needs 1.",
        secret: false,
        get: |config| plain::show(&config.supervisor.capacity),
        set: |config, value| {
            let capacity = within(plain::parse(value)?, 1, 16)?;
            config.supervisor.capacity = capacity;
            config.engine.capacity = capacity;
            Ok(())
        },
    },
    row!(
        "serve.max_load",
        None,
        plain,
        supervisor.max_load,
        |load| within(load, 0.0, 64.0),
        "Part of the time that the model may work for all streams together; a stream that would need more is refused, but \
         for the first. 0 for no limit."
    ),
    row!(
        "serve.min_free_memory",
        None,
        size,
        supervisor.min_free_memory,
        |bytes| within(bytes, 0, 1 << 40),
        "GPU memory that must be free for a stream beside others."
    ),
    row!(
        "serve.max_body",
        None,
        size,
        supervisor.max_body,
        |bytes| within(bytes, 1024, 4 * 1024 * 1024),
        "Largest accepted request body, from 1KiB to 4MiB."
    ),
    row!(
        "serve.max_connections",
        None,
        plain,
        supervisor.max_connections,
        |count| within(count, 4, 65_536),
        "Connections at a time."
    ),
    row!(
        "serve.max_client_connections",
        None,
        plain,
        supervisor.max_client_connections,
        |count| within(count, 1, 65_536),
        "Connections at a time from one address."
    ),
    row!(
        "serve.max_client_streams",
        None,
        plain,
        supervisor.max_client_streams,
        |count| within(count, 0, 65_536),
        "Streams at a time that were started from one address; 0 for no limit but the capacity."
    ),
    row!(
        "serve.shutdown",
        None,
        time,
        supervisor.shutdown_ms,
        |ms| time_within(ms, 1_000, 60_000),
        "Time between the order to end and the end. An orchestrator gives 8s."
    ),
    row!(
        "serve.drain",
        None,
        time,
        supervisor.drain_ms,
        |ms| time_within(ms, 0, 86_400_000),
        "Time that streams may go on after the order to end; no new one is taken meanwhile. 0s ends them at once."
    ),
    row!(
        "serve.trace",
        None,
        maybe_path,
        engine.trace,
        Ok::<_, String>,
        "File for a trace of every frame, which Perfetto opens; empty for none."
    ),
    row!(
        "stream.prefix",
        None,
        text,
        supervisor.stream_prefix,
        prefix,
        "Path before `/stream/start` and its kin, such as `/api`; empty or `/` for none."
    ),
];
