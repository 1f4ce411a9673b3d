//! Flows that go by a proxy, because their client was set up for one: admitted as if the client had connected to the target
//! itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::{Admission, Admitted, Denial, Gate, Side};
use crate::flow::{Flow, OriginalDst, SessionId};
use crate::policy::rule::{Protocol, UpstreamTls};

/// The proxy that an admitted flow goes by, and what it is asked.
#[derive(Clone)]
pub struct Through {
    proxy: Admission,
    authority: String,
    fields: HeaderMap,
}

impl fmt::Debug for Through {
    /// Without the fields, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Through")
            .field("proxy", &self.proxy.flow().destination)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl Through {
    /// The connection to the proxy, as it was admitted.
    #[must_use]
    pub fn proxy(&self) -> &Admission {
        &self.proxy
    }

    /// The target as the client named it: `host:port`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Header fields for the proxy alone, such as `Proxy-Authorization`.
    #[must_use]
    pub fn fields(&self) -> &HeaderMap {
        &self.fields
    }
}

impl Gate {
    /// Whether the client of `proxy` may reach `host` (an address, or a name in lower case without a final dot) at `port` by
    /// that proxy. Nobody is asked for the name's address before policy has said that it may be. `fields` are for the proxy.
    pub async fn admit_through(
        &self,
        proxy: &Admission,
        host: &str,
        port: u16,
        fields: HeaderMap,
    ) -> Admitted {
        if let Err(denial) = may_lead_on(proxy) {
            return Admitted::No(denial);
        }
        if proxy.run.standing.identity().is_none() && proxy.subject.identity.is_some() {
            return Admitted::No(Denial::new(
                Side::Policy,
                "a client that brought its own token is not led on by a proxy",
                "connect directly: the connection is intercepted anyway",
            ));
        }
        let address = match self.address_of(proxy, host).await {
            Ok(address) => address,
            Err(denial) => return Admitted::No(denial),
        };
        let destination = OriginalDst(SocketAddr::new(address, port));
        let flow = Flow { session: SessionId::generate(), destination, ..proxy.flow().clone() };
        // As the run's token is now, not as it was when the connection to the proxy was opened.
        let subject = proxy.run.known_subject().unwrap_or_else(|| proxy.subject.clone());
        if let Err(denial) = self.current(proxy) {
            return Admitted::No(denial);
        }
        match self.admit(&Arc::new(flow), &proxy.run, subject).await {
            Admitted::Yes(mut admission) => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
                let authority = format!("{host}:{port}");
                admission.through = Some(Arc::new(Through { proxy: proxy.clone(), authority, fields }));
                Admitted::Yes(admission)
            }
            Admitted::Asks(unidentified) => Admitted::No(super::in_band::cannot_say(unidentified.policy())),
            no @ Admitted::No(_) => no,
        }
    }

    async fn address_of(&self, proxy: &Admission, host: &str) -> Result<IpAddr, Denial> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(address.to_canonical());
        }
        self.may_resolve(&proxy.run, &proxy.subject, host)?;
        self.names().refresh([host]).await;
        let Some(address) = self.names().address_of(host) else {
            let reason = format!("the host {host} has no address here");
            return Err(Denial::new(
                Side::Upstream,
                reason,
                "a proxy's targets must resolve on this host, too",
            ));
        };
        self.given().remember(proxy.flow().run, host, &[address], Duration::ZERO);
        Ok(address)
    }
}

/// Whether a connection can be one to a proxy.
fn may_lead_on(proxy: &Admission) -> Result<(), Denial> {
    let no = |reason: &str, hint: &str| Err(Denial::new(Side::Policy, reason, hint));
    if proxy.through.is_some() {
        return no("a proxy behind a proxy is not used", "name one proxy");
    }
    match (proxy.connection.protocol, proxy.connection.upstream.tls) {
        (Protocol::Http, UpstreamTls::Disable) => Ok(()),
        (Protocol::Http, UpstreamTls::VerifyCa | UpstreamTls::VerifyFull) => {
            no("a proxy that itself wants TLS is not gone through", "use its plain port, or connect directly")
        }
        (Protocol::Postgres | Protocol::Ssh | Protocol::Opaque | Protocol::Dns, _) => {
            no("the connection is not one to an HTTP proxy", "connect directly")
        }
    }
}
