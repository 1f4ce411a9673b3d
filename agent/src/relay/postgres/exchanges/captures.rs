//! Captured sessions under a policy that allows everything and masks nothing: both directions come out unchanged.

use bytes::BytesMut;

use super::Fixture;
use crate::codec::postgres::startup::{self, StartupPacket};
use crate::codec::postgres::{BackendTag, FrontendTag, Item, Scanner, Tag};

const ALLOWED: &str = r#"version = 1
name = "test"
[[connection]]
name = "db"
to = ["127.0.0.1:5432"]
protocol = "postgres"
upstream = { user = "u", tls = "disable" }
[[guard]]
name = "everything"
on = "postgres"
effect = ["read", "write", "ddl", "admin", "unknown"]
action = "allow"
"#;

macro_rules! sessions {
    ($($name:literal),+ $(,)?) => {
        &[$((
            $name,
            include_bytes!(concat!("../../../codec/postgres/testdata/", $name, ".client.bin")),
            include_bytes!(concat!("../../../codec/postgres/testdata/", $name, ".server.bin")),
        )),+]
    };
}

type Session = (&'static str, &'static [u8], &'static [u8]);

const SESSIONS: &[Session] = sessions!["asyncpg", "copy", "grease", "md5", "pgbench", "pipeline", "simple"];

/// The messages of a stream, each with its type.
type Messages<T> = Vec<(T, Vec<u8>)>;

fn messages<T: Tag>(stream: &[u8]) -> Messages<T> {
    let mut scanner = Scanner::<T>::new();
    let mut input = stream;
    let mut found = Vec::new();
    while let Some(item) = scanner.next(&mut input).unwrap() {
        let Item::Frame(frame) = item else { panic!("captures hold short messages") };
        found.push((frame.tag, frame.bytes.to_vec()));
    }
    found
}

/// Both streams after the log-in.
fn after_login(session: Session) -> (Messages<FrontendTag>, Messages<BackendTag>) {
    let (_, mut client, mut server) = session;
    loop {
        let (packet, used) = startup::decode(client).unwrap().unwrap();
        client = &client[used..];
        if matches!(packet, StartupPacket::Startup(_)) {
            break;
        }
        // A byte answers a request for encryption.
        server = &server[1..];
    }
    let client = messages::<FrontendTag>(client);
    let server = messages::<BackendTag>(server);
    let first = server.iter().position(|(tag, _)| *tag == BackendTag::ReadyForQuery).unwrap();
    let client = client.into_iter().filter(|(tag, _)| *tag != FrontendTag::Password).collect();
    (client, server[first + 1..].to_vec())
}

/// Whether a client that waits would wait after this.
fn waits(tag: FrontendTag) -> bool {
    matches!(tag, FrontendTag::Query | FrontendTag::Sync | FrontendTag::Flush | FrontendTag::FunctionCall)
}

#[test]
fn sessions_come_out_as_they_went_in() {
    for session in SESSIONS {
        let (client, server) = after_login(*session);
        let mut server = server.into_iter().peekable();
        let mut fixture = Fixture::under(ALLOWED);
        let (mut asked, mut said) = (BytesMut::new(), BytesMut::new());
        for (tag, bytes) in client {
            fixture.say(&bytes).unwrap_or_else(|broken| panic!("{}: {broken}", session.0));
            asked.extend_from_slice(&bytes);
            if !waits(tag) {
                continue;
            }
            while fixture.conversation.is_busy()
                && let Some((tag, bytes)) = server.next()
            {
                fixture.reply(&bytes).unwrap_or_else(|broken| panic!("{}: {broken}", session.0));
                said.extend_from_slice(&bytes);
                if tag == BackendTag::CopyInResponse {
                    break;
                }
            }
        }
        for (_, bytes) in server {
            fixture.reply(&bytes).unwrap_or_else(|broken| panic!("{}: {broken}", session.0));
            said.extend_from_slice(&bytes);
        }
        assert!(said.len() > 10 || session.0 == "grease" || session.0 == "md5", "{}", session.0);
        assert!(fixture.client == said, "{}: to the client", session.0);
        assert!(fixture.upstream == asked, "{}: to the server", session.0);
        assert!(
            !fixture.conversation.is_busy() && fixture.conversation.operations.iter().count() == 0,
            "{}",
            session.0
        );
    }
}

#[test]
fn clients_that_do_not_wait_get_the_same_replies() {
    // What a client sends after a failure depends on having seen it, so only sessions without one.
    for session in SESSIONS.iter().filter(|session| matches!(session.0, "asyncpg" | "pgbench")) {
        let (client, server) = after_login(*session);
        let mut fixture = Fixture::under(ALLOWED);
        let mut said = BytesMut::new();
        for (_, bytes) in client {
            fixture.say(&bytes).unwrap();
        }
        for (_, bytes) in server {
            fixture.reply(&bytes).unwrap_or_else(|broken| panic!("{}: {broken}", session.0));
            said.extend_from_slice(&bytes);
        }
        assert!(fixture.client == said, "{}", session.0);
    }
}
