//! One intercepted connection, from accept to the end of its recording, in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::flow::{Flow, Process, RunId, SessionId, Side};
use crate::gate::{Admitted, Denial};
use crate::intercept::{Kernel, OriginError, describe};
use crate::limits::CONNECTIONS_PER_RUN_MAX;
use crate::record::event::{EndReason, Ended};
use crate::record::{RecordError, SessionRecord};
use crate::relay::postgres::{self, Unserved};
use crate::relay::{self, Relay, Shutdown, http, ssh};
use crate::resolve::{Asker, DNS_PORT, Resolver};
use crate::run::{RunInfo, Runs, Subject};

/// How long a refused client may take to show what it speaks, so that it can be told in its own protocol.
const SHOW_TIME_MAX: Duration = Duration::from_secs(2);

/// What serving a connection needs.
pub struct Host {
    /// Says where a connection was going.
    pub kernel: Arc<Kernel>,
    /// Says whose it is.
    pub runs: Arc<Runs>,
    /// Serves it.
    pub relay: Arc<Relay>,
    /// Answers what is asked about names.
    pub resolver: Arc<Resolver>,
    /// Keeps one run from taking every place.
    pub places: Places,
}

/// Connections of each run.
#[derive(Debug, Default)]
pub struct Places(Arc<Mutex<HashMap<RunId, usize>>>);

/// One connection's place among those of its run; given back when dropped.
#[derive(Debug)]
struct Place {
    run: RunId,
    taken: Arc<Mutex<HashMap<RunId, usize>>>,
}

impl Places {
    /// A place for one more connection of `run`, if it has not too many.
    fn take(&self, run: RunId) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(run).or_default();
        if *count >= CONNECTIONS_PER_RUN_MAX {
            return None;
        }
        *count += 1;
        Some(Place { run, taken: Arc::clone(&self.0) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.run) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.run);
            }
        }
    }
}

/// Why a connection could not be served at all.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The kernel has no record of it: nobody redirected it here.
    #[error("a connection that the kernel did not redirect")]
    NoOrigin(#[source] OriginError),
    /// Its run is not known.
    #[error("a connection of the unknown run {0}")]
    NoRun(RunId),
    /// The store cannot be written; nothing is forwarded unrecorded.
    #[error("the session cannot be recorded")]
    Record(#[from] RecordError),
}

/// Serves one accepted connection to its end.
///
/// # Errors
/// When the connection cannot be told from a stranger's, or cannot be recorded. It is closed then.
pub async fn serve(tcp: TcpStream, host: &Host, shutdown: Shutdown) -> Result<(), SessionError> {
    let origin = host.kernel.origin(&tcp).map_err(SessionError::NoOrigin)?;
    let run = host.runs.find(origin.run).ok_or(SessionError::NoRun(origin.run))?;
    if origin.destination.0.port() == DNS_PORT {
        let asker = Asker {
            run,
            process: origin.process,
            resolver: origin.destination.0,
            socket_cookie: origin.socket_cookie,
        };
        // Sessions of all kinds take as much memory as the largest.
        Box::pin(answer_until(tcp, host, asker, shutdown)).await;
        return Ok(());
    }
    let mut process = origin.process;
    describe(&mut process);
    let flow = Arc::new(Flow {
        session: SessionId::generate(),
        run: origin.run,
        destination: origin.destination,
        process,
        socket_cookie: origin.socket_cookie,
    });
    let subject = subject(&run, &flow.process).await;
    let place = host.places.take(flow.run);
    let admitted = match &place {
        // Whoever holds the socket of an ended run is not in its cgroup: nobody governs that process.
        Some(_) if host.runs.get(flow.run).is_none() => Admitted::No(run_ended()),
        Some(_) => Box::pin(host.relay.gate.admit(&flow, &run, subject.clone())).await,
        None => Admitted::No(overloaded()),
    };
    let admitted = match admitted {
        Admitted::Asks(unidentified) => {
            // From here on a withdrawal of the run ends it, and one that came before is seen when the token has come.
            let (shutdown, _live) = host.relay.live.enter(flow.session, flow.run, &shutdown);
            relay::serve_unidentified(tcp, *unidentified, &host.relay, shutdown).await?;
            return Ok(());
        }
        Admitted::Yes(admission) => Ok(admission),
        Admitted::No(denial) => Err(denial),
    };
    let admission = admitted.as_deref().ok();
    let record = match relay::open_record(&host.relay.recorder, &flow, &run, &subject, admission) {
        Ok(record) => record,
        Err(error) => {
            Box::pin(refuse(tcp, &flow, Unserved::Unrecorded(&error), &host.relay)).await;
            return Err(error.into());
        }
    };
    match admitted {
        Ok(admission) => {
            let (shutdown, _live) = host.relay.live.enter(flow.session, flow.run, &shutdown);
            // From here on a withdrawal ends it; one that came before finds nobody here.
            match host.relay.gate.still_admits(&admission) {
                Ok(()) => relay::serve(tcp, *admission, &host.relay, record, shutdown).await,
                Err(denial) => Box::pin(turn_away(tcp, &flow, denial, record, &host.relay)).await?,
            }
        }
        Err(denial) => Box::pin(turn_away(tcp, &flow, denial, record, &host.relay)).await?,
    }
    Ok(())
}

/// Tells a client that it is not connected, and records that.
async fn turn_away(
    tcp: TcpStream,
    flow: &Flow,
    denial: Denial,
    record: SessionRecord,
    relay: &Arc<Relay>,
) -> Result<(), RecordError> {
    tracing::info!(session = %flow.session, run = %flow.run, destination = %flow.destination,
        reason = %denial.reason, "refused a connection");
    refuse(tcp, flow, Unserved::Denied(&denial), relay).await;
    record.close(Ended { reason: EndReason::Refused, side: denial.side, detail: Some(denial.reason) })?;
    Ok(())
}

async fn answer_until(tcp: TcpStream, host: &Host, asker: Asker, mut shutdown: Shutdown) {
    tokio::select! {
        () = answer(tcp, host, &asker) => {}
        () = shutdown.begun() => {}
    }
}

/// Serves DNS over TCP. What it asks is recorded with all else that its run asks.
async fn answer(tcp: TcpStream, host: &Host, asker: &Asker) {
    let Some(_place) = host.places.take(asker.run.id) else { return };
    if host.runs.get(asker.run.id).is_some() {
        host.resolver.serve_stream(tcp, asker).await;
    }
}

/// Whom a connection acts for. The host's name service may take its time, so it is asked on a thread of its own.
async fn subject(run: &Arc<RunInfo>, process: &Process) -> Subject {
    if let Some(subject) = run.known_subject() {
        return subject;
    }
    let (asked, uid, gid) = (Arc::clone(run), process.uid, process.gid);
    let found = tokio::task::spawn_blocking(move || asked.subject_of(uid, gid)).await;
    // In no group, when it cannot be told.
    found.unwrap_or_else(|_| Subject { uid, user: uid.to_string(), gid, ..Subject::default() })
}

/// Tells a refused client why, if it speaks a protocol that can be told; otherwise it is cut off.
async fn refuse(tcp: TcpStream, flow: &Flow, why: Unserved<'_>, relay: &Arc<Relay>) {
    let mut first = [0; 8];
    let shown = tokio::time::timeout(SHOW_TIME_MAX, tcp.peek(&mut first)).await;
    let Ok(Ok(length)) = shown else { return };
    let first = first.get(..length).unwrap_or_default();
    if postgres::looks_like_startup(first) {
        Box::pin(postgres::refuse(tcp, flow, why, relay)).await;
    } else if http::looks_like_http(first) {
        Box::pin(http::refuse(tcp, flow, why, relay)).await;
    } else if ssh::looks_like_ssh(first) {
        Box::pin(ssh::refuse(tcp, flow, why, relay)).await;
    }
}

fn overloaded() -> Denial {
    let reason =
        format!("this run has {CONNECTIONS_PER_RUN_MAX} connections already, as many as it may have");
    Denial::new(Side::Client, reason, "close some, then connect again")
}

fn run_ended() -> Denial {
    Denial::new(Side::Client, "the run that opened this connection has ended", "")
}

#[cfg(test)]
mod tests {
    use super::Places;
    use crate::flow::RunId;
    use crate::limits::CONNECTIONS_PER_RUN_MAX;

    #[test]
    fn a_run_cannot_take_the_places_of_others() {
        let places = Places::default();
        let (greedy, other) = (RunId::generate(), RunId::generate());
        let mut taken: Vec<_> =
            (0..CONNECTIONS_PER_RUN_MAX).map(|_| places.take(greedy).expect("a place")).collect();
        assert!(places.take(greedy).is_none());
        assert!(places.take(other).is_some());
        taken.pop();
        assert!(places.take(greedy).is_some());
        taken.clear();
        assert!(places.0.lock().unwrap().is_empty());
    }
}
