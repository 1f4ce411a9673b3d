//! The words a policy file is written in: names, times, sizes, destinations, patterns. Each says what is wrong with
//! it and what to write instead.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use toml::Spanned;
use toml::de::DeValue;

use super::table::{Choice, Findings, Read, Word, noun};
use crate::mask::{Detector, Method, Predicates};
use crate::policy::DEFAULT_RULE;
use crate::policy::diagnostic::quoted;
use crate::policy::rule::{
    ChatUse, Egress, HOLD_TIME_MAX, InTransaction, Protocol, RESULT_BYTES_LIMIT, RowBound, UnknownOrigin,
    UpstreamTls,
};
use crate::request::Effect;
use crate::request::sql::catalogue::Volatility;

pub(super) use claims::{HttpsUrl, Identifier, Leeway, OneOrMore, Quorum};
pub(super) use http::{FieldGlob, HeaderPattern, HostGlob, HttpMethod, QueryPattern};
pub(super) use limits::{BudgetWindow, Count, StatementTime, ZoneName};
pub(super) use pattern::{CgroupGlob, KindGlob, NameGlob, UnitGlob};
pub(super) use place::{HostName, HostPort};
pub(super) use proof::{Acr, ProofAge};
pub(super) use settings::Settings;
pub(super) use ssh::{CommandGlob, Folder, HostKey, LoginMethod, PathGlob};

mod claims;
mod http;
mod limits;
mod pattern;
mod place;
mod proof;
mod settings;
mod ssh;

/// The only version of the file's shape so far.
const VERSION: &str = "1";

/// Longest name, in characters.
const NAME_CHARS_MAX: usize = 120;

/// Longest hint shown to a client, in characters.
const HINT_CHARS_MAX: usize = 500;

impl Choice for Effect {
    const NOUN: &'static str = "an effect";
    const ALL: &'static [(&'static str, Self)] = &[
        ("read", Self::Read),
        ("write", Self::Write),
        ("ddl", Self::Ddl),
        ("admin", Self::Admin),
        ("unknown", Self::Unknown),
    ];
}

impl Choice for Volatility {
    const NOUN: &'static str = "a volatility";
    const ALL: &'static [(&'static str, Self)] =
        &[("immutable", Self::Immutable), ("stable", Self::Stable), ("volatile", Self::Volatile)];
}

impl Choice for Protocol {
    const NOUN: &'static str = "a protocol";
    const ALL: &'static [(&'static str, Self)] =
        &[("http", Self::Http), ("postgres", Self::Postgres), ("ssh", Self::Ssh), ("opaque", Self::Opaque)];
    const LATER: &'static [&'static str] = &["kubernetes"];
}

impl Choice for Egress {
    const NOUN: &'static str = "a choice for [egress] default";
    const ALL: &'static [(&'static str, Self)] = &[("deny", Self::Deny), ("record", Self::Record)];
}

impl Choice for UpstreamTls {
    const NOUN: &'static str = "a choice for tls";
    const ALL: &'static [(&'static str, Self)] =
        &[("verify-full", Self::VerifyFull), ("verify-ca", Self::VerifyCa), ("disable", Self::Disable)];
}

impl Choice for InTransaction {
    const NOUN: &'static str = "a choice for in_transaction";
    const ALL: &'static [(&'static str, Self)] = &[("hold", Self::Hold), ("refuse", Self::Refuse)];
}

impl Choice for ChatUse {
    const NOUN: &'static str = "a use of chats";
    const ALL: &'static [(&'static str, Self)] =
        &[("decide", Self::Decide), ("link", Self::Link), ("none", Self::None)];
}

impl Choice for UnknownOrigin {
    const NOUN: &'static str = "a choice for unknown_origin";
    const ALL: &'static [(&'static str, Self)] =
        &[("mask", Self::Mask), ("hold", Self::Hold), ("deny", Self::Deny)];
}

impl Choice for Predicates {
    const NOUN: &'static str = "a choice for predicates";
    const ALL: &'static [(&'static str, Self)] =
        &[("allow", Self::Allow), ("equality", Self::Equality), ("hold", Self::Hold), ("deny", Self::Deny)];
}

impl Choice for Method {
    const NOUN: &'static str = "a way to mask";
    const ALL: &'static [(&'static str, Self)] =
        &[("redact", Self::Redact), ("partial", Self::Partial), ("hash", Self::Hash), ("null", Self::Null)];
}

impl Choice for Detector {
    const NOUN: &'static str = "a detector";
    const ALL: &'static [(&'static str, Self)] = &[
        ("api-key", Self::ApiKey),
        ("aws-key", Self::AwsKey),
        ("email", Self::Email),
        ("iban", Self::Iban),
        ("jwt", Self::Jwt),
        ("payment-card", Self::PaymentCard),
        ("password-in-url", Self::PasswordInUrl),
        ("private-key", Self::PrivateKey),
    ];
}

/// `action =`, before its terms are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Allow,
    Deny,
    Hold,
}

impl Choice for Act {
    const NOUN: &'static str = "an action";
    const ALL: &'static [(&'static str, Self)] =
        &[("allow", Self::Allow), ("deny", Self::Deny), ("hold", Self::Hold)];
}

/// `version =`: the shape of the file.
pub(super) struct Version;

impl Read for Version {
    fn read(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Integer(number) if number.as_str() == VERSION && number.radix() == 10 => Some(Self),
            DeValue::Integer(number) => {
                findings.error(value.span(), format!("version {number} is unknown here; write {VERSION}"));
                None
            }
            other @ (DeValue::String(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_)) => {
                findings.error(value.span(), format!("expected the number {VERSION}, found {}", noun(other)));
                None
            }
        }
    }

    fn schema() -> Value {
        json!({ "const": 1 })
    }
}

/// What every text must be: something, bounded, on one line.
fn plain(text: &str, what: &str, chars_max: usize) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err(format!("expected {what}, found an empty string"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{} has a control character; {what} is one line of plain text", quoted(text)));
    }
    if text.chars().nth(chars_max).is_some() {
        return Err(format!("{} is too long; {what} has at most {chars_max} characters", quoted(text)));
    }
    Ok(text.to_owned())
}

/// A name that is also typed on command lines and used in paths.
pub(super) struct Slug(pub(super) String);

impl Word for Slug {
    const WHAT: &'static str = "a name such as \"crewai\"";

    fn parse(text: &str) -> Result<Self, String> {
        let valid = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
        if valid {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "{} cannot be a name here: use lower-case letters, digits, '-' and '_', at most 64, starting with a \
             letter or digit",
            quoted(text)
        ))
    }

    fn pattern() -> Value {
        json!({ "pattern": "^[a-z0-9][a-z0-9_-]{0,63}$" })
    }
}

/// A guard's name: free text, shown to clients and approvers.
pub(super) struct RuleName(pub(super) String);

impl Word for RuleName {
    const WHAT: &'static str = "a name such as \"no destructive DDL\"";

    fn parse(text: &str) -> Result<Self, String> {
        let text = plain(text, Self::WHAT, NAME_CHARS_MAX)?;
        if text.eq_ignore_ascii_case(DEFAULT_RULE) {
            return Err("\"default\" is how verdicts name [defaults]; choose another name".to_owned());
        }
        if text.contains('"') {
            return Err(format!("{} contains a double quote; leave it out", quoted(&text)));
        }
        Ok(Self(text))
    }

    fn pattern() -> Value {
        json!({ "minLength": 1, "maxLength": NAME_CHARS_MAX, "pattern": "^[^\"\\u0000-\\u001f]+$" })
    }
}

/// A user, group, role or database name: not ours, so only its form is checked.
pub(super) struct Name(pub(super) String);

impl Word for Name {
    const WHAT: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, String> {
        plain(text, Self::WHAT, NAME_CHARS_MAX).map(Self)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1, "maxLength": NAME_CHARS_MAX })
    }
}

/// `hint =`: what a refused client is told to do instead.
pub(super) struct Hint(pub(super) String);

impl Word for Hint {
    const WHAT: &'static str = "a hint";

    fn parse(text: &str) -> Result<Self, String> {
        plain(text, Self::WHAT, HINT_CHARS_MAX).map(Self)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1, "maxLength": HINT_CHARS_MAX })
    }
}

/// Who may decide a hold: a Unix group, or one user as `user:alice`.
pub(super) struct Approver(pub(super) String);

impl Word for Approver {
    const WHAT: &'static str = "a group such as \"dba\" or a user such as \"user:alice\"";

    fn parse(text: &str) -> Result<Self, String> {
        let text = plain(text, Self::WHAT, NAME_CHARS_MAX)?;
        match text.split_once(':') {
            None => Ok(Self(text)),
            Some(("user", name)) if !name.trim().is_empty() => Ok(Self(text)),
            Some(_) => Err(format!("{} is not {}", quoted(&text), Self::WHAT)),
        }
    }

    fn pattern() -> Value {
        json!({ "minLength": 1, "pattern": "^(user:)?[^:]+$" })
    }
}

/// A number without a fraction or a sign, in decimal.
fn whole_number(value: &DeValue<'_>) -> Option<u64> {
    match value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
        DeValue::Integer(_)
        | DeValue::String(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    }
}

/// A whole number of seconds, minutes or hours.
fn whole_time(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{} is not a time; write a whole number and s, m or h, such as \"15m\"", quoted(text));
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number = digits.parse::<u64>().map_err(|_| wrong())?;
    let seconds = match text.strip_prefix(digits) {
        Some("s") => number,
        Some("m") => number.saturating_mul(60),
        Some("h") => number.saturating_mul(3600),
        Some(_) | None => return Err(wrong()),
    };
    Ok(Duration::from_secs(seconds))
}

/// `hold =`: how long an operation waits for a human.
pub(super) struct HoldTime(pub(super) Duration);

impl Word for HoldTime {
    const WHAT: &'static str = "a time such as \"15m\"";

    fn parse(text: &str) -> Result<Self, String> {
        let time = whole_time(text)?;
        if time.is_zero() {
            return Err("nobody can decide in no time; write action = \"deny\" instead".to_owned());
        }
        if time > HOLD_TIME_MAX {
            return Err(format!(
                "{} is too long: a held statement keeps its connection; at most {} h",
                quoted(text),
                HOLD_TIME_MAX.as_secs() / 3600
            ));
        }
        Ok(Self(time))
    }

    fn pattern() -> Value {
        json!({ "pattern": "^[0-9]+[smh]$" })
    }
}

/// `result_bytes =`.
pub(super) struct ByteSize(pub(super) u64);

impl Word for ByteSize {
    const WHAT: &'static str = "a size such as \"16MiB\"";

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{} is not a size; write a whole number and B, KiB, MiB or GiB, such as \"16MiB\"",
                quoted(text)
            )
        };
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let number = digits.parse::<u64>().map_err(|_| wrong())?;
        let unit: u64 = match text.strip_prefix(digits).map(str::trim_start) {
            Some("B") => 1,
            Some("KiB") => 1 << 10,
            Some("MiB") => 1 << 20,
            Some("GiB") => 1 << 30,
            Some(_) | None => return Err(wrong()),
        };
        let bytes = number.saturating_mul(unit);
        if bytes > RESULT_BYTES_LIMIT {
            return Err(format!("{} is too large; at most {} MiB", quoted(text), RESULT_BYTES_LIMIT >> 20));
        }
        Ok(Self(bytes))
    }

    fn pattern() -> Value {
        json!({ "pattern": "^[0-9]+ *(B|KiB|MiB|GiB)$" })
    }
}

impl Word for RowBound {
    const WHAT: &'static str = "a bound such as \"> 1000\"";

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.trim_start_matches(['<', '>', '=']);
        let number = digits.trim().replace('_', "");
        let number = if number.bytes().all(|b| b.is_ascii_digit()) { number.parse().ok() } else { None };
        match (text.strip_suffix(digits), number) {
            (Some(">"), Some(rows)) => Ok(Self::Above(rows)),
            (Some(">="), Some(rows)) => Ok(Self::AtLeast(rows)),
            (Some("<"), Some(rows)) => Ok(Self::Below(rows)),
            (Some("<="), Some(rows)) => Ok(Self::AtMost(rows)),
            (_, _) => Err(format!(
                "{} is not a bound; write >, >=, < or <= and a whole number, such as \"> 1000\"",
                quoted(text)
            )),
        }
    }

    fn pattern() -> Value {
        json!({ "pattern": "^ *(>|>=|<|<=) *[0-9][0-9_]* *$" })
    }
}

/// `credential =`: a file name in the credentials folder, never a path out of it.
pub(super) struct CredentialName(pub(super) String);

impl Word for CredentialName {
    const WHAT: &'static str = "the name of a credential";

    fn parse(text: &str) -> Result<Self, String> {
        let valid = (1..=128).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if valid {
            return Ok(Self(text.to_owned()));
        }
        // The value is not repeated: somebody may have pasted the password itself.
        Err("this cannot be the name of a credential: it is a file in the credentials folder, named with letters, \
             digits, '.', '-' and '_'; the secret itself never stands in a policy"
            .to_owned())
    }

    fn pattern() -> Value {
        json!({ "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$" })
    }
}

/// `root_cert =`.
pub(super) struct AbsolutePath(pub(super) PathBuf);

impl Word for AbsolutePath {
    const WHAT: &'static str = "an absolute path";

    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') && !text.chars().any(char::is_control) {
            return Ok(Self(PathBuf::from(text)));
        }
        Err(format!("{} is not an absolute path; start it with '/'", quoted(text)))
    }

    fn pattern() -> Value {
        json!({ "pattern": "^/" })
    }
}
