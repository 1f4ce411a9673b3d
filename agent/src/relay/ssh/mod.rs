//! SSH, both ways: the agent's client logs in to us, we log in to the server, and what it asks is judged in between.
//!
//! Each channel is a task of its own that joins the client's channel with the server's. Data moves under windows that are
//! granted when the other side took what was sent (RFC 4254 §5.2), so nothing is queued without bound and no direction
//! waits for the other.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Certificate, PrivateKey};
use russh::{Disconnect, Preferred, SshId, server};
use tokio::net::TcpStream;

use super::counted::{Counted, Counts};
use super::{Relay, Shutdown};
use crate::flow::{Flow, Side};
use crate::gate::Admission;
use crate::limits::STARTUP_TIME_MAX;
use crate::record::SessionRecord;
use crate::record::event::{EndReason, Ended, OpaqueCounts};
use crate::relay::postgres::Unserved;
use crate::tls::Stream;
use crate::upstream::ssh::{
    CIPHERS, COMPRESSION, KEEPALIVE_COUNT_MAX, KEEPALIVE_INTERVAL, MESSAGES_MAX, PACKET_BYTES_MAX,
    WINDOW_BYTES,
};

mod asked;
mod client;
mod connection;
mod forward;
mod hold;
mod line;
mod log;
mod output;
mod pump;
mod refusal;
mod scp;
mod session_channel;
mod sftp;

pub mod proxy_key;

use client::ClientSide;
pub use client::fingerprint;
use connection::Connection;

/// How long a connection's last channels may take to record their end once its client is gone.
const LAST_RECORDS_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a client may take to go after it was told that the daemon stops.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Attempts to log in that a client has (OpenSSH's `MaxAuthTries`).
const AUTH_ATTEMPTS_MAX: usize = 6;

/// Answers of ours that wait to be sent, over all channels of a connection.
const EVENTS_MAX: usize = 64;

/// Relays one admitted connection to its end, which is recorded.
pub(super) async fn serve(
    tcp: TcpStream,
    admission: Admission,
    relay: &Arc<Relay>,
    record: SessionRecord,
    mut shutdown: Shutdown,
) {
    let connection = Connection::new(relay, admission, record);
    let (stream, counts) = match Stream::plain(tcp) {
        Ok(stream) => Counted::new(stream),
        Err(error) => {
            let detail = Some(error.to_string());
            close(&connection, None, Ended { reason: EndReason::Lost, side: Side::Client, detail }).await;
            return;
        }
    };
    let ended = tokio::select! {
        ended = converse(stream, &connection) => ended,
        () = shutdown.begun() => stop(&connection, &shutdown).await,
    };
    connection.leave();
    close(&connection, Some(&counts), ended).await;
}

/// The whole conversation with the client.
async fn converse(stream: Counted<Stream>, connection: &Arc<Connection>) -> Ended {
    let config = Arc::new(config(&connection.relay.ssh_key));
    let side = ClientSide::new(Arc::clone(connection));
    let greeted = tokio::time::timeout(STARTUP_TIME_MAX, server::run_stream(config, stream, side)).await;
    let mut session = match greeted {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => return failed(&error),
        Err(_elapsed) => return too_slow(),
    };
    tokio::select! {
        result = &mut session => return finished(result),
        () = connection.when_authenticated() => {}
        () = tokio::time::sleep(STARTUP_TIME_MAX) => {
            let told = "login took too long".to_owned();
            drop(session.handle().disconnect(Disconnect::ByApplication, told, String::new()).await);
            return too_slow();
        }
    }
    finished(session.await)
}

fn config(key: &PrivateKey) -> server::Config {
    server::Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-Portcullis")),
        keys: vec![key.clone()],
        preferred: Preferred {
            cipher: Cow::Borrowed(CIPHERS),
            compression: Cow::Borrowed(COMPRESSION),
            ..Preferred::DEFAULT
        },
        window_size: WINDOW_BYTES,
        manual_window: true,
        maximum_packet_size: PACKET_BYTES_MAX,
        channel_buffer_size: MESSAGES_MAX,
        event_buffer_size: EVENTS_MAX,
        max_auth_attempts: AUTH_ATTEMPTS_MAX,
        // Nobody guesses passwords here: a refused login is one that changes its user.
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE_INTERVAL),
        keepalive_max: KEEPALIVE_COUNT_MAX,
        nodelay: true,
        ..server::Config::default()
    }
}

/// Tells the client why it ends.
async fn stop(connection: &Connection, shutdown: &Shutdown) -> Ended {
    if let Some(client) = connection.client() {
        let told = shutdown.told();
        let say = client.disconnect(Disconnect::ByApplication, told, String::new());
        drop(tokio::time::timeout(STOP_TIME_MAX, say).await);
    }
    shutdown.ended()
}

async fn close(connection: &Connection, counts: Option<&Counts>, ended: Ended) {
    if tokio::time::timeout(LAST_RECORDS_TIME_MAX, connection.idle()).await.is_err() {
        tracing::debug!(session = %connection.id(), "channels are still open when their session is closed");
    }
    let Some(mut record) = connection.take_record() else { return };
    if let Some(counts) = counts {
        record.count_bytes(OpaqueCounts { to_upstream: counts.read(), to_client: counts.written() });
    }
    if let Err(error) = record.close(ended) {
        tracing::error!(%error, "cannot record a session's end");
    }
}

/// How the client's side ended.
fn finished(result: Result<(), russh::Error>) -> Ended {
    match result {
        Ok(()) => Ended { reason: EndReason::Finished, side: Side::Client, detail: None },
        Err(error) => failed(&error),
    }
}

fn failed(error: &russh::Error) -> Ended {
    let lost = matches!(
        error,
        russh::Error::HUP | russh::Error::Disconnect | russh::Error::IO(_) | russh::Error::KeepaliveTimeout
    );
    let reason = if lost { EndReason::Lost } else { EndReason::Failed };
    Ended { reason, side: Side::Client, detail: Some(error.to_string()) }
}

fn too_slow() -> Ended {
    let detail = Some("login took too long".to_owned());
    Ended { reason: EndReason::Failed, side: Side::Client, detail }
}

/// Whether a client that speaks first speaks SSH (RFC 4253 §4.2).
#[must_use]
pub fn looks_like_ssh(first: &[u8]) -> bool {
    let length = first.len().min(4);
    length > 0 && first.get(..length) == b"SSH-".get(..length)
}

/// Tells a refused client why. SSH has a message for it once both sides have greeted (RFC 4253 §11.1): every client shows its
/// text, while what comes before a greeting is thrown away by some.
pub(crate) async fn refuse(tcp: TcpStream, flow: &Flow, why: Unserved<'_>, relay: &Arc<Relay>) {
    let text = match why {
        Unserved::Denied(denial) => format!("portcullis: {} ({})", denial.reason, denial.detail()),
        Unserved::Unrecorded(_) => "portcullis: the session cannot be recorded; ask the operator".to_owned(),
    };
    tracing::debug!(session = %flow.session, "telling an SSH client that it is refused");
    let Ok(stream) = Stream::plain(tcp) else { return };
    let side = Refuser { text };
    let config = Arc::new(config(&relay.ssh_key));
    let served = async {
        if let Ok(session) = server::run_stream(config, stream, side).await {
            drop(session.await);
        }
    };
    drop(tokio::time::timeout(STARTUP_TIME_MAX, served).await);
}

/// Greets a client only to tell it no. Every way to log in is taken: a client is told once it is in.
struct Refuser {
    text: String,
}

impl server::Handler for Refuser {
    type Error = russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<server::Auth, russh::Error> {
        Ok(server::Auth::Accept)
    }

    async fn auth_password(&mut self, _user: &str, _password: &str) -> Result<server::Auth, russh::Error> {
        Ok(server::Auth::Accept)
    }

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        _offer: server::PublicKeyOffer<'_>,
    ) -> Result<server::Auth, russh::Error> {
        Ok(server::Auth::Accept)
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: server::VerifiedPublicKey<'_>,
    ) -> Result<server::Auth, russh::Error> {
        Ok(server::Auth::Accept)
    }

    async fn auth_openssh_certificate(
        &mut self,
        _user: &str,
        _certificate: &Certificate,
    ) -> Result<server::Auth, russh::Error> {
        Ok(server::Auth::Accept)
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        _response: Option<server::Response<'a>>,
    ) -> Result<server::Auth, russh::Error> {
        Ok(server::Auth::Accept)
    }

    async fn auth_succeeded(&mut self, session: &mut server::Session) -> Result<(), russh::Error> {
        session.disconnect(Disconnect::ByApplication, &self.text, "")
    }
}

#[cfg(test)]
mod tests {
    use super::looks_like_ssh;

    #[test]
    fn a_greeting_is_told_from_other_protocols() {
        for yes in [&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], b"SSH-", b"S", b"SS"] {
            assert!(looks_like_ssh(yes));
        }
        for no in [&b"GET / HTTP/1.1"[..], b"", b"\x00\x00\x00\x08", b"ssh-2.0"] {
            assert!(!looks_like_ssh(no));
        }
    }
}
