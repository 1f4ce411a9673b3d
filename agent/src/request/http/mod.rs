//! One HTTP request in words that rules can match: whom it is for, what it asks, how far it reaches. Pure.

use std::fmt;

use http::{HeaderMap, Method};

mod analysis;
mod aws;
mod catalog;
mod graphql;
mod json;
mod pair;
mod path;
#[cfg(test)]
mod tests;

pub use analysis::{Analysis, analyze, depends_on_body};
pub use graphql::{Graphql, GraphqlField, GraphqlPattern, graphql_covers};
pub use json::{GrpcPattern, JsonPathPattern};
pub use pair::PairPattern;
pub use path::{Path, PathPattern, Reading};

/// Longest path and query taken, in bytes. Servers commonly stop at 8 to 32 KiB.
pub const TARGET_BYTES_MAX: usize = 64 * 1024;

/// Query parameters and form fields looked at; a request with more is refused.
pub const PARAMETERS_MAX: usize = 2000;

/// Whether a request travels over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

impl Scheme {
    /// The port that need not be written.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// One HTTP request as rules see it.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// As sent; methods are case-sensitive.
    pub method: String,
    /// Over TLS or not.
    pub scheme: Scheme,
    /// Lower case, without port and trailing dot.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query as sent.
    pub target: String,
    /// The path, taken apart.
    pub path: Path,
    /// Query parameters, decoded, in order.
    pub query: Vec<(String, String)>,
    /// Header fields.
    pub headers: HeaderMap,
    /// What the connection is to become: `websocket` and the like.
    pub upgrade: Option<String>,
    /// What is known of the body.
    pub body: Body,
}

/// A body as far as rules look into it.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// There is none.
    Empty,
    /// URL-encoded fields, decoded.
    Form(Vec<(String, String)>),
    /// One JSON document.
    Json(serde_json::Value),
    /// Read, and in no format that rules look into.
    Other,
    /// Not read yet, too long, or not decodable: every condition on it may hold.
    Unread,
}

/// Why a request is not taken: servers would differ in what it means.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The target is too long.
    #[error("the request's target is longer than {TARGET_BYTES_MAX} bytes")]
    TooLong,
    /// Too many parameters.
    #[error("the request has more than {PARAMETERS_MAX} query parameters")]
    TooManyParameters,
    /// The path is ambiguous.
    #[error("the request's path {0}")]
    Path(&'static str),
}

impl HttpRequest {
    /// Takes in a request's head. `protocol` is what the connection is to become; `host` is lower case and without port.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn from_head(
        method: &Method,
        target: &http::uri::PathAndQuery,
        headers: &HeaderMap,
        protocol: Option<&str>,
        scheme: Scheme,
        host: &str,
        port: u16,
    ) -> Result<Self, RequestError> {
        if target.as_str().len() > TARGET_BYTES_MAX {
            return Err(RequestError::TooLong);
        }
        let path = if method == Method::OPTIONS && target.path() == "*" {
            Path::parse("/")
        } else {
            Path::parse(target.path())
        };
        let query =
            pairs(target.query().unwrap_or_default().as_bytes()).ok_or(RequestError::TooManyParameters)?;
        Ok(Self {
            method: method.as_str().to_owned(),
            scheme,
            host: host.to_owned(),
            port,
            target: target.as_str().to_owned(),
            path: path.map_err(RequestError::Path)?,
            query,
            headers: headers.clone(),
            upgrade: protocol.map(str::to_ascii_lowercase),
            body: Body::Unread,
        })
    }

    /// Takes in the whole, decoded body.
    pub fn read_body(&mut self, bytes: &[u8]) {
        let media_type = self.media_type();
        self.body = if bytes.is_empty() {
            Body::Empty
        } else {
            // Clients send JSON under many names, and servers read it under most.
            match serde_json::from_slice(bytes) {
                Ok(value) => Body::Json(value),
                Err(_) if media_type == "application/x-www-form-urlencoded" => {
                    pairs(bytes).map_or(Body::Unread, Body::Form)
                }
                // What claims to be JSON and is not, some server may still read in its own way.
                Err(_) if media_type.ends_with("json") => Body::Unread,
                Err(_) => Body::Other,
            }
        };
    }

    /// The media type of the body, lower case, without parameters.
    #[must_use]
    pub fn media_type(&self) -> String {
        let value = self.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// Scheme, host, port where it must be written, path and query.
    #[must_use]
    pub fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() {
            format!("{}://{host}{}", self.scheme, self.target)
        } else {
            format!("{}://{host}:{}{}", self.scheme, self.port, self.target)
        }
    }

    /// The first value of a header field, when it is text.
    #[must_use]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The values of a query parameter.
    pub(crate) fn parameters<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Names and values of `application/x-www-form-urlencoded` (WHATWG URL section 5.1). A semicolon separates for some
/// servers, so a text with one gives the parameters of that reading as well. `None` when there are too many.
fn pairs(text: &[u8]) -> Option<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> =
        form_urlencoded::parse(text).into_owned().take(PARAMETERS_MAX + 1).collect();
    if text.contains(&b';') {
        let replaced: Vec<u8> = text.iter().map(|byte| if *byte == b';' { b'&' } else { *byte }).collect();
        for pair in form_urlencoded::parse(&replaced).into_owned().take(PARAMETERS_MAX + 1) {
            if !found.contains(&pair) {
                found.push(pair);
            }
        }
    }
    (found.len() <= PARAMETERS_MAX).then_some(found)
}
