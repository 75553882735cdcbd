//! What a value must be beyond its kind, and what variables of the network's containers mean.

pub(super) fn same(value: &str) -> Option<&str> {
    Some(value)
}

pub(super) fn verbose(value: &str) -> Option<&str> {
    (value == "1").then_some("debug")
}

pub(super) fn version(value: &str) -> Option<&str> {
    (value != "undefined").then_some(value)
}

pub(super) fn live(value: String) -> Result<String, String> {
    match value.as_str() {
        "live-video-to-video" | "byoc" => Ok(value),
        _ => Err(format!("`{value}` is not `live-video-to-video` or `byoc`")),
    }
}

pub(super) fn filled(value: String) -> Result<String, String> {
    if value.is_empty() { Err("a name is expected".into()) } else { Ok(value) }
}

pub(super) fn prefix(value: String) -> Result<String, String> {
    let value = value.trim_end_matches('/').to_owned();
    let fine = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
    let whole = value.starts_with('/') && !value.contains("//") && value.chars().all(fine);
    if value.is_empty() || whole {
        Ok(value)
    } else {
        Err(format!("`{value}` is no path: a slash, then letters, digits, `-`, `_` and `.`"))
    }
}

pub(super) fn header(value: String) -> Result<String, String> {
    if value.is_ascii() { Ok(value) } else { Err("only ASCII characters can be sent".into()) }
}

pub(super) fn currency(value: String) -> Result<String, String> {
    let fine = value.len() <= 8 && value.chars().all(|c| c.is_ascii_alphabetic());
    if fine { Ok(value) } else { Err(format!("`{value}` is no currency: up to 8 letters are expected")) }
}

pub(super) fn trimmed(value: String) -> Result<String, String> {
    if value.trim() == value { Ok(value) } else { Err("spaces at the beginning or the end are not taken".into()) }
}

pub(super) fn decimal(value: String) -> Result<String, String> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = value.parse().ok().filter(|number: &f64| plain && number.is_finite() && *number >= 0.0);
    let json = serde_json::from_str::<serde_json::Number>(&value).is_ok();
    if number.is_some() && json { Ok(value) } else { Err(format!("`{value}` is no decimal number, such as 0.75")) }
}

pub(super) fn unit(value: String) -> Result<String, String> {
    let known = ["hour", "720p", "fixed"].contains(&value.as_str());
    if known { Ok(value) } else { Err(format!("`{value}` is none of hour, 720p, fixed")) }
}

pub(super) fn metadata(value: String) -> Result<String, String> {
    if value.len() <= 1024 { Ok(value) } else { Err("more than 1024 bytes are not taken".into()) }
}

/// An address of the web, without a slash at the end; or nothing.
pub(super) fn web(value: String) -> Result<String, String> {
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
pub(super) fn reachable(value: String) -> Result<String, String> {
    let value = web(value)?;
    let host = reqwest::Url::parse(&value).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let address: Option<std::net::IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    if address.is_some_and(|address| address.is_unspecified()) {
        return Err(format!("nobody can reach {host}; give an address that the orchestrator can connect to"));
    }
    Ok(value)
}

/// Addresses of STUN or TURN servers.
pub(super) fn ice_urls(urls: Vec<String>, schemes: &[&str]) -> Result<Vec<String>, String> {
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
pub(super) fn origins(origins: Vec<String>) -> Result<Vec<String>, String> {
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
