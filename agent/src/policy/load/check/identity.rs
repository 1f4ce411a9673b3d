//! `[identity]` and what depends on it.

use std::ops::Range;

use toml::Spanned;

use super::items;
use crate::policy::load::shape::{FileTable, IdentityTable};
use crate::policy::load::table::Findings;
use crate::policy::load::value::LoginMethod;

/// Claims need a token, and an issuer is named once.
pub(super) fn file(file: &FileTable, findings: &mut Findings<'_>) {
    let issuers: Vec<&IdentityTable> =
        file.identity.iter().flat_map(|tables| tables.get_ref().0.iter().map(Spanned::get_ref)).collect();
    for (index, table) in issuers.iter().enumerate() {
        let Some(issuer) = &table.issuer else { continue };
        let same = |other: &&&IdentityTable| {
            other.issuer.as_ref().is_some_and(|other| other.get_ref().0 == issuer.get_ref().0)
        };
        if issuers.iter().take(index).any(|other| same(&other)) {
            findings.error(
                issuer.span(),
                "this issuer has a table already; its tokens could be read in two ways",
            );
        }
        if table.claims.is_none()
            && table.groups_claim.is_none()
            && anyone_can_have_a_token(&issuer.get_ref().0)
        {
            findings.error(
                issuer.span(),
                "anyone with an account there can get such a token; say whose count, for example \
                 claims = { repository_owner = \"acme\" }",
            );
        }
    }
    if issuers.iter().any(|table| table.in_band.as_ref().is_some_and(|in_band| *in_band.get_ref())) {
        for span in passed_through(file) {
            findings.error(
                span,
                "with in_band in [identity] the client's password is its token, which no server may get",
            );
        }
    }
    if issuers.is_empty() {
        for span in conditions(file) {
            findings.error(span, "claims are a token's; name its issuer in [identity]");
        }
    }
}

/// Issuers that serve the whole world.
fn anyone_can_have_a_token(issuer: &str) -> bool {
    matches!(
        issuer.trim_end_matches('/'),
        "https://token.actions.githubusercontent.com" | "https://gitlab.com" | "https://accounts.google.com"
    )
}

/// Where a client's password is passed on.
fn passed_through(file: &FileTable) -> impl Iterator<Item = Range<usize>> {
    let upstreams = items(file.connection.as_ref()).filter_map(|table| table.upstream.as_ref());
    let auths = upstreams.filter_map(|upstream| upstream.get_ref().auth.as_ref());
    auths.filter(|auth| *auth.get_ref() == LoginMethod::PassThrough).map(Spanned::span)
}

/// Where claims are asked for outside of `[identity]`.
fn conditions(file: &FileTable) -> impl Iterator<Item = Range<usize>> {
    let connections = items(file.connection.as_ref()).filter_map(|table| table.claims.as_ref());
    let guards = items(file.guard.as_ref()).filter_map(|table| table.claims.as_ref());
    connections.chain(guards).map(Spanned::span)
}
