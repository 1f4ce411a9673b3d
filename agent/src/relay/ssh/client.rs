//! The client's side: lets the agent in (the kernel already said whose it is) and gives each channel to a task.

use std::borrow::Cow;
use std::sync::Arc;

use russh::keys::{Certificate, PublicKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Response, VerifiedPublicKey};
use russh::{Channel, ChannelOpenFailure, MethodKind, MethodSet};

use super::connection::Connection;
use super::forward::{self, Direct};
use super::session_channel;

/// Answers the client.
pub(super) struct ClientSide {
    connection: Arc<Connection>,
}

impl ClientSide {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    /// Whatever a client shows of itself is taken: who it is, the kernel says. What it shows is kept nowhere. But where the policy
    /// asks for a token, the client must show that one, as its password.
    async fn let_in(&self, user: &str, password: Option<&str>) -> Auth {
        if !self.connection.log_in(user) {
            return Auth::reject();
        }
        match (self.connection.asks_for_token(), password) {
            (false, _) => Auth::Accept,
            (true, Some(password)) if self.connection.is_token(password).await => Auth::Accept,
            (true, Some(_) | None) => Auth::Reject {
                proceed_with_methods: Some(MethodSet::from(
                    &[MethodKind::Password, MethodKind::KeyboardInteractive][..],
                )),
                partial_success: false,
            },
        }
    }

    fn direct(&self, to: Direct, channel: Channel<Msg>, reply: ChannelOpenHandle) {
        let Some(guard) = self.connection.open_channel() else { return };
        let connection = Arc::clone(&self.connection);
        tokio::spawn(async move {
            forward::from_client(&connection, to, channel, reply).await;
            drop(guard);
        });
    }
}

impl server::Handler for ClientSide {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, russh::Error> {
        Ok(self.let_in(user, None).await)
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, russh::Error> {
        Ok(self.let_in(user, Some(password)).await)
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        _offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.let_in(user, None).await)
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.let_in(user, None).await)
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        _certificate: &Certificate,
    ) -> Result<Auth, russh::Error> {
        Ok(self.let_in(user, None).await)
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        if !self.connection.asks_for_token() {
            return Ok(self.let_in(user, None).await);
        }
        match response {
            None => Ok(Auth::Partial {
                name: Cow::Borrowed(""),
                instructions: Cow::Borrowed("portcullis asks for the token of this connection"),
                prompts: Cow::Borrowed(&[(Cow::Borrowed("Token: "), false)]),
            }),
            Some(mut answers) => {
                let answer = answers.next().and_then(|answer| String::from_utf8(answer.to_vec()).ok());
                Ok(self.let_in(user, answer.as_deref()).await)
            }
        }
    }

    async fn auth_succeeded(&mut self, session: &mut server::Session) -> Result<(), russh::Error> {
        self.connection.authenticated(session.handle());
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        let Some(guard) = self.connection.open_channel() else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let connection = Arc::clone(&self.connection);
        tokio::spawn(async move {
            reply.accept().await;
            session_channel::serve(&connection, channel).await;
            drop(guard);
        });
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        originator_address: &str,
        originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        let to = Direct::Tcpip {
            host: host_to_connect.to_owned(),
            port: port_to_connect,
            originator: (originator_address.to_owned(), originator_port),
        };
        self.direct(to, channel, reply);
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        self.direct(Direct::Streamlocal { path: socket_path.to_owned() }, channel, reply);
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        _session: &mut server::Session,
    ) -> Result<bool, russh::Error> {
        match forward::listen_tcpip(&self.connection, address, *port).await {
            Some(bound) => {
                // Port 0 asks for any (RFC 4254 §7.1); the reply says which.
                *port = bound;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut server::Session,
    ) -> Result<bool, russh::Error> {
        Ok(forward::cancel_tcpip(&self.connection, address, port).await)
    }

    async fn streamlocal_forward(
        &mut self,
        socket_path: &str,
        _session: &mut server::Session,
    ) -> Result<bool, russh::Error> {
        Ok(forward::listen_streamlocal(&self.connection, socket_path).await)
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        socket_path: &str,
        _session: &mut server::Session,
    ) -> Result<bool, russh::Error> {
        Ok(forward::cancel_streamlocal(&self.connection, socket_path).await)
    }
}

/// The fingerprint of the key that clients see, as `ssh-keygen -l` shows it.
#[must_use]
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(russh::keys::HashAlg::Sha256).to_string()
}
