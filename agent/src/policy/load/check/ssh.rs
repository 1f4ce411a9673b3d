//! What only SSH connections and guards may say, and what SSH must say.

use std::ops::Range;

use toml::Spanned;

use crate::policy::load::shape::{ConnectionTable, GuardTable, UpstreamTable};
use crate::policy::load::table::{Findings, Table};
use crate::policy::load::value::LoginMethod;
use crate::policy::rule::Protocol;

/// Keys of a connection that name something only SSH has.
pub(super) fn only_for_ssh(table: &ConnectionTable, findings: &mut Findings<'_>) {
    let Some(Protocol::Http | Protocol::Postgres | Protocol::Opaque) =
        table.protocol.as_ref().map(|protocol| *protocol.get_ref())
    else {
        return;
    };
    if let Some(ssh) = &table.ssh {
        findings.error(ssh.span(), "`ssh` is for protocol = \"ssh\"");
    }
    let Some(upstream) = table.upstream.as_ref().map(Spanned::get_ref) else { return };
    let postgres = table.protocol.as_ref().is_some_and(|protocol| *protocol.get_ref() == Protocol::Postgres);
    let own = |method| postgres && method == LoginMethod::PassThrough;
    if let Some(auth) = upstream.auth.as_ref().filter(|auth| !own(*auth.get_ref())) {
        findings
            .error(auth.span(), "`auth` is for protocol = \"ssh\", and \"pass-through\" for \"postgres\"");
    }
    for (key, span) in keys(upstream) {
        if let Some(span) = span {
            findings.error(span, format!("`{key}` is for protocol = \"ssh\""));
        }
    }
}

fn keys(upstream: &UpstreamTable) -> [(&'static str, Option<Range<usize>>); 7] {
    [
        ("certificate", upstream.certificate.as_ref().map(Spanned::span)),
        ("principals", upstream.principals.as_ref().map(Spanned::span)),
        ("validity", upstream.validity.as_ref().map(Spanned::span)),
        ("agent", upstream.agent.as_ref().map(Spanned::span)),
        ("host_keys", upstream.host_keys.as_ref().map(Spanned::span)),
        ("known_hosts", upstream.known_hosts.as_ref().map(Spanned::span)),
        ("host_ca", upstream.host_ca.as_ref().map(Spanned::span)),
    ]
}

/// How the daemon speaks to an SSH server: it must know its host key, and have something to log in with.
pub(super) fn connection(table: &ConnectionTable, findings: &mut Findings<'_>) {
    let Some(upstream) = table.upstream.as_ref().map(Spanned::get_ref) else {
        let span = table.name.as_ref().map_or(table.span(), Spanned::span);
        findings.error(
            span,
            "an SSH connection needs `upstream` with the server's host key and a credential: upstream = { credential = \
             \"deploy-key\", host_keys = [\"ssh-ed25519 AAAA…\"] } (`ssh-keyscan HOST` shows the key)",
        );
        return;
    };
    let foreign = [
        ("database", upstream.database.as_ref().map(Spanned::span)),
        ("settings", upstream.settings.as_ref().map(Spanned::span)),
        ("inject", upstream.inject.as_ref().map(Spanned::span)),
        ("client_cert", upstream.client_cert.as_ref().map(Spanned::span)),
        ("tls", upstream.tls.as_ref().map(Spanned::span)),
        ("root_cert", upstream.root_cert.as_ref().map(Spanned::span)),
        ("server_name", upstream.server_name.as_ref().map(Spanned::span)),
    ];
    for (key, span) in foreign {
        if let Some(span) = span {
            findings.error(span, format!("SSH has no `{key}`; remove it"));
        }
    }
    if upstream.host_keys.is_none() && upstream.host_ca.is_none() && upstream.known_hosts.is_none() {
        findings.error(
            upstream.span(),
            "say which host key the server has: host_keys = [\"ssh-ed25519 AAAA…\"] (`ssh-keyscan HOST` shows it; compare \
             it with the server's own), or known_hosts, or host_ca",
        );
    }
    auth(upstream, findings);
}

/// Each way to log in has what it needs and nothing of the others.
fn auth(upstream: &UpstreamTable, findings: &mut Findings<'_>) {
    let method = upstream.auth.as_ref().map_or(LoginMethod::Key, |auth| *auth.get_ref());
    let own = |key: &str| match method {
        LoginMethod::Key | LoginMethod::Password => key == "credential",
        LoginMethod::Certificate => ["credential", "certificate"].contains(&key),
        LoginMethod::Authority => ["credential", "principals", "validity"].contains(&key),
        LoginMethod::Agent => key == "agent",
        LoginMethod::PassThrough => false,
    };
    if method == LoginMethod::PassThrough {
        let span = upstream.auth.as_ref().map_or(upstream.span(), Spanned::span);
        findings.error(span, "\"pass-through\" is for protocol = \"postgres\"");
        return;
    }
    let written = [
        ("credential", upstream.credential.as_ref().map(Spanned::span)),
        ("certificate", upstream.certificate.as_ref().map(Spanned::span)),
        ("principals", upstream.principals.as_ref().map(Spanned::span)),
        ("validity", upstream.validity.as_ref().map(Spanned::span)),
        ("agent", upstream.agent.as_ref().map(Spanned::span)),
    ];
    let word = match method {
        LoginMethod::Key => "key",
        LoginMethod::Password => "password",
        LoginMethod::Certificate => "certificate",
        LoginMethod::Authority => "ca",
        LoginMethod::Agent => "agent",
        LoginMethod::PassThrough => "pass-through",
    };
    for (key, span) in written {
        let optional = ["principals", "validity"].contains(&key);
        match (own(key), span) {
            (true, None) if !optional => {
                findings.error(upstream.span(), format!("auth = \"{word}\" needs `{key}`"));
            }
            (false, Some(span)) => {
                findings.error(span, format!("`{key}` has no use with auth = \"{word}\""));
            }
            (true, None | Some(_)) | (false, None) => {}
        }
    }
}

/// Conditions that only SSH has.
pub(super) fn conditions(table: &GuardTable) -> [(&'static str, Option<Range<usize>>); 7] {
    [
        ("operation", table.operation.as_ref().map(Spanned::span)),
        ("program", table.program.as_ref().map(Spanned::span)),
        ("command", table.command.as_ref().map(Spanned::span)),
        ("file", table.file.as_ref().map(Spanned::span)),
        ("access", table.access.as_ref().map(Spanned::span)),
        ("target", table.target.as_ref().map(Spanned::span)),
        ("user", table.user.as_ref().map(Spanned::span)),
    ]
}
