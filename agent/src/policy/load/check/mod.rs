//! What one key says about another: names that must exist, terms that need their action, conditions that cannot hold.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;

use toml::Spanned;

use crate::policy::diagnostic::{did_you_mean, quoted};
use crate::policy::load::build::{default_act, guard_name};
use crate::policy::load::kinds;
use crate::policy::load::shape::{
    ConnectionTable, DefaultsTable, FileTable, GuardTable, MaskTable, RecordTable, UpstreamTable,
};
use crate::policy::load::table::{Choice, Findings, List, Table};
use crate::policy::load::value::{Act, LoginMethod, Slug};
use crate::policy::rule::{ACR_MAX, Destination, Protocol, UpstreamTls};
use crate::request::Effect;

mod http;
mod identity;
mod limits;
mod postgres;
mod ssh;

/// Checks everything that spans more than one value.
pub(super) fn file(file: &FileTable, findings: &mut Findings<'_>) {
    let connections: Vec<&ConnectionTable> = items(file.connection.as_ref()).collect();
    let guards: Vec<&GuardTable> = items(file.guard.as_ref()).collect();
    duplicates(connections.iter().filter_map(|table| named(table.name.as_ref())), "connection", findings);
    duplicates(
        guards.iter().enumerate().map(|(index, table)| {
            (guard_name(index, table), table.name.as_ref().map_or(table.span(), Spanned::span))
        }),
        "guard",
        findings,
    );
    identity::file(file, findings);
    for table in &connections {
        connection(table, findings);
        replication(table, file.mask.as_ref(), findings);
    }
    let tags = kinds::all();
    for table in &guards {
        guard(table, &connections, &tags, findings);
    }
    for table in items(file.mask.as_ref()) {
        mask(table, &connections, findings);
    }
    if let Some(table) = &file.matches {
        let table = table.get_ref();
        if table.written().is_empty() {
            findings.error(table.span(), "[match] names nothing; give it `units` or `cgroups`, or remove it");
        }
    }
    if let Some(table) = &file.defaults {
        defaults(table.get_ref(), findings);
    }
    if let Some(table) = &file.record {
        record(table.get_ref(), findings);
    }
    if let Some(table) = &file.postgres {
        postgres::rules(table.get_ref(), findings);
        postgres::compared(table.get_ref(), file, findings);
    }
}

fn items<T>(list: Option<&Spanned<List<T>>>) -> impl Iterator<Item = &T> {
    list.map(|list| list.get_ref().0.as_slice()).unwrap_or_default().iter().map(Spanned::get_ref)
}

fn named(name: Option<&Spanned<Slug>>) -> Option<(String, Range<usize>)> {
    name.map(|name| (name.get_ref().0.clone(), name.span()))
}

fn duplicates(names: impl Iterator<Item = (String, Range<usize>)>, what: &str, findings: &mut Findings<'_>) {
    let mut seen: Vec<String> = Vec::new();
    for (name, span) in names {
        if seen.contains(&name) {
            findings
                .error(span, format!("another {what} is already named {}; names are unique", quoted(&name)));
        }
        seen.push(name);
    }
}

fn connection(table: &ConnectionTable, findings: &mut Findings<'_>) {
    let protocol = table.protocol.as_ref().map(Spanned::get_ref);
    ssh::only_for_ssh(table, findings);
    if let (Some(Protocol::Opaque | Protocol::Postgres | Protocol::Ssh), Some(tls)) = (protocol, &table.tls) {
        findings.error(
            tls.span(),
            "`tls` of a connection is for protocol = \"http\"; how the server is verified is `tls` of `upstream`",
        );
    }
    if protocol == Some(&Protocol::Ssh) {
        ssh::connection(table, findings);
        return;
    }
    let Some(upstream) = table.upstream.as_ref().map(Spanned::get_ref) else {
        return;
    };
    match protocol {
        Some(Protocol::Http) => http::upstream(table, upstream, findings),
        Some(Protocol::Opaque) => opaque_upstream(upstream, findings),
        Some(Protocol::Postgres) => {
            http::only_for_http(upstream, findings);
            postgres_login(upstream, findings);
            tls_terms(table, upstream, "rows and the login cross the network in clear", findings);
        }
        Some(Protocol::Dns | Protocol::Ssh) | None => {}
    }
}

/// A replication connection carries the server's write-ahead log, in which nothing can be masked.
fn replication(
    table: &ConnectionTable,
    masks: Option<&Spanned<List<MaskTable>>>,
    findings: &mut Findings<'_>,
) {
    let Some(granted) = &table.replication else { return };
    if table.protocol.as_ref().is_some_and(|protocol| *protocol.get_ref() != Protocol::Postgres) {
        findings.error(granted.span(), "`replication` is for protocol = \"postgres\"");
        return;
    }
    let name = table.name.as_ref().map(|name| name.get_ref().0.as_str());
    let applies = |mask: &MaskTable| {
        let named = mask.connections.as_ref().map(|list| list.get_ref().0.as_slice());
        mask.on.as_ref().is_none_or(|on| *on.get_ref() == Protocol::Postgres)
            && named.is_none_or(|named| named.iter().any(|named| Some(named.get_ref().0.as_str()) == name))
    };
    if *granted.get_ref() && items(masks).any(applies) {
        findings.error(
            granted.span(),
            "masks apply to this connection, and nothing can be masked in what is replicated; give the masks the names of other \
             `connections`, or remove this",
        );
    }
}

fn opaque_upstream(upstream: &UpstreamTable, findings: &mut Findings<'_>) {
    if let Some(key) = upstream.written().iter().find(|key| *key != "address") {
        findings.error(
            upstream.span(),
            format!(
                "`{}` has no use on an opaque connection: its bytes are relayed, nobody logs in",
                key.escape_debug()
            ),
        );
    }
}

/// Who the daemon is to a PostgreSQL server.
fn postgres_login(upstream: &UpstreamTable, findings: &mut Findings<'_>) {
    let plain = upstream.tls.as_ref().is_some_and(|tls| *tls.get_ref() == UpstreamTls::Disable);
    if let (Some(name), true) = (&upstream.client_cert, plain) {
        findings.error(name.span(), "a client certificate needs TLS towards the server");
    }
    let passed = upstream.auth.as_ref().is_some_and(|auth| *auth.get_ref() == LoginMethod::PassThrough);
    if let (Some(credential), true) = (&upstream.credential, passed) {
        findings.error(
            credential.span(),
            "`credential` has no use with auth = \"pass-through\": the server gets the client's password",
        );
    }
}

/// `tls` of `upstream` and what depends on it; `exposed` says what is lost without it.
fn tls_terms(table: &ConnectionTable, upstream: &UpstreamTable, exposed: &str, findings: &mut Findings<'_>) {
    match upstream.tls.as_ref().map(Spanned::get_ref) {
        Some(UpstreamTls::Disable) => {
            for (key, span) in [
                ("root_cert", upstream.root_cert.as_ref().map(Spanned::span)),
                ("server_name", upstream.server_name.as_ref().map(Spanned::span)),
            ] {
                if let Some(span) = span {
                    findings.error(
                        span,
                        format!("`{key}` has no use with tls = \"disable\"; remove one of them"),
                    );
                }
            }
            if let (Some(tls), false) = (&upstream.tls, stays_on_host(table, upstream)) {
                findings.warning(
                    tls.span(),
                    format!("{exposed}; use \"verify-full\" unless the server is on this host"),
                );
            }
        }
        Some(UpstreamTls::VerifyCa) => {
            if let Some(name) = &upstream.server_name {
                findings
                    .warning(name.span(), "verify-ca does not look at the name; use tls = \"verify-full\"");
            }
        }
        Some(UpstreamTls::VerifyFull) | None => {}
    }
}

/// Every address that may be dialled is a loopback address.
fn stays_on_host(table: &ConnectionTable, upstream: &UpstreamTable) -> bool {
    if let Some(address) = &upstream.address {
        let host = address.get_ref().0.rsplit_once(':').map_or("", |(host, _)| host);
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        return host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback());
    }
    items(table.to.as_ref()).all(|to| match to {
        Destination::Host { name, .. } => name == "localhost",
        Destination::Network { address: IpAddr::V4(address), prefix, .. } => {
            address.is_loopback() && *prefix >= 8
        }
        Destination::Network { address: IpAddr::V6(address), prefix, .. } => {
            address.is_loopback() && *prefix == 128
        }
    })
}

fn guard(table: &GuardTable, connections: &[&ConnectionTable], tags: &[String], findings: &mut Findings<'_>) {
    if let Some(on) = opaque(table.on.as_ref()) {
        findings.error(
            on,
            "guards judge operations, and an opaque connection has none; use on = \"postgres\", \"http\" or \"ssh\"",
        );
    }
    known_connections(table.connections.as_ref(), connections, findings);
    http::guard(table, findings);
    limits::guard(table, findings);
    let postgres = table.on.as_ref().is_some_and(|on| *on.get_ref() == Protocol::Postgres);
    for glob in table.kind.iter().filter(|_| postgres).flat_map(|list| list.get_ref().0.iter()) {
        let matcher = &glob.get_ref().0;
        if !tags.iter().any(|tag| matcher.is_match(tag)) {
            let written = matcher.glob().glob();
            let guess = did_you_mean(written, tags.iter().map(String::as_str));
            findings.warning(glob.span(), format!("{} is no PostgreSQL command tag{guess}", quoted(written)));
        }
    }
    if let Some(act) = table.action.as_ref().map(|act| *act.get_ref()) {
        guard_terms(table, act, findings);
        quorum_can_be_met(table, findings);
        if let Some(acr) = table.acr.as_ref().filter(|acr| acr.get_ref().0.len() > ACR_MAX) {
            findings.error(acr.span(), format!("too many means; name at most {ACR_MAX}"));
        }
    }
}

/// Enough approvers for as many approvals from distinct ones.
fn quorum_can_be_met(table: &GuardTable, findings: &mut Findings<'_>) {
    let Some(distinct) = table.distinct_groups.as_ref().filter(|distinct| *distinct.get_ref()) else {
        return;
    };
    let quorum = table.quorum.as_ref().map_or(1, |quorum| quorum.get_ref().0);
    let approvers = table.approvers.iter().flat_map(|approvers| approvers.get_ref().0.iter());
    let named = approvers.map(|name| name.get_ref().0.as_str()).collect::<BTreeSet<_>>().len();
    if quorum < 2 {
        findings
            .error(distinct.span(), "one approval is for one group; write `quorum` as well, or remove this");
    } else if named < usize::try_from(quorum).unwrap_or(usize::MAX) {
        findings.error(
            distinct.span(),
            format!("{quorum} approvals for distinct ones of {named} `approvers` cannot be had"),
        );
    }
}

/// `hint` belongs to deny, and who decides and how long to hold.
fn guard_terms(table: &GuardTable, act: Act, findings: &mut Findings<'_>) {
    let terms = [
        ("hint", "deny", act == Act::Deny, table.hint.as_ref().map(Spanned::span)),
        ("approvers", "hold", act == Act::Hold, table.approvers.as_ref().map(Spanned::span)),
        ("hold", "hold", act == Act::Hold, table.hold.as_ref().map(Spanned::span)),
        ("in_transaction", "hold", act == Act::Hold, table.in_transaction.as_ref().map(Spanned::span)),
        ("inline", "hold", act == Act::Hold, table.inline.as_ref().map(Spanned::span)),
        ("quorum", "hold", act == Act::Hold, table.quorum.as_ref().map(Spanned::span)),
        ("distinct_groups", "hold", act == Act::Hold, table.distinct_groups.as_ref().map(Spanned::span)),
        ("break_glass", "hold", act == Act::Hold, table.break_glass.as_ref().map(Spanned::span)),
        ("chat", "hold", act == Act::Hold, table.chat.as_ref().map(Spanned::span)),
        ("step_up", "hold", act == Act::Hold, table.step_up.as_ref().map(Spanned::span)),
        ("acr", "hold", act == Act::Hold, table.acr.as_ref().map(Spanned::span)),
    ];
    for (key, action, fits, span) in terms {
        if let (false, Some(span)) = (fits, span) {
            findings.error(
                span,
                format!("`{key}` is for action = \"{action}\"; change the action or remove the key"),
            );
        }
    }
}

fn mask(table: &MaskTable, connections: &[&ConnectionTable], findings: &mut Findings<'_>) {
    const FINDERS: [&str; 5] = ["columns", "detect", "json", "headers", "form"];
    let named = FINDERS.iter().filter(|key| table.written().iter().any(|written| written == *key)).count();
    if named > 1 {
        findings.error(
            table.span(),
            "a mask names one of `columns`, `detect`, `json`, `headers` and `form`; write several masks, so that each \
             is one rule in the record",
        );
    } else if named == 0 {
        findings.error(
            table.span(),
            "this mask finds nothing; give it `columns`, `detect`, `json`, `headers` or `form`",
        );
    }
    http::mask(table, findings);
    if let (Some(predicates), None) = (&table.predicates, &table.columns) {
        findings.error(
            predicates.span(),
            "`predicates` is for masks with `columns`: of a value that a detector finds nobody knows beforehand where it stands",
        );
    }
    if let Some(on) = opaque(table.on.as_ref()) {
        findings.error(on, "what an opaque connection carries is not read, so nothing in it can be masked");
    }
    known_connections(table.connections.as_ref(), connections, findings);
}

fn opaque(on: Option<&Spanned<Protocol>>) -> Option<Range<usize>> {
    on.filter(|on| *on.get_ref() == Protocol::Opaque).map(Spanned::span)
}

/// Names of connections must exist and be of a protocol whose operations are read.
fn known_connections(
    named: Option<&Spanned<List<Slug>>>,
    connections: &[&ConnectionTable],
    findings: &mut Findings<'_>,
) {
    for name in named.iter().flat_map(|list| list.get_ref().0.iter()) {
        let wanted = &name.get_ref().0;
        let names = || {
            connections.iter().filter_map(|table| table.name.as_ref()).map(|name| name.get_ref().0.as_str())
        };
        let found = connections
            .iter()
            .find(|table| table.name.as_ref().is_some_and(|name| name.get_ref().0 == *wanted));
        match found {
            None => findings.error(
                name.span(),
                format!("no connection is named {}{}", quoted(wanted), did_you_mean(wanted, names())),
            ),
            Some(table) if opaque(table.protocol.as_ref()).is_some() => findings.error(
                name.span(),
                format!(
                    "connection {} is opaque: nothing on it is read, so no rule can match",
                    quoted(wanted)
                ),
            ),
            Some(_) => {}
        }
    }
}

fn defaults(table: &DefaultsTable, findings: &mut Findings<'_>) {
    if let Some(unknown) = table.unknown.as_ref().filter(|act| *act.get_ref() == Act::Allow) {
        findings.warning(
            unknown.span(),
            "this forwards what could not be understood, DO blocks and unreadable statements included",
        );
    }
    let rank = |act: Act| match act {
        Act::Allow => 0,
        Act::Hold => 1,
        Act::Deny => 2,
    };
    let mut strictest: Option<(Effect, Act)> = None;
    for (_, effect) in Effect::ALL {
        let act = default_act(Some(table), *effect);
        match strictest {
            Some((milder, earlier))
                if rank(act) < rank(earlier) && table.written().contains(&effect.to_string()) =>
            {
                findings.warning(
                    table.span(),
                    format!("`{effect}` is treated more mildly than `{milder}`, which reaches less far"),
                );
            }
            Some((_, earlier)) if rank(act) <= rank(earlier) => {}
            Some(_) | None => strictest = Some((*effect, act)),
        }
    }
}

fn record(table: &RecordTable, findings: &mut Findings<'_>) {
    let Some(durable) = &table.durable else {
        return;
    };
    let left_out: Vec<&str> = Effect::ALL
        .iter()
        .filter(|(_, effect)| *effect != Effect::Read)
        .filter(|(_, effect)| !durable.get_ref().0.iter().any(|listed| listed.get_ref() == effect))
        .map(|(word, _)| *word)
        .collect();
    if !left_out.is_empty() {
        findings.warning(
            durable.span(),
            format!("a power cut may lose the record of operations with the effect {}", left_out.join(", ")),
        );
    }
}
