//! A WebSocket between client and server: whole messages are masked and recorded, longer ones as they stream by.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};

use super::log::{ExchangeLog, add};
use super::masks::Masks;
use super::session::Session;
use crate::codec::websocket::{Decoder, Item, Opcode, Role, WebSocketError, encode};
use crate::mask::http::{BodyKind, BodyMasker, BodyMasks, Counts};
use crate::record::RecordError;
use crate::record::body::MessageBlock;
use crate::record::event::{Direction, OutcomeStatus};

/// Messages up to this many bytes are masked whole; longer ones as they stream by.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Room for one read, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// Why a WebSocket ended other than by its peers' closing it.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("a WebSocket peer broke off")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Protocol(#[from] WebSocketError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("no randomness for a frame's mask")]
    Random(getrandom::Error),
}

/// Relays both directions until either ends.
pub(super) async fn relay<C, S>(
    session: &Arc<Session>,
    masks: &Arc<Masks>,
    client: C,
    server: S,
    mut log: ExchangeLog,
) where
    C: AsyncRead + AsyncWrite + Send,
    S: AsyncRead + AsyncWrite + Send,
{
    let operation = log.operation();
    let bytes_max = session.admission.policy().record.result_bytes_max;
    let (client_reads, client_writes) = split(client);
    let (server_reads, server_writes) = split(server);
    let counts = Mutex::new(Counts::new());
    let lane = |sender, direction, masks: &Arc<BodyMasks>, recorded: Option<Arc<BodyMasks>>| Lane {
        session: Arc::clone(session),
        operation,
        sender,
        direction,
        masks: Arc::clone(masks),
        recorded,
        room: bytes_max,
        counts: &counts,
        long: None,
    };
    let up = lane(Role::Client, Direction::Request, &masks.request, Some(Arc::clone(&masks.recorded)));
    let down = lane(Role::Server, Direction::Response, &masks.response, None);
    // The first to end ends both: a half-closed WebSocket has nothing more to say.
    let ended = tokio::select! {
        ended = up.run(client_reads, server_writes) => ended,
        ended = down.run(server_reads, client_writes) => ended,
    };
    log.masked(&counts.into_inner().unwrap_or_else(PoisonError::into_inner));
    match ended {
        Ok(()) => log.finish(OutcomeStatus::Done, None),
        Err(error) => log.finish(OutcomeStatus::Failed, Some(&error)),
    }
}

/// Bytes of a Close frame's code (RFC 6455 section 5.5.1).
const CLOSE_CODE_BYTES: usize = 2;

/// Whether a message that is called binary is text all the same.
fn is_text(payload: &[u8]) -> bool {
    !payload.contains(&0) && std::str::from_utf8(payload).is_ok()
}

/// One direction.
struct Lane<'c> {
    session: Arc<Session>,
    operation: u64,
    sender: Role,
    direction: Direction,
    masks: Arc<BodyMasks>,
    /// What masks the record beyond what is masked on the way.
    recorded: Option<Arc<BodyMasks>>,
    /// Bytes that may still be recorded.
    room: u64,
    counts: &'c Mutex<Counts>,
    /// A text message that streams by.
    long: Option<BodyMasker>,
}

impl Lane<'_> {
    async fn run<R: AsyncRead, W: AsyncWrite>(
        mut self,
        mut from: ReadHalf<R>,
        mut to: WriteHalf<W>,
    ) -> Result<(), Broken> {
        let mut decoder = Decoder::new(self.sender, MESSAGE_BYTES_MAX);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        loop {
            let mut closed = false;
            while let Some(item) = decoder.next(&mut input)? {
                closed |= self.pass(item, &mut output)?;
            }
            if !output.is_empty() {
                to.write_all_buf(&mut output).await?;
                to.flush().await?;
            }
            if closed {
                // What the other side answers is up to it; its lane sees it out.
                to.shutdown().await?;
                return Ok(());
            }
            input.reserve(READ_BYTES);
            if from.read_buf(&mut input).await? == 0 {
                to.shutdown().await?;
                return Ok(());
            }
        }
    }

    /// Masks, records and encodes one item. Tells whether it closes the connection.
    fn pass(&mut self, item: Item, output: &mut BytesMut) -> Result<bool, Broken> {
        match item {
            Item::Control { opcode, payload } => {
                let payload = self.control(opcode, &payload);
                self.frame(output, opcode, true, payload)?;
                // The closing side waits for the other's Close frame, which comes on the other lane.
                Ok(false)
            }
            Item::Message { opcode, payload } => {
                let payload = if opcode == Opcode::Text || is_text(&payload) {
                    let mut counts = Counts::new();
                    let masked = self.masks.message(&payload, &mut counts);
                    self.note(&counts);
                    masked.map_or(payload, Into::into)
                } else {
                    payload
                };
                self.record(opcode, &payload)?;
                self.frame(output, opcode, true, &payload)?;
                Ok(false)
            }
            Item::Part { opcode, payload, first, last } => {
                self.part(opcode, &payload, first, last, output)?;
                Ok(false)
            }
        }
    }

    fn part(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        first: bool,
        last: bool,
        output: &mut BytesMut,
    ) -> Result<(), Broken> {
        let mut shown = Vec::new();
        let masks = &self.masks;
        // What is called binary is text where it shows no NUL soon.
        let kind = if opcode == Opcode::Text { BodyKind::Text } else { BodyKind::Untold };
        let masker = self.long.get_or_insert_with(|| BodyMasker::new(Arc::clone(masks), kind));
        masker.push(payload, &mut shown);
        if last {
            masker.finish(&mut shown);
            let counts = masker.counts().clone();
            self.note(&counts);
            self.long = None;
        }
        // Of a message this long only that it passed is recorded.
        let opcode = if first { opcode } else { Opcode::Continuation };
        self.frame(output, opcode, last, &shown)
    }

    /// What a control frame may say: of a Close with something to mask only its code, of others nothing.
    fn control<'p>(&self, opcode: Opcode, payload: &'p [u8]) -> &'p [u8] {
        let mut counts = Counts::new();
        if self.masks.message(payload, &mut counts).is_none() {
            return payload;
        }
        self.note(&counts);
        match opcode {
            Opcode::Close => payload.get(..CLOSE_CODE_BYTES).unwrap_or_default(),
            Opcode::Ping | Opcode::Pong | Opcode::Continuation | Opcode::Text | Opcode::Binary => &[],
        }
    }

    fn note(&self, counts: &Counts) {
        add(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner), counts);
    }

    fn record(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Broken> {
        let mut counts = Counts::new();
        let masked = match (&self.recorded, opcode) {
            (Some(masks), opcode) if opcode == Opcode::Text || is_text(payload) => {
                masks.message(payload, &mut counts)
            }
            (Some(_) | None, _) => None,
        };
        let bytes = masked.as_deref().unwrap_or(payload);
        let Some(room) = self.room.checked_sub(bytes.len() as u64) else { return Ok(()) };
        self.room = room;
        let block = MessageBlock {
            operation: self.operation,
            direction: self.direction,
            text: opcode == Opcode::Text,
            bytes: bytes.to_vec(),
        };
        self.session.with_record(|record| record.message(&block).map(|_| ()))?;
        Ok(())
    }

    /// One frame, masked as its sender must (RFC 6455 section 5.3).
    fn frame(&self, output: &mut BytesMut, opcode: Opcode, fin: bool, payload: &[u8]) -> Result<(), Broken> {
        let mut mask = [0; 4];
        if self.sender == Role::Client {
            getrandom::fill(&mut mask).map_err(Broken::Random)?;
        }
        encode(output, self.sender, mask, opcode, fin, payload);
        Ok(())
    }
}
