//! One flow's handle on the recorder: numbers its frames, gathers its rows, and records its end even if forgotten.

use std::sync::Arc;

use serde::Serialize;

use super::body::{BodyBlock, MessageBlock};
use super::error::RecordError;
use super::event::{
    Decided, EndReason, Ended, Held, Intent, Note, OpaqueCounts, Outcome, Refused, SessionClosed,
    SessionOpened, json_frame,
};
use super::format::{FrameBytes, Kind};
use super::log::{Address, Class, Draft, Lsn};
use super::rows::{ResultColumn, Room, RowBuffer, ValueFormat};
use super::stream::StreamBlock;
use super::writer::Recorder;
use crate::flow::{SessionId, Side};

/// JSON payloads of this many bytes or more are compressed.
const COMPRESS_FROM_BYTES: usize = 4 * 1024;

/// The recording of one flow. Dropped without [`SessionRecord::close`], it records an abrupt end.
///
/// Every method that appends returns an error when the frame is not in the log; the caller then forwards nothing more.
#[derive(Debug)]
pub struct SessionRecord {
    recorder: Arc<Recorder>,
    session: SessionId,
    sequence: u64,
    operation: u64,
    /// Result bytes one operation may keep.
    result_bytes_max: u64,
    rows: RowBuffer,
    counts: OpaqueCounts,
    closed: bool,
}

impl Recorder {
    /// Begins the recording of a flow. `result_bytes_max` bounds the masked result bytes kept per operation.
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`.
    pub fn session(
        self: &Arc<Self>,
        opened: &SessionOpened,
        result_bytes_max: u64,
    ) -> Result<SessionRecord, RecordError> {
        let mut record = SessionRecord {
            recorder: Arc::clone(self),
            session: opened.flow.session,
            sequence: 0,
            operation: 0,
            result_bytes_max,
            rows: RowBuffer::default(),
            counts: OpaqueCounts { to_upstream: 0, to_client: 0 },
            closed: true,
        };
        record.event(Kind::SessionOpened, 0, opened)?;
        record.closed = false;
        Ok(record)
    }
}

impl SessionRecord {
    /// Which session.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.session
    }

    /// The recorder it writes to; for [`Recorder::durable`].
    #[must_use]
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// A number for the next operation, from 1.
    pub fn next_operation(&mut self) -> u64 {
        self.operation += 1;
        self.operation
    }

    /// The gate lets an operation pass. The frame survives the daemon's death when this returns, and the machine's
    /// once [`Recorder::durable`] does; until then nothing may be forwarded.
    ///
    /// # Errors
    /// `DiskFull`, `TooLarge`, `Poisoned`.
    pub fn intent(&mut self, intent: &Intent) -> Result<Lsn, RecordError> {
        self.event(Kind::Intent, intent.asked.operation, intent)
    }

    /// The same, without the frame's being written when this returns: a daemon that is killed within 10 ms loses it.
    ///
    /// # Errors
    /// `DiskFull`, `TooLarge`, `Poisoned`.
    pub fn intent_gathered(&mut self, intent: &Intent) -> Result<Lsn, RecordError> {
        let frame = self.frame(intent)?;
        let draft = self.draft(Kind::Intent, intent.asked.operation, frame);
        self.append([Draft { class: Class::BeginsSoon, ..draft }])
    }

    /// The gate refused an operation.
    ///
    /// # Errors
    /// `DiskFull`, `TooLarge`, `Poisoned`.
    pub fn refused(&mut self, refused: &Refused) -> Result<Lsn, RecordError> {
        self.event(Kind::Refused, refused.asked.operation, refused)
    }

    /// An operation waits for a human.
    ///
    /// # Errors
    /// `DiskFull`, `TooLarge`, `Poisoned`.
    pub fn held(&mut self, held: &Held) -> Result<Lsn, RecordError> {
        self.event(Kind::Held, held.asked.operation, held)
    }

    /// A hold ended. What follows is an intent or a refusal.
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`.
    pub fn decided(&mut self, decided: &Decided) -> Result<Lsn, RecordError> {
        self.event(Kind::Decided, decided.operation, decided)
    }

    /// Rows recorded from now on belong to this result of this operation.
    ///
    /// # Errors
    /// The previous result's last block cannot be written: `DiskFull`, `Poisoned`.
    pub fn begin_rows(
        &mut self,
        operation: u64,
        statement: u16,
        columns: &[ResultColumn],
    ) -> Result<(), RecordError> {
        self.flush_rows()?;
        self.rows.begin(operation, statement, columns);
        Ok(())
    }

    /// Records a COPY stream's chunks from now on.
    ///
    /// # Errors
    /// As [`SessionRecord::begin_rows`].
    pub fn begin_copy(&mut self, operation: u64, statement: u16) -> Result<(), RecordError> {
        let column = ResultColumn { name: "copy".to_owned(), type_oid: 0, format: ValueFormat::Copy };
        self.begin_rows(operation, statement, &[column])
    }

    /// One masked row, as the body of a DataRow message. Rows beyond the bounds are counted, not kept.
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`.
    pub fn row(&mut self, data_row_body: &[u8]) -> Result<(), RecordError> {
        self.push(&[data_row_body])
    }

    /// One masked chunk of a COPY stream.
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`.
    pub fn copy_data(&mut self, chunk: &[u8]) -> Result<(), RecordError> {
        let Ok(length) = i32::try_from(chunk.len()) else {
            self.rows.leave_out(1);
            return Ok(());
        };
        self.push(&[&1_i16.to_be_bytes(), &length.to_be_bytes(), chunk])
    }

    /// Rows that went to the client and are too large to be handed over.
    pub fn leave_out(&mut self, rows: u64) {
        self.rows.leave_out(rows);
    }

    /// How a forwarded operation ended. Its rows are written first; `rows_left_out` is filled in.
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`.
    pub fn outcome(&mut self, mut outcome: Outcome) -> Result<Lsn, RecordError> {
        let rows = self.take_rows()?;
        outcome.rows_left_out += self.rows.end(outcome.operation);
        let frame = self.frame(&outcome)?;
        let Some((operation, rows)) = rows else {
            let draft = self.draft(Kind::Outcome, outcome.operation, frame);
            return self.append([draft]);
        };
        let rows = self.draft(Kind::ResultRows, operation, rows);
        let mut outcome = self.draft(Kind::Outcome, outcome.operation, frame);
        outcome.address.sequence += 1;
        self.append([rows, outcome])
    }

    /// A stretch of an HTTP body.
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`.
    pub fn body(&mut self, block: &BodyBlock) -> Result<Lsn, RecordError> {
        self.bytes(Kind::Body, block.operation, |out| block.encode(out))
    }

    /// A WebSocket message.
    ///
    /// # Errors
    /// `DiskFull`, `TooLarge`, `Poisoned`.
    pub fn message(&mut self, message: &MessageBlock) -> Result<Lsn, RecordError> {
        self.bytes(Kind::Message, message.operation, |out| message.encode(out))
    }

    /// A stretch of an SSH channel's stream.
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`.
    pub fn stream(&mut self, block: &StreamBlock) -> Result<Lsn, RecordError> {
        self.bytes(Kind::Stream, block.operation, |out| block.encode(out))
    }

    /// Free text about the session.
    ///
    /// # Errors
    /// `DiskFull`, `TooLarge`, `Poisoned`.
    pub fn note(&mut self, text: &str) -> Result<Lsn, RecordError> {
        self.event(Kind::Note, 0, &Note { text: text.to_owned() })
    }

    /// Bytes relayed so far; they also go into the session's end. Written only for streams that are not read.
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`.
    pub fn opaque_counts(&mut self, counts: OpaqueCounts) -> Result<Lsn, RecordError> {
        self.counts = counts;
        self.event(Kind::OpaqueCounts, 0, &counts)
    }

    /// Bytes relayed so far, for the session's end.
    pub fn count_bytes(&mut self, counts: OpaqueCounts) {
        self.counts = counts;
    }

    /// Writes rows that are still being gathered; for a result that pauses (a suspended portal).
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`.
    pub fn flush_rows(&mut self) -> Result<(), RecordError> {
        let Some((operation, frame)) = self.take_rows()? else { return Ok(()) };
        let draft = self.draft(Kind::ResultRows, operation, frame);
        self.append([draft]).map(|_| ())
    }

    /// The rows gathered so far, as a frame of their operation.
    fn take_rows(&mut self) -> Result<Option<(u64, FrameBytes)>, RecordError> {
        let Some((operation, block)) = self.rows.take_block() else { return Ok(None) };
        let frame = if block.len() < COMPRESS_FROM_BYTES {
            FrameBytes::raw(|out| {
                out.extend_from_slice(block);
                Ok::<_, RecordError>(())
            })?
        } else {
            self.recorder.compress(block)?
        };
        Ok(Some((operation, frame)))
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`; then the next opening of the store closes the session.
    pub fn close(mut self, ended: Ended) -> Result<Lsn, RecordError> {
        self.end(ended)
    }

    fn end(&mut self, ended: Ended) -> Result<Lsn, RecordError> {
        self.closed = true;
        // A block that cannot be written must not keep the end from being written.
        let flushed = self.flush_rows();
        for open in self.recorder.unfinished(self.session) {
            self.event(Kind::Outcome, open.operation, &Outcome::missing(open))?;
        }
        let closed = SessionClosed {
            ended,
            bytes_to_upstream: Some(self.counts.to_upstream),
            bytes_to_client: Some(self.counts.to_client),
        };
        let lsn = self.event(Kind::SessionClosed, 0, &closed)?;
        flushed.map(|()| lsn)
    }

    fn push(&mut self, pieces: &[&[u8]]) -> Result<(), RecordError> {
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        match self.rows.room_for(bytes, self.result_bytes_max) {
            Room::Here => {}
            Room::NextBlock => self.flush_rows()?,
            Room::Nowhere => {
                self.rows.leave_out(1);
                return Ok(());
            }
        }
        self.rows.push(pieces);
        Ok(())
    }

    fn bytes(
        &mut self,
        kind: Kind,
        operation: u64,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Lsn, RecordError> {
        let mut frame = FrameBytes::raw(|out| {
            encode(out);
            Ok::<_, RecordError>(())
        })?;
        if frame.stored_payload().len() >= COMPRESS_FROM_BYTES {
            frame = self.recorder.compress(frame.stored_payload())?;
        }
        let draft = self.draft(kind, operation, frame);
        self.append([draft])
    }

    fn event<T: Serialize>(&mut self, kind: Kind, operation: u64, event: &T) -> Result<Lsn, RecordError> {
        let frame = self.frame(event)?;
        let draft = self.draft(kind, operation, frame);
        self.append([draft])
    }

    fn frame<T: Serialize>(&self, event: &T) -> Result<FrameBytes, RecordError> {
        let frame = json_frame(event)?;
        if frame.stored_payload().len() >= COMPRESS_FROM_BYTES {
            return self.recorder.compress(frame.stored_payload());
        }
        Ok(frame)
    }

    /// The session's next frame.
    fn draft(&self, kind: Kind, operation: u64, frame: FrameBytes) -> Draft {
        let address = Address { kind, session: self.session, sequence: self.sequence + 1, operation };
        Draft { address, frame, class: Class::of(kind) }
    }

    fn append<const N: usize>(&mut self, drafts: [Draft; N]) -> Result<Lsn, RecordError> {
        let lsn = self.recorder.append(drafts)?;
        self.sequence += N as u64;
        Ok(lsn)
    }
}

impl Drop for SessionRecord {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let ended = Ended { reason: EndReason::Abandoned, side: Side::Portcullis, detail: None };
        if let Err(error) = self.end(ended) {
            tracing::error!(session = %self.session, %error, "the end of a session could not be recorded");
        }
    }
}
