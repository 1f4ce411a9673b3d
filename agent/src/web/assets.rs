//! The one stylesheet and the one script.

use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, HeaderValue};

/// `GET /assets/page.css`.
pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("page.css"))
}

/// `GET /assets/page.js`.
pub(super) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("page.js"))
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
}
