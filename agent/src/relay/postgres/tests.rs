//! Sessions without sockets: what a client may make of names, pipelines and failures, and what the server is sent and
//! the client shown for it.

use std::sync::Arc;

use bytes::BytesMut;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::conversation::{Answer, Broken, Conversation, Parts, Question, Step, Upstream, Wires};
use super::masking::{Masking, Rules};
use super::search_path::SearchPath;
use crate::approval::Approvals;
use crate::codec::postgres::backend::FieldDescription;
use crate::codec::postgres::backend::TransactionStatus::{self, Failed, Idle, InTransaction};
use crate::codec::postgres::encode::{backend, frontend};
use crate::codec::postgres::frontend::Object;
use crate::codec::postgres::report::{OwnReport, Severity};
use crate::codec::postgres::{BackendTag, Format, FrontendTag, Item, Scanner, Tag, Text, sqlstate};
use crate::config::Config;
use crate::gate::{Admission, Gate};
use crate::mask::HashKey;
use crate::mask::catalog::{Column, Relation, RelationKind};
use crate::policy::PolicySet;
use crate::record::event::SessionOpened;
use crate::record::{Recorder, RecorderConfig};

/// Reads pass, writes are denied, `customers.ssn` is masked.
const POLICY: &str = r#"
version = 1
name = "test"

[[connection]]
name = "db"
to = ["127.9.9.9:5432"]
protocol = "postgres"
upstream = { user = "app", tls = "disable" }

[[guard]]
name = "changes"
on = "postgres"
effect = ["ddl"]
action = "allow"

[[guard]]
name = "code"
on = "postgres"
kind = ["do"]
action = "allow"

[[guard]]
name = "no writes"
on = "postgres"
effect = ["write", "unknown"]
action = "deny"

[[mask]]
on = "postgres"
columns = ["customers.ssn"]
with = "redact"
"#;

const CUSTOMERS: u32 = 20_001;
const SECRET: &str = "078-05-1120";

/// A session and everything that passed.
struct Rig {
    conversation: Conversation,
    client: Wire<FrontendTag>,
    server: Wire<BackendTag>,
    to_client: BytesMut,
    to_server: BytesMut,
    question: Option<Question>,
    _folder: TempDir,
}

struct Wire<T> {
    scanner: Scanner<T>,
    inbox: BytesMut,
}

fn text(text: &str) -> Text<'_> {
    Text::new(text.as_bytes()).unwrap()
}

fn relations() -> Vec<Relation> {
    let column = |(attnum, name): (i16, &str)| Column { attnum, name: name.to_owned(), type_oid: 25 };
    let table = |oid, name: &str, columns: &[&str]| Relation {
        oid,
        schema: "public".to_owned(),
        name: name.to_owned(),
        kind: RelationKind::Table,
        columns: (1..).zip(columns.iter().copied()).map(column).collect(),
        parents: Vec::new(),
        view_outputs: Vec::new(),
        generated: Vec::new(),
        view_reads: Vec::new(),
    };
    vec![table(CUSTOMERS, "customers", &["id", "ssn"]), table(20_002, "orders", &["id", "total"])]
}

impl Rig {
    fn new() -> Self {
        Self::under(POLICY)
    }

    fn under(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        std::fs::write(policies.join("test.toml"), policy).unwrap();
        let policies = Arc::new(PolicySet::load_dir(&policies));
        let loaded = policies.get("test").expect("the policy loads");
        let admission = Admission::under("127.9.9.9:5432".parse().unwrap(), (*loaded).clone());
        let config = RecorderConfig { min_free_bytes: 0, ..RecorderConfig::default() };
        let recorder = Recorder::open(&folder.path().join("state"), config).unwrap();
        let opened = SessionOpened {
            flow: admission.flow().clone(),
            connection: Some("db".to_owned()),
            protocol: admission.connection().protocol,
            policy: "test".to_owned(),
            policy_version: admission.policy().version.clone(),
            run_labels: admission.run().labels.clone(),
            user_name: None,
            identity: None,
            through: None,
        };
        let key = Arc::new(HashKey::new(Zeroizing::new([7; 32])));
        let parts = Parts {
            gate: Arc::new(Gate::new(policies, Approvals::new(&Config::default()))),
            masking: Masking::new(&Rules::of(&loaded, &admission), &relations(), key).unwrap(),
            admission,
            calls: super::calls::Calls::default(),
            analyses: Arc::default(),
            record: recorder.session(&opened, 1024).unwrap(),
            database: "shop".to_owned(),
            search_path: SearchPath::Unknown,
            replicates: false,
        };
        Self {
            conversation: Conversation::new(parts, Idle),
            client: Wire { scanner: Scanner::new(), inbox: BytesMut::new() },
            server: Wire { scanner: Scanner::new(), inbox: BytesMut::new() },
            to_client: BytesMut::new(),
            to_server: BytesMut::new(),
            question: None,
            _folder: folder,
        }
    }

    /// Does what the pump does, until nothing moves.
    fn work(&mut self) -> Result<(), Broken> {
        let Self { conversation, client, server, to_client, to_server, question, .. } = self;
        let mut wires = Wires { client: to_client, upstream: Upstream(to_server) };
        let inbox = server.inbox.split();
        let mut input: &[u8] = &inbox;
        while let Some(item) = server.scanner.next(&mut input).map_err(Broken::Server)? {
            conversation.server_item(item, &mut wires)?;
        }
        server.inbox.extend_from_slice(input);
        if let Step::Question(asked) = conversation.resume(&mut wires)? {
            *question = Some(asked);
        }
        let inbox = client.inbox.split();
        let mut input: &[u8] = &inbox;
        while conversation.takes_client() {
            let Some(item) = client.scanner.next(&mut input).map_err(Broken::Client)? else { break };
            match conversation.client_item(item, &mut wires)? {
                Step::Discard => client.scanner.discard(),
                Step::Question(asked) => *question = Some(asked),
                Step::Done | Step::Wait => {}
            }
        }
        client.inbox.extend_from_slice(input);
        Ok(())
    }

    fn client(&mut self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.client.inbox);
        self.work().unwrap();
    }

    fn query(&mut self, sql: &str) {
        self.client(|out| frontend::query(out, text(sql)).unwrap());
    }

    fn server(&mut self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.server.inbox);
        self.work().unwrap();
    }

    /// A simple Query that the server completes with these tags.
    fn done(&mut self, sql: &str, tags: &[&str], status: TransactionStatus) {
        self.query(sql);
        assert_eq!(self.sent(), [format!("Query {sql}")]);
        self.server(|out| {
            tags.iter().for_each(|tag| backend::command_complete(out, text(tag)).unwrap());
            backend::ready_for_query(out, status);
        });
        self.seen();
    }

    fn answer(&mut self, answer: Answer) {
        let Self { conversation, to_client, to_server, .. } = self;
        let mut wires = Wires { client: to_client, upstream: Upstream(to_server) };
        drop(conversation.answer(answer, &mut wires).unwrap());
        self.work().unwrap();
    }

    /// What the server was sent since the last look.
    fn sent(&mut self) -> Vec<String> {
        frames::<FrontendTag>(&self.to_server.split())
    }

    /// What the client was shown since the last look.
    fn seen(&mut self) -> Vec<String> {
        frames::<BackendTag>(&self.to_client.split())
    }
}

/// Messages by name, with the printable part of their body.
fn frames<T: Tag>(bytes: &[u8]) -> Vec<String> {
    let mut scanner = Scanner::<T>::new();
    let mut input = bytes;
    let mut found = Vec::new();
    while let Some(item) = scanner.next(&mut input).unwrap() {
        let Item::Frame(frame) = item else { panic!("a large message") };
        let body: String =
            frame.body().iter().map(|&b| if b.is_ascii_graphic() { char::from(b) } else { ' ' }).collect();
        let words: Vec<&str> = body.split(' ').filter(|word| !word.is_empty()).collect();
        found.push(format!("{:?} {}", frame.tag, words.join(" ")).trim_end().to_owned());
    }
    assert!(input.is_empty(), "half a message");
    found
}

fn parse(out: &mut BytesMut, name: &str, sql: &str) {
    frontend::parse(out, text(name), text(sql), [].into_iter()).unwrap();
}

fn bind(out: &mut BytesMut, portal: &str, statement: &str) {
    let values: [Option<&[u8]>; 0] = [];
    frontend::bind(out, text(portal), text(statement), &[], values.into_iter(), &[]).unwrap();
}

fn execute(out: &mut BytesMut, portal: &str) {
    frontend::execute(out, text(portal), 0).unwrap();
}

fn describe(out: &mut BytesMut, portal: &str) {
    frontend::describe(out, Object::Portal(text(portal))).unwrap();
}

/// One computed column and one row of it.
fn described(out: &mut BytesMut) {
    let field = FieldDescription {
        name: text("x"),
        table_oid: 0,
        attribute: 0,
        type_oid: 25,
        type_length: -1,
        type_modifier: -1,
        format: Format::Text,
    };
    backend::row_description(out, [field].into_iter()).unwrap();
}

fn row(out: &mut BytesMut) {
    backend::data_row(out, [Some(SECRET.as_bytes())].into_iter()).unwrap();
}

fn failed(out: &mut BytesMut) {
    OwnReport::new(Severity::Error, sqlstate::SYNTAX_ERROR, "no").write(out);
}

fn ready(out: &mut BytesMut, status: TransactionStatus) {
    backend::ready_for_query(out, status);
}

#[track_caller]
fn assert_masked(seen: &[String]) {
    let rows: Vec<_> = seen.iter().filter(|message| message.starts_with("DataRow")).collect();
    assert!(!rows.is_empty(), "no row came: {seen:?}");
    assert!(rows.iter().all(|row| !row.contains(SECRET)), "{seen:?}");
}

#[track_caller]
fn assert_refused(rig: &mut Rig, what: &str) {
    let (sent, seen) = (rig.sent(), rig.seen());
    assert!(!sent.iter().any(|message| message.contains(what)), "forwarded: {sent:?}");
    assert!(seen.iter().any(|message| message.starts_with("ErrorResponse")), "{seen:?}");
}

#[test]
fn execute_means_what_its_own_message_prepared() {
    let mut rig = Rig::new();
    rig.done("PREPARE p AS SELECT 1", &["PREPARE"], Idle);
    rig.query("DEALLOCATE p; PREPARE p AS SELECT ssn || '' FROM customers; EXECUTE p");
    rig.server(|out| {
        backend::command_complete(out, text("DEALLOCATE")).unwrap();
        backend::command_complete(out, text("PREPARE")).unwrap();
        described(out);
        row(out);
    });
    assert_masked(&rig.seen());
}

#[test]
fn a_name_made_beside_other_statements_runs_only_its_own() {
    let mut rig = Rig::new();
    rig.done(
        "PREPARE p AS SELECT ssn || '' FROM customers; SELECT total FROM orders",
        &["PREPARE", "SELECT 0"],
        Idle,
    );
    rig.query("EXECUTE p");
    rig.server(|out| {
        described(out);
        row(out);
    });
    assert_masked(&rig.seen());
}

#[test]
fn execute_inside_another_statement_keeps_that_statement_s_effect() {
    let mut rig = Rig::under(&POLICY.replace(r#"effect = ["ddl"]"#, r#"effect = ["admin"]"#));
    rig.done("PREPARE p AS SELECT 1", &["PREPARE"], Idle);
    rig.query("CREATE TABLE t AS EXECUTE p");
    assert_refused(&mut rig, "CREATE");
}

#[test]
fn a_prepared_execute_is_judged_by_what_its_name_means_when_it_is_bound() {
    let mut rig = Rig::under(&POLICY.replace(r#"action = "deny""#, r#"action = "hold""#));
    rig.client(|out| {
        parse(out, "s", "SELECT 1");
        frontend::sync(out);
        parse(out, "q", "EXECUTE s");
        frontend::close(out, Object::Statement(text("s"))).unwrap();
        parse(out, "s", "DELETE FROM orders");
        frontend::sync(out);
    });
    rig.server(|out| {
        backend::parse_complete(out);
        ready(out, Idle);
    });
    rig.server(|out| {
        backend::parse_complete(out);
        backend::close_complete(out);
        backend::parse_complete(out);
        ready(out, Idle);
    });
    rig.sent();
    rig.client(|out| bind(out, "", "q"));
    assert!(rig.question.is_some(), "it deletes, and that needs an approval");
    assert!(rig.sent().is_empty());
}

#[test]
fn a_bound_execute_does_not_run_once_its_name_has_moved() {
    let mut rig = Rig::under(&POLICY.replace(r#"action = "deny""#, r#"action = "hold""#));
    rig.client(|out| {
        parse(out, "s", "SELECT 1");
        parse(out, "q", "EXECUTE s");
        bind(out, "c", "q");
        frontend::close(out, Object::Statement(text("s"))).unwrap();
        parse(out, "s", "DELETE FROM orders");
        execute(out, "c");
    });
    assert!(!rig.sent().iter().any(|message| message.starts_with("Execute")));
}

#[test]
fn a_name_only_bound_to_be_made_is_not_made() {
    let mut rig = Rig::under(&POLICY.replace(r#"action = "deny""#, r#"action = "hold""#));
    rig.client(|out| {
        parse(out, "s", "DELETE FROM orders");
        frontend::sync(out);
    });
    rig.server(|out| {
        backend::parse_complete(out);
        ready(out, Idle);
    });
    rig.sent();
    rig.client(|out| {
        parse(out, "", "PREPARE s AS SELECT 1");
        bind(out, "never run", "");
        parse(out, "", "EXECUTE s");
        bind(out, "", "");
    });
    let sent = rig.sent();
    assert_eq!(
        sent.last().unwrap(),
        "Parse portcullis_refused portcullis refused this statement",
        "{sent:?}"
    );
}

#[test]
fn a_name_whose_maker_is_unanswered_waits_for_the_answer() {
    let mut rig = Rig::new();
    rig.client(|out| {
        parse(out, "s", "SELECT ssn || '' FROM customers");
        frontend::sync(out);
    });
    rig.server(|out| {
        backend::parse_complete(out);
        ready(out, Idle);
    });
    rig.sent();
    rig.client(|out| {
        parse(out, "s", "SELECT 1");
        frontend::sync(out);
        bind(out, "", "s");
        describe(out, "");
        execute(out, "");
        frontend::sync(out);
    });
    assert_eq!(rig.sent(), ["Parse s SELECT 1", "Sync", "Flush"], "the Bind could mean either");
    rig.seen();
    rig.server(|out| {
        failed(out);
        ready(out, Idle);
    });
    assert_eq!(rig.sent(), ["Bind s", "Describe P", "Execute", "Sync"]);
    rig.server(|out| {
        backend::bind_complete(out);
        described(out);
        row(out);
    });
    assert_masked(&rig.seen());
}

#[test]
fn a_cursor_is_masked_by_its_own_query_wherever_it_was_declared() {
    let mut rig = Rig::new();
    rig.done(
        "BEGIN; DECLARE c CURSOR FOR SELECT ssn || '' FROM customers",
        &["BEGIN", "DECLARE CURSOR"],
        InTransaction,
    );
    rig.client(|out| {
        execute(out, "c");
        frontend::sync(out);
    });
    assert_eq!(rig.sent(), ["Describe Pc", "Execute c", "Sync"]);
    rig.server(|out| {
        described(out);
        row(out);
    });
    assert_masked(&rig.seen());
}

#[test]
fn a_portal_under_a_dead_cursor_s_name_is_not_taken_for_the_cursor() {
    let mut rig = Rig::new();
    rig.done("BEGIN; DECLARE c CURSOR FOR SELECT 1", &["BEGIN", "DECLARE CURSOR"], InTransaction);
    rig.done("COMMIT", &["COMMIT"], Idle);
    rig.done("BEGIN", &["BEGIN"], InTransaction);
    rig.client(|out| {
        parse(out, "", "SELECT ssn || '' FROM customers");
        bind(out, "c", "");
        frontend::sync(out);
    });
    rig.server(|out| {
        backend::parse_complete(out);
        backend::bind_complete(out);
        ready(out, InTransaction);
    });
    rig.query("FETCH ALL FROM c");
    rig.server(|out| {
        described(out);
        row(out);
    });
    assert_masked(&rig.seen());
}

#[test]
fn a_cursor_under_a_closed_portal_s_name_is_not_taken_for_the_portal() {
    let mut rig = Rig::new();
    rig.done("BEGIN", &["BEGIN"], InTransaction);
    rig.client(|out| {
        parse(out, "", "SELECT 1");
        bind(out, "c", "");
        describe(out, "c");
        frontend::sync(out);
    });
    rig.server(|out| {
        backend::parse_complete(out);
        backend::bind_complete(out);
        described(out);
        ready(out, InTransaction);
    });
    rig.sent();
    rig.done(
        "CLOSE c; DECLARE c CURSOR FOR SELECT ssn || '' FROM customers",
        &["CLOSE CURSOR", "DECLARE CURSOR"],
        InTransaction,
    );
    rig.client(|out| execute(out, "c"));
    assert_eq!(rig.sent(), ["Describe Pc", "Execute c"]);
    rig.server(|out| {
        described(out);
        row(out);
    });
    assert_masked(&rig.seen());
}

#[test]
fn code_that_nobody_saw_takes_the_certainty_from_names() {
    let mut rig = Rig::new();
    rig.done("PREPARE p AS SELECT 1", &["PREPARE"], Idle);
    rig.done("DO $$ BEGIN EXECUTE 'DEALLOCATE p'; END $$", &["DO"], Idle);
    rig.query("EXECUTE p");
    assert_refused(&mut rig, "EXECUTE");
    rig.done("DEALLOCATE p; PREPARE p AS SELECT 2", &["DEALLOCATE", "PREPARE"], Idle);
    rig.query("EXECUTE p");
    assert_eq!(rig.sent(), ["Query EXECUTE p"]);
}

#[test]
fn a_schema_change_and_what_comes_after_it_do_not_overlap() {
    let mut rig = Rig::new();
    rig.client(|out| {
        frontend::query(out, text("CREATE OR REPLACE VIEW orders2 AS SELECT ssn AS total FROM customers"))
            .unwrap();
        frontend::query(out, text("SELECT total FROM orders")).unwrap();
    });
    assert_eq!(rig.sent().len(), 2, "the change, and a Flush that hurries it");
    assert!(!rig.conversation.takes_client());
}

#[test]
fn after_a_schema_change_nothing_known_of_relations_counts() {
    let show = |rig: &mut Rig| {
        rig.server(|out| {
            let field = FieldDescription {
                name: text("total"),
                table_oid: 20_002,
                attribute: 2,
                type_oid: 25,
                type_length: -1,
                type_modifier: -1,
                format: Format::Text,
            };
            backend::row_description(out, [field].into_iter()).unwrap();
            row(out);
        });
    };
    let mut same_message = Rig::new();
    same_message.query(
        "CREATE VIEW fresh AS SELECT ssn AS total FROM customers; ALTER VIEW fresh RENAME TO orders; TABLE orders",
    );
    same_message.server(|out| {
        backend::command_complete(out, text("CREATE VIEW")).unwrap();
        backend::command_complete(out, text("ALTER VIEW")).unwrap();
    });
    show(&mut same_message);
    assert_masked(&same_message.seen());

    let mut same_transaction = Rig::new();
    same_transaction.done(
        "BEGIN; CREATE VIEW fresh AS SELECT ssn AS total FROM customers; ALTER VIEW fresh RENAME TO orders",
        &["BEGIN", "CREATE VIEW", "ALTER VIEW"],
        InTransaction,
    );
    assert!(!same_transaction.conversation.take_schema_changed(), "nobody else can see it yet");
    same_transaction.query("SELECT total FROM orders");
    show(&mut same_transaction);
    assert_masked(&same_transaction.seen());
}

#[test]
fn a_failure_in_the_middle_of_a_pipeline_skips_what_the_client_sends_next() {
    let mut rig = Rig::new();
    rig.client(|out| parse(out, "", "SELECT nonsense"));
    rig.sent();
    rig.server(failed);
    rig.client(|out| {
        bind(out, "", "");
        execute(out, "");
        frontend::query(out, text("SELECT 1")).unwrap();
    });
    assert!(rig.sent().is_empty(), "the server would drop it");
    rig.client(frontend::sync);
    assert_eq!(rig.sent(), ["Sync"]);
    rig.server(|out| ready(out, Idle));
    assert_eq!(rig.seen().last().unwrap(), "ReadyForQuery I");
}

#[test]
fn a_portal_is_not_run_once_its_token_has_run_out() {
    let identity = |lasts_ms| crate::run::Identity {
        issuer: "https://idp.example".to_owned(),
        subject: "job".to_owned(),
        name: None,
        groups: Vec::new(),
        groups_claim: None,
        claims: serde_json::json!({"aud": "portcullis", "org": "acme"}).as_object().cloned().unwrap(),
        expires_ms: crate::run::now_ms() + lasts_ms,
        token: String::new(),
        meaning: String::new(),
    };
    let asks = "[identity]\nissuer = \"https://idp.example\"\naudience = \"portcullis\"\nclaims = { org = \"acme\" }\nin_band = true\n[[connection]]";
    for (lasts_ms, runs) in [(60_000, true), (20, false)] {
        let mut rig = Rig::under(&POLICY.replacen("[[connection]]", asks, 1));
        rig.conversation.admission = rig.conversation.admission.clone().for_whom(identity(lasts_ms));
        rig.client(|out| {
            parse(out, "", "SELECT id FROM customers");
            bind(out, "", "");
        });
        assert!(rig.sent().iter().any(|message| message.starts_with("Bind")));
        std::thread::sleep(std::time::Duration::from_millis(if runs { 0 } else { 25 }));
        rig.client(|out| {
            execute(out, "");
            frontend::sync(out);
        });
        assert_eq!(rig.sent().iter().any(|message| message.starts_with("Execute")), runs);
    }
}

#[test]
fn a_refusal_alone_is_told_at_once() {
    let mut rig = Rig::new();
    rig.query("DELETE FROM orders");
    assert!(rig.sent().is_empty());
    let seen = rig.seen();
    assert!(seen[0].contains("42501"), "{seen:?}");
    assert_eq!(seen[1..], ["ReadyForQuery I"]);
}

#[test]
fn a_refusal_inside_a_transaction_fails_the_transaction() {
    let mut rig = Rig::new();
    rig.done("BEGIN", &["BEGIN"], InTransaction);
    rig.query("DELETE FROM orders");
    assert_eq!(rig.sent(), ["Parse portcullis_refused portcullis refused this statement", "Sync"]);
    assert!(rig.seen().is_empty(), "not before the server has failed too");
    rig.server(|out| {
        failed(out);
        ready(out, Failed);
    });
    let seen = rig.seen();
    assert!(seen[0].contains("42501") && !seen[0].contains("42601"), "{seen:?}");
    assert_eq!(seen[1..], ["ReadyForQuery E"]);
}

#[test]
fn a_refusal_at_the_end_of_a_pipeline_undoes_the_pipeline() {
    let mut rig = Rig::new();
    rig.client(|out| {
        parse(out, "", "SELECT 1");
        bind(out, "", "");
        execute(out, "");
        parse(out, "", "DELETE FROM orders");
        bind(out, "", "");
        execute(out, "");
        frontend::sync(out);
    });
    let sent = rig.sent();
    assert_eq!(
        sent[3..],
        ["Parse portcullis_refused portcullis refused this statement", "Sync"],
        "the pipeline is one transaction"
    );
}

/// SQL's PREPARE takes no COPY, but Parse does, and EXECUTE then runs it.
#[test]
fn a_copy_that_is_run_by_its_name_is_masked() {
    let mut rig = Rig::new();
    rig.client(|out| {
        parse(out, "p", "COPY customers TO STDOUT");
        frontend::sync(out);
    });
    rig.server(|out| {
        backend::parse_complete(out);
        ready(out, Idle);
    });
    rig.seen();
    rig.query("EXECUTE p");
    rig.server(|out| {
        // CopyOutResponse: text, two columns.
        out.extend_from_slice(b"H\0\0\0\x0b\0\0\x02\0\0\0\0");
        backend::copy_data(out, format!("1\t{SECRET}\n").as_bytes()).unwrap();
    });
    let seen = rig.seen();
    assert!(seen.iter().any(|message| message.starts_with("CopyData")), "{seen:?}");
    assert!(!seen.concat().contains(SECRET), "{seen:?}");
}

#[test]
fn a_copy_sent_in_one_go_ends_where_the_client_ended_it() {
    let mut rig = Rig::under(
        &POLICY
            .replace(r#"["write", "unknown"]"#, r#"["unknown"]"#)
            .replace(r#"effect = ["ddl"]"#, r#"effect = ["ddl", "write"]"#),
    );
    rig.client(|out| {
        parse(out, "", "COPY orders FROM STDIN");
        bind(out, "", "");
        execute(out, "");
        backend::copy_data(out, b"1\t2\n").unwrap();
        frontend::copy_done(out);
        frontend::sync(out);
        frontend::query(out, text("SELECT 1")).unwrap();
    });
    let sent: Vec<String> =
        rig.sent().iter().map(|message| message.split(' ').next().unwrap().into()).collect();
    assert_eq!(sent, ["Parse", "Bind", "Execute", "CopyData", "CopyDone", "Sync", "Query"]);
    rig.server(|out| {
        backend::parse_complete(out);
        backend::bind_complete(out);
        // CopyInResponse: text, no columns.
        out.extend_from_slice(b"G\0\0\0\x07\0\0\0");
        backend::command_complete(out, text("COPY 1")).unwrap();
        ready(out, Idle);
        backend::command_complete(out, text("SELECT 1")).unwrap();
        ready(out, Idle);
    });
    assert_eq!(rig.seen().last().unwrap(), "ReadyForQuery I");
}

#[test]
fn a_sync_sent_before_the_copy_is_swallowed() {
    let mut rig = Rig::under(
        &POLICY
            .replace(r#"["write", "unknown"]"#, r#"["unknown"]"#)
            .replace(r#"effect = ["ddl"]"#, r#"effect = ["ddl", "write"]"#),
    );
    rig.client(|out| {
        parse(out, "", "COPY orders FROM STDIN");
        bind(out, "", "");
        execute(out, "");
        frontend::sync(out);
    });
    rig.server(|out| {
        backend::parse_complete(out);
        backend::bind_complete(out);
        out.extend_from_slice(b"G\0\0\0\x07\0\0\0");
    });
    rig.client(|out| {
        backend::copy_data(out, b"1\t2\n").unwrap();
        frontend::copy_done(out);
        frontend::sync(out);
    });
    rig.server(|out| {
        backend::command_complete(out, text("COPY 1")).unwrap();
        ready(out, Idle);
    });
    assert_eq!(rig.seen().last().unwrap(), "ReadyForQuery I");
}

/// Whether a copy that failed at once had read the Sync behind it is the server's affair; both must be followed.
#[test]
fn a_copy_that_fails_may_or_may_not_have_swallowed_a_sync() {
    let policy = POLICY
        .replace(r#"["write", "unknown"]"#, r#"["unknown"]"#)
        .replace(r#"effect = ["ddl"]"#, r#"effect = ["ddl", "write"]"#);
    for answered in [1, 2] {
        for sent_at_once in [true, false] {
            let mut rig = Rig::under(&policy);
            let end = |out: &mut BytesMut| {
                backend::copy_data(out, b"1\t2\n").unwrap();
                frontend::copy_done(out);
                frontend::sync(out);
            };
            rig.client(|out| {
                parse(out, "", "COPY orders FROM STDIN");
                bind(out, "", "");
                execute(out, "");
                frontend::sync(out);
                if sent_at_once {
                    end(out);
                }
            });
            rig.server(|out| {
                backend::parse_complete(out);
                backend::bind_complete(out);
                out.extend_from_slice(b"G\0\0\0\x07\0\0\0");
                failed(out);
            });
            if !sent_at_once {
                rig.client(end);
            }
            rig.server(|out| (0..answered).for_each(|_| ready(out, Idle)));
            rig.query("SELECT 1");
            assert_eq!(rig.sent().last().unwrap(), "Query SELECT 1");
            rig.server(|out| {
                backend::command_complete(out, text("SELECT 1")).unwrap();
                ready(out, Idle);
            });
            assert_eq!(rig.seen().last().unwrap(), "ReadyForQuery I", "{answered} {sent_at_once}");
        }
    }
}

/// One ReadyForQuery more or less must not shift what comes after it to another statement's masks.
#[test]
fn what_follows_a_failed_copy_is_masked_as_itself() {
    let policy = POLICY
        .replace(r#"["write", "unknown"]"#, r#"["unknown"]"#)
        .replace(r#"effect = ["ddl"]"#, r#"effect = ["ddl", "write"]"#);
    for answered in [1, 2] {
        let mut rig = Rig::under(&policy);
        rig.client(|out| {
            parse(out, "", "COPY orders FROM STDIN");
            bind(out, "", "");
            execute(out, "");
            frontend::sync(out);
            frontend::copy_done(out);
            frontend::sync(out);
            frontend::query(out, text("SELECT ssn || '' FROM customers")).unwrap();
            frontend::query(out, text("SELECT 'harmless'")).unwrap();
        });
        rig.server(|out| {
            backend::parse_complete(out);
            backend::bind_complete(out);
            out.extend_from_slice(b"G\0\0\0\x07\0\0\0");
            failed(out);
            (0..answered).for_each(|_| ready(out, Idle));
            described(out);
            row(out);
        });
        assert_masked(&rig.seen());
    }
}

#[test]
fn a_constraint_checked_at_commit_quotes_nothing_of_masked_rows() {
    let mut rig = Rig::new();
    rig.done("BEGIN", &["BEGIN"], InTransaction);
    rig.query("SELECT id FROM customers");
    rig.server(|out| {
        backend::command_complete(out, text("SELECT 0")).unwrap();
        ready(out, InTransaction);
    });
    rig.query("COMMIT");
    rig.seen();
    rig.server(|out| {
        let quoted = format!("Key (ssn)=({SECRET}) already exists.");
        OwnReport::new(Severity::Error, sqlstate::SYNTAX_ERROR, "duplicate key").detail(quoted).write(out);
    });
    assert!(!rig.seen().concat().contains(SECRET));
}

#[test]
fn names_of_replies_are_no_longer_than_the_server_keeps() {
    let mut rig = Rig::new();
    let long = "n".repeat(200_000);
    rig.client(|out| {
        parse(out, &long, "SELECT 1");
        bind(out, &long, &long);
        execute(out, long.split_at(5000).0);
    });
    assert!(format!("{:?}", rig.conversation.replies).len() < 4096);
}

#[test]
fn an_approval_of_what_the_server_skips_is_withdrawn() {
    let mut rig = Rig::under(&POLICY.replace(r#"action = "deny""#, r#"action = "hold""#));
    rig.client(|out| {
        parse(out, "", "DELETE FROM orders");
        bind(out, "", "");
    });
    assert!(rig.question.is_some());
    rig.server(failed);
    assert!(rig.conversation.waiting().is_none());
    rig.sent();
    rig.answer(Answer::Cancelled);
    rig.client(frontend::sync);
    assert_eq!(rig.sent(), ["Sync"]);
}
