//! What the server answers.

use std::sync::Arc;

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client, server};

use super::files::{NotOpen, Pending, Serial, answers};
use super::window::{Window, reply};
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
    /// What data is coming.
    reading: Reading,
}

/// What data is coming.
enum Reading {
    /// None.
    Nothing,
    /// Of a file, from here on.
    Of(Serial, u64),
    /// The same, to be looked at before the client gets it.
    Masked(u32, Serial, Box<Window>),
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
            reading: Reading::Nothing,
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
                Some(Piece::Bulk(bulk)) => self.bulk(&bulk, &mut outgoing)?,
                Some(Piece::Part(part)) => self.part(&part, &mut outgoing)?,
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

    fn bulk(&mut self, bulk: &Bulk, outgoing: &mut Outgoing) -> Result<(), Over> {
        self.reading = match self.pending(Some(bulk.id), kind::DATA)? {
            Pending::Read(serial, offset) => Reading::Of(serial, offset),
            Pending::ReadMasked(serial, window) if window.allows(bulk.length) => {
                self.reading = Reading::Masked(bulk.id, serial, window);
                return self.whole(outgoing);
            }
            Pending::ReadMasked(..) => return Err(self.strange("more data than was asked for")),
            // `answers` has let nothing else through.
            Pending::Open(_)
            | Pending::Opendir(_)
            | Pending::Close(_)
            | Pending::Write(_)
            | Pending::Change(_)
            | Pending::Home
            | Pending::Look => Reading::Nothing,
        };
        outgoing.pass(&bulk.raw);
        Ok(())
    }

    fn part(&mut self, part: &Bytes, outgoing: &mut Outgoing) -> Result<(), Over> {
        match &mut self.reading {
            // Whose data it is, is always known: else it would be nobody's in the record.
            Reading::Nothing => Err(self.strange("data that nobody asked for")),
            Reading::Of(serial, offset) => {
                let (serial, at) = (*serial, *offset);
                *offset = offset.saturating_add(part.len() as u64);
                self.taken(serial, at, part)?;
                outgoing.pass(part);
                Ok(())
            }
            Reading::Masked(_, _, window) => {
                window.take(part);
                self.whole(outgoing)
            }
        }
    }

    /// Gives the client what it asked for once all that is around it is there.
    fn whole(&mut self, outgoing: &mut Outgoing) -> Result<(), Over> {
        if self.splitter.data_left() > 0 {
            return Ok(());
        }
        let Reading::Masked(id, serial, window) = std::mem::replace(&mut self.reading, Reading::Nothing)
        else {
            return Ok(());
        };
        let Some(masks) = &self.shared.masks else { return Ok(()) };
        let (offset, shown, counts) = window.finish(masks);
        self.taken(serial, offset, &shown)?;
        self.shared.state().files.masked(serial, &counts);
        outgoing.pass(&reply(id, &shown));
        Ok(())
    }

    fn taken(&self, serial: Serial, offset: u64, data: &Bytes) -> Result<(), Over> {
        let taken = self.shared.state().files.reads(serial, offset, data);
        match taken {
            Ok(taken) => taken.map_err(|error| unrecorded(&error)),
            Err(NotOpen) => Err(self.strange("data of a file that is closed")),
        }
    }

    /// What a reply answers.
    fn pending(&self, id: Option<u32>, kind: u8) -> Result<Pending, Over> {
        let pending = id.and_then(|id| self.shared.state().settled(id));
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
