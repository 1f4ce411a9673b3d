//! The loop that moves one session's bytes: a single task, both directions, bounded buffers, nothing sent upstream
//! before the record of it is as durable as policy asks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Buf as _;
use tokio::time::{Sleep, sleep_until, timeout};

use super::calls::Calls;
use super::cancel::CancelTicket;
use super::conversation::{Answer, Broken, Conversation, Step, Upstream, Wires};
use super::masking::Masking;
use super::planner::{MaskingError, Planner};
use super::refusal::Refusal;
use crate::codec::postgres::tag::SQL_BODY_BYTES_MAX;
use crate::codec::postgres::{BackendTag, FrontendTag, Scanner, sqlstate};
use crate::flow::Side;
use crate::record::event::{EndReason, Ended};
use crate::record::{RecordError, Recorder};
use crate::relay::Shutdown;
use crate::relay::leg::{Fill, Leg};
use crate::tls::Stream;

/// Most bytes taken from one side before they are handled: the longest message taken whole, and a read.
const INBOX_BYTES_MAX: usize = SQL_BODY_BYTES_MAX + 128 * 1024;

/// Bytes waiting for one side beyond which nothing more is taken from the other.
const OUTBOX_BYTES_HIGH: usize = 256 * 1024;

/// How long a server may take to take what was sent before a goodbye.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(30);

type Future_<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One session in full flow.
pub(crate) struct Pump {
    pub(crate) client: Leg<Stream>,
    pub(crate) server: Leg<Stream>,
    pub(crate) conversation: Conversation,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) planner: Planner,
    pub(crate) cancel: CancelTicket,
    pub(crate) shutdown: Shutdown,
}

/// What woke the pump.
enum Event {
    /// A question was answered.
    Answered(Answer),
    /// The client asked, on another connection, to cancel.
    Cancelled,
    /// The client's connection is gone.
    ClientGone(Option<std::io::Error>),
    /// The catalogue was read again.
    Masking(Result<(Masking, Calls), MaskingError>),
    /// Bytes moved.
    Moved,
    /// The record failed to become durable.
    NotDurable(RecordError),
    /// The server's connection is gone.
    ServerGone(Option<std::io::Error>),
    /// The daemon stops.
    ShuttingDown,
    /// The server runs a statement for longer than its rule lets it.
    TimedOut,
}

/// What the pump waits for besides bytes.
struct Pending {
    answer: Option<Future_<Answer>>,
    /// Kept from event to event: a place in a queue is dear to take and to give up.
    cancelled: Future_<()>,
    stopping: Future_<()>,
    /// Whom those two wake: they are polled again when there is news for them, not for each message.
    registered: Option<Waker>,
    durable: Option<Future_<Result<(), RecordError>>>,
    /// When the statement that runs has had its time.
    timer: Option<Pin<Box<Sleep>>>,
    /// The server reads a cancel of ours: what comes next must not be hit by it.
    cancelling: Option<Future_<()>>,
    /// Until the catalogue is known again, nothing of the client is judged.
    masking: Option<Future_<Result<(Masking, Calls), MaskingError>>>,
}

impl Pump {
    /// Relays until one side ends, and says how. The bytes moved in either direction are counted.
    ///
    /// Boxed, because a future keeps what it was called with beside what it works on; and so are its last steps, because it
    /// takes as much memory, all its life, as the largest of them.
    pub(crate) async fn run(mut self: Box<Self>) -> (Ended, Conversation, Moved) {
        let mut from_client = Scanner::new();
        let mut from_server = Scanner::new();
        let mut pending = Pending::new(&self.cancel, self.shutdown.clone());
        let mut moved = Moved::default();
        let ended = loop {
            match self.work(&mut from_client, &mut from_server, &mut pending) {
                Ok(()) => {}
                Err(broken) => break Box::pin(self.broken(&broken)).await,
            }
            if let Some(lsn) = self.conversation.take_barrier() {
                let recorder = Arc::clone(&self.recorder);
                pending.durable = Some(Box::pin(async move { recorder.durable(lsn).await }));
            }
            if self.conversation.take_cancel() {
                pending.cancelling = Some(Box::pin(self.cancel.forwarded()));
            }
            pending.set_timer(self.conversation.deadline());
            if self.conversation.is_finished() && !self.conversation.is_busy() {
                break Box::pin(self.said_goodbye(pending)).await;
            }
            match self.next_event(&mut pending, &mut moved).await {
                Event::Masking(Ok((masking, calls))) => self.conversation.set_catalogue(masking, calls),
                Event::Masking(Err(error)) => break Box::pin(self.unmaskable(&error)).await,
                Event::Moved => {}
                Event::Answered(answer) => {
                    if let Err(broken) = self.answered(answer, &mut pending) {
                        break Box::pin(self.broken(&broken)).await;
                    }
                }
                Event::Cancelled => {
                    pending.cancelled = Box::pin(self.cancel.asked());
                    if let Err(broken) = self.cancelled(&mut pending) {
                        break Box::pin(self.broken(&broken)).await;
                    }
                }
                // It said goodbye first: what it asked for before that runs to its end, and into the record.
                Event::ClientGone(_) if self.conversation.is_finished() => self.client.give_up(),
                Event::ClientGone(error) => break client_gone(error),
                Event::ServerGone(error) => break Box::pin(self.server_gone(error)).await,
                Event::NotDurable(error) => break Box::pin(self.broken(&Broken::Record(error))).await,
                Event::ShuttingDown => break Box::pin(self.stopped()).await,
                Event::TimedOut => self.conversation.timed_out(),
            }
        };
        (ended, self.conversation, moved)
    }

    /// Handles what has come, as far as the other side's buffers allow.
    fn work(
        &mut self,
        from_client: &mut Scanner<FrontendTag>,
        from_server: &mut Scanner<BackendTag>,
        pending: &mut Pending,
    ) -> Result<(), Broken> {
        self.hear_server(from_server)?;
        self.renew_masks(pending);
        self.hear_client(from_client, pending)
    }

    fn hear_server(&mut self, from_server: &mut Scanner<BackendTag>) -> Result<(), Broken> {
        let Self { client, server, conversation, .. } = self;
        let inbox = std::mem::take(&mut server.inbox);
        let mut input: &[u8] = &inbox;
        let mut wires = Wires { client: &mut client.outbox, upstream: Upstream(&mut server.outbox) };
        while wires.client.len() < OUTBOX_BYTES_HIGH {
            let Some(item) = from_server.next(&mut input).map_err(Broken::Server)? else { break };
            conversation.server_item(item, &mut wires)?;
        }
        let handled = inbox.len() - input.len();
        server.inbox = inbox;
        server.inbox.advance(handled);
        Ok(())
    }

    fn hear_client(
        &mut self,
        from_client: &mut Scanner<FrontendTag>,
        pending: &mut Pending,
    ) -> Result<(), Broken> {
        let Self { client, server, conversation, .. } = self;
        if conversation.waiting().is_none() {
            // Its operation was withdrawn, and nobody needs to think about it any more.
            pending.answer = None;
        }
        let inbox = std::mem::take(&mut client.inbox);
        let mut input: &[u8] = &inbox;
        let mut wires = Wires { client: &mut client.outbox, upstream: Upstream(&mut server.outbox) };
        let halted = pending.masking.is_some() || pending.cancelling.is_some();
        if !halted && let Step::Question(question) = conversation.resume(&mut wires)? {
            pending.answer = Some(self.planner.ask(question, conversation));
        }
        while wires.upstream.len() < OUTBOX_BYTES_HIGH
            && wires.client.len() < OUTBOX_BYTES_HIGH
            && conversation.takes_client()
            && !halted
        {
            let Some(item) = from_client.next(&mut input).map_err(Broken::Client)? else { break };
            match conversation.client_item(item, &mut wires)? {
                Step::Done | Step::Wait => {}
                Step::Discard => from_client.discard(),
                Step::Question(question) => pending.answer = Some(self.planner.ask(question, conversation)),
            }
        }
        let handled = inbox.len() - input.len();
        client.inbox = inbox;
        client.inbox.advance(handled);
        Ok(())
    }

    /// Has the masks made anew when they may be out of date; until they are, nothing of the client is judged.
    fn renew_masks(&mut self, pending: &mut Pending) {
        let Self { conversation, planner, .. } = self;
        // Without the policy the gate denies everything.
        let Some(policy) = conversation.policy() else { return };
        if conversation.take_schema_changed() {
            planner.schema_changed();
        } else if pending.masking.is_some() || conversation.schema_is_changing() {
            return;
        }
        if planner.is_outdated(&policy, conversation.masking(), conversation.calls()) {
            pending.masking = Some(planner.renew(&policy, conversation.admission()));
        }
    }

    async fn next_event(&mut self, pending: &mut Pending, moved: &mut Moved) -> Event {
        let Self { client, server, conversation, cancel, shutdown, .. } = self;
        std::future::poll_fn(|context| {
            if let Poll::Ready(event) = pending.poll(context, || cancel.is_asked() || shutdown.has_news()) {
                return Poll::Ready(event);
            }
            let held_back = pending.durable.is_some();
            poll_bytes(client, server, conversation, held_back, moved, context)
        })
        .await
    }

    fn answered(&mut self, answer: Answer, pending: &mut Pending) -> Result<(), Broken> {
        let Self { client, server, conversation, .. } = self;
        let mut wires = Wires { client: &mut client.outbox, upstream: Upstream(&mut server.outbox) };
        if let Step::Question(question) = conversation.answer(answer, &mut wires)? {
            pending.answer = Some(self.planner.ask(question, conversation));
        }
        Ok(())
    }

    /// A cancel request withdraws a pending approval; otherwise the server is asked to stop what it runs.
    fn cancelled(&mut self, pending: &mut Pending) -> Result<(), Broken> {
        if self.conversation.waiting().is_some() {
            drop(self.cancel.requesters());
            pending.answer = None;
            return self.answered(Answer::Cancelled, pending);
        }
        // Dropped unless the server is asked: whoever asks to cancel is let go when it is done.
        let requesters = self.cancel.requesters();
        if self.conversation.is_busy() {
            self.cancel.forward(requesters);
        }
        Ok(())
    }

    async fn said_goodbye(&mut self, pending: Pending) -> Ended {
        if let Some(durable) = pending.durable
            && let Err(error) = durable.await
        {
            return self.broken(&Broken::Record(error)).await;
        }
        drop(timeout(super::LAST_WORDS_TIME_MAX, self.client.drain()).await);
        // The goodbye is the last thing in the server's outbox; whether it arrives changes nothing.
        drop(timeout(GOODBYE_TIME_MAX, self.server.finish()).await);
        Ended { reason: EndReason::Finished, side: Side::Client, detail: None }
    }

    async fn broken(&mut self, broken: &Broken) -> Ended {
        self.last_words(&broken.refusal()).await;
        Ended { reason: EndReason::Failed, side: broken.side(), detail: Some(broken.to_string()) }
    }

    async fn unmaskable(&mut self, error: &MaskingError) -> Ended {
        let refusal = Refusal::new(sqlstate::CONNECTION_FAILURE, format!("portcullis: {error}")).hint(
            "the schema changed and the masks cannot be applied to it; ask the operator to look at the log",
        );
        self.last_words(&refusal).await;
        Ended { reason: EndReason::Failed, side: Side::Portcullis, detail: Some(error.to_string()) }
    }

    async fn server_gone(&mut self, error: Option<std::io::Error>) -> Ended {
        if self.conversation.is_finished() {
            return Ended { reason: EndReason::Finished, side: Side::Client, detail: None };
        }
        if self.conversation.has_server_said_why() {
            // A second error would take the place of the first one in what clients show.
            super::close_politely(&mut self.client, super::LAST_WORDS_TIME_MAX).await;
        } else {
            let refusal =
                Refusal::new(sqlstate::CONNECTION_FAILURE, "portcullis: the server closed the connection")
                    .hint("the statement may or may not have run; look before you repeat it");
            self.last_words(&refusal).await;
        }
        let detail =
            error.map_or_else(|| "the server closed the connection".to_owned(), |error| error.to_string());
        Ended { reason: EndReason::Lost, side: Side::Upstream, detail: Some(detail) }
    }

    async fn stopped(&mut self) -> Ended {
        let refusal = Refusal::new(sqlstate::ADMIN_SHUTDOWN, self.shutdown.told());
        self.client.outbox.extend_from_slice(&refusal.fatal());
        super::close_politely(&mut self.client, super::STOP_WORDS_TIME_MAX).await;
        self.shutdown.ended()
    }

    async fn last_words(&mut self, refusal: &Refusal) {
        if !self.conversation.is_inside_row() {
            self.client.outbox.extend_from_slice(&refusal.fatal());
        }
        super::close_politely(&mut self.client, super::LAST_WORDS_TIME_MAX).await;
    }
}

impl Pending {
    fn new(cancel: &CancelTicket, mut shutdown: Shutdown) -> Self {
        Self {
            answer: None,
            cancelled: Box::pin(cancel.asked()),
            stopping: Box::pin(async move { shutdown.begun().await }),
            registered: None,
            durable: None,
            timer: None,
            cancelling: None,
            masking: None,
        }
    }

    fn set_timer(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline.map(tokio::time::Instant::from_std) else {
            self.timer = None;
            return;
        };
        match &mut self.timer {
            Some(timer) if timer.deadline() == deadline => {}
            Some(timer) => timer.as_mut().reset(deadline),
            None => self.timer = Some(Box::pin(sleep_until(deadline))),
        }
    }

    /// `news` says whether somebody cancels or ends the session.
    fn poll(&mut self, context: &mut Context<'_>, news: impl Fn() -> bool) -> Poll<Event> {
        if let Some(durable) = &mut self.durable
            && let Poll::Ready(outcome) = durable.as_mut().poll(context)
        {
            self.durable = None;
            if let Err(error) = outcome {
                return Poll::Ready(Event::NotDurable(error));
            }
        }
        if let Some(masking) = &mut self.masking
            && let Poll::Ready(outcome) = masking.as_mut().poll(context)
        {
            self.masking = None;
            return Poll::Ready(Event::Masking(outcome));
        }
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(context).is_ready()
        {
            self.timer = None;
            return Poll::Ready(Event::TimedOut);
        }
        if let Some(cancelling) = &mut self.cancelling
            && cancelling.as_mut().poll(context).is_ready()
        {
            self.cancelling = None;
            return Poll::Ready(Event::Moved);
        }
        if let Some(answer) = &mut self.answer
            && let Poll::Ready(answer) = answer.as_mut().poll(context)
        {
            self.answer = None;
            return Poll::Ready(Event::Answered(answer));
        }
        let known = self.registered.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if known && !news() {
            return Poll::Pending;
        }
        self.registered = Some(context.waker().clone());
        if self.cancelled.as_mut().poll(context).is_ready() {
            self.registered = None;
            return Poll::Ready(Event::Cancelled);
        }
        if self.stopping.as_mut().poll(context).is_ready() {
            return Poll::Ready(Event::ShuttingDown);
        }
        Poll::Pending
    }
}

/// Bytes moved since the session began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    /// From the client.
    pub(crate) to_upstream: u64,
    /// From the server.
    pub(crate) to_client: u64,
}

/// Sends and receives whatever can be sent and received now. Ready when something came in, or a side is gone.
fn poll_bytes(
    client: &mut Leg<Stream>,
    server: &mut Leg<Stream>,
    conversation: &Conversation,
    held_back: bool,
    moved: &mut Moved,
    context: &mut Context<'_>,
) -> Poll<Event> {
    let (client_full, server_full) =
        (client.outbox.len() >= OUTBOX_BYTES_HIGH, server.outbox.len() >= OUTBOX_BYTES_HIGH);
    if let Poll::Ready(Err(error)) = client.poll_drain(context) {
        return Poll::Ready(Event::ClientGone(Some(error)));
    }
    if !held_back && let Poll::Ready(Err(error)) = server.poll_drain(context) {
        return Poll::Ready(Event::ServerGone(Some(error)));
    }
    // What the client says may be answered by us, so it waits for room in either direction.
    let freed = (client_full || server_full)
        && client.outbox.len() < OUTBOX_BYTES_HIGH
        && server.outbox.len() < OUTBOX_BYTES_HIGH;
    let to_do = !server.inbox.is_empty() || (!client.inbox.is_empty() && conversation.takes_client());
    let server_freed = client_full && client.outbox.len() < OUTBOX_BYTES_HIGH && !server.inbox.is_empty();
    let unblocked = (freed && to_do) || server_freed;
    if unblocked {
        // What has come already is handled before more, or an end, is looked for.
        return Poll::Ready(Event::Moved);
    }
    let mut event = Poll::Pending;
    if client.outbox.len() < OUTBOX_BYTES_HIGH && server.inbox.len() < INBOX_BYTES_MAX {
        let before = server.inbox.len();
        match server.poll_fill(context) {
            Poll::Ready(Ok(Fill::More)) => {
                moved.to_client += (server.inbox.len() - before) as u64;
                event = Poll::Ready(Event::Moved);
            }
            Poll::Ready(Ok(Fill::End)) => return Poll::Ready(Event::ServerGone(None)),
            Poll::Ready(Err(error)) => return Poll::Ready(Event::ServerGone(Some(error))),
            Poll::Pending => {}
        }
    }
    // Read even while a question is open: the client's end must be seen, it withdraws the question.
    if server.outbox.len() < OUTBOX_BYTES_HIGH && client.inbox.len() < INBOX_BYTES_MAX {
        let before = client.inbox.len();
        match client.poll_fill(context) {
            Poll::Ready(Ok(Fill::More)) => {
                moved.to_upstream += (client.inbox.len() - before) as u64;
                event = Poll::Ready(Event::Moved);
            }
            Poll::Ready(Ok(Fill::End)) => return Poll::Ready(Event::ClientGone(None)),
            Poll::Ready(Err(error)) => return Poll::Ready(Event::ClientGone(Some(error))),
            Poll::Pending => {}
        }
    }
    event
}

fn client_gone(error: Option<std::io::Error>) -> Ended {
    let detail =
        error.map_or_else(|| "the client closed the connection".to_owned(), |error| error.to_string());
    Ended { reason: EndReason::Lost, side: Side::Client, detail: Some(detail) }
}
