//! Requests as text: what each is, and how far it reaches.

use http::{HeaderMap, Method};

use super::*;
use crate::request::Effect;

fn request(line: &str, headers: &[(&str, &str)], body: Option<&str>) -> HttpRequest {
    let (method, url) = line.split_once(' ').unwrap();
    let uri: http::Uri = url.parse().unwrap();
    let mut fields = HeaderMap::new();
    for (name, value) in headers {
        fields.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let protocol = fields.get("upgrade").map(|value| value.to_str().unwrap().to_owned());
    let mut request = HttpRequest::from_head(
        &Method::from_bytes(method.as_bytes()).unwrap(),
        uri.path_and_query().unwrap(),
        &fields,
        protocol.as_deref(),
        Scheme::Https,
        uri.host().unwrap(),
        443,
    )
    .unwrap();
    if let Some(body) = body {
        request.read_body(body.as_bytes());
    }
    request
}

fn effect(word: &str) -> Effect {
    match word {
        "read" => Effect::Read,
        "write" => Effect::Write,
        "ddl" => Effect::Ddl,
        "admin" => Effect::Admin,
        "unknown" => Effect::Unknown,
        _ => panic!("no effect: {word}"),
    }
}

/// `METHOD URL => EFFECT KIND`, with `| name: value` for fields and `<<< body`.
#[test]
fn known_calls_are_what_the_table_says() {
    let mut count = 0;
    for line in include_str!("testdata/requests.txt").lines() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (asked, expected) = line.split_once(" => ").unwrap_or_else(|| panic!("{line}"));
        let (head, body) = match asked.split_once(" <<< ") {
            Some((head, body)) => (head, Some(body)),
            None => (asked, None),
        };
        let mut parts = head.split(" | ");
        let first = parts.next().unwrap().trim();
        let headers: Vec<_> = parts.map(|field| field.split_once(": ").unwrap()).collect();
        let (word, kind) = expected.trim().split_once(' ').unwrap();
        let analysis = analyze(&request(first, &headers, body));
        assert_eq!((analysis.effect, analysis.kind.as_str()), (effect(word), kind), "{line}");
        count += 1;
    }
    assert!(count >= 150, "{count} rows");
}

#[test]
fn graphql_fields_are_found_by_name_through_aliases_and_fragments() {
    let document = "query Q { me: viewer { email ...F } } fragment F on User { repositories(first: 1) { nodes { name } } }";
    let body = serde_json::json!({"query": document}).to_string();
    let asked =
        request("POST https://api.test/graphql", &[("content-type", "application/json")], Some(&body));
    let analysis = analyze(&asked);
    let matches = |text: &str| GraphqlPattern::parse(text).unwrap().matches(&analysis);
    assert_eq!(matches("query viewer.email"), Reading::Yes);
    assert_eq!(matches("query viewer.repositories.nodes.name"), Reading::Yes);
    assert_eq!(matches("query viewer.*"), Reading::Yes);
    assert_eq!(matches("query me.email"), Reading::No);
    assert_eq!(matches("mutation"), Reading::No);
    let covers = |texts: &[&str]| {
        let patterns: Vec<_> = texts.iter().map(|text| GraphqlPattern::parse(text).unwrap()).collect();
        graphql_covers(&patterns, &analysis)
    };
    assert_eq!(covers(&["query viewer"]), Reading::Yes);
    assert_eq!(covers(&["query viewer.email", "query viewer.repositories"]), Reading::Yes);
    assert_eq!(covers(&["query viewer.email"]), Reading::No);
    assert_eq!(covers(&["query"]), Reading::Yes);
}

#[test]
fn graphql_that_cannot_be_read_is_unknown() {
    let deep = "{a".repeat(200) + &"}".repeat(200);
    let wide = format!("{{ {} }}", (0..20_000).map(|n| format!("f{n}")).collect::<Vec<_>>().join(" "));
    for document in [
        "query {",
        "{ ...Missing }",
        &deep,
        &wide,
        "query { ...A } fragment A on Q { ...A }",
        "type A { b: C }",
    ] {
        let body = serde_json::json!({"query": document}).to_string();
        let analysis = analyze(&request("POST https://api.test/graphql", &[], Some(&body)));
        assert_eq!(analysis.effect, Effect::Unknown, "{}", document.get(..60).unwrap_or(document));
        assert_eq!(GraphqlPattern::parse("mutation x").unwrap().matches(&analysis), Reading::Perhaps);
    }
}

#[test]
fn a_body_that_was_not_read_leaves_the_effect_open() {
    let graphql = request("POST https://api.test/graphql", &[("content-type", "application/json")], None);
    assert!(depends_on_body(&graphql));
    assert_eq!(analyze(&graphql).effect, Effect::Unknown);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert!(depends_on_body(&request("POST https://iam.amazonaws.com/", &form, None)));
    assert!(!depends_on_body(&request("POST https://api.test/x", &form, None)));
    assert!(!depends_on_body(&request("GET https://api.test/graphql", &[], None)));
}

#[test]
fn bodies_are_read_as_what_they_are() {
    let json = request("POST https://a.test/", &[], Some(r#"{"a":1}"#));
    assert_eq!(json.body, Body::Json(serde_json::json!({"a": 1})));
    let form = request(
        "POST https://a.test/",
        &[("content-type", "application/x-www-form-urlencoded; x=y")],
        Some("a=1+2&a=%26"),
    );
    let pairs = vec![("a".to_owned(), "1 2".to_owned()), ("a".to_owned(), "&".to_owned())];
    assert_eq!(form.body, Body::Form(pairs));
    let broken = request("POST https://a.test/", &[("content-type", "application/json")], Some("{\"a\":"));
    assert_eq!(broken.body, Body::Unread);
    assert_eq!(request("POST https://a.test/", &[], Some("plain")).body, Body::Other);
    assert_eq!(request("POST https://a.test/", &[], Some("")).body, Body::Empty);
}

#[test]
fn urls_are_written_as_people_read_them() {
    assert_eq!(request("GET https://a.test/x?y=1", &[], None).url(), "https://a.test/x?y=1");
    let mut other = request("GET https://a.test/x", &[], None);
    other.port = 8443;
    assert_eq!(other.url(), "https://a.test:8443/x");
    "::1".clone_into(&mut other.host);
    assert_eq!(other.url(), "https://[::1]:8443/x");
}

#[test]
fn semicolons_give_both_readings_of_a_query() {
    let asked = request("GET https://a.test/x?a=1;force=true", &[], None);
    assert!(PairPattern::parse_query("force=true").unwrap().matches_query(&asked.query));
    assert!(PairPattern::parse_query("a=1;force=true").unwrap().matches_query(&asked.query));
}
