//! Reads from a server's catalogue what masking needs: relations, columns, inheritance, and what views are made of.

use std::collections::HashMap;

use bytes::Bytes;

use super::error::UpstreamError;
use super::query::{Client, Field, Row, Statement};
use crate::mask::catalog::{Column, Relation, RelationKind, ViewOutput};

/// Relations read; a database with more is refused rather than masked in part.
pub const RELATIONS_MAX: usize = 200_000;
/// Columns read, of all relations together.
pub const COLUMNS_MAX: usize = 2_000_000;
/// Dependencies of views read.
const READS_MAX: usize = 2_000_000;
/// Views whose outputs are traced; the outputs of further ones count as computed.
pub const VIEWS_MAX: usize = 10_000;
/// Views described in one go. Their answers must fit the sockets' buffers, since we write before we read.
const DESCRIBE_BATCH: usize = 16;
/// Longest view definition worth describing, in bytes.
const DEFINITION_BYTES_MAX: usize = 64 * 1024;

/// What a view reads when it calls a function that could read anything: a relation that no catalogue holds.
pub const UNKNOWN_READ: (u32, i16) = (0, 0);

/// One snapshot for all queries, read-only, bounded; names in view definitions come out qualified.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
pub(super) const SETTINGS: &str = "SELECT pg_catalog.set_config('statement_timeout', '10000', true), \
     pg_catalog.set_config('lock_timeout', '1000', true), pg_catalog.set_config('search_path', '', true)";
pub(super) const COMMIT: &str = "COMMIT";

const RELATIONS: &str = "SELECT c.oid, n.nspname, c.relname, c.relkind \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname <> 'pg_toast'";

const COLUMNS: &str = "SELECT a.attrelid, a.attnum, a.attname, a.atttypid \
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND a.attnum > 0 AND NOT a.attisdropped \
     ORDER BY a.attrelid, a.attnum";

const PARENTS: &str = "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits";

/// What generated columns are made of. `pg_depend` tells it in other ways from version to version; the stored expression
/// names its columns in all of them. It cannot name a whole row, and a mere default names no column at all.
const GENERATED: &str = "SELECT DISTINCT d.adrelid, d.adnum, var.attnum[1] \
     FROM pg_catalog.pg_attrdef d \
     CROSS JOIN LATERAL pg_catalog.regexp_matches(d.adbin::text, ':varattno (\\d+) ', 'g') AS var(attnum)";

/// What each view depends on. PostgreSQL records a whole-row reference (attribute 0 in the rule's tree) only where no
/// column of the relation is named as well, so the tree itself is asked too.
const READS: &str = "SELECT DISTINCT r.ev_class, d.refobjid, \
     CASE WHEN r.ev_action::text LIKE '%:varattno 0 %' THEN 0 ELSE d.refobjsubid END \
     FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d \
     ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid \
     AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> r.ev_class \
     WHERE r.ev_type = '1'";

/// Views of users (OIDs from 16384, `FirstNormalObjectId`) that call what could read more than their dependencies
/// say: functions that are not PostgreSQL's own, volatile ones, and those that take a query or a table as text.
const OPAQUE: &str = "SELECT DISTINCT r.ev_class FROM pg_catalog.pg_rewrite r \
     CROSS JOIN LATERAL pg_catalog.regexp_matches(r.ev_action::text, \
     ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\\d+)', 'g') AS call(oid) \
     JOIN pg_catalog.pg_proc p ON p.oid = call.oid[1]::pg_catalog.oid \
     WHERE r.ev_type = '1' AND r.ev_class >= 16384 \
     AND (p.oid >= 16384 OR p.provolatile = 'v' OR p.proname LIKE '%\\_to\\_xml%')";

const DEFINITIONS: &str = "SELECT c.oid, pg_catalog.pg_get_viewdef(c.oid) FROM pg_catalog.pg_class c \
     WHERE c.relkind IN ('v', 'm') ORDER BY c.oid DESC LIMIT $1::pg_catalog.int4";

/// Reads the catalogue. On an error the connection is in the middle of a transaction and must be closed.
///
/// # Errors
/// The server cannot be asked, or the database is larger than the limits.
pub(super) async fn load(client: &mut Client) -> Result<Vec<Relation>, UpstreamError> {
    let mut catalog = Building::default();
    client.run(&[Statement::plain(BEGIN)], |_row| Ok(())).await?;
    client.run(&[Statement::plain(SETTINGS)], |_row| Ok(())).await?;
    client.run(&[Statement::plain(RELATIONS)], |row| catalog.relation(&row)).await?;
    client.run(&[Statement::plain(COLUMNS)], |row| catalog.column(&row)).await?;
    client.run(&[Statement::plain(PARENTS)], |row| catalog.parent(&row)).await?;
    client.run(&[Statement::plain(GENERATED)], |row| catalog.generated(&row)).await?;
    client.run(&[Statement::plain(READS)], |row| catalog.read(&row)).await?;
    client.run(&[Statement::plain(OPAQUE)], |row| catalog.opaque(&row)).await?;
    let mut definitions = Vec::new();
    let limit = VIEWS_MAX.to_string();
    let limit = [Some(limit.as_bytes())];
    client
        .run(&[Statement::with(DEFINITIONS, &limit)], |row| {
            if let (Some(oid), Some(text)) = (number(&row, 0), text(&row, 1))
                && text.len() <= DEFINITION_BYTES_MAX
            {
                definitions.push((oid, text));
            }
            Ok(())
        })
        .await?;
    client.run(&[Statement::plain(COMMIT)], |_row| Ok(())).await?;
    // Outside the snapshot: an error inside would end the transaction for all that follow. A view that changed in
    // between shows in the number of its columns or, at the latest, in the next reading.
    for batch in definitions.chunks(DESCRIBE_BATCH) {
        let texts: Vec<&str> = batch.iter().map(|(_, text)| text.as_str()).collect();
        let described = client.describe(&Statement::plain(SETTINGS), &texts).await?;
        for ((oid, _), fields) in batch.iter().zip(described) {
            catalog.outputs(*oid, fields.as_deref());
        }
    }
    Ok(catalog.finish())
}

#[derive(Default)]
struct Building {
    relations: Vec<Relation>,
    by_oid: HashMap<u32, usize>,
    columns: usize,
    reads: usize,
}

impl Building {
    fn relation(&mut self, row: &Row) -> Result<(), UpstreamError> {
        let (Some(oid), Some(schema), Some(name), Some(kind)) =
            (number(row, 0), text(row, 1), text(row, 2), text(row, 3))
        else {
            return Err(strange("pg_class"));
        };
        if self.relations.len() == RELATIONS_MAX {
            return Err(too_large("relations"));
        }
        self.by_oid.insert(oid, self.relations.len());
        self.relations.push(Relation {
            oid,
            schema,
            name,
            kind: match kind.as_str() {
                "f" => RelationKind::ForeignTable,
                "m" => RelationKind::MaterializedView,
                "p" => RelationKind::PartitionedTable,
                "r" => RelationKind::Table,
                "v" => RelationKind::View,
                _ => RelationKind::Other,
            },
            columns: Vec::new(),
            parents: Vec::new(),
            generated: Vec::new(),
            view_outputs: Vec::new(),
            view_reads: Vec::new(),
        });
        Ok(())
    }

    /// A row about a relation that is not kept (an index, a TOAST table) finds none.
    fn get_mut(&mut self, oid: u32) -> Option<&mut Relation> {
        let index = *self.by_oid.get(&oid)?;
        self.relations.get_mut(index)
    }

    fn column(&mut self, row: &Row) -> Result<(), UpstreamError> {
        let (Some(relation), Some(attnum), Some(name), Some(type_oid)) =
            (number(row, 0), number(row, 1), text(row, 2), number(row, 3))
        else {
            return Err(strange("pg_attribute"));
        };
        self.columns = self.columns.saturating_add(1);
        if self.columns > COLUMNS_MAX {
            return Err(too_large("columns"));
        }
        if let Some(relation) = self.get_mut(relation) {
            relation.columns.push(Column { attnum, name, type_oid });
        }
        Ok(())
    }

    fn parent(&mut self, row: &Row) -> Result<(), UpstreamError> {
        let (Some(child), Some(parent)) = (number(row, 0), number(row, 1)) else {
            return Err(strange("pg_inherits"));
        };
        if let Some(child) = self.get_mut(child) {
            child.parents.push(parent);
        }
        Ok(())
    }

    fn generated(&mut self, row: &Row) -> Result<(), UpstreamError> {
        let (Some(relation), Some(column), Some(read)) = (number(row, 0), number(row, 1), number(row, 2))
        else {
            return Err(strange("pg_attrdef"));
        };
        if let Some(relation) = self.get_mut(relation) {
            relation.generated.push((column, read));
        }
        Ok(())
    }

    fn read(&mut self, row: &Row) -> Result<(), UpstreamError> {
        let (Some(view), Some(relation), Some(attnum)) = (number(row, 0), number(row, 1), number(row, 2))
        else {
            return Err(strange("pg_depend"));
        };
        self.reads = self.reads.saturating_add(1);
        if self.reads > READS_MAX {
            return Err(too_large("dependencies of views"));
        }
        if let Some(view) = self.get_mut(view) {
            view.view_reads.push((relation, attnum));
        }
        Ok(())
    }

    fn opaque(&mut self, row: &Row) -> Result<(), UpstreamError> {
        let view = number(row, 0).ok_or_else(|| strange("pg_rewrite"))?;
        if let Some(view) = self.get_mut(view) {
            view.view_reads.push(UNKNOWN_READ);
        }
        Ok(())
    }

    /// The server's own word on where each output of a view comes from. A view's columns are its outputs, in order:
    /// they cannot be dropped, and new ones are added at the end.
    fn outputs(&mut self, view: u32, described: Option<&[Field]>) {
        let Some(view) = self.get_mut(view) else { return };
        let fields = described.filter(|fields| fields.len() == view.columns.len()).unwrap_or_default();
        let origins = fields.iter().map(origin).chain(std::iter::repeat(None));
        view.view_outputs = view
            .columns
            .iter()
            .zip(origins)
            .map(|(column, origin)| ViewOutput { attnum: column.attnum, origin })
            .collect();
    }

    /// Every view ends with an entry for each of its columns.
    fn finish(mut self) -> Vec<Relation> {
        for relation in &mut self.relations {
            let is_view = matches!(relation.kind, RelationKind::View | RelationKind::MaterializedView);
            if is_view && relation.view_outputs.is_empty() {
                let computed = |column: &Column| ViewOutput { attnum: column.attnum, origin: None };
                relation.view_outputs = relation.columns.iter().map(computed).collect();
            }
        }
        self.relations
    }
}

/// A whole row (attribute 0) is made of many columns, and a system column of none: neither shows one unchanged.
fn origin(field: &Field) -> Option<(u32, i16)> {
    (field.table != 0 && field.attnum > 0).then_some((field.table, field.attnum))
}

fn cell(row: &Row, index: usize) -> Option<&Bytes> {
    row.get(index)?.as_ref()
}

pub(super) fn text(row: &Row, index: usize) -> Option<String> {
    String::from_utf8(cell(row, index)?.to_vec()).ok()
}

pub(super) fn number<N: std::str::FromStr>(row: &Row, index: usize) -> Option<N> {
    std::str::from_utf8(cell(row, index)?).ok()?.parse().ok()
}

pub(super) fn strange(catalog: &str) -> UpstreamError {
    UpstreamError::protocol(format!("{catalog} holds what no PostgreSQL server has there"))
}

pub(super) fn too_large(what: &str) -> UpstreamError {
    UpstreamError::protocol(format!("a catalogue with more {what} than Portcullis takes in"))
}
