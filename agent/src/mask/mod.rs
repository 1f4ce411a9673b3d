//! Masks: how one value is rewritten before the agent and the recording see it. Pure.

use serde::{Deserialize, Serialize};

pub mod catalog;
pub mod cell;
pub mod copy;
pub mod dependence;
pub mod detect;
pub mod file;
pub mod http;
pub mod method;
pub mod plan;
pub mod terminal;
pub mod types;

pub use catalog::{ColumnRule, MaskCatalog};
pub use cell::{DetectedCell, MaskedCell, Overwriter, detect_cell, mask_cell};
pub use dependence::{Answer, Dependence, Predicates, Terms, dependence};
pub use detect::stream::StreamScanner;
pub use detect::{Findings, Scanner};
pub use method::HashKey;
pub use plan::{CellAction, ErrorTexts, Field, ResultPlan, Taint};
pub use types::Format;

/// How a value is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A keyed digest: equal values stay equal, nothing else can be told.
    Hash,
    /// NULL.
    Null,
    /// Enough of the end to recognise it (`**** **** **** 1111`).
    Partial,
    /// A fixed text.
    Redact,
}

/// What a detector finds in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detector {
    /// Cloud and SaaS API keys with a fixed prefix (Google, GitHub, GitLab, Slack, Stripe, OpenAI, Anthropic, npm, PyPI …).
    ApiKey,
    /// AWS access key ids and the secret keys beside them.
    AwsKey,
    /// RFC 5321 mailbox in the form people write.
    Email,
    /// ISO 13616 account number, checked modulo 97.
    Iban,
    /// RFC 7519 token.
    Jwt,
    /// Payment card number, checked with Luhn's algorithm (ISO/IEC 7812).
    PaymentCard,
    /// Password inside a URL's authority.
    PasswordInUrl,
    /// PEM private key block.
    PrivateKey,
}

impl Detector {
    /// As policy files spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiKey => "api-key",
            Self::AwsKey => "aws-key",
            Self::Email => "email",
            Self::Iban => "iban",
            Self::Jwt => "jwt",
            Self::PasswordInUrl => "password-in-url",
            Self::PaymentCard => "payment-card",
            Self::PrivateKey => "private-key",
        }
    }
}
