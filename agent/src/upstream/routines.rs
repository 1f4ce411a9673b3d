//! Reads from a server's catalogue what calls and views do beyond their names: functions, operators, and what the
//! definitions of views and row policies call.

use super::catalog::{BEGIN, COMMIT, SETTINGS, number, strange, text, too_large};
use super::error::UpstreamError;
use super::query::{Client, Row, Statement};
use crate::request::sql::catalogue::{Catalogue, Contents, Operator, Routine, Source, Volatility};

/// Functions read; a database with more is refused rather than known in part.
const ROUTINES_MAX: usize = 200_000;
/// Operators read.
const OPERATORS_MAX: usize = 100_000;
/// Views, and tables with row policies, read.
const SOURCES_MAX: usize = 200_000;
/// Calls in their definitions, and relations that these read.
const CALLS_MAX: usize = 2_000_000;

/// Users' functions, and of PostgreSQL's own those that do more than compute (as `OPAQUE` of `catalog` has them) or stand
/// behind a user's operator. An aggregate always says that it is immutable, so the functions it is made of are asked. As
/// letters, the volatilities are in the order of how far they reach.
const ROUTINES: &str = "SELECT p.oid, n.nspname, p.proname, \
     CASE p.prokind WHEN 'a' THEN (SELECT pg_catalog.max(f.provolatile::text) \
     FROM pg_catalog.pg_aggregate a JOIN pg_catalog.pg_proc f ON f.oid IN (a.aggtransfn::pg_catalog.oid, \
     a.aggfinalfn::pg_catalog.oid, a.aggcombinefn::pg_catalog.oid, a.aggserialfn::pg_catalog.oid, \
     a.aggdeserialfn::pg_catalog.oid, a.aggmtransfn::pg_catalog.oid, a.aggminvtransfn::pg_catalog.oid, \
     a.aggmfinalfn::pg_catalog.oid) WHERE a.aggfnoid = p.oid) ELSE p.provolatile::text END, \
     l.lanname IN ('c', 'internal'), e.extname, p.prokind = 'p', COALESCE(t.typtype IN ('c', 'p'), false) \
     FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
     JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
     LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid \
     AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' \
     LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid \
     LEFT JOIN pg_catalog.pg_type t ON t.oid = p.proargtypes[0] \
     WHERE p.oid >= 16384 OR p.provolatile = 'v' OR p.proname LIKE '%\\_to\\_xml%' OR p.oid IN \
     (SELECT o.oprcode FROM pg_catalog.pg_operator o WHERE o.oid >= 16384)";

const OPERATORS: &str = "SELECT n.nspname, o.oprname, o.oprcode::pg_catalog.oid \
     FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE o.oid >= 16384";

const SOURCES: &str = "SELECT c.oid, n.nspname, c.relname, c.relkind = 'm' \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.oid IN (SELECT r.ev_class FROM pg_catalog.pg_rewrite r WHERE r.ev_type = '1' AND r.ev_class >= 16384 \
     UNION SELECT polrelid FROM pg_catalog.pg_policy)";

/// What definitions call, of the functions that count: by the OIDs that stored trees name
/// (`src/backend/nodes/outfuncs.c`). `pg_depend` knows users' functions only. Policies count also where row security is
/// off: switching it on changes none of them.
const CALLS: &str = "WITH definition(relation, tree) AS ( \
     SELECT r.ev_class, r.ev_action::text FROM pg_catalog.pg_rewrite r WHERE r.ev_type = '1' AND r.ev_class >= 16384 \
     UNION ALL SELECT polrelid, polqual::text FROM pg_catalog.pg_policy WHERE polqual IS NOT NULL \
     UNION ALL SELECT polrelid, polwithcheck::text FROM pg_catalog.pg_policy WHERE polwithcheck IS NOT NULL) \
     SELECT DISTINCT definition.relation, p.oid FROM definition \
     CROSS JOIN LATERAL pg_catalog.regexp_matches(definition.tree, \
     ':(?:funcid|opfuncid|aggfnoid|winfnoid|tsmhandler) (\\d+)', 'g') AS call(oid) \
     JOIN pg_catalog.pg_proc p ON p.oid = call.oid[1]::pg_catalog.oid \
     WHERE p.oid >= 16384 OR p.provolatile = 'v' OR p.proname LIKE '%\\_to\\_xml%'";

/// Which relations definitions read.
const READS: &str = "SELECT DISTINCT r.ev_class, d.refobjid \
     FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d \
     ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid \
     AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> r.ev_class \
     WHERE r.ev_type = '1' AND r.ev_class >= 16384 AND d.refobjid >= 16384 \
     UNION SELECT p.polrelid, d.refobjid FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_depend d \
     ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid \
     AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> p.polrelid";

/// Reads it. On an error the connection is in the middle of a transaction and must be closed.
///
/// # Errors
/// The server cannot be asked, or the database is larger than the limits.
pub(super) async fn load(client: &mut Client) -> Result<Catalogue, UpstreamError> {
    let mut read = Contents::default();
    client.run(&[Statement::plain(BEGIN)], |_row| Ok(())).await?;
    client.run(&[Statement::plain(SETTINGS)], |_row| Ok(())).await?;
    client
        .run(&[Statement::plain(ROUTINES)], |row| {
            keep(&mut read.routines, routine(&row), "pg_proc", ROUTINES_MAX, "functions")
        })
        .await?;
    client
        .run(&[Statement::plain(OPERATORS)], |row| {
            keep(&mut read.operators, operator(&row), "pg_operator", OPERATORS_MAX, "operators")
        })
        .await?;
    client
        .run(&[Statement::plain(SOURCES)], |row| {
            keep(&mut read.sources, source(&row), "pg_class", SOURCES_MAX, "views")
        })
        .await?;
    client
        .run(&[Statement::plain(CALLS)], |row| {
            keep(&mut read.calls, pair(&row), "pg_rewrite", CALLS_MAX, "calls in views")
        })
        .await?;
    client
        .run(&[Statement::plain(READS)], |row| {
            keep(&mut read.reads, pair(&row), "pg_depend", CALLS_MAX, "dependencies of views")
        })
        .await?;
    client.run(&[Statement::plain(COMMIT)], |_row| Ok(())).await?;
    Ok(Catalogue::new(read))
}

fn keep<T>(
    kept: &mut Vec<T>,
    row: Option<T>,
    catalog: &str,
    most: usize,
    what: &str,
) -> Result<(), UpstreamError> {
    if kept.len() == most {
        return Err(too_large(what));
    }
    kept.push(row.ok_or_else(|| strange(catalog))?);
    Ok(())
}

fn routine(row: &Row) -> Option<Routine> {
    Some(Routine {
        oid: number(row, 0)?,
        schema: text(row, 1)?,
        name: text(row, 2)?,
        // An aggregate without functions, or a letter of a later version, may do anything.
        volatility: match text(row, 3).as_deref() {
            Some("i") => Volatility::Immutable,
            Some("s") => Volatility::Stable,
            Some(_) | None => Volatility::Volatile,
        },
        native: truth(row, 4)?,
        extension: text(row, 5),
        procedure: truth(row, 6)?,
        takes_row: truth(row, 7)?,
    })
}

fn operator(row: &Row) -> Option<Operator> {
    Some(Operator { schema: text(row, 0)?, name: text(row, 1)?, routine: number(row, 2)? })
}

fn source(row: &Row) -> Option<Source> {
    Some(Source {
        oid: number(row, 0)?,
        schema: text(row, 1)?,
        name: text(row, 2)?,
        materialized: truth(row, 3)?,
    })
}

fn pair(row: &Row) -> Option<(u32, u32)> {
    Some((number(row, 0)?, number(row, 1)?))
}

/// A boolean in text form.
pub(super) fn truth(row: &Row, index: usize) -> Option<bool> {
    match text(row, index)?.as_str() {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    }
}
