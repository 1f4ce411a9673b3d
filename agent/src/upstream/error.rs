//! What can go wrong between us and the real server: whose fault it is, what the client is told, what the log says.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use crate::credential::CredentialError;
use crate::flow::Side;
use crate::tls::upstream_side::TrustError;

/// Longest text kept of a server's error message, in characters.
const REPORT_CHARS_MAX: usize = 1024;

/// SQLSTATE `sqlclient_unable_to_establish_sqlconnection`: nothing is known to be wrong with what the client sent.
const CANNOT_CONNECT: &str = "08001";
/// SQLSTATE `sqlserver_rejected_establishment_of_sqlconnection`.
const REJECTED: &str = "08004";
/// SQLSTATE `protocol_violation`.
const PROTOCOL_VIOLATION: &str = "08P01";

/// Why a server could not be reached, verified, logged in to or understood. `Display` is the log's text.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// Its name has no address.
    #[error("the address of {host} cannot be found: correct the profile's address, or the host's resolver")]
    Resolve {
        /// As in the profile.
        host: String,
        /// The resolver's word.
        #[source]
        source: io::Error,
    },
    /// No TCP connection.
    #[error("cannot connect to {address}: is the server running, and listening there?")]
    Connect {
        /// What was dialled.
        address: SocketAddr,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("{stage} with {address} took longer than {limit:?}")]
    TimedOut {
        /// What was going on.
        stage: Stage,
        /// Which server.
        address: SocketAddr,
        /// What it was given.
        limit: Duration,
    },
    /// It answered SSLRequest with 'N'. Never a reason to go on without.
    #[error(
        "{address} offers no TLS: switch ssl on there, or set tls = \"disable\" in the profile if it is local"
    )]
    TlsNotOffered {
        /// Which server.
        address: SocketAddr,
    },
    /// Its certificate was refused.
    #[error("the certificate of {address} is refused: {problem}")]
    Certificate {
        /// Which server.
        address: SocketAddr,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The connection broke.
    #[error("{stage} with {address} failed")]
    Broken {
        /// What was going on.
        stage: Stage,
        /// Which server.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The roots to verify it with are not usable.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It was reached, and we could not log in.
    #[error(transparent)]
    Login(#[from] LoginProblem),
    /// It reported an error of its own: no such database, too many connections, shutting down.
    #[error("the server reported {0}")]
    Server(Box<ServerReport>),
    /// It does not speak HTTP, or broke off while we began to.
    #[error("HTTP with {address} could not be begun: {detail}")]
    Http {
        /// Which server.
        address: SocketAddr,
        /// What went wrong.
        detail: String,
    },
    /// The proxy on the way to it opens no tunnel.
    #[error("the proxy {proxy} opens no tunnel: {detail}")]
    Proxy {
        /// Which proxy.
        proxy: SocketAddr,
        /// What it did instead.
        detail: String,
    },
    /// It does not speak the protocol.
    #[error("the server violated the PostgreSQL protocol: {detail}")]
    Protocol {
        /// Where.
        detail: String,
    },
}

/// Why the server would not let us in.
#[derive(Debug, Error)]
pub enum LoginProblem {
    /// It wants a password and the profile has none.
    #[error(
        "the server asks for a password ({method}) and the profile names no credential: add `credential = …`"
    )]
    NoCredential {
        /// The method it asked for.
        method: &'static str,
    },
    /// The credential cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// It did not accept the user or the password.
    #[error(
        "the server does not accept the profile's credential for user \"{user}\" ({report}): correct the \
             credential, or the server's pg_hba.conf"
    )]
    Rejected {
        /// Whom we logged in as.
        user: String,
        /// Its word.
        report: Box<ServerReport>,
    },
    /// It did not accept the password that the client gave, which the policy passes through.
    #[error("the server does not accept the client's own password for user \"{user}\" ({report})")]
    NotTheirs {
        /// Whom we logged in as.
        user: String,
        /// Its word.
        report: Box<ServerReport>,
    },
    /// It wants the password in the clear, over a connection that others could read.
    #[error(
        "the server asks for the password in the clear without TLS: set tls = \"verify-full\" in the profile"
    )]
    Cleartext,
    /// A method that Portcullis does not have.
    #[error(
        "the server asks for {method} authentication, which Portcullis does not offer: let pg_hba.conf say \
             scram-sha-256 for user \"{user}\""
    )]
    Unsupported {
        /// What it asked for.
        method: String,
        /// Whom we log in as.
        user: String,
    },
    /// It could not show that it knows the password, or garbled the exchange.
    #[error("the server failed to prove itself in the SCRAM exchange ({reason}): it may be an impostor")]
    Unproven {
        /// What was wrong.
        reason: String,
    },
    /// It did not take a setting that statement analysis relies on.
    #[error(
        "the server left {parameter} at {value:?}, where statement analysis needs {needed:?}: is a pooler in \
             between that drops start-up parameters?"
    )]
    NotPinned {
        /// Which.
        parameter: &'static str,
        /// What the server reports, if anything.
        value: Option<String>,
        /// What it has to be.
        needed: &'static str,
    },
}

/// What was going on when the server failed us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// TCP connection.
    Connecting,
    /// SSLRequest and TLS handshake.
    Tls,
    /// Start-up and authentication.
    Login,
    /// One of our own queries.
    Query,
    /// A CancelRequest.
    Cancel,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Tls => "the TLS handshake",
            Self::Login => "the login",
            Self::Query => "a query of Portcullis's own",
            Self::Cancel => "a cancel request",
        })
    }
}

impl UpstreamError {
    /// A protocol violation.
    pub(crate) fn protocol(detail: impl Into<String>) -> Self {
        Self::Protocol { detail: detail.into() }
    }

    /// HTTP could not be begun on a connection.
    pub(crate) fn http(address: SocketAddr, error: &dyn std::error::Error) -> Self {
        Self::Http { address, detail: error.to_string() }
    }

    /// Whose fault it was. What an operator of this host has to repair is ours, the rest is the server's.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Resolve { .. } | Self::Trust(_) => Side::Portcullis,
            Self::Login(problem) => problem.side(),
            Self::Connect { .. }
            | Self::TimedOut { .. }
            | Self::TlsNotOffered { .. }
            | Self::Certificate { .. }
            | Self::Broken { .. }
            | Self::Http { .. }
            | Self::Proxy { .. }
            | Self::Server(_)
            | Self::Protocol { .. } => Side::Upstream,
        }
    }

    /// What the client's driver may branch on. A wrong credential is ours: `28P01` would send the agent looking for
    /// a password of its own.
    #[must_use]
    pub fn sqlstate(&self) -> &str {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::TimedOut { .. }
            | Self::TlsNotOffered { .. }
            | Self::Certificate { .. }
            | Self::Broken { .. }
            | Self::Http { .. }
            | Self::Proxy { .. }
            | Self::Trust(_) => CANNOT_CONNECT,
            Self::Login(LoginProblem::NotTheirs { report, .. }) => &report.code,
            Self::Login(_) => REJECTED,
            Self::Server(report) => &report.code,
            Self::Protocol { .. } => PROTOCOL_VIOLATION,
        }
    }

    /// What the client is told: enough to know that the fault is not its own; no address, user or file of ours.
    #[must_use]
    pub fn client_text(&self) -> String {
        match self {
            Self::Resolve { .. } => "the server's address cannot be found".to_owned(),
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
                "the server refused the connection".to_owned()
            }
            Self::Connect { .. } => "the server cannot be reached".to_owned(),
            Self::TimedOut { .. } => "the server did not answer in time".to_owned(),
            Self::TlsNotOffered { .. } => "the server offers no TLS, which the policy requires".to_owned(),
            Self::Certificate { .. } => "the server's certificate is not accepted".to_owned(),
            Self::Broken { stage, .. } => format!("the server broke off {stage}"),
            Self::Proxy { detail, .. } => format!("the proxy opens no tunnel: {detail}"),
            Self::Http { .. } => "the server does not speak HTTP properly".to_owned(),
            Self::Trust(_) | Self::Login(LoginProblem::Credential(_)) => {
                "Portcullis is not set up to reach the server".to_owned()
            }
            Self::Login(LoginProblem::NoCredential { .. }) => {
                "the server asks for a password and Portcullis holds none for it".to_owned()
            }
            Self::Login(LoginProblem::Rejected { .. }) => {
                "the server does not accept the credential Portcullis holds for it".to_owned()
            }
            Self::Login(LoginProblem::NotTheirs { user, .. }) => {
                format!("password authentication failed for user \"{user}\"")
            }
            Self::Login(LoginProblem::Cleartext | LoginProblem::Unsupported { .. }) => {
                "the server asks for a way to log in that Portcullis does not take".to_owned()
            }
            Self::Login(LoginProblem::Unproven { .. }) => {
                "the server could not prove that it is the right one".to_owned()
            }
            Self::Login(LoginProblem::NotPinned { .. }) => {
                "the server did not take the settings that Portcullis relies on".to_owned()
            }
            Self::Server(report) => report.message.clone(),
            Self::Protocol { .. } => "the server does not speak the PostgreSQL protocol properly".to_owned(),
        }
    }
}

impl LoginProblem {
    /// Whose fault it was.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::NoCredential { .. } | Self::Credential(_) | Self::Rejected { .. } => Side::Portcullis,
            Self::NotTheirs { .. } => Side::Client,
            Self::Cleartext | Self::Unsupported { .. } | Self::Unproven { .. } | Self::NotPinned { .. } => {
                Side::Upstream
            }
        }
    }
}

/// An ErrorResponse, shortened and made safe to print
/// (<https://www.postgresql.org/docs/current/protocol-error-fields.html>).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerReport {
    /// SQLSTATE, five characters.
    pub code: String,
    /// Primary message.
    pub message: String,
}

impl ServerReport {
    /// Reads the fields of an ErrorResponse. Lenient: a garbled report is still a report.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let mut report = Self { code: "XX000".to_owned(), message: "an error without a message".to_owned() };
        for field in body.split(|&byte| byte == 0) {
            let Some((&tag, text)) = field.split_first() else { break };
            match tag {
                b'C' if text.len() == 5 && text.iter().all(u8::is_ascii_alphanumeric) => {
                    report.code = String::from_utf8_lossy(text).into_owned();
                }
                b'M' => report.message = printable(text),
                _ => {}
            }
        }
        report
    }

    /// Does it say that the user or the password is wrong? (`invalid_authorization_specification` and
    /// `invalid_password`.)
    pub(crate) fn is_authentication(&self) -> bool {
        matches!(self.code.as_str(), "28000" | "28P01")
    }
}

impl fmt::Display for ServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

fn printable(text: &[u8]) -> String {
    let clean = |char: char| if char.is_control() { ' ' } else { char };
    String::from_utf8_lossy(text).chars().take(REPORT_CHARS_MAX).map(clean).collect()
}
