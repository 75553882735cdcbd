//! The table of settings.

use super::values::{list, maybe_path, object, path, plain, ports, size, text, time, time_within, tls, within, word};
use super::{Config, LogFormat, LogLevel};

/// What a variable of the network's containers means for a setting; `None` when its value says nothing.
type Meaning = fn(&str) -> Option<&str>;

/// One setting.
pub struct Setting {
    /// The key in the file.
    pub key: &'static str,
    /// The variable that containers of the network know it by.
    pub contract: Option<(&'static str, Meaning)>,
    /// What it does, in one sentence or two.
    pub about: &'static str,
    /// Its value is never shown.
    pub secret: bool,
    /// Its value in a configuration, as it would be written.
    pub get: fn(&Config) -> String,
    /// Sets it from a text.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Setting {
    /// The flag, without dashes in front: the key with dashes, without `serve`.
    pub fn flag(&self) -> String {
        self.key.strip_prefix("serve.").unwrap_or(self.key).replace(['.', '_'], "-")
    }

    /// The variable: `WEIR_` and the key.
    pub fn variable(&self) -> String {
        format!("WEIR_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// The value in `config` for people; stars for a secret.
    pub fn shown(&self, config: &Config) -> String {
        let value = (self.get)(config);
        if self.secret && !value.is_empty() { "***".into() } else { value }
    }
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setting").field("key", &self.key).finish_non_exhaustive()
    }
}

fn same(value: &str) -> Option<&str> {
    Some(value)
}

fn verbose(value: &str) -> Option<&str> {
    (value == "1").then_some("debug")
}

fn version(value: &str) -> Option<&str> {
    (value != "undefined").then_some(value)
}

fn live(value: String) -> Result<String, String> {
    match value.as_str() {
        "live-video-to-video" | "byoc" => Ok(value),
        _ => Err(format!("`{value}` is not `live-video-to-video` or `byoc`")),
    }
}

fn filled(value: String) -> Result<String, String> {
    if value.is_empty() { Err("a name is expected".into()) } else { Ok(value) }
}

fn prefix(value: String) -> Result<String, String> {
    let value = value.trim_end_matches('/').to_owned();
    let fine = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
    let whole = value.starts_with('/') && !value.contains("//") && value.chars().all(fine);
    if value.is_empty() || whole {
        Ok(value)
    } else {
        Err(format!("`{value}` is no path: a slash, then letters, digits, `-`, `_` and `.`"))
    }
}

fn header(value: String) -> Result<String, String> {
    if value.is_ascii() { Ok(value) } else { Err("only ASCII characters can be sent".into()) }
}

fn currency(value: String) -> Result<String, String> {
    let fine = value.len() <= 8 && value.chars().all(|c| c.is_ascii_alphabetic());
    if fine { Ok(value) } else { Err(format!("`{value}` is no currency: up to 8 letters are expected")) }
}

fn trimmed(value: String) -> Result<String, String> {
    if value.trim() == value { Ok(value) } else { Err("spaces at the beginning or the end are not taken".into()) }
}

fn decimal(value: String) -> Result<String, String> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = value.parse().ok().filter(|number: &f64| plain && number.is_finite() && *number >= 0.0);
    let json = serde_json::from_str::<serde_json::Number>(&value).is_ok();
    if number.is_some() && json { Ok(value) } else { Err(format!("`{value}` is no decimal number, such as 0.75")) }
}

fn unit(value: String) -> Result<String, String> {
    let known = ["hour", "720p", "fixed"].contains(&value.as_str());
    if known { Ok(value) } else { Err(format!("`{value}` is none of hour, 720p, fixed")) }
}

fn metadata(value: String) -> Result<String, String> {
    if value.len() <= 1024 { Ok(value) } else { Err("more than 1024 bytes are not taken".into()) }
}

/// An address of the web, without a slash at the end; or nothing.
fn web(value: String) -> Result<String, String> {
    if value.is_empty() {
        return Ok(value);
    }
    let url = reqwest::Url::parse(&value).map_err(|error| format!("this is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("a URL that begins with http:// or https:// is expected".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("the URL must have no query and no fragment".into());
    }
    Ok(value.trim_end_matches('/').to_owned())
}

/// As [`web`], and no address that means any of this machine's.
fn reachable(value: String) -> Result<String, String> {
    let value = web(value)?;
    let host = reqwest::Url::parse(&value).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let address: Option<std::net::IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    if address.is_some_and(|address| address.is_unspecified()) {
        return Err(format!("nobody can reach {host}; give an address that the orchestrator can connect to"));
    }
    Ok(value)
}

/// Addresses of STUN or TURN servers.
fn ice_urls(urls: Vec<String>, schemes: &[&str]) -> Result<Vec<String>, String> {
    let wrong = |url: &&String| {
        let host = schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
        host.is_none_or(|host| host.is_empty() || host.starts_with('/') || host.contains(['<', '>', '"', ' ']))
    };
    match urls.iter().find(wrong) {
        Some(url) => Err(format!("`{url}` is no such server: one begins with {}", schemes.join(" or "))),
        None => Ok(urls),
    }
}

/// Origins of pages.
fn origins(origins: Vec<String>) -> Result<Vec<String>, String> {
    let fine = |origin: &String| {
        let url = reqwest::Url::parse(origin).ok().filter(|url| url.has_host());
        origin == "*" || url.is_some_and(|url| url.origin().ascii_serialization() == *origin)
    };
    if origins.len() > 1 && origins.iter().any(|origin| origin == "*") {
        return Err("`*` stands alone".into());
    }
    match origins.iter().find(|origin| !fine(origin)) {
        Some(origin) => {
            Err(format!("`{origin}` is no origin: write the scheme and the host, without a slash at the end"))
        }
        None => Ok(origins),
    }
}

/// A row: key, network variable, kind, field, optional check, sentence.
macro_rules! row {
    ($key:literal, $contract:expr, $kind:ident, $($field:ident).+, $check:expr, $about:literal) => {
        Setting {
            key: $key,
            contract: $contract,
            about: $about,
            secret: false,
            get: |config| $kind::show(&config.$($field).+),
            set: |config, text| {
                let check = $check;
                config.$($field).+ = check($kind::parse(text)?)?;
                Ok(())
            },
        }
    };
}

/// Every setting, in the order of the file.
pub const SETTINGS: &[Setting] = &[
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
    row!(
        "webrtc.enabled",
        None,
        plain,
        supervisor.webrtc.enabled,
        Ok::<_, String>,
        "Whether WebRTC peers are served: `true` or `false`."
    ),
    row!(
        "webrtc.open",
        None,
        plain,
        supervisor.webrtc.open,
        Ok::<_, String>,
        "Whether WebRTC and the page open to other machines without `serve.auth_token`."
    ),
    row!(
        "webrtc.ports",
        None,
        ports,
        supervisor.webrtc.ports,
        Ok::<_, String>,
        "UDP port for the media of all peers, or a range of which the first free one is taken; 0 takes any."
    ),
    row!(
        "webrtc.addresses",
        None,
        list,
        supervisor.webrtc.addresses,
        Ok::<_, String>,
        "Addresses of this machine for media, with commas between; empty for all of them."
    ),
    row!(
        "webrtc.announce",
        None,
        list,
        supervisor.webrtc.announce,
        Ok::<_, String>,
        "Public addresses that lead to the ones above by a translation that keeps ports."
    ),
    row!(
        "webrtc.tcp",
        None,
        plain,
        supervisor.webrtc.tcp,
        Ok::<_, String>,
        "Whether media may come over TCP as well, on the same port."
    ),
    row!(
        "webrtc.stun",
        None,
        list,
        supervisor.webrtc.stun,
        |urls| ice_urls(urls, &["stun:", "stuns:"]),
        "STUN servers that peers are told of, such as `stun:host:3478`, with commas between."
    ),
    row!(
        "webrtc.turn",
        None,
        list,
        supervisor.webrtc.turn,
        |urls| ice_urls(urls, &["turn:", "turns:"]),
        "TURN servers that peers are told of, such as `turn:host:3478?transport=udp`, with commas between."
    ),
    row!(
        "webrtc.turn_username",
        None,
        text,
        supervisor.webrtc.turn_username,
        header,
        "User of the TURN servers; with `webrtc.turn_secret`, what stands behind the time in the user's name."
    ),
    Setting {
        secret: true,
        ..row!(
            "webrtc.turn_credential",
            None,
            text,
            supervisor.webrtc.turn_credential,
            header,
            "Password of the TURN servers."
        )
    },
    Setting {
        secret: true,
        ..row!(
            "webrtc.turn_secret",
            None,
            text,
            supervisor.webrtc.turn_secret,
            header,
            "Secret shared with the TURN servers, from which passwords are made that last for `webrtc.turn_ttl` (TURN REST API)."
        )
    },
    row!(
        "webrtc.turn_ttl",
        None,
        time,
        supervisor.webrtc.turn_ttl_ms,
        |ms| time_within(ms, 60_000, 604_800_000),
        "Time for which a made password is good."
    ),
    row!(
        "webrtc.max_peers",
        None,
        plain,
        supervisor.webrtc.max_peers,
        |count| within(count, 1, 1_000),
        "WebRTC peers at a time, those that watch included."
    ),
    row!(
        "webrtc.connect_timeout",
        None,
        time,
        supervisor.webrtc.connect_ms,
        |ms| time_within(ms, 1_000, 120_000),
        "Time that a peer may take to connect."
    ),
    row!(
        "webrtc.vanish",
        None,
        time,
        supervisor.webrtc.vanish_ms,
        |ms| time_within(ms, 1_000, 120_000),
        "Time without a packet after which a peer is gone. Peers send one every 6s at least."
    ),
    row!(
        "webrtc.cors",
        None,
        list,
        supervisor.webrtc.cors,
        origins,
        "Origins whose pages may call the WebRTC routes, such as `https://app.example`, with commas between; `*` for any."
    ),
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
    row!(
        "media.video_decoder",
        None,
        text,
        engine.media.video_decoder,
        filled,
        "`auto`, or an FFmpeg decoder such as `h264` or `h264_cuvid`."
    ),
    row!(
        "media.video_encoder",
        None,
        text,
        engine.media.video_encoder,
        filled,
        "`auto`, or an FFmpeg encoder such as `libx264` or `h264_nvenc`."
    ),
    row!(
        "media.video_kbps",
        None,
        plain,
        engine.media.video_kbps,
        |kbps| within(kbps, 0, 200_000),
        "Ceiling of the video bit rate in kbit/s; 0 chooses by size and rate."
    ),
    row!(
        "media.video_crf",
        None,
        plain,
        engine.media.video_crf,
        |crf| within(crf, 0, 51),
        "Quality target of x264, 0 to 51; lower is better."
    ),
    row!(
        "media.video_preset",
        None,
        text,
        engine.media.video_preset,
        filled,
        "Speed preset of the encoder, in its own words."
    ),
    row!(
        "media.segment_seconds",
        None,
        plain,
        engine.media.segment_seconds,
        |seconds| within(seconds, 0.2, 30.0),
        "Seconds between forced key frames, which is the length of a segment."
    ),
    row!(
        "media.max_fps",
        None,
        plain,
        engine.media.max_fps,
        |fps| within(fps, 0.0, 240.0),
        "Frames a second handed to the pipeline at most; 0 for no cap."
    ),
    row!(
        "media.audio",
        None,
        word,
        engine.media.audio,
        Ok::<_, String>,
        "Codec of the published audio: `opus`, `aac` or `none`."
    ),
    row!(
        "media.audio_kbps",
        None,
        plain,
        engine.media.audio_kbps,
        |kbps| within(kbps, 6, 512),
        "Bit rate of the published audio in kbit/s."
    ),
    row!(
        "media.max_input_pixels",
        None,
        plain,
        engine.media.max_input_pixels,
        |pixels| within(pixels, 1024, 16_384 * 16_384),
        "Largest accepted input picture in pixels, width × height."
    ),
    row!(
        "media.max_damage",
        None,
        plain,
        engine.media.max_damage,
        |count| within(count, 1, 100_000),
        "Damaged packets in a row that end a stream; a good picture takes one off."
    ),
    row!(
        "inference.provider",
        None,
        word,
        engine.inference.provider,
        Ok::<_, String>,
        "Where graphs run: `cpu`, `cuda` or `tensorrt`. Nothing falls back to another."
    ),
    row!("inference.device", None, plain, engine.inference.device, |index| within(index, 0, 255), "Index of the GPU."),
    row!(
        "inference.threads",
        None,
        plain,
        engine.inference.threads,
        |count| within(count, 0, 1024),
        "Threads of the CPU provider; 0 lets the runtime choose."
    ),
    row!(
        "inference.library",
        None,
        maybe_path,
        engine.inference.library,
        Ok::<_, String>,
        "Path of `libonnxruntime.so`; empty looks in the usual places."
    ),
    row!(
        "inference.engine_cache",
        None,
        maybe_path,
        engine.inference.engine_cache,
        Ok::<_, String>,
        "Folder in which TensorRT's engines are kept; empty for `weir--engines` below the models."
    ),
    row!(
        "inference.engine_cache_size",
        None,
        size,
        engine.inference.engine_cache_size,
        |bytes| within(bytes, 1 << 20, 1 << 44),
        "Bytes that all kept engines may have together; those that were not used for longest are removed."
    ),
    row!(
        "inference.folded_size",
        None,
        size,
        engine.inference.folded_size,
        |bytes| within(bytes, 0, 1 << 44),
        "Bytes of text encoders and other graphs of workflows that run once, with what they made, which are kept for the next workflow; 0 keeps what is in use only."
    ),
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
