//! The one table from what went wrong to what the caller is told.
//!
//! An orchestrator understands 200, 400, 401, 422 and 500 with a JSON body; anything else makes it drop the connection to
//! its gateway. A gateway tries the next orchestrator without blame when it reads `insufficient capacity`, and none at
//! all when it reads 400.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::link::Outcome;
use crate::supervisor::book::Refusal;
use crate::supervisor::choice::ChoiceError;
use crate::supervisor::doors::webrtc::DoorError;
use crate::supervisor::hub::HubError;
use crate::supervisor::recordings::RecordingError;
use crate::webrtc::Refused;

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ApiError {
    /// The body is not what the schema says.
    Invalid(Vec<Detail>),
    /// The bearer token is missing or wrong.
    Token,
    /// The caller is beyond this machine, and nothing says that such are served.
    Closed,
    /// The body is larger than the limit in bytes.
    TooLarge(usize),
    /// The body did not arrive in time, or broke off.
    Body(&'static str),
    /// The content type of a local call is another one.
    ContentType(String),
    /// The pipeline is another one.
    Model {
        /// The one that runs.
        configured: String,
        /// The one that was asked for.
        called: String,
    },
    /// What the hub says.
    Hub(HubError),
    /// What becomes of a recording.
    Recording(RecordingError),
    /// Another pipeline, or a workflow of the folder.
    Choice(ChoiceError),
    /// Why a WebRTC peer is not let in.
    Door(DoorError),
    /// No such path.
    NotFound,
    /// No such method on that path.
    Method,
}

/// One fault of a body, as FastAPI writes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Detail {
    /// `missing`, `string_type`, `dict_type`, `json_invalid` …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Where: `body`, then field names or a position.
    pub loc: Vec<Value>,
    /// What is expected.
    pub msg: String,
    /// What was there.
    pub input: Value,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctx: Option<Value>,
}

/// The inside of an error body.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct APIError {
    /// What went wrong.
    pub msg: String,
}

/// The body of 400, 401 and 500.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HTTPError {
    /// Detailed error information.
    pub detail: APIError,
}

impl From<HubError> for ApiError {
    fn from(error: HubError) -> Self {
        Self::Hub(error)
    }
}

impl From<RecordingError> for ApiError {
    fn from(error: RecordingError) -> Self {
        match error {
            RecordingError::Hub(error) => Self::Hub(error),
            error => Self::Recording(error),
        }
    }
}

impl From<DoorError> for ApiError {
    fn from(error: DoorError) -> Self {
        Self::Door(error)
    }
}

impl From<ChoiceError> for ApiError {
    fn from(error: ChoiceError) -> Self {
        match error {
            ChoiceError::Hub(error) => Self::Hub(error),
            error => Self::Choice(error),
        }
    }
}

impl ApiError {
    /// The status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Token | Self::Closed => StatusCode::UNAUTHORIZED,
            Self::TooLarge(_) | Self::Body(_) | Self::ContentType(_) | Self::Model { .. } => StatusCode::BAD_REQUEST,
            Self::Recording(error) => match error {
                RecordingError::Off => StatusCode::FORBIDDEN,
                RecordingError::NoStream | RecordingError::Missing => StatusCode::NOT_FOUND,
                RecordingError::UnderWay | RecordingError::Refused(_) => StatusCode::CONFLICT,
                RecordingError::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
                RecordingError::Folder(_) | RecordingError::Hub(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Choice(error) => match error {
                ChoiceError::Off => StatusCode::FORBIDDEN,
                ChoiceError::Unknown(_) => StatusCode::BAD_REQUEST,
                ChoiceError::NoWorkflow => StatusCode::NOT_FOUND,
                ChoiceError::Running | ChoiceError::Loading | ChoiceError::Sold | ChoiceError::Unready { .. } => {
                    StatusCode::CONFLICT
                }
                ChoiceError::Folder(_) | ChoiceError::Hub(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
            // WHIP and WHEP have 503 for a runner that is full, and their clients try again after it.
            Self::Door(error) => match error {
                DoorError::Offer(Refused::Unreadable(_)) => StatusCode::BAD_REQUEST,
                DoorError::Offer(Refused::Useless(_)) => StatusCode::NOT_ACCEPTABLE,
                DoorError::Hub(HubError::Engine(outcome)) => match outcome {
                    Outcome::BadParams { .. } | Outcome::BadRequest { .. } => StatusCode::BAD_REQUEST,
                    Outcome::Busy => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                },
                DoorError::Hub(_) | DoorError::Peers(_) | DoorError::Engine | DoorError::PortsTaken(_) => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                DoorError::Taken | DoorError::Several => StatusCode::CONFLICT,
                DoorError::Stranger => StatusCode::FORBIDDEN,
                DoorError::NoStream => StatusCode::NOT_FOUND,
                DoorError::Port(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Hub(HubError::Engine(outcome)) => match outcome {
                Outcome::BadParams { .. } | Outcome::BadRequest { .. } | Outcome::NotFound => StatusCode::BAD_REQUEST,
                Outcome::Accepted | Outcome::Busy | Outcome::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Hub(HubError::Refused(_) | HubError::Away | HubError::Slow) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What went wrong, for people.
    pub fn message(&self) -> String {
        match self {
            Self::Invalid(details) => {
                let fault = |detail: &Detail| {
                    let path: Vec<String> = detail.loc.iter().skip(1).map(plain).collect();
                    if path.is_empty() { detail.msg.clone() } else { format!("{}: {}", path.join("."), detail.msg) }
                };
                details.iter().map(fault).collect::<Vec<_>>().join("; ")
            }
            Self::Token => "Invalid bearer token.".into(),
            Self::Closed => {
                "this runner serves its own machine alone; set serve.auth_token, or serve.open for everybody".into()
            }
            Self::TooLarge(limit) => format!("the request body is larger than {limit} bytes"),
            Self::Body(reason) => (*reason).into(),
            Self::ContentType(found) => format!("Unknown content type: {found}"),
            Self::Model { configured, called } => {
                format!("pipeline configured with {configured} but called with {called}.")
            }
            Self::Recording(error) => error.to_string(),
            Self::Choice(error) => error.to_string(),
            Self::Door(DoorError::Hub(error)) => Self::Hub(error.clone()).message(),
            Self::Door(error) => error.to_string(),
            Self::NotFound => "Not Found".into(),
            Self::Method => "Method Not Allowed".into(),
            Self::Hub(error) => match error {
                HubError::Refused(Refusal::Full) | HubError::Engine(Outcome::Busy) => {
                    "insufficient capacity: every stream slot is in use".into()
                }
                HubError::Refused(Refusal::Load(why)) => format!("insufficient capacity: {why}"),
                HubError::Refused(Refusal::Ending) => "insufficient capacity: the runner is shutting down".into(),
                HubError::Refused(Refusal::Failed(message)) => format!("live-video-to-video pipeline error: {message}"),
                HubError::Away => "insufficient capacity: the engine is being restarted".into(),
                HubError::Slow => "insufficient capacity: the engine does not answer".into(),
                HubError::Engine(Outcome::BadParams { field, reason }) if field.is_empty() => reason.clone(),
                HubError::Engine(Outcome::BadParams { field, reason }) => format!("{field}: {reason}"),
                HubError::Engine(Outcome::BadRequest { message }) => message.clone(),
                HubError::Engine(Outcome::NotFound) => "no stream is running".into(),
                HubError::Engine(Outcome::Failed { message }) => message.clone(),
                HubError::Engine(Outcome::Accepted) => "live-video-to-video pipeline error.".into(),
            },
        }
    }

    /// As the answer to a local call: text, 401 for the token and 400 for everything else.
    pub fn text(&self, doing: &str) -> Response {
        match self {
            Self::Token | Self::Closed => self.clone().into_response(),
            _ => (StatusCode::BAD_REQUEST, format!("Error {doing}: {}", self.message())).into_response(),
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = match &self {
            Self::Invalid(details) => json!({ "detail": details }),
            Self::NotFound | Self::Method => json!({ "detail": self.message() }),
            _ => json!({ "detail": { "msg": self.message() } }),
        };
        let mut response = (self.status(), Json(body)).into_response();
        if self == Self::Token {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let engine = |outcome| ApiError::Hub(HubError::Engine(outcome));
        let rows = [
            (ApiError::Invalid(Vec::new()), 422, ""),
            (ApiError::Token, 401, "Invalid bearer token."),
            (ApiError::TooLarge(10), 400, "the request body is larger than 10 bytes"),
            (
                ApiError::Model { configured: "noop".into(), called: "x".into() },
                400,
                "pipeline configured with noop but called with x.",
            ),
            (
                engine(Outcome::BadParams { field: "width".into(), reason: "Input should be a multiple of 64".into() }),
                400,
                "width: Input should be a multiple of 64",
            ),
            (engine(Outcome::Busy), 500, "insufficient capacity: every stream slot is in use"),
            (
                ApiError::Hub(HubError::Refused(Refusal::Full)),
                500,
                "insufficient capacity: every stream slot is in use",
            ),
            (
                ApiError::Hub(HubError::Refused(Refusal::Failed("no libfoo".into()))),
                500,
                "live-video-to-video pipeline error: no libfoo",
            ),
            (ApiError::Hub(HubError::Away), 500, "insufficient capacity: the engine is being restarted"),
            (
                ApiError::Recording(RecordingError::Off),
                403,
                "recordings are off; the setting record.path names their folder",
            ),
            (ApiError::Recording(RecordingError::Missing), 404, "no such recording"),
            (ApiError::Recording(RecordingError::UnderWay), 409, "the recording is under way; stop it first"),
            (ApiError::Choice(ChoiceError::Running), 409, "a stream runs; another pipeline is loaded when none does"),
            (
                ApiError::Door(DoorError::Hub(HubError::Refused(Refusal::Full))),
                503,
                "insufficient capacity: every stream slot is in use",
            ),
            (
                ApiError::Door(DoorError::PortsTaken((4000, 4001))),
                503,
                "every port for media is taken: 4000 to 4001 (webrtc.ports); widen webrtc.ports, or free one of them",
            ),
            (
                ApiError::Door(DoorError::PortsTaken((4000, 4000))),
                503,
                "every port for media is taken: 4000 (webrtc.ports); widen webrtc.ports, or free one of them",
            ),
            (
                ApiError::Door(DoorError::PortsTaken((0, 0))),
                503,
                "every port for media is taken: any of this machine (webrtc.ports); widen webrtc.ports, or free one of them",
            ),
            (
                ApiError::Door(DoorError::Port("permission denied".into())),
                500,
                "the port for media cannot be opened: permission denied (webrtc.ports, webrtc.addresses)",
            ),
            (ApiError::NotFound, 404, "Not Found"),
            (ApiError::Method, 405, "Method Not Allowed"),
        ];
        for (error, status, message) in rows {
            assert_eq!((error.status().as_u16(), error.message().as_str()), (status, message), "{error:?}");
        }
    }

    #[test]
    fn what_a_start_may_answer_is_what_an_orchestrator_understands() {
        let outcomes = [
            Outcome::Accepted,
            Outcome::BadParams { field: String::new(), reason: String::new() },
            Outcome::BadRequest { message: String::new() },
            Outcome::Busy,
            Outcome::NotFound,
            Outcome::Failed { message: String::new() },
        ];
        let hub = outcomes.map(HubError::Engine).into_iter().chain([
            HubError::Away,
            HubError::Slow,
            HubError::Refused(Refusal::Full),
            HubError::Refused(Refusal::Load(String::new())),
            HubError::Refused(Refusal::Ending),
            HubError::Refused(Refusal::Failed(String::new())),
        ]);
        for error in hub {
            assert!([400, 500].contains(&ApiError::Hub(error.clone()).status().as_u16()), "{error:?}");
        }
    }
}
