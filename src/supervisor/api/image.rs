//! `POST /image`: a picture, or some, through the pipeline, without a stream. An orchestrator's batch jobs come here.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::stream::{Fault, refusal};
use super::{auth, body};
use crate::link::{ImageOrder, Imaged, Outcome};
use crate::supervisor::hub::{Hub, HubError};

/// Pictures of one call.
const MOST_IMAGES: usize = 64;
/// Passes of one picture.
const MOST_PASSES: u64 = 64;
/// What tells of a picture beside it.
const METADATA: &str = "x-metadata";

fn bad(message: impl Into<String>) -> Fault {
    Fault::Is(StatusCode::BAD_REQUEST, message.into())
}

/// Pictures that are wanted, and how the answer is to look.
#[derive(Debug, PartialEq)]
struct Wanted {
    orders: Vec<ImageOrder>,
    /// The answer is the picture itself.
    raw: bool,
}

/// Reads a picture file with its parameters in the header `X-Params`, or JSON.
fn wanted(headers: &HeaderMap, bytes: &[u8]) -> Result<Wanted, Fault> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = text(header::CONTENT_TYPE).split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let object = |text: &[u8], what: &str| match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(bad(format!("{what}: Input should be a valid dictionary"))),
        Err(error) => Err(bad(format!("{what}: this is no JSON: {error}"))),
    };
    if let Some(own) = kind.strip_prefix("image/") {
        let params = match headers.get("x-params") {
            None => Map::new(),
            Some(text) => object(text.as_bytes(), "X-Params")?,
        };
        let accept = text(header::ACCEPT);
        let named = ["png", "jpeg"].into_iter().find(|name| accept.contains(&format!("image/{name}")));
        let format = named.unwrap_or(if own == "png" { "png" } else { "jpeg" });
        let order = ImageOrder { image: STANDARD.encode(bytes), params, passes: 1, format: format.into() };
        return Ok(Wanted { orders: vec![order], raw: true });
    }
    if kind != "application/json" {
        return Err(bad(format!("Unknown content type: {kind}; image/png, image/jpeg and application/json are taken")));
    }
    let mut fields = object(bytes, "the body")?;
    let params = match fields.remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(Value::String(text)) => object(text.as_bytes(), "params")?,
        Some(_) => return Err(bad("params: Input should be a valid dictionary")),
    };
    let passes = match fields.remove("passes") {
        None | Some(Value::Null) => 1,
        Some(passes) => passes
            .as_u64()
            .filter(|passes| (1..=MOST_PASSES).contains(passes))
            .ok_or_else(|| bad(format!("passes: an integer from 1 to {MOST_PASSES} is expected")))?,
    };
    let format = match fields.remove("format") {
        None | Some(Value::Null) => "png".to_owned(),
        Some(Value::String(format)) => format,
        Some(_) => return Err(bad("format: png or jpeg is expected")),
    };
    let images = match (fields.remove("image"), fields.remove("images")) {
        (Some(image), None) => vec![image],
        (None, Some(Value::Array(images))) if (1..=MOST_IMAGES).contains(&images.len()) => images,
        (None, Some(_)) => return Err(bad(format!("images: a list of 1 to {MOST_IMAGES} is expected"))),
        _ => return Err(bad("image or images: Field required")),
    };
    let orders = images.into_iter().map(|image| match image {
        Value::String(image) => {
            // A data URL is taken for what it holds.
            let image = image.split_once("base64,").map_or(image.as_str(), |(_, rest)| rest).to_owned();
            Ok(ImageOrder { image, params: params.clone(), passes: passes as u32, format: format.clone() })
        }
        _ => Err(bad("image: base64 is expected")),
    });
    Ok(Wanted { orders: orders.collect::<Result<_, _>>()?, raw: false })
}

/// What tells of pictures: sizes, and milliseconds of the model.
fn metadata(images: &[Imaged]) -> Value {
    let all: Vec<Value> = images.iter().map(about).collect();
    json!({"count": images.len(), "model_ms": images.iter().map(|image| image.model_ms).sum::<f64>(), "images": all})
}

fn about(image: &Imaged) -> Value {
    json!({"width": image.width, "height": image.height, "model_ms": image.model_ms})
}

/// Runs pictures through the pipeline. A picture file gives a picture; JSON gives JSON, or with `Accept:
/// text/event-stream` an event for each picture as it is done.
#[utoipa::path(
    post, path = "/image", operation_id = "image",
    request_body(content = Object, description =
        "`image` or `images` in base64, `params`, `format` (`png` or `jpeg`), `passes`; or a PNG or JPEG file."),
    responses(
        (status = 200, description = "`images` with `image` in base64, `width`, `height`, `model_ms`; or a file. `X-Metadata` tells of them.", body = Object),
        (status = 400, description = "The picture or a parameter is wrong.", body = Object),
        (status = 401, description = "The token is missing or wrong.", body = Object),
        (status = 503, description = "No room: pictures take a slot as streams do.", body = Object),
    ),
    security(("HTTPBearer" = []))
)]
pub(super) async fn image(State(hub): State<Arc<Hub>>, headers: HeaderMap, body: Body) -> Response {
    let result = async {
        auth::check(&headers, &hub.config.auth_token).map_err(Fault::Token)?;
        let read = body::read(&headers, body, hub.config.max_body).await;
        let bytes = read.map_err(|error: ApiError| bad(error.message()))?;
        let Wanted { orders, raw } = wanted(&headers, &bytes)?;
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        if !raw && accept.contains("text/event-stream") {
            return Ok(events(hub.clone(), orders));
        }
        let mut images = Vec::new();
        for order in orders {
            images.push(hub.image(order).await.map_err(fault)?);
        }
        let about = HeaderValue::from_str(&metadata(&images).to_string()).unwrap_or(HeaderValue::from_static("{}"));
        let mut response = match (raw, images.first()) {
            (true, Some(image)) => {
                let file = STANDARD.decode(image.image.as_bytes()).unwrap_or_default();
                let kind = if file.starts_with(b"\x89PNG") { "image/png" } else { "image/jpeg" };
                ([(header::CONTENT_TYPE, kind)], file).into_response()
            }
            _ => {
                let all: Vec<Value> = images.iter().enumerate().map(|(index, image)| shown(index, image)).collect();
                Json(json!({ "images": all })).into_response()
            }
        };
        response.headers_mut().insert(METADATA, about);
        Ok(response)
    };
    result.await.unwrap_or_else(|fault: Fault| fault.into_response())
}

fn shown(index: usize, image: &Imaged) -> Value {
    let mut value = about(image);
    value["index"] = index.into();
    value["image"] = image.image.as_str().into();
    value
}

fn fault(error: HubError) -> Fault {
    if let HubError::Engine(Outcome::Failed { message }) = error {
        return Fault::Is(StatusCode::INTERNAL_SERVER_ERROR, message);
    }
    let (status, message) = refusal(error);
    Fault::Is(status, message.trim_start_matches("Error starting stream: ").to_owned())
}

/// One event a picture, in turn, then `[DONE]`. What fails ends it with an event that says why.
fn events(hub: Arc<Hub>, orders: Vec<ImageOrder>) -> Response {
    let count = orders.len();
    let orders = orders.into_iter().enumerate();
    let stream = stream::unfold(Some((hub, orders)), move |state| async move {
        let (hub, mut orders) = state?;
        let (value, next) = match orders.next() {
            None => return Some((line("[DONE]"), None)),
            Some((index, order)) => match hub.image(order).await {
                Ok(image) => {
                    let mut value = shown(index, &image);
                    value["progress"] = json!((index + 1) as f64 / count as f64);
                    (value, Some((hub, orders)))
                }
                Err(error) => match fault(error) {
                    Fault::Is(_, message) => (json!({"index": index, "status": "error", "message": message}), None),
                    Fault::Token(_) => return None,
                },
            },
        };
        Some((line(&value.to_string()), next))
    });
    let kind = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (kind, Body::from_stream(stream)).into_response()
}

fn line(text: &str) -> Result<Bytes, std::convert::Infallible> {
    Ok(Bytes::from(format!("data: {text}\n\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, body: &[u8]) -> Result<Wanted, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind.parse().expect("a header"));
        wanted(&headers, body).map_err(|fault| match fault {
            Fault::Is(_, message) => message,
            Fault::Token(_) => "token".into(),
        })
    }

    #[test]
    fn pictures_come_in_three_ways() {
        let file = read("image/png", b"abc").expect("wanted");
        assert_eq!((file.raw, file.orders[0].image.as_str(), file.orders[0].format.as_str()), (true, "YWJj", "png"));
        assert_eq!(read("image/webp", b"abc").expect("wanted").orders[0].format, "jpeg");
        let one = json!({"image": "data:image/png;base64,YWJj", "params": "{\"x\": 1}", "passes": 3, "format": "jpeg"});
        let one = read("application/json", one.to_string().as_bytes()).expect("wanted");
        let expected = ImageOrder {
            image: "YWJj".into(),
            params: json!({"x": 1}).as_object().cloned().expect("an object"),
            passes: 3,
            format: "jpeg".into(),
        };
        assert_eq!(one, Wanted { orders: vec![expected], raw: false });
        let two = json!({"images": ["YQ==", "Yg=="]}).to_string();
        assert_eq!(read("application/json; charset=utf-8", two.as_bytes()).expect("wanted").orders.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, part) in [
            (json!({}), "Field required"),
            (json!({"image": 3}), "base64"),
            (json!({"image": "YQ==", "images": []}), "Field required"),
            (json!({"images": []}), "1 to 64"),
            (json!({"images": vec!["YQ=="; 65]}), "1 to 64"),
            (json!({"image": "YQ==", "passes": 0}), "passes"),
            (json!({"image": "YQ==", "params": []}), "params"),
            (json!([]), "dictionary"),
        ] {
            let error = read("application/json", body.to_string().as_bytes()).expect_err("refused");
            assert!(error.contains(part), "{error}");
        }
        assert!(read("text/plain", b"").is_err_and(|error| error.contains("Unknown content type")));
    }
}
