//! The page `/app`: three files inside the program, and what a browser may do with them.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Names that these routes are counted by.
pub(super) const ROUTES: [&str; 3] = ["/app", "/app/style.css", "/app/script.js"];

/// The page takes nothing from elsewhere but videos that its user names.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; media-src 'self' blob: https: http:; \
                      frame-ancestors 'self'; base-uri 'none'; form-action 'none'";

/// Every route.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = get(|| file("text/html; charset=utf-8", include_str!("app/index.html")));
    Router::new()
        .route(ROUTES[0], page)
        .route(ROUTES[1], get(|| file("text/css; charset=utf-8", include_str!("app/style.css"))))
        .route(ROUTES[2], get(|| file("text/javascript; charset=utf-8", include_str!("app/script.js"))))
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    let nosniff = HeaderName::from_static("x-content-type-options");
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (nosniff, "nosniff"),
    ];
    (headers, text).into_response()
}
