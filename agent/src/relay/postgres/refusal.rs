//! What the client is told when something does not pass: PostgreSQL's own error fields, so that every driver shows
//! what was refused, by which rule, and what to do.

use bytes::BytesMut;

use crate::codec::postgres::report::{OwnReport, Severity};
use crate::codec::postgres::sqlstate::{self, SqlState};
use crate::gate::Denial;

/// An error of ours, ready for the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Five-character code.
    pub(crate) sqlstate: SqlState,
    /// Primary message.
    pub(crate) message: String,
    /// Which rule, which approval.
    pub(crate) detail: Option<String>,
    /// What to do.
    pub(crate) hint: Option<String>,
}

impl Refusal {
    pub(crate) fn new(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), detail: None, hint: None }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Policy said no, or a human did, or nobody decided.
    pub(crate) fn denied(denial: &Denial) -> Self {
        Self {
            sqlstate: sqlstate::INSUFFICIENT_PRIVILEGE,
            message: format!("portcullis: {}", denial.reason),
            detail: Some(denial.detail()),
            hint: denial.hint.clone(),
        }
    }

    /// The session goes on after it.
    pub(crate) fn error(&self) -> BytesMut {
        self.response(Severity::Error)
    }

    /// The session ends with it.
    pub(crate) fn fatal(&self) -> BytesMut {
        self.response(Severity::Fatal)
    }

    fn response(&self, severity: Severity) -> BytesMut {
        let mut report = OwnReport::new(severity, self.sqlstate, self.message.as_str());
        if let Some(detail) = &self.detail {
            report = report.detail(detail.as_str());
        }
        if let Some(hint) = &self.hint {
            report = report.hint(hint.as_str());
        }
        let mut bytes = BytesMut::new();
        report.write(&mut bytes);
        bytes
    }
}
