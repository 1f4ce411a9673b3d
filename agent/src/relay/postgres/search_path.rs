//! Which schemas the session's unqualified names are looked up in, as long as that is certain.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::codec::postgres::backend::decode_data_row;
use crate::codec::postgres::encode::frontend;
use crate::codec::postgres::{BackendTag, DecodeError, Item, Scanner, Text};
use crate::relay::leg::{Fill, Leg};
use crate::request::{Effect, SessionAction, Statement};
use crate::tls::Stream;

/// How long the server may take to say its search path, for which it looks at nothing.
const ASK_TIME_MAX: Duration = Duration::from_secs(10);

/// The parameter's name.
const PARAMETER: &str = "search_path";

/// Schemas in a path; a longer one is not followed.
const SCHEMAS_MAX: usize = 64;

/// The session's search path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SearchPath {
    /// As the server gave it, and the schemas it names, `"$user"` replaced by the role.
    Known {
        /// The setting's text.
        text: Arc<str>,
        /// In order.
        schemas: Arc<[String]>,
    },
    /// Something ran that may have changed it: any schema is possible from here on.
    Unknown,
}

/// Why the server could not be asked; its connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It said something else.
    #[error("the server answers SHOW with something else: {0}")]
    Answer(&'static str),
    /// It broke the protocol.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// The connection is gone.
    #[error("the connection broke when the server was asked for its search path")]
    Io(#[from] std::io::Error),
    /// It takes too long.
    #[error("the server did not say its search path within {ASK_TIME_MAX:?}")]
    TimedOut,
}

impl SearchPath {
    /// What the server reported at login (PostgreSQL 18 does), or else says when it is asked, which it must be before
    /// the first query of a session of `role`. Unknown where the role is not.
    ///
    /// # Errors
    /// The connection cannot be used any more. A server that does not know is no error.
    pub(crate) async fn of(
        server: &mut Leg<Stream>,
        reported: &[(String, String)],
        role: Option<&str>,
    ) -> Result<Self, AskError> {
        let Some(role) = role else { return Ok(Self::Unknown) };
        match Self::reported(reported, role) {
            Some(path) => Ok(path),
            None => Self::ask(server, role).await,
        }
    }

    /// The last report counts.
    fn reported(reported: &[(String, String)], role: &str) -> Option<Self> {
        let (_, text) = reported.iter().rev().find(|(name, _)| name == PARAMETER)?;
        Some(Self::parse(text, role))
    }

    async fn ask(server: &mut Leg<Stream>, role: &str) -> Result<Self, AskError> {
        let asked = async {
            if frontend::query(&mut server.outbox, Text::before_nul(b"SHOW search_path")).is_err() {
                return Err(AskError::Answer("nothing"));
            }
            server.drain().await?;
            let mut scanner = Scanner::new();
            let mut text = None;
            loop {
                let inbox = server.inbox.split();
                let mut input: &[u8] = &inbox;
                while let Some(item) = scanner.next(&mut input)? {
                    if answer(&item, &mut text)? == Answered::Whole {
                        server.inbox.unsplit(input.into());
                        return Ok(text.map_or(Self::Unknown, |text| Self::parse(&text, role)));
                    }
                }
                server.inbox.unsplit(input.into());
                if server.fill().await? == Fill::End {
                    return Err(AskError::Io(std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
        };
        timeout(ASK_TIME_MAX, asked).await.unwrap_or(Err(AskError::TimedOut))
    }

    /// Reads the setting's text as `SplitIdentifierString` does (`src/backend/utils/adt/varlena.c`); what it might read
    /// differently is unknown.
    fn parse(text: &str, role: &str) -> Self {
        let Some(mut schemas) = identifiers(text) else { return Self::Unknown };
        if schemas.len() > SCHEMAS_MAX {
            return Self::Unknown;
        }
        for schema in &mut schemas {
            if schema == "$user" {
                role.clone_into(schema);
            }
        }
        Self::Known { text: text.into(), schemas: schemas.into() }
    }

    /// The schemas, when they are certain.
    pub(crate) fn schemas(&self) -> Option<&[String]> {
        match self {
            Self::Known { schemas, .. } => Some(schemas),
            Self::Unknown => None,
        }
    }

    /// The setting's text, when it is certain.
    pub(crate) fn text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Known { text, .. } => Some(text),
            Self::Unknown => None,
        }
    }

    /// A statement ran. A path that may have changed is not learned again: a rollback could change it back.
    pub(crate) fn after(&mut self, statement: &Statement) {
        let sets = match &statement.session {
            SessionAction::DiscardAll => true,
            SessionAction::Set { name, .. } => {
                matches!(name.as_str(), "all" | "role" | "search_path" | "session_authorization")
            }
            SessionAction::Begin
            | SessionAction::CloseCursor(_)
            | SessionAction::Deallocate(_)
            | SessionAction::DeclareCursor(_)
            | SessionAction::EndTransaction
            | SessionAction::Execute(_)
            | SessionAction::FetchCursor(_)
            | SessionAction::None
            | SessionAction::Prepare(_)
            | SessionAction::Savepoint => false,
        };
        // A temporary table hides others of its name, whatever the path says.
        if sets || statement.effect > Effect::Write {
            *self = Self::Unknown;
        }
    }
}

/// Whether the answer is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answered {
    Partly,
    Whole,
}

fn answer(item: &Item<'_, BackendTag>, text: &mut Option<String>) -> Result<Answered, AskError> {
    let Item::Frame(frame) = item else { return Err(AskError::Answer("a message of great length")) };
    match frame.tag {
        BackendTag::DataRow => {
            let value = decode_data_row(frame.body())?.next().flatten();
            *text = value.and_then(|value| String::from_utf8(value.to_vec()).ok());
        }
        BackendTag::ReadyForQuery => return Ok(Answered::Whole),
        BackendTag::ErrorResponse => *text = None,
        BackendTag::CommandComplete
        | BackendTag::NoticeResponse
        | BackendTag::NotificationResponse
        | BackendTag::ParameterStatus
        | BackendTag::RowDescription => {}
        BackendTag::Authentication
        | BackendTag::BackendKeyData
        | BackendTag::BindComplete
        | BackendTag::CloseComplete
        | BackendTag::CopyBothResponse
        | BackendTag::CopyData
        | BackendTag::CopyDone
        | BackendTag::CopyInResponse
        | BackendTag::CopyOutResponse
        | BackendTag::EmptyQueryResponse
        | BackendTag::FunctionCallResponse
        | BackendTag::NegotiateProtocolVersion
        | BackendTag::NoData
        | BackendTag::ParameterDescription
        | BackendTag::ParseComplete
        | BackendTag::PortalSuspended => return Err(AskError::Answer("an unexpected message")),
    }
    Ok(Answered::Partly)
}

/// Identifiers separated by commas; `None` when the text is anything else.
fn identifiers(text: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    if rest.is_empty() {
        return Some(found);
    }
    loop {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_identifier(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                let name = name.trim_end();
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
                if name.is_empty() || !name.bytes().all(plain) {
                    return None;
                }
                (name.to_ascii_lowercase(), after)
            }
        };
        found.push(name);
        let after = after.trim_start();
        match after.strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None => return after.is_empty().then_some(found),
        }
    }
}

/// What stands up to the closing quote, and what comes after it.
fn quoted_identifier(quoted: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return (!name.is_empty()).then_some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SearchPath;
    use crate::request::sql::analyze;

    fn schemas(text: &str) -> Option<Vec<String>> {
        SearchPath::parse(text, "app").schemas().map(<[String]>::to_vec)
    }

    #[test]
    fn a_path_is_read_as_the_server_reads_it() {
        let cases: [(&str, Option<&[&str]>); 9] = [
            ("\"$user\", public", Some(&["app", "public"])),
            ("", Some(&[])),
            ("Sales,\"Mixed \"\"x\"\", y\" , public", Some(&["sales", "Mixed \"x\", y", "public"])),
            ("a,", None),
            ("\"\"", None),
            ("\"open", None),
            ("a b", None),
            ("a-b", None),
            ("\"a\"b", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(schemas(text), expected, "{text}");
        }
    }

    #[test]
    fn a_reported_path_need_not_be_asked_for() {
        let report = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let reported =
            [report("search_path", "old"), report("TimeZone", "UTC"), report("search_path", "new")];
        assert_eq!(SearchPath::reported(&reported, "app"), Some(SearchPath::parse("new", "app")));
        assert_eq!(SearchPath::reported(&reported[1..2], "app"), None);
    }

    #[test]
    fn whatever_may_change_it_makes_it_unknown() {
        let changes = [
            "SET search_path = other",
            "RESET search_path",
            "RESET ALL",
            "DISCARD ALL",
            "SET ROLE admin",
            "SELECT set_config('search_path', 'other', false)",
            "SELECT set_config('search' || '_path', 'other', false)",
            "DO $$ BEGIN END $$",
            "SELECT somebodys_function()",
            "CREATE TEMP TABLE orders (id int)",
            "UPDATE pg_settings SET setting = 'other' WHERE name = 'search_path'",
            "ALTER ROLE app SET search_path = other",
        ];
        let keeps = [
            "SELECT 1",
            "BEGIN",
            "SET work_mem = '1MB'",
            "INSERT INTO t VALUES (1)",
            "PREPARE p AS SELECT 1",
        ];
        let after = |text: &str| {
            let mut path = SearchPath::parse("public", "app");
            analyze(text).statements.iter().for_each(|statement| path.after(statement));
            path
        };
        for text in changes {
            assert_eq!(after(text), SearchPath::Unknown, "{text}");
        }
        for text in keeps {
            assert_eq!(after(text), SearchPath::parse("public", "app"), "{text}");
        }
    }
}
