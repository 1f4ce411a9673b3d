//! Conditions on JSON bodies and on gRPC methods.

use globset::{Glob, GlobMatcher};
use serde_json_path::JsonPath;

use super::{Analysis, Body, Reading};

/// A JSONPath query (RFC 9535): it matches when it selects something.
#[derive(Clone, Debug)]
pub struct JsonPathPattern {
    text: String,
    path: JsonPath,
}

impl JsonPathPattern {
    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        JsonPath::parse(text)
            .map(|path| Self { text: text.to_owned(), path })
            .map_err(|error| format!("{text:?} is not a JSONPath query (RFC 9535): {}", error.message()))
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it selects something in a body.
    #[must_use]
    pub fn matches(&self, body: &Body) -> Reading {
        match body {
            Body::Json(value) => (!self.path.query(value).is_empty()).into(),
            Body::Unread => Reading::Perhaps,
            Body::Empty | Body::Form(_) | Body::Other => Reading::No,
        }
    }
}

/// A glob over gRPC methods, `package.Service/Method`.
#[derive(Clone, Debug)]
pub struct GrpcPattern {
    text: String,
    glob: GlobMatcher,
}

impl GrpcPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.contains('/') && text != "*" {
            return Err(format!(
                "{text:?} is not a gRPC method; write \"package.Service/Method\", with * where any will do"
            ));
        }
        let glob = Glob::new(text.trim_start_matches('/'))
            .map_err(|error| format!("{text:?} is not a pattern: {}", error.kind()))?;
        Ok(Self { text: text.to_owned(), glob: glob.compile_matcher() })
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a request calls such a method.
    #[must_use]
    pub fn matches(&self, analysis: &Analysis) -> Reading {
        analysis.grpc.as_ref().is_some_and(|method| self.glob.is_match(method)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_selects_matches() {
        let body = Body::Json(serde_json::json!({"amount": 5000, "items": [{"sku": "a"}, {"sku": "b"}]}));
        let matches = |text: &str| JsonPathPattern::parse(text).unwrap().matches(&body);
        assert_eq!(matches("$[?@ > 1000]"), Reading::Yes);
        assert_eq!(matches("$.items[?@.sku == 'b']"), Reading::Yes);
        assert_eq!(matches("$.admin"), Reading::No);
        assert_eq!(JsonPathPattern::parse("$.a").unwrap().matches(&Body::Unread), Reading::Perhaps);
        assert!(JsonPathPattern::parse("amount > 5").is_err());
    }
}
