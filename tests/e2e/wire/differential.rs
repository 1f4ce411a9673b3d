//! The same statements with and without Portcullis in between: what a client sees is the same, byte for byte.

use std::process::Command;

use harness::agent;
use harness::postgres::{PASSWORD, ROLE};
use harness::process::{self, Finished, NOBODY};

use super::{ALL, daemon, server};

/// Statements for psql: the simple protocol.
const STATEMENTS: &str = include_str!("statements.sql");
/// Statements through drivers: the extended protocol.
const DRIVERS: &str = include_str!("drivers.py");

/// Fails at the first line that differs, and shows it with what is around it.
#[track_caller]
fn same(direct: &str, relayed: &str) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (direct, relayed) = (lines(direct), lines(relayed));
    let longest = direct.len().max(relayed.len());
    if let Some(at) = (0..longest).find(|at| direct.get(*at) != relayed.get(*at)) {
        let around = |lines: &[String]| {
            lines.iter().skip(at.saturating_sub(4)).take(9).cloned().collect::<Vec<_>>().join("\n")
        };
        panic!("line {at}\n--- direct\n{}\n--- relayed\n{}", around(&direct), around(&relayed));
    }
}

#[track_caller]
fn compare(direct: &mut Command, relayed: &mut Command, lines_min: usize) {
    let (direct, relayed): (Finished, Finished) =
        (process::finish(direct).unwrap(), process::finish(relayed).unwrap());
    assert_eq!((direct.code, relayed.code), (0, 0), "{}\n{}", direct.stderr, relayed.stderr);
    assert!(direct.stdout.lines().count() > lines_min, "{}\n{}", direct.stdout, direct.stderr);
    same(&direct.stdout, &relayed.stdout);
    same(&direct.stderr, &relayed.stderr);
}

#[test]
fn psql_sees_the_same() {
    let daemon = daemon(ALL);
    server().psql("shop", "GRANT CREATE ON DATABASE shop TO shop_agent").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = folder.path().join("statements.sql");
    std::fs::write(&script, STATEMENTS).unwrap();
    let arguments = |user: &str| {
        let address = server().address();
        [
            "--no-psqlrc".to_owned(),
            format!("host={} port={} user={user} dbname=shop", address.ip(), address.port()),
            "--file".to_owned(),
            script.display().to_string(),
        ]
    };
    let mut direct = Command::new(harness::postgres::psql());
    direct.args(arguments(ROLE)).env("PGPASSWORD", PASSWORD);
    let mut relayed = agent::under(&daemon, NOBODY, "shop").unwrap();
    relayed.arg(harness::postgres::psql()).args(arguments("agent"));
    compare(&mut direct, &mut relayed, 500);
}

#[test]
fn drivers_see_the_same() {
    server()
        .psql(
            "shop",
            "CREATE TABLE wire_drivers (a int PRIMARY KEY, b text); GRANT ALL ON wire_drivers TO shop_agent",
        )
        .unwrap();
    let daemon = daemon(ALL);
    let address = server().address();
    let arguments =
        ["-c".to_owned(), DRIVERS.to_owned(), address.ip().to_string(), address.port().to_string()];
    let mut direct = Command::new(process::python());
    direct.args(&arguments).args([ROLE, PASSWORD]);
    let mut relayed = agent::under(&daemon, NOBODY, "shop").unwrap();
    relayed.arg(process::python()).args(&arguments);
    compare(&mut direct, &mut relayed, 150);
}
