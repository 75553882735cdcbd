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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::SocketAddr;

    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::get;

    use super::*;

    fn fetcher(pictures: &str) -> Fetcher {
        Fetcher::new(&Config { pictures: pictures.into(), ..Config::default() })
    }

    #[test]
    fn pictures_come_from_where_they_may_and_within_bounds() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let router = Router::new()
            .route("/picture", get(async || "bytes"))
            .route("/large", get(async || vec![0_u8; MOST + 1]))
            .route("/moved", get(async || Redirect::temporary("/picture")))
            .route("/round", get(async || Redirect::permanent("/round")))
            .route("/away", get(async || Redirect::temporary("http://169.254.169.254/secret")))
            .route("/file", get(async || Redirect::temporary("file:///etc/passwd")));
        let listener = runtime.block_on(tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async { axum::serve(listener, router).await });

        let near = fetcher("loopback");
        let ask = |path: &str| near.fetch(&format!("http://127.0.0.1:{port}{path}"));
        assert_eq!(ask("/picture"), Ok(Some(b"bytes".to_vec())));
        assert_eq!(ask("/moved"), Ok(Some(b"bytes".to_vec())));
        assert_eq!(near.fetch(&format!("http://localhost:{port}/picture")), Ok(Some(b"bytes".to_vec())));
        for (path, part) in [
            ("/none", "404"),
            ("/large", "more than 16 MB"),
            ("/round", "more than 3 times"),
            ("/away", "169.254.169.254 is not among the addresses that engine.pictures permits"),
            ("/file", "the scheme file"),
        ] {
            let said = ask(path).unwrap_err();
            assert!(said.starts_with("Failed to fetch image from URL: ") && said.contains(part), "{path}: {said}");
            assert!(said.contains("data URI"), "{said}");
        }
        // The usual setting lets nobody look around here, by address or by name.
        for host in ["127.0.0.1", "localhost", "[::1]"] {
            let said = fetcher("public").fetch(&format!("http://{host}:{port}/picture")).unwrap_err();
            assert!(said.contains("engine.pictures"), "{host}: {said}");
        }
        assert!(Ahead(&fetcher("public")).fetch(&format!("http://127.0.0.1:{port}/picture")).unwrap().is_none());
    }
}
