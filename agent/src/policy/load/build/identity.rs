//! `[identity]`, put together.

use toml::Spanned;

use super::{list, value};
use crate::policy::load::shape::IdentityTable;
use crate::policy::load::value::OneOrMore;
use crate::policy::rule::{Algorithm, IssuerRules, LEEWAY_DEFAULT, OnExpiry};

/// The issuers; `None` when a required key is missing.
pub(super) fn issuers(field: Option<Spanned<OneOrMore<IdentityTable>>>) -> Option<Vec<IssuerRules>> {
    let tables = field.map(|tables| tables.into_inner().0).unwrap_or_default();
    tables.into_iter().map(|table| issuer(table.into_inner())).collect()
}

fn issuer(table: IdentityTable) -> Option<IssuerRules> {
    let algorithms = list(table.algorithms, |algorithm| algorithm);
    Some(IssuerRules {
        issuer: value(table.issuer)?.0,
        audience: value(table.audience)?.0,
        trusted_audiences: list(table.trusted_audiences, |audience| audience.0),
        authorized_parties: list(table.authorized_parties, |party| party.0),
        groups_claim: value(table.groups_claim),
        name_claim: value(table.name_claim),
        claims: value(table.claims).unwrap_or_default(),
        algorithms: if algorithms.is_empty() { Algorithm::DEFAULT.to_vec() } else { algorithms },
        leeway: value(table.leeway).map_or(LEEWAY_DEFAULT, |leeway| leeway.0),
        keys_url: value(table.keys_url).map(|url| url.0),
        root_cert: value(table.root_cert).map(|path| path.0),
        on_expiry: value(table.on_expiry).unwrap_or(OnExpiry::Finish),
        in_band: value(table.in_band).unwrap_or(false),
    })
}
