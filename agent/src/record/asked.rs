//! What was asked of a target, as it is recorded: bounded text and parameters, and what they were understood to be.

use std::sync::{Arc, LazyLock};

use aho_corasick::AhoCorasick;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::stream::SshAsked;
use crate::request::shell::Command;
use crate::request::{Effect, ObjectName, Statement};

/// Bytes of one operation's text kept in the record; beyond it its length and digest stand for the rest.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all parameters of one operation kept in the record.
pub const PARAMETER_BYTES_MAX: usize = 1024 * 1024;
/// Statements of one operation listed in the record; its text holds them all.
pub const STATEMENTS_MAX: usize = 1000;

/// What was asked of the target: shared by intents, holds and refusals, so that each can be read alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Operation within the session, from [`super::SessionRecord::next_operation`].
    pub operation: u64,
    /// The operation's text.
    pub text: BoundedText,
    /// Parameters bound to it.
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
    /// What the text was understood to be.
    pub statements: Statements,
    /// Database it goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The planner's estimate, when a rule asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_rows: Option<u64>,
    /// The head of an HTTP request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Box<HttpAsked>>,
    /// What belongs to an SSH operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Box<SshAsked>>,
}

/// The head of an HTTP request, masked, and without credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpAsked {
    /// As sent.
    pub method: String,
    /// Absolute.
    pub url: String,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub version: String,
    /// Fields in order.
    pub headers: Vec<(String, String)>,
}

/// Header fields as they are recorded: what authenticates is left out, and only its form stays.
#[must_use]
pub fn recorded_headers(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), recorded_value(name.as_str(), text))
        })
        .collect()
}

/// Stands for what authenticates.
const WITHHELD: &str = "[redacted]";

/// Parts of names by which applications call fields that authenticate.
const SECRET_NAMES: [&str; 8] =
    ["token", "secret", "password", "apikey", "api-key", "credential", "signature", "session-id"];

static SECRET_NAME: LazyLock<AhoCorasick> = LazyLock::new(|| {
    // Constants: a test would have failed first.
    #[expect(clippy::expect_used, reason = "the names are constants, and tests use them")]
    AhoCorasick::new(SECRET_NAMES).expect("names")
});

fn recorded_value(name: &str, value: String) -> String {
    match name {
        "authorization" | "proxy-authorization" => match value.split_once(' ') {
            Some((scheme, _)) => format!("{scheme} {WITHHELD}"),
            None => WITHHELD.to_owned(),
        },
        "cookie" => value.split(';').map(cookie).collect::<Vec<_>>().join("; "),
        "set-cookie" => match value.split_once(';') {
            Some((pair, attributes)) => format!("{};{attributes}", cookie(pair)),
            None => cookie(&value),
        },
        _ if SECRET_NAME.is_match(name) => WITHHELD.to_owned(),
        _ => value,
    }
}

/// `sid=[redacted]`.
fn cookie(pair: &str) -> String {
    match pair.trim().split_once('=') {
        Some((name, _)) => format!("{name}={WITHHELD}"),
        None => WITHHELD.to_owned(),
    }
}

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hex_digit).collect()
}

/// Text of an operation: whole up to [`TEXT_BYTES_MAX`], else its beginning with the length and digest of the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundedText {
    /// The text, or its beginning.
    pub text: String,
    /// Set when `text` is only the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Whole>,
}

/// Stands for bytes that were not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, in hex.
    pub sha256: String,
}

impl Whole {
    fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) }
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('?')
}

impl BoundedText {
    /// Keeps `text`, or its beginning and a digest.
    #[must_use]
    pub fn new(text: &str) -> Self {
        if text.len() <= TEXT_BYTES_MAX {
            return Self { text: text.to_owned(), whole: None };
        }
        let (kept, _) = text.split_at(text.floor_char_boundary(TEXT_BYTES_MAX));
        Self { text: kept.to_owned(), whole: Some(Whole::of(text.as_bytes())) }
    }
}

/// Parameters of one operation, in order; `None` is NULL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parameters(pub Vec<Option<Parameter>>);

impl Parameters {
    /// Keeps values until [`PARAMETER_BYTES_MAX`] is used up; a value that no longer fits is kept as length and digest.
    #[must_use]
    pub fn new<'a>(values: impl IntoIterator<Item = Option<(&'a [u8], u32)>>) -> Self {
        let mut room = PARAMETER_BYTES_MAX;
        let mut keep = |(value, type_oid): (&[u8], u32)| {
            let value = match (room.checked_sub(value.len()), std::str::from_utf8(value)) {
                (None, _) => ParameterValue::Digest(Whole::of(value)),
                (Some(left), text) => {
                    room = left;
                    text.map_or_else(
                        |_| ParameterValue::Base64(base64(value)),
                        |text| ParameterValue::Text(text.to_owned()),
                    )
                }
            };
            Parameter { value, type_oid }
        };
        Self(values.into_iter().map(|value| value.map(&mut keep)).collect())
    }

    /// No parameters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One bound value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// The value as sent.
    #[serde(flatten)]
    pub value: ParameterValue,
    /// PostgreSQL type OID; 0 when the server was to infer it.
    pub type_oid: u32,
}

/// A value's bytes, in the form that keeps them exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterValue {
    /// Bytes that are valid UTF-8.
    Text(String),
    /// Other bytes, RFC 4648 section 4.
    Base64(String),
    /// Too large to keep.
    Digest(Whole),
}

/// What a text was understood to be. Shared, so that a verdict cache can hand it out without copying.
#[derive(Clone, Debug, PartialEq)]
pub struct Statements(pub Arc<[StatementSummary]>);

impl Statements {
    /// The first [`STATEMENTS_MAX`] statements, without what only masking needs.
    #[must_use]
    pub fn new(statements: &[Statement]) -> Self {
        Self(statements.iter().take(STATEMENTS_MAX).map(StatementSummary::from).collect())
    }

    /// One operation that is no statement.
    #[must_use]
    pub fn one(kind: String, effect: Effect, reason: Option<String>) -> Self {
        let (reads, writes, functions) = (Vec::new(), Vec::new(), Vec::new());
        Self([StatementSummary { kind, effect, reason, reads, writes, functions }].into())
    }

    /// The commands of a command line, as rules saw them.
    #[must_use]
    pub fn of_commands(commands: &[Command]) -> Self {
        let summary = |command: &Command| StatementSummary {
            kind: command.kind.clone(),
            effect: command.effect,
            reason: command.reason.clone(),
            reads: Vec::new(),
            writes: Vec::new(),
            functions: Vec::new(),
        };
        Self(commands.iter().take(STATEMENTS_MAX).map(summary).collect())
    }

    /// The highest effect; `Unknown` when there is no statement.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.0.iter().map(|statement| statement.effect).max().unwrap_or(Effect::Unknown)
    }
}

impl Serialize for Statements {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter())
    }
}

impl<'de> Deserialize<'de> for Statements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(|statements| Self(statements.into()))
    }
}

/// One statement, as rules saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementSummary {
    /// Command tag in lower case.
    pub kind: String,
    /// How far it reaches.
    pub effect: Effect,
    /// Why, when the kind alone does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Relations read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<ObjectName>,
    /// Objects written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writes: Vec<ObjectName>,
    /// Functions called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<ObjectName>,
}

impl From<&Statement> for StatementSummary {
    fn from(statement: &Statement) -> Self {
        Self {
            kind: statement.kind.clone(),
            effect: statement.effect,
            reason: statement.reason.clone(),
            reads: statement.reads.clone(),
            writes: statement.writes.clone(),
            functions: statement.functions.clone(),
        }
    }
}

/// RFC 4648 section 4.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let (a, b, c) = (chunk.first().copied().unwrap_or(0), chunk.get(1).copied(), chunk.get(2).copied());
        let group = u32::from(a) << 16 | u32::from(b.unwrap_or(0)) << 8 | u32::from(c.unwrap_or(0));
        for (index, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            if index > chunk.len() {
                text.push('=');
                continue;
            }
            let letter = ALPHABET.get((group >> shift & 63) as usize).copied().unwrap_or(b'=');
            text.push(char::from(letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_rfc_s_vectors() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn what_authenticates_is_not_recorded() {
        let mut headers = http::HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer abc.def"),
            ("cookie", "sid=1234; theme=dark"),
            ("set-cookie", "sid=99; Path=/; HttpOnly"),
            ("x-api-key", "k"),
            ("x-csrf-token", "t"),
            ("accept", "*/*"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let recorded = recorded_headers(&headers);
        let pairs: Vec<_> = recorded.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("authorization", "Bearer [redacted]"),
                ("cookie", "sid=[redacted]; theme=[redacted]"),
                ("set-cookie", "sid=[redacted]; Path=/; HttpOnly"),
                ("x-api-key", "[redacted]"),
                ("x-csrf-token", "[redacted]"),
                ("accept", "*/*"),
            ]
        );
    }

    #[test]
    fn long_text_keeps_its_beginning_and_a_digest() {
        let text = "é".repeat(TEXT_BYTES_MAX);
        let kept = BoundedText::new(&text);
        assert!(kept.text.len() <= TEXT_BYTES_MAX && text.starts_with(&kept.text));
        assert_eq!(kept.whole.unwrap().bytes, text.len() as u64);
        assert_eq!(
            Whole::of(b"abc").sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "FIPS 180-4 example"
        );
        assert_eq!(BoundedText::new("select 1").whole, None);
    }

    #[test]
    fn parameters_keep_their_exact_bytes_within_the_bound() {
        let large = vec![b'x'; PARAMETER_BYTES_MAX - 1];
        let values =
            [None, Some((&b"caf\xc3\xa9"[..], 25)), Some((&b"\xff\x00"[..], 17)), Some((&large[..], 25))];
        let parameters = Parameters::new(values);
        let json = serde_json::to_value(&parameters).unwrap();
        assert_eq!(json[0], serde_json::Value::Null);
        assert_eq!(json[1], serde_json::json!({"text": "café", "type_oid": 25}));
        assert_eq!(json[2], serde_json::json!({"base64": "/wA=", "type_oid": 17}));
        assert_eq!(json[3]["digest"]["bytes"], large.len());
        assert_eq!(serde_json::from_value::<Parameters>(json).unwrap(), parameters);
    }
}
