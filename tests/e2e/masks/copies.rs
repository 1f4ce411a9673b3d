//! COPY TO STDOUT: masked by column where the columns are known, refused where they are not.

use serde_json::Value;

use super::{Guards, assert_no_leak, daemon, json, unhex};

/// Runs COPY statements and keeps what the first of each said, and every byte.
const COPY: &str = r#"
raw = Raw()
seen = []
for how in (raw.query, raw.extended):
    for sql in COPIES:
        messages = how(sql)
        data = b"".join(body for tag, body in messages if tag == b"d")
        seen.append([sql, sqlstate(messages), data.decode("latin-1"), raw.query("SELECT 1")[-1][1].decode()])
print(json.dumps({"seen": seen, "received": bytes(raw.received).hex()}))
"#;

fn copies(copies: &[&str]) -> Vec<(String, Option<String>, String)> {
    let daemon = daemon(Guards::AllowAll);
    let script = format!("COPIES = {}\n{COPY}", serde_json::to_string(copies).unwrap());
    let seen = json(&daemon, &script);
    assert_no_leak(&daemon, &unhex(seen["received"].as_str().unwrap()));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let seen = seen["seen"].as_array().unwrap().iter();
    seen.map(|one| {
        assert_eq!(one[3], "I", "the session goes on: {one}");
        (text(&one[0]).unwrap(), text(&one[1]), text(&one[2]).unwrap())
    })
    .collect()
}

#[test]
fn tables_are_masked_by_column() {
    for (sql, error, data) in copies(&[
        "COPY customers TO STDOUT",
        "COPY customers (ssn, id) TO STDOUT",
        "COPY customers TO STDOUT (FORMAT csv, HEADER)",
        "COPY customers TO STDOUT (FORMAT csv, FORCE_QUOTE *, DELIMITER ';')",
        "COPY customers TO STDOUT (FORMAT binary)",
    ]) {
        assert_eq!(error, None, "{sql}");
        assert!(data.contains("[redacted]"), "{sql}: {data}");
        let named = !sql.contains('(') || sql.contains("FORMAT");
        assert_eq!(data.contains("Grace 2"), named, "{sql}: {data}");
    }
}

#[test]
fn queries_pass_when_they_are_clean() {
    for (sql, error, data) in copies(&[
        "COPY (SELECT id, item FROM plain ORDER BY id) TO STDOUT",
        "COPY (SELECT id, item FROM plain ORDER BY id) TO STDOUT (FORMAT csv)",
        "COPY (SELECT id, item FROM plain ORDER BY id) TO STDOUT (FORMAT binary)",
        "COPY (SELECT id, card || '!' FROM customers) TO STDOUT",
    ]) {
        assert_eq!(error, None, "{sql}");
        assert!(data.contains("item 7") || data.contains("****"), "{sql}: {data}");
    }
}

#[test]
fn queries_are_refused_when_they_are_not() {
    for (sql, error, data) in copies(&[
        "COPY (SELECT ssn FROM customers) TO STDOUT",
        "COPY (SELECT substr(ssn, 1, 7) FROM customers) TO STDOUT (FORMAT csv)",
        "COPY (TABLE customers) TO STDOUT (FORMAT binary)",
        "COPY (SELECT secret_of(c) FROM customers c) TO STDOUT",
        "COPY (SELECT c.secret_of FROM customers c) TO STDOUT",
        "COPY (DELETE FROM customers WHERE id = 0 RETURNING ssn) TO STDOUT",
        "COPY (SELECT shout()) TO STDOUT",
        "COPY pair TO STDOUT",
    ]) {
        assert_eq!(error.as_deref(), Some("42501"), "{sql}: {data}");
        assert_eq!(data, "", "{sql}");
    }
}
