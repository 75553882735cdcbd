//! The scripts that deploy: against a hub and an API of our own, and that what they say to Weir is what Weir understands.

mod hub;
mod names;
mod runpod;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{Method, Response};
use tokio_util::task::AbortOnDropHandle;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script(name: &str) -> PathBuf {
    root().join("scripts").join(name)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// One request: method, path, authorization, range, body.
#[derive(Clone, Debug)]
struct Asked {
    method: Method,
    path: String,
    token: String,
    range: String,
    body: Bytes,
}

/// A server that answers by a function and notes what it was asked.
struct StandIn {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _task: AbortOnDropHandle<()>,
}

impl StandIn {
    async fn start(answer: impl Fn(&Asked) -> Response<Body> + Send + Sync + 'static) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (list, answer) = (asked.clone(), Arc::new(answer));
        let router = Router::new().fallback(move |request: Request| {
            let (list, answer) = (list.clone(), answer.clone());
            async move {
                let (token, range) = {
                    let header = |name: &str| {
                        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
                    };
                    (header("authorization"), header("range"))
                };
                let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                let asked = Asked { method, path, token, range, body };
                let response = answer(&asked);
                list.lock().unwrap().push(asked);
                response
            }
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, asked, _task: AbortOnDropHandle::new(task) }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}
