//! What the client is still owed, in order: the server's replies to forwarded messages, and refusals of our own that
//! must not overtake them.

use std::collections::VecDeque;

use super::operation::OperationId;

/// Replies one session may be owed. A client that pipelines deeper waits until the server has caught up.
pub(crate) const REPLIES_MAX: usize = 16_384;

/// One owed reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// BindComplete.
    Bind {
        /// The portal's name.
        portal: Box<[u8]>,
        /// The operation the portal will run.
        operation: OperationId,
    },
    /// CloseComplete.
    Close(Closed),
    /// Nothing: here the client ended a COPY FROM STDIN that the server had not begun yet.
    CopyEnd,
    /// RowDescription or NoData of a portal.
    DescribePortal {
        /// The portal's name.
        portal: Box<[u8]>,
        /// We asked, not the client: the reply stays here.
        injected: bool,
    },
    /// ParameterDescription, then RowDescription or NoData of a statement.
    DescribeStatement,
    /// Rows, COPY data, then CommandComplete, PortalSuspended or EmptyQueryResponse.
    Execute {
        /// What runs.
        operation: OperationId,
        /// The portal's name.
        portal: Box<[u8]>,
        /// What it means for the messages behind it.
        marks: Marks,
    },
    /// ReadyForQuery for a Sync sent before a COPY FROM STDIN that failed, unless the copy had swallowed it already.
    LateSync,
    /// ParseComplete.
    Parse {
        /// The statement's name.
        statement: Box<[u8]>,
    },
    /// Results of each statement, then ReadyForQuery.
    Query {
        /// What runs.
        operation: OperationId,
        /// What it means for the messages behind it.
        marks: Marks,
    },
    /// The server's error for a statement that cannot be parsed, which went in place of a refused one: our own
    /// ErrorResponse takes its place.
    Refusal {
        /// The message as it goes on the wire.
        response: Box<[u8]>,
    },
    /// ReadyForQuery.
    Sync,
}

impl Reply {
    /// The operation whose results this reply is.
    pub(crate) const fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Execute { operation, .. } | Self::Query { operation, .. } => Some(*operation),
            Self::Bind { .. }
            | Self::Close(_)
            | Self::CopyEnd
            | Self::DescribePortal { .. }
            | Self::DescribeStatement
            | Self::LateSync
            | Self::Parse { .. }
            | Self::Refusal { .. }
            | Self::Sync => None,
        }
    }
}

/// What a Close message named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// A portal.
    Portal(Box<[u8]>),
    /// A prepared statement.
    Statement(Box<[u8]>),
}

/// What an operation means for messages that come after it and before its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// It may take data of a COPY FROM STDIN.
    pub(crate) copies: bool,
    /// What they mean depends on how it ends.
    pub(crate) turns: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    queue: VecDeque<Reply>,
    copies: usize,
    turns: usize,
    /// Syncs that the COPY FROM STDIN in progress swallows, should it not fail before it reads them.
    swallowed: usize,
}

impl Replies {
    pub(crate) fn push(&mut self, reply: Reply) {
        let marks = reply.marks();
        self.copies += usize::from(marks.copies);
        self.turns += usize::from(marks.turns);
        // Of several ReadyForQuery in a row, those that may not come are taken for the last.
        let late = self.queue.iter().rev().take_while(|reply| **reply == Reply::LateSync).count();
        let at = if reply == Reply::Sync { self.queue.len() - late } else { self.queue.len() };
        self.queue.insert(at, reply);
    }

    pub(crate) fn head(&self) -> Option<&Reply> {
        self.queue.front()
    }

    /// The reply that has come in full.
    pub(crate) fn pop(&mut self) -> Option<Reply> {
        let popped = self.take_head();
        while self.head() == Some(&Reply::CopyEnd) {
            self.take_head();
        }
        popped
    }

    fn take_head(&mut self) -> Option<Reply> {
        let head = self.queue.pop_front()?;
        let marks = head.marks();
        self.swallowed = 0;
        self.copies -= usize::from(marks.copies);
        self.turns -= usize::from(marks.turns);
        Some(head)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= REPLIES_MAX
    }

    /// Whether more than the first one runs something before the next Sync.
    pub(crate) fn runs_more_before_sync(&self) -> bool {
        let rest = self.queue.iter().skip(1).take_while(|reply| **reply != Reply::Sync);
        matches!(self.head(), Some(Reply::Execute { .. }))
            && rest.into_iter().any(|reply| reply.operation().is_some())
    }

    /// Whether a Sync was sent.
    pub(crate) fn has_sync(&self) -> bool {
        self.queue.contains(&Reply::Sync)
    }

    /// Whether an operation among them may take COPY data.
    pub(crate) fn copies(&self) -> bool {
        self.copies > 0
    }

    /// Whether what later messages mean depends on one of them.
    pub(crate) fn turns(&self) -> bool {
        self.turns > 0
    }

    /// The server says something other than ReadyForQuery: the ones that might have come will not.
    pub(crate) fn give_up_late(&mut self) {
        while self.head() == Some(&Reply::LateSync) {
            self.take_head();
        }
    }

    /// The server failed in extended mode and skips to the next Sync: everything up to there is never answered.
    pub(crate) fn skip_to_sync(&mut self) -> Skipped {
        let late = self.swallowed;
        let mut skipped = Vec::new();
        while self.head().is_some_and(|head| *head != Reply::Sync) {
            skipped.extend(self.take_head());
        }
        let synced = !self.queue.is_empty();
        for _ in 0..late {
            self.queue.insert(usize::from(synced), Reply::LateSync);
        }
        Skipped { skipped, synced }
    }

    /// The server began COPY FROM STDIN: it swallows every Sync that the client sent before the copy's end
    /// (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY>). Says whether the client has sent
    /// that end already, or something else in its place: a server takes that for the copy's failure, and from PostgreSQL 14 on ends
    /// the session; an older one drops it, and would answer nothing.
    pub(crate) fn begin_copy_in(&mut self) -> CopyInput {
        let mut rest = self.queue.split_off(self.queue.len().min(1));
        let end = rest.iter().position(|reply| *reply == Reply::CopyEnd);
        let after = rest.split_off(end.unwrap_or(rest.len()));
        let before = rest.len();
        if rest.iter().any(|reply| !matches!(reply, Reply::Sync | Reply::LateSync)) {
            return CopyInput::Interrupted;
        }
        rest.retain(|reply| *reply != Reply::Sync);
        self.swallowed = before - rest.len();
        self.queue.extend(rest);
        // That end is this copy's; the text may have another.
        self.queue.extend(after.into_iter().skip(usize::from(end.is_some())));
        if end.is_some() { CopyInput::Complete } else { CopyInput::ToCome }
    }

    /// Operations among the owed replies.
    pub(crate) fn operations(&self) -> impl Iterator<Item = OperationId> + '_ {
        self.queue.iter().filter_map(Reply::operation)
    }
}

/// What the server will not answer.
#[derive(Debug)]
pub(crate) struct Skipped {
    /// In order.
    pub(crate) skipped: Vec<Reply>,
    /// The Sync that ends the skipping was sent; otherwise it goes on with what the client sends next.
    pub(crate) synced: bool,
}

/// Whether the client has sent all of a COPY FROM STDIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyInput {
    /// With its end, before the server asked for it.
    Complete,
    /// It has sent another message instead.
    Interrupted,
    /// Not yet.
    ToCome,
}

impl Reply {
    fn marks(&self) -> Marks {
        match self {
            Self::Execute { marks, .. } | Self::Query { marks, .. } => *marks,
            Self::Bind { .. }
            | Self::Close(_)
            | Self::CopyEnd
            | Self::DescribePortal { .. }
            | Self::DescribeStatement
            | Self::LateSync
            | Self::Parse { .. }
            | Self::Refusal { .. }
            | Self::Sync => Marks::default(),
        }
    }
}
