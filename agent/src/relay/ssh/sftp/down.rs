//! What the server answers.

use std::sync::Arc;

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client, server};

use super::files::{NotOpen, Pending, Serial, answers};
use super::{Connection, OWN_ID, Over, Shared, unrecorded};
use crate::codec::sftp::{
    Bulk, Direction, Outgoing, Packet, Piece, SftpError, Splitter, kind, known_extensions,
};
use crate::relay::ssh::pump::{Granted, Log, with};
use crate::relay::ssh::session_channel::STDERR;

/// The server's direction.
pub(super) struct Down<'d> {
    connection: &'d Arc<Connection>,
    shared: &'d Shared,
    from_server: ChannelReadHalf,
    to_client: &'d ChannelWriteHalf<server::Msg>,
    to_server: &'d ChannelWriteHalf<client::Msg>,
    log: &'d Log<'d>,
    splitter: Splitter,
    granted: Granted,
    /// The reply to our own request has not come.
    asking: bool,
    /// The file whose data is coming, and where its next byte belongs.
    reading: Option<(Serial, u64)>,
}

impl<'d> Down<'d> {
    pub(super) fn new(
        connection: &'d Arc<Connection>,
        shared: &'d Shared,
        from_server: ChannelReadHalf,
        to_client: &'d ChannelWriteHalf<server::Msg>,
        to_server: &'d ChannelWriteHalf<client::Msg>,
        log: &'d Log<'d>,
    ) -> Self {
        Self {
            connection,
            shared,
            from_server,
            to_client,
            to_server,
            log,
            splitter: Splitter::new(Direction::ToClient),
            granted: Granted::default(),
            asking: true,
            reading: None,
        }
    }

    pub(super) async fn run(&mut self) -> Over {
        loop {
            let step = tokio::select! {
                message = self.from_server.wait() => self.one(message).await,
                () = self.shared.answered.notified() => self.answer().await,
            };
            if let Err(over) = step {
                return over;
            }
        }
    }

    async fn one(&mut self, message: Option<ChannelMsg>) -> Result<(), Over> {
        match message {
            None | Some(ChannelMsg::Close) => Err(Over::Server),
            Some(ChannelMsg::Data { data }) => {
                let length = data.len();
                self.data(data).await?;
                self.answer().await?;
                self.took(length).await
            }
            Some(ChannelMsg::ExtendedData { data, ext }) => {
                let length = data.len();
                if ext == STDERR {
                    self.to_client.extended_data_bytes(STDERR, data).await.map_err(|_| Over::Client)?;
                }
                self.took(length).await
            }
            Some(ChannelMsg::Eof) => self.to_client.eof().await.map_err(|_| Over::Client),
            Some(ChannelMsg::ExitStatus { exit_status }) => {
                with(self.log, |log| log.exited(exit_status));
                self.to_client.exit_status(exit_status).await.map_err(|_| Over::Client)
            }
            // A server of files says nothing else that its client would hear.
            Some(_) => Ok(()),
        }
    }

    async fn took(&mut self, bytes: usize) -> Result<(), Over> {
        match self.granted.taken(bytes) {
            Some(more) => self.to_server.grant_window(more).await.map_err(|_| Over::Server),
            None => Ok(()),
        }
    }

    async fn data(&mut self, data: Bytes) -> Result<(), Over> {
        let mut outgoing = Outgoing::of(&data);
        let mut input = data;
        loop {
            let piece = self.splitter.next(&mut input).map_err(|error| self.no_sftp(error))?;
            match piece {
                None => break,
                Some(Piece::Packet(packet)) => {
                    if let Some(passed) = self.packet(packet)? {
                        outgoing.pass(&passed);
                    }
                }
                Some(Piece::Bulk(bulk)) => {
                    self.bulk(&bulk)?;
                    outgoing.pass(&bulk.raw);
                }
                Some(Piece::Part(part)) => {
                    self.part(&part)?;
                    outgoing.pass(&part);
                }
            }
        }
        for bytes in outgoing.take() {
            self.to_client.data_bytes(bytes).await.map_err(|_| Over::Client)?;
        }
        Ok(())
    }

    /// A whole reply, as it passes; `None` for the one to a request of ours.
    fn packet(&mut self, packet: Packet) -> Result<Option<Bytes>, Over> {
        if packet.kind() == kind::VERSION {
            let offered = known_extensions(&packet);
            return offered.map(Some).ok_or_else(|| self.strange("a version that is not 3"));
        }
        let own = packet.id() == Some(OWN_ID) && self.asking;
        let pending = self.pending(packet.id(), packet.kind())?;
        let mut state = self.shared.state();
        if let Some(home) = state.files.settle(pending, &packet) {
            state.home = Some(home);
        }
        self.asking &= !own;
        Ok((!own).then_some(packet.raw))
    }

    fn bulk(&mut self, bulk: &Bulk) -> Result<(), Over> {
        self.reading = match self.pending(Some(bulk.id), kind::DATA)? {
            Pending::Read(serial, offset) => Some((serial, offset)),
            // `answers` has let nothing else through.
            Pending::Open(_)
            | Pending::Opendir(_)
            | Pending::Close(_)
            | Pending::Write(_)
            | Pending::Change(_)
            | Pending::Home
            | Pending::Look => None,
        };
        Ok(())
    }

    fn part(&mut self, part: &Bytes) -> Result<(), Over> {
        // Whose data it is, is always known: else it would be nobody's in the record.
        let Some((serial, offset)) = &mut self.reading else { return Err(Over::NoProtocol) };
        let taken = self.shared.state().files.reads(*serial, *offset, part);
        match taken {
            Ok(taken) => taken.map_err(|error| unrecorded(&error))?,
            Err(NotOpen) => return Err(self.strange("data of a file that is closed")),
        }
        *offset += part.len() as u64;
        Ok(())
    }

    /// What a reply answers.
    fn pending(&self, id: Option<u32>, kind: u8) -> Result<Pending, Over> {
        let pending = id.and_then(|id| self.shared.state().pending.remove(&id));
        match pending {
            Some(pending) if answers(&pending, kind) => {
                self.shared.settled.notify_one();
                Ok(pending)
            }
            Some(_) | None => Err(self.strange("a reply to nothing that was asked")),
        }
    }

    /// Sends answers of ours, where no packet of the server's is under way.
    async fn answer(&mut self) -> Result<(), Over> {
        if !self.splitter.between_packets() {
            return Ok(());
        }
        let answers = std::mem::take(&mut self.shared.state().answers);
        for answer in answers {
            self.to_client.data_bytes(answer).await.map_err(|_| Over::Client)?;
            self.shared.settled.notify_one();
        }
        Ok(())
    }

    fn no_sftp(&self, error: SftpError) -> Over {
        self.strange(&error.to_string())
    }

    fn strange(&self, what: &str) -> Over {
        tracing::warn!(session = %self.connection.id(), what, "an SFTP server does not speak the protocol");
        Over::NoProtocol
    }
}
