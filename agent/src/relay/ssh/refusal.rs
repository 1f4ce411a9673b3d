//! What a client of SSH is told when something is refused: a line on stderr and an exit status that is not the command's.

use crate::gate::Denial;
use crate::upstream::ssh::SshError;

/// What a shell says of a command that it may not run (POSIX, exit status of commands).
pub(super) const NOT_PERMITTED: u32 = 126;

/// What ssh(1) says of its own failures.
pub(super) const CONNECTION_FAILED: u32 = 255;

/// What goes to the client instead of what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Whole lines.
    pub(super) text: String,
    /// In place of the command's.
    pub(super) exit_status: u32,
}

impl Refusal {
    /// The policy or a human says no, or we cannot.
    pub(super) fn denied(denial: &Denial) -> Self {
        let mut text = format!("portcullis: {} (rule: {})\n", denial.reason, denial.rule);
        if let Some(approval) = &denial.approval {
            text.push_str(&format!("portcullis: approval {}\n", approval.id.code()));
        }
        if let Some(hint) = &denial.hint {
            text.push_str(&format!("portcullis: {hint}\n"));
        }
        Self { text, exit_status: NOT_PERMITTED }
    }

    /// The server cannot be used.
    pub(super) fn no_server(error: &SshError) -> Self {
        Self { text: format!("portcullis: {}\n", error.told()), exit_status: CONNECTION_FAILED }
    }

    /// Something between us and the server went wrong after it was reached.
    pub(super) fn failed(what: &str) -> Self {
        Self { text: format!("portcullis: {what}\n"), exit_status: CONNECTION_FAILED }
    }

    /// As it goes out, with a terminal's line ends where there is one.
    pub(super) fn bytes(&self, terminal: bool) -> Vec<u8> {
        if terminal { self.text.replace('\n', "\r\n").into_bytes() } else { self.text.clone().into_bytes() }
    }
}
