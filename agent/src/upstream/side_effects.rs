//! Asks a server's catalogue what writing to relations sets off: triggers, rules, foreign keys that act, and how much there
//! is. Nothing of it runs anything or waits for a lock for long.

use std::collections::{HashMap, HashSet};

use super::catalog::{number, strange, text};
use super::error::UpstreamError;
use super::query::{Client, Row, Statement};
use super::routines::truth;
use crate::request::ObjectName;
use crate::request::side_effects::{Cascade, PARTS_MAX, RELATIONS_MAX, Reached, Rule, SideEffects, Trigger};

/// What is written, as the statement names it.
#[derive(Clone, Debug)]
pub struct Written {
    /// Relations. What is none is passed over.
    pub names: Vec<ObjectName>,
    /// Where names without a schema are looked up; `None`: any schema.
    pub search_path: Option<Vec<String>>,
}

/// Everything that follows in the transaction is read-only and short; the client's own transaction may hold locks.
const SETTINGS: &str = "SELECT pg_catalog.set_config('transaction_read_only', 'on', true), \
     pg_catalog.set_config('statement_timeout', '2000', true), pg_catalog.set_config('lock_timeout', '250', true), \
     pg_catalog.set_config('search_path', '', true)";

/// `$1` and `$2` are schemas and names, `$3` the search path or NULL. Of a name without a schema, the first one of
/// the path that has it is meant, or a temporary relation of some session.
const FIRST: &str = "WITH wanted AS (SELECT * FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), \
     pg_catalog.unnest($2::pg_catalog.text[])) WITH ORDINALITY AS w(schema, name, place)), \
     candidate AS (SELECT c.oid, w.place, n.nspname, \
     CASE WHEN w.schema IS NOT NULL OR $3::pg_catalog.text[] IS NULL THEN 0 WHEN n.nspname LIKE 'pg\\_temp\\_%' THEN 0 \
     ELSE pg_catalog.array_position($3::pg_catalog.text[], n.nspname::pg_catalog.text) END AS rank \
     FROM wanted w JOIN pg_catalog.pg_class c ON c.relname = w.name \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (w.schema IS NULL OR n.nspname = w.schema \
     OR w.schema = 'pg_temp' AND n.nspname LIKE 'pg\\_temp\\_%')) \
     SELECT oid FROM (SELECT oid, place, nspname, rank, \
     pg_catalog.min(rank) FILTER (WHERE rank > 0) OVER (PARTITION BY place) AS best FROM candidate) AS ranked WHERE rank = best OR rank = 0 ORDER BY place, nspname, oid LIMIT 33";

/// From relations to those that a write to them reaches: by definitions of views and rules, and by foreign keys that act. A
/// key of a partitioned table is there for each partition as well; the one of the whole is told.
const EDGES: &str = "SELECT r.ev_class, d.refobjid, NULL, NULL, NULL, NULL, NULL \
     FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d \
     ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid \
     AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> r.ev_class \
     JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'v', 'f') \
     WHERE r.ev_class = ANY($1::pg_catalog.oid[]) AND d.refobjid >= 16384 \
     UNION SELECT k.confrelid, k.conrelid, k.conname, n.nspname, t.relname, k.confdeltype, k.confupdtype \
     FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.confrelid \
     JOIN pg_catalog.pg_class t ON t.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
     WHERE k.contype = 'f' AND k.confrelid = ANY($1::pg_catalog.oid[]) AND (k.conparentid = 0 OR c.relispartition) \
     AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd')) \
     ORDER BY 1, 2, 3 NULLS FIRST LIMIT 129";

/// What they are, with the rows of partitions and children, which take no lock to be counted.
const RELATIONS: &str = "WITH RECURSIVE part(root, oid) AS (SELECT o, o FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS o \
     UNION SELECT part.root, i.inhrelid FROM part JOIN pg_catalog.pg_inherits i ON i.inhparent = part.oid) \
     SELECT c.oid, n.nspname, c.relname, c.relkind, p.rows, p.parts FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     JOIN (SELECT part.root, pg_catalog.count(*) - 1 AS parts, pg_catalog.sum(l.reltuples) \
     FILTER (WHERE l.reltuples >= 0 AND l.relkind IN ('r', 'm', 'f'))::pg_catalog.int8 AS rows \
     FROM part JOIN pg_catalog.pg_class l ON l.oid = part.oid GROUP BY part.root) p ON p.root = c.oid";

/// The only question that takes a lock (ACCESS SHARE), so it is asked last and by itself.
const SIZES: &str = "WITH RECURSIVE part(root, oid) AS (SELECT o, o FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS o \
     UNION SELECT part.root, i.inhrelid FROM part JOIN pg_catalog.pg_inherits i ON i.inhparent = part.oid) \
     SELECT part.root, pg_catalog.sum(pg_catalog.pg_total_relation_size(part.oid)) \
     FROM part JOIN pg_catalog.pg_class c ON c.oid = part.oid WHERE c.relkind IN ('r', 'm') GROUP BY part.root";

const TRIGGERS: &str = "SELECT t.tgrelid, t.tgname, t.tgtype, t.tgenabled, n.nspname, p.proname \
     FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
     JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
     WHERE t.tgrelid = ANY($1::pg_catalog.oid[]) AND NOT t.tgisinternal ORDER BY t.tgrelid, t.tgname LIMIT 129";

const RULES: &str = "SELECT r.ev_class, r.rulename, r.ev_type, r.is_instead, r.ev_enabled FROM pg_catalog.pg_rewrite r \
     WHERE r.ev_class = ANY($1::pg_catalog.oid[]) AND r.ev_type <> '1' ORDER BY r.ev_class, r.rulename LIMIT 129";

/// What writing sets off, followed as far as [`RELATIONS_MAX`].
///
/// # Errors
/// The server cannot be asked.
pub(super) async fn side_effects(
    client: &mut Client,
    written: &Written,
) -> Result<SideEffects, UpstreamError> {
    let mut found = Found::default();
    let schemas = array(written.names.iter().map(|name| name.schema.as_deref()));
    let names = array(written.names.iter().map(|name| Some(name.name.as_str())));
    let path = written.search_path.as_ref().map(|path| array(path.iter().map(|name| Some(name.as_str()))));
    let values = [Some(schemas.as_bytes()), Some(names.as_bytes()), path.as_deref().map(str::as_bytes)];
    ask(client, FIRST, &values, |row| found.reach(number(row, 0), None).map(drop)).await?;
    // Each round reaches something new or is the last.
    let mut newest = found.order.clone();
    while !newest.is_empty() {
        let mut next = Vec::new();
        let mut edges = 0;
        let oids = of(&newest);
        ask(client, EDGES, &[Some(oids.as_bytes())], |row| {
            edges += 1;
            found.cut |= edges > PARTS_MAX;
            found.edge(row).map(|reached| next.extend(reached))
        })
        .await?;
        newest = next;
    }
    let oids = of(&found.order);
    let oids = [Some(oids.as_bytes())];
    ask(client, RELATIONS, &oids, |row| found.relation(row)).await?;
    ask(client, TRIGGERS, &oids, |row| found.trigger(row)).await?;
    ask(client, RULES, &oids, |row| found.rule(row)).await?;
    let mut sizes = HashMap::new();
    let sized = ask(client, SIZES, &oids, |row| {
        if let Some(oid) = number::<u32>(row, 0) {
            sizes.insert(oid, number(row, 1));
        }
        Ok(())
    });
    match sized.await {
        Ok(()) => {}
        Err(UpstreamError::Server(report)) => tracing::debug!(%report, "no sizes for whoever decides"),
        Err(error) => return Err(error),
    }
    Ok(found.finish(&sizes))
}

async fn ask(
    client: &mut Client,
    text: &str,
    values: &[Option<&[u8]>],
    mut each: impl FnMut(&Row) -> Result<(), UpstreamError>,
) -> Result<(), UpstreamError> {
    let statements = [Statement::plain(SETTINGS), Statement::with(text, values)];
    client.run(&statements, |row| each(&row)).await
}

/// Relations by OID, while more is learned of them.
#[derive(Default)]
struct Found {
    order: Vec<u32>,
    seen: HashSet<u32>,
    /// Which relation leads to which.
    through: HashMap<u32, u32>,
    relations: HashMap<u32, Reached>,
    cascades: HashMap<u32, Vec<Cascade>>,
    triggers: usize,
    rules: usize,
    cut: bool,
}

impl Found {
    /// Notes a relation; gives it back if it is new and there is room.
    fn reach(&mut self, oid: Option<u32>, from: Option<u32>) -> Result<Option<u32>, UpstreamError> {
        let oid = oid.ok_or_else(|| strange("pg_class"))?;
        if self.seen.contains(&oid) {
            return Ok(None);
        }
        if self.order.len() == RELATIONS_MAX {
            self.cut = true;
            return Ok(None);
        }
        self.seen.insert(oid);
        self.order.push(oid);
        if let Some(from) = from {
            self.through.insert(oid, from);
        }
        Ok(Some(oid))
    }

    fn edge(&mut self, row: &Row) -> Result<Option<u32>, UpstreamError> {
        let from: u32 = number(row, 0).ok_or_else(|| strange("pg_depend"))?;
        if let (Some(constraint), Some(schema), Some(name)) = (text(row, 2), text(row, 3), text(row, 4)) {
            self.cascades.entry(from).or_default().push(Cascade {
                constraint,
                table: ObjectName { schema: Some(schema), name },
                on_delete: action(row, 5),
                on_update: action(row, 6),
            });
        }
        self.reach(number(row, 1), Some(from))
    }

    fn relation(&mut self, row: &Row) -> Result<(), UpstreamError> {
        let (Some(oid), Some(schema), Some(name), Some(kind)) =
            (number(row, 0), text(row, 1), text(row, 2), text(row, 3))
        else {
            return Err(strange("pg_class"));
        };
        let kind = match kind.as_str() {
            "f" => "foreign table",
            "m" => "materialized view",
            "p" => "partitioned table",
            "v" => "view",
            _ => "table",
        };
        let reached = Reached {
            name: ObjectName { schema: Some(schema), name },
            kind: kind.to_owned(),
            through: None,
            rows: number(row, 4).filter(|_| kind != "view"),
            bytes: None,
            partitions: number(row, 5).unwrap_or(0),
            triggers: Vec::new(),
            rules: Vec::new(),
            cascades: self.cascades.remove(&oid).unwrap_or_default(),
        };
        self.relations.insert(oid, reached);
        Ok(())
    }

    fn trigger(&mut self, row: &Row) -> Result<(), UpstreamError> {
        let (Some(oid), Some(name), Some(bits), Some(schema), Some(function)) =
            (number::<u32>(row, 0), text(row, 1), number(row, 2), text(row, 4), text(row, 5))
        else {
            return Err(strange("pg_trigger"));
        };
        self.triggers += 1;
        self.cut |= self.triggers > PARTS_MAX;
        let trigger = Trigger {
            name,
            timing: timing(bits),
            function: ObjectName { schema: Some(schema), name: function },
            enabled: enabled(row, 3),
        };
        if let Some(relation) = self.relations.get_mut(&oid) {
            relation.triggers.push(trigger);
        }
        Ok(())
    }

    fn rule(&mut self, row: &Row) -> Result<(), UpstreamError> {
        let (Some(oid), Some(name), Some(event), Some(instead)) =
            (number::<u32>(row, 0), text(row, 1), text(row, 2), truth(row, 3))
        else {
            return Err(strange("pg_rewrite"));
        };
        self.rules += 1;
        self.cut |= self.rules > PARTS_MAX;
        let event = match event.as_str() {
            "2" => "update",
            "3" => "insert",
            "4" => "delete",
            _ => "another command",
        };
        let rule = Rule { name, event: event.to_owned(), instead, enabled: enabled(row, 4) };
        if let Some(relation) = self.relations.get_mut(&oid) {
            relation.rules.push(rule);
        }
        Ok(())
    }

    fn finish(mut self, sizes: &HashMap<u32, Option<u64>>) -> SideEffects {
        let names: HashMap<u32, ObjectName> =
            self.relations.iter().map(|(oid, reached)| (*oid, reached.name.clone())).collect();
        let mut relations = Vec::with_capacity(self.order.len());
        for oid in &self.order {
            let Some(mut reached) = self.relations.remove(oid) else { continue };
            reached.through = self.through.get(oid).and_then(|from| names.get(from)).cloned();
            reached.bytes = sizes.get(oid).copied().flatten();
            relations.push(reached);
        }
        SideEffects { relations, cut: self.cut, not_asked: false }
    }
}

/// `pg_constraint.confdeltype`; `None` where the key only refuses.
fn action(row: &Row, index: usize) -> Option<String> {
    let action = match text(row, index)?.as_str() {
        "c" => "cascade",
        "n" => "set null",
        "d" => "set default",
        _ => return None,
    };
    Some(action.to_owned())
}

/// `pg_trigger.tgenabled`.
fn enabled(row: &Row, index: usize) -> String {
    let word = match text(row, index).as_deref() {
        Some("O") => "enabled",
        Some("D") => "disabled",
        Some("R") => "replica",
        Some("A") => "always",
        Some(_) | None => "perhaps",
    };
    word.to_owned()
}

/// `pg_trigger.tgtype` in words (`TRIGGER_TYPE_*`, `src/include/catalog/pg_trigger.h`).
fn timing(bits: u16) -> String {
    let when = match bits & 0b100_0010 {
        0 => "after",
        0b100_0000 => "instead of",
        _ => "before",
    };
    let events: Vec<&str> = [(4, "insert"), (8, "delete"), (16, "update"), (32, "truncate")]
        .into_iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, event)| event)
        .collect();
    let each = if bits & 1 == 0 { "statement" } else { "row" };
    format!("{when} {} for each {each}", events.join(" or "))
}

/// An array of texts as PostgreSQL reads it (<https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>).
fn array<'a>(items: impl Iterator<Item = Option<&'a str>>) -> String {
    let quote = |item: &str| format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""));
    let items: Vec<String> = items.map(|item| item.map_or_else(|| "NULL".to_owned(), quote)).collect();
    format!("{{{}}}", items.join(","))
}

fn of(oids: &[u32]) -> String {
    let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
    format!("{{{}}}", oids.join(","))
}

#[cfg(test)]
mod tests {
    use super::{array, timing};

    #[test]
    fn triggers_in_words() {
        for (bits, words) in [
            (1 | 2 | 4, "before insert for each row"),
            (1 | 4 | 16, "after insert or update for each row"),
            (32, "after truncate for each statement"),
            (1 | 64 | 8, "instead of delete for each row"),
        ] {
            assert_eq!(timing(bits), words);
        }
    }

    #[test]
    fn arrays_say_what_is_in_them() {
        let items = [Some("a"), None, Some("NULL"), Some("b\"c\\d,e{}")];
        assert_eq!(array(items.into_iter()), "{\"a\",NULL,\"NULL\",\"b\\\"c\\\\d,e{}\"}");
        assert_eq!(array(std::iter::empty()), "{}");
    }
}
