//! Pictures that parameters name by URL.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::LOCATION;
use reqwest::{StatusCode, Url};

use super::config::Config;
use crate::pipeline::Fetch;
use crate::tls::TlsPolicy;
use crate::trickle::Policy;

/// Time that fetching one may take in all.
const TIME: Duration = Duration::from_secs(5);
/// Bytes that one may have.
const MOST: usize = 16 << 20;
/// Redirects that are followed, each judged as the first address was.
const REDIRECTS: usize = 3;

/// Fetches pictures from where the setting `engine.pictures` lets it.
pub struct Fetcher {
    policy: Result<Arc<Policy>, String>,
}

impl Fetcher {
    /// By the settings of the engine.
    pub fn new(config: &Config) -> Self {
        let policy = Policy::parse(&config.pictures).map(|policy| Arc::new(policy.of("engine.pictures")));
        Self { policy: policy.map_err(|word| format!("engine.pictures: {word}")) }
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let policy = self.policy.clone()?;
        // Strangers are asked, and the picture is shown to people: their certificates count.
        let (verified, tls) = match crate::tls::client_config(&TlsPolicy::Verify) {
            Ok(tls) => (Ok(()), tls),
            Err(why) => (Err(why.to_string()), crate::tls::client_config(&TlsPolicy::Skip).map_err(|e| e.to_string())?),
        };
        let mut url = Url::parse(url).map_err(|error| error.to_string())?;
        let http = policy
            .guard(reqwest::Client::builder().tls_backend_preconfigured(tls))
            .http1_only()
            .no_proxy()
            .referer(false)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| reason(&error))?;
        for _ in 0..=REDIRECTS {
            match url.scheme() {
                "http" => {}
                "https" => verified.clone()?,
                other => return Err(format!("it leads to the scheme {other}")),
            }
            policy.check(&url)?;
            let mut response = http.get(url.clone()).send().await.map_err(|error| reason(&error))?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
                let to = to.ok_or_else(|| format!("{status} without a place to go"))?;
                url = url.join(to).map_err(|error| error.to_string())?;
                continue;
            }
            if !status.is_success() {
                return Err(status.to_string());
            }
            let mut bytes = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(|error| reason(&error))? {
                if bytes.len() + piece.len() > MOST {
                    return Err(format!("it has more than {} MB", MOST >> 20));
                }
                bytes.extend_from_slice(&piece);
            }
            return Ok(bytes);
        }
        Err(format!("it leads on more than {REDIRECTS} times"))
    }
}

impl Fetch for Fetcher {
    /// Blocks for five seconds at most; not for a thread that serves others.
    fn fetch(&self, url: &str) -> Result<Option<Vec<u8>>, String> {
        let failed = |why: String| {
            format!("Failed to fetch image from URL: {why} (a picture can also be given itself, as a data URI)")
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        let done = runtime.block_on(async { tokio::time::timeout(TIME, self.get(url)).await });
        // A look-up of a name may go on for longer than anybody waits.
        runtime.shutdown_background();
        match done {
            Ok(result) => result.map(Some).map_err(failed),
            Err(_) => Err("Request timeout while fetching image from URL".to_owned()),
        }
    }
}

/// Fetches for a model that is loaded before anybody asked for a stream: what cannot be had is told and left out, since only
/// streams need it.
pub struct Ahead<'a>(pub &'a Fetcher);

impl Fetch for Ahead<'_> {
    fn fetch(&self, url: &str) -> Result<Option<Vec<u8>>, String> {
        self.0.fetch(url).or_else(|why| {
            tracing::warn!("The model is loaded without its style picture; streams that ask for it are refused. {why}");
            Ok(None)
        })
    }
}

/// The innermost cause, without the URL.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it does not answer".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
