//! What `[identity]` and conditions on claims are written in.

use globset::GlobMatcher;
use serde_json::{Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{HoldTime, NameGlob, plain, whole_number};
use crate::policy::diagnostic::quoted;
use crate::policy::load::table::{Choice, Findings, List, Read, Word, noun};
use crate::policy::rule::{Algorithm, ClaimIs, ClaimPath, ClaimsWhen, LEEWAY_MAX, OnExpiry};

/// Longest issuer or audience, in characters.
const IDENTIFIER_CHARS_MAX: usize = 512;

impl Choice for OnExpiry {
    const NOUN: &'static str = "a choice for on_expiry";
    const ALL: &'static [(&'static str, Self)] = &[("finish", Self::Finish), ("cut", Self::Cut)];
}

impl Choice for Algorithm {
    const NOUN: &'static str = "a signature algorithm";
    const ALL: &'static [(&'static str, Self)] = &[
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
    ];
}

/// One table, or the same table repeated.
pub(in crate::policy::load) struct OneOrMore<T>(pub(in crate::policy::load) Vec<Spanned<T>>);

impl<T: Read> Read for OneOrMore<T> {
    fn read(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Array(_) => List::read(value, findings).map(|list| Self(list.0)),
            DeValue::Table(_)
            | DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {
                T::read(value, findings).map(|read| Self(vec![Spanned::new(value.span(), read)]))
            }
        }
    }

    fn schema() -> Value {
        json!({ "oneOf": [T::schema(), List::<T>::schema()] })
    }
}

/// An `https://` address, or `http://` on this host.
pub(in crate::policy::load) struct HttpsUrl(pub(in crate::policy::load) String);

impl Word for HttpsUrl {
    const WHAT: &'static str = "an address such as \"https://idp.example.com\"";

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{} is not {}", quoted(text), Self::WHAT);
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let local = || {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if local() => {}
            Some("http") => {
                return Err("keys that come over plain http can be anyone's; write https://".to_owned());
            }
            Some(_) | None => return Err(wrong()),
        }
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) || uri.query().is_some() {
            return Err(format!("{} must have a host, and neither a user nor a query", quoted(text)));
        }
        Ok(Self(text.to_owned()))
    }

    fn pattern() -> Value {
        json!({ "format": "uri" })
    }
}

/// An audience or a client's identifier: opaque text.
pub(in crate::policy::load) struct Identifier(pub(in crate::policy::load) String);

impl Word for Identifier {
    const WHAT: &'static str = "an identifier such as \"portcullis\"";

    fn parse(text: &str) -> Result<Self, String> {
        plain(text, Self::WHAT, IDENTIFIER_CHARS_MAX).map(Self)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1, "maxLength": IDENTIFIER_CHARS_MAX })
    }
}

impl Word for ClaimPath {
    const WHAT: &'static str = "a claim such as \"groups\" or \"realm_access.roles\"";

    fn parse(text: &str) -> Result<Self, String> {
        plain(text, Self::WHAT, IDENTIFIER_CHARS_MAX).map(Self::new)
    }

    fn pattern() -> Value {
        json!({ "minLength": 1, "maxLength": IDENTIFIER_CHARS_MAX })
    }
}

/// `quorum =`.
pub(in crate::policy::load) struct Quorum(pub(in crate::policy::load) u32);

/// Most approvals that a rule may ask for.
const QUORUM_MAX: u32 = 8;

impl Read for Quorum {
    fn read(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        let number = whole_number(value.get_ref()).and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (1..=QUORUM_MAX).contains(number));
        if number.is_none() {
            findings.error(value.span(), format!("expected a number from 1 to {QUORUM_MAX}"));
        }
        number.map(Self)
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 1, "maximum": QUORUM_MAX })
    }
}

/// `leeway =`.
pub(in crate::policy::load) struct Leeway(pub(in crate::policy::load) std::time::Duration);

impl Word for Leeway {
    const WHAT: &'static str = "a time such as \"30s\"";

    fn parse(text: &str) -> Result<Self, String> {
        let HoldTime(time) = HoldTime::parse(text)?;
        if time > LEEWAY_MAX {
            return Err(format!("at most {} s: what has expired must end", LEEWAY_MAX.as_secs()));
        }
        Ok(Self(time))
    }

    fn pattern() -> Value {
        HoldTime::pattern()
    }
}

impl Read for ClaimsWhen {
    fn read(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            findings.error(
                value.span(),
                format!(
                    "expected claims and what they must be, found {}; write {{ repository = \"acme/orders\" }}",
                    noun(value.get_ref())
                ),
            );
            return None;
        };
        let mut conditions = Vec::new();
        gather(table, &mut Vec::new(), &mut conditions, findings);
        if conditions.is_empty() {
            findings.error(value.span(), "no claim is named; name one, or leave the key out");
        }
        Some(Self(conditions))
    }

    fn schema() -> Value {
        json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": { "$comment": "a glob, a list of globs, true, false, a number, or a table of such" },
        })
    }
}

/// Tables lead to claims inside of claims: `claims.realm_access.roles = "dba"`.
fn gather(
    table: &DeTable<'_>,
    path: &mut Vec<String>,
    conditions: &mut Vec<ClaimIs>,
    findings: &mut Findings<'_>,
) {
    for (name, value) in table {
        path.push(name.get_ref().as_ref().to_owned());
        match value.get_ref() {
            DeValue::Table(inner) => gather(inner, path, conditions, findings),
            DeValue::Array(items) => {
                let any: Vec<GlobMatcher> = items.iter().filter_map(|item| scalar(item, findings)).collect();
                if items.is_empty() {
                    findings.error(value.span(), "the list is empty; name at least one value");
                }
                conditions.push(ClaimIs { path: path.clone(), any });
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {
                let any = scalar(value, findings).into_iter().collect();
                conditions.push(ClaimIs { path: path.clone(), any });
            }
        }
        path.pop();
    }
}

fn scalar(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<GlobMatcher> {
    let text = match value.get_ref() {
        DeValue::String(text) => text.as_ref().to_owned(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        other @ (DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_)) => {
            findings.error(
                value.span(),
                format!("expected a text, a number, true or false, found {}", noun(other)),
            );
            return None;
        }
    };
    NameGlob::parse(&text).map_err(|message| findings.error(value.span(), message)).ok().map(|glob| glob.0)
}
