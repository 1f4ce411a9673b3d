//! Stock clients and what they do to the protocol: pipelines, server-side cursors, copies, repeats.

use harness::agent;
use harness::process::{self, NOBODY};

use super::{ALL, daemon, server};

/// Runs a script with Debian's client libraries; `ADDRESS` is a libpq connection string.
#[track_caller]
fn python(daemon: &harness::daemon::Daemon, script: &str) {
    let prelude = "import sys\nHOST, PORT = sys.argv[1], int(sys.argv[2])\n\
                   ADDRESS = f'host={HOST} port={PORT} user=agent dbname=shop'\n";
    let finished = agent::python(daemon, server(), NOBODY, &format!("{prelude}{script}")).unwrap();
    assert_eq!(finished.code, 0, "{}\n{}\n{}", finished.stdout, finished.stderr, daemon.log());
}

#[test]
fn psycopg() {
    python(&daemon(ALL), include_str!("psycopg_client.py"));
}

#[test]
fn asyncpg() {
    python(&daemon(ALL), include_str!("asyncpg_client.py"));
}

#[test]
fn libpq_18() {
    let daemon = daemon(ALL);
    let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
    let address = server().address();
    run.arg(process::venv_python().unwrap()).args(["-u", "-c", include_str!("libpq18_client.py")]);
    run.args([address.ip().to_string(), address.port().to_string()]);
    let finished = process::finish(&mut run).unwrap();
    assert_eq!(finished.code, 0, "{}\n{}\n{}", finished.stdout, finished.stderr, daemon.log());
}

#[test]
fn pgbench_in_every_mode() {
    let daemon = daemon(ALL);
    // The server under test may come without its clients.
    let bin = harness::postgres::installed().unwrap();
    let pgbench = |arguments: &[&str]| {
        let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
        let address = server().address();
        run.arg(bin.join("pgbench"));
        run.args([
            "--host",
            &address.ip().to_string(),
            "--port",
            &address.port().to_string(),
            "--username=agent",
        ]);
        run.args(arguments).arg("orders_archive");
        let finished = process::finish(&mut run).unwrap();
        assert_eq!(finished.code, 0, "{arguments:?}\n{}\n{}", finished.stderr, daemon.log());
        finished.stdout
    };
    server().psql("orders_archive", "GRANT ALL ON SCHEMA public TO shop_agent").unwrap();
    pgbench(&["--initialize", "--quiet", "--init-steps=dtgvp"]);
    for mode in ["simple", "extended", "prepared"] {
        let mode = format!("--protocol={mode}");
        let said = pgbench(&[&mode, "--client=4", "--transactions=50", "--no-vacuum"]);
        assert!(said.contains("200/200") && said.contains("failed transactions: 0"), "{said}");
        let said =
            pgbench(&[&mode, "--client=4", "--transactions=5", "--select-only", "--connect", "--no-vacuum"]);
        assert!(said.contains("20/20"), "{said}");
    }
}

#[test]
fn psql_with_its_own_commands() {
    let daemon = daemon(ALL);
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script.sql");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(
        &script,
        r"
CREATE TABLE wire_psql (a int, b text);
\copy wire_psql from stdin
1	one
2	two
\.
\copy (select * from wire_psql order by a) to stdout
\d wire_psql
select a, b from wire_psql \gdesc
select 'select ' || a from wire_psql order by a \gexec
\set FETCH_COUNT 1
select * from wire_psql order by a;
\unset FETCH_COUNT
\set AUTOCOMMIT off
insert into wire_psql values (3, 'three');
rollback;
\set AUTOCOMMIT on
select count(*) from wire_psql;
\encoding
drop table wire_psql;
",
    )
    .unwrap();
    let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
    run.args(agent::psql_arguments(server(), "shop")).args(["--quiet", "--file"]).arg(&script);
    let finished = process::finish(&mut run).unwrap();
    assert_eq!(finished.code, 0, "{}\n{}", finished.stderr, daemon.log());
    for expected in ["1\tone\n2\ttwo\n", "Table \"public.wire_psql\"", "integer", "UTF8", "(1 row)"] {
        assert!(finished.stdout.contains(expected), "{expected} in {}", finished.stdout);
    }
}
