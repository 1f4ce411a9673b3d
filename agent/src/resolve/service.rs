//! Questions by datagram and by stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::message::{self, QUESTION_BYTES_MAX, Question, Received, Reply};
use super::{Asker, AskingRun, Resolver};
use crate::intercept::{Kernel, OriginError};

/// How long a stream may be silent before it is closed (RFC 7766 section 6.2.3 leaves it to the server).
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);

/// Pause after a failed receive: more haste only burns the processor.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// Writes an answer for its transport.
type Encode = fn(&Question, &Reply) -> Option<Vec<u8>>;

impl Resolver {
    /// Answers the datagrams that the kernel sends on to `socket`; never returns. What the kernel does not know the
    /// sender of is dropped.
    pub async fn serve_datagrams(self: Arc<Self>, socket: UdpSocket, kernel: Arc<Kernel>) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; QUESTION_BYTES_MAX + 1];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::error!(%error, "cannot receive questions");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                    continue;
                }
            };
            let Some(bytes) = buffer.get(..length).filter(|bytes| bytes.len() <= QUESTION_BYTES_MAX) else {
                continue;
            };
            let Some(asker) = self.asker(&kernel, from, bytes) else { continue };
            let run = self.asking(asker.run.id);
            let Ok(place) = Arc::clone(&run.waiting).try_acquire_owned() else { continue };
            let (resolver, socket, bytes) = (Arc::clone(&self), Arc::clone(&socket), bytes.to_vec());
            tokio::spawn(async move {
                if let Some(answer) = resolver.respond(&asker, &run, &bytes, Question::datagram).await
                    && let Err(error) = socket.send_to(&answer, from).await
                {
                    tracing::debug!(%error, "cannot send an answer");
                }
                drop(place);
            });
        }
    }

    /// Answers the questions of one connection, until its client closes it or is silent for too long.
    pub async fn serve_stream(&self, mut tcp: TcpStream, asker: &Asker) {
        let run = self.asking(asker.run.id);
        while let Ok(Ok(bytes)) = tokio::time::timeout(IDLE_TIME_MAX, read_question(&mut tcp)).await {
            let Some(answer) = self.respond(asker, &run, &bytes, Question::segment).await else { return };
            let Ok(length) = u16::try_from(answer.len()) else { return };
            let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
            if !matches!(tokio::time::timeout(IDLE_TIME_MAX, tcp.write_all(&framed)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    async fn respond(&self, asker: &Asker, run: &AskingRun, bytes: &[u8], encode: Encode) -> Option<Vec<u8>> {
        match message::read(bytes) {
            Received::Noise => None,
            Received::Answered(answer) => Some(answer),
            Received::Question(question) => {
                let _turn = run.answering.acquire().await.ok()?;
                let reply = self.answer(asker, run, &question).await;
                encode(&question, &reply)
            }
        }
    }

    /// Who sent a datagram; `None` when nobody of a run did.
    fn asker(&self, kernel: &Kernel, from: SocketAddr, bytes: &[u8]) -> Option<Asker> {
        let origin = match kernel.asker(from, message::id(bytes)?) {
            Ok(origin) => origin,
            Err(OriginError::Missing) => {
                tracing::debug!(%from, "dropped a datagram of unknown origin");
                return None;
            }
            Err(error @ OriginError::Kernel(_)) => {
                tracing::error!(%error, "cannot tell who asks");
                return None;
            }
        };
        Some(Asker {
            run: self.runs.get(origin.run)?,
            process: origin.process,
            resolver: origin.destination.0,
            socket_cookie: origin.socket_cookie,
        })
    }
}

/// One message behind its length (RFC 1035 section 4.2.2).
async fn read_question(tcp: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = usize::from(tcp.read_u16().await?);
    if length > QUESTION_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    tcp.read_exact(&mut bytes).await?;
    Ok(bytes)
}
