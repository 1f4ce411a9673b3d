//! What an operator reads of real sessions: `sessions`, `sessions show`, `replay`.

use std::time::Duration;

use harness::agent;
use harness::daemon::Daemon;
use harness::process::{self, NOBODY};

use crate::spine::{server, shop};
use crate::wait;

const WAIT_MAX: Duration = Duration::from_secs(10);

/// Fails unless all parts are there, in this order.
fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("no {part:?}, in order, in:\n{text}")).1;
    }
}

fn read(daemon: &Daemon, arguments: &[&str]) -> String {
    let finished = daemon.cli(arguments).unwrap();
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""), "{arguments:?}");
    finished.stdout
}

#[test]
fn a_psql_session_reads_as_it_was() {
    let daemon = shop();
    let mut psql = agent::under(&daemon, NOBODY, "shop").unwrap();
    psql.args(agent::psql_arguments(server(), "shop")).arg("--set=ON_ERROR_STOP=0");
    for statement in [
        "SELECT id, name, email, card, ssn FROM customers ORDER BY id LIMIT 12",
        "SELECT 1/0",
        "SELECT E'a\\nb\\u202ec' AS odd, 12.5::numeric AS price, NULL AS nothing",
        "SET client_encoding = 'LATIN1'",
        "COPY (SELECT id, email FROM customers ORDER BY id LIMIT 2) TO STDOUT",
    ] {
        psql.args(["--command", statement]);
    }
    process::finish(&mut psql).unwrap();

    // psql may be gone a moment before its goodbye is recorded.
    let list = wait::until(WAIT_MAX, || match read(&daemon, &["sessions"]) {
        list if list.ends_with("finished\n") => Ok(list),
        list => Err(list),
    });
    let [header, row] = list.lines().collect::<Vec<_>>()[..] else { panic!("{list}") };
    for (title, value) in [("POLICY", "shop "), ("TO", "shop-db"), ("BY", "psql["), ("ENDED", "finished")] {
        let at = header.find(title).unwrap();
        assert!(row.get(at..).unwrap().starts_with(value), "{title}:\n{list}");
    }
    let right = |title: &str, value: &str| {
        let end = header.find(title).unwrap() + title.len();
        assert!(row.get(..end).unwrap().ends_with(value), "{title}:\n{list}");
    };
    // Milliseconds, or seconds on a machine that is busy.
    right("LASTED", "s");
    right("OPS", " 5");
    right("DENIED", " 1");
    right("MASKED", " 38");

    let shown = read(&daemon, &["sessions", "show", "last"]);
    let id = row.split(' ').next().unwrap();
    let address = format!("  to       shop-db (postgres, {})\n  from     psql[", server().address());
    assert_in_order(
        &shown,
        &[
            &format!("session {id}\n{address}"),
            "] of user nobody (65534)\n  command  ",
            "psql --no-psqlrc --set=ON_ERROR_STOP=1 host=127.",
            "\n  run      ",
            "\n  policy   shop (version ",
            "\n  started  20",
            "Z\n\n#1 +",
            "s select (read) allowed by default\n    SELECT id, name, email, card, ssn FROM customers",
            "\n  id | name      | email            | card                   | ssn\n  ---+-----------+--",
            "\n   1 | Grace 1   | c***@example.com | **** **** **** 0004    | [redacted]\n",
            "\n  10 | Ada 10    | c***@example.com | **** **** ***0 009 #10 | [redacted]\n#1 +",
            "s SELECT 12, ",
            " ms; 12 masked by customers.ssn; 12 masked by email; 12 masked by payment-card; 12 rows, 10 shown\n",
            "\n#2 +",
            "\n    SELECT 1/0\n#2 +",
            "s ERROR 22012: division by zero, ",
            " ms\n\n#3 +",
            "\n  odd           | price | nothing\n  --------------+-------+--------\n  a\\nb\\u{202e}c |  12.5 | NULL\n#3 +",
            "\n#4 +",
            "s set (unknown) refused by default\n    SET client_encoding = 'LATIN1'\n  because it sets client_encoding",
            "\n  told: standard_conforming_strings and client_encoding are pinned to on and UTF8\n",
            "s copy (read) allowed by default\n",
            "\n  1\\tc***@example.com\n  2\\tc***@example.com\n#5 +",
            "s COPY 2, ",
            "\n\nended +",
            "s finished (client); ",
            " bytes to the server, ",
            " bytes to the client\n",
        ],
    );

    let replayed = read(&daemon, &["replay", "last", "--speed", "max"]);
    assert_in_order(&replayed, &["  10 | Ada 10 ", "  12 | ", "s SELECT 12, ", "s finished (client)"]);
}
