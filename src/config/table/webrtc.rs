//! The WebRTC door: `webrtc`.

use super::Setting;
use super::check::{header, ice_urls, origins};
use super::row;
use crate::config::values::{list, plain, ports, text, time, time_within, within};

/// The rows, in the order of the file.
pub(super) const ROWS: &[Setting] = &[
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
];
