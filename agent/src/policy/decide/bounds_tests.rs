//! Rules with hours and budgets, what they hold statements to, and rules that are only tried out.

use std::time::Duration;

use crate::policy::decide::PostgresOperation;
use crate::policy::load;
use crate::policy::rule::{Limits, Policy, Used, Verdict, Who};
use crate::request::sql::{Analysis, analyze};

/// Saturday, 2026-11-28T10:00:00Z.
const SATURDAY_MS: u64 = 1_795_860_000_000;

fn policy_of(rules: &str) -> Policy {
    load(&format!("version = 1\nname = \"t\"\n{rules}")).expect("the test's policy is valid").policy
}

fn decided(policy: &Policy, sql: &str, used: &[Used]) -> Verdict {
    let analysis = analyze(sql);
    policy.decide(&operation(&analysis, used), who())
}

fn operation<'a>(analysis: &'a Analysis, used: &'a [Used]) -> PostgresOperation<'a> {
    PostgresOperation {
        connection: "db",
        database: "shop",
        statements: &analysis.statements,
        effect: analysis.effect,
        search_path: None,
        estimates: &[],
        used,
    }
}

fn who() -> Who<'static> {
    Who { at_ms: SATURDAY_MS, ..Who::in_groups(&[]) }
}

/// `verdict rule`, and what a rule that is tried out would have done.
fn said(verdict: &Verdict) -> String {
    let shadow = verdict.shadow().map(|shadow| format!(" ({} {})", shadow.verdict.participle(), shadow.rule));
    format!("{} {}{}", verdict.word(), verdict.rule(), shadow.unwrap_or_default())
}

#[test]
fn hours_are_a_condition_like_any_other() {
    let policy = policy_of(
        "[[guard]]\nname = \"weekend\"\non = \"postgres\"\neffect = [\"write\"]\nduring = [\"Sat-Sun 00:00-24:00\"]\naction = \"deny\"\n\
         [[guard]]\nname = \"writes\"\non = \"postgres\"\neffect = [\"write\"]\naction = \"allow\"\n",
    );
    assert_eq!(said(&decided(&policy, "DELETE FROM t", &[])), "deny weekend");
    let analysis = analyze("DELETE FROM t");
    let monday = Who { at_ms: SATURDAY_MS + 2 * 24 * 60 * 60 * 1000, ..who() };
    assert_eq!(said(&policy.decide(&operation(&analysis, &[]), monday)), "allow writes");
}

#[test]
fn a_budget_speaks_once_it_is_used_up() {
    let policy = policy_of(
        "[[guard]]\nname = \"enough rows\"\non = \"postgres\"\neffect = [\"read\"]\nover = { rows = 100 }\naction = \"hold\"\n\
         [[guard]]\nname = \"enough writes\"\non = \"postgres\"\neffect = [\"write\"]\nover = { statements = 2, per = \"1m\" }\naction = \"deny\"\n\
         [[guard]]\nname = \"writes\"\non = \"postgres\"\neffect = [\"write\"]\naction = \"allow\"\n",
    );
    let used = |rows, statements| [Used { rows, ..Used::default() }, Used { statements, ..Used::default() }];
    for (sql, used, expected) in [
        ("SELECT 1", used(0, 9), "allow default"),
        ("SELECT 1", used(99, 0), "allow default"),
        ("SELECT 1", used(100, 0), "hold enough rows"),
        ("DELETE FROM t", used(100, 1), "allow writes"),
        ("DELETE FROM t", used(0, 2), "deny enough writes"),
        ("SELECT 1; DELETE FROM t", used(100, 2), "deny enough writes"),
    ] {
        assert_eq!(said(&decided(&policy, sql, &used)), expected, "{sql}");
    }
    for (sql, counts) in [
        ("SELECT 1", &[0][..]),
        ("DELETE FROM t", &[1]),
        ("SELECT 1; DELETE FROM t", &[0, 1]),
        ("DROP TABLE t", &[]),
    ] {
        let analysis = analyze(sql);
        assert_eq!(policy.budgets_of(&operation(&analysis, &[]), who()), counts, "{sql}");
    }
}

#[test]
fn several_statements_are_held_to_the_narrowest_bound() {
    let policy = policy_of(
        "[defaults]\nmax_rows = 1000\ntimeout = \"1m\"\n\
         [[guard]]\nname = \"a\"\non = \"postgres\"\nobjects = [\"a\"]\nmax_rows = 10\naction = \"allow\"\n\
         [[guard]]\nname = \"b\"\non = \"postgres\"\nobjects = [\"b\"]\ntimeout = \"5s\"\naction = \"hold\"\n",
    );
    let limits = |sql: &str| match decided(&policy, sql, &[]) {
        Verdict::Allow { limits, .. } | Verdict::Hold { limits, .. } => limits,
        Verdict::Deny { .. } => panic!("{sql} is denied"),
    };
    let minute = Some(Duration::from_secs(60));
    assert_eq!(limits("SELECT * FROM c"), Limits { rows: Some(1000), time: minute });
    assert_eq!(limits("SELECT * FROM a"), Limits { rows: Some(10), time: minute });
    let five = Some(Duration::from_secs(5));
    assert_eq!(limits("SELECT * FROM b"), Limits { rows: Some(1000), time: five });
    assert_eq!(
        limits("SELECT * FROM c; SELECT * FROM b; SELECT * FROM a"),
        Limits { rows: Some(10), time: five }
    );
}

#[test]
fn a_rule_that_is_tried_out_decides_nothing() {
    let policy = policy_of(
        "[[guard]]\nname = \"tried\"\non = \"postgres\"\neffect = [\"write\"]\nmode = \"shadow\"\naction = \"hold\"\n\
         [[guard]]\nname = \"bad\"\non = \"postgres\"\nobjects = [\"bad\"]\nmode = \"shadow\"\naction = \"deny\"\n\
         [[guard]]\nname = \"generous\"\non = \"postgres\"\neffect = [\"ddl\"]\nmode = \"shadow\"\naction = \"allow\"\n\
         [[guard]]\nname = \"writes\"\non = \"postgres\"\neffect = [\"write\"]\naction = \"allow\"\n",
    );
    for (sql, expected) in [
        ("DELETE FROM t", "allow writes (held tried)"),
        ("SELECT * FROM bad", "allow default (denied bad)"),
        ("DELETE FROM t; SELECT * FROM bad", "allow writes (denied bad)"),
        ("SELECT 1", "allow default"),
        // It would have allowed more, and does not.
        ("CREATE TABLE x ()", "hold default"),
    ] {
        assert_eq!(said(&decided(&policy, sql, &[])), expected, "{sql}");
    }
}

#[test]
fn a_policy_that_is_tried_out_lets_everything_pass() {
    let policy = policy_of(
        "mode = \"shadow\"\n[defaults]\nmax_rows = 1\n\
         [[guard]]\nname = \"drops\"\non = \"postgres\"\nkind = [\"drop *\"]\naction = \"deny\"\n\
         [[guard]]\nname = \"slow\"\non = \"postgres\"\neffect = [\"write\"]\nestimated_rows = \"> 10\"\naction = \"hold\"\n",
    );
    for (sql, expected) in [
        ("DROP TABLE t", "allow drops (denied drops)"),
        ("DO 'x'", "allow default (held default)"),
        ("SELECT 1", "allow default"),
        ("not SQL", "allow default (held default)"),
    ] {
        assert_eq!(said(&decided(&policy, sql, &[])), expected, "{sql}");
    }
    assert!(
        matches!(decided(&policy, "SELECT 1", &[]), Verdict::Allow { limits, .. } if limits == Limits::default())
    );
    let analysis = analyze("DELETE FROM t");
    assert_eq!(policy.needs_estimate(&operation(&analysis, &[]), who()), [0]);
}

#[test]
fn columns_are_denied_where_they_may_be_touched_and_allowed_where_nothing_else_is() {
    let deny = policy_of(
        "[[guard]]\nname = \"ssn\"\non = \"postgres\"\ncolumns = [\"customers.ssn\", \"hr.people.*\"]\naction = \"deny\"\n",
    );
    let allow = policy_of(
        "[defaults]\nread = \"deny\"\n[[guard]]\nname = \"names\"\non = \"postgres\"\n\
         columns = [\"customers.id\", \"customers.name\", \"orders.*\"]\naction = \"allow\"\n",
    );
    for (sql, denied, allowed) in [
        ("SELECT id, name FROM customers", false, true),
        ("SELECT name FROM customers WHERE ssn = '1'", true, false),
        ("SELECT c.ssn AS note FROM customers c", true, false),
        ("SELECT * FROM customers", true, false),
        ("SELECT c FROM customers c", true, false),
        ("SELECT ssn FROM other", false, false),
        // Of which of the two it is, nobody says.
        ("SELECT ssn FROM other, customers", true, false),
        ("SELECT o.amount, c.name FROM orders o JOIN customers c ON c.id = o.customer", false, true),
        ("SELECT name FROM customers, secrets", false, false),
        ("SELECT salary FROM hr.people", true, false),
        ("SELECT 1", false, false),
        ("UPDATE customers SET ssn = NULL WHERE id = 1", true, false),
        ("INSERT INTO customers VALUES (1)", true, false),
        ("INSERT INTO customers (id) VALUES (1)", false, true),
        ("SELECT f(name) FROM customers", false, false),
    ] {
        let (by_deny, by_allow) = (decided(&deny, sql, &[]), decided(&allow, sql, &[]));
        assert_eq!(by_deny.rule() == "ssn", denied, "{sql}: {by_deny:?}");
        assert_eq!(by_allow.rule() == "names" && by_allow.word() == "allow", allowed, "{sql}: {by_allow:?}");
    }
}
