//! The loader against texts that say what is wrong with them, and the shape against the schema.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::table::Choice;
use super::{LoadError, Loaded, POLICY_BYTES_MAX, load};
use crate::mask::{Detector, Method, Predicates};
use crate::policy::diagnostic::{Diagnostic, Severity};
use crate::policy::rule::{Action, ChatUse, InTransaction, MaskTarget, UnknownOrigin};
use crate::policy::schema::schema;
use crate::request::Effect;

const FINDINGS: &str = include_str!("testdata/findings.txt");

/// The example that the documentation shows.
const EXAMPLE: &str = r#"
version = 1
name = "crewai"

[match]                                   # which cgroups; `portcullis run --policy crewai` needs none
units = ["crewai@*.service"]

[egress]
default = "deny"                          # destinations that no connection names

[[connection]]
name = "orders-db"
to = ["db.internal:5432"]
protocol = "postgres"
groups = ["data-science"]                 # who may use it
upstream = { user = "reporting_ro", credential = "orders-db-password", tls = "verify-full" }

[[guard]]
name = "no destructive DDL"
on = "postgres"
effect = ["ddl", "admin", "unknown"]
action = "hold"
approvers = ["dba"]
hold = "15m"

[[guard]]
name = "big writes"
on = "postgres"
effect = ["write"]
estimated_rows = "> 1000"                 # asked of the planner, with the run's own role
action = "hold"
approvers = ["dba", "data-owner"]

[[mask]]
on = "postgres"
columns = ["customers.ssn", "*.password*", "*.api_key"]
with = "redact"

[[mask]]
detect = ["payment-card", "email", "jwt", "aws-key", "private-key"]
with = "partial"
"#;

fn found(text: &str) -> Vec<Diagnostic> {
    match load(text) {
        Ok(Loaded { warnings, .. }) => warnings,
        Err(LoadError { findings }) => findings,
    }
}

/// One `#~` note: line, column, severity, words.
type Note = (usize, usize, Severity, String);

/// Notes of one text; `offset` lines stand before it in what is loaded.
fn notes(body: &str, offset: usize) -> Vec<Note> {
    let mut notes = Vec::new();
    for (index, line) in body.lines().enumerate() {
        for note in line.split("#~ ").skip(1) {
            let (place, rest) = note.split_once(' ').expect("a note has a place");
            let (severity, words) = rest.trim().split_once(": ").expect("a note has a severity and words");
            let severity = match severity {
                "error" => Severity::Error,
                "warning" => Severity::Warning,
                other => panic!("{other} is no severity"),
            };
            let here = index + 1 + offset;
            let (line, column) = match (place, place.split_once(':')) {
                ("top", _) => (1, 1),
                (_, Some((up, column))) => {
                    (here - up.trim_start_matches('-').parse::<usize>().unwrap(), column.parse().unwrap())
                }
                (column, None) => (here, column.parse().unwrap()),
            };
            notes.push((line, column, severity, words.to_owned()));
        }
    }
    notes.sort_by_key(|note| (note.0, note.1));
    notes
}

#[test]
fn every_text_gets_exactly_its_findings() {
    let mut wrong = Vec::new();
    let mut texts = 0;
    for document in FINDINGS.split("\n=== ").skip(1) {
        texts += 1;
        let (title, body) = document.split_once('\n').unwrap_or((document, ""));
        let (text, offset) = if title.starts_with("whole file") {
            (body.to_owned(), 0)
        } else {
            (format!("version = 1\nname = \"t\"\n{body}"), 2)
        };
        let mut found = found(&text);
        found.sort_by_key(|found| (found.line, found.column));
        let expected = notes(body, offset);
        let alike = found.len() == expected.len()
            && found.iter().zip(&expected).all(|(found, (line, column, severity, words))| {
                (found.line, found.column, found.severity) == (*line, *column, *severity)
                    && found.message.contains(words.as_str())
            });
        if !alike {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            wrong.push(format!("{title}\n  expected {expected:#?}\n  found {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {texts} texts:\n{}", wrong.len(), wrong.join("\n"));
    assert!(texts > 150, "only {texts} texts were read");
}

#[test]
fn the_documented_example_loads_as_written() {
    let Loaded { policy, warnings } = load(EXAMPLE).expect("the example is valid");
    assert_eq!(warnings, []);
    assert_eq!(policy.name, "crewai");
    assert_eq!(policy.version.len(), 16);
    assert!(policy.matches.units[0].is_match("crewai@nightly.service"));
    assert_eq!(policy.connections[0].upstream.credential.as_deref(), Some("orders-db-password"));
    assert_eq!(policy.connections[0].groups, ["data-science"]);
    let Action::Hold(terms) = &policy.guards[0].action else { panic!("the first guard holds") };
    assert_eq!(terms.approvers, ["dba"]);
    assert_eq!(terms.timeout, Duration::from_secs(900));
    assert_eq!(terms.in_transaction, InTransaction::Refuse);
    assert_eq!(policy.guards[0].when.effects, [Effect::Ddl, Effect::Admin, Effect::Unknown]);
    let Action::Hold(terms) = &policy.guards[1].action else { panic!("the second guard holds") };
    assert_eq!(terms.timeout, Duration::from_secs(900), "a hold without a time waits 15 minutes");
    assert!(matches!(&policy.masks[0].what, MaskTarget::Columns(columns) if columns.len() == 3));
    assert!(matches!(&policy.masks[1].what, MaskTarget::Detect(found) if found[0] == Detector::PaymentCard));
    assert_eq!(policy.masks[1].with, Method::Partial);
    assert_eq!(policy.record.durable.len(), 5);
    assert_eq!(policy.record.result_bytes_max, 16 * 1024 * 1024);
}

#[test]
fn without_defaults_reads_are_allowed_and_the_rest_is_held() {
    let policy = load("version = 1\nname = \"t\"").expect("it is valid").policy;
    let unmatched = &policy.defaults.unmatched;
    assert_eq!(unmatched[&Effect::Read], Action::Allow);
    for effect in [Effect::Write, Effect::Ddl, Effect::Admin, Effect::Unknown] {
        assert!(matches!(unmatched[&effect], Action::Hold(_)), "{effect}");
    }
    assert_eq!(policy.defaults.unknown_origin, UnknownOrigin::Mask);
}

#[test]
fn terms_of_defaults_reach_guards_that_say_nothing() {
    let text = "version = 1\nname = \"t\"\n[[guard]]\non = \"postgres\"\naction = \"hold\"\n[defaults]\n\
                approvers = [\"dba\"]\nhold = \"2h\"\nin_transaction = \"hold\"\nadmin = \"hold\"\n";
    let policy = load(text).expect("it is valid").policy;
    for action in [&policy.guards[0].action, &policy.defaults.unmatched[&Effect::Admin]] {
        let Action::Hold(terms) = action else { panic!("it holds") };
        assert_eq!(terms.approvers, ["dba"]);
        assert_eq!(terms.timeout, Duration::from_secs(7200));
        assert_eq!(terms.in_transaction, InTransaction::Hold);
    }
}

#[test]
fn a_guard_says_what_whoever_approves_must_have_proved() {
    let guard = |more: &str| {
        let text = format!("version = 1\nname = \"t\"\n[[guard]]\non = \"http\"\naction = \"hold\"\n{more}");
        let policy = load(&text).expect("it is valid").policy;
        let Action::Hold(terms) = &policy.guards[0].action else { panic!("it holds") };
        terms.step_up.as_ref().map(ToString::to_string)
    };
    assert_eq!(guard(""), None);
    assert_eq!(guard("step_up = \"5m\"").as_deref(), Some("within 5m"));
    assert_eq!(guard("acr = [\"phr\", \"phrh\"]").as_deref(), Some("with phr or phrh"));
    assert_eq!(guard("step_up = \"1h\"\nacr = [\"phr\"]").as_deref(), Some("within 1h with phr"));
}

#[test]
fn what_chats_are_for_is_a_guard_s_word_or_the_defaults() {
    let chat = |more: &str| {
        let text = format!("version = 1\nname = \"t\"\n[[guard]]\non = \"http\"\naction = \"hold\"\n{more}");
        let policy = load(&text).expect("it is valid").policy;
        [&policy.guards[0].action, &policy.defaults.unmatched[&Effect::Admin]].map(|action| match action {
            Action::Hold(terms) => terms.chat,
            Action::Allow | Action::Deny { .. } => panic!("it holds"),
        })
    };
    assert_eq!(chat(""), [ChatUse::Decide; 2]);
    assert_eq!(chat("chat = \"link\""), [ChatUse::Link, ChatUse::Decide]);
    assert_eq!(chat("[defaults]\nchat = \"none\""), [ChatUse::None; 2]);
    assert_eq!(chat("chat = \"decide\"\n[defaults]\nchat = \"link\""), [ChatUse::Decide, ChatUse::Link]);
    let denied = "version = 1\nname = \"t\"\n[[guard]]\non = \"http\"\naction = \"deny\"\nchat = \"link\"\n";
    let error = load(denied).expect_err("nothing waits").to_string();
    assert!(error.contains("6:8") && error.contains("`chat` is for action = \"hold\""), "{error}");
}

#[test]
fn what_predicates_may_do_is_a_mask_s_word_or_the_defaults() {
    let predicates = |mask: &str, more: &str| {
        let text = format!(
            "version = 1\nname = \"t\"\n[[mask]]\nwith = \"redact\"\ncolumns = [\"a.b\"]\n{mask}\n{more}"
        );
        load(&text).expect("it is valid").policy.masks[0].predicates
    };
    assert_eq!(predicates("", ""), Predicates::Allow);
    for (word, expected) in Predicates::ALL {
        assert_eq!(predicates(&format!("predicates = \"{word}\""), ""), *expected);
        assert_eq!(predicates("", &format!("[defaults]\npredicates = \"{word}\"")), *expected);
    }
    let both = predicates("predicates = \"equality\"", "[defaults]\npredicates = \"deny\"");
    assert_eq!(both, Predicates::Equality);
}

#[test]
fn the_version_is_of_the_exact_text() {
    let version = |text: &str| load(text).expect("it is valid").policy.version;
    let text = "version = 1\nname = \"t\"";
    assert_eq!(version(text), version(text));
    assert_ne!(version(text), version(&format!("{text}\n")));
}

#[test]
fn a_file_too_large_is_refused_unread() {
    let text = "#".repeat(POLICY_BYTES_MAX + 1);
    let error = load(&text).expect_err("it is too large");
    assert!(error.to_string().contains("1048577 bytes"), "{error}");
}

#[test]
fn an_error_counts_the_others() {
    let error = load("a = 1\nb = 2\n").expect_err("it is invalid");
    assert!(error.to_string().ends_with("(and 3 more)"), "{error}");
}

#[test]
fn nothing_can_make_the_loader_panic_at_any_cut() {
    for end in 0..EXAMPLE.len() {
        if let Some(text) = EXAMPLE.get(..end) {
            drop(load(text));
        }
    }
    drop(load(&format!("a = {}1{}", "[".repeat(5000), "]".repeat(5000))));
}

/// Every table of the schema: where it stands in a file, how it is opened, and its keys.
fn tables_of(schema: &Value) -> Vec<(String, BTreeSet<String>)> {
    let keys =
        |table: &Value| table["properties"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let mut tables = vec![(String::new(), keys(schema))];
    for (key, value) in schema["properties"].as_object().unwrap() {
        if value["properties"].is_object() {
            tables.push((format!("[{key}]\n"), keys(value)));
        } else if value["items"]["properties"].is_object() {
            tables.push((format!("[[{key}]]\n"), keys(&value["items"])));
        }
    }
    tables.push((
        "[connection.upstream]\n".to_owned(),
        keys(&schema["properties"]["connection"]["items"]["properties"]["upstream"]),
    ));
    tables
}

#[test]
fn the_schema_has_every_key_the_loader_knows_and_no_other() {
    let schema = schema();
    let tables = tables_of(&schema);
    assert_eq!(tables.len(), 11, "{tables:?}");
    for (header, keys) in tables {
        let header = if header.contains("upstream") { format!("[[connection]]\n{header}") } else { header };
        let text = format!("{header}surely_unknown = 1\n");
        let found = found(&text);
        let message =
            found.iter().find(|found| found.message.contains("surely_unknown")).expect("it is unknown");
        let (_, listed) = message.message.split_once("(it has: ").expect("the keys are listed");
        let known: BTreeSet<String> =
            listed.trim_end_matches(')').split(", ").map(ToOwned::to_owned).collect();
        assert_eq!(known, keys, "{header}");
    }
}

#[test]
fn the_schema_describes_and_closes_every_table() {
    fn walk(schema: &Value, path: &str) {
        if let Some(properties) = schema["properties"].as_object() {
            assert_eq!(schema["additionalProperties"], Value::Bool(false), "{path}");
            for (key, value) in properties {
                let description = value["description"].as_str().unwrap_or_default();
                assert!(description.len() > 10, "{path}.{key} is not described");
                walk(value, &format!("{path}.{key}"));
                walk(&value["items"], &format!("{path}.{key}[]"));
            }
        }
    }
    let schema = schema();
    walk(&schema, "");
    assert_eq!(schema["required"], serde_json::json!(["version", "name"]));
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn words_of_shared_types_are_those_they_are_recorded_by() {
    fn same<T: Choice + serde::Serialize>() {
        for (word, value) in T::ALL {
            assert_eq!(serde_json::to_value(value).unwrap(), *word);
        }
    }
    same::<Effect>();
    same::<Method>();
    same::<Detector>();
    same::<crate::policy::rule::Protocol>();
}
