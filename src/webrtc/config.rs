//! Settings of the WebRTC door.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Settings of the WebRTC door.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Whether the door is there.
    pub enabled: bool,
    /// Whether it opens to other machines without a token.
    pub open: bool,
    /// First and last port for media; the first free one serves every peer. 0 takes any.
    pub ports: (u16, u16),
    /// Addresses of this machine to use; none for all of them.
    pub addresses: Vec<IpAddr>,
    /// Addresses under which the ones above are reached from outside, by a translation that keeps ports.
    pub announce: Vec<IpAddr>,
    /// Whether peers may come over TCP, on the same port.
    pub tcp: bool,
    /// STUN servers that peers are told of, such as `stun:host:3478`.
    pub stun: Vec<String>,
    /// TURN servers that peers are told of, such as `turn:host:3478?transport=udp`.
    pub turn: Vec<String>,
    /// User of the TURN servers; with `turn_secret`, what stands behind the time in the user's name.
    pub turn_username: String,
    /// Password of the TURN servers.
    pub turn_credential: String,
    /// What passwords are made with that last for `turn_ttl_ms` (TURN REST API); empty for the fixed one.
    pub turn_secret: String,
    /// Milliseconds.
    pub turn_ttl_ms: u64,
    /// Peers at a time.
    pub max_peers: usize,
    /// Milliseconds that a peer may take to connect.
    pub connect_ms: u64,
    /// Milliseconds without a sign of a peer after which it is gone.
    pub vanish_ms: u64,
    /// Origins whose pages may call the door; `*` for any.
    pub cors: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            open: false,
            ports: (0, 0),
            addresses: Vec::new(),
            announce: Vec::new(),
            tcp: true,
            stun: Vec::new(),
            turn: Vec::new(),
            turn_username: String::new(),
            turn_credential: String::new(),
            turn_secret: String::new(),
            turn_ttl_ms: 86_400_000,
            max_peers: 16,
            connect_ms: 20_000,
            vanish_ms: 10_000,
            cors: Vec::new(),
        }
    }
}

/// Secrets are left out.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("enabled", &self.enabled).field("ports", &self.ports).finish_non_exhaustive()
    }
}
