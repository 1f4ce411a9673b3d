//! pg_dump in three formats, and pg_restore of two: the texts of dumps, and of what a direct dump says of a restored database.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::report::Outcomes;
use crate::side::{self, Side};
use crate::tools::{FULL, own_database};

/// Dumps and restores, in this way alone.
///
/// # Errors
/// When a program cannot be started.
pub(crate) fn run(side: &Side) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    // Large objects have dumps of their own: pg_dump reads them with the FunctionCall message.
    for (name, options) in [("plain", &["--no-blobs"][..]), ("plain with large objects", &[])] {
        let plain = side.out.join(format!("{name}.sql"));
        outcomes.insert(format!("{name}: said"), dump(side, "plain", &plain, options)?);
        texts(&mut outcomes, &format!("{name}: text"), &plain)?;
    }
    for (name, format, options, jobs) in [
        ("custom", "custom", &["--no-blobs"][..], &[][..]),
        ("custom with large objects", "custom", &[], &[]),
        ("directory", "directory", &["--no-blobs", "--jobs=2"], &["--jobs=2"]),
        ("directory with large objects", "directory", &["--jobs=2"], &["--jobs=2"]),
    ] {
        let archive = side.out.join(name);
        drop(fs::remove_dir_all(&archive));
        outcomes.insert(format!("{name}: said"), dump(side, format, &archive, options)?);
        let database = own_database(side, format)?;
        let mut restore = side.postgres("pg_restore")?;
        restore.args(["--dbname", &database]).args(jobs).arg(&archive);
        let said = side.log(&format!("pg_restore-{format}"), &mut restore)?;
        outcomes.insert(format!("{name}: restored, said"), sorted(&said.replace(&database, "DATABASE")));
        outcomes.insert(format!("{name}: restored, rows"), rows(side, &database)?);
    }
    let schema = side.out.join("schema.sql");
    outcomes
        .insert("schema: said".to_owned(), dump(side, "plain", &schema, &["--schema-only", "--inserts"])?);
    texts(&mut outcomes, "schema: text", &schema)?;
    let mut globals = side.postgres("pg_dumpall")?;
    globals.args(["--globals-only", "--no-role-passwords"]);
    outcomes.insert("pg_dumpall --globals-only".to_owned(), side.log("pg_dumpall", &mut globals)?);
    Ok(outcomes)
}

fn dump(side: &Side, format: &str, to: &Path, options: &[&str]) -> Result<String> {
    let mut dump = side.postgres("pg_dump")?;
    dump.arg(format!("--format={format}")).arg(format!("--file={}", to.display())).args(options).arg(FULL);
    side.log(&format!("pg_dump-{format}"), &mut dump)
}

/// Parallel workers complain in any order.
fn sorted(said: &str) -> String {
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn texts(outcomes: &mut Outcomes, name: &str, file: &Path) -> Result<()> {
    let text = String::from_utf8_lossy(&fs::read(file)?).into_owned();
    let kept = text.lines().filter(|line| !side::is_random(line));
    outcomes.insert(name.to_owned(), kept.collect::<Vec<_>>().join("\n"));
    Ok(())
}

/// How many rows each table of a restored database has, and how many objects of each kind there are; asked directly.
fn rows(side: &Side, database: &str) -> Result<String> {
    side.server.psql(
        database,
        "SELECT format('%I.%I', schemaname, tablename), (xpath('/row/c/text()', query_to_xml(format(\
           'SELECT count(*) AS c, sum(hashtext(t::text)) AS s FROM %I.%I t', schemaname, tablename), false, true, '')))[1]::text, \
           md5(query_to_xml(format('SELECT count(*) AS c, sum(hashtext(t::text)) AS s FROM %I.%I t', schemaname, tablename), \
           false, true, '')::text) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') \
           AND NOT EXISTS (SELECT FROM pg_foreign_table f WHERE f.ftrelid = format('%I.%I', schemaname, tablename)::regclass) \
           ORDER BY 1; \
         SELECT relkind, count(*) FROM pg_class GROUP BY 1 ORDER BY 1; SELECT count(*) FROM pg_proc; \
         SELECT count(*) FROM pg_type; SELECT count(*) FROM pg_operator; SELECT count(*) FROM pg_largeobject",
    )
}
