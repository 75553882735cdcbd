//! Which STUN and TURN servers a peer is told of, and with which credentials.

use std::time::SystemTime;

use serde::Serialize;

use super::Config;
use super::crypto::hmac_sha1;

/// One entry of the list that browsers call `iceServers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IceServer {
    /// Its addresses.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// The servers that a peer is told of at `now`. With a shared secret, each call gives credentials that end after the time
/// set: the user is the Unix time of the end, the password the base64 of HMAC-SHA1 over it (the TURN REST API that coturn
/// calls `use-auth-secret`).
pub fn servers(config: &Config, now: SystemTime) -> Vec<IceServer> {
    let mut servers = Vec::new();
    if !config.stun.is_empty() {
        servers.push(IceServer { urls: config.stun.clone(), username: None, credential: None });
    }
    if !config.turn.is_empty() {
        let (username, credential) = match config.turn_secret.as_str() {
            "" => (config.turn_username.clone(), config.turn_credential.clone()),
            secret => {
                let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
                let mut user = (seconds + config.turn_ttl_ms / 1000).to_string();
                if !config.turn_username.is_empty() {
                    user = format!("{user}:{}", config.turn_username);
                }
                let password = base64(&hmac_sha1(secret.as_bytes(), &[user.as_bytes()]));
                (user, password)
            }
        };
        servers.push(IceServer { urls: config.turn.clone(), username: Some(username), credential: Some(credential) });
    }
    servers
}

/// The same as values of `Link` headers, one a URL (draft-ietf-wish-whip and -whep, section 4.6).
pub fn links(servers: &[IceServer]) -> Vec<String> {
    let mut links = Vec::new();
    for server in servers {
        for url in &server.urls {
            let mut link = format!("<{url}>; rel=\"ice-server\"");
            if let (Some(username), Some(credential)) = (&server.username, &server.credential) {
                let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
                link.push_str(&format!(
                    "; username=\"{}\"; credential=\"{}\"; credential-type=\"password\"",
                    quoted(username),
                    quoted(credential)
                ));
            }
            links.push(link);
        }
    }
    links
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = [chunk[0], chunk.get(1).copied().unwrap_or(0), chunk.get(2).copied().unwrap_or(0)];
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = if at <= chunk.len() { DIGITS[(bits >> shift & 63) as usize] } else { b'=' };
            text.push(digit.into());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn base64_as_in_the_standard() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }

    #[test]
    fn credentials_are_fixed_or_made_for_a_time() {
        let mut config = Config {
            stun: vec!["stun:s:3478".into()],
            turn: vec!["turn:t:3478".into(), "turns:t:5349".into()],
            turn_username: "user".into(),
            turn_credential: "pa\"ss".into(),
            ..Config::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let fixed = servers(&config, now);
        assert_eq!(fixed[1].credential.as_deref(), Some("pa\"ss"));
        assert_eq!(
            links(&fixed)[1],
            "<turn:t:3478>; rel=\"ice-server\"; username=\"user\"; credential=\"pa\\\"ss\"; credential-type=\"password\""
        );
        config.turn_secret = "north".into();
        config.turn_ttl_ms = 60_000;
        let made = servers(&config, now);
        // printf '%s' 1000060:user | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(made[1].username.as_deref(), Some("1000060:user"));
        assert_eq!(made[1].credential.as_deref(), Some("E8LH7aCBVvWZSdWS+0mnHUtd/OU="));
        assert_eq!(made[0].username, None);
        assert_eq!(links(&made).len(), 3);
    }
}
