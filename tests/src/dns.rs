//! A name server on loopback that says what a test wants, late or wrong if so wanted, and counts what it is asked.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Record types (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

/// Most bytes of an answer by datagram; more is truncated.
const DATAGRAM_BYTES_MAX: usize = 1200;

/// How often the threads look whether to end.
const LOOK: Duration = Duration::from_millis(50);

/// See the module. Ends when it is dropped.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    over: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Zone {
    /// Answers by name asked for: owner and data, in order.
    answers: HashMap<String, Vec<(String, Data)>>,
    asked: Vec<(String, u16)>,
    delay: Duration,
    time_to_live: u32,
}

#[derive(Clone, Debug)]
enum Data {
    Address(IpAddr),
    Alias(String),
}

impl NameServer {
    /// Serves UDP and TCP at a port of its own.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(ip: Ipv4Addr) -> Result<Self> {
        let (tcp, udp) = std::iter::repeat_with(|| TcpListener::bind((ip, 0)))
            .take(50)
            .filter_map(Result::ok)
            .find_map(|tcp| {
                let udp = UdpSocket::bind(tcp.local_addr().ok()?).ok()?;
                Some((tcp, udp))
            })
            .context("no port that is free for both")?;
        udp.set_read_timeout(Some(LOOK))?;
        tcp.set_nonblocking(true)?;
        let zone = Arc::new(Mutex::new(Zone { time_to_live: 60, ..Zone::default() }));
        let server = Self { address: udp.local_addr()?, zone, over: Arc::default() };
        let (zone, over) = (Arc::clone(&server.zone), Arc::clone(&server.over));
        thread::spawn(move || serve_datagrams(&udp, &zone, &over));
        let (zone, over) = (Arc::clone(&server.zone), Arc::clone(&server.over));
        thread::spawn(move || serve_streams(&tcp, &zone, &over));
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `name` has these addresses, and no other answers.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        let answers = addresses.iter().map(|address| (name.to_owned(), Data::Address(*address))).collect();
        self.zone().answers.insert(name.to_owned(), answers);
    }

    /// Adds to what is answered about `name` that `alias` is another name for `target`.
    pub fn add_alias(&self, name: &str, alias: &str, target: &str) {
        let answer = (alias.to_owned(), Data::Alias(target.to_owned()));
        self.zone().answers.entry(name.to_owned()).or_default().push(answer);
    }

    /// Adds to what is answered about `name` that `owner` has this address.
    pub fn add_address(&self, name: &str, owner: &str, address: IpAddr) {
        let answer = (owner.to_owned(), Data::Address(address));
        self.zone().answers.entry(name.to_owned()).or_default().push(answer);
    }

    /// Answers this much later from now on.
    pub fn delay(&self, delay: Duration) {
        self.zone().delay = delay;
    }

    /// How long answers hold from now on, in seconds.
    pub fn time_to_live(&self, seconds: u32) {
        self.zone().time_to_live = seconds;
    }

    /// Every question so far: `A name` or `AAAA name`, sorted.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        let kind = |kind: u16| match kind {
            A => "A".to_owned(),
            AAAA => "AAAA".to_owned(),
            other => format!("TYPE{other}"),
        };
        let mut asked: Vec<_> =
            self.zone().asked.iter().map(|(name, of)| format!("{} {name}", kind(*of))).collect();
        asked.sort();
        asked
    }

    fn zone(&self) -> std::sync::MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn serve_datagrams(socket: &UdpSocket, zone: &Arc<Mutex<Zone>>, over: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        let (zone, Ok(socket)) = (Arc::clone(zone), socket.try_clone()) else { return };
        thread::spawn(move || {
            if let Some(answer) = answer(&question, &zone, DATAGRAM_BYTES_MAX) {
                drop(socket.send_to(&answer, from));
            }
        });
    }
}

fn serve_streams(listener: &TcpListener, zone: &Mutex<Zone>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => drop(serve_stream(stream, zone)),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

fn serve_stream(mut stream: TcpStream, zone: &Mutex<Zone>) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        let answer = answer(&question, zone, usize::from(u16::MAX)).context("no question")?;
        stream.write_all(&u16::try_from(answer.len())?.to_be_bytes())?;
        stream.write_all(&answer)?;
    }
}

/// The answer to a question; `None` when it is not one.
fn answer(question: &[u8], zone: &Mutex<Zone>, bytes_max: usize) -> Option<Vec<u8>> {
    let (name, asked, kind) = parse(question)?;
    let (answers, delay, time_to_live) = {
        let mut zone = zone.lock().unwrap_or_else(PoisonError::into_inner);
        zone.asked.push((name.clone(), kind));
        (zone.answers.get(&name).cloned(), zone.delay, zone.time_to_live)
    };
    thread::sleep(delay);
    let code = if answers.is_some() { 0 } else { 3 };
    let records: Vec<_> = answers
        .into_iter()
        .flatten()
        .filter_map(|(owner, data)| record(&owner, &data, kind, time_to_live))
        .collect();
    let head = |truncated: u8, count: usize| -> Option<Vec<u8>> {
        let mut message = question.get(..2)?.to_vec();
        message.extend([0x81 | truncated << 1, 0x80 | code, 0, 1]);
        message.extend(u16::try_from(count).ok()?.to_be_bytes());
        message.extend([0; 4]);
        message.extend(asked);
        Some(message)
    };
    let mut message = head(0, records.len())?;
    message.extend(records.concat());
    if message.len() <= bytes_max { Some(message) } else { head(1, 0) }
}

/// The name in lower case, the question's own bytes, and the type.
fn parse(question: &[u8]) -> Option<(String, &[u8], u16)> {
    let body = question.get(12..)?;
    let (mut at, mut labels) = (0, Vec::new());
    loop {
        let length = usize::from(*body.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(body.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(*body.get(at..)?.first_chunk()?);
    Some((labels.join("."), body.get(..at + 4)?, kind))
}

/// One record, if it belongs into an answer about this type.
fn record(owner: &str, data: &Data, asked: u16, time_to_live: u32) -> Option<Vec<u8>> {
    let (kind, data) = match data {
        Data::Address(IpAddr::V4(address)) => (A, address.octets().to_vec()),
        Data::Address(IpAddr::V6(address)) => (AAAA, address.octets().to_vec()),
        Data::Alias(target) => (CNAME, encode(target)?),
    };
    if kind != asked && kind != CNAME {
        return None;
    }
    let mut record = encode(owner)?;
    record.extend(kind.to_be_bytes());
    record.extend(1_u16.to_be_bytes());
    record.extend(time_to_live.to_be_bytes());
    record.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    record.extend(data);
    Some(record)
}

fn encode(name: &str) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    for label in name.split('.') {
        encoded.push(u8::try_from(label.len()).ok()?);
        encoded.extend(label.as_bytes());
    }
    encoded.push(0);
    Some(encoded)
}
