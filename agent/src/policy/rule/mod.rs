//! A policy file after checking: the types every later stage reads. Text becomes these in `load`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use globset::GlobMatcher;
use serde::{Deserialize, Serialize};

use crate::flow::OriginalDst;
use crate::mask::http::JsonPath;
use crate::mask::{Detector, Method, Predicates};
use crate::request::Effect;

mod during;
mod hits;
mod http;
mod identity;
mod limits;
mod mode;
mod postgres;
mod ssh;
mod step_up;

pub use during::{DAY_MINUTES, During, Window};
pub use hits::{Hits, PolicyHits, RuleHits};
pub use http::{
    ClientTls, HttpWhen, INLINE_TIME_DEFAULT, INSPECT_BYTES_DEFAULT, INSPECT_BYTES_LIMIT, Injection,
    MaskDirection, Uninspected,
};
pub use identity::{
    Algorithm, ClaimIs, ClaimPath, Claims, ClaimsWhen, IssuerRules, LEEWAY_DEFAULT, LEEWAY_MAX, OnExpiry, Who,
};
pub use limits::{BUDGET_WINDOW_MAX, Budget, Durability, Limits, STATEMENT_TIME_MAX, Used};
pub use mode::{Mode, Shadow, ShadowVerdict};
pub use postgres::PostgresRules;
pub use ssh::{
    CommandPattern, ENV_DEFAULT, Interactive, SshAuth, SshRules, SshUpstream, SshWhen, VALIDITY_DEFAULT,
    known_hosts_names,
};
pub use step_up::{ACR_BYTES_MAX, ACR_MAX, PROOF_AGE_MAX, PROOF_AGE_MIN, StepUp};

/// Identifies the exact text a decision was made under: SHA-256 of the file's bytes, first 16 hex digits.
pub type PolicyVersion = String;

/// How long a hold waits when neither its guard nor `[defaults]` says.
pub const HOLD_TIME_DEFAULT: Duration = Duration::from_secs(15 * 60);

/// Longest hold a file may ask for: a held statement keeps its connection, and perhaps locks.
pub const HOLD_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Masked result bytes recorded per statement when `[record]` does not say.
pub const RESULT_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;

/// Most result bytes per statement that a file may ask to record.
pub const RESULT_BYTES_LIMIT: u64 = 1024 * 1024 * 1024;

/// One policy file.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `name =`; what `portcullis run --policy` takes.
    pub name: String,
    /// Version of the text.
    pub version: PolicyVersion,
    /// `mode =`: whether its guards and `[defaults]` decide, or are only tried out.
    pub mode: Mode,
    /// `[match]`: which existing cgroups and units this policy governs.
    pub matches: Matches,
    /// `[run]`: which Unix groups and users may start a run under this policy. Empty means everyone.
    pub run: RunRules,
    /// `[identity]`: whose tokens a run needs. Empty: the kernel's facts alone are the subject.
    pub identity: Vec<IssuerRules>,
    /// `[egress] default`: destinations that no connection names.
    pub egress: Egress,
    /// `[[connection]]`, in file order.
    pub connections: Vec<Arc<Connection>>,
    /// `[[guard]]`, in file order; the first match wins.
    pub guards: Vec<Guard>,
    /// `[[mask]]`, in file order.
    pub masks: Vec<MaskRule>,
    /// `[defaults]`: what happens without a matching guard, and in corner cases.
    pub defaults: Defaults,
    /// `[record]`.
    pub record: RecordRules,
    /// `[postgres]`.
    pub postgres: Arc<PostgresRules>,
    /// How often its rules have decided.
    pub hits: Arc<Hits>,
}

/// Which cgroups a policy claims without `portcullis run`.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// Globs over systemd unit names (`crewai@*.service`): the last component of the cgroup path.
    pub units: Vec<GlobMatcher>,
    /// Globs over cgroup paths below the cgroup-v2 root (`/ci.slice/agent-*`).
    pub cgroups: Vec<GlobMatcher>,
}

/// Who may start a run.
#[derive(Clone, Debug, Default)]
pub struct RunRules {
    /// Unix user names.
    pub users: Vec<String>,
    /// Unix group names.
    pub groups: Vec<String>,
}

/// What happens to a destination that no connection names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Refused, in the client's protocol where that can be told.
    Deny,
    /// Relayed opaque: bytes counted, nothing read.
    Record,
}

/// A named target.
#[derive(Clone, Debug)]
pub struct Connection {
    /// `name =`.
    pub name: String,
    /// `to = ["db.internal:5432", "10.0.0.0/8:5432", "127.9.9.9:*"]`.
    pub to: Vec<Destination>,
    /// `protocol =`.
    pub protocol: Protocol,
    /// `tls =`, for HTTP.
    pub client_tls: ClientTls,
    /// Groups that may use it; empty means every run of this policy. Unix groups, or under `[identity]` the token's.
    pub groups: Vec<String>,
    /// `claims =`: what the run's token must say.
    pub claims: ClaimsWhen,
    /// `upstream = { … }`.
    pub upstream: Upstream,
    /// `replication =`, for PostgreSQL: whether clients may open replication connections.
    pub replication: bool,
    /// `ssh = { … }`, for SSH.
    pub ssh: SshRules,
}

/// One entry of `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A host name, resolved by the daemon, and a port (`None` is any).
    Host {
        /// Lower case.
        name: String,
        /// TCP port.
        port: Option<u16>,
    },
    /// A network in CIDR form and a port (`None` is any). A plain address is a full-length prefix.
    Network {
        /// Network address.
        address: std::net::IpAddr,
        /// Prefix length in bits.
        prefix: u8,
        /// TCP port.
        port: Option<u16>,
    },
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2, over TLS or not.
    Http,
    /// PostgreSQL frontend/backend protocol 3.x.
    Postgres,
    /// SSH 2 (RFC 4251).
    Ssh,
    /// Bytes relayed and counted, not read.
    Opaque,
    /// Names, as this host's resolver answers them. Not a connection's: policies cannot write it.
    Dns,
}

/// How the daemon logs in to the real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Dial here instead of the original destination (`host:port`), when the file says so.
    pub address: Option<String>,
    /// User to log in as. `None`: the user the client named.
    pub user: Option<String>,
    /// Database to use. `None`: the one the client named.
    pub database: Option<String>,
    /// Parameters that a PostgreSQL session begins with and keeps, names in lower case.
    pub settings: Vec<(String, String)>,
    /// Name of a credential. `None`: the server must ask for no password, or get the client's.
    pub credential: Option<String>,
    /// Whether PostgreSQL's client is asked for the password that the server gets.
    pub pass_through: bool,
    /// Where the credential goes in an HTTP request.
    pub inject: Option<Injection>,
    /// Name of a credential with a client certificate and its key, for servers that ask for one.
    pub client_cert: Option<String>,
    /// How the server's TLS is verified.
    pub tls: UpstreamTls,
    /// PEM file of the roots that may sign the server's certificate; `None` is the system's store.
    pub root_cert: Option<std::path::PathBuf>,
    /// Name to verify the certificate against, when it is not the host of `to`.
    pub server_name: Option<String>,
    /// What only SSH servers have.
    pub ssh: SshUpstream,
}

/// libpq's names for how the server is verified (<https://www.postgresql.org/docs/current/libpq-ssl.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamTls {
    /// No TLS. For loopback and Unix-like trust only; the file must say it.
    Disable,
    /// TLS, chain verified, host name not.
    VerifyCa,
    /// TLS, chain and host name verified. The default.
    VerifyFull,
}

/// One rule over operations.
#[derive(Clone, Debug)]
pub struct Guard {
    /// `name =`, or `guard N` when the file gives none.
    pub name: String,
    /// `on =`.
    pub on: Protocol,
    /// What must hold for the rule to match; all of it.
    pub when: When,
    /// What then happens.
    pub action: Action,
    /// What passes by it is held to this.
    pub limits: Limits,
    /// `mode =`.
    pub mode: Mode,
}

/// Conditions of a guard. An empty list or `None` does not constrain.
#[derive(Clone, Debug, Default)]
pub struct When {
    /// `effect = [...]`.
    pub effects: Vec<Effect>,
    /// `kind = ["drop *"]`: globs over the command tag.
    pub kinds: Vec<GlobMatcher>,
    /// `objects = ["public.customers"]`: patterns over anything read or written.
    pub objects: Vec<ObjectPattern>,
    /// `writes = [...]`: as `objects`, written ones only.
    pub writes: Vec<ObjectPattern>,
    /// `columns = [...]`: patterns over columns touched.
    pub columns: Vec<ColumnPattern>,
    /// `functions = [...]`: patterns over functions called.
    pub functions: Vec<ObjectPattern>,
    /// `connections = [...]`: names of connections.
    pub connections: Vec<String>,
    /// `databases = [...]`: globs.
    pub databases: Vec<GlobMatcher>,
    /// `groups = [...]`: the subject is in one of these.
    pub groups: Vec<String>,
    /// `claims = {...}`: the run's token says this.
    pub claims: ClaimsWhen,
    /// `unbounded = true`: UPDATE/DELETE without an effective WHERE.
    pub unbounded: Option<bool>,
    /// `estimated_rows = "> 1000"`: the planner's estimate. An estimate that cannot be had matches.
    pub estimated_rows: Option<RowBound>,
    /// `during = [...]`.
    pub during: During,
    /// `over = {...}`.
    pub over: Option<Budget>,
    /// What only HTTP requests have.
    pub http: HttpWhen,
    /// What only SSH operations have.
    pub ssh: SshWhen,
}

/// `[schema.]name`, each part a glob, matched case-sensitively on folded names.
#[derive(Clone, Debug)]
pub struct ObjectPattern {
    /// As written.
    pub text: String,
    /// `None` is any schema.
    pub schema: Option<GlobMatcher>,
    /// The object's own name.
    pub name: GlobMatcher,
}

/// A comparison with the planner's row estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowBound {
    /// `"> N"`.
    Above(u64),
    /// `">= N"`.
    AtLeast(u64),
    /// `"< N"`.
    Below(u64),
    /// `"<= N"`.
    AtMost(u64),
}

/// What a guard does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Forward.
    Allow,
    /// Refuse; the text is shown to the client as a hint.
    Deny {
        /// `hint =`.
        hint: Option<String>,
    },
    /// Wait for a human.
    Hold(HoldTerms),
}

/// Who decides a hold, and how long it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldTerms {
    /// Unix groups or user names (`user:alice`) that may decide. Empty: whoever may use the control socket's
    /// approval commands.
    pub approvers: Vec<String>,
    /// `hold = "15m"`; then the operation is denied.
    pub timeout: Duration,
    /// `inline = "30s"`: how long the client is kept waiting before it is told to come again. `None`: what is usual for its
    /// protocol ([`INLINE_TIME_DEFAULT`] for HTTP, for others as long as reviewers may take).
    pub inline: Option<Duration>,
    /// `quorum =`: how many approvals it takes, by as many persons.
    pub quorum: u32,
    /// `distinct_groups = true`: each of them for another of the approvers.
    pub distinct_groups: bool,
    /// `break_glass = ["oncall"]`: whose word alone is enough in an emergency.
    pub break_glass: Vec<String>,
    /// `step_up =` and `acr =`: what whoever approves must have proved.
    pub step_up: Option<StepUp>,
    /// `in_transaction =`.
    pub in_transaction: InTransaction,
    /// `chat =`.
    pub chat: ChatUse,
}

impl Default for HoldTerms {
    /// Whoever may use the control socket's approval commands, within a quarter of an hour.
    fn default() -> Self {
        Self {
            approvers: Vec::new(),
            timeout: HOLD_TIME_DEFAULT,
            in_transaction: InTransaction::Refuse,
            inline: None,
            quorum: 1,
            distinct_groups: false,
            break_glass: Vec::new(),
            chat: ChatUse::Decide,
            step_up: None,
        }
    }
}

/// What chats may be used for when something is held; from the widest to the narrowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatUse {
    /// It is shown there, with buttons that decide it where a chat has such. The default.
    #[default]
    Decide,
    /// It is shown there, with a link to the approvals page alone.
    Link,
    /// No chat is told.
    None,
}

/// A hold inside an open transaction keeps its locks while a human thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InTransaction {
    /// Wait anyway; the approver is told that locks may be held.
    Hold,
    /// Refuse with a hint to send the statement outside a transaction. The default.
    Refuse,
}

/// One masking rule.
#[derive(Clone, Debug)]
pub struct MaskRule {
    /// `on =`; `None` is every protocol.
    pub on: Option<Protocol>,
    /// What it applies to.
    pub what: MaskTarget,
    /// `direction =`, for HTTP.
    pub direction: MaskDirection,
    /// `with =`.
    pub with: Method,
    /// `predicates =`, for columns; else what `[defaults]` say.
    pub predicates: Predicates,
    /// `connections = [...]`; empty is all.
    pub connections: Vec<String>,
    /// `exempt = [...]`: groups that see the raw value.
    pub exempt: Vec<String>,
}

/// What a mask finds.
#[derive(Clone, Debug)]
pub enum MaskTarget {
    /// `columns = ["customers.ssn", "*.password*", "public.cards.number"]`.
    Columns(Vec<ColumnPattern>),
    /// `detect = ["payment-card", …]`.
    Detect(Vec<Detector>),
    /// `form = ["password"]`: globs over field names of URL-encoded forms.
    Form(Vec<GlobMatcher>),
    /// `headers = ["x-internal-*"]`: globs over lower-case names of header fields.
    Headers(Vec<GlobMatcher>),
    /// `json = ["$.customers[*].ssn"]`.
    Json(Vec<JsonPath>),
}

/// `[schema.]table.column`, each part a glob, matched case-sensitively on folded names.
#[derive(Clone, Debug)]
pub struct ColumnPattern {
    /// As written.
    pub text: String,
    /// `None` is any schema.
    pub schema: Option<GlobMatcher>,
    /// Relation.
    pub table: GlobMatcher,
    /// Column.
    pub column: GlobMatcher,
}

/// `[defaults]`.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Action by effect when no guard matches: `read` is allowed, the rest held, unless the file says otherwise.
    pub unmatched: BTreeMap<Effect, Action>,
    /// Who decides a hold and how, where no guard says.
    pub terms: HoldTerms,
    /// What passes is held to this where its guard says nothing, or there is none.
    pub limits: Limits,
    /// An output of unknown origin from a statement that reads a masked column.
    pub unknown_origin: UnknownOrigin,
    /// How much of an HTTP body is read before it is judged, in bytes.
    pub inspect_bytes: u64,
    /// A body that a rule asks for and that cannot be looked into.
    pub uninspected: Uninspected,
}

/// What to do with an output whose origin cannot be told, in a statement that reads a masked column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownOrigin {
    /// Mask the whole value. The default.
    Mask,
    /// Hold the statement.
    Hold,
    /// Refuse the statement.
    Deny,
}

/// `[record]`.
#[derive(Clone, Debug)]
pub struct RecordRules {
    /// Effects whose intent must be on stable storage before forwarding; the others are only written (they survive
    /// the daemon's death, not the machine's). Default: all.
    pub durable: Vec<Effect>,
    /// `gather =`: whether the intents of the other effects may be forwarded before they are written, with others, within
    /// 10 ms. A daemon that is killed in between loses them.
    pub gather: bool,
    /// Masked result bytes kept per statement; beyond it the record says how much was left out.
    pub result_bytes_max: u64,
    /// `files =`: whether the content of transferred files is kept, within as many bytes each.
    pub files: bool,
    /// `typed =`: whether what is typed at a terminal is kept.
    pub typed: bool,
}

/// What policy says of one operation. The caller must act on every variant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Forward it.
    Allow {
        /// Name of the guard, or `default` when none matched.
        rule: String,
        /// What it is held to.
        limits: Limits,
        /// What a rule that is tried out would have done instead.
        shadow: Option<Shadow>,
    },
    /// Refuse it.
    Deny {
        /// Name of the guard, or `default`.
        rule: String,
        /// For the client: what was refused and why.
        reason: String,
        /// For the client: what to do instead.
        hint: Option<String>,
    },
    /// Ask a human.
    Hold {
        /// Name of the guard, or `default`.
        rule: String,
        /// Terms.
        terms: HoldTerms,
        /// What it is held to once it may pass.
        limits: Limits,
    },
}

impl Connection {
    /// Whether a session that was opened under one may go on under the other: same destinations, same login.
    #[must_use]
    pub fn is_same_target(&self, other: &Self) -> bool {
        self.to == other.to
            && self.protocol == other.protocol
            && self.client_tls == other.client_tls
            && self.upstream == other.upstream
    }
}

impl RecordRules {
    /// What must have become of the intent of an operation with this effect.
    #[must_use]
    pub fn durability(&self, effect: Effect) -> Durability {
        match (self.durable.contains(&effect), self.gather) {
            (true, _) => Durability::Synced,
            (false, true) => Durability::Gathered,
            (false, false) => Durability::Written,
        }
    }
}

impl Policy {
    /// Whether something of it holds statements to rows, time or a budget.
    #[must_use]
    pub fn has_bounds(&self) -> bool {
        let none = Limits::default();
        self.defaults.limits != none
            || self.guards.iter().any(|guard| guard.limits != none || guard.when.over.is_some())
    }

    /// Host names among the destinations with this port.
    pub fn host_names(&self, port: u16) -> impl Iterator<Item = &str> {
        self.connections.iter().flat_map(|connection| &connection.to).filter_map(move |to| match to {
            Destination::Host { name, port: wanted } => {
                wanted.is_none_or(|wanted| wanted == port).then_some(name.as_str())
            }
            Destination::Network { .. } => None,
        })
    }

    /// The connections that name this destination, in file order. Host names are matched through `resolved`, which says
    /// whether a name currently resolves to the address (the caller's cache; this function does no I/O).
    pub fn connections_for<'p>(
        &'p self,
        destination: OriginalDst,
        resolved: &'p dyn Fn(&str, std::net::IpAddr) -> bool,
    ) -> impl Iterator<Item = &'p Arc<Connection>> {
        self.connections
            .iter()
            .filter(move |connection| connection.to.iter().any(|to| to.matches(destination, resolved)))
    }
}

impl Destination {
    fn matches(&self, destination: OriginalDst, resolved: &dyn Fn(&str, std::net::IpAddr) -> bool) -> bool {
        let port_matches = |port: &Option<u16>| port.is_none_or(|port| port == destination.0.port());
        match self {
            Self::Host { name, port } => port_matches(port) && resolved(name, destination.0.ip()),
            Self::Network { address, prefix, port } => {
                port_matches(port) && network_contains(*address, *prefix, destination.0.ip())
            }
        }
    }
}

pub(super) fn network_contains(network: std::net::IpAddr, prefix: u8, address: std::net::IpAddr) -> bool {
    use std::net::IpAddr::{V4, V6};
    match (network, address.to_canonical()) {
        (V4(network), V4(address)) => {
            let shift = 32_u32.saturating_sub(u32::from(prefix));
            u64::from(network.to_bits()) >> shift == u64::from(address.to_bits()) >> shift
        }
        (V6(network), V6(address)) => {
            let shift = 128_u32.saturating_sub(u32::from(prefix));
            network.to_bits().checked_shr(shift).unwrap_or(0)
                == address.to_bits().checked_shr(shift).unwrap_or(0)
        }
        (V4(_), V6(_)) | (V6(_), V4(_)) => false,
    }
}
