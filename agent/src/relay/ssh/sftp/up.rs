//! What the client asks: understood, judged, written down, passed on.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client, server};

use super::files::{NotOpen, OpenFile, Pending, Serial};
use super::window::Window;
use super::{Connection, OPEN_MAX, OWN_ID, Over, Shared, unrecorded};
use crate::codec::sftp::{
    Bulk, Direction, ExtendedRequest, InOrder, Outgoing, Packet, Piece, Request, SftpError, Splitter,
    StatusCode, init, realpath, status,
};
use crate::gate::{Denial, Permit};
use crate::relay::ssh::asked::Asked;
use crate::relay::ssh::hold;
use crate::relay::ssh::log::OperationLog;
use crate::relay::ssh::pump::Granted;
use crate::relay::ssh::refusal::Refusal;
use crate::relay::ssh::session_channel::{Notice, STDERR};
use crate::request::ssh::sftp::{operations, setstat_of_open};
use crate::request::ssh::{OperationKind, SshOperation};
use crate::upstream::ssh::MESSAGES_MAX;

/// The client's direction.
pub(super) struct Up<'u> {
    connection: &'u Arc<Connection>,
    shared: &'u Shared,
    parked: VecDeque<ChannelMsg>,
    from_client: &'u mut ChannelReadHalf,
    to_client: &'u ChannelWriteHalf<server::Msg>,
    to_server: &'u ChannelWriteHalf<client::Msg>,
    splitter: Splitter,
    granted: Granted,
    /// Where the data goes that is coming.
    writing: Writing,
}

/// Where data of the client goes.
enum Writing {
    /// Into a file, from here on.
    To(Serial, u64),
    /// Nowhere: the write was refused.
    Nowhere,
}

/// What becomes of a request.
enum Course {
    /// It is sent on, and its reply will say more.
    On(Pending),
    /// This is sent instead of it.
    Instead(Pending, Bytes),
    /// It got its answer from us.
    Answered,
}

impl<'u> Up<'u> {
    pub(super) fn new(
        connection: &'u Arc<Connection>,
        shared: &'u Shared,
        parked: VecDeque<ChannelMsg>,
        from_client: &'u mut ChannelReadHalf,
        to_client: &'u ChannelWriteHalf<server::Msg>,
        to_server: &'u ChannelWriteHalf<client::Msg>,
    ) -> Self {
        Self {
            connection,
            shared,
            parked,
            from_client,
            to_client,
            to_server,
            splitter: Splitter::new(Direction::ToServer),
            granted: Granted::default(),
            writing: Writing::Nowhere,
        }
    }

    pub(super) async fn run(&mut self) -> Over {
        loop {
            let message = match self.parked.pop_front() {
                Some(message) => Some(message),
                None => self.from_client.wait().await,
            };
            let step = match message {
                None | Some(ChannelMsg::Close) => Err(Over::Client),
                Some(ChannelMsg::Data { data }) => self.data(data).await,
                // Nothing of a client's has an extended type (RFC 4254 §5.2 knows stderr alone).
                Some(ChannelMsg::ExtendedData { data, .. }) => self.took(data.len()).await,
                Some(ChannelMsg::Eof) => self.to_server.eof().await.map_err(|_| Over::Server),
                // One channel runs one thing (RFC 4254 §6.5).
                Some(_) => Ok(()),
            };
            if let Err(over) = step {
                return over;
            }
        }
    }

    async fn took(&mut self, bytes: usize) -> Result<(), Over> {
        match self.granted.taken(bytes) {
            Some(more) => self.to_client.grant_window(more).await.map_err(|_| Over::Client),
            None => Ok(()),
        }
    }

    async fn data(&mut self, data: Bytes) -> Result<(), Over> {
        let length = data.len();
        let mut outgoing = Outgoing::of(&data);
        let mut input = data;
        loop {
            let piece = self.splitter.next(&mut input).map_err(|error| self.no_sftp(error))?;
            match piece {
                None => break,
                Some(Piece::Packet(packet)) => self.packet(packet, &mut outgoing).await?,
                Some(Piece::Bulk(bulk)) => self.write(&bulk, &mut outgoing).await?,
                Some(Piece::Part(part)) => self.part(&part, &mut outgoing)?,
            }
        }
        self.send(&mut outgoing).await?;
        self.took(length).await
    }

    async fn send(&self, outgoing: &mut Outgoing) -> Result<(), Over> {
        for bytes in outgoing.take() {
            self.to_server.data_bytes(bytes).await.map_err(|_| Over::Server)?;
        }
        Ok(())
    }

    async fn packet(&mut self, packet: Packet, outgoing: &mut Outgoing) -> Result<(), Over> {
        self.room(outgoing).await?;
        let request = match (Request::parse(&packet), packet.id()) {
            (Ok(Request::Init(_)), _) => {
                outgoing.pass(&init());
                // Where relative paths begin has to be known before one is judged.
                self.register(OWN_ID, Pending::Home)?;
                outgoing.pass(&realpath(OWN_ID, b"."));
                return Ok(());
            }
            (Ok(request), Some(_)) => request,
            (Err(SftpError::Kind(_)), Some(id)) => {
                self.shared.answer(status(
                    id,
                    StatusCode::OpUnsupported,
                    "portcullis: nobody knows this request",
                ));
                return Ok(());
            }
            (Err(error), Some(id)) => {
                self.shared.answer(status(id, StatusCode::BadMessage, &format!("portcullis: {error}")));
                return Ok(());
            }
            (Ok(_), None) => return Err(self.no_sftp(SftpError::Malformed(packet.kind()))),
            (Err(error), None) => return Err(self.no_sftp(error)),
        };
        let id = packet.id().unwrap_or_default();
        let course = match self.about_what_is_open(id, &request) {
            Some(course) => course,
            None => self.judged(id, &request, outgoing).await?,
        };
        match course {
            Course::On(pending) => {
                self.register(id, pending)?;
                outgoing.pass(&packet.raw);
            }
            Course::Instead(pending, request) => {
                self.register(id, pending)?;
                outgoing.pass(&request);
            }
            Course::Answered => {}
        }
        Ok(())
    }

    /// Waits until one more request may wait for its reply, or get one of ours.
    async fn room(&self, outgoing: &mut Outgoing) -> Result<(), Over> {
        while self.shared.is_full() {
            self.send(outgoing).await?;
            self.shared.settled.notified().await;
        }
        Ok(())
    }

    fn register(&self, id: u32, pending: Pending) -> Result<(), Over> {
        match self.shared.state().waits(id, pending) {
            None => Ok(()),
            // Whose reply would it be?
            Some(_) => Err(self.strange("two requests with one id")),
        }
    }

    fn refuse(&self, id: u32, code: StatusCode, why: &str) -> Course {
        self.shared.answer(status(id, code, &format!("portcullis: {why}")));
        Course::Answered
    }

    /// Requests that are permitted by what was permitted before, or that are about no file.
    fn about_what_is_open(&self, id: u32, request: &Request) -> Option<Course> {
        let mut state = self.shared.state();
        let files = &mut state.files;
        let course = match request {
            // From here on the server may give the same handle to another file.
            Request::Close(handle) => files.closing(handle).map(Pending::Close),
            Request::Read { handle, offset, length } if self.shared.masks.is_some() => {
                let serial = files.file(handle).filter(|(_, file)| file.download.is_some());
                let serial = serial.map(|(serial, _)| serial);
                drop(state);
                let Some(serial) = serial else { return Some(self.not_open(id)) };
                let (window, request) = Window::of(id, handle, *offset, *length);
                return Some(Course::Instead(Pending::ReadMasked(serial, Box::new(window)), request));
            }
            Request::Read { handle, offset, .. } => files
                .file(handle)
                .filter(|(_, file)| file.download.is_some())
                .map(|(serial, _)| Pending::Read(serial, *offset)),
            Request::LookAtHandle(handle) | Request::Extended(ExtendedRequest::Fsync(handle)) => {
                files.serial(handle).map(|_| Pending::Look)
            }
            Request::Extended(ExtendedRequest::CopyData { from, to }) => {
                let readable = files.file(from).is_some_and(|(_, file)| file.download.is_some());
                let to = files.file(to).filter(|(_, file)| readable && file.upload.is_some());
                to.map(|(serial, _)| serial).map(|serial| {
                    files.give_up_written(serial);
                    Pending::Look
                })
            }
            Request::Fsetstat { handle, attributes } => {
                let (serial, file) = files.file(handle)?;
                if file.upload.is_none() || attributes.sets_id() {
                    return None;
                }
                // Cut where it ends anyway, it stays what was seen.
                if attributes.size.is_some_and(|size| size != file.written.position()) {
                    files.give_up_written(serial);
                }
                Some(Pending::Look)
            }
            // Where the login begins, every client asks.
            Request::Realpath(path) if matches!(path.as_ref(), b"" | b".") => Some(Pending::Look),
            Request::Extended(ExtendedRequest::Harmless) => Some(Pending::Look),
            Request::Extended(ExtendedRequest::Unknown) => {
                drop(state);
                return Some(self.refuse(id, StatusCode::OpUnsupported, "nobody knows this extension"));
            }
            Request::Init(_)
            | Request::Open { .. }
            | Request::LookAtPath(_)
            | Request::Realpath(_)
            | Request::Setstat { .. }
            | Request::Opendir(_)
            | Request::Remove(_)
            | Request::Mkdir { .. }
            | Request::Rename { .. }
            | Request::Symlink { .. }
            | Request::Hardlink { .. } => return None,
        };
        drop(state);
        Some(match course {
            Some(pending) => Course::On(pending),
            None => self.not_open(id),
        })
    }

    fn not_open(&self, id: u32) -> Course {
        self.refuse(id, StatusCode::Failure, "nothing of that handle is open for this")
    }

    /// Waits until the server has said where relative paths begin.
    async fn home(&self, outgoing: &mut Outgoing) -> Result<(), Over> {
        while self.shared.state().pending.contains_key(&OWN_ID) {
            self.send(outgoing).await?;
            self.shared.settled.notified().await;
        }
        Ok(())
    }

    /// Requests that name a file.
    async fn judged(&mut self, id: u32, request: &Request, outgoing: &mut Outgoing) -> Result<Course, Over> {
        self.home(outgoing).await?;
        let operations = {
            let mut state = self.shared.state();
            if matches!(request, Request::Open { .. } | Request::Opendir(_))
                && state.files.len() + state.opening >= OPEN_MAX
            {
                drop(state);
                return Ok(self.refuse(id, StatusCode::Failure, "too many files are open"));
            }
            if let Request::Fsetstat { handle, attributes } = request {
                let path = state.files.file(handle).map(|(_, file)| file.path.clone());
                path.map(|path| setstat_of_open(&path, attributes)).into_iter().collect()
            } else {
                operations(request, state.home.as_deref())
            }
        };
        if operations.is_empty() {
            return Ok(self.not_open(id));
        }
        // What was asked before does not wait for somebody to decide this.
        self.send(outgoing).await?;
        let mut logs = Vec::new();
        for operation in operations {
            match self.permitted(&operation, request).await? {
                Ok(log) => logs.push((operation, log)),
                Err(refusal) => {
                    let told = refusal.text.trim_end().replace('\n', "; ");
                    self.shared.answer(status(id, StatusCode::PermissionDenied, &told));
                    // OpenSSH's client shows a status by its code alone.
                    drop(self.to_client.extended_data_bytes(STDERR, refusal.bytes(false)).await);
                    return Ok(Course::Answered);
                }
            }
        }
        Ok(Course::On(self.pending(request, logs)))
    }

    /// Asks the gate, and a human where it says so; then writes the intent down, but for looks at names.
    async fn permitted(
        &mut self,
        operation: &SshOperation,
        request: &Request,
    ) -> Result<Result<Option<OperationLog>, Refusal>, Over> {
        let number = self.connection.next_operation();
        let permit = match self.decided(number, operation).await? {
            Ok(permit) => permit,
            Err(denial) => return Ok(Err(Refusal::denied(&denial))),
        };
        if operation.kind == OperationKind::Stat && !matches!(request, Request::Opendir(_)) {
            return Ok(Ok(None));
        }
        let begun = OperationLog::begin(self.connection, number, operation, &Asked::nothing(), permit).await;
        Ok(match begun {
            Ok(log) => Ok(Some(log)),
            Err(_recorded) => Err(Refusal::failed("this cannot be recorded, so it is not done")),
        })
    }

    async fn decided(
        &mut self,
        number: u64,
        operation: &SshOperation,
    ) -> Result<Result<Permit, Denial>, Over> {
        let asked = Asked::nothing();
        let notice = Notice::new(self.to_client, false);
        let decision = hold::decide(self.connection, number, operation, &asked, Some(notice));
        let mut decision = std::pin::pin!(decision);
        loop {
            tokio::select! {
                result = &mut decision => return Ok(result),
                message = self.from_client.wait() => match message {
                    // Dropping the decision withdraws the question.
                    None | Some(ChannelMsg::Close) => return Err(Over::Client),
                    Some(_) if self.parked.len() >= MESSAGES_MAX => return Err(Over::Client),
                    Some(message) => self.parked.push_back(message),
                }
            }
        }
    }

    /// `SSH_FXP_WRITE`.
    async fn write(&mut self, bulk: &Bulk, outgoing: &mut Outgoing) -> Result<(), Over> {
        self.room(outgoing).await?;
        let place =
            self.shared.state().files.file(&bulk.handle).filter(|(_, file)| file.upload.is_some()).map(
                |(serial, file)| (serial, if file.appends { file.written.bytes() } else { bulk.offset }),
            );
        let Some((serial, place)) = place else {
            self.writing = Writing::Nowhere;
            self.refuse(bulk.id, StatusCode::Failure, "nothing of that handle is open for this");
            return Ok(());
        };
        self.register(bulk.id, Pending::Write(serial))?;
        self.writing = Writing::To(serial, place);
        outgoing.pass(&bulk.raw);
        Ok(())
    }

    fn part(&mut self, part: &Bytes, outgoing: &mut Outgoing) -> Result<(), Over> {
        match &mut self.writing {
            Writing::Nowhere => {}
            Writing::To(serial, offset) => {
                let taken = self.shared.state().files.writes(*serial, *offset, part);
                match taken {
                    Ok(taken) => taken.map_err(|error| unrecorded(&error))?,
                    // The server has closed what is being written.
                    Err(NotOpen) => return Err(Over::NoProtocol),
                }
                *offset = offset.saturating_add(part.len() as u64);
                outgoing.pass(part);
            }
        }
        Ok(())
    }

    fn no_sftp(&self, error: SftpError) -> Over {
        self.strange(&error.to_string())
    }

    fn strange(&self, what: &str) -> Over {
        tracing::warn!(session = %self.connection.id(), what, "an SFTP client does not speak the protocol");
        Over::NoProtocol
    }

    /// What waits for the reply to a permitted request.
    fn pending(&self, request: &Request, logs: Vec<(SshOperation, Option<OperationLog>)>) -> Pending {
        let Request::Open { flags, .. } = request else {
            return match logs.into_iter().find_map(|(_, log)| log) {
                Some(log) if matches!(request, Request::Opendir(_)) => Pending::Opendir(Box::new(log)),
                Some(log) => Pending::Change(Box::new(log)),
                None => Pending::Look,
            };
        };
        let path = logs.first().and_then(|(operation, _)| operation.paths.first());
        // What cannot be masked is not written down.
        let kept = self.connection.admission.policy().record.files;
        let masks = kept.then(|| self.connection.masks().ok()).flatten();
        let mut file = OpenFile {
            path: path.map(|path| path.path.clone()).unwrap_or_default(),
            download: None,
            upload: None,
            appends: flags.appends(),
            keep: masks.is_some(),
            read: InOrder::default(),
            written: InOrder::default(),
            failed: None,
        };
        for (operation, mut log) in logs {
            if let (Some(log), Some(masks)) = (&mut log, &masks) {
                log.keep_file(masks);
            }
            if operation.kind == OperationKind::Download {
                file.download = log;
            } else {
                file.upload = log;
            }
        }
        Pending::Open(Box::new(file))
    }
}
