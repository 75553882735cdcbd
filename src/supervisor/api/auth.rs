//! Who may call: the bearer token, and what is open to whom without one.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::{app, webrtc};
use crate::supervisor::doors::runner::PATH;
use crate::supervisor::hub::Hub;

/// Checks the token; an empty one lets everybody in. The time taken does not tell how much of it was right.
///
/// # Errors
/// [`ApiError::Token`].
pub(super) fn check(headers: &HeaderMap, token: &str) -> Result<(), ApiError> {
    if token.is_empty() {
        return Ok(());
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("");
    let (scheme, given) = given.split_once(' ').unwrap_or((given, ""));
    let right = Sha256::digest(given.trim().as_bytes()).ct_eq(&Sha256::digest(token.as_bytes()));
    if scheme.eq_ignore_ascii_case("bearer") && bool::from(right) { Ok(()) } else { Err(ApiError::Token) }
}

/// Routes that say how the runner is and what it is, and nothing of its streams.
const FREE: [&str; 5] = ["/health", "/version", "/app-version", "/hardware/info", "/hardware/stats"];

/// Whether `peer` may make this call to `path` (without a slash at the end) at all. From this machine, or set to be open,
/// routes judge for themselves. Callers beyond it get what [`FREE`] says, the page, which asks for the token itself, and what
/// an orchestrator proxies by its own tokens; for anything else they show the token, or the one that an orchestrator was
/// given with a registration. A browser asks whether it may call without showing either.
pub(super) fn guard(
    hub: &Hub,
    peer: Option<IpAddr>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    let near = peer.is_some_and(|peer| peer.is_loopback());
    let proxied = path.strip_prefix(PATH).is_some_and(|rest| rest.starts_with('/'));
    if near || hub.config.open || FREE.contains(&path) || proxied || method == Method::OPTIONS {
        return Ok(());
    }
    match hub.config.auth_token.as_str() {
        "" => {}
        _ if app::ROUTES.contains(&path) => return Ok(()),
        token => return check(headers, token),
    }
    // The door has a word of its own on who may come without a token.
    if hub.config.webrtc.enabled && hub.config.webrtc.open && webrtc::label(path).is_some() {
        return Ok(());
    }
    match hub.worker_token() {
        "" => Err(ApiError::Closed),
        token => check(headers, token).map_err(|_| ApiError::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_token_in_the_right_scheme() {
        for (header, token, right) in [
            (None, "", true),
            (Some("Bearer x"), "", true),
            (Some("Bearer secret"), "secret", true),
            (Some("bearer secret"), "secret", true),
            (None, "secret", false),
            (Some(""), "secret", false),
            (Some("Bearer"), "secret", false),
            (Some("Bearer secre"), "secret", false),
            (Some("Bearer secrets"), "secret", false),
            (Some("Basic secret"), "secret", false),
            (Some("secret"), "secret", false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(header::AUTHORIZATION, header.parse().expect("a header"));
            }
            assert_eq!(check(&headers, token).is_ok(), right, "{header:?} {token:?}");
        }
    }
}
