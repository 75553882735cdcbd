//! What the doors that call an orchestrator have in common: a client, bounded answers, an address to be reached at.

use std::net::SocketAddr;

use crate::tls::TlsPolicy;

/// A client that goes where it is told and nowhere else: no proxies, no redirects.
///
/// # Errors
/// The TLS settings cannot be used; for people.
pub(super) fn client(tls: &TlsPolicy) -> Result<reqwest::Client, String> {
    let tls = crate::tls::client_config(tls).map_err(|error| error.to_string())?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| error.to_string())
}

/// Where others reach this process: `set`, or else the address that it listens on, if that is a real one. `key` is the
/// setting.
///
/// # Errors
/// Nobody can reach that; for people.
pub(super) fn announced(set: &str, bound: SocketAddr, key: &str) -> Result<String, String> {
    match set {
        "" if bound.ip().is_unspecified() => {
            Err(format!("{} cannot be announced: nobody can reach it; set {key}", bound.ip()))
        }
        "" => Ok(format!("http://{bound}")),
        url => Ok(url.to_owned()),
    }
}

/// Reads an answer's body up to `most` bytes; what follows, or is lost on the way, is left out.
pub(super) async fn body(response: &mut reqwest::Response, most: usize) -> Vec<u8> {
    let mut said = Vec::new();
    while said.len() < most {
        match response.chunk().await {
            Ok(Some(chunk)) => said.extend_from_slice(&chunk[..chunk.len().min(most - said.len())]),
            Ok(None) | Err(_) => break,
        }
    }
    said
}

/// `said` in one line, without any of `secrets`, whatever the other side repeats.
pub(super) fn hidden(said: &[u8], secrets: &[&str]) -> String {
    let said = String::from_utf8_lossy(said);
    let mut said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        said = said.replace(secret, "***");
    }
    said.trim().to_owned()
}

/// The innermost cause, without the URL.
pub(super) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it does not answer".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    format!("it cannot be reached: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_lines_joined() {
        assert_eq!(hidden(b" a\nsecret b\xff secret ", &["secret", ""]), "a *** b\u{fffd} ***");
    }

    #[test]
    fn only_real_addresses_are_announced() {
        let real = SocketAddr::from(([10, 0, 0, 1], 8000));
        let any = SocketAddr::from(([0, 0, 0, 0], 8000));
        assert_eq!(announced("", real, "x.url"), Ok("http://10.0.0.1:8000".into()));
        assert_eq!(announced("https://h", any, "x.url"), Ok("https://h".into()));
        assert!(announced("", any, "x.url").is_err_and(|why| why.contains("x.url")));
    }
}
