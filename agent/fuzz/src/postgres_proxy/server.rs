//! A server that keeps to the protocol, for a handful of relations: `customers (id, ssn)`, `orders (id, total)`,
//! `secret_table (x)`. Which statements fail, how many rows there are and when it answers is the fuzzer's.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;
use portcullis::codec::postgres::backend::{FieldDescription, TransactionStatus};
use portcullis::codec::postgres::encode::backend;
use portcullis::codec::postgres::frontend::{Bind, Execute, FunctionCall, Object, Parse, Query};
use portcullis::codec::postgres::report::{OwnReport, Severity};
use portcullis::codec::postgres::{Format, FrontendTag, Item, Scanner, Text, sqlstate};

use super::client::LO_OPEN;
use super::statements::{Column, KNOWN, MAKERS, SECRET, UNKNOWN};
use super::world::World;
use crate::input::Input;

/// Bytes of a value that makes its row too long to be held.
const LONG_BYTES: usize = 270 * 1024;

struct Portal {
    text: String,
    formats: Vec<Format>,
}

/// Which end a COPY FROM STDIN comes to.
enum Copying {
    No,
    Simple(VecDeque<String>),
    Extended,
}

pub struct Server {
    policy: usize,
    scanner: Scanner<FrontendTag>,
    inbox: Vec<u8>,
    large: Vec<u8>,
    queue: VecDeque<(FrontendTag, Vec<u8>)>,
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, Portal>,
    status: TransactionStatus,
    skipping: bool,
    copying: Copying,
    pub out: BytesMut,
    /// It has kept to the protocol so far.
    pub honest: bool,
    /// Everything it said of its transaction.
    pub statuses: Vec<TransactionStatus>,
    pub closed: bool,
}

fn text(text: &[u8]) -> Text<'_> {
    Text::before_nul(text)
}

impl Server {
    pub fn new(policy: usize) -> Self {
        Self {
            policy,
            scanner: Scanner::new(),
            inbox: Vec::new(),
            large: Vec::new(),
            queue: VecDeque::new(),
            statements: HashMap::new(),
            portals: HashMap::new(),
            status: TransactionStatus::Idle,
            skipping: false,
            copying: Copying::No,
            out: BytesMut::new(),
            honest: true,
            statuses: vec![TransactionStatus::Idle],
            closed: false,
        }
    }

    /// Takes what the relay sent: it keeps to the protocol, and sends nothing that policy denies.
    pub fn hear(&mut self, bytes: &[u8], world: &World) {
        self.inbox.extend_from_slice(bytes);
        let inbox = std::mem::take(&mut self.inbox);
        let mut input = inbox.as_slice();
        while let Some(item) = self.scanner.next(&mut input).expect("the relay keeps to the protocol") {
            match item {
                Item::Frame(frame) => {
                    portcullis::codec::postgres::frontend::check(frame)
                        .expect("the relay's messages can be read");
                    self.check(frame.tag, frame.body(), world);
                    self.queue.push_back((frame.tag, frame.body().to_vec()));
                }
                Item::Large { .. } => self.large.clear(),
                Item::Chunk { tag, bytes, left } => {
                    self.large.extend_from_slice(bytes);
                    if left == 0 {
                        self.queue.push_back((tag, std::mem::take(&mut self.large)));
                    }
                }
            }
        }
        self.inbox = input.to_vec();
    }

    fn check(&self, tag: FrontendTag, body: &[u8], world: &World) {
        let text = match tag {
            FrontendTag::Query => Query::decode(body).ok().and_then(|query| query.sql().ok()),
            // One whose rows are to be estimated is judged when its parameters are bound.
            FrontendTag::Parse if World::judges_texts(self.policy) => {
                Parse::decode(body).ok().and_then(|parse| parse.sql().ok())
            }
            _ => None,
        };
        if tag == FrontendTag::FunctionCall && World::judges_effects(self.policy) {
            let call = FunctionCall::decode(body).expect("a call");
            assert_ne!(call.function, LO_OPEN, "lo_open reached the server");
        }
        if let Some(text) = text {
            world.assert_permitted(self.policy, text);
        }
    }

    /// Whether something waits for an answer.
    pub fn owes(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Answers the next message.
    pub fn answer(&mut self, input: &mut Input<'_>, world: &World) {
        let Some((tag, body)) = self.queue.pop_front() else { return };
        if !matches!(self.copying, Copying::No) {
            return self.copy_goes_on(tag, input, world);
        }
        match tag {
            FrontendTag::Terminate => self.closed = true,
            FrontendTag::Sync => {
                self.skipping = false;
                self.ready();
            }
            // After an error everything is skipped, Query and FunctionCall too.
            _ if self.skipping => {}
            FrontendTag::Query => {
                let text = Query::decode(&body).ok().and_then(|query| query.sql().ok()).unwrap_or_default();
                let statements = statements(text, world);
                if statements.is_empty() {
                    if text.trim().is_empty() {
                        backend::empty_query_response(&mut self.out);
                    } else {
                        self.fail("syntax error", "");
                        self.skipping = false;
                    }
                    return self.ready();
                }
                self.run_all(statements, input);
            }
            FrontendTag::FunctionCall => {
                backend::function_call_response(&mut self.out, Some(b"x")).expect("it fits");
                self.ready();
            }
            FrontendTag::Parse => self.parse(&body, input, world),
            FrontendTag::Bind => self.bind(&body, world),
            FrontendTag::Describe => self.describe(&body),
            FrontendTag::Execute => self.execute(&body, input),
            FrontendTag::Close => {
                match Object::decode_close(&body) {
                    Ok(Object::Statement(name)) => drop(self.statements.remove(name.as_bytes())),
                    Ok(Object::Portal(name)) => drop(self.portals.remove(name.as_bytes())),
                    Err(_) => {}
                }
                backend::close_complete(&mut self.out);
            }
            FrontendTag::CopyData
            | FrontendTag::CopyDone
            | FrontendTag::CopyFail
            | FrontendTag::Flush
            | FrontendTag::Password => {}
        }
    }

    fn ready(&mut self) {
        if self.status == TransactionStatus::Idle {
            self.portals.retain(|name, _| name == b"d");
        }
        self.statuses.push(self.status);
        backend::ready_for_query(&mut self.out, self.status);
    }

    fn fail(&mut self, message: &str, detail: &str) {
        OwnReport::new(Severity::Error, sqlstate::SYNTAX_ERROR, message).detail(detail).write(&mut self.out);
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
        self.skipping = true;
    }

    fn run_all(&mut self, mut statements: VecDeque<String>, input: &mut Input<'_>) {
        while let Some(statement) = statements.pop_front() {
            match self.run(&statement, &[], input) {
                Ran::Done => {}
                Ran::Copies => {
                    self.copying = Copying::Simple(statements);
                    return;
                }
                Ran::Failed => break,
            }
        }
        self.skipping = false;
        self.ready();
    }

    fn parse(&mut self, body: &[u8], input: &mut Input<'_>, world: &World) {
        let Ok(parse) = Parse::decode(body) else { return self.fail("protocol violation", "") };
        let sql = parse.sql().unwrap_or_default();
        let statements = statements(sql, world);
        if statements.len() > 1 || (statements.is_empty() && !sql.trim().is_empty()) || input.byte() == 255 {
            return self.fail("syntax error", "");
        }
        self.statements.insert(parse.name.as_bytes().to_vec(), sql.trim().to_owned());
        backend::parse_complete(&mut self.out);
    }

    fn bind(&mut self, body: &[u8], world: &World) {
        let Ok(bind) = Bind::decode(body) else { return self.fail("protocol violation", "") };
        let Some(text) = self.statements.get(bind.statement.as_bytes()).cloned() else {
            return self.fail("no such statement", "");
        };
        if self.honest {
            world.assert_permitted(self.policy, &text);
        }
        let formats = bind.result_formats.iter().collect();
        self.portals.insert(bind.portal.as_bytes().to_vec(), Portal { text, formats });
        backend::bind_complete(&mut self.out);
    }

    fn describe(&mut self, body: &[u8]) {
        let (statement, formats) = match Object::decode_describe(body) {
            Ok(Object::Statement(name)) => match self.statements.get(name.as_bytes()) {
                Some(statement) => {
                    backend::parameter_description(&mut self.out, [25].into_iter()).expect("it fits");
                    (statement.clone(), Vec::new())
                }
                None => return self.fail("no such statement", ""),
            },
            Ok(Object::Portal(name)) => match self.portals.get(name.as_bytes()) {
                Some(portal) => (portal.text.clone(), portal.formats.clone()),
                None => return self.fail("no such portal", ""),
            },
            Err(_) => return self.fail("protocol violation", ""),
        };
        match self.columns(&statement) {
            Some(columns) if !is_copy(&self.resolve(&statement)) => self.row_description(columns, &formats),
            Some(_) | None => backend::no_data(&mut self.out),
        }
    }

    fn execute(&mut self, body: &[u8], input: &mut Input<'_>) {
        let Ok(execute) = Execute::decode(body) else { return self.fail("protocol violation", "") };
        let Some(portal) = self.portals.get(execute.portal.as_bytes()) else {
            return self.fail("no such portal", "");
        };
        let (statement, formats) = (portal.text.clone(), portal.formats.clone());
        if statement.is_empty() {
            return backend::empty_query_response(&mut self.out);
        }
        if execute.max_rows > 0
            && self.columns(&statement).is_some()
            && input.below(2) == 0
            && !is_copy(&self.resolve(&statement))
        {
            let columns = self.columns(&statement).unwrap_or(UNKNOWN);
            (0..execute.max_rows.min(3)).for_each(|_| self.row(columns, 0));
            return backend::portal_suspended(&mut self.out);
        }
        // A portal is described by Describe only.
        match self.run_as(&statement, Some(&formats), input) {
            Ran::Copies => self.copying = Copying::Extended,
            Ran::Done | Ran::Failed => {}
        }
    }

    fn copy_goes_on(&mut self, tag: FrontendTag, input: &mut Input<'_>, _world: &World) {
        match tag {
            FrontendTag::CopyData | FrontendTag::Flush | FrontendTag::Sync => {}
            FrontendTag::Terminate => self.closed = true,
            FrontendTag::CopyDone => {
                backend::command_complete(&mut self.out, text(b"COPY 1")).expect("it fits");
                if let Copying::Simple(rest) = std::mem::replace(&mut self.copying, Copying::No) {
                    self.run_all(rest, input);
                }
            }
            // Anything else fails the copy, as CopyFail does.
            _ => {
                self.fail("COPY from stdin failed", "");
                if let Copying::Simple(_) = std::mem::replace(&mut self.copying, Copying::No) {
                    self.skipping = false;
                    self.ready();
                }
            }
        }
    }

    /// What a statement stands for: the one behind a name.
    fn resolve(&self, statement: &str) -> String {
        let of = |kept: Option<&String>| kept.cloned().unwrap_or_default();
        match statement {
            "EXECUTE p" => of(self.statements.get(&b"p"[..])),
            "EXECUTE q" => of(self.statements.get(&b"q"[..])),
            "FETCH ALL FROM c" => of(self.portals.get(&b"c"[..]).map(|portal| &portal.text)),
            "FETCH 2 FROM d" => of(self.portals.get(&b"d"[..]).map(|portal| &portal.text)),
            other => other.to_owned(),
        }
    }

    /// The columns of a statement's result, if it has one.
    fn columns(&self, statement: &str) -> Option<&'static [Column]> {
        let meant = self.resolve(statement);
        if let Some((_, columns)) = KNOWN.iter().find(|(known, _)| *known == meant) {
            return Some(columns);
        }
        let word = meant.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        let returns = matches!(
            word.as_str(),
            "SELECT" | "TABLE" | "VALUES" | "SHOW" | "EXPLAIN" | "FETCH" | "WITH" | "EXECUTE"
        );
        (returns || is_copy(&meant)).then_some(UNKNOWN)
    }

    fn run(&mut self, statement: &str, formats: &[Format], input: &mut Input<'_>) -> Ran {
        if let Some(columns) = self.columns(statement)
            && !is_copy(&self.resolve(statement))
            && self.status != TransactionStatus::Failed
        {
            self.row_description(columns, formats);
        }
        self.run_as(statement, None, input)
    }

    fn run_as(&mut self, statement: &str, _formats: Option<&[Format]>, input: &mut Input<'_>) -> Ran {
        let how = input.byte();
        let columns = self.columns(statement);
        let meant = self.resolve(statement);
        let holds_secret =
            columns.is_some_and(|columns| columns.iter().any(|column| column.4.contains(SECRET)));
        let ends = matches!(statement, "COMMIT" | "ROLLBACK") || statement.starts_with("ROLLBACK TO");
        if how >= 240 || (self.status == TransactionStatus::Failed && !ends) || meant.is_empty() {
            let quoted = if holds_secret && self.honest { SECRET } else { "x" };
            self.fail(&format!("duplicate key ({quoted})"), &format!("Key (ssn)=({quoted}) already exists."));
            return Ran::Failed;
        }
        if meant.starts_with("COPY") && meant.contains("FROM STDIN") {
            self.out.extend_from_slice(b"G\0\0\0\x0b\0\0\x02\0\0\0\0");
            return Ran::Copies;
        }
        let rows = usize::from(how % 4);
        if let Some(columns) = columns {
            if is_copy(&meant) {
                self.copy_out(&meant, columns, rows);
            } else {
                (0..rows).for_each(|row| {
                    self.row(columns, if row == 0 && how % 16 == 13 { LONG_BYTES } else { 0 })
                });
            }
        }
        self.takes_effect(statement);
        let tag = format!(
            "{} {rows}",
            statement.split_whitespace().next().unwrap_or("SELECT").to_ascii_uppercase()
        );
        backend::command_complete(&mut self.out, text(tag.as_bytes())).expect("it fits");
        Ran::Done
    }

    /// What a statement does to names and the transaction.
    fn takes_effect(&mut self, statement: &str) {
        for (maker, name) in [(MAKERS[0], "p"), (MAKERS[1], "q")] {
            if let Some(kept) = statement.strip_prefix(maker) {
                self.statements.insert(name.as_bytes().to_vec(), kept.to_owned());
            }
        }
        for (maker, name) in [(MAKERS[2], "c"), (MAKERS[3], "d")] {
            if let Some(kept) = statement.strip_prefix(maker) {
                let portal = Portal { text: kept.to_owned(), formats: Vec::new() };
                self.portals.insert(name.as_bytes().to_vec(), portal);
            }
        }
        match statement {
            "BEGIN" => self.status = TransactionStatus::InTransaction,
            "COMMIT" | "ROLLBACK" => self.status = TransactionStatus::Idle,
            "ROLLBACK TO s" if self.status == TransactionStatus::Failed => {
                self.status = TransactionStatus::InTransaction;
            }
            "CLOSE c" => drop(self.portals.remove(&b"c"[..])),
            "CLOSE ALL" => self.portals.clear(),
            "DEALLOCATE p" => drop(self.statements.remove(&b"p"[..])),
            "DEALLOCATE ALL" => self.statements.clear(),
            "DISCARD ALL" => {
                self.statements.clear();
                self.portals.clear();
            }
            _ => {}
        }
    }

    fn row_description(&mut self, columns: &[Column], formats: &[Format]) {
        let format = |at: usize| match formats {
            [] => Format::Text,
            [one] => *one,
            each => each.get(at).copied().unwrap_or(Format::Text),
        };
        let field = |(at, column): (usize, &Column)| FieldDescription {
            name: text(column.0.as_bytes()),
            table_oid: column.1,
            attribute: column.2,
            type_oid: column.3,
            type_length: -1,
            type_modifier: -1,
            format: format(at),
        };
        let fields: Vec<_> = columns.iter().enumerate().map(field).collect();
        backend::row_description(&mut self.out, fields.into_iter()).expect("it fits");
    }

    /// One row, with so many bytes before its last value.
    fn row(&mut self, columns: &[Column], long: usize) {
        let mut cells: Vec<Vec<u8>> = columns.iter().map(|column| self.value(column)).collect();
        if let Some(last) = cells.last_mut()
            && long > 0
        {
            let mut filled = b"words, ".repeat(long / 7);
            filled.append(last);
            *last = filled;
        }
        backend::data_row(&mut self.out, cells.iter().map(|cell| Some(cell.as_slice()))).expect("it fits");
    }

    fn value(&self, column: &Column) -> Vec<u8> {
        let told = self.honest || !column.4.contains(SECRET);
        if told { column.4.as_bytes().to_vec() } else { b"x".to_vec() }
    }

    fn copy_out(&mut self, meant: &str, columns: &[Column], rows: usize) {
        let (binary, csv) = (meant.contains("binary"), meant.contains("csv"));
        let count = columns.len() as u16;
        let length = 4 + 3 + 2 * u32::from(count);
        self.out.extend_from_slice(b"H");
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(&[u8::from(binary)]);
        self.out.extend_from_slice(&count.to_be_bytes());
        (0..count).for_each(|_| self.out.extend_from_slice(&[0, u8::from(binary)]));
        let mut data = Vec::new();
        if binary {
            data.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\xff\xff");
        } else {
            for _ in 0..rows {
                let cells: Vec<Vec<u8>> = columns.iter().map(|column| self.value(column)).collect();
                data.extend_from_slice(&cells.join(if csv { &b","[..] } else { &b"\t"[..] }));
                data.push(b'\n');
            }
        }
        // Rows need not be messages of their own.
        for piece in data.chunks(11) {
            backend::copy_data(&mut self.out, piece).expect("it fits");
        }
        self.out.extend_from_slice(b"c\0\0\0\x04");
    }
}

/// How a statement went.
enum Ran {
    Copies,
    Done,
    Failed,
}

fn is_copy(statement: &str) -> bool {
    statement.starts_with("COPY")
}

/// The statements of a text; none when there are none or they cannot be read.
fn statements(sql: &str, world: &World) -> VecDeque<String> {
    let analysis = world.analyses.analyze(sql);
    let spans = analysis.statements.iter().map(|statement| sql.get(statement.span.clone()).unwrap_or(sql));
    spans.map(|text| text.trim().trim_end_matches(';').trim().to_owned()).collect()
}
