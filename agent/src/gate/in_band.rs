//! Runs without a token whose clients bring one themselves, as a PostgreSQL password or in `Authorization: Bearer`: each
//! connection then acts for whom its own token speaks of.

use std::sync::Arc;

use crate::flow::{Flow, SessionId, Side};
use crate::policy::rule::{ClientTls, Protocol};
use crate::policy::{Connection, Policy};
use crate::run::{Identity, RunInfo, Subject};

use super::{Admitted, Denial, Gate};

/// A flow whose client has to bring a token before it is decided whether it may be connected.
#[derive(Clone, Debug)]
pub struct Unidentified {
    flow: Arc<Flow>,
    run: Arc<RunInfo>,
    subject: Subject,
    policy: Arc<Policy>,
    protocol: Protocol,
    client_tls: ClientTls,
    host: Option<Arc<str>>,
}

impl Unidentified {
    /// A flow to a destination that this connection names first, whoever may use it.
    pub(super) fn asks(
        flow: Arc<Flow>,
        run: Arc<RunInfo>,
        subject: Subject,
        policy: Arc<Policy>,
        connection: &Connection,
        host: Option<Arc<str>>,
    ) -> Admitted {
        let (protocol, client_tls) = (connection.protocol, connection.client_tls);
        match (protocol, client_tls) {
            (Protocol::Postgres, _) | (Protocol::Http, ClientTls::Intercept | ClientTls::Plain) => {
                Admitted::Asks(Box::new(Self { flow, run, subject, policy, protocol, client_tls, host }))
            }
            (Protocol::Http, ClientTls::Passthrough)
            | (Protocol::Ssh | Protocol::Opaque | Protocol::Dns, _) => Admitted::No(cannot_say(&policy)),
        }
    }

    /// The flow.
    #[must_use]
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Its run, which has no token.
    #[must_use]
    pub fn run(&self) -> &RunInfo {
        &self.run
    }

    /// What the kernel says of whom it acts for.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The policy that says whose tokens count.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What its client is taken to speak.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether its client is taken to speak TLS.
    #[must_use]
    pub fn client_tls(&self) -> ClientTls {
        self.client_tls
    }

    /// The host name of its destination: see [`super::Admission::host`].
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The same connection, as another session: its client brought another token as well.
    #[must_use]
    pub fn once_more(&self) -> Self {
        let flow = Flow { session: SessionId::generate(), ..Flow::clone(&self.flow) };
        Self { flow: Arc::new(flow), ..self.clone() }
    }
}

impl Gate {
    /// The policy in force for an unidentified flow; `None` when it is gone or broken.
    #[must_use]
    pub fn policy_for(&self, unidentified: &Unidentified) -> Option<Arc<Policy>> {
        self.policies.get(&unidentified.run.policy)
    }

    /// Whether a flow may be connected for whom its client's token speaks of. The caller has verified the token.
    pub async fn identify(&self, unidentified: &Unidentified, identity: Identity) -> Admitted {
        let subject = unidentified.subject.clone().with(Some(Arc::new(identity)));
        match self.admit(&unidentified.flow, &unidentified.run, subject).await {
            Admitted::Yes(admission)
                if (admission.connection.protocol, admission.connection.client_tls)
                    != (unidentified.protocol, unidentified.client_tls) =>
            {
                Admitted::No(spoken_differently(&admission.policy))
            }
            Admitted::Asks(_) => Admitted::No(cannot_say(&unidentified.policy)),
            decided @ (Admitted::Yes(_) | Admitted::No(_)) => decided,
        }
    }
}

pub(super) fn cannot_say(policy: &Policy) -> Denial {
    Denial::new(
        Side::Policy,
        format!(
            "policy `{}` is for runs with a token, this run has none, and this connection's client cannot bring one",
            policy.name
        ),
        "start it with `portcullis run --token-file FILE`",
    )
}

fn spoken_differently(policy: &Policy) -> Denial {
    Denial::new(
        Side::Policy,
        format!("policy `{}` has connections of several protocols for this destination", policy.name),
        "ask the operator to give them one protocol and one tls",
    )
}
