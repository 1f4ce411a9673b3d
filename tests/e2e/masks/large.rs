//! Large values and large results: searched and masked as a stream, in memory that does not grow with them.

use std::fs;

use super::{DATABASE, assert_no_leak, daemon_with, json, prepared, unhex};

const RULES: &str = r#"
[[mask]]
on = "postgres"
columns = ["heavy.secret", "many.secret"]
with = "redact"

[[mask]]
detect = ["payment-card"]
with = "partial"
"#;

/// Memory a result of any size may cost the daemon, in kB: buffers of both sides, and what the allocator keeps.
const GROWTH_KB_MAX: u64 = 64 * 1024;

/// Peak resident memory of a process, in kB.
fn peak_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The peak from here on.
fn reset_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

#[test]
fn a_value_too_large_to_hold_is_searched_and_masked() {
    let server = prepared();
    server
        .psql(
            DATABASE,
            "CREATE TABLE heavy (id int, body text, secret text);
             INSERT INTO heavy SELECT 1, repeat('calm words ', 150000) || '4111 1111 1111 1111' || repeat(' after', 300000),
                    repeat('918-27-1001 ', 250000);
             GRANT SELECT ON heavy TO shop_agent",
        )
        .unwrap();
    let daemon = daemon_with(RULES);
    let seen = json(
        &daemon,
        r#"
raw = Raw()
seen = []
for how in (raw.query, lambda sql: raw.extended(sql, binary=True)):
    row = rows(how("SELECT body, secret, id FROM heavy"))[0]
    seen.append([len(row[0]), row[0].count(b"1111"), row[0].count(b"*"), row[0][:11].decode(), row[0][-6:].decode(), len(row[1]), len(set(row[1]))])
print(json.dumps({"seen": seen, "leaks": [raw.received.count(secret) for secret in (b"4111" + b" 1111", b"918" + b"-27")]}))
"#,
    );
    for row in seen["seen"].as_array().unwrap() {
        assert_eq!(row[0], 150_000 * 11 + 19 + 300_000 * 6, "its length was promised before it was searched");
        assert_eq!(
            (row[1].as_u64(), row[2].as_u64()),
            (Some(0), Some(19)),
            "the card number and nothing else"
        );
        assert_eq!((row[3].as_str(), row[4].as_str()), (Some("calm words "), Some(" after")));
        assert_eq!((row[5].as_u64(), row[6].as_u64()), (Some(3_000_000), Some(1)), "one byte, over and over");
    }
    assert_eq!(seen["leaks"], serde_json::json!([0, 0]));
    assert_no_leak(&daemon, &unhex(""));
}

#[test]
fn a_large_masked_result_leaves_memory_flat() {
    let server = prepared();
    server
        .psql(
            DATABASE,
            "CREATE TABLE many (id int, secret text, note text);
             INSERT INTO many SELECT n, '918-27-' || n, repeat('note ', 20) FROM generate_series(1, 200000) n;
             GRANT SELECT ON many TO shop_agent",
        )
        .unwrap();
    let mut daemon = daemon_with(RULES);
    json(&daemon, "print(json.dumps(len(rows(Raw().query('SELECT * FROM many LIMIT 100')))))");
    let pid = daemon.pid();
    reset_peak(pid);
    let before = peak_kb(pid);
    // Reads without keeping, so that the proxy is the only one that could.
    let seen = json(
        &daemon,
        r#"
raw = Raw()
def drain(message):
    raw.send(message)
    counts, leaks, tail = {}, 0, b""
    while True:
        tag, body = raw.message()
        raw.received.clear()
        counts[tag] = counts.get(tag, 0) + 1
        leaks += b"918-27" in body
        if tag == b"Z":
            return counts, leaks
seen = [drain(raw.packed(b"Q", raw.text("SELECT id, secret, upper(note) FROM many"))),
        drain(raw.packed(b"Q", raw.text("COPY many TO STDOUT"))),
        drain(raw.parse("TABLE many") + raw.bind(True) + raw.describe(b"P") + raw.execute() + raw.SYNC)]
print(json.dumps([[{tag.decode(): count for tag, count in counts.items()}, leaks] for counts, leaks in seen]))
"#,
    );
    assert_eq!(seen[0][0]["D"], 200_000);
    assert!(seen[1][0]["d"].as_u64().is_some_and(|pieces| pieces > 1), "{seen}");
    assert_eq!(seen[2][0]["D"], 200_000);
    assert!(seen.as_array().unwrap().iter().all(|result| result[1] == 0), "{seen}");
    let grown = peak_kb(pid).saturating_sub(before);
    assert!(grown <= GROWTH_KB_MAX, "{before} kB grew by {grown} kB");
}
