//! Paths, taken apart the way servers do, and patterns over them. A path that servers read in two ways keeps both
//! readings: a pattern that matches only one of them matches perhaps.

use globset::{GlobBuilder, GlobMatcher};
use percent_encoding::percent_decode_str;

/// Segments of one path.
const SEGMENTS_MAX: usize = 512;

/// Segments of one pattern.
const PATTERN_SEGMENTS_MAX: usize = 32;

/// Whether something matches in every reading, in some, or in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    /// In none.
    No,
    /// In some, or it cannot be told.
    Perhaps,
    /// In every one.
    Yes,
}

impl From<bool> for Reading {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// A path as segments, each percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Split at slashes as they stand (RFC 3986 section 3.3).
    segments: Vec<String>,
    /// What a server may make of it that decodes before it splits, drops empty segments or cuts parameters off.
    other: Option<Vec<String>>,
}

impl Path {
    /// Takes a path apart.
    ///
    /// # Errors
    /// What makes it mean different things to different servers.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(rest) = text.strip_prefix('/') else { return Err("does not begin with a slash") };
        if text.bytes().any(|byte| byte.is_ascii_control() || byte == b'\\') {
            return Err("has a control character or a backslash");
        }
        check_escapes(text)?;
        let mut segments = Vec::new();
        let mut other = Vec::new();
        for raw in rest.split('/') {
            let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| "is not UTF-8")?;
            if decoded.bytes().any(|byte| byte.is_ascii_control() || byte == b'\\') {
                return Err("has an encoded control character or backslash");
            }
            for part in decoded.split('/') {
                let plain = part.split(';').next().unwrap_or_default();
                if matches!(plain, "." | "..") {
                    return Err("has a dot segment");
                }
                if !plain.is_empty() {
                    other.push(plain.to_owned());
                }
            }
            segments.push(decoded.into_owned());
            if segments.len() > SEGMENTS_MAX {
                return Err("has too many segments");
            }
        }
        // A trailing slash is a last, empty segment; most servers take both for the same.
        if segments.last().is_some_and(String::is_empty) {
            segments.pop();
        }
        let other = Some(other).filter(|other| *other != segments);
        Ok(Self { segments, other })
    }

    /// The segments as they stand, without a last empty one.
    #[must_use]
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// Every reading.
    pub(super) fn readings(&self) -> impl Iterator<Item = &[String]> {
        std::iter::once(self.segments.as_slice()).chain(self.other.as_deref())
    }
}

/// Every percent sign begins two hex digits.
fn check_escapes(text: &str) -> Result<(), &'static str> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next(), bytes.next()];
            if !digits.iter().all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())) {
                return Err("has a percent sign that begins no escape");
            }
        }
    }
    Ok(())
}

/// A pattern over paths: `/v1/payments/{id}/refund`, `/admin/**`.
#[derive(Clone, Debug)]
pub struct PathPattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    /// `**`: any number of segments.
    Any,
    /// `{name}`: one segment, not empty.
    One,
    /// A glob over one segment.
    Glob(GlobMatcher, GlobMatcher),
    /// The very segment.
    Word(String),
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!(
                "{text:?} must start with '/': it is a path, such as \"/v1/payments/{{id}}\""
            ));
        };
        if text.contains(['?', '#']) {
            return Err(format!("{text:?} has a query; conditions on it stand in `query`"));
        }
        let mut parts = rest.split('/').map(part).collect::<Result<Vec<_>, _>>()?;
        if let Some(Part::Word(last)) = parts.last()
            && last.is_empty()
        {
            parts.pop();
        }
        if parts.len() > PATTERN_SEGMENTS_MAX {
            return Err(format!("{text:?} has more than {PATTERN_SEGMENTS_MAX} segments"));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a path matches. Paths have case; one that matches only without it matches perhaps, because some servers
    /// fold.
    #[must_use]
    pub fn matches(&self, path: &Path) -> Reading {
        let mut all = true;
        let mut some = false;
        for reading in path.readings() {
            let exact = matches(&self.parts, reading, false);
            all &= exact;
            some |= exact || matches(&self.parts, reading, true);
        }
        match (all, some) {
            (true, _) => Reading::Yes,
            (false, true) => Reading::Perhaps,
            (false, false) => Reading::No,
        }
    }
}

fn part(text: &str) -> Result<Part, String> {
    if text == "**" {
        return Ok(Part::Any);
    }
    if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'))
        && !name.contains([',', '{', '}'])
    {
        return Ok(Part::One);
    }
    if !text.contains(['*', '?', '[', '{']) {
        let word = percent_decode_str(text).decode_utf8().map_err(|_| format!("{text:?} is not UTF-8"))?;
        return Ok(Part::Word(word.into_owned()));
    }
    let glob = |folded| {
        GlobBuilder::new(text)
            .literal_separator(false)
            .case_insensitive(folded)
            .build()
            .map(|glob| glob.compile_matcher())
            .map_err(|error| format!("{text:?} is not a pattern: {}", error.kind()))
    };
    Ok(Part::Glob(glob(false)?, glob(true)?))
}

/// Whether the parts cover the segments. Only `**` branches, and what it may skip is bounded by both lengths: the set of
/// segments reachable so far stands for all ways to get there.
fn matches(parts: &[Part], segments: &[String], folded: bool) -> bool {
    let mut reachable = vec![false; segments.len() + 1];
    if let Some(first) = reachable.first_mut() {
        *first = true;
    }
    for part in parts {
        let mut next = vec![false; segments.len() + 1];
        let mut skipping = false;
        for (at, slot) in next.iter_mut().enumerate() {
            let here = reachable.get(at).copied().unwrap_or_default();
            if let Part::Any = part {
                skipping |= here;
                *slot = skipping;
                continue;
            }
            let came = at.checked_sub(1).and_then(|before| {
                Some(*reachable.get(before)? && part.takes(segments.get(before)?, folded))
            });
            *slot = came.unwrap_or_default();
        }
        reachable = next;
    }
    reachable.last().copied().unwrap_or_default()
}

impl Part {
    fn takes(&self, segment: &str, folded: bool) -> bool {
        match self {
            Self::Any => true,
            Self::One => !segment.is_empty(),
            Self::Glob(exact, loose) => if folded { loose } else { exact }.is_match(segment),
            Self::Word(word) if folded => word.eq_ignore_ascii_case(segment),
            Self::Word(word) => word == segment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(pattern: &str, path: &str) -> Reading {
        PathPattern::parse(pattern).unwrap().matches(&Path::parse(path).unwrap())
    }

    #[test]
    fn patterns_cover_segments() {
        for (pattern, path, expected) in [
            ("/v1/payments/{id}/refund", "/v1/payments/7/refund", Reading::Yes),
            ("/v1/payments/{id}/refund", "/v1/payments/refund", Reading::No),
            ("/v1/payments/{id}", "/v1/payments/7/", Reading::Yes),
            ("/admin/**", "/admin", Reading::Yes),
            ("/admin/**", "/admin/a/b", Reading::Yes),
            ("/**/delete", "/a/b/delete", Reading::Yes),
            ("/**", "/", Reading::Yes),
            ("/v[0-9]/pay*", "/v2/payouts", Reading::Yes),
            ("/v1", "/V1", Reading::Perhaps),
            ("/", "/", Reading::Yes),
            ("/", "/a", Reading::No),
            ("/a%20b", "/a%20b", Reading::Yes),
            ("/**/x/**", "/x", Reading::Yes),
        ] {
            assert_eq!(reads(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn two_readings_make_a_doubt() {
        assert_eq!(reads("/projects/{id}/issues", "/projects/group%2Fname/issues"), Reading::Perhaps);
        assert_eq!(reads("/admin/**", "/x%2F..y/admin"), Reading::No);
        assert_eq!(reads("/admin/users", "/admin//users"), Reading::Perhaps);
        assert_eq!(reads("/admin/users", "/admin;v=1/users"), Reading::Perhaps);
        assert_eq!(reads("/admin/**", "/api%2F/admin"), Reading::No);
        assert_eq!(reads("/api/admin", "/api%2Fadmin"), Reading::Perhaps);
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for path in [
            "x",
            "/a/../b",
            "/a/%2e%2E/b",
            "/./a",
            "/a\\b",
            "/a%5cb",
            "/%00",
            "/%0a",
            "/%",
            "/%4",
            "/%zz",
            "/%ff",
            "/a%2f..%2fb",
            "/..;/admin",
        ] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn many_stars_cost_little() {
        let pattern = format!("/{}", vec!["**"; 30].join("/"));
        let path = format!("/{}", vec!["a"; 500].join("/"));
        assert_eq!(reads(&format!("{pattern}/b"), &path), Reading::No);
    }
}
