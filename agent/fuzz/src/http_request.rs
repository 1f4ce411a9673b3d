//! Any target, fields and body of a request: no panic, and an analysis that does not get milder by reading the body of a
//! request whose body does not matter.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis::request::http::{HttpRequest, PathPattern, Scheme, analyze, depends_on_body};

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (method, target, fields, body) = (next(), next(), next(), next());
    let (Ok(method), Ok(target)) = (Method::from_bytes(method), http::uri::PathAndQuery::try_from(target))
    else {
        return;
    };
    let mut headers = HeaderMap::new();
    for field in fields.split(|byte| *byte == b';') {
        let mut pair = field.splitn(2, |byte| *byte == b':');
        let (name, value) = (pair.next().unwrap_or_default(), pair.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let host =
        if data.len().is_multiple_of(2) { "api.github.com" } else { "dynamodb.eu-west-1.amazonaws.com" };
    let Ok(mut request) = HttpRequest::from_head(&method, &target, &headers, None, Scheme::Https, host, 443)
    else {
        return;
    };
    let before = analyze(&request);
    let matters = depends_on_body(&request);
    request.read_body(body);
    let after = analyze(&request);
    assert!(matters || after.effect >= before.effect || after.graphql.is_some());
    if let Ok(pattern) = PathPattern::parse(&String::from_utf8_lossy(body)) {
        let _any = pattern.matches(&request.path);
    }
}
