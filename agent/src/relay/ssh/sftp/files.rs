//! What is open, what waits for its reply, and how each ended.

use std::collections::HashMap;

use bytes::Bytes;

use super::super::log::OperationLog;
use super::window::Window;
use crate::codec::sftp::{HandleReply, InOrder, Kept, Name, Packet, Status, StatusCode, kind};
use crate::mask::http::Counts;
use crate::record::RecordError;
use crate::record::stream::FileOutcome;

/// A request whose reply has not come.
pub(super) enum Pending {
    /// A file is being opened.
    Open(Box<OpenFile>),
    /// A folder is being opened.
    Opendir(Box<OperationLog>),
    /// A file or folder is being closed.
    Close(Serial),
    /// A file is read, from here on.
    Read(Serial, u64),
    /// The same, of a file in which something may have to be overwritten.
    ReadMasked(Serial, Box<Window>),
    /// A file is written.
    Write(Serial),
    /// Something that a status answers.
    Change(Box<OperationLog>),
    /// `SSH_FXP_REALPATH` of where the login begins.
    Home,
    /// Something of which nothing follows.
    Look,
}

impl Pending {
    /// Whether something is open once it has succeeded.
    pub(super) fn opens(&self) -> bool {
        match self {
            Self::Open(_) | Self::Opendir(_) => true,
            Self::Close(_)
            | Self::Read(..)
            | Self::ReadMasked(..)
            | Self::Write(_)
            | Self::Change(_)
            | Self::Home
            | Self::Look => false,
        }
    }
}

/// What was opened, by number: the server may give a handle again as soon as it has closed what it was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Serial(u64);

/// A file that is open, or about to be.
pub(super) struct OpenFile {
    pub(super) path: String,
    /// The permission to read it.
    pub(super) download: Option<OperationLog>,
    /// The permission to write it.
    pub(super) upload: Option<OperationLog>,
    /// What is written goes to its end.
    pub(super) appends: bool,
    /// Its content is kept in the record.
    pub(super) keep: bool,
    pub(super) read: InOrder,
    pub(super) written: InOrder,
    /// A write that the server refused.
    pub(super) failed: Option<String>,
}

impl OpenFile {
    /// Bytes of it that the client reads.
    ///
    /// # Errors
    /// They are to be kept and cannot be, so they must not pass.
    fn reads(&mut self, offset: u64, data: &Bytes, kept: &mut Kept) -> Result<(), RecordError> {
        let next = offset == self.read.position();
        self.read.take(offset, data, kept);
        match &mut self.download {
            Some(log) if self.keep && next => log.output(data),
            Some(log) if self.keep => {
                log.leave_out(data.len());
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Bytes of it that the client writes.
    ///
    /// # Errors
    /// They are to be kept and cannot be, so they must not pass.
    fn writes(&mut self, offset: u64, data: &Bytes, kept: &mut Kept) -> Result<(), RecordError> {
        let next = offset == self.written.position();
        self.written.take(offset, data, kept);
        match &mut self.upload {
            Some(log) if self.keep && next => log.input(data),
            Some(log) if self.keep => {
                log.leave_out(data.len());
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn refused(&mut self, why: &str) {
        for log in [&mut self.download, &mut self.upload].into_iter().flatten() {
            log.failed(why);
            log.end();
        }
    }

    /// Says in the record what moved. `whole` when it was closed.
    fn end(&mut self, whole: bool, kept: &mut Kept) {
        let ways = [(&mut self.download, &self.read, false), (&mut self.upload, &self.written, true)];
        for (log, moved, to_server) in ways {
            let Some(mut log) = log.take() else { continue };
            log.file(to_server, FileOutcome { size: moved.bytes(), sha256: moved.sha256() });
            match &self.failed {
                Some(why) if to_server => log.failed(why),
                Some(_) | None if whole => log.done(),
                Some(_) | None => log.failed("the channel ended while the file was open"),
            }
            log.end();
        }
        self.read.give_up(kept);
        self.written.give_up(kept);
    }
}

/// Everything that is open. A handle is known from the reply that gives it to the request that closes it; what it stands for,
/// until that has been answered.
#[derive(Default)]
pub(super) struct Files {
    handles: HashMap<Bytes, Serial>,
    open: HashMap<Serial, Opened>,
    next: u64,
    kept: Kept,
}

/// One handle.
pub(super) enum Opened {
    /// A file.
    File(Box<OpenFile>),
    /// A folder.
    Folder,
}

/// Data came that belongs to nothing that is open.
#[derive(Debug)]
pub(super) struct NotOpen;

/// What became of data.
pub(super) type Taken = Result<Result<(), RecordError>, NotOpen>;

impl Files {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// What a handle stands for, unless it is being closed.
    pub(super) fn serial(&self, handle: &Bytes) -> Option<Serial> {
        self.handles.get(handle).copied()
    }

    /// A file by its handle, unless it is being closed.
    pub(super) fn file(&mut self, handle: &Bytes) -> Option<(Serial, &mut OpenFile)> {
        let serial = self.serial(handle)?;
        match self.open.get_mut(&serial)? {
            Opened::File(file) => Some((serial, file)),
            Opened::Folder => None,
        }
    }

    /// Nothing more may be asked with this handle.
    pub(super) fn closing(&mut self, handle: &Bytes) -> Option<Serial> {
        self.handles.remove(handle)
    }

    /// Its content changes by other means than what is seen here.
    pub(super) fn give_up_written(&mut self, serial: Serial) {
        if let Some(Opened::File(file)) = self.open.get_mut(&serial) {
            file.written.give_up(&mut self.kept);
        }
    }

    /// Bytes that the client reads.
    pub(super) fn reads(&mut self, serial: Serial, offset: u64, data: &Bytes) -> Taken {
        match self.open.get_mut(&serial) {
            Some(Opened::File(file)) => Ok(file.reads(offset, data, &mut self.kept)),
            Some(Opened::Folder) | None => Err(NotOpen),
        }
    }

    /// What was overwritten in it.
    pub(super) fn masked(&mut self, serial: Serial, counts: &Counts) {
        if let Some(Opened::File(file)) = self.open.get_mut(&serial)
            && let Some(log) = &mut file.download
        {
            log.masked(counts);
        }
    }

    /// Bytes that the client writes.
    pub(super) fn writes(&mut self, serial: Serial, offset: u64, data: &Bytes) -> Taken {
        match self.open.get_mut(&serial) {
            Some(Opened::File(file)) => Ok(file.writes(offset, data, &mut self.kept)),
            Some(Opened::Folder) | None => Err(NotOpen),
        }
    }

    fn opened(&mut self, handle: Bytes, what: Opened) {
        let serial = Serial(self.next);
        self.next += 1;
        self.open.insert(serial, what);
        // A server that gives a handle twice has closed the first.
        if let Some(before) = self.handles.insert(handle, serial) {
            self.closed(before, false);
        }
    }

    fn closed(&mut self, serial: Serial, whole: bool) {
        if let Some(Opened::File(mut file)) = self.open.remove(&serial) {
            file.end(whole, &mut self.kept);
        }
    }

    /// The channel is over.
    pub(super) fn cut(&mut self) {
        for (_, opened) in self.open.drain() {
            if let Opened::File(mut file) = opened {
                file.end(false, &mut self.kept);
            }
        }
    }

    /// A reply came: what it says of what was asked. Gives back where relative paths begin, when it says that.
    pub(super) fn settle(&mut self, pending: Pending, reply: &Packet) -> Option<String> {
        let refused = || Status::parse(reply).filter(|status| status.code != StatusCode::Ok).map(told);
        match pending {
            Pending::Open(mut file) => match HandleReply::parse(reply) {
                Some(HandleReply(handle)) => self.opened(handle, Opened::File(file)),
                None => file.refused(&refused().unwrap_or_default()),
            },
            Pending::Opendir(mut log) => {
                match HandleReply::parse(reply) {
                    Some(HandleReply(handle)) => {
                        log.done();
                        self.opened(handle, Opened::Folder);
                    }
                    None => log.failed(&refused().unwrap_or_default()),
                }
                log.end();
            }
            Pending::Close(serial) => self.closed(serial, true),
            Pending::Write(serial) => {
                if let (Some(why), Some(Opened::File(file))) = (refused(), self.open.get_mut(&serial)) {
                    file.failed.get_or_insert(why);
                }
            }
            Pending::Change(mut log) => {
                match refused() {
                    Some(why) => log.failed(&why),
                    None => log.done(),
                }
                log.end();
            }
            Pending::Home => {
                return Name::parse(reply).map(|name| String::from_utf8_lossy(&name.0).into_owned());
            }
            Pending::Read(..) | Pending::ReadMasked(..) | Pending::Look => {}
        }
        None
    }
}

/// What the server said, in words for the record.
fn told(status: Status) -> String {
    match status.code {
        StatusCode::Ok => String::new(),
        StatusCode::Eof => "end of file".to_owned(),
        StatusCode::PermissionDenied
        | StatusCode::Failure
        | StatusCode::BadMessage
        | StatusCode::OpUnsupported
        | StatusCode::Other(_)
            if !status.message.is_empty() =>
        {
            format!("the server says: {}", status.message)
        }
        StatusCode::PermissionDenied => "the server says: permission denied".to_owned(),
        StatusCode::Failure => "the server says: failure".to_owned(),
        StatusCode::BadMessage => "the server says: bad message".to_owned(),
        StatusCode::OpUnsupported => "the server says: operation unsupported".to_owned(),
        StatusCode::Other(code) => format!("the server says: status {code}"),
    }
}

/// Whether a reply may answer what was asked: the server is not trusted more than its client.
pub(super) fn answers(pending: &Pending, reply: u8) -> bool {
    match pending {
        Pending::Open(_) | Pending::Opendir(_) => matches!(reply, kind::HANDLE | kind::STATUS),
        Pending::Read(..) | Pending::ReadMasked(..) => matches!(reply, kind::DATA | kind::STATUS),
        Pending::Close(_) | Pending::Write(_) | Pending::Change(_) => reply == kind::STATUS,
        Pending::Home => matches!(reply, kind::NAME | kind::STATUS),
        Pending::Look => matches!(reply, kind::STATUS | kind::NAME | kind::ATTRS | kind::EXTENDED_REPLY),
    }
}
