//! The client's side of the start: TLS in both its ways, GSS refused, cancel requests told apart, start-up parameters
//! checked. Nothing has gone to the server yet.

use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::refusal::Refusal;
use crate::codec::postgres::encode::backend;
use crate::codec::postgres::startup::{self, CancelKey, Negotiation, ProtocolVersion, StartupPacket};
use crate::codec::postgres::{DecodeError, Text, sqlstate};
use crate::limits::STARTUP_TIME_MAX;
use crate::relay::leg::Leg;
use crate::secret::Secret;
use crate::tls::Stream;
use crate::tls::client_side::{ClientTlsError, Opening, accept_tcp};
use crate::upstream::Replication;

/// Parameters a client may set in its start-up message without being judged: they change how answers look or how long
/// things take, never who the session is, what its names mean or what code it loads. `user`, `database` and `replication`
/// are handled apart.
const PARAMETERS: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_min_messages",
    "datestyle",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "geqo",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "lock_timeout",
    "statement_timeout",
    "tcp_user_timeout",
    "timezone",
    "transaction_timeout",
    "work_mem",
    "xmloption",
];

/// Parameters that decide how texts are read; what is judged must be what runs. `client_encoding` is pinned.
const LEXER: &[&str] = &["backslash_quote", "standard_conforming_strings"];

/// A client that has said what it wants.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// The connection, with what came after the start-up message.
    pub(crate) client: Leg<Stream>,
    /// Role the client named.
    pub(crate) user: String,
    /// Database the client named; the role's name when it named none.
    pub(crate) database: String,
    /// Minor version of protocol 3 to speak.
    pub(crate) minor: u16,
    /// Parameters for the server.
    pub(crate) parameters: Vec<(String, String)>,
    /// It wants a replication connection.
    pub(crate) replication: Option<Replication>,
    /// Parameters that have to be judged before the server gets them.
    pub(crate) settings: Vec<(String, String)>,
}

/// What a new connection turned out to be.
pub(crate) enum Greeted {
    /// A request to cancel what another connection runs.
    Cancel {
        /// Process id, as the client was told.
        process_id: u32,
        /// Its key.
        key: Secret,
        /// The requester's connection: closing it says that the request was dealt with.
        stream: Stream,
    },
    /// The client left before saying anything, as health checks do.
    Gone,
    /// A session.
    Session(Box<Greeting>),
}

/// Why there is no session. The client has been told, where it could be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetingError {
    /// Not PostgreSQL.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// The connection broke.
    #[error("the client's connection broke during start-up")]
    Io(#[from] std::io::Error),
    /// A start-up parameter that may not be set.
    #[error("the client asked for the start-up parameter {0}")]
    Parameter(String),
    /// GSS or TLS asked for twice, or TLS inside TLS.
    #[error("the client repeated an encryption request")]
    Repeated,
    /// The client took too long.
    #[error("no complete start-up within {STARTUP_TIME_MAX:?}")]
    TimedOut,
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] ClientTlsError),
}

/// Greets a client on a fresh connection.
pub(crate) async fn greet(tcp: TcpStream, tls: Arc<ServerConfig>) -> Result<Greeted, GreetingError> {
    match tokio::time::timeout(STARTUP_TIME_MAX, first_words(tcp, tls)).await {
        Ok(greeted) => greeted,
        Err(_) => Err(GreetingError::TimedOut),
    }
}

async fn first_words(tcp: TcpStream, tls: Arc<ServerConfig>) -> Result<Greeted, GreetingError> {
    let mut stream = Stream::plain(tcp)?;
    let mut buffer = BytesMut::with_capacity(1024);
    let (mut tls_asked, mut gss_asked) = (false, false);
    loop {
        let decoded = startup::decode(&buffer);
        let (packet, taken) = match decoded {
            Ok(Some(found)) => found,
            Ok(None) => {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(Greeted::Gone);
                }
                continue;
            }
            Err(error) => return Err(refuse_packet(stream, error).await),
        };
        match packet {
            StartupPacket::DirectTls if stream.is_tls() || tls_asked || gss_asked => {
                return Err(GreetingError::Repeated);
            }
            StartupPacket::DirectTls => {
                stream = encrypt(stream, Arc::clone(&tls), Opening::Direct, &buffer).await?;
                buffer.clear();
            }
            StartupPacket::SslRequest if stream.is_tls() || tls_asked => return Err(GreetingError::Repeated),
            StartupPacket::SslRequest => {
                buffer.advance(taken);
                tls_asked = true;
                stream = encrypt(stream, Arc::clone(&tls), Opening::SslRequest, &buffer).await?;
            }
            StartupPacket::GssEncRequest if gss_asked => return Err(GreetingError::Repeated),
            StartupPacket::GssEncRequest => {
                buffer.advance(taken);
                gss_asked = true;
                stream.write_all(b"N").await?;
                stream.flush().await?;
            }
            StartupPacket::CancelRequest(CancelKey { process_id, secret_key }) => {
                return Ok(Greeted::Cancel { process_id, key: Secret::new(secret_key.to_vec()), stream });
            }
            StartupPacket::Startup(message) => {
                let wanted = match Wanted::of(&message) {
                    Ok(wanted) => wanted,
                    Err(parameter) => return Err(refuse_parameter(stream, parameter).await),
                };
                buffer.advance(taken);
                return Ok(Greeted::Session(Box::new(wanted.greeting(stream, buffer))));
            }
        }
    }
}

async fn encrypt(
    stream: Stream,
    tls: Arc<ServerConfig>,
    opening: Opening,
    already_read: &[u8],
) -> Result<Stream, GreetingError> {
    match stream {
        Stream::Plain(tcp) => Ok(accept_tcp(tcp, tls, opening, already_read).await?),
        Stream::Accepted(_) | Stream::Connected(_) => Err(GreetingError::Repeated),
    }
}

/// What the start-up message asks for, checked.
struct Wanted {
    user: String,
    database: String,
    negotiation: BytesMut,
    minor: u16,
    replication: Option<Replication>,
    asked: Asked,
}

/// Start-up parameters by what becomes of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    harmless: Vec<(String, String)>,
    to_judge: Vec<(String, String)>,
}

impl Wanted {
    /// # Errors
    /// The name of a parameter that may not be set.
    fn of(message: &startup::StartupMessage<'_>) -> Result<Self, String> {
        let mut negotiation = BytesMut::new();
        let version = match message.negotiate() {
            Negotiation::Accepted(version) => version,
            Negotiation::Negotiate { version, unknown_options } => {
                let options: Vec<Text<'_>> =
                    unknown_options.iter().filter_map(|name| Text::new(name.as_bytes())).collect();
                backend::negotiate_protocol_version(&mut negotiation, version, &options)
                    .map_err(|_| "_pq_.".to_owned())?;
                version
            }
        };
        let user = message.get("user").unwrap_or_default().to_owned();
        if user.is_empty() {
            return Err("user (it is empty)".to_owned());
        }
        let database = message.get("database").filter(|name| !name.is_empty()).unwrap_or(&user).to_owned();
        let mut asked = Asked::default();
        let mut replication = None;
        for (name, value) in message.server_parameters() {
            match name {
                "replication" => replication = replication_kind(value)?,
                _ => check_parameter(name, value, &mut asked)?,
            }
        }
        let minor = if version == ProtocolVersion::V3_2 { 2 } else { 0 };
        Ok(Self { user, database, negotiation, minor, replication, asked })
    }

    fn greeting(self, stream: Stream, rest: BytesMut) -> Greeting {
        let mut client = Leg::new(stream, rest);
        client.outbox.extend_from_slice(&self.negotiation);
        Greeting {
            client,
            user: self.user,
            database: self.database,
            minor: self.minor,
            parameters: self.asked.harmless,
            replication: self.replication,
            settings: self.asked.to_judge,
        }
    }
}

/// Takes a parameter that may be set; `options` is taken apart.
fn check_parameter(name: &str, value: &str, asked: &mut Asked) -> Result<(), String> {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "user" | "database" => Ok(()),
        // Pinned to UTF8: the client is told so by ParameterStatus, whatever it asked for.
        "client_encoding" => Ok(()),
        "standard_conforming_strings" if matches!(value, "on" | "true" | "yes" | "1") => Ok(()),
        "options" => {
            options(value)?.into_iter().try_for_each(|(name, value)| check_parameter(&name, &value, asked))
        }
        known if PARAMETERS.contains(&known) => {
            asked.harmless.push((name.to_owned(), value.to_owned()));
            Ok(())
        }
        "replication" => Err(name.to_owned()),
        lexer if LEXER.contains(&lexer) => Err(name.to_owned()),
        setting if is_parameter_name(setting) => {
            asked.to_judge.push((lower, value.to_owned()));
            Ok(())
        }
        _ => Err(name.to_owned()),
    }
}

/// The values of `replication` (`src/backend/tcop/backend_startup.c`), which is no parameter of the session.
fn replication_kind(value: &str) -> Result<Option<Replication>, String> {
    match value {
        "database" => Ok(Some(Replication::Logical)),
        "true" | "on" | "yes" | "1" => Ok(Some(Replication::Physical)),
        "false" | "off" | "no" | "0" => Ok(None),
        _ => Err("replication".to_owned()),
    }
}

/// What PostgreSQL takes for a parameter's name (`valid_custom_variable_name`, `src/backend/utils/misc/guc.c`), ASCII only.
fn is_parameter_name(name: &str) -> bool {
    name.split('.').all(|part| {
        part.starts_with(|first: char| first == '_' || first.is_ascii_alphabetic())
            && part.bytes().all(|byte| matches!(byte, b'_' | b'$') || byte.is_ascii_alphanumeric())
    })
}

/// The settings in `options`: `-c name=value`, `-cname=value` or `--name=value`, with backslash escapes
/// (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-OPTIONS>). Any other switch is refused.
fn options(text: &str) -> Result<Vec<(String, String)>, String> {
    let refused = || "options (only -c name=value and --name=value may be given)".to_owned();
    let mut words = split_options(text).into_iter();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match (word.as_str(), word.strip_prefix("--"), word.strip_prefix("-c")) {
            ("-c", ..) => words.next().ok_or_else(refused)?,
            (_, Some(setting), _) => setting.to_owned(),
            (_, None, Some(setting)) => setting.to_owned(),
            (_, None, None) => return Err(refused()),
        };
        let (name, value) = setting.split_once('=').ok_or_else(refused)?;
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// Words separated by white space; a backslash takes the next character as it is (`pg_split_opts`).
fn split_options(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.get_or_insert_default().extend(characters.next()),
            white if white.is_ascii_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

async fn refuse_packet(stream: Stream, error: DecodeError) -> GreetingError {
    let refusal = Refusal::new(error.sqlstate(), format!("portcullis: {error}"));
    last_words(stream, &refusal).await;
    GreetingError::Decode(error)
}

async fn refuse_parameter(stream: Stream, parameter: String) -> GreetingError {
    let message = format!("portcullis: the start-up parameter {parameter} may not be set here");
    let refusal = Refusal::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
        .hint("leave it out of the connection string; who the session is and how texts are read is not the client's choice");
    last_words(stream, &refusal).await;
    GreetingError::Parameter(parameter)
}

async fn last_words(stream: Stream, refusal: &Refusal) {
    let mut leg = Leg::new(stream, BytesMut::new());
    leg.outbox.extend_from_slice(&refusal.fatal());
    super::close_politely(&mut leg, super::LAST_WORDS_TIME_MAX).await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    use super::{Asked, GreetingError, check_parameter, greet, options};
    use crate::limits::STARTUP_TIME_MAX;
    use crate::tls::ca::{Ca, CaSettings};

    fn asked(name: &str, value: &str) -> Result<Asked, String> {
        let mut asked = Asked::default();
        check_parameter(name, value, &mut asked).map(|()| asked)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_decides_how_texts_are_read_and_what_is_no_setting_is_refused() {
        for (name, value) in [
            ("replication", "database"),
            ("standard_conforming_strings", "off"),
            ("backslash_quote", "on"),
            ("options", "-c standard_conforming_strings=off"),
            ("options", "-c replication=true"),
            ("options", r"-c\ role=admin"),
            ("options", "-d 5"),
            ("options", "-c"),
            ("options", "-c =1"),
            ("a b", "1"),
            ("a.", "1"),
            ("role'; DROP TABLE t; --", "1"),
            ("r\u{f6}le", "1"),
        ] {
            assert!(asked(name, value).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn parameters_that_change_who_or_what_runs_are_judged() {
        for (name, value, to_judge) in [
            ("role", "admin", &[("role", "admin")][..]),
            ("Session_Authorization", "postgres", &[("session_authorization", "postgres")]),
            ("session_preload_libraries", "evil", &[("session_preload_libraries", "evil")]),
            ("search_path", "evil, public", &[("search_path", "evil, public")]),
            ("my.setting", "1", &[("my.setting", "1")]),
            ("options", "-c role=admin", &[("role", "admin")]),
            ("options", "-crole=admin", &[("role", "admin")]),
            ("options", "--role=admin --search-path=x", &[("role", "admin"), ("search_path", "x")]),
        ] {
            let asked = asked(name, value).unwrap();
            assert_eq!((asked.to_judge, asked.harmless), (pairs(to_judge), vec![]), "{name}={value}");
        }
    }

    #[test]
    fn ordinary_parameters_pass() {
        let harmless = |harmless: &[(&str, &str)]| Ok(Asked { harmless: pairs(harmless), to_judge: vec![] });
        assert_eq!(asked("client_encoding", "LATIN1"), harmless(&[]));
        assert_eq!(asked("TimeZone", "UTC"), harmless(&[("TimeZone", "UTC")]));
        assert_eq!(
            asked("options", r"-c application_name=a,\ b --statement-timeout=5s"),
            harmless(&[("application_name", "a, b"), ("statement_timeout", "5s")])
        );
    }

    #[test]
    fn options_end_where_the_text_ends() {
        assert_eq!(options(""), Ok(vec![]));
        assert_eq!(options("  "), Ok(vec![]));
        assert!(options("\\").is_err());
    }

    /// A client that says these words, each so long after the one before, and then nothing for ever.
    async fn times_out(words: &'static [&'static [u8]], pause: Duration) {
        let folder = tempfile::tempdir().unwrap();
        let (ca, _) = Ca::open(folder.path(), &CaSettings::default()).unwrap();
        let tls = Arc::new(ca).leaf(&ServerName::from(Ipv4Addr::LOCALHOST)).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // Not a tokio connect: only `upstream` dials.
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut client = TcpStream::from_std(client).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        tokio::time::pause();
        let started = Instant::now();
        let talk = tokio::spawn(async move {
            for word in words {
                client.write_all(word).await.unwrap();
                tokio::time::sleep(pause).await;
            }
            let mut left = Vec::new();
            client.read_to_end(&mut left).await.unwrap();
            left
        });
        assert!(matches!(greet(accepted, tls).await, Err(GreetingError::TimedOut)), "{words:?}");
        assert!((STARTUP_TIME_MAX..STARTUP_TIME_MAX * 2).contains(&started.elapsed()), "{words:?}");
        talk.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_given_up() {
        times_out(&[], Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_client_that_stops_in_the_middle_is_given_up() {
        times_out(&[b"\0\0\0\x40\0\x03\0\0user\0"], Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_client_that_asks_for_encryption_and_stops_is_given_up() {
        times_out(&[b"\0\0\0\x08\x04\xd2\x16\x30"], Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_client_that_asks_for_tls_and_stops_is_given_up() {
        times_out(&[b"\0\0\0\x08\x04\xd2\x16\x2f"], Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_client_that_says_a_byte_now_and_then_is_given_up() {
        const DRIP: &[&[u8]] = &[b"\0", b"\0", b"\0"];
        times_out(DRIP, STARTUP_TIME_MAX / 4).await;
    }
}
