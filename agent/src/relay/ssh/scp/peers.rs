//! The two programs that talk scp with each other, as far as they have spoken.

use std::collections::VecDeque;

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client, server};

use super::Over;
use crate::codec::scp::{Lines, Message, Reply, ScpError};
use crate::relay::ssh::pump::{Granted, Log, with};
use crate::relay::ssh::session_channel::STDERR;
use crate::request::ssh::scp::Way;
use crate::upstream::ssh::MESSAGES_MAX;

/// Messages that are taken from a peer while the other one takes nothing; beyond it they wait in their window.
const AHEAD_MESSAGES_MAX: usize = 1024;

/// Who is spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Sends files.
    Source,
    /// Takes them.
    Sink,
}

impl Way {
    /// What the client is.
    fn of_client(self) -> Peer {
        match self {
            Self::Upload => Peer::Source,
            Self::Download => Peer::Sink,
        }
    }

    /// What the server is.
    fn of_server(self) -> Peer {
        match self {
            Self::Upload => Peer::Sink,
            Self::Download => Peer::Source,
        }
    }
}

/// Both, and what they have said that was not looked at. Each has its window back only for what was, which bounds the rest.
pub(super) struct Peers<'p, 'l> {
    pub(super) way: Way,
    from_client: &'p mut ChannelReadHalf,
    from_server: ChannelReadHalf,
    pub(super) to_client: &'p ChannelWriteHalf<server::Msg>,
    to_server: &'p ChannelWriteHalf<client::Msg>,
    log: &'p Log<'l>,
    /// What the client sent before its command ran.
    parked: VecDeque<ChannelMsg>,
    client: Said,
    server: Said,
}

/// What one side has said.
#[derive(Default)]
struct Said {
    waiting: VecDeque<Bytes>,
    now: Bytes,
    lines: Lines,
    granted: Granted,
    ended: bool,
}

impl Said {
    /// Bytes that are here, if any are.
    fn input(&mut self) -> Option<&mut Bytes> {
        if self.now.is_empty() {
            self.now = self.waiting.pop_front()?;
        }
        Some(&mut self.now)
    }

    /// For later. A window's worth of single bytes would be more than a window.
    fn keep(&mut self, data: Bytes) -> Result<(), Over> {
        if self.waiting.len() >= MESSAGES_MAX {
            return Err(Over::NoProtocol);
        }
        self.waiting.push_back(data);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.now.is_empty() && self.waiting.is_empty() && self.lines.is_empty()
    }
}

/// A message, or the end of a channel.
enum Arrived {
    OfClient(Option<ChannelMsg>),
    OfServer(Option<ChannelMsg>),
}

/// What one look at what was said gave.
struct Looked<T> {
    found: Option<T>,
    taken: usize,
}

impl<'p, 'l> Peers<'p, 'l> {
    pub(super) fn new(
        way: Way,
        (from_client, to_client): (&'p mut ChannelReadHalf, &'p ChannelWriteHalf<server::Msg>),
        (from_server, to_server): (ChannelReadHalf, &'p ChannelWriteHalf<client::Msg>),
        log: &'p Log<'l>,
        parked: VecDeque<ChannelMsg>,
    ) -> Self {
        let (client, server) = (Said::default(), Said::default());
        Self { way, from_client, from_server, to_client, to_server, log, parked, client, server }
    }

    fn is_client(&self, peer: Peer) -> bool {
        self.way.of_client() == peer
    }

    fn said(&mut self, peer: Peer) -> &mut Said {
        if self.is_client(peer) { &mut self.client } else { &mut self.server }
    }

    /// Whether a peer has said nothing that was not looked at.
    pub(super) fn is_silent(&mut self, peer: Peer) -> bool {
        self.said(peer).is_empty()
    }

    /// Says something to a peer. Who takes nothing more may have gone, so both are listened to meanwhile.
    pub(super) async fn tell(&mut self, peer: Peer, data: Bytes) -> Result<(), Over> {
        let (client, to_client, to_server) = (self.is_client(peer), self.to_client, self.to_server);
        let send = async move {
            if client {
                to_client.data_bytes(data).await.map_err(|_| Over::Client)
            } else {
                to_server.data_bytes(data).await.map_err(|_| Over::Server)
            }
        };
        let mut send = std::pin::pin!(send);
        loop {
            let room = self.client.waiting.len().max(self.server.waiting.len()) < AHEAD_MESSAGES_MAX;
            let arrived = tokio::select! {
                biased;
                sent = &mut send => return sent,
                arrived = self.next(), if room => arrived,
            };
            self.of(arrived).await?;
        }
    }

    /// The source has no more to say.
    pub(super) async fn end(&self, peer: Peer) -> Result<(), Over> {
        if self.is_client(peer) {
            self.to_client.eof().await.map_err(|_| Over::Client)
        } else {
            self.to_server.eof().await.map_err(|_| Over::Server)
        }
    }

    /// The source's next line; `None` when it has no more.
    pub(super) async fn message(&mut self) -> Result<Option<Message>, Over> {
        self.wait(Peer::Source, Lines::message).await
    }

    /// A peer's next answer; `None` when it has no more.
    pub(super) async fn reply(&mut self, peer: Peer) -> Result<Option<Reply>, Over> {
        self.wait(peer, Lines::reply).await
    }

    /// At most as many bytes of the source; `None` when it has no more.
    pub(super) async fn data(&mut self, most: u64) -> Result<Option<Bytes>, Over> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let some = |_: &mut Lines, input: &mut Bytes| {
            Ok((!input.is_empty()).then(|| input.split_to(input.len().min(most))))
        };
        self.wait(Peer::Source, some).await
    }

    /// An answer of the sink that is here already.
    pub(super) fn last_reply(&mut self) -> Result<Option<Reply>, ScpError> {
        Self::look(self.said(Peer::Sink), &mut Lines::reply).map(|looked| looked.found)
    }

    async fn wait<T>(
        &mut self,
        peer: Peer,
        mut look: impl FnMut(&mut Lines, &mut Bytes) -> Result<Option<T>, ScpError>,
    ) -> Result<Option<T>, Over> {
        loop {
            let looked = Self::look(self.said(peer), &mut look).map_err(|error| {
                tracing::warn!(?peer, %error, "what is spoken is not the protocol of scp");
                Over::NoProtocol
            })?;
            self.give_back(peer, looked.taken).await?;
            if looked.found.is_some() {
                return Ok(looked.found);
            }
            if self.said(peer).ended {
                return Ok(None);
            }
            self.arrive().await?;
        }
    }

    fn look<T>(
        said: &mut Said,
        look: &mut impl FnMut(&mut Lines, &mut Bytes) -> Result<Option<T>, ScpError>,
    ) -> Result<Looked<T>, ScpError> {
        let mut taken = 0;
        while said.input().is_some() {
            let before = said.now.len();
            let found = look(&mut said.lines, &mut said.now)?;
            taken += before - said.now.len();
            if found.is_some() {
                return Ok(Looked { found, taken });
            }
        }
        Ok(Looked { found: None, taken })
    }

    async fn give_back(&mut self, peer: Peer, bytes: usize) -> Result<(), Over> {
        let Some(more) = self.said(peer).granted.taken(bytes) else { return Ok(()) };
        if self.is_client(peer) {
            self.to_client.grant_window(more).await.map_err(|_| Over::Client)
        } else {
            self.to_server.grant_window(more).await.map_err(|_| Over::Server)
        }
    }

    /// Waits for whatever comes next from either side.
    pub(super) async fn arrive(&mut self) -> Result<(), Over> {
        let arrived = self.next().await;
        self.of(arrived).await
    }

    /// The next message. Nothing is lost when nobody waits for it any longer.
    async fn next(&mut self) -> Arrived {
        if let Some(message) = self.parked.pop_front() {
            return Arrived::OfClient(Some(message));
        }
        tokio::select! {
            message = self.from_client.wait() => Arrived::OfClient(message),
            message = self.from_server.wait() => Arrived::OfServer(message),
        }
    }

    async fn of(&mut self, arrived: Arrived) -> Result<(), Over> {
        match arrived {
            Arrived::OfClient(message) => self.of_client(message).await,
            Arrived::OfServer(message) => self.of_server(message).await,
        }
    }

    /// What the client sends while something is decided: kept for later.
    pub(super) async fn arrive_from_client(&mut self) -> Result<(), Over> {
        let message = match self.parked.pop_front() {
            Some(message) => Some(message),
            None => self.from_client.wait().await,
        };
        self.of_client(message).await
    }

    async fn of_client(&mut self, message: Option<ChannelMsg>) -> Result<(), Over> {
        match message {
            None | Some(ChannelMsg::Close) => Err(Over::Client),
            Some(ChannelMsg::Data { data }) => self.client.keep(data),
            // Nothing of a client's has an extended type (RFC 4254 §5.2 knows stderr alone).
            Some(ChannelMsg::ExtendedData { data, .. }) => {
                self.give_back(self.way.of_client(), data.len()).await
            }
            Some(ChannelMsg::Eof) => {
                self.client.ended = true;
                Ok(())
            }
            Some(ChannelMsg::Signal { signal }) => {
                self.to_server.signal(signal).await.map_err(|_| Over::Server)
            }
            // One channel runs one thing (RFC 4254 §6.5).
            Some(_) => Ok(()),
        }
    }

    async fn of_server(&mut self, message: Option<ChannelMsg>) -> Result<(), Over> {
        match message {
            None | Some(ChannelMsg::Close) => Err(Over::Server),
            Some(ChannelMsg::Data { data }) => self.server.keep(data),
            Some(ChannelMsg::ExtendedData { data, ext }) => {
                let length = data.len();
                if ext == STDERR {
                    self.to_client.extended_data_bytes(STDERR, data).await.map_err(|_| Over::Client)?;
                }
                self.give_back(self.way.of_server(), length).await
            }
            Some(ChannelMsg::Eof) => {
                self.server.ended = true;
                Ok(())
            }
            Some(ChannelMsg::ExitStatus { exit_status }) => {
                with(self.log, |log| log.exited(exit_status));
                self.to_client.exit_status(exit_status).await.map_err(|_| Over::Client)
            }
            Some(_) => Ok(()),
        }
    }
}
