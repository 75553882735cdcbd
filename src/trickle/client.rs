//! Requests to trickle servers: one pool of HTTP/1.1 connections, no redirects, no proxies.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use reqwest::{Body, Response, Url};

use super::config::Config;
use super::error::TrickleError;
use super::policy::Policy;
use super::protocol::{self, Answer, Limits, Position};

/// A number that no channel reaches: asking for it yields the edge at once, on servers without `/next`.
const FAR: u64 = i32::MAX as u64;
/// Keep-alive probes on idle connections, so that a dead peer is noticed by the kernel.
const PROBE: Duration = Duration::from_secs(15);

/// A pool of connections to trickle servers. Cloning shares it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    policy: Arc<Policy>,
    config: Config,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("tls", &self.inner.config.tls).finish_non_exhaustive()
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The certificate is refused; trying again is no use.
    Certificate(String),
    /// Anything else.
    Lost(String),
}

impl Failure {
    pub(super) fn into_error(self, host: &str) -> TrickleError {
        let host = host.into();
        match self {
            Self::Certificate(reason) => TrickleError::Certificate { host, reason },
            Self::Lost(reason) => TrickleError::Unreachable { host, reason },
        }
    }

    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Certificate(reason) | Self::Lost(reason) => reason,
        }
    }

    /// Reduces an error to its innermost cause, which names no URL.
    pub(super) fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() && error.is_timeout() {
            return Self::Lost("connecting timed out".into());
        }
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
        let mut deepest = String::new();
        while let Some(at) = cause {
            let inner = at.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            let tls = at.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()));
            if let Some(rustls::Error::InvalidCertificate(why)) = tls {
                let why = match why {
                    rustls::CertificateError::ApplicationVerificationFailure => "it is not the pinned one".to_owned(),
                    other => format!("{other:?}"),
                };
                return Self::Certificate(why);
            }
            deepest = at.to_string();
            cause = match inner {
                Some(inner) => Some(inner),
                None => at.source(),
            };
        }
        Self::Lost(deepest)
    }
}

impl Client {
    /// Builds a client. Opens no connection yet.
    ///
    /// # Errors
    /// The settings cannot be used.
    pub fn new(config: &Config) -> Result<Self, TrickleError> {
        let wrong = |word| TrickleError::Forbidden(format!("trickle.allow: {word}"));
        let policy = Arc::new(Policy::parse(&config.allow).map_err(wrong)?);
        let http = policy
            .guard(reqwest::Client::builder())
            .tls_backend_preconfigured(
                crate::tls::client_config(&config.tls).map_err(|error| TrickleError::Tls(error.to_string()))?,
            )
            .http1_only()
            .no_proxy()
            .referer(false)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
            .tcp_nodelay(true)
            .tcp_keepalive(PROBE)
            .tcp_keepalive_interval(PROBE)
            .tcp_keepalive_retries(3)
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(16)
            .build()
            .map_err(|error| TrickleError::Tls(Failure::from(error).reason().to_owned()))?;
        Ok(Self { inner: Arc::new(Inner { http, policy, config: config.clone() }) })
    }

    /// A channel, if it is where channels may be.
    pub(super) fn channel(&self, url: &str) -> Result<Channel, TrickleError> {
        let channel = Channel::parse(url)?;
        self.inner.policy.check(&channel.base).map_err(TrickleError::Forbidden)?;
        Ok(channel)
    }

    /// Whether a channel may be at `url`. Names are judged later, when they are resolved.
    ///
    /// # Errors
    /// [`TrickleError::Url`] or [`TrickleError::Forbidden`].
    pub fn permits(&self, url: &str) -> Result<(), TrickleError> {
        self.channel(url).map(drop)
    }

    /// Tells whether a channel exists, and makes it where the server creates channels on demand. `mime` is its type.
    ///
    /// # Errors
    /// No answer, or one other than 200 and 404.
    pub async fn create(&self, url: &str, mime: &str) -> Result<bool, TrickleError> {
        let channel = self.channel(url)?;
        let request = self.inner.http.post(channel.root()).header(protocol::EXPECT_CONTENT, mime);
        match self.short(&channel, request).await?.0.status {
            200..=299 => Ok(true),
            404 => Ok(false),
            status => Err(channel.status(status)),
        }
    }

    /// The number of the channel's next segment.
    ///
    /// # Errors
    /// [`TrickleError::NotFound`] for an unknown channel; no answer; an answer without a number.
    pub async fn next(&self, url: &str) -> Result<u64, TrickleError> {
        self.next_of(&self.channel(url)?).await.map(|(next, _)| next)
    }

    /// Closes a channel and removes it. True if it was there.
    ///
    /// # Errors
    /// No answer, or an answer other than 200, 400 and 404.
    pub async fn delete(&self, url: &str) -> Result<bool, TrickleError> {
        let channel = self.channel(url)?;
        self.delete_channel(&channel).await
    }

    pub(super) async fn delete_channel(&self, channel: &Channel) -> Result<bool, TrickleError> {
        match self.short(channel, self.inner.http.delete(channel.root())).await?.0.status {
            200..=299 => Ok(true),
            400 | 404 => Ok(false),
            status => Err(channel.status(status)),
        }
    }

    /// Closes one segment. False if the server does not hold it.
    pub(super) async fn delete_segment(&self, channel: &Channel, seq: u64) -> Result<bool, TrickleError> {
        match self.short(channel, self.inner.http.delete(channel.segment(Position::Seq(seq)))).await?.0.status {
            200..=299 => Ok(true),
            400 | 404 => Ok(false),
            status => Err(channel.status(status)),
        }
    }

    /// The channel's next number, and whether the server knows `/next`; older ones take it for a bad number.
    pub(super) async fn next_of(&self, channel: &Channel) -> Result<(u64, bool), TrickleError> {
        let (answer, mut response) = self.short(channel, self.inner.http.get(channel.next())).await?;
        match answer.status {
            200 => match answer.latest {
                Some(next) => return Ok((next, true)),
                None => {
                    let text = response.chunk().await.ok().flatten().unwrap_or_default();
                    return protocol::parse_seq(&text).map(|next| (next, true)).ok_or(channel.status(200));
                }
            },
            404 => return Err(channel.not_found()),
            400 => {}
            status => return Err(channel.status(status)),
        }
        let far = channel.segment(Position::Seq(FAR));
        let (answer, _) = self.short(channel, self.inner.http.get(far)).await?;
        match (answer.status, answer.latest) {
            (protocol::NO_SEGMENT, Some(next)) => Ok((next, false)),
            (404, _) => Err(channel.not_found()),
            (status, _) => Err(channel.status(status)),
        }
    }

    /// Opens a GET and waits for its headers, for ever if need be.
    pub(super) async fn get(&self, channel: &Channel, at: Position) -> Result<(Answer, Response), Failure> {
        let response = self.inner.http.get(channel.segment(at)).send().await.map_err(Failure::from)?;
        Ok((answer_of(&response), response))
    }

    /// Opens a POST, streams its body and waits for the final answer, which may come before the body ends.
    pub(super) async fn post(
        &self,
        channel: &Channel,
        seq: u64,
        mime: &'static str,
        reset: bool,
        body: Body,
    ) -> Result<Answer, Failure> {
        let mut request =
            self.inner.http.post(channel.segment(Position::Seq(seq))).header(CONTENT_TYPE, mime).body(body);
        if reset {
            request = request.header(protocol::RESET, "1");
        }
        let response = request.send().await.map_err(Failure::from)?;
        Ok(answer_of(&response))
    }

    /// A request without a stream, under a time limit.
    async fn short(
        &self,
        channel: &Channel,
        request: reqwest::RequestBuilder,
    ) -> Result<(Answer, Response), TrickleError> {
        let response =
            request.timeout(self.stall()).send().await.map_err(|e| Failure::from(e).into_error(&channel.host))?;
        Ok((answer_of(&response), response))
    }

    pub(super) fn limits(&self) -> Limits {
        let config = &self.inner.config;
        Limits { max_failures: config.max_failures, retry_delay: Duration::from_millis(config.retry_delay_ms) }
    }

    /// Time after which a GET without headers is given up. Never so short that it amounts to a busy loop.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_millis(self.inner.config.silent_get_ms.max(100))
    }

    pub(super) fn stall(&self) -> Duration {
        Duration::from_millis(self.inner.config.write_stall_ms.max(1))
    }

    pub(super) fn close_budget(&self) -> Duration {
        Duration::from_millis(self.inner.config.close_ms)
    }
}

fn answer_of(response: &Response) -> Answer {
    Answer::read(response.status().as_u16(), response.headers())
}

/// A channel's URL. Shows its host and nothing else.
pub(super) struct Channel {
    base: Url,
    host: Box<str>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.host)
    }
}

impl Channel {
    pub(super) fn parse(url: &str) -> Result<Self, TrickleError> {
        let mut base = Url::parse(url).map_err(|_| TrickleError::Url("it cannot be parsed"))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(TrickleError::Url("its scheme is neither http nor https"));
        }
        base.set_fragment(None);
        let name = base.host_str().ok_or(TrickleError::Url("it has no host"))?;
        let host = match base.port_or_known_default() {
            Some(port) => format!("{name}:{port}").into(),
            None => name.into(),
        };
        if let Ok(mut path) = base.path_segments_mut() {
            path.pop_if_empty();
        }
        if base.path().trim_matches('/').is_empty() {
            return Err(TrickleError::Url("it names no channel"));
        }
        Ok(Self { base, host })
    }

    /// Host and port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn not_found(&self) -> TrickleError {
        TrickleError::NotFound { host: self.host.clone() }
    }

    fn status(&self, status: u16) -> TrickleError {
        TrickleError::Status { host: self.host.clone(), status }
    }

    fn root(&self) -> Url {
        self.base.clone()
    }

    fn segment(&self, at: Position) -> Url {
        self.below(&at.to_string())
    }

    fn next(&self) -> Url {
        self.below("next")
    }

    fn below(&self, part: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(part);
        }
        url
    }
}

/// Text for an answer that is neither a success nor an end.
pub(super) fn status_text(status: u16) -> String {
    match StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason()) {
        Some(reason) => format!("answer {status} {reason}"),
        None => format!("answer {status}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_built_below_the_channel() {
        for base in ["https://o.example:8935/ai/trickle/abc-out", "https://o.example:8935/ai/trickle/abc-out/"] {
            let channel = Channel::parse(base).unwrap();
            assert_eq!(channel.root().as_str(), "https://o.example:8935/ai/trickle/abc-out");
            let url = |at| channel.segment(at).as_str().to_owned();
            assert_eq!(url(Position::Seq(7)), "https://o.example:8935/ai/trickle/abc-out/7");
            assert_eq!(url(Position::Current), "https://o.example:8935/ai/trickle/abc-out/-2");
            assert_eq!(channel.next().as_str(), "https://o.example:8935/ai/trickle/abc-out/next");
        }
        let token = Channel::parse("http://h/a?token=x#f").unwrap();
        assert_eq!(token.segment(Position::Seq(0)).as_str(), "http://h/a/0?token=x");
    }

    #[test]
    fn nothing_but_the_host_is_shown() {
        let channel = Channel::parse("https://user:pw@o.example/ai/trickle/secret?t=secret").unwrap();
        let shown = format!("{channel:?} {} {}", channel.not_found(), channel.status(500));
        assert!(!shown.contains("secret") && !shown.contains("pw"), "{shown}");
        assert!(shown.contains("o.example:443"));
        for bad in ["secret", "ftp://h/secret", "http://h", "http://h/", "data:secret"] {
            assert!(!Channel::parse(bad).unwrap_err().to_string().contains("secret"), "{bad}");
        }
    }
}
