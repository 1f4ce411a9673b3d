//! Rules that are tried out: what they would have done is recorded and counted, and nothing else.

use super::Verdict;

/// `mode =`, of a rule or of a whole policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It decides. The default.
    #[default]
    Enforce,
    /// It is asked, and what it says is noted.
    Shadow,
}

/// What a rule that is only tried out would have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// The rule.
    pub rule: String,
    /// Deny or hold.
    pub verdict: ShadowVerdict,
}

/// What would have kept an operation from passing. Ordered by how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShadowVerdict {
    /// A human would have been asked.
    Hold,
    /// It would have been refused.
    Deny,
}

impl ShadowVerdict {
    /// As people are told: `denied`, `held`.
    #[must_use]
    pub fn participle(self) -> &'static str {
        match self {
            Self::Hold => "held",
            Self::Deny => "denied",
        }
    }
}

impl Shadow {
    /// What `verdict` would have done; `None` for one that allows.
    #[must_use]
    pub fn of(verdict: &Verdict) -> Option<Self> {
        let of = |rule: &str, verdict| Some(Self { rule: rule.to_owned(), verdict });
        match verdict {
            Verdict::Allow { .. } => None,
            Verdict::Deny { rule, .. } => of(rule, ShadowVerdict::Deny),
            Verdict::Hold { rule, .. } => of(rule, ShadowVerdict::Hold),
        }
    }

    /// The stricter of both; the first one when they are alike.
    #[must_use]
    pub fn stricter(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) if other.verdict > one.verdict => Some(other),
            (Some(one), _) => Some(one),
            (None, other) => other,
        }
    }
}
