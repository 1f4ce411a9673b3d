//! Tests of the conversation without sockets: frames of either side go in, bytes for either side come out.

use std::sync::Arc;

use bytes::BytesMut;

use super::conversation::{Answer, Broken, Conversation, Parts, Question, Step, Upstream, Wires};
use super::masking::{Masking, Rules};
use super::search_path::SearchPath;
use crate::approval::Approvals;
use crate::codec::postgres::backend::TransactionStatus;
use crate::codec::postgres::report::Report;
use crate::codec::postgres::{BackendTag, FrontendTag, Item, Scanner, Tag as _};
use crate::gate::{Admission, Gate};
use crate::mask::HashKey;
use crate::policy::PolicySet;
use crate::record::Recorder;
use crate::record::tests::{CONFIG, SHARE, opened};
use crate::request::sql::AnalysisCache;

mod calls;
mod captures;
mod copies;
mod names;
mod pipelines;
mod server;

/// Reads and writes pass, schema changes are refused, administration is held.
const POLICY: &str = r#"version = 1
name = "test"

[[connection]]
name = "db"
to = ["127.0.0.1:5432"]
protocol = "postgres"
upstream = { user = "u", tls = "disable" }

[[guard]]
name = "no schema changes"
on = "postgres"
effect = ["ddl"]
action = "deny"

[[guard]]
name = "ask for administration"
on = "postgres"
effect = ["admin"]
action = "hold"
approvers = ["user:daemon"]
hold = "30s"
in_transaction = "hold"

[[guard]]
name = "the rest"
on = "postgres"
effect = ["read", "write", "unknown"]
action = "allow"
"#;

/// A conversation with what it needs, and what it said so far.
struct Fixture {
    conversation: Conversation,
    client: BytesMut,
    upstream: BytesMut,
    from_client: (Scanner<FrontendTag>, BytesMut),
    from_server: (Scanner<BackendTag>, BytesMut),
    question: Option<Question>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::under(POLICY)
    }

    fn under(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        std::fs::write(policies.join("test.toml"), policy).unwrap();
        let set = Arc::new(PolicySet::load_dir(&policies));
        assert!(set.snapshot().problems.is_empty(), "{:?}", set.snapshot().problems);
        let admission =
            Admission::under("127.0.0.1:5432".parse().unwrap(), crate::policy::load(policy).unwrap().policy);
        let recorder = Recorder::open(&folder.path().join("data"), CONFIG).unwrap();
        let key = Arc::new(HashKey::new(zeroize::Zeroizing::new([7; 32])));
        let parts = Parts {
            gate: Arc::new(Gate::new(set, Approvals::new(&crate::config::Config::default()))),
            masking: Masking::new(&Rules::of(admission.policy(), &admission), &[], key).unwrap(),
            admission,
            calls: super::calls::Calls::default(),
            analyses: Arc::new(AnalysisCache::default()),
            record: recorder.session(&opened(), SHARE).unwrap(),
            database: "shop".to_owned(),
            search_path: SearchPath::Unknown,
            replicates: false,
        };
        Self {
            conversation: Conversation::new(parts, TransactionStatus::Idle),
            client: BytesMut::new(),
            upstream: BytesMut::new(),
            from_client: (Scanner::new(), BytesMut::new()),
            from_server: (Scanner::new(), BytesMut::new()),
            question: None,
            _folder: folder,
        }
    }

    /// What the client says.
    fn say(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.from_client.1.extend_from_slice(bytes);
        self.work()
    }

    /// What the server says.
    fn reply(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.from_server.1.extend_from_slice(bytes);
        self.work()
    }

    /// Does what the pump does, until nothing moves.
    fn work(&mut self) -> Result<(), Broken> {
        let Self { conversation, client, upstream, from_client, from_server, question, .. } = self;
        let mut wires = Wires { client, upstream: Upstream(upstream) };
        let inbox = from_server.1.split();
        let mut input: &[u8] = &inbox;
        while let Some(item) = from_server.0.next(&mut input).map_err(Broken::Server)? {
            conversation.server_item(item, &mut wires)?;
        }
        from_server.1.extend_from_slice(input);
        if let Step::Question(asked) = conversation.resume(&mut wires)? {
            *question = Some(asked);
        }
        let inbox = from_client.1.split();
        let mut input: &[u8] = &inbox;
        while conversation.takes_client() {
            let Some(item) = from_client.0.next(&mut input).map_err(Broken::Client)? else { break };
            match conversation.client_item(item, &mut wires)? {
                Step::Discard => from_client.0.discard(),
                Step::Done | Step::Wait => {}
                Step::Question(asked) => *question = Some(asked),
            }
        }
        from_client.1.extend_from_slice(input);
        Ok(())
    }

    /// The answer to the question that was asked.
    fn answer(&mut self, answer: Answer) -> Result<(), Broken> {
        let Self { conversation, client, upstream, question, .. } = self;
        let mut wires = Wires { client, upstream: Upstream(upstream) };
        *question = match conversation.answer(answer, &mut wires)? {
            Step::Question(asked) => Some(asked),
            Step::Discard | Step::Done | Step::Wait => None,
        };
        self.work()
    }

    /// Types of the messages sent to the server since this was last asked.
    fn sent(&mut self) -> String {
        tags::<FrontendTag>(&self.upstream.split())
    }

    /// Types of the messages sent to the client since this was last asked; an error with its code.
    fn heard(&mut self) -> String {
        let bytes = self.client.split();
        let mut input: &[u8] = &bytes;
        let mut scanner = Scanner::<BackendTag>::new();
        let mut heard = String::new();
        while let Some(item) = scanner.next(&mut input).unwrap() {
            let Item::Frame(frame) = item else { panic!("{item:?}") };
            heard.push(char::from(frame.tag.byte()));
            if frame.tag == BackendTag::ErrorResponse {
                let report = Report::decode_error(frame.body()).unwrap();
                heard += &format!("({})", report.sqlstate().unwrap());
            } else if frame.tag == BackendTag::ReadyForQuery {
                heard.push_str(&String::from_utf8_lossy(frame.body()));
            }
        }
        heard
    }
}

fn tags<T: crate::codec::postgres::Tag>(bytes: &[u8]) -> String {
    let mut input = bytes;
    let mut scanner = Scanner::<T>::new();
    let mut seen = String::new();
    while let Some(item) = scanner.next(&mut input).unwrap() {
        let Item::Frame(frame) = item else { panic!("{item:?}") };
        seen.push(char::from(frame.tag.byte()));
    }
    seen
}

/// A message.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[text(name), text(sql), vec![0, 0]].concat())
}

fn bind(portal: &str, statement: &str) -> Vec<u8> {
    message(b'B', &[text(portal), text(statement), vec![0; 6]].concat())
}

fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[text(portal), rows.to_be_bytes().to_vec()].concat())
}

fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[vec![kind], text(name)].concat())
}

fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[vec![kind], text(name)].concat())
}

fn sync() -> Vec<u8> {
    message(b'S', &[])
}

/// Parse, Bind and Execute of the unnamed statement and portal.
fn run(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", ""), execute("", 0)].concat()
}

fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

fn complete(tag: &str) -> Vec<u8> {
    message(b'C', &text(tag))
}

fn error(code: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{code}\0Mwrong\0\0").as_bytes())
}

/// One row with one column.
fn row(value: &str) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap();
    message(b'D', &[&[0, 1], &length.to_be_bytes()[..], value.as_bytes()].concat())
}

/// A description of one column of unknown origin and type `text`.
fn description(name: &str) -> Vec<u8> {
    let field = [0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 255, 255, 255, 255, 255, 255, 0, 0];
    message(b'T', &[&[0, 1], text(name).as_slice(), &field].concat())
}

fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}
