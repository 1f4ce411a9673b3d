//! What must not be read in a text: what detectors find, and credentials that Portcullis itself put into the request, which
//! a server may send back.

use std::borrow::Cow;
use std::ops::Range;

use aho_corasick::BuildError;

use crate::mask::method::{REDACTED, replace_match};
use crate::mask::{Detector, HashKey, Method, Scanner};
use crate::secret::Secret;

/// Shorter credentials are not looked for: they would be found in ordinary words.
const WITHHELD_BYTES_MIN: usize = 8;

/// How the record names a credential that was sent back.
const CREDENTIAL: &str = "credential";

/// Finds.
pub(in crate::mask) struct Finder {
    scanner: Option<Scanner>,
    withheld: Vec<Secret>,
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mask) struct Found {
    /// Where.
    pub(in crate::mask) range: Range<usize>,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Credential,
    Detected(Detector, Method),
}

impl Found {
    /// How the record names it.
    pub(in crate::mask) fn name(&self) -> &'static str {
        match self.what {
            What::Credential => CREDENTIAL,
            What::Detected(detector, _) => detector.name(),
        }
    }

    /// What stands in its place; `text` is what was found.
    pub(in crate::mask) fn replacement(&self, text: &[u8], key: &HashKey) -> Cow<'static, [u8]> {
        match self.what {
            What::Credential => Cow::Borrowed(REDACTED.as_bytes()),
            What::Detected(detector, method) => replace_match(method, detector, text, key),
        }
    }
}

impl Finder {
    pub(super) fn new(detect: &[(Detector, Method)], withheld: Vec<Secret>) -> Result<Self, BuildError> {
        let scanner = if detect.is_empty() { None } else { Some(Scanner::new(detect)?) };
        let long = |secret: &Secret| secret.expose().len() >= WITHHELD_BYTES_MIN;
        Ok(Self { scanner, withheld: withheld.into_iter().filter(long).collect() })
    }

    pub(in crate::mask) fn is_empty(&self) -> bool {
        self.scanner.is_none() && self.withheld.is_empty()
    }

    /// Everything found, in order, not overlapping.
    pub(in crate::mask) fn find(&self, text: &[u8]) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        if let Some(scanner) = &self.scanner {
            found.extend(scanner.matches(text).into_iter().map(|matched| Found {
                range: matched.range,
                what: What::Detected(matched.detector, matched.method),
            }));
        }
        let detected = found.len();
        for secret in &self.withheld {
            let secret = secret.expose();
            let Some(first) = secret.first() else { continue };
            // Few places begin like it; a compiled searcher would cost more, and keep a copy of the secret.
            let hits = memchr::memchr_iter(*first, text)
                .filter(|at| text.get(*at..).is_some_and(|rest| rest.starts_with(secret)));
            found.extend(hits.map(|at| Found { range: at..at + secret.len(), what: What::Credential }));
        }
        if found.len() > detected {
            unite(&mut found);
        }
        found
    }

    /// How many bytes from the front nothing can change that follows; see [`Scanner::decided`].
    pub(in crate::mask) fn decided(&self, text: &[u8]) -> usize {
        let decided = self.scanner.as_ref().map_or(text.len(), |scanner| scanner.decided(text));
        decided.min(self.begun(text))
    }

    /// The same, with words let go; see [`Scanner::decided_but_words`].
    pub(in crate::mask) fn decided_but_words(&self, text: &[u8]) -> usize {
        let decided = self.scanner.as_ref().map_or(text.len(), |scanner| scanner.decided_but_words(text));
        decided.min(self.begun(text))
    }

    /// Where a credential may be beginning.
    fn begun(&self, text: &[u8]) -> usize {
        let begins = |secret: &Secret| {
            let secret = secret.expose();
            let longest = secret.len().saturating_sub(1).min(text.len());
            // Only where the last byte is one of the secret's can it be beginning.
            let last = text.last();
            let part = (1..=longest).rev().find(|length| {
                secret.get(*length - 1) == last
                    && secret.get(..*length).is_some_and(|part| text.ends_with(part))
            });
            text.len() - part.unwrap_or(0)
        };
        self.withheld.iter().map(begins).min().unwrap_or(text.len())
    }
}

/// Puts findings in order and joins those that overlap; the earlier one names the whole.
fn unite(found: &mut Vec<Found>) {
    found.sort_by_key(|one| (one.range.start, one.range.end));
    let mut united: Vec<Found> = Vec::with_capacity(found.len());
    for one in found.drain(..) {
        match united.last_mut() {
            Some(last) if one.range.start < last.range.end => {
                last.range.end = last.range.end.max(one.range.end);
                last.what = What::Credential;
            }
            Some(_) | None => united.push(one),
        }
    }
    *found = united;
}
