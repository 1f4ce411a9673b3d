//! A whole session, with a client that sends anything and a server that says anything: no panic, an end when both are gone,
//! nothing that policy denies reaches the server, and no masked value the client.

mod client;
mod server;
mod side;
mod statements;
mod wire;
mod world;

use std::cell::RefCell;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use portcullis::codec::postgres::backend::{self, TransactionStatus};
use portcullis::codec::postgres::encode::frontend;
use portcullis::codec::postgres::startup::{CancelKey, ProtocolVersion};
use portcullis::codec::postgres::{BackendTag, FrontendTag, Item, Scanner, Text};
use portcullis::relay;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use self::server::Server;
use self::side::Side;
use self::statements::SECRET;
use self::wire::{holds_ready, key, put, read, write};
use self::world::World;
use crate::input::Input;

/// Bytes of a piece of the input, at most.
const PIECE_BYTES_MAX: usize = 128;

/// So much of the secret may never be read.
const SHOWN_BYTES_MAX: usize = 8;

/// Steps of one session.
const STEPS_MAX: usize = 200;

/// Cancel requests of one session.
const CANCELS_MAX: usize = 4;

/// How often the relay gets to work after something was sent to it: a message takes it two turns, one to learn that there are
/// bytes and one to send its own.
const TURNS: usize = 3;

/// The same for a session that has to log in, read the catalogue and say so.
const LOGIN_TURNS_MAX: usize = 400;

/// How long a session may take to end once both peers are gone.
const END_TIME_MAX: Duration = Duration::from_secs(8);

/// How often a server that is gone looks for connections.
const TURN_AWAY_INTERVAL: Duration = Duration::from_millis(1);

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().event_interval(1).build().expect("a runtime");
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    // The fuzzer's own bytes come and go.
    if SECRET.as_bytes().windows(SHOWN_BYTES_MAX).any(|part| memchr::memmem::find(data, part).is_some()) {
        return;
    }
    RUNTIME.with(|runtime| {
        WORLD.with_borrow_mut(|world| {
            if world.as_ref().is_some_and(World::is_worn) {
                *world = None;
            }
            let _entered = runtime.enter();
            let world = world.get_or_insert_with(World::new);
            runtime.block_on(session(world, data));
        });
    });
}

async fn session(world: &World, data: &[u8]) {
    let mut input = Input::new(data, PIECE_BYTES_MAX);
    let policy = input.below(World::POLICIES);
    let (client, accepted) = connect(world);
    let mut serving = Box::pin(serve(world, policy, accepted).await);
    let mut stage = Stage::new(world, policy, client);
    let mut served = false;
    {
        let driving = stage.play(&mut input);
        let mut driving = std::pin::pin!(driving);
        tokio::select! {
            biased;
            () = &mut serving => served = true,
            () = &mut driving => {}
        }
        if served {
            driving.await;
        }
    }
    let cancels = stage.leave();
    let all = async {
        if !served {
            serving.await;
        }
        for cancel in cancels {
            cancel.await.expect("a cancel request does not panic");
        }
    };
    let ended = async {
        tokio::select! {
            () = all => {}
            () = turn_away(world) => {}
        }
    };
    tokio::time::timeout(END_TIME_MAX, ended).await.expect("a session ends when both of its peers have gone");
    stage.check();
}

/// A connection to the relay, as the kernel would have made it: both ends.
fn connect(world: &World) -> (TcpStream, tokio::net::TcpStream) {
    let client = TcpStream::connect(world.front.local_addr().expect("an address")).expect("a connection");
    let (accepted, _) = loop {
        match world.front.accept() {
            Ok(accepted) => break accepted,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    };
    client.set_nonblocking(true).expect("a socket that does not block");
    client.set_nodelay(true).expect("a socket without delay");
    accepted.set_nonblocking(true).expect("a socket that does not block");
    (client, tokio::net::TcpStream::from_std(accepted).expect("a socket"))
}

/// Whoever comes to the server now is not served.
async fn turn_away(world: &World) {
    loop {
        while world.server.accept().is_ok() {}
        tokio::time::sleep(TURN_AWAY_INTERVAL).await;
    }
}

/// The relay's work on one connection, admitted and recorded.
async fn serve(
    world: &World,
    policy: usize,
    accepted: tokio::net::TcpStream,
) -> impl Future<Output = ()> + Send + use<> {
    let admission = world.admit(policy).await;
    let (flow, run, subject) = (admission.flow(), admission.run(), admission.subject());
    let record = relay::open_record(&world.relay.recorder, flow, run, subject, Some(&admission));
    let record = record.expect("it can be recorded");
    let (relay, shutdown) = (Arc::clone(&world.relay), world.shutdown.clone());
    async move { relay::serve(accepted, admission, &relay, record, shutdown).await }
}

/// Both peers of one session, and what went over the wire.
struct Stage<'w> {
    world: &'w World,
    policy: usize,
    client: Option<TcpStream>,
    to_client: BytesMut,
    /// What the client sent, and what it was shown.
    said: Vec<u8>,
    shown: Vec<u8>,
    reads: bool,
    upstream: Option<TcpStream>,
    upstream_inbox: Vec<u8>,
    server: Server,
    logged_in: bool,
    sides: Vec<Side>,
    /// Connections that ask to cancel, and the relay's work on them.
    cancels: Vec<(TcpStream, JoinHandle<()>)>,
    /// Where the ordinary messages begin, in what the client sent and in what it was shown.
    regular: bool,
}

impl<'w> Stage<'w> {
    fn new(world: &'w World, policy: usize, client: TcpStream) -> Self {
        Self {
            world,
            policy,
            client: Some(client),
            to_client: BytesMut::new(),
            said: Vec::new(),
            shown: Vec::new(),
            reads: true,
            upstream: None,
            upstream_inbox: Vec::new(),
            server: Server::new(policy),
            logged_in: false,
            sides: Vec::new(),
            cancels: Vec::new(),
            regular: false,
        }
    }

    async fn play(&mut self, input: &mut Input<'_>) {
        self.log_in(input).await;
        for _ in 0..STEPS_MAX {
            if input.is_empty() || (self.client.is_none() && self.upstream.is_none()) {
                return;
            }
            self.step(input).await;
        }
    }

    /// Mostly as clients and servers do.
    async fn log_in(&mut self, input: &mut Input<'_>) {
        let how = input.byte();
        let mut out = BytesMut::new();
        if how % 32 == 31 {
            out.extend_from_slice(input.piece());
        } else {
            let version = if how & 1 == 0 { ProtocolVersion::V3_0 } else { ProtocolVersion::V3_2 };
            let more: &[(&str, &str)] = match how >> 5 {
                0 => &[("replication", "database"), ("application_name", "x")],
                1 => &[("options", "-c search_path=other -c geqo=off")],
                2 => &[("client_encoding", "UTF8"), ("DateStyle", "ISO")],
                _ => &[],
            };
            let all = [("user", "agent"), ("database", "shop")].into_iter().chain(more.iter().copied());
            let of = |text: &'static str| Text::before_nul(text.as_bytes());
            frontend::startup(&mut out, version, all.map(|(name, value)| (of(name), of(value))))
                .expect("it fits");
            self.regular = true;
        }
        self.send(&out);
        for _ in 0..LOGIN_TURNS_MAX {
            self.turn().await;
            if self.upstream.is_some() && !self.logged_in && self.greet(how, input) {
                self.logged_in = true;
            }
            while self.logged_in && self.server.owes() && !holds_ready(&self.shown) {
                self.server.answer(input, self.world);
                self.deliver();
            }
            if holds_ready(&self.shown) || self.client.is_none() || !self.regular {
                return;
            }
        }
    }

    /// The server's part of the start. Says whether it is done.
    fn greet(&mut self, how: u8, input: &mut Input<'_>) -> bool {
        let Some(length) = side::startup_length(&self.upstream_inbox) else { return false };
        self.upstream_inbox.drain(..length);
        if how % 32 == 30 {
            self.server.honest = false;
            self.server.out.extend_from_slice(input.piece());
        }
        side::logged_in(&mut self.server.out, how & 2 == 0);
        let more = std::mem::take(&mut self.upstream_inbox);
        self.server.hear(&more, self.world);
        self.deliver();
        true
    }

    async fn step(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        // Whether the other side is to work on it at once.
        let now = what & 0x80 == 0;
        match what & 0x1f {
            kind @ 0..=15 => {
                let mut out = BytesMut::new();
                client::message(input, kind, &mut out);
                self.cut_and_send(&out, input, what & 0x40 != 0).await;
            }
            16..=21 => {
                let count = 1 + input.below(8);
                (0..count).for_each(|_| self.server.answer(input, self.world));
                self.deliver();
            }
            22 | 23 => {
                while self.server.owes() {
                    self.server.answer(input, self.world);
                }
                self.deliver();
            }
            24 => self.word_by_the_way(input),
            25 => self.lie(input),
            26 => self.reads = !self.reads,
            27 => self.cut_answers(input).await,
            28 if input.byte() == 200 => self.client = None,
            29 if input.byte() == 200 => self.upstream = None,
            30 => self.cancel().await,
            _ => {}
        }
        if now {
            for _ in 0..TURNS {
                self.turn().await;
            }
        }
    }

    /// The client asks on another connection to cancel what runs.
    async fn cancel(&mut self) {
        let Some((process_id, key)) = key(&self.shown) else { return };
        if self.cancels.len() >= CANCELS_MAX {
            return;
        }
        let mut out = BytesMut::new();
        let request = CancelKey { process_id, secret_key: &key };
        frontend::cancel_request(&mut out, request).expect("it fits");
        let (mut client, accepted) = connect(self.world);
        client.write_all(&out).expect("a new connection takes it");
        self.cancels.push((client, tokio::spawn(serve(self.world, self.policy, accepted).await)));
    }

    /// NoticeResponse, ParameterStatus, NotificationResponse: they may come at any time.
    fn word_by_the_way(&mut self, input: &mut Input<'_>) {
        let text = input.text();
        let mut body = BytesMut::new();
        let tag = match input.below(3) {
            0 => {
                body.extend_from_slice(b"SNOTICE\0VNOTICE\0C00000\0M");
                body.extend_from_slice(&text);
                body.extend_from_slice(b"\0\0");
                b'N'
            }
            1 => {
                body.extend_from_slice(b"application_name\0");
                body.extend_from_slice(&text);
                body.extend_from_slice(b"\0");
                b'S'
            }
            _ => {
                body.extend_from_slice(b"\0\0\0\x07x\0");
                body.extend_from_slice(&text);
                body.extend_from_slice(b"\0");
                b'A'
            }
        };
        put(&mut self.server.out, tag, &body);
        self.deliver();
    }

    /// A message that no server would send now, or no message at all.
    fn lie(&mut self, input: &mut Input<'_>) {
        self.server.honest = false;
        let tag = input.byte();
        let body = input.piece();
        match tag {
            0..=20 => self.server.out.extend_from_slice(body),
            _ => put(&mut self.server.out, tag, body),
        }
        self.deliver();
    }

    async fn cut_and_send(&mut self, bytes: &[u8], input: &mut Input<'_>, cut: bool) {
        let at = if cut { input.below(256).min(bytes.len()) } else { bytes.len() };
        let (first, rest) = bytes.split_at(at);
        self.send(first);
        if !rest.is_empty() {
            for _ in 0..TURNS {
                self.turn().await;
            }
            self.send(rest);
        }
    }

    /// The server's next answer arrives in two pieces.
    async fn cut_answers(&mut self, input: &mut Input<'_>) {
        self.server.answer(input, self.world);
        let whole = self.server.out.split();
        let at = input.below(256).min(whole.len());
        self.server.out.extend_from_slice(&whole[..at]);
        self.deliver();
        for _ in 0..TURNS {
            self.turn().await;
        }
        self.server.out.extend_from_slice(&whole[at..]);
        self.deliver();
    }

    /// The relay works, then we take what it did.
    async fn turn(&mut self) {
        tokio::task::yield_now().await;
        self.send(&[]);
        self.deliver();
        if self.reads {
            read(&mut self.client, &mut self.shown);
        }
        let mut heard = Vec::new();
        read(&mut self.upstream, &mut heard);
        if self.logged_in {
            self.server.hear(&heard, self.world);
        } else {
            self.upstream_inbox.extend_from_slice(&heard);
        }
        while let Ok((stream, _)) = self.world.server.accept() {
            stream.set_nonblocking(true).expect("a socket that does not block");
            stream.set_nodelay(true).expect("a socket without delay");
            match self.upstream.is_none() && !self.logged_in {
                true => self.upstream = Some(stream),
                false => self.sides.push(Side::new(stream)),
            }
        }
        self.sides.retain_mut(Side::work);
        if self.server.closed && self.server.out.is_empty() {
            self.upstream = None;
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
        self.to_client.extend_from_slice(bytes);
        write(&mut self.client, &mut self.to_client);
    }

    fn deliver(&mut self) {
        write(&mut self.upstream, &mut self.server.out);
    }

    /// Both are gone.
    fn leave(&mut self) -> Vec<JoinHandle<()>> {
        read(&mut self.client, &mut self.shown);
        (self.client, self.upstream) = (None, None);
        self.sides.clear();
        self.cancels.drain(..).map(|(_, work)| work).collect()
    }

    fn check(&self) {
        if World::masks(self.policy) {
            for part in SECRET.as_bytes().windows(SHOWN_BYTES_MAX) {
                assert!(memchr::memmem::find(&self.shown, part).is_none(), "{}", self.shown.escape_ascii());
            }
        }
        if self.server.honest && self.regular {
            self.check_protocol();
        }
    }

    /// What the client was shown is the protocol's, and speaks of transactions as the server did.
    fn check_protocol(&self) {
        let mut scanner = Scanner::<BackendTag>::new();
        let mut input = self.shown.as_slice();
        let mut ready = 0;
        while let Some(item) = scanner.next(&mut input).expect("the relay keeps to the protocol") {
            let Item::Frame(frame) = item else { continue };
            backend::check(frame).expect("the relay's messages can be read");
            if frame.tag == BackendTag::ReadyForQuery {
                ready += 1;
                let status = TransactionStatus::decode(frame.body()).expect("a status");
                assert!(self.server.statuses.contains(&status), "the server never was {status:?}");
            }
        }
        assert!(ready <= 1 + self.asked(), "{ready} times ready: {}", self.shown.escape_ascii());
    }

    /// How many messages the client sent that are answered with ReadyForQuery.
    fn asked(&self) -> usize {
        let Some(length) = side::startup_length(&self.said) else { return 0 };
        let mut input = &self.said[length..];
        let mut scanner = Scanner::<FrontendTag>::new();
        let mut asked = 0;
        while let Ok(Some(item)) = scanner.next(&mut input) {
            let tag = match item {
                Item::Frame(frame) => frame.tag,
                Item::Large { tag, .. } => tag,
                Item::Chunk { .. } => continue,
            };
            asked += usize::from(matches!(
                tag,
                FrontendTag::Query | FrontendTag::Sync | FrontendTag::FunctionCall
            ));
        }
        asked
    }
}
