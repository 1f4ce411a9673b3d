//! The codec against captured sessions, malformed input, long messages and seeded mutations.
//!
//! The captures in `testdata` are both directions of real sessions through a tee: psql, psycopg 3.3, asyncpg, pgbench
//! and hand-written bytes, against PostgreSQL 15 and (`cancel18`, `grease`) 18, with a throw-away password.

mod captures;
mod large;
mod malformed;
mod mutation;
mod rewriting;
mod startup;

use super::startup::StartupPacket;
use super::{DecodeError, Item, Scanner, Tag, startup as startup_packets};

/// One captured connection.
struct Capture {
    name: &'static str,
    client: &'static [u8],
    server: &'static [u8],
}

macro_rules! captures {
    ($($name:literal),* $(,)?) => {
        &[$(Capture {
            name: $name,
            client: include_bytes!(concat!("../testdata/", $name, ".client.bin")),
            server: include_bytes!(concat!("../testdata/", $name, ".server.bin")),
        }),*]
    };
}

const CAPTURES: &[Capture] = captures![
    "asyncpg",
    "cancel",
    "cancel18",
    "cleartext",
    "copy",
    "grease",
    "md5",
    "pgbench",
    "pipeline",
    "raw",
    "simple",
    "walsender",
    "wrongpw",
];

fn capture(name: &str) -> &'static Capture {
    CAPTURES.iter().find(|capture| capture.name == name).expect("a capture of that name")
}

impl Capture {
    /// What the client sends after its startup message.
    fn client_messages(&self) -> &'static [u8] {
        let mut rest = self.client;
        loop {
            let (packet, used) = startup_packets::decode(rest).unwrap().expect("a whole startup packet");
            rest = &rest[used..];
            if matches!(packet, StartupPacket::Startup(_)) {
                return rest;
            }
        }
    }

    /// What the server sends after its one-byte answers.
    fn server_messages(&self) -> &'static [u8] {
        let (mut client, mut server) = (self.client, self.server);
        loop {
            let (packet, used) = startup_packets::decode(client).unwrap().expect("a whole startup packet");
            client = &client[used..];
            match packet {
                StartupPacket::SslRequest | StartupPacket::GssEncRequest => server = &server[1..],
                StartupPacket::Startup(_) => return server,
                StartupPacket::DirectTls | StartupPacket::CancelRequest(_) => panic!("not a session"),
            }
        }
    }
}

/// One message as a pump would see it; a large one has its chunks put together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen<T> {
    tag: T,
    body: Vec<u8>,
    whole: bool,
}

/// Reads like the pump does: one buffer, appended to, scanned, and moved past what was taken.
struct Reader<T> {
    scanner: Scanner<T>,
    buffer: Vec<u8>,
    seen: Vec<Seen<T>>,
}

impl<T: Tag> Reader<T> {
    fn new() -> Self {
        Self { scanner: Scanner::new(), buffer: Vec::new(), seen: Vec::new() }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.buffer.extend_from_slice(bytes);
        let mut input = self.buffer.as_slice();
        let result = loop {
            match self.scanner.next(&mut input) {
                Ok(Some(item)) => self.seen.see(item),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let used = self.buffer.len() - input.len();
        self.buffer.drain(..used);
        result
    }
}

trait See<T> {
    fn see(&mut self, item: Item<'_, T>);
}

impl<T: Tag> See<T> for Vec<Seen<T>> {
    fn see(&mut self, item: Item<'_, T>) {
        match item {
            Item::Frame(frame) => {
                assert_eq!(frame.bytes[0], frame.tag.byte());
                self.push(Seen { tag: frame.tag, body: frame.body().to_vec(), whole: true });
            }
            Item::Large { tag, body } => {
                assert!(body > tag.bounds().whole);
                self.push(Seen { tag, body: Vec::new(), whole: false });
            }
            Item::Chunk { tag, bytes, left: _ } => {
                let last = self.last_mut().expect("a chunk follows its head");
                assert!(!bytes.is_empty() && last.tag == tag && !last.whole);
                last.body.extend_from_slice(bytes);
            }
        }
    }
}

/// All messages of a stream, fed in chunks that end at `cuts`.
fn read<T: Tag>(stream: &[u8], cuts: impl IntoIterator<Item = usize>) -> Result<Vec<Seen<T>>, DecodeError> {
    let mut reader = Reader::<T>::new();
    let mut from = 0;
    for cut in cuts.into_iter().chain([stream.len()]) {
        reader.feed(&stream[from..cut])?;
        from = cut;
    }
    assert!(reader.buffer.is_empty() && reader.scanner.at_boundary(), "the stream ends inside a message");
    Ok(reader.seen)
}

/// A tagged message.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A tagged message whose length word says something else than the truth.
fn message_of_length(tag: u8, length: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = message(tag, body);
    bytes[1..5].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// A small generator with a printed seed (xorshift64*), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end.max(1)
    }

    /// Ascending places to cut a stream of `length` bytes at.
    fn cuts(&mut self, length: usize) -> Vec<usize> {
        let mut cuts = (0..self.below(40)).map(|_| self.below(length + 1)).collect::<Vec<_>>();
        cuts.sort_unstable();
        cuts
    }
}
