//! The routes.

use std::time::Instant;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::channel::{Channel, Found, Segment, TooLong};
use super::io::Interim;
use super::{Full, Server};
use crate::trickle::protocol::{self, MAX_SEQ, Position};

pub(super) fn router(server: Server) -> Router {
    let base = server.inner.config.base_path.trim_matches('/').to_owned();
    let routes = Router::new()
        .route("/{channel}", post(create).delete(remove))
        .route("/{channel}/{seq}", get(read).post(write).delete(close))
        .with_state(server);
    match base.as_str() {
        "" => routes,
        base => Router::new().nest(&format!("/{base}"), routes),
    }
}

fn refuse(status: StatusCode, text: &'static str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{text}\n")).into_response()
}

fn no_channel() -> Response {
    refuse(StatusCode::NOT_FOUND, "Stream not found")
}

fn no_number() -> Response {
    refuse(StatusCode::BAD_REQUEST, "Invalid idx")
}

/// Ends the connection: its client has more to send that nobody wants.
fn last(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn header_text(headers: &HeaderMap, name: http::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A number from `lowest` up.
fn number(text: &str, lowest: i64) -> Option<i64> {
    text.parse().ok().filter(|seq| (lowest..=MAX_SEQ as i64).contains(seq))
}

async fn create(State(server): State<Server>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    match server.find_or_create(&name, header_text(&headers, protocol::EXPECT_CONTENT)) {
        Ok(Some(_)) => StatusCode::OK.into_response(),
        Ok(None) => no_channel(),
        Err(Full) => refuse(StatusCode::SERVICE_UNAVAILABLE, "Too many streams"),
    }
}

async fn remove(State(server): State<Server>, Path(name): Path<String>) -> Response {
    match server.close(&name) {
        true => StatusCode::OK.into_response(),
        false => refuse(StatusCode::BAD_REQUEST, "Invalid stream"),
    }
}

async fn close(State(server): State<Server>, Path((name, seq)): Path<(String, String)>) -> Response {
    let Some(channel) = server.find(&name) else { return no_channel() };
    let Some(seq) = number(&seq, 0) else { return no_number() };
    match channel.held(seq as u64) {
        Some(segment) => {
            segment.close();
            StatusCode::OK.into_response()
        }
        None => refuse(StatusCode::BAD_REQUEST, "Nonexistent segment"),
    }
}

async fn read(State(server): State<Server>, Path((name, seq)): Path<(String, String)>) -> Response {
    let Some(channel) = server.find(&name) else { return no_channel() };
    let at = match seq.as_str() {
        "next" => return next(&channel),
        seq => match number(seq, -2) {
            Some(-2) => Position::Current,
            Some(-1) => Position::Next,
            Some(seq) => Position::Seq(seq as u64),
            None => return no_number(),
        },
    };
    let Found { seq, latest, closed, segment } = channel.for_read(at);
    let Some(segment) = segment else {
        let mut response = "Entry not found".into_response();
        let headers = response.headers_mut();
        headers.insert(protocol::SEQ, seq.into());
        headers.insert(protocol::LATEST, latest.into());
        if closed {
            headers.insert(protocol::CLOSED, HeaderValue::from_static("terminated"));
        } else if let Ok(status) = StatusCode::from_u16(protocol::NO_SEGMENT) {
            *response.status_mut() = status;
        }
        return response;
    };
    // Not even the status goes out before there is something to say.
    match segment.piece(0).await {
        Some(first) => {
            let mut response = Response::new(relay(segment, first));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, channel.mime());
            headers.insert(protocol::SEQ, seq.into());
            if latest != seq {
                headers.insert(protocol::LATEST, latest.into());
            }
            response
        }
        None => {
            let (latest, closed) = channel.edge();
            ended(seq, Some(latest), closed)
        }
    }
}

fn next(channel: &Channel) -> Response {
    let (latest, closed) = channel.edge();
    let mut response = Response::new(Body::from(latest.to_string()));
    response.headers_mut().insert(protocol::LATEST, latest.into());
    if closed {
        response.headers_mut().insert(protocol::CLOSED, HeaderValue::from_static("terminated"));
    }
    response
}

/// An empty 200 about a segment.
fn ended(seq: u64, latest: Option<u64>, closed: bool) -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(protocol::SEQ, seq.into());
    if let Some(latest) = latest {
        headers.insert(protocol::LATEST, latest.into());
    }
    if closed {
        headers.insert(protocol::CLOSED, HeaderValue::from_static("terminated"));
    }
    response
}

/// The pieces of a segment as they come.
fn relay(segment: std::sync::Arc<Segment>, first: Bytes) -> Body {
    let rest = futures_util::stream::unfold((segment, 1), |(segment, index)| async move {
        let piece = segment.piece(index).await?;
        Some((Ok::<_, std::convert::Infallible>(piece), (segment, index + 1)))
    });
    Body::from_stream(futures_util::stream::once(async { Ok(first) }).chain(rest))
}

async fn write(State(server): State<Server>, Path((name, seq)): Path<(String, String)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let channel = match server.find_or_create(&name, header_text(&parts.headers, CONTENT_TYPE)) {
        Ok(Some(channel)) => channel,
        Ok(None) => return last(no_channel()),
        Err(Full) => return last(refuse(StatusCode::SERVICE_UNAVAILABLE, "Too many streams")),
    };
    let Some(seq) = number(&seq, -1) else { return last(no_number()) };
    let segment = channel.for_write(u64::try_from(seq).ok());
    if parts.headers.get(protocol::RESET).is_some_and(|value| !value.is_empty()) {
        channel.reset_below(segment.seq);
    }
    // Interim answers exist since HTTP/1.1.
    let interim = parts.extensions.get::<Interim>().filter(|_| parts.version == http::Version::HTTP_11);
    let mut body = body.into_data_stream();
    let config = &server.inner.config;
    let first = match first(&mut body, &segment, interim, config.interim_interval).await {
        Ok(Some(first)) => first,
        Ok(None) => {
            segment.close();
            let closed = channel.wrote(segment.seq, Instant::now());
            return last(ended(segment.seq, None, closed));
        }
        Err(_) => return last(refuse(StatusCode::INTERNAL_SERVER_ERROR, "Server error")),
    };
    channel.wrote(segment.seq, Instant::now());
    let mut piece = Some(Ok(first));
    while let Some(bytes) = piece {
        match bytes {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                if let Err(TooLong) = segment.append(bytes, config.max_segment) {
                    segment.close();
                    return last(refuse(StatusCode::PAYLOAD_TOO_LARGE, "Segment too long"));
                }
            }
            // The segment stays open, as its writer may come back and go on.
            Err(_) => return last(refuse(StatusCode::INTERNAL_SERVER_ERROR, "Server error")),
        }
        piece = body.next().await;
    }
    segment.close();
    ended(segment.seq, None, false)
}

/// Waits for a body's first bytes; `None` if the body or the segment ends before.
async fn first(
    body: &mut BodyDataStream,
    segment: &Segment,
    interim: Option<&Interim>,
    every: std::time::Duration,
) -> Result<Option<Bytes>, axum::Error> {
    let mut tick = tokio::time::interval(every.max(std::time::Duration::from_millis(1)));
    tick.reset();
    loop {
        tokio::select! {
            biased;
            () = segment.until_closed() => return Ok(None),
            piece = body.next() => match piece.transpose()? {
                Some(bytes) if bytes.is_empty() => {}
                piece => return Ok(piece),
            },
            _ = tick.tick() => {
                if let Some(interim) = interim {
                    interim.ask();
                }
            }
        }
    }
}
