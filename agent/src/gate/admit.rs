//! Whether a flow may be connected to where it was going, and whether it still may later.

use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::{Flow, Side};
use crate::policy::rule::{
    ClaimsWhen, ClientTls, Egress, Protocol, SshRules, SshUpstream, Upstream, UpstreamTls,
};
use crate::policy::{Connection, Policy};
use crate::run::{RunInfo, Subject, now_ms};

use super::in_band::Unidentified;
use super::standing::{self, Whose};
use super::{Admission, Admitted, Denial, Gate, UNNAMED_CONNECTION, bypass, own, question};

impl Gate {
    /// Whether a flow of a run may be connected, and to what. `subject` is whom it acts for.
    pub async fn admit(&self, flow: &Arc<Flow>, run: &Arc<RunInfo>, subject: Subject) -> Admitted {
        let Some(policy) = self.policies.get(&run.policy) else { return Admitted::No(policy_missing(run)) };
        let who = match standing::check(run, &policy).and_then(|bound| bound.subject(&policy, &subject)) {
            Ok(who) => who,
            Err(denial) => return Admitted::No(denial),
        };
        if self.page.is_some_and(|page| own::is_at(page, flow.destination.0)) {
            return Admitted::No(own::denial());
        }
        if flow.destination.0.port() == bypass::DNS_OVER_TLS_PORT {
            return Admitted::No(question::around_the_resolver(&flow.destination.to_string()));
        }
        let named = self.named(flow, &policy).await;
        let resolved = |name: &str, address: IpAddr| named.resolves(self, name, address);
        let named_by = || policy.connections_for(flow.destination, &resolved);
        let connection = match (named_by().find(|connection| who.may_use(connection, &subject)), who) {
            (Some(connection), Whose::Known) => Arc::clone(connection),
            (Some(connection), Whose::ItsClientsToSay) => {
                let host = named.host(connection, flow.destination, &resolved);
                let (flow, run) = (Arc::clone(flow), Arc::clone(run));
                return Unidentified::asks(flow, run, subject, Arc::clone(&policy), connection, host);
            }
            (None, _) if named_by().next().is_some() => {
                return Admitted::No(for_others(named_by(), &policy));
            }
            (None, _) => match (policy.egress, who) {
                (Egress::Deny, _) => return Admitted::No(no_connection(flow, &policy)),
                // What is not read cannot say whom it acts for.
                (Egress::Record, Whose::ItsClientsToSay) => return Admitted::No(standing::no_token(&policy)),
                (Egress::Record, Whose::Known) if bypass::is_resolver(flow.destination.0) => {
                    return Admitted::No(question::around_the_resolver(&flow.destination.to_string()));
                }
                (Egress::Record, Whose::Known) => Arc::new(unnamed()),
            },
        };
        let host = named.host(&connection, flow.destination, &resolved);
        Admitted::Yes(Box::new(Admission {
            flow: Arc::clone(flow),
            run: Arc::clone(run),
            subject,
            policy,
            connection,
            host,
            through: None,
        }))
    }

    /// Whether a flow that was admitted a moment ago still would be.
    ///
    /// # Errors
    /// When it would not.
    pub fn still_admits(&self, admission: &Admission) -> Result<(), Denial> {
        self.current(admission).map(drop)
    }

    /// The policy in force for an admitted flow, if it still lets the flow use its connection.
    pub(super) fn current(&self, admission: &Admission) -> Result<Arc<Policy>, Denial> {
        let policy =
            self.policies.get(&admission.run.policy).ok_or_else(|| policy_missing(&admission.run))?;
        standing::goes_on(admission, &policy)?;
        if policy.version == admission.policy.version || admission.connection.name == UNNAMED_CONNECTION {
            return Ok(policy);
        }
        match policy.connections.iter().find(|connection| connection.name == admission.connection.name) {
            Some(connection) if !connection.is_same_target(&admission.connection) => {
                Err(connection_changed(connection, &policy))
            }
            Some(connection) if may_use(connection, &admission.subject) => Ok(policy),
            Some(connection) => Err(for_others(std::iter::once(connection), &policy)),
            None => Err(no_connection(&admission.flow, &policy)),
        }
    }
}

pub(super) fn may_use(connection: &Connection, subject: &Subject) -> bool {
    subject.who(now_ms()).is(&connection.groups, &connection.claims)
}

pub(super) fn policy_missing(run: &RunInfo) -> Denial {
    let name = &run.policy;
    Denial::new(
        Side::Policy,
        format!("the policy `{name}` of this run is missing or broken"),
        "ask the operator to run `portcullis policy check`",
    )
}

pub(super) fn no_connection(flow: &Flow, policy: &Policy) -> Denial {
    Denial::new(
        Side::Policy,
        format!("no connection of policy `{}` names {}", policy.name, flow.destination),
        "ask the operator to add a [[connection]] for it",
    )
}

fn connection_changed(connection: &Connection, policy: &Policy) -> Denial {
    Denial::new(
        Side::Policy,
        format!("policy `{}` now means another target by connection `{}`", policy.name, connection.name),
        "connect again",
    )
}

/// Connections name the target, and the subject may use none of them.
pub(super) fn for_others<'p>(
    connections: impl Iterator<Item = &'p Arc<Connection>>,
    policy: &Policy,
) -> Denial {
    let (mut names, mut whom) = (Vec::new(), Vec::new());
    for connection in connections {
        names.push(format!("`{}`", connection.name));
        let groups = Some(connection.groups.join(", ")).filter(|groups| !groups.is_empty());
        let claims = connection.claims.0.iter().map(ToString::to_string);
        let needed: Vec<String> = groups.into_iter().chain(claims).collect();
        whom.push(needed.join(" with "));
    }
    Denial::new(
        Side::Policy,
        format!("policy `{}` gives connection {} to others", policy.name, names.join(" and ")),
        format!("it is for: {}", whom.join("; or ")),
    )
}

fn unnamed() -> Connection {
    Connection {
        name: UNNAMED_CONNECTION.to_owned(),
        to: Vec::new(),
        protocol: Protocol::Opaque,
        client_tls: ClientTls::Passthrough,
        groups: Vec::new(),
        claims: ClaimsWhen::default(),
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
        replication: false,
        ssh: SshRules::default(),
    }
}

#[cfg(test)]
impl Admission {
    /// An admission that no policy gave: for the tests of what asks for one.
    pub(crate) fn for_tests(destination: std::net::SocketAddr, connection: Connection) -> Self {
        let text = "version = 1\nname = \"test\"\n";
        let mut policy = crate::policy::load(text).unwrap().policy;
        policy.connections = vec![Arc::new(connection)];
        Self::under(destination, policy)
    }

    /// The same, for whom a token speaks of.
    pub(crate) fn for_whom(mut self, identity: crate::run::Identity) -> Self {
        self.subject = self.subject.with(Some(Arc::new(identity)));
        self
    }

    /// An admission to a policy's first connection.
    pub(crate) fn under(destination: std::net::SocketAddr, policy: Policy) -> Self {
        use crate::flow::{OriginalDst, Process, RunId, SessionId};
        use crate::run::{CgroupRef, How};
        let flow = Flow {
            session: SessionId::generate(),
            run: RunId::generate(),
            destination: OriginalDst(destination),
            process: Process::default(),
            socket_cookie: 0,
        };
        let subject = Subject { uid: 1000, user: "agent".to_owned(), gid: 1000, ..Subject::default() };
        let run = RunInfo {
            id: flow.run,
            policy: policy.name.clone(),
            policy_version: policy.version.clone(),
            subject: Some(subject.clone()),
            standing: crate::run::Standing::default(),
            labels: std::collections::BTreeMap::new(),
            started_ms: 0,
            how: How::Started { pid: 1 },
            cgroup: CgroupRef { path: "/test".to_owned(), id: 1 },
        };
        let connection = Arc::clone(&policy.connections[0]);
        Self {
            flow: Arc::new(flow),
            run: Arc::new(run),
            subject,
            policy: Arc::new(policy),
            connection,
            host: None,
            through: None,
        }
    }
}
