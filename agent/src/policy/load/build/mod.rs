//! Turns the tables of a file that has no error into the policy that later stages read.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};
use toml::Spanned;

use super::shape::{
    BudgetTable, ConnectionTable, DefaultsTable, FileTable, GuardTable, MaskTable, UpstreamTable,
};
use super::table::{Choice, List};
use super::value::{Act, Count, LoginMethod, ProofAge, StatementTime, Version};
use crate::mask::Predicates;
use crate::policy::rule::{
    Action, Budget, ChatUse, ClientTls, Connection, Defaults, During, Egress, Guard, HOLD_TIME_DEFAULT, Hits,
    HoldTerms, HttpWhen, INSPECT_BYTES_DEFAULT, InTransaction, Limits, MaskDirection, MaskRule, MaskTarget,
    Matches, Policy, RESULT_BYTES_DEFAULT, RecordRules, RunRules, SshUpstream, SshWhen, StepUp, Uninspected,
    UnknownOrigin, Upstream, UpstreamTls, When,
};
use crate::request::Effect;

mod identity;
mod postgres;
mod ssh;

/// Bytes of the digest kept as the version: enough to tell texts apart, short enough to read aloud.
const VERSION_BYTES: usize = 8;

/// The policy, or `None` when a required key is missing (which was reported when the table was read).
pub(super) fn policy(file: FileTable, text: &str) -> Option<Policy> {
    let Version = value(file.version)?;
    let matches = file.matches.map(Spanned::into_inner);
    let run = file.run.map(Spanned::into_inner);
    let record = file.record.map(Spanned::into_inner);
    let postgres = postgres::rules(value(file.postgres));
    let defaults = file.defaults.map(Spanned::into_inner);
    let terms = default_terms(defaults.as_ref());
    let zone = defaults.as_ref().and_then(|table| table.time_zone.as_ref());
    let zone = zone.map_or(TimeZone::UTC, |zone| zone.get_ref().0.clone());
    let predicates = defaults.as_ref().and_then(|table| table.predicates.as_ref());
    let predicates = predicates.map_or(Predicates::default(), |choice| *choice.get_ref());
    let mut budgets = 0..;
    let guards = tables(file.guard, |index, table| guard(index, table, &terms, &zone, &mut budgets))?;
    Some(Policy {
        name: value(file.name)?.0,
        version: version(text),
        mode: value(file.mode).unwrap_or_default(),
        matches: matches.map_or_else(Matches::default, |table| Matches {
            units: list(table.units, |glob| glob.0),
            cgroups: list(table.cgroups, |glob| glob.0),
        }),
        run: run.map_or_else(RunRules::default, |table| RunRules {
            users: list(table.users, |name| name.0),
            groups: list(table.groups, |name| name.0),
        }),
        identity: identity::issuers(file.identity)?,
        egress: value(file.egress).and_then(|table| value(table.default)).unwrap_or(Egress::Deny),
        connections: tables(file.connection, |_, table| connection(table).map(Arc::new))?,
        hits: Arc::new(Hits::of(guards.len())),
        guards,
        masks: tables(file.mask, |_, table| mask(table, predicates))?,
        defaults: defaults_of(defaults, &terms),
        postgres: Arc::new(postgres),
        record: record.map_or_else(
            || RecordRules {
                durable: every_effect(),
                gather: false,
                result_bytes_max: RESULT_BYTES_DEFAULT,
                files: false,
                typed: false,
            },
            |table| RecordRules {
                durable: table
                    .durable
                    .map_or_else(every_effect, |durable| list(Some(durable), |effect| effect)),
                gather: value(table.gather).unwrap_or(false),

                result_bytes_max: value(table.result_bytes).map_or(RESULT_BYTES_DEFAULT, |size| size.0),
                files: value(table.files).unwrap_or(false),
                typed: value(table.typed).unwrap_or(false),
            },
        ),
    })
}

/// First bytes of the text's SHA-256, in hex.
fn version(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(VERSION_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

fn value<T>(field: Option<Spanned<T>>) -> Option<T> {
    field.map(Spanned::into_inner)
}

fn list<T, U>(field: Option<Spanned<List<T>>>, each: impl Fn(T) -> U) -> Vec<U> {
    field.map(|list| list.into_inner().0).into_iter().flatten().map(|item| each(item.into_inner())).collect()
}

fn tables<T, U>(
    field: Option<Spanned<List<T>>>,
    mut each: impl FnMut(usize, T) -> Option<U>,
) -> Option<Vec<U>> {
    let items = field.map(|list| list.into_inner().0).unwrap_or_default();
    items.into_iter().enumerate().map(|(index, item)| each(index, item.into_inner())).collect()
}

fn every_effect() -> Vec<Effect> {
    Effect::ALL.iter().map(|(_, effect)| *effect).collect()
}

fn connection(table: ConnectionTable) -> Option<Connection> {
    // What is plain towards the client is plain towards the server, unless the file says otherwise.
    let default_tls = match table.tls.as_ref().map(Spanned::get_ref) {
        Some(ClientTls::Plain) => UpstreamTls::Disable,
        Some(ClientTls::Intercept | ClientTls::Passthrough) | None => UpstreamTls::VerifyFull,
    };
    Some(Connection {
        name: value(table.name)?.0,
        to: list(table.to, |to| to),
        protocol: value(table.protocol)?,
        client_tls: value(table.tls).unwrap_or(ClientTls::Intercept),
        groups: list(table.groups, |name| name.0),
        claims: value(table.claims).unwrap_or_default(),
        upstream: upstream(value(table.upstream), default_tls),
        replication: value(table.replication).unwrap_or(false),
        ssh: ssh::rules(value(table.ssh)),
    })
}

fn upstream(table: Option<UpstreamTable>, default_tls: UpstreamTls) -> Upstream {
    let Some(table) = table else {
        return Upstream {
            address: None,
            user: None,
            database: None,
            settings: Vec::new(),
            credential: None,
            pass_through: false,
            inject: None,
            client_cert: None,
            tls: default_tls,
            root_cert: None,
            server_name: None,
            ssh: SshUpstream::default(),
        };
    };
    let (ssh, table) = ssh::upstream(table);
    Upstream {
        ssh,
        address: value(table.address).map(|address| address.0),
        user: value(table.user).map(|user| user.0),
        database: value(table.database).map(|database| database.0),
        settings: value(table.settings).map(|settings| settings.0).unwrap_or_default(),
        credential: value(table.credential).map(|credential| credential.0),
        pass_through: value(table.auth) == Some(LoginMethod::PassThrough),
        inject: value(table.inject),
        client_cert: value(table.client_cert).map(|credential| credential.0),
        tls: value(table.tls).unwrap_or(default_tls),
        root_cert: value(table.root_cert).map(|path| path.0),
        server_name: value(table.server_name).map(|name| name.0),
    }
}

/// How a guard is called in verdicts: its name, or its place.
pub(super) fn guard_name(index: usize, table: &GuardTable) -> String {
    match &table.name {
        Some(name) => name.get_ref().0.clone(),
        None => format!("guard {}", index + 1),
    }
}

fn guard(
    index: usize,
    table: GuardTable,
    terms: &HoldTerms,
    zone: &TimeZone,
    budgets: &mut impl Iterator<Item = usize>,
) -> Option<Guard> {
    let name = guard_name(index, &table);
    let limits = limits(table.max_rows, table.timeout);
    let mode = value(table.mode).unwrap_or_default();
    let action = match value(table.action)? {
        Act::Allow => Action::Allow,
        Act::Deny => Action::Deny { hint: value(table.hint).map(|hint| hint.0) },
        Act::Hold => Action::Hold(HoldTerms {
            approvers: table
                .approvers
                .map_or_else(|| terms.approvers.clone(), |approvers| list(Some(approvers), |name| name.0)),
            timeout: value(table.hold).map_or(terms.timeout, |time| time.0),
            in_transaction: value(table.in_transaction).unwrap_or(terms.in_transaction),
            inline: value(table.inline).map(|time| time.0).or(terms.inline),
            quorum: value(table.quorum).map_or(1, |quorum| quorum.0),
            distinct_groups: value(table.distinct_groups).unwrap_or(false),
            break_glass: list(table.break_glass, |name| name.0),
            chat: value(table.chat).unwrap_or(terms.chat),
            step_up: step_up(value(table.step_up), list(table.acr, |value| value.0)),
        }),
    };
    let when = When {
        effects: list(table.effect, |effect| effect),
        kinds: list(table.kind, |glob| glob.0),
        objects: list(table.objects, |pattern| pattern),
        writes: list(table.writes, |pattern| pattern),
        columns: list(table.columns, |pattern| pattern),

        functions: list(table.functions, |pattern| pattern),
        connections: list(table.connections, |name| name.0),
        databases: list(table.databases, |glob| glob.0),
        groups: list(table.groups, |name| name.0),
        claims: value(table.claims).unwrap_or_default(),
        unbounded: value(table.unbounded),
        estimated_rows: value(table.estimated_rows),
        during: During { windows: list(table.during, |window| window), zone: zone.clone() },
        over: value(table.over).and_then(|table| budget(table, budgets.next()?)),

        http: HttpWhen {
            hosts: list(table.hosts, |glob| glob.0),
            methods: list(table.methods, |method| method.0),
            paths: list(table.paths, |pattern| pattern),
            query: list(table.query, |pattern| pattern.0),
            headers: list(table.headers, |pattern| pattern.0),
            json: list(table.json, |pattern| pattern),
            graphql: list(table.graphql, |pattern| pattern),
            grpc: list(table.grpc, |pattern| pattern),
        },
        ssh: SshWhen {
            operations: list(table.operation, |operation| operation),
            programs: list(table.program, |glob| glob.0),
            commands: list(table.command, |glob| glob.0),
            files: list(table.file, |glob| glob.0),
            access: list(table.access, |access| access),
            targets: list(table.target, |glob| glob.0),
            users: list(table.user, |glob| glob.0),
        },
    };
    Some(Guard { name, on: value(table.on)?, when, action, limits, mode })
}

fn limits(rows: Option<Spanned<Count>>, time: Option<Spanned<StatementTime>>) -> Limits {
    Limits { rows: value(rows).map(|rows| rows.0), time: value(time).map(|time| time.0) }
}

fn budget(table: BudgetTable, place: usize) -> Option<Budget> {
    Some(Budget {
        place,
        statements: value(table.statements).map(|count| count.0),
        rows: value(table.rows).map(|count| count.0),
        bytes: value(table.bytes).map(|size| size.0),
        per: value(table.per).map(|time| time.0),
    })
}

fn step_up(age: Option<ProofAge>, acr: Vec<String>) -> Option<StepUp> {
    let max_age = age.map(|age| age.0);
    (max_age.is_some() || !acr.is_empty()).then_some(StepUp { max_age, acr })
}

fn mask(table: MaskTable, predicates: Predicates) -> Option<MaskRule> {
    // `check` has seen that there is exactly one.
    let what = if table.columns.is_some() {
        MaskTarget::Columns(list(table.columns, |pattern| pattern))
    } else if table.detect.is_some() {
        MaskTarget::Detect(list(table.detect, |detector| detector))
    } else if table.json.is_some() {
        MaskTarget::Json(list(table.json, |path| path))
    } else if table.headers.is_some() {
        MaskTarget::Headers(list(table.headers, |glob| glob.0))
    } else {
        MaskTarget::Form(list(Some(table.form?), |glob| glob.0))
    };
    Some(MaskRule {
        on: value(table.on),
        what,
        direction: value(table.direction).unwrap_or(MaskDirection::Response),
        with: value(table.with)?,
        predicates: value(table.predicates).unwrap_or(predicates),
        connections: list(table.connections, |name| name.0),
        exempt: list(table.exempt, |name| name.0),
    })
}

/// Who decides a hold and how, when its guard does not say.
fn default_terms(table: Option<&DefaultsTable>) -> HoldTerms {
    let approvers = table.and_then(|table| table.approvers.as_ref());
    HoldTerms {
        approvers: approvers
            .map(|list| list.get_ref().0.iter().map(|name| name.get_ref().0.clone()).collect())
            .unwrap_or_default(),
        timeout: table
            .and_then(|table| table.hold.as_ref())
            .map_or(HOLD_TIME_DEFAULT, |time| time.get_ref().0),
        in_transaction: table
            .and_then(|table| table.in_transaction.as_ref())
            .map_or(InTransaction::Refuse, |choice| *choice.get_ref()),
        inline: table.and_then(|table| table.inline.as_ref()).map(|time| time.get_ref().0),
        chat: table.and_then(|table| table.chat.as_ref()).map_or(ChatUse::Decide, |choice| *choice.get_ref()),
        ..HoldTerms::default()
    }
}

fn defaults_of(table: Option<DefaultsTable>, terms: &HoldTerms) -> Defaults {
    let written = table;
    let table = written.as_ref();
    let unmatched: BTreeMap<Effect, Action> = Effect::ALL
        .iter()
        .map(|(_, effect)| {
            let action = match default_act(table, *effect) {
                Act::Allow => Action::Allow,
                Act::Deny => Action::Deny { hint: None },
                Act::Hold => Action::Hold(terms.clone()),
            };
            (*effect, action)
        })
        .collect();
    let unknown_origin = table
        .and_then(|table| table.unknown_origin.as_ref())
        .map_or(UnknownOrigin::Mask, |choice| *choice.get_ref());
    let inspect_bytes = table
        .and_then(|table| table.inspect_bytes.as_ref())
        .map_or(INSPECT_BYTES_DEFAULT, |size| size.get_ref().0);
    let uninspected = table
        .and_then(|table| table.uninspected.as_ref())
        .map_or(Uninspected::Hold, |choice| *choice.get_ref());
    let (rows, time) = written.map_or((None, None), |table| (table.max_rows, table.timeout));
    let (terms, limits) = (terms.clone(), limits(rows, time));
    Defaults { unmatched, terms, limits, unknown_origin, inspect_bytes, uninspected }
}

/// What happens to an effect that no guard matches.
pub(super) fn default_act(table: Option<&DefaultsTable>, effect: Effect) -> Act {
    let written = table.and_then(|table| match effect {
        Effect::Read => table.read.as_ref(),
        Effect::Write => table.write.as_ref(),
        Effect::Ddl => table.ddl.as_ref(),
        Effect::Admin => table.admin.as_ref(),
        Effect::Unknown => table.unknown.as_ref(),
    });
    match (written, effect) {
        (Some(act), _) => *act.get_ref(),
        (None, Effect::Read) => Act::Allow,
        (None, Effect::Write | Effect::Ddl | Effect::Admin | Effect::Unknown) => Act::Hold,
    }
}
