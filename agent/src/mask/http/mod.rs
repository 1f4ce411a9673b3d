//! Masks over HTTP messages: header fields, and bodies as they stream by. What matches nothing leaves byte for byte as it
//! came. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::BuildError;
use globset::GlobMatcher;

use super::method::{REDACTED, partial_value};
use super::{Detector, HashKey, Method};
use crate::secret::Secret;

mod events;
mod find;
mod form;
mod json;
mod path;
#[cfg(test)]
mod tests;
mod text;

pub use path::JsonPath;

use events::EventMasker;
use find::Finder;
pub(in crate::mask) use find::Found;
use form::FormMasker;
use json::JsonMasker;
use text::TextMasker;

/// Bytes of a body of unknown type that are looked at for a NUL, which text has not.
const SNIFF_BYTES: usize = 512;

/// What was masked, by the rule's name or the detector's.
pub type Counts = BTreeMap<String, u64>;

/// One rule over fields.
#[derive(Clone, Debug)]
pub struct FieldRule<T> {
    /// Where it applies.
    pub what: T,
    /// How a value is rewritten.
    pub method: Method,
    /// How the record names it.
    pub rule: String,
}

/// All masks of one direction of one connection.
pub struct BodyMasks {
    finder: Finder,
    json: Vec<FieldRule<JsonPath>>,
    form: Vec<FieldRule<GlobMatcher>>,
    headers: Vec<FieldRule<GlobMatcher>>,
    key: Arc<HashKey>,
}

/// What kind of text a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// No text.
    Binary,
    /// `text/event-stream` (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
    Events,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// One or more JSON documents.
    Json,
    /// Anything else that can be read.
    Text,
    /// Nobody says: text unless it shows a NUL soon.
    Untold,
}

/// Media types that are no text.
const BINARY: [&str; 22] = [
    "application/grpc",
    "application/gzip",
    "application/java-archive",
    "application/msword",
    "application/pdf",
    "application/protobuf",
    "application/vnd.docker.image.rootfs",
    "application/vnd.google.protobuf",
    "application/vnd.ms-",
    "application/vnd.oci.image.layer",
    "application/vnd.openxmlformats",
    "application/wasm",
    "application/x-7z-compressed",
    "application/x-bzip2",
    "application/x-git-",
    "application/x-gzip",
    "application/x-protobuf",
    "application/x-tar",
    "application/x-xz",
    "application/zip",
    "application/zstd",
    "font/",
];

impl BodyKind {
    /// What a `Content-Type` says (RFC 9110 section 8.3).
    #[must_use]
    pub fn of(content_type: Option<&[u8]>) -> Self {
        let Some(value) = content_type else { return Self::Untold };
        let text = String::from_utf8_lossy(value).to_ascii_lowercase();
        let media = text.split(';').next().unwrap_or_default().trim();
        let image = media.starts_with("image/") && !media.ends_with("+xml");
        if image || media.starts_with("audio/") || media.starts_with("video/") {
            return Self::Binary;
        }
        if BINARY.iter().any(|prefix| media.starts_with(prefix)) {
            return Self::Binary;
        }
        match media {
            "text/event-stream" => Self::Events,
            "application/x-www-form-urlencoded" => Self::Form,
            "application/octet-stream" | "binary/octet-stream" | "" => Self::Untold,
            _ if media.ends_with("json") || media.ends_with("jsonl") => Self::Json,
            _ => Self::Text,
        }
    }
}

impl BodyMasks {
    /// Compiles the masks. `withheld` are credentials that must not be read anywhere.
    ///
    /// # Errors
    /// The detectors' automaton could not be built.
    pub fn new(
        json: Vec<FieldRule<JsonPath>>,
        form: Vec<FieldRule<GlobMatcher>>,
        headers: Vec<FieldRule<GlobMatcher>>,
        detect: &[(Detector, Method)],
        withheld: Vec<Secret>,
        key: Arc<HashKey>,
    ) -> Result<Self, BuildError> {
        Ok(Self { finder: Finder::new(detect, withheld)?, json, form, headers, key })
    }

    /// There is nothing to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.finder.is_empty() && self.json.is_empty() && self.form.is_empty() && self.headers.is_empty()
    }

    /// Whether a body of this kind must be looked at.
    #[must_use]
    pub fn reads(&self, kind: BodyKind) -> bool {
        match kind {
            BodyKind::Binary => false,
            BodyKind::Events | BodyKind::Json => !self.finder.is_empty() || !self.json.is_empty(),
            BodyKind::Form => !self.finder.is_empty() || !self.form.is_empty(),
            // What is JSON in fact is masked as such, whatever it is called.
            BodyKind::Text | BodyKind::Untold => !self.finder.is_empty() || !self.json.is_empty(),
        }
    }

    /// Whether a whole body certainly stays as it is, told by one look at its bytes: a text without escapes and without the
    /// names that rules for JSON ask for, in which nothing is found.
    #[must_use]
    pub fn leaves_alone(&self, kind: BodyKind, body: &[u8]) -> bool {
        match kind {
            BodyKind::Binary => true,
            BodyKind::Json | BodyKind::Text | BodyKind::Untold => {
                memchr::memchr(b'\\', body).is_none()
                    && self.json.iter().all(|rule| rule.what.cannot_be_in(body))
                    && self.finder.find(body).is_empty()
            }
            BodyKind::Events | BodyKind::Form => false,
        }
    }

    /// A header field's new value, when it changes. `name` is lower case.
    pub fn header(&self, name: &str, value: &[u8], counts: &mut Counts) -> Option<Vec<u8>> {
        if let Some(rule) = self.headers.iter().find(|rule| rule.what.is_match(name)) {
            count(counts, &rule.rule, 1);
            return Some(self.rewrite(rule.method, value));
        }
        self.scan(value, counts)
    }

    /// A text that is all there, under the detectors alone; `None` when nothing was found.
    pub fn text(&self, text: &str, counts: &mut Counts) -> Option<String> {
        self.scan(text.as_bytes(), counts).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// One WebSocket text message; `None` when it stays as it is.
    pub fn message(self: &Arc<Self>, text: &[u8], counts: &mut Counts) -> Option<Vec<u8>> {
        let kind = if looks_like_json(text) { BodyKind::Json } else { BodyKind::Text };
        if !self.reads(kind) {
            return None;
        }
        let mut masker = BodyMasker::new(Arc::clone(self), kind);
        let mut out = Vec::with_capacity(text.len());
        masker.push(text, &mut out);
        masker.finish(&mut out);
        for (rule, found) in masker.counts() {
            count(counts, rule, *found);
        }
        (out != text).then_some(out)
    }

    /// A whole value of a field that a rule names.
    fn rewrite(&self, method: Method, value: &[u8]) -> Vec<u8> {
        match method {
            Method::Redact => REDACTED.as_bytes().to_vec(),
            Method::Null => Vec::new(),
            Method::Hash => self.key.token(value).into_bytes(),
            Method::Partial => partial_value(value),
        }
    }

    /// What finds secrets in plain text.
    pub(in crate::mask) fn finder(&self) -> &Finder {
        &self.finder
    }

    /// What keyed digests are made with.
    pub(in crate::mask) fn key(&self) -> &HashKey {
        &self.key
    }

    /// Detectors over complete text.
    pub(in crate::mask) fn scan(&self, text: &[u8], counts: &mut Counts) -> Option<Vec<u8>> {
        let found = self.finder.find(text);
        if found.is_empty() {
            return None;
        }
        let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
        for one in found {
            out.extend_from_slice(text.get(at..one.range.start).unwrap_or_default());
            out.extend_from_slice(
                &one.replacement(text.get(one.range.clone()).unwrap_or_default(), &self.key),
            );
            count(counts, one.name(), 1);
            at = one.range.end;
        }
        out.extend_from_slice(text.get(at..).unwrap_or_default());
        Some(out)
    }
}

/// Counts more findings of a rule.
pub(in crate::mask) fn count(counts: &mut Counts, rule: &str, more: u64) {
    if let Some(known) = counts.get_mut(rule) {
        *known += more;
    } else {
        counts.insert(rule.to_owned(), more);
    }
}

fn looks_like_json(text: &[u8]) -> bool {
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// One body being rewritten.
pub struct BodyMasker {
    masks: Arc<BodyMasks>,
    counts: Counts,
    form: Form,
}

enum Form {
    Events(Box<EventMasker>),
    Fields(Box<FormMasker>),
    Json(Box<JsonMasker>),
    /// Passes as it is.
    Nothing,
    Text(Box<TextMasker>),
    /// What it is will show.
    Sniffing {
        binary: bool,
        seen: Vec<u8>,
    },
}

impl BodyMasker {
    /// For one body of this kind.
    #[must_use]
    pub fn new(masks: Arc<BodyMasks>, kind: BodyKind) -> Self {
        let form = match kind {
            BodyKind::Binary => Form::Nothing,
            BodyKind::Events => Form::Events(Box::default()),
            BodyKind::Form => Form::Fields(Box::default()),
            BodyKind::Json => Form::Json(Box::default()),
            BodyKind::Text => Form::Sniffing { binary: false, seen: Vec::new() },
            BodyKind::Untold => Form::Sniffing { binary: true, seen: Vec::new() },
        };
        Self { masks, counts: Counts::new(), form }
    }

    /// Takes the next piece and appends to `out` what is decided.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        let Self { masks, counts, form } = self;
        match form {
            Form::Events(events) => events.push(masks, counts, piece, out),
            Form::Fields(fields) => fields.push(masks, counts, piece, out),
            Form::Json(json) => json.push(masks, counts, piece, out),
            Form::Nothing => out.extend_from_slice(piece),
            Form::Text(text) => text.push(masks, counts, piece, out),
            Form::Sniffing { binary, seen } => {
                seen.extend_from_slice(piece);
                let blank = seen.iter().all(u8::is_ascii_whitespace);
                if (blank || *binary) && seen.len() < SNIFF_BYTES {
                    return;
                }
                let seen = std::mem::take(seen);
                self.settle(&seen, out);
            }
        }
    }

    /// The body is complete: appends the rest.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if let Form::Sniffing { seen, .. } = &mut self.form {
            let seen = std::mem::take(seen);
            self.settle(&seen, out);
        }
        let Self { masks, counts, form } = self;
        match form {
            Form::Events(events) => events.finish(masks, counts, out),
            Form::Fields(fields) => fields.finish(masks, counts, out),
            Form::Json(json) => json.finish(masks, counts, out),
            Form::Text(text) => text.finish(masks, counts, out),
            Form::Nothing | Form::Sniffing { .. } => {}
        }
    }

    /// Something was held back that more of the body may decide.
    #[must_use]
    pub fn holds(&self) -> bool {
        match &self.form {
            Form::Events(events) => events.holds(),
            Form::Text(text) => text.holds(),
            Form::Fields(_) | Form::Json(_) | Form::Nothing | Form::Sniffing { .. } => false,
        }
    }

    /// Nothing has come for a while: appends to `out` what was held back only because an ordinary word could turn out to be
    /// the beginning of something. A reader who waits for an answer must not wait for the next one.
    pub fn relent(&mut self, out: &mut Vec<u8>) {
        let Self { masks, counts, form } = self;
        match form {
            Form::Events(events) => events.relent(masks, counts, out),
            Form::Text(text) => text.relent(masks, counts, out),
            Form::Fields(_) | Form::Json(_) | Form::Nothing | Form::Sniffing { .. } => {}
        }
    }

    /// The beginning shows what the body is.
    fn settle(&mut self, seen: &[u8], out: &mut Vec<u8>) {
        let binary = matches!(self.form, Form::Sniffing { binary: true, .. });
        let shown = seen.get(..SNIFF_BYTES).unwrap_or(seen);
        self.form = if binary && memchr::memchr(0, shown).is_some() {
            Form::Nothing
        } else if looks_like_json(seen) {
            Form::Json(Box::default())
        } else {
            Form::Text(Box::default())
        };
        self.push(seen, out);
    }

    /// What was masked so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}
