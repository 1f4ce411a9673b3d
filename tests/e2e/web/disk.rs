//! What the daemon keeps: searched as files, and as the command line shows it, decompressed and decoded.

use std::fs;

use harness::daemon::Daemon;
use serde_json::Value;

/// Strings of which base64 is looked into are at least this long.
const BASE64_MIN: usize = 16;

/// Every recorded event of every session, as the command line prints it. What is said last of a session is written when
/// its client has the answer already, so their ends are waited for.
pub(super) fn recording(daemon: &Daemon) -> Vec<Value> {
    let over = |session: &Value| !session["ended_reason"].is_null() || session["opened"]["protocol"] == "dns";
    let list = ["sessions", "list", "--limit", "100000"];
    let sessions = daemon.until(&list, |sessions| sessions.iter().all(over)).unwrap();
    let ids = sessions.iter().map(|session| session["session"].as_str().unwrap());
    ids.flat_map(|id| daemon.json_lines(&["sessions", "show", id]).unwrap()).collect()
}

/// The first of these texts that is anywhere below the state folder, in the log, or in the recording, where strings are
/// also searched as the base64 of bytes; with its place and what stands around it.
fn kept(daemon: &Daemon, secrets: &[&str]) -> Option<String> {
    let events = recording(daemon);
    assert!(!events.is_empty(), "nothing was recorded: {}", daemon.log());
    let find = |bytes: &[u8], place: &str| {
        // Searched as text, because the standard library does that fast also in a debug build.
        let text = String::from_utf8_lossy(bytes);
        secrets.iter().find_map(|secret| {
            let at = text.find(secret)?;
            let after: String = text.get(at..)?.chars().take(150).collect();
            Some(format!("{place} holds {secret:?}: {after}"))
        })
    };
    let mut folders = vec![daemon.folder().join("state")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = fs::read(entry.path()).unwrap_or_default();
            if let Some(found) = find(&bytes, &entry.path().display().to_string()) {
                return Some(found);
            }
        }
    }
    let mut found = find(daemon.log().as_bytes(), "the log");
    for event in &events {
        strings(event, &mut |text| {
            let in_text = || find(text.as_bytes(), "the recording");
            let in_bytes = || find(&unbase64(text)?, "the recording, as base64,");
            found = found.take().or_else(in_text).or_else(in_bytes);
        });
    }
    found
}

/// Fails when one of these texts is kept anywhere.
#[track_caller]
pub(super) fn assert_kept_nowhere(daemon: &Daemon, secrets: &[&str]) {
    if let Some(found) = kept(daemon, secrets) {
        panic!("{found}");
    }
}

/// Every string in a value, keys included.
pub(super) fn strings(value: &Value, seen: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => seen(text),
        Value::Array(values) => values.iter().for_each(|value| strings(value, seen)),
        Value::Object(fields) => {
            for (key, value) in fields {
                seen(key);
                strings(value, seen);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The bytes that a string stands for, if it is base64 (RFC 4648, 4).
pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.trim_end_matches('=');
    if text.len() < BASE64_MIN || !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|known| *known == digit)?;
        bits = (bits << 6) | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[test]
fn base64_is_read() {
    assert_eq!(unbase64("Y2FyZCA0OTI5NzE4Mw==").as_deref(), Some(&b"card 49297183"[..]));
    assert_eq!(unbase64("not base64, as it has blanks"), None);
}

#[test]
fn what_is_kept_is_found_where_it_is() {
    // Without a mask the record holds the secret, which shows that the search sees it.
    let daemon = super::daemon("");
    super::curl(&daemon, &["https://api.shop.test:PORT/planted"]);
    assert!(kept(&daemon, &["918-27-0001"]).is_some(), "an answer's body is recorded, and found");
    assert_eq!(kept(&daemon, &["918-27-9999"]), None);
}
