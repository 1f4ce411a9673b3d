//! A recorded HTTP session as an HTTP archive (HAR 1.2, <http://www.softwareishard.com/blog/har-12-spec/>), which the
//! network panels of browsers open. One entry is written as soon as its exchange is over, so memory holds only what is open.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::sessions::timestamp;
use crate::record::asked::{Asked, base64};
use crate::record::event::{Direction, Event, HttpOutcome, Outcome, Refused};
use crate::record::read::Recorded;

/// Writes an archive.
pub struct Archive<'a> {
    out: &'a mut dyn Write,
    open: BTreeMap<u64, Exchange>,
    written: usize,
    session: String,
}

/// One exchange whose end has not been read.
#[derive(Default)]
struct Exchange {
    asked: Option<Asked>,
    rule: String,
    approval: Option<Value>,
    started_ns: u64,
    request: Vec<u8>,
    response: Vec<u8>,
    messages: Vec<Value>,
}

impl<'a> Archive<'a> {
    /// Begins the archive.
    ///
    /// # Errors
    /// The output fails.
    pub fn begin(out: &'a mut dyn Write) -> io::Result<Self> {
        let creator = json!({ "name": "Portcullis", "version": env!("CARGO_PKG_VERSION") });
        write!(out, "{{\"log\":{{\"version\":\"1.2\",\"creator\":{creator},\"pages\":[],\"entries\":[")?;
        Ok(Self { out, open: BTreeMap::new(), written: 0, session: String::new() })
    }

    /// Takes in one event.
    ///
    /// # Errors
    /// The output fails.
    pub fn event(&mut self, recorded: Recorded) -> io::Result<()> {
        let at_ns = recorded.header.wall_ns;
        match recorded.event {
            Some(Event::SessionOpened(opened)) => self.session = opened.flow.session.to_string(),
            Some(Event::Intent(intent)) => {
                let exchange = self.open.entry(intent.asked.operation).or_default();
                exchange.started_ns = at_ns;
                exchange.rule = intent.rule;
                exchange.approval = intent.approval.and_then(|approval| serde_json::to_value(approval).ok());
                exchange.asked = Some(intent.asked);
            }
            Some(Event::Body(block)) => {
                let exchange = self.open.entry(block.operation).or_default();
                match block.direction {
                    Direction::Request => exchange.request.extend(block.bytes),
                    Direction::Response => exchange.response.extend(block.bytes),
                }
            }
            Some(Event::Message(block)) => {
                let exchange = self.open.entry(block.operation).or_default();
                let (text, encoded) = text_of(&block.bytes);
                exchange.messages.push(json!({
                    "type": match block.direction { Direction::Request => "send", Direction::Response => "receive" },
                    "time": seconds(at_ns),
                    "opcode": if block.text && !encoded { 1 } else { 2 },
                    "data": text,
                }));
            }
            Some(Event::Outcome(outcome)) => {
                let exchange = self.open.remove(&outcome.operation).unwrap_or_default();
                self.entry(&answered(&exchange, &outcome, &self.session))?;
            }
            Some(Event::Refused(refused)) => {
                let started_ns =
                    self.open.remove(&refused.asked.operation).map_or(at_ns, |exchange| exchange.started_ns);
                self.entry(&refusal(&refused, started_ns.max(1).min(at_ns), &self.session))?;
            }
            Some(
                Event::Held(_)
                | Event::Decided(_)
                | Event::ResultRows(_)
                | Event::Stream(_)
                | Event::Note(_)
                | Event::OpaqueCounts(_)
                | Event::SessionClosed(_)
                | Event::Recovered(_)
                | Event::CarriedOver(_),
            )
            | None => {}
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Value) -> io::Result<()> {
        if self.written > 0 {
            write!(self.out, ",")?;
        }
        self.written += 1;
        write!(self.out, "\n{entry}")
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// The output fails.
    pub fn end(self) -> io::Result<()> {
        writeln!(self.out, "\n]}}}}")
    }
}

fn answered(exchange: &Exchange, outcome: &Outcome, session: &str) -> Value {
    let nothing = HttpOutcome::default();
    let http = outcome.http.as_deref().unwrap_or(&nothing);
    let milliseconds = |micros: u64| std::time::Duration::from_micros(micros).as_secs_f64() * 1000.0;
    let connect = http.connect_us.map_or(-1.0, milliseconds);
    let wait = milliseconds(http.wait_us.saturating_sub(http.connect_us.unwrap_or(0)));
    let (text, encoded) = text_of(&exchange.response);
    let mut content = json!({
        "size": http.response_body.bytes,
        "mimeType": field(&http.headers, "content-type"),
        "text": text,
    });
    if let (true, Some(content)) = (encoded, content.as_object_mut()) {
        content.insert("encoding".to_owned(), json!("base64"));
    }
    let mut entry = json!({
        "startedDateTime": timestamp(exchange.started_ns),
        "time": milliseconds(outcome.elapsed_us),
        "request": request(exchange.asked.as_ref(), &exchange.request, http.request_body.bytes),
        "response": {
            "status": http.status,
            "statusText": status_text(http.status),
            "httpVersion": http.version,
            "cookies": [],
            "headers": headers(&http.headers),
            "content": content,
            "redirectURL": field(&http.headers, "location"),
            "headersSize": -1,
            "bodySize": http.response_body.bytes,
        },
        "cache": {},
        "timings": {
            "blocked": -1, "dns": -1, "ssl": -1,
            "connect": connect, "send": 0, "wait": wait, "receive": milliseconds(http.receive_us),
        },
        "serverIPAddress": server_address(http),
        "connection": session,
        "_portcullis": {
            "rule": exchange.rule,
            "approval": exchange.approval,
            "effect": exchange.asked.as_ref().map(|asked| asked.statements.effect()),
            "masked": outcome.masked,
            "status": outcome.status,
            "error": outcome.error.as_ref().map(|error| error.message.as_str()),
            "notes": http.notes,
        },
    });
    if let (false, Some(entry)) = (exchange.messages.is_empty(), entry.as_object_mut()) {
        entry.insert("_webSocketMessages".to_owned(), json!(exchange.messages));
    }
    entry
}

fn refusal(refused: &Refused, started_ns: u64, session: &str) -> Value {
    let status = refused.status.unwrap_or(0);
    json!({
        "startedDateTime": timestamp(started_ns),
        "time": 0,
        "request": request(Some(&refused.asked), &[], 0),
        "response": {
            "status": status,
            "statusText": status_text(status),
            "httpVersion": "",
            "cookies": [],
            "headers": [],
            "content": { "size": 0, "mimeType": "application/problem+json", "text": refused.reason },
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": -1,
        },
        "cache": {},
        "timings": { "blocked": -1, "dns": -1, "ssl": -1, "connect": -1, "send": 0, "wait": 0, "receive": 0 },
        "connection": session,
        "_portcullis": {
            "rule": refused.rule,
            "approval": refused.approval,
            "effect": refused.asked.statements.effect(),
            "refused": refused.reason,
        },
    })
}

fn request(asked: Option<&Asked>, body: &[u8], size: u64) -> Value {
    let http = asked.and_then(|asked| asked.http.as_deref());
    let text = asked.map(|asked| asked.text.text.as_str()).unwrap_or_default();
    let (method, url) = text.split_once(' ').unwrap_or((text, ""));
    let query = url.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let pairs: Vec<Value> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let fields = http.map(|http| http.headers.as_slice()).unwrap_or_default();
    let mut request = json!({
        "method": http.map_or(method, |http| &http.method),
        "url": http.map_or(url, |http| &http.url),
        "httpVersion": http.map_or("", |http| &http.version),
        "cookies": [],
        "headers": headers(fields),
        "queryString": pairs,
        "headersSize": -1,
        "bodySize": size,
    });
    if let (false, Some(request)) = (body.is_empty(), request.as_object_mut()) {
        let (text, encoded) = text_of(body);
        let mut data = json!({ "mimeType": field(fields, "content-type"), "text": text });
        if let (true, Some(data)) = (encoded, data.as_object_mut()) {
            // The format has no word for it; this is what Chromium writes.
            data.insert("_encoding".to_owned(), json!("base64"));
        }
        request.insert("postData".to_owned(), data);
    }
    request
}

fn headers(fields: &[(String, String)]) -> Vec<Value> {
    fields.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
}

fn field<'f>(fields: &'f [(String, String)], name: &str) -> &'f str {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).unwrap_or_default()
}

fn status_text(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default()
}

/// Without the port, which the format does not want.
fn server_address(http: &HttpOutcome) -> String {
    let address = http.server.as_deref().and_then(|server| server.parse::<std::net::SocketAddr>().ok());
    address.map(|address| address.ip().to_string()).unwrap_or_default()
}

/// Text as it is, anything else in base64; and whether it is that.
fn text_of(bytes: &[u8]) -> (String, bool) {
    match str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (base64(bytes), true),
    }
}

fn seconds(wall_ns: u64) -> f64 {
    std::time::Duration::from_nanos(wall_ns).as_secs_f64()
}
