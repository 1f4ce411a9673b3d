//! scp's old protocol on one channel: each file is judged where it is named, and nothing that comes after its line passes before
//! the side that takes it has answered. One conversation, one task: who speaks is always known.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::asked::Asked;
use super::connection::Connection;
use super::hold;
use super::log::OperationLog;
use super::pump::{Join, Over, ended};
use super::refusal::Refusal;
use super::session_channel::Notice;
use crate::codec::scp::{Entry, Failure, Message, Reply};
use crate::codec::sftp::InOrder;
use crate::mask::file::FileMasker;
use crate::mask::http::BodyMasks;
use crate::record::RecordError;
use crate::record::stream::FileOutcome;
use crate::request::ssh::SshOperation;
use crate::request::ssh::scp::{Places, Way};
use peers::{Peer, Peers};

mod peers;

/// Folders within folders, at most: Linux's own paths have no more parts (PATH_MAX is 4096).
const DEPTH_MAX: usize = 2048;

/// Moves everything until the channel is closed.
pub(super) async fn run(
    connection: &Arc<Connection>,
    join: Join<'_>,
    places: Places,
    log: &mut OperationLog,
) {
    let Join { mut client, from_server, to_server, downloads: masks, .. } = join;
    let parked = std::mem::take(&mut client.parked);
    let log = Mutex::new(log);
    let over = {
        let from_client = (&mut client.from, &client.to);
        let peers = Peers::new(places.way(), from_client, (from_server, &to_server), &log, parked);
        let copy = Copy { connection, peers, places, masks, times: None, broken: false };
        tokio::select! {
            over = copy.run() => over,
            // Also while the server takes nothing.
            () = connection.when_left() => Over::Client,
        }
    };
    ended(over, connection, &client, &to_server, &log, "this is not the protocol of scp, so it ends here")
        .await;
}

/// One command's transfer.
struct Copy<'c, 'l> {
    connection: &'c Arc<Connection>,
    peers: Peers<'c, 'l>,
    places: Places,
    /// What is overwritten in files that the client gets.
    masks: Option<Arc<BodyMasks>>,
    /// Times for the next file, which the sink has not been told.
    times: Option<Message>,
    /// The server has refused a file whose content it had. Some programs answer twice then, and nobody could tell which answer
    /// is for what: nothing more goes there.
    broken: bool,
}

/// A file on its way.
struct Moving {
    log: OperationLog,
    way: Way,
    seen: InOrder,
    keep: bool,
    masker: Option<FileMasker>,
    ended: bool,
}

impl Moving {
    /// The file as it goes on, masked; `None` is its end.
    fn shown(&mut self, data: Option<Bytes>) -> Bytes {
        match (&mut self.masker, data) {
            (Some(masker), Some(data)) => masker.push(&data),
            (Some(masker), None) => masker.finish(),
            (None, data) => data.unwrap_or_default(),
        }
    }

    fn take(&mut self, data: &Bytes) -> Result<(), RecordError> {
        self.seen.append(data);
        match (self.keep, self.way) {
            (false, _) => Ok(()),
            (true, Way::Upload) => self.log.input(data),
            (true, Way::Download) => self.log.output(data),
        }
    }

    /// Says in the record what moved. Once.
    fn end(&mut self, failed: Option<String>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let file = FileOutcome { size: self.seen.bytes(), sha256: self.seen.sha256() };
        self.log.file(self.way == Way::Upload, file);
        if let Some(masker) = &self.masker {
            self.log.masked(masker.counts());
        }
        match failed {
            Some(why) => self.log.failed(&why),
            None => self.log.done(),
        }
        self.log.end();
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.end(Some("the channel ended within the file".to_owned()));
    }
}

impl Copy<'_, '_> {
    async fn run(mut self) -> Over {
        let over = match self.all().await {
            Ok(()) => self.rest().await,
            Err(over) => over,
        };
        if over == Over::Server && self.peers.way == Way::Upload {
            // Why it has gone, if it said so.
            while let Ok(Some(said)) = self.peers.last_reply() {
                if self.peers.tell(Peer::Source, said.encode()).await.is_err() {
                    break;
                }
            }
        }
        over
    }

    /// The whole conversation.
    async fn all(&mut self) -> Result<(), Over> {
        // The sink is ready, or says why not.
        let ready = self.peers.reply(Peer::Sink).await?;
        self.answer(ready).await?;
        while let Some(message) = self.peers.message().await? {
            match message {
                Message::Times { .. } => {
                    self.times = Some(message);
                    self.peers.tell(Peer::Source, Reply::Done.encode()).await?;
                }
                Message::File(_) | Message::Folder(_) | Message::End if self.broken => {
                    let told =
                        Failure::new("portcullis: an earlier file failed, so nothing more is copied here");
                    self.peers.tell(Peer::Source, told.encode()).await?;
                }
                Message::File(entry) => self.file(entry).await?,
                Message::Folder(entry) => self.folder(entry).await?,
                Message::End => {
                    if !self.places.leave() {
                        return Err(Over::NoProtocol);
                    }
                    let said = self.offer(Message::End).await?;
                    self.answer(said).await?;
                }
                Message::Failed(failure) => self.peers.tell(Peer::Sink, failure.encode()).await?,
            }
        }
        self.peers.end(Peer::Sink).await
    }

    /// Nothing more is said, but how it ended.
    async fn rest(&mut self) -> Over {
        loop {
            if let Err(over) = self.peers.arrive().await {
                return over;
            }
        }
    }

    /// Passes the sink's answer on. Without one nothing more is said: the source hears that, too.
    async fn answer(&mut self, said: Option<Reply>) -> Result<(), Over> {
        match said {
            Some(reply) => self.peers.tell(Peer::Source, reply.encode()).await,
            None => {
                self.peers.end(Peer::Source).await?;
                Err(self.rest().await)
            }
        }
    }

    /// Says a line to the sink and waits for its answer.
    async fn offer(&mut self, line: Message) -> Result<Option<Reply>, Over> {
        // An answer that nobody has asked for would be taken for the one to this line.
        if self.peers.way == Way::Upload && !self.peers.is_silent(Peer::Sink) {
            return Err(Over::NoProtocol);
        }
        self.peers.tell(Peer::Sink, line.encode()).await?;
        self.peers.reply(Peer::Sink).await
    }

    async fn file(&mut self, entry: Entry) -> Result<(), Over> {
        let (size, times) = (entry.size, self.times.take());
        let mut moving = match self.permitted(&self.places.file(&entry)).await? {
            Ok(log) => self.moving(log),
            Err(refusal) => return self.refuse(&refusal).await,
        };
        let mut said = Some(Reply::Done);
        if let Some(times) = times {
            said = self.offer(times).await?;
        }
        if said == Some(Reply::Done) {
            said = self.offer(Message::File(entry)).await?;
        }
        self.answer(said.clone()).await?;
        let why = match said {
            Some(Reply::Done) => None,
            Some(Reply::Failed(failure)) => Some(failure.shown()),
            None => Some("the channel ended before the file began".to_owned()),
        };
        if let Some(why) = why {
            moving.end(Some(why));
            return Ok(());
        }
        let mut left = size;
        while left > 0 {
            let Some(data) = self.peers.data(left).await? else { return Err(self.short()) };
            left -= data.len() as u64;
            let shown = moving.shown(Some(data));
            self.content(&mut moving, shown).await?;
        }
        let rest = moving.shown(None);
        self.content(&mut moving, rest).await?;
        // The source says whether what it sent is what it had.
        let Some(word) = self.peers.reply(Peer::Source).await? else { return Err(self.short()) };
        self.peers.tell(Peer::Sink, word.encode()).await?;
        let said = self.peers.reply(Peer::Sink).await?;
        self.broken |= self.peers.way == Way::Upload && said != Some(Reply::Done);
        self.answer(said.clone()).await?;
        moving.end(match (word, said) {
            (Reply::Done, Some(Reply::Done)) => None,
            (Reply::Failed(failure), _) | (Reply::Done, Some(Reply::Failed(failure))) => {
                Some(failure.shown())
            }
            (Reply::Done, None) => Some("the channel ended before the file was acknowledged".to_owned()),
        });
        Ok(())
    }

    async fn content(&mut self, moving: &mut Moving, data: Bytes) -> Result<(), Over> {
        if data.is_empty() {
            return Ok(());
        }
        moving.take(&data).map_err(|error| unrecorded(&error))?;
        self.peers.tell(Peer::Sink, data).await
    }

    /// The source has ended within a file, which its record says as it is dropped.
    fn short(&self) -> Over {
        match self.peers.way {
            Way::Upload => Over::Client,
            Way::Download => Over::Server,
        }
    }

    async fn folder(&mut self, entry: Entry) -> Result<(), Over> {
        let times = self.times.take();
        if self.places.depth() >= DEPTH_MAX {
            return Err(Over::NoProtocol);
        }
        let mut log = match self.permitted(&self.places.folder(&entry)).await? {
            Ok(log) => log,
            Err(refusal) => return self.refuse(&refusal).await,
        };
        let mut said = Some(Reply::Done);
        // A server that cannot set a folder's times says so when nobody asks (Dropbear's scp), so it is not told any.
        if let (Some(times), Way::Download) = (times, self.peers.way) {
            said = self.offer(times).await?;
        }
        if said == Some(Reply::Done) {
            said = self.offer(Message::Folder(entry.clone())).await?;
        }
        self.answer(said.clone()).await?;
        match said {
            Some(Reply::Done) => {
                self.places.enter(&entry);
                log.done();
            }
            Some(Reply::Failed(failure)) => log.failed(&failure.shown()),
            None => log.failed("the channel ended before the folder began"),
        }
        Ok(())
    }

    /// The file does not go; what comes after it may.
    async fn refuse(&mut self, refusal: &Refusal) -> Result<(), Over> {
        let told = Failure::new(&refusal.text.trim_end().replace('\n', "; ")).encode();
        if self.peers.way == Way::Download {
            self.peers.tell(Peer::Sink, told.clone()).await?;
        }
        self.peers.tell(Peer::Source, told).await
    }

    /// Asks the gate, and a human where it says so; then writes the intent down.
    async fn permitted(&mut self, operation: &SshOperation) -> Result<Result<OperationLog, Refusal>, Over> {
        let (connection, asked) = (self.connection, Asked::nothing());
        let number = connection.next_operation();
        let permit = {
            let notice = Notice::new(self.peers.to_client, false);
            let decision = hold::decide(connection, number, operation, &asked, Some(notice));
            let mut decision = std::pin::pin!(decision);
            loop {
                tokio::select! {
                    result = &mut decision => break result,
                    // Dropping the decision withdraws the question.
                    arrived = self.peers.arrive_from_client() => arrived?,
                }
            }
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(denial) => return Ok(Err(Refusal::denied(&denial))),
        };
        let begun = OperationLog::begin(connection, number, operation, &asked, permit).await;
        Ok(begun.map_err(|_recorded| Refusal::failed("this cannot be recorded, so it is not done")))
    }

    fn moving(&self, mut log: OperationLog) -> Moving {
        // What cannot be masked is not written down.
        let kept = self.connection.admission.policy().record.files;
        let masks = kept.then(|| self.connection.masks().ok()).flatten();
        if let Some(masks) = &masks {
            log.keep_file(masks);
        }
        let masker = match self.peers.way {
            Way::Upload => None,
            Way::Download => self.masks.clone().map(FileMasker::new),
        };
        Moving {
            log,
            way: self.peers.way,
            seen: InOrder::default(),
            keep: masks.is_some(),
            masker,
            ended: false,
        }
    }
}

fn unrecorded(error: &RecordError) -> Over {
    tracing::error!(%error, "a file cannot be recorded, and is cut");
    Over::Unrecorded
}
