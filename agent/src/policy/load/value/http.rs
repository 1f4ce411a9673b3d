//! The words of HTTP rules: methods, hosts, paths, header fields, queries into bodies.

use globset::{Glob, GlobMatcher};
use serde_json::{Value, json};

use super::pattern::glob;
use crate::mask::http::JsonPath;
use crate::policy::diagnostic::quoted;
use crate::policy::load::table::{Choice, Word};
use crate::policy::rule::{ClientTls, Injection, MaskDirection, Uninspected};
use crate::request::http::{GraphqlPattern, GrpcPattern, JsonPathPattern, PairPattern, PathPattern};

impl Choice for ClientTls {
    const NOUN: &'static str = "a choice for tls";
    const ALL: &'static [(&'static str, Self)] =
        &[("intercept", Self::Intercept), ("passthrough", Self::Passthrough), ("plain", Self::Plain)];
}

impl Choice for Uninspected {
    const NOUN: &'static str = "a choice for uninspected";
    const ALL: &'static [(&'static str, Self)] =
        &[("hold", Self::Hold), ("deny", Self::Deny), ("allow", Self::Allow)];
}

impl Choice for MaskDirection {
    const NOUN: &'static str = "a direction";
    const ALL: &'static [(&'static str, Self)] = &[("request", Self::Request), ("response", Self::Response)];
}

impl Word for Injection {
    const WHAT: &'static str = "where the credential goes, such as \"bearer\" or \"header X-Api-Key\"";

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{} does not say where the credential goes (one of: bearer, basic, header NAME, query NAME, sigv4)",
                quoted(text)
            )
        };
        match text.split_once(' ') {
            None => match text {
                "bearer" => Ok(Self::Bearer),
                "basic" => Ok(Self::Basic),
                "sigv4" => Ok(Self::SigV4),
                _ => Err(wrong()),
            },
            Some(("header", name)) => match http::HeaderName::from_bytes(name.trim().as_bytes()) {
                Ok(name) => Ok(Self::Header(name.as_str().to_owned())),
                Err(_) => Err(format!("{} is not the name of a header field", quoted(name))),
            },
            Some(("query", name)) if !name.trim().is_empty() => Ok(Self::Query(name.trim().to_owned())),
            Some(_) => Err(wrong()),
        }
    }

    fn pattern() -> Value {
        json!({ "pattern": "^(bearer|basic|sigv4|header .+|query .+)$" })
    }
}

/// One of a guard's `methods`.
pub(in crate::policy::load) struct HttpMethod(pub(in crate::policy::load) String);

impl Word for HttpMethod {
    const WHAT: &'static str = "a method such as \"POST\"";

    fn parse(text: &str) -> Result<Self, String> {
        match http::Method::from_bytes(text.as_bytes()) {
            Ok(method) => Ok(Self(method.as_str().to_owned())),
            Err(_) => Err(format!("{} is not {}", quoted(text), Self::WHAT)),
        }
    }

    fn doubt(&self) -> Option<String> {
        let folded = self.0.to_ascii_uppercase();
        (folded != self.0).then(|| format!("methods are case-sensitive; clients send {}", quoted(&folded)))
    }

    fn pattern() -> Value {
        json!({ "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" })
    }
}

/// A glob over host names, which have no case.
pub(in crate::policy::load) struct HostGlob(pub(in crate::policy::load) GlobMatcher);

impl Word for HostGlob {
    const WHAT: &'static str = "a host such as \"api.*.example.com\"";

    fn parse(text: &str) -> Result<Self, String> {
        if text.contains([':', '/']) && text.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!(
                "{} is more than a host; ports and paths have keys of their own",
                quoted(text)
            ));
        }
        glob(&text.to_lowercase(), &Glob::new).map(Self)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1 })
    }
}

/// A glob over names of header fields, which have no case (RFC 9110 section 5.1).
pub(in crate::policy::load) struct FieldGlob(pub(in crate::policy::load) GlobMatcher);

impl Word for FieldGlob {
    const WHAT: &'static str = "a header field such as \"x-internal-*\"";

    fn parse(text: &str) -> Result<Self, String> {
        if text.contains([':', ' ']) {
            return Err(format!("{} is more than the name of a header field", quoted(text)));
        }
        glob(&text.to_lowercase(), &Glob::new).map(Self)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1, "pattern": "^[^: ]+$" })
    }
}

/// A guard's condition on a query parameter.
pub(in crate::policy::load) struct QueryPattern(pub(in crate::policy::load) PairPattern);

impl Word for QueryPattern {
    const WHAT: &'static str = "a query parameter such as \"force=true\"";

    fn parse(text: &str) -> Result<Self, String> {
        PairPattern::parse_query(text).map(Self)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1 })
    }
}

/// A guard's condition on a header field.
pub(in crate::policy::load) struct HeaderPattern(pub(in crate::policy::load) PairPattern);

impl Word for HeaderPattern {
    const WHAT: &'static str = "a header field such as \"x-env: prod*\"";

    fn parse(text: &str) -> Result<Self, String> {
        PairPattern::parse_header(text).map(Self)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1 })
    }
}

/// Words whose parser stands with the pattern itself.
macro_rules! parsed_word {
    ($($name:ident: $what:literal;)+) => {$(
        impl Word for $name {
            const WHAT: &'static str = $what;

            fn parse(text: &str) -> Result<Self, String> {
                Self::parse(text)
            }

            fn pattern() -> Value {
                json!({ "minLength": 1 })
            }
        }
    )+};
}

parsed_word! {
    GraphqlPattern: "a GraphQL operation such as \"mutation deleteRepository\"";
    GrpcPattern: "a gRPC method such as \"orders.Orders/Cancel*\"";
    JsonPath: "a place in JSON such as \"$.customers[*].ssn\"";
    JsonPathPattern: "a JSONPath query such as \"$[?@.amount > 1000]\"";
    PathPattern: "a path such as \"/v1/payments/{id}\"";
}
