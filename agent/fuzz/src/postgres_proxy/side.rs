//! The server's end of Portcullis's own connections: it tells which relations there are, and nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use bytes::BytesMut;
use portcullis::codec::postgres::encode::backend;
use portcullis::codec::postgres::frontend::{Bind, Parse};
use portcullis::codec::postgres::{FrontendTag, Item, Scanner, Text};

use super::statements::{CUSTOMERS, ORDERS};

/// Lengths and protocol number before a start-up message's parameters.
const STARTUP_BYTES_MIN: usize = 8;

/// The code of a CancelRequest.
const CANCEL_REQUEST: [u8; 4] = 80_877_102_u32.to_be_bytes();

/// `pg_class`: OID, schema, name, kind.
const RELATIONS: [[&str; 4]; 3] = [
    ["20001", "public", "customers", "r"],
    ["20002", "public", "orders", "r"],
    ["20003", "public", "secret_table", "r"],
];

/// `pg_attribute`: relation, number, name, type.
const COLUMNS: [[&str; 4]; 5] = [
    ["20001", "1", "id", "23"],
    ["20001", "2", "ssn", "25"],
    ["20002", "1", "id", "23"],
    ["20002", "2", "total", "25"],
    ["20003", "1", "x", "25"],
];

/// `pg_proc`: OID; schema, name, result, arguments.
const FUNCTIONS: [(&str, [&str; 4]); 3] = [
    ("870", ["pg_catalog", "lower", "25", "25"]),
    ("952", ["pg_catalog", "lo_open", "23", "26 23"]),
    ("20500", ["public", "f", "25", "25"]),
];

/// A statement that writes a few rows.
const PLAN: &str = r#"[{"Plan": {"Node Type": "ModifyTable", "Plans": [{"Node Type": "Seq Scan", "Parent Relationship": "Outer", "Plan Rows": 5}]}}]"#;

const _: () = assert!(CUSTOMERS == 20_001 && ORDERS == 20_002);

pub struct Side {
    stream: TcpStream,
    inbox: Vec<u8>,
    scanner: Option<Scanner<FrontendTag>>,
    text: String,
    /// The first parameter of the statement that was bound last.
    parameter: Vec<u8>,
    out: BytesMut,
}

/// What every server says when somebody has logged in.
pub fn logged_in(out: &mut BytesMut, search_path: bool) {
    backend::authentication_ok(out);
    let path = search_path.then_some(("search_path", "\"$user\", public"));
    for (name, value) in
        [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")].into_iter().chain(path)
    {
        let (name, value) = (Text::before_nul(name.as_bytes()), Text::before_nul(value.as_bytes()));
        backend::parameter_status(out, name, value).expect("it fits");
    }
    out.extend_from_slice(b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02");
    out.extend_from_slice(b"Z\0\0\0\x05I");
}

/// The length of the start-up message that these bytes begin with, once it is whole.
pub fn startup_length(inbox: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*inbox.first_chunk()?) as usize;
    (length >= STARTUP_BYTES_MIN && inbox.len() >= length).then_some(length)
}

impl Side {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            inbox: Vec::new(),
            scanner: None,
            text: String::new(),
            parameter: Vec::new(),
            out: BytesMut::new(),
        }
    }

    /// Reads what has come and answers it. Says whether the connection goes on.
    pub fn work(&mut self) -> bool {
        let mut buffer = [0; 8192];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(read) => self.inbox.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        if self.scanner.is_none() {
            let Some(length) = startup_length(&self.inbox) else { return true };
            if self.inbox.get(4..8) == Some(&CANCEL_REQUEST[..]) {
                // As servers do.
                return false;
            }
            self.inbox.drain(..length);
            logged_in(&mut self.out, true);
            self.scanner = Some(Scanner::new());
        }
        let inbox = std::mem::take(&mut self.inbox);
        let mut input = inbox.as_slice();
        while let Some(scanner) = &mut self.scanner
            && let Some(Item::Frame(frame)) =
                scanner.next(&mut input).expect("the relay keeps to the protocol")
        {
            self.answer(frame.tag, frame.body());
        }
        self.inbox = input.to_vec();
        // What it asks and what it is told is small, so the socket takes it whole.
        let sent = self.stream.write_all(&self.out);
        self.out.clear();
        sent.is_ok()
    }

    fn answer(&mut self, tag: FrontendTag, body: &[u8]) {
        let out = &mut self.out;
        match tag {
            FrontendTag::Parse => {
                self.text = Parse::decode(body)
                    .ok()
                    .and_then(|parse| parse.sql().ok())
                    .unwrap_or_default()
                    .to_owned();
                backend::parse_complete(out);
            }
            FrontendTag::Bind => {
                let parameter =
                    Bind::decode(body).ok().and_then(|bind| bind.parameters.clone().next().flatten());
                self.parameter = parameter.unwrap_or_default().to_vec();
                backend::bind_complete(out);
            }
            FrontendTag::Describe => {
                backend::parameter_description(out, [].into_iter()).expect("it fits");
                backend::no_data(out);
            }
            FrontendTag::Execute => {
                let rows = rows(&self.text, &self.parameter);
                for row in rows {
                    backend::data_row(out, row.iter().map(|cell| Some(cell.as_bytes()))).expect("it fits");
                }
                backend::command_complete(out, Text::before_nul(b"SELECT 0")).expect("it fits");
            }
            FrontendTag::Sync => out.extend_from_slice(b"Z\0\0\0\x05I"),
            FrontendTag::Close => backend::close_complete(out),
            FrontendTag::Query
            | FrontendTag::CopyData
            | FrontendTag::CopyDone
            | FrontendTag::CopyFail
            | FrontendTag::Flush
            | FrontendTag::FunctionCall
            | FrontendTag::Password
            | FrontendTag::Terminate => {}
        }
    }
}

/// What the server tells Portcullis.
fn rows(text: &str, parameter: &[u8]) -> Vec<Vec<&'static str>> {
    let all = |rows: &[[&'static str; 4]]| rows.iter().map(|row| row.to_vec()).collect();
    if text.starts_with("SELECT c.oid, n.nspname, c.relname, c.relkind FROM") {
        all(&RELATIONS)
    } else if text.starts_with("SELECT a.attrelid, a.attnum") {
        all(&COLUMNS)
    } else if text.starts_with("SELECT n.nspname, p.proname, p.prorettype") {
        FUNCTIONS.iter().filter(|(oid, _)| oid.as_bytes() == parameter).map(|(_, row)| row.to_vec()).collect()
    } else if text.starts_with("EXPLAIN") && text.contains("orders") {
        vec![vec![PLAN]]
    } else {
        Vec::new()
    }
}
