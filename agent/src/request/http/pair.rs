//! Conditions on query parameters and header fields: a name, and perhaps a glob over its value.

use globset::{Glob, GlobMatcher};
use http::HeaderMap;

/// `name`, `name=glob` or `name: glob`.
#[derive(Clone, Debug)]
pub struct PairPattern {
    text: String,
    name: String,
    /// `None`: being there is enough.
    value: Option<GlobMatcher>,
}

impl PairPattern {
    /// Reads a condition on a query parameter: `force` or `force=true`.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn parse_query(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        if name.is_empty() || name.contains(['&', '?']) {
            return Err(format!("{text:?} is not a query parameter; write \"name\" or \"name=glob\""));
        }
        Self::new(text, name.to_owned(), value)
    }

    /// Reads a condition on a header field: `x-env` or `x-env: prod*`.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn parse_header(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (text.trim(), None),
        };
        let name = http::HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{text:?} is not a header field; write \"name\" or \"name: glob\""))?;
        Self::new(text, name.as_str().to_owned(), value)
    }

    fn new(text: &str, name: String, value: Option<&str>) -> Result<Self, String> {
        let compile = |glob: &str| {
            Glob::new(glob)
                .map(|glob| glob.compile_matcher())
                .map_err(|error| format!("{glob:?} is not a pattern: {}", error.kind()))
        };
        Ok(Self { text: text.to_owned(), name, value: value.map(compile).transpose()? })
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether one of the parameters matches.
    #[must_use]
    pub fn matches_query(&self, query: &[(String, String)]) -> bool {
        query.iter().any(|(name, value)| *name == self.name && self.takes(value))
    }

    /// Whether one of the fields matches. Bytes that are no text are read as ISO 8859-1 (RFC 9110 section 5.5).
    #[must_use]
    pub fn matches_headers(&self, headers: &HeaderMap) -> bool {
        headers.get_all(self.name.as_str()).iter().any(|value| {
            let text: String = value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
            self.takes(&text) || std::str::from_utf8(value.as_bytes()).is_ok_and(|text| self.takes(text))
        })
    }

    fn takes(&self, value: &str) -> bool {
        self.value.as_ref().is_none_or(|glob| glob.is_match(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_means_being_there() {
        let query = vec![("force".to_owned(), "true".to_owned()), ("page".to_owned(), String::new())];
        let matches = |text: &str| PairPattern::parse_query(text).unwrap().matches_query(&query);
        assert!(matches("force") && matches("page") && matches("force=t*") && matches("page="));
        assert!(!matches("force=false") && !matches("forc"));
        let mut headers = HeaderMap::new();
        headers.append("x-env", "prod-eu".parse().unwrap());
        headers.append("x-env", "test".parse().unwrap());
        let matches = |text: &str| PairPattern::parse_header(text).unwrap().matches_headers(&headers);
        assert!(matches("X-Env") && matches("x-env: prod*") && matches("x-env:test"));
        assert!(!matches("x-env: dev") && !matches("x-other"));
        assert!(PairPattern::parse_header("a b: c").is_err());
        assert!(PairPattern::parse_query("=x").is_err());
    }
}
