//! WHIP (RFC 9725), WHEP (draft-ietf-wish-whep) and ComfyStream's `/offer`: an offer in, an answer out, and a resource to
//! change or delete.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::ToSchema;

use super::error::{ApiError, HTTPError};
use super::{app, auth, body};
use crate::supervisor::doors::webrtc::{Admitted, Door, DoorError, PatchError, Patched, tag};
use crate::supervisor::hub::Hub;
use crate::supervisor::server::Caller;
use crate::webrtc::{MAX_SDP, Role, links, servers};

/// Type of offers and answers.
const SDP: &str = "application/sdp";
/// Type of what a PATCH carries.
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// Names that these routes are counted by.
pub(super) const ROUTES: [&str; 5] = ["/whip", "/whep", "/webrtc/ice-servers", "/webrtc/{resource}", "/offer"];

/// The name that a path is counted by; `None` when it is none of ours.
pub(super) fn label(path: &str) -> Option<&'static str> {
    if let Some(page) = app::ROUTES.iter().find(|&&page| page == path) {
        return Some(page);
    }
    let mut parts = path.strip_prefix('/')?.split('/');
    match (parts.next()?, parts.next(), parts.next()) {
        ("whip", _, None) => Some(ROUTES[0]),
        ("whep", _, None) => Some(ROUTES[1]),
        ("webrtc", Some("ice-servers"), None) => Some(ROUTES[2]),
        ("webrtc", Some(_), None) => Some(ROUTES[3]),
        ("offer", None, _) | ("live", Some("offer"), None) => Some(ROUTES[4]),
        _ => None,
    }
}

/// Every route.
pub(super) fn routes(door: Arc<Door>) -> Router<Arc<Hub>> {
    let config = &door.hub().config.webrtc;
    let routes = Router::new()
        .route("/whip", post(whip))
        .route("/whip/{stream}", post(whip_named))
        .route("/whep", post(whep))
        .route("/whep/{stream}", post(whep_named))
        .route("/offer", post(offer))
        .route("/live/offer", post(offer))
        .route("/webrtc/ice-servers", get(ice))
        .route("/webrtc/{resource}", patch(trickle).delete(leave))
        .layer(middleware::from_fn_with_state(door.clone(), guard));
    let routes = match cors(&config.cors) {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    // The page holds no secret: where a token is needed, it asks for one. Without a token it is guarded as the rest is.
    let page = app::routes();
    let page = match door.hub().config.auth_token.is_empty() {
        true => page.layer(middleware::from_fn_with_state(door.clone(), guard)),
        false => page,
    };
    routes.merge(page).with_state(door)
}

/// What pages of other origins may do; `None`: nothing.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origin = match origins {
        [] => return None,
        [any] if any == "*" => AllowOrigin::any(),
        list => AllowOrigin::list(list.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    let exposed = [header::LOCATION, header::LINK, header::ETAG, HeaderName::from_static("x-weir-stream")];
    Some(
        CorsLayer::new()
            .allow_origin(origin)
            .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
            .allow_headers([header::CONTENT_TYPE, header::AUTHORIZATION, header::IF_MATCH])
            .expose_headers(exposed),
    )
}

/// Lets through who has the token. Without a token to have, only this machine gets in, unless the settings open the door.
async fn guard(
    State(door): State<Arc<Door>>,
    Extension(Caller(caller)): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    match admit(&door, request.headers(), caller) {
        Ok(pass) => {
            request.extensions_mut().insert(pass);
            next.run(request).await
        }
        Err(fault) => {
            door.hub().metrics.webrtc.count("refused_caller");
            fault.into_response()
        }
    }
}

/// By what right a caller is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// It has the token, or calls from this machine.
    Known,
    /// The settings open the door to everybody.
    Stranger,
}

fn admit(door: &Door, headers: &HeaderMap, caller: SocketAddr) -> Result<Pass, Fault> {
    let config = &door.hub().config;
    if !config.auth_token.is_empty() {
        let checked = auth::check(headers, &config.auth_token).map(|()| Pass::Known);
        return checked.map_err(|error| Fault::Api(Box::new(error)));
    }
    // A proxy on this machine, or a name that someone else points here, must not pass for a caller of this machine.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    if caller.ip().to_canonical().is_loopback() && local(host) {
        return Ok(Pass::Known);
    }
    if config.webrtc.open {
        return Ok(Pass::Stranger);
    }
    let reason = "this door opens to other machines with a token (serve.auth_token) or by webrtc.open";
    Err(Fault::Is(StatusCode::FORBIDDEN, reason.into()))
}

/// Whether a `Host` header names this machine by a name that nobody else can give.
fn local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Why a call is not served.
enum Fault {
    /// In the words of the whole API.
    Api(Box<ApiError>),
    /// In our own.
    Is(StatusCode, String),
}

impl From<DoorError> for Fault {
    fn from(error: DoorError) -> Self {
        Self::Api(Box::new(error.into()))
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        match self {
            Self::Api(error) => error.into_response(),
            Self::Is(status, message) => (status, Json(json!({ "detail": { "msg": message } }))).into_response(),
        }
    }
}

/// SDP of the type `wanted`.
async fn text(headers: &HeaderMap, body: Body, wanted: &str) -> Result<String, Fault> {
    text_of(headers, body, wanted, MAX_SDP).await
}

/// A body of the type `wanted` and at most `most` bytes. The type keeps pages of other sites from sending it unasked.
async fn text_of(headers: &HeaderMap, body: Body, wanted: &str, most: usize) -> Result<String, Fault> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    if kind.split(';').next().unwrap_or("").trim() != wanted {
        return Err(Fault::Is(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the content type must be {wanted}")));
    }
    let bytes = body::read(headers, body, most).await.map_err(|error| match error {
        ApiError::TooLarge(_) => Fault::Is(StatusCode::PAYLOAD_TOO_LARGE, error.message()),
        error => Fault::Api(Box::new(error)),
    })?;
    let utf8 = String::from_utf8(bytes.to_vec());
    utf8.map_err(|_| Fault::Is(StatusCode::BAD_REQUEST, "the body is not UTF-8".into()))
}

/// What an address may say.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Wishes {
    /// Parameters of the pipeline, as a JSON object; where a peer sends.
    params: String,
    /// Whether the data channel `data` gets the figures of every interval.
    figures: bool,
}

fn params(wishes: &Wishes) -> Result<Map<String, Value>, Fault> {
    if wishes.params.is_empty() {
        return Ok(Map::new());
    }
    let bad = |error: &dyn std::fmt::Display| Fault::Is(StatusCode::BAD_REQUEST, format!("params: {error}"));
    serde_json::from_str(&wishes.params).map_err(|error| bad(&error))
}

/// A name that a stream may have.
fn named(name: &str) -> Result<&str, Fault> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=64).contains(&name.len()) && name.chars().all(fine) {
        return Ok(name);
    }
    let reason = "a stream's name has 1 to 64 letters, digits, `-`, `_` and `.`";
    Err(Fault::Is(StatusCode::BAD_REQUEST, reason.into()))
}

/// The answer that both standards ask for.
fn created(door: &Door, admitted: Admitted) -> Response {
    let Admitted { resource, stream, sdp } = admitted;
    let mut response = (StatusCode::CREATED, sdp).into_response();
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.append(name, value);
        }
    };
    // Names of streams go through `named`, so nothing here needs to be escaped.
    set(header::LOCATION, format!("/webrtc/{resource}"));
    set(header::ETAG, tag(0));
    set(HeaderName::from_static("accept-patch"), FRAGMENT.into());
    set(HeaderName::from_static("x-weir-stream"), stream);
    for link in links(&servers(&door.hub().config.webrtc, SystemTime::now())) {
        set(header::LINK, link);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP));
    response
}

async fn publish(
    door: &Arc<Door>,
    name: &str,
    wishes: &Wishes,
    caller: SocketAddr,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let params = params(wishes)?;
    let offer = text(headers, body, SDP).await?;
    let admitted = door.publish(&offer, Role::Publish, name, (params, wishes.figures), caller).await?;
    Ok(created(door, admitted))
}

/// How a peer that is let in is answered, for the description of the API.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "a description")]
enum PeerAnswer {
    /// The answer.
    #[response(status = 201, content_type = "application/sdp", headers(
        ("Location" = String, description = "The peer's resource, for PATCH and DELETE."),
        ("ETag" = String, description = "Tag of the ICE session."),
        ("Link" = String, description = "STUN and TURN servers, one a header, `rel=\"ice-server\"`."),
        ("Accept-Patch" = String, description = "`application/trickle-ice-sdpfrag`."),
        ("X-Weir-Stream" = String, description = "The name that others watch the stream by."),
    ))]
    Sdp(String),
}

/// How every offer may be refused.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "a description")]
enum PeerRefused {
    /// The offer or a parameter cannot be read.
    #[response(status = 400)]
    Unreadable(HTTPError),
    /// The token is missing or wrong.
    #[response(status = 401)]
    Token(HTTPError),
    /// Another machine, and neither a token nor `webrtc.open` is set.
    #[response(status = 403)]
    Elsewhere(HTTPError),
    /// No codec in common, or nothing to do.
    #[response(status = 406)]
    Codec(HTTPError),
    /// The body is too large.
    #[response(status = 413)]
    Large(HTTPError),
    /// The type of the body is another one.
    #[response(status = 415)]
    Kind(HTTPError),
    /// Every slot, place for a peer or port for media is taken.
    #[response(status = 503)]
    Full(HTTPError),
}

/// A peer sends (WHIP, RFC 9725): an offer in, an answer out, and a stream runs.
#[utoipa::path(
    post, path = "/whip", operation_id = "whip",
    params(("params" = Option<String>, Query, description = "Parameters of the pipeline, a JSON object."),
           ("figures" = Option<bool>, Query, description = "Whether the data channel `data` gets the figures of every interval.")),
    request_body(content = String, content_type = "application/sdp", description = "The offer."),
    responses(
        PeerAnswer,
        PeerRefused,
        (status = 409, description = "A stream of that name runs.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn whip(
    State(door): State<Arc<Door>>,
    Extension(Caller(caller)): Extension<Caller>,
    Query(wishes): Query<Wishes>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    publish(&door, "", &wishes, caller, &headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

/// The same with a name for the stream.
#[utoipa::path(
    post, path = "/whip/{stream}", operation_id = "whipNamed",
    params(("stream" = String, Path, description = "Name of the stream: 1 to 64 letters, digits, `-`, `_`, `.`."),
           ("params" = Option<String>, Query, description = "Parameters of the pipeline, a JSON object."),
           ("figures" = Option<bool>, Query, description = "Whether the data channel `data` gets the figures of every interval.")),
    request_body(content = String, content_type = "application/sdp", description = "The offer."),
    responses(
        PeerAnswer,
        PeerRefused,
        (status = 409, description = "A stream of that name runs.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn whip_named(
    State(door): State<Arc<Door>>,
    Extension(Caller(caller)): Extension<Caller>,
    Path(stream): Path<String>,
    Query(wishes): Query<Wishes>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let result = match named(&stream) {
        Ok(name) => publish(&door, name, &wishes, caller, &headers, body).await,
        Err(fault) => Err(fault),
    };
    result.unwrap_or_else(IntoResponse::into_response)
}

async fn watch(
    door: &Arc<Door>,
    name: Option<&str>,
    (caller, pass): (SocketAddr, Pass),
    wishes: &Wishes,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let offer = text(headers, body, SDP).await?;
    let admitted = door.watch(&offer, name, (caller, pass == Pass::Stranger), wishes.figures).await?;
    Ok(created(door, admitted))
}

/// A peer watches (WHEP) the only stream, whichever door it came by.
#[utoipa::path(
    post, path = "/whep", operation_id = "whep",
    params(("figures" = Option<bool>, Query, description = "Whether the data channel `data` gets the figures of every interval.")),
    request_body(content = String, content_type = "application/sdp", description = "The offer."),
    responses(
        PeerAnswer,
        PeerRefused,
        (status = 404, description = "No such stream.", body = HTTPError),
        (status = 409, description = "Several streams run and none is named.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn whep(
    State(door): State<Arc<Door>>,
    Extension(Caller(caller)): Extension<Caller>,
    Extension(pass): Extension<Pass>,
    Query(wishes): Query<Wishes>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    watch(&door, None, (caller, pass), &wishes, &headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

/// A peer watches the stream of that name, stream id or request id.
#[utoipa::path(
    post, path = "/whep/{stream}", operation_id = "whepNamed",
    params(("stream" = String, Path, description = "Name, stream id or request id."),
           ("figures" = Option<bool>, Query, description = "Whether the data channel `data` gets the figures of every interval.")),
    request_body(content = String, content_type = "application/sdp", description = "The offer."),
    responses(
        PeerAnswer,
        PeerRefused,
        (status = 404, description = "No such stream.", body = HTTPError),
        (status = 409, description = "Several streams run and none is named.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn whep_named(
    State(door): State<Arc<Door>>,
    Extension(Caller(caller)): Extension<Caller>,
    Extension(pass): Extension<Pass>,
    Path(stream): Path<String>,
    Query(wishes): Query<Wishes>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    watch(&door, Some(&stream), (caller, pass), &wishes, &headers, body)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

/// The body of `POST /offer`: ComfyStream's, and `params` and `stream` for pipelines that are no workflows.
#[derive(Deserialize, ToSchema)]
pub(super) struct OfferBody {
    offer: Description,
    /// A workflow or a list of them; none, and no `params` either, for an echo.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    prompts: Value,
    /// Parameters of the pipeline.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    params: Option<Map<String, Value>>,
    /// Size of the output, where the parameters have none.
    #[serde(default)]
    resolution: Option<Resolution>,
    /// Name of the stream; empty for one that is made up.
    #[serde(default)]
    stream: String,
    /// Whether the data channel `data` gets the figures of every interval.
    #[serde(default)]
    figures: bool,
}

/// A description of a session, as browsers have it.
#[derive(Deserialize, ToSchema)]
struct Description {
    /// SDP.
    sdp: String,
    /// `offer`.
    #[serde(rename = "type")]
    kind: String,
}

/// Pixels.
#[derive(Deserialize, ToSchema)]
struct Resolution {
    width: u32,
    height: u32,
}

/// The peer's SDP, the name of the stream and its parameters; without parameters an echo.
type Wanted = (String, String, Option<Map<String, Value>>);

impl OfferBody {
    /// What the session is started with; `None` for an echo.
    fn wanted(self) -> Result<Wanted, String> {
        if self.offer.kind != "offer" {
            return Err(format!("offer.type: `{}` is not `offer`", self.offer.kind));
        }
        let prompts = match self.prompts {
            Value::Null => Vec::new(),
            Value::Array(prompts) => prompts,
            prompt @ Value::Object(_) => vec![prompt],
            _ => return Err("prompts: a workflow or a list of them is expected".into()),
        };
        if prompts.is_empty() && self.params.is_none() {
            return Ok((self.offer.sdp, self.stream, None));
        }
        let mut params = self.params.unwrap_or_default();
        if !prompts.is_empty() {
            params.insert("prompts".into(), prompts.into());
        }
        if let Some(size) = self.resolution {
            params.entry("width").or_insert(size.width.into());
            params.entry("height").or_insert(size.height.into());
        }
        Ok((self.offer.sdp, self.stream, Some(params)))
    }
}

/// ComfyStream's offer: the peer sends and gets back what became of it. Neither `prompts` nor `params`: an echo.
#[utoipa::path(
    post, path = "/offer", operation_id = "offer",
    request_body = OfferBody,
    responses(
        (status = 200, description = "`{\"sdp\", \"type\": \"answer\"}`.", body = Object, headers(
            ("Location" = String, description = "The peer's resource, for PATCH and DELETE."),
            ("X-Weir-Stream" = String, description = "The name that others watch the stream by; empty for an echo."),
        )),
        PeerRefused,
        (status = 409, description = "A stream of that name runs.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn offer(
    State(door): State<Arc<Door>>,
    Extension(Caller(caller)): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let result = async {
        let bad = |message: String| Fault::Is(StatusCode::BAD_REQUEST, message);
        let most = door.hub().config.max_body;
        let bytes = text_of(&headers, body, "application/json", most).await?;
        let body: OfferBody = serde_json::from_str(&bytes).map_err(|error| bad(error.to_string()))?;
        let figures = body.figures;
        let (sdp, stream, params) = body.wanted().map_err(bad)?;
        let name = if stream.is_empty() { "" } else { named(&stream)? };
        let admitted = match params {
            Some(params) => door.publish(&sdp, Role::Both, name, (params, figures), caller).await?,
            None => door.echo(&sdp, caller).await?,
        };
        let answer = Json(json!({ "sdp": admitted.sdp, "type": "answer" }));
        // Where it can be deleted, and the name that WHEP knows it by.
        let headers = [("location", format!("/webrtc/{}", admitted.resource)), ("x-weir-stream", admitted.stream)];
        Ok((headers, answer).into_response())
    };
    result.await.unwrap_or_else(|fault: Fault| fault.into_response())
}

/// Candidates of a peer (trickle ICE), or a new ICE session where the fragment has other credentials than the offer.
#[utoipa::path(
    patch, path = "/webrtc/{resource}", operation_id = "webrtcPatch",
    params(("resource" = String, Path, description = "The last part of `Location`."),
           ("If-Match" = Option<String>, Header, description = "Tag of the ICE session, or `*`; not looked at where it is missing.")),
    request_body(content = String, content_type = "application/trickle-ice-sdpfrag", description = "RFC 8840."),
    responses(
        (status = 200, description = "Our credentials and candidates of the new ICE session.", body = String,
         content_type = "application/trickle-ice-sdpfrag", headers(("ETag" = String, description = "Its tag."))),
        (status = 204, description = "The candidates are taken."),
        (status = 400, description = "The fragment cannot be read.", body = HTTPError),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 403, description = "Another machine, and neither a token nor `webrtc.open` is set.", body = HTTPError),
        (status = 404, description = "No such peer.", body = HTTPError),
        (status = 412, description = "`If-Match` names another ICE session.", body = HTTPError),
        (status = 413, description = "The body is too large.", body = HTTPError),
        (status = 415, description = "The type of the body is another one.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn trickle(
    State(door): State<Arc<Door>>,
    Path(resource): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let result = async {
        let fragment = text(&headers, body, FRAGMENT).await?;
        let tags = headers.get(header::IF_MATCH).map(|tags| tags.to_str().unwrap_or(""));
        match door.patch(&resource, &fragment, tags).await {
            Ok(Patched::Taken) => Ok(StatusCode::NO_CONTENT.into_response()),
            Ok(Patched::Restarted { fragment, tag }) => {
                let headers = [(header::CONTENT_TYPE, FRAGMENT.to_owned()), (header::ETAG, tag)];
                Ok((headers, fragment).into_response())
            }
            Err(PatchError::NoPeer) => Err(Fault::Api(Box::new(ApiError::NotFound))),
            Err(PatchError::Tag) => {
                let reason = "If-Match names another ICE session";
                Err(Fault::Is(StatusCode::PRECONDITION_FAILED, reason.into()))
            }
            Err(PatchError::Refused(refused)) => Err(Fault::Is(StatusCode::BAD_REQUEST, refused.to_string())),
        }
    };
    result.await.unwrap_or_else(IntoResponse::into_response)
}

/// A peer leaves; a stream ends with the peer that feeds it.
#[utoipa::path(
    delete, path = "/webrtc/{resource}", operation_id = "webrtcDelete",
    params(("resource" = String, Path, description = "The last part of `Location`.")),
    responses(
        (status = 200, description = "It is gone."),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 403, description = "Another machine, and neither a token nor `webrtc.open` is set.", body = HTTPError),
        (status = 404, description = "No such peer.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn leave(State(door): State<Arc<Door>>, Path(resource): Path<String>) -> Response {
    match door.leave(&resource) {
        true => StatusCode::OK.into_response(),
        false => ApiError::NotFound.into_response(),
    }
}

/// The STUN and TURN servers as browsers want them.
#[utoipa::path(
    get, path = "/webrtc/ice-servers", operation_id = "iceServers",
    responses(
        (status = 200, description = "`{\"iceServers\": [{\"urls\", \"username\", \"credential\"}]}`.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = HTTPError),
        (status = 403, description = "Another machine, and neither a token nor `webrtc.open` is set.", body = HTTPError),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn ice(State(door): State<Arc<Door>>) -> Response {
    let servers = servers(&door.hub().config.webrtc, SystemTime::now());
    ([(header::CACHE_CONTROL, "no-store")], Json(json!({ "iceServers": servers }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_counted_by_their_routes() {
        for (path, route) in [
            ("/whip", Some("/whip")),
            ("/whip/cam", Some("/whip")),
            ("/whep/cam", Some("/whep")),
            ("/webrtc/ice-servers", Some("/webrtc/ice-servers")),
            ("/webrtc/abc", Some("/webrtc/{resource}")),
            ("/offer", Some("/offer")),
            ("/live/offer", Some("/offer")),
            ("/app", Some("/app")),
            ("/app/script.js", Some("/app/script.js")),
            ("/webrtc", None),
            ("/whip/a/b", None),
            ("/health", None),
        ] {
            assert_eq!(label(path), route, "{path}");
        }
    }

    #[test]
    fn an_offer_without_workflows_and_parameters_is_an_echo() {
        let wanted = |more: Value| {
            let mut body = json!({"offer": {"sdp": "s", "type": "offer"}});
            if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
                body.extend(more);
            }
            serde_json::from_value::<OfferBody>(body).expect("a body").wanted().map(|(_, _, params)| params)
        };
        for echo in
            [json!({}), json!({"prompts": null}), json!({"prompts": [], "resolution": {"width": 1, "height": 1}})]
        {
            assert_eq!(wanted(echo), Ok(None));
        }
        let params = |value: Value| value.as_object().cloned();
        assert_eq!(wanted(json!({"params": {}})), Ok(params(json!({}))));
        assert_eq!(
            wanted(json!({"prompts": {"1": {}}, "resolution": {"width": 640, "height": 384}})),
            Ok(params(json!({"prompts": [{"1": {}}], "width": 640, "height": 384})))
        );
        assert!(wanted(json!({"prompts": "x"})).is_err());
        assert!(wanted(json!({"offer": {"sdp": "s", "type": "answer"}})).is_err());
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000"] {
            assert!(local(host), "{host}");
        }
        for host in ["", "weir.example", "127.0.0.1.weir.example:8000", "192.0.2.1"] {
            assert!(!local(host), "{host}");
        }
    }
}
