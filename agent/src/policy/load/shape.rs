//! The tables of a policy file. The comments here are the descriptions that editors show.

use super::table::{List, key, table};
use super::value::{
    AbsolutePath, Acr, Act, Approver, BudgetWindow, ByteSize, CgroupGlob, CommandGlob, Count, CredentialName,
    FieldGlob, Folder, HeaderPattern, Hint, HoldTime, HostGlob, HostKey, HostName, HostPort, HttpMethod,
    HttpsUrl, Identifier, KindGlob, Leeway, LoginMethod, Name, NameGlob, OneOrMore, PathGlob, ProofAge,
    QueryPattern, Quorum, RuleName, Settings, Slug, StatementTime, UnitGlob, Version, ZoneName,
};
use crate::mask::http::JsonPath;
use crate::mask::{Detector, Method, Predicates};
use crate::policy::rule::{
    Algorithm, ChatUse, ClaimPath, ClaimsWhen, ClientTls, ColumnPattern, Destination, Egress, InTransaction,
    Injection, Interactive, MaskDirection, Mode, ObjectPattern, OnExpiry, Protocol, RowBound, Uninspected,
    UnknownOrigin, UpstreamTls, Window,
};
use crate::request::Effect;
use crate::request::http::{GraphqlPattern, GrpcPattern, JsonPathPattern, PathPattern};
use crate::request::sql::catalogue::Volatility;
use crate::request::ssh::{Access, OperationKind};

table! {
    /// A Portcullis policy: what one kind of agent may reach, what it may do there, and what it may see.
    struct FileTable in "a policy" {
        /// Version of the file's shape; 1.
        required version: Version,
        /// What `portcullis run --policy` takes.
                required name: Slug,
        /// enforce (unless written), or shadow: everything that guards and [defaults] would hold or deny passes, and what they would
        /// have done is recorded and counted. Statements that nobody can read pass as well: it protects nothing but what masks, profiles and denied shells do.
        optional mode: Mode,
        /// Which existing cgroups and units this policy governs. `portcullis run` needs none.
        optional matches as "match": MatchTable,
        /// Who may start a run under this policy. Without it everyone may.
        optional run: RunTable,
        /// Whose tokens bind a run (OpenID Connect). One table, or [[identity]] for each issuer. Without it, a run's subject is
        /// what the kernel knows: user, Unix groups, process.
        optional identity: OneOrMore<IdentityTable>,
        /// What happens to destinations that no connection names.
        optional egress: EgressTable,
        /// A named target. The first one whose `to` names the destination and that the run's subject may use is used.
        optional connection: List<ConnectionTable>,
        /// A rule over operations. The first one that matches decides.
        optional guard: List<GuardTable>,
        /// A rule that rewrites what comes back, before the agent and the recording see it.
        optional mask: List<MaskTable>,
        /// What happens when no guard matches: without this table, reads are allowed and the rest is held.
        optional defaults: DefaultsTable,
        /// What the recording keeps.
        optional record: RecordTable,
        /// What the catalogue of a PostgreSQL database is read for.
        optional postgres: PostgresTable,
    }
}

table! {
    /// Which existing cgroups and units this policy governs.
    struct MatchTable in "[match]" {
        /// Globs over systemd unit names, such as "crewai@*.service".
        optional units: List<UnitGlob>,
        /// Globs over cgroup paths below the cgroup root, such as "/ci.slice/agent-*".
        optional cgroups: List<CgroupGlob>,
    }
}

table! {
    /// Who may start a run under this policy.
    struct RunTable in "[run]" {
        /// Unix user names.
        optional users: List<Name>,
        /// Unix group names.
        optional groups: List<Name>,
    }
}

table! {
    /// An issuer whose tokens bind a run of this policy.
    struct IdentityTable in "[identity]" {
        /// The issuer, exactly as its tokens say it in `iss`, such as "https://token.actions.githubusercontent.com".
        required issuer: HttpsUrl,
        /// What a token's `aud` must name: this gate, such as "portcullis".
        required audience: Identifier,
        /// What `aud` may name besides. A token for other audiences as well is refused otherwise.
        optional trusted_audiences: List<Identifier>,
        /// Clients that a token may have been issued to, by its `azp`. Without it, the audience itself alone.
        optional authorized_parties: List<Identifier>,
        /// Claim with the subject's groups, such as "groups", "groups_direct" or "realm_access.roles".
        optional groups_claim: ClaimPath,
        /// Claim with the name that people know the subject by, such as "preferred_username".
        optional name_claim: ClaimPath,
        /// Claims that a token must have, such as { repository_owner = "acme", ref = ["refs/heads/main", "refs/tags/*"] }.
        optional claims: ClaimsWhen,
        /// Signatures that are taken; RS256, ES256 and EdDSA unless written.
        optional algorithms: List<Algorithm>,
        /// How far the issuer's clock may differ from ours, such as "30s" (unless written).
        optional leeway: Leeway,
        /// Where the issuer's key set (JWKS) is, when it does not describe itself at /.well-known/openid-configuration.
        optional keys_url: HttpsUrl,
        /// PEM file of the roots that may sign the issuer's certificate. Without it, the system's.
        optional root_cert: AbsolutePath,
        /// When a token has expired and was not renewed, nothing new starts; what runs finishes (unless written) or is cut.
        optional on_expiry: OnExpiry,
        /// Whether a client of a run that has no token (a cgroup of [match]) may bring one itself: as its PostgreSQL
        /// password, or in `Authorization: Bearer`. false unless written.
        optional in_band: bool,
    }
}

table! {
    /// What happens to destinations that no connection names.
    struct EgressTable in "[egress]" {
        /// deny: refused. record: relayed without being read, bytes counted.
        optional default: Egress,
    }
}

table! {
    /// A named target.
    struct ConnectionTable in "[[connection]]" {
        /// How guards, masks and the record name it.
        required name: Slug,
        /// Where it is: "host:port", "address:port" or "network/prefix:port"; port * is any.
        required to: List<Destination>,
        /// http, postgres, ssh: parsed, judged, recorded. opaque: relayed and counted, not read.
        required protocol: Protocol,
        /// With http: what the client speaks. intercept (the default): TLS, which ends here and is made again.
        /// passthrough: TLS that is not read, only counted. plain: no TLS.
        optional tls: ClientTls,
        /// Groups that may use it: Unix groups, or under [identity] the token's. Without it every run of this policy may.
        optional groups: List<Name>,
        /// Claims that the run's token must have, such as { repository = "acme/orders" }; needs [identity].
        optional claims: ClaimsWhen,
        /// How the daemon logs in to the real server.
        optional upstream: UpstreamTable,
        /// With postgres, true: clients may open replication connections. Their commands are judged as kinds of effect admin, such
        /// as "start replication"; what then streams is counted, not read. false unless written.
        optional replication: bool,
        /// With ssh: what clients may have beside commands and files.
        optional ssh: SshTable,
    }
}

table! {
    /// What clients of an SSH connection may have beside commands and files.
    struct SshTable in "ssh" {
        /// Interactive shells: deny (unless written); record, where guards decide on the shell and all of it is recorded;
        /// line-guard, where what is typed is judged line by line as well, which is no boundary.
        optional interactive: Interactive,
        /// true: the agent's authentication agent may be used from the server. false unless written.
        optional agent_forwarding: bool,
        /// true: X11 clients on the server may use the agent's display. false unless written.
        optional x11: bool,
        /// Globs over names of environment variables that are passed on; LANG, LC_*, TERM, COLORTERM and GIT_PROTOCOL unless written.
        optional env: List<NameGlob>,
        /// Where the account's relative paths and ~ begin, such as "/home/deploy". Without it, a relative path matches no
        /// absolute file of an allow guard.
        optional home: Folder,
        /// Name of a file in the credentials folder: clients must give what is in it as their password.
        optional token: CredentialName,
        /// true: what detectors find in downloaded files is overwritten with asterisks, whose number says how long it was; rsync
        /// and git, which send files in other forms, cannot fetch then. false unless written.
        optional mask_downloads: bool,
    }
}

table! {
    /// How the daemon logs in to the real server.
    struct UpstreamTable in "upstream" {
        /// Dial here ("host:port") instead of the address the agent asked for.
        optional address: HostPort,
        /// User to log in as. Without it, the one the client named.
        optional user: Name,
        /// Database to use. Without it, the one the client named.
        optional database: Name,
        /// With postgres: what the session begins with and keeps, such as { default_transaction_read_only = "on",
        /// statement_timeout = "30s", search_path = "app", role = "reporting" }. Statements that change one are refused.
        optional settings: Settings,
        /// Name of the credential that is the password or token: a file in the credentials folder, or what the daemon's
        /// configuration says. Without it, none is sent.
        optional credential: CredentialName,
        /// With http: where the credential goes: "bearer", "basic", "header NAME", "query NAME" or "sigv4".
        optional inject: Injection,
        /// With http and postgres: name of a credential with a client certificate and its key, in PEM.
        optional client_cert: CredentialName,
        /// How the server is verified: verify-full (the default), verify-ca, or disable for no TLS.
        optional tls: UpstreamTls,
        /// PEM file of the roots that may sign the server's certificate. Without it, the system's.
        optional root_cert: AbsolutePath,
        /// Name the certificate must bear, when it is not the host of `to`.
        optional server_name: HostName,
        /// With postgres: pass-through, where the server gets the password that the client gives. With ssh: how to log in. key (unless written): the credential is a private key. password. certificate: a key
        /// with a certificate. ca: a CA's key, which signs a certificate for each session. agent: an authentication agent.
        optional auth: LoginMethod,
        /// With auth = "certificate": name of a file in the credentials folder with the key's certificate.
        optional certificate: CredentialName,
        /// With auth = "ca": principals of the certificates. Without it, the account itself.
        optional principals: List<Name>,
        /// With auth = "ca": how long a certificate is good, such as "5m" (unless written).
        optional validity: HoldTime,
        /// With auth = "agent": the agent's socket.
        optional agent: AbsolutePath,
        /// With ssh: the server's public keys, as ssh-keyscan shows them without the host: "ssh-ed25519 AAAA…".
        optional host_keys: List<HostKey>,
        /// With ssh: a file in the format of OpenSSH's known_hosts that has the server's keys.
        optional known_hosts: AbsolutePath,
        /// With ssh: public keys of the CAs that sign the server's host certificate.
        optional host_ca: List<HostKey>,
    }
}

table! {
    /// A rule over operations. All conditions must hold; the first matching guard decides.
    struct GuardTable in "[[guard]]" {
        /// Shown to clients and approvers. Without it, "guard 1", "guard 2" and so on, by position.
        optional name: RuleName,
        /// Protocol whose operations it judges.
        required on: Protocol,
        /// Effects it matches: read, write, ddl, admin, unknown.
        optional effect: List<Effect>,
        /// Globs over what is asked: PostgreSQL's command tag, such as "drop *" or "create table"; an HTTP method or
        /// the name of a known call, such as "delete" or "github repos/*"; what a command does, such as "rm -rf".
        optional kind: List<KindGlob>,
        /// Globs over objects read or written, such as "public.customers", or "customers" in any schema. An allow guard needs every
        /// object of the statement to match, another needs one.
        optional objects: List<ObjectPattern>,
                /// As objects, over written ones only.
        optional writes: List<ObjectPattern>,
        /// With postgres: globs over columns read or written, such as "customers.ssn" or "hr.people.*". A deny or hold needs one
        /// of them to be touched, or that it may be (`SELECT *`); an allow, that nothing else is.
        optional columns: List<ColumnPattern>,

        /// Globs over functions called. An allow guard needs every function of the statement to match, another needs one.
        optional functions: List<ObjectPattern>,
        /// Names of connections it is for.
        optional connections: List<Slug>,
        /// Globs over database names.
        optional databases: List<NameGlob>,
        /// Groups it is for.
        optional groups: List<Name>,
        /// Claims it is for, such as { ref = "refs/heads/*" }; needs [identity].
        optional claims: ClaimsWhen,
        /// true: only an UPDATE or DELETE (or MERGE, TRUNCATE) of whole tables. false: only others.
        optional unbounded: bool,
                /// Bound on the planner's estimate of rows touched, such as "> 1000".
        optional estimated_rows: RowBound,
        /// Hours at which it applies, such as "Mon-Fri 08:00-18:00", by the clocks of [defaults] time_zone.
        optional during: List<Window>,
        /// With postgres and hold or deny: only once the run has had so much of what the guard otherwise matches.
        optional over: BudgetTable,
        /// With postgres and allow or hold: rows of one result that the client gets; then the statement ends with an error.
        optional max_rows: Count,
        /// With postgres and allow or hold: how long a statement may run before it is cancelled, such as "30s".
        optional timeout: StatementTime,
        /// enforce (unless written), or shadow: it decides nothing, and what it would have done is recorded and counted.
        optional mode: Mode,
        /// With http: globs over the host name, without its port.
        optional hosts: List<HostGlob>,
        /// With http: methods, such as "POST".
        optional methods: List<HttpMethod>,
        /// With http: paths; segments are globs, {name} is exactly one segment and ** any number of them.
        optional paths: List<PathPattern>,
        /// With http: query parameters, as "name" or "name=glob".
        optional query: List<QueryPattern>,
        /// With http: header fields, as "name" or "name: glob".
        optional headers: List<HeaderPattern>,
        /// With http: JSONPath queries (RFC 9535) over the body, such as "$[?@.amount > 1000]"; one that selects
        /// something matches.
        optional json: List<JsonPathPattern>,
        /// With http: GraphQL operations and fields, such as "mutation deleteRepository" or "query viewer.email".
        optional graphql: List<GraphqlPattern>,
        /// With http: globs over gRPC methods, such as "orders.Orders/Cancel*".
        optional grpc: List<GrpcPattern>,
        /// With ssh: what is asked, such as "exec", "upload" or "direct-tcpip".
        optional operation: List<OperationKind>,
        /// With ssh: globs over base names of programs. A line with several commands: an allow guard needs each of them to
        /// match, another needs one.
        optional program: List<NameGlob>,
        /// With ssh: globs over program and arguments joined by single blanks, such as "git push*". In an allow guard every
        /// option has to be written out, and so has sudo ("sudo systemctl reload nginx").
        optional command: List<CommandGlob>,
        /// With ssh: globs over paths of the server, such as "/etc/**".
        optional file: List<PathGlob>,
        /// With ssh: what is done with such a path: read, write, remove.
        optional access: List<Access>,
        /// With ssh: globs over where a forward leads ("db.internal:5432"), or the name of a subsystem.
        optional target: List<NameGlob>,
        /// With ssh: globs over the account on the server.
        optional user: List<NameGlob>,
        /// allow, deny, or hold for a human.
        required action: Act,
        /// With deny: what the client is told to do instead.
        optional hint: Hint,
        /// With hold: groups, or users as "user:alice", that may decide. Without it, those of [defaults].
        optional approvers: List<Approver>,
        /// With hold: how long to wait before denying, such as "15m".
        optional hold: HoldTime,
        /// With hold: whether to wait inside an open transaction (its locks stay) or refuse there.
        optional in_transaction: InTransaction,
        /// With hold: how long the client waits before it is told to come again, such as "30s". Without it, an HTTP client
        /// waits as [defaults] say, others for as long as the hold lasts.
        optional inline: HoldTime,
        /// With hold: how many approvals it takes, by as many persons; 1 unless written.
        optional quorum: Quorum,
        /// With hold and quorum: true, if each approval has to be for another of the approvers listed.
        optional distinct_groups: bool,
        /// With hold: groups, or users as "user:alice", whose word alone is enough in an emergency. It is alerted, and somebody
        /// else has to look at it afterwards.
        optional break_glass: List<Approver>,
        /// With hold: what chats are for: decide, link to the approvals page alone, none. Without it, as [defaults] say.
        optional chat: ChatUse,
        /// With hold: who approves must have signed in at the identity provider within this time (`auth_time`), such as "5m".
                /// They sign in on the approvals page, or with `portcullis login --for ID`.

        optional step_up: ProofAge,
        /// With hold: and by one of these means (`acr`), in the provider's words, such as "phr".
        optional acr: List<Acr>,
    }
}

table! {
    /// A rule that rewrites what comes back. It names columns, detectors, JSON places, header fields or form fields.
    struct MaskTable in "[[mask]]" {
        /// Protocol it is for. Without it, all.
        optional on: Protocol,
        /// Columns as "table.column" or "schema.table.column", each part a glob.
        optional columns: List<ColumnPattern>,
        /// Detectors over any text that comes back.
        optional detect: List<Detector>,
        /// With http: places in JSON bodies, such as "$.customers[*].ssn" or "$..password".
        optional json: List<JsonPath>,
        /// With http: globs over names of header fields.
        optional headers: List<FieldGlob>,
        /// With http: globs over names of form fields.
        optional form: List<NameGlob>,
        /// With http: response (the default) or request, so that secrets do not leave.
        optional direction: MaskDirection,
        /// How a value is rewritten: redact, partial, hash, null.
        required with: Method,
        /// With columns: what becomes of statements whose result depends on them otherwise than by showing them (conditions, joins,
        /// order, groups, DISTINCT, whatever is computed): allow, equality (one comparison with one value passes, the rest is
        /// denied), hold, deny. Without it, as [defaults] say.
        optional predicates: Predicates,
        /// Names of connections it is for. Without it, all.
        optional connections: List<Slug>,
        /// Groups that see the raw value.
        optional exempt: List<Name>,
    }
}

table! {
    /// How much of something a run may have.
    struct BudgetTable in "over" {
        /// Statements.
        optional statements: Count,
        /// Rows of results.
        optional rows: Count,
        /// Bytes of results, such as "50MiB".
        optional bytes: ByteSize,
        /// Counted over this long, up to now, such as "1m". Without it, over the whole run.
        optional per: BudgetWindow,
    }
}

table! {
    /// What happens when no guard matches, and in corner cases.
    struct DefaultsTable in "[defaults]" {
        /// Reads that no guard matches; allow unless written.
        optional read: Act,
        /// Writes that no guard matches; hold unless written.
        optional write: Act,
        /// Changes of schema objects that no guard matches; hold unless written.
        optional ddl: Act,
        /// Administration that no guard matches; hold unless written.
        optional admin: Act,
        /// What cannot be understood, when no guard matches; hold unless written.
        optional unknown: Act,
        /// Who decides holds whose guard names nobody.
        optional approvers: List<Approver>,
        /// How long holds wait whose guard does not say; "15m" unless written.
        optional hold: HoldTime,
        /// Whether holds wait inside an open transaction when their guard does not say; refuse unless written.
        optional in_transaction: InTransaction,
        /// What chats are for when a hold's guard does not say; decide unless written.
        optional chat: ChatUse,
                /// Of PostgreSQL, rows of one result that the client gets where its guard does not say; no bound unless written.
        optional max_rows: Count,
        /// Of PostgreSQL, how long a statement may run where its guard does not say; no bound unless written.
        optional timeout: StatementTime,
        /// Whose clocks `during` goes by, such as "Europe/Berlin"; UTC unless written.
        optional time_zone: ZoneName,
        /// Output of unknown origin from a statement that reads a masked column: mask (unless written), hold, deny.
        optional unknown_origin: UnknownOrigin,
        /// Of masks with columns that do not say: allow (unless written), equality, hold, deny.
        optional predicates: Predicates,
        /// How long the client of a held operation waits when its guard does not say, before it is told to come again; for HTTP
        /// "30s" unless written, for others as long as the hold lasts.
        optional inline: HoldTime,
        /// How much of an HTTP body is read before it is judged, when a rule asks for it; "1MiB" unless written.
        optional inspect_bytes: ByteSize,
        /// An HTTP body that a rule asks for and that cannot be looked into: hold (unless written), deny, allow.
        optional uninspected: Uninspected,
    }
}

table! {
    /// What the catalogue of a PostgreSQL database is read for, with the session's own role.
    struct PostgresTable in "[postgres]" {
        /// true: reads of views, and of tables with row policies, have the effect of the functions behind them. It is true
        /// already where column masks or `read_functions` need the catalogue; false: not even there.
        optional catalogue: bool,
        /// Functions that only read, such as "app.price_of" or "reports.*". An operator stands for its function. Without it,
        /// only PostgreSQL's own functions and those of its own extensions do.
        optional read_functions: List<ObjectPattern>,
        /// What those functions must be declared as: immutable and stable unless written.
        optional volatility: List<Volatility>,
    }
}

table! {
    /// What the recording keeps.
    struct RecordTable in "[record]" {
        /// Effects whose record is on stable storage before the operation is forwarded; all unless written.
        optional durable: List<Effect>,
                /// true: what is recorded of PostgreSQL statements with other effects is written with others', within 10 ms, and they do not
        /// wait for it. A daemon that is killed in between loses it. false unless written.
        optional gather: bool,
        /// Masked result kept per statement, and of an HTTP body in each direction, such as "16MiB".
        optional result_bytes: ByteSize,
        /// With ssh: true keeps the content of transferred files, within result_bytes each. false unless written; size and
        /// SHA-256 are always kept.
        optional files: bool,
        /// With ssh: true keeps what is typed at a terminal, which may be a password. false unless written.
        optional typed: bool,
    }
}
