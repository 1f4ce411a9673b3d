//! What a reviewer is asked to decide, and the digest that ties the decision to it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::flow::{OriginalDst, Process, RunId, SessionId};
use crate::policy::rule::{ChatUse, PolicyVersion, StepUp};
use crate::request::side_effects::SideEffects;
use crate::request::{Effect, ObjectName};
use crate::run::Subject;

/// Bytes of a statement shown to a reviewer. The digest covers all of it; what is cut is said.
pub const STATEMENT_SHOWN_BYTES_MAX: usize = 16 * 1024;
/// Parameters shown to a reviewer.
pub const PARAMETERS_SHOWN_MAX: usize = 64;
/// Bytes shown of one parameter.
pub const PARAMETER_SHOWN_BYTES_MAX: usize = 256;

/// SHA-256 over everything a decision binds: see [`Request::digest`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hex digits")]
pub struct NotADigest;

impl std::str::FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut bytes = [0; 32];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(NotADigest);
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            // `from_str_radix` alone would take a sign.
            let digits = std::str::from_utf8(pair).map_err(|_| NotADigest)?;
            if !pair.iter().all(u8::is_ascii_hexdigit) {
                return Err(NotADigest);
            }
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A statement and its parameters: the exact bytes as a digest, and as much of them as is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The statement, cut after [`STATEMENT_SHOWN_BYTES_MAX`]; invalid UTF-8 replaced. Not escaped: whoever prints it
    /// escapes control and bidirectional characters.
    pub statement: String,
    /// Length of the whole statement, in bytes.
    pub statement_bytes: u64,
    /// The first parameters, each cut; `None` is NULL.
    pub parameters: Vec<Option<String>>,
    /// How many parameters there are.
    pub parameter_count: u64,
    /// SHA-256 of the exact statement and parameters, lengths included.
    pub sha256: Digest,
}

impl Content {
    /// The same, of an operation of which this is not all.
    #[must_use]
    pub fn cut_short(self) -> Self {
        Self { statement_bytes: self.statement_bytes.saturating_add(1), ..self }
    }

    /// Digests the exact statement and parameters, and cuts what is shown of them: `shown` are the same parameters as
    /// people read them (a binary integer as a number).
    #[must_use]
    pub fn new(statement: &[u8], parameters: &[Option<&[u8]>], shown: &[Option<&[u8]>]) -> Self {
        let mut hash = Fields::new("portcullis content 1");
        hash.bytes(statement);
        hash.number(parameters.len());
        for parameter in parameters {
            match parameter {
                Some(value) => {
                    hash.number(1);
                    hash.bytes(value);
                }
                None => hash.number(0),
            }
        }
        Self {
            statement: cut(statement, STATEMENT_SHOWN_BYTES_MAX),
            statement_bytes: u64::try_from(statement.len()).unwrap_or(u64::MAX),
            parameters: shown
                .iter()
                .take(PARAMETERS_SHOWN_MAX)
                .map(|parameter| parameter.map(|value| cut(value, PARAMETER_SHOWN_BYTES_MAX)))
                .collect(),
            parameter_count: u64::try_from(parameters.len()).unwrap_or(u64::MAX),
            sha256: hash.finish(),
        }
    }
}

/// One operation that waits for a human.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The run that asks.
    pub run: RunId,
    /// Recording of the connection it asks on.
    pub session: SessionId,
    /// The process that opened the connection.
    pub process: Process,
    /// Whom the run acts for.
    pub subject: Subject,
    /// Connection profile.
    pub connection: String,
    /// Where the connection goes.
    pub destination: OriginalDst,
    /// Database, where the protocol has them.
    pub database: Option<String>,
    /// What would be executed.
    pub content: Content,
    /// Command tags of its statements, in order.
    pub kinds: Vec<String>,
    /// The highest effect.
    pub effect: Effect,
    /// Objects read or written.
    pub objects: Vec<ObjectName>,
    /// The planner's estimate; `None` when there is none.
    pub estimated_rows: Option<u64>,
    /// What it sets off besides, where it writes to relations of a database. `None`: nobody was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side_effects: Option<SideEffects>,
    /// The guard that holds it.
    pub rule: String,
    /// Policy name.
    pub policy: String,
    /// Policy version.
    pub policy_version: PolicyVersion,
    /// Groups or `user:NAME` that may decide; empty: operators.
    pub approvers: Vec<String>,
    /// How many of them have to approve: distinct persons.
    #[serde(default = "one")]
    pub quorum: u32,
    /// Whether each of those has to stand for another of the approvers named.
    #[serde(default)]
    pub distinct_groups: bool,
    /// Groups or `user:NAME` whose word alone is enough in an emergency.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub break_glass: Vec<String>,
    /// What chats may be used for.
    #[serde(default)]
    pub chat: ChatUse,
    /// What whoever approves must have proved of themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up: Option<StepUp>,
    /// What statements of the same shape have in common, where the protocol has such: the statement with its literals taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    /// What besides gives the operation its meaning, so that a later one is the same only if this is: the schemas that names are
    /// looked up in, formats and types of parameters, header fields. `None`: no later operation can be told to be the same, so
    /// its client waits, and an approval is for this one alone.
    #[serde(default)]
    pub again: Option<String>,
    /// Locks may be held while it waits.
    pub in_transaction: bool,
    /// How long it waits before it is denied. Reviewers are told the end instead: `Entry::expires_ms`.
    #[serde(skip)]
    pub timeout: Duration,
    /// How long its client waits before it is told to come again; `None`: until it is decided.
    #[serde(skip)]
    pub patience: Option<Duration>,
}

fn one() -> u32 {
    1
}

impl Request {
    /// What a decision binds: the exact bytes and parameters, the target, the subject, the run, and the rule of the
    /// policy version that holds it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hash = Fields::new("portcullis approval 2");
        hash.bytes(&self.content.sha256.0);
        hash.bytes(self.session.to_string().as_bytes());
        hash.bytes(self.shape.as_deref().unwrap_or_default().as_bytes());
        self.circumstances(hash)
    }

    /// Whether another request asks for the same: the same bytes to the same target, in the same run, for the same subject,
    /// held by the same rule of the same policy version. On whichever connection.
    #[must_use]
    pub fn is_same_operation(&self, other: &Self) -> bool {
        let digest = |request: &Self| {
            let mut hash = Fields::new("portcullis operation 1");
            hash.bytes(&request.content.sha256.0);
            request.circumstances(hash)
        };
        self.again.is_some()
            && self.again == other.again
            && self.content.sha256 == other.content.sha256
            && digest(self) == digest(other)
    }

    /// Whether another request asks for a statement of the same shape, under the same circumstances.
    #[must_use]
    pub fn has_shape_of(&self, other: &Self) -> bool {
        let digest = |request: &Self| request.circumstances(Fields::new("portcullis shape 1"));
        let rows = |request: &Self| request.estimated_rows.unwrap_or(u64::MAX);
        self.again.is_some()
            && self.again == other.again
            && self.shape.is_some()
            && self.shape == other.shape
            // More rows than the reviewer saw are another matter.
            && (self.estimated_rows.is_none() || rows(other) <= rows(self))
            && digest(self) == digest(other)
    }

    /// Where, for whom and by which rule.
    fn circumstances(&self, mut hash: Fields) -> Digest {
        let identity = self.subject.identity.as_ref();
        for text in [
            self.run.to_string().as_str(),
            identity.map_or("", |identity| &identity.issuer),
            identity.map_or("", |identity| &identity.subject),
            // Also who else its token speaks of: jobs of several people may have one subject.
            identity.map_or("", |identity| &identity.meaning),
            self.destination.to_string().as_str(),
            self.connection.as_str(),
            self.database.as_deref().unwrap_or_default(),
            self.subject.user.as_str(),
            self.rule.as_str(),
            self.policy.as_str(),
            self.policy_version.as_str(),
            self.again.as_deref().unwrap_or_default(),
            self.effect.to_string().as_str(),
        ] {
            hash.bytes(text.as_bytes());
        }
        hash.number(self.kinds.len());
        self.kinds.iter().for_each(|kind| hash.bytes(kind.as_bytes()));
        hash.number(self.objects.len());
        self.objects.iter().for_each(|object| hash.bytes(object.to_string().as_bytes()));
        // What was shown of it has to be there still, but for numbers.
        if let Some(found) = &self.side_effects {
            hash.bytes(b"side effects");
            hash.bytes(found.bound().as_bytes());
        }
        hash.number(usize::try_from(self.subject.uid).unwrap_or(usize::MAX));
        hash.number(usize::try_from(self.process.uid).unwrap_or(usize::MAX));
        // An approval that asked less of whoever gave it covers nothing that asks more.
        if let Some(step_up) = &self.step_up {
            hash.bytes(step_up.to_string().as_bytes());
        }
        hash.finish()
    }
}

/// A hash over fields whose boundaries count: every field is preceded by its length.
pub(crate) struct Fields(Sha256);

impl Fields {
    pub(crate) fn new(domain: &str) -> Self {
        let mut fields = Self(Sha256::new());
        fields.bytes(domain.as_bytes());
        fields
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.update(bytes);
    }

    pub(crate) fn number(&mut self, number: usize) {
        self.0.update(u64::try_from(number).unwrap_or(u64::MAX).to_be_bytes());
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// The first bytes as text, not ending inside a character.
fn cut(bytes: &[u8], max: usize) -> String {
    let mut text = String::from_utf8_lossy(bytes.get(..max).unwrap_or(bytes)).into_owned();
    if bytes.len() > max && text.ends_with(char::REPLACEMENT_CHARACTER) {
        text.pop();
    }
    text
}
