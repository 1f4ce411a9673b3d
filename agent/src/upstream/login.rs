//! Start-up with the real server: from StartupMessage to the first ReadyForQuery, in our own name.

use bytes::{BufMut, Bytes, BytesMut};

use super::LOGIN_TIME_MAX;
use super::auth::{Authentication, Progress};
use super::dial::Dialled;
use super::error::{LoginProblem, ServerReport, Stage, UpstreamError};
use super::wire::{Fields, Message, Wire, reported, unexpected, within};
use crate::secret::Secret;
use crate::tls::Stream;

/// Settings that decide how a statement's bytes are read. They are sent last, so that nothing overrides them, and the
/// server has to report them back.
pub const PINNED: [(&str, &str); 2] = [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")];

/// Longest message during start-up, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Everything a server may say during start-up, in bytes.
const LOGIN_BYTES_MAX: usize = 1024 * 1024;
/// ParameterStatus messages kept. PostgreSQL 18 reports fifteen.
const STATUSES_MAX: usize = 256;
/// NoticeResponse messages kept; further ones are dropped.
const NOTICES_MAX: usize = 64;
/// Length of a cancel key in protocol 3.0, in bytes.
const KEY_BYTES: usize = 4;
/// Longest cancel key in protocol 3.2, in bytes
/// (<https://www.postgresql.org/docs/current/protocol-message-formats.html>, BackendKeyData).
const KEY_BYTES_MAX: usize = 256;

/// What to log in as.
#[derive(Clone, Debug)]
pub struct Startup {
    /// Role.
    pub user: String,
    /// Database.
    pub database: String,
    /// Minor version of protocol 3 to ask for: what the client asked for, 0 or 2.
    pub minor: u16,
    /// What kind of replication connection it is; `None` is an ordinary session.
    pub replication: Option<Replication>,
    /// Further parameters that policy lets through, in order. `user`, `database`, `replication`, the pinned ones and
    /// protocol options (`_pq_.`) are not taken from here.
    pub parameters: Vec<(String, String)>,
    /// What the profile sets; goes before `parameters` of the same name.
    pub settings: Vec<(String, String)>,
}

/// What a walsender serves
/// (<https://www.postgresql.org/docs/current/protocol-replication.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// The server's write-ahead log as it is.
    Physical,
    /// Changes of one database, decoded; and SQL.
    Logical,
}

/// An authenticated connection, idle, with what the server said on the way.
pub struct LoggedIn {
    /// The connection.
    pub stream: Stream,
    /// ParameterStatus, in order.
    pub parameter_statuses: Vec<(String, String)>,
    /// BackendKeyData; a server may send none, and then cannot be asked to cancel.
    pub backend_key: Option<BackendKey>,
    /// Bodies of NoticeResponse messages, for the client.
    pub notices: Vec<Bytes>,
    /// Bytes after ReadyForQuery that were already read: asynchronous messages.
    pub leftover: BytesMut,
    /// Minor version of protocol 3 that is spoken.
    pub minor: u16,
}

/// Names one session to its server, for CancelRequest. The key is a secret: it cancels anything the session does.
#[derive(Clone)]
pub struct BackendKey {
    /// Process id on the server.
    pub process_id: u32,
    /// Four bytes in protocol 3.0, up to 256 in 3.2.
    pub secret: Secret,
}

/// Logs in.
///
/// # Errors
/// The server refuses us, asks for what we do not have, violates the protocol, or takes longer than
/// [`LOGIN_TIME_MAX`].
pub async fn login(
    dialled: Dialled,
    startup: &Startup,
    credential: Option<&Secret>,
) -> Result<LoggedIn, UpstreamError> {
    let address = dialled.target.address();
    let wire = Wire::new(dialled.stream, address, Stage::Login);
    let authentication = Authentication::new(&startup.user, credential, address);
    let (wire, said) =
        within(LOGIN_TIME_MAX, Stage::Login, address, converse(wire, startup, authentication)).await?;
    check_pinned(&said.parameter_statuses)?;
    Ok(LoggedIn {
        stream: wire.stream,
        parameter_statuses: said.parameter_statuses,
        backend_key: said.backend_key,
        notices: said.notices,
        leftover: wire.buffer,
        minor: said.minor,
    })
}

/// What has been gathered so far.
struct Said {
    parameter_statuses: Vec<(String, String)>,
    backend_key: Option<BackendKey>,
    notices: Vec<Bytes>,
    minor: u16,
    bytes: usize,
}

async fn converse(
    mut wire: Wire,
    startup: &Startup,
    mut authentication: Authentication<'_>,
) -> Result<(Wire, Said), UpstreamError> {
    wire.send(&startup_message(startup)?).await?;
    let mut said = Said {
        parameter_statuses: Vec::new(),
        backend_key: None,
        notices: Vec::new(),
        minor: startup.minor,
        bytes: 0,
    };
    loop {
        let message = said.receive(&mut wire).await?;
        match message.tag {
            b'R' => match authentication.answer(Fields::of(message), &mut wire).await? {
                Progress::Continue => {}
                Progress::Authenticated => break,
            },
            b'E' => return Err(refused(&message, startup)),
            b'N' => said.notice(message),
            b'v' => said.negotiate(message, startup.minor)?,
            _ => return Err(unexpected(&message, "authentication")),
        }
    }
    loop {
        let message = said.receive(&mut wire).await?;
        match message.tag {
            b'S' => said.parameter_status(message)?,
            b'K' => said.backend_key(message)?,
            b'N' => said.notice(message),
            b'E' => return Err(reported(&message)),
            b'Z' if message.body.as_ref() == b"I" => return Ok((wire, said)),
            _ => return Err(unexpected(&message, "start-up")),
        }
    }
}

impl Said {
    async fn receive(&mut self, wire: &mut Wire) -> Result<Message, UpstreamError> {
        let message = wire.receive(MESSAGE_BYTES_MAX).await?;
        self.bytes = self.bytes.saturating_add(message.body.len().saturating_add(1));
        if self.bytes > LOGIN_BYTES_MAX {
            return Err(UpstreamError::protocol("a start-up without end"));
        }
        Ok(message)
    }

    fn notice(&mut self, message: Message) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(message.body);
        }
    }

    /// NegotiateProtocolVersion. Servers send the whole version number, the documentation says only the minor one;
    /// both are understood.
    fn negotiate(&mut self, message: Message, asked: u16) -> Result<(), UpstreamError> {
        let version = Fields::of(message).u32()?;
        let newest = match (version >> 16, version & 0xffff) {
            (0 | 3, minor) => u16::try_from(minor).ok(),
            _ => None,
        };
        match newest {
            Some(minor) if minor <= asked => self.minor = minor,
            Some(_) | None => {
                return Err(UpstreamError::protocol(format!(
                    "protocol version {version:#x} was not asked for"
                )));
            }
        }
        Ok(())
    }

    fn parameter_status(&mut self, message: Message) -> Result<(), UpstreamError> {
        let mut fields = Fields::of(message);
        let status = (fields.text()?, fields.text()?);
        fields.end()?;
        if self.parameter_statuses.len() == STATUSES_MAX {
            return Err(UpstreamError::protocol("more parameters than any server reports"));
        }
        self.parameter_statuses.push(status);
        Ok(())
    }

    fn backend_key(&mut self, message: Message) -> Result<(), UpstreamError> {
        let mut fields = Fields::of(message);
        let process_id = fields.u32()?;
        let secret = fields.rest();
        let allowed = if self.minor >= 2 { KEY_BYTES..=KEY_BYTES_MAX } else { KEY_BYTES..=KEY_BYTES };
        if !allowed.contains(&secret.len()) {
            return Err(UpstreamError::protocol(format!("a cancel key of {} bytes", secret.len())));
        }
        self.backend_key = Some(BackendKey { process_id, secret: Secret::new(secret.to_vec()) });
        Ok(())
    }
}

/// An error before AuthenticationOk: about the credential, or about something else.
fn refused(message: &Message, startup: &Startup) -> UpstreamError {
    let report = Box::new(ServerReport::parse(&message.body));
    if report.is_authentication() {
        LoginProblem::Rejected { user: startup.user.clone(), report }.into()
    } else {
        UpstreamError::Server(report)
    }
}

/// Every pinned setting must be reported with its value; the last report counts.
fn check_pinned(statuses: &[(String, String)]) -> Result<(), LoginProblem> {
    for (parameter, needed) in PINNED {
        let value = statuses.iter().rev().find(|(name, _)| name == parameter).map(|(_, value)| value);
        if value.is_none_or(|value| value != needed) {
            return Err(LoginProblem::NotPinned { parameter, value: value.cloned(), needed });
        }
    }
    Ok(())
}

fn startup_message(startup: &Startup) -> Result<BytesMut, UpstreamError> {
    let mut body = BytesMut::new();
    let mut put = |name: &str, value: &str| {
        if name.is_empty() || name.contains('\0') || value.contains('\0') {
            return Err(UpstreamError::protocol("a start-up parameter that cannot be sent"));
        }
        body.put_slice(name.as_bytes());
        body.put_u8(0);
        body.put_slice(value.as_bytes());
        body.put_u8(0);
        Ok(())
    };
    put("user", &startup.user)?;
    put("database", &startup.database)?;
    match startup.replication {
        None => {}
        Some(Replication::Physical) => put("replication", "true")?,
        Some(Replication::Logical) => put("replication", "database")?,
    }
    let set = |name: &str| startup.settings.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
    for (name, value) in startup.parameters.iter().filter(|(name, _)| !is_ours(name) && !set(name)) {
        put(name, value)?;
    }
    for (name, value) in startup.settings.iter().filter(|(name, _)| !is_ours(name)) {
        put(name, value)?;
    }
    for (name, value) in PINNED {
        put(name, value)?;
    }
    body.put_u8(0);
    let length = u32::try_from(body.len()).ok().and_then(|length| length.checked_add(8));
    let length = length.ok_or_else(|| UpstreamError::protocol("start-up parameters that are too long"))?;
    let mut message = BytesMut::with_capacity(body.len().saturating_add(8));
    message.put_u32(length);
    message.put_u16(3);
    message.put_u16(startup.minor);
    message.put_slice(&body);
    Ok(message)
}

/// Parameters that only we set. PostgreSQL folds parameter names to lower case.
fn is_ours(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "user" | "database" | "replication")
        || name.starts_with("_pq_.")
        || PINNED.iter().any(|(pinned, _)| *pinned == name)
}
