//! Forwards: connections from the server's side, and from there back to the agent (RFC 4254 §7, PROTOCOL of OpenSSH §2.4).
//!
//! What goes through one is recorded as counts: it is another protocol's business, and the policy decides where it may lead.

use std::sync::Arc;

use russh::server::{self, ChannelOpenHandle};
use russh::{Channel, ChannelOpenFailure, client};

use super::connection::{Connection, Listening};
use super::hold;
use super::log::OperationLog;
use super::pump;
use crate::request::ssh::{self, OperationKind, SshOperation};
use crate::upstream::ssh::Forwarded;

/// Where a client wants to go through the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Direct {
    /// `direct-tcpip`.
    Tcpip { host: String, port: u32, originator: (String, u32) },
    /// `direct-streamlocal@openssh.com`.
    Streamlocal { path: String },
}

impl Direct {
    fn operation(&self) -> SshOperation {
        match self {
            Self::Tcpip { host, port, .. } => {
                ssh::request(OperationKind::DirectTcpip, &format!("{host}:{port}"))
            }
            Self::Streamlocal { path } => ssh::request(OperationKind::DirectStreamlocal, path),
        }
    }
}

/// A client's forward, to its end.
pub(super) async fn from_client(
    connection: &Arc<Connection>,
    to: Direct,
    channel: Channel<server::Msg>,
    reply: ChannelOpenHandle,
) {
    let Some(mut log) = hold::begin_aside(connection, &to.operation()).await else {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        return;
    };
    let Ok(upstream) = connection.upstream().await else {
        log.failed("the server cannot be used");
        log.end();
        reply.reject(ChannelOpenFailure::ConnectFailed).await;
        return;
    };
    let opened = match &to {
        Direct::Tcpip { host, port, originator: (address, from) } => {
            upstream.handle.channel_open_direct_tcpip(host, *port, address, *from).await
        }
        Direct::Streamlocal { path } => upstream.handle.channel_open_direct_streamlocal(path).await,
    };
    match opened {
        Ok(server) => {
            reply.accept().await;
            pump::splice(channel.split(), server.split(), |up, down| log.counted(up, down)).await;
        }
        Err(error) => {
            log.failed(&error.to_string());
            let reason = if let russh::Error::ChannelOpenFailure(reason) = error {
                reason
            } else {
                ChannelOpenFailure::ConnectFailed
            };
            reply.reject(reason).await;
        }
    }
    log.end();
}

/// A channel that the server opens towards the agent. Only what was permitted when it was asked for comes here: the server
/// itself opens such channels for what it was told to listen on.
pub(super) async fn from_server(
    connection: &Arc<Connection>,
    from: Forwarded,
    channel: Channel<client::Msg>,
    reply: client::ChannelOpenHandle,
) {
    let Some(client) = connection.client() else { return };
    let wanted = connection.wanted(&from);
    if !wanted {
        tracing::warn!(session = %connection.id(), ?from, "the server opened a channel that nobody asked for");
        return;
    }
    let opened = match &from {
        Forwarded::Tcpip { address, port, originator: (from, from_port) } => {
            client.channel_open_forwarded_tcpip(address.as_str(), *port, from.as_str(), *from_port).await
        }
        Forwarded::Streamlocal { path } => client.channel_open_forwarded_streamlocal(path.as_str()).await,
        Forwarded::Agent => client.channel_open_agent().await,
        Forwarded::X11 { originator: (from, port) } => client.channel_open_x11(from.as_str(), *port).await,
    };
    // Dropping the reply refuses the channel.
    let Ok(opened) = opened else { return };
    reply.accept().await;
    pump::splice(opened.split(), channel.split(), |_, _| {}).await;
}

/// `tcpip-forward`: says which port the server listens on.
pub(super) async fn listen_tcpip(connection: &Arc<Connection>, address: &str, port: u32) -> Option<u32> {
    let operation = ssh::request(OperationKind::TcpipForward, &format!("{address}:{port}"));
    let mut log = begin_listening(connection, &operation).await?;
    let asked = match connection.upstream().await {
        Ok(upstream) => upstream.handle.tcpip_forward(address, port).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.told().to_owned()),
    };
    // Port 0 asks for any, and only then does the server say which (RFC 4254 §7.1).
    let bound = asked.map(|bound| if port == 0 { bound } else { port });
    if let Ok(bound) = bound {
        connection.listen(Listening::Tcpip(address.to_owned(), bound));
    }
    conclude(&mut log, bound)
}

/// Judges a wish to listen. A global request is answered before the connection's next message is read, so a rule that holds it
/// denies it.
async fn begin_listening(connection: &Arc<Connection>, operation: &SshOperation) -> Option<OperationLog> {
    let mut log = hold::begin_at_once(connection, operation).await?;
    if connection.may_listen() {
        return Some(log);
    }
    log.failed("the server listens on too much for this connection already");
    log.end();
    None
}

fn conclude<T>(log: &mut OperationLog, result: Result<T, String>) -> Option<T> {
    match &result {
        Ok(_) => log.done(),
        Err(error) => log.failed(error),
    }
    log.end();
    result.ok()
}

/// `cancel-tcpip-forward`. Ending one needs nobody's permission.
pub(super) async fn cancel_tcpip(connection: &Arc<Connection>, address: &str, port: u32) -> bool {
    if !connection.listen_no_more(&Listening::Tcpip(address.to_owned(), port)) {
        return false;
    }
    let Ok(upstream) = connection.upstream().await else { return false };
    upstream.handle.cancel_tcpip_forward(address, port).await.is_ok()
}

/// `streamlocal-forward@openssh.com`.
pub(super) async fn listen_streamlocal(connection: &Arc<Connection>, path: &str) -> bool {
    let operation = ssh::request(OperationKind::StreamlocalForward, path);
    let Some(mut log) = begin_listening(connection, &operation).await else { return false };
    let asked = match connection.upstream().await {
        Ok(upstream) => upstream.handle.streamlocal_forward(path).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.told().to_owned()),
    };
    if asked.is_ok() {
        connection.listen(Listening::Streamlocal(path.to_owned()));
    }
    conclude(&mut log, asked).is_some()
}

/// `cancel-streamlocal-forward@openssh.com`.
pub(super) async fn cancel_streamlocal(connection: &Arc<Connection>, path: &str) -> bool {
    if !connection.listen_no_more(&Listening::Streamlocal(path.to_owned())) {
        return false;
    }
    let Ok(upstream) = connection.upstream().await else { return false };
    upstream.handle.cancel_streamlocal_forward(path).await.is_ok()
}
