//! The upstream side against a real PostgreSQL and against servers that misbehave.

mod catalog;
mod failures;
mod login;
mod server;
mod side;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::login::{LoggedIn, Startup, login};
use super::{Dialled, Dialler, UpstreamError};
use crate::gate::Admission;
use crate::policy::Connection;
use crate::policy::rule::{ClientTls, Destination, Protocol, SshRules, SshUpstream, Upstream, UpstreamTls};
use crate::secret::Secret;

/// What a test changes of a profile.
struct Profile {
    upstream: Upstream,
    to: Vec<Destination>,
}

impl Profile {
    fn plain() -> Self {
        Self {
            upstream: Upstream {
                address: None,
                user: None,
                database: None,
                settings: Vec::new(),
                credential: None,
                pass_through: false,
                inject: None,
                client_cert: None,
                tls: UpstreamTls::Disable,
                root_cert: None,
                server_name: None,
                ssh: SshUpstream::default(),
            },
            to: Vec::new(),
        }
    }

    fn verified(tls: UpstreamTls, root_cert: PathBuf, server_name: Option<&str>) -> Self {
        let mut profile = Self::plain();
        profile.upstream.tls = tls;
        profile.upstream.root_cert = Some(root_cert);
        profile.upstream.server_name = server_name.map(str::to_owned);
        profile
    }

    fn admission(self, destination: SocketAddr) -> Admission {
        let connection = Connection {
            claims: crate::policy::rule::ClaimsWhen::default(),
            name: "db".to_owned(),
            to: self.to,
            protocol: Protocol::Postgres,
            client_tls: ClientTls::Intercept,
            groups: Vec::new(),
            upstream: self.upstream,
            replication: false,
            ssh: SshRules::default(),
        };
        Admission::for_tests(destination, connection)
    }

    async fn dial(self, destination: SocketAddr) -> Result<Dialled, UpstreamError> {
        Dialler::default().dial(&self.admission(destination), &stands_for_nothing, None).await
    }
}

fn stands_for_nothing(_name: &str, _address: IpAddr) -> bool {
    false
}

fn startup(user: &str, database: &str) -> Startup {
    Startup {
        user: user.to_owned(),
        database: database.to_owned(),
        minor: 0,
        replication: None,
        parameters: Vec::new(),
        settings: Vec::new(),
    }
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn expect_error<T>(result: Result<T, UpstreamError>) -> UpstreamError {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error,
    }
}

/// Logs in without TLS.
async fn log_in(
    address: SocketAddr,
    startup: &Startup,
    password: Option<&str>,
) -> Result<LoggedIn, UpstreamError> {
    let dialled = Profile::plain().dial(address).await?;
    login(dialled, startup, password.map(secret).as_ref()).await
}
