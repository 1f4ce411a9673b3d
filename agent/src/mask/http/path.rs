//! Places in JSON documents: the part of JSONPath (RFC 9535) that can be followed in one pass over a stream.

use memchr::memmem::Finder;

/// Segments of one path.
const SEGMENTS_MAX: usize = 32;

/// A place: `$.customers[*].ssn`, `$..password`.
#[derive(Clone, Debug)]
pub struct JsonPath {
    text: String,
    segments: Vec<Segment>,
    /// Search for each of its names.
    names: Vec<Finder<'static>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// `..`: at any depth.
    descends: bool,
    selector: Selector,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Selector {
    Any,
    Index(u64),
    Name(String),
}

/// How one gets from a value to one inside it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    /// Into an object.
    Member(&'a str),
    /// Into an array.
    Element(u64),
}

/// How far each path has come at one depth: path number, and segments passed.
pub(super) type Progress = Vec<(usize, usize)>;

impl JsonPath {
    /// Reads a place.
    ///
    /// # Errors
    /// What is wrong with it, or beyond what can be followed in a stream.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(mut rest) = text.strip_prefix('$') else {
            return Err(format!("{text:?} must start with '$', such as \"$.customers[*].ssn\""));
        };
        let mut segments = Vec::new();
        while !rest.is_empty() {
            let (segment, after) = segment(rest).ok_or_else(|| {
                format!(
                    "{text:?} cannot be followed while a body streams by; masks take .name, ['name'], [*], [0] and ..name"
                )
            })?;
            segments.push(segment);
            rest = after;
        }
        if segments.is_empty() || segments.len() > SEGMENTS_MAX {
            return Err(format!("{text:?} must name 1 to {SEGMENTS_MAX} steps from '$'"));
        }
        let names = segments.iter().filter_map(|segment| match &segment.selector {
            Selector::Any | Selector::Index(_) => None,
            Selector::Name(name) => Some(Finder::new(name).into_owned()),
        });
        Ok(Self { text: text.to_owned(), names: names.collect(), segments })
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a document without escapes cannot have this place: one of its names does not occur in it.
    pub(super) fn cannot_be_in(&self, document: &[u8]) -> bool {
        self.names.iter().any(|name| name.find(document).is_none())
    }
}

fn segment(text: &str) -> Option<(Segment, &str)> {
    let (descends, rest) = match text.strip_prefix("..") {
        Some(rest) => (true, rest),
        None if text.starts_with('[') => (false, text),
        None => (false, text.strip_prefix('.')?),
    };
    let (selector, rest) = if let Some(inside) = rest.strip_prefix('[') {
        bracketed(inside)?
    } else if let Some(rest) = rest.strip_prefix('*') {
        (Selector::Any, rest)
    } else {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at_checked(end)?;
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '$' | '@');
        if name.is_empty() || !name.chars().all(plain) {
            return None;
        }
        (Selector::Name(name.to_owned()), rest)
    };
    Some((Segment { descends, selector }, rest))
}

fn bracketed(text: &str) -> Option<(Selector, &str)> {
    for quote in ['\'', '"'] {
        if let Some(inside) = text.strip_prefix(quote) {
            let (name, rest) = inside.split_once(quote)?;
            let rest = rest.strip_prefix(']')?;
            return (!name.contains('\\')).then(|| (Selector::Name(name.to_owned()), rest));
        }
    }
    let (inside, rest) = text.split_once(']')?;
    match inside.trim() {
        "*" => Some((Selector::Any, rest)),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((Selector::Index(digits.parse().ok()?), rest))
        }
        _ => None,
    }
}

/// Where every path stands at a document's root.
pub(super) fn at_root(paths: usize) -> Progress {
    (0..paths).map(|path| (path, 0)).collect()
}

/// Where the paths stand after a step; the first that ends there, if any.
pub(super) fn advance<'p>(
    path_of: impl Fn(usize) -> Option<&'p JsonPath>,
    progress: &[(usize, usize)],
    step: Step<'_>,
) -> (Progress, Option<usize>) {
    let mut next = Progress::new();
    let mut reached: Option<usize> = None;
    for &(number, passed) in progress {
        let Some(path) = path_of(number) else { continue };
        let Some(segment) = path.segments.get(passed) else { continue };
        if segment.descends && !next.contains(&(number, passed)) {
            next.push((number, passed));
        }
        let takes = match (&segment.selector, step) {
            (Selector::Any, _) => true,
            (Selector::Name(name), Step::Member(member)) => name == member,
            (Selector::Index(index), Step::Element(element)) => *index == element,
            (Selector::Name(_), Step::Element(_)) | (Selector::Index(_), Step::Member(_)) => false,
        };
        if !takes {
            continue;
        }
        if passed + 1 == path.segments.len() {
            reached = Some(reached.map_or(number, |before| before.min(number)));
        } else if !next.contains(&(number, passed + 1)) {
            next.push((number, passed + 1));
        }
    }
    (next, reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_followed_is_read() {
        for good in [
            "$.a",
            "$.a.b-c",
            "$['a b'].c",
            "$[\"x\"]",
            "$.a[*].b",
            "$[0]",
            "$..a",
            "$..*",
            "$.a..b[3]",
            "$.*",
        ] {
            assert_eq!(JsonPath::parse(good).unwrap().text(), good);
        }
        for bad in ["a", "$", "$.", "$[?@.a]", "$[1:2]", "$[-1]", "$.a b", "$['a", "$...a"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
