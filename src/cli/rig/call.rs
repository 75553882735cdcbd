//! Plain HTTP requests to a process on this machine, one connection each.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Longest answer in bytes.
const LONGEST: usize = 4 * 1024 * 1024;
/// Longest wait for one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends one request; a body is sent as JSON.
///
/// # Errors
/// No connection, no HTTP, an answer over 4 MiB, or none within 10 s.
pub async fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> std::io::Result<(StatusCode, Bytes)> {
    let exchange = exchange(address, method, path, body);
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

async fn exchange(
    address: SocketAddr,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> std::io::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let other = |error: hyper::Error| std::io::Error::other(error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(other)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let bytes = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(bytes)))
        .map_err(std::io::Error::other)?;
    let response = sender.send_request(request).await.map_err(other)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST).collect().await.map_err(std::io::Error::other)?;
    Ok((status, body.to_bytes()))
}
