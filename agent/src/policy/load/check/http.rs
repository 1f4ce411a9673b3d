//! What only HTTP connections, guards and masks may say, and what they may not.

use std::ops::Range;

use toml::Spanned;

use super::{opaque_upstream, tls_terms};
use crate::policy::load::shape::{ConnectionTable, GuardTable, MaskTable, UpstreamTable};
use crate::policy::load::table::{Findings, Table};
use crate::policy::rule::{ClientTls, Injection, MaskDirection, Protocol, UpstreamTls};

/// A key of `upstream` that names something only HTTP has.
pub(super) fn only_for_http(upstream: &UpstreamTable, findings: &mut Findings<'_>) {
    if let Some(inject) = &upstream.inject {
        findings.error(inject.span(), "`inject` is for protocol = \"http\"");
    }
}

/// How the daemon speaks to an HTTP server.
pub(super) fn upstream(table: &ConnectionTable, upstream: &UpstreamTable, findings: &mut Findings<'_>) {
    let client_tls = table.tls.as_ref().map_or(ClientTls::Intercept, |tls| *tls.get_ref());
    match client_tls {
        ClientTls::Passthrough => return opaque_upstream(upstream, findings),
        ClientTls::Intercept | ClientTls::Plain => {}
    }
    if let Some(database) = &upstream.database {
        findings.error(database.span(), "HTTP has no databases; remove `database`");
    }
    if let Some(settings) = &upstream.settings {
        findings.error(settings.span(), "`settings` are a PostgreSQL session's");
    }
    credential(upstream, findings);
    tls_terms(table, upstream, "requests and the credential cross the network in clear", findings);
    let upstream_tls = upstream.tls.as_ref().map(|tls| *tls.get_ref());
    if client_tls == ClientTls::Intercept && upstream_tls == Some(UpstreamTls::Disable) {
        findings.warning(
            upstream.span(),
            "the agent speaks TLS here and the server does not: the agent believes itself safer than it is",
        );
    }
    if let (Some(name), true) = (&upstream.client_cert, encrypts_nothing(client_tls, upstream_tls)) {
        findings.error(name.span(), "a client certificate needs TLS towards the server");
    }
}

fn encrypts_nothing(client: ClientTls, upstream: Option<UpstreamTls>) -> bool {
    match (client, upstream) {
        (_, Some(UpstreamTls::Disable)) | (ClientTls::Plain, None) => true,
        (_, Some(UpstreamTls::VerifyCa | UpstreamTls::VerifyFull))
        | (ClientTls::Intercept | ClientTls::Passthrough, None) => false,
    }
}

/// A credential and its place go together.
fn credential(upstream: &UpstreamTable, findings: &mut Findings<'_>) {
    match (&upstream.credential, &upstream.inject) {
        (Some(credential), None) => findings.error(
            credential.span(),
            "say where in a request the credential goes: inject = \"bearer\", \"basic\", \"header NAME\", \"query NAME\" \
             or \"sigv4\"",
        ),
        (None, Some(inject)) => {
            findings.error(inject.span(), "there is nothing to inject; name a `credential`");
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let basic = upstream.inject.as_ref().is_some_and(|inject| *inject.get_ref() == Injection::Basic);
    if let (Some(user), false) = (&upstream.user, basic) {
        findings.error(user.span(), "`user` is for inject = \"basic\"");
    }
}

/// Conditions that the guard's protocol does not have.
pub(super) fn guard(table: &GuardTable, findings: &mut Findings<'_>) {
    let Some(on) = table.on.as_ref().map(|on| *on.get_ref()) else { return };
    let http: [(&str, Option<Range<usize>>); 8] = [
        ("hosts", table.hosts.as_ref().map(Spanned::span)),
        ("methods", table.methods.as_ref().map(Spanned::span)),
        ("paths", table.paths.as_ref().map(Spanned::span)),
        ("query", table.query.as_ref().map(Spanned::span)),
        ("headers", table.headers.as_ref().map(Spanned::span)),
        ("json", table.json.as_ref().map(Spanned::span)),
        ("graphql", table.graphql.as_ref().map(Spanned::span)),
        ("grpc", table.grpc.as_ref().map(Spanned::span)),
    ];
    let postgres: [(&str, Option<Range<usize>>); 11] = [
        ("objects", table.objects.as_ref().map(Spanned::span)),
        ("writes", table.writes.as_ref().map(Spanned::span)),
        ("functions", table.functions.as_ref().map(Spanned::span)),
        ("databases", table.databases.as_ref().map(Spanned::span)),
        ("unbounded", table.unbounded.as_ref().map(Spanned::span)),
        ("estimated_rows", table.estimated_rows.as_ref().map(Spanned::span)),
        ("in_transaction", table.in_transaction.as_ref().map(Spanned::span)),
        ("columns", table.columns.as_ref().map(Spanned::span)),
        ("over", table.over.as_ref().map(Spanned::span)),
        ("max_rows", table.max_rows.as_ref().map(Spanned::span)),
        ("timeout", table.timeout.as_ref().map(Spanned::span)),
    ];
    let ssh = super::ssh::conditions(table);
    let foreign: [(&[_], &str); 2] = match on {
        Protocol::Http => [(&postgres, "postgres"), (&ssh, "ssh")],
        Protocol::Postgres => [(&http, "http"), (&ssh, "ssh")],
        Protocol::Ssh => [(&http, "http"), (&postgres, "postgres")],
        // Said already: nothing on an opaque connection can be judged. And no guard can be on DNS.
        Protocol::Opaque | Protocol::Dns => return,
    };
    for (keys, other) in foreign {
        for (key, span) in keys {
            if let Some(span) = span {
                findings.error(span.clone(), format!("`{key}` is for on = \"{other}\""));
            }
        }
    }
}

/// What a mask finds must be in the protocol it is for, and go the way it says.
pub(super) fn mask(table: &MaskTable, findings: &mut Findings<'_>) {
    let on = table.on.as_ref().map(|on| *on.get_ref());
    let http_only = [
        ("json", table.json.as_ref().map(Spanned::span)),
        ("headers", table.headers.as_ref().map(Spanned::span)),
        ("form", table.form.as_ref().map(Spanned::span)),
    ];
    for (key, span) in http_only {
        if let (Some(Protocol::Postgres | Protocol::Ssh), Some(span)) = (on, span) {
            findings.error(span, format!("`{key}` is for on = \"http\""));
        }
    }
    if let (Some(Protocol::Http | Protocol::Ssh), Some(columns)) = (on, &table.columns) {
        findings
            .error(columns.span(), "`columns` is for on = \"postgres\"; places in JSON bodies are `json`");
    }
    if let Some(direction) = &table.direction {
        let request = *direction.get_ref() == MaskDirection::Request;
        if matches!(on, Some(Protocol::Postgres | Protocol::Ssh)) || (request && table.columns.is_some()) {
            findings.error(direction.span(), "`direction` is for on = \"http\"");
        }
    }
}
